package main

import (
	"strings"
	"testing"
)

func TestMemoryOfTheSecondHalfIsHeldAgainstTheFirst(t *testing.T) {
	flat, growing := halvesOf([]float64{100, 120, 80, 100, 120, 80}), halvesOf([]float64{100, 200, 300, 400})
	if flat.Ratio != 1 || flat.Max != 1 || flat.First.Mean != 100 || flat.Second.Max != 120 || flat.First.Samples != 3 {
		t.Errorf("got %+v", flat)
	}
	if growing.Ratio != 2.333 || growing.Max != 2 {
		t.Errorf("got %+v", growing)
	}
	if memoryOf([]float64{1, 2, 3}, []float64{1, 2, 3}) != nil {
		t.Error("three looks have halves")
	}
}

func TestWhetherMemoryStaysFlatAndWhatIsWrittenIsTold(t *testing.T) {
	s := serve(t, t.TempDir())
	got, err := runBench(t, "checkout", "--duration", "3600ms", "--warmup", "100ms", "--concurrency", "2", "--skus", "5", "--buyers", "5", "--target", s.url, "--data", s.data)
	if err != nil || got.Server == nil || got.Server.Memory == nil || got.Server.Disk == nil {
		t.Fatalf("%v: %+v, %q", err, got.Server, got.LeftOut)
	}
	m, d := got.Server.Memory, got.Server.Disk
	for _, h := range []halves{m.Resident, m.Heap} {
		if h.First.Samples < 2 || h.Second.Samples < 2 || h.First.Mean < mega || h.First.Max < h.First.Mean || h.Second.Max < h.Second.Mean || h.Ratio <= 0 || h.Max <= 0 {
			t.Errorf("got %+v", h)
		}
	}
	if m.Resident.First.Mean < m.Heap.First.Mean || d.Grown == 0 || d.Written < 0 {
		t.Errorf("got %+v, %+v", m, d)
	}
	var out strings.Builder
	if err := got.print(&out); err != nil {
		t.Fatal(err)
	}
	text := out.String() + (&setReport{Runs: []setRun{{Name: "checkout", scenarioReport: got}}}).document("", false)
	for _, want := range []string{"resident memory", "heap in use", "second half", "MB written", "## Memory and disk", "the data folder grew by"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
