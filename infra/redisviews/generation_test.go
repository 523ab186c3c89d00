package redisviews_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cartwright/domain/event"
	"cartwright/infra/redisviews"
	"cartwright/projections"
)

// two are the views of two processes on one Redis.
func two(t *testing.T) (m *mini, x *index, one, other *redisviews.Buyers) {
	t.Helper()
	m, x = newMini(t), newIndex()
	cfg := redisviews.BuyersConfig{Index: x, Beat: 20 * time.Millisecond}
	return m, x, viewed(t, opened(t, m.place().in(t.Name())), cfg), viewed(t, opened(t, m.place().in(t.Name())), cfg)
}

func build(t *testing.T, b *redisviews.Buyers) projections.Generation[projections.Order] {
	t.Helper()
	g, err := b.Build(t.Context())
	if err != nil {
		t.Fatalf("build: %v", err)
	}
	return g
}

func turn(t *testing.T, b *redisviews.Buyers, number int) {
	t.Helper()
	if err := b.Switch(t.Context(), number, 1); err != nil {
		t.Fatalf("switch: %v", err)
	}
}

func TestWritersFollowASwitchOfAnotherProcess(t *testing.T) {
	_, x, one, other := two(t)
	first, second, third := order(t, "ann", 1, ""), order(t, "ann", 2, ""), order(t, "ann", 3, "")
	put(t, both{x, other.Live()}, first)
	next := build(t, one)
	put(t, next, first)
	put(t, both{x, other.Live()}, second) // which goes to both generations
	if n, err := next.Count(t.Context()); err != nil || n != 2 {
		t.Errorf("what is being built has %d documents, %v", n, err)
	}
	turn(t, one, next.Number())
	put(t, both{x, other.Live()}, third)
	for _, b := range []*redisviews.Buyers{one, other} {
		if got := b.Live().Number(); got != next.Number() {
			t.Errorf("generation %d is live, want %d", got, next.Number())
		}
		listed(t, b, "ann", 5, third, second, first)
	}
	// What was built goes on as the live one, wherever that is by now.
	again := build(t, other)
	turn(t, other, again.Number())
	fourth := order(t, "ann", 4, "")
	put(t, both{x, next}, fourth)
	asked := x.times("get")
	at(t, one, fourth.Stream, fourth.Revision)
	if x.times("get") != asked {
		t.Error("it was written to a generation that nobody reads")
	}
}

func TestNothingIsLostAroundASwitch(t *testing.T) {
	_, x, one, other := two(t)
	kept := &ledger{at: map[string]event.Revision{}, buyers: map[string][]string{}}
	var done atomic.Bool
	var busy sync.WaitGroup
	busy.Go(func() { writeOrders(t, both{x, other.Live()}, kept, 0, 2, func(n int) bool { return n >= 30 }) })
	busy.Go(func() { writeOrders(t, both{x, one.Live()}, kept, 1, 2, func(n int) bool { return n >= 30 }) })
	var reading sync.WaitGroup
	for _, b := range []*redisviews.Buyers{one, other} {
		reading.Go(func() {
			for !done.Load() && !t.Failed() {
				readOrders(t, b, kept, "buyer-0", true)
			}
		})
	}
	for range 8 {
		next := build(t, one)
		x.mu.Lock()
		var all []doc
		for _, d := range x.docs {
			all = append(all, d)
		}
		x.mu.Unlock()
		put(t, next, all...) // as a rebuild reads the log
		turn(t, one, next.Number())
	}
	busy.Wait()
	done.Store(true)
	reading.Wait()
}

// A generation that was left is behind; everybody writes to it again as soon as
// somebody begins to bring it up to date.
func TestAReturnToThePreviousGenerationMissesNothing(t *testing.T) {
	_, x, one, other := two(t)
	first, paid, second := order(t, "ann", 1, ""), order(t, "ann", 1, "paid"), order(t, "ann", 2, "")
	put(t, both{x, one.Live()}, first)
	listed(t, one, "ann", 5, first)
	next := build(t, one)
	put(t, next, first)
	turn(t, one, next.Number())
	put(t, both{x, one.Live()}, paid) // which the one before does not get
	left := one.Kept()[0]
	put(t, left, paid)                    // as the log is read again
	put(t, both{x, other.Live()}, second) // by another process, meanwhile
	turn(t, one, left.Number())
	listed(t, one, "ann", 5, second, paid)
	listed(t, other, "ann", 5, second, paid)
}

