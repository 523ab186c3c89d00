package commands

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/payment"
	"cartwright/domain/trade"
)

// PollAfter is how long a channel may say nothing before it is asked.
const PollAfter = time.Minute

const (
	maxPayments = 20 // of one checkout
	maxOptions  = 20
	maxOption   = 500
	pollAtMost  = 10 * time.Minute
	fullRate    = 10_000 // basis points
)

func (s Setup) checkMoney() error {
	if s.Commission < 0 || s.Commission > fullRate {
		return fmt.Errorf("a commission is 0 to %d basis points, not %d", fullRate, s.Commission)
	}
	for name, ch := range s.Channels {
		if err := payment.CheckChannel("", name); err != nil || ch == nil || name == methodBalance {
			return fmt.Errorf("%q is no name of a channel, or there is none: %w", name, err)
		}
	}
	return nil
}

// A PaymentRequest asks for what is unpaid of a checkout by a channel.
type PaymentRequest struct {
	Checkout orderid.ID
	Channel  string
	Expected *money.Money      // refuse another total
	Options  map[string]string // the channel's own
}

// Asked is a payment whose channel waits for the buyer.
type Asked struct {
	Payment  payment.Payment
	Stream   string
	Revision event.Revision
	Repeated bool
}

// StartPayment has a channel take what is unpaid of a checkout. A buyer may try
// several, one after the other or at once; what comes twice goes back by itself.
//
// A payment is named by its checkout and a number, so that all of them can be
// found without a view, and so that the name fits what channels allow.
func (s *Shop) StartPayment(ctx context.Context, r Request, in PaymentRequest) (Asked, error) {
	ch, err := s.channel(in)
	if err != nil {
		return Asked{}, err
	}
	free, err := s.turn(ctx, string(in.Checkout))
	if err != nil {
		return Asked{}, err
	}
	defer free()
	orders, err := s.ordersOf(ctx, in.Checkout)
	if err != nil {
		return Asked{}, err
	}
	if r.Correlation == "" {
		r.Correlation = string(in.Checkout)
	}
	a, err := s.createPayment(ctx, r, in, orders)
	if err != nil {
		return Asked{}, err
	}
	return s.askChannel(ctx, ch, a, in)
}

func (s *Shop) channel(in PaymentRequest) (Channel, error) {
	ch, ok := s.channels[in.Channel]
	if !ok {
		return nil, domain.Refuse(domain.NotFound, "unknown_channel", "There is no payment channel %q here.", in.Channel)
	}
	if len(in.Options) > maxOptions {
		return nil, domain.Refuse(domain.Invalid, "too_many_options", "A payment has at most %d options.", maxOptions)
	}
	for name, value := range in.Options {
		if err := errors.Join(domain.CheckText("/options", name, maxOption), domain.CheckText("/options/"+name, value, maxOption)); err != nil {
			return nil, err
		}
	}
	return ch, nil
}

// createPayment begins a payment under the first number that is free, or finds
// the one that this request has begun before.
func (s *Shop) createPayment(ctx context.Context, r Request, in PaymentRequest, orders []order.Order) (Asked, error) {
	create, refused := s.wanted(in, orders)
	for n := 1; n <= maxPayments; n++ {
		create.Payment = string(in.Checkout) + "-" + strconv.Itoa(n)
		done, err := s.attempt(ctx, r, create, refused)
		if domain.ReasonOf(err) == "payment_exists" {
			continue
		}
		if err != nil {
			return Asked{}, err
		}
		p, at, err := s.payments.State(ctx, create.Payment)
		// Another process that begins the very same payment appends nothing, and need not notice.
		return Asked{Payment: p, Stream: done.Stream, Revision: at, Repeated: done.Repeated || at > 1}, err
	}
	return Asked{}, domain.Refuse(domain.Rejected, "too_many_payments", "There were %d payments for this checkout.", maxPayments)
}

