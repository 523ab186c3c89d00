package esdbnode_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"cartwright/infra/esdbnode"
)

// A caller is a connection, or a node in this process.
type caller interface {
	NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error)
}

// both are the two ways to a node.
func both(t *testing.T, r *running) map[string]caller {
	t.Helper()
	conn, err := grpc.NewClient(r.uri, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return map[string]caller{"socket": conn, "inside": r.node}
}

const (
	toRead  = streams.Streams_Read_FullMethodName
	toWrite = streams.Streams_Append_FullMethodName
	toBatch = streams.Streams_BatchAppend_FullMethodName
)

var twoWays = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

// toldAll is all that a call has told, in words.
type toldAll struct {
	Answers []string
	Code    codes.Code
	Text    string
	Trailer metadata.MD
}

// hearAll makes a call, sends requests and hears all that is said. Of answers it
// leaves out when they were made.
func hearAll(t *testing.T, by caller, method string, answer func() proto.Message, requests ...proto.Message) toldAll {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	call, err := by.NewStream(ctx, twoWays, method)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range requests {
		if err = call.SendMsg(r); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	if err = call.CloseSend(); err != nil {
		t.Fatal(err)
	}
	var s toldAll
	for {
		got := answer()
		if err = call.RecvMsg(got); err != nil {
			break
		}
		s.Answers = append(s.Answers, fmt.Sprintf("%T of %d bytes", got, proto.Size(got)))
	}
	if !errors.Is(err, io.EOF) {
		s.Code, s.Text = status.Code(err), status.Convert(err).Message()
	}
	s.Trailer = metadata.MD{}
	for key, values := range call.Trailer() {
		if key != "content-type" { // gRPC's own
			s.Trailer[key] = values
		}
	}
	return s
}

func TestACallFromWithinIsToldWhatOneByASocketIsTold(t *testing.T) {
	r := start(t, esdbnode.Options{MaxAppend: 1 << 10})
	write(t, dial(t, r.uri), "order-1", 3)
	ways := both(t, r)
	event := func(size int) *streams.AppendReq {
		return &streams.AppendReq{Content: &streams.AppendReq_ProposedMessage_{ProposedMessage: &streams.AppendReq_ProposedMessage{
			Id: textID(uuid.New()), Metadata: map[string]string{"type": "order.placed", "content-type": "application/json"}, Data: []byte(strings.Repeat(" ", size)),
		}}}
	}
	wrong := options("order-1")
	wrong.GetOptions().ExpectedStreamRevision = &streams.AppendReq_Options_Revision{Revision: 7}
	appended := func() proto.Message { return &streams.AppendResp{} }
	batched := func() proto.Message { return &streams.BatchAppendResp{} }
	heard := func() proto.Message { return &streams.ReadResp{} }
	for name, c := range map[string]struct {
		method   string
		answer   func() proto.Message
		requests []proto.Message
		want     codes.Code
	}{
		"an append of nothing":    {toWrite, appended, []proto.Message{options("order-2")}, codes.OK},
		"a wrong revision":        {toWrite, appended, []proto.Message{wrong, event(1)}, codes.OK},
		"too large an append":     {toWrite, appended, []proto.Message{options("order-2"), event(2 << 10)}, codes.InvalidArgument},
		"too large a message":     {toWrite, appended, []proto.Message{options("order-2"), event(18 << 20)}, codes.ResourceExhausted},
		"a part of nothing":       {toBatch, batched, []proto.Message{&streams.BatchAppendReq{}}, codes.InvalidArgument},
		"a batch of nothing":      {toBatch, batched, nil, codes.OK},
		"a read of one stream":    {toRead, heard, []proto.Message{readOf("order-1")}, codes.OK},
		"a read of another":       {toRead, heard, []proto.Message{readOf("order-9")}, codes.OK},
		"a read of who knows":     {toRead, heard, []proto.Message{&streams.ReadReq{}}, codes.InvalidArgument},
		"an unfinished append":    {toWrite, appended, nil, codes.InvalidArgument},
		"a method there isn't":    {"/event_store.client.streams.Streams/Rewrite", heard, nil, codes.Unimplemented},
		"a service there isn't":   {"/event_store.client.streams.Rivers/Read", heard, nil, codes.Unimplemented},
		"a call of another shape": {toRead, heard, []proto.Message{&shared.Empty{}}, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			if c.want == codes.Unimplemented {
				if _, err := r.node.NewStream(t.Context(), twoWays, c.method); status.Code(err) != codes.Unimplemented {
					t.Errorf("from within it is told %v", err)
				}
				return
			}
			socket, inside := hearAll(t, ways["socket"], c.method, c.answer, c.requests...), hearAll(t, ways["inside"], c.method, c.answer, c.requests...)
			if diff := cmp.Diff(socket, inside); diff != "" {
				t.Errorf("by the socket (-) and from within (+) it is told:\n%s", diff)
			}
			if socket.Code != c.want {
				t.Errorf("it is told %v, not %v", socket.Code, c.want)
			}
		})
	}
}

func readOf(stream string) *streams.ReadReq {
	return &streams.ReadReq{Options: &streams.ReadReq_Options{
		StreamOption: &streams.ReadReq_Options_Stream{Stream: &streams.ReadReq_Options_StreamOptions{
			StreamIdentifier: named(stream), RevisionOption: &streams.ReadReq_Options_StreamOptions_Start{Start: &shared.Empty{}},
		}},
		CountOption:  &streams.ReadReq_Options_Count{Count: 100},
		FilterOption: &streams.ReadReq_Options_NoFilter{NoFilter: &shared.Empty{}},
		UuidOption:   &streams.ReadReq_Options_UUIDOption{Content: &streams.ReadReq_Options_UUIDOption_Structured{Structured: &shared.Empty{}}},
	}}
}

// followAll subscribes to the whole log from within.
func followAll(t *testing.T, ctx context.Context, node *esdbnode.Node) grpc.ClientStream { //nolint:revive // t first, as in all tests
	t.Helper()
	call, err := node.NewStream(ctx, twoWays, toRead)
	if err == nil {
		err = call.SendMsg(&streams.ReadReq{Options: &streams.ReadReq_Options{
			StreamOption: &streams.ReadReq_Options_All{All: &streams.ReadReq_Options_AllOptions{AllOption: &streams.ReadReq_Options_AllOptions_Start{Start: &shared.Empty{}}}},
			CountOption:  &streams.ReadReq_Options_Subscription{Subscription: &streams.ReadReq_Options_SubscriptionOptions{}},
			FilterOption: &streams.ReadReq_Options_NoFilter{NoFilter: &shared.Empty{}},
			UuidOption:   &streams.ReadReq_Options_UUIDOption{Content: &streams.ReadReq_Options_UUIDOption_Structured{Structured: &shared.Empty{}}},
		}})
	}
	if err != nil {
		t.Fatal(err)
	}
	return call
}

// writeLarge appends one event of many bytes.
func writeLarge(t *testing.T, client *esdb.Client, stream string, size int) {
	t.Helper()
	e := fresh("large")
	e[0].Data = []byte(`"` + strings.Repeat("x", size) + `"`)
	appendTo(t, client, stream, esdb.Any{}, e...)
}

// nextEvent hears on until an event comes.
func nextEvent(call grpc.ClientStream) (number uint64, err error) {
	for {
		var got streams.ReadResp
		if err := call.RecvMsg(&got); err != nil {
			return 0, err
		}
		if e := got.GetEvent().GetEvent(); e != nil {
			return e.GetStreamRevision(), nil
		}
	}
}

func TestACallFromWithinEndsWithItsContext(t *testing.T) {
	r := start(t, esdbnode.Options{})
	write(t, dial(t, r.uri), "order-1", 1)
	ctx, cancel := context.WithCancel(t.Context())
	call := followAll(t, ctx, r.node)
	if _, err := nextEvent(call); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := nextEvent(call); status.Code(err) != codes.Canceled {
		t.Errorf("the call has ended with %v", err)
	}
	until(t, "the node follows no more", func() bool { return figures(t, r.node).Subscribers["all"] == 0 })
	late, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	call = followAll(t, late, r.node)
	var err error
	for err == nil {
		_, err = nextEvent(call)
	}
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("the call whose time is over has ended with %v", err)
	}
}

