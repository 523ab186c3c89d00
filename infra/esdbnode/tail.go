package esdbnode

import "sync"

// tail keeps the newest events in memory, so that readers at the end of the log
// touch no disk. It is bounded in events and in bytes; who is behind it reads
// from disk.
type tail struct {
	maxBytes int

	mu    sync.RWMutex
	ring  []record // the record of a position is at position % len(ring)
	first uint64   // the oldest position kept
	end   uint64   // the newest one committed, 0 in an empty log
	bytes int
	grown chan struct{} // closed when end moves
}

func newTail(events, bytes int, end uint64) *tail {
	return &tail{ring: make([]record, events), maxBytes: bytes, first: end + 1, end: end, grown: make(chan struct{})}
}

func (r *record) footprint() int { return len(r.stream) + len(r.kind) + len(r.meta) + len(r.data) }

// push adds committed events and wakes all who wait for them.
func (t *tail) push(records []record) {
	if len(records) == 0 {
		return
	}
	t.mu.Lock()
	size := uint64(len(t.ring))
	for i := range records {
		for t.first+size <= records[i].position || t.bytes > t.maxBytes && t.first <= t.end {
			t.drop()
		}
		t.ring[records[i].position%size] = records[i]
		t.bytes += records[i].footprint()
		t.end = records[i].position
	}
	grown := t.grown
	t.grown = make(chan struct{})
	t.mu.Unlock()
	close(grown)
}

func (t *tail) drop() {
	slot := &t.ring[t.first%uint64(len(t.ring))]
	t.bytes -= slot.footprint()
	*slot = record{}
	t.first++
}

// from copies events from a position on into buf. ok is false if the position
// is older than what is kept. grown closes when there is more than end.
func (t *tail) from(position uint64, buf []record) (n int, end uint64, grown <-chan struct{}, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if position < t.first && position <= t.end {
		return 0, t.end, t.grown, false
	}
	for ; n < len(buf) && position <= t.end; position++ {
		if r := &t.ring[position%uint64(len(t.ring))]; r.position == position { // else it is gone
			buf[n] = *r
			n++
		}
	}
	return n, t.end, t.grown, true
}

// forget lets go of events that were thrown away.
func (t *tail) forget(positions []uint64) {
	if len(positions) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, at := range positions {
		if slot := &t.ring[at%uint64(len(t.ring))]; slot.position == at {
			t.bytes -= slot.footprint()
			*slot = record{}
		}
	}
}

// get gives the event at a position, if it is kept.
func (t *tail) get(position uint64) (record, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if position < t.first || position > t.end {
		return record{}, false
	}
	r := t.ring[position%uint64(len(t.ring))]
	return r, r.position == position
}

// last is the position of the newest committed event, 0 in an empty log.
func (t *tail) last() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.end
}
