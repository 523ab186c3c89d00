package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/IBM/sarama"
)

// EnsureTopic makes the topic, or checks that it has that many partitions. A
// topic with another number is refused: streams would move to other partitions
// and lose their order. Retention and replication of one that exists are its
// operator's.
func EnsureTopic(ctx context.Context, c Config, partitions, replication int) error {
	if err := c.check(false); err != nil {
		return err
	}
	if partitions < 1 || partitions > 1<<15 || replication < 1 || replication > 1<<7 {
		return fmt.Errorf("topic %s: %d partitions, %d replicas", c.Topic, partitions, replication)
	}
	var running sync.WaitGroup
	defer running.Wait()
	return await(ctx, &running, func() error {
		if err := c.ensureTopic(partitions, replication); err != nil {
			return fmt.Errorf("topic %s: %w", c.Topic, err)
		}
		return nil
	})
}

func (c *Config) ensureTopic(partitions, replication int) error {
	config := c.client()
	config.Metadata.Full = true // it knows of no topic yet, and sarama asks for one or for all
	admin, err := sarama.NewClusterAdmin(c.Brokers, config)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = admin.Close() }()
	largest := strconv.Itoa(2 * maxMessageBytes) // a batch, and room for its frame
	err = admin.CreateTopic(c.Topic, &sarama.TopicDetail{
		NumPartitions:     int32(partitions),  //nolint:gosec // checked by the caller
		ReplicationFactor: int16(replication), //nolint:gosec // checked by the caller
		ConfigEntries:     map[string]*string{"max.message.bytes": &largest},
	}, false)
	if err == nil || !errors.Is(err, sarama.ErrTopicAlreadyExists) {
		return err
	}
	have, err := admin.DescribeTopics([]string{c.Topic})
	if err != nil {
		return fmt.Errorf("describe: %w", err)
	}
	if n := len(have[0].Partitions); n != partitions {
		return fmt.Errorf("it has %d partitions, not %d", n, partitions)
	}
	return nil
}

// A Meter measures how far a group is behind. It may be used concurrently.
type Meter struct {
	config  Config
	running sync.WaitGroup

	mu     sync.Mutex
	client sarama.Client // nil until needed
}

// NewMeter checks the configuration. It connects with the first measurement.
func NewMeter(c Config) (*Meter, error) {
	if err := c.check(true); err != nil {
		return nil, err
	}
	return &Meter{config: c}, nil
}

// Lag is how many events the topic has that the group has not committed.
func (m *Meter) Lag(ctx context.Context) (events int64, err error) {
	measured := make(chan int64, 1)
	err = await(ctx, &m.running, func() error {
		lag, failed := m.measure()
		measured <- lag
		return failed
	})
	if err != nil {
		return 0, fmt.Errorf("lag of group %s: %w", m.config.Group, err)
	}
	return <-measured, nil
}

func (m *Meter) measure() (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.client == nil {
		client, err := sarama.NewClient(m.config.Brokers, m.config.client())
		if err != nil {
			return 0, fmt.Errorf("connect: %w", err)
		}
		m.client = client
	}
	lag, err := m.behind()
	if err != nil {
		err = errors.Join(err, m.disconnect())
	}
	return lag, err
}

func (m *Meter) behind() (int64, error) {
	topic := m.config.Topic
	partitions, err := m.client.Partitions(topic)
	if err != nil {
		return 0, fmt.Errorf("partitions: %w", err)
	}
	admin, err := sarama.NewClusterAdminFromClient(m.client) // closes with the client
	if err != nil {
		return 0, err
	}
	offsets, err := admin.ListConsumerGroupOffsets(m.config.Group, map[string][]int32{topic: partitions})
	if errors.Is(err, sarama.ErrGroupIDNotFound) { // nobody has joined it yet
		offsets = &sarama.OffsetFetchResponse{}
	} else if err != nil {
		return 0, fmt.Errorf("committed offsets: %w", err)
	}
	var lag int64
	for _, p := range partitions {
		end, err := m.client.GetOffset(topic, p, sarama.OffsetNewest)
		if err != nil {
			return 0, fmt.Errorf("end of partition %d: %w", p, err)
		}
		read, err := m.read(offsets.GetBlock(topic, p), p)
		if err != nil {
			return 0, err
		}
		lag += max(0, end-read)
	}
	return lag, nil
}

// read is where the group will read next in a partition.
func (m *Meter) read(committed *sarama.OffsetFetchResponseBlock, partition int32) (int64, error) {
	if committed != nil && committed.Offset >= 0 {
		return committed.Offset, nil
	}
	begin, err := m.client.GetOffset(m.config.Topic, partition, sarama.OffsetOldest)
	if err != nil {
		return 0, fmt.Errorf("begin of partition %d: %w", partition, err)
	}
	return begin, nil
}

func (m *Meter) disconnect() error {
	client := m.client
	m.client = nil
	if client == nil {
		return nil
	}
	return client.Close()
}

// Close lets go of the brokers.
func (m *Meter) Close() error {
	m.running.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.disconnect()
}
