package metrics_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"cartwright/domain"
	"cartwright/infra/httpedge"
	"cartwright/infra/metrics"
	"cartwright/infra/problem"
	"cartwright/projections"
)

var quiet = slog.New(slog.DiscardHandler)

func open(tb testing.TB, cfg metrics.Config) *metrics.Metrics {
	tb.Helper()
	if cfg.Log == nil {
		cfg.Log = quiet
	}
	m, err := metrics.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// scrape gives what Prometheus would read.
func scrape(tb testing.TB, m *metrics.Metrics) string {
	tb.Helper()
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(tb.Context(), http.MethodGet, "/metrics", http.NoBody))
	if rec.Code != http.StatusOK {
		tb.Fatalf("got %d %s", rec.Code, rec.Body)
	}
	return rec.Body.String()
}

// has checks for whole lines.
func has(tb testing.TB, text string, lines ...string) {
	tb.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			name, _, _ := strings.Cut(line, " ")
			name, _, _ = strings.Cut(name, "{")
			tb.Errorf("there is no line %s among\n%s", line, strings.Join(about(text, name), "\n"))
		}
	}
}

func about(text, name string) (lines []string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// hasNo checks that a metric is absent.
func hasNo(tb testing.TB, text, metric string) {
	tb.Helper()
	if found := about(text, metric); found != nil {
		tb.Errorf("%s should be absent, but %q", metric, found)
	}
}

func parked(streams, waiting, dropped int) []projections.Parked {
	var all []projections.Parked
	for range streams {
		all = append(all, projections.Parked{Count: int64(waiting)})
	}
	for range dropped {
		all = append(all, projections.Parked{Count: 100, Dropped: &projections.Dropped{Reason: "a test order"}})
	}
	return all
}

// fill watches everything there is, and has everything happen once.
func fill(m *metrics.Metrics) {
	m.Parked("orders", func(context.Context) ([]projections.Parked, error) { return parked(2, 3, 1), nil })
	m.Parked("stock", func(context.Context) ([]projections.Parked, error) { return nil, nil })
	m.Projected(func() map[string]projections.Stats {
		return map[string]projections.Stats{"orders": {Applied: 10, Skipped: 4, Healed: 3, Parked: 2, Counted: 1}, "stock": {}}
	})
	m.Unread(func(context.Context) (int64, error) { return 7, nil })
	m.Head(func(context.Context) (uint64, error) { return 1000, nil })
	m.Seen(func() uint64 { return 990 })
	m.Relay(func() metrics.Relay {
		return metrics.Relay{Position: 995, Waiting: 1500 * time.Millisecond, Published: 900, Errors: 5, Standby: true}
	})
	m.Reactions(func() (done, failed, parked int64) { return 20, 6, 2 })
	m.Stuck(func(context.Context) (int, error) { return 3, nil })
	m.Lanes(func() map[string]metrics.Shape {
		return map[string]metrics.Shape{"order": {Count: 10, Sum: 40, Bounds: map[float64]uint64{1: 2, 4: 9}}}
	})
	m.Alarm("paid_twice")
	(*metrics.Metrics)(nil).Alarm("paid_twice")
	m.Tiers(func(context.Context) ([]projections.Tier, error) {
		return []projections.Tier{{Documents: 50}, {Year: 2024, Documents: 400}, {Year: 2023, Documents: 300}}, nil
	})
	m.Node(func(context.Context) (metrics.Node, error) { return aNode(), nil })
	m.Served(http.MethodGet, "/v1/orders/:order_id", 200, "", 3*time.Millisecond)
	m.Served(http.MethodGet, "/v1/orders/:order_id", 404, "unknown_order", 30*time.Second)
	m.Waited("orders", 20*time.Millisecond, "met")
	m.Waited("orders", 5*time.Second, "late")
	r := m.Replay("orders")
	r.Progress(projections.Progress{Events: 123, Streams: 1, Position: 456})
	r.Done(nil)
	m.Replay("stock").Done(errors.New("poison"))
	m.Replay("buyers")
}

func aNode() metrics.Node {
	three := metrics.Shape{Count: 3, Sum: 12, Bounds: map[float64]uint64{1: 2, 8: 3}}
	return metrics.Node{
		Writes: map[string]map[string]uint64{"append": {"accepted": 12}}, Refused: map[string]uint64{"too_large": 2}, Events: 30, Bytes: 4000,
		CommitWrites: three, CommitEvents: three, CommitSeconds: metrics.Shape{Count: 3, Sum: .25},
		Queued: 4, Oldest: 500 * time.Millisecond, Reads: map[string]uint64{"all": 5}, EventsRead: 600,
		Subscribers: map[string]uint64{"stream": 6}, Lag: 7, Disk: map[string]uint64{"wal": 80}, ReadAmplification: 2, WriteAmplification: 3.5,
		Compacting: 1, CompactionDebt: 900, FailedCompactions: 1, Scavenged: 8, ScavengedAt: time.Unix(1_700_000_000, 0), Marks: 3, BackedUpAt: time.Unix(1_600_000_000, 0),
		Links: map[string]uint64{"$ce-": 40}, Full: true, Groups: []metrics.Group{{Stream: "$all", Name: "mail", Failed: true, Consumers: 2, InFlight: 10, Waiting: 20, Parked: 3, Behind: 50}},
	}
}

func TestValuesAreWhatTheyStandFor(t *testing.T) {
	m := open(t, metrics.Config{Version: "1.2", Revision: "abc"})
	fill(m)
	text := scrape(t, m)
	has(t, text,
		`cartwright_view_parked_streams{view="orders"} 2`,
		`cartwright_view_parked_streams{view="stock"} 0`,
		`cartwright_view_dropped_streams{view="orders"} 1`,
		`cartwright_view_parked_events{view="orders"} 6`,
		`cartwright_projector_events_total{result="applied",view="orders"} 10`,
		`cartwright_projector_events_total{result="skipped",view="orders"} 4`,
		`cartwright_projector_events_total{result="counted",view="orders"} 1`,
		`cartwright_projector_events_total{result="applied",view="stock"} 0`,
		`cartwright_projector_gaps_healed_total{view="orders"} 3`,
		`cartwright_projector_streams_parked_total{view="orders"} 2`,
		`cartwright_views_unread_events 7`,
		`cartwright_log_head_position 1000`,
		`cartwright_views_seen_position 990`,
		`cartwright_relay_position 995`,
		`cartwright_relay_oldest_waiting_age_seconds 1.5`,
		`cartwright_relay_published_events_total 900`,
		`cartwright_relay_errors_total 5`,
		`cartwright_relay_standby 1`,
		`cartwright_reactions_total{result="done"} 20`,
		`cartwright_reactions_total{result="failed"} 6`,
		`cartwright_reactions_total{result="parked"} 2`,
		`cartwright_process_parked_streams 3`,
		`cartwright_lane_commands_bucket{category="order",le="4"} 9`,
		`cartwright_lane_commands_sum{category="order"} 40`,
		`cartwright_lane_commands_count{category="order"} 10`,
		`cartwright_alarms_total{kind="paid_twice"} 1`,
		`cartwright_archive_documents{tier="recent"} 50`,
		`cartwright_archive_documents{tier="2024"} 400`,
		`cartwright_archive_documents{tier="2023"} 300`,
		`cartwright_http_requests_total{code="2xx",method="GET",route="/v1/orders/:order_id"} 1`,
		`cartwright_http_requests_total{code="4xx",method="GET",route="/v1/orders/:order_id"} 1`,
		`cartwright_http_request_duration_seconds_bucket{method="GET",route="/v1/orders/:order_id",le="0.0025"} 0`,
		`cartwright_http_request_duration_seconds_bucket{method="GET",route="/v1/orders/:order_id",le="0.005"} 1`,
		`cartwright_http_request_duration_seconds_bucket{method="GET",route="/v1/orders/:order_id",le="10"} 1`,
		`cartwright_http_request_duration_seconds_count{method="GET",route="/v1/orders/:order_id"} 2`,
		`cartwright_http_request_duration_seconds_sum{method="GET",route="/v1/orders/:order_id"} 30.003`,
		`cartwright_http_problems_total{slug="unknown_order"} 1`,
		`cartwright_token_wait_seconds_bucket{outcome="met",view="orders",le="0.025"} 1`,
		`cartwright_token_wait_seconds_sum{outcome="late",view="orders"} 5`,
		`cartwright_replay_events{view="orders"} 123`,
		`cartwright_replay_position{view="orders"} 456`,
		`cartwright_replay_running{view="orders"} 0`,
		`cartwright_replay_running{view="buyers"} 1`,
		`cartwright_replay_events{view="buyers"} 0`,
		`cartwright_replays_total{result="done",view="orders"} 1`,
		`cartwright_replays_total{result="failed",view="stock"} 1`,
		`cartwright_collect_errors_total{source="parked:orders"} 0`,
		`cartwright_node_writes_total{kind="append",result="accepted"} 12`,
		`cartwright_node_refused_total{reason="too_large"} 2`,
		`cartwright_node_events_total 30`,
		`cartwright_node_written_bytes_total 4000`,
		`cartwright_node_commit_writes_bucket{le="1"} 2`,
		`cartwright_node_commit_writes_bucket{le="8"} 3`,
		`cartwright_node_commit_writes_sum 12`,
		`cartwright_node_commit_events_count 3`,
		`cartwright_node_commit_seconds_sum 0.25`,
		`cartwright_node_queued_writes 4`,
		`cartwright_node_queued_oldest_age_seconds 0.5`,
		`cartwright_node_reads_total{of="all"} 5`,
		`cartwright_node_read_events_total 600`,
		`cartwright_node_subscribers{of="stream"} 6`,
		`cartwright_node_subscriber_lag_events 7`,
		`cartwright_node_disk_bytes{kind="wal"} 80`,
		`cartwright_node_read_amplification 2`,
		`cartwright_node_write_amplification_ratio 3.5`,
		`cartwright_node_compactions_running 1`,
		`cartwright_node_compaction_debt_bytes 900`,
		`cartwright_node_compaction_failures_total 1`,
		`cartwright_node_scavenged_events_total 8`,
		`cartwright_node_scavenge_timestamp_seconds 1.7e+09`,
		`cartwright_node_scavenge_marks 3`,
		`cartwright_node_full 1`,
		`cartwright_node_links_behind_events{streams="$ce-"} 40`,
		`cartwright_node_group_failed{group="mail",stream="$all"} 1`,
		`cartwright_node_group_consumers{group="mail",stream="$all"} 2`,
		`cartwright_node_group_events{group="mail",state="in_flight",stream="$all"} 10`,
		`cartwright_node_group_events{group="mail",state="waiting",stream="$all"} 20`,
		`cartwright_node_group_parked_events{group="mail",stream="$all"} 3`,
		`cartwright_node_group_behind_events{group="mail",stream="$all"} 50`,
		`cartwright_node_backup_timestamp_seconds 1.6e+09`,
	)
	if build := about(text, "cartwright_build_info"); len(build) != 1 || !regexp.MustCompile(`goversion="go1.*",revision="abc",version="1\.2"} 1$`).MatchString(build[0]) {
		t.Errorf("got %q", build)
	}
	for _, of := range []string{"go_goroutines ", "process_open_fds "} {
		if about(text, of) == nil {
			t.Errorf("there is no %s", of)
		}
	}
}

// What is not watched here is absent, and not 0: another process may have it.
func TestWhatIsNotWatchedIsAbsent(t *testing.T) {
	text := scrape(t, open(t, metrics.Config{}))
	var names []string
	for _, line := range about(text, "# TYPE cartwright_") {
		names = append(names, strings.Fields(line)[2])
	}
	if !slices.Equal(names, []string{"cartwright_build_info"}) {
		t.Errorf("got %q", names)
	}
}

// lint gives what Prometheus' own linter has against our metrics, and how many there are.
func lint(t *testing.T, text string) (faults []promlint.Problem, families int) {
	t.Helper()
	var ours strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, "cartwright_") {
			ours.WriteString(line)
		}
	}
	faults, err := promlint.New(strings.NewReader(ours.String())).Lint()
	if err != nil {
		t.Fatal(err)
	}
	return faults, strings.Count(ours.String(), "# TYPE ")
}

