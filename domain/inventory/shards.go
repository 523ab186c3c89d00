package inventory

import (
	"fmt"
	"maps"

	"cartwright/domain"
)

// MaxShards is how many shards a SKU can be divided into.
const MaxShards = 16

// A Transfer is the last that one shard sent to another.
type Transfer struct {
	Transfer int64 `json:"transfer"` // from 1
	Quantity int64 `json:"quantity"`
	Open     bool  `json:"open,omitempty"` // until it is known to have arrived
}

// SplitError says into how many shards a SKU is divided. It is in the chain of
// the refusal of a hold whose caller believed otherwise.
type SplitError struct{ Shards int }

func (e *SplitError) Error() string { return fmt.Sprintf("divided into %d shards", e.Shards) }

// Whole is the stock of a SKU by its shards, the first one first: its counters
// only. The shards may be seen at different times.
func Whole(shards ...Stock) (whole Stock) {
	for i, s := range shards {
		if i == 0 {
			whole = Stock{Known: s.Known, Safety: s.Safety, Backorder: s.Backorder, Shards: s.Shards}
		}
		whole.OnHand += s.OnHand - s.Moved
		whole.Held += s.Held
		whole.Allocated += s.Allocated
		whole.Unavailable += s.Unavailable
	}
	return whole
}

// knownToBeSplit refuses a caller who takes the SKU to have more or fewer shards.
func (s Stock) knownToBeSplit(shards int) error {
	if have := max(s.Shards, 1); shards > 0 && shards != have {
		err := domain.Refuse(domain.Conflict, "stock_is_split", "The stock is divided into %d shards.", have)
		err.Err = &SplitError{Shards: have}
		return err
	}
	return nil
}

func (s Stock) count(c Count) (Event, error) {
	if s.Shards > 1 {
		return nil, domain.Refuse(domain.Conflict, "stock_is_split",
			"The stock is divided into %d shards, each of which is sold from; correct it by the difference.", s.Shards)
	}
	return Counted(c), reason(c.Reason)
}

// transferOut answers a repeat, and whoever comes after another with the same number.
func (s Stock) transferOut(c TransferOut) (Event, error) {
	last := s.Sent[c.To]
	switch {
	case c.Transfer == last.Transfer && c.Quantity == last.Quantity && c.Transfer > 0:
		return nil, nil
	case c.Quantity > s.Available():
		// Policy, and so not asked of a history: what may be sold without being there can't be sent.
		return nil, domain.Refuse(domain.Conflict, "out_of_stock", "There are %d to send, not %d.", max(s.Available(), 0), c.Quantity)
	}
	return TransferredOut(c), nil
}

func (s Stock) allowsDivided(e Divided) error {
	switch {
	case e.Shards < 2 || e.Shards > MaxShards:
		return domain.Refuse(domain.Invalid, "bad_shards", "A stock is divided into 2 to %d shards.", MaxShards)
	case e.Shards < s.Shards:
		return domain.Refuse(domain.Conflict, "shards_only_grow", "The stock is divided into %d shards; they are not joined again.", s.Shards)
	}
	return nil
}

func (s Stock) allowsOut(e TransferredOut) error {
	if err := shard(e.To); err != nil {
		return err
	}
	last := s.Sent[e.To]
	switch {
	case last.Open:
		return domain.Refuse(domain.Conflict, "transfer_open", "Transfer %d to shard %d has not arrived.", last.Transfer, e.To)
	case e.Transfer != last.Transfer+1:
		return outOfTurn(last.Transfer+1, e.Transfer)
	}
	return quantity(e.Quantity)
}

func (s Stock) allowsIn(e TransferredIn) error {
	if err := shard(e.From); err != nil {
		return err
	}
	if next := s.Got[e.From] + 1; e.Transfer != next {
		return outOfTurn(next, e.Transfer)
	}
	return quantity(e.Quantity)
}

func (s Stock) allowsSettled(e TransferSettled) error {
	if err := shard(e.To); err != nil {
		return err
	}
	if last := s.Sent[e.To]; !last.Open || e.Transfer != last.Transfer {
		return domain.Refuse(domain.Conflict, "transfer_not_open", "Transfer %d to shard %d is not open.", e.Transfer, e.To)
	}
	return nil
}

func shard(k int) error {
	if k < 0 || k >= MaxShards {
		return domain.Refuse(domain.Invalid, "bad_shards", "A shard is 0 to %d.", MaxShards-1)
	}
	return nil
}

func outOfTurn(next, transfer int64) error {
	return domain.Refuse(domain.Conflict, "transfer_gap", "Transfer %d is next, not %d.", next, transfer)
}

// spread notes what an event says of shards. Maps are replaced: clones share them.
func (s Stock) spread(e Event) Stock {
	switch e := e.(type) {
	case Divided:
		s.Shards = e.Shards
	case TransferredOut:
		s.Sent = put(s.Sent, e.To, Transfer{Transfer: e.Transfer, Quantity: e.Quantity, Open: true})
	case TransferredIn:
		s.Got = put(s.Got, e.From, e.Transfer)
	case TransferSettled:
		last := s.Sent[e.To]
		last.Open = false
		s.Sent = put(s.Sent, e.To, last)
	case Received, Adjusted, Counted, PolicySet, Held, Committed, Released, ShippedOut, Deallocated, Restocked:
		// These are of one shard.
	}
	return s
}

// put is a map of its own with one more entry.
func put[V any](m map[int]V, k int, v V) map[int]V {
	m = maps.Clone(m)
	if m == nil {
		m = map[int]V{}
	}
	m[k] = v
	return m
}

// Lacks is how many more there would have to be for the counters to allow c.
func (s Stock) Lacks(c Command) int64 {
	e, err := s.fact(c)
	if err != nil || e == nil {
		return 0
	}
	s = s.moved(e)
	return max(-s.OnHand, -s.Available()-s.Backorder, 0)
}

// OnTheWay lists what was sent and is not known to have arrived, by the shard it
// was sent to.
func (s Stock) OnTheWay() map[int]Transfer {
	open := map[int]Transfer{}
	for to, last := range s.Sent {
		if last.Open {
			open[to] = last
		}
	}
	return open
}
