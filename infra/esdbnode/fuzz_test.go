package esdbnode_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cartwright/infra/esdbnode"
)

// FuzzAppendMessage holds the decoder of append requests against the generated
// types: what they take, it takes, and understands as they do.
func FuzzAppendMessage(f *testing.F) {
	for _, m := range oddRequests() {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		if len(b) > 0 {
			f.Add(b[:len(b)-1])
		}
		f.Add(append(bytes.Clone(b), b...)) // messages may come in pieces
	}
	event, _ := proto.Marshal(proposed(map[string]string{"type": "x", "content-type": "application/json"}, "{}"))
	begin, _ := proto.Marshal(options("s"))
	for _, odd := range [][]byte{
		append(bytes.Clone(begin), event...),
		append(bytes.Clone(event), begin...),
		protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 7), // a number where a message should be
		protowire.AppendFixed64(protowire.AppendTag(nil, 2, protowire.Fixed64Type), 7),
		protowire.AppendFixed32(protowire.AppendTag(bytes.Clone(event), 99, protowire.Fixed32Type), 7),
		protowire.AppendGroup(protowire.AppendTag(bytes.Clone(event), 98, protowire.StartGroupType), 98, event),
		protowire.AppendTag(nil, 98, protowire.StartGroupType),
		protowire.AppendTag(nil, 98, protowire.EndGroupType),
		protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.BytesType), math.MaxUint64),
		protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.BytesType), 1<<62),
		{0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f},
		{0x00},
		{0x0a},
		{0x0b, 0x0c},
		inID(protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.BytesType), 0)),
		inID([]byte{2<<3 | 2, 1, 'x', 1<<3 | 2, 2, 1 << 3, 5}), // as text, then by halves
	} {
		f.Add(odd)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		was := bytes.Clone(b)
		got, err := esdbnode.ParseAppend(b)
		var m streams.AppendReq
		if proto.Unmarshal(b, &m) != nil {
			return // what it refuses is nobody's request
		}
		if err != nil {
			t.Fatalf("%x is refused: %v; protobuf reads %v", b, err, &m)
		}
		if diff := cmp.Diff(asProposed(&m), got); diff != "" {
			t.Fatalf("%x (-protobuf +ours):\n%s", b, diff)
		}
		if size := len(got.Stream) + len(got.Kind) + len(got.Meta) + len(got.Data); size > len(b) {
			t.Fatalf("%d bytes were made of %d", size, len(b))
		}
		for i := range b { // gRPC uses its buffers again
			b[i] ^= 0xff
		}
		if diff := cmp.Diff(asProposed(&m), got); diff != "" {
			t.Fatalf("%x: what was read changed with the buffer:\n%s", was, diff)
		}
	})
}

// inID is a request with these bytes for an event's id.
func inID(id []byte) []byte {
	id = append([]byte{1<<3 | 2, byte(len(id))}, id...)
	return append([]byte{2<<3 | 2, byte(len(id))}, id...)
}

