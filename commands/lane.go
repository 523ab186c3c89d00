package commands

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"cartwright/domain"
	"cartwright/domain/event"
)

type kind int

const (
	decide kind = iota // a command
	recall             // only the answer of a command that was carried out before
	look               // only the state
)

// A call is one command on its way through a lane.
type call[S, C, E any] struct {
	kind   kind
	req    Request
	cmd    C
	create bool // the caller believes that the stream is new
	see    func(S, event.Revision)

	gone     <-chan struct{} // the caller waits no more
	answered chan struct{}   // closed once done and err are set
	done     Done[E]
	err      error

	copyOf *decision[S, C, E]
}

// fold is what a stream says so far, as far as it is known here.
type fold[S any] struct {
	state  S // what the store has
	ahead  S // the same, and what is decided but not stored
	synced bool
	at     event.Revision
	known  bool // read, or written, from the beginning; else the stream was only taken for new
	causes map[string]span
	born   int64  // a moment before it was read to its end, by the hearing's clock
	shelf  *shelf // of its snapshots, nil while it is not known to be long
	turns  turns  // of this process and others at appending
}

// span is where the events of a command are.
type span struct {
	from, to event.Revision // the first and the last of them
	digest   string
}

// decision is a call with what was decided for it in the batch under way.
type decision[S, C, E any] struct {
	call   *call[S, C, E]
	events []E
	from   event.Revision
}

// A lane is the queue before one stream, and the stream's state. It lives while
// somebody is in it; between times its fold rests in the handler's cache.
type lane[S, C, E any] struct {
	handler *Handler[S, C, E]
	shard   *shard[S, C, E]
	stream  string
	queue   queue[S, C, E] // guarded by shard.mu
	pace    pace           // guarded by shard.mu
	watch   *watch[S]      // of those who want to know; nil for nobody
	cut     bool           // the last batch had fewer calls than it had room for
	fold    *fold[S]
	rivals  bool           // others were found to append to the stream; guarded by shard.mu
	heard   event.Revision // the newest of the stream that others were heard to append; guarded by shard.mu
}

// run serves the lane until nobody is in it.
func (l *lane[S, C, E]) run(ctx context.Context) {
	if f, ok := l.handler.idle.GetIfPresent(l.stream); ok {
		l.fold = f
	} else {
		l.forget()
	}
	for {
		calls := l.next()
		if calls == nil {
			return
		}
		rest := l.serve(ctx, calls)
		l.giveWay(ctx)
		l.putBack(len(calls), rest)
		l.keepSnapshot(ctx)
	}
}

// next takes the calls of the next batch, or ends the lane when there are none.
func (l *lane[S, C, E]) next() []*call[S, C, E] {
	l.shard.mu.Lock()
	defer l.shard.mu.Unlock()
	if l.queue.len() == 0 {
		l.rest()
		delete(l.shard.lanes, l.stream)
		return nil
	}
	l.pace.begins(time.Now())
	l.watch = l.shard.watches[l.stream]
	return l.queue.take(l.handler.spec.Batch)
}

// rest leaves the fold to the next lane of the stream, if it is worth it. It is
// asked first whether it is there already, as that of a stream in much use is: to
// put it there again costs several times as much as to look.
func (l *lane[S, C, E]) rest() {
	idle := l.handler.idle
	if !l.fold.worthKeeping(l.heard) {
		idle.Invalidate(l.stream)
		return
	}
	if kept, ok := idle.GetIfPresent(l.stream); !ok || kept != l.fold {
		idle.Set(l.stream, l.fold)
	}
}

// putBack lets calls that found no place in a batch be the first of the next.
func (l *lane[S, C, E]) putBack(taken int, rest []*call[S, C, E]) {
	l.shard.mu.Lock()
	defer l.shard.mu.Unlock()
	l.pace.ends(time.Now(), taken-len(rest), !l.cut && len(rest) > 0)
	l.rivals = l.fold.turns.trust > 0
	l.queue.putBack(rest)
}

