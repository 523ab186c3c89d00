package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"

	"cartwright/domain"
)

// An erasure is a line of the list of erased buyers. The list outlives the log:
// one that is restored from before an erasure has the key again, and forgets it
// by the list (TestAnOlderLogForgetsAgain). A line is on the disk before the key
// is touched, so that no erasure is in the log alone.
type erasure struct {
	Buyer  string    `json:"buyer"`
	At     time.Time `json:"at,omitzero"`
	By     string    `json:"by,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

// erasureLists are where lists are looked for. The first is written to; the one
// in the data folder counts too where another place is set, since it may be older
// than that setting, or have come with a backup.
func (c *config) erasureLists() []string {
	own := c.path(erasuresName)
	if c.Erasures == "" || filepath.Clean(c.Erasures) == filepath.Clean(own) {
		return []string{own}
	}
	return []string{c.Erasures, own}
}

// erasures reads all lists, each buyer once. One that is named and missing may
// be on a disk that is not there, so it is told of until there is one.
func (c *config) erasures(ctx context.Context, log *slog.Logger) (all []erasure, err error) {
	if _, err := os.Stat(c.Erasures); c.Erasures != "" && errors.Is(err, fs.ErrNotExist) {
		log.WarnContext(ctx, "there is no list of erased buyers where it should be: nobody was erased yet, or this is another place", "list", c.Erasures)
	}
	known := map[string]bool{}
	for _, path := range c.erasureLists() {
		l := erasureList{path: path, log: log}
		listed, err := l.read(ctx)
		if err != nil {
			return nil, err
		}
		for _, e := range listed {
			if !known[e.Buyer] {
				known[e.Buyer], all = true, append(all, e)
			}
		}
	}
	return all, nil
}

// An erasureList is one file. Whoever reads or writes it holds its lock, so that
// nobody takes a line that is being written for one that was broken off.
type erasureList struct {
	path string
	log  *slog.Logger
}

// read gives the lines of a list; a missing one has none.
func (l erasureList) read(ctx context.Context) ([]erasure, error) {
	if _, err := os.Stat(l.path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var listed []erasure
	err := l.locked(ctx, func() (err error) {
		var mend func() error
		if listed, mend, err = l.load(); err != nil {
			return err
		}
		if failed := mend(); failed != nil { // who may only read can do without
			l.log.WarnContext(ctx, "the end of the list of erased buyers can't be mended", "list", l.path, "err", failed)
		}
		return nil
	})
	return listed, err
}

// note adds a line and has it on the disk, unless its buyer is listed already.
func (l erasureList) note(ctx context.Context, e erasure) (noted bool, err error) {
	line, err := json.Marshal(e)
	if err != nil {
		return false, err
	}
	err = l.locked(ctx, func() error {
		listed, mend, failed := l.load()
		if failed == nil {
			failed = mend()
		}
		if failed != nil || slices.ContainsFunc(listed, func(was erasure) bool { return was.Buyer == e.Buyer }) {
			return failed
		}
		noted = true
		return appendSynced(l.path, append(line, '\n'))
	})
	return noted && err == nil, err
}

// locked does something while nobody else reads or writes the list.
func (l erasureList) locked(ctx context.Context, do func() error) (err error) {
	lock := flock.New(l.path, flock.SetPermissions(0o600))
	if _, err = lock.TryLockContext(ctx, 10*time.Millisecond); err == nil {
		err = errors.Join(do(), lock.Unlock())
	}
	if err != nil {
		return fmt.Errorf("the list of erased buyers %s: %w", l.path, err)
	}
	return nil
}

// load parses the file, and says how to mend its end. A last line without its end
// that makes no sense was broken off while it was written, before anything else
// was done. Nonsense anywhere else is damage, and whom it named can't be known.
func (l erasureList) load() (listed []erasure, mend func() error, err error) {
	text, err := os.ReadFile(l.path)
	if err != nil {
		return nil, nil, err
	}
	rest, number := text, 0
	for len(rest) > 0 {
		line, next, ended := bytes.Cut(rest, []byte{'\n'})
		number++
		e, err := parseErasure(line)
		switch {
		case err != nil && !ended:
			l.log.Warn("the last line of the list of erased buyers was broken off: whom it should have named was not erased", "list", l.path, "line", string(line))
			whole := int64(len(text) - len(rest))
			return listed, func() error { return os.Truncate(l.path, whole) }, nil
		case err != nil:
			return nil, nil, fmt.Errorf("line %d: %w", number, err)
		case !ended:
			return append(listed, e), func() error { return appendSynced(l.path, []byte{'\n'}) }, nil
		case e.Buyer != "":
			listed = append(listed, e)
		}
		rest = next
	}
	return listed, func() error { return nil }, nil
}

// parseErasure reads a line. One with nothing in it is no erasure.
func parseErasure(line []byte) (e erasure, err error) {
	if len(bytes.TrimSpace(line)) == 0 {
		return e, nil
	}
	if err = json.Unmarshal(line, &e); err == nil {
		err = domain.CheckID("/buyer", e.Buyer)
	}
	if err != nil {
		return erasure{}, fmt.Errorf("%.60q names no erased buyer: %w", line, err)
	}
	return e, nil
}

// appendSynced appends to a file, which may be one just made, and brings it onto
// the disk.
func appendSynced(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // the operator names it
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}
