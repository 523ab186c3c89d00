package alipay_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/infra/alipay"
)

func at() time.Time { return time.Date(2026, 5, 20, 5, 29, 35, 0, time.UTC) }

func TestACallbackSaysWhatWasPaid(t *testing.T) {
	want := []commands.Notice{{Kind: commands.NoticePaid, Payment: "pay-0598392", Trade: "2026052022001", Money: yuan(64900), At: at()}}
	for _, status := range []string{"TRADE_SUCCESS", "TRADE_SUCCESS", "TRADE_FINISHED"} { // a repeat says the same
		got, err := client(t, config(t)).Read(t.Context(), nil, notify(t, alipayKey(), map[string]string{"trade_status": status}))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", status, err, diff)
		}
	}
}

func TestACallbackTellsThatATradeIsOver(t *testing.T) {
	got, err := client(t, config(t)).Read(t.Context(), nil, notify(t, alipayKey(), map[string]string{"trade_status": "TRADE_CLOSED", "gmt_payment": "-"}))
	want := []commands.Notice{{Kind: commands.NoticeFailed, Payment: "pay-0598392", Trade: "2026052022001", Note: "TRADE_CLOSED"}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

func TestACallbackTellsWhichRefundAndNotHowMuch(t *testing.T) {
	for _, status := range []string{"TRADE_SUCCESS", "TRADE_CLOSED"} { // of a part, and of the rest
		body := notify(t, alipayKey(), map[string]string{"trade_status": status, "refund_fee": "649.00", "gmt_refund": "2026-05-20 13:29:35.100", "out_biz_no": "order-1.line-2"})
		got, err := client(t, config(t)).Read(t.Context(), nil, body)
		want := []commands.Notice{{
			Kind: commands.NoticeRefunded, Payment: "pay-0598392", Trade: "2026052022001", Refund: "order-1.line-2", At: at().Add(100 * time.Millisecond),
		}}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", status, err, diff)
		}
	}
}

func TestACallbackAboutSomethingElseIsNoNotice(t *testing.T) {
	for name, change := range map[string]map[string]string{
		"a contract":    {"notify_type": "dut_user_sign"},
		"no type":       {"notify_type": "-"},
		"a trade begun": {"trade_status": "WAIT_BUYER_PAY"},
	} {
		if got, err := client(t, config(t)).Read(t.Context(), nil, notify(t, alipayKey(), change)); got != nil || err != nil {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func TestWhatIsNotAlipaysIsNotRead(t *testing.T) {
	good := notify(t, alipayKey(), nil)
	with := func(name, value string) []byte {
		form, err := url.ParseQuery(string(good))
		if err != nil {
			t.Fatal(err)
		}
		form.Set(name, value)
		return []byte(form.Encode())
	}
	form, err := url.ParseQuery(string(notify(t, alipayKey(), map[string]string{"total_amount": "0.01"})))
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{
		"nothing":                    nil,
		"another key":                notify(t, strangeKey(), nil),
		"the merchant's own key":     notify(t, merchantKey(), nil),
		"another amount":             with("total_amount", "6490.00"),
		"another payment":            with("out_trade_no", "pay_0000000"),
		"one field more":             with("refund_fee", "1.00"),
		"a second amount":            append([]byte("total_amount=0.01&"), good...),
		"the signature of another":   with("sign", form.Get("sign")),
		"no signature":               with("sign", ""),
		"no base64":                  with("sign", "%"),
		"a certificate nobody knows": with("alipay_cert_sn", "00112233445566778899aabbccddeeff"),
		"JSON":                       []byte(`{"app_id":"2021000118600000"}`),
	} {
		got, err := client(t, config(t)).Read(t.Context(), nil, body)
		if got != nil || domain.ReasonOf(err) != "bad_signature" || domain.CodeOf(err) != domain.Invalid {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
		if what := leaks(err); what != "" {
			t.Errorf("%s: %s in %v", name, what, err)
		}
	}
}

func TestAnotherMerchantsCallbackIsNotOurs(t *testing.T) {
	for name, change := range map[string]map[string]string{
		"application":    {"app_id": "2021000000000000"},
		"no application": {"app_id": "-"},
		"seller":         {"seller_id": "2088000000000000"},
		"no seller":      {"seller_id": "-"},
	} {
		if got, err := client(t, config(t)).Read(t.Context(), nil, notify(t, alipayKey(), change)); got != nil || domain.ReasonOf(err) != "wrong_merchant" {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	cfg := config(t)
	cfg.Seller = ""
	if _, err := client(t, cfg).Read(t.Context(), nil, notify(t, alipayKey(), map[string]string{"seller_id": "2088000000000000"})); err != nil {
		t.Errorf("the seller is checked though nobody named one: %v", err)
	}
}

func TestASignedBodyThatMakesNoSenseIsUnreadable(t *testing.T) {
	bodies := map[string][]byte{
		"no form":  []byte("a=%zz;b"),
		"too much": []byte(strings.Repeat("a", 1<<20)),
	}
	for name, change := range map[string]map[string]string{
		"no payment": {"out_trade_no": "-"}, "no number": {"trade_no": "-"}, "no amount": {"total_amount": "-"}, "a state": {"trade_status": "TRADE_GONE"},
	} {
		bodies[name] = notify(t, alipayKey(), change)
	}
	for _, amount := range []string{
		"", ".", "1.", ".5", "1.234", "1,00", "1.0.0", "-1.00", "+1.00", " 1.00", "1.00 ", "1e2", "0x10", "１.00", "NaN", "1_000.00",
		"92233720368547758.08", "999999999999999999999", "1.-5", "1.+5",
	} {
		bodies["amount "+amount] = notify(t, alipayKey(), map[string]string{"total_amount": amount})
	}
	for name, body := range bodies {
		got, err := client(t, config(t)).Read(t.Context(), nil, body)
		if got != nil || domain.ReasonOf(err) != "bad_callback" || domain.CodeOf(err) != domain.Invalid {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func TestAmountsAreReadAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string]int64{"0.01": 1, "0.1": 10, "1": 100, "1.0": 100, "88.88": 8888, "000.01": 1, "92233720368547758.07": 9223372036854775807} {
		got, err := client(t, config(t)).Read(t.Context(), nil, notify(t, alipayKey(), map[string]string{"total_amount": text}))
		if err != nil || len(got) != 1 || got[0].Money != yuan(want) {
			t.Errorf("%s: got %v, %v; want %d", text, got, err, want)
		}
	}
}

func TestAlipayIsToldWhetherToSayItAgain(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		body   string
	}{
		{nil, 200, "success"},
		{domain.Refuse(domain.Invalid, "bad_signature", "x"), 400, "fail"},
		{errors.New("disk full at /var"), 500, "fail"},
	} {
		status, kind, body := client(t, config(t)).Answer(c.err)
		if status != c.status || kind != "text/plain; charset=utf-8" || string(body) != c.body {
			t.Errorf("%v: got %d %s %s", c.err, status, kind, body)
		}
	}
}

type forbidden struct{ t *testing.T }

func (f forbidden) RoundTrip(r *http.Request) (*http.Response, error) {
	f.t.Errorf("%s %s", r.Method, r.URL)
	return nil, http.ErrServerClosed
}

func TestACallbackMakesUsAskForNothing(t *testing.T) {
	cfg := config(t)
	cfg.URL, cfg.HTTP = "", &http.Client{Transport: forbidden{t}}
	c := client(t, cfg)
	body := notify(t, alipayKey(), map[string]string{"alipay_cert_sn": "00112233445566778899aabbccddeeff"})
	if _, err := c.Read(t.Context(), nil, body); domain.ReasonOf(err) != "bad_signature" {
		t.Errorf("got %v", err)
	}
	if _, err := c.Ask(t.Context(), asking(nil)); err != nil {
		t.Error(err)
	}
}

func TestTheGatewayIsAlipaysUnlessAnotherIsGiven(t *testing.T) {
	cfg := config(t)
	cfg.URL = ""
	got, err := client(t, cfg).Ask(t.Context(), asking(nil))
	if err != nil || !strings.Contains(string(got.Data), `"url":"https://openapi.alipay.com/gateway.do?`) {
		t.Errorf("got %s, %v", got.Data, err)
	}
}

func TestCertificatesDoAsWellAsAKey(t *testing.T) {
	cfg := config(t)
	var name string
	cfg.PublicKey = nil
	cfg.AppCertificate, _ = certificate(t, merchantKey(), 1)
	cfg.AlipayCertificate, name = certificate(t, alipayKey(), 2)
	cfg.RootCertificate, _ = certificate(t, strangeKey(), 3)
	c := client(t, cfg)
	for sn, fits := range map[string]bool{name: true, "another": false} {
		body := notify(t, alipayKey(), map[string]string{"alipay_cert_sn": sn})
		if _, err := c.Read(t.Context(), nil, body); (err == nil) != fits {
			t.Errorf("%s: got %v", sn, err)
		}
	}
	got, err := c.Ask(t.Context(), asking(nil))
	if err != nil {
		t.Fatal(err)
	}
	if form, _ := order(t, got); len(form.Get("app_cert_sn")) != 32 || len(form.Get("alipay_root_cert_sn")) != 32 {
		t.Errorf("got %v", form)
	}
}

func TestAConfigurationIsCheckedWhole(t *testing.T) {
	_, err := alipay.New(alipay.Config{})
	want := "the channel alipay lacks an application, the application's private key, " +
		"either Alipay's public key or all of the application's, Alipay's and the root certificate, a URL for callbacks"
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	one, _ := certificate(t, alipayKey(), 1)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	curve, _ := certificate(t, key, 1)
	certificates := func(c *alipay.Config, app, ali []byte) {
		c.PublicKey, c.AppCertificate, c.AlipayCertificate, c.RootCertificate = nil, app, ali, one
	}
	for name, change := range map[string]func(*alipay.Config){
		"no URL":                  func(c *alipay.Config) { c.NotifyURL = "shop" },
		"no URL to return to":     func(c *alipay.Config) { c.ReturnURL = "shop" },
		"no gateway":              func(c *alipay.Config) { c.URL = "proxy" },
		"a public private key":    func(c *alipay.Config) { c.PrivateKey = publicPEM(t, merchantKey()) },
		"a private public key":    func(c *alipay.Config) { c.PublicKey = privatePEM(t, alipayKey()) },
		"both":                    func(c *alipay.Config) { c.AlipayCertificate = one },
		"one certificate":         func(c *alipay.Config) { c.PublicKey, c.AlipayCertificate = nil, one },
		"no certificate":          func(c *alipay.Config) { certificates(c, []byte("x"), one) },
		"none of Alipay's":        func(c *alipay.Config) { certificates(c, one, []byte("x")) },
		"a key for Alipay's":      func(c *alipay.Config) { certificates(c, one, publicPEM(t, alipayKey())) },
		"a curve's for Alipay's":  func(c *alipay.Config) { certificates(c, one, curve) },
		"no root":                 func(c *alipay.Config) { certificates(c, one, one); c.RootCertificate = []byte("x") },
		"words for a private key": func(c *alipay.Config) { c.PrivateKey = []byte("secret words") },
	} {
		cfg := config(t)
		change(&cfg)
		_, err := alipay.New(cfg)
		if err == nil || strings.Contains(err.Error(), "\n") || leaks(err) != "" || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