func oddRequests() []*streams.AppendReq {
	structured := &shared.UUID{Value: &shared.UUID_Structured_{Structured: &shared.UUID_Structured{MostSignificantBits: -1, LeastSignificantBits: 1}}}
	message := func(m *streams.AppendReq_ProposedMessage) *streams.AppendReq {
		return &streams.AppendReq{Content: &streams.AppendReq_ProposedMessage_{ProposedMessage: m}}
	}
	begin := func(o *streams.AppendReq_Options) *streams.AppendReq {
		return &streams.AppendReq{Content: &streams.AppendReq_Options_{Options: o}}
	}
	return []*streams.AppendReq{
		{},
		options("s"), options(""), options("$$s"), options("a\x00b\xff"), options(strings.Repeat("long", 300)),
		begin(nil), begin(&streams.AppendReq_Options{}),
		begin(&streams.AppendReq_Options{StreamIdentifier: named("s"), ExpectedStreamRevision: &streams.AppendReq_Options_Revision{Revision: math.MaxUint64}}),
		begin(&streams.AppendReq_Options{StreamIdentifier: named("s"), ExpectedStreamRevision: &streams.AppendReq_Options_Revision{}}),
		begin(&streams.AppendReq_Options{ExpectedStreamRevision: &streams.AppendReq_Options_NoStream{NoStream: &shared.Empty{}}}),
		begin(&streams.AppendReq_Options{ExpectedStreamRevision: &streams.AppendReq_Options_StreamExists{StreamExists: &shared.Empty{}}}),
		message(nil), message(&streams.AppendReq_ProposedMessage{}),
		proposed(map[string]string{"type": "x", "content-type": "application/json"}, "{}"),
		proposed(map[string]string{"type": "", "content-type": "", "": "", "more": "x"}, ""),
		message(&streams.AppendReq_ProposedMessage{Id: structured, Metadata: map[string]string{"type": "类型"}, CustomMetadata: []byte{0, 1}, Data: bytes.Repeat([]byte{0xff}, 300)}),
		message(&streams.AppendReq_ProposedMessage{Id: &shared.UUID{Value: &shared.UUID_String_{String_: "no id"}}}),
		message(&streams.AppendReq_ProposedMessage{Id: &shared.UUID{Value: &shared.UUID_String_{}}}),
		message(&streams.AppendReq_ProposedMessage{Id: &shared.UUID{}}),
	}
}

// asProposed is what the generated types say a request is.
func asProposed(m *streams.AppendReq) (p esdbnode.Proposed) {
	switch c := m.GetContent().(type) {
	case *streams.AppendReq_Options_:
		p.Options, p.Stream = true, string(c.Options.GetStreamIdentifier().GetStreamName())
		switch e := c.Options.GetExpectedStreamRevision().(type) {
		case *streams.AppendReq_Options_Any:
			p.Expected = "-2"
		case *streams.AppendReq_Options_NoStream:
			p.Expected = "-1"
		case *streams.AppendReq_Options_StreamExists:
			p.Expected = "-4"
		case *streams.AppendReq_Options_Revision:
			p.Expected = strconv.FormatUint(e.Revision, 10)
		}
	case *streams.AppendReq_ProposedMessage_:
		p = asEvent(c.ProposedMessage)
	}
	return p
}

// An anEvent is a proposed event of either kind of append.
type anEvent interface {
	GetId() *shared.UUID
	GetMetadata() map[string]string
	GetCustomMetadata() []byte
	GetData() []byte
}

func asEvent(e anEvent) (p esdbnode.Proposed) {
	p.Event, p.Meta, p.Data, p.Kind = true, string(e.GetCustomMetadata()), string(e.GetData()), e.GetMetadata()["type"]
	kind, typed := e.GetMetadata()["content-type"]
	p.HasKind, p.Typed, p.IsJSON = p.Kind != "", typed, kind == "application/json"
	p.ID, _, p.BadID = asID(e.GetId())
	return p
}

func asID(u *shared.UUID) (id [16]byte, text, bad bool) {
	switch v := u.GetValue().(type) {
	case *shared.UUID_Structured_:
		binary.BigEndian.PutUint64(id[:8], uint64(v.Structured.GetMostSignificantBits()))
		binary.BigEndian.PutUint64(id[8:], uint64(v.Structured.GetLeastSignificantBits()))
	case *shared.UUID_String_:
		parsed, err := uuid.Parse(v.String_)
		return parsed, true, err != nil
	}
	return id, false, false
}

