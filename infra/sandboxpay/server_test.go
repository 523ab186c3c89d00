package sandboxpay_test

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/commands"
	"cartwright/infra/sandboxpay"
)

func TestARequestThatIsNotTheMerchantsIsRefused(t *testing.T) {
	ck := &clock{now: noon}
	w := newWorld(t, sandboxpay.ServerConfig{Now: ck.time, OldSecret: "the one before"})
	const path = "/v1/payments"
	body := `{"payment":"p-1","amount":500,"currency":"CNY"}`
	sign := func(secret string, at time.Time, method, path, body string) string {
		return sandboxpay.SignRequest(secret, at, method, path, []byte(body))
	}
	good := sign(secret, noon, "POST", path, body)
	for name, c := range map[string]struct {
		merchant, signature string
		code                int
		want                string
	}{
		"none":            {"m1", "", 401, "bad_signature"},
		"another secret":  {"m1", sign("guess", noon, "POST", path, body), 401, "bad_signature"},
		"an empty secret": {"m1", sign("", noon, "POST", path, body), 401, "bad_signature"},
		"another method":  {"m1", sign(secret, noon, "GET", path, body), 401, "bad_signature"},
		"another path":    {"m1", sign(secret, noon, "POST", path+"/p-1/close", body), 401, "bad_signature"},
		"a query":         {"m1", sign(secret, noon, "POST", path+"?a", body), 401, "bad_signature"},
		"another body":    {"m1", sign(secret, noon, "POST", path, strings.Replace(body, "500", "5", 1)), 401, "bad_signature"},
		"too old":         {"m1", sign(secret, noon.Add(-301*time.Second), "POST", path, body), 401, "bad_signature"},
		"too new":         {"m1", sign(secret, noon.Add(301*time.Second), "POST", path, body), 401, "bad_signature"},
		"a callback's":    {"m1", sandboxpay.SignCallback(secret, noon, []byte(body)), 401, "bad_signature"},
		"no merchant":     {"", good, 403, "wrong_merchant"},
		"another one":     {"m2", good, 403, "wrong_merchant"},
	} {
		code, said := w.send("POST", path, body, sandboxpay.MerchantHeader, c.merchant, sandboxpay.SignatureHeader, c.signature)
		if code != c.code || codeOf(t, said) != c.want || strings.Contains(said, secret) {
			t.Errorf("%s: %d %s", name, code, said)
		}
	}
	for _, route := range []string{
		"POST /v1/payments", "GET /v1/payments/p-1", "POST /v1/payments/p-1/close", "POST /v1/payments/p-1/refunds",
		"GET /v1/payments/p-1/refunds/r", "GET /v1/bills/2026-03-14.csv",
	} {
		method, path, _ := strings.Cut(route, " ")
		if code, said := w.send(method, path, "", sandboxpay.MerchantHeader, "m1"); code != 401 || codeOf(t, said) != "bad_signature" {
			t.Errorf("%s lets everybody in: %d %s", route, code, said)
		}
	}
	if st := w.server.Status(); st.Created != 0 {
		t.Errorf("something was done: %+v", st)
	}
	for _, s := range []string{good, sign("the one before", noon, "POST", path, body)} {
		if code, said := w.send("POST", path, body, sandboxpay.MerchantHeader, "m1", sandboxpay.SignatureHeader, s); code != 200 {
			t.Errorf("a good one: %d %s", code, said)
		}
	}
}

