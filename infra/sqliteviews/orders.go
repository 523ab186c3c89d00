package sqliteviews

import (
	"cmp"
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"cartwright/domain/event"
	"cartwright/projections"
)

// Orders is the order index. Its methods may be called concurrently.
type Orders struct{ *Views[projections.Order] }

var ordersShape = shape[projections.Order]{
	create: createOrders, year: createYear, tune: tuneOrders, drop: dropOrders, key: orderKey, stream: orderStream, text: indexed, put: putOrders,
}

const orderDigits = 19

// orderKey takes an order's stream for its number, which gives the name back.
func orderKey(stream string) (any, bool) {
	id := event.SubjectID(stream)
	if event.Category(stream) != "order" || len(id) != orderDigits {
		return nil, false
	}
	n, err := strconv.ParseInt(id, 10, 64)
	return n, err == nil && n >= 0 && id[0] != '+'
}

func orderStream(id any) string {
	n := strconv.FormatInt(number(id), 10)
	return "order-" + zeros[min(len(n), orderDigits):] + n
}

const zeros = "0000000000000000000" // orderDigits of them

// orderColumns are what every table of orders has.
const (
	orderWidth   = 14
	orderColumns = `id, revision, buyer, seller, currency, status, placed_at, to_ship, units, gross, refunded, closed_at, words, doc`
)

func createOrders(table string) []string {
	return append(createYear(table),
		`CREATE INDEX `+table+`_to_ship ON `+table+` (seller, placed_at) WHERE to_ship = 1`,
		closedIndex(table),
		// Amounts are kept in two halves, so that no sum of them overflows.
		`CREATE TABLE `+table+`_sums (
			seller TEXT NOT NULL, currency TEXT NOT NULL, day INTEGER NOT NULL, status TEXT NOT NULL,
			orders INTEGER NOT NULL, units_hi INTEGER NOT NULL, units_lo INTEGER NOT NULL,
			gross_hi INTEGER NOT NULL, gross_lo INTEGER NOT NULL, refunded_hi INTEGER NOT NULL, refunded_lo INTEGER NOT NULL,
			PRIMARY KEY (seller, currency, day, status)
		) STRICT, WITHOUT ROWID`,
	)
}

// closedIndex finds what is to be archived.
func closedIndex(table string) string {
	return `CREATE INDEX ` + table + `_closed ON ` + table + ` (closed_at) WHERE closed_at IS NOT NULL`
}

// createYear makes a table of orders with what any list of them asks for. There
// is nothing to ship in the archive.
func createYear(table string) []string {
	return []string{
		// The document comes last, so that what is small is read without it.
		`CREATE TABLE ` + table + ` (
			id INTEGER PRIMARY KEY, revision INTEGER NOT NULL,
			buyer TEXT NOT NULL, seller TEXT NOT NULL, currency TEXT NOT NULL,
			status TEXT NOT NULL, -- empty where there is no order in the stream
			placed_at INTEGER NOT NULL, to_ship INTEGER NOT NULL,
			units INTEGER NOT NULL, gross INTEGER NOT NULL, refunded INTEGER NOT NULL,
			closed_at INTEGER, -- NULL where it is not closed
			words INTEGER NOT NULL, -- digest of what the text index has of it, 0 for nothing
			doc TEXT NOT NULL
		) STRICT`,
		`CREATE INDEX ` + table + `_buyer ON ` + table + ` (buyer, placed_at)`,
		`CREATE INDEX ` + table + `_seller ON ` + table + ` (seller, placed_at)`,
		// Most orders are completed ones: those are found on the way through all.
		`CREATE INDEX ` + table + `_status ON ` + table + ` (seller, status, placed_at) WHERE status <> 'completed'`,
		`CREATE VIRTUAL TABLE ` + table + `_text USING fts5 (words, content = '', contentless_delete = 1, tokenize = 'unicode61')`,
	}
}

// tuneOrders says how the text index merges its segments: little by little with
// each write, or, in a bulk load, many at once and seldom.
func tuneOrders(table string, bulk bool) []string {
	segments := 4
	if bulk {
		segments = 0
	}
	return []string{fmt.Sprintf("INSERT INTO %[1]s_text (%[1]s_text, rank) VALUES ('automerge', %d)", table, segments)}
}

func dropOrders(table string, years []int) []string {
	drops := []string{`DROP TABLE ` + table + `_sums`}
	for _, part := range append(archives(table, years), table) {
		drops = append(drops, `DROP TABLE `+part, `DROP TABLE `+part+`_text`)
	}
	return drops
}

// A row is what the index knows of an order beside its document.
type row struct {
	table    string // that it is in, "" for none
	revision event.Revision
	facts    projections.Facts // the zero one where there is no order
	closedAt time.Time
	words    int64
}