// FuzzBatchMessage holds the decoder of batch appends against the generated types.
func FuzzBatchMessage(f *testing.F) {
	for _, m := range oddBatches() {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, b)
		if len(b) > 0 {
			f.Add(b[:len(b)-1], b)
		}
		f.Add(append(bytes.Clone(b), b...), []byte{})
		f.Add(append(bytes.Clone(b), bytes.Repeat([]byte{99<<1 | 1, 6, 0}, 2<<10)...), b)
	}
	inOptions := func(b ...byte) []byte { return append([]byte{2<<3 | 2, byte(len(b))}, b...) }
	for _, odd := range [][]byte{
		inOptions(6<<3|2, 2, 1<<3, 5, 6<<3|2, 2, 2<<3, 7), // one moment in two pieces
		append(inOptions(6<<3|2, 2, 1<<3, 5), inOptions(6<<3|2, 2, 2<<3, 7)...),
		inOptions(6<<3|2, 2, 1<<3, 5, 7<<3|2, 2, 2<<3, 7), // a moment, and then not
		inOptions(7<<3|2, 2, 1<<3, 5, 6<<3|2, 0),
		inOptions(7<<3|2, 11, 2<<3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1), // a nanosecond ago
		inOptions(7<<3|2, 7, 2<<3, 0xff, 0xff, 0xff, 0xff, 0xff, 1),                          // more than fits
		inOptions(6<<3, 5),
		{4 << 3, 2},
		{4<<3 | 2, 1, 1},
		{3<<3 | 2, 0, 3<<3 | 2, 0},
		{1<<3 | 2, 0},
		{2<<3 | 2, 0},
		{0x0a},
		{0},
	} {
		f.Add(odd, odd)
	}
	now := time.Date(2024, 10, 1, 2, 3, 4, 5, time.UTC)
	f.Fuzz(func(t *testing.T, b, before []byte) {
		var parser esdbnode.BatchParser
		_, _ = parser.Parse(before, now)
		was := bytes.Clone(b)
		got, err := parser.Parse(b, now)
		var m streams.BatchAppendReq
		if proto.Unmarshal(b, &m) != nil {
			return // what it refuses is nobody's request
		}
		if err != nil {
			t.Fatalf("%x is refused: %v; protobuf reads %v", b, err, &m)
		}
		var echo shared.UUID
		if err = proto.Unmarshal([]byte(got.Echo), &echo); err != nil || !proto.Equal(&echo, orEmpty(m.GetCorrelationId())) {
			t.Fatalf("%x is told %v for its correlation id: %v", b, &echo, err)
		}
		got.Echo = ""
		if diff := cmp.Diff(asBatched(&m, now), got); diff != "" {
			t.Fatalf("%x (-protobuf +ours):\n%s", b, diff)
		}
		for i := range b { // gRPC uses its buffers again
			b[i] ^= 0xff
		}
		if diff := cmp.Diff(asBatched(&m, now), got); diff != "" {
			t.Fatalf("%x: what was read changed with the buffer:\n%s", was, diff)
		}
	})
}

func orEmpty(u *shared.UUID) *shared.UUID {
	if u == nil {
		return &shared.UUID{}
	}
	return u
}

