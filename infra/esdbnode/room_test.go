package esdbnode_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/cockroachdb/pebble/v2/vfs"

	"cartwright/infra/esdbnode"
)

// A smallDisk has room for so many bytes.
type smallDisk struct {
	vfs.FS
	mu   sync.Mutex
	left int64
}

// take gives as many of n bytes as there is room for.
func (d *smallDisk) take(n int64) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	n = max(min(n, d.left), 0)
	d.left -= n
	return n
}

// leave leaves room for n bytes, and tells how much more there was.
func (d *smallDisk) leave(n int64) (more int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	more, d.left = d.left-n, n
	return more
}

func (d *smallDisk) add(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left += n
}

func (d *smallDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if d.take(1) == 0 {
		return nil, &os.PathError{Op: "create", Path: name, Err: syscall.ENOSPC}
	}
	f, err := d.FS.Create(name, c)
	return &smallFile{File: f, disk: d}, err
}

func (d *smallDisk) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	info, err := d.Stat(oldname)
	if err != nil {
		return nil, err
	}
	f, err := d.FS.ReuseForWrite(oldname, newname, c)
	return &smallFile{File: f, disk: d, size: info.Size()}, err
}

func (d *smallDisk) Remove(name string) error {
	if info, err := d.Stat(name); err == nil {
		defer d.add(info.Size())
	}
	return d.FS.Remove(name)
}

func (d *smallDisk) Unwrap() vfs.FS { return d.FS }

type smallFile struct {
	vfs.File
	disk     *smallDisk
	at, size int64
}

func (f *smallFile) Write(p []byte) (int, error) {
	grow := max(f.at+int64(len(p))-f.size, 0)
	got := f.disk.take(grow)
	n, err := f.File.Write(p[:len(p)-int(grow-got)])
	f.at += int64(n)
	f.size = max(f.size, f.at)
	if err == nil && got < grow {
		err = &os.PathError{Op: "write", Path: "file", Err: syscall.ENOSPC}
	}
	return n, err
}

// A patient writer appends two events at a time to a stream of its own, and those
// that were refused again, when it is told to.
type patientWriter struct {
	stream  string
	acked   atomic.Int64 // events
	refused atomic.Bool
	ids     []esdb.EventData
}

func (w *patientWriter) run(ctx context.Context, t *testing.T, client *esdb.Client, again <-chan struct{}, until func() bool) {
	t.Helper()
	for n := 0; !until(); n += 2 {
		var expect esdb.ExpectedRevision = esdb.NoStream{}
		if n > 0 {
			expect = esdb.Revision(uint64(n) - 1)
		}
		events := fresh("a", "b")
		events[0].ContentType, events[0].Data = esdb.ContentTypeBinary, noise(3000)
		for {
			_, err := client.AppendToStream(ctx, w.stream, esdb.AppendToStreamOptions{ExpectedRevision: expect}, events...)
			if err == nil {
				break
			}
			if codeOf(err) != esdb.ErrorUnavailable || ctx.Err() != nil {
				t.Errorf("%s at %d: %v", w.stream, n, err)
				return
			}
			w.refused.Store(true)
			select {
			case <-again:
				time.Sleep(20 * time.Millisecond) // as any client does before it tries again
			case <-ctx.Done():
			}
		}
		w.ids = append(w.ids, events...)
		w.acked.Add(2)
	}
}

// noise is what takes as much room in a table as it has bytes.
func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// TestAFullDiskStopsAppendsAndNothingElse fills the disk under sixteen writers,
// looks around, takes the power away from a copy, and makes room.
func TestAFullDiskStopsAppendsAndNothingElse(t *testing.T) {
	for name, memTable := range map[string]int{"the write-ahead log fills it": 0, "tables fill it too": 256 << 10} {
		t.Run(name, func(t *testing.T) { fillDisk(t, memTable) })
	}
}

