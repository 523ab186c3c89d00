package viewtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/domain/event"
	"cartwright/projections"
)

// Resume checks generations that survive the process that builds them, and
// generations that are kept. Open is as for Run; the store's generations must be
// projections.Resumable.
func Resume[V any](t *testing.T, open func(t *testing.T, dir string) Store[V], sample func(number int, at event.Revision, mark string) projections.Doc[V]) {
	t.Helper()
	for name, check := range map[string]func(suite[V], *testing.T){
		"what was marked is found after a restart":          suite[V].unfinished,
		"what was not marked is gone after a restart":       suite[V].unmarked,
		"the newest mark counts":                            suite[V].remarked,
		"an unfinished generation can be dropped":           suite[V].unwanted,
		"there is nothing unfinished in a new view":         suite[V].nothing,
		"only what is being built can be marked":            suite[V].unmarkable,
		"as many generations are kept as asked for":         suite[V].keeps,
		"what is kept is kept through a restart":            suite[V].keptOpen,
		"any kept generation can be returned to or dropped": suite[V].keptUsed,
	} {
		t.Run(name, func(t *testing.T) {
			check(suite[V]{open, sample}, t)
		})
	}
}

var marked = projections.Checkpoint{Position: 4711, Streams: 2, Program: "v1.2.3", At: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)}

func resumable[V any](tb testing.TB, store Store[V]) projections.Resumable[V] {
	tb.Helper()
	r, ok := store.Generations.(projections.Resumable[V])
	if !ok {
		tb.Fatalf("%T is not resumable", store.Generations)
	}
	return r
}

func mark[V any](tb testing.TB, store Store[V], number int, at projections.Checkpoint) {
	tb.Helper()
	if err := resumable(tb, store).Mark(tb.Context(), number, at); err != nil {
		tb.Fatalf("mark generation %d: %v", number, err)
	}
}

// leftOver expects a generation with a mark.
func leftOver[V any](tb testing.TB, store Store[V], number int, want projections.Checkpoint) projections.Generation[V] {
	tb.Helper()
	g, at, found, err := resumable(tb, store).Unfinished(tb.Context())
	if err != nil || !found {
		tb.Fatalf("unfinished: %v, %v", found, err)
	}
	if diff := cmp.Diff(want, at); diff != "" || g.Number() != number {
		tb.Fatalf("generation %d, want %d (-want +got):\n%s", g.Number(), number, diff)
	}
	return g
}

func nothingLeft[V any](tb testing.TB, store Store[V]) {
	tb.Helper()
	if g, at, found, err := resumable(tb, store).Unfinished(tb.Context()); err != nil || found {
		tb.Errorf("unfinished: %v at %+v, %v, %v", g, at, found, err)
	}
}

// again closes a store and opens it once more.
func (s suite[V]) again(t *testing.T, store Store[V], dir string) Store[V] {
	t.Helper()
	if err := store.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	return s.open(t, dir)
}

// unfinished leaves a generation with a mark, puts what comes behind the mark
// after the restart, and makes it live.
func (s suite[V]) unfinished(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	store := s.open(t, dir)
	put(t, store.Live(), s.sample(1, 9, "live"))
	next := build(t, store)
	record := projections.Parked{View: "any", Stream: s.sample(3, 1, "").Stream, Revision: 3, Reason: "so", Count: 1}
	put(t, next, s.sample(1, 2, "new"), s.sample(2, 2, "new"))
	if err := next.Park(t.Context(), []projections.Parked{record}); err != nil {
		t.Fatalf("park: %v", err)
	}
	mark(t, store, next.Number(), marked)

	store = s.again(t, store, dir)
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	same(t, store.Reader, s.sample(1, 9, "live"))
	g := leftOver(t, store, next.Number(), marked)
	same(t, g, s.sample(1, 2, "new"), s.sample(2, 2, "new"))
	if n, err := g.Count(t.Context()); err != nil || n != 2 {
		t.Errorf("it has %d documents, %v", n, err)
	}
	put(t, g, s.sample(1, 3, "newer"), s.sample(4, 1, "new"))
	turn(t, store, g.Number())
	same(t, store.Reader, s.sample(1, 3, "newer"), s.sample(2, 2, "new"), s.sample(4, 1, "new"))
	parked(t, store, record)
	nothingLeft(t, store)
	turn(t, store, previous(t, store).Number())
	same(t, store.Reader, s.sample(1, 9, "live"))
}

