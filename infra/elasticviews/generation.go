package elasticviews

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
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

// Number names the generation. One that was always the live one has the number
// that this process last saw; it is right at once where the process switched itself.
func (g *Generation[V]) Number() int {
	if g.number != 0 {
		return g.number
	}
	return int(g.views.current.Load())
}

// target names one of the generation's indices at hand for readers.
func (g *Generation[V]) target(kind string) string {
	if g.follows.Load() {
		return g.views.db.index(kind)
	}
	return g.views.db.index(kind, g.number)
}

// archive names the archive of a kind, which may have no index yet.
func (g *Generation[V]) archive(kind string) string {
	if g.follows.Load() {
		return g.views.db.index(kind) + archiveName + "*"
	}
	return g.views.db.index(kind) + yearName + "*-" + strconv.Itoa(g.number)
}

// searched names all indices of a kind, of both tiers.
func (g *Generation[V]) searched(kind string) string {
	if g.views.shape.tiers == nil {
		return g.target(kind)
	}
	return g.target(kind) + "," + g.archive(kind)
}

// documents names the index at hand that has the documents.
func (g *Generation[V]) documents() string { return g.target(g.views.shape.kinds[0].name) }

// seen leaves out of a query what is not where it belongs. Of the live
// generation the aliases do.
func (g *Generation[V]) seen(ctx context.Context, query any) (any, error) {
	if g.follows.Load() || g.views.shape.tiers == nil {
		return query, nil
	}
	t, err := g.views.tiersOf(ctx, g.number, true)
	if err != nil {
		return nil, err
	}
	return all(query, g.views.inPlace(g.number, t)), nil
}

// inPlace are the documents that are where they belong.
func (v *Views[V]) inPlace(number int, t tiers) any {
	var hot []any
	for _, k := range v.shape.kinds {
		hot = append(hot, v.db.index(k.name, number))
	}
	atHand := map[string]any{"terms": map[string]any{"_index": hot}}
	return map[string]any{"bool": map[string]any{"should": []any{
		map[string]any{"bool": map[string]any{"filter": atHand, "must_not": closedBefore(t.at)}},
		map[string]any{"bool": map[string]any{"filter": closedBefore(t.at), "must_not": atHand}},
	}}}
}

// reading asks the generation's indices. Where it is the live one and is
// dropped just then, the next one is asked.
func (g *Generation[V]) reading(ctx context.Context, ask func() error) error {
	v := g.views
	if g.follows.Load() {
		if err := v.whole(ctx); err != nil {
			return err
		}
	}
	err := ask()
	for range often {
		if !isType(err, noIndex) && !isLost(err) || !g.follows.Load() || ctx.Err() != nil {
			break
		}
		if lost := v.inspect(ctx); lost != nil {
			return lost
		}
		err = ask()
	}
	return dropped(err)
}

