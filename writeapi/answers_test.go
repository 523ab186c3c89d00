package writeapi_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/catalog"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/payment"
	"cartwright/domain/personal"
	"cartwright/infra/token"
	"cartwright/writeapi"
)

var liLei = personal.Address{
	Name: "李雷", Phone: "+86 10 1234", Line1: "1 Road", City: "Beijing", PostalCode: "100000", Country: "CN",
}

func TestEveryRouteAsksForItsCommand(t *testing.T) {
	five := money.Money{Amount: 5, Currency: "CNY"}
	for name, tt := range map[string]struct {
		request
		method, id string
		with       any
	}{
		"draw":     {good["draw"], "DrawOrderID", "123456", nil},
		"checkout": {good["checkout"], "Checkout", anOrder, commands.Checkout{Order: anOrder, Buyer: "123456", Items: []commands.Item{{SKU: "tea:1", Quantity: 2}}, Address: liLei}},
		"expected": {body("checkout", member(aCheckout, "expected_amount", `{"amount":5,"currency":"CNY"}`)), "Checkout", anOrder, commands.Checkout{Order: anOrder, Buyer: "123456", Items: []commands.Item{{SKU: "tea:1", Quantity: 2}}, Address: liLei, Expected: &five}},
		"pay":      {good["pay"], "Pay", anOrder, (*money.Money)(nil)},
		"payment":  {good["payment"], "StartPayment", anOrder, commands.PaymentRequest{Checkout: anOrder, Channel: "alipay"}},
		"payment all": {
			body("payment", `{"channel":"wechat","expected_amount":{"amount":5,"currency":"CNY"},"options":{"scene":"h5"}}`), "StartPayment", anOrder,
			commands.PaymentRequest{Checkout: anOrder, Channel: "wechat", Expected: &money.Money{Amount: 5, Currency: "CNY"}, Options: map[string]string{"scene": "h5"}},
		},
		"return":   {good["return"], "ReturnTrade", anOrder + "-1", "t"},
		"resolve":  {good["resolve"], "ResolveTrade", "alipay 2026.t-1", "anonymous: given back"},
		"redirect": {good["redirect"], "RedirectRefund", anOrder + "-1", payment.RedirectRefund{Refund: "late.1", To: payment.ToBalance}},
		"refund freight": {body("refund", `{"lines":[{"line":1,"freight":true}]}`), "Order", anOrder, order.Refund{
			By: "anonymous", Lines: []order.RefundRequest{{Line: 1, Freight: true}},
		}},
		"pay five": {body("pay", `{"expected_amount":{"amount":5,"currency":"CNY"}}`), "Pay", anOrder, &five},
		"pack":     {good["pack"], "Order", anOrder, order.Pack{Lines: []order.Part{{Line: 1, Quantity: 2}}}},
		"ship":     {body("pack", member(oneLine, "waybill", aWaybill)), "Order", anOrder, order.Pack{Lines: []order.Part{{Line: 1, Quantity: 2}}, Carrier: "SF", Number: "123"}},
		"unpack":   {good["unpack"], "Order", anOrder, order.Unpack{Parcel: 1}},
		"waybill":  {good["waybill"], "Order", anOrder, order.SetWaybill{Parcel: 1, Version: 1, Carrier: "SF", Number: "123"}},
		"first waybill": {
			good["waybill"].with("If-Match", "-").with("If-None-Match", "*"), "Order", anOrder,
			order.SetWaybill{Parcel: 1, Carrier: "SF", Number: "123"},
		},
		"deliver":     {good["deliver"], "Order", anOrder, order.Deliver{Parcel: 1}},
		"address":     {good["address"], "ChangeAddress", anOrder, liLei},
		"complete":    {good["complete"], "Order", anOrder, order.Complete{By: "anonymous"}},
		"complete by": {body("complete", `{"by":"123456"}`), "Order", anOrder, order.Complete{By: "123456"}},
		"cancel":      {body("cancel", `{"reason":"stock","by":"s1","note":"flood"}`), "Cancel", anOrder, order.Cancel{Cancellation: order.Cancellation{Reason: order.Stock, By: "s1", Note: "flood"}}},
		"refund all":  {good["refund"], "Order", anOrder, order.Refund{By: "anonymous"}},
		"refund some": {
			body("refund", `{"lines":[{"line":1,"quantity":1},{"line":2,"amount":{"amount":7,"currency":"CNY"}}],"reason":"broken","restock":true}`), "Order", anOrder,
			order.Refund{Lines: []order.RefundRequest{{Line: 1, Quantity: 1}, {Line: 2, Amount: new(int64(7))}}, Reason: "broken", By: "anonymous", Restock: true},
		},
		"publish": {good["publish"], "PublishOffer", "tea:1", catalog.Publish{OnSale: true, Snapshot: catalog.Snapshot{
			SKU: "tea:1", Seller: "s1", Title: "Tea", Currency: "CNY", UnitPrice: 100,
		}}},
		"publish all": {
			body("publish", `{"seller_id":"s1","title":"Tea","specs":{"色":"绿"},"unit_price":{"amount":100,"currency":"CNY"},"freight":{"amount":5,"currency":"CNY"},"on_sale":false}`), "PublishOffer", "tea:1",
			catalog.Publish{Snapshot: catalog.Snapshot{
				SKU: "tea:1", Seller: "s1", Title: "Tea", Specs: map[string]string{"色": "绿"}, Currency: "CNY", UnitPrice: 100, Freight: 5,
			}},
		},
		"receive":  {body("receive", `{"quantity":5,"reference":"po-1"}`), "Inventory", "tea:1", inventory.Receive{Quantity: 5, Reference: "po-1"}},
		"adjust":   {good["adjust"], "Inventory", "tea:1", inventory.Adjust{OnHand: -1, Reason: "broken"}},
		"count":    {good["count"], "Inventory", "tea:1", inventory.Count{Reason: "stocktake"}},
		"policy":   {good["policy"], "Inventory", "tea:1", inventory.SetPolicy{Safety: 1}},
		"divide":   {good["divide"], "Inventory", "tea:1", inventory.Divide{Shards: 4}},
		"open":     {good["open"], "Account", "123456", account.Open{Account: "123456", Currency: "CNY"}},
		"deposit":  {good["deposit"], "Account", "123456", account.Deposit{Amount: 500, Currency: "CNY"}},
		"withdraw": {good["withdraw"], "Account", "123456", account.Withdraw{Amount: 500, Currency: "CNY"}},
	} {
		t.Run(name, func(t *testing.T) {
			shop := &recorder{
				at: 4, state: order.Order{ID: anOrder, Currency: "CNY"},
				order: []order.Event{order.RefundIssued{Refund: 1, Amount: 7}, order.WaybillSet{Version: 2}},
			}
			if w := tt.send(t, serve(t, shop, false)); w.Code >= 300 {
				t.Fatalf("got %d %s", w.Code, w.Body)
			}
			got := shop.only(t)
			switch c := got.with.(type) { // the journal is the cause, which has a test of its own
			case account.Deposit:
				c.Journal = strings.TrimPrefix(c.Journal, got.req.Cause)
				got.with = c
			case account.Withdraw:
				c.Journal = strings.TrimPrefix(c.Journal, got.req.Cause)
				got.with = c
			}
			if got.method != tt.method || got.id != tt.id {
				t.Errorf("asked %s of %s", got.method, got.id)
			}
			if diff := cmp.Diff(tt.with, got.with); diff != "" {
				t.Error(diff)
			}
			if got.req.Actor != "anonymous" || len(got.req.Trace) != 55 || len(got.req.Digest) != 32 || !got.req.At.IsZero() {
				t.Errorf("the request says %+v", got.req)
			}
		})
	}
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-([45])[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

// causeOf is the cause under which a request reaches the shop.
func causeOf(t *testing.T, q request) string {
	t.Helper()
	shop := &recorder{state: order.Order{ID: anOrder, Currency: "CNY"}, order: []order.Event{order.RefundIssued{}, order.WaybillSet{Version: 2}}}
	if w := q.send(t, serve(t, shop, false)); w.Code >= 300 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	return shop.only(t).req.Cause
}

func TestACauseIsPrincipalRouteTargetAndKey(t *testing.T) {
	seen := map[string]string{}
	for name, q := range map[string]request{
		"deposit":               good["deposit"],
		"another route":         good["withdraw"],
		"another target":        path("deposit", "/v1/accounts/654321/deposits"),
		"another key":           good["deposit"].with("Idempotency-Key", "k2"),
		"parcel 1 of 11":        path("deliver", orderPath+"/parcels/11/delivered"),
		"parcel 11 of 1":        path("deliver", orderPath+"/parcels/1/delivered"),
		"the same by its order": good["complete"],
	} {
		first, second := causeOf(t, q), causeOf(t, q)
		if m := uuidForm.FindStringSubmatch(first); first != second || m == nil || m[1] != "5" {
			t.Errorf("%s: got %q, then %q, want one UUIDv5", name, first, second)
		}
		if other, dup := seen[first]; dup {
			t.Errorf("%s has the cause of %s", name, other)
		}
		seen[first] = name
	}
	other := body("deposit", `{"amount":{"amount":501,"currency":"CNY"}}`)
	if causeOf(t, other) != causeOf(t, good["deposit"]) {
		t.Error("another body is for the digest to tell, not for the cause")
	}
	// This value stands in event stores: a change would make every repeat a new command.
	if got := causeOf(t, good["deposit"]); got != "f4783d92-2b3d-5944-93a7-decdd160b336" {
		t.Errorf("the cause of a known request became %s", got)
	}
}

func TestARequestWithoutAKeyIsACommandOfItsOwn(t *testing.T) {
	q := good["open"].with("Idempotency-Key", "-")
	first, second := causeOf(t, q), causeOf(t, q)
	if m := uuidForm.FindStringSubmatch(first); first == second || m == nil || m[1] != "4" {
		t.Errorf("got %q, then %q, want two UUIDv4", first, second)
	}
	if got := causeOf(t, good["draw"].with("Idempotency-Key", "-")); got != "" {
		t.Errorf("an order id nobody shall remember has the cause %q", got)
	}
}

func TestAKeyOnAPutChangesNothing(t *testing.T) {
	for _, name := range []string{"publish", "waybill", "address", "policy"} {
		q := good[name].with("Idempotency-Key", "k1")
		if first, second := causeOf(t, q), causeOf(t, q); first == second {
			t.Errorf("%s: both have the cause %q", name, first)
		}
	}
}

func TestADigestIgnoresSpaceAndHidesTheBody(t *testing.T) {
	digest := func(cfg writeapi.Config, text string) string {
		shop := &recorder{}
		cfg.Shop = shop
		if w := body("draw", text).send(t, mount(t, cfg)); w.Code != http.StatusCreated {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		return shop.only(t).req.Digest
	}
	cfg := writeapi.Config{DigestSecret: secret}
	first := digest(cfg, `{"buyer_id":"123456"}`)
	if got := digest(cfg, " {\n\"buyer_id\" : \"\\u00312345\\u0036\" } "); got != first {
		t.Errorf("white space and escapes made %s of %s", got, first)
	}
	if got := digest(cfg, `{"buyer_id":"123457"}`); got == first {
		t.Error("another body has the same digest")
	}
	if got := digest(writeapi.Config{DigestSecret: []byte("another secret of ours")}, `{"buyer_id":"123456"}`); got == first {
		t.Error("without the secret anybody could find the body by trying")
	}
}

func TestWhatIsCreatedIs201(t *testing.T) {
	created := map[string]string{
		"draw": "", "checkout": "/v1/orders/" + anOrder, "pack": "", "refund": "", "deposit": "", "withdraw": "",
		"receive": "", "adjust": "", "count": "", "return": "", "payment": "/v1/payments/" + anOrder + "-1",
		"open": "/v1/accounts/123456", "publish": "/v1/skus/tea:1",
	}
	for name, q := range good {
		shop := &recorder{
			at: 2, state: order.Order{ID: anOrder, Currency: "CNY"}, order: []order.Event{order.RefundIssued{Refund: 1, Amount: 7}, order.WaybillSet{Version: 2}},
		}
		w := q.send(t, serve(t, shop, false))
		location, want := created[name], http.StatusOK
		if _, ok := created[name]; ok {
			want = http.StatusCreated
		}
		if w.Code != want || w.Header().Get("Location") != location {
			t.Errorf("%s: got %d at %q, want %d at %q", name, w.Code, w.Header().Get("Location"), want, location)
		}
		if got := w.Header().Get("Content-Type"); got != "application/json; charset=utf-8" {
			t.Errorf("%s: Content-Type %q", name, got)
		}
	}
}

func TestAnAnswerCarriesItsVersionAndAToken(t *testing.T) {
	shop := &recorder{at: 17}
	w := good["complete"].send(t, serve(t, shop, false))
	if got := w.Header().Get("ETag"); got != `"v17"` {
		t.Errorf("ETag is %s", got)
	}
	streams, err := token.Decode(w.Header().Get("Cartwright-Token"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]event.Revision{"order-" + anOrder: 17}, streams); diff != "" {
		t.Error(diff)
	}
	if w.Header().Get("Idempotent-Replayed") != "" {
		t.Error("the first answer is no repeat")
	}
	shop.again = true
	if again := good["complete"].send(t, serve(t, shop, false)); again.Header().Get("Idempotent-Replayed") != "true" || again.Body.String() != w.Body.String() {
		t.Errorf("got %v %s", again.Header(), again.Body)
	}
}

func TestTheVersionACallerKnowsIsPassedOn(t *testing.T) {
	v := func(n event.Revision) *event.Revision { return &n }
	for name, tt := range map[string]struct {
		request
		want *event.Revision
	}{
		"an order at a version":   {good["cancel"].with("If-Match", `"v7"`), v(7)},
		"any order":               {good["cancel"].with("If-Match", `*`), nil},
		"no matter":               {good["cancel"], nil},
		"a payment":               {good["pay"].with("If-Match", `"v1"`), v(1)},
		"a count":                 {good["count"], v(3)},
		"a receipt":               {good["receive"].with("If-Match", `"v0"`), v(0)},
		"an offer at a version":   {good["publish"].with("If-Match", `"v2"`), v(2)},
		"an offer, new":           {good["publish"], v(0)},
		"an offer, surely new":    {good["publish"].with("If-None-Match", "*"), v(0)},
		"a waybill has its own":   {good["waybill"], nil},
		"a policy":                {good["policy"].with("If-Match", `"v9"`), v(9)},
		"an address at a version": {good["address"].with("If-Match", `"v2"`), v(2)},
	} {
		shop := &recorder{order: []order.Event{order.WaybillSet{Version: 2}}}
		if w := tt.send(t, serve(t, shop, false)); w.Code >= 300 {
			t.Errorf("%s: got %d %s", name, w.Code, w.Body)
			continue
		}
		if diff := cmp.Diff(tt.want, shop.only(t).req.IfMatch); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestAnOfferIsNotChangedBlindly(t *testing.T) {
	stale := domain.Refuse(domain.Stale, "version_stale", "This is at version 2, not 0.")
	for name, tt := range map[string]struct {
		request
		status int
		slug   string
	}{
		"blindly":           {good["publish"], http.StatusPreconditionRequired, "if_match_required"},
		"as a new one":      {good["publish"].with("If-None-Match", "*"), http.StatusPreconditionFailed, "version_stale"},
		"from an old state": {good["publish"].with("If-Match", `"v1"`), http.StatusPreconditionFailed, "version_stale"},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, tt.send(t, serve(t, &recorder{err: stale}, false)), tt.status, tt.slug)
		})
	}
}

func TestAWaybillHasAVersionOfItsOwn(t *testing.T) {
	set := order.SetWaybill{Parcel: 1, Version: 1, Carrier: "SF", Number: "123"}
	waybill := func(v int, number string) order.Waybill {
		return order.Waybill{Version: v, Carrier: "SF", Number: number}
	}
	for name, tt := range map[string]struct {
		events []order.Event
		parcel order.Parcel
		status int
		etag   string
	}{
		"the first":     {[]order.Event{order.WaybillSet{Version: 1}, order.ParcelShipped{}}, order.Parcel{}, 200, `"v1"`},
		"the second":    {[]order.Event{order.WaybillSet{Version: 2}}, order.Parcel{}, 200, `"v2"`},
		"sent again":    {nil, order.Parcel{Waybill: waybill(2, "123"), History: []order.Waybill{waybill(1, "99")}}, 200, `"v2"`},
		"as it was":     {nil, order.Parcel{Waybill: waybill(1, "123")}, 200, `"v1"`},
		"and overtaken": {nil, order.Parcel{Waybill: waybill(3, "7"), History: []order.Waybill{waybill(1, "99"), waybill(2, "123")}}, 200, `"v2"`},
	} {
		shop := &recorder{at: 30, order: tt.events, state: order.Order{ID: anOrder, Parcels: []order.Parcel{tt.parcel}}}
		w := good["waybill"].send(t, serve(t, shop, false))
		if w.Code != tt.status || w.Header().Get("ETag") != tt.etag {
			t.Errorf("%s: got %d %s %s", name, w.Code, w.Header().Get("ETag"), w.Body)
		}
		if diff := cmp.Diff(any(set), shop.only(t).with); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestMoneyGoesBackInTheOrdersCurrency(t *testing.T) {
	shop := &recorder{state: order.Order{ID: anOrder, Currency: "BRL"}}
	w := body("refund", `{"lines":[{"line":1,"amount":{"amount":7,"currency":"CNY"}}]}`).send(t, serve(t, shop, false))
	if got := refused(t, w, http.StatusUnprocessableEntity, "wrong_currency"); len(shop.calls) != 0 || got[0] != "/lines/0/amount/currency" {
		t.Errorf("got %q, the shop was asked %d times", got, len(shop.calls))
	}
	refused(t, good["refund"].send(t, serve(t, &recorder{}, false)), http.StatusNotFound, "unknown_order")
}

// TestAnswersByTheLetter pins down what answers look like.
func TestAnswersByTheLetter(t *testing.T) {
	shop := &recorder{at: 9, state: order.Order{ID: anOrder, Currency: "CNY"}}
	h := serve(t, shop, false)
	refund := []order.Event{
		order.RefundIssued{Refund: 2, Amount: 630, Cancellation: &order.Cancellation{}}, order.Refunded{},
	}
	for name, tt := range map[string]struct {
		events []order.Event
		want   string
	}{
		"draw": {nil, `{"order_id":"` + anOrder + `"}`},
		"payment": {nil, `{"payment_id":"` + anOrder + `-1","checkout_id":"` + anOrder + `","channel":"alipay","amount":{"amount":630,"currency":"CNY"},` +
			`"orders":["` + anOrder + `"],"expires_at":"2026-07-01T12:00:00Z","reference":"r","instruction":{"url":"u"}}`},
		"return":   {nil, `{"payment_id":"` + anOrder + `-1","refund":"trade.1","revision":9}`},
		"resolve":  {nil, `{"channel":"alipay","trade":"2026.t-1"}`},
		"redirect": {nil, `{"payment_id":"` + anOrder + `-1","refund":"late.1","revision":9}`},
		"pay":      {nil, `{"checkout_id":"` + anOrder + `","orders":["` + anOrder + `"],"amount":{"amount":630,"currency":"CNY"}}`},
		"pack":     {[]order.Event{order.ParcelPacked{Parcel: 3}, order.WaybillSet{Version: 1}, order.ParcelShipped{Parcel: 3}, order.Shipped{}}, `{"order_id":"` + anOrder + `","revision":9,"parcel":3,"waybill_version":1,"status":"shipped"}`},
		"deliver":  {[]order.Event{order.ParcelDelivered{Parcel: 1}}, `{"order_id":"` + anOrder + `","revision":9,"parcel":1}`},
		"complete": {[]order.Event{order.Completed{}}, `{"order_id":"` + anOrder + `","revision":9,"status":"completed"}`},
		"cancel":   {refund, `{"order_id":"` + anOrder + `","revision":9,"status":"refunded","refund":2,"amount":{"amount":630,"currency":"CNY"}}`},
		"refund":   {refund, `{"order_id":"` + anOrder + `","revision":9,"status":"refunded","refund":2,"amount":{"amount":630,"currency":"CNY"}}`},
		"address":  {[]order.Event{order.AddressChanged{}}, `{"order_id":"` + anOrder + `","revision":9}`},
		"receive":  {nil, `{"sku":"tea:1","revision":9,"changed":true}`},
		"publish":  {nil, `{"sku":"tea:1","revision":9,"changed":true}`},
		"deposit":  {nil, `{"account_id":"123456","revision":9,"entry":7,"amount":{"amount":500,"currency":"CNY"}}`},
		"checkout": {nil, `{"checkout_id":"` + anOrder + `","orders":[` +
			`{"order_id":"` + anOrder + `","seller_id":"s1","status":"pending_payment","total":{"amount":210,"currency":"CNY"},"payment_deadline":"2026-07-01T12:30:00Z","lines":[LINE]},` +
			`{"order_id":"0598392000001123456","seller_id":"s2","status":"pending_payment","total":{"amount":420,"currency":"CNY"},"payment_deadline":"2026-07-01T12:30:00Z","lines":[LINE,LINE]}],` +
			`"total":{"amount":630,"currency":"CNY"},"payment_deadline":"2026-07-01T12:30:00Z"}`},
	} {
		shop.order = tt.events
		const line = `{"line":1,"sku":"tea:1","title":"茶","offer":"d1","quantity":2,"unit_price":{"amount":100,"currency":"CNY"},"freight":{"amount":5,"currency":"CNY"},"total":{"amount":210,"currency":"CNY"}}`
		want := strings.ReplaceAll(tt.want, "LINE", line) + "\n"
		if got := good[name].send(t, h).Body.String(); got != want {
			t.Errorf("%s: got\n%swant\n%s", name, got, want)
		}
	}
}

func TestARefusalOfTheShopsIsPassedOn(t *testing.T) {
	for name, q := range good {
		t.Run(name, func(t *testing.T) {
			shop := &recorder{err: domain.Refuse(domain.Conflict, "out_of_stock", "There are 0 left."), state: order.Order{ID: anOrder, Currency: "CNY"}}
			w := q.send(t, serve(t, shop, false))
			refused(t, w, http.StatusConflict, "out_of_stock")
			if w.Header().Get("Cartwright-Token") != "" || w.Header().Get("ETag") != "" {
				t.Errorf("a refusal has no version: %v", w.Header())
			}
		})
	}
}

func TestWithoutASecretOrAShopThereIsNoAPI(t *testing.T) {
	for name, cfg := range map[string]writeapi.Config{
		"nothing":        {},
		"no secret":      {Log: quiet, Shop: &recorder{}},
		"a short secret": {Log: quiet, Shop: &recorder{}, DigestSecret: secret[:15]},
		"no shop":        {Log: quiet, DigestSecret: secret},
	} {
		if err := writeapi.Routes(newEngine(t), cfg); err == nil {
			t.Errorf("%s: there should have been an error", name)
		}
	}
}

func TestABodyThatBreaksOffIsRefused(t *testing.T) {
	shop := &recorder{}
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/order-ids", broken{})
	req.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	serve(t, shop, false).ServeHTTP(w, req)
	refused(t, w, http.StatusBadRequest, "malformed_body")
}

// broken is a body whose sender went away.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, http.ErrHandlerTimeout }

func TestALongBodyOfUnknownLengthIsRefused(t *testing.T) {
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/order-ids",
		struct{ *strings.Reader }{strings.NewReader(`{"buyer_id":"` + strings.Repeat("x", 1<<20) + `"}`)})
	req.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	serve(t, &recorder{}, false).ServeHTTP(w, req)
	refused(t, w, http.StatusRequestEntityTooLarge, "body_too_large")
}

func TestTheServersClockIsUsedWhereNoneIsGiven(t *testing.T) {
	h := mount(t, writeapi.Config{Shop: &recorder{}, DigestSecret: secret, AllowBackdating: true})
	if w := good["pay"].with("Cartwright-At", time.Now().Add(-time.Minute).Format(time.RFC3339)).send(t, h); w.Code != http.StatusOK {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	refused(t, good["pay"].with("Cartwright-At", time.Now().Add(time.Hour).Format(time.RFC3339)).send(t, h), http.StatusBadRequest, "at_invalid")
}
