package money_test

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"cartwright/domain/money"
)

// edgy draws integers of which many stand where arithmetic breaks.
func edgy() *rapid.Generator[int64] {
	return rapid.OneOf(
		rapid.Int64(), rapid.Int64Range(-3, 3), rapid.Int64Range(-1<<32, 1<<32),
		rapid.SampledFrom([]int64{math.MaxInt64, math.MaxInt64 - 1, math.MinInt64, math.MinInt64 + 1, 1 << 62, -1 << 62, 3037000500}))
}

func TestArithmeticIsExactOrAnError(t *testing.T) {
	for name, op := range map[string]struct {
		ours  func(a, b int64) (int64, error)
		exact func(z, a, b *big.Int) *big.Int
	}{
		"add": {money.Add, (*big.Int).Add},
		"sub": {money.Sub, (*big.Int).Sub},
		"mul": {money.Mul, (*big.Int).Mul},
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				a, b := edgy().Draw(t, "a"), edgy().Draw(t, "b")
				got, err := op.ours(a, b)
				want := op.exact(new(big.Int), big.NewInt(a), big.NewInt(b))
				if !want.IsInt64() {
					if !errors.Is(err, money.ErrOverflow) {
						t.Fatalf("%d and %d: got %d, %v; want overflow", a, b, got, err)
					}
					return
				}
				if err != nil || got != want.Int64() {
					t.Fatalf("%d and %d: got %d, %v; want %s", a, b, got, err, want)
				}
			})
		})
	}
}

func TestTheLeastNumberTimesMinusOneOverflows(t *testing.T) {
	for _, c := range [][2]int64{{math.MinInt64, -1}, {-1, math.MinInt64}} {
		if got, err := money.Mul(c[0], c[1]); !errors.Is(err, money.ErrOverflow) {
			t.Errorf("%d × %d: got %d, %v", c[0], c[1], got, err)
		}
	}
	for _, c := range [][2]int64{{math.MinInt64, 1}, {1, math.MinInt64}} {
		if got, err := money.Mul(c[0], c[1]); err != nil || got != math.MinInt64 {
			t.Errorf("%d × %d: got %d, %v", c[0], c[1], got, err)
		}
	}
}

func TestMoneyIsOfOneCurrency(t *testing.T) {
	real9, yen := money.Money{Amount: 900, Currency: "BRL"}, money.Money{Amount: 100, Currency: "JPY"}
	if got, err := real9.Add(yen); !errors.Is(err, money.ErrCurrency) {
		t.Errorf("add: got %v, %v", got, err)
	}
	if got, err := real9.Sub(yen); !errors.Is(err, money.ErrCurrency) {
		t.Errorf("sub: got %v, %v", got, err)
	}
	if got, err := real9.Add(real9); err != nil || got != (money.Money{Amount: 1800, Currency: "BRL"}) {
		t.Errorf("add: got %v, %v", got, err)
	}
	if got, err := real9.Sub(money.Money{Amount: 1000, Currency: "BRL"}); err != nil || got != (money.Money{Amount: -100, Currency: "BRL"}) {
		t.Errorf("sub: got %v, %v", got, err)
	}
	if got, err := real9.Mul(3); err != nil || got != (money.Money{Amount: 2700, Currency: "BRL"}) {
		t.Errorf("mul: got %v, %v", got, err)
	}
	for name, op := range map[string]func() (money.Money, error){
		"add": func() (money.Money, error) { return real9.Add(money.Money{Amount: math.MaxInt64, Currency: "BRL"}) },
		"mul": func() (money.Money, error) { return real9.Mul(math.MaxInt64) },
	} {
		if got, err := op(); !errors.Is(err, money.ErrOverflow) || got != (money.Money{}) {
			t.Errorf("%s: got %v, %v; want overflow", name, got, err)
		}
	}
}

func TestMoneyInJSON(t *testing.T) {
	got, err := json.Marshal(money.Money{Amount: 64900, Currency: "BRL"})
	if want := `{"amount":64900,"currency":"BRL"}`; err != nil || string(got) != want {
		t.Fatalf("got %s, %v; want %s", got, err, want)
	}
}

func TestCurrenciesHaveTheirExponents(t *testing.T) {
	for code, want := range map[string]int{"CNY": 2, "BRL": 2, "EUR": 2, "JPY": 0, "KRW": 0, "KWD": 3, "BHD": 3, "CLF": 4} {
		if got, ok := money.Exponent(code); !ok || got != want || !money.Valid(code) {
			t.Errorf("%s: got %d, %t; want %d", code, got, ok, want)
		}
	}
	for _, code := range []string{"", "brl", "BR", "BRLX", "XXX", "XTS", "XAU", "DEM", "ZZZ"} {
		if got, ok := money.Exponent(code); ok || got != 0 || money.Valid(code) {
			t.Errorf("%q is taken for a currency", code)
		}
	}
}

