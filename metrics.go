package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"

	"golang.org/x/sync/errgroup"

	"cartwright/infra/esdbnode"
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
	if r.lanes != nil {
		m.Lanes(r.lanes.shapes)
	}
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
	if r.store.node != nil {
		m.Node(func(ctx context.Context) (metrics.Node, error) { return measure(ctx, r.store.node, r.cfg.Data) })
	}
	return r.listenForCollectors(ctx, g)
}

// listenForCollectors opens the address where the metrics are, if there is one.
func (r *running) listenForCollectors(ctx context.Context, g *errgroup.Group) error {
	if r.cfg.Metrics == "" {
		return nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", r.cfg.Metrics)
	if err != nil {
		return fmt.Errorf("listen for collectors of metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", r.metrics.Handler())
	r.serveHTTP(ctx, g, l, mux)
	if r.folder != nil {
		return r.folder.write("metrics", "http://"+l.Addr().String()+"/metrics")
	}
	return nil
}

// measure asks a node of this process.
func measure(ctx context.Context, node *esdbnode.Node, data string) (metrics.Node, error) {
	f, err := node.Figures()
	if err != nil {
		return metrics.Node{}, err
	}
	m := metrics.Node{
		Writes: f.Writes, Refused: f.Refused, Events: f.Events, Bytes: f.Bytes,
		CommitWrites: shapeOf(f.Commits.Writes), CommitEvents: shapeOf(f.Commits.Events), CommitSeconds: shapeOf(f.Commits.Seconds),
		Queued: f.Queue.Writes, Oldest: f.Queue.Oldest,
		Reads: f.Reads, EventsRead: f.EventsRead, Subscribers: f.Subscribers, Lag: f.Lag,
		Disk:              map[string]uint64{"tables": f.Disk.Tables, "wal": f.Disk.WAL, "other": f.Disk.Other},
		ReadAmplification: f.Disk.ReadAmplification, WriteAmplification: f.Disk.WriteAmplification,
		Compacting: f.Compaction.Running, CompactionDebt: f.Compaction.Debt, FailedCompactions: f.Compaction.Failed,
		Scavenged: f.Scavenge.Events, ScavengedAt: f.Scavenge.Last, Marks: f.Scavenge.Marks,
	}
	m.Full = node.Full() != nil
	m.Links = make(map[string]uint64, len(f.Links))
	for streams, at := range f.Links {
		m.Links[streams] = f.Position - min(at, f.Position)
	}
	groups, err := node.Subscriptions(ctx)
	if err != nil {
		return m, err
	}
	for _, g := range groups {
		m.Groups = append(m.Groups, metrics.Group{
			Stream: g.Stream, Name: g.Group, Failed: g.Failed, Consumers: g.Consumers,
			InFlight: g.InFlight, Waiting: g.Waiting, Parked: g.Parked, Behind: g.Behind,
		})
	}
	last, err := readLastBackup(data)
	if err == nil && last != nil {
		m.BackedUpAt = last.At
	}
	return m, err
}

// shapeOf adds up what a histogram has below each bound.
func shapeOf(h esdbnode.Histogram) metrics.Shape {
	s := metrics.Shape{Count: h.Count, Sum: h.Sum, Bounds: make(map[float64]uint64, len(h.Bounds))}
	below := uint64(0)
	for i, bound := range h.Bounds {
		below += h.Counts[i]
		s.Bounds[bound] = below
	}
	return s
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
