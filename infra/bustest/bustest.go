// Package bustest is what every bus must do, as a test: a publisher of batches
// and readers of batches that share a topic as members of groups.
//
// Delivery is at least once. The suite therefore never counts how often an event
// comes, except where a reader left properly. Its law is: no event comes before
// the one of its stream that precedes it has come, and in the end all have come.
package bustest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"cartwright/domain/event"
)

// patience is how long a test waits for what must come; a rebalance is part of it.
const patience = 40 * time.Second

// A Handler takes a batch over; what it refuses must come again.
type Handler = func(ctx context.Context, batch []event.Recorded) error

// A Bus is one kind of bus, on a topic of its own.
type Bus struct {
	Publish func(ctx context.Context, events []event.Recorded) error
	// Read hands batches to handle as a member of group until ctx ends.
	Read func(ctx context.Context, group string, handle Handler) error
	// Second publishes as another process would: the same topic, and nothing else
	// shared with Publish.
	Second func(ctx context.Context, events []event.Recorded) error
	// Spoil puts a record that is no event where events of a stream go.
	Spoil func(ctx context.Context, stream string) error
	// Lag is how many events a group has not yet marked as read.
	Lag func(ctx context.Context, group string) (int64, error)
	// Remake deletes the topic and makes it again.
	Remake func(ctx context.Context) error
}

// Run checks one kind of bus. open gives one with an empty topic, closed by
// t.Cleanup. The broker may be shared by others.
func Run(t *testing.T, open func(t *testing.T) Bus) {
	t.Helper()
	for name, check := range map[string]func(*testing.T, Bus){
		"an event arrives as it was published":                  arrivesUnchanged,
		"an event without metadata arrives":                     arrivesBare,
		"the events of each stream arrive in order":             inOrder,
		"a big batch arrives whole":                             bigBatch,
		"a big event arrives":                                   bigEvent,
		"more than a broker takes at once arrives in order":     manyBigEvents,
		"an empty batch is nothing":                             emptyBatch,
		"publishing without time left fails":                    noTimeLeft,
		"a failed batch comes again, and nothing is skipped":    failedBatch,
		"what a crashed reader had not marked comes again":      crashBeforeMark,
		"a reader that left properly is not told again":         leftProperly,
		"two readers of a group share the work":                 twoShare,
		"two groups both read everything":                       twoGroups,
		"a reader that leaves hands over":                       handsOver,
		"a handler's context ends when its partitions are gone": contextEnds,
		"a record that is no event does not stop others":        spoiled,
		"an idle reader stops promptly":                         idleStops,
		"a busy reader stops promptly":                          busyStops,
		"two publishers at once leave nothing out":              twoPublishers,
		"the lag is what is not marked, and ends at nothing":    lagEnds,
		"readers follow a topic that was deleted and made anew": remade,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, open(t))
		})
	}
}

// Events makes n events of each stream, from revision first on, interleaved.
func Events(streams, n int, first event.Revision) []event.Recorded {
	var all []event.Recorded
	for i := range n {
		for s := range streams {
			r := first + event.Revision(i)
			all = append(all, Event(fmt.Sprintf("order-%d", s), r, uint64(len(all))+1))
		}
	}
	return all
}

// Event makes a complete event.
func Event(stream string, r event.Revision, position uint64) event.Recorded {
	id := uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%s/%d", stream, r)).String()
	return event.Recorded{
		Meta: event.Meta{
			Cause: "0b5fb1a8-9a0c-4b5b-8f2a-5c3f4f2c9a11", Digest: "d1", Correlation: "2510000000000000001", Actor: "anonymous",
			At:    time.Date(2017, 10, 2, 10, 56, 33, 123456789, time.UTC),
			Trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		},
		Stream: stream, Revision: r, Position: position, ID: id, Name: "order.placed", Version: 2,
		Data:    json.RawMessage(fmt.Sprintf(`{"title":"连衣裙 été","n":%d}`, r)),
		Created: time.Date(2026, 1, 2, 3, 4, 5, 987654321, time.UTC),
	}
}

