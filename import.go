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
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cartwright/domain/money"
)

// importOptions are what the command line says of an import.
type importOptions struct {
	target      string
	concurrency int
	currency    string
	json        bool
}

func newImportCommand() *cobra.Command {
	var opt importOptions
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Bring real orders in through the public API of a running server",
		Long: `Import reads orders, one JSON object a line, and brings each about through the
public API of a running server: its SKUs and stock, the buyer's account and
money, checkout, payment, parcels, delivery, completion or cancellation.

A line has order_id, buyer_id, status, purchased_at, approved_at, shipped_at,
delivered_at (RFC 3339, or null) and items; an item is one unit: line,
product_id, seller_id, price_minor, freight_minor, category (or null). A product
that was sold by several sellers, or at several prices or freights, becomes
several SKUs, each named <product>:<seller>:<price>:<freight>.

The status alone decides what is done:

  delivered             paid, shipped, delivered, completed
  shipped               paid, shipped
  invoiced, processing  paid
  canceled              paid, then cancelled, so refunded
  approved *            paid
  unavailable *         paid, then cancelled for want of stock, so refunded
  created, others *     placed
                        * told as an oddity

The times only date the steps, so the server must run with --allow-backdating;
otherwise the import ends before it writes anything. Completion is dated by
delivered_at, a cancellation by approved_at. Times of steps that are not taken,
missing times (the step before stands in), times that run backwards and missing
categories are told as oddities; no order is left out for them.

The whole file is read and checked first: a line that is no order ends the
import before anything is written. Every step is named by the order's id, so an
import may be run again, also after it was killed: what is done stays as it is.
A server that goes away is waited for, but not for 30 seconds.

The result counts orders of the shop: a source's order with lines of several
sellers becomes one for each. "created" are those placed by this run,
"unchanged" those for which there was nothing left to do.

Exit codes: 0 done, 1 failed, 2 usage or backdating off.`,
		Example: "  cartwright serve --allow-backdating &\n  cartwright import orders.jsonl --json",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return opt.run(cmd.Context(), args[0], cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.target, "target", "http://127.0.0.1:8080", "the server's address")
	f.IntVar(&opt.concurrency, "concurrency", 16, "orders imported at once")
	f.StringVar(&opt.currency, "currency", "BRL", "the currency of the file's amounts")
	f.BoolVar(&opt.json, "json", false, "print the result as JSON, and nothing else, to standard output")
	return cmd
}

// usageArgs makes a wrong number of arguments a usage error.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error { return usage(check(cmd, args)) }
}

func (opt importOptions) check() error {
	if opt.concurrency < 1 || opt.concurrency > maxConcurrency {
		return fmt.Errorf("concurrency is 1 to %d", maxConcurrency)
	}
	if !money.Valid(opt.currency) {
		return fmt.Errorf("%q is no ISO-4217 currency", opt.currency)
	}
	return nil
}

// maxConcurrency bounds what a tool does at once: connections, and orders.
const maxConcurrency = 4096

// run imports the file and prints the result to out; all else goes to errs.
func (opt importOptions) run(ctx context.Context, file string, out, errs io.Writer) error {
	if err := opt.check(); err != nil {
		return usage(err)
	}
	api, err := newClient(opt.target, opt.concurrency)
	if err != nil {
		return usage(err)
	}
	defer api.close()
	plan, err := planFile(file, time.Now())
	if err != nil {
		return err
	}
	told := newProgress(errs, "orders imported", len(plan.orders))
	im := &importer{api: api, currency: opt.currency, concurrency: opt.concurrency, done: told.step}
	report, err := im.run(ctx, plan)
	told.end()
	if err != nil {
		return importError(err)
	}
	if opt.json {
		return printJSON(out, report)
	}
	return report.print(out)
}

// importError says what to do about an import that ended early.
func importError(err error) error {
	switch {
	case slugOf(err) == "backdating_off":
		return usage(err)
	case errors.Is(err, context.Canceled):
		err = errors.New("stopped")
	}
	return fmt.Errorf("import: %w; what is done stays, and running it again goes on from there", err)
}

func planFile(name string, now time.Time) (importPlan, error) {
	f, err := os.Open(name) //nolint:gosec // whoever runs the command names the file
	if err != nil {
		return importPlan{}, fmt.Errorf("import: %w", err)
	}
	defer func() { _ = f.Close() }() // nothing was written to it
	orders, err := readOrders(f)
	if err != nil {
		return importPlan{}, fmt.Errorf("%s: %w; nothing was written", name, err)
	}
	plan, err := planImport(orders, now)
	if err != nil {
		return importPlan{}, fmt.Errorf("%s: %w; nothing was written", name, err)
	}
	return plan, nil
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

// print writes the report for people.
func (r *importReport) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name string, value any) { _, _ = fmt.Fprintf(w, "%s\t%v\n", name, value) } // Flush tells
	row("orders of the source", r.SourceOrders)
	row("orders", r.Orders)
	for _, status := range slices.Sorted(maps.Keys(r.ByStatus)) {
		row("  "+string(status), r.ByStatus[status])
	}
	row("gross", fmt.Sprintf("%d %s (minor units)", r.Gross.Amount, r.Gross.Currency))
	row("created", r.Created)
	row("unchanged", r.Unchanged)
	row("oddities", len(r.Oddities))
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	for _, o := range r.Oddities {
		if _, err := fmt.Fprintf(out, "  %s  %s: %s\n", o.OrderID, o.Kind, o.Detail); err != nil {
			return fmt.Errorf("print the oddities: %w", err)
		}
	}
	return nil
}
