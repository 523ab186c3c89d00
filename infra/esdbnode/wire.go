package esdbnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/google/uuid"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec ours falls back to
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// The content types the protocol knows.
const (
	contentJSON   = "application/json"
	contentBinary = "application/octet-stream"
)

// codec is protobuf, but for the two messages that carry events: an append
// request is read straight into a proposal, and an event is written straight
// from its record. The generated types would cost some twenty allocations for
// each event, a map among them.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	e, ok := v.(*eventMessage)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	pool := mem.DefaultBufferPool()
	b := pool.Get(e.maxSize())
	*b = e.append((*b)[:0])
	return mem.BufferSlice{mem.NewBuffer(b, pool)}, nil
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*appendMessage)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if len(data) == 1 {
		return m.parse(data[0].ReadOnlyData())
	}
	return m.parse(data.Materialize())
}

// An eventMessage is a ReadResp with an event in it.
type eventMessage struct {
	event, link *record // link is nil where no link was followed; event is nil where it leads nowhere
	textIDs     bool
}

func (m *eventMessage) maxSize() int {
	n := 64
	for _, r := range [...]*record{m.event, m.link} {
		if r != nil {
			n += 256 + r.footprint()
		}
	}
	return n
}

// The field numbers of streams.proto that are used here.
const (
	respEvent = 1

	readEventEvent  = 1
	readEventLink   = 2
	readEventCommit = 3

	recID       = 1
	recStream   = 2
	recRevision = 3
	recPrepare  = 4
	recCommit   = 5
	recMetadata = 6
	recCustom   = 7
	recData     = 8

	reqOptions  = 1
	reqProposed = 2

	optStream   = 1
	optRevision = 2
	optNoStream = 3
	optAny      = 4
	optExists   = 5

	propID       = 1
	propMetadata = 2
	propCustom   = 3
	propData     = 4

	idStructured = 1
	idText       = 2
	streamName   = 3
)

// nested writes a length-delimited field whose length is known only afterwards:
// four bytes are kept for it, enough for 256 MiB.
func nested(b []byte, field protowire.Number, inside func([]byte) []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	at := len(b)
	b = inside(append(b, 0, 0, 0, 0))
	n := len(b) - at - 4
	b[at], b[at+1], b[at+2], b[at+3] = byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)|0x80, byte(n>>21)&0x7f //nolint:gosec // seven bits each
	return b
}

func (m *eventMessage) append(b []byte) []byte {
	return nested(b, respEvent, func(b []byte) []byte {
		position := uint64(0)
		if m.event != nil {
			b = m.appendRecord(b, readEventEvent, m.event)
			position = m.event.position
		}
		if m.link != nil {
			b = m.appendRecord(b, readEventLink, m.link)
			position = m.link.position
		}
		return appendUint(b, readEventCommit, position)
	})
}

func (m *eventMessage) appendRecord(b []byte, field protowire.Number, r *record) []byte {
	return nested(b, field, func(b []byte) []byte {
		b = m.appendID(b, r)
		b = protowire.AppendTag(b, recStream, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(1+protowire.SizeBytes(len(r.stream)))) //nolint:gosec // a length
		b = appendString(b, streamName, r.stream)
		b = appendUint(b, recRevision, r.number)
		b = appendUint(b, recPrepare, r.position)
		b = appendUint(b, recCommit, r.position)
		b = appendMetadata(b, "type", r.kind)
		b = appendMetadata(b, "content-type", contentType(r))
		var digits [20]byte
		b = appendMetadata(b, "created", string(strconv.AppendInt(digits[:0], r.created, 10)))
		b = appendString(b, recCustom, r.meta)
		return appendString(b, recData, r.data)
	})
}

func contentType(r *record) string {
	if r.json {
		return contentJSON
	}
	return contentBinary
}

func (m *eventMessage) appendID(b []byte, r *record) []byte {
	b = protowire.AppendTag(b, recID, protowire.BytesType)
	if m.textIDs {
		id := uuid.UUID(r.id).String()
		b = protowire.AppendVarint(b, uint64(1+protowire.SizeBytes(len(id)))) //nolint:gosec // a length
		return appendString(b, idText, id)
	}
	high, low := binary.BigEndian.Uint64(r.id[:8]), binary.BigEndian.Uint64(r.id[8:])
	n := 2 + protowire.SizeVarint(high) + protowire.SizeVarint(low)
	b = protowire.AppendVarint(b, uint64(1+protowire.SizeBytes(n))) //nolint:gosec // a length
	b = protowire.AppendTag(b, idStructured, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(n)) //nolint:gosec // a length
	b = appendUint(b, 1, high)
	return appendUint(b, 2, low)
}

