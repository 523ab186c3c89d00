package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// A benchCheck compares what was answered with what the stock says.
type benchCheck struct {
	Placed      int64    `json:"placed"`  // orders that were answered
	Unknown     int64    `json:"unknown"` // requests that may have been carried out
	Taken       int64    `json:"taken"`   // units that the stock holds for orders
	Differences []string `json:"differences"`

	Shards *shardCheck `json:"shards,omitempty"`
}

// verifyWithin is how long a view may take to catch up with the load, unless it
// is said.
const verifyWithin = 2 * time.Minute

// maxDifferences is how many are told; one is enough to look closer.
const maxDifferences = 20

// verify reads every SKU's stock, once its view has all that happened to it.
func (b *checkoutBench) verify(ctx context.Context) (benchCheck, error) {
	c := benchCheck{Differences: []string{}}
	shards, done := b.lookIntoShards(ctx)
	defer done()
	var mu sync.Mutex // guards c
	err := b.each(ctx, len(b.goods), func(ctx context.Context, i int) error {
		t := b.sold[i].tally()
		s, wrong, err := b.look(ctx, b.goods[i].sku, t, shards)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		c.Placed, c.Unknown, c.Taken = c.Placed+t.placed, c.Unknown+t.unknown, c.Taken+s.taken()
		for _, text := range wrong[:min(len(wrong), maxDifferences-len(c.Differences))] {
			c.Differences = append(c.Differences, b.goods[i].sku+": "+text)
		}
		return nil
	})
	c.Shards = shards.result()
	return c, err
}

// look compares a SKU's stock with what was answered. The token of a command names
// the revision of one shard only, so of a SKU that has several it looks again, for
// as long as what was answered may take to be seen, until nothing is wrong.
func (b *checkoutBench) look(ctx context.Context, sku string, t tally, shards *shardLook) (s shownStock, wrong []string, err error) {
	for until := time.Now().Add(cmp.Or(b.checkWithin, verifyWithin)); ; {
		if s, err = b.stockOf(ctx, sku); err != nil {
			return s, nil, err
		}
		seen, err := shards.of(ctx, sku)
		if err != nil {
			return s, nil, err
		}
		wrong = s.differsFrom(b.shards, seen)
		if text := s.differs(t, b.stock); text != "" {
			wrong = append(wrong, text)
		}
		if len(wrong) == 0 || b.shards < 2 || time.Now().After(until) {
			shards.note(seen)
			return s, wrong, nil
		}
		if !rest(ctx, lagEvery) {
			return s, nil, ctx.Err()
		}
	}
}

// shownStock is what the read API shows of a SKU's stock.
type shownStock struct {
	OnHand    int64 `json:"on_hand"`
	Held      int64 `json:"held"`
	Allocated int64 `json:"allocated"`
	Available int64 `json:"available"`
	Shards    int64 `json:"shards"`
}

func (s shownStock) taken() int64 { return s.Held + s.Allocated }

// stockOf reads a SKU's stock as its stream has it now. The token of a checkout
// names orders; that of a command on the stock itself, which changes nothing,
// names the revision to wait for.
func (b *checkoutBench) stockOf(ctx context.Context, sku string) (shownStock, error) {
	api := b.api.with(cmp.Or(b.checkWithin, verifyWithin))
	policy := map[string]int64{"safety": 0, "backorder_limit": 0}
	out, err := api.do(ctx, request{method: http.MethodPut, path: pathOf("/v1/inventory/", sku, "/policy"), body: policy}, nil)
	if err != nil {
		return shownStock{}, fmt.Errorf("ask the stock of %s for its revision: %w", sku, err)
	}
	var s shownStock
	reads := b.reads.with(api.patience)
	if _, err = reads.do(ctx, request{method: http.MethodGet, path: pathOf("/v1/inventory/", sku, ""), token: out.token}, &s); err != nil {
		return s, fmt.Errorf("read the stock of %s: %w", sku, err)
	}
	return s, nil
}

// differs says what of the stock can't be true of what was answered; "" is nothing.
func (s shownStock) differs(t tally, units int64) string {
	switch taken := s.taken(); {
	case s.OnHand != units:
		return fmt.Sprintf("%d on hand, not %d", s.OnHand, units)
	case taken > units || s.Available < 0:
		return fmt.Sprintf("oversold: %d taken of %d, %d available", taken, units, s.Available)
	case taken < t.placed:
		return fmt.Sprintf("%d placed, but %d taken", t.placed, taken)
	case taken > t.placed+t.unknown:
		return fmt.Sprintf("%d taken, but only %d placed and %d unknown", taken, t.placed, t.unknown)
	case t.short > 0 && t.unknown == 0 && taken < units:
		return fmt.Sprintf("%d were refused while %d were left", t.short, units-taken)
	}
	return ""
}
