package redisviews_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"go.uber.org/goleak"

	"cartwright/domain/event"
	domainorder "cartwright/domain/order"
	"cartwright/infra/redisviews"
	"cartwright/infra/viewtest"
	"cartwright/projections"
)

func TestMain(m *testing.M) {
	redisviews.Silence()
	goleak.VerifyTestMain(m)
}

var noon = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

type (
	doc  = projections.Doc[projections.Order]
	docs = map[string]doc
)

// A place is a Redis to test on.
type place struct {
	cfg redisviews.Config
}

// in gives the settings for a namespace of its own.
func (p place) in(name string) redisviews.Config {
	cfg := p.cfg
	sum := sha256.Sum256([]byte(name))
	cfg.Namespace = "test-" + hex.EncodeToString(sum[:6])
	return cfg
}

// quiet are settings that a slow machine does not upset.
func quiet(addrs ...string) redisviews.Config {
	return redisviews.Config{Addrs: addrs, Timeout: 5 * time.Second, Log: slog.New(slog.DiscardHandler)}
}

// mini is a Redis in this process, which says which run of it this is.
type mini struct {
	*miniredis.Miniredis
	run atomic.Pointer[string]
	new atomic.Bool // it says that it has just started
}

func newMini(tb testing.TB) *mini {
	tb.Helper()
	m := &mini{Miniredis: miniredis.RunT(tb)}
	m.become("first")
	m.answerInfo()
	return m
}

// answerInfo lets a server that has just started say who it is.
func (m *mini) answerInfo() {
	m.Server().SetPreHook(func(c *server.Peer, cmd string, args ...string) bool {
		if strings.ToUpper(cmd) != "INFO" {
			return false
		}
		up := "4711"
		if m.new.Load() {
			up = "0"
		}
		c.WriteBulk("# Server\r\nredis_version:7\r\nrun_id:" + *m.run.Load() + "\r\nuptime_in_seconds:" + up + "\r\n")
		return true
	})
}

// become lets the server say that it is another one.
func (m *mini) become(run string) { m.run.Store(&run) }

func (m *mini) place() place { return place{quiet(m.Addr())} }

// opened is a DB that is closed at the end.
func opened(tb testing.TB, cfg redisviews.Config) *redisviews.DB {
	tb.Helper()
	db, err := redisviews.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return db
}

// viewed is the view of a process of its own.
func viewed(tb testing.TB, db *redisviews.DB, cfg redisviews.BuyersConfig) *redisviews.Buyers {
	tb.Helper()
	if cfg.Settle == 0 {
		cfg.Settle = time.Nanosecond
	}
	b, err := redisviews.NewBuyers(tb.Context(), db, cfg)
	if err != nil {
		tb.Fatalf("open view: %v", err)
	}
	tb.Cleanup(func() {
		if err := b.Close(); err != nil {
			tb.Errorf("close view: %v", err)
		}
	})
	return b
}

// An index is the truth, in memory. Paused is called when an answer is made up,
// before it is given.
type index struct {
	mu     sync.Mutex
	docs   docs
	parked map[string]projections.Parked
	err    error
	asked  map[string]int
	paused func(what string)
}

func newIndex() *index {
	return &index{docs: docs{}, parked: map[string]projections.Parked{}, asked: map[string]int{}, paused: func(string) {}}
}

func (x *index) answering(what string, f func()) error {
	x.mu.Lock()
	x.asked[what]++
	err := x.err
	if err == nil {
		f()
	}
	paused := x.paused
	x.mu.Unlock()
	paused(what)
	return err
}

// onAnswer sets what happens before an answer is given.
func (x *index) onAnswer(paused func(what string)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.paused = paused
}

func (x *index) fail(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.err = err
}

func (x *index) times(what string) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.asked[what]
}

func (x *index) put(some ...doc) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, d := range some {
		if d.Revision > x.docs[d.Stream].Revision {
			x.docs[d.Stream] = own(d)
		}
	}
}

// own is a document with an inside of its own, which folding may reuse.
func own(d doc) doc {
	d.Body.State = domainorder.Decider.Clone(d.Body.State)
	return d
}

// take loses sight of a document.
func (x *index) take(stream string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.docs, stream)
}

func (x *index) park(record projections.Parked) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.parked[record.Stream] = record
}

func (x *index) Get(ctx context.Context, streams []string) (docs, error) {
	found := docs{}
	err := x.answering("get", func() {
		for _, s := range streams {
			if d, ok := x.docs[s]; ok {
				found[s] = own(d)
			}
		}
	})
	return found, cmp.Or(ctx.Err(), err)
}

