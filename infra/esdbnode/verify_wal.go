package esdbnode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// newestLog looks for damage in the newest write-ahead log. What was stated about
// it was compared already, and says more than its end does.
func (v *verifying) newestLog() error {
	d, err := tornLog(vfs.Default, v.dir, v.known == 0)
	if err != nil || d == nil {
		return err
	}
	if slices.ContainsFunc(v.Damage, func(one *Damage) bool { return one.File == d.File }) {
		return nil // the witness has told
	}
	return v.found(d)
}

// refuseTornLog keeps a log closed that would lose acknowledged events by being opened.
func refuseTornLog(fs vfs.FS, dir string) error {
	d, err := tornLog(fs, dir, false)
	if err == nil && d != nil {
		err = fmt.Errorf("%s: %s: %w", dir, d, errCorrupt)
	}
	return err
}

// tornLog tells whether the newest write-ahead log ends before something that was
// acknowledged, and where. To Pebble whatever it can't read there is an append that
// was never finished, unless a block behind it says otherwise; within the last block
// it does not look. So a changed byte would take away all that follows it, silently.
//
// What tells that a log goes on behind a place that can't be read is a piece that
// was written when everything up to behind that place had been synced. The end that
// Pebble writes when it closes a log tells so only most of the time: a flush closes
// one while a commit is on its way to the disk, and a power failure may take that
// and leave the end. So it counts where nothing better is known and nothing is
// refused for it (TestACrashAtAnyOperationLosesNothingAndIsOpened).
func tornLog(fs vfs.FS, dir string, endCounts bool) (*Damage, error) {
	names, err := fs.List(dir)
	if err != nil {
		return nil, fmt.Errorf("list files: %w", err)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasSuffix(name, ".log") })
	if len(names) == 0 {
		return nil, nil //nolint:nilnil // nothing is torn
	}
	name := slices.Max(names)
	var number uint64
	if _, err = fmt.Sscanf(name, "%d.log", &number); err != nil {
		return nil, fmt.Errorf("%s is no write-ahead log: %w", name, err)
	}
	f, err := fs.Open(fs.PathJoin(dir, name))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	text, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	log := uint32(number)
	end := readableLog(text, log)
	if !goesOn(text, end, log, endCounts) {
		return nil, nil //nolint:nilnil // nothing is torn
	}
	return &Damage{File: name, Offset: end, What: "the write-ahead log can't be read from there, and goes on: what follows would be lost"}, nil
}

// The pieces that a write-ahead log consists of, as Pebble writes them, each within
// one block:
//
//	checksum 4 | length 2 | kind 1 | log 4 | …
//	checksum 4 | length 2 | kind 1 | log 4 | synced 8 | …
//
// those of the first form in the first log of a folder, which is made before Pebble
// knows in what format, and the one that ends a log, whose log is one higher and
// which has nothing in it.
const (
	pieceSumFrom   = 6
	pieceLog       = 7
	pieceShort     = 11
	pieceLong      = 19
	firstShortKind = 5
	firstLongKind  = 9
	behindKinds    = 13
	pieceBlock     = 32 << 10
)

// blockRest is what is left of a block from a place on.
func blockRest(text []byte, at uint64) []byte {
	return text[at:min(uint64(len(text)), (at/pieceBlock+1)*pieceBlock)]
}

// readableLog is how far a write-ahead log can be read.
func readableLog(text []byte, log uint32) uint64 {
	for at := uint64(0); at < uint64(len(text)); {
		rest := blockRest(text, at)
		_, size := pieceIn(rest, log)
		switch {
		case size > 0:
			at += uint64(size)
		case isEnd(rest, log):
			return uint64(len(text))
		case len(rest) < pieceLong && len(bytes.Trim(rest, "\x00")) == 0: // none fits in there
			at += uint64(len(rest))
		default:
			return at
		}
	}
	return uint64(len(text))
}

// goesOn tells whether a log has something behind a place by which that place was
// written and synced.
func goesOn(text []byte, from uint64, log uint32, endCounts bool) bool {
	for at := from + 1; at < uint64(len(text)); at++ {
		rest := blockRest(text, at)
		if endCounts && isEnd(rest, log) {
			return true
		}
		if synced, size := pieceIn(rest, log); size > 0 && synced > from {
			return true
		}
	}
	return false
}

func isEnd(rest []byte, log uint32) bool {
	return len(rest) >= pieceShort && rest[pieceSumFrom] == firstShortKind && binary.LittleEndian.Uint32(rest[pieceLog:]) == log+1 &&
		len(bytes.Trim(rest[:pieceSumFrom], "\x00")) == 0
}

// pieceIn reads the piece that begins here: its size, 0 where there is none, and up
// to where the log was synced when it was written, as far as it says so.
func pieceIn(rest []byte, log uint32) (synced uint64, size int) {
	if len(rest) < pieceShort || rest[pieceSumFrom] < firstShortKind || rest[pieceSumFrom] >= behindKinds || binary.LittleEndian.Uint32(rest[pieceLog:]) != log {
		return 0, 0
	}
	header := pieceShort
	if rest[pieceSumFrom] >= firstLongKind {
		header = pieceLong
	}
	size = header + int(binary.LittleEndian.Uint16(rest[4:]))
	if size > len(rest) {
		return 0, 0
	}
	sum := crc32.Checksum(rest[pieceSumFrom:size], castagnoli)
	if bits.RotateLeft32(sum, 17)+0xa282ead8 != binary.LittleEndian.Uint32(rest) { // as Pebble masks it
		return 0, 0
	}
	if header == pieceLong {
		synced = binary.LittleEndian.Uint64(rest[pieceShort:])
	}
	return synced, size
}
