package kafkabus_test

import (
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"cartwright/domain/event"
	"cartwright/infra/bustest"
	"cartwright/infra/kafkabus"
)

const patience = 30 * time.Second

func subscribe(t *testing.T, b *bed, o kafkabus.SubscriberOptions) (<-chan *message.Message, func()) {
	t.Helper()
	o.Config = b.config("process")
	if o.Types == nil {
		o.Types = []string{"order.placed"}
	}
	s, err := kafkabus.NewSubscriber(o)
	if err != nil {
		t.Fatalf("new subscriber: %v", err)
	}
	messages, err := s.Subscribe(t.Context(), "")
	if err != nil {
		t.Fatalf("subscribe: %v", err)
	}
	leave := sync.OnceFunc(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close subscriber: %v", err)
		}
	})
	t.Cleanup(leave)
	return messages, leave
}

func next(t *testing.T, messages <-chan *message.Message) (*message.Message, event.Recorded) {
	t.Helper()
	select {
	case m, ok := <-messages:
		if !ok {
			t.Fatal("the channel is closed")
		}
		e, err := kafkabus.Event(m)
		if err != nil {
			t.Fatal(err)
		}
		return m, e
	case <-time.After(patience):
		t.Fatal("no message came")
	}
	return nil, event.Recorded{}
}

func named(name string, events []event.Recorded) []event.Recorded {
	for i := range events {
		events[i].Name = name
	}
	return events
}

func publish(t *testing.T, p *kafkabus.Publisher, events ...event.Recorded) {
	t.Helper()
	if err := p.Publish(t.Context(), events); err != nil {
		t.Fatalf("publish: %v", err)
	}
}

// lag waits until so many events are uncommitted.
func lag(t *testing.T, b *bed, want int64) {
	t.Helper()
	lagOf(t, b, "process", want)
}

func lagOf(t *testing.T, b *bed, group string, want int64) {
	t.Helper()
	m := meter(t, b, group)
	deadline := time.Now().Add(patience)
	for {
		got, err := m.Lag(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the lag is %d, want %d", got, want)
		}
		pause(t)
	}
}

func pause(t *testing.T) {
	t.Helper()
	select {
	case <-time.After(10 * time.Millisecond):
	case <-t.Context().Done():
	}
}

// subscribers checks Subscriber on one kind of broker.
func subscribers(t *testing.T, open func(testing.TB) *bed) {
	t.Helper()
	for name, check := range map[string]func(*testing.T, *bed){
		"a message carries the whole event":                           carriesTheEvent,
		"only wanted types become messages, and the rest is marked":   onlyWantedTypes,
		"what is not wanted of a type is marked without a message":    onlyWantedEvents,
		"one message of a stream is in flight, and many streams":      oneOfAStream,
		"a refused message comes again, and holds up only its stream": refusedComesAgain,
		"what was not acknowledged comes again to the next":           notAcknowledged,
		"an offset is marked only behind what is done":                markedBehindDone,
		"a subscriber closes its channel":                             closesChannel,
		"the lag counts what is not committed":                        lagCounts,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, open(t))
		})
	}
}

func TestSubscriber(t *testing.T) {
	t.Parallel()
	subscribers(t, open)
}

func carriesTheEvent(t *testing.T, b *bed) {
	t.Helper()
	want := bustest.Event("order-1", 1, 1)
	publish(t, publisher(t, b.config("")), want)
	messages, _ := subscribe(t, b, kafkabus.SubscriberOptions{})
	m, got := next(t, messages)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the event changed (-want +got):\n%s", diff)
	}
	if m.UUID != want.ID || string(m.Payload) != string(want.Data) || m.Metadata["ce_type"] != want.Name {
		t.Errorf("message %s with metadata %v", m.UUID, m.Metadata)
	}
	got, err := kafkabus.Event(m.Copy()) // without the context, which has the event
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("a copy carries another event (-want +got):\n%s%v", diff, err)
	}
	m.Ack()
}

func onlyWantedTypes(t *testing.T, b *bed) {
	t.Helper()
	p := publisher(t, b.config(""))
	publish(t, p, named("order.paid", bustest.Events(50, 4, 1))...)
	if err := b.spoil("order-1"); err != nil {
		t.Fatal(err)
	}
	publish(t, p, bustest.Event("order-1", 5, 1))
	messages, leave := subscribe(t, b, kafkabus.SubscriberOptions{})
	m, e := next(t, messages)
	if e.Revision != 5 {
		t.Errorf("%s revision %d was delivered", e.Name, e.Revision)
	}
	m.Ack()
	lag(t, b, 0)
	leave()
}

func onlyWantedEvents(t *testing.T, b *bed) {
	t.Helper()
	publish(t, publisher(t, b.config("")), bustest.Events(50, 4, 1)...)
	messages, leave := subscribe(t, b, kafkabus.SubscriberOptions{
		Wants: func(e event.Recorded) bool { return e.Stream == "order-7" && e.Revision%2 == 0 },
	})
	for want := event.Revision(2); want <= 4; want += 2 {
		m, e := next(t, messages)
		if e.Stream != "order-7" || e.Revision != want {
			t.Errorf("revision %d of %s came, want %d of order-7", e.Revision, e.Stream, want)
		}
		m.Ack()
	}
	lag(t, b, 0)
	leave()
}

