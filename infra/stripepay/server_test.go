package stripepay_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v84/webhook"

	"cartwright/infra/stripepay"
)

const (
	secretKey   = "sk_test_51secretsecret"
	publishable = "pk_test_51public"
	hookSecret  = "whsec_first"
	nextSecret  = "whsec_second"
	made        = 1779255000 // when things happen, by Stripe's clock
)

// now is ours.
func now() time.Time { return time.Unix(made+10, 0) }

func config() stripepay.Config {
	return stripepay.Config{
		SecretKey: secretKey, PublishableKey: publishable, WebhookSecrets: []string{hookSecret, nextSecret},
		URL: "http://127.0.0.1:1", Now: now, // nobody is there
	}
}

func client(t *testing.T, cfg stripepay.Config) *stripepay.Client {
	t.Helper()
	c, err := stripepay.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A server is as much of Stripe as a channel meets: it knows a key, keeps intents
// and refunds, repeats under an idempotency key what it said, and searches in an
// index that may be behind.
type server struct {
	t      *testing.T
	http   *httptest.Server
	fault  func(w http.ResponseWriter, r *http.Request) bool // answers instead, where it is set and says so
	behind bool                                              // the index

	mu      sync.Mutex
	asked   []string
	header  http.Header
	said    map[string]answer // by idempotency key
	intents []map[string]any
	refunds []map[string]any
}

type answer struct {
	params string
	status int
	body   any
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, said: map[string]answer{}}
	s.http = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.http.Close)
	return s
}

// breaks has fault answer from now on.
func (s *server) breaks(fault func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

func (s *server) client() *stripepay.Client {
	s.t.Helper()
	cfg := config()
	cfg.URL = s.http.URL
	return client(s.t, cfg)
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked, s.header = append(s.asked, r.Method+" "+r.URL.Path), r.Header
	if s.fault != nil && s.fault(w, r) {
		return
	}
	if err := r.ParseForm(); err != nil {
		s.t.Error(err)
	}
	if r.Header.Get("Authorization") != "Bearer "+secretKey {
		s.no(w, 401, "invalid_request_error", "")
		return
	}
	key := r.Header.Get("Idempotency-Key")
	before, ok := s.said[key]
	switch {
	case ok && r.Method == http.MethodPost && before.params != r.Form.Encode():
		s.no(w, 400, "idempotency_error", "")
		return
	case ok && r.Method == http.MethodPost:
		s.say(w, before.status, before.body)
		return
	}
	status, body := s.route(r)
	if body, ok := body.(map[string]any); ok {
		s.said[key] = answer{r.Form.Encode(), status, maps.Clone(body)}
	}
	s.say(w, status, body)
}

func (s *server) route(r *http.Request) (status int, body any) {
	const intents = "/v1/payment_intents"
	switch path := r.URL.Path; {
	case path == intents:
		return s.create(r.Form)
	case path == intents+"/search":
		return s.search(r.Form.Get("query"))
	case strings.HasSuffix(path, "/cancel"):
		return s.cancel(strings.TrimSuffix(strings.TrimPrefix(path, intents+"/"), "/cancel"))
	case strings.HasPrefix(path, intents+"/"):
		if i := s.intent(strings.TrimPrefix(path, intents+"/")); i != nil {
			return 200, i
		}
		return failure(404, "invalid_request_error", "resource_missing")
	case path == "/v1/refunds" && r.Method == http.MethodGet:
		return 200, list(s.refunds, func(refund map[string]any) bool { return refund["payment_intent"] == r.Form.Get("payment_intent") })
	case path == "/v1/refunds":
		return s.refund(r.Form)
	}
	s.t.Errorf("nobody serves %s", r.URL.Path)
	return failure(404, "invalid_request_error", "")
}

func (s *server) intent(id string) map[string]any {
	for _, i := range s.intents {
		if i["id"] == id {
			return i
		}
	}
	return nil
}

func (s *server) create(form url.Values) (status int, body any) {
	amount, err := strconv.ParseInt(form.Get("amount"), 10, 64)
	if err != nil {
		s.t.Error(err)
	}
	id := "pi_" + strconv.Itoa(len(s.intents)+1)
	i := map[string]any{
		"id": id, "object": "payment_intent", "amount": amount, "amount_received": 0, "currency": form.Get("currency"), "status": "requires_payment_method",
		"client_secret": id + "_secret_x", "livemode": false, "created": made - 100, "metadata": map[string]string{"payment": form.Get("metadata[payment]")},
		"description": form.Get("description"),
	}
	s.intents = append(s.intents, i)
	return 200, i
}

func (s *server) search(query string) (status int, body any) {
	return 200, list(s.intents, func(i map[string]any) bool {
		return !s.behind && query == "metadata['payment']:'"+i["metadata"].(map[string]string)["payment"]+"'"
	})
}

func (s *server) cancel(id string) (status int, body any) {
	i := s.intent(id)
	switch status := i["status"]; status {
	case "succeeded", "canceled", "processing":
		return failure(400, "invalid_request_error", "payment_intent_unexpected_state")
	}
	i["status"], i["cancellation_reason"] = "canceled", "abandoned"
	return 200, i
}

func (s *server) refund(form url.Values) (status int, body any) {
	amount, err := strconv.ParseInt(form.Get("amount"), 10, 64)
	if err != nil {
		s.t.Error(err)
	}
	left, _ := s.intent(form.Get("payment_intent"))["amount_received"].(int64)
	for _, refund := range s.refunds {
		left -= refund["amount"].(int64)
	}
	if amount > left {
		return failure(400, "invalid_request_error", "charge_already_refunded")
	}
	refund := map[string]any{
		"id": "re_" + strconv.Itoa(len(s.refunds)+1), "object": "refund", "amount": amount, "currency": s.intent(form.Get("payment_intent"))["currency"],
		"status": "pending", "payment_intent": form.Get("payment_intent"), "created": made,
		"metadata": map[string]string{"payment": form.Get("metadata[payment]"), "refund": form.Get("metadata[refund]"), "reason": form.Get("metadata[reason]")},
	}
	s.refunds = append(s.refunds, refund)
	return 200, refund
}

func list(all []map[string]any, is func(map[string]any) bool) any {
	data := []map[string]any{}
	for _, one := range slices.Backward(all) {
		if is(one) {
			data = append(data, one)
		}
	}
	return json.RawMessage(mustJSON(map[string]any{"object": "list", "has_more": false, "data": data}))
}

func mustJSON(what any) []byte {
	raw, err := json.Marshal(what)
	if err != nil {
		panic(err)
	}
	return raw
}

// pay has the buyer pay the newest intent.
func (s *server) pay() {
	i := s.intents[len(s.intents)-1]
	s.set(i, "status", "succeeded")
	s.set(i, "amount_received", i["amount"])
	s.set(i, "latest_charge", map[string]any{"id": "ch_1", "object": "charge", "created": made})
}

func (s *server) set(thing map[string]any, field string, value any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	thing[field] = value
}

// forget is a day that passes.
func (s *server) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = map[string]answer{}
}

