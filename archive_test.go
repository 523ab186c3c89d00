package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// tiers asks how many orders are where.
func tiers(t *testing.T, data string, args ...string) (moved int64, byYear map[int]int64) {
	t.Helper()
	out, code := tool(t, append([]string{"archive", "--json", "--data", data}, args...)...)
	if code != 0 {
		t.Fatalf("archive: exit %d: %s", code, out)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var n news
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &n); err != nil || n.Archive == nil {
		t.Fatalf("archive says %q: %v", out, err)
	}
	byYear = map[int]int64{}
	for _, tier := range n.Archive.Tiers {
		byYear[tier.Year] = tier.Documents
	}
	return n.Archive.Moved, byYear
}

// list reads a whole list of orders, a few at a time.
func (s *server) list(path, scope string) (ids []string) {
	s.tb.Helper()
	cursor := ""
	if scope != "" {
		scope = "&scope=" + scope
	}
	for {
		page := s.ask(http.StatusOK, "GET", path+"?limit=3"+scope+cursor, nil)
		items, _ := page.body["items"].([]any)
		for _, it := range items {
			o, _ := it.(obj)
			id, _ := o["order_id"].(string)
			ids = append(ids, id)
		}
		next, more := page.body["next_cursor"].(string)
		if !more {
			return ids
		}
		cursor = "&cursor=" + next
	}
}

func TestOldOrdersAreArchived(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir(), "--allow-backdating")
	const source = 50
	path, orders, gross := importFile(t, source)
	imports(t, s, path, orders, gross)
	all := func(scope string) []string { return s.list("/v1/sellers/seller-1/orders", scope) }
	eventually(t, "the import is listed", func() bool { return len(all("all")) == source })
	verified(t, s.data)
	before := all("all")
	sums := s.ask(http.StatusOK, "GET", "/v1/sellers/seller-1/summary", nil).body

	moved, byYear := tiers(t, s.data)
	// Three of five were delivered or cancelled, and one went to two sellers in ten, each time delivered.
	closed := int64(source/5*3 + source/10)
	if byYear[0] != int64(orders)-closed || byYear[2017] != closed || moved != closed {
		t.Fatalf("%d moved: %v, want %d of %d", moved, byYear, closed, orders)
	}
	if again, _ := tiers(t, s.data); again != 0 {
		t.Errorf("a second time %d were moved", again)
	}
	verified(t, s.data)
	recent, old := all("recent"), all("archive")
	if !slices.Equal(all("all"), before) || !slices.Equal(all(""), before) {
		t.Errorf("the list of all is another one: %v, not %v", all("all"), before)
	}
	if both := append(slices.Clone(recent), old...); len(both) != source || len(recent) != source/5*2 || len(slices.Compact(slices.Sorted(slices.Values(both)))) != source {
		t.Errorf("%d at hand and %d in the archive", len(recent), len(old))
	}
	if after := s.ask(http.StatusOK, "GET", "/v1/sellers/seller-1/summary", nil).body; fmt.Sprint(after) != fmt.Sprint(sums) {
		t.Errorf("the sums changed: %v, not %v", after, sums)
	}
	if a := s.ask(http.StatusBadRequest, "GET", "/v1/sellers/seller-1/orders?scope=old", nil); !strings.Contains(a.raw, "scope") {
		t.Errorf("a scope that is none: %s", a.raw)
	}

	// A late refund finds an archived order, and does not bring it back.
	id := s.completed(old)
	refund := s.ask(http.StatusCreated, "POST", "/v1/orders/"+id+"/refunds", obj{"reason": "broke after a year"}, key("late"))
	token := "Cartwright-Token: " + refund.head.Get("Cartwright-Token")
	if a := s.ask(http.StatusOK, "GET", "/v1/orders/"+id, nil, token); number(a.body["refunded"].(obj)["amount"]) == 0 {
		t.Errorf("the refund is not shown: %s", a.raw)
	}
	for scope, want := range map[string]bool{"archive": true, "all": true, "recent": false} {
		a := s.ask(http.StatusOK, "GET", "/v1/sellers/seller-1/orders?limit=100&scope="+scope, nil, token)
		if got := strings.Contains(a.raw, id); got != want {
			t.Errorf("in scope %s the order is listed: %v", scope, got)
		}
	}
	if _, now := tiers(t, s.data, "--show"); now[0] != byYear[0] || now[2017] != byYear[2017] {
		t.Errorf("the late refund moved something: %v", now)
	}

	// A replay fills both tiers.
	settled := func() bool { out, code := tool(t, "verify", "--data", s.data); return code == 0 && out != "" }
	eventually(t, "the refund is settled", settled)
	if out, code := tool(t, "replay", "--view", "all", "--data", s.data); code != 0 {
		t.Fatalf("replay: exit %d: %s", code, out)
	}
	if _, now := tiers(t, s.data, "--show"); now[0] != byYear[0] || now[2017] != byYear[2017] {
		t.Errorf("after a replay: %v, not %v", now, byYear)
	}
	verified(t, s.data)
	if !slices.Equal(all("archive"), old) || !slices.Equal(all("recent"), recent) {
		t.Error("after a replay the lists are others")
	}
	if _, code := tool(t, "archive", "--older-than", "-1h", "--data", s.data); code != exitUsage {
		t.Errorf("archive of the future: exit %d", code)
	}
}

// completed finds one of some orders that is completed.
func (s *server) completed(ids []string) string {
	s.tb.Helper()
	for _, id := range ids {
		if s.ask(http.StatusOK, "GET", "/v1/orders/"+id, nil).body["status"] == "completed" {
			return id
		}
	}
	s.tb.Fatal("none of them is completed")
	return ""
}

// verified expects views that are what the log says.
func verified(t *testing.T, data string) {
	t.Helper()
	if out, code := tool(t, "verify", "--data", data); code != 0 {
		t.Fatalf("verify: exit %d: %s", code, out)
	}
}
