package sqliteviews

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"cartwright/domain/event"
	"cartwright/projections"
)

// A shape is what tells one view's tables from another's. A generation's table
// of documents is called <view>_<number> and has at least the columns id,
// revision and doc; tables beside it have longer names, those of the archive
// <view>_<number>_y<year>.
type shape[V any] struct {
	create func(table string) []string
	year   func(table string) []string            // makes a part of the archive; nil where there is none
	tune   func(table string, bulk bool) []string // begins a bulk load of a table, or ends it
	drop   func(table string, years []int) []string
	key    func(stream string) (id any, ok bool) // of a stream's row; not ok where the table can't have it
	stream func(id any) string
	text   func(body V) string // nil where there is no text index
	put    func(tx *txn, g *Generation[V], docs []encoded[V], repair bool) error
}

// encoded is a document on its way into its table.
type encoded[V any] struct {
	projections.Doc[V]
	id   any
	body []byte
	text string // of the text index, where it was made beforehand
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
// what was being built when the process ended, unless it has a mark.
func newViews[V any](ctx context.Context, db *DB, name string, s shape[V]) (*Views[V], error) {
	v := &Views[V]{db: db, name: name, shape: s, open: map[int]*Generation[V]{}}
	if err := v.prepare(ctx); err != nil {
		return nil, fmt.Errorf("open view %s: %w", name, err)
	}
	v.live.Store(v.open[v.kept.Live])
	return v, nil
}

func (v *Views[V]) prepare(ctx context.Context) error {
	if err := v.load(ctx); err != nil {
		return err
	}
	if err := v.openGeneration(ctx, v.kept.Live); err != nil {
		return fmt.Errorf("the live generation is gone; delete %s and replay: %w", v.db.dir, err)
	}
	for _, number := range append(v.kept.Kept(), v.kept.Building...) {
		err := v.openGeneration(ctx, number)
		if errors.Is(err, os.ErrNotExist) {
			v.kept, err = v.kept.Forget(number) // whoever deleted the file wants it no more
		}
		if err != nil {
			return err
		}
	}
	next, dead := v.kept.Reopen()
	if err := v.change(ctx, next, dead); err != nil {
		return err
	}
	for _, number := range next.Building {
		if err := v.open[number].file.write.load(ctx); err != nil {
			return err
		}
	}
	return v.sweep(slices.Collect(maps.Keys(v.open)))
}

// load reads the lineage, or begins one.
func (v *Views[V]) load(ctx context.Context) error {
	return v.db.main.write.do(ctx, func(tx *txn) error {
		var raw string
		err := tx.row("SELECT lineage FROM lineages WHERE view = ?", v.name).Scan(&raw)
		if errors.Is(err, sql.ErrNoRows) {
			v.kept = projections.NewLineage()
			if err = v.write(tx, v.kept, nil); err != nil {
				return err
			}
			return tx.each(v.shape.create(v.table(v.kept.Live))...)
		}
		if err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(raw), &v.kept); err != nil {
			return fmt.Errorf("decode its generations: %w", err)
		}
		return nil
	})
}

// openGeneration finds a generation in the first file, or opens its own.
func (v *Views[V]) openGeneration(ctx context.Context, number int) error {
	f, own := v.db.main, true
	err := f.write.do(ctx, func(tx *txn) error {
		return tx.query(func(rows *sql.Rows) error { return rows.Scan(&own) },
			"SELECT count(*) = 0 FROM sqlite_schema WHERE type = 'table' AND name = ?", v.table(number))
	})
	if err != nil {
		return err
	}
	if own {
		if _, err = os.Stat(v.path(number)); err != nil {
			return fmt.Errorf("find generation %d: %w", number, err)
		}
		if f, err = v.db.openFile(ctx, v.path(number)); err != nil {
			return err
		}
	}
	t, err := loadTiers(ctx, f, v.name, number)
	if err != nil {
		return err
	}
	v.open[number] = newGeneration(v, number, f, t)
	return f.write.do(ctx, v.open[number].mind)
}

// end waits for those who use generations that are to be dropped. Must be
// called with mu held.
func (v *Views[V]) end(dead []int) {
	for _, number := range dead {
		v.open[number].end()
	}
}

