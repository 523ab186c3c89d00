package esdbnode

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/cockroachdb/pebble/v2/objstorage"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/sstable/block/blockkind"
	"github.com/cockroachdb/pebble/v2/sstable/colblk"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// liveTables are the names of the tables that the log consists of.
func (v *verifying) liveTables() ([]string, error) {
	levels, err := v.db.SSTables()
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	var names []string
	for _, level := range levels {
		for _, t := range level {
			names = append(names, fmt.Sprintf("%06d.sst", uint64(t.BackingSSTNum)))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// A damagedBlock is one with events, places or heads in it that can't be read.
type damagedBlock struct {
	file string
	to   []byte // no key in it is behind this one, and none of the blocks behind it before
}

// table reads every block of a table. Reads of the log come by those with events
// in them; filters and such are read only by those who look for one.
func (v *verifying) table(ctx context.Context, name string) error {
	r, err := openTable(ctx, filepath.Join(v.dir, name))
	if err != nil {
		return v.tableDamage(name, err)
	}
	defer func() { _ = r.Close() }() // it was only read
	blocks, err := blocksOf(ctx, r)
	if err != nil {
		return v.tableDamage(name, err)
	}
	for _, b := range blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		got, err := readBlock(ctx, r, b.Handle)
		if err == nil {
			got.Release()
			continue
		}
		if !damages(err) {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if b.to != nil {
			v.blocks = append(v.blocks, damagedBlock{name, b.to})
		}
		d := damageOf(err)
		d.File, d.Offset = name, b.Offset
		d.What = fmt.Sprintf("a block of %d bytes with %s: %s", b.Length, b.holds, d.What)
		if err := v.found(d); err != nil {
			return err
		}
	}
	return nil
}

func readBlock(ctx context.Context, r *sstable.Reader, h block.Handle) (block.BufferHandle, error) {
	return r.BlockReader().Read(ctx, block.NoReadEnv, nil, h, blockkind.Metadata, func(*block.Metadata, []byte) error { return nil })
}

// tableDamage notes a table that can't be read at all, unless that has another reason.
func (v *verifying) tableDamage(name string, err error) error {
	if !damages(err) {
		return fmt.Errorf("read %s: %w", name, err)
	}
	d := damageOf(err)
	d.File = name
	return v.found(d)
}

func openTable(ctx context.Context, path string) (*sstable.Reader, error) {
	f, err := vfs.Default.Open(path)
	if err != nil {
		return nil, err
	}
	from, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r, err := newReader(ctx, from)
	if err != nil {
		return nil, errors.Join(err, from.Close())
	}
	return r, nil
}

// newReader makes of a panic an error: Pebble meets damage in what it takes for
// granted so.
func newReader(ctx context.Context, from objstorage.Readable) (r *sstable.Reader, err error) {
	defer func() {
		if said := recover(); said != nil {
			err = fmt.Errorf("%v: %w", said, errCorrupt)
		}
	}()
	return sstable.NewReader(ctx, from, sstable.ReaderOptions{})
}

// A heldBlock is a block of a table, and what it holds.
type heldBlock struct {
	block.Handle
	holds string
	to    []byte // of one with keys: none of its own is behind this one
}

// blocksOf are the blocks of a table, in the order of the file.
func blocksOf(ctx context.Context, r *sstable.Reader) (blocks []heldBlock, err error) {
	layout, err := r.Layout()
	if err != nil {
		return nil, err
	}
	add := func(holds string, handles ...block.Handle) {
		for _, h := range handles {
			if h.Length > 0 {
				blocks = append(blocks, heldBlock{Handle: h, holds: holds})
			}
		}
	}
	for _, h := range layout.Index {
		if blocks, err = addIndexed(ctx, r, h, blocks); err != nil {
			return nil, err
		}
	}
	for _, f := range layout.Filter {
		add("a filter", f.Handle)
	}
	add("an index", layout.Index...)
	add("an index", layout.TopIndex)
	add("values", layout.ValueBlock...)
	add("what describes the table", layout.ValueIndex, layout.RangeDel, layout.RangeKey, layout.Properties, layout.MetaIndex, layout.BlobReferenceIndex)
	slices.SortFunc(blocks, func(a, b heldBlock) int { return cmp.Compare(a.Offset, b.Offset) })
	return blocks, nil
}

// addIndexed adds the blocks that an index leads to.
func addIndexed(ctx context.Context, r *sstable.Reader, index block.Handle, blocks []heldBlock) ([]heldBlock, error) {
	b, err := readBlock(ctx, r, index)
	if err != nil {
		return nil, err
	}
	defer b.Release()
	var it colblk.IndexIter
	if err := it.Init(r.Comparer, b.BlockData(), sstable.NoTransforms); err != nil {
		return nil, err
	}
	for ok := it.First(); ok; ok = it.Next() {
		h, err := it.BlockHandleWithProperties()
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, heldBlock{Handle: h.Handle, holds: "events, places or heads", to: bytes.Clone(it.Separator())})
	}
	return blocks, nil
}
