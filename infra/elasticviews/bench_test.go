//go:build integration

package elasticviews_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"cartwright/infra/viewtest"
	"cartwright/projections"
)

func BenchmarkPut(b *testing.B) {
	b.Run("batch=500", func(b *testing.B) { viewtest.BenchmarkPut(b, orders(b, opened(b)).Live()) })
}

// BenchmarkBuild puts finished orders into a generation that nobody reads, as a
// rebuild does.
func BenchmarkBuild(b *testing.B) {
	for _, size := range []int{500, 2000} {
		for _, workers := range []int{1, 2} {
			b.Run(fmt.Sprintf("batch=%d/workers=%d", size, workers), func(b *testing.B) { benchmarkBuild(b, size, workers) })
		}
	}
}

func benchmarkBuild(b *testing.B, size, workers int) {
	b.Helper()
	g, err := orders(b, opened(b)).Build(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		b.StopTimer()
		batches := make([][]orderDoc, workers)
		for w := range batches {
			for range size {
				batches[w] = append(batches[w], finished(b, n))
				n++
			}
		}
		b.StartTimer()
		var wg sync.WaitGroup
		for _, docs := range batches {
			wg.Go(func() {
				if err := g.Put(b.Context(), docs); err != nil {
					b.Errorf("put: %v", err)
				}
			})
		}
		wg.Wait()
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "docs/s")
}

// finished is the n-th of many completed orders.
func finished(tb testing.TB, n int) orderDoc {
	tb.Helper()
	return viewtest.Life{
		Number: n, Buyer: viewtest.BuyerOf(n % 1000), Seller: viewtest.SellerOf(n / 1000 % 1000), Currency: "CNY",
		Titles: []string{fmt.Sprintf("夏季新款连衣裙 No %d", n%1000), "Cotton T-shirt, red"}, Price: 4900, Quantity: 1,
		Placed: noon.Add(time.Duration(n) * time.Second),
	}.Become("completed").Doc(tb)
}

func BenchmarkProject(b *testing.B) {
	b.Run("batch=500", func(b *testing.B) { viewtest.BenchmarkProject(b, orders(b, opened(b)).Live()) })
}

func BenchmarkList(b *testing.B) {
	const filled, parties = 10_000, 100
	o := orders(b, opened(b))
	viewtest.Fill(b, o.Live(), filled, parties)
	for name, query := range map[string]func(i int) projections.OrderQuery{
		"buyer":  func(i int) projections.OrderQuery { return projections.OrderQuery{Buyer: viewtest.BuyerOf(i)} },
		"seller": func(i int) projections.OrderQuery { return projections.OrderQuery{Seller: viewtest.SellerOf(i)} },
		"text": func(i int) projections.OrderQuery {
			return projections.OrderQuery{Seller: viewtest.SellerOf(i), Text: "连衣裙"}
		},
	} {
		b.Run(fmt.Sprintf("orders=%d/by=%s", filled, name), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				q := query(i % parties)
				q.Limit = 20
				page, err := o.Orders(b.Context(), q)
				if err != nil || len(page.Items) != 20 {
					b.Fatalf("%d items, %v", len(page.Items), err)
				}
			}
		})
	}
}

// BenchmarkSummary sums the orders of one seller who has them all.
func BenchmarkSummary(b *testing.B) {
	const filled = 10_000
	o := orders(b, opened(b))
	viewtest.Fill(b, o.Live(), filled, 1)
	for _, interval := range []string{"", "day"} {
		b.Run(fmt.Sprintf("orders=%d/interval=%s", filled, interval), func(b *testing.B) {
			for b.Loop() {
				s, err := o.Summary(b.Context(), projections.SummaryQuery{Seller: viewtest.SellerOf(0), Interval: interval})
				if err != nil || s.ByCurrency["CNY"].Orders != filled {
					b.Fatalf("%+v, %v", s, err)
				}
			}
		})
	}
}
