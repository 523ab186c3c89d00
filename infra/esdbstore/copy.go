package esdbstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"cartwright/domain/event"
)

// A Copy carries the history of one log to another: the events of all streams
// but system streams and those that are left behind, with their ids, types, data
// and metadata as they are, each at its revision, and the tombstones. The time
// at which an event was stored goes along in its metadata, where Recorded.Created
// is read from. What the metadata of a stream limits is limited in the target too.
//
// The events of a stream with a tombstone do not go along: its key may be what
// was to be forgotten. Whether the source was scavenged of them or not makes no
// difference (TestAScavengedHistoryIsCopied). Of a stream with limits all events
// go along that are there, so one that was scavenged of its oldest can't be copied.
//
// # Order
//
// The events of one stream, and those of one correlation, are in the order of
// the source. Others may change places, but never over more than 2,048 events
// that are copied, since no event of one such window is appended before all of
// the window before it are in. That is what allows many appends to be under way
// at once. With Exact there is only one, and the order is that of the source.
//
// # Going on
//
// Every event is appended at its own revision, so a second copy changes nothing
// and any difference is found. A copy that was broken off finds in the source
// the newest event of the target, and begins a window before it.
type Copy struct {
	From, To *Store
	Leave    []string       // the categories that are left behind
	Exact    bool           // keep the order of the source exactly, at the cost of speed
	InFlight int            // appends under way at once, 64 when 0
	Report   func(Progress) // told now and then how far it is, if not nil
	Log      *slog.Logger   // nil for silence
}

// Progress is how far a copy is, or the comparison of its two sides.
type Progress struct {
	Events   uint64  // carried, or compared, so far
	Position uint64  // in the log that is read
	End      uint64  // where that log ends
	Rate     float64 // events a second
	Left     time.Duration
}

// Copied is what a copy did.
type Copied struct {
	Position uint64 `json:"position"` // of the source: everything up to here was carried
	Resumed  uint64 `json:"resumed"`  // behind this position: what stood before was there
	Events   uint64 `json:"events"`   // carried by this run
	Ended    uint64 `json:"ended"`    // streams with a tombstone
	Limited  uint64 `json:"limited"`  // streams with limits in their metadata
	Undated  uint64 `json:"undated"`  // events whose metadata, no JSON, could not take the time they were stored
}

// A ForeignError reports a target that has what the source has not, or has it
// elsewhere: it is not the copy of this source.
type ForeignError struct {
	Stream   string
	Revision event.Revision
	Detail   string
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("the target has another history: %s revision %d %s", e.Stream, e.Revision, e.Detail)
}

// A GapError reports a stream whose oldest events are gone from the source: the
// rest of them cannot be appended at their revisions.
type GapError struct {
	Stream      string
	First, Have event.Revision
}

func (e *GapError) Error() string {
	return fmt.Sprintf("%s goes on with revision %d, and revisions %d to %d are gone from the source: it can't be copied with the revisions it has",
		e.Stream, e.First, e.Have+1, e.First-1)
}

const (
	copyWindow   = 2048      // events, or less
	windowBytes  = 32 << 20  // of one window, and one event
	pieceEvents  = 500       // of one append
	pieceBytes   = 512 << 10 // of one append, unless one event is larger
	copyInFlight = 64
	putTimeout   = 30 * time.Second
	tellEvery    = 250 * time.Millisecond
)

// Run copies what is in the source as it begins, and what is missing in the
// target. It fails with a *ForeignError or a *GapError where that can't be.
func (c *Copy) Run(ctx context.Context) (Copied, error) {
	var done Copied
	r, err := c.prepare(ctx)
	if err != nil {
		return done, err
	}
	done.Position = r.end
	if r.start, err = r.resume(ctx); err != nil {
		return done, err
	}
	done.Resumed = r.start
	r.told.begin(r.start, r.end)
	if err = r.carryAll(ctx); err == nil {
		err = r.limit(ctx)
	}
	done.Events, done.Undated = r.events, r.undated
	done.Ended, done.Limited = uint64(len(r.ended)), uint64(len(r.limits))
	return done, err
}

