package alipay_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/money"
)

func returning(key string, fen int64) commands.Returning {
	return commands.Returning{Payment: "pay-0598392", Key: key, Amount: yuan(fen), Total: yuan(64900), Reason: "卖完了"}
}

func TestARefundIsMadeOncePerKey(t *testing.T) {
	g := newGateway(t)
	g.begin("pay_0598392", "TRADE_SUCCESS", "649.00")
	want := commands.Notice{Kind: commands.NoticeRefunded, Payment: "pay-0598392", Trade: "2026052022001", Refund: "order-1.line-2", Money: yuan(105)}
	for i := range 3 {
		if i > 0 { // asked for, and not made
			want.At = time.Date(2026, 5, 20, 5, 29, 35, 0, time.UTC)
		}
		got, err := g.client().Refund(t.Context(), returning("order-1.line-2", 105))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatalf("%v %s", err, diff)
		}
	}
	sent := map[string]any{"out_trade_no": "pay_0598392", "out_request_no": "order-1.line-2", "refund_amount": "1.05", "refund_reason": "卖完了"}
	if diff := cmp.Diff(sent, g.sent["alipay.trade.refund"]); diff != "" {
		t.Error(diff)
	}
}

func TestARefundThatMovedNothingYetIsPending(t *testing.T) {
	g := newGateway(t)
	g.begin("pay_0598392", "TRADE_SUCCESS", "649.00")
	g.refunds["r1"] = map[string]string{"code": "10000", "out_trade_no": "pay_0598392", "trade_no": "2026052022001"}
	got, err := g.client().Refund(t.Context(), returning("r1", 100))
	want := commands.Notice{Kind: commands.NoticePending, Payment: "pay-0598392", Trade: "2026052022001", Refund: "r1"}
	if err != nil || got != want {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	g.refunds["r1"]["refund_status"], g.refunds["r1"]["refund_amount"] = "REFUND_SUCCESS", "1"
	if got, err := g.client().Refund(t.Context(), returning("r1", 100)); domain.CodeOf(err) != domain.Unavailable { // it names another
		t.Errorf("got %v, %v", got, err)
	}
}

func TestARefundThatWasMadeIsFoundThoughItsRepeatIsRefused(t *testing.T) {
	g := newGateway(t)
	g.begin("pay_0598392", "TRADE_SUCCESS", "649.00")
	if _, err := g.client().Refund(t.Context(), returning("r1", 64900)); err != nil {
		t.Fatal(err)
	}
	broken := false
	g.breaks(func(w http.ResponseWriter, method string) bool {
		switch {
		case method == "alipay.trade.refund":
			g.no(w, method, "ACQ.TRADE_STATUS_ERROR")
		case broken:
			g.no(w, method, "ACQ.SYSTEM_ERROR")
		default:
			return false
		}
		return true
	})
	if got, err := g.client().Refund(t.Context(), returning("r1", 64900)); err != nil || got.Kind != commands.NoticeRefunded || got.Money != yuan(64900) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := g.client().Refund(t.Context(), returning("r2", 1)); domain.CodeOf(err) != domain.Rejected {
		t.Errorf("got %v, %v", got, err)
	}
	broken = true
	if got, err := g.client().Refund(t.Context(), returning("r1", 64900)); domain.CodeOf(err) != domain.Unavailable {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestASellersEmptyAccountRefusesNothing(t *testing.T) {
	g := newGateway(t)
	g.breaks(func(w http.ResponseWriter, method string) bool {
		g.no(w, method, "ACQ.SELLER_BALANCE_NOT_ENOUGH")
		return true
	})
	if got, err := g.client().Refund(t.Context(), returning("r1", 1)); domain.CodeOf(err) != domain.Unavailable {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestARefundThatCannotBeIsNotSent(t *testing.T) {
	g := newGateway(t)
	for name, r := range map[string]commands.Returning{
		"more than was paid": returning("r1", 64901),
		"nothing":            returning("r1", 0),
		"no key":             returning("", 1),
		"a strange key":      returning("a_b", 1),
		"a long key":         returning(strings.Repeat("k", 65), 1),
		"a strange payment":  {Payment: "p.1", Key: "r1", Amount: yuan(1), Total: yuan(1)},
		"dollars":            {Payment: "p-1", Key: "r1", Amount: money.Money{Amount: 1, Currency: "USD"}, Total: yuan(1)},
	} {
		if _, err := g.client().Refund(t.Context(), r); domain.CodeOf(err) != domain.Rejected || g.asked != 0 {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
