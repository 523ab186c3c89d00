package esdbnode

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	journal "github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// A witness remembers what was synced to the write-ahead logs and to the list of
// tables.
//
// Pebble reads both up to the first place that makes no sense to it, and takes
// that for what a crash has left of the last write. So it takes a byte that
// changed on the disk for the end, and what comes behind for never written: of
// the write-ahead log that may be acknowledged events, of the list of tables
// whole tables, which it then removes. (It looks ahead for signs that more was
// synced, but finds none in the same block of 32 KiB, and few behind it, since it
// counts what was synced too low.)
//
// The witness is a file of its own, which says of each of these files how much of
// it was synced and with which checksum, and up to which position all is
// acknowledged. It is written at most every tenth of a second while something is
// appended, when the log is closed, and before one of these files goes away. What
// it says was so, and is so for ever, as such files only grow; so the log is not
// opened when it is not (TestAFlippedByteIsToldAndNeverServed).
type witness struct {
	vfs.FS
	dir string
	log *slog.Logger

	mu    sync.Mutex
	files map[string]prefix
	mine  map[string]bool // the write-ahead logs among them that are written to since the log was opened
	news  bool            // since the last statement

	writing sync.Mutex
	head    func() uint64 // up to which position all is acknowledged
	slots   vfs.File
	turn    uint64
	said    [2]map[string]bool // of which files each slot may tell something
}

// A prefix is the beginning of a file.
type prefix struct {
	size int64
	sum  uint32
}

// A statement is what a witness has written down.
type statement struct {
	turn, position uint64
	files          map[string]prefix
}

const (
	witnessName = "WITNESS"
	witnessText = "cartwright witness, format 1\n"
	witnessSlot = 4096 // statements are written in turn to two slots, so that one is whole always
)

// An altered file is not what was synced to it.
type altered struct {
	file   string
	offset uint64 // of what is wrong, as far as that is known; 0 where it is not
	what   string
}

func (e *altered) Error() string {
	if e.offset > 0 {
		return fmt.Sprintf("%s at byte %d: %s", e.file, e.offset, e.what)
	}
	return e.file + ": " + e.what
}

func (e *altered) Unwrap() error { return errCorrupt }

// witnessed tells whether Pebble would take damage to a file for its end.
func witnessed(name string) bool {
	base := path.Base(name)
	return strings.HasSuffix(base, ".log") || strings.HasPrefix(base, "MANIFEST-")
}

// newWitness goes on with what an earlier one has stated of the same folder.
func newWitness(fs vfs.FS, dir string, known statement, log *slog.Logger) (*witness, error) {
	w := &witness{FS: fs, dir: cleaned(fs, dir), log: log, files: known.files, mine: map[string]bool{}, turn: known.turn, news: true, head: func() uint64 { return known.position }}
	if w.files == nil {
		w.files = map[string]prefix{}
	}
	name := fs.PathJoin(dir, witnessName)
	if _, err := fs.Stat(name); errors.Is(err, os.ErrNotExist) {
		if err := writeDurably(fs, dir, witnessName, string(make([]byte, 2*witnessSlot))); err != nil {
			return nil, fmt.Errorf("make %s: %w", witnessName, err)
		}
	}
	var err error
	if w.slots, err = fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified); err != nil {
		return nil, fmt.Errorf("open %s: %w", witnessName, err)
	}
	if err = w.stateTwice(); err != nil { // so that what follows it has two whole slots
		return nil, errors.Join(err, w.slots.Close())
	}
	return w, nil
}

// keep looks after the witness and the room until ended is closed.
func (s *store) keep(ended <-chan struct{}, kept chan<- struct{}) {
	defer close(kept)
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	said := false
	for {
		select {
		case <-ended:
			return
		case <-t.C:
		}
		s.room.look()
		s.prune()
		err := s.witness.state(false)
		if err != nil && !said {
			s.log.Error("the witness of the event log could not be written: until it is, a byte that changes on the disk may be taken for the end of the log", "err", err)
		}
		said = err != nil
	}
}

// follow is told from where the witness learns what is acknowledged.
func (w *witness) follow(head func() uint64) {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.head = head
}

