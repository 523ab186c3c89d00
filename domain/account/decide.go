package account

import (
	"errors"
	"slices"

	"cartwright/domain"
	"cartwright/domain/money"
)

const maxText = 500 // characters of a journal, a reference or a reason

func decide(a Account, c Command) ([]Event, error) {
	if c, ok := c.(Credit); ok {
		return a.credit(c)
	}
	e, err := a.fact(c)
	if err != nil || e == nil {
		return nil, err
	}
	if err := a.allows(e); err != nil {
		return nil, err
	}
	return []Event{e}, nil
}

// fact is the event that a command asks for, or nil where all is as it wishes.
func (a Account) fact(c Command) (Event, error) {
	if c, ok := c.(Open); ok {
		return a.open(c)
	}
	if err := a.known(); err != nil {
		return nil, err
	}
	switch c := c.(type) {
	case Deposit:
		return a.fromOutside(Deposited{Entry: a.Entries + 1, Amount: c.Amount, Journal: c.Journal, Reference: c.Reference}, c.Currency)
	case Withdraw:
		return a.fromOutside(Withdrawn{Entry: a.Entries + 1, Amount: c.Amount, Journal: c.Journal, Reference: c.Reference}, c.Currency)
	case Debit:
		return a.entry(Debited{Entry: a.Entries + 1, Amount: c.Amount, Journal: c.Journal, To: c.To, Reason: c.Reason}, c.Currency)
	case Hold:
		return a.hold(c)
	case Capture:
		return a.capture(c)
	case Release:
		return a.release(c)
	case Open, Credit: // decided elsewhere
	}
	return nil, nil
}

func (a Account) open(c Open) (Event, error) {
	if err := domain.CheckID("/account", c.Account); err != nil {
		return nil, err
	}
	switch {
	case IsPlatform(c.Account):
		return nil, reserved()
	case a.Currency == "":
		return Opened(c), currency(c.Currency)
	case a.ID != c.Account:
		return nil, domain.Refuse(domain.Conflict, "account_exists", "This is the account of %s.", a.ID)
	case a.Currency != c.Currency:
		return nil, domain.Refuse(domain.Conflict, "account_exists", "The account is open in %s.", a.Currency)
	}
	return nil, nil
}

// credit opens a platform's account by the first money that comes to it.
func (a Account) credit(c Credit) ([]Event, error) {
	var events []Event
	if a.Currency == "" && IsPlatform(c.Account) {
		if err := errors.Join(domain.CheckID("/account", c.Account), currency(c.Currency)); err != nil {
			return nil, err
		}
		events = append(events, Opened{Account: c.Account, Currency: c.Currency})
		a.ID, a.Currency = c.Account, c.Currency
	}
	if err := a.known(); err != nil {
		return nil, err
	}
	if a.ID != c.Account {
		return nil, domain.Refuse(domain.Invalid, "wrong_account", "This is the account of %s, not of %s.", a.ID, c.Account)
	}
	e, err := a.entry(Credited{Entry: a.Entries + 1, Amount: c.Amount, Journal: c.Journal, From: c.From, Reason: c.Reason}, c.Currency)
	if err != nil || e == nil {
		return nil, err
	}
	if err := a.allows(e); err != nil {
		return nil, err
	}
	return append(events, e), nil
}

// fromOutside guards the platform's accounts: a buyer or seller who is named
// like one must not spend from it.
func (a Account) fromOutside(e Event, currency string) (Event, error) {
	if IsPlatform(a.ID) {
		return nil, reserved()
	}
	return a.entry(e, currency)
}

// entry answers a journal that was entered before.
func (a Account) entry(e Event, currency string) (Event, error) {
	entry, _ := EntryOf(e)
	if err := tidy(entry); err != nil {
		return nil, err
	}
	if currency != a.Currency {
		return nil, domain.Refuse(domain.Rejected, "wrong_currency", "The account is in %s, not %s.", a.Currency, currency)
	}
	switch amount, done := a.Done.Find(keyJournal, entry.Journal); {
	case !done:
		return e, nil
	case amount != entry.Amount:
		return nil, differs(entry.Journal)
	}
	return nil, nil
}

// hold asks for the claims that are not held yet.
func (a Account) hold(c Hold) (Event, error) {
	if IsPlatform(a.ID) {
		return nil, reserved()
	}
	if c.Currency != a.Currency {
		return nil, domain.Refuse(domain.Rejected, "wrong_currency", "The account is in %s, not %s.", a.Currency, c.Currency)
	}
	claims := slices.DeleteFunc(slices.Clone(c.Claims), func(claim Claim) bool {
		open, ok := a.Holds[claim.Order]
		return ok && open.Checkout == c.Checkout && open.Amount == claim.Amount
	})
	if len(claims) == 0 && len(c.Claims) > 0 {
		return nil, nil
	}
	return Held{Checkout: c.Checkout, Claims: claims, Expires: c.Expires.UTC()}, nil
}

func (a Account) capture(c Capture) (Event, error) {
	open, ok := a.Holds[c.Order]
	e := Captured{
		Entry: a.Entries + 1, Order: c.Order, Amount: c.Amount, Freed: open.Amount - c.Amount,
		Journal: c.Journal, To: c.To,
	}
	if err := tidy(Entry{Amount: c.Amount, Journal: c.Journal, Reference: c.Order, Counterparty: c.To}); err != nil {
		return nil, err
	}
	if ok {
		return e, nil
	}
	switch amount, done := a.Done.Find(keyCapture, c.Order, c.Journal); {
	case !done:
		return e, nil // allows says why not
	case amount != c.Amount:
		return nil, differs(c.Journal)
	}
	return nil, nil
}

func (a Account) release(c Release) (Event, error) {
	if open, ok := a.Holds[c.Order]; ok {
		return Released{Order: c.Order, Amount: open.Amount, Reason: c.Reason}, nil
	}
	if captured, _ := a.Done.Find(keyHold, c.Order); captured > 0 {
		return nil, domain.Refuse(domain.Conflict, "hold_captured", "The money for order %s was taken.", c.Order)
	}
	return nil, nil
}

func (a Account) known() error {
	if a.Currency == "" {
		return domain.Refuse(domain.NotFound, "unknown_account", "There is no such account.")
	}
	return nil
}

func reserved() error {
	return domain.Refuse(domain.Invalid, "reserved_account", "Accounts named %s… are the platform's own.", platform)
}

func differs(journal string) error {
	return domain.Refuse(domain.Conflict, "journal_differs", "The journal %s was entered before, and otherwise.", journal)
}

func currency(code string) error {
	if !money.Valid(code) {
		return domain.Refuse(domain.Invalid, "unknown_currency", "%q is no ISO-4217 currency.", code)
	}
	return nil
}

// tidy bounds what is stored for ever.
func tidy(e Entry) error {
	if e.Journal == "" {
		return domain.Refuse(domain.Invalid, "no_journal", "Money moves under the name of a journal.")
	}
	return errors.Join(
		domain.CheckText("/journal", e.Journal, maxText),
		domain.CheckText("/counterparty", e.Counterparty, maxText),
		domain.CheckText("/reference", e.Reference, maxText))
}
