package pebblekv

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/bytedance/sonic"
	"github.com/cockroachdb/pebble/v2"

	"cartwright/domain/event"
	"cartwright/projections"
)

// An indexer appends a document's index key, or nothing if it is in no list.
type indexer[V any] func(key []byte, doc projections.Doc[V]) []byte

// A Generation is one whole copy of a view. Its methods may be called concurrently.
type Generation[V any] struct {
	db     *DB
	view   string
	number int
	index  indexer[V] // nil where there is no index

	docs, keys, park []byte // the tables

	writing sync.Mutex // held from reading what is stored to replacing it

	parking atomic.Int32 // whether anything is parked; changed while writing is held

	use     sync.RWMutex // read while a method runs, written to drop the generation
	dropped bool
}

// What parking says. It is asked with every batch and every order that is read.
const (
	parkingUnknown = iota
	parkingNone
	parkingSome
)

// errDropped tells who still uses a generation that it is gone. Readers of the
// live one never see it: they look again which one that is.
var errDropped = errors.New("the generation was dropped")

// hold keeps the generation from being dropped until use is given back.
func (g *Generation[V]) hold(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
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

func newGeneration[V any](v *Views[V], number int) *Generation[V] {
	db, view := v.db, v.name
	return &Generation[V]{
		db: db, view: view, number: number, index: v.index,
		docs: table(tableDocs, view, number), keys: table(tableKeys, view, number), park: table(tablePark, view, number),
	}
}

// Number names the generation.
func (g *Generation[V]) Number() int { return g.number }

// Get gives the documents there are of some streams.
func (g *Generation[V]) Get(ctx context.Context, streams []string) (map[string]projections.Doc[V], error) {
	docs := make(map[string]projections.Doc[V], len(streams))
	err := g.each(ctx, streams, func(stream string, value []byte) error {
		var doc projections.Doc[V]
		err := g.decode(stream, value, &doc)
		docs[stream] = doc
		return err
	})
	return docs, err
}

// Revisions gives the revisions of the documents there are of some streams.
func (g *Generation[V]) Revisions(ctx context.Context, streams []string) (map[string]event.Revision, error) {
	revisions := make(map[string]event.Revision, len(streams))
	err := g.each(ctx, streams, func(stream string, value []byte) error {
		at, _, _, err := decode(value)
		revisions[stream] = at
		return err
	})
	return revisions, err
}

// each calls f with what is stored of those streams that have something; f must
// not keep the value.
func (g *Generation[V]) each(ctx context.Context, streams []string, f func(stream string, value []byte) error) error {
	if err := g.hold(ctx); err != nil {
		return fmt.Errorf("get %d documents of %s: %w", len(streams), g.view, err)
	}
	defer g.use.RUnlock()
	return wrap(g.lookUp(ctx, streams, f), "get %d documents of %s", len(streams), g.view)
}

func (g *Generation[V]) lookUp(ctx context.Context, streams []string, f func(stream string, value []byte) error) error {
	s, err := g.seek(ctx)
	if err != nil {
		return err
	}
	if len(streams) > 1 {
		streams = slices.Sorted(slices.Values(streams))
	}
	for _, stream := range streams {
		value, found, again := s.find(stream)
		if err = again; err == nil && found {
			err = f(stream, value)
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", stream, err)
			break
		}
	}
	return errors.Join(err, s.close())
}

// A seeker looks streams up, quickest in their order.
type seeker struct {
	it  *pebble.Iterator
	key []byte // the table, and room for a stream
	n   int    // of it, the table
}

// all are the documents, for an iterator. It asks the filters of the lowest level,
// too, which Pebble leaves out where it is not told: most of what is asked for is
// new, and the lowest level has nearly everything there is.
func (g *Generation[V]) all() *pebble.IterOptions {
	return &pebble.IterOptions{LowerBound: g.docs, UpperBound: end(g.docs), UseL6Filters: true}
}

func (g *Generation[V]) seek(ctx context.Context) (*seeker, error) {
	it, err := g.db.kv.NewIterWithContext(ctx, g.all())
	if err != nil {
		return nil, err
	}
	return g.seeker(it), nil
}

func (g *Generation[V]) seeker(it *pebble.Iterator) *seeker {
	return &seeker{it: it, key: slices.Clone(g.docs), n: len(g.docs)}
}

// find gives what stands until the next one is looked for.
func (s *seeker) find(stream string) (value []byte, found bool, err error) {
	s.key = append(s.key[:s.n], stream...)
	if !s.it.SeekPrefixGE(s.key) {
		return nil, false, s.it.Error()
	}
	value, err = s.it.ValueAndErr()
	return value, err == nil, err
}

func (s *seeker) close() error { return s.it.Close() }

// asStored reads the documents that Put wrote. Their texts are parts of one copy of
// the document, and not a copy each.
var asStored = sonic.Config{ValidateString: true}.Froze()

// decode keeps nothing of the value.
func (g *Generation[V]) decode(stream string, value []byte, doc *projections.Doc[V]) error {
	at, _, body, err := decode(value)
	if err != nil {
		return err
	}
	doc.Stream, doc.Revision = stream, at
	if err := asStored.Unmarshal(body, &doc.Body); err != nil {
		return fmt.Errorf("decode the document: %w", err)
	}
	return nil
}

// Put stores documents in one commit, each unless one of the same or a later
// revision is there.
func (g *Generation[V]) Put(ctx context.Context, docs []projections.Doc[V]) error {
	return g.put(ctx, docs, false)
}

// Repair stores documents over those of the same revision too. It is for a
// verification that found them wrong.
func (g *Generation[V]) Repair(ctx context.Context, docs []projections.Doc[V]) error {
	return g.put(ctx, docs, true)
}

func (g *Generation[V]) put(ctx context.Context, docs []projections.Doc[V], repair bool) error {
	if err := g.hold(ctx); err != nil {
		return fmt.Errorf("put %d documents of %s: %w", len(docs), g.view, err)
	}
	defer g.use.RUnlock()
	docs = projections.Newest(docs)
	slices.SortFunc(docs, func(a, b projections.Doc[V]) int { return strings.Compare(a.Stream, b.Stream) })
	buffer := g.db.buffer()
	defer g.db.buffers.Put(buffer)
	rows, err := g.encode(docs, buffer)
	if err != nil {
		return err
	}
	g.writing.Lock()
	defer g.writing.Unlock()
	batch := g.db.kv.NewBatchWithSize(buffer.Len() + 192*len(rows)) // with keys
	if err := g.replace(ctx, batch, rows, repair); err != nil {
		_ = batch.Close() // nothing of it was written
		return fmt.Errorf("put %d documents of %s: %w", len(docs), g.view, err)
	}
	return wrap(batch.Commit(pebble.NoSync), "put %d documents of %s", len(docs), g.view)
}

// A row is a document as it is stored. Index and value are parts of a buffer.
type row struct {
	stream       string
	revision     event.Revision
	index, value []byte
}

// encode writes documents one behind the other into a buffer.
func (g *Generation[V]) encode(docs []projections.Doc[V], to *bytes.Buffer) ([]row, error) {
	rows, ends := make([]row, len(docs)), make([]int, len(docs))
	body := json.NewEncoder(to)
	var index []byte
	for i, doc := range docs {
		if g.index != nil {
			index = g.index(index[:0], doc)
		}
		head(to, doc.Revision, index)
		if err := body.Encode(doc.Body); err != nil {
			return nil, fmt.Errorf("encode %s for %s: %w", doc.Stream, g.view, err)
		}
		to.Truncate(to.Len() - 1) // the line's end
		ends[i] = to.Len()
	}
	all, from := to.Bytes(), 0 // which the buffer moves no more
	for i, doc := range docs {
		value := all[from:ends[i]]
		_, was, _, err := decode(value)
		if err != nil {
			return nil, fmt.Errorf("encode %s for %s: %w", doc.Stream, g.view, err)
		}
		rows[i] = row{stream: doc.Stream, revision: doc.Revision, index: was, value: value}
		from = ends[i]
	}
	return rows, nil
}

// replace puts rows and their index entries in the place of older ones.
func (g *Generation[V]) replace(ctx context.Context, batch *pebble.Batch, rows []row, repair bool) error {
	s, err := g.seek(ctx)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if err = g.replaceOne(batch, s, r, repair); err != nil {
			err = fmt.Errorf("%s: %w", r.stream, err)
			break
		}
	}
	return errors.Join(err, s.close())
}

