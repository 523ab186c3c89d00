package redisviews_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"cartwright/infra/redisviews"
	"cartwright/projections"
)

// A process is a view that reaches Redis over a link of its own.
type process struct {
	*redisviews.Buyers
	link *link
	said *logbook
}

// starts starts a process on a server. It ends with the test, or earlier.
func starts(t *testing.T, addr string, x redisviews.Index, cfg redisviews.BuyersConfig) process {
	t.Helper()
	p := process{link: newLink(t, addr), said: &logbook{}}
	settings := place{quiet(p.link.addr())}.in(t.Name())
	settings.Log = p.said.log()
	cfg.Index = x
	p.Buyers = viewed(t, opened(t, settings), cfg)
	return p
}

func TestARedisThatIsAwayIsReadAround(t *testing.T) {
	t.Parallel()
	m, x := newMini(t), newIndex()
	p := starts(t, m.Addr(), x, redisviews.BuyersConfig{})
	d := order(t, "ann", 1, "paid")
	put(t, both{x, p.Live()}, d)
	x.park(projections.Parked{Stream: d.Stream, Revision: 3, Count: 1})
	p.link.become(cut)
	at(t, p.Buyers, d.Stream, d.Revision)
	listed(t, p.Buyers, "ann", 5, d)
	if revisions, err := p.Revisions(t.Context(), []string{d.Stream}); err != nil || revisions[d.Stream] != d.Revision {
		t.Errorf("revisions: %v, %v", revisions, err)
	}
	if parked, err := p.Parked(t.Context(), []string{d.Stream}); err != nil || parked[d.Stream].View != "buyers" {
		t.Errorf("parked: %v, %v", parked, err)
	}
	if !p.said.has("redis does not answer") {
		t.Error("the log does not say so")
	}
}

// Others may owe what they could not write, and have not heard yet that Redis is
// back.
func TestAReaderLeavesTheCacheAloneForAWhile(t *testing.T) {
	t.Parallel()
	m, x := newMini(t), newIndex()
	m.new.Store(true)
	p := starts(t, m.Addr(), x, redisviews.BuyersConfig{Settle: 300 * time.Millisecond})
	d := order(t, "ann", 1, "")
	put(t, both{x, p.Live()}, d)
	for _, when := range []string{"after its start", "after an outage"} {
		gets := x.times("get")
		at(t, p.Buyers, d.Stream, d.Revision)
		if x.times("get") == gets {
			t.Errorf("%s the cache was trusted at once", when)
		}
		m.new.Store(false)
		eventually(t, "the cache is trusted", func() bool {
			gets := x.times("get")
			at(t, p.Buyers, d.Stream, d.Revision)
			return x.times("get") == gets
		})
		p.link.become(cut)
		at(t, p.Buyers, d.Stream, d.Revision)
		p.link.become(up)
	}
}

func TestAProcessStartsToReadWithoutRedis(t *testing.T) {
	t.Parallel()
	m, x := newMini(t), newIndex()
	d := order(t, "ann", 1, "paid")
	x.put(d)
	addr := m.Addr()
	m.Close()
	p := starts(t, addr, x, redisviews.BuyersConfig{Beat: 10 * time.Millisecond})
	at(t, p.Buyers, d.Stream, d.Revision)
	listed(t, p.Buyers, "ann", 5, d)
	if p.Live().Number() != 0 {
		t.Errorf("generation %d is live", p.Live().Number())
	}
	if err := m.StartAddr(addr); err != nil {
		t.Fatal(err)
	}
	m.answerInfo()
	eventually(t, "the cache is used", func() bool {
		asked := x.times("orders")
		listed(t, p.Buyers, "ann", 5, d)
		return x.times("orders") == asked
	})
}

