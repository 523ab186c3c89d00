package projections_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"testing"

	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/projections"
)

func rebuild(w *world, all projections.Generations[projections.Stock], live *projections.Set) projections.Rebuild[projections.Stock] {
	return projections.Rebuild[projections.Stock]{
		View: projections.StockView(), Events: w.events, Log: &w.store, Source: &w.store,
		Generations: all, Live: live, Workers: 3, Batch: 7,
	}
}

func liveSet(w *world, all *generations[projections.Stock]) *projections.Set {
	return projections.NewSet(w.events, projector(w, projections.StockView(), all.live()))
}

func TestARebuildMakesTheViewAnew(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		w.received(fmt.Sprintf("sku%d", i), i+1)
	}
	all := newGenerations[projections.Stock]()
	set := liveSet(w, all)
	old := all.live()
	var reports []projections.Progress
	r := rebuild(w, all, set)
	r.Progress = func(p projections.Progress) { reports = append(reports, p) }
	done, err := r.Run(t.Context())
	if err != nil {
		t.Fatalf("rebuild: %v", err)
	}
	if all.live() == old || all.live().Number() != done.Generation.Number() {
		t.Errorf("generation %d is live, want %d", all.live().Number(), done.Generation.Number())
	}
	folds(w, projections.StockView(), all.live())
	if last := reports[len(reports)-1]; last.Events != 210 || last.Streams != 20 || last.Position != 210 || done.Rate() <= 0 {
		t.Errorf("progress %+v", last)
	}
	// From now on the set writes the new generation and leaves the old one alone.
	handle(t, set, w.received("sku0", 5)...)
	folds(w, projections.StockView(), all.live())
	if n, err := old.Count(t.Context()); n != 0 || err != nil {
		t.Errorf("the old generation was written: %d documents, %v", n, err)
	}
}

// Events go on while the view is rebuilt again and again: none is lost at a
// switch, whether the log or the bus brings it.
func TestARebuildUnderLiveTrafficLosesNothing(t *testing.T) {
	w := newWorld(t)
	const streams = 30
	for i := range streams {
		w.received(fmt.Sprintf("sku%d", i), 10)
	}
	all := newGenerations[projections.Stock]()
	set := liveSet(w, all)
	handle(t, set, w.log()...)
	stop := make(chan struct{})
	var traffic sync.WaitGroup
	for part := range 3 { // as partitions do: each stream has its own writer
		traffic.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				batch := w.received(fmt.Sprintf("sku%d", part*10+rand.IntN(10)), 1+rand.IntN(3))
				if err := set.Handle(t.Context(), batch); err != nil {
					t.Errorf("handle: %v", err)
					return
				}
			}
		})
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			docs, err := all.live().Get(t.Context(), []string{"inventory-sku0"})
			if err != nil || docs["inventory-sku0"].Revision < 10 {
				t.Errorf("a reader saw %v, %v", docs, err)
				return
			}
		}
	})
	for range 5 {
		if _, err := rebuild(w, all, set).Run(t.Context()); err != nil {
			t.Errorf("rebuild: %v", err)
		}
	}
	close(stop)
	traffic.Wait()
	reading.Wait()
	folds(w, projections.StockView(), all.live())
}

// The hard case, forced: the rebuild holds a stream's events, read and not yet
// written, when the next one comes live.
func TestALiveEventAheadOfTheRebuildIsNotLost(t *testing.T) {
	w := newWorld(t)
	w.received("a", 5)
	all := newGenerations[projections.Stock]()
	set := liveSet(w, all)
	r := rebuild(w, all, set)
	r.Source = intruder{&w.store, func() {
		handle(t, set, w.received("a", 1)...)
		handle(t, set, w.received("b", 2)...)
	}}
	if _, err := r.Run(t.Context()); err != nil {
		t.Fatalf("rebuild: %v", err)
	}
	folds(w, projections.StockView(), all.live())
}

// An intruder does something once the log was read and before it ends.
type intruder struct {
	projections.Source
	do func()
}

func (s intruder) All(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Recorded, error] {
	return func(yield func(event.Recorded, error) bool) {
		for r, err := range s.Source.All(ctx, after, prefixes...) {
			if !yield(r, err) {
				return
			}
		}
		s.do()
	}
}

// Another process that has not heard of the switch writes to the old generation
// alone what came into the log just before it.
func TestWhatOthersWroteToTheOldGenerationIsReadAfterTheSwitch(t *testing.T) {
	w := newWorld(t)
	w.received("a", 5)
	all := newGenerations[projections.Stock]()
	elsewhere := projector(w, projections.StockView(), all.live())
	r := rebuild(w, all, nil)
	r.Generations = slowly{all, func() { apply(t, elsewhere, decoded(w, w.received("a", 2)...)...) }}
	if _, err := r.Run(t.Context()); err != nil {
		t.Fatalf("rebuild: %v", err)
	}
	folds(w, projections.StockView(), all.live())
}

