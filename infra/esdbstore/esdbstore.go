// Package esdbstore is the event store on EventStoreDB, through its official
// client, and for appends through a call the client does not know. It knows
// nothing of which node answers: a cluster, or ours (infra/esdbnode).
//
// # Why
//
// The client (v4.2.0) has defects that no caller should meet, so every call of it
// runs in a goroutine of its own, beside a select on the caller's ctx: while it
// looks for a node it ignores ctx, and when it has looked ten times it closes
// itself for ever and leaves all but one of its callers hanging
// (TestCallsEndWithTheirContextWhileTheNodeIsAway,
// TestTheStoreSurvivesARestartOfItsNode). Its Close panics while calls are
// pending, so ours waits for them (TestCloseWaitsForPendingCalls).
//
// It takes a certificate that it does not trust, or that is not taken from it,
// for a node that is away, and looks on for ever. So Connect shakes hands with
// the nodes itself (TestWhatWillNeverGetBetterEndsOpenAtOnce). Given several
// hosts and the scheme esdb+discover it asks none of them and looks at an empty
// address instead; the hosts are what is asked here
// (TestSeveralHostsOfWhichOneIsDead).
//
// Only answers that prove it are reported as "not appended". All else, from a
// deadline to a broken connection, leaves the outcome unknown, and the same
// append at the same revision settles it: EventStoreDB compares the event ids
// (TestOnlyAnswersThatProveItSayThatNothingWasAppended).
//
// # Appends
//
// All appends of a store share one call of BatchAppend (TestManyAppendsShareOneCall),
// on a connection beside the client's, which does not show its own. A call each,
// as the client makes them, takes more than twice the CPU of store and node
// together (BenchmarkAppend), most of it for headers, goroutines and frames that
// say nothing of the events. The call is opened by the first append, so whoever
// only reads has none (TestAStoreThatOnlyReadsOpensNoCall).
//
// Each append is answered for itself (TestARefusedAppendLeavesItsNeighboursAlone).
// When the call breaks, all that were under way end with an unknown outcome, and
// it is opened again; what is appended until then fails at once, since callers
// repeat an append anyway and know better for how long
// (TestABrokenCallLeavesOutcomesUnknownAndIsOpenedAgain). A server that takes
// appends and decides none for ten seconds is left: with a call each, a call that
// hangs harms one append, but this one would harm all of them for ever
// (TestAServerThatDecidesNothingIsLeft).
//
// Appends go to the node that leads, whichever one is preferred for reading
// (TestAppendsGoToTheLeader, TestANodeThatDoesNotLeadSaysWhoDoes).
//
// The client's own call remains for servers without BatchAppend
// (TestConformanceWithoutBatchAppend), and for appends of more than a megabyte on
// the wire (TestAppendsTooLargeToShareGoAlone). To send those in parts was the
// other way; but EventStoreDB gives up an append whose last part is not there
// after two seconds, and they would hold up all others.
//
// # Following
//
// Every event of the log is followed by somebody, most often by several. Of one
// node the log is followed by a call of our own and not by the client's, which
// takes nearly twice the CPU of store and node together and more than three times
// the objects to say the same (BenchmarkFollow): it asks for the same
// (TestACallOfOurOwnAsksAsTheClientDoes) and reads the same
// (TestWhatIsReadByHandIsWhatTheGeneratedTypesWrite). In a cluster the client
// follows, which knows how to find the node that is preferred.
//
// # In one process
//
// A node in this process is appended to and followed without a connection
// (TestANodeInThisProcessIsAppendedToAndFollowedWithoutAConnection,
// TestConformanceInOneProcess), by the same two calls as any other. The client reads by
// its socket all the same: it makes its own connection, and reads are few where states
// are kept.
//
// # Copies
//
// Copy carries a history from one log to another. It is here and not beside the
// store, because it carries events as they lie, whoever wrote them, and those are
// the client's. Appends at exact revisions make it as repeatable as any append of
// ours (TestACopyThatIsBrokenOffGoesOn, TestATargetWithAnotherHistoryIsRefused).
package esdbstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cartwright/domain/event"
)

// discoverAttempts stands for "for ever": a client that gives up cannot be used again.
const discoverAttempts = 1_000_000_000

// closeGrace is how long Close waits for calls that the client does not let go of.
const closeGrace = 5 * time.Second

var errClosed = errors.New("event store is closed")

// Store is an open connection to an event log. Its methods may be called
// concurrently, and all of them end when their ctx does.
type Store struct {
	client *esdb.Client
	batch  *batch // by which appends go
	log    *slog.Logger

	mu      sync.Mutex
	closed  bool
	closing chan struct{}
	pending sync.WaitGroup // calls of the client that have not returned
}

// Open is Connect to an address with which all is said.
func Open(ctx context.Context, uri string, log *slog.Logger) (*Store, error) {
	return Connect(ctx, Config{URI: uri}, log)
}

// Connect connects to a node or cluster and waits until it answers or ctx ends.
// It does not wait for what will not change: wrong credentials, a missing right
// and certificates that are not accepted fail at once with event.ErrDenied.
func Connect(ctx context.Context, c Config, log *slog.Logger) (*Store, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	config, err := c.configure()
	if err != nil {
		return nil, fmt.Errorf("event store address: %w", err)
	}
	p, err := newProbe(config)
	if err == nil {
		err = p.look(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("reach the event store at %s: %w", c, err)
	}
	said := &lastWord{}
	config.Logger = func(level esdb.LogLevel, format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		said.note(level, text)
		log.Debug("event store client", "level", level, "says", text)
	}
	client, err := esdb.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("event store client: %w", err)
	}
	s := &Store{client: client, batch: newBatch(ctx, config, c.Node, log), log: log, closing: make(chan struct{})}
	if err := s.reach(ctx, p, said); err != nil {
		return nil, errors.Join(fmt.Errorf("reach the event store at %s: %w", c, err), s.close(0))
	}
	return s, nil
}

