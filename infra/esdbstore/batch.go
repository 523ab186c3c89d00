package esdbstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	// batchQueue is how many appends wait to be sent. Those behind them wait for a place.
	batchQueue = 256
	// maxBatched is the largest append that goes by the shared call, as it is on
	// the wire. A larger one would hold up all others, and a server may end the
	// call for it; its own call costs little beside its bytes.
	maxBatched = 1 << 20
	// appendLimit is how long an append waits for its answer if neither its caller
	// nor the address says less. It is what the client has for its own calls.
	appendLimit = 10 * time.Second
	// batchSilence is how long the server may owe an answer and give none to
	// anybody. EventStoreDB itself gives up an append after two seconds.
	batchSilence = 10 * time.Second
	// longestRefusal is how long appends are refused between two tries to open the call.
	longestRefusal = time.Second
)

var (
	errNoBatch = errors.New("the server has no BatchAppend")
	errTooMuch = errors.New("the append is too large to share a call")
	errSilent  = errors.New("the server takes appends and decides none")
	errOver    = errors.New("the server has ended the call")
)

// A batch sends appends by one call that all share. It opens the call when there
// is something to append, and again after it has ended. One goroutine sends, one
// receives and one sees to it that answers come.
type batch struct {
	config  *esdb.Configuration
	node    Caller // where it is in this process
	log     *slog.Logger
	silence time.Duration // batchSilence
	limit   time.Duration // appendLimit
	self    uint64        // one half of all correlation ids, for whoever reads a server's log
	last    atomic.Uint64 // the other half
	queue   chan *appending
	alone   atomic.Bool // the server has no such call: each append makes its own
	hint    string      // where the server says its leader is; of the sender
	stop    context.CancelCauseFunc
	running sync.WaitGroup

	mu      sync.Mutex
	pending map[uint64]*appending // what has been sent and not answered
}

// An appending is an append under way.
type appending struct {
	id      uint64
	message *[]byte
	done    chan error // takes the one answer, so that nobody waits for who gave up
	givenUp bool       // guarded by batch.mu
}

func newBatch(ctx context.Context, config *esdb.Configuration, node Caller, log *slog.Logger) *batch {
	ctx, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	b := &batch{
		config: config, node: node, log: log, silence: batchSilence, limit: appendLimit, self: uint64(rand.Uint32()), //nolint:gosec // not a secret
		queue: make(chan *appending, batchQueue), stop: stop, pending: map[uint64]*appending{},
	}
	if config.DefaultDeadline != nil {
		b.limit = *config.DefaultDeadline
	}
	b.running.Go(func() { b.run(ctx) })
	return b
}

// close ends the call and all that belongs to it. Whoever is in the queue has to
// know by another way that there will be no answer.
func (b *batch) close() {
	b.stop(errClosed)
	b.running.Wait()
}

// append sends an append and waits for its answer. errNoBatch and errTooMuch say
// that it has to go another way.
func (b *batch) append(ctx context.Context, closing <-chan struct{}, stream string, expect esdb.ExpectedRevision, events []esdb.EventData) error {
	if b.alone.Load() {
		return errNoBatch
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	a := &appending{id: b.last.Add(1), done: make(chan error, 1)}
	if a.message = encodeRequest(b.self, a.id, stream, expect, events); a.message == nil {
		return errTooMuch
	}
	if until, ok := ctx.Deadline(); !ok || time.Until(until) > b.limit {
		limited, cancel := context.WithTimeout(ctx, b.limit)
		defer cancel()
		ctx = limited
	}
	select {
	case b.queue <- a:
	case <-ctx.Done():
		return ctx.Err()
	case <-closing:
		return errClosed
	}
	select {
	case err := <-a.done:
		return err
	case <-ctx.Done():
		b.giveUp(a)
		return ctx.Err()
	case <-closing:
		return errClosed
	}
}

// giveUp has an append not sent that was not sent yet, and its answer dropped.
func (b *batch) giveUp(a *appending) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a.givenUp = true
	delete(b.pending, a.id)
}

// run opens the call whenever somebody appends and there is none. After one on
// which nothing was decided it rests, longer each time; whoever appends meanwhile
// is told at once.
func (b *batch) run(ctx context.Context) {
	var wait pauses
	for {
		select {
		case first := <-b.queue:
			decided, err := b.serve(ctx, first)
			if ctx.Err() != nil {
				return
			}
			if decided { // it was fine, and may be again: who appends next finds out
				wait = pauses{}
				b.log.Warn("the call for appends has ended", "err", err)
				continue
			}
			b.rest(ctx, &wait, err)
		case <-ctx.Done():
			return
		}
	}
}

func (b *batch) rest(ctx context.Context, wait *pauses, err error) {
	if errors.Is(err, errNoBatch) {
		b.alone.Store(true)
		b.log.Info("the event store has no call for many appends, each makes its own", "err", err)
		b.refuse(ctx, math.MaxInt64, err)
		return
	}
	b.log.Warn("there is no call for appends", "err", err)
	b.refuse(ctx, min(wait.next(), longestRefusal), err)
}

