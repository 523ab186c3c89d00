//go:build integration

package elasticviews_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"cartwright/domain/event"
	"cartwright/infra/elasticviews"
	"cartwright/infra/services"
	"cartwright/infra/viewtest"
	"cartwright/projections"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// A server is asked over the network: the suites' laws are tried less often
	// than on an embedded engine, unless the caller says otherwise.
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if !given {
		if err := flag.Set("rapid.checks", "20"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

// config is of a namespace that goes when the test ends.
func config(tb testing.TB, namespace string) elasticviews.Config {
	tb.Helper()
	server := services.Read(tb)
	cfg := elasticviews.Config{Addresses: server.Elasticsearch, Namespace: namespace, Log: slog.New(slog.DiscardHandler)}
	if strings.HasPrefix(cfg.Addresses[0], "https:") {
		cfg.User, cfg.Password, cfg.TLS = server.User, server.Password, trusting(tb, server.CA)
	}
	tb.Cleanup(func() { wipe(tb, cfg) })
	return cfg
}

func trusting(tb testing.TB, file string) *tls.Config {
	tb.Helper()
	pem, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		tb.Fatalf("%s has no certificate", file)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// namespace names one after a folder.
func namespace(dir string) string {
	digest := sha256.Sum256([]byte(dir))
	return "cwt" + hex.EncodeToString(digest[:6])
}

// forget makes a namespace an empty one. It keeps what takes a server longest to
// make, so that one suite's checks can follow each other in it.
func forget(tb testing.TB, cfg elasticviews.Config) {
	tb.Helper()
	names := call[map[string]any](tb, cfg, http.MethodGet, "-*/_alias", "")
	delete(names, cfg.Namespace+"-views")
	if len(names) > 0 {
		request[map[string]any](tb, cfg, http.MethodDelete, "/"+strings.Join(slices.Collect(maps.Keys(names)), ","), "")
	}
	for _, view := range []string{"plain", "orders", "accounts", "deadlines"} {
		call[map[string]any](tb, cfg, http.MethodDelete, "-views/_doc/"+view, "")
	}
}

// wipe deletes all indices and templates of a namespace.
func wipe(tb testing.TB, cfg elasticviews.Config) {
	tb.Helper()
	names := slices.Collect(maps.Keys(call[map[string]any](tb, cfg, http.MethodGet, "-*/_alias", "")))
	if len(names) > 0 {
		request[map[string]any](tb, cfg, http.MethodDelete, "/"+strings.Join(names, ","), "")
	}
	request[map[string]any](tb, cfg, http.MethodDelete, "/_index_template/"+cfg.Namespace+"-*", "")
}

// call asks the server for something of the namespace, behind the engine's back.
func call[T any](tb testing.TB, cfg elasticviews.Config, method, path, body string) T {
	tb.Helper()
	return request[T](tb, cfg, method, "/"+cfg.Namespace+path, body)
}

func request[T any](tb testing.TB, cfg elasticviews.Config, method, path, body string) (answer T) {
	tb.Helper()
	ctx := context.WithoutCancel(tb.Context()) // which has ended when the test cleans up
	req, err := http.NewRequestWithContext(ctx, method, cfg.Addresses[0]+path, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if cfg.User != "" {
		req.SetBasicAuth(cfg.User, cfg.Password)
	}
	// Nothing is left behind for the leak detector.
	res, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: cfg.TLS, DisableKeepAlives: true}}).Do(req)
	if err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
	if res.StatusCode >= http.StatusMultipleChoices && res.StatusCode != http.StatusNotFound {
		tb.Fatalf("%s %s: %d %s", method, path, res.StatusCode, raw)
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		tb.Fatalf("%s %s: %v in %s", method, path, err, raw)
	}
	return answer
}

func open(tb testing.TB, cfg elasticviews.Config) *elasticviews.DB {
	tb.Helper()
	db, err := elasticviews.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	return db
}

// opened is a namespace of its own that is closed at the end.
func opened(tb testing.TB) *elasticviews.DB {
	tb.Helper()
	return openedIn(tb, config(tb, namespace(tb.TempDir())))
}

func openedIn(tb testing.TB, cfg elasticviews.Config) *elasticviews.DB {
	tb.Helper()
	db := open(tb, cfg)
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return db
}

func orders(tb testing.TB, db *elasticviews.DB) *elasticviews.Orders {
	tb.Helper()
	o, err := elasticviews.NewOrders(tb.Context(), db)
	if err != nil {
		tb.Fatalf("open orders: %v", err)
	}
	return o
}

func accounts(tb testing.TB, db *elasticviews.DB) *elasticviews.Accounts {
	tb.Helper()
	a, err := elasticviews.NewAccounts(tb.Context(), db)
	if err != nil {
		tb.Fatalf("open accounts: %v", err)
	}
	return a
}

func deadlines(tb testing.TB, db *elasticviews.DB) *elasticviews.Deadlines {
	tb.Helper()
	d, err := elasticviews.NewDeadlines(tb.Context(), db)
	if err != nil {
		tb.Fatalf("open deadlines: %v", err)
	}
	return d
}

func plain(tb testing.TB, db *elasticviews.DB) *elasticviews.Views[projections.Account] {
	tb.Helper()
	v, err := elasticviews.NewViews[projections.Account](tb.Context(), db, "plain")
	if err != nil {
		tb.Fatalf("open plain: %v", err)
	}
	return v
}

func store[V any](db *elasticviews.DB, v *elasticviews.Views[V]) viewtest.Store[V] {
	return viewtest.Store[V]{
		Reader: v, Generations: v, Close: db.Close,
		Live: func() viewtest.Generation[V] { return v.Live() },
	}
}

// run runs a view's suites in one namespace, which is empty before each check.
func run[V any](t *testing.T, view func(testing.TB, *elasticviews.DB) *elasticviews.Views[V],
	sample func(int, event.Revision, string) projections.Doc[V], more func(t *testing.T, emptied emptied),
) {
	t.Helper()
	t.Parallel()
	cfg := config(t, namespace(t.TempDir()))
	begin := func(t *testing.T, _ string) viewtest.Store[V] {
		t.Helper()
		t.Cleanup(func() { forget(t, cfg) }) // after the check, which may open it twice
		db := open(t, cfg)
		return store(db, view(t, db))
	}
	viewtest.Run(t, begin, sample)
	viewtest.Resume(t, begin, sample)
	more(t, func(t *testing.T) *elasticviews.DB {
		t.Helper()
		t.Cleanup(func() { forget(t, cfg) })
		return openedIn(t, cfg)
	})
}

func ordersView(tb testing.TB, db *elasticviews.DB) *elasticviews.Views[projections.Order] {
	tb.Helper()
	return orders(tb, db).Views
}

func accountsView(tb testing.TB, db *elasticviews.DB) *elasticviews.Views[projections.Account] {
	tb.Helper()
	return accounts(tb, db).Views
}

func deadlinesView(tb testing.TB, db *elasticviews.DB) *elasticviews.Views[projections.Timer] {
	tb.Helper()
	return deadlines(tb, db).Views
}

func TestArchive(t *testing.T) {
	t.Parallel()
	cfg := config(t, namespace(t.TempDir()))
	viewtest.Archive(t, func(t *testing.T, _ string) viewtest.Tiers {
		t.Helper()
		t.Cleanup(func() { forget(t, cfg) })
		return tiers(t, open(t, cfg))
	})
}

func tiers(tb testing.TB, db *elasticviews.DB) viewtest.Tiers {
	tb.Helper()
	o := orders(tb, db)
	return viewtest.Tiers{Store: store(db, o.Views), Archiver: o, Index: o}
}

func TestArchiveKilled(t *testing.T) {
	viewtest.ArchiveKilled(t, func(t *testing.T, dir string) viewtest.Tiers {
		t.Helper()
		return tiers(t, open(t, config(t, namespace(dir))))
	})
}

type emptied = func(t *testing.T) *elasticviews.DB

func TestConformance(t *testing.T) {
	t.Run("plain", func(t *testing.T) {
		run(t, plain, viewtest.SampleAccount, func(*testing.T, emptied) {})
	})
	t.Run("orders", func(t *testing.T) {
		run(t, ordersView, viewtest.SampleOrder, func(t *testing.T, emptied emptied) {
			t.Helper()
			viewtest.RunOrders(t, func(t *testing.T) viewtest.OrderIndex {
				t.Helper()
				o := orders(t, emptied(t))
				return viewtest.OrderIndex{Views: o.Live(), Index: o}
			})
			viewtest.RunBuyers(t, func(t *testing.T) viewtest.Buyers {
				t.Helper()
				o := orders(t, emptied(t))
				return viewtest.Buyers{Views: o.Live(), List: o}
			})
		})
	})
	t.Run("accounts", func(t *testing.T) {
		run(t, accountsView, viewtest.SampleAccount, func(t *testing.T, emptied emptied) {
			t.Helper()
			viewtest.RunAccounts(t, func(t *testing.T) viewtest.Accounts {
				t.Helper()
				a := accounts(t, emptied(t))
				return viewtest.Accounts{Views: a.Live(), Statements: a, Repair: a.Live().Repair}
			})
		})
	})
	t.Run("deadlines", func(t *testing.T) {
		run(t, deadlinesView, viewtest.SampleTimer, func(t *testing.T, emptied emptied) {
			t.Helper()
			viewtest.RunDeadlines(t, func(t *testing.T) viewtest.Deadlines {
				t.Helper()
				d := deadlines(t, emptied(t))
				return viewtest.Deadlines{Views: d.Live(), Due: d}
			})
		})
	})
}
