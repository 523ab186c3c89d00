package metrics

import (
	"os"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// selfIO is where the kernel of Linux says what a process has read and written.
const selfIO = "/proc/self/io"

// diskWritten is what this process has had written to disks, as a file like selfIO
// counts it; nil where there is none.
func diskWritten(file string) prometheus.Collector {
	if _, known := writtenBytes(file); !known {
		return nil
	}
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "process_disk_written_bytes_total", Help: "Bytes that this process had written to disks, less those that were dropped before, as the kernel counts them.",
	}, func() float64 {
		bytes, _ := writtenBytes(file) // it was there, and is for as long as the process
		return bytes
	})
}

func writtenBytes(file string) (bytes float64, known bool) {
	text, err := os.ReadFile(file) //nolint:gosec // its name is ours
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, err := strconv.ParseFloat(value, 64)
		switch {
		case err != nil:
		case name == "write_bytes":
			bytes, known = bytes+n, true
		case name == "cancelled_write_bytes":
			bytes -= n
		}
	}
	return max(bytes, 0), known
}
