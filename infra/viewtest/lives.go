package viewtest

import (
	"fmt"
	"testing"
	"time"

	"cartwright/domain/event"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/projections"
)

// A Life is one order as its test tells it: what it is and what became of it.
type Life struct {
	Number   int // tells orders of one buyer and moment apart
	Buyer    string
	Seller   string
	Currency string
	Placed   time.Time
	Titles   []string // one line each
	Price    int64
	Quantity int64
	Steps    []order.Command // after Place
	Later    time.Duration   // how long after it was placed they came
}

// ID is the order's id.
func (l Life) ID(tb testing.TB) string {
	tb.Helper()
	begun := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(l.Number) * time.Millisecond)
	id, err := orderid.Make(begun, 0, l.Buyer)
	if err != nil {
		tb.Fatalf("order id: %v", err)
	}
	return string(id)
}

// Doc is the order's document after all its steps, which must be possible ones.
func (l Life) Doc(tb testing.TB) projections.Doc[projections.Order] {
	tb.Helper()
	doc := projections.Doc[projections.Order]{Stream: "order-" + l.ID(tb)}
	at := l.Placed
	for _, c := range append([]order.Command{l.place(tb)}, l.Steps...) {
		events, err := order.Decider.Decide(doc.Body.State, c)
		if err != nil {
			tb.Fatalf("%T: %v", c, err)
		}
		for _, e := range events {
			doc = Apply(tb, projections.OrdersView(), doc, e, at)
		}
		at = l.Placed.Add(l.Later)
	}
	return doc
}

// Apply adds an event to a document, at a time.
func Apply[V any](tb testing.TB, view projections.View[V], doc projections.Doc[V], e any, at time.Time) projections.Doc[V] {
	tb.Helper()
	doc.Revision++
	r := event.Recorded{Stream: doc.Stream, Revision: doc.Revision, Name: fmt.Sprintf("%T", e), Meta: event.Meta{At: at}}
	body, err := view.Apply(doc.Body, r, e)
	if err != nil {
		tb.Fatalf("apply %T to %s: %v", e, doc.Stream, err)
	}
	doc.Body = body
	return doc
}

func (l Life) place(tb testing.TB) order.Place {
	tb.Helper()
	p := order.Place{
		Order: l.ID(tb), Checkout: l.ID(tb), Buyer: l.Buyer, Seller: l.Seller, Currency: l.Currency,
		Address: []byte("sealed"), Attempt: "attempt", Deadline: l.Placed.Add(30 * time.Minute),
	}
	for i, title := range l.Titles {
		p.Lines = append(p.Lines, order.Line{
			Line: i + 1, SKU: fmt.Sprintf("SKU-%d", i+1), Title: title, Offer: "0123456789abcdef",
			Quantity: l.Quantity, UnitPrice: l.Price, Freight: 100,
		})
	}
	return p
}

// Total is what the order costs.
func (l Life) Total() int64 { return int64(len(l.Titles)) * l.Quantity * (l.Price + 100) }

// Pay pays the order.
func (l Life) Pay() order.Command {
	return order.Pay{Amount: l.Total(), Currency: l.Currency, Method: "balance"}
}

// Ship ships so many units of every line in a parcel of its own.
func (l Life) Ship(quantity int64) order.Command {
	c := order.Pack{Carrier: "post", Number: "123"}
	for i := range l.Titles {
		c.Lines = append(c.Lines, order.Part{Line: i + 1, Quantity: quantity})
	}
	return c
}

// Become gives an order the steps that lead to a status, or to "partial", a
// paid order of which something has shipped.
func (l Life) Become(status string) Life {
	refund := order.Refund{By: "seller", Reason: "sorry"}
	switch status {
	case "paid":
		l.Steps = []order.Command{l.Pay()}
	case "partial":
		l.Steps = []order.Command{l.Pay(), l.Ship(1)}
	case "shipped":
		l.Steps = []order.Command{l.Pay(), l.Ship(l.Quantity)}
	case "completed":
		l.Steps = []order.Command{l.Pay(), l.Ship(l.Quantity), order.Complete{By: "buyer"}}
	case "cancelled":
		l.Steps = []order.Command{order.Cancel{Cancellation: order.Cancellation{Reason: order.ByBuyer, By: "buyer"}}}
	case "refunded":
		l.Steps = []order.Command{l.Pay(), refund}
	case "partially_refunded":
		some := l.Price
		refund.Lines = []order.RefundRequest{{Line: 1, Amount: &some}}
		l.Steps = []order.Command{l.Pay(), l.Ship(l.Quantity), order.Complete{By: "buyer"}, refund}
	}
	return l
}
