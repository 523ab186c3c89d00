package pebblekv_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"cartwright/domain/event"
	"cartwright/infra/pebblekv"
	"cartwright/infra/viewtest"
	"cartwright/projections"
)

// buildDir tells the test binary that it runs as the builder to be killed, and where.
const buildDir = "CARTWRIGHT_PEBBLEKV_BUILD_DIR"

// A batch's number is the revision of its documents and the position of its mark.
func TestAKilledBuilderLeavesWhatItMarked(t *testing.T) {
	if dir := os.Getenv(buildDir); dir != "" {
		buildUntilKilled(t, dir)
		return
	}
	dir := t.TempDir()
	for _, marks := range []int{1, 5, 20} {
		last := buildAndKill(t, dir, marks)
		db := open(t, dir)
		b, err := pebblekv.NewBuyers(db)
		if err != nil {
			t.Fatal(err)
		}
		next, at, found, err := b.Unfinished(t.Context())
		if err != nil || !found || at.Position < last {
			t.Fatalf("marked at %d, found is %v at %d, %v", last, found, at.Position, err)
		}
		got, err := next.Get(t.Context(), []string{viewtest.SampleOrder(0, 1, "").Stream})
		if doc := got[viewtest.SampleOrder(0, 1, "").Stream]; err != nil || uint64(doc.Revision) < at.Position {
			t.Errorf("the mark says %d, the document %d, %v", at.Position, doc.Revision, err)
		}
		if err := db.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
	}
}

// buildAndKill goes on with a generation in another process, until that has
// reported so many marks. It gives the last one reported.
func buildAndKill(t *testing.T, dir string, marks int) uint64 {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), buildDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var last uint64
	lines := bufio.NewScanner(out)
	for seen := 0; lines.Scan(); {
		at, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err != nil {
			continue // what the test runner says
		}
		last = at
		if seen++; seen == marks {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || last == 0 {
		t.Fatalf("the builder ended by itself after mark %d", last)
	}
	return last
}

func buildUntilKilled(t *testing.T, dir string) {
	t.Helper()
	b, err := pebblekv.NewBuyers(open(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	next, at, found, err := b.Unfinished(t.Context())
	if err == nil && !found {
		next, err = b.Build(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	for n := at.Position + 1; ; n++ {
		docs := make([]projections.Doc[projections.Order], 50)
		for i := range docs {
			docs[i] = viewtest.SampleOrder(i, event.Revision(n), "x")
		}
		if err := next.Put(t.Context(), docs); err != nil {
			t.Fatal(err)
		}
		if n%3 != 0 {
			continue // some batches have no mark behind them when the end comes
		}
		if err := b.Mark(t.Context(), next.Number(), projections.Checkpoint{Position: n}); err != nil {
			t.Fatal(err)
		}
		fmt.Println(n)
	}
}
