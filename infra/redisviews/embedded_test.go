package redisviews_test

import (
	"context"
	"errors"
	"testing"

	"cartwright/infra/redisviews"
	"cartwright/infra/sqliteviews"
	"cartwright/infra/viewtest"
	"cartwright/projections"
)

// stacked puts into the index and then into the cache before it.
type stacked struct {
	projections.Views[projections.Order]
	index projections.Views[projections.Order]
}

func (s stacked) Put(ctx context.Context, some []doc) error {
	return errors.Join(s.index.Put(ctx, some), s.Views.Put(ctx, some))
}

// The embedded index is as good to stand on as any.
func TestTheEmbeddedIndexBehindTheCache(t *testing.T) {
	m := newMini(t)
	viewtest.RunBuyers(t, func(t *testing.T) viewtest.Buyers {
		t.Helper()
		index, err := sqliteviews.Open(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := index.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		b := viewed(t, opened(t, m.place().in(t.Name())), redisviews.BuyersConfig{Index: index.Orders(), Newest: 3})
		return viewtest.Buyers{Views: stacked{b.Live(), index.Orders().Live()}, List: b}
	})
}
