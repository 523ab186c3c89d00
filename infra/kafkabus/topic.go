package kafkabus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

const (
	settingISR     = "min.insync.replicas"
	settingLargest = "max.message.bytes"

	largestBatch = 2 * maxMessageBytes // what a topic of ours takes: a batch, and room for its frame
)

// A Layout is how a topic is spread over the brokers.
type Layout struct {
	Partitions  int
	Replication int // copies of each partition; 0 leaves it to the brokers
	MinInSync   int // copies that must have an event before it is acknowledged; 0 leaves it to the brokers
}

func (l Layout) check() error {
	switch {
	case l.Partitions < 1 || l.Partitions > 1<<15-1:
		return fmt.Errorf("%w: a topic of %d partitions", ErrRefused, l.Partitions)
	case l.Replication < 0 || l.Replication > 1<<7:
		return fmt.Errorf("%w: %d replicas", ErrRefused, l.Replication)
	case l.MinInSync < 0 || l.Replication > 0 && l.MinInSync > l.Replication:
		return fmt.Errorf("%w: %s is %d of %d replicas, so nothing could be published", ErrRefused, settingISR, l.MinInSync, l.Replication)
	}
	return nil
}

// details are what a topic of that layout is made with.
func (l Layout) details() *sarama.TopicDetail {
	settings := map[string]*string{settingLargest: new(strconv.Itoa(largestBatch))}
	if l.MinInSync > 0 {
		settings[settingISR] = new(strconv.Itoa(l.MinInSync))
	}
	replication := l.Replication
	if replication == 0 {
		replication = -1 // the brokers' default
	}
	return &sarama.TopicDetail{
		NumPartitions:     int32(l.Partitions), //nolint:gosec // see check
		ReplicationFactor: int16(replication),
		ConfigEntries:     settings,
	}
}

// EnsureTopic makes the topic, or checks that it is as it should be. A topic with
// another number of partitions is refused: streams would move to other
// partitions and lose their order. So is one that does not take our batches.
// Copies and min.insync.replicas that are fewer than wanted, or make no sense, are
// only a warning: of a topic that exists, they are its operator's.
//
// An outage is waited out, with a word in the log, for as long as ctx lets it.
// What will not get better by itself (a wrong password, an unknown authority, no
// rights, another layout) is answered at once by an error that wraps ErrRefused.
func EnsureTopic(ctx context.Context, c Config, l Layout) error {
	if err := errors.Join(c.check(false), l.check()); err != nil {
		return fmt.Errorf("topic %s: %w", c.Topic, err)
	}
	if c.SASL != nil && c.TLS == nil && c.SASL.mechanism() == sarama.SASLTypePlaintext {
		c.Log.Warn("the bus is sent the password without TLS")
	}
	var running sync.WaitGroup
	defer running.Wait()
	doing, t := "prepare topic "+c.Topic, newTrouble(c.Log)
	var last error
	for p := (pause{}); ; {
		err := await(ctx, &running, func() error { return c.ensureTopic(l) })
		switch {
		case err == nil:
			t.over(doing)
			return nil
		case hopeless(err):
			return fmt.Errorf("topic %s: %w", c.Topic, refused(err))
		case ctx.Err() == nil:
			last = err
			if p.last > newFor || !errors.Is(err, errNotReady) {
				t.report(doing, err)
			}
		}
		if !p.wait(ctx) {
			return fmt.Errorf("topic %s: %w; before that: %w", c.Topic, ctx.Err(), cmp.Or(last, errNotTried))
		}
	}
}

// newFor is how long nothing is said of a topic that is not ready: one that was
// just made never is.
const newFor = 400 * time.Millisecond

// errNotTried is why a topic could not be prepared if nothing has gone wrong.
var errNotTried = errors.New("no answer yet")

// errNotReady is a topic that has been made a moment ago, or has lost a broker.
var errNotReady = errors.New("some partitions have no leader yet")

