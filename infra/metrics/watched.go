package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// watched are the things that are looked at when somebody scrapes.
type watched struct {
	log            *slog.Logger
	patience, keep time.Duration
	errs           *prometheus.CounterVec

	mu      sync.Mutex
	sources map[string]*source
	counts  map[string]func() []prometheus.Metric
	closed  bool
}

// A source is something that takes time to answer, or may not answer at all.
type source struct {
	ask  func(context.Context) ([]prometheus.Metric, error)
	keep time.Duration // an answer; that there is none is known for watched.keep

	// Under watched.mu.
	known   []prometheus.Metric // nil where there is no answer
	good    time.Time           // until then it need not be asked
	pending chan struct{}       // closes when it has answered; nil when it is not being asked
	missed  bool                // a scrape gave the question up that is pending
	failing bool
}

// add watches a source under a name. One of the same name is watched no more.
func (w *watched) add(name string, keep time.Duration, ask func(context.Context) ([]prometheus.Metric, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sources == nil {
		w.sources = map[string]*source{}
	}
	w.sources[name] = &source{ask: ask, keep: max(keep, w.keep)}
	w.errs.WithLabelValues(name) // an increase from nothing is no increase to Prometheus
}

// count watches what is known in memory.
func (w *watched) count(name string, read func() []prometheus.Metric) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.counts == nil {
		w.counts = map[string]func() []prometheus.Metric{}
	}
	w.counts[name] = read
}

// refresh asks every source whose answer is too old, or every source, and returns
// when all have answered, or when there is no more patience.
func (w *watched) refresh(ctx context.Context, every bool) {
	asked := w.begin(ctx, every)
	patience := time.NewTimer(w.patience)
	defer patience.Stop()
	for _, one := range asked {
		select {
		case <-one.pending:
		case <-patience.C:
			patience.Reset(0) // it is at an end for the others too
			w.missed(one)
		}
	}
}

// An asked source is one whose answer a scrape waits for.
type asked struct {
	name    string
	source  *source
	pending chan struct{}
}

// begin asks what is to be asked and is not being asked already. The answer is
// for others too, so a scraper that goes away does not take it with him.
func (w *watched) begin(ctx context.Context, every bool) []asked {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	var all []asked
	for name, s := range w.sources {
		if s.pending == nil {
			if !every && time.Now().Before(s.good) {
				continue
			}
			s.pending, s.missed = make(chan struct{}), false
			go w.ask(ctx, name, s) // close waits for it
		}
		all = append(all, asked{name, s, s.pending})
	}
	return all
}

func (w *watched) ask(ctx context.Context, name string, s *source) {
	ctx, cancel := context.WithTimeout(ctx, w.patience)
	defer cancel()
	found, err := s.ask(ctx)
	w.learn(name, s, found, err)
}

// learn takes an answer in. One that comes too late for those who asked is as
// good as any for the next.
func (w *watched) learn(name string, s *source, found []prometheus.Metric, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.known, s.good = found, time.Now().Add(s.keep)
	if err != nil {
		s.known, s.good = nil, time.Now().Add(w.keep)
		if !s.missed { // it is counted then
			w.errs.WithLabelValues(name).Inc()
		}
	}
	w.tell(name, s, err)
	close(s.pending)
	s.pending = nil
}

// missed notes that a scrape goes without an answer.
func (w *watched) missed(one asked) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-one.pending: // just in time
		return
	default:
	}
	one.source.known, one.source.missed = nil, true
	w.errs.WithLabelValues(one.name).Inc()
	w.tell(one.name, one.source, errors.New("no answer in time"))
}

// tell logs when a source begins to fail, and when it answers again.
func (w *watched) tell(name string, s *source, err error) {
	switch was := s.failing; {
	case err != nil && !was:
		w.log.Warn("metrics are missing", "source", name, "err", err)
	case err == nil && was:
		w.log.Info("metrics are back", "source", name)
	}
	s.failing = err != nil
}

func (w *watched) close(ctx context.Context) error {
	for name, pending := range w.stop() {
		select {
		case <-pending:
		case <-ctx.Done():
			return fmt.Errorf("wait for the answer of %s: %w", name, ctx.Err())
		}
	}
	return nil
}

// stop has nobody asked from now on, and gives those who are being asked.
func (w *watched) stop() map[string]chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	pending := map[string]chan struct{}{}
	for name, s := range w.sources {
		if s.pending != nil {
			pending[name] = s.pending
		}
	}
	return pending
}

// Describe promises nothing, since what is watched is not known beforehand.
func (w *watched) Describe(chan<- *prometheus.Desc) {}

// Collect gives what is known. It asks no engine: refresh has done that.
func (w *watched) Collect(to chan<- prometheus.Metric) {
	known, counts := w.read()
	for _, count := range counts {
		known = append(known, count()...)
	}
	for _, metric := range known {
		to <- metric
	}
}

func (w *watched) read() (known []prometheus.Metric, counts []func() []prometheus.Metric) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed { // from then on answers only get older
		for _, s := range w.sources {
			known = append(known, s.known...)
		}
	}
	return known, slices.Collect(maps.Values(w.counts))
}
