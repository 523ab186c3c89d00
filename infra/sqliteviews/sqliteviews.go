// Package sqliteviews keeps the order index and the accounts in SQLite
// databases: lists of buyers and sellers, full-text search, sellers' sums, an
// archive of old orders, and accounts with their entries. It promises what
// infra/viewtest asks of every engine; one process at a time opens the folder.
//
// # Why
//
// One connection writes to a file, several read. In WAL mode neither waits for
// the other, and a list or a summary sees one moment of the file throughout. Each
// keeps its statements: to prepare one took a quarter of a list's time. A reader
// that was cut off reads on (TestReadersReadOnAfterTheyWereCutOff).
//
// A generation that is built has a file of its own; views.db has the lineages,
// and the first generation. So a replay keeps nobody waiting who writes to the
// live one (TestWhatIsBeingBuiltKeepsNoWriterWaiting), its writes share large
// transactions, as nobody else reads them yet, and what is dropped is a file.
// Between files no log orders what is written, so a mark, and the switch, first
// bring the file to the disk (TestAKilledReplayGoesOnFromItsMark,
// TestFilesAndLineageAreBroughtTogether). Should a shared transaction fail, that
// generation is of no use any more, and no other is touched
// (TestABulkLoadThatFailsIsLostAlone). Not chosen: indices made after the load,
// which costs a pass over all documents for each, just when the switch waits.
//
// A seller's sums are rows of (seller, currency, day, status) that move by the
// difference between the old and the new document in the same transaction. So
// a summary over years reads days, not orders, and can't drift from the
// documents (TestConformance adds them up by hand). Not chosen: summing when
// asked, which costs a seller's whole history each time.
//
// The archive has tables for each year in which orders were placed, with their
// own text index; sums know no tiers. A year's range of time is known, so a list
// newest first reads a year only if the page is not full of newer orders. An
// order is moved whole in one transaction, and the boundary before any order
// (Orders.Archive says why), so that lists, sums and documents are exact at
// every moment (TestArchive, TestAKilledArchivingLosesNoOrder). New orders cost
// no look into the archive: their ids are above all that it has.
//
// Text is cut into words by projections and not by SQLite: Chinese and Japanese have no
// spaces, so their runs are indexed as overlapping pairs, and single characters
// beside them. A search names its buyer or seller inside the text index too, so
// that a common word costs one party's orders and not everybody's. Nor all of
// those: hits come by id, newest first, until no newer order can follow, so that a
// page costs its hits or the orders that it passes over, whichever are fewer
// (BenchmarkSeller; that ids need not rise with time is in TestConformance). Titles
// never change, so an order is indexed once however often it is written.
//
// That no stream of a generation is parked is known in memory, as nobody else
// writes to the file: every batch asks, and nearly always none is (TestConformance
// parks some, and looks).
//
// The order's id is the row's number. That saves an index over ids, and streams
// that are not called after an order id are refused, which parks them.
package sqliteviews

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver registers itself

	"cartwright/projections"
)

const (
	schema  = 2 // of the tables
	readers = 4
)

// A DB is a folder of views. Its methods may be called concurrently, Close last.
type DB struct {
	dir      string
	main     *file
	orders   *Orders
	accounts *Accounts

	mu    sync.Mutex
	files map[*file]bool // those that are open
}

// Open opens or makes the views in a folder. It refuses those that a newer
// version of this program has written.
func Open(ctx context.Context, dir string) (*DB, error) {
	d := &DB{dir: dir, files: map[*file]bool{}}
	if err := d.open(ctx); err != nil {
		return nil, fmt.Errorf("open views in %s: %w", dir, errors.Join(err, d.Close()))
	}
	return d, nil
}

func (d *DB) open(ctx context.Context) (err error) {
	if err = os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	if d.main, err = d.openFile(ctx, filepath.Join(d.dir, "views.db")); err != nil {
		return err
	}
	orders, err := newViews(ctx, d, projections.OrdersView().Name, ordersShape)
	if err != nil {
		return err
	}
	accounts, err := newViews(ctx, d, projections.AccountsView().Name, accountsShape)
	if err != nil {
		return err
	}
	d.orders, d.accounts = &Orders{orders}, &Accounts{accounts}
	return nil
}

