package redisviews_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cartwright/domain/event"
	"cartwright/infra/redisviews"
	"cartwright/projections"
)

// alone is a view of a process on a Redis of the test's own.
func alone(t *testing.T) (*mini, *index, *redisviews.Buyers) {
	t.Helper()
	m, x := newMini(t), newIndex()
	return m, x, viewed(t, opened(t, m.place().in(t.Name())), redisviews.BuyersConfig{Index: x})
}

func TestWhatIsCachedIsNotAskedOfTheIndex(t *testing.T) {
	_, x, b := alone(t)
	first, second := order(t, "ann", 1, ""), order(t, "ann", 2, "paid")
	put(t, both{x, b.Live()}, first, second)
	listed(t, b, "ann", 5, second, first) // which fills the list
	gets, lists := x.times("get"), x.times("orders")
	for range 3 {
		at(t, b, first.Stream, first.Revision)
		listed(t, b, "ann", 1, second)
		if parked, err := b.Parked(t.Context(), []string{first.Stream}); err != nil || len(parked) != 0 {
			t.Errorf("parked: %v, %v", parked, err)
		}
	}
	third := order(t, "ann", 3, "")
	put(t, both{x, b.Live()}, third)
	listed(t, b, "ann", 5, third, second, first)
	if x.times("get") != gets || x.times("orders") != lists || gets != 0 {
		t.Errorf("the index was asked for %d documents and %d lists", x.times("get")-gets, x.times("orders")-lists)
	}
}

func TestAFlushedCacheFillsFromTheIndex(t *testing.T) {
	m, x, b := alone(t)
	first, second := order(t, "ann", 1, ""), order(t, "ann", 2, "paid")
	put(t, both{x, b.Live()}, first, second)
	listed(t, b, "ann", 5, second, first)
	m.FlushAll()
	at(t, b, first.Stream, first.Revision)
	listed(t, b, "ann", 5, second, first)
	listed(t, b, "ann", 5, second, first)
	gets, lists := x.times("get"), x.times("orders")
	at(t, b, first.Stream, first.Revision)
	at(t, b, second.Stream, second.Revision)
	listed(t, b, "ann", 5, second, first)
	if x.times("get") != gets || x.times("orders") != lists {
		t.Error("the index is still asked")
	}
}

func TestParkingOutlivesAFlush(t *testing.T) {
	m, x, b := alone(t)
	d := order(t, "ann", 1, "paid")
	record := projections.Parked{View: "buyers", Stream: d.Stream, Revision: 3, Reason: "it can't be", Count: 2, At: noon}
	put(t, both{x, b.Live()}, d)
	x.park(record)
	if err := b.Live().Park(t.Context(), []projections.Parked{record}); err != nil {
		t.Fatal(err)
	}
	for _, lost := range []bool{false, true} {
		if lost {
			m.FlushAll()
		}
		at(t, b, d.Stream, d.Revision)
		parked, err := b.Parked(t.Context(), []string{d.Stream})
		if err != nil || parked[d.Stream] != record {
			t.Errorf("lost is %v: parked %v, %v", lost, parked, err)
		}
	}
	all, err := b.Live().AllParked(t.Context())
	if err != nil || len(all) != 1 || all[0] != record {
		t.Errorf("all parked: %v, %v", all, err)
	}
}

// An answer of the index that is on its way when a stream is unparked must not
// park it again.
func TestAnUnparkedStreamIsNotParkedByALateAnswer(t *testing.T) {
	m, x, b := alone(t)
	d := order(t, "ann", 1, "paid")
	put(t, both{x, b.Live()}, d)
	x.park(projections.Parked{Stream: d.Stream, Revision: 3, Count: 1})
	m.FlushAll()
	x.onAnswer(func(what string) {
		if what == "parked" {
			x.onAnswer(func(string) {})
			if err := b.Live().Unpark(t.Context(), []string{d.Stream}); err != nil {
				t.Error(err)
			}
		}
	})
	at(t, b, d.Stream, d.Revision)
	if parked, err := b.Live().Parked(t.Context(), []string{d.Stream}); err != nil || len(parked) != 0 {
		t.Errorf("parked: %v, %v", parked, err)
	}
}

