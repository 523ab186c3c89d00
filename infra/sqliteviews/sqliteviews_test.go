package sqliteviews_test

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/infra/sqliteviews"
	"cartwright/infra/viewtest"
	"cartwright/projections"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(tb testing.TB, dir string) *sqliteviews.DB {
	tb.Helper()
	db, err := sqliteviews.Open(tb.Context(), dir)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	return db
}

// opened is an empty database that is closed at the end.
func opened(tb testing.TB) *sqliteviews.DB {
	tb.Helper()
	db := open(tb, tb.TempDir())
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return db
}

func store[V any](db *sqliteviews.DB, v *sqliteviews.Views[V]) viewtest.Store[V] {
	return viewtest.Store[V]{
		Reader: v, Generations: v, Close: db.Close,
		Live: func() viewtest.Generation[V] { return v.Live() },
	}
}

// tiers opens the order index of a folder.
func tiers(t *testing.T, dir string) viewtest.Tiers {
	t.Helper()
	db := open(t, dir)
	return viewtest.Tiers{Store: store(db, db.Orders().Views), Archiver: db.Orders(), Index: db.Orders()}
}

func ordersIn(t *testing.T, dir string) viewtest.Store[projections.Order] {
	t.Helper()
	return tiers(t, dir).Store
}

func accountsIn(t *testing.T, dir string) viewtest.Store[projections.Account] {
	t.Helper()
	db := open(t, dir)
	return store(db, db.Accounts().Views)
}

func TestGenerationsSurviveARestart(t *testing.T) {
	t.Run("orders", func(t *testing.T) { viewtest.Resume(t, ordersIn, viewtest.SampleOrder) })
	t.Run("accounts", func(t *testing.T) { viewtest.Resume(t, accountsIn, viewtest.SampleAccount) })
}

func TestAKilledReplayGoesOnFromItsMark(t *testing.T) {
	viewtest.ResumeKilled(t, ordersIn, viewtest.SampleOrder)
}

func TestArchive(t *testing.T) { viewtest.Archive(t, tiers) }

// Years takes the orders of three years: go test -run ThreeYears -args -years 1000000.
var years = flag.Int("years", 5000, "orders of three years")

