package esdbnode

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"log/slog"
	"math"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2"
	"github.com/google/uuid"
)

// What the fuzz tests reach into, and nothing else. Each is a function of bytes
// and plain values, so that the forms in between may change.

// Stored is a record, for tests.
type Stored struct {
	Position, Number         uint64
	Created                  int64
	ID                       [16]byte
	JSON                     bool
	Stream, Kind, Meta, Data string
}

func (s Stored) record() *record {
	return &record{
		position: s.Position, number: s.Number, created: s.Created, id: s.ID, json: s.JSON,
		stream: s.Stream, kind: s.Kind, meta: s.Meta, data: s.Data,
	}
}

// Frame is the stored form of a record.
func Frame(s Stored) []byte {
	r := s.record()
	b := make([]byte, frameSize(r))
	putFrame(b, r)
	return b
}

// Unframe reads what is stored under a position.
func Unframe(position uint64, b []byte) (Stored, error) {
	r, err := getFrame(position, b)
	return Stored{r.position, r.number, r.created, r.id, r.json, r.stream, r.kind, r.meta, r.data}, err
}

// Seal makes bytes that are long enough pass for a frame that was stored as it
// is, to see what is made of them behind the checksum.
func Seal(position uint64, b []byte) {
	if len(b) >= frameFixed {
		b[0] = frameFormat
		binary.BigEndian.PutUint32(b[2:], frameSum(position, b[1], b[frameSumFrom:]))
	}
}

// EncodeEvent is an event as it is sent to readers. A nil one is not there.
func EncodeEvent(event, link *Stored, textIDs bool) []byte {
	m := eventMessage{textIDs: textIDs}
	if event != nil {
		m.event = event.record()
	}
	if link != nil {
		m.link = link.record()
	}
	return m.append(nil)
}

// Proposed is a message of an append request as the node takes it.
type Proposed struct {
	Options, Event         bool
	Stream                 string
	Expected               string // "" if nothing is expected
	ID                     [16]byte
	BadID                  bool
	Kind, Meta, Data       string
	HasKind, Typed, IsJSON bool
}

// ParseAppend reads a message of an append request.
func ParseAppend(b []byte) (Proposed, error) {
	var m appendMessage
	err := m.parse(b)
	p := Proposed{
		Options: m.hasOptions, Event: m.hasEvent, Stream: m.stream,
		ID: m.event.id, BadID: m.event.sent.bad, Kind: m.event.kind, Meta: m.event.meta, Data: m.event.data,
		HasKind: m.event.hasKind, Typed: m.event.typed, IsJSON: m.event.json,
	}
	if m.hasExpectation {
		p.Expected = m.expect.version()
	}
	return p, err
}

// Rehead reads a stored head and stores it again.
func Rehead(b []byte) ([]byte, error) {
	h, err := getHead(b)
	if err != nil {
		return nil, err
	}
	return appendHead(nil, h), nil
}

// Head is the stored form of a head.
func Head(events, position, before, maxCount, scavenged uint64, maxAge time.Duration, tombstone bool) []byte {
	return appendHead(nil, head{
		events: events, position: position, tombstone: tombstone, scavenged: scavenged,
		limits: limits{before: before, maxCount: maxCount, maxAge: maxAge},
	})
}

// Limits is what a stream's metadata says about what is shown.
func Limits(metadata string) (before, maxCount uint64, maxAge time.Duration) {
	l := parseLimits(metadata)
	return l.before, l.maxCount, l.maxAge
}

// WithTruncateBefore gives metadata another $tb.
func WithTruncateBefore(metadata string, before uint64) string {
	return withTruncateBefore(metadata, before)
}

// Knows tells whether a door with this one user lets in who sends these credentials.
func Knows(user, password string, sent ...string) bool {
	g, err := Door{}.guard(slog.New(slog.DiscardHandler))
	if err != nil {
		return false
	}
	g.users[user] = g.digest(password)
	name, ok := g.knows(sent)
	return ok && name == user
}

// Filter tells whether a filter lets an event through, and whether it is one.
func Filter(o *streams.ReadReq_Options_FilterOptions, s Stored) (through bool, err error) {
	f, err := newFilter(o)
	if err != nil || f == nil {
		return err == nil, err
	}
	return f.match()(s.record()), nil
}

// CountAppend gives what counts all that the node counts of one append and its commit.
func CountAppend() func() {
	m, w := &meters{}, &write{}
	return func() {
		m.decide(w)
		m.committed(3, 7, 4000, time.Millisecond)
		m.read(7)
		m.refuse(nil)
	}
}

// Batched is a message of a batch append request as the node takes it.
type Batched struct {
	Correlated, BadCorrelation, TextCorrelation bool
	Correlation                                 [16]byte
	Options, Final                              bool
	Stream, Expected, Echo                      string
	Deadline                                    time.Time
	Events                                      []Proposed
}

// A BatchParser reads messages of batch append requests, one after the other in
// the same memory.
type BatchParser struct{ m batchMessage }

// Parse reads one, and takes now for the time it is.
func (p *BatchParser) Parse(b []byte, now time.Time) (Batched, error) {
	m := &p.m
	m.now = func() time.Time { return now }
	err := m.parse(b)
	got := Batched{
		Correlated: m.correlated, BadCorrelation: m.correlation.bad, TextCorrelation: m.correlation.text, Correlation: m.correlation.value,
		Options: m.options.hasOptions, Final: m.final, Stream: m.options.stream, Deadline: m.deadline, Echo: m.echo,
	}
	if m.options.hasExpectation {
		got.Expected = m.options.expect.version()
	}
	for i := range m.events {
		got.Events = append(got.Events, m.events[i].proposed())
	}
	return got, err
}

