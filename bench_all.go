package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
)

// A standardSet runs the scenarios that BENCHMARKS.md tells of. Each runs in a
// process of its own, by a command line that anybody can repeat.
type standardSet struct {
	out       string
	duration  time.Duration
	events    int
	scenarios []string
	json      bool
	revision  string
	section   string         // of the file
	apart     bool           // each part is a process of its own
	pids      map[string]int // of other programs whose CPU time is told

	program string // this one
	folder  string
	errs    io.Writer
	env     []string // what is set for all programs that are run
	url     string   // of the server
	metrics string   // where the figures of a fleet are
	sandbox string   // where the server looks for the sandbox channel
	did     setReport
}

// A setReport is what was measured.
type setReport struct {
	Machine  machine      `json:"machine"`
	Duration string       `json:"duration"` // of each scenario
	Start    float64      `json:"start_s"`
	Restart  float64      `json:"restart_s"` // with all that was written
	Bytes    int64        `json:"data_bytes"`
	Runs     []setRun     `json:"runs"`
	Log      []NodeRate   `json:"log,omitempty"`
	Replays  []ReplayRate `json:"replays,omitempty"`
	Commands []string     `json:"commands"`
	Wrong    []string     `json:"differences"`
}

// A setRun is one scenario.
type setRun struct {
	Name string `json:"name"`
	What string `json:"what"`
	scenarioReport
}

// A scenarioReport is what any scenario of a server reports.
type scenarioReport struct {
	benchReport
	DrainedS    float64               `json:"drained_s,omitempty"`
	Reads       map[string]readReport `json:"reads,omitempty"`
	Stale       int64                 `json:"stale,omitempty"`
	Differences []string              `json:"differences,omitempty"`
}

// A standardRun is a scenario of the set, by the name that --scenario knows.
type standardRun struct {
	name, what string
	args       []string
	timed      bool     // it takes --duration
	targets    int      // write processes that it is sent to, if they are not the server
	where      []string // the flags that say which server it is, if it is not the set's own
}

// standardRuns are the scenarios that need a server.
func (s *standardSet) standardRuns() []standardRun {
	return []standardRun{
		{name: "checkout", what: "checkouts over 1,000 SKUs, 32 at once", args: []string{"checkout"}, timed: true},
		{name: "hot", what: "checkouts of one SKU, 32 at once", args: []string{"checkout", "--hot"}, timed: true},
		{name: "hot-256", what: "checkouts of one SKU, 256 at once", args: []string{"checkout", "--hot", "--concurrency", "256"}, timed: true},
		{name: "open", what: "checkouts over 1,000 SKUs, due on a schedule", args: []string{"checkout"}, timed: true},
		{name: "lifecycle", what: "orders from checkout to completion", args: []string{"lifecycle"}, timed: true},
		{name: "order", what: "orders by id", args: []string{"history", "--kind", "order"}, timed: true},
		{name: "history", what: "a buyer's pages", args: []string{"history", "--kind", "page,next"}, timed: true},
		{name: "seller", what: "a seller's list and sums", args: []string{"seller"}, timed: true},
		{name: "mixed", what: "ten reads for each checkout", args: []string{"mixed"}, timed: true},
		{name: "flash", what: "10,000 buyers for 1,000 units in a second", args: []string{"flash"}},
		{name: "callbacks", what: "payments called back for", args: []string{"callbacks", "--secret-file", s.secretFile(), "--listen", s.sandbox}},
		{name: "own-writes", what: "writes, each read back everywhere", args: []string{"own-writes"}, timed: true},
		{name: "writers", what: "one write process and two on one SKU", timed: true},
	}
}

func standardNames() []string {
	var names []string
	for _, r := range (&standardSet{}).standardRuns() {
		names = append(names, r.name)
	}
	return append(names, "node", "replay")
}

