package projections_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"
	"time"

	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/projections"
)

// A killer is a log whose reader is stopped after so many events, and which
// notes where reading began and how much was read.
type killer struct {
	projections.Source
	after int

	mu    sync.Mutex
	began uint64
	read  int
}

func (k *killer) All(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Recorded, error] {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.read == 0 {
		k.began = after
	}
	return func(yield func(event.Recorded, error) bool) {
		for r, err := range k.Source.All(ctx, after, prefixes...) {
			k.mu.Lock()
			k.read++
			stop := k.after > 0 && k.read > k.after
			k.mu.Unlock()
			if stop {
				yield(event.Recorded{}, errBroken)
				return
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// interleaved gives many streams so many events each, one at a time in turn.
func interleaved(w *world, streams, events int) {
	for n := range events {
		for i := range streams {
			w.append(fmt.Sprintf("inventory-sku%d", i), inventory.Received{Quantity: int64(n + 1)})
		}
	}
}

// left is a rebuild that was stopped on its way, after it had come to a mark.
func left(t *testing.T, w *world, all *generations[projections.Stock]) projections.Rebuild[projections.Stock] {
	t.Helper()
	r := rebuild(w, all, nil)
	r.Program, r.MarkEvery, r.Hold = "v1", time.Nanosecond, 8
	r.Source = &killer{Source: &w.store, after: 60}
	if _, err := r.Run(t.Context()); !errors.Is(err, errBroken) {
		t.Fatalf("rebuild: %v", err)
	}
	if n := all.lineage.Unfinished(); n != 2 || all.live().Number() != 1 {
		t.Fatalf("generation %d is left unfinished, %d is live", n, all.live().Number())
	}
	r.Source = &w.store
	return r
}

func TestARebuildThatWasKilledIsGoneOnWith(t *testing.T) {
	w := newWorld(t)
	interleaved(w, 20, 10)
	all := newGenerations[projections.Stock]()
	r := left(t, w, all)
	at := all.lineage.Marks[2]
	rest := &killer{Source: &w.store}
	r.Source = rest
	done, err := r.Run(t.Context())
	if err != nil || all.live().Number() != 2 {
		t.Fatalf("rebuild: %v, generation %d is live", err, all.live().Number())
	}
	if at.Position == 0 || rest.began != at.Position || done.Resumed != at.Position || done.Events > 200-59 || done.Streams != 20 {
		t.Errorf("left at %+v, went on from %d: %+v", at, rest.began, done.Progress)
	}
	folds(w, projections.StockView(), all.live())
	if len(all.lineage.Marks) != 0 || len(all.lineage.Building) != 0 {
		t.Errorf("lineage %+v", all.lineage)
	}
}

func TestWhatAnotherProgramHasBegunIsBegunAnew(t *testing.T) {
	for name, change := range map[string]func(*projections.Rebuild[projections.Stock]){
		"another program": func(r *projections.Rebuild[projections.Stock]) { r.Program = "v2" },
		"if asked":        func(r *projections.Rebuild[projections.Stock]) { r.Anew = true },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			interleaved(w, 20, 10)
			all := newGenerations[projections.Stock]()
			r := left(t, w, all)
			change(&r)
			done, err := r.Run(t.Context())
			if err != nil || all.live().Number() != 3 || done.Resumed != 0 || all.all[2] != nil {
				t.Errorf("%+v, %v, generation %d is live, %d are there", done.Progress, err, all.live().Number(), len(all.all))
			}
			folds(w, projections.StockView(), all.live())
		})
	}
}

func TestADryRebuildTouchesNothingThatWasLeft(t *testing.T) {
	w := newWorld(t)
	interleaved(w, 20, 10)
	all := newGenerations[projections.Stock]()
	r := left(t, w, all)
	r.Dry = true
	if done, err := r.Run(t.Context()); err != nil || done.Resumed != 0 || done.Events != 200 {
		t.Errorf("%+v, %v", done.Progress, err)
	}
	if all.lineage.Unfinished() != 2 || len(all.all) != 2 {
		t.Errorf("lineage %+v", all.lineage)
	}
}

// A generation is built ahead of time, and made live when it suits.
func TestARebuildThatStaysIsSwitchedToByTheNext(t *testing.T) {
	w := newWorld(t)
	interleaved(w, 5, 10)
	all := newGenerations[projections.Stock]()
	set := liveSet(w, all)
	r := rebuild(w, all, set)
	r.Stay = true
	done, err := r.Run(t.Context())
	if err != nil || done.Events != 50 || all.live().Number() != 1 || all.lineage.Unfinished() != 2 {
		t.Fatalf("%+v, %v, lineage %+v", done.Progress, err, all.lineage)
	}
	handle(t, set, w.received("sku1", 3)...) // nobody brings these to the one that waits
	r.Stay = false
	done, err = r.Run(t.Context())
	if err != nil || done.Resumed != 50 || done.Events != 3 || all.live().Number() != 2 {
		t.Errorf("%+v, %v, generation %d is live", done.Progress, err, all.live().Number())
	}
	folds(w, projections.StockView(), all.live())
}

func TestAsManyGenerationsAreKeptAsAreAskedFor(t *testing.T) {
	w := newWorld(t)
	w.received("a", 3)
	all := newGenerations[projections.Stock]()
	r := rebuild(w, all, nil)
	r.Kept = 3
	for range 6 {
		if _, err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var kept []int
	for _, g := range all.Kept() {
		kept = append(kept, g.Number())
	}
	if fmt.Sprint(kept) != "[6 5 4]" || all.live().Number() != 7 || len(all.all) != 4 {
		t.Errorf("kept %v, generation %d is live, there are %d", kept, all.live().Number(), len(all.all))
	}
	if _, err := r.Return(t.Context(), all.all[4]); err != nil || all.live().Number() != 4 || fmt.Sprint(all.lineage.Kept()) != "[7 6 5]" {
		t.Errorf("%v, lineage %+v", err, all.lineage)
	}
}

// What makes a replay fast, and may lose nothing: documents stay in memory as
// long as their events come.
func TestARebuildPutsEachDocumentOnce(t *testing.T) {
	w := newWorld(t)
	interleaved(w, 40, 10)
	all := newGenerations[projections.Stock]()
	puts := 0
	r := rebuild(w, watched[projections.Stock]{all, func(projections.Doc[projections.Stock]) { puts++ }}, nil)
	if _, err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if puts != 40 {
		t.Errorf("%d documents of 40 streams were put", puts)
	}
	folds(w, projections.StockView(), all.live())
}

func TestARebuildHoldsNoMoreThanItMay(t *testing.T) {
	w := newWorld(t)
	interleaved(w, 100, 4) // each comes again only when 99 others have
	all := newGenerations[projections.Stock]()
	puts := 0
	r := rebuild(w, watched[projections.Stock]{all, func(projections.Doc[projections.Stock]) { puts++ }}, nil)
	r.Hold = 10
	if _, err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if puts < 300 {
		t.Errorf("only %d puts for 400 events: more than 10 documents were held", puts)
	}
	folds(w, projections.StockView(), all.live())
}

// An account's entries lie beside its document: each has to be put, once, however
// long the document is held and whenever it is put on the way.
func TestARebuildPutsEachEntryOnce(t *testing.T) {
	for name, every := range map[string]time.Duration{"at the end": time.Hour, "all the time": time.Nanosecond} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.append("account-b1", account.Opened{Currency: "BRL"})
			for n := range 50 {
				w.append("account-b1", account.Deposited{Entry: int64(n + 1), Amount: 100, Journal: fmt.Sprint("j", n)})
			}
			all := newGenerations[projections.Account]()
			put := map[int64]int{}
			r := projections.Rebuild[projections.Account]{
				View: projections.AccountsView(), Events: w.events, Log: &w.store, Source: &w.store, Batch: 3, MarkEvery: every,
				Generations: watched[projections.Account]{all, func(doc projections.Doc[projections.Account]) {
					for _, e := range doc.Body.Fresh {
						put[e.Number]++
					}
				}},
			}
			if _, err := r.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			for n := int64(1); n <= 50; n++ {
				if put[n] != 1 {
					t.Errorf("entry %d was put %d times", n, put[n])
				}
			}
		})
	}
}