func fillDisk(t *testing.T, memTable int) {
	t.Helper()
	memory := vfs.NewCrashableMem()
	disk := &smallDisk{FS: memory, left: 3 << 20}
	r := start(t, esdbnode.Options{Dir: "var/lib/log", FS: disk, Reserve: -1, MemTable: memTable})
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	client, reader := dial(t, r.uri), dial(t, r.uri)
	var seen atomic.Uint64
	var wg sync.WaitGroup
	defer wg.Wait()
	following, unfollow := context.WithCancel(ctx)
	defer unfollow()
	wg.Go(func() { follow(following, t, reader, &seen) })

	again, enough := make(chan struct{}), make(chan struct{})
	writers := make([]*patientWriter, 16)
	var writing sync.WaitGroup
	for i := range writers {
		w := &patientWriter{stream: fmt.Sprintf("s-%d", i)}
		writers[i] = w
		writing.Go(func() {
			w.run(ctx, t, client, again, func() bool {
				select {
				case <-enough:
					return true
				default:
					return ctx.Err() != nil
				}
			})
		})
	}
	all := func(is func(*patientWriter) bool) func() bool {
		return func() bool {
			for _, w := range writers {
				if !is(w) {
					return false
				}
			}
			return true
		}
	}
	until(t, "all writers are refused", all(func(w *patientWriter) bool { return w.refused.Load() }))
	if err := r.node.Full(); err == nil {
		t.Error("the node does not say that the disk is full")
	}
	before := make(map[string]int64)
	for _, w := range writers {
		before[w.stream] = w.acked.Load()
		got, err := readAll(ctx, reader, w.stream, esdb.ReadStreamOptions{}, 1<<20)
		if more := int64(len(got)) - before[w.stream]; before[w.stream] > 0 && err != nil || more != 0 && more != 2 { // what was refused may be done
			t.Errorf("%s: %d events while the disk is full, %d were acknowledged: %v", w.stream, len(got), before[w.stream], err)
		}
	}
	head := r.node.Head()
	until(t, "the subscriber has all", func() bool { return seen.Load() == r.node.Head() })
	copied := memory.CrashClone(vfs.CrashCloneCfg{})

	disk.add(64 << 20)
	close(again)
	until(t, "all writers go on", all(func(w *patientWriter) bool { return w.acked.Load() > before[w.stream]+6 }))
	close(enough)
	writing.Wait()
	until(t, "the subscriber goes on", func() bool { return seen.Load() == r.node.Head() })
	until(t, "the disk has room", func() bool { return r.node.Full() == nil })
	unfollow()
	wg.Wait()
	wantWritten(t, reader, writers)
	r.stop()
	t.Logf("%d events when it was full, %d in the end", head, r.node.Head())

	wantChecked(t, memory)
	again2 := start(t, esdbnode.Options{Dir: "var/lib/log", FS: memory})
	wantWritten(t, dial(t, again2.uri), writers)
	again2.stop()
	wantChecked(t, copied)
	crashed := start(t, esdbnode.Options{Dir: "var/lib/log", FS: copied})
	for _, w := range writers {
		wantAtLeast(t, dial(t, crashed.uri), w, before[w.stream])
	}
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// follow counts the events of the log, which have to come without a gap.
func follow(ctx context.Context, t *testing.T, client *esdb.Client, seen *atomic.Uint64) {
	t.Helper()
	sub, err := client.SubscribeToAll(ctx, esdb.SubscribeToAllOptions{From: esdb.Start{}})
	if err != nil {
		t.Errorf("subscribe: %v", err)
		return
	}
	defer func() { _ = sub.Close() }()
	for {
		e := sub.Recv()
		if e.SubscriptionDropped != nil {
			if ctx.Err() == nil {
				t.Errorf("the subscription ended: %v", e.SubscriptionDropped.Error)
			}
			return
		}
		if e.EventAppeared != nil {
			if at := e.EventAppeared.Event.Position.Commit; at != seen.Load()+1 {
				t.Errorf("the subscriber was told of position %d after %d", at, seen.Load())
			}
			seen.Add(1)
		}
	}
}

// wantWritten wants all streams to hold what was acknowledged, once and in order.
func wantWritten(t *testing.T, client *esdb.Client, writers []*patientWriter) {
	t.Helper()
	for _, w := range writers {
		if n := wantAtLeast(t, client, w, w.acked.Load()); n != w.acked.Load() {
			t.Errorf("%s has %d events, %d were acknowledged", w.stream, n, w.acked.Load())
		}
	}
}

func wantAtLeast(t *testing.T, client *esdb.Client, w *patientWriter, least int64) int64 {
	t.Helper()
	got, err := readAll(t.Context(), client, w.stream, esdb.ReadStreamOptions{}, 1<<20)
	if err != nil && (least > 0 || codeOf(err) != esdb.ErrorCodeResourceNotFound) {
		t.Fatal(err)
	}
	if int64(len(got)) < least || len(got)%2 != 0 || len(got) > len(w.ids) {
		t.Errorf("%s has %d events, %d were acknowledged, two at a time", w.stream, len(got), least)
	}
	for i, e := range got {
		if e.Event.EventID != w.ids[i].EventID || e.Event.EventNumber != uint64(i) {
			t.Fatalf("%s: event %d is another one", w.stream, i)
		}
	}
	return int64(len(got))
}

// wantChecked puts a log where Check looks for one.
func wantChecked(t *testing.T, disk vfs.FS) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	if ok, err := vfs.Clone(disk, vfs.Default, "var/lib/log", dir); err != nil || !ok {
		t.Fatal(err)
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}()
	if _, err := esdbnode.Check(t.Context(), dir); err != nil {
		t.Error(err)
	}
}

