package sqliteviews

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/projections"
)

// Accounts are the accounts with their entries. Its methods may be called concurrently.
type Accounts struct{ *Views[projections.Account] }

var accountsShape = shape[projections.Account]{
	create: createAccounts, tune: func(string, bool) []string { return nil }, drop: dropAccounts, key: accountKey, stream: accountStream, put: putAccounts,
}

func accountKey(stream string) (any, bool) {
	id := event.SubjectID(stream)
	return id, event.Category(stream) == "account" && id != ""
}

func accountStream(id any) string { return fmt.Sprintf("account-%s", id) }

func createAccounts(table string) []string {
	return []string{
		`CREATE TABLE ` + table + ` (id TEXT PRIMARY KEY, revision INTEGER NOT NULL, doc TEXT NOT NULL) STRICT, WITHOUT ROWID`,
		`CREATE TABLE ` + table + `_entries (
			account TEXT NOT NULL, number INTEGER NOT NULL,
			kind TEXT NOT NULL, amount INTEGER NOT NULL, journal TEXT NOT NULL, counterparty TEXT NOT NULL,
			reference TEXT NOT NULL, balance INTEGER NOT NULL, at INTEGER NOT NULL,
			PRIMARY KEY (account, number)
		) STRICT, WITHOUT ROWID`,
	}
}

func dropAccounts(table string, _ []int) []string {
	return []string{`DROP TABLE ` + table, `DROP TABLE ` + table + `_entries`}
}

// putAccounts replaces documents and adds their entries. An entry that is there
// stays: it can only be the same.
func putAccounts(tx *txn, g *Generation[projections.Account], docs []encoded[projections.Account], repair bool) error {
	table := g.table
	stored, err := storedRevisions(tx, table, docs)
	if err != nil {
		return err
	}
	if repair {
		if err = forgetEntries(tx, table, docs, stored); err != nil {
			return err
		}
	}
	var values, entries [][]any
	for _, doc := range docs {
		if !replaces(doc, stored, repair) {
			continue
		}
		values = append(values, []any{doc.id, int64(doc.Revision), string(doc.body)}) //nolint:gosec // a stream has fewer than 2^63 events
		for _, e := range doc.Body.Fresh {
			entries = append(entries, []any{
				doc.id, e.Number, string(e.Kind), e.Amount, e.Journal, e.Counterparty, e.Reference, e.Balance, stamp(e.At),
			})
		}
	}
	err = tx.insert(`INSERT INTO `+table+` (id, revision, doc) VALUES`,
		`ON CONFLICT DO UPDATE SET revision = excluded.revision, doc = excluded.doc WHERE excluded.revision >= revision`, 3, values)
	if err != nil {
		return err
	}
	return tx.insert(`INSERT OR IGNORE INTO `+table+`_entries (account, number, kind, amount, journal, counterparty, reference, balance, at) VALUES`,
		``, 9, entries)
}

// replaces says whether a document takes the place of what is stored.
func replaces(doc encoded[projections.Account], stored map[any]event.Revision, repair bool) bool {
	old, found := stored[doc.id]
	return !found || doc.Revision > old || doc.Revision == old && repair
}

// forgetEntries makes room for those that a repair brings.
func forgetEntries(tx *txn, table string, docs []encoded[projections.Account], stored map[any]event.Revision) error {
	for _, doc := range docs {
		if !replaces(doc, stored, true) {
			continue
		}
		if err := tx.exec(`DELETE FROM `+table+`_entries WHERE account = ?`, doc.id); err != nil {
			return err
		}
	}
	return nil
}

func storedRevisions(tx *txn, table string, docs []encoded[projections.Account]) (map[any]event.Revision, error) {
	ids := make([]any, len(docs))
	for i, doc := range docs {
		ids[i] = doc.id
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	stored := map[any]event.Revision{}
	err = tx.query(func(rows *sql.Rows) error {
		var id string
		var at int64
		scanned := rows.Scan(&id, &at)
		stored[id] = event.Revision(at) //nolint:gosec // as it was stored
		return scanned
	}, `SELECT id, revision FROM `+table+` WHERE id IN (SELECT value FROM json_each(?))`, string(list))
	return stored, err
}

// Entries gives an account's statement, newest entry first: those before an
// entry's number, or the newest where that is 0.
func (a *Accounts) Entries(ctx context.Context, id string, before int64, limit int) (projections.EntryPage, error) {
	page, err := reading(a.Views, func(g *Generation[projections.Account]) (projections.EntryPage, error) {
		return entries(ctx, g, id, before, limit)
	})
	if err != nil {
		return projections.EntryPage{}, fmt.Errorf("list entries of account %s: %w", id, err)
	}
	return page, nil
}

func entries(
	ctx context.Context, g *Generation[projections.Account], id string, before int64, limit int,
) (page projections.EntryPage, err error) {
	w := &conditions{}
	w.add("account = ?", id)
	w.addIf(before > 0, "number < ?", before)
	err = g.query(ctx, func(rows *sql.Rows) error {
		e := projections.Entry{Account: id}
		var kind string
		var at int64
		scanned := rows.Scan(&e.Number, &kind, &e.Amount, &e.Journal, &e.Counterparty, &e.Reference, &e.Balance, &at)
		e.Kind, e.At = account.Kind(kind), unstamp(at)
		page.Items = append(page.Items, e)
		return scanned
	}, `SELECT number, kind, amount, journal, counterparty, reference, balance, at
		FROM `+g.table+`_entries WHERE `+w.text+` ORDER BY number DESC`+atMost, append(w.args, limit+1)...)
	if len(page.Items) > limit {
		page.Items = page.Items[:limit]
		page.Next = page.Items[limit-1].Number
	}
	return page, err
}
