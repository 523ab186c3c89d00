package wechatpay_test

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wechatpay-apiv3/wechatpay-go/utils"

	"cartwright/infra/wechatpay"
)

const (
	merchant    = "1900009191"
	application = "wxd678efh567hg6787"
	apiKey      = "0123456789abcdef0123456789ABCDEF"
	publicKeyID = "PUB_KEY_ID_0119000091912024"
	serial      = "7777AAAA"
	noticeURL   = "https://shop.example/callbacks/wechat"
	year        = "2026-05-20T13:29:35+08:00"
)

// keys are made once: of the merchant, the platform, and somebody else.
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
func platformKey() *rsa.PrivateKey { return keys()[1] }
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

func certificatePEM(t *testing.T, key *rsa.PrivateKey, number int64) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(number), Subject: pkix.Name{CommonName: "Tenpay.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
}

func config(t *testing.T) wechatpay.Config {
	t.Helper()
	return wechatpay.Config{
		Merchant: merchant, App: application, Serial: serial, PrivateKey: privatePEM(t, merchantKey()),
		APIv3Key: apiKey, PublicKeyID: publicKeyID, PublicKey: publicPEM(t, platformKey()), NotifyURL: noticeURL,
		URL: "http://127.0.0.1:1", // nobody is there
	}
}

func client(t *testing.T, cfg wechatpay.Config) *wechatpay.Client {
	t.Helper()
	c, err := wechatpay.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A platform is as much of WeChat as a channel meets: it verifies who asks,
// keeps orders and refunds, and signs what it says.
type platform struct {
	t      *testing.T
	server *httptest.Server
	fault  http.HandlerFunc // answers instead, where it is set

	mu      sync.Mutex
	asked   int
	bodies  map[string]map[string]any // the last one by path
	orders  map[string]map[string]any
	refunds map[string]map[string]any
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	p := &platform{t: t, bodies: map[string]map[string]any{}, orders: map[string]map[string]any{}, refunds: map[string]map[string]any{}}
	p.server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.server.Close)
	return p
}

