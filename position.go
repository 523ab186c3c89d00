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
)

// rememberEvery is how often it is written down how far the views are on the
// disk, when they have read everything there is.
const rememberEvery = 5 * time.Second

// rememberViews writes down a position that everything up to was applied to the
// views and is on the disk. It is what the relay had published before the group
// was found to have read all there was, and before the views were synced.
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
		at := r.relay.Status().Position
		if at == last {
			continue
		}
		lag, err := r.meter.Lag(ctx)
		if err == nil && lag > 0 {
			continue
		}
		if err == nil {
			err = r.views.sync(ctx)
		}
		if err == nil {
			err = writePosition(r.folder.path, at)
		}
		if err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "can't write down how far the views are", "err", err)
			continue
		}
		last = at
	}
}

func positionFile(data string) string { return filepath.Join(data, "views", "position") }

// readPosition gives the position that was written down, 0 where there is none.
func readPosition(data string) (uint64, error) {
	text, err := os.ReadFile(positionFile(data))
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

func writePosition(data string, at uint64) error {
	tmp := positionFile(data) + ".new"
	f, err := os.Create(tmp) //nolint:gosec // in our own data folder
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.FormatUint(at, 10) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, positionFile(data))
}
