package sqliteviews

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"cartwright/projections"
)

// Audit compares what stands beside the documents of orders with the
// documents: what they are filed under, the sums of sellers and the text index.
// Whether the documents are right is asked by projections.Verification.
func (o *Orders) Audit(ctx context.Context, report func(projections.Difference) error) error {
	_, err := reading(o.Views, func(g *Generation[projections.Order]) (none struct{}, err error) {
		return none, g.audit(ctx, report, auditFacts, auditSums, auditText)
	})
	return err
}

// Audit compares accounts with the sums of their entries.
func (a *Accounts) Audit(ctx context.Context, report func(projections.Difference) error) error {
	_, err := reading(a.Views, func(g *Generation[projections.Account]) (none struct{}, err error) {
		return none, g.audit(ctx, report, auditEntries)
	})
	return err
}

// audit runs checks on one moment of the database.
func (g *Generation[V]) audit(
	ctx context.Context, report func(projections.Difference) error,
	checks ...func(context.Context, *sql.Tx, *Generation[V], func(stream, format string, args ...any) error) error,
) error {
	if err := g.hold(); err != nil {
		return fmt.Errorf("audit %s: %w", g.views.name, err)
	}
	defer g.use.RUnlock()
	tx, err := g.views.db.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("audit %s: %w", g.views.name, err)
	}
	differs := func(stream, format string, args ...any) error {
		return report(projections.Difference{
			View: g.views.name, Stream: stream, Kind: projections.Differs, Detail: fmt.Sprintf(format, args...),
		})
	}
	for _, check := range checks {
		if err = check(ctx, tx, g, differs); err != nil {
			break
		}
	}
	if err = errors.Join(err, tx.Rollback()); err != nil {
		return fmt.Errorf("audit %s: %w", g.views.name, err)
	}
	return nil
}

// auditFacts files every document again and looks whether it is where it was.
func auditFacts(
	ctx context.Context, tx *sql.Tx, g *Generation[projections.Order], differs func(stream, format string, args ...any) error,
) error {
	text := `SELECT id, revision, doc, buyer, seller, currency, status, placed_at, to_ship, units, gross, refunded, words FROM ` + g.table
	return ask(ctx, tx, text, func(rows *sql.Rows) error {
		var filed [10]any
		doc, scanned := g.scan(rows, &filed[0], &filed[1], &filed[2], &filed[3], &filed[4], &filed[5], &filed[6], &filed[7], &filed[8], &filed[9])
		if scanned != nil {
			return scanned
		}
		now := row{words: fingerprint(doc.Body)}
		now.facts, _ = doc.Body.Facts()
		want := fmt.Sprint(now.columns()...)
		if have := fmt.Sprint(filed[:]...); have != want {
			return differs(doc.Stream, "it is filed under %s, not %s", have, want)
		}
		return nil
	})
}

// auditSums sums all orders up again.
func auditSums(
	ctx context.Context, tx *sql.Tx, g *Generation[projections.Order], differs func(stream, format string, args ...any) error,
) error {
	kept := `SELECT seller, currency, day, status, orders, units_hi, units_lo, gross_hi, gross_lo, refunded_hi, refunded_lo
		FROM ` + g.table + `_sums WHERE orders <> 0`
	day := fmt.Sprintf("(placed_at - ((placed_at %% %d) + %d) %% %d) / %d", microDay, microDay, microDay, microDay)
	anew := `SELECT seller, currency, ` + day + `, status, count(*), ` + halves("units", "gross", "refunded") + `
		FROM ` + g.table + ` WHERE status <> '' GROUP BY 1, 2, 3, 4`
	for text, format := range map[string]string{
		kept + " EXCEPT " + anew: "the sums %s are not those of the orders",
		anew + " EXCEPT " + kept: "the orders' sums %s are not kept",
	} {
		err := ask(ctx, tx, text, func(rows *sql.Rows) error {
			var sums [11]any
			at := make([]any, len(sums))
			for i := range sums {
				at[i] = &sums[i]
			}
			if scanned := rows.Scan(at...); scanned != nil {
				return scanned
			}
			return differs("", format, strings.TrimSpace(fmt.Sprintln(sums[:]...)))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// auditText looks whether the text index has the orders that it should. What
// it has of each was written with the digest that auditFacts compares.
func auditText(
	ctx context.Context, tx *sql.Tx, g *Generation[projections.Order], differs func(stream, format string, args ...any) error,
) error {
	text := `SELECT id FROM ` + g.table + ` WHERE words <> 0 EXCEPT SELECT rowid FROM ` + g.table + `_text`
	return ask(ctx, tx, text, func(rows *sql.Rows) error {
		var id int64
		if scanned := rows.Scan(&id); scanned != nil {
			return scanned
		}
		return differs(orderStream(id), "the text index does not have it")
	})
}

func auditEntries(
	ctx context.Context, tx *sql.Tx, g *Generation[projections.Account], differs func(stream, format string, args ...any) error,
) error {
	text := `SELECT id, balance, entries, sum, count, last FROM (
			SELECT a.id, a.doc ->> '$.balance' balance, a.doc ->> '$.entries' entries,
				coalesce(sum(e.amount), 0) sum, count(e.number) count, coalesce(max(e.number), 0) last
			FROM ` + g.table + ` a LEFT JOIN ` + g.table + `_entries e ON e.account = a.id GROUP BY a.id
		) WHERE balance <> sum OR entries <> count OR entries <> last`
	return ask(ctx, tx, text, func(rows *sql.Rows) error {
		var id string
		var balance, entries, sum, count, last int64
		if scanned := rows.Scan(&id, &balance, &entries, &sum, &count, &last); scanned != nil {
			return scanned
		}
		return differs(accountStream(id), "%d entries, the last of them number %d, sum to %d; the document has %d and a balance of %d",
			count, last, sum, entries, balance)
	})
}
