package wechatpay_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/money"
)

func yuan(fen int64) money.Money { return money.Money{Amount: fen, Currency: "CNY"} }

func asking() commands.Asking {
	return commands.Asking{
		Payment: "pay-0598392", Total: yuan(64900), Subject: "一本书", Expires: time.Date(2026, 5, 20, 6, 0, 1, 999_999_999, time.UTC),
	}
}

func TestAnOrderIsAskedForAsWeChatWantsIt(t *testing.T) {
	p := newPlatform(t)
	ask := asking()
	first, err := p.client().Ask(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"appid": application, "mchid": merchant, "notify_url": noticeURL, "out_trade_no": "pay-0598392", "description": "一本书",
		"time_expire": "2026-05-20T14:00:01+08:00", "amount": map[string]any{"total": 64900., "currency": "CNY"},
	}
	if diff := cmp.Diff(want, p.bodies["/v3/pay/transactions/native"]); diff != "" {
		t.Error(diff)
	}
	again, err := p.client().Ask(t.Context(), ask)
	if diff := cmp.Diff(first, again); err != nil || diff != "" {
		t.Errorf("asked again: %v %s", err, diff)
	}
	if want := `{"code_url":"weixin://wxpay/bizpayurl?pr=pay-0598392","scene":"native"}`; string(first.Data) != want {
		t.Errorf("got %s, want %s", first.Data, want)
	}
}

