package projections

import (
	"fmt"

	"cartwright/domain/account"
	"cartwright/domain/event"
)

// AccountsView is the view of accounts with their entries.
func AccountsView() View[Account] {
	return View[Account]{
		Name: "accounts", Categories: []string{"account"}, Apply: applyAccount,
		Settle: func(a Account) Account { a.Fresh = nil; return a },
	}
}

func applyAccount(a Account, r event.Recorded, decoded any) (Account, error) {
	e, err := own[account.Event](r, decoded)
	if err != nil {
		return a, err
	}
	a.ID, a.ChangedAt = event.SubjectID(r.Stream), when(r)
	if opened, ok := e.(account.Opened); ok {
		a.Currency, a.OpenedAt = opened.Currency, a.ChangedAt
	}
	if entry, ok := account.EntryOf(e); ok {
		if entry.Number != a.Entries+1 {
			return a, fmt.Errorf("%s cannot have happened: entry %d follows entry %d", r.Name, entry.Number, a.Entries)
		}
		a.Entries, a.Balance = entry.Number, a.Balance+entry.Amount
		a.Fresh = append(a.Fresh, Entry{Account: a.ID, Entry: entry, Balance: a.Balance, At: a.ChangedAt})
	}
	a.Held += moneyHeld(e)
	if a.Held < 0 || a.Balance < a.Held && !account.MayOwe(a.ID) {
		return a, fmt.Errorf("%s cannot have happened: it leaves a balance of %d and %d of it held", r.Name, a.Balance, a.Held)
	}
	a.SweepAt = sweep(a.SweepAt, a.Held, moneyExpiry(e))
	return a, nil
}
