package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"cartwright/infra/sandboxpay"
)

// sandboxOptions are what the command line says of a sandbox channel.
type sandboxOptions struct {
	channel       sandboxpay.ServerConfig
	listen        string
	anywhere      bool
	secretFile    string
	oldSecretFile string
	json          bool
	logLevel      slog.Level
}

func newSandboxChannelCommand() *cobra.Command {
	var opt sandboxOptions
	cmd := &cobra.Command{
		Use:   "sandbox-channel --merchant M --secret-file F",
		Short: "Run a payment channel without money, for tests and demos",
		Long: `Run a payment channel in which no money moves: it takes payments, calls back
signed, and gives out a daily bill. It stands in for a real channel in tests and
demos, and brings about what real ones do on bad days.

A buyer pays on the page that the payment's instruction names, or by
  curl -X POST http://127.0.0.1:8090/pay/PAYMENT
  curl -X POST http://127.0.0.1:8090/pay/PAYMENT -d '{"outcome":"failed"}'
  curl -X POST http://127.0.0.1:8090/pay/PAYMENT -d '{"amount":1,"currency":"CNY"}'   (another amount than was asked for)
or by itself, with --auto-pay. Callbacks go to --notify until they are answered by
SUCCESS; with none, the shop has to ask. Of all callbacks
  --drop    this share is never made: the shop has to ask
  --repeat  this share is made twice, half of these at the same time
  --late    this share is made --late-by later
and --reorder N gathers N callbacks, or as many as come in --gather, and shuffles
them. No more than one of the three befalls a callback, so together they are 1 at
most. What befalls which hangs on --seed and the payment's id alone: a run with
the same ids can be had again.

With --dir all is kept in a journal there, on disk before it is answered: after a
restart, or a kill, payments stand as they stood, and callbacks that nobody
acknowledged are made again. Without it all is forgotten at the end.

GET /v1/status counts what was done, and so does the last line when it stops.
The merchant's requests and the callbacks are signed with the secret; the bill is
GET /v1/bills/2026-03-14.csv, signed too. To change secrets, give the new one as
--secret-file and the old one as --old-secret-file until the shop has the new one.

Buyers' calls are not signed: whoever reaches the address can pay. So it listens
on loopback only, unless --anywhere says that something else keeps others out.`,
		Example: `  cartwright sandbox-channel --merchant demo --secret-file secret --notify http://127.0.0.1:8080/v1/channels/sandbox/callback
  cartwright sandbox-channel --merchant demo --secret-file secret --notify URL --auto-pay 1s --fail-share 0.05
  cartwright sandbox-channel --merchant demo --secret-file secret --notify URL --auto-pay 1s \
    --drop 0.2 --repeat 0.2 --late 0.1 --late-by 5s --reorder 20 --seed 7 --dir data/sandbox --json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return opt.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	opt.flags(cmd.Flags())
	return cmd
}

func (opt *sandboxOptions) flags(f *pflag.FlagSet) {
	c := &opt.channel
	f.StringVar(&opt.listen, "listen", "127.0.0.1:8090", "host:port to listen on")
	f.BoolVar(&opt.anywhere, "anywhere", false, "listen where others can reach it, who can then pay what they like")
	f.StringVar(&c.Merchant, "merchant", "", "the shop's name at the channel")
	f.StringVar(&opt.secretFile, "secret-file", "", "the file with the secret of shop and channel")
	f.StringVar(&opt.oldSecretFile, "old-secret-file", "", "the file with the secret before, while it changes")
	f.StringVar(&c.NotifyURL, "notify", "", "the shop's address for callbacks; nobody is called if empty")
	f.Float64Var(&c.Faults.Drop, "drop", 0, "the share of callbacks that are never made")
	f.Float64Var(&c.Faults.Repeat, "repeat", 0, "the share of callbacks that are made twice")
	f.Float64Var(&c.Faults.Late, "late", 0, "the share of callbacks that are made late")
	f.DurationVar(&c.Faults.LateBy, "late-by", 5*time.Second, "how late that is")
	f.IntVar(&c.Faults.Reorder, "reorder", 0, "how many callbacks are gathered and shuffled")
	f.DurationVar(&c.Faults.Gather, "gather", time.Second, "how long they are gathered at most")
	f.DurationVar(&c.Faults.ExpireAfter, "expire-after", 0, "how long payments can be made at most; 0 as they say themselves")
	f.DurationSliceVar(&c.Retry, "retry", sandboxpay.DefaultRetry(), "waits between tries of a callback, the last one again and again")
	f.IntVar(&c.Workers, "workers", 16, "callbacks under way at once")
	f.DurationVar(&c.CallWait, "call-wait", 5*time.Second, "how long an answer to a callback may take")
	f.DurationVar(&c.AutoPay, "auto-pay", 0, "payments are paid by themselves after so long; 0 for not")
	f.Float64Var(&c.FailShare, "fail-share", 0, "the share of these that fail instead")
	f.DurationVar(&c.RefundAfter, "refund-after", 0, "how long refunds are pending")
	f.Float64Var(&c.RefundFailShare, "refund-fail-share", 0, "the share of refunds that fail")
	f.StringVar(&c.Dir, "dir", "", "the folder that outlives a restart; all is forgotten if empty")
	f.IntVar(&c.MaxPayments, "max-payments", 200_000, "payments it takes, all days together")
	f.Uint64Var(&c.Seed, "seed", 1, "what chance hangs on")
	f.BoolVar(&opt.json, "json", false, "print JSON lines, and log JSON")
	f.TextVar(&opt.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
}

// check reads the secrets, and refuses what makes no sense.
func (opt *sandboxOptions) check() (err error) {
	c := &opt.channel
	if c.Merchant == "" || opt.secretFile == "" {
		return errors.New("whose channel is it? --merchant and --secret-file say so")
	}
	if !opt.anywhere && !loopback(opt.listen) {
		return fmt.Errorf("others can reach %s, and could pay what they like: listen on 127.0.0.1, or say --anywhere", opt.listen)
	}
	if c.FailShare > 0 && c.AutoPay == 0 {
		return errors.New("--fail-share is of payments that pay themselves: it goes with --auto-pay")
	}
	for _, limit := range []struct {
		name  string
		value int64
	}{
		{"workers", int64(c.Workers)},
		{"max-payments", int64(c.MaxPayments)},
		{"call-wait", int64(c.CallWait)},
		{"gather", int64(c.Faults.Gather)},
		{"retry", int64(len(c.Retry))},
	} {
		if limit.value <= 0 {
			return fmt.Errorf("--%s is more than nothing", limit.name)
		}
	}
	if c.Secret, err = fileSecret("secret-file", opt.secretFile); err != nil {
		return err
	}
	c.OldSecret, err = fileSecret("old-secret-file", opt.oldSecretFile)
	return err
}

// fileSecret reads the secret in a file, if one is named.
func fileSecret(flag, file string) (string, error) {
	text, err := secret("", file)
	if err == nil && text == "" && file != "" {
		err = fmt.Errorf("%s is empty", file)
	}
	if err != nil {
		return "", fmt.Errorf("--%s: %w", flag, err)
	}
	return text, nil
}

// run runs the channel until ctx ends. What it says of itself goes to out, its
// log to errs.
func (opt *sandboxOptions) run(ctx context.Context, out, errs io.Writer) error {
	if err := opt.check(); err != nil {
		return usage(err)
	}
	if err := opt.channel.Check(); err != nil {
		return usage(err)
	}
	opt.channel.Log = opt.logger(errs)
	channel, err := sandboxpay.NewServer(opt.channel)
	if err != nil {
		return err
	}
	err = errors.Join(opt.serve(ctx, channel, out), channel.Close())
	if told := opt.tell(out, "cartwright sandbox-channel has stopped", "stopped", channel.Status()); err == nil {
		err = told
	}
	return err
}

func (opt *sandboxOptions) logger(w io.Writer) *slog.Logger {
	level := &slog.HandlerOptions{Level: opt.logLevel}
	if opt.json {
		return slog.New(slog.NewJSONHandler(w, level))
	}
	return slog.New(slog.NewTextHandler(w, level))
}

// serve listens, says so, and ends with ctx: first no request is taken any more,
// then callbacks end.
func (opt *sandboxOptions) serve(ctx context.Context, channel *sandboxpay.Server, out io.Writer) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", opt.listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	srv := &http.Server{
		Handler: channel, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve on %s: %w", l.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := srv.Shutdown(sctx); err != nil {
			return errors.Join(fmt.Errorf("requests under way were cut off: %w", err), srv.Close())
		}
		return nil
	})
	g.Go(func() error { return channel.Run(gctx) })
	g.Go(func() error {
		return opt.tell(out, "cartwright sandbox-channel is ready: http://"+l.Addr().String(), "ready", sandboxReady{
			URL: "http://" + l.Addr().String(), Merchant: opt.channel.Merchant, Notify: opt.channel.NotifyURL,
		})
	})
	return g.Wait()
}

// sandboxReady is what scripts read first.
type sandboxReady struct {
	URL      string `json:"url"`
	Merchant string `json:"merchant"`
	Notify   string `json:"notify,omitempty"`
}

// tell prints one line: what is so, for people, or what it is in detail as JSON.
func (opt *sandboxOptions) tell(out io.Writer, people, name string, detail any) error {
	raw, err := json.Marshal(map[string]any{name: detail})
	if err == nil && opt.json {
		people = string(raw)
	} else if st, ok := detail.(sandboxpay.Status); ok {
		people += fmt.Sprintf(": %d payments asked for, %d paid, %d failed, %d closed, %d refunds; %d callbacks acknowledged, %d dropped, %d late, %d repeated, %d tries refused, %d waiting",
			st.Created, st.Paid, st.Failed, st.Closed, st.Refunded, st.CalledBack, st.Dropped, st.Late, st.Repeated, st.Refused, st.Waiting)
	}
	if err == nil {
		_, err = fmt.Fprintln(out, people)
	}
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
