package esdbnode

import (
	"fmt"
	"hash/maphash"
	"math/bits"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// A roster knows of names that they are surely not in it. It is a Bloom filter in
// which a name's bits are all in one line of the processor's cache, and it grows:
// each part has room for four times as many names as the one before, and the last
// goes on to take them when it is full, so that more and more names that are not
// in it only seem to be. Its zero value has none.
type roster struct {
	parts []rosterPart
	whole bool // whoever is not in it is nowhere: until then it says nothing
}

// A rosterPart is lines of bits.
type rosterPart struct {
	lines [][8]uint64
	room  int // how many more names it is meant to take
}

// Sizes of a roster. Of ten million names it takes 21 MiB, and of names that are
// not among them two in a hundred seem to be (BenchmarkRoster).
const (
	rosterLines = 1 << 12 // of the first part: 256 KiB
	rosterParts = 4       // the last one has 16 MiB
	rosterNames = 48      // a line
)

// has tells whether a name may be in the roster.
func (r *roster) has(sum uint64) bool {
	for i := range r.parts {
		if r.parts[i].has(sum) {
			return true
		}
	}
	return false
}

// lacks tells whether a name is surely not where the roster's names are from.
func (r *roster) lacks(sum uint64) bool { return r.whole && !r.has(sum) }

// enter puts a name into the roster.
func (r *roster) enter(sum uint64) {
	if r.has(sum) {
		return
	}
	n := len(r.parts)
	if n == 0 || r.parts[n-1].room <= 0 && n < rosterParts {
		lines := rosterLines << (2 * n)
		r.parts = append(r.parts, rosterPart{make([][8]uint64, lines), lines * rosterNames})
		n++
	}
	r.parts[n-1].enter(sum)
}

// line is where a name's bits are, one in each of its numbers.
func (p *rosterPart) line(sum uint64) *[8]uint64 {
	const mixed = 0x9e3779b97f4a7c15 // so that it has little to do with which bits they are
	at, _ := bits.Mul64(sum*mixed, uint64(len(p.lines)))
	return &p.lines[at]
}

func (p *rosterPart) has(sum uint64) bool {
	missing := uint64(0)
	for i, n := range p.line(sum) {
		missing |= ^n >> (sum >> (6 * i) & 63)
	}
	return missing&1 == 0
}

func (p *rosterPart) enter(sum uint64) {
	line := p.line(sum)
	for i := range line {
		line[i] |= 1 << (sum >> (6 * i) & 63)
	}
	p.room--
}

// list enters the streams of the log into the roster of its heads, and those that
// begin meanwhile are entered by the writer. It takes half of one processor, so
// that it keeps nobody waiting; until it is done, heads are looked for on the disk.
func (s *store) list() {
	defer close(s.listed)
	var sums []uint64
	for from := []byte{spaceHeads}; from != nil; {
		began := time.Now()
		var err error
		if sums, from, err = s.streams(from, sums[:0]); err != nil {
			s.log.Warn("not all streams could be listed: those that are new are looked for on the disk", "err", err)
			return
		}
		s.heads.enter(sums)
		if from == nil {
			break
		}
		select {
		case <-time.After(time.Since(began)):
		case <-s.closing:
			return
		}
	}
	s.heads.complete()
}

// streams gives a page of the streams that have a head, by the sums of their names.
func (s *store) streams(from []byte, buf []uint64) (sums []uint64, next []byte, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: []byte{spaceHeads + 1}})
	if err != nil {
		return nil, nil, fmt.Errorf("list streams: %w", err)
	}
	defer func() { _ = it.Close() }()
	for ok := it.First(); ok; ok = it.Next() {
		if len(buf) == headsAtOnce {
			return buf, append([]byte(nil), it.Key()...), nil
		}
		buf = append(buf, maphash.Bytes(s.heads.seed, it.Key()[1:]))
	}
	if err := it.Error(); err != nil {
		return nil, nil, fmt.Errorf("list streams: %w", err)
	}
	return buf, nil, nil
}
