// Package viewtest is what every engine of views must do, as a test: documents
// that are written only if newer, generations, parking, and, where an engine has
// them, generations that survive a restart, lists, text search, sums, an archive,
// entries and deadlines. Embedded engines and real servers run the same suites.
package viewtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cartwright/domain/event"
	"cartwright/projections"
)

// A Reader is what queries ask of a view's live documents.
type Reader[V any] interface {
	Get(ctx context.Context, streams []string) (map[string]projections.Doc[V], error)
	Revisions(ctx context.Context, streams []string) (map[string]event.Revision, error)
	Parked(ctx context.Context, streams []string) (map[string]projections.Parked, error)
}

// A Store is one view of an engine under test.
type Store[V any] struct {
	Reader      Reader[V]
	Generations projections.Generations[V]
	Live        func() Generation[V]
	Close       func() error

	// Sync makes what was put outlive a killed process, where Put alone does not
	// promise that. Nil where it does.
	Sync func(ctx context.Context) error
}

// A Generation is what engines promise beyond what a rebuild asks for.
type Generation[V any] interface {
	projections.Generation[V]
	Streams(ctx context.Context, after string, limit int) ([]string, error)
	AllParked(ctx context.Context) ([]projections.Parked, error)
	Repair(ctx context.Context, docs []projections.Doc[V]) error
}

// Run checks one view of an engine. Open opens it in a folder, or on a server
// under that name; a second open of the same folder comes after Close. Sample
// makes a document: number tells streams apart, mark tells one document from
// another at the same revision.
func Run[V any](t *testing.T, open func(t *testing.T, dir string) Store[V], sample func(number int, at event.Revision, mark string) projections.Doc[V]) {
	t.Helper()
	for name, check := range map[string]func(suite[V], *testing.T){
		"documents come back as they were put":          suite[V].comeBack,
		"a stale document changes nothing":              suite[V].stale,
		"of many writers the newest document wins":      suite[V].race,
		"a batch that has a stream twice keeps the end": suite[V].twice,
		"a repair replaces the same revision":           suite[V].repair,
		"documents are counted and listed in order":     suite[V].listed,
		"a parked stream is remembered and forgotten":   suite[V].parking,
		"a new generation is unseen until the switch":   suite[V].generations,
		"a switch can be taken back":                    suite[V].rollback,
		"a switch is seen whole":                        suite[V].atomic,
		"what is not there can't be switched to":        suite[V].unknown,
		"everything is there after a restart":           suite[V].restart,
		"an ended context is answered":                  suite[V].cancelled,
	} {
		t.Run(name, func(t *testing.T) {
			check(suite[V]{open, sample}, t)
		})
	}
}

type suite[V any] struct {
	open   func(t *testing.T, dir string) Store[V]
	sample func(number int, at event.Revision, mark string) projections.Doc[V]
}

// begin opens an empty store that is closed at the end.
func (s suite[V]) begin(t *testing.T) Store[V] {
	t.Helper()
	store := s.open(t, t.TempDir())
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return store
}

func (s suite[V]) comeBack(t *testing.T) {
	t.Helper()
	store := s.begin(t)
	docs := []projections.Doc[V]{s.sample(1, 1, "a"), s.sample(2, 7, "b")}
	put(t, store.Live(), docs...)
	same(t, store.Reader, docs...)
	absent := s.sample(3, 1, "").Stream
	got, err := store.Reader.Get(t.Context(), []string{absent})
	if err != nil || len(got) != 0 {
		t.Errorf("got %v, %v of a stream without a document", got, err)
	}
	revisions, err := store.Reader.Revisions(t.Context(), []string{docs[0].Stream, absent, docs[1].Stream})
	want := map[string]event.Revision{docs[0].Stream: 1, docs[1].Stream: 7}
	if diff := cmp.Diff(want, revisions); err != nil || diff != "" {
		t.Errorf("revisions: %v (-want +got):\n%s", err, diff)
	}
	if got, err := store.Reader.Get(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v of no streams", got, err)
	}
}

func (s suite[V]) stale(t *testing.T) {
	t.Helper()
	store := s.begin(t)
	newest := s.sample(1, 5, "newest")
	put(t, store.Live(), newest)
	put(t, store.Live(), s.sample(1, 4, "older"), s.sample(2, 1, "other"))
	put(t, store.Live(), s.sample(1, 5, "same revision"))
	same(t, store.Reader, newest, s.sample(2, 1, "other"))
}

