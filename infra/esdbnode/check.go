package esdbnode

import (
	"math"
	"strconv"
)

// An expectation is what an append says about the stream it goes to.
type expectation struct {
	kind   expectKind
	number uint64 // of the last event, for expectNumber
}

type expectKind int

const (
	expectAny expectKind = iota
	expectNoStream
	expectExists
	expectNumber
)

// events is how many events a stream has that meets an exact expectation.
func (e expectation) events() uint64 {
	if e.kind == expectNumber {
		return e.number + 1
	}
	return 0
}

// check reads the one number that is none: clients send it for no stream at all.
func (e expectation) check() (expectation, error) {
	switch {
	case e.kind != expectNumber || e.number <= math.MaxInt64:
		return e, nil
	case e.number == math.MaxUint64:
		return expectation{kind: expectNoStream}, nil
	default:
		return e, refuseRequest("the expected revision " + strconv.FormatUint(e.number, 10) + " is out of range")
	}
}

// exact tells whether the expectation names one revision and no other.
func (e expectation) exact() bool { return e.kind == expectNumber || e.kind == expectNoStream }

type verdict int

const (
	accepted     verdict = iota // to be written
	repeated                    // was written before, by the same event ids
	wrongVersion                // the stream is elsewhere
	deleted                     // the stream was ended by a tombstone, or is deleted where it must exist
)

// check judges a request against its stream's head, which includes what this
// batch has done so far. For a repeat it says how many events the stream had
// right after the first time, and the position of the last of them.
func (tx *batch) check(w *write, h head) (v verdict, events, position uint64, err error) {
	switch {
	case h.tombstone:
		return deleted, 0, 0, nil
	case w.expect.kind == expectExists && h.softDeleted():
		return deleted, 0, 0, nil
	case h.events == 0 && (w.expect.kind == expectExists || w.op == opDelete):
		if described, err := tx.described(w.stream); err != nil || !described {
			return wrongVersion, 0, 0, err // nothing is there, not even metadata
		}
	}
	if !w.expect.exact() {
		v, events, position = tx.checkLoosely(w)
		return v, events, position, nil
	}
	want := w.expect.events()
	switch {
	case want == h.events:
		return accepted, 0, 0, nil
	case want > h.events:
		return wrongVersion, 0, 0, nil
	}
	return tx.checkRepeat(w, h, want)
}

// checkLoosely looks for a repeat of an append that named no revision, among
// the last ones of its kind: best effort, as in EventStoreDB.
func (tx *batch) checkLoosely(w *write) (v verdict, events, position uint64) {
	for i, e := range w.events {
		seen, ok := tx.store.recent.get(e.id)
		switch {
		case ok && seen.stream == w.stream:
			events, position = seen.number+1, seen.position
		case i == 0:
			return accepted, 0, 0
		default:
			return wrongVersion, 0, 0
		}
	}
	if len(w.events) == 0 {
		return accepted, 0, 0
	}
	return repeated, events, position
}

// checkRepeat compares an append that is behind the head with what the stream
// has at that place. It reads the log, so a repeat of any age is known.
func (tx *batch) checkRepeat(w *write, h head, from uint64) (v verdict, events, position uint64, err error) {
	again := w.expect.kind == expectNoStream && h.softDeleted() // a deleted stream may be begun again
	if w.op != opAppend && again {
		return accepted, 0, 0, nil
	}
	for i, e := range w.events {
		number := from + uint64(i)
		r, ok, err := tx.event(w.stream, number)
		switch {
		case err != nil:
			return 0, 0, 0, err
		case ok && r.id == e.id:
			events, position = number+1, r.position
		case i == 0 && again:
			return accepted, 0, 0, nil
		default:
			return wrongVersion, 0, 0, nil
		}
	}
	if len(w.events) == 0 {
		return wrongVersion, 0, 0, nil // what brings nothing repeats nothing
	}
	return repeated, events, position, nil
}

// described tells whether a stream has metadata.
func (tx *batch) described(stream string) (bool, error) {
	h, err := tx.head(metaPrefix + stream)
	return err == nil && h.events > 0, err
}

// recent remembers the ids of the newest events, whatever revision was expected
// of them, for repeats that expect none. Repeats at an exact revision need no
// memory: the log itself tells.
type recent struct {
	max        int
	young, old map[[16]byte]place
}

// A place is where an event stands.
type place struct {
	stream           string
	number, position uint64
}

func newRecent(limit int) *recent {
	return &recent{max: limit, young: map[[16]byte]place{}, old: map[[16]byte]place{}}
}

func (c *recent) get(id [16]byte) (place, bool) {
	if p, ok := c.young[id]; ok {
		return p, true
	}
	p, ok := c.old[id]
	return p, ok
}

func (c *recent) put(r *record) {
	if len(c.young) >= c.max {
		c.old, c.young = c.young, make(map[[16]byte]place, c.max)
	}
	c.young[r.id] = place{r.stream, r.number, r.position}
}
