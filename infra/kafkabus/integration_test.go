package kafkabus_test

import (
	"context"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"cartwright/domain/event"
	"cartwright/infra/bustest"
	"cartwright/infra/kafkabus"
)

// integrations checks watermill's own publisher and subscriber on one kind of
// broker. (Called after integrations with others; the build tag of that name is
// for tests of real servers.)
func integrations(t *testing.T, open func(testing.TB) *bed) {
	t.Helper()
	for name, check := range map[string]func(*testing.T, *bed){
		"what our publisher sends, an integration reads":        integrationReads,
		"what an integration sends, our readers read":           integrationSends,
		"a record that is no CloudEvent does not stop a group":  brokenRecordPasses,
		"another's CloudEvent goes through with its attributes": foreignEvent,
		"a topic is made with the layout that was given":        initializes,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, open(t))
		})
	}
}

func TestIntegrations(t *testing.T) {
	t.Parallel()
	integrations(t, open)
}

func follow(t *testing.T, b *bed) <-chan *message.Message {
	t.Helper()
	s, err := kafkabus.NewIntegrationSubscriber(b.config("outside"), kafkabus.Layout{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left := s.Close(); left != nil {
			t.Errorf("close subscriber: %v", left)
		}
	})
	messages, err := s.Subscribe(t.Context(), b.Topic)
	if err != nil {
		t.Fatal(err)
	}
	return messages
}

func send(t *testing.T, b *bed, messages ...*message.Message) {
	t.Helper()
	p, err := kafkabus.NewIntegrationPublisher(b.config(""))
	if err != nil {
		t.Fatal(err)
	}
	if err = p.Publish(b.Topic, messages...); err != nil {
		t.Error(err)
	}
	if err = p.Close(); err != nil {
		t.Error(err)
	}
}

func receive(t *testing.T, messages <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case m, ok := <-messages:
		if !ok {
			t.Fatal("the channel is closed")
		}
		return m
	case <-time.After(patience):
		t.Fatal("no message came")
	}
	return nil
}

func integrationReads(t *testing.T, b *bed) {
	t.Helper()
	want := map[string]event.Recorded{}
	for _, e := range bustest.Events(20, 3, 1) {
		want[e.ID] = e
	}
	publish(t, publisher(t, b.config("")), bustest.Events(20, 3, 1)...)
	messages, seen := follow(t, b), map[string]event.Revision{}
	for len(want) > 0 {
		m := receive(t, messages)
		e, err := kafkabus.Event(m)
		if err != nil || kafkabus.Broken(m) != nil {
			t.Fatalf("%v, %v", err, kafkabus.Broken(m))
		}
		if diff := cmp.Diff(want[m.UUID], e); diff != "" {
			t.Fatalf("the event changed (-want +got):\n%s", diff)
		}
		if e.Revision != seen[e.Stream]+1 {
			t.Errorf("%s: revision %d came after %d", e.Stream, e.Revision, seen[e.Stream])
		}
		seen[e.Stream] = e.Revision
		delete(want, m.UUID)
		m.Ack()
	}
}

func integrationSends(t *testing.T, b *bed) {
	t.Helper()
	all := bustest.Events(20, 3, 1)
	messages := make([]*message.Message, len(all))
	for i, e := range all {
		messages[i] = kafkabus.Message(e, "/elsewhere")
	}
	send(t, b, messages...)
	publish(t, publisher(t, b.config("")), bustest.Events(20, 1, 4)...) // to the same partitions, or it would overtake
	var mu sync.Mutex
	seen := map[string]event.Revision{}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := kafkabus.Batches{Config: b.config("a")}.Run(ctx, func(_ context.Context, batch []event.Recorded) error {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range batch {
			if diff := cmp.Diff(bustest.Event(e.Stream, e.Revision, e.Position), e); diff != "" {
				t.Errorf("the event changed (-want +got):\n%s", diff)
			}
			if e.Revision != seen[e.Stream]+1 {
				t.Errorf("%s: revision %d came after %d", e.Stream, e.Revision, seen[e.Stream])
			}
			seen[e.Stream] = e.Revision
		}
		if done := maps.Collect(func(yield func(string, event.Revision) bool) {
			for s, r := range seen {
				if r == 4 && !yield(s, r) {
					return
				}
			}
		}); len(done) == 20 {
			cancel()
		}
		return nil
	})
	if err != nil || len(seen) != 20 {
		t.Fatalf("%d streams, %v", len(seen), err)
	}
}

