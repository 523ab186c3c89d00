package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cartwright/infra/sandboxpay"
)

// callbackOptions are what the command line says of a measurement of callbacks.
type callbackOptions struct {
	benchOptions
	listen     string
	merchant   string
	secretFile string
}

func newBenchCallbacksCommand(cfg config) *cobra.Command {
	var opt callbackOptions
	cmd := &cobra.Command{
		Use:   "callbacks --secret-file F",
		Short: "Call back for payments, as fast as it is answered",
		Long: `Callbacks checks out carts and starts a payment of each by the sandbox channel, whose
part it plays itself at --listen. Then it calls back for all of them, signed, a
number at once, and measures how long the answers take: SUCCESS says that the money
is on record.

What the process makes of it runs meanwhile and after: "drained" is how long after
the last answer every order was paid and every unit in the ledger.

The server has to be told of the sandbox:
  CARTWRIGHT_SANDBOX_URL=http://127.0.0.1:8090 CARTWRIGHT_SANDBOX_SECRET_FILE=F cartwright serve

Exit codes: 0 done, 1 failed, 2 usage, 3 a payment is not what it has to be.`,
		Example: `  cartwright bench callbacks --secret-file F --count 10000 --concurrency 64 --json`,
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return opt.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	opt.serverFlags(f, cfg)
	f.StringVar(&opt.listen, "listen", "127.0.0.1:8090", "where the server looks for the sandbox channel")
	f.StringVar(&opt.merchant, "merchant", "cartwright", "the merchant's name at the sandbox")
	f.StringVar(&opt.secretFile, "secret-file", "", "the secret of the sandbox")
	f.IntVar(&opt.concurrency, "concurrency", 64, "callbacks under way at once")
	f.IntVar(&opt.count, "count", 5000, "how many payments")
	f.IntVar(&opt.skus, "skus", 1000, "SKUs that carts are spread over")
	f.BoolVar(&opt.json, "json", false, "print the result as JSON, and nothing else, to standard output")
	return cmd
}

// run measures and prints the result to out; all else goes to errs.
func (opt *callbackOptions) run(ctx context.Context, out, errs io.Writer) error {
	opt.buyers, opt.stock = min(opt.count, 1000), maxStock
	if opt.count < 1 {
		return usage(errors.New("count is 1 or more"))
	}
	if err := opt.check(); err != nil {
		return usage(err)
	}
	word, err := secret("", opt.secretFile)
	if err != nil {
		return usage(fmt.Errorf("the sandbox's secret: %w", err))
	}
	api, err := newClient(opt.targets[0], opt.concurrency)
	if err != nil {
		return usage(err)
	}
	defer api.close()
	m, err := opt.meter()
	if err != nil {
		return usage(err)
	}
	defer m.close()
	b := &callbackBench{checkoutBench: newCheckoutBench(opt.benchOptions, api, errs), secret: word, merchant: opt.merchant}
	stop, err := b.playSandbox(ctx, opt.listen)
	if err != nil {
		return err
	}
	report, err := b.callBacks(ctx, m)
	if err = errors.Join(err, stop()); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if opt.json {
		err = printJSON(out, report)
	} else {
		err = report.print(out)
	}
	if err == nil && len(report.Differences) > 0 {
		err = &exitError{exitDifferences, fmt.Errorf("bench: %s", report.Differences[0])}
	}
	return err
}

// A callbackBench measures callbacks of payments that it has made.
type callbackBench struct {
	*checkoutBench
	secret, merchant string
	payments         []string
}

// A callbackReport is what was measured.
type callbackReport struct {
	Scenario    string           `json:"scenario"`
	Run         string           `json:"run"`
	Concurrency int              `json:"concurrency"`
	Count       int64            `json:"count"` // callbacks answered by SUCCESS
	DurationS   float64          `json:"duration_s"`
	Rate        float64          `json:"rate"`
	Errors      map[string]int64 `json:"errors"`
	Latency
	DrainedS    float64          `json:"drained_s"`
	Generator   generatorFigures `json:"generator"`
	Server      *serverFigures   `json:"server,omitempty"`
	LeftOut     string           `json:"server_left_out,omitempty"` // why there is nothing of the server
	Differences []string         `json:"differences"`
}

// playSandbox is the channel that the server asks to take payments.
func (b *callbackBench) playSandbox(ctx context.Context, listen string) (stop func() error, err error) {
	s, err := sandboxpay.NewServer(sandboxpay.ServerConfig{Merchant: b.merchant, Secret: b.secret, Log: slog.New(slog.DiscardHandler), MaxPayments: maxBenchCount})
	if err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("play the sandbox: %w", err), s.Close())
	}
	server := &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	return func() error {
		err := server.Close()
		if served := <-done; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return errors.Join(err, s.Close())
	}, nil
}

