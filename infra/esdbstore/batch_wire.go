package esdbstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec ours falls back to
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"cartwright/domain/event"
)

// The field numbers of streams.proto and shared.proto that are used here.
const (
	reqCorrelation = 1
	reqOptions     = 2
	reqProposed    = 3
	reqFinal       = 4

	optStream   = 1
	optRevision = 2
	optNoStream = 3
	optAny      = 4
	optExists   = 5

	propID       = 1
	propMetadata = 2
	propCustom   = 3
	propData     = 4

	respCorrelation = 1
	respError       = 2
	respSuccess     = 3

	idStructured = 1
	idHigh       = 1
	idLow        = 2
	streamName   = 3

	statusMessage = 2
	statusDetails = 3
	anyType       = 1
	anyValue      = 2
)

// batchCodec is protobuf, but for the two messages of a call for appends. The
// generated types make a map for each event and a dozen objects beside it.
type batchCodec struct{ encoding.CodecV2 }

func newBatchCodec() batchCodec { return batchCodec{encoding.GetCodecV2("proto")} }

// Marshal implements encoding.CodecV2.
func (c batchCodec) Marshal(v any) (mem.BufferSlice, error) {
	if a, ok := v.(*appending); ok {
		return mem.BufferSlice{mem.NewBuffer(a.message, mem.DefaultBufferPool())}, nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (c batchCodec) Unmarshal(data mem.BufferSlice, v any) error {
	a, ok := v.(*reply)
	switch {
	case !ok:
		return c.CodecV2.Unmarshal(data, v)
	case len(data) == 1:
		return a.parse(data[0].ReadOnlyData())
	}
	return a.parse(data.Materialize())
}

// encodeRequest writes a BatchAppendReq that is all of an append, as the
// generated types would (TestRequestsAreWhatTheGeneratedTypesRead). It is nil for
// one that is larger than maxBatched.
func encodeRequest(self, id uint64, stream string, expect esdb.ExpectedRevision, events []esdb.EventData) *[]byte {
	options := protowire.SizeTag(optStream) + protowire.SizeBytes(sizeField(len(stream))) + sizeExpect(expect)
	size := sizeField(sizeID(self, id)) + sizeField(options) + 2
	for i := range events {
		size += sizeField(sizeEvent(&events[i]))
	}
	if size > maxBatched {
		return nil
	}
	message := mem.DefaultBufferPool().Get(size)
	b := appendID((*message)[:0], reqCorrelation, self, id)
	b = appendLength(b, reqOptions, options)
	b = appendLength(b, optStream, sizeField(len(stream)))
	b = appendString(b, streamName, stream)
	b = appendExpect(b, expect)
	for i := range events {
		b = appendEvent(b, &events[i])
	}
	b = append(b, reqFinal<<3, 1)
	*message = b
	return message
}

// sizeField is what a field of bytes takes, with a tag of one byte.
func sizeField(n int) int { return 1 + protowire.SizeBytes(n) }

func appendLength(b []byte, field protowire.Number, n int) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendVarint(b, uint64(n)) //nolint:gosec // a length
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	return append(appendLength(b, field, len(s)), s...)
}

// sizeStructured is the size of a UUID as two numbers.
func sizeStructured(high, low uint64) int {
	return 2 + protowire.SizeVarint(high) + protowire.SizeVarint(low)
}

func sizeID(high, low uint64) int { return sizeField(sizeStructured(high, low)) }

func appendID(b []byte, field protowire.Number, high, low uint64) []byte {
	b = appendLength(b, field, sizeID(high, low))
	b = appendLength(b, idStructured, sizeStructured(high, low))
	b = protowire.AppendVarint(append(b, idHigh<<3), high)
	return protowire.AppendVarint(append(b, idLow<<3), low)
}

func sizeExpect(expect esdb.ExpectedRevision) int {
	if r, exact := expect.(esdb.StreamRevision); exact {
		return 1 + protowire.SizeVarint(r.Value)
	}
	return sizeField(0)
}

func appendExpect(b []byte, expect esdb.ExpectedRevision) []byte {
	switch e := expect.(type) {
	case esdb.StreamRevision:
		return protowire.AppendVarint(append(b, optRevision<<3), e.Value)
	case esdb.NoStream:
		return appendLength(b, optNoStream, 0)
	case esdb.StreamExists:
		return appendLength(b, optExists, 0)
	}
	return appendLength(b, optAny, 0)
}

// What the protocol wants to be told of an event in its metadata.
const (
	keyType        = "type"
	keyContent     = "content-type"
	contentJSON    = "application/json"
	contentsBinary = "application/octet-stream"
)

func contentType(e *esdb.EventData) string {
	if e.ContentType == esdb.ContentTypeJson {
		return contentJSON
	}
	return contentsBinary
}

func sizeEvent(e *esdb.EventData) int {
	n := sizeField(sizeID(binary.BigEndian.Uint64(e.EventID[:8]), binary.BigEndian.Uint64(e.EventID[8:])))
	n += sizeField(sizeEntry(keyType, e.EventType)) + sizeField(sizeEntry(keyContent, contentType(e)))
	return n + sizeField(len(e.Metadata)) + sizeField(len(e.Data))
}

func sizeEntry(key, value string) int { return sizeField(len(key)) + sizeField(len(value)) }

func appendEvent(b []byte, e *esdb.EventData) []byte {
	b = appendLength(b, reqProposed, sizeEvent(e))
	b = appendID(b, propID, binary.BigEndian.Uint64(e.EventID[:8]), binary.BigEndian.Uint64(e.EventID[8:]))
	b = appendEntry(b, keyType, e.EventType)
	b = appendEntry(b, keyContent, contentType(e))
	b = append(appendLength(b, propCustom, len(e.Metadata)), e.Metadata...)
	return append(appendLength(b, propData, len(e.Data)), e.Data...)
}

func appendEntry(b []byte, key, value string) []byte {
	b = appendLength(b, propMetadata, sizeEntry(key, value))
	return appendString(appendString(b, 1, key), 2, value)
}

// A reply is a BatchAppendResp.
type reply struct {
	id      uint64 // the half of it that we count
	done    bool
	refused bool

	// Of a refusal: what it says to people, and the details that say it to programs.
	text    string
	kind    string
	details []byte
}

func (a *reply) parse(b []byte) error {
	err := eachField(b, func(field int32, value []byte, _ uint64) error {
		switch field {
		case respCorrelation:
			return a.parseID(value)
		case respSuccess:
			a.done = true
		case respError:
			a.refused = true
			return a.parseStatus(value)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("answer to an append: %w", err)
	}
	return nil
}

// parseStatus reads a google.rpc.Status. The client has a type of this name, and
// gRPC has another: a program with both of them does not start.
func (a *reply) parseStatus(b []byte) error {
	return eachField(b, func(field int32, value []byte, _ uint64) error {
		switch field {
		case statusMessage:
			a.text = string(value)
		case statusDetails:
			return eachField(value, func(field int32, value []byte, _ uint64) error {
				switch field {
				case anyType:
					a.kind = string(value[bytes.LastIndexByte(value, '/')+1:])
				case anyValue:
					a.details = bytes.Clone(value)
				}
				return nil
			})
		}
		return nil
	})
}

func (a *reply) parseID(b []byte) error {
	return eachField(b, func(field int32, value []byte, _ uint64) error {
		if field != idStructured {
			return nil
		}
		return eachField(value, func(field int32, _ []byte, n uint64) error {
			if field == idLow {
				a.id = n
			}
			return nil
		})
	})
}

// eachField calls each for the fields that are bytes or numbers.
func eachField(b []byte, each func(field int32, value []byte, n uint64) error) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var value []byte
		var number uint64
		switch kind {
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(field, kind, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := each(int32(field), value, number); err != nil {
			return err
		}
	}
	return nil
}

var errNoAnswer = errors.New("the answer says neither that it was done nor that it was not")

// outcome is what an answer says. Refusals are told by the type of their details
// alone, as all clients tell them: codes differ between servers. What is not
// decided may have been appended, or may be yet.
func (a *reply) outcome() (decided bool, err error) {
	if a.done {
		return true, nil
	}
	if !a.refused {
		return false, errNoAnswer
	}
	switch a.kind {
	case "event_store.client.WrongExpectedVersion":
		return true, fmt.Errorf("%w: %s", event.ErrConflict, where(a.details))
	case "event_store.client.StreamDeleted":
		return true, fmt.Errorf("%w: %s", event.ErrDeleted, a.text)
	case "event_store.client.AccessDenied":
		return true, fmt.Errorf("%w: %s", event.ErrDenied, a.text)
	case "event_store.client.MaximumAppendSizeExceeded":
		return true, fmt.Errorf("%w: %s", event.ErrTooLarge, a.text)
	case "event_store.client.BadRequest":
		var bad shared.BadRequest
		if proto.Unmarshal(a.details, &bad) != nil || bad.GetMessage() == "" {
			bad.Message = a.text
		}
		return true, fmt.Errorf("%w: %s", event.ErrTooLarge, bad.GetMessage()) // as in knownAppend
	}
	return false, fmt.Errorf("the server says %q (%s)", a.text, a.kind)
}

// where tells where a stream is that is not where it was expected.
func where(details []byte) string {
	var wrong shared.WrongExpectedVersion
	if proto.Unmarshal(details, &wrong) != nil || wrong.GetCurrentNoStream() != nil {
		return "there is no such stream"
	}
	return fmt.Sprintf("it is at %d", wrong.GetCurrentStreamRevision()+1) // as we count
}
