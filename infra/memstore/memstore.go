// Package memstore is an event store in memory: the same promises as the real
// one, kept for as long as the process lives. Tests of other packages use it.
//
// # Why
//
// It is held to the contract by the suite that EventStoreDB itself runs
// (TestConformance in both), so that a test which passes on it proves something.
// That is also why it knows what seems too much for a fake: the repeated append,
// the size limit, $maxCount and tombstones.
package memstore

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"cartwright/domain/event"
)

// maxAppend is EventStoreDB's own limit for the events of one append.
const maxAppend = 1 << 20

// Store is an event store that forgets everything on exit. Its zero value is
// ready. All methods may be called concurrently; what they give back must not
// be changed.
type Store struct {
	mu      sync.Mutex
	streams map[string]*stream
	all     []event.Recorded // positions 1, 2, 3, …: a tombstone has one too
	grown   chan struct{}    // closed when all has grown; nil while nobody waits
}

// A stream is what one name stands for.
type stream struct {
	events  []event.Recorded
	keep    int // how many of the newest are shown, 0 for all
	deleted bool
}

// Load gives the events of a stream after a revision; an unknown stream is empty.
func (s *Store) Load(ctx context.Context, name string, after event.Revision) iter.Seq2[event.Recorded, error] {
	return func(yield func(event.Recorded, error) bool) {
		events, err := s.visible(name, after)
		if err != nil {
			yield(event.Recorded{}, fmt.Errorf("load %s: %w", name, err))
			return
		}
		for _, e := range events {
			if err := ctx.Err(); err != nil {
				yield(event.Recorded{}, fmt.Errorf("load %s: %w", name, err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(event.Recorded{}, fmt.Errorf("load %s: %w", name, err))
		}
	}
}

func (s *Store) visible(name string, after event.Revision) ([]event.Recorded, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.streams[name]
	if !ok {
		return nil, nil
	}
	if at.deleted {
		return nil, event.ErrDeleted
	}
	from := min(int(after), len(at.events)) //nolint:gosec // a revision beyond the end is cut by min
	if after > event.Revision(len(at.events)) {
		from = len(at.events)
	}
	if at.keep > 0 {
		from = max(from, len(at.events)-at.keep)
	}
	return at.events[from:len(at.events):len(at.events)], nil
}

// Append puts events behind the one with revision after, all or none. The same
// events (by id) at the same revision a second time change nothing and succeed.
func (s *Store) Append(ctx context.Context, name string, after event.Revision, events []event.Recorded) error {
	if err := check(ctx, events); err != nil {
		return fmt.Errorf("append to %s after %d: %w", name, after, err)
	}
	if len(events) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.stream(name)
	switch {
	case at.deleted:
		return fmt.Errorf("append to %s: %w", name, event.ErrDeleted)
	case event.Revision(len(at.events)) == after:
		s.put(name, at, events)
		return nil
	case repeats(at.events, after, events):
		return nil
	}
	return fmt.Errorf("append to %s after %d, which is at %d: %w", name, after, len(at.events), event.ErrConflict)
}

func check(ctx context.Context, events []event.Recorded) error {
	size := 0
	for _, e := range events {
		if !isUUID(e.ID) {
			return fmt.Errorf("event id %q is not a UUID", e.ID)
		}
		if e.Name == "" {
			return fmt.Errorf("event %s has no name", e.ID)
		}
		size += len(e.Data) + 2*len(e.Name) + len(e.Cause) + len(e.Digest) + len(e.Correlation) + len(e.Actor) + len(e.Trace)
	}
	if size > maxAppend {
		return fmt.Errorf("%d bytes: %w", size, event.ErrTooLarge)
	}
	return ctx.Err()
}

// isUUID asks for the canonical form, since nothing else comes back as it went in.
func isUUID(id string) bool {
	if len(id) != 36 || id == "00000000-0000-0000-0000-000000000000" {
		return false
	}
	for i, c := range []byte(id) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		hex := '0' <= c && c <= '9' || 'a' <= c && c <= 'f'
		if dash && c != '-' || !dash && !hex {
			return false
		}
	}
	return true
}

func repeats(have []event.Recorded, after event.Revision, events []event.Recorded) bool {
	if after > event.Revision(len(have)) || len(events) > len(have)-int(after) { //nolint:gosec // after is within have
		return false
	}
	for i, e := range events {
		if have[int(after)+i].ID != e.ID { //nolint:gosec // after is within have
			return false
		}
	}
	return true
}

// stream gives the stream of a name and must be called with mu held.
func (s *Store) stream(name string) *stream {
	if s.streams == nil {
		s.streams = map[string]*stream{}
	}
	at, ok := s.streams[name]
	if !ok {
		at = &stream{}
		s.streams[name] = at
	}
	return at
}

func (s *Store) put(name string, at *stream, events []event.Recorded) {
	now := time.Now().UTC().Round(0)
	for _, e := range events {
		e.Stream, e.Revision, e.Created = name, event.Revision(len(at.events))+1, now
		e.Position = uint64(len(s.all)) + 1
		e.Version = max(1, e.Version)
		e.Data = bytes.Clone(e.Data)
		if !e.At.IsZero() {
			e.At = e.At.Round(0).UTC()
		}
		at.events, s.all = append(at.events, e), append(s.all, e)
	}
	s.wake()
}

func (s *Store) wake() {
	if s.grown != nil {
		close(s.grown)
		s.grown = nil
	}
}

// Follow yields what is in the log behind a position, then what is added, until
// ctx ends. It gives only streams with one of the prefixes, or, without
// prefixes, all but system streams.
func (s *Store) Follow(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Notice, error] {
	return func(yield func(event.Notice, error) bool) {
		caughtUp := false
		for {
			rest, grown := s.since(after)
			for _, e := range rest {
				if ctx.Err() != nil {
					break
				}
				after = e.Position
				if matches(e, prefixes) && !yield(event.Notice{Event: e, Position: after}, nil) {
					return
				}
			}
			if err := ctx.Err(); err != nil {
				yield(event.Notice{}, fmt.Errorf("follow after %d: %w", after, err))
				return
			}
			silent := len(rest) > 0 && !matches(rest[len(rest)-1], prefixes)
			if (!caughtUp || silent) && !yield(event.Notice{Position: after, CaughtUp: !caughtUp}, nil) {
				return
			}
			caughtUp = true
			select {
			case <-grown:
			case <-ctx.Done():
			}
		}
	}
}

// All yields what is in the log behind a position, up to its end as of now.
func (s *Store) All(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Recorded, error] {
	return func(yield func(event.Recorded, error) bool) {
		rest, _ := s.since(after)
		for _, e := range rest {
			if ctx.Err() != nil {
				break
			}
			if matches(e, prefixes) && !yield(e, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(event.Recorded{}, fmt.Errorf("read the log after %d: %w", after, err))
		}
	}
}

// since gives what stands behind a position, and a channel that closes when
// there is more.
func (s *Store) since(after uint64) ([]event.Recorded, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grown == nil {
		s.grown = make(chan struct{})
	}
	end := uint64(len(s.all))
	return s.all[min(after, end):end:end], s.grown
}

// matches leaves out tombstones, which have no name here.
func matches(e event.Recorded, prefixes []string) bool {
	if e.Name == "" {
		return false
	}
	if len(prefixes) == 0 {
		return !strings.HasPrefix(e.Stream, "$")
	}
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(e.Stream, p) })
}

// KeepNewest shows only the newest n events of a stream from now on; the log
// as a whole still has them, and revisions keep counting.
func (s *Store) KeepNewest(ctx context.Context, name string, n int) error {
	if n < 1 {
		return fmt.Errorf("keep the newest %d of %s: at least one must stay", n, name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.stream(name)
	if at.deleted {
		return fmt.Errorf("keep the newest %d of %s: %w", n, name, event.ErrDeleted)
	}
	at.keep = n
	return ctx.Err()
}

// Tombstone ends a stream for ever. A second one is refused with event.ErrDeleted.
func (s *Store) Tombstone(ctx context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.stream(name)
	if at.deleted {
		return fmt.Errorf("tombstone %s: %w", name, event.ErrDeleted)
	}
	at.deleted = true
	s.all = append(s.all, event.Recorded{Stream: name, Position: uint64(len(s.all)) + 1})
	s.wake()
	return ctx.Err()
}

// Head is the position of the last event of the log, 0 when there is none.
func (s *Store) Head(ctx context.Context) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uint64(len(s.all)), ctx.Err()
}
