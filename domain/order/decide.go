package order

import (
	"bytes"
	"fmt"
	"slices"

	"cartwright/domain"
)

func decide(o Order, c Command) ([]Event, error) {
	if o.Status == StatusNone && !begins(c) {
		return nil, domain.Refuse(domain.NotFound, "unknown_order", "There is no such order.")
	}
	switch c := c.(type) {
	case Place:
		return o.place(c)
	case Abandon:
		return o.abandon(c)
	case Pay:
		return o.pay(c)
	case RecordStockCommitted:
		return o.record(o.StockCommitted, StockCommitted{})
	case RecordPaymentCaptured:
		return o.record(o.PaymentCaptured, PaymentCaptured{})
	case RecordStockReleased:
		return o.recordReleased()
	case RecordStockShipped:
		return o.recordShipped(c)
	case RecordRefundSettled:
		return o.recordSettled(c)
	case Cancel:
		return o.cancel(c)
	case ChangeAddress:
		return o.changeAddress(c)
	case Pack:
		return o.pack(c)
	case Unpack:
		return o.unpack(c)
	case SetWaybill:
		return o.setWaybill(c)
	case Deliver:
		return o.deliver(c)
	case Complete:
		return o.complete(c)
	case Settle:
		return o.settle(c)
	case RecordSettlementPosted:
		return o.recordPosted()
	case Refund:
		return o.refund(c)
	}
	return nil, fmt.Errorf("no command %T on an order", c)
}

// begins says that a command makes sense where there is no order yet.
func begins(c Command) bool {
	switch c.(type) {
	case Place, Abandon:
		return true
	default:
		return false
	}
}

// record decides e unless it was recorded before: what stock and accounts
// report may be reported again.
func (o Order) record(done bool, e Event) ([]Event, error) {
	if done {
		return nil, nil
	}
	if err := o.may(e); err != nil {
		return nil, err
	}
	return []Event{e}, nil
}

