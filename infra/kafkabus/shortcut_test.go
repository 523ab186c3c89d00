package kafkabus_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"cartwright/domain/event"
	"cartwright/infra/bustest"
	"cartwright/infra/kafkabus"
)

// inARow is how many events come one by one without a question to the brokers
// where a reader is on a shortcut: on the other way, each is asked for.
const inARow = 5

// A listened bed has a shortcut, and a broker that counts how often it is asked
// for events.
type listened struct {
	*bed
	t      *testing.T
	asked  *atomic.Int64
	ours   *kafkabus.Publisher
	others *kafkabus.Publisher // of another process
	stream string
	last   event.Revision // of stream
}

func listen(t *testing.T) *listened {
	t.Helper()
	c, err := kfake.NewCluster(kfake.Ports(0), kfake.SeedTopics(1, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	asked := &atomic.Int64{}
	c.ControlKey(kmsg.Fetch.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		asked.Add(1)
		return nil, nil, false
	})
	b := &bed{
		Config: kafkabus.Config{Brokers: c.ListenAddrs(), Topic: topic, Log: logger()},
		layout: kafkabus.Layout{Partitions: 1},
	}
	b.Shortcut = kafkabus.NewShortcut(func() []int64 {
		var ends []int64
		for _, p := range c.PartitionInfos(topic) {
			ends = append(ends, p.HighWatermark)
		}
		return ends
	})
	return &listened{bed: b, t: t, asked: asked, ours: publisher(t, b.config("")), others: publisher(t, b.apart()), stream: "order-1"}
}

// more gives the next n events of the stream.
func (l *listened) more(n int) []event.Recorded {
	var events []event.Recorded
	for range n {
		l.last++
		events = append(events, bustest.Event(l.stream, l.last, uint64(l.last)))
	}
	return events
}

// shorten publishes event by event until a reader is on the shortcut: arrive waits
// until it has been given so many.
func (l *listened) shorten(arrive func(upTo event.Revision)) {
	l.t.Helper()
	for deadline, row := time.Now().Add(patience), 0; row < inARow; row++ {
		if time.Now().After(deadline) {
			l.t.Fatal("brokers are still asked for every event")
		}
		before := l.asked.Load()
		publish(l.t, l.ours, l.more(1)...)
		arrive(l.last)
		if l.asked.Load() != before {
			row = -1
		}
	}
}

// A listReader keeps what it is given, and refuses what comes out of its order.
type listReader struct {
	t      *testing.T
	mu     sync.Mutex
	events []event.Recorded
	gate   chan struct{} // until it is closed nothing is taken; nil takes everything
	stream string        // the only one that counts; "" is any
}

// only forgets what came, and counts the events of one stream from now on.
func (r *listReader) only(stream string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events, r.stream = nil, stream
}

func (r *listReader) take(ctx context.Context, batch []event.Recorded) error {
	r.mu.Lock()
	gate := r.gate
	r.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range batch {
		at := event.Revision(len(r.events))
		if r.stream != "" && e.Stream != r.stream {
			continue
		}
		if e.Revision > at+1 {
			r.t.Errorf("revision %d came behind %d", e.Revision, at)
		} else if e.Revision == at+1 {
			r.events = append(r.events, e)
		}
	}
	return nil
}

// shut keeps what comes from now on waiting until open is called.
func (r *listReader) shut() (open func()) {
	gate := make(chan struct{})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gate = gate
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.gate = nil
		close(gate)
	}
}

func (r *listReader) await(upTo event.Revision) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); ; pause(r.t) {
		r.mu.Lock()
		have := len(r.events)
		r.mu.Unlock()
		if have >= int(upTo) {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%d events came, not %d", have, upTo)
		}
	}
}

// reader reads in batches, until leave.
func (l *listened) reader() (r *listReader, leave func()) {
	l.t.Helper()
	r = &listReader{t: l.t}
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan error, 1)
	go func() {
		done <- kafkabus.Batches{Config: l.config("short"), Spacing: time.Millisecond}.Run(ctx, r.take)
	}()
	leave = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	})
	l.t.Cleanup(leave)
	return r, leave
}

func TestWhoHasReadAllIsHandedWhatFollowsWithoutAskingBrokers(t *testing.T) {
	t.Parallel()
	l := listen(t)
	r, _ := l.reader()
	l.shorten(r.await)
}

