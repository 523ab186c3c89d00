package viewtest

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cartwright/domain/event"
	"cartwright/projections"
)

// Buyers are an engine's live orders by buyer, empty when a test begins.
type Buyers struct {
	Views projections.Views[projections.Order]
	List  interface {
		Newest(ctx context.Context, buyer string, limit int, after *projections.Cursor) (projections.OrderPage, error)
	}
}

// RunBuyers checks buyers' newest orders.
func RunBuyers(t *testing.T, open func(t *testing.T) Buyers) {
	t.Helper()
	t.Run("a buyer's orders are listed newest first", func(t *testing.T) { newestFirst(t, open(t)) })
}

func newestFirst(t *testing.T, b Buyers) {
	t.Helper()
	docs := map[string]projections.Doc[projections.Order]{}
	rapid.Check(t, func(rt *rapid.T) {
		for range rapid.IntRange(0, 10).Draw(rt, "orders") {
			l := Life{
				Number: rapid.IntRange(0, 40).Draw(rt, "number"), Seller: "s", Currency: "CNY", Titles: []string{"x"}, Price: 1, Quantity: 2,
				Buyer:  rapid.SampledFrom([]string{"b", "b1", "c"}).Draw(rt, "buyer"),
				Placed: noon.Add(time.Duration(rapid.IntRange(-5, 5).Draw(rt, "hours")) * time.Hour),
			}
			doc := l.Become(rapid.SampledFrom(states).Draw(rt, "status")).Doc(t)
			put(t, b.Views, doc)
			if doc.Revision > docs[doc.Stream].Revision {
				docs[doc.Stream] = doc
			}
		}
		q := projections.OrderQuery{Buyer: "b", Limit: rapid.IntRange(1, 5).Draw(rt, "limit")}
		var got []string
		for after := (*projections.Cursor)(nil); ; {
			page, err := b.List.Newest(t.Context(), q.Buyer, q.Limit, after)
			if err != nil {
				rt.Fatal(err)
			}
			got = append(got, ids(page.Items)...)
			if after = page.Next; after == nil {
				break
			}
		}
		var all []projections.Doc[projections.Order]
		for _, doc := range docs {
			all = append(all, doc)
		}
		if diff := cmp.Diff(naiveList(all, q), got); diff != "" {
			rt.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

// Deadlines are an engine's live deadlines, empty when a test begins.
type Deadlines struct {
	Views projections.Views[projections.Timer]
	Due   interface {
		Due(ctx context.Context, now time.Time, limit int) ([]projections.Deadline, error)
		DueAfter(ctx context.Context, after projections.Deadline, now time.Time, limit int) ([]projections.Deadline, error)
	}
}

// RunDeadlines checks that deadlines come up when they are due.
func RunDeadlines(t *testing.T, open func(t *testing.T) Deadlines) {
	t.Helper()
	t.Run("deadlines come up in the order they are due", func(t *testing.T) { dueInOrder(t, open(t)) })
	t.Run("a deadline that passed is asked for no more", func(t *testing.T) { dueMoves(t, open(t)) })
}

func dueInOrder(t *testing.T, d Deadlines) {
	t.Helper()
	due := map[string]time.Time{}
	revision := 0
	rapid.Check(t, func(rt *rapid.T) {
		for range rapid.IntRange(0, 10).Draw(rt, "changes") {
			revision++
			doc := SampleTimer(rapid.IntRange(0, 20).Draw(rt, "stream"), 1, "")
			doc.Revision = event.Revision(revision) //nolint:gosec // small
			doc.Body.Due = noon.Add(time.Duration(rapid.IntRange(-100, 100).Draw(rt, "minutes")) * time.Minute)
			if rapid.IntRange(0, 3).Draw(rt, "none") == 0 {
				doc.Body.Due = time.Time{}
			}
			put(t, d.Views, doc)
			due[doc.Stream] = doc.Body.Due
		}
		now := noon.Add(time.Duration(rapid.IntRange(-100, 100).Draw(rt, "now")) * time.Minute)
		limit := rapid.IntRange(1, 5).Draw(rt, "limit")
		var got []projections.Deadline
		for after := (projections.Deadline{}); ; after = got[len(got)-1] {
			some, err := d.Due.DueAfter(t.Context(), after, now, limit)
			if err != nil {
				rt.Fatal(err)
			}
			got = append(got, some...)
			if len(some) == 0 {
				break
			}
		}
		want := naiveDue(due, now)
		if diff := cmp.Diff(want, got, Equal...); diff != "" {
			rt.Fatalf("due at %v (-want +got):\n%s", now, diff)
		}
		first, err := d.Due.Due(t.Context(), now, limit)
		if diff := cmp.Diff(want[:min(limit, len(want))], first, Equal...); err != nil || diff != "" {
			rt.Fatalf("the first %d: %v (-want +got):\n%s", limit, err, diff)
		}
	})
}

func naiveDue(due map[string]time.Time, now time.Time) []projections.Deadline {
	var want []projections.Deadline
	for stream, at := range due {
		if !at.IsZero() && !at.After(now) {
			want = append(want, projections.Deadline{Stream: stream, Due: at})
		}
	}
	slices.SortFunc(want, func(a, b projections.Deadline) int {
		if c := a.Due.Compare(b.Due); c != 0 {
			return c
		}
		return strings.Compare(a.Stream, b.Stream)
	})
	return want
}

func dueMoves(t *testing.T, d Deadlines) {
	t.Helper()
	doc := SampleTimer(1, 1, "")
	for i, at := range []time.Time{noon, noon.Add(time.Hour), {}} {
		doc.Revision, doc.Body.Due = event.Revision(i+1), at
		put(t, d.Views, doc)
		got, err := d.Due.Due(t.Context(), noon, 10)
		if err != nil || (len(got) == 1) != (i == 0) {
			t.Errorf("step %d: %v, %v", i, got, err)
		}
	}
}