func oneOfAStream(t *testing.T, b *bed) {
	t.Helper()
	publish(t, publisher(t, b.config("")), bustest.Events(20, 3, 1)...)
	messages, _ := subscribe(t, b, kafkabus.SubscriberOptions{})
	for r := event.Revision(1); r <= 3; r++ {
		var unanswered []*message.Message
		for range 20 {
			m, e := next(t, messages)
			if e.Revision != r {
				t.Fatalf("%s: revision %d came while %d was not acknowledged", e.Stream, e.Revision, r)
			}
			unanswered = append(unanswered, m)
		}
		for _, m := range unanswered {
			m.Ack()
		}
	}
}

func refusedComesAgain(t *testing.T, b *bed) {
	t.Helper()
	publish(t, publisher(t, b.config("")), bustest.Events(20, 10, 1)...)
	// As few in flight as possible: a refused one must give its place away.
	messages, _ := subscribe(t, b, kafkabus.SubscriberOptions{InFlight: 1})
	refused, acked := 0, 0
	for acked < 19*10 || refused < 4 {
		m, e := next(t, messages)
		if e.Stream == "order-7" {
			if e.Revision != 1 {
				t.Fatalf("revision %d overtook a refused one", e.Revision)
			}
			refused++
			m.Nack()
			continue
		}
		acked++
		m.Ack()
	}
	for acked < 200 {
		m, _ := next(t, messages)
		acked++
		m.Ack()
	}
	lag(t, b, 0)
}

func notAcknowledged(t *testing.T, b *bed) {
	t.Helper()
	publish(t, publisher(t, b.config("")), bustest.Events(1, 10, 1)...)
	messages, leave := subscribe(t, b, kafkabus.SubscriberOptions{})
	for range 4 {
		m, _ := next(t, messages)
		m.Ack()
	}
	held, e := next(t, messages)
	if e.Revision != 5 {
		t.Fatalf("revision %d came", e.Revision)
	}
	leave()
	if held.Context().Err() == nil {
		t.Error("the context of a message outlives its session")
	}
	held.Ack() // too late
	messages, _ = subscribe(t, b, kafkabus.SubscriberOptions{})
	for want := event.Revision(5); want <= 10; want++ {
		m, e := next(t, messages)
		if e.Revision != want {
			t.Fatalf("revision %d came, want %d", e.Revision, want)
		}
		m.Ack()
	}
	lag(t, b, 0)
}

func markedBehindDone(t *testing.T, b *bed) {
	t.Helper()
	p := publisher(t, b.config(""))
	// Streams of one partition: the key decides, and so many share each one.
	publish(t, p, bustest.Events(320, 1, 1)...)
	messages, leave := subscribe(t, b, kafkabus.SubscriberOptions{InFlight: 1000})
	var held *message.Message
	for i := range 320 {
		m, _ := next(t, messages)
		if i == 0 {
			held = m
			continue
		}
		m.Ack()
	}
	leave()
	if held == nil {
		t.Fatal("nothing came")
	}
	messages, _ = subscribe(t, b, kafkabus.SubscriberOptions{})
	for {
		m, _ := next(t, messages)
		m.Ack()
		if m.UUID == held.UUID {
			break
		}
	}
}

func TestAWrongSubscriberIsRefused(t *testing.T) {
	c := kafkabus.Config{Brokers: []string{"127.0.0.1:1"}, Topic: topic, Group: "g"}
	for name, o := range map[string]kafkabus.SubscriberOptions{
		"no types":   {Config: c},
		"no group":   {Config: kafkabus.Config{Brokers: c.Brokers, Topic: topic}, Types: []string{"a"}},
		"no topic":   {Config: kafkabus.Config{Brokers: c.Brokers, Group: "g"}, Types: []string{"a"}},
		"no brokers": {Config: kafkabus.Config{Topic: topic, Group: "g"}, Types: []string{"a"}},
	} {
		if _, err := kafkabus.NewSubscriber(o); err == nil {
			t.Errorf("%s: it was accepted", name)
		}
	}
}

func closesChannel(t *testing.T, b *bed) {
	t.Helper()
	messages, leave := subscribe(t, b, kafkabus.SubscriberOptions{})
	leave()
	if _, ok := <-messages; ok {
		t.Fatal("a message came after the end")
	}
}

func lagCounts(t *testing.T, b *bed) {
	t.Helper()
	p := publisher(t, b.config(""))
	lag(t, b, 0)
	publish(t, p, bustest.Events(10, 10, 1)...)
	lag(t, b, 100)
	messages, leave := subscribe(t, b, kafkabus.SubscriberOptions{})
	for range 100 {
		m, _ := next(t, messages)
		m.Ack()
	}
	lag(t, b, 0) // before leaving, which may come before the last acknowledgement is heard
	leave()
}