// slowly are generations that something happens to just before a switch.
type slowly struct {
	*generations[projections.Stock]
	before func()
}

func (s slowly) Switch(ctx context.Context, to, keep int) error {
	s.before()
	return s.generations.Switch(ctx, to, keep)
}

func TestACorruptStreamStopsARebuild(t *testing.T) {
	w := newWorld(t)
	w.received("good", 3)
	w.received("bad", 2)
	w.append("inventory-bad", inventory.ShippedOut{Order: "o", Parcel: "o/1", Quantity: 1000})
	all := newGenerations[projections.Stock]()
	set := liveSet(w, all)
	old := all.live()
	_, err := rebuild(w, all, set).Run(t.Context())
	poison, ok := errors.AsType[*projections.PoisonError](err)
	if !ok || poison.Stream != "inventory-bad" || poison.Revision != 3 || poison.Reason == "" {
		t.Errorf("rebuild: %v", err)
	}
	if all.live() != old || len(all.all) != 1 {
		t.Errorf("generation %d is live, there are %d", all.live().Number(), len(all.all))
	}
	handle(t, set, w.received("good", 1)...) // the set is what it was
}

func TestACorruptStreamIsParkedInTheNewGenerationIfAsked(t *testing.T) {
	w := newWorld(t)
	w.received("good", 3)
	w.received("bad", 2)
	w.append("inventory-bad", garbage())
	w.append("inventory-worse", garbage())
	all := newGenerations[projections.Stock]()
	old := all.live()
	r := rebuild(w, all, nil)
	r.Park = true
	if _, err := r.Run(t.Context()); err != nil {
		t.Fatalf("rebuild: %v", err)
	}
	if len(all.live().parked) != 2 || len(old.parked) != 0 {
		t.Errorf("parked %v, in the old generation %v", all.live().parked, old.parked)
	}
	docs, err := all.live().Get(t.Context(), []string{"inventory-good", "inventory-bad"})
	if err != nil || docs["inventory-good"].Revision != 3 || docs["inventory-bad"].Revision != 2 {
		t.Errorf("documents %v, %v", docs, err)
	}
}

func TestOnceSwitchedTheNewGenerationParksLikeAnyOther(t *testing.T) {
	w := newWorld(t)
	w.received("a", 2)
	all := newGenerations[projections.Stock]()
	set := liveSet(w, all)
	if _, err := rebuild(w, all, set).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	handle(t, set, w.append("inventory-a", garbage())...)
	if len(all.live().parked) != 1 {
		t.Errorf("parked %v", all.live().parked)
	}
}

// A session that ends in the middle of a batch is no reason to start a rebuild
// over: the new generation takes the batch all the same.
func TestABatchThatIsGivenUpDoesNotFailARebuild(t *testing.T) {
	w := newWorld(t)
	w.received("a", 5)
	all := newGenerations[projections.Stock]()
	set := liveSet(w, all)
	r := rebuild(w, all, set)
	r.Source = intruder{&w.store, func() {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		batch := w.received("b", 2)
		if err := set.Handle(ended, batch); !errors.Is(err, context.Canceled) {
			t.Errorf("handle: %v", err)
		}
		handle(t, set, batch...)
	}}
	if _, err := r.Run(t.Context()); err != nil {
		t.Errorf("rebuild: %v", err)
	}
	folds(w, projections.StockView(), all.live())
}

// A live event that the new generation can't take fails the rebuild, not the
// batch that brought it.
func TestABuildingGenerationNeverFailsTheLiveOne(t *testing.T) {
	w := newWorld(t)
	w.received("a", 5)
	all := newGenerations[projections.Stock]()
	set := liveSet(w, all)
	r := rebuild(w, all, set)
	r.Source = intruder{&w.store, func() {
		building := all.all[2]
		building.fail = func(string) error { return errBroken }
		handle(t, set, w.received("b", 2)...)
		building.fail = nil
	}}
	if _, err := r.Run(t.Context()); !errors.Is(err, errBroken) {
		t.Errorf("rebuild: %v", err)
	}
	docs, err := all.live().Get(t.Context(), []string{"inventory-b"})
	if err != nil || docs["inventory-b"].Revision != 2 {
		t.Errorf("the live view has %v, %v", docs, err)
	}
}

func TestARebuildThatIsStoppedLeavesNothingBehind(t *testing.T) {
	w := newWorld(t)
	w.received("a", 50)
	all := newGenerations[projections.Stock]()
	old := all.live()
	ctx, cancel := context.WithCancel(t.Context())
	r := rebuild(w, all, nil)
	r.Source = intruder{&w.store, cancel}
	if _, err := r.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("rebuild: %v", err)
	}
	if all.live() != old || len(all.all) != 1 {
		t.Errorf("generation %d is live, there are %d", all.live().Number(), len(all.all))
	}
}

