package pebblekv_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"cartwright/domain/event"
	"cartwright/domain/order"
	"cartwright/infra/memstore"
	"cartwright/infra/pebblekv"
	"cartwright/infra/viewtest"
	"cartwright/projections"
)

// life is any order's, of somebody.
func life(i int) viewtest.Life {
	return viewtest.Life{
		Number: i, Buyer: viewtest.BuyerOf(i % 1000), Seller: viewtest.SellerOf(i / 1000), Currency: "CNY",
		Titles: []string{fmt.Sprintf("夏季新款连衣裙 No %d", i%1000), "Cotton T-shirt, red"}, Price: 4900, Quantity: 1,
		Placed: time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC).Add(time.Duration(i) * time.Second),
	}
}

// A shop is a log of orders and the view that its buyers look at.
type shop struct {
	tb     testing.TB
	log    memstore.Store
	events *event.Registry
	orders []string // their streams
}

func newShop(tb testing.TB) *shop {
	tb.Helper()
	events, err := event.NewRegistry(order.Types()...)
	if err != nil {
		tb.Fatal(err)
	}
	return &shop{tb: tb, events: events}
}

// sells appends whole lives of so many orders, of three buyers, event by event
// and all of them mixed.
func (s *shop) sells(from, orders int) {
	s.tb.Helper()
	states := []string{"", "paid", "partial", "shipped", "completed", "cancelled", "refunded"}
	var lives [][]event.Recorded
	for i := range orders {
		l := life(from + i)
		l.Buyer = viewtest.BuyerOf((from + i) % 3)
		lives = append(lives, s.history(l.Become(states[i%len(states)])))
	}
	for len(lives) > 0 {
		i := rand.IntN(len(lives))
		s.appends(lives[i][0])
		if lives[i] = lives[i][1:]; len(lives[i]) == 0 {
			lives = slices.Delete(lives, i, i+1)
		}
	}
}

func (s *shop) appends(r event.Recorded) {
	s.tb.Helper()
	if err := s.log.Append(s.tb.Context(), r.Stream, r.Revision-1, []event.Recorded{r}); err != nil {
		s.tb.Fatal(err)
	}
	if r.Revision == 1 {
		s.orders = append(s.orders, r.Stream)
	}
}

// history gives the events of an order's life.
func (s *shop) history(l viewtest.Life) []event.Recorded {
	s.tb.Helper()
	id := l.ID(s.tb)
	place := order.Place{
		Order: id, Checkout: id, Buyer: l.Buyer, Seller: l.Seller, Currency: l.Currency, Address: []byte("sealed"), Attempt: "attempt",
	}
	for i, title := range l.Titles {
		place.Lines = append(place.Lines, order.Line{Line: i + 1, SKU: "SKU", Title: title, Quantity: l.Quantity, UnitPrice: l.Price, Freight: 100})
	}
	var state order.Order
	var all []event.Recorded
	for _, c := range append([]order.Command{place}, l.Steps...) {
		decided, err := order.Decider.Decide(state, c)
		if err != nil {
			s.tb.Fatalf("%T: %v", c, err)
		}
		for _, e := range decided {
			r, fault := s.events.Encode(e)
			if state, err = order.Decider.Evolve(state, e); err != nil || fault != nil {
				s.tb.Fatalf("%T: %v", e, errors.Join(err, fault))
			}
			r.Stream, r.Revision, r.ID, r.At = "order-"+id, event.Revision(len(all)+1), uuid.NewString(), l.Placed
			all = append(all, r)
		}
	}
	return all
}