func TestWhatIsAtHandStaysFlatForThreeYears(t *testing.T) {
	a := tiers(t, t.TempDir())
	begun := time.Now()
	viewtest.ThreeYears(t, a, *years)
	got, err := a.Archiver.Tiers(t.Context())
	t.Logf("%v for %+v, %v", time.Since(begun), got, err)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestAKilledArchivingLosesNoOrder(t *testing.T) { viewtest.ArchiveKilled(t, tiers) }

func TestConformance(t *testing.T) {
	t.Run("orders", func(t *testing.T) {
		viewtest.Run(t, ordersIn, viewtest.SampleOrder)
		viewtest.RunOrders(t, func(t *testing.T) viewtest.OrderIndex {
			t.Helper()
			db := opened(t)
			return viewtest.OrderIndex{Views: db.Orders().Live(), Index: db.Orders()}
		})
	})
	t.Run("orders of a generation that was built", func(t *testing.T) {
		viewtest.RunOrders(t, func(t *testing.T) viewtest.OrderIndex {
			t.Helper()
			db := opened(t)
			next, err := db.Orders().Build(t.Context())
			if err == nil {
				err = db.Orders().Switch(t.Context(), next.Number(), 1)
			}
			if err != nil {
				t.Fatal(err)
			}
			return viewtest.OrderIndex{Views: next, Index: db.Orders()}
		})
	})
	t.Run("accounts", func(t *testing.T) {
		viewtest.Run(t, accountsIn, viewtest.SampleAccount)
		viewtest.RunAccounts(t, func(t *testing.T) viewtest.Accounts {
			t.Helper()
			db := opened(t)
			return viewtest.Accounts{Views: db.Accounts().Live(), Statements: db.Accounts(), Repair: db.Accounts().Live().Repair}
		})
	})
}

func BenchmarkPut(b *testing.B) {
	b.Run("docs=500", func(b *testing.B) { viewtest.BenchmarkPut(b, opened(b).Orders().Live()) })
}

func BenchmarkBuild(b *testing.B) {
	docs := viewtest.AtNight(20_000, 5000)
	b.Run(fmt.Sprintf("docs=%d", docs), func(b *testing.B) { viewtest.BenchmarkBuild(b, opened(b).Orders(), docs) })
}

func BenchmarkProject(b *testing.B) { viewtest.BenchmarkProject(b, opened(b).Orders().Live()) }

func BenchmarkCheckouts(b *testing.B) {
	orders := opened(b).Orders().Live()
	viewtest.BenchmarkCheckouts(b, func(events *event.Registry) []projections.Member {
		return []projections.Member{viewtest.ProjectorOf(projections.OrdersView(), events, orders)}
	})
}

func BenchmarkList(b *testing.B) {
	db := opened(b)
	parties := viewtest.AtNight(100, 5)
	orders := 1000 * parties
	viewtest.Fill(b, db.Orders().Live(), orders, parties)
	for name, query := range map[string]func(i int) projections.OrderQuery{
		"buyer":  func(i int) projections.OrderQuery { return projections.OrderQuery{Buyer: viewtest.BuyerOf(i)} },
		"seller": func(i int) projections.OrderQuery { return projections.OrderQuery{Seller: viewtest.SellerOf(i)} },
		"to_ship": func(i int) projections.OrderQuery {
			return projections.OrderQuery{Seller: viewtest.SellerOf(i), ToShip: true}
		},
		"status": func(i int) projections.OrderQuery {
			return projections.OrderQuery{Seller: viewtest.SellerOf(i), Status: "cancelled"}
		},
		"text": func(i int) projections.OrderQuery {
			return projections.OrderQuery{Seller: viewtest.SellerOf(i), Text: "连衣裙"}
		},
	} {
		b.Run(fmt.Sprintf("orders=%d/by=%s", orders, name), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				q := query(i % parties)
				q.Limit = 20
				page, err := db.Orders().Orders(b.Context(), q)
				if err != nil || len(page.Items) != 20 {
					b.Fatalf("%d items, %v", len(page.Items), err)
				}
			}
		})
	}
	b.Run(fmt.Sprintf("orders=%d/by=summary", orders), func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			s, err := db.Orders().Summary(b.Context(), projections.SummaryQuery{Seller: viewtest.SellerOf(i % parties), Interval: "day"})
			if err != nil || s.ByCurrency["CNY"].Orders == 0 {
				b.Fatalf("%+v, %v", s, err)
			}
		}
	})
}

func TestAKilledProcessLeavesWholeBatches(t *testing.T) {
	viewtest.RunKilled(t, ordersIn, viewtest.SampleOrder)
}

func TestADatabaseOfANewerProgramIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", filepath.Join(dir, "views.db"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = raw.ExecContext(t.Context(), "PRAGMA user_version = 99")
	if err = errors.Join(err, raw.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := sqliteviews.Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("open: %v", err)
	}
}

func TestWhatIsNoFolderIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("not a folder"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqliteviews.Open(t.Context(), file); err == nil {
		t.Error("opened a file as a folder")
	}
}

