package personal

import (
	"errors"
	"fmt"
	"slices"

	"cartwright/domain"
	"cartwright/domain/event"
)

// Command is a wish: it may be refused.
//
//sumtype:decl
type Command interface{ command() }

// Create stores a buyer's key, wrapped. If there is one already it stays, and
// this one is forgotten: who asked has to use what the stream holds.
type Create struct {
	Wrapped []byte
	Master  string // the id of the master key it is wrapped by
}

func (Create) command() {}

// Event is a fact: it is never refused, only found impossible.
//
//sumtype:decl
type Event interface{ event() }

// KeyCreated stored a buyer's key.
type KeyCreated struct {
	Wrapped []byte `json:"wrapped"`
	Master  string `json:"master"`
}

func (KeyCreated) event() {}

// Types lists the events as they are stored.
func Types() []event.Type {
	return []event.Type{event.Of[KeyCreated]("key.created")}
}

// Key is the state of one buyer's key.
type Key struct {
	Wrapped []byte `json:"wrapped,omitempty"`
	Master  string `json:"master,omitempty"`
}

// Decider is the aggregate of one buyer's key.
var Decider = domain.Decider[Key, Command, Event]{
	Decide: decide,
	Evolve: evolve,
	Clone:  func(k Key) Key { return Key{slices.Clone(k.Wrapped), k.Master} },
}

func decide(k Key, c Command) ([]Event, error) {
	create, ok := c.(Create)
	switch {
	case !ok:
		return nil, fmt.Errorf("no command %T on a key", c)
	case k.Wrapped != nil:
		return nil, nil
	case len(create.Wrapped) == 0 || create.Master == "":
		return nil, errors.New("a key is stored wrapped, with the name of what wraps it") // ours, not a caller's
	}
	return []Event{KeyCreated(create)}, nil
}

func evolve(k Key, e Event) (Key, error) {
	created, ok := e.(KeyCreated)
	switch {
	case !ok:
		return k, fmt.Errorf("no event %T on a key", e)
	case k.Wrapped != nil:
		return k, errors.New("a second key created")
	case len(created.Wrapped) == 0:
		return k, errors.New("an empty key created")
	}
	return Key(created), nil
}
