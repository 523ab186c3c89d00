package projections

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"cartwright/domain/event"
)

// A loader folds streams in memory and puts each document as late as it can: an
// order whose whole life is in the log is then written once, not once an event.
// It has its streams to itself, but for live events that run ahead of it.
type loader[V any] struct {
	p     *Projector[V]
	limit int // documents in memory
	busy  int // events in documents that were not put yet, at most

	// What was not touched since young began is put and forgotten when young is
	// half of what there may be.
	young, old map[string]*held[V]
	unput      int // events since the last flush

	stuck map[string]*Parked // streams that were parked here, with what waits by now
	grown bool               // one of them
}

// held is a document in memory.
type held[V any] struct {
	Doc[V]
	dirty bool // not put as it is now
}

// putAtOnce is how many documents go into one write.
const putAtOnce = 2000

func newLoader[V any](p *Projector[V], limit int) *loader[V] {
	return &loader[V]{
		p: p, limit: max(2, limit), busy: 20 * max(2, limit), young: map[string]*held[V]{}, stuck: map[string]*Parked{},
	}
}

func (l *loader[V]) take(ctx context.Context, batch []event.Recorded) error {
	if err := l.fetch(ctx, batch); err != nil {
		return err
	}
	for _, r := range batch {
		if err := l.one(ctx, r); err != nil {
			return err
		}
	}
	l.unput += len(batch)
	if l.unput >= l.busy {
		return l.flush(ctx)
	}
	if len(l.young) >= l.limit/2 {
		return l.age(ctx)
	}
	return nil
}

// find gives a stream's document, if it is in memory.
func (l *loader[V]) find(stream string) *held[V] {
	if h := l.young[stream]; h != nil {
		return h
	}
	h := l.old[stream]
	if h != nil {
		delete(l.old, stream)
		l.young[stream] = h
	}
	return h
}

// fetch brings the documents into memory that a batch goes on with.
func (l *loader[V]) fetch(ctx context.Context, batch []event.Recorded) error {
	var ask []string
	asked := map[string]bool{}
	for _, r := range batch {
		if l.stuck[r.Stream] != nil || asked[r.Stream] || l.find(r.Stream) != nil {
			continue
		}
		asked[r.Stream] = true
		if r.Revision == 1 {
			l.young[r.Stream] = &held[V]{Doc: Doc[V]{Stream: r.Stream}}
			continue
		}
		ask = append(ask, r.Stream)
	}
	if len(ask) == 0 {
		return nil
	}
	docs, err := l.p.Views.Get(ctx, ask)
	if err != nil {
		return fmt.Errorf("get %d documents of %s: %w", len(ask), l.p.View.Name, err)
	}
	for _, stream := range ask {
		doc := docs[stream]
		doc.Stream = stream
		l.young[stream] = &held[V]{Doc: doc}
	}
	return nil
}

// one takes the next event of a stream, or what a projector would make of it.
func (l *loader[V]) one(ctx context.Context, r event.Recorded) error {
	if record := l.stuck[r.Stream]; record != nil {
		record.Count = max(record.Count, waiting(record.Revision, []Decoded{{Recorded: r}}))
		l.grown = true
		return nil
	}
	h := l.find(r.Stream)
	was := h.Revision
	doc, poison, err := l.p.advance(ctx, h.Doc, []Decoded{Decode(l.p.Events, r)})
	if err != nil {
		return err
	}
	h.Doc, h.dirty = doc, h.dirty || doc.Revision != was
	if poison == nil {
		return nil
	}
	return l.park(ctx, h, l.p.park(poison, []Decoded{{Recorded: r}}))
}

// park stores a stream's last document, and that there will be no other.
func (l *loader[V]) park(ctx context.Context, h *held[V], record Parked) error {
	delete(l.young, h.Stream)
	var last []Doc[V]
	if h.Revision > 0 {
		last = []Doc[V]{h.Doc}
	}
	l.stuck[h.Stream] = &record
	_, err := l.p.write(ctx, last, []Parked{record})
	return err
}

// age puts what was not touched for long, and forgets it.
func (l *loader[V]) age(ctx context.Context) error {
	if err := l.put(ctx, l.old); err != nil {
		return err
	}
	l.old, l.young = l.young, make(map[string]*held[V], len(l.young))
	return nil
}

// flush puts everything. The documents stay in memory.
func (l *loader[V]) flush(ctx context.Context) error {
	if err := l.put(ctx, l.old); err != nil {
		return err
	}
	if err := l.put(ctx, l.young); err != nil {
		return err
	}
	l.unput = 0
	if !l.grown {
		return nil
	}
	records := make([]Parked, 0, len(l.stuck))
	for _, record := range l.stuck {
		records = append(records, *record)
	}
	l.grown = false
	_, err := l.p.write(ctx, nil, records)
	return err
}

// put writes the documents that changed, in the order of their names, which
// engines take best.
func (l *loader[V]) put(ctx context.Context, documents map[string]*held[V]) error {
	changed := make([]*held[V], 0, len(documents))
	for _, h := range documents {
		if h.dirty {
			changed = append(changed, h)
		}
	}
	slices.SortFunc(changed, func(a, b *held[V]) int { return cmp.Compare(a.Stream, b.Stream) })
	for some := range slices.Chunk(changed, putAtOnce) {
		docs := make([]Doc[V], len(some))
		for i, h := range some {
			docs[i] = h.Doc
		}
		if _, err := l.p.write(ctx, docs, nil); err != nil {
			return err
		}
		for _, h := range some {
			h.Doc, h.dirty = l.p.settled(h.Doc), false
		}
	}
	return nil
}
