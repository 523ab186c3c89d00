package redisviews_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"cartwright/domain/event"
	domainorder "cartwright/domain/order"
	"cartwright/infra/memstore"
	"cartwright/infra/redisviews"
	"cartwright/infra/viewtest"
	"cartwright/projections"
)

// A shop is a log of orders that are placed, paid, shipped and completed.
type shop struct {
	tb     testing.TB
	log    memstore.Store
	events *event.Registry
	orders []string // their streams
}

func newShop(tb testing.TB) *shop {
	tb.Helper()
	events, err := event.NewRegistry(domainorder.Types()...)
	if err != nil {
		tb.Fatal(err)
	}
	return &shop{tb: tb, events: events}
}

// sells sells so many orders to three buyers, a step of one after a step of
// another.
func (s *shop) sells(from, orders int) {
	s.tb.Helper()
	var lives [][]event.Recorded
	for n := range orders {
		lives = append(lives, s.history(from+n))
	}
	for len(lives) > 0 {
		i := rand.IntN(len(lives))
		r := lives[i][0]
		if err := s.log.Append(s.tb.Context(), r.Stream, r.Revision-1, []event.Recorded{r}); err != nil {
			s.tb.Fatal(err)
		}
		if r.Revision == 1 {
			s.orders = append(s.orders, r.Stream)
		}
		if lives[i] = lives[i][1:]; len(lives[i]) == 0 {
			lives = slices.Delete(lives, i, i+1)
		}
	}
}

func buyer(i int) string { return fmt.Sprintf("buyer-%d", i) }

func (s *shop) history(number int) []event.Recorded {
	s.tb.Helper()
	l := viewtest.Life{
		Number: number, Buyer: buyer(number % 3), Titles: []string{"shirt"}, Price: 100, Quantity: 2, Currency: "CNY",
		Placed: noon.Add(time.Duration(number) * time.Minute),
	}.Become("completed")
	id := l.ID(s.tb)
	place := domainorder.Place{
		Order: id, Checkout: id, Buyer: l.Buyer, Seller: "seller", Currency: "CNY", Address: []byte("sealed"), Attempt: "attempt",
		Lines: []domainorder.Line{{Line: 1, SKU: "SKU", Title: "shirt", Quantity: l.Quantity, UnitPrice: l.Price, Freight: 100}},
	}
	var state domainorder.Order
	var all []event.Recorded
	for _, c := range append([]domainorder.Command{place}, l.Steps...) {
		decided, err := domainorder.Decider.Decide(state, c)
		if err != nil {
			s.tb.Fatalf("%T: %v", c, err)
		}
		for _, e := range decided {
			r, fault := s.events.Encode(e)
			if state, err = domainorder.Decider.Evolve(state, e); err != nil || fault != nil {
				s.tb.Fatalf("%T: %v", e, errors.Join(err, fault))
			}
			r.Stream, r.Revision, r.ID, r.At = "order-"+id, event.Revision(len(all)+1), uuid.NewString(), l.Placed
			all = append(all, r)
		}
	}
	return all
}

