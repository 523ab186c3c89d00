// Package inventory is the stock of one SKU at one place: what is on the shelf,
// what is promised to orders that are not paid yet (held) and to those that are
// (allocated), and what may not be sold at all.
//
// A hold is accepted while available + backorder covers it, decided by the one
// writer that appends next, so stock is never oversold. Every change that an
// order causes carries a key and counts once.
//
// # Why
//
// One function, allows, is asked twice: Decide refuses what it refuses, and
// Evolve calls a history that it refuses impossible (TestHistoriesThatCannotHaveHappened,
// TestDecisionsAlwaysReplay). Rules that may change some day (the age of an
// order id) are Decide's alone.
//
// A hold ends by an event and never by the clock: Expires is there to be read
// by whoever releases (TestHolding).
//
// What has ended is remembered by key for at least two days, counted in order
// ids' times and from the first hold after the ending; a hold for an id older than a day
// is refused. So a late repeat of a hold is refused either because its end is
// known or because its id is old, without keeping every order for ever
// (TestALateRepeatNeverHoldsAgain). The clock of a replay would give another
// answer tomorrow, so only events move it. For the same reason a hold for an id
// from the future is refused: it would make the stream forget all at once.
//
// Damaged goods that come back stand on the shelf and are unavailable, so they
// add to both counters and leave what can be sold as it was
// (TestReturns). Adding to unavailable alone would take sound goods off sale.
//
// # Shards
//
// One stream is decided in one place at a time, so a SKU that several processes
// sell can be divided: its own stream is shard 0, and the streams of the others,
// domain.StockID, begin empty. Each is a stock like any other.
// A hold lies in one shard as a whole, and so does whatever becomes of it; the
// order remembers in which. What is received, corrected, kept back, sold without
// being there or comes back stands on shard 0.
//
// Goods that nobody has move between shards in three steps, each an event of one
// stream: out of the one, into the other, settled in the one. The transfers from
// one shard to another are counted and go one at a time, so that a step which is
// done again is known for ever by one number, and whoever finds a transfer open,
// whenever that is, finishes it. A key for each transfer was rejected: it would
// have to be remembered until nobody can be slow any more.
//
// What is on the way is nobody's to sell, so nothing is sold twice. Each shard
// knows what it got by transfers and what it gave (Moved). Without that its
// counters sum up to the counters of a SKU that was never divided, whatever is on
// the way, and even where one shard is seen earlier than another: see Whole
// (TestShardsAreOneStock). Adding up what is open was rejected, as it needs all
// shards to be seen at one moment.
//
// Shards are never joined again: a process that has not heard of it would look
// for them. A stocktake is refused, since it says what all shards have in one
// number, while each is sold from; a correction says the difference.
package inventory

import (
	"errors"
	"fmt"
	"time"

	"cartwright/domain"
	"cartwright/domain/seen"
	"cartwright/domain/sharedmap"
)

// Limit bounds every quantity and every counter, so that no sum of them
// overflows an int64.
const Limit = 1_000_000_000_000

const (
	// What a stream remembers, in milliseconds of order ids' times.
	day          = 24 * 60 * 60 * 1000
	closedStep   = 1 * day
	closedKeep   = 2 * day
	restocksStep = 30 * day
	restocksKeep = 90 * day
)

// Reservations are the open ones, by the checkout's id.
type Reservations = sharedmap.Map[string, Reservation]