func TestSyncedViewsAreOnTheDisk(t *testing.T) {
	db := opened(t)
	doc := viewtest.SampleOrder(1, 1, "x")
	if err := db.Orders().Live().Put(t.Context(), []projections.Doc[projections.Order]{doc}); err != nil {
		t.Fatal(err)
	}
	if err := db.Sync(t.Context()); err != nil {
		t.Errorf("sync: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Sync(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("sync with an ended context: %v", err)
	}
}

func TestAnAuditFindsWhatIsBesideTheDocuments(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	l := viewtest.Life{
		Buyer: "b", Seller: "s", Currency: "CNY", Titles: []string{"red shirt"}, Price: 5, Quantity: 2,
		Placed: time.Date(1969, 12, 31, 23, 0, 0, 0, time.UTC),
	}
	doc := l.Doc(t)
	if err := db.Orders().Live().Put(t.Context(), []projections.Doc[projections.Order]{doc, viewtest.SampleOrder(7, 1, "x")}); err != nil {
		t.Fatal(err)
	}
	a := projections.Doc[projections.Account]{Stream: "account-alice"}
	a = viewtest.Apply(t, projections.AccountsView(), a, account.Opened{Account: "alice", Currency: "CNY"}, l.Placed)
	a = viewtest.Apply(t, projections.AccountsView(), a, account.Deposited{Entry: 1, Amount: 9, Journal: "j"}, l.Placed)
	if err := db.Accounts().Live().Put(t.Context(), []projections.Doc[projections.Account]{a}); err != nil {
		t.Fatal(err)
	}
	if got := audit(t, db); len(got) != 0 {
		t.Fatalf("differences in what is right: %v", got)
	}
	for drift, find := range map[string]string{
		"UPDATE orders_1 SET to_ship = 1 WHERE buyer = 'b'": doc.Stream,
		"UPDATE orders_1_sums SET gross_lo = gross_lo + 1":  "sums",
		"DELETE FROM orders_1_sums":                         "sums",
		"DELETE FROM orders_1_text":                         "text index",
		"DELETE FROM accounts_1_entries":                    "account-alice",
	} {
		change(t, dir, drift)
		if got := strings.Join(audit(t, db), "; "); !strings.Contains(got, find) {
			t.Errorf("after %s the audit found %q, want %s", drift, got, find)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAnAuditFindsWhatIsInTheWrongTier(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	placed := time.Date(2017, 5, 6, 7, 8, 9, 0, time.UTC)
	l := viewtest.Life{Buyer: "b", Seller: "s", Currency: "CNY", Titles: []string{"red shirt"}, Price: 5, Quantity: 2, Placed: placed}
	old, recent := l.Become("completed").Doc(t), l
	recent.Number, recent.Placed = 1, placed.AddDate(1, 0, 0)
	if err := db.Orders().Live().Put(t.Context(), []projections.Doc[projections.Order]{old, recent.Doc(t)}); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Orders().Archive(t.Context(), placed.AddDate(0, 6, 0), nil); err != nil {
		t.Fatal(err)
	}
	if got := audit(t, db); len(got) != 0 {
		t.Fatalf("differences in what is right: %v", got)
	}
	for _, step := range []struct{ drift, find string }{
		{"DELETE FROM orders_1_y2017_text", "text index does not have it"},
		{"INSERT INTO orders_1 SELECT * FROM orders_1_y2017", "2 tiers"},
		{"DELETE FROM orders_1_y2017", "the text index"},
		{"INSERT INTO orders_1_y2017 SELECT * FROM orders_1 WHERE closed_at IS NULL", "does not belong in the archive of 2017"},
	} {
		change(t, dir, step.drift)
		if got := strings.Join(audit(t, db), "; "); !strings.Contains(got, step.find) {
			t.Errorf("after %s the audit found %q, want %s", step.drift, got, step.find)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestADatabaseFromBeforeTheArchiveIsBroughtForward(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	l := viewtest.Life{
		Buyer: "b", Seller: "s", Currency: "CNY", Titles: []string{"red shirt"}, Price: 5, Quantity: 2,
		Placed: time.Date(2017, 5, 6, 7, 8, 9, 0, time.UTC),
	}
	shipped := l.Become("shipped").Doc(t)
	if err := errors.Join(db.Orders().Live().Put(t.Context(), []projections.Doc[projections.Order]{shipped}), db.Close()); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"DROP TABLE tiers", "DROP INDEX orders_1_closed", "ALTER TABLE orders_1 DROP COLUMN closed_at", "PRAGMA user_version = 1"} {
		change(t, dir, text)
	}
	a := tiers(t, dir)
	got, err := a.Reader.Get(t.Context(), []string{shipped.Stream})
	if err != nil || got[shipped.Stream].Revision != shipped.Revision {
		t.Errorf("got %+v, %v", got, err)
	}
	if err = a.Live().Put(t.Context(), []projections.Doc[projections.Order]{l.Become("completed").Doc(t)}); err != nil {
		t.Fatal(err)
	}
	moved, err := a.Archiver.Archive(t.Context(), l.Placed.AddDate(1, 0, 0), nil)
	if err != nil || moved != 1 {
		t.Errorf("%d were archived, %v", moved, err)
	}
	if err = a.Close(); err != nil {
		t.Error(err)
	}
}

func TestWhatIsBeingBuiltKeepsNoWriterWaiting(t *testing.T) {
	a := tiers(t, t.TempDir())
	next, err := a.Generations.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	some := func(at event.Revision) []projections.Doc[projections.Order] {
		return []projections.Doc[projections.Order]{viewtest.SampleOrder(1, at, "x"), viewtest.SampleOrder(2, at, "x")}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second) // less than SQLite waits for a lock
	defer cancel()
	for at := range event.Revision(20) {
		if err := errors.Join(next.Put(ctx, some(at+1)), a.Live().Put(ctx, some(at+1))); err != nil {
			t.Fatal(err)
		}
		// The builder reads what it wrote, though nobody else can yet.
		if got, err := next.Get(ctx, []string{some(1)[0].Stream}); err != nil || got[some(1)[0].Stream].Revision != at+1 {
			t.Fatalf("got %+v, %v", got, err)
		}
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestABulkLoadThatFailsIsLostAlone(t *testing.T) {
	dir := t.TempDir()
	a := tiers(t, dir)
	next, err := a.Generations.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	changeFile(t, filepath.Join(dir, "orders-2.db"), "DROP TABLE orders_2_sums")
	docs := []projections.Doc[projections.Order]{viewtest.SampleOrder(1, 1, "x")}
	for range 2 {
		if err := next.Put(t.Context(), docs); err == nil || !strings.Contains(err.Error(), "lost") {
			t.Errorf("put: %v", err)
		}
	}
	if err := a.Generations.Switch(t.Context(), next.Number(), 1); err == nil {
		t.Error("switched to what was lost")
	}
	if err := a.Live().Put(t.Context(), docs); err != nil {
		t.Errorf("put to the live generation: %v", err)
	}
	if err := a.Generations.Drop(t.Context(), next.Number()); err != nil {
		t.Errorf("drop: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "orders-2.db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its file: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestFilesAndLineageAreBroughtTogether(t *testing.T) {
	dir := t.TempDir()
	a := tiers(t, dir)
	for range 2 {
		next, err := a.Generations.Build(t.Context())
		if err == nil {
			err = a.Generations.Switch(t.Context(), next.Number(), 2)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	// One that the lineage does not know, and one less than it does.
	if err := errors.Join(os.WriteFile(path("orders-9.db"), []byte("left over"), 0o600), os.Remove(path("orders-2.db"))); err != nil {
		t.Fatal(err)
	}
	a = tiers(t, dir)
	if _, err := os.Stat(path("orders-9.db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was left over: %v", err)
	}
	if kept := a.Generations.Kept(); len(kept) != 1 || kept[0].Number() != 1 {
		t.Errorf("%d generations are kept", len(kept))
	}
	if err := errors.Join(a.Close(), os.Remove(path("orders-3.db"))); err != nil {
		t.Fatal(err)
	}
	if _, err := sqliteviews.Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "replay") {
		t.Errorf("opened without the live generation: %v", err)
	}
}

func audit(t *testing.T, db *sqliteviews.DB) []string {
	t.Helper()
	var found []string
	report := func(d projections.Difference) error {
		found = append(found, d.Stream+" "+d.Detail)
		return nil
	}
	if err := errors.Join(db.Orders().Audit(t.Context(), report), db.Accounts().Audit(t.Context(), report)); err != nil {
		t.Fatalf("audit: %v", err)
	}
	return found
}

// change writes to the database behind the engine's back.
func change(t *testing.T, dir, text string) {
	t.Helper()
	changeFile(t, filepath.Join(dir, "views.db"), text)
}

func changeFile(t *testing.T, path, text string) {
	t.Helper()
	raw, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	_, err = raw.ExecContext(t.Context(), text)
	if err = errors.Join(err, raw.Close()); err != nil {
		t.Fatal(err)
	}
}
