package projections

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A gate stands before a new generation's parking. Shut, it turns a stream that
// would be parked into an error that stops the rebuild.
type gate struct {
	Parking

	given Parking // knows the streams that were given up in the live generation; may be nil

	mu    sync.Mutex
	open  bool
	empty map[string]bool // streams parked at their first event, which have no document
}

func (g *gate) Park(ctx context.Context, records []Parked) error {
	records, err := g.dropped(ctx, records)
	if err != nil {
		return err
	}
	if err := g.admit(records); err != nil {
		return err
	}
	return g.Parking.Park(ctx, records)
}

// dropped carries over that streams were given up: nobody wants to be stopped by
// them again.
func (g *gate) dropped(ctx context.Context, records []Parked) ([]Parked, error) {
	if g.given == nil {
		return records, nil
	}
	streams := make([]string, len(records))
	for i, record := range records {
		streams[i] = record.Stream
	}
	before, err := g.given.Parked(ctx, streams)
	if err != nil {
		return nil, fmt.Errorf("look for streams that were given up: %w", err)
	}
	carried := slices.Clone(records)
	for i, record := range carried {
		if was, known := before[record.Stream]; known {
			carried[i] = record.Onto(was)
		}
	}
	return carried, nil
}

func (g *gate) admit(records []Parked) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, record := range records {
		if !g.open && record.Dropped == nil {
			return &PoisonError{record}
		}
		if record.Revision == 1 {
			if g.empty == nil {
				g.empty = map[string]bool{}
			}
			g.empty[record.Stream] = true
		}
	}
	return nil
}

func (g *gate) bare() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return int64(len(g.empty))
}

func (g *gate) unlock() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = true
}

// patience bounds how long a live batch waits for a generation that is being built.
const patience = 30 * time.Second

// A guest is a building generation's projector in a live set: what it can't do
// fails the rebuild, and never the batch of those that are live. Nor does a
// batch that is given up leave it without events that the others have stored.
type guest struct {
	Member
	err atomic.Pointer[error]
}

func (g *guest) Apply(ctx context.Context, batch []Decoded) error {
	if g.err.Load() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := g.Member.Apply(ctx, batch); err != nil {
		g.err.CompareAndSwap(nil, &err)
	}
	return nil
}

func (g *guest) failure() error {
	if err := g.err.Load(); err != nil {
		return *err
	}
	return nil
}
