package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cartwright/domain/event"
	"cartwright/domain/order"
	"cartwright/infra/esdbstore"
	"cartwright/projections"
)

// readmeStory is the README's walk-through, word for word.
func readmeStory(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, story, found := strings.Cut(string(text), "```sh walk-through\n")
	story, _, closed := strings.Cut(story, "\n```")
	if !found || !closed {
		t.Fatal("the README has no walk-through")
	}
	return story
}

func TestTheWalkThroughOfTheREADME(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir())
	story := strings.ReplaceAll(readmeStory(t), "http://127.0.0.1:8080", s.url)
	story = strings.ReplaceAll(story, "/tmp/cartwright-head", filepath.Join(t.TempDir(), "head"))
	out, err := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", story).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	eventually(t, "the stock, the money and the order are settled", func() bool {
		stock := s.ask(http.StatusOK, "GET", "/v1/inventory/mug", nil)
		account := s.ask(http.StatusOK, "GET", "/v1/accounts/bob", nil)
		return number(stock.body["on_hand"]) == 9 && number(stock.body["allocated"]) == 0 &&
			strings.Contains(account.raw, `"balance":{"amount":7100,`)
	})
	list := s.ask(http.StatusOK, "GET", "/v1/buyers/bob/orders", nil)
	items, _ := list.body["items"].([]any)
	if len(items) != 1 {
		t.Fatalf("got %s", list.raw)
	}
	o, _ := items[0].(obj)
	if o["status"] != "completed" || o["payment"] != "partially_refunded" {
		t.Errorf("got %s", list.raw)
	}
	if !strings.Contains(string(out), `"number":"456"`) || strings.Contains(string(out), "problem") {
		t.Errorf("the story told: %s", out)
	}
	if out, code := tool(t, "verify", "--data", s.data); code != 0 {
		t.Errorf("verify: %d: %s", code, out)
	}
	eventually(t, "the views have told the bus that they have read everything", func() bool {
		out, code := tool(t, "status", "--data", s.data, "--json")
		return code == 0 && strings.Contains(out, `"bus_lag":0`)
	})
	s.stop()
}

