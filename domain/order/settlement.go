package order

import (
	"errors"
	"fmt"
	"math/bits"

	"cartwright/domain"
	"cartwright/domain/money"
)

// whole is 100% in basis points.
const whole = 10_000

// A Settlement is what an order came to for its seller, who earns gross less
// commission by it. Later refunds are the seller's, and take both back.
type Settlement struct {
	Gross      int64 `json:"gross"`            // what was paid less what was refunded by then
	Commission int64 `json:"commission"`       // the platform's part of it
	Back       int64 `json:"back,omitempty"`   // of the commission: what refunds have given back since
	Posted     bool  `json:"posted,omitempty"` // the seller has it
}

// settle decides what the seller earns. Once it is decided, another rate is no
// reason to decide it again.
func (o Order) settle(c Settle) ([]Event, error) {
	if c.CommissionBP < 0 || c.CommissionBP > whole {
		return nil, domain.Refuse(domain.Invalid, "invalid_commission", "A commission is 0 to %d basis points, not %d.", whole, c.CommissionBP)
	}
	commission, err := o.commission(c.CommissionBP)
	if err != nil {
		return nil, err
	}
	return o.record(o.Settlement != nil, Settled{Gross: o.Net(), Commission: commission})
}

// commission is the platform's part of what is left of each line. No line's is
// more than what is left of it, so neither they nor their sum overflow.
func (o Order) commission(basisPoints int64) (int64, error) {
	var sum int64
	for _, it := range o.Lines {
		portion, err := money.Portion(it.refundable(), basisPoints)
		if err != nil {
			return 0, fmt.Errorf("commission on line %d: %w", it.Line.Line, err)
		}
		sum += portion
	}
	return sum, nil
}

func (o Order) recordPosted() ([]Event, error) {
	if err := o.may(SettlementPosted{}); err != nil {
		return nil, err
	}
	if o.Settlement == nil {
		return nil, domain.Refuse(domain.Conflict, "not_settled", "The order is not settled.")
	}
	return o.record(o.Settlement.Posted, SettlementPosted{})
}

// commissionBack is the commission that goes back to the seller with a refund:
// the share of all refunds since the settlement, less what went back before. So
// the roundings do not add up. An older history may have shared otherwise; it
// is followed as far as this refund goes.
func (o Order) commissionBack(amount int64) int64 {
	s := o.Settlement
	if s == nil {
		return 0
	}
	due := s.share(s.Gross-o.Net()+amount) - s.Back
	return max(0, min(due, amount))
}

// share is commission × refunded / gross, rounded to the nearest minor unit, a
// tie to the even one. The product is 128 bits wide, and the share is no more
// than the commission.
func (s Settlement) share(refunded int64) int64 {
	if refunded >= s.Gross { // also where both are nothing
		return s.Commission
	}
	hi, lo := bits.Mul64(uint64(s.Commission), uint64(refunded)) //nolint:gosec // G115: evolve lets neither be negative
	q, r := bits.Div64(hi, lo, uint64(s.Gross))                  //nolint:gosec // G115: it is more than either
	rest := uint64(s.Gross) - r                                  //nolint:gosec // G115: as above
	if r > rest || r == rest && q%2 == 1 {
		q++
	}
	return int64(q) //nolint:gosec // G115: no more than the commission
}

func applySettlement(o *Order, e Settled) error {
	switch {
	case o.Settlement != nil:
		return errors.New("settled twice")
	case e.Gross != o.Net():
		return fmt.Errorf("%d settled of an order that holds %d", e.Gross, o.Net())
	case e.Commission < 0 || e.Commission > e.Gross:
		return fmt.Errorf("a commission of %d on %d", e.Commission, e.Gross)
	}
	o.Settlement = &Settlement{Gross: e.Gross, Commission: e.Commission}
	return nil
}

func applyPosted(o *Order) error {
	if o.Settlement == nil {
		return errors.New("not settled")
	}
	return raise(&o.Settlement.Posted)
}

// possiblePayer checks that a refund is the seller's if the seller has been
// settled with, and that no more commission goes back by it than it gives back
// itself, nor than was taken.
func possiblePayer(o *Order, e RefundIssued) error {
	if e.FromSeller != (o.Settlement != nil) {
		return errors.New("it is the seller's once the order is settled, and not before")
	}
	var left int64
	if o.Settlement != nil {
		left = o.Settlement.Commission - o.Settlement.Back
	}
	if e.Commission < 0 || e.Commission > min(left, e.Amount) {
		return fmt.Errorf("%d of the commission with %d back, of which %d are left", e.Commission, e.Amount, left)
	}
	return nil
}
