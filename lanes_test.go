package main

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"cartwright/domain/event"
	"cartwright/infra/memstore"
	"cartwright/infra/metrics"
)

func caused(causes ...string) []event.Recorded {
	var all []event.Recorded
	for _, cause := range causes {
		all = append(all, event.Recorded{ID: uuid.NewString(), Name: "x", Version: 1, Data: []byte("{}"), Meta: event.Meta{Cause: cause}})
	}
	return all
}

func TestCommandsAreCountedByAppendAndCategory(t *testing.T) {
	lanes := &laneCounts{}
	s := countingStore{new(memstore.Store), lanes}
	for _, a := range []struct {
		stream string
		after  event.Revision
		events []event.Recorded
	}{
		{"order-1", 0, caused("one")},
		{"order-1", 1, caused("two", "two")}, // two events of one command
		{"order-2", 0, caused("one", "two", "two", "three")},
		{"inventory-mug", 0, caused("one", "two", "three", "four", "five")},
	} {
		if err := s.Append(t.Context(), a.stream, a.after, a.events); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Append(t.Context(), "order-1", 0, caused("late")); !errors.Is(err, event.ErrConflict) {
		t.Fatalf("a conflict gave %v", err)
	}
	got := lanes.shapes()
	for category, want := range map[string]metrics.Shape{
		"order":     {Count: 3, Sum: 5, Bounds: map[float64]uint64{1: 2, 2: 2, 4: 3, 8: 3}},
		"inventory": {Count: 1, Sum: 5, Bounds: map[float64]uint64{1: 0, 2: 0, 4: 0, 8: 1}},
	} {
		shape := got[category]
		for bound := range shape.Bounds {
			if _, told := want.Bounds[bound]; !told {
				if shape.Bounds[bound] != want.Count {
					t.Errorf("%s: up to %v there are %d", category, bound, shape.Bounds[bound])
				}
				delete(shape.Bounds, bound)
			}
		}
		if diff := cmp.Diff(want, shape); diff != "" {
			t.Errorf("%s (-want +got):\n%s", category, diff)
		}
	}
	if len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

func TestALargeAppendIsInTheLastBound(t *testing.T) {
	var l laneCount
	l.add(1024)
	l.add(1025)
	if s := l.shape(); s.Count != 2 || s.Sum != 2049 || s.Bounds[1024] != 1 || s.Bounds[512] != 0 {
		t.Errorf("got %+v", s)
	}
}
