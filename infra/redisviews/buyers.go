package redisviews

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"cartwright/domain/event"
	"cartwright/projections"
)

// An Index has the truth behind the cache: what was put into it before it was
// asked is in its answers, whoever put it; in lists after some time at the
// latest. Where it has tiers, it answers for all of them, and what moves from one
// to another is in every answer meanwhile, once. Its methods may be called
// concurrently.
type Index interface {
	Get(ctx context.Context, streams []string) (map[string]projections.Doc[projections.Order], error)
	Revisions(ctx context.Context, streams []string) (map[string]event.Revision, error)
	Parked(ctx context.Context, streams []string) (map[string]projections.Parked, error)
	Orders(ctx context.Context, q projections.OrderQuery) (projections.OrderPage, error)
}

// BuyersConfig says what the view stands on. Only Index is needed.
type BuyersConfig struct {
	Index Index

	// Lag is the longest that the index's lists may be behind its documents; 0 if
	// they never are. Lists read so soon after are not kept.
	Lag time.Duration

	// Stored gives the revisions of the index's documents, in its lists or not, in
	// whichever tier. It is asked for new documents once a batch. Nil is
	// Index.Revisions.
	Stored func(ctx context.Context, streams []string) (map[string]event.Revision, error)

	Newest int           // how many orders of a buyer are listed here; 200 if 0
	Beat   time.Duration // between two signs of life; 5 s if 0
	Late   time.Duration // a writer who gave none for so long is dead; 30 s if 0
	Owed   int           // streams a writer remembers that he could not write; 10,000 if 0

	// Settle is how long readers leave the cache alone after a server's start, or
	// after they saw one fail; 3 s if 0. By then every living writer has noticed
	// that Redis is back, and has paid.
	Settle time.Duration
}

const (
	defaultNewest = 200
	defaultBeat   = 5 * time.Second
	defaultLate   = 30 * time.Second
	defaultOwed   = 10_000
	defaultSettle = 3 * time.Second

	attempts = 10               // to do something between two changes of the lineage
	brief    = 10 * time.Second // what a document's key lives that has a token only
	while    = 10 * time.Minute // what a list's does, which more is asked of
	pipe     = 250              // documents in one exchange
)

