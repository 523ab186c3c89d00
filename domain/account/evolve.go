package account

import (
	"fmt"
	"math"
	"slices"

	"cartwright/domain"
)

// The kinds of keys in an account's memory.
const (
	keyJournal = "journal" // with its entry's amount
	keyHold    = "hold"    // an order's ended one, with what was captured of it
	keyCapture = "capture" // an order's, by journal
)

func evolve(a Account, e Event) (Account, error) {
	if err := a.allows(e); err != nil {
		// Only the words: a broken history has no code, since no caller can help.
		return a, fmt.Errorf("%T cannot have happened: %s", e, err.Error())
	}
	if entry, ok := EntryOf(e); ok {
		a.Entries = entry.Number
		a.Balance += entry.Amount
		a.Done.Put(entry.Amount, keyJournal, entry.Journal)
	}
	switch e := e.(type) {
	case Opened:
		a.ID, a.Currency = e.Account, e.Currency
	case Held:
		a = a.held(e)
	case Captured:
		a.Done.Put(e.Amount, keyCapture, e.Order, e.Journal)
		a = a.ended(e.Order, e.Amount)
	case Released:
		a = a.ended(e.Order, 0)
	case Deposited:
		a.Unposted = append(a.Unposted, e.Entry)
	case Withdrawn:
		a.Unposted = append(a.Unposted, e.Entry)
	case Posted:
		a.Unposted = without(a.Unposted, e.Entry)
	case Credited, Debited:
		// The entry is all.
	}
	a.Done.Advance(a.Done.Count, doneStep, doneKeep)
	return a, nil
}

func (a Account) held(e Held) Account {
	for _, c := range e.Claims {
		a.Holds.Put(c.Order, Holding{Checkout: e.Checkout, Amount: c.Amount, Expires: e.Expires})
		a.Held += c.Amount
	}
	return a
}

// without is the list less one of its numbers; nil where that was all, as JSON has it.
func without(list []int64, n int64) []int64 {
	list = slices.DeleteFunc(list, func(m int64) bool { return m == n })
	if len(list) == 0 {
		return nil
	}
	return list
}

func (a Account) ended(order string, captured int64) Account {
	open, _ := a.Holds.Get(order)
	a.Held -= open.Amount
	a.Holds.Delete(order)
	a.Done.Put(captured, keyHold, order)
	return a
}

// allows is the one home of what can happen to an account. Decide shows its
// refusals, Evolve reports them as a broken history.
func (a Account) allows(e Event) error {
	if e, ok := e.(Opened); ok {
		return a.allowsOpened(e)
	}
	if err := a.known(); err != nil {
		return err
	}
	if entry, ok := EntryOf(e); ok {
		if err := a.allowsEntry(entry); err != nil {
			return err
		}
	}
	switch e := e.(type) {
	case Withdrawn:
		return a.affords(e.Amount)
	case Debited:
		if MayOwe(a.ID) {
			return nil
		}
		return a.affords(e.Amount)
	case Posted:
		if !slices.Contains(a.Unposted, e.Entry) {
			return domain.Refuse(domain.Conflict, "unknown_entry", "Entry %d of %d waits for no other leg.", e.Entry, a.Entries)
		}
	case Held:
		return a.allowsHeld(e)
	case Captured:
		return a.allowsCaptured(e)
	case Released:
		if open, ok := a.Holds.Get(e.Order); !ok || open.Amount != e.Amount {
			return domain.Refuse(domain.Conflict, "unknown_hold", "The account does not hold %d for order %s.", e.Amount, e.Order)
		}
	case Opened, Deposited, Credited:
	}
	return nil
}

func (a Account) allowsOpened(e Opened) error {
	if a.Currency != "" {
		return domain.Refuse(domain.Conflict, "account_exists", "The account is open in %s.", a.Currency)
	}
	if e.Account == "" || e.Currency == "" {
		return domain.Refuse(domain.Invalid, "bad_account_id", "An account has an owner and a currency.")
	}
	return nil
}

// allowsEntry covers what all entries share: their number, their journal, and
// that the sum fits.
func (a Account) allowsEntry(e Entry) error {
	switch _, done := a.Done.Find(keyJournal, e.Journal); {
	case e.Number != a.Entries+1:
		return domain.Refuse(domain.Conflict, "entry_gap", "Entry %d follows entry %d.", e.Number, a.Entries)
	case e.Amount == 0, e.Amount == math.MinInt64, (e.Amount > 0) != incoming(e.Kind):
		return domain.Refuse(domain.Invalid, "bad_amount", "An amount is more than nothing.")
	case e.Amount > 0 && a.Balance > math.MaxInt64-e.Amount, e.Amount < 0 && a.Balance < math.MinInt64-e.Amount:
		return domain.Refuse(domain.Invalid, "amount_overflow", "No account holds that much.")
	case done:
		return differs(e.Journal)
	}
	return nil
}

func incoming(k Kind) bool { return k == KindDeposit || k == KindCredit }

func (a Account) affords(amount int64) error {
	if amount > a.Available() {
		return domain.Refuse(domain.Rejected, "insufficient_funds", "%d is there, %d is needed.", a.Available(), amount)
	}
	return nil
}

func (a Account) allowsHeld(e Held) error {
	if len(e.Claims) == 0 {
		return domain.Refuse(domain.Invalid, "no_claims", "A hold is for one order at least.")
	}
	var sum int64
	orders := make(map[string]bool, len(e.Claims))
	for _, c := range e.Claims {
		if err := a.allowsClaim(c); err != nil {
			return err
		}
		if orders[c.Order] {
			return domain.Refuse(domain.Invalid, "duplicate_claim", "Order %s claims twice.", c.Order)
		}
		if c.Amount > math.MaxInt64-sum {
			return domain.Refuse(domain.Invalid, "amount_overflow", "No account holds that much.")
		}
		orders[c.Order] = true
		sum += c.Amount
	}
	return a.affords(sum)
}

func (a Account) allowsClaim(c Claim) error {
	_, open := a.Holds.Get(c.Order)
	_, ended := a.Done.Find(keyHold, c.Order)
	switch {
	case c.Order == "":
		return domain.Refuse(domain.Invalid, "bad_order_id", "A claim names its order.")
	case c.Amount <= 0:
		return domain.Refuse(domain.Invalid, "bad_amount", "An amount is more than nothing.")
	case open:
		return domain.Refuse(domain.Conflict, "hold_differs", "Another amount is held for order %s.", c.Order)
	case ended:
		return domain.Refuse(domain.Conflict, "hold_closed", "The hold for order %s has ended.", c.Order)
	}
	return nil
}

func (a Account) allowsCaptured(e Captured) error {
	open, ok := a.Holds.Get(e.Order)
	captured, _ := a.Done.Find(keyHold, e.Order)
	switch {
	case !ok && captured > 0:
		return domain.Refuse(domain.Conflict, "hold_captured", "The money for order %s was taken by another journal.", e.Order)
	case !ok:
		return domain.Refuse(domain.Conflict, "unknown_hold", "Nothing is held for order %s.", e.Order)
	case e.Amount > open.Amount:
		return domain.Refuse(domain.Rejected, "more_than_held", "%d is held for order %s, not %d.", open.Amount, e.Order, e.Amount)
	case e.Amount+e.Freed != open.Amount:
		return domain.Refuse(domain.Conflict, "hold_differs", "%d is held for order %s.", open.Amount, e.Order)
	}
	return nil
}