// TestAReserveIsLeftForWhatMakesRoom has a disk that tells how much is free.
func TestAReserveIsLeftForWhatMakesRoom(t *testing.T) {
	disk := vfs.NewMem()
	usage := func(free uint64) { disk.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: free, TotalBytes: 1 << 30}) }
	usage(10 << 20)
	r := start(t, esdbnode.Options{Dir: "log", FS: disk, Reserve: 1 << 20})
	client := dial(t, r.uri)
	write(t, client, "s", 3)
	write(t, client, "t", 3)
	usage(1<<20 - 1)
	until(t, "it is noticed", func() bool { return r.node.Full() != nil })
	_, err := client.AppendToStream(t.Context(), "s", esdb.AppendToStreamOptions{}, fresh("x")...)
	if codeOf(err) != esdb.ErrorUnavailable || !strings.Contains(err.Error(), "reserve") {
		t.Errorf("an append: %v", err)
	}
	remove(t, client, "s")
	bury(t, client, "t")
	if done := sweep(t, r.node); done.Events != 5 {
		t.Errorf("%+v", done)
	}
	usage(1 << 21)
	until(t, "it is noticed", func() bool { return r.node.Full() == nil })
	write(t, client, "s", 1)
}

func TestALogThatIsOpenedOnAFullDiskSaysSo(t *testing.T) {
	for left := range int64(12) {
		disk := &smallDisk{FS: vfs.NewMem(), left: left * 2000}
		node, err := esdbnode.Open(esdbnode.Options{Dir: "log", FS: disk})
		if err == nil {
			_ = node.Close(t.Context())
			continue
		}
		if !strings.Contains(err.Error(), "disk of the event log is full") {
			t.Errorf("with room for %d bytes: %v", left*2000, err)
		}
		disk.add(1 << 20)
		again := start(t, esdbnode.Options{Dir: "log", FS: disk.FS})
		write(t, dial(t, again.uri), "s", 1)
		again.stop()
	}
}

// childFails says how the disk of a child process fails.
const childFails = "CARTWRIGHT_NODE_CHILD_FAILS"

// A failingDisk fails every fsync of a write-ahead log once it is told to.
type failingDisk struct {
	vfs.FS
	fail *atomic.Bool
}

func (d failingDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, c)
	if err != nil || !strings.HasSuffix(name, ".log") {
		return f, err
	}
	return failingFile{f, d.fail}, nil
}

type failingFile struct {
	vfs.File
	fail *atomic.Bool
}

func (f failingFile) SyncData() error {
	if f.fail.Load() {
		return syscall.EIO
	}
	return f.File.SyncData()
}

// failChild is the process whose disk fails. It says what came of it.
func failChild(how, dir string) {
	if err := fillChild(how, dir); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// fillChild appends until it is refused, and closes the node.
func fillChild(how, dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var fail atomic.Bool
	var disk vfs.FS = &smallDisk{FS: vfs.Default, left: 1 << 20}
	if how == "fsync" {
		disk = failingDisk{vfs.Default, &fail}
	}
	node, err := esdbnode.Open(esdbnode.Options{Dir: dir, FS: disk, Reserve: -1})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	client, stop, err := serveChild(ctx, node, dir)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	defer stop()
	for n := 0; ; n++ {
		fail.Store(n == 10)
		event := esdb.EventData{EventID: newID(), EventType: "x", ContentType: esdb.ContentTypeBinary, Data: make([]byte, 20_000)}
		if _, err = client.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{}, event); err != nil {
			break
		}
		fmt.Println("acknowledged", n)
	}
	fmt.Println("append:", err)
	began := time.Now()
	fmt.Println("close:", node.Close(ctx))
	fmt.Println("closed soon:", time.Since(began) < patience/2)
	return nil
}

