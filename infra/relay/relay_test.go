package relay_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"cartwright/domain/event"
	"cartwright/infra/memstore"
	"cartwright/infra/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errInjected = errors.New("injected")

// Faults fail calls before or after their effect, until there have been enough.
type faults struct {
	mu   sync.Mutex
	rand *rand.Rand
	left int
}

func (f *faults) draw() (before, after bool) {
	if f == nil {
		return false, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left == 0 {
		return false, false
	}
	switch f.rand.IntN(4) {
	case 0:
		f.left--
		return true, false
	case 1:
		f.left--
		return false, true
	}
	return false, false
}

// A bus remembers what it took, and holds it to the law: no event comes before
// the one of its stream that precedes it has come.
type bus struct {
	faults *faults

	mu     sync.Mutex
	seen   map[string]event.Revision
	times  int
	broken []string
}

func newBus(f *faults) *bus { return &bus{faults: f, seen: map[string]event.Revision{}} }

func (b *bus) Publish(ctx context.Context, events []event.Recorded) error {
	before, after := b.faults.draw()
	if before {
		return errInjected
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range events {
		if after && e.Revision%2 == 0 && len(e.Stream)%2 == 0 {
			continue // some partitions failed: the rest of such a stream is missing
		}
		b.take(e, after)
	}
	if after {
		return errInjected
	}
	return ctx.Err()
}

func (b *bus) take(e event.Recorded, failing bool) {
	if e.Revision > b.seen[e.Stream]+1 {
		if !failing {
			b.broken = append(b.broken, fmt.Sprintf("%s: %d after %d", e.Stream, e.Revision, b.seen[e.Stream]))
		}
		return
	}
	b.seen[e.Stream] = max(b.seen[e.Stream], e.Revision)
	b.times++
}

func (b *bus) state() (seen map[string]event.Revision, times int, broken []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.seen), b.times, b.broken
}

// A store fails appends and reads of the log by its faults.
type store struct {
	*memstore.Store
	faults *faults

	mu      sync.Mutex
	appends int
}

func (s *store) Append(ctx context.Context, stream string, after event.Revision, events []event.Recorded) error {
	lost, unheard := s.faults.draw()
	if lost {
		return errInjected
	}
	s.mu.Lock()
	s.appends++
	s.mu.Unlock()
	err := s.Store.Append(ctx, stream, after, events)
	if unheard {
		return errInjected
	}
	return err
}

func (s *store) Follow(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Notice, error] {
	return func(yield func(event.Notice, error) bool) {
		for n, err := range s.Store.Follow(ctx, after, prefixes...) {
			if cut, _ := s.faults.draw(); cut && err == nil {
				yield(event.Notice{}, errInjected)
				return
			}
			if !yield(n, err) {
				return
			}
		}
	}
}

func (s *store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.appends
}

var prefixes = []string{"order-", "inventory-"}

func newRelay(s *store, b relay.Bus) *relay.Relay {
	return &relay.Relay{Name: "main", Source: s, Bus: b, Marks: s, Prefixes: prefixes, Batch: 7}
}

// write appends one event to a stream.
func write(tb testing.TB, s *memstore.Store, stream string, after event.Revision) {
	tb.Helper()
	e := event.Recorded{ID: uuid.NewString(), Name: "test.happened", Version: 1, Data: []byte(`{}`)}
	if err := s.Append(context.Background(), stream, after, []event.Recorded{e}); err != nil {
		tb.Fatalf("write: %v", err)
	}
}

// A running relay.
type running struct {
	cancel context.CancelFunc
	done   chan error
}

func run(ctx context.Context, r *relay.Relay) *running {
	ctx, cancel := context.WithCancel(ctx)
	p := &running{cancel, make(chan error, 1)}
	go func() { p.done <- r.Run(ctx) }()
	return p
}

func (p *running) stop(tb testing.TB) {
	tb.Helper()
	p.cancel()
	if err := <-p.done; err != nil {
		tb.Fatalf("run: %v", err)
	}
}

// await polls in the bubble's time.
func await(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	for range 100_000 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond) // the bubble's time: it passes when everybody waits
	}
	tb.Fatalf("it never came that %s", what)
}