// bury removes what generations that were dropped have left, or makes them
// usable again where that failed. Must be called with mu held.
func (v *Views[V]) bury(dead []int, gone bool) error {
	var err error
	for _, number := range dead {
		g := v.open[number]
		if !gone {
			v.open[number] = newGeneration(v, number, g.file, g.tiers.Load())
			continue
		}
		delete(v.open, number)
		if g.file != v.db.main {
			err = errors.Join(err, v.db.removeFile(g.file))
		}
	}
	return err
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

// write stores the lineage and drops generations that are in the first file.
func (v *Views[V]) write(tx *txn, kept projections.Lineage, dead []int) error {
	raw, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	for _, number := range dead {
		if v.open[number].file != v.db.main {
			continue
		}
		if err := tx.w.forget(v.table(number)); err != nil {
			return err
		}
		if err := tx.each(v.shape.drop(v.table(number), v.open[number].tiers.Load().Years)...); err != nil {
			return err
		}
		for _, beside := range []string{"parking", "tiers"} {
			if err := tx.exec("DELETE FROM "+beside+" WHERE view = ? AND generation = ?", v.name, number); err != nil {
				return err
			}
		}
	}
	return tx.exec("INSERT INTO lineages (view, lineage) VALUES (?, ?) ON CONFLICT DO UPDATE SET lineage = excluded.lineage", v.name, string(raw))
}

// change writes a new lineage and remembers it. Must be called with mu held.
func (v *Views[V]) change(ctx context.Context, next projections.Lineage, dead []int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	v.end(dead)
	err := v.db.main.write.do(ctx, func(tx *txn) error { return v.write(tx, next, dead) })
	if err != nil {
		return errors.Join(err, v.bury(dead, false))
	}
	v.kept = next
	return v.bury(dead, true)
}

// Live is the generation that readers see now.
func (v *Views[V]) Live() *Generation[V] { return v.live.Load() }

// Kept are the generations that were live before, newest first.
func (v *Views[V]) Kept() []projections.Generation[V] {
	v.mu.Lock()
	defer v.mu.Unlock()
	var kept []projections.Generation[V]
	for _, number := range v.kept.Kept() {
		kept = append(kept, v.open[number])
	}
	return kept
}

// Build opens a new, empty generation that nobody sees. It has a file of its
// own, so that those who write to the live one do not wait for it.
func (v *Views[V]) Build(ctx context.Context) (projections.Generation[V], error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	next := v.kept.Begin()
	g, err := v.create(ctx, next.Last)
	if err == nil {
		v.open[next.Last] = g
		if err = v.change(ctx, next, nil); err != nil {
			delete(v.open, next.Last)
			err = errors.Join(err, v.db.removeFile(g.file))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("build generation %d of %s: %w", next.Last, v.name, err)
	}
	return g, nil
}

// create makes the file of a generation, with the boundary of the live one.
func (v *Views[V]) create(ctx context.Context, number int) (*Generation[V], error) {
	if err := remove(v.path(number)); err != nil {
		return nil, err
	}
	f, err := v.db.openFile(ctx, v.path(number))
	if err != nil {
		return nil, err
	}
	g := newGeneration(v, number, f, &tiers{})
	err = f.write.do(ctx, func(tx *txn) error {
		if made := tx.each(append(v.shape.create(g.table), v.shape.tune(g.table, true)...)...); made != nil {
			return made
		}
		return errors.Join(g.mind(tx), g.divide(tx, &tiers{Before: v.Live().tiers.Load().Before}))
	})
	if err == nil {
		err = f.write.load(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, v.db.removeFile(f))
	}
	return g, nil
}

// Mark writes down how far a generation that is being built has come. What was
// put before is on the disk before the mark is written, so that whoever finds
// the mark finds the documents, after a power failure too.
func (v *Views[V]) Mark(ctx context.Context, number int, at projections.Checkpoint) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	next, err := v.kept.Mark(number, at)
	if err == nil {
		err = v.open[number].file.write.sync(ctx)
	}
	if err == nil {
		err = v.change(ctx, next, nil)
	}
	if err != nil {
		return fmt.Errorf("mark generation %d of %s: %w", number, v.name, err)
	}
	return nil
}

// Unfinished gives the newest generation that was left with a mark. No other
// process has the database open, so it is nobody else's.
func (v *Views[V]) Unfinished(ctx context.Context) (g projections.Generation[V], at projections.Checkpoint, found bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	number := v.kept.Unfinished()
	if err = ctx.Err(); err != nil || number == 0 {
		return nil, at, false, err
	}
	return v.open[number], v.kept.Marks[number], true, nil
}

// Switch makes a generation the live one in one step. The one that was live is
// kept, with as many older ones as make up keep with it; others that were live
// are dropped, once those who still read them are done. What is being built
// goes on.
func (v *Views[V]) Switch(ctx context.Context, number, keep int) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	next, dead, err := v.kept.Turn(number, keep)
	if err != nil {
		return fmt.Errorf("switch %s: %w", v.name, err)
	}
	if err = v.open[number].settle(ctx); err != nil {
		return fmt.Errorf("switch %s to generation %d: %w", v.name, number, err)
	}
	err = v.change(ctx, next, dead)
	if v.kept.Live == number {
		v.live.Store(v.open[number])
	}
	if err != nil {
		return fmt.Errorf("switch %s to generation %d: %w", v.name, number, err)
	}
	return nil
}

// Drop deletes a generation that is not live.
func (v *Views[V]) Drop(ctx context.Context, number int) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	next, err := v.kept.Forget(number)
	if err == nil {
		err = v.change(ctx, next, []int{number})
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
