package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// asMain makes the test binary behave as the program itself, so that the tests
// run, and kill, the real thing without building it a second time.
const asMain = "CARTWRIGHT_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		return
	}
	if err := prepareWorld(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// program is a command line of the real program, ready to start, on the servers
// of the world it is tested in.
func program(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(append(os.Environ(), asMain+"=1"), backends(args)...)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// tool runs a command to its end and gives its output and exit code.
func tool(t *testing.T, args ...string) (stdout string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	return finish(t, program(ctx, args...))
}

// finish runs a command line to its end and gives its output and exit code.
func finish(tb testing.TB, cmd *exec.Cmd) (stdout string, code int) {
	tb.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	line := "cartwright " + strings.Join(cmd.Args[1:], " ")
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		tb.Logf("%s: exit %d: %s", line, exit.ExitCode(), errs.String())
		return out.String(), exit.ExitCode()
	}
	if err != nil {
		tb.Fatalf("%s: %v: %s", line, err, errs.String())
	}
	return out.String(), 0
}

// server is a running `cartwright serve`, or another part that listens.
type server struct {
	tb   testing.TB
	url  string
	data string
	cmd  *exec.Cmd
	http *http.Client

	token string // of the last order of a quiet buyer

	mu     sync.Mutex
	stderr bytes.Buffer
}

// serve starts the program on a data folder and waits until it is ready.
func serve(tb testing.TB, data string, args ...string) *server {
	tb.Helper()
	return startPart(tb, "serve", data, args...)
}

// startPart starts one part and waits until it is ready.
func startPart(tb testing.TB, part, data string, args ...string) *server {
	tb.Helper()
	sweep(tb, data)
	line := append([]string{part, "--data", data}, args...)
	if part == "serve" || part == "write" || part == "read" {
		line = append(line, "--listen", "127.0.0.1:0")
	}
	return start(tb, data, program(context.WithoutCancel(tb.Context()), line...))
}

// start runs a part's command line and waits until it is ready.
func start(tb testing.TB, data string, cmd *exec.Cmd) *server {
	tb.Helper()
	part := cmd.Args[1]
	s := &server{tb: tb, data: data, cmd: cmd, http: &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: 256},
	}}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	s.cmd.Stderr = writerFunc(func(p []byte) (int, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.stderr.Write(p)
	})
	if err = s.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		tb.Fatalf("%s is not ready: %v: %s", part, err, s.said())
	}
	for word := range strings.FieldsSeq(line) {
		if strings.HasPrefix(word, "http://") {
			s.url = word
		}
	}
	if s.url == "" && strings.Contains(strings.Join(cmd.Args, " "), "--listen") {
		tb.Fatalf("no address in %q", line)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return s
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (s *server) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stderr.String()
}

// kill ends the program as a power cut would. It may have ended before.
func (s *server) kill() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

// stop ends the program as an operator does, and expects a clean end.
func (s *server) stop() {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.tb.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		s.tb.Fatalf("stop: %v: %s", err, s.said())
	}
}

// answer is what the API said.
type answer struct {
	status int
	head   http.Header
	body   map[string]any
	raw    string
}

// slug names the problem that an answer is.
func (a answer) slug() string {
	name, _ := a.body["type"].(string)
	return strings.TrimPrefix(name, "/problems/")
}

// try asks the API. A header is given as "Name: value".
func (s *server) try(method, path string, body any, headers ...string) (answer, error) {
	var payload io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		payload = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return answer{}, err
		}
		payload = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(context.WithoutCancel(s.tb.Context()), method, s.url+path, payload)
	if err != nil {
		return answer{}, err
	}
	if payload != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: resp.StatusCode, head: resp.Header, raw: string(text)}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &a.body); err != nil {
			return a, fmt.Errorf("%s %s: %d %q: %w", method, path, a.status, text, err)
		}
	}
	return a, nil
}

// ask is try that expects this status.
func (s *server) ask(want int, method, path string, body any, headers ...string) answer {
	s.tb.Helper()
	a, err := s.try(method, path, body, headers...)
	if err != nil {
		s.tb.Fatalf("%s %s: %v: %s", method, path, err, s.said())
	}
	if a.status != want {
		s.tb.Fatalf("%s %s: got %d %s, want %d", method, path, a.status, a.raw, want)
	}
	return a
}

