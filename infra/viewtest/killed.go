package viewtest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"cartwright/domain/event"
	"cartwright/projections"
)

// childDir tells the test binary that it runs as the process to be killed, and where.
const childDir = "CARTWRIGHT_VIEWTEST_DIR"

// RunKilled checks an engine in a folder: a process killed between any two
// instructions leaves whole batches behind, and every batch that was answered,
// by Put or, where the engine asks for one, by the sync after it.
// It is called by a test of this name that does nothing else, since the binary
// is started again to run that test alone.
func RunKilled[V any](t *testing.T, open func(t *testing.T, dir string) Store[V], sample func(number int, at event.Revision, mark string) projections.Doc[V]) {
	t.Helper()
	const docs = 50
	if dir := os.Getenv(childDir); dir != "" {
		writeUntilKilled(t, open(t, dir), sample, docs)
		return
	}
	dir := t.TempDir()
	last := event.Revision(0)
	for _, batches := range []int{1, 7, 40} {
		last = max(last, runAndKill(t, dir, batches))
		store := open(t, dir)
		at := wholeBatch(t, store, sample, docs)
		if at < last {
			t.Errorf("batch %d was answered, the documents are of batch %d", last, at)
		}
		if err := store.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
	}
}

// runAndKill starts the writer and kills it when it has reported so many
// batches. It gives the last one reported.
func runAndKill(t *testing.T, dir string, batches int) event.Revision {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v") //nolint:gosec // it is this binary
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var last event.Revision
	lines := bufio.NewScanner(out)
	for seen := 0; lines.Scan(); {
		at, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err != nil {
			continue // what the test runner says
		}
		last = event.Revision(at)
		if seen++; seen == batches {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || last == 0 {
		t.Fatalf("the writer ended by itself after batch %d", last)
	}
	return last
}

// wholeBatch expects all documents at one revision.
func wholeBatch[V any](t *testing.T, store Store[V], sample func(int, event.Revision, string) projections.Doc[V], docs int) event.Revision {
	t.Helper()
	streams := make([]string, docs)
	for i := range streams {
		streams[i] = sample(i, 1, "").Stream
	}
	got, err := store.Reader.Revisions(t.Context(), streams)
	if err != nil || len(got) != docs {
		t.Fatalf("%d documents, %v", len(got), err)
	}
	for stream, at := range got {
		if at != got[streams[0]] {
			t.Fatalf("%s is at %d, %s at %d: half a batch", stream, at, streams[0], got[streams[0]])
		}
	}
	return got[streams[0]]
}

func writeUntilKilled[V any](t *testing.T, store Store[V], sample func(int, event.Revision, string) projections.Doc[V], docs int) {
	t.Helper()
	revisions, err := store.Reader.Revisions(t.Context(), []string{sample(0, 1, "").Stream})
	if err != nil {
		t.Fatal(err)
	}
	for at := revisions[sample(0, 1, "").Stream] + 1; ; at++ {
		batch := make([]projections.Doc[V], docs)
		for i := range batch {
			batch[i] = sample(i, at, "x")
		}
		put(t, store.Live(), batch...)
		if store.Sync != nil {
			if at%3 != 0 {
				continue // some batches are on their way when the end comes
			}
			if err := store.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		fmt.Println(at)
	}
}
