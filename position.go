package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cartwright/infra/relay"
)

// rememberEvery is how often it is written down how far the views are on the
// disk, when they have read everything there is.
const rememberEvery = 5 * time.Second

// rememberViews writes down a position that everything up to was applied to the
// views and is on the disk. It is what the relay, wherever it runs, had published
// before the group was found to have read all there was, and before the views
// were synced.
func (r *running) rememberViews(ctx context.Context) {
	tick := time.NewTicker(rememberEvery)
	defer tick.Stop()
	last := uint64(0)
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		at, err := r.rememberOnce(ctx, last)
		if err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "can't write down how far the views are", "err", err)
			continue
		}
		last = at
	}
}

func (r *running) rememberOnce(ctx context.Context, last uint64) (uint64, error) {
	at, err := r.relayed(ctx)
	if err != nil || at == last {
		return last, err
	}
	if lag, err := r.meter.Lag(ctx); err != nil || lag > 0 {
		return last, err
	}
	if err := r.views.sync(ctx); err != nil {
		return last, err
	}
	return at, writePosition(r.folder.path, appliedPosition, at)
}

// relayed is how far the log is on the bus, as far as the relay has said.
func (r *running) relayed(ctx context.Context) (uint64, error) {
	if r.relay != nil {
		if at := r.relay.Status(); !at.Standby {
			return at.Position, nil
		}
	}
	return relay.Bookmark(ctx, r.store, r.bookmark)
}

// leaveFile is there while nobody has the views open who was not killed.
func leaveFile(data string) string { return filepath.Join(data, "views", "closed") }

// takeLeave tells whether the views were closed as they should be, once.
func takeLeave(data string) (bool, error) {
	err := os.Remove(leaveFile(data))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// giveLeave says that the views were closed as they should be.
func giveLeave(data string) error { return os.WriteFile(leaveFile(data), nil, 0o600) }

func positionFile(data, name string) string { return filepath.Join(data, "views", name) }

// appliedPosition names the position that everything up to is in the views.
const appliedPosition = "position"

// readPosition gives the position that was written down, 0 where there is none.
func readPosition(data, name string) (uint64, error) {
	text, err := os.ReadFile(positionFile(data, name))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	at, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, nil //nolint:nilerr // a torn file: from the beginning is always right
	}
	return at, nil
}

func writePosition(data, name string, at uint64) error {
	tmp := positionFile(data, name) + ".new"
	if err := os.MkdirAll(filepath.Dir(tmp), 0o750); err != nil {
		return err
	}
	f, err := os.Create(tmp) //nolint:gosec // in our own data folder
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.FormatUint(at, 10) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, positionFile(data, name))
}
