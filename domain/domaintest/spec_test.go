package domaintest_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"cartwright/domain"
	"cartwright/domain/domaintest"
)

// The aggregate of these tests counts in a slice, so that it can be done wrong.
type counter struct{ seen []int }

func sound() domain.Decider[counter, int, int] {
	return domain.Decider[counter, int, int]{
		Decide: func(_ counter, n int) ([]int, error) {
			if n < 0 {
				return nil, domain.Refuse(domain.Invalid, "negative", "%d is negative.", n)
			}
			return []int{n}, nil
		},
		Evolve: func(c counter, n int) (counter, error) {
			if n > 9 {
				return c, errors.New("too large")
			}
			c.seen = append(c.seen, n)
			return c, nil
		},
		Clone: func(c counter) counter { return counter{append([]int(nil), c.seen...)} },
	}
}

// A witness notes that a test failed, instead of failing.
type witness struct {
	testing.TB
	said string
}

type stop struct{}

// given is a sentence told to a witness.
func given(w *witness, d domain.Decider[counter, int, int], past ...int) *domaintest.Spec[counter, int, int] {
	return domaintest.Given(w, d, past...)
}

func (w *witness) Helper() {}

func (w *witness) Fatalf(format string, args ...any) {
	w.said = fmt.Sprintf(format, args...)
	panic(stop{})
}

func sayOf(sentence func(*witness)) (said string) {
	w := &witness{}
	defer func() {
		if r := recover(); r != nil && r != (stop{}) {
			panic(r)
		}
		said = w.said
	}()
	sentence(w)
	return w.said
}

func TestASentenceHolds(t *testing.T) {
	domaintest.Given(t, sound(), 1, 2).When(3).Then(3)
	domaintest.Given(t, sound()).When(-1).ThenRefused(domain.Invalid, "negative")
}

func TestAWrongSentenceFails(t *testing.T) {
	mutating, shared, sloppy, forgetful := sound(), sound(), sound(), sound()
	forgetful.Clone = func(counter) counter { return counter{} }
	mutating.Decide = func(c counter, n int) ([]int, error) {
		c.seen[0] = n
		return []int{n}, nil
	}
	shared.Clone = func(c counter) counter { return c }
	shared.Evolve = func(c counter, n int) (counter, error) {
		if len(c.seen) == 0 {
			return counter{[]int{n}}, nil
		}
		c.seen[0] += n
		return c, nil
	}
	sloppy.Decide = func(_ counter, n int) ([]int, error) {
		return []int{n}, domain.Refuse(domain.Invalid, "negative", "%d", n)
	}
	for want, sentence := range map[string]func(w *witness){
		"given: replay event 1":            func(w *witness) { given(w, sound(), 1, 10) },
		"changed the state":                func(w *witness) { given(w, mutating, 1).When(2) },
		"(-want +got)":                     func(w *witness) { given(w, sound()).When(2).Then(3) },
		"then: refused: invalid":           func(w *witness) { given(w, sound()).When(-1).Then() },
		"do not replay":                    func(w *witness) { given(w, sound()).When(10).Then(10) },
		"changed the original":             func(w *witness) { given(w, shared, 1).When(2).Then(2) },
		"is not its original":              func(w *witness) { given(w, forgetful, 1).When(2).Then(2) },
		"and 1 events, want invalid: none": func(w *witness) { given(w, sound()).When(1).ThenRefused(domain.Invalid, "none") },
		"negative: -1 is negative. and 0":  func(w *witness) { given(w, sound()).When(-1).ThenRefused(domain.Invalid, "none") },
		"want conflict: negative":          func(w *witness) { given(w, sound()).When(-1).ThenRefused(domain.Conflict, "negative") },
		"and yet decided":                  func(w *witness) { given(w, sloppy).When(1).ThenRefused(domain.Invalid, "negative") },
	} {
		if said := sayOf(sentence); !strings.Contains(said, want) {
			t.Errorf("said %q, want %q in it", said, want)
		}
	}
}
