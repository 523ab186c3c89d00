package projections

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"cartwright/domain/event"
)

// A View says what one kind of document is: which streams have one, and what
// an event makes of it. Apply is pure; it refuses what cannot have happened.
// It may reuse the inside of the document it is given, so the caller must not
// look at the old one again, after an error neither.
type View[V any] struct {
	Name       string
	Categories []string // of the streams that have a document in it
	Apply      func(doc V, r event.Recorded, decoded any) (V, error)

	// Settle takes from a document what is of no use once it is stored. Nil
	// where there is no such thing.
	Settle func(doc V) V

	// Parties tells whose stream it is, where an event says so. Nil where none does.
	Parties func(decoded any) (buyer, seller string)
}

// Wants tells whether streams of a category have documents here.
func (v View[V]) Wants(category string) bool { return slices.Contains(v.Categories, category) }

// Concerns keeps of some streams' revisions those that this view can reach.
func (v View[V]) Concerns(streams map[string]event.Revision) map[string]event.Revision {
	ours := make(map[string]event.Revision, len(streams))
	for stream, at := range streams {
		if v.Wants(event.Category(stream)) {
			ours[stream] = at
		}
	}
	return ours
}

// Prefixes are the beginnings of the names of the view's streams.
func (v View[V]) Prefixes() []string {
	prefixes := make([]string, len(v.Categories))
	for i, category := range v.Categories {
		prefixes[i] = category + "-"
	}
	return prefixes
}

// A Log gives the events of one stream behind a revision, in order. It may be
// called concurrently.
type Log interface {
	Load(ctx context.Context, stream string, after event.Revision) iter.Seq2[event.Recorded, error]
}

// A Source gives all events behind a position whose streams begin with one of
// the prefixes, up to the end of the log as of now.
type Source interface {
	All(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[event.Recorded, error]
}

// when says when something happened, to the microsecond: no view keeps time
// finer, so that what a list is ordered by is what it shows.
func when(r event.Recorded) time.Time {
	at := r.At
	if at.IsZero() {
		at = r.Created
	}
	return at.UTC().Truncate(time.Microsecond)
}

// own takes a decoded event as one of an aggregate's own kind E.
func own[E any](r event.Recorded, decoded any) (E, error) {
	e, ok := decoded.(E)
	if !ok {
		return e, fmt.Errorf("%s does not belong in stream %s", r.Name, r.Stream)
	}
	return e, nil
}
