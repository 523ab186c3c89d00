package redisviews

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"cartwright/domain/event"
	"cartwright/projections"
)

// A Generation is one whole copy of the view. One that is live, or was when it
// was last looked at, stands for whichever is live from then on, since others
// may switch or forget it at any time. Its methods may be called concurrently.
type Generation struct {
	b      *Buyers
	number int
	epoch  string // what it is of, since numbers may come again when Redis has forgotten
	lives  atomic.Bool

	walking sync.Mutex // guards what follows
	names   []string   // what Streams goes through, in order
	named   time.Time
}

// errDropped tells who still uses a generation that it is gone.
var errDropped = errors.New("the generation was dropped")

// Live is the generation that readers see, whichever that is at the time.
func (b *Buyers) Live() *Generation {
	g := &Generation{b: b}
	g.lives.Store(true)
	return g
}

// Kept are the generations that were live before, newest first, as far as this
// process has heard.
func (b *Buyers) Kept() []projections.Generation[projections.Order] {
	l := b.seen.Load()
	if l == nil {
		return nil
	}
	kept := make([]projections.Generation[projections.Order], 0, 1+len(l.Older))
	for _, number := range l.Kept() {
		kept = append(kept, &Generation{b: b, number: number, epoch: l.Epoch})
	}
	return kept
}

// builds are the generations that a process has under construction.
type builds struct {
	mu     sync.Mutex
	epochs map[int]string // by number
}

func (u *builds) add(number int, epoch string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.epochs == nil {
		u.epochs = map[int]string{}
	}
	u.epochs[number] = epoch
}

func (u *builds) all() map[int]string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return maps.Clone(u.epochs)
}

// lost tells of a generation that was forgotten, with whatever else Redis had.
func (u *builds) lost(number int, l lineage) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	epoch, mine := u.epochs[number]
	return mine && epoch != l.Epoch
}

// Build opens a new, empty generation that nobody sees. From now on everybody
// writes to it what he writes to the live one. It ends with this process unless
// it is switched to.
func (b *Buyers) Build(ctx context.Context) (projections.Generation[projections.Order], error) {
	err := b.enlist(ctx)
	if err != nil {
		return nil, fmt.Errorf("build buyers: %w", err)
	}
	l, err := b.change(ctx, func(l lineage) (lineage, error) {
		l.Lineage = l.Begin()
		return l, nil
	})
	if err != nil {
		return nil, fmt.Errorf("build buyers: %w", err)
	}
	b.builds.add(l.Last, l.Epoch)
	return &Generation{b: b, number: l.Last, epoch: l.Epoch}, nil
}

// Switch makes a generation the live one in one step. The one that was live is
// kept, with as many older ones as make up keep; others are dropped, even those
// that are being brought up to date again.
func (b *Buyers) Switch(ctx context.Context, number, keep int) error {
	_, err := b.change(ctx, func(l lineage) (lineage, error) {
		if b.builds.lost(number, l) {
			return l, errDropped
		}
		next, dead, err := l.Turn(number, keep)
		next.Building = slices.DeleteFunc(slices.Clone(next.Building), func(n int) bool { return slices.Contains(dead, n) })
		l.Lineage = next
		return l, err
	})
	return wrap(err, "switch buyers to generation %d", number)
}

// Drop deletes a generation that is not live.
func (b *Buyers) Drop(ctx context.Context, number int) error {
	_, err := b.change(ctx, func(l lineage) (lineage, error) {
		if b.builds.lost(number, l) {
			return l, nil // which is no less gone
		}
		next, err := l.Forget(number)
		l.Lineage = next
		return l, err
	})
	return wrap(err, "drop generation %d of buyers", number)
}

// Number names the generation.
func (g *Generation) Number() int {
	l := g.b.seen.Load()
	if l != nil && g.follows(l) {
		return l.Live
	}
	return g.number
}

// follows tells whether the generation stands for the live one.
func (g *Generation) follows(l *lineage) bool {
	if g.number != 0 && g.number == l.Live && g.epoch == l.Epoch {
		g.lives.Store(true)
	}
	return g.lives.Load()
}

// name chooses what to read.
func (g *Generation) name(l *lineage) (string, error) {
	switch {
	case g.follows(l):
		return l.name(l.Live), nil
	case l.has(g.number) && g.epoch == l.Epoch:
		return l.name(g.number), nil
	}
	return "", errDropped
}