// A witness sees what readers are given, and holds them to the law.
type witness struct {
	t      *testing.T
	mu     sync.Mutex
	seen   map[string]event.Revision // by stream, how far without a gap
	times  int                       // deliveries, repeated ones too
	events map[string]event.Recorded // by id, as last seen
}

func newWitness(t *testing.T) *witness {
	t.Helper()
	return &witness{t: t, seen: map[string]event.Revision{}, events: map[string]event.Recorded{}}
}

// see is a Handler that takes everything.
func (w *witness) see(_ context.Context, batch []event.Recorded) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range batch {
		if e.Revision > w.seen[e.Stream]+1 {
			w.t.Errorf("%s: revision %d came, but only %d before it", e.Stream, e.Revision, w.seen[e.Stream])
		}
		w.seen[e.Stream] = max(w.seen[e.Stream], e.Revision)
		w.events[e.ID] = e
		w.times++
	}
	return nil
}

func (w *witness) count() (distinct, times int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.events), w.times
}

// await waits until n different events have been seen.
func (w *witness) await(n int) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d events seen", n), func() bool {
		distinct, _ := w.count()
		return distinct >= n
	})
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("after %s still not: %s", patience, what)
		}
		pause(t)
	}
}

// pause lets the bus work between two looks at it.
func pause(t *testing.T) {
	t.Helper()
	select {
	case <-time.After(2 * time.Millisecond):
	case <-t.Context().Done():
	}
}

// A reader is a running member of a group.
type reader struct {
	t      *testing.T
	cancel context.CancelFunc
	done   chan struct{}
}

func read(t *testing.T, b Bus, group string, handle Handler) *reader {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &reader{t, cancel, make(chan struct{})}
	go func() {
		defer close(r.done)
		if err := b.Read(ctx, group, handle); err != nil {
			t.Errorf("read: %v", err)
		}
	}()
	t.Cleanup(r.leave)
	return r
}

func (r *reader) leave() {
	r.t.Helper()
	r.cancel()
	select {
	case <-r.done:
	case <-time.After(patience):
		r.t.Fatalf("a reader did not stop within %s", patience)
	}
}

func publish(t *testing.T, b Bus, events ...event.Recorded) {
	t.Helper()
	if err := b.Publish(t.Context(), events); err != nil {
		t.Fatalf("publish: %v", err)
	}
}

func arrivesUnchanged(t *testing.T, b Bus) {
	t.Helper()
	want := Event("order-2510000000000000001", 7, 123456789012)
	publish(t, b, want)
	sameArrives(t, b, want)
}

func arrivesBare(t *testing.T, b Bus) {
	t.Helper()
	want := event.Recorded{Stream: "order-1", Revision: 1, Position: 1, ID: "x", Name: "order.placed", Version: 1, Data: []byte(`{}`)}
	publish(t, b, want)
	sameArrives(t, b, want)
}

func sameArrives(t *testing.T, b Bus, want event.Recorded) {
	t.Helper()
	got := make(chan event.Recorded, 1)
	read(t, b, "a", func(_ context.Context, batch []event.Recorded) error {
		select {
		case got <- batch[0]:
		default:
		}
		return nil
	})
	select {
	case got := <-got:
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("the event changed (-want +got):\n%s", diff)
		}
	case <-time.After(patience):
		t.Fatal("the event did not arrive")
	}
}

func inOrder(t *testing.T, b Bus) {
	t.Helper()
	w := newWitness(t)
	read(t, b, "a", w.see)
	all := Events(100, 20, 1)
	for len(all) > 0 {
		n := min(130, len(all))
		publish(t, b, all[:n]...)
		all = all[n:]
	}
	w.await(100 * 20)
}

func bigBatch(t *testing.T, b Bus) {
	t.Helper()
	publish(t, b, Events(500, 20, 1)...)
	w := newWitness(t)
	read(t, b, "a", w.see)
	w.await(500 * 20)
}

func bigEvent(t *testing.T, b Bus) {
	t.Helper()
	e := Event("order-1", 1, 1)
	e.Data = json.RawMessage(`"` + string(make([]byte, 1<<20)) + `"`)
	publish(t, b, e, Event("order-1", 2, 2))
	w := newWitness(t)
	read(t, b, "a", w.see)
	w.await(2)
}

