package commands

import (
	"context"
	"fmt"
	"time"

	"cartwright/domain"
	"cartwright/domain/event"
)

// A batch is what was decided for the calls of one round.
type batch[S, C, E any] struct {
	decided []decision[S, C, E]           // never grown, so that pointers to them are good
	byCause map[string]*decision[S, C, E] // nil for a call that is alone
	records []event.Recorded
	bytes   int
	rest    []*call[S, C, E] // no room for these
}

// decideAll decides every call on what its predecessors leave behind. An error
// is the lane's fault, not one of a call, whose own is kept with it.
func (l *lane[S, C, E]) decideAll(calls []*call[S, C, E]) (*batch[S, C, E], error) {
	f, d := l.fold, l.handler.spec.Decider
	if !f.synced {
		f.ahead, f.synced = d.Clone(f.state), true
	}
	f.turns.decides(f.at)
	b := &batch[S, C, E]{decided: make([]decision[S, C, E], 0, len(calls))}
	if len(calls) > 1 {
		b.byCause = make(map[string]*decision[S, C, E], len(calls))
	}
	few := f.turns.few(len(calls))
	l.cut = false
	for i, c := range calls {
		if b.bytes > maxBatchBytes || i >= few {
			b.rest, l.cut = calls[i:], i >= few
			return b, nil
		}
		if err := l.decideOne(b, c); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// decideOne adds what c causes to b.
func (l *lane[S, C, E]) decideOne(b *batch[S, C, E], c *call[S, C, E]) error {
	f := l.fold
	b.decided = append(b.decided, decision[S, C, E]{call: c, from: f.at + event.Revision(len(b.records)) + 1})
	x := &b.decided[len(b.decided)-1]
	c.done, c.err, c.copyOf = Done[E]{Revision: x.from - 1}, nil, nil
	if c.kind == look {
		return nil
	}
	if twin := b.byCause[c.req.Cause]; twin != nil {
		c.copyOf, c.err = twin, sameBody(twin.call.req.Digest, c.req.Digest)
		return nil
	}
	if past, ok := f.causes[c.req.Cause]; ok {
		c.err = sameBody(past.digest, c.req.Digest)
		c.done = Done[E]{Revision: past.to, Repeated: true}
		return nil
	}
	if c.kind == recall {
		return nil
	}
	events, err := l.handler.spec.Decider.Decide(f.ahead, c.cmd)
	if err == nil && len(events) == 0 {
		return nil // nothing to do is done, whatever the caller knew
	}
	if m := c.req.IfMatch; m != nil && *m != x.from-1 {
		err = domain.Refuse(domain.Stale, "version_stale", "This is at version %d, not %d.", x.from-1, *m)
	}
	if c.err = err; c.err == nil {
		return l.add(b, x, events)
	}
	return nil
}

func sameBody(before, now string) error {
	if before == now {
		return nil
	}
	return domain.Refuse(domain.Rejected, "idempotency_key_reused", "This key was used for another request.")
}

// add puts the events of x into the batch, once Evolve has accepted them: a
// decision that history would refuse is our fault and must not be stored.
func (l *lane[S, C, E]) add(b *batch[S, C, E], x *decision[S, C, E], events []E) error {
	f, spec := l.fold, &l.handler.spec
	meta := event.Meta{
		Cause: x.call.req.Cause, Digest: x.call.req.Digest, Correlation: x.call.req.Correlation,
		Actor: x.call.req.Actor, At: x.call.req.At, Trace: x.call.req.Trace,
	}
	if meta.At.IsZero() {
		meta.At = spec.Now().UTC().Truncate(time.Millisecond)
	}
	records, bytes, err := l.encode(events, meta)
	if err != nil {
		return err
	}
	if bytes > maxBatchBytes {
		x.call.err = domain.Refuse(domain.Invalid, "too_large", "This is more than one append may hold.")
		return nil
	}
	for _, e := range events {
		if f.ahead, err = spec.Decider.Evolve(f.ahead, e); err != nil {
			return fmt.Errorf("%s: decided what cannot happen: %T: %w", l.stream, e, err)
		}
	}
	x.events = events
	if b.bytes += bytes; b.records == nil {
		b.records = records
	} else {
		b.records = append(b.records, records...)
	}
	if b.byCause != nil {
		b.byCause[meta.Cause] = x
	}
	x.call.done = Done[E]{Revision: x.from + event.Revision(len(events)) - 1, Events: events}
	return nil
}

// encode gives events their stored form, and says how large it is.
func (l *lane[S, C, E]) encode(events []E, meta event.Meta) ([]event.Recorded, int, error) {
	const overhead = 512 // of an event's name, ids and metadata
	records, bytes := make([]event.Recorded, len(events)), 0
	for i, e := range events {
		r, err := l.handler.spec.Events.Encode(e)
		if err != nil {
			return nil, 0, fmt.Errorf("%s: encode: %w", l.stream, err)
		}
		r.Meta, r.ID = meta, eventID(l.stream, meta.Cause, i, r.Data)
		records[i] = r
		bytes += len(r.Data) + overhead
	}
	return records, bytes, nil
}

// keep brings the stored state to where the batch left it.
func (l *lane[S, C, E]) keep(b *batch[S, C, E]) error {
	f := l.fold
	for _, x := range b.decided {
		for i, e := range x.events {
			next, err := l.handler.spec.Decider.Evolve(f.state, e)
			if err != nil { // it was accepted a moment ago, so Clone or Evolve is broken
				return fmt.Errorf("%s: the two copies of the state differ: %w", l.stream, err)
			}
			f.state = next
			l.remember(e, x.call.req.Cause, x.call.req.Digest, x.from+event.Revision(i))
		}
	}
	f.at += event.Revision(len(b.records))
	f.known = true
	f.turns.stored(f.at)
	return nil
}

// answer tells every caller of a settled batch.
func (l *lane[S, C, E]) answer(ctx context.Context, b *batch[S, C, E]) {
	for _, x := range b.decided {
		c := x.call
		switch {
		case c.err != nil:
		case c.copyOf != nil:
			c.done, c.err = c.copyOf.call.done, c.copyOf.call.err
			c.done.Repeated = true
		case c.kind == look:
			c.see(l.fold.state, l.fold.at)
		case c.done.Repeated:
			c.done.Events, c.err = l.recall(ctx, l.fold.causes[c.req.Cause])
		}
		close(c.answered)
	}
}

// recall reads the events of a command that was carried out before.
func (l *lane[S, C, E]) recall(ctx context.Context, s span) ([]E, error) {
	ctx, cancel := context.WithTimeout(ctx, l.handler.spec.Timeout)
	defer cancel()
	var events []E
	for r, err := range l.handler.spec.Store.Load(ctx, l.stream, s.from-1) {
		if err != nil {
			return nil, readError(l.stream, err)
		}
		e, err := event.Decode[E](l.handler.spec.Events, r)
		if err != nil {
			return nil, &event.CorruptError{Stream: l.stream, Revision: r.Revision, Err: err}
		}
		events = append(events, e)
		if r.Revision >= s.to {
			break
		}
	}
	return events, nil
}