func oddBatches() []*streams.BatchAppendReq {
	text := &shared.UUID{Value: &shared.UUID_String_{String_: "01020304-0506-0708-090a-0b0c0d0e0f10"}}
	structured := &shared.UUID{Value: &shared.UUID_Structured_{Structured: &shared.UUID_Structured{MostSignificantBits: -1, LeastSignificantBits: 1}}}
	event := func(id *shared.UUID, about map[string]string, data string) *streams.BatchAppendReq_ProposedMessage {
		return &streams.BatchAppendReq_ProposedMessage{Id: id, Metadata: about, Data: []byte(data), CustomMetadata: []byte("{}")}
	}
	about := map[string]string{"type": "类型", "content-type": "application/json"}
	good := event(structured, about, "{}")
	until := func(seconds int64, nanos int32) *streams.BatchAppendReq_Options {
		return &streams.BatchAppendReq_Options{
			StreamIdentifier: named("s"), ExpectedStreamPosition: &streams.BatchAppendReq_Options_Any{Any: &emptypb.Empty{}},
			DeadlineOption: &streams.BatchAppendReq_Options_Deadline_21_10_0{Deadline_21_10_0: &timestamppb.Timestamp{Seconds: seconds, Nanos: nanos}},
		}
	}
	within := func(seconds int64, nanos int32) *streams.BatchAppendReq_Options {
		return &streams.BatchAppendReq_Options{
			StreamIdentifier: named("s"), ExpectedStreamPosition: &streams.BatchAppendReq_Options_NoStream{NoStream: &emptypb.Empty{}},
			DeadlineOption: &streams.BatchAppendReq_Options_Deadline{Deadline: &durationpb.Duration{Seconds: seconds, Nanos: nanos}},
		}
	}
	all := []*streams.BatchAppendReq{
		{},
		{CorrelationId: structured},
		{CorrelationId: text, IsFinal: true},
		{CorrelationId: &shared.UUID{Value: &shared.UUID_String_{String_: "x"}}},
		{CorrelationId: &shared.UUID{}},
		{Options: &streams.BatchAppendReq_Options{}},
		{Options: &streams.BatchAppendReq_Options{ExpectedStreamPosition: &streams.BatchAppendReq_Options_StreamExists{StreamExists: &emptypb.Empty{}}}},
		{Options: &streams.BatchAppendReq_Options{StreamIdentifier: named("a\x00\xff"), ExpectedStreamPosition: &streams.BatchAppendReq_Options_StreamPosition{StreamPosition: math.MaxUint64}}},
		{CorrelationId: structured, Options: until(253402300799, 999999900), ProposedMessages: []*streams.BatchAppendReq_ProposedMessage{good, event(text, about, strings.Repeat("long", 500)), good}, IsFinal: true},
		{CorrelationId: structured, ProposedMessages: []*streams.BatchAppendReq_ProposedMessage{good, good}},
		{ProposedMessages: []*streams.BatchAppendReq_ProposedMessage{good, event(nil, about, "x"), good}},
		{ProposedMessages: []*streams.BatchAppendReq_ProposedMessage{event(structured, map[string]string{"type": "x"}, "x"), good}},
		{ProposedMessages: []*streams.BatchAppendReq_ProposedMessage{event(structured, map[string]string{"content-type": ""}, "x"), {}, good}},
	}
	for _, n := range []int64{0, 1, -1, math.MaxInt64, math.MinInt64, 62135596800, -62135596801} {
		all = append(all, &streams.BatchAppendReq{Options: until(n, 7)}, &streams.BatchAppendReq{Options: within(n, -7)}, &streams.BatchAppendReq{Options: within(n, math.MinInt32)})
	}
	return all
}

// asBatched is what the generated types say a batch append is, up to the first
// event that cannot be appended.
func asBatched(m *streams.BatchAppendReq, now time.Time) (b esdbnode.Batched) {
	b.Correlated, b.Final, b.Options = m.GetCorrelationId() != nil, m.GetIsFinal(), m.GetOptions() != nil
	b.Correlation, b.TextCorrelation, b.BadCorrelation = asID(m.GetCorrelationId())
	b.Stream = string(m.GetOptions().GetStreamIdentifier().GetStreamName())
	switch e := m.GetOptions().GetExpectedStreamPosition().(type) {
	case *streams.BatchAppendReq_Options_Any:
		b.Expected = "-2"
	case *streams.BatchAppendReq_Options_NoStream:
		b.Expected = "-1"
	case *streams.BatchAppendReq_Options_StreamExists:
		b.Expected = "-4"
	case *streams.BatchAppendReq_Options_StreamPosition:
		b.Expected = strconv.FormatUint(e.StreamPosition, 10)
	}
	const year = 365 * 24 * 3600
	switch d := m.GetOptions().GetDeadlineOption().(type) {
	case *streams.BatchAppendReq_Options_Deadline_21_10_0:
		b.Deadline = time.Unix(max(-62135596800, min(d.Deadline_21_10_0.GetSeconds(), 253402300799)), int64(d.Deadline_21_10_0.GetNanos()))
	case *streams.BatchAppendReq_Options_Deadline:
		b.Deadline = now.Add(time.Duration(max(-year, min(d.Deadline.GetSeconds(), year)))*time.Second + time.Duration(d.Deadline.GetNanos()))
	}
	for _, e := range m.GetProposedMessages() {
		p := asEvent(e)
		b.Events = append(b.Events, p)
		if !p.HasKind || !p.Typed || p.ID == [16]byte{} {
			break
		}
	}
	return b
}

