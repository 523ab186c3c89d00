package kafkabus_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"cartwright/infra/kafkabus"
)

func TestATopicWithOtherPartitionsIsRefused(t *testing.T) {
	t.Parallel()
	b := open(t)
	c := b.config("")
	if err := kafkabus.EnsureTopic(t.Context(), c, kafkabus.Layout{Partitions: partitions, Replication: 1}); err != nil {
		t.Errorf("a topic as it should be: %v", err)
	}
	err := kafkabus.EnsureTopic(t.Context(), c, kafkabus.Layout{Partitions: 16})
	if !errors.Is(err, kafkabus.ErrRefused) || !strings.Contains(err.Error(), "32 partitions and not 16") {
		t.Errorf("a topic of 32 partitions for one of 16: %v", err)
	}
	c.Topic = "another"
	for range 2 {
		if err := kafkabus.EnsureTopic(t.Context(), c, kafkabus.Layout{Partitions: 3, Replication: 1, MinInSync: 1}); err != nil {
			t.Errorf("a new topic: %v", err)
		}
	}
}

func TestASenselessLayoutIsRefused(t *testing.T) {
	c := kafkabus.Config{Brokers: []string{"127.0.0.1:1"}, Topic: topic}
	for name, l := range map[string]kafkabus.Layout{
		"no partitions":           {},
		"too many partitions":     {Partitions: 1 << 15},
		"less than no copies":     {Partitions: 1, Replication: -1},
		"more in sync than there": {Partitions: 1, Replication: 2, MinInSync: 3},
	} {
		if err := kafkabus.EnsureTopic(t.Context(), c, l); !errors.Is(err, kafkabus.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnOutageWhileATopicIsPreparedIsWaitedOutWithAWord(t *testing.T) {
	t.Parallel()
	b := openBroker(t)
	b.stop(t)
	said := newEar()
	c := b.config("")
	c.Log = slog.New(said)
	done := make(chan error, 1)
	go func() { done <- kafkabus.EnsureTopic(t.Context(), c, b.layout) }()
	<-said.warned
	b.start(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestWaitingForABrokerEndsWithTheContextAndSaysWhy(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	said := newEar()
	c := kafkabus.Config{Brokers: []string{"127.0.0.1:1"}, Topic: topic, Log: slog.New(said)}
	go func() {
		<-said.warned
		cancel()
	}()
	err := kafkabus.EnsureTopic(ctx, c, kafkabus.Layout{Partitions: 1})
	if !errors.Is(err, context.Canceled) || errors.Is(err, kafkabus.ErrRefused) || !strings.Contains(err.Error(), "connection refused") {
		t.Fatalf("got %v", err)
	}
}

// An ear hears what is logged.
type ear struct {
	slog.Handler
	warned chan struct{} // closed by the first word of trouble
	once   *sync.Once
}

func newEar() ear {
	return ear{slog.DiscardHandler, make(chan struct{}), &sync.Once{}}
}

func (ear) Enabled(context.Context, slog.Level) bool { return true }

func (e ear) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "bus in trouble" {
		e.once.Do(func() { close(e.warned) })
	}
	return nil
}
