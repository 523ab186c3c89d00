//go:build integration

package elasticviews_test

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cartwright/domain/event"
	"cartwright/infra/elasticviews"
	"cartwright/infra/viewtest"
	"cartwright/projections"
)

func TestADeletedIndexIsHealedByAReplay(t *testing.T) {
	t.Parallel()
	for name, index := range map[string]string{"documents": "-orders-1", "copies": "-sales-1", "both": "-*-1"} {
		t.Run(name, func(t *testing.T) {
			cfg, dbs := cluster(t, 2)
			healing(t, dbs[0], dbs[1], func() {
				for found := range call[map[string]any](t, cfg, http.MethodGet, index+"/_alias", "") {
					request[map[string]any](t, cfg, http.MethodDelete, "/"+found, "")
				}
			})
		})
	}
}

// closed is the n-th order of buyer b from seller s, closed a week after it was placed.
func closed(tb testing.TB, n int, placed time.Time) orderDoc {
	tb.Helper()
	return viewtest.Life{
		Number: n, Buyer: "b", Seller: "s", Currency: "CNY", Titles: []string{"x"}, Price: 5, Quantity: 2,
		Placed: placed, Later: 7 * 24 * time.Hour,
	}.Become("completed").Doc(tb)
}

func january(year int) time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }

func TestADeletedYearIsHealedByAReplay(t *testing.T) {
	t.Parallel()
	cfg, dbs := cluster(t, 2)
	a, b := orders(t, dbs[0]), orders(t, dbs[1])
	docs := []orderDoc{closed(t, 1, january(2017)), closed(t, 2, january(2018)), closed(t, 3, january(2020))}
	put(t, a.Live(), docs...)
	if moved, err := a.Archive(t.Context(), january(2019), nil); err != nil || moved != 2 {
		t.Fatalf("%d were moved, %v", moved, err)
	}
	call[map[string]any](t, cfg, http.MethodDelete, "-sales.y2017-1", "")
	put(t, b.Live(), closed(t, 4, january(2021)))
	for _, o := range []*elasticviews.Orders{a, b} {
		_, err := o.Revisions(t.Context(), streamsOf(docs))
		if !errors.Is(err, projections.ErrUnavailable) || !strings.Contains(err.Error(), "sales.y2017-1") {
			t.Errorf("revisions: %v", err)
		}
	}
	next := build(t, a.Views)
	put(t, next, append(docs, closed(t, 4, january(2021)))...)
	turn(t, a.Views, next.Number())
	poll(t, func() bool { return b.Unfit(t.Context()) == nil })
	if at, err := b.Boundary(t.Context()); err != nil || !at.Equal(january(2019)) {
		t.Errorf("the boundary is %v, %v", at, err)
	}
	for scope, want := range map[projections.Scope]int{projections.Archive: 2, projections.Recent: 2, projections.All: 4} {
		if page, err := b.Orders(t.Context(), projections.OrderQuery{Seller: "s", Scope: scope, Limit: 10}); err != nil || len(page.Items) != want {
			t.Errorf("%s: %d orders, %v", scope, len(page.Items), err)
		}
	}
	if got := audit(t, b.Audit); len(got) != 0 {
		t.Errorf("differences: %v", got)
	}
}

