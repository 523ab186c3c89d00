package viewtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cartwright/projections"
)

// Tiers are an engine's order index in two tiers.
type Tiers struct {
	Store[projections.Order]
	Archiver projections.Archiver
	Index    interface {
		Orders(ctx context.Context, q projections.OrderQuery) (projections.OrderPage, error)
		Summary(ctx context.Context, q projections.SummaryQuery) (projections.Summary, error)
	}
}

// Archive checks an order index in two tiers. Open opens it in a folder, or on a
// server under that name; a second open of the same folder comes after Close.
func Archive(t *testing.T, open func(t *testing.T, dir string) Tiers) {
	t.Helper()
	for name, check := range map[string]func(*testing.T, Tiers){
		"what was closed before is archived by its year":     tiersMove,
		"a document goes to the tier where it belongs":       tiersSort,
		"a late event changes an archived order in place":    tiersLate,
		"a repair changes an archived order in place":        tiersRepair,
		"the boundary never goes back":                       tiersForward,
		"an ended context stops an archiving that can go on": tiersCancelled,
		"lists have one cursor over both tiers":              tiersList,
		"a list is whole while orders are closed and moved":  tiersWhole,
		"a rebuild fills both tiers":                         tiersRebuild,
		"the hot tier stays flat for three years":            func(t *testing.T, a Tiers) { t.Helper(); ThreeYears(t, a, 2200) },
	} {
		t.Run(name, func(t *testing.T) {
			a := open(t, t.TempDir())
			t.Cleanup(func() { closing(t, a.Store) })
			check(t, a)
		})
	}
	t.Run("tiers and boundary are there after a restart", func(t *testing.T) { tiersRestart(t, open) })
}

func (a Tiers) orders() OrderIndex { return OrderIndex{Views: a.Live(), Index: a.Index} }

// archive moves the boundary on and expects so many orders to be moved, or any
// number where that is negative.
func (a Tiers) archive(tb testing.TB, before time.Time, want int64) {
	tb.Helper()
	last := int64(0)
	moved, err := a.Archiver.Archive(tb.Context(), before, func(n int64) {
		if n < last {
			tb.Errorf("%d were moved, then %d", last, n)
		}
		last = n
	})
	if err != nil {
		tb.Fatalf("archive what was closed before %v: %v", before, err)
	}
	if want >= 0 && moved != want || last > moved {
		tb.Errorf("%d were moved, want %d; the last heard of was %d", moved, want, last)
	}
}

// tiers expects so many documents at hand (0) and by year.
func (a Tiers) tiers(tb testing.TB, want map[int]int64) {
	tb.Helper()
	tiers, err := a.Archiver.Tiers(tb.Context())
	if err != nil {
		tb.Fatalf("tiers: %v", err)
	}
	if len(tiers) == 0 || tiers[0].Year != 0 || !slices.IsSortedFunc(tiers, func(x, y projections.Tier) int { return x.Year - y.Year }) {
		tb.Errorf("not at hand first, then by year: %+v", tiers)
	}
	got, total := map[int]int64{}, int64(0)
	for _, tier := range tiers {
		if total += tier.Documents; tier.Documents != 0 {
			got[tier.Year] = tier.Documents
		}
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		tb.Errorf("tiers (-want +got):\n%s", diff)
	}
	if n, err := a.Live().Count(tb.Context()); err != nil || n != total {
		tb.Errorf("%d documents, %v; the tiers have %d", n, err, total)
	}
}

func (a Tiers) boundary(tb testing.TB, want time.Time) {
	tb.Helper()
	if got, err := a.Archiver.Boundary(tb.Context()); err != nil || !got.Equal(want) {
		tb.Errorf("the boundary is %v, %v, want %v", got, err, want)
	}
}

// lists expects all lists of a seller, of either tier and of both, to be those
// of some documents.
func (a Tiers) lists(tb testing.TB, seller string, before time.Time, docs ...projections.Doc[projections.Order]) {
	tb.Helper()
	for _, scope := range []projections.Scope{"", projections.All, projections.Recent, projections.Archive} {
		q := projections.OrderQuery{Seller: seller, Scope: scope, Limit: 3}
		got := walk(tb, a.orders(), q)
		if diff := gocmp.Diff(naiveList(scoped(docs, scope, before), q), ids(got)); diff != "" {
			tb.Errorf("scope %q (-want +got):\n%s", scope, diff)
		}
	}
}

