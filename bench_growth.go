package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

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

func newBenchGrowthCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "growth",
		Short: "Make curves of what Go's benchmarks printed, by how much there is already",
		Long: `Growth reads from standard input what "go test -bench" printed, and writes a table
of those benchmarks whose names say on how much they worked, as in
BenchmarkHold/held=100000: what an operation costs at each size, and the ratio of
the costs at the largest and the smallest. With --out it becomes a section of that
file, beside what cartwright bench all writes.`,
		Example: "  go test -run '^$' -bench . ./commands | cartwright bench growth --out BENCHMARKS.md",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := growthTable(cmd.InOrStdin())
			if err != nil {
				return fmt.Errorf("bench: %w", err)
			}
			if path != "" {
				return putInto(path, growthSection, text)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), text)
			return err
		},
	}
	cmd.Flags().StringVar(&path, "out", "", "the file to write to; empty is standard output")
	return cmd
}

// growthTable writes the curves down.
func growthTable(printed io.Reader) (string, error) {
	curves, err := readCurves(printed)
	if err != nil {
		return "", err
	}
	if len(curves) == 0 {
		return "", errors.New("no benchmark says on how much it worked")
	}
	d := &document{}
	d.line("# Growth\n")
	d.line("What an operation costs by how much there is already: CPU µs of the whole process, or, where a benchmark does not count them, µs by the clock (marked *). The ratio is that of the largest to the smallest.\n")
	d.table("benchmark", "axis", "size: µs", "ratio")
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
		d.line("| %s `%s` | %s | %s | %s |", c.pkg, c.name, c.axis, strings.Join(points, " · "), of(len(c.points) > 1 && first.micros > 0, "%.2f", last.micros/first.micros))
	}
	d.line("")
	return d.String(), nil
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
