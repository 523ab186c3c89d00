package sqliteviews

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/bytedance/sonic"

	"cartwright/domain/event"
	"cartwright/projections"
)

// A Generation is one whole copy of a view. Its methods may be called concurrently.
type Generation[V any] struct {
	views  *Views[V]
	number int
	table  string
	file   *file

	tiers   atomic.Pointer[tiers] // changed on the writer's turn only
	reaches map[int]*reach        // of the years, as far as they are known; used on the writer's turn only
	free    atomic.Bool           // of parked streams, for certain; changed on the writer's turn only

	use     sync.RWMutex // read while a method runs, written to drop the generation
	dropped bool
}

func newGeneration[V any](v *Views[V], number int, f *file, t *tiers) *Generation[V] {
	g := &Generation[V]{views: v, number: number, table: v.table(number), file: f}
	g.tiers.Store(t)
	return g
}

// errDropped tells who still uses a generation that it is gone. Readers of the
// live one never see it: they look again which one that is.
var errDropped = errors.New("the generation was dropped")

// hold keeps the generation from being dropped until use is given back.
func (g *Generation[V]) hold() error {
	g.use.RLock()
	if g.dropped {
		g.use.RUnlock()
		return errDropped
	}
	return nil
}

// end waits for those who use the generation and lets nobody in any more.
func (g *Generation[V]) end() {
	g.use.Lock()
	defer g.use.Unlock()
	g.dropped = true
}

// settle ends the time of being built: from here on everybody reads it.
func (g *Generation[V]) settle(ctx context.Context) error {
	if !g.file.write.bulk.Load() {
		return nil
	}
	return g.file.write.settle(ctx, func(tx *txn) error {
		for _, table := range g.tables(g.tiers.Load().Years) {
			if err := tx.each(g.views.shape.tune(table, false)...); err != nil {
				return err
			}
		}
		return nil
	})
}

// query reads some rows of the generation.
func (g *Generation[V]) query(ctx context.Context, scan func(*sql.Rows) error, text string, args ...any) error {
	_, err := glance(ctx, g, func(from moment) (none struct{}, err error) {
		return none, ask(ctx, from, text, scan, args...)
	})
	return err
}

// Number names the generation.
func (g *Generation[V]) Number() int { return g.number }

// Get gives the documents there are of some streams.
func (g *Generation[V]) Get(ctx context.Context, streams []string) (map[string]projections.Doc[V], error) {
	return find(ctx, g, "doc", streams, func(rows *sql.Rows) (projections.Doc[V], string, error) {
		var doc projections.Doc[V]
		err := g.scan(rows, &doc)
		return doc, doc.Stream, err
	})
}

// asStored reads the documents that Put wrote. Their texts are parts of the one that
// they are read from, and not a copy each.
var asStored = sonic.Config{ValidateString: true}.Froze()

// scan reads a row of id, revision and doc, and what else it has.
func (g *Generation[V]) scan(rows *sql.Rows, doc *projections.Doc[V], more ...any) error {
	var id any
	var at int64
	var body string
	if err := rows.Scan(append([]any{&id, &at, &body}, more...)...); err != nil {
		return err
	}
	doc.Stream, doc.Revision = g.views.shape.stream(id), event.Revision(at) //nolint:gosec // as it was stored
	if err := asStored.UnmarshalFromString(body, &doc.Body); err != nil {
		return fmt.Errorf("decode %s: %w", doc.Stream, err)
	}
	return nil
}

// Revisions gives the revisions of the documents there are of some streams.
func (g *Generation[V]) Revisions(ctx context.Context, streams []string) (map[string]event.Revision, error) {
	return find(ctx, g, "NULL", streams, func(rows *sql.Rows) (event.Revision, string, error) {
		var id, none any
		var at int64
		err := rows.Scan(&id, &at, &none)
		return event.Revision(at), g.views.shape.stream(id), err //nolint:gosec // as it was stored
	})
}

// find gives what scan makes of the rows there are of some streams. What is not
// at hand is looked for in the archive.
func find[V, T any](
	ctx context.Context, g *Generation[V], column string, streams []string, scan func(*sql.Rows) (found T, stream string, err error),
) (map[string]T, error) {
	found, err := look(ctx, g, func(from moment, years []int) (map[string]T, error) {
		got := make(map[string]T, len(streams))
		take := func(rows *sql.Rows) error {
			one, stream, err := scan(rows)
			got[stream] = one
			return err
		}
		tables := []string{g.table}
		for left := streams; len(left) > 0 && len(tables) > 0; left = missing(left, got) {
			list, err := g.keys(left)
			if err != nil {
				return nil, err
			}
			text := union(tables, "SELECT id, revision, "+column+" FROM ", " WHERE id IN (SELECT value FROM json_each(?1))")
			if err := ask(ctx, from, text, take, list); err != nil {
				return nil, err
			}
			tables, years = archives(g.table, years), nil
		}
		return got, nil
	})
	if err != nil {
		return nil, fmt.Errorf("get %d documents of %s: %w", len(streams), g.views.name, err)
	}
	return found, nil
}

