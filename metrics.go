package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"

	"golang.org/x/sync/errgroup"

	"cartwright/infra/metrics"
	"cartwright/projections"
)

// startMetrics begins to count, and listens for whoever collects the counts.
func (r *running) startMetrics(ctx context.Context, g *errgroup.Group) error {
	version, revision := "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	m, err := metrics.New(metrics.Config{Log: r.log, Version: version, Revision: revision})
	if err != nil {
		return err
	}
	r.opened(m.Close)
	r.metrics = m
	m.Head(r.store.Head)
	r.watchViews(m)
	if r.relay != nil {
		m.Relay(func() metrics.Relay {
			s := r.relay.Status()
			return metrics.Relay{Position: s.Position, Waiting: s.Behind, Published: s.Published, Errors: s.Errors, Standby: s.Standby}
		})
	}
	if r.runner != nil {
		m.Reactions(func() (done, failed, parked int64) {
			s := r.runner.Status()
			return s.Done, s.Failed, s.Parked
		})
		m.Stuck(func(ctx context.Context) (int, error) {
			waiting, wrong := r.shop.Stuck(ctx)
			return len(waiting), wrong
		})
	}
	if r.cfg.Metrics == "" {
		return nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", r.cfg.Metrics)
	if err != nil {
		return fmt.Errorf("listen for collectors of metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	r.serveHTTP(ctx, g, l, mux)
	if r.folder != nil {
		return r.folder.write("metrics", "http://"+l.Addr().String()+"/metrics")
	}
	return nil
}

// watchViews counts what the part that keeps the views knows of them. Others
// that only read them would say the same.
func (r *running) watchViews(m *metrics.Metrics) {
	if !r.part.project {
		return
	}
	for _, t := range r.views.tools {
		m.Parked(t.name, t.parked)
	}
	m.Projected(func() map[string]projections.Stats {
		all := make(map[string]projections.Stats, len(r.views.tools))
		for _, t := range r.views.tools {
			all[t.name] = t.stats()
		}
		return all
	})
	m.Tiers(r.views.archive.Tiers)
	m.Seen(r.views.set.Position)
	m.Unread(r.meter.Lag)
}
