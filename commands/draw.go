package commands

import (
	"context"
	"sync"
	"time"

	"cartwright/domain/orderid"
)

// A drawer draws order ids that this process has not drawn before. Another
// process may draw the same one; then the append of the order decides. Ids of
// siblings, which are named before they are appended, come from the other end of
// a millisecond's, away from those that are given out.
type drawer struct {
	now func() time.Time

	mu   sync.Mutex
	at   int64         // the millisecond that used counts for
	used map[int]drawn // ids drawn in it, by bucket
}

// drawn is how many ids of a millisecond and a bucket are drawn from either end.
type drawn struct{ first, last int }

func newDrawer(now func() time.Time) *drawer {
	return &drawer{now: now, used: map[int]drawn{}}
}

// next draws an id to be given out.
func (d *drawer) next(ctx context.Context, buyer string) (orderid.ID, error) {
	return d.draw(ctx, buyer, func(n *drawn) int {
		n.first++
		return n.first - 1
	})
}

// sibling draws an id for a sibling.
func (d *drawer) sibling(ctx context.Context, buyer string) (orderid.ID, error) {
	return d.draw(ctx, buyer, func(n *drawn) int {
		n.last++
		return orderid.PerMilli - n.last
	})
}

// draw waits for another millisecond when a bucket has used up this one's ids.
func (d *drawer) draw(ctx context.Context, buyer string, sequence func(*drawn) int) (orderid.ID, error) {
	bucket := orderid.Bucket(buyer)
	for {
		if id, ok, err := d.try(bucket, buyer, sequence); ok || err != nil {
			return id, err
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func (d *drawer) try(bucket int, buyer string, sequence func(*drawn) int) (orderid.ID, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	// A clock that is set back must not give out an id again.
	ms := max(d.now().UnixMilli(), d.at)
	if ms > d.at {
		d.at = ms
		clear(d.used)
	}
	n := d.used[bucket]
	if n.first+n.last == orderid.PerMilli {
		return "", false, nil
	}
	seq := sequence(&n)
	d.used[bucket] = n
	id, err := orderid.Make(time.UnixMilli(ms), seq, buyer)
	return id, err == nil, err
}

// keyedLocks are locks that exist only while somebody wants them.
type keyedLocks struct {
	mu    sync.Mutex
	locks map[string]*keyedLock
}

type keyedLock struct {
	turn  chan struct{}
	users int
}

// lock waits for key until ctx ends; free gives it back.
func (k *keyedLocks) lock(ctx context.Context, key string) (free func(), err error) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*keyedLock{}
	}
	l := k.locks[key]
	if l == nil {
		l = &keyedLock{turn: make(chan struct{}, 1)}
		k.locks[key] = l
	}
	l.users++
	k.mu.Unlock()
	select {
	case l.turn <- struct{}{}:
		return func() { <-l.turn; k.leave(key, l) }, nil
	case <-ctx.Done():
		k.leave(key, l)
		return nil, ctx.Err()
	}
}

func (k *keyedLocks) leave(key string, l *keyedLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(k.locks, key)
	}
}
