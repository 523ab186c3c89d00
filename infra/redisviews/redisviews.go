// Package redisviews keeps the view of buyers' orders in Redis, as a cache in
// front of the order index: documents by id and each buyer's newest orders. It
// also has idempotency keys, a rate limiter and locks, for which Redis is the
// only keeper. One server and Redis Cluster are used alike.
//
// # Why
//
// Redis may lose anything at any time, be away, or come back with what it had an
// hour ago; the index is the truth. Whoever writes puts a document into the index
// before he puts it here (that is the caller's promise), so every answer can be
// had there. What follows keeps the cache from answering with less than the index
// had before the question (TestAFlushedCacheNeverAnswersWithLess).
//
// A missing key is never an answer. A document is trusted, and a buyer's list is
// taken for whole, only by a mark inside its own key, so that eviction, expiry and
// FLUSHALL take the mark too. The mark is set after asking the index, and only if
// a token that was planted in the key before asking is still there. So the key has
// stood all the while: what was put before the token stood is in the index's
// answer, and what was put after it is in the key
// (TestADocumentPutWhileItIsRefilledIsNotSetBack, TestAnOrderPutWhileItsListIsFilledIsListed,
// TestWhatWasFlushedWhileItWasFilledIsNotTrusted). A key that a writer makes is
// under the same suspicion, since he may be late with an old revision of what
// another put and Redis lost: he asks the index for the revisions of the keys he
// made, once a batch (TestALateWriterDoesNotBringBackAnOldDocument). Not chosen:
// trusting whatever is there and newer, which needs a Redis that forgets nothing.
//
// Keys carry the number of their generation. Which one is live stands in one key,
// the lineage, and every exchange reads it along: an answer or a write counts only
// if the lineage was the expected one then, and is given again otherwise
// (TestWritersFollowASwitchOfAnotherProcess). While a generation is being built
// everybody writes to it too, so a switch misses nothing. To forget everything is
// to begin a new generation by compare and set; the old keys are deleted in the
// background. That is done when the lineage is gone, and when a connection meets a
// server whose run id the lineage does not know: after a restart or a failover it
// may have older data, such as another's snapshot
// (TestAServerThatComesBackWithOlderDataIsTakenForFlushed). Connections tell a
// strange server before they are used, so nothing is read from one.
//
// A cache that was lost needs no rebuild: it fills as it is read
// (TestWhateverKeyIsDeletedItsLossHealsByItself). A rebuild only spares its first
// readers the way to the index, so it is begun again rather than gone on with:
// Buyers are no projections.Resumable. What is being built ends with its process,
// and with whatever Redis forgets. Generations are told apart by the lineage they
// are of, not by their numbers alone, so one that was forgotten is not taken for
// the one that has its number now
// (TestAFlushInTheMiddleOfARebuildEndsItAndNothingElse, TestABuildThatWasForgottenIsNotMadeLive).
//
// Lists have all of a buyer's orders, so the cache knows nothing of the index's
// tiers and asks it for all of them. An order that is archived does not change,
// and stays here. That the index does not have a document is neither a reason to
// forget it nor one to trust what is here, since it may have lost sight of it
// only for now (TestWhatTheIndexLosesSightOfIsNotTrusted).
//
// Redis that fails costs a writer nothing but memory: Put and Park answer well,
// what could not be written is owed, and is paid, before anything else is
// written, by deleting it here (TestWhatWasNotWrittenIsPaidWhenRedisIsBack,
// TestAWriterPaysBeforeHeWrites). Beyond a bound everything is owed, which a new
// generation pays. Until then others may read what the cache had before. So
// readers that have seen Redis fail, or that meet a server which has just
// started, leave the cache alone for a few seconds, in which every living writer
// notices and pays (TestAReaderLeavesTheCacheAloneForAWhile).
//
// A process that ends owing would leave stale documents behind for good. So
// writers sign a register, which they keep up to date, and sign off only if they
// owe nothing; one who has not been heard of for 30 s takes the cache with him
// (TestAWriterThatDiedTakesTheCacheWithHim, TestAGoodbyeLeavesTheCacheAsItIs). For
// the same reason a process must have signed before its first write: until then
// a write fails (TestAWriterMustHaveSignedBeforeHeWrites). Not chosen: letting the
// batch fail with Redis, which would stop the index for its cache.
//
// Not covered: a writer who was cut off from a Redis that others still reach, for
// longer than 30 s, and who then ends without ever reaching it again; what he put
// into the index last may be shown as it was before until it changes again or
// expires (Keep), unless `verify --repair` finds it first.
//
// A breaker stands before Redis: while it is down, each question costs
// microseconds and goes to the index (TestADeadRedisCostsNoTime). Commands are
// small, timeouts short.
//
// INFO must be allowed to the user, for the run id. A server whose memory is
// bounded should evict what expires only (volatile-lru, with Keep set), so that
// it does not forget the register of writers.
package redisviews

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/sony/gobreaker/v2"

	"cartwright/projections"
)

