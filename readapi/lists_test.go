package readapi_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/domain/account"
	"cartwright/domain/order"
)

// market is a world with some orders: five of a buyer's, two of them paid, one
// of these shipped, and one of another buyer's.
func market(t *testing.T) (w *world, ids []string) {
	t.Helper()
	w = newWorld(t)
	w.sells("s1", "tea:1", "绿茶 green tea", 100, "CNY")
	w.sells("s2", "pot:1", "紫砂壶 pot", 900, "CNY")
	w.funds(100_000)
	for _, sku := range []string{"tea:1", "tea:1", "pot:1", "tea:1", "pot:1"} {
		ids = append(ids, string(w.buys("123456", sku, 2)))
	}
	w.buys("654321", "tea:1", 1)
	for _, i := range []int{0, 1} {
		id := must2(parse(ids[i]))(t)
		w.pays(id)
		if i == 1 {
			w.does(id, order.Pack{Lines: []order.Part{{Line: 1, Quantity: 2}}, Carrier: "SF", Number: "1"})
		}
	}
	w.project()
	return w, ids
}

func TestABuyersOrdersNewestFirst(t *testing.T) {
	w, ids := market(t)
	got, next := w.list("/v1/buyers/123456/orders", "order_id")
	want := slices.Clone(ids)
	slices.Reverse(want)
	if diff := cmp.Diff(want, got); diff != "" || next != "" {
		t.Errorf("%s, next %q", diff, next)
	}
	if w.index.asked != 0 {
		t.Error("a buyer's own list needs no index")
	}
	if told := w.object("/v1/buyers/nobody/orders"); len(told["items"].([]any)) != 0 || told["next_cursor"] != nil {
		t.Errorf("an unknown buyer has %v", told)
	}
}

func TestPagesGoOnWhereTheLastOneEnded(t *testing.T) {
	w, ids := market(t)
	for _, path := range []string{"/v1/buyers/123456/orders?", "/v1/buyers/123456/orders?to=2030-01-01&"} {
		var all []string
		next := ""
		for range ids {
			page, more := w.list(path+"limit=2"+next, "order_id")
			all = append(all, page...)
			if more == "" {
				break
			}
			next = "&cursor=" + more
		}
		slices.Reverse(all)
		if diff := cmp.Diff(ids, all); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
	var entries []string
	next := ""
	for range 9 {
		page, more := w.list("/v1/accounts/123456/entries?limit=1"+next, "entry")
		entries = append(entries, page...)
		if more == "" {
			break
		}
		next = "&cursor=" + more
	}
	if diff := cmp.Diff([]string{"3", "2", "1"}, entries); diff != "" {
		t.Error(diff)
	}
}

func TestFilters(t *testing.T) {
	w, ids := market(t)
	for query, want := range map[string][]string{
		"buyers/123456/orders?status=paid":                                           {ids[0]},
		"buyers/123456/orders?status=shipped":                                        {ids[1]},
		"buyers/123456/orders?fulfilment=to_ship":                                    {ids[0]},
		"buyers/123456/orders?q=%E7%BB%BF%E8%8C%B6":                                  {ids[3], ids[1], ids[0]},
		"sellers/s2/orders":                                                          {ids[4], ids[2]},
		"sellers/s2/orders?q=pot&limit=1":                                            {ids[4]},
		"sellers/s1/orders?from=2031-01-01":                                          nil,
		"sellers/s1/orders?to=2026-07-01T12:00:00Z":                                  nil,
		"sellers/s2/orders?from=2026-07-01T12:00:00Z&to=2026-07-01T15:00:00%2B02:00": {ids[4], ids[2]},
		"sellers/s2/orders?status=completed":                                         nil,
		"sellers/nobody/orders":                                                      nil,
	} {
		if got, _ := w.list("/v1/"+query, "order_id"); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", query, got, want)
		}
	}
}