// copying is one Run under way.
type copying struct {
	*Copy
	start, end uint64 // positions of the source
	ended      map[string]bool
	limits     map[string]rawEvent // the newest metadata, by stream
	told       teller

	events, undated uint64
}

// prepare looks for what must be known before the first event is carried.
func (c *Copy) prepare(ctx context.Context) (*copying, error) {
	if c.From == nil || c.To == nil {
		return nil, errors.New("a copy needs a source and a target")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &copying{Copy: c, told: teller{report: c.Report}}
	var err error
	if r.end, err = c.From.end(ctx); err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	r.ended, r.limits, err = c.marks(ctx, c.From, r.end)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	return r, nil
}

// marks finds the streams of a log that have a tombstone, and the newest
// metadata of those that have none.
func (c *Copy) marks(ctx context.Context, s *Store, end uint64) (ended map[string]bool, limits map[string]rawEvent, err error) {
	found, err := s.rawKinds(ctx, end, kindTombstone, kindMetadata)
	if err != nil {
		return nil, nil, err
	}
	ended, limits = map[string]bool{}, map[string]rawEvent{}
	for _, e := range found {
		stream, isMeta := strings.CutPrefix(e.stream, metaPrefix)
		switch {
		case !c.carries(stream):
		case isMeta:
			limits[stream] = e
		case e.tombstone():
			ended[stream] = true
		}
	}
	for stream := range ended {
		delete(limits, stream)
	}
	return ended, limits, nil
}

// carries tells whether a stream goes along.
func (c *Copy) carries(stream string) bool {
	return !strings.HasPrefix(stream, "$") && !slices.Contains(c.Leave, event.Category(stream))
}

// takes tells whether an event goes along, a tombstone included.
func (r *copying) takes(e *rawEvent) bool {
	return r.carries(e.stream) && (!r.ended[e.stream] || e.tombstone())
}

// resume finds the position behind which to begin: 0 for an empty target.
func (r *copying) resume(ctx context.Context) (uint64, error) {
	newest, found, err := r.newest(ctx)
	if err != nil || !found {
		return 0, err
	}
	// The window that the newest event came with may not be whole. It has no
	// more than copyWindow-1 events before that one.
	left := copyWindow
	for e, err := range r.From.rawBack(ctx, newest.position) {
		if err != nil {
			return 0, fmt.Errorf("source: %w", err)
		}
		if r.takes(&e) {
			left--
		}
		if left == 0 {
			return e.position, nil
		}
	}
	return 0, nil
}

// newest finds, in the source, the newest event of the target that can be found
// there.
func (r *copying) newest(ctx context.Context) (e rawEvent, found bool, err error) {
	for t, err := range r.To.rawBack(ctx, 0) {
		switch {
		case err != nil:
			return e, false, fmt.Errorf("target: %w", err)
		case strings.HasPrefix(t.stream, "$"), r.ended[t.stream], t.tombstone():
			continue
		case !r.carries(t.stream):
			return e, false, &ForeignError{t.stream, event.Revision(t.number + 1), "is of a category that is not copied: something works on the target already"}
		}
		same, err := r.From.rawStream(ctx, t.stream, t.number, 1)
		if err != nil {
			return e, false, fmt.Errorf("source: %w", err)
		}
		if len(same) == 1 && same[0].number == t.number {
			if same[0].id != t.id {
				return e, false, foreign(&t, &same[0])
			}
			return same[0], true, nil
		}
		if hidden, err := r.hides(ctx, &t); err != nil || !hidden {
			return e, false, errors.Join(err, &ForeignError{t.stream, event.Revision(t.number + 1), "is not in the source"})
		}
	}
	return e, false, nil
}

func foreign(target, source *rawEvent) error {
	return &ForeignError{
		target.stream, event.Revision(target.number + 1),
		fmt.Sprintf("is %s %s there, and %s %s in the source", target.kind, target.id, source.kind, source.id),
	}
}

// hides tells whether the source has a stream that far, and does not show it.
func (r *copying) hides(ctx context.Context, t *rawEvent) (bool, error) {
	last, err := r.From.rawStream(ctx, t.stream, math.MaxUint64, 1)
	if err != nil {
		return false, fmt.Errorf("source: %w", err)
	}
	_, limited := r.limits[t.stream]
	return limited && (len(last) == 0 || last[0].number > t.number), nil
}

// carryAll carries window by window. The next one is read meanwhile.
func (r *copying) carryAll(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	windows := make(chan []rawEvent, 1)
	g.Go(func() error {
		defer close(windows)
		return r.read(ctx, windows)
	})
	g.Go(func() error {
		for w := range windows {
			if err := r.carry(ctx, w); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
	return g.Wait()
}

func (r *copying) read(ctx context.Context, windows chan<- []rawEvent) error {
	var window []rawEvent
	size := 0
	pass := func() error {
		select {
		case windows <- window:
			window, size = make([]rawEvent, 0, copyWindow), 0
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for e, err := range r.From.rawLog(ctx, r.start, r.end) {
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		if !r.takes(&e) {
			continue
		}
		size += e.size()
		if window = append(window, r.dated(e)); len(window) == copyWindow || size >= windowBytes {
			if err := pass(); err != nil {
				return err
			}
		}
	}
	return pass()
}

// dated puts the time an event was stored into its metadata. A tombstone has none.
func (r *copying) dated(e rawEvent) rawEvent {
	if e.tombstone() {
		return e
	}
	meta, ok := withCreated(e.meta, e.created)
	if e.meta = meta; !ok {
		r.undated++
	}
	return e
}

// carry appends a window, each piece as soon as those that stand before it are in.
func (r *copying) carry(ctx context.Context, window []rawEvent) error {
	limit := r.InFlight
	if limit <= 0 {
		limit = copyInFlight
	}
	turns := make(chan struct{}, limit)
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range arrange(window, r.Exact) {
		g.Go(func() error {
			if err := p.wait(ctx, turns); err != nil {
				return err
			}
			defer func() { <-turns }()
			if err := r.put(ctx, p); err != nil {
				return err
			}
			close(p.done)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if n := len(window); n > 0 {
		r.events += uint64(n)
		r.told.tell(r.events, window[n-1].position)
	}
	return nil
}

// A piece is some events of one stream, one behind the other, for one append;
// or its tombstone.
type piece struct {
	events []rawEvent
	size   int
	step   int
	after  []*piece      // those that must be in before this one: all of lower steps
	done   chan struct{} // closed once it is in
}

func (p *piece) has(e *rawEvent) bool {
	return len(p.events) < pieceEvents && p.size+e.size() <= pieceBytes && !e.tombstone() && !p.events[0].tombstone()
}

// wait waits for the pieces before this one, and then for its turn.
func (p *piece) wait(ctx context.Context, turns chan<- struct{}) error {
	for _, before := range p.after {
		select {
		case <-before.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case turns <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// arrange cuts a window into pieces, and says which come before which: those of
// one stream one after the other, and so those of one correlation. An event joins
// the newest piece of its stream where it can, so that a busy stream takes few
// appends. Steps keep that from making a circle: a piece waits only for lower ones.
func arrange(window []rawEvent, exact bool) []*piece {
	var pieces []*piece
	byStream, byCorrelation := map[string]*piece{}, map[string]*piece{}
	for i := range window {
		e := &window[i]
		correlation := correlationOf(e)
		open, before := byStream[e.stream], byCorrelation[correlation]
		if correlation == "" || before == open {
			before = nil
		}
		if exact { // the newest piece is the only one that may be added to
			if before = nil; len(pieces) > 0 && pieces[len(pieces)-1] != open {
				before, open = pieces[len(pieces)-1], nil
			}
		}
		p := open
		if open == nil || !open.has(e) || before != nil && before.step >= open.step {
			p = &piece{done: make(chan struct{})}
			p.follow(open)
			pieces = append(pieces, p)
		}
		p.follow(before)
		p.events, p.size = append(p.events, *e), p.size+e.size()
		byStream[e.stream], byCorrelation[correlation] = p, p
	}
	return pieces
}

// follow puts a piece behind another, if there is one.
func (p *piece) follow(before *piece) {
	if before != nil {
		p.after = append(p.after, before)
		p.step = max(p.step, before.step+1)
	}
}

func correlationOf(e *rawEvent) string {
	var r event.Recorded
	readMeta(e.meta, &r)
	return r.Correlation
}

// put appends a piece, or finds that it is there.
func (r *copying) put(ctx context.Context, p *piece) error {
	if e := &p.events[0]; e.tombstone() {
		return r.bury(ctx, e.stream)
	}
	left := p.events
	for {
		err := r.append(ctx, left)
		if err == nil {
			return nil
		}
		switch {
		case errors.Is(err, event.ErrDeleted):
			return fmt.Errorf("%w: %w", &ForeignError{left[0].stream, event.Revision(left[0].number + 1), "can't be: the stream has a tombstone there"}, err)
		case !errors.Is(err, event.ErrConflict):
			return fmt.Errorf("target: %w", err)
		}
		there, err := r.already(ctx, left)
		if err != nil {
			return err
		}
		if left = left[there:]; len(left) == 0 {
			return nil
		}
	}
}

func (r *copying) append(ctx context.Context, events []rawEvent) error {
	return again(ctx, new(pauses), func() error {
		tctx, cancel := context.WithTimeout(ctx, putTimeout)
		defer cancel()
		return r.To.appendRaw(tctx, events[0].stream, events[0].number, events)
	})
}

// already tells how many of events that conflict are in the target: of an append
// that the copy before this one had cut otherwise. None is an error.
func (r *copying) already(ctx context.Context, events []rawEvent) (int, error) {
	have, err := r.To.rawStream(ctx, events[0].stream, events[0].number, len(events))
	if err != nil {
		return 0, fmt.Errorf("target: %w", err)
	}
	for i := range have {
		if i >= len(events) || have[i].number != events[i].number {
			return i, nil
		}
		if have[i].id != events[i].id {
			return 0, foreign(&have[i], &events[i])
		}
	}
	if len(have) > 0 {
		return len(have), nil
	}
	last, err := r.To.rawStream(ctx, events[0].stream, math.MaxUint64, 1)
	if err != nil {
		return 0, fmt.Errorf("target: %w", err)
	}
	gap := &GapError{Stream: events[0].stream, First: event.Revision(events[0].number + 1)}
	if len(last) > 0 {
		gap.Have = event.Revision(last[0].number + 1)
	}
	return 0, gap
}

// bury ends a stream of the target, if it is not ended yet.
func (r *copying) bury(ctx context.Context, stream string) error {
	err := again(ctx, new(pauses), func() error {
		tctx, cancel := context.WithTimeout(ctx, putTimeout)
		defer cancel()
		return r.To.Tombstone(tctx, stream)
	})
	if err != nil && !errors.Is(err, event.ErrDeleted) {
		return fmt.Errorf("target: %w", err)
	}
	return nil
}

// limit gives the streams of the target the metadata they have in the source.
// It comes last, so that nothing hides what is still to be compared.
func (r *copying) limit(ctx context.Context) error {
	_, there, err := r.marks(ctx, r.To, math.MaxUint64)
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	for stream, want := range r.limits {
		if have, ok := there[stream]; ok && string(have.data) == string(want.data) {
			continue
		}
		err := again(ctx, new(pauses), func() error {
			return r.To.appendRaw(ctx, metaPrefix+stream, math.MaxUint64, []rawEvent{want})
		})
		if err != nil {
			return fmt.Errorf("target: %w", err)
		}
	}
	return nil
}

// A teller reports how far something is, now and then.
type teller struct {
	report     func(Progress)
	mu         sync.Mutex
	start, end uint64
	began      time.Time
	told       time.Time
}

func (t *teller) begin(start, end uint64) {
	t.start, t.end, t.began = start, end, time.Now()
}

// tell reports at most every tellEvery, and always at the end.
func (t *teller) tell(events, position uint64) {
	if t.report == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if now.Sub(t.told) < tellEvery && position < t.end {
		return
	}
	t.told = now
	p := Progress{Events: events, Position: position, End: t.end}
	took := now.Sub(t.began)
	p.Rate = float64(events) / max(took.Seconds(), 1e-3)
	if position > t.start && position < t.end {
		p.Left = time.Duration(float64(took) * float64(t.end-position) / float64(position-t.start))
	}
	t.report(p)
}
