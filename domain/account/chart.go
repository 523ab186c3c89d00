package account

import (
	"errors"
	"strings"

	"cartwright/domain"
)

const (
	platform = "platform."
	seller   = "seller."
	clearing = platform + "clearing."
	cash     = platform + "cash."
)

// Escrow is the account that holds what buyers paid until sellers have earned it.
func Escrow(currency string) string { return platform + "escrow." + currency }

// Fee is the account of what the platform earns by commissions.
func Fee(currency string) string { return platform + "fee." + currency }

// Suspense is the account of money that came and belongs to no order.
func Suspense(currency string) string { return platform + "suspense." + currency }

// Cash is the account of what was deposited and not withdrawn: the bank's.
func Cash(currency string) string { return cash + currency }

// Clearing is the account of what a payment channel has taken for us.
func Clearing(channel, currency string) string { return clearing + channel + "." + currency }

// Seller is the account of what a seller has earned in one currency.
func Seller(id, currency string) string { return seller + id + "." + currency }

// IsPlatform tells the ids of the platform's own accounts: money comes to them
// and leaves them by journals only.
func IsPlatform(id string) bool { return strings.HasPrefix(id, platform) }

// IsSeller tells the ids of sellers' accounts.
func IsSeller(id string) bool { return strings.HasPrefix(id, seller) }

// MayOwe tells the accounts that may stand below nothing.
func MayOwe(id string) bool {
	return IsSeller(id) || strings.HasPrefix(id, cash) || strings.HasPrefix(id, clearing)
}

// CheckID refuses what can be no account's id. A seller's account is named
// after its seller and is longer by that.
func CheckID(pointer, id string) error {
	if rest, ok := strings.CutPrefix(id, seller); ok {
		dot := max(strings.LastIndexByte(rest, '.'), 0)
		return errors.Join(domain.CheckID(pointer, rest[:dot]), currency(strings.TrimPrefix(rest[dot:], ".")))
	}
	return domain.CheckID(pointer, id)
}

// opensItself tells the accounts that the first money opens.
func opensItself(id string) bool { return IsPlatform(id) || IsSeller(id) }
