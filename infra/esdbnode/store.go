package esdbnode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// ErrInUse reports a folder that another node has open.
var ErrInUse = errors.New("folder is in use by another node")

// metaPrefix stands before a stream's name in the name of its metadata stream.
const metaPrefix = "$$"

// The folder says what it is in a file of its own, which is read before Pebble
// touches anything.
const (
	markerName   = "FORMAT"
	markerText   = "cartwright event log, format "
	folderFormat = 1
)

// Sizes that bound memory.
const (
	cachedHeads   = 1 << 15 // of each of two generations
	cachedIDs     = 1 << 14 // of each of two generations
	blockCache    = 64 << 20
	defaultTail   = 1 << 13
	tailBytes     = 16 << 20
	defaultAppend = 1 << 20

	defaultMemTable = 32 << 20
)

// A store is the log on disk and everything about it that has nothing to do
// with how it is asked.
type store struct {
	db    *pebble.DB
	fs    *freshFS
	room  *room
	dir   string
	lock  *pebble.Lock
	log   *slog.Logger
	now   func() time.Time
	heads *heads
	tail  *tail

	queue   queue
	written chan struct{} // closed when the writer has ended
	closing chan struct{} // closed when long reads must end
	listed  chan struct{} // closed when the streams are listed, or that was broken off

	scavenging chan struct{} // holds one token while a scavenge is under way
	meters     meters
	linkers    [kindsOfLinks]*linker

	recent *recent // only the writer touches it
	broken error   // set once, by who settles batches before the writer learns of it

	witness *witness
	flushed atomic.Bool   // since the keeper looked last
	ended   chan struct{} // closed to end the keeper
	kept    chan struct{} // closed when it has ended
}

// openStore opens or makes the log in a folder and starts its writer.
func openStore(o Options) (*store, error) {
	if err := makeFolder(o.FS, o.Dir); err != nil {
		return nil, fmt.Errorf("make folder %s: %w", o.Dir, err)
	}
	lock, err := pebble.LockDirectory(o.Dir, o.FS)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w: %w", o.Dir, ErrInUse, err)
	}
	s := &store{
		room: newRoom(o.FS, o.Dir, o.Reserve, o.Log), ended: make(chan struct{}), kept: make(chan struct{}), dir: o.Dir, scavenging: make(chan struct{}, 1), lock: lock, log: o.Log, now: o.Now,
		queue: queue{ready: make(chan struct{}, 1)}, written: make(chan struct{}), closing: make(chan struct{}), listed: make(chan struct{}),
		recent: newRecent(cachedIDs), meters: meters{since: time.Now()},
	}
	if err := s.openFiles(o); err != nil {
		if noRoom(err) {
			err = fmt.Errorf("%w: make some room on it, and open the log again: %w", errFull, err)
		}
		return nil, errors.Join(err, lock.Close())
	}
	s.room.wait()
	go s.keep(s.ended, s.kept)
	go s.write()
	go s.list()
	s.link()
	return s, nil
}

func (s *store) openFiles(o Options) error {
	if err := checkMarker(o.FS, o.Dir); err != nil {
		return err
	}
	known, err := s.known(o)
	if err != nil {
		return err
	}
	if err = refuseTornLog(o.FS, o.Dir); err != nil {
		return err
	}
	if s.witness, err = newWitness(s.room, o.Dir, known, o.Log); err != nil {
		return err
	}
	s.fs = &freshFS{FS: s.witness}
	cache := pebble.NewCache(int64(blockCache + 2*o.MemTable)) // Pebble takes the memtable that is written and one more off it
	defer cache.Unref()
	db, err := openPebble(o.Dir, s.pebbleOptions(cache, o.MemTable))
	if err != nil {
		return errors.Join(fmt.Errorf("open %s: %w", o.Dir, err), s.witness.slots.Close())
	}
	end, err := lastPosition(db)
	if err == nil && end < known.position {
		err = fmt.Errorf("%s ends at position %d, and %d was acknowledged (without its %s it is taken for what it is): %w", o.Dir, end, known.position, witnessName, errCorrupt)
	}
	if err != nil {
		return errors.Join(err, db.Close(), s.witness.slots.Close())
	}
	s.db, s.heads, s.tail = db, newHeads(db, cachedHeads), newTail(o.TailEvents, tailBytes, end)
	s.witness.follow(s.tail.last)
	if err = s.openLinks(); err != nil {
		return errors.Join(err, db.Close(), s.witness.slots.Close())
	}
	return nil
}

