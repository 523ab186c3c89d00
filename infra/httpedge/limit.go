package httpedge

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"golang.org/x/time/rate"

	"cartwright/domain"
	"cartwright/infra/problem"
)

// A Limiter says whether somebody may ask once more now, and if not, when to
// come again. It may be called concurrently.
type Limiter interface {
	Allow(ctx context.Context, key string) (ok bool, retryAfter time.Duration, err error)
}

// Limits say who may ask how often.
type Limits struct {
	Log     *slog.Logger
	Limiter Limiter

	// Principal is who asks, "" for nobody known: then it is his address that
	// counts. May be nil.
	Principal func(*gin.Context) string
}

// Limit refuses those who ask too often, on the routes that are added after it.
// A limiter that fails lets everybody through: a shop that is closed because it
// can't count its visitors helps nobody (TestAFailingLimiterLetsThrough).
func Limit(l Limits) gin.HandlerFunc {
	var failing atomic.Bool
	return func(c *gin.Context) {
		ctx := c.Request.Context()
		ok, wait, err := l.Limiter.Allow(ctx, l.key(c))
		switch {
		case err != nil && ctx.Err() != nil:
			return // he has gone; what comes behind notices
		case err != nil:
			if !failing.Swap(true) {
				l.Log.WarnContext(ctx, "requests are not limited", "err", err)
			}
			return
		}
		if failing.Swap(false) {
			l.Log.InfoContext(ctx, "requests are limited again")
		}
		if !ok {
			problem.Answer(c, l.Log, &domain.Error{
				Code: domain.TooMany, Reason: "rate_limited", RetryAfter: wait,
				Detail: "This is more than one caller may ask for. Send the same request again later; a command with the same key.",
			})
		}
	}
}

// key is whom a request is counted for.
func (l Limits) key(c *gin.Context) string {
	if l.Principal != nil {
		if who := l.Principal(c); who != "" {
			return "principal:" + who
		}
	}
	return "address:" + network(c.ClientIP())
}

// network is the address, or of a long one the half that is its owner's.
func network(address string) string {
	const owned = 64
	addr, err := netip.ParseAddr(address)
	if err != nil || addr.Unmap().Is4() {
		return address
	}
	return netip.PrefixFrom(addr.WithZone(""), owned).Masked().String()
}

// Buckets are a limiter of this process alone: a token bucket for each key. Of
// keys beyond a bound those that were not used lately are forgotten, which
// fills their buckets.
type Buckets struct {
	perSecond rate.Limit
	burst     int
	keys      int

	mu         sync.Mutex
	young, old map[string]*rate.Limiter
}

// NewBuckets makes them: a key may so many times a second on average and so many
// times at once.
func NewBuckets(perSecond float64, burst, keys int) (*Buckets, error) {
	if !(perSecond > 0) || math.IsInf(perSecond, 1) || burst < 1 || keys < 1 {
		return nil, fmt.Errorf("a limiter of %g a second, %d at once, for %d keys", perSecond, burst, keys)
	}
	return &Buckets{perSecond: rate.Limit(perSecond), burst: burst, keys: keys}, nil
}

// Allow takes a token from a key's bucket.
func (b *Buckets) Allow(_ context.Context, key string) (ok bool, retryAfter time.Duration, err error) {
	now := time.Now()
	taken := b.bucket(key).ReserveN(now, 1)
	wait := taken.DelayFrom(now)
	if wait > 0 {
		taken.CancelAt(now)
	}
	return wait == 0, wait, nil
}

// bucket finds a key's. Two maps are enough for "lately": when the young one is
// full it becomes the old one, and what nobody took from there is forgotten.
func (b *Buckets) bucket(key string) *rate.Limiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	if bucket, known := b.young[key]; known {
		return bucket
	}
	bucket, known := b.old[key]
	if !known {
		bucket = rate.NewLimiter(b.perSecond, b.burst)
	}
	delete(b.old, key)
	if b.young == nil || len(b.young) >= max(1, b.keys/2) {
		b.young, b.old = map[string]*rate.Limiter{}, b.young
	}
	b.young[key] = bucket
	return bucket
}
