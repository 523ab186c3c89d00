package esdbnode

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/uuid"
)

var (
	errClosing = errors.New("node is closing")
	errBroken  = errors.New("node failed to write and must be opened again")
)

// maxCommit is the size at which a commit takes no more requests.
const maxCommit = 4 << 20

type op int

const (
	opAppend op = iota
	opDelete
	opTombstone
	opSweep // throws away what is not shown
)

// A proposal is an event that asks to be stored.
type proposal struct {
	id   [16]byte
	json bool
	kind string
	meta string
	data string
}

func (p *proposal) size() int { return len(p.data) + len(p.meta) + 2*len(p.kind) }

// A write is one request to the writer. The writer sets the outcome and then
// closes done; nobody else touches it in between.
type write struct {
	op     op
	stream string
	expect expectation
	events []proposal
	size   int

	done chan struct{}
	out  outcome
}

// An outcome is what became of a write.
type outcome struct {
	verdict  verdict
	events   uint64 // how many the stream has after this write, or had after the one it repeats; when refused, has now
	position uint64 // of the last event written; 0 when there is none
	swept    int    // how many events were thrown away
	more     bool   // there are more to throw away
	err      error  // nothing is known of what became of it
}

// queue is where writes wait for the next commit.
type queue struct {
	mu      sync.Mutex
	waiting []*write
	closed  error         // why nothing more is taken
	ready   chan struct{} // holds one token while there is something to do
}

func (q *queue) put(w *write) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed != nil {
		return q.closed
	}
	q.waiting = append(q.waiting, w)
	q.signal()
	return nil
}

// signal must be called with mu held.
func (q *queue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// close refuses whatever comes from now on; what waits is still done.
func (q *queue) close(why error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed == nil {
		q.closed = why
	}
	q.signal()
}

// take gives the writes of the next commit in into, and whether more will come.
func (q *queue) take(into []*write) (next []*write, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.waiting) && size < maxCommit {
		size += q.waiting[n].size
		n++
	}
	into = append(into, q.waiting[:n]...)
	left := copy(q.waiting, q.waiting[n:])
	clear(q.waiting[left:])
	q.waiting = q.waiting[:left]
	if left > 0 {
		q.signal()
	}
	return into, q.closed == nil || left > 0
}

// do hands a write to the writer and waits for its outcome. After an error the
// write may or may not have been done.
func (s *store) do(ctx context.Context, w *write) (outcome, error) {
	w.done = make(chan struct{})
	if err := s.queue.put(w); err != nil {
		return outcome{}, err
	}
	select {
	case <-w.done:
		return w.out, w.out.err
	case <-ctx.Done():
		return outcome{}, ctx.Err()
	}
}

// write is the writer: the one goroutine that changes the log. It takes
// whatever has queued up meanwhile and makes one durable commit of it.
func (s *store) write() {
	defer close(s.written)
	var next []*write
	for more := true; more; {
		<-s.queue.ready
		next, more = s.queue.take(next[:0])
		if len(next) == 0 {
			continue
		}
		if err := s.commit(next); err != nil {
			s.log.Error("commit failed, the node takes no more appends", "err", err)
			s.queue.close(fmt.Errorf("%w: %w", errBroken, err))
			for _, w := range next {
				w.out.err = err
			}
			s.broken = true
		}
		for i, w := range next {
			close(w.done)
			next[i] = nil
		}
	}
}

// commit does all of the writes and makes them durable before it returns. An
// answer may rest on what another write of the same batch has done, so no write
// has an outcome before all are on disk.
func (s *store) commit(writes []*write) error {
	if s.broken {
		return errBroken
	}
	tx := s.begin()
	defer func() { _ = tx.out.Close() }()
	for _, w := range writes {
		w.out.err = tx.apply(w) // it fails before it has changed anything
	}
	if len(tx.records)+len(tx.gone) == 0 {
		s.heads.settle(tx.heads)
		return nil
	}
	if err := tx.putAll(); err != nil {
		return err
	}
	s.heads.pin(tx.heads)
	if err := tx.out.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("commit %d events: %w", len(tx.records), err)
	}
	s.heads.settle(tx.heads)
	s.tail.forget(tx.gone)
	s.tail.push(tx.records)
	return nil
}

// A batch is one commit in the making.
type batch struct {
	store   *store
	out     *pebble.Batch
	created int64
	records []record
	gone    []uint64 // the positions of events that this batch throws away
	heads   map[string]*change
}

// A change is a stream's head before and after this batch.
type change struct{ was, now head }

// begin gives an empty batch. It reuses the memory of the one before.
func (s *store) begin() *batch {
	tx := &s.tx
	clear(tx.records)
	clear(tx.heads)
	tx.records, tx.gone = tx.records[:0], tx.gone[:0]
	tx.store, tx.out = s, s.db.NewBatch()
	tx.created = s.now().UnixNano() / 100
	return tx
}

// head gives the head of a stream as this batch has left it so far.
func (tx *batch) head(stream string) (*head, error) {
	if c, ok := tx.heads[stream]; ok {
		return &c.now, nil
	}
	h, err := tx.store.heads.committed(stream)
	if err != nil {
		return nil, err
	}
	c := &change{was: h, now: h}
	tx.heads[stream] = c
	return &c.now, nil
}

