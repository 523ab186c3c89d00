package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"cartwright/commands"
	"cartwright/domain/event"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/projections"
)

// replayBench measures how fast views are rebuilt.
type replayBench struct {
	events  int
	spread  int
	workers []int
	views   []string
	folder  string
	json    bool
	cfg     config
	errs    io.Writer
}

// ReplayReport is the result of bench replay.
type ReplayReport struct {
	Events  int64        `json:"events"` // in the log, of orders
	Orders  int64        `json:"orders"`
	Spread  int          `json:"spread"`
	Fill    float64      `json:"fill_events_per_second"` // 0 where the log was there
	Engine  string       `json:"engine"`
	Replays []ReplayRate `json:"replays"`
}

// ReplayRate is one rebuild of a view.
type ReplayRate struct {
	View    string  `json:"view"`
	Workers int     `json:"workers"`
	Events  int64   `json:"events"`
	Streams int64   `json:"streams"`
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"events_per_second"`
	CPU     float64 `json:"cpu_us_per_event"` // of this process, embedded engines included

	HeapFirst uint64 `json:"heap_bytes_first_half"` // the most that lived at once
	HeapPeak  uint64 `json:"heap_bytes"`
}

func newBenchReplayCommand(cfg config) *cobra.Command {
	b := replayBench{cfg: cfg}
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Rebuild views from a log of made-up orders",
		Long: `Replay fills an event log of its own with the lives of orders, from the checkout to
completion, 11 events each, and rebuilds views from it, once for each number of
workers. The events of one order lie as far apart in the log as other orders come
in between (--spread), as they do in a shop.

Everything is embedded and lies in a folder that is deleted at the end, unless
--folder names one: it is kept then, and the next run with it measures what is
there. With --elasticsearch the views are built there, under a namespace of the run.`,
		Example: `  cartwright bench replay --events 1000000 --workers 1,2
  cartwright bench replay --elasticsearch http://127.0.0.1:9200 --json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.errs = cmd.ErrOrStderr()
			return b.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.IntVar(&b.events, "events", 1_000_000, "how many events")
	f.IntVar(&b.spread, "spread", 10_000, "how many orders are under way at once")
	f.IntSliceVar(&b.workers, "workers", []int{runtime.GOMAXPROCS(0)}, "how many fold at once; several are measured one after the other")
	f.StringSliceVar(&b.views, "view", []string{"orders"}, "the views to rebuild, or all")
	f.StringVar(&b.folder, "folder", "", "where the log is, or is to be left")
	f.StringSliceVar(&b.cfg.Elasticsearch, "elasticsearch", nil, "http(s)://host:port of the Elasticsearch nodes; empty is embedded")
	f.TextVar(&b.cfg.LogLevel, "log-level", b.cfg.LogLevel, "debug, info, warn or error")
	f.BoolVar(&b.json, "json", false, "print the result as JSON, and nothing else, to standard output")
	return cmd
}

// lifeEvents is how many events an order has, in so many appends.
const (
	lifeEvents  = 11
	fillAtOnce  = 128 // orders that are appended to at once
	maxReplayed = 1_000_000_000
)

func (b *replayBench) check() error {
	if b.events < lifeEvents || b.events > maxReplayed || b.spread < 2*fillAtOnce {
		return fmt.Errorf("events are %d to %d, the spread is %d or more", lifeEvents, maxReplayed, 2*fillAtOnce)
	}
	for _, n := range b.workers {
		if n < 1 || n > 256 {
			return errors.New("workers are 1 to 256")
		}
	}
	return nil
}

