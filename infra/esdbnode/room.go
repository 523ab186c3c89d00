package esdbnode

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// errFull is the answer to whoever would write while the disk has no room. What
// was under way when the disk filled up may be done later or not at all.
var errFull = errors.New("the disk of the event log is full")

// defaultReserve is how many bytes appends leave free on the disk, for what gives
// room back: compactions, scavenges and deletions.
const defaultReserve = 64 << 20

// lookEvery is how often the disk is asked how much is free, and tried again
// when it is full.
const lookEvery = 100 * time.Millisecond

// A room is the files of the log on a disk that may fill up. To Pebble a write
// that fails is the end, and there is none that it may try again; so a write for
// which there is no room does not fail here, it waits. Meanwhile whoever waits
// for the writer is told, and all that needs no room goes on.
//
// Only what says that there is no room is tried again. An fsync that fails is
// not: what it was to write may be gone, and a second one would not say so.
type room struct {
	vfs.FS
	dir     string
	reserve uint64 // 0 for none
	log     *slog.Logger

	low  atomic.Pointer[lowError] // while less than the reserve is free
	full atomic.Pointer[spell]

	mu      sync.Mutex
	waits   bool // else what finds no room fails: while the log is opened
	waiting int  // how many wait for room
	given   bool // whoever waits, waits for ever
}

// A spell is a time at which the disk is full. It begins when full is closed.
type spell struct {
	full  chan struct{}
	began time.Time
}

// A lowError tells how little room there is.
type lowError struct{ free, reserve uint64 }

func (e *lowError) Error() string {
	return fmt.Sprintf("%v but for a reserve: %d MiB are free of the %d MiB that are kept for compactions and scavenges", errFull, e.free>>20, e.reserve>>20)
}

func (e *lowError) Unwrap() error { return errFull }

func newRoom(fs vfs.FS, dir string, reserve int64, log *slog.Logger) *room {
	r := &room{FS: fs, dir: cleaned(fs, dir), reserve: uint64(max(reserve, 0)), log: log}
	if reserve == 0 {
		r.reserve = defaultReserve
	}
	r.full.Store(&spell{full: make(chan struct{})})
	r.look()
	return r
}

// cleaned is a folder's name as it stands before the names of its files.
func cleaned(fs vfs.FS, dir string) string { return fs.PathDir(fs.PathJoin(dir, markerName)) }

// filled is closed when the disk is full.
func (r *room) filled() <-chan struct{} { return r.full.Load().full }

// refuses tells why there is no room for a write. While there is little left,
// none is for appends: the rest may give some back.
func (r *room) refuses(o op) error {
	select {
	case <-r.filled():
		return errFull
	default:
	}
	if low := r.low.Load(); low != nil && o == opAppend {
		return low
	}
	return nil
}

// look asks the disk how much is free. It is called by one goroutine at a time.
func (r *room) look() {
	if r.reserve == 0 {
		return
	}
	usage, err := r.GetDiskUsage(r.dir)
	if err != nil { // it does not tell: it will when it is full
		return
	}
	was := r.low.Load()
	switch {
	case usage.AvailBytes < r.reserve:
		r.low.Store(&lowError{usage.AvailBytes, r.reserve})
		if was == nil {
			r.log.Error("the disk of the event log is nearly full, appends are refused until some room is made", "free", usage.AvailBytes, "reserve", r.reserve)
		}
	case was != nil && usage.AvailBytes >= r.reserve+r.reserve/16: // or it would come and go
		r.low.Store(nil)
		r.log.Warn("the disk of the event log has room again", "free", usage.AvailBytes)
	}
}

// wait has what finds no room wait from now on.
func (r *room) wait() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waits = true
}

// giveUp lets whoever waits, or would change a file from now on, do so for ever.
// To Pebble it is as if the process had been killed.
func (r *room) giveUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.given = true
}

func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// try does something to a file, once there is room for it.
func (r *room) try(name string, do func() error) error {
	r.live()
	err := do()
	if !noRoom(err) || !r.enter(name) {
		return err
	}
	for noRoom(err) {
		time.Sleep(lookEvery)
		r.live()
		err = do()
	}
	r.leave()
	return err
}

// enter begins to wait for room to write a file of the log. It is false where a
// full disk is an error like any other.
func (r *room) enter(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.waits || r.PathDir(name) != r.dir {
		return false
	}
	if r.waiting++; r.waiting == 1 {
		s := r.full.Load()
		s.began = time.Now()
		close(s.full)
		r.log.Error("the disk of the event log is full, appends are refused until there is room", "file", r.PathBase(name))
	}
	return true
}

func (r *room) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting--; r.waiting == 0 {
		was := r.full.Swap(&spell{full: make(chan struct{})})
		r.log.Warn("the disk of the event log is not full any more", "after", time.Since(was.began).Round(time.Millisecond))
	}
}

// live returns unless the room was given up.
func (r *room) live() {
	r.mu.Lock()
	given := r.given
	r.mu.Unlock()
	if given {
		select {}
	}
}

// file wraps a file that may be written.
func (r *room) file(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &roomFile{f, r, name}, nil
}

// Create implements vfs.FS.
func (r *room) Create(name string, category vfs.DiskWriteCategory) (f vfs.File, err error) {
	err = r.try(name, func() (err error) {
		f, err = r.FS.Create(name, category)
		return err
	})
	return r.file(name, f, err)
}

// OpenReadWrite implements vfs.FS.
func (r *room) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (f vfs.File, err error) {
	err = r.try(name, func() (err error) {
		f, err = r.FS.OpenReadWrite(name, category, opts...)
		return err
	})
	return r.file(name, f, err)
}

// ReuseForWrite implements vfs.FS.
func (r *room) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (f vfs.File, err error) {
	err = r.try(newname, func() (err error) {
		f, err = r.FS.ReuseForWrite(oldname, newname, category)
		return err
	})
	return r.file(newname, f, err)
}

// Link implements vfs.FS.
func (r *room) Link(oldname, newname string) error {
	return r.try(newname, func() error { return r.FS.Link(oldname, newname) })
}

// Rename implements vfs.FS.
func (r *room) Rename(oldname, newname string) error {
	return r.try(newname, func() error { return r.FS.Rename(oldname, newname) })
}

// MkdirAll implements vfs.FS.
func (r *room) MkdirAll(dir string, perm os.FileMode) error {
	return r.try(dir, func() error { return r.FS.MkdirAll(dir, perm) })
}

// Remove implements vfs.FS.
func (r *room) Remove(name string) error {
	return r.try(name, func() error { return r.FS.Remove(name) })
}

// RemoveAll implements vfs.FS.
func (r *room) RemoveAll(name string) error {
	return r.try(name, func() error { return r.FS.RemoveAll(name) })
}

// Unwrap implements vfs.FS.
func (r *room) Unwrap() vfs.FS { return r.FS }

// A roomFile is a file that waits for room.
type roomFile struct {
	vfs.File
	room *room
	name string
}

// Write implements vfs.File. What there was room for is not written again.
func (f *roomFile) Write(p []byte) (n int, err error) {
	err = f.room.try(f.name, func() error {
		done, failed := f.File.Write(p[n:])
		n += done
		return failed
	})
	return n, err
}

// WriteAt implements vfs.File.
func (f *roomFile) WriteAt(p []byte, at int64) (n int, err error) {
	err = f.room.try(f.name, func() error {
		done, failed := f.File.WriteAt(p[n:], at+int64(n))
		n += done
		return failed
	})
	return n, err
}

// Full tells why the node takes no appends for want of room on the disk, nil
// when it does.
func (n *Node) Full() error { return n.store.room.refuses(opAppend) }