func TestAListLeavesNothingOutUnlessAskedTo(t *testing.T) {
	w, ids := market(t)
	w.does(must2(parse(ids[2]))(t), order.Cancel{Cancellation: order.Cancellation{Reason: order.ByBuyer}})
	w.clock.Add(3600)
	w.index.boundary = time.Unix(w.clock.Load(), 0)
	w.does(must2(parse(ids[4]))(t), order.Cancel{Cancellation: order.Cancellation{Reason: order.ByBuyer}})
	w.project()
	all := func(list ...int) (want []string) {
		for _, i := range list {
			want = append(want, ids[i])
		}
		return want
	}
	for query, want := range map[string][]string{
		"buyers/123456/orders":                               all(4, 3, 2, 1, 0),
		"buyers/123456/orders?scope=all":                     all(4, 3, 2, 1, 0),
		"buyers/123456/orders?scope=recent":                  all(4, 3, 1, 0),
		"buyers/123456/orders?scope=archive":                 all(2),
		"buyers/123456/orders?status=cancelled":              all(4, 2),
		"buyers/123456/orders?status=cancelled&scope=recent": all(4),
		"buyers/654321/orders?scope=archive":                 nil,
		"sellers/s2/orders":                                  all(4, 2),
		"sellers/s2/orders?scope=all":                        all(4, 2),
		"sellers/s2/orders?scope=recent":                     all(4),
		"sellers/s2/orders?scope=archive":                    all(2),
		"sellers/s2/orders?scope=archive&q=tea":              nil,
	} {
		if got, _ := w.list("/v1/"+query, "order_id"); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", query, got, want)
		}
	}
	if sold := w.object("/v1/sellers/s2/summary")["orders"]; sold != 2.0 {
		t.Errorf("a sum is of all orders, archived or not, but %v", sold)
	}
}

func TestOnlyAWholeListIsTheBuyersOwn(t *testing.T) {
	w, _ := market(t)
	for query, ofBuyers := range map[string]bool{"": true, "?scope=all": true, "?scope=recent": false, "?scope=archive": false, "?scope=all&status=paid": false} {
		w.buyers.asked, w.index.asked = 0, 0
		w.object("/v1/buyers/123456/orders" + query)
		if asked := (w.index.asked == 0); asked != ofBuyers {
			t.Errorf("%q: the index was asked %d times", query, w.index.asked)
		}
	}
	w.index.broken = errors.New("away")
	w.object("/v1/buyers/123456/orders?scope=all")
}

func TestACursorIsGoodForItsOwnQueryOnly(t *testing.T) {
	w, _ := market(t)
	list := "/v1/buyers/123456/orders"
	_, cursor := w.list(list+"?limit=2", "order_id")
	if got, _ := w.list(list+"?limit=100&cursor="+cursor, "order_id"); len(got) != 3 {
		t.Errorf("with another limit it is good, but gave %v", got)
	}
	if got, _ := w.list(list+"?scope=all&cursor="+cursor, "order_id"); len(got) != 3 {
		t.Errorf("all is what is listed anyway, but it gave %v", got)
	}
	_, ofRecent := w.list(list+"?scope=recent&limit=2", "order_id")
	if got, _ := w.list(list+"?scope=recent&cursor="+ofRecent, "order_id"); len(got) != 3 {
		t.Errorf("within its scope it is good, but gave %v", got)
	}
	_, ofEntries := w.list("/v1/accounts/123456/entries?limit=1", "entry")
	bad := map[string]string{
		"another buyer's":   "/v1/buyers/654321/orders?cursor=" + cursor,
		"a seller's":        "/v1/sellers/123456/orders?cursor=" + cursor,
		"with a filter":     list + "?status=paid&cursor=" + cursor,
		"with a time":       list + "?from=2026-01-01&cursor=" + cursor,
		"with a text":       list + "?q=tea&cursor=" + cursor,
		"with a scope":      list + "?scope=recent&cursor=" + cursor,
		"of another scope":  list + "?scope=archive&cursor=" + ofRecent,
		"without its scope": list + "?cursor=" + ofRecent,
		"of a statement":    list + "?cursor=" + ofEntries,
		"of a list":         "/v1/accounts/123456/entries?cursor=" + cursor,
		"of another's":      "/v1/accounts/platform.escrow.CNY/entries?cursor=" + ofEntries,
		"words":             list + "?cursor=next",
		"padded":            list + "?cursor=" + cursor + "==",
		"short":             list + "?cursor=" + cursor[:10],
		"cut":               list + "?cursor=" + cursor[:len(cursor)-4],
		"longer":            list + "?cursor=" + cursor + "AAAA",
		"empty but for mac": list + "?cursor=" + base64.RawURLEncoding.EncodeToString(make([]byte, 16)),
	}
	for i := range len(cursor) - 1 { // the last digit has spare bits, which Strict refuses or the MAC does
		other := "A"
		if cursor[i] == 'A' {
			other = "B"
		}
		bad["digit "+cursor[:i]] = list + "?cursor=" + cursor[:i] + other + cursor[i+1:]
	}
	for name, path := range bad {
		if rec := w.get(path); rec.Code != http.StatusBadRequest || !strings.Contains(rec.Body.String(), `"/problems/cursor_invalid"`) {
			t.Errorf("%s: got %d %s", name, rec.Code, rec.Body)
		}
	}
	w.cfg.CursorSecret = []byte("fedcba9876543210")
	w.mount()
	w.refused(w.get(list+"?cursor="+cursor), http.StatusBadRequest, "cursor_invalid")
}

