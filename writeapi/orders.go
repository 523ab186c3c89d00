package writeapi

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/personal"
	"cartwright/infra/httpedge"
)

// nothing is the body of a command that has said everything by its path.
type nothing struct{}

func (nothing) check(*faults) {}

type waybillBody struct {
	Carrier string `json:"carrier"`
	Number  string `json:"number"`
}

func (b waybillBody) check(f *faults) { b.checkAt(f, "") }

func (b waybillBody) checkAt(f *faults, pointer string) {
	f.present(b.Carrier != "", pointer+"/carrier")
	f.text(pointer+"/carrier", b.Carrier, maxCarrier)
	f.present(b.Number != "", pointer+"/number")
	f.text(pointer+"/number", b.Number, maxCarrier)
}

type parcelBody struct {
	Lines   []partBody   `json:"lines"`
	Waybill *waybillBody `json:"waybill,omitempty"`
}

type partBody struct {
	Line     int   `json:"line"`
	Quantity int64 `json:"quantity"`
}

func (b parcelBody) check(f *faults) {
	f.lines("/lines", len(b.Lines))
	for i, l := range b.Lines[:min(len(b.Lines), maxItems)] {
		f.between(at("/lines", i, "/line"), int64(l.Line), 1, maxItems)
		f.between(at("/lines", i, "/quantity"), l.Quantity, 1, maxQuantity)
	}
	if b.Waybill != nil {
		b.Waybill.checkAt(f, "/waybill")
	}
}

// orderAnswer is what most commands on an order have to say.
type orderAnswer struct {
	OrderID        string         `json:"order_id"`
	Revision       event.Revision `json:"revision"`
	Parcel         int            `json:"parcel,omitempty"`
	WaybillVersion int            `json:"waybill_version,omitempty"`
	Status         order.Status   `json:"status,omitempty"` // where the command changed it
	Refund         int            `json:"refund,omitempty"`
	Amount         *money.Money   `json:"amount,omitempty"` // of the refund
}

// order runs a command and tells what its events say.
func (a *api) order(ctx context.Context, h head, to target, c order.Command) (answer, error) {
	done, err := a.Shop.Order(ctx, h.req, to.order, c)
	if err != nil {
		return answer{}, err
	}
	out, _ := tellOrder(done, to)
	return out, nil
}

// tellOrder tells a command's events. Amounts lack the currency, which no event
// but the first one says.
func tellOrder(done commands.Done[order.Event], to target) (answer, orderAnswer) {
	told := orderAnswer{OrderID: string(to.order), Revision: done.Revision, Parcel: to.parcel}
	for _, e := range done.Events {
		told.add(e)
	}
	return answer{
		repeated: done.Repeated, etag: httpedge.ETag(done.Revision),
		streams: map[string]event.Revision{done.Stream: done.Revision}, body: told,
	}, told
}

func (o *orderAnswer) add(e order.Event) {
	switch e := e.(type) {
	case order.ParcelPacked:
		o.Parcel = e.Parcel
	case order.WaybillSet:
		o.WaybillVersion = e.Version
	case order.RefundIssued:
		o.Refund, o.Amount = e.Refund, &money.Money{Amount: e.Amount}
	case order.Shipped:
		o.Status = order.StatusShipped
	case order.Completed:
		o.Status = order.StatusCompleted
	case order.Cancelled:
		o.Status = order.StatusCancelled
	case order.Refunded:
		o.Status = order.StatusRefunded
	default: // the rest says nothing that the request did not
	}
}

func (a *api) pack(ctx context.Context, in input[parcelBody]) (answer, error) {
	c := order.Pack{}
	for _, l := range in.body.Lines {
		c.Lines = append(c.Lines, order.Part(l))
	}
	if w := in.body.Waybill; w != nil {
		c.Carrier, c.Number = w.Carrier, w.Number
	}
	out, err := a.order(ctx, in.head, in.to, c)
	out.created = true
	return out, err
}

