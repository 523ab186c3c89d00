// Package stripepay is the channel of Stripe, by PaymentIntents. Requests and the
// verification of callbacks are the SDK's.
//
// # What goes over
//
// A payment is an intent whose metadata has our id as payment; a refund's has our
// key as refund, beside it. The instruction is the intent's client_secret, with
// the publishable key for Stripe.js. The one option is method, a type of payment
// method; without it Stripe offers what is switched on in its dashboard.
//
//	succeeded                     paid
//	canceled                      failed
//	everything else               pending: an attempt that failed may be followed by another
//	refunds: succeeded            refunded
//	refunds: failed, canceled     refund_failed
//	refunds: everything else      pending
//
// Amounts are in Stripe's minor units, which are ISO's but for these: ISK and UGX
// have two decimals, always zero, where ISO has none; MGA has none, where ISO has
// two; and the last of the three decimals of BHD, JOD, KWD, OMR and TND is zero.
// What can't be said exactly, or is of a currency Stripe does not have, is refused
// before anything is sent (TestWhatStripeCannotSayIsRefused,
// TestEveryAmountGoesThereAndComesBack).
//
// # Why
//
// Stripe finds an intent by its own id at once, and by ours only through a search
// whose index is a minute behind, at worst an hour. So a channel remembers the
// intents that it asked for or was told of, and asks for these by their ids; the
// search is for what another process asked for, or this one before it started
// (TestAPaymentOfAnotherProcessIsSearchedFor). What the search does not know yet is
// pending. A list of intents, which is never behind, can't be asked for metadata;
// and the idempotency key, which would give the intent back, wants the whole
// request again, and says how the intent was and not how it is.
//
// Closing what is not found is NoticeFailed. In the minute after a restart that
// can be wrong: the buyer may still pay an intent whose id was forgotten, which
// then is told in a notice of its own, as all late money is.
//
// Ask and Refund have idempotency keys made of our ids, so a repeat within a day is
// the same intent and the same refund. A day later Stripe has forgotten them:
// Refund therefore looks through the refunds of the intent before it makes one,
// and so never makes two (TestARefundIsNotMadeTwiceThoughItsKeyIsForgotten); and an
// Ask for what has expired is refused (TestWhatHasExpiredIsNotAskedFor). Close has no
// key: Stripe repeats for a day what it said under one, also that an intent is just
// being processed; a second cancel is harmless by itself
// (TestAnIntentThatWasInTheWayIsClosedLater).
//
// Callbacks may be written in another version of the API than the SDK's, which
// would only parse its own: so the SDK verifies them and the few fields that no
// version has changed are read here (TestACallbackOfAnyVersionIsRead). Their age is
// measured by the clock that is given, both ways.
//
// No error of the SDK goes further than this package: one may hold a whole intent,
// client_secret and all, or a piece of the answer (TestNoErrorTellsASecret).
package stripepay

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v84"
)

// Config is what a merchant has of Stripe.
type Config struct {
	SecretKey      string   // sk_… or rk_…, live or test
	PublishableKey string   // pk_…, of the same mode, for the buyer's client; may be empty
	WebhookSecrets []string // whsec_…; two while one replaces another
	Account        string   // acct_…, if it is a connected one of the secret key's

	URL  string           // another server than Stripe's
	HTTP *http.Client     // one with a timeout by default
	Now  func() time.Time // time.Now by default
}

// A Client is the channel. It may be used concurrently.
type Client struct {
	live        bool
	publishable string
	secrets     []string
	account     string
	api         *stripe.Client
	now         func() time.Time
	known       *memory
}

// New makes a channel, and asks nothing of the network.
func New(cfg Config) (*Client, error) {
	live, err := cfg.check()
	if err != nil {
		return nil, err
	}
	if cfg.URL == "" {
		cfg.URL = stripe.APIURL
	}
	if u, err := url.Parse(cfg.URL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("the server of Stripe is a URL, not %q", cfg.URL)
	}
	backend := stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
		URL: &cfg.URL, HTTPClient: client(cfg.HTTP, cfg.Account),
		LeveledLogger:     &stripe.LeveledLogger{Level: stripe.LevelNull}, // errors are handled once, elsewhere
		MaxNetworkRetries: new(int64(0)),                                  // who asks knows better how often
		EnableTelemetry:   new(false),
	})
	c := &Client{
		live: live, publishable: cfg.PublishableKey, secrets: cfg.WebhookSecrets, account: cfg.Account,
		api: stripe.NewClient(cfg.SecretKey, stripe.WithBackends(&stripe.Backends{API: backend})),
		now: cfg.Now, known: newMemory(remembered),
	}
	if c.now == nil {
		c.now = time.Now
	}
	return c, nil
}

// check says whether it is about real money.
func (cfg Config) check() (live bool, err error) {
	mode, isSecret := modeOf(cfg.SecretKey, "sk_", "rk_")
	publishable, isPublishable := modeOf(cfg.PublishableKey, "pk_")
	secrets := len(cfg.WebhookSecrets) > 0
	for _, secret := range cfg.WebhookSecrets {
		secrets = secrets && strings.HasPrefix(secret, "whsec_")
	}
	var missing []string
	for _, need := range []struct {
		name string
		ok   bool
	}{
		{"a secret key, sk_ or rk_, live or test", isSecret},
		{"a publishable key of the secret key's mode", cfg.PublishableKey == "" || isPublishable && mode == publishable},
		{"the secrets of its webhook, whsec_", secrets},
		{"an account that is one, acct_", cfg.Account == "" || strings.HasPrefix(cfg.Account, "acct_")},
	} {
		if !need.ok {
			missing = append(missing, need.name)
		}
	}
	if len(missing) > 0 {
		return false, errors.New("the channel stripe lacks " + strings.Join(missing, ", "))
	}
	return mode == "live", nil
}

func modeOf(key string, kinds ...string) (mode string, ok bool) {
	for _, kind := range kinds {
		for _, mode := range []string{"live", "test"} {
			if rest, ok := strings.CutPrefix(key, kind+mode+"_"); ok && rest != "" {
				return mode, true
			}
		}
	}
	return "", false
}