func (s *shop) all() []event.Recorded {
	s.tb.Helper()
	var all []event.Recorded
	for r, err := range s.log.All(s.tb.Context(), 0) {
		if err != nil {
			s.tb.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// delivers brings events to a projector of a process, a few at a time.
func (s *shop) delivers(x *index, b *redisviews.Buyers, events []event.Recorded) {
	p := &projections.Projector[projections.Order]{
		View: projections.BuyersView(), Events: s.events, Log: &s.log, Views: both{x, b.Live()}, Parking: b.Live(), Keep: 5,
	}
	for some := range slices.Chunk(events, 7) {
		batch := make([]projections.Decoded, len(some))
		for i, r := range some {
			batch[i] = projections.Decode(s.events, r)
		}
		if err := p.Apply(s.tb.Context(), batch); err != nil {
			s.tb.Errorf("apply: %v", err)
			return
		}
	}
}

// satisfied expects every buyer to find all of his orders, newest first, each as
// its whole stream says.
func (s *shop) satisfied(b *redisviews.Buyers) {
	s.tb.Helper()
	want := map[string][]doc{}
	for _, stream := range s.orders {
		d, err := projections.Fold(s.tb.Context(), &s.log, s.events, projections.BuyersView(), stream)
		if err != nil {
			s.tb.Fatal(err)
		}
		want[d.Body.State.Buyer] = append(want[d.Body.State.Buyer], d)
	}
	for who, orders := range want {
		slices.SortFunc(orders, func(x, y doc) int { return y.Body.PlacedAt.Compare(x.Body.PlacedAt) })
		listed(s.tb, b, who, len(orders)+1, orders...)
		for _, d := range orders {
			at(s.tb, b, d.Stream, d.Revision)
		}
	}
}

// muddled is what a bus may make of events: some come twice, some late, some
// never. The last of each order comes, sooner or later.
func muddled(events []event.Recorded) []event.Recorded {
	last := map[string]event.Revision{}
	for _, r := range events {
		last[r.Stream] = r.Revision
	}
	var come []event.Recorded
	for _, r := range events {
		times := 1 + rand.IntN(3)
		if r.Revision < last[r.Stream] && rand.IntN(4) == 0 {
			times = 0
		}
		come = append(come, slices.Repeat([]event.Recorded{r}, times)...)
	}
	rand.Shuffle(len(come), func(i, j int) { come[i], come[j] = come[j], come[i] })
	return come
}

func TestBuyersFindTheirOrdersWhateverTheBusDoes(t *testing.T) {
	m, x, one, other := two(t)
	s := newShop(t)
	for round := range 3 {
		s.sells(round*20, 20)
		var writers sync.WaitGroup
		for _, b := range []*redisviews.Buyers{one, other} { // at once, and neither knows of the other
			writers.Go(func() { s.delivers(x, b, muddled(s.all())) })
		}
		writers.Wait()
		s.satisfied(one)
		s.satisfied(other)
		m.FlushAll()
	}
	s.satisfied(one)
	s.satisfied(other)
}

func TestWhateverKeyIsDeletedItsLossHealsByItself(t *testing.T) {
	m, x, one, other := two(t)
	s := newShop(t)
	s.sells(0, 9)
	s.delivers(x, one, s.all())
	s.satisfied(other)
	keys := m.Keys() // the lineage and the register among them
	for i, key := range keys {
		m.Del(key)
		s.satisfied(one)
		s.sells(100+i, 1)
		s.delivers(x, other, s.all())
		s.satisfied(one)
		s.satisfied(other)
	}
	eventually(t, "the cache answers again", func() bool {
		gets, lists := x.times("get"), x.times("orders")
		s.satisfied(one)
		return x.times("get") == gets && x.times("orders") == lists
	})
}

// A source that does something when so many events were read.
type interrupted struct {
	projections.Source
	after int
	do    func()
}

func (i interrupted) All(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Recorded, error] {
	return func(yield func(event.Recorded, error) bool) {
		n := 0
		for r, err := range i.Source.All(ctx, after, prefixes...) {
			if n++; n == i.after {
				i.do()
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

func (s *shop) rebuilds(b *redisviews.Buyers, from projections.Source) error {
	_, err := projections.Rebuild[projections.Order]{
		View: projections.BuyersView(), Events: s.events, Log: &s.log, Source: from, Generations: b, Batch: 10, Cache: true,
	}.Run(s.tb.Context())
	return err
}

func TestAFlushInTheMiddleOfARebuildEndsItAndNothingElse(t *testing.T) {
	m, x, one, other := two(t)
	s := newShop(t)
	s.sells(0, 30)
	s.delivers(x, one, s.all())
	for _, lose := range []func(){m.FlushAll, func() { evict(m, "lineage") }} {
		if err := s.rebuilds(one, interrupted{&s.log, len(s.all()) / 2, lose}); err == nil {
			t.Error("half of a generation was made live")
		}
		s.satisfied(one)
		s.satisfied(other)
		if err := s.rebuilds(one, &s.log); err != nil {
			t.Errorf("rebuild again: %v", err)
		}
		s.satisfied(one)
		s.satisfied(other)
	}
}

// A flush that comes as late as can be: all is built, and is to be made live. The
// generation that begins then has its number, as numbers are times.
func TestABuildThatWasForgottenIsNotMadeLive(t *testing.T) {
	m, x, one, other := two(t)
	first := order(t, "ann", 1, "")
	put(t, both{x, one.Live()}, first)
	next := build(t, one)
	put(t, next, first)
	eventually(t, "its number comes again", func() bool { return time.Now().Unix() >= int64(next.Number()) })
	m.FlushAll()
	at(t, other, first.Stream, first.Revision)
	if got := other.Live().Number(); got < next.Number() {
		t.Fatalf("generation %d began after %d", got, next.Number())
	}
	if err := one.Switch(t.Context(), next.Number(), 1); err == nil {
		t.Errorf("generation %d was made live", next.Number())
	}
	if err := one.Drop(t.Context(), next.Number()); err != nil {
		t.Errorf("drop: %v", err)
	}
	if err := next.Put(t.Context(), []doc{first}); err == nil {
		t.Error("it is still written to")
	}
	listed(t, one, "ann", 5, first)
}

// An index that moves an order to its archive should never lose sight of it; if
// it does, the cache does not take what it has for the newest.
func TestWhatTheIndexLosesSightOfIsNotTrusted(t *testing.T) {
	m, x, b := alone(t)
	old, newer := order(t, "ann", 1, ""), order(t, "ann", 1, "completed")
	put(t, both{x, b.Live()}, newer)
	x.take(newer.Stream)
	at(t, b, newer.Stream, newer.Revision) // it is no less there for that
	evict(m, newer.Stream)
	put(t, b.Live(), old) // by one who is late
	at(t, b, old.Stream, old.Revision)
	x.put(newer)
	at(t, b, newer.Stream, newer.Revision)
	listed(t, b, "ann", 5, newer)
}
