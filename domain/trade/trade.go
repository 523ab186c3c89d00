// Package trade is one number under which a channel has told of money, for ever.
// Its stream is named by channel and number, so that whoever hears of a trade
// first, and whoever hears of it again, writes to the same place.
//
// # Why
//
// A payment knows its own trades. That one number is not good for two payments,
// and that money for a payment nobody knows is on record before the channel is
// told that it is, takes a stream of the trade's own (TestOneTradeIsForOnePayment,
// TestMoneyForNobodyIsOnRecord).
//
// What is told again under the number and differs is recorded, up to a bound: it
// is either a fault of the channel's or somebody's who has its key.
package trade

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"cartwright/domain"
	"cartwright/domain/event"
)

// Trade is the state of one trade.
type Trade struct {
	Channel  string `json:"channel,omitempty"` // empty before it was seen
	Trade    string `json:"trade,omitempty"`
	Payment  string `json:"payment,omitempty"`
	Amount   int64  `json:"amount,omitempty"`
	Currency string `json:"currency,omitempty"`
	Orphan   string `json:"orphan,omitempty"`   // why it belongs to no payment
	Posted   bool   `json:"posted,omitempty"`   // an orphan's money is in the ledger
	Resolved string `json:"resolved,omitempty"` // what became of an orphan's money, by an operator's word
	Cleared  bool   `json:"cleared,omitempty"`  // and it has left the ledger
	Differed int    `json:"differed,omitempty"`
}

// maxDiffered bounds what is recorded of a channel that contradicts itself.
const maxDiffered = 20

const maxText = 500

// ID names a trade's stream after its category.
func ID(channel, number string) string {
	sum := sha256.Sum256([]byte(number))
	return channel + "." + hex.EncodeToString(sum[:16])
}

// Decider is the trade aggregate.
var Decider = domain.Decider[Trade, Command, Event]{Decide: decide, Evolve: evolve, Clone: func(t Trade) Trade { return t }}

// Command is a wish: it may be refused.
//
//sumtype:decl
type Command interface{ command() }

type (
	// See records what a channel says of a trade.
	See struct {
		Channel, Trade, Payment, Currency string
		Amount                            int64
		At                                time.Time
	}
	// Orphan says that the trade belongs to no payment.
	Orphan struct{ Reason string }
	// RecordPosted notes that an orphan's money is in the ledger.
	RecordPosted struct{}
	// Resolve says what became of an orphan's money: it was given back at the channel.
	Resolve struct{ By, Reason string }
	// RecordCleared notes that it has left the ledger.
	RecordCleared struct{}
)

func (See) command()           {}
func (Orphan) command()        {}
func (RecordPosted) command()  {}
func (Resolve) command()       {}
func (RecordCleared) command() {}

// Event is a fact: it is never refused, only found impossible.
//
//sumtype:decl
type Event interface{ event() }

type (
	// Seen says that a channel has told of a trade.
	Seen struct {
		Channel  string    `json:"channel"`
		Trade    string    `json:"trade"`
		Payment  string    `json:"payment"`
		Amount   int64     `json:"amount"`
		Currency string    `json:"currency"`
		At       time.Time `json:"at,omitzero"` // by the channel's clock
	}
	// Differed says that a channel has told otherwise of a trade than before.
	Differed struct {
		Payment  string `json:"payment"`
		Amount   int64  `json:"amount"`
		Currency string `json:"currency"`
	}
	// Orphaned says that the trade belongs to no payment.
	Orphaned struct {
		Reason string `json:"reason"`
	}
	// Posted says that an orphan's money is in the ledger.
	Posted struct{}
	// Resolved says what became of an orphan's money.
	Resolved struct {
		By     string `json:"by"`
		Reason string `json:"reason"`
	}
	// Cleared says that it has left the ledger.
	Cleared struct{}
)

func (Seen) event()     {}
func (Differed) event() {}
func (Orphaned) event() {}
func (Posted) event()   {}
func (Resolved) event() {}
func (Cleared) event()  {}

// Types lists the events as they are stored.
func Types() []event.Type {
	return []event.Type{
		event.Of[Seen]("trade.seen"),
		event.Of[Differed]("trade.differed"),
		event.Of[Orphaned]("trade.orphaned"),
		event.Of[Posted]("trade.posted"),
		event.Of[Resolved]("trade.resolved"),
		event.Of[Cleared]("trade.cleared"),
	}
}

