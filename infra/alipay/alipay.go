// Package alipay is the channel of Alipay's open platform, for a merchant of the
// mainland: RSA2 signatures both ways, which are the SDK's.
//
// # What goes over
//
// A payment's id is its out_trade_no, its dashes written as underscores, since
// Alipay takes letters, digits and underscores only and our ids have none of
// these (TestEveryPaymentsIDComesBackAsItWas); a refund's key is its
// out_request_no as it is. Amounts are yuan with two decimals, written and read
// by whole numbers alone (TestEveryAmountGoesThereAndComesBack). Options: scene is
// page (the default; the instruction is a url for a browser), wap (a url for a
// telephone's, may have quit_url), app (an order for Alipay's own client) or
// precreate (a qr_code to draw).
//
//	TRADE_SUCCESS, TRADE_FINISHED   paid
//	WAIT_BUYER_PAY                  pending, as is a trade Alipay never heard of
//	TRADE_CLOSED                    failed; paid, where it says when it was paid
//	refunds: fund_change Y, or REFUND_SUCCESS when asked   refunded
//	refunds: not found when asked                          pending
//
// # Why
//
// TRADE_CLOSED is two things, a trade that nobody paid and one that was given
// back in full, and only the second has a time of payment. Taken for failed, a
// payment would be lost whose callback was (TestATradeGivenBackInFullWasPaid).
//
// Only what is signed is believed. The SDK hands out errors whose answer carries
// no signature, since Alipay's gateway does not sign all of its own; they leave
// the outcome open, whatever code they name (TestAnUnsignedRefusalRefusesNothing).
// So do faults of our keys and rights, Alipay's own (20000, SYSTEM_ERROR) and a
// seller's empty account: the same call settles it once that is mended.
//
// The SDK is told that it is in a sandbox, whose address is Alipay's: otherwise it
// would fetch the certificate that a callback names from the network, for
// anybody who sends one (TestACallbackMakesUsAskForNothing).
//
// A callback has no age: Alipay repeats one for 25 hours, and what one says stays
// true; the trade's number makes a repeat harmless. A callback about a refund
// names the sum of all refunds so far, not this one, so its notice has no Money:
// its key says which it is (TestACallbackTellsWhichRefundAndNotHowMuch).
//
// For page, wap and app, Ask asks nobody: it signs a link, and there is a trade
// once the buyer has followed it. So closing what Alipay never heard of is
// NoticeFailed, though a link that is out works until the payment expires; who
// pays by it then is told in a notice of its own, as all late money is.
package alipay

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/smartwalle/alipay/v3"
)

// Config is what a merchant has of Alipay.
type Config struct {
	App        string // app_id
	Seller     string // seller_id, 2088…; not checked where it is empty
	PrivateKey []byte // of the application: PEM, PKCS #1 or #8
	PublicKey  []byte // of Alipay: PEM; or the three certificates instead
	NotifyURL  string // where callbacks go
	ReturnURL  string // where the buyer's browser goes in the end, if anywhere

	AppCertificate    []byte // of the application: PEM
	AlipayCertificate []byte // of Alipay: PEM
	RootCertificate   []byte // of Alipay: PEM, one after the other

	URL  string       // another gateway than Alipay's
	HTTP *http.Client // one with a timeout by default
}

// Gateway is Alipay's own.
const Gateway = "https://openapi.alipay.com/gateway.do"

// A Client is the channel. It may be used concurrently.
type Client struct {
	app, seller, notify, back string
	api                       *alipay.Client
}

// beijing is where Alipay's clocks are.
func beijing() *time.Location { return time.FixedZone("CST", 8*60*60) }

// New makes a channel, and asks nothing of the network.
func New(cfg Config) (*Client, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.URL == "" {
		cfg.URL = Gateway
	}
	if u, err := url.Parse(cfg.URL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("the gateway of Alipay is a URL, not %q", cfg.URL)
	}
	api, err := alipay.New(cfg.App, string(cfg.PrivateKey), false,
		alipay.WithSandboxGateway(cfg.URL), alipay.WithTimeLocation(beijing()), alipay.WithHTTPClient(client(cfg.HTTP)))
	if err != nil {
		return nil, errors.New("the application's private key for Alipay is no PEM of an RSA key") // not why: that may quote it
	}
	if err := cfg.trust(api); err != nil {
		return nil, err
	}
	return &Client{app: cfg.App, seller: cfg.Seller, notify: cfg.NotifyURL, back: cfg.ReturnURL, api: api}, nil
}

func (cfg Config) check() error {
	certificates := 0
	for _, one := range [][]byte{cfg.AppCertificate, cfg.AlipayCertificate, cfg.RootCertificate} {
		if len(one) > 0 {
			certificates++
		}
	}
	var missing []string
	for _, need := range []struct {
		name string
		ok   bool
	}{
		{"an application", cfg.App != ""},
		{"the application's private key", len(cfg.PrivateKey) > 0},
		{"either Alipay's public key or all of the application's, Alipay's and the root certificate", len(cfg.PublicKey) > 0 && certificates == 0 || len(cfg.PublicKey) == 0 && certificates == 3},
		{"a URL for callbacks", isURL(cfg.NotifyURL)},
		{"a URL for returning buyers that is one", cfg.ReturnURL == "" || isURL(cfg.ReturnURL)},
	} {
		if !need.ok {
			missing = append(missing, need.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the channel alipay lacks %s", strings.Join(missing, ", "))
	}
	return nil
}

func isURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http")
}

// trust gives the SDK what it verifies Alipay by.
func (cfg Config) trust(api *alipay.Client) error {
	if len(cfg.PublicKey) > 0 {
		if err := api.LoadAliPayPublicKey(string(cfg.PublicKey)); err != nil {
			return errors.New("the public key of Alipay is no PEM of an RSA key")
		}
		return nil
	}
	if err := api.LoadAppCertPublicKey(string(cfg.AppCertificate)); err != nil {
		return fmt.Errorf("the application's certificate for Alipay: %w", err)
	}
	if err := checkRSA(cfg.AlipayCertificate); err != nil { // of another the SDK says nothing, and verifies by nothing
		return err
	}
	if err := api.LoadAlipayCertPublicKey(string(cfg.AlipayCertificate)); err != nil {
		return fmt.Errorf("the certificate of Alipay: %w", err)
	}
	if block, _ := pem.Decode(cfg.RootCertificate); block == nil { // the SDK takes anything
		return errors.New("the root certificate of Alipay is no PEM")
	}
	return api.LoadAliPayRootCert(string(cfg.RootCertificate))
}

// object writes an instruction.
func object(data map[string]string) (json.RawMessage, error) {
	raw, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("write the instruction: %w", err)
	}
	return raw, nil
}
