package storetest

import (
	"errors"
	"testing"

	"cartwright/domain/event"
)

func keeperChecks() map[string]func(*testing.T, Store) {
	return map[string]func(*testing.T, Store){
		"a stream may show only its newest events": keepNewest,
		"a repeat is known though it is not shown": hiddenRepeat,
		"a tombstone ends a stream for ever":       tombstone,
		"a stream that never was may be ended":     tombstoneUnknown,
	}
}

func keepNewest(t *testing.T, s Store) {
	t.Helper()
	events := Events(6)
	mustAppend(t, s, "snapshot-1", 0, events[:3]...)
	if err := s.KeepNewest(t.Context(), "snapshot-1", 1); err != nil {
		t.Fatal(err)
	}
	for i, e := range events[3:] {
		mustAppend(t, s, "snapshot-1", event.Revision(3+i), e)
		got := collect(t, s.Load(t.Context(), "snapshot-1", 0))
		wantIDs(t, "shown", got, events[3+i:4+i])
		if got[0].Revision != event.Revision(4+i) {
			t.Fatalf("revision %d, want it to count what is not shown: %d", got[0].Revision, 4+i)
		}
	}
	if err := s.KeepNewest(t.Context(), "snapshot-1", 2); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, s.Load(t.Context(), "snapshot-1", 0)); len(got) > 2 || len(got) == 0 {
		t.Fatalf("%d are shown", len(got))
	}
	if err := s.KeepNewest(t.Context(), "snapshot-1", 0); err == nil {
		t.Fatal("keeping none was taken")
	}
}

func hiddenRepeat(t *testing.T, s Store) {
	t.Helper()
	events := Events(5)
	mustAppend(t, s, "snapshot-1", 0, events...)
	if err := s.KeepNewest(t.Context(), "snapshot-1", 1); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, "snapshot-1", 1, events[1:3]...)
	if err := s.Append(t.Context(), "snapshot-1", 1, Events(1)); !errors.Is(err, event.ErrConflict) {
		t.Fatalf("got %v", err)
	}
	wantIDs(t, "shown", collect(t, s.Load(t.Context(), "snapshot-1", 0)), events[4:])
}

func tombstone(t *testing.T, s Store) {
	t.Helper()
	events := Events(2)
	mustAppend(t, s, "key-1", 0, events...)
	mustAppend(t, s, "key-2", 0, Events(1)...)
	if err := s.Tombstone(t.Context(), "key-1"); err != nil {
		t.Fatal(err)
	}
	wantDeleted(t, s, "key-1")
	if err := s.Append(t.Context(), "key-1", 0, events); !errors.Is(err, event.ErrDeleted) {
		t.Errorf("a repeat: %v", err)
	}
	if got := collect(t, s.Load(t.Context(), "key-2", 0)); len(got) != 1 {
		t.Errorf("another stream has %d events", len(got))
	}
	for n, err := range s.Follow(limited(t), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if n.Event.Name != "" && n.Event.Name != "thing.happened" {
			t.Errorf("the tombstone is told as an event: %v", n.Event)
		}
		if n.CaughtUp {
			break
		}
	}
}

func wantDeleted(t *testing.T, s Store, stream string) {
	t.Helper()
	var last error
	for _, err := range s.Load(t.Context(), stream, 0) {
		last = err
	}
	if !errors.Is(last, event.ErrDeleted) {
		t.Errorf("load: %v", last)
	}
	for _, after := range []event.Revision{0, 1, 2} {
		if err := s.Append(t.Context(), stream, after, Events(1)); !errors.Is(err, event.ErrDeleted) {
			t.Errorf("append after %d: %v", after, err)
		}
	}
	if err := s.Tombstone(t.Context(), stream); !errors.Is(err, event.ErrDeleted) {
		t.Errorf("a second tombstone: %v", err)
	}
	if err := s.KeepNewest(t.Context(), stream, 1); !errors.Is(err, event.ErrDeleted) {
		t.Errorf("keep newest: %v", err)
	}
}

func tombstoneUnknown(t *testing.T, s Store) {
	t.Helper()
	if err := s.Tombstone(t.Context(), "key-1"); err != nil {
		t.Fatal(err)
	}
	wantDeleted(t, s, "key-1")
}
