package esdbnode_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"cartwright/infra/esdbnode"
	"cartwright/infra/tlstest"
)

// wantServed expects that the node serves somebody else as if nothing were.
func wantServed(t *testing.T, uri string) {
	t.Helper()
	client := dial(t, uri)
	write(t, client, "somebody-else", 2)
	got, err := readAll(t.Context(), client, "somebody-else", esdb.ReadStreamOptions{Direction: esdb.Backwards, From: esdb.End{}}, 2)
	if err != nil || len(got) != 2 {
		t.Fatalf("somebody else reads %v, %v", got, err)
	}
}

// raw is a connection without any protocol.
func raw(t *testing.T, uri string) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "unix", strings.TrimPrefix(uri, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// The parts of HTTP/2 that are sent by hand.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

func frame(kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	b := []byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// post is the headers of a call, in the plainest form HPACK has.
func post(path string) (b []byte) {
	for _, h := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", path},
		{":authority", "x"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
	} {
		b = append(b, 0, byte(len(h[0])))
		b = append(append(b, h[0]...), byte(len(h[1])))
		b = append(b, h[1]...)
	}
	return b
}

const appendPath = "/event_store.client.streams.Streams/Append"

// reset begins calls and takes them back at once.
func reset(calls int) []byte {
	b := append([]byte(preface), frame(4, 0, 0, nil)...)
	for n := range uint32(calls) {
		b = append(append(b, frame(1, 4, 2*n+1, post(appendPath))...), frame(3, 0, 2*n+1, []byte{0, 0, 0, 8})...)
	}
	return b
}

func TestGarbageOnTheSocketHarmsNobody(t *testing.T) {
	r := start(t, esdbnode.Options{})
	noise := make([]byte, 64<<10)
	_, _ = rand.Read(noise)
	settings := frame(4, 0, 0, nil)
	for name, sent := range map[string][]byte{
		"nothing":                    nil,
		"noise":                      noise,
		"HTTP/1.1":                   []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"half a preface":             []byte(preface[:12]),
		"a preface and noise":        append([]byte(preface), noise...),
		"a frame of 16 MiB":          append([]byte(preface+string(settings)), 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1),
		"settings that are cut":      []byte(preface + string(frame(4, 0, 0, []byte{0, 5}))),
		"settings of a stream":       []byte(preface + string(frame(4, 0, 7, nil))),
		"headers that are none":      []byte(preface + string(settings) + string(frame(1, 4, 1, noise[:900]))),
		"data without headers":       []byte(preface + string(settings) + string(frame(0, 0, 5, noise[:900]))),
		"data of no stream":          []byte(preface + string(settings) + string(frame(0, 0, 0, noise[:900]))),
		"a window of too much":       []byte(preface + string(settings) + strings.Repeat(string(frame(8, 0, 0, []byte{0x7f, 0xff, 0xff, 0xff})), 3)),
		"a stream of an even number": []byte(preface + string(settings) + string(frame(1, 4, 2, post(appendPath)))),
		"a call of nothing":          []byte(preface + string(settings) + string(frame(1, 4, 1, post("/nothing")))),
		"headers without an end":     []byte(preface + string(settings) + string(frame(1, 0, 1, post(appendPath))) + strings.Repeat(string(frame(9, 0, 1, noise[:1000])), 200)),
		"a message longer than said": []byte(preface + string(settings) + string(frame(1, 4, 1, post(appendPath))) + string(frame(0, 1, 1, []byte{0, 0, 0, 0, 1, 7, 7, 7}))),
		"a message of 4 GiB":         []byte(preface + string(settings) + string(frame(1, 4, 1, post(appendPath))) + string(frame(0, 0, 1, []byte{0, 0xff, 0xff, 0xff, 0xff, 7}))),
		"a message that is pressed":  []byte(preface + string(settings) + string(frame(1, 4, 1, post(appendPath))) + string(frame(0, 1, 1, []byte{1, 0, 0, 0, 1, 7}))),
		"calls begun and reset":      reset(500),
	} {
		conn := raw(t, r.uri)
		if _, err := conn.Write(sent); err != nil && !errors.Is(err, io.ErrClosedPipe) && !strings.Contains(err.Error(), "broken pipe") && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: %v", name, err)
		}
		wantServed(t, r.uri)
		if err := conn.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAMessageThatIsNoneIsRefused sends well framed calls with bytes that are no
// message of theirs.
func TestAMessageThatIsNoneIsRefused(t *testing.T) {
	r := start(t, esdbnode.Options{})
	conn := dialed(t, r.uri)
	for _, method := range []string{"Append", "Read", "Delete", "Tombstone"} {
		for _, b := range [][]byte{{0xff}, {0x0a}, {0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}, bytes.Repeat([]byte{0x0b}, 1000), {0}} {
			call, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/event_store.client.streams.Streams/"+method, grpc.ForceCodec(asIs{}))
			if err != nil {
				t.Fatal(err)
			}
			if err = errors.Join(call.SendMsg(b), call.CloseSend()); err != nil {
				t.Fatal(err)
			}
			var answer []byte
			if err := call.RecvMsg(&answer); status.Code(err) != codes.Internal {
				t.Errorf("%s of %x: %v", method, b[:1], err)
			}
		}
	}
	wantServed(t, r.uri)
}

func dialed(t *testing.T, uri string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(uri, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// asIs is a codec that sends bytes.
type asIs struct{}

func (asIs) Name() string                  { return "proto" }
func (asIs) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (asIs) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(b)
	return nil
}

func TestTLSAndPlainDoNotMix(t *testing.T) {
	ca := tlstest.New(t)
	_, secure := through(t, esdbnode.Door{TLS: ca.ServerConfig(), Users: map[string]string{"admin": "changeit"}})
	_, plain := through(t, esdbnode.Door{})
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: ca.Pool, MinVersion: tls.VersionTLS12}}
	if conn, err := dialer.DialContext(t.Context(), "tcp", plain); err == nil {
		_ = conn.Close()
		t.Error("a plain port shook hands with TLS")
	}
	for name, sent := range map[string]string{"HTTP/2": preface + string(frame(4, 0, 0, nil)), "HTTP/1.1": "GET / HTTP/1.1\r\n\r\n"} {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", secure)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write([]byte(sent)); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(conn); err != nil || bytes.Contains(answer, frame(4, 1, 0, nil)) {
			t.Errorf("%s without TLS: %q, %v", name, answer, err)
		}
		_ = conn.Close()
	}
	wantServed(t, plain)
	official := official(t, "esdb://admin:changeit@"+secure+"?tlsCAFile="+ca.CAFile)
	write(t, official, "s", 1)
}

// answerOf reads what a read is answered with, up to where it catches up.
func answerOf(t *testing.T, stub streams.StreamsClient, o *streams.ReadReq_Options) (events int, last *streams.ReadResp, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	call, err := stub.Read(ctx, &streams.ReadReq{Options: o})
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := call.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return events, last, nil
		case err != nil:
			return events, last, err
		}
		if last = m; m.GetEvent() != nil {
			events++
		}
		if m.GetCaughtUp() != nil {
			return events, last, nil
		}
	}
}