// FuzzBatchSuccess has the generated types read the answers to batch appends.
func FuzzBatchSuccess(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), true, "order-1", uint64(9), uint64(77))
	f.Add([]byte{}, false, "", uint64(0), uint64(0))
	f.Add(bytes.Repeat([]byte{0xff}, 16), false, strings.Repeat("\xff", 4<<10), uint64(math.MaxUint64), uint64(math.MaxUint64))
	f.Fuzz(func(t *testing.T, correlation []byte, text bool, stream string, events, position uint64) {
		var id uuid.UUID
		copy(id[:], correlation)
		sent := &shared.UUID{Value: &shared.UUID_String_{String_: id.String()}}
		if !text {
			sent.Value = &shared.UUID_Structured_{Structured: &shared.UUID_Structured{MostSignificantBits: int64(binary.BigEndian.Uint64(id[:8])), LeastSignificantBits: int64(binary.BigEndian.Uint64(id[8:]))}}
		}
		echo, err := proto.Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		var m streams.BatchAppendResp
		if err := proto.Unmarshal(esdbnode.EncodeBatchSuccess(string(echo), stream, events, position), &m); err != nil {
			t.Fatal(err)
		}
		s := m.GetSuccess()
		at := s.GetPosition()
		if !proto.Equal(m.GetCorrelationId(), sent) || s == nil || string(m.GetStreamIdentifier().GetStreamName()) != stream ||
			len(m.ProtoReflect().GetUnknown()) > 0 || len(s.ProtoReflect().GetUnknown()) > 0 {
			t.Fatalf("%v", &m)
		}
		if (s.GetNoStream() != nil) != (events == 0) || s.GetCurrentRevision() != max(events, 1)-1 ||
			(s.GetNoPosition() != nil) != (position == 0) || at.GetCommitPosition() != position || at.GetPreparePosition() != position {
			t.Fatalf("%d events, at %d: %v", events, position, s)
		}
	})
}

func addStored(f *testing.F) {
	f.Helper()
	f.Add(uint64(1), uint64(0), int64(17e15), []byte("0123456789abcdef"), true, "order-1", "placed", `{"v":1}`, `{}`, uint32(0))
	f.Add(uint64(math.MaxUint64), uint64(math.MaxInt64), int64(math.MinInt64), []byte{}, false, "", "", "", "", uint32(77))
	f.Add(uint64(0), uint64(math.MaxUint64), int64(-1), []byte{255}, false, "\x00", "类型", strings.Repeat("m", 127), strings.Repeat("d", 128), uint32(math.MaxUint32))
	f.Add(uint64(7), uint64(7), int64(0), []byte{1}, true, strings.Repeat("s", 20000), "\xff", "", strings.Repeat("\x80", 3<<10), uint32(1<<13))
}

// FuzzFrame stores records and reads them back: all of it comes back, under its
// own position only, and not if a single bit has changed.
func FuzzFrame(f *testing.F) {
	addStored(f)
	f.Fuzz(func(t *testing.T, position, number uint64, created int64, id []byte, isJSON bool, stream, kind, meta, data string, flip uint32) {
		want := esdbnode.Stored{Position: position, Number: number, Created: created, JSON: isJSON, Stream: stream, Kind: kind, Meta: meta, Data: data}
		copy(want.ID[:], id)
		b := esdbnode.Frame(want)
		got, err := esdbnode.Unframe(position, b)
		if err != nil || got != want {
			t.Fatalf("%+v came back as %+v, %v", want, got, err)
		}
		if got, err := esdbnode.Unframe(position+1, b); err == nil {
			t.Fatalf("%+v was read at another position as %+v", want, got)
		}
		bit := int(flip) % (8 * len(b))
		b[bit/8] ^= 1 << (bit % 8)
		if got, err := esdbnode.Unframe(position, b); err == nil {
			t.Fatalf("%+v with bit %d flipped was read as %+v", want, bit, got)
		}
		b[bit/8] ^= 1 << (bit % 8)
		if got, err := esdbnode.Unframe(position, b[:bit/8]); err == nil {
			t.Fatalf("%+v cut at %d was read as %+v", want, bit/8, got)
		}
	})
}

