package esdbnode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// A linker makes the links of one kind, behind the log: it follows it as a
// subscriber does, and appends wait for nothing of it.
type linker struct {
	store *store
	kind  linkKind

	asking  chan struct{} // holds a token while links are asked for for the first time
	asked   atomic.Bool
	kept    atomic.Uint64 // a scavenge throws away nothing behind it
	running sync.WaitGroup

	mu      sync.Mutex
	through uint64        // the events up to here have their links
	stored  uint64        // so it is written down
	failed  error         // why it goes no further, until it does
	moved   chan struct{} // closed when one of the above is another
	watched map[string]*watched
	hearers map[*hearer]struct{}

	// Only the goroutine that makes links touches these.
	young, old map[string]uint64 // how many links there are, of some names
	buf        []record
}

// A watched stream has subscribers.
type watched struct {
	grown    chan struct{} // closed when it has more links
	watchers int
}

// A hearer is told of every link that was made.
type hearer struct {
	each func(stream string, number uint64)
}

// knownNames is of how many names it is kept in memory how many links they have, in
// each of two generations. Of others the log is asked.
const knownNames = 1 << 13

// lookAgain is when a linker that has failed tries again.
const lookAgain = 500 * time.Millisecond

// openLinks finds out how far the links of each kind go.
func (s *store) openLinks() error {
	for i, k := range linkKinds() {
		l := &linker{
			store: s, kind: k, asking: make(chan struct{}, 1), moved: make(chan struct{}),
			watched: map[string]*watched{}, hearers: map[*hearer]struct{}{}, young: map[string]uint64{}, old: map[string]uint64{},
		}
		l.kept.Store(nobodyLinks)
		s.linkers[i] = l
		b, closer, err := s.db.Get(linkedKey(k))
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		if err == nil {
			l.through, err = getLinked(b)
			err = errors.Join(err, closer.Close())
		}
		if end := s.tail.last(); err == nil && l.through > end {
			err = fmt.Errorf("they go up to %d, and the log to %d: %w", l.through, end, errCorrupt)
		}
		if err != nil {
			return fmt.Errorf("links of %s: %w", k.prefix, err)
		}
		l.stored = l.through
		l.kept.Store(l.through)
		l.asked.Store(true)
	}
	return nil
}

// linker gives who makes the links of a stream, nil for one that has none.
func (s *store) linker(stream string) *linker {
	for _, l := range s.linkers {
		if l.names(stream) {
			return l
		}
	}
	return nil
}

func (l *linker) names(stream string) bool {
	return strings.HasPrefix(stream, l.kind.prefix)
}

func (l *linker) name(stream string) string { return stream[len(l.kind.prefix):] }

// link has links made that were asked for before the log was opened.
func (s *store) link() {
	for _, l := range s.linkers {
		if l.asked.Load() {
			l.running.Go(l.run)
		}
	}
}

// unlink waits until no links are made any more. The store must be closing.
func (s *store) unlink() {
	for _, l := range s.linkers {
		l.running.Wait()
	}
}

// ask has links of this kind made from now on, if nobody has asked for one before.
//
// What was thrown away before has no number, and what is thrown away from now on
// must have one before. So whatever the writer was told to throw away is gone for
// certain before the first event is numbered, and that somebody asked is not
// forgotten: whoever reads a number will never find another link by it.
func (l *linker) ask(ctx context.Context) error {
	if l.asked.Load() {
		return nil
	}
	select {
	case l.asking <- struct{}{}:
		defer func() { <-l.asking }()
	case <-l.store.closing:
		return errClosing
	case <-ctx.Done():
		return ctx.Err()
	}
	if l.asked.Load() {
		return nil
	}
	if err := l.begin(ctx); err != nil {
		l.kept.Store(nobodyLinks)
		return fmt.Errorf("ask for %s: %w", l.kind.prefix, err)
	}
	l.asked.Store(true)
	l.running.Go(l.run)
	return nil
}

