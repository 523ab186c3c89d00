package esdbnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

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

// codec is protobuf, but for the messages there are most of: a request to append
// is read straight into proposals, and an event and what became of an append are
// written straight from what is known of them. The generated types would cost
// some twenty allocations for each event, a map among them.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	own, ok := v.(interface {
		maxSize() int
		append(b []byte) []byte
	})
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	pool := mem.DefaultBufferPool()
	b := pool.Get(own.maxSize())
	*b = own.append((*b)[:0])
	return mem.BufferSlice{mem.NewBuffer(b, pool)}, nil
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(interface{ parse(b []byte) error })
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
// What it takes from the wire is what the generated types would take
// (FuzzAppendMessage).
type appendMessage struct {
	length               int // of the whole message
	hasOptions, hasEvent bool
	stream               string
	hasExpectation       bool
	expect               expectation

	event proposed
}

// A proposed is an event as it was sent.
type proposed struct {
	proposal
	hasKind, typed bool // which of the required metadata are there
	sent           sentID
}

var errWire = errors.New("malformed append request")

// A fieldFunc takes one field of a message: its bytes, or its number.
type fieldFunc func(field int32, value string, n uint64) error

// fields calls each for the fields of s that are numbers, which are those of the
// bits of numbers, and for those that are bytes, which are all others. A field
// that is neither is one that is not known here. It copies nothing.
func fields(s string, numbers uint64, each fieldFunc) error {
	for s != "" {
		num, kind, value, n, rest, err := nextField(s)
		if err != nil {
			return err
		}
		s = rest
		number := num < 64 && numbers&(1<<num) != 0
		if known := number && kind == protowire.VarintType || !number && kind == protowire.BytesType; !known {
			continue
		}
		if err := each(int32(num), value, n); err != nil {
			return err
		}
	}
	return nil
}

// nextField takes one field off the front of s, a group with all that is in it.
func nextField(s string) (num protowire.Number, kind protowire.Type, value string, n uint64, rest string, err error) {
	num, kind, s, err = nextTag(s)
	if err != nil {
		return 0, 0, "", 0, "", err
	}
	size := 0
	switch kind {
	case protowire.VarintType:
		n, s, err = nextVarint(s)
	case protowire.Fixed32Type:
		size = 4
	case protowire.Fixed64Type:
		size = 8
	case protowire.BytesType:
		if n, s, err = nextVarint(s); n > uint64(len(s)) {
			err = errWire
		}
		size = int(min(n, math.MaxInt32))
	case protowire.StartGroupType:
		s, err = skipGroup(s)
	default:
		err = fmt.Errorf("wire type %d: %w", kind, errWire)
	}
	if err != nil || size > len(s) {
		return 0, 0, "", 0, "", errors.Join(errWire, err)
	}
	return num, kind, s[:size], n, s[size:], nil
}

// skipGroup goes to the end of a group, which proto3 has no use for.
func skipGroup(s string) (rest string, err error) {
	for depth := 1; depth > 0; {
		_, kind, after, err := nextTag(s)
		switch {
		case err != nil:
			return "", err
		case kind == protowire.StartGroupType:
			depth, s = depth+1, after
		case kind == protowire.EndGroupType:
			depth, s = depth-1, after
		default:
			if _, _, _, _, s, err = nextField(s); err != nil {
				return "", err
			}
		}
	}
	return s, nil
}

func nextTag(s string) (num protowire.Number, kind protowire.Type, rest string, err error) {
	tag, rest, err := nextVarint(s)
	num, kind = protowire.DecodeTag(tag)
	if err != nil || num < protowire.MinValidNumber {
		return 0, 0, "", errWire
	}
	return num, kind, rest, nil
}

func nextVarint(s string) (n uint64, rest string, err error) {
	var head [binary.MaxVarintLen64]byte
	n, size := protowire.ConsumeVarint(head[:copy(head[:], s)])
	if size < 0 {
		return 0, "", errWire
	}
	return n, s[size:], nil
}

func (m *appendMessage) parse(b []byte) error {
	*m = appendMessage{length: len(b)}
	err := fields(string(b), 0, func(field int32, value string, _ uint64) error {
		switch field {
		case reqOptions:
			if !m.hasOptions { // it is one or the other: the last one counts
				*m = appendMessage{length: len(b), hasOptions: true}
			}
			return m.parseOptions(value)
		case reqProposed:
			if !m.hasEvent {
				*m = appendMessage{length: len(b), hasEvent: true}
			}
			return m.event.parse(value)
		}
		return nil
	})
	if used := len(m.stream) + m.event.size(); len(b)-used > used+1<<10 {
		m.trim()
	}
	return err
}

// trim lets go of a message of which little is wanted: the tail and the ids that
// are remembered would hold on to all of it.
func (m *appendMessage) trim() {
	m.stream = strings.Clone(m.stream)
	m.event.detach()
}

// detach copies what it has of the message it came in.
func (p *proposed) detach() {
	p.kind, p.meta, p.data = strings.Clone(p.kind), strings.Clone(p.meta), strings.Clone(p.data)
}

func (m *appendMessage) parseOptions(s string) error {
	const expectations = 1 << optRevision
	return fields(s, expectations, func(field int32, value string, n uint64) error {
		switch field {
		case optStream:
			return fields(value, 0, func(field int32, value string, _ uint64) error {
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

func (p *proposed) parse(s string) error {
	return fields(s, 0, func(field int32, value string, _ uint64) error {
		switch field {
		case propID:
			err := p.sent.parse(value)
			p.id = p.sent.value
			return err
		case propMetadata:
			return p.parseMetadata(value)
		case propCustom:
			p.meta = value
		case propData:
			p.data = value
		}
		return nil
	})
}

// A sentID is a UUID in one of the two forms of the protocol.
type sentID struct {
	value     [16]byte
	text, bad bool
}

func (id *sentID) parse(s string) error {
	return fields(s, 0, func(field int32, value string, _ uint64) error {
		switch field {
		case idStructured:
			if id.text {
				*id = sentID{}
			}
			return fields(value, 1<<1|1<<2, func(field int32, _ string, n uint64) error {
				switch field {
				case 1:
					binary.BigEndian.PutUint64(id.value[:8], n)
				case 2:
					binary.BigEndian.PutUint64(id.value[8:], n)
				}
				return nil
			})
		case idText:
			parsed, err := uuid.Parse(value)
			*id = sentID{value: parsed, text: true, bad: err != nil}
		}
		return nil
	})
}

func (p *proposed) parseMetadata(s string) error {
	var key, value string
	err := fields(s, 0, func(field int32, text string, _ uint64) error {
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
		p.kind, p.hasKind = value, value != ""
	case "content-type":
		p.json, p.typed = value == contentJSON, true
	}
	return err
}