func scoped(docs []projections.Doc[projections.Order], scope projections.Scope, before time.Time) []projections.Doc[projections.Order] {
	var kept []projections.Doc[projections.Order]
	for _, doc := range docs {
		_, archived := doc.Body.Archived(before)
		if scope == projections.Recent && archived || scope == projections.Archive && !archived {
			continue
		}
		kept = append(kept, doc)
	}
	return kept
}

// in is a day of a year.
func in(year, month, day int) time.Time {
	return time.Date(year, time.Month(month), day, 10, 11, 12, 13000, time.UTC)
}

// shirt is an order of seller s that got where it is a week after it was placed.
func shirt(number int, placed time.Time, status string) Life {
	return Life{
		Number: number, Buyer: "b", Seller: "s", Currency: "CNY", Titles: []string{"red shirt"}, Price: 500, Quantity: 2,
		Placed: placed, Later: 7 * 24 * time.Hour,
	}.Become(status)
}

func tiersMove(t *testing.T, a Tiers) {
	t.Helper()
	a.tiers(t, map[int]int64{})
	a.boundary(t, time.Time{})
	west := time.FixedZone("west", -5*3600)
	docs := []projections.Doc[projections.Order]{
		shirt(0, in(2017, 2, 3), "completed").Doc(t),
		shirt(1, in(2017, 12, 30), "cancelled").Doc(t),
		shirt(2, time.Date(2017, 12, 31, 23, 0, 0, 0, west), "refunded").Doc(t), // 2018, where years are counted
		shirt(3, in(2018, 6, 6), "partially_refunded").Doc(t),
		shirt(4, in(2017, 3, 3), "shipped").Doc(t),
		shirt(5, in(2017, 3, 4), "paid").Doc(t),
		shirt(6, in(2019, 1, 2), "completed").Doc(t),
		shirt(7, in(2020, 1, 2), "completed").Doc(t),
	}
	put(t, a.Live(), docs...)
	record := projections.Parked{View: "any", Stream: docs[0].Stream, Revision: 99, Reason: "so", Count: 1}
	park(t, a.Store, record)
	a.tiers(t, map[int]int64{0: 8})
	before := *naiveTotal(docs)
	a.sums(t, before)

	to := docs[6].Body.ClosedAt // what was closed at that very moment stays
	a.archive(t, to, 4)
	a.boundary(t, to)
	a.tiers(t, map[int]int64{0: 4, 2017: 2, 2018: 2})
	a.lists(t, "s", to, docs...)
	a.archive(t, to.Add(time.Microsecond), 1)
	a.archive(t, to.Add(time.Microsecond), 0)
	a.tiers(t, map[int]int64{0: 3, 2017: 2, 2018: 2, 2019: 1})
	a.lists(t, "s", to.Add(time.Microsecond), docs...)
	a.lists(t, "nobody", to)

	same(t, a.Reader, docs...)
	same(t, a.Live(), docs...)
	parked(t, a.Store, record)
	a.sums(t, before)
	revisions, err := a.Reader.Revisions(t.Context(), streamsOf(docs))
	for _, doc := range docs {
		if err != nil || revisions[doc.Stream] != doc.Revision {
			t.Errorf("%s is at %d, %v, want %d", doc.Stream, revisions[doc.Stream], err, doc.Revision)
		}
	}
	var listed []string
	for after := ""; ; after = listed[len(listed)-1] {
		some, err := a.Live().Streams(t.Context(), after, 3)
		if err != nil {
			t.Fatalf("streams: %v", err)
		}
		if listed = append(listed, some...); len(some) == 0 {
			break
		}
	}
	if diff := gocmp.Diff(slices.Sorted(slices.Values(streamsOf(docs))), listed); diff != "" {
		t.Errorf("streams (-want +got):\n%s", diff)
	}
}