func newBenchAllCommand() *cobra.Command {
	var s standardSet
	cmd := &cobra.Command{
		Use:   "all",
		Short: "Run the standard set against a server of its own, and write it down",
		Long: `All starts a server on a temporary folder, runs the standard set of scenarios one
after the other, each in a process of its own, then has the views verified and the
books reconciled, stops the server, measures the event log and replays alone, and
deletes everything. The server is set by the environment as any is, so with
CARTWRIGHT_KAFKA and others it uses real servers, in a namespace of the run, which
is left there.

With --out the result goes into that file, between the two lines that say so if it
has them; what stands before and behind them stays. With --section it is another
pair of lines, which come to the end of the file if they are not there.

With --apart the write part, the read part, the relay, the projectors, the process
and the event log are processes of their own behind a proxy, and what each of them
spends on an operation is told (on Linux), and what that comes to for a large shop.
They share nothing but servers, so CARTWRIGHT_KAFKA, CARTWRIGHT_ELASTICSEARCH and
CARTWRIGHT_REDIS have to be set.

With writers two write processes are started beside everything else, and what they
sell of one SKU together is held against what one of them sells alone: of a SKU
that is whole, and of one that is divided in two.

The set is ` + strings.Join(standardNames(), ", ") + `.

Exit codes: 0 done, 1 failed, 2 usage, 3 something that was checked was wrong.`,
		Example: `  cartwright bench all --out BENCHMARKS.md
  cartwright bench all --duration 30s --scenario checkout,hot,flash --json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s.errs = cmd.ErrOrStderr()
			if err := s.check(); err != nil {
				return usage(err)
			}
			return s.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.out, "out", "", "the file to write to; empty is standard output")
	f.DurationVar(&s.duration, "duration", 10*time.Second, "how long each scenario is measured")
	f.IntVar(&s.events, "events", 1_000_000, "how long the logs of node and replay are")
	f.StringSliceVar(&s.scenarios, "scenario", standardNames(), "those of the set that are run")
	f.StringVar(&s.revision, "revision", "", "of the source, where the program does not know")
	f.StringVar(&s.section, "section", "", "of the file, which may have several; the first has no name")
	f.BoolVar(&s.apart, "apart", false, "run each part as a process of its own, and tell what each spends; needs real servers")
	f.StringToIntVar(&s.pids, "pid", nil, "other processes whose CPU time is told with --apart, as kafka=123,redis=124")
	f.BoolVar(&s.json, "json", false, "print the result as JSON, and nothing else, to standard output")
	return cmd
}

func (s *standardSet) check() error {
	if s.duration <= 0 || s.events < lifeEvents || s.events > maxReplayed {
		return fmt.Errorf("a duration is positive, and events are %d to %d", lifeEvents, maxReplayed)
	}
	for _, key := range []string{"CARTWRIGHT_KAFKA", "CARTWRIGHT_ELASTICSEARCH", "CARTWRIGHT_REDIS"} {
		if s.apart && os.Getenv(key) == "" {
			return fmt.Errorf("--apart needs %s: an embedded backend belongs to one process", key)
		}
	}
	if s.section == growthSection {
		return errors.New("the section growth is written by cartwright bench growth")
	}
	if len(s.pids) > 0 && !s.apart {
		return errors.New("--pid is for --apart")
	}
	for _, name := range s.scenarios {
		if !slices.Contains(standardNames(), name) {
			return fmt.Errorf("the scenario %q is none of %s", name, strings.Join(standardNames(), ", "))
		}
	}
	return nil
}

func (s *standardSet) run(ctx context.Context, out io.Writer) (err error) {
	if s.program, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if s.folder, err = os.MkdirTemp("", "cartwright-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.folder)) }()
	s.did = setReport{Machine: thisMachine(s.revision), Duration: s.duration.String(), Wrong: []string{}}
	if s.apart && os.Getenv("CARTWRIGHT_EVENTSTORE") == "" {
		s.did.Machine.Backends["event log"] = "`cartwright node`"
	}
	for _, step := range []func(context.Context) error{s.onServer, s.onLog, s.onViews} {
		if err = step(ctx); err != nil {
			if ctx.Err() != nil {
				err = errors.New("stopped")
			}
			return fmt.Errorf("bench: %w", err)
		}
	}
	if err = s.write(out); err != nil {
		return err
	}
	if len(s.did.Wrong) > 0 {
		return &exitError{exitDifferences, fmt.Errorf("bench: %s", s.did.Wrong[0])}
	}
	return nil
}

func (s *standardSet) wants(name string) bool { return slices.Contains(s.scenarios, name) }

func (s *standardSet) data() string       { return filepath.Join(s.folder, "data") }
func (s *standardSet) secretFile() string { return filepath.Join(s.folder, "secret") }

// onServer runs the scenarios that need a server.
func (s *standardSet) onServer(ctx context.Context) (err error) {
	if s.sandbox, err = freeAddress(ctx); err != nil {
		return err
	}
	runs := slices.DeleteFunc(s.standardRuns(), func(r standardRun) bool { return !s.wants(r.name) })
	if len(runs) == 0 {
		return nil
	}
	if err = os.WriteFile(s.secretFile(), []byte(uuid.NewString()), 0o600); err != nil {
		return err
	}
	namespace := "bench-" + uuid.NewString()[:8]
	server, took, err := s.serve(ctx, namespace)
	if err != nil {
		return err
	}
	s.did.Start = took
	for _, r := range runs {
		if r.name == "writers" {
			err = s.onWriters(ctx, namespace, server)
		} else {
			err = s.measure(ctx, r)
		}
		if err != nil {
			return errors.Join(err, server.stop())
		}
	}
	if err = errors.Join(s.audit(ctx, namespace), server.stop()); err != nil {
		return err
	}
	if s.did.Bytes, err = sizeOf(s.data()); err != nil {
		return err
	}
	if s.apart { // there is no one start-up to be told
		s.did.Start = 0
		return os.RemoveAll(s.data())
	}
	if server, s.did.Restart, err = s.serve(ctx, namespace); err != nil {
		return err
	}
	return errors.Join(server.stop(), os.RemoveAll(s.data())) // there may not be room for what follows
}

// measure runs one scenario.
func (s *standardSet) measure(ctx context.Context, r standardRun) error {
	args := slices.Clone(r.args)
	if r.timed {
		args = append(args, "--duration", s.duration.String())
	}
	if r.timed && r.name != "own-writes" && s.duration < 2*time.Second {
		args = append(args, "--warmup", s.duration.String())
	}
	if r.name == "open" {
		args = append(args, "--rate", strconv.FormatFloat(s.openRate(), 'f', 0, 64))
		r.what += ", six tenths of that"
	}
	run := setRun{Name: r.name, What: r.what}
	if err := s.child(ctx, &run.scenarioReport, slices.Concat([]string{"bench"}, args, s.where(r))...); err != nil {
		return err
	}
	for _, wrong := range append(run.Differences, run.Check.Differences...) {
		s.did.Wrong = append(s.did.Wrong, r.name+": "+wrong)
	}
	s.did.Runs = append(s.did.Runs, run)
	return nil
}

// where says by flags which server it is, and where its figures are.
func (s *standardSet) where(r standardRun) []string {
	switch {
	case r.where != nil:
		return r.where
	case r.name == "own-writes": // which looks at no figures
		return []string{"--target", s.url}
	case s.apart:
		return []string{"--target", s.url, "--metrics", s.metrics}
	}
	return []string{"--target", s.url, "--data", s.data()}
}

// openRate is what the server can surely take: six tenths of what it took of the
// same load in a closed loop, or little.
func (s *standardSet) openRate() float64 {
	for _, r := range s.did.Runs {
		if r.Name == "checkout" {
			return max(1, .6*r.Rate)
		}
	}
	return 500
}

// audit has the whole server checked.
func (s *standardSet) audit(ctx context.Context, namespace string) error {
	for _, args := range [][]string{{"verify"}, {"reconcile", "--grace", "1s"}} {
		if s.apart {
			args = append(args, "--namespace", namespace)
		}
		if err := s.child(ctx, nil, append(args, "--data", s.data())...); err != nil {
			return err
		}
	}
	return nil
}

// onLog measures the event log alone.
func (s *standardSet) onLog(ctx context.Context) error {
	if !s.wants("node") {
		return nil
	}
	var r NodeReport
	err := s.child(ctx, &r, "bench", "node", "--duration", s.duration.String(), "--events", strconv.Itoa(s.events))
	for _, run := range r.Runs {
		for _, wrong := range run.Differences {
			s.did.Wrong = append(s.did.Wrong, "node: "+wrong)
		}
	}
	s.did.Log = r.Runs
	return err
}

// onViews measures replays alone.
func (s *standardSet) onViews(ctx context.Context) error {
	if !s.wants("replay") {
		return nil
	}
	var r ReplayReport
	err := s.child(ctx, &r, "bench", "replay", "--events", strconv.Itoa(s.events), "--view", "all")
	s.did.Replays = r.Replays
	return err
}

// child runs this program, and reads its answer unless into is nil. That there are
// differences is noted, and no error.
func (s *standardSet) child(ctx context.Context, into any, args ...string) error {
	line := s.repeatable(args)
	s.did.Commands = append(s.did.Commands, line)
	if into != nil {
		args = append(args, "--json")
	}
	_, _ = fmt.Fprintln(s.errs, "cartwright", line) // nobody may listen
	cmd := s.command(ctx, args...)
	cmd.Stderr = s.errs
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == exitDifferences {
		s.did.Wrong = append(s.did.Wrong, line+": exit code 3")
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	if into == nil {
		return nil
	}
	if err = json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("%s: this is no report: %w", line, err)
	}
	return nil
}

// repeatable is a command line for a server where they are by default.
func (s *standardSet) repeatable(args []string) string {
	said := slices.Clone(args)
	if i := slices.Index(said, "--target"); i >= 0 && strings.Contains(said[i+1], ",") {
		said = append(said, "--target=WRITE1,WRITE2", "--read-target=READ")
	}
	for i := 0; i < len(said); {
		switch said[i] {
		case "--target", "--read-target", "--data", "--listen", "--metrics", "--namespace":
			said = slices.Delete(said, i, i+2)
		case s.secretFile():
			said[i] = "secret"
			i++
		default:
			i++
		}
	}
	return strings.Join(said, " ")
}

// command makes a command of this program that is interrupted, not killed.
func (s *standardSet) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.program, args...) //nolint:gosec // it is this program
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	cmd.Env = append(os.Environ(), s.env...)
	return cmd
}

// serve starts a server, and tells how long it took to be ready.
func (s *standardSet) serve(ctx context.Context, namespace string) (stopper, float64, error) {
	begun := time.Now()
	if s.apart {
		f, err := s.startApart(ctx, namespace)
		return f, rounded(time.Since(begun).Seconds()), err
	}
	args := []string{"serve", "--data", s.data(), "--listen", "127.0.0.1:0", "--namespace", namespace, "--rate-limit", "0", "--pay-within", "24h"}
	if s.wants("writers") { // its folder's socket tells of it alone
		metrics, err := freeAddress(ctx)
		if err != nil {
			return nil, 0, err
		}
		args, s.metrics = append(args, "--metrics", metrics), "http://"+metrics+"/metrics"
	}
	server, ready, err := s.begin(ctx, args...)
	if err != nil {
		return nil, 0, err
	}
	s.url = firstURL(ready)
	return server, rounded(time.Since(begun).Seconds()), nil
}

// A stopper is what runs until it is stopped.
type stopper interface{ stop() error }

// stop ends the server as an operator does.
func (s *startedServer) stop() error {
	err := s.cmd.Process.Signal(syscall.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	err = errors.Join(err, <-s.rest, s.cmd.Wait())
	if err != nil {
		return fmt.Errorf("the server: %w", err)
	}
	return nil
}

// freeAddress is one that nobody listened on a moment ago.
func freeAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
