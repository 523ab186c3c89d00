package esdbnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// tombstoneNumber is the number of the event that ends a stream for ever.
const tombstoneNumber = uint64(math.MaxInt64)

// The types of the events the node itself gives a meaning to.
const (
	typeMetadata  = "$metadata"
	typeTombstone = "$streamDeleted"
	typeLink      = "$>"
)

// A record is one stored event. Its strings share one piece of memory that
// nobody changes, so records are passed around and kept without copying.
type record struct {
	position uint64
	number   uint64
	created  int64 // 100 ns since the Unix epoch, as the protocol has it
	id       [16]byte
	json     bool
	stream   string
	kind     string
	meta     string
	data     string
}

// The stored form of a record. The format byte comes first so that a later
// format can stand beside this one; the checksum covers the key's position and
// all that follows it.
//
//	format 1 | flags 1 | checksum 4 | number 8 | created 8 | id 16 |
//	len stream | stream | len kind | kind | len meta | meta | data
const (
	frameFormat  = 1
	frameFixed   = 1 + 1 + 4 + 8 + 8 + 16
	frameJSON    = 1 << 0 // flag: the data is JSON
	frameSumFrom = 6      // the checksum covers the frame from here on
)

//nolint:gochecknoglobals // a table, made once
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errCorrupt = errors.New("stored event is damaged")

func frameSize(r *record) int {
	return frameFixed + uvarintLen(len(r.stream)) + len(r.stream) + uvarintLen(len(r.kind)) + len(r.kind) +
		uvarintLen(len(r.meta)) + len(r.meta) + len(r.data)
}

func uvarintLen(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}

// putFrame writes r's stored form into b, which is frameSize long.
func putFrame(b []byte, r *record) {
	b[0], b[1] = frameFormat, 0
	if r.json {
		b[1] |= frameJSON
	}
	binary.BigEndian.PutUint64(b[6:], r.number)
	binary.BigEndian.PutUint64(b[14:], uint64(r.created)) //nolint:gosec // read back the same way
	copy(b[22:], r.id[:])
	at := frameFixed
	for _, s := range [...]string{r.stream, r.kind, r.meta} {
		at += binary.PutUvarint(b[at:], uint64(len(s)))
		at += copy(b[at:], s)
	}
	copy(b[at:], r.data)
	binary.BigEndian.PutUint32(b[2:], frameSum(r.position, b[1], b[frameSumFrom:]))
}

// frameSum is the checksum of a position, the flags and the rest. What comes first
// is summed here, byte by byte: handing it to crc32 would allocate it.
func frameSum(position uint64, flags byte, rest []byte) uint32 {
	sum := ^uint32(0)
	for shift := 56; shift >= 0; shift -= 8 {
		sum = castagnoli[byte(sum)^byte(position>>shift)] ^ sum>>8 //nolint:gosec // its low byte
	}
	sum = castagnoli[byte(sum)^flags] ^ sum>>8 //nolint:gosec // its low byte
	return crc32.Update(^sum, castagnoli, rest)
}

// getFrame reads the record that is stored under a position. It copies b.
func getFrame(position uint64, b []byte) (record, error) {
	if len(b) < frameFixed {
		return record{}, fmt.Errorf("position %d: %d bytes are no frame: %w", position, len(b), errCorrupt)
	}
	if b[0] != frameFormat {
		return record{}, fmt.Errorf("position %d: frame format %d is not known here", position, b[0])
	}
	if frameSum(position, b[1], b[frameSumFrom:]) != binary.BigEndian.Uint32(b[2:]) {
		return record{}, fmt.Errorf("position %d: checksum: %w", position, errCorrupt)
	}
	r := record{
		position: position,
		number:   binary.BigEndian.Uint64(b[6:]),
		created:  int64(binary.BigEndian.Uint64(b[14:])), //nolint:gosec // written the same way
		id:       [16]byte(b[22:38]),
		json:     b[1]&frameJSON != 0,
	}
	rest := string(b[frameFixed:])
	var ok [3]bool
	r.stream, rest, ok[0] = cutString(rest)
	r.kind, rest, ok[1] = cutString(rest)
	r.meta, rest, ok[2] = cutString(rest)
	r.data = rest
	if ok != [3]bool{true, true, true} {
		return record{}, fmt.Errorf("position %d: lengths: %w", position, errCorrupt)
	}
	return r, nil
}

// cutString takes a string with its length before it off the front of s.
func cutString(s string) (cut, rest string, ok bool) {
	var n uint64
	for i := 0; i < len(s) && i < binary.MaxVarintLen64; i++ {
		n |= uint64(s[i]&0x7f) << (7 * i)
		if s[i] >= 0x80 {
			continue
		}
		if n > uint64(len(s)-i-1) { //nolint:gosec // i is within s
			return "", "", false
		}
		return s[i+1 : i+1+int(n)], s[i+1+int(n):], true //nolint:gosec // n is within s
	}
	return "", "", false
}
