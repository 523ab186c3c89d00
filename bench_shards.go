package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
)

// divide spreads a SKU over shards, if that was asked for.
func (b *checkoutBench) divide(ctx context.Context, sku string) error {
	if b.shards < 2 {
		return nil
	}
	into := map[string]int{"shards": b.shards}
	_, err := b.api.do(ctx, request{method: http.MethodPost, path: pathOf("/v1/inventory/", sku, "/shards"), key: "shards", body: into}, nil)
	if err != nil {
		return fmt.Errorf("divide %s: %w", sku, err)
	}
	return nil
}

// A shardCheck tells what became of SKUs that were divided.
type shardCheck struct {
	Of      int     `json:"of"`                 // shards, of every SKU
	Taken   []int64 `json:"taken,omitempty"`    // units for orders, by shard, of all SKUs
	Moving  int64   `json:"on_the_way"`         // units that were sent and have not arrived
	LeftOut string  `json:"left_out,omitempty"` // why the shards were not looked at one by one
}

func (c *shardCheck) print(row func(name, format string, values ...any)) {
	switch {
	case c == nil:
	case c.LeftOut != "":
		row("shards", "%d of each SKU, not looked at one by one: %s", c.Of, c.LeftOut)
	default:
		row("shards", "%d of each SKU; %v units taken from each, %d on the way between them", c.Of, c.Taken, c.Moving)
	}
}

// A shardLook holds the shards of SKUs, as their streams have them, against what
// the API shows. The nil one finds nothing.
type shardLook struct {
	count  int
	log    *eventLog // nil if it is not known
	events *event.Registry
	why    string

	mu     sync.Mutex
	taken  []int64 // guarded by mu
	moving int64   // guarded by mu
}

// lookIntoShards begins a look; done ends it. What is on the way between shards
// the API does not show, and so the log is asked where it is known: as for the
// tools, in the environment or in the data folder of the server that is measured.
func (b *checkoutBench) lookIntoShards(ctx context.Context) (look *shardLook, done func()) {
	if b.shards < 2 {
		return nil, func() {}
	}
	look = &shardLook{count: b.shards, taken: make([]int64, b.shards)}
	end, err := look.open(ctx, &b.benchOptions)
	if err != nil {
		look.log, look.why = nil, err.Error()
		return look, func() {}
	}
	return look, func() { _ = end(context.WithoutCancel(ctx)) } // it was read only
}

func (l *shardLook) open(ctx context.Context, opt *benchOptions) (end func(context.Context) error, err error) {
	cfg := opt.log
	cfg.Data = opt.data
	if cfg.EventStore == "" {
		listens, serr := ownerSays(cfg.Data, "http")
		if serr != nil {
			return nil, serr
		}
		if !slices.ContainsFunc(append(slices.Clone(opt.targets), opt.readTarget), func(target string) bool { return listens == strings.TrimSuffix(target, "/") }) {
			return nil, fmt.Errorf("%s is the data of %s", cfg.Data, listens)
		}
	}
	if l.events, err = commands.Events(); err != nil {
		return nil, err
	}
	l.log, end, err = visitLog(ctx, cfg, cfg.logger())
	return end, err
}

// of reads the shards of a SKU; there are none where the log is not known.
func (l *shardLook) of(ctx context.Context, sku string) (shards []inventory.Stock, err error) {
	if l == nil || l.log == nil {
		return nil, nil
	}
	for k := range l.count {
		st, err := l.stock(ctx, domain.StockID(sku, k))
		if err != nil {
			return nil, fmt.Errorf("read shard %d of %s: %w", k, sku, err)
		}
		shards = append(shards, st)
	}
	return shards, nil
}

// note adds up what was taken from each shard.
func (l *shardLook) note(shards []inventory.Stock) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, st := range shards {
		l.taken[k] += st.Held + st.Allocated
		for _, sent := range st.OnTheWay() {
			l.moving += sent.Quantity
		}
	}
}

// differsFrom says what of a SKU that has so many shards is not as it is shown.
// Its shards may not be known.
func (s shownStock) differsFrom(count int, shards []inventory.Stock) (wrong []string) {
	if count < 2 {
		return nil
	}
	if s.Shards != int64(count) {
		wrong = append(wrong, fmt.Sprintf("divided into %d shards, not %d", s.Shards, count))
	}
	if len(shards) == 0 {
		return wrong
	}
	var there int64
	for k, st := range shards {
		there += st.OnHand
		for to, sent := range st.OnTheWay() {
			wrong = append(wrong, fmt.Sprintf("%d units are on the way from shard %d to %d", sent.Quantity, k, to))
		}
		if st.Available() < -st.Backorder {
			wrong = append(wrong, fmt.Sprintf("shard %d is oversold: %d available", k, st.Available()))
		}
	}
	whole := inventory.Whole(shards...)
	if whole.OnHand != s.OnHand || whole.Held != s.Held || whole.Allocated != s.Allocated || there != s.OnHand {
		wrong = append(wrong, fmt.Sprintf("%d on hand, %d held and %d allocated are shown, and the shards have %d (%d in all), %d and %d",
			s.OnHand, s.Held, s.Allocated, there, whole.OnHand, whole.Held, whole.Allocated))
	}
	return wrong
}

func (l *shardLook) stock(ctx context.Context, id string) (st inventory.Stock, err error) {
	for r, err := range l.log.Load(ctx, "inventory-"+id, 0) {
		if err != nil {
			return st, err
		}
		e, err := event.Decode[inventory.Event](l.events, r)
		if err != nil {
			return st, err
		}
		if st, err = inventory.Decider.Evolve(st, e); err != nil {
			return st, err
		}
	}
	if _, shard := domain.ShardOf(id); shard == 0 && !st.Known {
		return st, errors.New("the log has nothing of it: is it another shop's?")
	}
	return st, nil
}

func (l *shardLook) result() *shardCheck {
	if l == nil {
		return nil
	}
	if l.log == nil {
		return &shardCheck{Of: l.count, LeftOut: l.why}
	}
	return &shardCheck{Of: l.count, Taken: l.taken, Moving: l.moving}
}
