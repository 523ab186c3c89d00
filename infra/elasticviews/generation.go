package elasticviews

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"cartwright/domain/event"
	"cartwright/projections"
)

// A Generation is one whole copy of a view, or whichever is the live one. Its
// methods may be called concurrently.
type Generation[V any] struct {
	views   *Views[V]
	number  int         // 0 for one that was always the live one
	follows atomic.Bool // the alias, not the number
}

// errDropped tells who still uses a generation that it is gone.
var errDropped = errors.New("the generation was dropped")

// often is how often the live generation is looked for, should it turn again
// and again meanwhile.
const often = 10

// Number names the generation. That of the live one is the one this process
// last saw; it is right at once where the process switched itself.
func (g *Generation[V]) Number() int {
	if g.follows.Load() {
		return int(g.views.current.Load())
	}
	return g.number
}

// target names one of the generation's indices for readers.
func (g *Generation[V]) target(kind string) string {
	if g.follows.Load() {
		return g.views.db.index(kind)
	}
	return g.views.db.index(kind, g.number)
}

// documents names the index that has the documents.
func (g *Generation[V]) documents() string { return g.target(g.views.shape.kinds[0].name) }

// reading asks the generation's indices. Where it is the live one and is
// dropped just then, the next one is asked.
func (g *Generation[V]) reading(ctx context.Context, ask func() error) error {
	err := ask()
	for range often {
		if !isType(err, noIndex) || !g.follows.Load() || ctx.Err() != nil {
			break
		}
		err = ask()
	}
	if isType(err, noIndex) {
		return fmt.Errorf("%w: %w", errDropped, err)
	}
	return err
}

// writing calls write with the generation's number. If it is the live one, then
// until that has not changed meanwhile.
func (g *Generation[V]) writing(ctx context.Context, write func(at indices) error) error {
	v := g.views
	if !g.follows.Load() {
		return dropped(write(indices{v.db, g.number}))
	}
	number := int(v.current.Load())
	for range often {
		turns := v.turns.Load()
		err := write(indices{v.db, number})
		if err != nil && !isType(err, noIndex) {
			return err
		}
		live, lookErr := v.db.resolve(ctx, v.alias())
		if lookErr != nil {
			return lookErr
		}
		if live == number {
			return dropped(err)
		}
		v.notice(ctx, live, turns)
		number = live
	}
	return fmt.Errorf("%w: the live generation changes all the time", projections.ErrUnavailable)
}

func dropped(err error) error {
	if isType(err, noIndex) {
		return fmt.Errorf("%w: %w", errDropped, err)
	}
	return err
}

