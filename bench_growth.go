package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// growthSection is where curves are in the document.
const growthSection = "growth"

// A curve is what one benchmark costs by how much there is already.
type curve struct {
	pkg, name string // without the axis
	axis      string
	points    []point
}

type point struct {
	size   int
	micros float64
	cpu    bool // of CPU time; else by the clock
}

// An axis is something that grows, with the benchmarks that measure what it costs.
type growthAxis struct {
	name, what string
	benchmarks []growthBenchmark
}

// A growthBenchmark is one of Go's, or several of a package.
type growthBenchmark struct {
	pkg, pattern string
	slow         bool // an operation takes seconds where there is much: it is done a hundredth of the times
}

func growthAxes() []growthAxis {
	return []growthAxis{
		{"orders", "a command of each kind, by the orders in the store, up to a million", []growthBenchmark{{pkg: "./commands", pattern: "CommandOnLog"}}},
		{"holds", "a hold, by those that were made on the SKU, up to a million", []growthBenchmark{{pkg: "./commands", pattern: "Hold|RivalHold"}, {pkg: "./commands", pattern: "FirstLook", slow: true}}},
		{"entries", "an entry, by those that the account has, up to a million", []growthBenchmark{{pkg: "./commands", pattern: "Entry"}, {pkg: "./commands", pattern: "FirstLookAtAccount", slow: true}}},
		{"buyer", "a checkout and the newest orders, by those that the buyer has", []growthBenchmark{{pkg: "./commands", pattern: "CheckoutOfOneBuyer"}, {pkg: "./infra/pebblekv", pattern: "OneBuyer"}}},
		{"seller", "lists, sums and searches, by the seller's orders, up to a million", []growthBenchmark{{pkg: "./infra/sqliteviews", pattern: "Seller"}}},
		{"events", "the log alone, by its events, up to ten million, which take some gigabytes", []growthBenchmark{{pkg: "./infra/esdbstore", pattern: "Log"}}},
	}
}

func growthNames() (names []string) {
	for _, a := range growthAxes() {
		names = append(names, a.name)
	}
	return names
}

// growthOptions are what the command line says of curves.
type growthOptions struct {
	out    string
	only   []string
	within time.Duration
	times  int
}

func newBenchGrowthCommand() *cobra.Command {
	var opt growthOptions
	var axes strings.Builder
	for _, a := range growthAxes() {
		_, _ = fmt.Fprintf(&axes, "  %-8s %s\n", a.name, a.what) // a Builder takes all
	}
	cmd := &cobra.Command{
		Use:   "growth",
		Short: "Make curves of what operations cost by how much there is already",
		Long: `Growth reads from standard input what "go test -bench" printed, and writes a table
of those benchmarks whose names say on how much they worked, as in
BenchmarkHold/held=100000: what an operation costs at each size, and the ratio of
the costs at the largest and the smallest. With --out it becomes a section of that
file, beside what cartwright bench all writes; curves that stand there and were not
measured now stay.

With --only it runs the benchmarks itself, in the folder of the source and with its
Go: those of the axes that are named, of

` + axes.String() + `
What was measured when --within is over is written down all the same, and how far
it got is told.

Exit codes: 0 done, 1 failed or not done in time, 2 usage.`,
		Example: `  cartwright bench growth --only seller --within 10m --out BENCHMARKS.md
  go test -run '^$' -bench . ./commands | cartwright bench growth --out BENCHMARKS.md`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := opt.check(cmd.Flags().Changed); err != nil {
				return usage(err)
			}
			if err := opt.run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()); err != nil {
				return fmt.Errorf("bench: %w", err)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.out, "out", "", "the file to write to; empty is standard output")
	f.StringSliceVar(&opt.only, "only", nil, "run the benchmarks of these axes, instead of reading: "+strings.Join(growthNames(), ", "))
	f.DurationVar(&opt.within, "within", 2*time.Hour, "how long they may take altogether")
	f.IntVar(&opt.times, "times", 2000, "how often each operation is done; a hundredth of it where one takes seconds")
	return cmd
}

