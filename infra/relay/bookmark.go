package relay

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/google/uuid"

	"cartwright/domain/event"
)

// Marks is the event store that keeps the bookmark, with the promises of
// commands.Store. KeepNewest lets it show only the newest n events of a stream.
type Marks interface {
	Load(ctx context.Context, stream string, after event.Revision) iter.Seq2[event.Recorded, error]
	Append(ctx context.Context, stream string, after event.Revision, events []event.Recorded) error
	KeepNewest(ctx context.Context, stream string, n int) error
}

// Moved is the event that says how far a relay has come: everything up to
// Position was published.
type Moved struct {
	Position uint64 `json:"position"`
}

// Types are the events that relays store, each under its name for ever.
func Types() []event.Type { return []event.Type{event.Of[Moved]("relay.moved")} }

// A bookmark is the newest event of a stream, as one relay knows it.
type bookmark struct {
	marks    Marks
	events   *event.Registry
	stream   string
	revision event.Revision
	position uint64

	trimmed   bool // the store shows only the newest
	unsettled *event.Recorded
}

func openBookmark(ctx context.Context, m Marks, name string) (*bookmark, error) {
	events, err := event.NewRegistry(Types()...)
	if err != nil {
		return nil, err
	}
	b := &bookmark{marks: m, events: events, stream: "relay-" + name}
	shown := 0
	for rec, err := range m.Load(ctx, b.stream, 0) {
		if err != nil {
			return nil, fmt.Errorf("load bookmark %s: %w", b.stream, err)
		}
		moved, err := event.Decode[Moved](events, rec)
		if err != nil {
			return nil, fmt.Errorf("load bookmark: %w", err)
		}
		b.revision, b.position = rec.Revision, moved.Position
		shown++
	}
	b.trimmed = b.revision > 1 && shown == 1
	return b, nil
}

// Bookmark is how far the relay of that name has come: everything up to there
// was published, and usually more.
func Bookmark(ctx context.Context, m Marks, name string) (uint64, error) {
	b, err := openBookmark(ctx, m, name)
	if err != nil {
		return 0, err
	}
	return b.position, nil
}

// Remember writes down a position under a name, for Bookmark to find, unless it
// is there or further on. Others that follow the log mark their places so too.
func Remember(ctx context.Context, m Marks, name string, position uint64) error {
	for {
		b, err := openBookmark(ctx, m, name)
		if err != nil || b.position >= position {
			return err
		}
		if err := b.move(ctx, position); !isConflict(err) {
			return err
		}
	}
}

// move writes a position. event.ErrConflict says that somebody else has. After
// any other error the outcome is unknown: the next move first makes the same
// append again, which settles it, and may then not be at the position asked for.
func (b *bookmark) move(ctx context.Context, position uint64) error {
	if b.unsettled == nil {
		rec, err := b.moved(position)
		if err != nil {
			return err
		}
		b.unsettled = &rec
	}
	err := b.marks.Append(ctx, b.stream, b.revision, []event.Recorded{*b.unsettled})
	if isConflict(err) {
		b.unsettled = nil
	}
	if err != nil {
		return fmt.Errorf("move bookmark %s: %w", b.stream, err)
	}
	settled, err := event.Decode[Moved](b.events, *b.unsettled)
	if err != nil {
		return err
	}
	b.revision, b.position, b.unsettled = b.revision+1, settled.Position, nil
	return b.trim(ctx)
}

func (b *bookmark) trim(ctx context.Context) error {
	if b.trimmed {
		return nil
	}
	if err := b.marks.KeepNewest(ctx, b.stream, 1); err != nil {
		return fmt.Errorf("keep only the newest of %s: %w", b.stream, err)
	}
	b.trimmed = true
	return nil
}

// moved makes an event with an id of its own: two relays that move the bookmark
// at one revision must not look like one that does so twice.
func (b *bookmark) moved(position uint64) (event.Recorded, error) {
	rec, err := b.events.Encode(Moved{position})
	if err != nil {
		return event.Recorded{}, err
	}
	rec.ID = uuid.NewString()
	rec.Actor, rec.Cause, rec.At = "relay", rec.ID, time.Now()
	return rec, nil
}

func isConflict(err error) bool { return errors.Is(err, event.ErrConflict) }