func appendUint(b []byte, field protowire.Number, n uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), n)
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

// appendMetadata writes one entry of the metadata map.
func appendMetadata(b []byte, key, value string) []byte {
	b = protowire.AppendTag(b, recMetadata, protowire.BytesType)
	n := 2 + protowire.SizeBytes(len(key)) + protowire.SizeBytes(len(value))
	b = protowire.AppendVarint(b, uint64(n)) //nolint:gosec // a length
	return appendString(appendString(b, 1, key), 2, value)
}

// An appendMessage is an AppendReq: the options, which come first, or one event.
type appendMessage struct {
	hasOptions, hasEvent bool
	stream               string
	hasExpectation       bool
	expect               expectation

	event          proposal
	hasKind, typed bool // which of the required metadata are there
	badID          bool
}

var errWire = errors.New("malformed append request")

// A fieldFunc takes one field of a message: its bytes, or its number.
type fieldFunc func(field int32, value string, n uint64) error

// fields calls each for all fields of s. It copies nothing.
func fields(s string, each fieldFunc) error {
	for s != "" {
		var head [24]byte
		b := head[:copy(head[:], s)]
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errWire
		}
		s, b = s[n:], b[n:]
		switch kind {
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return errWire
			}
			s = s[n:]
			if err := each(int32(num), "", v); err != nil {
				return err
			}
		case protowire.BytesType:
			size, n := protowire.ConsumeVarint(b)
			if n < 0 || size > uint64(len(s)-n) { //nolint:gosec // n is within s
				return errWire
			}
			end := n + int(size) //nolint:gosec // within s
			if err := each(int32(num), s[n:end], 0); err != nil {
				return err
			}
			s = s[end:]
		default:
			return fmt.Errorf("wire type %d: %w", kind, errWire)
		}
	}
	return nil
}

func (m *appendMessage) parse(b []byte) error {
	*m = appendMessage{}
	return fields(string(b), func(field int32, value string, _ uint64) error {
		switch field {
		case reqOptions:
			m.hasOptions = true
			return m.parseOptions(value)
		case reqProposed:
			m.hasEvent = true
			return m.parseEvent(value)
		}
		return nil
	})
}

func (m *appendMessage) parseOptions(s string) error {
	return fields(s, func(field int32, value string, n uint64) error {
		switch field {
		case optStream:
			return fields(value, func(field int32, value string, _ uint64) error {
				if field == streamName {
					m.stream = value
				}
				return nil
			})
		case optRevision:
			m.expect = expectation{expectNumber, n}
		case optNoStream:
			m.expect = expectation{kind: expectNoStream}
		case optAny:
			m.expect = expectation{kind: expectAny}
		case optExists:
			m.expect = expectation{kind: expectExists}
		}
		m.hasExpectation = m.hasExpectation || field >= optRevision && field <= optExists
		return nil
	})
}

func (m *appendMessage) parseEvent(s string) error {
	return fields(s, func(field int32, value string, _ uint64) error {
		switch field {
		case propID:
			return m.parseID(value)
		case propMetadata:
			return m.parseMetadata(value)
		case propCustom:
			m.event.meta = value
		case propData:
			m.event.data = value
		}
		return nil
	})
}

func (m *appendMessage) parseID(s string) error {
	return fields(s, func(field int32, value string, _ uint64) error {
		switch field {
		case idStructured:
			return fields(value, func(field int32, _ string, n uint64) error {
				switch field {
				case 1:
					binary.BigEndian.PutUint64(m.event.id[:8], n)
				case 2:
					binary.BigEndian.PutUint64(m.event.id[8:], n)
				}
				return nil
			})
		case idText:
			id, err := uuid.Parse(value)
			m.event.id, m.badID = id, err != nil
		}
		return nil
	})
}

func (m *appendMessage) parseMetadata(s string) error {
	var key, value string
	err := fields(s, func(field int32, text string, _ uint64) error {
		switch field {
		case 1:
			key = text
		case 2:
			value = text
		}
		return nil
	})
	switch key {
	case "type":
		m.event.kind, m.hasKind = value, value != ""
	case "content-type":
		m.event.json, m.typed = value == contentJSON, true
	}
	return err
}
