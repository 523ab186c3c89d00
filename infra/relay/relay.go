// Package relay carries events from the log to the bus.
//
// It follows the log, publishes in batches, and then moves its bookmark, so
// after a crash an event may go out twice, but none is left behind. Nothing is
// skipped: what can't be published is tried again until it can. Only streams
// of the categories it was given go out; keys, snapshots and bookmarks have no
// business on the bus.
//
// # Why
//
// The bookmark is a stream of the event store, appended at an exact revision.
// That makes it durable where the events are, and makes a second relay harmless
// without any lease: whoever appends at a revision that has passed is told so,
// stops, and stands by until the bookmark has rested for a while
// (TestTwoRelaysAtOnceAreHarmless). They may both publish meanwhile; readers
// skip what they have seen.
//
// A move costs an fsync, so one is made at most every MoveEvery or MoveAfter
// events. Word that the log was looked through without finding anything for us
// moves the bookmark only when there was a lot of it: a move is itself such
// an event, and must not cause the next one (TestAnIdleRelayWritesNothing).
//
// One goroutine reads ahead, one publishes. Publishing from several would need
// the streams dealt out among them to keep their order; a batch over all
// partitions at once makes that unnecessary.
//
// Events that come one by one would each be a request to the bus, a record batch
// of its partition, and a fetch of every group that reads: most of what the bus
// costs is by the batch and not by the event. So where there is something to
// publish all the time, batches are Spacing apart, and grow meanwhile. Who has
// rested may publish some at once first, so that a shop in which little happens
// waits for nothing (TestAQuietRelayPublishesAtOnceAndABusyOneInBatches), and so
// does a batch that is full (TestARelayThatIsBehindWaitsForNothing).
//
// A bus in our own process acknowledges before its disk has the record. It
// tells, as Disk, up to where it is safe, and the relay starts from there if
// that is behind the bookmark (TestTheRelayStartsWhereTheBusIsSafe).
package relay

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cartwright/domain/event"
)

const (
	batchMax     = 1000
	readAhead    = 4 * batchMax
	moveEvery    = 100 * time.Millisecond
	moveAfter    = 10_000
	quietNotices = 16 // words of nothing for us that are worth a move
	syncEvery    = 5 * time.Second
	standby      = 5 * time.Second
	spacing      = 10 * time.Millisecond
	lastWords    = 5 * time.Second // for the moves after ctx has ended

	shortestPause = 20 * time.Millisecond
	longestPause  = 5 * time.Second
)

// A Source yields what is in the log behind a position, then what is added,
// until ctx ends: events of streams with one of the prefixes, and word of how
// far it has looked.
type Source interface {
	Follow(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Notice, error]
}

// A Bus takes events over. When Publish returns nil, all are there; after an
// error some may be, and the same events are published again. Events of one
// stream that are published later arrive later.
type Bus interface {
	Publish(ctx context.Context, events []event.Recorded) error
}

// A Disk is a bus that acknowledges before its records would survive a loss of
// power. Safe is a position up to which they would. Sync moves it forward: the
// caller vouches that everything up to position was published.
type Disk interface {
	Safe() uint64
	Sync(ctx context.Context, position uint64) error
}

// Relay is one relay. Set the first six fields, then Run it once; other methods
// may be called concurrently.
type Relay struct {
	Name     string // of the bookmark: two relays of one name carry the same events
	Source   Source
	Bus      Bus
	Marks    Marks
	Prefixes []string // of the streams that go out, as "order-"
	Log      *slog.Logger
	Disk     Disk // nil for a bus that is safe by itself

	Batch     int           // events published at once; 0 is 1000
	MoveEvery time.Duration // between two moves of the bookmark; 0 is 100 ms
	MoveAfter int           // events, if that is sooner; 0 is 10,000
	SyncEvery time.Duration // between two syncs of Disk; 0 is 5 s
	Standby   time.Duration // how long a bookmark must rest to be taken over; 0 is 5 s
	Spacing   time.Duration // between two batches where one follows the other; 0 is 10 ms

	position atomic.Uint64 // everything up to here was published
	mu       sync.Mutex
	status   Status
	oldest   time.Time // when the oldest event now being published was stored
}

// Status is what there is to say of a relay.
type Status struct {
	Position    uint64        // everything of the log up to here is on the bus
	Bookmark    uint64        // where another relay would start
	Published   uint64        // events, since Run began; repeated ones too
	CaughtUp    bool          // the log was once seen to its end
	Behind      time.Duration // the age of the oldest event that waits for the bus
	Standby     bool          // another relay of this name is at work
	Errors      uint64        // attempts that failed, since Run began
	LastError   error         // nil if the last attempt of everything succeeded
	LastErrorAt time.Time
}

// Status gives what there is to say at the moment.
func (r *Relay) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.Position = r.position.Load()
	if !r.oldest.IsZero() {
		s.Behind = time.Since(r.oldest)
	}
	return s
}

// Run carries events until ctx ends, and then returns nil; the bookmark has been
// moved to what was published. An error is a wrong configuration.
func (r *Relay) Run(ctx context.Context) error {
	if err := r.prepare(); err != nil {
		return err
	}
	var p pause
	for ctx.Err() == nil {
		err := r.lead(ctx, &p)
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, event.ErrConflict):
			r.Log.Info("relay stands by", "relay", r.Name)
			r.standBy(ctx)
		case err != nil:
			r.failed(err)
			p.wait(ctx)
		}
	}
	return nil
}

