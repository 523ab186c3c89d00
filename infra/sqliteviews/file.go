package sqliteviews

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// A file is one database: the first, which knows the generations of all views
// and has those that no replay has built, or that of one generation.
type file struct {
	path  string
	write *writer
	read  *pool
	gone  atomic.Bool
}

func (d *DB) openFile(ctx context.Context, path string) (*file, error) {
	w, err := openWriter(ctx, dsn(path, "cache_size(-32768)", "wal_autocheckpoint("+liveLog+")"))
	if err != nil {
		return nil, err
	}
	if err = w.do(ctx, migrate); err != nil {
		return nil, errors.Join(err, w.close())
	}
	read, err := openPool(dsn(path, "query_only(1)", "cache_size(-8192)"))
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	f := &file{path: path, write: w, read: read}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files[f] = true
	return f, nil
}

func (d *DB) closeFile(f *file) error {
	d.mu.Lock()
	delete(d.files, f)
	d.mu.Unlock()
	f.gone.Store(true)
	return errors.Join(f.read.close(), f.write.close())
}

// removeFile deletes the file of a generation that nobody uses any more.
func (d *DB) removeFile(f *file) error {
	return errors.Join(d.closeFile(f), remove(f.path))
}

// remove deletes a database that nobody has open, as far as it is there.
func remove(path string) error {
	var err error
	for _, part := range []string{path, path + "-wal", path + "-shm"} {
		if gone := os.Remove(part); !errors.Is(gone, os.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	return err
}

// path is where a generation is that has a file of its own.
func (v *Views[V]) path(number int) string {
	return filepath.Join(v.db.dir, v.name+"-"+strconv.Itoa(number)+".db")
}

// sweep deletes the files of generations that the lineage does not know: a
// process may end between the two.
func (v *Views[V]) sweep(known []int) error {
	entries, err := os.ReadDir(v.db.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name, ours := strings.CutPrefix(entry.Name(), v.name+"-")
		name, whole := strings.CutSuffix(name, ".db")
		number, err := strconv.Atoi(name)
		if err != nil || !ours || !whole || slices.Contains(known, number) {
			continue
		}
		if err := remove(v.path(number)); err != nil {
			return fmt.Errorf("delete what is left of generation %d: %w", number, err)
		}
	}
	return nil
}
