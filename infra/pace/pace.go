// Package pace sets batches apart that follow each other, so that they grow
// meanwhile, and lets whoever has rested begin some at once.
//
// # Why
//
// What a batch costs by itself is more than what one event in it does: a request, a
// commit, a wake-up of everybody behind. A fixed wait before each would make a shop
// in which little happens slow for nothing. So time without a batch is credit, as
// in a token bucket, and only whoever has used it up waits. golang.org/x/time/rate
// counts what was taken, which a full batch that waits for nobody would overdraw
// without bound; here the debt is one spacing at the most (TestFullBatchesMakeNoDebt).
package pace

import "time"

// Credit is how many batches may begin at once after a rest.
const Credit = 8

// A Pace is that of one who makes batches. It may not be used concurrently.
type Pace struct {
	Spacing time.Duration // from one batch to the next, where they follow each other

	next time.Time // when a batch would begin if none ever waited less than Spacing
}

// Early is how long the next batch should still wait: not at all, or less than
// nothing, as long as there is credit left, of which Spacing without a batch adds one.
func (p *Pace) Early() time.Duration {
	return time.Until(p.next.Add(-(Credit - 1) * p.Spacing))
}

// Spend notes that there was a batch. The next one is due after Spacing at the
// latest, however many full ones came before.
func (p *Pace) Spend() {
	now := time.Now()
	if most := now.Add((Credit - 1) * p.Spacing); p.next.After(most) {
		p.next = most
	} else if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(p.Spacing)
}