func TestNonsenseIsRefusedAndLeavesNothing(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir())
	s.offer("a", "seller-1", 500, 10)
	s.fund(1000)
	id := s.orderID("buyer-1")
	good := checkoutOf(id, "buyer-1", "a")
	with := func(change func(obj)) obj {
		body := maps.Clone(good)
		change(body)
		return body
	}
	var before string
	eventually(t, "the deposit has its other leg", func() bool {
		before, _ = tool(t, "events", "--data", s.data, "order", "inventory", "account", "offer")
		return strings.Contains(before, "account.posted")
	})
	for name, tt := range map[string]struct {
		method, path string
		body         any
		heads        []string
		status       int
		slug         string
	}{
		"malformed JSON":          {"POST", "/v1/checkouts", `{"order_id":`, nil, 400, "malformed_body"},
		"trailing data":           {"POST", "/v1/accounts", `{"account_id":"x","currency":"BRL"} {}`, nil, 400, "malformed_body"},
		"an unknown field":        {"POST", "/v1/checkouts", with(func(b obj) { b["coupon"] = "x" }), nil, 400, "unknown_field"},
		"an unknown SKU":          {"POST", "/v1/checkouts", checkoutOf(id, "buyer-1", "zz"), nil, 404, "unknown_sku"},
		"a negative quantity":     {"POST", "/v1/checkouts", with(func(b obj) { b["items"] = []obj{{"sku": "a", "quantity": -1}} }), nil, 400, ""},
		"an overflowing quantity": {"POST", "/v1/checkouts", with(func(b obj) { b["items"] = []obj{{"sku": "a", "quantity": int64(9e18)}} }), nil, 400, ""},
		"a fraction":              {"POST", "/v1/inventory/a/receipts", `{"quantity":1.5}`, nil, 400, ""},
		"a foreign currency":      {"POST", "/v1/checkouts", with(func(b obj) { b["expected_amount"] = obj{"amount": 500, "currency": "USD"} }), nil, 422, "wrong_currency"},
		"no such currency":        {"POST", "/v1/accounts", obj{"account_id": "x", "currency": "XX1"}, nil, 400, ""},
		"another price":           {"POST", "/v1/checkouts", with(func(b obj) { b["expected_amount"] = brl(499) }), nil, 409, "price_changed"},
		"another's id":            {"POST", "/v1/checkouts", with(func(b obj) { b["buyer_id"] = "buyer-2" }), nil, 400, "wrong_bucket"},
		"an id of another form":   {"POST", "/v1/checkouts", with(func(b obj) { b["order_id"] = "12" }), nil, 400, ""},
		"no address":              {"POST", "/v1/checkouts", with(func(b obj) { delete(b, "address") }), nil, 400, ""},
		"negative money":          {"POST", "/v1/accounts/buyer-1/deposits", obj{"amount": brl(-1)}, nil, 400, ""},
		"money that overflows":    {"POST", "/v1/accounts/buyer-1/deposits", obj{"amount": brl(9_223_372_036_854_775_807)}, nil, 0, ""},
		"more than there is":      {"POST", "/v1/accounts/buyer-1/withdrawals", obj{"amount": brl(1001)}, nil, 422, "insufficient_funds"},
		"dollars in a real's":     {"POST", "/v1/accounts/buyer-1/deposits", obj{"amount": obj{"amount": 1, "currency": "USD"}}, nil, 422, "wrong_currency"},
		"an unknown account":      {"POST", "/v1/accounts/nobody/deposits", obj{"amount": brl(1)}, nil, 404, "unknown_account"},
		"an unknown order":        {"POST", "/v1/orders/" + id + "/complete", nil, nil, 404, "unknown_order"},
		"an unknown checkout":     {"POST", "/v1/checkouts/" + id + "/pay", nil, nil, 404, "unknown_order"},
		"a SKU with a slash":      {"PUT", "/v1/skus/a%20b", obj{"seller_id": "s", "title": "t", "unit_price": brl(1)}, nil, 400, ""},
		"an oversized body":       {"POST", "/v1/checkouts", `{"order_id":"` + strings.Repeat("x", 2<<20) + `"}`, nil, 413, "body_too_large"},
		"a changed SKU":           {"PUT", "/v1/skus/a", obj{"seller_id": "seller-1", "title": "t", "unit_price": brl(1)}, nil, 428, "if_match_required"},
		"a stale SKU":             {"PUT", "/v1/skus/a", obj{"seller_id": "seller-1", "title": "t", "unit_price": brl(1)}, []string{`If-Match: "v1"`}, 412, "version_stale"},
		"another seller's SKU":    {"PUT", "/v1/skus/a", obj{"seller_id": "seller-2", "title": "t", "unit_price": brl(1)}, []string{`If-Match: "v2"`}, 409, "seller_fixed"},
		"a count without version": {"POST", "/v1/inventory/a/counts", obj{"on_hand": 1, "reason": "stocktake"}, nil, 428, "if_match_required"},
		"backdating":              {"POST", "/v1/checkouts", good, []string{"Cartwright-At: 2017-01-01T00:00:00Z"}, 400, "backdating_off"},
		"a cursor of our making":  {"GET", "/v1/buyers/buyer-1/orders?cursor=abc", nil, nil, 400, "cursor_invalid"},
		"a limit too high":        {"GET", "/v1/buyers/buyer-1/orders?limit=101", nil, nil, 400, ""},
		"an unknown parameter":    {"GET", "/v1/buyers/buyer-1/orders?sort=x", nil, nil, 400, ""},
		"a token of our making":   {"GET", "/v1/buyers/buyer-1/orders", nil, []string{"Cartwright-Token: abc"}, 400, "token_invalid"},
		"an unknown path":         {"GET", "/v1/nothing", nil, nil, 404, ""},
		"an unknown method":       {"DELETE", "/v1/checkouts", nil, nil, 405, ""},
	} {
		heads := append([]string{key(strings.ReplaceAll(name, " ", "-"))}, tt.heads...)
		a, err := s.try(tt.method, tt.path, tt.body, heads...)
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case a.status < 400 || a.status >= 500 || (tt.status != 0 && a.status != tt.status) || (tt.slug != "" && a.slug() != tt.slug):
			t.Errorf("%s: got %d %s, want %d %s", name, a.status, a.raw, tt.status, tt.slug)
		case !strings.HasPrefix(a.head.Get("Content-Type"), "application/problem+json") || a.slug() == "":
			t.Errorf("%s: no problem with a slug: %s", name, a.raw)
		}
	}
	if a := s.ask(http.StatusBadRequest, "POST", "/v1/checkouts", good); a.slug() != "idempotency_key_missing" {
		t.Errorf("without a key: %s", a.raw)
	}
	if after, _ := tool(t, "events", "--data", s.data, "order", "inventory", "account", "offer"); after != before {
		t.Errorf("something was written:\n%s", strings.TrimPrefix(after, before))
	}
}

