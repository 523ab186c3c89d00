package order

import (
	"errors"
	"fmt"
	"slices"
)

// evolve applies an event, or says why it cannot have happened.
func evolve(o Order, e Event) (Order, error) {
	next, ok := o.Status.after(e)
	if !ok {
		return o, fmt.Errorf("%T cannot follow status %q", e, o.Status)
	}
	if err := apply(&o, e); err != nil {
		return o, fmt.Errorf("%T: %w", e, err)
	}
	o.Status = next
	return o, nil
}

// apply checks each event whole before it writes any of it, so that a refused
// one leaves the state as it was.
func apply(o *Order, e Event) error {
	switch e := e.(type) {
	case Placed:
		return applyPlaced(o, e)
	case Abandoned:
		return applyAbandoned(o, e)
	case Paid:
		return applyPaid(o, e)
	case StockCommitted:
		return raise(&o.StockCommitted)
	case PaymentCaptured:
		return raise(&o.PaymentCaptured)
	case StockReleased:
		return raise(&o.StockReleased)
	case StockShipped:
		return applyStockShipped(o, e)
	case RefundSettled:
		return applySettled(o, e)
	case Cancelled:
		o.Cancellation = &e.Cancellation
	case AddressChanged:
		return applyAddress(o, e)
	case ParcelPacked:
		return applyPacked(o, e)
	case ParcelUnpacked:
		return applyUnpacked(o, e)
	case WaybillSet:
		return applyWaybill(o, e)
	case ParcelShipped:
		return applyShipped(o, e)
	case ParcelDelivered:
		return applyDelivered(o, e)
	case RefundIssued:
		return applyRefund(o, e)
	case Shipped:
		return unless(o.allShipped(), "nothing has shipped, or something is left to ship")
	case Refunded:
		return unless(o.allBack(), "not all of the money is back, or something is left to ship")
	case Completed:
		o.CompletedBy = e.By
	case Settled:
		return applySettlement(o, e)
	case SettlementPosted:
		return applyPosted(o)
	}
	return nil
}

// unless is the invariant as a sentence: an error unless it holds.
func unless(holds bool, otherwise string) error {
	if holds {
		return nil
	}
	return errors.New(otherwise)
}

// raise sets a flag that is set once.
func raise(flag *bool) error {
	if *flag {
		return errors.New("recorded twice")
	}
	*flag = true
	return nil
}

func applyPlaced(o *Order, e Placed) error {
	if fault := unsound(e.Lines); fault != nil {
		return errors.New(fault.Detail)
	}
	switch {
	case e.Order == "":
		return errors.New("no order id")
	case slices.Contains(o.Abandoned, e.Attempt):
		return fmt.Errorf("attempt %s was abandoned", e.Attempt)
	case len(e.Siblings) > 0 && e.Order != e.Checkout:
		return fmt.Errorf("siblings, which only order %s records", e.Checkout)
	}
	o.ID, o.Checkout, o.Buyer, o.Seller = e.Order, e.Checkout, e.Buyer, e.Seller
	o.Currency, o.Attempt, o.Deadline = e.Currency, e.Attempt, e.Deadline.UTC()
	o.Address = someOrNil(e.Address)
	o.Siblings = inUTC(e.Siblings)
	o.Lines = make([]Item, len(e.Lines))
	for i, l := range e.Lines {
		o.Lines[i].Line = l
	}
	return nil
}

// inUTC is the siblings with their times as JSON gives them back.
func inUTC(siblings []Sibling) []Sibling {
	if len(siblings) == 0 {
		return nil
	}
	siblings = slices.Clone(siblings) // the event keeps its own
	for i := range siblings {
		siblings[i].At = siblings[i].At.UTC()
	}
	return siblings
}

// someOrNil is s, or nil if s is empty: the state's JSON knows no other empty.
func someOrNil[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return s
}

func applyAbandoned(o *Order, e Abandoned) error {
	if slices.Contains(o.Abandoned, e.Attempt) {
		return fmt.Errorf("attempt %s was abandoned before", e.Attempt)
	}
	o.Abandoned = append(o.Abandoned, e.Attempt)
	return nil
}