// prune has the witness forget what was flushed to tables.
func (s *store) prune() {
	if s.flushed.Swap(false) {
		s.witness.prune(func() int { return int(s.db.Metrics().WAL.Files) })
	}
}

// prune forgets write-ahead logs that are not needed any more but stay, to be
// used again: all of those written since the log was opened but the last few.
func (w *witness) prune(needed func() int) {
	w.mu.Lock()
	logs := slices.SortedFunc(maps.Keys(w.mine), byNumber)
	w.mu.Unlock()
	last := needed() // with those begun meanwhile
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range logs[:max(len(logs)-last, 0)] {
		delete(w.mine, name)
		delete(w.files, name)
		w.news = true
	}
}

// byNumber orders names that begin with a number of six digits or more.
func byNumber(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

// state writes down what is known, if there is news.
func (w *witness) state(anyway bool) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.mu.Lock()
	if !w.news && !anyway {
		w.mu.Unlock()
		return nil
	}
	w.news = false
	said := statement{turn: w.turn + 1, files: maps.Clone(w.files)}
	w.mu.Unlock()
	said.position = w.head() // after the files: it is in them
	slot, err := said.slot()
	told := w.tell(said)
	if err == nil {
		_, err = w.slots.WriteAt(slot, int64(said.turn%2)*witnessSlot)
	}
	if err == nil {
		err = w.slots.SyncData()
	}
	if err != nil {
		w.mu.Lock()
		w.news = true
		w.mu.Unlock()
		return fmt.Errorf("write %s: %w", witnessName, err)
	}
	w.turn = said.turn
	*told = namesOf(said.files)
	return nil
}

// tell says that a statement is about to be written, and gives what its slot tells
// of. While it is written, and when that fails, this may be what was there before.
func (w *witness) tell(said statement) *map[string]bool {
	told := &w.said[said.turn%2]
	both := namesOf(said.files)
	maps.Copy(both, *told)
	*told = both
	return told
}

func namesOf(files map[string]prefix) map[string]bool {
	names := map[string]bool{}
	for name := range files {
		names[name] = true
	}
	return names
}

// stateTwice leaves no older statement.
func (w *witness) stateTwice() error {
	if err := w.state(true); err != nil {
		return err
	}
	return w.state(true)
}

func (w *witness) close() error {
	return errors.Join(w.stateTwice(), w.slots.Close())
}

// synced is told what an fsync has covered.
func (w *witness) synced(name string, p prefix) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.files[name]; !known && strings.HasSuffix(name, ".log") {
		w.mine[name] = true
	}
	w.files[name] = p
	w.news = true
}

// forget takes a file out of all statements before it goes away: one that is still
// in a slot would be missed after a crash, and the log not opened.
func (w *witness) forget(name string) error {
	if w.PathDir(name) != w.dir {
		return nil
	}
	base := w.PathBase(name)
	w.mu.Lock()
	delete(w.files, base)
	delete(w.mine, base)
	w.mu.Unlock()
	w.writing.Lock()
	told := w.said[0][base] || w.said[1][base]
	w.writing.Unlock()
	if !told {
		return nil
	}
	return w.stateTwice()
}

// Remove implements vfs.FS.
func (w *witness) Remove(name string) error {
	if err := w.forget(name); err != nil {
		return err
	}
	if w.marks(name, "marker.") { // the one that replaces it is there for sure
		if err := syncFolder(w.FS, w.dir); err != nil {
			return err
		}
	}
	return w.FS.Remove(name)
}

// marks tells whether a name is that of an empty file which says by its name what
// counts, of one kind of those.
func (w *witness) marks(name, kind string) bool {
	return strings.HasPrefix(w.PathBase(name), kind) && w.PathDir(name) == w.dir
}

// Create implements vfs.FS.
func (w *witness) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if w.marks(name, "marker.manifest.") { // from here on another list of tables counts
		if err := errors.Join(syncFolder(w.FS, w.dir), w.state(true)); err != nil { // it is there for sure
			return nil, err
		}
	}
	f, err := w.FS.Create(name, category)
	return w.watched(name, f, err)
}

// ReuseForWrite implements vfs.FS.
func (w *witness) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := w.forget(oldname); err != nil {
		return nil, err
	}
	f, err := w.FS.ReuseForWrite(oldname, newname, category)
	return w.watched(newname, f, err)
}

