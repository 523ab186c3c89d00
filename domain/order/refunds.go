package order

import (
	"cmp"
	"slices"

	"cartwright/domain"
)

// refund gives back what is asked for. If that is the last of the money, the
// order ends by it: then packed parcels are taken apart first, and the refund
// takes in all that has not shipped, asked for or not, since it never will.
func (o Order) refund(c Refund) ([]Event, error) {
	if err := o.mayRefund(c); err != nil {
		return nil, err
	}
	lines, err := o.asked(c.Lines)
	if err != nil {
		return nil, err
	}
	amount := amountOf(lines)
	if amount == 0 {
		return nil, domain.Refuse(domain.Rejected, "nothing_to_refund", "There is nothing left to give back.")
	}
	d := o.draft()
	if _, ends := o.Status.after(Refunded{}); ends && o.RefundedAmount()+amount == o.Paid {
		d.unpackAll()
		lines = o.andUnshipped(lines)
	}
	d.add(RefundIssued{
		Refund: len(o.Refunds) + 1, Lines: lines, Amount: amount,
		Reason: c.Reason, By: c.By, Restock: c.Restock,
		FromSeller: o.Settlement != nil, Commission: o.commissionBack(amount),
	})
	return d.end()
}

func (o Order) mayRefund(c Refund) error {
	if err := o.may(RefundIssued{}); err != nil {
		return err
	}
	if err := domain.CheckText("/reason", c.Reason, maxNote); err != nil {
		return err
	}
	if err := domain.CheckText("/by", c.By, maxActor); err != nil {
		return err
	}
	// What is left can always go back at once, however many refunds there were.
	if len(o.Refunds) >= maxRefunds && len(c.Lines) > 0 {
		return domain.Refuse(domain.Rejected, "too_many_refunds", "An order has at most %d refunds by line.", maxRefunds)
	}
	return nil
}

// asked is what the requests come to, in the order of lines: everything, if
// there are none.
func (o Order) asked(requests []RefundRequest) ([]RefundLine, error) {
	if len(requests) == 0 {
		return o.everything(), nil
	}
	byLine := func(a, b RefundRequest) int { return cmp.Compare(a.Line, b.Line) }
	sorted := slices.SortedStableFunc(slices.Values(requests), byLine)
	lines := make([]RefundLine, len(sorted))
	for i, r := range sorted {
		if i > 0 && r.Line == sorted[i-1].Line {
			return nil, domain.Refuse(domain.Invalid, "line_twice", "Line %d is asked for twice.", r.Line)
		}
		var err error
		if lines[i], err = o.askedOf(r); err != nil {
			return nil, err
		}
	}
	return lines, nil
}

// askedOf takes units that have not been packed first, then such as have
// shipped. Those in between are neither: their parcel is on someone's desk.
func (o Order) askedOf(r RefundRequest) (RefundLine, error) {
	it, ok := o.item(r.Line)
	switch {
	case !ok:
		return RefundLine{}, unknownLine(r.Line)
	case r.Freight:
		return it.askedFreight(r)
	case r.Quantity < 0:
		return RefundLine{}, domain.Refuse(domain.Invalid, "invalid_quantity", "%d units of line %d can't be refunded.", r.Quantity, r.Line)
	case r.Quantity == 0 && r.Amount == nil:
		return RefundLine{}, domain.Refuse(domain.Invalid, "empty_refund_line", "Neither units nor an amount of line %d are asked for.", r.Line)
	case r.Quantity > it.kept():
		return RefundLine{}, domain.Refuse(domain.Rejected, "over_quantity", "Only %d units of line %d are left to refund.", it.kept(), r.Line)
	}
	unshipped := min(r.Quantity, it.toPack())
	returned := r.Quantity - unshipped
	if returned > it.out() {
		return RefundLine{}, domain.Refuse(domain.Conflict, "line_packed", "Some of line %d is packed: unpack it first.", r.Line)
	}
	line := RefundLine{Line: r.Line, Unshipped: unshipped, Returned: returned}
	if r.Amount == nil {
		line.Amount, line.Freight = it.shareOf(r.Quantity)
		return line, nil
	}
	line.Amount = *r.Amount
	return line, it.affords(line.Amount)
}

// askedFreight is all that is left of a line's freight. It goes by itself: with
// units or an amount nobody could tell which of the two was meant.
func (it Item) askedFreight(r RefundRequest) (RefundLine, error) {
	if r.Quantity != 0 || r.Amount != nil {
		return RefundLine{}, domain.Refuse(domain.Invalid, "freight_alone", "The freight of line %d is given back by itself, without units or an amount.", r.Line)
	}
	freight := it.lastFreight()
	if freight == 0 {
		return RefundLine{}, domain.Refuse(domain.Rejected, "nothing_to_refund", "Nothing of line %d's freight is left to give back.", r.Line)
	}
	return RefundLine{Line: r.Line, Amount: freight, Freight: freight}, nil
}

// shareOf is what goes back with a line's units, and how much of it is freight:
// what they cost, less freight that went back without them. The last unit takes
// what is left of the line, be it less than that or more; none takes more.
func (it Item) shareOf(quantity int64) (amount, freight int64) {
	left := it.refundable()
	if quantity == it.kept() {
		return left, it.lastFreight()
	}
	freight = min(quantity*it.Freight, it.freightLeft())
	amount = min(left, quantity*it.UnitPrice+freight)
	return amount, min(freight, amount)
}

// lastFreight is how much of what is left of a line is freight: all that can
// be. Freight that went back as an amount was not told apart from the goods.
func (it Item) lastFreight() int64 { return min(it.freightLeft(), it.refundable()) }

// affords refuses an amount that a line does not have.
func (it Item) affords(amount int64) error {
	switch left := it.refundable(); {
	case amount <= 0:
		return domain.Refuse(domain.Invalid, "invalid_amount", "%d can't be given back.", amount)
	case amount > left:
		return domain.Refuse(domain.Rejected, "over_refund", "Only %d of line %d are left to give back.", left, it.Line.Line)
	}
	return nil
}

// everything is all that is left of the order, units and money.
func (o Order) everything() []RefundLine {
	var lines []RefundLine
	for _, it := range o.Lines {
		l := RefundLine{
			Line: it.Line.Line, Unshipped: it.toShip(), Returned: it.out(),
			Amount: it.refundable(), Freight: it.lastFreight(),
		}
		if !l.empty() {
			lines = append(lines, l)
		}
	}
	return lines
}

// andUnshipped is the lines with all units that have not shipped.
func (o Order) andUnshipped(lines []RefundLine) []RefundLine {
	all := make([]RefundLine, len(o.Lines))
	for i, it := range o.Lines {
		all[i] = RefundLine{Line: it.Line.Line}
	}
	for _, l := range lines {
		all[l.Line-1] = l
	}
	for i, it := range o.Lines {
		all[i].Unshipped = it.toShip()
	}
	return slices.DeleteFunc(all, RefundLine.empty)
}

// empty says that a line of a refund gives nothing back.
func (l RefundLine) empty() bool { return l.Unshipped == 0 && l.Returned == 0 && l.Amount == 0 }

func amountOf(lines []RefundLine) int64 {
	var sum int64
	for _, l := range lines {
		sum += l.Amount
	}
	return sum
}
