package esdbstore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/maphash"
	"math/bits"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"cartwright/domain/event"
)

// A Side is what one log holds of what is copied.
type Side struct {
	Streams uint64 `json:"streams"` // with events
	Events  uint64 `json:"events"`
	Ended   uint64 `json:"ended"` // streams with a tombstone, whose events do not count
	// Digest is over all events: stream, revision, id, type, data and metadata
	// of each, in the order of their streams.
	Digest string `json:"digest"`
}

// A Comparison is the two sides of a copy next to each other.
type Comparison struct {
	Position    uint64       `json:"position"` // of the source: everything up to here was compared
	From        Side         `json:"from"`
	To          Side         `json:"to"`
	Differences []Difference `json:"differences,omitempty"`
	More        bool         `json:"more,omitempty"` // there are differences that are not listed
}

// Same tells whether the sides are the same.
func (c *Comparison) Same() bool { return c.From == c.To }

// A Difference is a stream that is not the same on both sides.
type Difference struct {
	Stream string         `json:"stream"`
	From   event.Revision `json:"from"` // the revision there, 0 where there is none
	To     event.Revision `json:"to"`
	Detail string         `json:"detail"`
}

const (
	buckets         = 1 << 12
	listedBuckets   = 32
	mostDifferences = 1000
)

// Compare reads both logs, the source up to a position (0 is its end), and says
// whether the target is a copy of the source.
//
// Both may be far larger than memory, so what is kept of them is not one digest a
// stream but sums, each over the streams that fall into one bucket: as digests of
// events say their stream and revision, they may be added up in any order. Only
// streams in buckets that differ are then looked at one by one.
func (c *Copy) Compare(ctx context.Context, position uint64) (Comparison, error) {
	result := Comparison{Position: position}
	ends := [2]uint64{position, 0}
	sides := [2]*Store{c.From, c.To}
	for i, s := range sides {
		if ends[i] > 0 {
			continue
		}
		var err error
		if ends[i], err = s.end(ctx); err != nil {
			return result, err
		}
	}
	result.Position = ends[0]
	var tallies [2]*tally
	seed := maphash.MakeSeed()
	told := teller{report: c.Report}
	told.begin(0, ends[0])
	g, gctx := errgroup.WithContext(ctx)
	for i, s := range sides {
		tallies[i] = &tally{seed: seed}
		if i == 0 {
			tallies[i].told = &told
		}
		g.Go(func() error { return c.each(gctx, s, ends[i], i == 0, tallies[i].add) })
	}
	if err := g.Wait(); err != nil {
		return result, fmt.Errorf("compare: %w", err)
	}
	result.From, result.To = tallies[0].side(), tallies[1].side()
	if result.Same() {
		return result, nil
	}
	return c.list(ctx, ends, tallies, result)
}

// each hands on what a log holds of what is copied, as it is in the target.
func (c *Copy) each(ctx context.Context, s *Store, end uint64, source bool, take func(*rawEvent)) error {
	ended, _, err := c.marks(ctx, s, end)
	if err != nil {
		return err
	}
	r := copying{Copy: c, ended: ended}
	for e, err := range s.rawLog(ctx, 0, end) {
		switch {
		case err != nil:
			return err
		case !r.takes(&e):
			continue
		case source:
			e = r.dated(e)
		}
		take(&e)
	}
	return nil
}

// A sum is digests added up, as one number of 256 bits.
type sum [4]uint64

func (s *sum) add(digest [sha256.Size]byte) {
	carry := uint64(0)
	for i := range s {
		s[i], carry = bits.Add64(s[i], binary.LittleEndian.Uint64(digest[8*i:]), carry)
	}
}

// A tally is what is kept of one side.
type tally struct {
	seed    maphash.Seed
	sums    [buckets]sum
	streams uint64
	events  uint64
	ended   uint64
	told    *teller
	digest  digester
}

func (t *tally) bucket(stream string) int {
	return int(maphash.String(t.seed, stream) % buckets)
}

func (t *tally) add(e *rawEvent) {
	switch {
	case e.tombstone():
		t.ended++
	default:
		t.events++
		if e.number == 0 {
			t.streams++
		}
	}
	t.sums[t.bucket(e.stream)].add(t.digest.of(e))
	if t.told != nil && (t.events%1024 == 0 || e.position == t.told.end) {
		t.told.tell(t.events, e.position)
	}
}