func TestAbsurdNumbersAreAnswered(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client, stub := dialBoth(t, r.uri)
	write(t, client, "s", 3)
	backwards := streams.ReadReq_Options_Backwards
	one := func(revision uint64) *streams.ReadReq_Options_Stream {
		return &streams.ReadReq_Options_Stream{Stream: &streams.ReadReq_Options_StreamOptions{
			StreamIdentifier: named("s"), RevisionOption: &streams.ReadReq_Options_StreamOptions_Revision{Revision: revision},
		}}
	}
	all := func(position uint64) *streams.ReadReq_Options_All {
		return &streams.ReadReq_Options_All{All: &streams.ReadReq_Options_AllOptions{
			AllOption: &streams.ReadReq_Options_AllOptions_Position{Position: &streams.ReadReq_Options_Position{CommitPosition: position, PreparePosition: ^position}},
		}}
	}
	count := func(n uint64) *streams.ReadReq_Options_Count { return &streams.ReadReq_Options_Count{Count: n} }
	subscription := &streams.ReadReq_Options_Subscription{}
	filter := func(window, multiplier uint32) *streams.ReadReq_Options_Filter {
		return &streams.ReadReq_Options_Filter{Filter: &streams.ReadReq_Options_FilterOptions{
			CheckpointIntervalMultiplier: multiplier, Window: &streams.ReadReq_Options_FilterOptions_Max{Max: window},
			Filter: &streams.ReadReq_Options_FilterOptions_EventType{EventType: &streams.ReadReq_Options_FilterOptions_Expression{Prefix: []string{"w"}}},
		}}
	}
	for name, c := range map[string]struct {
		options *streams.ReadReq_Options
		want    int
	}{
		"a count of 2^64-1":                       {&streams.ReadReq_Options{StreamOption: one(0), CountOption: count(math.MaxUint64)}, 3},
		"a count of 2^63":                         {&streams.ReadReq_Options{StreamOption: all(0), CountOption: count(1 << 63)}, 3},
		"revision 2^64-1":                         {&streams.ReadReq_Options{StreamOption: one(math.MaxUint64), CountOption: count(9)}, 0},
		"revision 2^64-1 backwards":               {&streams.ReadReq_Options{StreamOption: one(math.MaxUint64), CountOption: count(9), ReadDirection: backwards}, 3},
		"revision 2^63-1":                         {&streams.ReadReq_Options{StreamOption: one(math.MaxInt64), CountOption: count(9)}, 0},
		"position 2^64-1":                         {&streams.ReadReq_Options{StreamOption: all(math.MaxUint64), CountOption: count(9)}, 0},
		"position 2^64-1 backwards":               {&streams.ReadReq_Options{StreamOption: all(math.MaxUint64), CountOption: count(9), ReadDirection: backwards}, 3},
		"position 0 backwards":                    {&streams.ReadReq_Options{StreamOption: all(0), CountOption: count(9), ReadDirection: backwards}, 0},
		"a subscription from revision 2^64-1":     {&streams.ReadReq_Options{StreamOption: one(math.MaxUint64), CountOption: subscription}, 0},
		"a subscription from position 2^64-1":     {&streams.ReadReq_Options{StreamOption: all(math.MaxUint64), CountOption: subscription}, 0},
		"a subscription from position 0":          {&streams.ReadReq_Options{StreamOption: all(0), CountOption: subscription}, 3},
		"a window of 2^32-1 times 2^32-1":         {&streams.ReadReq_Options{StreamOption: all(0), CountOption: subscription, FilterOption: filter(math.MaxUint32, math.MaxUint32)}, 3},
		"a window of 0":                           {&streams.ReadReq_Options{StreamOption: all(0), CountOption: subscription, FilterOption: filter(0, 1)}, 3},
		"a read with a window and without a need": {&streams.ReadReq_Options{StreamOption: all(0), CountOption: count(math.MaxUint64), FilterOption: filter(1, math.MaxUint32)}, 3},
	} {
		if got, last, err := answerOf(t, stub, c.options); err != nil || got != c.want {
			t.Errorf("%s: %d events, the last answer %v, %v", name, got, last, err)
		}
	}
	for expect, want := range map[uint64]codes.Code{
		math.MaxInt64: codes.OK, math.MaxInt64 - 1: codes.OK, math.MaxInt64 + 1: codes.InvalidArgument, math.MaxUint64 - 1: codes.InvalidArgument,
	} {
		o := options("s")
		o.GetOptions().ExpectedStreamRevision = &streams.AppendReq_Options_Revision{Revision: expect}
		call, err := stub.Append(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err = errors.Join(call.Send(o), call.Send(proposed(map[string]string{"type": "x", "content-type": "x"}, ""))); err != nil {
			t.Fatal(err)
		}
		if res, err := call.CloseAndRecv(); status.Code(err) != want || want == codes.OK && res.GetWrongExpectedVersion().GetExpectedRevision() != expect {
			t.Errorf("expecting %d: %v, %v", expect, res, err)
		}
	}
	for _, odd := range []string{`{"$tb":1e30}`, `{"$tb":9223372036854775808}`, `{"$maxCount":-1}`, `{"$maxAge":9223372036854775807}`, `{"$tb":"2"}`, `{"$TB":2}`} {
		appendTo(t, client, "$$s", esdb.Any{}, esdb.EventData{EventID: newID(), EventType: "$metadata", ContentType: esdb.ContentTypeJson, Data: []byte(odd)})
		if got, err := readAll(t.Context(), client, "s", esdb.ReadStreamOptions{}, 9); err != nil || len(got) != 3 {
			t.Errorf("%s: %d events, %v", odd, len(got), err)
		}
	}
}

func TestNamesThatCannotBeToldAreRefused(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client, stub := dialBoth(t, r.uri)
	good := map[string]string{"type": "x", "content-type": "application/json"}
	for name, c := range map[string]struct {
		stream string
		want   codes.Code
	}{
		"empty":                    {"", codes.InvalidArgument},
		"$all":                     {"$all", codes.InvalidArgument},
		"metadata of nothing":      {"$$", codes.InvalidArgument},
		"metadata of metadata":     {"$$$$s", codes.InvalidArgument},
		"NUL":                      {"a\x00b", codes.InvalidArgument},
		"no UTF-8":                 {"a\xffb", codes.InvalidArgument},
		"half a letter":            {"a" + "é"[:1], codes.InvalidArgument},
		"1 MiB":                    {strings.Repeat("a", 1<<20), codes.InvalidArgument},
		"4 KiB and a byte":         {strings.Repeat("a", 4<<10+1), codes.InvalidArgument},
		"4 KiB":                    {strings.Repeat("a", 4<<10), codes.OK},
		"metadata of 4 KiB":        {"$$" + strings.Repeat("a", 4<<10), codes.OK},
		"spaces":                   {" a b ", codes.OK},
		"only a space":             {" ", codes.OK},
		"an at":                    {"0@a", codes.OK},
		"lines":                    {"a\r\nb\tc", codes.OK},
		"a path":                   {"../../a%2f", codes.OK},
		"one dollar":               {"$", codes.OK},
		"a system stream":          {"$order-1", codes.OK},
		"three dollars":            {"$$$settings", codes.OK},
		"another script":           {"订单-1", codes.OK},
		"what is not yet a letter": {"\U0010ffff", codes.OK},
	} {
		if _, err := rawAppend(t, stub, options(c.stream), proposed(good, "{}")); status.Code(err) != c.want {
			t.Errorf("%s: append: %v", name, err)
		}
		for _, backwards := range []streams.ReadReq_Options_ReadDirection{0, 1} {
			got, last, err := answerOf(t, stub, &streams.ReadReq_Options{
				StreamOption: &streams.ReadReq_Options_Stream{Stream: &streams.ReadReq_Options_StreamOptions{
					StreamIdentifier: named(c.stream), RevisionOption: &streams.ReadReq_Options_StreamOptions_Revision{Revision: math.MaxInt64 * uint64(backwards)},
				}},
				CountOption: &streams.ReadReq_Options_Count{Count: 1}, ReadDirection: backwards,
			})
			switch {
			case c.want == codes.OK && (err != nil || got != 1 || string(last.GetEvent().GetEvent().GetStreamIdentifier().GetStreamName()) != c.stream):
				t.Errorf("%s: read: %v, %v", name, last, err)
			case c.want != codes.OK && err == nil && last.GetStreamNotFound() == nil:
				t.Errorf("%s: read: %v", name, last)
			case err != nil && status.Code(err) != codes.InvalidArgument:
				t.Errorf("%s: read: %v", name, err)
			}
		}
		o := &streams.DeleteReq_Options{StreamIdentifier: named(c.stream), ExpectedStreamRevision: &streams.DeleteReq_Options_Any{Any: &shared.Empty{}}}
		want := c.want
		if strings.HasPrefix(c.stream, "$$") {
			want = codes.InvalidArgument // metadata goes with its stream
		}
		if _, err := stub.Delete(t.Context(), &streams.DeleteReq{Options: o}); status.Code(err) != want {
			t.Errorf("%s: delete: %v", name, err)
		}
		var trailer metadata.MD
		bury := &streams.TombstoneReq_Options{StreamIdentifier: named(c.stream), ExpectedStreamRevision: &streams.TombstoneReq_Options_Revision{Revision: 99}}
		_, err := stub.Tombstone(t.Context(), &streams.TombstoneReq{Options: bury}, grpc.Trailer(&trailer))
		if want == codes.OK && (status.Code(err) != codes.FailedPrecondition || first(trailer, "stream-name") == "") {
			t.Errorf("%s: tombstone: %v, %v", name, err, trailer)
		}
	}
	for name, m := range map[string]*streams.AppendReq{
		"a type that is no UTF-8": raising(proposed(good, "{}"), append([]byte{1<<3 | 2, 4}, "type\x12\x01\xff"...)),
		"a type of 1 MiB":         proposed(map[string]string{"type": strings.Repeat("x", 1<<19), "content-type": "x"}, ""),
		"no id":                   {Content: &streams.AppendReq_ProposedMessage_{ProposedMessage: &streams.AppendReq_ProposedMessage{Metadata: good}}},
		"an id of zeros":          {Content: &streams.AppendReq_ProposedMessage_{ProposedMessage: &streams.AppendReq_ProposedMessage{Metadata: good, Id: &shared.UUID{Value: &shared.UUID_Structured_{}}}}},
		"an empty id":             {Content: &streams.AppendReq_ProposedMessage_{ProposedMessage: &streams.AppendReq_ProposedMessage{Metadata: good, Id: &shared.UUID{Value: &shared.UUID_String_{}}}}},
		"half an id":              {Content: &streams.AppendReq_ProposedMessage_{ProposedMessage: &streams.AppendReq_ProposedMessage{Metadata: good, Id: &shared.UUID{Value: &shared.UUID_String_{String_: "0123456789abcdef"}}}}},
	} {
		if _, err := rawAppend(t, stub, options("s"), m); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := log(t.Context(), client, esdb.ReadAllOptions{}); err != nil || len(got) == 0 {
		t.Errorf("the whole log can be read: %d events, %v", len(got), err)
	}
}

// raising adds an entry to the metadata of a proposed event, as raw bytes.
func raising(m *streams.AppendReq, entry []byte) *streams.AppendReq {
	p := m.GetProposedMessage()
	p.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), entry))
	return m
}

