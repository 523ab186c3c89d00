package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// teller prints news for people, or as JSON lines for scripts.
func teller(cmd *cobra.Command, asJSON bool, show func(io.Writer, news) error) func(news) error {
	out := cmd.OutOrStdout()
	if asJSON {
		lines := json.NewEncoder(out)
		return func(n news) error { return lines.Encode(n) }
	}
	return func(n news) error { return show(out, n) }
}

func newReplayCommand(cfg config) *cobra.Command {
	j := job{Do: "replay", Workers: runtime.GOMAXPROCS(0)}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "replay --view NAME|all",
		Short: "Rebuild views from the event log",
		Long: `Build a new generation of a view from the event log, beside the live one, and
switch to it in one step when it has caught up. Reads never stop, and nothing
but views is touched. The generation that was live is kept until the next replay.

A stream whose history cannot have happened is reported with its revision and
stops the replay; with --park it is parked in the new generation instead, and
all others are served.

  cartwright replay --view orders
  cartwright replay --view all --park
  cartwright replay --view all --dry-run      build and check, and throw it away
  cartwright replay --view orders --rollback  return to the generation that was live before, brought up to date

It asks the process that owns the data folder, or opens the folder when nobody does.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(j.Views) == 0 {
				return usage(errors.New("which view? --view NAME, or --view all"))
			}
			if j.Dry && j.Back {
				return usage(errors.New("--dry-run builds, and --rollback does not: which?"))
			}
			show := showProgress()
			return ask(cmd.Context(), cfg, j, teller(cmd, asJSON, show))
		},
	}
	cfg.backendFlags(cmd.Flags())
	cmd.Flags().StringSliceVar(&j.Views, "view", nil, "the views to rebuild, or all")
	cmd.Flags().IntVar(&j.Workers, "workers", j.Workers, "how many fold at once")
	cmd.Flags().BoolVar(&j.Park, "park", false, "park streams that make no sense, and go on")
	cmd.Flags().BoolVar(&j.Dry, "dry-run", false, "build and check a generation, and throw it away")
	cmd.Flags().BoolVar(&j.Back, "rollback", false, "return to the generation that was live before")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON lines")
	return cmd
}

// showProgress shows a bar on a terminal, and a line now and then elsewhere.
func showProgress() func(io.Writer, news) error {
	var bar *progressbar.ProgressBar
	var view string
	var told time.Time
	return func(w io.Writer, n news) error {
		switch p := n.Progress; {
		case n.Poison != nil:
			_, err := fmt.Fprintf(w, "%s: %s makes no sense at revision %d: %s\n", n.View, n.Poison.Stream, n.Poison.Revision, n.Poison.Reason)
			return err
		case p == nil:
			return nil
		case !onTerminal(w):
			if n.View == view && time.Since(told) < time.Second && p.Position < p.Head {
				return nil
			}
			view, told = n.View, time.Now()
			_, err := fmt.Fprintf(w, "%s: %d events of %d streams, position %d of %d, %.0f events/s\n",
				n.View, p.Events, p.Streams, p.Position, p.Head, p.Rate)
			return err
		default:
			if bar == nil || view != n.View {
				view = n.View
				bar = progressbar.NewOptions64(int64(p.Head), //nolint:gosec // a log's positions fit
					progressbar.OptionSetDescription(n.View), progressbar.OptionShowIts(), progressbar.OptionSetItsString("events"),
					progressbar.OptionSetPredictTime(true), progressbar.OptionOnCompletion(func() { fmt.Fprintln(os.Stderr) }))
			}
			return bar.Set64(int64(p.Position)) //nolint:gosec // as above
		}
	}
}

func onTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func newVerifyCommand(cfg config) *cobra.Command {
	j := job{Do: "verify"}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Compare the views with the event log",
		Long: `Fold every stream of the event log and compare the result with the views, field
by field. Each difference is listed: missing, stale, differs, extra, corrupt or
parked. The exit code is 3 when there are any. It may run while orders come in:
what is only on its way is no difference.

With --repair documents that are missing, stale or differ are replaced by what
their streams say, and the exit code is 3 when differences are left: what is
parked takes park redrive, the rest a replay.

It asks the process that owns the data folder, or opens the folder when nobody does.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			differences := int64(0)
			tell := teller(cmd, asJSON, showVerified)
			err := ask(cmd.Context(), cfg, j, func(n news) error {
				if n.Verified != nil {
					differences += n.Verified.Differences - n.Verified.Repaired
				}
				return tell(n)
			})
			if err == nil && differences > 0 {
				return &exitError{code: exitDifferences, err: fmt.Errorf("%d differences", differences)}
			}
			return err
		},
	}
	cfg.backendFlags(cmd.Flags())
	cmd.Flags().StringSliceVar(&j.Views, "view", nil, "only these views")
	cmd.Flags().BoolVar(&j.Repair, "repair", false, "replace documents that are missing, stale or differ")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON lines")
	return cmd
}

