package commands

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"cartwright/domain/event"
)

// A Log is where a process hears what others append.
type Log interface {
	// Head is the position of the last event there is.
	Head(ctx context.Context) (uint64, error)
	// Follow gives what lies behind a position, in streams with one of the
	// prefixes, and now and then how far it has looked, until ctx ends.
	Follow(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Notice, error]
	// All gives what lies behind a position, up to the end of the log as of now.
	All(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Recorded, error]
}

// What is heard is asked for as long as somebody looks.
const (
	hearEvery  = 25 * time.Millisecond  // how often the end of the log is asked for
	hearWithin = 100 * time.Millisecond // how old what was heard may be
	hearIdle   = time.Second            // without a look, nothing is asked
	hearSoon   = 10 * time.Millisecond  // how long the end of the log is waited for before it is read
	hearAgain  = time.Second            // the wait before following is tried again
)

// hearing follows a category, or one stream, and knows of which moment all of it
// was heard: one at which the log had an end that has been passed since. So what
// nobody was heard to change is as new as that moment, and need not be read.
type hearing struct {
	log    Log
	prefix string
	every  time.Duration // how often the end of the log is asked for
	heard  func(stream string, at event.Revision)
	began  time.Time

	begun  atomic.Int64  // what is known from then on was heard of, since began; 0 for not yet
	passed atomic.Uint64 // the position up to which all was heard
	moved  chan struct{} // holds a token when passed has moved
	wanted atomic.Int64  // when somebody wanted to know last, since began
	asOf   atomic.Int64  // of when all was heard, since began; 0 for never
	cancel context.CancelFunc
	ended  sync.WaitGroup
}

// hear begins to follow the streams with a prefix. heard is told of every event,
// of some more than once.
func hear(log Log, prefix string, every time.Duration, heard func(stream string, at event.Revision)) *hearing {
	ctx, cancel := context.WithCancel(context.Background())
	h := &hearing{log: log, prefix: prefix, every: every, heard: heard, began: time.Now(), moved: make(chan struct{}, 1), cancel: cancel}
	h.ended.Go(func() { h.follow(ctx) })
	h.ended.Go(func() { h.ask(ctx) })
	return h
}

// close ends the hearing. The nil one hears nothing.
func (h *hearing) close() {
	if h != nil {
		h.cancel()
		h.ended.Wait()
	}
}

// fresh tells whether all was heard up to a moment ago.
func (h *hearing) fresh(within time.Duration) bool {
	if h == nil {
		return false
	}
	now := h.moment()
	h.wanted.Store(now)
	asOf := h.asOf.Load()
	return asOf > 0 && now-asOf < int64(within)
}

// moment is a time by the hearing's clock, never 0.
func (h *hearing) moment() int64 {
	if h == nil {
		return 0
	}
	return max(int64(time.Since(h.began)), 1)
}

// covers tells whether all that came after a moment was heard, or will be.
func (h *hearing) covers(moment int64) bool {
	begun := h.begun.Load()
	return begun > 0 && moment >= begun
}

// follow tells of what is appended from now on. What it goes on with after a break
// is where it was, so nothing is left out.
func (h *hearing) follow(ctx context.Context) {
	for ; ctx.Err() == nil; rest(ctx, hearAgain) {
		if h.begun.Load() == 0 {
			head, err := h.log.Head(ctx)
			if err != nil {
				continue
			}
			h.pass(head)
			h.begun.Store(h.moment()) // after the head was asked for: what was read before is not covered
		}
		for n, err := range h.log.Follow(ctx, h.passed.Load(), h.prefix) {
			if err != nil {
				break
			}
			if n.Event.Name != "" {
				h.heard(n.Event.Stream, n.Event.Revision)
			}
			h.pass(n.Position)
		}
	}
}

func (h *hearing) pass(position uint64) {
	h.passed.Store(position)
	select {
	case h.moved <- struct{}{}:
	default:
	}
}

// ask finds out, as long as somebody wants to know, where the log ends, and waits
// until that was heard.
func (h *hearing) ask(ctx context.Context) {
	for ; ctx.Err() == nil; rest(ctx, h.every) {
		at := h.moment()
		if wanted := h.wanted.Load(); wanted == 0 || at-wanted > int64(hearIdle) || h.begun.Load() == 0 {
			continue
		}
		if head, err := h.log.Head(ctx); err == nil && h.reach(ctx, head) {
			h.asOf.Store(at)
		}
	}
}

// reach waits until a position was passed, and reads what is before it if that
// takes long: who follows is told how far others have come only every few dozen
// events, so that in a quiet log nobody would ever know that nothing has changed
// (TestALookReadsNothingInALogThatHasBecomeQuiet).
func (h *hearing) reach(ctx context.Context, position uint64) bool {
	late := time.NewTimer(hearSoon)
	defer late.Stop()
	for h.passed.Load() < position {
		select {
		case <-h.moved:
		case <-late.C:
			return h.read(ctx)
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// read tells of what is in the log and was not passed yet.
func (h *hearing) read(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, hearWithin)
	defer cancel()
	for e, err := range h.log.All(ctx, h.passed.Load(), h.prefix) {
		if err != nil {
			return false
		}
		h.heard(e.Stream, e.Revision)
	}
	return ctx.Err() == nil
}

// rest waits, less long when ctx ends.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
