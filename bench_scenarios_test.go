package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// runBench runs a scenario by its command line and reads its report.
func runBench(t *testing.T, args ...string) (scenarioReport, error) {
	t.Helper()
	cmd := newBenchCommand(config{})
	var out bytes.Buffer
	cmd.SetArgs(append(args, "--json"))
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	var report scenarioReport
	if out.Len() > 0 {
		if wrong := json.Unmarshal(out.Bytes(), &report); wrong != nil {
			t.Fatalf("standard output is not one report: %v: %s", wrong, out.String())
		}
	}
	return report, err
}

// between stands between a bench and the server, and may answer for it.
func between(t *testing.T, s *server, answer func(w http.ResponseWriter, r *http.Request, serve http.Handler)) string {
	t.Helper()
	to, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, Transport: &http.Transport{MaxIdleConnsPerHost: 64}, ErrorLog: log.New(io.Discard, "", 0)}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r, proxy) }))
	t.Cleanup(web.Close)
	return web.URL
}

// A list that has a buyer's last order may still lack those before it.
func TestListsThatAreBehindAreWaitedForBeforeTheyAreMeasured(t *testing.T) {
	s := serve(t, t.TempDir())
	var mu sync.Mutex
	asked := map[string]bool{}
	target := between(t, s, func(w http.ResponseWriter, r *http.Request, serve http.Handler) {
		mu.Lock()
		first := r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/orders") && !asked[r.URL.Path]
		asked[r.URL.Path] = true
		mu.Unlock()
		if first { // as if three were not there yet, and the page began at the fourth
			r.URL.RawQuery = strings.Replace(r.URL.RawQuery, "limit=20", "limit=17", 1)
			r.URL.RawQuery = strings.Replace(r.URL.RawQuery, "limit=100", "limit=22", 1)
		}
		serve.ServeHTTP(w, r)
	})
	got, err := runBench(t, "history", "--count", "60", "--orders", "75", "--skus", "7", "--buyers", "3", "--target", target, "--data", s.data)
	if err != nil {
		t.Errorf("%v: %+v", err, got.Check)
	}
}

func TestEveryScenarioRunsAndFindsNothingWrong(t *testing.T) {
	s := serve(t, t.TempDir())
	for name, c := range map[string]struct {
		args  []string
		steps []string
		lag   bool
	}{
		"checkout, closed": {args: []string{"checkout", "--count", "60", "--skus", "7", "--buyers", "5"}, lag: true},
		"checkout, open":   {args: []string{"checkout", "--rate", "200", "--duration", "300ms", "--warmup", "100ms", "--skus", "7", "--buyers", "5"}, lag: true},
		"lifecycle":        {args: []string{"lifecycle", "--count", "30", "--skus", "60", "--buyers", "5"}, steps: []string{"checkout", "pay", "ship", "deliver", "complete"}, lag: true},
		"history":          {args: []string{"history", "--count", "60", "--orders", "75", "--skus", "7", "--buyers", "3"}, steps: []string{"order", "page", "next"}},
		"history, small":   {args: []string{"history", "--count", "30", "--orders", "3", "--skus", "2", "--buyers", "3", "--kind", "next,order"}, steps: []string{"next", "order"}},
		"seller":           {args: []string{"seller", "--count", "60", "--orders", "61", "--skus", "60", "--buyers", "3"}, steps: []string{"list", "summary"}},
		"mixed":            {args: []string{"mixed", "--count", "110", "--orders", "70", "--skus", "7", "--buyers", "3"}, steps: []string{"checkout", "order", "page", "list"}, lag: true},
		"flash":            {args: []string{"flash", "--buyers", "120", "--stock", "20", "--within", "200ms"}},
		"flash for all":    {args: []string{"flash", "--buyers", "10", "--stock", "20", "--within", "50ms"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := runBench(t, append(c.args, "--target", s.url, "--data", s.data)...)
			if err != nil {
				t.Fatalf("%v: %+v", err, got.Check)
			}
			if got.Count == 0 || got.Rate <= 0 || got.P50 <= 0 || len(got.Check.Differences) > 0 || len(got.Steps) != len(c.steps) {
				t.Errorf("got %+v", got)
			}
			for _, step := range c.steps {
				if l := got.Steps[step]; l.Samples == 0 || l.P50 <= 0 {
					t.Errorf("step %s: %+v", step, l)
				}
			}
			if seen := got.Lag["buyers"].Samples > 0 && got.Lag["sellers"].Samples > 0; seen != c.lag {
				t.Errorf("lag: %+v", got.Lag)
			}
			if got.Server == nil || got.Server.CPU <= 0 || got.Server.Allocs <= 0 || got.Server.Bytes <= 0 || got.Generator.Allocs <= 0 || got.Server.Undrained {
				t.Errorf("figures: %+v, %+v, %q", got.Server, got.Generator, got.LeftOut)
			}
		})
	}
}

