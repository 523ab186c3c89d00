package readapi

import (
	"context"
	"errors"
	"time"

	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/personal"
	"cartwright/infra/httpedge"
	"cartwright/projections"
)

// orderBody is an order as it is told.
type orderBody struct {
	OrderID         string              `json:"order_id"`
	CheckoutID      string              `json:"checkout_id"`
	BuyerID         string              `json:"buyer_id"`
	SellerID        string              `json:"seller_id"`
	Status          order.Status        `json:"status"`
	Payment         order.Payment       `json:"payment"`
	Fulfilment      order.Fulfilment    `json:"fulfilment"`
	PlacedAt        instant             `json:"placed_at"`
	PaymentDeadline instant             `json:"payment_deadline,omitempty"`
	PaidAt          instant             `json:"paid_at,omitempty"`
	ShippedAt       instant             `json:"shipped_at,omitempty"`
	DeliveredAt     instant             `json:"delivered_at,omitempty"`
	CompletesAt     instant             `json:"completes_at,omitempty"` // by itself
	CompletedAt     instant             `json:"completed_at,omitempty"`
	EndedAt         instant             `json:"ended_at,omitempty"`
	ClosedAt        instant             `json:"closed_at,omitempty"`
	ChangedAt       instant             `json:"changed_at"`
	Total           money.Money         `json:"total"`
	Goods           money.Money         `json:"goods"`
	Freight         money.Money         `json:"freight"`
	Paid            money.Money         `json:"paid"`
	Method          string              `json:"method,omitempty"`
	PaymentID       string              `json:"payment_id,omitempty"` // where it came by a channel
	Refunded        money.Money         `json:"refunded"`
	Lines           []lineBody          `json:"lines"`
	Parcels         []parcelBody        `json:"parcels"`
	Refunds         []refundBody        `json:"refunds"`
	Cancellation    *order.Cancellation `json:"cancellation"`
	CompletedBy     string              `json:"completed_by,omitempty"`
	Settlement      *settledBody        `json:"settlement,omitempty"` // once its seller has earned it
	Revision        event.Revision      `json:"revision"`
}

// An instant is a time as it is told: in UTC, as encoding/json writes a time.Time.
type instant string

func instantOf(t time.Time) instant { return instant(t.UTC().Format(time.RFC3339Nano)) }

// ifSet is nothing for a time that is not set.
func ifSet(t time.Time) instant {
	if t.IsZero() {
		return ""
	}
	return instantOf(t)
}

// fullOrder is an order with where it goes, for whoever asks for it by its id.
type fullOrder struct {
	orderBody
	Address *personal.Address `json:"address"` // null once the buyer was erased
}

type lineBody struct {
	Line              int         `json:"line"`
	SKU               string      `json:"sku"`
	Title             string      `json:"title"`
	Offer             string      `json:"offer"`
	Quantity          int64       `json:"quantity"`
	UnitPrice         money.Money `json:"unit_price"`
	Freight           money.Money `json:"freight"`
	Total             money.Money `json:"total"`
	Packed            int64       `json:"packed"`
	Shipped           int64       `json:"shipped"`
	RefundedUnshipped int64       `json:"refunded_unshipped"`
	Returned          int64       `json:"returned"`
	Refunded          money.Money `json:"refunded"`
}

type parcelBody struct {
	Parcel  int                `json:"parcel"`
	Status  order.ParcelStatus `json:"status"`
	Lines   []order.Part       `json:"lines"`
	Waybill *order.Waybill     `json:"waybill"`
	History []order.Waybill    `json:"history,omitempty"` // waybills it had before
}

type refundBody struct {
	Refund  int              `json:"refund"`
	Amount  money.Money      `json:"amount"`
	Lines   []refundLineBody `json:"lines"`
	Reason  string           `json:"reason,omitempty"`
	By      string           `json:"by,omitempty"`
	Restock bool             `json:"restock"`
	Settled bool             `json:"settled"`

	FromSeller bool         `json:"from_seller"`          // who had been settled with
	Commission *money.Money `json:"commission,omitempty"` // what the platform gave back of it, where it is the seller's
}

