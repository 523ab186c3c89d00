package esdbnode

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/uuid"
)

var (
	errClosing = errors.New("node is closing")
	errBroken  = errors.New("node failed to write and must be opened again")
	errBusy    = errors.New("server is too busy: too much waits to be written")
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
// sends the write to done; nobody else touches it in between.
type write struct {
	op     op
	stream string
	expect expectation
	events []proposal
	size   int

	batch *batchAppend  // whose write it is, nil when it is none of a BatchAppend call
	done  chan<- *write // has room for all that may be sent to it: the writer waits for nobody
	out   outcome
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

// maxWaiting is how many bytes of events may wait for the writer. Past it the
// disk is slower than what comes in, and memory is not where to keep that.
const maxWaiting = 64 << 20

// queue is where writes wait for the next commit.
type queue struct {
	mu      sync.Mutex
	waiting []*write
	size    int           // of what waits
	closed  error         // why nothing more is taken
	ready   chan struct{} // holds one token while there is something to do

	waited  time.Time   // since when the first of them waits
	taken   int         // how many more were taken and not answered
	takenAt []time.Time // since when the first of each batch of those waits
}

func (q *queue) put(w *write) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed != nil:
		return q.closed
	case q.size > maxWaiting:
		return errBusy
	}
	if len(q.waiting) == 0 {
		q.waited = time.Now()
	}
	q.waiting = append(q.waiting, w)
	q.size += w.size
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

// take gives what waits, as far as there is room for it, in into, and whether
// more will come.
func (q *queue) take(into []*write, room int, first bool) (next []*write, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for n < len(q.waiting) && room > 0 {
		room -= q.waiting[n].size
		q.size -= q.waiting[n].size
		n++
	}
	if q.taken += n; first && n > 0 {
		q.takenAt = append(q.takenAt, q.waited)
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

// answered says that the oldest batch of those that were taken is over.
func (q *queue) answered(writes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken -= writes
	q.takenAt = slices.Delete(q.takenAt, 0, 1)
}

// put hands a write to the writer, which sends it to its done channel.
func (s *store) put(w *write) error {
	if err := s.room.refuses(w.op); err != nil {
		return err
	}
	return s.queue.put(w)
}

// do hands a write to the writer and waits for its outcome. After an error the
// write may or may not have been done.
func (s *store) do(ctx context.Context, w *write) (outcome, error) {
	full := s.room.filled()
	done := make(chan *write, 1)
	w.done = done
	if err := s.put(w); err != nil {
		return outcome{}, err
	}
	select {
	case <-done:
		return w.out, w.out.err
	case <-full:
		return outcome{}, errFull
	case <-ctx.Done():
		return outcome{}, ctx.Err()
	}
}

// A writer is the one goroutine that changes the log. While one commit is being
// made durable it decides what comes next, and fills the commit that follows.
type writer struct {
	store *store
	tx    *batch      // being filled
	sent  *batch      // applied and not known to be on disk; nil when there is none
	spare chan *batch // those that are not in use
	next  []*write

	launched chan *batch   // to settle
	settled  chan struct{} // a token for each that is on disk
}

// batchesInUse: one is filled, one is on its way to the disk, and of one the
// writes are being told of their outcome.
const batchesInUse = 3

// write runs the writer until the queue is closed and empty.
func (s *store) write() {
	defer close(s.written)
	w := &writer{
		store: s, spare: make(chan *batch, batchesInUse),
		launched: make(chan *batch, 1), settled: make(chan struct{}, 1),
	}
	for range batchesInUse {
		w.spare <- &batch{store: s, heads: map[string]*change{}}
	}
	w.begin()
	var settling sync.WaitGroup
	settling.Go(w.settle)
	w.run()
	close(w.launched)
	settling.Wait()
	_ = w.tx.out.Close() // it is empty
}

func (w *writer) run() {
	for more := true; more || w.sent != nil; {
		ready := w.store.queue.ready
		if !more || w.tx.size >= maxCommit {
			ready = nil
		}
		select {
		case <-ready:
			more = w.take()
		case <-w.settled:
			w.sent = nil
		}
		if w.sent == nil && len(w.tx.writes) > 0 {
			if more {
				runtime.Gosched() // who is about to append does so now, and shares the fsync
				more = w.take()
			}
			w.launch()
		}
	}
}

// take decides all that waits, as far as there is room.
func (w *writer) take() (more bool) {
	w.next, more = w.store.queue.take(w.next[:0], maxCommit-w.tx.size, len(w.tx.writes) == 0)
	for i, wr := range w.next {
		w.decide(wr)
		w.next[i] = nil
	}
	return more
}

// begin takes a spare batch to fill. It uses the memory of an earlier one again.
func (w *writer) begin() {
	tx := <-w.spare
	clear(tx.writes)
	clear(tx.records)
	clear(tx.heads)
	tx.writes, tx.records, tx.gone = tx.writes[:0], tx.records[:0], tx.gone[:0]
	tx.size, tx.put, tx.err = 0, 0, nil
	tx.before, tx.out = w.sent, w.store.db.NewBatch()
	w.tx = tx
}

// decide adds a write to the batch being filled, and what it causes.
func (w *writer) decide(wr *write) {
	tx := w.tx
	if len(tx.writes) == 0 {
		tx.created = w.store.now().UnixNano() / 100
	}
	tx.before = w.sent
	tx.writes = append(tx.writes, wr)
	tx.size += wr.size
	wr.out.err = tx.apply(wr) // it fails before it has changed anything
	if tx.err == nil {
		tx.err = tx.putRecords()
	}
}

// launch sends the batch on its way to the disk, and begins the next.
func (w *writer) launch() {
	tx := w.tx
	tx.before = nil // it has settled
	tx.synced = len(tx.records)+len(tx.gone) == 0
	if w.store.broken != nil {
		tx.err = w.store.broken
	}
	if tx.err == nil && !tx.synced {
		tx.err = w.apply(tx)
	}
	w.sent = tx
	w.launched <- tx
	w.begin()
}

func (w *writer) apply(tx *batch) error {
	if err := tx.putAll(); err != nil {
		return err
	}
	w.store.heads.pin(tx.heads)
	tx.began, tx.bytes = time.Now(), tx.out.Len()
	if err := w.store.db.ApplyNoSyncWait(tx.out, pebble.Sync); err != nil {
		return fmt.Errorf("commit %d events: %w", len(tx.records), err)
	}
	return nil
}

// settle waits for each batch to be on disk, shows it to readers, lets the
// writer go on, and tells the writes. An answer may rest on what another write
// of the same batch or of the one before has done, so no write has an outcome
// before all of that is on disk.
func (w *writer) settle() {
	for tx := range w.launched {
		if tx.err == nil && !tx.synced {
			if err := tx.out.SyncWait(); err != nil { // Pebble leaves this one to us
				pebbleLog{w.store.log}.Fatalf("pebble: fatal commit error: %v", err)
			}
		}
		w.store.show(tx)
		w.settled <- struct{}{}
		w.store.queue.answered(len(tx.writes))
		for _, wr := range tx.writes {
			if tx.err != nil {
				wr.out.err = tx.err
			}
			w.store.meters.decide(wr)
			wr.done <- wr
		}
		_ = tx.out.Close()
		w.spare <- tx
	}
}

// show lets readers see a batch that is on disk. One that failed ends all
// writing: what Pebble has of it in memory is not what is on disk.
func (s *store) show(tx *batch) {
	if tx.err != nil {
		if s.broken == nil {
			s.log.Error("commit failed, the node takes no more appends", "err", tx.err)
			s.broken = fmt.Errorf("%w: %w", errBroken, tx.err)
			s.queue.close(s.broken)
		}
		return
	}
	s.heads.settle(tx.heads)
	s.tail.forget(tx.gone)
	s.tail.push(tx.records)
	if !tx.synced {
		s.meters.committed(len(tx.writes), len(tx.records), tx.bytes, time.Since(tx.began))
	}
}

// A batch is one commit in the making.
type batch struct {
	store   *store
	out     *pebble.Batch
	created int64
	writes  []*write
	size    int // of their events
	records []record
	put     int      // how many of them out has
	gone    []uint64 // the positions of events that this batch throws away
	heads   map[string]*change

	before *batch // is on its way to the disk; nil when there is none
	synced bool   // there is nothing in it that must get to the disk

	began time.Time // when it was sent to the disk
	bytes int       // that were sent
	err   error
}

// A change is a stream's head before and after this batch.
type change struct{ was, now head }

// head gives the head of a stream as this batch has left it so far.
func (tx *batch) head(stream string) (*head, error) {
	if c, ok := tx.heads[stream]; ok {
		return &c.now, nil
	}
	h, err := tx.headBefore(stream)
	if err != nil {
		return nil, err
	}
	c := &change{was: h, now: h}
	tx.heads[stream] = c
	return &c.now, nil
}

func (tx *batch) headBefore(stream string) (head, error) {
	if tx.before != nil {
		if c, ok := tx.before.heads[stream]; ok {
			return c.now, nil
		}
	}
	return tx.store.heads.committed(stream)
}

// event gives an event of a stream, this batch's included.
func (tx *batch) event(stream string, number uint64) (record, bool, error) {
	for at := tx; at != nil; at = at.before {
		for i := range at.records {
			if r := &at.records[i]; r.number == number && r.stream == stream {
				return *r, true, nil
			}
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
		return tx.describe(w.stream, withTruncateBefore("", truncatedAll), &w.out) // what else it said goes too
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
		tx.store.recent.put(&tx.records[len(tx.records)-1])
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
	for at := tx; at != nil; at = at.before {
		if n := len(at.records); n > 0 {
			return at.records[n-1].position + 1
		}
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
	return tx.describe(stream, withTruncateBefore(data, before), out)
}

// describe writes metadata of the node's own.
func (tx *batch) describe(stream, metadata string, out *outcome) error {
	h, err := tx.head(metaPrefix + stream)
	if err != nil {
		return err
	}
	tx.add(metaPrefix+stream, h, &proposal{id: uuid.New(), json: true, kind: typeMetadata, data: metadata})
	out.position = h.position
	return tx.limit(stream, metadata)
}

// readMetadata lets an append to a metadata stream take effect on its stream. A
// stream that was deleted comes back by it, without what was deleted.
func (tx *batch) readMetadata(w *write) error {
	stream, ok := strings.CutPrefix(w.stream, metaPrefix)
	if !ok || len(w.events) == 0 {
		return nil
	}
	h, err := tx.head(stream)
	if err != nil {
		return err
	}
	deleted := h.softDeleted()
	last := &w.events[len(w.events)-1]
	if err := tx.limit(stream, last.limiting()); err != nil || !deleted {
		return err
	}
	if _, ok := parseObject(last.data); !ok {
		return nil
	}
	return tx.truncate(stream, h.events, new(outcome))
}

func (tx *batch) limit(stream, metadata string) error {
	h, err := tx.head(stream)
	if err != nil {
		return err
	}
	h.limits = parseLimits(metadata)
	return nil
}

// putRecords encodes the records that are new straight into Pebble's batch.
func (tx *batch) putRecords() error {
	for ; tx.put < len(tx.records); tx.put++ {
		if err := tx.putRecord(&tx.records[tx.put]); err != nil {
			return err
		}
	}
	return nil
}

// putAll puts what is left of the batch into Pebble's.
func (tx *batch) putAll() error {
	if err := tx.putRecords(); err != nil {
		return err
	}
	for i := range tx.records {
		if err := tx.putIndex(&tx.records[i]); err != nil {
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
	return nil
}

// putIndex says where in its stream an event stands. All of these come behind all
// events: Pebble's memtable finds the place of a key fast that follows the one before.
func (tx *batch) putIndex(r *record) error {
	x := tx.out.SetDeferred(indexKeyLen(r.stream), 8)
	putIndexKey(x.Key, r.stream, r.number)
	putPosition(x.Value, r.position)
	if err := x.Finish(); err != nil {
		return fmt.Errorf("index of event %d: %w", r.position, err)
	}
	return nil
}
