package esdbstore

import (
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"

	"cartwright/domain/event"
)

// Stored is an event as a store has it that is read without the client, because
// it lives in the same process.
type Stored struct {
	Stream           string
	Number, Position uint64
	ID               [16]byte
	Type             string
	Meta, Data       []byte
	Created          time.Time
}

// Recorded gives the event as the rest of us knows it, as if it had come by the
// client. It is false for what is the store's own.
func (s Stored) Recorded() (r event.Recorded, ok bool) {
	if s.Type == "" || s.Type[0] == '$' {
		return event.Recorded{}, false
	}
	return recorded(&esdb.RecordedEvent{
		EventID: uuid.UUID(s.ID), EventType: s.Type, StreamID: s.Stream, EventNumber: s.Number,
		Position: esdb.Position{Commit: s.Position, Prepare: s.Position}, Data: s.Data, UserMetadata: s.Meta, CreatedDate: s.Created,
	}), true
}
