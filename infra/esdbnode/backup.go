package esdbnode

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Backup makes a folder that holds the log as it is now, while the node works
// on, and returns the position up to which everything is certainly in it. The
// folder must not exist, and is on the disk when Backup returns; after an error
// there is none. On the disk of the log it costs little, as the files that never
// change are linked and not copied.
func (n *Node) Backup(ctx context.Context, dir string) (position uint64, err error) {
	if err = ctx.Err(); err != nil {
		return 0, fmt.Errorf("back up to %s: %w", dir, err)
	}
	n.using.RLock()
	defer n.using.RUnlock()
	if n.closed {
		return 0, fmt.Errorf("back up to %s: %w", dir, errClosing)
	}
	position = n.Head()
	if err = n.store.db.Checkpoint(dir); err != nil {
		return 0, fmt.Errorf("back up to %s: %w", dir, err)
	}
	// The marker comes last: without it the folder is not taken for a log.
	err = writeDurably(n.fs, dir, markerName, fmt.Sprintf("%s%d\n", markerText, folderFormat))
	if err == nil {
		err = syncFolder(n.fs, n.fs.PathDir(dir))
	}
	if err != nil {
		return 0, fmt.Errorf("back up to %s: %w", dir, errors.Join(err, n.fs.RemoveAll(dir)))
	}
	return position, nil
}

// Contents is what a log holds.
type Contents struct {
	Format   int    `json:"format"`   // of the folder
	Position uint64 `json:"position"` // of the last event
	Events   uint64 `json:"events"`   // of all streams, system streams included; not those that were scavenged
	Streams  uint64 `json:"streams"`
}

// Check reads every event of a log that nobody has open, and says what is in
// it. Damage is an error that names its place: a changed byte, an event without
// its place in a stream, a stream with a gap, or with another beginning or end
// than its head says. It changes nothing.
func Check(ctx context.Context, dir string) (Contents, error) {
	c := Contents{Format: folderFormat}
	err := func() error {
		if _, err := vfs.Default.Stat(vfs.Default.PathJoin(dir, markerName)); err != nil {
			return fmt.Errorf("this is no event log: %w", err)
		}
		if err := checkMarker(vfs.Default, dir); err != nil {
			return err
		}
		db, err := pebble.Open(dir, &pebble.Options{
			ReadOnly: true, ErrorIfNotExists: true, FormatMajorVersion: pebble.FormatTableFormatV6, Logger: quiet{},
		})
		if err != nil {
			return err
		}
		k := &checking{db: db, Contents: &c}
		return errors.Join(k.run(ctx), db.Close())
	}()
	if err != nil {
		return c, fmt.Errorf("check %s: %w", dir, err)
	}
	return c, nil
}

// checking is one Check under way. It looks at each of the three spaces of keys
// in their own order, so that the disk is read from end to end and nothing has
// to be remembered.
type checking struct {
	*Contents
	db      *pebble.DB
	indexed uint64
	headed  uint64
}

func (k *checking) run(ctx context.Context) error {
	for _, space := range []struct {
		first byte
		look  func(key, value []byte) error
	}{{spaceEvents, k.event}, {spaceIndex, k.indexes()}, {spaceHeads, k.head}} {
		if err := k.each(ctx, space.first, space.look); err != nil {
			return err
		}
	}
	if k.indexed != k.Events || k.headed != k.Events {
		return fmt.Errorf("%d events, %d of them indexed, and %d by the heads of the streams: %w", k.Events, k.indexed, k.headed, errCorrupt)
	}
	return nil
}

func (k *checking) each(ctx context.Context, space byte, look func(key, value []byte) error) error {
	it, err := k.db.NewIter(&pebble.IterOptions{LowerBound: []byte{space}, UpperBound: []byte{space + 1}})
	if err != nil {
		return err
	}
	looked := 0
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		if looked++; looked%1024 == 0 {
			err = ctx.Err()
		}
		if err == nil {
			err = look(it.Key(), it.Value())
		}
	}
	return errors.Join(err, it.Error(), it.Close())
}

func (k *checking) event(key, value []byte) error {
	r, err := getFrame(positionOf(key), value)
	if err != nil {
		return err
	}
	k.Events++
	k.Position = r.position
	return nil
}

// indexes looks at the places of events, which come stream by stream.
func (k *checking) indexes() func(key, value []byte) error {
	var stream []byte // with the key's first byte, and the length of the name
	var number, position uint64
	return func(key, value []byte) error {
		if len(key) < 9 || len(value) != 8 {
			return fmt.Errorf("index of %d and %d bytes: %w", len(key), len(value), errCorrupt)
		}
		k.indexed++
		name, n, at := key[:len(key)-8], binary.BigEndian.Uint64(key[len(key)-8:]), binary.BigEndian.Uint64(value)
		same := bytes.Equal(name, stream)
		if same && (n != number+1 && n != tombstoneNumber || at <= position) {
			return fmt.Errorf("stream %s goes from %d at position %d to %d at %d: %w", nameIn(name), number, position, n, at, errCorrupt)
		}
		if !same {
			if err := k.begins(nameIn(name), n); err != nil {
				return err
			}
			stream = append(stream[:0], name...)
		}
		number, position = n, at
		return nil
	}
}

// begins checks that a stream begins where its head says that a scavenge has left
// off: most begin with 0, and their head need not be asked.
func (k *checking) begins(stream string, number uint64) error {
	if number == 0 {
		return nil
	}
	value, closer, err := k.db.Get(headKey(stream))
	if err != nil {
		return fmt.Errorf("stream %s begins with %d: head: %w", stream, number, err)
	}
	h, err := getHead(value)
	if err = errors.Join(err, closer.Close()); err != nil {
		return fmt.Errorf("head of %s: %w", stream, err)
	}
	if number != h.scavenged && (number != tombstoneNumber || !h.tombstone || h.scavenged != h.events) {
		return fmt.Errorf("stream %s begins with %d, and %d of its events are scavenged: %w", stream, number, h.scavenged, errCorrupt)
	}
	return nil
}

// nameIn is the stream's name in an index key without its number.
func nameIn(key []byte) string {
	if _, n := binary.Uvarint(key[1:]); n > 0 {
		return string(key[1+n:])
	}
	return string(key)
}

func (k *checking) head(key, value []byte) error {
	h, err := getHead(value)
	if err != nil {
		return fmt.Errorf("head of %s: %w", key[1:], err)
	}
	if h.scavenged > h.events {
		return fmt.Errorf("head of %s: %d of %d events are scavenged: %w", key[1:], h.scavenged, h.events, errCorrupt)
	}
	k.headed += h.events - h.scavenged
	if h.tombstone {
		k.headed++
	}
	if h.events > 0 || h.tombstone {
		k.Streams++
	}
	return nil
}

// quiet keeps Pebble from writing to the standard error output.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}

func (quiet) Fatalf(format string, args ...any) { panic("pebble: " + fmt.Sprintf(format, args...)) }
