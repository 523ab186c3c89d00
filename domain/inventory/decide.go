package inventory

import (
	"strings"
	"time"

	"cartwright/domain"
	"cartwright/domain/orderid"
)

const (
	idAge   = 24 * time.Hour // a hold for an older order id is refused
	idAhead = time.Hour      // how far the clocks of several writers may disagree
	maxText = 500            // characters of a reason, a reference or a key
)

func decide(s Stock, c Command) ([]Event, error) {
	e, err := s.fact(c)
	if err != nil || e == nil {
		return nil, err
	}
	if err := s.allows(e); err != nil {
		return nil, err
	}
	return []Event{e}, nil
}

// fact is the event that a command asks for, or nil where all is as it wishes.
func (s Stock) fact(c Command) (Event, error) {
	switch c := c.(type) {
	case Receive:
		return Received(c), domain.CheckText("/reference", c.Reference, maxText)
	case Adjust:
		return Adjusted(c), reason(c.Reason)
	case Count:
		return s.count(c)
	case SetPolicy:
		if s.Known && c.Safety == s.Safety && c.Backorder == s.Backorder {
			return nil, nil
		}
		return PolicySet(c), nil
	case Divide:
		if c.Shards == s.Shards {
			return nil, nil
		}
		return Divided(c), nil
	case TransferOut:
		return s.transferOut(c)
	case TransferIn:
		if c.Transfer <= s.Got[c.From] {
			return nil, nil
		}
		return TransferredIn(c), nil
	case TransferSettle:
		if last := s.Sent[c.To]; c.Transfer < last.Transfer || c.Transfer == last.Transfer && !last.Open {
			return nil, nil
		}
		return TransferSettled(c), nil
	case Hold:
		return s.hold(c)
	case Commit:
		return s.commit(c)
	case Release:
		return s.release(c)
	case Ship:
		done, found := s.reservationKey(c.Order, keyParcel, c.Parcel)
		return once(ShippedOut(c), "parcel", c.Parcel, done, c.Quantity, found)
	case Deallocate:
		done, found := s.reservationKey(c.Order, keyRefund, c.Refund)
		return once(Deallocated(c), "refund", c.Refund, done, c.Quantity, found)
	case Restock:
		if err := key("order", c.Order); err != nil {
			return nil, err
		}
		done, found := s.Restocks.Find(c.Order, c.Refund)
		return once(Restocked(c), "refund", c.Refund, done, c.Quantity, found)
	}
	return nil, nil
}

func (s Stock) hold(c Hold) (Event, error) {
	id, err := orderid.Parse(c.Order)
	if err != nil {
		return nil, err
	}
	if err := key("attempt", c.Attempt); err != nil {
		return nil, err
	}
	if err := quantity(c.Quantity); err != nil {
		return nil, err
	}
	e := Held{Order: c.Order, Attempt: c.Attempt, Quantity: c.Quantity, Expires: c.Expires.UTC()}
	if open, ok := s.Reservations.Get(c.Order); ok {
		if open.Phase == PhaseHeld && open.Attempt == c.Attempt && open.Quantity == c.Quantity {
			return nil, nil
		}
		return e, nil // allows says what is in the way
	}
	if err := s.knownToBeSplit(c.Shards); err != nil {
		return nil, err
	}
	return e, age(c.Order, c.Now.Sub(id.Time()))
}

// age refuses ids whose past this stream may have forgotten, and ids that would
// make it forget.
func age(order string, age time.Duration) error {
	switch {
	case age > idAge:
		return domain.Refuse(domain.Conflict, "order_id_expired", "The order id %s is older than a day; ask for a new one.", order)
	case age < -idAhead:
		return domain.Refuse(domain.Invalid, "invalid_order_id", "The order id %s is from the future.", order)
	}
	return nil
}

func (s Stock) commit(c Commit) (Event, error) {
	open, _ := s.Reservations.Get(c.Order)
	if open.Phase == PhaseAllocated {
		return nil, nil
	}
	if _, sold := s.Closed.Find(keySold, c.Order); sold {
		return nil, nil
	}
	return Committed{Order: c.Order, Quantity: open.Quantity}, nil
}

func (s Stock) release(c Release) (Event, error) {
	open, ok := s.Reservations.Get(c.Order)
	if !ok || open.Attempt != c.Attempt {
		return nil, nil
	}
	e := Released{Order: c.Order, Attempt: c.Attempt, Quantity: open.Quantity, Reason: c.Reason}
	return e, domain.CheckText("/reason", c.Reason, maxText)
}

// once answers a key that was used before, and refuses it where it then meant something else.
func once(e Event, kind, k string, done, quantity int64, found bool) (Event, error) {
	switch {
	case !found:
		return e, key(kind, k)
	case done != quantity:
		return nil, domain.Refuse(domain.Conflict, kind+"_differs", "The %s %s was about %d, not %d.", kind, k, done, quantity)
	}
	return nil, nil
}

func reason(s string) error {
	if strings.TrimSpace(s) == "" {
		return domain.Refuse(domain.Invalid, "no_reason", "A correction of the stock says why.")
	}
	return domain.CheckText("/reason", s, maxText)
}

func key(name, s string) error {
	if s == "" {
		return domain.Refuse(domain.Invalid, "no_key", "The %s is missing.", name)
	}
	return domain.CheckText("/"+name, s, maxText)
}
