package viewtest

import (
	"os"
	"testing"
	"time"

	"cartwright/infra/cputime"
	"cartwright/projections"
)

// Sizes are how many orders the benchmarks of growth put before they measure.
// Those that take minutes to put under the race detector are left for a night
// (CARTWRIGHT_SOAK).
func Sizes() []int {
	if night() {
		return []int{1000, 10_000, 100_000, 1_000_000}
	}
	return []int{1000}
}

// AtNight is how much a benchmark works on: much only where there is time.
func AtNight(much, otherwise int) int {
	if night() {
		return much
	}
	return otherwise
}

func night() bool { return os.Getenv("CARTWRIGHT_SOAK") != "" }

// BenchmarkPutAmong measures batches of 500 new orders where there are already
// so many, which Fill has put: of that many buyers and sellers.
func BenchmarkPutAmong(b *testing.B, views projections.Views[projections.Order], orders, parties int) {
	b.Helper()
	const docs = 500
	b.ReportAllocs()
	n, spent := 0, time.Duration(0)
	for b.Loop() {
		b.StopTimer()
		batch := make([]projections.Doc[projections.Order], docs)
		for i := range batch {
			batch[i] = benchmarkOrder(orders+n*docs+i, parties).Doc(b)
		}
		n++
		b.StartTimer()
		begun := cputime.Used(b)
		put(b, views, batch...)
		spent += cputime.Used(b) - begun
	}
	b.ReportMetric(float64(spent.Microseconds())/float64(docs*n), "cpu-µs/doc")
}
