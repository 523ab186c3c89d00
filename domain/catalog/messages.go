package catalog

import "cartwright/domain/event"

// A Snapshot is what a buyer agreed to: everything an offer says but whether
// it is on sale. Its digest names it for ever.
type Snapshot struct {
	SKU       string            `json:"sku"`
	Seller    string            `json:"seller"`
	Title     string            `json:"title"`
	Specs     map[string]string `json:"specs,omitempty"`
	Currency  string            `json:"currency"`
	UnitPrice int64             `json:"unit_price"` // minor units
	Freight   int64             `json:"freight"`    // minor units, per unit
}

// Command is a wish: it may be refused.
//
//sumtype:decl
type Command interface{ command() }

// Publish makes this the SKU's offer.
type Publish struct {
	Snapshot Snapshot
	OnSale   bool
}

func (Publish) command() {}

// Event is a fact: it is never refused, only found impossible.
//
//sumtype:decl
type Event interface{ event() }

type (
	// Described stores a snapshot, once for each digest.
	Described struct {
		Digest   string   `json:"digest"` // SHA-256 of the snapshot's canonical JSON, in hex
		Snapshot Snapshot `json:"snapshot"`
	}
	// Published makes a described snapshot the SKU's offer.
	Published struct {
		Digest string `json:"digest"`
		OnSale bool   `json:"on_sale"`
	}
)

func (Described) event() {}
func (Published) event() {}

// Types lists the events as they are stored.
func Types() []event.Type {
	return []event.Type{
		event.Of[Described]("offer.described"),
		event.Of[Published]("offer.published"),
	}
}
