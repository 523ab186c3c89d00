package esdbnode

import (
	"encoding/binary"
	"math"
)

// The keys. The events by position are the primary copy; the rest could be
// rebuilt from them.
//
//	e position            the event
//	i stream number       the position of a stream's event
//	h stream              the stream's head
//	s region              events of this region were thrown away, and files may still hold them
//	l links number        a link, of a stream of links
//	k prefix              up to which position there are the links of all streams with this prefix
const (
	spaceEvents = 'e'
	spaceIndex  = 'i'
	spaceHeads  = 'h'
	spaceMarks  = 's'
	spaceLinks  = 'l'
	spaceLinked = 'k'
)

const eventKeyLen = 1 + 8

func putEventKey(b []byte, position uint64) {
	b[0] = spaceEvents
	binary.BigEndian.PutUint64(b[1:], position)
}

func eventKey(position uint64) []byte {
	b := make([]byte, eventKeyLen)
	putEventKey(b, position)
	return b
}

// eventKeyAfter is the first key behind a position's.
func eventKeyAfter(position uint64) []byte {
	if position == math.MaxUint64 {
		return []byte{spaceEvents + 1}
	}
	return eventKey(position + 1)
}

func positionOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[1:]) }

// An index key has the length of the stream's name before it, so that no
// stream's keys lie among another's.
func indexKeyLen(stream string) int { return 1 + uvarintLen(len(stream)) + len(stream) + 8 }

func putIndexKey(b []byte, stream string, number uint64) {
	b[0] = spaceIndex
	at := 1 + binary.PutUvarint(b[1:], uint64(len(stream)))
	at += copy(b[at:], stream)
	binary.BigEndian.PutUint64(b[at:], number)
}

func indexKey(stream string, number uint64) []byte {
	b := make([]byte, indexKeyLen(stream))
	putIndexKey(b, stream, number)
	return b
}

// regionEvents is how many positions one mark stands for.
const regionEvents = 1 << 12

// markKey is the mark of the region that a position lies in.
func markKey(position uint64) []byte {
	b := make([]byte, 1+8)
	b[0] = spaceMarks
	binary.BigEndian.PutUint64(b[1:], position/regionEvents)
	return b
}

func headKey(stream string) []byte {
	b := make([]byte, 1+len(stream))
	b[0] = spaceHeads
	copy(b[1:], stream)
	return b
}
