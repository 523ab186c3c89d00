package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/domain/event"
)

func streamChecks() map[string]func(*testing.T, Store) {
	return map[string]func(*testing.T, Store){
		"an unknown stream is empty":                                unknownIsEmpty,
		"one of many rival writers wins":                            oneWins,
		"an append is all or none":                                  allOrNone,
		"revisions are contiguous and positions grow":               ordered,
		"the same append at the same revision changes nothing":      repeatIsKnown,
		"a repeat is known after more events followed":              lateRepeatIsKnown,
		"other events at a taken revision conflict":                 takenConflicts,
		"an append beyond the end conflicts":                        beyondConflicts,
		"a repeat that says more than the first conflicts":          longerRepeatConflicts,
		"an append of nothing does nothing":                         nothingDoesNothing,
		"an append that is too large is refused and leaves nothing": tooLarge,
		"a load begins behind a revision":                           loadAfter,
		"a load may stop early":                                     loadStops,
		"an event comes back as it went in":                         roundTrip,
		"an event that says little comes back with little":          roundTripOfLittle,
		"an event without a usable id or name is refused":           badEvents,
		"many writers append to streams of their own":               manyStreams,
		"a long stream loads whole":                                 longStream,
		"an ended context ends an append and a load":                endedContext,
	}
}

func unknownIsEmpty(t *testing.T, s Store) {
	t.Helper()
	if got := collect(t, s.Load(t.Context(), "order-1", 0)); len(got) != 0 {
		t.Fatalf("got %v", got)
	}
	if got := collect(t, s.Load(t.Context(), "order-1", 7)); len(got) != 0 {
		t.Fatalf("after 7 got %v", got)
	}
}

func oneWins(t *testing.T, s Store) {
	t.Helper()
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			err := s.Append(t.Context(), "order-1", 0, Events(2))
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, event.ErrConflict):
				t.Errorf("losing: %v", err)
			}
		})
	}
	wg.Wait()
	if n := won.Load(); n != 1 {
		t.Fatalf("%d writers won", n)
	}
	if got := collect(t, s.Load(t.Context(), "order-1", 0)); len(got) != 2 {
		t.Fatalf("the stream has %d events, want the 2 of the winner", len(got))
	}
}

func allOrNone(t *testing.T, s Store) {
	t.Helper()
	mustAppend(t, s, "order-1", 0, Events(1)...)
	if err := s.Append(t.Context(), "order-1", 0, Events(3)); !errors.Is(err, event.ErrConflict) {
		t.Fatalf("got %v", err)
	}
	if got := collect(t, s.Load(t.Context(), "order-1", 0)); len(got) != 1 {
		t.Fatalf("a refused append left %d events", len(got)-1)
	}
}

func ordered(t *testing.T, s Store) {
	t.Helper()
	for i := range 5 {
		mustAppend(t, s, "order-1", event.Revision(3*i), Events(3)...)
		mustAppend(t, s, "order-2", event.Revision(i), Events(1)...)
	}
	last := uint64(0)
	for i, e := range collect(t, s.Load(t.Context(), "order-1", 0)) {
		if e.Revision != event.Revision(i)+1 || e.Stream != "order-1" {
			t.Fatalf("event %d is %s revision %d", i, e.Stream, e.Revision)
		}
		if e.Position <= last {
			t.Fatalf("revision %d has position %d, behind it stands %d", e.Revision, e.Position, last)
		}
		last = e.Position
	}
}

func repeatIsKnown(t *testing.T, s Store) {
	t.Helper()
	first, second := Events(2), Events(3)
	for range 3 {
		mustAppend(t, s, "order-1", 0, first...)
	}
	for range 3 {
		mustAppend(t, s, "order-1", 2, second...)
	}
	wantIDs(t, "stream", collect(t, s.Load(t.Context(), "order-1", 0)), append(first, second...))
}

func lateRepeatIsKnown(t *testing.T, s Store) {
	t.Helper()
	events := Events(30)
	for i := range events {
		mustAppend(t, s, "order-1", event.Revision(i), events[i])
	}
	mustAppend(t, s, "order-1", 0, events[0])
	mustAppend(t, s, "order-1", 0, events[:3]...) // the ids decide, not how they were cut
	mustAppend(t, s, "order-1", 12, events[12])
	wantIDs(t, "stream", collect(t, s.Load(t.Context(), "order-1", 0)), events)
}