func (s suite[V]) unmarked(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	store := s.open(t, dir)
	first, second := build(t, store), build(t, store)
	put(t, first, s.sample(1, 1, "marked"))
	put(t, second, s.sample(1, 2, "not marked"))
	mark(t, store, first.Number(), marked)
	store = s.again(t, store, dir)
	defer closing(t, store)
	if err := store.Generations.Switch(t.Context(), second.Number(), 1); err == nil {
		t.Error("a generation without a mark outlived the restart")
	}
	leftOver(t, store, first.Number(), marked)
}

func closing[V any](tb testing.TB, store Store[V]) {
	tb.Helper()
	if err := store.Close(); err != nil {
		tb.Errorf("close: %v", err)
	}
}

func (s suite[V]) remarked(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	store := s.open(t, dir)
	older, newer := build(t, store), build(t, store)
	mark(t, store, newer.Number(), projections.Checkpoint{Position: 1})
	later := marked
	later.Position++
	mark(t, store, newer.Number(), later)
	mark(t, store, older.Number(), marked)
	store = s.again(t, store, dir)
	defer closing(t, store)
	leftOver(t, store, newer.Number(), later)
	if err := store.Generations.Switch(t.Context(), older.Number(), 1); err == nil {
		t.Error("an older generation with a mark outlived the restart")
	}
}

func (s suite[V]) unwanted(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	store := s.open(t, dir)
	next := build(t, store)
	put(t, next, s.sample(1, 1, "x"))
	mark(t, store, next.Number(), marked)
	store = s.again(t, store, dir)
	defer closing(t, store)
	if err := store.Generations.Drop(t.Context(), leftOver(t, store, next.Number(), marked).Number()); err != nil {
		t.Fatalf("drop: %v", err)
	}
	nothingLeft(t, store)
	if after := build(t, store); after.Number() <= next.Number() {
		t.Errorf("generation %d came after %d", after.Number(), next.Number())
	}
}

func (s suite[V]) nothing(t *testing.T) {
	t.Helper()
	store := s.begin(t)
	nothingLeft(t, store)
	if kept := store.Generations.Kept(); len(kept) != 0 {
		t.Errorf("%d generations are kept", len(kept))
	}
}

func (s suite[V]) unmarkable(t *testing.T) {
	t.Helper()
	store := s.begin(t)
	r := resumable(t, store)
	for _, number := range []int{store.Live().Number(), 4711} {
		if err := r.Mark(t.Context(), number, marked); err == nil {
			t.Errorf("generation %d was marked", number)
		}
	}
	next := build(t, store)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Mark(ctx, next.Number(), marked); !errors.Is(err, context.Canceled) {
		t.Errorf("mark with an ended context: %v", err)
	}
}

// succession makes so many generations live, one after the other, each with a
// document that names its place, the first one 0.
func (s suite[V]) succession(t *testing.T, store Store[V], n, keep int) []int {
	t.Helper()
	numbers := []int{store.Live().Number()}
	put(t, store.Live(), s.sample(1, 1, "0"))
	for i := range n {
		next := build(t, store)
		put(t, next, s.sample(1, 1, string(rune('1'+i))))
		turnKeeping(t, store, next.Number(), keep)
		numbers = append(numbers, next.Number())
	}
	return numbers
}

func keptNumbers[V any](tb testing.TB, store Store[V], want ...int) {
	tb.Helper()
	var got []int
	for _, g := range store.Generations.Kept() {
		got = append(got, g.Number())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		tb.Errorf("kept (-want +got):\n%s", diff)
	}
}