// attempt begins a payment under one number. Where nothing can be paid any more,
// it only answers what was begun before.
func (s *Shop) attempt(ctx context.Context, r Request, create payment.Create, refused error) (Done[payment.Event], error) {
	if refused == nil {
		return s.payments.Create(ctx, create.Payment, r, create)
	}
	done, found, err := s.payments.Recall(ctx, create.Payment, r)
	if err != nil || found {
		return done, err
	}
	_, at, err := s.payments.State(ctx, create.Payment)
	if err == nil && at > 0 {
		err = domain.Refuse(domain.Conflict, "payment_exists", "Another request's.")
	}
	return done, cmp.Or(err, refused)
}

// wanted is the payment for what is unpaid, or why there is none.
func (s *Shop) wanted(in PaymentRequest, orders []order.Order) (payment.Create, error) {
	head := orders[0]
	c := payment.Create{
		Checkout: head.ID, Buyer: head.Buyer, Channel: in.Channel, Currency: head.Currency, Expires: s.now().Add(s.payWithin),
	}
	var open []order.Order
	for _, o := range orders {
		if o.Status != order.StatusPending {
			continue
		}
		open = append(open, o)
		if !o.Deadline.IsZero() {
			c.Expires = earlier(c.Expires, o.Deadline)
		}
		if total := o.Total(); total > 0 {
			c.Amount += total
			c.Splits = append(c.Splits, payment.Split{Order: o.ID, Seller: o.Seller, Amount: total})
		}
	}
	if err := payable(orders, open, 0, in.Expected); err != nil {
		return c, err
	}
	c.Expires = c.Expires.UTC().Truncate(time.Second)
	switch {
	case c.Amount == 0:
		return c, domain.Refuse(domain.Rejected, "nothing_to_pay", "This checkout costs nothing: pay it from the balance.")
	case !c.Expires.After(s.now()):
		return c, domain.Refuse(domain.Conflict, "not_payable", "The time to pay this checkout is over.")
	}
	return c, nil
}

// askChannel has the channel wait for the buyer, unless it does already.
func (s *Shop) askChannel(ctx context.Context, ch Channel, a Asked, in PaymentRequest) (Asked, error) {
	p := a.Payment
	switch p.Status {
	case payment.StatusCreated:
	case payment.StatusFailed:
		if p.Instruction == nil {
			return Asked{}, refusedBy(p.Channel, p.Failure)
		}
		return a, nil
	default:
		return a, nil
	}
	told, err := ch.Ask(ctx, Asking{
		Payment: p.ID, Total: money.Money{Amount: p.Amount, Currency: p.Currency},
		Subject: "Order " + p.Checkout, Expires: p.Expires, Options: in.Options,
	})
	if err != nil {
		return Asked{}, s.notAsked(ctx, p, err)
	}
	if len(told.Data) == 0 {
		told.Data = []byte("{}")
	}
	err = s.recordPayment(ctx, p, "asked", payment.RecordAsked{
		Reference: told.Reference, Instruction: told.Data, Look: s.now().Add(s.pollAfter).UTC().Truncate(time.Millisecond),
	})
	if err != nil {
		return Asked{}, err
	}
	a.Payment, a.Revision, err = s.payments.State(ctx, p.ID)
	return a, err
}

// notAsked gives up a payment that its channel refuses for good. Of any other
// failure nobody knows what the channel made of it, so the request may come again.
func (s *Shop) notAsked(ctx context.Context, p payment.Payment, err error) error {
	if undecided(err) || domain.CodeOf(err) == domain.Invalid { // the caller's fault, who may say it better
		return fmt.Errorf("ask %s for payment %s: %w", p.Channel, p.ID, err)
	}
	why := reasonIn(err)
	if err := s.recordPayment(ctx, p, "refused", payment.Fail{Reason: why}); err != nil {
		return err
	}
	return refusedBy(p.Channel, why)
}

// undecided says that a channel's answer leaves the outcome open.
func undecided(err error) bool {
	code := domain.CodeOf(err)
	return code == "" || code == domain.Unavailable || code == domain.TooMany
}

func refusedBy(channel, why string) error {
	return domain.Refuse(domain.Rejected, "channel_refused", "The channel %s refuses: %s", channel, why)
}

