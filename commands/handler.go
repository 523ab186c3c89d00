// Package commands carries a command to its aggregate and the decision to the
// event store: lanes, checkout, payment, and the processes that follow events
// up with more commands.
//
// # Why lanes
//
// The commit of a decision is the append at exactly the revision it was decided
// on; nothing is locked. Done one command at a time this makes a hot stream as
// slow as one round trip to the disk, and under rivalry slower. So every stream
// in use has a lane: commands that arrive while an append is under way wait;
// when it returns they are all decided, one after the other, on the lane's own
// state, and go out as one append (TestCommandsOfOneStreamShareAnAppend). The
// rejected alternative, a lock for each stream, serialises on the disk and
// protects nothing against a second process. A conflict means that another
// process wrote: what is new is read and the batch decided again.
//
// A refusal and a no-op append nothing, so no revision check proves that they
// were decided on the newest state. They are answered only once a read, or the
// append of a neighbour in the same batch, has confirmed that state
// (TestARefusalIsNeverDecidedOnStaleState).
//
// A look reads too, unless others are heard: a handler with a Log follows its
// category, and asks for the log's end until that was passed. What nobody was
// heard to change need not be read then; what another process has changed is known
// a tenth of a second later at most, or read (TestALookReadsNothingWhereOthersAreHeard,
// TestWhatOthersChangeIsSeenInTime, TestALookReadsWhenNothingIsHeard). It is for
// offers, whose price every checkout looks at and few change. Commands and their
// refusals are decided on what was read, as ever, with one exception: that goods are
// sold out is known for a twentieth of a second without asking the lane again
// (TestWhatIsSoldOutIsRefusedWithHardlyALookAtTheLog).
//
// A queue is bounded by the time that its last one would wait, so that under a
// storm who comes is turned away at once and not after a minute
// (TestNobodyWaitsLongForARefusal). No one buyer can fill it
// (TestOneBuyerLeavesRoomForOthers), and what completes what was begun, such as the
// release of goods, goes before what is new
// (TestWhatFreesGoodsIsDoneThoughNobodyIsTakenIn).
//
// An append whose outcome is unknown is sent again, the same events at the same
// revision, before anything else is decided; the store answers it without a
// second copy (TestAnAppendOfUnknownOutcomeIsSentAgain).
//
// A lane keeps its state twice: one copy that only ever holds what the store
// has, one that runs ahead with what is decided and not yet stored. So a
// conflict costs a copy of the state and not a read of the whole stream, and
// nothing is stored that Evolve has not accepted.
package commands

import (
	"context"
	"crypto/sha1" //nolint:gosec // a UUIDv5 is made of SHA-1; it guards nothing
	"errors"
	"fmt"
	"hash/maphash"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/maypok86/otter/v2"

	"cartwright/domain"
	"cartwright/domain/event"
)

// A Spec says what a Handler works on. Zero values of the numbers mean sensible defaults.
type Spec[S, C, E any] struct {
	Store    Store
	Events   *event.Registry
	Decider  domain.Decider[S, C, E]
	Category string           // streams are named <Category>-<id>
	Now      func() time.Time // time.Now if nil
	// Natural tells the events whose aggregate recognises a repeat by a key of
	// its own; their causes need not be remembered. Nil: none.
	Natural func(E) bool
	// Snapshots are kept of long streams. Nil: none are.
	Snapshots *Snapshots[S]

	Attempts int           // tries when other processes write at the same time
	Queue    int           // commands that may wait for one stream; one more is refused
	Wait     time.Duration // what a command may have to wait for its turn; one that would have to wait longer is refused
	Batch    int           // commands decided for one append
	Idle     int           // states kept of streams that nobody uses just now
	Timeout  time.Duration // of one read or append

	// Log is where changes by others are heard of, so that a look need not read
	// what nobody has changed. Nil: every look reads.
	Log Log
	// Watched is where what is appended to single streams is heard of. Nil:
	// nothing can be watched.
	Watched Log
}

// The bounds a Spec leaves unsaid, and the size at which a batch closes.
const (
	defaultAttempts = 300
	defaultQueue    = 4096
	defaultWait     = time.Second
	defaultBatch    = 1024
	defaultIdle     = 20_000
	defaultTimeout  = 10 * time.Second
	maxBatchBytes   = 512 << 10
	shards          = 64
)

