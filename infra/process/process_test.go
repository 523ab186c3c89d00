package process_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
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

var errRefused = errors.New("refused")

func TestAReactionThatIsRefusedForGoodIsParked(t *testing.T) {
	var parked []string
	var mu sync.Mutex
	away := 0
	r := &process.Runner{
		Name: "parking", Tries: 3, Patience: time.Nanosecond,
		Passing: func(err error) bool { return !errors.Is(err, errRefused) },
		Park: func(_ context.Context, e event.Recorded, reason string, tries int) error {
			mu.Lock()
			defer mu.Unlock()
			if away++; away == 1 {
				return errors.New("the log is away")
			}
			parked = append(parked, e.Stream+" "+reason+" "+strconv.Itoa(tries))
			return nil
		},
	}
	waits := 0
	status := react(t, r, []string{"order-0", "order-0", "order-1", "order-2", "order-3", "order-3"}, 4, func(e event.Recorded) error {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case e.Stream == "order-3" && e.Revision == 1:
			panic("a fault of ours passes no more than a refusal")
		case e.Stream == "order-0" && e.Revision == 1:
			return errRefused
		case e.Stream == "order-1":
			if waits++; waits < 6 {
				return errors.New("something is away")
			}
		}
		return nil
	})
	slices.Sort(parked)
	// The first parking fails, so one try more is needed for whoever came first.
	tries := 0
	for _, p := range parked {
		n, _ := strconv.Atoi(p[len(p)-1:])
		tries += n
	}
	if len(parked) != 2 || !strings.HasPrefix(parked[0], "order-0 refused ") || !strings.HasPrefix(parked[1], "order-3 ") ||
		tries != 7 || status.Parked != 2 || status.Done != 4 || waits != 6 {
		t.Errorf("parked %v, %+v, %d tries of what was away", parked, status, waits)
	}
}

// react runs r until it has done so many messages, of which streams names the
// streams, and gives its counts.
func react(t *testing.T, r *process.Runner, streams []string, done int64, reaction func(event.Recorded) error) process.Status {
	t.Helper()
	node, err := kafkanode.Open(kafkanode.Options{Dir: t.TempDir(), Topic: topic, Partitions: 4})
	if err != nil {
		t.Fatal(err)
	}
	cfg := kafkabus.Config{Brokers: []string{node.Addr()}, Topic: topic, Group: r.Name}
	pub, err := kafkabus.NewPublisher(cfg)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := kafkabus.NewSubscriber(kafkabus.SubscriberOptions{Config: cfg, Types: []string{"order.paid"}})
	if err != nil {
		t.Fatal(err)
	}
	r.Subscriber, r.Topic, r.Log = sub, topic, slog.New(slog.DiscardHandler)
	r.React = func(_ context.Context, e event.Recorded) error { return reaction(e) }
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- r.Run(ctx) }()
	revisions := map[string]event.Revision{}
	batch := make([]event.Recorded, len(streams))
	for i, stream := range streams {
		revisions[stream]++
		batch[i] = event.Recorded{
			Stream: stream, Revision: revisions[stream], Position: uint64(i + 1),
			ID: strconv.Itoa(i + 1), Name: "order.paid", Version: 1, Data: []byte(`{"amount":1}`), Created: time.Now(),
		}
	}
	if err := pub.Publish(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); r.Status().Done < done && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	for _, end := range []func() error{func() error { return <-stopped }, sub.Close, pub.Close, node.Close} {
		if err := end(); err != nil {
			t.Error(err)
		}
	}
	return r.Status()
}

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