func (a *api) unpack(ctx context.Context, in input[nothing]) (answer, error) {
	return a.order(ctx, in.head, in.to, order.Unpack{Parcel: in.to.parcel})
}

func (a *api) deliver(ctx context.Context, in input[nothing]) (answer, error) {
	return a.order(ctx, in.head, in.to, order.Deliver{Parcel: in.to.parcel})
}

// waybill sets a parcel's waybill under the waybill's own version: another
// scan of the order does not spoil it.
func (a *api) waybill(ctx context.Context, in input[waybillBody]) (answer, error) {
	c := order.SetWaybill{Parcel: in.to.parcel, Carrier: in.body.Carrier, Number: in.body.Number}
	switch {
	case in.match.Sent && in.absent:
		return answer{}, refuseHeader("if_none_match_malformed", "If-None-Match", "A waybill can't be at a version and new.")
	case in.match.Any, !in.match.Sent && !in.absent:
		return answer{}, versionRequired(`Say by If-Match which version of the waybill this replaces ("v1"), or by If-None-Match: * that there is none yet.`)
	case in.match.Version > maxQuantity, in.match.Sent && in.match.Version == 0:
		return answer{}, domain.Refuse(domain.Stale, "waybill_stale", "The waybill was never at version %d.", in.match.Version)
	}
	c.Version = int(in.match.Version)
	done, err := a.Shop.Order(ctx, in.req, in.to.order, c)
	if err != nil {
		return answer{}, err
	}
	out, told := tellOrder(done, in.to)
	if told.WaybillVersion == 0 { // nothing was set, because it is so already
		if told.WaybillVersion, err = a.waybillVersion(ctx, in.to, c); err != nil {
			return answer{}, err
		}
	}
	out.etag, out.body = httpedge.ETag(told.WaybillVersion), told
	return out, nil
}

// waybillVersion finds the version at which a waybill is as c wants it, where
// that changed nothing: it is the one c knew, or, when c is sent again, the
// next. Neither ever becomes another one's.
func (a *api) waybillVersion(ctx context.Context, to target, c order.SetWaybill) (int, error) {
	o, err := a.Shop.FindOrder(ctx, to.order)
	if err != nil {
		return 0, err
	}
	if to.parcel > len(o.Parcels) {
		return 0, fmt.Errorf("order %s has no parcel %d, whose waybill was set", to.order, to.parcel)
	}
	p := o.Parcels[to.parcel-1]
	sent := order.Waybill{Version: c.Version + 1, Carrier: c.Carrier, Number: c.Number}
	if p.Waybill == sent || slices.Contains(p.History, sent) {
		return sent.Version, nil
	}
	return c.Version, nil
}

func (a *api) changeAddress(ctx context.Context, in input[addressBody]) (answer, error) {
	done, err := a.Shop.ChangeAddress(ctx, in.req, in.to.order, personal.Address(in.body))
	if err != nil {
		return answer{}, err
	}
	out, _ := tellOrder(done, in.to)
	return out, nil
}

// addressBody is the address itself.
type addressBody personal.Address

func (b addressBody) check(f *faults) { f.add(personal.Address(b).Check("")) }

type completeBody struct {
	By string `json:"by,omitempty"`
}

func (b completeBody) check(f *faults) { f.text("/by", b.By, maxText) }

func (a *api) complete(ctx context.Context, in input[completeBody]) (answer, error) {
	return a.order(ctx, in.head, in.to, order.Complete{By: in.by(in.body.By)})
}

// by is who did it: the principal, unless it says that it speaks for somebody else.
func (h head) by(said string) string {
	if said != "" {
		return said
	}
	return h.req.Actor
}

type cancelBody struct {
	Reason order.Reason `json:"reason"`
	By     string       `json:"by,omitempty"`
	Note   string       `json:"note,omitempty"`
}

// reasons are those a caller may give; timeout is the timer's own.
var reasons = []order.Reason{order.ByBuyer, order.BySeller, order.ByOperator, order.Risk, order.Stock}

