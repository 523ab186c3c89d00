package projections

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"cartwright/domain/event"
)

const (
	pollFirst = 2 * time.Millisecond
	pollLast  = 100 * time.Millisecond
)

// Seen tells how far a view is.
type Seen interface {
	// Revisions gives the revisions of the documents there are of some streams.
	Revisions(ctx context.Context, streams []string) (map[string]event.Revision, error)
	// Parked gives those of some streams that are parked.
	Parked(ctx context.Context, streams []string) (map[string]Parked, error)
}

// A ParkedError reports a stream that its view follows no further: waiting for
// it is of no use.
type ParkedError struct{ Parked }

func (e *ParkedError) Error() string {
	return fmt.Sprintf("%s is parked in %s at revision %d: %s", e.Stream, e.View, e.Revision, e.Reason)
}

// Wait returns when a view has some streams at these revisions or later, and
// with a *ParkedError at once when that can't be. Flushed is asked before each
// look and wakes it (nil where nothing signals); it looks now and then anyway,
// since another process may be the one that writes.
func Wait(ctx context.Context, view Seen, want map[string]event.Revision, flushed func() <-chan struct{}) error {
	poll := time.NewTimer(pollFirst)
	defer poll.Stop()
	for pause := pollFirst; ; pause = min(2*pause, pollLast) {
		var signal <-chan struct{}
		if flushed != nil {
			signal = flushed()
		}
		behind, err := missing(ctx, view, want)
		if err != nil || len(behind) == 0 {
			return err
		}
		poll.Reset(pause)
		select {
		case <-signal:
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %d streams, %s first: %w", len(behind), behind[0], ctx.Err())
		}
	}
}

// missing gives the streams that are not where they should be yet.
func missing(ctx context.Context, view Seen, want map[string]event.Revision) ([]string, error) {
	have, err := view.Revisions(ctx, slices.Sorted(maps.Keys(want)))
	if err != nil {
		return nil, fmt.Errorf("ask a view for %d revisions: %w", len(want), err)
	}
	var behind []string
	for _, stream := range slices.Sorted(maps.Keys(want)) {
		if have[stream] < want[stream] {
			behind = append(behind, stream)
		}
	}
	if len(behind) == 0 {
		return nil, nil
	}
	parked, err := view.Parked(ctx, behind)
	if err != nil {
		return nil, fmt.Errorf("ask a view for parked streams: %w", err)
	}
	return behind, hopeless(ctx, view, want, parked)
}

// hopeless reports a parked stream that is behind for good. Its last document
// was stored before it was parked, so revisions are asked for once more, now
// that it is known to be.
func hopeless(ctx context.Context, view Seen, want map[string]event.Revision, parked map[string]Parked) error {
	if len(parked) == 0 {
		return nil
	}
	streams := slices.Sorted(maps.Keys(parked))
	have, err := view.Revisions(ctx, streams)
	if err != nil {
		return fmt.Errorf("ask a view for %d revisions: %w", len(streams), err)
	}
	for _, stream := range streams {
		if have[stream] < want[stream] {
			return &ParkedError{parked[stream]}
		}
	}
	return nil
}