// settledBody is what an order came to for its seller when it was completed.
type settledBody struct {
	Gross          money.Money `json:"gross"`
	Commission     money.Money `json:"commission"`
	Net            money.Money `json:"net"`
	CommissionBack money.Money `json:"commission_back"` // with refunds since
	Posted         bool        `json:"posted"`          // it is on the seller's account
}

type refundLineBody struct {
	Line      int         `json:"line"`
	Unshipped int64       `json:"unshipped"`
	Returned  int64       `json:"returned"`
	Amount    money.Money `json:"amount"`
	Freight   money.Money `json:"freight"` // how much of that is freight
}

func tellOrder(doc *projections.Doc[projections.Order]) orderBody {
	o, s := &doc.Body, &doc.Body.State
	in := func(amount int64) money.Money { return money.Money{Amount: amount, Currency: s.Currency} }
	return orderBody{
		OrderID: s.ID, CheckoutID: s.Checkout, BuyerID: s.Buyer, SellerID: s.Seller,
		Status: s.Status, Payment: s.Payment(), Fulfilment: s.Fulfilment(),
		PlacedAt: instantOf(o.PlacedAt), PaymentDeadline: ifSet(s.Deadline), PaidAt: ifSet(o.PaidAt), ShippedAt: ifSet(o.ShippedAt),
		DeliveredAt: ifSet(o.DeliveredAt), CompletesAt: ifSet(s.CompletesAt()), CompletedAt: ifSet(o.CompletedAt), EndedAt: ifSet(o.EndedAt),
		ClosedAt: ifSet(o.ClosedAt), ChangedAt: instantOf(o.ChangedAt),
		Total: in(s.Total()), Goods: in(s.Goods()), Freight: in(s.FreightTotal()), Paid: in(s.Paid), Refunded: in(s.RefundedAmount()),
		Method: s.Method, PaymentID: s.PaymentID, Settlement: tellSettled(s, in),
		Lines: tellLines(s, in), Parcels: tellParcels(s), Refunds: tellRefunds(s, in),
		Cancellation: s.Cancellation, CompletedBy: s.CompletedBy, Revision: doc.Revision,
	}
}

func tellSettled(s *order.Order, in func(int64) money.Money) *settledBody {
	if s.Settlement == nil {
		return nil
	}
	return &settledBody{
		Gross: in(s.Settlement.Gross), Commission: in(s.Settlement.Commission), Net: in(s.Settlement.Gross - s.Settlement.Commission),
		CommissionBack: in(s.Settlement.Back), Posted: s.Settlement.Posted,
	}
}

func tellLines(s *order.Order, in func(int64) money.Money) []lineBody {
	lines := make([]lineBody, 0, len(s.Lines))
	for i := range s.Lines {
		it := &s.Lines[i]
		lines = append(lines, lineBody{
			Line: it.Line.Line, SKU: it.SKU, Title: it.Title, Offer: it.Offer, Quantity: it.Quantity,
			UnitPrice: in(it.UnitPrice), Freight: in(it.Freight), Total: in(it.Quantity * (it.UnitPrice + it.Freight)),
			Packed: it.Packed, Shipped: it.Shipped, RefundedUnshipped: it.RefundedUnshipped, Returned: it.Returned,
			Refunded: in(it.Refunded),
		})
	}
	return lines
}

func tellParcels(s *order.Order) []parcelBody {
	parcels := make([]parcelBody, 0, len(s.Parcels))
	for _, p := range s.Parcels {
		told := parcelBody{Parcel: p.Parcel, Status: p.Status, Lines: p.Lines, History: p.History}
		if p.Waybill.Version > 0 {
			told.Waybill = &p.Waybill
		}
		parcels = append(parcels, told)
	}
	return parcels
}

