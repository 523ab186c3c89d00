package viewtest

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/bytedance/sonic"

	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/infra/cputime"
	"cartwright/projections"
)

// BenchmarkCheckouts measures what checkouts cost the projectors that members
// makes: batches as the bus brings them every 20 ms at 4,000 checkouts a second,
// of about 80 new orders, whose ids are about in order, and of what they hold of a
// thousand SKUs. Buyers and sellers come as they like.
func BenchmarkCheckouts(b *testing.B, members func(*event.Registry) []projections.Member) {
	b.Helper()
	events, err := event.NewRegistry(append(order.Types(), inventory.Types()...)...)
	if err != nil {
		b.Fatal(err)
	}
	events.Unmarshal = sonic.ConfigStd.Unmarshal // as the program reads them

	s := &shop{events: events, held: map[int]event.Revision{}, random: rand.New(rand.NewPCG(1, 2))} //nolint:gosec // the same each time
	set := projections.NewSet(events, members(events)...)
	b.ReportAllocs()
	spent := time.Duration(0)
	for b.Loop() {
		b.StopTimer()
		batch := s.batch(b)
		b.StartTimer()
		begun := cputime.Used(b)
		if err := set.Handle(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
		spent += cputime.Used(b) - begun
	}
	b.ReportMetric(float64(spent.Nanoseconds())/1e3/float64(s.orders), "cpu-µs/order")
}

// A shop makes the events of checkouts.
type shop struct {
	events  *event.Registry
	random  *rand.Rand
	held    map[int]event.Revision // by SKU
	waiting []int                  // orders whose ids are given out
	given   int
	orders  int
}

const (
	checkoutsAtOnce = 80
	waitAtOnce      = 32
	parties         = 1000
)

func (s *shop) batch(b *testing.B) []event.Recorded {
	b.Helper()
	n := checkoutsAtOnce/2 + s.random.IntN(checkoutsAtOnce)
	for ; len(s.waiting) < n+waitAtOnce; s.given++ {
		s.waiting = append(s.waiting, s.given)
	}
	s.random.Shuffle(len(s.waiting), func(i, j int) { s.waiting[i], s.waiting[j] = s.waiting[j], s.waiting[i] })
	batch := make([]event.Recorded, 0, 2*n)
	for _, i := range s.waiting[:n] {
		l := benchmarkOrder(i, 1)
		l.Buyer, l.Seller = BuyerOf(s.random.IntN(parties)), SellerOf(s.random.IntN(parties))
		l.Placed = noon.Add(time.Duration(i) * 250 * time.Microsecond)
		placed, err := order.Decider.Decide(order.Order{}, l.place(b))
		if err != nil {
			b.Fatal(err)
		}
		batch = append(batch, s.record(b, "order-"+l.ID(b), 1, l.Placed, placed[0]))
		sku := s.random.IntN(parties)
		s.held[sku]++
		held := inventory.Held{Order: l.ID(b), Attempt: "attempt", Quantity: 1, Expires: l.Placed.Add(30 * time.Minute)}
		batch = append(batch, s.record(b, fmt.Sprintf("inventory-SKU-%d", sku), s.held[sku], l.Placed, held))
	}
	s.waiting = s.waiting[n:]
	s.orders += n
	return batch
}

func (s *shop) record(b *testing.B, stream string, at event.Revision, when time.Time, e any) event.Recorded {
	b.Helper()
	r, err := s.events.Encode(e)
	if err != nil {
		b.Fatal(err)
	}
	r.Stream, r.Revision, r.At = stream, at, when
	return r
}

// ProjectorOf is a projector that finds no gap to heal.
func ProjectorOf[V any](view projections.View[V], events *event.Registry, to projections.Generation[V]) *projections.Projector[V] {
	return &projections.Projector[V]{View: view, Events: events, Log: noLog{}, Views: to, Parking: to, Keep: 20_000}
}
