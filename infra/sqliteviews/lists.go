package sqliteviews

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cartwright/domain/order"
	"cartwright/projections"
)

var errNobody = errors.New("an order query names a buyer or a seller")

// Orders gives part of a buyer's or a seller's orders, newest first, or oldest
// first where only what is to be shipped is wanted.
func (o *Orders) Orders(ctx context.Context, q projections.OrderQuery) (projections.OrderPage, error) {
	page, err := reading(o.Views, func(g *Generation[projections.Order]) (projections.OrderPage, error) { return list(ctx, g, q) })
	if err != nil {
		return page, fmt.Errorf("list orders of buyer %q, seller %q: %w", q.Buyer, q.Seller, err)
	}
	return page, nil
}

func list(ctx context.Context, g *Generation[projections.Order], q projections.OrderQuery) (page projections.OrderPage, err error) {
	if err = sensible(q); err != nil {
		return page, err
	}
	page.Items, err = look(ctx, g, func(from moment, years []int) ([]projections.Doc[projections.Order], error) {
		return merge(ctx, g, q, from, years)
	})
	if err != nil {
		return projections.OrderPage{}, err
	}
	if len(page.Items) > q.Limit {
		page.Items = page.Items[:q.Limit]
		last := page.Items[q.Limit-1].Body
		page.Next = &projections.Cursor{At: last.PlacedAt, ID: last.State.ID}
	}
	return page, nil
}

func sensible(q projections.OrderQuery) error {
	switch q.Scope {
	case "", projections.All, projections.Recent, projections.Archive:
	default:
		return fmt.Errorf("there is no scope %q", q.Scope)
	}
	if q.Buyer == "" && q.Seller == "" {
		return errNobody
	}
	if q.Limit < 1 {
		return fmt.Errorf("a page of %d orders", q.Limit)
	}
	return nil
}

// merge lists what is at hand and, newest first, as many years of the archive as
// it takes. It asks for one order more than the page has.
func merge(
	ctx context.Context, g *Generation[projections.Order], q projections.OrderQuery, from moment, years []int,
) ([]projections.Doc[projections.Order], error) {
	docs := make([]projections.Doc[projections.Order], 0, min(q.Limit+1, 32))
	terms, findable := match(q)
	if !findable {
		return nil, nil
	}
	add := func(table string) error {
		if terms != "" && !q.ToShip {
			found, err := (&search{from: from, table: table, q: q, terms: terms}).page(ctx, g)
			docs = append(docs, found...)
			return err
		}
		text, args, err := query(table, q, terms)
		if err != nil {
			return err
		}
		return ask(ctx, from, text, func(rows *sql.Rows) error {
			docs = append(docs, projections.Doc[projections.Order]{})
			return g.scan(rows, &docs[len(docs)-1])
		}, args...)
	}
	if q.Scope != projections.Archive {
		if err := add(g.table); err != nil {
			return nil, err
		}
	}
	for _, year := range slices.Backward(years) {
		if !mayHave(year, q) {
			continue
		}
		if len(docs) > q.Limit && !docs[q.Limit].Body.PlacedAt.Before(yearEnd(year)) {
			break // all that is left is older
		}
		if err := add(yearTable(g.table, year)); err != nil {
			return nil, err
		}
		slices.SortFunc(docs, newestFirst)
		docs = docs[:min(len(docs), q.Limit+1)]
	}
	return docs, nil
}

// mayHave says whether a year of the archive may have any of what is asked for.
// It has closed orders only, so that there is nothing to ship.
func mayHave(year int, q projections.OrderQuery) bool {
	begin, end := yearEnd(year-1), yearEnd(year)
	return q.Scope != projections.Recent && !q.ToShip &&
		(q.Status == "" || order.Status(q.Status).Closed()) &&
		(q.From.IsZero() || q.From.Before(end)) && (q.To.IsZero() || q.To.After(begin)) &&
		(q.After == nil || !q.After.At.Before(begin))
}

func yearEnd(year int) time.Time { return time.Date(year+1, 1, 1, 0, 0, 0, 0, time.UTC) }

func newestFirst(a, b projections.Doc[projections.Order]) int {
	return cmp.Or(b.Body.PlacedAt.Compare(a.Body.PlacedAt), strings.Compare(b.Stream, a.Stream))
}

// atMost ends a statement of which so many rows are wanted. SQLite looks at a bound
// that is a parameter and nothing else, and then plans the statement anew whenever
// it is run, which takes a third of the time of a page.
const atMost = " LIMIT 0 + ?"

// query writes the statement of a list, which asks for one order more than the
// page has. Terms are what it is searched for, if it is: in the oldest that are to
// be shipped, of which there are never many.
func query(table string, q projections.OrderQuery, terms string) (text string, args []any, err error) {
	from := table + " o"
	w := &conditions{}
	if terms != "" {
		// The text index first: it has this party's orders only.
		from = table + "_text t CROSS JOIN " + table + " o ON o.id = t.rowid"
		w.add("t.words MATCH ?", terms)
	}
	if err := filter(w, q); err != nil {
		return "", nil, err
	}
	order := "DESC"
	if q.ToShip {
		order = "ASC"
	}
	// The page is found first and its documents are read after, so that what is
	// sorted stays small.
	text = "SELECT d.id, d.revision, d.doc FROM (SELECT o.id, o.placed_at FROM " + from + " WHERE " + w.text +
		" ORDER BY o.placed_at " + order + ", o.id " + order + atMost + ") p CROSS JOIN " + table + " d ON d.id = p.id" +
		" ORDER BY p.placed_at " + order + ", p.id " + order
	return text, append(slices.Clone(w.args), q.Limit+1), nil
}

// filter adds what a row of orders, called o, has to be.
func filter(w *conditions, q projections.OrderQuery) error {
	w.addIf(q.Buyer != "", "o.buyer = ?", q.Buyer)
	w.addIf(q.Seller != "", "o.seller = ?", q.Seller)
	w.addIf(q.Status != "", "o.status = ?", q.Status)
	if q.Status != "" && q.Status != "completed" {
		w.add("o.status <> 'completed'") // which lets SQLite take the index of the others
	}
	if !q.From.IsZero() {
		w.add("o.placed_at >= ?", bound(q.From))
	}
	if !q.To.IsZero() {
		w.add("o.placed_at < ?", bound(q.To))
	}
	behind := "<"
	if q.ToShip {
		behind = ">"
		w.add("o.to_ship = 1")
	}
	if q.After != nil {
		id, err := strconv.ParseInt(q.After.ID, 10, 64)
		if err != nil {
			return fmt.Errorf("a cursor at order %q: %w", q.After.ID, err)
		}
		w.add("(o.placed_at, o.id) "+behind+" (?, ?)", stamp(q.After.At), id)
	}
	return nil
}

// conditions are a WHERE with its arguments.
type conditions struct {
	text string
	args []any
}

func (c *conditions) add(text string, args ...any) {
	if c.text != "" {
		c.text += " AND "
	}
	c.text += text
	c.args = append(c.args, args...)
}

func (c *conditions) addIf(is bool, text string, arg any) {
	if is {
		c.add(text, arg)
	}
}
