package esdbnode_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/go-cmp/cmp"

	"cartwright/infra/esdbnode"
)

// A heard is what a subscription says, in short: "event 3", "checkpoint 5",
// "caught up", "fell behind" or "dropped".
func heard(e *esdb.SubscriptionEvent) string {
	switch {
	case e.EventAppeared != nil:
		return fmt.Sprintf("event %d", e.EventAppeared.OriginalEvent().Position.Commit)
	case e.CheckPointReached != nil:
		return fmt.Sprintf("checkpoint %d", e.CheckPointReached.Commit)
	case e.CaughtUp != nil:
		return "caught up"
	case e.FellBehind != nil:
		return "fell behind"
	}
	return "dropped"
}

// listen takes what a subscription says up to and with the last word.
func listen(t *testing.T, sub *esdb.Subscription, last string) []string {
	t.Helper()
	var got []string
	for {
		e := sub.Recv()
		got = append(got, heard(e))
		if got[len(got)-1] == last {
			return got
		}
		if e.SubscriptionDropped != nil {
			t.Fatalf("dropped after %v: %v", got, e.SubscriptionDropped.Error)
		}
	}
}

func wantHeard(t *testing.T, sub *esdb.Subscription, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, listen(t, sub, want[len(want)-1])); diff != "" {
		t.Fatalf("-want +got:\n%s", diff)
	}
}

func subscribeAll(t *testing.T, client *esdb.Client, o esdb.SubscribeToAllOptions) *esdb.Subscription {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	sub, err := client.SubscribeToAll(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Close() })
	return sub
}

func subscribeTo(t *testing.T, client *esdb.Client, stream string, from esdb.StreamPosition) *esdb.Subscription {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	sub, err := client.SubscribeToStream(ctx, stream, esdb.SubscribeToStreamOptions{From: from})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Close() })
	return sub
}

func TestASubscriptionToAllIsExclusiveOfItsPosition(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "a", 3)
	fromStart := subscribeAll(t, client, esdb.SubscribeToAllOptions{From: esdb.Start{}})
	fromTwo := subscribeAll(t, client, esdb.SubscribeToAllOptions{From: esdb.Position{Commit: 2, Prepare: 2}})
	fromEnd := subscribeAll(t, client, esdb.SubscribeToAllOptions{From: esdb.End{}})
	wantHeard(t, fromStart, "event 1", "event 2", "event 3", "caught up")
	wantHeard(t, fromTwo, "event 3", "caught up")
	wantHeard(t, fromEnd, "caught up")
	write(t, client, "b", 2)
	for _, sub := range []*esdb.Subscription{fromStart, fromTwo, fromEnd} {
		wantHeard(t, sub, "event 4", "event 5")
	}
}

func TestASubscriptionToAStreamIsExclusiveOfItsRevision(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 3)
	write(t, client, "other", 1)
	fromStart := subscribeTo(t, client, "s", esdb.Start{})
	fromZero := subscribeTo(t, client, "s", esdb.Revision(0))
	fromEnd := subscribeTo(t, client, "s", esdb.End{})
	unborn := subscribeTo(t, client, "unborn", esdb.Start{})
	wantHeard(t, fromStart, "event 1", "event 2", "event 3", "caught up")
	wantHeard(t, fromZero, "event 2", "event 3", "caught up")
	wantHeard(t, fromEnd, "caught up")
	wantHeard(t, unborn, "caught up")
	write(t, client, "other", 2)  // 5, 6
	write(t, client, "s", 1)      // 7
	write(t, client, "unborn", 1) // 8
	for _, sub := range []*esdb.Subscription{fromStart, fromZero, fromEnd} {
		wantHeard(t, sub, "event 7")
	}
	wantHeard(t, unborn, "event 8")
	bury(t, client, "s")
	if got := heard(fromStart.Recv()); got != "dropped" {
		t.Errorf("after a tombstone: %s", got)
	}
}

