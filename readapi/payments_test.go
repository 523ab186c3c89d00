package readapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/payment"
)

func cny(amount int64) money.Money { return money.Money{Amount: amount, Currency: "CNY"} }

// without takes times out of an answer, each of which must be one.
func without(t *testing.T, told map[string]any, names ...string) map[string]any {
	t.Helper()
	for _, name := range names {
		text, _ := told[name].(string)
		if at, err := time.Parse(time.RFC3339, text); err != nil || !strings.HasSuffix(text, "Z") || at.Before(today) || at.After(today.Add(time.Hour)) {
			t.Errorf("%s is %v", name, told[name])
		}
		delete(told, name)
	}
	return told
}

// letters is an answer as it is to be, by the letter.
func letters(t *testing.T, text string, replace ...string) (want map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(strings.NewReplacer(replace...).Replace(text)), &want); err != nil {
		t.Fatal(err)
	}
	return want
}

// TestAPaymentByTheLetter pins down what a payment looks like, before it is made
// and after much has become of it.
func TestAPaymentByTheLetter(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	id := w.buys("123456", "tea:1", 2)
	paying := w.asks(id)
	w.project()
	names := []string{"ID", string(id), "PAYMENT", paying}
	const head = `{
		"payment_id": "PAYMENT", "checkout_id": "ID", "buyer_id": "123456", "channel": "till", "amount": {"amount":210,"currency":"CNY"},
		"orders": [{"order_id":"ID","seller_id":"s1","amount":{"amount":210,"currency":"CNY"}}], "reference": "ref-PAYMENT", `
	want := letters(t, head+`"status": "pending", "captured": {"amount":0,"currency":"CNY"}, "refunded": {"amount":0,"currency":"CNY"},
		"instruction": {"link":"https://till.example/PAYMENT"}, "applied": false, "trades": [], "refunds": [], "revision": 2}`, names...)
	if diff := cmp.Diff(want, without(t, w.object("/v1/payments/"+paying), "expires_at", "created_at", "changed_at")); diff != "" {
		t.Errorf("open: %s", diff)
	}

	w.receives(paying, "t-1", cny(210))
	w.receives(paying, "t-2", cny(7))
	w.does(id, order.Refund{Lines: []order.RefundRequest{{Line: 1, Quantity: 1}}, Reason: "late", By: "s1"})
	w.settles("order-"+string(id), "payment-"+paying)
	must2(w.shop.ReturnTrade(t.Context(), w.request(), paying, "t-2"))(t)
	w.till.refuses = "closed"
	w.settles("payment-" + paying)
	w.project()
	rec := w.get("/v1/payments/" + paying)
	got := w.object("/v1/payments/" + paying)
	revision, _ := got["revision"].(float64)
	if want := fmt.Sprintf(`"v%d"`, int(revision)); rec.Header().Get("ETag") != want {
		t.Errorf("ETag is %s, want %s", rec.Header().Get("ETag"), want)
	}
	delete(got, "revision")
	refunds, _ := got["refunds"].([]any)
	returned, _ := refunds[1].(map[string]any)
	want = letters(t, head+`"status": "partially_refunded", "captured": {"amount":210,"currency":"CNY"}, "refunded": {"amount":105,"currency":"CNY"},
		"applied": true,
		"trades": [{"trade":"t-1","amount":{"amount":210,"currency":"CNY"},"returned":false},
			{"trade":"t-2","amount":{"amount":7,"currency":"CNY"},"mismatch":"wrong_amount","returned":true}],
		"refunds": [
			{"refund":"ID.1","order_id":"ID","amount":{"amount":105,"currency":"CNY"},"reason":"late","to":"channel","status":"succeeded"},
			{"refund":"KEY","trade":"t-2","amount":{"amount":7,"currency":"CNY"},"reason":"not_asked_for","to":"channel","status":"failed","failure":"closed"}]
		}`, append(names, "KEY", fmt.Sprint(returned["refund"]))...)
	if diff := cmp.Diff(want, without(t, got, "expires_at", "created_at", "captured_at", "changed_at")); diff != "" {
		t.Errorf("afterwards: %s", diff)
	}
}

