package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A machine is where it was measured, and what.
type machine struct {
	Date     string            `json:"date"`
	CPU      string            `json:"cpu"`
	Cores    int               `json:"cores"`
	MemoryMB int64             `json:"memory_mb"`
	System   string            `json:"system"`
	Go       string            `json:"go"`
	Revision string            `json:"revision"`
	Backends map[string]string `json:"backends"`
}

func thisMachine(revision string) machine {
	m := machine{
		Date: time.Now().UTC().Format("2006-01-02 15:04 MST"), Cores: runtime.NumCPU(), Go: runtime.Version(), Revision: cmp.Or(revision, "unknown"),
		CPU:    procValue("/proc/cpuinfo", "model name"),
		System: runtime.GOOS + "/" + runtime.GOARCH, Backends: map[string]string{},
	}
	if kernel, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.System += ", kernel " + strings.TrimSpace(string(kernel))
	}
	if kb, err := strconv.ParseInt(strings.TrimSuffix(procValue("/proc/meminfo", "MemTotal"), " kB"), 10, 64); err == nil {
		m.MemoryMB = kb >> 10
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				m.Revision = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				m.Revision += ", changed since"
			}
		}
	}
	for name, key := range map[string]string{
		"event log": "CARTWRIGHT_EVENTSTORE", "bus": "CARTWRIGHT_KAFKA", "views": "CARTWRIGHT_ELASTICSEARCH", "cache": "CARTWRIGHT_REDIS",
	} {
		m.Backends[name] = "embedded"
		if os.Getenv(key) != "" {
			m.Backends[name] = "a server of its own"
		}
	}
	return m
}

