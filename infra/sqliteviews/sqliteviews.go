// Package sqliteviews keeps the order index and the accounts in a SQLite
// database: lists of buyers and sellers, full-text search, sellers' sums, and
// accounts with their entries. It promises what infra/viewtest asks of every
// engine; one process at a time opens the folder.
//
// # Why
//
// One connection writes, several read. In WAL mode neither waits for the other,
// and a list or a summary sees one moment of the database throughout.
//
// A seller's sums are rows of (seller, currency, day, status) that move by the
// difference between the old and the new document in the same transaction. So
// a summary over years reads days, not orders, and can't drift from the
// documents (TestConformance adds them up by hand). Not chosen: summing when
// asked, which costs a seller's whole history each time.
//
// Text is cut into words by projections and not by SQLite: Chinese and Japanese have no
// spaces, so their runs are indexed as overlapping pairs, and single characters
// beside them. A search names its buyer or seller inside the text index too, so
// that a common word costs one party's orders and not everybody's. Titles never
// change, so an order is indexed once however often it is written.
//
// The order's id is the row's number. That saves an index over ids, and streams
// that are not called after an order id are refused, which parks them.
package sqliteviews

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite" // the driver registers itself

	"cartwright/projections"
)

const (
	schema  = 1 // of the tables
	readers = 4
)

// A DB is a database of views. Its methods may be called concurrently, Close last.
type DB struct {
	write    *writer
	read     *sql.DB
	orders   *Orders
	accounts *Accounts
}

// Open opens or makes the database in a folder. It refuses one that a newer
// version of this program has written.
func Open(ctx context.Context, dir string) (*DB, error) {
	d, err := open(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("open views in %s: %w", dir, err)
	}
	return d, nil
}

func open(ctx context.Context, dir string) (*DB, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "views.db")
	w, err := openWriter(ctx, dsn(path, "cache_size(-32768)"))
	if err != nil {
		return nil, err
	}
	d := &DB{write: w}
	if err := d.prepare(ctx, path); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *DB) prepare(ctx context.Context, path string) error {
	if err := d.write.do(ctx, migrate); err != nil {
		return err
	}
	read, err := sql.Open("sqlite", dsn(path, "query_only(1)", "cache_size(-8192)"))
	if err != nil {
		return err
	}
	d.read = read
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers)
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
	if have == schema {
		return nil
	}
	return tx.each(
		`CREATE TABLE lineages (view TEXT PRIMARY KEY, lineage TEXT NOT NULL) STRICT, WITHOUT ROWID`,
		`CREATE TABLE parking (
			view TEXT NOT NULL, generation INTEGER NOT NULL, stream TEXT NOT NULL, record TEXT NOT NULL,
			PRIMARY KEY (view, generation, stream)
		) STRICT, WITHOUT ROWID`,
		fmt.Sprintf("PRAGMA user_version = %d", schema),
	)
}

// Orders is the order index.
func (d *DB) Orders() *Orders { return d.orders }

// Accounts are the accounts with their entries.
func (d *DB) Accounts() *Accounts { return d.accounts }

// Sync returns once everything that was put is on the disk.
func (d *DB) Sync(ctx context.Context) error {
	if err := d.write.sync(ctx); err != nil {
		return fmt.Errorf("sync views: %w", err)
	}
	return nil
}

// Close ends all connections. What was put is in the database.
func (d *DB) Close() error {
	var err error
	if d.read != nil {
		err = d.read.Close()
	}
	if err = errors.Join(err, d.write.close()); err != nil {
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
