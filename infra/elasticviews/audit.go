package elasticviews

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"cartwright/domain/event"
	"cartwright/projections"
)

// auditPage is how many documents are compared at once.
const auditPage = 500

// Copies may be on their way while they are compared: what looks wrong is
// looked at again so often, so much later.
const (
	auditAgain = 5
	auditPause = 300 * time.Millisecond
)

// An audit compares what lies beside the documents of the live generation with
// the documents, while both go on.
type audit struct {
	db     *DB
	view   string
	at     indices
	report func(projections.Difference) error
	within any // what is looked at
}

func auditing[V any](ctx context.Context, v *Views[V], report func(projections.Difference) error, run func(audit) error) error {
	err := v.live.reading(ctx, func() error {
		l, err := v.look(ctx)
		if err != nil {
			return err
		}
		t := l.of(l.live)
		a := audit{db: v.db, view: v.name, at: indices{db: v.db, number: l.live, tiers: t}, report: report, within: streams()}
		if v.shape.tiers != nil {
			a.within = all(streams(), v.inPlace(l.live, t))
		}
		if err = v.refresh(ctx, v.targetsOf(a.at)); err != nil {
			return err
		}
		return run(a)
	})
	if err != nil {
		return fmt.Errorf("audit %s: %w", v.name, err)
	}
	return nil
}

func (a audit) differs(stream, format string, args ...any) error {
	return a.report(projections.Difference{View: a.view, Stream: stream, Kind: projections.Differs, Detail: fmt.Sprintf(format, args...)})
}

// pages calls take with all streams' documents of a kind that are where they
// belong, as they were when it began.
func (a audit) pages(ctx context.Context, kind string, take func([]hit) error) (err error) {
	names := []string{a.at.of(kind)}
	for _, year := range a.at.tiers.years {
		names = append(names, a.at.in(year).of(kind))
	}
	return a.db.c.pages(ctx, strings.Join(names, ","), a.within, auditPage, take)
}

// Audit compares what orders are found and summed up by, and their copies among
// their sellers', with the documents. Whether the documents are right is asked
// by projections.Verification.
func (o *Orders) Audit(ctx context.Context, report func(projections.Difference) error) error {
	return auditing(ctx, o.Views, report, func(a audit) error {
		if err := a.pages(ctx, o.name, func(hits []hit) error { return a.filed(ctx, hits) }); err != nil {
			return err
		}
		return a.pages(ctx, sales, func(hits []hit) error { return a.sold(ctx, hits) })
	})
}

// filed compares what documents are filed under with what they should be, and
// with their copies. A copy is written first, so it is never behind.
func (a audit) filed(ctx context.Context, hits []hit) error {
	var refs []ref
	var of []hit
	for _, h := range hits {
		have, want, err := filings(h.found)
		if err != nil {
			return err
		}
		if have != want {
			if err := a.differs(h.ID, "it is filed under %+v, not %+v", have, want); err != nil {
				return err
			}
		}
		if want != (filing{}) {
			refs, of = append(refs, ref{ID: h.ID, Routing: party(want.Seller)}), append(of, h)
		}
	}
	if len(refs) == 0 {
		return nil
	}
	copies, err := a.db.anywhere(ctx, a.at, sales, refs, entire)
	if err != nil {
		return err
	}
	for i, c := range copies {
		if err := a.copied(of[i], c); err != nil {
			return err
		}
	}
	return nil
}

func (a audit) copied(h hit, c found) error {
	if !c.Found || c.Version < h.Version {
		return a.differs(h.ID, "its copy among its seller's is at revision %d, not %d", c.Version, h.Version)
	}
	have, want, err := filings(c)
	if err != nil || have == want {
		return err
	}
	return a.differs(h.ID, "its copy among its seller's is filed under %+v, not %+v", have, want)
}

// filings gives what an order is filed under, and what it should be by its body.
func filings(doc found) (have, want filing, err error) {
	stored := orderSource{filing: &have}
	if err := json.Unmarshal(doc.Source, &stored); err != nil {
		return have, want, fmt.Errorf("decode %s: %w", doc.ID, err)
	}
	order := projections.Doc[projections.Order]{Stream: doc.ID, Body: stored.Body}
	if should := fileOrder(order); should.filing != nil {
		want = *should.filing
	}
	return have, want, nil
}

// sold looks whether sellers' orders are orders, and theirs.
func (a audit) sold(ctx context.Context, hits []hit) error {
	for i := 0; len(hits) > 0; i++ {
		wrong, err := a.strays(ctx, hits, i == auditAgain)
		if err != nil || i == auditAgain {
			return err
		}
		if hits = wrong; len(hits) > 0 {
			if err := sleep(ctx, auditPause); err != nil {
				return err
			}
		}
	}
	return nil
}