func (b *callbackBench) callBacks(ctx context.Context, m *meter) (callbackReport, error) {
	r := callbackReport{Scenario: "callbacks", Run: b.name, Concurrency: b.concurrency, Errors: map[string]int64{}}
	if err := b.setUp(ctx); err != nil {
		return r, err
	}
	if err := b.startPayments(ctx); err != nil {
		return r, err
	}
	b.say("measuring")
	latency := newHistogram()
	var mu sync.Mutex // guards latency and r
	observed, spent, begun := m.observe(ctx), spending(), time.Now()
	err := b.each(ctx, len(b.payments), func(ctx context.Context, i int) error {
		start := time.Now()
		said := b.callBack(ctx, b.payments[i])
		mu.Lock()
		defer mu.Unlock()
		recordLatency(latency, time.Since(start))
		if said == "" {
			r.Count++
		} else {
			r.Errors[said]++
		}
		return nil
	})
	took := time.Since(begun)
	r.Generator = spent.since(latency.TotalCount())
	r.Server, r.LeftOut = observed.end(ctx, latency.TotalCount())
	if err != nil {
		return r, err
	}
	r.DurationS, r.Rate, r.Latency = rounded(took.Seconds()), rounded(float64(r.Count)/took.Seconds()), latencyOf(latency)
	b.say("waiting until all is paid")
	r.Differences, err = b.drain(ctx)
	r.DrainedS = rounded((time.Since(begun) - took).Seconds())
	return r, err
}

// startPayments makes a checkout and a payment for each callback.
func (b *callbackBench) startPayments(ctx context.Context) error {
	b.payments = make([]string, b.count)
	told := newProgress(b.errs, "payments started", b.count)
	defer told.end()
	return b.each(ctx, b.count, func(ctx context.Context, i int) error {
		defer told.step()
		id, err := b.draw(ctx, b.buyers[i%len(b.buyers)])
		if err != nil {
			return err
		}
		if _, err = b.api.checkout(ctx, id, b.goods[i%len(b.goods)].sku); err != nil {
			return err
		}
		var started struct {
			PaymentID string `json:"payment_id"`
		}
		path := pathOf("/v1/checkouts/", id.id, "/payments")
		_, err = b.api.do(ctx, request{method: http.MethodPost, path: path, key: id.id, body: map[string]string{"channel": "sandbox"}}, &started)
		b.payments[i] = started.PaymentID
		return err
	})
}

// benchTotal is what every cart costs.
const benchTotal = 1100

// callBack tells the server of one payment, and what was wrong with the answer.
func (b *callbackBench) callBack(ctx context.Context, payment string) string {
	body, err := json.Marshal(map[string]any{
		"merchant": b.merchant, "kind": "paid", "payment": payment, "trade": "bench" + payment,
		"amount": benchTotal, "currency": "BRL", "at": time.Now().UTC().Format(time.RFC3339Nano),
	})
	if err != nil {
		return err.Error()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.api.base+"/v1/channels/sandbox/callback", bytes.NewReader(body))
	if err != nil {
		return err.Error()
	}
	req.Header["Content-Type"] = jsonType
	req.Header.Set("Sandbox-Signature", sandboxpay.SignCallback(b.secret, time.Now(), body))
	resp, err := b.api.http.Do(req)
	if err != nil {
		return "no_answer"
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil || resp.StatusCode != http.StatusOK || strings.TrimSpace(string(text)) != "SUCCESS" {
		return fmt.Sprintf("%d %s", resp.StatusCode, text)
	}
	return ""
}

// drainWithin is how long the process may take to follow.
const drainWithin = 5 * time.Minute

// drain waits until every payment is what it has to be, and says which never were.
func (b *callbackBench) drain(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, drainWithin)
	defer cancel()
	var wrong atomic.Int64
	var mu sync.Mutex
	differences := []string{}
	err := b.each(ctx, len(b.payments), func(ctx context.Context, i int) error {
		for {
			difference := b.look(ctx, b.payments[i])
			if difference == "" {
				return nil
			}
			if !rest(ctx, 20*time.Millisecond) {
				mu.Lock()
				defer mu.Unlock()
				if wrong.Add(1) <= 10 {
					differences = append(differences, difference)
				}
				return nil
			}
		}
	})
	return differences, err
}

func (b *callbackBench) look(ctx context.Context, id string) string {
	var p struct {
		Status   string `json:"status"`
		Applied  bool   `json:"applied"`
		Captured struct {
			Amount int64 `json:"amount"`
		} `json:"captured"`
		Trades  []json.RawMessage `json:"trades"`
		Refunds []json.RawMessage `json:"refunds"`
	}
	if _, err := b.api.do(ctx, request{method: http.MethodGet, path: pathOf("/v1/payments/", id, "")}, &p); err != nil {
		return fmt.Sprintf("payment %s: %v", id, err)
	}
	if p.Status != "captured" || !p.Applied || p.Captured.Amount != benchTotal || len(p.Trades) != 1 || len(p.Refunds) != 0 {
		return fmt.Sprintf("payment %s is %s with %d, %d trades and %d refunds, its orders paid: %v",
			id, p.Status, p.Captured.Amount, len(p.Trades), len(p.Refunds), p.Applied)
	}
	return ""
}

// print writes the report for people.
func (r callbackReport) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, values ...any) { // Flush tells whether it could be written
		_, _ = fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, values...))
	}
	row("scenario", "%s, %d at once", r.Scenario, r.Concurrency)
	row("answered", "%d in %.1f s, %.0f/s", r.Count, r.DurationS, r.Rate)
	row("latency", "%s", r.Latency)
	r.Generator.print(row)
	r.Server.print(row, r.LeftOut)
	row("drained", "%.1f s after the last answer", r.DrainedS)
	for said, n := range r.Errors {
		row("refused", "%d %s", n, said)
	}
	for _, difference := range r.Differences {
		row("difference", "%s", difference)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}