func (g *Generation[V]) replaceOne(batch *pebble.Batch, s *seeker, r row, repair bool) error {
	old, found, err := s.find(r.stream)
	if err != nil {
		return err
	}
	var was []byte // the entry of the document that stands
	if found {
		have, entry, _, err := decode(old)
		if err != nil || r.revision < have || r.revision == have && !repair {
			return err
		}
		was = entry
	}
	if len(was) > 0 && !bytes.Equal(was, r.index) {
		if err := batch.Delete(under(g.keys, was), nil); err != nil {
			return err
		}
	}
	if len(r.index) > 0 && (repair || !bytes.Equal(was, r.index)) {
		if err := batch.Set(under(g.keys, r.index), []byte(r.stream), nil); err != nil {
			return err
		}
	}
	return batch.Set(s.key, r.value, nil)
}

// Count is how many documents there are.
func (g *Generation[V]) Count(ctx context.Context) (int64, error) {
	var n int64
	err := g.walk(ctx, g.docs, nil, func(_, _ []byte) (bool, error) {
		n++
		return true, nil
	})
	return n, err
}

// Streams gives the next names of those that have documents, in order.
func (g *Generation[V]) Streams(ctx context.Context, after string, limit int) ([]string, error) {
	streams := make([]string, 0, limit)
	err := g.walk(ctx, g.docs, []byte(after), func(key, _ []byte) (bool, error) {
		if stream := string(key); stream != after {
			streams = append(streams, stream)
		}
		return len(streams) < limit, nil
	})
	return streams, err
}

