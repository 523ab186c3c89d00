package esdbnode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// scrub takes out of all files what was thrown away in the regions that are
// marked, and then the marks.
func (s *scavenge) scrub(ctx context.Context) error {
	regions, err := s.marked()
	if err != nil || len(regions) == 0 {
		return err
	}
	defer s.fs.renew()() // before the files are looked at: one that is used again gets another name
	logs, err := s.files(".log")
	if err != nil {
		return err
	}
	if err = s.flush(ctx); err != nil { // from now on they are not needed
		return err
	}
	tables, err := s.compactAll(ctx, regions)
	if err != nil {
		return err
	}
	if err = s.renewLogs(ctx, logs); err != nil {
		return fmt.Errorf("old write-ahead logs: %w", err)
	}
	if err = s.awaitTables(ctx, tables); err != nil {
		return fmt.Errorf("old tables: %w", err)
	}
	return s.unmark(regions)
}

// marked are the regions that have a mark, in order.
func (s *scavenge) marked() (regions []uint64, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceMarks}, UpperBound: []byte{spaceMarks + 1}})
	if err != nil {
		return nil, fmt.Errorf("look for marks: %w", err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		regions = append(regions, binary.BigEndian.Uint64(it.Key()[1:]))
	}
	if err = errors.Join(it.Error(), it.Close()); err != nil {
		return nil, fmt.Errorf("look for marks: %w", err)
	}
	return regions, nil
}

func (s *scavenge) unmark(regions []uint64) error {
	b := s.db.NewBatch()
	defer func() { _ = b.Close() }()
	for _, r := range regions {
		if err := b.Delete(markKey(r*regionEvents), nil); err != nil {
			return fmt.Errorf("take a mark away: %w", err)
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("take %d marks away: %w", len(regions), err)
	}
	return nil
}

// nearRegions are compacted as one: a table holds many regions, and would be
// written anew for each.
const nearRegions = 64

// ranges puts regions that are near each other into one range of keys.
func ranges(regions []uint64) []pebble.KeyRange {
	var all []pebble.KeyRange
	last := uint64(0)
	for _, r := range regions {
		start, end := eventKey(r*regionEvents), eventKey((r+1)*regionEvents)
		if n := len(all); n > 0 && r-last <= nearRegions {
			all[n-1].End = end
		} else {
			all = append(all, pebble.KeyRange{Start: start, End: end})
		}
		last = r
	}
	return all
}

// compactAll compacts all regions and gives the tables there were, before and
// after: those that a compaction of Pebble's own has made meanwhile are among the
// latter, if they are still there.
func (s *scavenge) compactAll(ctx context.Context, regions []uint64) (tables map[string]bool, err error) {
	if tables, err = s.files(".sst"); err != nil {
		return nil, err
	}
	for _, r := range ranges(regions) {
		if err = s.compact(ctx, r); err != nil {
			return nil, err
		}
	}
	after, err := s.files(".sst")
	maps.Copy(tables, after)
	return tables, err
}

// compact brings the deletions of a range down to what they delete. It is done
// twice, as Pebble plans one by the levels that have tables when it begins, and a
// compaction of its own may move one further down meanwhile; when none has, the
// second finds nothing to do.
func (s *scavenge) compact(ctx context.Context, r pebble.KeyRange) error {
	for range 2 {
		if err := s.db.Compact(ctx, r.Start, r.End, false); err != nil {
			return fmt.Errorf("compact: %w", err)
		}
	}
	return nil
}

// flush has everything that is committed written to tables, behind which the
// write-ahead logs so far are not needed any more.
func (s *scavenge) flush(ctx context.Context) error {
	flushed, err := s.db.AsyncFlush()
	if err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	select {
	case <-flushed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// files are the names of the files with an ending.
func (s *scavenge) files(ending string) (map[string]bool, error) {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list files: %w", err)
	}
	found := map[string]bool{}
	for _, name := range names {
		if strings.HasSuffix(name, ending) {
			found[path.Base(name)] = true
		}
	}
	return found, nil
}

// leftOf counts those files that are still there.
func (s *scavenge) leftOf(old map[string]bool, ending string) (left int, err error) {
	now, err := s.files(ending)
	for name := range old {
		if now[name] {
			left++
		}
	}
	return left, err
}

// mostTurns is how often the write-ahead log is turned before it is a bug of
// ours: Pebble keeps five files to use again.
const mostTurns = 64

// renewLogs turns the write-ahead log over, each time into a fresh file instead
// of the oldest that Pebble has kept to use again, until no old one is left.
func (s *scavenge) renewLogs(ctx context.Context, old map[string]bool) error {
	for turn := range mostTurns {
		left, err := s.leftOf(old, ".log")
		if err != nil {
			return err
		}
		if left == 0 {
			s.Files += len(old)
			return nil
		}
		if turn%8 == 7 { // those that are removed and not kept are so in the background
			if err = rest(ctx); err != nil {
				return err
			}
		}
		if err = s.flush(ctx); err != nil {
			return err
		}
	}
	return errors.New("they do not go away")
}

// awaitTables waits until those of the old tables that are not part of the log
// any more are removed, which is when their last reader is done.
func (s *scavenge) awaitTables(ctx context.Context, old map[string]bool) error {
	for {
		live, err := s.liveTables()
		if err != nil {
			return err
		}
		dead := map[string]bool{}
		for name := range old {
			if !live[name] {
				dead[name] = true
			}
		}
		left, err := s.leftOf(dead, ".sst")
		if err != nil {
			return err
		}
		if left == 0 {
			s.Files += len(dead)
			return nil
		}
		if err := rest(ctx); err != nil {
			return err
		}
	}
}

func (s *scavenge) liveTables() (map[string]bool, error) {
	levels, err := s.db.SSTables()
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	live := map[string]bool{}
	for _, level := range levels {
		for _, t := range level {
			live[fmt.Sprintf("%06d.sst", uint64(t.BackingSSTNum))] = true
		}
	}
	return live, nil
}

// rest waits a moment for what Pebble does in the background.
func rest(ctx context.Context) error {
	t := time.NewTimer(5 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A freshFS makes a fresh file, while it is told to, where Pebble would use an
// old write-ahead log again.
type freshFS struct {
	vfs.FS
	mu    sync.RWMutex // held by those who use a file again
	fresh bool
}

// renew has only fresh files made until it is said that it is over. Where a file is
// just being used again, it waits for that.
func (f *freshFS) renew() (over func()) {
	set := func(fresh bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.fresh = fresh
	}
	set(true)
	return func() { set(false) }
}

// ReuseForWrite implements vfs.FS.
func (f *freshFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if !f.fresh {
		return f.FS.ReuseForWrite(oldname, newname, category)
	}
	if err := f.Remove(oldname); err != nil {
		return nil, err
	}
	return f.Create(newname, category)
}

// Unwrap implements vfs.FS.
func (f *freshFS) Unwrap() vfs.FS { return f.FS }