func TestASubscriptionToAStreamShowsWhatReadsShow(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 3)
	var meta esdb.StreamMetadata
	meta.SetTruncateBefore(2)
	if _, err := client.SetStreamMetadata(t.Context(), "s", esdb.AppendToStreamOptions{}, meta); err != nil {
		t.Fatal(err)
	}
	wantHeard(t, subscribeTo(t, client, "s", esdb.Start{}), "event 3", "caught up")
	remove(t, client, "s")
	sub := subscribeTo(t, client, "s", esdb.Start{})
	wantHeard(t, sub, "caught up")
	write(t, client, "s", 1) // with an undeletion of its metadata before it
	wantHeard(t, sub, "event 7")
}

func TestFiltersChooseByTypeAndByStream(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	appendTo(t, client, "order-1", esdb.Any{}, fresh("placed", "paid", "shipped")...) // 1 2 3
	appendTo(t, client, "stock-1", esdb.Any{}, fresh("placed", "held")...)            // 4 5
	var meta esdb.StreamMetadata
	if _, err := client.SetStreamMetadata(t.Context(), "order-1", esdb.AppendToStreamOptions{}, meta); err != nil { // 6
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		filter *esdb.SubscriptionFilter
		want   []string
	}{
		"stream prefix": {&esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Prefixes: []string{"x", "stock-"}}, []string{"event 4", "event 5"}},
		"stream regex":  {&esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Regex: `^[^\$].*1$`}, []string{"event 1", "event 2", "event 3", "event 4", "event 5"}},
		"type prefix":   {&esdb.SubscriptionFilter{Type: esdb.EventFilterType, Prefixes: []string{"p"}}, []string{"event 1", "event 2", "event 4"}},
		"type regex":    {esdb.ExcludeSystemEventsFilter(), []string{"event 1", "event 2", "event 3", "event 4", "event 5"}},
		"nothing fits":  {&esdb.SubscriptionFilter{Type: esdb.EventFilterType, Prefixes: []string{"zzz"}}, nil},
	} {
		sub := subscribeAll(t, client, esdb.SubscribeToAllOptions{From: esdb.Start{}, Filter: c.filter})
		if diff := cmp.Diff(append(c.want, "checkpoint 6", "caught up"), listen(t, sub, "caught up")); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

func TestCheckpointsComeAtTheirInterval(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "other", 10)
	sub := subscribeAll(t, client, esdb.SubscribeToAllOptions{
		From: esdb.Start{}, MaxSearchWindow: 2, CheckpointInterval: 2,
		Filter: &esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Prefixes: []string{"order-"}},
	})
	wantHeard(t, sub, "checkpoint 4", "checkpoint 8", "checkpoint 10", "caught up")
	write(t, client, "order-1", 1)
	write(t, client, "other", 5)
	wantHeard(t, sub, "event 11", "checkpoint 14")
}

// TestASlowSubscriberFallsBehindAndCatchesUp lets one subscriber sleep while the
// log grows far beyond what memory keeps: appends go on at once, and it misses
// nothing and gets nothing twice when it wakes up.
func TestASlowSubscriberFallsBehindAndCatchesUp(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{TailEvents: 32}).uri)
	all := subscribeAll(t, client, esdb.SubscribeToAllOptions{From: esdb.Start{}})
	one := subscribeTo(t, client, "big", esdb.Start{})
	wantHeard(t, all, "caught up")
	wantHeard(t, one, "caught up")
	const appends, each = 60, 5
	for range appends { // far more than the windows of HTTP/2 take
		events := fresh(strings.Split(strings.Repeat("x ", each), " ")[:each]...)
		for i := range events {
			events[i].Data = []byte(`"` + strings.Repeat("x", 8<<10) + `"`)
		}
		began := time.Now()
		appendTo(t, client, "big", esdb.Any{}, events...)
		if took := time.Since(began); took > 5*time.Second {
			t.Fatalf("an append took %v", took)
		}
	}
	for _, sub := range []*esdb.Subscription{all, one} {
		behind, next := false, 1
		for next <= appends*each {
			switch said := heard(sub.Recv()); said {
			case fmt.Sprintf("event %d", next):
				next++
			case "fell behind":
				behind = true
			case "caught up":
			default:
				t.Fatalf("heard %q where event %d was next", said, next)
			}
		}
		if !behind {
			t.Error("it was not told that it fell behind")
		}
	}
	write(t, client, "big", 1)
	listen(t, all, fmt.Sprintf("event %d", appends*each+1))
	listen(t, one, fmt.Sprintf("event %d", appends*each+1))
}
