package account

import (
	"errors"
	"slices"
	"strings"

	"cartwright/domain"
	"cartwright/domain/money"
)

const maxText = 500 // characters of a journal, a reference or a reason

func decide(a Account, c Command) ([]Event, error) {
	switch c := c.(type) {
	case Credit:
		return a.leg(c.Account, c.Currency, Credited{Amount: c.Amount, Journal: c.Journal, From: c.From, Reason: c.Reason})
	case Debit:
		return a.leg(c.Account, c.Currency, Debited{Amount: c.Amount, Journal: c.Journal, To: c.To, Reason: c.Reason})
	default:
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
	case RecordPosted:
		if c.Entry <= a.Entries && !slices.Contains(a.Unposted, c.Entry) {
			return nil, nil
		}
		return Posted(c), nil
	case Hold:
		return a.hold(c)
	case Capture:
		return a.capture(c)
	case Release:
		return a.release(c)
	case Open, Credit, Debit: // decided elsewhere
	}
	return nil, nil
}

func (a Account) open(c Open) (Event, error) {
	if err := CheckID("/account", c.Account); err != nil {
		return nil, err
	}
	switch {
	case opensItself(c.Account):
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

// leg enters one leg of a journal. The first one opens an account of the
// platform's own, or a seller's.
func (a Account) leg(account, in string, e Event) ([]Event, error) {
	var events []Event
	if a.Currency == "" && opensItself(account) {
		if err := errors.Join(CheckID("/account", account), currency(in), suffix(account, in)); err != nil {
			return nil, err
		}
		events = append(events, Opened{Account: account, Currency: in})
		a.ID, a.Currency = account, in
	}
	if err := a.known(); err != nil {
		return nil, err
	}
	if a.ID != account {
		return nil, domain.Refuse(domain.Invalid, "wrong_account", "This is the account of %s, not of %s.", a.ID, account)
	}
	e, err := a.entry(a.numbered(e), in)
	if err != nil || e == nil {
		return nil, err
	}
	if err := a.allows(e); err != nil {
		return nil, err
	}
	return append(events, e), nil
}

// numbered gives a leg the next number.
func (a Account) numbered(e Event) Event {
	switch e := e.(type) {
	case Credited:
		e.Entry = a.Entries + 1
		return e
	case Debited:
		e.Entry = a.Entries + 1
		return e
	default:
		return e
	}
}

// suffix holds an account that opens itself to the currency in its name.
func suffix(account, currency string) error {
	if !strings.HasSuffix(account, "."+currency) {
		return domain.Refuse(domain.Invalid, "wrong_currency", "The account %s is not one in %s.", account, currency)
	}
	return nil
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
	if opensItself(a.ID) {
		return nil, reserved()
	}
	if c.Currency != a.Currency {
		return nil, domain.Refuse(domain.Rejected, "wrong_currency", "The account is in %s, not %s.", a.Currency, c.Currency)
	}
	claims := slices.DeleteFunc(slices.Clone(c.Claims), func(claim Claim) bool {
		open, ok := a.Holds.Get(claim.Order)
		return ok && open.Checkout == c.Checkout && open.Amount == claim.Amount
	})
	if len(claims) == 0 && len(c.Claims) > 0 {
		return nil, nil
	}
	return Held{Checkout: c.Checkout, Claims: claims, Expires: c.Expires.UTC()}, nil
}

func (a Account) capture(c Capture) (Event, error) {
	open, ok := a.Holds.Get(c.Order)
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
	if open, ok := a.Holds.Get(c.Order); ok {
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
	return domain.Refuse(domain.Invalid, "reserved_account", "Accounts named %s… and %s… are opened by the platform, and no order is paid from them.", platform, seller)
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