func (c *Config) ensureTopic(l Layout) (err error) {
	client, err := c.connect()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	admin, err := sarama.NewClusterAdminFromClient(client) // closes with the client
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	// Looking comes first: whoever may not make topics may use one that is there.
	have, err := describe(admin, c.Topic)
	if errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
		if err = c.create(admin, l); err != nil {
			return fmt.Errorf("create: %w", err)
		}
		return errNotReady
	}
	if err != nil {
		return fmt.Errorf("describe: %w", err)
	}
	if err = c.compare(admin, have, l); err != nil {
		return err
	}
	return c.led(client, have)
}

// led asks every leader whether it knows that it is one: it hears of that after
// the others have.
func (c *Config) led(client sarama.Client, have *sarama.TopicMetadata) error {
	for _, p := range have.Partitions {
		_, err := client.GetOffset(c.Topic, p.ID, sarama.OffsetNewest)
		if err != nil && !hopeless(err) { // looking into it is a right that a publisher need not have
			return fmt.Errorf("%w: partition %d: %w", errNotReady, p.ID, err)
		}
	}
	return nil
}

func (c *Config) create(admin sarama.ClusterAdmin, l Layout) error {
	err := admin.CreateTopic(c.Topic, l.details(), false)
	if errors.Is(err, sarama.ErrTopicAlreadyExists) { // another of us was faster
		return nil
	}
	return err
}

// compare refuses a topic that would lose something, and warns of one that might.
func (c *Config) compare(admin sarama.ClusterAdmin, have *sarama.TopicMetadata, l Layout) error {
	if n := len(have.Partitions); n != l.Partitions {
		return fmt.Errorf("%w: it has %d partitions and not %d as configured: streams would move between partitions and lose their order",
			ErrRefused, n, l.Partitions)
	}
	copies := len(have.Partitions[0].Replicas)
	for _, p := range have.Partitions {
		copies = min(copies, len(p.Replicas))
		if p.Leader < 0 {
			return errNotReady
		}
	}
	if copies < l.Replication {
		c.Log.Warn("topic has fewer copies than wanted", "topic", c.Topic, "have", copies, "want", l.Replication)
	}
	settings, err := c.settings(admin)
	if hopeless(err) { // the right to look at settings is one that not every user has
		c.Log.Warn("topic's settings can't be checked", "topic", c.Topic, "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("describe settings: %w", err)
	}
	return c.compareSettings(settings, copies, l)
}

func (c *Config) settings(admin sarama.ClusterAdmin) ([]sarama.ConfigEntry, error) {
	of := sarama.ConfigResource{Type: sarama.TopicResource, Name: c.Topic, ConfigNames: []string{settingISR, settingLargest}}
	have, err := admin.DescribeConfigs([]*sarama.ConfigResource{&of}, sarama.DescribeConfigsOptions{})
	if err != nil {
		return nil, err
	}
	if len(have) != 1 {
		return nil, fmt.Errorf("%d answers", len(have))
	}
	if code := have[0].ErrorCode; !errors.Is(code, sarama.ErrNoError) {
		return nil, code
	}
	return have[0].Configs, nil
}

func (c *Config) compareSettings(settings []sarama.ConfigEntry, copies int, l Layout) error {
	inSync, largest := 1, largestBatch // Kafka's default, and nothing to complain of
	for _, s := range settings {
		n, err := strconv.Atoi(s.Value)
		switch {
		case s.Name == settingISR && err == nil:
			inSync = n
		case s.Name == settingLargest && err == nil:
			largest = n
		}
	}
	switch {
	case largest < maxMessageBytes:
		return fmt.Errorf("%w: %s is %d, and a batch may have %d bytes: set it to %d",
			ErrRefused, settingLargest, largest, maxMessageBytes, largestBatch)
	case inSync > copies: // Kafka 4 is content with what there is; older ones take nothing, which they will say
		c.Log.Warn("topic has fewer copies than it wants in sync", "topic", c.Topic, settingISR, inSync, "replicas", copies)
	case inSync < l.MinInSync:
		c.Log.Warn("topic acknowledges with fewer copies than wanted", "topic", c.Topic, settingISR, inSync, "want", l.MinInSync)
	case inSync == 1 && copies >= 3:
		c.Log.Warn("topic acknowledges what only one broker has, and may lose it", "topic", c.Topic, settingISR, inSync, "replicas", copies)
	}
	return nil
}