func TestNamesAreAsPrometheusWantsThem(t *testing.T) {
	m := open(t, metrics.Config{})
	fill(m)
	faults, families := lint(t, scrape(t, m))
	for _, fault := range faults {
		t.Errorf("%s: %s", fault.Metric, fault.Text)
	}
	if families != 59 {
		t.Errorf("%d metrics were looked at; a new one belongs in fill and in the README", families)
	}
	if faults, _ = lint(t, "# TYPE cartwright_wait_milliseconds counter\ncartwright_wait_milliseconds 1\n"); len(faults) == 0 {
		t.Error("the linter is blind")
	}
}

func TestAnEngineThatHangsHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := open(t, metrics.Config{Patience: time.Second})
		release := make(chan struct{})
		m.Parked("orders", func(context.Context) ([]projections.Parked, error) {
			<-release // it does not even listen to its context
			return parked(2, 1, 0), nil
		})
		m.Tiers(func(ctx context.Context) ([]projections.Tier, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		m.Unread(func(context.Context) (int64, error) {
			<-release
			return 1, nil
		})
		m.Projected(func() map[string]projections.Stats {
			<-release
			return nil
		})
		m.Head(func(context.Context) (uint64, error) { return 42, nil })
		for n := 1; n <= 3; n++ {
			begun := time.Now()
			text := scrape(t, m)
			if took := time.Since(begun); took != time.Second {
				t.Errorf("scrape %d took %s", n, took)
			}
			has(t, text, `cartwright_log_head_position 42`,
				fmt.Sprintf(`cartwright_collect_errors_total{source="parked:orders"} %d`, n),
				fmt.Sprintf(`cartwright_collect_errors_total{source="archive"} %d`, n),
				`cartwright_collect_errors_total{source="log"} 0`)
			hasNo(t, text, "cartwright_view_parked_streams")
			hasNo(t, text, "cartwright_archive_documents")
			time.Sleep(15 * time.Second)
		}
		close(release)
		synctest.Wait()
		begun := time.Now()
		has(t, scrape(t, m), `cartwright_view_parked_streams{view="orders"} 2`) // late, but here
		if took := time.Since(begun); took != time.Second {
			t.Errorf("the archive hangs still, but it took %s", took)
		}
	})
}