// FuzzFrameOfAnything reads what nobody has stored, behind a checksum that fits.
func FuzzFrameOfAnything(f *testing.F) {
	for _, s := range []esdbnode.Stored{{}, {Position: 7, Stream: "s", Kind: "k", Meta: "m", Data: "d"}, {Stream: strings.Repeat("s", 300)}} {
		b := esdbnode.Frame(s)
		f.Add(s.Position, b)
		for _, n := range []byte{0x7f, 0x80, 0xff} {
			for at := 38; at < len(b); at += 60 {
				odd := bytes.Clone(b)
				odd[at] = n
				f.Add(s.Position, odd)
			}
		}
	}
	for n := range 4 { // a name that ends where the frame does, or a little behind it
		b := esdbnode.Frame(esdbnode.Stored{Position: 7, Stream: "stream", Data: "data"})
		b[38] = byte(len(b) - 39 + n - 1)
		f.Add(uint64(7), b)
	}
	f.Add(uint64(1), []byte{})
	f.Add(uint64(1), append(make([]byte, 38), bytes.Repeat([]byte{0xff}, 30)...))
	f.Fuzz(func(t *testing.T, position uint64, b []byte) {
		_, _ = esdbnode.Unframe(position, b)
		esdbnode.Seal(position, b)
		got, err := esdbnode.Unframe(position, b)
		if size := len(got.Stream) + len(got.Kind) + len(got.Meta) + len(got.Data); size > len(b) {
			t.Fatalf("%d bytes were made of %d", size, len(b))
		}
		if err != nil {
			return
		}
		if again, err := esdbnode.Unframe(position, esdbnode.Frame(got)); err != nil || again != got {
			t.Fatalf("%+v came back as %+v, %v", got, again, err)
		}
	})
}

// FuzzHead reads heads of streams, stored ones and others.
func FuzzHead(f *testing.F) {
	f.Add(uint64(3), uint64(9), uint64(1), uint64(5), uint64(1), int64(time.Hour), true, []byte{1, 0, 1, 2, 3, 4, 5})
	f.Add(uint64(math.MaxUint64), uint64(math.MaxUint64), uint64(math.MaxInt64), uint64(0), uint64(math.MaxUint64), int64(math.MaxInt64), false, []byte{1, 2, 1, 2, 3, 4, 5})
	f.Add(uint64(0), uint64(0), uint64(0), uint64(0), uint64(0), int64(0), false, bytes.Repeat([]byte{0xff}, 70))
	f.Add(uint64(0), uint64(0), uint64(0), uint64(0), uint64(0), int64(0), false, []byte{})
	f.Fuzz(func(t *testing.T, events, position, before, maxCount, scavenged uint64, age int64, tombstone bool, odd []byte) {
		b := esdbnode.Head(events, position, before, maxCount, scavenged, time.Duration(max(age, 0)), tombstone)
		again, err := esdbnode.Rehead(b)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x came back as %x, %v", b, again, err)
		}
		for n := range b {
			if _, err := esdbnode.Rehead(b[:n]); err == nil {
				t.Fatalf("%x cut at %d was read", b, n)
			}
		}
		if once, err := esdbnode.Rehead(odd); err == nil {
			if twice, err := esdbnode.Rehead(once); err != nil || !bytes.Equal(once, twice) {
				t.Fatalf("%x was read as %x, that as %x, %v", odd, once, twice, err)
			}
		}
	})
}