func serveChild(ctx context.Context, node *esdbnode.Node, dir string) (*esdb.Client, func(), error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", filepath.Join(dir, "n.sock"))
	if err != nil {
		return nil, nil, err
	}
	go func() { _ = node.Serve(listener) }() // the process ends before it
	config, err := esdb.ParseConnectionString("esdb://localhost:2113?tls=false")
	if err != nil {
		return nil, nil, err
	}
	config.Address, config.Logger = "unix://"+filepath.Join(dir, "n.sock"), esdb.NoopLogging()
	client, err := esdb.NewClient(config)
	return client, func() { _ = client.Close() }, err
}

// inChild runs a process whose disk fails, and gives what it says.
func inChild(t *testing.T, how, dir string) (said string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir, childFails+"="+how)
	text, err := child.CombinedOutput()
	return string(text), err
}

// TestCloseOnAFullDiskEnds closes a node that waits for room, in a process of its
// own since what waits does so until the process ends.
func TestCloseOnAFullDiskEnds(t *testing.T) {
	dir := t.TempDir()
	said, err := inChild(t, "full", dir)
	for _, want := range []string{"disk of the event log is full", "close: close event log: it is left as if", "closed soon: true"} {
		if err != nil || !strings.Contains(said, want) {
			t.Fatalf("%v: it does not say %q but %s", err, want, said)
		}
	}
	wantAcknowledged(t, dir, said)
}

// TestAnFsyncThatFailsEndsTheProcess does so to the process that has the log open:
// nobody can tell what of it is on the disk.
func TestAnFsyncThatFailsEndsTheProcess(t *testing.T) {
	dir := t.TempDir()
	said, err := inChild(t, "fsync", dir)
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 2 || !strings.Contains(said, "pebble: fatal commit error: input/output error") {
		t.Fatalf("%v: %s", err, said)
	}
	if strings.Contains(said, "acknowledged 10") || strings.Contains(said, "append:") {
		t.Errorf("somebody was answered: %s", said)
	}
	wantAcknowledged(t, dir, said)
}

func wantAcknowledged(t *testing.T, dir, said string) {
	t.Helper()
	least := uint64(strings.Count(said, "acknowledged "))
	if got, err := esdbnode.Check(t.Context(), dir); err != nil || got.Events < least || least == 0 {
		t.Errorf("%+v, %v; %d were acknowledged", got, err, least)
	}
	r := start(t, esdbnode.Options{Dir: dir})
	defer r.stop()
	write(t, dial(t, r.uri), "s", 1)
}

// A hinderedDisk has no room for files of one kind while it is told so, or takes
// its time to sync them.
type hinderedDisk struct {
	vfs.FS
	kind  string
	full  atomic.Bool
	slow  sync.RWMutex // held by who wants fsyncs to wait
	tries atomic.Int64 // that found no room
}

func (d *hinderedDisk) hinders(name string) bool { return strings.Contains(d.PathBase(name), d.kind) }

func (d *hinderedDisk) refuse(name string) error {
	if d.full.Load() && d.hinders(name) {
		d.tries.Add(1)
		return &os.PathError{Op: "write", Path: name, Err: syscall.ENOSPC}
	}
	return nil
}

func (d *hinderedDisk) file(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil || !d.hinders(name) {
		return f, err
	}
	return &hinderedFile{f, d, name}, nil
}

func (d *hinderedDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.refuse(name); err != nil {
		return nil, err
	}
	f, err := d.FS.Create(name, c)
	return d.file(name, f, err)
}

func (d *hinderedDisk) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := d.FS.OpenReadWrite(name, c, opts...)
	return d.file(name, f, err)
}

func (d *hinderedDisk) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.refuse(name); err != nil {
		return nil, err
	}
	f, err := d.FS.ReuseForWrite(old, name, c)
	return d.file(name, f, err)
}

func (d *hinderedDisk) Unwrap() vfs.FS { return d.FS }

type hinderedFile struct {
	vfs.File
	disk *hinderedDisk
	name string
}

func (f *hinderedFile) Write(p []byte) (int, error) {
	if err := f.disk.refuse(f.name); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *hinderedFile) WriteAt(p []byte, at int64) (int, error) {
	if err := f.disk.refuse(f.name); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, at)
}

func (f *hinderedFile) SyncData() error {
	f.disk.slow.RLock()
	defer f.disk.slow.RUnlock()
	return f.File.SyncData()
}

