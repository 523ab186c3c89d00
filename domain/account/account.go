// Package account is one owner's money in one currency: what there is, what of
// it is held for orders, and entries numbered without gaps. An entry belongs to
// a journal whose other leg is another account's, so money moves and is never
// made; the platform's own accounts, escrow first, are accounts like others.
//
// Balance and what is held are never negative, and no more is held than there is.
// Three kinds of account may stand below nothing (MayOwe): what a bank or a
// payment channel has of ours, and what a seller owes.
//
// # Why
//
// Paying by balance holds the money first and captures it when the order is
// paid, so that an order which is refused in between costs nothing
// (TestCapturing). A hold ends by an event, never by the clock.
//
// What comes from outside has another leg too: a deposit in Cash, a payment in
// its channel's Clearing. They stand below nothing by what the outside holds for
// us, so that all accounts together are nought at every moment that no journal is
// under way (TestTheOutsideWorldOwesWhatCameIn). An account remembers which
// of its entries have no leg in Cash yet (Unposted), since Cash can't remember all journals.
//
// A seller's account (Seller) has what was earned. A refund after the settlement
// is taken from it even where nothing is left: it stands below nothing then, by
// what the seller owes, and the next settlements repay that first, by themselves.
// A receivable account beside it was not chosen: every refund would be split by
// the balance of the moment, and a repeat would have to find the same split again
// (TestASellerMayOwe).
//
// One function, allows, is asked twice: Decide refuses what it refuses, and
// Evolve calls a history that it refuses impossible
// (TestHistoriesThatCannotHaveHappened, TestDecisionsAlwaysReplay).
//
// Every journal counts once (TestAJournalCountsOnce). An account remembers its
// last million journals and ended holds, not all of them: escrow has an entry
// for every order there ever was. The process that moves the money asks its
// order first whether it is done, so only what was under way when it stopped
// can come again. Not chosen: reading the stream for the journal, which would
// make each entry of a long account slower than the last.
package account

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"cartwright/domain"
	"cartwright/domain/seen"
	"cartwright/domain/sharedmap"
)

const (
	// What an account remembers, counted in keys.
	doneStep = 1 << 19
	doneKeep = 1 << 20
)

// Holds are the open ones, by order.
type Holds = sharedmap.Map[string, Holding]

// Account is the state of one account.
type Account struct {
	ID       string      `json:"id"`
	Currency string      `json:"currency"` // empty before it is opened
	Balance  int64       `json:"balance"`  // minor units, what is held included
	Held     int64       `json:"held"`
	Entries  int64       `json:"entries"`            // the number of the last one
	Holds    Holds       `json:"holds,omitzero"`     // open ones, by order
	Done     seen.Memory `json:"done,omitzero"`      // journals, and holds that ended
	Unposted []int64     `json:"unposted,omitempty"` // entries from or to the outside whose other leg is not known to stand
}

// A Holding is what is set aside for one order.
type Holding struct {
	Checkout string    `json:"checkout"`
	Amount   int64     `json:"amount"`
	Expires  time.Time `json:"expires,omitzero"`
}

// Available is what can be spent.
func (a Account) Available() int64 { return a.Balance - a.Held }

// Decider is the account aggregate.
var Decider = domain.Decider[Account, Command, Event]{Decide: decide, Evolve: evolve, Clone: Account.clone}

// Check finds what is wrong with a state that did not come out of Evolve, such
// as a snapshot that was read back. It walks all holds.
func (a Account) Check() error {
	var held int64
	for order, h := range a.Holds.All() {
		if h.Amount <= 0 || h.Amount > math.MaxInt64-held {
			return fmt.Errorf("hold of %s is %d", order, h.Amount)
		}
		held += h.Amount
	}
	switch {
	case a.Currency == "" && (a.Balance != 0 || a.Entries != 0 || held != 0):
		return errors.New("money in an account that is not open")
	case held != a.Held:
		return fmt.Errorf("%d held, the holds say %d", a.Held, held)
	case a.Balance < a.Held && !MayOwe(a.ID), a.Entries < 0, a.Held < 0, len(a.Unposted) > int(min(a.Entries, math.MaxInt)):
		return fmt.Errorf("balance %d, held %d, %d entries", a.Balance, a.Held, a.Entries)
	}
	return nil
}

func (a Account) clone() Account {
	a.Holds = a.Holds.Clone()
	a.Done = a.Done.Clone()
	a.Unposted = slices.Clone(a.Unposted)
	return a
}
