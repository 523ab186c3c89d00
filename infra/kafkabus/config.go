// Package kafkabus carries events over Kafka: a publisher of batches, a reader
// of batches for projections, a watermill subscriber for processes, and
// watermill's own publisher and subscriber for outside integrations. The broker
// may be a real one or kafkanode; the code is the same, and so are the suites
// that both pass (TestConformance, TestOutages and their likes OnKafka).
//
// A message is a CloudEvent 1.0 in Kafka's binary mode: the value is the event's
// JSON as it was stored, everything else stands in headers (see Decode). The key
// is the stream, so a stream stays within one partition and in order.
//
// Delivery is at least once. An event may come again, after a rebalance, a crash
// or a batch that failed in part; it never comes before one of its stream that
// has not come yet. Readers skip what they have seen by its revision.
//
// # Why
//
// watermill-kafka keeps one message a partition in flight, both ways: one round
// trip a message to publish, one acknowledgement a message to read. Measured on
// this code's own broker that is 5,000 a second against 200,000 in batches, so
// batches are ours, and watermill's interface is kept for those who want one
// message at a time (Subscriber). What watermill-kafka itself is like is said at
// NewIntegrationSubscriber.
//
// A batch is collected over all partitions that a member has, not one each: a
// view is flushed in one bulk request, and 32 small ones would cost 32 times its
// fixed price (BenchmarkConsume). Whoever holds up one partition therefore holds
// up all of them, which is right for a projector: it parks what it cannot apply
// and never fails for a single event.
//
// Batches that follow each other are Spacing apart and grow meanwhile, as a view's
// flush costs more by the batch than by the event. Who has rested is handed some
// at once first, so that in a shop in which little happens nobody waits for his own
// write (TestAQuietReaderIsHandedEventsAtOnceAndABusyOneFullBatches,
// TestFullBatchesHoldUpNoneBehindThem). Not chosen: having brokers wait for more
// before they answer a fetch, which delays the first event as much as the last, and
// does nothing for the requests and records by which a broker is given them: the
// relay spaces its batches as well.
//
// Assignments are eager, not cooperative: a session ends as a whole, and with it
// the context that handlers work under, so a member that was put out stops
// instead of working on beside its successor (TestConformance, "a handler's
// context ends when its partitions are gone").
//
// Of one process that has broker, publisher and readers in it, each event would go
// to the broker, be read from its files once by each group, and be taken apart
// again, though it was at hand (BenchmarkRelayed: 1.5 ms of CPU for 50 events and two
// groups, of which 0.9 are spared). So there is a Shortcut. Who is a member of what
// group, what was acknowledged, at which offset, and how far it was read stays the
// brokers' to say; only the events come from us
// (TestWhoHasReadAllIsHandedWhatFollowsWithoutAskingBrokers). It forgets rather than
// waits: a reader that is slow, or another process that publishes as well, sends
// readers back to the brokers (TestWhatOthersPublishComesToWhoIsOnAShortcut,
// TestWhoIsTooSlowForAShortcutReadsOnFromBrokers). Not chosen: one member for all
// groups of a process, where one reader that hangs would stop the others, and a
// broker without the socket, from which all this would have to be read as well.
//
// Publishing does without sarama's producer, which lets events overtake each
// other when brokers fail (see sender). A member stays the same one over outages:
// a new one would have to wait until the old one's session is over, 10 s in which
// nobody reads. What it marks as read names the topic by its identity and not only
// by its name: a session that ends as the topic is deleted marks its offsets in
// the one that is made next, and their readers would begin behind them
// (TestConformance, "readers follow a topic that was deleted and made anew").
//
// A wrong password, an unknown authority or a missing right ends EnsureTopic with
// ErrRefused, since nothing else runs without its topic. Those who are at work
// already only say so, once a minute: passwords are changed, and whoever made the
// mistake will mend it. A broker that just hangs up may want TLS or be about to
// stop, which can't be told apart, so that is waited for (TestLogin).
package kafkabus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

const (
	dialTimeout      = 5 * time.Second
	answerTimeout    = 15 * time.Second
	sessionTimeout   = 6 * time.Second // the least that brokers allow: so long nobody reads what a killed member had
	heartbeat        = time.Second
	rebalanceTimeout = 20 * time.Second // must be above the worst flush of a view
	commitEvery      = time.Second
	fetchWait        = 250 * time.Millisecond // what an idle or a leaving reader waits for
	fetchBytes       = 256 << 10              // a partition; sarama asks for more when one record needs it
	processing       = 500 * time.Millisecond
	maxMessageBytes  = 4 << 20  // of the batch of one partition
	maxRoundBytes    = 32 << 20 // of one request; brokers take 100 MiB

	acknowledgeMillis = 10_000 // for the copies to have it; below answerTimeout
	produceVersion    = 7      // of the request, spoken from Kafka 2.1 on

	shortestPause = 50 * time.Millisecond
	longestPause  = 5 * time.Second
	longestRejoin = 200 * time.Millisecond // after a session that ended without an error
	longestMove   = 400 * time.Millisecond // the last pause of one batch, while its partition moves to another broker
	remindEvery   = time.Minute            // of trouble that lasts
	refreshEvery  = 30 * time.Second       // of what is known of the brokers; sarama's 10 min leave a partition unread that had no leader
	identifyEvery = 15 * time.Second       // whether a topic is still the same
	shortSession  = 2 * time.Second        // after these, joining again waits longer and longer
)

