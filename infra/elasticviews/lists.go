package elasticviews

import (
	"context"
	"errors"
	"fmt"

	"cartwright/domain/orderid"
	"cartwright/projections"
)

var errNobody = errors.New("an order query names a buyer or a seller")

// Orders gives part of a buyer's or a seller's orders, newest first, or oldest
// first where only what is to be shipped is wanted.
func (o *Orders) Orders(ctx context.Context, q projections.OrderQuery) (projections.OrderPage, error) {
	page, err := o.list(ctx, q)
	if err != nil {
		return projections.OrderPage{}, fmt.Errorf("list orders of buyer %q, seller %q: %w", q.Buyer, q.Seller, err)
	}
	return page, nil
}

// Newest gives a buyer's orders, newest first, behind a cursor if there is one.
func (o *Orders) Newest(ctx context.Context, buyer string, limit int, after *projections.Cursor) (projections.OrderPage, error) {
	return o.Orders(ctx, projections.OrderQuery{Buyer: buyer, Limit: limit, After: after})
}

func (o *Orders) list(ctx context.Context, q projections.OrderQuery) (page projections.OrderPage, err error) {
	if q.Buyer == "" && q.Seller == "" {
		return page, errNobody
	}
	if q.Limit < 1 {
		return page, fmt.Errorf("a page of %d orders", q.Limit)
	}
	s, some, err := o.searchFor(q)
	if err != nil || !some {
		return page, err
	}
	hits, err := searching(ctx, o.Views, func() ([]hit, error) { return o.db.c.list(ctx, s, q.Limit+1) })
	if err != nil {
		return page, err
	}
	for _, h := range hits[:min(len(hits), q.Limit)] {
		doc, err := decode[projections.Order](h.found)
		if err != nil {
			return page, err
		}
		page.Items = append(page.Items, doc)
	}
	if len(hits) > q.Limit {
		last := page.Items[q.Limit-1].Body
		page.Next = &projections.Cursor{At: last.PlacedAt, ID: last.State.ID}
	}
	return page, nil
}

// searching searches a view's live indices, with what this process has put.
func searching[V, T any](ctx context.Context, v *Views[V], ask func() (T, error)) (answer T, err error) {
	err = v.live.reading(ctx, func() error {
		if err = v.fresh.own(ctx); err != nil {
			return err
		}
		answer, err = ask()
		return err
	})
	return answer, err
}

// searchFor writes the search of a list. It is false where nothing can be found.
func (o *Orders) searchFor(q projections.OrderQuery) (s search, some bool, err error) {
	filters, some := matching(q)
	if !some {
		return s, false, nil
	}
	kind, direction := o.name, "desc"
	s = search{Routing: bucket(orderid.Bucket(q.Buyer)), Source: true, Whole: true}
	if q.Buyer == "" {
		kind, s.Routing = sales, party(q.Seller)
	}
	if q.ToShip {
		direction = "asc"
	}
	if s.Index, err = o.scope(kind, q); err != nil {
		return s, false, err
	}
	s.Query, s.Sort = all(filters...), []any{by("placed", direction), by("stream", direction)}
	if q.After != nil {
		if _, err := orderid.Parse(q.After.ID); err != nil {
			return s, false, fmt.Errorf("a cursor at order %q: %w", q.After.ID, err)
		}
		s.After = []any{stamp(q.After.At), "order-" + q.After.ID}
	}
	return s, true, nil
}

// scope names what a list is made of. What is to be shipped is at hand.
func (o *Orders) scope(kind string, q projections.OrderQuery) (string, error) {
	switch {
	case q.Scope == projections.Archive:
		return o.live.archive(kind), nil
	case q.Scope == projections.Recent || q.ToShip:
		return o.live.target(kind), nil
	case q.Scope == projections.All || q.Scope == "":
		return o.live.searched(kind), nil
	}
	return "", fmt.Errorf("there is no scope %q", q.Scope)
}

// matching are the conditions of a list.
func matching(q projections.OrderQuery) (filters []any, some bool) {
	for field, value := range map[string]string{"buyer": q.Buyer, "seller": q.Seller, "status": q.Status} {
		if value != "" {
			filters = append(filters, term(field, value))
		}
	}
	if q.ToShip {
		filters = append(filters, term("to_ship", true))
	}
	if !q.From.IsZero() {
		filters = append(filters, within("placed", "gte", bound(q.From)))
	}
	if !q.To.IsZero() {
		filters = append(filters, within("placed", "lt", bound(q.To)))
	}
	if q.Text == "" {
		return filters, true
	}
	phrases := projections.Phrases(q.Text)
	for _, p := range phrases {
		filters = append(filters, map[string]any{"match_phrase": map[string]any{"words": p}})
	}
	return filters, len(phrases) > 0
}
