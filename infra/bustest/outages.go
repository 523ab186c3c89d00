package bustest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"cartwright/domain/event"
)

// A Broker is a bus whose broker a test may stop and start: nobody else uses it.
type Broker struct {
	Bus
	Stop  func(t *testing.T) // what it has acknowledged stays
	Start func(t *testing.T) // where it was

	// Pause has it keep its connections and answer nothing, until Resume. Nil is a
	// broker that can't be so.
	Pause, Resume func(t *testing.T)
}

// Outages checks what readers and publishers make of a broker that goes away and
// comes back. away is how long it stays away where that matters: a few seconds
// are over before clients have noticed everything, 30 s are longer than a
// session lasts. open gives an empty topic on a broker that may be the same for
// all, as they come one after the other.
func Outages(t *testing.T, away time.Duration, open func(t *testing.T) Broker) {
	t.Helper()
	for _, c := range []struct {
		name  string
		check func(*testing.T, Broker, time.Duration)
	}{
		{"offsets survive a restart of broker and reader", restart},
		{"a broker that was away has lost nothing, and no order", wasAway},
		{"a broker that restarts during a rebalance", restartsInRebalance},
		{"a broker that restarts again and again under load", restartsOften},
		{"a broker that hangs for a while is overcome", hangs},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, open(t), away) })
	}
}

func restart(t *testing.T, b Broker, _ time.Duration) {
	t.Helper()
	w := newWitness(t)
	r := read(t, b.Bus, "a", w.see)
	publish(t, b.Bus, Events(50, 10, 1)...)
	w.await(500)
	r.leave()
	publish(t, b.Bus, Events(50, 1, 11)...)
	b.Stop(t)
	b.Start(t)
	insist(t, b.Publish, Events(50, 1, 12)...)
	read(t, b.Bus, "a", w.see)
	w.await(600)
	if _, times := w.count(); times != 600 {
		t.Fatalf("%d deliveries of 600 events", times)
	}
}

// wasAway has several events of each stream in a batch, so that one that comes
// late is out of order.
func wasAway(t *testing.T, b Broker, away time.Duration) {
	t.Helper()
	w := newWitness(t)
	read(t, b.Bus, "a", w.see)
	publish(t, b.Bus, Events(50, 10, 1)...)
	w.await(500)
	b.Stop(t)
	var relays sync.WaitGroup
	relays.Go(func() { insist(t, b.Publish, Events(50, 10, 11)...) })
	relays.Go(func() { insist(t, b.Second, Events(50, 10, 11)...) })
	sleep(t, away)
	b.Start(t)
	relays.Wait()
	publish(t, b.Bus, Events(50, 10, 21)...)
	w.await(1500)
	awaitLag(t, b.Bus, 0)
}

func restartsInRebalance(t *testing.T, b Broker, _ time.Duration) {
	t.Helper()
	w := newWitness(t)
	first := read(t, b.Bus, "a", w.see)
	publish(t, b.Bus, Events(50, 10, 1)...)
	w.await(500)
	read(t, b.Bus, "a", w.see)
	read(t, b.Bus, "a", w.see)
	b.Stop(t)
	b.Start(t)
	insist(t, b.Publish, Events(50, 10, 11)...)
	first.leave()
	insist(t, b.Publish, Events(50, 10, 21)...)
	w.await(1500)
	awaitLag(t, b.Bus, 0)
}

func restartsOften(t *testing.T, b Broker, _ time.Duration) {
	t.Helper()
	w := newWitness(t)
	read(t, b.Bus, "a", w.see)
	read(t, b.Bus, "a", w.see)
	stop, published := make(chan struct{}), make(chan int, 1)
	var relay sync.WaitGroup
	relay.Go(func() {
		for n := 0; ; n += 10 {
			select {
			case <-stop:
				published <- n
				return
			default:
				insist(t, b.Publish, Events(50, 10, event.Revision(n)+1)...)
			}
		}
	})
	for range 2 {
		b.Stop(t)
		b.Start(t)
		reached := w.reached()
		eventually(t, fmt.Sprintf("events behind revision %d are seen", reached), func() bool { return w.reached() > reached+10 })
	}
	close(stop)
	relay.Wait()
	w.await(50 * <-published)
	awaitLag(t, b.Bus, 0)
}

func hangs(t *testing.T, b Broker, away time.Duration) {
	t.Helper()
	pause, resume := b.Pause, b.Resume
	if pause == nil { // then it is gone for as long
		pause, resume = b.Stop, b.Start
	}
	w := newWitness(t)
	read(t, b.Bus, "a", w.see)
	publish(t, b.Bus, Events(50, 10, 1)...)
	w.await(500)
	pause(t)
	var relay sync.WaitGroup
	relay.Go(func() { insist(t, b.Publish, Events(50, 10, 11)...) })
	sleep(t, away)
	resume(t)
	relay.Wait()
	w.await(1000)
	awaitLag(t, b.Bus, 0)
}

// reached is the revision that all streams have been seen to.
func (w *witness) reached() event.Revision {
	w.mu.Lock()
	defer w.mu.Unlock()
	var least event.Revision
	for _, r := range w.seen {
		if least == 0 || r < least {
			least = r
		}
	}
	return least
}

// sleep waits because time passing is what is tested.
func sleep(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}
