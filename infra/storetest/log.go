package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"cartwright/domain/event"
)

func logChecks() map[string]func(*testing.T, Store) {
	return map[string]func(*testing.T, Store){
		"the log has all streams in the order of their appends":             allInOrder,
		"the log may be read from a position and by prefix":                 allFiltered,
		"the head is where the log ends":                                    headIsTheEnd,
		"following gives history, then what is new, each once and in order": followDelivers,
		"following says when all that was there was seen":                   followCatchesUp,
		"following is filtered by prefix":                                   followFilters,
		"following goes on from a position":                                 followResumes,
		"following may stop early":                                          followStops,
		"following and reading end with their context":                      followEnds,
	}
}

func allInOrder(t *testing.T, s Store) {
	t.Helper()
	if got := collect(t, s.All(t.Context(), 0)); len(got) != 0 {
		t.Fatalf("an empty log gives %v", got)
	}
	var want []event.Recorded
	for i := range 10 {
		events := Events(2)
		mustAppend(t, s, fmt.Sprintf("order-%d", i%3), event.Revision(i/3*2), events...)
		want = append(want, events...)
	}
	got := collect(t, s.All(t.Context(), 0))
	wantIDs(t, "log", got, want)
	last := uint64(0)
	for _, e := range got {
		if e.Position <= last {
			t.Fatalf("position %d comes behind %d", e.Position, last)
		}
		last = e.Position
	}
}

func allFiltered(t *testing.T, s Store) {
	t.Helper()
	orders, stock := Events(3), Events(4)
	mustAppend(t, s, "order-1", 0, orders...)
	mustAppend(t, s, "inventory-a", 0, stock...)
	mustAppend(t, s, "account-b", 0, Events(1)...)
	if err := s.KeepNewest(t.Context(), "account-b", 5); err != nil { // leaves a system event in the log
		t.Fatal(err)
	}
	wantIDs(t, "orders", collect(t, s.All(t.Context(), 0, "order-")), orders)
	both := collect(t, s.All(t.Context(), 0, "inventory-", "order-"))
	wantIDs(t, "orders and stock", both, append(orders[:3:3], stock...))
	wantIDs(t, "behind the second", collect(t, s.All(t.Context(), both[1].Position, "inventory-", "order-")), append(orders[2:3:3], stock...))
	if got := collect(t, s.All(t.Context(), 0)); len(got) != 8 {
		t.Fatalf("without a prefix the log has %d events, want the 8 that are no system's", len(got))
	}
	if got := collect(t, s.All(t.Context(), both[6].Position, "order-")); len(got) != 0 {
		t.Fatalf("behind the last there are %d", len(got))
	}
}

func headIsTheEnd(t *testing.T, s Store) {
	t.Helper()
	if head, err := s.Head(t.Context()); err != nil || head != 0 {
		t.Fatalf("empty: %d, %v", head, err)
	}
	mustAppend(t, s, "order-1", 0, Events(3)...)
	all := collect(t, s.All(t.Context(), 0))
	if head, err := s.Head(t.Context()); err != nil || head != all[2].Position {
		t.Fatalf("%d, %v; the last event is at %d", head, err, all[2].Position)
	}
}