func TestAShortcutChangesNoEvent(t *testing.T) {
	t.Parallel()
	l := listen(t)
	r, _ := l.reader()
	l.shorten(r.await)
	e := l.more(2)
	e[0].At = time.Now().In(time.FixedZone("UTC+8", 8*60*60)) // with a monotonic reading
	e[1].Meta, e[1].Created = event.Meta{}, time.Time{}
	publish(t, l.ours, e...)
	r.await(l.last)

	far := &listReader{t: t}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	apart := l.apart()
	apart.Group = "far"
	done := make(chan error, 1)
	go func() { done <- kafkabus.Batches{Config: apart}.Run(ctx, far.take) }()
	far.await(l.last)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if diff := cmp.Diff(far.events, r.events); diff != "" {
		t.Fatalf("not as brokers give them (-brokers +shortcut):\n%s", diff)
	}
	for i := range far.events { // cmp compares instants
		if far.events[i].At != r.events[i].At || far.events[i].Created != r.events[i].Created {
			t.Errorf("%d: times are told in another way", i)
		}
	}
}

func TestWhatOthersPublishComesToWhoIsOnAShortcut(t *testing.T) {
	t.Parallel()
	l := listen(t)
	r, _ := l.reader()
	l.shorten(r.await)
	publish(t, l.others, l.more(3)...)
	r.await(l.last) // although we publish nothing any more
	for range 3 {
		publish(t, l.others, l.more(1)...)
		publish(t, l.ours, l.more(2)...)
	}
	r.await(l.last)
	l.shorten(r.await)
}

func TestWhoIsTooSlowForAShortcutReadsOnFromBrokers(t *testing.T) {
	t.Parallel()
	l := listen(t)
	r, _ := l.reader()
	l.shorten(r.await)
	open := r.shut()
	asked := l.asked.Load()
	for range 10 {
		publish(t, l.ours, l.more(1000)...)
	}
	open()
	r.await(l.last)
	if l.asked.Load() == asked {
		t.Error("everything was kept for a slow reader")
	}
	l.shorten(r.await)
}

func TestAReaderOnAShortcutMarksWhatItHasRead(t *testing.T) {
	t.Parallel()
	l := listen(t)
	r, leave := l.reader()
	l.shorten(r.await)
	lagOf(t, l.bed, "short", 0)
	publish(t, l.ours, l.more(100)...)
	r.await(l.last)
	leave()
	lagOf(t, l.bed, "short", 0)
}

func TestATopicMadeAnewEndsAShortcut(t *testing.T) {
	t.Parallel()
	l := listen(t)
	r, _ := l.reader()
	l.shorten(r.await)
	open := r.shut()
	publish(t, l.ours, l.more(1)...) // it waits with this one while the offsets begin anew
	if err := l.remake(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := l.last
	l.stream, l.last = "order-2", 0
	for deadline := time.Now().Add(patience); l.last < before+10; {
		events := l.more(1)
		if err := l.ours.Publish(t.Context(), events); err != nil {
			l.last--
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	r.only("order-2") // which comes from its beginning, though the new offsets reach beyond the old
	open()
	r.await(l.last)
}

func TestAMessageOnAShortcutIsAsBrokersGiveIt(t *testing.T) {
	t.Parallel()
	l := listen(t)
	messages, _ := subscribe(t, l.bed, kafkabus.SubscriberOptions{})
	l.shorten(func(upTo event.Revision) {
		for {
			m, e := next(t, messages)
			m.Ack()
			if e.Revision == upTo {
				return
			}
		}
	})
	e := l.more(3)
	e[0].Name = "order.unwanted"
	publish(t, l.ours, e...)
	far := l.apart()
	far.Group = "far"
	plain, err := kafkabus.NewSubscriber(kafkabus.SubscriberOptions{Config: far, Types: []string{"order.placed"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if failed := plain.Close(); failed != nil {
			t.Error(failed)
		}
	}()
	fetched, err := plain.Subscribe(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range e[1:] {
		refused, _ := next(t, messages)
		refused.Nack()
		m, got := next(t, messages) // again, and before the other
		for {
			n, behind := next(t, fetched)
			n.Ack()
			if behind.Revision == want.Revision {
				sameMessage(t, n, m)
				break
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the event changed (-want +got):\n%s", diff)
		}
		m.Ack()
	}
	lag(t, l.bed, 0)
}

func sameMessage(t *testing.T, want, got *message.Message) {
	t.Helper()
	if want.UUID != got.UUID || !slices.Equal(want.Payload, got.Payload) {
		t.Errorf("message %s, %s, not %s, %s", got.UUID, got.Payload, want.UUID, want.Payload)
	}
	if diff := cmp.Diff(want.Metadata, got.Metadata); diff != "" {
		t.Errorf("not as brokers give it (-brokers +shortcut):\n%s", diff)
	}
}
