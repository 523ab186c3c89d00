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

// A session is what a member does with its partitions between two rebalances.
type session interface {
	// take hands over what has come of one partition, in its order. It may block,
	// until ctx ends; then it is not taken.
	take(ctx context.Context, p piece)
	// wait returns when nothing works on records any more. The session's context
	// has ended by then.
	wait()
}

// A piece is what has come of one partition at once: records as brokers have sent
// them, or else events as this process has published them.
type piece struct {
	records []*sarama.ConsumerMessage

	partition int32
	offset    int64 // of the first event
	events    []*event.Recorded
}

func (p piece) len() int { return len(p.records) + len(p.events) }

// end is the partition, and the offset behind the last of the piece.
func (p piece) end() (partition int32, offset int64) {
	if len(p.records) == 0 {
		return p.partition, p.offset + int64(len(p.events))
	}
	last := p.records[len(p.records)-1]
	return last.Partition, last.Offset + 1
}

// cut gives the first n of a piece that has more, and the rest.
func (p piece) cut(n int) (first, rest piece) {
	first, rest = p, p
	if len(p.records) > 0 {
		first.records, rest.records = p.records[:n], p.records[n:]
		return first, rest
	}
	first.events, rest.events, rest.offset = p.events[:n], p.events[n:], p.offset+int64(n)
	return first, rest
}

// A member of a consumer group.
type member struct {
	config  Config
	open    func(ctx context.Context, m marker) session
	trouble *trouble
}

// A marker notes how far a session has come, and in which topic of that name.
type marker struct {
	session sarama.ConsumerGroupSession
	topic   string
	id      string // see identity.go
}

func (m marker) mark(partition int32, end int64) {
	m.session.MarkOffset(m.topic, partition, end, m.id)
}

func (m *member) doing() string { return "read as " + m.config.Group }

// run joins, and joins again after rebalances and outages, until ctx ends.
func (m *member) run(ctx context.Context) {
	var p pause
	for ctx.Err() == nil {
		if err := m.join(ctx, &p); err != nil && ctx.Err() == nil {
			m.trouble.report(m.doing(), err)
			p.wait(ctx)
		}
	}
}

// join takes part in the group until ctx ends. It stays the same member over
// outages: the brokers wait for one that has left without a word until its
// session is over, and nobody reads meanwhile.
func (m *member) join(ctx context.Context, p *pause) (err error) {
	client, err := sarama.NewClient(m.config.Brokers, m.config.client())
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	group, err := sarama.NewConsumerGroupFromClient(m.config.Group, client)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	var errs sync.WaitGroup
	errs.Go(func() {
		for err := range group.Errors() {
			m.trouble.report(m.doing(), whatever(err))
		}
	})
	defer errs.Wait()
	defer func() {
		if left := group.Close(); err == nil && left != nil && ctx.Err() == nil {
			err = fmt.Errorf("leave: %w", left)
		}
	}()
	for ctx.Err() == nil {
		if err := m.consume(ctx, client, group, p); err != nil {
			return err
		}
	}
	return nil
}

// consume is one session. An error means that the group can't be used any more.
func (m *member) consume(ctx context.Context, client sarama.Client, group sarama.ConsumerGroup, p *pause) error {
	began := time.Now()
	err := group.Consume(ctx, []string{m.config.Topic}, &handler{member: m, client: client, group: group})
	if errors.Is(err, sarama.ErrClosedConsumerGroup) {
		return fmt.Errorf("consume: %w", err)
	}
	if time.Since(began) > shortSession {
		p.reset()
	}
	if err == nil {
		// A rebalance, for which the others wait, or a partition that can't be read.
		p.last = min(p.last, longestRejoin)
	} else if ctx.Err() == nil {
		m.trouble.report(m.doing(), fmt.Errorf("consume: %w", err))
	}
	p.wait(ctx)
	return nil
}

// whatever drops which partition an error is of: an outage would be told 32 times.
func whatever(err error) error {
	if of, ok := errors.AsType[*sarama.ConsumerError](err); ok {
		return of.Err
	}
	return err
}

// A handler is sarama's view of one session.
type handler struct {
	member   *member
	client   sarama.Client
	group    sarama.ConsumerGroup
	session  session
	replaced chan struct{} // closed when the topic is another one
	watching sync.WaitGroup
}

// Setup implements sarama.ConsumerGroupHandler.
func (h *handler) Setup(s sarama.ConsumerGroupSession) error {
	m := h.member
	id, err := identify(h.client, m.config.Topic)
	if err == nil {
		err = m.startOver(h.client, s, id)
	}
	if err != nil {
		return err
	}
	m.trouble.over(m.doing())
	h.replaced = make(chan struct{})
	h.watching.Go(func() { h.watch(s.Context(), id) })
	if short := m.config.Shortcut; short != nil {
		h.watching.Go(func() { short.watch(s.Context()) })
	}
	h.session = m.open(s.Context(), marker{s, m.config.Topic, id})
	return nil
}

// Cleanup implements sarama.ConsumerGroupHandler. What was marked before it
// returns is committed.
func (h *handler) Cleanup(sarama.ConsumerGroupSession) error {
	if h.session != nil { // as it is when Setup has failed
		h.session.wait()
		h.watching.Wait()
	}
	return nil
}

// ConsumeClaim implements sarama.ConsumerGroupHandler. When it returns the session
// ends, and the next one begins with what brokers have behind what was marked.
func (h *handler) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	if short := h.fetch(s.Context(), claim); short != nil {
		defer short.leave()
		h.follow(s.Context(), claim, short)
	}
	return nil
}

// fetch hands over what brokers send until the session ends, or there is a
// shortcut to what comes next. What has arrived together is handed over at once: a
// channel operation for each record would cost more than the record.
func (h *handler) fetch(ctx context.Context, claim sarama.ConsumerGroupClaim) *shortReader {
	for arrived := claim.Messages(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-h.replaced:
			return nil
		case r, ok := <-arrived:
			if !ok {
				return nil
			}
			p := piece{records: together(r, arrived)}
			h.session.take(ctx, p)
			if short, ok := h.member.config.Shortcut.join(p.end()); ok {
				return short
			}
		}
	}
}

// follow hands over what comes by the shortcut, until the session ends or there is
// something that does not come that way. Brokers are not asked meanwhile; what they
// had been asked for before is not looked at.
func (h *handler) follow(ctx context.Context, claim sarama.ConsumerGroupClaim, short *shortReader) {
	mine := map[string][]int32{claim.Topic(): {claim.Partition()}}
	h.group.Pause(mine)
	defer h.group.Resume(mine) // it would be remembered for the next session
	for {
		events, offset, ok := short.read()
		if !ok {
			return
		}
		if len(events) > 0 {
			h.session.take(ctx, piece{partition: claim.Partition(), offset: offset, events: events})
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-h.replaced:
			return
		case _, open := <-claim.Messages():
			if !open {
				return
			}
		case <-short.news:
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
