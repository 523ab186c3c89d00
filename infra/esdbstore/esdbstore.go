// Package esdbstore is the event store on EventStoreDB, through its official
// client. It knows nothing of which node answers: a cluster, or ours (infra/esdbnode).
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
// Only answers that prove it are reported as "not appended". All else, from a
// deadline to a broken connection, leaves the outcome unknown, and the same
// append at the same revision settles it: EventStoreDB compares the event ids.
package esdbstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"

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
	log    *slog.Logger

	mu      sync.Mutex
	closed  bool
	closing chan struct{}
	pending sync.WaitGroup // calls of the client that have not returned
}

// Open connects to the node or cluster that a URI names and waits until it
// answers or ctx ends. A URI is EventStoreDB's own, esdb:// or esdb+discover://,
// or unix:///path for a node on a socket.
func Open(ctx context.Context, uri string, log *slog.Logger) (*Store, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	config, err := configure(uri)
	if err != nil {
		return nil, fmt.Errorf("event store address: %w", err)
	}
	config.Logger = func(level esdb.LogLevel, format string, args ...any) {
		log.Debug("event store client", "level", level, "says", fmt.Sprintf(format, args...))
	}
	client, err := esdb.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("event store client: %w", err)
	}
	s := &Store{client: client, log: log, closing: make(chan struct{})}
	if _, err := s.Head(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("reach the event store at %s: %w", redact(uri), err), s.close(0))
	}
	return s, nil
}

func configure(uri string) (*esdb.Configuration, error) {
	socket, isSocket := strings.CutPrefix(uri, "unix://")
	if isSocket {
		uri = "esdb://localhost:2113?tls=false" // its parser refuses a socket, the rest of it does not
	}
	config, err := esdb.ParseConnectionString(uri)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", redact(uri), err)
	}
	if isSocket {
		if !strings.HasPrefix(socket, "/") {
			return nil, fmt.Errorf("unix://%s: a socket needs an absolute path", socket)
		}
		config.Address = "unix://" + socket
	}
	if !strings.Contains(strings.ToLower(uri), "maxdiscoverattempts=") {
		config.MaxDiscoverAttempts = discoverAttempts
	}
	return config, nil
}

// redact takes the password out of a URI that is shown.
func redact(uri string) string {
	if u, err := url.Parse(uri); err == nil {
		return u.Redacted()
	}
	scheme, rest, _ := strings.Cut(uri, "://")
	_, hosts, ok := strings.Cut(rest, "@")
	if !ok {
		return uri
	}
	return scheme + "://…@" + hosts
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
