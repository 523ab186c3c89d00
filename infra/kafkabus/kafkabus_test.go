package kafkabus_test

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"cartwright/infra/bustest"
	"cartwright/infra/kafkabus"
	"cartwright/infra/kafkanode"
)

const topic = "cartwright.events"

const partitions = 32

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// sarama's metrics keep one ticking goroutine for the whole process.
		goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

// unique is a topic's name that nobody else uses.
func unique() string {
	id := uuid.New()
	return "kafkabus." + hex.EncodeToString(id[:4])
}

// A bed is a topic of its own on some broker.
type bed struct {
	kafkabus.Config                 // without a group
	layout          kafkabus.Layout // of its topic
}

func (b *bed) config(group string) kafkabus.Config {
	c := b.Config
	if group != "" {
		c.Group = c.Topic + "." + group // others use the broker, too
	}
	return c
}

// apart is how another process has it.
func (b *bed) apart() kafkabus.Config {
	c := b.Config
	c.Shortcut = nil
	return c
}

// remake deletes the topic and makes it again.
func (b *bed) remake(ctx context.Context) error {
	if err := b.remove(); err != nil {
		return err
	}
	if err := b.gone(ctx); err != nil {
		return err
	}
	return kafkabus.EnsureTopic(ctx, b.Config, b.layout)
}

// gone waits until no broker knows the topic: one that has not heard yet would say
// that there is no need to make it.
func (b *bed) gone(ctx context.Context) (err error) {
	client, err := sarama.NewClient(b.Brokers, b.client())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	for {
		known := 0
		for _, broker := range client.Brokers() {
			if err := broker.Open(client.Config()); err != nil && !errors.Is(err, sarama.ErrAlreadyConnected) {
				return err
			}
			told, err := broker.GetMetadata(sarama.NewMetadataRequest(sarama.V2_8_0_0, []string{b.Topic}))
			if err != nil {
				return err
			}
			for _, topic := range told.Topics {
				if topic.Err != sarama.ErrUnknownTopicOrPartition {
					known++
				}
			}
		}
		if known == 0 {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *bed) remove() error {
	admin, err := b.admin()
	if err != nil {
		return err
	}
	return errors.Join(admin.DeleteTopic(b.Topic), admin.Close())
}

// admin is an operator's way in.
func (b *bed) admin() (sarama.ClusterAdmin, error) {
	return sarama.NewClusterAdmin(b.Brokers, b.client())
}

func (b *bed) client() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.V2_8_0_0
	c.Producer.Return.Successes = true
	c.Producer.Partitioner = sarama.NewHashPartitioner
	if b.TLS != nil {
		c.Net.TLS.Enable, c.Net.TLS.Config = true, b.TLS
	}
	if b.SASL != nil {
		c.Net.SASL.Enable, c.Net.SASL.User, c.Net.SASL.Password = true, b.SASL.User, b.SASL.Password
	}
	return c
}

// spoil sends what no publisher of ours would send.
func (b *bed) spoil(stream string) error {
	p, err := sarama.NewSyncProducer(b.Brokers, b.client())
	if err != nil {
		return err
	}
	_, _, err = p.SendMessage(&sarama.ProducerMessage{
		Topic: b.Topic, Key: sarama.StringEncoder(stream), Value: sarama.StringEncoder("no event"), Timestamp: time.Now(),
	})
	return errors.Join(err, p.Close())
}

func (b *bed) bus(t *testing.T) bustest.Bus {
	t.Helper()
	m := &meters{bed: b, t: t}
	return bustest.Bus{
		Publish: publisher(t, b.config("")).Publish,
		Second:  publisher(t, b.apart()).Publish,
		Read: func(ctx context.Context, group string, handle bustest.Handler) error {
			return kafkabus.Batches{Config: b.config(group)}.Run(ctx, handle)
		},
		Spoil:  func(_ context.Context, stream string) error { return b.spoil(stream) },
		Lag:    m.lag,
		Remake: b.remake,
	}
}

// meters are one for each group.
type meters struct {
	bed *bed
	t   *testing.T
	mu  sync.Mutex
	all map[string]*kafkabus.Meter
}

func (m *meters) lag(ctx context.Context, group string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all[group] == nil {
		if m.all == nil {
			m.all = map[string]*kafkabus.Meter{}
		}
		m.all[group] = meter(m.t, m.bed, group)
	}
	return m.all[group].Lag(ctx)
}

func meter(t *testing.T, b *bed, group string) *kafkabus.Meter {
	t.Helper()
	m, err := kafkabus.NewMeter(b.config(group))
	if err != nil {
		t.Fatalf("new meter: %v", err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("close meter: %v", err)
		}
	})
	return m
}

// A broker is an embedded one that can be stopped and started on its folder.
type broker struct {
	bed
	node    *kafkanode.Node
	running atomic.Pointer[kafkanode.Node] // the same, for who asks while it is stopped and started
	opts    kafkanode.Options
}

func openBroker(tb testing.TB) *broker {
	tb.Helper()
	b := &broker{opts: kafkanode.Options{Dir: tb.TempDir(), Topic: topic, Partitions: partitions, Log: logger()}}
	b.start(tb)
	b.bed = bed{
		Config: kafkabus.Config{Brokers: []string{b.node.Addr()}, Topic: topic, Log: logger()},
		layout: kafkabus.Layout{Partitions: partitions},
	}
	tb.Cleanup(func() { b.stop(tb) })
	return b
}

func open(tb testing.TB) *bed {
	tb.Helper()
	return &openBroker(tb).bed
}

// openShort gives a broker whose publishers and readers have a shortcut.
func openShort(tb testing.TB) *broker {
	tb.Helper()
	b := openBroker(tb)
	b.Shortcut = kafkabus.NewShortcut(func() []int64 { return b.running.Load().Ends() })
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
	b.running.Store(node)
	_, port, err := net.SplitHostPort(node.Addr())
	if err == nil {
		b.opts.Port, err = strconv.Atoi(port)
	}
	if err != nil {
		tb.Fatalf("address %s: %v", node.Addr(), err)
	}
}

func (b *broker) stop(tb testing.TB) {
	tb.Helper()
	if err := b.node.Close(); err != nil {
		tb.Errorf("close broker: %v", err)
	}
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
	t.Parallel()
	bustest.Run(t, func(t *testing.T) bustest.Bus { t.Helper(); return open(t).bus(t) })
}

func TestConformanceOnAShortcut(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T) bustest.Bus { t.Helper(); return openShort(t).bus(t) })
}

func TestOutages(t *testing.T) {
	t.Parallel()
	outages(t, openBroker)
}

func TestOutagesOnAShortcut(t *testing.T) {
	t.Parallel()
	outages(t, openShort)
}

func outages(t *testing.T, open func(testing.TB) *broker) {
	t.Helper()
	bustest.Outages(t, time.Second, func(t *testing.T) bustest.Broker {
		t.Helper()
		b := open(t)
		return bustest.Broker{
			Bus:   b.bus(t),
			Stop:  func(t *testing.T) { t.Helper(); b.stop(t) },
			Start: func(t *testing.T) { t.Helper(); b.start(t) },
		}
	})
}
