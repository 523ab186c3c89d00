package main

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"
)

// TestTheNodeIsMeasuredAndItsLogIsChecked runs every scenario for a moment.
func TestTheNodeIsMeasuredAndItsLogIsChecked(t *testing.T) {
	t.Parallel()
	out, code := tool(t, "bench", "node", "--json", "--scenario", "fill,append,batch,read,catchup,open",
		"--concurrency", "1,8", "--duration", "200ms", "--events", "3000", "--events-per-append", "2")
	var r NodeReport
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || len(r.Runs) != 7 {
		t.Fatalf("exit %d: %v: %s", code, err, out)
	}
	for _, one := range r.Runs {
		if one.Operations == 0 || one.Seconds <= 0 || len(one.Errors)+len(one.Differences) > 0 {
			t.Errorf("%+v", one)
		}
		if one.Scenario == "append" && (one.Events != 2*one.Operations || one.P50 <= 0 || one.Samples != one.Operations || one.CPU <= 0) {
			t.Errorf("appends: %+v", one)
		}
		if (one.Scenario == "read" || one.Scenario == "catchup") && one.Events < 3000 {
			t.Errorf("%s: %d events", one.Scenario, one.Events)
		}
	}
	for _, args := range [][]string{
		{"--scenario", "all"},
		{"--concurrency", "0"},
		{"--size", "1"},
		{"--events", "0"},
		{"--duration", "0"},
		{"--in-flight", "0"},
		{"--size", "1000", "--events-per-append", "2000"},
		{"--target", "esdb://127.0.0.1:1?tls=false", "--scenario", "open"},
	} {
		if _, code := tool(t, append([]string{"bench", "node"}, args...)...); code != exitUsage {
			t.Errorf("%v: exit %d", args, code)
		}
	}
}

// TestAMeasurementThatLostSomethingSaysSo tells the check of appends that were never made.
func TestAMeasurementThatLostSomethingSaysSo(t *testing.T) {
	t.Parallel()
	b := nodeBench{size: 20, perAppend: 3, duration: time.Second, errs: io.Discard}
	s := &benchedNode{nodeBench: &b, name: "bench-test"}
	if err := s.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	from, err := s.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := s.newLoad()
	whole, short, twice := benchedStream{number: 1}, benchedStream{number: 2}, benchedStream{number: 3}
	for _, one := range []*benchedStream{&whole, &short, &twice} {
		if err := l.append(t.Context(), one, 3); err != nil {
			t.Fatal(err)
		}
		one.acked = 3
	}
	short.acked = 6
	again := benchedStream{number: 3, acked: 3}
	if err := l.append(t.Context(), &again, 3); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		known []benchedStream
		want  string
	}{
		"all is there":         {[]benchedStream{whole, {number: 3, acked: 6}}, ""},
		"nobody knows":         {[]benchedStream{{number: 2, lost: 3}}, ""},
		"an append is lost":    {[]benchedStream{whole, short}, "bench-test-2 has 3 events, and 6 were acknowledged"},
		"an append came twice": {[]benchedStream{twice}, "bench-test-3 has 6 events, and 3 were acknowledged"},
		"a stream is lost":     {[]benchedStream{{number: 9, acked: 1}}, "bench-test-9 has 0 events"},
	} {
		got, err := s.verify(t.Context(), from, c.known)
		if err != nil || (c.want == "") != (len(got) == 0) || !strings.Contains(strings.Join(got, "\n"), c.want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for i := range s.pool {
		s.pool[i] ^= 2
	}
	if got, err := s.verify(t.Context(), from, nil); err != nil || len(got) == 0 {
		t.Errorf("events with other data: %q, %v", got, err)
	}
}