func (opt *growthOptions) check(said func(flag string) bool) error {
	switch {
	case !said("only") && (said("within") || said("times")):
		return errors.New("--within and --times are for --only")
	case said("only") && len(opt.only) == 0:
		return fmt.Errorf("which axis? --only %s", strings.Join(growthNames(), ","))
	case opt.within <= 0 || opt.times < 1 || opt.times > maxBenchCount:
		return fmt.Errorf("--within is positive, and --times is 1 to %d", maxBenchCount)
	}
	for _, name := range opt.only {
		if !slices.Contains(growthNames(), name) {
			return fmt.Errorf("the axis %q is none of %s", name, strings.Join(growthNames(), ", "))
		}
	}
	return nil
}

// run reads or measures, and writes down. What was measured before something went
// wrong is written too.
func (opt *growthOptions) run(ctx context.Context, in io.Reader, out, errs io.Writer) error {
	var wrong error
	if len(opt.only) > 0 {
		var printed bytes.Buffer
		wrong = opt.measure(ctx, io.MultiWriter(&printed, errs), errs)
		in = &printed
	}
	curves, err := readCurves(in)
	if err != nil {
		return errors.Join(wrong, err)
	}
	if len(curves) == 0 {
		return cmp.Or(wrong, errors.New("no benchmark says on how much it worked"))
	}
	rows := rowsOf(curves, time.Now())
	if opt.out == "" {
		_, err = io.WriteString(out, growthTable(rows))
		return errors.Join(wrong, err)
	}
	old, err := sectionOf(opt.out, growthSection)
	if err != nil {
		return errors.Join(wrong, err)
	}
	return errors.Join(wrong, putInto(opt.out, growthSection, growthTable(mergeRows(growthRows(old), rows))))
}

// measure runs the benchmarks of the axes, one package after the other, until the
// time is over.
func (opt *growthOptions) measure(ctx context.Context, printed, errs io.Writer) error {
	folder, err := os.MkdirTemp("", "growth-") // a benchmark that is broken off leaves gigabytes
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	limited, cancel := context.WithTimeout(ctx, opt.within)
	defer cancel()
	for _, a := range growthAxes() {
		if !slices.Contains(opt.only, a.name) {
			continue
		}
		for _, b := range a.benchmarks {
			if err := opt.benchmark(limited, b, folder, printed, errs); err != nil {
				if limited.Err() != nil && ctx.Err() == nil {
					err = fmt.Errorf("it was not done within %s", opt.within)
				}
				return fmt.Errorf("%s in %s: %w", a.name, b.pkg, err)
			}
		}
	}
	return nil
}

// benchmark runs one of them. It is built and then run, since go test hears of no
// time for benchmarks, and does not end them with itself.
func (opt *growthOptions) benchmark(ctx context.Context, b growthBenchmark, folder string, printed, errs io.Writer) error {
	binary := filepath.Join(folder, "growth.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", binary, b.pkg) //nolint:gosec // all of it is ours
	build.Stdout, build.Stderr = errs, errs
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the benchmarks: %w", err)
	}
	times := opt.times
	if b.slow {
		times = max(times/100, 1)
	}
	cmd := exec.CommandContext(ctx, binary, "-test.run", "^$", "-test.bench", "^Benchmark("+b.pattern+")$", "-test.benchtime", strconv.Itoa(times)+"x") //nolint:gosec // as above
	cmd.Dir, cmd.WaitDelay = b.pkg, time.Second
	cmd.Env = append(os.Environ(), "CARTWRIGHT_SOAK=1", "TMPDIR="+folder)
	cmd.Stdout, cmd.Stderr = printed, errs
	return cmd.Run()
}

// rowsOf makes a row of each curve.
func rowsOf(curves []curve, at time.Time) (rows []string) {
	for _, c := range curves {
		var points []string
		for _, p := range c.points {
			mark := "*"
			if p.cpu {
				mark = ""
			}
			points = append(points, fmt.Sprintf("%s: %.4g%s", thousands(p.size), p.micros, mark))
		}
		first, last := c.points[0], c.points[len(c.points)-1]
		rows = append(rows, fmt.Sprintf("| %s `%s` | %s | %s | %s | %s |", c.pkg, c.name, c.axis, strings.Join(points, " · "),
			of(len(c.points) > 1 && first.micros > 0, "%.2f", last.micros/first.micros), at.UTC().Format(time.DateOnly)))
	}
	return rows
}

