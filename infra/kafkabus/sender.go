package kafkabus

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"cartwright/domain/event"
)

// A sender writes batches over connections of its own.
//
// It speaks to the brokers itself, since sarama's producer lets events overtake
// each other when brokers fail: it sends the records of one partition in several
// requests, gives the first of them up after some attempts, and then still sends
// what stood behind it (Outages, "a broker that was away has lost nothing, and no
// order", fails with it). Here the records of a partition are one batch, which a
// broker takes or refuses as a whole; the next is sent when all are taken; and the
// first error ends it. So sending again can repeat events but not move them, and
// an idempotent producer would have nothing to add: it knows a batch again only
// within one session of its own, which an error ends.
//
// It also does without a dozen hand-overs between goroutines for each record
// (BenchmarkPublish, 1,000 at once: 170,000 events a second where sarama's
// producer had 100,000, broker included).
type sender struct {
	config     Config
	client     sarama.Client
	partitions uint32
	encoder    encoder
}

func newSender(c Config) (*sender, error) {
	client, err := sarama.NewClient(c.Brokers, c.client())
	if err != nil {
		return nil, err
	}
	partitions, err := client.Partitions(c.Topic)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return &sender{c, client, uint32(len(partitions)), encoder{source: c.Source}}, nil //nolint:gosec // not that many
}

func (s *sender) close() error { return s.client.Close() }

// send returns with the first error. A batch that is more than brokers take at
// once goes in several rounds.
func (s *sender) send(events []event.Recorded) error {
	defer s.encoder.reset() // sarama has written the records out by then, or given them up
	r, now := s.newRound(), time.Now()
	for i := range events {
		record := s.encoder.encode(&events[i])
		partition, size := partitionOf(events[i].Stream, s.partitions), sizeOf(record)
		if !r.hasRoom(partition, size) {
			if err := r.send(); err != nil {
				return err
			}
			r = s.newRound()
		}
		r.add(partition, record, size, now)
		if r.events != nil {
			r.events[partition] = append(r.events[partition], &events[i])
		}
	}
	return r.send()
}

// A round is one record batch for each partition, sent at once.
type round struct {
	*sender
	batches map[int32]*sarama.RecordBatch
	events  map[int32][]*event.Recorded // what they are made of, for the shortcut
	sizes   map[int32]int
	size    int
}

func (s *sender) newRound() *round {
	r := &round{s, make(map[int32]*sarama.RecordBatch, s.partitions), nil, make(map[int32]int, s.partitions), 0}
	if s.config.Shortcut != nil {
		r.events = make(map[int32][]*event.Recorded, s.partitions)
	}
	return r
}

// hasRoom is true for the first record whatever its size: the broker decides.
func (r *round) hasRoom(partition int32, size int) bool {
	return (r.sizes[partition] == 0 || r.sizes[partition]+size <= maxMessageBytes) &&
		(r.size == 0 || r.size+size <= maxRoundBytes)
}

// add gives records the time of publishing, never the event's own: an import sets
// that to the past, and retention by time would drop such a record at once.
func (r *round) add(partition int32, record *sarama.Record, size int, now time.Time) {
	b := r.batches[partition]
	if b == nil {
		b = &sarama.RecordBatch{
			Version: 2, FirstTimestamp: now, MaxTimestamp: now,
			ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, // of no producer: see sender
		}
		r.batches[partition] = b
	}
	record.OffsetDelta = int64(len(b.Records))
	b.LastOffsetDelta = int32(len(b.Records)) //nolint:gosec // bounded by its bytes
	b.Records = append(b.Records, record)
	r.sizes[partition] += size
	r.size += size
}

// send returns when all brokers have taken their batches. Those that were not
// taken are sent again a few times, to whoever leads them then; nothing of their
// partitions is sent before.
func (r *round) send() error {
	for p := (pause{}); ; {
		err := r.attempt()
		if err == nil || p.last >= longestMove || hopeless(err) {
			return err
		}
		time.Sleep(p.next()) // sarama's calls around it can't be broken off either
		if failed := r.client.RefreshMetadata(r.config.Topic); failed != nil {
			return errors.Join(err, failed)
		}
	}
}

// attempt sends what has not been taken yet to its leaders, at once.
func (r *round) attempt() error {
	requests := map[*sarama.Broker]*sarama.ProduceRequest{}
	for partition, batch := range r.batches {
		leader, err := r.client.Leader(r.config.Topic, partition)
		if err != nil {
			return fmt.Errorf("leader of partition %d: %w", partition, err)
		}
		if requests[leader] == nil {
			requests[leader] = &sarama.ProduceRequest{
				Version: produceVersion, RequiredAcks: sarama.WaitForAll, Timeout: acknowledgeMillis,
			}
		}
		requests[leader].AddBatch(r.config.Topic, partition, batch)
	}
	answers := make(chan answer, len(requests))
	var asking sync.WaitGroup
	for leader, request := range requests {
		asking.Go(func() { answers <- ask(leader, request) })
	}
	asking.Wait()
	close(answers)
	var first error
	for a := range answers {
		if err := r.settle(a); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// An answer is what one broker has said.
type answer struct {
	from *sarama.Broker
	said *sarama.ProduceResponse
	err  error
}

func ask(leader *sarama.Broker, request *sarama.ProduceRequest) answer {
	said, err := leader.Produce(request)
	return answer{leader, said, err}
}

// settle forgets what was taken, and gives an example of what was not.
func (r *round) settle(a answer) error {
	if a.err != nil {
		_ = a.from.Close() // or it would not be called again; it says that it is closed already
		return fmt.Errorf("broker %s: %w", a.from.Addr(), a.err)
	}
	failed, example := 0, error(nil)
	for partition, block := range a.said.Blocks[r.config.Topic] {
		if errors.Is(block.Err, sarama.ErrNoError) {
			delete(r.batches, partition)
			if r.events != nil {
				r.config.Shortcut.published(partition, block.Offset, r.events[partition])
			}
			continue
		}
		failed++
		example = fmt.Errorf("partition %d: %w", partition, block.Err)
	}
	if example != nil {
		return fmt.Errorf("broker %s refused %d batches, one of %w", a.from.Addr(), failed, example)
	}
	return nil
}

// recordFrame is more than a record takes beside its key, value and headers, and
// a header beside its name and value.
const recordFrame = 32

func sizeOf(r *sarama.Record) int {
	size := recordFrame + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		size += 2*5 + len(h.Key) + len(h.Value)
	}
	return size
}

// partitionOf is where a stream's events go: FNV-1a, as sarama's hash partitioner
// has it, which put them there before and does so for integrations.
func partitionOf(stream string, partitions uint32) int32 {
	hash := uint32(2166136261)
	for i := range len(stream) {
		hash = (hash ^ uint32(stream[i])) * 16777619
	}
	p := int32(hash) % int32(partitions) //nolint:gosec // the sign is part of it
	if p < 0 {
		return -p
	}
	return p
}
