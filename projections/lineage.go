package projections

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// A Checkpoint is how far a generation that is being built has come.
type Checkpoint struct {
	Position uint64    `json:"position"` // of the log; everything up to it is in the generation
	Streams  int64     `json:"streams"`  // that began up to there
	Program  string    `json:"program"`  // which folded it: another one may fold otherwise
	At       time.Time `json:"at"`       // when it was written down
}

// A Lineage says which generations of a view there are. Engines store it and
// change their documents in the same write; the rules are here, once.
type Lineage struct {
	Live     int   `json:"live"`
	Previous int   `json:"previous,omitempty"` // kept for a way back; 0 is none
	Older    []int `json:"older,omitempty"`    // kept besides, newest first
	Last     int   `json:"last"`               // the highest number ever given
	Building []int `json:"building,omitempty"`

	// Marks are the checkpoints of generations under construction. One that has
	// none is of no use to anybody but whoever is building it.
	Marks map[int]Checkpoint `json:"marks,omitempty"`
}

// NewLineage is a new view's: one empty generation, live.
func NewLineage() Lineage { return Lineage{Live: 1, Last: 1} }

// Begin adds a generation under construction, the one numbered Last.
func (l Lineage) Begin() Lineage {
	l.Last++
	l.Building = append(slices.Clone(l.Building), l.Last)
	return l
}

// Turn makes a generation the live one, keeps the one that was and as many older
// ones as make up keep with it, which is no less than 1, and names those to drop.
func (l Lineage) Turn(to, keep int) (next Lineage, dead []int, err error) {
	if to == l.Live {
		return l, nil, nil
	}
	if !slices.Contains(l.Kept(), to) && !slices.Contains(l.Building, to) {
		return l, nil, fmt.Errorf("there is no generation %d", to)
	}
	kept := append([]int{l.Live}, without(l.Kept(), to)...)
	if n := max(keep, 1); len(kept) > n {
		kept, dead = kept[:n], kept[n:]
	}
	l = l.unmarked(to)
	l.Live, l.Previous, l.Older = to, kept[0], slices.Clone(kept[1:])
	l.Building = without(l.Building, to)
	return l, dead, nil
}

// Kept are the generations that were live before and are there, newest first.
func (l Lineage) Kept() []int {
	if l.Previous == 0 {
		return nil
	}
	return append([]int{l.Previous}, l.Older...)
}

// Forget takes a generation out that is not live.
func (l Lineage) Forget(number int) (Lineage, error) {
	if number == l.Live {
		return l, fmt.Errorf("generation %d is live", number)
	}
	kept := without(l.Kept(), number)
	l.Previous, l.Older = 0, nil
	if len(kept) > 0 {
		l.Previous, l.Older = kept[0], kept[1:]
	}
	l.Building = without(l.Building, number)
	return l.unmarked(number), nil
}

// Mark writes down how far a generation under construction is.
func (l Lineage) Mark(number int, at Checkpoint) (Lineage, error) {
	if !slices.Contains(l.Building, number) {
		return l, fmt.Errorf("generation %d is not being built", number)
	}
	l = l.unmarked(number)
	if l.Marks == nil {
		l.Marks = map[int]Checkpoint{}
	}
	l.Marks[number] = at
	return l, nil
}

// unmarked is a lineage whose marks may be changed, without one of them.
func (l Lineage) unmarked(number int) Lineage {
	l.Marks = maps.Clone(l.Marks)
	delete(l.Marks, number)
	return l
}

// Unfinished is the newest generation under construction that somebody can go on
// with; 0 is none.
func (l Lineage) Unfinished() int {
	newest := 0
	for number := range l.Marks {
		newest = max(newest, number)
	}
	return newest
}

// Reopen is the lineage after a start: nobody goes on with what was being built
// and has no checkpoint, so that is to be dropped.
func (l Lineage) Reopen() (next Lineage, dead []int) {
	stay := l.Unfinished()
	for _, number := range l.Building {
		if number != stay {
			dead = append(dead, number)
			l = l.unmarked(number)
		}
	}
	l.Building = slices.DeleteFunc(slices.Clone(l.Building), func(n int) bool { return n != stay })
	return l, dead
}

func without(numbers []int, number int) []int {
	return slices.DeleteFunc(slices.Clone(numbers), func(n int) bool { return n == number })
}
