package sqliteviews_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cartwright/domain/account"
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
		Previous: func() viewtest.Generation[V] {
			if g := v.Previous(); g != nil {
				return g
			}
			return nil
		},
	}
}

func TestConformance(t *testing.T) {
	t.Run("orders", func(t *testing.T) {
		viewtest.Run(t, func(t *testing.T, dir string) viewtest.Store[projections.Order] {
			t.Helper()
			db := open(t, dir)
			return store(db, db.Orders().Views)
		}, viewtest.SampleOrder)
		viewtest.RunOrders(t, func(t *testing.T) viewtest.OrderIndex {
			t.Helper()
			db := opened(t)
			return viewtest.OrderIndex{Views: db.Orders().Live(), Index: db.Orders()}
		})
	})
	t.Run("accounts", func(t *testing.T) {
		viewtest.Run(t, func(t *testing.T, dir string) viewtest.Store[projections.Account] {
			t.Helper()
			db := open(t, dir)
			return store(db, db.Accounts().Views)
		}, viewtest.SampleAccount)
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

func BenchmarkProject(b *testing.B) { viewtest.BenchmarkProject(b, opened(b).Orders().Live()) }

func BenchmarkList(b *testing.B) {
	db := opened(b)
	const parties = 100
	viewtest.Fill(b, db.Orders().Live(), 100_000, parties)
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
		b.Run("orders=100000/by="+name, func(b *testing.B) {
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
	b.Run("orders=100000/by=summary", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			s, err := db.Orders().Summary(b.Context(), projections.SummaryQuery{Seller: viewtest.SellerOf(i % parties), Interval: "day"})
			if err != nil || s.ByCurrency["CNY"].Orders == 0 {
				b.Fatalf("%+v, %v", s, err)
			}
		}
	})
}

func TestAKilledProcessLeavesWholeBatches(t *testing.T) {
	viewtest.RunKilled(t, func(t *testing.T, dir string) viewtest.Store[projections.Order] {
		t.Helper()
		db := open(t, dir)
		return store(db, db.Orders().Views)
	}, viewtest.SampleOrder)
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
	raw, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "views.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	_, err = raw.ExecContext(t.Context(), text)
	if err = errors.Join(err, raw.Close()); err != nil {
		t.Fatal(err)
	}
}