// event gives an event of a stream, this batch's included.
func (tx *batch) event(stream string, number uint64) (record, bool, error) {
	for i := range tx.records {
		if r := &tx.records[i]; r.number == number && r.stream == stream {
			return *r, true, nil
		}
	}
	return tx.store.event(stream, number)
}

// apply decides one write and adds what it causes to the batch.
func (tx *batch) apply(w *write) error {
	if w.op == opSweep {
		return tx.sweep(w.stream, &w.out)
	}
	h, err := tx.head(w.stream)
	if err != nil {
		return err
	}
	ended, err := tx.parentEnded(w.stream)
	if err != nil || ended {
		w.out.verdict = deleted
		return err
	}
	v, events, position, err := tx.check(w, *h)
	if err != nil {
		return err
	}
	w.out = outcome{verdict: v, events: h.events, position: h.position}
	switch v {
	case accepted:
		return tx.accept(w, h)
	case repeated:
		w.out.events, w.out.position = events, position
	case wrongVersion, deleted:
	}
	return nil
}

// parentEnded tells of a metadata stream whether its stream has a tombstone.
func (tx *batch) parentEnded(stream string) (bool, error) {
	parent, ok := strings.CutPrefix(stream, metaPrefix)
	if !ok {
		return false, nil
	}
	h, err := tx.head(parent)
	if err != nil {
		return false, err
	}
	return h.tombstone, nil
}

func (tx *batch) accept(w *write, h *head) error {
	switch w.op {
	case opDelete:
		return tx.truncate(w.stream, truncatedAll, &w.out)
	case opTombstone:
		tx.bury(w.stream, h)
		w.out.position = h.position
		return nil
	case opAppend, opSweep:
	}
	if len(w.events) > 0 && h.softDeleted() {
		if err := tx.truncate(w.stream, h.events, &w.out); err != nil {
			return err
		}
	}
	for i := range w.events {
		tx.add(w.stream, h, &w.events[i])
		if !w.expect.exact() {
			tx.store.recent.put(&tx.records[len(tx.records)-1])
		}
	}
	w.out.events, w.out.position = h.events, h.position
	return tx.readMetadata(w)
}

// add appends one event to a stream.
func (tx *batch) add(stream string, h *head, p *proposal) {
	tx.records = append(tx.records, record{
		position: tx.next(), number: h.events, created: tx.created,
		id: p.id, json: p.json, stream: stream, kind: p.kind, meta: p.meta, data: p.data,
	})
	h.events++
	h.position = tx.records[len(tx.records)-1].position
}

func (tx *batch) next() uint64 {
	if n := len(tx.records); n > 0 {
		return tx.records[n-1].position + 1
	}
	return tx.store.tail.last() + 1
}

// bury ends a stream for ever.
func (tx *batch) bury(stream string, h *head) {
	tx.records = append(tx.records, record{
		position: tx.next(), number: tombstoneNumber, created: tx.created,
		id: uuid.New(), stream: stream, kind: typeTombstone,
	})
	h.tombstone = true
	h.position = tx.records[len(tx.records)-1].position
}

// truncate writes metadata that hides the events of a stream before a number.
func (tx *batch) truncate(stream string, before uint64, out *outcome) error {
	meta := metaPrefix + stream
	h, err := tx.head(meta)
	if err != nil {
		return err
	}
	data := ""
	if h.events > 0 {
		last, ok, err := tx.event(meta, h.events-1)
		if err != nil {
			return err
		}
		if ok {
			data = last.data
		}
	}
	p := proposal{id: uuid.New(), json: true, kind: typeMetadata, data: withTruncateBefore(data, before)}
	tx.add(meta, h, &p)
	out.position = h.position
	return tx.limit(stream, p.data)
}

// readMetadata lets an append to a metadata stream take effect on its stream.
func (tx *batch) readMetadata(w *write) error {
	stream, ok := strings.CutPrefix(w.stream, metaPrefix)
	if !ok || len(w.events) == 0 {
		return nil
	}
	return tx.limit(stream, w.events[len(w.events)-1].data)
}

func (tx *batch) limit(stream, metadata string) error {
	h, err := tx.head(stream)
	if err != nil {
		return err
	}
	h.limits = parseLimits(metadata)
	return nil
}

// putAll encodes the batch straight into Pebble's own.
func (tx *batch) putAll() error {
	for i := range tx.records {
		if err := tx.putRecord(&tx.records[i]); err != nil {
			return err
		}
	}
	var b []byte
	for stream, c := range tx.heads {
		if c.now == c.was {
			continue
		}
		b = appendHead(b[:0], c.now)
		if err := tx.out.Set(headKey(stream), b, nil); err != nil {
			return fmt.Errorf("head of %s: %w", stream, err)
		}
	}
	return nil
}

func (tx *batch) putRecord(r *record) error {
	e := tx.out.SetDeferred(eventKeyLen, frameSize(r))
	putEventKey(e.Key, r.position)
	putFrame(e.Value, r)
	if err := e.Finish(); err != nil {
		return fmt.Errorf("event %d: %w", r.position, err)
	}
	x := tx.out.SetDeferred(indexKeyLen(r.stream), 8)
	putIndexKey(x.Key, r.stream, r.number)
	putPosition(x.Value, r.position)
	if err := x.Finish(); err != nil {
		return fmt.Errorf("index of event %d: %w", r.position, err)
	}
	return nil
}