// all is what the log has, in order.
func (s *shop) all() []event.Recorded {
	s.tb.Helper()
	var all []event.Recorded
	for r, err := range s.log.All(s.tb.Context(), 0) {
		if err != nil {
			s.tb.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// projects is a projector of the shop's, as one process has one.
func (s *shop) projects(to projections.Generation[projections.Order]) *projections.Projector[projections.Order] {
	return &projections.Projector[projections.Order]{
		View: projections.BuyersView(), Events: s.events, Log: &s.log, Views: to, Parking: to, Keep: 5,
	}
}

// delivers brings events to a projector, a few at a time.
func (s *shop) delivers(p *projections.Projector[projections.Order], events []event.Recorded) {
	for some := range slices.Chunk(events, 7) {
		batch := make([]projections.Decoded, len(some))
		for i, r := range some {
			batch[i] = projections.Decode(s.events, r)
		}
		if err := p.Apply(s.tb.Context(), batch); err != nil {
			s.tb.Errorf("apply: %v", err)
			return
		}
	}
}

// satisfied expects every buyer to find all of his orders, newest first, each as
// its whole stream says.
func (s *shop) satisfied(b *pebblekv.Buyers) {
	s.tb.Helper()
	want := map[string][]projections.Doc[projections.Order]{}
	for _, stream := range s.orders {
		doc, err := projections.Fold(s.tb.Context(), &s.log, s.events, projections.BuyersView(), stream)
		if err != nil {
			s.tb.Fatal(err)
		}
		want[doc.Body.State.Buyer] = append(want[doc.Body.State.Buyer], doc)
	}
	for buyer, docs := range want {
		slices.SortFunc(docs, func(x, y projections.Doc[projections.Order]) int {
			return cmp.Or(y.Body.PlacedAt.Compare(x.Body.PlacedAt), strings.Compare(y.Stream, x.Stream))
		})
		page, err := b.Newest(s.tb.Context(), buyer, len(docs)+1, nil)
		if diff := gocmp.Diff(docs, page.Items, viewtest.Equal...); err != nil || diff != "" {
			s.tb.Errorf("%s's orders: %v (-want +got):\n%s", buyer, err, diff)
		}
	}
	if n, err := b.Live().Count(s.tb.Context()); err != nil || n != int64(len(s.orders)) {
		s.tb.Errorf("%d orders, %v, want %d", n, err, len(s.orders))
	}
}

// muddled is what a bus may make of events: some come twice, some late, some
// never. The last of each order comes, sooner or later.
func muddled(events []event.Recorded) []event.Recorded {
	last := map[string]event.Revision{}
	for _, r := range events {
		last[r.Stream] = r.Revision
	}
	var come []event.Recorded
	for _, r := range events {
		times := 1 + rand.IntN(3)
		if r.Revision < last[r.Stream] && rand.IntN(4) == 0 {
			times = 0
		}
		come = append(come, slices.Repeat([]event.Recorded{r}, times)...)
	}
	rand.Shuffle(len(come), func(i, j int) { come[i], come[j] = come[j], come[i] })
	return come
}

func TestBuyersFindTheirOrdersWhateverTheBusDoes(t *testing.T) {
	b, err := pebblekv.NewBuyers(opened(t))
	if err != nil {
		t.Fatal(err)
	}
	s := newShop(t)
	for round := range 5 {
		s.sells(round*40, 40)
		var writers sync.WaitGroup
		for range 2 { // at once, and neither knows of the other
			writers.Go(func() { s.delivers(s.projects(b.Live()), muddled(s.all())) })
		}
		writers.Wait()
		s.satisfied(b)
	}
}

func TestAFolderOfViewsThatWasDeletedOpensEmptyAndFills(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "views")
	openBuyers := func() (*pebblekv.DB, *pebblekv.Buyers) {
		db := open(t, dir)
		b, err := pebblekv.NewBuyers(db)
		if err != nil {
			t.Fatal(err)
		}
		return db, b
	}
	s := newShop(t)
	s.sells(0, 30)
	db, b := openBuyers()
	s.delivers(s.projects(b.Live()), s.all())
	s.satisfied(b)
	if err := errors.Join(db.Close(), os.RemoveAll(dir)); err != nil {
		t.Fatal(err)
	}

	db, b = openBuyers()
	defer func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	if n, err := b.Live().Count(t.Context()); n != 0 || err != nil {
		t.Errorf("it opens with %d orders, %v", n, err)
	}
	if page, err := b.Newest(t.Context(), viewtest.BuyerOf(0), 5, nil); len(page.Items) != 0 || err != nil {
		t.Errorf("a buyer finds %d orders, %v", len(page.Items), err)
	}
	// What comes in first is shown whole, though all before it is gone.
	events := s.all()
	late := events[len(events)-1]
	s.delivers(s.projects(b.Live()), []event.Recorded{late})
	got, err := b.Get(t.Context(), []string{late.Stream})
	if err != nil || got[late.Stream].Revision != late.Revision {
		t.Errorf("%s is at %d, %v, want %d", late.Stream, got[late.Stream].Revision, err, late.Revision)
	}
	s.delivers(s.projects(b.Live()), events)
	s.satisfied(b)
}

// A rebuild that goes on after its process was lost ends as if it never was, and
// live events of both times are in it.
func TestABuildThatIsGoneOnWithMissesNothing(t *testing.T) {
	dir := t.TempDir()
	s := newShop(t)
	s.sells(0, 60)
	events := s.all()
	half := len(events) / 2

	opens := func() (*pebblekv.DB, *pebblekv.Buyers) {
		db := open(t, dir)
		b, err := pebblekv.NewBuyers(db)
		if err != nil {
			t.Fatal(err)
		}
		return db, b
	}

	db, b := opens()
	s.delivers(s.projects(b.Live()), events)
	next, err := b.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.delivers(s.projects(next), events[:half])
	at := projections.Checkpoint{Position: events[half-1].Position, Program: "v1"}
	err = b.Mark(t.Context(), next.Number(), at)
	s.delivers(s.projects(next), events[half:half+half/2]) // which nobody knows of
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}

	db, b = opens()
	again, from, found, err := b.Unfinished(t.Context())
	if err != nil || !found || from != at {
		t.Fatalf("unfinished: %+v, %v, %v", from, found, err)
	}
	s.sells(60, 10)
	for _, r := range s.all() {
		if r.Position > from.Position {
			s.delivers(s.projects(again), []event.Recorded{r})
		}
	}
	err = b.Switch(t.Context(), again.Number(), 1)
	s.satisfied(b)
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// A broken source has no more after so many events.
type broken struct {
	projections.Source
	after int
}

var errBroken = errors.New("the log is away")

func (b broken) All(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Recorded, error] {
	return func(yield func(event.Recorded, error) bool) {
		n := 0
		for r, err := range b.Source.All(ctx, after, prefixes...) {
			if n++; n > b.after {
				yield(r, errBroken)
				return
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

func TestAReplayThatWasBrokenOffGoesOnAfterARestart(t *testing.T) {
	dir := t.TempDir()
	s := newShop(t)
	s.sells(0, 50)
	replays := func(from projections.Source) (projections.Progress, error) {
		db := open(t, dir)
		b, err := pebblekv.NewBuyers(db)
		if err != nil {
			t.Fatal(err)
		}
		done, err := projections.Rebuild[projections.Order]{
			View: projections.BuyersView(), Events: s.events, Log: &s.log, Source: from, Generations: b,
			Workers: 2, Batch: 5, Program: "v1", MarkEvery: time.Nanosecond,
		}.Run(t.Context())
		if err == nil {
			s.satisfied(b)
		}
		if fault := db.Close(); fault != nil {
			t.Errorf("close: %v", fault)
		}
		return done.Progress, err
	}
	for range 3 {
		if _, err := replays(broken{&s.log, len(s.all()) / 4}); !errors.Is(err, errBroken) {
			t.Fatalf("replay: %v", err)
		}
		s.sells(len(s.orders), 5)
	}
	done, err := replays(&s.log)
	if err != nil || done.Resumed == 0 {
		t.Errorf("it went on from %d, %v", done.Resumed, err)
	}
}

// Generations are built, marked, made live, returned to and dropped while orders
// come in and buyers look at theirs.
func TestBuyersNeverNoticeThatGenerationsComeAndGo(t *testing.T) {
	b, err := pebblekv.NewBuyers(opened(t))
	if err != nil {
		t.Fatal(err)
	}
	doc := life(1).Become("paid").Doc(t)
	put := func(to projections.Generation[projections.Order]) {
		if err := to.Put(t.Context(), []projections.Doc[projections.Order]{doc}); err != nil && !strings.Contains(err.Error(), "dropped") {
			t.Errorf("put: %v", err)
		}
	}
	put(b.Live())
	done := make(chan struct{})
	var busy sync.WaitGroup
	for range 2 {
		busy.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				put(b.Live())
				for _, g := range b.Kept() {
					put(g)
				}
				page, err := b.Newest(t.Context(), doc.Body.State.Buyer, 5, nil)
				if err != nil || len(page.Items) != 1 {
					t.Errorf("a buyer finds %d orders, %v", len(page.Items), err)
					return
				}
			}
		})
	}
	for round := range 60 {
		next, err := b.Build(t.Context())
		if err == nil {
			put(next)
			err = b.Mark(t.Context(), next.Number(), projections.Checkpoint{Position: uint64(round)})
		}
		if kept := b.Kept(); err == nil && round%5 == 4 && len(kept) > 1 {
			err = errors.Join(b.Drop(t.Context(), next.Number()), b.Switch(t.Context(), kept[1].Number(), 2), b.Drop(t.Context(), kept[0].Number()))
		} else if err == nil {
			err = b.Switch(t.Context(), next.Number(), round%3)
		}
		if err != nil {
			t.Errorf("round %d: %v", round, err)
			break
		}
	}
	close(done)
	busy.Wait()
}
