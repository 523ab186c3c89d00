package writeapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/catalog"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/payment"
	"cartwright/domain/personal"
	"cartwright/infra/httpedge"
	"cartwright/infra/problem"
	"cartwright/writeapi"
)

// anOrder is an id whose bucket is that of buyer 123456.
const anOrder = "0598392000000123456"

// recorder is a shop that notes what it is asked, and does as it is told.
type recorder struct {
	calls []call
	err   error         // the answer, if it is one
	order []order.Event // what a command on an order leads to
	state order.Order
	at    event.Revision
	again bool
}

type call struct {
	method string
	req    commands.Request
	id     string
	with   any
}

func note[E any](f *recorder, method string, r commands.Request, id, stream string, with any, events ...E) (commands.Done[E], error) {
	f.calls = append(f.calls, call{method, r, id, with})
	if f.err != nil {
		return commands.Done[E]{}, f.err
	}
	return commands.Done[E]{Stream: stream, Revision: f.at, Events: events, Repeated: f.again}, nil
}

func (f *recorder) DrawOrderID(_ context.Context, r commands.Request, buyer string) (orderid.ID, bool, error) {
	f.calls = append(f.calls, call{"DrawOrderID", r, buyer, nil})
	return anOrder, f.again, f.err
}

func (f *recorder) Checkout(_ context.Context, r commands.Request, c commands.Checkout) (commands.Placed, error) {
	f.calls = append(f.calls, call{"Checkout", r, string(c.Order), c})
	line := order.Line{Line: 1, SKU: c.Items[0].SKU, Title: "茶", Offer: "d1", Quantity: 2, UnitPrice: 100, Freight: 5}
	deadline := time.Date(2026, 7, 1, 12, 30, 0, 0, time.UTC)
	return commands.Placed{
		Orders: []order.Placed{
			{Order: string(c.Order), Checkout: string(c.Order), Seller: "s1", Currency: "CNY", Lines: []order.Line{line}, Deadline: deadline},
			{Order: "0598392000001123456", Checkout: string(c.Order), Seller: "s2", Currency: "CNY", Lines: []order.Line{line, line}, Deadline: deadline},
		},
		Total: money.Money{Amount: 630, Currency: "CNY"}, Repeated: f.again,
		Streams: map[string]event.Revision{"order-" + string(c.Order): f.at},
	}, f.err
}

func (f *recorder) Pay(_ context.Context, r commands.Request, id orderid.ID, expected *money.Money) (commands.Paid, error) {
	f.calls = append(f.calls, call{"Pay", r, string(id), expected})
	return commands.Paid{
		Checkout: string(id), Orders: []string{string(id)}, Total: money.Money{Amount: 630, Currency: "CNY"}, Repeated: f.again,
		Streams: map[string]event.Revision{"order-" + string(id): f.at},
	}, f.err
}

func (f *recorder) StartPayment(_ context.Context, r commands.Request, in commands.PaymentRequest) (commands.Asked, error) {
	f.calls = append(f.calls, call{"StartPayment", r, string(in.Checkout), in})
	return commands.Asked{
		Payment: payment.Payment{
			ID: string(in.Checkout) + "-1", Checkout: string(in.Checkout), Channel: in.Channel, Amount: 630, Currency: "CNY",
			Splits:  []payment.Split{{Order: string(in.Checkout), Seller: "s1", Amount: 630}},
			Expires: today, Reference: "r", Instruction: json.RawMessage(`{"url":"u"}`),
		},
		Stream: "payment-" + string(in.Checkout) + "-1", Revision: f.at, Repeated: f.again,
	}, f.err
}

func (f *recorder) Notify(_ context.Context, channel string, n commands.Notice) error {
	f.calls = append(f.calls, call{"Notify", commands.Request{}, channel, n})
	return f.err
}

func (f *recorder) ReturnTrade(_ context.Context, r commands.Request, id, number string) (commands.Done[payment.Event], error) {
	return note[payment.Event](f, "ReturnTrade", r, id, "payment-"+id, number, payment.RefundRequested{Refund: "trade.1", Amount: 7})
}

func (f *recorder) ResolveTrade(_ context.Context, r commands.Request, channel, number, by, reason string) (commands.Resolved, error) {
	f.calls = append(f.calls, call{"ResolveTrade", r, channel + " " + number, by + ": " + reason})
	return commands.Resolved{Streams: map[string]event.Revision{"trade-x": f.at}, Repeated: f.again}, f.err
}

