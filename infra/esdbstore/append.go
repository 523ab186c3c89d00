package esdbstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cartwright/domain/event"
)

// maxAppend is EventStoreDB's limit for the events of one append, unless its
// operator has set another.
const maxAppend = 1 << 20

// Append puts events behind the one with revision after, all or none. The same
// events (by id) at the same revision a second time change nothing and succeed.
// An append of no events does nothing.
//
// event.ErrConflict, event.ErrTooLarge, event.ErrDeleted and event.ErrDenied say
// that nothing was appended. After any other error it may have been: append the same again.
func (s *Store) Append(ctx context.Context, stream string, after event.Revision, events []event.Recorded) error {
	if len(events) == 0 {
		return nil
	}
	data, err := encodeAll(events)
	if err != nil {
		return fmt.Errorf("append to %s after %d: %w", stream, after, err)
	}
	var expect esdb.ExpectedRevision = esdb.NoStream{}
	if after > 0 {
		expect = esdb.Revision(uint64(after) - 1) // they number from 0, we count from 1
	}
	if err = s.append(ctx, stream, expect, data); err != nil {
		return fmt.Errorf("append to %s after %d: %w", stream, after, err)
	}
	return nil
}

// append sends an append by the call that all share, or by one of its own where
// that can't be.
func (s *Store) append(ctx context.Context, stream string, expect esdb.ExpectedRevision, data []esdb.EventData) error {
	err := s.batch.append(ctx, s.closing, stream, expect, data)
	if !errors.Is(err, errNoBatch) && !errors.Is(err, errTooMuch) {
		return known(err)
	}
	_, err = call(ctx, s, func(ctx context.Context) (*esdb.WriteResult, error) {
		return s.client.AppendToStream(ctx, stream, esdb.AppendToStreamOptions{ExpectedRevision: expect}, data...)
	})
	return knownAppend(err)
}

// knownAppend also knows an append that a server of another limit found too
// large. The client does not pass on what the server calls it, but there is
// nothing else in an append of ours that could be invalid.
func knownAppend(err error) error {
	if e, ok := errors.AsType[*esdb.Error](err); ok && status.Code(e.Err()) == codes.InvalidArgument {
		return fmt.Errorf("%w: %w", event.ErrTooLarge, err)
	}
	return known(err)
}

func encodeAll(events []event.Recorded) ([]esdb.EventData, error) {
	data := make([]esdb.EventData, len(events))
	size := 0
	for i := range events {
		d, err := encode(&events[i])
		if err != nil {
			return nil, err
		}
		data[i] = d
		size += len(d.Data) + len(d.Metadata) + 2*len(d.EventType)
	}
	if size > maxAppend {
		return nil, fmt.Errorf("%d bytes: %w", size, event.ErrTooLarge)
	}
	return data, nil
}

// usualMeta is how much metadata an event of a checkout has, or a little less.
const usualMeta = 384

// encode refuses what would not come back as it went in: the client gives an
// event without an id a random one, and then a repeat would be another event.
func encode(e *event.Recorded) (esdb.EventData, error) {
	id, err := uuid.Parse(e.ID)
	if err != nil || id.String() != e.ID || id == uuid.Nil {
		return esdb.EventData{}, fmt.Errorf("event id %q is not a UUID in its usual form", e.ID)
	}
	if e.Name == "" {
		return esdb.EventData{}, fmt.Errorf("event %s has no name", e.ID)
	}
	return esdb.EventData{
		EventID: id, EventType: e.Name, ContentType: esdb.ContentTypeJson,
		Data: e.Data, Metadata: appendMeta(make([]byte, 0, usualMeta), e),
	}, nil
}
