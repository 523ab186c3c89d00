package esdbnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Figures say how a node does. What is counted is counted since it was opened.
type Figures struct {
	Since    time.Time `json:"since"`    // when it was opened
	Position uint64    `json:"position"` // of the last event

	Writes  map[string]map[string]uint64 `json:"writes"`  // that were decided, by kind (append, delete, tombstone, sweep) and verdict (accepted, repeated, wrong_version, deleted, failed)
	Refused map[string]uint64            `json:"refused"` // calls that were answered with an error, by reason
	Events  uint64                       `json:"events"`  // written
	Bytes   uint64                       `json:"bytes"`   // of commits, with all that an event brings along

	Commits Commits `json:"commits"`
	Queue   Queue   `json:"queue"`

	Reads       map[string]uint64 `json:"reads"`       // of a stream and of all
	EventsRead  uint64            `json:"events_read"` // for reads and subscriptions
	Subscribers map[string]uint64 `json:"subscribers"` // now, by what they follow
	Lag         uint64            `json:"lag"`         // how many positions the slowest of them is behind

	Disk       Disk       `json:"disk"`
	Compaction Compaction `json:"compaction"`
	Scavenge   Sweeps     `json:"scavenge"`

	Links map[string]uint64 `json:"links,omitempty"` // the position up to which events have links, by the prefix of the streams that somebody has asked for
}

// Commits are the fsyncs.
type Commits struct {
	Writes  Histogram `json:"writes"`  // of each
	Events  Histogram `json:"events"`  // of each
	Seconds Histogram `json:"seconds"` // that each took
}

// Queue is what waits for its commit, the one under way included.
type Queue struct {
	Writes int           `json:"writes"`
	Oldest time.Duration `json:"oldest"` // how long the first of them has been waiting
}

// Disk is what the log takes on the disk, in bytes.
type Disk struct {
	Tables   uint64  `json:"tables"`
	WAL      uint64  `json:"wal"` // the write-ahead logs, those that are kept to be used again included
	Other    uint64  `json:"other"`
	Obsolete uint64  `json:"obsolete"` // of tables, what is waiting to be removed
	Levels   []Level `json:"levels"`   // of tables, empty ones left out

	ReadAmplification  int     `json:"read_amplification"`  // how many tables a read may have to look at
	WriteAmplification float64 `json:"write_amplification"` // bytes written to the disk for each that was appended, since it was opened
}

// Level is one of the levels that Pebble keeps its tables in: newer events are in
// lower ones.
type Level struct {
	Level  int    `json:"level"`
	Tables int64  `json:"tables"`
	Bytes  int64  `json:"bytes"`
	In     uint64 `json:"in"`      // bytes that came, since it was opened
	Out    uint64 `json:"written"` // bytes that were written for them
}

// Compaction is what Pebble does in the background to keep reads short.
type Compaction struct {
	Running int64  `json:"running"`
	Debt    uint64 `json:"debt"` // bytes that it has still to go through
	Done    int64  `json:"done"`
	Failed  int64  `json:"failed"`
}

// Sweeps are the scavenges.
type Sweeps struct {
	Done   uint64    `json:"done"`
	Last   time.Time `json:"last,omitzero"` // when the last one ended
	Events uint64    `json:"events"`        // thrown away
	Marks  int       `json:"marks"`         // regions that one that was broken off has left to be scrubbed
}

// A Histogram is the shape of many numbers.
type Histogram struct {
	Bounds []float64 `json:"bounds"` // up to and including
	Counts []uint64  `json:"counts"` // between them; one more than bounds, for what is beyond the last
	Count  uint64    `json:"count"`
	Sum    float64   `json:"sum"`
}

// Quantile is a number that a part q of all are not above, as far as the bounds
// tell. What is beyond them is infinite only to them: the last bound stands for it.
func (h Histogram) Quantile(q float64) float64 {
	seen := uint64(0)
	for i, n := range h.Counts {
		if seen += n; n > 0 && float64(seen) >= q*float64(h.Count) {
			return h.Bounds[min(i, len(h.Bounds)-1)]
		}
	}
	return 0
}