func TestARequestThatMakesNoSenseIsRefused(t *testing.T) {
	w := newWorld(t, sandboxpay.ServerConfig{})
	w.ask("p-1", 500)
	w.ask("p-2", 500)
	w.pay("p-1", "")
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"POST", "/v1/payments", ``, 400, "bad_request"},
		{"POST", "/v1/payments", `[]`, 400, "bad_request"},
		{"POST", "/v1/payments", `{"payment":"p-3","amount":5.5,"currency":"CNY"}`, 400, "bad_request"},
		{"POST", "/v1/payments", `{"payment":"p-3","amount":-5,"currency":"CNY"}`, 400, "bad_request"},
		{"POST", "/v1/payments", `{"payment":"p-3","amount":5,"currency":"cny"}`, 400, "bad_request"},
		{"POST", "/v1/payments", `{"payment":"p-3","amount":5,"currency":"CNY","amounts":5}`, 400, "bad_request"},
		{"POST", "/v1/payments", `{"payment":"p-3","amount":5,"currency":"CNY"}{}`, 400, "bad_request"},
		{"POST", "/v1/payments", `{"payment":"p_3","amount":5,"currency":"CNY"}`, 400, "bad_request"},
		{"POST", "/v1/payments", `{"payment":"p-3","amount":5,"currency":"CNY","subject":"` + long + `"}`, 400, "bad_request"},
		{"POST", "/v1/payments", `{"payment":"p-3","amount":5,"currency":"CNY","expires":"tomorrow"}`, 400, "bad_request"},
		{"POST", "/v1/payments", strings.Repeat(" ", 65<<10), 413, "too_large"},
		{"GET", "/v1/payments/p-9", ``, 404, "unknown_payment"},
		{"GET", "/v1/payments/p-1/refunds/r", ``, 404, "unknown_refund"},
		{"GET", "/v1/payments/p-9/refunds/r", ``, 404, "unknown_payment"},
		{"POST", "/v1/payments/a%2Fb/close", ``, 400, "bad_request"},
		{"POST", "/v1/payments/p-1/refunds", `{"refund":"r/r","amount":5,"total":500,"currency":"CNY"}`, 400, "bad_request"},
		{"POST", "/v1/payments/p-1/refunds", `{"refund":"r","amount":5,"total":500,"currency":"CNY","reason":"` + long + `"}`, 400, "bad_request"},
		{"POST", "/v1/payments/p-1/refunds", `{"refund":"r","amount":5,"currency":"CNY"}`, 422, "other_payment"},
		{"GET", "/v1/bills/today", ``, 400, "bad_request"},
		{"GET", "/v1/bills/2026-02-30.csv", ``, 400, "bad_request"},
		{"GET", "/v1/bills/9999-01-01.csv", ``, 404, "no_bill"},
		{"GET", "/", ``, 404, "unknown_path"},
		{"DELETE", "/v1/payments/p-1", ``, 404, "unknown_path"},
		{"POST", "/pay/p-9", ``, 404, "unknown_payment"},
		{"GET", "/pay/p-9", ``, 404, "unknown_payment"},
		{"POST", "/pay/p-2", `{"outcome":"stolen"}`, 400, "bad_request"},
		{"POST", "/pay/p-2", `{"outcomes":"paid"}`, 400, "bad_request"},
		{"POST", "/pay/p-2", `{"amount":-1}`, 400, "bad_request"},
		{"POST", "/pay/p-2", `{"currency":"gold"}`, 400, "bad_request"},
	} {
		code, said := w.signed(c.method, c.path, c.body)
		if code != c.code || codeOf(t, said) != c.want {
			t.Errorf("%s %s %.80s: %d %s, want %d %s", c.method, c.path, c.body, code, said, c.code, c.want)
		}
	}
	if n := w.find("p-2"); n.Kind != commands.NoticePending {
		t.Errorf("p-2 became %+v", n)
	}
}

