// Package storetest is what every event store of ours must do, as a test. The
// one in memory and the one on EventStoreDB both pass it, so what is tested on
// the first may be trusted to hold on the second.
package storetest

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"cartwright/domain/event"
)

// Store is everything a store of ours can do.
type Store interface {
	Streams
	Log
	Keeper
}

// Streams reads and appends to single streams.
type Streams interface {
	Load(ctx context.Context, stream string, after event.Revision) iter.Seq2[event.Recorded, error]
	Append(ctx context.Context, stream string, after event.Revision, events []event.Recorded) error
}

// Log reads all streams together, in the order of their appends.
type Log interface {
	Follow(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Notice, error]
	All(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Recorded, error]
	Head(ctx context.Context) (uint64, error)
}

// Keeper says how much of a stream is shown.
type Keeper interface {
	KeepNewest(ctx context.Context, stream string, n int) error
	Tombstone(ctx context.Context, stream string) error
}

// patience is how long a check waits for what must come.
const patience = 20 * time.Second

// Run checks one kind of store. open gives an empty one, and closes it by t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) Store) {
	t.Helper()
	checks := map[string]func(*testing.T, Store){}
	for _, part := range []map[string]func(*testing.T, Store){streamChecks(), logChecks(), keeperChecks()} {
		maps.Copy(checks, part)
	}
	for name, check := range checks {
		t.Run(name, func(t *testing.T) { check(t, open(t)) })
	}
}

// Event makes an event that can be appended, with an id of its own.
func Event(name, data string) event.Recorded {
	return event.Recorded{ID: uuid.NewString(), Name: name, Version: 1, Data: []byte(data)}
}

// Events makes n of them.
func Events(n int) []event.Recorded {
	events := make([]event.Recorded, n)
	for i := range events {
		events[i] = Event("thing.happened", fmt.Sprintf(`{"n":%d}`, i))
	}
	return events
}

func mustAppend(t *testing.T, s Streams, stream string, after event.Revision, events ...event.Recorded) {
	t.Helper()
	if err := s.Append(t.Context(), stream, after, events); err != nil {
		t.Fatalf("append to %s after %d: %v", stream, after, err)
	}
}

func collect[T any](t *testing.T, all iter.Seq2[T, error]) []T {
	t.Helper()
	var got []T
	for v, err := range all {
		if err != nil {
			t.Fatalf("after %d: %v", len(got), err)
		}
		got = append(got, v)
	}
	return got
}

func ids(events []event.Recorded) []string {
	out := make([]string, len(events))
	for i, e := range events {
		out[i] = e.ID
	}
	return out
}

func wantIDs(t *testing.T, what string, got, want []event.Recorded) {
	t.Helper()
	if diff := cmp.Diff(ids(want), ids(got)); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
