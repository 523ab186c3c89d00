package viewtest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/domain/account"
	"cartwright/projections"
)

func asRefused(err error) (*projections.RefusedError, bool) {
	return errors.AsType[*projections.RefusedError](err)
}

// Accounts are an engine's live accounts, empty when a test begins.
type Accounts struct {
	Views      projections.Views[projections.Account]
	Statements interface {
		Entries(ctx context.Context, account string, before int64, limit int) (projections.EntryPage, error)
	}
	Repair func(ctx context.Context, docs []projections.Doc[projections.Account]) error
}

// RunAccounts checks accounts with their entries.
func RunAccounts(t *testing.T, open func(t *testing.T) Accounts) {
	t.Helper()
	for name, check := range map[string]func(*testing.T, Accounts){
		"entries are listed newest first": entriesListed,
		"entries that come again are one": entriesOnce,
		"a repair replaces the entries":   entriesRepaired,
	} {
		t.Run(name, func(t *testing.T) { check(t, open(t)) })
	}
}

// deposits is an account with so many deposits.
func deposits(tb testing.TB, id string, n int64) projections.Doc[projections.Account] {
	tb.Helper()
	doc := projections.Doc[projections.Account]{Stream: "account-" + id}
	doc = Apply(tb, projections.AccountsView(), doc, account.Opened{Account: id, Currency: "CNY"}, noon)
	for i := range n {
		e := account.Deposited{Entry: i + 1, Amount: 10 + i, Journal: fmt.Sprintf("j%d", i+1), Reference: "cash"}
		doc = Apply(tb, projections.AccountsView(), doc, e, noon.Add(time.Duration(i)*time.Hour))
	}
	return doc
}

func entriesListed(t *testing.T, a Accounts) {
	t.Helper()
	doc := deposits(t, "alice", 7)
	put(t, a.Views, doc, deposits(t, "alic", 2), deposits(t, "alice2", 2))
	var got []projections.Entry
	for before := int64(0); ; {
		page, err := a.Statements.Entries(t.Context(), "alice", before, 3)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, page.Items...)
		if before = page.Next; before == 0 {
			break
		}
	}
	want := make([]projections.Entry, 7)
	for i, e := range doc.Body.Fresh {
		want[6-i] = e
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	page, err := a.Statements.Entries(t.Context(), "nobody", 0, 3)
	if err != nil || len(page.Items) != 0 || page.Next != 0 {
		t.Errorf("nobody's: %+v, %v", page, err)
	}
}

func entriesOnce(t *testing.T, a Accounts) {
	t.Helper()
	put(t, a.Views, deposits(t, "alice", 5))
	put(t, a.Views, deposits(t, "alice", 3)) // stale
	put(t, a.Views, deposits(t, "alice", 7)) // all of them again, and two more
	page, err := a.Statements.Entries(t.Context(), "alice", 0, 100)
	if err != nil || len(page.Items) != 7 || page.Next != 0 {
		t.Fatalf("%d entries, next %d, %v", len(page.Items), page.Next, err)
	}
	docs, err := a.Views.Get(t.Context(), []string{"account-alice"})
	if err != nil || docs["account-alice"].Body.Balance != page.Items[0].Balance {
		t.Errorf("balance %d, the last entry says %d, %v", docs["account-alice"].Body.Balance, page.Items[0].Balance, err)
	}
}

func entriesRepaired(t *testing.T, a Accounts) {
	t.Helper()
	wrong := deposits(t, "alice", 3)
	wrong.Body.Fresh[1].Amount = 4711
	put(t, a.Views, wrong)
	right := deposits(t, "alice", 3)
	if err := a.Repair(t.Context(), []projections.Doc[projections.Account]{right}); err != nil {
		t.Fatal(err)
	}
	page, err := a.Statements.Entries(t.Context(), "alice", 0, 100)
	if err != nil || len(page.Items) != 3 || page.Items[1].Amount != right.Body.Fresh[1].Amount {
		t.Errorf("got %+v, %v", page.Items, err)
	}
}
