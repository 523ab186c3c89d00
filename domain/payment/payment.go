// Package payment is the payment aggregate: money that is asked for once, by one
// channel, for all orders of a checkout, and what the channel says became of it.
//
// created → pending → captured, or failed, or expired. Money that comes after
// either of the last two is money all the same: captured follows them too, and
// what it is good for is found out afterwards, order by order.
//
// # Why
//
// Receive never refuses money. What is not what was asked for (another amount or
// currency, a second trade, another channel) is recorded as mismatched, beside
// whatever the payment is, and stays there until somebody gives it back
// (TestMoneyThatWasNotAskedForIsKeptApart). A refusal would leave it with the
// channel, known to nobody.
//
// One trade counts once, whoever tells of it and however often
// (TestATradeCountsOnce). That a trade belongs to no other payment is kept by
// the trade's own stream (package trade).
//
// A refund has a key, given by who wants it, and is decided here and nowhere
// else, so that refunds side by side never give back more than came
// (TestRefundsNeverExceedWhatCame). One that the channel refuses stays, failed,
// and is sent again, or to the buyer's balance, by an operator's word.
//
// Posted, Applied and RefundPosted say that the ledger and the orders have been
// told. They are recorded last, so a process that was cut off begins again and
// finds each step done or not (commands.Shop).
//
// Money that can't go back by a refund (it came in another currency, or by another
// channel) is given back by a person, at the channel. ResolveTrade records that it
// was, so that it leaves the ledger too (TestWhatWasSettledOutsideIsResolved).
//
// Splits say whose the money is: they are fixed when it is asked for, and sum to
// it. An order that is cancelled later does not change them; its share goes back.
package payment

import (
	"encoding/json"
	"slices"
	"time"

	"cartwright/domain"
)

// Status is where a payment stands.
type Status string

// A payment begins at StatusNone.
const (
	StatusNone     Status = ""
	StatusCreated  Status = "created"
	StatusPending  Status = "pending"
	StatusCaptured Status = "captured"
	StatusFailed   Status = "failed"
	StatusExpired  Status = "expired"
)

// Payment is the state of one payment, and the document its view stores.
type Payment struct {
	ID       string    `json:"id,omitempty"`
	Checkout string    `json:"checkout,omitempty"`
	Buyer    string    `json:"buyer,omitempty"`
	Channel  string    `json:"channel,omitempty"`
	Currency string    `json:"currency,omitempty"`
	Amount   int64     `json:"amount,omitempty"` // minor units, as asked for
	Status   Status    `json:"status"`
	Splits   []Split   `json:"splits,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`

	Reference   string          `json:"reference,omitempty"`   // the channel's name of it
	Instruction json.RawMessage `json:"instruction,omitempty"` // what the buyer needs
	Failure     string          `json:"failure,omitempty"`

	Captured int64    `json:"captured,omitempty"` // minor units; all of Amount, or nothing
	Applied  bool     `json:"applied,omitempty"`  // every order has had its share, or it is on its way back
	Trades   []Trade  `json:"trades,omitempty"`   // all that came
	Refunds  []Refund `json:"refunds,omitempty"`
}

// A Split is one order's share.
type Split struct {
	Order  string `json:"order"`
	Seller string `json:"seller"`
	Amount int64  `json:"amount"`
}

// A Trade is money that came.
type Trade struct {
	Trade    string `json:"trade"` // the channel's number
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
	Mismatch string `json:"mismatch,omitempty"` // why it is not what was asked for
	Channel  string `json:"channel,omitempty"`  // where another than the payment's has it
	Posted   bool   `json:"posted,omitempty"`   // in the ledger
	Returned bool   `json:"returned,omitempty"` // asked to be given back, or resolved, where it is a mismatch
	Resolved string `json:"resolved,omitempty"` // what became of it outside, by an operator's word
	Cleared  bool   `json:"cleared,omitempty"`  // what was resolved has left the ledger
}

// RefundStatus is where a refund stands.
type RefundStatus string

// A refund begins requested.
const (
	RefundIsRequested  RefundStatus = "requested"
	RefundIsProcessing RefundStatus = "processing"
	RefundIsDone       RefundStatus = "succeeded"
	RefundIsRefused    RefundStatus = "failed"
)

// A Refund is money on its way back.
type Refund struct {
	Key     string       `json:"key"`
	Order   string       `json:"order,omitempty"` // whose share it is
	Trade   string       `json:"trade,omitempty"` // that is given back whole, being a mismatch
	Amount  int64        `json:"amount"`
	Reason  string       `json:"reason,omitempty"`
	To      Way          `json:"to"`
	Status  RefundStatus `json:"status"`
	Failure string       `json:"failure,omitempty"`
	Sent    int          `json:"sent,omitempty"` // how often again
	Posted  bool         `json:"posted,omitempty"`
}

// A Way is where money goes back to.
type Way string

// The ways back.
const (
	ToChannel Way = "channel"
	ToBalance Way = "balance" // the buyer's account
)

// Decider is the payment aggregate.
var Decider = domain.Decider[Payment, Command, Event]{Decide: decide, Evolve: evolve, Clone: Payment.clone}

func (p Payment) clone() Payment {
	p.Trades = slices.Clone(p.Trades)
	p.Refunds = slices.Clone(p.Refunds)
	return p
}

// Open tells whether money is still waited for.
func (p Payment) Open() bool { return p.Status == StatusCreated || p.Status == StatusPending }

// Returned is how much of what was captured has gone back, or is on its way.
func (p Payment) Returned() (sum int64) {
	for _, r := range p.Refunds {
		if r.Trade == "" {
			sum += r.Amount
		}
	}
	return sum
}

// Refund finds a refund by its key.
func (p Payment) Refund(key string) (Refund, bool) {
	i := p.refundAt(key)
	if i < 0 {
		return Refund{}, false
	}
	return p.Refunds[i], true
}

func (p Payment) refundAt(key string) int {
	return slices.IndexFunc(p.Refunds, func(r Refund) bool { return r.Key == key })
}

func (p Payment) tradeAt(number string) int {
	return slices.IndexFunc(p.Trades, func(t Trade) bool { return t.Trade == number })
}