func TestAnAnswerOfOldIsNotShownForOneThatDoesNotCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := open(t, metrics.Config{})
		release := make(chan struct{})
		close(release)
		m.Head(func(context.Context) (uint64, error) {
			<-release
			return 1, nil
		})
		has(t, scrape(t, m), `cartwright_log_head_position 1`)
		release = make(chan struct{})
		time.Sleep(time.Minute)
		hasNo(t, scrape(t, m), "cartwright_log_head_position")
		close(release)
	})
}

func TestAnEngineThatHangsIsAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := open(t, metrics.Config{Patience: time.Second})
		release := make(chan struct{})
		var asked atomic.Int64
		m.Head(func(context.Context) (uint64, error) {
			asked.Add(1)
			<-release
			return 1, nil
		})
		var scrapes sync.WaitGroup
		for range 5 {
			scrapes.Go(func() { scrape(t, m) })
		}
		scrapes.Wait()
		time.Sleep(time.Minute)
		scrape(t, m)
		if n := asked.Load(); n != 1 {
			t.Errorf("it was asked %d times", n)
		}
		close(release)
	})
}

func TestAnAnswerIsKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := open(t, metrics.Config{Keep: 5 * time.Second})
		var heads, tiers uint64
		m.Head(func(context.Context) (uint64, error) {
			heads++
			return heads, nil
		})
		var broken error
		m.Tiers(func(context.Context) ([]projections.Tier, error) {
			tiers++
			return []projections.Tier{{Documents: int64(tiers)}}, broken
		})
		scrape(t, m)
		time.Sleep(5*time.Second - time.Nanosecond)
		has(t, scrape(t, m), `cartwright_log_head_position 1`)
		time.Sleep(time.Nanosecond)
		has(t, scrape(t, m), `cartwright_log_head_position 2`, `cartwright_archive_documents{tier="recent"} 1`)
		time.Sleep(time.Minute)
		broken = errors.New("away")
		hasNo(t, scrape(t, m), "cartwright_archive_documents") // and no longer than a while
		broken = nil
		time.Sleep(5 * time.Second)
		has(t, scrape(t, m), `cartwright_archive_documents{tier="recent"} 3`)
	})
}