// watched generations tell of each document that they are given.
type watched[V any] struct {
	*generations[V]
	taken func(projections.Doc[V])
}

func (o watched[V]) Build(ctx context.Context) (projections.Generation[V], error) {
	g, err := o.generations.Build(ctx)
	if err == nil {
		o.all[g.Number()].taken = o.taken
	}
	return g, err
}

func TestAStreamThatWasGivenUpStopsNoRebuild(t *testing.T) {
	w := newWorld(t)
	w.received("good", 3)
	w.append("inventory-bad", w.received("bad", 2)[0], garbage())
	all := newGenerations[projections.Stock]()
	set := liveSet(w, all)
	handle(t, set, w.log()...)
	r := rebuild(w, all, set)
	r.Given = all.live()
	if _, ok := errors.AsType[*projections.PoisonError](second(r.Run(t.Context()))); !ok {
		t.Error("a parked stream that nobody has given up let the rebuild pass")
	}
	why := projections.Dropped{Reason: "a test order of last year", By: "ana", At: noon}
	if _, err := projector(w, projections.StockView(), all.live()).Drop(t.Context(), "inventory-bad", why); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Run(t.Context()); err != nil {
		t.Fatalf("rebuild: %v", err)
	}
	if got := all.live().parked["inventory-bad"]; all.live().Number() == 1 || got.Dropped == nil || *got.Dropped != why {
		t.Errorf("in generation %d: %+v", all.live().Number(), got)
	}
	handle(t, set, w.received("good", 1)...)
	handle(t, set, w.append("inventory-bad", garbage())...)
	if got := all.live().parked["inventory-bad"]; got.Count != 2 || got.Dropped == nil {
		t.Errorf("after another event: %+v", got)
	}
}

