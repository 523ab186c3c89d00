package kafkabus

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"cartwright/domain/event"
)

const (
	batchMax    = 500
	batchLinger = 5 * time.Millisecond
)

// Batches reads a topic as a member of a group, in batches over all partitions
// it was given. Within a batch, and from batch to batch, a stream's events come
// in order.
type Batches struct {
	Config
	Max    int           // events a batch; 0 is 500
	Linger time.Duration // how long a batch waits to become full; 0 is 5 ms

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
	if b.Linger <= 0 {
		b.Linger = batchLinger
	}
	t := newTrouble(b.Log)
	m := &member{config: b.Config, trouble: t, open: func(ctx context.Context, at marker) session {
		c := &collector{batches: b, marker: at, handle: handle, trouble: t, in: make(chan chunk)}
		c.working.Go(func() { c.work(ctx) })
		return c
	}}
	m.run(ctx)
	return nil
}

// A chunk is what one partition brought at once.
type chunk struct {
	partition int32
	end       int64 // the offset behind the last record, events or not
	events    []event.Recorded
}

// A collector makes batches of what the claims of one session bring.
type collector struct {
	batches Batches
	marker  marker
	handle  func(ctx context.Context, batch []event.Recorded) error
	trouble *trouble
	in      chan chunk
	working sync.WaitGroup
}

func (c *collector) wait() { c.working.Wait() }

// take decodes in the claim's goroutine, so partitions share that work.
func (c *collector) take(ctx context.Context, records []*sarama.ConsumerMessage) {
	for part := range slices.Chunk(records, c.batches.Max) {
		select {
		case c.in <- c.decode(part):
		case <-ctx.Done():
			return
		}
	}
}

func (c *collector) decode(records []*sarama.ConsumerMessage) chunk {
	last := records[len(records)-1]
	got := chunk{last.Partition, last.Offset + 1, make([]event.Recorded, 0, len(records))}
	for _, r := range records {
		if e, err := Decode(r); err != nil {
			c.batches.broken(r, err)
		} else {
			got.events = append(got.events, e)
		}
	}
	return got
}

func (b Batches) broken(r *sarama.ConsumerMessage, err error) {
	b.Log.Warn("record is no event", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "error", err)
	if b.Broken != nil {
		b.Broken(r.Topic, r.Partition, r.Offset, err)
	}
}

// A batch is some chunks, together no more than Max events.
type batch struct {
	events []event.Recorded
	ends   map[int32]int64 // by partition
}

func (b *batch) add(c chunk) {
	b.events = append(b.events, c.events...)
	b.ends[c.partition] = c.end
}

func (c *collector) work(ctx context.Context) {
	for {
		select {
		case first := <-c.in:
			for more := &first; more != nil; {
				var b batch
				b, more = c.fill(ctx, *more)
				if !c.flush(ctx, b) {
					return
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// fill collects until the batch has lingered long enough, or there comes a chunk
// for which there is no room: that one begins the next batch.
func (c *collector) fill(ctx context.Context, first chunk) (b batch, over *chunk) {
	b = batch{make([]event.Recorded, 0, c.batches.Max), map[int32]int64{}}
	b.add(first)
	lingered := time.NewTimer(c.batches.Linger)
	defer lingered.Stop()
	for len(b.events) < c.batches.Max {
		select {
		case next := <-c.in:
			if len(b.events)+len(next.events) > c.batches.Max {
				return b, &next
			}
			b.add(next)
		case <-lingered.C:
			return b, nil
		case <-ctx.Done():
			return b, nil
		}
	}
	return b, nil
}

// flush reports whether the batch was handled; it was not only if ctx ended.
func (c *collector) flush(ctx context.Context, b batch) bool {
	if len(b.events) > 0 && !c.insist(ctx, b.events) {
		return false
	}
	for partition, end := range b.ends {
		c.marker.mark(partition, end)
	}
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