func (b cancelBody) check(f *faults) {
	f.require(slices.Contains(reasons, b.Reason), "invalid_reason", "/reason", "A reason is buyer, seller, operator, risk or stock.")
	f.text("/by", b.By, maxText)
	f.text("/note", b.Note, maxText)
}

func (a *api) cancel(ctx context.Context, in input[cancelBody]) (answer, error) {
	c := order.Cancel{Cancellation: order.Cancellation{Reason: in.body.Reason, By: in.by(in.body.By), Note: in.body.Note}}
	done, err := a.Shop.Cancel(ctx, in.req, in.to.order, c)
	if err != nil {
		return answer{}, err
	}
	out, told := tellOrder(done, in.to)
	if told.Amount != nil { // it was paid, and is refunded
		var o order.Order
		if o, err = a.Shop.FindOrder(ctx, in.to.order); err != nil {
			return answer{}, err
		}
		told.Amount.Currency = o.Currency
	}
	return out, nil
}

type refundBody struct {
	Lines   []refundLineBody `json:"lines,omitempty"`
	Reason  string           `json:"reason,omitempty"`
	By      string           `json:"by,omitempty"`
	Restock bool             `json:"restock,omitempty"`
}

type refundLineBody struct {
	Line     int          `json:"line"`
	Quantity int64        `json:"quantity,omitempty"`
	Amount   *money.Money `json:"amount,omitempty"`
	Freight  bool         `json:"freight,omitempty"` // all of it that is left, and nothing else
}

func (b refundBody) check(f *faults) {
	f.require(len(b.Lines) <= maxItems, "wrong_item_count", "/lines", "This has at most 200 items; none means all that is left.")
	for i, l := range b.Lines[:min(len(b.Lines), maxItems)] {
		f.between(at("/lines", i, "/line"), int64(l.Line), 1, maxItems)
		f.between(at("/lines", i, "/quantity"), l.Quantity, 0, maxQuantity)
		f.require(l.Quantity > 0 || l.Amount != nil || l.Freight, "missing_field", at("/lines", i, ""), "A line is refunded by quantity, by amount, by both, or its freight.")
		f.require(!l.Freight || l.Quantity == 0 && l.Amount == nil, "freight_alone", at("/lines", i, "/freight"), "Freight is refunded by itself, without a quantity or an amount.")
		f.amount(at("/lines", i, "/amount"), l.Amount, 0)
	}
	f.text("/reason", b.Reason, maxText)
	f.text("/by", b.By, maxText)
}

func (b refundBody) command(by, currency string) (order.Refund, error) {
	c := order.Refund{Reason: b.Reason, By: by, Restock: b.Restock}
	for i, l := range b.Lines {
		line := order.RefundRequest{Line: l.Line, Quantity: l.Quantity, Freight: l.Freight}
		if l.Amount != nil && l.Amount.Currency != currency {
			e := domain.Refuse(domain.Rejected, "wrong_currency", "The order is in %s, not %s.", currency, l.Amount.Currency)
			e.Fields = []domain.Field{{Pointer: at("/lines", i, "/amount/currency"), Detail: e.Detail}}
			return c, e
		}
		if l.Amount != nil {
			line.Amount = &l.Amount.Amount
		}
		c.Lines = append(c.Lines, line)
	}
	return c, nil
}

func (a *api) refund(ctx context.Context, in input[refundBody]) (answer, error) {
	o, err := a.Shop.FindOrder(ctx, in.to.order)
	if err != nil {
		return answer{}, err
	}
	c, err := in.body.command(in.by(in.body.By), o.Currency)
	if err != nil {
		return answer{}, err
	}
	done, err := a.Shop.Order(ctx, in.req, in.to.order, c)
	if err != nil {
		return answer{}, err
	}
	out, told := tellOrder(done, in.to)
	if told.Amount == nil {
		return answer{}, errors.New("a refund that was carried out left no event of it")
	}
	told.Amount.Currency, out.created = o.Currency, true
	return out, nil
}
