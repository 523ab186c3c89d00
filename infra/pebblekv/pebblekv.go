// Package pebblekv keeps views in a Pebble database: documents by stream, and
// where a view asks for it one ordered index over them. It promises what
// infra/viewtest asks of every engine; whoever opens it owns the folder.
//
// # Why
//
// Writes go to Pebble's log without waiting for it to be written out. A view is
// a fold of the event log, so what a power loss or a kill takes is folded again:
// whole batches, the last ones, since each is one commit. Sync is for whoever
// remembers elsewhere how far the views are; once it returns, that may be
// written down too (TestAKilledProcessLeavesWholeBatches).
//
// A document's index key is stored in front of it, so that replacing a document
// finds the old entry without decoding it. TestConformance holds the lists
// against plain sorting while documents change their places in them.
//
// A generation is a range of keys, so making one is free and dropping one is a
// single range deletion, in the same commit as the switch.
//
// A mark, how far a generation under construction has come, is a commit with a
// sync in the log that has the documents before it. So whoever finds a mark after
// a kill or a power loss has all it speaks of (TestAKilledBuilderLeavesWhatItMarked).
// He may have more, which does no harm, as documents are written only if newer
// (TestABuildThatIsGoneOnWithMissesNothing, TestAReplayThatWasBrokenOffGoesOnAfterARestart).
// Not chosen: a sync with every batch, which a mark now and then makes needless.
//
// Every write looks first for what it replaces, and what a rebuild writes is
// nearly always new. A batch is looked up in the order of its keys with one
// iterator that asks the filters of every level, which makes a new document cost
// a few probes in memory (BenchmarkBuild). Not chosen: ingesting tables that
// are made beside the log, since each costs a sync and lies in the way of the
// next compaction; and remembering which streams a generation has, which takes
// memory that grows with the log.
//
// Those filters must stay in memory while the views are written. Pebble takes its
// memtables off the room of its cache, which at their size would leave it none: then
// each look for a new stream reads the filters from the files, which doubles what a
// checkout costs these views (TestBlocksStayInMemoryBesideMemtables).
//
// No view here has an archive, as orders that are searched have one. Documents
// are asked for by their stream, and a buyer's orders newest first, so old ones
// sort to where nobody looks; and a tree of sorted tables reads and rewrites only
// what is near what it is asked for and given. What is old lies at the bottom,
// compressed, and costs nothing but its room.
//
// The folder may be deleted while nobody has it open. It opens empty then, and
// the log fills it. Until it has, whatever event comes in brings its document back
// whole, since a gap is closed from the log (TestAFolderOfViewsThatWasDeletedOpensEmptyAndFills).
package pebblekv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
)

const (
	schema   = 1 // of keys and values
	memTable = 16 << 20

	// blockCache has room for two memtables, the one that is written and the one
	// that is flushed or waits to be used again, since Pebble takes them off it.
	blockCache = 32<<20 + 2*memTable
)

// The tables: the first byte of every key.
const (
	tableMeta = 'm'
	tableDocs = 'd'
	tableKeys = 'i'
	tablePark = 'p'
)

// A DB is a folder of views. Its methods may be called concurrently, Close last.
type DB struct {
	kv      *pebble.DB
	buffers sync.Pool // of batches that are being encoded
}

// buffer gives an empty one, which is to be given back.
func (d *DB) buffer() *bytes.Buffer {
	b, ok := d.buffers.Get().(*bytes.Buffer)
	if !ok {
		return &bytes.Buffer{}
	}
	b.Reset()
	return b
}

// Open opens or makes the database in a folder. It refuses one that a newer
// version of this program has written.
func Open(dir string, log *slog.Logger) (*DB, error) {
	// Pebble would do this too, but where it fails to, it leaves a goroutine.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open views in %s: %w", dir, err)
	}
	cache := pebble.NewCache(blockCache)
	defer cache.Unref()
	options := &pebble.Options{
		Cache:                       cache,
		FormatMajorVersion:          pebble.FormatTableFormatV6,
		MemTableSize:                memTable,
		MemTableStopWritesThreshold: 4,
		Logger:                      logger{log},
	}
	for i := range options.Levels {
		options.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // a new stream is asked for before it is there
	}
	kv, err := pebble.Open(dir, options)
	if err != nil {
		return nil, fmt.Errorf("open views in %s: %w", dir, err)
	}
	d := &DB{kv: kv}
	if err := d.checkSchema(); err != nil {
		return nil, errors.Join(fmt.Errorf("open views in %s: %w", dir, err), kv.Close())
	}
	return d, nil
}

func (d *DB) checkSchema() error {
	key := []byte{tableMeta, 's'}
	raw, found, err := d.get(key)
	if err != nil {
		return err
	}
	if !found {
		return d.kv.Set(key, []byte(strconv.Itoa(schema)), pebble.Sync)
	}
	have, err := strconv.Atoi(string(raw))
	if err != nil {
		return fmt.Errorf("schema %q: %w", raw, err)
	}
	if have > schema {
		return fmt.Errorf("schema %d is newer than this program's, which is %d", have, schema)
	}
	return nil
}

// get gives a copy of what stands under a key.
func (d *DB) get(key []byte) (value []byte, found bool, err error) {
	raw, closer, err := d.kv.Get(key)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	}
	value = append([]byte(nil), raw...)
	return value, true, closer.Close()
}

// Sync returns once everything that was put is on the disk.
func (d *DB) Sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("sync views: %w", err)
	}
	if err := d.kv.LogData(nil, pebble.Sync); err != nil {
		return fmt.Errorf("sync views: %w", err)
	}
	return nil
}

// Close writes out what is in memory and gives the folder free.
func (d *DB) Close() error {
	if err := d.kv.Flush(); err != nil {
		return errors.Join(fmt.Errorf("flush views: %w", err), d.kv.Close())
	}
	if err := d.kv.Close(); err != nil {
		return fmt.Errorf("close views: %w", err)
	}
	return nil
}

// logger passes Pebble's troubles on and keeps its talk at debug.
type logger struct{ log *slog.Logger }

func (l logger) Infof(format string, args ...any) {
	l.log.Debug("pebble views", "text", fmt.Sprintf(format, args...))
}

func (l logger) Errorf(format string, args ...any) {
	l.log.Error("pebble views", "text", fmt.Sprintf(format, args...))
}

// Fatalf is called by Pebble when it can't go on without losing data.
func (l logger) Fatalf(format string, args ...any) {
	l.log.Error("pebble views", "text", fmt.Sprintf(format, args...))
	panic(fmt.Sprintf(format, args...))
}
