package redisviews_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cartwright/infra/redisviews"
	"cartwright/projections"
)

func TestKeys(t *testing.T) {
	m := newMini(t)
	keysKept(t, m.place().in(t.Name()), m.FastForward)
}

func keysKept(t *testing.T, cfg redisviews.Config, pass func(time.Duration)) {
	t.Helper()
	ctx, k := t.Context(), opened(t, cfg).Keys()
	if value, found, err := k.Look(ctx, "a"); err != nil || found {
		t.Errorf("look before: %q, %v, %v", value, found, err)
	}
	for i, want := range []bool{true, false} {
		standing, fresh, err := k.Remember(ctx, "a", fmt.Append(nil, i), time.Second)
		if err != nil || fresh != want || string(standing) != "0" {
			t.Errorf("remember: %q, %v, %v", standing, fresh, err)
		}
	}
	if value, found, err := k.Look(ctx, "a"); err != nil || !found || string(value) != "0" {
		t.Errorf("look: %q, %v, %v", value, found, err)
	}
	if err := errors.Join(k.Forget(ctx, "a"), k.Forget(ctx, "a")); err != nil {
		t.Errorf("forget: %v", err)
	}
	if standing, fresh, err := k.Remember(ctx, "a", nil, 20*time.Millisecond); err != nil || !fresh || len(standing) != 0 {
		t.Errorf("remember nothing: %q, %v, %v", standing, fresh, err)
	}
	if _, found, err := k.Look(ctx, "a"); err != nil || !found {
		t.Errorf("look for nothing: %v, %v", found, err)
	}
	pass(30 * time.Millisecond)
	if _, found, err := k.Look(ctx, "a"); err != nil || found {
		t.Errorf("look when it has expired: %v, %v", found, err)
	}
	if _, _, err := k.Remember(ctx, "a", nil, 0); err == nil {
		t.Error("remembered for no time at all")
	}
}

func TestOneOfManyIsFresh(t *testing.T) {
	k := opened(t, newMini(t).place().in(t.Name())).Keys()
	var fresh atomic.Int32
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			_, first, err := k.Remember(t.Context(), "a", fmt.Append(nil, i), time.Minute)
			if err != nil {
				t.Errorf("remember: %v", err)
			}
			if first {
				fresh.Add(1)
			}
		})
	}
	all.Wait()
	if fresh.Load() != 1 {
		t.Errorf("%d were the first", fresh.Load())
	}
}

// A limiter lets through what a bucket does that fills drop by drop.
func TestALimiterIsATokenBucket(t *testing.T) {
	m := newMini(t)
	db := opened(t, m.place().in(t.Name()))
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		rate, burst := rapid.SampledFrom([]float64{0.5, 1, 10, 1000}).Draw(rt, "rate"), rapid.IntRange(1, 5).Draw(rt, "burst")
		l, err := db.Limiter(fmt.Sprintf("run-%d", runs), rate, burst)
		if err != nil {
			rt.Fatal(err)
		}
		now := noon
		bucket := float64(burst)
		for range rapid.IntRange(1, 30).Draw(rt, "questions") {
			pause := time.Duration(rapid.IntRange(0, 3000).Draw(rt, "pause")) * time.Millisecond / time.Duration(max(1, rate))
			pause = pause.Truncate(time.Microsecond)
			now = now.Add(pause)
			m.SetTime(now)
			bucket = min(float64(burst), bucket+pause.Seconds()*rate)
			ok, wait, err := l.Allow(t.Context(), "key")
			if err != nil {
				rt.Fatal(err)
			}
			if near := bucket - 1; near > -1e-3 && near < 1e-3 {
				if ok {
					bucket = max(0, bucket-1)
				}
				continue // too close to tell
			}
			if ok != (bucket >= 1) {
				rt.Fatalf("let through is %v with %g in the bucket", ok, bucket)
			}
			if ok {
				bucket--
				continue
			}
			if want := (1 - bucket) / rate; wait.Seconds() < want-1e-3 || wait.Seconds() > want+1e-3 {
				rt.Fatalf("come again in %v, want %g s", wait, want)
			}
		}
	})
}

