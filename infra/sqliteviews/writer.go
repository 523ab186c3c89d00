package sqliteviews

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
)

// A writer is the one connection that writes to a file, with its statements.
// Whoever has the turn has it alone.
type writer struct {
	turn  chan struct{}
	db    *sql.DB
	conn  *sql.Conn
	stmts map[string]*sql.Stmt

	bulk atomic.Bool // changed on the turn only, as are all of these
	open bool        // a transaction that several writes share
	rows int         // in it
	lost error       // why nothing is written any more
	news bool        // something was committed and not synced
}

// bulkRows is how many rows a transaction of a bulk load takes: many, so that a
// page that is written to again and again goes to the disk once.
const bulkRows = 60_000

// liveLog is after how many pages SQLite writes its log into the file. Lists of
// buyers and sellers lie on pages that are written again and again: the longer
// the log, the fewer times they go into the file, and the longer the writer that
// brings them there keeps the next one waiting.
const liveLog = "4096"

func openWriter(ctx context.Context, dsn string) (*writer, error) {
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &writer{turn: make(chan struct{}, 1), db: db, conn: conn, stmts: map[string]*sql.Stmt{}}, nil
}

// do runs f in a transaction: all of it, or nothing. It waits for its turn no
// longer than ctx; once begun it is short and is not cut off, since the driver
// would start a goroutine a statement to watch for that.
func (w *writer) do(ctx context.Context, f func(*txn) error) error {
	if err := w.take(ctx); err != nil {
		return err
	}
	defer w.give()
	tx := &txn{w: w, ctx: context.WithoutCancel(ctx)}
	if w.bulk.Load() {
		return w.share(tx, f)
	}
	if err := w.alone(tx, f); err != nil {
		return err
	}
	w.news = true
	return nil
}

// alone gives f a transaction of its own.
func (w *writer) alone(tx *txn, f func(*txn) error) error {
	if err := tx.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := f(tx)
	if err == nil {
		err = tx.exec("COMMIT")
	}
	if err != nil {
		return errors.Join(err, tx.rollback())
	}
	tx.done()
	return nil
}

// share runs f within the open transaction, which nobody else can see before it
// is committed, and nobody else asks for. Should f fail when it has written
// something, all of it is lost, and the file is of no use any more. Not chosen: a
// savepoint for each, for which SQLite copies every page that is touched.
func (w *writer) share(tx *txn, f func(*txn) error) error {
	if !w.open {
		if err := tx.exec("BEGIN IMMEDIATE"); err != nil {
			return err
		}
		w.open, tx.wrote = true, false
	}
	if err := f(tx); err != nil && tx.wrote {
		w.open = false
		return w.lose(tx, err)
	} else if err != nil {
		return err
	}
	tx.done()
	if w.rows += tx.rows; w.rows < bulkRows {
		return nil
	}
	return w.commit(tx)
}

// lose gives the open transaction up.
func (w *writer) lose(tx *txn, err error) error {
	w.lost = fmt.Errorf("what was written in bulk is lost: %w", errors.Join(err, tx.rollback()))
	return w.lost
}

// commit ends the open transaction. Should that fail, what was answered before
// is gone, and the file is of no use any more.
func (w *writer) commit(tx *txn) error {
	w.open, w.rows = false, 0
	if err := tx.exec("COMMIT"); err != nil {
		return w.lose(tx, err)
	}
	w.news = true
	return nil
}

// load begins a bulk load: from here on several writes share a transaction.
func (w *writer) load(ctx context.Context) error {
	return w.held(ctx, func(tx *txn) error {
		w.bulk.Store(true)
		return tx.each("PRAGMA cache_size = -65536", "PRAGMA wal_autocheckpoint = 16384")
	})
}

// settle ends a bulk load with a last write, and with everything on the disk.
func (w *writer) settle(ctx context.Context, last func(*txn) error) error {
	return w.held(ctx, func(tx *txn) error {
		if err := w.share(tx, last); err != nil {
			return err
		}
		if err := w.flush(tx); err != nil {
			return err
		}
		w.bulk.Store(false)
		return tx.each("PRAGMA cache_size = -32768", "PRAGMA wal_autocheckpoint = "+liveLog)
	})
}

// held runs f on the turn, in no transaction of its own.
func (w *writer) held(ctx context.Context, f func(*txn) error) error {
	if err := w.take(ctx); err != nil {
		return err
	}
	defer w.give()
	return f(&txn{w: w, ctx: context.WithoutCancel(ctx)})
}

// see reads within the open transaction of a bulk load. It is false where there is none.
func (w *writer) see(ctx context.Context, read func(moment) error) (seen bool, err error) {
	if !w.bulk.Load() {
		return false, nil
	}
	if err := w.take(ctx); err != nil {
		return true, err
	}
	defer w.give()
	if !w.bulk.Load() {
		return false, nil
	}
	return true, read(w.conn)
}

func (w *writer) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case w.turn <- struct{}{}:
		if w.lost != nil {
			w.give()
			return w.lost
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *writer) give() { <-w.turn }

// sync brings everything that was put to the disk.
func (w *writer) sync(ctx context.Context) error { return w.held(ctx, w.flush) }