func TestWhoMeasuresAMomentIsGivenNothingThatWasKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := open(t, metrics.Config{})
		var heads uint64
		m.Head(func(context.Context) (uint64, error) {
			heads++
			return heads, nil
		})
		scrape(t, m)
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody)
		req.Header.Set("Cache-Control", "no-cache")
		rec := httptest.NewRecorder()
		m.Handler().ServeHTTP(rec, req)
		has(t, rec.Body.String(), `cartwright_log_head_position 2`)
		has(t, scrape(t, m), `cartwright_log_head_position 2`) // others may have it
	})
}

func TestWhatCannotBeAskedIsAbsentAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		m := open(t, metrics.Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
		away := projections.ErrUnavailable
		watch := func(err error) {
			m.Parked("orders", func(context.Context) ([]projections.Parked, error) { return parked(1, 1, 1), err })
			m.Unread(func(context.Context) (int64, error) { return 1, err })
			m.Head(func(context.Context) (uint64, error) { return 1, err })
			m.Tiers(func(context.Context) ([]projections.Tier, error) { return []projections.Tier{{}}, err })
		}
		watch(away)
		text := scrape(t, m)
		for _, metric := range []string{"cartwright_view_", "cartwright_views_", "cartwright_log_", "cartwright_archive_"} {
			hasNo(t, text, metric)
		}
		time.Sleep(time.Minute)
		has(t, scrape(t, m), `cartwright_collect_errors_total{source="parked:orders"} 2`, `cartwright_collect_errors_total{source="bus"} 2`,
			`cartwright_collect_errors_total{source="log"} 2`, `cartwright_collect_errors_total{source="archive"} 2`)
		if got := strings.Count(log.String(), "metrics are missing"); got != 4 || !strings.Contains(log.String(), away.Error()) {
			t.Errorf("four sources are away, and the log says\n%s", &log)
		}
		watch(nil) // of the same names, in their places
		has(t, scrape(t, m), `cartwright_view_parked_streams{view="orders"} 1`, `cartwright_views_unread_events 1`,
			`cartwright_log_head_position 1`, `cartwright_archive_documents{tier="recent"} 0`, `cartwright_collect_errors_total{source="log"} 2`)
	})
}

func TestAnEngineThatIsBackIsSaidToBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		m := open(t, metrics.Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
		err := projections.ErrUnavailable
		m.Head(func(context.Context) (uint64, error) { return 1, err })
		scrape(t, m)
		if strings.Contains(log.String(), "metrics are back") {
			t.Errorf("the log says\n%s", &log)
		}
		err = nil
		time.Sleep(time.Minute)
		has(t, scrape(t, m), `cartwright_log_head_position 1`)
		time.Sleep(time.Minute)
		scrape(t, m)
		if strings.Count(log.String(), "metrics are back") != 1 || strings.Count(log.String(), "metrics are missing") != 1 {
			t.Errorf("the log says\n%s", &log)
		}
	})
}

func TestAScraperThatGoesAwayTakesNoAnswerWithHim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := open(t, metrics.Config{})
		m.Head(func(ctx context.Context) (uint64, error) { return 1, ctx.Err() })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		rec := httptest.NewRecorder()
		m.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", http.NoBody))
		has(t, rec.Body.String(), `cartwright_log_head_position 1`)
	})
}

func TestCloseWaitsForThoseWhoAreAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := open(t, metrics.Config{Patience: time.Second})
		release := make(chan struct{})
		var asked, answered int
		m.Head(func(context.Context) (uint64, error) {
			asked++
			<-release
			answered++
			return 1, nil
		})
		scrape(t, m)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := m.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "log") {
			t.Errorf("it hangs, but closing gave %v", err)
		}
		time.AfterFunc(time.Minute, func() { close(release) })
		if err := m.Close(t.Context()); err != nil || answered != 1 {
			t.Errorf("%d answers when it was closed (%v)", answered, err)
		}
		time.Sleep(time.Minute)
		m.Served(http.MethodGet, "/x", 200, "", 0)
		text := scrape(t, m)
		has(t, text, `cartwright_http_requests_total{code="2xx",method="GET",route="/x"} 1`)
		hasNo(t, text, "cartwright_log_head_position")
		if asked != 1 {
			t.Errorf("asked %d times, once after it was closed", asked)
		}
	})
}