// reach waits for the first answer. Meanwhile it goes on looking whether the
// nodes that come up are ones that we will never get on with.
func (s *Store) reach(ctx context.Context, p *probe, said *lastWord) error {
	inner, stop := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		for wait := (pauses{}); inner.Err() == nil; {
			wait.rest(inner)
			if err := p.look(inner); err != nil && inner.Err() == nil {
				stop(err)
			}
		}
	})
	err := s.firstAnswer(inner)
	stop(nil)
	watch.Wait()
	if denied := context.Cause(inner); errors.Is(denied, event.ErrDenied) {
		return denied
	}
	if ctx.Err() != nil {
		return said.wrap(err)
	}
	return err
}

// firstAnswer asks until there is an answer that says something: a node that is
// just starting says that it is not ready.
func (s *Store) firstAnswer(ctx context.Context) error {
	for wait := (pauses{}); ; wait.rest(ctx) {
		_, err := s.Head(ctx)
		if c := code(err); err == nil || ctx.Err() != nil ||
			c != esdb.ErrorUnavailable && c != esdb.ErrorCodeDeadlineExceeded && c != esdb.ErrorAborted && c != esdb.ErrorCodeNotLeader {
			return err
		}
	}
}

// lastWord keeps the last complaint of the client, which tells whoever waits in
// vain what for.
type lastWord struct {
	mu   sync.Mutex
	text string
}

func (w *lastWord) note(level esdb.LogLevel, text string) {
	if level != esdb.LogWarn && level != esdb.LogError {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = text
}

func (w *lastWord) wrap(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.text == "" {
		return err
	}
	return fmt.Errorf("%w (%s)", err, w.text)
}

// Close ends what is under way and lets go of the connection.
func (s *Store) Close() error { return s.close(closeGrace) }

// close waits until the last call has come back from the client, which would
// panic if it were closed before. A client that looks for a node in vain does
// not let go of its calls; then they, and the goroutine that waits for them, end
// when it finds one, or with the process.
func (s *Store) close(grace time.Duration) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.closing)
	s.mu.Unlock()
	s.batch.close()

	closed := make(chan error, 1)
	go func() {
		s.pending.Wait()
		closed <- s.client.Close()
	}()
	wait := time.NewTimer(grace)
	defer wait.Stop()
	select {
	case err := <-closed:
		return err
	case <-wait.C:
		return errors.New("close event store: the client is still looking for a node")
	}
}

// begin counts a call in, unless the store is closed. The call counts itself
// out through s.pending.
func (s *Store) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	s.pending.Add(1)
	return nil
}

type answer[T any] struct {
	value T
	err   error
}

// call runs one call of the client, and leaves it behind when ctx ends before
// the client has noticed.
func call[T any](ctx context.Context, s *Store, do func(context.Context) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if err := s.begin(); err != nil {
		return none, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan answer[T], 1)
	go func() {
		defer s.pending.Done()
		value, err := do(ctx)
		done <- answer[T]{value, err}
	}()
	select {
	case a := <-done:
		return a.value, a.err
	case <-ctx.Done():
		return none, ctx.Err()
	case <-s.closing:
		return none, errClosed
	}
}

// code finds the client's error code, which it wraps more often than not.
func code(err error) esdb.ErrorCode {
	if e, ok := errors.AsType[*esdb.Error](err); ok {
		return e.Code()
	}
	return esdb.ErrorCodeUnknown
}

// known turns an answer of the client into ours where it says for certain that
// nothing was done.
func known(err error) error {
	switch code(err) { //nolint:exhaustive // all others leave the outcome unknown
	case esdb.ErrorCodeWrongExpectedVersion:
		return fmt.Errorf("%w: %w", event.ErrConflict, err)
	case esdb.ErrorCodeStreamDeleted:
		return fmt.Errorf("%w: %w", event.ErrDeleted, err)
	case esdb.ErrorCodeUnauthenticated, esdb.ErrorCodeAccessDenied:
		return fmt.Errorf("%w: %w", event.ErrDenied, err)
	}
	switch status.Code(err) { //nolint:exhaustive // as above; a subscription that drops says it so
	case codes.Unauthenticated, codes.PermissionDenied:
		return fmt.Errorf("%w: %w", event.ErrDenied, err)
	}
	return err
}

// KeepNewest shows only the newest n events of a stream from now on. It replaces
// the stream's metadata.
func (s *Store) KeepNewest(ctx context.Context, stream string, n int) error {
	if n < 1 {
		return fmt.Errorf("keep the newest %d of %s: at least one must stay", n, stream)
	}
	var meta esdb.StreamMetadata
	meta.SetMaxCount(uint64(n))
	_, err := call(ctx, s, func(ctx context.Context) (*esdb.WriteResult, error) {
		return s.client.SetStreamMetadata(ctx, stream, esdb.AppendToStreamOptions{ExpectedRevision: esdb.Any{}}, meta)
	})
	if err != nil {
		return fmt.Errorf("keep the newest %d of %s: %w", n, stream, known(err))
	}
	return nil
}

// Tombstone ends a stream for ever. A second one is refused with event.ErrDeleted.
func (s *Store) Tombstone(ctx context.Context, stream string) error {
	_, err := call(ctx, s, func(ctx context.Context) (*esdb.DeleteResult, error) {
		return s.client.TombstoneStream(ctx, stream, esdb.TombstoneStreamOptions{ExpectedRevision: esdb.Any{}})
	})
	if err != nil {
		return fmt.Errorf("tombstone %s: %w", stream, known(err))
	}
	return nil
}
