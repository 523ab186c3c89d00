package sqliteviews

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// A writer is the one connection that writes, with its statements. Whoever has
// the turn has it alone.
type writer struct {
	turn  chan struct{}
	db    *sql.DB
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
}

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
	return nil
}

func (w *writer) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case w.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *writer) give() { <-w.turn }

// sync commits once with a sync of the log, which has all commits before it.
func (w *writer) sync(ctx context.Context) error {
	if err := w.pragma(ctx, "PRAGMA synchronous = FULL"); err != nil {
		return err
	}
	err := w.do(ctx, func(tx *txn) error {
		return tx.exec("INSERT OR REPLACE INTO lineages (view, lineage) VALUES ('', '')")
	})
	return errors.Join(err, w.pragma(context.WithoutCancel(ctx), "PRAGMA synchronous = NORMAL"))
}

func (w *writer) pragma(ctx context.Context, text string) error {
	if err := w.take(ctx); err != nil {
		return err
	}
	defer w.give()
	return (&txn{w: w, ctx: ctx}).exec(text)
}

func (w *writer) close() error {
	w.turn <- struct{}{} // and never given back: nothing is written after this
	err := w.forget("")
	return errors.Join(err, w.conn.Close(), w.db.Close())
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
	if _, err := stmt.ExecContext(t.ctx, args...); err != nil {
		return fmt.Errorf("%s: %w", verb(text), err)
	}
	return nil
}

// each runs statements that are not worth keeping.
func (t *txn) each(texts ...string) error {
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
		n := atOnce(len(rows))
		values := strings.Repeat(",("+strings.Repeat(",?", columns)[1:]+")", n)[1:]
		args := make([]any, 0, n*columns)
		for _, row := range rows[:n] {
			args = append(args, row...)
		}
		if err := t.exec(head+" "+values+" "+tail, args...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// atOnce is how many of n rows go into one statement: few sizes, so that few
// statements are prepared.
func atOnce(n int) int {
	for _, size := range []int{64, 16, 4} {
		if n >= size {
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

// ask calls scan for every row of a query in a reader's transaction.
func ask(ctx context.Context, tx *sql.Tx, text string, scan func(*sql.Rows) error, args ...any) error {
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
