package storetest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cartwright/domain/event"
)

// A Scavenger is a store that can throw away what it shows no more.
type Scavenger interface {
	Store
	Scavenge(ctx context.Context) error
}

// RunScavenged checks that throwing away what is not shown changes nothing that
// is. open gives an empty store, and closes it by t.Cleanup.
func RunScavenged(t *testing.T, open func(t *testing.T) Scavenger) {
	t.Helper()
	for name, check := range map[string]func(*testing.T, Scavenger){
		"a scavenge changes nothing that is shown":              scavengeShowsTheSame,
		"a scavenge of all that is shown throws nothing away":   scavengeOfNothing,
		"a scavenged stream goes on with its next revision":     scavengeGoesOn,
		"a scavenged tombstone ends its stream for ever":        scavengeTombstone,
		"the log goes on behind what was scavenged at its end":  scavengeAtTheEnd,
		"following goes on across what was scavenged":           scavengeFollow,
		"a repeat of what was scavenged is a conflict, no harm": scavengeRepeat,
	} {
		t.Run(name, func(t *testing.T) { check(t, open(t)) })
	}
}

// mixed fills a store with streams of which some are limited and some ended.
func mixed(t *testing.T, s Store) (shown []event.Recorded) {
	t.Helper()
	for i := range 4 {
		for _, stream := range []string{"order-1", "snapshot-1", "key-1", "key-2", "relay-kafka"} {
			e := Event("thing.happened", `{"of":"`+stream+`"}`)
			mustAppend(t, s, stream, event.Revision(i), e)
			if stream == "order-1" || stream == "key-2" || i == 3 && stream != "key-1" {
				shown = append(shown, e)
			}
		}
	}
	for _, stream := range []string{"snapshot-1", "relay-kafka"} {
		if err := s.KeepNewest(t.Context(), stream, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Tombstone(t.Context(), "key-1"); err != nil {
		t.Fatal(err)
	}
	return shown
}

func mustScavenge(t *testing.T, s Scavenger) {
	t.Helper()
	if err := s.Scavenge(t.Context()); err != nil {
		t.Fatalf("scavenge: %v", err)
	}
}

// streamsOf reads streams one by one, as their readers see them.
func streamsOf(t *testing.T, s Streams, names ...string) map[string][]event.Recorded {
	t.Helper()
	got := map[string][]event.Recorded{}
	for _, name := range names {
		got[name] = collect(t, s.Load(t.Context(), name, 0))
	}
	return got
}

func scavengeShowsTheSame(t *testing.T, s Scavenger) {
	t.Helper()
	shown := mixed(t, s)
	names := []string{"order-1", "snapshot-1", "key-2", "relay-kafka", "never-was"}
	before := streamsOf(t, s, names...)
	log := slices.DeleteFunc(collect(t, s.All(t.Context(), 0)), func(e event.Recorded) bool {
		return !slices.ContainsFunc(shown, func(w event.Recorded) bool { return w.ID == e.ID })
	})
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		mustScavenge(t, s)
		if diff := cmp.Diff(before, streamsOf(t, s, names...)); diff != "" {
			t.Fatalf("streams (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(log, collect(t, s.All(t.Context(), 0))); diff != "" {
			t.Fatalf("log, with its positions (-shown +got):\n%s", diff)
		}
		if now, err := s.Head(t.Context()); err != nil || now != head {
			t.Fatalf("the head was %d, is %d, %v", head, now, err)
		}
	}
}

func scavengeOfNothing(t *testing.T, s Scavenger) {
	t.Helper()
	mustScavenge(t, s)
	events := Events(5)
	mustAppend(t, s, "order-1", 0, events...)
	before := collect(t, s.All(t.Context(), 0))
	mustScavenge(t, s)
	if diff := cmp.Diff(before, collect(t, s.All(t.Context(), 0))); diff != "" {
		t.Fatalf("log (-before +after):\n%s", diff)
	}
}

func scavengeGoesOn(t *testing.T, s Scavenger) {
	t.Helper()
	mixed(t, s)
	mustScavenge(t, s)
	for i := range 3 {
		e := Event("thing.happened", `{}`)
		mustAppend(t, s, "snapshot-1", event.Revision(4+i), e)
		got := collect(t, s.Load(t.Context(), "snapshot-1", 0))
		wantIDs(t, "shown", got, []event.Recorded{e})
		if got[0].Revision != event.Revision(5+i) {
			t.Fatalf("revision %d, want %d", got[0].Revision, 5+i)
		}
		mustScavenge(t, s)
	}
	if err := s.Append(t.Context(), "snapshot-1", 0, Events(1)); !errors.Is(err, event.ErrConflict) {
		t.Errorf("an append to the beginning: %v", err)
	}
	if err := s.KeepNewest(t.Context(), "snapshot-1", 5); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, s.Load(t.Context(), "snapshot-1", 0)); len(got) != 1 {
		t.Errorf("what is gone came back: %d are shown", len(got))
	}
}

func scavengeTombstone(t *testing.T, s Scavenger) {
	t.Helper()
	mixed(t, s)
	mustScavenge(t, s)
	wantDeleted(t, s, "key-1")
	if err := s.Tombstone(t.Context(), "never-was"); err != nil {
		t.Fatal(err)
	}
	mustScavenge(t, s)
	wantDeleted(t, s, "never-was")
	wantDeleted(t, s, "key-1")
}

func scavengeAtTheEnd(t *testing.T, s Scavenger) {
	t.Helper()
	mustAppend(t, s, "order-1", 0, Events(1)...)
	mustAppend(t, s, "key-1", 0, Events(3)...)
	if err := s.Tombstone(t.Context(), "key-1"); err != nil {
		t.Fatal(err)
	}
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mustScavenge(t, s)
	mustAppend(t, s, "order-1", 1, Events(1)...)
	got := collect(t, s.All(t.Context(), head))
	if len(got) != 1 || got[0].Position <= head {
		t.Fatalf("behind %d stands %v", head, got)
	}
}

func scavengeFollow(t *testing.T, s Scavenger) {
	t.Helper()
	shown := mixed(t, s)
	mustScavenge(t, s)
	var got []event.Recorded
	for n, err := range s.Follow(limited(t), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if n.Event.Name != "" {
			got = append(got, n.Event)
		}
		if n.CaughtUp {
			if len(got) > len(shown) {
				break
			}
			last := Event("thing.happened", `{}`)
			shown = append(shown, last)
			mustAppend(t, s, "order-2", 0, last)
		}
		if len(got) == len(shown) && got[len(got)-1].Stream == "order-2" {
			break
		}
	}
	wantIDs(t, "followed", got, shown)
}

func scavengeRepeat(t *testing.T, s Scavenger) {
	t.Helper()
	events := Events(5)
	mustAppend(t, s, "snapshot-1", 0, events...)
	if err := s.KeepNewest(t.Context(), "snapshot-1", 2); err != nil {
		t.Fatal(err)
	}
	mustScavenge(t, s)
	mustAppend(t, s, "snapshot-1", 3, events[3:]...)
	if err := s.Append(t.Context(), "snapshot-1", 1, events[1:2]); !errors.Is(err, event.ErrConflict) {
		t.Fatalf("got %v", err)
	}
	wantIDs(t, "shown", collect(t, s.Load(t.Context(), "snapshot-1", 0)), events[3:])
}
