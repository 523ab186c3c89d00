package esdbnode_test

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"cartwright/domain/event"
	"cartwright/infra/esdbnode"
	"cartwright/infra/esdbstore"
	"cartwright/infra/storetest"
)

// scavenged is our store on a node that can be scavenged.
type scavenged struct {
	*esdbstore.Store
	node *esdbnode.Node
}

func (s scavenged) Scavenge(ctx context.Context) error {
	_, err := s.node.Scavenge(ctx)
	return err
}

// TestScavengeLeavesWhatReadersAreShown runs the suite with all of the log in
// memory, and with nothing but its last events.
func TestScavengeLeavesWhatReadersAreShown(t *testing.T) {
	for name, tail := range map[string]int{"in memory": 0, "on disk": 2} {
		t.Run(name, func(t *testing.T) {
			storetest.RunScavenged(t, func(t *testing.T) storetest.Scavenger {
				t.Helper()
				r := start(t, esdbnode.Options{TailEvents: tail})
				return scavenged{openStore(t, r.uri), r.node}
			})
		})
	}
}

func sweep(t *testing.T, n *esdbnode.Node, streams ...string) esdbnode.Scavenged {
	t.Helper()
	done, err := n.Scavenge(t.Context(), streams...)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// TestScavengeThrowsAwayByEveryRule has a stream for each way to hide events.
func TestScavengeThrowsAwayByEveryRule(t *testing.T) {
	dir := t.TempDir()
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	r := start(t, esdbnode.Options{Dir: dir, Now: func() time.Time { return time.Unix(0, now.Load()) }})
	client := dial(t, r.uri)
	limit := func(stream string, meta esdb.StreamMetadata) {
		t.Helper()
		if _, err := client.SetStreamMetadata(t.Context(), stream, esdb.AppendToStreamOptions{ExpectedRevision: esdb.Any{}}, meta); err != nil {
			t.Fatal(err)
		}
	}
	streams := []string{"plain", "counted", "before", "aged", "deleted", "again", "ended"}
	for _, stream := range streams {
		write(t, client, stream, 4)
	}
	now.Add(int64(time.Hour))
	for _, stream := range []string{"plain", "aged"} {
		appendTo(t, client, stream, esdb.Revision(3), fresh("late")...)
	}
	var counted, before, aged esdb.StreamMetadata
	counted.SetMaxCount(9)
	limit("counted", counted)
	counted.SetMaxCount(3)
	limit("counted", counted)
	before.SetTruncateBefore(2)
	limit("before", before)
	aged.SetMaxAge(30 * time.Minute)
	limit("aged", aged)
	remove(t, client, "deleted")
	remove(t, client, "again")
	appendTo(t, client, "again", esdb.NoStream{}, fresh("anew")...)
	limit("ended", counted)
	bury(t, client, "ended")
	head := r.node.Head()

	// counted 1 and its older metadata 1, before 2, aged 4, deleted 3, again 4 and
	// its older metadata 1, ended 4 and its metadata 1.
	if done := sweep(t, r.node); done.Events != 21 || done.Streams != 9 || done.Files == 0 {
		t.Errorf("%+v", done)
	}
	want := map[string][]uint64{
		"plain": {0, 1, 2, 3, 4}, "counted": {1, 2, 3}, "before": {2, 3}, "aged": {4}, "deleted": {3}, "again": {4}, "ended": {math.MaxInt64},
		"$$counted": {1}, "$$before": {0}, "$$aged": {0}, "$$deleted": {0}, "$$again": {1},
	}
	check := func() {
		t.Helper()
		got := map[string][]uint64{}
		all, err := log(t.Context(), client, esdb.ReadAllOptions{From: esdb.Start{}})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			got[e.Event.StreamID] = append(got[e.Event.StreamID], e.Event.EventNumber)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("the log has\n%v, want\n%v", got, want)
		}
		back, err := log(t.Context(), client, esdb.ReadAllOptions{Direction: esdb.Backwards, From: esdb.End{}})
		if slices.Reverse(back); err != nil || !slices.Equal(positions(all), positions(back)) {
			t.Errorf("backwards: %v, %v", positions(back), err)
		}
	}
	check()
	if done := sweep(t, r.node); done != (esdbnode.Scavenged{}) {
		t.Errorf("a second one: %+v", done)
	}
	r.stop()
	if got, err := esdbnode.Check(t.Context(), dir); err != nil || got.Position != head || got.Events != head-21 {
		t.Fatalf("%+v, %v", got, err)
	}

	r = start(t, esdbnode.Options{Dir: dir})
	client = dial(t, r.uri)
	check()
	if r.node.Head() != head {
		t.Errorf("the log ended at %d, now at %d", head, r.node.Head())
	}
	if res := appendTo(t, client, "deleted", esdb.NoStream{}, fresh("back")...); res.NextExpectedVersion != 4 {
		t.Errorf("a deleted stream goes on with %d", res.NextExpectedVersion)
	}
	if res := appendTo(t, client, "counted", esdb.Revision(3), fresh("next")...); res.CommitPosition <= head {
		t.Errorf("position %d comes behind %d", res.CommitPosition, head)
	}
}