// procValue finds a value in a file of the kernel; "" if there is none.
func procValue(file, key string) string {
	text, err := os.ReadFile(file) //nolint:gosec // its name is ours
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// The lines between which a document is written anew; what is outside stays.
const (
	documentBegins = "<!-- what follows is written by cartwright bench %s -->"
	documentEnds   = "<!-- up to here -->"
)

// beginOf is the line before a section, which says who writes it.
func beginOf(section string) string {
	switch section {
	case "":
		return fmt.Sprintf(documentBegins, "all")
	case growthSection:
		return fmt.Sprintf(documentBegins, "growth")
	}
	return fmt.Sprintf(documentBegins, "all --section "+strconv.Quote(section))
}

// write prints the result, or puts it into the file.
func (s *standardSet) write(out io.Writer) error {
	if s.out != "" {
		if err := putInto(s.out, s.section, s.did.document(s.section, s.apart)); err != nil {
			return err
		}
	}
	if s.json {
		return printJSON(out, s.did)
	}
	if s.out != "" {
		return nil
	}
	_, err := io.WriteString(out, s.did.document(s.section, s.apart))
	return err
}

// sectionOf reads what stands between the two lines of a section; "" if there is none.
func sectionOf(path, section string) (string, error) {
	text, err := os.ReadFile(path) //nolint:gosec // whoever runs it names it
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	_, behind, _ := strings.Cut(string(text), beginOf(section)+"\n")
	within, _, _ := strings.Cut(behind, documentEnds)
	return within, err
}

// putInto replaces what stands between the two lines of a section, or begins the
// file or the section.
func putInto(path, section, text string) error {
	begin := beginOf(section)
	old, err := os.ReadFile(path) //nolint:gosec // whoever runs it names it
	if errors.Is(err, os.ErrNotExist) {
		old, err = []byte("# Benchmarks\n\n"+beginOf("")+"\n"+documentEnds+"\n"), nil
	}
	if err != nil {
		return err
	}
	if section != "" && !strings.Contains(string(old), begin+"\n") {
		old = fmt.Appendf(old, "\n%s\n%s\n", begin, documentEnds)
	}
	before, behind, begins := strings.Cut(string(old), begin+"\n")
	_, behind, ends := strings.Cut(behind, documentEnds)
	if !begins || !ends {
		return fmt.Errorf("%s has not the lines %q and %q, between which to write", path, begin, documentEnds)
	}
	whole := before + begin + "\n\n" + text + "\n" + documentEnds + behind
	return os.WriteFile(path, []byte(whole), 0o644) //nolint:gosec // everybody may read it
}

// document is the result for people.
func (r *setReport) document(section string, apart bool) string {
	d := &document{}
	if section != "" {
		d.line("# With %s\n", section)
	}
	d.machine(r)
	d.loads(r.Runs)
	d.writers(r.Runs, r.Machine.Cores)
	d.memory(r.Runs)
	d.parts(r.Runs)
	d.capacity(r.Runs)
	d.behind(r.Runs)
	d.details(r.Runs)
	d.log(r.Log)
	d.replays(r.Replays)
	d.line("## Checked\n")
	if len(r.Wrong) == 0 {
		d.line("Every scenario compared what was answered with what the server shows then; `verify` compared all views with the log, and `reconcile` all books: no difference.\n")
	}
	for _, wrong := range r.Wrong {
		d.line("* **wrong**: %s", wrong)
	}
	d.line("## How to repeat\n\n%s\n\n```", repeating(r.Duration, section, apart))
	for _, command := range r.Commands {
		d.line("cartwright %s", command)
	}
	d.line("```")
	return d.String()
}

// repeating tells how the figures are got once more.
func repeating(duration, section string, apart bool) string {
	const those = ", which runs these one after the other"
	switch {
	case apart:
		return "`cartwright bench all --apart --duration " + duration + "` with the settings of the servers" + those + ", beside a `cartwright node` and one process of each part, behind a proxy:"
	case section != "":
		return "`cartwright bench all --duration " + duration + "` with the settings of the servers" + those + ", beside `cartwright serve`:"
	}
	return "`make bench`, or `cartwright bench all --duration " + duration + " --out BENCHMARKS.md`" + those + ", all but the last two of them beside `cartwright serve` on an empty folder:"
}

// A document is Markdown that is being written.
type document struct{ strings.Builder }

func (d *document) line(format string, values ...any) {
	_, _ = fmt.Fprintf(d, format+"\n", values...) // a Builder takes all
}

// table begins a table.
func (d *document) table(columns ...string) {
	d.line("| %s |\n|%s", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
}

func (d *document) machine(r *setReport) {
	m := r.Machine
	d.line("## Where, when, what\n")
	d.line("| | |\n|---|---|")
	d.line("| machine | %s, %d cores, %d MB of memory; %s |", m.CPU, m.Cores, m.MemoryMB, m.System)
	d.line("| date | %s |", m.Date)
	d.line("| version | revision %s, %s |", m.Revision, m.Go)
	for _, name := range slices.Sorted(maps.Keys(m.Backends)) {
		d.line("| %s | %s |", name, m.Backends[name])
	}
	d.line("| duration | %s of each scenario, after a warm-up |", r.Duration)
	if r.Start > 0 {
		d.line("| start-up | %.2f s on an empty folder, %.2f s on the %d MB that were written |", r.Start, r.Restart, r.Bytes>>20)
	}
	d.line("\nGenerator, server and embedded engines share the cores, and every acknowledged write is fsynced.\n")
}

// of gives a value, or a dash where it is not known.
func of(known bool, format string, values ...any) string {
	if !known {
		return "–"
	}
	return fmt.Sprintf(format, values...)
}

func (d *document) loads(runs []setRun) {
	if len(runs) == 0 {
		return
	}
	d.line("## Through the API\n")
	d.table("scenario", "", "a second", "p50 ms", "p99", "p99.9", "max", "server CPU µs", "allocations", "KB", "generator CPU µs", "writes an fsync", "commands an append")
	for _, r := range runs {
		s := r.Server
		if s == nil {
			s = &serverFigures{}
		}
		fsync := s.Fsync
		if fsync == nil {
			fsync = &fsyncFigures{}
		}
		d.line("| %s | %s | %.0f | %.2f | %.2f | %.2f | %.2f | %s | %s | %s | %s | %s | %s |", r.Name, r.What, r.Rate, r.P50, r.P99, r.P999, r.Max,
			of(s.CPU > 0, "%.0f", s.CPU), of(s.Allocs > 0, "%.0f", s.Allocs), of(s.Bytes > 0, "%.1f", s.Bytes/1024),
			of(r.Generator.CPU > 0, "%.0f", r.Generator.CPU), of(fsync.Count > 0, "%.1f", fsync.Writes), lanesTold(s.Lanes))
	}
	d.line("\nCPU time, allocations and KB are for each operation, those of the server with everything it did until its views had caught up.\n")
}

// lanesTold names the categories that most commands were for.
func lanesTold(lanes map[string]laneRate) string {
	all := 0.0
	for _, l := range lanes {
		all += float64(l.Appends) * l.Commands
	}
	var told []string
	for _, category := range slices.Sorted(maps.Keys(lanes)) {
		if l := lanes[category]; 20*float64(l.Appends)*l.Commands >= all {
			told = append(told, fmt.Sprintf("%s %.1f", category, l.Commands))
		}
	}
	return of(len(told) > 0, "%s", strings.Join(told, ", "))
}

func (d *document) behind(runs []setRun) {
	runs = slices.DeleteFunc(slices.Clone(runs), func(r setRun) bool { return r.Server == nil && len(r.Lag) == 0 })
	if len(runs) == 0 {
		return
	}
	d.line("## How far behind views were\n")
	d.table("scenario", "order in the buyer's list, p50 ms", "p99", "in the seller's, p50", "p99", "relay lag, mean ms", "max", "events unread, mean", "max", "caught up after, s")
	for _, r := range runs {
		s := r.Server
		if s == nil {
			s = &serverFigures{}
		}
		buyers, sellers := r.Lag["buyers"], r.Lag["sellers"]
		relay, unread := s.RelayLag, s.Unread
		if relay == nil {
			relay = &sampled{}
		}
		if unread == nil {
			unread = &sampled{}
		}
		d.line("| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |", r.Name,
			of(buyers.Samples > 0, "%.1f", buyers.P50), of(buyers.Samples > 0, "%.1f", buyers.P99),
			of(sellers.Samples > 0, "%.1f", sellers.P50), of(sellers.Samples > 0, "%.1f", sellers.P99),
			of(relay.Samples > 0, "%.0f", relay.Mean), of(relay.Samples > 0, "%.0f", relay.Max),
			of(unread.Samples > 0, "%.0f", unread.Mean), of(unread.Samples > 0, "%.0f", unread.Max), of(r.Server != nil, "%.2f", s.DrainedS))
	}
	d.line("\nWhat is unread is known as often as consumers commit what they have read; so is when they had caught up.\n")
}

// details are what does not fit into a table.
func (d *document) details(runs []setRun) {
	if len(runs) == 0 {
		return
	}
	d.line("## What came of each\n")
	for _, r := range runs {
		d.line("* %s: %d in %.1f s%s", r.Name, r.Count, r.DurationS, r.more())
		for _, step := range slices.Sorted(maps.Keys(r.Steps)) {
			d.line("  * %s: %s", step, r.Steps[step])
		}
		for _, kind := range slices.Sorted(maps.Keys(r.Reads)) {
			d.line("  * read %s: %s", kind, r.Reads[kind].Latency)
		}
	}
	d.line("")
}

func (r *setRun) more() string {
	var more strings.Builder
	if o := r.OpenLoop; o != nil {
		_, _ = fmt.Fprintf(&more, "; %.0f/s due, %d began more than 5 ms late, %d could not be begun", o.Rate, o.Late, o.NotBegun)
	}
	if f := r.Flash; f != nil {
		_, _ = fmt.Fprintf(&more, "; of %d buyers %d got one of %d units, %d were refused, the last was answered after %.2f s", f.Buyers, f.Placed, f.Units, f.Refused, f.AnsweredS)
	}
	_, _ = more.WriteString(refusals(r.Errors))
	for _, why := range slices.Sorted(maps.Keys(r.Retries)) {
		_, _ = fmt.Fprintf(&more, "; %d sent again for %s", r.Retries[why], why)
	}
	if r.Scenario == "own-writes" {
		_, _ = fmt.Fprintf(&more, "; %d stale reads", r.Stale)
	}
	return more.String()
}

func (d *document) log(runs []NodeRate) {
	if len(runs) == 0 {
		return
	}
	d.line("## The event log alone\n")
	d.table("scenario", "at once", "operations a second", "events a second", "p50 ms", "p99", "CPU µs an operation", "heap MB")
	for _, r := range runs {
		d.line("| %s | %d | %s | %s | %s | %s | %.1f | %d |", r.Scenario, r.Concurrency, of(r.Rate >= 1, "%.0f", r.Rate), of(r.EventRate >= 1, "%.0f", r.EventRate),
			of(r.P50 > 0, "%.2f", r.P50), of(r.P99 > 0, "%.2f", r.P99), r.CPU, r.HeapPeak>>20)
	}
	d.line("\nClient and node are one process here.\n")
}

func (d *document) replays(runs []ReplayRate) {
	if len(runs) == 0 {
		return
	}
	d.line("## Views built anew\n")
	d.table("view", "workers", "events a second", "seconds", "CPU µs an event", "heap MB")
	for _, r := range runs {
		if r.Events == 0 { // the log has orders only
			continue
		}
		d.line("| %s | %d | %.0f | %.1f | %.1f | %d |", r.View, r.Workers, r.Rate, r.Seconds, r.CPU, r.HeapPeak>>20)
	}
	d.line("")
}