func TestADeletionThatExpectsNothingIsRefused(t *testing.T) {
	client, stub := dialBoth(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 1) // revision 0 is what a missing number would be taken for
	_, deleted := stub.Delete(t.Context(), &streams.DeleteReq{Options: &streams.DeleteReq_Options{StreamIdentifier: named("s")}})
	_, ended := stub.Tombstone(t.Context(), &streams.TombstoneReq{Options: &streams.TombstoneReq_Options{StreamIdentifier: named("s")}})
	_, nothing := stub.Delete(t.Context(), &streams.DeleteReq{})
	for call, err := range map[string]error{"delete": deleted, "tombstone": ended, "nothing": nothing} {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", call, err)
		}
	}
}

// TestAnAppendWithoutEndIsEnded sends for ever what was refused long ago, and
// what was not.
func TestAnAppendWithoutEndIsEnded(t *testing.T) {
	r := start(t, esdbnode.Options{MaxAppend: 64 << 10})
	_, stub := dialBoth(t, r.uri)
	event := proposed(map[string]string{"type": "x", "content-type": "application/json"}, strings.Repeat("x", 64<<10))
	empty := proposed(map[string]string{"type": "x", "content-type": "application/json"}, "")
	nothing := &streams.AppendReq{}
	for name, c := range map[string]struct {
		first *streams.AppendReq
		then  *streams.AppendReq
		want  string
	}{
		"too much":            {options("s"), event, "maximum-append-size-exceeded"},
		"too many":            {options("s"), empty, "maximum-append-size-exceeded"},
		"not allowed":         {options("$all"), event, ""},
		"nothing, many times": {options("s"), nothing, ""},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		var trailer metadata.MD
		call, err := stub.Append(ctx, grpc.Trailer(&trailer))
		if err != nil {
			t.Fatal(err)
		}
		before := heap()
		for err = call.Send(c.first); err == nil; {
			err = call.Send(c.then)
		}
		if held := int64(heap()) - int64(before); held > 64<<20 {
			t.Errorf("%s: %d MiB are held", name, held>>20)
		}
		_, err = call.CloseAndRecv()
		if status.Code(err) != codes.InvalidArgument || first(trailer, "exception") != c.want {
			t.Errorf("%s: %v, %v", name, err, trailer)
		}
		cancel()
	}
	wantServed(t, r.uri)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestAMessageThatIsTooLongIsRefused(t *testing.T) {
	r := start(t, esdbnode.Options{})
	_, stub := dialBoth(t, r.uri)
	call, err := stub.Append(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err = call.Send(options("s")); err != nil {
		t.Fatal(err)
	}
	// The client may learn of the refusal while it still sends.
	err = call.Send(proposed(map[string]string{"type": "x", "content-type": "application/json"}, strings.Repeat("x", 18<<20)))
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if _, err := call.CloseAndRecv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v", err)
	}
	wantServed(t, r.uri)
}

// TestWhatIsSentBesideAnEventIsNotKept pads small events with what no field knows.
func TestWhatIsSentBesideAnEventIsNotKept(t *testing.T) {
	_, stub := dialBoth(t, start(t, esdbnode.Options{}).uri)
	padding := protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), make([]byte, 2<<20))
	before := heap()
	for range 64 {
		begin, event := options("s"), proposed(map[string]string{"type": "x", "content-type": "application/json"}, "{}")
		begin.ProtoReflect().SetUnknown(padding)
		event.ProtoReflect().SetUnknown(padding)
		if _, err := rawAppend(t, stub, begin, event); err != nil {
			t.Fatal(err)
		}
	}
	if held := int64(heap()) - int64(before); held > 32<<20 {
		t.Errorf("%d MiB are held for 64 small events", held>>20)
	}
}

