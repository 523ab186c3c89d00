package projections

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"cartwright/domain/event"
)

// A Choice is some of a view's streams: those that are named, or those that
// everything else which is set is true of.
type Choice struct {
	Streams       []string
	Buyer, Seller string    // whose they are
	From, To      time.Time // when something happened to them, by the events' own times, To excluded
}

// Whole tells of a choice that leaves nothing out.
func (c Choice) Whole() bool { return len(c.Streams) == 0 && !c.parties() && !c.times() }

func (c Choice) parties() bool { return c.Buyer != "" || c.Seller != "" }
func (c Choice) times() bool   { return !c.From.IsZero() || !c.To.IsZero() }

func (c Choice) within(at time.Time) bool {
	return (c.From.IsZero() || !at.Before(c.From)) && (c.To.IsZero() || at.Before(c.To))
}

// ErrNoSuchChoice reports a choice that a view can't make.
var ErrNoSuchChoice = errors.New("the view has no such thing to choose by")

// A Refresh puts the folds of some streams into the live generation, in the
// place of whatever documents are there: a rebuild of a part. A rebuild of the
// whole is the better one where much is wrong, since it finds documents without
// streams too, and shows all that changed in one step.
type Refresh[V any] struct {
	Projector *Projector[V] // of the live generation
	Source    Source
	Repair    func(ctx context.Context, docs []Doc[V]) error // puts documents of the same revision too
	Choice    Choice

	Workers  int            // 1 if not set
	Park     bool           // park corrupt streams, and go on
	Dry      bool           // fold, and write nothing
	Progress func(Progress) // called now and then, never twice at once; may be nil
}

// Run tells how many streams it folded. A stream that is corrupt stops it with a
// *PoisonError, unless it is parked or was given up.
func (r Refresh[V]) Run(ctx context.Context) (Progress, error) {
	begun := time.Now()
	view := r.Projector.View
	if r.Choice.parties() && view.Parties == nil {
		return Progress{}, fmt.Errorf("choose of %s by buyer or seller: %w", view.Name, ErrNoSuchChoice)
	}
	streams, position, err := r.choose(ctx)
	if err != nil {
		return Progress{}, fmt.Errorf("choose of %s: %w", view.Name, err)
	}
	done := Progress{Position: position}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	chunks := make(chan []string)
	var mu sync.Mutex // guards done
	var workers sync.WaitGroup
	for range max(1, r.Workers) {
		workers.Go(func() {
			for some := range chunks {
				events, err := r.refresh(ctx, some)
				if err != nil {
					cancel(err)
					return
				}
				mu.Lock()
				done.Events, done.Streams, done.Elapsed = done.Events+events, done.Streams+int64(len(some)), time.Since(begun)
				if r.Progress != nil {
					r.Progress(done)
				}
				mu.Unlock()
			}
		})
	}
	for some := range slices.Chunk(streams, 100) {
		select {
		case chunks <- some:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(chunks)
	workers.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return done, fmt.Errorf("replay %d streams of %s: %w", len(streams), view.Name, cause)
	}
	return done, nil
}

// choose gives the names of the chosen streams, in order.
func (r Refresh[V]) choose(ctx context.Context) (streams []string, position uint64, err error) {
	c, view := r.Choice, r.Projector.View
	if len(c.Streams) > 0 {
		for _, stream := range c.Streams {
			if !view.Wants(event.Category(stream)) {
				return nil, 0, fmt.Errorf("%s is not followed: %w", stream, ErrNoSuchChoice)
			}
		}
		return slices.Compact(slices.Sorted(slices.Values(c.Streams))), 0, nil
	}
	ofParty, inTime := map[string]bool{}, map[string]bool{}
	for e, err := range r.Source.All(ctx, 0, view.Prefixes()...) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, 0, fmt.Errorf("read the log after %d: %w", position, err)
		}
		position = e.Position
		if c.times() && c.within(when(e)) {
			inTime[e.Stream] = true
		}
		if c.parties() && r.isOf(e) {
			ofParty[e.Stream] = true
		}
	}
	chosen := ofParty
	switch {
	case !c.parties():
		chosen = inTime
	case c.times():
		maps.DeleteFunc(chosen, func(stream string, _ bool) bool { return !inTime[stream] })
	}
	return slices.Sorted(maps.Keys(chosen)), position, nil
}

// isOf tells whether an event says that its stream belongs to whom was chosen.
func (r Refresh[V]) isOf(e event.Recorded) bool {
	d := Decode(r.Projector.Events, e)
	if d.Err != nil {
		return false
	}
	buyer, seller := r.Projector.View.Parties(d.Event)
	return buyer+seller != "" && (r.Choice.Buyer == "" || r.Choice.Buyer == buyer) && (r.Choice.Seller == "" || r.Choice.Seller == seller)
}

// refresh puts the folds of some streams, and follows again those that were parked.
func (r Refresh[V]) refresh(ctx context.Context, streams []string) (events int64, err error) {
	p := r.Projector
	parked, err := p.Parking.Parked(ctx, streams)
	if err != nil {
		return 0, fmt.Errorf("look for parked streams: %w", err)
	}
	docs := make([]Doc[V], 0, len(streams))
	for _, stream := range streams {
		doc, err := Fold(ctx, p.Log, p.Events, p.View, stream)
		corrupt, is := errors.AsType[*CorruptError](err)
		if is {
			record := p.park(corrupt, []Decoded{{Recorded: event.Recorded{Revision: corrupt.Revision}}}).Onto(parked[stream])
			if err = r.stuck(ctx, record); err == nil && doc.Revision == 0 {
				continue
			}
		}
		if err != nil {
			return events, err
		}
		if doc.Revision == 0 {
			return events, fmt.Errorf("%s: %w", stream, ErrNoStream)
		}
		docs = append(docs, doc)
		events += int64(doc.Revision) //nolint:gosec // a stream has fewer than 2^63 events
	}
	if r.Dry || len(docs) == 0 {
		return events, nil
	}
	if err := r.Repair(ctx, docs); err != nil {
		return events, fmt.Errorf("put %d documents: %w", len(docs), err)
	}
	for stream := range parked {
		err := p.Redrive(ctx, stream)
		if _, still := errors.AsType[*ParkedError](err); err != nil && !still {
			return events, err
		}
	}
	return events, nil
}

// ErrNoStream reports a stream that nobody has written to.
var ErrNoStream = errors.New("there is no such stream")

// stuck parks a corrupt stream, or stops.
func (r Refresh[V]) stuck(ctx context.Context, record Parked) error {
	switch {
	case !r.Park && record.Dropped == nil:
		return &PoisonError{record}
	case r.Dry:
		return nil
	}
	if err := r.Projector.Parking.Park(ctx, []Parked{record}); err != nil {
		return fmt.Errorf("park %s: %w", record.Stream, err)
	}
	return nil
}