// Figures tells how the node does. It asks Pebble, which takes some microseconds,
// and holds nobody up.
func (n *Node) Figures() (Figures, error) {
	n.using.RLock()
	defer n.using.RUnlock()
	if n.closed {
		return Figures{}, fmt.Errorf("figures: %w", errClosing)
	}
	f := n.store.meters.figures()
	f.Position = n.Head()
	f.Lag = n.store.meters.lag(f.Position)
	f.Queue = n.store.queue.figures(time.Now())
	if err := n.store.diskFigures(&f); err != nil {
		return f, fmt.Errorf("figures: %w", err)
	}
	marks, err := (&scavenge{store: n.store}).marked()
	if err != nil {
		return f, fmt.Errorf("figures: %w", err)
	}
	f.Scavenge.Marks = len(marks)
	f.Links = n.store.linksFigures()
	return f, nil
}

// Count tells how many events and streams there are, by their heads: it reads one
// small entry a stream.
func (n *Node) Count(ctx context.Context) (Contents, error) {
	n.using.RLock()
	defer n.using.RUnlock()
	if n.closed {
		return Contents{}, fmt.Errorf("count: %w", errClosing)
	}
	c := Contents{Format: folderFormat, Position: n.Head()}
	it, err := n.store.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: []byte{spaceHeads}, UpperBound: []byte{spaceHeads + 1}})
	if err != nil {
		return c, fmt.Errorf("count: %w", err)
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var h head
		if h, err = getHead(it.Value()); err != nil {
			err = fmt.Errorf("head of %s: %w", it.Key()[1:], err)
		}
		if err == nil && c.Streams%1024 == 0 {
			err = ctx.Err()
		}
		c.count(h)
	}
	if err = errors.Join(err, it.Error(), it.Close()); err != nil {
		return c, fmt.Errorf("count: %w", err)
	}
	return c, nil
}

// count adds a stream, by its head.
func (c *Contents) count(h head) {
	c.Events += h.events - h.scavenged
	if h.tombstone {
		c.Events++
	}
	if h.events > 0 || h.tombstone {
		c.Streams++
	}
}

// files adds up what the log's files take. Pebble's own sums leave out the
// write-ahead log that is in use.
func (d *Disk) files(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		return fmt.Errorf("list files: %w", err)
	}
	for _, name := range names {
		info, err := fs.Stat(fs.PathJoin(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // it was just removed
		}
		if err != nil {
			return fmt.Errorf("look at %s: %w", name, err)
		}
		size := uint64(max(0, info.Size()))
		switch path.Ext(name) {
		case ".sst":
			d.Tables += size
		case ".log":
			d.WAL += size
		default:
			d.Other += size
		}
	}
	return nil
}

func (s *store) diskFigures(f *Figures) error {
	m := s.db.Metrics()
	total := m.Total()
	f.Disk = Disk{
		Obsolete:          m.Table.Local.ObsoleteSize + m.Table.Local.ZombieSize,
		ReadAmplification: m.ReadAmp(), WriteAmplification: total.WriteAmp(),
	}
	for i := range m.Levels {
		l := &m.Levels[i]
		if l.TablesCount > 0 || l.TableBytesIn > 0 {
			f.Disk.Levels = append(f.Disk.Levels, Level{
				Level: i, Tables: l.TablesCount, Bytes: l.TablesSize,
				In: l.TableBytesIn, Out: l.TableBytesFlushed + l.TableBytesCompacted,
			})
		}
	}
	f.Compaction = Compaction{
		Running: m.Compact.NumInProgress, Debt: m.Compact.EstimatedDebt, Done: m.Compact.Count, Failed: m.Compact.FailedCount,
	}
	return f.Disk.files(s.fs, s.dir)
}