func (l *linker) begin(ctx context.Context) error {
	l.kept.Store(0)
	// It finds nothing to throw away, behind all that was to be before.
	if _, err := l.store.do(ctx, &write{op: opSweep, stream: l.kind.prefix}); err != nil {
		return err
	}
	return l.store.db.Set(linkedKey(l.kind), make([]byte, 8), pebble.Sync)
}

// run makes links until the store closes.
func (l *linker) run() {
	l.buf = make([]record, 0, pageEvents)
	again := time.NewTimer(lookAgain)
	defer again.Stop()
	for l.store.goingOn(context.Background()) == nil {
		grown, err := l.step()
		switch {
		case err != nil:
			l.fail(err)
			again.Reset(lookAgain)
		case grown == nil:
			continue
		}
		select {
		case <-grown:
		case <-again.C:
		case <-l.store.closing:
		}
	}
}

// step makes the links of the next few events. It gives what is closed when there
// are more, where there were none.
func (l *linker) step() (grown <-chan struct{}, err error) {
	from := l.through + 1 // nobody else changes it
	n, end, grown, ok := l.store.tail.from(from, l.buf[:cap(l.buf)])
	records, through := l.buf[:n], end
	switch {
	case !ok:
		if low := l.store.room.low.Load(); low != nil { // there may be a lot to write
			return nil, low
		}
		page, next, more, err := l.store.scan(context.Background(), span{from: from, to: end, limit: cap(l.buf)}, l.buf[:0])
		if err != nil {
			return nil, err
		}
		if records = page; more {
			through = next - 1
		}
	case n == cap(l.buf):
		through = records[n-1].position
	case end == l.through:
		clear(l.buf[:cap(l.buf)]) // while it waits it holds on to nothing
		return grown, nil
	}
	return nil, l.add(records, through)
}

// stride is how many events may have no links before it is written down that they
// were looked at.
const stride = 1 << 16

// A madeLink is one that was made.
type madeLink struct {
	name             string
	number, position uint64
}

// add makes the links of events, and says that there are all up to a position. They
// are not synced: whatever is, in the same write-ahead log, comes behind them. So
// they are there again after a crash, or are made again of the same events, since a
// scavenge throws none away that has no link yet.
func (l *linker) add(records []record, through uint64) error {
	tx := l.store.db.NewBatch()
	defer func() { _ = tx.Close() }()
	links, err := l.put(tx, records)
	if err == nil && (len(links) > 0 || through-l.stored >= stride) {
		l.stored = through
		if err = tx.Set(linkedKey(l.kind), binary.BigEndian.AppendUint64(nil, through), nil); err == nil {
			err = l.store.db.Apply(tx, pebble.NoSync)
		}
	}
	if err != nil {
		clear(l.young) // they count what is not there
		clear(l.old)
		return fmt.Errorf("links behind position %d: %w", l.through, err)
	}
	l.show(links, through)
	return nil
}

// put puts the links of events into a batch.
func (l *linker) put(tx *pebble.Batch, records []record) ([]madeLink, error) {
	links := make([]madeLink, 0, len(records))
	for i := range records {
		to, ok := l.kind.link(&records[i])
		if !ok {
			continue
		}
		number, err := l.next(to.name)
		if err != nil {
			return nil, err
		}
		e := tx.SetDeferred(linkKeyLen(l.kind, to.name), to.size())
		putLinkKey(e.Key, l.kind, to.name, number)
		to.put(e.Value)
		if err := e.Finish(); err != nil {
			return nil, fmt.Errorf("%s%s@%d: %w", l.kind.prefix, to.name, number, err)
		}
		links = append(links, madeLink{to.name, number, to.position})
	}
	return links, nil
}

// next gives the number of a name's next link, and takes it.
func (l *linker) next(name string) (uint64, error) {
	n, ok := l.young[name]
	if !ok {
		if n, ok = l.old[name]; !ok {
			var err error
			if n, err = l.count(name); err != nil {
				return 0, err
			}
		}
		if len(l.young) >= knownNames {
			l.old, l.young = l.young, make(map[string]uint64, knownNames)
		}
		name = strings.Clone(name) // it is part of a whole event
	}
	l.young[name] = n + 1
	return n, nil
}

