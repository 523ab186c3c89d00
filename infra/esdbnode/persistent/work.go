package persistent

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// parkAtOnce is how many events are parked with one append.
const parkAtOnce = 100

// The types of the events that groups write, and of their streams' metadata.
const (
	kindCheckpoint = "$SubscriptionCheckpoint"
	kindConfig     = "$PersistentConfig"
	kindMetadata   = "$metadata"
)

// pause is how long the log is left alone after it has failed.
const pause = time.Second

// Work reads and writes what there is to be read and written, and tells when
// there will be more that nobody wakes it for, zero for never. An error is for
// the log only: what failed is tried again in a while, and nothing is lost.
func (g *Group) Work(ctx context.Context) (time.Time, error) {
	var failed error
	for ctx.Err() == nil {
		job, until := g.plan()
		if job == nil {
			return until, failed
		}
		if err := job(ctx); err != nil {
			failed = errors.Join(failed, fmt.Errorf("group %s: %w", g.settings.key(), err))
		}
	}
	return time.Time{}, errors.Join(failed, ctx.Err())
}

// plan gives the next thing to do, which is done without the mutex.
func (g *Group) plan() (func(context.Context) error, time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	if g.fault == nil {
		g.expire(now)
		g.give()
	}
	g.until = time.Time{}
	if at, ok := g.writing(); ok && !at.After(now) {
		return g.careful(g.write(now), &g.mayWrite), g.until
	}
	if g.reading() && !g.mayRead.After(now) {
		if g.parked.asked || g.replaying() {
			return g.careful(g.readParked, &g.mayRead), g.until
		}
		return g.careful(g.readSource, &g.mayRead), g.until
	}
	g.until, _ = g.wants()
	return nil, g.until
}

// write gives what is to be written first.
func (g *Group) write(now time.Time) func(context.Context) error {
	at, marking := g.marking()
	switch {
	case marking && !at.After(now):
		return g.writeCheckpoint
	case g.parking.Len() > 0:
		return g.writeParked
	}
	return g.truncateParked
}

// careful puts off what is like a job that failed.
func (g *Group) careful(job func(context.Context) error, after *time.Time) func(context.Context) error {
	return func(ctx context.Context) error {
		err := job(ctx)
		if err != nil {
			g.mu.Lock()
			*after = g.now().Add(pause)
			g.mu.Unlock()
		}
		return err
	}
}

// Close lets the consumers go, and writes down how far they came. What is in
// flight is for whoever opens the group next.
func (g *Group) Close(ctx context.Context, why error) error {
	g.mu.Lock()
	g.drop(why)
	parking := g.parking.Len()
	g.mu.Unlock()
	for range parking/parkAtOnce + 1 {
		if err := g.writeParked(ctx); err != nil {
			return err
		}
	}
	g.mu.Lock()
	n, _ := g.reached()
	// Of what was only looked at nothing is kept: it may be told to begin elsewhere.
	ahead, behind := n > g.checkpoint.read && g.checkpoint.done > 0, g.unparked() > g.parked.first
	g.mu.Unlock()
	if ahead {
		if err := g.writeCheckpoint(ctx); err != nil {
			return err
		}
	}
	if behind {
		return g.truncateParked(ctx)
	}
	return nil
}

// writeParked parks what waits for it. A message is done when that is durable:
// no checkpoint passes it before.
func (g *Group) writeParked(ctx context.Context) error {
	messages, events, err := g.toPark()
	if err != nil || len(messages) == 0 {
		return err
	}
	last, err := g.log.Append(ctx, g.settings.parkedStream(), events...)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		for _, m := range messages {
			g.again(m)
		}
		return fmt.Errorf("park %d events: %w", len(messages), err)
	}
	g.parked.end = last + 1
	for _, m := range messages {
		g.done(m)
	}
	g.give()
	return nil
}

func (g *Group) toPark() (messages []*message, events []Event, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for e := g.parking.Front(); e != nil && len(messages) < parkAtOnce; e = e.Next() {
		m := e.Value.(*message)
		meta, err := json.Marshal(parkedMeta{g.now(), m.reason, m.original().Number})
		if err != nil {
			return nil, nil, fmt.Errorf("park %s@%d: %w", m.original().Stream, m.original().Number, err)
		}
		messages = append(messages, m)
		events = append(events, Event{ID: uuid.New(), Kind: kindLink, Meta: string(meta), Data: m.link()})
	}
	return messages, events, nil
}

// parkedMeta is the metadata of a parked event.
type parkedMeta struct {
	Added  time.Time `json:"added"`
	Reason string    `json:"reason"`
	Number uint64    `json:"subscriptionEventNumber"`
}

// link is what leads to a message's event.
func (m *message) link() string {
	if m.Event == nil {
		return m.Link.Data
	}
	return strconv.FormatUint(m.Event.Number, 10) + "@" + m.Event.Stream
}