func (s suite[V]) race(t *testing.T) {
	t.Helper()
	store := s.begin(t)
	var wg sync.WaitGroup
	const writers, streams = 8, 5
	for w := range writers {
		wg.Go(func() {
			docs := make([]projections.Doc[V], streams)
			for i := range docs {
				docs[i] = s.sample(i, event.Revision((w*7+i*3)%writers)+1, "race") //nolint:gosec // small
			}
			if err := store.Live().Put(t.Context(), docs); err != nil {
				t.Errorf("put: %v", err)
			}
		})
	}
	wg.Wait()
	for i := range streams {
		same(t, store.Reader, s.sample(i, writers, "race"))
	}
}

func (s suite[V]) twice(t *testing.T) {
	t.Helper()
	store := s.begin(t)
	put(t, store.Live(), s.sample(1, 2, "b"), s.sample(1, 3, "c"), s.sample(1, 1, "a"))
	same(t, store.Reader, s.sample(1, 3, "c"))
}

func (s suite[V]) repair(t *testing.T) {
	t.Helper()
	store := s.begin(t)
	put(t, store.Live(), s.sample(1, 5, "wrong"), s.sample(2, 5, "newer"))
	if err := store.Live().Repair(t.Context(), []projections.Doc[V]{s.sample(1, 5, "right"), s.sample(2, 4, "older")}); err != nil {
		t.Fatalf("repair: %v", err)
	}
	same(t, store.Reader, s.sample(1, 5, "right"), s.sample(2, 5, "newer"))
}

