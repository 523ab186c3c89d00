package main

import (
	"net/http"
	"strings"
	"testing"

	"cartwright/domain/inventory"
)

func TestADividedSKUIsSoldToTheLastUnitAndLookedAtShardByShard(t *testing.T) {
	s := serve(t, t.TempDir())
	for name, c := range map[string]struct {
		args          []string
		placed, short int64
		shards        int
	}{
		"hot":    {[]string{"checkout", "--hot", "--stock", "40", "--count", "120", "--concurrency", "30", "--shards", "4", "--buyers", "5"}, 40, 80, 4},
		"flash":  {[]string{"flash", "--stock", "25", "--buyers", "100", "--within", "100ms", "--shards", "3"}, 25, 75, 3},
		"spread": {[]string{"checkout", "--skus", "3", "--count", "60", "--shards", "2", "--buyers", "5"}, 60, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := runBench(t, append(c.args, "--target", s.url, "--data", s.data)...)
			if err != nil {
				t.Fatalf("%v: %+v", err, got.Check)
			}
			sum := int64(0)
			if l := got.Check.Shards; l == nil || l.LeftOut != "" || l.Moving != 0 || l.Of != c.shards || len(l.Taken) != c.shards {
				t.Fatalf("got %+v", l)
			}
			for _, n := range got.Check.Shards.Taken {
				sum += n
			}
			if got.Count != c.placed || got.Errors["out_of_stock"] != c.short || got.Check.Taken != c.placed || sum != c.placed {
				t.Errorf("got %d placed, %v, %+v, %+v", got.Count, got.Errors, got.Check, got.Check.Shards)
			}
		})
	}
	got, err := runBench(t, "checkout", "--hot", "--count", "5", "--buyers", "2", "--shards", "2", "--target", s.url)
	if err != nil || got.Check.Taken != 5 || got.Check.Shards == nil || got.Check.Shards.LeftOut == "" {
		t.Errorf("where the log is not known: %v, %+v", err, got.Check)
	}
	got, err = runBench(t, "checkout", "--hot", "--count", "5", "--buyers", "2", "--target", s.url, "--data", s.data)
	if err != nil || got.Check.Shards != nil {
		t.Errorf("of a SKU that is whole: %v, %+v", err, got.Check)
	}
}

func TestASKUThatIsNotDividedAsAskedForIsFound(t *testing.T) {
	s := serve(t, t.TempDir())
	target := between(t, s, func(w http.ResponseWriter, r *http.Request, serve http.Handler) {
		if !strings.HasSuffix(r.URL.Path, "/shards") || !say(w, http.StatusOK, `{}`) {
			serve.ServeHTTP(w, r)
		}
	})
	got, err := runBench(t, "checkout", "--hot", "--count", "5", "--buyers", "2", "--shards", "2", "--target", target, "--check-within", "200ms")
	if exitOf(err) != exitDifferences || !strings.Contains(strings.Join(got.Check.Differences, "\n"), "divided into 0 shards, not 2") {
		t.Errorf("got %v, %q", err, got.Check.Differences)
	}
}

func TestWhatTheShardsMaySay(t *testing.T) {
	shown := shownStock{OnHand: 10, Held: 3, Allocated: 1, Available: 6, Shards: 2}
	first := inventory.Stock{Known: true, Shards: 2, OnHand: 4, Moved: -6, Held: 1}
	second := inventory.Stock{OnHand: 6, Moved: 6, Held: 2, Allocated: 1}
	for name, c := range map[string]struct {
		shown  func(*shownStock)
		shards func(first, second *inventory.Stock)
		says   string
	}{
		"all is well":     {},
		"not divided":     {shown: func(s *shownStock) { s.Shards = 0 }, says: "divided into 0 shards, not 2"},
		"shown otherwise": {shown: func(s *shownStock) { s.Held = 4 }, says: "4 held"},
		"on the way": {shards: func(first, second *inventory.Stock) {
			first.Sent = map[int]inventory.Transfer{1: {Transfer: 1, Quantity: 6, Open: true}}
			second.OnHand, second.Moved = 0, 0
		}, says: "6 units are on the way from shard 0 to 1"},
		"lost":     {shards: func(_, second *inventory.Stock) { second.OnHand = 5 }, says: "the shards have 9"},
		"oversold": {shards: func(_, second *inventory.Stock) { second.Held = 9 }, says: "shard 1 is oversold"},
	} {
		s, a, b := shown, first, second
		if c.shown != nil {
			c.shown(&s)
		}
		if c.shards != nil {
			c.shards(&a, &b)
		}
		got := strings.Join(s.differsFrom(2, []inventory.Stock{a, b}), "\n")
		if (got == "") != (c.says == "") || !strings.Contains(got, c.says) {
			t.Errorf("%s: got %q, want %q", name, got, c.says)
		}
	}
}