// breaks has fault answer from now on.
func (p *platform) breaks(fault http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

func (p *platform) client() *wechatpay.Client {
	p.t.Helper()
	cfg := config(p.t)
	cfg.URL = p.server.URL
	return client(p.t, cfg)
}

var authorization = regexp.MustCompile(`^WECHATPAY2-SHA256-RSA2048 mchid="(.*?)",nonce_str="(.*?)",timestamp="(.*?)",serial_no="(.*?)",signature="(.*?)"$`)

func (p *platform) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	if p.fault != nil {
		p.fault(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		p.t.Error(err)
	}
	if !p.knows(r, body) {
		p.say(w, http.StatusUnauthorized, map[string]any{"code": "SIGN_ERROR", "message": "错误的签名，验签失败"})
		return
	}
	var told map[string]any
	if len(body) > 0 {
		if err := json.Unmarshal(body, &told); err != nil {
			p.t.Error(err)
		}
		p.bodies[r.URL.Path] = told
	}
	p.route(w, r, told)
}

func (p *platform) knows(r *http.Request, body []byte) bool {
	said := authorization.FindStringSubmatch(r.Header.Get("Authorization"))
	if said == nil || said[1] != merchant || said[4] != serial {
		return false
	}
	signature, err := base64.StdEncoding.DecodeString(said[5])
	if err != nil {
		return false
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s\n%s\n", r.Method, r.URL.RequestURI(), said[3], said[2], body))
	return rsa.VerifyPKCS1v15(&merchantKey().PublicKey, crypto.SHA256, sum[:], signature) == nil
}

const (
	pathOrder  = "/v3/pay/transactions/out-trade-no/"
	pathAsk    = "/v3/pay/transactions/"
	pathRefund = "/v3/refund/domestic/refunds"
)

func (p *platform) route(w http.ResponseWriter, r *http.Request, told map[string]any) {
	switch path := r.URL.Path; {
	case strings.HasSuffix(path, "/close"):
		p.close(w, strings.TrimSuffix(strings.TrimPrefix(path, pathOrder), "/close"))
	case strings.HasPrefix(path, pathOrder):
		if order, ok := p.orders[strings.TrimPrefix(path, pathOrder)]; ok && r.URL.Query().Get("mchid") == merchant {
			p.say(w, http.StatusOK, order)
			return
		}
		p.no(w, http.StatusNotFound, "ORDER_NOT_EXIST")
	case strings.HasPrefix(path, pathAsk):
		p.ask(w, strings.TrimPrefix(path, pathAsk), told)
	case path == pathRefund:
		p.refund(w, told)
	case strings.HasPrefix(path, pathRefund+"/"):
		if refund, ok := p.refunds[strings.TrimPrefix(path, pathRefund+"/")]; ok {
			p.say(w, http.StatusOK, refund)
			return
		}
		p.no(w, http.StatusNotFound, "RESOURCE_NOT_EXISTS")
	default:
		p.t.Errorf("nobody serves %s", path)
	}
}

func (p *platform) ask(w http.ResponseWriter, scene string, told map[string]any) {
	id, _ := told["out_trade_no"].(string)
	if order, ok := p.orders[id]; ok && order["trade_state"] != "NOTPAY" {
		p.no(w, http.StatusBadRequest, "ORDERPAID")
		return
	}
	p.orders[id] = map[string]any{
		"mchid": merchant, "appid": application, "out_trade_no": id, "trade_state": "NOTPAY", "trade_state_desc": "订单未支付", "amount": told["amount"],
	}
	p.say(w, http.StatusOK, map[string]any{
		"native": map[string]any{"code_url": "weixin://wxpay/bizpayurl?pr=" + id},
		"h5":     map[string]any{"h5_url": "https://wx.tenpay.com/cgi-bin/mmpayweb-bin/checkmweb?prepay_id=" + id},
		"jsapi":  map[string]any{"prepay_id": "wx-" + id},
		"app":    map[string]any{"prepay_id": "wx-" + id},
	}[scene])
}

func (p *platform) close(w http.ResponseWriter, id string) {
	order, ok := p.orders[id]
	switch {
	case !ok:
		p.no(w, http.StatusNotFound, "ORDER_NOT_EXIST")
	case order["trade_state"] == "SUCCESS":
		p.no(w, http.StatusBadRequest, "ORDERPAID")
	case order["trade_state"] == "CLOSED":
		p.no(w, http.StatusBadRequest, "ORDER_CLOSED")
	default:
		order["trade_state"] = "CLOSED"
		p.say(w, http.StatusNoContent, nil)
	}
}

func (p *platform) refund(w http.ResponseWriter, told map[string]any) {
	no, _ := told["out_refund_no"].(string)
	refund, ok := p.refunds[no]
	if !ok {
		refund = map[string]any{
			"refund_id": "50000000382019052709732678859", "out_refund_no": no, "transaction_id": "42000001", "out_trade_no": told["out_trade_no"],
			"channel": "ORIGINAL", "user_received_account": "支付用户零钱", "create_time": year, "status": "PROCESSING", "amount": told["amount"],
		}
		p.refunds[no] = refund
	}
	p.say(w, http.StatusOK, refund)
}

// pay has the buyer pay.
func (p *platform) pay(id string, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.orders[id] = transaction(id, total)
}

func (p *platform) set(things map[string]map[string]any, id, field string, value any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	things[id][field] = value
}

func transaction(id string, total int64) map[string]any {
	return map[string]any{
		"mchid": merchant, "appid": application, "out_trade_no": id, "transaction_id": "42000001", "trade_type": "NATIVE",
		"trade_state": "SUCCESS", "trade_state_desc": "支付成功", "success_time": year, "bank_type": "OTHERS",
		"amount": map[string]any{"total": total, "payer_total": total, "currency": "CNY", "payer_currency": "CNY"},
	}
}

func (p *platform) no(w http.ResponseWriter, status int, code string) {
	p.say(w, status, map[string]any{"code": code, "message": "不行"})
}

func (p *platform) say(w http.ResponseWriter, status int, what any) {
	var body []byte
	if what != nil {
		var err error
		if body, err = json.Marshal(what); err != nil {
			p.t.Error(err)
		}
	}
	maps.Copy(w.Header(), sign(p.t, platformKey(), time.Now(), body))
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil && status != http.StatusNoContent {
		p.t.Error(err)
	}
}

// sign makes the headers by which the platform proves a body its own.
func sign(t *testing.T, key *rsa.PrivateKey, at time.Time, body []byte) http.Header {
	t.Helper()
	seconds := strconv.FormatInt(at.Unix(), 10)
	const nonce = "c5ac7061fccab6bf3e254dcf98995b8c"
	signature, err := utils.SignSHA256WithRSA(seconds+"\n"+nonce+"\n"+string(body)+"\n", key)
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	h.Set("Wechatpay-Timestamp", seconds)
	h.Set("Wechatpay-Nonce", nonce)
	h.Set("Wechatpay-Serial", publicKeyID)
	h.Set("Wechatpay-Signature", signature)
	h.Set("Wechatpay-Signature-Type", "WECHATPAY2-SHA256-RSA2048")
	h.Set("Request-Id", "08F78BB5AF0610D302")
	return h
}

// seal makes the body of a callback.
func seal(t *testing.T, key, event string, content any) []byte {
	t.Helper()
	plain, err := json.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher([]byte(key))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	const nonce, associated = "fdasflkja484", "transaction"
	body, err := json.Marshal(map[string]any{
		"id": "EV-2018022511223320873", "create_time": year, "resource_type": "encrypt-resource", "event_type": event, "summary": "支付成功",
		"resource": map[string]any{
			"original_type": associated, "algorithm": "AEAD_AES_256_GCM", "associated_data": associated, "nonce": nonce,
			"ciphertext": base64.StdEncoding.EncodeToString(gcm.Seal(nil, []byte(nonce), plain, []byte(associated))),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// leaks names a secret that is in err's text, if there is one.
func leaks(err error) string {
	if err == nil {
		return ""
	}
	for name, secret := range map[string]string{
		"the APIv3 key": apiKey, "a signature": "signature=", "a ciphertext": "ciphertext", "the client's secret": "paySign",
		"a private key": "PRIVATE KEY", "headers": "Wechatpay-Signature",
	} {
		if bytes.Contains([]byte(err.Error()), []byte(secret)) {
			return name
		}
	}
	return ""
}
