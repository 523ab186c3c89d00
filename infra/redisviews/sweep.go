package redisviews

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	step      = 500              // keys looked at in one exchange
	sweepTime = 30 * time.Second // after that another process may sweep, too
)

// sweep deletes what generations left behind that are no more, one process at a
// time. Count is what there was to sweep when it began: if there is more by the
// end, it is done again the next time.
func (b *Buyers) sweep(ctx context.Context, count string) error {
	err := b.db.try(ctx, func(ctx context.Context) error {
		return b.db.client.SetArgs(ctx, b.shared("sweeper"), b.id, redis.SetArgs{Mode: "NX", TTL: sweepTime}).Err()
	})
	if errors.Is(err, redis.Nil) {
		return nil // another process is at it
	}
	if err != nil {
		return fmt.Errorf("sweep buyers: %w", err)
	}
	if err = b.walk(ctx, b.prefix()+"*", b.sweepSome); err == nil {
		_, err = b.db.run(ctx, deleteIfScript, []string{b.shared("sweep")}, count)
	}
	_, freed := b.db.run(ctx, deleteIfScript, []string{b.shared("sweeper")}, b.id)
	return wrap(errors.Join(err, freed), "sweep buyers")
}

// sweepSome deletes those keys whose generation is no more. They were found
// before the lineage is read: a generation stands there before its first key,
// and never comes back. As sweeping may take long, it gives signs of life.
func (b *Buyers) sweepSome(ctx context.Context, c *redis.Client, keys []string) error {
	said, err := b.listen(ctx, b.enlisted.Load())
	if err != nil || said.raw == "" { // the next lineage has it swept
		return err
	}
	l, err := readLineage(said.raw)
	if err != nil {
		return err
	}
	kept := map[string]bool{}
	for _, number := range l.all() {
		kept[l.name(number)] = true
	}
	if err = b.db.client.PExpire(ctx, b.shared("sweeper"), sweepTime).Err(); err != nil {
		return err
	}
	_, err = c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, key := range keys {
			if !kept[b.generationOf(key)] {
				p.Unlink(ctx, key)
			}
		}
		return nil
	})
	return err
}

// walk looks at all keys that a pattern finds, in small steps, some of them
// twice. In a cluster several servers are walked through at once.
func (b *Buyers) walk(ctx context.Context, pattern string, look func(context.Context, *redis.Client, []string) error) error {
	err := everywhere(ctx, b.db.client, func(ctx context.Context, c *redis.Client) error {
		for cursor := uint64(0); ; {
			keys, next, err := c.Scan(ctx, cursor, pattern, step).Result()
			if err == nil && len(keys) > 0 {
				err = look(ctx, c, keys)
			}
			if cursor = next; err != nil || cursor == 0 {
				return err
			}
		}
	})
	return fault(ctx, wrap(err, "walk through %s", strings.TrimSuffix(pattern, "*")))
}