func manyBigEvents(t *testing.T, b Bus) {
	t.Helper()
	all := Events(3, 8, 1)
	for i := range all {
		all[i].Data = json.RawMessage(`"` + string(make([]byte, 1<<20)) + `"`)
	}
	publish(t, b, all...)
	w := newWitness(t)
	read(t, b, "a", w.see)
	w.await(len(all))
}

func emptyBatch(t *testing.T, b Bus) {
	t.Helper()
	publish(t, b)
}

func noTimeLeft(t *testing.T, b Bus) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Publish(ctx, Events(1, 1, 1)); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want %v", err, context.Canceled)
	}
}

func failedBatch(t *testing.T, b Bus) {
	t.Helper()
	publish(t, b, Events(50, 10, 1)...)
	w := newWitness(t)
	var mu sync.Mutex
	tries := 0
	read(t, b, "a", func(ctx context.Context, batch []event.Recorded) error {
		mu.Lock()
		tries++
		fail := tries%3 != 0
		mu.Unlock()
		if fail {
			return errors.New("refused by the test")
		}
		return w.see(ctx, batch)
	})
	publish(t, b, Events(50, 10, 11)...)
	w.await(50 * 20)
}

func crashBeforeMark(t *testing.T, b Bus) {
	t.Helper()
	publish(t, b, Events(20, 10, 1)...)
	ctx, crash := context.WithCancel(t.Context())
	defer crash()
	seen := 0
	err := b.Read(ctx, "a", func(_ context.Context, batch []event.Recorded) error {
		seen += len(batch)
		crash()
		return errors.New("crashed after the effect")
	})
	if err != nil || seen == 0 {
		t.Fatalf("the first reader saw %d events, error %v", seen, err)
	}
	w := newWitness(t)
	read(t, b, "a", w.see)
	w.await(20 * 10)
}

func leftProperly(t *testing.T, b Bus) {
	t.Helper()
	publish(t, b, Events(20, 10, 1)...)
	w := newWitness(t)
	first := read(t, b, "a", w.see)
	w.await(200)
	first.leave()
	read(t, b, "a", w.see)
	publish(t, b, Events(20, 1, 11)...)
	w.await(220)
	if _, times := w.count(); times != 220 {
		t.Fatalf("%d deliveries of 220 events", times)
	}
}

func twoShare(t *testing.T, b Bus) {
	t.Helper()
	all := newWitness(t)
	var mu sync.Mutex
	by := map[string]int{}
	member := func(name string) Handler {
		return func(ctx context.Context, batch []event.Recorded) error {
			mu.Lock()
			by[name] += len(batch)
			mu.Unlock()
			return all.see(ctx, batch)
		}
	}
	read(t, b, "a", member("one"))
	read(t, b, "a", member("two"))
	r := event.Revision(0)
	eventually(t, "both readers have events", func() bool {
		r++
		publish(t, b, Events(100, 1, r)...)
		mu.Lock()
		defer mu.Unlock()
		return by["one"] > 0 && by["two"] > 0
	})
	all.await(100 * int(r))
}

func twoGroups(t *testing.T, b Bus) {
	t.Helper()
	one, two := newWitness(t), newWitness(t)
	read(t, b, "a", one.see)
	read(t, b, "b", two.see)
	publish(t, b, Events(20, 10, 1)...)
	one.await(200)
	two.await(200)
}

func handsOver(t *testing.T, b Bus) {
	t.Helper()
	w := newWitness(t)
	leaving := read(t, b, "a", w.see)
	read(t, b, "a", w.see)
	for r := event.Revision(1); r <= 40; r++ {
		publish(t, b, Events(50, 1, r)...)
		if r == 20 {
			leaving.leave()
		}
	}
	w.await(50 * 40)
}

func contextEnds(t *testing.T, b Bus) {
	t.Helper()
	publish(t, b, Events(100, 1, 1)...)
	entered, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	first := read(t, b, "a", func(ctx context.Context, _ []event.Recorded) error {
		signal(entered)
		<-ctx.Done()
		signal(ended)
		return ctx.Err()
	})
	wait(t, "the first reader has a batch", entered)
	w := newWitness(t)
	read(t, b, "a", w.see)
	wait(t, "its context has ended as the second joined", ended)
	first.leave()
	w.await(100)
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func wait(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("after %s still not: %s", patience, what)
	}
}

