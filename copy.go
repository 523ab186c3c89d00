package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cartwright/infra/esdbstore"
)

// leftBehind are the categories that do not go along when a history moves:
// bookmarks say how far a relay was in the other log, and snapshots are made
// again. Everything else does, whatever it is.
func leftBehind() []string { return []string{"relay", "snapshot"} }

// A logAddress is one side of a copy.
type logAddress struct {
	address string
	login
}

type copySettings struct {
	From login `envPrefix:"CARTWRIGHT_FROM_"`
	To   login `envPrefix:"CARTWRIGHT_TO_"`
}

func newCopyCommand(cfg config) *cobra.Command {
	said, bad := env.ParseAs[copySettings]()
	from, to := logAddress{login: said.From}, logAddress{login: said.To}
	if to.login == (login{}) {
		to.login = cfg.EventStoreLogin
	}
	var verifyOnly, exact, asJSON bool
	cmd := &cobra.Command{
		Use:   "copy --from DIR|esdb://… --to esdb://…|unix:///…",
		Short: "Carry a history from one event log to another",
		Long: `Carry the whole history of one event log to another, from the embedded one to a
cluster or back, and compare the two at the end.

  cartwright copy --from ./data --to esdb://db-1:2113,db-2:2113,db-3:2113 --to-ca-file ca.crt --to-user shop --to-password-file F
  cartwright copy --from ./data --to … --verify-only

Events keep their ids, types, data, metadata and revisions; the time each was
stored goes along in its metadata. Relay bookmarks and snapshots stay, so that at
the new place everything is relayed and views are built from the beginning;
streams with a tombstone arrive as tombstones. Take the master key along.

Events of one stream, and those of one checkout, keep their order. Others may
change places, over no more than 2,048 events; with --exact-order none do, and it
takes some ten times as long.

A copy that was broken off goes on where it was when the same command is given
again. A target with another history is refused, and the stream and revision
named. What is appended to the source meanwhile is left for the next run: stop
what writes there before the last one.

Exit code 3 says that the two differ, and how is listed.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(bad, from.check(), to.check()); err != nil {
				return usage(err)
			}
			if from.address == "" || !strings.Contains(to.address, "://") {
				return usage(errors.New("--from is a data folder or esdb://…, --to is esdb://… or unix:///…"))
			}
			t := newCopyTeller(cmd.OutOrStdout(), asJSON)
			return copyLog(cmd.Context(), cfg, &from, &to, t, copyOptions{verifyOnly: verifyOnly, exact: exact})
		},
	}
	f := cmd.Flags()
	f.TextVar(&cfg.LogLevel, "log-level", cfg.LogLevel, "debug, info, warn or error (CARTWRIGHT_LOG_LEVEL)")
	from.flags(f, "from", "a data folder, or esdb://… or unix:///path, to copy from")
	to.flags(f, "to", "esdb://… or unix:///path to copy to")
	f.BoolVar(&verifyOnly, "verify-only", false, "copy nothing, only compare")
	f.BoolVar(&exact, "exact-order", false, "keep the order of all events, one append at a time")
	f.BoolVar(&asJSON, "json", false, "print JSON lines")
	return cmd
}

func (a *logAddress) flags(f *pflag.FlagSet, side, what string) {
	variable := "(CARTWRIGHT_" + strings.ToUpper(side) + "_%s)"
	f.StringVar(&a.address, side, "", what)
	f.StringVar(&a.User, side+"-user", a.User, "a user there "+fmt.Sprintf(variable, "USER"))
	f.StringVar(&a.PasswordFile, side+"-password-file", a.PasswordFile, "the file with the password "+fmt.Sprintf(variable, "PASSWORD_FILE"))
	f.StringVar(&a.CAFile, side+"-ca-file", a.CAFile, "the certificates to trust there "+fmt.Sprintf(variable, "CA_FILE"))
	f.StringVar(&a.CertFile, side+"-cert-file", a.CertFile, "a user's certificate "+fmt.Sprintf(variable, "CERT_FILE"))
	f.StringVar(&a.KeyFile, side+"-key-file", a.KeyFile, "its key "+fmt.Sprintf(variable, "KEY_FILE"))
}

// open opens the log at an address: another process's, or that of a folder.
func (a *logAddress) open(ctx context.Context, cfg config) (*esdbstore.Store, func(context.Context) error, error) {
	if !strings.Contains(a.address, "://") {
		l, err := openFolderLog(ctx, cfg, a.address)
		if err != nil {
			return nil, nil, err
		}
		return l.Store, l.close, nil
	}
	c := esdbstore.Config{URI: a.address}
	if !strings.HasPrefix(a.address, "unix://") {
		password, err := a.password()
		if err != nil {
			return nil, nil, err
		}
		c.User, c.Password, c.CAFile, c.CertFile, c.KeyFile = a.User, password, a.CAFile, a.CertFile, a.KeyFile
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	s, err := esdbstore.Connect(ctx, c, cfg.logger())
	if err != nil {
		return nil, nil, err
	}
	return s, func(context.Context) error { return s.Close() }, nil
}

type copyOptions struct{ verifyOnly, exact bool }

// copyLog copies, and compares what came of it.
func copyLog(ctx context.Context, cfg config, from, to *logAddress, t *copyTeller, o copyOptions) (err error) {
	source, closeSource, err := from.open(ctx, cfg)
	if err != nil {
		return fmt.Errorf("copy from: %w", err)
	}
	defer func() { err = errors.Join(err, closeSource(context.WithoutCancel(ctx))) }()
	target, closeTarget, err := to.open(ctx, cfg)
	if err != nil {
		return fmt.Errorf("copy to: %w", err)
	}
	defer func() { err = errors.Join(err, closeTarget(context.WithoutCancel(ctx))) }()

	c := esdbstore.Copy{From: source, To: target, Leave: leftBehind(), Exact: o.exact, Log: cfg.logger()}
	position := uint64(0)
	if !o.verifyOnly {
		c.Report = t.progress("copy")
		var done esdbstore.Copied
		if done, err = c.Run(ctx); err != nil {
			return err
		}
		position = done.Position
		if err = t.copied(done); err != nil {
			return err
		}
	}
	c.Report = t.progress("compare")
	compared, err := c.Compare(ctx, position)
	if err != nil {
		return err
	}
	return t.compared(ctx, source, compared)
}

// A copyTeller tells how far a copy is: a bar on a terminal, lines elsewhere, or
// JSON.
type copyTeller struct {
	out  io.Writer
	json *json.Encoder // nil for people
	bar  *progressbar.ProgressBar
	told time.Time
}

func newCopyTeller(out io.Writer, asJSON bool) *copyTeller {
	t := &copyTeller{out: out}
	if asJSON {
		t.json = json.NewEncoder(out)
	}
	return t
}

// copyNews is a line of JSON.
type copyNews struct {
	Phase    string                `json:"phase"` // copy, copied, compare or compared
	Events   uint64                `json:"events,omitempty"`
	Position uint64                `json:"position,omitempty"`
	End      uint64                `json:"end,omitempty"`
	Rate     float64               `json:"rate,omitempty"`         // events a second
	Left     float64               `json:"seconds_left,omitempty"` // by the rate so far
	Copied   *esdbstore.Copied     `json:"copied,omitempty"`
	Compared *esdbstore.Comparison `json:"compared,omitempty"`
	Since    bool                  `json:"source_went_on,omitempty"`
}

// progress tells of one phase. Who can't be told is no reason to stop.
func (t *copyTeller) progress(phase string) func(esdbstore.Progress) {
	t.bar, t.told = nil, time.Now()
	return func(p esdbstore.Progress) {
		ended := p.Position >= p.End
		switch {
		case t.json == nil && onTerminal(t.out):
			if t.bar == nil {
				t.bar = progressbar.NewOptions64(int64(p.End), progressbar.OptionSetDescription(phase), //nolint:gosec // a log's positions fit
					progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
			}
			t.bar.Describe(fmt.Sprintf("%s %d events, %.0f/s", phase, p.Events, p.Rate))
			_ = t.bar.Set64(int64(p.Position)) //nolint:gosec // as above
		case !ended && time.Since(t.told) < linesEvery:
		case t.json != nil:
			t.told = time.Now()
			_ = t.json.Encode(copyNews{Phase: phase, Events: p.Events, Position: p.Position, End: p.End, Rate: p.Rate, Left: p.Left.Seconds()})
		default:
			t.told = time.Now()
			line := fmt.Sprintf("%s: %d events, position %d of %d, %.0f events/s", phase, p.Events, p.Position, p.End, p.Rate)
			if !ended {
				line += fmt.Sprintf(", %s left", p.Left.Round(time.Second))
			}
			_, _ = fmt.Fprintln(t.out, line)
		}
	}
}

func (t *copyTeller) copied(c esdbstore.Copied) error {
	if t.json != nil {
		return t.json.Encode(copyNews{Phase: "copied", Copied: &c})
	}
	text := fmt.Sprintf("copied %d events up to position %d", c.Events, c.Position)
	if c.Resumed > 0 {
		text += fmt.Sprintf(", going on behind position %d", c.Resumed)
	}
	if c.Ended+c.Limited > 0 {
		text += fmt.Sprintf("; %d streams have a tombstone, %d have limits", c.Ended, c.Limited)
	}
	if c.Undated > 0 {
		text += fmt.Sprintf("; %d events of others take the time of the copy, as their metadata holds no other", c.Undated)
	}
	_, err := fmt.Fprintln(t.out, text)
	return err
}

// compared tells what is the same and what is not, and whether the source has
// moved on since.
func (t *copyTeller) compared(ctx context.Context, source *esdbstore.Store, c esdbstore.Comparison) error {
	head, err := source.Head(ctx)
	if err != nil {
		return err
	}
	since := head > c.Position
	if t.json != nil {
		err = t.json.Encode(copyNews{Phase: "compared", Compared: &c, Since: since})
	} else {
		err = t.showCompared(c, since)
	}
	if err == nil && !c.Same() {
		err = &exitError{code: exitDifferences, err: fmt.Errorf("the two logs differ in %d streams%s", len(c.Differences), orMore(c.More))}
	}
	return err
}

func orMore(more bool) string {
	if more {
		return " or more"
	}
	return ""
}

func (t *copyTeller) showCompared(c esdbstore.Comparison, since bool) error {
	var b strings.Builder
	for _, d := range c.Differences {
		fmt.Fprintf(&b, "%s: revision %d in the source, %d in the target: %s\n", d.Stream, d.From, d.To, d.Detail)
	}
	for _, side := range []struct {
		name string
		esdbstore.Side
	}{{"source", c.From}, {"target", c.To}} {
		fmt.Fprintf(&b, "%s  %d events of %d streams, %d tombstones, digest %s\n", side.name, side.Events, side.Streams, side.Ended, side.Digest)
	}
	if since {
		fmt.Fprintf(&b, "the source has gone on behind position %d: copy again when nothing writes there any more\n", c.Position)
	}
	_, err := io.WriteString(t.out, b.String())
	return err
}