// Unwrap implements vfs.FS.
func (w *witness) Unwrap() vfs.FS { return w.FS }

func (w *witness) watched(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil || !witnessed(name) || w.PathDir(name) != w.dir {
		return f, err
	}
	return &watchedFile{File: f, witness: w, name: w.PathBase(name)}, nil
}

// A watchedFile is written from its beginning to its end, by one at a time.
type watchedFile struct {
	vfs.File
	witness *witness
	name    string
	written prefix
	failed  bool // nothing is known of what it holds
}

// Write implements vfs.File.
func (f *watchedFile) Write(p []byte) (int, error) {
	sum := crc32.Update(f.written.sum, castagnoli, p)
	n, err := f.File.Write(p)
	f.written = prefix{f.written.size + int64(n), sum}
	f.failed = f.failed || err != nil
	return n, err
}

// Sync implements vfs.File.
func (f *watchedFile) Sync() error { return f.covered(f.File.Sync()) }

// SyncData implements vfs.File.
func (f *watchedFile) SyncData() error { return f.covered(f.File.SyncData()) }

func (f *watchedFile) covered(err error) error {
	if f.failed = f.failed || err != nil; !f.failed {
		f.witness.synced(f.name, f.written)
	}
	return err
}

// known is what was synced up to now.
func (w *witness) known() map[string]prefix {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.files)
}

// attest makes a statement about a folder that nobody writes to: a copy of one of
// whose files something is known, which is what they should be, as the copy may
// have been made of something else.
func attest(fs vfs.FS, dir string, position uint64, known map[string]prefix) error {
	names, err := fs.List(dir)
	if err != nil {
		return fmt.Errorf("list files: %w", err)
	}
	said := statement{turn: 1, position: position, files: map[string]prefix{}}
	for _, name := range names {
		if !witnessed(name) {
			continue
		}
		if said.files[name], err = wholeOf(fs, fs.PathJoin(dir, name)); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if should, ok := known[name]; ok {
			if err = should.confirm(fs, dir, name); errors.Is(err, errCorrupt) {
				said.files[name] = should
			} else if err != nil {
				return fmt.Errorf("read %s: %w", name, err)
			}
		}
	}
	slot, err := said.slot()
	if err == nil {
		err = writeDurably(fs, dir, witnessName, string(slot)+string(slot))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", witnessName, err)
	}
	return nil
}

func wholeOf(fs vfs.FS, path string) (p prefix, err error) {
	f, err := fs.Open(path)
	if err != nil {
		return p, err
	}
	sum := crc32.New(castagnoli)
	p.size, err = io.Copy(sum, f)
	p.sum = sum.Sum32()
	return p, errors.Join(err, f.Close())
}

// slot is a statement as it is written.
func (s *statement) slot() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(witnessText)
	fmt.Fprintf(&b, "turn %d position %d files %d\n", s.turn, s.position, len(s.files))
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		fmt.Fprintf(&b, "%s %d %08x\n", name, s.files[name].size, s.files[name].sum)
	}
	fmt.Fprintf(&b, "checksum %08x\n", crc32.Checksum(b.Bytes(), castagnoli))
	if b.Len() > witnessSlot {
		return nil, fmt.Errorf("%d files are too many for one statement", len(s.files))
	}
	return append(b.Bytes(), make([]byte, witnessSlot-b.Len())...), nil
}

// parseSlot reads a statement. One that is not whole is none.
func parseSlot(slot []byte) (s statement, ok bool) {
	text := bytes.TrimRight(slot, "\x00")
	var sum uint32
	at := bytes.LastIndex(text, []byte("checksum "))
	if at < 0 || !bytes.HasPrefix(text, []byte(witnessText)) {
		return s, false
	}
	if _, err := fmt.Sscanf(string(text[at:]), "checksum %x\n", &sum); err != nil || sum != crc32.Checksum(text[:at], castagnoli) {
		return s, false
	}
	lines := bytes.NewReader(text[len(witnessText):at])
	var files int
	if _, err := fmt.Fscanf(lines, "turn %d position %d files %d\n", &s.turn, &s.position, &files); err != nil {
		return s, false
	}
	s.files = map[string]prefix{}
	for range files {
		var name string
		var p prefix
		if _, err := fmt.Fscanf(lines, "%s %d %x\n", &name, &p.size, &p.sum); err != nil {
			return s, false
		}
		s.files[name] = p
	}
	return s, true
}