// dsn names the database file with what every connection to it sets first.
func dsn(path string, pragmas ...string) string {
	q := url.Values{"_txlock": {"deferred"}}
	q["_pragma"] = append([]string{
		"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(NORMAL)", "temp_store(MEMORY)", "journal_size_limit(67108864)",
	}, pragmas...)
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

// migrate makes the tables that are not a generation's.
func migrate(tx *txn) error {
	var have int
	if err := tx.row("PRAGMA user_version").Scan(&have); err != nil {
		return err
	}
	if have > schema {
		return fmt.Errorf("schema %d is newer than this program's, which is %d", have, schema)
	}
	for ; have < schema; have++ {
		if err := steps[have](tx); err != nil {
			return fmt.Errorf("bring the tables to schema %d: %w", have+1, err)
		}
	}
	return tx.each(fmt.Sprintf("PRAGMA user_version = %d", schema))
}

// steps bring the tables from each schema to the next.
var steps = [schema]func(tx *txn) error{first, archived}

func first(tx *txn) error {
	return tx.each(
		`CREATE TABLE lineages (view TEXT PRIMARY KEY, lineage TEXT NOT NULL) STRICT, WITHOUT ROWID`,
		`CREATE TABLE parking (
			view TEXT NOT NULL, generation INTEGER NOT NULL, stream TEXT NOT NULL, record TEXT NOT NULL,
			PRIMARY KEY (view, generation, stream)
		) STRICT, WITHOUT ROWID`,
	)
}

// archived adds an archive. Documents from before do not say when their orders
// were closed, so those are archived once the view is replayed.
func archived(tx *txn) error {
	err := tx.each(`CREATE TABLE tiers (
		view TEXT NOT NULL, generation INTEGER NOT NULL, tiers TEXT NOT NULL, PRIMARY KEY (view, generation)
	) STRICT, WITHOUT ROWID`)
	if err != nil {
		return err
	}
	var tables []string
	err = tx.query(func(rows *sql.Rows) error {
		var name string
		scanned := rows.Scan(&name)
		tables = append(tables, name)
		return scanned
	}, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'orders_[0-9]*' AND name NOT GLOB 'orders_*_*'`)
	for _, table := range tables {
		if err == nil {
			err = tx.each(`ALTER TABLE `+table+` ADD COLUMN closed_at INTEGER`, closedIndex(table))
		}
	}
	return err
}

// Orders is the order index.
func (d *DB) Orders() *Orders { return d.orders }

// Accounts are the accounts with their entries.
func (d *DB) Accounts() *Accounts { return d.accounts }

// Sync returns once everything that was put is on the disk, but for what is
// being built, where that is promised by its marks.
func (d *DB) Sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("sync views: %w", err)
	}
	for _, f := range d.opened() {
		if f.write.bulk.Load() {
			continue
		}
		if err := f.write.sync(ctx); err != nil && !f.gone.Load() {
			return fmt.Errorf("sync views: %w", err)
		}
	}
	return nil
}

func (d *DB) opened() []*file {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.files))
}

// Close ends all connections. What was put is in the files.
func (d *DB) Close() error {
	var err error
	for _, f := range d.opened() {
		err = errors.Join(err, d.closeFile(f))
	}
	if err != nil {
		return fmt.Errorf("close views: %w", err)
	}
	return nil
}

// stamp stores a time to the microsecond.
func stamp(t time.Time) int64 { return t.UnixMicro() }

// bound stores the end of a range: a time within a microsecond begins the next.
func bound(t time.Time) int64 {
	at := t.UnixMicro()
	if time.UnixMicro(at).Before(t) {
		at++
	}
	return at
}

func unstamp(at int64) time.Time { return time.UnixMicro(at).UTC() }
