package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"cartwright/domain/event"
)

// Killed is what is known of a store whose process is killed again and again in
// the middle of appends: what was acknowledged, what had no answer, and what a
// subscriber was shown.
type Killed struct {
	Rand *rand.Rand
	Gaps bool // somebody scavenges, so positions may have gaps, and not all of the log stays

	round   int
	writers []*killedWriter
	seen    []event.Recorded // by the subscriber, in the last round
	before  []killedEvent    // the log after the rounds before, but for streams of others
	whole   int              // so much of it was looked at again
}

// Killable is what is asked of a store that is killed.
type Killable interface {
	Streams
	Log
}

// A killedWriter appends to a stream of its own.
type killedWriter struct {
	stream       string
	acknowledged []event.Recorded
	pending      []event.Recorded // sent, with no answer yet
}

// A killedEvent is where an event was found.
type killedEvent struct {
	id       string
	position uint64
}

// killedPrefix is what the names of the streams begin with.
const killedPrefix = "round"

// Round has so many writers append, each to a stream of its own, and a subscriber
// follow, and kills the store's process at some moment not long after the first
// was acknowledged.
func (k *Killed) Round(ctx context.Context, s Killable, writers int, kill func()) {
	var wg sync.WaitGroup
	writing, stop := context.WithCancel(ctx)
	defer stop()
	running := make(chan struct{})
	k.writers = nil
	for i := range writers {
		w := &killedWriter{stream: fmt.Sprintf("%s%d-%d", killedPrefix, k.round, i)}
		k.writers = append(k.writers, w)
		rng := rand.New(rand.NewPCG(k.Rand.Uint64(), uint64(i))) //nolint:gosec // not negative
		wg.Go(func() { w.run(writing, s, rng, running) })
	}
	k.round++
	wg.Go(func() { k.watch(writing, s) })
	select {
	case <-running:
	case <-ctx.Done():
	}
	time.Sleep(time.Duration(20+k.Rand.IntN(250)) * time.Millisecond) // the moment of the crash is the point
	kill()
	stop()
	wg.Wait()
}

// run appends until it gets no answer, and tells of each that it does get.
func (w *killedWriter) run(ctx context.Context, s Streams, rng *rand.Rand, running chan struct{}) {
	for {
		n := 1 + rng.IntN(5)
		if rng.IntN(20) == 0 {
			n = 50
		}
		w.pending = Events(n)
		if err := s.Append(ctx, w.stream, event.Revision(len(w.acknowledged)), w.pending); err != nil {
			return
		}
		w.acknowledged = append(w.acknowledged, w.pending...)
		w.pending = nil
		select {
		case running <- struct{}{}:
		default:
		}
	}
}

// watch remembers what the log shows before the crash.
func (k *Killed) watch(ctx context.Context, s Log) {
	after := uint64(0)
	if n := len(k.before); n > 0 {
		after = k.before[n-1].position
	}
	k.seen = nil
	for n, err := range s.Follow(ctx, after, killedPrefix) {
		if err != nil {
			return
		}
		if n.Event.Name != "" {
			k.seen = append(k.seen, n.Event)
		}
	}
}

// Check looks whether everything that was acknowledged, or that the subscriber
// was shown, is where it was, and gives how many events that are and how many
// appends had no answer and are there all the same. It looks at the whole log, or
// only at what is new in it.
func (k *Killed) Check(ctx context.Context, t *testing.T, s Killable, whole bool) (events, unanswered int) {
	t.Helper()
	for _, w := range k.writers {
		unanswered += w.check(ctx, t, s)
	}
	if whole {
		k.whole = 0
	}
	after := uint64(0)
	if k.whole > 0 {
		after = k.before[k.whole-1].position
	}
	got := readKilled(ctx, t, func() ([]event.Recorded, error) { return allOf(s.All(ctx, after, killedPrefix)) })
	old := k.before[k.whole:]
	if len(got) < len(old) {
		t.Fatalf("%d events were behind position %d, %d are", len(old), after, len(got))
	}
	at := make(map[uint64]string, len(got))
	for i, e := range got {
		at[e.Position] = e.ID
		switch {
		case i < len(old) && (old[i] != killedEvent{e.ID, e.Position}):
			t.Fatalf("position %d was %s, is %s at %d", old[i].position, old[i].id, e.ID, e.Position)
		case e.Position <= after, !k.Gaps && e.Position != after+1:
			t.Fatalf("position %d comes behind %d", e.Position, after)
		}
		after = e.Position
	}
	for _, e := range k.seen {
		if at[e.Position] != e.ID {
			t.Fatalf("the subscriber saw %s at %d, where now is %q", e.ID, e.Position, at[e.Position])
		}
	}
	k.whole = len(k.before)
	for _, e := range got[len(old):] {
		k.before = append(k.before, killedEvent{e.ID, e.Position})
	}
	return len(k.before), unanswered
}

// check wants all that was acknowledged, in order and without a gap, and behind
// it the append that had no answer: whole or not at all.
func (w *killedWriter) check(ctx context.Context, t *testing.T, s Streams) (unanswered int) {
	t.Helper()
	got := readKilled(ctx, t, func() ([]event.Recorded, error) { return allOf(s.Load(ctx, w.stream, 0)) })
	want := w.acknowledged
	if len(got) > len(want) {
		want = append(slices.Clip(want), w.pending...)
		unanswered = 1
	}
	if len(got) != len(want) {
		t.Fatalf("%s has %d events, %d were acknowledged and %d had no answer", w.stream, len(got), len(w.acknowledged), len(w.pending))
	}
	for i, e := range got {
		if e.ID != want[i].ID || e.Revision != event.Revision(i)+1 {
			t.Fatalf("%s: event %d is %s revision %d, want %s", w.stream, i+1, e.ID, e.Revision, want[i].ID)
		}
	}
	return unanswered
}

// readKilled reads until the client has found its way back.
func readKilled(ctx context.Context, t *testing.T, read func() ([]event.Recorded, error)) []event.Recorded {
	t.Helper()
	for {
		got, err := read()
		if err == nil {
			return got
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

func allOf(events func(func(event.Recorded, error) bool)) (all []event.Recorded, err error) {
	for e, err := range events {
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
	return all, nil
}
