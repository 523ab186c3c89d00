package sandboxpay

import (
	"container/heap"
	"time"
)

// An agenda is things to do, each at its time, those of one time in the order in
// which they were put there. The zero one is empty.
type agenda[T any] struct {
	items entries[T]
	put   uint64
}

type entry[T any] struct {
	due  time.Time
	turn uint64
	what T
}

func (a *agenda[T]) add(due time.Time, what T) {
	a.put++
	heap.Push(&a.items, entry[T]{due, a.put, what})
}

// next takes out what is due. Where nothing is, it says how long that will be
// so: a negative time is for ever.
func (a *agenda[T]) next(now time.Time) (what T, wait time.Duration, ok bool) {
	if len(a.items) == 0 {
		return what, -1, false
	}
	if wait = a.items[0].due.Sub(now); wait > 0 {
		return what, wait, false
	}
	e, _ := heap.Pop(&a.items).(entry[T])
	return e.what, 0, true
}

func (a *agenda[T]) len() int { return len(a.items) }

// entries are a heap by time and turn.
type entries[T any] []entry[T]

func (s *entries[T]) Len() int      { return len(*s) }
func (s *entries[T]) Swap(i, j int) { (*s)[i], (*s)[j] = (*s)[j], (*s)[i] }

func (s *entries[T]) Less(i, j int) bool {
	one, other := (*s)[i], (*s)[j]
	if !one.due.Equal(other.due) {
		return one.due.Before(other.due)
	}
	return one.turn < other.turn
}

// Push implements heap.Interface.
func (s *entries[T]) Push(x any) {
	e, _ := x.(entry[T])
	*s = append(*s, e)
}

// Pop implements heap.Interface.
func (s *entries[T]) Pop() any {
	last := len(*s) - 1
	e := (*s)[last]
	(*s)[last] = entry[T]{}
	*s = (*s)[:last]
	return e
}
