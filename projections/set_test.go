package projections_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cartwright/domain/event"
	"cartwright/domain/order"
	"cartwright/projections"
)

func TestASetFeedsEveryViewItsOwn(t *testing.T) {
	w := newWorld(t)
	stock, timers := newMemory[projections.Stock](), newMemory[projections.Timer]()
	set := projections.NewSet(w.events,
		projector(w, projections.StockView(), stock), projector(w, projections.DeadlinesView(), timers))
	w.received("a", 3)
	w.append("order-1", order.Abandoned{Attempt: "a"})
	w.append("other-1", event.Recorded{Name: "unknown", Data: []byte("{}")})
	handle(t, set, w.log()...)
	folds(w, projections.StockView(), stock)
	folds(w, projections.DeadlinesView(), timers)
	if got := set.Position(); got != 5 {
		t.Errorf("position %d, want 5", got)
	}
}

func TestOneFailingViewFailsTheBatchAndLeavesTheOthersDone(t *testing.T) {
	w := newWorld(t)
	stock, timers := newMemory[projections.Stock](), newMemory[projections.Timer]()
	set := projections.NewSet(w.events,
		projector(w, projections.StockView(), stock), projector(w, projections.DeadlinesView(), timers))
	broken := atomic.Bool{}
	broken.Store(true)
	stock.fail = func(string) error {
		if broken.Load() {
			return errBroken
		}
		return nil
	}
	history := w.received("a", 3)
	flushed := set.Flushed()
	if err := set.Handle(t.Context(), history); !errors.Is(err, errBroken) {
		t.Fatalf("handle: %v", err)
	}
	folds(w, projections.DeadlinesView(), timers)
	select {
	case <-flushed:
		t.Error("a failed batch was announced")
	default:
	}
	broken.Store(false)
	handle(t, set, history...)
	folds(w, projections.StockView(), stock)
	<-flushed
}

func TestACacheTakesABatchAfterAllOthersHaveIt(t *testing.T) {
	w := newWorld(t)
	index, cache := newMemory[projections.Stock](), newMemory[projections.Stock]()
	view, copied := projections.StockView(), projections.StockView()
	copied.Name = "copy"
	set := projections.NewSet(w.events, projector(w, view, index))
	set.JoinLate(projector(w, copied, cache))
	cache.taken = func(doc projections.Doc[projections.Stock]) {
		if at, err := index.Revisions(t.Context(), []string{doc.Stream}); err != nil || at[doc.Stream] < doc.Revision {
			t.Errorf("%s is cached at %d while the index is at %d, %v", doc.Stream, doc.Revision, at[doc.Stream], err)
		}
	}
	history := w.received("a", 3)
	handle(t, set, history[:1]...)

	// What the index does not take, the cache does not get.
	index.fail = func(op string) error { return errBroken }
	if err := set.Handle(t.Context(), history[1:]); !errors.Is(err, errBroken) {
		t.Errorf("handle: %v", err)
	}
	if at, _ := cache.Revisions(t.Context(), []string{"inventory-a"}); at["inventory-a"] != 1 {
		t.Errorf("the cache is at %d", at["inventory-a"])
	}
	index.fail = nil
	handle(t, set, history[1:]...)

	// A successor is as late as what it replaces.
	next := newMemory[projections.Stock]()
	next.taken = cache.taken
	if err := set.Swap(projector(w, copied, next), func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	handle(t, set, w.received("a", 4)...)
	folds(w, projections.StockView(), index)
	folds(w, projections.StockView(), next)
}

func TestAWaitingReaderIsWokenByTheFlush(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Stock]()
	set := projections.NewSet(w.events, projector(w, projections.StockView(), m))
	history := w.received("a", 3)
	var readers sync.WaitGroup
	for range 20 {
		readers.Go(func() {
			err := projections.Wait(t.Context(), m, map[string]event.Revision{"inventory-a": 3}, set.Flushed)
			if err != nil {
				t.Errorf("wait: %v", err)
			}
		})
	}
	handle(t, set, history[:2]...)
	handle(t, set, history[2:]...)
	readers.Wait()
}

func TestAReaderFindsOutWithoutASignalToo(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Stock]()
	set := projections.NewSet(w.events, projector(w, projections.StockView(), m))
	history := w.received("a", 3)
	done := make(chan error)
	go func() {
		done <- projections.Wait(t.Context(), m, map[string]event.Revision{"inventory-a": 3}, nil)
	}()
	handle(t, set, history...)
	if err := <-done; err != nil {
		t.Errorf("wait: %v", err)
	}
	if err := projections.Wait(t.Context(), m, nil, nil); err != nil {
		t.Errorf("wait for nothing: %v", err)
	}
}

func TestAReaderOfAParkedStreamIsToldAtOnce(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Stock]()
	set := projections.NewSet(w.events, projector(w, projections.StockView(), m))
	w.received("a", 2)
	w.append("inventory-a", garbage())
	handle(t, set, w.log()...)
	if err := projections.Wait(t.Context(), m, map[string]event.Revision{"inventory-a": 2}, set.Flushed); err != nil {
		t.Errorf("what came before is there: %v", err)
	}
	err := projections.Wait(t.Context(), m, map[string]event.Revision{"inventory-a": 3}, set.Flushed)
	if parked, ok := errors.AsType[*projections.ParkedError](err); !ok || parked.Stream != "inventory-a" || parked.Revision != 3 {
		t.Errorf("wait: %v", err)
	}
}

// A document that the engine refuses has no earlier revision in the view either.
func TestAReaderOfARefusedDocumentIsToldAtOnce(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Stock]()
	m.refuse = map[string]error{"inventory-a": errBroken}
	set := projections.NewSet(w.events, projector(w, projections.StockView(), m))
	handle(t, set, w.received("a", 5)...)
	err := projections.Wait(t.Context(), m, map[string]event.Revision{"inventory-a": 3}, set.Flushed)
	if parked, ok := errors.AsType[*projections.ParkedError](err); !ok || parked.Revision != 5 {
		t.Errorf("wait: %v", err)
	}
}

func TestAReaderWaitsNoLongerThanItsContext(t *testing.T) {
	m := newMemory[projections.Stock]()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := projections.Wait(ctx, m, map[string]event.Revision{"inventory-a": 1}, nil)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait: %v", err)
	}
}

func TestAReaderIsToldOfABrokenView(t *testing.T) {
	m := newMemory[projections.Stock]()
	m.fail = func(string) error { return errBroken }
	if err := projections.Wait(t.Context(), m, map[string]event.Revision{"inventory-a": 1}, nil); !errors.Is(err, errBroken) {
		t.Errorf("wait: %v", err)
	}
}

func TestAViewIsWaitedForOnlyWhereItCanGetThere(t *testing.T) {
	token := map[string]event.Revision{"order-1": 3, "inventory-a": 7}
	got := projections.StockView().Concerns(token)
	if len(got) != 1 || got["inventory-a"] != 7 {
		t.Errorf("got %v", got)
	}
}

func handle(tb testing.TB, set *projections.Set, batch ...event.Recorded) {
	tb.Helper()
	if err := set.Handle(tb.Context(), batch); err != nil {
		tb.Fatalf("handle: %v", err)
	}
}
