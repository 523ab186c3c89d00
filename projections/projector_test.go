package projections_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/projections"
)

// The bus may repeat, reorder and lose events, and the engine may fail at any
// call. As long as the last event of a stream comes in the end, and a failed
// batch comes again, the view is the fold.
func TestWhateverTheBusDoesEndsInTheFold(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		m := newMemory[projections.Stock]()
		p := projector(w, projections.StockView(), m)
		p.Keep = rapid.SampledFrom([]int{0, 1, 3, 100}).Draw(rt, "keep")
		var all, last []event.Recorded
		for i := range rapid.IntRange(1, 4).Draw(rt, "streams") {
			history := w.received(fmt.Sprintf("sku%d", i), rapid.IntRange(1, 12).Draw(rt, "events"))
			all = append(all, history...)
			last = append(last, history[len(history)-1])
		}
		var sent []event.Recorded
		for _, r := range rapid.Permutation(all).Draw(rt, "order") {
			for range rapid.IntRange(0, 2).Draw(rt, "times") {
				sent = append(sent, r)
			}
		}
		for batch := range slices.Chunk(append(sent, last...), rapid.IntRange(1, 9).Draw(rt, "batch")) {
			for i, done := 0, false; !done; i++ {
				m.fail = func(op string) error {
					if i < 3 && rapid.IntRange(0, 4).Draw(rt, op) == 0 {
						return errBroken
					}
					return nil
				}
				err := p.Apply(t.Context(), decoded(w, batch...))
				if err != nil && !errors.Is(err, errBroken) {
					rt.Fatalf("apply: %v", err)
				}
				done = err == nil
			}
		}
		m.fail = nil
		folds(w, projections.StockView(), m)
		if len(m.parked) > 0 {
			rt.Fatalf("parked: %v", m.parked)
		}
	})
}

func TestAGapIsHealedFromTheLog(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Stock]()
	p := projector(w, projections.StockView(), m)
	history := w.received("a", 10)
	apply(t, p, decoded(w, history[0], history[1], history[7])...)
	folds(w, projections.StockView(), m)
	apply(t, p, decoded(w, history...)...)
	want := projections.Stats{Applied: 10, Skipped: 10, Healed: 1}
	// The repeat begins with the stream's first event, so it is folded anew and
	// changes nothing.
	if got := p.Stats(); got.Healed != want.Healed || got.Parked != 0 {
		t.Errorf("stats %+v", got)
	}
	folds(w, projections.StockView(), m)
}

func TestALogThatIsBehindFailsTheBatch(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Stock]()
	p := projector(w, projections.StockView(), m)
	history := w.received("a", 3)
	ahead := history[2]
	ahead.Revision = 5
	if err := p.Apply(t.Context(), decoded(w, ahead)); err == nil {
		t.Error("an event that the log does not have was applied")
	}
	p.Log = brokenLog{&w.store, 1}
	if err := p.Apply(t.Context(), decoded(w, history[2])); !errors.Is(err, errBroken) {
		t.Errorf("apply with a broken log: %v", err)
	}
	if len(m.parked) != 0 {
		t.Errorf("a log's trouble parked %v", m.parked)
	}
	p.Log = &w.store
	apply(t, p, decoded(w, history[2])...)
	folds(w, projections.StockView(), m)
}

func TestAPoisonEventParksItsStreamOnly(t *testing.T) {
	for name, poison := range map[string]any{
		"unreadable":              garbage(),
		"impossible":              inventory.ShippedOut{Order: "o", Parcel: "o/1", Quantity: 1000},
		"of another aggregate":    event.Recorded{Name: "order.shipped", Version: 1, Data: []byte("{}")},
		"newer than this program": event.Recorded{Name: "inventory.received", Version: 9, Data: []byte("{}")},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			m := newMemory[projections.Stock]()
			p := projector(w, projections.StockView(), m)
			p.Keep = 10
			good := w.received("good", 3)
			bad := slices.Concat(w.received("bad", 2), w.append("inventory-bad", poison), w.received("bad", 4))
			apply(t, p, decoded(w, slices.Concat(bad[:1], good[:2])...)...)
			apply(t, p, decoded(w, slices.Concat(bad[1:4], good[2:])...)...)
			if got := m.parked["inventory-bad"]; got.Revision != 3 || got.Count != 2 || got.Reason == "" || got.View != "stock" || got.At.IsZero() {
				t.Errorf("parked %+v", got)
			}
			for range 2 { // later events only count, and a repeat counts once
				apply(t, p, decoded(w, bad[4:]...)...)
				if got := m.parked["inventory-bad"]; got.Revision != 3 || got.Count != 5 {
					t.Errorf("parked %+v, want revision 3, count 5", got)
				}
			}
			docs, err := m.Get(t.Context(), []string{"inventory-good", "inventory-bad"})
			if err != nil || docs["inventory-good"].Revision != 3 || docs["inventory-bad"].Revision != 2 || docs["inventory-bad"].Body.OnHand != 3 {
				t.Errorf("documents %+v, %v", docs, err)
			}
		})
	}
}

// What came over the bus may be spoilt where the log is not: the log decides.
func TestAnEventSpoiltOnTheWayIsReadFromTheLog(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Stock]()
	p := projector(w, projections.StockView(), m)
	history := w.received("a", 3)
	spoilt := history[1]
	spoilt.Data = []byte("{")
	apply(t, p, decoded(w, history[0], spoilt, history[2])...)
	folds(w, projections.StockView(), m)
	if len(m.parked) != 0 {
		t.Errorf("parked %v", m.parked)
	}
}

func TestATombstonedStreamIsParked(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Stock]()
	p := projector(w, projections.StockView(), m)
	history := w.received("a", 3)
	if err := w.store.Tombstone(t.Context(), "inventory-a"); err != nil {
		t.Fatal(err)
	}
	apply(t, p, decoded(w, history[2])...)
	if got := m.parked["inventory-a"]; got.Revision != 1 || got.Count != 3 {
		t.Errorf("parked %+v", got)
	}
}

func TestADocumentTheEngineRefusesIsParked(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Stock]()
	m.refuse = map[string]error{"inventory-bad": errors.New("too long")}
	p := projector(w, projections.StockView(), m)
	apply(t, p, decoded(w, slices.Concat(w.received("bad", 2), w.received("good", 2))...)...)
	if got := m.parked["inventory-bad"]; got.Revision != 2 || got.Reason != "too long" {
		t.Errorf("parked %+v", got)
	}
	docs, err := m.Get(t.Context(), []string{"inventory-good"})
	if err != nil || docs["inventory-good"].Revision != 2 {
		t.Errorf("documents %+v, %v", docs, err)
	}
}

func TestARedriveFollowsTheStreamAgain(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Stock]()
	p := projector(w, projections.StockView(), m)
	m.refuse = map[string]error{"inventory-a": errors.New("the index is read only")}
	history := w.received("a", 5)
	apply(t, p, decoded(w, history[:3]...)...)
	if err := p.Redrive(t.Context(), "inventory-a"); err == nil {
		t.Error("redriven, though the engine still refuses")
	}
	m.refuse = nil
	apply(t, p, decoded(w, history[3:]...)...)
	if got := m.parked["inventory-a"]; got.Count != 3 || len(m.docs) != 0 {
		t.Errorf("later events did more than count: %+v, %d documents", got, len(m.docs))
	}
	if err := p.Redrive(t.Context(), "inventory-a"); err != nil {
		t.Fatalf("redrive: %v", err)
	}
	folds(w, projections.StockView(), m)
	if len(m.parked) != 0 {
		t.Errorf("parked %v", m.parked)
	}
}

// An event that comes while its stream is redriven is only counted, since the
// stream is parked: it must not be forgotten with the record.
func TestAnEventDuringARedriveIsNotLost(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Stock]()
	p := projector(w, projections.StockView(), m)
	m.refuse = map[string]error{"inventory-a": errors.New("read only")}
	apply(t, p, decoded(w, w.received("a", 3)...)...)
	m.refuse = nil
	p.Log = &meddler{Log: &w.store, do: func() { apply(t, p, decoded(w, w.received("a", 1)...)...) }}
	if err := p.Redrive(t.Context(), "inventory-a"); err != nil {
		t.Fatalf("redrive: %v", err)
	}
	folds(w, projections.StockView(), m)
}

// A meddler does something once, when a stream was read.
type meddler struct {
	projections.Log
	do func()
}

func (l *meddler) Load(ctx context.Context, stream string, after event.Revision) iter.Seq2[event.Recorded, error] {
	return func(yield func(event.Recorded, error) bool) {
		for r, err := range l.Log.Load(ctx, stream, after) {
			if !yield(r, err) {
				return
			}
		}
		if do := l.do; do != nil {
			l.do = nil
			do()
		}
	}
}

func TestARedriveOfAStreamThatIsStillWrongSaysSo(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Stock]()
	p := projector(w, projections.StockView(), m)
	bad := slices.Concat(w.received("bad", 2), w.append("inventory-bad", garbage()), w.received("bad", 4))
	apply(t, p, decoded(w, bad...)...)
	before := m.parked["inventory-bad"]
	err := p.Redrive(t.Context(), "inventory-bad")
	parked, ok := errors.AsType[*projections.ParkedError](err)
	if !ok || parked.Revision != 3 || parked.Count != 5 {
		t.Errorf("redrive: %v", err)
	}
	after := m.parked["inventory-bad"]
	after.At = before.At
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("record (-before +after):\n%s", diff)
	}
}

func TestDocumentsThatAreRememberedAreNotReadAgain(t *testing.T) {
	w := newWorld(t)
	for keep, want := range map[int]int{0: 9, 100: 0} {
		m := newMemory[projections.Stock]()
		p := projector(w, projections.StockView(), m)
		p.Keep = keep
		sku := fmt.Sprintf("sku%d", keep)
		for _, r := range w.received(sku, 10) {
			apply(t, p, decoded(w, r)...)
		}
		if m.gets != want {
			t.Errorf("keep %d: %d documents were read, want %d", keep, m.gets, want)
		}
	}
}