// Get gives the documents there are of some streams.
func (g *Generation[V]) Get(ctx context.Context, streams []string) (map[string]projections.Doc[V], error) {
	docs := make(map[string]projections.Doc[V], len(streams))
	_, err := g.find(ctx, streams, true, func(f found) error {
		doc, err := decode[V](f)
		docs[doc.Stream] = doc
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("get %d documents of %s: %w", len(streams), g.views.name, err)
	}
	return docs, nil
}

func decode[V any](f found) (projections.Doc[V], error) {
	doc := projections.Doc[V]{Stream: f.ID, Revision: event.Revision(f.Version)} //nolint:gosec // as it was stored
	source := struct {
		Body *V `json:"body"`
	}{&doc.Body}
	if err := json.Unmarshal(f.Source, &source); err != nil {
		return doc, fmt.Errorf("decode %s: %w", f.ID, err)
	}
	return doc, nil
}

// Revisions gives the revisions of the documents there are of some streams.
// What it reports, this process's lists show from then on.
func (g *Generation[V]) Revisions(ctx context.Context, streams []string) (map[string]event.Revision, error) {
	revisions := make(map[string]event.Revision, len(streams))
	number, err := g.find(ctx, streams, false, func(f found) error {
		revisions[f.ID] = event.Revision(f.Version) //nolint:gosec // as it was stored
		return nil
	})
	if err == nil && g.views.shape.searched && g.follows.Load() {
		err = g.views.fresh.show(ctx, number, revisions)
	}
	if err != nil {
		return nil, fmt.Errorf("get %d revisions of %s: %w", len(streams), g.views.name, err)
	}
	return revisions, nil
}

// find calls take with the documents there are of some streams, all of one
// generation, and gives its number.
func (g *Generation[V]) find(ctx context.Context, streams []string, whole bool, take func(found) error) (number int, err error) {
	refs := make([]ref, 0, len(streams))
	for _, stream := range streams {
		if routing, nowhere := g.views.shape.place(stream); nowhere == nil {
			refs = append(refs, ref{stream, routing})
		}
	}
	if err = ctx.Err(); err != nil || len(refs) == 0 {
		return g.Number(), err
	}
	var docs []found
	err = g.reading(ctx, func() error {
		turns := g.views.turns.Load()
		docs, number, err = g.wholeOf(ctx, refs, whole)
		if err == nil && g.follows.Load() {
			g.views.notice(ctx, number, turns)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, doc := range docs {
		if !doc.Found {
			continue
		}
		if err := take(doc); err != nil {
			return 0, err
		}
	}
	return number, nil
}

// wholeOf reads documents in as many requests as it takes, all of one generation.
func (g *Generation[V]) wholeOf(ctx context.Context, refs []ref, whole bool) (docs []found, number int, err error) {
	for range often {
		docs, err = g.views.db.c.inParts(ctx, g.documents(), refs, whole)
		if err != nil {
			return nil, 0, err
		}
		alike := true
		for _, doc := range docs {
			alike = alike && doc.Index == docs[0].Index
		}
		if alike {
			number, err = numbered(docs[0].Index, g.views.alias())
			return docs, number, err
		}
	}
	return nil, 0, fmt.Errorf("%w: the live generation changes all the time", projections.ErrUnavailable)
}

func (c *client) inParts(ctx context.Context, index string, refs []ref, whole bool) ([]found, error) {
	var docs []found
	for len(refs) > 0 {
		n := min(len(refs), atOnce)
		some, err := c.documents(ctx, index, refs[:n], whole)
		if err != nil {
			return nil, err
		}
		docs, refs = append(docs, some...), refs[n:]
	}
	return docs, nil
}

// Put stores documents, each unless one of the same or a later revision is
// there. Documents that the view has no place for are refused, and the others
// are stored.
func (g *Generation[V]) Put(ctx context.Context, docs []projections.Doc[V]) error {
	return g.put(ctx, docs, false)
}

// Repair stores documents over those of the same revision too, with what lies
// beside them. It is for a verification that found them wrong, and takes whole
// folds.
func (g *Generation[V]) Repair(ctx context.Context, docs []projections.Doc[V]) error {
	return g.put(ctx, docs, true)
}

func (g *Generation[V]) put(ctx context.Context, docs []projections.Doc[V], repair bool) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("put %d documents of %s: %w", len(docs), g.views.name, err)
	}
	refused := map[string]error{}
	sources, err := g.sources(projections.Newest(docs), refused)
	if err == nil && len(sources) > 0 {
		// Some may be stored after an error too.
		defer g.views.fresh.put()
		err = g.writing(ctx, func(at indices) error { return g.store(ctx, at, sources, repair, refused) })
	}
	if err != nil {
		return fmt.Errorf("put %d documents of %s: %w", len(docs), g.views.name, err)
	}
	if len(refused) > 0 {
		return &projections.RefusedError{Docs: refused}
	}
	return nil
}

// A source is a document on its way to the server.
type source[V any] struct {
	projections.Doc[V]
	routing string
	raw     []byte
}

func (g *Generation[V]) sources(docs []projections.Doc[V], refused map[string]error) ([]source[V], error) {
	sources := make([]source[V], 0, len(docs))
	for _, doc := range docs {
		routing, err := g.views.shape.place(doc.Stream)
		if err != nil {
			refused[doc.Stream] = err
			continue
		}
		raw, err := json.Marshal(g.views.shape.source(doc))
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", doc.Stream, err)
		}
		sources = append(sources, source[V]{doc, routing, raw})
	}
	return sources, nil
}

// store writes documents into a generation, what lies beside them first.
func (g *Generation[V]) store(ctx context.Context, at indices, sources []source[V], repair bool, refused map[string]error) error {
	if err := g.prepare(ctx, at, sources, repair); err != nil {
		return err
	}
	beside, err := g.beside(at, sources, repair)
	if err != nil {
		return err
	}
	if err := g.carryOut(ctx, beside, refused); err != nil {
		return err
	}
	ops := make([]op, 0, len(sources))
	for _, s := range sources {
		// Without what belongs beside it a document must not be there.
		if _, no := refused[s.Stream]; no {
			continue
		}
		version := uint64(s.Revision)
		ops = append(ops, op{
			action: "index", index: at.of(g.views.shape.kinds[0].name), id: s.Stream, routing: s.routing,
			version: &version, same: repair, source: s.raw, owner: s.Stream,
		})
	}
	return g.carryOut(ctx, ops, refused)
}

func (g *Generation[V]) prepare(ctx context.Context, at indices, sources []source[V], repair bool) error {
	shape := g.views.shape
	before := shape.clear
	if !repair {
		before = shape.check
		if !g.views.followed.Load() {
			return nil
		}
	}
	if before == nil {
		return nil
	}
	docs := make([]projections.Doc[V], len(sources))
	for i, s := range sources {
		docs[i] = s.Doc
	}
	return before(ctx, at, docs)
}

func (g *Generation[V]) beside(at indices, sources []source[V], repair bool) ([]op, error) {
	if g.views.shape.beside == nil {
		return nil, nil
	}
	var ops []op
	for _, s := range sources {
		some, err := g.views.shape.beside(at, s.Doc, s.raw, repair)
		if err != nil {
			return nil, fmt.Errorf("encode what belongs to %s: %w", s.Stream, err)
		}
		ops = append(ops, some...)
	}
	return ops, nil
}

// carryOut does what ops say. A conflict is a write that came too late, which
// is as good as done.
func (g *Generation[V]) carryOut(ctx context.Context, ops []op, refused map[string]error) error {
	if len(ops) == 0 {
		return nil
	}
	outcomes, err := g.views.db.c.bulk(ctx, ops)
	if err != nil {
		return err
	}
	for i, o := range outcomes {
		switch {
		case o.done() || o.conflict() || ops[i].action == "delete" && !o.gone() && o.status == 404:
		case o.refused():
			refused[ops[i].owner] = o.err()
		default:
			return fmt.Errorf("write %s: %w", ops[i].owner, o.err())
		}
	}
	return nil
}

// Count is how many documents there are.
func (g *Generation[V]) Count(ctx context.Context) (int64, error) {
	var count struct {
		Count int64 `json:"count"`
	}
	err := g.reading(ctx, func() error {
		if err := g.views.refresh(ctx, g.target); err != nil {
			return err
		}
		r, err := post("/"+g.documents()+"/_count", map[string]any{"query": streams()})
		if err == nil {
			count, err = ask[struct {
				Count int64 `json:"count"`
			}](ctx, g.views.db.c, r)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count documents of %s: %w", g.views.name, err)
	}
	return count.Count, nil
}

// Streams gives the next names of those that have documents, in order. Each
// call sees what was put before it; names do not change their places, so it
// needs no moment that is kept from call to call.
func (g *Generation[V]) Streams(ctx context.Context, after string, limit int) ([]string, error) {
	hits, err := g.names(ctx, "stream", after, limit, false)
	if err != nil {
		return nil, fmt.Errorf("list documents of %s: %w", g.views.name, err)
	}
	streams := make([]string, len(hits))
	for i, h := range hits {
		streams[i] = h.ID
	}
	return streams, nil
}

// names lists documents by a field that names streams.
func (g *Generation[V]) names(ctx context.Context, field, after string, limit int, whole bool) (hits []hit, err error) {
	err = g.reading(ctx, func() error {
		if err = g.views.refresh(ctx, g.target); err != nil {
			return err
		}
		hits, err = g.views.db.c.list(ctx, search{
			Index: g.documents(), Query: within(field, "gt", after), Sort: []any{by(field, "asc")}, Source: whole,
		}, limit)
		return err
	})
	return hits, err
}
