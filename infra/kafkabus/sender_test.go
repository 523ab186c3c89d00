package kafkabus_test

import (
	"context"
	"errors"
	"testing"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"cartwright/domain/event"
	"cartwright/infra/bustest"
	"cartwright/infra/kafkabus"
)

// TestAStreamStaysInItsPartition compares with sarama's partitioner, which others
// who publish to the topic use, and which we did.
func TestAStreamStaysInItsPartition(t *testing.T) {
	b := open(t)
	p := publisher(t, b.config(""))
	client, err := sarama.NewClient(b.Brokers, b.client())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}()
	rapid.Check(t, func(r *rapid.T) {
		stream := rapid.String().Draw(r, "stream")
		e := bustest.Event(stream, 1, 1)
		m := &sarama.ProducerMessage{Key: sarama.StringEncoder(stream)}
		want, err := sarama.NewHashPartitioner(b.Topic).Partition(m, partitions)
		if err != nil {
			r.Fatal(err)
		}
		before := end(r, client, b.Topic, want)
		if err = p.Publish(t.Context(), []event.Recorded{e}); err != nil {
			r.Fatal(err)
		}
		if after := end(r, client, b.Topic, want); after != before+1 {
			r.Fatalf("stream %q went elsewhere", stream)
		}
	})
}

func end(r *rapid.T, client sarama.Client, topic string, partition int32) int64 {
	at, err := client.GetOffset(topic, partition, sarama.OffsetNewest)
	if err != nil {
		r.Fatal(err)
	}
	return at
}

// refusing gives a broker that answers the first so many requests with an error.
func refusing(t *testing.T, times int, code int16) *bed {
	t.Helper()
	c, err := kfake.NewCluster(kfake.Ports(0), kfake.SeedTopics(partitions, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.ControlKey(kmsg.Produce.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if times == 0 {
			return nil, nil, false
		}
		times--
		asked, ok := r.(*kmsg.ProduceRequest)
		if !ok {
			return nil, nil, false
		}
		answer := asked.ResponseKind().(*kmsg.ProduceResponse)
		for _, of := range asked.Topics {
			topic := kmsg.NewProduceResponseTopic()
			topic.Topic, topic.TopicID = of.Topic, of.TopicID
			for _, p := range of.Partitions {
				partition := kmsg.NewProduceResponseTopicPartition()
				partition.Partition, partition.ErrorCode = p.Partition, code
				topic.Partitions = append(topic.Partitions, partition)
			}
			answer.Topics = append(answer.Topics, topic)
		}
		return answer, nil, true
	})
	return &bed{Config: kafkabus.Config{Brokers: c.ListenAddrs(), Topic: topic, Log: logger()}, layout: kafkabus.Layout{Partitions: partitions}}
}

func TestTooFewReplicasAreAnOutage(t *testing.T) {
	t.Parallel()
	b := refusing(t, 5, int16(sarama.ErrNotEnoughReplicas))
	p := publisher(t, b.config(""))
	events := bustest.Events(50, 3, 1)
	if err := p.Publish(t.Context(), events); !errors.Is(err, sarama.ErrNotEnoughReplicas) {
		t.Fatalf("got %v", err)
	}
	publish(t, p, events...)
	lag(t, b, 150) // what was refused has left nothing
}

func TestAPartitionThatMovesIsFollowedWithinABatch(t *testing.T) {
	t.Parallel()
	b := refusing(t, 2, int16(sarama.ErrNotLeaderForPartition))
	publish(t, publisher(t, b.config("")), bustest.Events(50, 3, 1)...)
	lag(t, b, 150)
}

func TestAnEventThatNoBrokerTakesIsAnErrorAndStopsNothingElse(t *testing.T) {
	t.Parallel()
	b := open(t)
	p := publisher(t, b.config(""))
	e := bustest.Event("order-1", 1, 1)
	e.Data = append(append([]byte{'"'}, make([]byte, 9<<20)...), '"')
	if err := p.Publish(t.Context(), []event.Recorded{e}); err == nil {
		t.Error("9 MiB were taken")
	}
	publish(t, p, bustest.Event("order-1", 1, 1))
	lag(t, b, 1)
}

func TestAClosedPublisherPublishesNothing(t *testing.T) {
	p, err := kafkabus.NewPublisher(kafkabus.Config{Brokers: []string{"127.0.0.1:1"}, Topic: topic})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Publish(context.Background(), bustest.Events(1, 1, 1)); err == nil {
		t.Fatal("it was published")
	}
}
