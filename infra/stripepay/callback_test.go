package stripepay_test

import (
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
	"cartwright/infra/stripepay"
)

func intent(change map[string]any) map[string]any {
	i := map[string]any{
		"id": "pi_1", "object": "payment_intent", "status": "succeeded", "amount": 64900, "amount_received": 64900, "currency": "eur",
		"metadata": map[string]string{"payment": "pay-0598392"}, "livemode": false, "client_secret": "pi_1_secret_x", "charges": map[string]any{"object": "list"},
	}
	maps.Copy(i, change)
	return i
}

func refund(change map[string]any) map[string]any {
	r := map[string]any{
		"id": "re_1", "object": "refund", "status": "succeeded", "amount": 105, "currency": "eur", "payment_intent": "pi_1",
		"metadata": map[string]string{"payment": "pay-0598392", "refund": "order-1.line-2"},
	}
	maps.Copy(r, change)
	return r
}

func TestACallbackSaysWhatWasPaid(t *testing.T) {
	body := event("payment_intent.succeeded", intent(nil), nil)
	for _, secret := range []string{hookSecret, nextSecret, hookSecret} { // a repeat says the same
		got, err := client(t, config()).Read(t.Context(), sign(body, secret, now()), body)
		if diff := cmp.Diff([]commands.Notice{paid()}, got); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
}

func TestACallbackOfAnyVersionIsRead(t *testing.T) {
	for _, version := range []any{"2019-12-03", "2020-08-27", "2025-12-15.clover", "2030-01-01.dahlia", nil} {
		body := event("payment_intent.succeeded", intent(nil), map[string]any{"api_version": version})
		got, err := client(t, config()).Read(t.Context(), sign(body, hookSecret, now()), body)
		if err != nil || !slices.Equal(got, []commands.Notice{paid()}) {
			t.Errorf("%v: got %v, %v", version, got, err)
		}
	}
}

func TestACallbackTellsThatAnIntentIsOver(t *testing.T) {
	body := event("payment_intent.canceled", intent(map[string]any{"status": "canceled", "cancellation_reason": nil}), nil)
	got, err := client(t, config()).Read(t.Context(), sign(body, hookSecret, now()), body)
	want := []commands.Notice{{Kind: commands.NoticeFailed, Payment: "pay-0598392", Trade: "pi_1", Note: "canceled", At: time.Unix(made, 0).UTC()}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

func TestACallbackTellsOfRefunds(t *testing.T) {
	for _, c := range []struct {
		kind, status string
		want         commands.Notice
	}{
		{"refund.created", "succeeded", commands.Notice{Kind: commands.NoticeRefunded}},
		{"refund.updated", "succeeded", commands.Notice{Kind: commands.NoticeRefunded}},
		{"charge.refund.updated", "succeeded", commands.Notice{Kind: commands.NoticeRefunded}},
		{"refund.failed", "failed", commands.Notice{Kind: commands.NoticeRefundFailed, Note: "failed: expired_or_canceled_card"}},
		{"refund.updated", "canceled", commands.Notice{Kind: commands.NoticeRefundFailed, Note: "canceled: expired_or_canceled_card"}},
	} {
		body := event(c.kind, refund(map[string]any{"status": c.status, "failure_reason": "expired_or_canceled_card"}), nil)
		got, err := client(t, config()).Read(t.Context(), sign(body, hookSecret, now()), body)
		c.want.Payment, c.want.Trade, c.want.Refund, c.want.Money, c.want.At = "pay-0598392", "pi_1", "order-1.line-2", euro(105), time.Unix(made, 0).UTC()
		if diff := cmp.Diff([]commands.Notice{c.want}, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", c.kind, err, diff)
		}
	}
}

func TestACallbackAboutSomethingElseIsNoNotice(t *testing.T) {
	for name, body := range map[string][]byte{
		"an attempt that failed": event("payment_intent.payment_failed", intent(map[string]any{"status": "requires_payment_method"}), nil),
		"a charge given back":    event("charge.refunded", map[string]any{"object": "charge"}, nil),
		"a customer":             event("customer.created", map[string]any{"object": "customer"}, nil),
		"another's intent":       event("payment_intent.succeeded", intent(map[string]any{"metadata": map[string]string{}}), nil),
		"another's refund":       event("refund.updated", refund(map[string]any{"metadata": map[string]string{"payment": "pay-0598392"}}), nil),
		"a refund under way":     event("refund.created", refund(map[string]any{"status": "pending"}), nil),
	} {
		if got, err := client(t, config()).Read(t.Context(), sign(body, hookSecret, now()), body); got != nil || err != nil {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func TestWhatACallbackNamesIsFoundWithoutASearch(t *testing.T) {
	s := newServer(t)
	if _, err := s.client().Ask(t.Context(), asking("pay-0598392")); err != nil {
		t.Fatal(err)
	}
	s.pay()
	s.behind = true
	c := s.client()
	body := event("payment_intent.succeeded", intent(nil), nil)
	if _, err := c.Read(t.Context(), sign(body, hookSecret, now()), body); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Refund(t.Context(), returning("r1", 1)); err != nil || got.Refund != "r1" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestWhatIsNotStripesIsNotRead(t *testing.T) {
	body := event("payment_intent.succeeded", intent(nil), nil)
	other := event("payment_intent.succeeded", intent(map[string]any{"amount_received": 1}), nil)
	good := sign(body, hookSecret, now())
	text := good.Get("Stripe-Signature")
	timed, signed, _ := strings.Cut(text, ",")
	with := func(header string) http.Header { return http.Header{"Stripe-Signature": {header}} }
	for name, c := range map[string]struct {
		header http.Header
		body   []byte
	}{
		"no header":            {http.Header{}, body},
		"another secret":       {sign(body, "whsec_third", now()), body},
		"no secret":            {sign(body, "", now()), body},
		"another body":         {good, other},
		"an empty body":        {good, nil},
		"old":                  {sign(body, hookSecret, now().Add(-301*time.Second)), body},
		"of the future":        {sign(body, hookSecret, now().Add(301*time.Second)), body},
		"made young":           {with(strings.Replace(sign(body, hookSecret, now().Add(-time.Hour)).Get("Stripe-Signature"), "t=1779251410", "t=1779255010", 1)), body},
		"made young in front":  {with("t=1779255010," + sign(body, hookSecret, now().Add(-time.Hour)).Get("Stripe-Signature")), body},
		"made young behind":    {with(sign(body, hookSecret, now().Add(-time.Hour)).Get("Stripe-Signature") + ",t=1779255010"), body},
		"no time":              {with(signed), body},
		"a time that is none":  {with(strings.Replace(text, "t=", "t=x", 1)), body},
		"no signature":         {with(timed), body},
		"a signature of yore":  {with(strings.Replace(text, "v1=", "v0=", 1)), body},
		"nothing to be parsed": {with("t=1779255010,v1=a=b"), body},
	} {
		got, err := client(t, config()).Read(t.Context(), c.header, c.body)
		if got != nil || domain.ReasonOf(err) != "bad_signature" || domain.CodeOf(err) != domain.Invalid {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
		if what := leaks(err); what != "" {
			t.Errorf("%s: %s in %v", name, what, err)
		}
	}
	for _, age := range []time.Duration{-300 * time.Second, 300 * time.Second} {
		if _, err := client(t, config()).Read(t.Context(), sign(body, hookSecret, now().Add(age)), body); err != nil {
			t.Errorf("%s: %v", age, err)
		}
	}
}

func TestAnotherMerchantsCallbackIsNotOurs(t *testing.T) {
	connected := config()
	connected.Account = "acct_1"
	for _, c := range []struct {
		change map[string]any
		cfg    stripepay.Config
		ours   bool
	}{
		{map[string]any{"livemode": true}, config(), false},
		{map[string]any{"account": "acct_1"}, config(), false},
		{map[string]any{"account": "acct_1"}, connected, true},
		{map[string]any{"account": "acct_2"}, connected, false},
		{nil, connected, false},
	} {
		body := event("payment_intent.succeeded", intent(nil), c.change)
		_, err := client(t, c.cfg).Read(t.Context(), sign(body, hookSecret, now()), body)
		if c.ours && err != nil || !c.ours && domain.ReasonOf(err) != "wrong_merchant" {
			t.Errorf("%v: got %v", c.change, err)
		}
	}
}

func TestASignedBodyThatMakesNoSenseIsUnreadable(t *testing.T) {
	for name, body := range map[string][]byte{
		"no JSON":              []byte("<xml>"),
		"no event":             []byte(`{"object":"v2.core.event"}`),
		"nothing in it":        []byte(`{"object":"event","type":"payment_intent.succeeded"}`),
		"a null in it":         []byte(`{"object":"event","type":"payment_intent.succeeded","data":null}`),
		"no object":            event("payment_intent.succeeded", nil, nil),
		"another object":       event("payment_intent.succeeded", refund(nil), nil),
		"another object too":   event("refund.updated", intent(nil), nil),
		"no id":                event("payment_intent.succeeded", intent(map[string]any{"id": ""}), nil),
		"no status":            event("payment_intent.succeeded", intent(map[string]any{"status": ""}), nil),
		"not what it is":       event("payment_intent.succeeded", intent(map[string]any{"status": "processing"}), nil),
		"no amount":            event("payment_intent.succeeded", intent(map[string]any{"amount_received": nil}), nil),
		"an amount of nothing": event("payment_intent.succeeded", intent(map[string]any{"amount_received": 0}), nil),
		"half a cent":          event("payment_intent.succeeded", intent(map[string]any{"amount_received": 0.5}), nil),
		"an amount in a text":  event("payment_intent.succeeded", intent(map[string]any{"amount_received": "64900"}), nil),
		"half a króna":         event("payment_intent.succeeded", intent(map[string]any{"amount_received": 550, "currency": "isk"}), nil),
		"no currency":          event("payment_intent.succeeded", intent(map[string]any{"currency": nil}), nil),
		"a refund of nothing":  event("refund.updated", refund(map[string]any{"amount": nil}), nil),
		"a refund of no state": event("refund.updated", refund(map[string]any{"status": nil}), nil),
		"too much":             event("customer.created", strings.Repeat("a", 1<<20), nil),
	} {
		got, err := client(t, config()).Read(t.Context(), sign(body, nextSecret, now()), body)
		if got != nil || domain.ReasonOf(err) != "bad_callback" || domain.CodeOf(err) != domain.Invalid {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
		if what := leaks(err); what != "" {
			t.Errorf("%s: %s in %v", name, what, err)
		}
	}
}

func TestACurrencyIsToldAsItIs(t *testing.T) {
	for currency, want := range map[string]int64{"usd": 700, "jpy": 700, "isk": 7, "mga": 70000, "xyz": 700} {
		body := event("payment_intent.succeeded", intent(map[string]any{"amount_received": 700, "currency": currency}), nil)
		got, err := client(t, config()).Read(t.Context(), sign(body, hookSecret, now()), body)
		if err != nil || len(got) != 1 || got[0].Money.Currency != strings.ToUpper(currency) || got[0].Money.Amount != want {
			t.Errorf("%s: got %v, %v", currency, got, err)
		}
	}
}

func TestStripeIsToldWhetherToSayItAgain(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		body   string
	}{
		{nil, 200, `{"received":true}`},
		{domain.Refuse(domain.Invalid, "bad_signature", "x"), 400, `{"received":false}`},
		{errors.New("disk full at /var"), 500, `{"received":false}`},
	} {
		status, kind, body := client(t, config()).Answer(c.err)
		if status != c.status || kind != "application/json" || string(body) != c.body {
			t.Errorf("%v: got %d %s %s", c.err, status, kind, body)
		}
	}
}
