package writeapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"cartwright/commands"
	"cartwright/domain/personal"
	"cartwright/infra/keyring"
	"cartwright/infra/memstore"
	"cartwright/writeapi"
)

// realShop is the shop itself on a store in memory.
type realShop struct{ *commands.Shop }

func newShop(t *testing.T) realShop {
	t.Helper()
	store := new(memstore.Store)
	ring, err := keyring.New(store, make([]byte, personal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	shop, err := commands.Open(commands.Setup{Store: store, Sealer: ring})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(shop.Close)
	return realShop{shop}
}

// settle does what the process behind the bus does.
func (s realShop) settle(t *testing.T, id string) {
	t.Helper()
	if err := s.Settle(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

// customer sends one request after another, each under a key of its own.
type customer struct {
	t *testing.T
	h http.Handler
	n int
}

func (c *customer) ask(status int, method, path, text string, header ...string) *httptest.ResponseRecorder {
	c.t.Helper()
	c.n++
	q := request{method, path, text, map[string]string{"Idempotency-Key": fmt.Sprintf("step-%d", c.n)}}
	for i := 0; i < len(header); i += 2 {
		q.header[header[i]] = header[i+1]
	}
	w := q.send(c.t, c.h)
	if w.Code != status {
		c.t.Fatalf("%s %s: got %d %s, want %d", method, path, w.Code, w.Body, status)
	}
	return w
}

// orderID asks for an id of buyer 123456.
func (c *customer) orderID() string {
	c.t.Helper()
	var drawn struct {
		OrderID string `json:"order_id"`
	}
	w := c.ask(http.StatusCreated, http.MethodPost, "/v1/order-ids", aDraw)
	if err := json.Unmarshal(w.Body.Bytes(), &drawn); err != nil {
		c.t.Fatal(err)
	}
	return drawn.OrderID
}

// stocked is a customer of a shop that has tea.
func stocked(t *testing.T, shop writeapi.Shop, units int) *customer {
	t.Helper()
	c := &customer{t: t, h: serve(t, shop, false)}
	c.ask(http.StatusCreated, http.MethodPut, "/v1/skus/tea:1", anOffer)
	c.ask(http.StatusCreated, http.MethodPost, "/v1/inventory/tea:1/receipts", fmt.Sprintf(`{"quantity":%d}`, units))
	c.ask(http.StatusCreated, http.MethodPost, "/v1/accounts", anAccount)
	c.ask(http.StatusCreated, http.MethodPost, "/v1/accounts/123456/deposits", `{"amount":{"amount":100000,"currency":"CNY"}}`)
	return c
}

func checkoutOf(id string, quantity int) string {
	return fmt.Sprintf(`{"order_id":%q,"buyer_id":"123456","items":[{"sku":"tea:1","quantity":%d}],"address":%s}`, id, quantity, anAddress)
}

func TestOneOrdersLife(t *testing.T) {
	shop := newShop(t)
	c := stocked(t, shop, 10)
	id := c.orderID()
	c.ask(http.StatusCreated, http.MethodPost, "/v1/checkouts", checkoutOf(id, 3))
	at := "/v1/orders/" + id
	c.ask(http.StatusOK, http.MethodPut, at+"/address", strings.Replace(anAddress, "Beijing", "上海", 1), "If-Match", `"v1"`)
	refused(t, c.ask(http.StatusPreconditionFailed, http.MethodPut, at+"/address", anAddress, "If-Match", `"v1"`), 412, "version_stale")
	refused(t, c.ask(http.StatusConflict, http.MethodPost, at+"/parcels", `{"lines":[{"line":1,"quantity":1}]}`), 409, "not_paid")
	c.ask(http.StatusOK, http.MethodPost, "/v1/checkouts/"+id+"/pay", `{"expected_amount":{"amount":300,"currency":"CNY"}}`)
	shop.settle(t, id)
	w := c.ask(http.StatusCreated, http.MethodPost, at+"/parcels", `{"lines":[{"line":1,"quantity":1}],"waybill":`+aWaybill+`}`)
	if !strings.Contains(w.Body.String(), `"parcel":1,"waybill_version":1`) {
		t.Errorf("got %s", w.Body)
	}
	c.ask(http.StatusCreated, http.MethodPost, at+"/parcels", `{"lines":[{"line":1,"quantity":1}]}`)
	c.ask(http.StatusOK, http.MethodPost, at+"/parcels/2/unpack", ``)
	w = c.ask(http.StatusCreated, http.MethodPost, at+"/refunds", `{"lines":[{"line":1,"quantity":2}]}`)
	if !strings.Contains(w.Body.String(), `"status":"shipped","refund":1,"amount":{"amount":200,"currency":"CNY"}`) {
		t.Errorf("got %s", w.Body)
	}
	c.ask(http.StatusOK, http.MethodPost, at+"/parcels/1/delivered", ``)
	c.ask(http.StatusOK, http.MethodPost, at+"/complete", ``)
	refused(t, c.ask(http.StatusConflict, http.MethodPost, at+"/cancel", aCancel), 409, "too_late_to_cancel")
}

func TestTheWaybillABAStory(t *testing.T) {
	shop := newShop(t)
	c := stocked(t, shop, 10)
	id := c.orderID()
	c.ask(http.StatusCreated, http.MethodPost, "/v1/checkouts", checkoutOf(id, 1))
	c.ask(http.StatusOK, http.MethodPost, "/v1/checkouts/"+id+"/pay", ``)
	shop.settle(t, id)
	c.ask(http.StatusCreated, http.MethodPost, "/v1/orders/"+id+"/parcels", `{"lines":[{"line":1,"quantity":1}]}`)
	at := "/v1/orders/" + id + "/parcels/1/waybill"
	first, second := `{"carrier":"SF","number":"123"}`, `{"carrier":"SF","number":"456"}`
	key := "a late retry has its first key"
	refused(t, c.ask(http.StatusPreconditionRequired, http.MethodPut, at, first), 428, "if_match_required")
	tag := func(w *httptest.ResponseRecorder, want string) {
		t.Helper()
		if got := w.Header().Get("ETag"); got != want {
			t.Errorf("the waybill is %s, want %s: %s", got, want, w.Body)
		}
	}
	tag(c.ask(http.StatusOK, http.MethodPut, at, first, "If-None-Match", "*", "Idempotency-Key", key), `"v1"`)
	tag(c.ask(http.StatusOK, http.MethodPut, at, first, "If-None-Match", "*", "Idempotency-Key", key), `"v1"`)
	tag(c.ask(http.StatusOK, http.MethodPut, at, second, "If-Match", `"v1"`), `"v2"`)
	tag(c.ask(http.StatusOK, http.MethodPut, at, second, "If-Match", `"v1"`), `"v2"`)
	tag(c.ask(http.StatusOK, http.MethodPut, at, second, "If-Match", `"v2"`), `"v2"`)
	refused(t, c.ask(http.StatusPreconditionFailed, http.MethodPut, at, first, "If-None-Match", "*", "Idempotency-Key", key), 412, "waybill_stale")
	refused(t, c.ask(http.StatusPreconditionFailed, http.MethodPut, at, first, "If-Match", `"v1"`), 412, "waybill_stale")
}

func TestAnOffersVersionsAsACallerSeesThem(t *testing.T) {
	c := stocked(t, newShop(t), 1)
	dearer := strings.Replace(anOffer, "100", "110", 1)
	c.ask(http.StatusOK, http.MethodPut, "/v1/skus/tea:1", anOffer)
	refused(t, c.ask(http.StatusPreconditionRequired, http.MethodPut, "/v1/skus/tea:1", dearer), 428, "if_match_required")
	refused(t, c.ask(http.StatusPreconditionFailed, http.MethodPut, "/v1/skus/tea:1", dearer, "If-None-Match", "*"), 412, "version_stale")
	w := c.ask(http.StatusOK, http.MethodPut, "/v1/skus/tea:1", dearer, "If-Match", `"v2"`)
	if got := w.Header().Get("ETag"); got != `"v4"` {
		t.Errorf("ETag is %s", got)
	}
}

// TestARepeatIsAnsweredAlike sends each kind of command, does other things, and
// sends it again.
func TestARepeatIsAnsweredAlike(t *testing.T) {
	shop := newShop(t)
	c := stocked(t, shop, 10)
	id := c.orderID()
	at := "/v1/orders/" + id
	steps := []request{
		{http.MethodPost, "/v1/order-ids", aDraw, nil},
		{http.MethodPost, "/v1/accounts", `{"account_id":"b2","currency":"CNY"}`, nil},
		{http.MethodPost, "/v1/inventory/tea:1/receipts", aReceipt, nil},
		{http.MethodPost, "/v1/inventory/tea:1/adjustments", anAdjust, nil},
		{http.MethodPost, "/v1/accounts/123456/deposits", anAmount, nil},
		{http.MethodPost, "/v1/accounts/123456/withdrawals", anAmount, nil},
		{http.MethodPost, "/v1/checkouts", checkoutOf(id, 3), nil},
		{http.MethodPost, "/v1/checkouts/" + id + "/pay", ``, nil},
		{http.MethodPost, at + "/parcels", `{"lines":[{"line":1,"quantity":1}],"waybill":` + aWaybill + `}`, nil},
		{http.MethodPost, at + "/refunds", `{"lines":[{"line":1,"quantity":1}]}`, nil},
		{http.MethodPost, at + "/parcels/1/delivered", ``, nil},
		{http.MethodPost, at + "/parcels", `{"lines":[{"line":1,"quantity":1}],"waybill":` + aWaybill + `}`, nil},
		{http.MethodPost, at + "/complete", ``, nil},
	}
	var first []*httptest.ResponseRecorder
	for i, q := range steps {
		steps[i] = q.with("Idempotency-Key", fmt.Sprintf("once-%d", i))
		w := steps[i].send(t, c.h)
		if w.Code >= 300 {
			t.Fatalf("%s: got %d %s", q.path, w.Code, w.Body)
		}
		first = append(first, w)
		if strings.HasSuffix(q.path, "/pay") {
			shop.settle(t, id)
		}
	}
	for i, q := range steps {
		w := q.send(t, c.h)
		if w.Code != first[i].Code || w.Body.String() != first[i].Body.String() {
			t.Errorf("%s: at first %d %s, then %d %s", q.path, first[i].Code, first[i].Body, w.Code, w.Body)
		}
		if first[i].Header().Get("Idempotent-Replayed") != "" || w.Header().Get("Idempotent-Replayed") != "true" {
			t.Errorf("%s: the repeat is not marked as one, or the first answer is", q.path)
		}
	}
	other := steps[4]
	other.body = strings.Replace(anAmount, "500", "501", 1)
	refused(t, other.send(t, c.h), http.StatusUnprocessableEntity, "idempotency_key_reused")
}

func TestACheckoutSentFiftyTimesAtOnceIsOneOrder(t *testing.T) {
	c := stocked(t, newShop(t), 10)
	id := c.orderID()
	q := request{http.MethodPost, "/v1/checkouts", checkoutOf(id, 2), nil}
	answers := make([]*httptest.ResponseRecorder, 50)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = q.send(t, c.h) })
	}
	wg.Wait()
	for _, w := range answers {
		if w.Code != http.StatusCreated || w.Body.String() != answers[0].Body.String() {
			t.Fatalf("got %d %s and %d %s", answers[0].Code, answers[0].Body, w.Code, w.Body)
		}
	}
	q.body = checkoutOf(id, 3)
	refused(t, q.send(t, c.h), http.StatusUnprocessableEntity, "idempotency_key_reused")
}

func TestWhatACartCannotHave(t *testing.T) {
	c := stocked(t, newShop(t), 2)
	id := c.orderID()
	refused(t, c.ask(http.StatusConflict, http.MethodPost, "/v1/checkouts", checkoutOf(id, 3)), 409, "out_of_stock")
	refused(t, c.ask(http.StatusNotFound, http.MethodPost, "/v1/checkouts", strings.Replace(checkoutOf(id, 1), "tea:1", "tea:2", 1)), 404, "unknown_sku")
	price := func(amount, currency string) string {
		return member(checkoutOf(id, 1), "expected_amount", `{"amount":`+amount+`,"currency":"`+currency+`"}`)
	}
	refused(t, c.ask(http.StatusConflict, http.MethodPost, "/v1/checkouts", price("99", "CNY")), 409, "price_changed")
	refused(t, c.ask(http.StatusUnprocessableEntity, http.MethodPost, "/v1/checkouts", price("100", "USD")), 422, "wrong_currency")
	c.ask(http.StatusCreated, http.MethodPost, "/v1/checkouts", checkoutOf(id, 2))
	refused(t, c.ask(http.StatusUnprocessableEntity, http.MethodPost, "/v1/accounts/123456/deposits", `{"amount":{"amount":1,"currency":"USD"}}`), 422, "wrong_currency")
}
