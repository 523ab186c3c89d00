package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"cartwright/domain/event"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/personal"
	"cartwright/infra/token"
)

// ownWritesOptions are what the command line says of writers who read.
type ownWritesOptions struct {
	targets     []string
	readTargets []string // the targets, if none
	concurrency int
	duration    time.Duration
	rate        float64
	json        bool
}

func newBenchOwnWritesCommand() *cobra.Command {
	var opt ownWritesOptions
	cmd := &cobra.Command{
		Use:   "own-writes",
		Short: "Check that whoever wrote sees it, and measure how long that takes",
		Long: `Own-writes runs writers. Each places an order, and pays for every third and
cancels every third, and after each of these writes reads with the token that its
answer carried: the order by its id, the buyer's orders, the seller's orders, a
search for the order, and the seller's summary, with another one first each time.

Every answer has to contain what was acknowledged: the order at that revision or a
later one and with its status, and as many orders in the sums as there are. A
buyer and a seller of each writer's own make that exact; a seller whom all share,
with an order in every fourth cart, is held to each writer's share until the end,
and then to the sum. An answer that has less, or more, is "stale".

An answer that says "come again" (503 not_caught_up) is "late", one that failed
in passing "failed"; both are asked for again, as often and as soon as the server
says. Latencies are of reads until their answer, so they have all of that waiting.

Several targets are written to, and read from, in turn, so that it can be seen
whether one process shows what another has written. SKUs, stock, buyers with money
and sellers are the run's own, so it may be run beside anything. The whole run must
be shorter than the server's --pay-within.

Exit codes: 0 done, 1 failed, 2 usage, 3 an answer was stale.`,
		Example: `  cartwright bench own-writes --duration 30s --json
  cartwright bench own-writes --target http://w1:8080,http://w2:8080 --read-target http://r1:8080,http://r2:8080 --rate 500`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return opt.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&opt.targets, "target", []string{"http://127.0.0.1:8080"}, "the servers that are written to, in turn")
	f.StringSliceVar(&opt.readTargets, "read-target", nil, "the servers that are read from, in turn (those that are written to, unless said)")
	f.IntVar(&opt.concurrency, "concurrency", 32, "writers")
	f.DurationVar(&opt.duration, "duration", 10*time.Second, "how long they write")
	f.Float64Var(&opt.rate, "rate", 0, "writes a second of all of them, 0 for as many as are answered")
	f.BoolVar(&opt.json, "json", false, "print the result as JSON, and nothing else, to standard output")
	return cmd
}

func (opt *ownWritesOptions) check() error {
	if len(opt.readTargets) == 0 {
		opt.readTargets = opt.targets
	}
	switch {
	case opt.concurrency < 1 || opt.concurrency > maxConcurrency:
		return fmt.Errorf("concurrency is 1 to %d", maxConcurrency)
	case opt.duration <= 0:
		return errors.New("a duration is positive")
	case opt.rate < 0:
		return errors.New("a rate is positive, or 0 for no bound")
	case len(opt.targets) == 0:
		return errors.New("which server? --target URL")
	}
	return nil
}

// run measures and prints the result to out; all else goes to errs.
func (opt *ownWritesOptions) run(ctx context.Context, out, errs io.Writer) error {
	if err := opt.check(); err != nil {
		return usage(err)
	}
	b := &ownWritesBench{ownWritesOptions: *opt, name: "bench-" + uuid.NewString()[:8], pace: rate.NewLimiter(rate.Inf, 1), tally: newReadTally()}
	if opt.rate > 0 {
		b.pace = rate.NewLimiter(rate.Limit(opt.rate), 1)
	}
	defer b.close()
	var err error
	if b.write, err = clientsOf(opt.targets, opt.concurrency); err == nil {
		b.read, err = clientsOf(opt.readTargets, opt.concurrency)
	}
	if err != nil {
		return usage(err)
	}
	report, err := b.run(ctx, errs)
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
	case report.Stale > 0:
		return &exitError{exitDifferences, fmt.Errorf("bench: %d stale answers, the first: %s", report.Stale, report.Differences[0])}
	case report.Count == 0:
		return errors.New("bench: not one write was answered")
	}
	return nil
}

func clientsOf(targets []string, connections int) ([]*client, error) {
	var clients []*client
	for _, target := range targets {
		c, err := newClient(target, connections)
		if err != nil {
			return nil, err
		}
		clients = append(clients, c)
	}
	return clients, nil
}