// Stock is the state of one SKU's stock.
type Stock struct {
	Known        bool         `json:"known"` // anything was ever recorded
	OnHand       int64        `json:"on_hand"`
	Held         int64        `json:"held"`
	Allocated    int64        `json:"allocated"`
	Unavailable  int64        `json:"unavailable"`
	Safety       int64        `json:"safety"`
	Backorder    int64        `json:"backorder"`
	Reservations Reservations `json:"reservations,omitzero"` // open ones, by the checkout's id
	Newest       time.Time    `json:"newest,omitzero"`       // of all order ids that held
	Closed       seen.Memory  `json:"closed,omitzero"`       // attempts and keys of reservations that ended
	Restocks     seen.Memory  `json:"restocks,omitzero"`     // refunds whose goods are back

	Shards int              `json:"shards,omitempty"` // of the SKU, as its first one knows; 0 is one
	Moved  int64            `json:"moved,omitempty"`  // what came from other shards less what went to them
	Sent   map[int]Transfer `json:"sent,omitempty"`   // the last transfer to each shard
	Got    map[int]int64    `json:"got,omitempty"`    // the last transfer from each shard
}

// A Phase says how firm a reservation is.
type Phase string

// The phases of an open reservation.
const (
	PhaseHeld      Phase = "held"      // until it is paid or given up
	PhaseAllocated Phase = "allocated" // paid for
)

// A Reservation is what one order has of the stock. It closes when it is
// released, or when all of it was shipped or deallocated.
type Reservation struct {
	Attempt     string           `json:"attempt"`
	Quantity    int64            `json:"quantity"`
	Phase       Phase            `json:"phase"`
	Shipped     int64            `json:"shipped,omitempty"`
	Deallocated int64            `json:"deallocated,omitempty"`
	Expires     time.Time        `json:"expires,omitzero"`
	Parcels     map[string]int64 `json:"parcels,omitempty"` // what has shipped, by parcel
	Refunds     map[string]int64 `json:"refunds,omitempty"` // what will not, by refund
}

// Left is what has neither shipped nor been deallocated.
func (r Reservation) Left() int64 { return r.Quantity - r.Shipped - r.Deallocated }

// Available is what can be promised without a backorder. It is negative where
// backorders were used.
func (s Stock) Available() int64 {
	return s.OnHand - s.Unavailable - s.Safety - s.Held - s.Allocated
}

// Knows tells whether an order has ever held any of this stock. Orders whose ids
// are too old to hold any may have been forgotten.
func (s Stock) Knows(order string) bool {
	if _, open := s.Reservations.Get(order); open {
		return true
	}
	if _, sold := s.Closed.Find(keySold, order); sold {
		return true
	}
	_, released := s.Closed.Find(keyReleased, order)
	return released
}

// Decider is the inventory aggregate.
var Decider = domain.Decider[Stock, Command, Event]{Decide: decide, Evolve: evolve, Clone: Stock.clone}

// HoldOpenError names the attempt whose hold stands in another's way. It is in
// the chain of a hold_open refusal.
type HoldOpenError struct{ Attempt string }

func (e *HoldOpenError) Error() string { return "attempt " + e.Attempt + " holds" }

// Check finds what is wrong with a state that did not come out of Evolve, such
// as a snapshot that was read back. It walks all reservations.
func (s Stock) Check() error {
	var held, allocated int64
	for order, r := range s.Reservations.All() {
		if r.Left() <= 0 || r.Left() > Limit {
			return fmt.Errorf("reservation of %s has %d left", order, r.Left())
		}
		switch r.Phase {
		case PhaseHeld:
			held += r.Left()
		case PhaseAllocated:
			allocated += r.Left()
		default:
			return fmt.Errorf("reservation of %s is %q", order, r.Phase)
		}
	}
	switch {
	case held != s.Held:
		return fmt.Errorf("%d held, the holds say %d", s.Held, held)
	case allocated != s.Allocated:
		return fmt.Errorf("%d allocated, the allocations say %d", s.Allocated, allocated)
	}
	if err := s.sound("inconsistent"); err != nil {
		return errors.New(err.Error()) // a fault of ours: it loses its code
	}
	return nil
}

// clone costs the same however much is reserved and remembered. What a
// reservation has of maps is never changed, but replaced.
func (s Stock) clone() Stock {
	s.Reservations = s.Reservations.Clone()
	s.Closed = s.Closed.Clone()
	s.Restocks = s.Restocks.Clone()
	return s
}
