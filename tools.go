package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"runtime"
	"strconv"
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
	j := job{Do: "replay", Workers: runtime.GOMAXPROCS(0), Keep: 1}
	var c streamChoice
	var from, to string
	var asJSON, list bool
	cmd := &cobra.Command{
		Use:   "replay --view NAME|all",
		Short: "Rebuild views from the event log",
		Long: `Build a new generation of a view from the event log, beside the live one, and
switch to it in one step when it has caught up. Reads never stop, and nothing
but views is touched: no process and no callback sees a replay.

  cartwright replay --view orders
  cartwright replay --view all --dry-run      build and check, and throw it away
  cartwright replay --view orders --no-switch build and check, and leave it to the next replay to catch up and switch
  cartwright replay --view orders --keep 3    keep three earlier generations instead of one
  cartwright replay --view all --generations  name the generations there are
  cartwright replay --view orders --rollback  return to the generation that was live before, brought up to date
  cartwright replay --view orders --rollback --generation 4

A replay that was stopped or killed is gone on with by the next one, where the
engine keeps what was built (SQLite, Pebble, Elasticsearch) and the program is
the same; --anew begins at the beginning.

With one of these only some streams are folded anew, and put in the place of
whatever documents the live generation has of them:

  --stream order-… --stream order-…           these
  --buyer ID, --seller ID                     theirs (views of orders, and offers by seller)
  --from TIME, --to TIME                      what something happened to in between

A stream whose history cannot have happened is reported with its revision and
stops the replay; with --park it is parked instead, and all others are served.
One that was given up (park drop) stops nothing.

It asks the process that owns the data folder, or opens the folder when nobody does.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if c.From, err = moment(from); err == nil {
				c.To, err = moment(to)
			}
			if err != nil {
				return usage(err)
			}
			if !c.choice().Whole() {
				j.Choice = &c
			}
			if err := j.checkReplay(); err != nil {
				return usage(err)
			}
			if list {
				j.Do = "generations"
				return ask(cmd.Context(), cfg, j, teller(cmd, asJSON, showGenerations))
			}
			return ask(cmd.Context(), cfg, j, teller(cmd, asJSON, showProgress()))
		},
	}
	cfg.backendFlags(cmd.Flags())
	f := cmd.Flags()
	f.StringSliceVar(&j.Views, "view", nil, "the views to rebuild, or all")
	f.IntVar(&j.Workers, "workers", j.Workers, "how many fold at once")
	f.BoolVar(&j.Park, "park", false, "park streams that make no sense, and go on")
	f.BoolVar(&j.Dry, "dry-run", false, "build and check a generation, and throw it away")
	f.BoolVar(&j.Stay, "no-switch", false, "build and check a generation, and leave it to the next replay")
	f.BoolVar(&j.Anew, "anew", false, "go on with nothing that an earlier replay left")
	f.IntVar(&j.Keep, "keep", j.Keep, "how many earlier generations to keep")
	f.BoolVar(&j.Back, "rollback", false, "return to the generation that was live before")
	f.IntVar(&j.To, "generation", 0, "return to this one")
	f.BoolVar(&list, "generations", false, "rebuild nothing, and name the generations there are")
	f.StringSliceVar(&c.Streams, "stream", nil, "only these streams")
	f.StringVar(&c.Buyer, "buyer", "", "only this buyer's streams")
	f.StringVar(&c.Seller, "seller", "", "only this seller's streams")
	f.StringVar(&from, "from", "", "only streams that something happened to from then on, like 2026-03-14 or 2026-03-14T12:00:00Z")
	f.StringVar(&to, "to", "", "only streams that something happened to before")
	f.BoolVar(&asJSON, "json", false, "print JSON lines")
	return cmd
}

// checkReplay refuses what contradicts itself.
func (j job) checkReplay() error {
	switch {
	case len(j.Views) == 0:
		return errors.New("which view? --view NAME, or --view all")
	case j.Dry && j.Back:
		return errors.New("--dry-run builds, and --rollback does not: which?")
	case j.Dry && j.Stay:
		return errors.New("--dry-run throws away what --no-switch leaves: which?")
	case j.Back && (j.Stay || j.Anew || j.Choice != nil):
		return errors.New("--rollback returns to a whole generation that is there: it goes with --generation only")
	case j.To != 0 && !j.Back:
		return errors.New("--generation says where --rollback returns to")
	case j.Choice != nil && (j.Stay || j.Anew):
		return errors.New("some streams are put into the live generation: there is no other one to leave or to begin")
	case j.Keep < 0 || j.Workers < 1:
		return errors.New("--keep is 0 or more, --workers 1 or more")
	case j.Choice != nil && !j.Choice.To.IsZero() && !j.Choice.From.Before(j.Choice.To):
		return errors.New("--from is before --to")
	}
	return nil
}

// moment reads a day or a time; none is the zero one.
func moment(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if at, err := time.Parse(time.DateOnly, text); err == nil {
		return at, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, fmt.Errorf("%q is no day like 2026-03-14 and no time like 2026-03-14T12:00:00Z", text)
	}
	return at, nil
}

func showGenerations(w io.Writer, n news) error {
	if n.Lineage == nil {
		return nil
	}
	_, err := fmt.Fprintf(w, "%s: generation %d is live, kept are %v\n", n.View, n.Lineage.Live, n.Lineage.Kept)
	return err
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
			if n.View == view && time.Since(told) < time.Second && !p.Final {
				return nil
			}
			view, told = n.View, time.Now()
			from, end := "", ""
			if p.Resumed > 0 {
				from = fmt.Sprintf(", gone on with from %d", p.Resumed)
			}
			if p.Final {
				end = fmt.Sprintf(", done in %.1f s", p.Seconds)
			}
			_, err := fmt.Fprintf(w, "%s: %d events of %d streams, position %d of %d%s, %.0f events/s%s\n",
				n.View, p.Events, p.Streams, p.Position, p.Head, from, p.Rate, end)
			return err
		default:
			if bar == nil || view != n.View {
				view = n.View
				bar = progressbar.NewOptions64(int64(p.Head), //nolint:gosec // a log's positions fit
					progressbar.OptionSetDescription(n.View), progressbar.OptionShowIts(), progressbar.OptionSetItsString("events"),
					progressbar.OptionSetPredictTime(true), progressbar.OptionOnCompletion(func() { fmt.Fprintln(os.Stderr) }))
			}
			if p.Final {
				return bar.Finish()
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

A look at everything reads the whole log. Cheaper ones, for every night:

  cartwright verify --since last     what changed since verify last found no difference
  cartwright verify --since 123456   what changed behind that position
  cartwright verify --sample 10000   about so many streams, of all times
  cartwright verify --rate 5000      no more than so many events a second

With --repair documents that are missing, stale or differ are replaced by what
their streams say, and the exit code is 3 when differences are left: what is
parked takes park redrive, the rest a replay.

It asks the process that owns the data folder, or opens the folder when nobody does.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if j.Since != "" && j.Since != sinceLast {
				if at, err := strconv.ParseUint(j.Since, 10, 64); err != nil || at == 0 {
					return usage(fmt.Errorf("--since is a position of the log or %q, not %q", sinceLast, j.Since))
				}
			}
			if j.Sample < 0 || j.Rate < 0 || j.Sample > 0 && j.Since != "" {
				return usage(errors.New("--sample and --rate are not negative; a sample is of all times, so it goes without --since"))
			}
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
	cmd.Flags().StringVar(&j.Since, "since", "", "only what changed behind a position, or last")
	cmd.Flags().IntVar(&j.Sample, "sample", 0, "only about so many streams")
	cmd.Flags().IntVar(&j.Rate, "rate", 0, "events a second, 0 for as many as can be")
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
		dropped := ""
		if n.Verified.Dropped > 0 {
			dropped = fmt.Sprintf(", %d given up", n.Verified.Dropped)
		}
		_, err = fmt.Fprintf(w, "%s: %d streams of %d events, %d differences%s\n",
			n.View, n.Verified.Streams, n.Verified.Events, n.Verified.Differences, dropped)
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
		Short: "Look after streams that a view or a process can't follow",
		Long: `A stream whose next event can't be read, or can't have happened, is parked in the
view that found out; all other streams go on, and later events of that stream
wait in order. list names them; show prints the event that one stands at, as the
log has it; redrive reads them from the log again, once the cause is mended; drop
gives one up that will never be: its document stays as it is, nobody is reminded
of it, and no replay stops at it. The reason, who and when stay in its record.

Under the name of processes stand streams that call for something which could not
be brought about: stock that is not there, an account that refuses. They are tried
again every ten minutes, by redrive, and whenever something happens to them.`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return usage(errors.New("list, show, redrive or drop?")) },
	}
	park.AddCommand(newParkJob(cfg, "list", "List parked streams", job{Do: "parked"}))
	park.AddCommand(newParkJob(cfg, "show", "Show what a stream is parked at", job{Do: "show"}))
	park.AddCommand(newParkJob(cfg, "redrive", "Follow parked streams again, from the log", job{Do: "redrive"}))
	park.AddCommand(newParkJob(cfg, "drop", "Give a parked stream up, for a reason", job{Do: "drop"}))
	return park
}

func newParkJob(cfg config, name, short string, j job) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: name, Short: short, Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (j.Do == "show" || j.Do == "drop") && j.Stream == "" {
				return usage(errors.New("which stream? --stream NAME"))
			}
			if strings.HasPrefix(j.Stream, "key-") {
				return usage(errors.New("key streams are in no view, and never shown"))
			}
			if j.Do == "drop" {
				if j.Reason = strings.TrimSpace(j.Reason); j.Reason == "" {
					return usage(errors.New("why? --reason TEXT"))
				}
				if who, err := user.Current(); err == nil && j.By == "" {
					j.By = who.Username
				}
			}
			return ask(cmd.Context(), cfg, j, teller(cmd, asJSON, showParked))
		},
	}
	cfg.backendFlags(cmd.Flags())
	cmd.Flags().StringSliceVar(&j.Views, "view", nil, "only these views")
	if j.Do != "parked" {
		cmd.Flags().StringVar(&j.Stream, "stream", "", "only this stream")
	}
	if j.Do == "drop" {
		cmd.Flags().StringVar(&j.Reason, "reason", "", "why nobody will mend it")
		cmd.Flags().StringVar(&j.By, "by", "", "who decided so; you if not set")
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON lines")
	return cmd
}

func showParked(w io.Writer, n news) error {
	if n.Stuck != nil {
		return showStuck(w, *n.Stuck)
	}
	p := n.Parked
	if p == nil {
		return nil
	}
	_, err := fmt.Fprintf(w, "%s: %s stands at revision %d since %s, %d events wait: %s\n",
		p.View, p.Stream, p.Revision, p.At.UTC().Format(time.RFC3339), p.Count, p.Reason)
	if d := p.Dropped; err == nil && d != nil {
		_, err = fmt.Fprintf(w, "  given up by %s at %s: %s\n", d.By, d.At.UTC().Format(time.RFC3339), d.Reason)
	}
	if err != nil || n.Event == nil {
		return err
	}
	text, err := json.MarshalIndent(n.Event, "  ", "  ")
	if err == nil {
		_, err = fmt.Fprintf(w, "  %s\n", text)
	}
	return err
}
