package stripepay

import (
	"fmt"

	"cartwright/domain/money"
)

// A unit is what Stripe counts a currency in: ISO's minor units, times and by, and
// always a multiple of step.
type unit struct{ times, by, step int64 }

// unitOf knows Stripe's rules, of https://docs.stripe.com/currencies. A currency
// with two decimals that Stripe does not have it will refuse itself; of others
// only those that it names are sure.
func unitOf(currency string) (u unit, ok bool) {
	switch currency {
	case "BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF":
		return unit{1, 1, 1}, true
	case "BHD", "JOD", "KWD", "OMR", "TND":
		return unit{1, 1, 10}, true
	case "ISK", "UGX":
		return unit{100, 1, 100}, true
	case "MGA":
		return unit{1, 100, 1}, true
	}
	digits, ok := money.Exponent(currency)
	return unit{1, 1, 1}, ok && digits == 2
}

// stripes is m in Stripe's units.
func stripes(m money.Money) (int64, error) {
	u, ok := unitOf(m.Currency)
	if !ok {
		return 0, fmt.Errorf("Stripe does not have the currency %q", m.Currency) //nolint:staticcheck // a name has a capital
	}
	amount, err := money.Mul(m.Amount/u.by, u.times)
	if err != nil || m.Amount%u.by != 0 || amount%u.step != 0 {
		return 0, fmt.Errorf("Stripe can't say %d of %s", m.Amount, m.Currency) //nolint:staticcheck // as above
	}
	return amount, nil
}

// ours is an amount of Stripe's in our units. Of a currency whose unit is not
// known it is told as it is, for somebody to look at.
func ours(amount int64, currency string) (money.Money, error) {
	u, ok := unitOf(currency)
	if !ok {
		return money.Money{Amount: amount, Currency: currency}, nil
	}
	whole, err := money.Mul(amount/u.times, u.by)
	if err != nil || amount%u.times != 0 {
		return money.Money{}, fmt.Errorf("%d of Stripe's %s is no amount", amount, currency)
	}
	return money.Money{Amount: whole, Currency: currency}, nil
}