// known is what was last stated about the folder, if that is how it is.
func (s *store) known(o Options) (known statement, err error) {
	known, err = readWitness(o.FS, o.Dir)
	if errors.Is(err, errCorrupt) { // the log itself may well be whole
		o.Log.Error("the event log is opened without its witness, a new one is begun: look whether it is whole with verify", "err", err)
		return statement{}, nil
	}
	if err == nil {
		err = known.confirm(o.FS, o.Dir)
	}
	if err != nil {
		return known, fmt.Errorf("%s is damaged, and opening it could lose what is left (look at it with verify; without its %s it is taken for what it is): %w", o.Dir, witnessName, err)
	}
	return known, nil
}

// openPebble fails where Pebble would end the process.
func openPebble(dir string, options *pebble.Options) (db *pebble.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			fatal, ok := p.(fatalError)
			if !ok {
				panic(p)
			}
			db, err = nil, fatal
		}
	}()
	return pebble.Open(dir, options)
}

func (s *store) pebbleOptions(cache *pebble.Cache, memTable int) *pebble.Options {
	options := &pebble.Options{
		FS:                          s.fs,
		Lock:                        s.lock,
		Cache:                       cache,
		FormatMajorVersion:          pebble.FormatTableFormatV6,
		MemTableSize:                uint64(memTable), //nolint:gosec // a size
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		Logger:                      pebbleLog{s.log},
		EventListener: &pebble.EventListener{
			FlushEnd: func(pebble.FlushInfo) { s.flushed.Store(true) },
			// Whoever reads it is told; by default the process would end.
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				s.log.Error("damage was found in the event log", "file", info.Path, "err", info.Details.Error())
			},
		},
	}
	for i := range options.Levels {
		options.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // until the roster is whole, most appends ask for a stream that is not there yet
	}
	return options
}

// close ends the writer after what waits is done, and lets go of the folder when
// idle says that nobody reads any more. On a full disk nothing that waits can be
// done: then all is left as by a kill.
func (s *store) close(idle func() bool) error {
	s.queue.close(errClosing)
	closed := make(chan error, 1)
	go func() {
		for !idle() {
			time.Sleep(time.Millisecond)
		}
		<-s.written
		<-s.listed
		s.unlink()
		close(s.ended)
		<-s.kept
		s.prune()
		closed <- errors.Join(s.db.Close(), s.witness.close(), s.lock.Close())
	}()
	select {
	case err := <-closed:
		return err
	case <-s.room.filled():
		s.room.giveUp()
		return fmt.Errorf("it is left as if the process had been killed, with all that was acknowledged: %w", errFull)
	}
}

// makeFolder makes a folder that stays. One whose entry in the folder above was
// never synced can be gone after a power failure, with all that was synced in
// it; and whoever made the folders above may not have thought of that either.
func makeFolder(fs vfs.FS, dir string) error {
	if err := fs.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	for above := fs.PathDir(dir); above != dir; dir, above = above, fs.PathDir(above) {
		if err := syncFolder(fs, above); err != nil && !errors.Is(err, os.ErrPermission) {
			return err
		}
	}
	return nil
}

func syncFolder(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// checkMarker refuses a folder of another kind or a newer format, and marks a
// new one.
func checkMarker(fs vfs.FS, dir string) error {
	name := fs.PathJoin(dir, markerName)
	text, err := readFile(fs, name)
	if errors.Is(err, os.ErrNotExist) {
		return writeMarker(fs, dir)
	}
	if err != nil {
		return fmt.Errorf("read format: %w", err)
	}
	var format int
	if _, err := fmt.Sscanf(string(text), markerText+"%d", &format); err != nil {
		return fmt.Errorf("%s does not name a format: %q", name, text)
	}
	if format != folderFormat {
		return fmt.Errorf("%s has format %d, this binary knows format %d: use the version that wrote it, or a newer one", dir, format, folderFormat)
	}
	return nil
}

func readFile(fs vfs.FS, name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, 1<<10))
	return text, errors.Join(err, f.Close())
}

