package esdbnode_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"

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
		if got := fmt.Sprint(e.Position, e.Stream, e.Revision, e.ID); n >= len(want) || got != want[n] {
			t.Fatalf("event %d is %s", n, got)
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

// TestCheckFindsDamage changes what is stored behind the node's back.
func TestCheckFindsDamage(t *testing.T) {
	event := func(n byte) string { return "e\x00\x00\x00\x00\x00\x00\x00" + string(n) }
	index := func(n byte) string { return "i\x01s\x00\x00\x00\x00\x00\x00\x00" + string(n) }
	for name, c := range map[string]struct {
		damage func(*pebble.DB) error
		says   string
	}{
		"a changed byte": {func(db *pebble.DB) error {
			value, closer, err := db.Get([]byte(event(2)))
			if err != nil {
				return err
			}
			changed := append([]byte(nil), value...)
			changed[len(changed)-1] ^= 1
			return errors.Join(closer.Close(), db.Set([]byte(event(2)), changed, pebble.Sync))
		}, "position 2"},
		"an event that is gone":            {func(db *pebble.DB) error { return db.Delete([]byte(event(2)), pebble.Sync) }, "2 events, 3 of them indexed"},
		"the newest event is gone":         {func(db *pebble.DB) error { return db.Delete([]byte(event(3)), pebble.Sync) }, "2 events"},
		"a gap in a stream":                {func(db *pebble.DB) error { return db.Delete([]byte(index(1)), pebble.Sync) }, "stream s goes from 0"},
		"a stream without its beginning":   {func(db *pebble.DB) error { return db.Delete([]byte(index(0)), pebble.Sync) }, "stream s begins with 1"},
		"an end that is not in the stream": {func(db *pebble.DB) error { return db.Delete([]byte(index(2)), pebble.Sync) }, "2 of them indexed"},
		"a stream without a head":          {func(db *pebble.DB) error { return db.Delete([]byte("hs"), pebble.Sync) }, "0 by the heads"},
		"a damaged head":                   {func(db *pebble.DB) error { return db.Set([]byte("hs"), []byte{1, 0, 0xff}, pebble.Sync) }, "head of s"},
		"places that run backwards": {func(db *pebble.DB) error {
			return db.Set([]byte(index(2)), []byte{0, 0, 0, 0, 0, 0, 0, 1}, pebble.Sync)
		}, "stream s goes from 1"},
		"a short place": {func(db *pebble.DB) error { return db.Set([]byte(index(2)), []byte{1}, pebble.Sync) }, "index of"},
	} {
		dir := t.TempDir()
		r := start(t, esdbnode.Options{Dir: dir})
		write(t, dial(t, r.uri), "s", 3)
		r.stop()
		db, err := pebble.Open(dir, &pebble.Options{FormatMajorVersion: pebble.FormatTableFormatV6, Logger: silent{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(c.damage(db), db.Close()); err != nil {
			t.Fatal(err)
		}
		if got, err := esdbnode.Check(t.Context(), dir); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
