package alipay_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/money"
)

func yuan(fen int64) money.Money { return money.Money{Amount: fen, Currency: "CNY"} }

func asking(options map[string]string) commands.Asking {
	return commands.Asking{
		Payment: "pay-0598392", Total: yuan(64900), Subject: "一本书", Expires: time.Date(2026, 5, 20, 6, 0, 0, 0, time.UTC), Options: options,
	}
}

// order is what the buyer's way leads to, if the merchant has signed it.
func order(t *testing.T, instruction commands.Instruction) (form url.Values, biz map[string]any) {
	t.Helper()
	var data map[string]string
	if err := json.Unmarshal(instruction.Data, &data); err != nil {
		t.Fatal(err)
	}
	query := data["order"]
	if data["url"] != "" {
		u, err := url.Parse(data["url"])
		if err != nil {
			t.Fatal(err)
		}
		query = u.RawQuery
	}
	form, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	if !isSigned(form, merchantKey()) {
		t.Errorf("nobody signed %s", query)
	}
	if err := json.Unmarshal([]byte(form.Get("biz_content")), &biz); err != nil {
		t.Fatal(err)
	}
	return form, biz
}

func TestEverySceneLeadsTheBuyerToTheSameTrade(t *testing.T) {
	for _, c := range []struct {
		options         map[string]string
		method, product string
	}{
		{nil, "alipay.trade.page.pay", "FAST_INSTANT_TRADE_PAY"},
		{map[string]string{"scene": "page"}, "alipay.trade.page.pay", "FAST_INSTANT_TRADE_PAY"},
		{map[string]string{"scene": "wap", "quit_url": returnURL}, "alipay.trade.wap.pay", "QUICK_WAP_WAY"},
		{map[string]string{"scene": "app"}, "alipay.trade.app.pay", "QUICK_MSECURITY_PAY"},
	} {
		got, err := client(t, config(t)).Ask(t.Context(), asking(c.options))
		if err != nil {
			t.Fatal(err)
		}
		form, biz := order(t, got)
		if form.Get("method") != c.method || form.Get("notify_url") != noticeURL || form.Get("app_id") != application {
			t.Errorf("%s: got %v", c.method, form)
		}
		want := map[string]any{
			"subject": "一本书", "out_trade_no": "pay_0598392", "total_amount": "649.00", "product_code": c.product, "seller_id": seller, "time_expire": "2026-05-20 14:00:00",
		}
		if c.options["quit_url"] != "" {
			want["quit_url"] = returnURL
		}
		if diff := cmp.Diff(want, biz); diff != "" {
			t.Errorf("%s: %s", c.method, diff)
		}
	}
}

func TestACodeIsMadeByAlipay(t *testing.T) {
	g := newGateway(t)
	for range 2 {
		got, err := g.client().Ask(t.Context(), asking(map[string]string{"scene": "precreate"}))
		if want := `{"qr_code":"https://qr.alipay.com/pay_0598392","scene":"precreate"}`; err != nil || string(got.Data) != want {
			t.Errorf("got %s, %v", got.Data, err)
		}
	}
	if got := g.sent["alipay.trade.precreate"]["product_code"]; got != "FACE_TO_FACE_PAYMENT" {
		t.Errorf("got %v", got)
	}
}

func TestTimesAreOfBeijingWhereverWeAre(t *testing.T) {
	got, err := client(t, config(t)).Ask(t.Context(), asking(nil))
	if err != nil {
		t.Fatal(err)
	}
	form, _ := order(t, got)
	at, err := time.ParseInLocation("2006-01-02 15:04:05", form.Get("timestamp"), time.FixedZone("", 8*60*60))
	if age := time.Since(at); err != nil || age < -time.Minute || age > time.Minute {
		t.Errorf("%s is %s old: %v", form.Get("timestamp"), age, err)
	}
}

