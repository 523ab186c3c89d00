package commands_test

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/personal"
	"cartwright/infra/faults"
	"cartwright/infra/keyring"
	"cartwright/infra/memstore"
)

// Elsewhere sold out is sold out for as long as this.
const foreseen = 50 * time.Millisecond

// ringOn is a ring that outlives a bubble of time.
func ringOn(tb testing.TB, s keyring.Store) *keyring.Ring {
	tb.Helper()
	ring, err := keyring.New(s, make([]byte, personal.KeySize))
	if err != nil {
		tb.Fatal(err)
	}
	return ring
}

// openWorld is a shop in the time of a bubble.
func openWorld(tb testing.TB, clock *atomic.Int64, s commands.Setup) *world {
	tb.Helper()
	s.Now = func() time.Time { return time.UnixMilli(clock.Add(1)) }
	shop, err := commands.Open(s)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(shop.Close)
	return &world{Shop: shop, tb: tb, store: s.Store, clock: clock}
}

// An asking store counts what is asked of a store.
type asking struct {
	faults.Store
	ring           *keyring.Ring
	reads, appends atomic.Int64
}

func countAsking(s commands.Store) *asking {
	c := new(asking)
	c.Store = faults.Store{
		Store:        s,
		BeforeLoad:   func(string) error { c.reads.Add(1); return nil },
		BeforeAppend: func(string) error { c.appends.Add(1); return nil },
	}
	return c
}

func (c *asking) sum() int64 { return c.reads.Load() + c.appends.Load() }

// buy has a buyer of its own come for one a.
func (w *world) buy() error {
	w.tb.Helper()
	who := "shopper-" + strconv.FormatInt(w.clock.Add(1), 10)
	id, _, err := w.DrawOrderID(w.ctx(), commands.Request{}, who)
	w.must(err)
	_, err = w.Checkout(w.ctx(), named("buy/"+string(id)),
		commands.Checkout{Order: id, Buyer: who, Items: []commands.Item{{SKU: "a", Quantity: 1}}, Address: home})
	return err
}

// short says whether somebody was told that there is not enough.
func short(tb testing.TB, err error) bool {
	tb.Helper()
	if err != nil && domain.ReasonOf(err) != "out_of_stock" {
		tb.Fatal(err)
	}
	return err != nil
}

// sellOut is a bubble with two processes, of which the first knows that nothing is left of a.
func sellOut(t *testing.T, story func(here, there *world, asked *asking)) {
	t.Helper()
	store := new(memstore.Store)
	asked := countAsking(store)
	asked.ring = ringOn(t, asked)
	synctest.Test(t, func(t *testing.T) {
		clock := newClock()
		here := openWorld(t, clock, commands.Setup{Store: asked, Sealer: asked.ring, Log: store})
		there := openWorld(t, clock, commands.Setup{Store: store, Sealer: asked.ring, Log: store})
		here.offer("a", "seller-1", 100)
		here.receive("a", 10)
		for range 10 {
			here.must(here.buy())
		}
		here.learn()
		story(here, there, asked)
	})
}

// more puts one more a on the shelf.
func (w *world) more() {
	w.tb.Helper()
	_, err := w.Inventory(w.ctx(), named("more/"+strconv.FormatInt(w.clock.Add(1), 10)), "a", receive(1))
	w.must(err)
}

// learn has a process find out that nothing is left of a.
func (w *world) learn() {
	w.tb.Helper()
	for range 3 {
		time.Sleep(within)
		if !short(w.tb, w.buy()) {
			w.tb.Fatal("there is something left")
		}
	}
}

// refusedOffHand has 2000 refused within half a second, for which the log may be
// read so many times, and nothing appended.
func refusedOffHand(here *world, asked *asking, most int64) {
	here.tb.Helper()
	reads, appends := asked.reads.Load(), asked.appends.Load()
	for range 100 {
		for range 20 {
			if !short(here.tb, here.buy()) {
				here.tb.Fatal("there is something left")
			}
		}
		time.Sleep(foreseen / 10)
	}
	if n := asked.reads.Load() - reads; n > most {
		here.tb.Errorf("the log was read %d times for 2000 who were refused within half a second", n)
	}
	if n := asked.appends.Load() - appends; n > 0 {
		here.tb.Errorf("there were %d appends", n)
	}
}

