package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"cartwright/infra/esdbnode"
)

// nodeBench measures an event log through the official client, and through the
// generated stubs where that one has no call.
type nodeBench struct {
	cfg         config
	target      string
	folder      string
	scenarios   []string
	concurrency []int
	inFlight    int
	size        int
	perAppend   int
	events      int
	duration    time.Duration
	json        bool
	errs        io.Writer
}

// benchScenarios are those of bench node, in their order.
func benchScenarios() []string { return []string{"append", "batch", "fill", "read", "catchup", "open"} }

// NodeReport is the result of bench node.
type NodeReport struct {
	Target string     `json:"target"`
	Size   int        `json:"event_bytes"`
	Runs   []NodeRate `json:"runs"`
}

// NodeRate is one measurement.
type NodeRate struct {
	Scenario    string           `json:"scenario"`
	Concurrency int              `json:"concurrency"`
	Operations  int64            `json:"operations"` // appends that were acknowledged, events that were read, or times it was opened
	Events      int64            `json:"events"`
	Seconds     float64          `json:"seconds"`
	Rate        float64          `json:"operations_per_second"`
	EventRate   float64          `json:"events_per_second"`
	Errors      map[string]int64 `json:"errors,omitempty"`
	CPU         float64          `json:"cpu_us_per_operation"` // of this process, which is client and, without a target, node
	HeapFirst   uint64           `json:"heap_bytes_first_half"`
	HeapPeak    uint64           `json:"heap_bytes"` // the most that lived at once
	Latency
	Differences []string `json:"differences,omitempty"` // what is not as it was acknowledged
}

func newBenchNodeCommand(cfg config) *cobra.Command {
	b := nodeBench{cfg: cfg}
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Measure the embedded event log, or any EventStoreDB",
		Long: `Measure an event log through EventStoreDB's own client: by default a node of its
own on a unix socket in a folder that is deleted at the end, in one process with the
client; with --target a server, whose log is left with what was appended.

  append   appends, so many at once, each to the end of a stream at an exact
           revision, ten to a stream; every answer is one fsync or a share of one
  batch    the same by BatchAppend over one call, so many in flight
  fill     makes the log --events long, for those below
  read     reads the whole log once
  catchup  subscribes to the whole log and reads to its end
  open     closes the log and opens it again, three times (not with --target)

When appends were measured the log is read: every event that was acknowledged has to
be there, as it was sent and in its order, and none twice.

Memory is told as the most that lived in the first half and in all of a measurement:
the same twice is what is flat.

Exit codes: 0 done, 1 failed, 2 usage, 3 something acknowledged is not there.`,
		Example: `  cartwright bench node
  cartwright bench node --scenario append --concurrency 64 --duration 30s --json
  cartwright bench node --scenario fill,read,catchup,open --events 10000000
  cartwright bench node --target esdb://127.0.0.1:2113?tls=false --scenario append,batch`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.errs = cmd.ErrOrStderr()
			if b.target != "" && !cmd.Flags().Changed("scenario") {
				b.scenarios = []string{"append", "batch", "read", "catchup"}
			}
			return b.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&b.target, "target", "", "esdb://… or unix:///… of a server; empty is a node of its own")
	f.StringVar(&b.folder, "folder", "", "where the node's log is, or is to be left; empty is a temporary one")
	f.StringSliceVar(&b.scenarios, "scenario", benchScenarios(), "what is measured, in this order")
	f.IntSliceVar(&b.concurrency, "concurrency", []int{1, 8, 64}, "appends at once; several are measured one after the other")
	f.IntVar(&b.inFlight, "in-flight", 512, "appends in flight of batch")
	f.IntVar(&b.size, "size", 400, "bytes of an event's data")
	f.IntVar(&b.perAppend, "events-per-append", 1, "events of an append")
	f.IntVar(&b.events, "events", 1_000_000, "how long fill makes the log")
	f.DurationVar(&b.duration, "duration", 5*time.Second, "how long appends are measured")
	f.TextVar(&b.cfg.LogLevel, "log-level", b.cfg.LogLevel, "debug, info, warn or error")
	f.BoolVar(&b.json, "json", false, "print the result as JSON, and nothing else, to standard output")
	return cmd
}