// writing calls write with the generation's indices. If it is the live one, then
// until neither it nor its tiers have changed meanwhile.
//
// What is written to a live generation that is lost is let pass: it is in the
// log, and will be in the generation that is built from it. To refuse it would
// hold up the batch, and with it every other view.
func (g *Generation[V]) writing(ctx context.Context, write func(at indices) error) error {
	v := g.views
	if !g.follows.Load() {
		t, err := v.tiersOf(ctx, g.number, true)
		if err != nil {
			return err
		}
		return dropped(write(indices{db: v.db, number: g.number, tiers: t}))
	}
	for range often {
		done, err := g.write(ctx, write)
		if done || err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: the live generation changes all the time", projections.ErrUnavailable)
}

// write calls write once, and tells whether that was where it belongs.
func (g *Generation[V]) write(ctx context.Context, write func(at indices) error) (done bool, err error) {
	v := g.views
	if v.lost.Load() != nil {
		if err = v.inspect(ctx); err != nil {
			return isLost(err), passed(err)
		}
	}
	turns, number := v.turns.Load(), int(v.current.Load())
	t, err := v.tiersOf(ctx, number, true)
	if err == nil {
		err = write(indices{db: v.db, number: number, tiers: t})
	}
	if err != nil && !isType(err, noIndex) && !errors.Is(err, errDropped) && !isLost(err) {
		return false, err
	}
	l, lookErr := v.look(ctx)
	if isLost(lookErr) {
		lookErr = v.inspect(ctx)
		return isLost(lookErr), passed(lookErr)
	}
	if lookErr != nil {
		return false, lookErr
	}
	v.saw(l)
	if l.live == number && l.of(number).alike(t) {
		return true, dropped(err)
	}
	v.notice(ctx, l.live, turns)
	return false, nil
}

// passed is the error of a write, if any, that may be let pass.
func passed(err error) error {
	if isLost(err) {
		return nil
	}
	return err
}

func dropped(err error) error {
	if isType(err, noIndex) {
		return fmt.Errorf("%w: %w", errDropped, err)
	}
	return err
}

// Get gives the documents there are of some streams. A live generation that is
// lost has none: this is what projectors ask, whose writes are let pass too.
// Views.Get refuses to answer then.
func (g *Generation[V]) Get(ctx context.Context, streams []string) (map[string]projections.Doc[V], error) {
	docs, err := g.get(ctx, streams)
	if isLost(err) {
		return map[string]projections.Doc[V]{}, nil
	}
	return docs, err
}

func (g *Generation[V]) get(ctx context.Context, streams []string) (map[string]projections.Doc[V], error) {
	docs := make(map[string]projections.Doc[V], len(streams))
	_, err := g.find(ctx, streams, entire, func(hot, archived *found) error {
		at := hot
		if at == nil {
			at = archived
		}
		doc, err := decode[V](*at)
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
	revisions, number, err := g.stored(ctx, streams)
	if err == nil && g.views.shape.searched && g.follows.Load() {
		err = g.views.fresh.show(ctx, number, revisions)
	}
	if err != nil {
		return nil, fmt.Errorf("get %d revisions of %s: %w", len(streams), g.views.name, err)
	}
	return revisions, nil
}

// stored gives revisions whether lists show them or not, and of which generation
// they are. Of a document that is in both tiers it is the lower one: that lists
// show no less, whichever of them they find it in.
func (g *Generation[V]) stored(ctx context.Context, streams []string) (map[string]event.Revision, int, error) {
	revisions := make(map[string]event.Revision, len(streams))
	number, err := g.find(ctx, streams, g.views.marked(), func(hot, archived *found) error {
		at := hot
		if at == nil || archived != nil && archived.Version < at.Version {
			at = archived
		}
		revisions[at.ID] = event.Revision(at.Version) //nolint:gosec // as it was stored
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("get %d stored revisions of %s: %w", len(streams), g.views.name, err)
	}
	return revisions, number, nil
}

// marked is as little of documents as tells where they belong.
func (v *Views[V]) marked() string {
	if v.shape.tiers == nil {
		return bare
	}
	return "closed"
}

// find calls take with the documents there are of some streams, all of one
// generation, and gives its number. One that may be in both tiers comes from
// both, others from where they are.
func (g *Generation[V]) find(
	ctx context.Context, streams []string, source string, take func(hot, archived *found) error,
) (number int, err error) {
	refs := make([]ref, 0, len(streams))
	for _, stream := range streams {
		if routing, nowhere := g.views.shape.place(stream); nowhere == nil {
			refs = append(refs, ref{ID: stream, Routing: routing})
		}
	}
	if err = ctx.Err(); err != nil || len(refs) == 0 {
		return g.Number(), err
	}
	var docs, archived []found
	err = g.reading(ctx, func() error {
		turns := g.views.turns.Load()
		docs, number, err = g.wholeOf(ctx, refs, source)
		if err == nil && g.follows.Load() {
			g.views.notice(ctx, number, turns)
		}
		if err == nil {
			archived, err = g.views.archived(ctx, number, refs, docs, source)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	for i := range docs {
		hot, old := there(docs[i]), there(archived[i])
		if hot == nil && old == nil {
			continue
		}
		if err := take(hot, old); err != nil {
			return 0, err
		}
	}
	return number, nil
}

func there(f found) *found {
	if !f.Found {
		return nil
	}
	return &f
}

// archived looks in the archive for what is not at hand, and for what is but
// belongs there, or will. It gives one answer for each.
func (v *Views[V]) archived(ctx context.Context, number int, refs []ref, hot []found, source string) ([]found, error) {
	answers := make([]found, len(refs))
	t, err := v.tiersOf(ctx, number, false)
	if err != nil || len(t.years) == 0 {
		return answers, err
	}
	var asked []ref
	var of []int
	for i, doc := range hot {
		if doc.Found && source == entire {
			continue
		}
		if doc.Found {
			leaves, broken := leaving(doc, t)
			if broken != nil {
				return nil, broken
			}
			if !leaves {
				continue
			}
		}
		asked, of = append(asked, refs[i]), append(of, i)
	}
	docs, err := v.db.inYears(ctx, indices{db: v.db, number: number, tiers: t}, v.shape.kinds[0].name, asked, source)
	for i, doc := range docs {
		answers[of[i]] = doc
	}
	return answers, err
}

// leaving tells whether a document that is at hand belongs in the archive, or
// will before long.
func leaving(doc found, t tiers) (bool, error) {
	var s struct {
		Closed *int64 `json:"closed"`
	}
	if err := json.Unmarshal(doc.Source, &s); err != nil {
		return false, fmt.Errorf("decode %s: %w", doc.ID, err)
	}
	return s.Closed != nil && *s.Closed < t.next, nil
}

// inYears reads documents of the archive, of whatever years: the newest there is
// of each.
func (d *DB) inYears(ctx context.Context, at indices, kind string, refs []ref, source string) ([]found, error) {
	newest := make([]found, len(refs))
	if len(refs) == 0 || len(at.tiers.years) == 0 {
		return newest, nil
	}
	wide := make([]ref, 0, len(refs)*len(at.tiers.years))
	for _, r := range refs {
		for _, year := range at.tiers.years {
			r.Index = at.in(year).of(kind)
			wide = append(wide, r)
		}
	}
	docs, err := d.c.inParts(ctx, "", wide, source)
	if err != nil {
		return nil, err
	}
	for i, doc := range docs {
		if to := &newest[i/len(at.tiers.years)]; doc.Found && (!to.Found || doc.Version > to.Version) {
			*to = doc
		}
	}
	return newest, nil
}

// anywhere reads documents of a kind in both tiers: those at hand, and others
// where they are.
func (d *DB) anywhere(ctx context.Context, at indices, kind string, refs []ref, source string) ([]found, error) {
	docs, err := d.c.inParts(ctx, at.of(kind), refs, source)
	if err != nil {
		return nil, err
	}
	var asked []ref
	var of []int
	for i, doc := range docs {
		if !doc.Found {
			asked, of = append(asked, refs[i]), append(of, i)
		}
	}
	old, err := d.inYears(ctx, at, kind, asked, source)
	for i, doc := range old {
		if doc.Found {
			docs[of[i]] = doc
		}
	}
	return docs, err
}

// wholeOf reads documents in as many requests as it takes, all of one generation.
func (g *Generation[V]) wholeOf(ctx context.Context, refs []ref, source string) (docs []found, number int, err error) {
	for range often {
		docs, err = g.views.db.c.inParts(ctx, g.documents(), refs, source)
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

func (c *client) inParts(ctx context.Context, index string, refs []ref, source string) ([]found, error) {
	var docs []found
	for len(refs) > 0 {
		n := min(len(refs), atOnce)
		some, err := c.documents(ctx, index, refs[:n], source)
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
	if g.follows.Load() {
		if err := g.views.whole(ctx); err != nil {
			return fmt.Errorf("repair %d documents of %s: %w", len(docs), g.views.name, err)
		}
	}
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
	kind := g.views.shape.kinds[0].name
	err := g.reading(ctx, func() error {
		if err := g.views.refresh(ctx, g.views.targets(g.searched)); err != nil {
			return err
		}
		query, err := g.seen(ctx, streams())
		if err != nil {
			return err
		}
		r, err := post("/"+g.searched(kind)+"/_count", map[string]any{"query": query})
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
	hits, err := g.names(ctx, "stream", after, limit, g.searched, false)
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
func (g *Generation[V]) names(
	ctx context.Context, field, after string, limit int, target func(kind string) string, whole bool,
) (hits []hit, err error) {
	err = g.reading(ctx, func() error {
		names := target(g.views.shape.kinds[0].name)
		if err = g.views.refresh(ctx, names); err != nil {
			return err
		}
		var query any
		if query, err = g.seen(ctx, within(field, "gt", after)); err != nil {
			return err
		}
		hits, err = g.views.db.c.list(ctx, search{Index: names, Query: query, Sort: []any{by(field, "asc")}, Source: whole}, limit)
		return err
	})
	return hits, err
}
