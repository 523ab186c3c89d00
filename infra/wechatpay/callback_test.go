package wechatpay_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/infra/wechatpay"
)

// now is the clock of who reads callbacks.
var now = time.Date(2026, 5, 20, 5, 30, 0, 0, time.UTC)

func reader(t *testing.T) *wechatpay.Client {
	t.Helper()
	cfg := config(t)
	cfg.Now = func() time.Time { return now }
	return client(t, cfg)
}

func TestACallbackSaysWhatWasPaid(t *testing.T) {
	body := seal(t, apiKey, "TRANSACTION.SUCCESS", transaction("pay-0598392", 64900))
	want := []commands.Notice{{
		Kind: commands.NoticePaid, Payment: "pay-0598392", Trade: "42000001", Money: yuan(64900), At: time.Date(2026, 5, 20, 5, 29, 35, 0, time.UTC),
	}}
	for range 2 { // a repeat says the same
		got, err := reader(t).Read(t.Context(), sign(t, platformKey(), now, body), body)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
}

func TestEveryAmountComesThroughACallback(t *testing.T) {
	c := reader(t)
	rapid.Check(t, func(rt *rapid.T) {
		fen := rapid.Int64Min(1).Draw(rt, "fen")
		body := seal(t, apiKey, "TRANSACTION.SUCCESS", transaction("pay-0598392", fen))
		got, err := c.Read(t.Context(), sign(t, platformKey(), now, body), body)
		if err != nil || len(got) != 1 || got[0].Money != yuan(fen) {
			rt.Fatalf("got %v, %v", got, err)
		}
	})
}

func TestACallbackTellsOfRefunds(t *testing.T) {
	for status, want := range map[string][]commands.Notice{
		"SUCCESS":    {{Kind: commands.NoticeRefunded, At: time.Date(2026, 5, 20, 5, 29, 35, 0, time.UTC)}},
		"ABNORMAL":   {{Kind: commands.NoticeRefundFailed, Note: "ABNORMAL"}},
		"CLOSED":     {{Kind: commands.NoticeRefundFailed, Note: "CLOSED"}},
		"PROCESSING": nil,
	} {
		content := map[string]any{
			"mchid": merchant, "out_trade_no": "pay-0598392", "transaction_id": "42000001", "out_refund_no": "order-1_line-2",
			"refund_id": "5000", "refund_status": status, "amount": map[string]any{"total": 64900, "refund": 100, "payer_total": 60000, "payer_refund": 92},
		}
		if status == "SUCCESS" {
			content["success_time"] = year
		}
		for i := range want {
			want[i].Payment, want[i].Trade, want[i].Refund, want[i].Money = "pay-0598392", "42000001", "order-1.line-2", yuan(100)
		}
		body := seal(t, apiKey, "REFUND."+status, content)
		got, err := reader(t).Read(t.Context(), sign(t, platformKey(), now, body), body)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", status, err, diff)
		}
	}
}

