package inventory

import (
	"fmt"
	"maps"

	"cartwright/domain"
	"cartwright/domain/orderid"
)

// The kinds of keys that a closed reservation leaves in the memory.
const (
	keyAttempt = "attempt"
	keySold    = "sold" // it was allocated
	keyParcel  = "parcel"
	keyRefund  = "refund"

	keyReleased = "released" // it was not
)

func evolve(s Stock, e Event) (Stock, error) {
	if err := s.allows(e); err != nil {
		// Only the words: a broken history has no code, since no caller can help.
		return s, fmt.Errorf("%T cannot have happened: %s", e, err.Error())
	}
	s = s.moved(e)
	s.Known = true
	switch e := e.(type) {
	case Received, Adjusted, Counted, PolicySet:
		// Counters only.
	case Divided, TransferredOut, TransferredIn, TransferSettled:
		s = s.spread(e)
	case Held:
		return s.opened(e)
	case Committed:
		r, _ := s.Reservations.Get(e.Order)
		r.Phase = PhaseAllocated
		s.Reservations.Put(e.Order, r)
	case Released:
		r, _ := s.Reservations.Get(e.Order)
		s = s.closed(e.Order, r)
	case ShippedOut:
		r, _ := s.Reservations.Get(e.Order)
		r.Shipped += e.Quantity
		r.Parcels = with(r.Parcels, e.Parcel, e.Quantity)
		s = s.settled(e.Order, r)
	case Deallocated:
		r, _ := s.Reservations.Get(e.Order)
		r.Deallocated += e.Quantity
		r.Refunds = with(r.Refunds, e.Refund, e.Quantity)
		s = s.settled(e.Order, r)
	case Restocked:
		s.Restocks.Put(e.Quantity, e.Order, e.Refund)
	}
	return s, nil
}

// allows is the one home of what can happen to a stock. Decide shows its
// refusals, Evolve reports them as a broken history.
func (s Stock) allows(e Event) error {
	shortage := "would_oversell"
	var err error
	switch e := e.(type) {
	case Received:
		err = quantity(e.Quantity)
	case Adjusted:
		err = change(e)
	case Counted:
		err = level("on_hand", e.OnHand)
	case PolicySet:
		if err = level("safety", e.Safety); err == nil {
			err = level("backorder", e.Backorder)
		}
	case Divided:
		err = s.allowsDivided(e)
	case TransferredOut:
		shortage = "out_of_stock"
		err = s.allowsOut(e)
	case TransferredIn:
		err = s.allowsIn(e)
	case TransferSettled:
		err = s.allowsSettled(e)
	case Held:
		shortage = "out_of_stock"
		err = s.allowsHeld(e)
	case Committed:
		open, _ := s.Reservations.Get(e.Order)
		err = s.allowsEnd(e.Order, open.Attempt, e.Quantity)
	case Released:
		err = s.allowsEnd(e.Order, e.Attempt, e.Quantity)
	case ShippedOut:
		err = s.allowsMove(e.Order, keyParcel, e.Parcel, e.Quantity)
	case Deallocated:
		err = s.allowsMove(e.Order, keyRefund, e.Refund, e.Quantity)
	case Restocked:
		if err = quantity(e.Quantity); err == nil {
			err = fresh(s.Restocks.Find(e.Order, e.Refund))
		}
	}
	if err != nil {
		return err
	}
	return s.moved(e).sound(shortage)
}

func (s Stock) allowsHeld(e Held) error {
	if open, ok := s.Reservations.Get(e.Order); ok {
		return inTheWay(open, e)
	}
	if _, known := s.Closed.Find(keyAttempt, e.Order, e.Attempt); known {
		return domain.Refuse(domain.Conflict, "hold_closed", "This attempt's hold for order %s has ended.", e.Order)
	}
	if _, known := s.Closed.Find(keySold, e.Order); known {
		return domain.Refuse(domain.Conflict, "hold_committed", "The goods of order %s were sold.", e.Order)
	}
	return quantity(e.Quantity)
}

