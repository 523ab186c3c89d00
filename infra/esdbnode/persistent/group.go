package persistent

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// maxHeld is how many bytes of events a group holds before it reads no more,
// whatever its settings say.
const maxHeld = 8 << 20

// Why a consumer is not one of its group any more.
var (
	errDropped = errors.New("the consumer was dropped")
	errFull    = errors.New("the group has as many subscribers as it may have")
)

// A Group gives the events of its stream to its consumers, each to one of them,
// until each is acknowledged, skipped or parked. What it says and is told in
// between is in memory only; Work is what reads and writes the log. Its methods
// may be called concurrently, but for Work and Close.
type Group struct {
	log      Log
	settings Settings
	now      func() time.Time
	woken    chan struct{} // holds one token while there may be something to do

	// Of new events it is told without the mutex as long as it has others to read.
	heard atomic.Uint64 // how often
	known atomic.Uint64 // the place behind the newest
	idle  atomic.Bool   // there was nothing to read

	mu    sync.Mutex
	fault error     // why nothing more is given to anybody
	until time.Time // when Work would be called again by itself, zero for never

	// After the log has failed it is left alone for a while.
	mayWrite, mayRead time.Time

	// What was read. A message is in one of the lists of waiting until it is done.
	next  uint64 // the place to read next
	read  int64  // how many events were looked at
	live  bool   // the end was reached, and nothing was left in the log for want of room since
	ended bool   // the end was reached, and nothing was heard of since
	held  int

	order   *list.List            // of what was read and is not done, in the order of the log
	retries *list.List            // waits to be given again, before all others
	buffer  *list.List            // waits to be given
	flying  *list.List            // is with a consumer, in the order of being given
	parking *list.List            // waits to be parked
	ids     map[[16]byte]*message // flying, by the event's id

	checkpoint checkpoint
	parked     parked

	strategy  strategy
	consumers []*Consumer
	stats     stats
}

// A checkpoint is how far a group is known to be done after a restart.
type checkpoint struct {
	read    int64  // how many of the events that were read it covers
	done    int    // how many messages were done since
	place   string // of the last of these
	written time.Time
	fresh   bool // the stream has none yet, and no metadata
}

// parked is what is known of the stream of parked events, and of their replay.
type parked struct {
	first uint64     // all before are replayed and done, as its $tb says
	end   uint64     // the number of the next
	next  uint64     // where a replay goes on
	stop  uint64     // where it ends
	asked bool       // whether a replay was asked for and has not begun
	limit *uint64    // where that is to stop, nil for the end
	order *list.List // of what was replayed and is not done
}

// A message is an event on its way to be done.
type message struct {
	Found
	place    uint64 // in what the group reads; of a replayed one in the parked stream
	nth      int64  // among all that were looked at
	replayed bool
	retries  int
	size     int

	in       *list.List // where it waits
	element  *list.Element
	order    *list.Element
	consumer *Consumer // who has it in flight
	given    time.Time
	reason   string // why it is to be parked
	bucket   int    // with what it is pinned, from 1, 0 while not known
}

func (m *message) id() [16]byte { return m.original().ID }

// Open takes up a group where its last checkpoint says, or at its beginning. It
// only reads. The settings must be such as Check finds nothing in.
func Open(ctx context.Context, log Log, s Settings, now func() time.Time) (*Group, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	g := &Group{
		log: log, settings: s, now: now, woken: make(chan struct{}, 1), next: s.First,
		order: list.New(), retries: list.New(), buffer: list.New(), flying: list.New(), parking: list.New(),
		ids: map[[16]byte]*message{}, strategy: newStrategy(s.Strategy),
	}
	g.parked.order = list.New()
	g.stats.begin(now())
	if err := g.openCheckpoint(ctx); err != nil {
		return nil, fmt.Errorf("open group %s: checkpoint: %w", s.key(), err)
	}
	if err := g.openParked(ctx); err != nil {
		return nil, fmt.Errorf("open group %s: parked events: %w", s.key(), err)
	}
	return g, nil
}

func (g *Group) openCheckpoint(ctx context.Context) error {
	last, err := newest(ctx, g.log, g.settings.checkpointStream())
	if err != nil {
		return err
	}
	if last == nil {
		g.checkpoint.fresh = true
		return nil
	}
	if err = json.Unmarshal([]byte(last.Data), &g.checkpoint.place); err != nil {
		return err
	}
	at, err := g.settings.place(g.checkpoint.place)
	if err != nil {
		return err
	}
	g.next, g.read, g.checkpoint.read = at+1, 1, 1
	g.know(at)
	return nil
}

func (g *Group) openParked(ctx context.Context) error {
	stream := g.settings.parkedStream()
	end, err := g.log.End(ctx, stream)
	if err != nil {
		return err
	}
	g.parked.first, g.parked.end = end, end
	page, err := g.log.Read(ctx, Query{Stream: stream, Limit: 1})
	if err != nil && !errors.Is(err, ErrDeleted) {
		return err
	}
	if len(page.Found) > 0 {
		g.parked.first = page.Found[0].Event.Number
	}
	g.parked.next, g.parked.stop = g.parked.first, g.parked.first
	return nil
}

