package sandboxpay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cartwright/commands"
	"cartwright/domain/money"
	"cartwright/infra/sandboxpay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The channel contract is the commands'.
var _ commands.Channel = (*sandboxpay.Client)(nil)

const secret = "a secret of tests"

func yuan(amount int64) money.Money { return money.Money{Amount: amount, Currency: "CNY"} }

func asking(id string, amount int64) commands.Asking {
	return commands.Asking{Payment: id, Total: yuan(amount), Subject: "Two teapots"}
}

func returning(id, key string, amount, total int64) commands.Returning {
	return commands.Returning{Payment: id, Key: key, Amount: yuan(amount), Total: yuan(total), Reason: "broken"}
}

// A clock stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) time() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// direct carries requests to a handler in this process, so that time in a bubble
// of synctest waits for them.
type direct struct{ to http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	d.to.ServeHTTP(w, r)
	return w.Result(), nil
}

// A world is a sandbox and a shop, and the ways between them.
type world struct {
	tb     testing.TB
	server *sandboxpay.Server
	client *sandboxpay.Client
	web    *http.Client
	shop   *shop
}

const (
	channelURL = "http://channel.test"
	notifyURL  = "http://shop.test/notify"
)

func newWorld(tb testing.TB, cfg sandboxpay.ServerConfig) *world {
	tb.Helper()
	cfg.Merchant, cfg.Secret = "m1", secret
	w := &world{tb: tb, shop: &shop{tb: tb, now: cfg.Now}}
	if cfg.NotifyURL == "" {
		cfg.NotifyURL = notifyURL
	}
	cfg.HTTP = &http.Client{Transport: direct{w.shop}}
	var err error
	if w.server, err = sandboxpay.NewServer(cfg); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := w.server.Close(); err != nil {
			tb.Error(err)
		}
	})
	w.web = &http.Client{Transport: direct{w.server}}
	w.client = newClient(tb, sandboxpay.Config{HTTP: w.web, Now: cfg.Now})
	w.shop.client = w.client
	return w
}

func newClient(tb testing.TB, cfg sandboxpay.Config) *sandboxpay.Client {
	tb.Helper()
	if cfg.URL == "" {
		cfg.URL = channelURL
	}
	if cfg.Merchant == "" {
		cfg.Merchant = "m1"
	}
	if cfg.Secret == "" {
		cfg.Secret = secret
	}
	c, err := sandboxpay.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// run runs the sandbox until stop is called.
func (w *world) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.server.Run(ctx); err != nil {
			w.tb.Errorf("run: %v", err)
		}
	})
	return func() { cancel(); wg.Wait() }
}

func (w *world) ask(id string, amount int64) {
	w.tb.Helper()
	if _, err := w.client.Ask(w.tb.Context(), asking(id, amount)); err != nil {
		w.tb.Fatalf("ask for %s: %v", id, err)
	}
}

func (w *world) find(id string) commands.Notice {
	w.tb.Helper()
	n, err := w.client.Find(w.tb.Context(), id)
	if err != nil {
		w.tb.Fatalf("find %s: %v", id, err)
	}
	return n
}

// pay is the buyer, who says something or nothing of how.
func (w *world) pay(id, how string) {
	w.tb.Helper()
	if code, said := w.send(http.MethodPost, "/pay/"+id, how); code != http.StatusOK {
		w.tb.Fatalf("pay %s: %d %s", id, code, said)
	}
}

// send makes a request that is not signed.
func (w *world) send(method, path, body string, header ...string) (int, string) {
	w.tb.Helper()
	req, err := http.NewRequestWithContext(w.tb.Context(), method, channelURL+path, bytes.NewReader([]byte(body)))
	if err != nil {
		w.tb.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := w.web.Do(req)
	if err != nil {
		w.tb.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	said, err := io.ReadAll(resp.Body)
	if err != nil {
		w.tb.Fatal(err)
	}
	return resp.StatusCode, string(said)
}

// signed makes a request as the merchant does.
func (w *world) signed(method, path, body string) (int, string) {
	w.tb.Helper()
	at := time.Now()
	if w.shop.now != nil {
		at = w.shop.now()
	}
	return w.send(method, path, body, sandboxpay.MerchantHeader, "m1",
		sandboxpay.SignatureHeader, sandboxpay.SignRequest(secret, at, method, path, []byte(body)))
}

// codeOf is the code of an answer that says no.
func codeOf(tb testing.TB, said string) string {
	tb.Helper()
	var no struct{ Code, Detail string }
	if err := json.Unmarshal([]byte(said), &no); err != nil || no.Code == "" || no.Detail == "" {
		tb.Fatalf("%q is no answer with a code and a detail", said)
	}
	return no.Code
}

// A shop is called back.
type shop struct {
	tb     testing.TB
	now    func() time.Time
	client *sandboxpay.Client
	fails  func(n commands.Notice, try int) error // nil is success

	mu    sync.Mutex
	told  []told
	times map[commands.Notice]int
}

type told struct {
	commands.Notice
	at time.Time
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.tb.Error(err)
	}
	ns, err := s.client.Read(r.Context(), r.Header, body)
	if err != nil || len(ns) != 1 {
		s.tb.Errorf("a callback that can't be read: %v, %v: %s", ns, err, body)
	} else {
		err = s.note(ns[0])
	}
	code, kind, answer := s.client.Answer(err)
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(code)
	if _, err := w.Write(answer); err != nil {
		s.tb.Error(err)
	}
}

func (s *shop) note(n commands.Notice) error {
	tries := s.remember(n)
	if s.fails == nil {
		return nil
	}
	return s.fails(n, tries)
}

// remember says how often it was told the same before.
func (s *shop) remember(n commands.Notice) (before int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.times == nil {
		s.times = map[commands.Notice]int{}
	}
	s.times[n]++
	s.told = append(s.told, told{n, time.Now()})
	return s.times[n] - 1
}

func (s *shop) heard() []told {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.told)
}

// byPayment counts what was heard.
func (s *shop) byPayment() map[string]int {
	times := map[string]int{}
	for _, t := range s.heard() {
		times[t.Payment]++
	}
	return times
}
