package commands_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/infra/faults"
	"cartwright/infra/memstore"
)

// A tardy store takes its time for appends to stock, by a clock that tests stand still for.
type tardy struct {
	*memstore.Store
	takes atomic.Int64
}

func (s *tardy) Append(ctx context.Context, stream string, after event.Revision, es []event.Recorded) error {
	if event.Category(stream) == "inventory" {
		time.Sleep(time.Duration(s.takes.Load()))
	}
	return s.Store.Append(ctx, stream, after, es)
}

func slowly(d time.Duration) *tardy {
	s := &tardy{Store: new(memstore.Store)}
	s.takes.Store(int64(d))
	return s
}

// retryAfter is when a caller who was turned away is told to come again.
func retryAfter(tb testing.TB, err error) time.Duration {
	tb.Helper()
	e, ok := err.(*domain.Error) //nolint:errorlint // as it is, or it would not be told so
	if !ok || e.Code != domain.Unavailable || e.Reason != "busy" {
		tb.Fatalf("not turned away but %v", err)
	}
	return e.RetryAfter
}

// TestNobodyWaitsLongForARefusal has more come for one stream than it serves: whoever
// gets in is answered in about the time that a Spec allows, the others at once.
func TestNobodyWaitsLongForARefusal(t *testing.T) {
	const round, most = 200 * time.Millisecond, time.Second
	synctest.Test(t, func(t *testing.T) {
		h := lanes(t, slowly(round), func(s *stockSpec) { s.Batch, s.Wait = 10, most })
		var wg sync.WaitGroup
		var served, refused atomic.Int64
		var longest atomic.Int64
		for i := range 2000 {
			wg.Go(func() {
				began := time.Now()
				_, err := h.Handle(t.Context(), "a", named(strconv.Itoa(i)), receive(1))
				took := time.Since(began)
				switch {
				case err == nil:
					served.Add(1)
					longest.Store(max(longest.Load(), int64(took))) // one at a time, by this clock
				case took > 0:
					t.Errorf("a refusal took %v", took)
				default:
					refused.Add(1)
					if again := retryAfter(t, err); again < time.Second || again > 2*time.Second {
						t.Errorf("come again after %v", again)
					}
				}
			})
			time.Sleep(5 * time.Millisecond) // 200 a second, and it serves 50
		}
		wg.Wait()
		if got := time.Duration(longest.Load()); got > most+2*round {
			t.Errorf("somebody waited %v", got)
		}
		if served.Load() < 450 || refused.Load() == 0 {
			t.Errorf("%d of 2000 in ten seconds were served, %d refused", served.Load(), refused.Load())
		}
	})
}

// TestALaneThatStandsStillTakesNobodyIn has an append that does not come back.
func TestALaneThatStandsStillTakesNobodyIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := slowly(9 * time.Second)
		h := lanes(t, store)
		var wg sync.WaitGroup
		send := func(i int) {
			wg.Go(func() {
				if _, err := h.Handle(t.Context(), "a", named(strconv.Itoa(i)), receive(1)); err != nil {
					t.Error(err)
				}
			})
		}
		send(0)
		time.Sleep(900 * time.Millisecond)
		send(1)
		for _, at := range []time.Duration{1100, 2900, 4100} {
			time.Sleep(time.Millisecond*at - 900*time.Millisecond)
			_, err := h.Handle(t.Context(), "a", named("late"), receive(1))
			if again := retryAfter(t, err); again < time.Second {
				t.Errorf("come again after %v", again)
			}
		}
		store.takes.Store(0)
		wg.Wait()
		if _, err := h.Handle(t.Context(), "a", named("late"), receive(1)); err != nil {
			t.Errorf("once it goes on: %v", err)
		}
	})
}