// newest gives the last event of a stream, nil when there is none to be shown.
func newest(ctx context.Context, log Log, stream string) (*Event, error) {
	end, err := log.End(ctx, stream)
	if err != nil || end == 0 {
		return nil, err
	}
	page, err := log.Read(ctx, Query{Stream: stream, From: end - 1, Limit: 1})
	if errors.Is(err, ErrDeleted) || err == nil && len(page.Found) == 0 {
		return nil, nil //nolint:nilnil // there is none, and that is an answer
	}
	if err != nil {
		return nil, err
	}
	return page.Found[0].Event, nil
}

// Grown tells the group of a new event that it may want to read.
func (g *Group) Grown(place uint64) {
	g.know(place)
	g.heard.Add(1)
	if !g.idle.Load() {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.goOn()
	g.wake()
}

// goOn is what there is to be done about new events when all others were read.
func (g *Group) goOn() {
	g.idle.Store(false)
	g.ended = false
	if !g.room() {
		g.live = false
	}
}

func (g *Group) know(place uint64) {
	for {
		known := g.known.Load()
		if place < known || g.known.CompareAndSwap(known, place+1) {
			return
		}
	}
}

// Join makes a consumer, which has no more than size messages in flight.
func (g *Group) Join(from Caller, size int) (*Consumer, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.fault != nil:
		return nil, g.fault
	case g.settings.MaxSubscribers > 0 && len(g.consumers) >= g.settings.MaxSubscribers:
		return nil, errFull
	}
	c := &Consumer{group: g, caller: from, size: size, ready: make(chan struct{}, 1), flying: map[*message]struct{}{}}
	g.consumers = append(g.consumers, c)
	g.strategy.join(c)
	g.give()
	g.wake()
	return c, nil
}

// leave gives what a consumer has in flight to others.
func (g *Group) leave(c *Consumer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	at := slices.Index(g.consumers, c)
	if at < 0 {
		return
	}
	g.consumers = slices.Delete(g.consumers, at, at+1)
	g.strategy.leave(c)
	c.why, c.queue = errDropped, nil
	for _, m := range c.inOrder() {
		g.retry(m)
	}
	g.give()
	g.wake()
}

// drop lets all consumers go and takes no more.
func (g *Group) drop(why error) {
	if g.fault == nil {
		g.fault = why
	}
	for _, c := range g.consumers {
		c.why = why
		c.signal()
	}
}

// dismiss drops all consumers and lets Work come to an end.
func (g *Group) dismiss(why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drop(why)
}

// give hands out all that can be: what was given before first.
func (g *Group) give() {
	if g.fault != nil {
		return
	}
	for _, l := range [...]*list.List{g.retries, g.buffer} {
		for e := l.Front(); e != nil; {
			m := e.Value.(*message)
			e = e.Next()
			if _, twin := g.ids[m.id()]; twin {
				continue // consumers answer by id: one after the other
			}
			c, full := g.strategy.choose(m)
			if full {
				return
			}
			if c != nil {
				g.hand(m, c)
			}
		}
	}
}

func (g *Group) hand(m *message, c *Consumer) {
	m.move(g.flying)
	m.consumer, m.given = c, g.now()
	g.ids[m.id()] = m
	g.stats.items++
	c.take(m)
}

// move puts a message at the end of a list, or of none.
func (m *message) move(to *list.List) {
	if m.in != nil {
		m.in.Remove(m.element)
	}
	if m.in = to; to != nil {
		m.element = to.PushBack(m)
	}
}

// land takes a message from who has it in flight.
func (g *Group) land(m *message) {
	if m.consumer == nil {
		return
	}
	delete(g.ids, m.id())
	m.consumer.lose(m, g.now())
	m.consumer = nil
}

// retry lets a message be given again: replayed ones after all others, these in
// the order of the log.
func (g *Group) retry(m *message) {
	g.land(m)
	m.retries++
	g.again(m)
}

// again looks for a message's place from behind: those of a consumer that is lost
// come in order.
func (g *Group) again(m *message) {
	m.move(g.retries)
	if m.replayed {
		return
	}
	next := m.element
	for e := m.element.Prev(); e != nil; e = e.Prev() {
		other := e.Value.(*message)
		if !other.replayed && other.place < m.place {
			break
		}
		if !other.replayed {
			next = e
		}
	}
	g.retries.MoveBefore(m.element, next)
}

func (g *Group) park(m *message, reason string) {
	g.land(m)
	m.reason = reason
	m.move(g.parking)
}