func TestScavengeOfNamedStreamsLeavesTheOthers(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client := dial(t, r.uri)
	for _, stream := range []string{"a", "b"} {
		write(t, client, stream, 1100) // in more than one commit
		bury(t, client, stream)
	}
	if done := sweep(t, r.node, "b", "never-was"); done.Events != 1100 || done.Streams != 1 {
		t.Errorf("%+v", done)
	}
	if all, err := log(t.Context(), client, esdb.ReadAllOptions{From: esdb.Start{}}); err != nil || len(all) != 1102 {
		t.Errorf("%d events, %v", len(all), err)
	}
}

// secrets makes payloads of bytes that no compression makes shorter, so that
// they lie in files as they are.
func secrets(t *testing.T, n, size int) (events []esdb.EventData, seeds [][]byte) {
	t.Helper()
	for range n {
		data := make([]byte, size)
		if _, err := crand.Read(data); err != nil {
			t.Fatal(err)
		}
		events = append(events, esdb.EventData{EventID: newID(), EventType: "secret", ContentType: esdb.ContentTypeBinary, Data: data})
		seeds = append(seeds, data[size/2:size/2+24])
	}
	return events, seeds
}

// holding gives the files under a folder that have one of some strings of bytes.
func holding(t *testing.T, dir string, seeds [][]byte) map[string]int {
	t.Helper()
	found := map[string]int{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		for _, s := range seeds {
			if bytes.Contains(text, s) {
				found[filepath.Base(path)]++
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestScavengedBytesAreInNoFile looks for the bytes themselves: in the
// write-ahead log that is written to, in old ones that are kept to be used again,
// and in tables.
func TestScavengedBytesAreInNoFile(t *testing.T) {
	dir := t.TempDir()
	r := start(t, esdbnode.Options{Dir: dir, MemTable: 2 << 20})
	client := dial(t, r.uri)
	gone, goneSeeds := secrets(t, 3, 6000)
	kept, keptSeeds := secrets(t, 3, 6000)
	big, _ := secrets(t, 1, 100_000)
	filler := func(n int) {
		t.Helper()
		for range n {
			big[0].EventID = newID()
			appendTo(t, client, "filler", esdb.Any{}, big...)
		}
	}
	for i := range gone {
		appendTo(t, client, "secret", esdb.Any{}, gone[i])
		appendTo(t, client, "kept", esdb.Any{}, kept[i])
		filler([]int{80, 80, 30}[i]) // the memory is flushed, and the log turned
	}
	before := holding(t, dir, goneSeeds)
	if !hasEnding(before, ".log") || !hasEnding(before, ".sst") {
		t.Fatalf("the test shows nothing: %v", before)
	}
	bury(t, client, "secret")
	done := sweep(t, r.node)
	if after := holding(t, dir, goneSeeds); len(after) > 0 {
		t.Fatalf("%+v, and there is still %v; before it was %v", done, after, before)
	}
	if left := holding(t, dir, keptSeeds); len(left) == 0 {
		t.Error("what was to be kept is gone")
	}
	t.Logf("%+v: %v", done, before)
	if got, err := readAll(t.Context(), client, "kept", esdb.ReadStreamOptions{}, 10); err != nil || len(got) != 3 {
		t.Errorf("%d events, %v", len(got), err)
	}
	filler(4)
	r.stop()
	if after := holding(t, dir, goneSeeds); len(after) > 0 {
		t.Errorf("it came back: %v", after)
	}
	if _, err := esdbnode.Check(t.Context(), dir); err != nil {
		t.Error(err)
	}
}

// A reusing file system counts how often a file is used again under another name.
type reusing struct {
	vfs.FS
	times atomic.Int64
}

func (f *reusing) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f.times.Add(1)
	return f.FS.ReuseForWrite(oldname, newname, c)
}

// TestAScavengeUsesNoFileAgain, since what is left in it would have got another
// name behind the scavenge's back.
func TestAScavengeUsesNoFileAgain(t *testing.T) {
	disk := &reusing{FS: vfs.Default}
	r := start(t, esdbnode.Options{MemTable: 1 << 20, FS: disk})
	client := dial(t, r.uri)
	write(t, client, "secret", 3)
	for disk.times.Load() < 3 {
		appendTo(t, client, "filler", esdb.Any{}, esdb.EventData{EventID: newID(), EventType: "e", ContentType: esdb.ContentTypeBinary, Data: make([]byte, 100_000)})
	}
	bury(t, client, "secret")
	before := disk.times.Load()
	sweep(t, r.node)
	if n := disk.times.Load() - before; n > 0 {
		t.Errorf("%d files were used again", n)
	}
}

func hasEnding(files map[string]int, ending string) bool {
	for name := range files {
		if strings.HasSuffix(name, ending) {
			return true
		}
	}
	return false
}

// A halting file system calls for an end when a scavenge looks at its files,
// which it does when all is thrown away and nothing is removed.
type halting struct {
	vfs.FS
	halt atomic.Pointer[context.CancelFunc]
}

func (h *halting) List(dir string) ([]string, error) {
	if cancel := h.halt.Load(); cancel != nil {
		(*cancel)()
	}
	return h.FS.List(dir)
}

func TestAScavengeThatWasKilledIsFinishedByTheNext(t *testing.T) {
	dir := t.TempDir()
	disk := &halting{FS: vfs.Default}
	r := start(t, esdbnode.Options{Dir: dir, FS: disk})
	client := dial(t, r.uri)
	gone, seeds := secrets(t, 3, 6000)
	appendTo(t, client, "secret", esdb.NoStream{}, gone...)
	bury(t, client, "secret")
	ctx, cancel := context.WithCancel(t.Context())
	disk.halt.Store(&cancel)
	done, err := r.node.Scavenge(ctx)
	if !errors.Is(err, context.Canceled) || done.Events != 3 {
		t.Fatalf("%+v, %v", done, err)
	}
	disk.halt.Store(nil)
	if left := holding(t, dir, seeds); len(left) == 0 {
		t.Fatal("the test shows nothing")
	}
	if all, err := log(t.Context(), client, esdb.ReadAllOptions{From: esdb.Start{}}); err != nil || len(all) != 1 {
		t.Errorf("%d events, %v", len(all), err)
	}
	copied := filepath.Join(t.TempDir(), "backup")
	if _, err := r.node.Backup(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	r.stop()
	for _, dir := range []string{dir, copied} {
		if _, err := esdbnode.Check(t.Context(), dir); err != nil {
			t.Error(err)
		}
		r = start(t, esdbnode.Options{Dir: dir})
		if done := sweep(t, r.node, "another"); done.Events != 0 || done.Files == 0 {
			t.Errorf("%+v", done)
		}
		if left := holding(t, dir, seeds); len(left) > 0 {
			t.Errorf("there is still %v", left)
		}
		r.stop()
	}
}

func TestAScavengeEndsWithItsContextAndItsNode(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client := dial(t, r.uri)
	write(t, client, "s", 2)
	bury(t, client, "s")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.node.Scavenge(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				if _, err := r.node.Scavenge(t.Context()); err != nil {
					return
				}
			}
		})
	}
	r.stop()
	wg.Wait()
	if _, err := r.node.Scavenge(t.Context()); err == nil {
		t.Error("a closed node was scavenged")
	}
}

// busy is a log in which streams come to be hidden all the time.
type busy struct {
	store   *esdbstore.Store
	name    string       // what its streams have in their names
	plain   atomic.Int64 // events of order-1, of which none is hidden
	counted atomic.Int64 // events of snapshot-1, of which one is shown
	ended   atomic.Int64 // key streams with a tombstone
}

// run writes until it gets no answer.
func (b *busy) run(ctx context.Context, fail func(error)) {
	var wg sync.WaitGroup
	until := func(do func(i int64) error) {
		wg.Go(func() {
			for i := int64(0); ; i++ {
				if err := do(i); err != nil {
					fail(err)
					return
				}
			}
		})
	}
	until(func(i int64) error {
		err := b.store.Append(ctx, "order-"+b.name, event.Revision(i), storetest.Events(1))
		if err == nil {
			b.plain.Add(1)
		}
		return err
	})
	until(func(i int64) error {
		err := b.store.Append(ctx, "snapshot-"+b.name, event.Revision(3*i), storetest.Events(3))
		if err == nil && i == 0 {
			err = b.store.KeepNewest(ctx, "snapshot-"+b.name, 1)
		}
		if err == nil {
			b.counted.Add(3)
		}
		return err
	})
	until(func(i int64) error {
		stream := fmt.Sprintf("key-%s-%d", b.name, i)
		err := b.store.Append(ctx, stream, 0, storetest.Events(2))
		if err == nil {
			err = b.store.Tombstone(ctx, stream)
		}
		if err == nil {
			b.ended.Add(1)
		}
		return err
	})
	wg.Wait()
}

// check wants everything that was acknowledged and is shown.
func (b *busy) check(t *testing.T, store *esdbstore.Store) {
	t.Helper()
	n := event.Revision(0)
	for e, err := range store.Load(t.Context(), "order-"+b.name, 0) {
		if n++; err != nil || e.Revision != n {
			t.Fatalf("order-1: revision %d where %d is next, %v", e.Revision, n, err)
		}
	}
	if int64(n) < b.plain.Load() {
		t.Fatalf("%d of %d events of order-1 are there", n, b.plain.Load())
	}
	shown := 0
	for e, err := range store.Load(t.Context(), "snapshot-"+b.name, 0) {
		if shown++; err != nil || int64(e.Revision) < b.counted.Load() {
			t.Fatalf("snapshot-1: revision %d after %d were acknowledged, %v", e.Revision, b.counted.Load(), err)
		}
	}
	if shown != 1 && b.counted.Load() > 0 {
		t.Fatalf("snapshot-1 shows %d", shown)
	}
	for i := range b.ended.Load() {
		for _, err := range store.Load(t.Context(), fmt.Sprintf("key-%s-%d", b.name, i), 0) {
			if !errors.Is(err, event.ErrDeleted) {
				t.Fatalf("key-%d: %v", i, err)
			}
		}
	}
}

// TestAScavengeStopsNobody scavenges again and again while others append, read
// and follow, one of them slowly and so from disk.
func TestAScavengeStopsNobody(t *testing.T) {
	r := start(t, esdbnode.Options{TailEvents: 64})
	b := &busy{store: openStore(t, r.uri), name: "1"}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	writing, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		b.run(writing, func(err error) {
			if writing.Err() == nil {
				t.Errorf("writing: %v", err)
			}
		})
	})
	for _, slow := range []time.Duration{0, time.Millisecond} {
		wg.Go(func() {
			next := event.Revision(1)
			for n, err := range b.store.Follow(writing, 0) {
				if err != nil {
					if writing.Err() == nil {
						t.Errorf("follow: %v", err)
					}
					return
				}
				if n.Event.Stream == "order-1" {
					if n.Event.Revision != next {
						t.Errorf("order-1: %d where %d is next", n.Event.Revision, next)
						return
					}
					next++
				}
				time.Sleep(slow) // a slow reader is the point
			}
		})
	}
	wg.Go(func() {
		for writing.Err() == nil {
			last := event.Revision(0)
			for e, err := range b.store.Load(writing, "snapshot-1", 0) {
				if err != nil && writing.Err() == nil {
					t.Errorf("load: %v", err)
				}
				last = e.Revision
			}
			_ = last
		}
	})
	var events uint64
	rounds := 0
	for ; rounds < 15 || events < 400 && ctx.Err() == nil; rounds++ {
		events += sweep(t, r.node).Events
	}
	stop()
	wg.Wait()
	b.check(t, b.store)
	t.Logf("%d scavenges threw %d events away, while %d, %d and %d were appended", rounds, events, b.plain.Load(), b.counted.Load(), 3*b.ended.Load())
}