// reasonIn is what may be shown of an error.
func reasonIn(err error) string {
	why := err.Error()
	if e, ok := errors.AsType[*domain.Error](err); ok {
		why = e.Detail
	}
	if runes := []rune(why); len(runes) > maxOption {
		why = string(runes[:maxOption])
	}
	return why
}

// ofPayment names what a process does for a payment.
func ofPayment(p payment.Payment, step string) Request {
	return Request{Cause: "payment/" + p.ID + "/" + step, Correlation: p.Checkout, Actor: "process", completes: true}
}

func (s *Shop) recordPayment(ctx context.Context, p payment.Payment, step string, c payment.Command) error {
	_, err := s.payments.Handle(ctx, p.ID, ofPayment(p, step), c)
	return err
}

// FindPayment gives a payment as it is now.
func (s *Shop) FindPayment(ctx context.Context, id string) (payment.Payment, error) {
	p, _, err := s.payments.State(ctx, id)
	if err == nil && p.Status == payment.StatusNone {
		err = domain.Refuse(domain.NotFound, "unknown_payment", "There is no payment %s.", id)
	}
	return p, err
}

// ReturnTrade gives money back that came and was not asked for.
func (s *Shop) ReturnTrade(ctx context.Context, r Request, id, number string) (Done[payment.Event], error) {
	p, err := s.FindPayment(ctx, id)
	if err != nil {
		return Done[payment.Event]{}, err
	}
	i := slices.IndexFunc(p.Trades, func(t payment.Trade) bool { return t.Trade == number })
	if i < 0 {
		return Done[payment.Event]{}, domain.Refuse(domain.NotFound, "unknown_trade", "Payment %s has no trade %s.", id, number)
	}
	return s.payments.Handle(ctx, id, r, payment.RequestRefund{
		Refund: id + "." + shortDigest(number), Trade: number, Amount: p.Trades[i].Amount, Reason: "not_asked_for", Look: s.look(),
	})
}

// A Resolved trade is one of which an operator has said what became of it.
type Resolved struct {
	Streams  map[string]event.Revision
	Repeated bool
}

// ResolveTrade records that money which nobody asked for, or which can't go back
// by a refund, was given back at its channel.
func (s *Shop) ResolveTrade(ctx context.Context, r Request, channel, number, by, reason string) (Resolved, error) {
	id := trade.ID(channel, number)
	t, _, err := s.trades.State(ctx, id)
	switch {
	case err != nil:
		return Resolved{}, err
	case t.Channel == "":
		return Resolved{}, domain.Refuse(domain.NotFound, "unknown_trade", "The channel %s has told of no trade %s.", channel, number)
	case t.Orphan != "":
		done, refused := s.trades.Handle(ctx, id, r, trade.Resolve{By: by, Reason: reason})
		return Resolved{map[string]event.Revision{done.Stream: done.Revision}, done.Repeated}, refused
	}
	done, err := s.payments.Handle(ctx, t.Payment, r, payment.ResolveTrade{Trade: number, By: by, Reason: reason})
	return Resolved{map[string]event.Revision{done.Stream: done.Revision}, done.Repeated}, err
}

// RedirectRefund sends a refund again that its channel refused: there, or to the
// buyer's account, which must be one in the payment's currency.
func (s *Shop) RedirectRefund(ctx context.Context, r Request, id string, c payment.RedirectRefund) (Done[payment.Event], error) {
	p, err := s.FindPayment(ctx, id)
	if err != nil {
		return Done[payment.Event]{}, err
	}
	if c.To == payment.ToBalance {
		var currency string
		err := s.accounts.Look(ctx, p.Buyer, func(a account.Account, _ event.Revision) { currency = a.Currency })
		if err != nil {
			return Done[payment.Event]{}, err
		}
		if currency != p.Currency {
			return Done[payment.Event]{}, domain.Refuse(domain.Rejected, "no_account", "The buyer has no account in %s.", p.Currency)
		}
	}
	c.Look = s.look()
	return s.payments.Handle(ctx, id, r, c)
}