// strays gives the copies without a document of their revision and their seller.
func (a audit) strays(ctx context.Context, hits []hit, last bool) (wrong []hit, err error) {
	refs := make([]ref, len(hits))
	for i, h := range hits {
		refs[i].ID = h.ID
		if refs[i].Routing, err = orderPlace(h.ID); err != nil {
			return nil, err
		}
	}
	docs, err := a.db.anywhere(ctx, a.at, projections.OrdersView().Name, refs, entire)
	if err != nil {
		return nil, err
	}
	for i, h := range hits {
		detail, err := stray(h, docs[i])
		if err != nil {
			return nil, err
		}
		if detail == "" {
			continue
		}
		wrong = append(wrong, h)
		if last {
			if err := a.differs(h.ID, "%s", detail); err != nil {
				return nil, err
			}
		}
	}
	return wrong, nil
}

func stray(h hit, doc found) (detail string, err error) {
	if !doc.Found || doc.Version < h.Version {
		return fmt.Sprintf("it is at revision %d, its copy among a seller's at %d", doc.Version, h.Version), nil
	}
	sold, _, err := filings(h.found)
	if err != nil {
		return "", err
	}
	have, _, err := filings(doc)
	if err != nil || sold.Seller == have.Seller {
		return "", err
	}
	return fmt.Sprintf("seller %q has a copy of it, which is seller %q's", sold.Seller, have.Seller), nil
}

// Audit compares accounts with the sums of their entries.
func (a *Accounts) Audit(ctx context.Context, report func(projections.Difference) error) error {
	return auditing(ctx, a.Views, report, func(audit audit) error {
		return audit.pages(ctx, a.name, func(hits []hit) error { return audit.accounts(ctx, hits) })
	})
}

func (a audit) accounts(ctx context.Context, hits []hit) error {
	streams := make([]string, len(hits))
	for i, h := range hits {
		streams[i] = h.ID
	}
	for i := 0; len(streams) > 0; i++ {
		wrong, err := a.unbalanced(ctx, streams, i == auditAgain)
		if err != nil || i == auditAgain {
			return err
		}
		if streams = wrong; len(streams) > 0 {
			if err := sleep(ctx, auditPause); err != nil {
				return err
			}
		}
	}
	return nil
}

// statement is what an account's entries add up to.
type statement struct {
	Account string `json:"key"`
	Count   int64  `json:"doc_count"`
	Last    double `json:"last"`
	Amount0 double `json:"amount0"`
	Amount1 double `json:"amount1"`
	Amount2 double `json:"amount2"`
}

// unbalanced gives the accounts whose entries do not add up to their documents.
// The documents are read first, so that their entries are there.
func (a audit) unbalanced(ctx context.Context, streams []string, last bool) (wrong []string, err error) {
	refs := make([]ref, len(streams))
	names := make([]string, len(streams))
	for i, stream := range streams {
		refs[i], names[i] = ref{ID: stream}, event.SubjectID(stream)
	}
	docs, err := a.db.c.inParts(ctx, a.at.of(projections.AccountsView().Name), refs, entire)
	if err != nil {
		return nil, err
	}
	sums, err := a.statements(ctx, names)
	if err != nil {
		return nil, err
	}
	for i, doc := range docs {
		if !doc.Found {
			continue
		}
		account, err := decode[projections.Account](doc)
		if err != nil {
			return nil, err
		}
		s, body := sums[names[i]], account.Body
		balance := whole(s.Amount0, s.Amount1, s.Amount2).int64()
		if balance == body.Balance && s.Count == body.Entries && int64(s.Last.Value) == body.Entries {
			continue
		}
		wrong = append(wrong, doc.ID)
		if !last {
			continue
		}
		err = a.differs(doc.ID, "%d entries, the last of them number %.0f, sum to %d; the document has %d and a balance of %d",
			s.Count, s.Last.Value, balance, body.Entries, body.Balance)
		if err != nil {
			return nil, err
		}
	}
	return wrong, nil
}

func (a audit) statements(ctx context.Context, names []string) (map[string]statement, error) {
	if err := a.db.do(ctx, request{method: "POST", path: "/" + a.at.of(entries) + "/_refresh"}); err != nil {
		return nil, err
	}
	sums := map[string]any{"last": map[string]any{"max": map[string]any{"field": "number"}}}
	for i := range parts {
		sums[part("amount", i)] = map[string]any{"sum": map[string]any{"field": part("amount", i)}}
	}
	answer, err := a.db.c.search(ctx, search{
		Index: a.at.of(entries), Query: map[string]any{"terms": map[string]any{"account": names}},
		Aggs: map[string]any{"accounts": map[string]any{
			"terms": map[string]any{"field": "account", "size": len(names), "shard_size": len(names)}, "aggs": sums,
		}},
	})
	if err != nil {
		return nil, err
	}
	var said struct {
		Buckets []statement `json:"buckets"`
	}
	if err := json.Unmarshal(answer.Aggs["accounts"], &said); err != nil {
		return nil, fmt.Errorf("read the sums of entries: %w", err)
	}
	statements := make(map[string]statement, len(said.Buckets))
	for _, s := range said.Buckets {
		statements[s.Account] = s
	}
	return statements, nil
}
