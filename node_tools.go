package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cartwright/infra/esdbnode"
)

// newNodeTools are the commands that look after an embedded event log.
func newNodeTools(cfg config) []*cobra.Command {
	cfg.EventStore = "" // a node is what that would name
	return []*cobra.Command{
		newNodeVerifyCommand(cfg), newNodeBackupCommand(cfg), newNodeStatsCommand(cfg), newNodeCompactCommand(cfg), newNodeScavengeCommand(cfg),
	}
}

// haveLog refuses a data folder without a log, which a tool would make otherwise.
func haveLog(data string) error {
	if _, err := os.Stat(filepath.Join(data, logName, "FORMAT")); err != nil {
		return fmt.Errorf("there is no event log in %s: %w", data, err)
	}
	return nil
}

// askNode has a job done by the process that runs the node, or on the log itself
// when nobody does.
func askNode(ctx context.Context, cfg config, j job, tell func(news) error) error {
	if err := haveLog(cfg.Data); err != nil {
		return err
	}
	f, err := own(cfg.Data)
	if errors.Is(err, errOwned) {
		return askOwner(ctx, cfg, j, tell)
	}
	if err != nil {
		return err
	}
	s := &system{cfg: cfg, log: cfg.logger(), folder: f}
	node, err := esdbnode.Open(esdbnode.Options{Dir: cfg.path(logName), Log: s.log})
	if err == nil {
		s.store = &eventLog{node: node}
		err = errors.Join(s.nodeJob(ctx, j, tell), node.Close(context.WithoutCancel(ctx)))
	}
	return errors.Join(err, f.Close())
}

// nodeJob carries out a job on the node of this process.
func (s *system) nodeJob(ctx context.Context, j job, tell func(news) error) error {
	if s.store == nil || s.store.node == nil {
		return errors.New("this process has no event log of its own")
	}
	switch j.Do {
	case "node-stats":
		return s.tellNode(ctx, tell)
	case "node-compact":
		return s.compact(ctx, tell)
	}
	return s.scavenge(ctx, j.Streams, tell)
}

// nodeNews says how a node does.
type nodeNews struct {
	Contents   esdbnode.Contents `json:"contents"`
	Figures    esdbnode.Figures  `json:"figures"`
	Running    bool              `json:"running"`               // a process has it open for others
	LastBackup *lastBackup       `json:"last_backup,omitempty"` // nil where none is known of
}

func (s *system) tellNode(ctx context.Context, tell func(news) error) (err error) {
	n := nodeNews{Running: s.store.Store != nil}
	if n.Contents, err = s.store.node.Count(ctx); err != nil {
		return err
	}
	if n.Figures, err = s.store.node.Figures(); err != nil {
		return err
	}
	if n.LastBackup, err = readLastBackup(s.cfg.Data); err != nil {
		return err
	}
	return tell(news{Node: &n})
}

// compactedNews says what a compaction has made of the disk.
type compactedNews struct {
	Before  esdbnode.Disk `json:"before"`
	After   esdbnode.Disk `json:"after"`
	Seconds float64       `json:"seconds"`
}

func (s *system) compact(ctx context.Context, tell func(news) error) error {
	before, err := s.store.node.Figures()
	if err != nil {
		return err
	}
	began := time.Now()
	if err = s.store.node.Compact(ctx); err != nil {
		return err
	}
	after, err := s.store.node.Figures()
	if err != nil {
		return err
	}
	return tell(news{Compacted: &compactedNews{before.Disk, after.Disk, time.Since(began).Seconds()}})
}

// lastBackup is what is remembered of the newest backup of a data folder.
type lastBackup struct {
	At       time.Time `json:"at"`
	Position uint64    `json:"position"`
	To       string    `json:"to"`
}

const lastBackupName = "last-backup.json"

func readLastBackup(data string) (*lastBackup, error) {
	text, err := os.ReadFile(filepath.Join(data, lastBackupName)) //nolint:gosec // in the data folder
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // none is known of
	}
	var b lastBackup
	if err == nil {
		err = json.Unmarshal(text, &b)
	}
	if err != nil {
		return nil, fmt.Errorf("when the last backup was: %w", err)
	}
	return &b, nil
}

