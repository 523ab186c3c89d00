package projections_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/domain/inventory"
	"cartwright/projections"
)

func verify(w *world, m *memory[projections.Stock], limit int) (map[string]projections.Difference, projections.Verified) {
	w.tb.Helper()
	found := map[string]projections.Difference{}
	v := projections.Verification[projections.Stock]{
		View: projections.StockView(), Events: w.events, Log: &w.store, Source: &w.store, Docs: m, Limit: limit,
		Patience: 5 * time.Millisecond,
		Report: func(d projections.Difference) error {
			found[d.Stream] = d
			return nil
		},
	}
	sum, err := v.Run(w.tb.Context())
	if err != nil {
		w.tb.Fatalf("verify: %v", err)
	}
	return found, sum
}

func TestVerifyFindsWhatIsNotTheFold(t *testing.T) {
	for _, limit := range []int{0, 3} {
		t.Run(fmt.Sprintf("limit=%d", limit), func(t *testing.T) {
			w := newWorld(t)
			m := newMemory[projections.Stock]()
			p := projector(w, projections.StockView(), m)
			for i := range 20 {
				apply(t, p, decoded(w, w.received(fmt.Sprintf("sku%d", i), 3)...)...)
			}
			w.received("corrupt", 1)
			w.append("inventory-corrupt", inventory.ShippedOut{Order: "o", Parcel: "o/1", Quantity: 1000})
			bad := append(w.received("parked", 2), w.append("inventory-parked", garbage())...)
			apply(t, p, decoded(w, bad...)...)
			delete(m.docs, "inventory-sku3")
			m.docs["inventory-sku4"] = stored{3, []byte(`{"sku":"sku4","on_hand":7,"changed_at":"2026-03-14T12:00:00Z"}`)}
			m.docs["inventory-sku5"] = stored{2, m.docs["inventory-sku5"].body}
			m.docs["inventory-sku6"] = stored{9, m.docs["inventory-sku6"].body}
			m.docs["inventory-stray"] = stored{1, []byte(`{}`)}

			found, sum := verify(w, m, limit)
			want := map[string]projections.Difference{
				"inventory-sku3":    {View: "stock", Stream: "inventory-sku3", Kind: projections.Missing, Want: 3},
				"inventory-sku4":    {View: "stock", Stream: "inventory-sku4", Kind: projections.Differs, Detail: "/on_hand is 7, not 6", Have: 3, Want: 3},
				"inventory-sku5":    {View: "stock", Stream: "inventory-sku5", Kind: projections.Stale, Have: 2, Want: 3},
				"inventory-sku6":    {View: "stock", Stream: "inventory-sku6", Kind: projections.Differs, Detail: "the document is ahead of its stream", Have: 9, Want: 3},
				"inventory-stray":   {View: "stock", Stream: "inventory-stray", Kind: projections.Extra, Have: 1},
				"inventory-corrupt": {View: "stock", Stream: "inventory-corrupt", Kind: projections.Corrupt, Want: 1},
				"inventory-parked":  {View: "stock", Stream: "inventory-parked", Kind: projections.Stopped, Have: 2, Want: 2},
			}
			for _, stream := range []string{"inventory-corrupt", "inventory-parked"} {
				d := found[stream]
				if d.Detail == "" {
					t.Errorf("%s: no detail", stream)
				}
				d.Detail = ""
				found[stream] = d
			}
			if diff := cmp.Diff(want, found); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if sum.Streams != 22 || sum.Differences != 7 || (sum.Passes > 1) != (limit > 0) {
				t.Errorf("sum %+v", sum)
			}
		})
	}
}

