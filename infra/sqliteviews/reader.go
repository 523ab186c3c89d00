package sqliteviews

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
)

// A pool has a file's readers, of which each has a connection once it is needed.
type pool struct {
	db   *sql.DB
	free chan *reader
}

// A reader is a connection that reads, with its statements: to prepare one takes
// longer than most take to run. Whoever has it has it alone.
type reader struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
}

// maxStatements is how many a reader keeps. There are as many texts as there are
// ways to ask for a list, for each table, so they are all forgotten now and then.
const maxStatements = 128

func openPool(dsn string) (*pool, error) {
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	p := &pool{db: db, free: make(chan *reader, readers)}
	for range readers {
		p.free <- &reader{stmts: map[string]*sql.Stmt{}}
	}
	return p, nil
}

// snapshot reads one moment of the file.
func (p *pool) snapshot(ctx context.Context, read func(moment) error) error {
	r, err := p.take(ctx)
	if err != nil {
		return err
	}
	defer func() { p.free <- r }()
	if r.conn == nil {
		if r.conn, err = p.db.Conn(ctx); err != nil {
			return err
		}
	}
	// Begin and end take no time, and an end that was cut off would leave the
	// reader where it is.
	always := context.WithoutCancel(ctx)
	if err = r.exec(always, "BEGIN"); err != nil {
		return errors.Join(err, r.hangUp())
	}
	err = read(r)
	if open := r.exec(always, "ROLLBACK"); open != nil {
		return errors.Join(err, open, r.hangUp())
	}
	return err
}

// hangUp gives a connection up that does not do as it should. The next who reads
// has another (TestAReaderThatIsOutOfOrderFailsOnce).
func (r *reader) hangUp() error {
	if r.conn == nil {
		return nil
	}
	err := errors.Join(r.forget(), r.conn.Raw(func(any) error { return driver.ErrBadConn }))
	if r.conn = nil; errors.Is(err, driver.ErrBadConn) {
		return nil
	}
	return err
}

func (p *pool) take(ctx context.Context) (*reader, error) {
	select {
	case r, open := <-p.free:
		if !open {
			return nil, errClosed
		}
		return r, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// close waits for those who read, and lets nobody in any more.
func (p *pool) close() error {
	var err error
	for range readers {
		r := <-p.free
		if err = errors.Join(err, r.forget()); r.conn != nil {
			err = errors.Join(err, r.conn.Close())
		}
	}
	close(p.free)
	return errors.Join(err, p.db.Close())
}

// QueryContext asks by a statement that is prepared once.
func (r *reader) QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	stmt, err := r.stmt(ctx, text)
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(ctx, args...)
}

func (r *reader) exec(ctx context.Context, text string) error {
	stmt, err := r.stmt(ctx, text)
	if err != nil {
		return err
	}
	_, err = stmt.ExecContext(ctx)
	return err
}

func (r *reader) stmt(ctx context.Context, text string) (*sql.Stmt, error) {
	if stmt, ok := r.stmts[text]; ok {
		return stmt, nil
	}
	if len(r.stmts) >= maxStatements {
		if err := r.forget(); err != nil {
			return nil, err
		}
	}
	stmt, err := r.conn.PrepareContext(ctx, text)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", text, err)
	}
	r.stmts[text] = stmt
	return stmt, nil
}

func (r *reader) forget() error {
	var err error
	for _, stmt := range r.stmts {
		err = errors.Join(err, stmt.Close())
	}
	clear(r.stmts)
	return err
}
