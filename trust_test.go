package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"cartwright/domain/event"
	"cartwright/infra/esdbstore"
	"cartwright/infra/token"
)

// soaked is a number for every day, or the one for a night (make soak).
func soaked[T any](day, night T) T {
	if os.Getenv("CARTWRIGHT_SOAK") == "" {
		return day
	}
	return night
}

// raced tells of a program that the race detector slows down.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// ownWrites runs writers who read what they wrote.
func ownWrites(t *testing.T, args ...string) (ownWritesReport, error) {
	t.Helper()
	cmd := newBenchOwnWritesCommand()
	var out bytes.Buffer
	cmd.SetArgs(append([]string{"--json"}, args...))
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	var report ownWritesReport
	if out.Len() > 0 {
		if wrong := json.Unmarshal(out.Bytes(), &report); wrong != nil {
			t.Fatalf("standard output is not one report: %v: %s", wrong, out.String())
		}
	}
	return report, err
}

// nothingStale expects that every kind of query was asked, and no answer stale.
func nothingStale(t *testing.T, r ownWritesReport, err error) {
	t.Helper()
	if err != nil || r.Stale > 0 || r.Count == 0 || len(r.Errors) > 0 {
		t.Errorf("%v: %d writes, refused %v, %d stale: %v", err, r.Count, r.Errors, r.Stale, r.Differences)
	}
	t.Logf("%d writes at %.0f/s, p50 %.1f ms, p99 %.1f ms", r.Count, r.Rate, r.P50, r.P99)
	for _, kind := range []string{"order", "buyer", "seller", "search", "summary"} {
		of := r.Reads[kind]
		if of.Reads == 0 {
			t.Errorf("nobody asked for %s", kind)
		}
		t.Logf("%-8s %d reads, %d stale, %d late, p50 %.1f ms, p99 %.1f ms, max %.1f ms", kind, of.Reads, of.Stale, of.Late, of.P50, of.P99, of.Max)
	}
}

// The views of serve are kept from several partitions.
func TestReadersSeeTheirOwnWritesUnderLoad(t *testing.T) {
	s := serve(t, t.TempDir())
	r, err := ownWrites(t, "--target", s.url, "--concurrency", "16", "--duration", soaked("4s", "5m"))
	nothingStale(t, r, err)
	if out, code := tool(t, "verify", "--data", s.data); code != 0 {
		t.Errorf("verify: exit %d: %s", code, out)
	}
}

// A liar stands before a server and changes its answers to queries.
func liar(t *testing.T, s *server, lie func(w http.ResponseWriter, r *http.Request, honest http.Handler)) string {
	t.Helper()
	to, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	honest := httputil.NewSingleHostReverseProxy(to)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			lie(w, r, honest)
			return
		}
		honest.ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	return web.URL
}