func applyPaid(o *Order, e Paid) error {
	if e.Amount != o.Total() {
		return fmt.Errorf("%d paid for an order of %d", e.Amount, o.Total())
	}
	o.Paid, o.Method, o.PaymentID = e.Amount, e.Method, e.Payment
	return nil
}

func applyAddress(o *Order, e AddressChanged) error {
	if o.anyLive() {
		return errors.New("something was packed already")
	}
	o.Address = someOrNil(e.Address)
	return nil
}

func applyPacked(o *Order, e ParcelPacked) error {
	if e.Parcel != len(o.Parcels)+1 {
		return fmt.Errorf("parcel %d after %d parcels", e.Parcel, len(o.Parcels))
	}
	if len(e.Lines) == 0 {
		return fmt.Errorf("parcel %d is empty", e.Parcel)
	}
	last := 0
	for _, part := range e.Lines {
		it, ok := o.item(part.Line)
		if !ok || part.Line <= last {
			return fmt.Errorf("line %d is not there, or after line %d", part.Line, last)
		}
		if part.Quantity <= 0 || part.Quantity > it.toPack() {
			return fmt.Errorf("%d units of line %d, of which %d may be packed", part.Quantity, part.Line, it.toPack())
		}
		last = part.Line
	}
	for _, part := range e.Lines {
		o.Lines[part.Line-1].Packed += part.Quantity
	}
	o.Parcels = append(o.Parcels, Parcel{Parcel: e.Parcel, Status: ParcelIsPacked, Lines: e.Lines})
	return nil
}

func applyUnpacked(o *Order, e ParcelUnpacked) error {
	p, err := o.parcelThatIs(ParcelIsPacked, e.Parcel)
	if err != nil {
		return err
	}
	if p.Waybill.Version > 0 {
		return fmt.Errorf("parcel %d has a waybill", e.Parcel)
	}
	p.Status = ParcelIsUnpacked
	for _, part := range p.Lines {
		o.Lines[part.Line-1].Packed -= part.Quantity
	}
	return nil
}

// applyWaybill takes the first waybill on a packed parcel, and later ones only
// once that one has shipped it.
func applyWaybill(o *Order, e WaybillSet) error {
	status := ParcelIsShipped
	if e.Version == 1 {
		status = ParcelIsPacked
	}
	p, err := o.parcelThatIs(status, e.Parcel)
	if err != nil {
		return err
	}
	if e.Version != p.Waybill.Version+1 {
		return fmt.Errorf("version %d of parcel %d's waybill after version %d", e.Version, e.Parcel, p.Waybill.Version)
	}
	if p.Waybill.Version > 0 {
		p.History = append(p.History, p.Waybill)
	}
	p.Waybill = Waybill{e.Version, e.Carrier, e.Number}
	return nil
}

func applyShipped(o *Order, e ParcelShipped) error {
	p, err := o.parcelThatIs(ParcelIsPacked, e.Parcel)
	if err != nil {
		return err
	}
	if p.Waybill.Version == 0 {
		return fmt.Errorf("parcel %d has no waybill", e.Parcel)
	}
	p.Status = ParcelIsShipped
	for _, part := range p.Lines {
		it := &o.Lines[part.Line-1]
		it.Packed -= part.Quantity
		it.Shipped += part.Quantity
	}
	return nil
}

func applyDelivered(o *Order, e ParcelDelivered) error {
	p, err := o.parcelThatIs(ParcelIsShipped, e.Parcel)
	if err != nil {
		return err
	}
	p.Status = ParcelIsDelivered
	if e.Completes.After(o.Completes) {
		o.Completes = e.Completes.UTC()
	}
	return nil
}

func applyStockShipped(o *Order, e StockShipped) error {
	p, ok := o.parcel(e.Parcel)
	if !ok || !p.hasShipped() {
		return fmt.Errorf("parcel %d has not shipped", e.Parcel)
	}
	return raise(&o.Parcels[e.Parcel-1].StockShipped)
}

func applySettled(o *Order, e RefundSettled) error {
	if e.Refund < 1 || e.Refund > len(o.Refunds) {
		return fmt.Errorf("there is no refund %d", e.Refund)
	}
	return raise(&o.Refunds[e.Refund-1].Settled)
}

