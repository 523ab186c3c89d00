package esdbnode_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cartwright/infra/esdbnode"
)

// A batching is a BatchAppend call.
type batching struct {
	t    *testing.T
	call streams.Streams_BatchAppendClient
}

func batch(t *testing.T, stub streams.StreamsClient) batching {
	t.Helper()
	call, err := stub.BatchAppend(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return batching{t, call}
}

func (b batching) send(m *streams.BatchAppendReq) {
	b.t.Helper()
	if err := b.call.Send(m); err != nil {
		b.t.Fatal(err)
	}
}

func (b batching) answer() *streams.BatchAppendResp {
	b.t.Helper()
	got, err := b.call.Recv()
	if err != nil {
		b.t.Fatal(err)
	}
	return got
}

func (b batching) wantEnd(want codes.Code) {
	b.t.Helper()
	_, err := b.call.Recv()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if status.Code(err) != want {
		b.t.Fatalf("the call ended with %v, want %v", err, want)
	}
}

// stored gives all events of a stream, none where there is no stream.
func stored(t *testing.T, client *esdb.Client, stream string) []*esdb.ResolvedEvent {
	t.Helper()
	events, err := readAll(t.Context(), client, stream, esdb.ReadStreamOptions{}, math.MaxInt32)
	if err != nil && codeOf(err) != esdb.ErrorCodeResourceNotFound {
		t.Fatal(err)
	}
	return events
}

func textID(id uuid.UUID) *shared.UUID {
	return &shared.UUID{Value: &shared.UUID_String_{String_: id.String()}}
}

// correlation is one that a test knows again.
func correlation(n int) *shared.UUID {
	return textID(uuid.NewSHA1(uuid.Nil, fmt.Append(nil, n)))
}

func batchOptions(stream string) *streams.BatchAppendReq_Options {
	return &streams.BatchAppendReq_Options{
		StreamIdentifier:       named(stream),
		ExpectedStreamPosition: &streams.BatchAppendReq_Options_Any{Any: &emptypb.Empty{}},
	}
}

func at(stream string, revision uint64) *streams.BatchAppendReq_Options {
	return &streams.BatchAppendReq_Options{
		StreamIdentifier:       named(stream),
		ExpectedStreamPosition: &streams.BatchAppendReq_Options_StreamPosition{StreamPosition: revision},
	}
}

func batchEvents(n, size int) (events []*streams.BatchAppendReq_ProposedMessage) {
	for range n {
		events = append(events, &streams.BatchAppendReq_ProposedMessage{
			Id:       textID(uuid.New()),
			Metadata: map[string]string{"type": "e", "content-type": "application/octet-stream"},
			Data:     bytes.Repeat([]byte{'x'}, size),
		})
	}
	return events
}

func successOf(t *testing.T, got *streams.BatchAppendResp) *streams.BatchAppendResp_Success {
	t.Helper()
	if got.GetSuccess() == nil {
		t.Fatalf("got %v", got)
	}
	return got.GetSuccess()
}

// detailOf is what an error is about, with its code.
func detailOf(t *testing.T, got *streams.BatchAppendResp) (codes.Code, proto.Message) {
	t.Helper()
	if got.GetError() == nil || len(got.GetError().GetDetails()) != 1 {
		t.Fatalf("got %v", got)
	}
	detail, err := got.GetError().GetDetails()[0].UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	return codes.Code(got.GetError().GetCode()), detail
}

func TestABatchIsAnsweredAppendByAppend(t *testing.T) {
	client, stub := dialBoth(t, start(t, esdbnode.Options{}).uri)
	b := batch(t, stub)
	events := batchEvents(5, 10)
	structured := &shared.UUID{Value: &shared.UUID_Structured_{Structured: &shared.UUID_Structured{MostSignificantBits: -7, LeastSignificantBits: 9}}}
	b.send(&streams.BatchAppendReq{CorrelationId: correlation(1), Options: batchOptions("parts"), ProposedMessages: events[:2]})
	b.send(&streams.BatchAppendReq{CorrelationId: structured, Options: at("whole", math.MaxUint64), ProposedMessages: events[4:], IsFinal: true})
	first := b.answer()
	want := &streams.BatchAppendResp{
		CorrelationId: structured, StreamIdentifier: named("whole"),
		Result: &streams.BatchAppendResp_Success_{Success: &streams.BatchAppendResp_Success{
			CurrentRevisionOption: &streams.BatchAppendResp_Success_CurrentRevision{CurrentRevision: 0},
			PositionOption:        &streams.BatchAppendResp_Success_Position{Position: &shared.AllStreamPosition{CommitPosition: 1, PreparePosition: 1}},
		}},
	}
	if diff := cmp.Diff(want, first, protocmp.Transform()); diff != "" {
		t.Fatalf("the whole one is answered first (-want +got):\n%s", diff)
	}
	b.send(&streams.BatchAppendReq{CorrelationId: correlation(1), ProposedMessages: events[2:4]})
	b.send(&streams.BatchAppendReq{CorrelationId: correlation(1), IsFinal: true})
	second := b.answer()
	if s := successOf(t, second); s.GetCurrentRevision() != 3 || s.GetPosition().GetCommitPosition() != 5 || !proto.Equal(second.GetCorrelationId(), correlation(1)) {
		t.Fatalf("got %v", second)
	}
	b.send(&streams.BatchAppendReq{CorrelationId: correlation(2), Options: batchOptions("nothing"), IsFinal: true})
	if s := successOf(t, b.answer()); s.GetNoStream() == nil || s.GetNoPosition() == nil {
		t.Fatalf("an append of nothing is answered with %v", s)
	}
	if err := b.call.CloseSend(); err != nil {
		t.Fatal(err)
	}
	b.wantEnd(codes.OK)
	for i, r := range stored(t, client, "parts") {
		if got, want := r.Event.EventID.String(), events[i].GetId().GetString_(); got != want || r.Event.EventNumber != uint64(i) {
			t.Errorf("event %d is %s, want %s", r.Event.EventNumber, got, want)
		}
	}
}

func TestABatchIsWrittenInItsOrder(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client, stub := dialBoth(t, r.uri)
	b := batch(t, stub)
	const appends = 3000 // more than may be in flight
	sent := make(chan error, 1)
	go func() {
		for i := range appends {
			revision := uint64(i) - 1 // none for the first
			if err := b.call.Send(&streams.BatchAppendReq{CorrelationId: correlation(i), Options: at("s", revision), ProposedMessages: batchEvents(1, 100), IsFinal: true}); err != nil {
				sent <- err
				return
			}
		}
		sent <- b.call.CloseSend()
	}()
	for i := range appends {
		got := b.answer()
		if s := successOf(t, got); s.GetCurrentRevision() != uint64(i) || !proto.Equal(got.GetCorrelationId(), correlation(i)) {
			t.Fatalf("append %d: got %v", i, got)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	b.wantEnd(codes.OK)
	if n := len(stored(t, client, "s")); n != appends {
		t.Fatalf("%d events", n)
	}
	if f := figures(t, r.node); f.Writes["append"]["accepted"] != appends || f.Commits.Writes.Count >= appends/2 {
		t.Errorf("%d appends in %d commits", f.Writes["append"]["accepted"], f.Commits.Writes.Count)
	}
}

func TestWhatIsWrongWithAnAppendOfABatchIsToldAndEndsNothing(t *testing.T) {
	client, stub := dialBoth(t, start(t, esdbnode.Options{MaxAppend: 1000}).uri)
	write(t, client, "two", 2)
	write(t, client, "ended", 1)
	bury(t, client, "ended")
	write(t, client, "gone", 1)
	remove(t, client, "gone")
	b := batch(t, stub)
	nameless := batchEvents(1, 1)
	delete(nameless[0].GetMetadata(), "type")
	noID := batchEvents(1, 1)
	noID[0].Id = nil
	exists := batchOptions("gone")
	exists.ExpectedStreamPosition = &streams.BatchAppendReq_Options_StreamExists{StreamExists: &emptypb.Empty{}}
	timed := func(o *streams.BatchAppendReq_Options, d time.Duration) *streams.BatchAppendReq_Options {
		o.DeadlineOption = &streams.BatchAppendReq_Options_Deadline{Deadline: durationpb.New(d)}
		return o
	}
	past := batchOptions("two")
	past.DeadlineOption = &streams.BatchAppendReq_Options_Deadline_21_10_0{Deadline_21_10_0: timestamppb.New(time.Now().Add(-time.Minute))}
	for i, c := range []struct {
		name    string
		options *streams.BatchAppendReq_Options
		events  []*streams.BatchAppendReq_ProposedMessage
		code    codes.Code
		want    proto.Message
	}{
		{"behind", at("two", 0), batchEvents(1, 1), codes.AlreadyExists, &shared.WrongExpectedVersion{
			CurrentStreamRevisionOption:  &shared.WrongExpectedVersion_CurrentStreamRevision{CurrentStreamRevision: 1},
			ExpectedStreamPositionOption: &shared.WrongExpectedVersion_ExpectedStreamPosition{ExpectedStreamPosition: 0},
		}},
		{"ahead", at("none", 7), batchEvents(1, 1), codes.AlreadyExists, &shared.WrongExpectedVersion{
			CurrentStreamRevisionOption:  &shared.WrongExpectedVersion_CurrentNoStream{CurrentNoStream: &emptypb.Empty{}},
			ExpectedStreamPositionOption: &shared.WrongExpectedVersion_ExpectedStreamPosition{ExpectedStreamPosition: 7},
		}},
		{"to a tombstone", batchOptions("ended"), batchEvents(1, 1), codes.NotFound, &shared.StreamDeleted{StreamIdentifier: named("ended")}},
		{"to what must exist", exists, batchEvents(1, 1), codes.NotFound, &shared.StreamDeleted{StreamIdentifier: named("gone")}},
		{"too large", batchOptions("two"), batchEvents(1, 1000), codes.InvalidArgument, &shared.MaximumAppendSizeExceeded{MaxAppendSize: 1000}},
		{"without a type", batchOptions("two"), nameless, codes.InvalidArgument, &shared.BadRequest{Message: "required metadata property 'type' is missing"}},
		{"without an id", batchOptions("two"), noID, codes.InvalidArgument, &shared.BadRequest{Message: "an event has no id"}},
		{"of no stream", batchOptions(""), nil, codes.InvalidArgument, &shared.BadRequest{Message: "the request names no stream"}},
		{"of no expectation", &streams.BatchAppendReq_Options{StreamIdentifier: named("two")}, nil, codes.InvalidArgument, &shared.BadRequest{Message: "the request names no expected revision"}},
		{"beyond all numbers", at("two", 1<<63), nil, codes.InvalidArgument, &shared.BadRequest{Message: "the expected revision 9223372036854775808 is out of range"}},
		{"too late", past, batchEvents(1, 1), codes.DeadlineExceeded, &shared.Timeout{}},
		{"with no time", timed(batchOptions("two"), 0), batchEvents(1, 1), codes.DeadlineExceeded, &shared.Timeout{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			one := batching{t, b.call}
			one.send(&streams.BatchAppendReq{CorrelationId: correlation(i), Options: c.options, ProposedMessages: c.events, IsFinal: true})
			got := one.answer()
			code, detail := detailOf(t, got)
			if diff := cmp.Diff(c.want, detail, protocmp.Transform()); code != c.code || diff != "" {
				t.Errorf("code %v, detail (-want +got):\n%s", code, diff)
			}
			if !proto.Equal(got.GetCorrelationId(), correlation(i)) {
				t.Errorf("it is about %v", got.GetCorrelationId())
			}
			if name := string(got.GetStreamIdentifier().GetStreamName()); name != string(c.options.GetStreamIdentifier().GetStreamName()) {
				t.Errorf("it names stream %q", name)
			}
		})
	}
	b.send(&streams.BatchAppendReq{CorrelationId: correlation(99), Options: at("two", 1), ProposedMessages: batchEvents(1, 1), IsFinal: true})
	successOf(t, b.answer())
}

func TestWhatFollowsARefusedAppendIsPassedOver(t *testing.T) {
	_, stub := dialBoth(t, start(t, esdbnode.Options{MaxAppend: 1000}).uri)
	b := batch(t, stub)
	b.send(&streams.BatchAppendReq{CorrelationId: correlation(1), Options: batchOptions("s"), ProposedMessages: batchEvents(1, 600)})
	b.send(&streams.BatchAppendReq{CorrelationId: correlation(1), ProposedMessages: batchEvents(1, 600)})
	if code, detail := detailOf(t, b.answer()); code != codes.InvalidArgument {
		t.Fatalf("%v %v", code, detail)
	}
	b.send(&streams.BatchAppendReq{CorrelationId: correlation(1), ProposedMessages: batchEvents(1, 1)})
	b.send(&streams.BatchAppendReq{CorrelationId: correlation(1), IsFinal: true})
	b.send(&streams.BatchAppendReq{CorrelationId: correlation(1), Options: batchOptions("s"), ProposedMessages: batchEvents(1, 600), IsFinal: true})
	if s := successOf(t, b.answer()); s.GetCurrentRevision() != 0 {
		t.Fatalf("got %v", s)
	}
}

func TestAnAppendThatIsNotFinishedInTimeIsToldSo(t *testing.T) {
	_, stub := dialBoth(t, start(t, esdbnode.Options{}).uri)
	b := batch(t, stub)
	late := batchOptions("s")
	late.DeadlineOption = &streams.BatchAppendReq_Options_Deadline{Deadline: durationpb.New(30 * time.Millisecond)}
	b.send(&streams.BatchAppendReq{CorrelationId: correlation(0), Options: batchOptions("s"), ProposedMessages: batchEvents(1, 1)})
	b.send(&streams.BatchAppendReq{CorrelationId: correlation(1), Options: late, ProposedMessages: batchEvents(1, 1)})
	if code, detail := detailOf(t, b.answer()); code != codes.DeadlineExceeded || !proto.Equal(detail, &shared.Timeout{}) {
		t.Fatalf("%v %v", code, detail)
	}
	b.send(&streams.BatchAppendReq{CorrelationId: correlation(1), ProposedMessages: batchEvents(1, 1), IsFinal: true}) // to what is over
	b.send(&streams.BatchAppendReq{CorrelationId: correlation(0), IsFinal: true})
	if got := b.answer(); successOf(t, got).GetCurrentRevision() != 0 || !proto.Equal(got.GetCorrelationId(), correlation(0)) {
		t.Fatalf("got %v", got)
	}
}

func TestAMessageOfABatchThatIsPartOfNothing(t *testing.T) {
	_, stub := dialBoth(t, start(t, esdbnode.Options{}).uri)
	for name, id := range map[string]*shared.UUID{
		"no id":      nil,
		"a bad id":   {Value: &shared.UUID_String_{String_: "seven"}},
		"a long one": {Value: &shared.UUID_String_{String_: string(make([]byte, 10_000))}},
	} {
		t.Run(name, func(t *testing.T) {
			b := batch(t, stub)
			b.send(&streams.BatchAppendReq{CorrelationId: id, Options: batchOptions("s"), ProposedMessages: batchEvents(1, 1), IsFinal: true})
			got := b.answer()
			if code, detail := detailOf(t, got); code != codes.InvalidArgument || string(got.GetStreamIdentifier().GetStreamName()) != "s" {
				t.Fatalf("%v %v", code, detail)
			}
			b.send(&streams.BatchAppendReq{CorrelationId: id, ProposedMessages: batchEvents(1, 1), IsFinal: true})
			b.wantEnd(codes.InvalidArgument)
		})
	}
}

func TestAClientCannotBeginWithoutEnd(t *testing.T) {
	_, stub := dialBoth(t, start(t, esdbnode.Options{}).uri)
	t.Run("many", func(t *testing.T) {
		b := batch(t, stub)
		for i := range 1025 {
			b.send(&streams.BatchAppendReq{CorrelationId: correlation(i), Options: batchOptions("s"), ProposedMessages: batchEvents(1, 1)})
		}
		wantBusy(t, b.answer(), 1024)
	})
	t.Run("large ones", func(t *testing.T) {
		b := batch(t, stub)
		for i := range 17 {
			b.send(&streams.BatchAppendReq{CorrelationId: correlation(i), Options: batchOptions("s"), ProposedMessages: batchEvents(1, 1_000_000)})
		}
		wantBusy(t, b.answer(), 16)
	})
}

func wantBusy(t *testing.T, got *streams.BatchAppendResp, which int) {
	t.Helper()
	if code, detail := detailOf(t, got); code != codes.Unavailable || !proto.Equal(detail, &shared.Unknown{}) || !proto.Equal(got.GetCorrelationId(), correlation(which)) {
		t.Fatalf("%v: %v %v", got.GetCorrelationId(), code, detail)
	}
}

func TestCloseEndsABatch(t *testing.T) {
	r := start(t, esdbnode.Options{})
	_, stub := dialBoth(t, r.uri)
	b := batch(t, stub)
	b.send(&streams.BatchAppendReq{CorrelationId: correlation(1), Options: batchOptions("s"), ProposedMessages: batchEvents(1, 1), IsFinal: true})
	successOf(t, b.answer())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := r.node.Close(ctx); err != nil {
		t.Fatal(err)
	}
	b.wantEnd(codes.Unavailable)
}

func TestABatchOfAClientThatVanishesIsWholeOrNothing(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client, stub := dialBoth(t, r.uri)
	ctx, vanish := context.WithCancel(t.Context())
	defer vanish()
	call, err := stub.BatchAppend(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b := batching{t, call}
	b.send(&streams.BatchAppendReq{CorrelationId: correlation(0), Options: batchOptions("never"), ProposedMessages: batchEvents(3, 10)})
	for i := 1; i < 200; i++ {
		b.send(&streams.BatchAppendReq{CorrelationId: correlation(i), Options: batchOptions("s"), ProposedMessages: batchEvents(3, 10), IsFinal: true})
	}
	successOf(t, b.answer())
	vanish()
	write(t, client, "after", 1)
	if n := len(stored(t, client, "s")); n == 0 || n%3 != 0 {
		t.Errorf("%d events of appends of three", n)
	}
	if n := len(stored(t, client, "never")); n > 0 {
		t.Errorf("%d events of an append that was never finished", n)
	}
}
