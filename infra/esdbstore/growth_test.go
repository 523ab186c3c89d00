package esdbstore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"cartwright/domain/event"
	"cartwright/infra/cputime"
	"cartwright/infra/esdbstore"
)

// logSizes are how many events a log has before it is measured: ten million only
// at night, since that takes gigabytes.
func logSizes() []int {
	if os.Getenv("CARTWRIGHT_SOAK") != "" {
		return []int{1000, 10_000, 100_000, 1_000_000, 10_000_000}
	}
	return []int{1000, 10_000}
}

// grow appends so many small events to streams of their own, of size events
// each, many appends at a time.
func grow(b *testing.B, store *esdbstore.Store, streams, size int) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 128 {
		wg.Go(func() {
			for i := int(next.Add(1)); i <= streams; i = int(next.Add(1)) {
				if err := store.Append(b.Context(), manyStream(i), 0, small(size)); err != nil {
					b.Errorf("append: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func manyStream(i int) string { return fmt.Sprintf("order-%019d", i) }

func small(n int) []event.Recorded {
	events := make([]event.Recorded, n)
	for i := range events {
		events[i] = event.Recorded{ID: uuid.NewString(), Name: "thing.happened", Version: 1, Data: []byte(`{"note":"` + strings.Repeat("x", 40) + `"}`)}
	}
	return events
}

func grown(b *testing.B) *esdbstore.Store {
	b.Helper()
	return open(b, serve(b, place{dir: b.TempDir(), socket: filepath.Join(b.TempDir(), "n.sock")}).uri)
}

// BenchmarkLog appends to a new stream, adds to an old one and reads one, where
// the log has so many events.
func BenchmarkLog(b *testing.B) {
	const size = 10
	for _, events := range logSizes() {
		b.Run(fmt.Sprintf("events=%d", events), func(b *testing.B) {
			store, streams := grown(b), events/size
			grow(b, store, streams, size)
			next, step := 0, 0
			b.Run("op=create", func(b *testing.B) {
				defer cputime.Counted(b, "op")()
				for b.Loop() {
					next++
					if err := store.Append(b.Context(), "new-"+strconv.Itoa(next), 0, small(1)); err != nil {
						b.Fatal(err)
					}
				}
			})
			// Streams come up in an order without a pattern.
			some := func() int { step++; return step*7919%streams + 1 }
			ends := map[int]event.Revision{}
			b.Run("op=append", func(b *testing.B) {
				defer cputime.Counted(b, "op")()
				for b.Loop() {
					i := some()
					if err := store.Append(b.Context(), manyStream(i), size+ends[i], small(1)); err != nil {
						b.Fatal(err)
					}
					ends[i]++
				}
			})
			b.Run("op=load", func(b *testing.B) {
				defer cputime.Counted(b, "op")()
				for b.Loop() {
					n := 0
					for _, err := range store.Load(b.Context(), manyStream(some()), 0) {
						if n++; err != nil {
							b.Fatal(err)
						}
						if n == size {
							break
						}
					}
				}
			})
		})
	}
}