// serve decides calls, stores what is decided in one append, and answers them.
// It gives back those for which the append had no room.
func (l *lane[S, C, E]) serve(ctx context.Context, calls []*call[S, C, E]) (rest []*call[S, C, E]) {
	calls = present(calls)
	if len(calls) == 0 {
		return nil
	}
	began := l.watch.moment()
	b, err := l.settled(ctx, calls)
	l.show(began, err == nil)
	if err != nil {
		answerAll(calls, err)
		return nil
	}
	l.answer(ctx, b)
	return b.rest
}

// settled decides calls until the decisions stand: stored, or made on a state
// that was the newest after the calls had come.
func (l *lane[S, C, E]) settled(ctx context.Context, calls []*call[S, C, E]) (*batch[S, C, E], error) {
	confirmed := false
	if l.fold.turns.stale() || !l.fold.known && !onlyCreates(calls) {
		if err := l.read(ctx); err != nil {
			return nil, err
		}
		confirmed = true
	}
	for range l.handler.spec.Attempts {
		b, err := l.decideAll(calls)
		if err == nil {
			confirmed, err = l.settle(ctx, b, confirmed)
		}
		switch {
		case err == nil && confirmed:
			return b, nil
		case err == nil:
			err = l.read(ctx)
		case errors.Is(err, event.ErrConflict):
			err = l.readRivals(ctx)
		default:
			l.forget()
		}
		if err != nil {
			return nil, err
		}
		confirmed = true
	}
	return nil, errBusy
}

// jitter is how long to wait after so many conflicts.
func jitter(conflicts int) time.Duration {
	const most = 256                                                                      // ms
	return time.Duration(1+rand.IntN(min(4<<min(conflicts, 6), most))) * time.Millisecond //nolint:gosec // it spreads rivals, it guards nothing
}

var (
	errBusy = &domain.Error{
		Code: domain.Conflict, Reason: "conflict",
		Detail: "Others kept changing this; try again.", Err: event.ErrConflict,
	}
	errStopped = &domain.Error{
		Code: domain.Unavailable, Reason: "shutting_down",
		Detail: "This process is stopping.", RetryAfter: time.Second,
	}
)

// settle brings a batch's events into the store and says whether the state it
// was decided on is thereby known to have been the newest.
func (l *lane[S, C, E]) settle(ctx context.Context, b *batch[S, C, E], confirmed bool) (bool, error) {
	if len(b.records) == 0 {
		return confirmed, nil
	}
	if err := l.append(ctx, b.records); err != nil {
		return false, err
	}
	return true, l.keep(b)
}

// append stores records. It returns only once it is certain that they are in,
// or that they are not, or that there is no way to find out.
func (l *lane[S, C, E]) append(ctx context.Context, records []event.Recorded) error {
	unknown := false
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		actx, cancel := context.WithTimeout(ctx, l.handler.spec.Timeout)
		err := l.handler.spec.Store.Append(actx, l.stream, l.fold.at, records)
		cancel()
		switch {
		case err == nil, errors.Is(err, event.ErrConflict):
			return err
		case errors.Is(err, event.ErrTooLarge):
			return &domain.Error{Code: domain.Invalid, Reason: "too_large", Detail: "This is more than one append may hold.", Err: err}
		case errors.Is(err, event.ErrDeleted):
			return &domain.Error{Code: domain.NotFound, Reason: "deleted", Detail: "This was erased.", Err: err}
		case errors.Is(err, event.ErrDenied) && !unknown:
			return deniedError(l.stream, err)
		case errors.Is(err, event.ErrDenied):
			// This try did nothing, but the one before may have. To go on asking
			// would be in vain, so whoever asked is told that nobody knows.
			return fmt.Errorf("append to %s, outcome unknown: %w", l.stream, err)
		}
		unknown = true
		if !l.pause(wait) {
			return fmt.Errorf("append to %s, outcome unknown: %w", l.stream, err)
		}
	}
}

// deniedError says that the log does not let this process in. Only an operator
// can help, so nobody should come again in a second.
func deniedError(stream string, err error) error {
	return &domain.Error{
		Code: domain.Unavailable, Reason: "log_unavailable", RetryAfter: 30 * time.Second,
		Detail: "The event log can't be used at the moment.", Err: fmt.Errorf("%s: %w", stream, err),
	}
}