func brokenRecordPasses(t *testing.T, b *bed) {
	t.Helper()
	e := bustest.Event("order-1", 1, 1)
	if err := b.spoil("order-1"); err != nil { // goes before it in its partition
		t.Fatal(err)
	}
	publish(t, publisher(t, b.config("")), e)
	messages := follow(t, b)
	m := receive(t, messages)
	if kafkabus.Broken(m) == nil || string(m.Payload) != "no event" || m.UUID == "" {
		t.Errorf("message %q with payload %q is broken: %v", m.UUID, m.Payload, kafkabus.Broken(m))
	}
	m.Ack()
	if m = receive(t, messages); m.UUID != e.ID {
		t.Errorf("message %s came", m.UUID)
	}
	m.Ack()
	lagOf(t, b, "outside", 0)
}

func foreignEvent(t *testing.T, b *bed) {
	t.Helper()
	want := message.NewMessage("id-1", message.Payload(`<a/>`))
	want.Metadata = message.Metadata{"ce_type": "com.example.made", "content-type": "text/xml", "ce_partitionkey": "k", "x-own": "y"}
	send(t, b, want)
	m := receive(t, follow(t, b))
	got := message.Metadata{}
	maps.Copy(got, m.Metadata)
	if diff := cmp.Diff(message.Metadata{
		"ce_specversion": "1.0", "ce_id": "id-1", "ce_source": "/cartwright", "ce_type": "com.example.made",
		"content-type": "text/xml", "ce_partitionkey": "k", "x-own": "y",
	}, got); diff != "" || m.UUID != "id-1" || string(m.Payload) != `<a/>` {
		t.Errorf("message %s, payload %s, metadata (-want +got):\n%s", m.UUID, m.Payload, diff)
	}
	if err := kafkabus.Broken(m); err != nil {
		t.Error(err)
	}
	if e, err := kafkabus.Event(m); err == nil {
		t.Errorf("it is an event of ours: %+v", e)
	}
	m.Ack()
}

func initializes(t *testing.T, b *bed) {
	t.Helper()
	l := kafkabus.Layout{Partitions: 3, Replication: 1, MinInSync: 1}
	s, err := kafkabus.NewIntegrationSubscriber(b.config("outside"), l)
	if err != nil {
		t.Fatal(err)
	}
	other := *b
	other.Topic = unique()
	if err = s.SubscribeInitialize(other.Topic); err != nil {
		t.Error(err)
	}
	if err = kafkabus.EnsureTopic(t.Context(), other.config(""), l); err != nil {
		t.Error(err)
	}
	if err = s.Close(); err != nil {
		t.Error(err)
	}
	if err = other.remove(); err != nil {
		t.Error(err)
	}
}

func TestAMessageThatIsNoCloudEventIsNotSent(t *testing.T) {
	m := message.NewMessage("1", nil)
	if r, err := (kafkabus.CloudEvents{Source: "/x"}).Marshal(topic, m); err == nil {
		t.Errorf("without a type it is %+v", r)
	}
	m.Metadata.Set("ce_type", "a")
	m.Metadata.Set("ce_specversion", "0.3")
	if r, err := (kafkabus.CloudEvents{Source: "/x"}).Marshal(topic, m); err == nil {
		t.Errorf("of an older version it is %+v", r)
	}
}

func FuzzUnmarshalNeverFails(f *testing.F) {
	f.Add("ce_type", []byte("a"), []byte(`{}`))
	f.Add("cartwright-broken", []byte("x"), []byte(nil))
	f.Fuzz(func(t *testing.T, name string, value, data []byte) {
		for _, r := range []*sarama.ConsumerMessage{record(whole()), {Topic: topic}} {
			r.Value = data
			r.Headers = append(r.Headers, nil, &sarama.RecordHeader{Key: []byte(name), Value: value})
			m, err := kafkabus.CloudEvents{}.Unmarshal(r)
			if err != nil || m == nil || m.UUID == "" || string(m.Payload) != string(data) {
				t.Fatalf("got %+v, %v", m, err)
			}
		}
	})
}

func TestAWrongIntegrationIsRefused(t *testing.T) {
	c := kafkabus.Config{Brokers: []string{"127.0.0.1:1"}}
	if _, err := kafkabus.NewIntegrationSubscriber(c, kafkabus.Layout{}); err == nil {
		t.Error("a subscriber without a group was accepted")
	}
	c.Group = "g"
	if _, err := kafkabus.NewIntegrationSubscriber(c, kafkabus.Layout{Replication: 1}); err == nil {
		t.Error("a layout without partitions was accepted")
	}
	if _, err := kafkabus.NewIntegrationPublisher(c); err == nil {
		t.Error("a publisher without a broker was accepted")
	}
}