func streamsOf(docs []projections.Doc[projections.Order]) []string {
	streams := make([]string, len(docs))
	for i, doc := range docs {
		streams[i] = doc.Stream
	}
	return streams
}

// naiveTotal adds the orders of seller s up.
func naiveTotal(docs []projections.Doc[projections.Order]) *projections.Sums {
	total := projections.Sums{}
	for _, doc := range docs {
		if f, _ := doc.Body.Facts(); f.Seller == "s" {
			total = plus(total, f)
		}
	}
	return &total
}

func (a Tiers) sums(tb testing.TB, want projections.Sums) {
	tb.Helper()
	got, err := a.Index.Summary(tb.Context(), projections.SummaryQuery{Seller: "s"})
	if diff := gocmp.Diff(want, got.ByCurrency["CNY"], Equal...); err != nil || diff != "" {
		tb.Errorf("sums: %v (-want +got):\n%s", err, diff)
	}
}

func tiersSort(t *testing.T, a Tiers) {
	t.Helper()
	to := in(2020, 1, 1)
	a.archive(t, to, 0)
	a.boundary(t, to)
	// Whole histories, one of them step by step in a batch, and one beside them that is not closed.
	old := shirt(1, in(2018, 5, 5), "completed")
	put(t, a.Live(), shirt(0, in(2017, 5, 5), "cancelled").Doc(t), shirt(1, in(2018, 5, 5), "").Doc(t), old.Doc(t), shirt(2, in(2018, 5, 6), "paid").Doc(t))
	a.tiers(t, map[int]int64{0: 1, 2017: 1, 2018: 1})
	// One after the other.
	for _, status := range []string{"", "paid", "shipped"} {
		put(t, a.Live(), shirt(3, in(2016, 7, 7), status).Doc(t))
		a.tiers(t, map[int]int64{0: 2, 2017: 1, 2018: 1})
	}
	put(t, a.Live(), shirt(3, in(2016, 7, 7), "completed").Doc(t))
	a.tiers(t, map[int]int64{0: 1, 2016: 1, 2017: 1, 2018: 1})
	// Closed after the boundary, though placed long before.
	late := shirt(4, in(2016, 1, 1), "completed")
	late.Later = to.Sub(late.Placed)
	put(t, a.Live(), late.Doc(t))
	a.tiers(t, map[int]int64{0: 2, 2016: 1, 2017: 1, 2018: 1})
	docs := []projections.Doc[projections.Order]{
		shirt(0, in(2017, 5, 5), "cancelled").Doc(t), old.Doc(t), shirt(2, in(2018, 5, 6), "paid").Doc(t),
		shirt(3, in(2016, 7, 7), "completed").Doc(t), late.Doc(t),
	}
	a.lists(t, "s", to, docs...)
	same(t, a.Reader, docs...)
	a.sums(t, *naiveTotal(docs))
}

func tiersLate(t *testing.T, a Tiers) {
	t.Helper()
	l := shirt(1, in(2018, 5, 5), "completed")
	other := shirt(2, in(2018, 5, 5), "completed").Doc(t)
	put(t, a.Live(), l.Doc(t), other)
	to := in(2020, 1, 1)
	a.archive(t, to, 2)
	refunded := shirt(1, in(2018, 5, 5), "partially_refunded").Doc(t)
	put(t, a.Live(), refunded)
	for _, stale := range []string{"", "shipped", "completed"} { // also such as say that it is at hand
		put(t, a.Live(), shirt(1, in(2018, 5, 5), stale).Doc(t))
	}
	// One that began without an order in it says nothing of where it is.
	nothing := projections.Doc[projections.Order]{Stream: refunded.Stream, Revision: 1}
	put(t, a.Live(), nothing)
	a.tiers(t, map[int]int64{2018: 2})
	same(t, a.Reader, refunded, other)
	a.lists(t, "s", to, refunded, other)
	a.sums(t, *naiveTotal([]projections.Doc[projections.Order]{refunded, other}))
	if got := walk(t, a.orders(), projections.OrderQuery{Seller: "s", Text: "shirt", Limit: 1}); len(got) != 2 {
		t.Errorf("the text is found %d times", len(got))
	}
}