func TestWhatIsSoldOutIsRefusedWithHardlyALookAtTheLog(t *testing.T) {
	sellOut(t, func(here, _ *world, asked *asking) {
		refusedOffHand(here, asked, 50)
	})
}

func TestARefusalThatIsForeseenIsTheOneThatTheLaneWouldGive(t *testing.T) {
	sellOut(t, func(here, there *world, asked *asking) {
		t := here.tb
		for _, c := range []func(*commands.Checkout){
			func(*commands.Checkout) {},
			func(c *commands.Checkout) { c.Items[0].Quantity = 7 },
			func(c *commands.Checkout) { c.Items = append(c.Items, c.Items[0]) },
			func(c *commands.Checkout) { c.Order = "" },
			func(c *commands.Checkout) { c.Items[0].SKU = "zz" },
			func(c *commands.Checkout) {
				id, err := orderid.Make(time.UnixMilli(newClock().Load()).Add(-25*time.Hour), 1, buyer)
				here.must(err)
				c.Order = id
			},
		} {
			tell := func(w *world) *domain.Error {
				checkout := cart(here.id(), commands.Item{SKU: "a", Quantity: 1})
				c(&checkout)
				_, err := w.Checkout(w.ctx(), named(string(w.id())), checkout)
				e, ok := errors.AsType[*domain.Error](err)
				if !ok {
					t.Fatal(err)
				}
				return &domain.Error{Code: e.Code, Reason: e.Reason, Detail: e.Detail, Fields: e.Fields}
			}
			before := asked.sum()
			known := tell(here)
			if n := asked.sum() - before; known.Reason == "out_of_stock" && n > 0 {
				t.Errorf("the log was asked %d times", n)
			}
			time.Sleep(10 * time.Second) // there nothing is known any more
			if diff := cmp.Diff(tell(there), known); diff != "" {
				t.Errorf("-lane +foreseen\n%s", diff)
			}
			here.learn()
		}
	})
}

func TestWhatIsFreedIsSoldHereAtOnceAndElsewhereInTime(t *testing.T) {
	sellOut(t, func(here, there *world, _ *asking) {
		t := here.tb
		there.learn()
		for range 20 {
			here.more()
			here.must(here.buy())
			time.Sleep(foreseen)
			if !short(t, there.buy()) {
				t.Fatal("it was sold twice")
			}
			here.more()
			time.Sleep(foreseen)
			there.must(there.buy())
		}
	})
}

// TestNothingIsForeseenFromWhatIsPast has two processes change a stream at random
// times: what one of them foresees from has all that it did itself, and all that the
// other had done a twentieth of a second before.
func TestNothingIsForeseenFromWhatIsPast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(memstore.Store)
		late := countAsking(store)
		watched := func(s *stockSpec) { s.Watched = store }
		here, there := lanes(t, late, watched), lanes(t, store)
		late.AfterAppend = func(string) error { time.Sleep(time.Millisecond); return nil }
		var mine, known int
		var others []time.Time
		rng := rand.New(rand.NewPCG(3, 4))
		seen := 0
		for i := range 5000 {
			switch rng.IntN(20) {
			case 0:
				put(t, here, "a", strconv.Itoa(i))
				mine++
			case 1:
				put(t, there, "a", strconv.Itoa(i))
				others = append(others, time.Now())
			case 2:
				revisionOf(t, here, "a")
			}
			here.Watch("a")
			for known < len(others) && time.Since(others[known]) >= foreseen {
				known++
			}
			err := here.Foresee("a", func(s inventory.Stock) error {
				if seen++; s.OnHand < int64(mine+known) || s.OnHand > int64(mine+len(others)) {
					t.Fatalf("%d were there, %d here and %d of %d elsewhere are known to be", s.OnHand, mine, known, len(others))
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(rng.IntN(5)) * time.Millisecond)
		}
		if seen < 1000 {
			t.Errorf("only %d times anything was known", seen)
		}
	})
}

