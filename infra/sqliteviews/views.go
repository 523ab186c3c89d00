package sqliteviews

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"cartwright/domain/event"
	"cartwright/projections"
)

// A shape is what tells one view's tables from another's. A generation's table
// of documents is called <view>_<number> and has at least the columns id,
// revision and doc; tables beside it have longer names.
type shape[V any] struct {
	create func(table string) []string
	drop   func(table string) []string
	key    func(stream string) (id any, ok bool) // of a stream's row; not ok where the table can't have it
	stream func(id any) string
	put    func(tx *txn, table string, docs []encoded[V], repair bool) error
}

// encoded is a document on its way into its table.
type encoded[V any] struct {
	projections.Doc[V]
	id   any
	body []byte
}

// Views are all generations of one view. Reading from it reads the live one.
// Its methods may be called concurrently.
type Views[V any] struct {
	db    *DB
	name  string
	shape shape[V]

	live atomic.Pointer[Generation[V]]

	mu   sync.Mutex // guards what follows
	kept projections.Lineage
	open map[int]*Generation[V] // one for each number
}

// newViews opens a view, with an empty live generation if it is new, and drops
// what was being built when the process ended.
func newViews[V any](ctx context.Context, db *DB, name string, s shape[V]) (*Views[V], error) {
	v := &Views[V]{db: db, name: name, shape: s, open: map[int]*Generation[V]{}}
	err := db.write.do(ctx, func(tx *txn) error {
		var raw string
		err := tx.row("SELECT lineage FROM lineages WHERE view = ?", name).Scan(&raw)
		if errors.Is(err, sql.ErrNoRows) {
			v.kept = projections.NewLineage()
			return v.write(tx, v.kept, []int{v.kept.Live}, nil)
		}
		if err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(raw), &v.kept); err != nil {
			return fmt.Errorf("decode its generations: %w", err)
		}
		kept, dead := v.kept.Reopen()
		v.kept = kept
		return v.write(tx, kept, nil, dead)
	})
	if err != nil {
		return nil, fmt.Errorf("open view %s: %w", name, err)
	}
	v.live.Store(v.generation(v.kept.Live))
	return v, nil
}

// generation must be called with mu held.
func (v *Views[V]) generation(number int) *Generation[V] {
	g, ok := v.open[number]
	if !ok {
		g = &Generation[V]{views: v, number: number, table: v.table(number)}
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

func (v *Views[V]) table(number int) string { return fmt.Sprintf("%s_%d", v.name, number) }

// write stores the lineage, makes tables and drops others.
func (v *Views[V]) write(tx *txn, kept projections.Lineage, born, dead []int) error {
	raw, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	for _, number := range born {
		if err := tx.each(v.shape.create(v.table(number))...); err != nil {
			return err
		}
	}
	for _, number := range dead {
		if err := tx.w.forget(v.table(number)); err != nil {
			return err
		}
		if err := tx.each(v.shape.drop(v.table(number))...); err != nil {
			return err
		}
		if err := tx.exec("DELETE FROM parking WHERE view = ? AND generation = ?", v.name, number); err != nil {
			return err
		}
	}
	return tx.exec("INSERT INTO lineages (view, lineage) VALUES (?, ?) ON CONFLICT DO UPDATE SET lineage = excluded.lineage", v.name, string(raw))
}

// change writes a new lineage and remembers it.
func (v *Views[V]) change(ctx context.Context, next projections.Lineage, born, dead []int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	v.end(dead)
	err := v.db.write.do(ctx, func(tx *txn) error { return v.write(tx, next, born, dead) })
	if err == nil {
		v.kept = next
	}
	return err
}

// Live is the generation that readers see now.
func (v *Views[V]) Live() *Generation[V] { return v.live.Load() }

// Previous is the generation that was live before, or nil.
func (v *Views[V]) Previous() *Generation[V] {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.kept.Previous == 0 {
		return nil
	}
	return v.generation(v.kept.Previous)
}

// Build opens a new, empty generation that nobody sees.
func (v *Views[V]) Build(ctx context.Context) (projections.Generation[V], error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	next := v.kept.Begin()
	if err := v.change(ctx, next, []int{next.Last}, nil); err != nil {
		return nil, fmt.Errorf("build generation %d of %s: %w", next.Last, v.name, err)
	}
	return v.generation(next.Last), nil
}

// Switch makes a generation the live one in one step. The one that was live is
// kept; the one kept before it is dropped, once those who still read it are
// done. Others that are being built go on.
func (v *Views[V]) Switch(ctx context.Context, number int) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	next, dead, err := v.kept.Turn(number)
	if err != nil {
		return fmt.Errorf("switch %s: %w", v.name, err)
	}
	if err := v.change(ctx, next, nil, dead); err != nil {
		return fmt.Errorf("switch %s to generation %d: %w", v.name, number, err)
	}
	v.live.Store(v.generation(number))
	return nil
}

// Drop deletes a generation that is not live.
func (v *Views[V]) Drop(ctx context.Context, number int) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	next, err := v.kept.Forget(number)
	if err == nil {
		err = v.change(ctx, next, nil, []int{number})
	}
	if err != nil {
		return fmt.Errorf("drop generation %d of %s: %w", number, v.name, err)
	}
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
