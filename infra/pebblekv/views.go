package pebblekv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"cartwright/domain/event"
	"cartwright/projections"
)

// Views are all generations of one view. Reading from it reads the live one.
// Its methods may be called concurrently.
type Views[V any] struct {
	db    *DB
	name  string
	index indexer[V]

	live atomic.Pointer[Generation[V]]

	mu   sync.Mutex // guards what follows
	kept projections.Lineage
	open map[int]*Generation[V] // one for each number
}

// NewViews opens a view, with an empty live generation if it is new.
// Of the generations that were being built when the process ended, the one that
// was marked last waits for whoever goes on with it; the others are dropped.
func NewViews[V any](db *DB, name string) (*Views[V], error) { return newViews[V](db, name, nil) }

// newViews makes a view whose documents are also found by index.
func newViews[V any](db *DB, name string, index indexer[V]) (*Views[V], error) {
	v := &Views[V]{db: db, name: name, index: index, open: map[int]*Generation[V]{}}
	raw, found, err := db.get(v.lineageKey())
	if err != nil {
		return nil, fmt.Errorf("open view %s: %w", name, err)
	}
	v.kept = projections.NewLineage()
	if found {
		if err := json.Unmarshal(raw, &v.kept); err != nil {
			return nil, fmt.Errorf("open view %s: decode its generations: %w", name, err)
		}
	}
	kept, dead := v.kept.Reopen()
	if err := v.write(kept, dead...); err != nil {
		return nil, fmt.Errorf("open view %s: %w", name, err)
	}
	v.kept = kept
	v.live.Store(v.generation(kept.Live))
	return v, nil
}

func (v *Views[V]) lineageKey() []byte { return append([]byte{tableMeta, 'g'}, v.name...) }

// generation must be called with mu held.
func (v *Views[V]) generation(number int) *Generation[V] {
	g, ok := v.open[number]
	if !ok {
		g = newGeneration(v, number)
		v.open[number] = g
	}
	return g
}

// end waits for those who use generations that are to be dropped. Must be
// called with mu held.
func (v *Views[V]) end(dead []int) {
	for _, number := range dead {
		v.generation(number).end()
		delete(v.open, number)
	}
}

// reading asks the live generation, and the next one should it be dropped just
// then.
func reading[V, T any](v *Views[V], ask func(*Generation[V]) (T, error)) (T, error) {
	for {
		answer, err := ask(v.Live())
		if !errors.Is(err, errDropped) {
			return answer, err
		}
	}
}

// write stores the lineage and drops generations, in one durable commit.
func (v *Views[V]) write(kept projections.Lineage, dead ...int) error {
	raw, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	batch := v.db.kv.NewBatch()
	err = batch.Set(v.lineageKey(), raw, nil)
	for _, n := range dead {
		for _, kind := range []byte{tableDocs, tableKeys, tablePark} {
			prefix := table(kind, v.name, n)
			err = errors.Join(err, batch.DeleteRange(prefix, end(prefix), nil))
		}
	}
	if err != nil {
		return errors.Join(err, batch.Close())
	}
	return batch.Commit(pebble.Sync)
}

// Live is the generation that readers see now.
func (v *Views[V]) Live() *Generation[V] { return v.live.Load() }

// Kept are the generations that were live before, newest first.
func (v *Views[V]) Kept() []projections.Generation[V] {
	v.mu.Lock()
	defer v.mu.Unlock()
	numbers := v.kept.Kept()
	kept := make([]projections.Generation[V], len(numbers))
	for i, number := range numbers {
		kept[i] = v.generation(number)
	}
	return kept
}

// Build opens a new, empty generation that nobody sees.
func (v *Views[V]) Build(ctx context.Context) (projections.Generation[V], error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("build %s: %w", v.name, err)
	}
	next := v.kept.Begin()
	if err := v.write(next); err != nil {
		return nil, fmt.Errorf("build generation %d of %s: %w", next.Last, v.name, err)
	}
	v.kept = next
	return v.generation(next.Last), nil
}

// Mark writes down that everything up to a checkpoint is in a generation that is
// being built, and sees it to the disk: the mark stands in the same log behind
// all that was put before, so no mark is found without it.
func (v *Views[V]) Mark(ctx context.Context, number int, at projections.Checkpoint) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("mark generation %d of %s: %w", number, v.name, err)
	}
	next, err := v.kept.Mark(number, at)
	if err != nil {
		return fmt.Errorf("mark %s: %w", v.name, err)
	}
	if err := v.write(next); err != nil {
		return fmt.Errorf("mark generation %d of %s: %w", number, v.name, err)
	}
	v.kept = next
	return nil
}

// Unfinished gives the generation that was left with a mark, if there is one. The
// folder is this process's, so nobody else builds it.
func (v *Views[V]) Unfinished(ctx context.Context) (g projections.Generation[V], at projections.Checkpoint, found bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, at, false, fmt.Errorf("look for what is unfinished of %s: %w", v.name, err)
	}
	number := v.kept.Unfinished()
	if number == 0 {
		return nil, at, false, nil
	}
	return v.generation(number), v.kept.Marks[number], true, nil
}

// Switch makes a generation the live one in one step. The one that was live is
// kept, with as many older ones as make up keep; others are dropped, once those
// who still read them are done. What is being built goes on.
func (v *Views[V]) Switch(ctx context.Context, number, keep int) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("switch %s: %w", v.name, err)
	}
	next, dead, err := v.kept.Turn(number, keep)
	if err != nil {
		return fmt.Errorf("switch %s: %w", v.name, err)
	}
	v.end(dead)
	if err := v.write(next, dead...); err != nil {
		return fmt.Errorf("switch %s to generation %d: %w", v.name, number, err)
	}
	v.kept = next
	v.live.Store(v.generation(number))
	return nil
}

// Drop deletes a generation that is not live.
func (v *Views[V]) Drop(ctx context.Context, number int) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("drop generation %d of %s: %w", number, v.name, err)
	}
	next, err := v.kept.Forget(number)
	if err != nil {
		return fmt.Errorf("drop generation %d of %s: %w", number, v.name, err)
	}
	v.end([]int{number})
	if err := v.write(next, number); err != nil {
		return fmt.Errorf("drop generation %d of %s: %w", number, v.name, err)
	}
	v.kept = next
	return nil
}

// Get gives the live documents there are of some streams.
func (v *Views[V]) Get(ctx context.Context, streams []string) (map[string]projections.Doc[V], error) {
	return reading(v, func(g *Generation[V]) (map[string]projections.Doc[V], error) { return g.Get(ctx, streams) })
}

// Revisions gives the revisions of the live documents there are of some streams.
func (v *Views[V]) Revisions(ctx context.Context, streams []string) (map[string]event.Revision, error) {
	return reading(v, func(g *Generation[V]) (map[string]event.Revision, error) { return g.Revisions(ctx, streams) })
}

// Parked gives those of some streams that are parked in the live generation.
func (v *Views[V]) Parked(ctx context.Context, streams []string) (map[string]projections.Parked, error) {
	return reading(v, func(g *Generation[V]) (map[string]projections.Parked, error) { return g.Parked(ctx, streams) })
}

// wrap says where an error happened, if there is one.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
}
