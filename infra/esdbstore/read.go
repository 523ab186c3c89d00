package esdbstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"math/rand/v2"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cartwright/domain/event"
)

// Load gives the events of a stream after a revision. An unknown stream is
// empty; one with a tombstone yields event.ErrDeleted.
func (s *Store) Load(ctx context.Context, stream string, after event.Revision) iter.Seq2[event.Recorded, error] {
	return func(yield func(event.Recorded, error) bool) {
		options := esdb.ReadStreamOptions{From: esdb.Revision(uint64(after))} // the first after n events has number n
		err := pull(ctx, s, func(ctx context.Context, push func(*esdb.RecordedEvent) bool) error {
			read, err := s.client.ReadStream(ctx, stream, options, math.MaxInt64)
			if err != nil {
				return err
			}
			return drain(read, push)
		}, func(e *esdb.RecordedEvent) bool { return yield(recorded(e), nil) })
		if err != nil && !unknownStream(err) {
			yield(event.Recorded{}, fmt.Errorf("load %s after %d: %w", stream, after, known(err)))
		}
	}
}

// unknownStream tells the node's answer that there is no such stream from a call
// that failed with "not found", as one does that a follower could not serve.
func unknownStream(err error) bool {
	e, ok := errors.AsType[*esdb.Error](err)
	return ok && e.Code() == esdb.ErrorCodeResourceNotFound && status.Code(e.Err()) != codes.NotFound
}

func drain(read *esdb.ReadStream, push func(*esdb.RecordedEvent) bool) error {
	defer read.Close()
	for {
		e, err := read.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !push(e.OriginalEvent()) {
			return nil
		}
	}
}

// readAhead is how many items the client may be ahead of who takes them.
const readAhead = 256

// pull runs source, which pushes what it reads, in a goroutine, and hands each
// item to take until it says no, source ends, or ctx does. push says no once
// nobody takes any more.
func pull[T any](ctx context.Context, s *Store, source func(ctx context.Context, push func(T) bool) error, take func(T) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.begin(); err != nil {
		return err
	}
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	items := make(chan T, readAhead)
	var failed error // set before items is closed
	go func() {
		defer s.pending.Done()
		defer close(items)
		failed = source(inner, func(item T) bool {
			select {
			case items <- item:
				return true
			case <-inner.Done():
				return false
			}
		})
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closing:
			return errClosed
		case item, ok := <-items:
			if !ok {
				return errors.Join(ctx.Err(), failed)
			}
			if ctx.Err() == nil && !take(item) {
				return nil
			}
		}
	}
}

// Head is the position of the last event of the log, 0 when there is none.
func (s *Store) Head(ctx context.Context) (uint64, error) {
	head, err := call(ctx, s, func(ctx context.Context) (uint64, error) {
		head := uint64(0)
		read, err := s.client.ReadAll(ctx, esdb.ReadAllOptions{Direction: esdb.Backwards, From: esdb.End{}}, 1)
		if err != nil {
			return 0, err
		}
		err = drain(read, func(e *esdb.RecordedEvent) bool {
			head = e.Position.Commit
			return true
		})
		return head, err
	})
	if err != nil {
		return 0, fmt.Errorf("find the end of the log: %w", known(err))
	}
	return head, nil
}

// errDropped reports a subscription that ended without a reason.
var errDropped = errors.New("subscription was dropped")

// Follow yields what is in the log behind a position, then what is added, until
// ctx ends. It gives only streams with one of the prefixes, or, without
// prefixes, all but system streams. When the connection breaks it goes on where
// it was, and a caught-up notice comes again when the gap is closed. Only a
// refusal, event.ErrDenied, ends it.
func (s *Store) Follow(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Notice, error] {
	return func(yield func(event.Notice, error) bool) {
		f := follower{at: after, prefixes: prefixes}
		for {
			before := f.at
			stopped := false
			err := s.subscribe(ctx, &f, func(n event.Notice) bool {
				stopped = !yield(n, nil)
				return !stopped
			})
			switch {
			case stopped:
				return
			case ctx.Err() != nil || errors.Is(err, errClosed):
				yield(event.Notice{}, fmt.Errorf("follow after %d: %w", f.at, errors.Join(ctx.Err(), err)))
				return
			case errors.Is(known(err), event.ErrDenied): // asking again would only fill the log
				yield(event.Notice{}, fmt.Errorf("follow after %d: %w", f.at, known(err)))
				return
			}
			if f.at > before {
				f.pauses = pauses{}
			}
			s.log.Warn("subscription was dropped, subscribing again", "position", f.at, "err", err)
			f.pauses.rest(ctx)
		}
	}
}