// flush commits with a sync of the log, which has all earlier commits. The
// pragmas work when they are prepared, so they are prepared each time.
func (w *writer) flush(tx *txn) error {
	if w.open {
		if err := w.commit(tx); err != nil {
			return err
		}
	}
	if !w.news {
		return nil
	}
	if err := tx.each("PRAGMA synchronous = FULL"); err != nil {
		return err
	}
	err := w.alone(tx, func(tx *txn) error {
		return tx.exec("INSERT OR REPLACE INTO lineages (view, lineage) VALUES ('', '')")
	})
	w.news = err != nil
	return errors.Join(err, tx.each("PRAGMA synchronous = NORMAL"))
}

var errClosed = errors.New("the file is closed")

func (w *writer) close() error {
	w.turn <- struct{}{}
	defer w.give()
	w.lost = errClosed
	return errors.Join(w.forget(""), w.conn.Close(), w.db.Close())
}

// forget closes the statements that speak of a table, or all. It is called
// with the turn.
func (w *writer) forget(table string) error {
	var err error
	for text, stmt := range w.stmts {
		if strings.Contains(text, table) {
			err = errors.Join(err, stmt.Close())
			delete(w.stmts, text)
		}
	}
	return err
}

// A txn is a transaction under way on the writer.
type txn struct {
	w   *writer
	ctx context.Context //nolint:containedctx // a txn lives no longer than the call that it is part of

	then  []func() // run once it is done, before the next one begins
	rows  int      // that were inserted
	wrote bool     // anything
}

func (t *txn) done() {
	for _, then := range t.then {
		then()
	}
}

// stmt prepares a statement once. Texts are few: table names vary, values don't.
func (t *txn) stmt(text string) (*sql.Stmt, error) {
	if stmt, ok := t.w.stmts[text]; ok {
		return stmt, nil
	}
	stmt, err := t.w.conn.PrepareContext(t.ctx, text)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", text, err)
	}
	t.w.stmts[text] = stmt
	return stmt, nil
}

func (t *txn) exec(text string, args ...any) error {
	stmt, err := t.stmt(text)
	if err != nil {
		return err
	}
	t.wrote = true
	if _, err := stmt.ExecContext(t.ctx, args...); err != nil {
		return fmt.Errorf("%s: %w", verb(text), err)
	}
	return nil
}

// each runs statements that are not worth keeping.
func (t *txn) each(texts ...string) error {
	t.wrote = t.wrote || len(texts) > 0
	for _, text := range texts {
		if _, err := t.w.conn.ExecContext(t.ctx, text); err != nil {
			return fmt.Errorf("%s: %w", verb(text), err)
		}
	}
	return nil
}

func (t *txn) row(text string, args ...any) *sql.Row {
	return t.w.conn.QueryRowContext(t.ctx, text, args...)
}

// query calls scan for every row.
func (t *txn) query(scan func(*sql.Rows) error, text string, args ...any) error {
	stmt, err := t.stmt(text)
	if err != nil {
		return err
	}
	rows, err := stmt.QueryContext(t.ctx, args...)
	return eachRow(rows, err, scan)
}

// insert writes rows, many a statement: "INSERT INTO t (a, b) VALUES", then
// rows, then the rest.
func (t *txn) insert(head, tail string, columns int, rows [][]any) error {
	for len(rows) > 0 {
		n := atOnce(len(rows), columns)
		values := strings.Repeat(",("+strings.Repeat(",?", columns)[1:]+")", n)[1:]
		args := make([]any, 0, n*columns)
		for _, row := range rows[:n] {
			args = append(args, row...)
		}
		if err := t.exec(head+" "+values+" "+tail, args...); err != nil {
			return err
		}
		rows = rows[n:]
		t.rows += n
	}
	return nil
}

// atOnce is how many of n rows go into one statement: few sizes, so that few
// statements are prepared, and not too many values.
func atOnce(n, columns int) int {
	for _, size := range []int{1024, 256, 64, 16, 4} {
		if n >= size && size*columns <= 4096 {
			return size
		}
	}
	return 1
}

func (t *txn) rollback() error {
	// SQLite has rolled back by itself after some errors.
	if _, err := t.w.conn.ExecContext(t.ctx, "ROLLBACK"); err != nil && !strings.Contains(err.Error(), "no transaction is active") {
		return fmt.Errorf("roll back: %w", err)
	}
	return nil
}

// A moment is a reader's transaction: whatever it is asked is answered from one
// moment of the database.
type moment interface {
	QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error)
}

// ask calls scan for every row of a query.
func ask(ctx context.Context, tx moment, text string, scan func(*sql.Rows) error, args ...any) error {
	rows, err := tx.QueryContext(ctx, text, args...)
	return eachRow(rows, err, scan)
}

func eachRow(rows *sql.Rows, err error, scan func(*sql.Rows) error) error {
	if err != nil {
		return err
	}
	for err == nil && rows.Next() {
		err = scan(rows)
	}
	return errors.Join(err, rows.Close(), rows.Err())
}

// verb is the beginning of a statement, for errors.
func verb(text string) string {
	words := strings.Fields(text)
	return strings.Join(words[:min(4, len(words))], " ")
}
