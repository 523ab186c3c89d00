package esdbnode_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/cockroachdb/pebble/v2/vfs"

	"cartwright/domain/event"
	"cartwright/infra/esdbnode"
	"cartwright/infra/storetest"
)

// TestABackupUnderLoadIsAWholeLog takes backups while eight writers append. Each
// has everything that was acknowledged before it, and is the beginning of the
// history and not a patchwork of it.
func TestABackupUnderLoadIsAWholeLog(t *testing.T) {
	r := start(t, esdbnode.Options{})
	store := openStore(t, r.uri)
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	var written atomic.Int64
	for w := range 8 {
		wg.Go(func() {
			for after := event.Revision(0); store.Append(ctx, fmt.Sprintf("s-%d", w), after, storetest.Events(3)) == nil; after += 3 {
				written.Add(3)
			}
		})
	}
	for i := range 4 {
		for written.Load() < int64(600*(i+1)) && ctx.Err() == nil {
			_, _ = store.Head(ctx)
		}
		dir := filepath.Join(t.TempDir(), "backup")
		before := r.node.Head()
		position, err := r.node.Backup(ctx, dir)
		if err != nil || position < before {
			t.Fatalf("backup at %d: %d, %v", before, position, err)
		}
		found, err := esdbnode.Check(ctx, dir)
		if err != nil || found.Position < position || found.Events != found.Position || found.Streams != 8 {
			t.Fatalf("of a log at %d: %+v, %v", position, found, err)
		}
		// It may have what was not synced yet, and so nobody has seen.
		until(t, "the log has what its backup has", func() bool { return r.node.Head() >= found.Position })
		wantPrefix(t, store, openStore(t, start(t, esdbnode.Options{Dir: dir}).uri), found.Events)
	}
}

// wantPrefix compares the beginnings of two logs.
func wantPrefix(t *testing.T, whole, part storetest.Log, events uint64) {
	t.Helper()
	var want []string
	for e, err := range whole.All(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprint(e.Position, e.Stream, e.Revision, e.ID))
	}
	n := 0
	for e, err := range part.All(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		switch got := fmt.Sprint(e.Position, e.Stream, e.Revision, e.ID); {
		case n >= len(want):
			t.Fatalf("event %d is %s, and the whole log ends before", n, got)
		case got != want[n]:
			t.Fatalf("event %d is %s, want %s", n, got, want[n])
		}
		n++
	}
	if uint64(n) != events {
		t.Fatalf("%d events, want %d", n, events)
	}
}

func TestABackupIsRefusedWhereItCannotBe(t *testing.T) {
	r := start(t, esdbnode.Options{})
	write(t, dial(t, r.uri), "s", 2)
	there := t.TempDir()
	if _, err := r.node.Backup(t.Context(), there); err == nil {
		t.Error("a folder that is there was taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.node.Backup(ctx, filepath.Join(there, "b")); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context: %v", err)
	}
	r.stop()
	if _, err := r.node.Backup(t.Context(), filepath.Join(there, "b")); err == nil {
		t.Error("a closed node was backed up")
	}
	if names, err := os.ReadDir(there); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

// TestABackupOnAFullDiskLeavesNothing takes a backup where there is ever less room:
// it is whole, or it fails and nothing of it is there. The node goes on.
func TestABackupOnAFullDiskLeavesNothing(t *testing.T) {
	disk := &smallDisk{FS: vfs.NewMem(), left: 1 << 30}
	r := start(t, esdbnode.Options{Dir: "log", FS: disk, MemTable: 64 << 10})
	client := dial(t, r.uri)
	for range 20 {
		write(t, client, "s", 20)
	}
	failed, taken := 0, 0
	for room := int64(0); taken == 0; room += 1500 {
		more := disk.leave(room)
		_, err := r.node.Backup(t.Context(), "backup")
		disk.add(more)
		_, absent := disk.Stat("backup")
		switch {
		case err == nil:
			taken++
		case !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "back up to backup"):
			t.Errorf("with room for %d bytes: %v", room, err)
		case absent == nil:
			t.Errorf("with room for %d bytes something is left", room)
		default:
			failed++
		}
		// The node itself may have met the full disk meanwhile, which passes.
		event := fresh("more")
		until(t, "there is room again", func() bool {
			_, err := client.AppendToStream(t.Context(), "more", esdb.AppendToStreamOptions{ExpectedRevision: esdb.Any{}}, event...)
			return err == nil
		})
	}
	if failed < 5 {
		t.Errorf("it failed %d times", failed)
	}
	dir := filepath.Join(t.TempDir(), "backup")
	if _, err := vfs.Clone(disk.FS, vfs.Default, "backup", dir); err != nil {
		t.Fatal(err)
	}
	wantWhole(t, dir, 400+failed)
}

// TestABackupOfADamagedLogIsNotTakenForAWholeOne changes files of a log while a node
// has it open, and takes a backup. It has what is there, and Verify tells what is wrong.
func TestABackupOfADamagedLogIsNotTakenForAWholeOne(t *testing.T) {
	for _, kind := range []string{"*.log", "MANIFEST-*"} {
		dir, to := t.TempDir(), filepath.Join(t.TempDir(), "backup")
		r := start(t, esdbnode.Options{Dir: dir})
		client := dial(t, r.uri)
		for range 5 {
			write(t, client, "s", 5)
		}
		files, err := filepath.Glob(filepath.Join(dir, kind))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		newest := slices.Max(files)
		info, err := os.Stat(newest)
		if err != nil {
			t.Fatal(err)
		}
		flip(t, newest, info.Size()-20)
		if _, err = r.node.Backup(t.Context(), to); err != nil {
			if _, absent := os.Stat(to); absent == nil {
				t.Errorf("%s: it failed, and is there: %v", kind, err)
			}
			continue
		}
		if got := foundIn(t, to, 0); len(got) == 0 || !strings.HasPrefix(got[0], "file "+filepath.Base(newest)) {
			t.Errorf("%s: %q", kind, got)
		}
	}
}

func TestCheckCountsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	r := start(t, esdbnode.Options{Dir: dir})
	client := dial(t, r.uri)
	write(t, client, "a", 3)
	write(t, client, "b", 2)
	remove(t, client, "b") // writes metadata
	bury(t, client, "a")
	bury(t, client, "never-was")
	r.stop()
	before := listing(t, dir)
	got, err := esdbnode.Check(t.Context(), dir)
	if want := (esdbnode.Contents{Format: 1, Position: 8, Events: 8, Streams: 4}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if after := listing(t, dir); before != after {
		t.Errorf("the folder was changed from\n%sto\n%s", before, after)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = esdbnode.Check(ctx, t.TempDir())
	if err == nil {
		t.Error("an empty folder passes for a log")
	}
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, n := range names {
		info, err := n.Info()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, n.Name(), info.Size())
	}
	return b.String()
}