func key(k string) string { return "Idempotency-Key: " + k }

type obj = map[string]any

func brl(amount int64) obj { return obj{"amount": amount, "currency": "BRL"} }

var someAddress = obj{"name": "Ana Souza", "line1": "Rua A 1", "city": "São Paulo", "country": "BR"}

// offer puts goods on sale and on the shelf.
func (s *server) offer(sku, seller string, price, units int64) {
	s.tb.Helper()
	s.ask(http.StatusCreated, "PUT", "/v1/skus/"+sku, obj{"seller_id": seller, "title": "Title of " + sku, "unit_price": brl(price)})
	s.ask(http.StatusCreated, "POST", "/v1/inventory/"+sku+"/receipts", obj{"quantity": units}, key("receipt-"+sku))
}

// fund opens buyer-1's account, with money in it.
func (s *server) fund(amount int64) {
	s.tb.Helper()
	s.ask(http.StatusCreated, "POST", "/v1/accounts", obj{"account_id": "buyer-1", "currency": "BRL"})
	s.ask(http.StatusCreated, "POST", "/v1/accounts/buyer-1/deposits", obj{"amount": brl(amount)}, key("fund"))
}

func (s *server) orderID(buyer string) string {
	s.tb.Helper()
	id, _ := s.ask(http.StatusCreated, "POST", "/v1/order-ids", obj{"buyer_id": buyer}).body["order_id"].(string)
	return id
}

func checkoutOf(id, buyer string, skus ...string) obj {
	var items []obj
	for _, sku := range skus {
		items = append(items, obj{"sku": sku, "quantity": 1})
	}
	return obj{"order_id": id, "buyer_id": buyer, "items": items, "address": someAddress}
}

// eventually asks until it is so; views follow within a moment.
func eventually(tb testing.TB, what string, so func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(viewPatience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if so() {
			return
		}
	}
	tb.Fatalf("it never came to be: %s", what)
}

func number(v any) int64 {
	n, _ := v.(float64)
	return int64(n)
}

func TestTwoThousandBuyersForAHundredUnits(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir())
	s.offer("hot", "seller-1", 500, 100)
	const buyers, units = 2000, 100
	ids := make([]string, buyers)
	for i := range ids {
		ids[i] = s.orderID("buyer-1")
	}
	var mu sync.Mutex
	got := map[string]int{}
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			a, err := s.try("POST", "/v1/checkouts", checkoutOf(id, "buyer-1", "hot"), key(id))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Error(err)
			case a.status == http.StatusCreated:
				got["placed"]++
			default:
				got[a.slug()]++
			}
		})
	}
	wg.Wait()
	if got["placed"] != units || got["out_of_stock"] != buyers-units {
		t.Fatalf("got %v", got)
	}
	eventually(t, "the stock shows it", func() bool {
		a := s.ask(http.StatusOK, "GET", "/v1/inventory/hot", nil)
		if number(a.body["available"]) < 0 {
			t.Fatalf("oversold: %s", a.raw)
		}
		return number(a.body["available"]) == 0 && number(a.body["held"]) == units
	})
}

func TestOneCheckoutSentFiftyTimesAtOnce(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir())
	s.offer("a", "seller-1", 500, 100)
	s.offer("b", "seller-2", 700, 100)
	id := s.orderID("buyer-1")
	answers := make([]answer, 50)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			var err error
			if answers[i], err = s.try("POST", "/v1/checkouts", checkoutOf(id, "buyer-1", "a", "b"), key("k")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	replayed := 0
	for _, a := range answers {
		if a.status != http.StatusCreated || a.raw != answers[0].raw {
			t.Fatalf("got %d %s\nand %d %s", answers[0].status, answers[0].raw, a.status, a.raw)
		}
		if a.head.Get("Idempotent-Replayed") == "true" {
			replayed++
		}
	}
	if replayed != 49 {
		t.Errorf("%d answers were replayed", replayed)
	}
	list := s.ask(http.StatusOK, "GET", "/v1/buyers/buyer-1/orders", nil, "Cartwright-Token: "+answers[0].head.Get("Cartwright-Token"))
	if items, _ := list.body["items"].([]any); len(items) != 2 {
		t.Fatalf("got %s", list.raw)
	}
	if a := s.ask(http.StatusUnprocessableEntity, "POST", "/v1/checkouts", checkoutOf(id, "buyer-1", "a"), key("k")); a.slug() != "idempotency_key_reused" {
		t.Errorf("another body: %s", a.raw)
	}
	other := s.orderID("buyer-1")
	s.ask(http.StatusCreated, "POST", "/v1/checkouts", checkoutOf(other, "buyer-1", "a"), key("other"))
	s.fund(10_000)
	// One key on two routes makes two commands.
	s.ask(http.StatusOK, "POST", "/v1/checkouts/"+other+"/pay", nil, key("k"))
}