// TestTenThousandCallsOfOneClient opens subscriptions and appends and never ends
// them: the node takes as many as it allows, the rest wait with the client, and
// others are served.
// TestAMessageTakesNoMoreMemoryThanItHasBytes: two bytes are an event without
// anything in it, and a message may have millions of them.
func TestAMessageTakesNoMoreMemoryThanItHasBytes(t *testing.T) {
	b := bytes.Repeat([]byte{3<<3 | 2, 0}, 8<<20)
	var parser esdbnode.BatchParser
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := parser.Parse(b, time.Now())
	runtime.ReadMemStats(&after)
	if err != nil || len(got.Events) != 1 {
		t.Errorf("%d events, %v", len(got.Events), err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 2*uint64(len(b)) {
		t.Errorf("%d bytes were made of %d", took, len(b))
	}
}

func TestTenThousandCallsOfOneClient(t *testing.T) {
	r := start(t, esdbnode.Options{})
	greedy := stubs(t, r.uri)
	before := heap()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var open, confirmed atomic.Int64
	var wg sync.WaitGroup
	for n := range 10_000 {
		wg.Go(func() {
			if n%2 == 0 {
				call, err := greedy.Append(ctx)
				if err != nil {
					return
				}
				open.Add(1)
				_ = call.Send(options("half"))
				_ = call.Send(proposed(map[string]string{"type": "x", "content-type": "application/json"}, strings.Repeat("x", 1<<10)))
				<-ctx.Done()
				return
			}
			call, err := greedy.Read(ctx, &streams.ReadReq{Options: &streams.ReadReq_Options{
				StreamOption: &streams.ReadReq_Options_All{All: &streams.ReadReq_Options_AllOptions{}}, CountOption: &streams.ReadReq_Options_Subscription{},
			}})
			if err != nil {
				return
			}
			open.Add(1)
			if _, err := call.Recv(); err == nil {
				confirmed.Add(1)
			}
			<-ctx.Done()
		})
	}
	for deadline := time.Now().Add(patience); confirmed.Load() < 100 || open.Load() < 900; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d calls were opened, %d subscriptions confirmed", open.Load(), confirmed.Load())
		}
	}
	wantServed(t, r.uri)
	if n := open.Load(); n > 1100 {
		t.Errorf("%d calls are open", n)
	}
	if held := int64(heap()) - int64(before); held > 256<<20 {
		t.Errorf("%d MiB are held", held>>20)
	}
	cancel()
	wg.Wait()
	wantServed(t, r.uri)
	if got, err := readAll(t.Context(), dial(t, r.uri), "half", esdb.ReadStreamOptions{}, 9); codeOf(err) != esdb.ErrorCodeResourceNotFound {
		t.Errorf("what was half sent is there: %v, %v", got, err)
	}
}

