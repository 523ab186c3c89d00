package projections_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/domain/catalog"
	"cartwright/domain/inventory"
	"cartwright/projections"
)

// spoil puts something else in the place of every document.
func spoil[V any](m *memory[V]) {
	for stream, s := range m.docs {
		m.docs[stream] = stored{s.at, []byte(`{}`)}
	}
}

// repaired are the streams whose documents are not spoilt any more.
func repaired[V any](m *memory[V]) []string {
	var streams []string
	for stream, s := range m.docs {
		if string(s.body) != `{}` {
			streams = append(streams, stream)
		}
	}
	slices.Sort(streams)
	return streams
}

func (m *memory[V]) repair(_ context.Context, docs []projections.Doc[V]) error {
	for _, doc := range docs {
		body, err := json.Marshal(doc.Body)
		if err != nil {
			return err
		}
		if doc.Revision >= m.docs[doc.Stream].at {
			m.docs[doc.Stream] = stored{doc.Revision, body}
		}
	}
	return nil
}

func refresh[V any](w *world, view projections.View[V], m *memory[V], c projections.Choice) projections.Refresh[V] {
	return projections.Refresh[V]{Projector: projector(w, view, m), Source: &w.store, Repair: m.repair, Choice: c, Workers: 2}
}

func TestAReplayOfAPartTouchesNothingElse(t *testing.T) {
	day := func(n int) time.Time { return noon.AddDate(0, 0, n) }
	for name, c := range map[string]struct {
		choice projections.Choice
		want   []string
	}{
		"one stream":               {projections.Choice{Streams: []string{"offer-b"}}, []string{"offer-b"}},
		"two, one of them twice":   {projections.Choice{Streams: []string{"offer-c", "offer-b", "offer-c"}}, []string{"offer-b", "offer-c"}},
		"a seller's":               {projections.Choice{Seller: "s1"}, []string{"offer-a", "offer-c"}},
		"a seller's, in time":      {projections.Choice{Seller: "s1", From: day(-1), To: day(1)}, []string{"offer-a", "offer-c"}},
		"a seller's, at no time":   {projections.Choice{Seller: "s1", From: day(1)}, nil},
		"from the hour":            {projections.Choice{From: noon}, []string{"offer-a", "offer-b", "offer-c"}},
		"up to the hour, excluded": {projections.Choice{To: noon}, nil},
		"nobody's":                 {projections.Choice{Seller: "s3"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for sku, seller := range map[string]string{"a": "s1", "b": "s2", "c": "s1"} {
				snapshot := catalog.Snapshot{SKU: sku, Seller: seller, Title: "Lamp", Currency: "BRL", UnitPrice: 100}
				digest, err := catalog.Digest(snapshot)
				if err != nil {
					t.Fatal(err)
				}
				w.append("offer-"+sku, catalog.Described{Digest: digest, Snapshot: snapshot}, catalog.Published{Digest: digest, OnSale: true})
			}
			m := newMemory[projections.Offer]()
			apply(t, projector(w, projections.OffersView(), m), decoded(w, w.log()...)...)
			spoil(m)
			r := refresh(w, projections.OffersView(), m, c.choice)
			r.Dry = true
			if done, err := r.Run(t.Context()); err != nil || int(done.Streams) != len(c.want) || len(repaired(m)) != 0 {
				t.Errorf("dry: %+v, %v, repaired %v", done, err, repaired(m))
			}
			r.Dry = false
			done, err := r.Run(t.Context())
			if err != nil || int(done.Streams) != len(c.want) || int(done.Events) != 2*len(c.want) {
				t.Errorf("%+v, %v", done, err)
			}
			if diff := cmp.Diff(c.want, repaired(m)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAViewIsNotChosenFromByWhatItDoesNotKnow(t *testing.T) {
	w := newWorld(t)
	w.received("a", 1)
	m := newMemory[projections.Stock]()
	for name, c := range map[string]struct {
		choice projections.Choice
		want   error
	}{
		"stock has no sellers": {projections.Choice{Seller: "s1"}, projections.ErrNoSuchChoice},
		"nor orders":           {projections.Choice{Streams: []string{"order-1"}}, projections.ErrNoSuchChoice},
		"a stream of nobody":   {projections.Choice{Streams: []string{"inventory-x"}}, projections.ErrNoStream},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := refresh(w, projections.StockView(), m, c.choice).Run(t.Context()); !errors.Is(err, c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAReplayOfAPartStopsAtACorruptStream(t *testing.T) {
	w := newWorld(t)
	w.received("good", 2)
	w.received("bad", 2)
	w.append("inventory-bad", garbage())
	w.append("inventory-worse", garbage())
	m := newMemory[projections.Stock]()
	r := refresh(w, projections.StockView(), m, projections.Choice{From: noon})
	if _, ok := errors.AsType[*projections.PoisonError](second(r.Run(t.Context()))); !ok || len(m.docs) != 0 {
		t.Errorf("documents %v", m.docs)
	}
	r.Park = true
	if _, err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(m.parked) != 2 || len(m.docs) != 2 || m.docs["inventory-bad"].at != 2 {
		t.Errorf("parked %v, documents %v", m.parked, m.docs)
	}
}

// A stream that was parked for a fault of the program is followed again.
func TestAReplayOfAPartFollowsAParkedStreamAgain(t *testing.T) {
	w := newWorld(t)
	w.received("a", 3)
	m := newMemory[projections.Stock]()
	if err := m.Park(t.Context(), []projections.Parked{{View: "stock", Stream: "inventory-a", Revision: 2, Reason: "a bug", Count: 2}}); err != nil {
		t.Fatal(err)
	}
	if _, err := refresh(w, projections.StockView(), m, projections.Choice{Streams: []string{"inventory-a"}}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	folds(w, projections.StockView(), m)
	if len(m.parked) != 0 {
		t.Errorf("parked %v", m.parked)
	}
}

func TestVerifyLooksAtPartOfTheLog(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Stock]()
	for i := range 50 {
		w.received(fmt.Sprintf("sku%02d", i), 4)
	}
	before := w.log()
	w.append("inventory-sku07", inventory.Received{Quantity: 1})
	w.received("late", 2)
	apply(t, projector(w, projections.StockView(), m), decoded(w, w.log()...)...)
	spoil(m)
	m.docs["inventory-sku07-stray"] = stored{1, []byte(`{}`)}
	check := func(set func(*projections.Verification[projections.Stock])) (map[string]projections.Kind, projections.Verified) {
		found := map[string]projections.Kind{}
		v := projections.Verification[projections.Stock]{
			View: projections.StockView(), Events: w.events, Log: &w.store, Source: &w.store, Docs: m,
			Report: func(d projections.Difference) error { found[d.Stream] = d.Kind; return nil },
		}
		set(&v)
		sum, err := v.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return found, sum
	}
	t.Run("what changed since", func(t *testing.T) {
		for _, limit := range []int{0, 1} {
			found, sum := check(func(v *projections.Verification[projections.Stock]) {
				v.Since, v.Limit = before[len(before)-1].Position, limit
			})
			want := map[string]projections.Kind{"inventory-sku07": projections.Differs, "inventory-late": projections.Differs}
			if diff := cmp.Diff(want, found); diff != "" || sum.Position != 203 || limit == 0 && sum.Events != 7 {
				t.Errorf("%+v (-want +got):\n%s", sum, diff)
			}
		}
	})
	t.Run("a sample", func(t *testing.T) {
		found, sum := check(func(v *projections.Verification[projections.Stock]) { v.Sample, v.Head = 10, 203 })
		if len(found) < 10 || len(found) > 25 || sum.Events > 120 {
			t.Errorf("%d found, %+v", len(found), sum)
		}
	})
	t.Run("a sample of all there is finds what has no stream", func(t *testing.T) {
		found, _ := check(func(v *projections.Verification[projections.Stock]) { v.Sample, v.Head = 1000, 203 })
		if len(found) != 52 || found["inventory-sku07-stray"] != projections.Extra {
			t.Errorf("%d found: %v", len(found), found)
		}
	})
	t.Run("no faster than it may", func(t *testing.T) {
		spent := 0
		_, sum := check(func(v *projections.Verification[projections.Stock]) {
			v.Spend = func(_ context.Context, events int) error { spent += events; return nil }
		})
		if spent < 200 || sum.Position != 203 {
			t.Errorf("%d events were asked for: %+v", spent, sum)
		}
		v := projections.Verification[projections.Stock]{
			View: projections.StockView(), Events: w.events, Log: &w.store, Source: &w.store, Docs: m,
			Spend: func(context.Context, int) error { return errBroken },
		}
		if _, err := v.Run(t.Context()); !errors.Is(err, errBroken) {
			t.Errorf("verify: %v", err)
		}
	})
}