func (b *nodeBench) check() error {
	for _, s := range b.scenarios {
		if !slices.Contains(benchScenarios(), s) {
			return fmt.Errorf("there is no scenario %q; there are %s", s, strings.Join(benchScenarios(), ", "))
		}
	}
	for _, n := range b.concurrency {
		if n < 1 || n > 10_000 {
			return errors.New("--concurrency is 1 to 10000")
		}
	}
	switch {
	case len(b.scenarios) == 0 || len(b.concurrency) == 0:
		return errors.New("a scenario and a concurrency are needed")
	case b.target != "" && (slices.Contains(b.scenarios, "open") || b.folder != ""):
		return errors.New("the log of a --target is not here: --folder and the scenario open go without")
	case b.inFlight < 1 || b.inFlight > 100_000:
		return errors.New("--in-flight is 1 to 100000")
	case b.perAppend < 1 || b.size < minEvent || b.size*b.perAppend > 1_000_000:
		return fmt.Errorf("--size is %d or more, --events-per-append 1 or more, and both together are within the megabyte that an append may have", minEvent)
	case b.events < 1 || b.events > maxReplayed || b.duration <= 0:
		return fmt.Errorf("--events is 1 to %d, --duration is positive", maxReplayed)
	}
	return nil
}

func (b *nodeBench) run(ctx context.Context, out io.Writer) (err error) {
	if err = b.check(); err != nil {
		return usage(err)
	}
	calmCollector()
	s := &benchedNode{nodeBench: b, name: "bench-" + uuid.NewString()[:8]}
	if err = s.open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	report := NodeReport{Target: s.where(), Size: b.size}
	for _, scenario := range b.scenarios {
		runs, failed := s.measure(ctx, scenario)
		if failed != nil {
			return fmt.Errorf("bench %s: %w", scenario, failed)
		}
		report.Runs = append(report.Runs, runs...)
	}
	if b.json {
		err = json.NewEncoder(out).Encode(report)
	} else {
		err = report.print(out)
	}
	for _, r := range report.Runs {
		if err == nil && len(r.Differences) > 0 {
			err = &exitError{exitDifferences, fmt.Errorf("bench %s: %s", r.Scenario, r.Differences[0])}
		}
	}
	return err
}

