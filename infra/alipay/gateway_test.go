package alipay_test

import (
	"crypto"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cartwright/infra/alipay"
)

const (
	application = "2021000118600000"
	seller      = "2088101106499364"
	noticeURL   = "https://shop.example/callbacks/alipay"
	returnURL   = "https://shop.example/thanks"
	paidAt      = "2026-05-20 13:29:35"
)

// keys are made once: of the merchant, of Alipay, and of somebody else.
var keys = sync.OnceValue(func() (all [3]*rsa.PrivateKey) {
	for i := range all {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		all[i] = key
	}
	return all
})

func merchantKey() *rsa.PrivateKey { return keys()[0] }
func alipayKey() *rsa.PrivateKey   { return keys()[1] }
func strangeKey() *rsa.PrivateKey  { return keys()[2] }

func privatePEM(t *testing.T, key *rsa.PrivateKey) []byte {
	t.Helper()
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

func publicPEM(t *testing.T, key *rsa.PrivateKey) []byte {
	t.Helper()
	raw, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: raw})
}

// certificate is made of a key, with the number by which Alipay calls it.
func certificate(t *testing.T, key crypto.Signer, number int64) (text []byte, name string) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(number), Subject: pkix.Name{CommonName: "Ant Financial"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	sum := md5.Sum([]byte(made.Issuer.String() + made.SerialNumber.String()))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), hex.EncodeToString(sum[:])
}

func config(t *testing.T) alipay.Config {
	t.Helper()
	return alipay.Config{
		App: application, Seller: seller, PrivateKey: privatePEM(t, merchantKey()), PublicKey: publicPEM(t, alipayKey()),
		NotifyURL: noticeURL, ReturnURL: returnURL, URL: "http://127.0.0.1:1/gateway.do", // nobody is there
	}
}

func client(t *testing.T, cfg alipay.Config) *alipay.Client {
	t.Helper()
	c, err := alipay.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// plain is what is signed of a form.
func plain(form url.Values, without ...string) string {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(form)) {
		if !slices.Contains(without, name) {
			pairs = append(pairs, name+"="+form.Get(name))
		}
	}
	return strings.Join(pairs, "&")
}

func sign(t *testing.T, key *rsa.PrivateKey, text string) string {
	t.Helper()
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(signature)
}

func isSigned(form url.Values, key *rsa.PrivateKey) bool {
	signature, err := base64.StdEncoding.DecodeString(form.Get("sign"))
	sum := sha256.Sum256([]byte(plain(form, "sign")))
	return err == nil && rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, sum[:], signature) == nil
}

// A gateway is as much of Alipay as a channel meets: it verifies who asks, keeps
// trades and refunds, and signs what it says.
type gateway struct {
	t      *testing.T
	server *httptest.Server
	fault  func(w http.ResponseWriter, method string) bool // answers instead, where it is set and says so

	mu      sync.Mutex
	asked   int
	sent    map[string]map[string]any // the last one by method
	trades  map[string]map[string]string
	refunds map[string]map[string]string
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{t: t, sent: map[string]map[string]any{}, trades: map[string]map[string]string{}, refunds: map[string]map[string]string{}}
	g.server = httptest.NewServer(http.HandlerFunc(g.serve))
	t.Cleanup(g.server.Close)
	return g
}

// breaks has fault answer from now on.
func (g *gateway) breaks(fault func(w http.ResponseWriter, method string) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fault = fault
}

func (g *gateway) client() *alipay.Client {
	g.t.Helper()
	cfg := config(g.t)
	cfg.URL = g.server.URL + "/gateway.do"
	return client(g.t, cfg)
}

func (g *gateway) serve(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked++
	if err := r.ParseForm(); err != nil {
		g.t.Error(err)
	}
	method := r.Form.Get("method")
	if g.fault != nil && g.fault(w, method) {
		return
	}
	if !isSigned(r.Form, merchantKey()) || r.Form.Get("app_id") != application || r.Form.Get("sign_type") != "RSA2" {
		g.unsigned(w, method, map[string]string{"code": "40002", "msg": "Invalid Arguments", "sub_code": "isv.invalid-signature", "sub_msg": "无效签名"})
		return
	}
	var told map[string]any
	if err := json.Unmarshal([]byte(r.Form.Get("biz_content")), &told); err != nil {
		g.t.Error(err)
	}
	g.sent[method] = told
	text := func(name string) string { s, _ := told[name].(string); return s }
	switch id := text("out_trade_no"); method {
	case "alipay.trade.precreate":
		g.say(w, method, map[string]string{"code": "10000", "out_trade_no": id, "qr_code": "https://qr.alipay.com/" + id})
	case "alipay.trade.query":
		g.query(w, method, id)
	case "alipay.trade.close":
		g.close(w, method, id)
	case "alipay.trade.refund":
		g.refund(w, method, id, text("out_request_no"), text("refund_amount"))
	case "alipay.trade.fastpay.refund.query":
		g.queryRefund(w, method, id, text("out_request_no"))
	default:
		g.t.Errorf("nobody serves %s", method)
	}
}

