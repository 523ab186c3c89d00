package projections

import (
	"context"
	"errors"
	"fmt"

	"cartwright/domain/event"
)

// A CorruptError says at which event a stream stops making sense. Nothing a
// reader does can help.
type CorruptError struct {
	Stream   string
	Revision event.Revision
	Err      error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is corrupt at revision %d: %v", e.Stream, e.Revision, e.Err)
}
func (e *CorruptError) Unwrap() error { return e.Err }

// Fold makes a document straight from its stream: what the view will show once
// it is there. A stream nobody wrote to gives a document at revision 0. A
// history that cannot have happened is a *CorruptError, with the document as
// it was before.
func Fold[V any](ctx context.Context, log Log, events *event.Registry, view View[V], stream string) (Doc[V], error) {
	doc, err := fold(ctx, log, events, view, stream, ^event.Revision(0))
	corrupt, ok := errors.AsType[*CorruptError](err)
	if !ok {
		return doc, err
	}
	// The refused event may have touched what it refused, so the document that
	// stands before it is made again.
	doc, err = fold(ctx, log, events, view, stream, corrupt.Revision-1)
	if err != nil {
		return doc, err
	}
	return doc, corrupt
}

// fold stops at a revision.
func fold[V any](
	ctx context.Context, log Log, events *event.Registry, view View[V], stream string, last event.Revision,
) (Doc[V], error) {
	doc := Doc[V]{Stream: stream}
	if last == 0 {
		return doc, nil
	}
	return resume(ctx, log, events, view, doc, last)
}

// resume adds to a document what its stream has behind it, up to a revision.
func resume[V any](
	ctx context.Context, log Log, events *event.Registry, view View[V], doc Doc[V], last event.Revision,
) (Doc[V], error) {
	for r, err := range log.Load(ctx, doc.Stream, doc.Revision) {
		switch {
		case errors.Is(err, event.ErrDeleted):
			return doc, &CorruptError{doc.Stream, doc.Revision + 1, err}
		case err != nil:
			return doc, fmt.Errorf("fold %s after %d: %w", doc.Stream, doc.Revision, err)
		}
		if doc, err = next(view, doc, Decode(events, r)); err != nil {
			return doc, err
		}
		if doc.Revision >= last {
			break
		}
	}
	return doc, nil
}

// next applies the event that follows a document.
func next[V any](view View[V], doc Doc[V], e Decoded) (Doc[V], error) {
	if e.Revision != doc.Revision+1 {
		return doc, &CorruptError{doc.Stream, doc.Revision + 1, fmt.Errorf("the log goes on with revision %d", e.Revision)}
	}
	if e.Err != nil {
		return doc, &CorruptError{doc.Stream, e.Revision, e.Err}
	}
	body, err := view.Apply(doc.Body, e.Recorded, e.Event)
	if err != nil {
		return doc, &CorruptError{doc.Stream, e.Revision, err}
	}
	doc.Body, doc.Revision = body, e.Revision
	return doc, nil
}

// Decoded is a recorded event with what it means, or with why it means nothing.
type Decoded struct {
	event.Recorded
	Event any
	Err   error
}

// Decode reads one event.
func Decode(events *event.Registry, r event.Recorded) Decoded {
	e, err := events.Decode(r)
	return Decoded{Recorded: r, Event: e, Err: err}
}
