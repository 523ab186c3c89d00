package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"cartwright/domain/stuck"
)

// processView is what the list of streams that a process could not follow up is
// called among the views.
const processView = "processes"

// A stuckNews is one stream that a process can't bring about.
type stuckNews struct {
	Stream string `json:"stream"`
	stuck.Entry
}

// aboutProcesses says that a job is about what processes have parked, and whether
// about nothing else.
func (j job) aboutProcesses() (also, only bool) {
	switch j.Do {
	case "parked", "show", "redrive", "drop":
	default:
		return false, false
	}
	also = len(j.Views) == 0 || slices.Contains(j.Views, processView) || slices.Equal(j.Views, []string{"all"})
	return also, also && slices.Equal(j.Views, []string{processView})
}

// doStuck carries out a job on what processes have parked. It says whether there
// was what the job named.
func (s *system) doStuck(ctx context.Context, j job, tell func(news) error) (did bool, err error) {
	waiting, err := s.shop.Stuck(ctx)
	if err != nil {
		return false, err
	}
	var errs []error
	for _, stream := range slices.Sorted(maps.Keys(waiting)) {
		if j.Stream != "" && j.Stream != stream {
			continue
		}
		did = true
		entry := waiting[stream]
		switch j.Do {
		case "redrive":
			err := s.shop.Retry(ctx, stream, "operator")
			if err == nil {
				continue
			}
			if ctx.Err() != nil {
				return true, err
			}
			entry.Reason = err.Error() // why it is stuck now
		case "drop":
			if err := s.shop.DropStuck(ctx, stream, j.By, j.Reason); err != nil {
				return true, err
			}
			s.log.WarnContext(ctx, "a parked stream was given up", "view", processView, "stream", stream, "reason", j.Reason, "by", j.By)
		}
		errs = append(errs, tell(news{View: processView, Stuck: &stuckNews{stream, entry}}))
	}
	return did, errors.Join(errs...)
}

func showStuck(w io.Writer, n stuckNews) error {
	_, err := fmt.Fprintf(w, "%s: %s can't be followed up after %s, since %s, %d tries: %s\n",
		processView, n.Stream, n.Event, n.Since.UTC().Format(time.RFC3339), n.Tries, n.Reason)
	return err
}