func TestAnImpossibleEventIsReportedAndOthersAreServed(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir())
	s.offer("a", "seller-1", 500, 10)
	s.fund(10_000)
	bad, good := s.bought("a"), s.bought("a")
	eventually(t, "both are settled", func() bool {
		return s.revision(bad) == 4 && s.revision(good) == 4
	})
	store, err := esdbstore.Open(t.Context(), "unix://"+ownersSocket(t, s.data), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	impossible := event.Recorded{
		ID: "0e2a1a34-6c0d-4c41-9d43-111111111111", Name: "order.completed", Version: 1, Data: []byte(`{"by":"nobody"}`),
	}
	if err := store.Append(t.Context(), "order-"+bad, 4, []event.Recorded{impossible}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is parked", func() bool {
		out, code := tool(t, "park", "list", "--view", "orders", "--json", "--data", s.data)
		return code == 0 && strings.Contains(out, `"order-`+bad+`"`) && strings.Contains(out, `"revision":5`)
	})
	if out, code := tool(t, "park", "show", "--view", "orders", "--stream", "order-"+bad, "--data", s.data); code != 0 || !strings.Contains(out, `"by": "nobody"`) {
		t.Errorf("park show: exit %d: %s", code, out)
	}
	for _, args := range [][]string{{"park", "show"}, {"park", "show", "--stream", "key-buyer-1"}} {
		if _, code := tool(t, append(args, "--data", s.data)...); code != exitUsage {
			t.Errorf("%v: exit %d", args, code)
		}
	}
	if a := s.ask(http.StatusInternalServerError, "GET", "/v1/orders/"+bad, nil); a.slug() != "history_corrupt" {
		t.Errorf("got %s", a.raw)
	}
	s.ask(http.StatusOK, "GET", "/v1/orders/"+good, nil)
	s.ask(http.StatusOK, "GET", "/v1/buyers/buyer-1/orders", nil)
	out, code := tool(t, "replay", "--view", "orders", "--data", s.data)
	if code != exitFailed || !strings.Contains(out, "order-"+bad) || !strings.Contains(out, "revision 5") {
		t.Errorf("replay: exit %d: %s", code, out)
	}
	if out, code = tool(t, "replay", "--view", "all", "--park", "--data", s.data); code != 0 {
		t.Errorf("replay --park: exit %d: %s", code, out)
	}
	if out, code = tool(t, "verify", "--json", "--data", s.data); code != exitDifferences || !strings.Contains(out, bad) || strings.Contains(out, good) {
		t.Errorf("verify: exit %d: %s", code, out)
	}
	s.ask(http.StatusOK, "POST", "/v1/orders/"+good+"/cancel", obj{"reason": "buyer"}, key("x"))
}

