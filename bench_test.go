package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"cartwright/domain/inventory"
	"cartwright/infra/problem"
)

// newBenchShop is an importShop that also shows its stock, and empty lists.
func newBenchShop(t *testing.T) *importShop {
	t.Helper()
	s := newImportShop(t, false)
	engine, _ := s.routes.(*gin.Engine)
	engine.GET("/v1/inventory/:sku", problem.Handler(nil, func(c *gin.Context) error {
		st, err := fold(c.Request.Context(), s, inventory.Decider, "inventory-"+c.Param("sku"))
		if err == nil {
			c.JSON(http.StatusOK, gin.H{"on_hand": st.OnHand, "held": st.Held, "allocated": st.Allocated, "available": st.Available()})
		}
		return err
	}))
	for _, list := range []string{"/v1/buyers/:id/orders", "/v1/sellers/:id/orders"} {
		engine.GET(list, func(c *gin.Context) {
			if c.GetHeader("Cartwright-Token") == "" {
				t.Error("a list was asked for without a token")
			}
			c.JSON(http.StatusOK, gin.H{"items": []string{}})
		})
	}
	return s
}

func startBench(t *testing.T, url string, args ...string) (benchReport, error) {
	t.Helper()
	cmd := newBenchCommand(config{})
	var out bytes.Buffer
	cmd.SetArgs(append([]string{"checkout", "--json", "--target", url, "--buyers", "7"}, args...))
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	var report benchReport
	if out.Len() > 0 {
		if wrong := json.Unmarshal(out.Bytes(), &report); wrong != nil {
			t.Fatalf("standard output is not one report: %v: %s", wrong, out.String())
		}
	}
	return report, err
}

func TestAHotSKUIsSoldOutAndNotOversold(t *testing.T) {
	web := httptest.NewServer(newBenchShop(t))
	defer web.Close()
	got, err := startBench(t, web.URL, "--hot", "--stock", "20", "--count", "60", "--concurrency", "30")
	if err != nil {
		t.Fatal(err)
	}
	if got.Count != 20 || len(got.Errors) != 1 || got.Errors["out_of_stock"] != 40 || got.Check.Taken != 20 || got.Samples != 60 {
		t.Errorf("got %+v", got)
	}
}

func TestCountedCheckoutsAreSpreadOverTheSKUs(t *testing.T) {
	s := newBenchShop(t)
	web := httptest.NewServer(s)
	defer web.Close()
	got, err := startBench(t, web.URL, "--skus", "8", "--count", "200", "--concurrency", "4")
	if err != nil {
		t.Fatal(err)
	}
	if got.Count != 200 || got.Check.Placed != 200 || got.Check.Taken != 200 || len(got.Errors) > 0 || got.SKUs != 8 || got.IDs.Ahead != 200 || got.IDs.Inline != 0 {
		t.Errorf("got %+v", got)
	}
	if got.Rate <= 0 || got.P50 <= 0 || got.P99 < got.P50 || got.Max < got.P99 || got.Lag["buyers"].Samples == 0 || got.Lag["sellers"].Samples == 0 {
		t.Errorf("got %+v", got)
	}
	if stocks := s.streams(t, "inventory-"); len(stocks) != 8 {
		t.Errorf("sold %v", stocks)
	}
}

func TestADurationIsMeasuredAfterAWarmUp(t *testing.T) {
	web := httptest.NewServer(newBenchShop(t))
	defer web.Close()
	got, err := startBench(t, web.URL, "--skus", "3", "--duration", "200ms", "--warmup", "200ms", "--concurrency", "2")
	if err != nil {
		t.Fatal(err)
	}
	if got.DurationS < 0.2 || got.Count == 0 || got.IDs.Ahead == 0 || got.Check.Placed <= got.Count {
		t.Errorf("got %+v", got)
	}
}

