package commands

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/domain/payment"
)

// Due is a stream that wanted to be looked at by now.
type Due struct {
	Stream string
	At     time.Time
}

// Deadlines knows when streams want to be looked at, the earliest first. It is
// a view: it may be late, and it may name a stream that needs nothing.
type Deadlines interface {
	// Due gives up to limit streams that were due at now, those behind after only.
	Due(ctx context.Context, now time.Time, after *Due, limit int) ([]Due, error)
}

// Timers fire what is due: payments that did not come, holds that nobody stands
// behind any more, orders that complete by themselves, and channels that have
// said nothing.
//
// # Why
//
// A hold ends by an event and never by the clock alone. What fires asks the
// order's stream, which decides: order.cancelled for an order that was not paid
// in time, order.abandoned for an attempt that never placed its order; only
// then is the hold released. So a payment that races the deadline either finds
// the order cancelled and gives the money back, or makes it paid and the timer
// is refused (TestAPaymentThatRacesTheDeadline). Any process may run timers,
// several at once too.
type Timers struct {
	Shop      *Shop
	Deadlines Deadlines
	Every     time.Duration // a second if 0
	Log       *slog.Logger

	later   map[string]nextLook // streams that were looked at, and need it again then
	retried time.Time           // when what is parked was last tried
}

// A nextLook is when a stream that was due is looked at again, unless it is due
// for another reason by then.
type nextLook struct{ was, at time.Time }

const (
	dueAtOnce    = 500
	firedAtOnce  = 32
	afterFailure = 10 * time.Second
	retryEvery   = 10 * time.Minute
	refundPause  = 5 // so many times PollAfter
)

