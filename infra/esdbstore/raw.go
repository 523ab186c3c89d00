package esdbstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"strings"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"

	"cartwright/domain/event"
)

// The types that EventStoreDB gives a meaning to.
const (
	kindMetadata  = "$metadata"
	kindTombstone = "$streamDeleted"
	metaPrefix    = "$$" // before a stream's name: the stream of its metadata
)

// A rawEvent is an event as it lies in the log, whoever wrote it.
type rawEvent struct {
	stream   string
	number   uint64 // from 0
	position uint64
	id       uuid.UUID
	kind     string
	json     bool
	data     []byte
	meta     []byte
	created  time.Time
}

func rawOf(r *esdb.RecordedEvent) rawEvent {
	return rawEvent{
		stream: r.StreamID, number: r.EventNumber, position: r.Position.Commit, id: r.EventID, kind: r.EventType,
		json: r.ContentType == "application/json", data: r.Data, meta: r.UserMetadata, created: r.CreatedDate,
	}
}

func (e *rawEvent) size() int { return len(e.data) + len(e.meta) + 2*len(e.kind) }

// tombstone tells the event that ends a stream.
func (e *rawEvent) tombstone() bool { return e.kind == kindTombstone && e.number == math.MaxInt64 }

// mostTries is how often something is tried in a row before the other side is
// given up: some two minutes, by the length of the pauses.
const mostTries = 30

// again does something until it succeeds, or fails in a way that another try
// would not mend, or has failed too often.
func again(ctx context.Context, wait *pauses, do func() error) error {
	for {
		err := do()
		switch {
		case err == nil:
			*wait = pauses{}
			return nil
		case ctx.Err() != nil || certain(err) || wait.failures >= mostTries:
			return err
		}
		wait.rest(ctx)
	}
}

// certain tells an answer from a failure to get one.
func certain(err error) bool {
	for _, answer := range []error{event.ErrConflict, event.ErrTooLarge, event.ErrDeleted, event.ErrDenied, errClosed} {
		if errors.Is(err, answer) {
			return true
		}
	}
	return false
}

// rawLog gives everything in the log behind a position and up to another, hidden
// and system events too. When the connection breaks it goes on where it was.
func (s *Store) rawLog(ctx context.Context, after, end uint64) iter.Seq2[rawEvent, error] {
	return func(yield func(rawEvent, error) bool) {
		at, stopped := after, false
		var wait pauses
		err := again(ctx, &wait, func() error {
			return s.pullAll(ctx, esdb.ReadAllOptions{From: placeOf(at)}, math.MaxInt64, func(r *esdb.RecordedEvent) bool {
				if r.Position.Commit > at && r.Position.Commit <= end { // the read includes where it begins
					at, wait = r.Position.Commit, pauses{}
					stopped = !yield(rawOf(r), nil)
				}
				return !stopped && r.Position.Commit < end
			})
		})
		if err != nil && !stopped {
			yield(rawEvent{}, fmt.Errorf("read the log after %d: %w", at, err))
		}
	}
}

// rawBack gives what is in the log before a position, the newest first; 0 is its end.
func (s *Store) rawBack(ctx context.Context, before uint64) iter.Seq2[rawEvent, error] {
	return func(yield func(rawEvent, error) bool) {
		stopped := false
		var wait pauses
		err := again(ctx, &wait, func() error {
			options := esdb.ReadAllOptions{Direction: esdb.Backwards, From: esdb.End{}}
			if before > 0 {
				options.From = placeOf(before)
			}
			return s.pullAll(ctx, options, math.MaxInt64, func(r *esdb.RecordedEvent) bool {
				before, wait = r.Position.Commit, pauses{}
				stopped = !yield(rawOf(r), nil)
				return !stopped
			})
		})
		if err != nil && !stopped {
			yield(rawEvent{}, fmt.Errorf("read the log back from %d: %w", before, err))
		}
	}
}

