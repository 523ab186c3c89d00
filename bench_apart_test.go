package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheFiguresOfAFleetAreThoseOfItsParts(t *testing.T) {
	says := func(text string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }))
		t.Cleanup(s.Close)
		return s.URL
	}
	g := &fleetGauge{
		metrics: map[string]string{"write": says("process_cpu_seconds_total 1.5\na 1\n"), "read": says("process_cpu_seconds_total 2\n")},
		pids:    map[string]int{"this": os.Getpid()},
	}
	before := figures{}
	for cpuTime().Seconds() < .05 { // the kernel counts in hundredths
		before["spin"]++
	}
	got := httptest.NewRecorder()
	g.ServeHTTP(got, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
	sum, err := readFigures(got.Body)
	if err != nil || sum["process_cpu_seconds_total"] != 3.5 || sum["a"] != 1 {
		t.Errorf("got %v, %v", sum, err)
	}
	if parts := partsOf(figures{}, sum, 10); parts["this"] < 4000 || parts["this"] > 60e6 {
		t.Errorf("this process spent %v µs on each of ten operations, and %s in all", parts, cpuTime())
	}
	g.metrics["gone"] = "http://127.0.0.1:1/metrics"
	if _, err = g.sum(t.Context()); err == nil {
		t.Error("a part that does not answer is passed over")
	}
	delete(g.metrics, "gone")
	g.pids["gone"] = 1 << 30
	if _, err = g.sum(t.Context()); err == nil {
		t.Error("a process that there isn't is passed over")
	}
}

func TestASectionOfADocumentIsItsOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "BENCHMARKS.md")
	for _, put := range [][2]string{{"", "embedded 1"}, {"real servers", "real 1"}, {"", "embedded 2"}, {"real servers", "real 2"}} {
		if err := putInto(path, put[0], put[1]); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(text), " 1\n") || strings.Index(string(text), "embedded 2") > strings.Index(string(text), "real 2") || strings.Count(string(text), documentEnds) != 2 {
		t.Errorf("got %v, %s", err, text)
	}
}

func TestCapacityIsDerivedFromWhatPartsSpend(t *testing.T) {
	var did setReport
	for _, name := range []string{"lifecycle", "flash", "order", "history", "seller", "hot"} {
		r := setRun{Name: name}
		r.Rate = 2500
		r.Server = &serverFigures{Parts: map[string]float64{"write": 600, "project": 1000}}
		did.Runs = append(did.Runs, r)
	}
	text := did.document("real servers", true)
	for _, want := range []string{
		"| lifecycle | 1000 | 600 |", // projectors first
		"139 at the day's peak",
		"| write | 2.5 | 100.0 | 52 |", // 138.9 x 600 x (1 + 10 + 5 + 2) us, and 100,000 x 600 us, at six tenths
		"sold out after 4.0 s", "# With real servers",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if text = (&setReport{Runs: did.Runs[1:]}).document("", false); strings.Contains(text, "Capacity") {
		t.Errorf("capacity was derived without lifecycles:\n%s", text)
	}
}