func TestTwoProcessesDoNotMeet(t *testing.T) {
	one, two := open(t, metrics.Config{}), open(t, metrics.Config{})
	one.Served(http.MethodGet, "/x", 200, "", 0)
	two.Served(http.MethodGet, "/y", 200, "", 0)
	text := scrape(t, two)
	has(t, text, `cartwright_http_requests_total{code="2xx",method="GET",route="/y"} 1`)
	if strings.Contains(text, "/x") {
		t.Error("one's request is among the other's")
	}
}

func TestCallersMakeNoSeries(t *testing.T) {
	m := open(t, metrics.Config{})
	for i := range 100 {
		m.Served(fmt.Sprintf("M%d", i), "", 404, "route_unknown", 0)
		m.Served(http.MethodGet, "/v1/orders/:order_id", i*100, "", 0)
	}
	m.Served(http.MethodDelete, "", 405, "method_not_allowed", 0)
	m.Served(http.MethodGet, "/v1/orders/:order_id", -1, "", 0)
	text := scrape(t, m)
	has(t, text, `cartwright_http_requests_total{code="4xx",method="other",route="none"} 100`,
		`cartwright_http_requests_total{code="4xx",method="DELETE",route="none"} 1`)
	if found := about(text, "cartwright_http_requests_total{"); len(found) != 8 { // two of no route, six classes of one
		t.Errorf("got %q", found)
	}
}