func takenConflicts(t *testing.T, s Store) {
	t.Helper()
	events := Events(4)
	mustAppend(t, s, "order-1", 0, events...)
	for after := range event.Revision(4) {
		if err := s.Append(t.Context(), "order-1", after, Events(1)); !errors.Is(err, event.ErrConflict) {
			t.Fatalf("after %d: %v", after, err)
		}
	}
	if err := s.Append(t.Context(), "order-1", 1, []event.Recorded{events[1], Event("other", "{}")}); !errors.Is(err, event.ErrConflict) {
		t.Fatalf("half a repeat: %v", err)
	}
	if err := s.Append(t.Context(), "order-1", 1, events[:1]); !errors.Is(err, event.ErrConflict) {
		t.Fatalf("known events at another revision: %v", err)
	}
	wantIDs(t, "stream", collect(t, s.Load(t.Context(), "order-1", 0)), events)
}

func beyondConflicts(t *testing.T, s Store) {
	t.Helper()
	if err := s.Append(t.Context(), "order-1", 1, Events(1)); !errors.Is(err, event.ErrConflict) {
		t.Fatalf("on an unknown stream: %v", err)
	}
	mustAppend(t, s, "order-1", 0, Events(2)...)
	if err := s.Append(t.Context(), "order-1", 3, Events(1)); !errors.Is(err, event.ErrConflict) {
		t.Fatalf("got %v", err)
	}
}

func longerRepeatConflicts(t *testing.T, s Store) {
	t.Helper()
	events := Events(3)
	mustAppend(t, s, "order-1", 0, events[:2]...)
	if err := s.Append(t.Context(), "order-1", 0, events); !errors.Is(err, event.ErrConflict) {
		t.Fatalf("got %v", err)
	}
	wantIDs(t, "stream", collect(t, s.Load(t.Context(), "order-1", 0)), events[:2])
}

func nothingDoesNothing(t *testing.T, s Store) {
	t.Helper()
	mustAppend(t, s, "order-1", 0)
	mustAppend(t, s, "order-1", 9)
	if got := collect(t, s.Load(t.Context(), "order-1", 0)); len(got) != 0 {
		t.Fatalf("got %v", got)
	}
}

func tooLarge(t *testing.T, s Store) {
	t.Helper()
	half := `"` + strings.Repeat("x", 600<<10) + `"`
	for name, events := range map[string][]event.Recorded{
		"one event":  {Event("big", `"`+strings.Repeat("x", 1<<20)+`"`)},
		"two events": {Event("big", half), Event("big", half)},
	} {
		if err := s.Append(t.Context(), "order-1", 0, events); !errors.Is(err, event.ErrTooLarge) {
			t.Fatalf("%s: %v", name, err)
		}
	}
	mustAppend(t, s, "order-1", 0, Event("big", half))
	if got := collect(t, s.Load(t.Context(), "order-1", 0)); len(got) != 1 || len(got[0].Data) != len(half) {
		t.Fatalf("the stream has %d events", len(got))
	}
}

func loadAfter(t *testing.T, s Store) {
	t.Helper()
	events := Events(5)
	mustAppend(t, s, "order-1", 0, events...)
	for after := range event.Revision(7) {
		got := collect(t, s.Load(t.Context(), "order-1", after))
		wantIDs(t, fmt.Sprintf("after %d", after), got, events[min(int(after), 5):])
		if len(got) > 0 && got[0].Revision != after+1 {
			t.Fatalf("after %d the first revision is %d", after, got[0].Revision)
		}
	}
}

func loadStops(t *testing.T, s Store) {
	t.Helper()
	events := Events(50)
	mustAppend(t, s, "order-1", 0, events...)
	for e, err := range s.Load(t.Context(), "order-1", 0) {
		if err != nil || e.ID != events[0].ID {
			t.Fatalf("got %v, %v", e, err)
		}
		break
	}
}

