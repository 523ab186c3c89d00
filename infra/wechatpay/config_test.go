package wechatpay_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"cartwright/infra/wechatpay"
)

type forbidden struct{ t *testing.T }

func (f forbidden) RoundTrip(r *http.Request) (*http.Response, error) {
	f.t.Errorf("%s %s", r.Method, r.URL)
	return nil, http.ErrServerClosed
}

func TestNothingIsSentBeforeItIsAsked(t *testing.T) {
	cfg := config(t)
	cfg.URL, cfg.HTTP = "", &http.Client{Transport: forbidden{t}}
	client(t, cfg)
}

func TestTheAddressIsWeChatsUnlessAnotherIsGiven(t *testing.T) {
	var asked string
	cfg := config(t)
	cfg.URL, cfg.HTTP = "", &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		asked = r.URL.String()
		return nil, http.ErrServerClosed
	})}
	if _, err := client(t, cfg).Find(t.Context(), "pay-0598392"); err == nil {
		t.Error("found")
	}
	if want := "https://api.mch.weixin.qq.com/v3/pay/transactions/out-trade-no/pay-0598392?mchid=" + merchant; asked != want {
		t.Errorf("asked %s, want %s", asked, want)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAConfigurationIsCheckedWhole(t *testing.T) {
	_, err := wechatpay.New(wechatpay.Config{})
	want := "the channel wechatpay lacks a merchant number, an application, the serial number of the merchant's certificate, " +
		"the merchant's private key, an APIv3 key of 32 bytes, a public key with its id, or certificates, of the platform, " +
		"a URL for callbacks, https and without a query"
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	for name, change := range map[string]func(*wechatpay.Config){
		"a short key":            func(c *wechatpay.Config) { c.APIv3Key = "short" },
		"http":                   func(c *wechatpay.Config) { c.NotifyURL = "http://shop.example/" },
		"a query":                func(c *wechatpay.Config) { c.NotifyURL += "?a=b" },
		"a key without its id":   func(c *wechatpay.Config) { c.PublicKeyID = "" },
		"an id without its key":  func(c *wechatpay.Config) { c.PublicKey, c.Certificates = nil, certificatePEM(t, platformKey(), 7) },
		"a public private key":   func(c *wechatpay.Config) { c.PrivateKey = publicPEM(t, merchantKey()) },
		"a private public key":   func(c *wechatpay.Config) { c.PublicKey = privatePEM(t, platformKey()) },
		"no certificates":        func(c *wechatpay.Config) { c.Certificates = []byte("certificate") },
		"a key for certificates": func(c *wechatpay.Config) { c.Certificates = publicPEM(t, platformKey()) },
		"a curve's certificate":  func(c *wechatpay.Config) { c.Certificates = curve(t) },
		"a server with a path":   func(c *wechatpay.Config) { c.URL = "https://proxy.example/wechat" },
		"no server":              func(c *wechatpay.Config) { c.URL = "proxy" },
	} {
		cfg := config(t)
		change(&cfg)
		_, err := wechatpay.New(cfg)
		if err == nil || strings.Contains(err.Error(), "\n") || leaks(err) != "" {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func curve(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
}

func TestCertificatesVerifyAsThePublicKeyDoesAndBothAtOnce(t *testing.T) {
	body := seal(t, apiKey, "TRANSACTION.SUCCESS", transaction("pay-0598392", 1))
	both := config(t)
	both.Now, both.Certificates = func() time.Time { return now }, slices.Concat(certificatePEM(t, strangeKey(), 0xABC), certificatePEM(t, platformKey(), 0xDEF))
	only := both
	only.PublicKey, only.PublicKeyID = nil, ""
	for serial, fits := range map[string][2]bool{publicKeyID: {true, false}, "0DEF": {true, true}, "0ABC": {false, false}, "123": {false, false}} {
		header := sign(t, platformKey(), now, body)
		header.Set("Wechatpay-Serial", serial)
		for i, cfg := range []wechatpay.Config{both, only} {
			if _, err := client(t, cfg).Read(t.Context(), header, body); (err == nil) != fits[i] {
				t.Errorf("%s, %d: got %v", serial, i, err)
			}
		}
	}
}