// Config says which Kafka, topic and group to use. Brokers and Topic are always
// needed, Group where something is read.
type Config struct {
	Brokers  []string
	Topic    string
	Group    string
	ClientID string       // how the broker's own logs call us; default "cartwright"
	Source   string       // the CloudEvents source of what is published; default "/cartwright"
	TLS      *tls.Config  // nil speaks plain TCP
	SASL     *SASL        // nil does not log in
	Log      *slog.Logger // nil is silent

	// Shortcut is what publishers and readers of this process have in common, where
	// the brokers are in it, too. Nil reads everything from the brokers.
	Shortcut *Shortcut
}

func (c *Config) check(reads bool) error {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.ClientID == "" {
		c.ClientID = "cartwright"
	}
	if c.Source == "" {
		c.Source = "/cartwright"
	}
	switch {
	case len(c.Brokers) == 0:
		return errors.New("kafka: no brokers given")
	case c.Topic == "":
		return errors.New("kafka: no topic given")
	case reads && c.Group == "":
		return errors.New("kafka: no consumer group given")
	}
	return c.SASL.check()
}

// connect makes a client that knows of all topics: sarama asks for one that it
// knows of, or for all, and at first it knows of none.
func (c *Config) connect() (sarama.Client, error) {
	s := c.client()
	s.Metadata.Full = true
	client, err := sarama.NewClient(c.Brokers, s)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		// All that it says to who speaks plainly to a TLS port, or does not log in.
		return nil, fmt.Errorf("connect: %w: the broker hangs up: perhaps it wants TLS, or another login", err)
	}
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return client, nil
}

// client is the configuration of sarama for everything we do.
func (c *Config) client() *sarama.Config {
	s := sarama.NewConfig()
	s.ClientID = c.ClientID
	s.Version = sarama.V2_8_0_0 // spoken by every Kafka from there to 4.x and by kfake
	s.Net.DialTimeout = dialTimeout
	s.Net.ReadTimeout, s.Net.WriteTimeout = answerTimeout, answerTimeout
	s.Metadata.Full = false
	s.Metadata.AllowAutoTopicCreation = false
	s.Metadata.RefreshFrequency = refreshEvery
	s.Metadata.Retry.Backoff = 100 * time.Millisecond
	c.secure(s)
	c.produce(s)
	c.consume(s)
	return s
}

func (c *Config) secure(s *sarama.Config) {
	if c.TLS != nil {
		s.Net.TLS.Enable, s.Net.TLS.Config = true, c.TLS
	}
	c.SASL.apply(s)
}

// produce is for watermill's publisher; ours is sender.
func (*Config) produce(s *sarama.Config) {
	s.Net.MaxOpenRequests = 1 // with the next two, a stream keeps its order
	s.Producer.Idempotent = true
	s.Producer.RequiredAcks = sarama.WaitForAll
	s.Producer.Partitioner = sarama.NewHashPartitioner
	s.Producer.MaxMessageBytes = maxMessageBytes
	s.Producer.Return.Successes = true
	s.Producer.Return.Errors = true
	s.Producer.Retry.Max = 3
	s.Producer.Retry.Backoff = 100 * time.Millisecond
}

func (*Config) consume(s *sarama.Config) {
	s.Consumer.Return.Errors = true
	s.Consumer.Retry.Backoff = 250 * time.Millisecond
	s.Consumer.MaxWaitTime = fetchWait
	s.Consumer.MaxProcessingTime = processing
	s.Consumer.Fetch.Default = fetchBytes
	s.Consumer.Offsets.Initial = sarama.OffsetOldest
	s.Consumer.Offsets.AutoCommit.Interval = commitEvery
	s.Consumer.Group.Session.Timeout = sessionTimeout
	s.Consumer.Group.Heartbeat.Interval = heartbeat
	s.Consumer.Group.Rebalance.Timeout = rebalanceTimeout
	s.Consumer.Group.Rebalance.Retry.Backoff = 100 * time.Millisecond
	s.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategyRange()}
}

// await runs one call of sarama, which knows no contexts, and stops waiting for
// it when ctx ends. The call is always made; it ends by its own timeouts, and
// running says when.
func await(ctx context.Context, running *sync.WaitGroup, call func() error) error {
	done := make(chan error, 1)
	running.Go(func() { done <- call() })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A pause grows with every failure in a row, up to a limit, and is jittered.
type pause struct{ last time.Duration }

func (p *pause) reset() { p.last = 0 }

func (p *pause) next() time.Duration {
	p.last = min(max(2*p.last, shortestPause), longestPause)
	return p.last/2 + rand.N(p.last/2) //nolint:gosec // jitter needs no secrecy
}

// wait reports whether it was waited to the end.
func (p *pause) wait(ctx context.Context) bool {
	t := time.NewTimer(p.next())
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A trouble logs an error when it differs from the last one of what was done,
// and again now and then for as long as it lasts.
type trouble struct {
	log  *slog.Logger
	mu   sync.Mutex
	last map[string]word // by what was done
}

type word struct {
	text string
	said time.Time
}

func newTrouble(log *slog.Logger) *trouble {
	return &trouble{log: log, last: map[string]word{}}
}

func (t *trouble) report(doing string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last, now := t.last[doing], time.Now()
	if last.text == err.Error() && now.Sub(last.said) < remindEvery {
		return
	}
	t.last[doing] = word{err.Error(), now}
	if hopeless(err) {
		t.log.Error("bus refuses us, waiting will not help", "doing", doing, "error", err)
		return
	}
	t.log.Warn("bus in trouble", "doing", doing, "error", err)
}

func (t *trouble) over(doing string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.last[doing]; ok {
		delete(t.last, doing)
		t.log.Info("bus trouble over", "doing", doing)
	}
}
