package esdbnode

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Contents is what a log holds.
type Contents struct {
	Format   int    `json:"format"`   // of the folder
	Position uint64 `json:"position"` // of the last event
	Events   uint64 `json:"events"`   // of all streams, system streams included; not those that were scavenged
	Streams  uint64 `json:"streams"`
	Links    uint64 `json:"links,omitempty"` // in streams of links, for which nothing else is counted
}

// A Damage is a place where a log is not as it was written.
type Damage struct {
	What string `json:"what"`

	File   string `json:"file,omitempty"`   // in the log's folder, where the place in it is known
	Offset uint64 `json:"offset,omitempty"` // in that file

	Position uint64   `json:"position,omitempty"` // of the event, or of the first of several
	Last     uint64   `json:"last,omitempty"`     // of the last of several
	Stream   string   `json:"stream,omitempty"`
	Number   *uint64  `json:"number,omitempty"`  // in its stream
	Streams  []string `json:"streams,omitempty"` // some of those that have events there, where it is about several
}

func (d *Damage) String() string {
	var at []string
	switch {
	case d.Last > d.Position:
		at = append(at, fmt.Sprintf("positions %d to %d", d.Position, d.Last))
	case d.Position > 0:
		at = append(at, fmt.Sprintf("position %d", d.Position))
	}
	switch {
	case d.Number != nil && *d.Number == tombstoneNumber:
		at = append(at, "the tombstone of "+d.Stream)
	case d.Number != nil:
		at = append(at, fmt.Sprintf("%s@%d", d.Stream, *d.Number))
	case d.Stream != "":
		at = append(at, "stream "+d.Stream)
	}
	switch {
	case d.Offset > 0:
		at = append(at, fmt.Sprintf("file %s at byte %d", d.File, d.Offset))
	case d.File != "":
		at = append(at, "file "+d.File)
	}
	what := d.What
	if len(d.Streams) > 0 {
		what += ", of " + strings.Join(d.Streams, ", ")
	}
	if len(at) == 0 {
		return what
	}
	return strings.Join(at, ", ") + ": " + what
}

// Findings are what a log holds and where it is damaged.
type Findings struct {
	Contents
	Damage []*Damage `json:"damage,omitempty"`
	More   bool      `json:"more,omitempty"` // it was left off at the limit, and there may be more damage
}

// Verification says how Verify goes about it. Its zero value will do.
type Verification struct {
	Limit int                   // how many damages are found before it is left off, 100 when 0
	Tell  func(position uint64) // told now and then how far the log was read, if not nil
}

// defaultDamages is how many damages tell enough of a log.
const defaultDamages = 100

// Check is Verify for those who want to know whether a log is whole: the first
// damage is an error.
func Check(ctx context.Context, dir string) (Contents, error) {
	found, err := Verify(ctx, dir, Verification{Limit: 1})
	if err == nil && len(found.Damage) > 0 {
		err = fmt.Errorf("check %s: %s: %w", dir, found.Damage[0], errCorrupt)
	}
	return found.Contents, err
}

// Verify reads all there is of a log that nobody has open, and says what is in it
// and where it is damaged: blocks of files whose checksum is another one, events
// that can't be read, events without their place in a stream, places without
// their event, streams with a gap, or with another beginning or end than their
// head says. It goes on behind each damage, up to a limit, and changes nothing.
//
// First every block of every table is read; then the three spaces of keys, each in
// its own order, so that the disk is read from end to end. That events and places
// belong together is told by two sums, since nothing has to be remembered for
// these; only when the sums differ each event is looked for.
func Verify(ctx context.Context, dir string, o Verification) (Findings, error) {
	v := &verifying{Verification: o, dir: dir, seed: maphash.MakeSeed(), bad: map[uint64]*Damage{}}
	if v.Limit <= 0 {
		v.Limit = defaultDamages
	}
	err := v.run(ctx)
	if errors.Is(err, errEnough) {
		v.More, err = true, nil
	}
	if err != nil {
		err = fmt.Errorf("check %s: %w", dir, err)
	}
	return v.Findings, err
}

// errEnough leaves off at the limit.
var errEnough = errors.New("there is more damage than is listed")