func tiersRepair(t *testing.T, a Tiers) {
	t.Helper()
	right := shirt(1, in(2018, 5, 5), "completed").Doc(t)
	wrong := right
	wrong.Body.State.Seller = "other"
	wrong.Body.State.Lines = slices.Clone(right.Body.State.Lines)
	wrong.Body.State.Lines[0].Title = "blue trousers"
	astray := right // placed in another year, and not closed
	astray.Body.PlacedAt, astray.Body.ClosedAt = in(2016, 1, 1), time.Time{}
	to := in(2020, 1, 1)
	a.archive(t, to, 0)
	put(t, a.Live(), wrong)
	a.tiers(t, map[int]int64{2018: 1})
	older := shirt(1, in(2018, 5, 5), "shipped").Doc(t)
	for _, doc := range []projections.Doc[projections.Order]{older, right, astray, right} {
		if err := a.Live().Repair(t.Context(), []projections.Doc[projections.Order]{doc}); err != nil {
			t.Fatalf("repair: %v", err)
		}
		if doc.Revision == right.Revision {
			same(t, a.Reader, doc)
		}
	}
	a.tiers(t, map[int]int64{2018: 1})
	same(t, a.Reader, right)
	a.lists(t, "s", to, right)
	a.lists(t, "other", to)
	a.sums(t, *naiveTotal([]projections.Doc[projections.Order]{right}))
	for text, want := range map[string]int{"shirt": 1, "trousers": 0} {
		if got := walk(t, a.orders(), projections.OrderQuery{Buyer: "b", Text: text, Limit: 5}); len(got) != want {
			t.Errorf("%s: %d orders, want %d", text, len(got), want)
		}
	}
}

func tiersForward(t *testing.T, a Tiers) {
	t.Helper()
	put(t, a.Live(), shirt(1, in(2018, 5, 5), "completed").Doc(t), shirt(2, in(2019, 5, 5), "completed").Doc(t))
	a.archive(t, in(2019, 1, 1), 1)
	for _, earlier := range []time.Time{in(2018, 1, 1), {}} {
		a.archive(t, earlier, 0)
		a.boundary(t, in(2019, 1, 1))
		a.tiers(t, map[int]int64{0: 1, 2018: 1})
	}
	put(t, a.Live(), shirt(3, in(2018, 5, 5), "completed").Doc(t))
	a.tiers(t, map[int]int64{0: 1, 2018: 2})
	a.archive(t, in(2020, 1, 1), 1)
	a.boundary(t, in(2020, 1, 1))
	a.tiers(t, map[int]int64{2018: 2, 2019: 1})
}