func (x *index) Revisions(ctx context.Context, streams []string) (map[string]event.Revision, error) {
	found := map[string]event.Revision{}
	err := x.answering("revisions", func() {
		for _, s := range streams {
			if d, ok := x.docs[s]; ok {
				found[s] = d.Revision
			}
		}
	})
	return found, cmp.Or(ctx.Err(), err)
}

func (x *index) Parked(ctx context.Context, streams []string) (map[string]projections.Parked, error) {
	found := map[string]projections.Parked{}
	err := x.answering("parked", func() {
		for _, s := range streams {
			if r, ok := x.parked[s]; ok {
				found[s] = r
			}
		}
	})
	return found, cmp.Or(ctx.Err(), err)
}

func (x *index) Orders(ctx context.Context, q projections.OrderQuery) (page projections.OrderPage, err error) {
	err = x.answering("orders", func() { page = listOf(maps.Values(x.docs), q) })
	return page, cmp.Or(ctx.Err(), err)
}

func listOf(all func(func(doc) bool), q projections.OrderQuery) (page projections.OrderPage) {
	newer := func(a, b doc) int {
		return cmp.Or(b.Body.PlacedAt.Compare(a.Body.PlacedAt), strings.Compare(b.Stream, a.Stream))
	}
	for _, d := range slices.SortedFunc(all, newer) {
		f, placed := d.Body.Facts()
		if !placed || f.Buyer != q.Buyer {
			continue
		}
		if q.After != nil && newer(d, doc{Stream: "order-" + q.After.ID, Body: projections.Order{PlacedAt: q.After.At}}) <= 0 {
			continue
		}
		if len(page.Items) == q.Limit {
			last := page.Items[q.Limit-1].Body
			page.Next = &projections.Cursor{At: last.PlacedAt, ID: last.State.ID}
			break
		}
		page.Items = append(page.Items, own(d))
	}
	return page
}

// both puts into the index first and then into the cache, as is promised.
type both struct {
	index *index
	projections.Views[projections.Order]
}

func (w both) Put(ctx context.Context, some []doc) error {
	w.index.put(some...)
	return w.Views.Put(ctx, some)
}

// order is an order of a buyer as it is when something became of it.
func order(tb testing.TB, buyer string, number int, status string) doc {
	tb.Helper()
	l := viewtest.Life{
		Number: number, Buyer: buyer, Seller: "seller", Currency: "CNY", Titles: []string{"shirt"}, Price: 100, Quantity: 2,
		Placed: noon.Add(time.Duration(number) * time.Minute),
	}
	return l.Become(status).Doc(tb)
}

func put(tb testing.TB, to interface {
	Put(ctx context.Context, docs []doc) error
}, some ...doc,
) {
	tb.Helper()
	if err := to.Put(tb.Context(), some); err != nil {
		tb.Fatalf("put: %v", err)
	}
}

// at expects a document at a revision; 0 is none.
func at(tb testing.TB, b *redisviews.Buyers, stream string, want event.Revision) {
	tb.Helper()
	found, err := b.Get(tb.Context(), []string{stream})
	if err != nil || found[stream].Revision != want {
		tb.Errorf("%s is at %d, %v, want %d", stream, found[stream].Revision, err, want)
	}
}

// listed expects a buyer's orders, newest first.
func listed(tb testing.TB, b *redisviews.Buyers, buyer string, limit int, want ...doc) {
	tb.Helper()
	page, err := b.Newest(tb.Context(), buyer, limit, nil)
	var got, wanted []string
	for _, d := range page.Items {
		got = append(got, fmt.Sprintf("%s at %d", d.Stream, d.Revision))
	}
	for _, d := range want {
		wanted = append(wanted, fmt.Sprintf("%s at %d", d.Stream, d.Revision))
	}
	if err != nil || !slices.Equal(got, wanted) {
		tb.Errorf("%s has %v, %v, want %v", buyer, got, err, wanted)
	}
}

// eventually waits for something.
func eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); {
		if time.Now().After(deadline) {
			tb.Fatalf("never: %s", what)
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-tb.Context().Done():
			tb.Fatalf("ended before: %s", what)
		}
	}
}

// A logbook is a log to look into.
type logbook struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func (l *logbook) has(text string) bool { return l.count(text) > 0 }

func (l *logbook) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.String(), text)
}

func (l *logbook) log() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
