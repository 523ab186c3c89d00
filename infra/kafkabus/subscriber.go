package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"cartwright/domain/event"
)

const (
	inFlightMax = 256     // messages delivered and not answered
	waitingMax  = 1 << 16 // messages held back behind one of their stream
)

// A Subscriber is a watermill message.Subscriber for those who want one message
// at a time: processes, and integrations outside. Many messages are in flight,
// but of each stream only one: the next comes when it is acknowledged. A message
// that is refused comes again, after a growing pause, and holds up nothing but
// its stream. An offset is marked when it and all before it are done.
//
// A message carries the event's data as payload and the bus's headers as
// metadata; Event turns it back. Its context ends with the session, as another
// member then gets the message.
type Subscriber struct {
	config   Config
	types    map[string]bool
	wants    func(event.Recorded) bool
	inFlight int

	ctx     context.Context //nolint:containedctx // Close ends what Subscribe started; watermill's interface asks for that
	stop    context.CancelFunc
	running sync.WaitGroup
}

// SubscriberOptions say what a Subscriber delivers.
type SubscriberOptions struct {
	Config
	Types    []string // the stored names of the events wanted; others are passed over
	InFlight int      // messages delivered and not yet answered; 0 is 256

	// Wants tells of an event of these types whether it is wanted. Nil wants them all.
	// What is not wanted is marked as read and costs no message, no goroutine of the
	// router and no deadline, which are more than most events are worth.
	Wants func(event.Recorded) bool
}

// NewSubscriber checks the configuration. Subscribe connects.
func NewSubscriber(o SubscriberOptions) (*Subscriber, error) {
	if err := o.check(true); err != nil {
		return nil, err
	}
	if len(o.Types) == 0 {
		return nil, errors.New("kafka: a subscriber of no event types")
	}
	if o.InFlight <= 0 {
		o.InFlight = inFlightMax
	}
	if o.Wants == nil {
		o.Wants = func(event.Recorded) bool { return true }
	}
	s := &Subscriber{config: o.Config, types: map[string]bool{}, wants: o.Wants, inFlight: o.InFlight}
	for _, t := range o.Types {
		s.types[t] = true
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Subscribe implements message.Subscriber. The channel closes when ctx ends or
// the Subscriber is closed. An empty topic is the configured one.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if err := s.ctx.Err(); err != nil {
		return nil, errors.New("subscriber is closed")
	}
	config := s.config
	if topic != "" && topic != config.Topic {
		config.Topic, config.Shortcut = topic, nil // that is of one topic
	}
	out := make(chan *message.Message)
	m := &member{config: config, trouble: newTrouble(config.Log)}
	m.open = func(ctx context.Context, at marker) session {
		return newDelivery(ctx, s, config, at, out)
	}
	ctx, cancel := context.WithCancel(ctx)
	closed := context.AfterFunc(s.ctx, cancel) //nolint:contextcheck // Close must end it, whatever ctx does
	s.running.Go(func() {
		defer close(out)
		defer cancel()
		defer closed()
		m.run(ctx)
	})
	return out, nil
}

// Close ends all subscriptions and waits for them.
func (s *Subscriber) Close() error {
	s.stop()
	s.running.Wait()
	return nil
}

// Event gives the event that a message of a Subscriber carries: the one it was
// made of, or what payload and metadata say of one that was made otherwise.
func Event(m *message.Message) (event.Recorded, error) {
	if e, ok := m.Context().Value(carried{}).(*event.Recorded); ok {
		return *e, nil
	}
	r := &sarama.ConsumerMessage{Value: m.Payload}
	for _, name := range slices.Sorted(maps.Keys(m.Metadata)) {
		r.Headers = append(r.Headers, &sarama.RecordHeader{Key: []byte(name), Value: []byte(m.Metadata[name])})
	}
	e, err := Decode(r)
	if err != nil {
		return event.Recorded{}, fmt.Errorf("message %s: %w", m.UUID, err)
	}
	return e, nil
}

// carried is the key of a message's event in its context.
type carried struct{}

// toMessage keeps the message's id even if it is delivered again.
func toMessage(ctx context.Context, p parcel) *message.Message {
	m := message.NewMessage(p.event.ID, message.Payload(p.record.Value))
	m.Metadata = make(message.Metadata, len(p.record.Headers))
	for _, h := range p.record.Headers {
		m.Metadata[string(h.Key)] = string(h.Value)
	}
	m.SetContext(context.WithValue(ctx, carried{}, &p.event))
	return m
}

// A delivery is one session of a subscription.
type delivery struct {
	types  map[string]bool
	wants  func(event.Recorded) bool
	config Config
	marker marker
	out    chan<- *message.Message
	slots  chan struct{} // one for each message in flight
	lanes  sync.WaitGroup

	mu       sync.Mutex
	room     *sync.Cond // waiting has shrunk, or the session has ended
	waiting  int
	streams  map[string][]parcel // streams with a lane at work, and what waits in it
	progress map[int32]*progress
}

// A parcel is a record on its way.
type parcel struct {
	event  event.Recorded
	record *sarama.ConsumerMessage // of which only its value and headers count
	done   func()
}

