package redisviews

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"cartwright/projections"
)

// owing is a document that was not written, with its buyer if he is known.
type owing struct{ stream, buyer string }

func owedFor(rows []row) []owing {
	owed := make([]owing, len(rows))
	for i, r := range rows {
		owed[i] = owing{r.stream, r.buyer}
	}
	return owed
}

// debts are what a process did not write and has to delete. The zero value owes
// nothing.
type debts struct {
	most int

	some atomic.Bool // spares the usual question the lock

	mu      sync.Mutex
	turn    int           // counts what is added, so that only what was paid is taken off
	all     int           // the turn when everything was owed, 0 if it is not
	streams map[owing]int // by turn
}

func (d *debts) any() bool { return d.some.Load() }

// add says whether these are the first.
func (d *debts) add(owed []owing) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	first := !d.some.Swap(true)
	d.turn++
	if d.streams == nil {
		d.streams = map[owing]int{}
	}
	for _, o := range owed {
		d.streams[o] = d.turn
	}
	if d.all != 0 || len(d.streams) > d.most {
		d.all, d.streams = d.turn, nil
	}
	return first
}

// due gives what there is to pay now.
func (d *debts) due() (turn int, all bool, streams []owing) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for o := range d.streams {
		streams = append(streams, o)
	}
	return d.turn, d.all != 0, streams
}

// paid takes off what was owed up to a turn.
func (d *debts) paid(turn int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for o, at := range d.streams {
		if at <= turn {
			delete(d.streams, o)
		}
	}
	if d.all <= turn {
		d.all = 0
	}
	d.some.Store(d.all != 0 || len(d.streams) > 0)
}

// owe remembers what was not written.
func (b *Buyers) owe(owed []owing, why error) {
	if b.debts.add(owed) {
		select {
		case b.wake <- struct{}{}:
		default: // it was woken
		}
		b.db.cfg.Log.Warn("orders are not cached", "err", why)
	}
}

// pay deletes what this process could not write, so that the index answers.
func (b *Buyers) pay(ctx context.Context) error {
	if !b.debts.any() {
		return nil
	}
	b.paying.Lock()
	defer b.paying.Unlock()
	turn, all, streams := b.debts.due()
	if turn == 0 || !b.debts.any() {
		return nil
	}
	var err error
	if all {
		err = b.renew(ctx, "more was not cached than could be remembered")
	} else {
		err = b.deleteAll(ctx, streams)
	}
	if err != nil {
		return fmt.Errorf("pay what is owed to the cache: %w", err)
	}
	b.debts.paid(turn)
	b.db.cfg.Log.Info("orders are cached again", "all", all, "deleted", len(streams))
	return nil
}

func (b *Buyers) deleteAll(ctx context.Context, streams []owing) error {
	for some := range slices.Chunk(streams, pipe) {
		err := b.settled(ctx, func(l *lineage) error {
			return b.exec(ctx, l, func(p redis.Pipeliner) {
				for _, number := range append([]int{l.Live}, l.Building...) {
					b.delete(ctx, p, l.name(number), some)
				}
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *Buyers) delete(ctx context.Context, p redis.Pipeliner, generation string, streams []owing) {
	for _, o := range streams {
		p.Unlink(ctx, b.docKey(generation, o.stream))
		if o.buyer != "" {
			p.Unlink(ctx, b.listKey(generation, o.buyer))
		}
	}
}

// getToWrite gives documents to one who goes on from them. Where the index must
// answer he may find that there is nothing left for him to write; so what the
// cache may have of them is owed.
func (b *Buyers) getToWrite(ctx context.Context, streams []string) (map[string]projections.Doc[projections.Order], error) {
	err := b.pay(ctx)
	var docs map[string]projections.Doc[projections.Order]
	if err == nil {
		docs, err = b.get(ctx, streams)
	}
	if !b.enlisted.Load() || !b.elsewhere(ctx, err) {
		return docs, err
	}
	why := err
	if docs, err = b.cfg.Index.Get(ctx, streams); err != nil {
		return nil, err
	}
	owed := make([]owing, len(streams))
	for i, stream := range streams {
		owed[i] = owing{stream, docs[stream].Body.State.Buyer}
	}
	b.owe(owed, why)
	return docs, nil
}

// Enlist signs the register of writers, which every writer does before the
// first write. Called when a process starts, it tells at once that Redis is away.
func (b *Buyers) Enlist(ctx context.Context) error {
	return wrap(b.enlist(ctx), "sign the register of writers of buyers")
}

func (b *Buyers) enlist(ctx context.Context) error {
	if b.enlisted.Load() {
		return ctx.Err()
	}
	if _, err := b.listen(ctx, true); err != nil {
		return err
	}
	b.enlisted.Store(true)
	return nil
}

// hurry is how soon a writer who owes tries again.
const hurry = 500 * time.Millisecond

// keepAlive gives signs of life, notices who gives none any more, pays what is
// owed and sweeps what is gone, until the view is closed.
func (b *Buyers) keepAlive(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.wake:
			timer.Reset(min(b.cfg.Beat, hurry))
			continue
		case <-timer.C:
		}
		if err := b.beat(ctx); err != nil && ctx.Err() == nil {
			b.db.cfg.Log.Debug("the cache of orders is not looked after", "err", err)
		}
		pause := b.cfg.Beat
		if b.debts.any() {
			pause = min(pause, hurry)
		}
		timer.Reset(pause)
	}
}

func (b *Buyers) beat(ctx context.Context) error {
	if err := b.retire(); err != nil {
		return err
	}
	said, err := b.lookAround(ctx)
	if err != nil {
		return err
	}
	if err := b.pay(ctx); err != nil {
		return err
	}
	if b.strayed.Swap(false) {
		return b.db.try(ctx, func(ctx context.Context) error { return b.db.client.Incr(ctx, b.shared("sweep")).Err() })
	}
	if said.sweep == "0" {
		return nil
	}
	return b.sweep(ctx, said.sweep)
}

// lookAround asks for the lineage, and buries who died.
func (b *Buyers) lookAround(ctx context.Context) (answer, error) {
	b.changing.Lock()
	defer b.changing.Unlock()
	said, err := b.ask(ctx, b.enlisted.Load())
	if err == nil && said.raw != "" && len(said.late) > 0 {
		err = b.bury(ctx, said)
	}
	return said, err
}

// Close ends the view: what this process was building is dropped, what it owes
// is paid, and the register says that it owes nothing. If Redis is away that is
// left to the others, who begin anew when they miss this process. It may be
// called again.
func (b *Buyers) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	b.stop()
	b.done.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := b.leave(ctx); err != nil {
		b.db.cfg.Log.Warn("the cache of orders was left without a goodbye", "err", err)
	}
	return wrap(errors.Join(b.retire(), b.cache.now().Close()), "close buyers")
}

func (b *Buyers) leave(ctx context.Context) error {
	if !b.enlisted.Load() {
		return nil
	}
	if err := errors.Join(b.abandon(ctx), b.pay(ctx)); err != nil {
		return err
	}
	return b.db.try(ctx, func(ctx context.Context) error {
		return b.db.client.ZRem(ctx, b.shared("writers"), b.id).Err()
	})
}

// abandon drops what was being built and is not live.
func (b *Buyers) abandon(ctx context.Context) error {
	mine := b.builds.all()
	if len(mine) == 0 {
		return nil
	}
	_, err := b.change(ctx, func(l lineage) (lineage, error) {
		l.Building = slices.DeleteFunc(slices.Clone(l.Building), func(n int) bool { return mine[n] == l.Epoch })
		return l, nil
	})
	return err
}
