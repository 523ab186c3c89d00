package kafkanode

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// keptCheckpoints bounds how many checkpoints are kept. Older ones are thinned
// out, so that even old damage finds one not too far behind it.
const keptCheckpoints = 64

// A checkpoint is the promise that every event up to Position stands before
// Ends, on the disk.
type checkpoint struct {
	Position uint64  `json:"position"`
	Ends     []int64 `json:"ends"`
}

// Promises are what the node has written down about its partitions.
type promises struct {
	Checkpoints []checkpoint `json:"checkpoints"`
	Begins      []int64      `json:"begins"` // of partitions: what is missing before was trimmed
}

func (p promises) safe() uint64 {
	var at uint64
	for _, c := range p.Checkpoints {
		at = max(at, c.Position)
	}
	return at
}

func (p promises) begin(partition int) int64 {
	if partition < len(p.Begins) {
		return p.Begins[partition]
	}
	return 0
}

// reached gives the checkpoints whose ends the partitions still have.
func reached(cs []checkpoint, ends []int64) []checkpoint {
	return slices.DeleteFunc(slices.Clone(cs), func(c checkpoint) bool {
		for p, end := range c.Ends {
			if p >= len(ends) || ends[p] < end {
				return true
			}
		}
		return false
	})
}

// thin keeps the newer half and every other one of the older half.
func thin(cs []checkpoint) []checkpoint {
	if len(cs) <= keptCheckpoints {
		return cs
	}
	kept := make([]checkpoint, 0, len(cs))
	for i, c := range cs {
		if i >= keptCheckpoints/2 || i%2 == 0 {
			kept = append(kept, c)
		}
	}
	return kept
}

// A disk is the folder of a node: the broker's files in log, ours beside it.
type disk struct {
	dir, log, marker, points string
	synced                   map[string]stamp // files as they were when last synced
}

type stamp struct {
	size int64
	at   time.Time
}

func newDisk(dir string) disk {
	return disk{
		dir:    dir,
		log:    filepath.Join(dir, "log"),
		marker: filepath.Join(dir, "in-use"),
		points: filepath.Join(dir, "promises.json"),
		synced: map[string]stamp{},
	}
}

// mark writes the marker and reports that there was none.
func (d *disk) mark() (clean bool, err error) {
	f, err := os.OpenFile(d.marker, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, errors.Join(f.Sync(), f.Close(), syncPath(d.dir))
}

func (d *disk) unmark() error {
	return errors.Join(os.Remove(d.marker), syncPath(d.dir))
}

func (d *disk) readPromises() (p promises, err error) {
	raw, err := os.ReadFile(d.points)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return promises{}, fmt.Errorf("read %s: %w", d.points, err)
	}
	return p, nil
}

// writePromises replaces the file in one step.
func (d *disk) writePromises(p promises) error {
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	next := d.points + ".next"
	if err := os.WriteFile(next, raw, 0o600); err != nil {
		return err
	}
	if err := syncPath(next); err != nil {
		return err
	}
	if err := os.Rename(next, d.points); err != nil {
		return err
	}
	return syncPath(d.dir)
}

// forgetSessions drops the group members that kfake remembers from its last
// run. They are gone with their process, but a group would wait for them.
func (d *disk) forgetSessions() error {
	err := os.Remove(filepath.Join(d.log, "session_state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// sync puts every file of the broker that changed since the last time on the
// disk, and the folders in which there are new ones.
func (d *disk) sync() error {
	grown := map[string]bool{}
	err := d.walk(func(path string, now stamp) error {
		was, known := d.synced[path]
		if known && was == now {
			return nil
		}
		if err := syncPath(path); errors.Is(err, fs.ErrNotExist) {
			return nil // trimmed or replaced meanwhile
		} else if err != nil {
			return err
		}
		d.synced[path] = now
		if !known {
			grown[filepath.Dir(path)] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	return d.syncFolders(grown)
}

func (d *disk) syncFolders(grown map[string]bool) error {
	if len(grown) == 0 {
		return nil
	}
	for _, above := range []string{d.dir, d.log, filepath.Join(d.log, "partitions")} {
		grown[above] = true
	}
	for dir := range grown {
		if err := syncPath(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// remember takes the files as they are for synced.
func (d *disk) remember() error {
	return d.walk(func(path string, now stamp) error {
		d.synced[path] = now
		return nil
	})
}

// walk visits the files that hold data: segments, and the groups' offsets. The
// broker rebuilds its indices from the segments.
func (d *disk) walk(visit func(path string, now stamp) error) error {
	return filepath.WalkDir(d.log, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() || !holdsData(path) {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return visit(path, stamp{info.Size(), info.ModTime()})
	})
}

func holdsData(path string) bool {
	return strings.HasSuffix(path, segmentSuffix) || strings.HasSuffix(path, ".log") || strings.HasSuffix(path, ".json")
}

// syncPath waits until a file or folder is on the disk.
func syncPath(path string) error {
	f, err := os.Open(path) //nolint:gosec // a path of our own folder
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// escape is how kfake writes a topic in a folder's name.
func escape(topic string) string { return url.PathEscape(topic) }
