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
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
)

func newBenchCommand(cfg config) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench SCENARIO",
		Short: "Measure a running server through its public API, replays, and the event log",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return usage(errors.New("which scenario? (cartwright bench -h lists them)"))
		},
	}
	cmd.AddCommand(newBenchReplayCommand(cfg), newBenchNodeCommand(cfg), newBenchCheckoutCommand(), newBenchCallbacksCommand(), newBenchOwnWritesCommand())
	return cmd
}

// benchOptions are what the command line says of a measurement.
type benchOptions struct {
	target      string
	concurrency int
	duration    time.Duration
	count       int
	skus        int
	hot         bool
	buyers      int
	stock       int64
	warmup      time.Duration
	json        bool
}

func newBenchCheckoutCommand() *cobra.Command {
	var opt benchOptions
	cmd := &cobra.Command{
		Use:   "checkout",
		Short: "Check out carts of one unit, as fast as they are answered",
		Long: `Checkout keeps a number of checkouts under way, each of one unit of one SKU, and
sends the next when one is answered (a closed loop). It makes SKUs, stock and
buyers of its own, named after the run, so it may be run beside anything.

Order ids are drawn ahead, as many as the warm-up lets expect, so that the figures
are those of POST /v1/checkouts alone; what had to be drawn within the measured
time is told as "inline" and costs some rate.

While it runs it reads now and then, with the token of a checkout that was just
answered, the buyer's and the seller's newest orders: "lag" is the time from the
answer until the view shows the order.

In the end it asks the stock: as many units have to be held as orders were placed,
never more than there are, and nobody may have been refused while some were left.
A request that was not answered, or by 5xx, may have been carried out or not. The
whole run must be shorter than the server's --pay-within, which frees unpaid goods.

Exit codes: 0 done, 1 failed, 2 usage, 3 the stock is not what it has to be.`,
		Example: `  cartwright bench checkout --duration 30s --json
  cartwright bench checkout --hot
  cartwright bench checkout --hot --stock 100 --count 2000 --concurrency 2000`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			said := cmd.Flags().Changed
			if said("count") && said("duration") || said("hot") && said("skus") {
				return usage(errors.New("count and duration exclude each other, and so do hot and skus"))
			}
			if opt.count > 0 && !said("warmup") {
				opt.warmup = 0 // what is counted shall be all there is
			}
			return opt.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.target, "target", "http://127.0.0.1:8080", "the server's address")
	f.IntVar(&opt.concurrency, "concurrency", 32, "checkouts under way at once")
	f.DurationVar(&opt.duration, "duration", 10*time.Second, "how long is measured")
	f.IntVar(&opt.count, "count", 0, "how many checkouts are measured, instead of a duration")
	f.IntVar(&opt.skus, "skus", 1000, "SKUs that carts are spread over")
	f.BoolVar(&opt.hot, "hot", false, "one SKU that everybody wants")
	f.IntVar(&opt.buyers, "buyers", 1000, "buyers who check out in turn")
	f.Int64Var(&opt.stock, "stock", 10_000_000, "units of each SKU")
	f.DurationVar(&opt.warmup, "warmup", 2*time.Second, "how long runs before it is measured (0 with --count, unless said)")
	f.BoolVar(&opt.json, "json", false, "print the result as JSON, and nothing else, to standard output")
	return cmd
}

// Bounds of a measurement; stock is the API's.
const (
	maxSKUs       = 1_000_000
	maxStock      = 1_000_000_000
	maxBenchCount = 10_000_000
	maxAhead      = 2_000_000 // ids drawn for a duration
)

func (opt *benchOptions) check() error {
	if opt.hot {
		opt.skus = 1
	}
	switch {
	case opt.concurrency < 1 || opt.concurrency > maxConcurrency:
		return fmt.Errorf("concurrency is 1 to %d", maxConcurrency)
	case opt.count < 0 || opt.count > maxBenchCount:
		return fmt.Errorf("count is 1 to %d", maxBenchCount)
	case opt.count == 0 && opt.duration <= 0, opt.warmup < 0:
		return errors.New("a duration is positive")
	case opt.skus < 1 || opt.skus > maxSKUs || opt.buyers < 1 || opt.buyers > maxSKUs:
		return fmt.Errorf("skus and buyers are 1 to %d", maxSKUs)
	case opt.stock < 1 || opt.stock > maxStock:
		return fmt.Errorf("stock is 1 to %d", maxStock)
	}
	return nil
}

// run measures and prints the result to out; all else goes to errs.
func (opt *benchOptions) run(ctx context.Context, out, errs io.Writer) error {
	if err := opt.check(); err != nil {
		return usage(err)
	}
	api, err := newClient(opt.target, opt.concurrency+len(lagProbes))
	if err != nil {
		return usage(err)
	}
	defer api.close()
	b := newCheckoutBench(*opt, api, errs)
	report, err := b.run(ctx)
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
		return errors.New("bench: not one checkout was placed")
	}
	return nil
}

