package order

import (
	"slices"

	"cartwright/domain"
	"cartwright/domain/money"
	"cartwright/domain/orderid"
)

// The policy of the house. Only Decide asks it.
const (
	maxLines    = 200
	maxSiblings = 50
	maxParcels  = 1000
	maxWaybills = 100 // versions of one
	maxRefunds  = 1000

	maxAddress = 4096 // bytes, sealed
	maxTitle   = 500
	maxName    = 64 // carriers and numbers, methods, payments and digests
	maxActor   = 128
	maxNote    = 500
)

// unsound says what makes lines impossible, under whatever policy.
func unsound(lines []Line) *domain.Error {
	if len(lines) == 0 {
		return domain.Refuse(domain.Invalid, "empty_order", "An order has at least one line.")
	}
	var total, units int64
	for i, l := range lines {
		switch {
		case l.Line != i+1:
			return domain.Refuse(domain.Invalid, "invalid_line", "Line %d stands where line %d should.", l.Line, i+1)
		case l.Quantity <= 0:
			return domain.Refuse(domain.Invalid, "invalid_quantity", "Line %d is for %d units.", l.Line, l.Quantity)
		case l.UnitPrice < 0 || l.Freight < 0:
			return domain.Refuse(domain.Invalid, "invalid_price", "Line %d has a negative price.", l.Line)
		}
		var err error
		if total, err = addLine(total, l); err != nil {
			return overflow()
		}
		if units, err = money.Add(units, l.Quantity); err != nil {
			return overflow()
		}
	}
	return nil
}

func overflow() *domain.Error {
	return domain.Refuse(domain.Invalid, "amount_overflow", "The order is larger than can be counted.")
}

// addLine is the total with what the line costs.
func addLine(total int64, l Line) (int64, error) {
	unit, err := money.Add(l.UnitPrice, l.Freight)
	if err != nil {
		return 0, err
	}
	price, err := money.Mul(unit, l.Quantity)
	if err != nil {
		return 0, err
	}
	return money.Add(total, price)
}

// check refuses an order that makes no sense, or breaks the policy.
func (c Place) check() error {
	if err := c.checkNames(); err != nil {
		return err
	}
	if len(c.Address) > maxAddress {
		return domain.Refuse(domain.Invalid, "address_too_long", "The sealed address is longer than %d bytes.", maxAddress)
	}
	if err := checkLines(c.Lines); err != nil {
		return err
	}
	return c.checkSiblings()
}

func (c Place) checkNames() error {
	if err := domain.CheckID("/buyer_id", c.Buyer); err != nil {
		return err
	}
	if err := domain.CheckID("/seller_id", c.Seller); err != nil {
		return err
	}
	if err := orderid.Check(c.Order, c.Buyer); err != nil {
		return err
	}
	if err := orderid.Check(c.Checkout, c.Buyer); err != nil {
		return err
	}
	if !money.Valid(c.Currency) {
		return domain.Refuse(domain.Invalid, "unknown_currency", "%q is no currency.", c.Currency)
	}
	return checkAttempt(c.Attempt)
}

func checkAttempt(attempt string) error {
	if attempt == "" {
		return domain.Refuse(domain.Invalid, "missing_attempt", "The attempt that took the holds is not named.")
	}
	return domain.CheckText("/attempt", attempt, maxActor)
}

func checkLines(lines []Line) error {
	if len(lines) > maxLines {
		return domain.Refuse(domain.Invalid, "too_many_lines", "An order has at most %d lines.", maxLines)
	}
	if fault := unsound(lines); fault != nil {
		return fault
	}
	for _, l := range lines {
		if err := domain.CheckSKU("/sku", l.SKU); err != nil {
			return err
		}
		if err := domain.CheckText("/title", l.Title, maxTitle); err != nil {
			return err
		}
		if err := domain.CheckText("/offer", l.Offer, maxName); err != nil {
			return err
		}
	}
	return nil
}

// checkSiblings holds a checkout's other orders to what they will be held to
// when they are placed, since by then it is too late: this one stands.
func (c Place) checkSiblings() error {
	if len(c.Siblings) == 0 {
		return nil
	}
	if c.Order != c.Checkout {
		return domain.Refuse(domain.Invalid, "misplaced_siblings", "Only the first order of a checkout records the others.")
	}
	if len(c.Siblings) > maxSiblings {
		return domain.Refuse(domain.Invalid, "too_many_sellers", "A checkout has at most %d sellers.", maxSiblings+1)
	}
	orders, sellers := map[string]bool{c.Order: true}, map[string]bool{c.Seller: true}
	lines := c.Lines
	for _, s := range c.Siblings {
		if orders[s.Order] || sellers[s.Seller] {
			return domain.Refuse(domain.Invalid, "duplicate_sibling", "A checkout has one order for each seller.")
		}
		orders[s.Order], sellers[s.Seller] = true, true
		if err := s.check(c.Buyer); err != nil {
			return err
		}
		lines = append(slices.Clip(lines), s.Lines...)
	}
	return payable(lines)
}

func (s Sibling) check(buyer string) error {
	if err := orderid.Check(s.Order, buyer); err != nil {
		return err
	}
	if err := domain.CheckID("/seller_id", s.Seller); err != nil {
		return err
	}
	return checkLines(s.Lines)
}

// payable refuses a checkout that could not be paid in one sum.
func payable(lines []Line) error {
	var total int64
	for _, l := range lines {
		var err error
		if total, err = addLine(total, l); err != nil {
			return overflow()
		}
	}
	return nil
}

func (c Cancellation) check() error {
	switch c.Reason {
	case Timeout, ByBuyer, BySeller, ByOperator, Risk, Stock:
	default:
		return domain.Refuse(domain.Invalid, "unknown_reason", "%q is no reason to cancel.", c.Reason)
	}
	if err := domain.CheckText("/by", c.By, maxActor); err != nil {
		return err
	}
	return domain.CheckText("/note", c.Note, maxNote)
}

func checkWaybill(carrier, number string) error {
	if carrier == "" || number == "" {
		return domain.Refuse(domain.Invalid, "invalid_waybill", "A waybill has a carrier and a number.")
	}
	if err := domain.CheckText("/carrier", carrier, maxName); err != nil {
		return err
	}
	return domain.CheckText("/number", number, maxName)
}
