package kafkabus_test

import (
	"context"
	"log/slog"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"go.uber.org/goleak"

	"cartwright/infra/bustest"
	"cartwright/infra/kafkabus"
	"cartwright/infra/kafkanode"
)

const topic = "cartwright.events"

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// sarama's metrics keep one ticking goroutine for the whole process.
		goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

// A broker is an embedded one that can be stopped and started on its folder.
type broker struct {
	node *kafkanode.Node
	opts kafkanode.Options
}

func open(tb testing.TB) *broker {
	tb.Helper()
	b := &broker{opts: kafkanode.Options{Dir: tb.TempDir(), Topic: topic, Partitions: 32, Log: logger()}}
	b.start(tb)
	tb.Cleanup(func() { b.stop(tb) })
	return b
}

func logger() *slog.Logger {
	if os.Getenv("BUS_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}

// start keeps the port from one start to the next, as a real broker does.
func (b *broker) start(tb testing.TB) {
	tb.Helper()
	node, err := kafkanode.Open(b.opts)
	if err != nil {
		tb.Fatalf("open broker: %v", err)
	}
	b.node = node
	b.opts.Port = port(tb, node.Addr())
}

func (b *broker) stop(tb testing.TB) {
	tb.Helper()
	if err := b.node.Close(); err != nil {
		tb.Errorf("close broker: %v", err)
	}
}

func (b *broker) config(group string) kafkabus.Config {
	return kafkabus.Config{Brokers: []string{b.node.Addr()}, Topic: topic, Group: group, Log: logger()}
}

func port(tb testing.TB, addr string) int {
	tb.Helper()
	for i := len(addr) - 1; i >= 0; i-- {
		if addr[i] == ':' {
			p, err := strconv.Atoi(addr[i+1:])
			if err != nil {
				tb.Fatalf("address %s: %v", addr, err)
			}
			return p
		}
	}
	tb.Fatalf("address %s has no port", addr)
	return 0
}

func publisher(tb testing.TB, c kafkabus.Config) *kafkabus.Publisher {
	tb.Helper()
	p, err := kafkabus.NewPublisher(c)
	if err != nil {
		tb.Fatalf("new publisher: %v", err)
	}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Errorf("close publisher: %v", err)
		}
	})
	return p
}

func TestConformance(t *testing.T) {
	bustest.Run(t, func(t *testing.T) bustest.Bus {
		t.Helper()
		b := open(t)
		p := publisher(t, b.config(""))
		return bustest.Bus{
			Publish: p.Publish,
			Read: func(ctx context.Context, group string, handle bustest.Handler) error {
				return kafkabus.Batches{Config: b.config(group)}.Run(ctx, handle)
			},
			Spoil:   func(ctx context.Context, stream string) error { return spoil(b, stream) },
			Restart: func(t *testing.T) { t.Helper(); b.stop(t); b.start(t) },
		}
	})
}

// spoil sends what no publisher of ours would send.
func spoil(b *broker, stream string) error {
	c := sarama.NewConfig()
	c.Producer.Return.Successes = true
	c.Producer.Partitioner = sarama.NewHashPartitioner
	p, err := sarama.NewSyncProducer([]string{b.node.Addr()}, c)
	if err != nil {
		return err
	}
	_, _, err = p.SendMessage(&sarama.ProducerMessage{
		Topic: topic, Key: sarama.StringEncoder(stream), Value: sarama.StringEncoder("no event"), Timestamp: time.Now(),
	})
	if err != nil {
		return err
	}
	return p.Close()
}
