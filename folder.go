package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// A folder is the data folder of this process. One process owns it, since
// Pebble allows no second; the others find in run/ where to ask the owner.
type folder struct {
	path string
	lock *flock.Flock
}

// errOwned says that another process has the data folder.
var errOwned = errors.New("another process owns the data folder")

// own takes the folder, making it where it is missing.
func own(path string) (*folder, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data folder %s: %w", path, err)
	}
	if err = os.MkdirAll(filepath.Join(abs, "run"), 0o750); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	lock := flock.New(filepath.Join(abs, "LOCK"))
	taken, err := lock.TryLock()
	switch {
	case err != nil:
		return nil, fmt.Errorf("lock data folder %s: %w", abs, err)
	case !taken:
		return nil, fmt.Errorf("%s: %w", abs, errOwned)
	}
	return &folder{path: abs, lock: lock}, nil
}

// handover is how long a part waits for the folder of a process that is ending.
const handover = 3 * time.Second

// ownSoon takes the folder from a process that is just ending, such as one that
// was killed a moment ago.
func ownSoon(ctx context.Context, path string) (*folder, error) {
	for deadline := time.Now().Add(handover); ; {
		f, err := own(path)
		if !errors.Is(err, errOwned) || time.Now().After(deadline) {
			return f, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (f *folder) run(name string) string { return runFile(f.path, name) }

func runFile(data, name string) string { return filepath.Join(data, "run", name) }

// socket gives the path of a socket in run/. A socket's path may have no more
// than some 100 bytes, so a deep folder's sockets go where the system keeps
// its temporary files, and run/ has a link to them.
func (f *folder) socket(name string) (string, error) {
	path := f.run(name)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if len(path) < 100 {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "cartwright-")
	if err != nil {
		return "", fmt.Errorf("folder for the socket %s: %w", name, err)
	}
	short := filepath.Join(dir, name)
	if err := os.Symlink(short, path); err != nil {
		return "", err
	}
	return short, nil
}

// write leaves a word for others in run/.
func (f *folder) write(name, word string) error {
	tmp := f.run("." + name)
	if err := os.WriteFile(tmp, []byte(word+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, f.run(name))
}

// Close takes everything out of run/ and gives the folder up.
func (f *folder) Close() error {
	var errs []error
	for _, name := range []string{"node.sock", "admin.sock", "kafka", "http", "metrics", "pprof"} {
		path := f.run(name)
		if target, err := os.Readlink(path); err == nil {
			errs = append(errs, os.RemoveAll(filepath.Dir(target)))
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, f.lock.Unlock())...)
}

// ownerSays reads a word that the owner of a data folder left.
func ownerSays(data, name string) (string, error) {
	word, err := os.ReadFile(runFile(data, name))
	if err != nil {
		return "", fmt.Errorf("the owner of %s left no %s: %w", data, name, err)
	}
	return strings.TrimSpace(string(word)), nil
}

// ownerSocket finds a socket of the owner, by its short path.
func ownerSocket(data, name string) (string, error) {
	path, err := filepath.EvalSymlinks(runFile(data, name))
	if err != nil {
		return "", fmt.Errorf("the owner of %s listens on no %s: %w", data, name, err)
	}
	return filepath.Abs(path)
}