func (s suite[V]) listed(t *testing.T) {
	t.Helper()
	store := s.begin(t)
	const n = 25
	var want []string
	for i := range n {
		put(t, store.Live(), s.sample(i, 1, "x"))
		want = append(want, s.sample(i, 1, "x").Stream)
	}
	slices.Sort(want)
	if got, err := store.Live().Count(t.Context()); err != nil || got != n {
		t.Errorf("count %d, %v, want %d", got, err, n)
	}
	var got []string
	for after := ""; ; after = got[len(got)-1] {
		streams, err := store.Live().Streams(t.Context(), after, 10)
		if err != nil {
			t.Fatalf("streams after %q: %v", after, err)
		}
		if got = append(got, streams...); len(streams) == 0 {
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("streams (-want +got):\n%s", diff)
	}
}

func (s suite[V]) parking(t *testing.T) {
	t.Helper()
	store := s.begin(t)
	record := projections.Parked{
		View: "any", Stream: s.sample(1, 1, "").Stream, Revision: 4, Reason: "it can't be", Count: 2,
		At: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
	}
	other := record
	other.Stream = s.sample(2, 1, "").Stream
	park(t, store, record, other)
	parked(t, store, record, other)

	fewer := record
	fewer.Count = 1
	more := other
	more.Count = 9
	park(t, store, fewer, more)
	parked(t, store, record, more)

	again := record
	again.Revision, again.Count, again.Reason = 6, 1, "something else"
	park(t, store, again)
	parked(t, store, again, more)

	givenUp := again
	givenUp.Dropped = &projections.Dropped{Reason: "a test order", By: "an operator", At: record.At}
	park(t, store, givenUp)
	parked(t, store, givenUp, more)
	counted := again
	counted.Count = 5
	park(t, store, counted)
	givenUp.Count = 5
	parked(t, store, givenUp, more)

	for range 2 {
		if err := store.Live().Unpark(t.Context(), []string{record.Stream}); err != nil {
			t.Fatalf("unpark: %v", err)
		}
		parked(t, store, more)
	}
}

func (s suite[V]) generations(t *testing.T) {
	t.Helper()
	store := s.begin(t)
	old, fresh := s.sample(1, 3, "old"), s.sample(1, 2, "fresh")
	put(t, store.Live(), old)
	next := build(t, store)
	if next.Number() == store.Live().Number() {
		t.Fatalf("the new generation has the number of the live one, %d", next.Number())
	}
	put(t, next, fresh)
	if err := next.Park(t.Context(), []projections.Parked{{Stream: old.Stream, Revision: 3, Count: 1}}); err != nil {
		t.Fatalf("park: %v", err)
	}
	same(t, store.Reader, old)
	parked(t, store)
	if n, err := next.Count(t.Context()); err != nil || n != 1 {
		t.Errorf("the new generation has %d documents, %v", n, err)
	}
	turn(t, store, next.Number())
	same(t, store.Reader, fresh)
	if got, err := store.Reader.Parked(t.Context(), []string{old.Stream}); err != nil || len(got) != 1 {
		t.Errorf("parked after the switch: %v, %v", got, err)
	}
	if store.Live().Number() != next.Number() {
		t.Errorf("generation %d is live, want %d", store.Live().Number(), next.Number())
	}
}

func (s suite[V]) rollback(t *testing.T) {
	t.Helper()
	store := s.begin(t)
	first := store.Live().Number()
	put(t, store.Live(), s.sample(1, 1, "first"))
	for _, mark := range []string{"second", "third"} {
		next := build(t, store)
		put(t, next, s.sample(1, 1, mark))
		turn(t, store, next.Number())
	}
	if err := store.Generations.Switch(t.Context(), first, 1); err == nil {
		t.Error("a generation older than the last two was still there")
	}
	turn(t, store, previous(t, store).Number())
	same(t, store.Reader, s.sample(1, 1, "second"))
	turn(t, store, previous(t, store).Number())
	same(t, store.Reader, s.sample(1, 1, "third"))
}

// atomic reads several documents while generations change under it: all of one
// answer are of one generation.
func (s suite[V]) atomic(t *testing.T) {
	t.Helper()
	store := s.begin(t)
	const n = 20
	streams := make([]string, n)
	for i := range streams {
		streams[i] = s.sample(i, 1, "").Stream
	}
	fill := func(g projections.Generation[V], at event.Revision) {
		docs := make([]projections.Doc[V], n)
		for i := range docs {
			docs[i] = s.sample(i, at, "x")
		}
		put(t, g, docs...)
	}
	fill(store.Live(), 1)
	var done atomic.Bool
	var reading sync.WaitGroup
	reading.Go(func() {
		for !done.Load() {
			got, err := store.Reader.Get(t.Context(), streams)
			if err != nil || len(got) != n {
				t.Errorf("got %d documents, %v", len(got), err)
				return
			}
			for _, doc := range got {
				if doc.Revision != got[streams[0]].Revision {
					t.Errorf("one answer has revisions %d and %d", doc.Revision, got[streams[0]].Revision)
					return
				}
			}
		}
	})
	for at := event.Revision(2); at <= 5; at++ {
		next := build(t, store)
		fill(next, at)
		turn(t, store, next.Number())
	}
	done.Store(true)
	reading.Wait()
}

func (s suite[V]) unknown(t *testing.T) {
	t.Helper()
	store := s.begin(t)
	put(t, store.Live(), s.sample(1, 1, "x"))
	if err := store.Generations.Switch(t.Context(), 4711, 1); err == nil {
		t.Error("switched to a generation that isn't there")
	}
	if err := store.Generations.Drop(t.Context(), store.Live().Number()); err == nil {
		t.Error("dropped the live generation")
	}
	next := build(t, store)
	if err := store.Generations.Drop(t.Context(), next.Number()); err != nil {
		t.Errorf("drop: %v", err)
	}
	if err := store.Generations.Switch(t.Context(), next.Number(), 1); err == nil {
		t.Error("switched to a generation that was dropped")
	}
	same(t, store.Reader, s.sample(1, 1, "x"))
}

func (s suite[V]) restart(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	store := s.open(t, dir)
	put(t, store.Live(), s.sample(1, 1, "old"))
	next := build(t, store)
	put(t, next, s.sample(1, 2, "new"), s.sample(2, 2, "new"))
	turn(t, store, next.Number())
	record := projections.Parked{View: "any", Stream: s.sample(2, 1, "").Stream, Revision: 3, Reason: "so", Count: 1}
	park(t, store, record)
	abandoned := build(t, store)
	put(t, abandoned, s.sample(1, 9, "half built"))
	if err := store.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}

	store = s.open(t, dir)
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	same(t, store.Reader, s.sample(1, 2, "new"), s.sample(2, 2, "new"))
	parked(t, store, record)
	if err := store.Generations.Switch(t.Context(), abandoned.Number(), 1); err == nil {
		t.Error("a generation that was being built outlived the restart")
	}
	turn(t, store, previous(t, store).Number())
	same(t, store.Reader, s.sample(1, 1, "old"))
}

