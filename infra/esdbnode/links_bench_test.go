package esdbnode_test

import (
	"errors"
	"fmt"
	"io"
	"math"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"

	"cartwright/infra/cputime"
	"cartwright/infra/esdbnode"
)

// BenchmarkAppendWithLinks is BenchmarkAppend in logs whose links nobody has asked
// for, or those of categories, or of types too.
func BenchmarkAppendWithLinks(b *testing.B) {
	for _, inflight := range []int{8, 64} {
		for _, asked := range [][]string{nil, {"$ce-order"}, {"$ce-order", "$et-order.placed"}} {
			b.Run(fmt.Sprintf("inflight=%d/kinds=%d", inflight, len(asked)), func(b *testing.B) {
				client := dial(b, start(b, esdbnode.Options{}).uri)
				appendFresh(b, client, 1)
				for _, stream := range asked {
					linksOf(b, client, stream)
				}
				cputime.AtOnce(b, inflight, "append", func() { appendFresh(b, client, 1) })
			})
		}
	}
}

// BenchmarkMakeLinks asks for links for the first time.
func BenchmarkMakeLinks(b *testing.B) {
	const events = 100_000
	for range b.N {
		b.StopTimer()
		r := start(b, esdbnode.Options{})
		client := dial(b, r.uri)
		for range events / 500 {
			appendFresh(b, client, 500)
		}
		b.StartTimer()
		if _, err := readAll(b.Context(), client, "$ce-none", esdb.ReadStreamOptions{}, 1); codeOf(err) != esdb.ErrorCodeResourceNotFound {
			b.Fatal(err)
		}
		b.StopTimer()
		r.stop()
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N*events)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkReadLinks reads 20,000 links of 2,000 streams.
func BenchmarkReadLinks(b *testing.B) {
	const events = 20_000
	client := dial(b, start(b, esdbnode.Options{}).uri)
	for range events / 10 {
		appendFresh(b, client, 10)
	}
	for _, resolve := range []bool{false, true} {
		b.Run(fmt.Sprintf("resolved=%t", resolve), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				read, err := client.ReadStream(b.Context(), "$ce-order", esdb.ReadStreamOptions{ResolveLinkTos: resolve}, math.MaxInt64)
				if err != nil {
					b.Fatal(err)
				}
				n := 0
				for ; err == nil; n++ {
					_, err = read.Recv()
				}
				read.Close()
				if !errors.Is(err, io.EOF) || n-1 != events {
					b.Fatalf("%d links, %v", n-1, err)
				}
			}
			b.ReportMetric(float64(b.N*events)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