// Buyers are the documents of orders, and each buyer's newest. Reading from it
// reads what is live, from the index where the cache does not have it. Its
// methods may be called concurrently, Close last.
type Buyers struct {
	db    *DB
	cfg   BuyersConfig
	id    string // of this process as a writer
	cache cache

	seen     atomic.Pointer[lineage] // nil if there is none, as far as is known
	changing sync.Mutex              // one question for the lineage, or change of it, at a time
	meeting  sync.Mutex              // guards what follows
	met      []string                // servers that were strange and were seen to
	retired  []redis.UniversalClient // that are to be closed

	doubted atomic.Pointer[time.Time] // when there was last a reason to doubt the cache
	strayed atomic.Bool               // something may have been written to a generation after it was swept

	enlisted atomic.Bool // this process stands in the register of writers
	paying   sync.Mutex  // one payment at a time
	debts    debts
	builds   builds // generations that end with this process

	closed atomic.Bool
	wake   chan struct{} // there is something to pay
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// NewBuyers opens the view. It does not wait for Redis: as long as that is
// away, reading reads the index.
func NewBuyers(ctx context.Context, db *DB, cfg BuyersConfig) (*Buyers, error) {
	if cfg.Index == nil {
		return nil, errors.New("open view buyers: there is no index behind it")
	}
	if cfg.Stored == nil {
		cfg.Stored = cfg.Index.Revisions
	}
	if cfg.Newest <= 0 {
		cfg.Newest = defaultNewest
	}
	if cfg.Beat <= 0 {
		cfg.Beat = defaultBeat
	}
	if cfg.Late <= 0 {
		cfg.Late = defaultLate
	}
	if cfg.Owed <= 0 {
		cfg.Owed = defaultOwed
	}
	if cfg.Settle <= 0 {
		cfg.Settle = defaultSettle
	}
	b := &Buyers{db: db, cfg: cfg, id: token(), wake: make(chan struct{}, 1)}
	b.debts.most = cfg.Owed
	b.doubted.Store(new(time.Time))
	b.cache.client = db.connect(b.meet)
	if _, err := b.look(ctx); err != nil {
		if ended := ctx.Err(); ended != nil {
			return nil, errors.Join(fmt.Errorf("open view buyers: %w", ended), b.cache.now().Close())
		}
		b.doubt()
		db.cfg.Log.Warn("the cache of orders is not used yet", "err", err)
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = stop
	b.done.Go(func() { b.keepAlive(background) })
	return b, nil
}

// Get gives the live documents there are of some streams.
func (b *Buyers) Get(ctx context.Context, streams []string) (map[string]projections.Doc[projections.Order], error) {
	docs, err := b.read(ctx, streams)
	if b.elsewhere(ctx, err) {
		docs, err = b.cfg.Index.Get(ctx, streams)
	}
	return docs, wrap(err, "get %d documents of buyers", len(streams))
}

// Revisions gives the revisions of the live documents there are of some
// streams. Those it gives are in their buyers' lists by then.
func (b *Buyers) Revisions(ctx context.Context, streams []string) (map[string]event.Revision, error) {
	docs, err := b.read(ctx, streams)
	if b.elsewhere(ctx, err) {
		there, fault := b.cfg.Index.Revisions(ctx, streams)
		return there, wrap(fault, "get %d revisions of buyers", len(streams))
	}
	revisions := make(map[string]event.Revision, len(docs))
	for stream, doc := range docs {
		revisions[stream] = doc.Revision
	}
	return revisions, wrap(err, "get %d revisions of buyers", len(streams))
}

// Parked gives those of some streams that are parked in the live generation.
func (b *Buyers) Parked(ctx context.Context, streams []string) (map[string]projections.Parked, error) {
	var parked map[string]projections.Parked
	var unknown []string
	err := b.usable()
	if err == nil {
		parked, unknown, err = b.parked(ctx, live, streams)
	}
	if b.elsewhere(ctx, err) {
		parked, unknown, err = map[string]projections.Parked{}, streams, nil
	}
	if err == nil && len(unknown) > 0 {
		err = b.parkedThere(ctx, unknown, parked)
	}
	return parked, wrap(err, "look for parked streams of buyers")
}

// parkedThere adds the index's records of some streams.
func (b *Buyers) parkedThere(ctx context.Context, streams []string, to map[string]projections.Parked) error {
	records, err := b.cfg.Index.Parked(ctx, streams)
	for stream, record := range records {
		record.View = projections.BuyersView().Name
		to[stream] = record
	}
	return err
}

// An indexError is the index's own: asking it again does not help.
type indexError struct{ error }

func (e indexError) Unwrap() error { return e.error }

// elsewhere tells whether the index must answer in the cache's place.
func (b *Buyers) elsewhere(ctx context.Context, err error) bool {
	_, there := errors.AsType[indexError](err)
	return err != nil && !there && ctx.Err() == nil
}

// doubt keeps this process' readers from the cache for a while.
func (b *Buyers) doubt() {
	now := time.Now()
	b.doubted.Store(&now)
}

// usable tells readers whether to look into the cache.
func (b *Buyers) usable() error {
	if b.debts.any() {
		return errOwing
	}
	if time.Since(*b.doubted.Load()) < b.cfg.Settle {
		return errUnsettled
	}
	return nil
}

// read is get for readers.
func (b *Buyers) read(ctx context.Context, streams []string) (map[string]projections.Doc[projections.Order], error) {
	if err := b.usable(); err != nil {
		return nil, err
	}
	return b.get(ctx, streams)
}

// settled does something that counts only if the lineage stays what it is while
// it is done, and does it again otherwise.
func (b *Buyers) settled(ctx context.Context, do func(*lineage) error) error {
	for range attempts {
		l, err := b.look(ctx)
		if err != nil {
			return err
		}
		err = do(l)
		switch {
		case errors.Is(err, errStranger):
			err = b.acquaint(ctx, l)
		case errors.Is(err, errMoved):
			b.strayed.Store(true)
			err = b.relook(ctx, l)
		case errors.Is(err, errDropped): // or not there yet, when l was new
			if again := b.relook(ctx, l); again != nil || same(b.seen.Load(), l) {
				return errors.Join(err, again)
			}
			err = nil
		default:
			return err
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: %w", projections.ErrUnavailable, errMoved)
}

// exec sends one pipeline, which reads the lineage along, and takes l's being in
// force for part of its success. Fill may be called twice.
func (b *Buyers) exec(ctx context.Context, l *lineage, fill func(redis.Pipeliner)) error {
	err := b.db.try(ctx, func(ctx context.Context) error {
		err := b.send(ctx, l, fill)
		if !redis.HasErrorPrefix(err, "NOSCRIPT") {
			return err
		}
		if err := loadScripts(ctx, b.cache.now()); err != nil {
			return err
		}
		return b.send(ctx, l, fill)
	})
	if errors.Is(err, projections.ErrUnavailable) {
		b.doubt()
	}
	return err
}

func (b *Buyers) send(ctx context.Context, l *lineage, fill func(redis.Pipeliner)) error {
	pipe := b.cache.now().Pipeline()
	fill(pipe)
	now := pipe.Get(ctx, b.lineageKey())
	cmds, err := pipe.Exec(ctx)
	for _, cmd := range cmds {
		if e := cmd.Err(); e != nil && !errors.Is(e, redis.Nil) {
			return e
		}
	}
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	if now.Val() != l.raw {
		return errMoved
	}
	return nil
}

// get gives the live documents of some streams. An error of the cache's means
// that it has not been brought up to the index in all of them.
func (b *Buyers) get(ctx context.Context, streams []string) (map[string]projections.Doc[projections.Order], error) {
	docs := make(map[string]projections.Doc[projections.Order], len(streams))
	for some := range slices.Chunk(streams, pipe) {
		err := b.settled(ctx, func(l *lineage) error {
			doubtful, err := b.peek(ctx, l, l.name(l.Live), some, docs)
			if err != nil || len(doubtful) == 0 {
				return err
			}
			return b.refill(ctx, l, doubtful, docs)
		})
		if err != nil {
			return nil, err
		}
	}
	return docs, ctx.Err()
}

// peek reads documents as they stand in a generation, and tells which of the
// streams have none that is trusted.
func (b *Buyers) peek(
	ctx context.Context, l *lineage, generation string, streams []string, docs map[string]projections.Doc[projections.Order],
) (doubtful []string, err error) {
	found := make([]*redis.SliceCmd, len(streams))
	err = b.exec(ctx, l, func(p redis.Pipeliner) {
		for i, stream := range streams {
			found[i] = p.HMGet(ctx, b.docKey(generation, stream), "r", "d", "t")
		}
	})
	if err != nil {
		return nil, err
	}
	for i, stream := range streams {
		doc, trusted, there, err := decode(stream, found[i].Val())
		if err != nil {
			return nil, err
		}
		delete(docs, stream)
		if there {
			docs[stream] = doc
		}
		if !trusted {
			doubtful = append(doubtful, stream)
		}
	}
	return doubtful, nil
}

// refill brings doubtful documents up to what the index has of them.
func (b *Buyers) refill(ctx context.Context, l *lineage, doubtful []string, docs map[string]projections.Doc[projections.Order]) error {
	generation := l.name(l.Live)
	tokens, err := b.plant(ctx, l, generation, doubtful)
	if err != nil {
		return err
	}
	there, err := b.cfg.Index.Get(ctx, doubtful)
	if err != nil {
		return indexError{err}
	}
	parked := map[string]projections.Parked{}
	if err = b.parkedThere(ctx, doubtful, parked); err != nil {
		return indexError{err}
	}
	rows := make([]row, len(doubtful))
	for i, stream := range doubtful {
		if rows[i], err = encode(there[stream]); err != nil {
			return indexError{err}
		}
	}
	err = b.exec(ctx, l, func(p redis.Pipeliner) {
		for i, stream := range doubtful {
			b.fill(ctx, p, generation, stream, tokens[i], rows[i], parked)
		}
	})
	if err != nil {
		return err
	}
	for stream, doc := range there {
		if doc.Revision > docs[stream].Revision {
			docs[stream] = doc
		}
	}
	return nil
}

// plant sees to it that documents' keys have a token, and gives it.
func (b *Buyers) plant(ctx context.Context, l *lineage, generation string, streams []string) ([]string, error) {
	planted := make([]*redis.Cmd, len(streams))
	err := b.exec(ctx, l, func(p redis.Pipeliner) {
		for i, stream := range streams {
			planted[i] = p.EvalSha(ctx, plantScript.Hash(), []string{b.docKey(generation, stream)}, token(), brief.Milliseconds())
		}
	})
	tokens := make([]string, len(streams))
	for i, cmd := range planted {
		if err == nil {
			tokens[i], err = cmd.Text()
		}
	}
	return tokens, err
}

func (b *Buyers) fill(
	ctx context.Context, p redis.Pipeliner, generation, stream, token string, r row, parked map[string]projections.Parked,
) {
	record := ""
	if found, ok := parked[stream]; ok {
		record = encodeParked(found)
		p.SAdd(ctx, b.hintKey(generation), stream)
	}
	keys := b.rowKeys(ctx, p, generation, stream, r)
	p.EvalSha(ctx, fillScript.Hash(), keys, token, uint64(r.revision), r.body, record, r.entry, b.cfg.Newest, b.keep())
}

// rowKeys gives the keys of a document and of its list. A list in another slot,
// which only an order has whose id is of another's bucket, is written on its own.
func (b *Buyers) rowKeys(ctx context.Context, p redis.Pipeliner, generation, stream string, r row) []string {
	keys := []string{b.docKey(generation, stream)}
	if r.entry == "" {
		return keys
	}
	list := b.listKey(generation, r.buyer)
	if bucketOf(stream) == buyerBucket(r.buyer) {
		return append(keys, list)
	}
	p.EvalSha(ctx, fileScript.Hash(), []string{list}, r.entry, b.cfg.Newest, b.keep(), token())
	return keys
}

func (b *Buyers) keep() int64 { return b.db.cfg.Keep.Milliseconds() }

// token is one that nobody else draws.
func token() string {
	var t [8]byte
	_, _ = rand.Read(t[:]) // it never fails: crypto/rand ends the process first
	return hex.EncodeToString(t[:])
}

// A chooser says which generation is meant.
type chooser func(*lineage) (name string, err error)

func live(l *lineage) (string, error) { return l.name(l.Live), nil }

// parked gives records as they stand in a generation, and the streams of which
// nothing is known.
func (b *Buyers) parked(
	ctx context.Context, of chooser, streams []string,
) (parked map[string]projections.Parked, unknown []string, err error) {
	parked = map[string]projections.Parked{}
	for some := range slices.Chunk(streams, pipe) {
		var more []string
		err = b.settled(ctx, func(l *lineage) (err error) {
			more, err = b.peekParked(ctx, l, of, some, parked)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		unknown = append(unknown, more...)
	}
	return parked, unknown, ctx.Err()
}

func (b *Buyers) peekParked(
	ctx context.Context, l *lineage, of chooser, streams []string, parked map[string]projections.Parked,
) (unknown []string, err error) {
	generation, err := of(l)
	if err != nil {
		return nil, err
	}
	found := make([]*redis.StringCmd, len(streams))
	err = b.exec(ctx, l, func(p redis.Pipeliner) {
		for i, stream := range streams {
			found[i] = p.HGet(ctx, b.docKey(generation, stream), "p")
		}
	})
	if err != nil {
		return nil, err
	}
	for i, stream := range streams {
		record, is, err := decodeParked(stream, found[i].Val())
		switch {
		case err != nil:
			return nil, err
		case is:
			parked[stream] = record
		case errors.Is(found[i].Err(), redis.Nil):
			unknown = append(unknown, stream)
		}
	}
	return unknown, nil
}

var (
	// errOwing says that this process may have left the cache behind the index.
	errOwing = fmt.Errorf("%w: this process has yet to write what it could not write before", projections.ErrUnavailable)
	// errUnsettled says that another process may have.
	errUnsettled = fmt.Errorf("%w: others may have yet to write what they could not write before", projections.ErrUnavailable)
)