func second[A any](_ A, err error) error { return err }

func TestOnlyAParkedStreamIsGivenUp(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Stock]()
	p := projector(w, projections.StockView(), m)
	apply(t, p, decoded(w, w.received("a", 2)...)...)
	if _, err := p.Drop(t.Context(), "inventory-a", projections.Dropped{Reason: "x"}); !errors.Is(err, projections.ErrNotParked) {
		t.Errorf("drop: %v", err)
	}
	apply(t, p, decoded(w, w.append("inventory-a", garbage())...)...)
	first, err := p.Drop(t.Context(), "inventory-a", projections.Dropped{Reason: "first"})
	if err != nil || first.Revision != 3 {
		t.Errorf("%+v, %v", first, err)
	}
	if again, err := p.Drop(t.Context(), "inventory-a", projections.Dropped{Reason: "second"}); err != nil || again.Dropped.Reason != "first" {
		t.Errorf("%+v, %v", again, err)
	}
	if found, sum := verify(w, m, 0); len(found) != 0 || sum.Dropped != 1 {
		t.Errorf("verify: %v, %+v", found, sum)
	}
}

// Writers may be faster than a rebuild: it is not held up by them for ever, and
// what they wrote is there in the end.
func TestARebuildEndsThoughWritersAreFaster(t *testing.T) {
	w := newWorld(t)
	w.received("a", 20)
	all := newGenerations[projections.Stock]()
	set := liveSet(w, all)
	r := rebuild(w, all, set)
	r.Source = intruder{&w.store, func() { handle(t, set, w.received("a", 20)...) }}
	if _, err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	folds(w, projections.StockView(), all.live())
}
