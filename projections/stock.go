package projections

import (
	"fmt"
	"time"

	"cartwright/domain/event"
	"cartwright/domain/inventory"
)

// StockView is the view of stocks, one document a SKU.
func StockView() View[Stock] {
	return View[Stock]{Name: "stock", Categories: []string{"inventory"}, Apply: applyStock}
}

func applyStock(s Stock, r event.Recorded, decoded any) (Stock, error) {
	e, err := own[inventory.Event](r, decoded)
	if err != nil {
		return s, err
	}
	s.SKU, s.ChangedAt = event.SubjectID(r.Stream), when(r)
	s = s.moved(e)
	if s.OnHand < 0 || s.Held < 0 || s.Allocated < 0 || s.Unavailable < 0 {
		return s, fmt.Errorf("%s cannot have happened: on hand %d, held %d, allocated %d, unavailable %d",
			r.Name, s.OnHand, s.Held, s.Allocated, s.Unavailable)
	}
	s.SweepAt = sweep(s.SweepAt, s.Held, expiry(e))
	return s, nil
}

func (s Stock) moved(e inventory.Event) Stock {
	switch e := e.(type) {
	case inventory.Received:
		s.OnHand += e.Quantity
	case inventory.Adjusted:
		s.OnHand, s.Unavailable = s.OnHand+e.OnHand, s.Unavailable+e.Unavailable
	case inventory.Counted:
		s.OnHand = e.OnHand
	case inventory.PolicySet:
		s.Safety, s.Backorder = e.Safety, e.Backorder
	case inventory.Divided:
		s.Shards = e.Shards
	case inventory.TransferredOut:
		s.OnHand, s.Moved = s.OnHand-e.Quantity, s.Moved-e.Quantity
	case inventory.TransferredIn:
		s.OnHand, s.Moved = s.OnHand+e.Quantity, s.Moved+e.Quantity
	case inventory.TransferSettled:
		// It had arrived.
	case inventory.Held:
		s.Held += e.Quantity
	case inventory.Committed:
		s.Held, s.Allocated = s.Held-e.Quantity, s.Allocated+e.Quantity
	case inventory.Released:
		s.Held -= e.Quantity
	case inventory.ShippedOut:
		s.Allocated, s.OnHand = s.Allocated-e.Quantity, s.OnHand-e.Quantity
	case inventory.Deallocated:
		s.Allocated -= e.Quantity
	case inventory.Restocked:
		s.OnHand += e.Quantity
		if e.Damaged {
			s.Unavailable += e.Quantity
		}
	}
	return s
}

// expiry is when the hold ends that e opened, or zero.
func expiry(e inventory.Event) time.Time {
	if held, ok := e.(inventory.Held); ok {
		return held.Expires
	}
	return time.Time{}
}

// sweep is the lower bound of the expiries of what is held: nothing held has
// none, and a new hold can only bring it nearer.
func sweep(bound time.Time, held int64, expires time.Time) time.Time {
	switch {
	case held == 0:
		return time.Time{}
	case expires.IsZero():
		return bound
	case bound.IsZero() || expires.Before(bound):
		return expires.UTC().Truncate(time.Microsecond)
	}
	return bound
}
