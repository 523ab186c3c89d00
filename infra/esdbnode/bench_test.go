package esdbnode_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/emptypb"

	"cartwright/infra/cputime"
	"cartwright/infra/esdbnode"
)

// payload is the 400 bytes an event of ours has, more or less.
var payload = []byte(`{"note":"` + strings.Repeat("x", 390) + `"}`)

func BenchmarkAppend(b *testing.B) {
	for _, inflight := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("inflight=%d", inflight), func(b *testing.B) {
			client := dial(b, start(b, esdbnode.Options{}).uri)
			appendFresh(b, client, 1) // the first call looks for the node
			cputime.AtOnce(b, inflight, "append", func() { appendFresh(b, client, 1) })
		})
	}
}

// BenchmarkBatchAppend sends one event an append, of as many appends at once as
// the node takes.
func BenchmarkBatchAppend(b *testing.B) {
	call, err := stubs(b, start(b, esdbnode.Options{}).uri).BatchAppend(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	metadata := map[string]string{"type": "order.placed", "content-type": "application/json"}
	one := func() *streams.BatchAppendReq {
		id := textID(uuid.New())
		return &streams.BatchAppendReq{
			CorrelationId: id, IsFinal: true,
			Options:          &streams.BatchAppendReq_Options{StreamIdentifier: named("order-" + id.GetString_()), ExpectedStreamPosition: noStream},
			ProposedMessages: []*streams.BatchAppendReq_ProposedMessage{{Id: id, Metadata: metadata, Data: payload}},
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	defer cputime.Counted(b, "append")()
	var sending sync.WaitGroup
	sending.Go(func() {
		for range b.N {
			if err := call.Send(one()); err != nil {
				b.Errorf("send: %v", err)
				return
			}
		}
		if err := call.CloseSend(); err != nil {
			b.Errorf("end: %v", err)
		}
	})
	for range b.N {
		if got, err := call.Recv(); err != nil || got.GetSuccess() == nil {
			b.Fatalf("%v, %v", got, err)
		}
	}
	sending.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
}

var noStream = &streams.BatchAppendReq_Options_NoStream{NoStream: &emptypb.Empty{}}

// BenchmarkReadAll reads the log by the official client, whose one goroutine that
// takes events is what bounds it, and by one that looks at none of them: what it
// gets is what the node can do.
func BenchmarkReadAll(b *testing.B) {
	const events = 100_000
	r := start(b, esdbnode.Options{})
	client := dial(b, r.uri)
	for range events / 500 {
		appendFresh(b, client, 500)
	}
	conn, err := grpc.NewClient(r.uri, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for decoder, read := range map[string]func() (int, error){
		"official": func() (int, error) { return readOfficially(b.Context(), client) },
		"none":     func() (int, error) { return readBlindly(b.Context(), conn) },
	} {
		b.Run("decoder="+decoder, func(b *testing.B) {
			b.ReportAllocs()
			before := cputime.Used(b)
			for b.Loop() {
				if n, err := read(); err != nil || n != events {
					b.Fatalf("%d events, %v", n, err)
				}
			}
			b.ReportMetric(float64(b.N*events)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64((cputime.Used(b)-before).Nanoseconds())/float64(b.N*events), "cpu-ns/event")
		})
	}
}

func readOfficially(ctx context.Context, client *esdb.Client) (events int, err error) {
	read, err := client.ReadAll(ctx, esdb.ReadAllOptions{}, math.MaxInt64)
	if err != nil {
		return 0, err
	}
	defer read.Close()
	for {
		_, err = read.Recv()
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return events, err
		}
		events++
	}
}

func readBlindly(ctx context.Context, conn *grpc.ClientConn) (events int, err error) {
	call, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/event_store.client.streams.Streams/Read", grpc.ForceCodecV2(blindCodec{encoding.GetCodecV2("proto")}))
	if err != nil {
		return 0, err
	}
	if err = call.SendMsg(&streams.ReadReq{Options: &streams.ReadReq_Options{
		StreamOption: &streams.ReadReq_Options_All{All: &streams.ReadReq_Options_AllOptions{AllOption: &streams.ReadReq_Options_AllOptions_Start{Start: &shared.Empty{}}}},
		CountOption:  &streams.ReadReq_Options_Count{Count: math.MaxInt64},
		FilterOption: &streams.ReadReq_Options_NoFilter{NoFilter: &shared.Empty{}},
		UuidOption:   &streams.ReadReq_Options_UUIDOption{Content: &streams.ReadReq_Options_UUIDOption_Structured{Structured: &shared.Empty{}}},
	}}); err != nil {
		return 0, err
	}
	if err = call.CloseSend(); err != nil {
		return 0, err
	}
	for {
		err = call.RecvMsg(nil)
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return events, err
		}
		events++
	}
}

// blindCodec takes what comes for received, and looks at none of it.
type blindCodec struct{ encoding.CodecV2 }

func (blindCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

func appendFresh(tb testing.TB, client *esdb.Client, n int) {
	tb.Helper()
	events := make([]esdb.EventData, n)
	for i := range events {
		events[i] = esdb.EventData{EventID: uuid.New(), EventType: "order.placed", ContentType: esdb.ContentTypeJson, Data: payload}
	}
	_, err := client.AppendToStream(tb.Context(), "order-"+uuid.NewString(), esdb.AppendToStreamOptions{ExpectedRevision: esdb.NoStream{}}, events...)
	if err != nil {
		tb.Errorf("append: %v", err)
	}
}