func tellRefunds(s *order.Order, in func(int64) money.Money) []refundBody {
	refunds := make([]refundBody, 0, len(s.Refunds))
	for _, r := range s.Refunds {
		told := refundBody{Refund: r.Refund, Amount: in(r.Amount), Lines: []refundLineBody{}, Reason: r.Reason, By: r.By, Restock: r.Restock, Settled: r.Settled, FromSeller: r.FromSeller}
		if r.FromSeller {
			told.Commission = new(in(r.Commission))
		}
		for _, l := range r.Lines {
			told.Lines = append(told.Lines, refundLineBody{Line: l.Line, Unshipped: l.Unshipped, Returned: l.Returned, Amount: in(l.Amount), Freight: in(l.Freight)})
		}
		refunds = append(refunds, told)
	}
	return refunds
}

// oneOrder gives one order by its id.
func (a *api) oneOrder(ctx context.Context, r *request) (answer, error) {
	doc, err := a.newestOrder(ctx, r)
	if err != nil {
		return answer{}, err
	}
	told := &fullOrder{orderBody: tellOrder(&doc)}
	if told.Address, err = a.address(ctx, doc.Body.State); err != nil {
		return answer{}, err
	}
	return answer{httpedge.ETag(doc.Revision), told}, nil
}

// newestOrder gives an order's document, or the fold of its stream where the
// view has none, is away, is behind what the reader has seen, or follows it no
// more.
func (a *api) newestOrder(ctx context.Context, r *request) (projections.Doc[projections.Order], error) {
	stream := "order-" + r.id
	doc, found, err := a.storedOrder(ctx, stream)
	if err != nil && !errors.Is(err, projections.ErrUnavailable) {
		return projections.Doc[projections.Order]{}, err
	}
	written := r.token[stream]
	if a.Newest != nil {
		written = max(written, a.Newest(stream))
	}
	if _, placed := doc.Body.Facts(); found && placed && doc.Revision >= written {
		return doc, nil
	}
	return a.fold(ctx, stream, r)
}

// storedOrder gives the document that the view has of an order, unless it
// follows the order no more.
func (a *api) storedOrder(ctx context.Context, stream string) (doc projections.Doc[projections.Order], ok bool, err error) {
	docs, err := a.Buyers.Get(ctx, []string{stream})
	if err != nil {
		return doc, false, err
	}
	parked, err := a.Buyers.Parked(ctx, []string{stream})
	if err != nil {
		return doc, false, err
	}
	doc, ok = docs[stream]
	_, stuck := parked[stream]
	return doc, ok && !stuck, nil
}

func (a *api) fold(ctx context.Context, stream string, r *request) (projections.Doc[projections.Order], error) {
	begun := time.Now()
	doc, err := projections.Fold(ctx, a.Store, a.Events, projections.BuyersView(), stream)
	if corrupt, ok := errors.AsType[*projections.CorruptError](err); ok {
		return doc, &event.CorruptError{Stream: corrupt.Stream, Revision: corrupt.Revision, Err: corrupt.Err}
	}
	if err != nil {
		return doc, err
	}
	if doc.Revision < r.token[stream] {
		a.waited(viewBuyers, begun, Late)
		return doc, behind()
	}
	a.waited(viewBuyers, begun, Folded)
	if _, placed := doc.Body.Facts(); !placed {
		return doc, domain.Refuse(domain.NotFound, "unknown_order", "There is no order %s.", r.id)
	}
	return doc, nil
}

// address opens where an order goes; nil once its buyer was erased.
func (a *api) address(ctx context.Context, o order.Order) (*personal.Address, error) {
	if len(o.Address) == 0 {
		return nil, nil
	}
	to, err := a.Keys.Address(ctx, o.Buyer, o.Address)
	if errors.Is(err, a.Erased) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &to, nil
}
