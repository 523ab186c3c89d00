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

// Timers fire what is due: payments that did not come, and holds that nobody
// stands behind any more.
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

	later map[string]time.Time // streams that were looked at, and need it again then
}

const (
	dueAtOnce    = 500
	firedAtOnce  = 32
	afterFailure = 10 * time.Second
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
	var errs []error
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
		if t.later[d.Stream].After(now) {
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
			t.later[d.Stream] = next[i]
		}
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// prune forgets streams whose time to be looked at again has come.
func (t *Timers) prune(now time.Time) {
	if t.later == nil {
		t.later = map[string]time.Time{}
	}
	for stream, at := range t.later {
		if !at.After(now) {
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
	}
	return time.Time{}, nil
}

// lookAgain is when a stream that is still due, for no reason that a timer
// could do anything about, is looked at again.
func (s *Shop) lookAgain(now time.Time) time.Time { return now.Add(s.payWithin) }

// timeOut cancels an order that was not paid in time.
func (s *Shop) timeOut(ctx context.Context, id string, now time.Time) (time.Time, error) {
	o, _, err := s.orders.State(ctx, id)
	if err != nil {
		return time.Time{}, err
	}
	if o.Status != order.StatusPending || o.Deadline.IsZero() {
		return s.lookAgain(now), nil
	}
	if o.Deadline.After(now) {
		return o.Deadline, nil
	}
	_, err = s.orders.Handle(ctx, id, Request{Cause: "timeout/" + id, Correlation: o.Checkout, Actor: "timer"},
		order.Cancel{Cancellation: order.Cancellation{Reason: order.Timeout, By: "timer"}})
	if domain.CodeOf(err) == domain.Conflict && !errors.Is(err, event.ErrConflict) {
		return s.lookAgain(now), nil // it was paid in the last moment
	}
	if err != nil {
		return time.Time{}, err
	}
	return s.lookAgain(now), s.Settle(ctx, id)
}

// sweepStock ends the holds of attempts that never placed their order.
func (s *Shop) sweepStock(ctx context.Context, sku string, now time.Time) (time.Time, error) {
	over := map[string]string{} // attempts, by checkout
	next := s.lookAgain(now)
	err := s.stock.Look(ctx, sku, func(st inventory.Stock, _ event.Revision) {
		for id, r := range st.Reservations {
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
		errs = append(errs, s.sweepHold(ctx, sku, id, attempt))
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
func (s *Shop) sweepHold(ctx context.Context, sku, id, attempt string) error {
	err := s.fence(ctx, id, attempt)
	if domain.ReasonOf(err) == "order_stands" {
		return s.Settle(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("fence attempt %s of %s: %w", attempt, id, err)
	}
	return s.release(ctx, sku, inventory.Release{Order: id, Attempt: attempt, Reason: "abandoned"})
}

// sweepAccount ends the holds of orders that will never be paid with them.
func (s *Shop) sweepAccount(ctx context.Context, owner string, now time.Time) (time.Time, error) {
	var over []string
	next := s.lookAgain(now)
	err := s.accounts.Look(ctx, owner, func(a account.Account, _ event.Revision) {
		for id, h := range a.Holds {
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
	case wasPaid(o):
		return s.Settle(ctx, id)
	}
	o.ID, o.Buyer = id, owner
	return s.freeMoney(ctx, o, "not_paid")
}