// verifying is one Verify under way.
type verifying struct {
	Verification
	Findings
	dir   string
	db    *pebble.DB
	known uint64 // the position up to which all was acknowledged

	seed maphash.Seed
	buf  []byte

	// Each pair is one sum when all is well.
	events, places uint64 // of every event with its place
	chains, heads  uint64 // of every stream's beginning and end

	looked int
	blocks []damagedBlock
	bad    map[uint64]*Damage // events that are there and can't be read
	lost   []*lostEvents
	hidden []keyRange // places and heads that can't be read

	links [kindsOfLinks]*linking
	there positionSet // the positions of events that may have links
}

// lostEvents are those of a part of the log that can't be read.
type lostEvents struct {
	*Damage
	from, to uint64 // their positions
	events   uint64 // how many they are, by their places
	highest  uint64 // the last position that has a place
}

// keyRange is what lies between two keys, the first included.
type keyRange struct{ from, to []byte }

func (v *verifying) run(ctx context.Context) error {
	if _, err := vfs.Default.Stat(filepath.Join(v.dir, markerName)); err != nil {
		return fmt.Errorf("this is no event log: %w", err)
	}
	if err := checkMarker(vfs.Default, v.dir); err != nil {
		return err
	}
	v.Format = folderFormat
	lock, unlock, err := lockToRead(v.dir)
	if err != nil {
		return err
	}
	return errors.Join(v.locked(ctx, lock), unlock())
}

// lockToRead keeps nodes out of a folder. It leaves it as it was: a lock that was
// not there is gone when it is let go of. Where nobody can write none is needed.
func lockToRead(dir string) (lock *pebble.Lock, unlock func() error, err error) {
	name := filepath.Join(dir, "LOCK")
	_, absent := os.Lstat(name)
	lock, err = pebble.LockDirectory(dir, vfs.Default)
	if errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) && errors.Is(absent, fs.ErrNotExist) {
		lock, err = pebble.LockDirectory(dir, unlockable{vfs.Default})
		absent = nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil, fmt.Errorf("keep nodes out of it meanwhile: %w", err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrInUse, err)
	}
	return lock, func() error {
		if errors.Is(absent, fs.ErrNotExist) {
			return errors.Join(os.Remove(name), lock.Close()) // in this order, or it might be another's
		}
		return lock.Close()
	}, nil
}

// unlockable are files that nobody can write, so that nobody has to be kept out.
type unlockable struct{ vfs.FS }

// Lock implements vfs.FS.
func (unlockable) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func (v *verifying) locked(ctx context.Context, lock *pebble.Lock) error {
	if err := v.witnessed(); err != nil {
		return err
	}
	cache := pebble.NewCache(blockCache)
	defer cache.Unref()
	db, err := openPebble(v.dir, &pebble.Options{
		ReadOnly: true, ErrorIfNotExists: true, FormatMajorVersion: pebble.FormatTableFormatV6, Logger: pebbleLog{slog.New(slog.DiscardHandler)}, Cache: cache, Lock: lock,
		EventListener: &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}}, // Pebble's own is fatal
	})
	if err != nil {
		return v.unopened(ctx, err)
	}
	v.db = db
	return errors.Join(v.read(ctx), db.Close())
}

// witnessed compares the files with what was last stated about them.
func (v *verifying) witnessed() error {
	known, err := readWitness(vfs.Default, v.dir)
	if err == nil {
		v.known = known.position
		err = known.confirm(vfs.Default, v.dir)
	}
	if err == nil || !damages(err) {
		return err
	}
	return v.found(damageOf(err))
}

// unopened tells of a log that is too damaged to be opened, and what its tables
// are like.
func (v *verifying) unopened(ctx context.Context, err error) error {
	listless := errors.Is(err, pebble.ErrDBDoesNotExist)
	if !listless && !damages(err) {
		return err
	}
	files, failed := filepath.Glob(filepath.Join(v.dir, "*.[ls][os][gt]"))
	switch {
	case failed != nil:
		return failed
	case listless && len(files) == 0 && len(v.Damage) == 0:
		return nil // it was marked as a log, and no more
	case listless && len(v.Damage) == 0:
		err = v.found(&Damage{What: "there is no list of tables, and there are files of a log"})
	case slices.ContainsFunc(v.Damage, func(d *Damage) bool { return listless || d.File != "" && strings.Contains(err.Error(), d.File) }):
		err = nil // it was told
	default:
		err = v.found(damageOf(err))
	}
	for _, name := range files {
		if err == nil && filepath.Ext(name) == ".sst" {
			err = v.table(ctx, filepath.Base(name))
		}
	}
	return err
}