// refuse answers whoever appends, for some time.
func (b *batch) refuse(ctx context.Context, pause time.Duration, err error) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case a := <-b.queue:
			a.done <- err
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// What the two calls of our own look like.
var (
	batchStream  = &grpc.StreamDesc{StreamName: "BatchAppend", ServerStreams: true, ClientStreams: true}
	followStream = &grpc.StreamDesc{StreamName: "Read", ServerStreams: true}
)

// A session is one call for as long as it lasts.
type session struct {
	call    grpc.ClientStream
	asked   atomic.Uint64
	decided atomic.Uint64 // those of which the answer says what became of them
}

// serve opens the call and sends until it ends, and tells why it did. All that
// were under way have the same error as their answer: nobody knows what became of
// them (TestABrokenCallLeavesOutcomesUnknownAndIsOpenedAgain).
func (b *batch) serve(ctx context.Context, first *appending) (decided bool, err error) {
	conn, hangUp, err := b.reach(ctx)
	if err != nil {
		first.done <- err
		return false, err
	}
	defer hangUp()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &session{}
	call := metadata.AppendToOutgoingContext(ctx, "requires-leader", "true")
	if s.call, err = conn.NewStream(call, batchStream, streams.Streams_BatchAppend_FullMethodName, b.callOptions(newBatchCodec())...); err != nil {
		err = fmt.Errorf("open the call for appends: %w", err)
		first.done <- err
		return false, err
	}
	received := make(chan error, 1)
	var both sync.WaitGroup
	both.Go(func() { received <- b.receive(s) })
	both.Go(func() { b.watch(ctx, s, cancel) })
	err = b.send(s, first, received)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	cancel(nil)
	both.Wait()
	b.hint = leaderHint(s.call.Trailer())
	decided = s.decided.Load() > 0
	err = ending(err, decided)
	b.drop(err)
	return decided, err
}

// ending is what the end of a call says about an append that was under way. To
// be denied means that nothing was done, but only to whom the server has not
// listened before.
func ending(err error, decided bool) error {
	switch code := status.Code(err); {
	case errors.Is(err, io.EOF):
		err = errOver
	case decided && (code == codes.Unauthenticated || code == codes.PermissionDenied):
		err = errors.New(err.Error())
	case !decided && code == codes.Unimplemented:
		err = fmt.Errorf("%w: %w", errNoBatch, err)
	}
	return fmt.Errorf("the call for appends: %w", err)
}

// send sends what is in the queue until the call ends.
func (b *batch) send(s *session, a *appending, received <-chan error) error {
	for {
		if b.await(a) {
			s.asked.Add(1)
			err := s.call.SendMsg(a)
			if errors.Is(err, io.EOF) {
				return <-received // says why
			}
			if err != nil {
				return err
			}
		}
		select {
		case a = <-b.queue: // most often there is one, and this is cheaper than to wait for both
			continue
		default:
		}
		select {
		case a = <-b.queue:
		case err := <-received:
			return err
		}
	}
}

// await puts an append where its answer finds it, unless nobody waits for that.
func (b *batch) await(a *appending) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.givenUp {
		return false
	}
	b.pending[a.id] = a
	return true
}

// receive hands out answers until the call ends. Nobody can hold it up. An
// answer for which nobody waits any more is dropped.
func (b *batch) receive(s *session) error {
	for {
		var got reply
		if err := s.call.RecvMsg(&got); err != nil {
			return err
		}
		decided, err := got.outcome()
		if decided {
			s.decided.Add(1)
		}
		if a := b.take(got.id); a != nil {
			a.done <- err
		}
	}
}

func (b *batch) take(id uint64) *appending {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.pending[id]
	delete(b.pending, id)
	return a
}

// drop answers all that were under way.
func (b *batch) drop(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.pending {
		a.done <- err
	}
	clear(b.pending)
}

// watch ends a call on which appends are owed an answer and none is decided. Each
// append would run into its own deadline, and the next ones after it: the server
// may have lost its leadership, or hangs, and another call may find another
// (TestAServerThatDecidesNothingIsLeft).
func (b *batch) watch(ctx context.Context, s *session, cancel context.CancelCauseFunc) {
	ticks := time.NewTicker(b.silence)
	defer ticks.Stop()
	var asked, decided uint64
	for owed := false; ; {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
		before, askedBefore := decided, asked
		asked, decided = s.asked.Load(), s.decided.Load()
		silent := decided == before
		if silent && owed {
			cancel(errSilent)
			return
		}
		owed = b.waited() || silent && asked > askedBefore // those that were given up count too
	}
}

// waited tells whether anybody waits for an answer.
func (b *batch) waited() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.pending) > 0
}

func (b *batch) callOptions(codec encoding.CodecV2) []grpc.CallOption {
	options := []grpc.CallOption{grpc.ForceCodecV2(codec)}
	if b.config.Username != "" && !b.config.DisableTLS {
		options = append(options, grpc.PerRPCCredentials(basicAuth{b.config.Username, b.config.Password}))
	}
	return options
}
