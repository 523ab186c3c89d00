// Package metrics tells Prometheus how a process is: what it was asked and how
// long that took, how far the relay, the views and the replays are, what is
// parked, and how the process itself does.
//
// Handles (Served, Waited, a Replay) are called when something happens. Watched
// things (Parked, Lag, Tiers and others) are functions that are asked when
// somebody scrapes.
//
// # Why
//
// What a view has parked, or the head of the log, is known to an engine, which
// may be away just when somebody wants to know how everything is. So all engines
// are asked at once, for a bounded time, and what does not answer is absent from
// the scrape; cartwright_collect_errors_total tells whose answer it was
// (TestAnEngineThatHangsHoldsNobodyUp). Not chosen: the last value that was
// known. It looks like health, and an alert on it stays silent; absence can be
// alerted on. Answers are kept for some seconds, so that many scrapers are no
// load (TestAnAnswerIsKeptForAWhile), and an engine that hangs is asked by one at
// a time (TestAnEngineThatHangsIsAskedOnce). Who measures a moment says so by
// Cache-Control: no-cache (TestWhoMeasuresAMomentIsGivenNothingThatWasKept).
//
// The registry is our own: a library's init adds nothing to it, and two
// processes in one test don't meet (TestTwoProcessesDoNotMeet).
//
// Requests are counted by the route's pattern and by the class of their status,
// both of which are few; what a caller makes up is never a label
// (TestCallersMakeNoSeries). The edge measures every request already, those too
// that it refuses or that panic, so this is no middleware of its own: Served is
// what the edge tells. It takes some 50 ns and allocates nothing
// (TestCountingARequestAllocatesNothing, BenchmarkServed).
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config says what New shall make. Only Log is needed.
type Config struct {
	Log      *slog.Logger
	Version  string        // of this program, as people call it
	Revision string        // of its source
	Patience time.Duration // that a scrape has with engines; 2 s if 0
	Keep     time.Duration // how long an answer of an engine is good for; 5 s if 0
}

const (
	defaultPatience = 2 * time.Second
	defaultKeep     = 5 * time.Second
	scrapesAtOnce   = 8
)

// Metrics are those of one process. All methods may be called concurrently.
type Metrics struct {
	registry *prometheus.Registry
	serve    http.Handler
	descs    descs
	watched  *watched

	nodeDescs nodeDescs

	requests *prometheus.CounterVec
	took     *prometheus.HistogramVec
	problems *prometheus.CounterVec
	series   atomic.Pointer[map[request]series]

	alarms  *prometheus.CounterVec
	waits   *prometheus.HistogramVec
	replays *prometheus.CounterVec
	running *prometheus.GaugeVec
	events  *prometheus.GaugeVec
	at      *prometheus.GaugeVec
}

// buckets are for what somebody waits for, from half a millisecond up.
var buckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// New makes the metrics of a process.
func New(cfg Config) (*Metrics, error) {
	if cfg.Log == nil {
		return nil, errors.New("metrics need a log")
	}
	if cfg.Patience <= 0 {
		cfg.Patience = defaultPatience
	}
	if cfg.Keep <= 0 {
		cfg.Keep = defaultKeep
	}
	m := &Metrics{registry: prometheus.NewRegistry(), descs: newDescs(), nodeDescs: newNodeDescs()}
	m.vectors()
	errs := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cartwright_collect_errors_total", Help: "Times that a scrape had to do without what a source knows, by source.",
	}, []string{"source"})
	m.watched = &watched{log: cfg.Log, patience: cfg.Patience, keep: cfg.Keep, errs: errs}
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build(cfg),
		m.requests, m.took, m.problems, m.alarms, m.waits, m.replays, m.running, m.events, m.at, errs, m.watched,
	} {
		if err := m.registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	if written := diskWritten(selfIO); written != nil {
		if err := m.registry.Register(written); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	m.serve = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelError), ErrorHandling: promhttp.ContinueOnError,
		MaxRequestsInFlight: scrapesAtOnce,
	})
	return m, nil
}

func (m *Metrics) vectors() {
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cartwright_http_requests_total", Help: "Requests served, by method, route pattern and class of status.",
	}, []string{"method", "route", "code"})
	m.took = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "cartwright_http_request_duration_seconds", Help: "Time requests took, by method and route pattern.", Buckets: buckets,
	}, []string{"method", "route"})
	m.problems = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cartwright_http_problems_total", Help: "Requests that were answered with a problem, by its slug.",
	}, []string{"slug"})
	m.alarms = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cartwright_alarms_total", Help: "Things about money that a person has to look at, by kind; the log says which.",
	}, []string{"kind"})
	m.waits = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "cartwright_token_wait_seconds", Buckets: buckets,
		Help: "Time queries waited for what their token named, or folded an order instead, by view and outcome (met, late, parked, folded).",
	}, []string{"view", "outcome"})
	m.replays = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cartwright_replays_total", Help: "Replays that ended in this process, by view and result (done, failed).",
	}, []string{"view", "result"})
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"view"})
	}
	m.running = gauge("cartwright_replay_running", "Replays of a view that run in this process now.")
	m.events = gauge("cartwright_replay_events", "Events that the last replay of a view has stored.")
	m.at = gauge("cartwright_replay_position", "Position in the log up to which the last replay of a view has read.")
}

// build says what runs.
func build(cfg Config) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "cartwright_build_info", Help: "What runs: 1, with the version, the revision of the source and Go's version.",
		ConstLabels: prometheus.Labels{"version": cfg.Version, "revision": cfg.Revision, "goversion": runtime.Version()},
	})
	g.Set(1)
	return g
}

// Handler answers scrapes. One with Cache-Control: no-cache is given no answer
// that was kept.
func (m *Metrics) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.watched.refresh(r.Context(), r.Header.Get("Cache-Control") == "no-cache")
		m.serve.ServeHTTP(w, r)
	})
}

// Close returns when no engine is being asked any more, or with the context's
// error. Later scrapes ask none: close engines only after it.
func (m *Metrics) Close(ctx context.Context) error { return m.watched.close(ctx) }

// Waited counts a wait that a token caused; readapi tells of each.
func (m *Metrics) Waited(view string, took time.Duration, outcome string) {
	m.waits.WithLabelValues(view, outcome).Observe(took.Seconds())
}