func (v *verifying) read(ctx context.Context) error {
	if end, err := lastPosition(v.db); err == nil && end < v.known {
		if err := v.found(&Damage{Position: end + 1, Last: v.known, What: "events that were acknowledged are not in the log any more"}); err != nil {
			return err
		}
	}
	if err := v.newestLog(); err != nil {
		return err
	}
	tables, err := v.liveTables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		if err := v.table(ctx, t); err != nil {
			return err
		}
	}
	if err := v.beginLinks(); err != nil {
		return err
	}
	if err := v.each(ctx, spaceEvents, v.event, v.loseEvents); err != nil {
		return err
	}
	chain := chain{}
	if err := v.each(ctx, spaceIndex, func(key, value []byte) error { return v.place(&chain, key, value) }, v.losePlaces(&chain)); err != nil {
		return err
	}
	v.endChain(&chain)
	v.tellLost()
	if err := v.each(ctx, spaceHeads, v.head, v.lose("the heads of streams")); err != nil {
		return err
	}
	if err := v.verifyLinks(ctx); err != nil {
		return err
	}
	if v.events == v.places && v.chains == v.heads {
		return nil
	}
	return v.locate(ctx)
}

// found notes a damage.
func (v *verifying) found(d *Damage) error {
	if len(v.Damage) == v.Limit {
		return errEnough
	}
	v.Damage = append(v.Damage, d)
	return nil
}

// damages tells whether an error says that something is not as it was written, and
// not that it could not be read just now.
func damages(err error) bool {
	return pebble.IsCorruptionError(err) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, errCorrupt)
}

// damageOf is what is said of a damage, by Pebble or the witness. The first line is the reason, behind the
// file where there is one.
func damageOf(err error) *Damage {
	what, _, _ := strings.Cut(err.Error(), "\n")
	what = strings.TrimPrefix(what, "pebble: ")
	if file, reason, ok := strings.Cut(what, ": "); ok && strings.HasPrefix(file, "file ") {
		what = reason
	}
	d := &Damage{What: what}
	if a, ok := errors.AsType[*altered](err); ok {
		return &Damage{File: a.file, Offset: a.offset, What: a.what}
	}
	if info := pebble.ExtractDataCorruptionInfo(err); info != nil {
		d.File = filepath.Base(info.Path)
	}
	return d
}

// each gives every key of a space and its value to look. Where some can't be read
// it tells lose behind which key that begins and before which it ends, and why, and
// goes on there.
func (v *verifying) each(ctx context.Context, space byte, look func(key, value []byte) error, lose func(keyRange, error) error) error {
	from, end := []byte{space}, []byte{space + 1}
	for from != nil {
		last, broken, err := v.some(ctx, from, end, look)
		if err != nil || broken == nil {
			return err
		}
		r := keyRange{last, end}
		if from = v.readable(last, end, broken); from != nil {
			r.to = from
		}
		if err := lose(r, broken); err != nil {
			return err
		}
	}
	return nil
}

// some looks at the keys of a range until one can't be read: broken says why, and
// last is the key before it, or the range's beginning.
func (v *verifying) some(ctx context.Context, from, end []byte, look func(key, value []byte) error) (last []byte, broken, err error) {
	it, err := v.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: end})
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = it.Close() }() // it says again what Error has said
	last = bytes.Clone(from)
	for ok := it.First(); ok; ok = it.Next() {
		if v.looked++; v.looked%1024 == 0 {
			if err := ctx.Err(); err != nil {
				return nil, nil, err
			}
		}
		if err := look(it.Key(), it.Value()); err != nil {
			return nil, nil, err
		}
		last = append(last[:0], it.Key()...)
	}
	if err := it.Error(); err != nil && !damages(err) {
		return nil, nil, err
	}
	return last, it.Error(), nil
}

// readable finds the first key that can be read behind one that can't for a damage,
// nil when there is none before the end.
func (v *verifying) readable(after, end []byte, broken error) []byte {
	for broken != nil {
		if after = v.behind(after, broken); after == nil || bytes.Compare(after, end) >= 0 {
			return nil
		}
		var key []byte
		if key, broken = v.first(after, end); broken == nil {
			return key
		}
	}
	return nil
}