// An ownWritesBench checks that writers see what they wrote.
type ownWritesBench struct {
	ownWritesOptions
	write, read []*client
	name        string // of the run; SKUs, sellers and buyers are named after it
	shared      benchSKU
	pace        *rate.Limiter
	tally       *readTally
}

func (b *ownWritesBench) close() {
	for _, c := range slices.Concat(b.write, b.read) {
		c.close()
	}
}

// ownWritesReport is what was measured. Latencies beside the rate are of writes.
type ownWritesReport struct {
	Scenario    string           `json:"scenario"`
	Run         string           `json:"run"`
	Concurrency int              `json:"concurrency"`
	DurationS   float64          `json:"duration_s"`
	Count       int64            `json:"count"` // writes that were answered
	Rate        float64          `json:"rate"`  // of them, a second
	Errors      map[string]int64 `json:"errors"`
	Latency
	Reads       map[string]readReport `json:"reads"` // by kind of query
	Stale       int64                 `json:"stale"` // of all kinds
	Late        int64                 `json:"late"`
	Differences []string              `json:"differences"`
}

// A readReport is what became of one kind of query.
type readReport struct {
	Reads  int64 `json:"reads"`
	Stale  int64 `json:"stale"`  // answers without what was acknowledged
	Late   int64 `json:"late"`   // answers that said to come again
	Failed int64 `json:"failed"` // times that no answer came, or none of use
	Latency
}

// run sets everything up, lets all write and read, and compares the end.
func (b *ownWritesBench) run(ctx context.Context, errs io.Writer) (ownWritesReport, error) {
	writers, err := b.setUp(ctx, errs)
	if err != nil {
		return ownWritesReport{}, err
	}
	_, _ = fmt.Fprintln(errs, "measuring") // nobody may listen
	start := time.Now()
	end := start.Add(b.duration)
	g, gctx := errgroup.WithContext(ctx)
	for _, w := range writers {
		g.Go(func() error { return w.work(gctx, end) })
	}
	if err = g.Wait(); err != nil {
		return ownWritesReport{}, err
	}
	took := time.Since(start)
	if err = b.settle(ctx, writers); err != nil {
		return ownWritesReport{}, err
	}
	r := b.tally.report()
	r.Scenario, r.Run, r.Concurrency, r.DurationS = "own-writes", b.name, b.concurrency, rounded(took.Seconds())
	r.Rate = rounded(float64(r.Count) / max(took.Seconds(), 1e-9))
	return r, nil
}

// setUp makes a writer of each buyer, who has money, with a seller of its own.
func (b *ownWritesBench) setUp(ctx context.Context, errs io.Writer) ([]*ownWriter, error) {
	b.shared = benchSKU{b.name + "-shared", b.name + "-everybodys"}
	shop := &checkoutBench{benchOptions: benchOptions{concurrency: b.concurrency, stock: maxStock}, api: b.write[0], errs: errs, goods: []benchSKU{b.shared}}
	writers := make([]*ownWriter, b.concurrency)
	for i := range writers {
		writers[i] = &ownWriter{
			bench: b, shop: shop, turn: i, buyer: fmt.Sprintf("%s-b%d", b.name, i),
			goods: benchSKU{fmt.Sprintf("%s-%d", b.name, i), fmt.Sprintf("%s-s%d", b.name, i)},
		}
		shop.goods = append(shop.goods, writers[i].goods)
	}
	if err := shop.setUp(ctx); err != nil {
		return nil, err
	}
	return writers, shop.each(ctx, len(writers), func(ctx context.Context, i int) error { return shop.fund(ctx, writers[i].buyer) })
}

// settle asks for the sums of the seller whom all share, once everybody's last
// order there is to be seen. One server is asked, so that this stays so.
func (b *ownWritesBench) settle(ctx context.Context, writers []*ownWriter) error {
	var all sales
	last := ""
	for _, w := range writers {
		all = all.and(w.shared)
		if w.sharedToken == "" {
			continue
		}
		last = w.sharedToken
		if err := b.ask(ctx, b.read[0], w.summary(b.shared.seller, w.shared.atLeast), last); err != nil {
			return err
		}
	}
	if last == "" {
		return nil
	}
	return b.ask(ctx, b.read[0], writers[0].summary(b.shared.seller, all.exactly), last)
}

