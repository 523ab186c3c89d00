package stripepay_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
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

func euro(cents int64) money.Money { return money.Money{Amount: cents, Currency: "EUR"} }

func asking(id string) commands.Asking {
	return commands.Asking{Payment: id, Total: euro(64900), Subject: "a book", Expires: now().Add(time.Minute)}
}

func paid() commands.Notice {
	return commands.Notice{Kind: commands.NoticePaid, Payment: "pay-0598392", Trade: "pi_1", Money: euro(64900), At: time.Unix(made, 0).UTC()}
}

func TestAskedAgainItIsTheSameIntent(t *testing.T) {
	s := newServer(t)
	for range 3 {
		got, err := s.client().Ask(t.Context(), asking("pay-0598392"))
		want := `{"client_secret":"pi_1_secret_x","intent":"pi_1","publishable_key":"pk_test_51public"}`
		if err != nil || got.Reference != "pi_1" || string(got.Data) != want {
			t.Errorf("got %v %s, %v", got.Reference, got.Data, err)
		}
	}
	want := map[string]any{"amount": int64(64900), "currency": "eur", "description": "a book"}
	for name := range want {
		if s.intents[0][name] != want[name] {
			t.Errorf("%s: got %v, want %v", name, s.intents[0][name], want[name])
		}
	}
	if len(s.intents) != 1 || s.header.Get("Idempotency-Key") != "payment-pay-0598392" {
		t.Errorf("%d intents by %s", len(s.intents), s.header.Get("Idempotency-Key"))
	}
	other := asking("pay-0598392")
	other.Total = euro(1)
	if got, err := s.client().Ask(t.Context(), other); domain.CodeOf(err) != domain.Rejected {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestAMethodIsAskedForOrLeftToStripe(t *testing.T) {
	for method, want := range map[string][2]string{"": {"automatic_payment_methods[enabled]", "true"}, "wechat_pay": {"payment_method_types[0]", "wechat_pay"}} {
		s := newServer(t)
		var form url.Values
		s.breaks(func(_ http.ResponseWriter, r *http.Request) bool {
			if err := r.ParseForm(); err != nil {
				t.Error(err)
			}
			form = r.Form
			return false
		})
		ask := asking("pay-0598392")
		if method != "" {
			ask.Options = map[string]string{"method": method}
		}
		if _, err := s.client().Ask(t.Context(), ask); err != nil || form.Get(want[0]) != want[1] || form.Has("automatic_payment_methods[enabled]") == (method != "") {
			t.Errorf("%s: sent %s, %v", method, form, err)
		}
	}
}

func TestWhatStripeHasNoUseForIsRefusedBeforeAnythingIsSent(t *testing.T) {
	s := newServer(t)
	for name, change := range map[string]func(*commands.Asking){
		"nothing":           func(a *commands.Asking) { a.Total.Amount = 0 },
		"less than nothing": func(a *commands.Asking) { a.Total.Amount = -1 },
		"a long id":         func(a *commands.Asking) { a.Payment = strings.Repeat("p", 33) },
		"an id with a sign": func(a *commands.Asking) { a.Payment = "x' OR 1" },
		"no id":             func(a *commands.Asking) { a.Payment = "" },
		"an option":         func(a *commands.Asking) { a.Options = map[string]string{"customer": "cus_1"} },
		"a method":          func(a *commands.Asking) { a.Options = map[string]string{"method": "Card!"} },
	} {
		ask := asking("pay-0598392")
		change(&ask)
		_, err := s.client().Ask(t.Context(), ask)
		if code := domain.CodeOf(err); code != domain.Rejected && code != domain.Invalid {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	if len(s.asked) != 0 {
		t.Errorf("Stripe was asked: %v", s.asked)
	}
}

func TestWhatHasExpiredIsNotAskedFor(t *testing.T) {
	s := newServer(t)
	ask := asking("pay-0598392")
	ask.Expires = now()
	if _, err := s.client().Ask(t.Context(), ask); domain.CodeOf(err) != domain.Rejected || len(s.asked) != 0 {
		t.Errorf("got %v", err)
	}
	ask.Expires = time.Time{}
	if _, err := s.client().Ask(t.Context(), ask); err != nil {
		t.Error(err)
	}
}

func TestWhatStripeCannotSayIsRefused(t *testing.T) {
	s := newServer(t)
	for _, m := range []money.Money{
		{Amount: 100, Currency: "XXX"},
		{Amount: 100, Currency: ""},
		{Amount: 100, Currency: "eur"},
		{Amount: 10000, Currency: "CLF"}, // four decimals
		{Amount: 10000, Currency: "UYI"}, // no decimals, and not Stripe's
		{Amount: 10000, Currency: "IQD"}, // three decimals, and not Stripe's
		{Amount: 5124, Currency: "KWD"},
		{Amount: 150, Currency: "MGA"},
		{Amount: math.MaxInt64 / 10, Currency: "ISK"},
	} {
		ask := asking("pay-0598392")
		ask.Total = m
		if _, err := s.client().Ask(t.Context(), ask); domain.ReasonOf(err) != "channel_refused" || len(s.asked) != 0 {
			t.Errorf("%v: got %v", m, err)
		}
		if _, err := s.client().Refund(t.Context(), commands.Returning{Payment: "p", Key: "k", Amount: m, Total: m}); domain.ReasonOf(err) != "channel_refused" || len(s.asked) != 0 {
			t.Errorf("%v: got %v", m, err)
		}
	}
}

func TestAmountsAreInStripesUnits(t *testing.T) {
	for _, c := range []struct {
		ours    money.Money
		stripes int64
	}{
		{money.Money{Amount: 1099, Currency: "USD"}, 1099},
		{money.Money{Amount: 500, Currency: "JPY"}, 500},
		{money.Money{Amount: 5, Currency: "ISK"}, 500},
		{money.Money{Amount: 5, Currency: "UGX"}, 500},
		{money.Money{Amount: 500, Currency: "MGA"}, 5},
		{money.Money{Amount: 5120, Currency: "KWD"}, 5120},
		{money.Money{Amount: 1045, Currency: "HUF"}, 1045},
		{money.Money{Amount: 80045, Currency: "TWD"}, 80045},
	} {
		s := newServer(t)
		ask := asking("pay-0598392")
		ask.Total = c.ours
		if _, err := s.client().Ask(t.Context(), ask); err != nil || s.intents[0]["amount"] != c.stripes || s.intents[0]["currency"] != strings.ToLower(c.ours.Currency) {
			t.Errorf("%v: sent %v, %v; want %d", c.ours, s.intents, err, c.stripes)
		}
	}
}

func TestEveryAmountGoesThereAndComesBack(t *testing.T) {
	s := newServer(t)
	c := s.client()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		ask := asking(fmt.Sprintf("pay-%d", n))
		currency := rapid.SampledFrom([]string{"USD", "CNY", "JPY", "XPF", "ISK", "UGX", "MGA", "KWD", "TND"}).Draw(rt, "currency")
		step := map[string]int64{"MGA": 100, "KWD": 10, "TND": 10}[currency]
		most := int64(math.MaxInt64)
		if currency == "ISK" || currency == "UGX" {
			most /= 100
		}
		ask.Total = money.Money{Amount: rapid.Int64Range(1, most/max(step, 1)).Draw(rt, "amount") * max(step, 1), Currency: currency}
		if _, err := c.Ask(t.Context(), ask); err != nil {
			rt.Fatal(err)
		}
		s.pay()
		found, err := c.Find(t.Context(), ask.Payment)
		if err != nil || found.Kind != commands.NoticePaid || found.Money != ask.Total {
			rt.Fatalf("found %v, %v; want %v", found, err, ask.Total)
		}
		body := event("payment_intent.succeeded", s.intents[len(s.intents)-1], nil)
		told, err := c.Read(t.Context(), sign(body, hookSecret, now()), body)
		if err != nil || len(told) != 1 || told[0] != found {
			rt.Fatalf("told %v, %v; want %v", told, err, found)
		}
	})
}

func TestAPaymentIsFoundInEveryState(t *testing.T) {
	pending := commands.Notice{Kind: commands.NoticePending, Payment: "pay-0598392", Trade: "pi_1"}
	for status, want := range map[string]commands.Notice{
		"succeeded":               paid(),
		"canceled":                {Kind: commands.NoticeFailed, Payment: "pay-0598392", Trade: "pi_1", Note: "canceled: abandoned"},
		"requires_payment_method": pending,
		"requires_confirmation":   pending,
		"requires_action":         pending,
		"requires_capture":        pending,
		"processing":              pending,
	} {
		s := newServer(t)
		c := s.client()
		if _, err := c.Ask(t.Context(), asking("pay-0598392")); err != nil {
			t.Fatal(err)
		}
		s.pay()
		s.set(s.intents[0], "status", status)
		s.set(s.intents[0], "cancellation_reason", "abandoned")
		for range 2 {
			got, err := c.Find(t.Context(), "pay-0598392")
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("%s: %v %s", status, err, diff)
			}
		}
		if n := s.count("GET /v1/payment_intents/search"); n != 0 {
			t.Errorf("%d searches", n)
		}
	}
}

func TestAPaymentOfAnotherProcessIsSearchedFor(t *testing.T) {
	s := newServer(t)
	if _, err := s.client().Ask(t.Context(), asking("pay-0598392")); err != nil {
		t.Fatal(err)
	}
	s.pay()
	s.behind = true
	c := s.client()
	got, err := c.Find(t.Context(), "pay-0598392")
	if want := (commands.Notice{Kind: commands.NoticePending, Payment: "pay-0598392"}); err != nil || got != want {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	s.behind = false
	for range 3 {
		if got, err := c.Find(t.Context(), "pay-0598392"); err != nil || got != paid() {
			t.Errorf("got %v, %v", got, err)
		}
	}
	if n := s.count("GET /v1/payment_intents/search"); n != 2 { // and no more once it is known
		t.Errorf("%d searches", n)
	}
}

func TestWhatASearchFindsOfOthersIsPassedOver(t *testing.T) {
	s := newServer(t)
	for _, id := range []string{"pay-0598392", "pay-0000001"} {
		if _, err := s.client().Ask(t.Context(), asking(id)); err != nil {
			t.Fatal(err)
		}
	}
	s.breaks(func(w http.ResponseWriter, r *http.Request) bool {
		search := strings.HasSuffix(r.URL.Path, "/search")
		if search {
			s.say(w, 200, list(s.intents, func(map[string]any) bool { return true }))
		}
		return search
	})
	if got, err := s.client().Find(t.Context(), "pay-0598392"); err != nil || got.Trade != "pi_1" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestWhatStripeNeverHeardOfIsPending(t *testing.T) {
	s := newServer(t)
	for _, id := range []string{"pay-0598392", "x' OR 1"} { // the second it can't have
		got, err := s.client().Find(t.Context(), id)
		if want := (commands.Notice{Kind: commands.NoticePending, Payment: id}); err != nil || got != want {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
	}
}

func TestOfTwoIntentsTheOneThatWasPaidCounts(t *testing.T) {
	for _, first := range []bool{true, false} {
		s := newServer(t)
		for range 2 {
			if _, err := s.client().Ask(t.Context(), asking("pay-0598392")); err != nil {
				t.Fatal(err)
			}
			if first == (len(s.intents) == 1) {
				s.pay()
			}
			s.forget()
		}
		got, err := s.client().Close(t.Context(), "pay-0598392")
		if err != nil || got.Kind != commands.NoticePaid || len(s.intents) != 2 {
			t.Errorf("got %v, %v", got, err)
		}
		open := 0
		for _, i := range s.intents {
			if i["status"] != "succeeded" && i["status"] != "canceled" {
				open++
			}
		}
		if open != 0 {
			t.Errorf("%d are open", open)
		}
	}
}

func TestAnAnswerAboutAnotherIsNoAnswer(t *testing.T) {
	for field, value := range map[string]any{
		"id": "", "livemode": true, "status": "", "metadata": map[string]string{"payment": "pay-0000000"}, "amount_received": 0, "currency": "",
	} {
		s := newServer(t)
		c := s.client()
		if _, err := c.Ask(t.Context(), asking("pay-0598392")); err != nil {
			t.Fatal(err)
		}
		s.pay()
		other := maps.Clone(s.intents[0])
		other[field] = value
		s.breaks(func(w http.ResponseWriter, _ *http.Request) bool { s.say(w, 200, other); return true })
		if got, err := c.Find(t.Context(), "pay-0598392"); domain.CodeOf(err) != domain.Unavailable {
			t.Errorf("%s: got %v, %v", field, got, err)
		}
	}
}

func TestAnIntentIsClosedOnceAndAPaidOneIsFound(t *testing.T) {
	s := newServer(t)
	c := s.client()
	if _, err := c.Ask(t.Context(), asking("pay-0598392")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got, err := c.Close(t.Context(), "pay-0598392")
		want := commands.Notice{Kind: commands.NoticeFailed, Payment: "pay-0598392", Trade: "pi_1", Note: "canceled: abandoned"}
		if err != nil || got != want {
			t.Errorf("got %v, %v", got, err)
		}
	}
	got, err := c.Close(t.Context(), "pay-unknown")
	if want := (commands.Notice{Kind: commands.NoticeFailed, Payment: "pay-unknown", Note: "never begun"}); err != nil || got != want {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := c.Ask(t.Context(), asking("pay-0000001")); err != nil {
		t.Fatal(err)
	}
	s.breaks(func(_ http.ResponseWriter, r *http.Request) bool { // the buyer is faster
		if strings.HasSuffix(r.URL.Path, "/cancel") {
			i := s.intents[1]
			i["status"], i["amount_received"] = "succeeded", i["amount"]
		}
		return false
	})
	if got, err := c.Close(t.Context(), "pay-0000001"); err != nil || got.Kind != commands.NoticePaid {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestAnIntentThatWasInTheWayIsClosedLater(t *testing.T) {
	s := newServer(t)
	c := s.client()
	if _, err := c.Ask(t.Context(), asking("pay-0598392")); err != nil {
		t.Fatal(err)
	}
	s.set(s.intents[0], "status", "processing")
	if got, err := c.Close(t.Context(), "pay-0598392"); domain.CodeOf(err) != domain.Unavailable {
		t.Errorf("got %v, %v", got, err)
	}
	s.set(s.intents[0], "status", "requires_payment_method")
	if got, err := c.Close(t.Context(), "pay-0598392"); err != nil || got.Kind != commands.NoticeFailed {
		t.Errorf("got %v, %v", got, err)
	}
}

// every calls everything that asks Stripe, of an intent that is known.
func every(ctx context.Context, t *testing.T, s *server, fault func(http.ResponseWriter, *http.Request)) map[string]error {
	t.Helper()
	s.breaks(nil)
	c, fresh := s.client(), s.client()
	if _, err := c.Ask(ctx, asking("pay-0598392")); err != nil {
		t.Fatal(err)
	}
	s.breaks(func(w http.ResponseWriter, r *http.Request) bool { fault(w, r); return true })
	_, ask := c.Ask(ctx, asking("pay-0598392"))
	_, find := c.Find(ctx, "pay-0598392")
	_, search := fresh.Find(ctx, "pay-0598392")
	_, shut := c.Close(ctx, "pay-0598392")
	_, refund := c.Refund(ctx, returning("r1", 100))
	return map[string]error{"ask": ask, "find": find, "search": search, "close": shut, "refund": refund}
}

func TestNoErrorTellsASecret(t *testing.T) {
	s := newServer(t)
	intent := map[string]any{"id": "pi_1", "object": "payment_intent", "client_secret": "pi_1_secret_x"}
	coded := func(status int, kind, code string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			s.say(w, status, map[string]any{"error": map[string]any{"type": kind, "code": code, "message": "m", "payment_intent": intent}})
		}
	}
	raw := func(status int, body string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); _, _ = w.Write([]byte(body)) }
	}
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request){
		"500":                 coded(500, "api_error", ""),
		"502 of a proxy":      raw(502, "<html>pi_1_secret_x"),
		"403 of a proxy":      raw(403, "<html>pi_1_secret_x"),
		"400 of a proxy":      raw(400, `{"client_secret":"pi_1_secret_x"}`),
		"400 without a type":  coded(400, "", ""),
		"401":                 coded(401, "invalid_request_error", ""),
		"403":                 coded(403, "invalid_request_error", ""),
		"409":                 coded(409, "idempotency_error", "idempotency_key_in_use"),
		"429":                 coded(429, "invalid_request_error", "rate_limit"),
		"an empty account":    coded(400, "invalid_request_error", "balance_insufficient"),
		"an old key":          coded(400, "invalid_request_error", "api_key_expired"),
		"elsewhere":           func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/pi_1_secret_x", http.StatusFound) },
		"created":             raw(201, `{"id":"pi_1","client_secret":"pi_1_secret_x"}`),
		"half of it":          raw(200, `{"client_secret":"pi_1_secret_x"`),
		"another type":        raw(200, `{"client_secret":"pi_1_secret_x","amount":"a lot","data":7}`),
		"too much":            raw(200, `{"a":"`+strings.Repeat("a", 5<<20)+`"}`),
		"the connection ends": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		for call, err := range every(t.Context(), t, s, fault) {
			if domain.CodeOf(err) != domain.Unavailable || domain.ReasonOf(err) != "channel_unavailable" {
				t.Errorf("%s, %s: got %v", name, call, err)
			}
			if what := leaks(err); what != "" {
				t.Errorf("%s, %s: %s in %v", name, call, what, err)
			}
		}
	}
	for call, err := range every(t.Context(), t, s, coded(400, "invalid_request_error", "amount_too_small")) {
		if what := leaks(err); what != "" {
			t.Errorf("%s: %s in %v", call, what, err)
		}
	}
}

func TestNothingIsNoAnswer(t *testing.T) {
	s := newServer(t)
	for _, body := range []string{"{}", "null"} {
		for call, err := range every(t.Context(), t, s, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }) {
			if call != "search" && domain.CodeOf(err) != domain.Unavailable { // a search that finds nothing is one
				t.Errorf("%s, %s: got %v", body, call, err)
			}
		}
	}
}

func TestWhatStripeRefusesIsRefusedForGood(t *testing.T) {
	s := newServer(t)
	c := s.client()
	if _, err := c.Ask(t.Context(), asking("pay-0598392")); err != nil {
		t.Fatal(err)
	}
	s.pay()
	s.breaks(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			s.no(w, 400, "invalid_request_error", "amount_too_small")
		}
		return r.Method == http.MethodPost
	})
	_, ask := c.Ask(t.Context(), asking("pay-0000001"))
	_, refund := c.Refund(t.Context(), returning("r1", 1))
	for call, err := range map[string]error{"ask": ask, "refund": refund} {
		if domain.CodeOf(err) != domain.Rejected || domain.ReasonOf(err) != "channel_refused" || !strings.Contains(err.Error(), "amount_too_small: No such luck.") {
			t.Errorf("%s: got %v", call, err)
		}
	}
}

func TestWhoWaitsInVainIsToldSo(t *testing.T) {
	s := newServer(t)
	stop := make(chan struct{})
	s.breaks(func(http.ResponseWriter, *http.Request) bool { <-stop; return true })
	defer close(stop)
	cfg := config()
	cfg.URL, cfg.HTTP = s.http.URL, &http.Client{Timeout: 20 * time.Millisecond}
	if _, err := client(t, cfg).Find(t.Context(), "pay-0598392"); domain.CodeOf(err) != domain.Unavailable {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.client().Find(ctx, "pay-0598392"); domain.CodeOf(err) != domain.Unavailable || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