// count is how often something was asked for.
func (s *server) count(what string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, asked := range s.asked {
		if asked == what {
			n++
		}
	}
	return n
}

func failure(status int, kind, code string) (int, any) {
	return status, map[string]any{"error": map[string]any{"type": kind, "code": code, "message": "No such luck."}}
}

func (s *server) no(w http.ResponseWriter, status int, kind, code string) {
	status, body := failure(status, kind, code)
	s.say(w, status, body)
}

func (s *server) say(w http.ResponseWriter, status int, what any) {
	w.Header().Set("Request-Id", "req_123")
	w.WriteHeader(status)
	if _, err := w.Write(mustJSON(what)); err != nil {
		s.t.Error(err)
	}
}

// event makes the body of a callback.
func event(kind string, object any, change map[string]any) []byte {
	e := map[string]any{
		"id": "evt_1", "object": "event", "api_version": "2019-12-03", "created": made, "livemode": false, "type": kind,
		"data": map[string]any{"object": object}, "pending_webhooks": 1, "request": nil,
	}
	maps.Copy(e, change)
	return mustJSON(e)
}

func sign(body []byte, secret string, at time.Time) http.Header {
	h := http.Header{}
	h.Set("Stripe-Signature", webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: body, Secret: secret, Timestamp: at}).Header)
	return h
}

// leaks names a secret that is in err's text, if there is one.
func leaks(err error) string {
	if err == nil {
		return ""
	}
	for _, secret := range []string{secretKey, hookSecret, nextSecret, "_secret_", "client_secret", "Bearer", "v1="} {
		if strings.Contains(err.Error(), secret) {
			return secret
		}
	}
	return ""
}
