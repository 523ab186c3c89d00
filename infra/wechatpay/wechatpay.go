// Package wechatpay is the channel of WeChat Pay, API v3, for a merchant of its
// own (直连商户). Signatures, both ways, and the ciphers are the SDK's.
//
// # What goes over
//
// A payment's id is its out_trade_no, so it has 6 to 32 characters; a refund's
// key is its out_refund_no, its dots written as underscores, which WeChat allows
// (TestEveryKeyOfARefundComesBackAsItWas). Amounts are fen. Options: scene is
// native (the default; the instruction is a code_url to draw), jsapi (needs
// openid; the instruction is what wx.requestPayment is given), h5 (needs
// payer_ip, may have h5_type; a link) or app (the SDK's PayReq).
//
//	SUCCESS, REFUND               paid: money that went back had come
//	NOTPAY, USERPAYING, ACCEPT    pending, as is an order WeChat never heard of
//	CLOSED, REVOKED, PAYERROR     failed
//	refunds: SUCCESS              refunded
//	refunds: PROCESSING           pending
//	refunds: ABNORMAL, CLOSED     refund_failed
//
// # Why
//
// Another currency than yuan is refused before anything is sent: WeChat takes a
// merchant of the mainland for yuan whatever is asked
// (TestOnlyYuanAreAskedFor). A notice tells amount.total and not payer_total,
// which is less whenever WeChat's own coupon paid a part
// (TestACouponOfTheChannelTakesNothingOffThePayment).
//
// Keys come with the configuration: the platform's public key, its certificates,
// or, while a merchant moves from these to that, both. The SDK's downloader is
// not used, because it asks the network before the first callback can be read
// and keeps a global of goroutines (TestNothingIsSentBeforeItIsAsked). Nor is
// its notify.Handler: it writes the whole request into its errors, ciphertext
// and all, takes time from the machine alone, and panics at a signed body
// without a resource (TestASignedBodyThatMakesNoSenseIsUnreadable). Its verifier
// and its decryption are.
//
// Refused for good is only what WeChat says about the payment itself. What is
// wrong with our keys or rights (SIGN_ERROR, NO_AUTH), a merchant's empty account
// (NOT_ENOUGH) and an answer without a code of WeChat's, such as a proxy's page,
// leave the outcome open: the same call settles it once somebody has mended it,
// and no buyer loses a refund by it (TestAFaultOfOursRefusesNothing). A refund
// that is refused is looked up before that is believed, since the refusal may be
// of the second asking (TestARefundThatWasMadeIsFoundThoughItsRepeatIsRefused).
//
// Closing what WeChat never heard of is NoticeFailed: nobody can pay it. An Ask
// that is under way meanwhile can still make it; what is paid then is a notice of
// its own.
package wechatpay

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/wechatpay-apiv3/wechatpay-go/core"
	"github.com/wechatpay-apiv3/wechatpay-go/core/auth"
	"github.com/wechatpay-apiv3/wechatpay-go/core/auth/verifiers"
	"github.com/wechatpay-apiv3/wechatpay-go/core/consts"
	"github.com/wechatpay-apiv3/wechatpay-go/core/option"
	"github.com/wechatpay-apiv3/wechatpay-go/utils"
)

// Config is what a merchant has of WeChat Pay.
type Config struct {
	Merchant     string // mchid
	App          string // appid
	Serial       string // of the merchant's own certificate
	PrivateKey   []byte // of the merchant's own certificate: PEM, PKCS #8
	APIv3Key     string // 32 bytes, by which callbacks are sealed
	PublicKeyID  string // of the platform: PUB_KEY_ID_…
	PublicKey    []byte // of the platform: PEM
	Certificates []byte // of the platform, instead of its public key or beside it: PEM, one after the other
	NotifyURL    string // where callbacks go: https, no query

	URL  string           // another server than WeChat's
	HTTP *http.Client     // one with a timeout by default
	Now  func() time.Time // time.Now by default
}

// A Client is the channel. It may be used concurrently.
type Client struct {
	merchant, app, notify string
	sealed                string // the key of callbacks
	api                   *core.Client
	verifier              auth.Verifier
	now                   func() time.Time
}

// keySize is that of AES-256.
const keySize = 32

