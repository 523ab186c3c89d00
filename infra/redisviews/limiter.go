package redisviews

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/redis/go-redis/v9"
)

// A Limiter lets each key do something so many times a second on average, and a
// number of times at once. All processes share it, and Redis' clock. Its methods
// may be called concurrently.
type Limiter struct {
	db       *DB
	name     string
	interval float64 // microseconds
	burst    int
}

// Limiter makes one. Limiters of one name count together.
func (d *DB) Limiter(name string, perSecond float64, burst int) (*Limiter, error) {
	if !(perSecond > 0) || math.IsInf(perSecond, 1) || burst < 1 {
		return nil, fmt.Errorf("a limiter %q of %g a second, %d at once", name, perSecond, burst)
	}
	return &Limiter{d, name, 1e6 / perSecond, burst}, nil
}

// The generic cell rate algorithm: one number a key, the time at which all that
// was allowed would have been done at the average rate.
//
// KEYS key; ARGV interval burst.
var allowScript = redis.NewScript(`
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local done = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now) + interval
local wait = done - burst * interval - now
if wait > 0.5 then return {0, math.ceil(wait)} end
redis.call('SET', KEYS[1], string.format('%.3f', done), 'PX', math.ceil((done - now) / 1000))
return {1, 0}`)

// Allow counts one more for a key, or says when to come again.
func (l *Limiter) Allow(ctx context.Context, key string) (ok bool, retryAfter time.Duration, err error) {
	result, err := l.db.run(ctx, allowScript, []string{l.db.cfg.Namespace + ":limit:" + l.name + ":" + key}, l.interval, l.burst)
	if err != nil {
		return false, 0, fmt.Errorf("ask the limiter %s: %w", l.name, err)
	}
	said, _ := result.([]any)
	if len(said) != 2 {
		return false, 0, fmt.Errorf("ask the limiter %s: the answer is %v", l.name, result)
	}
	wait, _ := said[1].(int64)
	return said[0] == int64(1), time.Duration(wait) * time.Microsecond, nil
}
