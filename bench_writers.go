package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// writersAsked is how much of one process's rate two of them have to keep on one SKU.
const writersAsked = .70

// writersAtOnce is how many checkouts are under way, at one process or at two.
const writersAtOnce = "256"

// writerRuns are the parts of the scenario "writers": one process, two, and two
// with the SKU divided in as many shards.
//
// Both write processes do nothing else, and are reached in the same way as the one
// that is measured alone: to measure one that runs everything else too against two
// would tell of what else it does.
func writerRuns() []standardRun {
	args := []string{"checkout", "--hot", "--concurrency", writersAtOnce}
	return []standardRun{
		{name: "writers-1", what: "checkouts of one SKU at one write process, " + writersAtOnce + " at once", args: args, timed: true, targets: 1},
		{name: "writers-2", what: "the same at two write processes", args: args, timed: true, targets: 2},
		{name: "writers-2-shards", what: "the same, of a SKU that is divided into two shards", args: append(slices.Clone(args), "--shards", "2"), timed: true, targets: 2},
	}
}

// onWriters measures two write processes beside everything else that runs.
func (s *standardSet) onWriters(ctx context.Context, namespace string, beside stopper) (err error) {
	f := &fleet{gauge: s.gaugeOf(beside)}
	defer func() { err = errors.Join(err, f.stop()) }()
	var urls []string
	for _, name := range []string{"write-1", "write-2"} {
		where, wrong := s.startPart(ctx, f, name, namespace)
		if wrong != nil {
			return fmt.Errorf("%s: %w", name, wrong)
		}
		urls = append(urls, where.String())
	}
	metrics, err := f.listen(ctx, http.NotFoundHandler())
	if err != nil {
		return err
	}
	for _, r := range writerRuns() {
		r.where = []string{"--target", strings.Join(urls[:r.targets], ","), "--read-target", s.url, "--metrics", metrics + "/metrics"}
		if !s.apart {
			r.where = append(r.where, "--data", s.data())
		}
		if err = s.measure(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// gaugeOf begins a gauge with what runs already.
func (s *standardSet) gaugeOf(beside stopper) fleetGauge {
	g := fleetGauge{metrics: map[string]string{}, pids: map[string]int{}}
	switch running := beside.(type) {
	case *fleet:
		maps.Copy(g.metrics, running.gauge.metrics)
		maps.Copy(g.pids, running.gauge.pids)
	case *startedServer:
		g.metrics["serve"], g.pids["serve"] = s.metrics, running.cmd.Process.Pid
	}
	return g
}

// writers tells how two write processes did against one.
func (d *document) writers(runs []setRun, cores int) {
	at := slices.IndexFunc(runs, func(r setRun) bool { return r.Name == "writers-1" })
	if at < 0 {
		return
	}
	one := runs[at]
	d.line("## Two write processes on one SKU\n")
	d.table("scenario", "a second", "to one process", "each one's share", "server CPU µs a checkout", "to one process", "of it the write processes", "generator CPU µs", "p50 ms", "p99")
	for _, r := range runs {
		if !strings.HasPrefix(r.Name, "writers-") {
			continue
		}
		server := r.Server
		if server == nil {
			server = &serverFigures{}
		}
		d.line("| %s | %.0f | %s | %s | %s | %s | %s | %.0f | %.2f | %.2f |", r.Name, r.Rate, of(one.Rate > 0, "%.2f", r.Rate/one.Rate), r.shares(),
			of(server.CPU > 0, "%.0f", server.CPU), of(one.Server != nil && one.Server.CPU > 0 && server.CPU > 0, "%.2f", server.CPU/one.cpu()),
			server.writers(), r.Generator.CPU, r.P50, r.P99)
	}
	d.line("\nOf two on one SKU that is not divided at least %.2f of one's rate is asked. Generator, both write processes and everything else share %d cores here, so that a second process brings no "+
		"CPU time with it: what it costs is in the CPU time of a checkout, and the rate is as much lower.\n", writersAsked, cores)
}

// cpu is what the server spent on an operation, or 1 where that is not known.
func (r *setRun) cpu() float64 {
	if r.Server == nil || r.Server.CPU <= 0 {
		return 1
	}
	return r.Server.CPU
}

// shares lists how much of all each target did.
func (r *setRun) shares() string {
	if len(r.Targets) == 0 {
		return "1.00"
	}
	var told []string
	for _, t := range r.Targets {
		told = append(told, fmt.Sprintf("%.2f", t.Share))
	}
	return strings.Join(told, " and ")
}

// writers lists what the write processes spent on an operation.
func (s *serverFigures) writers() string {
	var told []string
	for _, part := range slices.Sorted(maps.Keys(s.Parts)) {
		if strings.HasPrefix(part, "write-") {
			told = append(told, fmt.Sprintf("%.0f", s.Parts[part]))
		}
	}
	return of(len(told) > 0, "%s", strings.Join(told, " and "))
}
