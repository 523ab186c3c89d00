package main

import (
	"context"
	"math/bits"
	"sync"
	"sync/atomic"

	"cartwright/commands"
	"cartwright/domain/event"
	"cartwright/infra/metrics"
)

// A countingStore counts how many commands share an append, by category of
// stream: that is what lanes are for. Commands that came to nothing, or were
// refused, appended nothing and are not counted.
type countingStore struct {
	commands.Store
	lanes *laneCounts
}

// Append implements commands.Store.
func (c countingStore) Append(ctx context.Context, stream string, after event.Revision, events []event.Recorded) error {
	err := c.Store.Append(ctx, stream, after, events)
	if err == nil {
		c.lanes.of(event.Category(stream)).add(commandsOf(events))
	}
	return err
}

// commandsOf counts the commands that caused events, whose events stand together.
func commandsOf(events []event.Recorded) (n int) {
	cause := ""
	for i := range events {
		if i == 0 || events[i].Cause != cause {
			n, cause = n+1, events[i].Cause
		}
	}
	return n
}

// laneCounts are the counts of all categories. They may be used concurrently.
type laneCounts struct {
	mu         sync.RWMutex
	byCategory map[string]*laneCount // guarded by mu
}

func (l *laneCounts) of(category string) *laneCount {
	l.mu.RLock()
	found := l.byCategory[category]
	l.mu.RUnlock()
	if found != nil {
		return found
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byCategory == nil {
		l.byCategory = map[string]*laneCount{}
	}
	if l.byCategory[category] == nil {
		l.byCategory[category] = &laneCount{}
	}
	return l.byCategory[category]
}

// laneSizes is how many bounds a count has: 1, 2, 4, … up to a full batch.
const laneSizes = 11

// A laneCount is a histogram of commands by append.
type laneCount struct {
	commands atomic.Uint64
	sizes    [laneSizes + 1]atomic.Uint64 // up to each bound and above the one before; the last has the rest
}

func (l *laneCount) add(commands int) {
	l.commands.Add(uint64(commands)) //nolint:gosec // not negative
	l.sizes[min(bits.Len(uint(max(commands, 1)-1)), laneSizes)].Add(1)
}

func (l *laneCount) shape() metrics.Shape {
	s := metrics.Shape{Sum: float64(l.commands.Load()), Bounds: make(map[float64]uint64, laneSizes)}
	for i := range l.sizes {
		s.Count += l.sizes[i].Load()
		if i < laneSizes {
			s.Bounds[float64(uint(1)<<i)] = s.Count
		}
	}
	return s
}

// shapes gives what was counted, by category.
func (l *laneCounts) shapes() map[string]metrics.Shape {
	l.mu.RLock()
	defer l.mu.RUnlock()
	all := make(map[string]metrics.Shape, len(l.byCategory))
	for category, count := range l.byCategory {
		all[category] = count.shape()
	}
	return all
}