func TestTheEdgeTellsOfEveryRequest(t *testing.T) {
	m := open(t, metrics.Config{})
	gin.SetMode(gin.TestMode)
	r, err := httpedge.New(httpedge.Config{Log: quiet, InFlight: 1, Observe: func(s httpedge.Served) {
		m.Served(s.Method, s.Route, s.Status, s.Slug, s.Took)
	}})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, path string) {
		r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody))
	}
	r.GET("/v1/orders/:order_id", problem.Handler(quiet, func(c *gin.Context) error {
		switch c.Param("order_id") {
		case "none":
			return domain.Refuse(domain.NotFound, "unknown_order", "There is no such order.")
		case "panic":
			panic("a bug")
		case "twice":
			ask(http.MethodGet, "/v1/orders/1") // one more than there is place for
		}
		c.Status(http.StatusOK)
		return nil
	}))
	for _, id := range []string{"1", "2", "none", "panic", "twice"} {
		ask(http.MethodGet, "/v1/orders/"+id)
	}
	ask(http.MethodPost, "/v1/orders/1")
	ask("HACK", "/wp-login.php")
	has(t, scrape(t, m),
		`cartwright_http_requests_total{code="2xx",method="GET",route="/v1/orders/:order_id"} 3`,
		`cartwright_http_requests_total{code="4xx",method="GET",route="/v1/orders/:order_id"} 1`,
		`cartwright_http_requests_total{code="5xx",method="GET",route="/v1/orders/:order_id"} 2`,
		`cartwright_http_requests_total{code="4xx",method="POST",route="none"} 1`,
		`cartwright_http_requests_total{code="4xx",method="other",route="none"} 1`,
		`cartwright_http_problems_total{slug="unknown_order"} 1`,
		`cartwright_http_problems_total{slug="internal"} 1`,
		`cartwright_http_problems_total{slug="overloaded"} 1`,
		`cartwright_http_problems_total{slug="method_not_allowed"} 1`,
		`cartwright_http_problems_total{slug="route_unknown"} 1`,
	)
}

func TestEverythingAtOnce(t *testing.T) {
	m := open(t, metrics.Config{Keep: 1})
	var asked atomic.Int64
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			route := fmt.Sprintf("/%d", i)
			for range 500 {
				m.Served(http.MethodGet, route, 200, "", time.Millisecond)
				m.Waited("orders", time.Millisecond, "met")
			}
			m.Head(func(context.Context) (uint64, error) { return uint64(asked.Add(1)), nil })
			m.Seen(func() uint64 { return 1 })
			r := m.Replay("orders")
			r.Progress(projections.Progress{Events: 1})
			r.Done(nil)
			for range 5 {
				rec := httptest.NewRecorder()
				m.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
				if rec.Code != http.StatusOK {
					t.Errorf("got %d %s", rec.Code, rec.Body)
				}
			}
		})
	}
	all.Wait()
	text := scrape(t, m)
	for i := range 4 {
		has(t, text, fmt.Sprintf(`cartwright_http_requests_total{code="2xx",method="GET",route="/%d"} 500`, i))
	}
	has(t, text, `cartwright_token_wait_seconds_count{outcome="met",view="orders"} 2000`, `cartwright_replay_running{view="orders"} 0`)
}

func TestThereAreNoMetricsWithoutALog(t *testing.T) {
	if _, err := metrics.New(metrics.Config{}); err == nil {
		t.Error("there should have been an error")
	}
}

func TestCountingARequestAllocatesNothing(t *testing.T) {
	m := open(t, metrics.Config{})
	for name, run := range map[string]func(){
		"an answer": func() { m.Served(http.MethodGet, "/v1/orders/:order_id", 200, "", time.Millisecond) },
		"a problem": func() { m.Served(http.MethodGet, "/v1/orders/:order_id", 404, "unknown_order", time.Millisecond) },
		"a wait":    func() { m.Waited("orders", time.Millisecond, "met") },
	} {
		if n := testing.AllocsPerRun(1000, run); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkServed(b *testing.B) {
	m := open(b, metrics.Config{})
	for i := range 60 { // about as many as there are
		m.Served(http.MethodGet, fmt.Sprintf("/v1/%d/:id", i), 200, "", 0)
	}
	b.Run("parallel=no", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.Served(http.MethodGet, "/v1/30/:id", 200, "", time.Millisecond)
		}
	})
	b.Run("parallel=yes", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				m.Served(http.MethodGet, "/v1/30/:id", 200, "", time.Millisecond)
			}
		})
	})
}