// remember notes a backup for whoever asks how old the newest one is.
func (b lastBackup) remember(data string) error {
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	path := filepath.Join(data, lastBackupName)
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func newNodeVerifyCommand(cfg config) *cobra.Command {
	v := nodeVerify{cfg: cfg}
	cmd := &cobra.Command{
		Use:   "verify [FOLDER]",
		Short: "Read all of an event log, and say where it is damaged",
		Long: `Read every block of every file of an event log and every event in it, and compare
the events with their streams. Each damage is listed with its place: the file and
the byte, the position in the log, the stream and the number in it. It goes on
behind a damage, up to --limit of them.

A node that runs is asked for its log as it is now, which costs it next to
nothing: files that never change are linked, not copied. This process reads them,
while appends go on. What is in the kernel's memory is not read from the disk
again; a look at the disk itself takes a machine that was just started.

A log that is damaged is not mended: there is no second copy to mend it from. What
can be read is served, and goes elsewhere by cartwright copy; the rest is in the
newest backup. Of a process that was killed the last append, which was not
acknowledged, may be there or not; that is no damage.

Exit codes: 0 the log is whole, 1 it could not be read, 2 usage, 3 it is damaged.`,
		Example: `  cartwright node verify                            the log in ./data, running or not
  cartwright node verify --data /var/lib/cartwright
  cartwright node verify /backups/monday            a folder that backup or node backup made
  cartwright node verify --json --limit 1000`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 1 && cmd.Flags().Changed("data"):
				return usage(errors.New("a folder and --data: which?"))
			case v.limit < 1 || v.limit > maxDamages:
				return usage(fmt.Errorf("--limit is 1 to %d", maxDamages))
			}
			v.out, v.errs = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return v.run(cmd.Context(), args)
		},
	}
	v.cfg.dataFlag(cmd.Flags())
	cmd.Flags().IntVar(&v.limit, "limit", 100, "how many damages are listed before it is left off")
	cmd.Flags().BoolVar(&v.json, "json", false, "print JSON")
	return cmd
}

const maxDamages = 1_000_000

// nodeVerify is one look at a log.
type nodeVerify struct {
	cfg       config
	limit     int
	json      bool
	out, errs io.Writer
}

func (v *nodeVerify) run(ctx context.Context, args []string) error {
	dir, err := v.folder(args)
	if err != nil {
		return err
	}
	if dir != "" {
		return v.read(ctx, dir)
	}
	if err = haveLog(v.cfg.Data); err != nil {
		return err
	}
	f, err := own(v.cfg.Data)
	if errors.Is(err, errOwned) {
		return staged(ctx, v.cfg, func(stage string) error { return v.read(ctx, filepath.Join(stage, logName)) })
	}
	if err != nil {
		return err
	}
	return errors.Join(v.read(ctx, v.cfg.path(logName)), f.Close())
}

// folder is the log that an argument names; none is the one of a data folder, which
// somebody may have open.
func (v *nodeVerify) folder(args []string) (string, error) {
	if len(args) == 0 {
		return "", nil
	}
	if _, err := os.Stat(filepath.Join(args[0], "FORMAT")); err == nil {
		return args[0], nil
	}
	if err := haveLog(args[0]); err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(args[0], "LOCK")); err == nil { // a process had it as its data folder
		v.cfg.Data = args[0]
		return "", nil
	}
	return filepath.Join(args[0], logName), nil
}

// read reads the log in a folder that nobody writes to.
func (v *nodeVerify) read(ctx context.Context, dir string) error {
	told := time.Now()
	found, err := esdbnode.Verify(ctx, dir, esdbnode.Verification{Limit: v.limit, Tell: func(position uint64) {
		if time.Since(told) > linesEvery {
			told = time.Now()
			_, _ = fmt.Fprintf(v.errs, "read up to position %d\n", position) // nobody may listen
		}
	}})
	if err != nil {
		return err
	}
	if v.json {
		err = json.NewEncoder(v.out).Encode(found)
	} else {
		err = showFindings(v.out, &found)
	}
	if err == nil && len(found.Damage) > 0 {
		err = &exitError{exitDifferences, fmt.Errorf("the log is damaged: %s", found.Damage[0])}
	}
	return err
}