func TestAPaymentSaysWhatHasGoneBack(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	id := w.buys("123456", "tea:1", 2)
	paying := w.asks(id)
	w.receives(paying, "t-1", cny(210))
	state := func() []any {
		w.project()
		told := w.object("/v1/payments/" + paying)
		return []any{told["status"], told["refunded"]}
	}
	told := func(status string, amount float64) []any {
		return []any{status, map[string]any{"amount": amount, "currency": "CNY"}}
	}
	if got := state(); !cmp.Equal(got, told("captured", 0)) {
		t.Errorf("paid, it is %v", got)
	}
	w.does(id, order.Refund{Lines: []order.RefundRequest{{Line: 1, Quantity: 1}}, By: "s1"})
	w.till.refuses = "closed"
	w.settles("order-"+string(id), "payment-"+paying)
	if got := state(); !cmp.Equal(got, told("captured", 0)) {
		t.Errorf("refused by the channel, it is %v", got)
	}
	w.till.refuses = ""
	must2(w.shop.RedirectRefund(t.Context(), w.request(), paying, payment.RedirectRefund{Refund: string(id) + ".1", To: payment.ToChannel}))(t)
	w.settles("payment-" + paying)
	if got := state(); !cmp.Equal(got, told(string(order.PartiallyRefunded), 105)) {
		t.Errorf("half of it back, it is %v", got)
	}
	w.does(id, order.Refund{By: "s1"})
	w.settles("order-"+string(id), "payment-"+paying)
	if got := state(); !cmp.Equal(got, told(string(order.FullyRefunded), 210)) {
		t.Errorf("all of it back, it is %v", got)
	}
}

func TestOnlyAnOpenPaymentTellsHowToPay(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	id := w.buys("123456", "tea:1", 1)
	paying := w.asks(id)
	w.project()
	if told := w.object("/v1/payments/" + paying); told["instruction"] == nil || told["failure"] != nil {
		t.Errorf("open: %v", told)
	}
	err := w.shop.Notify(t.Context(), "till", commands.Notice{Kind: commands.NoticeFailed, Payment: paying, Note: "revoked"})
	if err != nil {
		t.Fatal(err)
	}
	w.project()
	if told := w.object("/v1/payments/" + paying); told["instruction"] != nil || told["status"] != "failed" || told["failure"] != "revoked" {
		t.Errorf("failed: %v", told)
	}
}

// TestAllPaymentsOfACheckoutAreFound begins as many as there may be.
func TestAllPaymentsOfACheckoutAreFound(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	id, other := w.buys("123456", "tea:1", 1), w.buys("123456", "tea:1", 1)
	var want []string
	for len(want) < 100 {
		asked, err := w.shop.StartPayment(t.Context(), w.request(), commands.PaymentRequest{Checkout: id, Channel: "till"})
		if domain.ReasonOf(err) == "too_many_payments" {
			break
		}
		want = append(want, must(t, asked, err).Payment.ID)
	}
	path := "/v1/checkouts/" + string(id) + "/payments"
	if got, _ := w.list(path, "payment_id"); len(got) != 0 {
		t.Errorf("no view has them, but %v", got)
	}
	w.project()
	got, _ := w.list(path, "payment_id")
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 2 {
		t.Errorf("of %d: %s", len(want), diff)
	}
	if w.payments.asked != 2 {
		t.Errorf("the view was asked %d times for two lists", w.payments.asked)
	}
	told := w.object(path)
	items, _ := told["items"].([]any)
	first, _ := items[0].(map[string]any)
	if diff := cmp.Diff(w.object("/v1/payments/"+want[0]), first); diff != "" || len(told) != 1 {
		t.Errorf("in a list it is another: %s", diff)
	}
	for _, none := range []orderid.ID{other, "0598392000009123456"} {
		if got, _ := w.list("/v1/checkouts/"+string(none)+"/payments", "payment_id"); len(got) != 0 {
			t.Errorf("%s has %v", none, got)
		}
	}
}

