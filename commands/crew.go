package commands

import "sync"

// idleHands is how many goroutines a crew keeps that have nothing to do.
const idleHands = 64

// A crew runs functions on goroutines that it keeps for the next ones. A lane
// lives as long as one command and reaches deep into the encoder and the store's
// client, so that a goroutine of its own spent a good part of its time on growing
// its stack.
type crew struct {
	work  chan func()
	stop  <-chan struct{} // when closed, nobody is kept
	hands sync.WaitGroup
	kept  chan struct{} // a token for each that may wait
}

func newCrew(stop <-chan struct{}) *crew {
	return &crew{work: make(chan func()), stop: stop, kept: make(chan struct{}, idleHands)}
}

// Go runs f at once.
func (c *crew) Go(f func()) {
	select {
	case c.work <- f:
	default:
		c.hands.Go(func() { c.serve(f) })
	}
}

// Wait waits until all that was to be run has ended, once stop is closed.
func (c *crew) Wait() { c.hands.Wait() }

func (c *crew) serve(f func()) {
	for ; f != nil; f = c.next() {
		f()
	}
}

// next waits for work, unless enough others do.
func (c *crew) next() func() {
	select {
	case c.kept <- struct{}{}:
	default:
		return nil
	}
	defer func() { <-c.kept }()
	select {
	case f := <-c.work:
		return f
	case <-c.stop:
		return nil
	}
}