// putOrders replaces documents and moves the sums and the text index with them.
// A document goes where it belongs, from wherever it was.
func putOrders(tx *txn, g *Generation[projections.Order], docs []encoded[projections.Order], repair bool) error {
	t := g.tiers.Load()
	if wants := t.lacks(docs); len(wants) > 0 {
		return &noYearError{wants}
	}
	// The text index takes rows in order best.
	slices.SortFunc(docs, func(a, b encoded[projections.Order]) int { return cmp.Compare(number(a.id), number(b.id)) })
	stored, err := storedOrders(tx, g, docs)
	if err != nil {
		return err
	}
	sums, changes := deltas{}, map[string]*change{}
	for _, doc := range docs {
		old := stored[number(doc.id)]
		if old.table != "" && (old.revision > doc.Revision || old.revision == doc.Revision && !repair) {
			continue
		}
		now := rowOf(doc, g.table)
		if year, archived := doc.Body.Archived(t.Before); archived {
			now.table = yearTable(g.table, year)
			if err := g.widen(tx, year, number(doc.id)); err != nil {
				return err
			}
		}
		sums.add(old.facts, -1)
		sums.add(now.facts, +1)
		if err := changeOf(changes, now.table).replace(tx, doc, old, now); err != nil {
			return err
		}
	}
	return writeAll(tx, g.table, changes, sums)
}

// writeAll writes a batch, the text index last: a statement of several rows is
// one that SQLite may take back, for which the text index first writes out what
// it has in memory, and merges that later.
func writeAll(tx *txn, table string, changes map[string]*change, sums deltas) error {
	for to, c := range changes {
		if err := writeRows(tx, to, c.fresh, c.again); err != nil {
			return err
		}
	}
	if err := writeSums(tx, table, sums); err != nil {
		return err
	}
	for to, c := range changes {
		if err := writeTexts(tx, to, c.texts); err != nil {
			return err
		}
	}
	return nil
}

func rowOf(doc encoded[projections.Order], table string) row {
	now := row{table: table, revision: doc.Revision, closedAt: doc.Body.ClosedAt, words: fingerprint(doc.Body)}
	now.facts, _ = doc.Body.Facts()
	return now
}

// A change is what a batch writes to one table.
type change struct{ fresh, again, texts [][]any }

func changeOf(changes map[string]*change, table string) *change {
	c, ok := changes[table]
	if !ok {
		c = &change{}
		changes[table] = c
	}
	return c
}

// replace takes out what is in the way of a document and adds it.
func (c *change) replace(tx *txn, doc encoded[projections.Order], old, now row) error {
	values := slices.Concat([]any{doc.id, int64(doc.Revision)}, now.columns(), []any{string(doc.body)}) //nolint:gosec // a stream has fewer than 2^63 events
	if stays := old.files(now); stays {
		c.again = append(c.again, values)
	} else {
		c.fresh = append(c.fresh, values)
		if old.table != "" {
			if err := tx.exec(`DELETE FROM `+old.table+` WHERE id = ?`, doc.id); err != nil {
				return err
			}
		}
	}
	if old.table == now.table && old.words == now.words {
		return nil
	}
	if now.words != 0 {
		if doc.text == "" {
			doc.text = indexed(doc.Body)
		}
		c.texts = append(c.texts, []any{doc.id, doc.text})
	}
	return forgetText(tx, old, doc.id)
}

// files tells whether a row is found in the same place of the same table by who
// bought and sold, so that those indices need not be written again.
func (r row) files(now row) bool {
	a, b := r.facts, now.facts
	return r.table == now.table && a.Buyer == b.Buyer && a.Seller == b.Seller && a.Currency == b.Currency && a.PlacedAt.Equal(b.PlacedAt)
}

// writeRows adds rows, and changes those that are there. What fails takes the
// transaction with it, so that SQLite need not keep a copy of what a statement
// has touched.
func writeRows(tx *txn, table string, fresh, again [][]any) error {
	head := `INSERT OR ROLLBACK INTO ` + table + ` (` + orderColumns + `) VALUES`
	if err := tx.insert(head, ``, orderWidth, fresh); err != nil {
		return err
	}
	return tx.insert(head, `ON CONFLICT DO UPDATE SET revision = excluded.revision, status = excluded.status, to_ship = excluded.to_ship,
		units = excluded.units, gross = excluded.gross, refunded = excluded.refunded, closed_at = excluded.closed_at,
		words = excluded.words, doc = excluded.doc`, orderWidth, again)
}

func writeTexts(tx *txn, table string, rows [][]any) error {
	return tx.insert(`INSERT INTO `+table+`_text (rowid, words) VALUES`, ``, 2, rows)
}

