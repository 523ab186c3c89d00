package elasticviews

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"cartwright/projections"
)

// archivePage is how many orders are moved at once.
const archivePage = 500

// Archive moves the boundary of the live generation on, and what was closed
// before it into the archive. It may be asked again after any error, and by
// several processes at once.
func (o *Orders) Archive(ctx context.Context, before time.Time, told func(moved int64)) (moved int64, err error) {
	a := archiving{orders: o, to: bound(before), told: told}
	if before.IsZero() {
		a.to = never
	}
	for range often {
		if err = o.whole(ctx); err == nil {
			err = a.run(ctx)
		}
		// Another generation has become the live one: it has a boundary of its own.
		if !errors.Is(err, errNotLive) && !isType(err, noIndex) {
			break
		}
	}
	if err != nil {
		return a.moved, fmt.Errorf("archive orders closed before %s: %w", before.Format(time.RFC3339), err)
	}
	return a.moved, nil
}

// archiving is one run of Archive.
type archiving struct {
	orders *Orders
	to     int64
	told   func(int64)
	moved  int64
}

// run moves a boundary on in three steps. First it is said where it moves to:
// from then on whatever is closed before is written to the archive as well, there
// first, so that once all else was copied the archive lacks nothing. Then the
// aliases turn, and with them what readers see. Last, what is at hand and belongs
// in the archive is deleted.
func (a *archiving) run(ctx context.Context) error {
	l, err := a.orders.look(ctx)
	if err != nil {
		return err
	}
	t, at := l.of(l.live), indices{db: a.orders.db, number: l.live}
	if a.to > t.at {
		if at.tiers, err = a.announce(ctx, l.live); err != nil {
			return err
		}
		if err = a.copyAll(ctx, at, a.to); err != nil {
			return err
		}
		if t, err = a.turn(ctx, l.live); err != nil {
			return err
		}
	}
	if t.at == never {
		return nil
	}
	at.tiers = t
	if err := a.sweep(ctx, at); err != nil {
		return err
	}
	return a.orders.settle(ctx, at)
}

// announce says where the boundary moves to, and waits until all processes go by it.
func (a *archiving) announce(ctx context.Context, number int) (tiers, error) {
	t, err := a.orders.retier(ctx, number, true, func(t tiers) (tiers, bool) {
		if t.next >= a.to {
			return t, false
		}
		t.next = a.to
		return t, true
	})
	if err != nil {
		return t, err
	}
	return t, sleep(ctx, allLooked)
}

// turn moves the boundary, for all readers in one step.
func (a *archiving) turn(ctx context.Context, number int) (tiers, error) {
	return a.orders.retier(ctx, number, true, func(t tiers) (tiers, bool) {
		if t.at >= a.to {
			return t, false
		}
		t.at, t.next = a.to, max(a.to, t.next)
		return t, true
	})
}

// copyAll copies what was closed before the boundary is where it moves to. Where
// there was anything, it waits until all processes know the years it is in.
func (a *archiving) copyAll(ctx context.Context, at indices, before int64) error {
	if err := a.orders.refresh(ctx, a.orders.targets(at.of)); err != nil {
		return err
	}
	years := at.tiers.years
	err := a.pages(ctx, at, before, func(hits []hit) error {
		var err error
		at.tiers, err = a.copy(ctx, at, hits)
		return err
	})
	if err != nil {
		return err
	}
	if err := a.orders.refresh(ctx, a.orders.targetsOf(at)); err != nil {
		return err
	}
	if slices.Equal(years, at.tiers.years) {
		return nil
	}
	return sleep(ctx, allLooked)
}

// pages calls take with all orders at hand that were closed before a time, as
// they were when it began.
func (a *archiving) pages(ctx context.Context, at indices, before int64, take func([]hit) error) error {
	return a.orders.db.c.pages(ctx, at.of(a.orders.name), closedBefore(before), archivePage, take)
}

// An archivedOrder is an order on its way to its year.
type archivedOrder struct {
	hit
	year   int
	seller string
}

func archivable(h hit) (archivedOrder, error) {
	var s struct {
		Placed int64  `json:"placed"`
		Seller string `json:"seller"`
	}
	if err := json.Unmarshal(h.Source, &s); err != nil {
		return archivedOrder{}, fmt.Errorf("decode %s: %w", h.ID, err)
	}
	return archivedOrder{h, unstamp(s.Placed).Year(), s.Seller}, nil
}

// copy writes orders to their years, as they are: unless these have them already.
func (a *archiving) copy(ctx context.Context, at indices, hits []hit) (tiers, error) {
	var missing []int
	orders := make([]archivedOrder, len(hits))
	for i, h := range hits {
		var err error
		if orders[i], err = archivable(h); err != nil {
			return at.tiers, err
		}
		if year := orders[i].year; !at.tiers.has(year) && !slices.Contains(missing, year) {
			missing = append(missing, year)
		}
	}
	if len(missing) > 0 {
		t, err := a.orders.join(ctx, at.number, missing)
		if err != nil {
			return at.tiers, err
		}
		at.tiers = t
	}
	for _, kind := range []string{sales, a.orders.name} {
		ops := make([]op, len(orders))
		for i, order := range orders {
			var err error
			if ops[i], err = order.op("index", kind, at.in(order.year)); err != nil {
				return at.tiers, err
			}
		}
		if err := a.orders.db.c.each(ctx, ops); err != nil {
			return at.tiers, err
		}
	}
	return at.tiers, nil
}