func followDelivers(t *testing.T, s Store) {
	t.Helper()
	const writers, appends, each = 8, 20, 3
	mustAppend(t, s, "history-1", 0, Events(100)...)
	ctx := limited(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	for w := range writers {
		wg.Go(func() {
			for i := range appends {
				if err := s.Append(ctx, fmt.Sprintf("live-%d", w), event.Revision(each*i), Events(each)); err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
			}
		})
	}
	next := map[string]event.Revision{}
	count, last := 0, uint64(0)
	for n, err := range s.Follow(ctx, 0) {
		if err != nil {
			t.Fatalf("after %d events: %v", count, err)
		}
		if n.Position < last {
			t.Fatalf("position goes back from %d to %d", last, n.Position)
		}
		last = n.Position
		if n.Event.Name == "" {
			continue
		}
		next[n.Event.Stream]++
		if n.Event.Revision != next[n.Event.Stream] || n.Event.Position != n.Position {
			t.Fatalf("%s revision %d at %d came where %d was next, at %d", n.Event.Stream, n.Event.Revision, n.Event.Position, next[n.Event.Stream], n.Position)
		}
		if count++; count == 100+writers*appends*each {
			break
		}
	}
}

func followCatchesUp(t *testing.T, s Store) {
	t.Helper()
	ctx := limited(t)
	appended, seen := 0, 0
	for n, err := range s.Follow(ctx, 0) {
		switch {
		case err != nil:
			t.Fatal(err)
		case n.Event.Name != "":
			seen++
			if seen == 10 {
				return
			}
		case n.CaughtUp && appended == 0: // on the empty log
			mustAppend(t, s, "order-1", 0, Events(5)...)
			mustAppend(t, s, "order-2", 0, Events(5)...)
			appended = 10
		}
	}
}

func followFilters(t *testing.T, s Store) {
	t.Helper()
	orders := Events(4)
	mustAppend(t, s, "order-1", 0, orders[:2]...)
	mustAppend(t, s, "inventory-1", 0, Events(300)...)
	var got []event.Recorded
	caughtUp := false
	for n, err := range s.Follow(limited(t), 0, "order-", "payment-") {
		if err != nil {
			t.Fatal(err)
		}
		if n.CaughtUp && !caughtUp {
			caughtUp = true
			wantIDs(t, "history", got, orders[:2])
			if head, failed := s.Head(t.Context()); failed != nil || n.Position != head {
				t.Fatalf("caught up at %d, the log ends at %d, %v", n.Position, head, failed)
			}
			mustAppend(t, s, "inventory-1", 300, Events(3)...)
			mustAppend(t, s, "order-1", 2, orders[2:]...)
		}
		if n.Event.Name != "" {
			got = append(got, n.Event)
		}
		if len(got) == 4 {
			break
		}
	}
	wantIDs(t, "orders", got, orders)
}

func followResumes(t *testing.T, s Store) {
	t.Helper()
	ctx := limited(t)
	events := Events(40)
	mustAppend(t, s, "order-1", 0, events...)
	var got []event.Recorded
	at := uint64(0)
	for len(got) < len(events) { // a few at a time, each time from where the last one stopped
		for n, err := range s.Follow(ctx, at) {
			if err != nil {
				t.Fatal(err)
			}
			at = n.Position
			if n.Event.Name != "" {
				got = append(got, n.Event)
				if len(got)%7 == 0 || len(got) == len(events) {
					break
				}
			}
		}
	}
	wantIDs(t, "all turns together", got, events)
}

func followStops(t *testing.T, s Store) {
	t.Helper()
	mustAppend(t, s, "order-1", 0, Events(1000)...)
	for n, err := range s.Follow(limited(t), 0) {
		if err != nil || n.Position == 0 {
			t.Fatalf("got %v, %v", n, err)
		}
		break
	}
	for e, err := range s.All(t.Context(), 0) {
		if err != nil || e.Revision != 1 {
			t.Fatalf("got %v, %v", e, err)
		}
		break
	}
}

func followEnds(t *testing.T, s Store) {
	t.Helper()
	mustAppend(t, s, "order-1", 0, Events(3)...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var ended time.Time
	var last error
	for n, err := range s.Follow(ctx, 0) {
		if last = err; err == nil && n.CaughtUp {
			ended = time.Now()
			cancel()
		}
	}
	if !errors.Is(last, context.Canceled) {
		t.Fatalf("follow ended with %v", last)
	}
	if took := time.Since(ended); took > 2*time.Second {
		t.Fatalf("it took %v to end", took)
	}
	last = nil
	for _, err := range s.All(ctx, 0) {
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Fatalf("all ended with %v", last)
	}
}