// Config says which Redis, and how patient to be with it. Addrs and Log are
// needed.
type Config struct {
	Addrs     []string // of one server, or of some nodes of a cluster
	Username  string
	Password  string      `json:"-"`
	TLS       *tls.Config `json:"-"` // nil speaks plainly
	DB        int         // not with Cluster
	Cluster   bool        // Addrs are nodes of a Redis Cluster
	Namespace string      // before every key; "cartwright" if empty

	Keep    time.Duration // documents and lists expire so long after they were last written; never if 0
	Timeout time.Duration // of one exchange; 300 ms if 0
	Pool    int           // connections to one server at most; 32 if 0
	Log     *slog.Logger
}

// String leaves out what is secret.
func (c Config) String() string { return "redis at " + strings.Join(c.Addrs, ",") }

const (
	defaultTimeout = 300 * time.Millisecond
	defaultPool    = 32
	dialTimeout    = time.Second
	connLifetime   = time.Minute // then it is made again, should its server have been replaced

	tripAfter = 3           // failures in a row, and Redis counts as down
	tripFor   = time.Second // until it is asked again
)

// A DB is a Redis server or cluster. Its methods may be called concurrently,
// Close last.
type DB struct {
	cfg     Config
	client  redis.UniversalClient
	breaker *gobreaker.CircuitBreaker[struct{}]
}

// namespaces have nothing in them that means something in a pattern or a slot.
var namespaces = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// Open makes a DB. It reaches for no server: one that is away must not keep a
// process from starting that only reads. Ping does.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	if cfg.Namespace == "" {
		cfg.Namespace = "cartwright"
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Pool <= 0 {
		cfg.Pool = defaultPool
	}
	if err := errors.Join(cfg.check(), ctx.Err()); err != nil {
		return nil, fmt.Errorf("open %s: %w", cfg, err)
	}
	d := &DB{cfg: cfg}
	d.client = d.connect(nil)
	d.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name: "redis", Timeout: tripFor,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= tripAfter },
		IsSuccessful: answered,
		IsExcluded:   func(err error) bool { return errors.Is(err, errGivenUp) },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			switch to {
			case gobreaker.StateOpen:
				cfg.Log.Warn("redis does not answer", "addrs", cfg.Addrs)
			case gobreaker.StateClosed:
				cfg.Log.Info("redis answers again", "addrs", cfg.Addrs)
			case gobreaker.StateHalfOpen: // it is being asked
			}
		},
	})
	return d, nil
}

func (c Config) check() error {
	switch {
	case len(c.Addrs) == 0:
		return errors.New("no address is given")
	case len(c.Addrs) > 1 && !c.Cluster:
		return errors.New("several addresses are those of a cluster")
	case c.Cluster && c.DB != 0:
		return errors.New("a cluster has one database, number 0")
	case !namespaces.MatchString(c.Namespace):
		return fmt.Errorf("the namespace %q has other characters than letters, digits, dots, dashes and underscores", c.Namespace)
	case c.Log == nil:
		return errors.New("no log is given")
	}
	return nil
}

