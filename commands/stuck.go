package commands

import (
	"context"
	"errors"
	"fmt"

	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/stuck"
)

// Passes says that an error of a reaction passes by waiting: something is away,
// busy, or about to be cut off. What is refused, or can't be read, stays so.
func Passes(err error) bool {
	code := domain.CodeOf(err)
	refused := code != "" && code != domain.Unavailable && code != domain.TooMany
	_, corrupt := errors.AsType[*event.CorruptError](err)
	return !corrupt && (!refused || errors.Is(err, event.ErrConflict))
}

// decoded is an event that a process follows. One that can't be read stays so,
// and is no outage.
func decoded[E any](events *event.Registry, r event.Recorded) (E, error) {
	e, err := event.Decode[E](events, r)
	if err != nil {
		return e, &event.CorruptError{Stream: r.Stream, Revision: r.Revision, Err: err}
	}
	return e, nil
}

// Park puts a stream on the list of those for which the process can't bring
// about what they call for.
func (s *Shop) Park(ctx context.Context, r event.Recorded, reason string, tries int) error {
	req := Request{Cause: fmt.Sprintf("park/%s/%d", r.Stream, s.now().UnixNano()), Actor: "process", completes: true}
	_, err := s.stuck.Handle(ctx, stuck.ID, req, stuck.Park{Stream: r.Stream, Event: r.Name, Reason: reason, Tries: tries, At: s.now()})
	if err != nil {
		return fmt.Errorf("park %s: %w", r.Stream, err)
	}
	s.parked.Store(r.Stream, struct{}{})
	s.alarm(ctx, Alarm{"process_parked", r.Stream, reason})
	return nil
}

// Stuck gives the list.
func (s *Shop) Stuck(ctx context.Context) (map[string]stuck.Entry, error) {
	l, _, err := s.stuck.State(ctx, stuck.ID)
	for stream := range l.Waiting {
		s.parked.Store(stream, struct{}{})
	}
	return l.Waiting, err
}

// Retry brings about what a stream calls for, by events and by now, and takes it
// off the list.
func (s *Shop) Retry(ctx context.Context, stream, by string) error {
	id, now := event.SubjectID(stream), s.now()
	var err, late error
	switch event.Category(stream) {
	case "order":
		err = s.Settle(ctx, id)
		_, late = s.timeOut(ctx, id, now)
	case "payment":
		err = s.retryPayment(ctx, id)
		_, late = s.lookAfter(ctx, id, now)
	case "trade":
		err = s.postOrphan(ctx, id)
	case "account":
		err = s.postAllOutside(ctx, id)
		_, late = s.sweepAccount(ctx, id, now)
	case "inventory":
		err = s.finishTransfers(ctx, id)
		_, late = s.sweepStock(ctx, id, now)
	default:
		err = domain.Refuse(domain.Invalid, "nothing_to_retry", "No process follows %s.", stream)
	}
	if err = errors.Join(err, late); err != nil {
		return err
	}
	s.parked.Store(stream, struct{}{})
	return s.free(ctx, stream, by)
}

// DropStuck takes a stream off the list that is to be left as it is.
func (s *Shop) DropStuck(ctx context.Context, stream, by, reason string) error {
	r := Request{Cause: fmt.Sprintf("drop/%s/%d", stream, s.now().UnixNano()), Actor: by, completes: true}
	_, err := s.stuck.Handle(ctx, stuck.ID, r, stuck.Drop{Stream: stream, By: by, Reason: reason})
	s.parked.Delete(stream)
	return err
}

// free takes a stream off the list if it is on it.
func (s *Shop) free(ctx context.Context, stream, by string) error {
	if _, parked := s.parked.Load(stream); !parked {
		return nil
	}
	r := Request{Cause: fmt.Sprintf("free/%s/%d", stream, s.now().UnixNano()), Actor: by, completes: true}
	if _, err := s.stuck.Handle(ctx, stuck.ID, r, stuck.Free{Stream: stream, By: by}); err != nil {
		return fmt.Errorf("free %s: %w", stream, err)
	}
	s.parked.Delete(stream)
	return nil
}

// retryPayment settles a payment, and the orders that its refunds were for.
func (s *Shop) retryPayment(ctx context.Context, id string) error {
	if err := s.SettlePayment(ctx, id); err != nil {
		return err
	}
	p, _, err := s.payments.State(ctx, id)
	errs := []error{err}
	for _, r := range p.Refunds {
		if r.Posted && r.Order != "" {
			errs = append(errs, s.Settle(ctx, r.Order))
		}
	}
	return errors.Join(errs...)
}

// postAllOutside enters the bank's legs of an account that are missing, in order.
func (s *Shop) postAllOutside(ctx context.Context, id string) error {
	stream := s.accounts.Stream(id)
	for r, err := range s.accounts.spec.Store.Load(ctx, stream, 0) {
		if err != nil {
			return fmt.Errorf("read %s: %w", stream, err)
		}
		e, err := decoded[account.Event](s.accounts.spec.Events, r)
		if err != nil {
			return err
		}
		switch e.(type) {
		case account.Deposited, account.Withdrawn:
			if err := s.postOutside(ctx, id, r); err != nil {
				return err
			}
		default:
		}
	}
	return nil
}