func TestACallbackAboutSomethingElseIsNoNotice(t *testing.T) {
	for _, event := range []string{"PAYSCORE.USER_CONFIRM", "MCHTRANSFER.BILL.FINISHED", ""} {
		body := seal(t, apiKey, event, map[string]any{"mchid": "another"})
		if got, err := reader(t).Read(t.Context(), sign(t, platformKey(), now, body), body); got != nil || err != nil {
			t.Errorf("%q: got %v, %v", event, got, err)
		}
	}
	waiting := transaction("pay-0598392", 1)
	waiting["trade_state"] = "USERPAYING"
	body := seal(t, apiKey, "TRANSACTION.SUCCESS", waiting)
	if got, err := reader(t).Read(t.Context(), sign(t, platformKey(), now, body), body); got != nil || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestWhatIsNotWeChatsIsNotRead(t *testing.T) {
	body := seal(t, apiKey, "TRANSACTION.SUCCESS", transaction("pay-0598392", 64900))
	other := seal(t, apiKey, "TRANSACTION.SUCCESS", transaction("pay-0598392", 1))
	good := sign(t, platformKey(), now, body)
	with := func(name, value string) http.Header {
		h := good.Clone()
		h.Set(name, value)
		return h
	}
	tampered := slices.Clone(body)
	tampered[len(tampered)/2] ^= 1
	for name, c := range map[string]struct {
		header http.Header
		body   []byte
	}{
		"no header":           {http.Header{}, body},
		"another key":         {sign(t, strangeKey(), now, body), body},
		"another body":        {good, other},
		"a bit turned":        {good, tampered},
		"an empty body":       {good, nil},
		"old":                 {sign(t, platformKey(), now.Add(-301*time.Second), body), body},
		"of the future":       {sign(t, platformKey(), now.Add(301*time.Second), body), body},
		"made young":          {with("Wechatpay-Timestamp", "1779255001"), body},
		"no time":             {with("Wechatpay-Timestamp", ""), body},
		"a time without end":  {with("Wechatpay-Timestamp", "99999999999999999999"), body},
		"the end of time":     {with("Wechatpay-Timestamp", "9223372036854775807"), body},
		"an unknown serial":   {with("Wechatpay-Serial", "5157F09EFDC096DE15EBE81A47057A72"), body},
		"no serial":           {with("Wechatpay-Serial", ""), body},
		"another nonce":       {with("Wechatpay-Nonce", "x"), body},
		"no signature":        {with("Wechatpay-Signature", ""), body},
		"no base64":           {with("Wechatpay-Signature", "%"), body},
		"a probe of WeChat's": {with("Wechatpay-Signature", "WECHATPAY/SIGNTEST/"+good.Get("Wechatpay-Signature")), body},
		"another cipher":      {with("Wechatpay-Signature-Type", "WECHATPAY2-SM2-WITH-SM3"), body},
	} {
		got, err := reader(t).Read(t.Context(), c.header, c.body)
		if got != nil || domain.ReasonOf(err) != "bad_signature" || domain.CodeOf(err) != domain.Invalid {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
		if what := leaks(err); what != "" {
			t.Errorf("%s: %s in %v", name, what, err)
		}
	}
	for _, age := range []time.Duration{-300 * time.Second, 300 * time.Second} {
		if _, err := reader(t).Read(t.Context(), sign(t, platformKey(), now.Add(age), body), body); err != nil {
			t.Errorf("%s: %v", age, err)
		}
	}
}

func TestAnotherMerchantsCallbackIsNotOurs(t *testing.T) {
	for name, c := range map[string]struct {
		event, field string
		value        any
	}{
		"merchant":             {"TRANSACTION.SUCCESS", "mchid", "1900000000"},
		"no merchant":          {"TRANSACTION.SUCCESS", "mchid", nil},
		"application":          {"TRANSACTION.SUCCESS", "appid", "wx0"},
		"merchant of a refund": {"REFUND.SUCCESS", "mchid", "1900000000"},
	} {
		content := transaction("pay-0598392", 1)
		content[c.field] = c.value
		body := seal(t, apiKey, c.event, content)
		if got, err := reader(t).Read(t.Context(), sign(t, platformKey(), now, body), body); got != nil || domain.ReasonOf(err) != "wrong_merchant" {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func TestASignedBodyThatMakesNoSenseIsUnreadable(t *testing.T) {
	without := func(event, field string) []byte {
		content := transaction("pay-0598392", 1)
		content["out_refund_no"], content["refund_status"] = "r1", "SUCCESS"
		delete(content, field)
		return seal(t, apiKey, event, content)
	}
	amount := transaction("pay-0598392", 1)
	amount["amount"] = map[string]any{"total": "64900"}
	part := transaction("pay-0598392", 1)
	part["amount"] = map[string]any{"total": 0.5}
	for name, body := range map[string][]byte{
		"no JSON":                 []byte("<xml>"),
		"nothing but an event":    []byte(`{"event_type":"TRANSACTION.SUCCESS"}`),
		"a null resource":         []byte(`{"event_type":"REFUND.SUCCESS","resource":null}`),
		"a short nonce":           []byte(`{"event_type":"REFUND.SUCCESS","resource":{"algorithm":"AEAD_AES_256_GCM","nonce":"x","ciphertext":"eA=="}}`),
		"no base64":               []byte(`{"event_type":"REFUND.SUCCESS","resource":{"algorithm":"AEAD_AES_256_GCM","nonce":"fdasflkja484","ciphertext":"%"}}`),
		"another algorithm":       []byte(`{"event_type":"REFUND.SUCCESS","resource":{"algorithm":"AEAD_SM4_GCM","nonce":"fdasflkja484","ciphertext":"eA=="}}`),
		"sealed by another key":   seal(t, strings.Repeat("k", 32), "TRANSACTION.SUCCESS", transaction("pay-0598392", 1)),
		"an amount in a string":   seal(t, apiKey, "TRANSACTION.SUCCESS", amount),
		"half a fen":              seal(t, apiKey, "TRANSACTION.SUCCESS", part),
		"no payment":              without("TRANSACTION.SUCCESS", "out_trade_no"),
		"no number":               without("TRANSACTION.SUCCESS", "transaction_id"),
		"no amount":               without("TRANSACTION.SUCCESS", "amount"),
		"no state":                without("TRANSACTION.SUCCESS", "trade_state"),
		"a refund of no payment":  without("REFUND.SUCCESS", "out_trade_no"),
		"a refund without a key":  without("REFUND.SUCCESS", "out_refund_no"),
		"a refund without status": without("REFUND.SUCCESS", "refund_status"),
		"a refund of nothing":     without("REFUND.SUCCESS", "amount"),
		"a payment that is none":  seal(t, apiKey, "TRANSACTION.SUCCESS", []int{1}),
		"a refund that is none":   seal(t, apiKey, "REFUND.SUCCESS", []int{1}),
		"too much":                []byte(`{"id":"` + strings.Repeat("a", 1<<20) + `"}`),
	} {
		got, err := reader(t).Read(t.Context(), sign(t, platformKey(), now, body), body)
		if got != nil || domain.ReasonOf(err) != "bad_callback" || domain.CodeOf(err) != domain.Invalid {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
		if what := leaks(err); what != "" {
			t.Errorf("%s: %s in %v", name, what, err)
		}
	}
}

func TestACurrencyIsToldAsItIs(t *testing.T) {
	content := transaction("pay-0598392", 100)
	content["amount"] = map[string]any{"total": 100, "currency": "HKD"}
	body := seal(t, apiKey, "TRANSACTION.SUCCESS", content)
	got, err := reader(t).Read(t.Context(), sign(t, platformKey(), now, body), body)
	if err != nil || len(got) != 1 || got[0].Money.Currency != "HKD" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestWeChatIsToldWhetherToSayItAgain(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		body   string
	}{
		{nil, 200, `{"code":"SUCCESS","message":"OK"}`},
		{domain.Refuse(domain.Invalid, "bad_signature", "x"), 400, `{"code":"FAIL","message":"bad_signature"}`},
		{domain.Refuse(domain.Unavailable, "store", "x"), 500, `{"code":"FAIL","message":"not recorded"}`},
		{errors.New("disk full at /var"), 500, `{"code":"FAIL","message":"not recorded"}`},
	} {
		status, kind, body := reader(t).Answer(c.err)
		if status != c.status || kind != "application/json" || string(body) != c.body || !json.Valid(body) {
			t.Errorf("%v: got %d %s %s", c.err, status, kind, body)
		}
	}
}