func TestACallFromWithinEndsWithTheNode(t *testing.T) {
	for name, limit := range map[string]time.Duration{"in time": patience, "at once": 0} {
		t.Run(name, func(t *testing.T) {
			r := start(t, esdbnode.Options{})
			client := dial(t, r.uri)
			for range 40 { // more than fits between the two, so that who serves waits
				writeLarge(t, client, "big", 64<<10)
			}
			following, idle := followAll(t, t.Context(), r.node), followAll(t, t.Context(), r.node)
			if _, err := nextEvent(idle); err != nil {
				t.Fatal(err)
			}
			appending, err := r.node.NewStream(t.Context(), twoWays, toBatch)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			closed := make(chan error, 1)
			go func() { closed <- r.node.Close(ctx) }()
			for _, call := range []grpc.ClientStream{following, appending} {
				for err = nil; err == nil; {
					err = call.RecvMsg(&shared.Empty{})
				}
				if status.Code(err) != codes.Unavailable {
					t.Errorf("a call has ended with %v", err)
				}
			}
			if limit > 0 { // nobody waits for who does not listen
				for err = nil; err == nil; {
					_, err = nextEvent(idle)
				}
			}
			if err := <-closed; err != nil {
				t.Errorf("close: %v", err)
			}
			if _, err := r.node.NewStream(t.Context(), twoWays, toBatch); status.Code(err) != codes.Unavailable {
				t.Errorf("a call of a node that is closed: %v", err)
			}
			if err := appending.SendMsg(&shared.Empty{}); !errors.Is(err, io.EOF) {
				t.Errorf("who sends on is told %v", err)
			}
		})
	}
}

func TestWhoFollowsSlowlyFromWithinHoldsUpNobodyAndLittleMemory(t *testing.T) {
	r := start(t, esdbnode.Options{TailEvents: 8})
	client := dial(t, r.uri)
	call := followAll(t, t.Context(), r.node)
	const events, size = 100, 64 << 10
	for range events {
		writeLarge(t, client, "big", size)
	}
	if behind := figures(t, r.node).Lag; behind < events/2 {
		t.Errorf("who hears nothing is %d events behind: what was said to it is kept in memory", behind)
	}
	for i := range uint64(events) {
		if got, err := nextEvent(call); err != nil || got != i {
			t.Fatalf("event %d, %v where %d was next", got, err, i)
		}
	}
}