func (r *Relay) prepare() error {
	switch {
	case r.Name == "":
		return errors.New("relay has no name")
	case r.Source == nil || r.Bus == nil || r.Marks == nil:
		return fmt.Errorf("relay %s lacks a source, a bus or a store for its bookmark", r.Name)
	case len(r.Prefixes) == 0 || slices.Contains(r.Prefixes, ""):
		return fmt.Errorf("relay %s: everything would go out, keys too; name the categories", r.Name)
	}
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	orDefault(&r.Batch, batchMax)
	orDefault(&r.MoveEvery, moveEvery)
	orDefault(&r.MoveAfter, moveAfter)
	orDefault(&r.SyncEvery, syncEvery)
	orDefault(&r.Standby, standby)
	orDefault(&r.Spacing, spacing)
	return nil
}

func orDefault[T int | time.Duration](setting *T, otherwise T) {
	if *setting <= 0 {
		*setting = otherwise
	}
}

// lead carries events until ctx ends, something fails that must be begun anew,
// or, with event.ErrConflict, another relay has moved the bookmark.
func (r *Relay) lead(ctx context.Context, p *pause) error {
	mark, err := openBookmark(ctx, r.Marks, r.Name)
	if err != nil {
		return err
	}
	from := mark.position
	if r.Disk != nil {
		from = min(from, r.Disk.Safe())
	}
	if from < mark.position {
		r.Log.Warn("relay starts behind its bookmark", "relay", r.Name, "bookmark", mark.position, "position", from)
		if err = mark.move(ctx, from); err != nil { // or another relay would start beyond it
			return err
		}
	}
	p.reset()
	r.position.Store(from)
	r.update(func(s *Status) { s.Bookmark, s.Standby = mark.position, false })

	inner, stop := context.WithCancel(ctx)
	notices := make(chan event.Notice, readAhead)
	var helpers sync.WaitGroup
	helpers.Go(func() { r.read(inner, from, notices) })
	helpers.Go(func() { r.syncNowAndThen(inner, from) })
	err = r.pump(ctx, mark, notices)
	stop()
	helpers.Wait()
	return err
}

// read fills notices, following again from where it was whenever that ends.
func (r *Relay) read(ctx context.Context, at uint64, notices chan<- event.Notice) {
	var p pause
	for ctx.Err() == nil {
		for n, err := range r.Source.Follow(ctx, at, r.Prefixes...) {
			if err != nil {
				if ctx.Err() == nil {
					r.failed(fmt.Errorf("follow after %d: %w", at, err))
				}
				break
			}
			select {
			case notices <- n:
			case <-ctx.Done():
				return
			}
			at = max(at, n.Position)
			p.reset()
		}
		p.wait(ctx)
	}
}

// syncNowAndThen keeps the safe position of the bus's disk close behind. One that
// is further behind is only lost time after a crash, so failures are reported and
// nothing more.
func (r *Relay) syncNowAndThen(ctx context.Context, synced uint64) {
	if r.Disk == nil {
		return
	}
	every := time.NewTicker(r.SyncEvery)
	defer every.Stop()
	for {
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
		if at := r.position.Load(); at != synced && r.sync(ctx, at) {
			synced = at
		}
	}
}

func (r *Relay) sync(ctx context.Context, at uint64) bool {
	err := r.Disk.Sync(ctx, at)
	if err != nil && ctx.Err() == nil {
		r.failed(fmt.Errorf("sync the bus's disk at %d: %w", at, err))
	}
	return err == nil
}

// failed notes what went wrong, and logs it when it is new.
func (r *Relay) failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.status.LastError
	r.status.LastError, r.status.LastErrorAt = err, time.Now()
	r.status.Errors++
	if last == nil || last.Error() != err.Error() {
		r.Log.Warn("relay in trouble", "relay", r.Name, "error", err)
	}
}

func (r *Relay) update(change func(*Status)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.status)
}

// standBy returns when the bookmark has rested, or ctx has ended.
func (r *Relay) standBy(ctx context.Context) {
	r.update(func(s *Status) { s.Standby, s.LastError = true, nil })
	var last event.Revision
	for known := false; ; {
		mark, err := openBookmark(ctx, r.Marks, r.Name)
		switch {
		case err != nil && ctx.Err() == nil:
			r.failed(err)
			known = false
		case known && mark.revision == last:
			return
		case err == nil:
			last, known = mark.revision, true
		}
		rest := time.NewTimer(r.Standby + rand.N(r.Standby/4+1)) //nolint:gosec // jitter needs no secrecy
		select {
		case <-rest.C:
		case <-ctx.Done():
			rest.Stop()
			return
		}
	}
}

// Rewind sets the bookmark back to position, so that everything behind it is
// published again. A bookmark that is not beyond it stays. A relay at work
// notices when it moves the bookmark next, and starts over.
func (r *Relay) Rewind(ctx context.Context, position uint64) error {
	var p pause
	for {
		mark, err := openBookmark(ctx, r.Marks, r.Name)
		if err != nil {
			return fmt.Errorf("rewind relay %s: %w", r.Name, err)
		}
		if mark.position <= position {
			return nil
		}
		err = mark.move(ctx, position)
		if err == nil {
			return nil
		}
		if !errors.Is(err, event.ErrConflict) || !p.wait(ctx) {
			return fmt.Errorf("rewind relay %s to %d: %w", r.Name, position, err)
		}
	}
}

func (r *Relay) allowed(stream string) bool {
	return slices.ContainsFunc(r.Prefixes, func(p string) bool { return strings.HasPrefix(stream, p) })
}

// A pause grows with every failure in a row, up to a limit, and is jittered.
type pause struct{ last time.Duration }

func (p *pause) reset() { p.last = 0 }

func (p *pause) next() time.Duration {
	p.last = min(max(2*p.last, shortestPause), longestPause)
	return p.last/2 + rand.N(p.last/2) //nolint:gosec // jitter needs no secrecy
}

// wait reports whether it was waited to the end.
func (p *pause) wait(ctx context.Context) bool {
	t := time.NewTimer(p.next())
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