func TestABurstThatOneAppendHoldsIsTakenIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := lanes(t, slowly(100*time.Millisecond))
		for i := range 5 { // one at a time it does ten a second
			if _, err := h.Handle(t.Context(), "a", named("calm/"+strconv.Itoa(i)), receive(1)); err != nil {
				t.Fatal(err)
			}
		}
		var wg sync.WaitGroup
		began := time.Now()
		for i := range 600 {
			wg.Go(func() {
				if _, err := h.Handle(t.Context(), "a", named(strconv.Itoa(i)), receive(1)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestOneBuyerLeavesRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := lanes(t, slowly(time.Second/2), func(s *stockSpec) { s.Queue = 60 })
		var wg sync.WaitGroup
		served := map[string]*atomic.Int64{}
		send := func(party string, n int) {
			mine := new(atomic.Int64)
			served[party] = mine
			for i := range n {
				wg.Go(func() {
					r := named(fmt.Sprint(party, i))
					r.Party = party
					if _, err := h.Handle(t.Context(), "a", r, receive(1)); err == nil {
						mine.Add(1)
					} else if domain.ReasonOf(err) != "busy" {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
		}
		send("first", 1)
		send("greedy", 100)
		send("second", 100)
		for i := range 10 {
			send("modest"+strconv.Itoa(i), 1)
		}
		wg.Wait()
		for party, s := range served {
			want := int64(1)
			switch party {
			case "greedy":
				want = 30 // half of what there is room for
			case "second":
				want = 15 // half of the rest
			}
			if s.Load() != want {
				t.Errorf("%s was served %d times, want %d", party, s.Load(), want)
			}
		}
	})
}

// TestWhoOnlyLooksNeedNotWaitForNewcomers is about recalls too.
func TestWhoOnlyLooksNeedNotWaitForNewcomers(t *testing.T) {
	const round = 100 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		h := lanes(t, slowly(round), func(s *stockSpec) { s.Queue, s.Batch = 50, 10 })
		if _, err := h.Handle(t.Context(), "a", named("before"), receive(1)); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				if _, err := h.Handle(t.Context(), "a", named(strconv.Itoa(i)), receive(1)); err != nil {
					retryAfter(t, err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		wg.Go(func() {
			if _, found, err := h.Recall(t.Context(), "a", named("before")); err != nil || !found {
				t.Errorf("found %t, %v", found, err)
			}
			if took := time.Since(began); took > 2*round {
				t.Errorf("it took %v", took)
			}
		})
		wg.Go(func() {
			if _, _, err := h.State(t.Context(), "a"); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 2*round {
				t.Errorf("a look took %v", took)
			}
		})
		wg.Wait()
	})
}

// TestWhatFreesGoodsIsDoneThoughNobodyIsTakenIn fills the lane of a SKU: who comes
// for goods is turned away, and who gives some back is not.
func TestWhatFreesGoodsIsDoneThoughNobodyIsTakenIn(t *testing.T) {
	store := slowly(0)
	ring := ringOn(t, store)
	synctest.Test(t, func(t *testing.T) {
		w := openWorld(t, newClock(), commands.Setup{Store: store, Sealer: ring})
		w.offer("a", "seller-1", 100)
		w.receive("a", 10)
		one := commands.Item{SKU: "a", Quantity: 1}
		id := w.id()
		_, err := w.Checkout(w.ctx(), named("c"), cart(id, one))
		w.must(err)
		_, err = w.Cancel(w.ctx(), named("x"), id, order.Cancel{Cancellation: order.Cancellation{Reason: order.ByBuyer, By: buyer}})
		w.must(err)

		store.takes.Store(int64(4 * time.Second))
		var wg sync.WaitGroup
		wg.Go(func() {
			_, rerr := w.Inventory(w.ctx(), named("r"), "a", inventory.Receive{Quantity: 1, Reference: "r"})
			w.must(rerr)
		})
		time.Sleep(2 * time.Second)
		if _, err = w.Checkout(w.ctx(), named("d"), cart(w.id(), one)); domain.ReasonOf(err) != "busy" {
			t.Errorf("the lane takes somebody in: %v", err)
		}
		if err = w.Settle(w.ctx(), string(id)); err != nil {
			t.Errorf("what was cancelled is not released: %v", err)
		}
		wg.Wait()
		w.wantStock("a", 11, 0, 0)
	})
}

// TestNewcomersGetOnBesideThoseWhoGoFirst has more who only look than a round has
// room for, all there before the one who wants something new.
func TestNewcomersGetOnBesideThoseWhoGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looked, before atomic.Int64
		store := faults.Store{Store: slowly(100 * time.Millisecond), BeforeAppend: func(string) error {
			before.Store(looked.Load())
			return nil
		}}
		h := lanes(t, store, func(s *stockSpec) { s.Batch = 4 })
		var wg sync.WaitGroup
		want := func(cause string) {
			wg.Go(func() {
				if _, err := h.Handle(t.Context(), "a", named(cause), receive(1)); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		want("first") // its append is under way
		for range 40 {
			wg.Go(func() {
				if err := h.Look(t.Context(), "a", func(inventory.Stock, event.Revision) { looked.Add(1) }); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		want("new")
		wg.Wait()
		if n := before.Load(); n > 3 {
			t.Errorf("%d had looked before it was appended", n)
		}
	})
}