func (f *recorder) RedirectRefund(_ context.Context, r commands.Request, id string, c payment.RedirectRefund) (commands.Done[payment.Event], error) {
	return note[payment.Event](f, "RedirectRefund", r, id, "payment-"+id, c, payment.RefundRedirected{Refund: c.Refund, To: c.To})
}

func (f *recorder) Order(_ context.Context, r commands.Request, id orderid.ID, c order.Command) (commands.Done[order.Event], error) {
	return note(f, "Order", r, string(id), "order-"+string(id), c, f.order...)
}

func (f *recorder) Cancel(_ context.Context, r commands.Request, id orderid.ID, c order.Cancel) (commands.Done[order.Event], error) {
	return note(f, "Cancel", r, string(id), "order-"+string(id), c, f.order...)
}

func (f *recorder) ChangeAddress(_ context.Context, r commands.Request, id orderid.ID, a personal.Address) (commands.Done[order.Event], error) {
	return note(f, "ChangeAddress", r, string(id), "order-"+string(id), a, f.order...)
}

func (f *recorder) FindOrder(_ context.Context, id orderid.ID) (order.Order, error) {
	if f.state.ID == "" {
		return order.Order{}, domain.Refuse(domain.NotFound, "unknown_order", "There is no order %s.", id)
	}
	return f.state, nil
}

func (f *recorder) PublishOffer(_ context.Context, r commands.Request, sku string, p catalog.Publish) (commands.Done[catalog.Event], error) {
	return note[catalog.Event](f, "PublishOffer", r, sku, "offer-"+sku, p, catalog.Described{}, catalog.Published{})
}

func (f *recorder) Inventory(_ context.Context, r commands.Request, sku string, c inventory.Command) (commands.Done[inventory.Event], error) {
	return note[inventory.Event](f, "Inventory", r, sku, "inventory-"+sku, c, inventory.Received{})
}

func (f *recorder) Account(_ context.Context, r commands.Request, id string, c account.Command) (commands.Done[account.Event], error) {
	return note[account.Event](f, "Account", r, id, "account-"+id, c, account.Deposited{Entry: 7})
}

// today is the server's clock.
var today = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// secret is a secret long enough.
var secret = []byte("0123456789abcdef")

// quiet is a log nobody reads.
var quiet = slog.New(slog.DiscardHandler)