// tricky is a view that changes the inside of the document it is given, as
// Apply may, and does so before it refuses an event.
func tricky() projections.View[map[string]int64] {
	return projections.View[map[string]int64]{
		Name: "tricky", Categories: []string{"inventory"},
		Apply: func(doc map[string]int64, r event.Recorded, decoded any) (map[string]int64, error) {
			if doc == nil {
				doc = map[string]int64{}
			}
			doc["events"]++
			if _, ok := decoded.(inventory.ShippedOut); ok {
				return doc, errors.New("nothing is ever shipped here")
			}
			return doc, nil
		},
	}
}

func TestABatchThatFailsLeavesNoTraceInWhatIsRemembered(t *testing.T) {
	w := newWorld(t)
	m := newMemory[map[string]int64]()
	p := projector(w, tricky(), m)
	p.Keep = 10
	history := w.received("a", 4)
	apply(t, p, decoded(w, history[:2]...)...)
	m.fail = func(op string) error {
		if op == "put" {
			return errBroken
		}
		return nil
	}
	for range 3 {
		if err := p.Apply(t.Context(), decoded(w, history[2])); !errors.Is(err, errBroken) {
			t.Fatalf("apply: %v", err)
		}
	}
	m.fail = nil
	apply(t, p, decoded(w, history[2:]...)...)
	folds(w, tricky(), m)
}

func TestARefusedEventLeavesNoTraceInTheDocument(t *testing.T) {
	w := newWorld(t)
	m := newMemory[map[string]int64]()
	p := projector(w, tricky(), m)
	w.received("a", 2)
	w.append("inventory-a", inventory.ShippedOut{Quantity: 1})
	apply(t, p, decoded(w, w.log()...)...)
	docs, err := m.Get(t.Context(), []string{"inventory-a"})
	if doc := docs["inventory-a"]; err != nil || doc.Revision != 2 || doc.Body["events"] != 2 {
		t.Errorf("got %+v, %v", doc, err)
	}
}

func TestAnAccountsEntriesAreHandedToTheEngineOnce(t *testing.T) {
	w := newWorld(t)
	m := newMemory[projections.Account]()
	p := projector(w, projections.AccountsView(), m)
	p.Keep = 10
	fresh := 0
	m.taken = func(doc projections.Doc[projections.Account]) { fresh += len(doc.Body.Fresh) }
	events := []any{account.Opened{Account: "a", Currency: "CNY"}}
	for i := range int64(5) {
		events = append(events, account.Deposited{Entry: i + 1, Amount: 1, Journal: "j"})
	}
	for _, r := range w.append("account-a", events...) {
		apply(t, p, decoded(w, r)...)
	}
	if fresh != 5 {
		t.Errorf("%d entries were handed over, want 5", fresh)
	}
}

func TestNewestKeepsOneDocumentAStream(t *testing.T) {
	doc := func(stream string, at event.Revision) projections.Doc[int] {
		return projections.Doc[int]{Stream: stream, Revision: at}
	}
	got := projections.Newest([]projections.Doc[int]{doc("a", 2), doc("b", 1), doc("a", 3), doc("a", 1)})
	if diff := cmp.Diff([]projections.Doc[int]{doc("a", 3), doc("b", 1)}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAFoldSaysWhereAStreamIsCorrupt(t *testing.T) {
	w := newWorld(t)
	w.received("a", 2)
	w.append("inventory-a", inventory.ShippedOut{Order: "o", Parcel: "o/1", Quantity: 1000})
	w.received("a", 1)
	doc, err := projections.Fold(t.Context(), &w.store, w.events, projections.StockView(), "inventory-a")
	corrupt, ok := errors.AsType[*projections.CorruptError](err)
	if !ok || corrupt.Stream != "inventory-a" || corrupt.Revision != 3 || corrupt.Err == nil {
		t.Errorf("fold: %v", err)
	}
	if doc.Revision != 2 || doc.Body.OnHand != 3 {
		t.Errorf("the document before it is %+v", doc)
	}
	if doc, err := projections.Fold(t.Context(), &w.store, w.events, projections.StockView(), "inventory-none"); err != nil || doc.Revision != 0 {
		t.Errorf("a stream nobody wrote to: %+v, %v", doc, err)
	}
	if _, err := projections.Fold(t.Context(), brokenLog{&w.store, 1}, w.events, projections.StockView(), "inventory-a"); !errors.Is(err, errBroken) {
		t.Errorf("a broken log: %v", err)
	}
}

func apply[V any](tb testing.TB, p *projections.Projector[V], batch ...projections.Decoded) {
	tb.Helper()
	if err := p.Apply(tb.Context(), batch); err != nil {
		tb.Fatalf("apply: %v", err)
	}
}
