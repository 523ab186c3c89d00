package money

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// whole is 100% in basis points.
const whole = 10_000

// Portion is amount × basisPoints / 10,000, rounded to the nearest minor unit,
// a tie to the even one. The product is 128 bits wide, so only the result can
// overflow.
func Portion(amount, basisPoints int64) (int64, error) {
	hi, lo := bits.Mul64(magnitude(amount), magnitude(basisPoints))
	if hi >= whole {
		return 0, fmt.Errorf("%d basis points of %d: %w", basisPoints, amount, ErrOverflow)
	}
	q, r := bits.Div64(hi, lo, whole)
	up := r > whole/2 || r == whole/2 && q%2 == 1
	if up && q < math.MaxUint64 { // the greatest q fits below as little as its successor
		q++
	}
	portion, ok := signed(q, (amount < 0) != (basisPoints < 0))
	if !ok {
		return 0, fmt.Errorf("%d basis points of %d: %w", basisPoints, amount, ErrOverflow)
	}
	return portion, nil
}

// Apportion splits total by weights so that the parts sum to it exactly: each
// gets its share rounded towards zero, and what is left goes, one minor unit
// each, to the largest remainders, of equal ones to the earlier. A part whose
// weight is zero is zero. Zero can be apportioned by weights that are all
// zero, nothing else can.
func Apportion(total int64, weights []int64) ([]int64, error) {
	sum, err := sumWeights(weights)
	if err != nil {
		return nil, err
	}
	parts := make([]int64, len(weights))
	if total == 0 {
		return parts, nil
	}
	if sum == 0 {
		return nil, ErrWeights
	}
	type share struct {
		index     int
		remainder uint64
	}
	shares := make([]share, len(weights))
	left, all := magnitude(total), magnitude(total)
	floors := make([]uint64, len(weights))
	for i, w := range weights {
		// A share is no more than the total, so the quotient fits 64 bits.
		hi, lo := bits.Mul64(all, magnitude(w))
		q, r := bits.Div64(hi, lo, sum)
		floors[i], shares[i] = q, share{i, r}
		left -= q
	}
	slices.SortStableFunc(shares, func(a, b share) int { return cmp.Compare(b.remainder, a.remainder) })
	for _, s := range shares[:left] {
		floors[s.index]++
	}
	for i, f := range floors {
		parts[i], _ = signed(f, total < 0) // no part is larger than the total, which is signed
	}
	return parts, nil
}

func sumWeights(weights []int64) (uint64, error) {
	var sum int64
	var err error
	for _, w := range weights {
		if w < 0 {
			return 0, ErrWeights
		}
		if sum, err = Add(sum, w); err != nil {
			return 0, fmt.Errorf("sum of weights: %w", err)
		}
	}
	return magnitude(sum), nil
}

// magnitude is |n|, also of the least int64, whose negation is itself.
func magnitude(n int64) uint64 {
	if n < 0 {
		n = -n
	}
	return uint64(n) //nolint:gosec // G115: the least int64 becomes 1<<63, which is meant
}

// signed gives a magnitude its sign back, and says whether it fits.
func signed(m uint64, negative bool) (int64, bool) {
	if negative {
		return -int64(m), m <= 1<<63 //nolint:gosec // G115: 1<<63 becomes the least int64, which is meant
	}
	return int64(m), m <= math.MaxInt64 //nolint:gosec // G115: the second result says whether it fits
}
