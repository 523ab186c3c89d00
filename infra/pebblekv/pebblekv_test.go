package pebblekv_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/goleak"

	"cartwright/domain/event"
	"cartwright/infra/pebblekv"
	"cartwright/infra/viewtest"
	"cartwright/projections"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(tb testing.TB, dir string) *pebblekv.DB {
	tb.Helper()
	db, err := pebblekv.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	return db
}

// opened is an empty database that is closed at the end.
func opened(tb testing.TB) *pebblekv.DB {
	tb.Helper()
	db := open(tb, tb.TempDir())
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return db
}

func store[V any](tb testing.TB, db *pebblekv.DB, v *pebblekv.Views[V], err error) viewtest.Store[V] {
	tb.Helper()
	if err != nil {
		tb.Fatalf("open view: %v", err)
	}
	return viewtest.Store[V]{
		Reader: v, Generations: v, Close: db.Close, Sync: db.Sync,
		Live: func() viewtest.Generation[V] { return v.Live() },
	}
}

// A suite is all that any view must do.
func suite[V any](
	t *testing.T, view func(*pebblekv.DB) (*pebblekv.Views[V], error), sample func(int, event.Revision, string) projections.Doc[V],
) {
	t.Helper()
	opens := func(t *testing.T, dir string) viewtest.Store[V] {
		t.Helper()
		db := open(t, dir)
		v, err := view(db)
		return store(t, db, v, err)
	}
	viewtest.Run(t, opens, sample)
	viewtest.Resume(t, opens, sample)
}

func plainView(db *pebblekv.DB) (*pebblekv.Views[projections.Account], error) {
	return pebblekv.NewViews[projections.Account](db, "plain")
}

func buyersView(db *pebblekv.DB) (*pebblekv.Views[projections.Order], error) {
	b, err := pebblekv.NewBuyers(db)
	if err != nil {
		return nil, err
	}
	return b.Views, nil
}

func deadlinesView(db *pebblekv.DB) (*pebblekv.Views[projections.Timer], error) {
	d, err := pebblekv.NewDeadlines(db)
	if err != nil {
		return nil, err
	}
	return d.Views, nil
}

func TestConformance(t *testing.T) {
	t.Run("plain", func(t *testing.T) { suite(t, plainView, viewtest.SampleAccount) })
	t.Run("buyers", func(t *testing.T) {
		suite(t, buyersView, viewtest.SampleOrder)
		viewtest.RunBuyers(t, func(t *testing.T) viewtest.Buyers {
			t.Helper()
			b, err := pebblekv.NewBuyers(opened(t))
			if err != nil {
				t.Fatal(err)
			}
			return viewtest.Buyers{Views: b.Live(), List: b}
		})
	})
	t.Run("deadlines", func(t *testing.T) {
		suite(t, deadlinesView, viewtest.SampleTimer)
		viewtest.RunDeadlines(t, func(t *testing.T) viewtest.Deadlines {
			t.Helper()
			d, err := pebblekv.NewDeadlines(opened(t))
			if err != nil {
				t.Fatal(err)
			}
			return viewtest.Deadlines{Views: d.Live(), Due: d}
		})
	})
}

