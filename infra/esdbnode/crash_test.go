package esdbnode_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/cockroachdb/pebble/v2/vfs"

	"cartwright/infra/esdbnode"
)

// A crashingDisk tells before each operation that changes it, while none is under
// way.
type crashingDisk struct {
	vfs.FS
	changing sync.RWMutex
	before   func(what string)
}

// change does one operation.
func (d *crashingDisk) change(op, name string, do func() error) error {
	func() {
		d.changing.Lock()
		defer d.changing.Unlock()
		d.before(op + " " + d.PathBase(name))
	}()
	d.changing.RLock()
	defer d.changing.RUnlock()
	return do()
}

func (d *crashingDisk) file(op, name string, open func() (vfs.File, error)) (f vfs.File, err error) {
	err = d.change(op, name, func() error {
		f, err = open()
		return err
	})
	if err != nil {
		return nil, err
	}
	return &crashingFile{f, d, name}, nil
}

func (d *crashingDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.file("create", name, func() (vfs.File, error) { return d.FS.Create(name, c) })
}

func (d *crashingDisk) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return d.file("open", name, func() (vfs.File, error) { return d.FS.OpenReadWrite(name, c, opts...) })
}

func (d *crashingDisk) OpenDir(name string) (vfs.File, error) {
	f, err := d.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &crashingFile{f, d, name}, nil
}

func (d *crashingDisk) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.file("reuse", name, func() (vfs.File, error) { return d.FS.ReuseForWrite(old, name, c) })
}

func (d *crashingDisk) Link(old, name string) error {
	return d.change("link", name, func() error { return d.FS.Link(old, name) })
}

func (d *crashingDisk) Rename(old, name string) error {
	return d.change("rename", name, func() error { return d.FS.Rename(old, name) })
}

func (d *crashingDisk) MkdirAll(name string, perm os.FileMode) error {
	return d.change("make", name, func() error { return d.FS.MkdirAll(name, perm) })
}

func (d *crashingDisk) Remove(name string) error {
	return d.change("remove", name, func() error { return d.FS.Remove(name) })
}

func (d *crashingDisk) Unwrap() vfs.FS { return d.FS }

type crashingFile struct {
	vfs.File
	disk *crashingDisk
	name string
}

func (f *crashingFile) Write(p []byte) (n int, err error) {
	err = f.disk.change("write", f.name, func() error {
		n, err = f.File.Write(p)
		return err
	})
	return n, err
}

func (f *crashingFile) WriteAt(p []byte, at int64) (n int, err error) {
	err = f.disk.change("write", f.name, func() error {
		n, err = f.File.WriteAt(p, at)
		return err
	})
	return n, err
}

func (f *crashingFile) Sync() error { return f.disk.change("sync", f.name, f.File.Sync) }

func (f *crashingFile) SyncData() error { return f.disk.change("sync", f.name, f.File.SyncData) }

// A wreck is what a crash has left of a disk.
type wreck struct {
	what         string
	disk         *vfs.MemFS
	acknowledged map[string]int
	linked       []uint64
}

// A wrecker lets a log crash at any operation on its files.
type wrecker struct {
	dir    string
	disk   *vfs.MemFS
	every  int // of how many operations one is a crash
	wrecks chan<- wreck

	rng  *rand.Rand // only used between operations
	done map[string]int

	mu           sync.Mutex
	acknowledged map[string]int
	linked       []uint64 // the positions that links of $ce-s were told to lead to
}

// crash copies the disk, as the death of the process would leave it and as the
// loss of power would: without what was not synced, or with some of it.
func (k *wrecker) crash(what string) {
	op, name, _ := strings.Cut(what, " ")
	k.done[op+" "+strings.Trim(name, "0123456789")]++
	if k.rng.IntN(k.every) > 0 {
		return
	}
	k.mu.Lock()
	known, linked := maps.Clone(k.acknowledged), k.linked
	k.mu.Unlock()
	killed := vfs.NewCrashableMem()
	if _, err := vfs.Clone(k.disk, killed, k.dir, k.dir, vfs.CloneSync); err != nil {
		panic(err)
	}
	if err := syncRoot(killed); err != nil {
		panic(err)
	}
	k.wrecks <- wreck{"killed before " + what, killed, known, linked}
	percent := []int{0, 0, 10, 50, 90}[k.rng.IntN(5)]
	lost := k.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: k.rng})
	switch k.rng.IntN(3) {
	case 0:
		k.lose(lost)
	case 1:
		k.settle(lost)
	}
	k.wrecks <- wreck{fmt.Sprintf("powerless before %s, with %d%% of what was not synced", what, percent), lost, known, linked}
}

