package commands_test

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cartwright/commands"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/infra/faults"
	"cartwright/infra/memstore"
)

// within is how old a look may be where others are heard.
const within = 100 * time.Millisecond

// hearing are lanes that hear others, and count what they read.
func hearing(tb testing.TB, s *memstore.Store, log commands.Log) (h *stockLanes, reads *atomic.Int64) {
	tb.Helper()
	reads = new(atomic.Int64)
	h = lanes(tb, faults.Store{Store: s, BeforeLoad: func(string) error {
		reads.Add(1)
		return nil
	}}, func(spec *stockSpec) { spec.Log = log })
	return h, reads
}

func revisionOf(tb testing.TB, h *stockLanes, id string) (at event.Revision) {
	tb.Helper()
	if err := h.Look(context.WithoutCancel(tb.Context()), id, func(_ inventory.Stock, r event.Revision) { at = r }); err != nil {
		tb.Fatal(err)
	}
	return at
}

func put(tb testing.TB, h *stockLanes, id, cause string) event.Revision {
	tb.Helper()
	done, err := h.Handle(context.WithoutCancel(tb.Context()), id, named(cause), receive(1))
	if err != nil {
		tb.Fatal(err)
	}
	return done.Revision
}

func TestALookReadsNothingWhereOthersAreHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(memstore.Store)
		here, reads := hearing(t, store, store)
		there := lanes(t, store)
		put(t, there, "a", "1")
		revisionOf(t, here, "a") // somebody wants to know
		time.Sleep(within)
		revisionOf(t, here, "a")
		before := reads.Load()
		for range 50 {
			if at := revisionOf(t, here, "a"); at != 1 {
				t.Fatalf("revision %d", at)
			}
			time.Sleep(within / 4)
		}
		if n := reads.Load() - before; n > 0 {
			t.Errorf("%d reads for 50 looks", n)
		}
		put(t, there, "a", "2")
		time.Sleep(within)
		if at := revisionOf(t, here, "a"); at != 2 || reads.Load() != before+1 {
			t.Errorf("revision %d after what another has done, with %d reads", at, reads.Load()-before)
		}
		if at := put(t, here, "a", "3"); at != 3 || revisionOf(t, here, "a") != 3 {
			t.Errorf("what was done here is not seen here")
		}
	})
}

// TestWhatOthersChangeIsSeenInTime has two processes change and a third look at
// streams, at random times: no look shows less than what had been done a tenth of
// a second before it.
func TestWhatOthersChangeIsSeenInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(memstore.Store)
		here, reads := hearing(t, store, store)
		type change struct {
			at   time.Time
			done event.Revision
		}
		ids := []string{"a", "b", "c"}
		changes := map[string][]change{}
		others := []*stockLanes{lanes(t, store), here, lanes(t, store)}
		rng := rand.New(rand.NewPCG(1, 2))
		looks := 0
		for i := range 3000 {
			id := ids[rng.IntN(len(ids))]
			if rng.IntN(10) == 0 {
				done := put(t, others[rng.IntN(len(others))], id, string(rune(i)))
				changes[id] = append(changes[id], change{time.Now(), done})
			}
			began, at := time.Now(), revisionOf(t, here, id)
			looks++
			for _, c := range changes[id] {
				if began.Sub(c.at) >= within && at < c.done {
					t.Fatalf("look %d at %s shows revision %d, and %d was done %v before", i, id, at, c.done, began.Sub(c.at))
				}
			}
			time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
		}
		if n := reads.Load(); n > int64(looks)/2 {
			t.Errorf("%d reads for %d looks", n, looks)
		}
	})
}

// A deafLog says how far the log goes, and nothing of what is in it.
type deafLog struct {
	*memstore.Store
	deaf atomic.Bool
}

func (l *deafLog) Follow(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Notice, error] {
	return func(yield func(event.Notice, error) bool) {
		for n, err := range l.Store.Follow(ctx, after, prefixes...) {
			if l.deaf.Load() {
				<-ctx.Done()
				yield(event.Notice{}, ctx.Err())
				return
			}
			if !yield(n, err) {
				return
			}
		}
	}
}

// A terseLog tells who follows it of what he asked for, and nothing of how far it
// has looked.
type terseLog struct{ *memstore.Store }