func TestADocumentPutWhileItIsRefilledIsNotSetBack(t *testing.T) {
	for _, lost := range []bool{false, true} {
		m, x, b := alone(t)
		old, newer := order(t, "ann", 1, ""), order(t, "ann", 1, "paid")
		put(t, both{x, b.Live()}, old)
		m.FlushAll()
		x.onAnswer(func(what string) {
			if what == "get" {
				x.onAnswer(func(string) {})
				put(t, both{x, b.Live()}, newer)
				if lost {
					evict(m, newer.Stream)
				}
			}
		})
		if _, err := b.Get(t.Context(), []string{old.Stream}); err != nil { // as it was when the question came, or newer
			t.Fatal(err)
		}
		at(t, b, old.Stream, newer.Revision)
		listed(t, b, "ann", 5, newer)
	}
}

func TestAnOrderPutWhileItsListIsFilledIsListed(t *testing.T) {
	_, x, b := alone(t)
	first, second := order(t, "ann", 1, ""), order(t, "ann", 2, "")
	x.put(first)
	x.onAnswer(func(what string) {
		if what == "orders" {
			x.onAnswer(func(string) {})
			put(t, both{x, b.Live()}, second)
		}
	})
	listed(t, b, "ann", 5, first) // as it was when the question came
	lists := x.times("orders")
	listed(t, b, "ann", 5, second, first)
	if x.times("orders") != lists {
		t.Error("the list was not kept")
	}
}

func TestWhatWasFlushedWhileItWasFilledIsNotTrusted(t *testing.T) {
	m, x, b := alone(t)
	first, second, third := order(t, "ann", 1, ""), order(t, "ann", 2, ""), order(t, "ann", 3, "")
	x.put(first)
	x.onAnswer(func(what string) {
		if what == "orders" {
			x.onAnswer(func(string) {})
			put(t, both{x, b.Live()}, second)
			evict(m, "}l:ann")
			put(t, both{x, b.Live()}, third) // which begins the list again, without the second
		}
	})
	listed(t, b, "ann", 5, first)
	listed(t, b, "ann", 5, third, second, first)
	listed(t, b, "ann", 5, third, second, first)
}

// evict takes a key away, as Redis may when its memory is full.
func evict(m *mini, part string) {
	for _, key := range m.Keys() {
		if strings.Contains(key, part) {
			m.Del(key)
		}
	}
}

func TestALateWriterDoesNotBringBackAnOldDocument(t *testing.T) {
	m, x, b := alone(t)
	late := viewed(t, opened(t, m.place().in(t.Name())), redisviews.BuyersConfig{Index: x})
	old, newer := order(t, "ann", 1, ""), order(t, "ann", 1, "shipped")
	put(t, both{x, b.Live()}, newer)
	evict(m, newer.Stream)
	put(t, both{x, late.Live()}, old)
	at(t, b, old.Stream, newer.Revision)
	listed(t, b, "ann", 5, newer)
}

func TestAReaderFindsInItsListWhatItWaitedFor(t *testing.T) {
	m, x, b := alone(t)
	reader := viewed(t, opened(t, m.place().in(t.Name())), redisviews.BuyersConfig{Index: x})
	first, second := order(t, "ann", 1, ""), order(t, "ann", 2, "")
	put(t, both{x, b.Live()}, first)
	listed(t, reader, "ann", 5, first)
	x.put(second) // which is not in the cache yet
	revisions, err := reader.Revisions(t.Context(), []string{second.Stream})
	if err != nil || revisions[second.Stream] != second.Revision {
		t.Fatalf("revisions: %v, %v", revisions, err)
	}
	listed(t, reader, "ann", 5, second, first)
}

// A laggard is an index whose lists show a document only when told.
type laggard struct {
	*index
	shown *index
}

func (l laggard) Orders(ctx context.Context, q projections.OrderQuery) (projections.OrderPage, error) {
	return l.shown.Orders(ctx, q)
}