// A Handler runs the commands of one kind of aggregate. It may be used
// concurrently, and must be closed.
type Handler[S, C, E any] struct {
	spec   Spec[S, C, E]
	seed   maphash.Seed
	shards [shards]shard[S, C, E]
	idle   *otter.Cache[string, *fold[S]]
	stop   chan struct{}
	once   sync.Once
	lanes  *crew // and the writer of snapshots, and watches

	watches atomic.Int64 // how many there are

	hearing   *hearing        // nil where there is none
	snapshots *event.Registry // how their parts are stored
	keeping   atomic.Bool     // a snapshot is being written
}

// shard is some of the lanes, so that finding one is no bottleneck.
type shard[S, C, E any] struct {
	mu     sync.Mutex
	closed bool
	lanes  map[string]*lane[S, C, E]

	watches map[string]*watch[S]
}

// NewHandler checks spec and fills in what it leaves unsaid.
func NewHandler[S, C, E any](spec Spec[S, C, E]) (_ *Handler[S, C, E], err error) {
	if spec.Store == nil || spec.Events == nil || spec.Category == "" {
		return nil, errors.New("a handler needs a store, a registry of events and a category")
	}
	d := spec.Decider
	if d.Decide == nil || d.Evolve == nil || d.Clone == nil {
		return nil, fmt.Errorf("the decider of %s lacks Decide, Evolve or Clone", spec.Category)
	}
	if spec.Now == nil {
		spec.Now = time.Now
	}
	for n, otherwise := range map[*int]int{
		&spec.Attempts: defaultAttempts, &spec.Queue: defaultQueue, &spec.Batch: defaultBatch, &spec.Idle: defaultIdle,
	} {
		if *n <= 0 {
			*n = otherwise
		}
	}
	if spec.Wait <= 0 {
		spec.Wait = defaultWait
	}
	if spec.Timeout <= 0 {
		spec.Timeout = defaultTimeout
	}
	if spec.Snapshots, err = spec.Snapshots.checked(spec.Category); err != nil {
		return nil, err
	}
	snapshots, err := event.NewRegistry(snapshotTypes...)
	if err != nil {
		return nil, err
	}
	idle, err := otter.New(&otter.Options[string, *fold[S]]{MaximumSize: spec.Idle})
	if err != nil {
		return nil, fmt.Errorf("cache of %s states: %w", spec.Category, err)
	}
	h := &Handler[S, C, E]{spec: spec, seed: maphash.MakeSeed(), idle: idle, stop: make(chan struct{}), snapshots: snapshots}
	h.lanes = newCrew(h.stop)
	for i := range h.shards {
		h.shards[i].lanes = map[string]*lane[S, C, E]{}
		h.shards[i].watches = map[string]*watch[S]{}
	}
	if spec.Log != nil {
		h.hearing = hear(spec.Log, spec.Category+"-", hearEvery, h.heard)
	}
	return h, nil
}

// Close refuses new commands, waits for those under way and for a snapshot that
// is being written, and gives up on appends that cannot be settled.
func (h *Handler[S, C, E]) Close() {
	h.once.Do(func() {
		close(h.stop)
		for i := range h.shards {
			sh := &h.shards[i]
			sh.mu.Lock()
			sh.closed = true
			sh.mu.Unlock()
		}
	})
	h.lanes.Wait()
	h.hearing.close()
}

// Handle decides c on the newest state of the stream of id and appends what it
// causes. A command whose cause is already in the stream is answered again and
// decided no more. When ctx ends first the command may still be carried out:
// asking again with the same cause tells.
func (h *Handler[S, C, E]) Handle(ctx context.Context, id string, r Request, c C) (Done[E], error) {
	return h.send(ctx, id, &call[S, C, E]{kind: decide, req: r, cmd: c})
}

// Create is Handle for a stream that the caller believes to be new: it saves
// the read. If the stream is there after all it is read and c decided on it.
func (h *Handler[S, C, E]) Create(ctx context.Context, id string, r Request, c C) (Done[E], error) {
	return h.send(ctx, id, &call[S, C, E]{kind: decide, req: r, cmd: c, create: true})
}

// Recall answers a command that was carried out before, and says whether it was.
func (h *Handler[S, C, E]) Recall(ctx context.Context, id string, r Request) (Done[E], bool, error) {
	done, err := h.send(ctx, id, &call[S, C, E]{kind: recall, req: r})
	return done, done.Repeated, err
}

// Look shows the newest state of a stream to see, which must neither change nor
// keep it. After an error see may still be called: what it writes must not be read.
// Where others are heard of, newest is as of a tenth of a second ago for what they
// have changed, and see must not wait for anything.
func (h *Handler[S, C, E]) Look(ctx context.Context, id string, see func(S, event.Revision)) error {
	if h.hearing.fresh(hearWithin) && h.glance(h.Stream(id), see) {
		return nil
	}
	_, err := h.send(ctx, id, &call[S, C, E]{kind: look, see: see})
	return err
}

