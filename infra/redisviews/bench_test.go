//go:build integration

package redisviews_test

import (
	"context"
	"testing"

	"cartwright/domain/event"
	"cartwright/infra/redisviews"
	"cartwright/infra/viewtest"
	"cartwright/projections"
)

// An idle index has every order as it was placed, in no list, and takes no time
// for it.
type idle struct{}

func (idle) Get(context.Context, []string) (docs, error) { return nil, nil }

func (idle) Revisions(_ context.Context, streams []string) (map[string]event.Revision, error) {
	revisions := make(map[string]event.Revision, len(streams))
	for _, stream := range streams {
		revisions[stream] = 1
	}
	return revisions, nil
}

func (idle) Parked(context.Context, []string) (map[string]projections.Parked, error) { return nil, nil }

func (idle) Orders(context.Context, projections.OrderQuery) (projections.OrderPage, error) {
	return projections.OrderPage{}, nil
}

// benchmarked is a view on the server that runs for all tests.
func benchmarked(b *testing.B) *redisviews.Buyers {
	b.Helper()
	return viewed(b, opened(b, ways(b)["plain"].emptied(b, b.TempDir())), redisviews.BuyersConfig{Index: idle{}})
}

func BenchmarkPut(b *testing.B) {
	b.Run("batch=500", func(b *testing.B) { viewtest.BenchmarkPut(b, benchmarked(b).Live()) })
}

func BenchmarkProject(b *testing.B) {
	b.Run("batch=500", func(b *testing.B) { viewtest.BenchmarkProject(b, benchmarked(b).Live()) })
}

const benchmarkBuyers = 100

func BenchmarkGet(b *testing.B) {
	b.Run("orders=10000", func(b *testing.B) {
		v := benchmarked(b)
		viewtest.Fill(b, v.Live(), 10_000, benchmarkBuyers)
		streams, err := v.Live().Streams(b.Context(), "", 1000)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			got, err := v.Get(b.Context(), streams[i%1000:i%1000+1])
			if err != nil || len(got) != 1 {
				b.Fatalf("%d documents, %v", len(got), err)
			}
		}
	})
}

func BenchmarkNewest(b *testing.B) {
	b.Run("orders=10000", func(b *testing.B) {
		v := benchmarked(b)
		for i := range benchmarkBuyers { // an empty list is whole
			if _, err := v.Newest(b.Context(), viewtest.BuyerOf(i), 20, nil); err != nil {
				b.Fatal(err)
			}
		}
		viewtest.Fill(b, v.Live(), 10_000, benchmarkBuyers)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			page, err := v.Newest(b.Context(), viewtest.BuyerOf(i%benchmarkBuyers), 20, nil)
			if err != nil || len(page.Items) != 20 {
				b.Fatalf("%d items, %v", len(page.Items), err)
			}
		}
	})
}

func BenchmarkAllow(b *testing.B) {
	b.Run("keys=1", func(b *testing.B) {
		l, err := opened(b, ways(b)["plain"].emptied(b, b.TempDir())).Limiter("bench", 1e6, 1000)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if ok, _, err := l.Allow(b.Context(), "key"); err != nil || !ok {
				b.Fatalf("%v, %v", ok, err)
			}
		}
	})
}