func TestPortion(t *testing.T) {
	for _, c := range []struct{ amount, basisPoints, want int64 }{
		{10_000, 1, 1},
		{10_000, 0, 0},
		{0, 250, 0},
		{999, 10_000, 999},
		{200, 25, 0},  // 0.5, a tie, goes to 0
		{600, 25, 2},  // 1.5, a tie, goes to 2
		{1000, 25, 2}, // 2.5, a tie, goes to 2
		{201, 25, 1},  // 0.5025
		{199, 25, 0},  // 0.4975
		{-600, 25, -2},
		{600, -25, -2},
		{-600, -25, 2},
		{-200, 25, 0},
		{math.MaxInt64, 10_000, math.MaxInt64},
		{math.MinInt64, 10_000, math.MinInt64},
		{math.MaxInt64, 5_000, 1 << 62}, // …3.5 goes to …4
	} {
		if got, err := money.Portion(c.amount, c.basisPoints); err != nil || got != c.want {
			t.Errorf("%d basis points of %d: got %d, %v; want %d", c.basisPoints, c.amount, got, err, c.want)
		}
	}
	for _, c := range [][2]int64{
		{math.MaxInt64, 10_001},
		{math.MinInt64, -10_000},
		{math.MaxInt64, math.MaxInt64},
		{math.MinInt64, 10_001},
		{1 << 62, 40_000},
		{9222449791875588249, 20_002}, // its quotient is 64 ones, and rounds up
		{math.MinInt64, math.MinInt64},
		{math.MaxInt64, 20_000},
	} {
		if got, err := money.Portion(c[0], c[1]); !errors.Is(err, money.ErrOverflow) {
			t.Errorf("%d basis points of %d: got %d, %v; want overflow", c[1], c[0], got, err)
		}
	}
}

func TestPortionIsTheNearestAndTiesGoToEven(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := edgy().Draw(t, "amount")
		points := rapid.OneOf(edgy(), rapid.Int64Range(-20_000, 20_000)).Draw(t, "basis points")
		product := new(big.Int).Mul(big.NewInt(amount), big.NewInt(points))
		// Rounded half up on twice the scale, by division to the floor, then a tie set to even.
		want, rest := new(big.Int).DivMod(new(big.Int).Add(new(big.Int).Lsh(product, 1), big.NewInt(10_000)), big.NewInt(20_000), new(big.Int))
		if rest.Sign() == 0 && want.Bit(0) == 1 {
			want.Sub(want, big.NewInt(1))
		}
		got, err := money.Portion(amount, points)
		if want.IsInt64() && (err != nil || got != want.Int64()) || !want.IsInt64() && !errors.Is(err, money.ErrOverflow) {
			t.Fatalf("got %d, %v; want %s", got, err, want)
		}
	})
}

func TestApportion(t *testing.T) {
	for _, c := range []struct {
		total         int64
		weights, want []int64
	}{
		{100, []int64{1, 1, 1}, []int64{34, 33, 33}},
		{101, []int64{1, 1, 1}, []int64{34, 34, 33}},
		{-100, []int64{1, 1, 1}, []int64{-34, -33, -33}},
		{10, []int64{1, 0, 2}, []int64{3, 0, 7}},
		{1, []int64{0, 0, 5}, []int64{0, 0, 1}},
		{0, []int64{0, 0}, []int64{0, 0}},
		{0, nil, []int64{}},
		{5, []int64{7}, []int64{5}},
		{math.MinInt64, []int64{1}, []int64{math.MinInt64}},
		{math.MaxInt64, []int64{math.MaxInt64 - 1, 1}, []int64{math.MaxInt64 - 1, 1}},
	} {
		if got, err := money.Apportion(c.total, c.weights); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%d by %d: got %d, %v; want %d", c.total, c.weights, got, err, c.want)
		}
	}
	for _, c := range []struct {
		total   int64
		weights []int64
		want    error
	}{
		{5, []int64{0, 0}, money.ErrWeights},
		{5, nil, money.ErrWeights},
		{5, []int64{3, -1}, money.ErrWeights},
		{0, []int64{-1}, money.ErrWeights},
		{5, []int64{math.MaxInt64, 1}, money.ErrOverflow},
	} {
		if got, err := money.Apportion(c.total, c.weights); !errors.Is(err, c.want) || got != nil {
			t.Errorf("%d by %d: got %d, %v; want %v", c.total, c.weights, got, err, c.want)
		}
	}
}

func TestApportionedPartsSumToTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := edgy().Draw(t, "total")
		weight := rapid.OneOf(rapid.Int64Range(0, 5), rapid.Int64Range(0, 1<<56))
		weights := rapid.SliceOfN(weight, 1, 20).Draw(t, "weights")
		weights[0]++ // not all zero
		parts, err := money.Apportion(total, weights)
		if err != nil {
			t.Fatal(err)
		}
		sum, whole := new(big.Int), new(big.Int)
		for _, w := range weights {
			whole.Add(whole, big.NewInt(w))
		}
		for i, part := range parts {
			sum.Add(sum, big.NewInt(part))
			// The part is less than one minor unit from its exact share.
			off := new(big.Int).Mul(big.NewInt(part), whole)
			off.Sub(off, new(big.Int).Mul(big.NewInt(total), big.NewInt(weights[i])))
			if off.CmpAbs(whole) >= 0 {
				t.Fatalf("part %d is %d of %d by %d", i, part, total, weights)
			}
			for j := range i {
				if weights[j] == weights[i] {
					if d := parts[j] - part; total > 0 && (d < 0 || d > 1) || total < 0 && (d > 0 || d < -1) {
						t.Fatalf("parts %d and %d of equal weight are %d and %d", j, i, parts[j], part)
					}
				}
			}
		}
		if sum.Cmp(big.NewInt(total)) != 0 {
			t.Fatalf("%d sum to %s, not %d", parts, sum, total)
		}
	})
}