// TestNothingElseIsLostByKillingAScavenge takes the power away from a node that
// is scavenged all the time, and looks at what was on the disk.
func TestNothingElseIsLostByKillingAScavenge(t *testing.T) {
	t.Setenv(childScavenges, "1")
	c := &crash{t: t, dir: t.TempDir(), socket: filepath.Join(t.TempDir(), "n.sock")}
	var all []*busy
	for round := range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		kill := c.startChild(ctx)
		b := &busy{store: openStore(t, "unix://"+c.socket), name: strconv.Itoa(round)}
		all = append(all, b)
		var wg sync.WaitGroup
		wg.Go(func() { b.run(ctx, func(error) {}) })
		for b.ended.Load() < 60 && ctx.Err() == nil {
			time.Sleep(time.Millisecond) // between two looks
		}
		kill()
		cancel()
		wg.Wait()
		found, err := esdbnode.Check(t.Context(), c.dir)
		if err != nil {
			t.Fatal(err)
		}
		if found.Events >= found.Position {
			t.Error("nothing was scavenged")
		}
		t.Logf("%+v", found)
		c.inOwnProcess(func() {
			store := openStore(t, "unix://"+c.socket)
			for _, b := range all {
				b.check(t, store)
			}
		})
	}
}

// TestCheckFindsDamageInAScavengedLog damages what a scavenge has left.
func TestCheckFindsDamageInAScavengedLog(t *testing.T) {
	place := func(stream string, n uint64) []byte {
		b := append([]byte{'i', byte(len(stream))}, stream...)
		for shift := 56; shift >= 0; shift -= 8 {
			b = append(b, byte(n>>shift))
		}
		return b
	}
	for name, c := range map[string]struct {
		damage func(*pebble.DB) error
		says   string
	}{
		"none":                           {func(*pebble.DB) error { return nil }, ""},
		"the first that is left is gone": {func(db *pebble.DB) error { return db.Delete(place("counted", 3), pebble.Sync) }, "counted@3: the event has no place"},
		"one that was scavenged is back": {func(db *pebble.DB) error {
			return db.Set(place("counted", 2), []byte{0, 0, 0, 0, 0, 0, 0, 3}, pebble.Sync)
		}, "counted@2: the event there is plain@2"},
		"a tombstone is gone":        {func(db *pebble.DB) error { return db.Delete(place("ended", math.MaxInt64), pebble.Sync) }, "the tombstone of ended: the event has no place"},
		"a tombstone without a head": {func(db *pebble.DB) error { return db.Delete([]byte("hended"), pebble.Sync) }, "stream ended: the stream has no head"},
		"a head that counts more than is gone": {func(db *pebble.DB) error {
			return db.Set([]byte("hplain"), []byte{1, 2, 3, 3, 0, 0, 0, 1}, pebble.Sync)
		}, "stream plain: the stream begins with 0, and by its head with 1"},
		"a head that makes no sense": {func(db *pebble.DB) error {
			return db.Set([]byte("hplain"), []byte{1, 2, 3, 3, 0, 0, 0, 4}, pebble.Sync)
		}, "4 of 3 events are scavenged"},
		"an event that is gone": {func(db *pebble.DB) error { return db.Delete([]byte("e\x00\x00\x00\x00\x00\x00\x00\x01"), pebble.Sync) }, "plain@0: the event is gone"},
	} {
		dir := t.TempDir()
		r := start(t, esdbnode.Options{Dir: dir})
		client := dial(t, r.uri)
		write(t, client, "plain", 3)
		write(t, client, "counted", 5)
		var meta esdb.StreamMetadata
		meta.SetMaxCount(2)
		if _, err := client.SetStreamMetadata(t.Context(), "counted", esdb.AppendToStreamOptions{}, meta); err != nil {
			t.Fatal(err)
		}
		write(t, client, "ended", 2)
		bury(t, client, "ended")
		sweep(t, r.node)
		r.stop()
		db, err := pebble.Open(dir, &pebble.Options{FormatMajorVersion: pebble.FormatTableFormatV6, Logger: silent{}})
		if err != nil {
			t.Fatal(err)
		}
		if err = errors.Join(c.damage(db), db.Close()); err != nil {
			t.Fatal(err)
		}
		got, err := esdbnode.Check(t.Context(), dir)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
