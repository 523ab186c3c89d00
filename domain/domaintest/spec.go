// Package domaintest writes aggregate tests as sentences: given, when, then.
//
// Beside what a sentence says, each checks what every decision promises:
// Decide changes nothing in the state it is given, Clone gives an equal state,
// what is decided replays, and replaying it on a clone leaves the original
// alone. So no aggregate has to remember to test them, and each test named in
// an aggregate's package is also a test of these.
package domaintest

import (
	"errors"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cartwright/domain"
)

// Spec is one sentence under test.
type Spec[S, C, E any] struct {
	tb    testing.TB
	d     domain.Decider[S, C, E]
	past  []E
	state S
	got   []E
	err   error
}

// Given starts a sentence with what has already happened.
func Given[S, C, E any](tb testing.TB, d domain.Decider[S, C, E], past ...E) *Spec[S, C, E] {
	tb.Helper()
	s := &Spec[S, C, E]{tb: tb, d: d, past: past}
	s.state = s.lived()
	return s
}

// lived is the state anew from the past. It shares nothing with another one,
// so it shows what became of that.
func (s *Spec[S, C, E]) lived() S {
	s.tb.Helper()
	var zero S
	state, err := s.d.Fold(zero, s.past...)
	if err != nil {
		s.tb.Fatalf("given: %v", err)
	}
	return state
}

// When sends the command.
func (s *Spec[S, C, E]) When(c C) *Spec[S, C, E] {
	s.tb.Helper()
	s.got, s.err = s.d.Decide(s.state, c)
	if diff := Diff(s.lived(), s.state); diff != "" {
		s.tb.Fatalf("when: deciding %T changed the state (-before +after):\n%s", c, diff)
	}
	return s
}

// Then expects exactly these events, none meaning that nothing happened. They
// must also replay: a decision that history refuses is a bug.
func (s *Spec[S, C, E]) Then(want ...E) {
	s.tb.Helper()
	if s.err != nil {
		s.tb.Fatalf("then: refused: %v", s.err)
	}
	if diff := Diff(want, s.got); diff != "" {
		s.tb.Fatalf("then (-want +got):\n%s", diff)
	}
	clone := s.d.Clone(s.state)
	if diff := Diff(s.state, clone); diff != "" {
		s.tb.Fatalf("then: a clone is not its original (-original +clone):\n%s", diff)
	}
	if _, err := s.d.Fold(clone, s.got...); err != nil {
		s.tb.Fatalf("then: decided events do not replay: %v", err)
	}
	if diff := Diff(s.lived(), s.state); diff != "" {
		s.tb.Fatalf("then: replaying on a clone changed the original (-before +after):\n%s", diff)
	}
}

// ThenRefused expects the command to be refused with this code and reason.
func (s *Spec[S, C, E]) ThenRefused(code domain.Code, reason string) {
	s.tb.Helper()
	e, ok := errors.AsType[*domain.Error](s.err)
	if !ok || e.Code != code || e.Reason != reason {
		s.tb.Fatalf("then: got %v and %d events, want %s: %s", s.err, len(s.got), code, reason)
	}
	if len(s.got) > 0 {
		s.tb.Fatalf("then: refused, and yet decided %v", s.got)
	}
}

// Diff says how two states or events differ, unexported fields included, and
// is empty where they do not. Nil and empty are the same.
func Diff(want, got any) string {
	if reflect.DeepEqual(want, got) { // the rule, and a hundred times faster to find out
		return ""
	}
	return cmp.Diff(want, got, cmpopts.EquateEmpty(), cmp.Exporter(func(reflect.Type) bool { return true }))
}
