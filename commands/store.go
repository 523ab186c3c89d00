package commands

import (
	"context"
	"iter"

	"cartwright/domain/event"
)

// Store is all a command needs of an event store. Both methods may be called
// concurrently, wait no longer than ctx, and may be called again after any error.
type Store interface {
	// Load gives the events of stream behind revision after, in order. A stream
	// nobody wrote to is empty; a tombstoned one is event.ErrDeleted.
	Load(ctx context.Context, stream string, after event.Revision) iter.Seq2[event.Recorded, error]
	// Append adds events behind revision after, all or none. event.ErrConflict,
	// event.ErrTooLarge, event.ErrDeleted and event.ErrDenied say that it
	// certainly did not; after any other error the same events appended at the
	// same revision succeed without being there twice.
	Append(ctx context.Context, stream string, after event.Revision, events []event.Recorded) error
}