func (p *proposed) proposed() Proposed {
	return Proposed{
		Event: true, ID: p.id, BadID: p.sent.bad, Kind: p.kind, Meta: p.meta, Data: p.data,
		HasKind: p.hasKind, Typed: p.typed, IsJSON: p.json,
	}
}

// EncodeBatchSuccess is the answer to a batch append that was done.
func EncodeBatchSuccess(echo, stream string, events, position uint64) []byte {
	m := batchSuccessMessage{successMessage: successMessage{events: events, position: position}, echo: echo, stream: stream}
	b := m.append(nil)
	if len(b) > m.maxSize() {
		panic("an answer is longer than its buffer")
	}
	return b
}

// Reach waits until readers of the whole log see a position.
func (n *Node) Reach(ctx context.Context, position uint64) error { return n.store.reach(ctx, position) }

// Shows is how many events a stream has that has lost none, by its last one.
func (n *Node) Shows(ctx context.Context, stream string) (events uint64, err error) {
	last := slice{stream: stream, to: math.MaxInt64, backwards: true, limit: 1, end: math.MaxUint64}
	err = n.store.readStream(ctx, last, func(r *record) error {
		events = r.number + 1
		return nil
	})
	return events, err
}

// Between appends an event as the writer does, which must be idle, and calls while
// between the two steps of showing it: its stream has it, the log has not.
func (n *Node) Between(stream string, while func()) error {
	s := n.store
	tx := &batch{store: s, heads: map[string]*change{}, out: s.db.NewBatch()}
	h, err := tx.head(stream)
	if err != nil {
		return err
	}
	tx.add(stream, h, &proposal{id: [16]byte{1}, kind: "x"})
	if err := errors.Join(tx.putAll(), s.db.Apply(tx.out, pebble.Sync), tx.out.Close()); err != nil {
		return err
	}
	s.heads.settle(tx.heads)
	while()
	s.tail.push(tx.records)
	return nil
}

// Try has the writer do something to a stream that nobody has done before, and
// gives its verdict. All that it knows of streams without a look at the disk is
// forgotten before, but for which there are.
func (n *Node) Try(ctx context.Context, what, stream string) (string, error) {
	n.store.heads.forget()
	w := &write{stream: stream, events: []proposal{{id: uuid.New(), kind: "x"}}}
	switch what {
	case "begin":
		w.expect = expectation{kind: expectNoStream}
	case "append":
	case "describe":
		w.stream, w.events[0].kind, w.events[0].json, w.events[0].data = metaPrefix+stream, typeMetadata, true, `{"$maxCount":1}`
	case "delete":
		w.op, w.events = opDelete, nil
	case "bury":
		w.op, w.events = opTombstone, nil
	}
	out, err := n.store.do(ctx, w)
	return verdictNames()[out.verdict], err
}

func (hs *heads) forget() {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	clear(hs.young)
	clear(hs.old)
}

// Listed waits until the streams are listed, or that was broken off.
func (n *Node) Listed() { <-n.store.listed }

// Lacking gives the streams that have a head on the disk and of which the roster
// says that they have none.
func (n *Node) Lacking() (streams []string, err error) {
	it, err := n.store.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceHeads}, UpperBound: []byte{spaceHeads + 1}})
	if err != nil {
		return nil, err
	}
	for ok := it.First(); ok; ok = it.Next() {
		if stream := string(it.Key()[1:]); n.Lacks(stream) {
			streams = append(streams, stream)
		}
	}
	return streams, it.Close()
}

// Lacks tells whether the roster says that there is surely no such stream.
func (n *Node) Lacks(stream string) bool {
	hs := n.store.heads
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.roster.lacks(maphash.String(hs.seed, stream))
}

// A Roster is one of names that are numbers.
type Roster struct {
	roster
	seed maphash.Seed
}

// NewRoster makes a whole one of the names from 0 on.
func NewRoster(names uint64) *Roster {
	r := &Roster{roster{whole: true}, maphash.MakeSeed()}
	for i := range names {
		r.enter(maphash.Comparable(r.seed, i))
	}
	return r
}

// Lacks tells whether a name is surely not in it.
func (r *Roster) Lacks(name uint64) bool { return r.lacks(maphash.Comparable(r.seed, name)) }

// Bytes is what it takes.
func (r *Roster) Bytes() (n int) {
	for i := range r.parts {
		n += len(r.parts[i].lines) * 64
	}
	return n
}

// Links are the positions that the links of a stream lead to, none where there are none.
func (n *Node) Links(ctx context.Context, stream string) (positions []uint64, err error) {
	err = n.store.readStream(ctx, slice{stream: stream, to: math.MaxInt64, limit: math.MaxInt}, func(r *record) error {
		positions = append(positions, r.position)
		return nil
	})
	if errors.Is(err, errNoStream) {
		err = nil
	}
	return positions, err
}

// Relink reads a stored link and stores it again.
func Relink(b []byte) ([]byte, error) {
	l, err := getLink("name", b)
	if err != nil {
		return nil, err
	}
	again := make([]byte, l.size())
	l.put(again)
	return again, nil
}

// Hear tells what persistent subscriptions are told of events and links.
func (n *Node) Hear(ctx context.Context, after uint64, each func(stream string, number, position uint64)) error {
	return groupLog{n.store}.Follow(ctx, after, each)
}

// Cached is how many bytes of blocks are in memory.
func (n *Node) Cached() int64 { return n.store.db.Metrics().BlockCache.Size }
