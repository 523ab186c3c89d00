package relay

import (
	"context"
	"fmt"
	"time"

	"cartwright/domain/event"
	"cartwright/infra/pace"
)

// A pump is the publishing half of a relay that leads.
type pump struct {
	*Relay
	mark *bookmark

	events int              // published since the last move
	quiet  int              // words of nothing for us since then
	due    <-chan time.Time // when the bookmark is moved; nil while it need not be
	moving pause
	pace   pace.Pace
}

// pump publishes what comes, until ctx ends or the bookmark is another's.
func (r *Relay) pump(ctx context.Context, mark *bookmark, notices <-chan event.Notice) error {
	p := &pump{Relay: r, mark: mark, pace: pace.Pace{Spacing: r.Spacing}}
	err := p.run(ctx, notices)
	return p.finish(ctx, err)
}

func (p *pump) run(ctx context.Context, notices <-chan event.Notice) error {
	for {
		select {
		case n := <-notices:
			if err := p.carry(ctx, n, notices); err != nil {
				return err
			}
			if p.events < p.MoveAfter {
				continue
			}
		case <-p.due:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := p.moveOn(ctx); err != nil {
			return err
		}
	}
}

// carry publishes an event and those that stand ready behind it.
func (p *pump) carry(ctx context.Context, first event.Notice, notices <-chan event.Notice) error {
	p.space(ctx, first, notices)
	batch := make([]event.Recorded, 0, min(p.Batch, 1+len(notices)))
	n, ready, at := first, true, p.position.Load()
	for ready {
		at = max(at, n.Position)
		p.note(n)
		if p.ours(n) {
			batch = append(batch, n.Event)
		} else {
			p.quiet++
		}
		if len(batch) == p.Batch {
			break
		}
		select {
		case n = <-notices:
		default:
			ready = false
		}
	}
	if err := p.publish(ctx, batch); err != nil {
		return err
	}
	p.position.Store(at)
	p.events += len(batch)
	if p.due == nil && p.worthMoving() {
		p.due = time.After(p.MoveEvery)
	}
	return nil
}

// space waits until the next batch is due, or is full. It is due at once as long
// as there is credit left, which Spacing without a batch adds one to.
func (p *pump) space(ctx context.Context, first event.Notice, notices <-chan event.Notice) {
	early := p.pace.Early()
	if early <= 0 || 1+len(notices) >= p.Batch {
		return
	}
	if p.ours(first) {
		p.waitsSince(first.Event.Created)
	}
	due := time.NewTimer(early)
	defer due.Stop()
	select {
	case <-due.C:
	case <-ctx.Done():
	}
}

func (p *pump) ours(n event.Notice) bool { return n.Event.Name != "" && p.allowed(n.Event.Stream) }

func (p *pump) note(n event.Notice) {
	if n.CaughtUp {
		p.update(func(s *Status) { s.CaughtUp = true })
	}
}

func (p *pump) worthMoving() bool {
	return p.position.Load() != p.mark.position && (p.events > 0 || p.quiet >= quietNotices)
}

// publish tries until it succeeds or ctx ends.
func (p *pump) publish(ctx context.Context, batch []event.Recorded) error {
	if len(batch) == 0 {
		return nil
	}
	p.waitsSince(batch[0].Created)
	var again pause
	for {
		err := p.Bus.Publish(ctx, batch)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.failed(fmt.Errorf("publish: %w", err))
		if !again.wait(ctx) {
			return ctx.Err()
		}
	}
	p.waitsSince(time.Time{})
	p.pace.Spend()
	p.update(func(s *Status) {
		s.Published += uint64(len(batch))
		s.LastError = nil
	})
	return nil
}

func (p *pump) waitsSince(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.oldest = t
}

// moveOn moves the bookmark to what was published. Only a conflict is an error:
// anything else is tried again while publishing goes on.
func (p *pump) moveOn(ctx context.Context) error {
	err := p.mark.move(ctx, p.position.Load())
	switch {
	case err == nil:
		p.moving.reset()
		p.events, p.quiet, p.due = 0, 0, nil
		p.update(func(s *Status) { s.Bookmark = p.mark.position })
		if p.mark.position != p.position.Load() { // an earlier move was settled first
			p.events, p.due = 1, time.After(p.MoveEvery)
		}
		return nil
	case isConflict(err):
		return err
	case ctx.Err() == nil:
		p.failed(err)
	}
	p.events, p.due = 1, time.After(p.MoveEvery+p.moving.next())
	return nil
}

// finish moves the bookmark, and has the bus's disk follow, after the last event
// has been published. ctx may have ended.
func (p *pump) finish(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	if p.Disk != nil && p.position.Load() > p.Disk.Safe() {
		p.sync(ctx, p.position.Load())
	}
	if isConflict(err) || !p.worthMoving() {
		return err
	}
	if moved := p.mark.move(ctx, p.position.Load()); moved != nil {
		p.failed(moved)
		return moved
	}
	p.update(func(s *Status) { s.Bookmark = p.mark.position })
	return err
}
