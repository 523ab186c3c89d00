package viewtest

import (
	"context"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/bytedance/sonic"

	"cartwright/domain/event"
	"cartwright/domain/order"
	"cartwright/infra/cputime"
	"cartwright/projections"
)

// BuyerOf names a buyer of Fill's orders.
func BuyerOf(i int) string { return fmt.Sprintf("buyer-%d", i) }

// SellerOf names a seller of Fill's orders.
func SellerOf(i int) string { return fmt.Sprintf("seller-%d", i) }

// benchmarkOrder makes the i-th order of a benchmark, one a second.
func benchmarkOrder(i, parties int) Life {
	return Life{
		Number: i, Buyer: BuyerOf(i % parties), Seller: SellerOf(i / parties % parties), Currency: "CNY",
		Titles: []string{fmt.Sprintf("夏季新款连衣裙 No %d", i%1000), "Cotton T-shirt, red"}, Price: 4900, Quantity: 1,
		Placed: noon.Add(time.Duration(i) * time.Second),
	}
}

// Fill puts so many orders, in batches of 500, of that many buyers and sellers.
func Fill(b *testing.B, views projections.Views[projections.Order], orders, parties int) {
	b.Helper()
	batch := make([]projections.Doc[projections.Order], 0, 500)
	for i := range orders {
		batch = append(batch, benchmarkOrder(i, parties).Become(states[i%len(states)]).Doc(b))
		if len(batch) == cap(batch) || i == orders-1 {
			put(b, views, batch...)
			batch = batch[:0]
		}
	}
}

// BenchmarkPut measures batches of 500 documents: orders that are placed, then
// each of them three times more, as an order is written when it is paid, shipped
// and completed.
func BenchmarkPut(b *testing.B, views projections.Views[projections.Order]) {
	b.Helper()
	const docs, parties = 500, 1000
	steps := []string{"", "paid", "shipped", "completed"}
	b.ReportAllocs()
	n, spent := 0, time.Duration(0)
	for b.Loop() {
		b.StopTimer()
		batch := make([]projections.Doc[projections.Order], docs)
		for i := range batch {
			batch[i] = benchmarkOrder(n/len(steps)*docs+i, parties).Become(steps[n%len(steps)]).Doc(b)
		}
		n++
		b.StartTimer()
		begun := cputime.Used(b)
		put(b, views, batch...)
		spent += cputime.Used(b) - begun
	}
	b.ReportMetric(float64(docs*n)/b.Elapsed().Seconds(), "docs/s")
	b.ReportMetric(float64(spent.Microseconds())/float64(docs*n), "cpu-µs/doc")
}

// BenchmarkBuild measures building a generation as a replay does: batches of
// 2000 documents of orders that are long completed, each put once, then the
// switch to it. Orders come one a minute, to a thousand sellers in turn that has
// no pattern.
func BenchmarkBuild(b *testing.B, generations projections.Generations[projections.Order], docs int) {
	b.Helper()
	b.ReportAllocs()
	n, spent := 0, time.Duration(0)
	step := func(f func() error) {
		b.StartTimer()
		begun := cputime.Used(b)
		if err := f(); err != nil {
			b.Fatal(err)
		}
		spent += cputime.Used(b) - begun
		b.StopTimer()
	}
	for b.Loop() {
		b.StopTimer()
		var g projections.Generation[projections.Order]
		step(func() (err error) {
			g, err = generations.Build(b.Context())
			return err
		})
		for from := 0; from < docs; from += 2000 {
			batch := make([]projections.Doc[projections.Order], min(2000, docs-from))
			for i := range batch {
				batch[i] = replayed(from + i).Doc(b)
			}
			step(func() error { return g.Put(b.Context(), batch) })
		}
		step(func() error { return generations.Switch(b.Context(), g.Number(), 1) })
		if got, err := g.Count(b.Context()); err != nil || got != int64(docs) {
			b.Fatalf("%d documents, %v", got, err)
		}
		n += docs
		b.StartTimer()
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "docs/s")
	b.ReportMetric(float64(spent.Microseconds())/float64(n), "cpu-µs/doc")
}

func replayed(i int) Life {
	l := benchmarkOrder(i, 1)
	l.Buyer, l.Seller = BuyerOf(i*7919%50_000), SellerOf(i*104_729%1000)
	l.Placed = noon.Add(time.Duration(i) * time.Minute)
	return l.Become("completed")
}

// BenchmarkProject measures a projector on batches of 500 events as they come
// off the bus: orders that are placed, paid, packed and shipped, each kind of
// event a batch of its own.
func BenchmarkProject(b *testing.B, views projections.Generation[projections.Order]) {
	b.Helper()
	events, err := event.NewRegistry(order.Types()...)
	if err != nil {
		b.Fatal(err)
	}
	events.Unmarshal = sonic.ConfigStd.Unmarshal // as the program reads them
	p := &projections.Projector[projections.Order]{
		View: projections.OrdersView(), Events: events, Log: noLog{}, Views: views, Parking: views, Keep: 20_000,
	}
	b.ReportAllocs()
	n, spent := 0, time.Duration(0)
	var pending [][]event.Recorded
	for b.Loop() {
		if len(pending) == 0 {
			b.StopTimer()
			pending = histories(b, events, n)
			b.StartTimer()
		}
		begun := cputime.Used(b)
		batch := make([]projections.Decoded, len(pending[0]))
		for i, r := range pending[0] {
			batch[i] = projections.Decode(events, r)
		}
		if err := p.Apply(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
		spent += cputime.Used(b) - begun
		pending = pending[1:]
		n += len(batch)
	}
	if s := p.Stats(); s.Healed+s.Parked+s.Skipped > 0 {
		b.Fatalf("%+v", s)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(spent.Microseconds())/float64(n), "cpu-µs/event")
}

// histories are the first events of 500 orders, by revision.
func histories(b *testing.B, events *event.Registry, from int) [][]event.Recorded {
	b.Helper()
	const orders, steps = 500, 4
	batches := make([][]event.Recorded, steps)
	for i := range orders {
		l := benchmarkOrder(from*steps+i, 1000).Become("shipped")
		state := order.Order{}
		var at event.Revision
		for _, c := range append([]order.Command{l.place(b)}, l.Steps...) {
			decided, err := order.Decider.Decide(state, c)
			if err != nil {
				b.Fatal(err)
			}
			for _, e := range decided {
				if state, err = order.Decider.Evolve(state, e); err != nil {
					b.Fatal(err)
				}
				r, err := events.Encode(e)
				if err != nil {
					b.Fatal(err)
				}
				if at++; int(at) <= steps {
					r.Stream, r.Revision, r.At = "order-"+l.ID(b), at, l.Placed
					batches[at-1] = append(batches[at-1], r)
				}
			}
		}
	}
	return batches
}

// noLog has nothing: no gap is to be healed here.
type noLog struct{}

func (noLog) Load(context.Context, string, event.Revision) iter.Seq2[event.Recorded, error] {
	return func(func(event.Recorded, error) bool) {}
}