func (l terseLog) Follow(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Notice, error] {
	return func(yield func(event.Notice, error) bool) {
		for n, err := range l.Store.Follow(ctx, after, prefixes...) {
			if (err != nil || n.Event.Name != "") && !yield(n, err) {
				return
			}
		}
	}
}

func (l *deafLog) All(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Recorded, error] {
	if l.deaf.Load() {
		return func(yield func(event.Recorded, error) bool) {
			yield(event.Recorded{}, errors.New("the connection broke"))
		}
	}
	return l.Store.All(ctx, after, prefixes...)
}

func TestALookReadsNothingInALogThatHasBecomeQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(memstore.Store)
		here, reads := hearing(t, store, terseLog{store})
		there := lanes(t, store)
		put(t, there, "a", "1")
		other := event.Recorded{ID: "6f0f6b9e-4e4d-4b8f-9d0a-000000000001", Name: "thing.happened", Version: 1, Data: []byte(`{}`)}
		if err := store.Append(t.Context(), "order-1", 0, []event.Recorded{other}); err != nil {
			t.Fatal(err)
		}
		revisionOf(t, here, "a")
		time.Sleep(within)
		revisionOf(t, here, "a")
		before := reads.Load()
		for range 50 {
			revisionOf(t, here, "a")
			time.Sleep(within / 4)
		}
		if n := reads.Load() - before; n > 0 {
			t.Errorf("%d reads for 50 looks", n)
		}
	})
}

func TestALookReadsWhenNothingIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &deafLog{Store: new(memstore.Store)}
		here, _ := hearing(t, log.Store, log)
		there := lanes(t, log.Store)
		put(t, there, "a", "1")
		revisionOf(t, here, "a")
		time.Sleep(within)
		revisionOf(t, here, "a")
		log.deaf.Store(true)
		put(t, there, "a", "2")
		time.Sleep(2 * within)
		if at := revisionOf(t, here, "a"); at != 2 {
			t.Errorf("revision %d", at)
		}
	})
}

// A brokenLog ends what follows it again and again.
type brokenLog struct{ *memstore.Store }

func (l brokenLog) Follow(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Notice, error] {
	return func(yield func(event.Notice, error) bool) {
		for n, err := range l.Store.Follow(ctx, after, prefixes...) {
			if !yield(n, err) || !yield(event.Notice{}, errors.New("the connection broke")) {
				return
			}
		}
	}
}

func TestWhatIsAppendedWhileNobodyFollowsIsHeardAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(memstore.Store)
		here, _ := hearing(t, store, brokenLog{store})
		there := lanes(t, store)
		for i := range 30 {
			done := put(t, there, "a", string(rune('a'+i)))
			for range 20 {
				time.Sleep(within)
				if at := revisionOf(t, here, "a"); at != done {
					t.Fatalf("revision %d of %d", at, done)
				}
			}
		}
	})
}

func TestWhatIsHeardWhileALookIsUnderWayIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(memstore.Store)
		here, _ := hearing(t, store, store)
		there := lanes(t, store)
		put(t, there, "a", "1")
		err := here.Look(t.Context(), "a", func(inventory.Stock, event.Revision) {
			put(t, there, "a", "2")
			time.Sleep(within)
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if at := revisionOf(t, here, "a"); at != 2 {
				t.Fatalf("revision %d", at)
			}
			time.Sleep(within / 2)
		}
	})
}

// A lateLog does not say where it ends until it is told to.
type lateLog struct {
	*memstore.Store
	ready atomic.Bool
}

func (l *lateLog) Head(ctx context.Context) (uint64, error) {
	if !l.ready.Load() {
		return 0, errors.New("not yet")
	}
	return l.Store.Head(ctx)
}

func TestWhatWasKnownBeforeAnythingWasHeardIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &lateLog{Store: new(memstore.Store)}
		here, _ := hearing(t, log.Store, log)
		there := lanes(t, log.Store)
		put(t, there, "a", "1")
		time.Sleep(990 * time.Millisecond)
		revisionOf(t, here, "a") // known from now on
		put(t, there, "a", "2")
		log.ready.Store(true)
		time.Sleep(within)
		for range 20 {
			if at := revisionOf(t, here, "a"); at != 2 {
				t.Fatalf("revision %d", at)
			}
			time.Sleep(within / 4)
		}
	})
}
