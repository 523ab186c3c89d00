// Package catalog is what sellers offer: one SKU's title, price and freight
// under a version, on sale or not. A snapshot of each wording is stored once,
// under its digest; an order line carries the digest, so that what a buyer
// agreed to can be shown for ever.
//
// # Why
//
// The digest is SHA-256 over the snapshot's JSON as encoding/json writes it:
// struct fields in their order, map keys sorted, no spaces, HTML escaped. That
// is canonical as long as a field is only ever added with omitempty
// (TestADigestIsForEver). A faster hash would do against accidents, but sellers
// gain by two texts of one digest.
//
// Price, title and the rest are policy and are checked by Decide alone. Evolve
// checks that a digest is its snapshot's, so that an edited event is found
// where it is read (TestHistoriesThatCannotHaveHappened).
package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"

	"cartwright/domain"
)

// Offer is the state of one SKU's offer.
type Offer struct {
	Snapshot Snapshot            `json:"snapshot"`
	Digest   string              `json:"digest"` // of the snapshot; empty before anything was published
	OnSale   bool                `json:"on_sale"`
	Version  int64               `json:"version"`         // how often it was published
	Known    map[string]Snapshot `json:"known,omitempty"` // by digest
}

// Digest names a snapshot.
func Digest(s Snapshot) (string, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("digest of offer %s: %w", s.SKU, err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// Decider is the catalog aggregate.
var Decider = domain.Decider[Offer, Command, Event]{Decide: decide, Evolve: evolve, Clone: clone}

func decide(o Offer, c Command) ([]Event, error) {
	publish, ok := c.(Publish)
	if !ok {
		return nil, fmt.Errorf("no command %T on offers", c)
	}
	return o.publish(publish)
}

func (o Offer) publish(c Publish) ([]Event, error) {
	if err := o.accepts(c.Snapshot); err != nil {
		return nil, err
	}
	digest, err := Digest(c.Snapshot)
	if err != nil {
		return nil, err
	}
	if digest == o.Digest && c.OnSale == o.OnSale {
		return nil, nil
	}
	published := Published{Digest: digest, OnSale: c.OnSale}
	if _, known := o.Known[digest]; known {
		return []Event{published}, nil
	}
	snapshot := c.Snapshot
	snapshot.Specs = maps.Clone(snapshot.Specs) // an event shares nothing with its caller
	return []Event{Described{Digest: digest, Snapshot: snapshot}, published}, nil
}

func evolve(o Offer, e Event) (Offer, error) {
	switch e := e.(type) {
	case Described:
		return o.described(e)
	case Published:
		snapshot, known := o.Known[e.Digest]
		if !known {
			return o, fmt.Errorf("published %s, which was not described", e.Digest)
		}
		o.Snapshot, o.Digest, o.OnSale = snapshot, e.Digest, e.OnSale
		o.Version++
	}
	return o, nil
}

func (o Offer) described(e Described) (Offer, error) {
	digest, err := Digest(e.Snapshot)
	switch {
	case err != nil:
		return o, err
	case digest != e.Digest:
		return o, fmt.Errorf("described %s as %s, but its digest is %s", e.Snapshot.SKU, e.Digest, digest)
	case o.Digest != "" && o.Snapshot.SKU != e.Snapshot.SKU:
		return o, fmt.Errorf("described %s in the offer of %s", e.Snapshot.SKU, o.Snapshot.SKU)
	}
	if _, known := o.Known[digest]; known {
		return o, fmt.Errorf("described %s twice", digest)
	}
	if o.Known == nil {
		o.Known = map[string]Snapshot{}
	}
	o.Known[digest] = e.Snapshot
	return o, nil
}

// clone copies the map that Evolve writes to. Snapshots are never changed, so
// their specs are shared.
func clone(o Offer) Offer {
	o.Known = maps.Clone(o.Known)
	return o
}
