package redisviews

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Locks keep two processes from doing the same work at the same time, most of
// the time: one that was paused may believe for a moment that it still holds
// what has run out, and a Redis that fails over may give a lock twice. What must
// not happen twice has to be guarded where it happens. Its methods may be called
// concurrently.
type Locks struct{ db *DB }

// Locks gives them.
func (d *DB) Locks() *Locks { return &Locks{d} }

var (
	// ErrLocked says that another holds the lock.
	ErrLocked = errors.New("another holds the lock")
	// ErrLost says that the lock ran out, or that nobody can tell whether it has.
	ErrLost = errors.New("the lock is lost")
)

// A Lock is one that was taken. Only its owner can extend or release it.
type Lock struct {
	db    *DB
	name  string
	owner string
	ttl   time.Duration
	until time.Time // as far as is known without asking
}

var (
	// KEYS lock; ARGV owner ttl. Its owner may ask twice: the first answer may have
	// been lost.
	acquireScript = redis.NewScript(`
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`)

	// KEYS lock; ARGV owner ttl.
	extendScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])`)
)

// Acquire takes a lock for some time, or says ErrLocked.
func (l *Locks) Acquire(ctx context.Context, name string, ttl time.Duration) (*Lock, error) {
	if ttl < 10*time.Millisecond {
		return nil, fmt.Errorf("lock %s for %s", name, ttl)
	}
	lock := &Lock{db: l.db, name: name, owner: token(), ttl: ttl}
	err := lock.ask(ctx, acquireScript, ErrLocked)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return lock, nil
}

func (l *Lock) key() []string { return []string{l.db.cfg.Namespace + ":lock:" + l.name} }

// ask has a script set the lock's time anew; no is why it did not.
func (l *Lock) ask(ctx context.Context, script *redis.Script, no error) error {
	asked := time.Now()
	result, err := l.db.run(ctx, script, l.key(), l.owner, l.ttl.Milliseconds())
	if err != nil {
		return err
	}
	if result != int64(1) {
		return no
	}
	l.until = asked.Add(l.ttl)
	return nil
}

// Extend gives the lock its whole time again, or says ErrLost.
func (l *Lock) Extend(ctx context.Context) error {
	return wrap(l.ask(ctx, extendScript, ErrLost), "extend the lock %s", l.name)
}

// Release gives the lock back, or says ErrLost.
func (l *Lock) Release(ctx context.Context) error {
	result, err := l.db.run(ctx, deleteIfScript, l.key(), l.owner)
	if err == nil && result != int64(1) {
		err = ErrLost
	}
	return wrap(err, "release the lock %s", l.name)
}

// Hold works for as long as the lock can be kept: the context that work gets
// ends with ErrLost for a cause when it can't. It returns when work does, and
// does not release. Nobody else may use the lock meanwhile.
func (l *Lock) Hold(ctx context.Context, work func(context.Context) error) error {
	held, lose := context.WithCancelCause(ctx)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		l.keep(held, lose)
	}()
	err := work(held)
	lost := context.Cause(held)
	lose(nil)
	<-kept
	if errors.Is(lost, ErrLost) {
		return errors.Join(fmt.Errorf("hold the lock %s: %w", l.name, lost), err)
	}
	return err
}

// keep extends the lock three times in its time, until ctx ends or it is lost.
func (l *Lock) keep(ctx context.Context, lose context.CancelCauseFunc) {
	for {
		pause := time.NewTimer(min(l.ttl/3, time.Until(l.until)))
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
		left, cancel := context.WithDeadline(ctx, l.until)
		err := l.Extend(left)
		cancel()
		if ctx.Err() == nil && (errors.Is(err, ErrLost) || err != nil && !time.Now().Before(l.until)) {
			lose(errors.Join(ErrLost, err))
			return
		}
	}
}
