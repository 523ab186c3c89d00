// Package reconcile reads the event log once, from its beginning to where it
// ends just now, and says whether money and stock add up. It changes nothing:
// what it finds names the streams whose process is to be asked again.
//
// # Why
//
// Whatever decides that money moves (an order that is paid, a refund, a
// settlement, a trade) says what has to stand in the ledger, under which journal.
// Whatever is entered says what does. The two are laid beside each other by the
// journal's name, and a pair that agrees is forgotten. So only what is open, or
// wrong, is kept, and a leg that is missing, doubled or somebody else's is left
// over by itself (TestEveryFaultHasItsFinding). Sums alone were not chosen: they
// say that something is wrong, and not what. What escrow, suspense, the fee, a
// clearing or a seller should have is the sum of all that was decided, and is
// shown beside what they have.
//
// The same is done for the shares of a payment and the orders that they pay, for
// the refunds of orders and those of their payments, and for trades and the
// payments that recorded them.
//
// Of every order and payment a record of a few dozen bytes is kept, in which the
// states are packed (see tape): any of them may go on years later, and then has
// to go on as its aggregate would. An account or a SKU costs its state, and no
// event is kept at all (TestWhatIsKeptIsWhatIsOpen). Their memories of journals
// and of closed reservations are emptied: here nothing comes twice unseen.
//
// A history that can't have happened is a finding of its stream, which is not
// judged further; what it did to others is (TestABrokenHistoryIsAFinding).
//
// What is merely under way is no difference. Nothing is judged before it has been
// let alone for the grace, and a channel may take its time with a refund
// (TestWhatIsUnderWayIsNoDifference). The time is the newest recording's or that
// of the audit, whichever is later: in a log to which nobody writes any more,
// what was left half done would be under way for ever.
//
// Money that nobody asked for, a trade of nobody's, and a refund that its channel
// refuses wait for a person. They are marked (Finding.Attention), and are
// differences all the same: an operator who is not told of them by the exit code
// is not told (TestWhatWaitsForAPersonIsADifference).
package reconcile

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"cartwright/domain"
	"cartwright/domain/event"
)

// Config says what an Audit is made by. Events is needed.
type Config struct {
	Events *event.Registry
	Grace  time.Duration // what was touched less than this ago is under way; 0: nothing is
	Now    time.Time     // when the audit is made; the newest event's recording, if that is later
	Bill   *Bill         // a channel's, to compare with; nil is none
}

// Categories are those of the streams that an Audit wants the events of.
func Categories() []string { return []string{"order", "inventory", "account", "payment", "trade"} }

// An Audit takes in all events of a log, in their order, and reports. It may not
// be used concurrently.
type Audit struct {
	cfg      Config
	position uint64
	events   int64
	newest   time.Time
	faults   map[string]Finding // broken histories, by stream
	tape     tape

	orders   map[string]string // packed
	payments map[string]string // packed
	accounts map[string]*holder
	stocks   map[string]*shelf

	journals map[string]*journal // that do not agree yet
	shares   map[link]*share     // of payments in orders
	paybacks map[link]*payback   // refunds of orders, through payments
	trades   map[string]*sight   // that no payment has claimed
	promised map[string]promise  // orders of a checkout that do not stand yet
	asked    map[link]time.Time  // refunds through the bill's channel

	tradesSeen, contradicted int64
	extra                    []Finding // what the bill's channel does not know of
}

// A link is something of a payment: an order's share, or a refund by its key.
type link struct{ payment, of string }

// New makes an Audit that has seen nothing.
func New(cfg Config) *Audit {
	return &Audit{
		cfg: cfg, faults: map[string]Finding{}, tape: tape{at: map[string]int{}},
		orders: map[string]string{}, payments: map[string]string{}, accounts: map[string]*holder{}, stocks: map[string]*shelf{},
		journals: map[string]*journal{}, shares: map[link]*share{}, paybacks: map[link]*payback{},
		trades: map[string]*sight{}, promised: map[string]promise{}, asked: map[link]time.Time{},
	}
}

// Add takes in the next event of the log. What makes no sense is found by the
// report; an error says that the events do not come in the order of the log, and
// that nothing can be said of it.
func (a *Audit) Add(r event.Recorded) error {
	if r.Position <= a.position {
		return fmt.Errorf("%s revision %d: position %d comes after position %d", r.Stream, r.Revision, r.Position, a.position)
	}
	a.position = r.Position
	add := a.adder(event.Category(r.Stream))
	if add == nil {
		return nil
	}
	a.events++
	if r.Created.After(a.newest) {
		a.newest = r.Created
	}
	add(event.SubjectID(r.Stream), r)
	return nil
}

func (a *Audit) adder(category string) func(id string, r event.Recorded) {
	switch category {
	case "order":
		return a.addOrder
	case "inventory":
		return a.addStock
	case "account":
		return a.addAccount
	case "payment":
		return a.addPayment
	case "trade":
		return a.addTrade
	}
	return nil
}

// A past is how far a stream has been read.
type past struct {
	at     event.Revision
	newest int64 // when its last event was recorded, in milliseconds of Unix time
	broken bool  // it can't have happened, so its state says nothing
}

// follow brings a state to where an event leaves it. It gives the event where it
// can be read, and says whether the state took it.
func follow[S, C, E any](a *Audit, r event.Recorded, p *past, s *S, d domain.Decider[S, C, E]) (e E, read, taken bool) {
	if r.Revision != p.at+1 {
		a.broken(r, p, fmt.Errorf("revision %d comes after revision %d", r.Revision, p.at))
	}
	p.at, p.newest = r.Revision, max(p.newest, r.Created.UnixMilli())
	e, err := event.Decode[E](a.cfg.Events, r)
	if err != nil {
		a.broken(r, p, err)
		return e, false, false
	}
	next, err := d.Evolve(*s, e)
	if err != nil {
		a.broken(r, p, err)
		return e, true, false
	}
	*s = next
	return e, true, true
}

// broken notes the first thing that is wrong with a history.
func (a *Audit) broken(r event.Recorded, p *past, err error) {
	if !p.broken {
		a.faults[r.Stream] = Finding{
			Kind: History, Stream: r.Stream, At: r.Created,
			Text: fmt.Sprintf("Revision %d (%s) can't have happened, or can't be read: %v.", r.Revision, r.Name, err),
		}
	}
	p.broken = true
}

// Kept counts what an Audit remembers.
type Kept struct {
	Orders, Payments, Accounts, SKUs int // one record each
	Packed                           int // bytes of the records of orders and payments
	Open                             int // journals, shares, refunds and trades that do not agree yet, and holds
}

// Kept says how much an Audit remembers just now.
func (a *Audit) Kept() Kept {
	k := Kept{Orders: len(a.orders), Payments: len(a.payments), Accounts: len(a.accounts), SKUs: len(a.stocks)}
	for _, packed := range []map[string]string{a.orders, a.payments} {
		for _, p := range packed {
			k.Packed += len(p)
		}
	}
	k.Open = len(a.journals) + len(a.shares) + len(a.paybacks) + len(a.trades) + len(a.promised)
	for _, h := range a.accounts {
		k.Open += h.state.Holds.Len()
	}
	for _, s := range a.stocks {
		k.Open += s.state.Reservations.Len()
	}
	return k
}

// sorted gives the values of a map in the order of their keys' names.
func sorted[V any](m map[string]V) func(yield func(string, V) bool) {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}