func spoiled(t *testing.T, b Bus) {
	t.Helper()
	for s := range 20 {
		stream := fmt.Sprintf("order-%d", s)
		if err := b.Spoil(t.Context(), stream); err != nil {
			t.Fatalf("spoil: %v", err)
		}
	}
	publish(t, b, Events(20, 5, 1)...)
	if err := b.Spoil(t.Context(), "order-1"); err != nil {
		t.Fatalf("spoil: %v", err)
	}
	publish(t, b, Events(20, 5, 6)...)
	w := newWitness(t)
	r := read(t, b, "a", w.see)
	w.await(200)
	r.leave()
	// Passed over means marked: the next reader is not told again.
	read(t, b, "a", w.see)
	publish(t, b, Events(20, 1, 11)...)
	w.await(220)
}

const promptly = 5 * time.Second

func idleStops(t *testing.T, b Bus) {
	t.Helper()
	w := newWitness(t)
	r := read(t, b, "a", w.see)
	publish(t, b, Events(1, 1, 1)...)
	w.await(1)
	began := time.Now()
	r.leave()
	if took := time.Since(began); took > promptly {
		t.Fatalf("stopping took %s", took)
	}
}

func busyStops(t *testing.T, b Bus) {
	t.Helper()
	publish(t, b, Events(100, 5, 1)...)
	entered := make(chan struct{}, 1)
	r := read(t, b, "a", func(ctx context.Context, _ []event.Recorded) error {
		signal(entered)
		<-ctx.Done()
		return ctx.Err()
	})
	wait(t, "the reader has a batch", entered)
	began := time.Now()
	r.leave()
	if took := time.Since(began); took > promptly {
		t.Fatalf("stopping took %s", took)
	}
}

func twoPublishers(t *testing.T, b Bus) {
	t.Helper()
	w := newWitness(t)
	read(t, b, "a", w.see)
	var both sync.WaitGroup
	for _, publish := range []func(context.Context, []event.Recorded) error{b.Publish, b.Second} {
		both.Go(func() {
			for r := event.Revision(1); r <= 20; r += 2 {
				if err := publish(t.Context(), Events(50, 2, r)); err != nil {
					t.Errorf("publish: %v", err)
					return
				}
			}
		})
	}
	both.Wait()
	w.await(50 * 20)
}

func lagEnds(t *testing.T, b Bus) {
	t.Helper()
	awaitLag(t, b, 0)
	publish(t, b, Events(20, 10, 1)...)
	awaitLag(t, b, 200)
	w := newWitness(t)
	r := read(t, b, "a", w.see)
	w.await(200)
	awaitLag(t, b, 0)
	r.leave()
	publish(t, b, Events(20, 1, 11)...)
	awaitLag(t, b, 20)
}

// awaitLag looks at group a.
func awaitLag(t *testing.T, b Bus, want int64) {
	t.Helper()
	eventually(t, fmt.Sprintf("a lag of %d", want), func() bool {
		lag, err := b.Lag(t.Context(), "a")
		return err == nil && lag == want
	})
}

func remade(t *testing.T, b Bus) {
	t.Helper()
	w := newWitness(t)
	read(t, b, "a", w.see)
	publish(t, b, Events(50, 10, 1)...)
	w.await(500)
	awaitLag(t, b, 0)
	if err := b.Remake(t.Context()); err != nil {
		t.Fatalf("remake: %v", err)
	}
	insist(t, b.Publish, Events(50, 5, 11)...)
	w.await(750)
	publish(t, b, Events(50, 5, 16)...)
	w.await(1000)
	awaitLag(t, b, 0)
}

// insist publishes a batch as the relay does: again and again until it succeeds.
func insist(t *testing.T, publish func(context.Context, []event.Recorded) error, events ...event.Recorded) {
	t.Helper()
	var last error
	deadline := time.Now().Add(patience)
	for {
		if last = publish(t.Context(), events); last == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("publishing never succeeded, the last error: %v", last)
		}
		pause(t)
	}
}
