package sqliteviews

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cartwright/projections"
)

// tiers are how a generation is divided. One is never changed, but replaced.
type tiers struct {
	Before time.Time `json:"before,omitzero"` // what was closed before it belongs in the archive
	Years  []int     `json:"years,omitempty"` // that the archive has tables for, in order
}

// with is tiers that have some more years.
func (t *tiers) with(years []int) *tiers {
	next := &tiers{t.Before, append(slices.Clone(t.Years), years...)}
	slices.Sort(next.Years)
	next.Years = slices.Compact(next.Years)
	return next
}

// yearTable is the part of the archive for what was placed in a year.
func yearTable(table string, year int) string { return table + "_y" + strconv.Itoa(year) }

func archives(table string, years []int) []string {
	tables := make([]string, len(years))
	for i, year := range years {
		tables[i] = yearTable(table, year)
	}
	return tables
}

// tables are those that have documents: of what is at hand, then by year.
func (g *Generation[V]) tables(years []int) []string {
	return append([]string{g.table}, archives(g.table, years)...)
}

// union asks the same of several tables.
func union(tables []string, before, after string) string {
	parts := make([]string, len(tables))
	for i, table := range tables {
		parts[i] = before + table + after
	}
	return strings.Join(parts, " UNION ALL ")
}

// look reads one moment of the generation, with the years its archive had then.
//
// A year is made known after its tables are there and before anything is in
// them. So the tables of a year known before the moment are there, and if no
// year has come by the time the answer is, none had any documents at that moment.
func look[V, T any](ctx context.Context, g *Generation[V], see func(from moment, years []int) (T, error)) (T, error) {
	for {
		years := g.tiers.Load().Years
		answer, err := glance(ctx, g, func(from moment) (T, error) { return see(from, years) })
		if err != nil || len(g.tiers.Load().Years) == len(years) {
			return answer, err
		}
	}
}

// glance reads one moment of the generation, whose tables can't go meanwhile.
func glance[V, T any](ctx context.Context, g *Generation[V], see func(from moment) (T, error)) (none T, err error) {
	if err = g.hold(); err != nil {
		return none, err
	}
	defer g.use.RUnlock()
	var answer T
	look := func(from moment) error {
		answer, err = see(from)
		return err
	}
	seen, err := g.file.write.see(ctx, look)
	if !seen && err == nil {
		err = g.file.read.snapshot(ctx, look)
	}
	if err != nil {
		return none, err
	}
	return answer, nil
}

// A noYearError asks for tables of some years.
type noYearError struct{ years []int }

func (e *noYearError) Error() string { return fmt.Sprintf("the archive has no tables for %v", e.years) }

// changeTiers writes to the generation. What finds no tables for a year is done
// again once they are there.
func (g *Generation[V]) changeTiers(ctx context.Context, f func(*txn) error) error {
	for {
		err := g.change(ctx, f)
		wants, ok := errors.AsType[*noYearError](err)
		if !ok {
			return err
		}
		err = g.change(ctx, func(tx *txn) error { return g.addYears(tx, wants.years) })
		if err != nil {
			return fmt.Errorf("make the archive of %v: %w", wants.years, err)
		}
	}
}

// addYears makes the tables of years that have none. It is a transaction of its
// own: see look.
func (g *Generation[V]) addYears(tx *txn, years []int) error {
	next := g.tiers.Load().with(years)
	for _, year := range next.Years {
		if slices.Contains(g.tiers.Load().Years, year) {
			continue
		}
		table := yearTable(g.table, year)
		if err := tx.each(append(g.views.shape.year(table), g.views.shape.tune(table, tx.w.bulk.Load())...)...); err != nil {
			return err
		}
	}
	return g.divide(tx, next)
}

// divide stores the tiers, which count once the transaction is committed.
func (g *Generation[V]) divide(tx *txn, next *tiers) error {
	raw, err := json.Marshal(next)
	if err != nil {
		return err
	}
	tx.then = append(tx.then, func() { g.tiers.Store(next) })
	return tx.exec("INSERT OR REPLACE INTO tiers (view, generation, tiers) VALUES (?, ?, ?)", g.views.name, g.number, string(raw))
}

// loadTiers reads how a generation is divided.
func loadTiers(ctx context.Context, f *file, view string, number int) (*tiers, error) {
	t := &tiers{}
	err := f.write.do(ctx, func(tx *txn) error {
		var raw string
		err := tx.row("SELECT tiers FROM tiers WHERE view = ? AND generation = ?", view, number).Scan(&raw)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(raw), t)
	})
	if err != nil {
		return nil, fmt.Errorf("read the tiers of generation %d: %w", number, err)
	}
	return t, nil
}

// counts are how many documents are where, at one moment.
func (g *Generation[V]) counts(ctx context.Context) ([]projections.Tier, error) {
	return look(ctx, g, func(from moment, years []int) ([]projections.Tier, error) {
		counts := make([]projections.Tier, 0, 1+len(years))
		for i, table := range g.tables(years) {
			tier := projections.Tier{}
			if i > 0 {
				tier.Year = years[i-1]
			}
			err := ask(ctx, from, "SELECT count(*) FROM "+table, func(rows *sql.Rows) error { return rows.Scan(&tier.Documents) })
			if err != nil {
				return nil, err
			}
			counts = append(counts, tier)
		}
		return counts, nil
	})
}