// count asks the log how many links a name has.
func (l *linker) count(name string) (uint64, error) {
	it, err := l.store.db.NewIter(&pebble.IterOptions{LowerBound: linkKey(l.kind, name, 0), UpperBound: linkKey(l.kind, name, math.MaxUint64)})
	if err != nil {
		return 0, fmt.Errorf("count %s%s: %w", l.kind.prefix, name, err)
	}
	n := uint64(0)
	if it.Last() {
		n = numberIn(it.Key()) + 1
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return 0, fmt.Errorf("count %s%s: %w", l.kind.prefix, name, err)
	}
	return n, nil
}

// show lets those who wait know how far links go.
func (l *linker) show(links []madeLink, through uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.through, l.failed = through, nil
	l.kept.Store(through)
	l.move()
	if len(l.watched)+len(l.hearers) == 0 {
		return
	}
	for _, m := range links {
		if w, ok := l.watched[m.name]; ok {
			close(w.grown)
			w.grown = make(chan struct{})
		}
		for h := range l.hearers {
			h.each(l.kind.prefix+m.name, m.number)
		}
	}
}

// move must be called with mu held.
func (l *linker) move() {
	close(l.moved)
	l.moved = make(chan struct{})
}

// fail lets those who wait know why they do.
func (l *linker) fail(err error) {
	l.store.log.Error("links of events are not made, it is tried again", "kind", l.kind.prefix, "err", err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = fmt.Errorf("links of %s: %w", l.kind.prefix, err)
	l.move()
}

// place is the position up to which events have their links.
func (l *linker) place() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.through
}

// reach waits until all events up to a position have their links.
func (l *linker) reach(ctx context.Context, position uint64) error {
	for {
		l.mu.Lock()
		through, failed, moved := l.through, l.failed, l.moved
		l.mu.Unlock()
		switch {
		case through >= position:
			return nil
		case failed != nil:
			return failed
		}
		select {
		case <-moved:
		case <-l.store.closing:
			return errClosing
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watch has a name's subscriber told of new links, until unwatch.
func (l *linker) watch(name string) *watched {
	l.mu.Lock()
	defer l.mu.Unlock()
	w, ok := l.watched[name]
	if !ok {
		w = &watched{grown: make(chan struct{})}
		l.watched[name] = w
	}
	w.watchers++
	return w
}

func (l *linker) unwatch(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.watched[name]
	if w.watchers--; w.watchers == 0 {
		delete(l.watched, name)
	}
}

// grown is closed when a name has more links than it has now.
func (l *linker) grown(w *watched) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return w.grown
}

// hear has each told of every link that is made until stop is called, after which
// it is not called any more. It must be quick.
func (l *linker) hear(each func(stream string, number uint64)) (stop func()) {
	h := &hearer{each}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hearers[h] = struct{}{}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.hearers, h)
	}
}

// linked waits until all events there are have the links that were asked for.
func (s *store) linked(ctx context.Context) error {
	end := s.tail.last()
	for _, l := range s.linkers {
		if !l.asked.Load() {
			continue
		}
		if err := l.reach(ctx, end); err != nil {
			return err
		}
	}
	return nil
}

// unlinked tells whether an event may have no link yet that was asked for.
func (s *store) unlinked(position uint64) bool {
	for _, l := range s.linkers {
		if position > l.kept.Load() {
			return true
		}
	}
	return false
}

// linksFigures tells how far the links go that somebody has asked for.
func (s *store) linksFigures() map[string]uint64 {
	var through map[string]uint64
	for _, l := range s.linkers {
		if !l.asked.Load() {
			continue
		}
		if through == nil {
			through = map[string]uint64{}
		}
		through[l.kind.prefix] = l.place()
	}
	return through
}
