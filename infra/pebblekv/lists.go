package pebblekv

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"cartwright/projections"
)

// Buyers are the documents of orders, and each buyer's newest.
type Buyers struct{ *Views[projections.Order] }

// NewBuyers opens the view.
func NewBuyers(db *DB) (*Buyers, error) {
	v, err := newViews(db, projections.BuyersView().Name, buyerKey)
	if err != nil {
		return nil, err
	}
	return &Buyers{v}, nil
}

// buyerKey sorts a buyer's orders by when they were placed, then by id.
func buyerKey(key []byte, doc projections.Doc[projections.Order]) []byte {
	f, placed := doc.Body.Facts()
	if !placed {
		return key
	}
	return appendPlaced(key, f.Buyer, f.PlacedAt, f.ID)
}

func appendPlaced(key []byte, buyer string, at time.Time, id string) []byte {
	return append(appendInstant(appendBuyer(key, buyer), at), id...)
}

// appendBuyer has the id's length in front, so that no buyer's is the beginning
// of another's.
func appendBuyer(key []byte, buyer string) []byte {
	return append(binary.AppendUvarint(key, uint64(len(buyer))), buyer...)
}

// Newest gives a buyer's orders, newest first, behind a cursor if there is one.
func (b *Buyers) Newest(ctx context.Context, buyer string, limit int, after *projections.Cursor) (projections.OrderPage, error) {
	page, err := reading(b.Views, func(g *Generation[projections.Order]) (projections.OrderPage, error) {
		return newest(ctx, g, buyer, limit, after)
	})
	return page, wrap(err, "list the newest orders of buyer %s", buyer)
}

func newest(
	ctx context.Context, g *Generation[projections.Order], buyer string, limit int, after *projections.Cursor,
) (page projections.OrderPage, err error) {
	if err = g.hold(ctx); err != nil {
		return page, err
	}
	defer g.use.RUnlock()
	prefix := appendBuyer(bytes.Clone(g.keys), buyer)
	bounds := &pebble.IterOptions{LowerBound: prefix, UpperBound: end(prefix)}
	if after != nil {
		bounds.UpperBound = appendPlaced(bytes.Clone(g.keys), buyer, after.At, after.ID)
	}
	it, err := g.db.kv.NewIterWithContext(ctx, bounds)
	if err != nil {
		return page, err
	}
	defer func() { _ = it.Close() }() // what it met is asked of Error
	// The index and the documents are of one moment: that of the iterator.
	docs, err := it.CloneWithContext(ctx, pebble.CloneOptions{IterOptions: g.all()})
	if err != nil {
		return page, err
	}
	s := g.seeker(docs)
	page.Items = make([]projections.Doc[projections.Order], 0, min(limit, 32))
	for ok := it.Last(); ok && err == nil; ok = it.Prev() {
		if len(page.Items) == limit {
			page.Next = cursor(&page.Items[limit-1])
			break
		}
		page.Items = append(page.Items, projections.Doc[projections.Order]{})
		err = g.read(s, string(it.Value()), &page.Items[len(page.Items)-1])
	}
	return page, errors.Join(err, it.Error(), s.close())
}

func cursor(doc *projections.Doc[projections.Order]) *projections.Cursor {
	return &projections.Cursor{At: doc.Body.PlacedAt, ID: doc.Body.State.ID}
}

func (g *Generation[V]) read(s *seeker, stream string, doc *projections.Doc[V]) error {
	value, found, err := s.find(stream)
	if err == nil && !found {
		err = pebble.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("%s is listed: %w", stream, err)
	}
	return g.decode(stream, value, doc)
}

// Deadlines are the documents of streams' timers, found by when they are due.
type Deadlines struct{ *Views[projections.Timer] }

// NewDeadlines opens the view.
func NewDeadlines(db *DB) (*Deadlines, error) {
	v, err := newViews(db, projections.DeadlinesView().Name, dueKey)
	if err != nil {
		return nil, err
	}
	return &Deadlines{v}, nil
}

func dueKey(key []byte, doc projections.Doc[projections.Timer]) []byte {
	if doc.Body.Due.IsZero() {
		return key
	}
	return append(appendInstant(key, doc.Body.Due), doc.Stream...)
}

// Due gives the first deadlines that are over at now, by when they were due.
func (d *Deadlines) Due(ctx context.Context, now time.Time, limit int) ([]projections.Deadline, error) {
	return d.DueAfter(ctx, projections.Deadline{}, now, limit)
}

// DueAfter goes on behind a deadline that was given before. A stock's or an
// account's deadline is a lower bound and may stay when it was looked at, so
// whoever looks at all of them goes on with this, not with Due.
func (d *Deadlines) DueAfter(
	ctx context.Context, after projections.Deadline, now time.Time, limit int,
) ([]projections.Deadline, error) {
	due, err := reading(d.Views, func(g *Generation[projections.Timer]) ([]projections.Deadline, error) {
		return dueAfter(ctx, g, after, now, limit)
	})
	return due, wrap(err, "look for what is due")
}

func dueAfter(
	ctx context.Context, g *Generation[projections.Timer], after projections.Deadline, now time.Time, limit int,
) ([]projections.Deadline, error) {
	due := make([]projections.Deadline, 0, min(limit, 1024))
	var from []byte
	if !after.Due.IsZero() {
		from = append(append(appendInstant(nil, after.Due), after.Stream...), 0)
	}
	err := g.walk(ctx, g.keys, from, func(key, stream []byte) (bool, error) {
		at, err := readInstant(key)
		if err != nil || at.After(now) || len(due) == limit {
			return false, err
		}
		due = append(due, projections.Deadline{Stream: string(stream), Due: at})
		return true, nil
	})
	return due, err
}