func TestARepairPutsTheFoldInThePlaceOfWhatDrifted(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Stock]()
	for _, sku := range []string{"missing", "stale", "wrong", "ahead", "good"} {
		apply(t, projector(w, projections.StockView(), m), decoded(w, w.received(sku, 3)...)...)
	}
	good := m.docs["inventory-good"]
	delete(m.docs, "inventory-missing")
	m.docs["inventory-stale"] = stored{2, m.docs["inventory-stale"].body}
	m.docs["inventory-wrong"] = stored{3, []byte(`{"sku":"wrong","on_hand":7,"changed_at":"2026-03-14T12:00:00Z"}`)}
	m.docs["inventory-ahead"] = stored{9, m.docs["inventory-ahead"].body}
	m.docs["inventory-stray"] = stored{1, []byte(`{}`)}
	found := map[string]bool{}
	v := projections.Verification[projections.Stock]{
		View: projections.StockView(), Events: w.events, Log: &w.store, Source: &w.store, Docs: m,
		Report: func(d projections.Difference) error {
			found[d.Stream] = d.Repaired
			return nil
		},
		Repair: func(_ context.Context, docs []projections.Doc[projections.Stock]) error {
			for _, doc := range docs {
				body, err := json.Marshal(doc.Body)
				if err != nil {
					return err
				}
				m.docs[doc.Stream] = stored{doc.Revision, body}
			}
			return nil
		},
	}
	sum, err := v.Run(t.Context())
	want := map[string]bool{
		"inventory-missing": true, "inventory-stale": true, "inventory-wrong": true, "inventory-ahead": false, "inventory-stray": false,
	}
	if diff := cmp.Diff(want, found); err != nil || diff != "" || sum.Differences != 5 || sum.Repaired != 3 {
		t.Errorf("%v, %+v, repaired (-want +got):\n%s", err, sum, diff)
	}
	if !bytes.Equal(m.docs["inventory-good"].body, good.body) {
		t.Error("what was right was touched")
	}
	v.Repair = nil
	delete(m.docs, "inventory-ahead")
	delete(m.docs, "inventory-stray")
	if again, err := v.Run(t.Context()); err != nil || again.Differences != 1 { // the one that was just taken away
		t.Errorf("after the repair: %+v, %v, %v", again, err, found)
	}
}

func TestACacheMayForgetAndNotBeWrong(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Stock]()
	for _, sku := range []string{"kept", "forgotten", "wrong"} {
		apply(t, projector(w, projections.StockView(), m), decoded(w, w.received(sku, 3)...)...)
	}
	delete(m.docs, "inventory-forgotten")
	m.docs["inventory-wrong"] = stored{3, []byte(`{"sku":"wrong","on_hand":7,"changed_at":"2026-03-14T12:00:00Z"}`)}
	var found []string
	v := projections.Verification[projections.Stock]{
		View: projections.StockView(), Events: w.events, Log: &w.store, Source: &w.store, Docs: m, Cache: true,
		Report: func(d projections.Difference) error {
			found = append(found, d.Stream+" "+string(d.Kind))
			return nil
		},
	}
	if _, err := v.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"inventory-wrong differs"}, found); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestVerifyIsNotMisledByAViewOnTheMove(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Stock]()
	p := projector(w, projections.StockView(), m)
	apply(t, p, decoded(w, w.received("a", 3)...)...)
	w.received("late", 3)
	v := projections.Verification[projections.Stock]{
		View: projections.StockView(), Events: w.events, Log: &w.store, Docs: m, Patience: 10 * time.Second,
		Source: intruder{&w.store, func() {
			apply(t, p, decoded(w, w.received("a", 2)...)...)   // went on since
			w.received("a", 2)                                  // and its stream further
			apply(t, p, decoded(w, w.received("new", 2)...)...) // began since
		}},
	}
	// A reader that is slow: the view catches up while verify looks.
	calls := 0
	m.fail = func(op string) error {
		if op == "get" {
			calls++
		}
		if calls == 3 {
			m.docs["inventory-late"] = fold(w, "inventory-late")
		}
		return nil
	}
	sum, err := v.Run(t.Context())
	if err != nil || sum.Differences != 0 {
		t.Errorf("%+v, %v", sum, err)
	}
}

// fold is a stored document, made in a view of its own.
func fold(w *world, stream string) stored {
	other := newMemory[projections.Stock]()
	apply(w.tb, projector(w, projections.StockView(), other), decoded(w, w.history(stream)...)...)
	return other.docs[stream]
}

func TestVerifyStopsWhereTheEngineFails(t *testing.T) {
	w := newWorld(t)
	w.received("a", 1)
	m := newMemory[projections.Stock]()
	m.fail = func(string) error { return errBroken }
	v := projections.Verification[projections.Stock]{
		View: projections.StockView(), Events: w.events, Log: &w.store, Source: &w.store, Docs: m,
	}
	if _, err := v.Run(t.Context()); err == nil {
		t.Error("verified a view that can't be read")
	}
}