func showVerified(w io.Writer, n news) error {
	var err error
	switch d := n.Difference; {
	case d != nil:
		repaired := ""
		if d.Repaired {
			repaired = ", repaired"
		}
		_, err = fmt.Fprintf(w, "%s: %s %s: has revision %d, should have %d: %s%s\n", n.View, d.Stream, d.Kind, d.Have, d.Want, d.Detail, repaired)
	case n.Verified != nil:
		_, err = fmt.Fprintf(w, "%s: %d streams of %d events, %d differences\n", n.View, n.Verified.Streams, n.Verified.Events, n.Verified.Differences)
	}
	return err
}

func newStatusCommand(cfg config) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how far the relay, the views and the processes are",
		Long: `Show where the log ends, how far it is on the bus, how many events the views have
still to read, and what the processes did since the start of the process that
owns the data folder.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return askOwner(cmd.Context(), cfg, job{Do: "status"}, teller(cmd, asJSON, showStatus))
		},
	}
	cfg.dataFlag(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func showStatus(w io.Writer, n news) error {
	s := n.Status
	if s == nil {
		return nil
	}
	_, err := fmt.Fprintf(w, "event log    position %d\nrelay        position %d, oldest event waits %s\nviews        position %d, %d events to read\n"+
		"processes    %d reactions, %d failures\n", s.Head, s.Relayed, s.RelayLag, s.ViewsAt, s.BusLag, s.Reactions, s.Failures)
	if err == nil && s.RelaySaid != "" {
		_, err = fmt.Fprintf(w, "relay's last error: %s\n", s.RelaySaid)
	}
	return err
}

func newParkCommand(cfg config) *cobra.Command {
	park := &cobra.Command{
		Use:   "park",
		Short: "Look after streams that a view can't follow",
		Long: `A stream whose next event can't be read, or can't have happened, is parked in the
view that found out; all other streams go on. list names them; show prints
the event that one stands at, as the log has it; redrive reads them from the log
again, once the cause is mended.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return usage(errors.New("list, show or redrive?")) },
	}
	park.AddCommand(newParkJob(cfg, "list", "List parked streams", job{Do: "parked"}))
	park.AddCommand(newParkJob(cfg, "show", "Show what a stream is parked at", job{Do: "show"}))
	park.AddCommand(newParkJob(cfg, "redrive", "Follow parked streams again, from the log", job{Do: "redrive"}))
	return park
}

func newParkJob(cfg config, name, short string, j job) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: name, Short: short, Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if j.Do == "show" && j.Stream == "" {
				return usage(errors.New("which stream? --stream NAME"))
			}
			if strings.HasPrefix(j.Stream, "key-") {
				return usage(errors.New("key streams are in no view, and never shown"))
			}
			return ask(cmd.Context(), cfg, j, teller(cmd, asJSON, showParked))
		},
	}
	cfg.backendFlags(cmd.Flags())
	cmd.Flags().StringSliceVar(&j.Views, "view", nil, "only these views")
	if j.Do != "parked" {
		cmd.Flags().StringVar(&j.Stream, "stream", "", "only this stream")
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON lines")
	return cmd
}

func showParked(w io.Writer, n news) error {
	p := n.Parked
	if p == nil {
		return nil
	}
	_, err := fmt.Fprintf(w, "%s: %s stands at revision %d since %s, %d events wait: %s\n",
		p.View, p.Stream, p.Revision, p.At.UTC().Format(time.RFC3339), p.Count, p.Reason)
	if err != nil || n.Event == nil {
		return err
	}
	text, err := json.MarshalIndent(n.Event, "  ", "  ")
	if err == nil {
		_, err = fmt.Fprintf(w, "  %s\n", text)
	}
	return err
}
