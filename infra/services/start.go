package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Start starts services ("kafka", or several with spaces between) for one test
// alone, in a folder of its own, and stops them when it ends.
func Start(tb testing.TB, wanted string) Env {
	tb.Helper()
	dir, err := os.MkdirTemp("", "services-") //nolint:usetesting // that puts the test's name in: Kafka splits its folder's name at commas
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		err := run(context.WithoutCancel(tb.Context()), "down.sh", "", dir)
		if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
			tb.Errorf("stop %s: %v", wanted, err)
		}
	})
	return up(tb, dir, wanted)
}

// Restart starts those of the services that do not run, where they were.
func (e Env) Restart(tb testing.TB, wanted string) {
	tb.Helper()
	up(tb, e.Dir, wanted)
}

// Kill ends a server as a loss of power would. The process is "kafka",
// "elasticsearch", "redis" or "redis-cluster".
func (e Env) Kill(tb testing.TB, process string) {
	tb.Helper()
	if err := e.signal(process, syscall.SIGKILL); err != nil {
		tb.Fatalf("kill %s: %v", process, err)
	}
}

// Pause stops a server without ending it: connections stand, and nothing
// answers, until Resume.
func (e Env) Pause(tb testing.TB, process string) {
	tb.Helper()
	if err := e.signal(process, syscall.SIGSTOP); err != nil {
		tb.Fatalf("pause %s: %v", process, err)
	}
}

// Resume lets a paused server go on.
func (e Env) Resume(tb testing.TB, process string) {
	tb.Helper()
	if err := e.signal(process, syscall.SIGCONT); err != nil {
		tb.Fatalf("resume %s: %v", process, err)
	}
}

func (e Env) signal(process string, s syscall.Signal) error {
	text, err := os.ReadFile(filepath.Join(e.Dir, process, "pid")) //nolint:gosec // up.sh has written it
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("pid: %w", err)
	}
	return syscall.Kill(pid, s)
}

func up(tb testing.TB, dir, wanted string) Env {
	tb.Helper()
	if err := run(tb.Context(), "up.sh", wanted, dir); err != nil {
		tb.Fatalf("start %s: %v", wanted, err)
	}
	e, err := Load(filepath.Join(dir, "env"))
	if err != nil {
		tb.Fatalf("where the servers are: %v", err)
	}
	return e
}

// run runs one of the scripts beside this file.
func run(ctx context.Context, script, wanted, dir string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	var said bytes.Buffer
	c := exec.CommandContext(ctx, filepath.Join(root, "infra", "services", script), dir) //nolint:gosec // our own
	c.Env = append(os.Environ(), "SERVICES="+wanted)
	c.Stderr = &said
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", script, dir, err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

// moduleRoot finds the repository from the folder of the package under test.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod above the test's folder")
		}
		dir = parent
	}
}