// Tiers says how many documents are where: at hand first, then by year.
func (o *Orders) Tiers(ctx context.Context) ([]projections.Tier, error) {
	counts, err := reading(o.Views, func(g *Generation[projections.Order]) ([]projections.Tier, error) { return g.counts(ctx) })
	if err != nil {
		return nil, fmt.Errorf("count the tiers of %s: %w", o.name, err)
	}
	return counts, nil
}

// Boundary is what the archive has: what was closed before it.
func (o *Orders) Boundary(ctx context.Context) (time.Time, error) {
	return o.Live().tiers.Load().Before, ctx.Err()
}

// movedAtOnce is how many orders are archived in one transaction. Writers wait
// no longer than that takes.
const movedAtOnce = 250

// Archive moves the boundary on, and then what was closed before it, some at a
// time.
//
// The boundary goes first. From then on whatever is put goes where it belongs,
// so that nothing comes in behind the mover's back, and what is left to move is
// what the index of closed orders has before the boundary, whoever comes to move
// it: this call, or one after a kill. Each order is in one tier or the other at
// any moment, whole, and lists ask both. Not chosen: the boundary last, which
// leaves orders in the archive that by the boundary do not belong there, so that
// a late event could bring them back.
func (o *Orders) Archive(ctx context.Context, before time.Time, told func(moved int64)) (moved int64, err error) {
	_, err = reading(o.Views, func(g *Generation[projections.Order]) (none struct{}, err error) {
		if err = g.change(ctx, func(tx *txn) error { return g.advance(tx, before) }); err != nil {
			return none, err
		}
		for more := true; more; {
			n := 0
			err = g.changeTiers(ctx, func(tx *txn) error {
				n, err = moveSome(tx, g)
				return err
			})
			if err != nil {
				return none, err
			}
			if moved += int64(n); told != nil && n > 0 {
				told(moved)
			}
			more = n == movedAtOnce
		}
		return none, nil
	})
	if err != nil {
		return moved, fmt.Errorf("archive orders closed before %v: %w", before, err)
	}
	return moved, nil
}

// advance moves the boundary, never back.
func (g *Generation[V]) advance(tx *txn, before time.Time) error {
	t, to := g.tiers.Load(), unstamp(bound(before))
	if before.IsZero() || !to.After(t.Before) {
		return nil
	}
	return g.divide(tx, &tiers{to, t.Years})
}

// moveSome archives the next orders that belong there, longest closed first.
func moveSome(tx *txn, g *Generation[projections.Order]) (int, error) {
	t := g.tiers.Load()
	if t.Before.IsZero() {
		return 0, nil
	}
	var docs []encoded[projections.Order]
	err := tx.query(func(rows *sql.Rows) error {
		var doc projections.Doc[projections.Order]
		err := g.scan(rows, &doc)
		id, _ := orderKey(doc.Stream)
		docs = append(docs, encoded[projections.Order]{Doc: doc, id: id})
		return err
	}, `SELECT id, revision, doc FROM `+g.table+` WHERE closed_at < ? ORDER BY closed_at LIMIT ?`, stamp(t.Before), movedAtOnce)
	if err != nil {
		return 0, err
	}
	if wants := t.lacks(docs); len(wants) > 0 {
		return 0, &noYearError{wants}
	}
	slices.SortFunc(docs, func(a, b encoded[projections.Order]) int { return cmp.Compare(number(a.id), number(b.id)) })
	byYear := map[int][]encoded[projections.Order]{}
	for _, doc := range docs {
		year, archived := doc.Body.Archived(t.Before)
		if !archived {
			return 0, fmt.Errorf("%s is filed under another time than it was closed at", doc.Stream)
		}
		byYear[year] = append(byYear[year], doc)
	}
	for year, some := range byYear {
		if err := move(tx, g, year, some); err != nil {
			return 0, err
		}
	}
	return len(docs), nil
}

// lacks names the years that documents belong to and that have no tables yet.
func (t *tiers) lacks(docs []encoded[projections.Order]) []int {
	if t.Before.IsZero() {
		return nil
	}
	var wants []int
	for _, doc := range docs {
		if year, archived := doc.Body.Archived(t.Before); archived && !slices.Contains(t.Years, year) {
			wants = append(wants, year)
		}
	}
	return wants
}

// move takes orders from where they are at hand to a year's tables.
func move(tx *txn, g *Generation[projections.Order], year int, docs []encoded[projections.Order]) error {
	to := yearTable(g.table, year)
	ids := make([]any, len(docs))
	texts := make([][]any, len(docs))
	for i, doc := range docs {
		ids[i], texts[i] = doc.id, []any{doc.id, indexed(doc.Body)}
		if err := g.widen(tx, year, number(doc.id)); err != nil {
			return err
		}
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	for _, text := range []string{
		`INSERT INTO ` + to + ` (` + orderColumns + `) SELECT ` + orderColumns + ` FROM ` + g.table + ` WHERE id IN (SELECT value FROM json_each(?))`,
		`DELETE FROM ` + g.table + ` WHERE id IN (SELECT value FROM json_each(?))`,
		`DELETE FROM ` + g.table + `_text WHERE rowid IN (SELECT value FROM json_each(?))`,
	} {
		if err := tx.exec(text, string(list)); err != nil {
			return err
		}
	}
	return writeTexts(tx, to, texts)
}
