// Package faults makes stores fail on purpose, the same way every time.
package faults

import (
	"context"
	"errors"
	"iter"

	"cartwright/commands"
	"cartwright/domain/event"
)

// ErrInjected is the fault.
var ErrInjected = errors.New("injected fault")

// Store fails where its hooks say. AfterAppend is the cruel one: the events
// are in, but the caller never hears of it.
type Store struct {
	commands.Store
	BeforeLoad, BeforeAppend, AfterAppend func(stream string) error
}

// Load implements commands.Store.
func (s Store) Load(ctx context.Context, stream string, after event.Revision) iter.Seq2[event.Recorded, error] {
	if err := ask(s.BeforeLoad, stream); err != nil {
		return func(yield func(event.Recorded, error) bool) { yield(event.Recorded{}, err) }
	}
	return s.Store.Load(ctx, stream, after)
}

// Append implements commands.Store.
func (s Store) Append(ctx context.Context, stream string, after event.Revision, events []event.Recorded) error {
	if err := ask(s.BeforeAppend, stream); err != nil {
		return err
	}
	if err := s.Store.Append(ctx, stream, after, events); err != nil {
		return err
	}
	return ask(s.AfterAppend, stream)
}

func ask(hook func(string) error, stream string) error {
	if hook == nil {
		return nil
	}
	return hook(stream)
}