// TestNoRoomForOneFileOfTheLogIsWaitedFor has room for all files but those of one
// kind, in the middle of appends.
func TestNoRoomForOneFileOfTheLogIsWaitedFor(t *testing.T) {
	for _, kind := range []string{".log", ".sst", "MANIFEST-", "WITNESS"} {
		t.Run(kind, func(t *testing.T) {
			memory := vfs.NewCrashableMem()
			disk := &hinderedDisk{FS: memory, kind: kind}
			r := start(t, esdbnode.Options{Dir: "var/lib/log", FS: disk, Reserve: -1, MemTable: 128 << 10})
			client := dial(t, r.uri)
			again, enough := make(chan struct{}), make(chan struct{})
			writers := make([]*patientWriter, 64)
			var writing sync.WaitGroup
			for i := range writers {
				w := &patientWriter{stream: fmt.Sprintf("s-%d", i)}
				writers[i] = w
				writing.Go(func() {
					w.run(t.Context(), t, client, again, func() bool {
						select {
						case <-enough:
							return true
						default:
							return t.Context().Err() != nil
						}
					})
				})
			}
			all := func(is func(*patientWriter) bool) bool {
				for _, w := range writers {
					if !is(w) {
						return false
					}
				}
				return true
			}
			until(t, "all writers are at it", func() bool { return all(func(w *patientWriter) bool { return w.acked.Load() > 0 }) })
			disk.full.Store(true)
			until(t, "all writers are refused", func() bool { return all(func(w *patientWriter) bool { return w.refused.Load() }) })
			if err := r.node.Full(); err == nil || disk.tries.Load() == 0 {
				t.Errorf("%v, %d tries", err, disk.tries.Load())
			}
			acked := map[string]int64{}
			for _, w := range writers {
				acked[w.stream] = w.acked.Load()
			}
			lost := memory.CrashClone(vfs.CrashCloneCfg{})
			disk.full.Store(false)
			close(again)
			until(t, "all writers go on", func() bool { return all(func(w *patientWriter) bool { return w.acked.Load() > acked[w.stream]+2 }) })
			close(enough)
			writing.Wait()
			wantWritten(t, client, writers)
			r.stop()
			powerless := start(t, esdbnode.Options{Dir: "var/lib/log", FS: lost})
			reader := dial(t, powerless.uri)
			for _, w := range writers {
				wantAtLeast(t, reader, w, acked[w.stream])
			}
		})
	}
}

// TestADiskThatIsTooSlowIsNotWaitedForInMemory has an fsync that does not return.
// What comes in waits, up to a bound; who gives up holds nobody up.
func TestADiskThatIsTooSlowIsNotWaitedForInMemory(t *testing.T) {
	disk := &hinderedDisk{FS: vfs.NewMem(), kind: ".log"}
	r := start(t, esdbnode.Options{Dir: "log", FS: disk, Reserve: -1})
	client := dial(t, r.uri)
	write(t, client, "s", 1)
	event := fresh("x")
	event[0].ContentType, event[0].Data = esdb.ContentTypeBinary, make([]byte, 1<<20-100)
	impatient, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience) // there is much to be sent
	defer cancel()
	var busy, done, gone atomic.Int64
	var wg sync.WaitGroup
	disk.slow.Lock()
	for i := range 100 {
		own := ctx
		if i%2 == 0 {
			own = impatient
		}
		wg.Go(func() {
			_, err := client.AppendToStream(own, fmt.Sprintf("t-%d", i), esdb.AppendToStreamOptions{}, esdb.EventData{EventID: newID(), EventType: "x", ContentType: esdb.ContentTypeBinary, Data: event[0].Data})
			switch {
			case err == nil:
				done.Add(1)
			case codeOf(err) == esdb.ErrorUnavailable && strings.Contains(err.Error(), "too busy"):
				busy.Add(1)
			case own == impatient:
				gone.Add(1)
			default:
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	until(t, "some are refused", func() bool { return busy.Load() > 10 })
	giveUp()
	until(t, "the impatient are gone", func() bool { return busy.Load()+gone.Load() >= 50 })
	if done.Load() > 0 {
		t.Errorf("%d were acknowledged without an fsync", done.Load())
	}
	disk.slow.Unlock()
	wg.Wait()
	t.Logf("%d refused, %d gave up, %d done", busy.Load(), gone.Load(), done.Load())
	write(t, client, "u", 1)
}