// meters count what a node does. Those who do it only add: the path of an append
// takes no lock here, and allocates nothing (TestCountingAllocatesNothing).
type meters struct {
	since time.Time

	decided       [opSweep + 1][verdicts]atomic.Uint64
	refused       [reasons]atomic.Uint64
	events, bytes atomic.Uint64
	reads         [2]atomic.Uint64
	eventsRead    atomic.Uint64

	commitWrites  histogram
	commitEvents  histogram
	commitSeconds histogram

	sweeps, swept atomic.Uint64
	sweptLast     atomic.Int64 // Unix seconds

	mu        sync.Mutex
	followers map[*follows]struct{}
}

// verdicts are those there are, and one for what failed.
const verdicts = int(deleted) + 2

func verdictNames() [verdicts]string {
	return [verdicts]string{accepted: "accepted", repeated: "repeated", wrongVersion: "wrong_version", deleted: "deleted", verdicts - 1: "failed"}
}

func opNames() [opSweep + 1]string {
	return [opSweep + 1]string{opAppend: "append", opDelete: "delete", opTombstone: "tombstone", opSweep: "sweep"}
}

// decide counts a write that the writer has decided.
func (m *meters) decide(w *write) {
	v := int(w.out.verdict)
	if w.out.err != nil {
		v = verdicts - 1
	}
	m.decided[w.op][v].Add(1)
}

// committed counts a commit.
func (m *meters) committed(writes, events, bytes int, took time.Duration) {
	m.commitWrites.add(sizeBounds(), float64(writes))
	m.commitEvents.add(sizeBounds(), float64(events))
	m.commitSeconds.add(timeBounds(), took.Seconds())
	m.events.Add(uint64(events)) //nolint:gosec // a count
	m.bytes.Add(uint64(bytes))   //nolint:gosec // a count
}

// read counts events that were read for somebody.
func (m *meters) read(events int) { m.eventsRead.Add(uint64(events)) } //nolint:gosec // a count

func (m *meters) scavenged(done Scavenged, at time.Time) {
	m.sweeps.Add(1)
	m.swept.Add(done.Events)
	m.sweptLast.Store(at.Unix())
}

// What is followed, and what is read.
const (
	ofStream = iota
	ofAll
	ofGroup // a persistent subscription
	kindsFollowed
)

func followNames() [kindsFollowed]string {
	return [kindsFollowed]string{ofStream: "stream", ofAll: "all", ofGroup: "persistent"}
}

// follows is how far one subscription is.
type follows struct {
	kind int
	at   atomic.Uint64 // the position up to which it has all
}

// follow counts a subscription until it is left.
func (m *meters) follow(kind int, at uint64) *follows {
	f := &follows{kind: kind}
	f.at.Store(at)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.followers == nil {
		m.followers = map[*follows]struct{}{}
	}
	m.followers[f] = struct{}{}
	return f
}

func (m *meters) leave(f *follows) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.followers, f)
}

// lag is how far behind the slowest subscription is.
func (m *meters) lag(head uint64) (most uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for f := range m.followers {
		if at := f.at.Load(); at < head {
			most = max(most, head-at)
		}
	}
	return most
}

func (m *meters) figures() Figures {
	f := Figures{
		Since: m.since, Events: m.events.Load(), Bytes: m.bytes.Load(), EventsRead: m.eventsRead.Load(),
		Writes: map[string]map[string]uint64{}, Refused: map[string]uint64{}, Reads: map[string]uint64{}, Subscribers: map[string]uint64{},
		Commits: Commits{
			Writes: m.commitWrites.read(sizeBounds()), Events: m.commitEvents.read(sizeBounds()), Seconds: m.commitSeconds.read(timeBounds()),
		},
		Scavenge: Sweeps{Done: m.sweeps.Load(), Events: m.swept.Load()},
	}
	if at := m.sweptLast.Load(); at > 0 {
		f.Scavenge.Last = time.Unix(at, 0).UTC()
	}
	for op, name := range opNames() {
		of := map[string]uint64{}
		for v, verdict := range verdictNames() {
			of[verdict] = m.decided[op][v].Load()
		}
		f.Writes[name] = of
	}
	for i, name := range reasonNames() {
		f.Refused[name] = m.refused[i].Load()
	}
	names := followNames()
	for i, name := range names[:len(m.reads)] {
		f.Reads[name] = m.reads[i].Load()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		f.Subscribers[name] = 0
	}
	for one := range m.followers {
		f.Subscribers[names[one.kind]]++
	}
	return f
}

