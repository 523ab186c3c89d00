package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// halves are the values of a gauge in the first half of a load and in the second:
// what does not grow has a ratio of about one, however it comes and goes between.
type halves struct {
	First  sampled `json:"first"`
	Second sampled `json:"second"`
	Ratio  float64 `json:"ratio"` // of the means, the second to the first
	Max    float64 `json:"ratio_of_maxima"`
}

// memoryFigures are in bytes, of all processes whose figures are read.
type memoryFigures struct {
	Resident halves `json:"resident_bytes"`
	Heap     halves `json:"heap_bytes"` // of Go, in use
}

// diskFigures tell what was written.
type diskFigures struct {
	Written float64 `json:"written_bytes"` // again and again, as the kernel counts
	Each    float64 `json:"written_bytes_per_operation"`
	Grown   int64   `json:"grown_bytes,omitempty"` // by as much the data folder did
}

// leastSamples is of how many the halves tell anything.
const leastSamples = 4

func memoryOf(resident, heap []float64) *memoryFigures {
	if min(len(resident), len(heap)) < leastSamples {
		return nil
	}
	return &memoryFigures{Resident: halvesOf(resident), Heap: halvesOf(heap)}
}

// halvesOf are those of values that were looked at every so often.
func halvesOf(values []float64) halves {
	middle := len(values) / 2
	h := halves{First: *sampledOf(values[:middle]), Second: *sampledOf(values[middle:])}
	h.Ratio, h.Max = rounded(h.Second.Mean/h.First.Mean), rounded(h.Second.Max/h.First.Max)
	return h
}

const diskWritten = "process_disk_written_bytes_total"

// disk tells what was written since then; nil where nobody knows.
func (w *observation) disk(after figures, operations int64) *diskFigures {
	d := &diskFigures{}
	var known bool
	if d.Written, known = after.since(w.before, diskWritten); known && operations > 0 {
		d.Each = rounded(d.Written / float64(operations))
	}
	if w.folder != "" && w.size > 0 {
		if now, err := sizeOf(w.folder); err == nil {
			d.Grown = now - w.size
		}
	}
	if !known && d.Grown == 0 {
		return nil
	}
	return d
}

const mega = 1 << 20

func (m *memoryFigures) print(row func(name, format string, values ...any)) {
	if m == nil {
		return
	}
	for _, of := range []struct {
		name string
		halves
	}{{"resident memory", m.Resident}, {"heap in use", m.Heap}} {
		row(of.name, "first half %.0f MB on average, %.0f at most; second half %.0f and %.0f: %.2f and %.2f times as much",
			of.First.Mean/mega, of.First.Max/mega, of.Second.Mean/mega, of.Second.Max/mega, of.Ratio, of.Max)
	}
}

func (d *diskFigures) print(row func(name, format string, values ...any)) {
	if d == nil {
		return
	}
	grown := ""
	if d.Grown != 0 {
		grown = fmt.Sprintf("; the data folder grew by %.0f MB", float64(d.Grown)/mega)
	}
	row("disk", "%.0f MB written, %.0f bytes an operation%s", d.Written/mega, d.Each, grown)
}

// memory tells of each scenario whether it took more and more.
func (d *document) memory(runs []setRun) {
	told := false
	for _, r := range runs {
		if r.Server == nil || r.Server.Memory == nil {
			continue
		}
		if !told {
			told = true
			d.line("## Memory and disk\n")
			d.table("scenario", "seconds", "resident MB, first half: mean", "max", "second half: mean", "max", "ratio of means", "heap MB, first half: mean", "second", "ratio", "MB written", "bytes an operation", "MB that the data folder grew by")
		}
		resident, heap, disk := r.Server.Memory.Resident, r.Server.Memory.Heap, r.Server.Disk
		if disk == nil {
			disk = &diskFigures{}
		}
		d.line("| %s | %.0f | %.0f | %.0f | %.0f | %.0f | %.2f | %.0f | %.0f | %.2f | %s | %s | %s |", r.Name, r.DurationS,
			resident.First.Mean/mega, resident.First.Max/mega, resident.Second.Mean/mega, resident.Second.Max/mega, resident.Ratio,
			heap.First.Mean/mega, heap.Second.Mean/mega, heap.Ratio,
			of(disk.Each > 0, "%.0f", disk.Written/mega), of(disk.Each > 0, "%.0f", disk.Each), of(disk.Grown != 0, "%.0f", float64(disk.Grown)/mega))
	}
	if told {
		d.line("\nMemory was looked at twice a second while the load ran, without the warm-up; what is written is counted until views had caught up, and again each time that the log and the views are compacted.\n")
	}
}

// sizeOf adds up the files of a folder; they may come and go.
func sizeOf(folder string) (bytes int64, err error) {
	err = filepath.WalkDir(folder, func(_ string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	return bytes, err
}