func (g *Group) writeCheckpoint(ctx context.Context) error {
	g.mu.Lock()
	n, place := g.reached()
	text, fresh, done := g.settings.text(place-1), g.checkpoint.fresh, g.checkpoint.done
	g.mu.Unlock()
	stream := g.settings.checkpointStream()
	if fresh {
		if err := bound(ctx, g.log, stream); err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
	}
	data, err := json.Marshal(text)
	if err == nil {
		_, err = g.log.Append(ctx, stream, Event{ID: uuid.New(), Kind: kindCheckpoint, JSON: true, Data: string(data)})
	}
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.checkpoint = checkpoint{read: n, place: text, written: g.now(), done: g.checkpoint.done - done}
	return nil
}

// bound lets a stream keep no more than its last two events. What it had before
// stays hidden: a group of the same name may have been deleted.
func bound(ctx context.Context, log Log, stream string) error {
	end, err := log.End(ctx, stream)
	if err != nil {
		return err
	}
	return describe(ctx, log, stream, fmt.Sprintf(`{"$maxCount":2,"$tb":%d}`, end))
}

// describe writes a stream's metadata.
func describe(ctx context.Context, log Log, stream, metadata string) error {
	_, err := log.Append(ctx, "$$"+stream, Event{ID: uuid.New(), Kind: kindMetadata, JSON: true, Data: metadata})
	return err
}

// forget deletes a stream, so that it may begin again.
func forget(ctx context.Context, log Log, stream string) error {
	end, err := log.End(ctx, stream)
	if err != nil || end == 0 {
		return err
	}
	if err = describe(ctx, log, stream, fmt.Sprintf(`{"$tb":%d}`, int64(math.MaxInt64))); errors.Is(err, ErrDeleted) {
		return nil
	}
	return err
}

func (g *Group) truncateParked(ctx context.Context) error {
	g.mu.Lock()
	to := g.unparked()
	g.mu.Unlock()
	if err := describe(ctx, g.log, g.settings.parkedStream(), fmt.Sprintf(`{"$tb":%d}`, to)); err != nil {
		return fmt.Errorf("truncate parked events: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.parked.first = to
	return nil
}

// readParked goes on with a replay. One that begins looks how many parked events
// there are: of those whose append failed some may be there after all.
func (g *Group) readParked(ctx context.Context) error {
	end, err := g.log.End(ctx, g.settings.parkedStream())
	if err != nil {
		return fmt.Errorf("replay parked events: %w", err)
	}
	g.mu.Lock()
	if g.parked.end = end; g.parked.asked {
		g.parked.stop = end
		if g.parked.limit != nil {
			g.parked.stop = min(end, *g.parked.limit)
		}
		g.parked.stop = max(g.parked.stop, g.parked.next)
		g.parked.asked = false
	}
	from, stop := g.parked.next, g.parked.stop
	limit := min(g.settings.ReadBatch, maxPage, g.settings.HistoryBuffer-g.retries.Len())
	g.mu.Unlock()
	if from == stop || limit <= 0 {
		return nil
	}
	if left := stop - from; left < uint64(limit) {
		limit = int(left) //nolint:gosec // less than limit
	}
	page, err := g.log.Read(ctx, Query{Stream: g.settings.parkedStream(), From: from, Limit: limit, Resolve: true})
	if err != nil && !errors.Is(err, ErrDeleted) {
		return fmt.Errorf("replay parked events: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range page.Found {
		if n := f.original().Number; n < stop {
			g.add(g.retries, g.parked.order, &message{Found: f, place: n, replayed: true})
		}
	}
	if g.parked.next = min(page.Next, stop); err != nil || page.End {
		g.parked.next = stop
	}
	g.give()
	return nil
}

// maxPage is the most events that are read at once.
const maxPage = 500

func (g *Group) add(to, order *list.List, m *message) {
	m.size = m.Found.size()
	g.held += m.size
	m.move(to)
	m.order = order.PushBack(m)
}

func (g *Group) readSource(ctx context.Context) error {
	g.mu.Lock()
	s, heard := g.settings, g.heard.Load()
	limit := min(s.ReadBatch, maxPage, s.HistoryBuffer-g.retries.Len()-g.buffer.Len())
	q := Query{Stream: s.Stream, From: g.next, Limit: max(1, limit), Resolve: s.ResolveLinks}
	g.mu.Unlock()
	skipped := int64(0)
	if s.Stream == All {
		q.Match = s.match(&skipped)
	}
	page, err := g.log.Read(ctx, q)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, ErrUnavailable) {
			g.drop(errDropped)
		}
		return fmt.Errorf("read: %w", err)
	}
	g.read += skipped
	for _, f := range page.Found {
		place := s.at(f.original())
		g.know(place)
		g.add(g.buffer, g.order, &message{Found: f, place: place, nth: g.read})
		g.read++
	}
	g.next = max(g.next, page.Next)
	if page.End {
		g.live, g.ended = true, true
		g.idle.Store(true)
		if g.heard.Load() != heard { // too late for the page, too early to be told with the mutex
			g.goOn()
		}
	} else if !g.room() {
		g.live = false
	}
	if g.live {
		g.stats.live += len(page.Found)
	}
	g.give()
	return nil
}