// New makes a channel, and asks nothing of the network.
func New(cfg Config) (*Client, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	key, err := utils.LoadPrivateKey(string(cfg.PrivateKey))
	if err != nil {
		return nil, errors.New("the merchant's private key for WeChat Pay is no PEM of an RSA key in PKCS #8") // not why: that may quote it
	}
	verifier, err := cfg.verifier()
	if err != nil {
		return nil, err
	}
	to, err := cfg.server()
	if err != nil {
		return nil, err
	}
	api, err := core.NewClient(context.Background(),
		option.WithMerchantCredential(cfg.Merchant, cfg.Serial, key),
		option.WithVerifier(verifier),
		option.WithHTTPClient(client(cfg.HTTP, to)))
	if err != nil {
		return nil, fmt.Errorf("client of WeChat Pay: %w", err)
	}
	c := &Client{
		merchant: cfg.Merchant, app: cfg.App, notify: cfg.NotifyURL, sealed: cfg.APIv3Key,
		api: api, verifier: verifier, now: cfg.Now,
	}
	if c.now == nil {
		c.now = time.Now
	}
	return c, nil
}

func (cfg Config) check() error {
	var missing []string
	for _, need := range []struct {
		name string
		ok   bool
	}{
		{"a merchant number", cfg.Merchant != ""},
		{"an application", cfg.App != ""},
		{"the serial number of the merchant's certificate", cfg.Serial != ""},
		{"the merchant's private key", len(cfg.PrivateKey) > 0},
		{"an APIv3 key of 32 bytes", len(cfg.APIv3Key) == keySize},
		{"a public key with its id, or certificates, of the platform", len(cfg.PublicKey) > 0 && cfg.PublicKeyID != "" || len(cfg.Certificates) > 0},
		{"both of the platform's public key and its id", (len(cfg.PublicKey) > 0) == (cfg.PublicKeyID != "")},
		{"a URL for callbacks, https and without a query", isNotifyURL(cfg.NotifyURL)},
	} {
		if !need.ok {
			missing = append(missing, need.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the channel wechatpay lacks %s", strings.Join(missing, ", "))
	}
	return nil
}

func isNotifyURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.RawQuery == ""
}

func (cfg Config) server() (*url.URL, error) {
	if cfg.URL == "" {
		cfg.URL = consts.WechatPayAPIServer
	}
	to, err := url.Parse(cfg.URL)
	if err != nil || to.Host == "" || to.Scheme != "https" && to.Scheme != "http" || strings.Trim(to.Path, "/") != "" {
		return nil, fmt.Errorf("the server of WeChat Pay is a URL without a path, not %q", cfg.URL)
	}
	return to, nil
}

// verifier knows every key by which the platform may sign.
func (cfg Config) verifier() (auth.Verifier, error) {
	certificates, err := certificates(cfg.Certificates)
	if err != nil {
		return nil, err
	}
	known := core.NewCertificateMapWithList(certificates)
	if len(cfg.PublicKey) == 0 {
		return verifiers.NewSHA256WithRSAVerifier(known), nil
	}
	key, err := utils.LoadPublicKey(string(cfg.PublicKey))
	if err != nil {
		return nil, errors.New("the public key of WeChat Pay's platform is no PEM of an RSA key")
	}
	if len(certificates) == 0 {
		return verifiers.NewSHA256WithRSAPubkeyVerifier(cfg.PublicKeyID, *key), nil
	}
	return verifiers.NewSHA256WithRSACombinedVerifier(known, cfg.PublicKeyID, *key), nil
}

func certificates(text []byte) (all []*x509.Certificate, err error) {
	for len(strings.TrimSpace(string(text))) > 0 {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, errors.New("the certificates of WeChat Pay's platform are no PEM")
		}
		one, err := utils.LoadCertificate(string(pem.EncodeToMemory(block)))
		if err != nil {
			return nil, fmt.Errorf("certificate %d of WeChat Pay's platform: %w", len(all)+1, err)
		}
		if _, ok := one.PublicKey.(*rsa.PublicKey); !ok { // the SDK takes it for granted
			return nil, fmt.Errorf("certificate %d of WeChat Pay's platform is not of an RSA key", len(all)+1)
		}
		all, text = append(all, one), rest
	}
	return all, nil
}
