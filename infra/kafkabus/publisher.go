package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"cartwright/domain/event"
)

// A Publisher puts batches of events on the bus. It may be used concurrently,
// one batch goes out after the other.
type Publisher struct {
	config  Config
	turn    chan struct{} // holds a token while nobody publishes
	running sync.WaitGroup

	sender *sender // nil until needed; whoever has the turn may use it
	closed bool
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
// some may be: the caller sends the whole batch again. Even then no event has
// overtaken another of its stream. The events must not be changed afterwards,
// even if ctx ends: what has been sent goes on.
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
func (p *Publisher) send(events []event.Recorded) (err error) {
	if p.closed {
		return errors.New("publisher is closed")
	}
	if p.sender == nil {
		if p.sender, err = newSender(p.config); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
	}
	if err = p.sender.send(events); err != nil {
		err = errors.Join(err, p.disconnect()) // who leads what is asked anew
	}
	return err
}

func (p *Publisher) disconnect() error {
	s := p.sender
	p.sender = nil
	if s == nil {
		return nil
	}
	return s.close()
}

// Close waits for the batch under way and lets go of the brokers.
func (p *Publisher) Close() error {
	p.running.Wait()
	<-p.turn
	defer func() { p.turn <- struct{}{} }()
	p.closed = true
	return p.disconnect()
}
