package process_test

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cartwright/domain/event"
	"cartwright/infra/kafkabus"
	"cartwright/infra/kafkanode"
	"cartwright/infra/process"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick")) // sarama's, for the whole process
}

const topic = "process.test"

func TestAFailingReactionHoldsUpOnlyItsStream(t *testing.T) {
	node, err := kafkanode.Open(kafkanode.Options{Dir: t.TempDir(), Topic: topic, Partitions: 4})
	if err != nil {
		t.Fatal(err)
	}
	cfg := kafkabus.Config{Brokers: []string{node.Addr()}, Topic: topic, Group: "process"}
	pub, err := kafkabus.NewPublisher(cfg)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := kafkabus.NewSubscriber(kafkabus.SubscriberOptions{Config: cfg, Types: []string{"order.paid"}})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string][]event.Revision{}
	tries := 0
	r := &process.Runner{
		Name: "test", Subscriber: sub, Topic: topic, Log: slog.New(slog.DiscardHandler),
		React: func(_ context.Context, e event.Recorded) error {
			mu.Lock()
			defer mu.Unlock()
			if e.Stream == "order-0" && e.Revision == 1 {
				if tries++; tries < 4 {
					if tries == 1 {
						panic("a reaction that panics is a reaction that fails")
					}
					return errors.New("not yet")
				}
			}
			seen[e.Stream] = append(seen[e.Stream], e.Revision)
			return nil
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- r.Run(ctx) }()
	var batch []event.Recorded
	for i := range 10 {
		for rev := range 3 {
			batch = append(batch, event.Recorded{
				Stream: "order-" + strconv.Itoa(i), Revision: event.Revision(rev + 1), Position: uint64(len(batch) + 1),
				ID: strconv.Itoa(len(batch)), Name: "order.paid", Version: 1, Data: []byte(`{"amount":1}`), Created: time.Now(),
			})
		}
	}
	if err := pub.Publish(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for r.Status().Done < 30 && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		got := seen["order-"+strconv.Itoa(i)]
		if len(got) != 3 || got[0] != 1 || got[1] != 2 || got[2] != 3 {
			t.Errorf("order-%d: got revisions %v", i, got)
		}
	}
	if s := r.Status(); s.Failed != 3 {
		t.Errorf("%d failures", s.Failed)
	}
	for _, end := range []func() error{sub.Close, pub.Close, node.Close} {
		if err := end(); err != nil {
			t.Error(err)
		}
	}
}