func newDelivery(ctx context.Context, s *Subscriber, c Config, at marker, out chan<- *message.Message) *delivery {
	d := &delivery{
		types: s.types, wants: s.wants, config: c, marker: at, out: out,
		slots:    make(chan struct{}, s.inFlight),
		streams:  map[string][]parcel{},
		progress: map[int32]*progress{},
	}
	d.room = sync.NewCond(&d.mu)
	d.lanes.Go(func() { // wakes those who wait for room
		<-ctx.Done()
		d.mu.Lock()
		defer d.mu.Unlock()
		d.room.Broadcast()
	})
	return d
}

func (d *delivery) wait() { d.lanes.Wait() }

func (d *delivery) take(ctx context.Context, p piece) {
	for _, r := range p.records {
		e, wanted := d.open(r)
		if !d.accept(ctx, parcel{event: e, record: r}, r.Partition, r.Offset, wanted) {
			return
		}
	}
	for i, e := range p.events {
		wanted := d.types[e.Name] && d.wants(*e)
		in := parcel{}
		if wanted {
			in = parcel{event: *e, record: d.config.message(e)}
		}
		if !d.accept(ctx, in, p.partition, p.offset+int64(i), wanted) {
			return
		}
	}
}

// accept reports whether the parcel was taken, which it is not if ctx ends first.
func (d *delivery) accept(ctx context.Context, p parcel, partition int32, offset int64, wanted bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.waiting >= waitingMax && ctx.Err() == nil {
		d.room.Wait()
	}
	if ctx.Err() != nil {
		return false
	}
	p.done = d.track(partition, offset)
	if !wanted {
		p.done()
		return true
	}
	d.enqueue(ctx, p)
	return true
}

// open reads a record if it is wanted. Most are not, so what they are is looked at
// before they are read.
func (d *delivery) open(r *sarama.ConsumerMessage) (e event.Recorded, wanted bool) {
	if name := typeOf(r); len(name) > 0 && !d.types[string(name)] {
		return event.Recorded{}, false
	}
	e, err := Decode(r)
	if err != nil {
		d.config.Log.Warn("record is no event", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "error", err)
		return event.Recorded{}, false
	}
	return e, d.types[e.Name] && d.wants(e)
}

// track notes a record as begun. What it gives, called with mu held, notes it as
// done and marks what is done without a gap.
func (d *delivery) track(partition int32, offset int64) func() {
	p, ok := d.progress[partition]
	if !ok {
		p = &progress{}
		d.progress[partition] = p
	}
	entry := p.begin(offset)
	return func() {
		if end, ok := p.finish(entry); ok {
			d.marker.mark(partition, end)
		}
	}
}

// enqueue puts a parcel into its stream's lane and starts the lane if it rests.
// It must be called with mu held.
func (d *delivery) enqueue(ctx context.Context, p parcel) {
	stream := p.event.Stream
	queue, running := d.streams[stream]
	d.streams[stream] = append(queue, p)
	d.waiting++
	if !running {
		d.lanes.Go(func() { d.lane(ctx, stream) })
	}
}

// lane delivers what is in a stream's queue, one after the other.
func (d *delivery) lane(ctx context.Context, stream string) {
	for {
		p, ok := d.next(stream)
		if !ok || !d.deliver(ctx, p) {
			return
		}
		d.finish(stream, p)
	}
}

// next looks at the head of the queue; without one the lane ends.
func (d *delivery) next(stream string) (parcel, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	queue := d.streams[stream]
	if len(queue) == 0 {
		delete(d.streams, stream)
		return parcel{}, false
	}
	return queue[0], true
}

func (d *delivery) finish(stream string, p parcel) {
	d.mu.Lock()
	defer d.mu.Unlock()
	queue := d.streams[stream]
	queue[0] = parcel{} // its record may go
	d.streams[stream] = queue[1:]
	d.waiting--
	d.room.Signal()
	p.done()
}

// deliver returns true when the message was acknowledged, and false when the
// session ended. Between two attempts others may use the slot.
func (d *delivery) deliver(ctx context.Context, p parcel) bool {
	var again pause
	for {
		acked, ok := d.attempt(ctx, p)
		if acked || !ok {
			return acked
		}
		if !again.wait(ctx) {
			return false
		}
	}
}

func (d *delivery) attempt(ctx context.Context, p parcel) (acked, ok bool) {
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return false, false
	}
	m := toMessage(ctx, p)
	select {
	case d.out <- m:
	case <-ctx.Done():
		return false, false
	}
	select {
	case <-m.Acked():
		return true, true
	case <-m.Nacked():
		return false, true
	case <-ctx.Done():
		return false, false
	}
}

// Progress knows which offsets of a partition are done, and up to which one
// there is no gap.
type progress struct {
	begun []*entry // in order; the first is not done
}

type entry struct {
	offset int64
	done   bool
}

func (p *progress) begin(offset int64) *entry {
	e := &entry{offset: offset}
	p.begun = append(p.begun, e)
	return e
}

// finish gives the offset behind the last one without a gap, if it moved.
func (p *progress) finish(e *entry) (end int64, moved bool) {
	e.done = true
	for len(p.begun) > 0 && p.begun[0].done {
		end, moved = p.begun[0].offset+1, true
		p.begun = p.begun[1:]
	}
	return end, moved
}
