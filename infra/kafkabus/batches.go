package kafkabus

import (
	"context"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"cartwright/domain/event"
	"cartwright/infra/pace"
)

const (
	batchMax     = 500
	batchSpacing = 20 * time.Millisecond
	batchGather  = 500 * time.Microsecond // how long they wait for what came in the same answer of a broker
)

// Batches reads a topic as a member of a group, in batches over all partitions
// it was given. Within a batch, and from batch to batch, a stream's events come
// in order.
type Batches struct {
	Config
	Max     int           // events a batch; 0 is 500
	Spacing time.Duration // from one batch to the next, where they follow each other; 0 is 20 ms

	// Broken hears of records that are no events. They are passed over: the log
	// has the event, and the next one of its stream shows the gap. Nil only logs.
	Broken func(topic string, partition int32, offset int64, err error)
}

// Run hands batches to handle, one at a time, until ctx ends, and then returns
// nil; an error is a wrong configuration. What was handled without error is
// marked as read, and committed every second and when a session ends.
//
// A handler that fails gets the same batch again, after a growing pause, for as
// long as the session lasts: nothing is skipped here. One that can tell a bad
// event parks it and returns nil. Handlers stop when their context ends, since
// another member then has the partitions.
func (b Batches) Run(ctx context.Context, handle func(ctx context.Context, batch []event.Recorded) error) error {
	if err := b.check(true); err != nil {
		return err
	}
	if b.Max <= 0 {
		b.Max = batchMax
	}
	if b.Spacing <= 0 {
		b.Spacing = batchSpacing
	}
	t := newTrouble(b.Log)
	m := &member{config: b.Config, trouble: t, open: func(ctx context.Context, at marker) session {
		c := &collector{batches: b, marker: at, handle: handle, trouble: t, in: make(chan piece), pace: pace.Pace{Spacing: b.Spacing}}
		c.working.Go(func() { c.work(ctx) })
		return c
	}}
	m.run(ctx)
	return nil
}

// A collector makes batches of what the claims of one session bring.
type collector struct {
	batches Batches
	marker  marker
	handle  func(ctx context.Context, batch []event.Recorded) error
	trouble *trouble
	in      chan piece
	working sync.WaitGroup

	pace pace.Pace
	room batch // of the last batch, for the next one
}

func (c *collector) wait() { c.working.Wait() }

func (c *collector) take(ctx context.Context, p piece) {
	for rest := p; rest.len() > 0; {
		p, rest = rest.cut(min(c.batches.Max, rest.len()))
		select {
		case c.in <- p:
		case <-ctx.Done():
			return
		}
	}
}

func (b Batches) broken(r *sarama.ConsumerMessage, err error) {
	b.Log.Warn("record is no event", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "error", err)
	if b.Broken != nil {
		b.Broken(r.Topic, r.Partition, r.Offset, err)
	}
}

// A batch is what some partitions have brought, together no more than Max events.
type batch struct {
	events []event.Recorded
	ends   map[int32]int64 // by partition
}

func (c *collector) add(b *batch, p piece) {
	for _, r := range p.records {
		if e, err := Decode(r); err != nil {
			c.batches.broken(r, err)
		} else {
			b.events = append(b.events, e)
		}
	}
	for _, e := range p.events {
		b.events = append(b.events, *e)
	}
	partition, end := p.end()
	b.ends[partition] = end
}

func (c *collector) work(ctx context.Context) {
	for {
		select {
		case more := <-c.in:
			for more.len() > 0 {
				var b batch
				b, more = c.fill(ctx, more)
				if !c.flush(ctx, b) {
					return
				}
				c.pace.Spend()
			}
		case <-ctx.Done():
			return
		}
	}
}

// fill collects until the batch has lingered long enough, or there comes something
// for which there is no room: that begins the next batch.
func (c *collector) fill(ctx context.Context, first piece) (b batch, over piece) {
	b = c.empty()
	c.add(&b, first)
	lingered := time.NewTimer(c.linger())
	defer lingered.Stop()
	for len(b.events) < c.batches.Max {
		select {
		case next := <-c.in:
			if len(b.events)+next.len() > c.batches.Max {
				return b, next
			}
			c.add(&b, next)
		case <-lingered.C:
			return b, piece{}
		case <-ctx.Done():
			return b, piece{}
		}
	}
	return b, piece{}
}

// empty gives the room of the last batch, which nobody looks at any more.
func (c *collector) empty() batch {
	clear(c.room.events) // or it would hold on to what brokers have answered
	clear(c.room.ends)
	if c.room.ends == nil {
		c.room.ends = map[int32]int64{}
	}
	return batch{c.room.events[:0], c.room.ends}
}

// linger is how long the batch that begins now waits to become full. As long as
// there is credit left, which Spacing without a batch adds one to, it only waits
// for what has come with its first.
func (c *collector) linger() time.Duration {
	return max(batchGather, c.pace.Early())
}

// flush reports whether the batch was handled; it was not only if ctx ended.
func (c *collector) flush(ctx context.Context, b batch) bool {
	if len(b.events) > 0 && !c.insist(ctx, b.events) {
		return false
	}
	for partition, end := range b.ends {
		c.marker.mark(partition, end)
	}
	c.room = b
	return true
}

func (c *collector) insist(ctx context.Context, events []event.Recorded) bool {
	doing := "handle a batch for " + c.batches.Group
	var p pause
	for ctx.Err() == nil {
		err := c.handle(ctx, events)
		if err == nil {
			c.trouble.over(doing)
			return true
		}
		if ctx.Err() == nil {
			c.trouble.report(doing, err)
			p.wait(ctx)
		}
	}
	return false
}