// inTheWay says why an open reservation and another hold of the same order can't both be.
func inTheWay(open Reservation, e Held) error {
	switch {
	case open.Phase == PhaseAllocated:
		return domain.Refuse(domain.Conflict, "hold_committed", "The goods of order %s are paid for.", e.Order)
	case open.Attempt == e.Attempt:
		return domain.Refuse(domain.Conflict, "hold_differs", "This attempt holds %d for order %s, not %d.", open.Quantity, e.Order, e.Quantity)
	}
	err := domain.Refuse(domain.Conflict, "hold_open", "Another attempt, %s, holds goods for order %s.", open.Attempt, e.Order)
	err.Err = &HoldOpenError{Attempt: open.Attempt}
	return err
}

// allowsEnd covers both ends of a hold: committed, or released.
func (s Stock) allowsEnd(order, attempt string, q int64) error {
	r, err := s.open(order)
	switch {
	case err != nil:
		return err
	case r.Phase == PhaseAllocated:
		return domain.Refuse(domain.Conflict, "hold_committed", "The goods of order %s are paid for.", order)
	case r.Attempt != attempt || r.Quantity != q:
		return domain.Refuse(domain.Conflict, "hold_differs", "Attempt %s holds %d for order %s.", r.Attempt, r.Quantity, order)
	}
	return nil
}

// allowsMove covers both ends of an allocation: shipped, or given up.
func (s Stock) allowsMove(order, kind, k string, q int64) error {
	if err := quantity(q); err != nil {
		return err
	}
	if err := fresh(s.reservationKey(order, kind, k)); err != nil {
		return err
	}
	r, err := s.open(order)
	switch {
	case err != nil:
		return err
	case r.Phase != PhaseAllocated:
		return domain.Refuse(domain.Conflict, "not_allocated", "The goods of order %s are not paid for.", order)
	case q > r.Left():
		return domain.Refuse(domain.Conflict, "more_than_allocated", "Order %s has %d left, not %d.", order, r.Left(), q)
	}
	return nil
}

// reservationKey finds a parcel or refund of a reservation, be it open or closed.
func (s Stock) reservationKey(order, kind, k string) (int64, bool) {
	r, ok := s.Reservations.Get(order)
	if !ok {
		return s.Closed.Find(kind, order, k)
	}
	keys := r.Parcels
	if kind == keyRefund {
		keys = r.Refunds
	}
	q, found := keys[k]
	return q, found
}

func (s Stock) open(order string) (Reservation, error) {
	r, ok := s.Reservations.Get(order)
	if !ok {
		return r, domain.Refuse(domain.Conflict, "unknown_reservation", "No goods are reserved for order %s here.", order)
	}
	return r, nil
}

// moved moves the counters and nothing else; s is a copy.
func (s Stock) moved(e Event) Stock {
	switch e := e.(type) {
	case Received:
		s.OnHand += e.Quantity
	case Adjusted:
		s.OnHand += e.OnHand
		s.Unavailable += e.Unavailable
	case Counted:
		s.OnHand = e.OnHand
	case PolicySet:
		s.Safety, s.Backorder = e.Safety, e.Backorder
	case TransferredOut:
		s.OnHand -= e.Quantity
		s.Moved -= e.Quantity
	case TransferredIn:
		s.OnHand += e.Quantity
		s.Moved += e.Quantity
	case Divided, TransferSettled:
		// Nothing is moved.
	case Held:
		s.Held += e.Quantity
	case Committed:
		s.Held -= e.Quantity
		s.Allocated += e.Quantity
	case Released:
		s.Held -= e.Quantity
	case ShippedOut:
		s.Allocated -= e.Quantity
		s.OnHand -= e.Quantity
	case Deallocated:
		s.Allocated -= e.Quantity
	case Restocked:
		s.OnHand += e.Quantity
		if e.Damaged {
			s.Unavailable += e.Quantity
		}
	}
	return s
}