// op does something to an order in one of its two places.
func (o archivedOrder) op(action, kind string, at indices) (op, error) {
	routing := party(o.seller)
	if kind != sales {
		var err error
		if routing, err = orderPlace(o.ID); err != nil {
			return op{}, fmt.Errorf("%s: %w", o.ID, err)
		}
	}
	version := uint64(o.Version) //nolint:gosec // as it was stored
	return op{action: action, index: at.of(kind), id: o.ID, routing: routing, version: &version, source: o.Source, owner: o.ID}, nil
}

// sweep deletes what is at hand and belongs in the archive, once that has it. What
// changed in between stays, and is looked at again.
func (a *archiving) sweep(ctx context.Context, at indices) error {
	for changed := true; changed; {
		changed = false
		if err := a.orders.refresh(ctx, a.orders.targets(at.of)); err != nil {
			return err
		}
		err := a.pages(ctx, at, at.tiers.at, func(hits []hit) error {
			some, err := a.sweepSome(ctx, &at, hits)
			changed = changed || some
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sweepSome deletes some orders, and tells whether any of them has changed.
func (a *archiving) sweepSome(ctx context.Context, at *indices, hits []hit) (changed bool, err error) {
	if at.tiers, err = a.copy(ctx, *at, hits); err != nil {
		return false, err
	}
	for _, kind := range []string{sales, a.orders.name} {
		ops, err := takings(hits, kind, *at)
		if err != nil {
			return false, err
		}
		outcomes, err := a.orders.db.c.bulk(ctx, ops)
		if err != nil {
			return false, err
		}
		for i, o := range outcomes {
			switch {
			case o.conflict():
				changed = true
			case o.done() && kind != sales:
				a.moved++
			case !o.done() && (o.status != http.StatusNotFound || o.gone()):
				return false, fmt.Errorf("take away %s: %w", ops[i].owner, o.err())
			}
		}
	}
	if a.told != nil {
		a.told(a.moved)
	}
	return changed, nil
}

// takings delete one of the two copies of orders, unless they have changed.
func takings(hits []hit, kind string, at indices) ([]op, error) {
	ops := make([]op, len(hits))
	for i, h := range hits {
		order, err := archivable(h)
		if err != nil {
			return nil, err
		}
		if ops[i], err = order.op("index", kind, at); err != nil {
			return nil, err
		}
		ops[i] = ops[i].delete()
	}
	return ops, nil
}

// settle takes from what is at hand the orders that the archive has, though they
// do not say that they belong there: they were written when they were late.
func (v *Views[V]) settle(ctx context.Context, at indices) error {
	if v.shape.tiers == nil || len(at.tiers.years) == 0 {
		return nil
	}
	kind := v.shape.kinds[0].name
	if err := v.refresh(ctx, v.targets(at.of)); err != nil {
		return err
	}
	open := map[string]any{"bool": map[string]any{
		"filter": within("placed", "lt", at.tiers.at), "must_not": map[string]any{"exists": map[string]any{"field": "closed"}},
	}}
	return v.db.c.pages(ctx, at.of(kind), open, archivePage, func(hits []hit) error {
		refs := make([]ref, len(hits))
		for i, h := range hits {
			routing, err := v.shape.place(h.ID)
			if err != nil {
				return fmt.Errorf("%s: %w", h.ID, err)
			}
			refs[i] = ref{ID: h.ID, Routing: routing}
		}
		archived, err := v.db.inYears(ctx, at, kind, refs, bare)
		if err != nil {
			return err
		}
		var late []hit
		for i, doc := range archived {
			if doc.Found && doc.Version >= hits[i].Version {
				late = append(late, hits[i])
			}
		}
		return v.takeAway(ctx, at, late)
	})
}

// takeAway deletes orders from a tier, both copies.
func (v *Views[V]) takeAway(ctx context.Context, at indices, hits []hit) error {
	for _, kind := range []string{sales, v.shape.kinds[0].name} {
		ops, err := takings(hits, kind, at)
		if err != nil {
			return err
		}
		if err := v.db.c.each(ctx, ops); err != nil {
			return err
		}
	}
	return nil
}

// Tiers says how many documents are where in the live generation: at hand first,
// then by year.
func (o *Orders) Tiers(ctx context.Context) ([]projections.Tier, error) {
	var said struct {
		Buckets []struct {
			Index string `json:"key"`
			Count int64  `json:"doc_count"`
		} `json:"buckets"`
	}
	err := o.live.reading(ctx, func() error {
		if err := o.refresh(ctx, o.targets(o.live.searched)); err != nil {
			return err
		}
		const most = 10_000
		answer, err := o.db.c.search(ctx, search{
			Index: o.live.searched(o.name), Query: streams(),
			Aggs: map[string]any{"tiers": map[string]any{"terms": map[string]any{"field": "_index", "size": most}}},
		})
		if err != nil {
			return err
		}
		return json.Unmarshal(answer.Aggs["tiers"], &said)
	})
	if err != nil {
		return nil, fmt.Errorf("count the tiers of %s: %w", o.name, err)
	}
	counted := []projections.Tier{{}}
	for _, b := range said.Buckets {
		if year, _, ok := yearOf(b.Index, o.alias()); ok {
			counted = append(counted, projections.Tier{Year: year, Documents: b.Count})
			continue
		}
		counted[0].Documents += b.Count
	}
	slices.SortFunc(counted, func(a, b projections.Tier) int { return a.Year - b.Year })
	return counted, nil
}

// Boundary is what the archive of the live generation has: what was closed
// before it. It is zero where nothing was ever archived.
func (o *Orders) Boundary(ctx context.Context) (at time.Time, err error) {
	err = o.live.reading(ctx, func() error {
		l, broken := o.look(ctx)
		if t := l.of(l.live); broken == nil && t.at != never {
			at = unstamp(t.at)
		}
		return broken
	})
	if err != nil {
		return at, fmt.Errorf("look for the boundary of %s: %w", o.name, err)
	}
	return at, nil
}
