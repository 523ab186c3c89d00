// Package domain holds what every aggregate shares: the Decider shape and the
// one error type that crosses package borders. It does no I/O and imports
// nothing but the standard library.
package domain

// A Decider is the whole of one aggregate's behaviour: Decide says which events
// a command causes, Evolve what state an event leaves behind. The zero S is the
// state before any event. Both are pure: no clock, no I/O, no chance; a command
// brings its time and its ids with it. Decide never changes the state it is
// given. Evolve may reuse what is inside it, like append, so the caller must
// not use that state again; Clone gives a copy that shares nothing which Evolve
// would change.
type Decider[S, C, E any] struct {
	Decide func(S, C) ([]E, error)
	Evolve func(S, E) (S, error)
	Clone  func(S) S
}

// Fold replays past events onto s. It stops at the first that cannot have
// happened, so that a broken history is found where it is read.
func (d Decider[S, C, E]) Fold(s S, past ...E) (S, error) {
	var err error
	for i, e := range past {
		if s, err = d.Evolve(s, e); err != nil {
			return s, &ReplayError{At: i, Err: err}
		}
	}
	return s, nil
}