func (t *tally) side() Side {
	var total sum
	for i := range t.sums {
		var digest [sha256.Size]byte
		for j, n := range t.sums[i] {
			binary.LittleEndian.PutUint64(digest[8*j:], n)
		}
		total.add(digest)
	}
	var b [sha256.Size]byte
	for i, n := range total {
		binary.LittleEndian.PutUint64(b[8*i:], n)
	}
	return Side{t.streams, t.events, t.ended, hex.EncodeToString(b[:])}
}

// A digester makes digests of events.
type digester struct {
	hash hash.Hash
	buf  []byte
}

// of is the digest of all that a copy keeps of an event. Of a tombstone that is
// its stream only, since it has an id of its own in every log.
func (d *digester) of(e *rawEvent) (digest [sha256.Size]byte) {
	if d.hash == nil {
		d.hash = sha256.New()
	}
	d.hash.Reset()
	b := binary.BigEndian.AppendUint64(d.buf[:0], e.number)
	b = appendPart(b, e.stream)
	if !e.tombstone() {
		b = append(b, e.id[:]...)
		b = append(b, 0)
		if e.json {
			b[len(b)-1] = 1
		}
		b = appendPart(b, e.kind)
		b = appendPart(b, string(e.meta))
		b = append(b, e.data...)
	}
	d.buf = b
	_, _ = d.hash.Write(b) // it never fails
	d.hash.Sum(digest[:0])
	return digest
}

func appendPart(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// list reads both sides again and compares the streams of buckets that differ,
// as many as fit into memory.
func (c *Copy) list(ctx context.Context, ends [2]uint64, tallies [2]*tally, result Comparison) (Comparison, error) {
	looked := map[int]bool{}
	for i := range tallies[0].sums {
		if tallies[0].sums[i] == tallies[1].sums[i] {
			continue
		}
		if len(looked) == listedBuckets {
			result.More = true
			break
		}
		looked[i] = true
	}
	var streams [2]map[string]line
	g, gctx := errgroup.WithContext(ctx)
	for i, s := range [2]*Store{c.From, c.To} {
		streams[i] = map[string]line{}
		g.Go(func() error {
			var d digester
			return c.each(gctx, s, ends[i], i == 0, func(e *rawEvent) {
				if looked[tallies[i].bucket(e.stream)] {
					streams[i][e.stream] = streams[i][e.stream].and(e, &d)
				}
			})
		})
	}
	if err := g.Wait(); err != nil {
		return result, fmt.Errorf("compare stream by stream: %w", err)
	}
	for stream, from := range streams[0] {
		if to := streams[1][stream]; from != to {
			result.Differences = append(result.Differences, from.difference(stream, to))
		}
	}
	for stream, to := range streams[1] {
		if _, both := streams[0][stream]; !both {
			result.Differences = append(result.Differences, line{}.difference(stream, to))
		}
	}
	slices.SortFunc(result.Differences, func(a, b Difference) int { return strings.Compare(a.Stream, b.Stream) })
	if len(result.Differences) > mostDifferences {
		result.Differences, result.More = result.Differences[:mostDifferences], true
	}
	return result, nil
}

// A line is what is known of one stream of one side.
type line struct {
	revision event.Revision
	ended    bool
	sum      sum
	bare     sum // of the events without their metadata
}

// and is the line with one event more.
func (l line) and(e *rawEvent, d *digester) line {
	if e.tombstone() {
		l.ended = true
	} else {
		l.revision = max(l.revision, event.Revision(e.number)+1)
	}
	l.sum.add(d.of(e))
	bare := *e
	bare.meta = nil
	l.bare.add(d.of(&bare))
	return l
}

// difference says how a stream of the source is not that of the target.
func (l line) difference(stream string, to line) Difference {
	d := Difference{Stream: stream, From: l.revision, To: to.revision}
	switch {
	case l.ended != to.ended:
		d.Detail = "has a tombstone on one side only"
	case to.revision == 0:
		d.Detail = "is missing in the target"
	case l.revision == 0:
		d.Detail = "is not in the source"
	case l.revision != to.revision:
		d.Detail = "has another end"
	case l.bare != to.bare:
		d.Detail = "has other events"
	default:
		d.Detail = "has other metadata"
	}
	return d
}