// A checkoutBench measures checkouts of a server.
type checkoutBench struct {
	benchOptions
	api    *client
	errs   io.Writer
	name   string // of the run; SKUs, sellers and buyers are named after it
	goods  []benchSKU
	buyers []string
}

// A benchSKU is what is sold.
type benchSKU struct{ sku, seller string }

// benchSellers is how many sellers share the SKUs.
const benchSellers = 50

func newCheckoutBench(opt benchOptions, api *client, errs io.Writer) *checkoutBench {
	b := &checkoutBench{benchOptions: opt, api: api, errs: errs, name: "bench-" + uuid.NewString()[:8]}
	for i := range opt.skus {
		b.goods = append(b.goods, benchSKU{fmt.Sprintf("%s-%d", b.name, i), fmt.Sprintf("%s-s%d", b.name, i%benchSellers)})
	}
	for i := range opt.buyers {
		b.buyers = append(b.buyers, fmt.Sprintf("%s-b%d", b.name, i))
	}
	return b
}

// A benchReport is what was measured. Latencies are of checkouts that were
// answered, refusals too.
type benchReport struct {
	Scenario    string           `json:"scenario"`
	Run         string           `json:"run"`
	Concurrency int              `json:"concurrency"`
	SKUs        int              `json:"skus"`
	Hot         bool             `json:"hot"`
	DurationS   float64          `json:"duration_s"`
	Count       int64            `json:"count"` // orders placed
	Rate        float64          `json:"rate"`  // orders placed a second
	Errors      map[string]int64 `json:"errors"`
	Latency
	IDs       benchIDs           `json:"ids"`
	Lag       map[string]Latency `json:"lag"` // until a view shows an order, by view
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

// run sets everything up, measures, and checks what came of it.
func (b *checkoutBench) run(ctx context.Context) (benchReport, error) {
	report := benchReport{Scenario: "checkout", Run: b.name, Concurrency: b.concurrency, SKUs: b.skus, Hot: b.hot}
	if err := b.setUp(ctx); err != nil {
		return report, err
	}
	warm, err := b.load(ctx, quota{end: time.Now().Add(b.warmup)}, nil, nil)
	if err != nil {
		return report, err
	}
	ids, rate, err := b.drawAhead(ctx, b.expected(warm))
	if err != nil {
		return report, err
	}
	b.say("measuring")
	probes := newLagProbes(b.api)
	done := probes.run(ctx)
	until := quota{end: time.Now().Add(b.duration)}
	if b.count > 0 {
		until = quota{count: int64(b.count)}
	}
	measured, err := b.load(ctx, until, ids, probes)
	report.Lag = done()
	if err != nil {
		return report, err
	}
	report.DurationS, report.Count, report.Errors = rounded(measured.took.Seconds()), measured.placed(), measured.errors
	report.Rate = rounded(float64(report.Count) / max(measured.took.Seconds(), 1e-9))
	report.Latency = latencyOf(measured.latency)
	report.IDs = benchIDs{len(ids), rounded(rate), measured.inline}
	b.say("checking the stock")
	start := time.Now()
	report.Check, err = b.verify(ctx, warm, measured)
	report.VerifiedS = rounded(time.Since(start).Seconds())
	return report, err
}

// say tells people what is going on.
func (b *checkoutBench) say(what string) { _, _ = fmt.Fprintln(b.errs, what) } // nobody may listen

// expected is how many ids the measured time will take, with some to spare.
func (b *checkoutBench) expected(warm benchLoad) int {
	if b.count > 0 {
		return b.count
	}
	if warm.took <= 0 {
		return 0
	}
	return int(min(maxAhead, 1.25*float64(warm.answered())/warm.took.Seconds()*b.duration.Seconds()))
}

// print writes the report for people.
func (r benchReport) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, values ...any) { // Flush tells whether it could be written
		_, _ = fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, values...))
	}
	row("scenario", "%s, %d SKUs, %d at once", r.Scenario, r.SKUs, r.Concurrency)
	row("placed", "%d in %.1f s, %.0f/s", r.Count, r.DurationS, r.Rate)
	row("latency", "%s", r.Latency)
	for _, view := range slices.Sorted(maps.Keys(r.Lag)) {
		row("lag of "+view, "%s", r.Lag[view])
	}
	for _, slug := range slices.Sorted(maps.Keys(r.Errors)) {
		row("refused", "%d %s", r.Errors[slug], slug)
	}
	row("order ids", "%d ahead at %.0f/s, %d inline", r.IDs.Ahead, r.IDs.Rate, r.IDs.Inline)
	row("stock", "%d taken for %d placed, %d unknown; read after %.1f s", r.Check.Taken, r.Check.Placed, r.Check.Unknown, r.VerifiedS)
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