func TestAWriterMustHaveSignedBeforeHeWrites(t *testing.T) {
	t.Parallel()
	m, x := newMini(t), newIndex()
	p := starts(t, m.Addr(), x, redisviews.BuyersConfig{})
	p.link.become(cut)
	d := order(t, "ann", 1, "")
	for name, err := range map[string]error{
		"enlist": p.Enlist(t.Context()),
		"put":    p.Live().Put(t.Context(), []doc{d}),
		"park":   p.Live().Park(t.Context(), []projections.Parked{{Stream: d.Stream}}),
		"build":  second(p.Build(t.Context())),
		"get":    second(p.Live().Get(t.Context(), []string{d.Stream})),
	} {
		if !errors.Is(err, projections.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p.link.become(up)
	eventually(t, "a writer can sign", func() bool { return p.Enlist(t.Context()) == nil })
	put(t, both{x, p.Live()}, d)
}

func second[T any](_ T, err error) error { return err }

// An outage has one process cut off while another goes on.
func outage(t *testing.T, cfg redisviews.BuyersConfig, during func(cutOff, other process, x *index, first doc)) (cutOff, other process, x *index) {
	t.Helper()
	m := newMini(t)
	x = newIndex()
	cutOff, other = starts(t, m.Addr(), x, cfg), starts(t, m.Addr(), x, cfg)
	first := order(t, "ann", 1, "")
	put(t, both{x, cutOff.Live()}, first)
	listed(t, other.Buyers, "ann", 5, first)
	cutOff.link.become(cut)
	during(cutOff, other, x, first)
	cutOff.link.become(up)
	return cutOff, other, x
}

func TestWhatWasNotWrittenIsPaidWhenRedisIsBack(t *testing.T) {
	t.Parallel()
	paid, more := order(t, "ann", 1, "paid"), order(t, "ann", 2, "")
	_, other, _ := outage(t, redisviews.BuyersConfig{}, func(cutOff, other process, x *index, first doc) {
		put(t, both{x, cutOff.Live()}, paid, more)
		at(t, cutOff.Buyers, first.Stream, paid.Revision) // he knows
		listed(t, cutOff.Buyers, "ann", 5, more, paid)
		at(t, other.Buyers, first.Stream, first.Revision) // who can't know yet
	})
	number := other.Live().Number()
	eventually(t, "the other reads what was written", func() bool {
		page, err := other.Newest(t.Context(), "ann", 5, nil)
		return err == nil && len(page.Items) == 2 && page.Items[1].Revision == paid.Revision
	})
	if other.Live().Number() != number {
		t.Error("the whole cache was thrown away")
	}
}

func TestAWriterPaysBeforeHeWrites(t *testing.T) {
	t.Parallel()
	more, third := order(t, "ann", 2, ""), order(t, "bob", 3, "")
	cutOff, other, x := outage(t, redisviews.BuyersConfig{Beat: time.Hour}, func(cutOff, _ process, x *index, _ doc) {
		put(t, both{x, cutOff.Live()}, more)
	})
	for deadline := time.Now().Add(20 * time.Second); ; {
		put(t, cutOff.Live(), third)
		got, err := other.Get(t.Context(), []string{third.Stream})
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("it was never written: %v", err)
		}
		if len(got) > 0 { // the index does not have it
			break
		}
	}
	x.put(third)
	listed(t, other.Buyers, "ann", 5, more, order(t, "ann", 1, ""))
}

func TestWhoClosesPaysFirst(t *testing.T) {
	t.Parallel()
	more := order(t, "ann", 2, "")
	var number int
	cutOff, other, _ := outage(t, redisviews.BuyersConfig{Beat: time.Hour, Late: 100 * time.Millisecond}, func(cutOff, other process, x *index, _ doc) {
		put(t, both{x, cutOff.Live()}, more)
		number = other.Live().Number()
	})
	eventually(t, "redis is asked again", func() bool {
		return !cutOff.said.has("redis does not answer") || second(cutOff.Live().Count(t.Context())) == nil
	})
	if err := cutOff.Close(); err != nil {
		t.Fatal(err)
	}
	if !cutOff.said.has("goodbye") {
		listed(t, other.Buyers, "ann", 5, more, order(t, "ann", 1, ""))
	}
	if cutOff.said.has("goodbye") || other.Live().Number() != number {
		t.Error("he left without a goodbye")
	}
}

func TestWhatWasNotParkedIsPaidToo(t *testing.T) {
	t.Parallel()
	record := projections.Parked{View: "buyers", Stream: order(t, "ann", 1, "").Stream, Revision: 2, Reason: "so", Count: 1}
	_, other, _ := outage(t, redisviews.BuyersConfig{}, func(cutOff, _ process, x *index, _ doc) {
		x.park(record)
		if err := cutOff.Live().Park(t.Context(), []projections.Parked{record}); err != nil {
			t.Errorf("park: %v", err)
		}
		if parked, err := cutOff.Live().Parked(t.Context(), []string{record.Stream}); err != nil || len(parked) != 1 {
			t.Errorf("parked: %v, %v", parked, err)
		}
	})
	eventually(t, "the other sees it parked", func() bool {
		parked, err := other.Parked(t.Context(), []string{record.Stream})
		return err == nil && parked[record.Stream] == record
	})
}

// He finds in the index what he was about to write, and puts nothing.
func TestAWriterOwesWhatHeReadFromTheIndex(t *testing.T) {
	t.Parallel()
	paid := order(t, "ann", 1, "paid")
	_, other, _ := outage(t, redisviews.BuyersConfig{}, func(cutOff, _ process, x *index, _ doc) {
		x.put(paid)
		got, err := cutOff.Live().Get(t.Context(), []string{paid.Stream})
		if err != nil || got[paid.Stream].Revision != paid.Revision {
			t.Errorf("a writer gets %v, %v", got, err)
		}
	})
	eventually(t, "the other reads it, too", func() bool {
		got, err := other.Get(t.Context(), []string{paid.Stream})
		return err == nil && got[paid.Stream].Revision == paid.Revision
	})
}

func TestWhoOwesTooMuchBeginsAnew(t *testing.T) {
	t.Parallel()
	var many []doc
	for i := range 20 {
		many = append(many, order(t, "ann", i, "paid"))
	}
	var number int
	_, other, _ := outage(t, redisviews.BuyersConfig{Owed: 10}, func(cutOff, other process, x *index, _ doc) {
		number = other.Live().Number()
		put(t, both{x, cutOff.Live()}, many...)
		put(t, both{x, cutOff.Live()}, many[:1]...)
	})
	eventually(t, "the other reads them", func() bool {
		page, err := other.Newest(t.Context(), "ann", 50, nil)
		return err == nil && len(page.Items) == len(many)
	})
	if other.Live().Number() == number {
		t.Error("the old generation is still live")
	}
}

func TestAWriterThatDiedTakesTheCacheWithHim(t *testing.T) {
	t.Parallel()
	m, x := newMini(t), newIndex()
	cfg := redisviews.BuyersConfig{Beat: 20 * time.Millisecond, Late: 500 * time.Millisecond}
	reader := starts(t, m.Addr(), x, cfg)
	first, more := order(t, "ann", 1, ""), order(t, "ann", 2, "")
	died := starts(t, m.Addr(), x, cfg)
	put(t, both{x, died.Live()}, first)
	listed(t, reader.Buyers, "ann", 5, first)
	died.link.become(cut)
	put(t, both{x, died.Live()}, more)
	if err := died.Close(); err != nil { // without a goodbye
		t.Fatal(err)
	}
	eventually(t, "the reader reads what the dead one wrote", func() bool {
		page, err := reader.Newest(t.Context(), "ann", 5, nil)
		return err == nil && len(page.Items) == 2
	})
	eventually(t, "the logs say so", func() bool { // a moment after it is so
		return died.said.has("without a goodbye") && reader.said.has("a writer has died")
	})
}

func TestWhoStartsAfterADeathBeginsAnew(t *testing.T) {
	t.Parallel()
	m, x := newMini(t), newIndex()
	cfg := redisviews.BuyersConfig{Beat: time.Hour}
	died := starts(t, m.Addr(), x, cfg)
	first, paid := order(t, "ann", 1, ""), order(t, "ann", 1, "paid")
	put(t, both{x, died.Live()}, first)
	died.link.become(cut)
	put(t, both{x, died.Live()}, paid)
	m.SetTime(time.Now().Add(time.Minute))
	next := starts(t, m.Addr(), x, cfg)
	at(t, next.Buyers, first.Stream, paid.Revision)
}

func TestAGoodbyeLeavesTheCacheAsItIs(t *testing.T) {
	t.Parallel()
	m, x := newMini(t), newIndex()
	cfg := redisviews.BuyersConfig{Beat: 20 * time.Millisecond, Late: 100 * time.Millisecond}
	reader := starts(t, m.Addr(), x, cfg)
	leaves := starts(t, m.Addr(), x, cfg)
	d := order(t, "ann", 1, "")
	put(t, both{x, leaves.Live()}, d)
	number := reader.Live().Number()
	if err := leaves.Close(); err != nil {
		t.Fatal(err)
	}
	late := time.After(400 * time.Millisecond)
	for over := false; !over; {
		select {
		case <-late:
			over = true
		default:
			at(t, reader.Buyers, d.Stream, d.Revision)
		}
	}
	if reader.Live().Number() != number || reader.said.has("anew") {
		t.Error("the cache was thrown away")
	}
}

func TestAWriterWhoWasTakenForDeadGoesOn(t *testing.T) {
	t.Parallel()
	m, x := newMini(t), newIndex()
	cfg := redisviews.BuyersConfig{Beat: 20 * time.Millisecond, Late: 300 * time.Millisecond}
	reader, paused := starts(t, m.Addr(), x, cfg), starts(t, m.Addr(), x, cfg)
	first, more := order(t, "ann", 1, ""), order(t, "ann", 2, "")
	put(t, both{x, paused.Live()}, first)
	number := reader.Live().Number()
	paused.link.become(cut)
	eventually(t, "he is taken for dead", func() bool { return reader.Live().Number() != number })
	listed(t, reader.Buyers, "ann", 5, first)
	put(t, both{x, paused.Live()}, more)
	paused.link.become(up)
	eventually(t, "the reader reads what he writes", func() bool {
		page, err := reader.Newest(t.Context(), "ann", 5, nil)
		return err == nil && len(page.Items) == 2
	})
	eventually(t, "he writes where the reader reads", func() bool {
		put(t, both{x, paused.Live()}, order(t, "ann", 1, "paid"))
		got, err := paused.Live().Get(t.Context(), []string{first.Stream})
		return err == nil && got[first.Stream].Revision > first.Revision && paused.Live().Number() == reader.Live().Number()
	})
}

func TestAServerThatComesBackWithOlderDataIsTakenForFlushed(t *testing.T) {
	t.Parallel()
	m, x := newMini(t), newIndex()
	writer := starts(t, m.Addr(), x, redisviews.BuyersConfig{})
	reader := starts(t, m.Addr(), x, redisviews.BuyersConfig{})
	first, paid, more := order(t, "ann", 1, ""), order(t, "ann", 1, "paid"), order(t, "ann", 2, "")
	put(t, both{x, writer.Live()}, first)
	listed(t, reader.Buyers, "ann", 5, first)
	saved := map[string]map[string]string{}
	for _, key := range m.Keys() {
		if strings.Contains(key, "}d:") {
			saved[key] = map[string]string{"r": m.HGet(key, "r"), "d": m.HGet(key, "d")}
		}
	}
	put(t, both{x, writer.Live()}, paid, more)
	number := reader.Live().Number()
	// It comes back as it was before, as another run of itself.
	m.become("second")
	for key, fields := range saved {
		m.HSet(key, "r", fields["r"], "d", fields["d"])
	}
	writer.link.become(cut)
	reader.link.become(cut)
	writer.link.become(up)
	reader.link.become(up)
	at(t, reader.Buyers, first.Stream, paid.Revision)
	listed(t, reader.Buyers, "ann", 5, more, paid)
	put(t, both{x, writer.Live()}, order(t, "ann", 3, ""))
	listed(t, reader.Buyers, "ann", 1, order(t, "ann", 3, ""))
	if reader.Live().Number() == number {
		t.Error("the old generation is still live")
	}
}

func TestAServerThatDoesNotSayWhoItIsIsNotUsed(t *testing.T) {
	t.Parallel()
	m, x := newMini(t), newIndex()
	m.Server().SetPreHook(nil)
	p := starts(t, m.Addr(), x, redisviews.BuyersConfig{})
	d := order(t, "ann", 1, "")
	x.put(d)
	at(t, p.Buyers, d.Stream, d.Revision)
	listed(t, p.Buyers, "ann", 5, d)
	if len(m.Keys()) > 0 || !p.said.has("not used") {
		t.Errorf("it was written to: %v", m.Keys())
	}
}

func TestADeadRedisCostsNoTime(t *testing.T) {
	t.Parallel()
	m, x := newMini(t), newIndex()
	l := newLink(t, m.Addr())
	cfg := redisviews.Config{Addrs: []string{l.addr()}, Timeout: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
	p := viewed(t, opened(t, cfg), redisviews.BuyersConfig{Index: x})
	d := order(t, "ann", 1, "")
	put(t, both{x, p.Live()}, d)
	l.become(silent)
	begun := time.Now()
	for range 5 {
		at(t, p, d.Stream, d.Revision) // until it is noticed
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("to notice it took %v", took)
	}
	fastest := time.Hour
	for range 100 {
		begun = time.Now()
		at(t, p, d.Stream, d.Revision)
		put(t, both{x, p.Live()}, d)
		fastest = min(fastest, time.Since(begun))
	}
	if fastest > time.Millisecond {
		t.Errorf("a read and a write take %v", fastest)
	}
	l.become(up)
	eventually(t, "it is used again", func() bool {
		asked := x.times("get")
		at(t, p, d.Stream, d.Revision)
		return x.times("get") == asked
	})
}

func TestWhoEndsHisQuestionHearsThat(t *testing.T) {
	t.Parallel()
	m, x := newMini(t), newIndex()
	p := starts(t, m.Addr(), x, redisviews.BuyersConfig{})
	d := order(t, "ann", 1, "")
	put(t, both{x, p.Live()}, d)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range map[string]error{
		"get":       second(p.Get(ctx, []string{d.Stream})),
		"revisions": second(p.Revisions(ctx, []string{d.Stream})),
		"parked":    second(p.Parked(ctx, []string{d.Stream})),
		"newest":    second(p.Newest(ctx, "ann", 5, nil)),
		"put":       p.Live().Put(ctx, []doc{d}),
		"unpark":    p.Live().Unpark(ctx, []string{d.Stream}),
		"switch":    p.Switch(ctx, 1, 1),
		"count":     second(p.Live().Count(ctx)),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p.said.has("not cached") {
		t.Error("what nobody waited for any more is owed")
	}
}