func (r NodeReport) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(w, "%s, events of %d bytes\n", r.Target, r.Size)
	_, _ = fmt.Fprintln(w, "scenario\tat once\toperations/s\tevents/s\tp50 ms\tp90\tp99\tmax\tcpu µs/op\theap MB, first half\tevents\terrors")
	for _, one := range r.Runs {
		var said []string
		for _, name := range slices.Sorted(maps.Keys(one.Errors)) {
			said = append(said, fmt.Sprintf("%d %s", one.Errors[name], name))
		}
		_, _ = fmt.Fprintf(w, "%s\t%d\t%.0f\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.1f\t%d, %d\t%d\t%s\n", one.Scenario, one.Concurrency, one.Rate, one.EventRate,
			one.P50, one.P90, one.P99, one.Max, one.CPU, one.HeapPeak>>20, one.HeapFirst>>20, one.Events, strings.Join(said, ", "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, one := range r.Runs {
		for _, d := range one.Differences {
			if _, err := fmt.Fprintf(out, "%s: %s\n", one.Scenario, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// A benchedNode is the server under measurement, and the way to it.
type benchedNode struct {
	*nodeBench
	name   string // of the run; streams are named after it
	temp   string
	dir    string         // of the log
	node   *esdbnode.Node // nil with a target
	served chan error
	client *esdb.Client
	config *esdb.Configuration
	used   atomic.Uint64 // the number of streams that were begun
	pool   []byte        // see dataOf
}

func (s *benchedNode) where() string {
	if s.target != "" {
		return s.target
	}
	return "a node of its own on a unix socket"
}

// open opens the node, or finds the target.
func (s *benchedNode) open(ctx context.Context) (err error) {
	if s.pool == nil {
		s.fillPool()
	}
	if s.target == "" {
		if s.dir == "" {
			if err = s.makeFolders(); err != nil {
				return err
			}
		}
		if err = s.serve(ctx); err != nil {
			return err
		}
	}
	return s.connect()
}

func (s *benchedNode) makeFolders() (err error) {
	if s.temp, err = os.MkdirTemp("", "cartwright-node-"); err != nil {
		return err
	}
	s.dir = filepath.Join(s.temp, "log")
	if s.folder != "" {
		s.dir = s.folder
	}
	return nil
}

func (s *benchedNode) socket() string { return filepath.Join(s.temp, "node.sock") }

func (s *benchedNode) serve(ctx context.Context) (err error) {
	if s.node, err = esdbnode.Open(esdbnode.Options{Dir: s.dir, Log: s.cfg.logger()}); err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", s.socket())
	if err != nil {
		return errors.Join(err, s.node.Close(ctx))
	}
	s.served = make(chan error, 1)
	go func(node *esdbnode.Node) { s.served <- node.Serve(l) }(s.node)
	return nil
}

// connect makes the official client as a user would.
func (s *benchedNode) connect() (err error) {
	uri := s.target
	if s.target == "" || strings.HasPrefix(s.target, "unix://") {
		uri = "esdb://localhost:2113?tls=false"
	}
	if s.config, err = esdb.ParseConnectionString(uri); err != nil {
		return usage(fmt.Errorf("--target: %w", err))
	}
	switch {
	case s.target == "":
		s.config.Address = "unix://" + s.socket()
	case strings.HasPrefix(s.target, "unix://"):
		s.config.Address = s.target
	}
	s.config.Logger = esdb.NoopLogging()
	s.client, err = esdb.NewClient(s.config)
	return err
}

// shut closes the client and the node, not the folder.
func (s *benchedNode) shut(ctx context.Context) (err error) {
	if s.client != nil {
		err = s.client.Close()
		s.client = nil
	}
	if s.node != nil {
		err = errors.Join(err, s.node.Close(ctx), <-s.served)
		s.node = nil
	}
	return err
}

func (s *benchedNode) close(ctx context.Context) error {
	err := s.shut(ctx)
	if s.temp != "" {
		err = errors.Join(err, os.RemoveAll(s.temp))
	}
	return err
}

func (s *benchedNode) measure(ctx context.Context, scenario string) (runs []NodeRate, err error) {
	_, _ = fmt.Fprintf(s.errs, "measuring %s\n", scenario) // nobody may listen
	one := func(r NodeRate, err error) ([]NodeRate, error) { return []NodeRate{r}, err }
	switch scenario {
	case "append":
		for _, n := range s.concurrency {
			r, err := s.appends(ctx, n)
			if err != nil {
				return nil, err
			}
			runs = append(runs, r)
		}
		return runs, nil
	case "batch":
		return one(s.batch(ctx))
	case "fill":
		return one(s.fill(ctx))
	case "read":
		return one(s.read(ctx))
	case "catchup":
		return one(s.catchUp(ctx))
	}
	return one(s.reopen(ctx))
}

// A gauge watches this process while something is measured.
type gauge struct {
	began       time.Time
	cpu         time.Duration
	half        func() bool
	first, peak atomic.Uint64
	stop        chan struct{}
	done        sync.WaitGroup
}

// heapEvery is how often it is looked how much lives.
const heapEvery = 50 * time.Millisecond

// watch begins to measure. half tells whether half of it is done.
func watch(half func() bool) *gauge {
	g := &gauge{began: time.Now(), cpu: cpuTime(), half: half, stop: make(chan struct{})}
	g.done.Go(func() {
		tick := time.NewTicker(heapEvery)
		defer tick.Stop()
		for {
			g.look()
			select {
			case <-tick.C:
			case <-g.stop:
				return
			}
		}
	})
	return g
}

func (g *gauge) look() {
	h := liveHeap()
	g.peak.Store(max(g.peak.Load(), h))
	if !g.half() {
		g.first.Store(g.peak.Load())
	}
}

// end writes down what was measured of so many operations and events.
func (g *gauge) end(r *NodeRate, operations, events int64) {
	took, spent := time.Since(g.began), cpuTime()-g.cpu
	close(g.stop)
	g.done.Wait()
	r.Operations, r.Events, r.Seconds = operations, events, rounded(took.Seconds())
	r.Rate, r.EventRate = rounded(float64(operations)/took.Seconds()), rounded(float64(events)/took.Seconds())
	if operations > 0 {
		r.CPU = rounded(float64(spent.Microseconds()) / float64(operations))
	}
	r.HeapFirst, r.HeapPeak = g.first.Load(), g.peak.Load()
}

// until tells whether half of a time is over.
func until(d time.Duration) func() bool {
	began := time.Now()
	return func() bool { return time.Since(began) > d/2 }
}