func TestASandboxLacksNothing(t *testing.T) {
	good := sandboxpay.ServerConfig{Merchant: "m1", Secret: secret, NotifyURL: notifyURL}
	for name, c := range map[string]struct {
		change func(*sandboxpay.ServerConfig)
		want   string
	}{
		"all":                {func(c *sandboxpay.ServerConfig) { *c = sandboxpay.ServerConfig{} }, "lacks Merchant and Secret"},
		"a strange name":     {func(c *sandboxpay.ServerConfig) { c.Merchant = "m/1" }, "merchant"},
		"an address":         {func(c *sandboxpay.ServerConfig) { c.NotifyURL = "shop:80" }, "calls back"},
		"a share below 0":    {func(c *sandboxpay.ServerConfig) { c.Faults.Drop = -0.1 }, "0 to 1"},
		"a share above 1":    {func(c *sandboxpay.ServerConfig) { c.FailShare = 1.1 }, "0 to 1"},
		"a share of nothing": {func(c *sandboxpay.ServerConfig) { c.Faults.Late = math.NaN() }, "0 to 1"},
		"shares above 1":     {func(c *sandboxpay.ServerConfig) { c.Faults.Drop, c.Faults.Repeat = 0.6, 0.6 }, "together"},
		"late by nothing":    {func(c *sandboxpay.ServerConfig) { c.Faults.Late = 0.5 }, "LateBy"},
		"before its time":    {func(c *sandboxpay.ServerConfig) { c.AutoPay = -1 }, "negative"},
		"a negative wait":    {func(c *sandboxpay.ServerConfig) { c.Retry = []time.Duration{-1, 1} }, "negative"},
		"no wait":            {func(c *sandboxpay.ServerConfig) { c.Retry = []time.Duration{1, 0} }, "again and again"},
		"a huge window":      {func(c *sandboxpay.ServerConfig) { c.Faults.Reorder = 1e6 }, "shuffled"},
		"fewer than none":    {func(c *sandboxpay.ServerConfig) { c.MaxPayments = -1 }, "one payment"},
		"workers of a town":  {func(c *sandboxpay.ServerConfig) { c.Workers = 1e6 }, "under way"},
	} {
		cfg := good
		c.change(&cfg)
		if _, err := sandboxpay.NewServer(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestTheSandboxTakesNoMoreThanItCanHold(t *testing.T) {
	w := newWorld(t, sandboxpay.ServerConfig{MaxPayments: 3})
	for i := range 3 {
		w.ask(fmt.Sprintf("p-%d", i), 500)
	}
	wantUnavailable(t, "one more", asks(w.client.Ask(t.Context(), asking("p-3", 500))))
	wantUnavailable(t, "one more that is closed", notices(w.client.Close(t.Context(), "p-3")))
	if code, said := w.signed("POST", "/v1/payments/p-3/close", ""); code != 503 || codeOf(t, said) != "full" {
		t.Errorf("it says %d %s", code, said)
	}
	w.ask("p-2", 500)
	w.pay("p-2", "")
	for i := range 100 {
		if _, err := w.client.Refund(t.Context(), returning("p-2", strconv.Itoa(i), 1, 500)); err != nil {
			t.Fatal(err)
		}
	}
	wantRefused(t, "one refund more", notices(w.client.Refund(t.Context(), returning("p-2", "more", 1, 500))), "too_many_refunds")
}

func TestTooManyRequestsAtOnceAreRefused(t *testing.T) {
	w := newWorld(t, sandboxpay.ServerConfig{})
	release, reading := make(chan struct{}), make(chan struct{}, 2000)
	var wg sync.WaitGroup
	for range 1024 {
		wg.Go(func() {
			req := httptest.NewRequestWithContext(t.Context(), "POST", "/pay/p-1", slowBody{reading, release})
			w.server.ServeHTTP(httptest.NewRecorder(), req)
		})
	}
	for range 1024 {
		<-reading
	}
	code, said := w.send("GET", "/v1/status", "")
	close(release)
	wg.Wait()
	if code != 503 || codeOf(t, said) != "busy" {
		t.Errorf("got %d %s", code, said)
	}
	if code, said := w.send("GET", "/v1/status", ""); code != 200 {
		t.Errorf("afterwards: %d %s", code, said)
	}
}

// slowBody is nothing, which comes when it is released.
type slowBody struct{ reading, release chan struct{} }

func (b slowBody) Read([]byte) (int, error) {
	b.reading <- struct{}{}
	<-b.release
	return 0, io.EOF
}

// realWorld is a sandbox and a shop that speak by TCP.
func realWorld(t *testing.T, cfg sandboxpay.ServerConfig) *world {
	t.Helper()
	inner := &world{tb: t, shop: &shop{tb: t}}
	shopServer := httptest.NewServer(inner.shop)
	t.Cleanup(shopServer.Close)
	cfg.Merchant, cfg.Secret, cfg.NotifyURL = "m1", secret, shopServer.URL+"/notify"
	var err error
	if inner.server, err = sandboxpay.NewServer(cfg); err != nil {
		t.Fatal(err)
	}
	channel := httptest.NewServer(inner.server)
	t.Cleanup(channel.Close)
	inner.client = newClient(t, sandboxpay.Config{URL: channel.URL})
	inner.shop.client = inner.client
	inner.web = &http.Client{Transport: direct{inner.server}}
	stop := inner.run()
	t.Cleanup(func() {
		stop()
		if err := inner.server.Close(); err != nil {
			t.Error(err)
		}
	})
	return inner
}

// settled waits until no callback is to be made.
func (w *world) settled() {
	w.tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); w.server.Status().Waiting > 0; <-tick.C {
		if time.Now().After(end) {
			w.tb.Fatalf("callbacks are still to be made: %+v", w.server.Status())
		}
	}
}

func TestManyWhoPayOnePaymentMakeOneTrade(t *testing.T) {
	w := realWorld(t, sandboxpay.ServerConfig{Dir: t.TempDir()})
	w.ask("p-1", 500)
	trades := make([]string, 100)
	var wg sync.WaitGroup
	for i := range trades {
		wg.Go(func() {
			how := `{"outcome":"paid"}`
			if i%10 == 9 {
				how = `{"outcome":"failed"}`
			}
			code, said := w.send("POST", "/pay/p-1", how)
			var v struct{ Trade string }
			if err := json.Unmarshal([]byte(said), &v); err != nil || code != 200 && code != 409 {
				t.Errorf("%d %s, %v", code, said, err)
			}
			trades[i] = v.Trade
		})
	}
	wg.Wait()
	w.settled()
	slices.Sort(trades)
	trades = slices.Compact(trades)
	if n := w.find("p-1"); len(trades) != 1 || trades[0] != n.Trade || w.shop.byPayment()["p-1"] != 1 {
		t.Errorf("trades %q, %d callbacks, and it is %+v", trades, w.shop.byPayment()["p-1"], n)
	}
}

func TestRefundsAtOnceAreNeverMoreThanWasPaid(t *testing.T) {
	w := realWorld(t, sandboxpay.ServerConfig{})
	w.ask("p-1", 1000)
	w.pay("p-1", "")
	var mu sync.Mutex
	sum := int64(0)
	var wg sync.WaitGroup
	for i := range 60 {
		for range 2 { // each twice at once
			wg.Go(func() {
				n, err := w.client.Refund(t.Context(), returning("p-1", fmt.Sprintf("r%d", i), 70, 1000))
				if err != nil {
					wantRefused(t, "refund", err, "too_much")
					return
				}
				mu.Lock()
				defer mu.Unlock()
				sum += n.Money.Amount
			})
		}
	}
	wg.Wait()
	w.settled()
	// 14 times 70 is 980, and each was answered twice.
	if st := w.server.Status(); sum != 2*980 || st.Refunded != 14 || len(w.shop.heard()) != 15 {
		t.Errorf("answered %d, heard %d, counted %+v", sum, len(w.shop.heard()), st)
	}
}

func TestTheBillIsTheSumOfThePayments(t *testing.T) {
	ck := &clock{now: time.Date(2026, 3, 14, 22, 0, 0, 0, time.UTC)}
	w := newWorld(t, sandboxpay.ServerConfig{Now: ck.time, RefundFailShare: 0.2, Seed: 4})
	rnd := rand.New(rand.NewPCG(1, 1))
	want := map[string]int64{}
	note := func(kind string, n commands.Notice) {
		want[n.At.Format(time.DateOnly)+" "+kind+" "+n.Money.Currency] += n.Money.Amount
	}
	for i := range 500 {
		ck.pass(time.Duration(rnd.Int64N(int64(30 * time.Second)))) // over midnight
		id := fmt.Sprintf("p-%d", i)
		total := 100 + rnd.Int64N(10_000)
		w.ask(id, total)
		switch rnd.IntN(4) {
		case 0:
			w.pay(id, `{"outcome":"failed"}`)
		case 1:
		default:
			w.pay(id, "")
			note("payment", w.find(id))
			if rnd.IntN(2) == 0 {
				ck.pass(time.Minute)
				n, err := w.client.Refund(t.Context(), returning(id, "r.1", 1+rnd.Int64N(total), total))
				if err != nil {
					t.Fatal(err)
				}
				if n.Kind == commands.NoticeRefunded {
					note("refund", n)
				}
			}
		}
	}
	got := map[string]int64{}
	for _, day := range []string{"2026-03-13", "2026-03-14", "2026-03-15"} {
		at, err := time.Parse(time.DateOnly, day)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := w.client.Bill(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range readBill(t, raw) {
			if l.day != day {
				t.Errorf("%+v is on the bill of %s", l, day)
			}
			if n := w.find(l.payment); n.Trade != l.trade {
				t.Errorf("%+v is of %+v", l, n)
			}
			got[l.day+" "+l.kind+" "+l.currency] += l.amount
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || len(want) != 4 {
		t.Errorf("sums (-paid +billed):\n%s", diff)
	}
}

type billLine struct {
	day, kind, trade, payment, refund, currency string
	amount                                      int64
}

func readBill(t *testing.T, raw []byte) (lines []billLine) {
	t.Helper()
	in := csv.NewReader(strings.NewReader(string(raw)))
	header, err := in.Read()
	if err != nil || strings.Join(header, ",") != "time,kind,trade,payment,refund,amount,currency" {
		t.Fatalf("header %v, %v", header, err)
	}
	last := time.Time{}
	for {
		f, err := in.Read()
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		at, err := time.Parse(time.RFC3339, f[0])
		if err != nil || !strings.HasSuffix(f[0], "Z") || at.Before(last) {
			t.Errorf("%s behind %s: %v", f[0], last, err)
		}
		last = at
		amount, err := strconv.ParseInt(f[5], 10, 64)
		if err != nil || amount <= 0 || (f[4] == "") != (f[1] == "payment") {
			t.Errorf("line %q: %v", f, err)
		}
		lines = append(lines, billLine{at.Format(time.DateOnly), f[1], f[2], f[3], f[4], f[6], amount})
	}
}

func TestABuyerSeesAPageAndAProgramSeesJSON(t *testing.T) {
	w := newWorld(t, sandboxpay.ServerConfig{})
	shop := asking("p-1", 123456)
	shop.Subject = `<script>alert("tea")</script>`
	if _, err := w.client.Ask(t.Context(), shop); err != nil {
		t.Fatal(err)
	}
	code, page := w.send("GET", "/pay/p-1", "", "Accept", "text/html,application/xhtml+xml")
	if code != 200 || !strings.Contains(page, "1234.56 CNY") || !strings.Contains(page, "<form") || strings.Contains(page, "<script>") {
		t.Errorf("the page is %d %s", code, page)
	}
	w.web.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if code, said := w.send("POST", "/pay/p-1", "outcome=paid", "Content-Type", "application/x-www-form-urlencoded"); code != 303 {
		t.Errorf("the button: %d %s", code, said)
	}
	if _, page = w.send("GET", "/pay/p-1", "", "Accept", "text/html"); !strings.Contains(page, "<strong>paid") || strings.Contains(page, "<form") {
		t.Errorf("when it is paid: %s", page)
	}
	var v struct {
		Status, Trade string
		Amount        int64
	}
	_, said := w.send("GET", "/pay/p-1", "")
	if err := json.Unmarshal([]byte(said), &v); err != nil || v.Status != "paid" || v.Amount != 123456 || v.Trade == "" {
		t.Errorf("as JSON: %s, %v", said, err)
	}
	for currency, want := range map[string]string{"JPY": "7 JPY", "KWD": "0.007 KWD", "CNY": "0.07 CNY"} {
		w.ask("in-"+currency, 100)
		w.pay("in-"+currency, fmt.Sprintf(`{"amount":7,"currency":%q}`, currency))
		if _, page := w.send("GET", "/pay/in-"+currency, "", "Accept", "text/html"); !strings.Contains(page, "<h1>"+want) {
			t.Errorf("%s: %s", currency, page)
		}
	}
}

func TestTheStatusIsServed(t *testing.T) {
	w := newWorld(t, sandboxpay.ServerConfig{})
	w.ask("p-1", 500)
	var got sandboxpay.Status
	code, said := w.send("GET", "/v1/status", "")
	if err := json.Unmarshal([]byte(said), &got); err != nil || code != 200 || got != w.server.Status() || got.Created != 1 {
		t.Errorf("got %d %s, %v; want %+v", code, said, err, w.server.Status())
	}
}

func TestASandboxWithoutAShopCallsNobody(t *testing.T) {
	cfg := sandboxpay.ServerConfig{Merchant: "m1", Secret: secret, Dir: t.TempDir()}
	s, err := sandboxpay.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{tb: t, server: s, shop: &shop{tb: t}, web: &http.Client{Transport: direct{s}}}
	w.client = newClient(t, sandboxpay.Config{HTTP: w.web})
	w.ask("p-1", 500)
	w.pay("p-1", "")
	if st := s.Status(); st.Paid != 1 || st.Waiting != 0 {
		t.Errorf("counted: %+v", st)
	}
	if err = s.Close(); err != nil {
		t.Fatal(err)
	}
	// One that has a shop tells it what the other could not.
	after := newWorld(t, sandboxpay.ServerConfig{Dir: cfg.Dir})
	if st := after.server.Status(); st.Waiting != 1 {
		t.Errorf("with a shop: %+v", st)
	}
}

// A thousand payments by TCP and a disk, with all faults, and a shop that is
// often in trouble: what the shop was told and what it can ask for are the same,
// and it was told of all that was not dropped.
func TestAllIsToldOnceAndForAllThroughEveryTrouble(t *testing.T) {
	w := realWorld(t, sandboxpay.ServerConfig{
		Dir: t.TempDir(), Seed: 11, AutoPay: 10 * time.Millisecond, FailShare: 0.05, Retry: []time.Duration{time.Millisecond, 5 * time.Millisecond},
		Faults: sandboxpay.Faults{Drop: 0.2, Repeat: 0.2, Late: 0.1, LateBy: 50 * time.Millisecond, Reorder: 10, Gather: 20 * time.Millisecond},
	})
	w.shop.fails = func(n commands.Notice, try int) error {
		if try == 0 && n.Payment[len(n.Payment)-1] == '7' {
			return errors.New("in trouble")
		}
		return nil
	}
	const n = 1000
	var wg sync.WaitGroup
	next := make(chan int)
	for range 16 {
		wg.Go(func() {
			for i := range next {
				w.ask(fmt.Sprintf("p-%d", i), int64(100+i))
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for st, end := w.server.Status(), time.Now().Add(20*time.Second); st.Paid+st.Failed < n && time.Now().Before(end); st = w.server.Status() {
		<-tick.C
	}
	w.settled()
	st := w.server.Status()
	told := map[string]bool{}
	for _, c := range w.shop.heard() {
		if found := w.find(c.Payment); found != c.Notice {
			t.Errorf("told %+v, found %+v", c.Notice, found)
		}
		told[c.Payment] = true
	}
	if len(told) != n-st.Dropped || st.CalledBack != n-st.Dropped || len(w.shop.heard()) != st.CalledBack+st.Repeated+st.Refused {
		t.Errorf("heard of %d in %d callbacks, counted %+v", len(told), len(w.shop.heard()), st)
	}
}

// How fast payments are asked for, paid and called back, all on disk.
func BenchmarkPaymentsOnDisk(b *testing.B) {
	w := newWorld(b, sandboxpay.ServerConfig{Dir: b.TempDir(), MaxPayments: 10_000_000})
	defer w.run()()
	var number atomic.Int64
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			id := fmt.Sprintf("p-%d", number.Add(1))
			w.ask(id, 100)
			w.pay(id, "")
		}
	})
	w.settled()
}
