package kafkabus

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// TopicID tells one topic from another of the same name: on other brokers, or
// made anew after it was deleted. Whoever remembers what a topic has been given
// remembers it under this name.
func TopicID(ctx context.Context, c Config) (string, error) {
	if err := c.check(false); err != nil {
		return "", err
	}
	var running sync.WaitGroup
	defer running.Wait()
	found := make(chan string, 1)
	err := await(ctx, &running, func() error {
		id, err := c.topicID()
		found <- id
		return err
	})
	if err != nil {
		return "", fmt.Errorf("identity of topic %s: %w", c.Topic, err)
	}
	return <-found, nil
}

func (c *Config) topicID() (id string, err error) {
	client, err := c.connect()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	id, err = identify(client, c.Topic)
	if err == nil && id == "" {
		err = errors.New("the brokers give topics no identity: they are older than Kafka 2.8")
	}
	return id, err
}

// identify is empty where brokers are so old that they give no identities.
func identify(client sarama.Client, topic string) (string, error) {
	admin, err := sarama.NewClusterAdminFromClient(client) // closes with the client
	if err != nil {
		return "", fmt.Errorf("connect: %w", err)
	}
	have, err := describe(admin, topic)
	if err != nil {
		return "", fmt.Errorf("describe: %w", err)
	}
	if have.Uuid == (sarama.Uuid{}) {
		return "", nil
	}
	return hex.EncodeToString(have.Uuid[:]), nil
}

func describe(admin sarama.ClusterAdmin, topic string) (*sarama.TopicMetadata, error) {
	have, err := admin.DescribeTopics([]string{topic})
	if err != nil {
		return nil, err
	}
	if len(have) != 1 {
		return nil, fmt.Errorf("%d answers", len(have))
	}
	if !errors.Is(have[0].Err, sarama.ErrNoError) {
		return nil, have[0].Err
	}
	return have[0], nil
}

// startOver puts a session back to the beginning of the partitions in which the
// group has marked offsets of another topic of that name. A session that ends
// when the topic is deleted marks where it was in the one that has just taken its
// place, and what stands before that would be skipped.
func (m *member) startOver(client sarama.Client, s sarama.ConsumerGroupSession, id string) error {
	topic := m.config.Topic
	mine := s.Claims()[topic]
	if id == "" || len(mine) == 0 {
		return nil
	}
	admin, err := sarama.NewClusterAdminFromClient(client)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	marked, err := admin.ListConsumerGroupOffsets(m.config.Group, map[string][]int32{topic: mine})
	if err != nil {
		return fmt.Errorf("committed offsets: %w", err)
	}
	if !errors.Is(marked.Err, sarama.ErrNoError) {
		return fmt.Errorf("committed offsets: %w", marked.Err)
	}
	for _, partition := range mine {
		at := marked.GetBlock(topic, partition)
		if at != nil && !errors.Is(at.Err, sarama.ErrNoError) {
			return fmt.Errorf("committed offset of partition %d: %w", partition, at.Err)
		}
		if at == nil || at.Offset <= 0 || at.Metadata == "" || at.Metadata == id {
			continue
		}
		m.config.Log.Warn("topic was made anew, reading from its beginning", "topic", topic, "group", m.config.Group, "partition", partition)
		s.ResetOffset(topic, partition, 0, id)
	}
	return nil
}

// watch ends a session when the topic is another one: reading goes on in that at
// the old one's offsets. Whoever can't be asked now is asked again.
func (h *handler) watch(ctx context.Context, id string) {
	every := time.NewTicker(identifyEvery)
	defer every.Stop()
	for id != "" {
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
		if now, err := identify(h.client, h.member.config.Topic); err == nil && now != id {
			close(h.replaced)
			return
		}
	}
}
