package kafkabus_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"cartwright/domain/event"
	"cartwright/infra/bustest"
	"cartwright/infra/kafkabus"
)

// TestASessionThatCannotBeginIsBegunAgain refuses what a session asks first: which
// offsets its group has marked.
func TestASessionThatCannotBeginIsBegunAgain(t *testing.T) {
	t.Parallel()
	c, err := kfake.NewCluster(kfake.Ports(0), kfake.SeedTopics(4, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	var asked atomic.Int32
	c.ControlKey(kmsg.OffsetFetch.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		// sarama's own request of a session comes first, then ours.
		if n := asked.Add(1); n%2 == 1 || n > 6 {
			return nil, nil, false
		}
		answer, ok := r.ResponseKind().(*kmsg.OffsetFetchResponse)
		if ok {
			answer.ErrorCode = 29 // not authorized
		}
		return answer, nil, ok
	})
	b := &bed{Config: kafkabus.Config{Brokers: c.ListenAddrs(), Topic: topic, Log: logger()}, layout: kafkabus.Layout{Partitions: 4}}
	publish(t, publisher(t, b.config("")), bustest.Events(10, 1, 1)...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	seen := 0
	err = kafkabus.Batches{Config: b.config("a")}.Run(ctx, func(_ context.Context, batch []event.Recorded) error {
		if seen += len(batch); seen == 10 {
			cancel()
		}
		return nil
	})
	if err != nil || seen != 10 || asked.Load() < 7 {
		t.Fatalf("%d of 10 events after %d questions, %v", seen, asked.Load(), err)
	}
}