// Parked gives those of some streams that are parked.
func (g *Generation[V]) Parked(ctx context.Context, streams []string) (map[string]projections.Parked, error) {
	if err := g.hold(ctx); err != nil {
		return nil, fmt.Errorf("look for parked streams of %s: %w", g.view, err)
	}
	defer g.use.RUnlock()
	some, err := g.anyParked()
	if err != nil || !some {
		return nil, err
	}
	parked := map[string]projections.Parked{}
	for _, stream := range streams {
		record, found, err := g.parked(stream)
		if err != nil {
			return nil, err
		}
		if found {
			parked[stream] = record
		}
	}
	return parked, nil
}

// anyParked spares the usual batch, in a view with nothing parked, one look a stream.
func (g *Generation[V]) anyParked() (bool, error) {
	if known := g.parking.Load(); known != parkingUnknown {
		return known == parkingSome, nil
	}
	g.writing.Lock()
	defer g.writing.Unlock()
	it, err := g.db.kv.NewIter(&pebble.IterOptions{LowerBound: g.park, UpperBound: end(g.park)})
	if err != nil {
		return false, fmt.Errorf("look for parked streams of %s: %w", g.view, err)
	}
	some := it.First()
	if err := it.Close(); err != nil {
		return false, fmt.Errorf("look for parked streams of %s: %w", g.view, err)
	}
	g.parking.Store(parkingNone)
	if some {
		g.parking.Store(parkingSome)
	}
	return some, nil
}

func (g *Generation[V]) parked(stream string) (record projections.Parked, found bool, err error) {
	raw, found, err := g.db.get(under(g.park, []byte(stream)))
	if err != nil || !found {
		return record, false, wrap(err, "get the parking record of %s in %s", stream, g.view)
	}
	err = json.Unmarshal(raw, &record)
	return record, true, wrap(err, "decode the parking record of %s in %s", stream, g.view)
}

// AllParked gives all records, by stream.
func (g *Generation[V]) AllParked(ctx context.Context) ([]projections.Parked, error) {
	var all []projections.Parked
	err := g.walk(ctx, g.park, nil, func(_, value []byte) (bool, error) {
		var record projections.Parked
		err := json.Unmarshal(value, &record)
		all = append(all, record)
		return true, err
	})
	return all, err
}

// Park parks streams, or says more of those that are.
func (g *Generation[V]) Park(ctx context.Context, records []projections.Parked) error {
	if err := g.hold(ctx); err != nil {
		return fmt.Errorf("park %d streams of %s: %w", len(records), g.view, err)
	}
	defer g.use.RUnlock()
	g.writing.Lock()
	defer g.writing.Unlock()
	batch := g.db.kv.NewBatch()
	for _, record := range records {
		if err := g.parkOne(batch, record); err != nil {
			_ = batch.Close() // nothing of it was written
			return err
		}
	}
	g.parking.Store(parkingSome) // first, so that who sees the record looks for it
	return wrap(batch.Commit(pebble.NoSync), "park %d streams of %s", len(records), g.view)
}

func (g *Generation[V]) parkOne(batch *pebble.Batch, record projections.Parked) error {
	before, found, err := g.parked(record.Stream)
	if err != nil || found && !record.Supersedes(before) {
		return err
	}
	if found {
		record = record.Onto(before)
	}
	raw, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encode the parking record of %s in %s: %w", record.Stream, g.view, err)
	}
	return wrap(batch.Set(under(g.park, []byte(record.Stream)), raw, nil), "park %s in %s", record.Stream, g.view)
}

// Unpark forgets records.
func (g *Generation[V]) Unpark(ctx context.Context, streams []string) error {
	if err := g.hold(ctx); err != nil {
		return fmt.Errorf("unpark %d streams of %s: %w", len(streams), g.view, err)
	}
	defer g.use.RUnlock()
	g.writing.Lock()
	defer g.writing.Unlock()
	batch := g.db.kv.NewBatch()
	for _, stream := range streams {
		if err := batch.Delete(under(g.park, []byte(stream)), nil); err != nil {
			_ = batch.Close() // nothing of it was written
			return fmt.Errorf("unpark %s in %s: %w", stream, g.view, err)
		}
	}
	err := batch.Commit(pebble.NoSync)
	g.parking.Store(parkingUnknown)
	return wrap(err, "unpark %d streams of %s", len(streams), g.view)
}

// walk calls f with the keys of a table, without its prefix, and their values,
// in order, until f says stop. Neither may be kept.
func (g *Generation[V]) walk(ctx context.Context, prefix, from []byte, f func(key, value []byte) (more bool, err error)) error {
	if err := g.hold(ctx); err != nil {
		return fmt.Errorf("read %s: %w", g.view, err)
	}
	defer g.use.RUnlock()
	it, err := g.db.kv.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: under(prefix, from), UpperBound: end(prefix)})
	if err != nil {
		return fmt.Errorf("read %s: %w", g.view, err)
	}
	more := true
	for ok := it.First(); ok && more && err == nil; ok = it.Next() {
		if err = ctx.Err(); err == nil {
			more, err = f(it.Key()[len(prefix):], it.Value())
		}
	}
	if closeErr := it.Close(); err == nil {
		err = closeErr
	}
	return wrap(err, "read %s", g.view)
}