// writeMarker marks an empty folder. One that has files but no marker is none
// of ours.
func writeMarker(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		return fmt.Errorf("read folder: %w", err)
	}
	for _, name := range names {
		if name != "LOCK" && name != markerName+".new" {
			return fmt.Errorf("%s is not an event log: it has files (%s) but no %s", dir, name, markerName)
		}
	}
	if err := writeDurably(fs, dir, markerName, fmt.Sprintf("%s%d\n", markerText, folderFormat)); err != nil {
		return fmt.Errorf("write %s: %w", markerName, err)
	}
	return nil
}

// writeDurably makes a file appear with all of its text or not at all.
func writeDurably(fs vfs.FS, dir, name, text string) error {
	path := fs.PathJoin(dir, name)
	f, err := fs.Create(path+".new", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = fs.Rename(path+".new", path); err != nil {
		return err
	}
	return syncFolder(fs, dir)
}

func lastPosition(db *pebble.DB) (uint64, error) {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: eventKey(0), UpperBound: []byte{spaceEvents + 1}})
	if err != nil {
		return 0, fmt.Errorf("find the last event: %w", err)
	}
	end := uint64(0)
	if it.Last() {
		if key := it.Key(); len(key) == eventKeyLen {
			end = positionOf(key)
		} else {
			err = fmt.Errorf("a key of %d bytes is no event's: %w", len(key), errCorrupt)
		}
	}
	if err = errors.Join(err, it.Close()); err != nil {
		return 0, fmt.Errorf("find the last event: %w", err)
	}
	return end, nil
}

func putPosition(b []byte, position uint64) { binary.BigEndian.PutUint64(b, position) }

// at gives the event at a position. One that is not committed yet is not there.
func (s *store) at(position uint64) (record, bool, error) {
	if r, ok := s.tail.get(position); ok {
		return r, true, nil
	}
	if position > s.tail.last() {
		return record{}, false, nil
	}
	b, closer, err := s.db.Get(eventKey(position))
	if errors.Is(err, pebble.ErrNotFound) {
		return record{}, false, nil
	}
	if err != nil {
		return record{}, false, fmt.Errorf("event %d: %w", position, err)
	}
	defer func() { _ = closer.Close() }()
	r, err := getFrame(position, b)
	return r, err == nil, err
}

// event gives an event of a stream, shown or not.
func (s *store) event(stream string, number uint64) (record, bool, error) {
	b, closer, err := s.db.Get(indexKey(stream, number))
	if errors.Is(err, pebble.ErrNotFound) {
		return record{}, false, nil
	}
	if err != nil {
		return record{}, false, fmt.Errorf("index of %s@%d: %w", stream, number, err)
	}
	position := binary.BigEndian.Uint64(b)
	if err := closer.Close(); err != nil {
		return record{}, false, fmt.Errorf("index of %s@%d: %w", stream, number, err)
	}
	return s.at(position)
}

// shown gives a stream's head as readers see it.
func (s *store) shown(stream string) (head, error) {
	h, err := s.heads.committed(stream)
	if err != nil {
		return head{}, err
	}
	parent, ok := strings.CutPrefix(stream, metaPrefix)
	if !ok {
		return h, nil
	}
	h.limits = limits{maxCount: 1} // of metadata only the newest counts
	p, err := s.heads.committed(parent)
	h.tombstone = p.tombstone
	return h, err
}

// A page is a piece of the log, as much as is read in one go.
const (
	pageEvents = 512
	pageBytes  = 1 << 20
)

// A span asks for events of the whole log: from one position to another, both
// included, in one direction.
type span struct {
	from, to  uint64 // from is the lower one, whatever the direction
	backwards bool
	limit     int
	match     func(*record) bool // nil for all
}

