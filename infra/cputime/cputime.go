// Package cputime tells what a process has computed. On a machine that does other
// things too, CPU time says more of what something costs than the clock does.
package cputime

import (
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Used is how long this process, with all its threads, has been on a CPU.
func Used(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Counted begins to count, and gives what reports the CPU time of each of a
// benchmark's operations, client and server together where both are here.
func Counted(b *testing.B, each string) (report func()) {
	b.Helper()
	before := Used(b)
	return func() {
		b.ReportMetric(float64((Used(b)-before).Nanoseconds())/1e3/float64(b.N), "cpu-µs/"+each)
	}
}

// AtOnce measures operations of which so many are under way, each named.
func AtOnce(b *testing.B, inflight int, each string, one func()) {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	defer Counted(b, each)()
	var working sync.WaitGroup
	for range inflight {
		working.Go(func() {
			for left.Add(-1) >= 0 {
				one()
			}
		})
	}
	working.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), each+"s/s")
}
