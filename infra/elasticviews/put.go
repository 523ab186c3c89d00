package elasticviews

import (
	"context"
	"fmt"
	"slices"
)

// A placing is where a document is written. Years have it before what is at hand
// does, so that the archive is never behind.
type placing[V any] struct {
	source[V]
	year   int  // that it is written to; 0 is none
	hot    bool // it is written to what is at hand, or else taken from there
	strays []int
}

// store writes documents into a generation, what lies beside them first.
func (g *Generation[V]) store(ctx context.Context, at indices, sources []source[V], repair bool, refused map[string]error) error {
	if err := g.prepare(ctx, at, sources, repair); err != nil {
		return err
	}
	placed, at, err := g.place(ctx, at, sources, repair)
	if err != nil {
		return err
	}
	var first, then []step[V]
	for _, p := range placed {
		if p.year != 0 {
			first = append(first, step[V]{p.source, at.in(p.year), false})
			then = append(then, step[V]{p.source, at, !p.hot})
		} else {
			first = append(first, step[V]{p.source, at, false})
		}
		for _, year := range p.strays {
			then = append(then, step[V]{p.source, at.in(year), true})
		}
	}
	if len(then) > 0 {
		// A refresh between the two would show some in both tiers
		// (TestNothingIsRefreshedWhileADocumentIsInBothTiers).
		g.views.midway.RLock()
		defer g.views.midway.RUnlock()
	}
	if err = g.carry(ctx, first, repair, refused); err != nil {
		return err
	}
	if !g.follows.Load() {
		if then, err = g.needed(ctx, then); err != nil {
			return err
		}
	}
	return g.carry(ctx, then, repair, refused)
}

// A step writes a document to a tier, or takes it from there.
type step[V any] struct {
	source[V]
	at   indices
	away bool
}

// place finds out where documents belong, and leaves out what comes too late for
// the archive to take it.
func (g *Generation[V]) place(ctx context.Context, at indices, sources []source[V], repair bool) ([]placing[V], indices, error) {
	placed := make([]placing[V], len(sources))
	for i, s := range sources {
		placed[i] = placing[V]{source: s, hot: true}
	}
	how := g.views.shape.tiers
	if how == nil || at.tiers.next == never {
		return placed, at, nil
	}
	var elders, missing []int
	before, moving := unstamp(at.tiers.at), unstamp(at.tiers.next)
	for i := range placed {
		p := &placed[i]
		year, leaves := how.archived(p.Body, moving)
		if leaves {
			_, left := how.archived(p.Body, before)
			p.year, p.hot = year, !left
			if !at.tiers.has(year) && !slices.Contains(missing, year) {
				missing = append(missing, year)
			}
		}
		// What was placed after the boundary can't be in the archive.
		if repair || !leaves && stamp(how.placed(p.Body)) < at.tiers.at {
			elders = append(elders, i)
		}
	}
	placed, err := g.elders(ctx, at, placed, elders, repair)
	if err != nil || len(missing) == 0 {
		return placed, at, err
	}
	at.tiers, err = g.views.join(ctx, at.number, missing)
	return placed, at, err
}

// elders looks for documents in the archive that do not say that they belong
// there: those of an earlier revision than what it has came too late.
func (g *Generation[V]) elders(ctx context.Context, at indices, placed []placing[V], which []int, repair bool) ([]placing[V], error) {
	if len(which) == 0 || len(at.tiers.years) == 0 {
		return placed, nil
	}
	var wide []ref
	for _, i := range which {
		for _, year := range at.tiers.years {
			wide = append(wide, ref{at.in(year).of(g.views.shape.kinds[0].name), placed[i].Stream, placed[i].routing})
		}
	}
	docs, err := g.views.db.c.inParts(ctx, "", wide, bare)
	if err != nil {
		return nil, err
	}
	late := map[int]bool{}
	for n, doc := range docs {
		i, year := which[n/len(at.tiers.years)], at.tiers.years[n%len(at.tiers.years)]
		have := uint64(doc.Version) //nolint:gosec // as it was stored
		switch {
		case !doc.Found || year == placed[i].year:
		case have > uint64(placed[i].Revision) || have == uint64(placed[i].Revision) && !repair:
			late[i] = true
		default:
			placed[i].strays = append(placed[i].strays, year)
		}
	}
	var kept []placing[V]
	for i, p := range placed {
		if !late[i] {
			kept = append(kept, p)
		}
	}
	return kept, nil
}

// needed leaves out what is to be taken away and is not there. That goes for a
// generation which nobody but this process writes to: elsewhere the server has to
// be told, so that it turns away whatever is late.
func (g *Generation[V]) needed(ctx context.Context, steps []step[V]) ([]step[V], error) {
	var refs []ref
	var of []int
	for i, s := range steps {
		if s.away {
			refs, of = append(refs, ref{s.at.of(g.views.shape.kinds[0].name), s.Stream, s.routing}), append(of, i)
		}
	}
	docs, err := g.views.db.c.inParts(ctx, "", refs, bare)
	if err != nil {
		return nil, err
	}
	absent := map[int]bool{}
	for n, doc := range docs {
		absent[of[n]] = !doc.Found
	}
	var kept []step[V]
	for i, s := range steps {
		if !absent[i] {
			kept = append(kept, s)
		}
	}
	return kept, nil
}

// carry writes what lies beside documents, and then the documents.
func (g *Generation[V]) carry(ctx context.Context, steps []step[V], repair bool, refused map[string]error) error {
	var ops []op
	for _, s := range steps {
		some, err := g.beside(s, repair)
		if err != nil {
			return err
		}
		ops = append(ops, some...)
	}
	if err := g.carryOut(ctx, ops, refused); err != nil {
		return err
	}
	ops = make([]op, 0, len(steps))
	for _, s := range steps {
		// Without what belongs beside it a document must not be there.
		if _, no := refused[s.Stream]; no {
			continue
		}
		version := uint64(s.Revision)
		o := op{
			action: "index", index: s.at.of(g.views.shape.kinds[0].name), id: s.Stream, routing: s.routing,
			version: &version, same: repair, source: s.raw, owner: s.Stream,
		}
		if s.away {
			o = o.delete()
		}
		ops = append(ops, o)
	}
	return g.carryOut(ctx, ops, refused)
}

func (g *Generation[V]) beside(s step[V], repair bool) ([]op, error) {
	if g.views.shape.beside == nil {
		return nil, nil
	}
	ops, err := g.views.shape.beside(s.at, s.Doc, s.raw, repair)
	if err != nil {
		return nil, fmt.Errorf("encode what belongs to %s: %w", s.Stream, err)
	}
	for i := range ops {
		if s.away {
			ops[i] = ops[i].delete()
		}
	}
	return ops, nil
}

// delete takes away what an op would write, unless what is there is newer.
func (o op) delete() op {
	o.action, o.same, o.source = "delete", true, nil
	return o
}
