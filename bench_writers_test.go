package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestTwoWriteProcessesAreMeasuredAgainstOne(t *testing.T) {
	out, code := tool(t, "bench", "all", "--duration", "300ms", "--scenario", "writers", "--json")
	var did setReport
	if err := json.Unmarshal([]byte(out), &did); code != 0 || err != nil || len(did.Runs) != 3 || len(did.Wrong) > 0 {
		t.Fatalf("exit %d, %v: %s", code, err, out)
	}
	for i, r := range did.Runs {
		if r.Count == 0 || r.Server == nil || r.Server.CPU <= 0 {
			t.Fatalf("%s: %+v", r.Name, r)
		}
		for _, part := range []string{"serve", "write-1", "write-2"} {
			if _, known := r.Server.Parts[part]; !known {
				t.Errorf("%s: it is not told what %s spent: %v", r.Name, part, r.Server.Parts)
			}
		}
		if i > 0 && (len(r.Targets) != 2 || r.Targets[0].Count == 0 || r.Targets[1].Count == 0) {
			t.Errorf("%s: %+v", r.Name, r.Targets)
		}
	}
	if l := did.Runs[2].Check.Shards; l == nil || l.LeftOut != "" || l.Of != 2 || l.Moving != 0 {
		t.Errorf("got %+v", l)
	}
	if repeat := did.Commands[1]; !strings.HasPrefix(repeat, "bench checkout --hot") || !strings.Contains(repeat, "--target=WRITE1,WRITE2") {
		t.Errorf("it is repeated by %q", repeat)
	}
}

func TestTheRateOfTwoWriteProcessesIsReadTogetherWithWhatTheySpend(t *testing.T) {
	var did setReport
	for i, rate := range []float64{2000, 1500, 1800} {
		r := setRun{Name: writerRuns()[i].name}
		r.Rate, r.Server = rate, &serverFigures{CPU: 400 + 100*float64(i), Parts: map[string]float64{"serve": 200, "write-1": 150, "write-2": 50}}
		if i > 0 {
			r.Targets = []targetReport{{Share: .6}, {Share: .4}}
		}
		did.Runs = append(did.Runs, r)
	}
	text := did.document("", false)
	for _, want := range []string{
		"| writers-1 | 2000 | 1.00 | 1.00 | 400 | 1.00 | 150 and 50 |",
		"| writers-2 | 1500 | 0.75 | 0.60 and 0.40 | 500 | 1.25 |",
		"| writers-2-shards | 1800 | 0.90 | 0.60 and 0.40 | 600 | 1.50 |", "at least 0.70",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if text = (&setReport{}).document("", false); strings.Contains(text, "write processes") {
		t.Errorf("it tells of what was not measured:\n%s", text)
	}
}
