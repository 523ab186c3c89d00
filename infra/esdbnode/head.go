package esdbnode

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"
)

// truncatedAll is the $tb of a stream that was deleted softly.
const truncatedAll = uint64(math.MaxInt64)

// A head is what must be known of a stream to append to it and to read it: how
// far it goes, and what its metadata says. Its zero value is a stream that never was.
type head struct {
	events    uint64 // how many were ever appended: the last number is one less
	position  uint64 // of the last one written, a tombstone included
	tombstone bool
	limits    limits
	scavenged uint64 // how many of its first events are gone
}

// limits is what a stream's metadata says about which of its events are shown.
type limits struct {
	before   uint64        // $tb: the first number that is shown
	maxCount uint64        // $maxCount, 0 for no limit
	maxAge   time.Duration // $maxAge, 0 for no limit
}

// softDeleted tells whether the stream was deleted so that it may come back.
func (h head) softDeleted() bool { return h.limits.before == truncatedAll }

// gone tells whether a read finds no stream here.
func (h head) gone() bool { return h.events == 0 || h.softDeleted() }

// first is the lowest number that a read shows.
func (h head) first() uint64 {
	if h.limits.maxCount > 0 && h.events > h.limits.maxCount {
		return max(h.limits.before, h.events-h.limits.maxCount)
	}
	return h.limits.before
}

// hidden is the lowest number that a scavenge must keep, as far as that can be
// told without a look at the events' age.
func (h head) hidden() uint64 {
	switch {
	case h.tombstone:
		return h.events
	case h.events == 0:
		return 0
	}
	return min(h.first(), h.events-1)
}

const (
	headFormat    = 1
	headTombstone = 1 << 0
	headScavenged = 1 << 1 // one more number stands at the end
)

func appendHead(b []byte, h head) []byte {
	flags := byte(0)
	if h.tombstone {
		flags |= headTombstone
	}
	if h.scavenged > 0 {
		flags |= headScavenged
	}
	b = append(b, headFormat, flags)
	for _, n := range [...]uint64{h.events, h.position, h.limits.before, h.limits.maxCount, uint64(h.limits.maxAge)} { //nolint:gosec // never negative
		b = binary.AppendUvarint(b, n)
	}
	if h.scavenged > 0 {
		b = binary.AppendUvarint(b, h.scavenged)
	}
	return b
}

func getHead(b []byte) (head, error) {
	if len(b) < 2 || b[0] != headFormat {
		return head{}, fmt.Errorf("head of %d bytes in a format not known here", len(b))
	}
	var n [6]uint64
	count, at := 5, 2
	if b[1]&headScavenged != 0 {
		count = 6
	}
	for i := range n[:count] {
		v, size := binary.Uvarint(b[at:])
		if size <= 0 {
			return head{}, fmt.Errorf("head of %d bytes is damaged", len(b))
		}
		n[i], at = v, at+size
	}
	return head{
		events: n[0], position: n[1], tombstone: b[1]&headTombstone != 0,
		limits:    limits{before: n[2], maxCount: n[3], maxAge: time.Duration(n[4])}, //nolint:gosec // written from a duration
		scavenged: n[5],
	}, nil
}

// metadataKey is the key in a stream's metadata that a soft deletion sets.
const metadataKey = "$tb"

// parseLimits reads a stream's metadata. What is not understood limits nothing,
// as in EventStoreDB: metadata is a user's event and must not stop the stream.
// One limit that is no whole number makes all of it not understood, and keys are
// what they are to the letter, which encoding/json would not insist on.
func parseLimits(data string) limits {
	m, ok := parseObject(data)
	before, ok1 := wholeNumber(m, metadataKey)
	maxCount, ok2 := wholeNumber(m, "$maxCount")
	maxAge, ok3 := wholeNumber(m, "$maxAge") // seconds
	if !ok || !ok1 || !ok2 || !ok3 {
		return limits{}
	}
	return limits{
		before:   before,
		maxCount: maxCount,
		maxAge:   time.Duration(min(maxAge, uint64(math.MaxInt64/time.Second))) * time.Second,
	}
}

// limiting is what an event of a metadata stream says about its stream: nothing,
// unless it was sent as JSON.
func (p *proposal) limiting() string {
	if !p.json {
		return ""
	}
	return p.data
}

func parseObject(data string) (m map[string]json.RawMessage, ok bool) {
	err := json.Unmarshal([]byte(data), &m)
	return m, err == nil && m != nil
}

// wholeNumber gives a limit, and 0 where there is none or one below zero.
func wholeNumber(m map[string]json.RawMessage, key string) (n uint64, ok bool) {
	text, ok := m[key]
	if !ok {
		return 0, true
	}
	v, err := strconv.ParseInt(string(text), 10, 64)
	return uint64(max(v, 0)), err == nil
}

// withTruncateBefore gives the metadata with another $tb and all else as it was.
func withTruncateBefore(data string, before uint64) string {
	m, ok := parseObject(data)
	if !ok {
		m = map[string]json.RawMessage{}
	}
	m[metadataKey] = json.RawMessage(strconv.FormatUint(before, 10))
	out, err := json.Marshal(m)
	if err != nil {
		panic("raw JSON that was just parsed does not encode: " + err.Error())
	}
	return string(out)
}
