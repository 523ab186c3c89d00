package pebblekv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"cartwright/domain/event"
)

// table is the beginning of all keys of one table of one generation. View
// names have no zero byte in them.
func table(kind byte, view string, generation int) []byte {
	key := make([]byte, 0, len(view)+6)
	key = append(key, kind)
	key = append(key, view...)
	key = append(key, 0)
	return binary.BigEndian.AppendUint32(key, uint32(generation)) //nolint:gosec // generations are counted from 1
}

func under(prefix, rest []byte) []byte { return slices.Concat(prefix, rest) }

// end is the first key behind all that begin with a prefix.
func end(prefix []byte) []byte {
	last := bytes.Clone(prefix)
	for i := len(last) - 1; i >= 0; i-- {
		if last[i]++; last[i] != 0 {
			return last[:i+1]
		}
	}
	return nil // nothing but 0xff: no key stands behind
}

// A stored document is its revision, its index key with its length, and JSON.
// head writes what stands before the JSON.
func head(to *bytes.Buffer, at event.Revision, index []byte) {
	space := to.AvailableBuffer()
	space = binary.BigEndian.AppendUint64(space, uint64(at))
	space = binary.AppendUvarint(space, uint64(len(index)))
	to.Write(append(space, index...))
}

var errShort = errors.New("a stored document is cut short")

// decode gives the parts of a stored document, which share its bytes.
func decode(value []byte) (at event.Revision, index, body []byte, err error) {
	if len(value) < 8 {
		return 0, nil, nil, errShort
	}
	n, size := binary.Uvarint(value[8:])
	rest := value[min(len(value), 8+max(0, size)):]
	if size <= 0 || n > uint64(len(rest)) {
		return 0, nil, nil, errShort
	}
	return event.Revision(binary.BigEndian.Uint64(value)), rest[:n], rest[n:], nil
}

// appendInstant writes a time so that bytes sort as times do.
func appendInstant(to []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint64(to, uint64(t.UnixMicro())^1<<63)
}

func readInstant(b []byte) (time.Time, error) {
	if len(b) < 8 {
		return time.Time{}, fmt.Errorf("an index key of %d bytes has no time in it", len(b))
	}
	return time.UnixMicro(int64(binary.BigEndian.Uint64(b) ^ 1<<63)).UTC(), nil //nolint:gosec // as written by instant
}