// sound is the invariant of the counters; shortage is the slug for what would
// promise more than there is.
func (s Stock) sound(shortage string) error {
	switch {
	case s.OnHand < 0:
		return domain.Refuse(domain.Conflict, "not_on_hand", "There are %d fewer on the shelf than that.", -s.OnHand)
	case s.Unavailable < 0:
		return domain.Refuse(domain.Conflict, "not_unavailable", "There are %d fewer unavailable than that.", -s.Unavailable)
	case max(s.OnHand, s.Unavailable, s.Safety, s.Backorder) > Limit:
		return domain.Refuse(domain.Invalid, "quantity_overflow", "No counter goes beyond %d.", int64(Limit))
	case s.Available()+s.Backorder < 0:
		return domain.Refuse(domain.Conflict, shortage, "That is %d more than can be sold.", -s.Available()-s.Backorder)
	}
	return nil
}

// opened adds a reservation and tells the memories the time.
func (s Stock) opened(e Held) (Stock, error) {
	id, err := orderid.Parse(e.Order)
	if err != nil {
		return s, fmt.Errorf("%T cannot have happened: %s", e, err.Error())
	}
	s.Reservations.Put(e.Order, Reservation{Attempt: e.Attempt, Quantity: e.Quantity, Phase: PhaseHeld, Expires: e.Expires})
	if drawn := id.Time(); drawn.After(s.Newest) {
		s.Newest = drawn
		s.Closed.Advance(drawn.UnixMilli(), closedStep, closedKeep)
		s.Restocks.Advance(drawn.UnixMilli(), restocksStep, restocksKeep)
	}
	return s, nil
}

// settled keeps a reservation of which something is left, and closes it otherwise.
func (s Stock) settled(order string, r Reservation) Stock {
	if r.Left() == 0 {
		return s.closed(order, r)
	}
	s.Reservations.Put(order, r)
	return s
}

func (s Stock) closed(order string, r Reservation) Stock {
	s.Reservations.Delete(order)
	s.Closed.Put(r.Quantity, keyAttempt, order, r.Attempt)
	if r.Phase == PhaseAllocated {
		s.Closed.Put(r.Quantity, keySold, order)
	} else {
		s.Closed.Put(r.Quantity, keyReleased, order)
	}
	for k, q := range r.Parcels {
		s.Closed.Put(q, keyParcel, order, k)
	}
	for k, q := range r.Refunds {
		s.Closed.Put(q, keyRefund, order, k)
	}
	return s
}

// with is a map of its own: clones of the state share the old one.
func with(m map[string]int64, k string, q int64) map[string]int64 {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]int64{}
	}
	m[k] = q
	return m
}

func fresh(_ int64, found bool) error {
	if found {
		return domain.Refuse(domain.Conflict, "key_used", "This was done before.")
	}
	return nil
}

func quantity(q int64) error {
	switch {
	case q <= 0:
		return domain.Refuse(domain.Invalid, "bad_quantity", "A quantity is at least 1, not %d.", q)
	case q > Limit:
		return overflow()
	}
	return nil
}

func level(name string, q int64) error {
	switch {
	case q < 0:
		return domain.Refuse(domain.Invalid, "bad_quantity", "%s is not negative.", name)
	case q > Limit:
		return overflow()
	}
	return nil
}

func change(e Adjusted) error {
	switch {
	case e.OnHand == 0 && e.Unavailable == 0:
		return domain.Refuse(domain.Invalid, "bad_quantity", "An adjustment changes something.")
	case max(e.OnHand, e.Unavailable) > Limit || min(e.OnHand, e.Unavailable) < -Limit:
		return overflow()
	}
	return nil
}

func overflow() error {
	return domain.Refuse(domain.Invalid, "quantity_overflow", "No quantity goes beyond %d.", int64(Limit))
}