func TestAnEngineThatFailsStopsARebuild(t *testing.T) {
	w := newWorld(t)
	w.received("a", 50)
	all := newGenerations[projections.Stock]()
	r := rebuild(w, all, nil)
	r.Log = brokenLog{&w.store, 0}
	r.Source = failing{&w.store}
	if _, err := r.Run(t.Context()); !errors.Is(err, errBroken) {
		t.Errorf("rebuild: %v", err)
	}
	if len(all.all) != 1 {
		t.Errorf("there are %d generations", len(all.all))
	}
}

// An engine that loses documents without a word is found out before the switch.
func TestARebuildThatLostDocumentsIsNotSwitchedTo(t *testing.T) {
	w := newWorld(t)
	w.received("a", 2)
	w.received("b", 2)
	all := newGenerations[projections.Stock]()
	old := all.live()
	r := rebuild(w, all, nil)
	r.Workers = 1
	r.Progress = func(projections.Progress) { delete(all.all[2].docs, "inventory-b") }
	if _, err := r.Run(t.Context()); err == nil || all.live() != old {
		t.Errorf("rebuild: %v, generation %d is live", err, all.live().Number())
	}
}

type failing struct{ projections.Source }

func (failing) All(context.Context, uint64, ...string) iter.Seq2[event.Recorded, error] {
	return func(yield func(event.Recorded, error) bool) { yield(event.Recorded{}, errBroken) }
}

func TestADryRebuildChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.received("a", 5)
	all := newGenerations[projections.Stock]()
	r := rebuild(w, all, nil)
	r.Dry = true
	done, err := r.Run(t.Context())
	if err != nil || done.Events != 5 || done.Streams != 1 {
		t.Errorf("%+v, %v", done.Progress, err)
	}
	if n, err := all.live().Count(t.Context()); n != 0 || err != nil || all.live().Number() != 1 || len(all.all) != 1 {
		t.Errorf("%d documents in generation %d of %d, %v", n, all.live().Number(), len(all.all), err)
	}
	w.append("inventory-a", inventory.ShippedOut{Order: "o", Parcel: "o/1", Quantity: 1000})
	if _, err := r.Run(t.Context()); err == nil {
		t.Error("it did not find what a rebuild would stop at")
	}
}

func TestACacheIsNotCounted(t *testing.T) {
	w := newWorld(t)
	w.received("a", 2)
	all := newGenerations[projections.Stock]()
	r := rebuild(w, all, nil)
	r.Cache, r.Generations = true, uncounted{all}
	if _, err := r.Run(t.Context()); err != nil {
		t.Errorf("rebuild: %v", err)
	}
}

// uncounted are generations whose documents nobody can count.
type uncounted struct {
	*generations[projections.Stock]
}

func (u uncounted) Build(ctx context.Context) (projections.Generation[projections.Stock], error) {
	g, err := u.generations.Build(ctx)
	if err == nil {
		u.all[g.Number()].fail = func(op string) error {
			if op == "count" {
				return errBroken
			}
			return nil
		}
	}
	return g, err
}

func TestTheWayBackCatchesUpFirst(t *testing.T) {
	w := newWorld(t)
	w.received("a", 5)
	all := newGenerations[projections.Stock]()
	set := liveSet(w, all)
	handle(t, set, w.log()...)
	old := all.live()
	if _, err := rebuild(w, all, set).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	handle(t, set, w.received("a", 3)...)
	handle(t, set, w.received("b", 3)...)
	if _, err := rebuild(w, all, set).Return(t.Context(), old); err != nil {
		t.Fatalf("resume: %v", err)
	}
	if all.live() != old {
		t.Errorf("generation %d is live, want %d", all.live().Number(), old.Number())
	}
	folds(w, projections.StockView(), old)
	handle(t, set, w.received("b", 1)...)
	folds(w, projections.StockView(), old)
}

func TestLineageRules(t *testing.T) {
	l := projections.NewLineage().Begin().Begin() // 1 live, 2 and 3 being built
	if _, _, err := l.Turn(7, 1); err == nil {
		t.Error("turned to an unknown generation")
	}
	l, dead, err := l.Turn(2, 1)
	if err != nil || l.Live != 2 || l.Previous != 1 || len(dead) != 0 {
		t.Errorf("turn to 2: %+v, %v, %v", l, dead, err)
	}
	l, dead, err = l.Turn(3, 1)
	if err != nil || l.Live != 3 || l.Previous != 2 || len(dead) != 1 || dead[0] != 1 {
		t.Errorf("turn to 3: %+v, %v, %v", l, dead, err)
	}
	if _, err := l.Forget(3); err == nil {
		t.Error("forgot the live generation")
	}
	l, dead = l.Begin().Reopen()
	if len(dead) != 1 || dead[0] != 4 || len(l.Building) != 0 || l.Begin().Last != 5 {
		t.Errorf("reopen: %+v, %v", l, dead)
	}
}
