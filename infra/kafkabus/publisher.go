package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"cartwright/domain/event"
)

// A Publisher puts batches of events on the bus. It may be used concurrently,
// one batch goes out after the other.
type Publisher struct {
	config  Config
	turn    chan struct{} // holds a token while nobody publishes
	running sync.WaitGroup

	producer sarama.SyncProducer // nil until needed; whoever has the turn may use it
	closed   bool
}

// NewPublisher checks the configuration. It connects with the first batch, so
// a broker that comes later is no error.
func NewPublisher(c Config) (*Publisher, error) {
	if err := c.check(false); err != nil {
		return nil, err
	}
	p := &Publisher{config: c, turn: make(chan struct{}, 1)}
	p.turn <- struct{}{}
	return p, nil
}

// Publish returns nil when every event is safe with the brokers. After an error
// some may be: the caller sends the whole batch again. The events must not be
// changed afterwards, even if ctx ends: what has been sent goes on.
func (p *Publisher) Publish(ctx context.Context, events []event.Recorded) error {
	if err := ctx.Err(); err != nil || len(events) == 0 {
		return err
	}
	select {
	case <-p.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	err := await(ctx, &p.running, func() error {
		defer func() { p.turn <- struct{}{} }()
		return p.send(events)
	})
	if err != nil {
		return fmt.Errorf("publish %d events from position %d: %w", len(events), events[0].Position, err)
	}
	return nil
}

// send must be called by whoever has the turn.
func (p *Publisher) send(events []event.Recorded) error {
	if p.closed {
		return errors.New("publisher is closed")
	}
	if err := p.connect(); err != nil {
		return err
	}
	now := time.Now()
	messages := make([]*sarama.ProducerMessage, len(events))
	for i, e := range events {
		messages[i] = encode(e, p.config.Topic, p.config.Source, now)
	}
	err := p.producer.SendMessages(messages)
	if err == nil {
		return nil
	}
	// A new producer has a new identity, so nothing of a disturbed sequence
	// (a broker that lost its newest records) can be held against the next batch.
	err = errors.Join(first(err), p.producer.Close())
	p.producer = nil
	return err
}

// first gives one error for many of one kind.
func first(err error) error {
	var all sarama.ProducerErrors
	if errors.As(err, &all) && len(all) > 0 {
		return fmt.Errorf("%d of the batch failed, the first: %w", len(all), all[0].Err)
	}
	return err
}

func (p *Publisher) connect() error {
	if p.producer != nil {
		return nil
	}
	producer, err := sarama.NewSyncProducer(p.config.Brokers, p.config.client())
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	p.producer = producer
	return nil
}

// Close waits for the batch under way and lets go of the brokers.
func (p *Publisher) Close() error {
	p.running.Wait()
	<-p.turn
	defer func() { p.turn <- struct{}{} }()
	p.closed = true
	if p.producer == nil {
		return nil
	}
	err := p.producer.Close()
	p.producer = nil
	return err
}
