package kafkabus_test

import (
	"context"
	"testing"
	"time"

	"cartwright/domain/event"
	"cartwright/infra/bustest"
	"cartwright/infra/kafkabus"
)

// An hour from one batch to the next shows which of them wait: those that do come
// only when they are full.
func TestAQuietReaderIsHandedEventsAtOnceAndABusyOneFullBatches(t *testing.T) {
	t.Parallel()
	b := open(t)
	p := publisher(t, b.config(""))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	handled, done := make(chan int, 1), make(chan error, 1)
	go func() {
		r := kafkabus.Batches{Config: b.config("a"), Max: 3, Spacing: time.Hour}
		done <- r.Run(ctx, func(_ context.Context, batch []event.Recorded) error {
			handled <- len(batch)
			return nil
		})
	}()
	await := func() int {
		select {
		case n := <-handled:
			return n
		case <-ctx.Done():
			return 0
		}
	}
	for i := range event.Revision(8) {
		publish(t, p, bustest.Event("order-1", i+1, uint64(i)+1))
		if n := await(); n != 1 {
			t.Fatalf("event %d of a quiet topic came in a batch of %d", i+1, n)
		}
	}
	for i := range event.Revision(3) {
		publish(t, p, bustest.Event("order-1", i+9, uint64(i)+9))
	}
	if n := await(); n != 3 {
		t.Errorf("the batch behind those at once has %d events, not 3", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFullBatchesHoldUpNoneBehindThem(t *testing.T) {
	t.Parallel()
	const full, size = 300, 3
	b := open(t)
	p := publisher(t, b.config(""))
	publish(t, p, bustest.Events(1, full*size+1, 1)...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var first, last time.Time
	seen := 0
	r := kafkabus.Batches{Config: b.config("a"), Max: size, Spacing: time.Second}
	err := r.Run(ctx, func(_ context.Context, batch []event.Recorded) error {
		if last = time.Now(); seen == 0 {
			first = last
		}
		if seen += len(batch); seen == full*size+1 {
			cancel()
		}
		return nil
	})
	if took := last.Sub(first); err != nil || seen != full*size+1 || took > 20*time.Second {
		t.Errorf("%d of %d events came within %v, %v", seen, full*size+1, took, err)
	}
}
