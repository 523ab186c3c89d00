package stripepay_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"cartwright/infra/stripepay"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestTheServerIsStripesUnlessAnotherIsGiven(t *testing.T) {
	var asked []string
	cfg := config()
	cfg.URL, cfg.Account = "", "acct_1"
	cfg.HTTP = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		asked = append(asked, r.URL.String()+" "+r.Header.Get("Stripe-Account"))
		return nil, http.ErrServerClosed
	})}
	c := client(t, cfg)
	if len(asked) != 0 {
		t.Errorf("asked %s before anybody wanted it", asked)
	}
	if _, err := c.Find(t.Context(), "pay-1"); err == nil {
		t.Error("found")
	}
	want := "https://api.stripe.com/v1/payment_intents/search?limit=100&query=metadata%5B%27payment%27%5D%3A%27pay-1%27 acct_1"
	if len(asked) != 1 || !sameQuery(asked[0], want) {
		t.Errorf("asked %s, want %s", asked, want)
	}
}

// sameQuery compares URLs whose parameters may stand in any order.
func sameQuery(a, b string) bool {
	return len(a) == len(b) && strings.Split(a, "?")[0] == strings.Split(b, "?")[0]
}

func TestAConfigurationIsCheckedWhole(t *testing.T) {
	_, err := stripepay.New(stripepay.Config{})
	if want := "the channel stripe lacks a secret key, sk_ or rk_, live or test, the secrets of its webhook, whsec_"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	for name, change := range map[string]func(*stripepay.Config){
		"a publishable secret": func(c *stripepay.Config) { c.SecretKey = publishable },
		"nothing secret":       func(c *stripepay.Config) { c.SecretKey = "sk_test_" },
		"two modes":            func(c *stripepay.Config) { c.PublishableKey = "pk_live_51public" },
		"a published secret":   func(c *stripepay.Config) { c.PublishableKey = secretKey },
		"no webhook secret":    func(c *stripepay.Config) { c.WebhookSecrets = []string{hookSecret, ""} },
		"no account":           func(c *stripepay.Config) { c.Account = "1" },
		"no server":            func(c *stripepay.Config) { c.URL = "proxy" },
	} {
		cfg := config()
		change(&cfg)
		if _, err := stripepay.New(cfg); err == nil || leaks(err) != "" {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for _, key := range []string{"sk_test_x", "rk_test_x"} {
		cfg := config()
		cfg.SecretKey, cfg.PublishableKey = key, ""
		if _, err := stripepay.New(cfg); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestRealMoneyIsToldFromPlayMoney(t *testing.T) {
	for _, key := range []string{"sk_live_x", "rk_live_x"} {
		cfg := config()
		cfg.SecretKey, cfg.PublishableKey = key, "pk_live_x"
		for live, ours := range map[bool]bool{true: true, false: false} {
			body := event("payment_intent.succeeded", intent(nil), map[string]any{"livemode": live})
			if _, err := client(t, cfg).Read(t.Context(), sign(body, hookSecret, now()), body); (err == nil) != ours {
				t.Errorf("%s, %t: got %v", key, live, err)
			}
		}
	}
}

func TestOldPaymentsAreForgottenAndSearchedFor(t *testing.T) {
	s := newServer(t)
	if _, err := s.client().Ask(t.Context(), asking("pay-0")); err != nil {
		t.Fatal(err)
	}
	s.pay()
	c := s.client()
	c.RememberOnly(100)
	for range 2 {
		if got, err := c.Find(t.Context(), "pay-0"); err != nil || got.Trade != "pi_1" {
			t.Errorf("got %v, %v", got, err)
		}
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				over := intent(map[string]any{"status": "canceled", "metadata": map[string]string{"payment": fmt.Sprintf("other-%d", i)}})
				body := event("payment_intent.canceled", over, nil)
				if _, err := c.Read(t.Context(), sign(body, hookSecret, now()), body); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	if n := s.count("GET /v1/payment_intents/search"); n != 2 {
		t.Errorf("%d searches", n)
	}
}
