package sqliteviews

import (
	"context"
	"database/sql"
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
	checks ...func(context.Context, moment, *Generation[V], []int, func(stream, format string, args ...any) error) error,
) error {
	differs := func(stream, format string, args ...any) error {
		return report(projections.Difference{
			View: g.views.name, Stream: stream, Kind: projections.Differs, Detail: fmt.Sprintf(format, args...),
		})
	}
	var err error
	for again := true; again && err == nil; {
		years := g.tiers.Load().Years
		_, err = glance(ctx, g, func(from moment) (none struct{}, err error) {
			// The moment begins with the first question, see look.
			if err = ask(ctx, from, "SELECT 1 FROM "+g.table+" LIMIT 1", func(*sql.Rows) error { return nil }); err != nil {
				return none, err
			}
			if again = len(g.tiers.Load().Years) != len(years); again {
				return none, nil
			}
			for _, check := range checks {
				if err = check(ctx, from, g, years, differs); err != nil {
					break
				}
			}
			return none, err
		})
	}
	if err != nil {
		return fmt.Errorf("audit %s: %w", g.views.name, err)
	}
	return nil
}

// auditFacts files every document again and looks whether it is where it was,
// and in one tier only. What is at hand may be on its way into the archive.
func auditFacts(
	ctx context.Context, from moment, g *Generation[projections.Order], years []int, differs func(stream, format string, args ...any) error,
) error {
	for i, table := range g.tables(years) {
		text := `SELECT id, revision, doc, buyer, seller, currency, status, placed_at, to_ship, units, gross, refunded, closed_at, words FROM ` + table
		err := ask(ctx, from, text, func(rows *sql.Rows) error {
			var f [11]any
			var doc projections.Doc[projections.Order]
			scanned := g.scan(rows, &doc, &f[0], &f[1], &f[2], &f[3], &f[4], &f[5], &f[6], &f[7], &f[8], &f[9], &f[10])
			if scanned != nil {
				return scanned
			}
			now := rowOf(encoded[projections.Order]{Doc: doc}, table)
			want := fmt.Sprint(now.columns()...)
			if have := fmt.Sprint(f[:]...); have != want {
				return differs(doc.Stream, "it is filed under %s, not %s", have, want)
			}
			// The boundary is known after it is stored and before anything passes it.
			if year, archived := doc.Body.Archived(g.tiers.Load().Before); i > 0 && (!archived || year != years[i-1]) {
				return differs(doc.Stream, "it does not belong in the archive of %d", years[i-1])
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	text := `SELECT id, count(*) FROM (` + union(g.tables(years), "SELECT id FROM ", "") + `) GROUP BY id HAVING count(*) > 1`
	return ask(ctx, from, text, func(rows *sql.Rows) error {
		var id, n int64
		if scanned := rows.Scan(&id, &n); scanned != nil {
			return scanned
		}
		return differs(orderStream(id), "it is in %d tiers", n)
	})
}

// auditSums sums all orders up again.
func auditSums(
	ctx context.Context, from moment, g *Generation[projections.Order], years []int, differs func(stream, format string, args ...any) error,
) error {
	kept := `SELECT seller, currency, day, status, orders, units_hi, units_lo, gross_hi, gross_lo, refunded_hi, refunded_lo
		FROM ` + g.table + `_sums WHERE orders <> 0`
	day := fmt.Sprintf("(placed_at - ((placed_at %% %d) + %d) %% %d) / %d", microDay, microDay, microDay, microDay)
	anew := `SELECT seller, currency, ` + day + `, status, count(*), ` + halves("units", "gross", "refunded") + `
		FROM (` + union(g.tables(years), "SELECT "+orderColumns+" FROM ", "") + `) WHERE status <> '' GROUP BY 1, 2, 3, 4`
	for text, format := range map[string]string{
		kept + " EXCEPT " + anew: "the sums %s are not those of the orders",
		anew + " EXCEPT " + kept: "the orders' sums %s are not kept",
	} {
		err := ask(ctx, from, text, func(rows *sql.Rows) error {
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
	ctx context.Context, from moment, g *Generation[projections.Order], years []int, differs func(stream, format string, args ...any) error,
) error {
	for _, table := range g.tables(years) {
		for text, finding := range map[string]string{
			`SELECT id FROM ` + table + ` WHERE words <> 0 EXCEPT SELECT rowid FROM ` + table + `_text`: "the text index does not have it",
			`SELECT rowid FROM ` + table + `_text EXCEPT SELECT id FROM ` + table + ` WHERE words <> 0`: "the text index still has it",
		} {
			err := ask(ctx, from, text, func(rows *sql.Rows) error {
				var id int64
				if scanned := rows.Scan(&id); scanned != nil {
					return scanned
				}
				return differs(orderStream(id), finding)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func auditEntries(
	ctx context.Context, from moment, g *Generation[projections.Account], _ []int, differs func(stream, format string, args ...any) error,
) error {
	text := `SELECT id, balance, entries, sum, count, last FROM (
			SELECT a.id, a.doc ->> '$.balance' balance, a.doc ->> '$.entries' entries,
				coalesce(sum(e.amount), 0) sum, count(e.number) count, coalesce(max(e.number), 0) last
			FROM ` + g.table + ` a LEFT JOIN ` + g.table + `_entries e ON e.account = a.id GROUP BY a.id
		) WHERE balance <> sum OR entries <> count OR entries <> last`
	return ask(ctx, from, text, func(rows *sql.Rows) error {
		var id string
		var balance, entries, sum, count, last int64
		if scanned := rows.Scan(&id, &balance, &entries, &sum, &count, &last); scanned != nil {
			return scanned
		}
		return differs(accountStream(id), "%d entries, the last of them number %d, sum to %d; the document has %d and a balance of %d",
			count, last, sum, entries, balance)
	})
}
