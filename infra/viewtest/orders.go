package viewtest

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cartwright/domain/event"
	"cartwright/domain/order"
	"cartwright/projections"
)

// An OrderIndex is an engine's live index of orders, empty when a test begins.
type OrderIndex struct {
	Views projections.Views[projections.Order]
	Index interface {
		Orders(ctx context.Context, q projections.OrderQuery) (projections.OrderPage, error)
		Summary(ctx context.Context, q projections.SummaryQuery) (projections.Summary, error)
	}
}

// RunOrders checks an order index: lists, text search and sums.
func RunOrders(t *testing.T, open func(t *testing.T) OrderIndex) {
	t.Helper()
	for name, check := range map[string]func(*testing.T, OrderIndex){
		"lists have what every filter lets through":     listsFilter,
		"pages stay put while orders come in":           pagesStay,
		"a search lists by time whatever the ids are":   searchesByTime,
		"orders of one moment are told apart by id":     momentTies,
		"an order moves from list to list":              movesOn,
		"every word of a search must match":             textMatches,
		"a stream without an order is in no list":       abandonedOnly,
		"sums are those of the documents":               sumsAdd,
		"sums that do not fit are the largest there is": sumsOverflow,
		"a query that makes no sense is refused":        badQueries,
		"a stream by another name is refused alone":     strangers,
	} {
		t.Run(name, func(t *testing.T) { check(t, open(t)) })
	}
}

var (
	noon = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)
	// moments are when orders are placed: time before 1970 is negative to most engines.
	moments = []time.Time{noon, noon, noon, time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)}
	states  = []string{"", "paid", "partial", "shipped", "completed", "cancelled", "refunded", "partially_refunded"}
	words   = []string{"shirt", "red", "Blue", "连衣裙", "手机壳", "红色", "XL"}
)

// drawLife makes any order of a few buyers and sellers.
func drawLife(t *rapid.T, number int, run string) Life {
	l := Life{
		Number:   number,
		Buyer:    run + rapid.SampledFrom([]string{"b1", "b2"}).Draw(t, "buyer"),
		Seller:   run + rapid.SampledFrom([]string{"s1", "s2"}).Draw(t, "seller"),
		Currency: rapid.SampledFrom([]string{"CNY", "JPY"}).Draw(t, "currency"),
		Placed:   rapid.SampledFrom(moments).Draw(t, "around").Add(time.Duration(rapid.IntRange(-100, 100).Draw(t, "hours")) * time.Hour),
		Price:    rapid.Int64Range(1, 1e12).Draw(t, "price"),
		Quantity: rapid.Int64Range(2, 5).Draw(t, "quantity"),
	}
	for range rapid.IntRange(1, 2).Draw(t, "lines") {
		l.Titles = append(l.Titles, strings.Join(rapid.SliceOfN(rapid.SampledFrom(words), 1, 3).Draw(t, "title"), " "))
	}
	return l.Become(rapid.SampledFrom(states).Draw(t, "status"))
}

func listsFilter(t *testing.T, idx OrderIndex) {
	t.Helper()
	var runs atomic.Int32
	rapid.Check(t, func(rt *rapid.T) {
		run := fmt.Sprintf("run%d.", runs.Add(1))
		var docs []projections.Doc[projections.Order]
		for i := range rapid.IntRange(0, 30).Draw(rt, "orders") {
			docs = append(docs, drawLife(rt, i, run).Doc(t))
		}
		put(t, idx.Views, docs...)
		for range 5 {
			q := drawQuery(rt, run)
			got := ids(walk(t, idx, q))
			if diff := gocmp.Diff(naiveList(docs, q), got); diff != "" {
				rt.Fatalf("%+v (-want +got):\n%s", q, diff)
			}
		}
	})
}

func drawQuery(t *rapid.T, run string) projections.OrderQuery {
	q := projections.OrderQuery{Limit: rapid.IntRange(1, 10).Draw(t, "limit")}
	if rapid.Bool().Draw(t, "by buyer") {
		q.Buyer = run + "b1"
	} else {
		q.Seller = run + "s1"
		q.ToShip = rapid.Bool().Draw(t, "to ship")
	}
	if !q.ToShip && rapid.Bool().Draw(t, "by status") {
		q.Status = rapid.SampledFrom([]string{"pending_payment", "paid", "shipped", "completed", "cancelled", "refunded"}).Draw(t, "status")
	}
	if rapid.Bool().Draw(t, "from") {
		q.From = noon.Add(time.Duration(rapid.IntRange(-100, 0).Draw(t, "from hours")) * time.Hour)
	}
	if rapid.Bool().Draw(t, "to") {
		q.To = noon.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "to hours")) * time.Hour)
	}
	if rapid.Bool().Draw(t, "text") {
		q.Text = strings.Join(rapid.SliceOfN(rapid.SampledFrom(words), 1, 2).Draw(t, "text"), " ")
	}
	return q
}