// growthTable writes the rows down.
func growthTable(rows []string) string {
	d := &document{}
	d.line("# Growth\n")
	d.line("What an operation costs by how much there is already: CPU µs of the whole process, or, where a benchmark does not count them, µs by the clock (marked *). The ratio is that of the largest to the smallest.\n")
	d.table("benchmark", "axis", "size: µs", "ratio", "measured")
	for _, row := range rows {
		d.line("%s", row)
	}
	d.line("\n`make growth` measures all of it, `make growth AXES=seller` one axis: %s.\n", strings.Join(growthNames(), ", "))
	return d.String()
}

// rowKey is what a row is of.
func rowKey(row string) string {
	columns := strings.Split(row, "|")
	return strings.Join(columns[:min(3, len(columns))], "|")
}

// growthRows finds the rows in what growthTable wrote.
func growthRows(text string) (rows []string) {
	const columns = 5
	for row := range strings.Lines(text) {
		row = strings.TrimSpace(row)
		if !strings.HasPrefix(row, "| ") || !strings.Contains(row, " `") {
			continue
		}
		for strings.Count(row, "|") < columns+1 { // as it was written once
			row += " – |"
		}
		rows = append(rows, row)
	}
	return rows
}

// mergeRows puts what was measured now in the place of what was measured of the
// same before.
func mergeRows(old, now []string) []string {
	rows := slices.Clone(old)
	for _, row := range now {
		at := slices.IndexFunc(rows, func(r string) bool { return rowKey(r) == rowKey(row) })
		if at < 0 {
			rows = append(rows, row)
			continue
		}
		rows[at] = row
	}
	return rows
}

func thousands(n int) string {
	switch {
	case n >= 1_000_000 && n%1_000_000 == 0:
		return strconv.Itoa(n/1_000_000) + "M"
	case n >= 1000 && n%1000 == 0:
		return strconv.Itoa(n/1000) + "k"
	}
	return strconv.Itoa(n)
}

// readCurves finds the benchmarks that grow, in the order in which they came.
func readCurves(printed io.Reader) ([]curve, error) {
	var curves []curve
	pkg := ""
	lines := bufio.NewScanner(printed)
	for lines.Scan() {
		if name, found := strings.CutPrefix(lines.Text(), "pkg: "); found {
			pkg = strings.TrimPrefix(strings.TrimPrefix(name, "cartwright"), "/")
			continue
		}
		name, axis, p, ok := readPoint(lines.Text())
		if !ok {
			continue
		}
		i := slices.IndexFunc(curves, func(c curve) bool { return c.pkg == pkg && c.name == name && c.axis == axis })
		if i < 0 {
			i = len(curves)
			curves = append(curves, curve{pkg: pkg, name: name, axis: axis})
		}
		curves[i].points = append(curves[i].points, p)
	}
	for _, c := range curves {
		slices.SortStableFunc(c.points, func(a, b point) int { return cmp.Compare(a.size, b.size) })
	}
	return curves, lines.Err()
}

// readPoint reads a line of a benchmark that says on how much it worked.
func readPoint(line string) (name, axis string, p point, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
		return "", "", p, false
	}
	path := fields[0]
	if i := strings.LastIndexByte(path, '-'); i > 0 { // how many cores it had
		path = path[:i]
	}
	parts := strings.Split(strings.TrimPrefix(path, "Benchmark"), "/")
	for i, part := range parts {
		key, value, _ := strings.Cut(part, "=")
		if size, err := strconv.Atoi(value); err == nil {
			axis, p.size, parts = key, size, slices.Delete(parts, i, i+1)
			break
		}
	}
	for i := 2; i+1 < len(fields); i += 2 {
		v, err := strconv.ParseFloat(fields[i], 64)
		switch unit := fields[i+1]; {
		case err != nil:
			return "", "", p, false
		case strings.HasPrefix(unit, "cpu-µs/"):
			p.micros, p.cpu = v, true
		case unit == "ns/op" && !p.cpu:
			p.micros = v / 1000
		}
	}
	return strings.Join(parts, "/"), axis, p, axis != "" && p.micros > 0
}