func TestAListThatLagsIsNotTakenForWhole(t *testing.T) {
	m := newMini(t)
	now := noon
	m.SetTime(now)
	x := laggard{newIndex(), newIndex()}
	b := viewed(t, opened(t, m.place().in(t.Name())), redisviews.BuyersConfig{Index: x, Lag: time.Second})
	first, second := order(t, "ann", 1, ""), order(t, "ann", 2, "")
	put(t, both{x.index, b.Live()}, first, second)
	x.shown.put(first)
	listed(t, b, "ann", 5, second, first) // the second is known here
	m.FlushAll()
	x.shown.put(second)
	third, fourth := order(t, "ann", 3, ""), order(t, "ann", 4, "")
	put(t, both{x.index, b.Live()}, third)
	evict(m, "}l:ann")
	put(t, both{x.index, b.Live()}, fourth)
	listed(t, b, "ann", 5, fourth, second, first) // the third is nowhere for a moment
	x.shown.put(third, fourth)
	listed(t, b, "ann", 5, fourth, third, second, first)
	lists := x.shown.times("orders")
	m.SetTime(now.Add(2 * time.Second))
	for range 3 {
		listed(t, b, "ann", 5, fourth, third, second, first)
	}
	if got := x.shown.times("orders") - lists; got != 1 {
		t.Errorf("the index was asked %d times for a list that can be kept", got)
	}
	fifth := order(t, "bob", 5, "") // nobody reads this list for a while
	put(t, both{x.index, b.Live()}, fifth)
	x.shown.put(fifth)
	m.SetTime(now.Add(4 * time.Second))
	lists = x.shown.times("orders")
	for range 3 {
		listed(t, b, "bob", 5, fifth)
	}
	if got := x.shown.times("orders") - lists; got != 1 {
		t.Errorf("the index was asked %d times for a list that began long ago", got)
	}
}

func TestBeyondTheNewestTheIndexAnswers(t *testing.T) {
	m, x := newMini(t), newIndex()
	b := viewed(t, opened(t, m.place().in(t.Name())), redisviews.BuyersConfig{Index: x, Newest: 5})
	var all []doc
	for i := range 12 {
		all = append(all, order(t, "ann", i, ""))
	}
	put(t, both{x, b.Live()}, all[:3]...)
	listed(t, b, "ann", 100, reversed(all[:3])...)
	put(t, both{x, b.Live()}, all[3:]...) // the list outgrows what is kept
	lists := x.times("orders")
	listed(t, b, "ann", 4, reversed(all[8:])...)
	if x.times("orders") != lists {
		t.Error("the newest are not kept")
	}
	var got []doc
	for after := (*projections.Cursor)(nil); ; {
		page, err := b.Newest(t.Context(), "ann", 2, after)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, page.Items...)
		if after = page.Next; after == nil {
			break
		}
	}
	if !slices.EqualFunc(got, reversed(all), func(a, b doc) bool { return a.Stream == b.Stream }) {
		t.Errorf("%d orders page by page, want %d", len(got), len(all))
	}
	listed(t, b, "ann", 100, reversed(all)...)
	old := order(t, "ann", -100, "") // placed long ago, recorded now
	put(t, both{x, b.Live()}, old)
	listed(t, b, "ann", 100, reversed(append([]doc{old}, all...))...)
}

func reversed(docs []doc) []doc {
	docs = slices.Clone(docs)
	slices.Reverse(docs)
	return docs
}

// No command makes such an order, but a view shows what the log has.
func TestAnOrderWithAnIDOfAnotherBucketIsListed(t *testing.T) {
	m, x, b := alone(t)
	d := order(t, "ann", 1, "")
	d.Body.State.Buyer = "somebody else"
	listed(t, b, "somebody else", 5)
	put(t, both{x, b.Live()}, d)
	listed(t, b, "somebody else", 5, d)
	m.FlushAll()
	listed(t, b, "somebody else", 5, d)
	at(t, b, d.Stream, d.Revision)
}

func TestAListThatContradictsItsDocumentsIsThrownAway(t *testing.T) {
	_, x, b := alone(t)
	d := order(t, "ann", 1, "")
	put(t, both{x, b.Live()}, d)
	listed(t, b, "ann", 5, d)
	moved := order(t, "ann", 1, "paid")
	moved.Body.PlacedAt = noon.Add(-time.Hour)
	put(t, both{x, b.Live()}, moved)
	for range 3 {
		listed(t, b, "ann", 5, moved)
	}
}

func TestDocumentsAndListsExpire(t *testing.T) {
	m, x := newMini(t), newIndex()
	cfg := m.place().in(t.Name())
	cfg.Keep = time.Hour
	b := viewed(t, opened(t, cfg), redisviews.BuyersConfig{Index: x})
	d := order(t, "ann", 1, "")
	put(t, both{x, b.Live()}, d)
	listed(t, b, "ann", 5, d)
	m.FastForward(30 * time.Minute)
	gets, lists := x.times("get"), x.times("orders")
	at(t, b, d.Stream, d.Revision)
	listed(t, b, "ann", 5, d)
	if x.times("get") != gets || x.times("orders") != lists {
		t.Error("it expired too early")
	}
	m.FastForward(31 * time.Minute)
	at(t, b, d.Stream, d.Revision)
	listed(t, b, "ann", 5, d)
	if x.times("get") == gets || x.times("orders") == lists {
		t.Error("it never expires")
	}
}