// An ownWriter writes and reads, one after the other. Nobody else writes for its
// buyer, or to its seller.
type ownWriter struct {
	bench *ownWritesBench
	shop  *checkoutBench // of which it draws ids
	turn  int            // of which everything that varies depends
	buyer string
	goods benchSKU

	own, shared sales
	sharedToken string // of the last write to an order of the shared seller
}

// sales are what one writer knows of one seller's orders.
type sales struct {
	placed, paid, cancelled int64
	unknown                 int64 // writes that may have been carried out
}

func (s sales) and(o sales) sales {
	return sales{s.placed + o.placed, s.paid + o.paid, s.cancelled + o.cancelled, s.unknown + o.unknown}
}

// shownSums is what the read API shows of a seller's sums.
type shownSums struct {
	Orders   int64                  `json:"orders"`
	ByStatus map[order.Status]int64 `json:"by_status"`
}

// exactly says what of the sums can't be true when nobody else wrote; "" is nothing.
func (s sales) exactly(shown shownSums) string {
	for _, c := range []struct {
		what      string
		got, want int64
	}{
		{"orders", shown.Orders, s.placed},
		{"paid", shown.ByStatus[order.StatusPaid], s.paid},
		{"cancelled", shown.ByStatus[order.StatusCancelled], s.cancelled},
		{"pending", shown.ByStatus[order.StatusPending] + s.unknown, s.placed - s.paid - s.cancelled},
	} {
		more := s.unknown
		if c.what == "pending" {
			more *= 2 // those that were not placed after all, and those that were
		}
		if c.got < c.want || c.got > c.want+more {
			return fmt.Sprintf("%d %s, and %d were written (and %d may have been)", c.got, c.what, c.want, s.unknown)
		}
	}
	return ""
}

// atLeast is exactly where others write too.
func (s sales) atLeast(shown shownSums) string {
	if shown.Orders < s.placed || shown.ByStatus[order.StatusPaid] < s.paid || shown.ByStatus[order.StatusCancelled] < s.cancelled {
		return fmt.Sprintf("%d orders, %d paid, %d cancelled, and one writer alone has %d, %d and %d",
			shown.Orders, shown.ByStatus[order.StatusPaid], shown.ByStatus[order.StatusCancelled], s.placed, s.paid, s.cancelled)
	}
	return ""
}