func TestTheServersFiguresAreOfWhatWasMeasured(t *testing.T) {
	s := serve(t, t.TempDir(), "--metrics", "127.0.0.1:0")
	collectors, wrong := ownerSays(s.data, "metrics")
	if wrong != nil {
		t.Fatal(wrong)
	}
	for name, where := range map[string][]string{"its folder": {"--data", s.data}, "its metrics": {"--metrics", collectors}} {
		got, err := runBench(t, append(where, "checkout", "--hot", "--count", "200", "--buyers", "2", "--target", s.url)...)
		if err != nil {
			t.Fatal(err)
		}
		f := got.Server
		if f == nil || f.Fsync == nil || f.Fsync.Count == 0 || f.Fsync.Writes < 1 || f.Fsync.Events < f.Fsync.Writes || f.Resident == 0 {
			t.Fatalf("%s: %+v", name, f)
		}
		if o := f.Lanes["order"]; o.Appends != 200 || o.Commands != 1 {
			t.Errorf("%s: orders are placed one to an append, and it says %+v", name, o)
		}
		if i := f.Lanes["inventory"]; i.Appends == 0 || float64(i.Appends)*i.Commands < 199 {
			t.Errorf("%s: 200 were held, and it says %+v", name, i)
		}
	}
	got, err := runBench(t, "checkout", "--hot", "--count", "5", "--buyers", "2", "--target", s.url)
	if err != nil || got.Server != nil || !strings.Contains(got.LeftOut, "no data folder") {
		t.Errorf("of a server that nothing is known of: %v, %+v, %q", err, got.Server, got.LeftOut)
	}
	other := between(t, s, func(w http.ResponseWriter, r *http.Request, serve http.Handler) { serve.ServeHTTP(w, r) })
	got, err = runBench(t, "checkout", "--hot", "--count", "5", "--buyers", "2", "--target", other, "--data", s.data)
	if err != nil || got.Server != nil || !strings.Contains(got.LeftOut, "is the data of "+s.url) {
		t.Errorf("of another server's folder: %v, %+v, %q", err, got.Server, got.LeftOut)
	}
	got, err = runBench(t, "checkout", "--hot", "--count", "5", "--buyers", "2", "--target", s.url, "--metrics", other+"/nothing")
	if err != nil || got.Server != nil || !strings.Contains(got.LeftOut, "404") {
		t.Errorf("of no metrics: %v, %+v, %q", err, got.Server, got.LeftOut)
	}
}

func TestWhatIsWrongIsFoundByEveryScenario(t *testing.T) {
	s := serve(t, t.TempDir())
	for name, c := range map[string]struct {
		args   []string
		answer func(w http.ResponseWriter, r *http.Request) bool // it did
		says   string
	}{
		"an order that was not completed": {
			[]string{"lifecycle", "--count", "6", "--skus", "3", "--buyers", "2"},
			func(w http.ResponseWriter, r *http.Request) bool {
				return strings.HasSuffix(r.URL.Path, "/complete") && say(w, http.StatusOK, `{}`)
			}, "completed",
		},
		"a parcel that was not sent": {
			[]string{"lifecycle", "--count", "6", "--skus", "3", "--buyers", "2"},
			func(w http.ResponseWriter, r *http.Request) bool {
				return r.Method == http.MethodPost && (strings.Contains(r.URL.Path, "/parcels") || strings.HasSuffix(r.URL.Path, "/complete")) && say(w, http.StatusOK, `{}`)
			}, "on hand, but",
		},
		"a payment that was not taken": {
			[]string{"lifecycle", "--count", "6", "--skus", "3", "--buyers", "2"},
			func(w http.ResponseWriter, r *http.Request) bool {
				ours := strings.HasSuffix(r.URL.Path, "/pay") || strings.Contains(r.URL.Path, "/parcels") || strings.HasSuffix(r.URL.Path, "/complete")
				return ours && say(w, http.StatusOK, `{}`)
			}, "spent 0 on 3 orders",
		},
		"a list that lacks orders": {
			[]string{"history", "--count", "6", "--orders", "6", "--skus", "2", "--buyers", "2", "--kind", "page"},
			func(w http.ResponseWriter, r *http.Request) bool {
				return strings.HasSuffix(r.URL.Path, "/orders") && say(w, http.StatusOK, `{"items":[],"next_cursor":null}`)
			}, "0 times, not 3",
		},
		"another order": {
			[]string{"history", "--count", "6", "--orders", "6", "--skus", "2", "--buyers", "2", "--kind", "order"},
			func(w http.ResponseWriter, r *http.Request) bool {
				return strings.HasPrefix(r.URL.Path, "/v1/orders/") && say(w, http.StatusOK, `{"order_id":"1"}`)
			}, "0 times, not 1",
		},
		"sums that are too small": {
			[]string{"seller", "--count", "6", "--orders", "6", "--skus", "2", "--buyers", "2"},
			func(w http.ResponseWriter, r *http.Request) bool {
				return strings.HasSuffix(r.URL.Path, "/summary") && say(w, http.StatusOK, `{"orders":2,"units":2}`)
			}, `"orders":3`,
		},
		"a list with too many": {
			[]string{"mixed", "--count", "22", "--orders", "4", "--skus", "2", "--buyers", "2"},
			func(w http.ResponseWriter, r *http.Request) bool {
				return strings.HasSuffix(r.URL.Path, "/orders") && r.URL.Query().Get("limit") == "100" &&
					say(w, http.StatusOK, `{"items":[{"order_id":"7"}],"next_cursor":null}`)
			}, "",
		},
		"units that were sold twice": {
			[]string{"flash", "--buyers", "30", "--stock", "5", "--within", "50ms"},
			func() func(w http.ResponseWriter, r *http.Request) bool {
				var once sync.Once
				return func(w http.ResponseWriter, r *http.Request) (did bool) {
					if r.URL.Path == "/v1/checkouts" {
						once.Do(func() { did = say(w, http.StatusCreated, `{}`) })
					}
					return did
				}
			}(), "6 placed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			target := between(t, s, func(w http.ResponseWriter, r *http.Request, serve http.Handler) {
				if !c.answer(w, r) {
					serve.ServeHTTP(w, r)
				}
			})
			got, err := runBench(t, append(c.args, "--target", target, "--check-within", "1s")...)
			if exitOf(err) != exitDifferences || !strings.Contains(strings.Join(got.Check.Differences, "\n"), c.says) {
				t.Errorf("got %v, %q", err, got.Check.Differences)
			}
		})
	}
}

