package commands_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"cartwright/commands"
	"cartwright/domain/orderid"
)

func TestTheEndsOfAMillisecondDoNotMeet(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for given := range orderid.PerMilli + 1 {
		next, sibling := commands.NewDraws(func() time.Time { return at })
		seen := map[orderid.ID]bool{}
		for i := range orderid.PerMilli {
			draw := next
			if i >= given {
				draw = sibling
			}
			id, err := draw(t.Context(), "b")
			if err != nil || seen[id] {
				t.Fatalf("%d given out: number %d is %s, %v, as before", given, i, id, err)
			}
			seen[id] = true
		}
		short, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		for _, draw := range []commands.Draw{next, sibling} {
			if id, err := draw(short, "b"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%d given out: an eleventh is %s, %v", given, id, err)
			}
		}
		if _, err := next(t.Context(), "another bucket"); err != nil {
			t.Error(err)
		}
		cancel()
	}
}