func TestStaleAnswersAreFoundAndLateOnesAskedForAgain(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir())
	var mu sync.Mutex
	before := map[string]*httptest.ResponseRecorder{}
	yesterday := liar(t, s, func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		now := httptest.NewRecorder()
		honest.ServeHTTP(now, r)
		mu.Lock()
		told := before[r.URL.Path]
		before[r.URL.Path] = now
		mu.Unlock()
		if told == nil {
			told = now
		}
		w.WriteHeader(told.Code)
		_, _ = w.Write(told.Body.Bytes())
	})
	r, err := ownWrites(t, "--target", yesterday, "--concurrency", "2", "--duration", "200ms")
	if exitOf(err) != exitDifferences || r.Stale == 0 || len(r.Differences) == 0 {
		t.Errorf("%v: %+v", err, r)
	}
	for _, kind := range []string{"buyer", "seller", "summary"} {
		if r.Reads[kind].Stale == 0 {
			t.Errorf("no %s is stale: %v", kind, r.Differences)
		}
	}
	asked := map[string]int{}
	slow := liar(t, s, func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		mu.Lock()
		asked[r.Header.Get("Cartwright-Token")+r.URL.Path]++
		first := asked[r.Header.Get("Cartwright-Token")+r.URL.Path]%2 == 1 // the same may be asked for twice
		mu.Unlock()
		if !first || strings.HasPrefix(r.URL.Path, "/v1/orders/") {
			honest.ServeHTTP(w, r)
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"type":"/problems/not_caught_up"}`)
	})
	r, err = ownWrites(t, "--target", s.url, "--read-target", slow, "--concurrency", "2", "--duration", "200ms")
	if err != nil || r.Stale > 0 || r.Late == 0 || r.Reads["summary"].Late != r.Reads["summary"].Reads || r.Reads["order"].Late > 0 || r.Reads["summary"].P50 < 12 {
		t.Errorf("%v: %+v", err, r)
	}
	for _, args := range [][]string{{"--concurrency", "0"}, {"--duration", "0s"}, {"--rate", "-1"}, {"--target", "nowhere"}, {"--target", ""}, {"--read-target", "x"}, {"more"}} {
		if _, err := ownWrites(t, args...); exitOf(err) != exitUsage {
			t.Errorf("%v: got %v", args, err)
		}
	}
}

func TestTheOwnWritesReportForPeopleSaysItAll(t *testing.T) {
	var out strings.Builder
	r := ownWritesReport{
		Concurrency: 8, Count: 50, Rate: 25, DurationS: 2, Errors: map[string]int64{"timeout": 3}, Differences: []string{"/v1/orders/1: gone"},
		Reads: map[string]readReport{"buyer": {Reads: 10, Stale: 1, Late: 2, Failed: 4, Latency: Latency{P99: 9.25}}},
	}
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"50 in 2.0 s, 25/s", "read buyer", "1 stale, 2 late, 4 failed", "p99 9.25", "3 timeout", "/v1/orders/1: gone"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// What a writer knows of a seller's sums, and what those may say.
func TestWhatTheSumsMaySay(t *testing.T) {
	shown := func(orders, pending, paid, cancelled int64) shownSums {
		var s shownSums
		text := fmt.Sprintf(`{"orders":%d,"by_status":{"pending_payment":%d,"paid":%d,"cancelled":%d}}`, orders, pending, paid, cancelled)
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	mine := sales{placed: 6, paid: 2, cancelled: 1}
	unsure := sales{placed: 6, paid: 2, cancelled: 1, unknown: 1}
	for name, c := range map[string]struct {
		mine  sales
		shown shownSums
		exact bool
		least bool
	}{
		"all of it":          {mine, shown(6, 3, 2, 1), true, true},
		"one order less":     {mine, shown(5, 2, 2, 1), false, false},
		"paid too early":     {mine, shown(6, 2, 3, 1), false, true},
		"not paid yet":       {mine, shown(6, 4, 1, 1), false, false},
		"others have more":   {mine, shown(9, 3, 3, 3), false, true},
		"an unknown one":     {unsure, shown(7, 4, 2, 1), true, true},
		"an unknown paid":    {unsure, shown(6, 2, 3, 1), true, true},
		"two, and one known": {unsure, shown(8, 5, 2, 1), false, true},
	} {
		if got := c.mine.exactly(c.shown); (got == "") != c.exact {
			t.Errorf("%s: exactly: %q", name, got)
		}
		if got := c.mine.atLeast(c.shown); (got == "") != c.least {
			t.Errorf("%s: at least: %q", name, got)
		}
	}
}

// A traffic is people who write and who read at a steady rate, and who remember
// what they were shown.
type traffic struct {
	api     *client
	shop    *checkoutBench
	stop    context.CancelFunc
	working sync.WaitGroup
	begun   time.Time

	mu       sync.Mutex // guards the rest
	orders   []*trafficOrder
	unpaid   []*trafficOrder
	writes   int
	reads    map[string]*hdrhistogram.Histogram
	wrote    *hdrhistogram.Histogram
	late     int
	failures []string
}

type trafficOrder struct {
	drawnID
	seller, token string
	seen          map[string]event.Revision // by kind of query
}

const (
	trafficWriters = 32
	trafficReaders = 16
	trafficBuyers  = 400
)

// startTraffic begins with so many writes, and so many reads, a second.
func startTraffic(t *testing.T, s *server, perSecond float64) *traffic {
	t.Helper()
	api, err := newClient(s.url, trafficWriters+trafficReaders)
	if err != nil {
		t.Fatal(err)
	}
	x := &traffic{
		api: api, begun: time.Now(), reads: map[string]*hdrhistogram.Histogram{}, wrote: newHistogram(),
		shop: newCheckoutBench(benchOptions{concurrency: 8, skus: 100, buyers: trafficBuyers, stock: maxStock}, api, io.Discard),
	}
	if err = x.shop.setUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = x.shop.each(t.Context(), trafficBuyers, func(ctx context.Context, i int) error {
		return x.shop.fund(ctx, x.shop.buyers[i])
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	x.stop, x.begun = cancel, time.Now()
	writes, reads := rate.NewLimiter(rate.Limit(perSecond), 10), rate.NewLimiter(rate.Limit(perSecond), 10)
	for range trafficWriters {
		x.working.Go(func() { x.repeat(ctx, writes, x.write) })
	}
	for range trafficReaders {
		x.working.Go(func() { x.repeat(ctx, reads, x.read) })
	}
	t.Cleanup(func() { x.end(); api.close() })
	return x
}

func (x *traffic) repeat(ctx context.Context, pace *rate.Limiter, do func(context.Context) error) {
	for pace.Wait(ctx) == nil {
		if err := do(ctx); err != nil && ctx.Err() == nil {
			x.mu.Lock()
			x.failures = append(x.failures, fmt.Sprintf("after %s: %v", time.Since(x.begun).Round(time.Millisecond), err))
			x.mu.Unlock()
		}
	}
}

// write places an order or, one time in three, pays for one.
func (x *traffic) write(ctx context.Context) error {
	x.mu.Lock()
	var due *trafficOrder
	if n := len(x.unpaid); n > 0 && x.writes%3 == 2 {
		due, x.unpaid = x.unpaid[0], x.unpaid[1:]
	}
	x.writes++
	x.mu.Unlock()
	start := time.Now()
	if due != nil {
		out, err := x.api.do(ctx, request{method: http.MethodPost, path: pathOf("/v1/checkouts/", due.id, "/pay"), key: "p" + due.id}, nil)
		if err != nil {
			return fmt.Errorf("pay: %w", err)
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		due.token = out.token
		recordLatency(x.wrote, time.Since(start))
		return nil
	}
	id, err := x.shop.draw(ctx, x.shop.buyers[rand.IntN(trafficBuyers)])
	if err != nil {
		return err
	}
	goods := x.shop.goods[rand.IntN(len(x.shop.goods))]
	start = time.Now()
	out, err := x.api.do(ctx, request{method: http.MethodPost, path: "/v1/checkouts", key: id.id, body: json.RawMessage(cart(id, goods.sku))}, nil)
	if err != nil {
		return fmt.Errorf("check out: %w", err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	recordLatency(x.wrote, time.Since(start))
	o := &trafficOrder{drawnID: id, seller: goods.seller, token: out.token, seen: map[string]event.Revision{}}
	x.orders, x.unpaid = append(x.orders, o), append(x.unpaid, o)
	return nil
}

// read asks for an order, one of the newest as a rule, in one of three ways. It
// may never be older than its token, nor than it was shown before.
func (x *traffic) read(ctx context.Context) error {
	x.mu.Lock()
	if len(x.orders) == 0 {
		x.mu.Unlock()
		return nil
	}
	n := len(x.orders)
	if rand.IntN(4) > 0 {
		n = min(n, 100)
	}
	o := x.orders[len(x.orders)-1-rand.IntN(n)]
	kinds := map[string]string{
		"order": pathOf("/v1/orders/", o.id, ""), "buyer": pathOf("/v1/buyers/", o.buyer, "/orders?limit=100"),
		"seller": pathOf("/v1/sellers/", o.seller, "/orders?q="+o.id),
	}
	kind := slices.Sorted(maps.Keys(kinds))[rand.IntN(len(kinds))]
	told, seen := o.token, o.seen[kind]
	x.mu.Unlock()
	at, err := token.Decode(told)
	if err != nil {
		return err
	}
	want := max(seen, at["order-"+o.id])
	start := time.Now()
	got, err := x.shown(ctx, kinds[kind], told)
	if err != nil {
		return fmt.Errorf("read %s: %w", kinds[kind], err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.reads[kind] == nil {
		x.reads[kind] = newHistogram()
	}
	recordLatency(x.reads[kind], time.Since(start))
	for _, found := range append(got.Items, got.shownOrder) {
		if found.ID == o.id {
			o.seen[kind] = max(o.seen[kind], found.Revision)
			if found.Revision < want {
				return fmt.Errorf("%s shows order %s at revision %d, and it was at %d before", kind, o.id, found.Revision, want)
			}
			return nil
		}
	}
	return fmt.Errorf("%s does not show order %s, which was at revision %d", kinds[kind], o.id, want)
}

// shown reads until the views are in time: on a machine that is busy enough they
// may not be, and say so.
func (x *traffic) shown(ctx context.Context, path, told string) (shown shownAnswer, err error) {
	for range 20 {
		if _, err = x.api.once(ctx, request{method: http.MethodGet, path: path, token: told}, nil, &shown); slugOf(err) != "not_caught_up" {
			return shown, err
		}
		x.mu.Lock()
		x.late++
		x.mu.Unlock()
	}
	return shown, err
}

func (x *traffic) end() {
	x.stop()
	x.working.Wait()
}

// wrong ends the traffic, tells of its figures and gives what went wrong.
func (x *traffic) wrong(t *testing.T) []string {
	t.Helper()
	x.end()
	took := time.Since(x.begun).Seconds()
	total := int64(0)
	for _, kind := range slices.Sorted(maps.Keys(x.reads)) {
		total += x.reads[kind].TotalCount()
		t.Logf("reads of %-6s %s", kind, latencyOf(x.reads[kind]))
	}
	t.Logf("writes          %s", latencyOf(x.wrote))
	t.Logf("%.0f writes/s and %.0f reads/s for %.1f s, %d asked again", float64(x.wrote.TotalCount())/took, float64(total)/took, took, x.late)
	return x.failures
}

// generations gives the numbers of a view's.
func generations(t *testing.T, data, view string) generationNews {
	t.Helper()
	out, code := tool(t, "replay", "--view", view, "--generations", "--json", "--data", data)
	var n news
	if err := json.Unmarshal([]byte(out), &n); err != nil || code != 0 || n.Lineage == nil {
		t.Fatalf("generations of %s: exit %d: %v: %s", view, code, err, out)
	}
	return *n.Lineage
}

// told reads the JSON lines of a command.
func told(t *testing.T, out string) []news {
	t.Helper()
	var all []news
	for line := range strings.Lines(out) {
		var n news
		if err := json.Unmarshal([]byte(line), &n); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, n)
	}
	return all
}

// progressOf gives the first and the last progress of a replay's lines.
func progressOf(t *testing.T, out string) (first, last progressNews) {
	t.Helper()
	found := false
	for _, n := range told(t, out) {
		if n.Progress == nil {
			continue
		}
		if last = *n.Progress; !found {
			first, found = last, true
		}
	}
	if !found {
		t.Fatalf("no progress in %s", out)
	}
	return first, last
}

func (s *server) status() statusNews {
	s.tb.Helper()
	var status statusNews
	err := askOwner(s.tb.Context(), config{Data: s.data}, job{Do: "status"}, func(n news) error { status = *n.Status; return nil })
	if err != nil {
		s.tb.Fatal(err)
	}
	return status
}

// quiet waits until the processes and the views have done all there is.
func (s *server) quiet() statusNews {
	s.tb.Helper()
	var was statusNews
	same := 0
	for deadline := time.Now().Add(4 * viewPatience); same < 5; time.Sleep(50 * time.Millisecond) {
		now := s.status()
		if now.Head != was.Head || now.Reactions != was.Reactions || now.BusLag > 0 {
			was, same = now, 0
		} else {
			same++
		}
		if time.Now().After(deadline) {
			s.tb.Fatalf("it never came to rest: %+v", now)
		}
	}
	return was
}

func TestAViewIsRebuiltUnderLoad(t *testing.T) {
	s := serve(t, t.TempDir())
	before, pace := 2000, 500.0
	if realServers || raced() {
		before, pace = 300, 50 // a replay ends only if it is faster than the writers
	}
	before, pace = soaked(before, 100_000), soaked(pace, 500)
	checkouts(t, s, before)
	x := startTraffic(t, s, pace)
	written := func() int { x.mu.Lock(); defer x.mu.Unlock(); return x.writes }
	eventually(t, "people write", func() bool { return written() > int(pace) })
	live := generations(t, s.data, "orders").Live
	for round := range soaked(1, 20) {
		for _, step := range []struct {
			how      string
			switches bool
		}{
			{"--view all", true},
			{"--view orders --no-switch", false},
			{"--view orders", true},
			{"--view orders --rollback", true},
			{"--view buyers --dry-run", false},
			{slowly, true},
		} {
			before, begun := written(), time.Now()
			first, last := s.replay(t, step.how)
			t.Logf("replay %s: %d events in %s beside %d writes, until %s", step.how, last.Events,
				time.Since(begun).Round(time.Millisecond), written()-before, time.Since(x.begun).Round(time.Millisecond))
			now := generations(t, s.data, "orders")
			if (now.Live != live) != step.switches {
				t.Errorf("round %d, replay %s: generation %d was live, now %d is", round, step.how, live, now.Live)
			}
			if step.how == "--view orders" && first.Resumed == 0 {
				t.Errorf("what was built and not switched to was begun anew: %+v", first)
			}
			live = now.Live
			goOn := written()
			eventually(t, "people go on with the new generation", func() bool { return written() > goOn+int(pace)/5 })
		}
	}
	if wrong := x.wrong(t); len(wrong) > 0 {
		t.Errorf("%d requests went wrong: %s", len(wrong), strings.Join(wrong[:min(30, len(wrong))], "\n"))
	}
	if out, code := tool(t, "verify", "--data", s.data); code != 0 {
		t.Errorf("verify: exit %d: %s", code, out)
	}
	if status := s.status(); status.Failures > 0 {
		t.Errorf("reactions failed: %+v", status)
	}
}

// slowly is a replay that writes down all the time how far it is, so that more
// happens meanwhile.
const slowly = "--view orders, slowly"

// replay runs one to its end, by the tool or, slowly, by the server.
func (s *server) replay(t *testing.T, how string) (first, last progressNews) {
	t.Helper()
	if how != slowly {
		out, code := tool(t, append([]string{"replay", "--json", "--data", s.data}, strings.Fields(how)...)...)
		if code != 0 {
			t.Fatalf("replay %s: exit %d: %s", how, code, out)
		}
		return progressOf(t, out)
	}
	slow := job{Do: "replay", Views: []string{"orders"}, Workers: 2, Keep: 1, MarkEvery: 20 * time.Millisecond}
	if realServers {
		slow.MarkEvery = 200 * time.Millisecond // one takes long enough
	}
	err := askOwner(t.Context(), config{Data: s.data}, slow, func(n news) error {
		last = *n.Progress
		return nil
	})
	if err != nil {
		t.Fatalf("replay %s: %v", how, err)
	}
	return last, last
}

// A replay is of views alone: what the processes would do at such events they do
// not do again.
func TestAReplayRepeatsNoEffect(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir())
	s.offer("a", "seller-1", 500, 100)
	s.fund(100_000)
	for range 10 {
		s.bought("a")
	}
	before := s.quiet()
	if before.Reactions == 0 {
		t.Fatalf("the processes did nothing: %+v", before)
	}
	log := func() string {
		out, _ := tool(t, "events", "--data", s.data, "order", "inventory", "account", "offer")
		return out
	}
	written := log()
	for _, how := range []string{"all --dry-run", "all --workers 2", "all --rollback", "orders --no-switch", "orders", "all --buyer buyer-1", "all --from 2026-01-01"} {
		if out, code := tool(t, append([]string{"replay", "--data", s.data, "--view"}, strings.Fields(how)...)...); code != 0 {
			t.Errorf("replay --view %s: exit %d: %s", how, code, out)
		}
	}
	after := s.quiet()
	if after.Reactions != before.Reactions || after.Failures != before.Failures || log() != written {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// checkouts places so many orders, each of one event.
func checkouts(t *testing.T, s *server, n int) {
	t.Helper()
	r, err := startBench(t, s.url, "--count", strconv.Itoa(n), "--skus", "50")
	if err != nil || r.Count != int64(n) {
		t.Fatalf("%v: %+v", err, r)
	}
}

// goesOn finishes a replay that was killed. Where processes agree by a lock, the
// dead one's has to run out.
func goesOn(t *testing.T, data string) (first, last progressNews) {
	t.Helper()
	var out string
	code := exitFailed
	for begun := time.Now(); code != 0 && (code == exitFailed && realServers && time.Since(begun) < viewPatience || out == ""); {
		out, code = tool(t, "replay", "--view", "orders", "--json", "--workers", "1", "--data", data)
		out += "\n"
	}
	if code != 0 {
		t.Fatalf("replay: exit %d: %s", code, out)
	}
	return progressOf(t, strings.TrimSuffix(out, "\n"))
}

// liveOrders appends the lives of orders to the log of a folder that nobody owns.
func liveOrders(t *testing.T, data string, from, to int) {
	t.Helper()
	cfg, err := readConfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Data = data
	s, err := openSystem(t.Context(), cfg, needs{log: true})
	if err != nil {
		t.Fatal(err)
	}
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(fillAtOnce)
	for n := from; n < to; n++ {
		g.Go(func() error { return new(replayBench).append(ctx, s, n, 0, lifeEvents) })
	}
	if err := errors.Join(g.Wait(), s.close(context.WithoutCancel(t.Context()))); err != nil {
		t.Fatal(err)
	}
}

func TestAReplayIsGoneOnWithAfterAKill(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	sweep(t, data)
	liveOrders(t, data, 0, 100)
	// By the tool, on a folder that nobody owns: begun, left, gone on with, killed.
	out, code := tool(t, "replay", "--view", "orders", "--no-switch", "--json", "--data", data)
	if code != 0 {
		t.Fatalf("replay --no-switch: exit %d: %s", code, out)
	}
	_, left := progressOf(t, out)
	liveOrders(t, data, 100, soaked(800, 50_000))
	cmd := program(t.Context(), "replay", "--view", "orders", "--json", "--workers", "1", "--data", data)
	lines, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(lines).ReadString('\n')
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil {
		t.Fatal(err)
	}
	killed, _ := progressOf(t, line)
	if killed.Resumed != left.Position || killed.Position >= killed.Head {
		t.Errorf("left at %d, killed at %+v", left.Position, killed)
	}
	first, last := goesOn(t, data)
	if first.Resumed < left.Position || last.Position <= killed.Position {
		t.Errorf("left at %d, killed at %+v, gone on with at %d up to %d", left.Position, killed, first.Resumed, last.Position)
	}
	t.Logf("the tool: left at %d, killed at %d, gone on with at %d up to %d", left.Position, killed.Position, first.Resumed, last.Position)
	if out, code = tool(t, "verify", "--data", data); code != 0 {
		t.Errorf("verify: exit %d: %s", code, out)
	}
	ownerKilled(t, data)
	if out, code = tool(t, "verify", "--data", data); code != 0 {
		t.Errorf("verify: exit %d: %s", code, out)
	}
}

// ownerKilled kills the owner of the folder as it rebuilds, which writes down every
// moment how far it is, until it is in the middle of it.
func ownerKilled(t *testing.T, data string) {
	t.Helper()
	after := 50 * time.Millisecond
	if realServers {
		after = time.Second
	}
	for ; after < 10*time.Second; after += after / 2 {
		s := startPart(t, "project", data) // nobody is to act on orders that were never placed
		asked := make(chan error, 1)
		go func() {
			replay := job{Do: "replay", Views: []string{"orders"}, Workers: 1, Keep: 1, MarkEvery: time.Millisecond}
			asked <- askOwner(t.Context(), config{Data: data}, replay, func(news) error { return nil })
		}()
		var done error
		select {
		case done = <-asked:
			t.Logf("done within %s: %v", after, done)
			s.kill()
		case <-time.After(after):
			s.kill()
			if done = <-asked; done == nil {
				t.Log("done as it was killed")
			}
		}
		first, last := goesOn(t, data)
		if first.Resumed > 0 && done != nil {
			if first.Resumed >= last.Head {
				t.Errorf("it was done when it was killed: %+v", first)
			}
			t.Logf("the owner: killed after %s at %d or later, gone on with up to %d", after, first.Resumed, last.Position)
			return
		}
	}
	t.Error("no replay was killed in the middle")
}

// poison appends an event that cannot have happened to an order.
func poison(ctx context.Context, store *esdbstore.Store, id string, after event.Revision) error {
	return store.Append(ctx, "order-"+id, after, []event.Recorded{{
		ID: fmt.Sprintf("0e2a1a34-6c0d-4c41-9d43-%012d", after), Name: "order.completed", Version: 1, Data: []byte(`{"by":"nobody"}`),
	}})
}

func (s *server) log() *esdbstore.Store {
	s.tb.Helper()
	socket, err := ownerSocket(s.data, "node.sock")
	if err != nil {
		s.tb.Fatal(err)
	}
	store, err := esdbstore.Open(s.tb.Context(), "unix://"+socket, nil)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(func() { _ = store.Close() })
	return store
}

func TestOnePoisonOrderDelaysNobodyElse(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir())
	store := s.log()
	bad := manyAndOnePoison(t, s, store, soaked(300, 100_000))
	stream := "order-" + bad
	wait := "Cartwright-Token: " + token.Encode(map[string]event.Revision{stream: 2})
	if err := poison(t.Context(), store, bad, 2); err != nil { // what comes later waits behind it
		t.Fatal(err)
	}
	eventually(t, "both views of orders have parked it, with what waits", func() bool {
		out, code := tool(t, "park", "list", "--json", "--data", s.data)
		return code == 0 && strings.Count(out, `"revision":2,`) == 2 && strings.Count(out, `"count":2`) == 2
	})
	parked := func(args ...string) (string, int) {
		return tool(t, append(append([]string{"park"}, args...), "--data", s.data)...)
	}

	// Whoever asks for it is told by name what is wrong.
	if a := s.ask(http.StatusInternalServerError, "GET", "/v1/orders/"+bad, nil); a.slug() != "history_corrupt" {
		t.Errorf("by id: %s", a.raw)
	}
	for _, path := range []string{"/v1/buyers/buyer-1/orders", "/v1/sellers/seller-1/orders", "/v1/sellers/seller-1/summary"} {
		if a := s.ask(http.StatusServiceUnavailable, "GET", path, nil, wait); a.slug() != "stream_parked" {
			t.Errorf("%s: %s", path, a.raw)
		}
		s.ask(http.StatusOK, "GET", path, nil)
	}
	if out, code := parked("show", "--stream", stream); code != 0 || strings.Count(out, `"by": "nobody"`) != 2 {
		t.Errorf("park show: exit %d: %s", code, out)
	}
	if out, code := parked("redrive"); code != 0 || strings.Count(out, stream+" stands at revision 2") != 2 {
		t.Errorf("park redrive of what is still wrong: exit %d: %s", code, out)
	}
	s.differs(2, `"kind":"parked"`)
	if out, code := tool(t, "replay", "--view", "all", "--data", s.data); code != exitFailed || !strings.Contains(out, stream+" makes no sense at revision 2") {
		t.Errorf("replay: exit %d: %s", code, out)
	}

	// An operator gives it up.
	for _, args := range [][]string{
		{"drop"},
		{"drop", "--stream", stream},
		{"drop", "--stream", stream, "--reason", " "},
		{"show"},
		{"drop", "--reason", "x"},
		{"list", "--stream", stream},
		{"redrive", "--reason", "x"},
		{},
	} {
		if _, code := parked(args...); code != exitUsage {
			t.Errorf("park %v: exit %d", args, code)
		}
	}
	if _, code := parked("drop", "--stream", "order-nobody's", "--reason", "x"); code != exitFailed {
		t.Errorf("park drop of what is not parked: exit %d", code)
	}
	s.differs(2, `"kind":"parked"`)
	if out, code := parked("drop", "--stream", stream, "--reason", "typed in by hand", "--by", "ops"); code != 0 || strings.Count(out, "given up by ops") != 2 {
		t.Errorf("park drop: exit %d: %s", code, out)
	}
	given := func(when string) {
		t.Helper()
		if out, code := tool(t, "verify", "--data", s.data); code != 0 || strings.Count(out, "1 given up") != 2 {
			t.Errorf("%s: verify: exit %d: %s", when, code, out)
		}
		if out, code := parked("list"); code != 0 || strings.Count(out, "typed in by hand") != 2 || strings.Count(out, "2 events wait") != 2 {
			t.Errorf("%s: park list: exit %d: %s", when, code, out)
		}
		if a := s.ask(http.StatusServiceUnavailable, "GET", "/v1/buyers/buyer-1/orders", nil, wait); a.slug() != "stream_parked" || !strings.Contains(a.raw, "given it up") {
			t.Errorf("%s: %s", when, a.raw)
		}
	}
	given("dropped")
	if out, code := tool(t, "replay", "--view", "all", "--data", s.data); code != 0 {
		t.Errorf("replay of what was given up: exit %d: %s", code, out)
	}
	given("replayed")
	if out, code := parked("redrive"); code != 0 {
		t.Errorf("park redrive: exit %d: %s", code, out)
	}
	given("redriven with all")
	if a := s.ask(http.StatusInternalServerError, "GET", "/v1/orders/"+bad, nil); a.slug() != "history_corrupt" {
		t.Errorf("by id: %s", a.raw)
	}
}

// differs expects verify to find so many differences, each of which says so.
func (s *server) differs(n int, what string) {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(s.tb.Context(), 2*time.Minute)
	defer cancel()
	out, code := finish(s.tb, program(ctx, "verify", "--json", "--data", s.data))
	if code != exitDifferences || strings.Count(out, `"difference"`) != n || strings.Count(out, what) != n {
		s.tb.Errorf("verify: exit %d, want %d times %s: %s", code, n, what, out)
	}
}

// manyAndOnePoison places n orders of many buyers, one of which is poisoned in
// the middle of them, and sees each other one listed. It gives the poisoned one.
func manyAndOnePoison(t *testing.T, s *server, store *esdbstore.Store, n int) (bad string) {
	t.Helper()
	s.offer("a", "seller-1", 500, 1_000_000)
	api, err := newClient(s.url, 16)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.close)
	lag := map[bool]*hdrhistogram.Histogram{false: newHistogram(), true: newHistogram()} // after the poison
	var mu sync.Mutex                                                                    // guards bad and lag
	shop := &checkoutBench{benchOptions: benchOptions{concurrency: 8}, api: api}
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(8)
	for i := range n {
		g.Go(func() error {
			buyer := fmt.Sprintf("buyer-%d", i)
			if i == n/2 {
				buyer = "buyer-1" // who has another order too
			}
			id, err := shop.draw(ctx, buyer)
			if err != nil {
				return err
			}
			out, err := api.do(ctx, request{method: http.MethodPost, path: "/v1/checkouts", key: id.id, body: json.RawMessage(cart(id, "a"))}, nil)
			if err != nil {
				return err
			}
			if i == n/2 {
				mu.Lock()
				defer mu.Unlock()
				bad = id.id
				return poison(ctx, store, bad, 1)
			}
			mu.Lock()
			after := bad != ""
			mu.Unlock()
			start := time.Now()
			for _, path := range []string{pathOf("/v1/buyers/", buyer, "/orders"), "/v1/sellers/seller-1/orders?q=" + id.id} {
				var shown shownAnswer
				if _, err = api.do(ctx, request{method: http.MethodGet, path: path, token: out.token}, &shown); err != nil {
					return err
				}
				if wrong := (shownOrder{ID: id.id, Status: "pending_payment", Revision: 1}).missing(shown.Items); wrong != "" {
					return fmt.Errorf("%s: %s", path, wrong)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			recordLatency(lag[after], time.Since(start))
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("in both lists before the poison: %s", latencyOf(lag[false]))
	t.Logf("in both lists behind the poison: %s", latencyOf(lag[true]))
	if lag[true].TotalCount() == 0 {
		t.Error("nobody came after the poison")
	}
	return bad
}

func TestALimitedReplayRepairsWhatItIsLimitedTo(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := serve(t, data, "--allow-backdating", "--pay-within", "200000h")
	days := []string{"2024-03-14", "2024-03-15", "2024-03-16"}
	// An order a day, each of a buyer and a seller of two.
	ids := make([]string, 3)
	for i, day := range days {
		seller, buyer := fmt.Sprintf("seller-%d", i/2), fmt.Sprintf("buyer-%d", (i+1)/2)
		sku := fmt.Sprintf("sku-%d", i)
		at := "Cartwright-At: " + day + "T12:00:00Z"
		s.ask(http.StatusCreated, "PUT", "/v1/skus/"+sku, obj{"seller_id": seller, "title": "Title of " + sku, "unit_price": brl(100)}, "Cartwright-At: 2024-03-01T00:00:00Z")
		s.ask(http.StatusCreated, "POST", "/v1/inventory/"+sku+"/receipts", obj{"quantity": 10}, key("r"+sku), "Cartwright-At: 2024-03-01T00:00:00Z")
		ids[i] = s.orderID(buyer)
		s.ask(http.StatusCreated, "POST", "/v1/checkouts", checkoutOf(ids[i], buyer, sku), key("c"+ids[i]), at)
	}
	s.quiet()
	s.stop()
	replay := func(args ...string) (string, int) {
		return tool(t, append([]string{"replay", "--view", "orders", "--data", data}, args...)...)
	}
	wrong := func(when string, want ...int) {
		t.Helper()
		out, code := tool(t, "verify", "--view", "orders", "--json", "--data", data)
		for i, id := range ids {
			if got := strings.Contains(out, `"order-`+id+`"`); got != slices.Contains(want, i) {
				t.Errorf("%s: order %d is wrong: %t: %s", when, i, got, out)
			}
		}
		if (code == 0) != (len(want) == 0) || code != 0 && code != exitDifferences {
			t.Errorf("%s: verify: exit %d: %s", when, code, out)
		}
	}
	wrong("at first")
	for _, c := range []struct {
		how  string
		left []int // that are not mended by it
	}{
		{"--stream order-" + ids[1], []int{0, 2}},
		{"--stream order-" + ids[0] + ",order-" + ids[2], []int{1}},
		{"--buyer buyer-1", []int{0}},
		{"--buyer buyer-1 --dry-run", []int{0, 1, 2}},
		{"--seller seller-0", []int{2}},
		{"--buyer buyer-1 --seller seller-1", []int{0, 1}},
		{"--from 2024-03-15", []int{0}},
		{"--to 2024-03-16", []int{2}},
		{"--from 2024-03-15T11:00:00Z --to 2024-03-16", []int{0, 2}},
		{"--buyer buyer-1 --from 2024-03-16", []int{0, 1}},
	} {
		for _, id := range ids {
			spoil(t, data, "order-"+id, 1)
		}
		if out, code := replay(strings.Fields(c.how)...); code != 0 {
			t.Errorf("replay %s: exit %d: %s", c.how, code, out)
		}
		wrong(c.how, c.left...)
	}
	if out, code := replay(); code != 0 {
		t.Errorf("replay of all: exit %d: %s", code, out)
	}
	wrong("replayed")
	if out, code := tool(t, "replay", "--view", "all", "--buyer", "buyer-1", "--data", data); code != 0 {
		t.Errorf("of all views those are meant that have buyers: exit %d: %s", code, out)
	}
	for _, args := range [][]string{{"--stream", "order-0598392000009123456"}, {"--stream", "account-buyer-1"}} {
		if out, code := replay(args...); code != exitFailed {
			t.Errorf("replay %v: exit %d: %s", args, code, out)
		}
	}
	if _, code := tool(t, "replay", "--view", "stock", "--seller", "seller-1", "--data", data); code != exitFailed {
		t.Errorf("a view without sellers: exit %d", code)
	}
	for _, args := range []string{
		"--from yesterday", "--to 2024-13-01", "--from 2024-03-15 --to 2024-03-15", "--buyer b --no-switch", "--seller s --anew", "--stream order-1 --rollback",
		"--workers 0", "--keep -1", "--generation 3", "--dry-run --no-switch", "--nothing", "more",
	} {
		if _, code := replay(strings.Fields(args)...); code != exitUsage {
			t.Errorf("replay %s: exit %d", args, code)
		}
	}
	for _, args := range [][]string{{"--view", "no-such"}, {}} {
		if _, code := tool(t, append([]string{"replay", "--data", data}, args...)...); code != exitUsage {
			t.Errorf("replay %v: exit %d", args, code)
		}
	}
	wrong("in the end")
}
