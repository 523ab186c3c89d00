package elasticviews_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"cartwright/domain/event"
	"cartwright/infra/elasticviews"
	"cartwright/projections"
)

func ordersOf(tb testing.TB, db *elasticviews.DB) *elasticviews.Orders {
	tb.Helper()
	o, err := elasticviews.NewOrders(tb.Context(), db)
	if err != nil {
		tb.Fatalf("open orders: %v", err)
	}
	return o
}

func poll(tb testing.TB, over func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(5 * time.Second); !over(); {
		if time.Now().After(deadline) {
			tb.Fatal("it does not come to an end")
		}
	}
}

// healing ruins the orders of two processes, and expects readers to be told so
// and nobody to be held up until one of them has built the view anew.
func healing(t *testing.T, a, b *elasticviews.DB, ruin func()) {
	t.Helper()
	one, other := ordersOf(t, a), ordersOf(t, b)
	first, second, third := sample(t, 1, "x"), sample(t, 2, "y"), sample(t, 3, "z")
	if err := one.Live().Put(t.Context(), []orderDoc{first}); err != nil {
		t.Fatal(err)
	}
	ruin()
	for _, o := range []*elasticviews.Orders{one, other, ordersOf(t, b)} {
		if err := o.Live().Put(t.Context(), []orderDoc{second}); err != nil {
			t.Errorf("put what the log has: %v", err)
		}
		if err := o.Live().Park(t.Context(), []projections.Parked{{Stream: second.Stream, Revision: 2, Count: 1}}); err != nil {
			t.Errorf("park: %v", err)
		}
		if docs, err := o.Live().Get(t.Context(), []string{first.Stream}); err != nil || len(docs) != 0 {
			t.Errorf("a projector got %v, %v", docs, err)
		}
		if parked, err := o.Live().Parked(t.Context(), []string{second.Stream}); err != nil || len(parked) != 0 {
			t.Errorf("a projector got %v, %v", parked, err)
		}
		unavailable(t, o, first.Stream)
	}

	next, err := one.Build(t.Context())
	if err != nil {
		t.Fatalf("build: %v", err)
	}
	if err := next.Put(t.Context(), []orderDoc{first, second}); err != nil {
		t.Fatalf("put: %v", err)
	}
	unavailable(t, other, first.Stream)
	if err := one.Switch(t.Context(), next.Number(), 1); err != nil {
		t.Fatalf("switch: %v", err)
	}
	for _, o := range []*elasticviews.Orders{one, other, ordersOf(t, b)} {
		if err := o.Unfit(t.Context()); err != nil {
			// What was found out a moment ago is gone by for so long.
			poll(t, func() bool { return o.Unfit(t.Context()) == nil })
		}
		if err := o.Live().Put(t.Context(), []orderDoc{third}); err != nil {
			t.Errorf("put: %v", err)
		}
		streams := []string{first.Stream, second.Stream, third.Stream}
		if docs, err := o.Get(t.Context(), streams); err != nil || len(docs) != len(streams) {
			t.Errorf("got %d documents, %v", len(docs), err)
		}
	}
}

// unavailable expects readers to be told what is wrong, and what helps.
func unavailable(t *testing.T, o *elasticviews.Orders, stream string) {
	t.Helper()
	for name, read := range map[string]func() error{
		"get": func() error {
			_, err := o.Get(t.Context(), []string{stream})
			return err
		},
		"revisions": func() error {
			_, err := o.Revisions(t.Context(), []string{stream})
			return err
		},
		"parked": func() error {
			_, err := o.Parked(t.Context(), []string{stream})
			return err
		},
		"list": func() error {
			_, err := o.Orders(t.Context(), projections.OrderQuery{Seller: "s", Limit: 1})
			return err
		},
		"summary": func() error {
			_, err := o.Summary(t.Context(), projections.SummaryQuery{Seller: "s"})
			return err
		},
		"streams": func() error {
			_, err := o.Live().Streams(t.Context(), "", 1)
			return err
		},
		"audit": func() error {
			return o.Audit(t.Context(), func(projections.Difference) error { return nil })
		},
		"archive": func() error {
			_, err := o.Archive(t.Context(), noon, nil)
			return err
		},
		"repair": func() error { return o.Live().Repair(t.Context(), []orderDoc{sample(t, 1, "x")}) },
		"unfit":  func() error { return o.Unfit(t.Context()) },
	} {
		if err := read(); !errors.Is(err, projections.ErrUnavailable) || !strings.Contains(err.Error(), "cartwright replay --view orders") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestALostViewIsHealedByAReplay(t *testing.T) {
	for name, ruin := range map[string]func(f *fake){
		"an index was deleted":           func(f *fake) { f.delete("t-orders-1") },
		"an index beside it was deleted": func(f *fake) { f.delete("t-sales-1") },
		"everything was deleted":         func(f *fake) { f.delete("t-orders-1"); f.delete("t-sales-1") },
		"an alias was deleted":           func(f *fake) { delete(f.aliases, "t-orders") },
		"an alias was turned by hand": func(f *fake) {
			f.indices["t-sales-9"] = map[string]*fakeDoc{}
			f.aliases["t-sales"] = map[string]bool{"t-sales-9": true}
		},
		"the list of views was deleted": func(f *fake) { f.delete("t-views"); f.delete("t-orders-1") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			cfg := f.config(t)
			healing(t, connect(t, cfg), connect(t, cfg), func() {
				f.mu.Lock()
				defer f.mu.Unlock()
				ruin(f)
			})
		})
	}
}

func TestAnIndexOfAnOlderProgramIsHealedByAReplay(t *testing.T) {
	for _, index := range []string{"t-orders-1", "t-sales-1"} {
		f := newFake()
		cfg := f.config(t)
		db := connect(t, cfg)
		ordersOf(t, db)
		f.versions[index] = 1
		o := ordersOf(t, db)
		doc := sample(t, 1, "x")
		unavailable(t, o, doc.Stream)
		if err := o.Live().Put(t.Context(), []orderDoc{doc}); err != nil || len(f.has("t-orders-1")) != 0 {
			t.Errorf("%s: put into it: %v, %v", index, f.has("t-orders-1"), err)
		}
		next, err := o.Build(t.Context())
		if err == nil {
			err = next.Put(t.Context(), []orderDoc{doc})
		}
		if err == nil {
			err = o.Switch(t.Context(), next.Number(), 1)
		}
		if err != nil {
			t.Fatalf("%s: %v", index, err)
		}
		if got, err := o.Revisions(t.Context(), []string{doc.Stream}); err != nil || got[doc.Stream] != event.Revision(1) {
			t.Errorf("%s: %v, %v", index, got, err)
		}
		if err := o.Switch(t.Context(), 1, 1); err == nil {
			t.Errorf("%s: returned to it", index)
		}
	}
}

// What was let pass is missing for good, so an index that comes back by itself is
// not taken for whole.
func TestALostViewThatComesBackIsStillToBeBuiltAnew(t *testing.T) {
	f := newFake()
	o := ordersOf(t, connect(t, f.config(t)))
	first, second := sample(t, 1, "x"), sample(t, 2, "y")
	if err := o.Live().Put(t.Context(), []orderDoc{first}); err != nil {
		t.Fatal(err)
	}
	on := f.aliases["t-orders"]
	delete(f.aliases, "t-orders")
	if err := o.Live().Put(t.Context(), []orderDoc{second}); err != nil {
		t.Fatal(err)
	}
	f.aliases["t-orders"] = on
	unavailable(t, o, first.Stream)
	unavailable(t, ordersOf(t, connect(t, f.config(t))), first.Stream)
}