func TestWhatAlipayHasNoUseForIsRefusedBeforeAnythingIsSent(t *testing.T) {
	g := newGateway(t)
	for name, change := range map[string]func(*commands.Asking){
		"dollars":              func(a *commands.Asking) { a.Total.Currency = "USD" },
		"nothing":              func(a *commands.Asking) { a.Total.Amount = 0 },
		"less than nothing":    func(a *commands.Asking) { a.Total.Amount = -1 },
		"too much":             func(a *commands.Asking) { a.Total.Amount = 100_000_000_01 },
		"a long id":            func(a *commands.Asking) { a.Payment = strings.Repeat("p", 33) },
		"an id with a line":    func(a *commands.Asking) { a.Payment = "pay_0598392" },
		"no id":                func(a *commands.Asking) { a.Payment = "" },
		"no subject":           func(a *commands.Asking) { a.Subject = "" },
		"a scene":              func(a *commands.Asking) { a.Options = map[string]string{"scene": "face"} },
		"an option":            func(a *commands.Asking) { a.Options = map[string]string{"scenery": "x"} },
		"a URL that is none":   func(a *commands.Asking) { a.Options = map[string]string{"scene": "wap", "quit_url": "javascript:x"} },
		"a URL of other scene": func(a *commands.Asking) { a.Options = map[string]string{"quit_url": returnURL} },
	} {
		ask := asking(map[string]string{"scene": "precreate"})
		change(&ask)
		_, err := g.client().Ask(t.Context(), ask)
		if code := domain.CodeOf(err); code != domain.Rejected && code != domain.Invalid {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	if g.asked != 0 {
		t.Errorf("Alipay was asked %d times", g.asked)
	}
}

func TestAmountsAreWrittenInYuan(t *testing.T) {
	for fen, want := range map[int64]string{1: "0.01", 9: "0.09", 10: "0.10", 99: "0.99", 100: "1.00", 64900: "649.00", 12345678901 / 10: "12345678.90", 100_000_000_00: "100000000.00"} {
		ask := asking(nil)
		ask.Total.Amount = fen
		got, err := client(t, config(t)).Ask(t.Context(), ask)
		if err != nil {
			t.Fatal(err)
		}
		if _, biz := order(t, got); biz["total_amount"] != want {
			t.Errorf("%d: got %v, want %s", fen, biz["total_amount"], want)
		}
	}
}

func TestEveryAmountGoesThereAndComesBack(t *testing.T) {
	c := client(t, config(t))
	rapid.Check(t, func(rt *rapid.T) {
		ask := asking(nil)
		ask.Total.Amount = rapid.Int64Range(1, 100_000_000_00).Draw(rt, "fen")
		asked, err := c.Ask(t.Context(), ask)
		if err != nil {
			rt.Fatal(err)
		}
		_, biz := order(t, asked)
		got, err := c.Read(t.Context(), nil, notify(t, alipayKey(), map[string]string{"total_amount": biz["total_amount"].(string)}))
		if err != nil || len(got) != 1 || got[0].Money != ask.Total {
			rt.Fatalf("got %v, %v; want %v", got, err, ask.Total)
		}
	})
}

func TestEveryPaymentsIDComesBackAsItWas(t *testing.T) {
	c := client(t, config(t))
	rapid.Check(t, func(rt *rapid.T) {
		ask := asking(nil)
		ask.Payment = rapid.StringMatching(`[0-9A-Za-z-]{1,32}`).Draw(rt, "payment")
		asked, err := c.Ask(t.Context(), ask)
		if err != nil {
			rt.Fatal(err)
		}
		_, biz := order(t, asked)
		got, err := c.Read(t.Context(), nil, notify(t, alipayKey(), map[string]string{"out_trade_no": biz["out_trade_no"].(string)}))
		if err != nil || len(got) != 1 || got[0].Payment != ask.Payment || strings.Contains(biz["out_trade_no"].(string), "-") {
			rt.Fatalf("got %v, %v; want %v", got, err, ask.Payment)
		}
	})
}

func TestAPaymentIsFoundInEveryState(t *testing.T) {
	paid := commands.Notice{
		Kind: commands.NoticePaid, Payment: "pay-0598392", Trade: "2026052022001", Money: yuan(64900), At: time.Date(2026, 5, 20, 5, 29, 35, 0, time.UTC),
	}
	for status, want := range map[string]commands.Notice{
		"TRADE_SUCCESS":  paid,
		"TRADE_FINISHED": paid,
		"WAIT_BUYER_PAY": {Kind: commands.NoticePending, Payment: "pay-0598392", Trade: "2026052022001"},
	} {
		g := newGateway(t)
		g.begin("pay_0598392", status, "649.00")
		g.set("pay_0598392", "send_pay_date", paidAt)
		for range 2 {
			got, err := g.client().Find(t.Context(), "pay-0598392")
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("%s: %v %s", status, err, diff)
			}
		}
	}
}

func TestATradeGivenBackInFullWasPaid(t *testing.T) {
	g := newGateway(t)
	g.begin("pay_0598392", "TRADE_CLOSED", "649.00")
	got, err := g.client().Find(t.Context(), "pay-0598392")
	want := commands.Notice{Kind: commands.NoticeFailed, Payment: "pay-0598392", Trade: "2026052022001", Note: "TRADE_CLOSED"}
	if err != nil || got != want {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	g.set("pay_0598392", "send_pay_date", paidAt)
	got, err = g.client().Find(t.Context(), "pay-0598392")
	if err != nil || got.Kind != commands.NoticePaid || got.Money != yuan(64900) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestWhatAlipayNeverHeardOfIsPending(t *testing.T) {
	g := newGateway(t)
	for _, id := range []string{"pay-0598392", "no.such"} { // the second no trade can have
		got, err := g.client().Find(t.Context(), id)
		if want := (commands.Notice{Kind: commands.NoticePending, Payment: id}); err != nil || got != want {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
	}
}

func TestAnAnswerAboutAnotherIsNoAnswer(t *testing.T) {
	for field, value := range map[string]string{
		"out_trade_no": "pay_0000000", "trade_status": "TRADE_GONE", "trade_no": "", "total_amount": "649.001",
	} {
		g := newGateway(t)
		g.begin("pay_0598392", "TRADE_SUCCESS", "649.00")
		asked := g.trades["pay_0598392"]
		asked[field] = value
		if got, err := g.client().Find(t.Context(), "pay-0598392"); domain.CodeOf(err) != domain.Unavailable {
			t.Errorf("%s: got %v, %v", field, got, err)
		}
	}
}

func TestATradeIsClosedOnceAndAPaidOneIsFound(t *testing.T) {
	g := newGateway(t)
	c := g.client()
	g.begin("pay_0598392", "WAIT_BUYER_PAY", "649.00")
	for _, id := range []string{"pay-0598392", "pay-0598392", "pay-unknown", "no.such"} {
		got, err := c.Close(t.Context(), id)
		if err != nil || got.Kind != commands.NoticeFailed || got.Payment != id {
			t.Errorf("%s: got %v, %v", id, got, err)
		}
	}
	g.begin("pay_0000001", "TRADE_SUCCESS", "0.01")
	got, err := c.Close(t.Context(), "pay-0000001")
	if err != nil || got.Kind != commands.NoticePaid || got.Money != yuan(1) {
		t.Errorf("got %v, %v", got, err)
	}
}

// every calls everything that asks Alipay.
func every(ctx context.Context, c commands.Channel) map[string]error {
	_, ask := c.Ask(ctx, asking(map[string]string{"scene": "precreate"}))
	_, find := c.Find(ctx, "pay-0598392")
	_, shut := c.Close(ctx, "pay-0598392")
	_, refund := c.Refund(ctx, returning("r1", 100))
	return map[string]error{"ask": ask, "find": find, "close": shut, "refund": refund}
}

func TestWhatIsNoAnswerLeavesTheOutcomeOpen(t *testing.T) {
	g := newGateway(t)
	success := map[string]string{"code": "10000", "out_trade_no": "pay_0598392", "qr_code": "https://evil", "trade_status": "TRADE_SUCCESS", "fund_change": "Y"}
	signed := func(code, sub string) func(http.ResponseWriter, string) {
		return func(w http.ResponseWriter, m string) {
			g.say(w, m, map[string]string{"code": code, "sub_code": sub, "sub_msg": "不行"})
		}
	}
	status := func(code int) func(http.ResponseWriter, string) {
		return func(w http.ResponseWriter, m string) { w.WriteHeader(code); g.say(w, m, success) }
	}
	for name, fault := range map[string]func(w http.ResponseWriter, method string){
		"500": status(500),
		"502": status(502),
		"403": status(403),
		"302": func(w http.ResponseWriter, _ string) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(http.StatusFound)
		},
		"garbage":           func(w http.ResponseWriter, _ string) { _, _ = w.Write([]byte("<html>")) },
		"null":              func(w http.ResponseWriter, _ string) { _, _ = w.Write([]byte("null")) },
		"an empty object":   func(w http.ResponseWriter, _ string) { _, _ = w.Write([]byte("{}")) },
		"nothing in it":     func(w http.ResponseWriter, m string) { g.unsigned(w, m, nil) },
		"nothing, signed":   func(w http.ResponseWriter, m string) { g.say(w, m, nil) },
		"a list, signed":    func(w http.ResponseWriter, m string) { g.say(w, m, []int{1}) },
		"sealed":            func(w http.ResponseWriter, m string) { g.say(w, m, "AAAA") },
		"no code, signed":   func(w http.ResponseWriter, m string) { g.say(w, m, map[string]string{}) },
		"success, unsigned": func(w http.ResponseWriter, m string) { g.unsigned(w, m, success) },
		"somebody else's":   func(w http.ResponseWriter, m string) { g.saySigned(w, strangeKey(), m, success) },
		"another's answer":  func(w http.ResponseWriter, _ string) { g.say(w, "alipay.trade.pay", success) },
		"a gateway's error": func(w http.ResponseWriter, _ string) {
			g.write(w, map[string]any{"error_response": map[string]string{"code": "40001"}})
		},
		"unavailable":      signed("20000", "isp.unknow-error"),
		"no rights":        signed("40006", "isv.insufficient-isv-permissions"),
		"too many":         signed("40005", "isv.app-call-limited"),
		"a system's error": signed("40004", "ACQ.SYSTEM_ERROR"),
		"too much": func(w http.ResponseWriter, _ string) {
			_, _ = w.Write([]byte(`{"a":"` + strings.Repeat("a", 2<<20) + `"}`))
		},
		"the connection ends": func(http.ResponseWriter, string) { panic(http.ErrAbortHandler) },
	} {
		g.breaks(func(w http.ResponseWriter, method string) bool { fault(w, method); return true })
		for call, err := range every(t.Context(), g.client()) {
			if domain.CodeOf(err) != domain.Unavailable || domain.ReasonOf(err) != "channel_unavailable" {
				t.Errorf("%s, %s: got %v", name, call, err)
			}
			if what := leaks(err); what != "" {
				t.Errorf("%s, %s: %s in %v", name, call, what, err)
			}
		}
	}
}

func TestAnUnsignedRefusalRefusesNothing(t *testing.T) {
	g := newGateway(t)
	for _, code := range []string{"ACQ.TRADE_NOT_EXIST", "ACQ.TRADE_HAS_CLOSE", "ACQ.REFUND_AMT_NOT_EQUAL_TOTAL"} {
		g.breaks(func(w http.ResponseWriter, method string) bool {
			g.unsigned(w, method, map[string]string{"code": "40004", "sub_code": code})
			return true
		})
		for call, err := range every(t.Context(), g.client()) {
			if domain.CodeOf(err) != domain.Unavailable {
				t.Errorf("%s, %s: got %v", code, call, err)
			}
		}
	}
}

func TestAKeyThatAlipayDoesNotKnowRefusesNothing(t *testing.T) {
	g := newGateway(t)
	cfg := config(t)
	cfg.URL, cfg.PrivateKey = g.server.URL, privatePEM(t, strangeKey())
	for call, err := range every(t.Context(), client(t, cfg)) {
		if domain.CodeOf(err) != domain.Unavailable || !strings.Contains(err.Error(), "isv.invalid-signature") {
			t.Errorf("%s: got %v", call, err)
		}
	}
}

func TestWhatAlipayRefusesIsRefusedForGood(t *testing.T) {
	g := newGateway(t)
	g.begin("pay_0598392", "WAIT_BUYER_PAY", "649.00")
	g.breaks(func(w http.ResponseWriter, method string) bool {
		if strings.HasSuffix(method, ".query") {
			return false
		}
		g.no(w, method, "ACQ.CONTEXT_INCONSISTENT")
		return true
	})
	for call, err := range every(t.Context(), g.client()) {
		if call == "find" {
			continue
		}
		if domain.CodeOf(err) != domain.Rejected || domain.ReasonOf(err) != "channel_refused" || !strings.Contains(err.Error(), "ACQ.CONTEXT_INCONSISTENT: 不行") {
			t.Errorf("%s: got %v", call, err)
		}
	}
}

func TestWhoWaitsInVainIsToldSo(t *testing.T) {
	g := newGateway(t)
	stop := make(chan struct{})
	g.breaks(func(http.ResponseWriter, string) bool { <-stop; return true })
	defer close(stop)
	cfg := config(t)
	cfg.URL, cfg.HTTP = g.server.URL, &http.Client{Timeout: 20 * time.Millisecond}
	if _, err := client(t, cfg).Find(t.Context(), "pay-0598392"); domain.CodeOf(err) != domain.Unavailable {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.client().Find(ctx, "pay-0598392"); domain.CodeOf(err) != domain.Unavailable || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