func TestEverySceneGivesTheBuyersClientWhatItNeeds(t *testing.T) {
	for _, c := range []struct {
		options map[string]string
		fields  string
	}{
		{map[string]string{"scene": "native"}, "code_url scene"},
		{map[string]string{"scene": "h5", "payer_ip": "14.23.150.211"}, "h5_url scene"},
		{map[string]string{"scene": "jsapi", "openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}, "appId nonceStr package paySign scene signType timeStamp"},
		{map[string]string{"scene": "app"}, "appid noncestr package partnerid prepayid scene sign timestamp"},
	} {
		p := newPlatform(t)
		ask := asking()
		ask.Options = c.options
		got, err := p.client().Ask(t.Context(), ask)
		if err != nil {
			t.Fatal(err)
		}
		var data map[string]string
		if err := json.Unmarshal(got.Data, &data); err != nil {
			t.Fatal(err)
		}
		names := slices.Sorted(maps.Keys(data))
		if want := strings.Fields(c.fields); !slices.Equal(names, want) || slices.Contains(slices.Collect(maps.Values(data)), "") {
			t.Errorf("%s: got %s, want %s", c.options["scene"], got.Data, want)
		}
	}
}

func TestWhatWeChatHasNoUseForIsRefusedBeforeAnythingIsSent(t *testing.T) {
	p := newPlatform(t)
	c := p.client()
	for name, change := range map[string]func(*commands.Asking){
		"dollars":           func(a *commands.Asking) { a.Total.Currency = "USD" },
		"nothing":           func(a *commands.Asking) { a.Total.Amount = 0 },
		"less than nothing": func(a *commands.Asking) { a.Total.Amount = -1 },
		"a short id":        func(a *commands.Asking) { a.Payment = "p-1" },
		"a long id":         func(a *commands.Asking) { a.Payment = strings.Repeat("p", 33) },
		"an id with dots":   func(a *commands.Asking) { a.Payment = "pay.0598392" },
		"no subject":        func(a *commands.Asking) { a.Subject = "" },
		"a scene":           func(a *commands.Asking) { a.Options = map[string]string{"scene": "face"} },
		"an option":         func(a *commands.Asking) { a.Options = map[string]string{"opnid": "x"} },
		"jsapi, nobody":     func(a *commands.Asking) { a.Options = map[string]string{"scene": "jsapi"} },
		"h5, nowhere":       func(a *commands.Asking) { a.Options = map[string]string{"scene": "h5"} },
	} {
		ask := asking()
		change(&ask)
		_, err := c.Ask(t.Context(), ask)
		if code := domain.CodeOf(err); code != domain.Rejected && code != domain.Invalid {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	if p.asked != 0 {
		t.Errorf("WeChat was asked %d times", p.asked)
	}
}

func TestOnlyYuanAreAskedFor(t *testing.T) {
	p := newPlatform(t)
	ask := asking()
	ask.Total.Currency = "JPY"
	if _, err := p.client().Ask(t.Context(), ask); domain.ReasonOf(err) != "channel_refused" || p.asked != 0 {
		t.Errorf("got %v, asked %d times", err, p.asked)
	}
	_, err := p.client().Refund(t.Context(), commands.Returning{Payment: "pay-0598392", Key: "r1", Amount: money.Money{Amount: 1, Currency: "JPY"}, Total: yuan(1)})
	if domain.ReasonOf(err) != "channel_refused" || p.asked != 0 {
		t.Errorf("got %v, asked %d times", err, p.asked)
	}
}

func TestALongSubjectIsCutBetweenLetters(t *testing.T) {
	p := newPlatform(t)
	ask := asking()
	ask.Subject = strings.Repeat("书", 100)
	if _, err := p.client().Ask(t.Context(), ask); err != nil {
		t.Fatal(err)
	}
	if got, want := p.bodies["/v3/pay/transactions/native"]["description"], strings.Repeat("书", 42); got != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestAPaymentIsFoundInEveryState(t *testing.T) {
	paid := commands.Notice{
		Kind: commands.NoticePaid, Payment: "pay-0598392", Trade: "42000001", Money: yuan(64900), At: time.Date(2026, 5, 20, 5, 29, 35, 0, time.UTC),
	}
	for state, want := range map[string]commands.Notice{
		"SUCCESS":    paid,
		"REFUND":     paid,
		"NOTPAY":     {Kind: commands.NoticePending, Payment: "pay-0598392", Trade: "42000001"},
		"USERPAYING": {Kind: commands.NoticePending, Payment: "pay-0598392", Trade: "42000001"},
		"ACCEPT":     {Kind: commands.NoticePending, Payment: "pay-0598392", Trade: "42000001"},
		"CLOSED":     {Kind: commands.NoticeFailed, Payment: "pay-0598392", Trade: "42000001", Note: "CLOSED: 支付成功"},
		"REVOKED":    {Kind: commands.NoticeFailed, Payment: "pay-0598392", Trade: "42000001", Note: "REVOKED: 支付成功"},
		"PAYERROR":   {Kind: commands.NoticeFailed, Payment: "pay-0598392", Trade: "42000001", Note: "PAYERROR: 支付成功"},
	} {
		p := newPlatform(t)
		p.pay("pay-0598392", 64900)
		p.set(p.orders, "pay-0598392", "trade_state", state)
		for range 2 {
			got, err := p.client().Find(t.Context(), "pay-0598392")
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("%s: %v %s", state, err, diff)
			}
		}
	}
}

func TestWhatWeChatNeverHeardOfIsPending(t *testing.T) {
	p := newPlatform(t)
	for _, id := range []string{"pay-0598392", "p"} { // the second no order can have
		got, err := p.client().Find(t.Context(), id)
		if want := (commands.Notice{Kind: commands.NoticePending, Payment: id}); err != nil || got != want {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
	}
}

func TestACouponOfTheChannelTakesNothingOffThePayment(t *testing.T) {
	p := newPlatform(t)
	p.pay("pay-0598392", 64900)
	p.set(p.orders, "pay-0598392", "amount", map[string]any{"total": 64900, "payer_total": 60000, "currency": "CNY"})
	got, err := p.client().Find(t.Context(), "pay-0598392")
	if err != nil || got.Money != yuan(64900) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestAnAnswerAboutAnotherIsNoAnswer(t *testing.T) {
	for field, value := range map[string]any{
		"mchid": "1900000000", "appid": "wx0000", "out_trade_no": "pay-0000000", "trade_state": "GONE", "transaction_id": "", "amount": nil,
	} {
		p := newPlatform(t)
		p.pay("pay-0598392", 64900)
		p.set(p.orders, "pay-0598392", field, value)
		if got, err := p.client().Find(t.Context(), "pay-0598392"); domain.CodeOf(err) != domain.Unavailable {
			t.Errorf("%s: got %v, %v", field, got, err)
		}
	}
}

func TestAnOrderIsClosedOnceAndAPaidOneIsFound(t *testing.T) {
	p := newPlatform(t)
	c := p.client()
	if _, err := c.Ask(t.Context(), asking()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"pay-0598392", "pay-0598392", "pay-unknown", "p"} {
		got, err := c.Close(t.Context(), id)
		if want := (commands.Notice{Kind: commands.NoticeFailed, Payment: id, Note: "closed"}); err != nil || got != want {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
	}
	if p.orders["pay-0598392"]["trade_state"] != "CLOSED" {
		t.Error("the order is open")
	}
	p.pay("pay-0000001", 1)
	got, err := c.Close(t.Context(), "pay-0000001")
	if err != nil || got.Kind != commands.NoticePaid || got.Money != yuan(1) {
		t.Errorf("got %v, %v", got, err)
	}
	p.pay("pay-0000002", 1)
	p.set(p.orders, "pay-0000002", "trade_state", "USERPAYING") // as it is told until it is known everywhere
	p.breaks(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			p.no(w, http.StatusBadRequest, "ORDERPAID")
			return
		}
		p.say(w, http.StatusOK, p.orders["pay-0000002"])
	})
	if got, err := c.Close(t.Context(), "pay-0000002"); domain.CodeOf(err) != domain.Unavailable {
		t.Errorf("got %v, %v", got, err)
	}
}

// every calls everything that asks WeChat.
func every(ctx context.Context, c commands.Channel) map[string]error {
	_, ask := c.Ask(ctx, asking())
	_, find := c.Find(ctx, "pay-0598392")
	_, shut := c.Close(ctx, "pay-0598392")
	_, refund := c.Refund(ctx, returning("r1", 100))
	return map[string]error{"ask": ask, "find": find, "close": shut, "refund": refund}
}

func TestWhatIsNoAnswerLeavesTheOutcomeOpen(t *testing.T) {
	p := newPlatform(t)
	huge := map[string]any{"code_url": strings.Repeat("a", 2<<20)}
	unsigned := func(body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }
	}
	coded := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { p.no(w, status, code) }
	}
	for name, fault := range map[string]http.HandlerFunc{
		"500":                 coded(500, "SYSTEM_ERROR"),
		"502 of a proxy":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"403 of a proxy":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"404 of a proxy":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"429":                 coded(429, "FREQUENCY_LIMITED"),
		"garbage":             func(w http.ResponseWriter, _ *http.Request) { p.say(w, 200, "<html>") },
		"nothing":             func(w http.ResponseWriter, _ *http.Request) { p.say(w, 200, map[string]any{}) },
		"null":                func(w http.ResponseWriter, _ *http.Request) { p.say(w, 200, json.RawMessage("null")) },
		"no signature":        unsigned([]byte(`{"code_url":"weixin://wxpay/bizpayurl?pr=x"}`)),
		"somebody else's":     signedBy(t, []byte(`{"code_url":"weixin://evil"}`)),
		"too much":            func(w http.ResponseWriter, _ *http.Request) { p.say(w, 200, huge) },
		"the way elsewhere":   elsewhere(t),
		"401":                 coded(401, "WHO_ARE_YOU"),
		"the connection ends": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		p.breaks(fault)
		for call, err := range every(t.Context(), p.client()) {
			if call == "close" && slices.Contains([]string{"nothing", "null", "garbage", "too much"}, name) {
				continue // a close has no body to read
			}
			if domain.CodeOf(err) != domain.Unavailable || domain.ReasonOf(err) != "channel_unavailable" {
				t.Errorf("%s, %s: got %v", name, call, err)
			}
			if what := leaks(err); what != "" {
				t.Errorf("%s, %s: %s in %v", name, call, what, err)
			}
		}
	}
}

func elsewhere(t *testing.T) http.HandlerFunc {
	t.Helper()
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			t.Error("somebody went there")
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}
}

func signedBy(t *testing.T, body []byte) http.HandlerFunc {
	t.Helper()
	return func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), sign(t, strangeKey(), time.Now(), body))
		_, _ = w.Write(body)
	}
}