func TestBadQueriesAreRefused(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("x", 201)
	for path, slug := range map[string]string{
		"/v1/orders/123":                                    "invalid_order_id",
		"/v1/orders/059839200000012345x":                    "invalid_order_id",
		"/v1/skus/a%20b":                                    "invalid_sku",
		"/v1/inventory/" + long:                             "invalid_sku",
		"/v1/accounts/a@b":                                  "invalid_id",
		"/v1/buyers/a%20b/orders":                           "invalid_id",
		"/v1/sellers/%E8%8C%B6/orders":                      "invalid_id",
		"/v1/orders/0598392000000123456?full=yes":           "unknown_parameter",
		"/v1/skus/a?x":                                      "unknown_parameter",
		"/v1/buyers/1/orders?stauts=paid":                   "unknown_parameter",
		"/v1/sellers/1/summary?limit=1":                     "unknown_parameter",
		"/v1/accounts/1/entries?status=paid":                "unknown_parameter",
		"/v1/buyers/1/orders?limit=0":                       "invalid_parameter",
		"/v1/buyers/1/orders?limit=101":                     "invalid_parameter",
		"/v1/buyers/1/orders?limit=-1":                      "invalid_parameter",
		"/v1/buyers/1/orders?limit=1e1":                     "invalid_parameter",
		"/v1/buyers/1/orders?limit=010":                     "invalid_parameter",
		"/v1/buyers/1/orders?limit=":                        "invalid_parameter",
		"/v1/buyers/1/orders?limit=1&limit=2":               "invalid_parameter",
		"/v1/buyers/1/orders?status=Paid":                   "invalid_parameter",
		"/v1/buyers/1/orders?fulfilment=shipped":            "invalid_parameter",
		"/v1/buyers/1/orders?scope=hot":                     "invalid_parameter",
		"/v1/buyers/1/orders?scope=":                        "invalid_parameter",
		"/v1/buyers/1/orders?scope=all&scope=recent":        "invalid_parameter",
		"/v1/sellers/1/orders?scope=Archive":                "invalid_parameter",
		"/v1/sellers/1/summary?scope=all":                   "unknown_parameter",
		"/v1/orders/0598392000000123456?scope=archive":      "unknown_parameter",
		"/v1/buyers/1/orders?from=yesterday":                "invalid_parameter",
		"/v1/buyers/1/orders?to=2018-02-30":                 "invalid_parameter",
		"/v1/buyers/1/orders?from=2018-01-02&to=2018-01-01": "invalid_parameter",
		"/v1/buyers/1/orders?q=" + long:                     "invalid_parameter",
		"/v1/buyers/1/orders?q=%FF":                         "invalid_parameter",
		"/v1/buyers/1/orders?q=%00":                         "invalid_parameter",
		"/v1/buyers/1/orders?q=%zz":                         "invalid_parameter",
		"/v1/sellers/1/summary?interval=week":               "invalid_parameter",
		"/v1/sellers/1/summary?currency=XXX":                "invalid_parameter",
		"/v1/accounts/1/entries?limit=x":                    "invalid_parameter",
		"/v1/accounts/1/entries?cursor=":                    "invalid_parameter",
		"/v1/accounts/seller.1.XXX":                         "unknown_currency",
		"/v1/accounts/seller.1":                             "invalid_id",
		"/v1/accounts/seller.1.BRL/entries?limit=0":         "invalid_parameter",
		"/v1/accounts/a@b/statement.csv":                    "invalid_id",
		"/v1/accounts/1/statement.csv?limit=1":              "unknown_parameter",
		"/v1/sellers/1/settlements":                         "invalid_parameter",
		"/v1/sellers/1/settlements?currency=":               "invalid_parameter",
		"/v1/sellers/1/settlements?currency=brl":            "invalid_parameter",
		"/v1/sellers/1/settlements?currency=BRL&limit=0":    "invalid_parameter",
		"/v1/sellers/1/settlements?currency=BRL&cursor=x":   "cursor_invalid",
		"/v1/sellers/1/settlements?currency=BRL&status=x":   "unknown_parameter",
		"/v1/sellers/a@b/settlements?currency=BRL":          "invalid_id",
		"/v1/sellers/1/settlements.csv":                     "invalid_parameter",
		"/v1/sellers/1/settlements.csv?currency=X":          "invalid_parameter",
		"/v1/sellers/1/settlements.csv?currency=BRL&limit=": "unknown_parameter",
		"/v1/payments/a@b":                                  "invalid_id",
		"/v1/payments/1?full=yes":                           "unknown_parameter",
		"/v1/checkouts/1/payments":                          "invalid_order_id",
		"/v1/checkouts/0598392000000123456/payments?x=1":    "unknown_parameter",
	} {
		w.refused(w.get(path), http.StatusBadRequest, slug)
	}
	w.refused(w.get("/v1/skus/a", "Cartwright-Token", "nonsense"), http.StatusBadRequest, "token_invalid")
	if w.buyers.asked+w.index.asked+w.stock.asked+w.offers.asked+w.accounts.asked+w.payments.asked != 0 {
		t.Error("a view was asked")
	}
	doc := w.refused(w.get("/v1/buyers/1/orders?limit=0&status=x&from=y"), http.StatusBadRequest, "invalid_parameter")
	var named []string
	for _, f := range doc.Errors {
		named = append(named, f.Pointer)
	}
	if diff := cmp.Diff([]string{"query:status", "query:limit", "query:from"}, named); diff != "" {
		t.Error(diff)
	}
}