func syncRoot(disk vfs.FS) error {
	root, err := disk.OpenDir("/")
	if err != nil {
		return err
	}
	return errors.Join(root.Sync(), root.Close())
}

// lose removes some of the files whose removal was not synced: a clone has them all.
func (k *wrecker) lose(disk *vfs.MemFS) {
	names, err := disk.List(k.dir)
	if err != nil {
		return // it was not there yet
	}
	for _, name := range names {
		path := disk.PathJoin(k.dir, name)
		if _, err := k.disk.Stat(path); errors.Is(err, os.ErrNotExist) && k.rng.IntN(2) == 0 {
			if err := disk.Remove(path); err != nil {
				panic(err)
			}
		}
	}
}

// settle gives the folder of a clone the names there are now: a file system that
// keeps what it does to them in order may have got to the last of it.
func (k *wrecker) settle(disk *vfs.MemFS) {
	names, err := k.disk.List(k.dir)
	if err != nil {
		return // it was not there yet
	}
	kept, err := disk.List(k.dir)
	if err != nil {
		return // it is lost with all that was in it
	}
	for _, name := range kept {
		if !slices.Contains(names, name) {
			err = errors.Join(err, disk.Remove(disk.PathJoin(k.dir, name)))
		}
	}
	for _, name := range names {
		if path := disk.PathJoin(k.dir, name); !slices.Contains(kept, name) {
			_, failed := vfs.Clone(k.disk, disk, path, path, vfs.CloneSync)
			err = errors.Join(err, failed)
		}
	}
	if err != nil {
		panic(err)
	}
}

func (k *wrecker) acknowledge(stream string, events int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.acknowledged[stream] = events
}

// TestACrashAtAnyOperationLosesNothingAndIsOpened crashes before operations on the
// files of a log that is opened, appended to by eight writers, scavenged,
// read by links and closed, over and over, with a table every few appends. What each
// crash leaves is opened, whole, and has what was acknowledged, and its links; and so is what a crash leaves of
// opening that.
func TestACrashAtAnyOperationLosesNothingAndIsOpened(t *testing.T) {
	lives, every := 2, 96
	if soak() {
		lives, every = 5, 2
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	wrecks := make(chan wreck, 4)
	k := &wrecker{
		dir: "log", disk: vfs.NewCrashableMem(), every: every, wrecks: wrecks,
		rng: rand.New(rand.NewPCG(seed, 0)), done: map[string]int{}, acknowledged: map[string]int{},
	}
	var looking sync.WaitGroup
	looking.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 1))
		for n, again := 0, 0; ; n++ {
			w, more := <-wrecks
			if !more {
				t.Logf("%d wrecks, and %d of opening them", n, again)
				return
			}
			if t.Failed() {
				continue
			}
			if rng.IntN(40) == 0 {
				again += crashAgain(t, w, rng)
			}
			salvage(t, w, w.disk)
		}
	})
	for life := range lives {
		k.live(t, life)
	}
	close(wrecks)
	looking.Wait()
	t.Logf("%v", k.done)
}

// crashPatience is for writers whose log stands still while a wreck is looked at.
const crashPatience = 6 * patience

