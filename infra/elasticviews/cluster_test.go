//go:build integration

package elasticviews_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/infra/elasticviews"
	"cartwright/infra/viewtest"
	"cartwright/projections"
)

// cluster is one namespace as several processes have it open.
func cluster(tb testing.TB, processes int) (elasticviews.Config, []*elasticviews.DB) {
	tb.Helper()
	cfg := config(tb, namespace(tb.TempDir()))
	dbs := make([]*elasticviews.DB, processes)
	for i := range dbs {
		dbs[i] = open(tb, cfg)
		tb.Cleanup(func() {
			if err := dbs[i].Close(); err != nil {
				tb.Errorf("close: %v", err)
			}
		})
	}
	return cfg, dbs
}

func put[V any](tb testing.TB, to projections.Views[V], docs ...projections.Doc[V]) {
	tb.Helper()
	if err := to.Put(tb.Context(), docs); err != nil {
		tb.Fatalf("put: %v", err)
	}
}

func build[V any](tb testing.TB, v *elasticviews.Views[V]) projections.Generation[V] {
	tb.Helper()
	g, err := v.Build(tb.Context())
	if err != nil {
		tb.Fatalf("build: %v", err)
	}
	return g
}

func turn[V any](tb testing.TB, v *elasticviews.Views[V], number int) {
	tb.Helper()
	if err := v.Switch(tb.Context(), number, 1); err != nil {
		tb.Fatalf("switch: %v", err)
	}
}

func TestProcessesThatOpenAtOnceFindOneView(t *testing.T) {
	t.Parallel()
	cfg := config(t, namespace(t.TempDir()))
	const processes = 4
	var wg sync.WaitGroup
	for i := range processes {
		wg.Go(func() {
			db, err := elasticviews.Open(t.Context(), cfg)
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			defer func() {
				if closed := db.Close(); closed != nil {
					t.Errorf("close: %v", closed)
				}
			}()
			o, err := elasticviews.NewOrders(t.Context(), db)
			if err != nil {
				t.Errorf("open orders: %v", err)
				return
			}
			doc := sample(t, i, "x")
			if err := o.Live().Put(t.Context(), []orderDoc{doc}); err != nil {
				t.Errorf("put: %v", err)
			}
		})
	}
	wg.Wait()
	db := open(t, cfg)
	defer func() { _ = db.Close() }()
	if n, err := orders(t, db).Live().Count(t.Context()); err != nil || n != processes {
		t.Errorf("%d documents, %v", n, err)
	}
}

func TestAnotherProcessFollowsASwitch(t *testing.T) {
	t.Parallel()
	_, dbs := cluster(t, 2)
	a, b := orders(t, dbs[0]), orders(t, dbs[1])
	docs := make([]orderDoc, 20)
	streams := make([]string, len(docs))
	for i := range docs {
		docs[i] = sample(t, i, "x")
		streams[i] = docs[i].Stream
	}
	put(t, a.Live(), docs...)

	// Process b reads and writes all the time and is told nothing. What it has
	// put is there, in whichever generation is live.
	var done atomic.Bool
	var busy sync.WaitGroup
	newest := event.Revision(1)
	busy.Go(func() {
		for at := event.Revision(2); !done.Load(); at++ {
			batch := slices.Clone(docs)
			for i := range batch {
				batch[i].Revision = at
			}
			if err := b.Live().Put(t.Context(), batch); err != nil {
				t.Errorf("put: %v", err)
				return
			}
			newest = at
		}
	})
	busy.Go(func() {
		for !done.Load() {
			got, err := b.Get(t.Context(), streams)
			if err != nil || len(got) != len(streams) {
				t.Errorf("got %d documents, %v", len(got), err)
				return
			}
			if _, err := b.Orders(t.Context(), projections.OrderQuery{Seller: "s", Limit: 5}); err != nil {
				t.Errorf("list: %v", err)
				return
			}
		}
	})
	for range 4 {
		next := build(t, a.Views)
		put(t, next, docs...)
		turn(t, a.Views, next.Number())
	}
	done.Store(true)
	busy.Wait()

	last := docs[0]
	last.Revision = newest + 1
	put(t, b.Live(), last)
	if b.Live().Number() != a.Live().Number() {
		t.Errorf("process b is at generation %d, a at %d", b.Live().Number(), a.Live().Number())
	}
	for _, o := range []*elasticviews.Orders{a, b} {
		got, err := o.Get(t.Context(), streams)
		if err != nil || got[last.Stream].Revision != last.Revision {
			t.Errorf("got %v, %v", got[last.Stream].Revision, err)
		}
	}
	found := 0
	if err := a.Audit(t.Context(), func(d projections.Difference) error { found++; t.Log(d); return nil }); err != nil || found > 0 {
		t.Errorf("the audit found %d differences, %v", found, err)
	}
}