func TestPaymentsWaitForTheirOwnStreamsOnly(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	id, other := w.buys("123456", "tea:1", 1), w.buys("123456", "tea:1", 1)
	paying := w.asks(id)
	w.asks(other)
	var told []string
	w.cfg.Waited = func(view string, _ time.Duration, outcome string) { told = append(told, view+" "+outcome) }
	w.mount()
	one, list := "/v1/payments/"+paying, "/v1/checkouts/"+string(id)+"/payments"
	w.refused(w.get(one), http.StatusNotFound, "unknown_payment")
	for _, path := range []string{one, list} {
		w.refused(w.get(path, seen("payment-"+paying, 2)...), http.StatusServiceUnavailable, "not_caught_up")
	}
	w.project()
	for _, path := range []string{one, list} {
		for stream, at := range map[string]event.Revision{"payment-" + paying: 2, "payment-" + string(other) + "-1": 99, "order-" + string(id): 99} {
			if rec := w.get(path, seen(stream, at)...); rec.Code != http.StatusOK {
				t.Errorf("%s after %s: got %d %s", path, stream, rec.Code, rec.Body)
			}
		}
	}
	if want := []string{"payments late", "payments late", "payments met", "payments met"}; !slices.Equal(told, want) {
		t.Errorf("told of %v", told)
	}
	w.refused(w.get("/v1/payments/"+paying+"0"), http.StatusNotFound, "unknown_payment")
	w.refused(w.get(one, seen("payment-"+paying, 99)...), http.StatusServiceUnavailable, "not_caught_up")
}

// TestAnOrderTellsOfItsMoney pins down what an order says of the payment it came
// by, of what its seller has earned, and of who bore a refund.
func TestAnOrderTellsOfItsMoney(t *testing.T) {
	w := newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	id := w.buys("123456", "tea:1", 3)
	stream, path := "order-"+string(id), "/v1/orders/"+string(id)
	told := func() map[string]any { return w.object(path, seen(stream, w.newest(stream))...) }
	before := told()
	for _, name := range []string{"payment_id", "method", "settlement", "completes_at"} {
		if before[name] != nil {
			t.Errorf("nothing is paid, but %s is %v", name, before[name])
		}
	}
	paying := w.asks(id)
	w.receives(paying, "t-1", cny(315))
	w.settles(stream)
	w.does(id, order.Refund{Lines: []order.RefundRequest{{Line: 1, Freight: true}}, By: "s1"})
	w.settles(stream, "payment-"+paying, stream)
	w.does(id, order.Pack{Lines: []order.Part{{Line: 1, Quantity: 3}}, Carrier: "SF", Number: "1"})
	w.does(id, order.Deliver{Parcel: 1, Completes: today.AddDate(0, 0, 7)})
	if got := told(); got["payment_id"] != paying || got["method"] != "till" || got["completes_at"] != "2026-07-08T12:00:00Z" || got["settlement"] != nil {
		t.Errorf("paid and delivered: %v", got)
	}
	w.does(id, order.Complete{By: "123456"})
	if got := told(); got["completes_at"] != nil || got["settlement"] != nil {
		t.Errorf("completed: %v", got)
	}
	w.settles(stream)
	w.does(id, order.Refund{Lines: []order.RefundRequest{{Line: 1, Quantity: 1}}, By: "s1"})
	w.settles(stream, "payment-"+paying, stream)
	after := told()
	want := letters(t, `{
		"settlement": {"gross":{"amount":300,"currency":"CNY"},"commission":{"amount":30,"currency":"CNY"},"net":{"amount":270,"currency":"CNY"},
			"commission_back":{"amount":10,"currency":"CNY"},"posted":true},
		"refunds": [
			{"refund":1,"amount":{"amount":15,"currency":"CNY"},"by":"s1","restock":false,"settled":true,"from_seller":false,
				"lines":[{"line":1,"unshipped":0,"returned":0,"amount":{"amount":15,"currency":"CNY"},"freight":{"amount":15,"currency":"CNY"}}]},
			{"refund":2,"amount":{"amount":100,"currency":"CNY"},"by":"s1","restock":false,"settled":true,"from_seller":true,"commission":{"amount":10,"currency":"CNY"},
				"lines":[{"line":1,"unshipped":0,"returned":1,"amount":{"amount":100,"currency":"CNY"},"freight":{"amount":0,"currency":"CNY"}}]}]
	}`)
	if diff := cmp.Diff(want, map[string]any{"settlement": after["settlement"], "refunds": after["refunds"]}); diff != "" {
		t.Error(diff)
	}
}