func roundTrip(t *testing.T, s Store) {
	t.Helper()
	want := event.Recorded{
		Meta: event.Meta{
			Cause: "7b1f0f3a-2f0e-5b5e-8a55-0d7c6f5f4f11/3", Digest: `sha256:"quoted" \ and <&>`, Correlation: "1234567890123456789",
			Actor: "买家 Ünïcode\t\x01", At: time.Date(2017, 10, 2, 10, 56, 33, 123456789, time.FixedZone("", -3*3600)), Trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		},
		ID: Event("", "").ID, Name: "order.placed", Version: 7,
		Data: []byte(`{ "note":"张三 <b>&amp;\u00e9</b>",  "n":1e3, "big":12345678901234567890 }`),
	}
	before := time.Now().Add(-time.Minute)
	mustAppend(t, s, "order-1", 0, want)
	got := collect(t, s.Load(t.Context(), "order-1", 0))[0]
	if got.Created.Before(before) || got.Created.After(time.Now().Add(time.Minute)) {
		t.Errorf("created %v", got.Created)
	}
	if got.At.Location() != time.UTC || !got.At.Equal(want.At) {
		t.Errorf("at is %v, want %v in UTC", got.At, want.At)
	}
	if !bytes.Equal(got.Data, want.Data) {
		t.Errorf("data is %s", got.Data)
	}
	want.Stream, want.Revision, want.Position, want.Created, want.At = "order-1", 1, got.Position, got.Created, got.At
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if all := collect(t, s.All(t.Context(), 0)); len(all) != 1 || !cmp.Equal(all[0], got) {
		t.Errorf("the log has another: %s", cmp.Diff(all, []event.Recorded{got}))
	}
}

func roundTripOfLittle(t *testing.T, s Store) {
	t.Helper()
	little := Event("order.seen", `null`)
	little.Version = 0
	mustAppend(t, s, "order-1", 0, little)
	got := collect(t, s.Load(t.Context(), "order-1", 0))[0]
	if got.Version != 1 || got.Meta != (event.Meta{}) || string(got.Data) != "null" {
		t.Fatalf("got %+v", got)
	}
}

func badEvents(t *testing.T, s Store) {
	t.Helper()
	for _, id := range []string{"", "7", "00000000-0000-0000-0000-000000000000", "F47AC10B-58CC-4372-A567-0E02B2C3D479", "urn:uuid:f47ac10b-58cc-4372-a567-0e02b2c3d479"} {
		bad := Event("order.placed", "{}")
		bad.ID = id
		if err := s.Append(t.Context(), "order-1", 0, []event.Recorded{bad}); err == nil {
			t.Errorf("id %q was taken", id)
		}
	}
	if err := s.Append(t.Context(), "order-1", 0, []event.Recorded{Event("", "{}")}); err == nil {
		t.Error("an event without a name was taken")
	}
	if got := collect(t, s.Load(t.Context(), "order-1", 0)); len(got) != 0 {
		t.Errorf("%d of them were stored", len(got))
	}
}

func manyStreams(t *testing.T, s Store) {
	t.Helper()
	const writers, appends = 32, 8
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range appends {
				if err := s.Append(t.Context(), fmt.Sprintf("order-%d", w), event.Revision(2*i), Events(2)); err != nil {
					t.Errorf("writer %d, append %d: %v", w, i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for w := range writers {
		if got := collect(t, s.Load(t.Context(), fmt.Sprintf("order-%d", w), 0)); len(got) != 2*appends {
			t.Fatalf("stream %d has %d events", w, len(got))
		}
	}
	if got := collect(t, s.All(t.Context(), 0)); len(got) != 2*writers*appends {
		t.Fatalf("the log has %d events", len(got))
	}
}

func longStream(t *testing.T, s Store) {
	t.Helper()
	const appends, each = 12, 250
	var want []event.Recorded
	for i := range appends {
		events := Events(each)
		mustAppend(t, s, "order-1", event.Revision(i*each), events...)
		want = append(want, events...)
	}
	wantIDs(t, "stream", collect(t, s.Load(t.Context(), "order-1", 0)), want)
	wantIDs(t, "end of the stream", collect(t, s.Load(t.Context(), "order-1", 2900)), want[2900:])
}

func endedContext(t *testing.T, s Store) {
	t.Helper()
	mustAppend(t, s, "order-1", 0, Events(3)...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Append(ctx, "order-2", 0, Events(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("append: %v", err)
	}
	var last error
	for _, err := range s.Load(ctx, "order-1", 0) {
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("load: %v", last)
	}
	if _, err := s.Head(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("head: %v", err)
	}
}