func TestOnlyItsBuilderSwitchesToAGeneration(t *testing.T) {
	t.Parallel()
	_, dbs := cluster(t, 2)
	a, b := plain(t, dbs[0]), plain(t, dbs[1])
	next := build(t, a)
	if err := b.Switch(t.Context(), next.Number(), 1); err == nil {
		t.Error("another process switched to it")
	}
	if err := b.Drop(t.Context(), next.Number()); err == nil {
		t.Error("another process dropped it")
	}
	turn(t, a, next.Number())
	// The way back is open to all, once they have noticed.
	if _, err := b.Get(t.Context(), []string{viewtest.SampleAccount(1, 1, "").Stream}); err != nil {
		t.Fatal(err)
	}
	back := b.Kept()[0]
	turn(t, b, back.Number())
	turn(t, a, next.Number())
	doc := viewtest.SampleAccount(2, 1, "x")
	put(t, back, doc) // it has become the live one, and follows
	if got, err := a.Get(t.Context(), []string{doc.Stream}); err != nil || len(got) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
	doc = viewtest.SampleAccount(1, 1, "x")
	put(t, a.Live(), doc)
	if got, err := b.Get(t.Context(), []string{doc.Stream}); err != nil || len(got) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestProcessesThatSwitchAtOnceLeaveOneLiveGeneration(t *testing.T) {
	t.Parallel()
	cfg, dbs := cluster(t, 3)
	var wg sync.WaitGroup
	for _, db := range dbs {
		v := plain(t, db)
		wg.Go(func() {
			for range 4 {
				next, err := v.Build(t.Context())
				if err != nil {
					t.Errorf("build: %v", err)
					return
				}
				if err := next.Put(t.Context(), []projections.Doc[projections.Account]{viewtest.SampleAccount(1, 1, "x")}); err != nil {
					t.Errorf("put: %v", err)
				}
				if err := v.Switch(t.Context(), next.Number(), 1); err != nil {
					// Another was faster, and what was built goes.
					if err := v.Drop(t.Context(), next.Number()); err != nil {
						t.Errorf("drop: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	db := open(t, cfg)
	defer func() { _ = db.Close() }()
	v := plain(t, db)
	if got, err := v.Get(t.Context(), []string{viewtest.SampleAccount(1, 1, "x").Stream}); err != nil || len(got) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
	want := []string{fmt.Sprintf("%s-plain-%d", cfg.Namespace, v.Live().Number())}
	for _, kept := range v.Kept() {
		want = append(want, fmt.Sprintf("%s-plain-%d", cfg.Namespace, kept.Number()))
	}
	slices.Sort(want)
	var got []string
	for name := range call[map[string]any](t, cfg, http.MethodGet, "-plain-*/_alias", "") {
		got = append(got, name)
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("indices (-want +got):\n%s", diff)
	}
}

func TestASwitchThatWasCutOffIsCompleted(t *testing.T) {
	t.Parallel()
	cfg, dbs := cluster(t, 1)
	a := orders(t, dbs[0])
	put(t, a.Live(), sample(t, 1, "old"))
	next := build(t, a.Views)
	put(t, next, sample(t, 2, "new"))
	// The process dies when the aliases have turned and nothing else is done.
	var actions []string
	for _, kind := range []string{"orders", "sales"} {
		alias := cfg.Namespace + "-" + kind
		actions = append(actions,
			fmt.Sprintf(`{"remove":{"index":"%s-1","alias":"%s"}},{"add":{"index":"%s-2","alias":"%s"}}`, alias, alias, alias, alias))
	}
	request[map[string]any](t, cfg, http.MethodPost, "/_aliases", `{"actions":[`+strings.Join(actions, ",")+`]}`)

	db := open(t, cfg)
	defer func() { _ = db.Close() }()
	o := orders(t, db)
	if kept := o.Kept(); o.Live().Number() != 2 || len(kept) != 1 || kept[0].Number() != 1 {
		t.Fatalf("live is %d, before it was %v", o.Live().Number(), kept)
	}
	if n, err := o.Live().Count(t.Context()); err != nil || n != 1 {
		t.Errorf("%d documents, %v", n, err)
	}
	turn(t, o.Views, 1)
	if got, err := o.Get(t.Context(), []string{sample(t, 1, "old").Stream}); err != nil || len(got) != 1 {
		t.Errorf("after the way back: %v, %v", got, err)
	}
}

func TestAnAbandonedGenerationIsDropped(t *testing.T) {
	t.Parallel()
	cfg, dbs := cluster(t, 2)
	a := plain(t, dbs[0])
	fresh, old := build(t, a), build(t, a)
	// Nobody has heard of the builder of the second for an hour.
	rewrite(t, cfg, "plain", func(family map[string]any) {
		builders, _ := family["builders"].(map[string]any)
		builder, _ := builders[strconv.Itoa(old.Number())].(map[string]any)
		builder["seen"] = time.Now().Add(-time.Hour)
	})

	b := plain(t, dbs[1])
	if err := a.Switch(t.Context(), old.Number(), 1); err == nil {
		t.Error("switched to a generation that was given up")
	}
	if err := old.Put(t.Context(), []projections.Doc[projections.Account]{viewtest.SampleAccount(1, 1, "x")}); err == nil {
		t.Error("put into a generation that was dropped")
	}
	turn(t, a, fresh.Number())
	_ = b
}

// rewrite changes what is written down of a view's generations.
func rewrite(tb testing.TB, cfg elasticviews.Config, view string, change func(family map[string]any)) {
	tb.Helper()
	path := "-views/_doc/" + view
	doc := call[struct {
		Source struct {
			Family map[string]any `json:"family"`
		} `json:"_source"`
	}](tb, cfg, http.MethodGet, path, "").Source
	change(doc.Family)
	raw, err := json.Marshal(doc)
	if err != nil {
		tb.Fatal(err)
	}
	call[map[string]any](tb, cfg, http.MethodPut, path, string(raw))
}

func TestParkingRacesKeepTheLargestCount(t *testing.T) {
	t.Parallel()
	_, dbs := cluster(t, 2)
	views := []*elasticviews.Views[projections.Account]{plain(t, dbs[0]), plain(t, dbs[1])}
	const streams, most = 5, 12
	var wg sync.WaitGroup
	for _, v := range views {
		wg.Go(func() {
			for _, count := range rand.Perm(most) {
				var records []projections.Parked
				for i := range streams {
					records = append(records, projections.Parked{Stream: viewtest.SampleAccount(i, 1, "").Stream, Revision: 3, Count: int64(count + 1)})
				}
				if err := v.Live().Park(t.Context(), records); err != nil {
					t.Errorf("park: %v", err)
				}
			}
		})
	}
	wg.Wait()
	all, err := views[0].Live().AllParked(t.Context())
	if err != nil || len(all) != streams {
		t.Fatalf("%d records, %v", len(all), err)
	}
	for _, record := range all {
		if record.Count != most {
			t.Errorf("%s has %d", record.Stream, record.Count)
		}
	}
}

func TestWhatRevisionsReportsIsListed(t *testing.T) {
	t.Parallel()
	// No refresh comes by itself.
	cfg := config(t, namespace(t.TempDir()))
	cfg.RefreshEvery = time.Hour
	writer, reader := open(t, cfg), open(t, cfg)
	defer func() {
		if err := errors.Join(writer.Close(), reader.Close()); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	w, r := orders(t, writer), orders(t, reader)
	for i := range 10 {
		doc := sample(t, i, "x")
		put(t, w.Live(), doc)
		if got, err := r.Revisions(t.Context(), []string{doc.Stream}); err != nil || got[doc.Stream] != doc.Revision {
			t.Fatalf("revisions: %v, %v", got, err)
		}
		for _, q := range []projections.OrderQuery{{Buyer: "b", Limit: 100}, {Seller: "s", Limit: 100}} {
			if page, err := r.Orders(t.Context(), q); err != nil || len(page.Items) != i+1 {
				t.Fatalf("%+v: %d of %d orders, %v", q, len(page.Items), i+1, err)
			}
		}
	}
}

func TestAnAccountsEntriesStayWholeWhenAnotherProcessSwitches(t *testing.T) {
	t.Parallel()
	_, dbs := cluster(t, 2)
	a, b := accounts(t, dbs[0]), accounts(t, dbs[1])
	doc := projections.Doc[projections.Account]{Stream: "account-alice"}
	doc = viewtest.Apply(t, projections.AccountsView(), doc, account.Opened{Account: "alice", Currency: "CNY"}, noon)
	deposit := func(n int64) projections.Doc[projections.Account] {
		t.Helper()
		doc = viewtest.Apply(t, projections.AccountsView(), doc, account.Deposited{Entry: n, Amount: 5, Journal: fmt.Sprint("j", n)}, noon)
		return doc
	}
	put(t, a.Live(), deposit(1))
	next := build(t, b.Views)
	put(t, next, doc)
	doc.Body.Fresh = nil
	// The second deposit reaches the old generation only, and the third follows
	// a document that the new one does not have.
	put(t, a.Live(), deposit(2))
	turn(t, b.Views, next.Number())
	doc.Body.Fresh = nil
	if err := a.Live().Put(t.Context(), []projections.Doc[projections.Account]{deposit(3)}); !errors.Is(err, projections.ErrUnavailable) {
		t.Fatalf("put: %v", err)
	}
	if got, err := a.Get(t.Context(), []string{doc.Stream}); err != nil || got[doc.Stream].Body.Entries != 1 {
		t.Fatalf("the account has %d entries, %v", got[doc.Stream].Body.Entries, err)
	}
	// Who reads it again brings both.
	again, err := a.Get(t.Context(), []string{doc.Stream})
	if err != nil {
		t.Fatal(err)
	}
	doc = again[doc.Stream]
	deposit(2)
	put(t, a.Live(), deposit(3))
	page, err := b.Entries(t.Context(), "alice", 0, 10)
	if err != nil || len(page.Items) != 3 {
		t.Errorf("%d entries, %v", len(page.Items), err)
	}
}

func TestARepairTakesAwayWhatTheHistoryDoesNotHave(t *testing.T) {
	t.Parallel()
	a := accounts(t, opened(t))
	doc := projections.Doc[projections.Account]{Stream: "account-alice"}
	doc = viewtest.Apply(t, projections.AccountsView(), doc, account.Opened{Account: "alice", Currency: "CNY"}, noon)
	wrong := viewtest.Apply(t, projections.AccountsView(), doc, account.Deposited{Entry: 1, Amount: 5, Journal: "j"}, noon)
	wrong = viewtest.Apply(t, projections.AccountsView(), wrong, account.Deposited{Entry: 2, Amount: 7, Journal: "k"}, noon)
	put(t, a.Live(), wrong)
	right := viewtest.Apply(t, projections.AccountsView(), doc, account.Deposited{Entry: 1, Amount: 5, Journal: "j"}, noon)
	right = viewtest.Apply(t, projections.AccountsView(), right, account.Held{Checkout: "c", Claims: []account.Claim{{Order: "o", Amount: 1}}}, noon)
	if got := audit(t, a.Audit); len(got) != 0 {
		t.Errorf("differences: %v", got)
	}
	if err := a.Live().Repair(t.Context(), []projections.Doc[projections.Account]{right}); err != nil {
		t.Fatal(err)
	}
	page, err := a.Entries(t.Context(), "alice", 0, 10)
	if err != nil || len(page.Items) != 1 || page.Items[0].Amount != 5 {
		t.Errorf("entries: %+v, %v", page.Items, err)
	}
	if got := audit(t, a.Audit); len(got) != 0 {
		t.Errorf("differences after the repair: %v", got)
	}
}

func audit(t *testing.T, run func(ctx context.Context, report func(projections.Difference) error) error) []string {
	t.Helper()
	var found []string
	err := run(t.Context(), func(d projections.Difference) error {
		found = append(found, d.Stream+" "+d.Detail)
		return nil
	})
	if err != nil {
		t.Fatalf("audit: %v", err)
	}
	return found
}

func TestAnAuditFindsWhatIsBesideTheDocuments(t *testing.T) {
	t.Parallel()
	cfg, dbs := cluster(t, 1)
	o := orders(t, dbs[0])
	doc := sample(t, 1, "red shirt")
	put(t, o.Live(), doc, sample(t, 2, "blue shirt"))
	if got := audit(t, o.Audit); len(got) != 0 {
		t.Fatalf("differences in what is right: %v", got)
	}
	routing := "?refresh=true&routing=" + doc.Stream[len(doc.Stream)-6:]
	stored := call[struct {
		Source map[string]any `json:"_source"`
	}](t, cfg, http.MethodGet, "-orders-1/_doc/"+doc.Stream+routing, "").Source
	stored["to_ship"] = true
	raw, err := json.Marshal(stored)
	if err != nil {
		t.Fatal(err)
	}
	call[map[string]any](t, cfg, http.MethodPut, "-orders-1/_doc/"+doc.Stream+routing+"&version_type=external_gte&version=1", string(raw))
	if got := strings.Join(audit(t, o.Audit), "; "); !strings.Contains(got, "it is filed under") {
		t.Errorf("the audit found %q", got)
	}
	if err := o.Live().Repair(t.Context(), []orderDoc{doc}); err != nil {
		t.Fatal(err)
	}
	if got := audit(t, o.Audit); len(got) != 0 {
		t.Errorf("differences after the repair: %v", got)
	}
	hits := call[struct {
		Hits struct {
			Hits []struct {
				ID      string `json:"_id"`
				Routing string `json:"_routing"`
			} `json:"hits"`
		} `json:"hits"`
	}](t, cfg, http.MethodGet, "-sales-1/_search", "").Hits.Hits
	call[map[string]any](t, cfg, http.MethodDelete, "-sales-1/_doc/"+hits[0].ID+"?refresh=true&routing="+hits[0].Routing, "")
	if got := strings.Join(audit(t, o.Audit), "; "); !strings.Contains(got, "its copy among its seller's") {
		t.Errorf("the audit found %q", got)
	}
}

func TestARepairTakesAnOrderFromAStrangersList(t *testing.T) {
	t.Parallel()
	o := orders(t, opened(t))
	right := sample(t, 1, "x")
	wrong := right
	wrong.Body.State.Seller = "stranger"
	put(t, o.Live(), wrong)
	if err := o.Live().Repair(t.Context(), []orderDoc{right}); err != nil {
		t.Fatal(err)
	}
	for seller, want := range map[string]int{"stranger": 0, "s": 1} {
		page, err := o.Orders(t.Context(), projections.OrderQuery{Seller: seller, Limit: 5})
		if err != nil || len(page.Items) != want {
			t.Errorf("%s has %d orders, %v", seller, len(page.Items), err)
		}
	}
}

func TestASummaryOfManyDaysIsOfOneMoment(t *testing.T) {
	t.Parallel()
	o := orders(t, opened(t))
	const days = 5200 // more than one answer has
	var docs []orderDoc
	for i := range days {
		docs = append(docs, viewtest.Life{
			Number: i, Buyer: "b", Seller: "s", Currency: "CNY", Titles: []string{"x"}, Price: 1 << 50, Quantity: 1,
			Placed: noon.AddDate(0, 0, -i),
		}.Doc(t))
	}
	put(t, o.Live(), docs...)
	s, err := o.Summary(t.Context(), projections.SummaryQuery{Seller: "s", Interval: "day"})
	if err != nil || len(s.Buckets["CNY"]) != days || s.ByCurrency["CNY"].Orders != days {
		t.Fatalf("%d days, %d orders, %v", len(s.Buckets["CNY"]), s.ByCurrency["CNY"].Orders, err)
	}
	if want := days * (int64(1)<<50 + 100); s.ByCurrency["CNY"].Gross != want {
		t.Errorf("sum %d, want %d", s.ByCurrency["CNY"].Gross, want)
	}
	page, err := o.Orders(t.Context(), projections.OrderQuery{Buyer: "b", Limit: 3000})
	if err != nil || len(page.Items) != 3000 || page.Next == nil || page.Items[2999].Stream != docs[2999].Stream {
		t.Errorf("a long page has %d orders, %v", len(page.Items), err)
	}
	got, err := o.Get(t.Context(), streamsOf(docs))
	if err != nil || len(got) != days {
		t.Errorf("got %d documents at once, %v", len(got), err)
	}
}

func streamsOf(docs []orderDoc) []string {
	streams := make([]string, len(docs))
	for i, doc := range docs {
		streams[i] = doc.Stream
	}
	return streams
}

func TestAnIndexOfANewerProgramIsRefused(t *testing.T) {
	t.Parallel()
	cfg, dbs := cluster(t, 1)
	plain(t, dbs[0])
	call[map[string]any](t, cfg, http.MethodPut, "-plain-1/_mapping", `{"_meta":{"version":9}}`)
	if _, err := elasticviews.NewViews[projections.Account](t.Context(), dbs[0], "plain"); err == nil || !strings.Contains(err.Error(), "newer program") {
		t.Errorf("open: %v", err)
	}
}

func TestTheServerMakesNoIndexByItself(t *testing.T) {
	t.Parallel()
	cfg, dbs := cluster(t, 1)
	v := plain(t, dbs[0])
	next := build(t, v)
	if err := v.Drop(t.Context(), next.Number()); err != nil {
		t.Fatal(err)
	}
	if err := next.Put(t.Context(), []projections.Doc[projections.Account]{viewtest.SampleAccount(1, 1, "x")}); err == nil {
		t.Error("put into a generation that was dropped")
	}
	if got := call[map[string]any](t, cfg, http.MethodGet, "-plain-*/_alias", ""); len(got) != 1 {
		t.Errorf("indices: %v", got)
	}
}

func TestDocumentsComeBackToTheLastBit(t *testing.T) {
	t.Parallel()
	db := opened(t)
	v, err := elasticviews.NewViews[map[string]any](t.Context(), db, "anything")
	if err != nil {
		t.Fatal(err)
	}
	body := map[string]any{"a..b": "x", "": "y", ".": []any{}, "<html>": "\u2028", "deep": map[string]any{"x.y": "z"}}
	put(t, v.Live(), projections.Doc[map[string]any]{Stream: "anything-a,b/ü?#", Revision: 1 << 53, Body: body})
	got, err := v.Get(t.Context(), []string{"anything-a,b/ü?#"})
	if diff := cmp.Diff(body, got["anything-a,b/ü?#"].Body); err != nil || diff != "" || got["anything-a,b/ü?#"].Revision != 1<<53 {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	a := viewtest.SampleAccount(1, 1, "x")
	a.Body.Balance, a.Body.Held = 1<<63-1, -(1 << 63)
	p := plain(t, db)
	put(t, p.Live(), a)
	docs, err := p.Get(t.Context(), []string{a.Stream})
	if diff := cmp.Diff(a, docs[a.Stream]); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestAStreamThatFitsNoIDCanStillBeParked(t *testing.T) {
	t.Parallel()
	v := plain(t, opened(t))
	doc := viewtest.SampleAccount(1, 1, "x")
	doc.Stream = "account-" + strings.Repeat("x", 2000)
	err := v.Live().Put(t.Context(), []projections.Doc[projections.Account]{doc, viewtest.SampleAccount(2, 1, "y")})
	if refused, ok := errors.AsType[*projections.RefusedError](err); !ok || len(refused.Docs) != 1 {
		t.Fatalf("put: %v", err)
	}
	if err := v.Live().Park(t.Context(), []projections.Parked{{Stream: doc.Stream, Revision: 1, Count: 1}}); err != nil {
		t.Fatalf("park: %v", err)
	}
	if got, err := v.Parked(t.Context(), []string{doc.Stream}); err != nil || got[doc.Stream].Count != 1 {
		t.Errorf("parked: %v, %v", got, err)
	}
}