func (b *replayBench) run(ctx context.Context, out io.Writer) (err error) {
	if err = b.check(); err != nil {
		return usage(err)
	}
	b.cfg.Data = b.folder
	if b.folder == "" {
		if b.cfg.Data, err = os.MkdirTemp("", "cartwright-replay-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(b.cfg.Data)) }()
	}
	b.cfg.EventStore, b.cfg.Kafka, b.cfg.Redis = "", nil, nil
	b.cfg.Namespace = "bench-" + uuid.NewString()[:8]
	calmCollector()
	s, err := openSystem(ctx, b.cfg, needs{log: true, views: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	report, err := b.measure(ctx, s)
	if err != nil {
		return err
	}
	if b.json {
		return json.NewEncoder(out).Encode(report)
	}
	return report.print(out)
}

func (b *replayBench) measure(ctx context.Context, s *system) (r ReplayReport, err error) {
	r = ReplayReport{Spread: b.spread, Engine: "embedded"}
	if len(b.cfg.Elasticsearch) > 0 {
		r.Engine = "elasticsearch"
	}
	head, err := s.store.Head(ctx)
	if err != nil {
		return r, err
	}
	if head == 0 {
		begun := time.Now()
		if err = b.fill(ctx, s); err != nil {
			return r, fmt.Errorf("fill the log: %w", err)
		}
		r.Fill = float64(b.events) / time.Since(begun).Seconds()
	}
	tools, err := s.views.choose(b.views)
	if err != nil {
		return r, err
	}
	for _, workers := range b.workers {
		for _, tool := range tools {
			one, err := b.one(ctx, s, tool, workers)
			if err != nil {
				return r, fmt.Errorf("replay %s: %w", tool.name, err)
			}
			r.Replays = append(r.Replays, one)
			r.Events, r.Orders = max(r.Events, one.Events), max(r.Orders, one.Streams)
		}
	}
	return r, nil
}

// one rebuilds one view, once.
func (b *replayBench) one(ctx context.Context, s *system, tool viewTool, workers int) (ReplayRate, error) {
	r := ReplayRate{View: tool.name, Workers: workers}
	var half, peak atomic.Uint64
	told := newProgress(b.errs, "events of "+tool.name, b.events)
	spent := cpuTime()
	seen := int64(0)
	done, err := tool.replay(ctx, replayJob{
		source: s.store, workers: workers, keep: 1, anew: true,
		progress: func(p projections.Progress) {
			h := liveHeap()
			peak.Store(max(peak.Load(), h))
			if p.Events < int64(b.events)/2 {
				half.Store(peak.Load())
			}
			for ; seen < p.Events; seen++ {
				told.step()
			}
		},
	})
	told.end()
	if err != nil {
		return r, err
	}
	r.Events, r.Streams, r.Seconds, r.Rate = done.Events, done.Streams, done.Elapsed.Seconds(), done.Rate()
	if done.Events > 0 {
		r.CPU = float64((cpuTime() - spent).Microseconds()) / float64(done.Events)
	}
	r.HeapFirst, r.HeapPeak = half.Load(), peak.Load()
	return r, nil
}

// fill appends the lives of orders, many at once, each in three parts that lie
// half a spread apart.
func (b *replayBench) fill(ctx context.Context, s *system) error {
	orders := b.events / lifeEvents
	told := newProgress(b.errs, "orders made up", orders)
	defer told.end()
	parts := [][2]int{{0, 4}, {4, 9}, {9, lifeEvents}}
	for from := 0; from < orders+b.spread; from += fillAtOnce {
		g, gctx := errgroup.WithContext(ctx)
		for n := from; n < min(from+fillAtOnce, orders+b.spread); n++ {
			for i, part := range parts {
				if which := n - i*b.spread/2; which >= 0 && which < orders {
					g.Go(func() error { return b.append(gctx, s, which, part[0], part[1]) })
				}
			}
			if n < orders {
				told.step()
			}
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// append adds part of an order's life to its stream.
func (b *replayBench) append(ctx context.Context, s *system, n, from, to int) error {
	life, err := madeUp(n)
	if err != nil {
		return err
	}
	records := make([]event.Recorded, 0, to-from)
	for i, e := range life.events[from:to] {
		r, err := s.events.Encode(e)
		if err != nil {
			return err
		}
		r.ID = uuid.NewString()
		r.Meta = event.Meta{Cause: r.ID, Actor: "bench", At: life.placed.Add(time.Duration(from+i) * time.Hour)}
		records = append(records, r)
	}
	return s.store.Append(ctx, life.stream, event.Revision(from), records) //nolint:gosec // not negative
}

// A madeUpLife is what happens to an order that nobody placed.
type madeUpLife struct {
	stream string
	placed time.Time
	events []order.Event
}

func madeUp(n int) (life madeUpLife, err error) {
	const day = 86_400
	life.placed = time.Date(2026, 1, 1, 0, 0, n%day, 0, time.UTC).AddDate(0, 0, -n/day%1000)
	buyer, seller := "buyer-"+strconv.Itoa(n%10_007), "seller-"+strconv.Itoa(n%997)
	id, err := orderid.Make(time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n)*time.Millisecond), 0, buyer)
	if err != nil {
		return life, err
	}
	life.stream = "order-" + string(id)
	place := order.Place{
		Order: string(id), Checkout: string(id), Buyer: buyer, Seller: seller, Currency: "CNY", Attempt: "bench",
		Address: make([]byte, 180), Deadline: life.placed.Add(commands.PayWithin),
		Lines: []order.Line{
			{Line: 1, SKU: "dress-" + strconv.Itoa(n%1009), Title: "夏季新款连衣裙 No " + strconv.Itoa(n%1009), Offer: "0123456789abcdef", Quantity: 1, UnitPrice: 4900, Freight: 100},
			{Line: 2, SKU: "shirt-" + strconv.Itoa(n%499), Title: "Cotton T-shirt, red", Offer: "fedcba9876543210", Quantity: 2, UnitPrice: 1900},
		},
	}
	state := order.Order{}
	for _, c := range []order.Command{
		place,
		order.Pay{Amount: 8800, Currency: "CNY", Method: "balance"},
		order.RecordStockCommitted{},
		order.RecordPaymentCaptured{},
		order.Pack{Lines: []order.Part{{Line: 1, Quantity: 1}, {Line: 2, Quantity: 2}}, Carrier: "post", Number: strconv.Itoa(n)},
		order.RecordStockShipped{Parcel: 1},
		order.Deliver{Parcel: 1},
		order.Complete{By: "buyer"},
	} {
		decided, err := order.Decider.Decide(state, c)
		if err != nil {
			return life, fmt.Errorf("%T: %w", c, err)
		}
		for _, e := range decided {
			if state, err = order.Decider.Evolve(state, e); err != nil {
				return life, fmt.Errorf("%T: %w", e, err)
			}
		}
		life.events = append(life.events, decided...)
	}
	if len(life.events) != lifeEvents {
		return life, fmt.Errorf("an order's life has %d events, not %d", len(life.events), lifeEvents)
	}
	return life, nil
}

// cpuTime is what this process has spent computing.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// liveHeap is how much of the heap is in use, garbage included.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func (r ReplayReport) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(w, "%d events of %d orders, %d under way at once; %s\n", r.Events, r.Orders, r.Spread, r.Engine)
	_, _ = fmt.Fprintln(w, "view\tworkers\tevents/s\tseconds\tcpu µs/event\theap MB")
	for _, one := range r.Replays {
		_, _ = fmt.Fprintf(w, "%s\t%d\t%.0f\t%.1f\t%.1f\t%d\n", one.View, one.Workers, one.Rate, one.Seconds, one.CPU, one.HeapPeak>>20)
	}
	return w.Flush()
}