func tiersCancelled(t *testing.T, a Tiers) {
	t.Helper()
	put(t, a.Live(), shirt(1, in(2018, 5, 5), "completed").Doc(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Archiver.Archive(ctx, in(2019, 1, 1), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("archive: %v", err)
	}
	if moved, err := a.Archiver.Archive(t.Context(), in(2019, 1, 1), nil); err != nil || moved != 1 {
		t.Errorf("%d were moved, %v", moved, err)
	}
	a.tiers(t, map[int]int64{2018: 1})
	if _, err := a.Archiver.Tiers(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("tiers: %v", err)
	}
}

// tiersList draws orders of several years, closed at any time since the last
// run's boundary, puts some of them before and some after it moves, and asks
// for all kinds of lists.
func tiersList(t *testing.T, a Tiers) {
	t.Helper()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		run, since := fmt.Sprintf("run%d.", runs), in(2026, 1, 1).Add(time.Duration(runs)*200*time.Hour)
		docs := map[string]projections.Doc[projections.Order]{}
		fill := func() {
			var batch []projections.Doc[projections.Order]
			for range rapid.IntRange(0, 20).Draw(rt, "orders") {
				l := drawLife(rt, rapid.IntRange(0, 25).Draw(rt, "number"), run)
				l.Placed = in(rapid.IntRange(2020, 2023).Draw(rt, "year"), 12, 31).Add(time.Duration(rapid.IntRange(-3, 30).Draw(rt, "hours")) * time.Hour)
				if was, ok := docs["order-"+l.ID(t)]; ok {
					l.Placed = was.Body.PlacedAt // that it keeps
				}
				l.Later = since.Add(time.Duration(rapid.IntRange(0, 200).Draw(rt, "closed")) * time.Hour).Sub(l.Placed)
				doc := l.Doc(t)
				if was := docs[doc.Stream]; was.Body.ClosedAt.IsZero() && doc.Revision > was.Revision {
					docs[doc.Stream] = doc
					batch = append(batch, doc)
				}
			}
			put(t, a.Live(), batch...)
		}
		fill()
		to := since.Add(time.Duration(rapid.IntRange(0, 199).Draw(rt, "boundary")) * time.Hour)
		a.archive(t, to, -1)
		fill()
		all := make([]projections.Doc[projections.Order], 0, len(docs))
		for _, doc := range docs {
			all = append(all, doc)
		}
		for range 6 {
			q := drawQuery(rt, run)
			q.From, q.To = drawYears(rt)
			q.Scope = rapid.SampledFrom([]projections.Scope{"", projections.All, projections.Recent, projections.Archive}).Draw(rt, "scope")
			got := ids(walk(t, a.orders(), q))
			if diff := gocmp.Diff(naiveList(scoped(all, q.Scope, to), q), got); diff != "" {
				rt.Fatalf("%+v (-want +got):\n%s", q, diff)
			}
			s := drawSummary(rt, run)
			s.From, s.To = drawYears(rt)
			sums, err := a.Index.Summary(t.Context(), s)
			if diff := gocmp.Diff(naiveSummary(docs, s), sums, Equal...); err != nil || diff != "" {
				rt.Fatalf("%+v: %v (-want +got):\n%s", s, err, diff)
			}
		}
	})
}

// drawYears draws a range that may begin and end about where years do.
func drawYears(t *rapid.T) (from, to time.Time) {
	draw := func(what string) time.Time {
		if rapid.Bool().Draw(t, what) {
			return time.Time{}
		}
		return in(rapid.IntRange(2020, 2023).Draw(t, what+" year"), 12, 31).Add(time.Duration(rapid.IntRange(-3, 30).Draw(t, what+" hours"))*time.Hour + 7)
	}
	return draw("from"), draw("to")
}