func (o Order) place(c Place) ([]Event, error) {
	switch {
	case o.Status != StatusNone && c.Attempt == o.Attempt:
		return nil, nil
	case o.Status != StatusNone:
		return nil, domain.Refuse(domain.Conflict, "order_exists", "Order %s was placed before.", o.ID)
	case slices.Contains(o.Abandoned, c.Attempt):
		return nil, domain.Refuse(domain.Conflict, "attempt_abandoned", "This attempt took too long: its stock was given up.")
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return []Event{Placed{
		Order: c.Order, Checkout: c.Checkout, Buyer: c.Buyer, Seller: c.Seller, Currency: c.Currency,
		Lines: c.Lines, Address: c.Address, Attempt: c.Attempt, Deadline: c.Deadline.UTC(), Siblings: c.Siblings,
	}}, nil
}

// abandon fences an attempt. An order that another attempt placed is fence
// enough: no attempt can place it again.
func (o Order) abandon(c Abandon) ([]Event, error) {
	if err := checkAttempt(c.Attempt); err != nil {
		return nil, err
	}
	switch {
	case o.Status != StatusNone && c.Attempt == o.Attempt:
		return nil, domain.Refuse(domain.Conflict, "order_stands", "The attempt placed order %s.", o.ID)
	case o.Status != StatusNone, slices.Contains(o.Abandoned, c.Attempt):
		return nil, nil
	}
	return []Event{Abandoned(c)}, nil
}

func (o Order) pay(c Pay) ([]Event, error) {
	paid := Paid{Amount: c.Amount, Method: c.Method, Payment: c.Payment}
	if o.hasBeenPaid() {
		if (Pay{o.Paid, o.Currency, o.Method, o.PaymentID}) == c {
			return nil, nil
		}
		return nil, domain.Refuse(domain.Conflict, "already_paid", "The order was paid before, otherwise.")
	}
	if err := o.may(paid); err != nil {
		return nil, err
	}
	if err := domain.CheckText("/method", c.Method, maxName); err != nil {
		return nil, err
	}
	if err := domain.CheckText("/payment", c.Payment, maxName); err != nil {
		return nil, err
	}
	if c.Currency != o.Currency {
		return nil, domain.Refuse(domain.Rejected, "wrong_currency", "The order is in %s, not in %q.", o.Currency, c.Currency)
	}
	if c.Amount != o.Total() {
		return nil, domain.Refuse(domain.Rejected, "wrong_amount", "The order costs %d, not %d.", o.Total(), c.Amount)
	}
	return []Event{paid}, nil
}

func (o Order) recordReleased() ([]Event, error) {
	if _, ok := o.Status.after(StockReleased{}); !ok {
		return nil, domain.Refuse(domain.Conflict, "not_cancelled", "The order is not cancelled: it keeps its stock.")
	}
	return o.record(o.StockReleased, StockReleased{})
}

func (o Order) recordShipped(c RecordStockShipped) ([]Event, error) {
	p, err := o.findParcel(c.Parcel)
	if err != nil {
		return nil, err
	}
	if !p.hasShipped() {
		return nil, notShipped(p)
	}
	return o.record(p.StockShipped, StockShipped(c))
}

func (o Order) recordSettled(c RecordRefundSettled) ([]Event, error) {
	if c.Refund < 1 || c.Refund > len(o.Refunds) {
		return nil, domain.Refuse(domain.NotFound, "unknown_refund", "The order has no refund %d.", c.Refund)
	}
	return o.record(o.Refunds[c.Refund-1].Settled, RefundSettled(c))
}

// cancel gives the order up. One that is paid gives back all it holds, in one
// refund that says so.
func (o Order) cancel(c Cancel) ([]Event, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if o.Cancellation != nil {
		return nil, nil
	}
	if _, ok := o.Status.after(Cancelled{}); ok {
		return []Event{Cancelled(c)}, nil
	}
	if o.Status != StatusPaid || o.anyShipped() {
		return nil, domain.Refuse(domain.Conflict, "too_late_to_cancel", "Too late: something has shipped, or the order has ended.")
	}
	if c.Reason == Timeout {
		return nil, domain.Refuse(domain.Conflict, "already_paid", "The order was paid in time.")
	}
	d := o.draft()
	d.unpackAll()
	lines := d.order.everything()
	d.add(RefundIssued{
		Refund: len(o.Refunds) + 1, Lines: lines, Amount: amountOf(lines),
		Reason: string(c.Reason), By: c.By, Cancellation: &c.Cancellation,
	})
	return d.end()
}

func (o Order) changeAddress(c ChangeAddress) ([]Event, error) {
	if err := o.may(AddressChanged(c)); err != nil {
		return nil, err
	}
	switch {
	case o.anyLive():
		return nil, domain.Refuse(domain.Conflict, "already_packed", "Something is packed for the old address.")
	case len(c.Address) == 0:
		return nil, domain.Refuse(domain.Invalid, "missing_address", "There is no address.")
	case len(c.Address) > maxAddress:
		return nil, domain.Refuse(domain.Invalid, "address_too_long", "The sealed address is longer than %d bytes.", maxAddress)
	case bytes.Equal(c.Address, o.Address):
		return nil, nil
	}
	return []Event{AddressChanged(c)}, nil
}

func (o Order) complete(c Complete) ([]Event, error) {
	if err := domain.CheckText("/by", c.By, maxActor); err != nil {
		return nil, err
	}
	return o.record(o.Status == StatusCompleted, Completed(c))
}

// A draft is a decision of several events in the making. Each is applied to a
// copy of the state at once, so that the next is decided on what it left.
type draft struct {
	order  Order
	events []Event
	err    error // the first event that could not be; a fault of ours
}

func (o Order) draft() *draft { return &draft{order: clone(o)} }

func (d *draft) add(e Event) {
	if d.err == nil {
		d.order, d.err = evolve(d.order, e)
	}
	d.events = append(d.events, e)
}

// end closes the draft with the event that has fallen due by it, if one has.
func (d *draft) end() ([]Event, error) {
	if e := d.order.ending(); e != nil {
		d.add(e)
	}
	if d.err != nil {
		return nil, fmt.Errorf("decided what can't happen: %w", d.err)
	}
	return d.events, nil
}
