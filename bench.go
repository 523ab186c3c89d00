package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newBenchCommand(cfg config) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench SCENARIO",
		Short: "Measure a running server through its public API, replays, and the event log",
		Long: `Measure a running server through its public API. Every scenario makes its own SKUs,
buyers and sellers, named after the run, so it may be run beside anything, and in
the end compares what was answered with what the server shows: exit code 3 says
that it does not agree.

  checkout     carts of one unit, spread over SKUs or --hot
  lifecycle    orders from the checkout to their completion
  history      buyers' orders: lists, pages and orders by id
  seller       sellers' orders and sums
  mixed        ten reads for each checkout
  flash        more buyers than units, all within a second
  callbacks    payments that a channel calls back for
  own-writes   whether whoever wrote sees it
  node         the event log alone
  replay       views built anew from a log
  all          the standard set, on a server of its own, into BENCHMARKS.md
  growth       what operations cost by how much there is already, into BENCHMARKS.md

With --concurrency so many requests are under way, and the next is sent when one is
answered (a closed loop). With --rate so many are due each second, whether those
before them were answered or not (an open loop); a latency then counts from when
its request was due, so that a stall is in the figures of all who came meanwhile.
--concurrency bounds how many are under way; what begins late for want of a place
is told, and so is what could not be begun at all.

Of a server on this machine its own figures are told too: CPU time and allocations
for each operation, how many writes shared an fsync and how many commands an
append, how far the relay and the views were behind, its resident memory and its
heap in the first half of the load and in the second, and what was written to
disks. They are read from the socket in its data folder (--data), or from where its
metrics are (--metrics); those of several processes are added up.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return usage(errors.New("which scenario? (cartwright bench -h lists them)"))
		},
	}
	cmd.AddCommand(newBenchReplayCommand(cfg), newBenchNodeCommand(cfg), newBenchCheckoutCommand(cfg), newBenchCallbacksCommand(cfg), newBenchOwnWritesCommand())
	cmd.AddCommand(newBenchLifecycleCommand(cfg), newBenchHistoryCommand(cfg), newBenchSellerCommand(cfg), newBenchMixedCommand(cfg), newBenchFlashCommand(cfg))
	cmd.AddCommand(newBenchAllCommand())
	cmd.AddCommand(newBenchGrowthCommand())
	return cmd
}

// benchOptions are what the command line says of a measurement.
type benchOptions struct {
	targets     []string
	readTarget  string // where queries go, if not to the first target
	concurrency int
	rate        float64
	duration    time.Duration
	count       int
	skus        int
	hot         bool
	buyers      int
	spreads     bool // it takes several targets
	stock       int64
	shards      int // that every SKU is divided into; up to 1 is not
	warmup      time.Duration
	json        bool
	data        string        // of the server, if it is here
	metrics     []string      // where the servers' figures are
	checkWithin time.Duration // how long what was answered may take to be seen
	log         config        // where the event log is, as far as it is known
}

// openConcurrency bounds an open loop, unless it is said.
const openConcurrency = 256

// flags are those of every load. What they say is made whole by settle.
func (opt *benchOptions) flags(f *pflag.FlagSet, cfg config) {
	opt.serverFlags(f, cfg)
	f.IntVar(&opt.concurrency, "concurrency", 32, "operations under way at once; with --rate at most ("+strconv.Itoa(openConcurrency)+" unless said)")
	f.Float64Var(&opt.rate, "rate", 0, "operations due a second, however they are answered; 0 sends the next when one is")
	f.DurationVar(&opt.duration, "duration", 10*time.Second, "how long is measured")
	f.IntVar(&opt.count, "count", 0, "how many operations are measured, instead of a duration")
	f.DurationVar(&opt.warmup, "warmup", 2*time.Second, "how long runs before it is measured (0 with --count, unless said)")
	f.BoolVar(&opt.json, "json", false, "print the result as JSON, and nothing else, to standard output")
}

// serverFlags say which server is measured, and where its figures are.
func (opt *benchOptions) serverFlags(f *pflag.FlagSet, cfg config) {
	f.StringSliceVar(&opt.targets, "target", []string{"http://127.0.0.1:8080"}, "the server's address")
	f.StringVar(&opt.data, "data", cfg.Data, "the server's data folder, where its own figures are read, if it is on this machine (CARTWRIGHT_DATA)")
	f.DurationVar(&opt.checkWithin, "check-within", verifyWithin, "how long what was answered may take to be seen, in the end")
	f.StringSliceVar(&opt.metrics, "metrics", nil, "http://… of the server's metrics, to read them there; several are added up")
	opt.log = cfg
}

// goodsFlags say what is sold, and to whom.
func (opt *benchOptions) goodsFlags(f *pflag.FlagSet, skus int) {
	f.IntVar(&opt.skus, "skus", skus, "SKUs that carts are spread over")
	f.IntVar(&opt.buyers, "buyers", 1000, "buyers who check out in turn")
	f.Int64Var(&opt.stock, "stock", 10_000_000, "units of each SKU")
}

// settle fills in what depends on what was said.
func (opt *benchOptions) settle(said func(flag string) bool) error {
	if said("count") && said("duration") {
		return usage(errors.New("count and duration exclude each other"))
	}
	if opt.count > 0 && !said("warmup") {
		opt.warmup = 0 // what is counted shall be all there is
	}
	if opt.rate > 0 && !said("concurrency") {
		opt.concurrency = openConcurrency
	}
	return nil
}

func newBenchCheckoutCommand(cfg config) *cobra.Command {
	var opt benchOptions
	cmd := &cobra.Command{
		Use:   "checkout",
		Short: "Check out carts of one unit, as fast as they are answered or at a rate",
		Long: `Checkout keeps a number of checkouts under way, each of one unit of one SKU, and