// Run looks again and again until ctx ends.
func (t *Timers) Run(ctx context.Context) error {
	every := t.Every
	if every <= 0 {
		every = time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := t.Fire(ctx); err != nil && ctx.Err() == nil {
			t.Log.WarnContext(ctx, "timers will try again", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Fire deals once with everything that is due. One stream that can't be dealt
// with does not keep the others waiting.
func (t *Timers) Fire(ctx context.Context) error {
	now := t.Shop.now()
	t.prune(now)
	errs := t.retry(ctx, now)
	var after *Due
	for {
		due, err := t.Deadlines.Due(ctx, now, after, dueAtOnce)
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("read deadlines: %w", err))...)
		}
		errs = append(errs, t.fireAll(ctx, due, now)...)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if len(due) < dueAtOnce {
			return errors.Join(errs...)
		}
		after = &due[len(due)-1]
	}
}

// fireAll deals with streams side by side: each waits for the log, not for the others.
func (t *Timers) fireAll(ctx context.Context, due []Due, now time.Time) []error {
	errs := make([]error, len(due))
	next := make([]time.Time, len(due))
	var g errgroup.Group
	g.SetLimit(firedAtOnce)
	for i, d := range due {
		if next := t.later[d.Stream]; next.was.Equal(d.At) && next.at.After(now) {
			continue
		}
		g.Go(func() error {
			if next[i], errs[i] = t.fire(ctx, d.Stream, now); errs[i] != nil {
				errs[i], next[i] = fmt.Errorf("%s is due: %w", d.Stream, errs[i]), now.Add(afterFailure)
			}
			return nil
		})
	}
	_ = g.Wait() // the goroutines keep their errors apart
	for i, d := range due {
		if next[i].After(now) { // the view may say "due" for long: it knows a lower bound only, or lags
			t.later[d.Stream] = nextLook{d.At, next[i]}
		}
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// prune forgets streams whose time to be looked at again has come.
func (t *Timers) prune(now time.Time) {
	if t.later == nil {
		t.later = map[string]nextLook{}
	}
	for stream, next := range t.later {
		if !next.at.After(now) {
			delete(t.later, stream)
		}
	}
}

// fire deals with one stream and says when it may want to be looked at again.
func (t *Timers) fire(ctx context.Context, stream string, now time.Time) (time.Time, error) {
	id := event.SubjectID(stream)
	switch event.Category(stream) {
	case "order":
		return t.Shop.timeOut(ctx, id, now)
	case "inventory":
		return t.Shop.sweepStock(ctx, id, now)
	case "account":
		return t.Shop.sweepAccount(ctx, id, now)
	case "payment":
		return t.Shop.lookAfter(ctx, id, now)
	}
	return time.Time{}, nil
}

// retry tries again what is parked. What still can't be brought about stays.
func (t *Timers) retry(ctx context.Context, now time.Time) []error {
	if now.Sub(t.retried) < retryEvery {
		return nil
	}
	t.retried = now
	waiting, err := t.Shop.Stuck(ctx)
	if err != nil {
		return []error{fmt.Errorf("read what is parked: %w", err)}
	}
	for stream := range waiting {
		if err := t.Shop.Retry(ctx, stream, "timer"); err != nil {
			t.Log.InfoContext(ctx, "a parked stream stays parked", "stream", stream, "err", err)
		}
	}
	return nil
}

// lookAgain is when a stream that is still due, for no reason that a timer
// could do anything about, is looked at again.
func (s *Shop) lookAgain(now time.Time) time.Time { return now.Add(s.payWithin) }

// timeOut cancels an order that was not paid in time, and completes one that
// nobody has completed in time.
func (s *Shop) timeOut(ctx context.Context, id string, now time.Time) (time.Time, error) {
	o, _, err := s.orders.State(ctx, id)
	if err != nil {
		return time.Time{}, err
	}
	if at := o.CompletesAt(); !at.IsZero() {
		return s.completeInTime(ctx, o, at, now)
	}
	if o.Status != order.StatusPending || o.Deadline.IsZero() {
		return s.lookAgain(now), nil
	}
	if o.Deadline.After(now) {
		return o.Deadline, nil
	}
	_, err = s.orders.Handle(ctx, id, Request{Cause: "timeout/" + id, Correlation: o.Checkout, Actor: "timer", completes: true},
		order.Cancel{Cancellation: order.Cancellation{Reason: order.Timeout, By: "timer"}})
	if domain.CodeOf(err) == domain.Conflict && !errors.Is(err, event.ErrConflict) {
		return s.lookAgain(now), nil // it was paid in the last moment
	}
	if err != nil {
		return time.Time{}, err
	}
	return s.lookAgain(now), s.Settle(ctx, id)
}

func (s *Shop) completeInTime(ctx context.Context, o order.Order, at, now time.Time) (time.Time, error) {
	if at.After(now) {
		return at, nil
	}
	r := Request{Cause: "complete/" + o.ID, Correlation: o.Checkout, Actor: "timer", completes: true}
	_, err := s.orders.Handle(ctx, o.ID, r, order.Complete{By: "timer"})
	if domain.CodeOf(err) == domain.Conflict && !errors.Is(err, event.ErrConflict) {
		return s.lookAgain(now), nil // it was refunded in the last moment
	}
	if err != nil {
		return time.Time{}, err
	}
	return s.lookAgain(now), s.Settle(ctx, o.ID)
}

// lookAfter asks the channel of a payment that has said nothing, and of refunds
// that take their time. What nobody paid in time it closes there first, so that
// no money can come for it any more.
func (s *Shop) lookAfter(ctx context.Context, id string, now time.Time) (time.Time, error) {
	p, _, err := s.payments.State(ctx, id)
	if err != nil {
		return time.Time{}, err
	}
	if !p.Open() {
		return now.Add(min(refundPause*s.pollAfter, pollAtMost)), s.SettlePayment(ctx, id)
	}
	ch, ok := s.channels[p.Channel]
	if !ok {
		return time.Time{}, domain.Refuse(domain.Unavailable, "unknown_channel", "The channel %s is not set up here.", p.Channel)
	}
	ask, over := ch.Find, !p.Expires.After(now)
	if over {
		ask = ch.Close
	}
	n, err := ask(ctx, id)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask %s: %w", p.Channel, err)
	}
	switch {
	case over && n.Kind != NoticePaid: // closed by us, or never begun
		return now.Add(pollAtMost), s.recordPayment(ctx, p, "expired", payment.Expire{})
	case n.Kind != NoticePending:
		n.Payment = id
		return now.Add(pollAtMost), s.take(ctx, p, n, over)
	}
	return earlier(now.Add(s.pollPause(p, now)), p.Expires), nil
}

// take records what a channel was found to say. Where its time is over and the
// money is not what was asked for, the payment is not waited for any more.
func (s *Shop) take(ctx context.Context, p payment.Payment, n Notice, over bool) error {
	if err := s.Notify(ctx, p.Channel, n); err != nil || !over {
		return err
	}
	return s.recordPayment(ctx, p, "expired", payment.Expire{}) // nothing, if it was paid
}

// pollPause grows with a payment's age: most that are made are made at once.
func (s *Shop) pollPause(p payment.Payment, now time.Time) time.Duration {
	age := s.payWithin - p.Expires.Sub(now)
	return min(max(age/2, s.pollAfter), pollAtMost)
}

// sweepStock ends the holds of attempts that never placed their order.
func (s *Shop) sweepStock(ctx context.Context, stock string, now time.Time) (time.Time, error) {
	over := map[string]string{} // attempts, by checkout
	next := s.lookAgain(now)
	err := s.stock.Look(ctx, stock, func(st inventory.Stock, _ event.Revision) {
		for id, r := range st.Reservations.All() {
			switch {
			case r.Phase != inventory.PhaseHeld:
			case r.Expires.After(now):
				next = earlier(next, r.Expires)
			default:
				over[id] = r.Attempt
			}
		}
	})
	if err != nil {
		return time.Time{}, err
	}
	var errs []error
	for id, attempt := range over {
		errs = append(errs, s.sweepHold(ctx, stock, id, attempt))
	}
	return next, errors.Join(errs...)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// sweepHold fences an attempt and releases its hold. An order that stands on
// the attempt keeps it: its own deadline, if it has one, decides.
func (s *Shop) sweepHold(ctx context.Context, stock, id, attempt string) error {
	err := s.fence(ctx, id, attempt)
	if domain.ReasonOf(err) == "order_stands" {
		return s.Settle(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("fence attempt %s of %s: %w", attempt, id, err)
	}
	// An order that was paid on goods which had to be held again stands on this
	// attempt all the same.
	if paid, err := s.settledIfPaid(ctx, id, stock); err != nil || paid {
		return err
	}
	return s.release(ctx, stock, inventory.Release{Order: id, Attempt: attempt, Reason: "abandoned"})
}

// settledIfPaid brings about what the orders of a checkout call for that want goods
// of this stock and were paid, if there are any.
func (s *Shop) settledIfPaid(ctx context.Context, checkout, stock string) (paid bool, err error) {
	head, _, err := s.orders.State(ctx, checkout)
	if err != nil {
		return false, err
	}
	for _, id := range append([]string{checkout}, siblingIDs(head)...) {
		o, _, err := s.orders.State(ctx, id)
		if err != nil {
			return paid, err
		}
		if _, wants := soldUnits(o)[stock]; wants && wasPaid(o) && !o.StockCommitted {
			if err = s.Settle(ctx, id); err != nil {
				return true, err
			}
			paid = true
		}
	}
	return paid, nil
}

// sweepAccount ends the holds of orders that will never be paid with them.
func (s *Shop) sweepAccount(ctx context.Context, owner string, now time.Time) (time.Time, error) {
	var over []string
	next := s.lookAgain(now)
	err := s.accounts.Look(ctx, owner, func(a account.Account, _ event.Revision) {
		for id, h := range a.Holds.All() {
			if h.Expires.After(now) {
				next = earlier(next, h.Expires)
			} else {
				over = append(over, id)
			}
		}
	})
	if err != nil {
		return time.Time{}, err
	}
	var errs []error
	for _, id := range over {
		errs = append(errs, s.sweepMoney(ctx, owner, id))
	}
	return next, errors.Join(errs...)
}

// sweepMoney does what the order calls for. While it waits for payment the
// money stays on hold, since a payment may be under way.
func (s *Shop) sweepMoney(ctx context.Context, owner, id string) error {
	o, _, err := s.orders.State(ctx, id)
	switch {
	case err != nil && !gone(err):
		return err
	case o.Status == order.StatusPending:
		return nil
	case wasPaid(o) && o.PaymentID == "":
		return s.Settle(ctx, id)
	}
	o.ID, o.Buyer = id, owner
	return s.freeMoney(ctx, o, "not_paid")
}
