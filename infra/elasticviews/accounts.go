package elasticviews

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"cartwright/domain/event"
	"cartwright/projections"
)

// Accounts are the accounts with their entries. Its methods may be called concurrently.
type Accounts struct {
	*Views[projections.Account]
	entries string // the alias of the entries
}

// NewAccounts opens the view.
func NewAccounts(ctx context.Context, db *DB) (*Accounts, error) {
	name := projections.AccountsView().Name
	s := plain[projections.Account](name)
	s.kinds = append(s.kinds, kind{name: entries, version: 1, fields: map[string]any{
		"account": keyword, "number": long, "revision": long, "entry": stored,
		"amount0": summed, "amount1": summed, "amount2": summed,
	}})
	s.searched, s.place, s.beside, s.check, s.clear = true, accountPlace, fresh, contiguous, clearEntries
	v, err := newViews(ctx, db, name, s)
	if err != nil {
		return nil, err
	}
	return &Accounts{v, db.index(entries)}, nil
}

// entries is the kind of index that has accounts' entries.
const entries = "entries"

var errNoAccount = errors.New("the view has no place for a stream that is not called after an account")

func accountPlace(stream string) (string, error) {
	if event.Category(stream) != "account" || event.SubjectID(stream) == "" {
		return "", errNoAccount
	}
	return anywhere(stream)
}

// An entrySource is an entry as it is stored.
type entrySource struct {
	Account string `json:"account"`
	Number  int64  `json:"number"`
	// Revision is that of the document which brought it. An entry of no later
	// one than a document has is in the document's count, or is wrong.
	Revision uint64            `json:"revision"`
	Entry    projections.Entry `json:"entry"`
	Amount0  int64             `json:"amount0"`
	Amount1  int64             `json:"amount1"`
	Amount2  int64             `json:"amount2"`
}

func entryID(account string, number int64) string {
	return account + "#" + strconv.FormatInt(number, 10)
}

// fresh are the entries that a document brings. One that is there stays: it
// can only be the same. A repair knows better.
func fresh(at indices, doc projections.Doc[projections.Account], _ []byte, repair bool) ([]op, error) {
	account, action := event.SubjectID(doc.Stream), "create"
	if repair {
		action = "index"
	}
	ops := make([]op, len(doc.Body.Fresh))
	for i, e := range doc.Body.Fresh {
		amount := split(e.Amount)
		raw, err := json.Marshal(entrySource{account, e.Number, uint64(doc.Revision), e, amount[0], amount[1], amount[2]})
		if err != nil {
			return nil, err
		}
		ops[i] = op{
			action: action, index: at.of(entries), id: entryID(account, e.Number), routing: party(account), source: raw, owner: doc.Stream,
		}
	}
	return ops, nil
}

// contiguous refuses documents whose earlier entries the generation does not
// have: another process made it live, and these are the next steps of documents
// that were read from the one before. Whoever reads them again brings what is
// missing.
func contiguous(ctx context.Context, at indices, docs []projections.Doc[projections.Account]) error {
	var refs []ref
	for _, doc := range docs {
		if before := doc.Body.Entries - int64(len(doc.Body.Fresh)); before > 0 {
			account := event.SubjectID(doc.Stream)
			refs = append(refs, ref{ID: entryID(account, before), Routing: party(account)})
		}
	}
	if len(refs) == 0 {
		return nil
	}
	have, err := at.db.c.inParts(ctx, at.of(entries), refs, bare)
	if err != nil {
		return err
	}
	for _, entry := range have {
		if !entry.Found {
			return fmt.Errorf("%w: the generation that is live now does not have entry %s yet: the account has to be read again",
				projections.ErrUnavailable, entry.ID)
		}
	}
	return nil
}

// clearEntries takes away what a repair does not write over: entries that the
// account's document counts and its history does not have. An entry of a later
// revision is another process's, whose document is on its way.
func clearEntries(ctx context.Context, at indices, docs []projections.Doc[projections.Account]) error {
	var refs []ref
	for _, doc := range docs {
		refs = append(refs, ref{ID: doc.Stream})
	}
	stored, err := at.db.c.inParts(ctx, at.of(projections.AccountsView().Name), refs, bare)
	if err != nil {
		return err
	}
	if err := at.db.do(ctx, request{method: "POST", path: "/" + at.of(entries) + "/_refresh"}); err != nil {
		return err
	}
	for i, doc := range docs {
		if stored[i].Found && event.Revision(stored[i].Version) > doc.Revision { //nolint:gosec // as it was stored
			continue
		}
		if err := clearAccount(ctx, at, doc); err != nil {
			return err
		}
	}
	return nil
}

const everything = 1 << 30

func clearAccount(ctx context.Context, at indices, doc projections.Doc[projections.Account]) error {
	account := event.SubjectID(doc.Stream)
	strays := map[string]any{"bool": map[string]any{
		"filter":   []any{term("account", account), within("revision", "lte", uint64(doc.Revision))},
		"must_not": []any{map[string]any{"range": map[string]any{"number": map[string]any{"gte": 1, "lte": doc.Body.Entries}}}},
	}}
	hits, err := at.db.c.list(ctx, search{
		Index: at.of(entries), Routing: party(account), Query: strays, Sort: []any{by("number", "asc")}, Seq: true,
	}, everything)
	if err != nil {
		return err
	}
	ops := make([]op, len(hits))
	for i, h := range hits {
		ops[i] = op{action: "delete", index: at.of(entries), id: h.ID, routing: party(account), seen: &seen{h.Seq, h.Term}, owner: doc.Stream}
	}
	return at.db.c.each(ctx, ops)
}

// Entries gives an account's statement, newest entry first: those before an
// entry's number, or the newest where that is 0.
func (a *Accounts) Entries(ctx context.Context, account string, before int64, limit int) (page projections.EntryPage, err error) {
	filters := []any{term("account", account)}
	if before > 0 {
		filters = append(filters, within("number", "lt", before))
	}
	s := search{Index: a.entries, Routing: party(account), Query: all(filters...), Sort: []any{by("number", "desc")}, Source: true}
	hits, err := searching(ctx, a.Views, func() ([]hit, error) { return a.db.c.list(ctx, s, limit+1) })
	if err != nil {
		return page, fmt.Errorf("list entries of account %s: %w", account, err)
	}
	for _, h := range hits[:min(len(hits), limit)] {
		var s entrySource
		if err := json.Unmarshal(h.Source, &s); err != nil {
			return page, fmt.Errorf("list entries of account %s: decode %s: %w", account, h.ID, err)
		}
		page.Items = append(page.Items, s.Entry)
	}
	if len(hits) > limit {
		page.Next = page.Items[limit-1].Number
	}
	return page, nil
}
