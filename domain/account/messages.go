package account

import (
	"time"

	"cartwright/domain/event"
)

// Command is a wish: it may be refused.
//
//sumtype:decl
type Command interface{ command() }

// A Claim is what one order wants of an account.
type Claim struct {
	Order  string `json:"order"`
	Amount int64  `json:"amount"` // minor units
}

type (
	// Open starts an account in one currency.
	Open struct{ Account, Currency string }
	// Deposit brings money in from outside.
	Deposit struct {
		Amount    int64
		Currency  string
		Journal   string
		Reference string
	}
	// Withdraw takes money out.
	Withdraw struct {
		Amount    int64
		Currency  string
		Journal   string
		Reference string
	}
	// Hold sets money aside for the orders of a checkout, for all or for none.
	Hold struct {
		Checkout string
		Currency string
		Claims   []Claim
		Expires  time.Time
	}
	// Capture takes what is held for an order, to another account.
	Capture struct {
		Order   string
		Amount  int64
		Journal string
		To      string
	}
	// Release frees what is held for an order.
	Release struct{ Order, Reason string }
	// Credit is the leg of a journal that brings money in. It opens a platform's
	// own account, and a seller's.
	Credit struct {
		Account, Currency string
		Amount            int64
		Journal           string
		From              string
		Reason            string
	}
	// Debit is the leg of a journal that takes money out. It opens a platform's own account.
	Debit struct {
		Account, Currency string
		Amount            int64
		Journal           string
		To                string
		Reason            string
	}
	// RecordPosted notes that the other leg of an entry from or to the outside stands.
	RecordPosted struct{ Entry int64 }
)

func (Open) command()     {}
func (Deposit) command()  {}
func (Withdraw) command() {}
func (Hold) command()     {}
func (Capture) command()  {}
func (Release) command()  {}
func (Credit) command()   {}
func (Debit) command()    {}

func (RecordPosted) command() {}

// Event is a fact: it is never refused, only found impossible.
//
//sumtype:decl
type Event interface{ event() }

type (
	// Opened started an account.
	Opened struct {
		Account  string `json:"account"`
		Currency string `json:"currency"`
	}
	// Deposited brought money in from outside.
	Deposited struct {
		Entry     int64  `json:"entry"` // from 1, without gaps, within the account
		Amount    int64  `json:"amount"`
		Journal   string `json:"journal"`
		Reference string `json:"reference,omitempty"`
	}
	// Withdrawn took money out.
	Withdrawn struct {
		Entry     int64  `json:"entry"`
		Amount    int64  `json:"amount"` // positive
		Journal   string `json:"journal"`
		Reference string `json:"reference,omitempty"`
	}
	// Held set money aside for the orders of a checkout.
	Held struct {
		Checkout string    `json:"checkout"`
		Claims   []Claim   `json:"claims"`
		Expires  time.Time `json:"expires"`
	}
	// Captured took held money to another account.
	Captured struct {
		Entry   int64  `json:"entry"`
		Order   string `json:"order"`
		Amount  int64  `json:"amount"` // positive
		Freed   int64  `json:"freed"`  // the rest of the order's hold, free again
		Journal string `json:"journal"`
		To      string `json:"to"`
	}
	// Released freed what was held for an order.
	Released struct {
		Order  string `json:"order"`
		Amount int64  `json:"amount"`
		Reason string `json:"reason"`
	}
	// Credited brought money in from another account.
	Credited struct {
		Entry   int64  `json:"entry"`
		Amount  int64  `json:"amount"`
		Journal string `json:"journal"`
		From    string `json:"from"`
		Reason  string `json:"reason"`
	}
	// Debited took money out to another account.
	Debited struct {
		Entry   int64  `json:"entry"`
		Amount  int64  `json:"amount"` // positive
		Journal string `json:"journal"`
		To      string `json:"to"`
		Reason  string `json:"reason"`
	}
	// Posted says that the other leg of an entry from or to the outside stands.
	Posted struct {
		Entry int64 `json:"entry"`
	}
)

func (Opened) event()    {}
func (Deposited) event() {}
func (Withdrawn) event() {}
func (Held) event()      {}
func (Captured) event()  {}
func (Released) event()  {}
func (Credited) event()  {}
func (Debited) event()   {}
func (Posted) event()    {}

// Types lists the events as they are stored.
func Types() []event.Type {
	return []event.Type{
		event.Of[Opened]("account.opened"),
		event.Of[Deposited]("account.deposited"),
		event.Of[Withdrawn]("account.withdrawn"),
		event.Of[Held]("account.held"),
		event.Of[Captured]("account.captured"),
		event.Of[Released]("account.released"),
		event.Of[Credited]("account.credited"),
		event.Of[Debited]("account.debited"),
		event.Of[Posted]("account.posted"),
	}
}
