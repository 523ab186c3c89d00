package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// curvesInto makes curves of what was printed, and gives the file they went into.
func curvesInto(t *testing.T, path, printed string) string {
	t.Helper()
	cmd := newBenchGrowthCommand()
	cmd.SetIn(strings.NewReader(printed))
	cmd.SetArgs([]string{"--out", path})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestBenchmarksThatGrowBecomeCurves(t *testing.T) {
	const printed = `goos: linux
pkg: cartwright/commands
BenchmarkHold/ended=true/held=100000-2 	   1	  90000 ns/op	 40.0 cpu-µs/op	 12 B/op
BenchmarkHold/ended=true/held=1000-2   	   1	  80000 ns/op	 20.0 cpu-µs/op
BenchmarkOther-2 	 1	 5 ns/op
pkg: cartwright/infra/esdbstore
BenchmarkLog/events=1000000/op=load-2  	   1	   1500 ns/op
PASS
`
	path := filepath.Join(t.TempDir(), "B.md")
	if err := putInto(path, "", "what all wrote"); err != nil {
		t.Fatal(err)
	}
	text := curvesInto(t, path, printed)
	for _, want := range []string{
		"what all wrote", "| commands `Hold/ended=true` | held | 1k: 20 · 100k: 40 | 2.00 |",
		"| infra/esdbstore `Log/op=load` | events | 1M: 1.5* | – |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "Other") {
		t.Errorf("a benchmark that says no size became a curve:\n%s", text)
	}
	cmd := newBenchGrowthCommand()
	cmd.SetIn(strings.NewReader("PASS\n"))
	cmd.SetArgs([]string{"--out", path})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if err := cmd.ExecuteContext(t.Context()); exitOf(err) != exitFailed {
		t.Errorf("nothing was made into a table: %v", err)
	}
	if again, err := os.ReadFile(path); err != nil || string(again) != text {
		t.Errorf("got %v, %s", err, again)
	}
}

func TestACurveThatIsMeasuredAnewLeavesTheOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "B.md")
	before := "# Growth\n\n| benchmark | axis | size: µs | ratio |\n|---|---|---|---|\n| commands `Hold/ended=true` | held | 1: 9 | – |\n| infra/esdbstore `Log/op=load` | events | 1k: 188 | – |\n"
	if err := putInto(path, growthSection, before); err != nil {
		t.Fatal(err)
	}
	if err := putInto(path, "", "what all wrote"); err != nil {
		t.Fatal(err)
	}
	var text string
	for range 2 {
		text = curvesInto(t, path, "pkg: cartwright/commands\nBenchmarkHold/ended=true/held=1-2 1 90000 ns/op 4 cpu-µs/op\nBenchmarkEntry/entries=10-2 1 7000 ns/op\n")
	}
	for _, want := range []string{
		"what all wrote", "<!-- what follows is written by cartwright bench growth -->", "| commands `Hold/ended=true` | held | 1: 4 | – | 2",
		"| infra/esdbstore `Log/op=load` | events | 1k: 188 | – | – |", "| commands `Entry` | entries | 10: 7* | – | 2",
	} {
		if strings.Count(text, want) != 1 {
			t.Errorf("not once %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "1: 9") {
		t.Errorf("what was measured before stands there still:\n%s", text)
	}
}

func TestWhatWasMeasuredInTimeIsWrittenDown(t *testing.T) {
	bin, path := t.TempDir(), filepath.Join(t.TempDir(), "B.md")
	benchmark := "#!/bin/sh\necho 'pkg: cartwright/commands'\necho 'BenchmarkEntry/entries=10-2 1 7000 ns/op'\n[ \"$CARTWRIGHT_SOAK$6\" = 13x ] || exit 1\nexec sleep 60\n"
	builder := "#!/bin/sh\nwhile [ \"$1\" != -o ]; do shift; done\ncp " + bin + "/benchmark \"$2\"\n"
	for name, script := range map[string]string{"benchmark": benchmark, "go": builder} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	cmd := newBenchGrowthCommand()
	cmd.SetArgs([]string{"--only", "entries", "--within", "2s", "--times", "3", "--out", path})
	cmd.SetErr(io.Discard)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	begun := time.Now()
	err := cmd.ExecuteContext(t.Context())
	if exitOf(err) != exitFailed || !strings.Contains(err.Error(), "not done within 2s") || time.Since(begun) > 30*time.Second {
		t.Errorf("after %s: %v", time.Since(begun), err)
	}
	if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), "| commands `Entry` | entries | 10: 7* |") {
		t.Errorf("got %v, %s", err, text)
	}
}

func TestTheCommandLineOfGrowthIsChecked(t *testing.T) {
	for _, line := range []string{"--only nonsense", "--only ,", "--only=", "--only buyer --within 0s", "--only buyer --times 0", "--within 1m", "--times 5", "more"} {
		cmd := newBenchGrowthCommand()
		cmd.SetArgs(strings.Fields(line))
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		if err := cmd.ExecuteContext(t.Context()); exitOf(err) != exitUsage {
			t.Errorf("%s: got %v", line, err)
		}
	}
}

func TestEveryAxisNamesBenchmarksThatThereAre(t *testing.T) {
	for _, a := range growthAxes() {
		for _, b := range a.benchmarks {
			files, err := filepath.Glob(filepath.Join(b.pkg, "*growth*_test.go"))
			if err != nil || len(files) == 0 {
				t.Fatalf("%s: %v", b.pkg, err)
			}
			var source strings.Builder
			for _, file := range files {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = source.Write(text)
			}
			for name := range strings.SplitSeq(b.pattern, "|") {
				if !strings.Contains(source.String(), "func Benchmark"+name+"(") {
					t.Errorf("%s: there is no Benchmark%s in %s", a.name, name, b.pkg)
				}
			}
		}
	}
}