func showFindings(w io.Writer, f *esdbnode.Findings) error {
	var b strings.Builder
	for _, d := range f.Damage {
		fmt.Fprintln(&b, d)
	}
	switch {
	case f.More:
		fmt.Fprintf(&b, "%d damages, and there may be more: --limit\n", len(f.Damage))
	case len(f.Damage) > 0:
		fmt.Fprintf(&b, "%d damages; %d events of %d streams can be read, up to position %d\n", len(f.Damage), f.Events, f.Streams, f.Position)
	default:
		fmt.Fprintf(&b, "the log is whole: %d events of %d streams, up to position %d, format %d\n", f.Events, f.Streams, f.Position, f.Format)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func newNodeBackupCommand(cfg config) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "backup DIR",
		Short: "Back up the event log alone, while it is in use",
		Long: `Make a data folder DIR that holds the event log as it is now, and the list of
erased buyers, but no master key. Appends go on meanwhile; without a process that
runs the node, the folder is opened. Everything that was acknowledged before the
command began is in it, every event was read once and checked, and every file has
its checksum in ` + manifestName + `. DIR appears under its name when it is whole.

To restore it, point a node at it, or at a copy of it:

  cartwright node backup /backups/monday
  cartwright node verify /backups/monday
  cartwright node --data /backups/monday

A shop needs the key that its buyers' addresses are wrapped with, too: cartwright
backup takes it along, and serve on a folder without it makes another one, by
which no older address can be read.`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" {
				return usage(errors.New("where to? cartwright node backup DIR"))
			}
			m, err := backup{cfg: cfg, to: args[0], withoutKey: true}.run(cmd.Context())
			if err != nil {
				return err
			}
			return tellManifest(cmd.OutOrStdout(), asJSON, "backed up to "+args[0], m)
		},
	}
	cfg.dataFlag(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newNodeStatsCommand(cfg config) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Say what an event log holds, what it takes, and how it does",
		Long: `Say how many events and streams there are, what they take on the disk, by kind and
by level of tables, and when the last backup and the last scavenge were. Of a node
that runs, also what it did since it was opened: writes and what became of them,
fsyncs and how many writes shared one, what waits, who follows and how far behind
the slowest is.

Read amplification is how many tables a read may have to look at, write
amplification how many bytes were written to the disk for each that was appended.
Compactions that have ever more to go through say that the disk is too slow for
what is appended.`,
		Example: `  cartwright node stats
  cartwright node stats --data /var/lib/cartwright --json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return askNode(cmd.Context(), cfg, job{Do: "node-stats"}, teller(cmd, asJSON, showNode))
		},
	}
	cfg.dataFlag(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func showNode(out io.Writer, n news) error {
	if n.Node == nil {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, values ...any) { // Flush tells whether it could be written
		_, _ = fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, values...))
	}
	c, f := n.Node.Contents, &n.Node.Figures
	row("log", "%d events of %d streams, up to position %d, format %d", c.Events, c.Streams, c.Position, c.Format)
	row("disk", "%s: %s in tables, %s of write-ahead logs, %s of others", size(f.Disk.Tables+f.Disk.WAL+f.Disk.Other), size(f.Disk.Tables), size(f.Disk.WAL), size(f.Disk.Other))
	for _, l := range f.Disk.Levels {
		row(fmt.Sprintf("level %d", l.Level), "%d tables of %s", l.Tables, size(uint64(max(0, l.Bytes))))
	}
	row("amplification", "read %d, write %.1f", f.Disk.ReadAmplification, f.Disk.WriteAmplification)
	row("compactions", "%d under way, %s to go through, %d done, %d failed", f.Compaction.Running, size(f.Compaction.Debt), f.Compaction.Done, f.Compaction.Failed)
	for _, streams := range slices.Sorted(maps.Keys(f.Links)) {
		row("links", "%s* up to position %d", streams, f.Links[streams])
	}
	showCare(row, n.Node)
	if n.Node.Running {
		showWork(row, f)
	}
	return w.Flush()
}

func showCare(row func(name, format string, values ...any), n *nodeNews) {
	s := n.Figures.Scavenge
	switch {
	case s.Done > 0:
		row("scavenge", "%d since it was opened, the last at %s; %d events are gone", s.Done, s.Last.Format(time.RFC3339), s.Events)
	case s.Marks == 0:
		row("scavenge", "none since it was opened")
	}
	if s.Marks > 0 {
		row("scavenge", "%d regions are left of one that was broken off: cartwright node scavenge", s.Marks)
	}
	if b := n.LastBackup; b != nil {
		row("backup", "%s ago, up to position %d, to %s", time.Since(b.At).Round(time.Second), b.Position, b.To)
	} else {
		row("backup", "none is known of")
	}
}

func showWork(row func(name, format string, values ...any), f *esdbnode.Figures) {
	row("open", "for %s", time.Since(f.Since).Round(time.Second))
	for _, kind := range []string{"append", "delete", "tombstone"} {
		if said := counts(f.Writes[kind]); said != "" {
			row(kind+"s", "%s", said)
		}
	}
	if said := counts(f.Refused); said != "" {
		row("refused", "%s", said)
	}
	c := f.Commits
	if c.Seconds.Count > 0 {
		row("fsyncs", "%d, up to %s each (p50), %s (p99); %.1f writes shared one", c.Seconds.Count,
			seconds(c.Seconds.Quantile(.5)), seconds(c.Seconds.Quantile(.99)), c.Writes.Sum/float64(c.Writes.Count))
	}
	row("waiting", "%d writes, the oldest for %s", f.Queue.Writes, f.Queue.Oldest.Round(time.Millisecond))
	if said := counts(f.Reads); said != "" {
		row("reads", "%s, %d events", said, f.EventsRead)
	}
	if said := counts(f.Subscribers); said != "" {
		row("subscribers", "%s; the slowest is %d events behind", said, f.Lag)
	}
}

// counts says what there is more than none of.
func counts(all map[string]uint64) string {
	var said []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name] > 0 {
			said = append(said, fmt.Sprintf("%d %s", all[name], strings.ReplaceAll(name, "_", " ")))
		}
	}
	return strings.Join(said, ", ")
}

func seconds(s float64) string { return time.Duration(s * float64(time.Second)).String() }

// size is a number of bytes for people.
func size(bytes uint64) string {
	if bytes < 10<<10 {
		return fmt.Sprintf("%d B", bytes)
	}
	if bytes < 10<<20 {
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
}

func newNodeCompactCommand(cfg config) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "compact",
		Short: "Write the tables of an event log anew, as few and as dense as can be",
		Long: `Write all tables of the event log anew, in one level. The node compacts by itself
all the time as far as that is needed, so this is seldom good for anything: after
an import or a copy of millions of events, before the log is read from end to end
(replay --view all) or backed up for good. It takes the time of reading and writing
the whole log, and up to its size again on the disk until it is done. Appends and
reads go on, and it may be broken off.

What is to be gone from the disk takes cartwright node scavenge, which compacts
what it has to.`,
		Example: `  cartwright node compact
  cartwright node compact --data /var/lib/cartwright --json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return askNode(cmd.Context(), cfg, job{Do: "node-compact"}, teller(cmd, asJSON, showCompacted))
		},
	}
	cfg.dataFlag(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func showCompacted(w io.Writer, n news) error {
	c := n.Compacted
	if c == nil {
		return nil
	}
	tables := func(d esdbnode.Disk) (count int64) {
		for _, l := range d.Levels {
			count += l.Tables
		}
		return count
	}
	_, err := fmt.Fprintf(w, "compacted in %.1f s: %d tables of %s are %d of %s now\n",
		c.Seconds, tables(c.Before), size(c.Before.Tables), tables(c.After), size(c.After.Tables))
	return err
}

func newNodeScavengeCommand(cfg config) *cobra.Command {
	j := job{Do: "scavenge"}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "scavenge",
		Short: "Throw away for good what readers of an event log are not shown any more",
		Long: `Throw away what no reader is shown any more: all events of streams with a
tombstone, of others those before $tb, beyond $maxCount and older than $maxAge, and
old metadata. The last event of a stream and tombstones stay, and nothing is
numbered anew. When it is done no file of the log holds any of it; backups do.

Appends and reads go on meanwhile. One that is broken off, even killed, is finished
by the next. Buyers are forgotten by cartwright erase, which does this by itself.`,
		Example: `  cartwright node scavenge
  cartwright node scavenge --stream cart-4711 --stream cart-4712
  cartwright node scavenge --data /var/lib/cartwright --json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if slices.Contains(j.Streams, "") {
				return usage(errors.New("a stream has a name"))
			}
			return askNode(cmd.Context(), cfg, j, teller(cmd, asJSON, showScavenged))
		},
	}
	cfg.dataFlag(cmd.Flags())
	cmd.Flags().StringArrayVar(&j.Streams, "stream", nil, "only this stream and its metadata; several may be given")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func showScavenged(w io.Writer, n news) error {
	s := n.Scavenged
	if s == nil {
		return nil
	}
	if s.Events == 0 && s.Files == 0 {
		_, err := fmt.Fprintln(w, "there was nothing to throw away")
		return err
	}
	_, err := fmt.Fprintf(w, "%d events of %d streams are gone, and %d files that may have had them\n", s.Events, s.Streams, s.Files)
	return err
}
