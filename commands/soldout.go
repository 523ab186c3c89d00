package commands

import (
	"errors"

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
//
// A SKU that is divided is refused by what all its shards have together, wherever
// goods are on the way between them (TestADividedSKUIsSoldOutWhenAllOfItIs).
func (s *Shop) soldOut(c Checkout, names []string, attempt string) error {
	want := quantities(c.Items)
	for _, sku := range names {
		h := inventory.Hold{Order: string(c.Order), Attempt: attempt, Quantity: want[sku]}
		count := s.divided.shardsOf(sku)
		if count > 1 {
			if err := s.soldOutEverywhere(sku, count, h); err != nil {
				return &soldOutError{refusedItem(c, sku, err)}
			}
			continue
		}
		err := s.stock.Foresee(sku, func(st inventory.Stock) error {
			if st.Shards > count {
				return nil
			}
			return s.tooLittle(h, st, st)
		})
		if err != nil {
			return &soldOutError{refusedItem(c, sku, err)}
		}
	}
	return nil
}

// tooLittle refuses a hold that a stock has too little for, unless one of these
// stocks knows its order.
func (s *Shop) tooLittle(h inventory.Hold, of inventory.Stock, known ...inventory.Stock) error {
	for _, st := range known {
		if st.Knows(h.Order) {
			return nil
		}
	}
	h.Now, h.Expires = s.holdTimes()
	_, err := inventory.Decider.Decide(of, h)
	if domain.ReasonOf(err) != outOfStock {
		return nil // what it is refused for otherwise the lane says
	}
	return err
}

// errSeen says of a look that it was good for something.
var errSeen = errors.New("seen")

// soldOutEverywhere is the refusal of a hold that all shards together have too
// little for, if they are all known as of a moment ago.
func (s *Shop) soldOutEverywhere(sku string, count int, h inventory.Hold) error {
	var shards []inventory.Stock
	for _, stock := range stocks(sku, count) {
		err := s.stock.Foresee(stock, func(st inventory.Stock) error {
			shards = append(shards, st)
			return errSeen
		})
		if err == nil {
			return nil
		}
	}
	if shards[0].Shards > count {
		return nil
	}
	return s.tooLittle(h, inventory.Whole(shards...), shards...)
}
