package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"cartwright/domain/event"
)

// Denied checks that every call to a store that lets its caller do nothing says
// so, soon, and in a way that nobody takes for an outage or a conflict.
func Denied(t *testing.T, s Store) {
	t.Helper()
	lastOf := func(ctx context.Context) error {
		var last error
		for _, err := range s.Follow(ctx, 0) {
			last = err
		}
		return last
	}
	for name, call := range map[string]func(context.Context) error{
		"append": func(ctx context.Context) error { return s.Append(ctx, "order-1", 0, Events(1)) },
		"load":   func(ctx context.Context) error { return lastError(s.Load(ctx, "order-1", 0)) },
		"all":    func(ctx context.Context) error { return lastError(s.All(ctx, 0)) },
		"follow": lastOf,
		"head": func(ctx context.Context) error {
			_, err := s.Head(ctx)
			return err
		},
		"keep newest": func(ctx context.Context) error { return s.KeepNewest(ctx, "order-1", 1) },
		"tombstone":   func(ctx context.Context) error { return s.Tombstone(ctx, "order-1") },
	} {
		began := time.Now()
		err := call(limited(t))
		if !errors.Is(err, event.ErrDenied) || errors.Is(err, event.ErrConflict) || errors.Is(err, event.ErrDeleted) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took > patience/2 {
			t.Errorf("%s took %v to say so", name, took)
		}
	}
}

func lastError(all func(func(event.Recorded, error) bool)) error {
	var last error
	all(func(_ event.Recorded, err error) bool {
		last = err
		return true
	})
	return last
}