func TestARequestThatMayHaveBeenCarriedOutIsNoDifference(t *testing.T) {
	s := newBenchShop(t)
	var n atomic.Int64
	web := quietly(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/checkouts" || n.Add(1)%10 != 0 {
			s.ServeHTTP(w, r)
			return
		}
		s.ServeHTTP(httptest.NewRecorder(), r)
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"type":"/problems/timeout"}`)
	}))
	got, err := startBench(t, web.URL, "--skus", "2", "--count", "100", "--concurrency", "2")
	if err != nil {
		t.Fatal(err)
	}
	if got.Count != 90 || got.Errors["timeout"] != 10 || got.Check.Unknown != 10 || got.Check.Taken != 100 {
		t.Errorf("got %+v", got)
	}
}

func TestStockThatIsWrongIsADifference(t *testing.T) {
	s := newBenchShop(t)
	web := quietly(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/v1/inventory/") {
			_, _ = io.WriteString(w, `{"on_hand":10000000,"held":1,"allocated":0,"available":9999999}`)
			return
		}
		s.ServeHTTP(w, r)
	}))
	got, err := startBench(t, web.URL, "--hot", "--count", "5", "--concurrency", "1")
	if exitOf(err) != exitDifferences || len(got.Check.Differences) != 1 || !strings.Contains(got.Check.Differences[0], "5 placed, but 1 taken") {
		t.Errorf("got %v, %+v", err, got.Check)
	}
}

func TestWhatTheStockMaySay(t *testing.T) {
	for name, c := range map[string]struct {
		stock shownStock
		sold  tally
		says  string
	}{
		"all is sold":         {shownStock{10, 10, 0, 0, 0}, tally{placed: 10, short: 5}, ""},
		"some are paid":       {shownStock{10, 2, 3, 5, 0}, tally{placed: 5}, ""},
		"unknown, not taken":  {shownStock{10, 5, 0, 5, 0}, tally{placed: 5, unknown: 2}, ""},
		"unknown, taken":      {shownStock{10, 7, 0, 3, 0}, tally{placed: 5, unknown: 2}, ""},
		"more than unknown":   {shownStock{10, 8, 0, 2, 0}, tally{placed: 5, unknown: 2}, "only 5 placed"},
		"lost":                {shownStock{10, 4, 0, 6, 0}, tally{placed: 5, unknown: 2}, "but 4 taken"},
		"oversold":            {shownStock{10, 11, 0, -1, 0}, tally{placed: 11}, "oversold"},
		"shelf changed":       {shownStock{9, 5, 0, 4, 0}, tally{placed: 5}, "on hand"},
		"refused in vain":     {shownStock{10, 9, 0, 1, 0}, tally{placed: 9, short: 1}, "while 1 were left"},
		"refused, but unsure": {shownStock{10, 9, 0, 1, 0}, tally{placed: 9, short: 1, unknown: 1}, ""},
	} {
		if got := c.stock.differs(c.sold, 10); (got == "") != (c.says == "") || !strings.Contains(got, c.says) {
			t.Errorf("%s: got %q, want %q", name, got, c.says)
		}
	}
}

func TestABenchThatPlacesNothingFails(t *testing.T) {
	s := newBenchShop(t)
	web := quietly(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/checkouts" {
			panic(http.ErrAbortHandler)
		}
		s.ServeHTTP(w, r)
	}))
	got, err := startBench(t, web.URL, "--hot", "--count", "3", "--concurrency", "1")
	if exitOf(err) != exitFailed || got.Errors["no_answer"] != 3 || got.Check.Unknown != 3 {
		t.Errorf("got %v, %+v", err, got)
	}
}

func TestTheBenchCommandLineIsChecked(t *testing.T) {
	for _, args := range [][]string{
		{"--concurrency", "0"},
		{"--count", "-1"},
		{"--duration", "0s"},
		{"--warmup", "-1s"},
		{"--skus", "0"},
		{"--buyers", "0"},
		{"--stock", "0"},
		{"--target", "nowhere"},
		{"more"},
	} {
		if _, err := startBench(t, "http://127.0.0.1:1", args...); exitOf(err) != exitUsage {
			t.Errorf("%v: got %v", args, err)
		}
	}
	cmd := newBenchCommand(config{})
	cmd.SetArgs([]string{})
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	if err := cmd.ExecuteContext(t.Context()); exitOf(err) != exitUsage {
		t.Errorf("no scenario: %v", err)
	}
}

func TestTheBenchReportForPeopleSaysItAll(t *testing.T) {
	var out strings.Builder
	r := benchReport{
		Scenario: "checkout", SKUs: 10, Concurrency: 32, DurationS: 2, Count: 10_000, Rate: 5000, Errors: map[string]int64{"out_of_stock": 3},
		Latency: Latency{P50: 1.5, P99: 9.25, Samples: 10_003}, Lag: map[string]Latency{"buyers": {P99: 12}},
		Check: benchCheck{Placed: 10_000, Taken: 9_999, Differences: []string{"bench-1: lost"}},
	}
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"10000 in 2.0 s, 5000/s", "p99 9.25", "lag of buyers", "3 out_of_stock", "9999 taken for 10000 placed", "bench-1: lost"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestACartIsJSON(t *testing.T) {
	var got checkoutRequest
	dec := json.NewDecoder(bytes.NewReader(cart(drawnID{"1", "b"}, "s")))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&got); err != nil || got.OrderID != "1" || got.Buyer != "b" || len(got.Items) != 1 || got.Items[0] != (checkoutItem{"s", 1}) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got.Address.Check("") != nil {
		t.Errorf("the address is refused: %+v", got.Address)
	}
}

func BenchmarkClientCheckout(b *testing.B) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{}`)
	}))
	defer web.Close()
	api, err := newClient(web.URL, 1)
	if err != nil {
		b.Fatal(err)
	}
	defer api.close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := api.checkout(b.Context(), drawnID{"0598392000000123456", "bench-1"}, "bench-sku-1"); err != nil {
			b.Fatal(err)
		}
	}
}

func TestLatenciesAreRecordedWithinBounds(t *testing.T) {
	h := newHistogram()
	for _, d := range []time.Duration{0, time.Millisecond, time.Hour} {
		recordLatency(h, d)
	}
	if l := latencyOf(h); l.Samples != 3 || l.Max < 299_000 || l.P50 < 0.9 || l.P50 > 1.1 {
		t.Errorf("got %+v", l)
	}
	if l := latencyOf(newHistogram()); l != (Latency{}) {
		t.Errorf("of nothing: %+v", l)
	}
}
