package sqliteviews

import (
	"cmp"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"cartwright/domain/event"
	"cartwright/projections"
)

// Orders is the order index. Its methods may be called concurrently.
type Orders struct{ *Views[projections.Order] }

var ordersShape = shape[projections.Order]{
	create: createOrders, drop: dropOrders, key: orderKey, stream: orderStream, put: putOrders,
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

func orderStream(id any) string { return fmt.Sprintf("order-%0*d", orderDigits, id) }

func createOrders(table string) []string {
	return []string{
		// The document comes last, so that what is small is read without it.
		`CREATE TABLE ` + table + ` (
			id INTEGER PRIMARY KEY, revision INTEGER NOT NULL,
			buyer TEXT NOT NULL, seller TEXT NOT NULL, currency TEXT NOT NULL,
			status TEXT NOT NULL, -- empty where there is no order in the stream
			placed_at INTEGER NOT NULL, to_ship INTEGER NOT NULL,
			units INTEGER NOT NULL, gross INTEGER NOT NULL, refunded INTEGER NOT NULL,
			words INTEGER NOT NULL, -- digest of what the text index has of it, 0 for nothing
			doc TEXT NOT NULL
		) STRICT`,
		`CREATE INDEX ` + table + `_buyer ON ` + table + ` (buyer, placed_at)`,
		`CREATE INDEX ` + table + `_seller ON ` + table + ` (seller, placed_at)`,
		`CREATE INDEX ` + table + `_to_ship ON ` + table + ` (seller, placed_at) WHERE to_ship = 1`,
		// Most orders are completed ones: those are found on the way through all.
		`CREATE INDEX ` + table + `_status ON ` + table + ` (seller, status, placed_at) WHERE status <> 'completed'`,
		`CREATE VIRTUAL TABLE ` + table + `_text USING fts5 (words, content = '', contentless_delete = 1, tokenize = 'unicode61')`,
		// Amounts are kept in two halves, so that no sum of them overflows.
		`CREATE TABLE ` + table + `_sums (
			seller TEXT NOT NULL, currency TEXT NOT NULL, day INTEGER NOT NULL, status TEXT NOT NULL,
			orders INTEGER NOT NULL, units_hi INTEGER NOT NULL, units_lo INTEGER NOT NULL,
			gross_hi INTEGER NOT NULL, gross_lo INTEGER NOT NULL, refunded_hi INTEGER NOT NULL, refunded_lo INTEGER NOT NULL,
			PRIMARY KEY (seller, currency, day, status)
		) STRICT, WITHOUT ROWID`,
	}
}

func dropOrders(table string) []string {
	return []string{`DROP TABLE ` + table, `DROP TABLE ` + table + `_text`, `DROP TABLE ` + table + `_sums`}
}

// A row is what the index knows of an order beside its document.
type row struct {
	revision event.Revision
	facts    projections.Facts // the zero one where there is no order
	words    int64
}

// putOrders replaces documents and moves the sums and the text index with them.
func putOrders(tx *txn, table string, docs []encoded[projections.Order], repair bool) error {
	// The text index takes rows in order best.
	slices.SortFunc(docs, func(a, b encoded[projections.Order]) int { return cmp.Compare(number(a.id), number(b.id)) })
	stored, err := storedRows(tx, table, docs)
	if err != nil {
		return err
	}
	sums := deltas{}
	values := make([][]any, 0, len(docs))
	var texts [][]any
	for _, doc := range docs {
		old, found := stored[number(doc.id)]
		if found && (old.revision > doc.Revision || old.revision == doc.Revision && !repair) {
			continue
		}
		now := row{revision: doc.Revision}
		now.facts, _ = doc.Body.Facts()
		sums.add(old.facts, -1)
		sums.add(now.facts, +1)
		if now.words = fingerprint(doc.Body); now.words != old.words {
			if err := forgetText(tx, table, doc.id, old.words); err != nil {
				return err
			}
			texts = append(texts, []any{doc.id, indexed(doc.Body)})
		}
		values = append(values, slices.Concat([]any{doc.id, int64(doc.Revision)}, now.columns(), []any{string(doc.body)})) //nolint:gosec // a stream has fewer than 2^63 events
	}
	return writeOrders(tx, table, values, texts, sums)
}

func writeOrders(tx *txn, table string, values, texts [][]any, sums deltas) error {
	err := tx.insert(`INSERT INTO `+table+` (id, revision, buyer, seller, currency, status, placed_at, to_ship, units, gross, refunded, words, doc) VALUES`,
		`ON CONFLICT DO UPDATE SET revision = excluded.revision, buyer = excluded.buyer, seller = excluded.seller,
			currency = excluded.currency, status = excluded.status, placed_at = excluded.placed_at, to_ship = excluded.to_ship,
			units = excluded.units, gross = excluded.gross, refunded = excluded.refunded, words = excluded.words, doc = excluded.doc
		WHERE excluded.revision >= revision`, 13, values)
	if err != nil {
		return err
	}
	if err := tx.insert(`INSERT INTO `+table+`_text (rowid, words) VALUES`, ``, 2, texts); err != nil {
		return err
	}
	return tx.insert(`INSERT INTO `+table+`_sums (seller, currency, day, status, orders, units_hi, units_lo, gross_hi, gross_lo, refunded_hi, refunded_lo) VALUES`,
		`ON CONFLICT DO UPDATE SET orders = orders + excluded.orders, units_hi = units_hi + excluded.units_hi, units_lo = units_lo + excluded.units_lo,
			gross_hi = gross_hi + excluded.gross_hi, gross_lo = gross_lo + excluded.gross_lo,
			refunded_hi = refunded_hi + excluded.refunded_hi, refunded_lo = refunded_lo + excluded.refunded_lo`, 11, sums.rows())
}

// forgetText takes a row out of the text index, if it is there.
func forgetText(tx *txn, table string, id any, words int64) error {
	if words == 0 {
		return nil
	}
	return tx.exec(`DELETE FROM `+table+`_text WHERE rowid = ?`, id)
}

// columns are what an order is filed under: buyer, seller, currency, status,
// placed_at, to_ship, units, gross, refunded, words.
func (r row) columns() []any {
	f := r.facts
	placed, ship := int64(0), int64(0)
	if f.Status != "" {
		placed = stamp(f.PlacedAt)
	}
	if f.ToShip {
		ship = 1
	}
	return []any{f.Buyer, f.Seller, f.Currency, f.Status, placed, ship, f.Units, f.Gross, f.Refunded, r.words}
}

// storedRows reads what the documents are about to replace. Nobody else writes
// meanwhile, so comparing revisions here is as good as in the statement.
func storedRows(tx *txn, table string, docs []encoded[projections.Order]) (map[int64]row, error) {
	ids := make([]any, len(docs))
	for i, doc := range docs {
		ids[i] = doc.id
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	stored := map[int64]row{}
	err = tx.query(func(rows *sql.Rows) error {
		var id, at, placed int64
		var r row
		f := &r.facts
		scanned := rows.Scan(&id, &at, &f.Seller, &f.Currency, &f.Status, &placed, &f.Units, &f.Gross, &f.Refunded, &r.words)
		r.revision, f.PlacedAt = event.Revision(at), unstamp(placed) //nolint:gosec // as it was stored
		stored[id] = r
		return scanned
	}, `SELECT id, revision, seller, currency, status, placed_at, units, gross, refunded, words FROM `+table+`
		WHERE id IN (SELECT value FROM json_each(?))`, string(list))
	return stored, err
}

func number(id any) int64 {
	n, _ := id.(int64) // as orderKey made it
	return n
}