func applyRefund(o *Order, e RefundIssued) error {
	if e.Refund != len(o.Refunds)+1 {
		return fmt.Errorf("refund %d after %d refunds", e.Refund, len(o.Refunds))
	}
	if err := possibleRefund(o, e); err != nil {
		return fmt.Errorf("refund %d: %w", e.Refund, err)
	}
	for _, l := range e.Lines {
		it := &o.Lines[l.Line-1]
		it.RefundedUnshipped += l.Unshipped
		it.Returned += l.Returned
		it.Refunded += l.Amount
		it.RefundedFreight += l.Freight
	}
	o.Refunds = append(o.Refunds, Repayment{
		Refund: e.Refund, Lines: e.Lines, Amount: e.Amount, Reason: e.Reason, By: e.By, Restock: e.Restock,
		FromSeller: e.FromSeller, Commission: e.Commission,
	})
	if o.Settlement != nil {
		o.Settlement.Back += e.Commission
	}
	if e.Cancellation != nil {
		o.Cancellation = new(*e.Cancellation)
	}
	return nil
}

// possibleRefund checks that each line has what is given back of it, that the
// amounts sum up, that a cancellation gives back all there is of an order of
// which nothing has shipped, and who pays.
func possibleRefund(o *Order, e RefundIssued) error {
	var sum, units int64
	last := 0
	for _, l := range e.Lines {
		it, ok := o.item(l.Line)
		if !ok || l.Line <= last {
			return fmt.Errorf("line %d is not there, or after line %d", l.Line, last)
		}
		if err := it.canGiveBack(l); err != nil {
			return err
		}
		last, sum, units = l.Line, sum+l.Amount, units+l.Unshipped+l.Returned
	}
	switch {
	case sum != e.Amount:
		return fmt.Errorf("its lines sum to %d, not %d", sum, e.Amount)
	case sum == 0 && units == 0:
		return errors.New("it gives nothing back")
	case e.Cancellation != nil && (o.anyShipped() || units != o.unitsToShip() || sum != o.Paid-o.RefundedAmount()):
		return errors.New("it cancels the order and does not give back all of it")
	}
	return possiblePayer(o, e)
}

// canGiveBack checks one line of a refund. That the goods alone cost as much as
// is not freight can't be asked: refunds were stored before any said what
// freight was in them.
func (it Item) canGiveBack(l RefundLine) error {
	switch {
	case l.Unshipped < 0 || l.Unshipped > it.toPack() || l.Returned < 0 || l.Returned > it.out():
		return fmt.Errorf("%d units unshipped and %d returned of line %d, which has %d and %d",
			l.Unshipped, l.Returned, l.Line, it.toPack(), it.out())
	case l.Amount < 0 || l.Amount > it.refundable():
		return fmt.Errorf("%d back of line %d, which has %d left", l.Amount, l.Line, it.refundable())
	case l.Freight < 0 || l.Freight > l.Amount || l.Freight > it.freightLeft():
		return fmt.Errorf("%d of %d back of line %d are freight, of which %d are left", l.Freight, l.Amount, l.Line, it.freightLeft())
	}
	return nil
}

func (o Order) unitsToShip() int64 {
	var sum int64
	for _, it := range o.Lines {
		sum += it.toShip()
	}
	return sum
}

// anyLive says that some parcel has not been taken apart again.
func (o Order) anyLive() bool {
	return slices.ContainsFunc(o.Parcels, func(p Parcel) bool { return p.Status != ParcelIsUnpacked })
}

// parcelThatIs finds a parcel to write to, which must be in this status.
func (o Order) parcelThatIs(status ParcelStatus, parcel int) (*Parcel, error) {
	p, ok := o.parcel(parcel)
	if !ok {
		return nil, fmt.Errorf("there is no parcel %d", parcel)
	}
	if p.Status != status {
		return nil, fmt.Errorf("parcel %d is %s, not %s", parcel, p.Status, status)
	}
	return &o.Parcels[parcel-1], nil
}

// hasShipped says that the parcel is with its carrier, or beyond.
func (p Parcel) hasShipped() bool {
	return p.Status == ParcelIsShipped || p.Status == ParcelIsDelivered
}
