package commands

import (
	"cartwright/domain"
	"cartwright/domain/inventory"
)

// outOfStock is the reason why a hold is refused that there are no goods for.
const outOfStock = "out_of_stock"

// A soldOutError refuses a checkout that was not placed before either.
type soldOutError struct{ refusal error }

func (e *soldOutError) Error() string { return e.refusal.Error() }

func (e *soldOutError) Unwrap() error { return e.refusal }

// soldOut refuses a cart that wants more of something than there was a moment ago,
// by what its hold would be told: no lane is asked, and no key is made for a buyer
// who gets nothing (TestWhatIsSoldOutIsRefusedWithHardlyALookAtTheLog).
//
// An order stands only on goods that it held, and the stock knows for as long as a
// hold may be asked for which orders those are. So a checkout that this stock knows
// goes the long way, where a repeat finds the answer that it had
// (TestARepeatIsAnsweredThoughItIsKnownThatNothingIsLeft), and one that it does not
// know need not be looked for.
func (s *Shop) soldOut(c Checkout, attempt string) error {
	want := quantities(c.Items)
	for _, sku := range skus(c.Items) {
		h := inventory.Hold{Order: string(c.Order), Attempt: attempt, Quantity: want[sku]}
		err := s.stock.Foresee(sku, func(st inventory.Stock) error {
			if st.Knows(h.Order) {
				return nil
			}
			h.Now, h.Expires = s.holdTimes()
			_, err := inventory.Decider.Decide(st, h)
			if domain.ReasonOf(err) != outOfStock {
				return nil // what it is refused for otherwise the lane says
			}
			return err
		})
		if err != nil {
			return &soldOutError{refusedItem(c, sku, err)}
		}
	}
	return nil
}