// done lets go of a message.
func (g *Group) done(m *message) {
	g.land(m)
	m.move(nil)
	g.held -= m.size
	if m.replayed {
		g.parked.order.Remove(m.order)
	} else {
		g.order.Remove(m.order)
		g.checkpoint.done++
	}
}

// fail retries a message, or parks it when that was done often enough.
func (g *Group) fail(m *message) {
	if m.retries < g.settings.MaxRetries {
		g.retry(m)
		return
	}
	g.park(m, "Reached retry count of "+strconv.Itoa(g.settings.MaxRetries))
}

// expire fails what was not answered in time.
func (g *Group) expire(now time.Time) {
	for !g.due().IsZero() && !g.due().After(now) {
		g.fail(g.flying.Front().Value.(*message))
	}
}

// due is when the first message in flight expires, zero for never.
func (g *Group) due() time.Time {
	e := g.flying.Front()
	if e == nil || g.settings.MessageTimeout == 0 {
		return time.Time{}
	}
	return e.Value.(*message).given.Add(g.settings.timeout())
}

// answer settles what a consumer says of messages, by whoever they are in flight
// now: one that comes late still counts.
func (g *Group) answer(ids [][16]byte, each func(*message)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fault != nil {
		return
	}
	for _, id := range ids {
		if m, ok := g.ids[id]; ok {
			each(m)
		}
	}
	g.give()
	g.wake()
}

// Replay gives parked events to consumers again, ahead of all others: those
// before a number in the parked stream, nil for all that are parked by now. One
// that is asked for while another reads changes nothing.
func (g *Group) Replay(stop *uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.parked.asked || g.parked.next < g.parked.stop {
		return
	}
	g.parked.asked, g.parked.limit = true, stop
	g.wake()
}

// reached tells how many of the events that were looked at are done with all
// that are before them, and the place of the first that is not.
func (g *Group) reached() (n int64, place uint64) {
	if e := g.order.Front(); e != nil {
		m := e.Value.(*message)
		return m.nth, m.place
	}
	return g.read, g.next
}

// marking tells when the next checkpoint is due, and whether there is one.
func (g *Group) marking() (time.Time, bool) {
	n, _ := g.reached()
	ahead := n - g.checkpoint.read
	switch {
	case ahead <= 0:
		return time.Time{}, false
	case ahead >= int64(g.settings.MaxCheckpoint):
		return time.Time{}, true
	case g.settings.CheckpointAfter == 0 || ahead < int64(g.settings.MinCheckpoint):
		return time.Time{}, false
	}
	return g.checkpoint.written.Add(g.settings.checkpointAfter()), true
}

// room tells whether the buffers take a page more.
func (g *Group) room() bool {
	free := g.settings.HistoryBuffer - g.retries.Len() - g.buffer.Len()
	if g.held >= maxHeld {
		return false
	}
	if g.live {
		return free > 0
	}
	return free > g.settings.ReadBatch
}

// replaying tells whether there are parked events to read, and room for them.
func (g *Group) replaying() bool {
	return g.parked.next < g.parked.stop && g.retries.Len() < g.settings.HistoryBuffer && g.held < maxHeld
}

// unparked is the number before which all parked events are replayed and done.
func (g *Group) unparked() uint64 {
	if e := g.parked.order.Front(); e != nil {
		return e.Value.(*message).place
	}
	return g.parked.next
}

// forgetting tells whether it is time to truncate the parked stream.
func (g *Group) forgetting() bool {
	behind := g.unparked() - g.parked.first
	return behind > 0 && (g.parked.order.Len() == 0 && g.parked.next == g.parked.stop || behind >= uint64(g.settings.ReadBatch)) //nolint:gosec // positive
}

// wake lets Work be called if there is something for it to do.
func (g *Group) wake() {
	if at, ok := g.wants(); !ok || !at.IsZero() && !g.until.IsZero() && !at.Before(g.until) {
		return
	}
	select {
	case g.woken <- struct{}{}:
	default:
	}
}

// wants tells when there is something for Work to do, zero for at once, and
// whether there ever is.
func (g *Group) wants() (at time.Time, ever bool) {
	if g.reading() {
		at, ever = g.mayRead, true
	}
	if w, ok := g.writing(); ok && (!ever || w.Before(at)) {
		at, ever = w, true
	}
	if due := g.due(); g.fault == nil && !due.IsZero() && (!ever || due.Before(at)) {
		at, ever = due, true
	}
	return at, ever
}

// reading tells whether there is something to read, and room for it.
func (g *Group) reading() bool {
	return g.fault == nil && (g.parked.asked || g.replaying() || !g.ended && g.room())
}

// writing tells when there is something to write, and whether there ever is.
func (g *Group) writing() (at time.Time, ever bool) {
	if g.parking.Len() == 0 && !g.forgetting() {
		if at, ever = g.marking(); !ever {
			return at, false
		}
	}
	if at.Before(g.mayWrite) {
		at = g.mayWrite
	}
	return at, true
}