sends the next when one is answered (a closed loop); with --rate they come on a
schedule (an open loop, see cartwright bench -h). It makes SKUs, stock and buyers
of its own, named after the run, so it may be run beside anything.

Order ids are drawn ahead, as many as the warm-up lets expect, so that the figures
are those of POST /v1/checkouts alone; what had to be drawn within the measured
time is told as "inline" and costs some rate.

While it runs it reads now and then, with the token of a checkout that was just
answered, the buyer's and the seller's newest orders: "lag" is the time from the
answer until the view shows the order.

Several servers of one shop may be said (--target A,B). In a closed loop each has as
many of those who send to itself, on a schedule they have their turns; rate, share,
latencies and errors of each are told. What is not measured goes to the first of
them, and lists and stock are asked for at --read-target, if that is another.

With --shards every SKU is divided before the warm-up. Its shards are looked at one
by one in the end, where the log is known (the data folder, or the environment).

In the end it asks the stock: as many units have to be held as orders were placed,
never more than there are, and nobody may have been refused while some were left.
A request that was not answered, or by 5xx, may have been carried out or not. The
whole run must be shorter than the server's --pay-within, which frees unpaid goods.

Exit codes: 0 done, 1 failed, 2 usage, 3 the stock is not what it has to be.`,
		Example: `  cartwright bench checkout --duration 30s --json
  cartwright bench checkout --hot
  cartwright bench checkout --rate 2000 --duration 1m
  cartwright bench checkout --hot --shards 2 --target http://w1:8080,http://w2:8080 --read-target http://r:8080
  cartwright bench checkout --hot --stock 100 --count 2000 --concurrency 2000`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			said := cmd.Flags().Changed
			if said("hot") && said("skus") {
				return usage(errors.New("hot and skus exclude each other"))
			}
			if err := opt.settle(said); err != nil {
				return err
			}
			if err := opt.checkSpread(); err != nil {
				return usage(err)
			}
			return opt.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), (*checkoutBench).checkouts)
		},
	}
	opt.flags(cmd.Flags(), cfg)
	opt.goodsFlags(cmd.Flags(), 1000)
	opt.spreadFlags(cmd.Flags())
	cmd.Flags().BoolVar(&opt.hot, "hot", false, "one SKU that everybody wants")
	return cmd
}

// Bounds of a measurement; stock is the API's.
const (
	maxSKUs       = 1_000_000
	maxStock      = 1_000_000_000
	maxBenchCount = 10_000_000
	maxAhead      = 4_000_000 // ids drawn for a duration
	maxRate       = 1_000_000
)

func (opt *benchOptions) check() error {
	if opt.hot {
		opt.skus = 1
	}
	switch {
	case opt.concurrency < 1 || opt.concurrency > maxConcurrency:
		return fmt.Errorf("concurrency is 1 to %d", maxConcurrency)
	case opt.rate < 0 || opt.rate > maxRate || math.IsNaN(opt.rate):
		return fmt.Errorf("a rate is more than nothing and at most %d, or 0 for a closed loop", maxRate)
	case opt.count < 0 || opt.count > maxBenchCount:
		return fmt.Errorf("count is 1 to %d", maxBenchCount)
	case opt.count == 0 && opt.duration <= 0, opt.warmup < 0, opt.checkWithin < 0:
		return errors.New("a duration is positive")
	case len(opt.targets) == 0:
		return errors.New("which server? --target URL")
	case len(opt.targets) > 1 && !opt.spreads:
		return errors.New("several targets are for checkout and flash")
	case opt.skus < 1 || opt.skus > maxSKUs || opt.buyers < 1 || opt.buyers > maxSKUs:
		return fmt.Errorf("skus and buyers are 1 to %d", maxSKUs)
	case opt.stock < 1 || opt.stock > maxStock:
		return fmt.Errorf("stock is 1 to %d", maxStock)
	}
	return nil
}

// A workload is what a scenario does. What it has no need of is nil.
type workload struct {
	scenario string
	setUp    func(context.Context) error               // makes the run's own data
	ahead    func(ctx context.Context, n int) error    // does what n operations need and is not to be measured
	during   func(context.Context) (stop func())       // goes on while it is measured
	one      func(context.Context, *arrival) error     // does one operation; an error ends the run
	verify   func(context.Context) (benchCheck, error) // compares what was answered with what is there
	tell     func(*benchReport)                        // says what only this scenario knows
}

// run measures and prints the result to out; all else goes to errs.
func (opt *benchOptions) run(ctx context.Context, out, errs io.Writer, scenario func(*checkoutBench) workload) error {
	if err := opt.check(); err != nil {
		return usage(err)
	}
	to, err := opt.clients()
	if err != nil {
		return usage(err)
	}
	defer to.close()
	if err = to.answer(ctx); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	m, err := opt.meter()
	if err != nil {
		return usage(err)
	}
	defer m.close()
	b := newCheckoutBench(*opt, to.targets[0], errs)
	b.targets, b.reads = to.targets, to.reads
	report, err := b.measure(ctx, scenario(b), m)
	if err != nil {
		if ctx.Err() != nil {
			err = errors.New("stopped")
		}
		return fmt.Errorf("bench: %w", err)
	}
	if opt.json {
		err = printJSON(out, report)
	} else {
		err = report.print(out)
	}
	switch {
	case err != nil:
		return err
	case len(report.Check.Differences) > 0:
		return &exitError{exitDifferences, fmt.Errorf("bench: %s", report.Check.Differences[0])}
	case report.Count == 0:
		return errors.New("bench: not one operation was carried out")
	}
	return report.allServed()
}

// A checkoutBench has the goods and buyers of a run, and measures checkouts of
// them. Other scenarios begin with it.
type checkoutBench struct {
	benchOptions
	api     *client   // what is not measured goes there
	targets []*client // what is measured goes there
	reads   *client
	errs    io.Writer
	name    string // of the run; SKUs, sellers and buyers are named after it
	goods   []benchSKU
	buyers  []string

	sold   []soldCount // by SKU
	ids    []drawnID   // drawn ahead
	idRate float64
	inline atomic.Int64 // ids drawn on the way
	probes lagSet
	lag    map[string]Latency
}

// A benchSKU is what is sold.
type benchSKU struct{ sku, seller string }

// benchSellers is how many sellers share the SKUs.
const benchSellers = 50

func newCheckoutBench(opt benchOptions, api *client, errs io.Writer) *checkoutBench {
	b := &checkoutBench{benchOptions: opt, api: api, targets: []*client{api}, reads: api, errs: errs, name: "bench-" + uuid.NewString()[:8], sold: make([]soldCount, opt.skus)}
	for i := range opt.skus {
		b.goods = append(b.goods, benchSKU{fmt.Sprintf("%s-%d", b.name, i), fmt.Sprintf("%s-s%d", b.name, i%benchSellers)})
	}
	for i := range opt.buyers {
		b.buyers = append(b.buyers, fmt.Sprintf("%s-b%d", b.name, i))
	}
	return b
}

// A benchReport is what was measured. Latencies are of operations that were
// answered, refusals too; in an open loop also of those that were never begun, as
// long as they waited.
type benchReport struct {
	Scenario    string           `json:"scenario"`
	Run         string           `json:"run"`
	Concurrency int              `json:"concurrency"`
	SKUs        int              `json:"skus"`
	Hot         bool             `json:"hot"`
	DurationS   float64          `json:"duration_s"`
	Count       int64            `json:"count"` // operations done: orders placed, or completed, or queries
	Rate        float64          `json:"rate"`  // of them, a second
	Errors      map[string]int64 `json:"errors"`
	Retries     map[string]int64 `json:"retries,omitempty"` // requests that were sent again, by why
	Latency
	Shards    int                `json:"shards,omitempty"`  // of every SKU
	Targets   []targetReport     `json:"targets,omitempty"` // if they are several
	OpenLoop  *openLoop          `json:"open_loop,omitempty"`
	Steps     map[string]Latency `json:"steps,omitempty"` // of parts of an operation, or of its kinds
	IDs       benchIDs           `json:"ids,omitzero"`
	Lag       map[string]Latency `json:"lag,omitempty"` // until a view shows an order, by view
	Flash     *flashReport       `json:"flash,omitempty"`
	Generator generatorFigures   `json:"generator"`
	Server    *serverFigures     `json:"server,omitempty"`
	LeftOut   string             `json:"server_left_out,omitempty"` // why there is nothing of the server
	VerifiedS float64            `json:"verified_s"`
	Check     benchCheck         `json:"check"`
}

// benchIDs tells where the order ids came from.
type benchIDs struct {
	Ahead  int     `json:"ahead"`
	Rate   float64 `json:"rate"` // of those drawn ahead, a second
	Inline int64   `json:"inline"`
}

// Latency is the shape of many durations.
type Latency struct {
	Samples int64   `json:"samples"`
	Mean    float64 `json:"mean_ms"`
	P50     float64 `json:"p50_ms"`
	P90     float64 `json:"p90_ms"`
	P99     float64 `json:"p99_ms"`
	P999    float64 `json:"p999_ms"`
	Max     float64 `json:"max_ms"`
}

// newHistogram takes durations in microseconds.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, longestLatency.Microseconds(), 3)
}

const longestLatency = 5 * time.Minute

func recordLatency(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d, time.Microsecond), longestLatency).Microseconds()) // it fails beyond its bounds only
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	ms := func(us int64) float64 { return float64(us) / 1000 }
	return Latency{
		Samples: h.TotalCount(), Mean: rounded(h.Mean() / 1000), Max: ms(h.Max()),
		P50: ms(h.ValueAtQuantile(50)), P90: ms(h.ValueAtQuantile(90)),
		P99: ms(h.ValueAtQuantile(99)), P999: ms(h.ValueAtQuantile(99.9)),
	}
}

// rounded keeps three decimals.
func rounded(f float64) float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	return math.Round(f*1000) / 1000
}

// measure sets everything up, measures, and checks what came of it.
func (b *checkoutBench) measure(ctx context.Context, w workload, m *meter) (benchReport, error) {
	r := benchReport{Scenario: w.scenario, Run: b.name, Concurrency: b.concurrency, SKUs: b.skus, Hot: b.hot, Shards: b.shards}
	if err := w.setUp(ctx); err != nil {
		return r, err
	}
	warm := newTape()
	if b.warmup > 0 {
		if err := (pace{atOnce: b.concurrency, rate: b.rate, lasts: b.warmup, targets: len(b.targets)}).drive(ctx, warm, w.one); err != nil {
			return r, err
		}
	}
	if w.ahead != nil {
		if err := w.ahead(ctx, b.expected(warm)); err != nil {
			return r, err
		}
	}
	b.say("measuring")
	if err := b.load(ctx, w, m, &r); err != nil {
		return r, err
	}
	b.say("checking what came of it")
	start := time.Now()
	var err error
	r.Check, err = w.verify(ctx)
	r.VerifiedS = rounded(time.Since(start).Seconds())
	return r, err
}

// load is what is measured.
func (b *checkoutBench) load(ctx context.Context, w workload, m *meter, r *benchReport) error {
	stop := func() {}
	if w.during != nil {
		stop = w.during(ctx)
	}
	observed := m.observe(ctx)
	spent, measured := spending(), newTape()
	p := pace{atOnce: b.concurrency, rate: b.rate, count: int64(b.count), targets: len(b.targets)}
	if b.count == 0 {
		p.lasts = b.duration
	}
	err := p.drive(ctx, measured, w.one)
	all := measured.all()
	r.Generator = spent.since(all.answered())
	stop()
	r.Server, r.LeftOut = observed.end(ctx, all.answered()) // also after an error: somebody is waiting
	if err != nil {
		return err
	}
	r.add(measured.took, all)
	r.addShares(b.benchOptions.targets, measured.took, all)
	if b.rate > 0 {
		r.OpenLoop = &all.loop
		r.OpenLoop.Rate = b.rate
	}
	if w.tell != nil {
		w.tell(r)
	}
	return nil
}

// add takes in what was measured.
func (r *benchReport) add(took time.Duration, all *stripe) {
	r.DurationS, r.Count, r.Errors, r.Retries = rounded(took.Seconds()), all.done, all.errors, all.retries
	r.Rate = rounded(float64(r.Count) / max(took.Seconds(), 1e-9))
	for kind, h := range all.latency {
		if kind == "" {
			r.Latency = latencyOf(h)
			continue
		}
		if r.Steps == nil {
			r.Steps = map[string]Latency{}
		}
		r.Steps[kind] = latencyOf(h)
	}
}

// say tells people what is going on.
func (b *checkoutBench) say(what string) { _, _ = fmt.Fprintln(b.errs, what) } // nobody may listen

// expected is how many operations there will be, with some to spare.
func (b *checkoutBench) expected(warm *tape) int {
	switch {
	case b.count > 0:
		return b.count
	case b.rate > 0:
		return int(min(maxAhead, math.Ceil(b.rate*b.duration.Seconds())))
	case warm.took <= 0:
		return 0
	}
	return int(min(maxAhead, 1.25*float64(warm.all().answered())/warm.took.Seconds()*b.duration.Seconds()))
}

// print writes the report for people.
func (r *benchReport) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, values ...any) { // Flush tells whether it could be written
		_, _ = fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, values...))
	}
	row("scenario", "%s, %d SKUs, %d at once", r.Scenario, r.SKUs, r.Concurrency)
	row("done", "%d in %.1f s, %.0f/s", r.Count, r.DurationS, r.Rate)
	if o := r.OpenLoop; o != nil {
		row("schedule", "%.0f/s, %d due, %d began late, %d could not be begun, %.1f ms behind at most", o.Rate, o.Due, o.Late, o.NotBegun, o.Behind)
	}
	row("latency", "%s", r.Latency)
	for _, t := range r.Targets {
		t.print(row)
	}
	for _, step := range slices.Sorted(maps.Keys(r.Steps)) {
		row("  "+step, "%s", r.Steps[step])
	}
	for _, view := range slices.Sorted(maps.Keys(r.Lag)) {
		row("lag of "+view, "%s", r.Lag[view])
	}
	for _, slug := range slices.Sorted(maps.Keys(r.Errors)) {
		row("refused", "%d %s", r.Errors[slug], slug)
	}
	for _, why := range slices.Sorted(maps.Keys(r.Retries)) {
		row("sent again", "%d %s", r.Retries[why], why)
	}
	if f := r.Flash; f != nil {
		row("flash", "%d buyers within %.1f s for %d units: %d placed, %d refused, the last was answered after %.2f s", f.Buyers, f.WithinS, f.Units, f.Placed, f.Refused, f.AnsweredS)
	}
	if r.IDs != (benchIDs{}) {
		row("order ids", "%d ahead at %.0f/s, %d inline", r.IDs.Ahead, r.IDs.Rate, r.IDs.Inline)
	}
	r.Generator.print(row)
	r.Server.print(row, r.LeftOut)
	if r.Check.Placed > 0 || r.Check.Taken > 0 {
		row("stock", "%d taken for %d placed, %d unknown", r.Check.Taken, r.Check.Placed, r.Check.Unknown)
	}
	r.Check.Shards.print(row)
	row("checked", "%d differences, after %.1f s", len(r.Check.Differences), r.VerifiedS)
	for _, difference := range r.Check.Differences {
		row("difference", "%s", difference)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

func (l Latency) String() string {
	return fmt.Sprintf("p50 %.2f ms, p90 %.2f, p99 %.2f, p99.9 %.2f, max %.2f (%d)", l.P50, l.P90, l.P99, l.P999, l.Max, l.Samples)
}

// pathOf puts a name into a path.
func pathOf(before, name, behind string) string { return before + url.PathEscape(name) + behind }
