package esdbnode

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxName is how long a stream's name may be, and an event's type: far beyond any
// that somebody has chosen, and short enough for the trailers of an error.
const maxName = 4 << 10

// checkName refuses the name of a stream that could not be told to others. It
// binds those who write; a reader of such a stream just finds none. EventStoreDB
// puts replacement characters into a name that is no UTF-8, and so makes one
// stream of two; here it is refused.
func checkName(stream string) error {
	switch name := strings.TrimPrefix(stream, metaPrefix); {
	case name == "":
		return refuseRequest("the request names metadata, but of no stream")
	case len(name) > maxName:
		return refuseRequest(fmt.Sprintf("the stream's name has %d bytes, and may have %d", len(name), maxName))
	case !utf8.ValidString(stream):
		return refuseRequest("the stream's name is not UTF-8")
	case strings.ContainsRune(stream, 0):
		return refuseRequest("the stream's name has a NUL in it")
	}
	return nil
}

// check refuses an event that would harm whoever reads it, or comes after it. A
// type that is no UTF-8 makes the whole answer unreadable to protobuf, and so
// everything behind it. Two events without an id would pass for one and the same.
func (p *proposal) check() error {
	switch {
	case p.id == [16]byte{}:
		return refuseRequest("an event has no id")
	case len(p.kind) > maxName:
		return refuseRequest(fmt.Sprintf("an event's type has %d bytes, and may have %d", len(p.kind), maxName))
	case !utf8.ValidString(p.kind):
		return refuseRequest("an event's type is not UTF-8")
	}
	return nil
}
