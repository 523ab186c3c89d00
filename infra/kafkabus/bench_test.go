package kafkabus_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"cartwright/domain/event"
	"cartwright/infra/bustest"
	"cartwright/infra/cputime"
	"cartwright/infra/kafkabus"
)

func perSecond(b *testing.B, events int) {
	b.Helper()
	b.ReportMetric(float64(events)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkPublish(b *testing.B) { benchPublish(b, open) }

func benchPublish(b *testing.B, open func(testing.TB) *bed) {
	b.Helper()
	for _, size := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			bus := open(b)
			p := publisher(b, bus.config(""))
			events := bustest.Events(size, 1, 1)
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Publish(b.Context(), events); err != nil {
					b.Fatal(err)
				}
			}
			perSecond(b, size)
		})
	}
}

// BenchmarkConsume reads the same 100,000 events with a new group each time, so
// joining and leaving are part of it.
func BenchmarkConsume(b *testing.B) { benchConsume(b, open) }

func benchConsume(b *testing.B, open func(testing.TB) *bed) {
	b.Helper()
	const streams, each = 5000, 20
	bus := open(b)
	p := publisher(b, bus.config(""))
	all := bustest.Events(streams, each, 1)
	for i := 0; i < len(all); i += 1000 {
		if err := p.Publish(b.Context(), all[i:i+1000]); err != nil {
			b.Fatal(err)
		}
	}
	for _, size := range []int{1, 500, 5000} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			b.ReportAllocs()
			group := 0
			for b.Loop() {
				group++
				ctx, cancel := context.WithCancel(b.Context())
				var seen atomic.Int64
				r := kafkabus.Batches{Config: bus.config(fmt.Sprintf("%s-%d", b.Name(), group)), Max: size}
				err := r.Run(ctx, func(_ context.Context, batch []event.Recorded) error {
					if seen.Add(int64(len(batch))) >= streams*each {
						cancel()
					}
					return nil
				})
				cancel()
				if err != nil {
					b.Fatal(err)
				}
			}
			perSecond(b, streams*each)
		})
	}
}

// BenchmarkRelayed is what it takes to publish 50 events and to have two groups of
// the same process read them.
func BenchmarkRelayed(b *testing.B) {
	for way, bus := range map[string]*broker{"brokers": openBroker(b), "shortcut": openShort(b)} {
		b.Run("way="+way, func(b *testing.B) {
			const size, groups = 50, 2
			ctx, cancel := context.WithCancel(b.Context())
			read, done := make(chan int), make(chan error, groups)
			for g := range groups {
				r := kafkabus.Batches{Config: bus.config(fmt.Sprintf("%s-%d", way, g)), Spacing: time.Millisecond}
				go func() {
					done <- r.Run(ctx, func(ctx context.Context, batch []event.Recorded) error {
						select {
						case read <- len(batch):
						case <-ctx.Done():
						}
						return nil
					})
				}()
			}
			p := publisher(b, bus.config(""))
			events := bustest.Events(size, 1, 1)
			round := func() {
				if err := p.Publish(ctx, events); err != nil {
					b.Fatal(err)
				}
				for left := groups * size; left > 0; {
					left -= <-read
				}
			}
			for range 20 { // they join, and take to the shortcut
				round()
			}
			b.ReportAllocs()
			report := cputime.Counted(b, "batch")
			for b.Loop() {
				round()
			}
			report()
			cancel()
			for range groups {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkJoin is a new group from Run to its first batch, and its way out.
func BenchmarkJoin(b *testing.B) {
	bus := open(b)
	p := publisher(b, bus.config(""))
	if err := p.Publish(b.Context(), bustest.Events(1, 1, 1)); err != nil {
		b.Fatal(err)
	}
	var left time.Duration
	group := 0
	for b.Loop() {
		group++
		ctx, cancel := context.WithCancel(b.Context())
		var at time.Time
		err := kafkabus.Batches{Config: bus.config(fmt.Sprintf("join-%d", group))}.Run(ctx, func(context.Context, []event.Recorded) error {
			at = time.Now()
			cancel()
			return nil
		})
		cancel()
		if err != nil {
			b.Fatal(err)
		}
		left += time.Since(at)
	}
	b.ReportMetric(float64(left.Milliseconds())/float64(b.N), "ms-to-leave")
}

// BenchmarkLatency is from Publish to the handler, one event at a time.
func BenchmarkLatency(b *testing.B) {
	bus := open(b)
	p := publisher(b, bus.config(""))
	ctx, cancel := context.WithCancel(b.Context())
	arrived, done := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		done <- kafkabus.Batches{Config: bus.config("latency")}.Run(ctx, func(context.Context, []event.Recorded) error {
			arrived <- struct{}{}
			return nil
		})
	}()
	for b.Loop() {
		if err := p.Publish(b.Context(), bustest.Events(1, 1, 1)); err != nil {
			b.Fatal(err)
		}
		<-arrived
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