// targets are what to write to: with the live generation all that are being built.
func (g *Generation) targets(l *lineage) ([]string, error) {
	if !g.follows(l) {
		name, err := g.name(l)
		return []string{name}, err
	}
	names := []string{l.name(l.Live)}
	for _, number := range l.Building {
		names = append(names, l.name(number))
	}
	return names, nil
}

// following tells it as far as the lineage is known.
func (g *Generation) following(ctx context.Context) (bool, error) {
	if g.lives.Load() {
		return true, nil
	}
	l, err := g.b.look(ctx)
	return err == nil && g.follows(l), err
}

// Get gives the documents there are of some streams.
func (g *Generation) Get(ctx context.Context, streams []string) (map[string]projections.Doc[projections.Order], error) {
	lives, err := g.following(ctx)
	if err == nil && !lives {
		docs := make(map[string]projections.Doc[projections.Order], len(streams))
		err = g.stored(ctx, streams, docs)
		return docs, wrap(err, "get %d documents of generation %d of buyers", len(streams), g.number)
	}
	docs, err := g.b.getToWrite(ctx, streams)
	return docs, wrap(err, "get %d documents of buyers", len(streams))
}

// stored gives what a generation that is not live has.
func (g *Generation) stored(ctx context.Context, streams []string, docs map[string]projections.Doc[projections.Order]) error {
	for some := range slices.Chunk(streams, pipe) {
		err := g.b.settled(ctx, func(l *lineage) error {
			name, err := g.name(l)
			if err == nil {
				_, err = g.b.peek(ctx, l, name, some, docs)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Revisions gives the revisions of the documents there are of some streams.
func (g *Generation) Revisions(ctx context.Context, streams []string) (map[string]event.Revision, error) {
	docs, err := g.Get(ctx, streams)
	revisions := make(map[string]event.Revision, len(docs))
	for stream, doc := range docs {
		revisions[stream] = doc.Revision
	}
	return revisions, err
}

// Put stores documents, each unless one of the same or a later revision is there.
func (g *Generation) Put(ctx context.Context, docs []projections.Doc[projections.Order]) error {
	return g.put(ctx, docs, false)
}

// Repair stores documents over those of the same revision too. It is for a
// verification that found them wrong.
func (g *Generation) Repair(ctx context.Context, docs []projections.Doc[projections.Order]) error {
	return g.put(ctx, docs, true)
}

func (g *Generation) put(ctx context.Context, docs []projections.Doc[projections.Order], repair bool) error {
	docs = projections.Newest(docs)
	rows := make([]row, len(docs))
	for i, doc := range docs {
		var err error
		if rows[i], err = encode(doc); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(rows, pipe) {
		if err := g.putSome(ctx, some, repair); err != nil {
			return fmt.Errorf("put %d documents of buyers: %w", len(docs), err)
		}
	}
	return wrap(ctx.Err(), "put %d documents of buyers", len(docs))
}

func (g *Generation) putSome(ctx context.Context, rows []row, repair bool) error {
	var put made
	written, err := g.write(ctx, owedFor(rows), func(p redis.Pipeliner, l *lineage, name string) {
		if name == l.name(l.Live) {
			put = made{lineage: l, rows: rows, said: make([]*redis.Cmd, len(rows))}
		}
		for i, r := range rows {
			said := g.b.putOne(ctx, p, name, r, repair)
			if name == l.name(l.Live) {
				put.said[i] = said
			}
		}
	})
	if !written || put.lineage == nil {
		return err
	}
	g.b.trust(ctx, put)
	return nil
}

func (b *Buyers) putOne(ctx context.Context, p redis.Pipeliner, generation string, r row, repair bool) *redis.Cmd {
	keys := b.rowKeys(ctx, p, generation, r.stream, r)
	return p.EvalSha(ctx, putScript.Hash(), keys, uint64(r.revision), r.body, flag(repair), token(), b.keep(), r.entry, b.cfg.Newest)
}

// made is what putting into the live generation came to.
type made struct {
	lineage *lineage
	rows    []row
	said    []*redis.Cmd
}

// doubt is a document that is not trusted yet.
type doubt struct {
	row
	token string
	known bool // whether its stream is parked
}

func (m made) doubts() []doubt {
	var doubts []doubt
	for i, cmd := range m.said {
		said, err := cmd.Slice()
		if err != nil || len(said) < 2 {
			continue
		}
		token, _ := said[0].(string)
		doubts = append(doubts, doubt{row: m.rows[i], token: token, known: said[1] == int64(1)})
	}
	return doubts
}

// trust asks the index whether documents whose keys were made just now are the
// newest. Those it can't vouch for are asked for again by whoever reads them.
func (b *Buyers) trust(ctx context.Context, put made) {
	doubts := put.doubts()
	if len(doubts) == 0 {
		return
	}
	streams := make([]string, len(doubts))
	for i, d := range doubts {
		streams[i] = d.stream
	}
	there, err := b.cfg.Stored(ctx, streams)
	parked := map[string]projections.Parked{}
	if err == nil {
		err = b.parkedThere(ctx, streams, parked)
	}
	if err == nil {
		err = b.exec(ctx, put.lineage, func(p redis.Pipeliner) {
			for _, d := range doubts {
				b.trustOne(ctx, p, put.lineage, d, there[d.stream], parked)
			}
		})
	}
	if err != nil && !errors.Is(err, errMoved) {
		b.db.cfg.Log.DebugContext(ctx, "new documents are not trusted yet", "documents", len(doubts), "err", err)
	}
}

func (b *Buyers) trustOne(
	ctx context.Context, p redis.Pipeliner, l *lineage, d doubt, there event.Revision, parked map[string]projections.Parked,
) {
	if there == 0 {
		return // whoever put it here had put it there: the index can't see it now
	}
	record, generation := "?", l.name(l.Live)
	if !d.known {
		record = ""
		if found, ok := parked[d.stream]; ok {
			record = encodeParked(found)
			p.SAdd(ctx, b.hintKey(generation), d.stream)
		}
	}
	p.EvalSha(ctx, trustScript.Hash(), []string{b.docKey(generation, d.stream)}, d.token, uint64(there), record)
}

// Parked gives those of some streams that are parked here.
func (g *Generation) Parked(ctx context.Context, streams []string) (map[string]projections.Parked, error) {
	var parked map[string]projections.Parked
	err := g.b.pay(ctx)
	if err == nil {
		parked, _, err = g.b.parked(ctx, g.name, streams)
	}
	if g.lives.Load() && g.b.enlisted.Load() && g.b.elsewhere(ctx, err) {
		parked = map[string]projections.Parked{}
		err = g.b.parkedThere(ctx, streams, parked)
	}
	return parked, wrap(err, "look for parked streams of buyers")
}

// AllParked gives all records there are here, by stream.
func (g *Generation) AllParked(ctx context.Context) ([]projections.Parked, error) {
	var streams []string
	err := g.b.settled(ctx, func(l *lineage) error {
		name, err := g.name(l)
		if err != nil {
			return err
		}
		var hints *redis.StringSliceCmd
		err = g.b.exec(ctx, l, func(p redis.Pipeliner) { hints = p.SMembers(ctx, g.b.hintKey(name)) })
		streams = hints.Val()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list parked streams of buyers: %w", err)
	}
	parked, _, err := g.b.parked(ctx, g.name, streams)
	all := make([]projections.Parked, 0, len(parked))
	for _, record := range parked {
		all = append(all, record)
	}
	slices.SortFunc(all, func(a, b projections.Parked) int { return strings.Compare(a.Stream, b.Stream) })
	return all, wrap(err, "list parked streams of buyers")
}

// Park parks streams, or says more of those that are. Of the live generation
// only: one that is being built learns from the log.
func (g *Generation) Park(ctx context.Context, records []projections.Parked) error {
	owed := make([]owing, len(records))
	for i, record := range records {
		owed[i].stream = record.Stream
	}
	_, err := g.write(ctx, owed, func(p redis.Pipeliner, l *lineage, name string) {
		if g.lives.Load() && name != l.name(l.Live) {
			return
		}
		for _, record := range records {
			p.SAdd(ctx, g.b.hintKey(name), record.Stream)
			dropped, rest := halves(record)
			p.EvalSha(ctx, parkScript.Hash(), []string{g.b.docKey(name, record.Stream)},
				uint64(record.Revision), record.Count, dropped, rest, g.b.keep())
		}
	})
	return wrap(err, "park %d streams of buyers", len(records))
}

// Unpark forgets records.
func (g *Generation) Unpark(ctx context.Context, streams []string) error {
	owed := make([]owing, len(streams))
	for i, stream := range streams {
		owed[i].stream = stream
	}
	_, err := g.write(ctx, owed, func(p redis.Pipeliner, l *lineage, name string) {
		if g.lives.Load() && name != l.name(l.Live) {
			return
		}
		for _, stream := range streams {
			p.EvalSha(ctx, unparkScript.Hash(), []string{g.b.docKey(name, stream)}, brief.Milliseconds())
		}
	})
	return wrap(err, "unpark %d streams of buyers", len(streams))
}

// write sends something to every generation that must have it. Where that is
// the live one, what Redis does not take is owed; it is false then.
func (g *Generation) write(ctx context.Context, owed []owing, send func(redis.Pipeliner, *lineage, string)) (bool, error) {
	b := g.b
	lives, err := g.following(ctx)
	if err != nil {
		return false, err
	}
	if lives {
		if err = b.enlist(ctx); err != nil {
			return false, err
		}
		err = b.pay(ctx)
	} else {
		err = g.revive(ctx)
	}
	if err == nil {
		err = b.settled(ctx, func(l *lineage) error { return g.sendAll(ctx, l, send) })
	}
	if err == nil || !lives || ctx.Err() != nil {
		return err == nil, err
	}
	b.owe(owed, err)
	return false, nil
}

func (g *Generation) sendAll(ctx context.Context, l *lineage, send func(redis.Pipeliner, *lineage, string)) error {
	names, err := g.targets(l)
	if err != nil {
		return err
	}
	return g.b.exec(ctx, l, func(p redis.Pipeliner) {
		for _, name := range names {
			send(p, l, name)
		}
	})
}

// revive lets everybody write again to a generation that was live before, before
// it is brought up to date to be live once more.
func (g *Generation) revive(ctx context.Context) error {
	l, err := g.b.look(ctx)
	if err != nil || !g.left(*l) {
		return err
	}
	if err = g.b.enlist(ctx); err != nil {
		return err
	}
	_, err = g.b.change(ctx, func(l lineage) (lineage, error) {
		if g.left(l) {
			l.Building = append(slices.Clone(l.Building), g.number)
		}
		return l, nil
	})
	if err == nil {
		g.b.builds.add(g.number, g.epoch)
	}
	return err
}

// left tells whether the generation was live before and is written to by nobody.
func (g *Generation) left(l lineage) bool {
	return g.epoch == l.Epoch && slices.Contains(l.Kept(), g.number) && !slices.Contains(l.Building, g.number)
}

// Count is how many documents there are.
func (g *Generation) Count(ctx context.Context) (int64, error) {
	names, err := g.scan(ctx)
	return int64(len(names)), err
}

// walkFor is how long Streams goes through the names it found.
const walkFor = 10 * time.Minute

// Streams gives the next names of those that have documents, in order. Redis
// keeps none, so all are looked up when a walk begins.
func (g *Generation) Streams(ctx context.Context, after string, limit int) ([]string, error) {
	g.walking.Lock()
	defer g.walking.Unlock()
	if after == "" || time.Since(g.named) > walkFor {
		names, err := g.scan(ctx)
		if err != nil {
			return nil, err
		}
		g.names, g.named = names, time.Now()
	}
	from, found := slices.BinarySearch(g.names, after)
	if found {
		from++
	}
	rest := g.names[from:]
	if len(rest) == 0 {
		g.names = nil
		return nil, nil
	}
	return slices.Clone(rest[:min(limit, len(rest))]), nil
}

// scan finds the names of all streams that have documents, in order.
func (g *Generation) scan(ctx context.Context) ([]string, error) {
	var name string
	err := g.b.settled(ctx, func(l *lineage) (err error) {
		name, err = g.name(l)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the streams of buyers: %w", err)
	}
	var mu sync.Mutex
	var streams []string
	err = g.b.walk(ctx, g.b.docPattern(name), func(ctx context.Context, c *redis.Client, keys []string) error {
		some, fault := withDocument(ctx, c, keys)
		mu.Lock()
		defer mu.Unlock()
		streams = append(streams, some...)
		return fault
	})
	slices.Sort(streams)
	return slices.Compact(streams), wrap(err, "list the streams of buyers")
}

// withDocument gives the streams of those keys that have more than a token or a
// parking record.
func withDocument(ctx context.Context, c *redis.Client, keys []string) ([]string, error) {
	has := make([]*redis.BoolCmd, len(keys))
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, key := range keys {
			has[i] = p.HExists(ctx, key, "r")
		}
		return nil
	})
	var streams []string
	for i, key := range keys {
		if has[i].Val() {
			streams = append(streams, streamOf(key))
		}
	}
	return streams, err
}