func position(tb testing.TB, s *memstore.Store) uint64 {
	tb.Helper()
	registry, err := event.NewRegistry(relay.Types()...)
	if err != nil {
		tb.Fatal(err)
	}
	var at uint64
	for rec, err := range s.Load(context.Background(), "relay-main", 0) {
		if err != nil {
			tb.Fatal(err)
		}
		moved, err := event.Decode[relay.Moved](registry, rec)
		if err != nil {
			tb.Fatal(err)
		}
		at = moved.Position
	}
	return at
}

// A life is what happens between two starts of a relay.
type life []step

// A step is one event, and how long it is quiet then.
type step struct {
	stream string
	pause  time.Duration
}

func TestEveryEventArrivesInOrderWhateverFails(t *testing.T) {
	streams := []string{"order-1", "order-22", "inventory-a", "key-1", "relay-other", "snapshot-order-1"}
	steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			rapid.SampledFrom(streams).Draw(t, "stream"),
			rapid.SampledFrom([]time.Duration{0, 0, 0, 30 * time.Millisecond, time.Second}).Draw(t, "pause"),
		}
	}), 0, 40)
	lives := rapid.SliceOfN(rapid.Map(steps, func(s []step) life { return s }), 1, 5)
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		fail := func(what string) *faults {
			return &faults{rand: rand.New(rand.NewPCG(seed, 1)), left: rapid.IntRange(0, 30).Draw(rt, what)}
		}
		inStore, inBus, script := fail("faults in the store"), fail("faults in the bus"), lives.Draw(rt, "lives")
		synctest.Test(t, func(t *testing.T) {
			s, b := &store{Store: &memstore.Store{}, faults: inStore}, newBus(inBus)
			everythingArrives(t, s, b, script)
		})
		if t.Failed() {
			rt.FailNow()
		}
	})
}

func everythingArrives(t *testing.T, s *store, b *bus, script []life) {
	t.Helper()
	written, want := map[string]event.Revision{}, map[string]event.Revision{}
	for _, steps := range script {
		r := run(t.Context(), newRelay(s, b))
		for _, step := range steps {
			write(t, s.Store, step.stream, written[step.stream])
			written[step.stream]++
			if strings.HasPrefix(step.stream, "order-") || strings.HasPrefix(step.stream, "inventory-") {
				want[step.stream] = written[step.stream]
			}
			time.Sleep(step.pause)
		}
		r.stop(t)
	}
	last := run(t.Context(), newRelay(s, b))
	await(t, "all have arrived", func() bool {
		seen, _, _ := b.state()
		return cmp.Equal(want, seen)
	})
	last.stop(t)
	if _, _, broken := b.state(); len(broken) > 0 {
		t.Errorf("out of order: %v", broken)
	}
}

func TestTwoRelaysAtOnceAreHarmless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &store{Store: &memstore.Store{}}, newBus(nil)
		one, two := newRelay(s, b), newRelay(s, b)
		first, second := run(t.Context(), one), run(t.Context(), two)
		stoodBy := false
		for r := range event.Revision(300) {
			write(t, s.Store, "order-1", r)
			write(t, s.Store, "inventory-1", r)
			time.Sleep(50 * time.Millisecond)
			stoodBy = stoodBy || one.Status().Standby != two.Status().Standby
		}
		if !stoodBy {
			t.Error("neither relay stood by for the other")
		}
		_, times, broken := b.state()
		if len(broken) > 0 {
			t.Fatalf("out of order: %v", broken)
		}
		if times > 2*600 {
			t.Errorf("600 events were published %d times", times)
		}
		first.stop(t)
		await(t, "the other relay has taken over", func() bool { return !two.Status().Standby })
		write(t, s.Store, "order-1", 300)
		want := map[string]event.Revision{"order-1": 301, "inventory-1": 300}
		await(t, "all have arrived", func() bool {
			seen, _, _ := b.state()
			return cmp.Equal(want, seen)
		})
		second.stop(t)
	})
}

func TestARelayThatStoppedStartsBehindWhatItPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &store{Store: &memstore.Store{}}, newBus(nil)
		for r := range event.Revision(100) {
			write(t, s.Store, "order-1", r)
		}
		for range 3 {
			r := run(t.Context(), newRelay(s, b))
			await(t, "all have arrived", func() bool { _, times, _ := b.state(); return times >= 100 })
			time.Sleep(time.Second)
			r.stop(t)
		}
		if _, times, _ := b.state(); times != 100 {
			t.Fatalf("100 events were published %d times", times)
		}
		if at := position(t, s.Store); at < 100 {
			t.Fatalf("the bookmark is at %d", at)
		}
	})
}

