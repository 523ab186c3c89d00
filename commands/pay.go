package commands

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
)

// methodBalance is payment from the buyer's account.
const methodBalance = "balance"

// Pay pays what is unpaid of a checkout from the buyer's account: hold the
// money for every order at once, then record each order as paid. order.paid is
// the decision; what follows (stock committed, money captured) is brought about
// by Settle, in whatever process, and can't be refused any more. The hold is
// named by the order, so that a payment which was cut off is taken up where it
// ended, by the same request or by the timer.
func (s *Shop) Pay(ctx context.Context, r Request, checkout orderid.ID, expected *money.Money) (Paid, error) {
	free, err := s.turn(ctx, string(checkout))
	if err != nil {
		return Paid{}, err
	}
	defer free()
	orders, err := s.ordersOf(ctx, checkout)
	if err != nil {
		return Paid{}, err
	}
	if r.Correlation == "" {
		r.Correlation = string(checkout)
	}
	p, open, err := s.begunPayment(ctx, r, checkout, orders)
	if err != nil {
		return Paid{}, err
	}
	if len(open) == 0 && len(p.Orders) > 0 {
		p.Repeated = true
		return p, nil
	}
	if err := payable(orders, open, p.Total.Amount, expected); err != nil {
		return Paid{}, err
	}
	if err := s.holdMoney(ctx, r, open); err != nil {
		return Paid{}, err
	}
	return s.payEach(ctx, r, p, open)
}

// ordersOf gives the orders of a checkout, all of which stand then.
func (s *Shop) ordersOf(ctx context.Context, checkout orderid.ID) ([]order.Order, error) {
	o, _, err := s.orders.State(ctx, string(checkout))
	if err != nil {
		return nil, err
	}
	switch {
	case o.Status == order.StatusNone:
		return nil, unknownOrder(string(checkout))
	case o.Checkout != string(checkout):
		return nil, domain.Refuse(domain.NotFound, "unknown_checkout", "%s is an order of checkout %s.", checkout, o.Checkout)
	}
	return s.standing(ctx, o)
}

// standing makes sure that all orders of o's checkout stand, and gives them,
// the first one first.
func (s *Shop) standing(ctx context.Context, o order.Order) ([]order.Order, error) {
	if o.Checkout != o.ID {
		head, _, err := s.orders.State(ctx, o.Checkout)
		if err != nil {
			return nil, err
		}
		o = head
	}
	orders := []order.Order{o}
	for _, sib := range o.Siblings {
		state, _, err := s.orders.State(ctx, sib.Order)
		if err == nil && state.Status == order.StatusNone {
			if _, err = s.placeSibling(ctx, placedOf(o), sib); err == nil {
				state, _, err = s.orders.State(ctx, sib.Order)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("order %s of checkout %s: %w", sib.Order, o.ID, err)
		}
		orders = append(orders, state)
	}
	return orders, nil
}

// placedOf gives back what siblings need of the event that placed o.
func placedOf(o order.Order) order.Placed {
	return order.Placed{
		Order: o.ID, Checkout: o.Checkout, Buyer: o.Buyer, Currency: o.Currency,
		Address: o.Address, Attempt: o.Attempt, Deadline: o.Deadline,
	}
}

// begunPayment finds what this very request has paid already, and what is still open.
func (s *Shop) begunPayment(ctx context.Context, r Request, checkout orderid.ID, orders []order.Order) (Paid, []order.Order, error) {
	p := Paid{Checkout: string(checkout), Streams: map[string]event.Revision{}, Total: money.Money{Currency: orders[0].Currency}}
	var open []order.Order
	for _, o := range orders {
		done, found, err := s.orders.Recall(ctx, o.ID, r)
		if err != nil {
			return Paid{}, nil, err
		}
		switch {
		case found:
			p.add(done, o)
		case o.Status == order.StatusPending:
			open = append(open, o)
		}
	}
	return p, open, nil
}

func (p *Paid) add(done Done[order.Event], o order.Order) {
	p.Orders = append(p.Orders, o.ID)
	p.Total.Amount += o.Total()
	p.Streams[done.Stream] = done.Revision
}

func payable(orders, open []order.Order, paid int64, expected *money.Money) error {
	if len(open) == 0 {
		for _, o := range orders {
			if o.Status != order.StatusCancelled {
				return domain.Refuse(domain.Conflict, "already_paid", "This checkout is paid.")
			}
		}
		return domain.Refuse(domain.Conflict, "not_payable", "This checkout was cancelled.")
	}
	total := paid
	for _, o := range open {
		total += o.Total()
	}
	if expected != nil && (expected.Amount != total || expected.Currency != orders[0].Currency) {
		return domain.Refuse(domain.Rejected, "wrong_amount", "There are %d %s to pay.", total, orders[0].Currency)
	}
	return nil
}

// holdMoney sets the money for all open orders aside, or none of it.
func (s *Shop) holdMoney(ctx context.Context, r Request, open []order.Order) error {
	var claims []account.Claim
	for _, o := range open {
		if total := o.Total(); total > 0 {
			claims = append(claims, account.Claim{Order: o.ID, Amount: total})
		}
	}
	if len(claims) == 0 {
		return nil
	}
	o := open[0]
	// Held again is held once, by the order's id; so a cause that repeats must not answer for other orders.
	r.Cause, r.Digest, r.IfMatch = "money/"+r.Cause+"/"+claims[0].Order, "", nil
	_, err := s.accounts.Handle(ctx, o.Buyer, r, account.Hold{
		Checkout: o.Checkout, Currency: o.Currency, Claims: claims,
		Expires: s.now().Add(s.payWithin).UTC().Truncate(time.Millisecond),
	})
	return err
}

// payEach records the orders as paid. One that was cancelled meanwhile gives
// its money back and does not hinder the others.
func (s *Shop) payEach(ctx context.Context, r Request, p Paid, open []order.Order) (Paid, error) {
	var refused error
	for _, o := range open {
		if o.ID != p.Checkout {
			r.IfMatch = nil // the caller named a version of the checkout's first order
		}
		done, err := s.orders.Handle(ctx, o.ID, r, order.Pay{Amount: o.Total(), Currency: o.Currency, Method: methodBalance})
		switch {
		case err == nil:
			p.add(done, o)
			p.Repeated = p.Repeated || done.Repeated
		case domain.CodeOf(err) == domain.Conflict && !errors.Is(err, event.ErrConflict):
			refused = err
			if err = s.freeMoney(ctx, o, "not_paid"); err != nil {
				return Paid{}, err
			}
		default:
			return Paid{}, err
		}
	}
	if len(p.Orders) == 0 {
		return Paid{}, refused
	}
	return p, nil
}

// freeMoney ends the hold for an order. There may be none, nor an account.
func (s *Shop) freeMoney(ctx context.Context, o order.Order, reason string) error {
	r := Request{Cause: "free/" + o.ID, Correlation: o.Checkout, Actor: "checkout", completes: true}
	_, err := s.accounts.Handle(ctx, o.Buyer, r, account.Release{Order: o.ID, Reason: reason})
	if domain.ReasonOf(err) == "unknown_account" {
		return nil
	}
	return err
}