// Silence keeps the client library from writing to stderr on its own, which it
// does for the whole process. Outages are in the log that Config names.
func Silence() { redis.SetLogger(silent{}) }

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// connect makes a client that lets met look at each new connection.
func (d *DB) connect(met func(context.Context, *redis.Conn) error) redis.UniversalClient {
	return redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs: d.cfg.Addrs, Username: d.cfg.Username, Password: d.cfg.Password,
		TLSConfig: d.cfg.TLS, DB: d.cfg.DB, IsClusterMode: d.cfg.Cluster,
		DialTimeout: dialTimeout, DialerRetries: 1, ReadTimeout: d.cfg.Timeout, WriteTimeout: d.cfg.Timeout, PoolTimeout: d.cfg.Timeout,
		ContextTimeoutEnabled: true, MaxRetries: 1, MinRetryBackoff: time.Millisecond, MaxRetryBackoff: 10 * time.Millisecond,
		PoolSize: d.cfg.Pool, MaxActiveConns: d.cfg.Pool, PipelinePoolSize: -1, ConnMaxLifetime: connLifetime, ConnMaxLifetimeJitter: connLifetime / 4,
		OnConnect: met, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// Ping asks whether Redis answers, past the breaker.
func (d *DB) Ping(ctx context.Context) error {
	if err := d.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("ping %s: %w", d.cfg, fault(ctx, err))
	}
	return nil
}

// Close ends the connections.
func (d *DB) Close() error {
	if err := d.client.Close(); err != nil {
		return fmt.Errorf("close %s: %w", d.cfg, err)
	}
	return nil
}

// errGivenUp is why an exchange failed whose caller had no more time for it.
var errGivenUp = errors.New("the caller has given up")

// try runs one exchange with Redis, bounded in time, unless Redis is known to be
// down.
func (d *DB) try(ctx context.Context, exchange func(context.Context) error) error {
	_, err := d.breaker.Execute(func() (struct{}, error) {
		bounded, cancel := context.WithTimeout(ctx, 2*d.cfg.Timeout)
		defer cancel()
		err := exchange(bounded)
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", errGivenUp, err)
		}
		return struct{}{}, err
	})
	return fault(ctx, err)
}

// run runs one script on keys of one slot.
func (d *DB) run(ctx context.Context, script *redis.Script, keys []string, args ...any) (result any, err error) {
	err = d.try(ctx, func(ctx context.Context) error {
		result, err = script.Run(ctx, d.client, keys, args...).Result()
		return err
	})
	return result, err
}

// fault says of an error what the caller must know: that his own time is over,
// or that Redis is not available.
func fault(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ended := ctx.Err(); ended != nil {
		return fmt.Errorf("%w: %w", ended, err)
	}
	if errors.Is(err, errMoved) || errors.Is(err, errStranger) || !away(err) && !redis.IsOOMError(err) {
		return err
	}
	return fmt.Errorf("%w: %w", projections.ErrUnavailable, err)
}

// away tells an error of a server that can't be reached or serves nobody now
// from a server's answer.
func away(err error) bool {
	if _, reply := errors.AsType[redis.Error](err); !reply {
		return true
	}
	return redis.IsLoadingError(err) || redis.IsMasterDownError(err) || redis.IsClusterDownError(err) ||
		redis.IsReadOnlyError(err) || redis.IsTryAgainError(err) || redis.IsMaxClientsError(err)
}

// answered tells the breaker whether Redis is there.
func answered(err error) bool {
	return err == nil || errors.Is(err, errMoved) || errors.Is(err, errStranger) || !away(err) && !redis.IsAuthError(err)
}

// wrap says where an error happened, if there is one.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
}
