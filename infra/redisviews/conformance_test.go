package redisviews_test

import (
	"errors"
	"testing"
	"time"

	"cartwright/infra/redisviews"
	"cartwright/infra/viewtest"
	"cartwright/projections"
)

func TestConformance(t *testing.T) { conform(t, newMini(t).place()) }

// conform runs the suites of all engines.
func conform(t *testing.T, p place) {
	t.Helper()
	viewtest.Run(t, func(t *testing.T, dir string) viewtest.Store[projections.Order] {
		t.Helper()
		return store(t, p.in(dir))
	}, viewtest.SampleOrder)
	viewtest.RunBuyers(t, func(t *testing.T) viewtest.Buyers {
		t.Helper()
		x := newIndex()
		b := viewed(t, opened(t, p.in(t.TempDir())), redisviews.BuyersConfig{Index: x, Newest: 7})
		return viewtest.Buyers{Views: both{x, b.Live()}, List: b}
	})
}

// store is a view over an index that is empty, since the suite puts nothing
// there: what the suite reads is what the cache has.
func store(t *testing.T, cfg redisviews.Config) viewtest.Store[projections.Order] {
	t.Helper()
	db, err := redisviews.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	b, err := redisviews.NewBuyers(t.Context(), db, redisviews.BuyersConfig{Index: newIndex(), Settle: time.Nanosecond})
	if err != nil {
		t.Fatalf("open view: %v", err)
	}
	return viewtest.Store[projections.Order]{
		Reader: b, Generations: b,
		Close: func() error { return errors.Join(b.Close(), db.Close()) },
		Live:  func() viewtest.Generation[projections.Order] { return b.Live() },
	}
}