// FuzzMetadata reads metadata of streams, and gives it another $tb: all else in
// it stays.
func FuzzMetadata(f *testing.F) {
	for _, m := range []string{
		`{"$maxCount":3,"$maxAge":60,"$tb":5,"$acl":{"$r":["a","$all"]},"colour":"green"}`, `{"$tb":9223372036854775807}`,
		`{"$tb":9223372036854775808}`, `{"$tb":1e30}`, `{"$tb":1.0}`, `{"$tb":-1}`, `{"$tb":"5"}`, `{"$tb":null}`, `{"$TB":5,"$MAXCOUNT":1}`,
		`{"$maxAge":9223372036854775807}`, `{"$tb":1,"$tb":2}`, `{"a":1e400,"b":"\u0000\ud800","c":"<>&"}`, `{"":{}}`,
		``, `null`, `[]`, `5`, `not json`, `{`, `{}{}`, strings.Repeat(`{"a":`, 200) + `1` + strings.Repeat(`}`, 200), "{\"a\":\"\xff\"}",
	} {
		f.Add(m, uint64(7))
	}
	f.Add(`{}`, uint64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, metadata string, before uint64) {
		before &= math.MaxInt64
		esdbnode.Limits(metadata)
		out := esdbnode.WithTruncateBefore(metadata, before)
		want, ok := object(metadata)
		if !ok {
			want = map[string]any{}
		}
		want["$tb"] = json.Number(strconv.FormatUint(before, 10))
		got, ok := object(out)
		if !ok || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q became %q: %v, want %v", metadata, out, got, want)
		}
		delete(want, "$maxCount")
		delete(want, "$maxAge")
		rest, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if tb, count, age := esdbnode.Limits(string(rest)); tb != before || count != 0 || age != 0 {
			t.Fatalf("%s limits to %d, %d, %v", rest, tb, count, age)
		}
	})
}

func object(s string) (m map[string]any, ok bool) {
	if !json.Valid([]byte(s)) {
		return nil, false
	}
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	err := d.Decode(&m)
	return m, err == nil && m != nil
}

// FuzzCredentials holds the reading of credentials against net/http's.
func FuzzCredentials(f *testing.F) {
	right := base64.StdEncoding.EncodeToString([]byte("admin:changeit"))
	for _, sent := range []string{"Basic " + right, "bAsIc " + right, "Basic", "Basic ", "", right, "Basic " + right + "=", "Basic  " + right, "Bearer " + right, "Basic " + right[:5] + "\n" + right[5:], "\xff\xfe"} {
		f.Add(sent)
	}
	for _, text := range []string{"admin", ":", "admin:", ":changeit", "admin:changeit:", "admin:changeit\x00", strings.Repeat("a", 1<<16)} {
		f.Add("Basic " + base64.StdEncoding.EncodeToString([]byte(text)))
	}
	f.Fuzz(func(t *testing.T, sent string) {
		request := http.Request{Header: http.Header{"Authorization": {sent}}}
		user, password, ok := request.BasicAuth()
		want := ok && user == "admin" && password == "changeit"
		if got := esdbnode.Knows("admin", "changeit", sent); got != want {
			t.Fatalf("%q: %v, want %v", sent, got, want)
		}
		if esdbnode.Knows("admin", "changeit", sent, sent) {
			t.Fatalf("%q, twice, was let in", sent)
		}
	})
}