func TestAMoveWhoseAnswerWasLostIsNotTakenForAnotherRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &store{Store: &memstore.Store{}}, newBus(nil)
		relay := newRelay(s, b)
		relay.Marks = &unheard{store: s, left: 5}
		r := run(t.Context(), relay)
		for i := range event.Revision(100) {
			write(t, s.Store, "order-1", i)
			time.Sleep(30 * time.Millisecond)
			if relay.Status().Standby {
				t.Fatal("the relay stands by for itself")
			}
		}
		r.stop(t)
		if at := position(t, s.Store); at < 100 {
			t.Fatalf("the bookmark is at %d", at)
		}
		if _, times, _ := b.state(); times != 100 {
			t.Fatalf("100 events were published %d times", times)
		}
	})
}

// Unheard appends, and then says that it failed.
type unheard struct {
	*store
	left int
}

func (u *unheard) Append(ctx context.Context, stream string, after event.Revision, events []event.Recorded) error {
	if err := u.store.Append(ctx, stream, after, events); err != nil || u.left == 0 {
		return err
	}
	u.left--
	return errInjected
}

func TestTheBookmarkCostsFewWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &store{Store: &memstore.Store{}}, newBus(nil)
		r := run(t.Context(), newRelay(s, b))
		for i := range event.Revision(1000) {
			write(t, s.Store, "order-1", i)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		r.stop(t)
		if n := s.count(); n < 5 || n > 12 {
			t.Fatalf("%d moves of the bookmark in a second of events", n)
		}
	})
}

// A clock notes when each event was published, and how often there was a batch.
type clock struct {
	relay.Bus
	mu      sync.Mutex
	at      map[event.Revision]time.Time
	batches int
}

func (c *clock) Publish(ctx context.Context, events []event.Recorded) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.batches++
	for _, e := range events {
		c.at[e.Revision] = time.Now()
	}
	return c.Bus.Publish(ctx, events)
}

func TestAQuietRelayPublishesAtOnceAndABusyOneInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &store{Store: &memstore.Store{}}, &clock{Bus: newBus(nil), at: map[event.Revision]time.Time{}}
		main := newRelay(s, b)
		main.Batch, main.Spacing = 100, 20*time.Millisecond
		r := run(t.Context(), main)
		written := map[event.Revision]time.Time{}
		put := func(n int, every time.Duration) {
			for range n {
				at := event.Revision(len(written))
				written[at+1] = time.Now()
				write(t, s.Store, "order-1", at)
				time.Sleep(every)
			}
		}
		late := func(most time.Duration) (found, batches int) {
			b.mu.Lock()
			defer b.mu.Unlock()
			for i, at := range written {
				if b.at[i].Sub(at) > most {
					found++
				}
			}
			return found, b.batches
		}
		put(100, 25*time.Millisecond)
		put(8, time.Millisecond)
		if n, batches := late(0); n > 0 || batches != 108 {
			t.Errorf("of a quiet shop %d events waited, %d batches", n, batches)
		}
		time.Sleep(time.Second)
		put(1000, time.Millisecond)
		time.Sleep(time.Second)
		if n, batches := late(main.Spacing); n > 0 || batches < 108+50 || batches > 108+8+52 {
			t.Errorf("of a busy shop %d events waited too long, %d batches", n, batches-108)
		}
		r.stop(t)
	})
}

func TestARelayThatIsBehindWaitsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &store{Store: &memstore.Store{}}, newBus(nil)
		for i := range event.Revision(7000) {
			write(t, s.Store, "order-1", i)
		}
		main := newRelay(s, b)
		main.Spacing = time.Second
		began := time.Now()
		r := run(t.Context(), main)
		await(t, "all have arrived", func() bool { _, times, _ := b.state(); return times == 7000 })
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("1000 batches took %v", took)
		}
		r.stop(t)
	})
}

func TestAnIdleRelayWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &store{Store: &memstore.Store{}}, newBus(nil)
		write(t, s.Store, "order-1", 0)
		r := run(t.Context(), newRelay(s, b))
		time.Sleep(time.Hour)
		if n := s.count(); n != 1 {
			t.Errorf("%d moves of the bookmark for one event", n)
		}
		for i := range event.Revision(100) { // nothing for the bus
			write(t, s.Store, "key-1", i)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Hour)
		if at := position(t, s.Store); at < 90 || s.count() > 4 {
			t.Errorf("after 100 events for others the bookmark is at %d, moved %d times", at, s.count())
		}
		r.stop(t)
	})
}

func TestARewoundRelayPublishesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &store{Store: &memstore.Store{}}, newBus(nil)
		for r := range event.Revision(100) {
			write(t, s.Store, "order-1", r)
		}
		relay := newRelay(s, b)
		r := run(t.Context(), relay)
		await(t, "the bookmark is moved", func() bool { return relay.Status().Bookmark >= 100 })
		if err := relay.Rewind(t.Context(), 1000); err != nil { // not beyond it
			t.Fatal(err)
		}
		if err := relay.Rewind(t.Context(), 40); err != nil {
			t.Fatal(err)
		}
		write(t, s.Store, "order-1", 100)
		await(t, "everything behind 40 was published again", func() bool { _, times, _ := b.state(); return times >= 100+60+1 })
		r.stop(t)
	})
}

// A disk forgets everything behind safe when it is cut off.
type disk struct {
	mu   sync.Mutex
	safe uint64
}

func (d *disk) Safe() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.safe
}

func (d *disk) Sync(_ context.Context, position uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.safe = position
	return nil
}

func TestTheRelayStartsWhereTheBusIsSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b, d := &store{Store: &memstore.Store{}}, newBus(nil), &disk{}
		for r := range event.Revision(100) {
			write(t, s.Store, "order-1", r)
		}
		live := func(want int) {
			t.Helper()
			relay := newRelay(s, b)
			relay.Disk = d
			r := run(t.Context(), relay)
			await(t, "it has published", func() bool { _, times, _ := b.state(); return times >= want })
			time.Sleep(time.Minute)
			r.stop(t)
			if _, times, _ := b.state(); times != want {
				t.Fatalf("%d events published, want %d", times, want)
			}
			if d.Safe() < 100 {
				t.Fatalf("the disk was last synced at %d", d.Safe())
			}
		}
		live(100)
		live(100)
		d.safe = 30 // a loss of power
		live(170)
	})
}

func TestAnOutageIsSeenAndOvercome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &store{Store: &memstore.Store{}}, newBus(nil)
		out := make(chan struct{})
		relay := newRelay(s, gate{b, out})
		r := run(t.Context(), relay)
		write(t, s.Store, "order-1", 0)
		time.Sleep(time.Minute)
		status := relay.Status()
		if !errors.Is(status.LastError, errInjected) || status.Behind < 59*time.Second {
			t.Fatalf("during an outage the status is %+v", status)
		}
		close(out)
		await(t, "the event has arrived", func() bool { _, times, _ := b.state(); return times == 1 })
		await(t, "the bookmark is moved", func() bool { return relay.Status().Bookmark >= 1 })
		status = relay.Status()
		if status.LastError != nil || status.Behind != 0 || !status.CaughtUp || status.Published != 1 {
			t.Fatalf("after an outage the status is %+v", status)
		}
		r.stop(t)
	})
}

// A gate refuses until it is open.
type gate struct {
	relay.Bus
	open <-chan struct{}
}

func (g gate) Publish(ctx context.Context, events []event.Recorded) error {
	select {
	case <-g.open:
		return g.Bus.Publish(ctx, events)
	default:
		return errInjected
	}
}

func TestARelayWithoutAnAllowListIsRefused(t *testing.T) {
	for _, list := range [][]string{nil, {}, {"order-", ""}} {
		s := &store{Store: &memstore.Store{}}
		r := newRelay(s, newBus(nil))
		r.Prefixes = list
		if err := r.Run(t.Context()); err == nil {
			t.Errorf("a relay of prefixes %q ran", list)
		}
	}
}

func TestTheBookmarkStreamStaysShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &store{Store: &memstore.Store{}}, newBus(nil)
		r := run(t.Context(), newRelay(s, b))
		for i := range event.Revision(50) {
			write(t, s.Store, "order-1", i)
			time.Sleep(time.Second)
		}
		r.stop(t)
		shown := 0
		for _, err := range s.Load(t.Context(), "relay-main", 0) {
			if err != nil {
				t.Fatal(err)
			}
			shown++
		}
		if shown != 1 {
			t.Fatalf("%d bookmarks are shown", shown)
		}
	})
}
