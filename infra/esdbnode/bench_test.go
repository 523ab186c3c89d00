package esdbnode_test

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/emptypb"

	"cartwright/infra/esdbnode"
)

// payload is the 400 bytes an event of ours has, more or less.
var payload = []byte(`{"note":"` + strings.Repeat("x", 390) + `"}`)

func BenchmarkAppend(b *testing.B) {
	for _, inflight := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("inflight=%d", inflight), func(b *testing.B) {
			client := dial(b, start(b, esdbnode.Options{}).uri)
			appendFresh(b, client, 1) // the first call looks for the node
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ReportAllocs()
			b.ResetTimer()
			before := cpu(b)
			var wg sync.WaitGroup
			for range inflight {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						appendFresh(b, client, 1)
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/append")
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
	before := cpu(b)
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
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/append")
}

var noStream = &streams.BatchAppendReq_Options_NoStream{NoStream: &emptypb.Empty{}}

// cpu is what this process has used so far, client and node together. It is
// the figure to compare on a machine that does other things meanwhile.
func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func BenchmarkReadAll(b *testing.B) {
	const events = 20_000
	client := dial(b, start(b, esdbnode.Options{}).uri)
	for range events / 500 {
		appendFresh(b, client, 500)
	}
	b.ReportAllocs()
	for b.Loop() {
		read, err := client.ReadAll(b.Context(), esdb.ReadAllOptions{}, math.MaxInt64)
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for ; err == nil; n++ {
			_, err = read.Recv()
		}
		read.Close()
		if !errors.Is(err, io.EOF) || n-1 != events {
			b.Fatalf("%d events, %v", n-1, err)
		}
	}
	b.ReportMetric(float64(b.N*events)/b.Elapsed().Seconds(), "events/s")
}

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
