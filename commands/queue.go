package commands

import (
	"math"
	"time"

	"cartwright/domain"
)

// A queue is who waits for a lane: first what completes what was begun before, and
// whoever only looks; then those who come for something new.
type queue[S, C, E any] struct {
	first   []*call[S, C, E]
	others  []*call[S, C, E]
	parties map[string]int // how many of others are of one party
}

func (q *queue[S, C, E]) len() int { return len(q.first) + len(q.others) }

// completes tells a call that goes first.
func (c *call[S, C, E]) completes() bool { return c.kind != decide || c.req.completes }

func (q *queue[S, C, E]) add(c *call[S, C, E]) {
	if c.completes() {
		q.first = append(q.first, c)
		return
	}
	q.others = append(q.others, c)
	q.count(c, 1)
}

func (q *queue[S, C, E]) count(c *call[S, C, E], by int) {
	party := c.req.Party
	if party == "" {
		return
	}
	if q.parties == nil {
		q.parties = map[string]int{}
	}
	if q.parties[party] += by; q.parties[party] == 0 {
		delete(q.parties, party)
	}
}

// take gives up to n calls. What completes leaves a quarter to the others, so that
// these get on too (TestNewcomersGetOnBesideThoseWhoGoFirst).
func (q *queue[S, C, E]) take(n int) []*call[S, C, E] {
	ahead := min(len(q.first), max(n-n/4, n-len(q.others)))
	behind := min(len(q.others), n-ahead)
	calls := make([]*call[S, C, E], 0, ahead+behind)
	calls = append(append(calls, q.first[:ahead]...), q.others[:behind]...)
	q.first, q.others = without(q.first, ahead), without(q.others, behind)
	for _, c := range calls[ahead:] {
		q.count(c, -1)
	}
	return calls
}

// without leaves out the first n, and what nobody waits in any more.
func without[T any](calls []T, n int) []T {
	if n == len(calls) {
		return nil
	}
	return calls[n:]
}

// putBack lets calls that were taken be the first to be taken again.
func (q *queue[S, C, E]) putBack(calls []*call[S, C, E]) {
	var back queue[S, C, E]
	for _, c := range calls {
		back.add(c)
		if !c.completes() {
			q.count(c, 1)
		}
	}
	q.first, q.others = append(back.first, q.first...), append(back.others, q.others...)
}

// admit tells whether there is a place for c, where the lane serves as many within
// the time that anybody may have to wait. What completes is bounded for the sake of
// memory only. A party may have as many waiting as there are places left: one alone
// takes half of them, and whoever comes then finds room
// (TestOneBuyerLeavesRoomForOthers).
func (q *queue[S, C, E]) admit(c *call[S, C, E], most, inTime int) bool {
	if c.completes() {
		return len(q.first) < most
	}
	left := min(most-len(q.others), inTime-q.len())
	return left > 0 && (c.req.Party == "" || q.parties[c.req.Party] < left)
}

// A pace is how a lane gets on.
type pace struct {
	began time.Time     // the round under way; zero between rounds
	round time.Duration // what a round takes, the last ones counting most; 0 for not known
	room  int           // how many calls a round has room for
}

// begins notes that a round begins.
func (p *pace) begins(now time.Time) { p.began = now }

// ends notes that the round has served so many, and whether it had room for no more.
func (p *pace) ends(now time.Time, served int, full bool) {
	if p.began.IsZero() {
		return
	}
	took := now.Sub(p.began)
	if p.round == 0 {
		p.round = took
	}
	p.round += (took - p.round) / 4
	if p.began = (time.Time{}); full {
		p.room = max(served, 1)
	} else {
		p.room = max(served, p.room)
	}
}

// underWay is how long the next round may be off: one that takes longer than others
// did is taken to have as much before it as behind it.
func (p *pace) underWay(now time.Time) time.Duration {
	if p.began.IsZero() {
		return p.round
	}
	return max(p.round, now.Sub(p.began))
}

// inTime is how many may wait without waiting longer than most.
func (p *pace) inTime(now time.Time, most time.Duration) int {
	left := most - p.underWay(now)
	switch {
	case left < 0:
		return 0
	case p.round == 0:
		return math.MaxInt
	}
	return p.room * int(1+left/p.round)
}

// wait is how long who comes now would wait behind so many.
func (p *pace) wait(now time.Time, waiting int) time.Duration {
	return p.underWay(now) + time.Duration(waiting/max(p.room, 1))*p.round
}

// busy sends a caller away for about as long as the wait would be.
func busy(wait time.Duration) error {
	const longest = 30 * time.Second // a lane that stands still may go on at any moment
	seconds := (wait + time.Second - 1).Truncate(time.Second)
	return &domain.Error{
		Code: domain.Unavailable, Reason: "busy", RetryAfter: min(max(seconds, time.Second), longest),
		Detail: "Too many are asking for the same thing right now.",
	}
}
