package readapi

import (
	"context"

	"cartwright/domain/order"
	"cartwright/projections"
)

// page is part of a list.
type page[T any] struct {
	Items      []T     `json:"items"`
	NextCursor *string `json:"next_cursor"`
}

// statuses are all an order can have.
var statuses = []string{
	string(order.StatusPending), string(order.StatusPaid), string(order.StatusShipped),
	string(order.StatusCompleted), string(order.StatusCancelled), string(order.StatusRefunded),
}

// scopes are what a list of orders may be asked of.
var scopes = []string{string(projections.Recent), string(projections.Archive), string(projections.All)}

// filters reads what a list of orders is asked for.
func (r *request) filters() projections.OrderQuery {
	q := projections.OrderQuery{
		Status: r.oneOf("status", statuses...), ToShip: r.oneOf("fulfilment", "to_ship") != "",
		Text: r.text("q"), Scope: projections.Scope(r.oneOf("scope", scopes...)), Limit: r.limit(),
	}
	if q.Scope == "" {
		q.Scope = projections.All
	}
	q.From, q.To = r.span()
	return q
}

// plain says that a list is all there is, archive and all.
func plain(q projections.OrderQuery) bool {
	return q.Scope == projections.All && q.Status == "" && !q.ToShip && q.Text == "" && q.From.IsZero() && q.To.IsZero()
}

func (a *api) buyersOrders(ctx context.Context, r *request) (answer, error) {
	q := r.filters()
	q.Buyer = r.id
	return a.orders(ctx, r, q)
}

func (a *api) sellersOrders(ctx context.Context, r *request) (answer, error) {
	q := r.filters()
	q.Seller = r.id
	return a.orders(ctx, r, q)
}

func (a *api) orders(ctx context.Context, r *request, q projections.OrderQuery) (answer, error) {
	if err := r.check(); err != nil {
		return answer{}, err
	}
	from := originOf("orders", q.Buyer, q.Seller, q.Status, q.ToShip, q.From.UnixMicro(), q.To.UnixMicro(), q.Text, q.Scope)
	var err error
	if q.After, err = a.orderCursor(r, from); err != nil {
		return answer{}, err
	}
	found, err := a.ask(ctx, r, q)
	if err != nil {
		return answer{}, err
	}
	told := &page[orderBody]{Items: make([]orderBody, 0, len(found.Items)), NextCursor: a.sealOrder(from, found.Next)}
	for i := range found.Items {
		told.Items = append(told.Items, tellOrder(&found.Items[i]))
	}
	return answer{body: told}, nil
}

// ask goes to the view that has the list at hand: a buyer's own, if nothing is
// left out of it, and the index for the rest. Both sort alike, so a cursor of
// one is good for the other.
func (a *api) ask(ctx context.Context, r *request, q projections.OrderQuery) (projections.OrderPage, error) {
	want := of(r.token, "order")
	if q.Buyer != "" && plain(q) {
		return seen(ctx, a, viewBuyers, a.Buyers, want, func() (projections.OrderPage, error) {
			return a.Buyers.Newest(ctx, q.Buyer, q.Limit, q.After)
		})
	}
	return seen(ctx, a, viewOrders, a.Index, want, func() (projections.OrderPage, error) { return a.Index.Orders(ctx, q) })
}