func TestBlocksStayInMemoryBesideMemtables(t *testing.T) {
	const docs, size, want = 500, 100 << 10, 16 << 20 // several memtables
	db := opened(t)
	v, err := pebblekv.NewViews[string](db, "texts")
	if err != nil {
		t.Fatal(err)
	}
	streams := make([]string, docs)
	body := strings.Repeat("text", size/4)
	for i := range streams {
		streams[i] = fmt.Sprintf("text-%03d", i)
		if err := v.Live().Put(t.Context(), []projections.Doc[string]{{Stream: streams[i], Revision: 1, Body: body}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.Get(t.Context(), streams[:docs/2]); err != nil {
		t.Fatal(err)
	}
	if got := db.Cached(); got < want {
		t.Errorf("%d bytes of %d that were read are in memory, want at least %d", got, docs/2*size, want)
	}
}

func BenchmarkPut(b *testing.B) {
	b.Run("docs=500", func(b *testing.B) {
		v, err := pebblekv.NewBuyers(opened(b))
		if err != nil {
			b.Fatal(err)
		}
		viewtest.BenchmarkPut(b, v.Live())
	})
}

func BenchmarkBuild(b *testing.B) {
	b.Run("docs=20000", func(b *testing.B) {
		v, err := pebblekv.NewBuyers(opened(b))
		if err != nil {
			b.Fatal(err)
		}
		viewtest.BenchmarkBuild(b, v, 20_000)
	})
}

func BenchmarkProject(b *testing.B) {
	v, err := pebblekv.NewBuyers(opened(b))
	if err != nil {
		b.Fatal(err)
	}
	viewtest.BenchmarkProject(b, v.Live())
}

func BenchmarkCheckouts(b *testing.B) {
	db := opened(b)
	buyers, err := pebblekv.NewBuyers(db)
	if err != nil {
		b.Fatal(err)
	}
	deadlines, err := pebblekv.NewDeadlines(db)
	if err != nil {
		b.Fatal(err)
	}
	stock, err := pebblekv.NewViews[projections.Stock](db, projections.StockView().Name)
	if err != nil {
		b.Fatal(err)
	}
	viewtest.BenchmarkCheckouts(b, func(events *event.Registry) []projections.Member {
		return []projections.Member{
			viewtest.ProjectorOf(projections.BuyersView(), events, buyers.Live()),
			viewtest.ProjectorOf(projections.DeadlinesView(), events, deadlines.Live()),
			viewtest.ProjectorOf(projections.StockView(), events, stock.Live()),
		}
	})
}

func BenchmarkList(b *testing.B) {
	b.Run("orders=100000", func(b *testing.B) {
		v, err := pebblekv.NewBuyers(opened(b))
		if err != nil {
			b.Fatal(err)
		}
		const buyers = 100
		viewtest.Fill(b, v.Live(), 100_000, buyers)
		for i := 0; b.Loop(); i++ {
			page, err := v.Newest(b.Context(), viewtest.BuyerOf(i%buyers), 20, nil)
			if err != nil || len(page.Items) != 20 {
				b.Fatalf("%d items, %v", len(page.Items), err)
			}
		}
	})
}

func TestAKilledProcessLeavesWholeBatches(t *testing.T) {
	viewtest.RunKilled(t, func(t *testing.T, dir string) viewtest.Store[projections.Order] {
		t.Helper()
		db := open(t, dir)
		v, err := buyersView(db)
		return store(t, db, v, err)
	}, viewtest.SampleOrder)
}

func TestADatabaseOfANewerProgramIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := pebble.Open(dir, &pebble.Options{FormatMajorVersion: pebble.FormatTableFormatV6, LoggerAndTracer: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(raw.Set([]byte("ms"), []byte("99"), pebble.Sync), raw.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := pebblekv.Open(dir, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("open: %v", err)
	}
}

func TestWhatIsNoFolderIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("not a folder"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pebblekv.Open(file, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("opened a file as a folder")
	}
}

func TestViewsOfOneDatabaseKeepApart(t *testing.T) {
	db := opened(t)
	a, errA := pebblekv.NewViews[projections.Account](db, "stock")
	b, errB := pebblekv.NewViews[projections.Account](db, "stocks")
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	doc := viewtest.SampleAccount(1, 1, "x")
	if err := a.Live().Put(t.Context(), []projections.Doc[projections.Account]{doc}); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Live().Count(t.Context()); n != 0 || err != nil {
		t.Errorf("the other view has %d documents, %v", n, err)
	}
	got, err := b.Get(t.Context(), []string{doc.Stream})
	if len(got) != 0 || err != nil {
		t.Errorf("the other view has %v, %v", got, err)
	}
}

func TestSyncedViewsAreOnTheDisk(t *testing.T) {
	db := opened(t)
	if err := db.Sync(t.Context()); err != nil {
		t.Errorf("sync: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Sync(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("sync with an ended context: %v", err)
	}
}

type silent struct{}

func (silent) Infof(string, ...any)                   {}
func (silent) Errorf(string, ...any)                  {}
func (silent) Fatalf(string, ...any)                  {}
func (silent) Eventf(context.Context, string, ...any) {}
func (silent) IsTracingEnabled(context.Context) bool  { return false }

// BenchmarkDue asks what is due, of so many that are pending: a handful is.
func BenchmarkDue(b *testing.B) {
	sizes := []int{1_000, 20_000}
	if os.Getenv("CARTWRIGHT_SOAK") != "" {
		sizes = append(sizes, 1_000_000)
	}
	for _, pending := range sizes {
		b.Run(fmt.Sprintf("pending=%d", pending), func(b *testing.B) {
			d, err := pebblekv.NewDeadlines(opened(b))
			if err != nil {
				b.Fatal(err)
			}
			now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
			for docs := range slices.Chunk(pendingTimers(now, pending), 1000) {
				if err = d.Live().Put(b.Context(), docs); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				due, err := d.Due(b.Context(), now, 500)
				if err != nil || len(due) != 10 {
					b.Fatalf("%d are due: %v", len(due), err)
				}
			}
		})
	}
}

// pendingTimers are ten that are due, and others that are not for a while.
func pendingTimers(now time.Time, n int) []projections.Doc[projections.Timer] {
	all := make([]projections.Doc[projections.Timer], n)
	for i := range all {
		due := now.Add(time.Duration(i-9) * time.Second)
		all[i] = projections.Doc[projections.Timer]{Stream: "order-" + strconv.Itoa(i), Revision: 1, Body: projections.Timer{Due: due}}
	}
	return all
}

// That nothing is parked is known without a look, and not a moment too long.
func TestWhatIsParkedIsKnownAtOnce(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		db := open(t, dir)
		v, err := pebblekv.NewBuyers(db)
		if err != nil {
			t.Fatal(err)
		}
		parked := func(want int) {
			t.Helper()
			for range 2 {
				got, err := v.Parked(t.Context(), []string{"order-1", "order-2"})
				if err != nil || len(got) != want {
					t.Fatalf("round %d: %d are parked, not %d, %v", round, len(got), want, err)
				}
			}
		}
		parked(min(round, 1)) // the last round has left one
		if err := v.Live().Park(t.Context(), []projections.Parked{{View: "buyers", Stream: "order-1"}, {View: "buyers", Stream: "order-2"}}); err != nil {
			t.Fatal(err)
		}
		parked(2)
		if err := v.Live().Unpark(t.Context(), []string{"order-1", "order-2"}); err != nil {
			t.Fatal(err)
		}
		parked(0)
		if err := v.Live().Park(t.Context(), []projections.Parked{{View: "buyers", Stream: "order-2"}}); err != nil {
			t.Fatal(err)
		}
		parked(1)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