// naiveList is what a list is, without an index.
func naiveList(docs []projections.Doc[projections.Order], q projections.OrderQuery) []string {
	var kept []projections.Doc[projections.Order]
	for _, doc := range docs {
		f, _ := doc.Body.Facts()
		ok := (q.Buyer == "" || f.Buyer == q.Buyer) && (q.Seller == "" || f.Seller == q.Seller) &&
			(q.Status == "" || f.Status == q.Status) && (!q.ToShip || f.ToShip) &&
			(q.From.IsZero() || !f.PlacedAt.Before(q.From)) && (q.To.IsZero() || f.PlacedAt.Before(q.To))
		for word := range strings.FieldsSeq(q.Text) {
			ok = ok && strings.Contains(strings.ToLower(strings.Join(doc.Body.Texts(), "\n")), strings.ToLower(word))
		}
		if ok {
			kept = append(kept, doc)
		}
	}
	slices.SortFunc(kept, func(a, b projections.Doc[projections.Order]) int {
		newer := cmp.Or(b.Body.PlacedAt.Compare(a.Body.PlacedAt), strings.Compare(b.Stream, a.Stream))
		if q.ToShip {
			return -newer
		}
		return newer
	})
	return ids(kept)
}

// walk reads a list page by page to its end.
func walk(tb testing.TB, idx OrderIndex, q projections.OrderQuery) []projections.Doc[projections.Order] {
	tb.Helper()
	all, err := pages(tb.Context(), idx, q)
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

func pages(ctx context.Context, idx OrderIndex, q projections.OrderQuery) ([]projections.Doc[projections.Order], error) {
	var all []projections.Doc[projections.Order]
	for {
		page, err := idx.Index.Orders(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("list %+v: %w", q, err)
		}
		if len(page.Items) > q.Limit || page.Next != nil && len(page.Items) < q.Limit {
			return nil, fmt.Errorf("a page of %d, limit %d, next %v", len(page.Items), q.Limit, page.Next)
		}
		if all = append(all, page.Items...); page.Next == nil {
			return all, nil
		}
		q.After = page.Next
	}
}

func ids(docs []projections.Doc[projections.Order]) []string {
	var all []string
	for _, doc := range docs {
		all = append(all, doc.Body.State.ID)
	}
	return all
}

// Ids rise with time, but for imported orders and those whose ids were drawn long
// before. An index may make use of it, and must not rely on it.
func searchesByTime(t *testing.T, idx OrderIndex) {
	t.Helper()
	const orders = 300
	for seller, number := range map[string]func(i int) int{
		"as time":      func(i int) int { return i },
		"other way":    func(i int) int { return orders - i },
		"some are old": func(i int) int { return i - i%31/30*min(i, 200) },
		"some are new": func(i int) int { return i + i%37/36*(orders+i) },
		"at once":      func(i int) int { return i * 7 % orders },
	} {
		seller = strings.ReplaceAll(seller, " ", "-")
		docs, apart := make([]projections.Doc[projections.Order], orders), time.Minute
		if seller == "at-once" {
			apart = 0
		}
		for i := range docs {
			titles := []string{"shirt"}
			if i%5 == 0 {
				titles = append(titles, "hat")
			}
			if i < 100 {
				titles = append(titles, "discontinued")
			}
			docs[i] = Life{
				Number: number(i), Buyer: fmt.Sprintf("%s-%d", seller, i), Seller: seller, Currency: "CNY", Titles: titles, Price: 5, Quantity: 1,
				Placed: noon.Add(time.Duration(i) * apart),
			}.Become(states[i%len(states)]).Doc(t)
		}
		put(t, idx.Views, docs...)
		for _, q := range []projections.OrderQuery{
			{Text: "shirt", Limit: 11},
			{Text: "hat", Limit: 3},
			{Text: "discontinued", Limit: 9},
			{Text: "discontinued hat", Limit: 4},
			{Text: "shirt", Limit: 7, Status: "paid"},
			{Text: "shirt", Limit: 7, ToShip: true},
			{Text: "shirt", Limit: 8, From: noon.Add(70 * time.Minute), To: noon.Add(180 * time.Minute)},
		} {
			q.Seller = seller
			if want, got := naiveList(docs, q), ids(walk(t, idx, q)); !slices.Equal(got, want) {
				t.Errorf("%s: %+v gives %d orders, not these %d:\n%v\n%v", seller, q, len(got), len(want), got, want)
			}
		}
	}
}

func pagesStay(t *testing.T, idx OrderIndex) {
	t.Helper()
	at := func(number, minutes int) projections.Doc[projections.Order] {
		l := Life{
			Number: number, Buyer: "b", Seller: "s", Currency: "CNY", Titles: []string{"x"}, Price: 1, Quantity: 1,
			Placed: noon.Add(time.Duration(minutes) * time.Minute),
		}
		return l.Doc(t)
	}
	var first []projections.Doc[projections.Order]
	for i := range 20 {
		first = append(first, at(i, 10*i))
	}
	put(t, idx.Views, first...)
	q := projections.OrderQuery{Seller: "s", Limit: 3}
	seen := map[string]int{}
	for i := 0; ; i++ {
		page, err := idx.Index.Orders(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range page.Items {
			seen[doc.Stream]++
		}
		if page.Next == nil {
			break
		}
		q.After = page.Next
		// One in front of where the reader is, one behind it.
		put(t, idx.Views, at(100+i, 1000+i), at(200+i, -1-i))
	}
	for _, doc := range first {
		if seen[doc.Stream] != 1 {
			t.Errorf("%s was shown %d times", doc.Stream, seen[doc.Stream])
		}
	}
}

func momentTies(t *testing.T, idx OrderIndex) {
	t.Helper()
	var docs []projections.Doc[projections.Order]
	for i := range 10 {
		l := Life{Number: i, Buyer: "b", Seller: "s", Currency: "CNY", Titles: []string{"x"}, Price: 1, Quantity: 1, Placed: noon}
		docs = append(docs, l.Doc(t))
	}
	put(t, idx.Views, docs...)
	got := ids(walk(t, idx, projections.OrderQuery{Buyer: "b", Limit: 3}))
	want := ids(docs)
	slices.Reverse(want)
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func movesOn(t *testing.T, idx OrderIndex) {
	t.Helper()
	l := Life{Buyer: "b", Seller: "s", Currency: "CNY", Titles: []string{"red shirt"}, Price: 5, Quantity: 2, Placed: noon}
	lists := []projections.OrderQuery{
		{Seller: "s", Status: "pending_payment", Limit: 5},
		{Seller: "s", ToShip: true, Limit: 5},
		{Buyer: "b", Status: "shipped", Limit: 5},
		{Buyer: "b", Status: "completed", Text: "shirt", Limit: 5},
	}
	for _, step := range []struct {
		status string
		in     []bool
	}{
		{"", []bool{true, false, false, false}},
		{"paid", []bool{false, true, false, false}},
		{"partial", []bool{false, true, false, false}},
		{"shipped", []bool{false, false, true, false}},
		{"completed", []bool{false, false, false, true}},
	} {
		put(t, idx.Views, l.Become(step.status).Doc(t))
		for i, q := range lists {
			if got := len(walk(t, idx, q)) == 1; got != step.in[i] {
				t.Errorf("status %q: in list %d is %v, want %v", step.status, i, got, step.in[i])
			}
		}
	}
}

func textMatches(t *testing.T, idx OrderIndex) {
	t.Helper()
	l := Life{
		Buyer: "b", Seller: "s", Currency: "CNY", Price: 5, Quantity: 2, Placed: noon,
		Titles: []string{"Café Crème T-shirt", "红色连衣裙 夏季2026新款", "カメラ ｉＰｈｏｎｅ手机壳"},
	}
	put(t, idx.Views, l.Doc(t), Life{
		Number: 1, Buyer: "b", Seller: "other", Currency: "CNY", Price: 5, Quantity: 2, Placed: noon, Titles: []string{"色红裙连"},
	}.Doc(t))
	for text, found := range map[string]bool{
		"café": true, "CREME": true, "shirt": true, "T-shirt": true, "shirt-T": false, "tshirt": false, "crème shirt": true,
		"连衣裙": true, "连衣": true, "裙": true, "衣连": false, "红色 裙": true, "红裙": false, "色连": true, "2026": true, "新": true, "旧": false,
		"iphone": true, "iPhone手机": true, "手机 shirt": true, "手机 trousers": false, "カメ": true,
		"SKU-1": true, "sku-3": true, "SKU-4": false, l.ID(t): true, l.ID(t)[:18]: false,
		"!!!": false, `"shirt" OR 1`: false, "shirt*": true, "words:shirt": false, "'": false, "s": false,
	} {
		for _, q := range []projections.OrderQuery{{Seller: "s", Text: text, Limit: 10}, {Buyer: "b", Seller: "s", Text: text, Limit: 10}} {
			if got := len(walk(t, idx, q)) == 1; got != found {
				t.Errorf("%+v: found is %v, want %v", q, got, found)
			}
		}
	}
	if got := walk(t, idx, projections.OrderQuery{Seller: "nobody", Text: "shirt", Limit: 10}); len(got) != 0 {
		t.Errorf("another seller finds %d orders", len(got))
	}
	// The order's text is found once however often the order changed.
	put(t, idx.Views, l.Become("paid").Doc(t))
	if got := walk(t, idx, projections.OrderQuery{Seller: "s", Text: "裙", Limit: 10}); len(got) != 1 {
		t.Errorf("found %d orders after a change", len(got))
	}
}

func abandonedOnly(t *testing.T, idx OrderIndex) {
	t.Helper()
	l := Life{Buyer: "b"}
	doc := projections.Doc[projections.Order]{Stream: "order-" + l.ID(t)}
	doc = Apply(t, projections.OrdersView(), doc, order.Abandoned{Attempt: "a"}, noon)
	put(t, idx.Views, doc)
	l = Life{Buyer: "b", Seller: "s", Currency: "CNY", Titles: []string{"x"}, Price: 1, Quantity: 1, Placed: noon}
	for _, q := range []projections.OrderQuery{{Buyer: "b", Limit: 5}, {Seller: "s", Limit: 5}} {
		if got := walk(t, idx, q); len(got) != 0 {
			t.Errorf("%+v: %d orders", q, len(got))
		}
	}
	summary, err := idx.Index.Summary(t.Context(), projections.SummaryQuery{Seller: ""})
	if err != nil || len(summary.ByCurrency) != 0 {
		t.Errorf("summary of nobody: %+v, %v", summary, err)
	}
	doc = Apply(t, projections.OrdersView(), doc, l.placedEvent(t), noon)
	put(t, idx.Views, doc)
	if got := walk(t, idx, projections.OrderQuery{Seller: "s", Text: "x", Limit: 5}); len(got) != 1 {
		t.Errorf("%d orders once it was placed after all", len(got))
	}
}

func (l Life) placedEvent(tb testing.TB) order.Event {
	tb.Helper()
	events, err := order.Decider.Decide(order.Order{}, l.place(tb))
	if err != nil {
		tb.Fatalf("place: %v", err)
	}
	return events[0]
}

func sumsAdd(t *testing.T, idx OrderIndex) {
	t.Helper()
	var runs atomic.Int32
	rapid.Check(t, func(rt *rapid.T) {
		run := fmt.Sprintf("run%d.", runs.Add(1))
		docs := map[string]projections.Doc[projections.Order]{}
		for range rapid.IntRange(0, 4).Draw(rt, "batches") {
			var batch []projections.Doc[projections.Order]
			for range rapid.IntRange(0, 10).Draw(rt, "batch") {
				// A number drawn twice is an order that changed: the later revision counts.
				doc := drawLife(rt, rapid.IntRange(0, 15).Draw(rt, "number"), run).Doc(t)
				batch = append(batch, doc)
			}
			put(t, idx.Views, batch...)
			for _, doc := range projections.Newest(batch) {
				if doc.Revision > docs[doc.Stream].Revision {
					docs[doc.Stream] = doc
				}
			}
		}
		for range 5 {
			q := drawSummary(rt, run)
			got, err := idx.Index.Summary(t.Context(), q)
			if err != nil {
				rt.Fatalf("%+v: %v", q, err)
			}
			if diff := gocmp.Diff(naiveSummary(docs, q), got, Equal...); diff != "" {
				rt.Fatalf("%+v (-want +got):\n%s", q, diff)
			}
		}
	})
}

func drawSummary(t *rapid.T, run string) projections.SummaryQuery {
	q := projections.SummaryQuery{Seller: run + "s1", Interval: rapid.SampledFrom([]string{"", "day", "month"}).Draw(t, "interval")}
	if rapid.Bool().Draw(t, "from") {
		q.From = noon.Add(time.Duration(rapid.IntRange(-100, 100).Draw(t, "from hours")) * time.Hour)
	}
	if rapid.Bool().Draw(t, "to") {
		q.To = noon.Add(time.Duration(rapid.IntRange(-100, 100).Draw(t, "to hours"))*time.Hour + 7)
	}
	return q
}

func naiveSummary(docs map[string]projections.Doc[projections.Order], q projections.SummaryQuery) projections.Summary {
	want := projections.Summary{Seller: q.Seller, ByCurrency: map[string]projections.Sums{}}
	buckets := map[string]map[time.Time]projections.Sums{}
	for _, doc := range docs {
		f, _ := doc.Body.Facts()
		if f.Seller != q.Seller || !q.From.IsZero() && f.PlacedAt.Before(q.From) || !q.To.IsZero() && !f.PlacedAt.Before(q.To) {
			continue
		}
		want.ByCurrency[f.Currency] = plus(want.ByCurrency[f.Currency], f)
		start := f.PlacedAt.Truncate(24 * time.Hour)
		if q.Interval == "month" {
			start = time.Date(start.Year(), start.Month(), 1, 0, 0, 0, 0, time.UTC)
		}
		if buckets[f.Currency] == nil {
			buckets[f.Currency] = map[time.Time]projections.Sums{}
		}
		buckets[f.Currency][start] = plus(buckets[f.Currency][start], f)
	}
	if q.Interval == "" {
		return want
	}
	want.Buckets = map[string][]projections.Bucket{}
	for currency, days := range buckets {
		for start, sums := range days {
			want.Buckets[currency] = append(want.Buckets[currency], projections.Bucket{Start: start, Sums: sums})
		}
		slices.SortFunc(want.Buckets[currency], func(a, b projections.Bucket) int { return a.Start.Compare(b.Start) })
	}
	return want
}

func plus(s projections.Sums, f projections.Facts) projections.Sums {
	if s.ByStatus == nil {
		s.ByStatus = map[string]int64{}
	}
	s.Orders++
	s.Units += f.Units
	s.Gross += f.Gross
	s.Refunded += f.Refunded
	s.ByStatus[f.Status]++
	return s
}

func sumsOverflow(t *testing.T, idx OrderIndex) {
	t.Helper()
	for i := range 3 {
		put(t, idx.Views, Life{
			Number: i, Buyer: "b", Seller: "s", Currency: "CNY", Titles: []string{"x"}, Price: math.MaxInt64 - 100, Quantity: 1, Placed: noon,
		}.Doc(t))
	}
	for _, q := range []projections.SummaryQuery{{Seller: "s"}, {Seller: "s", From: noon.Add(-time.Minute), To: noon.Add(time.Minute)}} {
		got, err := idx.Index.Summary(t.Context(), q)
		if err != nil || got.ByCurrency["CNY"].Gross != math.MaxInt64 || got.ByCurrency["CNY"].Orders != 3 {
			t.Errorf("got %+v, %v", got, err)
		}
	}
}

func badQueries(t *testing.T, idx OrderIndex) {
	t.Helper()
	for _, q := range []projections.OrderQuery{
		{Limit: 5},
		{Seller: "s"},
		{Seller: "s", Limit: 5, After: &projections.Cursor{At: noon, ID: "no number"}},
		{Seller: "s", Limit: 5, Scope: "attic"},
	} {
		if page, err := idx.Index.Orders(t.Context(), q); err == nil {
			t.Errorf("%+v: got %+v", q, page)
		}
	}
	if got, err := idx.Index.Summary(t.Context(), projections.SummaryQuery{Seller: "s", Interval: "fortnight"}); err == nil {
		t.Errorf("a summary by fortnight: %+v", got)
	}
}

func strangers(t *testing.T, idx OrderIndex) {
	t.Helper()
	l := Life{Buyer: "b", Seller: "s", Currency: "CNY", Titles: []string{"x"}, Price: 1, Quantity: 1, Placed: noon}
	good, bad := l.Doc(t), l.Doc(t)
	bad.Stream = "order-by-another-name"
	err := idx.Views.Put(t.Context(), []projections.Doc[projections.Order]{bad, good})
	refused, ok := asRefused(err)
	if !ok || len(refused.Docs) != 1 || refused.Docs[bad.Stream] == nil {
		t.Errorf("put: %v", err)
	}
	if got := walk(t, idx, projections.OrderQuery{Buyer: "b", Limit: 5}); len(got) != 1 {
		t.Errorf("the other document is in no list: %d", len(got))
	}
	revisions, err := idx.Views.Get(t.Context(), []string{bad.Stream})
	if err != nil || revisions[bad.Stream].Revision != event.Revision(0) {
		t.Errorf("get: %v, %v", revisions, err)
	}
}