func TestWhatIsNowhereLeavesNothingBehind(t *testing.T) {
	m, _, b := alone(t)
	at(t, b, "order-0000000000000000001", 0)
	at(t, b, "order-by-another-name", 0)
	m.FastForward(11 * time.Second)
	if slices.ContainsFunc(m.Keys(), func(key string) bool { return strings.Contains(key, "order") }) {
		t.Errorf("keys are left: %v", m.Keys())
	}
}

func TestWhatCannotBeReadIsAskedOfTheIndex(t *testing.T) {
	m, x, b := alone(t)
	d := order(t, "ann", 1, "")
	put(t, both{x, b.Live()}, d)
	for _, key := range m.Keys() {
		if strings.Contains(key, d.Stream) {
			m.HSet(key, "d", `{"state": 4711}`)
		}
	}
	at(t, b, d.Stream, d.Revision)
	got, err := b.Live().Get(t.Context(), []string{d.Stream}) // a writer has it deleted
	if err != nil || got[d.Stream].Revision != d.Revision {
		t.Errorf("a writer gets %v, %v", got, err)
	}
	gets := x.times("get")
	eventually(t, "the index is not asked any more", func() bool {
		at(t, b, d.Stream, d.Revision)
		done := x.times("get") == gets
		gets = x.times("get")
		return done
	})
}

func TestTheIndexFailsWhereOnlyItCouldAnswer(t *testing.T) {
	m, x, b := alone(t)
	first, second := order(t, "ann", 1, ""), order(t, "ann", 2, "")
	put(t, both{x, b.Live()}, first, second)
	listed(t, b, "ann", 5, second, first)
	broken := errors.New("the index is away")
	x.fail(broken)
	at(t, b, first.Stream, first.Revision)
	listed(t, b, "ann", 5, second, first)
	third := order(t, "ann", 3, "")
	put(t, b.Live(), third) // which nobody vouches for
	if _, err := b.Get(t.Context(), []string{third.Stream}); !errors.Is(err, broken) {
		t.Errorf("a document that is not trusted: %v", err)
	}
	m.FlushAll()
	if _, err := b.Get(t.Context(), []string{first.Stream}); !errors.Is(err, broken) {
		t.Errorf("get: %v", err)
	}
	if _, err := b.Newest(t.Context(), "ann", 5, nil); !errors.Is(err, broken) {
		t.Errorf("newest: %v", err)
	}
	x.fail(nil)
	x.put(third)
	listed(t, b, "ann", 5, third, second, first)
}

func TestAFlushedCacheNeverAnswersWithLess(t *testing.T) {
	m := newMini(t)
	lossy{cfg: m.place().in(t.Name()), losses: 10, strict: true, lose: func(n int) {
		if n%2 == 0 {
			m.FlushAll()
			return
		}
		for _, key := range m.Keys() {
			if rand.IntN(3) == 0 {
				m.Del(key)
			}
		}
	}}.run(t)
}

// A lossy run has writers and readers of several processes at work while the
// cache loses what it has, at least so often. If it is strict, every answer is
// compared with what was put before the question, and the last ones anyway.
type lossy struct {
	cfg    redisviews.Config
	losses int64
	strict bool
	settle time.Duration
	lose   func(n int)
}

func (l lossy) run(t *testing.T) {
	t.Helper()
	const buyers, writers, readers = 3, 3, 2
	x := newIndex()
	open := func() *redisviews.Buyers {
		return viewed(t, opened(t, l.cfg), redisviews.BuyersConfig{Index: x, Newest: 10, Beat: 50 * time.Millisecond, Settle: l.settle})
	}
	kept := &ledger{at: map[string]event.Revision{}, buyers: map[string][]string{}}
	var done atomic.Bool
	var lost atomic.Int64
	var working, reading sync.WaitGroup
	for w := range writers {
		b := open()
		if err := b.Enlist(t.Context()); err != nil {
			t.Fatal(err)
		}
		working.Go(func() {
			writeOrders(t, both{x, b.Live()}, kept, w, buyers, func(n int) bool { return n >= 20 && lost.Load() >= l.losses })
		})
	}
	for range readers {
		b := open()
		reading.Go(func() {
			for !done.Load() && !t.Failed() {
				readOrders(t, b, kept, fmt.Sprintf("buyer-%d", rand.IntN(buyers)), l.strict)
			}
		})
	}
	reading.Go(func() {
		for ; !done.Load(); lost.Add(1) {
			l.lose(int(lost.Load()))
			<-time.After(time.Duration(rand.IntN(10)) * time.Millisecond)
		}
	})
	working.Wait()
	done.Store(true)
	reading.Wait()
	b := open()
	for i := range buyers {
		buyer := fmt.Sprintf("buyer-%d", i)
		if !l.strict {
			eventually(t, "all is read that was written", func() bool { return readOrders(t, b, kept, buyer, false) })
		}
		readOrders(t, b, kept, buyer, true)
	}
}

