package readapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/domain/event"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/personal"
	"cartwright/infra/keyring"
	"cartwright/projections"
	"cartwright/readapi"
)

// TestAnOrderByTheLetter pins down what an order looks like.
func TestAnOrderByTheLetter(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "绿茶", 100, "CNY")
	w.funds(10_000)
	id := w.buys("123456", "tea:1", 3)
	w.pays(id)
	w.does(id, order.Pack{Lines: []order.Part{{Line: 1, Quantity: 2}}, Carrier: "SF", Number: "123"})
	at := w.does(id, order.Refund{Lines: []order.RefundRequest{{Line: 1, Quantity: 1}}, Reason: "late", By: "s1"})
	w.project()
	got := w.object("/v1/orders/" + string(id))
	offer := w.object("/v1/skus/tea:1")["offer"]
	for _, name := range []string{"placed_at", "payment_deadline", "paid_at", "shipped_at", "changed_at"} {
		text, _ := got[name].(string)
		if at, err := time.Parse(time.RFC3339, text); err != nil || !strings.HasSuffix(text, "Z") || at.Before(today) || at.After(today.Add(time.Hour)) {
			t.Errorf("%s is %v", name, got[name])
		}
		delete(got, name)
	}
	var want map[string]any
	text := `{
		"order_id": "ID", "checkout_id": "ID", "buyer_id": "123456", "seller_id": "s1",
		"status": "shipped", "payment": "partially_refunded", "fulfilment": "shipped",
		"total": {"amount":315,"currency":"CNY"}, "goods": {"amount":300,"currency":"CNY"}, "freight": {"amount":15,"currency":"CNY"},
		"paid": {"amount":315,"currency":"CNY"}, "refunded": {"amount":105,"currency":"CNY"}, "method": "balance",
		"lines": [{
			"line":1,"sku":"tea:1","title":"绿茶","offer":"OFFER","quantity":3,"unit_price":{"amount":100,"currency":"CNY"},
			"freight":{"amount":5,"currency":"CNY"},"total":{"amount":315,"currency":"CNY"},
			"packed":0,"shipped":2,"refunded_unshipped":1,"returned":0,"refunded":{"amount":105,"currency":"CNY"}
		}],
		"parcels": [{"parcel":1,"status":"shipped","lines":[{"line":1,"quantity":2}],"waybill":{"version":1,"carrier":"SF","number":"123"}}],
		"refunds": [{"refund":1,"amount":{"amount":105,"currency":"CNY"},"lines":[{"line":1,"unshipped":1,"returned":0,"amount":{"amount":105,"currency":"CNY"},"freight":{"amount":5,"currency":"CNY"}}],
			"reason":"late","by":"s1","restock":false,"settled":false,"from_seller":false}],
		"cancellation": null, "revision": REVISION,
		"address": {"name":"李雷","line1":"1 Road","city":"Beijing","country":"CN"}
	}`
	rev := must2(json.Marshal(at))(t)
	digest, _ := offer.(string)
	text = strings.NewReplacer("ID", string(id), "OFFER", digest, "REVISION", string(rev)).Replace(text)
	if err := json.Unmarshal([]byte(text), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAnOrderTellsWhenItWasClosedNotWhereItIsKept(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	w.funds(10_000)
	id := w.buys("123456", "tea:1", 1)
	path := "/v1/orders/" + string(id)
	if told := w.object(path); told["closed_at"] != nil {
		t.Errorf("it is open, and closed at %v", told["closed_at"])
	}
	w.pays(id)
	w.does(id, order.Pack{Lines: []order.Part{{Line: 1, Quantity: 1}}, Carrier: "SF", Number: "1"})
	w.does(id, order.Complete{By: "123456"})
	w.project()
	at := w.object(path)["completed_at"]
	w.does(id, order.Refund{Lines: []order.RefundRequest{{Line: 1, Quantity: 1}}, Reason: "broken", By: "s1"})
	w.project()
	w.index.boundary = today.AddDate(1, 0, 0)
	kept := w.object(path)
	if kept["closed_at"] != at || at == nil || kept["changed_at"] == at {
		t.Errorf("completed at %v, then refunded: closed at %v, changed at %v", at, kept["closed_at"], kept["changed_at"])
	}
	for name := range kept {
		if strings.Contains(name, "archive") || strings.Contains(name, "scope") {
			t.Errorf("it says %s: %v", name, kept[name])
		}
	}
	for _, list := range []string{"/v1/buyers/123456/orders", "/v1/sellers/s1/orders?scope=archive"} {
		if got, _ := w.list(list, "closed_at"); !slices.Equal(got, []string{fmt.Sprint(at)}) {
			t.Errorf("%s: closed at %v", list, got)
		}
	}
}

func TestAnOrderIsFoldedWhereItsViewIsBehind(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	w.funds(10_000)
	id := w.buys("123456", "tea:1", 1)
	path := "/v1/orders/" + string(id)
	if got := w.object(path)["status"]; got != "pending_payment" {
		t.Errorf("no view has it, and it is %v", got)
	}
	w.project()
	w.pays(id)
	if got := w.object(path)["status"]; got != "pending_payment" {
		t.Errorf("a reader who has seen nothing gets what the view has, not %v", got)
	}
	told := w.object(path, seen("order-"+string(id), 2)...)
	if told["status"] != "paid" || told["address"] == nil {
		t.Errorf("a reader who knows of the payment gets %v", told)
	}
	if got := w.object(path, seen("inventory-tea:1", 99)...)["status"]; got != "pending_payment" {
		t.Errorf("another stream does not matter to it, but it is %v", got)
	}
	w.refused(w.get(path, seen("order-"+string(id), 99)...), http.StatusServiceUnavailable, "not_caught_up")
	w.refused(w.get("/v1/orders/0598392000009123456"), http.StatusNotFound, "unknown_order")
}

func TestAnOrderIsServedWhileTheViewsAreAway(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	w.funds(10_000)
	id := w.buys("123456", "tea:1", 1)
	w.project()
	w.pays(id)
	away := fmt.Errorf("connection refused by 10.1.2.3: %w", projections.ErrUnavailable)
	w.buyers.broken, w.index.broken, w.stock.broken, w.offers.broken, w.accounts.broken, w.payments.broken = away, away, away, away, away, away
	if got := w.object("/v1/orders/" + string(id))["status"]; got != "paid" {
		t.Errorf("the order's stream says paid, and the answer %v", got)
	}
	w.refused(w.get("/v1/orders/0598392000009123456"), http.StatusNotFound, "unknown_order")
	for _, path := range []string{
		"/v1/buyers/123456/orders", "/v1/buyers/123456/orders?status=paid", "/v1/sellers/s1/orders", "/v1/sellers/s1/summary",
		"/v1/inventory/tea:1", "/v1/skus/tea:1", "/v1/accounts/123456", "/v1/accounts/123456/entries",
		"/v1/accounts/123456/statement.csv", "/v1/sellers/s1/settlements?currency=CNY", "/v1/sellers/s1/settlements.csv?currency=CNY",
		"/v1/payments/1", "/v1/checkouts/" + string(id) + "/payments",
	} {
		for _, header := range [][]string{nil, seen("order-"+string(id), 2)} {
			rec := w.get(path, header...)
			w.refused(rec, http.StatusServiceUnavailable, "views_unavailable")
			if rec.Header().Get("Retry-After") == "" || strings.Contains(rec.Body.String(), "10.1.2.3") {
				t.Errorf("%s: %v %s", path, rec.Header(), rec.Body)
			}
		}
	}
	w.index.broken = errors.New("a fault of ours")
	w.refused(w.get("/v1/sellers/s1/orders"), http.StatusInternalServerError, "internal")
}

func TestAnOrderIsNeverOlderThanThisProcessWroteIt(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	w.funds(10_000)
	id := w.buys("123456", "tea:1", 1)
	w.project()
	w.pays(id)
	w.cfg.Newest = func(stream string) event.Revision {
		if stream == "order-"+string(id) {
			return 2
		}
		return 0
	}
	w.mount()
	if got := w.object("/v1/orders/" + string(id))["status"]; got != "paid" {
		t.Errorf("without a token it is %v", got)
	}
}

func TestAnAbandonedAttemptIsNoOrder(t *testing.T) {
	w := newWorld(t)
	const id = "0598392000000123456"
	w.does(id, order.Abandon{Attempt: "a1"})
	w.refused(w.get("/v1/orders/"+id), http.StatusNotFound, "unknown_order")
	w.project()
	w.refused(w.get("/v1/orders/"+id), http.StatusNotFound, "unknown_order")
}

func TestACorruptOrderIsReportedAlone(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	bad, good := w.buys("123456", "tea:1", 1), w.buys("123456", "tea:1", 1)
	w.spoil(bad, 1)
	for _, state := range []string{"before", "after"} {
		rec := w.get("/v1/orders/" + string(bad))
		w.refused(rec, http.StatusInternalServerError, "history_corrupt")
		if strings.Contains(rec.Body.String(), "cannot follow") {
			t.Errorf("the reason is not for the reader: %s", rec.Body)
		}
		for _, part := range []string{"order-" + string(bad), "revision 2", "cannot follow"} {
			if !strings.Contains(w.log.String(), part) {
				t.Errorf("%s the views saw it, the log does not say %q: %s", state, part, &w.log)
			}
		}
		if got := w.object("/v1/orders/" + string(good))["order_id"]; got != string(good) {
			t.Errorf("the other order: %v", got)
		}
		w.project()
		w.log.Reset()
	}
	for _, list := range []string{"/v1/buyers/123456/orders", "/v1/buyers/123456/orders?scope=recent", "/v1/sellers/s1/orders?scope=archive", "/v1/sellers/s1/summary"} {
		rec := w.get(list, seen("order-"+string(bad), 2)...)
		doc := w.refused(rec, http.StatusServiceUnavailable, "stream_parked")
		if !strings.Contains(doc.Detail, "operator has been told") || rec.Header().Get("Retry-After") != "60" {
			t.Errorf("%s: %s %s", list, rec.Header(), doc.Detail)
		}
	}
	if got, _ := w.list("/v1/buyers/123456/orders", "order_id", seen("order-"+string(good), 1)...); len(got) != 2 {
		t.Errorf("who does not ask for it is served: %v", got)
	}
}

func TestADroppedStreamIsAnsweredAsAParkedOne(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	bad := "order-" + string(w.buys("123456", "tea:1", 1))
	w.project()
	w.index.parked[bad] = projections.Parked{View: "orders", Stream: bad, Revision: 2, Dropped: &projections.Dropped{Reason: "hunter2", By: "ops"}}
	doc := w.refused(w.get("/v1/sellers/s1/orders", seen(bad, 2)...), http.StatusServiceUnavailable, "stream_parked")
	if !strings.Contains(doc.Detail, "given it up") || strings.Contains(doc.Detail, "hunter2") {
		t.Errorf("it says %q", doc.Detail)
	}
}

func TestAnErasedBuyersAddressIsNull(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	id := w.buys("123456", "tea:1", 1)
	if err := w.store.Tombstone(t.Context(), "key-123456"); err != nil {
		t.Fatal(err)
	}
	fresh := must2(keyring.New(w.store, make([]byte, personal.KeySize)))(t) // the old ring remembers the key for a minute
	w.cfg.Keys = fresh
	w.mount()
	told := w.object("/v1/orders/" + string(id))
	if address, there := told["address"]; address != nil || !there {
		t.Errorf("the address is %v", address)
	}
	w.cfg.Keys = brokenKeys{}
	w.mount()
	w.refused(w.get("/v1/orders/"+string(id)), http.StatusInternalServerError, "internal")
}

type brokenKeys struct{}

func (brokenKeys) Address(context.Context, string, []byte) (personal.Address, error) {
	return personal.Address{}, errors.New("wrapped by another master key")
}

func TestAListHasNoAddresses(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	w.buys("123456", "tea:1", 1)
	w.project()
	for _, path := range []string{"/v1/buyers/123456/orders", "/v1/sellers/s1/orders"} {
		rec := w.get(path)
		if body := rec.Body.String(); strings.Contains(body, "address") || strings.Contains(body, "李雷") {
			t.Errorf("%s: %s", path, body)
		}
		if got, _ := w.list(path, "buyer_id"); !slices.Equal(got, []string{"123456"}) {
			t.Errorf("%s: there is nothing to leave out of %v", path, got)
		}
	}
}

func TestWhoHasItAlreadyIsToldSo(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	w.funds(10_000)
	id := w.buys("123456", "tea:1", 1)
	w.project()
	for _, path := range []string{"/v1/orders/" + string(id), "/v1/skus/tea:1", "/v1/inventory/tea:1", "/v1/accounts/123456"} {
		tag := w.get(path).Header().Get("ETag")
		rec := w.get(path, "If-None-Match", `"v99", `+tag)
		if tag == "" || rec.Code != http.StatusNotModified || rec.Body.Len() != 0 || rec.Header().Get("ETag") != tag {
			t.Errorf("%s at %q: got %d %s", path, tag, rec.Code, rec.Body)
		}
		if rec = w.get(path, "If-None-Match", `"v99"`); rec.Code != http.StatusOK {
			t.Errorf("%s: got %d", path, rec.Code)
		}
	}
	if tag := w.get("/v1/sellers/s1/orders").Header().Get("ETag"); tag != "" {
		t.Errorf("a list has no version, but %s", tag)
	}
}

func TestAQueryWaitsForWhatItsTokenNames(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	w.funds(10_000)
	id := w.buys("123456", "tea:1", 1)
	type told struct {
		view, outcome string
		took          time.Duration
	}
	waits := make(chan told, 1)
	w.cfg.Waited = func(view string, took time.Duration, outcome string) { waits <- told{view, outcome, took} }
	for path, view := range waiting {
		header := tokenFor(view, id)
		w.cfg.Wait, w.cfg.Flushed = 5*time.Millisecond, nil
		w.forget()
		w.mount()
		rec := w.get(path, header...)
		w.refused(rec, http.StatusServiceUnavailable, "not_caught_up")
		if rec.Header().Get("Retry-After") != "1" {
			t.Errorf("%s: when to come again? %v", path, rec.Header())
		}
		if got := <-waits; got.view != view || got.outcome != readapi.Late || got.took < w.cfg.Wait {
			t.Errorf("%s, late: told of %v", path, got)
		}
		w.cfg.Wait = time.Minute
		looked, stored := make(chan struct{}), make(chan struct{})
		w.cfg.Flushed = func() <-chan struct{} {
			select {
			case looked <- struct{}{}:
			case <-stored:
			}
			return stored
		}
		w.mount()
		answered := make(chan int)
		go func() { answered <- w.get(path, header...).Code }()
		<-looked
		<-looked // it has looked, in vain, and is about to look again
		w.project()
		close(stored)
		if code := <-answered; code != http.StatusOK {
			t.Errorf("%s: in time, but answered with %d", path, code)
		}
		if got := <-waits; got.view != view || got.outcome != readapi.Met || got.took <= 0 {
			t.Errorf("%s, in time: told of %v", path, got)
		}
	}
}

// waiting are queries that wait for tokens, and the views they wait for.
var waiting = map[string]string{
	"/v1/buyers/123456/orders":               projections.BuyersView().Name,
	"/v1/buyers/123456/orders?scope=all":     projections.BuyersView().Name,
	"/v1/buyers/123456/orders?scope=recent":  projections.OrdersView().Name,
	"/v1/buyers/123456/orders?scope=archive": projections.OrdersView().Name,
	"/v1/buyers/123456/orders?status=paid":   projections.OrdersView().Name,
	"/v1/sellers/s1/orders":                  projections.OrdersView().Name,
	"/v1/sellers/s1/orders?scope=recent":     projections.OrdersView().Name,
	"/v1/sellers/s1/orders?scope=archive":    projections.OrdersView().Name,
	"/v1/sellers/s1/summary":                 projections.OrdersView().Name,
	"/v1/skus/tea:1":                         projections.OffersView().Name,
	"/v1/inventory/tea:1":                    projections.StockView().Name,
	"/v1/accounts/123456":                    projections.AccountsView().Name,
	"/v1/accounts/123456/entries":            projections.AccountsView().Name,
	"/v1/accounts/123456/statement.csv":      projections.AccountsView().Name,
}

// tokenFor names something that a view has once it has seen the shop's beginnings.
func tokenFor(view string, id orderid.ID) []string {
	switch view {
	case projections.OffersView().Name:
		return seen("offer-tea:1", 1)
	case projections.StockView().Name:
		return seen("inventory-tea:1", 2)
	case projections.AccountsView().Name:
		return seen("account-123456", 2)
	default:
		return seen("order-"+string(id), 1)
	}
}

func TestWaitsAreToldOnce(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	w.funds(10_000)
	id := w.buys("123456", "tea:1", 1)
	stream := "order-" + string(id)
	w.project()
	w.pays(id)
	w.index.parked[stream] = projections.Parked{View: "orders", Stream: stream, Revision: 2}
	var told []string
	w.cfg.Waited = func(view string, _ time.Duration, outcome string) { told = append(told, view+" "+outcome) }
	w.mount()
	one := "/v1/orders/" + string(id)
	for _, tt := range []struct {
		path   string
		header []string
		want   []string
	}{
		{"/v1/sellers/s1/orders", nil, nil},
		{"/v1/sellers/s1/orders", seen("inventory-tea:1", 99), nil}, // nothing that it follows
		{"/v1/sellers/s1/orders", seen(stream, 1), []string{"orders met"}},
		{"/v1/sellers/s1/orders", seen(stream, 2), []string{"orders parked"}},
		{"/v1/sellers/s1/orders?limit=x", seen(stream, 1), nil},
		{one, nil, nil},
		{one, seen(stream, 1), nil},
		{one, seen(stream, 2), []string{"buyers folded"}},
		{one, seen(stream, 99), []string{"buyers late"}},
		{"/v1/orders/0598392000009123456", nil, []string{"buyers folded"}}, // asked of the log, in vain
	} {
		told = nil
		if w.get(tt.path, tt.header...); !slices.Equal(told, tt.want) {
			t.Errorf("%s with %v: told %v, want %v", tt.path, tt.header, told, tt.want)
		}
	}
	w.index.broken = projections.ErrUnavailable
	told = nil
	if w.get("/v1/sellers/s1/orders", seen(stream, 1)...); told != nil {
		t.Errorf("an engine that is away says nothing of how late it is, but %v", told)
	}
	w.cfg.Waited = nil
	w.mount()
	w.object(one, seen(stream, 2)...)
}

func TestSeveralTokensAreAsGoodAsOne(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	id := w.buys("123456", "tea:1", 1)
	path := "/v1/sellers/s1/orders"
	w.project()
	one, two := seen("order-"+string(id), 1), seen("order-"+string(id), 9)
	for _, header := range [][]string{
		slices.Concat(one, two), slices.Concat(two, one), {one[0], one[1] + ", " + two[1]},
	} {
		w.refused(w.get(path, header...), http.StatusServiceUnavailable, "not_caught_up")
	}
	if got, _ := w.list(path, "order_id", slices.Concat(one, one)...); len(got) != 1 {
		t.Errorf("got %v", got)
	}
	w.refused(w.get(path, one[0], one[1]+"x"), http.StatusBadRequest, "token_invalid")
}

func TestAReaderWhoGoesAwayIsWaitedForNoLonger(t *testing.T) {
	w := newWorld(t)
	w.cfg.Wait = time.Hour
	w.mount()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	req := must2(http.NewRequestWithContext(ctx, http.MethodGet, "/v1/skus/tea:1", http.NoBody))(t)
	req.Header.Set("Cartwright-Token", seen("offer-tea:1", 1)[1])
	rec := newRecorder()
	w.api.ServeHTTP(rec, req)
	w.refused(rec, http.StatusServiceUnavailable, "timeout")
}

func TestAViewThatFailsIsOurFault(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	id := w.buys("123456", "tea:1", 1)
	w.project()
	broken := errors.New("hunter2")
	w.buyers.broken, w.index.broken, w.stock.broken, w.offers.broken, w.accounts.broken, w.payments.broken = broken, broken, broken, broken, broken, broken
	for _, path := range []string{
		"/v1/orders/" + string(id), "/v1/buyers/123456/orders", "/v1/sellers/s1/orders", "/v1/sellers/s1/summary",
		"/v1/skus/tea:1", "/v1/inventory/tea:1", "/v1/accounts/123456", "/v1/accounts/123456/entries",
		"/v1/accounts/123456/statement.csv", "/v1/sellers/s1/settlements?currency=CNY", "/v1/sellers/s1/settlements.csv?currency=CNY",
		"/v1/payments/1", "/v1/checkouts/" + string(id) + "/payments",
	} {
		w.log.Reset()
		rec := w.get(path)
		w.refused(rec, http.StatusInternalServerError, "internal")
		if strings.Contains(rec.Body.String(), "hunter2") || !strings.Contains(w.log.String(), "hunter2") {
			t.Errorf("%s: the caller is told %s, the log %s", path, rec.Body, &w.log)
		}
	}
}

func TestWithoutItsPartsThereIsNoAPI(t *testing.T) {
	w := newWorld(t)
	for name, spoil := range map[string]func(*readapi.Config){
		"a log":      func(c *readapi.Config) { c.Log = nil },
		"a secret":   func(c *readapi.Config) { c.CursorSecret = c.CursorSecret[:15] },
		"offers":     func(c *readapi.Config) { c.Offers = nil },
		"buyers":     func(c *readapi.Config) { c.Buyers = nil },
		"an index":   func(c *readapi.Config) { c.Index = nil },
		"stock":      func(c *readapi.Config) { c.Stock = nil },
		"accounts":   func(c *readapi.Config) { c.Accounts = nil },
		"payments":   func(c *readapi.Config) { c.Payments = nil },
		"a store":    func(c *readapi.Config) { c.Store = nil },
		"events":     func(c *readapi.Config) { c.Events = nil },
		"keys":       func(c *readapi.Config) { c.Keys = nil },
		"the erased": func(c *readapi.Config) { c.Erased = nil },
	} {
		cfg := w.cfg
		spoil(&cfg)
		if err := readapi.Routes(newEngine(t), cfg); err == nil {
			t.Errorf("without %s there should have been an error", name)
		}
	}
}
