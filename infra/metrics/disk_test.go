package metrics_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"cartwright/infra/metrics"
)

func TestWhatAProcessHadWrittenToDisksIsCounted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "io")
	if metrics.DiskWritten(file) != nil {
		t.Error("it is counted where the kernel does not say")
	}
	if err := os.WriteFile(file, []byte("rchar: 5\nwchar: 900\nread_bytes: 7\nwrite_bytes: 100\ncancelled_write_bytes: 30\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := prometheus.NewRegistry()
	if err := r.Register(metrics.DiskWritten(file)); err != nil {
		t.Fatal(err)
	}
	got, err := r.Gather()
	if err != nil || len(got) != 1 || got[0].GetName() != "process_disk_written_bytes_total" || got[0].GetMetric()[0].GetCounter().GetValue() != 70 {
		t.Errorf("got %v, %v", got, err)
	}
	if err := os.WriteFile(file, []byte("nothing of the kind"), 0o600); err != nil {
		t.Fatal(err)
	}
	if metrics.DiskWritten(file) != nil {
		t.Error("it is counted where the kernel says something else")
	}
}
