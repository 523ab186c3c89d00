package stuck_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cartwright/domain"
	"cartwright/domain/domaintest"
	"cartwright/domain/stuck"
)

func given(tb testing.TB, past ...stuck.Event) *domaintest.Spec[stuck.List, stuck.Command, stuck.Event] {
	tb.Helper()
	return domaintest.Given(tb, stuck.Decider, past...)
}

var (
	at     = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	park   = stuck.Park{Stream: "order-1", Event: "order.paid", Reason: "no stock", Tries: 10, At: at}
	parked = stuck.Parked(park)
)

func TestWhatWentWrongIsOnTheListUntilItIsDone(t *testing.T) {
	given(t).When(park).Then(parked)
	given(t, parked).When(park).Then()
	worse := park
	worse.Reason = "no warehouse"
	given(t, parked).When(worse).Then(stuck.Parked(worse))
	given(t, parked).When(stuck.Free{Stream: "order-1", By: "timer"}).Then(stuck.Freed{Stream: "order-1", By: "timer"})
	given(t, parked, stuck.Freed{Stream: "order-1"}).When(stuck.Free{Stream: "order-1"}).Then()
	given(t, parked).When(stuck.Drop{Stream: "order-1", By: "ann", Reason: "test"}).Then(stuck.Dropped{Stream: "order-1", By: "ann", Reason: "test"})
	given(t, parked).When(stuck.Drop{Stream: "order-1", By: "ann"}).ThenRefused(domain.Invalid, "no_reason")
	given(t).When(stuck.Drop{Stream: "order-1", By: "ann", Reason: "test"}).ThenRefused(domain.NotFound, "not_parked")
	given(t).When(stuck.Park{Stream: "order-1"}).ThenRefused(domain.Invalid, "no_reason")
	endless := park
	endless.Reason = strings.Repeat("ü", 501)
	short := parked
	short.Reason = strings.Repeat("ü", 500)
	given(t).When(endless).Then(short)
}

func TestTheListKnowsSinceWhen(t *testing.T) {
	later := parked
	later.At, later.Reason = at.Add(time.Hour), "another"
	l, err := stuck.Decider.Fold(stuck.List{}, parked, later)
	if err != nil || !l.Waiting["order-1"].Since.Equal(at) {
		t.Errorf("%v: %v", err, l)
	}
	for _, past := range [][]stuck.Event{{stuck.Freed{Stream: "x"}}, {stuck.Dropped{Stream: "x"}}, {stuck.Parked{}}} {
		if _, err := stuck.Decider.Fold(stuck.List{}, past...); err == nil {
			t.Errorf("%v was believed", past)
		}
	}
}

func TestDecisionsAlwaysReplay(t *testing.T) {
	stream := rapid.SampledFrom([]string{"a", "b", ""})
	wish := rapid.Custom(func(t *rapid.T) stuck.Command {
		switch rapid.IntRange(0, 2).Draw(t, "command") {
		case 0:
			return stuck.Free{Stream: stream.Draw(t, "stream")}
		case 1:
			return stuck.Drop{Stream: stream.Draw(t, "stream"), Reason: rapid.SampledFrom([]string{"x", ""}).Draw(t, "reason")}
		default:
			return stuck.Park{Stream: stream.Draw(t, "stream"), Reason: rapid.SampledFrom([]string{"x", "y", ""}).Draw(t, "reason")}
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		var live stuck.List
		for range rapid.IntRange(1, 30).Draw(t, "length") {
			c := wish.Draw(t, "c")
			kept := stuck.Decider.Clone(live)
			events, err := stuck.Decider.Decide(live, c)
			if err != nil {
				continue
			}
			clone := stuck.Decider.Clone(live)
			if live, err = stuck.Decider.Fold(live, events...); err != nil {
				t.Fatalf("%#v: %v", c, err)
			}
			if diff := domaintest.Diff(kept, clone); diff != "" {
				t.Fatalf("the clone changed with the original:\n%s", diff)
			}
			if twice, err := stuck.Decider.Decide(live, c); err == nil && len(twice) > 0 {
				t.Fatalf("%#v counts twice", c)
			}
		}
	})
}
