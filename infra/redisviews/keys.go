package redisviews

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Keys remember what was answered to a request, for some time. Redis may forget
// earlier, so nothing may rest on it: a key only spares work. Its methods may be
// called concurrently.
type Keys struct{ db *DB }

// Keys gives them.
func (d *DB) Keys() *Keys { return &Keys{d} }

// KEYS key; ARGV value ttl.
var rememberScript = redis.NewScript(`
local was = redis.call('GET', KEYS[1])
if was then return {0, was} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1, ARGV[1]}`)

func (k *Keys) key(key string) string { return k.db.cfg.Namespace + ":key:" + key }

// Remember stores a value unless there is one. It gives the one that stands, and
// whether it is this one.
func (k *Keys) Remember(ctx context.Context, key string, value []byte, ttl time.Duration) (standing []byte, fresh bool, err error) {
	if ttl < time.Millisecond {
		return nil, false, fmt.Errorf("remember a key for %s", ttl)
	}
	result, err := k.db.run(ctx, rememberScript, []string{k.key(key)}, value, ttl.Milliseconds())
	if err != nil {
		return nil, false, fmt.Errorf("remember a key: %w", err)
	}
	said, _ := result.([]any)
	if len(said) != 2 {
		return nil, false, fmt.Errorf("remember a key: the answer is %v", result)
	}
	text, _ := said[1].(string)
	return []byte(text), said[0] == int64(1), nil
}

// Look gives what stands, if anything does.
func (k *Keys) Look(ctx context.Context, key string) (value []byte, found bool, err error) {
	err = k.db.try(ctx, func(ctx context.Context) error {
		value, err = k.db.client.Get(ctx, k.key(key)).Bytes()
		return err
	})
	if errors.Is(err, redis.Nil) {
		return nil, false, nil
	}
	return value, err == nil, wrap(err, "look for a key")
}

// Forget takes a key away. It is no error if there is none.
func (k *Keys) Forget(ctx context.Context, key string) error {
	err := k.db.try(ctx, func(ctx context.Context) error { return k.db.client.Del(ctx, k.key(key)).Err() })
	return wrap(err, "forget a key")
}