// say answers, and says that it did.
func say(w http.ResponseWriter, status int, body string) bool {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
	return true
}

func TestAServerThatOversellsIsFound(t *testing.T) {
	s := newBenchShop(t)
	web := quietly(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		told := httptest.NewRecorder()
		s.ServeHTTP(told, r)
		if r.URL.Path == "/v1/checkouts" && told.Code == http.StatusConflict {
			told = httptest.NewRecorder() // what was refused is sold
			told.WriteHeader(http.StatusCreated)
			_, _ = told.WriteString(`{}`)
		}
		w.Header().Set("Cartwright-Token", cmp.Or(told.Header().Get("Cartwright-Token"), "some"))
		w.WriteHeader(told.Code)
		_, _ = told.Body.WriteTo(w)
	}))
	for _, args := range [][]string{
		{"checkout", "--hot", "--stock", "20", "--count", "60", "--buyers", "7"},
		{"checkout", "--hot", "--stock", "20", "--rate", "1000", "--count", "60", "--buyers", "7"},
		{"flash", "--stock", "20", "--buyers", "60", "--within", "50ms"},
	} {
		got, err := runBench(t, append(args, "--target", web.URL)...)
		if exitOf(err) != exitDifferences || got.Check.Placed != 60 || got.Check.Taken != 20 {
			t.Errorf("%v: got %v, %+v", args, err, got.Check)
		}
	}
}

func TestBuyersOfAFlashSaleComeAgainWhenTheyAreTold(t *testing.T) {
	s := newBenchShop(t)
	var came sync.Map
	web := quietly(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/checkouts" {
			if _, again := came.LoadOrStore(r.Header.Get("Idempotency-Key"), true); !again {
				_ = say(w, http.StatusServiceUnavailable, `{"type":"/problems/busy"}`)
				return
			}
		}
		s.ServeHTTP(w, r)
	}))
	got, err := runBench(t, "flash", "--stock", "10", "--buyers", "40", "--within", "20ms", "--target", web.URL)
	if err != nil || got.Count != 10 || got.Retries["busy"] != 40 || got.Errors["out_of_stock"] != 30 || got.Samples != 40 {
		t.Fatalf("got %v, %+v", err, got)
	}
	if f := got.Flash; f == nil || f.Buyers != 40 || f.Units != 10 || f.Placed != 10 || f.Refused != 30 || f.AnsweredS <= 0 {
		t.Errorf("got %+v", f)
	}
}