func TestASellersSummary(t *testing.T) {
	w, _ := market(t)
	zero := map[string]any{"pending_payment": 0.0, "paid": 0.0, "shipped": 0.0, "completed": 0.0, "cancelled": 0.0, "refunded": 0.0}
	with := func(counts map[string]any) map[string]any {
		all := maps.Clone(zero)
		maps.Copy(all, counts)
		return all
	}
	cny := func(amount float64) map[string]any { return map[string]any{"amount": amount, "currency": "CNY"} }
	want := map[string]any{
		"seller_id": "s1", "currency": "CNY", "orders": 4.0, "units": 7.0, "gross": cny(735), "refunded": cny(0),
		"by_status":        with(map[string]any{"pending_payment": 2.0, "paid": 1.0, "shipped": 1.0}),
		"other_currencies": []any{},
	}
	if diff := cmp.Diff(want, w.object("/v1/sellers/s1/summary")); diff != "" {
		t.Error(diff)
	}
	nothing := map[string]any{"amount": 0.0, "currency": nil}
	if diff := cmp.Diff(map[string]any{
		"seller_id": "nobody", "currency": nil, "orders": 0.0, "units": 0.0, "gross": nothing, "refunded": nothing,
		"by_status": zero, "other_currencies": []any{},
	}, w.object("/v1/sellers/nobody/summary")); diff != "" {
		t.Errorf("an unknown seller: %s", diff)
	}
	if got := w.object("/v1/sellers/s1/summary?to=2020-01-01&interval=day")["buckets"]; !cmp.Equal(got, []any{}) {
		t.Errorf("of no orders there are no buckets, but %v", got)
	}
	if told := w.object("/v1/sellers/s2/summary"); told["buckets"] != nil {
		t.Errorf("nobody asked for intervals, but %v", told)
	}
	w.clock.Add(10 * 24 * 3600)
	w.buys("123456", "pot:1", 2)
	w.project()
	for interval, want := range map[string][]string{
		"day":   {"2026-07-01T00:00:00Z", "2026-07-01T00:00:00Z", "2026-07-11T00:00:00Z"},
		"month": {"2026-07-01T00:00:00Z", "2026-07-01T00:00:00Z", "2026-07-01T00:00:00Z"},
	} {
		var starts []string
		buckets, _ := w.object("/v1/sellers/s2/summary?interval=" + interval)["buckets"].([]any)
		for _, b := range buckets {
			bucket, _ := b.(map[string]any)
			starts = append(starts, fmt.Sprint(bucket["start"]))
			if bucket["orders"] != 1.0 || bucket["units"] != 2.0 || bucket["currency"] != "CNY" || !cmp.Equal(bucket["gross"], any(cny(1810))) {
				t.Errorf("by %s: got %v", interval, bucket)
			}
		}
		if slices.Sort(starts); !slices.Equal(starts, want) {
			t.Errorf("by %s: got %v", interval, starts)
		}
	}
}

