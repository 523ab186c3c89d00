package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/IBM/sarama"
)

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