// tiersWhole reads lists, sums and documents while orders are closed and the
// boundary passes over them: every order is in every answer, once, in its place.
func tiersWhole(t *testing.T, a Tiers) {
	t.Helper()
	const orders = 240
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // it is to be the same each time
	lives, docs := make([]Life, orders), make([]projections.Doc[projections.Order], orders)
	for i := range lives {
		placed := in(2017, 1, 1).Add(time.Duration(random.Int64N(int64(3 * 364 * 24 * time.Hour)))).Truncate(time.Microsecond)
		lives[i] = shirt(i, placed, []string{"completed", "shipped", "shipped", "paid", "cancelled"}[i%5])
		docs[i] = lives[i].Doc(t)
	}
	put(t, a.Live(), docs...)
	var working, reading sync.WaitGroup
	var done atomic.Bool
	working.Go(func() {
		for to := in(2017, 2, 1); to.Before(in(2020, 3, 1)); to = to.AddDate(0, 2, 0) {
			if _, err := a.Archiver.Archive(t.Context(), to, nil); err != nil {
				t.Errorf("archive: %v", err)
			}
		}
	})
	working.Go(func() {
		for i := range lives {
			if i%5 != 1 {
				continue
			}
			if err := a.Live().Put(t.Context(), []projections.Doc[projections.Order]{lives[i].Become("completed").Doc(t)}); err != nil {
				t.Errorf("put: %v", err)
			}
		}
	})
	w := whole{a, docs, *naiveTotal(docs)}
	for _, check := range []func(context.Context) error{w.lists, w.texts, w.toShip, w.sums, w.documents} {
		reading.Go(func() {
			for last := false; !last; {
				last = done.Load()
				if err := check(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	working.Wait()
	done.Store(true)
	reading.Wait()
	a.tiers(t, map[int]int64{0: orders * 2 / 5, 2017: closedIn(docs, 2017), 2018: closedIn(docs, 2018), 2019: closedIn(docs, 2019)})
}

// closedIn counts the orders of a year that are closed in the end.
func closedIn(docs []projections.Doc[projections.Order], year int) (n int64) {
	for i, doc := range docs {
		if doc.Body.PlacedAt.Year() == year && i%5 != 2 && i%5 != 3 {
			n++
		}
	}
	return n
}

// whole is what every answer has to have.
type whole struct {
	Tiers
	docs []projections.Doc[projections.Order]
	all  projections.Sums
}

func (w whole) lists(ctx context.Context) error {
	return w.list(ctx, projections.OrderQuery{Seller: "s", Limit: 7})
}

func (w whole) texts(ctx context.Context) error {
	return w.list(ctx, projections.OrderQuery{Buyer: "b", Text: "shirt", Limit: 50})
}

func (w whole) toShip(ctx context.Context) error {
	return w.list(ctx, projections.OrderQuery{Seller: "s", ToShip: true, Limit: 10})
}

func (w whole) list(ctx context.Context, q projections.OrderQuery) error {
	got, err := pages(ctx, w.orders(), q)
	if err != nil {
		return err
	}
	if diff := gocmp.Diff(naiveList(w.docs, q), ids(got)); diff != "" {
		return fmt.Errorf("%+v (-want +got):\n%s", q, diff)
	}
	return nil
}

func (w whole) sums(ctx context.Context) error {
	s, err := w.Index.Summary(ctx, projections.SummaryQuery{Seller: "s", Interval: "month"})
	if err != nil {
		return err
	}
	got, statuses := s.ByCurrency["CNY"], int64(0)
	for _, n := range got.ByStatus {
		statuses += n
	}
	got.ByStatus = w.all.ByStatus // orders are completed meanwhile
	if diff := gocmp.Diff(w.all, got); diff != "" || statuses != w.all.Orders {
		return fmt.Errorf("sums of %d (-want +got):\n%s", statuses, diff)
	}
	return nil
}

func (w whole) documents(ctx context.Context) error {
	got, err := w.Reader.Get(ctx, streamsOf(w.docs))
	if err != nil || len(got) != len(w.docs) {
		return fmt.Errorf("%d documents, %w", len(got), err)
	}
	n, err := w.Live().Count(ctx)
	if err != nil || n != int64(len(w.docs)) {
		return fmt.Errorf("%d documents are counted, %w", n, err)
	}
	return nil
}

// tiersRebuild builds a generation while the live one is archived on: it fills
// its tiers by the boundary that it began with.
func tiersRebuild(t *testing.T, a Tiers) {
	t.Helper()
	docs := []projections.Doc[projections.Order]{
		shirt(1, in(2017, 5, 5), "completed").Doc(t), shirt(2, in(2018, 5, 5), "completed").Doc(t),
		shirt(3, in(2019, 5, 5), "completed").Doc(t), shirt(4, in(2018, 6, 5), "shipped").Doc(t),
	}
	put(t, a.Live(), docs...)
	first := a.Live().Number()
	a.archive(t, in(2019, 1, 1), 2)
	next := build(t, a.Store)
	put(t, next, docs[:2]...)
	a.tiers(t, map[int]int64{0: 2, 2017: 1, 2018: 1})
	a.archive(t, in(2020, 1, 1), 1) // of the live one only
	a.tiers(t, map[int]int64{0: 1, 2017: 1, 2018: 1, 2019: 1})
	put(t, next, docs...)
	same(t, next, docs...)
	if n, err := next.Count(t.Context()); err != nil || n != 4 {
		t.Errorf("the new generation has %d documents, %v", n, err)
	}
	turn(t, a.Store, next.Number())
	a.boundary(t, in(2019, 1, 1))
	a.tiers(t, map[int]int64{0: 2, 2017: 1, 2018: 1})
	a.lists(t, "s", in(2019, 1, 1), docs...)
	a.sums(t, *naiveTotal(docs))
	turn(t, a.Store, first)
	a.boundary(t, in(2020, 1, 1))
	a.tiers(t, map[int]int64{0: 1, 2017: 1, 2018: 1, 2019: 1})
	turn(t, a.Store, next.Number())
	a.archive(t, in(2020, 1, 1), 1)
	a.tiers(t, map[int]int64{0: 1, 2017: 1, 2018: 1, 2019: 1})
	a.lists(t, "s", in(2020, 1, 1), docs...)
}

func tiersRestart(t *testing.T, open func(t *testing.T, dir string) Tiers) {
	t.Helper()
	dir := t.TempDir()
	a := open(t, dir)
	docs := []projections.Doc[projections.Order]{
		shirt(1, in(2017, 5, 5), "completed").Doc(t), shirt(2, in(2018, 5, 5), "completed").Doc(t), shirt(3, in(2019, 5, 5), "completed").Doc(t),
	}
	put(t, a.Live(), docs...)
	a.archive(t, in(2019, 1, 1), 2)
	next := build(t, a.Store)
	put(t, next, docs...)
	_, lasts := a.Generations.(projections.Resumable[projections.Order])
	if lasts {
		mark(t, a.Store, next.Number(), marked)
	}
	closing(t, a.Store)

	a = open(t, dir)
	defer func() { closing(t, a.Store) }()
	a.boundary(t, in(2019, 1, 1))
	a.tiers(t, map[int]int64{0: 1, 2017: 1, 2018: 1})
	a.lists(t, "s", in(2019, 1, 1), docs...)
	put(t, a.Live(), shirt(4, in(2016, 5, 5), "completed").Doc(t), shirt(1, in(2017, 5, 5), "").Doc(t))
	a.tiers(t, map[int]int64{0: 1, 2016: 1, 2017: 1, 2018: 1})
	if lasts {
		turn(t, a.Store, leftOver(t, a.Store, next.Number(), marked).Number())
		a.boundary(t, in(2019, 1, 1))
		a.tiers(t, map[int]int64{0: 1, 2017: 1, 2018: 1})
		a.lists(t, "s", in(2019, 1, 1), docs...)
	}
}

// ThreeYears lives through three years with so many orders, week by week: most
// are completed within the week, some are refunded in part months later, a few
// are never closed. Every four weeks what was closed 90 days ago is archived,
// and what is at hand stays as much as four and a half months bring.
func ThreeYears(t *testing.T, a Tiers, orders int) {
	t.Helper()
	const months, month = 3 * 13, 4 * 7 * 24 * time.Hour
	perMonth := max(1, orders/months)
	begun := in(2017, 1, 1)
	life := func(n int, status string) Life {
		since := time.Duration(n/perMonth)*month + time.Duration(n%perMonth)*month/time.Duration(perMonth)
		return shirt(n, begun.Add(since.Truncate(time.Microsecond)), status)
	}
	open := func(n int) bool { return n%97 == 0 }
	for w := range months + 1 {
		var batch []projections.Doc[projections.Order]
		for i := range perMonth {
			n := w*perMonth + i
			if w < months {
				batch = append(batch, life(n, "shipped").Doc(t))
			}
			if done := n - perMonth; done >= 0 && !open(done) {
				batch = append(batch, life(done, "completed").Doc(t))
			}
			if back := n - 8*perMonth; back >= 0 && back%10 == 3 && !open(back) {
				batch = append(batch, life(back, "partially_refunded").Doc(t))
			}
		}
		for chunk := range slices.Chunk(batch, 2000) {
			put(t, a.Live(), chunk...)
		}
		// At hand are those of 90 days, of the month that ends, and those that are still open.
		a.archive(t, begun.Add(time.Duration(w)*month-90*24*time.Hour), -1)
		a.flat(t, int64(perMonth*(4+1)+(w*perMonth)/97+2))
	}
	total := int64(months * perMonth)
	if n, err := a.Live().Count(t.Context()); err != nil || n != total {
		t.Errorf("%d documents, %v, want %d", n, err, total)
	}
	got, err := a.Index.Summary(t.Context(), projections.SummaryQuery{Seller: "s"})
	if sums := got.ByCurrency["CNY"]; err != nil || sums.Orders != total || sums.Gross != total*life(0, "").Total() {
		t.Errorf("sums %+v, %v, want %d orders", sums, err, total)
	}
	seen := map[string]bool{}
	for _, doc := range walk(t, a.orders(), projections.OrderQuery{Seller: "s", Limit: 500}) {
		if seen[doc.Stream] {
			t.Errorf("%s is listed twice", doc.Stream)
		}
		seen[doc.Stream] = true
	}
	if int64(len(seen)) != total {
		t.Errorf("%d orders are listed, want %d", len(seen), total)
	}
}

// flat expects no more documents at hand than so many.
func (a Tiers) flat(tb testing.TB, most int64) {
	tb.Helper()
	tiers, err := a.Archiver.Tiers(tb.Context())
	if err != nil {
		tb.Fatalf("tiers: %v", err)
	}
	if tiers[0].Documents > most {
		tb.Errorf("%d documents are at hand, want no more than %d: %+v", tiers[0].Documents, most, tiers)
	}
}

// ArchiveKilled kills a process that puts orders and archives them, at any
// moment: no order is lost or doubled, and archiving goes on from there.
// It is called by a test that does nothing else, since the binary is started
// again to run that test alone.
func ArchiveKilled(t *testing.T, open func(t *testing.T, dir string) Tiers) {
	t.Helper()
	if dir := os.Getenv(childDir); dir != "" {
		archiveUntilKilled(t, open(t, dir))
		return
	}
	dir := t.TempDir()
	for _, lines := range []int{1, 6} {
		runAndKill(t, dir, lines)
		a := open(t, dir)
		wholeArchive(t, a)
		closing(t, a.Store)
	}
}

// killedBatch is more than an engine moves at once.
const killedBatch = 700

func killedOrder(i int) Life {
	return shirt(i, in(2017, 1, 1).Add(time.Duration(i)*time.Hour), "completed")
}

func archiveUntilKilled(t *testing.T, a Tiers) {
	t.Helper()
	n, err := a.Live().Count(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	line := 0
	say := func(int64) {
		line++
		fmt.Println(line)
	}
	for round := int(n) / killedBatch; ; round++ {
		docs := make([]projections.Doc[projections.Order], killedBatch)
		for i := range docs {
			docs[i] = killedOrder(round*killedBatch + i).Doc(t)
		}
		put(t, a.Live(), docs...)
		if _, err := a.Archiver.Archive(t.Context(), docs[killedBatch-1].Body.ClosedAt, say); err != nil {
			t.Fatal(err)
		}
		say(0)
	}
}

func wholeArchive(t *testing.T, a Tiers) {
	t.Helper()
	n, err := a.Live().Count(t.Context())
	if err != nil || n == 0 || n%killedBatch != 0 {
		t.Fatalf("%d documents, %v", n, err)
	}
	docs := make([]projections.Doc[projections.Order], n)
	for i := range docs {
		docs[i] = killedOrder(i).Doc(t)
	}
	check := func() {
		t.Helper()
		q := projections.OrderQuery{Seller: "s", Limit: 500}
		if diff := gocmp.Diff(naiveList(docs, q), ids(walk(t, a.orders(), q))); diff != "" {
			t.Fatalf("the list (-want +got):\n%s", diff)
		}
		a.sums(t, *naiveTotal(docs))
		got, failed := a.Reader.Get(t.Context(), streamsOf(docs))
		if failed != nil || len(got) != len(docs) {
			t.Errorf("%d documents, %v, want %d", len(got), failed, len(docs))
		}
	}
	check()
	to, err := a.Archiver.Boundary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a.archive(t, to, -1)
	want := map[int]int64{}
	for _, doc := range docs {
		if year, archived := doc.Body.Archived(to); archived {
			want[year]++
			continue
		}
		want[0]++
	}
	a.tiers(t, want)
	a.lists(t, "s", to, docs...)
	check()
}