// work writes until it is time to end; what was begun is finished.
func (w *ownWriter) work(ctx context.Context, end time.Time) error {
	for ; ctx.Err() == nil && time.Now().Before(end); w.turn++ {
		if err := w.round(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

var benchAddress = personal.Address{Name: "Bench", Line1: "Rua da Medida 1", City: "São Paulo", Country: "BR"}

// A placedCart is what was bought in one checkout, an order from each seller.
type placedCart struct {
	id     string
	Orders []struct {
		ID     string `json:"order_id"`
		Seller string `json:"seller_id"`
	} `json:"orders"`
}

// round places orders and then pays, cancels or leaves them.
func (w *ownWriter) round(ctx context.Context) error {
	id, err := w.shop.draw(ctx, w.buyer)
	if err != nil {
		return err
	}
	body := checkoutRequest{OrderID: id.id, Buyer: w.buyer, Items: []checkoutItem{{w.goods.sku, 1}}, Address: benchAddress}
	body.Expected = money.Money{Amount: 1100, Currency: "BRL"}
	if w.turn%4 == 3 {
		body.Items = append(body.Items, checkoutItem{w.bench.shared.sku, 1})
		body.Expected.Amount *= 2
	}
	bought := placedCart{id: id.id}
	out, ok, err := w.send(ctx, request{method: http.MethodPost, path: "/v1/checkouts", key: id.id, body: body}, &bought)
	if err != nil {
		return err
	}
	if !ok {
		w.own.unknown++
		if len(body.Items) > 1 {
			w.shared.unknown++
		}
		return nil
	}
	for _, o := range bought.Orders {
		w.salesOf(o.Seller).placed++
	}
	if err = w.look(ctx, bought, out.token, order.StatusPending); err != nil {
		return err
	}
	switch w.turn % 3 {
	case 0:
		return w.pay(ctx, bought)
	case 1:
		return w.cancel(ctx, bought)
	}
	return nil
}

func (w *ownWriter) salesOf(seller string) *sales {
	if seller == w.goods.seller {
		return &w.own
	}
	return &w.shared
}

func (w *ownWriter) pay(ctx context.Context, c placedCart) error {
	out, ok, err := w.send(ctx, request{method: http.MethodPost, path: pathOf("/v1/checkouts/", c.id, "/pay"), key: "pay-" + c.id}, nil)
	if err != nil {
		return err
	}
	for _, o := range c.Orders {
		if s := w.salesOf(o.Seller); ok {
			s.paid++
		} else {
			s.unknown++
		}
	}
	if !ok {
		return nil
	}
	return w.look(ctx, c, out.token, order.StatusPaid)
}

// cancel cancels the orders one after the other, and looks at each.
func (w *ownWriter) cancel(ctx context.Context, c placedCart) error {
	for _, o := range c.Orders {
		r := request{method: http.MethodPost, path: pathOf("/v1/orders/", o.ID, "/cancel"), key: "cancel-" + o.ID, body: map[string]order.Reason{"reason": order.ByBuyer}}
		out, ok, err := w.send(ctx, r, nil)
		if err != nil {
			return err
		}
		if !ok {
			w.salesOf(o.Seller).unknown++
			continue
		}
		w.salesOf(o.Seller).cancelled++
		one := c
		one.Orders = c.Orders[:0:0]
		one.Orders = append(one.Orders, o)
		if err = w.look(ctx, one, out.token, order.StatusCancelled); err != nil {
			return err
		}
	}
	return nil
}

// send sends a write until it is answered for good. One that was refused, or was
// given up, is counted, and the run goes on.
func (w *ownWriter) send(ctx context.Context, r request, into any) (out reply, ok bool, err error) {
	b := w.bench
	if err = b.pace.Wait(ctx); err != nil {
		return out, false, err
	}
	start := time.Now()
	out, err = b.write[w.turn%len(b.write)].do(ctx, r, into)
	switch {
	case err == nil:
		b.tally.wrote(time.Since(start))
		return out, true, nil
	case ctx.Err() != nil:
		return out, false, ctx.Err()
	}
	b.tally.failed(err)
	return out, false, nil
}

// look reads, with the token of a write, everything that has to show it.
func (w *ownWriter) look(ctx context.Context, c placedCart, told string, status order.Status) error {
	at, err := token.Decode(told)
	if err != nil {
		return fmt.Errorf("the answer to a write of %s has a token that makes no sense: %w", c.id, err)
	}
	queries := w.queries(c, at, status, told)
	for i := range queries {
		q := queries[(i+w.turn)%len(queries)]
		if err = w.bench.ask(ctx, w.bench.read[(w.turn+i+1)%len(w.bench.read)], q, told); err != nil {
			return err
		}
	}
	return nil
}

// A query is one read, and what has to be in its answer.
type query struct {
	kind, path string
	wrong      func(shownAnswer) string // "" is nothing
}

// A shownAnswer is one order, a list of them, or sums.
type shownAnswer struct {
	shownOrder
	shownSums
	Items []shownOrder `json:"items"`
}

type shownOrder struct {
	ID       string         `json:"order_id"`
	Status   order.Status   `json:"status"`
	Revision event.Revision `json:"revision"`
}

// queries are all that are asked after a write.
func (w *ownWriter) queries(c placedCart, at map[string]event.Revision, status order.Status, told string) []query {
	var all []query
	var wants []shownOrder
	for _, o := range c.Orders {
		want := shownOrder{o.ID, status, at["order-"+o.ID]}
		wants = append(wants, want)
		all = append(all, query{"order", pathOf("/v1/orders/", o.ID, ""), func(a shownAnswer) string { return want.missing([]shownOrder{a.shownOrder}) }})
		listed := query{"seller", pathOf("/v1/sellers/", o.Seller, "/orders"), func(a shownAnswer) string { return want.missing(a.Items) }}
		sums := w.summary(o.Seller, w.own.exactly)
		if o.Seller != w.goods.seller {
			listed.kind, listed.path = "search", listed.path+"?q="+o.ID // others may have newer ones
			sums, w.sharedToken = w.summary(o.Seller, w.shared.atLeast), told
		}
		all = append(all, listed, sums)
	}
	return append(all, query{"buyer", pathOf("/v1/buyers/", w.buyer, "/orders"), func(a shownAnswer) string {
		for _, want := range wants {
			if wrong := want.missing(a.Items); wrong != "" {
				return wrong
			}
		}
		return ""
	}})
}

func (w *ownWriter) summary(seller string, wrong func(shownSums) string) query {
	return query{"summary", pathOf("/v1/sellers/", seller, "/summary"), func(a shownAnswer) string { return wrong(a.shownSums) }}
}

// missing says how a list does not have the order as it has to be.
func (want shownOrder) missing(list []shownOrder) string {
	for _, got := range list {
		switch {
		case got.ID != want.ID:
			continue
		case got.Revision < want.Revision || got.Status != want.Status:
			return fmt.Sprintf("order %s is %s at revision %d, and was %s at %d", got.ID, got.Status, got.Revision, want.Status, want.Revision)
		}
		return ""
	}
	return fmt.Sprintf("order %s is not there, and was %s at %d", want.ID, want.Status, want.Revision)
}

// ask reads until there is an answer, and holds that against what was written.
func (b *ownWritesBench) ask(ctx context.Context, api *client, q query, told string) error {
	start := time.Now()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		var shown shownAnswer
		_, err := api.once(ctx, request{method: http.MethodGet, path: q.path, token: told}, nil, &shown)
		refusal, refused := errors.AsType[*refusalError](err)
		switch {
		case err == nil:
			b.tally.read(q, time.Since(start), q.wrong(shown))
			return nil
		case refused && refusal.status == http.StatusNotFound:
			b.tally.read(q, time.Since(start), "there is nothing: "+refusal.Error())
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		b.tally.late(q, err)
		wait, again := retry(err)
		if !again || time.Since(start) > verifyWithin {
			return fmt.Errorf("read %s: %w", q.path, err)
		}
		if !rest(ctx, max(wait, jitter(pause))) {
			return ctx.Err()
		}
	}
}

// A readTally counts what all writers found.
type readTally struct {
	mu          sync.Mutex // guards all of it
	writes      *hdrhistogram.Histogram
	errors      map[string]int64
	reads       map[string]*readReport
	latency     map[string]*hdrhistogram.Histogram
	differences []string
}

func newReadTally() *readTally {
	return &readTally{
		writes: newHistogram(), errors: map[string]int64{}, reads: map[string]*readReport{},
		latency: map[string]*hdrhistogram.Histogram{}, differences: []string{},
	}
}

func (t *readTally) wrote(took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	recordLatency(t.writes, took)
}

// failed counts a write that was refused, or not answered.
func (t *readTally) failed(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	slug := slugOf(err)
	if slug == "" {
		slug = "no_answer"
	}
	t.errors[slug]++
}

// of finds the counts of a kind of query.
func (t *readTally) of(kind string) (*readReport, *hdrhistogram.Histogram) {
	if t.reads[kind] == nil {
		t.reads[kind], t.latency[kind] = new(readReport), newHistogram()
	}
	return t.reads[kind], t.latency[kind]
}

func (t *readTally) read(q query, took time.Duration, wrong string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, latency := t.of(q.kind)
	r.Reads++
	recordLatency(latency, took)
	if wrong == "" {
		return
	}
	r.Stale++
	if len(t.differences) < maxDifferences {
		t.differences = append(t.differences, q.path+": "+wrong)
	}
}

// late counts an answer that was none.
func (t *readTally) late(q query, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, _ := t.of(q.kind)
	if slugOf(err) == "not_caught_up" {
		r.Late++
	} else {
		r.Failed++
	}
}

func (t *readTally) report() ownWritesReport {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := ownWritesReport{
		Count: t.writes.TotalCount(), Errors: t.errors, Latency: latencyOf(t.writes),
		Reads: map[string]readReport{}, Differences: t.differences,
	}
	for kind, of := range t.reads {
		of.Latency = latencyOf(t.latency[kind])
		r.Reads[kind] = *of
		r.Stale, r.Late = r.Stale+of.Stale, r.Late+of.Late
	}
	return r
}

// print writes the report for people.
func (r ownWritesReport) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, values ...any) { // Flush tells whether it could be written
		_, _ = fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, values...))
	}
	row("scenario", "%s, %d writers", r.Scenario, r.Concurrency)
	row("written", "%d in %.1f s, %.0f/s", r.Count, r.DurationS, r.Rate)
	row("latency", "%s", r.Latency)
	for _, kind := range slices.Sorted(maps.Keys(r.Reads)) {
		of := r.Reads[kind]
		row("read "+kind, "%d stale, %d late, %d failed; %s", of.Stale, of.Late, of.Failed, of.Latency)
	}
	for _, slug := range slices.Sorted(maps.Keys(r.Errors)) {
		row("refused", "%d %s", r.Errors[slug], slug)
	}
	for _, difference := range r.Differences {
		row("stale", "%s", difference)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}
