// Package event says how facts are named, versioned, stored and read back.
//
// A stored name is dotted, lower case and for ever; its version is one more
// than the number of its upcasts. Streams are named <category>-<id>, and the
// category is what stands before the first dash.
package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Revision counts the events of one stream: 0 is the empty stream, 1 has one event.
type Revision uint64

// Meta is what every event says about how it came to be.
type Meta struct {
	Cause       string    // the command's id: a UUID, or "<event id>/<index>" for a process
	Digest      string    // of the command's body: the same cause with another digest is another command
	Correlation string    // the checkout it all began with
	Actor       string    // who asked
	At          time.Time // when it happened, which an import sets to the past
	Trace       string    // a W3C traceparent
}

// Recorded is an event as the store takes it and gives it back. A writer fills
// ID, Name, Version, Data and Meta; the store knows the rest.
type Recorded struct {
	Meta
	Stream   string
	Revision Revision
	Position uint64 // its place among all events of the store; never 0 for a stored one
	ID       string // a UUID
	Name     string
	Version  int
	Data     json.RawMessage
	Created  time.Time // when the store took it
}

// A Notice is what following the whole log yields: an event, or, with an empty
// Name in Event, word of how far the log has been looked through.
type Notice struct {
	Event    Recorded
	Position uint64
	CaughtUp bool // everything that was in the log has been seen
}

// What a store answers when it did certainly not append. Any other error
// leaves the outcome unknown: the same append at the same revision settles it.
var (
	// ErrConflict reports an append after a revision the stream is no longer at.
	ErrConflict = errors.New("stream has moved on")
	// ErrTooLarge reports an append larger than the store takes at once.
	ErrTooLarge = errors.New("append is too large")
	// ErrDeleted reports a stream that was tombstoned.
	ErrDeleted = errors.New("stream is deleted")
	// ErrDenied reports a store that does not let this caller do what it asks:
	// wrong credentials, a missing right, a certificate that is not accepted. It
	// is no outage, and does not pass by waiting. Any call may be answered by it.
	ErrDenied = errors.New("access is denied")
)

// Category is what stands before the first dash of a stream's name.
func Category(stream string) string {
	category, _, _ := strings.Cut(stream, "-")
	return category
}

// SubjectID is what stands after the first dash of a stream's name.
func SubjectID(stream string) string {
	_, id, _ := strings.Cut(stream, "-")
	return id
}

// An Upcast lifts stored JSON from one version of a type to the next.
type Upcast func(json.RawMessage) (json.RawMessage, error)

// A Type ties a stored name to a Go type.
type Type struct {
	Name    string
	Version int
	goType  reflect.Type
	decode  func(unmarshal func([]byte, any) error, version int, raw json.RawMessage) (any, error)
}

// Of describes T as stored under name. Its version is one more than the number
// of upcasts, so the two cannot disagree.
func Of[T any](name string, lift ...Upcast) Type {
	decode := func(unmarshal func([]byte, any) error, version int, raw json.RawMessage) (any, error) {
		for _, up := range lift[version-1:] {
			next, err := up(raw)
			if err != nil {
				return nil, err
			}
			raw = next
		}
		var e T
		err := unmarshal(raw, &e)
		return e, err
	}
	return Type{name, 1 + len(lift), reflect.TypeFor[T](), decode}
}

// A Registry turns events into what is stored, and back.
type Registry struct {
	// Unmarshal reads stored JSON as encoding/json does, which is what
	// NewRegistry puts here; set another before the registry is used.
	Unmarshal func(data []byte, into any) error

	byName map[string]Type
	byGo   map[reflect.Type]Type
}

// NewRegistry refuses two types of one name and one type of two names.
func NewRegistry(types ...Type) (*Registry, error) {
	r := &Registry{json.Unmarshal, map[string]Type{}, map[reflect.Type]Type{}}
	for _, t := range types {
		if _, dup := r.byName[t.Name]; dup {
			return nil, fmt.Errorf("event name %q registered twice", t.Name)
		}
		if _, dup := r.byGo[t.goType]; dup {
			return nil, fmt.Errorf("event type %v registered twice", t.goType)
		}
		r.byName[t.Name], r.byGo[t.goType] = t, t
	}
	return r, nil
}

// Encode gives e its stored form.
func (r *Registry) Encode(e any) (Recorded, error) {
	t, ok := r.byGo[reflect.TypeOf(e)]
	if !ok {
		return Recorded{}, fmt.Errorf("event type %T is not registered", e)
	}
	data, err := json.Marshal(e)
	return Recorded{Name: t.Name, Version: t.Version, Data: data}, err
}

// Decode gives back the event a record holds, in its newest shape.
func (r *Registry) Decode(rec Recorded) (any, error) {
	t, ok := r.byName[rec.Name]
	if !ok || rec.Version < 1 || rec.Version > t.Version {
		return nil, fmt.Errorf("%s revision %d: no event %s v%d is known here", rec.Stream, rec.Revision, rec.Name, rec.Version)
	}
	e, err := t.decode(r.Unmarshal, rec.Version, rec.Data)
	if err != nil {
		return nil, fmt.Errorf("%s revision %d: decode %s v%d: %w", rec.Stream, rec.Revision, rec.Name, rec.Version, err)
	}
	return e, nil
}

// Decode gives back the event a record holds as an E, the aggregate's own kind.
func Decode[E any](r *Registry, rec Recorded) (E, error) {
	e, err := r.Decode(rec)
	if err != nil {
		var none E
		return none, err
	}
	own, ok := e.(E)
	if !ok {
		return own, fmt.Errorf("%s does not belong in stream %s", rec.Name, rec.Stream)
	}
	return own, nil
}

// CorruptError reports a history that cannot have happened, or cannot be read.
// It has no code on purpose: nothing a caller does can help.
type CorruptError struct {
	Stream   string
	Revision Revision
	Err      error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("corrupt history: %s revision %d: %v", e.Stream, e.Revision, e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }
