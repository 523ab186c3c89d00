package projections_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"cartwright/domain/account"
	"cartwright/domain/catalog"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/infra/memstore"
	"cartwright/projections"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

// A world is an event store with the names of all events.
type world struct {
	tb     testing.TB
	store  memstore.Store
	events *event.Registry
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	events, err := event.NewRegistry(slices.Concat(order.Types(), inventory.Types(), account.Types(), catalog.Types())...)
	if err != nil {
		tb.Fatalf("registry: %v", err)
	}
	return &world{tb: tb, events: events}
}

// append adds events to a stream and gives them as they were stored.
func (w *world) append(stream string, events ...any) []event.Recorded {
	w.tb.Helper()
	records := make([]event.Recorded, len(events))
	for i, e := range events {
		record, raw := e.(event.Recorded)
		if !raw {
			var err error
			if record, err = w.events.Encode(e); err != nil {
				w.tb.Fatalf("encode: %v", err)
			}
		}
		record.ID, record.At = uuid.NewString(), noon
		records[i] = record
	}
	before := w.history(stream)
	if err := w.store.Append(w.tb.Context(), stream, event.Revision(len(before)), records); err != nil {
		w.tb.Fatalf("append: %v", err)
	}
	return w.history(stream)[len(before):]
}

func (w *world) history(stream string) []event.Recorded {
	w.tb.Helper()
	var all []event.Recorded
	for r, err := range w.store.Load(w.tb.Context(), stream, 0) {
		if err != nil {
			w.tb.Fatalf("load: %v", err)
		}
		all = append(all, r)
	}
	return all
}

// log is all there is, in order.
func (w *world) log() []event.Recorded {
	w.tb.Helper()
	var all []event.Recorded
	for r, err := range w.store.All(w.tb.Context(), 0) {
		if err != nil {
			w.tb.Fatalf("all: %v", err)
		}
		all = append(all, r)
	}
	return all
}

// garbage is an event that nobody can read.
func garbage() event.Recorded {
	return event.Recorded{Name: "order.evaporated", Version: 1, Data: json.RawMessage("{}")}
}

// received adds n events to a stock's stream.
func (w *world) received(sku string, n int) []event.Recorded {
	w.tb.Helper()
	events := make([]any, n)
	for i := range events {
		events[i] = inventory.Received{Quantity: int64(i + 1)}
	}
	return w.append("inventory-"+sku, events...)
}

func projector[V any](w *world, view projections.View[V], m *memory[V]) *projections.Projector[V] {
	return &projections.Projector[V]{View: view, Events: w.events, Log: &w.store, Views: m, Parking: m}
}

func decoded(w *world, records ...event.Recorded) []projections.Decoded {
	batch := make([]projections.Decoded, len(records))
	for i, r := range records {
		batch[i] = projections.Decode(w.events, r)
	}
	return batch
}

// folds expects a view to have exactly what the streams say.
func folds[V any](w *world, view projections.View[V], m *memory[V]) {
	w.tb.Helper()
	want := map[string]projections.Doc[V]{}
	for _, r := range w.log() {
		if !view.Wants(event.Category(r.Stream)) {
			continue
		}
		doc, err := projections.Fold(w.tb.Context(), &w.store, w.events, view, r.Stream)
		if err != nil {
			w.tb.Fatalf("fold: %v", err)
		}
		want[r.Stream] = doc
	}
	got, err := m.Get(w.tb.Context(), slices.Collect(maps.Keys(want)))
	if diff := cmp.Diff(want, got, equal...); err != nil || diff != "" {
		w.tb.Fatalf("%s: %v (-want +got):\n%s", view.Name, err, diff)
	}
}

var equal = cmp.Options{cmpopts.EquateEmpty(), cmpopts.IgnoreFields(projections.Account{}, "Fresh")}

// A memory is an engine without a disk. It stores JSON, like the real ones, so
// that nothing is shared with whoever put it.
type memory[V any] struct {
	mu     sync.Mutex
	number int
	docs   map[string]stored
	parked map[string]projections.Parked

	gets   int // documents that were asked for
	fail   func(op string) error
	refuse map[string]error
	taken  func(projections.Doc[V])
}

type stored struct {
	at   event.Revision
	body []byte
}

func newMemory[V any]() *memory[V] {
	return &memory[V]{docs: map[string]stored{}, parked: map[string]projections.Parked{}}
}

func (m *memory[V]) begin(ctx context.Context, op string) error {
	m.mu.Lock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.fail != nil {
		return m.fail(op)
	}
	return nil
}

func (m *memory[V]) Get(ctx context.Context, streams []string) (map[string]projections.Doc[V], error) {
	defer m.mu.Unlock()
	if err := m.begin(ctx, "get"); err != nil {
		return nil, err
	}
	docs := map[string]projections.Doc[V]{}
	m.gets += len(streams)
	for _, stream := range streams {
		s, ok := m.docs[stream]
		if !ok {
			continue
		}
		doc := projections.Doc[V]{Stream: stream, Revision: s.at}
		if err := json.Unmarshal(s.body, &doc.Body); err != nil {
			return nil, err
		}
		docs[stream] = doc
	}
	return docs, nil
}

