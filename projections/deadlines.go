package projections

import (
	"fmt"
	"time"

	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/domain/payment"
)

// A Timer is the document of one stream's deadline.
type Timer struct {
	Due  time.Time `json:"due,omitzero"`   // zero: there is nothing to look at
	Held int64     `json:"held,omitempty"` // what a stock or an account holds, or how many refunds a payment waits for, which decides Due
	Open time.Time `json:"open,omitzero"`  // when a payment that is waited for wants to be looked at
}

// DeadlinesView is the view of when streams want to be looked at: an order when
// its payment is due or when it completes by itself, a payment when its channel
// should have said something, a stock or an account when the first of its holds
// may be over.
func DeadlinesView() View[Timer] {
	return View[Timer]{Name: "deadlines", Categories: []string{"order", "inventory", "account", "payment"}, Apply: applyTimer}
}

func applyTimer(t Timer, r event.Recorded, decoded any) (Timer, error) {
	switch e := decoded.(type) {
	case order.Event:
		return t.ofOrder(e), nil
	case inventory.Event:
		return t.held(r, stockHeld(e), expiry(e))
	case account.Event:
		return t.held(r, moneyHeld(e), moneyExpiry(e))
	case payment.Event:
		return t.ofPayment(e), nil
	}
	return t, fmt.Errorf("%s does not belong in stream %s", r.Name, r.Stream)
}

func (t Timer) ofOrder(e order.Event) Timer {
	switch e := e.(type) {
	case order.Placed:
		t.Due = e.Deadline.UTC().Truncate(time.Microsecond)
	case order.Paid, order.Cancelled, order.Abandoned, order.Completed, order.Refunded:
		t.Due = time.Time{}
	case order.ParcelDelivered:
		if due := e.Completes.UTC().Truncate(time.Microsecond); due.After(t.Due) {
			t.Due = due
		}
	default: // nothing else moves a deadline
	}
	return t
}

// ofPayment waits for the buyer, and for refunds. A refund is waited for from
// when the newest was asked for: one look at a payment looks at all of them.
func (t Timer) ofPayment(e payment.Event) Timer {
	var look time.Time
	switch e := e.(type) {
	case payment.Created:
		t.Open = e.Expires
	case payment.Asked:
		if e.Look.Before(t.Open) {
			t.Open = e.Look
		}
	case payment.Captured, payment.Failed, payment.Expired:
		t.Open = time.Time{}
	case payment.RefundRequested:
		t.Held, look = t.Held+1, e.Look
	case payment.RefundRedirected:
		look = e.Look
	case payment.RefundSucceeded: // one that failed is waited for still: an operator sends it again
		t.Held--
	default: // nothing else is waited for
	}
	switch {
	case look.IsZero() && t.Held > 0 && !t.Due.IsZero():
		look = t.Due
	case t.Held == 0:
		look = time.Time{}
	}
	t.Due = t.Open
	if !look.IsZero() && (t.Due.IsZero() || look.Before(t.Due)) {
		t.Due = look
	}
	t.Open, t.Due = t.Open.UTC().Truncate(time.Microsecond), t.Due.UTC().Truncate(time.Microsecond)
	return t
}

func (t Timer) held(r event.Recorded, change int64, expires time.Time) (Timer, error) {
	t.Held += change
	if t.Held < 0 {
		return t, fmt.Errorf("%s cannot have happened: it leaves %d held", r.Name, t.Held)
	}
	t.Due = sweep(t.Due, t.Held, expires)
	return t, nil
}

// stockHeld is by how much an event changes what a stock holds.
func stockHeld(e inventory.Event) int64 {
	switch e := e.(type) {
	case inventory.Held:
		return e.Quantity
	case inventory.Committed:
		return -e.Quantity
	case inventory.Released:
		return -e.Quantity
	default: // nothing else touches a hold
		return 0
	}
}

// moneyHeld is by how much an event changes what an account holds.
func moneyHeld(e account.Event) int64 {
	switch e := e.(type) {
	case account.Held:
		return claimed(e.Claims)
	case account.Captured:
		return -e.Amount - e.Freed
	case account.Released:
		return -e.Amount
	default: // nothing else touches a hold
		return 0
	}
}

// moneyExpiry is when the holds end that e opened, or zero.
func moneyExpiry(e account.Event) time.Time {
	if held, ok := e.(account.Held); ok {
		return held.Expires
	}
	return time.Time{}
}

func claimed(claims []account.Claim) int64 {
	var sum int64
	for _, c := range claims {
		sum += c.Amount
	}
	return sum
}
