package projections

import (
	"fmt"
	"slices"
)

// A Lineage says which generations of a view there are. Engines store it and
// change their documents in the same write; the rules are here, once.
type Lineage struct {
	Live     int   `json:"live"`
	Previous int   `json:"previous,omitempty"` // kept for a way back; 0 is none
	Last     int   `json:"last"`               // the highest number ever given
	Building []int `json:"building,omitempty"`
}

// NewLineage is a new view's: one empty generation, live.
func NewLineage() Lineage { return Lineage{Live: 1, Last: 1} }

// Begin adds a generation under construction, the one numbered Last.
func (l Lineage) Begin() Lineage {
	l.Last++
	l.Building = append(slices.Clone(l.Building), l.Last)
	return l
}

// Turn makes a generation the live one, keeps the one that was, and names those
// to drop: the one kept before.
func (l Lineage) Turn(to int) (next Lineage, dead []int, err error) {
	if to == l.Live {
		return l, nil, nil
	}
	if to != l.Previous && !slices.Contains(l.Building, to) {
		return l, nil, fmt.Errorf("there is no generation %d", to)
	}
	if l.Previous != 0 && l.Previous != to {
		dead = []int{l.Previous}
	}
	l.Live, l.Previous = to, l.Live
	l.Building = without(l.Building, to)
	return l, dead, nil
}

// Forget takes a generation out that is not live.
func (l Lineage) Forget(number int) (Lineage, error) {
	if number == l.Live {
		return l, fmt.Errorf("generation %d is live", number)
	}
	if l.Previous == number {
		l.Previous = 0
	}
	l.Building = without(l.Building, number)
	return l, nil
}

// Reopen is the lineage after a start: nobody goes on with what was being
// built, so that is to be dropped.
func (l Lineage) Reopen() (next Lineage, dead []int) {
	dead = l.Building
	l.Building = nil
	return l, dead
}

func without(numbers []int, number int) []int {
	return slices.DeleteFunc(slices.Clone(numbers), func(n int) bool { return n == number })
}