func ownersSocket(t *testing.T, data string) string {
	t.Helper()
	path, err := ownerSocket(data, "node.sock")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// revision is the newest that the query API shows of an order.
func (s *server) revision(id string) int64 {
	s.tb.Helper()
	return number(s.ask(http.StatusOK, "GET", "/v1/orders/"+id, nil).body["revision"])
}

// patient asks again when it is told that the views are late: that is an answer
// a loaded machine may give; a stale one is not.
func (s *server) patient(path string, headers ...string) (answer, error) {
	for tries := 0; ; tries++ {
		a, err := s.try(http.MethodGet, path, nil, headers...)
		if err != nil || a.status != http.StatusServiceUnavailable || tries == 20 {
			return a, err
		}
	}
}

func TestReadersSeeTheirOwnWrites(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir())
	s.offer("a", "seller-1", 500, 10_000)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			buyer := fmt.Sprintf("buyer-%d", w)
			for n := 1; n <= 15; n++ {
				id := s.orderID(buyer)
				a, err := s.try("POST", "/v1/checkouts", checkoutOf(id, buyer, "a"), key(id))
				if err != nil || a.status != http.StatusCreated {
					t.Errorf("%v %d %s", err, a.status, a.raw)
					return
				}
				token := "Cartwright-Token: " + a.head.Get("Cartwright-Token")
				list, err := s.patient("/v1/buyers/"+buyer+"/orders?limit=100", token)
				if items, _ := list.body["items"].([]any); err != nil || len(items) != n {
					t.Errorf("%s sees %d of %d orders: %v %s", buyer, len(items), n, err, list.raw)
				}
				byID, err := s.try("GET", "/v1/orders/"+id, nil)
				if err != nil || byID.status != http.StatusOK {
					t.Errorf("%v %d %s", err, byID.status, byID.raw)
				}
				sum, err := s.patient("/v1/sellers/seller-1/summary", token)
				if err != nil || number(sum.body["orders"]) < int64(n) {
					t.Errorf("%v: %s", err, sum.raw)
				}
			}
		})
	}
	wg.Wait()
	if out, code := tool(t, "verify", "--data", s.data); code != 0 {
		t.Errorf("verify: %d: %s", code, out)
	}
}

// importFile makes an import file of n small orders, some of two sellers.
func importFile(t *testing.T, n int) (path string, orders int, gross int64) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "orders.jsonl")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	statuses := []string{"delivered", "delivered", "shipped", "canceled", "invoiced"}
	lines := json.NewEncoder(f)
	for i := range n {
		at := time.Date(2017, 1, 1, 0, i, 0, 0, time.UTC)
		items := []obj{{
			"line": 1, "product_id": fmt.Sprintf("product-%d", i%7), "seller_id": "seller-1",
			"price_minor": 100 + i%7, "freight_minor": 10, "category": "toys",
		}}
		orders, gross = orders+1, gross+int64(110+i%7)
		if i%10 == 0 {
			items = append(items, obj{
				"line": 2, "product_id": "other", "seller_id": "seller-2", "price_minor": 50, "freight_minor": 5, "category": nil,
			})
			orders, gross = orders+1, gross+55
		}
		line := obj{
			"order_id": fmt.Sprintf("source-%d", i), "buyer_id": fmt.Sprintf("buyer-%d", i%20), "status": statuses[i%len(statuses)],
			"purchased_at": at, "approved_at": at.Add(time.Hour), "shipped_at": at.Add(2 * time.Hour), "delivered_at": at.Add(3 * time.Hour),
			"items": items,
		}
		if err := lines.Encode(line); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path, orders, gross
}

type importSays struct {
	SourceOrders int              `json:"source_orders"`
	Orders       int              `json:"orders"`
	ByStatus     map[string]int64 `json:"by_status"`
	Gross        struct {
		Amount int64 `json:"amount"`
	} `json:"gross"`
	Created   int `json:"created"`
	Unchanged int `json:"unchanged"`
	Oddities  []struct {
		OrderID string `json:"order_id"`
		Kind    string `json:"kind"`
	} `json:"oddities"`
}

// imports runs an import to its end and checks what it says of the orders.
func imports(t *testing.T, s *server, path string, orders int, gross int64) importSays {
	t.Helper()
	out, code := tool(t, "import", path, "--json", "--target", s.url)
	var r importSays
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("exit %d: %v: %s", code, err, out)
	}
	if r.Orders != orders || r.Gross.Amount != gross {
		t.Fatalf("%d orders of %d in all, want %d of %d: %s", r.Orders, r.Gross.Amount, orders, gross, out)
	}
	return r
}

