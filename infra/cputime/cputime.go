// Package cputime tells what a process has computed. On a machine that does other
// things too, CPU time says more of what something costs than the clock does.
package cputime

import (
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