func TestARefusedCheckoutIsDecidedAfreshWithAnotherCart(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir())
	s.offer("a", "seller-1", 500, 1)
	s.offer("b", "seller-1", 700, 1)
	id := s.orderID("buyer-1")
	cart := checkoutOf(id, "buyer-1", "a", "b", "b")
	if a := s.ask(http.StatusConflict, "POST", "/v1/checkouts", cart, key("1")); a.slug() != "out_of_stock" {
		t.Fatalf("got %s", a.raw)
	}
	a := s.ask(http.StatusCreated, "POST", "/v1/checkouts", checkoutOf(id, "buyer-1", "a"), key("2"))
	if total, _ := a.body["total"].(obj); number(total["amount"]) != 500 {
		t.Fatalf("got %s", a.raw)
	}
}

// bought is an order of buyer-1 that is paid.
func (s *server) bought(skus ...string) string {
	s.tb.Helper()
	id := s.orderID("buyer-1")
	s.ask(http.StatusCreated, "POST", "/v1/checkouts", checkoutOf(id, "buyer-1", skus...), key("c"+id))
	s.ask(http.StatusOK, "POST", "/v1/checkouts/"+id+"/pay", nil, key("p"+id))
	return id
}

func TestWhoAsksTooOftenIsToldWhenToComeAgain(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir(), "--rate-limit", "2", "--rate-burst", "5")
	var limited answer
	for range 8 {
		a, err := s.try("GET", "/v1/orders/0598392000009123456", nil)
		if err != nil {
			t.Fatal(err)
		}
		if a.status == http.StatusTooManyRequests {
			limited = a
		}
	}
	if limited.slug() != "rate_limited" || limited.head.Get("Retry-After") != "1" {
		t.Fatalf("got %s, Retry-After %q", limited.raw, limited.head.Get("Retry-After"))
	}
	s.ask(http.StatusOK, "GET", "/healthz", nil)
	eventually(t, "it may ask again", func() bool {
		a, err := s.try("GET", "/v1/orders/0598392000009123456", nil)
		return err == nil && a.status == http.StatusNotFound
	})
}

func TestTheLateRetryOfAWaybillLoses(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir())
	s.offer("a", "seller-1", 500, 10)
	s.fund(10_000)
	id := s.bought("a")
	s.ask(http.StatusCreated, "POST", "/v1/orders/"+id+"/parcels", obj{"lines": []obj{{"line": 1, "quantity": 1}}}, key("pack"))
	waybill := "/v1/orders/" + id + "/parcels/1/waybill"
	w123, w456 := obj{"carrier": "SF", "number": "123"}, obj{"carrier": "SF", "number": "456"}
	if a := s.ask(http.StatusPreconditionRequired, "PUT", waybill, w123); a.slug() != "if_match_required" {
		t.Errorf("got %s", a.raw)
	}
	if a := s.ask(http.StatusOK, "PUT", waybill, w123, "If-None-Match: *"); a.head.Get("ETag") != `"v1"` {
		t.Errorf("got ETag %s", a.head.Get("ETag"))
	}
	if a := s.ask(http.StatusOK, "PUT", waybill, w456, `If-Match: "v1"`); a.head.Get("ETag") != `"v2"` {
		t.Errorf("got ETag %s", a.head.Get("ETag"))
	}
	s.ask(http.StatusPreconditionFailed, "PUT", waybill, w123, "If-None-Match: *")
	s.ask(http.StatusPreconditionFailed, "PUT", waybill, w123, `If-Match: "v1"`)
	a := s.ask(http.StatusOK, "GET", "/v1/orders/"+id, nil)
	if !strings.Contains(a.raw, "456") {
		t.Fatalf("got %s", a.raw)
	}
}