// A follower is how far following the log has come.
type follower struct {
	at       uint64
	prefixes []string
	pauses   pauses
}

// pauses are the waits between one try and the next, as many as have failed.
type pauses struct{ failures int }

// A pause grows from the first of these to the second.
const (
	shortestRest = 10 * time.Millisecond
	longestRest  = 5 * time.Second
)

// next is how long to wait before the next try: longer each time, and never as
// long as others who lost the same node.
func (p *pauses) next() time.Duration {
	pause := min(longestRest, shortestRest<<min(p.failures, 16))
	p.failures++
	return pause/2 + rand.N(pause/2+1) //nolint:gosec // not a secret
}

// rest waits before the next try.
func (p *pauses) rest(ctx context.Context) {
	timer := time.NewTimer(p.next())
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// notSystem names all but system streams.
const notSystem = `^[^\$].*`

func (f *follower) options() esdb.SubscribeToAllOptions {
	o := esdb.SubscribeToAllOptions{
		From:   esdb.Start{},
		Filter: &esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Prefixes: f.prefixes},
	}
	if f.at > 0 {
		o.From = esdb.Position{Commit: f.at, Prepare: f.at}
	}
	if len(f.prefixes) == 0 {
		o.Filter.Regex = notSystem
	}
	return o
}

// subscribe follows the log once, until the subscription drops or take says no.
func (s *Store) subscribe(ctx context.Context, f *follower, take func(event.Notice) bool) error {
	tell := func(u utterance) bool {
		n, ok := f.notice(u)
		return !ok || take(n)
	}
	if s.batch.single() {
		return s.hear(ctx, f, tell)
	}
	return s.listen(ctx, f.options(), func(e *esdb.SubscriptionEvent) bool { return tell(hears(e)) })
}

// listen subscribes once, and hands on all that it hears.
func (s *Store) listen(ctx context.Context, options esdb.SubscribeToAllOptions, take func(*esdb.SubscriptionEvent) bool) error {
	return pull(ctx, s, func(ctx context.Context, push func(*esdb.SubscriptionEvent) bool) error {
		sub, err := s.client.SubscribeToAll(ctx, options)
		if err != nil {
			return err
		}
		defer func() { _ = sub.Close() }() // it only cancels, and cannot fail
		for {
			e := sub.Recv()
			if e.SubscriptionDropped != nil {
				return errors.Join(errDropped, e.SubscriptionDropped.Error)
			}
			if !push(e) {
				return nil
			}
		}
	}, take)
}

// notice turns what a subscription says into what a follower yields. A second
// word of the same position is left out.
func (f *follower) notice(u utterance) (event.Notice, bool) {
	switch u.kind {
	case gotEvent, gotCheckpoint:
		if u.position <= f.at {
			return event.Notice{}, false
		}
		f.at = u.position
		// A tombstone is word of the position, and no event of ours.
		return event.Notice{Event: u.event, Position: f.at}, true
	case gotCaughtUp:
		return event.Notice{Position: f.at, CaughtUp: true}, true
	}
	return event.Notice{}, false
}

// All yields what is in the log behind a position, up to its end as of now. It
// does not go on by itself when the connection breaks.
func (s *Store) All(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Recorded, error] {
	return func(yield func(event.Recorded, error) bool) {
		end, err := s.Head(ctx)
		if err == nil && end > after {
			err = s.readTo(ctx, &follower{at: after, prefixes: prefixes}, end, func(e event.Recorded) bool { return yield(e, nil) })
		}
		if err != nil {
			yield(event.Recorded{}, fmt.Errorf("read the log after %d: %w", after, known(err)))
		}
	}
}

// readTo reads by a subscription, because only that can be filtered, and ends
// it at a position.
func (s *Store) readTo(ctx context.Context, f *follower, end uint64, take func(event.Recorded) bool) error {
	return s.subscribe(ctx, f, func(n event.Notice) bool {
		if n.Event.Name != "" && n.Position <= end && !take(n.Event) {
			return false
		}
		return n.Position < end && !n.CaughtUp
	})
}

// recorded gives an event as the rest of us knows it.
func recorded(r *esdb.RecordedEvent) event.Recorded {
	e := event.Recorded{
		Stream: r.StreamID, Revision: event.Revision(r.EventNumber) + 1, Position: r.Position.Commit,
		ID: r.EventID.String(), Name: r.EventType, Data: r.Data, Created: r.CreatedDate,
	}
	readMeta(r.UserMetadata, &e)
	return e
}