// A question that was asked in the background may be answered after a switch.
func TestAnAnswerThatComesLateIsNotTakenForTheNewest(t *testing.T) {
	t.Parallel()
	m := newMini(t)
	p := process{link: newLink(t, m.Addr())}
	late := p.link.holdBack(`"epoch"`, 1) // the first is of the view's opening
	p.Buyers = viewed(t, opened(t, quiet(p.link.addr())), redisviews.BuyersConfig{Index: newIndex(), Beat: time.Hour})
	<-late.held
	was := p.Live().Number()
	turned := make(chan struct{})
	go func() {
		defer close(turned)
		next, err := p.Build(t.Context())
		if err == nil {
			err = p.Switch(t.Context(), next.Number(), 1)
		}
		if err != nil {
			t.Errorf("build and switch: %v", err)
		}
	}()
	select {
	case <-turned:
	case <-time.After(100 * time.Millisecond): // it waits
	}
	close(late.free)
	<-turned
	for range 50 {
		if kept := p.Kept(); len(kept) != 1 || kept[0].Number() != was || p.Live().Number() != was+1 {
			t.Fatalf("%d generations are kept and %d is live, want the one before %d", len(kept), p.Live().Number(), was+1)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func TestABuildEndsWithItsProcess(t *testing.T) {
	_, x, one, other := two(t)
	put(t, both{x, other.Live()}, order(t, "ann", 1, ""))
	next := build(t, one)
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	if err := other.Switch(t.Context(), next.Number(), 1); err == nil {
		t.Error("it was switched to")
	}
}

func TestABuildThatWasDroppedIsNotWrittenTo(t *testing.T) {
	_, _, one, other := two(t)
	next := build(t, one)
	if err := other.Drop(t.Context(), next.Number()); err != nil {
		t.Fatal(err)
	}
	if err := next.Put(t.Context(), []doc{order(t, "ann", 1, "")}); err == nil || errors.Is(err, projections.ErrUnavailable) {
		t.Errorf("put: %v", err)
	}
}

func TestABuildFailsWithRedis(t *testing.T) {
	m, x := newMini(t), newIndex()
	p := starts(t, m.Addr(), x, redisviews.BuyersConfig{})
	next := build(t, p.Buyers)
	p.link.become(cut)
	if err := next.Put(t.Context(), []doc{order(t, "ann", 1, "")}); !errors.Is(err, projections.ErrUnavailable) {
		t.Errorf("put: %v", err)
	}
	if _, err := next.Count(t.Context()); !errors.Is(err, projections.ErrUnavailable) {
		t.Errorf("count: %v", err)
	}
	p.link.become(up)
}

func TestKeysOfGenerationsThatAreGoneAreSwept(t *testing.T) {
	m, x, one, _ := two(t)
	var orders []doc
	for i := range 600 {
		orders = append(orders, order(t, "ann", i, ""))
	}
	put(t, both{x, one.Live()}, orders...)
	for range 2 {
		next := build(t, one)
		put(t, next, orders[:3]...)
		turn(t, one, next.Number())
	}
	eventually(t, "only what is live, and was before, is left", func() bool {
		n := 0
		for _, key := range m.Keys() {
			if strings.Contains(key, "}d:") {
				n++
			}
		}
		return n == 6
	})
	// A lineage that is lost leaves a whole family behind.
	evict(m, "lineage")
	put(t, both{x, one.Live()}, orders[0])
	eventually(t, "only the new generation is left", func() bool {
		n := 0
		for _, key := range m.Keys() {
			if strings.Contains(key, "}d:") {
				n++
			}
		}
		return n == 1
	})
	eventually(t, "nothing is left to do", func() bool { return !m.Exists(sharedKey(m, "sweep")) })
	at(t, one, orders[0].Stream, orders[0].Revision)
}

// sharedKey finds the key that all generations share by its last word.
func sharedKey(m *mini, word string) string {
	for _, key := range m.Keys() {
		if strings.HasSuffix(key, ":"+word) {
			return key
		}
	}
	return "none"
}

func TestALineageThatMakesNoSenseIsNotFollowed(t *testing.T) {
	m, x, b := alone(t)
	d := order(t, "ann", 1, "")
	put(t, both{x, b.Live()}, d)
	good, err := m.Get(sharedKey(m, "lineage"))
	if err != nil {
		t.Fatal(err)
	}
	m.SetString(sharedKey(m, "lineage"), "nonsense")
	paid := order(t, "ann", 1, "paid")
	put(t, both{x, b.Live()}, paid)
	at(t, b, d.Stream, paid.Revision)
	if _, err := b.Live().Count(t.Context()); err != nil {
		t.Logf("count: %v", err)
	}
	m.SetString(sharedKey(m, "lineage"), good)
	eventually(t, "what was owed is paid", func() bool {
		gets := x.times("get")
		at(t, b, d.Stream, paid.Revision)
		return x.times("get") == gets
	})
}

// SetString sets a key.
func (m *mini) SetString(key, value string) {
	if err := m.Set(key, value); err != nil {
		panic(err)
	}
}