func TestALimitersKeysAreApartAndExpire(t *testing.T) {
	m := newMini(t)
	m.SetTime(noon)
	l, err := opened(t, m.place().in(t.Name())).Limiter("a", 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"x", "y"} {
		for i := range 3 {
			if ok, wait, err := l.Allow(t.Context(), key); err != nil || ok != (i < 2) || !ok && wait != time.Second {
				t.Errorf("%s %d: %v, %v, %v", key, i, ok, wait, err)
			}
		}
	}
	m.FastForward(time.Hour)
	if keys := m.Keys(); len(keys) != 0 {
		t.Errorf("keys are left: %v", keys)
	}
	for _, bad := range []struct {
		rate  float64
		burst int
	}{{0, 1}, {-1, 1}, {1, 0}} {
		if _, err := opened(t, m.place().in(t.Name())).Limiter("a", bad.rate, bad.burst); err == nil {
			t.Errorf("a limiter of %+v", bad)
		}
	}
}

func TestLocks(t *testing.T) {
	m := newMini(t)
	locksKept(t, m.place().in(t.Name()), m.FastForward)
}

func locksKept(t *testing.T, cfg redisviews.Config, pass func(time.Duration)) {
	t.Helper()
	ctx, locks := t.Context(), opened(t, cfg).Locks()
	mine, err := locks.Acquire(ctx, "a", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = locks.Acquire(ctx, "a", time.Minute); !errors.Is(err, redisviews.ErrLocked) {
		t.Errorf("taken twice: %v", err)
	}
	if err = errors.Join(mine.Extend(ctx), mine.Release(ctx)); err != nil {
		t.Errorf("extend and release: %v", err)
	}
	short, err := locks.Acquire(ctx, "a", 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	pass(60 * time.Millisecond)
	next, err := locks.Acquire(ctx, "a", time.Minute)
	if err != nil {
		t.Fatalf("take what has run out: %v", err)
	}
	if err := short.Extend(ctx); !errors.Is(err, redisviews.ErrLost) {
		t.Errorf("extend another's: %v", err)
	}
	if err := short.Release(ctx); !errors.Is(err, redisviews.ErrLost) {
		t.Errorf("release another's: %v", err)
	}
	if err := next.Release(ctx); err != nil {
		t.Errorf("release: %v", err)
	}
	if _, err := locks.Acquire(ctx, "a", 0); err == nil {
		t.Error("locked for no time at all")
	}
}

func TestALockIsHeldLongerThanItsTime(t *testing.T) {
	locks := opened(t, newMini(t).place().in(t.Name())).Locks()
	lock, err := locks.Acquire(t.Context(), "a", 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	mistake := errors.New("a mistake")
	err = lock.Hold(t.Context(), func(ctx context.Context) error {
		over := time.After(200 * time.Millisecond)
		for {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-over:
				return mistake
			case <-time.After(10 * time.Millisecond):
				if _, no := locks.Acquire(ctx, "a", time.Minute); !errors.Is(no, redisviews.ErrLocked) {
					return fmt.Errorf("another took it: %w", no)
				}
			}
		}
	})
	if !errors.Is(err, mistake) || errors.Is(err, redisviews.ErrLost) {
		t.Errorf("hold: %v", err)
	}
	if err := lock.Release(t.Context()); err != nil {
		t.Errorf("release: %v", err)
	}
}

func TestALockThatIsLostIsNoticed(t *testing.T) {
	m := newMini(t)
	for name, lose := range map[string]func(*link){
		"taken away": func(*link) { m.FlushAll() },
		"cut off":    func(l *link) { l.become(cut) },
	} {
		l := newLink(t, m.Addr())
		cfg := place{quiet(l.addr())}.in(t.Name())
		cfg.Timeout = 20 * time.Millisecond
		lock, err := opened(t, cfg).Locks().Acquire(t.Context(), "a", 100*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		err = lock.Hold(t.Context(), func(ctx context.Context) error {
			lose(l)
			<-ctx.Done()
			return context.Cause(ctx)
		})
		if !errors.Is(err, redisviews.ErrLost) {
			t.Errorf("%s: %v", name, err)
		}
		m.FlushAll()
	}
}

func TestToolsSayThatRedisIsAway(t *testing.T) {
	m := newMini(t)
	db := opened(t, redisviews.Config{Addrs: []string{m.Addr()}, Timeout: time.Second, Log: slog.New(slog.DiscardHandler)})
	if err := db.Ping(t.Context()); err != nil {
		t.Errorf("ping: %v", err)
	}
	m.Close()
	limiter, err := db.Limiter("a", 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	_, _, allow := limiter.Allow(t.Context(), "a")
	_, _, remember := db.Keys().Remember(t.Context(), "a", nil, time.Second)
	for name, err := range map[string]error{
		"ping": db.Ping(t.Context()), "allow": allow, "remember": remember,
		"lock": second(db.Locks().Acquire(t.Context(), "a", time.Second)),
	} {
		if !errors.Is(err, projections.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
