package writeapi

import (
	"context"
	"fmt"
	"time"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/personal"
	"cartwright/infra/httpedge"
)

type drawBody struct {
	BuyerID string `json:"buyer_id"`
}

func (b drawBody) check(f *faults) { f.add(domain.CheckID("/buyer_id", b.BuyerID)) }

type drawAnswer struct {
	OrderID orderid.ID `json:"order_id"`
}

// drawOrderID gives out an id: the same one for ever to the same key, another
// one each time to a request without a key.
func (a *api) drawOrderID(ctx context.Context, in input[drawBody]) (answer, error) {
	if !in.keyed {
		in.req.Cause = ""
	}
	id, repeated, err := a.Shop.DrawOrderID(ctx, in.req, in.body.BuyerID)
	if err != nil {
		return answer{}, err
	}
	return answer{created: true, repeated: repeated, body: drawAnswer{id}}, nil
}

type checkoutBody struct {
	OrderID        string            `json:"order_id"`
	BuyerID        string            `json:"buyer_id"`
	Items          []itemBody        `json:"items"`
	Address        *personal.Address `json:"address"`
	ExpectedAmount *money.Money      `json:"expected_amount,omitempty"`
}

type itemBody struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

func (b checkoutBody) check(f *faults) {
	f.order("/order_id", b.OrderID)
	f.add(domain.CheckID("/buyer_id", b.BuyerID))
	f.lines("/items", len(b.Items))
	for i, item := range b.Items[:min(len(b.Items), maxItems)] {
		item.check(f, i)
	}
	f.present(b.Address != nil, "/address")
	if b.Address != nil {
		f.add(b.Address.Check("/address"))
	}
	f.amount("/expected_amount", b.ExpectedAmount, 0)
}

// check names the places only where something is wrong with them.
func (b itemBody) check(f *faults, i int) {
	if domain.CheckSKU("", b.SKU) != nil {
		f.add(domain.CheckSKU(at("/items", i, "/sku"), b.SKU))
	}
	if b.Quantity < 1 || b.Quantity > maxQuantity {
		f.between(at("/items", i, "/quantity"), b.Quantity, 1, maxQuantity)
	}
}

func (b checkoutBody) command() commands.Checkout {
	c := commands.Checkout{
		Order: orderid.ID(b.OrderID), Buyer: b.BuyerID, Address: *b.Address, Expected: b.ExpectedAmount,
		Items: make([]commands.Item, 0, len(b.Items)),
	}
	for _, item := range b.Items {
		c.Items = append(c.Items, commands.Item(item))
	}
	return c
}

type checkoutAnswer struct {
	CheckoutID      string        `json:"checkout_id"`
	Orders          []placedOrder `json:"orders"`
	Total           money.Money   `json:"total"`
	PaymentDeadline time.Time     `json:"payment_deadline,omitzero"`
}

type placedOrder struct {
	OrderID         string       `json:"order_id"`
	SellerID        string       `json:"seller_id"`
	Status          order.Status `json:"status"`
	Total           money.Money  `json:"total"`
	PaymentDeadline time.Time    `json:"payment_deadline,omitzero"`
	Lines           []placedLine `json:"lines"`
}

type placedLine struct {
	Line      int         `json:"line"`
	SKU       string      `json:"sku"`
	Title     string      `json:"title"`
	Offer     string      `json:"offer"`
	Quantity  int64       `json:"quantity"`
	UnitPrice money.Money `json:"unit_price"`
	Freight   money.Money `json:"freight"`
	Total     money.Money `json:"total"`
}

func (a *api) checkout(ctx context.Context, in input[checkoutBody]) (answer, error) {
	placed, err := a.Shop.Checkout(ctx, in.req, in.body.command())
	if err != nil {
		return answer{}, err
	}
	told := checkoutAnswer{CheckoutID: in.body.OrderID, Total: placed.Total, Orders: make([]placedOrder, 0, len(placed.Orders))}
	for _, p := range placed.Orders {
		o, err := tellPlaced(p)
		if err != nil {
			return answer{}, err
		}
		told.Orders = append(told.Orders, o)
		told.PaymentDeadline = o.PaymentDeadline // all have the same
	}
	return answer{
		created: true, repeated: placed.Repeated, location: "/v1/orders/" + in.body.OrderID,
		etag:    etagOf(placed.Streams, orderid.ID(in.body.OrderID)),
		streams: placed.Streams, body: told,
	}, nil
}

// tellPlaced says of an order what its event says.
func tellPlaced(p order.Placed) (placedOrder, error) {
	o := placedOrder{
		OrderID: p.Order, SellerID: p.Seller, Status: order.StatusPending,
		PaymentDeadline: p.Deadline.UTC(), Total: money.Money{Currency: p.Currency},
		Lines: make([]placedLine, 0, len(p.Lines)),
	}
	for _, l := range p.Lines {
		line, err := tellLine(l, p.Currency)
		if err == nil {
			o.Total, err = o.Total.Add(line.Total)
		}
		if err != nil {
			return o, fmt.Errorf("total of order %s: %w", p.Order, err)
		}
		o.Lines = append(o.Lines, line)
	}
	return o, nil
}

func tellLine(l order.Line, currency string) (placedLine, error) {
	told := placedLine{
		Line: l.Line, SKU: l.SKU, Title: l.Title, Offer: l.Offer, Quantity: l.Quantity,
		UnitPrice: money.Money{Amount: l.UnitPrice, Currency: currency},
		Freight:   money.Money{Amount: l.Freight, Currency: currency},
	}
	unit, err := told.UnitPrice.Add(told.Freight)
	if err == nil {
		told.Total, err = unit.Mul(l.Quantity)
	}
	return told, err
}

type payBody struct {
	ExpectedAmount *money.Money `json:"expected_amount,omitempty"`
}

func (b payBody) check(f *faults) { f.amount("/expected_amount", b.ExpectedAmount, 0) }

type payAnswer struct {
	CheckoutID string      `json:"checkout_id"`
	Orders     []string    `json:"orders"`
	Amount     money.Money `json:"amount"`
}

func (a *api) pay(ctx context.Context, in input[payBody]) (answer, error) {
	paid, err := a.Shop.Pay(ctx, in.req, in.to.order, in.body.ExpectedAmount)
	if err != nil {
		return answer{}, err
	}
	return answer{
		repeated: paid.Repeated, streams: paid.Streams, etag: etagOf(paid.Streams, in.to.order),
		body: payAnswer{paid.Checkout, paid.Orders, paid.Total},
	}, nil
}

// etagOf is the tag of an order among streams, if it is there.
func etagOf(streams map[string]event.Revision, id orderid.ID) string {
	if at, ok := streams["order-"+string(id)]; ok {
		return httpedge.ETag(at)
	}
	return ""
}
