package readapi_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/domain/account"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
)

// completes leads an order that is paid from the balance to its end, and settles
// with its seller.
func (w *world) completes(id orderid.ID, quantity int64) {
	w.t.Helper()
	w.pays(id)
	w.does(id, order.Pack{Lines: []order.Part{{Line: 1, Quantity: quantity}}, Carrier: "SF", Number: "1"})
	w.does(id, order.Complete{By: "123456"})
	w.settles("order-" + string(id))
}

// bazaar is a world in which s1 has earned by two orders, given one back, and
// been paid out.
func bazaar(t *testing.T) (w *world, first, second orderid.ID) {
	t.Helper()
	w = newWorld(t)
	w.sells("s1", "tea:1", "Tea", 100, "CNY")
	w.funds(10_000)
	first, second = w.buys("123456", "tea:1", 1), w.buys("123456", "tea:1", 2)
	w.completes(first, 1)
	w.completes(second, 2)
	w.does(second, order.Refund{Lines: []order.RefundRequest{{Line: 1, Quantity: 1}}, By: "s1"})
	w.settles("order-" + string(second))
	id := account.Seller("s1", "CNY")
	must2(w.shop.Account(t.Context(), w.request(), id, account.Withdraw{Amount: 100, Currency: "CNY", Journal: "payout-1", Reference: "bank"}))(t)
	must2(w.shop.Account(t.Context(), w.request(), id, account.Deposit{Amount: 3, Currency: "CNY", Journal: "payin-1"}))(t)
	// Journals of no order's may be called what they like.
	for i, journal := range []string{"settle-0598392000000123456x", "gift-1"} {
		must2(w.shop.Account(t.Context(), w.request(), id, account.Credit{
			Account: id, Currency: "CNY", Amount: int64(i + 1), Journal: journal, From: account.Escrow("CNY"), Reason: "gift",
		}))(t)
	}
	must2(w.shop.Account(t.Context(), w.request(), id, account.Debit{
		Account: id, Currency: "CNY", Amount: 500, Journal: "clawback-0598392000000123456", To: account.Escrow("CNY"), Reason: "no number",
	}))(t)
	w.project()
	return w, first, second
}

func TestASellersSettlements(t *testing.T) {
	w, first, second := bazaar(t)
	want := [][]any{ // newest first; the commission is a tenth, ties to the even one
		{"other", nil, -500.0, -405.0},
		{"other", nil, 2.0, 95.0},
		{"other", nil, 1.0, 93.0},
		{"deposit", nil, 3.0, 92.0},
		{"withdrawal", nil, -100.0, 89.0},
		{"refund", string(second), -95.0, 189.0},
		{"settlement", string(second), 189.0, 284.0},
		{"settlement", string(first), 95.0, 95.0},
	}
	amountOf := func(v any) any {
		m, _ := v.(map[string]any)
		if m["currency"] != "CNY" {
			t.Errorf("an amount is %v", v)
		}
		return m["amount"]
	}
	var got [][]any
	items, _ := w.object("/v1/sellers/s1/settlements?currency=CNY")["items"].([]any)
	for i, one := range items {
		item, _ := one.(map[string]any)
		got = append(got, []any{item["kind"], item["order_id"], amountOf(item["amount"]), amountOf(item["balance"])})
		at, _ := item["at"].(string)
		if _, err := time.Parse(time.RFC3339, at); err != nil || item["entry"] != float64(len(items)-i) || item["journal"] == "" {
			t.Errorf("line %d is %v", i, item)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if told := w.object("/v1/accounts/" + account.Seller("s1", "CNY")); amountOf(told["balance"]) != -405.0 {
		t.Errorf("the seller's account is to be read by its name: %v", told)
	}
}

func TestSettlementsComeInPages(t *testing.T) {
	w, _, _ := bazaar(t)
	path := "/v1/sellers/s1/settlements?currency=CNY"
	var all []string
	next, pages := "", 0
	for range 9 {
		page, more := w.list(path+"&limit=3"+next, "entry")
		all, pages = append(all, page...), pages+1
		if more == "" {
			break
		}
		next = "&cursor=" + more
	}
	if want := []string{"8", "7", "6", "5", "4", "3", "2", "1"}; !slices.Equal(all, want) || pages != 3 {
		t.Errorf("got %v in %d pages", all, pages)
	}
	_, cursor := w.list(path+"&limit=1", "entry")
	for _, other := range []string{
		"/v1/sellers/s1/settlements?currency=BRL", "/v1/sellers/s2/settlements?currency=CNY",
		"/v1/accounts/" + account.Seller("s1", "CNY") + "/entries?limit=1",
	} {
		w.refused(w.get(other+"&cursor="+cursor), http.StatusBadRequest, "cursor_invalid")
	}
}

func TestASellerWhoHasEarnedNothingHasAnEmptyStatement(t *testing.T) {
	w, _, _ := bazaar(t)
	for _, path := range []string{"/v1/sellers/s1/settlements?currency=BRL", "/v1/sellers/nobody/settlements?currency=CNY"} {
		told := w.object(path)
		if items, _ := told["items"].([]any); items == nil || len(items) != 0 || told["next_cursor"] != nil {
			t.Errorf("%s: got %v", path, told)
		}
	}
}

func TestSettlementsWaitForTheSellersAccount(t *testing.T) {
	w, _, _ := bazaar(t)
	id := "account-" + account.Seller("s1", "CNY")
	for _, path := range []string{"/v1/sellers/s1/settlements?currency=CNY", "/v1/sellers/s1/settlements.csv?currency=CNY"} {
		if rec := w.get(path, seen(id, w.newest(id))...); rec.Code != http.StatusOK {
			t.Errorf("%s: got %d %s", path, rec.Code, rec.Body)
		}
		w.refused(w.get(path, seen(id, w.newest(id)+1)...), http.StatusServiceUnavailable, "not_caught_up")
		if rec := w.get(path, seen("account-123456", 999)...); rec.Code != http.StatusOK {
			t.Errorf("%s: another account does not matter, but %d %s", path, rec.Code, rec.Body)
		}
	}
}
