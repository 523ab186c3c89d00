package sqliteviews

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"cartwright/domain/event"
	"cartwright/projections"
)

// A Generation is one whole copy of a view. Its methods may be called concurrently.
type Generation[V any] struct {
	views  *Views[V]
	number int
	table  string

	use     sync.RWMutex // read while a method runs, written to drop the generation
	dropped bool
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

// query reads some rows of the generation, whose tables can't go meanwhile.
func (g *Generation[V]) query(ctx context.Context, scan func(*sql.Rows) error, text string, args ...any) error {
	if err := g.hold(); err != nil {
		return err
	}
	defer g.use.RUnlock()
	rows, err := g.views.db.read.QueryContext(ctx, text, args...)
	return eachRow(rows, err, scan)
}

// Number names the generation.
func (g *Generation[V]) Number() int { return g.number }

// Get gives the documents there are of some streams.
func (g *Generation[V]) Get(ctx context.Context, streams []string) (map[string]projections.Doc[V], error) {
	docs := make(map[string]projections.Doc[V], len(streams))
	err := g.find(ctx, "doc", streams, func(rows *sql.Rows) error {
		doc, err := g.scan(rows)
		docs[doc.Stream] = doc
		return err
	})
	return docs, err
}

// scan reads a row of id, revision and doc, and what else it has.
func (g *Generation[V]) scan(rows *sql.Rows, more ...any) (projections.Doc[V], error) {
	var doc projections.Doc[V]
	var id any
	var at int64
	var body sql.RawBytes
	if err := rows.Scan(append([]any{&id, &at, &body}, more...)...); err != nil {
		return doc, err
	}
	doc.Stream, doc.Revision = g.views.shape.stream(id), event.Revision(at) //nolint:gosec // as it was stored
	if err := json.Unmarshal(body, &doc.Body); err != nil {
		return doc, fmt.Errorf("decode %s: %w", doc.Stream, err)
	}
	return doc, nil
}

// Revisions gives the revisions of the documents there are of some streams.
func (g *Generation[V]) Revisions(ctx context.Context, streams []string) (map[string]event.Revision, error) {
	revisions := make(map[string]event.Revision, len(streams))
	err := g.find(ctx, "NULL", streams, func(rows *sql.Rows) error {
		var id, none any
		var at int64
		err := rows.Scan(&id, &at, &none)
		revisions[g.views.shape.stream(id)] = event.Revision(at) //nolint:gosec // as it was stored
		return err
	})
	return revisions, err
}

// find calls scan for the rows there are of some streams.
func (g *Generation[V]) find(ctx context.Context, column string, streams []string, scan func(*sql.Rows) error) error {
	ids := make([]any, 0, len(streams))
	for _, stream := range streams {
		if id, ok := g.views.shape.key(stream); ok {
			ids = append(ids, id)
		}
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return fmt.Errorf("get %d documents of %s: %w", len(streams), g.views.name, err)
	}
	err = g.query(ctx, scan,
		"SELECT id, revision, "+column+" FROM "+g.table+" WHERE id IN (SELECT value FROM json_each(?))", string(list))
	if err != nil {
		return fmt.Errorf("get %d documents of %s: %w", len(streams), g.views.name, err)
	}
	return nil
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
		body, err := json.Marshal(doc.Body)
		if err != nil {
			return fmt.Errorf("encode %s for %s: %w", doc.Stream, g.views.name, err)
		}
		rows = append(rows, encoded[V]{doc, id, body})
	}
	if len(rows) > 0 {
		if err := g.change(ctx, func(tx *txn) error { return g.views.shape.put(tx, g.table, rows, repair) }); err != nil {
			return fmt.Errorf("put %d documents of %s: %w", len(rows), g.views.name, err)
		}
	}
	if len(refused) > 0 {
		return &projections.RefusedError{Docs: refused}
	}
	return nil
}

// change writes to the generation, whose tables can't go meanwhile.
func (g *Generation[V]) change(ctx context.Context, f func(*txn) error) error {
	if err := g.hold(); err != nil {
		return err
	}
	defer g.use.RUnlock()
	return g.views.db.write.do(ctx, f)
}

// Count is how many documents there are.
func (g *Generation[V]) Count(ctx context.Context) (int64, error) {
	var n int64
	err := g.query(ctx, func(rows *sql.Rows) error { return rows.Scan(&n) }, "SELECT count(*) FROM "+g.table)
	if err != nil {
		return 0, fmt.Errorf("count documents of %s: %w", g.views.name, err)
	}
	return n, nil
}

// Streams gives the next names of those that have documents, in order.
func (g *Generation[V]) Streams(ctx context.Context, after string, limit int) ([]string, error) {
	from, args := "", []any{limit}
	if id, ok := g.views.shape.key(after); ok {
		from, args = "WHERE id > ?", []any{id, limit}
	}
	streams := make([]string, 0, limit)
	err := g.query(ctx, func(rows *sql.Rows) error {
		var id any
		err := rows.Scan(&id)
		streams = append(streams, g.views.shape.stream(id))
		return err
	}, "SELECT id FROM "+g.table+" "+from+" ORDER BY id LIMIT ?", args...)
	if err != nil {
		return nil, fmt.Errorf("list documents of %s: %w", g.views.name, err)
	}
	return streams, nil
}