func writeSums(tx *txn, table string, sums deltas) error {
	return tx.insert(`INSERT INTO `+table+`_sums (seller, currency, day, status, orders, units_hi, units_lo, gross_hi, gross_lo, refunded_hi, refunded_lo) VALUES`,
		`ON CONFLICT DO UPDATE SET orders = orders + excluded.orders, units_hi = units_hi + excluded.units_hi, units_lo = units_lo + excluded.units_lo,
			gross_hi = gross_hi + excluded.gross_hi, gross_lo = gross_lo + excluded.gross_lo,
			refunded_hi = refunded_hi + excluded.refunded_hi, refunded_lo = refunded_lo + excluded.refunded_lo`, 11, sums.rows())
}

// forgetText takes a row out of the text index, if it is there.
func forgetText(tx *txn, old row, id any) error {
	if old.words == 0 {
		return nil
	}
	return tx.exec(`DELETE FROM `+old.table+`_text WHERE rowid = ?`, id)
}

// columns are what an order is filed under: buyer, seller, currency, status,
// placed_at, to_ship, units, gross, refunded, closed_at, words.
func (r row) columns() []any {
	f := r.facts
	placed, ship := int64(0), int64(0)
	if f.Status != "" {
		placed = stamp(f.PlacedAt)
	}
	if f.ToShip {
		ship = 1
	}
	var closed any
	if !r.closedAt.IsZero() {
		closed = stamp(r.closedAt)
	}
	return []any{f.Buyer, f.Seller, f.Currency, f.Status, placed, ship, f.Units, f.Gross, f.Refunded, closed, r.words}
}

// storedOrders reads what the documents are about to replace, wherever it is.
// Nobody else writes meanwhile, so comparing revisions here is as good as in the
// statement.
func storedOrders(tx *txn, g *Generation[projections.Order], docs []encoded[projections.Order]) (map[int64]row, error) {
	ids := make([]int64, len(docs))
	for i, doc := range docs {
		ids[i] = number(doc.id)
	}
	stored := make(map[int64]row, len(docs))
	if err := readRows(tx, g.table, ids, stored); err != nil {
		return nil, err
	}
	years := g.tiers.Load().Years
	if len(years) == 0 {
		return stored, nil
	}
	ids = slices.DeleteFunc(ids, func(id int64) bool { return stored[id].table != "" })
	for _, year := range years {
		reach, err := g.reach(tx, year)
		if err != nil {
			return nil, err
		}
		if err := readRows(tx, yearTable(g.table, year), reach.of(ids), stored); err != nil {
			return nil, err
		}
	}
	return stored, nil
}

func readRows(tx *txn, table string, ids []int64, stored map[int64]row) error {
	if len(ids) == 0 {
		return nil
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	return tx.query(func(rows *sql.Rows) error {
		var id, at, placed int64
		r := row{table: table}
		f := &r.facts
		scanned := rows.Scan(&id, &at, &f.Buyer, &f.Seller, &f.Currency, &f.Status, &placed, &f.Units, &f.Gross, &f.Refunded, &r.words)
		r.revision, f.PlacedAt = event.Revision(at), unstamp(placed) //nolint:gosec // as it was stored
		stored[id] = r
		return scanned
	}, `SELECT id, revision, buyer, seller, currency, status, placed_at, units, gross, refunded, words FROM `+table+`
		WHERE id IN (SELECT value FROM json_each(?))`, string(list))
}

// A reach is the lowest and the highest id that a year of the archive may have.
// Ids rise with time, so that new orders are above all that is archived, and
// are not looked for there. It may be too wide, never too narrow.
type reach struct{ low, high int64 }

// of are those ids that the year may have.
func (r *reach) of(ids []int64) []int64 {
	var some []int64
	for _, id := range ids {
		if id >= r.low && id <= r.high {
			some = append(some, id)
		}
	}
	return some
}

// reach gives the reach of a year that has tables. It is called with the turn.
func (g *Generation[V]) reach(tx *txn, year int) (*reach, error) {
	r, ok := g.reaches[year]
	if ok {
		return r, nil
	}
	r = &reach{}
	err := tx.query(func(rows *sql.Rows) error { return rows.Scan(&r.low, &r.high) },
		`SELECT coalesce(min(id), `+strconv.FormatInt(math.MaxInt64, 10)+`), coalesce(max(id), -1) FROM `+yearTable(g.table, year))
	if err != nil {
		return nil, err
	}
	if g.reaches == nil {
		g.reaches = map[int]*reach{}
	}
	g.reaches[year] = r
	return r, nil
}

// widen makes a year's reach take an id in. It is called with the turn.
func (g *Generation[V]) widen(tx *txn, year int, id int64) error {
	r, err := g.reach(tx, year)
	if err == nil {
		r.low, r.high = min(r.low, id), max(r.high, id)
	}
	return err
}

func number(id any) int64 {
	n, _ := id.(int64) // as orderKey made it
	return n
}
