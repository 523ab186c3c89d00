// Package money is exact arithmetic on amounts: int64 minor units of an
// ISO-4217 currency, with overflow as an error and nothing ever rounded but in
// Portion. Whoever stores an amount stores its currency beside it.
//
// Why plain int64 beside Money: an aggregate has one currency, checked once at
// its border; its fields are amounts. Add, Sub and Mul are for those. Money is
// for borders, where an amount without its currency would be a guess. Floats
// and decimals were not chosen: sums of minor units are exact, and rates come
// as basis points, rounded once (TestPortionIsTheNearestAndTiesGoToEven). Parts
// of a whole are made by Apportion, so that they sum to it exactly
// (TestApportionedPartsSumToTheWhole).
package money

import (
	"errors"
	"fmt"
	"math"
)

// What arithmetic can fail of.
var (
	// ErrOverflow reports a result that an int64 can't hold.
	ErrOverflow = errors.New("amount overflows")
	// ErrCurrency reports two amounts of different currencies.
	ErrCurrency = errors.New("currencies differ")
	// ErrWeights reports weights by which nothing can be apportioned.
	ErrWeights = errors.New("weights are negative or all zero")
)

// Money is an amount of a currency.
type Money struct {
	Amount   int64  `json:"amount"` // minor units
	Currency string `json:"currency"`
}

// Add is m + n, which must be of one currency.
func (m Money) Add(n Money) (Money, error) { return m.with(n, Add) }

// Sub is m − n, which must be of one currency.
func (m Money) Sub(n Money) (Money, error) { return m.with(n, Sub) }

// Mul is n times m.
func (m Money) Mul(n int64) (Money, error) {
	amount, err := Mul(m.Amount, n)
	if err != nil {
		return Money{}, err
	}
	return Money{amount, m.Currency}, nil
}

func (m Money) with(n Money, op func(a, b int64) (int64, error)) (Money, error) {
	if m.Currency != n.Currency {
		return Money{}, fmt.Errorf("%q and %q: %w", m.Currency, n.Currency, ErrCurrency)
	}
	amount, err := op(m.Amount, n.Amount)
	if err != nil {
		return Money{}, err
	}
	return Money{amount, m.Currency}, nil
}

// Add is a + b.
func Add(a, b int64) (int64, error) {
	sum := a + b
	if (sum > a) != (b > 0) {
		return 0, fmt.Errorf("%d + %d: %w", a, b, ErrOverflow)
	}
	return sum, nil
}

// Sub is a − b.
func Sub(a, b int64) (int64, error) {
	rest := a - b
	if (rest < a) != (b > 0) {
		return 0, fmt.Errorf("%d - %d: %w", a, b, ErrOverflow)
	}
	return rest, nil
}

// Mul is a × b.
func Mul(a, b int64) (int64, error) {
	if a == 0 || b == 0 {
		return 0, nil
	}
	product := a * b
	// The division itself overflows in one case only: the least number by −1.
	if a == -1 && b == math.MinInt64 || b == -1 && a == math.MinInt64 || product/b != a {
		return 0, fmt.Errorf("%d × %d: %w", a, b, ErrOverflow)
	}
	return product, nil
}
