package openapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"cartwright/commands"
	"cartwright/domain/event"
	"cartwright/domain/money"
	"cartwright/infra/token"
)

// TestWhatIsSaidOfMoneyFitsTheDocument leads payments through all there is, and
// looks at every answer: what was asked for and what was not, refunds that a
// channel refuses, and what sellers earn.
func TestWhatIsSaidOfMoneyFitsTheDocument(t *testing.T) {
	w := newWorld(t)
	c := &client{world: w, doc: load(t), h: engine(t, &w.write, &w.read)}
	must := func(status int, method, path, body string, header ...string) map[string]any {
		t.Helper()
		rec, told := c.ask(method, path, body, header...)
		if rec.Code != status {
			t.Fatalf("%s %s: got %d %s, want %d", method, path, rec.Code, rec.Body, status)
		}
		return told
	}
	refused := func(slug string, status int, method, path, body string) {
		t.Helper()
		if told := must(status, method, path, body); told["type"] != "/problems/"+slug {
			t.Errorf("%s %s: got %v, want %s", method, path, told["type"], slug)
		}
	}
	tell := func(status int, channel string, n commands.Notice) {
		t.Helper()
		text, err := json.Marshal([]commands.Notice{n})
		w.must(err)
		must(status, "POST", "/v1/channels/"+channel+"/callback", string(text))
	}
	const buyer, offer = `{"buyer_id":"123456"}`, `{"seller_id":"s1","title":"Tea","unit_price":{"amount":100,"currency":"CNY"},"freight":{"amount":5,"currency":"CNY"}}`
	must(201, "PUT", "/v1/skus/tea:1", offer)
	must(201, "PUT", "/v1/skus/air:1", `{"seller_id":"s1","title":"Air","unit_price":{"amount":0,"currency":"CNY"}}`)
	for _, sku := range []string{"tea:1", "air:1"} {
		must(201, "POST", "/v1/inventory/"+sku+"/receipts", `{"quantity":100}`)
	}
	checkout := func(sku string) (id string) {
		t.Helper()
		id = fmt.Sprint(must(201, "POST", "/v1/order-ids", buyer)["order_id"])
		must(201, "POST", "/v1/checkouts", `{"order_id":"`+id+`","buyer_id":"123456","items":[{"sku":"`+sku+`","quantity":2}],
			"address":{"name":"x","line1":"x","city":"x","country":"CN"}}`)
		return id
	}
	cny := func(amount int64) money.Money { return money.Money{Amount: amount, Currency: "CNY"} }

	id, free, cancelled := checkout("tea:1"), checkout("air:1"), checkout("tea:1")
	start := "/v1/checkouts/" + id + "/payments"
	refused("unknown_channel", 404, "POST", start, `{"channel":"shell"}`)
	refused("invalid_channel", 400, "POST", start, `{"channel":"The Till"}`)
	refused("wrong_amount", 422, "POST", start, `{"channel":"till","expected_amount":{"amount":1,"currency":"CNY"}}`)
	refused("nothing_to_pay", 422, "POST", "/v1/checkouts/"+free+"/payments", `{"channel":"till"}`)
	refused("unknown_order", 404, "POST", "/v1/checkouts/0598392000000123456/payments", `{"channel":"till"}`)
	must(200, "POST", "/v1/orders/"+cancelled+"/cancel", `{"reason":"buyer"}`)
	refused("not_payable", 409, "POST", "/v1/checkouts/"+cancelled+"/payments", `{"channel":"till"}`)
	w.till.refuses = "closed"
	refused("channel_refused", 422, "POST", start, `{"channel":"till"}`)
	w.till.refuses = ""
	asked := must(201, "POST", start, `{"channel":"till","expected_amount":{"amount":210,"currency":"CNY"},"options":{"scene":"app"}}`)
	paying := fmt.Sprint(asked["payment_id"])
	at := "/v1/payments/" + paying
	must(503, "GET", at, ``, token.Header, token.Encode(map[string]event.Revision{"payment-" + paying: 1}))
	w.project()
	must(200, "GET", at, ``)

	must(404, "POST", "/v1/channels/shell/callback", `[]`)
	must(400, "POST", "/v1/channels/till/callback", `?`)
	for _, n := range []commands.Notice{
		{Kind: commands.NoticePaid, Payment: paying, Trade: "t-1", Money: cny(210)},
		{Kind: commands.NoticePaid, Payment: paying, Trade: "t-1", Money: cny(210)},
		{Kind: commands.NoticePaid, Payment: paying, Trade: "t-2", Money: cny(7)},
		{Kind: commands.NoticePaid, Payment: paying, Trade: "t-3", Money: money.Money{Amount: 7, Currency: "USD"}},
		{Kind: commands.NoticePaid, Payment: "nobody", Trade: "t-4", Money: cny(7)},
	} {
		tell(200, "till", n)
	}
	w.settlePayment(paying)
	w.settle(id)
	refused("already_paid", 409, "POST", start, `{"channel":"till"}`)

	// The channel refuses to give back what comes by it.
	w.till.refuses = "closed"
	refused("freight_alone", 400, "POST", "/v1/orders/"+id+"/refunds", `{"lines":[{"line":1,"freight":true,"quantity":1}]}`)
	must(201, "POST", "/v1/orders/"+id+"/refunds", `{"lines":[{"line":1,"freight":true}],"by":"s1"}`)
	w.settle(id)
	must(201, "POST", at+"/returns", `{"trade":"t-2"}`)
	refused("already_returned", 409, "POST", at+"/returns", `{"trade":"t-2"}`)
	refused("not_returnable", 409, "POST", at+"/returns", `{"trade":"t-3"}`)
	refused("unknown_trade", 404, "POST", at+"/returns", `{"trade":"t-1"}`)
	resolve := "/v1/channels/till/trades/"
	must(200, "POST", resolve+"t-3/resolve", `{"reason":"given back at the till"}`)
	must(200, "POST", resolve+"t-4/resolve", `{"reason":"given back at the till","by":"ops"}`)
	refused("already_returned", 409, "POST", resolve+"t-4/resolve", `{"reason":"twice"}`)
	refused("unknown_trade", 404, "POST", resolve+"t-9/resolve", `{"reason":"of nobody"}`)
	refused("missing_field", 400, "POST", resolve+"t-9/resolve", `{}`)
	must(404, "POST", "/v1/payments/nobody/returns", `{"trade":"t-1"}`)
	redirect := at + "/refunds/" + id + ".1/redirect"
	w.settlePayment(paying)
	w.project()
	must(200, "GET", at, ``)
	refused("unknown_way", 400, "POST", redirect, `{"to":"moon"}`)
	refused("no_account", 422, "POST", redirect, `{"to":"balance"}`)
	refused("unknown_refund", 404, "POST", at+"/refunds/nothing/redirect", `{"to":"channel"}`)
	must(201, "POST", "/v1/accounts", `{"account_id":"123456","currency":"CNY"}`)
	w.till.refuses = ""
	must(200, "POST", redirect, `{"to":"balance"}`)
	refused("refund_requested", 409, "POST", redirect, `{"to":"channel"}`)
	w.settlePayment(paying)
	w.settle(id)
	refused("refund_succeeded", 409, "POST", redirect, `{"to":"channel"}`)

	must(201, "POST", "/v1/orders/"+id+"/parcels", `{"lines":[{"line":1,"quantity":2}],"waybill":{"carrier":"SF","number":"1"}}`)
	must(200, "POST", "/v1/orders/"+id+"/parcels/1/delivered", ``)
	w.project()
	if told := must(200, "GET", "/v1/orders/"+id, ``); told["completes_at"] == nil || told["payment_id"] != paying {
		t.Errorf("got %v", told)
	}
	must(200, "POST", "/v1/orders/"+id+"/complete", ``)
	w.settle(id)
	must(201, "POST", "/v1/orders/"+id+"/refunds", `{"lines":[{"line":1,"quantity":1}],"by":"s1"}`)
	w.settle(id)
	w.settlePayment(paying)
	w.settle(id)
	must(201, "POST", "/v1/accounts/seller.s1.CNY/withdrawals", `{"amount":{"amount":1,"currency":"CNY"}}`)
	w.project()
	for path, member := range map[string]string{
		at: "captured_at", start: "items", "/v1/orders/" + id: "settlement", "/v1/sellers/s1/orders": "items",
		"/v1/accounts/seller.s1.CNY": "balance", "/v1/accounts/seller.s1.CNY/entries": "items", "/v1/accounts/platform.clearing.till.CNY": "balance",
		"/v1/sellers/s1/settlements?currency=CNY": "items", "/v1/sellers/s1/settlements?currency=CNY&limit=1": "next_cursor",
		"/v1/sellers/nobody/settlements?currency=BRL": "items", "/v1/checkouts/" + cancelled + "/payments": "items",
	} {
		if told := must(200, "GET", path, ``); told[member] == nil {
			t.Errorf("%s: it has no %s: %v", path, member, told)
		}
	}
	for _, path := range []string{"/v1/accounts/seller.s1.CNY/statement.csv", "/v1/sellers/s1/settlements.csv?currency=CNY", "/v1/sellers/nobody/settlements.csv?currency=CNY"} {
		must(200, "GET", path, ``)
	}
	for path, status := range map[string]int{
		"/v1/payments/none": 404, "/v1/payments/a@b": 400, "/v1/checkouts/1/payments": 400, "/v1/sellers/s1/settlements": 400,
		"/v1/sellers/s1/settlements?currency=CNY&cursor=x": 400, "/v1/sellers/s1/settlements.csv": 400,
		"/v1/accounts/none/statement.csv": 404, "/v1/accounts/seller.s1.XXX/statement.csv": 400, "/v1/accounts/seller.s1.XXX": 400,
	} {
		must(status, "GET", path, ``)
	}
	if tag := must304(c, at); tag == "" {
		t.Errorf("%s has no version", at)
	}
}

// must304 gives the version of what is at a path, whose reader is told that it
// has not changed.
func must304(c *client, path string) string {
	c.t.Helper()
	rec, _ := c.ask(http.MethodGet, path, ``)
	tag := rec.Header().Get("ETag")
	if again, _ := c.ask(http.MethodGet, path, ``, "If-None-Match", tag); again.Code != http.StatusNotModified {
		c.t.Errorf("%s at %s: got %d", path, tag, again.Code)
	}
	return tag
}