// Orders are changed by one process, archived by a second and a third at once,
// and read by a fourth, which is told of none of it.
func TestWhatRevisionsReportsIsListedWhileOrdersAreArchived(t *testing.T) {
	t.Parallel()
	cfg := config(t, namespace(t.TempDir()))
	cfg.RefreshEvery = time.Hour // no refresh comes by itself
	processes := make([]*elasticviews.Orders, 4)
	for i := range processes {
		processes[i] = orders(t, openedIn(t, cfg))
	}
	writer, reader := processes[0], processes[3]
	docs := make([]orderDoc, 40)
	for i := range docs {
		docs[i] = closed(t, i, january(2017).AddDate(0, i, 0))
	}
	put(t, writer.Live(), docs...)

	var done atomic.Bool
	var archiving, busy sync.WaitGroup
	for i, o := range processes[1:3] {
		archiving.Go(func() {
			for month := i; month < 44; month += 7 {
				if _, err := o.Archive(t.Context(), january(2017).AddDate(0, month, 0), nil); err != nil {
					t.Errorf("archive: %v", err)
				}
			}
		})
	}
	var acknowledged atomic.Uint64
	acknowledged.Store(uint64(docs[0].Revision))
	busy.Go(func() {
		for !done.Load() {
			batch := make([]orderDoc, len(docs))
			for i, doc := range docs {
				doc.Revision = event.Revision(acknowledged.Load() + 1)
				batch[i] = doc
			}
			if err := writer.Live().Put(t.Context(), batch); err != nil {
				t.Errorf("put: %v", err)
				return
			}
			acknowledged.Add(1)
		}
	})
	busy.Go(func() {
		for !done.Load() {
			least := event.Revision(acknowledged.Load())
			revisions, err := reader.Revisions(t.Context(), streamsOf(docs))
			if err != nil || len(revisions) != len(docs) {
				t.Errorf("%d revisions, %v", len(revisions), err)
				return
			}
			for _, q := range []projections.OrderQuery{{Buyer: "b", Limit: 100}, {Seller: "s", Limit: 100}} {
				page, err := reader.Orders(t.Context(), q)
				if err != nil || len(page.Items) != len(docs) {
					t.Errorf("%d orders, %v", len(page.Items), err)
					return
				}
				for _, doc := range page.Items {
					if doc.Revision < revisions[doc.Stream] || revisions[doc.Stream] < least {
						t.Errorf("%s: acknowledged was %d, reported %d, listed %d", doc.Stream, least, revisions[doc.Stream], doc.Revision)
					}
				}
			}
		}
	})
	archiving.Wait()
	done.Store(true)
	busy.Wait()
	if got := audit(t, reader.Audit); len(got) != 0 {
		t.Errorf("differences: %v", got)
	}
	to, err := reader.Boundary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	put := 0
	for _, doc := range docs {
		if _, archived := doc.Body.Archived(to); archived {
			put++
		}
	}
	tiers, err := reader.Tiers(t.Context())
	if err != nil || tiers[0].Documents != int64(len(docs)-put) {
		t.Errorf("%+v, %v, want %d at hand", tiers, err, len(docs)-put)
	}
	// What is at hand has nothing that readers do not see.
	physical := call[struct{ Count int }](t, cfg, http.MethodGet, "-orders-1/_count", "").Count
	if physical != len(docs)-put {
		t.Errorf("%d documents are left in the index at hand, want %d", physical, len(docs)-put)
	}
}

func TestAnUnfinishedGenerationIsNotTakenFromItsBuilder(t *testing.T) {
	t.Parallel()
	cfg, dbs := cluster(t, 2)
	a, b := plain(t, dbs[0]), plain(t, dbs[1])
	next := build(t, a)
	at := projections.Checkpoint{Position: 7, Program: "p"}
	if err := a.Mark(t.Context(), next.Number(), at); err != nil {
		t.Fatal(err)
	}
	if err := b.Mark(t.Context(), next.Number(), at); err == nil {
		t.Error("another process marked it")
	}
	if _, _, found, err := b.Unfinished(t.Context()); err != nil || found {
		t.Errorf("another process took it: %v, %v", found, err)
	}
	// Its own process may ask as often as it likes.
	if g, _, found, err := a.Unfinished(t.Context()); err != nil || !found || g.Number() != next.Number() {
		t.Errorf("its builder does not find it: %v, %v", found, err)
	}
	// The builder is a process of this machine that is no more.
	rewrite(t, cfg, "plain", func(family map[string]any) {
		builders, _ := family["builders"].(map[string]any)
		for _, builder := range builders {
			said, _ := builder.(map[string]any)
			said["pid"] = 1 << 30
		}
	})
	g, got, found, err := b.Unfinished(t.Context())
	if err != nil || !found || g.Number() != next.Number() || got != at {
		t.Fatalf("it is not found: %v at %+v, %v, %v", g, got, found, err)
	}
	if err := a.Switch(t.Context(), next.Number(), 1); err == nil {
		t.Error("who lost it switched to it")
	}
	turn(t, b, g.Number())
}