func (s suite[V]) keeps(t *testing.T) {
	t.Helper()
	store := s.begin(t)
	n := s.succession(t, store, 4, 3)
	keptNumbers(t, store, n[3], n[2], n[1])
	if err := store.Generations.Switch(t.Context(), n[0], 3); err == nil {
		t.Error("switched to a generation that was to be dropped")
	}
	for i, g := range store.Generations.Kept() {
		same(t, g, s.sample(1, 1, string(rune('3'-i))))
	}
	next := build(t, store)
	turnKeeping(t, store, next.Number(), 0) // one is kept whatever is asked for
	keptNumbers(t, store, n[4])
}

func (s suite[V]) keptOpen(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	store := s.open(t, dir)
	n := s.succession(t, store, 3, 2)
	store = s.again(t, store, dir)
	defer closing(t, store)
	keptNumbers(t, store, n[2], n[1])
	turnKeeping(t, store, n[1], 2)
	same(t, store.Reader, s.sample(1, 1, "1"))
	keptNumbers(t, store, n[3], n[2])
}

func (s suite[V]) keptUsed(t *testing.T) {
	t.Helper()
	store := s.begin(t)
	n := s.succession(t, store, 3, 3)
	if err := store.Generations.Drop(t.Context(), n[1]); err != nil {
		t.Fatalf("drop: %v", err)
	}
	keptNumbers(t, store, n[2], n[0])
	turnKeeping(t, store, n[0], 3)
	same(t, store.Reader, s.sample(1, 1, "0"))
	keptNumbers(t, store, n[3], n[2])
	if err := store.Generations.Switch(t.Context(), n[1], 3); err == nil {
		t.Error("switched to a generation that was dropped")
	}
}

// ResumeKilled kills a process that builds a generation and marks it, at any
// moment: whoever comes next finds the last mark that was answered, or a later
// one, and everything up to it. It is called by a test that does nothing else,
// since the binary is started again to run that test alone.
func ResumeKilled[V any](t *testing.T, open func(t *testing.T, dir string) Store[V], sample func(number int, at event.Revision, mark string) projections.Doc[V]) {
	t.Helper()
	const docs = 50
	if dir := os.Getenv(childDir); dir != "" {
		markUntilKilled(t, open(t, dir), sample, docs)
		return
	}
	dir := t.TempDir()
	last := uint64(0)
	for _, marks := range []int{1, 5, 20} {
		last = max(last, uint64(runAndKill(t, dir, marks)))
		store := open(t, dir)
		g, at, found, err := resumable(t, store).Unfinished(t.Context())
		if err != nil || !found || at.Position < last {
			t.Fatalf("unfinished: %v at %+v, %v; mark %d was answered", found, at, err, last)
		}
		streams := make([]string, docs)
		for i := range streams {
			streams[i] = sample(i, 1, "").Stream
		}
		got, err := g.Get(t.Context(), streams)
		if err != nil || len(got) != docs {
			t.Fatalf("%d documents, %v", len(got), err)
		}
		for stream, doc := range got {
			if uint64(doc.Revision) < at.Position {
				t.Errorf("%s is at %d, the mark says %d", stream, doc.Revision, at.Position)
			}
		}
		closing(t, store)
	}
}

func markUntilKilled[V any](t *testing.T, store Store[V], sample func(int, event.Revision, string) projections.Doc[V], docs int) {
	t.Helper()
	g, at, found, err := resumable(t, store).Unfinished(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !found {
		g = build(t, store)
	}
	for position := at.Position + 1; ; position++ {
		batch := make([]projections.Doc[V], docs)
		for i := range batch {
			batch[i] = sample(i, event.Revision(position), "x")
		}
		put(t, g, batch...)
		if position%2 != 0 {
			continue // some is on its way when the end comes
		}
		mark(t, store, g.Number(), projections.Checkpoint{Position: position})
		fmt.Println(position)
	}
}
