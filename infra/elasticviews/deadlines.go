package elasticviews

import (
	"context"
	"fmt"
	"time"

	"cartwright/projections"
)

// Deadlines are the documents of streams' timers, found by when they are due.
type Deadlines struct{ *Views[projections.Timer] }

// NewDeadlines opens the view.
func NewDeadlines(ctx context.Context, db *DB) (*Deadlines, error) {
	name := projections.DeadlinesView().Name
	v, err := newViews(ctx, db, name, shape[projections.Timer]{
		kinds:    []kind{documents(name, map[string]any{"due": long})},
		searched: true,
		place:    anywhere,
		source:   func(doc projections.Doc[projections.Timer]) any { return fileTimer(doc) },
	})
	if err != nil {
		return nil, err
	}
	return &Deadlines{v}, nil
}

// A timerSource is a timer as it is stored.
type timerSource struct {
	Stream string            `json:"stream"`
	Due    *int64            `json:"due,omitempty"` // microseconds since 1970; none where there is nothing to look at
	Body   projections.Timer `json:"body"`
}

func fileTimer(doc projections.Doc[projections.Timer]) timerSource {
	s := timerSource{Stream: doc.Stream, Body: doc.Body}
	if !doc.Body.Due.IsZero() {
		due := stamp(doc.Body.Due)
		s.Due = &due
	}
	return s
}

// Due gives the first deadlines that are over at now, by when they were due.
func (d *Deadlines) Due(ctx context.Context, now time.Time, limit int) ([]projections.Deadline, error) {
	return d.DueAfter(ctx, projections.Deadline{}, now, limit)
}

// DueAfter goes on behind a deadline that was given before. A stock's or an
// account's deadline is a lower bound and may stay when it was looked at, so
// whoever looks at all of them goes on with this, not with Due.
func (d *Deadlines) DueAfter(
	ctx context.Context, after projections.Deadline, now time.Time, limit int,
) ([]projections.Deadline, error) {
	s := search{Index: d.alias(), Query: within("due", "lte", stamp(now)), Sort: []any{by("due", "asc"), by("stream", "asc")}}
	if !after.Due.IsZero() {
		s.After = []any{stamp(after.Due), after.Stream}
	}
	hits, err := searching(ctx, d.Views, func() ([]hit, error) { return d.db.c.list(ctx, s, limit) })
	if err != nil {
		return nil, fmt.Errorf("look for what is due: %w", err)
	}
	due := make([]projections.Deadline, len(hits))
	for i, h := range hits {
		at, err := number(h.Sort[0])
		if err != nil {
			return nil, fmt.Errorf("look for what is due: %s is due at %s: %w", h.ID, h.Sort[0], err)
		}
		due[i] = projections.Deadline{Stream: h.ID, Due: unstamp(at)}
	}
	return due, nil
}
