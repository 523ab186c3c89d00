package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"cartwright/commands/reconcile"
)

// A reconciliation is what an operator asks for.
type reconciliation struct {
	grace   time.Duration
	asJSON  bool
	file    string // a channel's bill
	channel string
	from    string
	to      string
	repair  bool
	yes     bool

	bill []byte
	span [2]time.Time
}

// A reconciled log is the answer, as scripts get it.
type reconciled struct {
	reconcile.Report
	Repair *repaired `json:"repair,omitempty"`
}

// repaired is what was asked of the processes, or would be.
type repaired struct {
	Dry     bool      `json:"dry,omitempty"`
	Streams []retried `json:"streams"`
}

type retried struct {
	Stream string `json:"stream"`
	Failed string `json:"failed,omitempty"`
}

func newReconcileCommand(cfg config) *cobra.Command {
	var r reconciliation
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Check that money and stock add up, and a channel's bill",
		Long: `Read the event log once, up to where it ends now, and say whether money and stock
add up: every journal has two legs that sum to nothing, every account has what its
entries and the orders say, every paid order has its money and every captured
payment its orders, refunds and settlements stand in the ledger, and every SKU has
reserved what its orders should have. Nothing is changed.

  cartwright reconcile
  cartwright reconcile --json
  cartwright reconcile --bill 2026-03-14.csv --channel sandbox
  cartwright reconcile --repair            say which streams would be followed up again
  cartwright reconcile --repair --yes      do it, and check again

The exit code is 3 when anything does not add up, money that waits for a person
included: what nobody asked for, a trade of nobody's, a refund that its channel
refuses. What was touched less than --grace ago is merely under way: it is listed
apart and is no difference.

A bill is a CSV with the columns time, kind, trade, payment, refund, amount and
currency, found by their names; kind is payment or refund, and the amount is in
minor units. It is of the time from its first row to its last, unless --from and
--to say otherwise; --to is the first moment after it.

--repair asks the process again to bring about what streams call for. It appends
what any run of the process would append, and edits nothing.

It works beside a running serve, or alone.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := r.check(); err != nil {
				return usage(err)
			}
			return r.run(cmd.Context(), cfg, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cfg.backendFlags(cmd.Flags())
	f := cmd.Flags()
	f.BoolVar(&r.asJSON, "json", false, "print one JSON object")
	f.DurationVar(&r.grace, "grace", time.Minute, "what was touched less than this ago is under way")
	f.StringVar(&r.file, "bill", "", "a channel's bill to compare with, a CSV file")
	f.StringVar(&r.channel, "channel", "", "whose bill it is")
	f.StringVar(&r.from, "from", "", "when the bill begins, like 2026-03-14 or 2026-03-14T12:00:00Z")
	f.StringVar(&r.to, "to", "", "when it ends: the first moment that is not on it")
	f.BoolVar(&r.repair, "repair", false, "say which streams would be followed up again")
	f.BoolVar(&r.yes, "yes", false, "with --repair: do it")
	return cmd
}

// check refuses what contradicts itself, and reads the bill, before anything is opened.
func (r *reconciliation) check() (err error) {
	switch {
	case r.grace < 0:
		return errors.New("--grace is 0 or more")
	case r.yes && !r.repair:
		return errors.New("--yes goes with --repair")
	case r.file == "" && (r.channel != "" || r.from != "" || r.to != ""):
		return errors.New("--channel, --from and --to are about a bill: --bill FILE")
	case r.file == "":
		return nil
	case r.channel == "":
		return errors.New("whose bill is it? --channel NAME")
	}
	if r.span[0], err = moment(r.from); err == nil {
		r.span[1], err = moment(r.to)
	}
	if err != nil {
		return err
	}
	if !r.span[1].IsZero() {
		r.span[1] = r.span[1].Add(-1) // the last moment of it
	}
	if r.bill, err = os.ReadFile(r.file); err != nil {
		return err
	}
	_, err = r.readBill()
	return err
}

// readBill gives the bill anew: an audit marks in it what it has met.
func (r *reconciliation) readBill() (*reconcile.Bill, error) {
	if r.file == "" {
		return nil, nil
	}
	b, err := reconcile.ReadBill(strings.NewReader(string(r.bill)), r.channel, r.span[0], r.span[1])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.file, err)
	}
	return b, nil
}

func (r *reconciliation) run(ctx context.Context, cfg config, out, progress io.Writer) (err error) {
	s, err := openSystem(ctx, cfg, needs{log: true, shop: r.repair && r.yes})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	got := reconciled{}
	if got.Report, err = r.audit(ctx, s, progress); err != nil {
		return err
	}
	if r.repair {
		got.Repair = &repaired{Dry: !r.yes, Streams: []retried{}}
		for _, stream := range got.Retries() {
			got.Repair.Streams = append(got.Repair.Streams, retried{Stream: stream})
		}
	}
	if r.repair && r.yes && len(got.Repair.Streams) > 0 {
		if err = s.retry(ctx, got.Repair.Streams); err != nil {
			return err
		}
		if got.Report, err = r.audit(ctx, s, progress); err != nil {
			return err
		}
	}
	if err = r.show(out, got); err != nil {
		return err
	}
	if n := len(got.Findings); n > 0 {
		return &exitError{code: exitDifferences, err: fmt.Errorf("%d differences", n)}
	}
	return nil
}

// audit reads the log up to where it ends now.
func (r *reconciliation) audit(ctx context.Context, s *system, progress io.Writer) (reconcile.Report, error) {
	bill, err := r.readBill()
	if err != nil {
		return reconcile.Report{}, err
	}
	head, err := s.store.Head(ctx)
	if err != nil {
		return reconcile.Report{}, err
	}
	a := reconcile.New(reconcile.Config{Events: s.events, Grace: r.grace, Now: time.Now(), Bill: bill})
	var prefixes []string
	for _, c := range reconcile.Categories() {
		prefixes = append(prefixes, c+"-")
	}
	tell := readingTo(progress, head)
	for e, err := range s.store.All(ctx, 0, prefixes...) {
		if err != nil {
			return reconcile.Report{}, err
		}
		if e.Position > head {
			break
		}
		if err := a.Add(e); err != nil {
			return reconcile.Report{}, err
		}
		tell(e.Position)
	}
	tell(head)
	return a.Report(), nil
}

// readEvery is how many events are read between two words of how far it is.
const readEvery = 1000

// readingTo shows how far the log has been read, on a terminal, and says nothing
// elsewhere: an audit is read by scripts.
func readingTo(w io.Writer, head uint64) func(uint64) {
	if !onTerminal(w) {
		return func(uint64) {}
	}
	bar := progressbar.NewOptions64(int64(head), //nolint:gosec // a log's positions fit
		progressbar.OptionSetWriter(w), progressbar.OptionSetDescription("reconcile"),
		progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	count := 0
	return func(at uint64) {
		if count++; at < head && count%readEvery != 0 {
			return
		}
		_ = bar.Set64(int64(at)) //nolint:gosec // as above; and a terminal that takes no more is no reason to stop
	}
}

// retry has the process follow streams up again. What can't be is said with it,
// and stays a difference.
func (s *system) retry(ctx context.Context, streams []retried) error {
	for i := range streams {
		err := s.shop.Retry(ctx, streams[i].Stream, "reconcile")
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			streams[i].Failed = err.Error()
		}
	}
	return nil
}

func (r *reconciliation) show(w io.Writer, got reconciled) error {
	if r.asJSON {
		return json.NewEncoder(w).Encode(got)
	}
	var text strings.Builder
	showTotals(&text, &got.Report)
	for _, f := range got.Findings {
		showFinding(&text, f)
	}
	if len(got.UnderWay) > 0 {
		text.WriteString("under way, and no difference yet:\n")
	}
	for _, f := range got.UnderWay {
		showFinding(&text, f)
	}
	if p := got.Repair; p != nil {
		showRepair(&text, p)
	}
	fmt.Fprintf(&text, "%d differences, %d under way\n", len(got.Findings), len(got.UnderWay))
	_, err := io.WriteString(w, text.String())
	return err
}

func showTotals(w *strings.Builder, r *reconcile.Report) {
	fmt.Fprintf(w, "%d events up to position %d\n", r.Events, r.Position)
	fmt.Fprintf(w, "orders    %s\npayments  %s\n", counted(r.Orders), counted(r.Payments))
	fmt.Fprintf(w, "trades    %d, told otherwise later %d times\n", r.Trades, r.Contradicted)
	for _, t := range r.Totals {
		fmt.Fprintf(w, "\n%s, in minor units\n", t.Currency)
		fmt.Fprintf(w, "  orders    %d paid, %d refunded, %d settled with %d commission\n", t.Paid, t.Refunded, t.Settled, t.Commission)
		fmt.Fprintf(w, "  payments  %d captured, %d not asked for, %d returned\n", t.Captured, t.Mismatched, t.Returned)
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		_, _ = fmt.Fprintf(table, "  \taccounts\thas\tshould have\ton hold\t\n")
		for _, a := range t.Accounts {
			_, _ = fmt.Fprintf(table, "  %s\t%d\t%d\t%d\t%d\t\n", a.Kind, a.Accounts, a.Balance, a.Expected, a.Held)
		}
		_, _ = fmt.Fprintf(table, "  together\t\t%d\t0\t\t\n", t.Sum)
		_ = table.Flush() // into memory
	}
	if b := r.Bill; b != nil {
		fmt.Fprintf(w, "\nbill of %s, %s to %s: %d rows, %d agree, %d differ, %d twice, %d missing here, %d missing there\n",
			b.Channel, b.From.Format(time.RFC3339), b.To.Format(time.RFC3339), b.Rows, b.Agree, b.Differ, b.Twice, b.Missing, b.Extra)
	}
	w.WriteString("\n")
}

func counted(by map[string]int) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(by)) {
		all = append(all, fmt.Sprintf("%d %s", by[name], strings.ReplaceAll(name, "_", " ")))
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

func showFinding(w *strings.Builder, f reconcile.Finding) {
	w.WriteString(string(f.Kind))
	line := ""
	if f.Line > 0 {
		line = strconv.Itoa(f.Line)
	}
	for _, about := range [][2]string{
		{"stream", f.Stream},
		{"order", f.Order},
		{"payment", f.Payment},
		{"refund", f.Refund},
		{"trade", f.Trade},
		{"journal", f.Journal},
		{"account", f.Account},
		{"sku", f.SKU},
		{"line", line},
	} {
		if about[1] != "" {
			fmt.Fprintf(w, " %s %s", about[0], about[1])
		}
	}
	fmt.Fprintf(w, ": %s%s\n", f.Text, compared(f))
}

// compared says what is expected and what is there, as far as either is known.
func compared(f reconcile.Finding) string {
	var parts []string
	for _, of := range []struct {
		word string
		sum  *reconcile.Sum
	}{{"expected", f.Expected}, {"found", f.Actual}} {
		if of.sum != nil {
			parts = append(parts, strings.TrimSpace(fmt.Sprintf("%s %d %s", of.word, of.sum.Amount, of.sum.Currency)))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

func showRepair(w *strings.Builder, p *repaired) {
	for _, s := range p.Streams {
		switch {
		case p.Dry:
			fmt.Fprintf(w, "would be followed up again: %s\n", s.Stream)
		case s.Failed != "":
			fmt.Fprintf(w, "could not be followed up: %s: %s\n", s.Stream, s.Failed)
		default:
			fmt.Fprintf(w, "followed up again: %s\n", s.Stream)
		}
	}
	if p.Dry && len(p.Streams) > 0 {
		w.WriteString("nothing was done: that takes --yes\n")
	}
}
