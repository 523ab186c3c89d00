package kafkabus

import (
	"context"
	"fmt"
	"sync"

	"github.com/IBM/sarama"
)

// A session is what a member does with its partitions between two rebalances.
type session interface {
	// take hands over records of one partition in their order. It may block,
	// until ctx ends; then the records are not taken.
	take(ctx context.Context, records []*sarama.ConsumerMessage)
	// wait returns when nothing works on records any more. The session's context
	// has ended by then.
	wait()
}

// A member of a consumer group.
type member struct {
	config  Config
	open    func(ctx context.Context, s sarama.ConsumerGroupSession) session
	trouble *trouble
}

// run joins, and joins again after rebalances and outages, until ctx ends.
func (m *member) run(ctx context.Context) {
	var p pause
	for ctx.Err() == nil {
		err := m.join(ctx, &p)
		if err == nil || ctx.Err() != nil {
			continue
		}
		m.trouble.report("read as "+m.config.Group, err)
		p.wait(ctx)
	}
}

func (m *member) join(ctx context.Context, p *pause) (err error) {
	group, err := sarama.NewConsumerGroup(m.config.Brokers, m.config.Group, m.config.client())
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	var errs sync.WaitGroup
	errs.Go(func() {
		for err := range group.Errors() {
			m.trouble.report("read as "+m.config.Group, err)
		}
	})
	defer errs.Wait()
	defer func() {
		if left := group.Close(); err == nil && left != nil && ctx.Err() == nil {
			err = fmt.Errorf("leave: %w", left)
		}
	}()
	for ctx.Err() == nil {
		h := &handler{member: m, pause: p}
		if err := group.Consume(ctx, []string{m.config.Topic}, h); err != nil {
			return fmt.Errorf("consume: %w", err)
		}
	}
	return nil
}

// A handler is sarama's view of one session.
type handler struct {
	member  *member
	pause   *pause
	session session
}

// Setup implements sarama.ConsumerGroupHandler.
func (h *handler) Setup(s sarama.ConsumerGroupSession) error {
	h.pause.reset()
	h.member.trouble.over("read as " + h.member.config.Group)
	h.session = h.member.open(s.Context(), s)
	return nil
}

// Cleanup implements sarama.ConsumerGroupHandler. What was marked before it
// returns is committed.
func (h *handler) Cleanup(sarama.ConsumerGroupSession) error {
	h.session.wait()
	return nil
}

// ConsumeClaim implements sarama.ConsumerGroupHandler. It hands over what has
// arrived together: a channel operation for each record would cost more than
// the record.
func (h *handler) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	ctx, arrived := s.Context(), claim.Messages()
	for {
		select {
		case <-ctx.Done():
			return nil
		case r, ok := <-arrived:
			if !ok {
				return nil
			}
			h.session.take(ctx, together(r, arrived))
		}
	}
}

// together gives r and what stands ready behind it.
func together(r *sarama.ConsumerMessage, arrived <-chan *sarama.ConsumerMessage) []*sarama.ConsumerMessage {
	records := make([]*sarama.ConsumerMessage, 1, 1+len(arrived))
	records[0] = r
	for {
		select {
		case r, ok := <-arrived:
			if !ok {
				return records
			}
			records = append(records, r)
		default:
			return records
		}
	}
}