// TestClientsThatVanishLeaveNothing cuts the connection in the middle of appends
// and reads.
func TestClientsThatVanishLeaveNothing(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client := dial(t, r.uri)
	const each = 200
	for range 5 {
		write(t, client, "long", each)
	}
	for range 20 {
		conn := dialed(t, r.uri)
		stub := streams.NewStreamsClient(conn)
		call, err := stub.Append(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err = errors.Join(call.Send(options("half")), call.Send(proposed(map[string]string{"type": "x", "content-type": "application/json"}, "{}"))); err != nil {
			t.Fatal(err)
		}
		for _, option := range []any{&streams.ReadReq_Options_Count{Count: math.MaxUint64}, &streams.ReadReq_Options_Subscription{}} {
			o := &streams.ReadReq_Options{StreamOption: &streams.ReadReq_Options_All{All: &streams.ReadReq_Options_AllOptions{}}}
			switch c := option.(type) {
			case *streams.ReadReq_Options_Count:
				o.CountOption = c
			case *streams.ReadReq_Options_Subscription:
				o.CountOption = c
			}
			read, err := stub.Read(t.Context(), &streams.ReadReq{Options: o})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := read.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	wantServed(t, r.uri)
	if got, err := readAll(t.Context(), client, "half", esdb.ReadStreamOptions{}, 9); codeOf(err) != esdb.ErrorCodeResourceNotFound {
		t.Errorf("what was half sent is there: %v, %v", got, err)
	}
	began := time.Now()
	r.stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("closing waited %v for clients that are gone", took)
	}
}

// TestASubscriberThatNeverReadsCostsNothing appends 50 MB in the face of
// subscribers that take none of it.
func TestASubscriberThatNeverReadsCostsNothing(t *testing.T) {
	r := start(t, esdbnode.Options{MemTable: 4 << 20})
	client, stub := dialBoth(t, r.uri)
	for range 8 {
		call, err := stub.Read(t.Context(), &streams.ReadReq{Options: &streams.ReadReq_Options{
			StreamOption: &streams.ReadReq_Options_All{All: &streams.ReadReq_Options_AllOptions{}}, CountOption: &streams.ReadReq_Options_Subscription{},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := call.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	before := heap()
	big := fresh("x")[0]
	big.Data = []byte(`"` + strings.Repeat("x", 500_000) + `"`)
	for range 50 {
		first, second := big, big
		first.EventID, second.EventID = newID(), newID()
		appendTo(t, client, "s", esdb.Any{}, first, second)
	}
	if held := int64(heap()) - int64(before); held > 96<<20 {
		t.Errorf("%d MiB are held", held>>20)
	}
	wantServed(t, r.uri)
}

// TestConnectionsThatSayNothingStopNobody opens a thousand of them, and some that
// say a byte at a time.
func TestConnectionsThatSayNothingStopNobody(t *testing.T) {
	r := start(t, esdbnode.Options{})
	var conns []net.Conn
	for n := range 1000 {
		conn := raw(t, r.uri)
		if _, err := conn.Write([]byte(preface[:n%len(preface)])); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	wantServed(t, r.uri)
	began := time.Now()
	r.stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("closing waited %v for those that say nothing", took)
	}
	for _, conn := range conns {
		if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Fatalf("a connection outlives the node: %v", err)
		}
	}
}

// TestAClientMayPingButNotForEver pings as the official client does at most, and
// then as nobody should.
func TestAClientMayPingButNotForEver(t *testing.T) {
	r := start(t, esdbnode.Options{})
	conn := raw(t, r.uri)
	ping := frame(6, 0, 0, make([]byte, 8))
	if _, err := conn.Write([]byte(preface + string(frame(4, 0, 0, nil)) + strings.Repeat(string(ping), 20))); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatal(err)
	}
	if !bytes.Contains(answer, frame(6, 1, 0, make([]byte, 8))) || !bytes.Contains(answer, []byte("too_many_pings")) {
		t.Errorf("got %q", answer)
	}
	wantServed(t, r.uri)
}
