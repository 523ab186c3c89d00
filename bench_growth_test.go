package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

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
	for _, want := range []string{
		"what all wrote", "| commands `Hold/ended=true` | held | 1k: 20 · 100k: 40 | 2.00 |",
		"| infra/esdbstore `Log/op=load` | events | 1M: 1.5* | – |",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "Other") {
		t.Errorf("a benchmark that says no size became a curve:\n%s", text)
	}
	if _, err = growthTable(strings.NewReader("PASS\n")); err == nil {
		t.Error("nothing was made into a table")
	}
}