// behind gives the key from which on a damage may be over: the end of the damaged
// block, as the index of its table has it, or else of the table.
func (v *verifying) behind(key []byte, broken error) []byte {
	info := pebble.ExtractDataCorruptionInfo(broken)
	if info == nil {
		return nil
	}
	var nearest []byte
	for _, b := range v.blocks {
		if b.file == filepath.Base(info.Path) && bytes.Compare(b.to, key) > 0 && (nearest == nil || bytes.Compare(b.to, nearest) < 0) {
			nearest = b.to
		}
	}
	if nearest == nil && bytes.Compare(info.Bounds.End.Key, key) > 0 {
		nearest = info.Bounds.End.Key
	}
	if nearest == nil {
		return nil
	}
	return append(bytes.Clone(nearest), 0)
}

// first gives the first key of a range.
func (v *verifying) first(from, end []byte) (key []byte, broken error) {
	it, err := v.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: end})
	if err != nil {
		return nil, err
	}
	if it.First() {
		key = bytes.Clone(it.Key())
	}
	return key, it.Close()
}

// sum is what one key and its value add to a sum. The order does not count.
func (v *verifying) sum(key []byte, value ...uint64) uint64 {
	v.buf = append(v.buf[:0], key...)
	for _, n := range value {
		v.buf = binary.BigEndian.AppendUint64(v.buf, n)
	}
	return maphash.Bytes(v.seed, v.buf)
}

// told is how often it is told how far the log was read.
const told = 1 << 14

func (v *verifying) event(key, value []byte) error {
	if len(key) != eventKeyLen {
		return v.found(&Damage{What: fmt.Sprintf("a key of %d bytes is no event's", len(key))})
	}
	position := positionOf(key)
	v.Position = position
	if v.Tell != nil && position%told == 0 {
		v.Tell(position)
	}
	r, err := getFrame(position, value)
	if err != nil {
		v.bad[position] = &Damage{Position: position, What: reasonOf(err)}
		return v.found(v.bad[position])
	}
	v.Events++
	v.events += v.sum(indexKey(r.stream, r.number), position)
	v.linkTo(&r)
	return nil
}

// reasonOf is why a frame is none, without the position that it begins with.
func reasonOf(err error) string {
	_, reason, ok := strings.Cut(err.Error(), ": ")
	if !ok {
		return err.Error()
	}
	return reason
}

func (v *verifying) loseEvents(r keyRange, err error) error {
	l := &lostEvents{Damage: damageOf(err), from: 1, to: math.MaxUint64}
	if len(r.from) == eventKeyLen {
		l.from = positionOf(r.from) + 1
	}
	if len(r.to) == eventKeyLen {
		l.to = positionOf(r.to) - 1
	}
	v.lost = append(v.lost, l)
	return v.found(l.Damage)
}

// lostAt finds the part of the log that can't be read and has a position.
func (v *verifying) lostAt(position uint64) *lostEvents {
	for _, l := range v.lost {
		if l.from <= position && position <= l.to {
			return l
		}
	}
	return nil
}

// namedStreams is how many streams are named of those that have lost events.
const namedStreams = 10

// tellLost says how many events can't be read, as far as their places tell.
func (v *verifying) tellLost() {
	for _, l := range v.lost {
		if l.Position = l.from; l.to > l.from {
			l.Last = l.to
		}
		if l.to == math.MaxUint64 {
			l.Last = max(l.highest, l.from)
		}
		l.What = fmt.Sprintf("%d events can't be read: %s", l.events, l.What)
	}
}

// A chain is a stream as its places show it.
type chain struct {
	prefix []byte // of the keys of its places: all but the number
	first  uint64
	end    uint64 // the number behind the last event
	at     uint64 // the position of the last one, tombstone included
	ended  bool   // by a tombstone
	events bool   // it has others than that
}

func (c *chain) begin(prefix []byte) { *c = chain{prefix: append(c.prefix[:0], prefix...)} }

// add puts an event behind the others. It tells the number that was due before a gap.
func (c *chain) add(number, position uint64) (due uint64, gap bool) {
	c.at = position
	switch {
	case number == tombstoneNumber:
		c.ended = true
		return 0, false
	case !c.events:
		c.first, c.events = number, true
	case number != c.end:
		due, gap = c.end, true
	}
	c.end = number + 1
	return due, gap
}