// live opens the log, has it written and scavenged, and closes it.
func (k *wrecker) live(t *testing.T, life int) {
	t.Helper()
	r := start(t, esdbnode.Options{Dir: k.dir, FS: &crashingDisk{FS: k.disk, before: k.crash}, Reserve: -1, MemTable: 128 << 10})
	defer r.stop()
	client := dial(t, r.uri)
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range 8 {
		wg.Go(func() { k.append(t, client, fmt.Sprintf("s-%d-%d", life, i)) })
	}
	wg.Go(func() { k.link(t, r.node) })
	wg.Go(func() {
		for n := range 2 {
			stream := fmt.Sprintf("gone-%d-%d", life, n)
			_, err := client.AppendToStream(t.Context(), stream, esdb.AppendToStreamOptions{Deadline: new(crashPatience)}, fresh("a", "b", "c")...)
			if err == nil {
				_, err = client.TombstoneStream(t.Context(), stream, esdb.TombstoneStreamOptions{ExpectedRevision: esdb.Any{}, Deadline: new(crashPatience)})
			}
			if err == nil {
				_, err = r.node.Scavenge(t.Context())
			}
			if err != nil {
				t.Errorf("scavenge %s: %v", stream, err)
			}
		}
	})
}

// link reads links while they are made.
func (k *wrecker) link(t *testing.T, node *esdbnode.Node) {
	t.Helper()
	for range 20 {
		linked, err := node.Links(t.Context(), "$ce-s")
		if err != nil {
			t.Errorf("links: %v", err)
			return
		}
		k.mu.Lock()
		k.linked = linked
		k.mu.Unlock()
	}
}

func (k *wrecker) append(t *testing.T, client *esdb.Client, stream string) {
	t.Helper()
	for n := 0; n < 60; n += 2 {
		events := fresh("a", "b")
		events[0].Data = []byte(`"` + strings.Repeat("x", 3000*(1+n%3)) + `"`)
		if _, err := client.AppendToStream(t.Context(), stream, esdb.AppendToStreamOptions{ExpectedRevision: esdb.Any{}, Deadline: new(crashPatience)}, events...); err != nil {
			t.Errorf("append to %s: %v", stream, err)
			return
		}
		k.acknowledge(stream, n+2)
	}
}

// crashAgain opens a copy of a wreck and crashes at each operation of that.
func crashAgain(t *testing.T, w wreck, rng *rand.Rand) (crashes int) {
	t.Helper()
	wrecks := make(chan wreck, 4)
	k := &wrecker{
		dir: "log", disk: w.disk.CrashClone(vfs.CrashCloneCfg{}), every: 4, wrecks: wrecks,
		rng: rng, done: map[string]int{}, acknowledged: w.acknowledged, linked: w.linked,
	}
	var looking sync.WaitGroup
	looking.Go(func() {
		for again := range wrecks {
			if again.what += ", of opening what was " + w.what; !t.Failed() {
				salvage(t, again, again.disk)
			}
			crashes++
		}
	})
	salvage(t, w, &crashingDisk{FS: k.disk, before: k.crash})
	close(wrecks)
	looking.Wait()
	return crashes
}

// salvage wants a wreck to be opened and to have all that was acknowledged.
func salvage(t *testing.T, w wreck, disk vfs.FS) {
	t.Helper()
	node, err := esdbnode.Open(esdbnode.Options{Dir: "log", FS: disk, Reserve: -1, MemTable: 128 << 10})
	if err != nil {
		t.Errorf("%s: %v", w.what, err)
		return
	}
	got, last := map[string]int{}, uint64(0)
	for e, err := range node.Scan(context.Background(), 0, "") {
		if err != nil {
			t.Errorf("%s: %v", w.what, err)
			break
		}
		if strings.HasPrefix(e.Stream, "s-") && e.Number != uint64(got[e.Stream]) || e.Position <= last {
			t.Errorf("%s: %s@%d at %d, behind %d and %d of its stream", w.what, e.Stream, e.Number, e.Position, last, got[e.Stream])
		}
		got[e.Stream]++
		last = e.Position
	}
	for stream, events := range w.acknowledged {
		if n := got[stream]; n < events || n%2 != 0 {
			t.Errorf("%s: %s has %d events, %d were acknowledged, two at a time", w.what, stream, n, events)
		}
	}
	linked, err := node.Links(context.Background(), "$ce-s")
	if err != nil || len(linked) < len(w.linked) || !slices.Equal(linked[:len(w.linked)], w.linked) {
		t.Errorf("%s: links lead to %v, and were told to lead to %v: %v", w.what, linked, w.linked, err)
	}
	if err := node.Close(context.Background()); err != nil {
		t.Errorf("%s: %v", w.what, err)
	}
}