func TestAScheduleIsKeptWhileAServerStalls(t *testing.T) {
	s := newBenchShop(t)
	var once sync.Once
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/checkouts" {
			once.Do(func() { <-time.After(300 * time.Millisecond) })
		}
		s.ServeHTTP(w, r)
	}))
	defer web.Close()
	got, err := runBench(t, "checkout", "--hot", "--rate", "500", "--count", "200", "--concurrency", "1", "--buyers", "7", "--target", web.URL)
	if err != nil {
		t.Fatal(err)
	}
	// One request was slow, and some 150 were due meanwhile, the mean of whom
	// waited half of it.
	if o := got.OpenLoop; o == nil || o.Due != 200 || o.Rate != 500 || o.Late < 100 || o.Behind < 250 || got.P50 < 20 {
		t.Errorf("loop %+v, latency %+v", got.OpenLoop, got.Latency)
	}
}

func TestTheCommandLineOfEveryScenarioIsChecked(t *testing.T) {
	for _, line := range []string{
		"checkout --rate -1", "checkout --rate NaN", "checkout --rate 1e9", "checkout --metrics nowhere", "checkout --count 1 --duration 1s", "checkout --hot --skus 2",
		"checkout --check-within -1s", "checkout --shards 0", "checkout --shards 17", "checkout --shards 100000", "checkout --hot --shards -1", "flash --shards 0",
		"checkout --target=", "checkout --target http://a,nowhere", "checkout --target http://a,http://a", "checkout --read-target nowhere", "checkout --metrics http://a,nowhere",
		"lifecycle --target http://a,http://b", "callbacks --target http://a,http://b", "mixed --target http://a,http://b",
		"lifecycle --concurrency 0", "lifecycle --count 1 --duration 1s", "lifecycle more",
		"history --kind summary", "history --kind ,", "history --orders 1", "history --buyers 0", "seller --kind order", "mixed --orders -1",
		"flash --buyers 0", "flash --stock 0", "flash --within 0s", "flash --target nowhere",
		"callbacks --count 0", "callbacks --metrics nowhere",
		"all --scenario nonsense", "all --duration 0s", "all --events 1", "all more", "all --apart", "all --pid kafka=1", "all --section growth",
	} {
		if _, err := runBench(t, strings.Fields(line)...); exitOf(err) != exitUsage {
			t.Errorf("%s: got %v", line, err)
		}
	}
}

func TestTheStandardSetIsRunAndWrittenDown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "BENCHMARKS.md")
	mine := "# Mine\n\nbefore\n" + beginOf("") + "\nold\n" + documentEnds + "\n\nbehind\n"
	if err := os.WriteFile(path, []byte(mine), 0o600); err != nil {
		t.Fatal(err)
	}
	out, code := tool(t, "bench", "all", "--duration", "200ms", "--events", "2000", "--scenario", "hot,own-writes,replay", "--out", path, "--json")
	var did setReport
	if err := json.Unmarshal([]byte(out), &did); code != 0 || err != nil {
		t.Fatalf("exit %d, %v: %s", code, err, out)
	}
	if len(did.Runs) != 2 || len(did.Replays) < 5 || len(did.Wrong) > 0 || did.Start <= 0 || did.Restart <= 0 || did.Bytes == 0 {
		t.Errorf("got %+v", did)
	}
	for _, r := range did.Runs {
		if r.Count == 0 || r.Name == "hot" && (r.Server == nil || r.Server.CPU <= 0) {
			t.Errorf("%s: %+v", r.Name, r)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# Mine\n\nbefore\n", "\n\nbehind\n", "| hot | checkouts of one SKU", "| own-writes |", "no difference", "cartwright bench checkout --hot --duration 200ms",
		"cartwright verify", "cartwright reconcile", "Views built anew", "| buyers |",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "old\n") {
		t.Error("what was measured before stands there still")
	}
}

func TestADocumentWithoutItsLinesIsLeftAsItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "BENCHMARKS.md")
	if err := putInto(path, "", "first"); err != nil {
		t.Fatal(err)
	}
	if err := putInto(path, "", "second"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), "second") || strings.Contains(string(text), "first") {
		t.Errorf("got %v, %s", err, text)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := putInto(path, "", "third"); err == nil {
		t.Error("it was written to")
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "mine" {
		t.Errorf("got %v, %s", err, text)
	}
}

func TestProfilesAreForThisMachineOnly(t *testing.T) {
	s := serve(t, t.TempDir(), "--pprof", "127.0.0.1:0")
	where, err := ownerSays(s.data, "pprof")
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, where+"cmdline", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if line, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(line), "--pprof") {
		t.Errorf("got %v, %q", err, line)
	}
	s.stop()
	if _, err := ownerSays(s.data, "pprof"); err == nil {
		t.Error("its address is there still")
	}
	if _, code := tool(t, "serve", "--data", t.TempDir(), "--pprof", "0.0.0.0:0"); code != exitUsage {
		t.Errorf("for everybody: exit %d", code)
	}
}
