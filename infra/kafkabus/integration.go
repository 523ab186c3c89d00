package kafkabus

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"cartwright/domain/event"
)

const (
	// metadataBroken is what is wrong with a record that became a message all the same.
	metadataBroken = "cartwright-broken"

	// headerKey is CloudEvents' extension for the key of a record that has no subject.
	headerKey = "ce_partitionkey"

	refusedAgainAfter = 250 * time.Millisecond
)

// NewIntegrationPublisher gives watermill's own publisher for Kafka, for others
// who put CloudEvents on a topic: see CloudEvents for what a message must carry.
// It makes one round trip a message, connects at once, and must be closed. An
// empty Topic is none; each Publish names its own.
func NewIntegrationPublisher(c Config) (*kafka.Publisher, error) {
	if err := c.checkIntegration(false); err != nil {
		return nil, err
	}
	p, err := kafka.NewPublisher(kafka.PublisherConfig{
		Brokers:               c.Brokers,
		Marshaler:             CloudEvents{Source: c.Source},
		OverwriteSaramaConfig: c.integration(),
	}, watermill.NewSlogLogger(c.Log))
	if err != nil {
		return nil, fmt.Errorf("kafka: publisher for integrations: %w", refused(err))
	}
	return p, nil
}

// NewIntegrationSubscriber gives watermill's own subscriber for Kafka, for others
// who follow a topic as a group of theirs: one message at a time of each
// partition, from the oldest on. Every record becomes a message, ours or not: ask
// Broken before the message, and Event for the event it carries. A Layout that is
// not zero is what its SubscribeInitialize makes a topic with.
//
// It has traps that our own Subscriber has not. A refused message (Nack) comes
// again at once and for ever, and holds up its whole partition. A message's
// context does not end with the session: a handler that takes longer than a
// rebalance lasts (20 s) works on beside its successor, so give it a timeout
// below that. And a topic that is not there is asked for again without rest, so
// make it first (EnsureTopic).
func NewIntegrationSubscriber(c Config, l Layout) (*kafka.Subscriber, error) {
	err := c.checkIntegration(true)
	var details *sarama.TopicDetail
	if l != (Layout{}) {
		err = errors.Join(err, l.check())
		details = l.details()
	}
	if err != nil {
		return nil, err
	}
	return kafka.NewSubscriber(kafka.SubscriberConfig{
		Brokers:                c.Brokers,
		ConsumerGroup:          c.Group,
		Unmarshaler:            CloudEvents{},
		OverwriteSaramaConfig:  c.integration(),
		NackResendSleep:        refusedAgainAfter,
		InitializeTopicDetails: details,
	}, watermill.NewSlogLogger(c.Log))
}

// checkIntegration does without a topic, since watermill names it with each call.
func (c *Config) checkIntegration(reads bool) error {
	if c.Topic == "" {
		c.Topic = "any"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c.check(reads)
}

func (c *Config) integration() *sarama.Config {
	s := c.client()
	s.Metadata.Full = true // watermill asks for topics that the client has not heard of
	return s
}

// CloudEvents is the form that messages of watermill have on the bus: CloudEvents
// 1.0 in binary mode, as Encode and Decode use it. The message's id is the
// event's, its payload the data, its metadata the headers.
type CloudEvents struct {
	Source string // of messages that name none
}

// Marshal implements kafka.Marshaler. The message must have a ce_type; what else
// CloudEvents demands is added where it is missing. The record's key is the
// ce_subject, so that those of one subject stay in order, or else the
// ce_partitionkey.
func (c CloudEvents) Marshal(topic string, m *message.Message) (*sarama.ProducerMessage, error) {
	headers := maps.Clone(m.Metadata)
	if headers == nil {
		headers = message.Metadata{}
	}
	delete(headers, metadataBroken)
	headers[headerID] = m.UUID
	for name, value := range map[string]string{headerSpec: specVersion, headerSource: c.Source, headerContent: contentJSON} {
		if headers[name] == "" {
			headers[name] = value
		}
	}
	if err := misses(headers); err != nil {
		return nil, err
	}
	r := &sarama.ProducerMessage{Topic: topic, Value: sarama.ByteEncoder(m.Payload), Timestamp: time.Now()}
	if key := headers[headerSubject]; key != "" {
		r.Key = sarama.StringEncoder(key)
	} else if key := headers[headerKey]; key != "" {
		r.Key = sarama.StringEncoder(key)
	}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		r.Headers = append(r.Headers, sarama.RecordHeader{Key: []byte(name), Value: []byte(headers[name])})
	}
	return r, nil
}

// Unmarshal implements kafka.Unmarshaler. It never fails: watermill would end the
// session, join again and be given the same record, for ever, and with it would
// stand all partitions of the group. A record that is no CloudEvent becomes a
// message that says so (Broken), named after its place.
func (CloudEvents) Unmarshal(r *sarama.ConsumerMessage) (*message.Message, error) {
	m := message.NewMessage("", message.Payload(r.Value))
	for _, h := range r.Headers {
		if h != nil {
			m.Metadata.Set(string(h.Key), string(h.Value))
		}
	}
	delete(m.Metadata, metadataBroken) // nobody says this but we
	m.UUID = m.Metadata[headerID]
	if err := misses(m.Metadata); err != nil {
		m.UUID = r.Topic + "/" + strconv.Itoa(int(r.Partition)) + "/" + strconv.FormatInt(r.Offset, 10)
		m.Metadata.Set(metadataBroken, err.Error())
	}
	return m, nil
}

// misses tells which attribute that CloudEvents demands a message does not have.
func misses(headers message.Metadata) error {
	if spec := headers[headerSpec]; spec != specVersion {
		return fmt.Errorf("header %s is %q, not %s", headerSpec, spec, specVersion)
	}
	for _, name := range []string{headerID, headerType, headerSource} {
		if headers[name] == "" {
			return fmt.Errorf("header %s is missing", name)
		}
	}
	return nil
}

// Broken tells why a message of an integration's subscriber is no CloudEvent, and
// is nil if it is one. Whoever gets such a message should note it and
// acknowledge it: it will never be another.
func Broken(m *message.Message) error {
	if reason := m.Metadata[metadataBroken]; reason != "" {
		return fmt.Errorf("record %s is no CloudEvent: %s", m.UUID, reason)
	}
	return nil
}

// Message gives an event the form of a message, as Event takes it back.
func Message(e event.Recorded, source string) *message.Message {
	m := message.NewMessage(e.ID, message.Payload(e.Data))
	for _, h := range (&encoder{source: source}).encode(&e).Headers {
		m.Metadata.Set(string(h.Key), string(h.Value))
	}
	return m
}
