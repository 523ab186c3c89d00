package wechatpay_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cartwright/commands"
	"cartwright/domain"
)

func returning(key string, fen int64) commands.Returning {
	return commands.Returning{Payment: "pay-0598392", Key: key, Amount: yuan(fen), Total: yuan(64900), Reason: "卖完了"}
}

func TestARefundIsMadeOncePerKey(t *testing.T) {
	p := newPlatform(t)
	c := p.client()
	want := commands.Notice{Kind: commands.NoticePending, Payment: "pay-0598392", Trade: "42000001", Refund: "order-1.line-2", Money: yuan(100)}
	for range 2 {
		got, err := c.Refund(t.Context(), returning("order-1.line-2", 100))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatalf("%v %s", err, diff)
		}
	}
	sent := map[string]any{
		"out_trade_no": "pay-0598392", "out_refund_no": "order-1_line-2", "reason": "卖完了", "notify_url": noticeURL,
		"amount": map[string]any{"refund": 100., "total": 64900., "currency": "CNY"},
	}
	if diff := cmp.Diff(sent, p.bodies[pathRefund]); diff != "" {
		t.Error(diff)
	}
	if len(p.refunds) != 1 {
		t.Errorf("%d refunds", len(p.refunds))
	}
}

func TestARefundEndsAsWeChatSays(t *testing.T) {
	at := time.Date(2026, 5, 20, 5, 29, 35, 0, time.UTC)
	for status, want := range map[string]commands.Notice{
		"SUCCESS":  {Kind: commands.NoticeRefunded},
		"ABNORMAL": {Kind: commands.NoticeRefundFailed, Note: "ABNORMAL"},
		"CLOSED":   {Kind: commands.NoticeRefundFailed, Note: "CLOSED"},
	} {
		p := newPlatform(t)
		c := p.client()
		if _, err := c.Refund(t.Context(), returning("r1", 100)); err != nil {
			t.Fatal(err)
		}
		p.set(p.refunds, "r1", "status", status)
		p.set(p.refunds, "r1", "success_time", year)
		want.Payment, want.Trade, want.Refund, want.Money, want.At = "pay-0598392", "42000001", "r1", yuan(100), at
		got, err := c.Refund(t.Context(), returning("r1", 100))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", status, err, diff)
		}
	}
}

func TestARefundThatWasMadeIsFoundThoughItsRepeatIsRefused(t *testing.T) {
	p := newPlatform(t)
	c := p.client()
	if _, err := c.Refund(t.Context(), returning("r1", 64900)); err != nil {
		t.Fatal(err)
	}
	p.set(p.refunds, "r1", "status", "SUCCESS")
	lookup := http.StatusOK
	p.breaks(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost:
			p.no(w, http.StatusBadRequest, "INVALID_REQUEST") // it is given back in full
		case lookup == http.StatusOK:
			p.say(w, lookup, p.refunds[strings.TrimPrefix(r.URL.Path, pathRefund+"/")])
		default:
			p.no(w, lookup, "SYSTEM_ERROR")
		}
	})
	if got, err := c.Refund(t.Context(), returning("r1", 64900)); err != nil || got.Kind != commands.NoticeRefunded {
		t.Errorf("got %v, %v", got, err)
	}
	lookup = http.StatusInternalServerError
	if got, err := c.Refund(t.Context(), returning("r1", 64900)); domain.CodeOf(err) != domain.Unavailable {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestARefundThatCannotBeIsNotSent(t *testing.T) {
	p := newPlatform(t)
	for name, r := range map[string]commands.Returning{
		"more than was paid": returning("r1", 64901),
		"nothing":            returning("r1", 0),
		"no key":             returning("", 1),
		"a strange key":      returning("a_b", 1),
		"a long key":         returning(strings.Repeat("k", 65), 1),
		"a strange payment":  {Payment: "p", Key: "r1", Amount: yuan(1), Total: yuan(1)},
	} {
		if _, err := p.client().Refund(t.Context(), r); domain.CodeOf(err) != domain.Rejected || p.asked != 0 {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestEveryKeyOfARefundComesBackAsItWas(t *testing.T) {
	p := newPlatform(t)
	c := p.client()
	rapid.Check(t, func(rt *rapid.T) {
		key := rapid.StringMatching(`[0-9A-Za-z.-]{1,64}`).Draw(rt, "key")
		fen := rapid.Int64Range(1, 64900).Draw(rt, "fen")
		body := seal(t, apiKey, "REFUND.SUCCESS", map[string]any{
			"mchid": merchant, "out_trade_no": "pay-0598392", "transaction_id": "42000001", "refund_status": "SUCCESS", "success_time": year,
			"out_refund_no": strings.ReplaceAll(key, ".", "_"), "amount": map[string]any{"total": 64900, "refund": fen},
		})
		got, err := c.Read(t.Context(), sign(t, platformKey(), time.Now(), body), body)
		if err != nil || len(got) != 1 || got[0].Refund != key || got[0].Money != yuan(fen) {
			rt.Fatalf("got %v, %v", got, err)
		}
	})
}
