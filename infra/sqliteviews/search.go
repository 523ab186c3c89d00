package sqliteviews

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"math"
	"slices"

	"cartwright/projections"
)

// A hit is an order that the text index has found.
type hit struct{ id, placedAt int64 }

func newestHit(a, b hit) int {
	return cmp.Or(cmp.Compare(b.placedAt, a.placedAt), cmp.Compare(b.id, a.id))
}

// A search finds the newest orders of a table that have a text, one more than the
// page has.
//
// The text index gives its hits by their ids, the highest first, and ids rise with
// time: so the page is nearly always among the first ones, and that nothing newer
// comes behind them is seen from the party's other orders of that time. Where it is
// not, as for orders whose ids are older than their time, more hits are looked
// at, at worst all (TestConformance). Neither is ever
// done much longer than the other, so that a page costs as much as it has hits or
// passes over orders, whichever is less.
type search struct {
	from  moment
	table string
	q     projections.OrderQuery
	terms string
	found []hit // the newest so far, in their order
}

// everything has no bound.
const everything = -1

// page gives the documents of the newest hits, newest first.
func (s *search) page(ctx context.Context, g *Generation[projections.Order]) ([]projections.Doc[projections.Order], error) {
	if err := s.walk(ctx); err != nil || len(s.found) == 0 {
		return nil, err
	}
	ids := make([]int64, len(s.found))
	for i, h := range s.found {
		ids[i] = h.id
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	docs := make([]projections.Doc[projections.Order], 0, len(ids))
	err = ask(ctx, s.from, `SELECT id, revision, doc FROM `+s.table+` WHERE id IN (SELECT value FROM json_each(?))`, func(rows *sql.Rows) error {
		docs = append(docs, projections.Doc[projections.Order]{})
		return g.scan(rows, &docs[len(docs)-1])
	}, string(list))
	slices.SortFunc(docs, newestFirst)
	return docs, err
}

// walk finds the newest hits.
func (s *search) walk(ctx context.Context) error {
	for n, last := 2*(s.q.Limit+1), int64(math.MaxInt64); ; n *= 2 {
		lowest, some, err := s.hits(ctx, 0, last, n)
		if err != nil || some < n {
			return err
		}
		if last = lowest - 1; len(s.found) <= s.q.Limit {
			continue
		}
		low, known, err := s.lowest(ctx, s.found[s.q.Limit].placedAt, 4*n)
		if err != nil {
			return err
		}
		if known {
			_, _, err = s.hits(ctx, low, last, everything)
			return err
		}
	}
}

// hits looks at so many of the hits with ids from low to high, the highest first,
// and gives the lowest of them.
func (s *search) hits(ctx context.Context, low, high int64, n int) (lowest int64, some int, err error) {
	if low > high {
		return low, 0, nil
	}
	w := &conditions{}
	w.add("t.words MATCH ? AND t.rowid BETWEEN ? AND ?", s.terms, low, high)
	if err = filter(w, s.q); err != nil {
		return 0, 0, err
	}
	text := "SELECT o.id, o.placed_at FROM " + s.table + "_text t CROSS JOIN " + s.table + " o ON o.id = t.rowid WHERE " + w.text + " ORDER BY t.rowid DESC" + atMost
	err = ask(ctx, s.from, text, func(rows *sql.Rows) error {
		var h hit
		scanned := rows.Scan(&h.id, &h.placedAt)
		s.found = append(s.found, h)
		lowest, some = h.id, some+1
		return scanned
	}, append(w.args, n)...)
	slices.SortFunc(s.found, newestHit)
	s.found = s.found[:min(len(s.found), s.q.Limit+1)]
	return lowest, some, err
}

// lowest gives the lowest id of what the party has on this page or between its
// orders, if that is less than so many orders.
func (s *search) lowest(ctx context.Context, since int64, most int) (low int64, known bool, err error) {
	party, id := "seller", s.q.Seller
	if id == "" {
		party, id = "buyer", s.q.Buyer
	}
	w := &conditions{}
	w.add(party+" = ? AND placed_at >= ?", id, since)
	if s.q.After != nil {
		w.add("placed_at <= ?", stamp(s.q.After.At))
	}
	if !s.q.To.IsZero() {
		w.add("placed_at < ?", bound(s.q.To))
	}
	low = math.MaxInt64
	var n int
	err = ask(ctx, s.from, "SELECT count(*), coalesce(min(id), 0) FROM (SELECT id FROM "+s.table+" WHERE "+w.text+atMost+")",
		func(rows *sql.Rows) error { return rows.Scan(&n, &low) }, append(w.args, most)...)
	return low, n < most, err
}