// readWitness gives the last statement about a folder: none if nobody has made
// one, an error if it cannot be read.
func readWitness(fs vfs.FS, dir string) (last statement, err error) {
	f, err := fs.Open(fs.PathJoin(dir, witnessName))
	if errors.Is(err, os.ErrNotExist) {
		return last, nil
	}
	if err != nil {
		return last, err
	}
	b, err := io.ReadAll(io.LimitReader(f, 2*witnessSlot))
	if err = errors.Join(err, f.Close()); err != nil {
		return last, fmt.Errorf("read %s: %w", witnessName, err)
	}
	for slot := range slices.Chunk(b, witnessSlot) {
		if s, ok := parseSlot(slot); ok && s.turn > last.turn {
			last = s
		}
	}
	if last.turn == 0 && len(bytes.Trim(b, "\x00")) > 0 { // a new one has not said anything
		return last, &altered{witnessName, 0, "neither of the two statements in it can be read"}
	}
	return last, nil
}

// confirm compares a folder with the last statement about it. The statement may
// be about files that a program without a witness has replaced since; then
// nothing of it counts but the position.
func (s *statement) confirm(fs vfs.FS, dir string) error {
	desc, err := pebble.Peek(dir, fs)
	if err != nil {
		return fmt.Errorf("find the list of tables: %w", err)
	}
	if !desc.Exists {
		if s.position > 0 {
			return &altered{"MANIFEST", 0, fmt.Sprintf("the list of tables is gone, of a log up to position %d", s.position)}
		}
		s.files = nil // of a log that was never made
		return nil
	}
	tables := fs.PathBase(desc.ManifestFilename)
	if _, ok := s.files[tables]; !ok {
		s.files = nil
	}
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		if name != tables && !strings.HasSuffix(name, ".log") {
			continue // an earlier one, which nobody reads
		}
		if err := s.files[name].confirm(fs, dir, name); err != nil {
			return err
		}
	}
	return nil
}

func (p prefix) confirm(fs vfs.FS, dir, name string) (err error) {
	f, err := fs.Open(fs.PathJoin(dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return &altered{name, 0, fmt.Sprintf("the file is gone, and %d bytes had been synced to it", p.size)}
	}
	if err != nil {
		return fmt.Errorf("compare %s with %s: %w", name, witnessName, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := crc32.New(castagnoli)
	n, err := io.Copy(sum, io.LimitReader(f, p.size))
	switch {
	case err != nil:
		return fmt.Errorf("compare %s with %s: %w", name, witnessName, err)
	case n < p.size:
		return &altered{name, uint64(n), fmt.Sprintf("the file ends there, and %d bytes had been synced to it", p.size)} //nolint:gosec // a size
	case sum.Sum32() != p.sum:
		return &altered{name, near(fs, dir, name, p.size), fmt.Sprintf("the %d bytes that had been synced to the file are not what they were: checksum %08x, and it was %08x", p.size, sum.Sum32(), p.sum)}
	}
	return nil
}

// near tells about where the beginning of a file has changed: behind the last thing
// in it that can be read. It is 0 where all can be.
func near(fs vfs.FS, dir, name string, size int64) uint64 {
	f, err := fs.Open(fs.PathJoin(dir, name))
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }() // it was read only
	var number uint64                // a list of tables has none
	if log, ok := strings.CutSuffix(name, ".log"); ok {
		if number, err = strconv.ParseUint(log, 10, 64); err != nil {
			return 0
		}
	}
	r := recordsOf(journal.NewReader, io.LimitReader(f, size), number)
	for {
		at := r.Offset()
		one, err := r.Next()
		if err == nil {
			_, err = io.Copy(io.Discard, one)
		}
		if err != nil && at < size {
			return uint64(at) //nolint:gosec // a place in a file
		}
		if err != nil {
			return 0
		}
	}
}

// recordsOf names the type of a file's number, which Pebble keeps to itself.
func recordsOf[N ~uint64](open func(io.Reader, N) *journal.Reader, f io.Reader, number uint64) *journal.Reader {
	return open(f, N(number))
}