func TestAFaultOfOursRefusesNothing(t *testing.T) {
	for code, status := range map[string]int{"SIGN_ERROR": 401, "NO_AUTH": 403, "MCH_NOT_EXISTS": 400, "APPID_MCHID_NOT_MATCH": 400, "NOT_ENOUGH": 403} {
		p := newPlatform(t)
		p.breaks(func(w http.ResponseWriter, _ *http.Request) { p.no(w, status, code) })
		for call, err := range every(t.Context(), p.client()) {
			if domain.CodeOf(err) != domain.Unavailable {
				t.Errorf("%s, %s: got %v", code, call, err)
			}
		}
	}
}

func TestWhatWeChatRefusesIsRefusedForGood(t *testing.T) {
	p := newPlatform(t)
	p.pay("pay-0598392", 64900)
	p.set(p.orders, "pay-0598392", "trade_state", "NOTPAY")
	p.breaks(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, pathRefund):
			p.no(w, 404, "RESOURCE_NOT_EXISTS")
		case r.Method == http.MethodGet:
			p.say(w, 200, p.orders["pay-0598392"])
		default:
			p.no(w, 400, "PARAM_ERROR")
		}
	})
	for call, err := range every(t.Context(), p.client()) {
		if call == "find" {
			continue
		}
		if domain.CodeOf(err) != domain.Rejected || domain.ReasonOf(err) != "channel_refused" || !strings.Contains(err.Error(), "PARAM_ERROR: 不行") {
			t.Errorf("%s: got %v", call, err)
		}
	}
}

func TestWhoWaitsInVainIsToldSo(t *testing.T) {
	p := newPlatform(t)
	stop := make(chan struct{})
	p.breaks(func(http.ResponseWriter, *http.Request) { <-stop })
	defer close(stop)
	cfg := config(t)
	cfg.URL, cfg.HTTP = p.server.URL, &http.Client{Timeout: 20 * time.Millisecond}
	if _, err := client(t, cfg).Find(t.Context(), "pay-0598392"); domain.CodeOf(err) != domain.Unavailable {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.client().Find(ctx, "pay-0598392"); domain.CodeOf(err) != domain.Unavailable || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