func TestAnImportThatIsKilledIsFinishedByTheNext(t *testing.T) {
	t.Parallel()
	const source = 60
	data := t.TempDir()
	path, orders, gross := importFile(t, source)
	for round := range 4 {
		s := serve(t, data, "--allow-backdating")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := program(ctx, "import", path, "--json", "--concurrency", "4", "--target", s.url)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(60+150*round) * time.Millisecond) // wherever that finds it
		s.kill()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		cancel()
	}
	s := serve(t, data, "--allow-backdating")
	first := imports(t, s, path, orders, gross)
	again := imports(t, s, path, orders, gross)
	if again.Created != 0 || again.Unchanged != orders {
		t.Errorf("a repeat: %d created, %d unchanged", again.Created, again.Unchanged)
	}
	for status, n := range first.ByStatus {
		if again.ByStatus[status] != n {
			t.Errorf("a repeat changed %s from %d to %d", status, n, again.ByStatus[status])
		}
	}
	eventually(t, "no stock and no money is left on hold", func() bool {
		for i := range 20 {
			a, err := s.try("GET", fmt.Sprintf("/v1/accounts/buyer-%d", i), nil)
			if err != nil || !strings.Contains(a.raw, `"held":{"amount":0,`) {
				return false
			}
		}
		return true
	})
	if out, code := tool(t, "verify", "--data", data); code != 0 {
		t.Errorf("verify: %d: %s", code, out)
	}
	out, _ := tool(t, "events", "--data", data, "--json", "order")
	placed := map[string]int{}
	for line := range strings.Lines(out) {
		if strings.Contains(line, `"order.placed"`) {
			var e struct{ Stream string }
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			placed[e.Stream]++
		}
	}
	if len(placed) != orders {
		t.Errorf("%d orders stand, want %d", len(placed), orders)
	}
}

// TestRealOrders runs over the real file where it is named by the environment.
// TestAnImportThatIsKilledIsFinishedByTheNext has small data of its own.
func TestRealOrders(t *testing.T) {
	path := os.Getenv("CARTWRIGHT_OLIST")
	if path == "" {
		path = filepath.Join("..", "shared", "data", "olist-orders.jsonl")
	}
	if _, err := os.Stat(path); err != nil {
		small, orders, gross := importFile(t, 40)
		imports(t, serve(t, t.TempDir(), "--allow-backdating"), small, orders, gross)
		return
	}
	s := serve(t, t.TempDir(), "--allow-backdating")
	r := imports(t, s, path, 443, 6_452_374)
	want := map[string]int64{"completed": 430, "shipped": 6, "paid": 6, "refunded": 1}
	for status, n := range want {
		if r.ByStatus[status] != n {
			t.Errorf("%d are %s, want %d", r.ByStatus[status], status, n)
		}
	}
	kinds := map[string]int{}
	for _, o := range r.Oddities {
		kinds[o.Kind]++
	}
	if r.SourceOrders != 440 || len(kinds) != 2 || kinds[oddBackwards] != 11 || kinds[oddCategory] != 427 {
		t.Errorf("%d source orders, oddities %v", r.SourceOrders, kinds)
	}
	if again := imports(t, s, path, 443, 6_452_374); again.Created != 0 || again.Unchanged != 443 {
		t.Errorf("a repeat: %d created, %d unchanged", again.Created, again.Unchanged)
	}
	if out, code := tool(t, "verify", "--data", s.data); code != 0 {
		t.Errorf("verify: %d: %s", code, out)
	}
	eventually(t, "every seller is settled with", func() bool {
		out, code := tool(t, "reconcile", "--data", s.data, "--json")
		return code == 0 && !strings.Contains(out, `"under_way":[{`)
	})
}

func TestAnImportWithoutBackdatingWritesNothing(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir())
	path, _, _ := importFile(t, 3)
	if _, code := tool(t, "import", path, "--target", s.url); code != exitUsage {
		t.Errorf("exit %d", code)
	}
	if out, _ := tool(t, "events", "--data", s.data, "order", "inventory", "account", "offer"); out != "" {
		t.Errorf("it wrote %s", out)
	}
}

func TestEverythingIsThereAfterAKillAndAStop(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := serve(t, data)
	s.offer("a", "seller-1", 500, 10)
	s.fund(10_000)
	id := s.bought("a")
	s.kill()
	s = serve(t, data)
	if a := s.ask(http.StatusOK, "GET", "/v1/orders/"+id, nil); a.body["status"] != "paid" {
		t.Fatalf("got %s", a.raw)
	}
	eventually(t, "what was paid is settled", func() bool { return s.revision(id) == 4 })
	eventually(t, "the views have it", func() bool {
		return strings.Contains(s.ask(http.StatusOK, "GET", "/v1/sellers/seller-1/orders?status=paid", nil).raw, id)
	})
	s.stop()
	if out, code := tool(t, "verify", "--data", data); code != 0 {
		t.Errorf("verify of a folder nobody owns: %d: %s", code, out)
	}
	if out, code := tool(t, "events", "--data", data, "--stream", "order-"+id); code != 0 || strings.Count(out, "\n") != 4 {
		t.Errorf("events of a folder nobody owns: %d: %s", code, out)
	}
}

