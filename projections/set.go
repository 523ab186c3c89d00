package projections

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"cartwright/domain/event"
)

// A Member is a projector of any view.
type Member interface {
	Name() string
	Wants(category string) bool
	Apply(ctx context.Context, batch []Decoded) error
}

// A Set feeds several projectors from one stream of batches, each event decoded
// once. Its methods may be called concurrently.
type Set struct {
	events *event.Registry

	busy    sync.RWMutex // read while a batch is under way, written to change the members
	members []Member
	late    []Member // take a batch only after the members have it

	flushed broadcast
	seen    atomic.Uint64
}

// NewSet makes a set of these members.
func NewSet(events *event.Registry, members ...Member) *Set {
	return &Set{events: events, members: slices.Clone(members)}
}

// Handle applies a batch to every member and waits for them all. It answers
// with the first member's error; the batch may then be handled again.
func (s *Set) Handle(ctx context.Context, batch []event.Recorded) error {
	if err := s.apply(ctx, batch); err != nil {
		return err
	}
	for _, r := range batch {
		raise(&s.seen, r.Position)
	}
	s.flushed.send()
	return nil
}

func (s *Set) apply(ctx context.Context, batch []event.Recorded) error {
	s.busy.RLock()
	defer s.busy.RUnlock()
	decoded := s.decode(batch)
	if len(decoded) == 0 {
		return nil
	}
	if err := together(ctx, s.members, decoded); err != nil {
		return err
	}
	return together(ctx, s.late, decoded)
}

// together applies a batch to some members at once.
func together(ctx context.Context, members []Member, decoded []Decoded) error {
	errs := make([]error, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { errs[i] = m.Apply(ctx, decoded) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("project %s: %w", members[i].Name(), err)
		}
	}
	return nil
}

// decode reads the events that some member wants.
func (s *Set) decode(batch []event.Recorded) []Decoded {
	wanted := map[string]bool{}
	decoded := make([]Decoded, 0, len(batch))
	for _, r := range batch {
		category := event.Category(r.Stream)
		want, known := wanted[category]
		if !known {
			wants := func(m Member) bool { return m.Wants(category) }
			want = slices.ContainsFunc(s.members, wants) || slices.ContainsFunc(s.late, wants)
			wanted[category] = want
		}
		if want {
			decoded = append(decoded, Decode(s.events, r))
		}
	}
	return decoded
}

// Flushed gives a channel that closes when the next batch is stored. Ask for it
// before looking at a view, then nothing is missed.
func (s *Set) Flushed() <-chan struct{} { return s.flushed.next() }

// Position is the furthest place in the log that was handled. It is no proof
// that all before it was: it only tells how late the views are.
func (s *Set) Position() uint64 { return s.seen.Load() }

// Join adds a member. Batches that begin after it reach it.
func (s *Set) Join(m Member) {
	s.busy.Lock()
	defer s.busy.Unlock()
	s.members = append(s.members, m)
}

// JoinLate adds a member that takes a batch only after all others have stored
// it: a cache, which may not have what the view behind it does not.
func (s *Set) JoinLate(m Member) {
	s.busy.Lock()
	defer s.busy.Unlock()
	s.late = append(s.late, m)
}

// Leave takes a member out and returns when it is not used any more.
func (s *Set) Leave(m Member) {
	s.busy.Lock()
	defer s.busy.Unlock()
	s.members = slices.DeleteFunc(s.members, func(other Member) bool { return other == m })
}

// Swap does something while no batch is under way and, if it succeeds, lets
// successor take the place of every member of its name, early or late as it was.
func (s *Set) Swap(successor Member, do func() error) error {
	s.busy.Lock()
	defer s.busy.Unlock()
	if err := do(); err != nil {
		return err
	}
	named := func(m Member) bool { return m.Name() == successor.Name() }
	if slices.ContainsFunc(s.late, named) {
		s.late = append(slices.DeleteFunc(s.late, named), successor)
		s.members = slices.DeleteFunc(s.members, named)
		return nil
	}
	s.members = append(slices.DeleteFunc(s.members, named), successor)
	return nil
}

// raise sets a to v if v is more.
func raise(a *atomic.Uint64, v uint64) {
	for old := a.Load(); v > old && !a.CompareAndSwap(old, v); old = a.Load() {
	}
}

// broadcast wakes whoever waits. Its zero value is ready; it starts nothing.
type broadcast struct {
	mu      sync.Mutex
	waiting chan struct{} // nil while nobody waits
}

func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting == nil {
		b.waiting = make(chan struct{})
	}
	return b.waiting
}

func (b *broadcast) send() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting != nil {
		close(b.waiting)
		b.waiting = nil
	}
}