func TestARepeatIsAnsweredThoughItIsKnownThatNothingIsLeft(t *testing.T) {
	store := new(memstore.Store)
	ring := ringOn(t, store)
	one := commands.Item{SKU: "a", Quantity: 1}
	synctest.Test(t, func(t *testing.T) {
		clock := newClock()
		first := openWorld(t, clock, commands.Setup{Store: store, Sealer: ring})
		second := openWorld(t, clock, commands.Setup{Store: store, Sealer: ring, Log: store})
		first.offer("a", "seller-1", 100)
		first.receive("a", 3)
		first.fund(buyer, 1000)
		standing, cancelled, paid := first.id(), first.id(), first.id()
		for _, id := range []orderid.ID{standing, cancelled, paid} {
			_, err := first.Checkout(first.ctx(), named(string(id)), cart(id, one))
			first.must(err)
		}
		_, err := first.Cancel(first.ctx(), named("x"), cancelled, order.Cancel{Cancellation: order.Cancellation{Reason: order.ByBuyer, By: buyer}})
		first.must(err)
		first.must(first.Settle(first.ctx(), string(cancelled)))
		_, err = first.Pay(first.ctx(), named("p"), paid, nil)
		first.must(err)
		first.must(first.Settle(first.ctx(), string(paid)))
		first.must(first.buy())
		second.learn()
		for what, id := range map[string]orderid.ID{"stands": standing, "was cancelled": cancelled, "was paid": paid} {
			p, err := second.Checkout(second.ctx(), named(string(id)), cart(id, one))
			if err != nil || !p.Repeated || p.Orders[0].Order != string(id) {
				t.Errorf("the order that %s: %+v, %v", what, p, err)
			}
		}
	})
}

// TestWhatAnAttemptOfOnesOwnStillHoldsIsToBeHad has a process die between hold and order.
func TestWhatAnAttemptOfOnesOwnStillHoldsIsToBeHad(t *testing.T) {
	sellOut(t, func(here, there *world, asked *asking) {
		t := here.tb
		here.more()
		id := here.id()
		doomed := openWorld(t, here.clock, commands.Setup{Sealer: asked.ring, Store: faults.Store{Store: here.store, BeforeAppend: func(stream string) error {
			if event.Category(stream) == "order" {
				return event.ErrDenied
			}
			return nil
		}}})
		if _, err := doomed.Checkout(doomed.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 1})); err == nil {
			t.Fatal("it was placed")
		}
		there.learn()
		if _, err := there.Checkout(there.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 1})); err != nil {
			t.Error(err)
		}
	})
}

// A followedLog counts who follows it.
type followedLog struct {
	*memstore.Store
	by atomic.Int64
}

func (l *followedLog) Follow(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Notice, error] {
	return func(yield func(event.Notice, error) bool) {
		l.by.Add(1)
		defer l.by.Add(-1)
		l.Store.Follow(ctx, after, prefixes...)(yield)
	}
}

func TestWhatIsNotHeardIsSeenInTimeAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &deafLog{Store: new(memstore.Store)}
		here, there := lanes(t, log.Store, func(s *stockSpec) { s.Watched = log }), lanes(t, log.Store)
		know := func() (n int64) {
			here.Watch("a")
			err := here.Foresee("a", func(s inventory.Stock) error { n = s.OnHand; return nil })
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		know()
		put(t, here, "a", "1")
		if know() != 1 {
			t.Fatal("what was done here is not known")
		}
		log.deaf.Store(true)
		put(t, there, "a", "2")
		time.Sleep(foreseen)
		if n := know(); n != 2 {
			t.Errorf("%d are known of, and 2 were put", n)
		}
	})
}

func TestOnlySomeStreamsAreWatchedAndNoneForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &followedLog{Store: new(memstore.Store)}
		h := lanes(t, log.Store, func(s *stockSpec) { s.Watched = log })
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() { h.Watch(strconv.Itoa(i % 100)) })
		}
		wg.Wait()
		synctest.Wait()
		if n := log.by.Load(); n < 1 || n > 50 {
			t.Errorf("%d are watched", n)
		}
		time.Sleep(time.Minute)
		if n := log.by.Load(); n > 0 {
			t.Errorf("%d are watched though nobody wants to know", n)
		}
		h.Watch("again")
		synctest.Wait()
		if n := log.by.Load(); n != 1 {
			t.Errorf("%d are watched later", n)
		}
	})
}