// A ledger says what has been put for good.
type ledger struct {
	mu     sync.Mutex
	at     map[string]event.Revision
	buyers map[string][]string
}

func (l *ledger) note(d doc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.at[d.Stream] == 0 {
		l.buyers[d.Body.State.Buyer] = append(l.buyers[d.Body.State.Buyer], d.Stream)
	}
	l.at[d.Stream] = max(l.at[d.Stream], d.Revision)
}

func (l *ledger) of(buyer string) map[string]event.Revision {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string]event.Revision{}
	for _, stream := range l.buyers[buyer] {
		all[stream] = l.at[stream]
	}
	return all
}

// writeOrders puts orders and what becomes of them, until it is enough. Two
// writers share each order, and may be late.
func writeOrders(t *testing.T, to both, kept *ledger, writer, buyers int, enough func(n int) bool) {
	t.Helper()
	for n := 0; !enough(n) && !t.Failed(); n++ {
		number := n/2*10 + (writer+n)%2
		buyer := fmt.Sprintf("buyer-%d", rand.IntN(buyers))
		for _, status := range []string{"", "paid", "shipped"} {
			d := order(t, buyer, number, status)
			if err := to.Put(t.Context(), []doc{d}); err != nil {
				t.Errorf("put: %v", err)
				return
			}
			kept.note(d)
		}
		if n > 50 {
			<-time.After(20 * time.Millisecond) // lists need not grow for ever
		}
	}
}

// readOrders reads all of a buyer's orders in both ways, and tells whether that
// was all there is.
func readOrders(t *testing.T, b *redisviews.Buyers, kept *ledger, buyer string, strict bool) bool {
	t.Helper()
	want := kept.of(buyer)
	got := map[string]event.Revision{}
	for after := (*projections.Cursor)(nil); ; {
		page, err := b.Newest(t.Context(), buyer, 7, after)
		if err != nil {
			t.Errorf("newest: %v", err)
			return false
		}
		for _, d := range page.Items {
			got[d.Stream] = d.Revision
		}
		if after = page.Next; after == nil {
			break
		}
	}
	all := compare(t, "list", want, got, strict)
	want = kept.of(buyer)
	found, err := b.Get(t.Context(), slices.Collect(maps.Keys(want)))
	if err != nil {
		t.Errorf("get: %v", err)
	}
	got = map[string]event.Revision{}
	for stream, d := range found {
		got[stream] = d.Revision
	}
	return compare(t, "documents", want, got, strict) && all
}

func compare(t *testing.T, what string, want, got map[string]event.Revision, strict bool) bool {
	t.Helper()
	all := true
	for stream, revision := range want {
		if got[stream] >= revision {
			continue
		}
		if all = false; strict {
			t.Errorf("%s: %s is at %d, and was put at %d", what, stream, got[stream], revision)
		}
	}
	return all
}

func TestSettingsThatMakeNoSenseAreRefused(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, cfg := range map[string]redisviews.Config{
		"no address":        {Log: log},
		"no log":            {Addrs: []string{"localhost:1"}},
		"several servers":   {Addrs: []string{"localhost:1", "localhost:2"}, Log: log},
		"a slot in a name":  {Addrs: []string{"localhost:1"}, Namespace: "{a}", Log: log},
		"a cluster's other": {Addrs: []string{"localhost:1"}, Cluster: true, DB: 3, Log: log},
	} {
		cfg.Password = "hunter2"
		if _, err := redisviews.Open(t.Context(), cfg); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
		if text := fmt.Sprintf("%v %+v", cfg, cfg); strings.Contains(text, "hunter2") {
			t.Errorf("the settings tell their secret: %s", text)
		}
	}
	db := opened(t, quiet("localhost:1"))
	if _, err := redisviews.NewBuyers(t.Context(), db, redisviews.BuyersConfig{}); err == nil {
		t.Error("opened a view without an index")
	}
}