func missing[T any](streams []string, got map[string]T) []string {
	var left []string
	for _, stream := range streams {
		if _, ok := got[stream]; !ok {
			left = append(left, stream)
		}
	}
	return left
}

// keys lists the rows that streams have, for json_each.
func (g *Generation[V]) keys(streams []string) (string, error) {
	ids := make([]any, 0, len(streams))
	for _, stream := range streams {
		if id, ok := g.views.shape.key(stream); ok {
			ids = append(ids, id)
		}
	}
	list, err := json.Marshal(ids)
	return string(list), err
}

// Put stores documents in one transaction, each unless one of the same or a
// later revision is there. Documents of streams that are not called as the
// view's are refused.
func (g *Generation[V]) Put(ctx context.Context, docs []projections.Doc[V]) error {
	return g.put(ctx, docs, false)
}

// Repair stores documents over those of the same revision too. It is for a
// verification that found them wrong, and takes whole folds.
func (g *Generation[V]) Repair(ctx context.Context, docs []projections.Doc[V]) error {
	return g.put(ctx, docs, true)
}

func (g *Generation[V]) put(ctx context.Context, docs []projections.Doc[V], repair bool) error {
	refused := map[string]error{}
	rows := make([]encoded[V], 0, len(docs))
	for _, doc := range projections.Newest(docs) {
		id, ok := g.views.shape.key(doc.Stream)
		if !ok {
			refused[doc.Stream] = fmt.Errorf("the view %s has no place for a stream of this name", g.views.name)
			continue
		}
		row, err := g.encode(doc, id)
		if err != nil {
			return fmt.Errorf("encode %s for %s: %w", doc.Stream, g.views.name, err)
		}
		rows = append(rows, row)
	}
	if len(rows) > 0 {
		if err := g.changeTiers(ctx, func(tx *txn) error { return g.views.shape.put(tx, g, rows, repair) }); err != nil {
			return fmt.Errorf("put %d documents of %s: %w", len(rows), g.views.name, err)
		}
	}
	if len(refused) > 0 {
		return &projections.RefusedError{Docs: refused}
	}
	return nil
}

// encode does what can be done before the writer's turn. In a bulk load most
// documents are new, so that their texts will be asked for.
func (g *Generation[V]) encode(doc projections.Doc[V], id any) (encoded[V], error) {
	body, err := json.Marshal(doc.Body)
	row := encoded[V]{Doc: doc, id: id, body: body}
	if g.views.shape.text != nil && g.file.write.bulk.Load() {
		row.text = g.views.shape.text(doc.Body)
	}
	return row, err
}

// change writes to the generation, whose tables can't go meanwhile.
func (g *Generation[V]) change(ctx context.Context, f func(*txn) error) error {
	if err := g.hold(); err != nil {
		return err
	}
	defer g.use.RUnlock()
	return g.file.write.do(ctx, f)
}

// Count is how many documents there are.
func (g *Generation[V]) Count(ctx context.Context) (int64, error) {
	counts, err := g.counts(ctx)
	if err != nil {
		return 0, fmt.Errorf("count documents of %s: %w", g.views.name, err)
	}
	n := int64(0)
	for _, tier := range counts {
		n += tier.Documents
	}
	return n, nil
}

// Streams gives the next names of those that have documents, in order.
func (g *Generation[V]) Streams(ctx context.Context, after string, limit int) ([]string, error) {
	where, args := "", []any{}
	if id, ok := g.views.shape.key(after); ok {
		where, args = " WHERE id > ?1", []any{id}
	}
	streams, err := look(ctx, g, func(from moment, years []int) ([]string, error) {
		// Each table's next ones, and of those the first.
		some := union(g.tables(years), "SELECT * FROM (SELECT id FROM ", where+" ORDER BY id LIMIT "+strconv.Itoa(limit)+")")
		streams := make([]string, 0, limit)
		err := ask(ctx, from, some+" ORDER BY 1 LIMIT "+strconv.Itoa(limit), func(rows *sql.Rows) error {
			var id any
			err := rows.Scan(&id)
			streams = append(streams, g.views.shape.stream(id))
			return err
		}, args...)
		return streams, err
	})
	if err != nil {
		return nil, fmt.Errorf("list documents of %s: %w", g.views.name, err)
	}
	return streams, nil
}