func (s suite[V]) cancelled(t *testing.T) {
	t.Helper()
	store := s.begin(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	doc := s.sample(1, 1, "x")
	if err := store.Live().Put(ctx, []projections.Doc[V]{doc}); !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
	if _, err := store.Reader.Get(ctx, []string{doc.Stream}); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
	if err := store.Live().Park(ctx, []projections.Parked{{Stream: doc.Stream}}); !errors.Is(err, context.Canceled) {
		t.Errorf("park: %v", err)
	}
	if _, err := store.Generations.Build(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("build: %v", err)
	}
}

func put[V any](tb testing.TB, to projections.Views[V], docs ...projections.Doc[V]) {
	tb.Helper()
	if err := to.Put(tb.Context(), docs); err != nil {
		tb.Fatalf("put: %v", err)
	}
}

// A getter is what has documents: a view, or one generation of it.
type getter[V any] interface {
	Get(ctx context.Context, streams []string) (map[string]projections.Doc[V], error)
}

func same[V any](tb testing.TB, from getter[V], want ...projections.Doc[V]) {
	tb.Helper()
	for _, doc := range want {
		got, err := from.Get(tb.Context(), []string{doc.Stream})
		if err != nil {
			tb.Fatalf("get: %v", err)
		}
		if diff := cmp.Diff(doc, got[doc.Stream], Equal...); diff != "" {
			tb.Errorf("%s (-want +got):\n%s", doc.Stream, diff)
		}
	}
}

// Equal compares documents as they come out of an engine: nothing and empty
// are the same, and what an engine stores beside the document is not of it.
var Equal = cmp.Options{cmpopts.EquateEmpty(), cmpopts.IgnoreFields(projections.Account{}, "Fresh")}

func build[V any](tb testing.TB, store Store[V]) projections.Generation[V] {
	tb.Helper()
	g, err := store.Generations.Build(tb.Context())
	if err != nil {
		tb.Fatalf("build: %v", err)
	}
	return g
}

func turn[V any](tb testing.TB, store Store[V], number int) {
	tb.Helper()
	turnKeeping(tb, store, number, 1)
}

func turnKeeping[V any](tb testing.TB, store Store[V], number, keep int) {
	tb.Helper()
	if err := store.Generations.Switch(tb.Context(), number, keep); err != nil {
		tb.Fatalf("switch to %d: %v", number, err)
	}
}

// previous is the generation that was live before.
func previous[V any](tb testing.TB, store Store[V]) projections.Generation[V] {
	tb.Helper()
	kept := store.Generations.Kept()
	if len(kept) == 0 {
		tb.Fatal("no generation was kept")
	}
	return kept[0]
}

func park[V any](tb testing.TB, store Store[V], records ...projections.Parked) {
	tb.Helper()
	if err := store.Live().Park(tb.Context(), records); err != nil {
		tb.Fatalf("park: %v", err)
	}
}

// parked expects exactly these records, asked for one by one and all at once.
func parked[V any](tb testing.TB, store Store[V], want ...projections.Parked) {
	tb.Helper()
	all, err := store.Live().AllParked(tb.Context())
	if err != nil {
		tb.Fatalf("all parked: %v", err)
	}
	slices.SortFunc(want, func(a, b projections.Parked) int { return strings.Compare(a.Stream, b.Stream) })
	if diff := cmp.Diff(want, all, Equal...); diff != "" {
		tb.Errorf("all parked (-want +got):\n%s", diff)
	}
	for _, record := range want {
		got, err := store.Reader.Parked(tb.Context(), []string{record.Stream, "order-none"})
		if diff := cmp.Diff(map[string]projections.Parked{record.Stream: record}, got); err != nil || diff != "" {
			tb.Errorf("parked %s: %v (-want +got):\n%s", record.Stream, err, diff)
		}
	}
}

func streamName(category string, number int) string { return fmt.Sprintf("%s-%019d", category, number) }