// FuzzFilter chooses events by patterns and prefixes nobody would think of.
func FuzzFilter(f *testing.F) {
	f.Add("order-1", "placed", "", "order-", uint32(1), uint32(0), false)
	f.Add("$$s", "$metadata", `^[^\$].*`, "", uint32(1), uint32(math.MaxUint32), true)
	f.Add("s", "k", `(`, "", uint32(1), uint32(1), true)
	f.Add("s", "k", `(((a{100}){100}){100})`, "", uint32(1), uint32(1), true)
	f.Add("s", "k", `\pN*(?i:x)\C`, "", uint32(math.MaxUint32), uint32(1), true)
	f.Add("\xff\x00", "", `\x{10FFFF}|^$`, "\xff", uint32(0), uint32(1), false)
	f.Add("s", "k", strings.Repeat("a?", 3<<10), "s", uint32(1), uint32(1), false)
	f.Fuzz(func(t *testing.T, stream, kind, pattern, prefix string, multiplier, window uint32, byKind bool) {
		e := &streams.ReadReq_Options_FilterOptions_Expression{Regex: pattern, Prefix: []string{prefix}}
		o := &streams.ReadReq_Options_FilterOptions{
			CheckpointIntervalMultiplier: multiplier, Window: &streams.ReadReq_Options_FilterOptions_Max{Max: window},
			Filter: &streams.ReadReq_Options_FilterOptions_StreamIdentifier{StreamIdentifier: e},
		}
		name := stream
		if byKind {
			o.Filter, name = &streams.ReadReq_Options_FilterOptions_EventType{EventType: e}, kind
		}
		through, err := esdbnode.Filter(o, esdbnode.Stored{Stream: stream, Kind: kind})
		expression, bad := regexp.Compile(pattern)
		if refused := err != nil; refused != (multiplier == 0 || bad != nil || len(pattern) > 4<<10) {
			t.Fatalf("%q: %v", pattern, err)
		}
		want := strings.HasPrefix(name, prefix)
		if pattern != "" && bad == nil {
			want = expression.MatchString(name)
		}
		if err == nil && through != want {
			t.Fatalf("pattern %q, prefix %q, %q: %v", pattern, prefix, name, through)
		}
	})
}

// FuzzEventMessage holds what readers are sent against what the generated types
// read in it.
func FuzzEventMessage(f *testing.F) {
	addStored(f)
	f.Fuzz(func(t *testing.T, position, number uint64, created int64, id []byte, isJSON bool, stream, kind, meta, data string, how uint32) {
		if !utf8.ValidString(kind) {
			return // never stored: TestNamesThatCannotBeToldAreRefused
		}
		s := esdbnode.Stored{Position: position, Number: number, Created: created, JSON: isJSON, Stream: stream, Kind: kind, Meta: meta, Data: data}
		copy(s.ID[:], id)
		link := s
		link.Position, link.Kind, link.Data = position^1, "$>", "1@s"
		event, from, textIDs := &s, &link, how&1 != 0
		if how&2 != 0 {
			event = nil
		}
		if how&4 != 0 && event != nil {
			from = nil
		}
		var m streams.ReadResp
		if err := proto.Unmarshal(esdbnode.EncodeEvent(event, from, textIDs), &m); err != nil {
			t.Fatal(err)
		}
		got := m.GetEvent()
		at := position
		if from != nil {
			at = from.Position
		}
		if got == nil || len(m.ProtoReflect().GetUnknown()) > 0 || got.GetCommitPosition() != at {
			t.Fatalf("%v", &m)
		}
		wantSent(t, event, got.GetEvent(), textIDs)
		wantSent(t, from, got.GetLink(), textIDs)
	})
}

func wantSent(t *testing.T, want *esdbnode.Stored, got *streams.ReadResp_ReadEvent_RecordedEvent, textIDs bool) {
	t.Helper()
	if want == nil || got == nil {
		if want != nil || got != nil {
			t.Fatalf("got %v for %+v", got, want)
		}
		return
	}
	id := uuid.UUID(want.ID)
	half := got.GetId().GetStructured()
	same := got.GetId().GetString_() == id.String()
	if !textIDs {
		same = uint64(half.GetMostSignificantBits()) == binary.BigEndian.Uint64(id[:8]) && uint64(half.GetLeastSignificantBits()) == binary.BigEndian.Uint64(id[8:])
	}
	kind := map[bool]string{true: "application/json", false: "application/octet-stream"}[want.JSON]
	about := map[string]string{"type": want.Kind, "content-type": kind, "created": strconv.FormatInt(want.Created, 10)}
	if !same || !cmp.Equal(about, got.GetMetadata()) || string(got.GetStreamIdentifier().GetStreamName()) != want.Stream ||
		got.GetStreamRevision() != want.Number || got.GetPreparePosition() != want.Position || got.GetCommitPosition() != want.Position ||
		string(got.GetCustomMetadata()) != want.Meta || string(got.GetData()) != want.Data || len(got.ProtoReflect().GetUnknown()) > 0 {
		t.Fatalf("got %v for %+v", got, want)
	}
}
