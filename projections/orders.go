package projections

import (
	"fmt"
	"time"

	"cartwright/domain/event"
	"cartwright/domain/order"
)

// OrdersView is the view of orders behind lists, searches and sums.
func OrdersView() View[Order] {
	return View[Order]{Name: "orders", Categories: []string{"order"}, Apply: applyOrder, Parties: orderParties}
}

// BuyersView has the same documents, for an order by its id and a buyer's newest.
func BuyersView() View[Order] {
	return View[Order]{Name: "buyers", Categories: []string{"order"}, Apply: applyOrder, Parties: orderParties}
}

func orderParties(decoded any) (buyer, seller string) {
	if placed, ok := decoded.(order.Placed); ok {
		return placed.Buyer, placed.Seller
	}
	return "", ""
}

func applyOrder(o Order, r event.Recorded, decoded any) (Order, error) {
	e, err := own[order.Event](r, decoded)
	if err != nil {
		return o, err
	}
	if placed, ok := e.(order.Placed); ok && placed.Order != event.SubjectID(r.Stream) {
		return o, fmt.Errorf("%s of order %s does not belong in stream %s", r.Name, placed.Order, r.Stream)
	}
	if o.State, err = order.Decider.Evolve(o.State, e); err != nil {
		return o, err
	}
	return o.dated(e, when(r)), nil
}

func (o Order) dated(e order.Event, at time.Time) Order {
	o.ChangedAt = at
	switch e.(type) {
	case order.Placed:
		o.PlacedAt = at
	case order.Paid:
		o.PaidAt = at
	case order.ParcelShipped:
		o.ShippedAt = at
	case order.ParcelDelivered:
		o.DeliveredAt = at
	case order.Completed:
		o.CompletedAt = at
	case order.Cancelled, order.Refunded:
		o.EndedAt = at
	default: // the rest has no time of its own
	}
	if o.ClosedAt.IsZero() && o.State.Status.Closed() {
		o.ClosedAt = at
	}
	return o
}

// Facts are what an index files an order under and counts it by.
type Facts struct {
	ID, Buyer, Seller, Currency, Status string
	PlacedAt                            time.Time
	ToShip                              bool // paid, and something left to ship
	Units, Gross, Refunded              int64
}

// Facts gives the order's. A stream that has no order in it, such as one whose
// attempt was given up before it was placed, has none: it is in no list and no
// sum.
func (o Order) Facts() (Facts, bool) {
	s := o.State
	if s.Status == order.StatusNone {
		return Facts{}, false
	}
	return Facts{
		ID: s.ID, Buyer: s.Buyer, Seller: s.Seller, Currency: s.Currency, Status: string(s.Status),
		PlacedAt: o.PlacedAt, ToShip: o.toShip(), Units: s.Units(), Gross: s.Total(), Refunded: s.RefundedAmount(),
	}, true
}

func (o Order) toShip() bool {
	f := o.State.Fulfilment()
	return o.State.Status == order.StatusPaid && (f == order.Unfulfilled || f == order.PartiallyShipped)
}

// Texts are what an order is found by: its id, its SKUs and their titles.
func (o Order) Texts() []string {
	texts := make([]string, 0, 1+2*len(o.State.Lines))
	texts = append(texts, o.State.ID)
	for _, it := range o.State.Lines {
		texts = append(texts, it.SKU, it.Title)
	}
	return texts
}