func decide(t Trade, c Command) ([]Event, error) {
	if _, sees := c.(See); !sees && t.Channel == "" {
		return nil, domain.Refuse(domain.NotFound, "unknown_trade", "There is no such trade.")
	}
	switch c := c.(type) {
	case See:
		return t.see(c)
	case Orphan:
		if t.Orphan != "" {
			return nil, nil
		}
		return []Event{Orphaned(c)}, nil
	case RecordPosted:
		if t.Posted {
			return nil, nil
		}
		if t.Orphan == "" {
			return nil, domain.Refuse(domain.Conflict, "no_orphan", "The trade's payment has posted it.")
		}
		return []Event{Posted(c)}, nil
	case Resolve:
		return t.resolve(c)
	case RecordCleared:
		if t.Cleared {
			return nil, nil
		}
		if t.Resolved == "" {
			return nil, domain.Refuse(domain.Conflict, "not_resolved", "Nobody said what became of it.")
		}
		return []Event{Cleared(c)}, nil
	}
	return nil, nil
}

func (t Trade) resolve(c Resolve) ([]Event, error) {
	switch {
	case c.Reason == "":
		return nil, domain.Refuse(domain.Invalid, "no_reason", "Say what became of it.")
	case t.Orphan == "":
		return nil, domain.Refuse(domain.Conflict, "no_orphan", "The trade belongs to payment %s.", t.Payment)
	case t.Resolved != "":
		return nil, domain.Refuse(domain.Conflict, "already_returned", "It was resolved before: %s", t.Resolved)
	}
	return []Event{Resolved(c)}, errors.Join(domain.CheckText("/by", c.By, maxText), domain.CheckText("/reason", c.Reason, maxText))
}

func (t Trade) see(c See) ([]Event, error) {
	switch {
	case c.Channel == "" || c.Trade == "":
		return nil, domain.Refuse(domain.Invalid, "no_trade", "Money comes under a channel's number.")
	case c.Amount <= 0 || c.Currency == "":
		return nil, domain.Refuse(domain.Invalid, "bad_amount", "%d %s is no amount of money.", c.Amount, c.Currency)
	case t.Channel == "":
		return []Event{Seen{c.Channel, c.Trade, c.Payment, c.Amount, c.Currency, c.At.UTC()}}, nil
	case t.Payment == c.Payment && t.Amount == c.Amount && t.Currency == c.Currency, t.Differed >= maxDiffered:
		return nil, nil
	}
	return []Event{Differed{c.Payment, c.Amount, c.Currency}}, nil
}

func evolve(t Trade, e Event) (Trade, error) {
	if _, begins := e.(Seen); begins == (t.Channel != "") {
		return t, fmt.Errorf("%T cannot have happened to trade %q", e, t.Trade)
	}
	switch e := e.(type) {
	case Seen:
		if e.Channel == "" || e.Trade == "" || e.Amount <= 0 {
			return t, fmt.Errorf("%T of %q with %d", e, e.Trade, e.Amount)
		}
		t = Trade{Channel: e.Channel, Trade: e.Trade, Payment: e.Payment, Amount: e.Amount, Currency: e.Currency}
	case Differed:
		t.Differed++
	case Orphaned:
		if t.Orphan != "" || e.Reason == "" {
			return t, fmt.Errorf("trade %s is an orphan (%s) already, or for no reason", t.Trade, t.Orphan)
		}
		t.Orphan = e.Reason
	case Posted:
		if t.Posted || t.Orphan == "" {
			return t, fmt.Errorf("trade %s was posted before, or is no orphan", t.Trade)
		}
		t.Posted = true
	case Resolved:
		if t.Resolved != "" || t.Orphan == "" || e.Reason == "" {
			return t, fmt.Errorf("trade %s was resolved before, is no orphan, or for no reason", t.Trade)
		}
		t.Resolved = e.Reason
	case Cleared:
		if t.Cleared || t.Resolved == "" {
			return t, fmt.Errorf("trade %s was cleared before, or is not resolved", t.Trade)
		}
		t.Cleared = true
	}
	return t, nil
}
