package payment

import (
	"encoding/json"
	"time"

	"cartwright/domain/event"
)

// Command is a wish: it may be refused.
//
//sumtype:decl
type Command interface{ command() }

type (
	// Create begins a payment of a checkout by a channel.
	Create struct {
		Payment, Checkout, Buyer, Channel, Currency string
		Amount                                      int64
		Splits                                      []Split
		Expires                                     time.Time
	}
	// RecordAsked notes what the channel answered, and when to ask it again at the latest.
	RecordAsked struct {
		Reference   string
		Instruction json.RawMessage
		Look        time.Time
	}
	// Receive records money that came, be it what was asked for or not.
	Receive struct {
		Channel, Trade, Currency string
		Amount                   int64
		At                       time.Time // by the channel's clock
	}
	// Fail gives a payment up that the channel has given up.
	Fail struct{ Reason string }
	// Expire gives a payment up that nobody made in time, and the channel has closed.
	Expire struct{}
	// RecordPosted notes that a trade is in the ledger.
	RecordPosted struct{ Trade string }
	// RecordApplied notes that every order has had its share.
	RecordApplied struct{}
	// RequestRefund gives some of what was captured back, or with a Trade all of
	// one that was not asked for.
	RequestRefund struct {
		Refund string // the key: the same one again is the same refund
		Order  string
		Trade  string
		Amount int64
		Reason string
		Look   time.Time // when to ask the channel again at the latest
	}
	// ResolveTrade says that money which was not asked for was given back outside.
	ResolveTrade struct{ Trade, By, Reason string }
	// RecordCleared notes that what was resolved has left the ledger.
	RecordCleared struct{ Trade string }
	// RecordRefund notes what is said of a refund by where it goes to.
	RecordRefund struct {
		Refund string
		By     Way
		Status RefundStatus // processing, succeeded or failed
		Reason string
	}
	// RedirectRefund sends a refund that failed again, by this way.
	RedirectRefund struct {
		Refund string
		To     Way
		Look   time.Time
	}
	// RecordRefundPosted notes that a refund is in the ledger.
	RecordRefundPosted struct{ Refund string }
)

func (Create) command()             {}
func (RecordAsked) command()        {}
func (Receive) command()            {}
func (Fail) command()               {}
func (Expire) command()             {}
func (RecordPosted) command()       {}
func (RecordApplied) command()      {}
func (RequestRefund) command()      {}
func (ResolveTrade) command()       {}
func (RecordCleared) command()      {}
func (RecordRefund) command()       {}
func (RedirectRefund) command()     {}
func (RecordRefundPosted) command() {}

// Event is a fact: it is never refused, only found impossible.
//
//sumtype:decl
type Event interface{ event() }

type (
	// Created began a payment.
	Created struct {
		Payment  string    `json:"payment"`
		Checkout string    `json:"checkout"`
		Buyer    string    `json:"buyer"`
		Channel  string    `json:"channel"`
		Currency string    `json:"currency"`
		Amount   int64     `json:"amount"`
		Splits   []Split   `json:"splits"`
		Expires  time.Time `json:"expires"`
	}
	// Asked says that the channel waits for the buyer.
	Asked struct {
		Reference   string          `json:"reference,omitempty"`
		Instruction json.RawMessage `json:"instruction"`
		Look        time.Time       `json:"look"`
	}
	// Captured says that what was asked for has come.
	Captured struct {
		Trade  string    `json:"trade"`
		Amount int64     `json:"amount"`
		At     time.Time `json:"at,omitzero"`
	}
	// Mismatched says that money has come that was not asked for.
	Mismatched struct {
		Trade    string    `json:"trade"`
		Channel  string    `json:"channel"`
		Amount   int64     `json:"amount"`
		Currency string    `json:"currency"`
		Reason   string    `json:"reason"`
		At       time.Time `json:"at,omitzero"`
	}
	// Failed says that the channel has given up.
	Failed struct {
		Reason string `json:"reason"`
	}
	// Expired says that nobody paid in time.
	Expired struct{}
	// Posted says that a trade is in the ledger.
	Posted struct {
		Trade string `json:"trade"`
	}
	// Applied says that every order has had its share, or that it is on its way back.
	Applied struct{}
	// RefundRequested is the decision to give money back.
	RefundRequested struct {
		Refund string    `json:"refund"`
		Order  string    `json:"order,omitempty"`
		Trade  string    `json:"trade,omitempty"`
		Amount int64     `json:"amount"`
		Reason string    `json:"reason,omitempty"`
		Look   time.Time `json:"look"`
	}
	// TradeResolved says that money which was not asked for was given back outside.
	TradeResolved struct {
		Trade  string `json:"trade"`
		By     string `json:"by"`
		Reason string `json:"reason"`
	}
	// TradeCleared says that what was resolved has left the ledger.
	TradeCleared struct {
		Trade string `json:"trade"`
	}
	// RefundProcessing says that the channel takes its time.
	RefundProcessing struct {
		Refund string `json:"refund"`
	}
	// RefundSucceeded says that the money is back.
	RefundSucceeded struct {
		Refund string `json:"refund"`
	}
	// RefundFailed says that the channel refuses to give it back.
	RefundFailed struct {
		Refund string `json:"refund"`
		Reason string `json:"reason"`
	}
	// RefundRedirected sends a failed refund again.
	RefundRedirected struct {
		Refund string    `json:"refund"`
		To     Way       `json:"to"`
		Look   time.Time `json:"look"`
	}
	// RefundPosted says that a refund is in the ledger.
	RefundPosted struct {
		Refund string `json:"refund"`
	}
)

func (Created) event()          {}
func (Asked) event()            {}
func (Captured) event()         {}
func (Mismatched) event()       {}
func (Failed) event()           {}
func (Expired) event()          {}
func (Posted) event()           {}
func (Applied) event()          {}
func (RefundRequested) event()  {}
func (TradeResolved) event()    {}
func (TradeCleared) event()     {}
func (RefundProcessing) event() {}
func (RefundSucceeded) event()  {}
func (RefundFailed) event()     {}
func (RefundRedirected) event() {}
func (RefundPosted) event()     {}

// Types lists the events as they are stored.
func Types() []event.Type {
	return []event.Type{
		event.Of[Created]("payment.created"),
		event.Of[Asked]("payment.asked"),
		event.Of[Captured]("payment.captured"),
		event.Of[Mismatched]("payment.mismatched"),
		event.Of[Failed]("payment.failed"),
		event.Of[Expired]("payment.expired"),
		event.Of[Posted]("payment.posted"),
		event.Of[Applied]("payment.applied"),
		event.Of[RefundRequested]("payment.refund_requested"),
		event.Of[TradeResolved]("payment.trade_resolved"),
		event.Of[TradeCleared]("payment.trade_cleared"),
		event.Of[RefundProcessing]("payment.refund_processing"),
		event.Of[RefundSucceeded]("payment.refund_succeeded"),
		event.Of[RefundFailed]("payment.refund_failed"),
		event.Of[RefundRedirected]("payment.refund_redirected"),
		event.Of[RefundPosted]("payment.refund_posted"),
	}
}