func TestBothAPIsRunAlone(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	w := startPart(t, "write", data)
	w.offer("a", "seller-1", 500, 10)
	id := w.orderID("buyer-1")
	w.ask(http.StatusCreated, "POST", "/v1/checkouts", checkoutOf(id, "buyer-1", "a"), key("c"))
	w.ask(http.StatusNotFound, "GET", "/v1/orders/"+id, nil)
	if realServers { // where the views are, another process is welcome
		beside := startPart(t, "read", data)
		beside.ask(http.StatusOK, "GET", "/v1/orders/"+id, nil)
		beside.stop()
	} else if _, code := tool(t, "read", "--data", data, "--listen", "127.0.0.1:0"); code != exitFailed {
		t.Errorf("read beside write on one folder: exit %d", code)
	}
	w.stop()
	r := startPart(t, "read", data)
	if a := r.ask(http.StatusOK, "GET", "/v1/orders/"+id, nil); a.body["status"] != "pending_payment" {
		t.Errorf("got %s", a.raw)
	}
	r.ask(http.StatusNotFound, "POST", "/v1/order-ids", obj{"buyer_id": "b"})
	r.stop()
}

func TestAnUnpaidOrderIsGivenUpByTheRunningServer(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir(), "--pay-within", "1s")
	s.offer("a", "seller-1", 500, 1)
	id := s.orderID("buyer-1")
	s.ask(http.StatusCreated, "POST", "/v1/checkouts", checkoutOf(id, "buyer-1", "a"), key("c"))
	eventually(t, "it is cancelled and its stock is free", func() bool {
		o := s.ask(http.StatusOK, "GET", "/v1/orders/"+id, nil)
		stock, err := s.try("GET", "/v1/inventory/a", nil)
		return err == nil && o.body["status"] == "cancelled" && number(stock.body["available"]) == 1
	})
}

func TestADriftedViewIsRepairedAndAReplayIsTakenBack(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := serve(t, data)
	s.offer("a", "seller-1", 500, 10)
	s.fund(10_000)
	id := s.bought("a")
	eventually(t, "what was paid is settled, and listed", func() bool {
		a, err := s.try("GET", "/v1/sellers/seller-1/orders?status=paid", nil)
		return err == nil && s.revision(id) == 4 && strings.Contains(a.raw, `"revision":4`)
	})
	s.stop()
	spoil(t, data, "order-"+id, 4)
	verify := []string{"verify", "--view", "orders", "--data", data}
	if out, code := tool(t, verify...); code != exitDifferences || !strings.Contains(out, id) {
		t.Errorf("a wrong document: exit %d: %s", code, out)
	}
	if out, code := tool(t, append(verify, "--repair")...); code != 0 || !strings.Contains(out, "repaired") {
		t.Errorf("its repair: exit %d: %s", code, out)
	}
	if out, code := tool(t, verify...); code != 0 {
		t.Errorf("after the repair: exit %d: %s", code, out)
	}
	for _, how := range []string{"--dry-run", "--json", "--rollback"} {
		if out, code := tool(t, "replay", "--view", "orders", "--data", data, how); code != 0 {
			t.Errorf("replay %s: exit %d: %s", how, code, out)
		}
		if out, code := tool(t, verify...); code != 0 {
			t.Errorf("after replay %s: exit %d: %s", how, code, out)
		}
	}
	if _, code := tool(t, "replay", "--view", "offers", "--rollback", "--data", data); code != exitFailed {
		t.Errorf("back to what never was: exit %d", code)
	}
	if _, code := tool(t, "replay", "--view", "orders", "--rollback", "--dry-run", "--data", data); code != exitUsage {
		t.Errorf("both at once: exit %d", code)
	}
}

// wrongOrder is a document that no stream makes.
func wrongOrder(stream string, at event.Revision) projections.Doc[projections.Order] {
	doc := projections.Doc[projections.Order]{Stream: stream, Revision: at}
	doc.Body.State.ID, doc.Body.State.Buyer, doc.Body.State.Seller = event.SubjectID(stream), "somebody", "else"
	doc.Body.State.Status, doc.Body.State.Currency = order.StatusPaid, "BRL"
	return doc
}