func TestASummaryIsInOneCurrency(t *testing.T) {
	w, _ := market(t)
	w.sells("s1", "tea:us", "Tea", 50, "USD")
	w.buys("123456", "tea:us", 1)
	w.project()
	for query, want := range map[string][]any{
		"":              {"CNY", 4.0, "USD", 1.0},
		"?currency=USD": {"USD", 1.0, "CNY", 4.0},
	} {
		told := w.object("/v1/sellers/s1/summary" + query)
		others, _ := told["other_currencies"].([]any)
		if len(others) != 1 {
			t.Fatalf("got %v", told)
		}
		other, _ := others[0].(map[string]any)
		if got := []any{told["currency"], told["orders"], other["currency"], other["orders"]}; !cmp.Equal(got, want) {
			t.Errorf("%s: got %v", query, got)
		}
	}
	told := w.object("/v1/sellers/s1/summary?currency=JPY")
	if gross := told["gross"]; told["orders"] != 0.0 || !cmp.Equal(gross, any(map[string]any{"amount": 0.0, "currency": "JPY"})) {
		t.Errorf("of a currency it has not sold in: %v", told)
	}
}

func TestThingsByTheLetter(t *testing.T) {
	w, _ := market(t)
	for path, want := range map[string]string{
		"/v1/skus/tea:1": `{"sku":"tea:1","seller_id":"s1","title":"绿茶 green tea","specs":{},"unit_price":{"amount":100,"currency":"CNY"},` +
			`"freight":{"amount":5,"currency":"CNY"},"on_sale":true,"offer":`,
		"/v1/inventory/tea:1": `{"sku":"tea:1","on_hand":1000,"held":3,"allocated":4,"unavailable":0,"safety":0,"backorder_limit":0,"available":993,"changed_at":"2026-07-01T12:`,
		"/v1/accounts/123456": `{"account_id":"123456","currency":"CNY","balance":{"amount":99580,"currency":"CNY"},"held":{"amount":0,"currency":"CNY"},` +
			`"available":{"amount":99580,"currency":"CNY"},"entries":3,"opened_at":"2026-07-01T12:`,
		"/v1/accounts/123456/entries": `{"items":[{"entry":3,"kind":"capture","amount":{"amount":-210,"currency":"CNY"},"balance":{"amount":99580,"currency":"CNY"},"journal":`,
	} {
		rec := w.get(path)
		if rec.Code != http.StatusOK || !strings.HasPrefix(rec.Body.String(), want) {
			t.Errorf("%s: got %d\n%swant\n%s", path, rec.Code, rec.Body, want)
		}
		if got := rec.Header().Get("Cache-Control"); got != "private, no-cache" {
			t.Errorf("%s: Cache-Control %q", path, got)
		}
	}
	for _, path := range []string{"/v1/skus/none", "/v1/inventory/none"} {
		w.refused(w.get(path), http.StatusNotFound, "unknown_sku")
	}
	for _, path := range []string{"/v1/accounts/none", "/v1/accounts/none/entries", "/v1/accounts/none/statement.csv"} {
		w.refused(w.get(path), http.StatusNotFound, "unknown_account")
	}
	escrow := "/v1/accounts/" + url.PathEscape(account.Escrow("CNY"))
	if got, _ := w.list(escrow+"/entries", "counterparty"); !slices.Contains(got, "123456") {
		t.Errorf("the other leg of a payment: %v", got)
	}
}