// bounds of a histogram; what is beyond the last is counted too.
const bounds = 14

func sizeBounds() [bounds]float64 {
	return [bounds]float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192}
}

func timeBounds() [bounds]float64 {
	return [bounds]float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5}
}

// A histogram is added to by one, and read by others.
type histogram struct {
	counts [bounds + 1]atomic.Uint64
	sum    atomic.Uint64 // in millionths
}

func (h *histogram) add(bounds [bounds]float64, v float64) {
	i := 0
	for i < len(bounds) && v > bounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(uint64(v * 1e6))
}

func (h *histogram) read(bounds [bounds]float64) Histogram {
	r := Histogram{Bounds: bounds[:], Counts: make([]uint64, len(h.counts)), Sum: float64(h.sum.Load()) / 1e6}
	for i := range h.counts {
		r.Counts[i] = h.counts[i].Load()
		r.Count += r.Counts[i]
	}
	return r
}

// figures is what waits now.
func (q *queue) figures(now time.Time) (f Queue) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f.Writes = len(q.waiting) + q.taken
	switch {
	case q.taken > 0:
		f.Oldest = max(0, now.Sub(q.takenAt[0]))
	case f.Writes > 0:
		f.Oldest = max(0, now.Sub(q.waited))
	}
	return f
}

// The reasons that calls are refused for.
const (
	refusedVersion = iota
	refusedDeleted
	refusedSize
	refusedMetadata
	refusedRequest
	refusedAccess
	refusedMissing
	refusedUnavailable
	refusedTime
	refusedUnknown
	reasons
)

func reasonNames() [reasons]string {
	return [reasons]string{
		refusedVersion: "wrong_version", refusedDeleted: "stream_deleted", refusedSize: "too_large", refusedMetadata: "missing_metadata",
		refusedRequest: "bad_request", refusedAccess: "access_denied", refusedMissing: "not_found", refusedUnavailable: "unavailable",
		refusedTime: "timeout", refusedUnknown: "failed",
	}
}

// refuse counts the answer to a call, if it is a refusal. That a client went away
// is none.
func (m *meters) refuse(err error) {
	if err == nil {
		return
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		if i, known := r.reason(); known {
			m.refused[i].Add(1)
			return
		}
	}
	switch status.Code(err) {
	case codes.OK, codes.Canceled:
		return
	case codes.InvalidArgument, codes.FailedPrecondition, codes.AlreadyExists, codes.OutOfRange, codes.Unimplemented:
		m.refused[refusedRequest].Add(1)
	case codes.Unauthenticated, codes.PermissionDenied:
		m.refused[refusedAccess].Add(1)
	case codes.NotFound:
		m.refused[refusedMissing].Add(1)
	case codes.Unavailable, codes.ResourceExhausted:
		m.refused[refusedUnavailable].Add(1)
	case codes.DeadlineExceeded, codes.Aborted:
		m.refused[refusedTime].Add(1)
	case codes.Unknown, codes.Internal, codes.DataLoss:
		m.refused[refusedUnknown].Add(1)
	}
}

// reason is the one that the client is told by a trailer.
func (r *refusal) reason() (int, bool) {
	said := r.trailers.Get("exception")
	if len(said) == 0 {
		return 0, false
	}
	i, known := map[string]int{
		"wrong-expected-version": refusedVersion, "stream-deleted": refusedDeleted,
		"maximum-append-size-exceeded": refusedSize, "missing-required-metadata-property": refusedMetadata,
	}[said[0]]
	return i, known
}

// countUnary and countStream see every call's answer, those of the door included.
func (m *meters) countUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	answer, err := handle(ctx, req)
	m.refuse(err)
	return answer, err
}

func (m *meters) countStream(srv any, call grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	err := handle(srv, call)
	m.refuse(err)
	return err
}