func (g *gateway) query(w http.ResponseWriter, method, id string) {
	trade, ok := g.trades[id]
	if !ok {
		g.no(w, method, "ACQ.TRADE_NOT_EXIST")
		return
	}
	g.say(w, method, trade)
}

func (g *gateway) close(w http.ResponseWriter, method, id string) {
	switch trade, ok := g.trades[id]; {
	case !ok:
		g.no(w, method, "ACQ.TRADE_NOT_EXIST")
	case trade["trade_status"] != "WAIT_BUYER_PAY":
		g.no(w, method, "ACQ.TRADE_STATUS_ERROR")
	default:
		trade["trade_status"] = "TRADE_CLOSED"
		g.say(w, method, map[string]string{"code": "10000", "out_trade_no": id, "trade_no": trade["trade_no"]})
	}
}

func (g *gateway) refund(w http.ResponseWriter, method, id, key, amount string) {
	if _, ok := g.trades[id]; !ok {
		g.no(w, method, "ACQ.TRADE_NOT_EXIST")
		return
	}
	answer := map[string]string{"code": "10000", "out_trade_no": id, "trade_no": "2026052022001", "fund_change": "N", "refund_fee": "649.00"}
	if _, ok := g.refunds[key]; !ok {
		answer["fund_change"] = "Y"
		g.refunds[key] = map[string]string{
			"code": "10000", "out_trade_no": id, "trade_no": "2026052022001", "out_request_no": key,
			"refund_amount": amount, "refund_status": "REFUND_SUCCESS", "gmt_refund_pay": paidAt,
		}
	}
	g.say(w, method, answer)
}

func (g *gateway) queryRefund(w http.ResponseWriter, method, id, key string) {
	refund, ok := g.refunds[key]
	if !ok {
		refund = map[string]string{"code": "10000", "out_trade_no": id}
	}
	g.say(w, method, refund)
}

// begin has the buyer follow the link.
func (g *gateway) begin(id, status, yuan string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.trades[id] = map[string]string{
		"code": "10000", "msg": "Success", "out_trade_no": id, "trade_no": "2026052022001", "trade_status": status, "total_amount": yuan, "buyer_pay_amount": "0.00",
	}
}

func (g *gateway) set(id, field, value string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.trades[id][field] = value
}

func (g *gateway) no(w http.ResponseWriter, method, code string) {
	g.say(w, method, map[string]string{"code": "40004", "msg": "Business Failed", "sub_code": code, "sub_msg": "不行"})
}

func (g *gateway) say(w http.ResponseWriter, method string, what any) {
	g.saySigned(w, alipayKey(), method, what)
}

func (g *gateway) saySigned(w http.ResponseWriter, key *rsa.PrivateKey, method string, what any) {
	g.t.Helper()
	raw, err := json.Marshal(what)
	if err != nil {
		g.t.Error(err)
	}
	g.write(w, map[string]any{field(method): json.RawMessage(raw), "sign": sign(g.t, key, string(raw))})
}

func (g *gateway) unsigned(w http.ResponseWriter, method string, what any) {
	g.write(w, map[string]any{field(method): what})
}

func (g *gateway) write(w http.ResponseWriter, what any) {
	body, err := json.Marshal(what)
	if err != nil {
		g.t.Error(err)
	}
	if _, err := w.Write(body); err != nil {
		g.t.Error(err)
	}
}

func field(method string) string { return strings.ReplaceAll(method, ".", "_") + "_response" }

// notify makes the body of a callback.
func notify(t *testing.T, key *rsa.PrivateKey, change map[string]string) []byte {
	t.Helper()
	form := url.Values{}
	for name, value := range map[string]string{
		"app_id": application, "auth_app_id": application, "seller_id": seller, "notify_type": "trade_status_sync", "notify_id": "91722adff935e8cfa58b3aabf4dead6ibe",
		"notify_time": "2026-05-20 13:29:40", "charset": "utf-8", "version": "1.0", "sign_type": "RSA2", "out_trade_no": "pay_0598392", "trade_no": "2026052022001",
		"trade_status": "TRADE_SUCCESS", "total_amount": "649.00", "receipt_amount": "600.00", "buyer_pay_amount": "600.00", "gmt_create": "2026-05-20 13:29:00",
		"gmt_payment": paidAt, "subject": "一本书 & more", "buyer_id": "2088102", "body": "",
	} {
		form.Set(name, value)
	}
	for name, value := range change {
		if form.Set(name, value); value == "-" {
			form.Del(name)
		}
	}
	form.Set("sign", sign(t, key, plain(form, "sign_type", "alipay_cert_sn")))
	return []byte(form.Encode())
}

// leaks names a secret that is in err's text, if there is one.
func leaks(err error) string {
	if err == nil {
		return ""
	}
	for _, secret := range []string{"PRIVATE KEY", "PUBLIC KEY", "sign=", "biz_content", "buyer_id"} {
		if strings.Contains(err.Error(), secret) {
			return secret
		}
	}
	return ""
}