func newEngine(t *testing.T) *gin.Engine {
	t.Helper()
	gin.SetMode(gin.TestMode)
	r, err := httpedge.New(httpedge.Config{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// mount serves the API of cfg.
func mount(t *testing.T, cfg writeapi.Config) http.Handler {
	t.Helper()
	r := newEngine(t)
	cfg.Log = quiet
	if err := writeapi.Routes(r, cfg); err != nil {
		t.Fatal(err)
	}
	return r
}

func serve(t *testing.T, shop writeapi.Shop, backdating bool) http.Handler {
	t.Helper()
	return mount(t, writeapi.Config{Shop: shop, DigestSecret: secret, AllowBackdating: backdating, Now: func() time.Time { return today }})
}

// request is a request with a body of JSON, unless a header says otherwise; a
// header whose value is "-" is not sent.
type request struct {
	method, path, body string
	header             map[string]string
}

func (q request) with(name, value string) request {
	header := map[string]string{name: value}
	for n, v := range q.header {
		if n != name {
			header[n] = v
		}
	}
	q.header = header
	return q
}

func (q request) send(t *testing.T, h http.Handler) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), q.method, q.path, bytes.NewReader([]byte(q.body)))
	req.Header.Set("Content-Type", "application/json")
	if q.method == http.MethodPost {
		req.Header.Set("Idempotency-Key", "k1")
	}
	for name, value := range q.header {
		if req.Header.Set(name, value); value == "-" {
			req.Header.Del(name)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

// refused checks that w is a problem of this status and slug, and gives the
// pointers of what it names.
func refused(t *testing.T, w *httptest.ResponseRecorder, status int, slug string) []string {
	t.Helper()
	var doc problem.Document
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || w.Header().Get("Content-Type") != problem.ContentType {
		t.Fatalf("got %d %s, which is no problem: %v", w.Code, w.Body, err)
	}
	if w.Code != status || doc.Type != "/problems/"+slug {
		t.Errorf("got %d %s, want %d %s", w.Code, w.Body, status, slug)
	}
	var pointers []string
	for _, f := range doc.Errors {
		pointers = append(pointers, f.Pointer)
	}
	return pointers
}

func (f *recorder) only(t *testing.T) call {
	t.Helper()
	if len(f.calls) != 1 {
		t.Fatalf("the shop was asked %d times, want once", len(f.calls))
	}
	return f.calls[0]
}

const (
	anAddress  = `{"name":"李雷","phone":"+86 10 1234","line1":"1 Road","city":"Beijing","postal_code":"100000","country":"CN"}`
	aCheckout  = `{"order_id":"` + anOrder + `","buyer_id":"123456","items":[{"sku":"tea:1","quantity":2}],"address":` + anAddress + `}`
	anOffer    = `{"seller_id":"s1","title":"Tea","unit_price":{"amount":100,"currency":"CNY"}}`
	orderPath  = "/v1/orders/" + anOrder
	payPath    = "/v1/checkouts/" + anOrder + "/pay"
	oneLine    = `{"lines":[{"line":1,"quantity":2}]}`
	aWaybill   = `{"carrier":"SF","number":"123"}`
	anAmount   = `{"amount":{"amount":500,"currency":"CNY"}}`
	aReceipt   = `{"quantity":5}`
	aCount     = `{"on_hand":0,"reason":"stocktake"}`
	anAdjust   = `{"on_hand":-1,"reason":"broken"}`
	aPolicy    = `{"safety":1,"backorder_limit":0}`
	someShards = `{"shards":4}`
	anAccount  = `{"account_id":"123456","currency":"CNY"}`
	aCancel    = `{"reason":"buyer"}`
	aDraw      = `{"buyer_id":"123456"}`
	wayPath    = orderPath + "/parcels/1/waybill"
	countsPath = "/v1/inventory/tea:1/counts"
)

// good is a request for every route that is well formed.
var good = map[string]request{
	"publish":  {http.MethodPut, "/v1/skus/tea:1", anOffer, nil},
	"draw":     {http.MethodPost, "/v1/order-ids", aDraw, nil},
	"checkout": {http.MethodPost, "/v1/checkouts", aCheckout, nil},
	"pay":      {http.MethodPost, payPath, ``, nil},
	"payment":  {http.MethodPost, payPath + "ments", `{"channel":"alipay"}`, nil},
	"return":   {http.MethodPost, "/v1/payments/" + anOrder + "-1/returns", `{"trade":"t"}`, nil},
	"resolve":  {http.MethodPost, "/v1/channels/alipay/trades/2026.t-1/resolve", `{"reason":"given back"}`, nil},
	"redirect": {http.MethodPost, "/v1/payments/" + anOrder + "-1/refunds/late.1/redirect", `{"to":"balance"}`, nil},
	"pack":     {http.MethodPost, orderPath + "/parcels", oneLine, nil},
	"unpack":   {http.MethodPost, orderPath + "/parcels/1/unpack", ``, nil},
	"waybill":  {http.MethodPut, wayPath, aWaybill, map[string]string{"If-Match": `"v1"`}},
	"deliver":  {http.MethodPost, orderPath + "/parcels/1/delivered", ``, nil},
	"address":  {http.MethodPut, orderPath + "/address", anAddress, nil},
	"complete": {http.MethodPost, orderPath + "/complete", ``, nil},
	"cancel":   {http.MethodPost, orderPath + "/cancel", aCancel, nil},
	"refund":   {http.MethodPost, orderPath + "/refunds", ``, nil},
	"receive":  {http.MethodPost, "/v1/inventory/tea:1/receipts", aReceipt, nil},
	"adjust":   {http.MethodPost, "/v1/inventory/tea:1/adjustments", anAdjust, nil},
	"count":    {http.MethodPost, countsPath, aCount, map[string]string{"If-Match": `"v3"`}},
	"policy":   {http.MethodPut, "/v1/inventory/tea:1/policy", aPolicy, nil},
	"divide":   {http.MethodPost, "/v1/inventory/tea:1/shards", someShards, nil},
	"open":     {http.MethodPost, "/v1/accounts", anAccount, nil},
	"deposit":  {http.MethodPost, "/v1/accounts/123456/deposits", anAmount, nil},
	"withdraw": {http.MethodPost, "/v1/accounts/123456/withdrawals", anAmount, nil},
}

// body replaces the body of a good request.
func body(name, text string) request {
	q := good[name]
	q.body = text
	return q
}

// path replaces its path.
func path(name, p string) request {
	q := good[name]
	q.path = p
	return q
}

func member(text, name, value string) string {
	return strings.Replace(text, "{", fmt.Sprintf("{%q:%s,", name, value), 1)
}
