package kafkanode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	segmentSuffix = ".dat"
	indexSuffix   = ".idx"
	// A record batch: base offset 8, length 4 (of what follows), leader epoch 4,
	// magic 1, CRC 4 (of what follows), attributes 2, last offset delta 4, and more.
	batchLengthAt = 8
	batchBodyAt   = 12
	batchCRCAt    = 17
	batchSumFrom  = 21
	batchDeltaAt  = 23
	batchHeader   = 61
)

// A segment is one file of a partition, named by the offset it begins with.
type segment struct {
	path string
	base int64
}

func segments(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []segment
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), segmentSuffix)
		if !ok {
			continue
		}
		base, err := strconv.ParseInt(name, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("segment %s: %w", e.Name(), err)
		}
		found = append(found, segment{filepath.Join(dir, e.Name()), base})
	}
	slices.SortFunc(found, func(a, b segment) int { return int(a.base - b.base) })
	return found, nil
}

// cut ends every partition at its first damage and gives their ends. What
// stands behind a hole is given up as well: a consumer would step over the hole.
//
// A partition of which nothing is left begins again at offset 0.
func (d *disk) cut(o Options, was promises) (promises, error) {
	ends, begins := make([]int64, o.Partitions), make([]int64, o.Partitions)
	for p := range ends {
		dir := d.partitionDir(o.Topic, p)
		end, lost, err := cutPartition(dir, was.begin(p))
		if err != nil {
			return promises{}, fmt.Errorf("partition %d: %w", p, err)
		}
		if lost > 0 {
			o.Log.Warn("bus partition cut at damage", "topic", o.Topic, "partition", p, "offset", end, "bytes", lost)
		}
		left, err := segments(dir)
		if err != nil {
			return promises{}, fmt.Errorf("partition %d: %w", p, err)
		}
		if ends[p] = end; len(left) > 0 {
			begins[p] = was.begin(p)
		}
	}
	return promises{reached(was.Checkpoints, ends), begins}, nil
}

// cutPartition gives the offset up to which the partition is whole, if one
// overlooks what was trimmed before begin.
func cutPartition(dir string, begin int64) (end, lost int64, err error) {
	found, err := segments(dir)
	if err != nil || len(found) == 0 {
		return begin, 0, err
	}
	end = min(begin, found[0].base)
	for i, s := range found {
		raw, err := os.ReadFile(s.path)
		if err != nil {
			return 0, 0, err
		}
		whole := 0
		if s.base == end {
			end, whole = wholeBatches(raw, end)
		}
		if whole == len(raw) && whole > 0 {
			continue
		}
		lost = int64(len(raw) - whole)
		for _, behind := range found[i+1:] {
			lost += sizeOf(behind.path)
		}
		return end, lost, cutAt(found[i:], int64(whole))
	}
	return end, 0, nil
}

func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0 // only a number in a log line
	}
	return info.Size()
}

// cutAt shortens the first segment and removes the others. An empty one goes
// too. The index of a shortened one is shortened by the broker.
func cutAt(damaged []segment, whole int64) error {
	if whole > 0 {
		if err := os.Truncate(damaged[0].path, whole); err != nil {
			return err
		}
		damaged = damaged[1:]
	}
	// From the end, so that stopping halfway leaves no hole.
	for _, s := range slices.Backward(damaged) {
		index := strings.TrimSuffix(s.path, segmentSuffix) + indexSuffix
		if err := os.Remove(index); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Remove(s.path); err != nil {
			return err
		}
	}
	return nil
}

// wholeBatches reads batches as long as they are intact and follow each other,
// and gives the offset behind the last and the bytes they take.
func wholeBatches(raw []byte, next int64) (end int64, whole int) {
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	for {
		size, records, ok := wholeBatch(raw[whole:], next, castagnoli)
		if !ok {
			return next, whole
		}
		next, whole = next+records, whole+size
	}
}

func wholeBatch(raw []byte, base int64, sum *crc32.Table) (size int, records int64, ok bool) {
	if len(raw) < batchHeader {
		return 0, 0, false
	}
	size = batchBodyAt + int(binary.BigEndian.Uint32(raw[batchLengthAt:]))
	if size < batchHeader || size > len(raw) {
		return 0, 0, false
	}
	at := int64(binary.BigEndian.Uint64(raw)) //nolint:gosec // offsets are signed on the wire
	if at != base || crc32.Checksum(raw[batchSumFrom:size], sum) != binary.BigEndian.Uint32(raw[batchCRCAt:]) {
		return 0, 0, false
	}
	return size, int64(binary.BigEndian.Uint32(raw[batchDeltaAt:])) + 1, true
}