// chainOf is the chain that a stream with this head has; none is there when all of
// its events were thrown away.
func chainOf(stream string, h head) (c chain, there bool) {
	key := indexKey(stream, 0)
	c = chain{prefix: key[:len(key)-8], at: h.position, ended: h.tombstone}
	if c.events = h.scavenged < h.events; c.events {
		c.first, c.end = h.scavenged, h.events
	}
	return c, c.events || c.ended
}

func (v *verifying) sumOf(c *chain) uint64 {
	flags := uint64(0)
	if c.ended {
		flags = 1
	}
	return v.sum(c.prefix, c.first, c.end, c.at, flags)
}

func (v *verifying) endChain(c *chain) {
	if len(c.prefix) > 0 {
		v.chains += v.sumOf(c)
	}
}

// place looks at the places of events, which come stream by stream.
func (v *verifying) place(c *chain, key, value []byte) error {
	if len(key) < 9 || len(value) != 8 {
		return v.found(&Damage{Stream: nameIn(key), What: fmt.Sprintf("a place of %d and %d bytes is none", len(key), len(value))})
	}
	prefix, number, position := key[:len(key)-8], binary.BigEndian.Uint64(key[len(key)-8:]), binary.BigEndian.Uint64(value)
	if !bytes.Equal(prefix, c.prefix) {
		v.endChain(c)
		c.begin(prefix)
	}
	v.places += v.sum(key, position)
	if before := c.at; position <= before {
		err := v.found(&Damage{Position: position, Stream: nameIn(prefix), Number: &number, What: fmt.Sprintf("the event before it in its stream is behind it, at position %d", before)})
		if err != nil {
			return err
		}
	}
	if _, gap := c.add(number, position); gap {
		v.chains++ // no head has that, so it will be looked for
	}
	if d := v.bad[position]; d != nil && d.Stream == "" {
		d.Stream, d.Number = nameIn(prefix), &number
	}
	if l := v.lostAt(position); l != nil {
		l.takes(nameIn(prefix), number, position)
	}
	return nil
}

// takes notes whose event can't be read.
func (l *lostEvents) takes(stream string, number, position uint64) {
	l.events++
	l.highest = max(l.highest, position)
	if l.events == 1 {
		l.Stream, l.Number = stream, &number
		return
	}
	if l.events == 2 {
		l.Streams, l.Stream, l.Number = []string{l.Stream}, "", nil
	}
	if n := len(l.Streams); n < namedStreams && l.Streams[n-1] != stream {
		l.Streams = append(l.Streams, stream)
	}
}

func (v *verifying) losePlaces(c *chain) func(keyRange, error) error {
	lose := v.lose("the places of events in their streams")
	return func(r keyRange, err error) error {
		c.begin(nil)
		return lose(r, err)
	}
}

// lose notes that keys of places or heads can't be read.
func (v *verifying) lose(of string) func(keyRange, error) error {
	return func(r keyRange, err error) error {
		v.hidden = append(v.hidden, r)
		d := damageOf(err)
		d.What = fmt.Sprintf("%s behind %q and before %q can't be read: %s", of, nameOf(r.from), nameOf(r.to), d.What)
		return v.found(d)
	}
}

// nameIn is the stream's name in an index key without its number.
func nameIn(key []byte) string {
	if n, size := binary.Uvarint(key[1:]); size > 0 {
		return string(key[1+size : min(len(key), 1+size+int(min(n, math.MaxInt32)))])
	}
	return string(key)
}

// nameOf is the stream's name in a key of a place or of a head.
func nameOf(key []byte) string {
	if key[0] == spaceIndex {
		return nameIn(key)
	}
	return string(key[1:])
}

func (v *verifying) head(key, value []byte) error {
	stream := string(key[1:])
	h, err := getHead(value)
	switch {
	case err != nil:
		return v.found(&Damage{Stream: stream, What: err.Error()})
	case h.scavenged > h.events:
		return v.found(&Damage{Stream: stream, What: fmt.Sprintf("its head says that %d of %d events are scavenged", h.scavenged, h.events)})
	}
	if h.events > 0 || h.tombstone {
		v.Streams++
	}
	if c, there := chainOf(stream, h); there {
		v.heads += v.sumOf(&c)
	}
	return nil
}