// glance shows what is known of a stream that nobody is busy with, if everything
// that has become of it was heard.
func (h *Handler[S, C, E]) glance(stream string, see func(S, event.Revision)) bool {
	sh := h.shard(stream)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.closed || sh.lanes[stream] != nil {
		return false
	}
	f, ok := h.idle.GetIfPresent(stream)
	if !ok || !f.known || !h.hearing.covers(f.born) {
		return false
	}
	see(f.state, f.at)
	return true
}

// heard makes what is known of a stream worthless once others have appended to it.
func (h *Handler[S, C, E]) heard(stream string, at event.Revision) {
	sh := h.shard(stream)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if l := sh.lanes[stream]; l != nil {
		l.heard = max(l.heard, at)
		return
	}
	if f, ok := h.idle.GetIfPresent(stream); ok && f.at < at {
		h.idle.Invalidate(stream)
	}
}

func (h *Handler[S, C, E]) shard(stream string) *shard[S, C, E] {
	return &h.shards[maphash.String(h.seed, stream)%shards]
}

// State gives a copy of a stream's newest state.
func (h *Handler[S, C, E]) State(ctx context.Context, id string) (S, event.Revision, error) {
	var state S
	var at event.Revision
	if err := h.Look(ctx, id, func(s S, r event.Revision) { state, at = h.spec.Decider.Clone(s), r }); err != nil {
		var none S // a lane that comes late writes to the other one
		return none, 0, err
	}
	return state, at, nil
}

// Stream names the stream of id.
func (h *Handler[S, C, E]) Stream(id string) string { return h.spec.Category + "-" + id }

var errNoCause = &domain.Error{Code: domain.Invalid, Reason: "no_cause", Detail: "Every command needs a name of its own."}

func (h *Handler[S, C, E]) send(ctx context.Context, id string, c *call[S, C, E]) (Done[E], error) {
	if c.kind != look && c.req.Cause == "" {
		return Done[E]{}, errNoCause
	}
	c.gone, c.answered = ctx.Done(), make(chan struct{})
	stream := h.Stream(id)
	if err := h.enqueue(context.WithoutCancel(ctx), stream, c); err != nil {
		return Done[E]{Stream: stream}, err
	}
	select {
	case <-c.answered:
		done := c.done // whoever asked for the same may still read c's
		done.Stream = stream
		return done, c.err
	case <-ctx.Done():
		return Done[E]{Stream: stream}, fmt.Errorf("wait for %s: %w", stream, ctx.Err())
	}
}

// enqueue puts c into the lane of stream, and starts the lane if nobody is in it.
func (h *Handler[S, C, E]) enqueue(ctx context.Context, stream string, c *call[S, C, E]) error {
	sh := h.shard(stream)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.closed {
		return &domain.Error{Code: domain.Unavailable, Reason: "shutting_down", Detail: "This process is stopping.", RetryAfter: time.Second}
	}
	l := sh.lanes[stream]
	if l == nil {
		l = &lane[S, C, E]{handler: h, shard: sh, stream: stream, pace: pace{room: h.spec.Batch}}
		sh.lanes[stream] = l
		h.lanes.Go(func() { l.run(ctx) })
	}
	if now := time.Now(); !l.queue.admit(c, h.spec.Queue, l.pace.inTime(now, h.spec.Wait)) {
		return busy(l.pace.wait(now, l.queue.len()))
	}
	l.queue.add(c)
	return nil
}

// namespace makes event ids ours; it is for ever.
var namespace = uuid.MustParse("6f0f6b9e-4e4d-4b8f-9d0a-6d1a3c7be001")

// eventID is the same for the same event of the same command on the same
// stream, so that an append that was sent twice can be recognised. What the
// event says is part of it: the store compares nothing but ids, and a process
// that decides a repeated command afresh, because it takes the stream for new,
// must not be told that its own events are stored when it was another run's
// (TestARepeatThatWouldBeDecidedOtherwiseIsAnsweredFromTheStream).
func eventID(stream, cause string, index int, data []byte) string {
	name := append(make([]byte, 0, usualName), namespace[:]...) // on the stack, and only a longer one elsewhere
	name = append(append(name, stream...), 0)
	name = append(append(name, cause...), 0)
	name = append(strconv.AppendInt(name, int64(index), 10), 0)
	sum := sha1.Sum(append(name, data...)) //nolint:gosec // as the import
	id := uuid.UUID(sum[:16])
	id[6] = id[6]&0x0f | 5<<4 // the version
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}

// usualName is how long the names of most events are, before they are hashed.
const usualName = 1024
