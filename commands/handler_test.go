package commands_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/infra/faults"
	"cartwright/infra/memstore"
)

type stockLanes = commands.Handler[inventory.Stock, inventory.Command, inventory.Event]

type stockSpec = commands.Spec[inventory.Stock, inventory.Command, inventory.Event]

func lanes(tb testing.TB, s commands.Store, change ...func(*stockSpec)) *stockLanes {
	tb.Helper()
	events, err := event.NewRegistry(inventory.Types()...)
	if err != nil {
		tb.Fatal(err)
	}
	spec := stockSpec{Store: s, Events: events, Decider: inventory.Decider, Category: "inventory"}
	for _, c := range change {
		c(&spec)
	}
	h, err := commands.NewHandler(spec)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(h.Close)
	return h
}

func named(cause string) commands.Request { return commands.Request{Cause: cause} }

func receive(n int64) inventory.Receive { return inventory.Receive{Quantity: n} }

// history is what the store says of the stream that the tests write to.
func history(tb testing.TB, s commands.Store) []event.Recorded {
	tb.Helper()
	var all []event.Recorded
	for r, err := range s.Load(context.WithoutCancel(tb.Context()), "inventory-a", 0) {
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// gate holds appends back until it is opened, and counts them.
type gate struct {
	commands.Store
	open    chan struct{}
	appends atomic.Int64
}

func (g *gate) Append(ctx context.Context, stream string, after event.Revision, es []event.Recorded) error {
	g.appends.Add(1)
	<-g.open
	return g.Store.Append(ctx, stream, after, es)
}

func TestCommandsOfOneStreamShareAnAppend(t *testing.T) {
	g := &gate{Store: new(memstore.Store), open: make(chan struct{})}
	h := lanes(t, g)
	var wg sync.WaitGroup
	send := func(i int) {
		wg.Go(func() {
			if _, err := h.Handle(t.Context(), "a", named(strconv.Itoa(i)), receive(1)); err != nil {
				t.Error(err)
			}
		})
	}
	send(0)
	for g.appends.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	for i := range 100 {
		send(i + 1)
	}
	time.Sleep(20 * time.Millisecond) // they may queue up; fewer in the queue only makes more appends
	close(g.open)
	wg.Wait()
	if n := len(history(t, g)); n != 101 {
		t.Fatalf("%d events", n)
	}
	if n := g.appends.Load(); n > 5 {
		t.Fatalf("%d appends for 101 commands", n)
	}
}

func TestOneRefusedCommandDoesNotSpoilItsNeighbours(t *testing.T) {
	g := &gate{Store: new(memstore.Store), open: make(chan struct{})}
	h := lanes(t, g)
	var wg sync.WaitGroup
	var refused atomic.Int64
	for i := range 50 {
		wg.Go(func() {
			n := int64(1)
			if i%5 == 1 {
				n = -1
			}
			_, err := h.Handle(t.Context(), "a", named(strconv.Itoa(i)), receive(n))
			switch {
			case n > 0 && err != nil:
				t.Error(err)
			case n < 0 && domain.CodeOf(err) != domain.Invalid:
				t.Errorf("got %v", err)
			case n < 0:
				refused.Add(1)
			}
		})
	}
	close(g.open)
	wg.Wait()
	if refused.Load() != 10 || len(history(t, g)) != 40 {
		t.Fatalf("%d refused, %d stored", refused.Load(), len(history(t, g)))
	}
}

func TestARefusalIsNeverDecidedOnStaleState(t *testing.T) {
	store := new(memstore.Store)
	here, there := lanes(t, store), lanes(t, store)
	ctx := t.Context()
	count := inventory.Adjust{OnHand: -5, Reason: "broken"}
	if _, err := here.Handle(ctx, "a", named("1"), receive(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := here.Handle(ctx, "a", named("2"), count); err == nil {
		t.Fatal("more went than there was")
	}
	if _, err := there.Handle(ctx, "a", named("3"), receive(9)); err != nil {
		t.Fatal(err)
	}
	done, err := here.Handle(ctx, "a", named("4"), count)
	if err != nil || done.Revision != 3 {
		t.Fatalf("decided on what was: %+v, %v", done, err)
	}
	var seen event.Revision
	if _, err := there.Handle(ctx, "a", named("5"), receive(1)); err != nil {
		t.Fatal(err)
	}
	if err := here.Look(ctx, "a", func(_ inventory.Stock, at event.Revision) { seen = at }); err != nil || seen != 4 {
		t.Fatalf("looked at revision %d, %v", seen, err)
	}
}

// Under the race detector.
func TestWhoeverStopsWaitingReadsNothingThatComesLate(t *testing.T) {
	store := new(memstore.Store)
	if _, err := lanes(t, store).Handle(t.Context(), "a", named("1"), receive(1)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	h := lanes(t, faults.Store{Store: store, BeforeLoad: func(string) error {
		cancel()
		time.Sleep(20 * time.Millisecond) // the read is late: anything that waited for the caller would hide a race
		return nil
	}})
	state, at, err := h.State(ctx, "a")
	if err == nil || at != 0 || state.OnHand != 0 {
		t.Errorf("%v: %+v at %d", err, state, at)
	}
	h.Close()
}

func TestAnAppendOfUnknownOutcomeIsSentAgain(t *testing.T) {
	store := new(memstore.Store)
	lost := 3
	h := lanes(t, faults.Store{Store: store, AfterAppend: func(string) error {
		if lost--; lost >= 0 {
			return faults.ErrInjected
		}
		return nil
	}})
	done, err := h.Handle(t.Context(), "a", named("1"), receive(7))
	if err != nil || done.Revision != 1 {
		t.Fatalf("got %+v, %v", done, err)
	}
	if n := len(history(t, store)); n != 1 {
		t.Fatalf("stored %d times", n)
	}
}

// TestADeniedAppendIsGivenUp has a store that lets nobody write, and one that
// stops to after an append whose outcome is not known.
func TestADeniedAppendIsGivenUp(t *testing.T) {
	store := new(memstore.Store)
	var asked int
	denied := true
	h := lanes(t, faults.Store{Store: store, BeforeAppend: func(string) error {
		if asked++; denied {
			return fmt.Errorf("no such user: %w", event.ErrDenied)
		}
		return nil
	}})
	_, err := h.Handle(t.Context(), "a", named("1"), receive(7))
	if domain.CodeOf(err) != domain.Unavailable || domain.ReasonOf(err) != "log_unavailable" || !errors.Is(err, event.ErrDenied) || asked != 1 {
		t.Fatalf("asked %d times: %v", asked, err)
	}
	denied = false
	if done, err := h.Handle(t.Context(), "a", named("2"), receive(7)); err != nil || done.Revision != 1 {
		t.Fatalf("once it may: %+v, %v", done, err)
	}
}

func TestADeniedRepeatDoesNotSayThatNothingWasDone(t *testing.T) {
	store := new(memstore.Store)
	asked, denied := 0, true
	h := lanes(t, faults.Store{
		Store: store,
		BeforeAppend: func(string) error {
			if asked++; denied && asked > 1 {
				return event.ErrDenied
			}
			return nil
		},
		AfterAppend: func(string) error {
			if denied {
				return faults.ErrInjected
			}
			return nil
		},
	})
	_, err := h.Handle(t.Context(), "a", named("1"), receive(7))
	if err == nil || domain.CodeOf(err) != "" || !errors.Is(err, event.ErrDenied) || asked != 2 {
		t.Fatalf("asked %d times: %v", asked, err)
	}
	denied = false
	done, err := h.Handle(t.Context(), "a", named("1"), receive(7))
	if err != nil || !done.Repeated || done.Revision != 1 {
		t.Fatalf("a repeat once it may: %+v, %v", done, err)
	}
	if n := len(history(t, store)); n != 1 {
		t.Fatalf("stored %d times", n)
	}
}

func TestADeniedReadSaysWhenToComeAgain(t *testing.T) {
	h := lanes(t, faults.Store{Store: new(memstore.Store), BeforeLoad: func(string) error { return event.ErrDenied }})
	_, err := h.Handle(t.Context(), "a", named("1"), receive(7))
	if e, ok := errors.AsType[*domain.Error](err); !ok || e.Reason != "log_unavailable" || e.RetryAfter < 10*time.Second {
		t.Fatalf("got %v", err)
	}
}

func TestARepeatedCommandIsAnsweredAgain(t *testing.T) {
	store := new(memstore.Store)
	ask := commands.Request{Cause: "c1", Digest: "d"}
	h := lanes(t, store)
	first, err := h.Handle(t.Context(), "a", ask, receive(7))
	if err != nil || first.Repeated {
		t.Fatalf("got %+v, %v", first, err)
	}
	if _, err := h.Handle(t.Context(), "a", named("other"), receive(1)); err != nil {
		t.Fatal(err)
	}
	for name, h := range map[string]*stockLanes{"the same process": h, "another process": lanes(t, store)} {
		again, err := h.Handle(t.Context(), "a", ask, receive(7))
		if err != nil || !again.Repeated || again.Revision != first.Revision || len(again.Events) != 1 || again.Events[0] != first.Events[0] {
			t.Errorf("%s: got %+v, %v; want %+v", name, again, err, first)
		}
		_, err = h.Handle(t.Context(), "a", commands.Request{Cause: "c1", Digest: "another"}, receive(8))
		if domain.ReasonOf(err) != "idempotency_key_reused" || domain.CodeOf(err) != domain.Rejected {
			t.Errorf("%s: another body: %v", name, err)
		}
	}
	if n := len(history(t, store)); n != 2 {
		t.Fatalf("%d events", n)
	}
}

func TestARepeatThatWouldBeDecidedOtherwiseIsAnsweredFromTheStream(t *testing.T) {
	store := new(memstore.Store)
	if _, err := lanes(t, store).Create(t.Context(), "a", named("1"), receive(5)); err != nil {
		t.Fatal(err)
	}
	// The same command in a process that takes the stream for new, and that came to another result.
	done, err := lanes(t, store).Create(t.Context(), "a", named("1"), receive(6))
	if err != nil || !done.Repeated || len(done.Events) != 1 || done.Events[0] != (inventory.Received{Quantity: 5}) {
		t.Fatalf("got %+v, %v", done, err)
	}
}

// TestTheIDOfAnEventIsForEver computes it as it always was: an append that an older
// program has sent is sent again by this one.
func TestTheIDOfAnEventIsForEver(t *testing.T) {
	store := new(memstore.Store)
	if _, err := lanes(t, store).Create(t.Context(), "a", named("1"), receive(5)); err != nil {
		t.Fatal(err)
	}
	namespace := uuid.MustParse("6f0f6b9e-4e4d-4b8f-9d0a-6d1a3c7be001")
	for i, r := range history(t, store) {
		want := uuid.NewSHA1(namespace, fmt.Appendf(nil, "%s\x00%s\x00%d\x00%s", "inventory-a", "1", i, r.Data)).String()
		if r.ID != want {
			t.Errorf("event %d has the id %s, not %s", i, r.ID, want)
		}
	}
}

func TestRecallTellsWhatWasDoneAndWhatWasNot(t *testing.T) {
	h := lanes(t, new(memstore.Store))
	if _, found, err := h.Recall(t.Context(), "a", named("1")); found || err != nil {
		t.Fatalf("found %t, %v", found, err)
	}
	if _, err := h.Handle(t.Context(), "a", named("1"), receive(7)); err != nil {
		t.Fatal(err)
	}
	done, found, err := h.Recall(t.Context(), "a", named("1"))
	if !found || err != nil || done.Revision != 1 {
		t.Fatalf("found %t, %+v, %v", found, done, err)
	}
}

func TestACommandNeedsACause(t *testing.T) {
	h := lanes(t, new(memstore.Store))
	if _, err := h.Handle(t.Context(), "a", commands.Request{}, receive(1)); domain.ReasonOf(err) != "no_cause" {
		t.Fatalf("got %v", err)
	}
}

func TestACreateThatIsWrongReadsTheStream(t *testing.T) {
	store := new(memstore.Store)
	if _, err := lanes(t, store).Handle(t.Context(), "a", named("1"), receive(5)); err != nil {
		t.Fatal(err)
	}
	done, err := lanes(t, store).Create(t.Context(), "a", named("2"), receive(6))
	if err != nil || done.Revision != 2 {
		t.Fatalf("got %+v, %v", done, err)
	}
	again, err := lanes(t, store).Create(t.Context(), "a", named("2"), receive(6))
	if err != nil || again.Revision != 2 || !again.Repeated {
		t.Fatalf("again: %+v, %v", again, err)
	}
}

func TestIfMatch(t *testing.T) {
	h := lanes(t, new(memstore.Store))
	at := func(cause string, rev event.Revision) commands.Request {
		return commands.Request{Cause: cause, IfMatch: &rev}
	}
	if _, err := h.Handle(t.Context(), "a", at("1", 0), receive(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Handle(t.Context(), "a", at("2", 0), receive(1)); domain.CodeOf(err) != domain.Stale {
		t.Fatalf("a version that is gone: %v", err)
	}
	if _, err := h.Handle(t.Context(), "a", at("3", 1), receive(1)); err != nil {
		t.Fatal(err)
	}
	if done, err := h.Handle(t.Context(), "a", at("1", 0), receive(1)); err != nil || !done.Repeated {
		t.Fatalf("a repeat is answered whatever came after it: %+v, %v", done, err)
	}
}

func TestTooManyForOneStreamAreTurnedAwayAtOnce(t *testing.T) {
	g := &gate{Store: new(memstore.Store), open: make(chan struct{})}
	h := lanes(t, g, func(s *stockSpec) { s.Queue = 3 })
	var wg sync.WaitGroup
	var busy atomic.Int64
	for i := range 20 {
		wg.Go(func() {
			if _, err := h.Handle(t.Context(), "a", named(strconv.Itoa(i)), receive(1)); domain.ReasonOf(err) == "busy" {
				busy.Add(1)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	for busy.Load() < 10 {
		time.Sleep(time.Millisecond)
	}
	close(g.open)
	wg.Wait()
	if n := int64(len(history(t, g))); n+busy.Load() != 20 {
		t.Fatalf("%d stored, %d turned away", n, busy.Load())
	}
}

func TestACallerThatLeavesIsNotWaitedFor(t *testing.T) {
	g := &gate{Store: new(memstore.Store), open: make(chan struct{})}
	h := lanes(t, g)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := h.Handle(ctx, "a", named("1"), receive(1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	close(g.open)
	done, err := h.Handle(t.Context(), "a", named("1"), receive(1))
	if err != nil || done.Revision != 1 {
		t.Fatalf("asked again: %+v, %v", done, err)
	}
}

func TestACorruptHistoryIsReportedWithItsPlace(t *testing.T) {
	store := new(memstore.Store)
	h := lanes(t, store)
	if _, err := h.Handle(t.Context(), "a", named("1"), receive(1)); err != nil {
		t.Fatal(err)
	}
	bad := event.Recorded{ID: "6f0f6b9e-4e4d-4b8f-9d0a-6d1a3c7be002", Name: "inventory.committed", Version: 1, Data: []byte(`{"order":"0000000000000000000","quantity":1}`)}
	if err := store.Append(t.Context(), "inventory-a", 1, []event.Recorded{bad}); err != nil {
		t.Fatal(err)
	}
	_, err := lanes(t, store).Handle(t.Context(), "a", named("2"), receive(1))
	corrupt, ok := errors.AsType[*event.CorruptError](err)
	if !ok || corrupt.Stream != "inventory-a" || corrupt.Revision != 2 {
		t.Fatalf("got %v", err)
	}
	if _, err := lanes(t, store).Handle(t.Context(), "b", named("3"), receive(1)); err != nil {
		t.Fatalf("another stream: %v", err)
	}
}

func TestRivalProcessesLoseNothing(t *testing.T) {
	store := new(memstore.Store)
	var wg sync.WaitGroup
	for p := range 3 {
		h := lanes(t, store, func(s *stockSpec) { s.Attempts = 1000 })
		for i := range 100 {
			wg.Go(func() {
				if _, err := h.Handle(t.Context(), "a", named(fmt.Sprintf("%d/%d", p, i)), receive(1)); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	st, at, err := lanes(t, store).State(t.Context(), "a")
	if err != nil || at != 300 || st.OnHand != 300 {
		t.Fatalf("%d on hand at %d, %v", st.OnHand, at, err)
	}
}

// Whatever fails before or after it worked, a client that asks until it is
// answered finds its command done once.
func TestEveryCommandIsDoneOnceWhateverFails(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store := new(memstore.Store)
		var mu sync.Mutex
		plan := rapid.SliceOfN(rapid.IntRange(0, 3), 60, 60).Draw(t, "faults")
		flaky := func(string) error {
			mu.Lock()
			defer mu.Unlock()
			if len(plan) == 0 {
				return nil
			}
			n := plan[0]
			plan = plan[1:]
			if n == 0 {
				return faults.ErrInjected
			}
			return nil
		}
		events, err := event.NewRegistry(inventory.Types()...)
		if err != nil {
			t.Fatal(err)
		}
		h, err := commands.NewHandler(stockSpec{
			Store:  faults.Store{Store: store, BeforeLoad: flaky, BeforeAppend: flaky, AfterAppend: flaky},
			Events: events, Decider: inventory.Decider, Category: "inventory",
		})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		n := rapid.IntRange(1, 20).Draw(t, "commands")
		var wg sync.WaitGroup
		for i := range n {
			for range 2 { // two clients with the same request
				wg.Go(func() {
					for {
						if _, failed := h.Handle(context.Background(), "a", named(strconv.Itoa(i)), receive(1)); failed == nil {
							return
						}
					}
				})
			}
		}
		wg.Wait()
		st, _, err := h.State(context.Background(), "a")
		for err != nil {
			st, _, err = h.State(context.Background(), "a")
		}
		if st.OnHand != int64(n) {
			t.Fatalf("%d on hand, want %d", st.OnHand, n)
		}
	})
}

func BenchmarkHandle(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprintf("history=%d", n), func(b *testing.B) {
			h := lanes(b, new(memstore.Store))
			for i := range n {
				if _, err := h.Handle(b.Context(), "a", named(strconv.Itoa(i)), receive(1)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			i := n
			for b.Loop() {
				i++
				if _, err := h.Handle(b.Context(), "a", named(strconv.Itoa(i)), receive(1)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
