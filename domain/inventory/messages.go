package inventory

import (
	"time"

	"cartwright/domain/event"
)

// Command is a wish: it may be refused.
//
//sumtype:decl
type Command interface{ command() }

type (
	// Receive puts goods on the shelf.
	Receive struct {
		Quantity  int64
		Reference string
	}
	// Adjust corrects what is on the shelf, or how much of it can be sold, and says why.
	Adjust struct {
		OnHand, Unavailable int64 // changes, either sign
		Reason              string
	}
	// Count is a stocktake: it sets what is on the shelf.
	Count struct {
		OnHand int64
		Reason string
	}
	// SetPolicy says how much is kept back and how much may be sold that is not there.
	SetPolicy struct{ Safety, Backorder int64 }
	// Divide spreads a SKU over so many shards, of which its own stream is the first.
	Divide struct{ Shards int }
	// TransferOut sends goods that nobody has to another shard. Transfers from one
	// shard to another are counted, and the next begins when the last is settled.
	TransferOut struct {
		To       int
		Transfer int64 // from 1
		Quantity int64
	}
	// TransferIn takes in what another shard sent.
	TransferIn struct {
		From     int
		Transfer int64
		Quantity int64
	}
	// TransferSettle notes, where goods were sent from, that they have arrived.
	TransferSettle struct {
		To       int
		Transfer int64
	}
	// Hold promises goods to an order until it is paid. At most one hold of an
	// order is open on a SKU; another attempt's is named in the refusal.
	Hold struct {
		Order    string // the checkout's id
		Attempt  string
		Quantity int64
		Now      time.Time // of the server; a hold for an order id older than a day is refused
		Expires  time.Time
		Shards   int // into how many the caller takes the SKU to be divided; 0 does not ask
	}
	// Commit turns a hold into an allocation, when the order is paid.
	Commit struct{ Order string }
	// Release ends an attempt's hold.
	Release struct{ Order, Attempt, Reason string }
	// Ship takes a parcel's goods off the shelf.
	Ship struct {
		Order    string
		Parcel   string // the parcel's key, once for ever: "<order id>/<parcel>"
		Quantity int64
	}
	// Deallocate gives back paid goods that will not ship.
	Deallocate struct {
		Order    string
		Refund   string // the refund's key, once for ever: "<order id>/<refund>"
		Quantity int64
	}
	// Restock puts returned goods back.
	Restock struct {
		Order    string
		Refund   string
		Quantity int64
		Damaged  bool
	}
)

func (Receive) command()        {}
func (Adjust) command()         {}
func (Count) command()          {}
func (SetPolicy) command()      {}
func (Divide) command()         {}
func (TransferOut) command()    {}
func (TransferIn) command()     {}
func (TransferSettle) command() {}
func (Hold) command()           {}
func (Commit) command()         {}
func (Release) command()        {}
func (Ship) command()           {}
func (Deallocate) command()     {}
func (Restock) command()        {}

// Event is a fact: it is never refused, only found impossible.
//
//sumtype:decl
type Event interface{ event() }

type (
	// Received put goods on the shelf.
	Received struct {
		Quantity  int64  `json:"quantity"`
		Reference string `json:"reference,omitempty"`
	}
	// Adjusted corrected the shelf.
	Adjusted struct {
		OnHand      int64  `json:"on_hand"`
		Unavailable int64  `json:"unavailable"`
		Reason      string `json:"reason"`
	}
	// Counted set the shelf to what was found there.
	Counted struct {
		OnHand int64  `json:"on_hand"`
		Reason string `json:"reason"`
	}
	// PolicySet changed what is kept back and what may be oversold.
	PolicySet struct {
		Safety    int64 `json:"safety"`
		Backorder int64 `json:"backorder"`
	}
	// Divided spread a SKU over shards.
	Divided struct {
		Shards int `json:"shards"`
	}
	// TransferredOut sent goods to another shard.
	TransferredOut struct {
		To       int   `json:"to"`
		Transfer int64 `json:"transfer"` // from 1, of this shard to that one
		Quantity int64 `json:"quantity"`
	}
	// TransferredIn took in what another shard had sent.
	TransferredIn struct {
		From     int   `json:"from"`
		Transfer int64 `json:"transfer"`
		Quantity int64 `json:"quantity"`
	}
	// TransferSettled closed a transfer that has arrived.
	TransferSettled struct {
		To       int   `json:"to"`
		Transfer int64 `json:"transfer"`
	}
	// Held promised goods to an order.
	Held struct {
		Order    string    `json:"order"`
		Attempt  string    `json:"attempt"`
		Quantity int64     `json:"quantity"`
		Expires  time.Time `json:"expires"`
	}
	// Committed allocated what was held.
	Committed struct {
		Order    string `json:"order"`
		Quantity int64  `json:"quantity"` // all that was held, so that a view needs no other event
	}
	// Released ended a hold.
	Released struct {
		Order    string `json:"order"`
		Attempt  string `json:"attempt"`
		Quantity int64  `json:"quantity"` // all that was held, so that a view needs no other event
		Reason   string `json:"reason"`
	}
	// ShippedOut took allocated goods off the shelf.
	ShippedOut struct {
		Order    string `json:"order"`
		Parcel   string `json:"parcel"`
		Quantity int64  `json:"quantity"`
	}
	// Deallocated gave allocated goods back to sale.
	Deallocated struct {
		Order    string `json:"order"`
		Refund   string `json:"refund"`
		Quantity int64  `json:"quantity"`
	}
	// Restocked put returned goods back on the shelf.
	Restocked struct {
		Order    string `json:"order"`
		Refund   string `json:"refund"`
		Quantity int64  `json:"quantity"`
		Damaged  bool   `json:"damaged,omitempty"`
	}
)

func (Received) event()        {}
func (Adjusted) event()        {}
func (Counted) event()         {}
func (PolicySet) event()       {}
func (Divided) event()         {}
func (TransferredOut) event()  {}
func (TransferredIn) event()   {}
func (TransferSettled) event() {}
func (Held) event()            {}
func (Committed) event()       {}
func (Released) event()        {}
func (ShippedOut) event()      {}
func (Deallocated) event()     {}
func (Restocked) event()       {}

// Types lists the events as they are stored.
func Types() []event.Type {
	return []event.Type{
		event.Of[Received]("inventory.received"),
		event.Of[Adjusted]("inventory.adjusted"),
		event.Of[Counted]("inventory.counted"),
		event.Of[PolicySet]("inventory.policy_set"),
		event.Of[Divided]("inventory.divided"),
		event.Of[TransferredOut]("inventory.transferred_out"),
		event.Of[TransferredIn]("inventory.transferred_in"),
		event.Of[TransferSettled]("inventory.transfer_settled"),
		event.Of[Held]("inventory.held"),
		event.Of[Committed]("inventory.committed"),
		event.Of[Released]("inventory.released"),
		event.Of[ShippedOut]("inventory.shipped"),
		event.Of[Deallocated]("inventory.deallocated"),
		event.Of[Restocked]("inventory.restocked"),
	}
}
