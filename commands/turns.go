package commands

import (
	"context"
	"math/rand/v2"
	"time"

	"cartwright/domain/event"
)

// turns is what a lane knows of the rivals before its stream: lanes of other
// processes that append there too.
//
// # Why
//
// A process whose append has just gone through decides its next batch at once,
// while its rival still reads what it lost against. So the same one wins again
// and again, as long as it has anything to do, and the buyers of the other are
// turned away. Whoever finds that others append waits after each append of its
// own until as many of theirs have come as came the last time, or until nobody
// says anything any more, and decides on what it then read. Its own buyers
// gather meanwhile, so that a turn is a larger append and not a lost one, and a
// conflict is the exception (TestProcessesTakeTurnsAtOneStream).
//
// What one process does is all that another must know, and the stream says it:
// there is no register of processes, no owner to elect and none to fail. To
// forward commands to an owner was rejected for that. It would spare every
// process the reading of what the others decide, which is what turns cost; that
// is little beside a whole checkout, and much for a process that did nothing
// but hold goods. A lease in the log would keep whoever does not have it
// waiting until the lease of a dead owner runs out.
//
// Who always wins never meets the others. So a lane that has been busy for long
// stands still for a moment, in which whoever lost gets through; and whoever has
// lost twice to a stranger tries with fewer commands, which are faster decided.
// What that costs a process that is alone is a thirtieth at most
// (TestWhoAlwaysWinsListensNowAndThen). A rival that has nothing more to say is
// waited for in vain a few times at most (TestARivalThatFallsSilentIsNotWaitedForAnyLonger),
// and who only follows another at leisure is no rival (TestWhoComesLaterIsNoRival).
//
// All this decides only who comes next. What is stored stays the store's to
// decide, by the revision.
type turns struct {
	at       event.Revision // where this process or another was last found to have left the stream
	wrote    bool           // this process was one of them
	owed     bool           // its last batch was stored, and nobody was given way since
	begun    time.Time      // when the batch under way was decided
	current  time.Time      // when the fold was last known to be the newest
	listened time.Time      // when a rival could last get through
	took     time.Duration  // from a decision to its answer from the store, about
	rivals   int            // appends of others that are expected between two of its own
	since    int            // those that came since its last one
	defeats  int            // conflicts since then
	trust    int            // turns that may go unused before nobody is waited for any more
}

// Times are counted in steps, of which an append takes four.
const (
	stepsPerAppend = 4
	leastStep      = 250 * time.Microsecond
	mostStep       = 10 * time.Millisecond

	firstLook    = 3  // steps after which a rival's append may be there
	silence      = 12 // steps after which no rival has anything to say
	longAgo      = 64 // steps after which nobody is known to be a rival
	lastOfRound  = 6  // steps after which no rival follows another
	looksForRoom = 10 // half steps after which no append seems to be under way

	mostRivals = 7
	mostTrust  = 3
	smoothing  = 4 // the last append's share in how long one takes

	listenEvery  = 200 * time.Millisecond // a busy lane listens as often,
	listenAppend = 100                    // and not before so many appends
)

// Rivals tells whether other processes append to the stream of id, as far as this
// one has met them there while it was busy.
func (h *Handler[S, C, E]) Rivals(id string) bool {
	stream := h.Stream(id)
	sh := h.shard(stream)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	l := sh.lanes[stream]
	return l != nil && l.rivals
}

func (t *turns) step() time.Duration {
	return min(max(t.took/stepsPerAppend, leastStep), mostStep)
}

// decides notes that a batch is decided at a revision.
func (t *turns) decides(at event.Revision) {
	t.begun = time.Now()
	idle := t.begun.Sub(t.current)
	if idle > silence*t.step() {
		t.listened = t.begun // nobody was kept from anything
	}
	if idle > longAgo*t.step() {
		t.at, t.trust = at, 0 // what others did meanwhile says nothing of what they do now
		return
	}
	t.meet(at)
}

// meet tells whether others were found to have appended.
func (t *turns) meet(at event.Revision) bool {
	if !t.wrote || at <= t.at {
		return false
	}
	t.at = at
	t.since++
	t.trust = min(t.trust+1, mostTrust)
	return true
}

// stored notes that the batch under way is in the store.
func (t *turns) stored(at event.Revision) {
	now := time.Now()
	took := now.Sub(t.begun)
	if t.took > 0 {
		took = t.took + (took-t.took)/smoothing
	}
	t.rivals = min(max(t.since, 1), mostRivals)
	t.at, t.wrote, t.owed = at, true, true
	t.took, t.current, t.since, t.defeats = took, now, 0, 0
}

// few is how many of so many commands are decided for the next append.
func (t *turns) few(all int) int {
	if t.defeats < 2 || t.trust > 1 {
		return all
	}
	return max(1, all>>min(t.defeats, 16))
}

// stale tells whether a decision would probably be made on too old a state.
func (t *turns) stale() bool {
	return t.trust > 0 && time.Since(t.current) > t.step()
}

// readRivals reads what came before a batch that met with a conflict. From the
// second time on it waits for the moment when there is room for another append:
// when one has just come, or none does. It looks more often than those do who
// wait for their turn, and so comes before them.
func (l *lane[S, C, E]) readRivals(ctx context.Context) error {
	t := &l.fold.turns
	step := t.step()
	if t.defeats++; t.defeats == 1 {
		return l.read(ctx)
	}
	for quiet, last := 0, event.Revision(0); ; quiet++ {
		if err := l.read(ctx); err != nil {
			return err
		}
		l.fold.turns.current = time.Now()
		came := l.fold.at > last
		if quiet > 0 && came || quiet == looksForRoom {
			return nil
		}
		last = l.fold.at
		// Half a step, about: who kept time with the others would always come when
		// one of them has just begun.
		if !l.pause(step/4 + rand.N(step/2)) { //nolint:gosec // it guards nothing
			return errStopped
		}
	}
}

// giveWay lets rivals append that may have lost against the batch which was just
// stored.
func (l *lane[S, C, E]) giveWay(ctx context.Context) {
	t := &l.fold.turns
	if !t.owed {
		return
	}
	t.owed = false
	switch step := t.step(); {
	case t.trust > 0:
		l.waitForTurn(ctx, step)
	case time.Since(t.listened) > max(listenEvery, listenAppend*t.took):
		l.listen(ctx, silence*step)
	}
}

// waitForTurn returns when it is this process's turn, having read what the
// others did with theirs.
func (l *lane[S, C, E]) waitForTurn(ctx context.Context, step time.Duration) {
	met, ok := l.listen(ctx, firstLook*step)
	for quiet := firstLook; ok; quiet++ {
		t := &l.fold.turns // reading may have made it forget
		if met {
			quiet = 0
		}
		switch {
		case t.since >= t.rivals:
			return
		case t.since > 0 && quiet >= lastOfRound:
			return
		case quiet >= silence:
			t.trust--
			return
		}
		met, ok = l.listen(ctx, step)
	}
}

// listen waits, and tells whether others have appended.
func (l *lane[S, C, E]) listen(ctx context.Context, d time.Duration) (met, ok bool) {
	if !l.pause(d) || l.read(ctx) != nil {
		return false, false
	}
	t := &l.fold.turns
	t.current = time.Now()
	t.listened = t.current
	return t.meet(l.fold.at), true
}