// end is Head, however often it takes to find it.
func (s *Store) end(ctx context.Context) (head uint64, err error) {
	err = again(ctx, new(pauses), func() error {
		head, err = s.Head(ctx)
		return err
	})
	return head, err
}

func placeOf(at uint64) esdb.AllPosition {
	if at == 0 {
		return esdb.Start{}
	}
	return esdb.Position{Commit: at, Prepare: at}
}

func (s *Store) pullAll(ctx context.Context, o esdb.ReadAllOptions, count uint64, take func(*esdb.RecordedEvent) bool) error {
	err := pull(ctx, s, func(ctx context.Context, push func(*esdb.RecordedEvent) bool) error {
		read, err := s.client.ReadAll(ctx, o, count)
		if err != nil {
			return err
		}
		return drain(read, push)
	}, take)
	return known(err)
}

// rawKinds gives the events of some types, up to a position, by a filter of the node's.
func (s *Store) rawKinds(ctx context.Context, end uint64, kinds ...string) ([]rawEvent, error) {
	var found []rawEvent
	options := esdb.SubscribeToAllOptions{
		From: esdb.Start{}, Filter: &esdb.SubscriptionFilter{Type: esdb.EventFilterType, Prefixes: kinds},
		MaxSearchWindow: 1000, CheckpointInterval: 10,
	}
	err := again(ctx, new(pauses), func() error {
		found = nil
		return known(s.listen(ctx, options, func(e *esdb.SubscriptionEvent) bool {
			switch {
			case e.EventAppeared != nil:
				if r := e.EventAppeared.OriginalEvent(); r.Position.Commit <= end {
					found = append(found, rawOf(r))
					return true
				}
				return false
			case e.CheckPointReached != nil:
				return e.CheckPointReached.Commit < end
			}
			return e.CaughtUp == nil
		}))
	})
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", strings.Join(kinds, " and "), err)
	}
	return found, nil
}

// rawStream gives up to n events of a stream from a number on, or back from its
// end with the number math.MaxUint64. An unknown stream has none.
func (s *Store) rawStream(ctx context.Context, stream string, from uint64, n int) (events []rawEvent, err error) {
	options := esdb.ReadStreamOptions{From: esdb.Revision(from)}
	if from == math.MaxUint64 {
		options = esdb.ReadStreamOptions{From: esdb.End{}, Direction: esdb.Backwards}
	}
	err = again(ctx, new(pauses), func() error {
		events = nil
		failed := pull(ctx, s, func(ctx context.Context, push func(*esdb.RecordedEvent) bool) error {
			read, refused := s.client.ReadStream(ctx, stream, options, uint64(n)) //nolint:gosec // a length
			if refused != nil {
				return refused
			}
			return drain(read, push)
		}, func(r *esdb.RecordedEvent) bool {
			events = append(events, rawOf(r))
			return true
		})
		if failed != nil && unknownStream(failed) {
			return nil
		}
		return known(failed)
	})
	if err != nil {
		return nil, fmt.Errorf("read %s from %d: %w", stream, from, err)
	}
	return events, nil
}

// appendRaw stores events from a number on, or behind whatever there is with
// the number math.MaxUint64.
func (s *Store) appendRaw(ctx context.Context, stream string, number uint64, events []rawEvent) error {
	var expect esdb.ExpectedRevision = esdb.NoStream{}
	switch {
	case number == math.MaxUint64:
		expect = esdb.Any{}
	case number > 0:
		expect = esdb.Revision(number - 1)
	}
	data := make([]esdb.EventData, len(events))
	for i, e := range events {
		data[i] = esdb.EventData{EventID: e.id, EventType: e.kind, ContentType: esdb.ContentTypeBinary, Data: e.data, Metadata: e.meta}
		if e.json {
			data[i].ContentType = esdb.ContentTypeJson
		}
	}
	if err := s.append(ctx, stream, expect, data); err != nil {
		return fmt.Errorf("append %d events to %s: %w", len(events), stream, err)
	}
	return nil
}
