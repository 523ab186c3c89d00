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
}

// verifyWithin is how long a view may take to catch up with the load, unless it
// is said.
const verifyWithin = 2 * time.Minute

// maxDifferences is how many are told; one is enough to look closer.
const maxDifferences = 20

// verify reads every SKU's stock, once its view has all that happened to it.
func (b *checkoutBench) verify(ctx context.Context) (benchCheck, error) {
	c := benchCheck{Differences: []string{}}
	var mu sync.Mutex // guards c
	err := b.each(ctx, len(b.goods), func(ctx context.Context, i int) error {
		s, err := b.stockOf(ctx, b.goods[i].sku)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		t := b.sold[i].tally()
		c.Placed, c.Unknown, c.Taken = c.Placed+t.placed, c.Unknown+t.unknown, c.Taken+s.taken()
		if wrong := s.differs(t, b.stock); wrong != "" && len(c.Differences) < maxDifferences {
			c.Differences = append(c.Differences, b.goods[i].sku+": "+wrong)
		}
		return nil
	})
	return c, err
}

// shownStock is what the read API shows of a SKU's stock.
type shownStock struct {
	OnHand    int64 `json:"on_hand"`
	Held      int64 `json:"held"`
	Allocated int64 `json:"allocated"`
	Available int64 `json:"available"`
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
	if _, err = api.do(ctx, request{method: http.MethodGet, path: pathOf("/v1/inventory/", sku, ""), token: out.token}, &s); err != nil {
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