func (m *memory[V]) Put(ctx context.Context, docs []projections.Doc[V]) error {
	defer m.mu.Unlock()
	if err := m.begin(ctx, "put"); err != nil {
		return err
	}
	refused := map[string]error{}
	for _, doc := range docs {
		if reason := m.refuse[doc.Stream]; reason != nil {
			refused[doc.Stream] = reason
			continue
		}
		if m.taken != nil {
			m.taken(doc)
		}
		body, err := json.Marshal(doc.Body)
		if err != nil {
			return err
		}
		if doc.Revision > m.docs[doc.Stream].at {
			m.docs[doc.Stream] = stored{doc.Revision, bytes.Clone(body)}
		}
	}
	if len(refused) > 0 {
		return &projections.RefusedError{Docs: refused}
	}
	return nil
}

func (m *memory[V]) Revisions(ctx context.Context, streams []string) (map[string]event.Revision, error) {
	defer m.mu.Unlock()
	if err := m.begin(ctx, "revisions"); err != nil {
		return nil, err
	}
	revisions := map[string]event.Revision{}
	for _, stream := range streams {
		if s, ok := m.docs[stream]; ok {
			revisions[stream] = s.at
		}
	}
	return revisions, nil
}

func (m *memory[V]) Parked(ctx context.Context, streams []string) (map[string]projections.Parked, error) {
	defer m.mu.Unlock()
	if err := m.begin(ctx, "parked"); err != nil {
		return nil, err
	}
	parked := map[string]projections.Parked{}
	for _, stream := range streams {
		if record, ok := m.parked[stream]; ok {
			parked[stream] = record
		}
	}
	return parked, nil
}

func (m *memory[V]) Park(ctx context.Context, records []projections.Parked) error {
	defer m.mu.Unlock()
	if err := m.begin(ctx, "park"); err != nil {
		return err
	}
	for _, record := range records {
		before, ok := m.parked[record.Stream]
		if ok && !record.Supersedes(before) {
			continue
		}
		if ok {
			record = record.Onto(before)
		}
		m.parked[record.Stream] = record
	}
	return nil
}

func (m *memory[V]) Unpark(ctx context.Context, streams []string) error {
	defer m.mu.Unlock()
	if err := m.begin(ctx, "unpark"); err != nil {
		return err
	}
	for _, stream := range streams {
		delete(m.parked, stream)
	}
	return nil
}

func (m *memory[V]) Number() int { return m.number }

func (m *memory[V]) Count(ctx context.Context) (int64, error) {
	defer m.mu.Unlock()
	return int64(len(m.docs)), m.begin(ctx, "count")
}

func (m *memory[V]) Streams(ctx context.Context, after string, limit int) ([]string, error) {
	defer m.mu.Unlock()
	if err := m.begin(ctx, "streams"); err != nil {
		return nil, err
	}
	streams := slices.DeleteFunc(slices.Sorted(maps.Keys(m.docs)), func(s string) bool { return s <= after })
	return streams[:min(limit, len(streams))], nil
}

// generations are copies of a view in memory, read like one.
type generations[V any] struct {
	mu      sync.Mutex
	lineage projections.Lineage
	all     map[int]*memory[V]
}

func newGenerations[V any]() *generations[V] {
	first := newMemory[V]()
	first.number = 1
	return &generations[V]{lineage: projections.NewLineage(), all: map[int]*memory[V]{1: first}}
}

func (g *generations[V]) live() *memory[V] {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.all[g.lineage.Live]
}

func (g *generations[V]) Build(ctx context.Context) (projections.Generation[V], error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	g.lineage = g.lineage.Begin()
	m := newMemory[V]()
	m.number = g.lineage.Last
	g.all[m.number] = m
	return m, nil
}

func (g *generations[V]) Kept() []projections.Generation[V] {
	g.mu.Lock()
	defer g.mu.Unlock()
	var kept []projections.Generation[V]
	for _, number := range g.lineage.Kept() {
		kept = append(kept, g.all[number])
	}
	return kept
}

func (g *generations[V]) Mark(ctx context.Context, number int, at projections.Checkpoint) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	next, err := g.lineage.Mark(number, at)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	g.lineage = next
	return nil
}

func (g *generations[V]) Unfinished(ctx context.Context) (projections.Generation[V], projections.Checkpoint, bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.lineage.Unfinished()
	return g.all[n], g.lineage.Marks[n], n != 0, ctx.Err()
}

func (g *generations[V]) Switch(ctx context.Context, to, keep int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	next, dead, err := g.lineage.Turn(to, keep)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	for _, number := range dead {
		delete(g.all, number)
	}
	g.lineage = next
	return nil
}

func (g *generations[V]) Drop(ctx context.Context, number int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	next, err := g.lineage.Forget(number)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	delete(g.all, number)
	g.lineage = next
	return nil
}

// A brokenLog fails each time, or once it has given so many events.
type brokenLog struct {
	projections.Log
	after int
}

var errBroken = errors.New("the disk is on fire")

func (l brokenLog) Load(ctx context.Context, stream string, after event.Revision) iter.Seq2[event.Recorded, error] {
	return func(yield func(event.Recorded, error) bool) {
		n := 0
		for r, err := range l.Log.Load(ctx, stream, after) {
			if n++; n > l.after {
				break
			}
			if !yield(r, err) {
				return
			}
		}
		yield(event.Recorded{}, fmt.Errorf("load: %w", errBroken))
	}
}