// scan appends a page of a span to buf. It holds the log open no longer than
// this takes, however slow the reader is. next is where to go on; more tells
// whether there is something to go on with.
func (s *store) scan(ctx context.Context, sp span, buf []record) (page []record, next uint64, more bool, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: eventKey(sp.from), UpperBound: eventKeyAfter(sp.to)})
	if err != nil {
		return buf, 0, false, fmt.Errorf("read the log from %d: %w", sp.from, err)
	}
	defer func() { _ = it.Close() }()
	step := it.Next
	if sp.backwards {
		step = it.Prev
	}
	ok := first(it, sp.backwards)
	for looked, size := 0, 0; ok; ok = step() {
		position := positionOf(it.Key())
		if len(buf) >= sp.limit || size >= pageBytes || looked >= 16*pageEvents || ctx.Err() != nil {
			return buf, position, true, ctx.Err()
		}
		r, err := getFrame(position, it.Value())
		if err != nil {
			return buf, position, false, err
		}
		looked++
		buf = append(buf, r)
		if last := &buf[len(buf)-1]; sp.match == nil || sp.match(last) {
			size += last.footprint()
		} else {
			buf = buf[:len(buf)-1]
		}
	}
	if err := it.Error(); err != nil {
		return buf, 0, false, fmt.Errorf("read the log from %d: %w", sp.from, err)
	}
	return buf, 0, false, nil
}

func first(it *pebble.Iterator, backwards bool) bool {
	if backwards {
		return it.Last()
	}
	return it.First()
}

// A slice asks for events of one stream by number, both ends included.
type slice struct {
	stream    string
	from, to  uint64
	backwards bool
	limit     int
	oldest    int64  // created no earlier than this
	end       uint64 // the position up to which the log was committed when the read began
}

// read appends a page of a slice to buf.
func (s *store) read(ctx context.Context, sl slice, buf []record) (page []record, next uint64, more bool, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: indexKey(sl.stream, sl.from), UpperBound: append(indexKey(sl.stream, sl.to), 0)})
	if err != nil {
		return buf, 0, false, fmt.Errorf("read %s from %d: %w", sl.stream, sl.from, err)
	}
	defer func() { _ = it.Close() }()
	step := it.Next
	if sl.backwards {
		step = it.Prev
	}
	ok := first(it, sl.backwards)
	for looked, size := 0, 0; ok; ok = step() {
		key := it.Key()
		number := binary.BigEndian.Uint64(key[len(key)-8:])
		if len(buf) >= sl.limit || size >= pageBytes || looked >= 16*pageEvents || ctx.Err() != nil {
			return buf, number, true, ctx.Err()
		}
		looked++
		position := binary.BigEndian.Uint64(it.Value())
		if position > sl.end {
			continue // not acknowledged yet when the read began
		}
		r, found, err := s.at(position)
		if err != nil {
			return buf, number, false, fmt.Errorf("%s@%d: %w", sl.stream, number, err)
		}
		if !found {
			if err := s.missing(key); err != nil {
				return buf, number, false, fmt.Errorf("%s@%d: no event at position %d: %w", sl.stream, number, position, err)
			}
			continue
		}
		if r.created >= sl.oldest {
			buf = append(buf, r)
			size += r.footprint()
		}
	}
	if err := it.Error(); err != nil {
		return buf, 0, false, fmt.Errorf("read %s from %d: %w", sl.stream, sl.from, err)
	}
	return buf, 0, false, nil
}

// missing tells why an event is not where its place in a stream says: nil when
// both were thrown away after the read had begun.
func (s *store) missing(place []byte) error {
	_, closer, err := s.db.Get(place)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = errors.Join(errCorrupt, closer.Close())
	}
	return err
}

// oldest is the time of creation from which on a stream's events are shown.
func (s *store) oldest(l limits) int64 {
	if l.maxAge == 0 {
		return 0
	}
	return s.now().Add(-l.maxAge).UnixNano() / 100
}

// pebbleLog lets Pebble speak only of what goes wrong.
type pebbleLog struct{ log *slog.Logger }

func (p pebbleLog) Infof(string, ...any) {}

func (p pebbleLog) Errorf(format string, args ...any) {
	p.log.Error("pebble", "err", fmt.Sprintf(format, args...))
}

// Fatalf is called when going on could lose data; it must not return. Who waits
// for an answer gets none, since nobody knows what is on the disk: the process
// ends, and the next one sees (TestAnFsyncThatFailsEndsTheProcess).
func (p pebbleLog) Fatalf(format string, args ...any) {
	e := fatalError{text: fmt.Sprintf(format, args...)}
	for _, a := range args {
		if cause, ok := a.(error); ok {
			e.cause = cause
		}
	}
	p.log.Error("pebble cannot go on", "err", e)
	panic(e)
}

// A fatalError is why Pebble cannot go on.
type fatalError struct {
	text  string
	cause error
}

func (e fatalError) Error() string { return e.text }

func (e fatalError) Unwrap() error { return e.cause }
