package persistent

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"
)

// A Caller is what is known of who consumes, for those who ask about the group.
type Caller struct{ User, Connection string }

// A Consumer is one of those a group gives its messages to.
type Consumer struct {
	group  *Group
	caller Caller
	size   int
	ready  chan struct{} // holds one token while there may be something to take

	// The group's mutex guards all of these.
	why    error // why there is nothing more
	flying map[*message]struct{}
	queue  []*message // flying, and not asked for by Next yet
	stats  consumerStats
}

// A Delivery is a message as a consumer gets it.
type Delivery struct {
	Found
	Retries int
}

// An Action is what a consumer wants done with a message that it failed at.
type Action int

// The actions. Unknown is Retry. Stop lets go of the message as Skip does, and
// stops nothing.
const (
	Unknown Action = iota
	Park
	Retry
	Skip
	Stop
)

// Next waits for a message. What was taken back before it could be given is
// left out. After an error there is nothing more.
func (c *Consumer) Next(ctx context.Context) (Delivery, error) {
	for {
		d, ok, err := c.poll()
		if ok || err != nil {
			return d, err
		}
		select {
		case <-c.ready:
		case <-ctx.Done():
			return Delivery{}, ctx.Err()
		}
	}
}

func (c *Consumer) poll() (d Delivery, ok bool, err error) {
	c.group.mu.Lock()
	defer c.group.mu.Unlock()
	if c.why != nil || len(c.queue) == 0 {
		return Delivery{}, false, c.why
	}
	m := c.queue[0]
	c.queue = slices.Delete(c.queue, 0, 1)
	return Delivery{m.Found, m.retries}, true, nil
}

// Ack tells that messages are done.
func (c *Consumer) Ack(ids ...[16]byte) { c.group.answer(ids, c.group.done) }

// Nack tells that messages failed, and what is to become of them.
func (c *Consumer) Nack(action Action, reason string, ids ...[16]byte) {
	g := c.group
	g.answer(ids, func(m *message) {
		switch action {
		case Unknown, Retry:
			g.fail(m)
		case Park:
			g.park(m, "Client explicitly NAK'ed message.\n"+reason)
		case Skip, Stop:
			g.done(m)
		}
	})
}

// Leave ends it; what it has in flight is given to others.
func (c *Consumer) Leave() { c.group.leave(c) }

func (c *Consumer) free() int { return c.size - len(c.flying) }

func (c *Consumer) signal() {
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

func (c *Consumer) take(m *message) {
	c.flying[m] = struct{}{}
	c.queue = append(c.queue, m)
	c.stats.items++
	c.signal()
}

func (c *Consumer) lose(m *message, now time.Time) {
	delete(c.flying, m)
	if at := slices.Index(c.queue, m); at >= 0 {
		c.queue = slices.Delete(c.queue, at, at+1)
	}
	if c.group.settings.ExtraStatistics {
		c.stats.measure(now.Sub(m.given))
	}
}

// inOrder gives what is in flight in the order of the log.
func (c *Consumer) inOrder() []*message {
	return slices.SortedFunc(maps.Keys(c.flying), func(a, b *message) int { return cmp.Compare(a.place, b.place) })
}
