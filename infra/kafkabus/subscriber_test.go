package kafkabus_test

import (
	"context"
	"fmt"
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

func subscribe(t *testing.T, b *broker, o kafkabus.SubscriberOptions) (<-chan *message.Message, func()) {
	t.Helper()
	o.Config = b.config("process")
	if o.Types == nil {
		o.Types = []string{"order.placed"}
	}
	s, err := kafkabus.NewSubscriber(o)
	if err != nil {
		t.Fatalf("new subscriber: %v", err)
	}
	messages, err := s.Subscribe(t.Context(), topic)
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
func lag(t *testing.T, b *broker, want int64) {
	t.Helper()
	m, err := kafkabus.NewMeter(b.config("process"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(); err != nil {
			t.Errorf("close meter: %v", err)
		}
	}()
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

func TestAMessageCarriesTheWholeEvent(t *testing.T) {
	t.Parallel()
	b := open(t)
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
	m.Ack()
}

func TestOnlyWantedTypesBecomeMessagesAndTheRestIsMarked(t *testing.T) {
	t.Parallel()
	b := open(t)
	p := publisher(t, b.config(""))
	publish(t, p, named("order.paid", bustest.Events(50, 4, 1))...)
	if err := spoil(b, "order-1"); err != nil {
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

func TestOneMessageOfAStreamIsInFlightAndManyStreams(t *testing.T) {
	t.Parallel()
	b := open(t)
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

func TestARefusedMessageComesAgainAndHoldsUpOnlyItsStream(t *testing.T) {
	t.Parallel()
	b := open(t)
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

func TestWhatWasNotAcknowledgedComesAgainToTheNext(t *testing.T) {
	t.Parallel()
	b := open(t)
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

func TestAnOffsetIsMarkedOnlyBehindWhatIsDone(t *testing.T) {
	t.Parallel()
	b := open(t)
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

func TestASubscriberClosesItsChannel(t *testing.T) {
	t.Parallel()
	b := open(t)
	messages, leave := subscribe(t, b, kafkabus.SubscriberOptions{})
	leave()
	if _, ok := <-messages; ok {
		t.Fatal("a message came after the end")
	}
}

func TestAnOutageOfTheBrokerIsOvercome(t *testing.T) {
	t.Parallel()
	b := open(t)
	p := publisher(t, b.config(""))
	var mu sync.Mutex
	seen := map[string]event.Revision{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- kafkabus.Batches{Config: b.config("views")}.Run(ctx, func(_ context.Context, batch []event.Recorded) error {
			mu.Lock()
			defer mu.Unlock()
			for _, e := range batch {
				if e.Revision > seen[e.Stream]+1 {
					t.Errorf("%s: revision %d came after %d", e.Stream, e.Revision, seen[e.Stream])
				}
				seen[e.Stream] = max(seen[e.Stream], e.Revision)
			}
			return nil
		})
	}()
	insist := func(r event.Revision) {
		t.Helper()
		deadline := time.Now().Add(patience)
		for p.Publish(t.Context(), bustest.Events(50, 1, r)) != nil {
			if time.Now().After(deadline) {
				t.Fatal("publishing never succeeded")
			}
			pause(t)
		}
	}
	all := func(r event.Revision) {
		t.Helper()
		deadline := time.Now().Add(patience)
		for {
			mu.Lock()
			missing := ""
			for s := range 50 {
				if stream := fmt.Sprintf("order-%d", s); seen[stream] < r {
					missing = stream
				}
			}
			mu.Unlock()
			if missing == "" {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("revision %d of %s never came", r, missing)
			}
			pause(t)
		}
	}
	insist(1)
	all(1)
	b.stop(t)
	back := make(chan struct{})
	go func() {
		defer close(back)
		<-time.After(500 * time.Millisecond)
		b.start(t)
	}()
	insist(2)
	<-back
	insist(3)
	all(3)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestATopicWithOtherPartitionsIsRefused(t *testing.T) {
	t.Parallel()
	b := open(t)
	c := b.config("")
	if err := kafkabus.EnsureTopic(t.Context(), c, 32, 1); err != nil {
		t.Errorf("a topic as it should be: %v", err)
	}
	if err := kafkabus.EnsureTopic(t.Context(), c, 16, 1); err == nil {
		t.Error("a topic of 32 partitions passed for one of 16")
	}
	c.Topic = "another"
	for range 2 {
		if err := kafkabus.EnsureTopic(t.Context(), c, 3, 1); err != nil {
			t.Errorf("a new topic: %v", err)
		}
	}
	if err := kafkabus.EnsureTopic(t.Context(), c, 0, 1); err == nil {
		t.Error("a topic without partitions passed")
	}
}

func TestLagCountsWhatIsNotCommitted(t *testing.T) {
	t.Parallel()
	b := open(t)
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