// pause waits, and says false when the handler is closing.
func (l *lane[S, C, E]) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.handler.stop:
		return false
	}
}

// read brings the fold up to what the store has. What was read before an error
// stays, so that a stream which takes longer than one read may is not begun
// again for ever (TestAReadThatRunsOutOfTimeGoesOnWhereItStopped).
func (l *lane[S, C, E]) read(ctx context.Context) error {
	f := l.fold
	f.unsync()
	born := l.handler.hearing.moment()
	ctx, cancel := context.WithTimeout(ctx, l.handler.spec.Timeout)
	defer cancel()
	long, err := l.fetch(ctx, l.lookAfter())
	if err == nil && long {
		l.adopt(ctx)
		_, err = l.fetch(ctx, 0)
	}
	if err != nil {
		return readError(l.stream, err)
	}
	f.known, f.born = true, born
	return nil
}

// fetch folds what is behind the fold, no more than limit events unless that is
// 0, and says whether there is more.
func (l *lane[S, C, E]) fetch(ctx context.Context, limit int) (more bool, err error) {
	n := 0
	for r, err := range l.handler.spec.Store.Load(ctx, l.stream, l.fold.at) {
		if err != nil {
			if errors.Is(err, event.ErrDeleted) {
				l.forget()
			}
			return false, err
		}
		if n++; limit > 0 && n > limit {
			return true, nil
		}
		if err = l.replay(r); err != nil {
			l.forget()
			return false, err
		}
	}
	return false, nil
}

func readError(stream string, err error) error {
	if errors.Is(err, event.ErrDeleted) {
		return &domain.Error{Code: domain.NotFound, Reason: "deleted", Detail: "This was erased.", Err: err}
	}
	if _, corrupt := errors.AsType[*event.CorruptError](err); corrupt {
		return err
	}
	if errors.Is(err, event.ErrDenied) {
		return deniedError(stream, err)
	}
	return &domain.Error{
		Code: domain.Unavailable, Reason: "log_unavailable", RetryAfter: time.Second,
		Detail: "The event log does not answer.", Err: fmt.Errorf("load %s: %w", stream, err),
	}
}

// replay folds one stored event.
func (l *lane[S, C, E]) replay(r event.Recorded) error {
	f := l.fold
	e, err := event.Decode[E](l.handler.spec.Events, r)
	if err == nil {
		f.state, err = l.handler.spec.Decider.Evolve(f.state, e)
	}
	if err != nil {
		return &event.CorruptError{Stream: l.stream, Revision: r.Revision, Err: err}
	}
	f.at = r.Revision
	l.remember(e, r.Cause, r.Digest, r.Revision)
	return nil
}

// remember notes where the events of a cause are.
func (l *lane[S, C, E]) remember(e E, cause, digest string, at event.Revision) {
	if natural := l.handler.spec.Natural; natural != nil && natural(e) {
		return
	}
	s, seen := l.fold.causes[cause]
	if !seen {
		s = span{from: at, digest: digest}
	}
	s.to = at
	l.fold.causes[cause] = s
}

// forget drops a fold that can't be trusted any more.
func (l *lane[S, C, E]) forget() {
	l.fold = &fold[S]{causes: map[string]span{}, born: l.handler.hearing.moment()}
}

// worthKeeping tells whether the next to come goes on from here: it is what the
// stream says, as far as was heard, or a beginning of it.
func (f *fold[S]) worthKeeping(heard event.Revision) bool {
	if f.known {
		return heard <= f.at
	}
	return f.at > 0
}

func (f *fold[S]) unsync() {
	var none S
	f.ahead, f.synced = none, false
}

// present leaves out the calls whose callers have gone.
func present[S, C, E any](calls []*call[S, C, E]) []*call[S, C, E] {
	kept := calls[:0]
	for _, c := range calls {
		select {
		case <-c.gone:
		default:
			kept = append(kept, c)
		}
	}
	return kept
}

func onlyCreates[S, C, E any](calls []*call[S, C, E]) bool {
	for _, c := range calls {
		if !c.create {
			return false
		}
	}
	return true
}

func answerAll[S, C, E any](calls []*call[S, C, E], err error) {
	for _, c := range calls {
		c.err = err
		close(c.answered)
	}
}
