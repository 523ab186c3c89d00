package kafkabus

import (
	"context"
	"slices"
	"sync"
	"time"

	"cartwright/domain/event"
)

const (
	trailEvents = 1024    // of a partition, for readers who are not that far yet
	trailBytes  = 2 << 20 // and no more data than this
	pieceMax    = 256     // events a reader is given at once

	checkEvery = 100 * time.Millisecond // whether brokers have what did not come this way
	distrust   = time.Second            // of a partition to which somebody else publishes, too

	nowhere = -1 // an offset that nobody asks for
)

// A Shortcut gives what this process publishes to those of its own readers who
// have read all before it, without the way to the brokers and back. Publishers
// and readers have it in common in their Config; the topic is one. What members
// may read, and how far they have come, stays the brokers' affair: a reader on the
// shortcut holds its partitions, marks its offsets and loses both as any other.
//
// Only what brokers have acknowledged is given, with the offsets that they gave
// it. A reader takes to the shortcut where it finds the offset that it would ask
// brokers for, and is back with them, from what it has marked, as soon as there is
// a gap: it was too slow for what is kept here, somebody else has published, or
// the topic is another one.
type Shortcut struct {
	ends func() []int64

	mu     sync.Mutex
	trails map[int32]*trail
}

// NewShortcut makes one. Ends are the ends of the topic's partitions with the
// brokers now, in order, or nil where that is not known; they show what others
// have published. It must be cheap and may be called concurrently: it is asked ten
// times a second for each reader.
func NewShortcut(ends func() []int64) *Shortcut {
	return &Shortcut{ends: ends, trails: map[int32]*trail{}}
}

// A trail is the newest of what was published to a partition.
type trail struct {
	events  []*event.Recorded
	from    int64     // offset of the first of them
	size    int       // of their data
	life    int       // how often it has begun anew
	lost    time.Time // when it last did
	behind  int64     // where it ended when brokers said otherwise
	since   time.Time // when they first said so of that end; zero where they do not
	readers map[*shortReader]bool
}

func (t *trail) end() int64 { return t.from + int64(len(t.events)) }

// begin forgets everything: what follows stands at that offset.
func (t *trail) begin(offset int64) {
	clear(t.events)
	t.events, t.from, t.size, t.since = t.events[:0], offset, 0, time.Time{}
	t.life++
	t.lost = time.Now()
	t.wake()
}

func (t *trail) wake() {
	for r := range t.readers {
		select {
		case r.news <- struct{}{}:
		default: // it has been told already
		}
	}
}

// add keeps copies: an event of a slow partition would hold on to all that were
// published with it.
func (t *trail) add(events []*event.Recorded) {
	kept := make([]event.Recorded, len(events))
	for i, e := range events {
		kept[i] = asRead(*e)
		t.events = append(t.events, &kept[i])
		t.size += len(e.Data)
	}
	surplus := 0
	for ; len(t.events)-surplus > trailEvents || t.size > trailBytes; surplus++ {
		t.size -= len(t.events[surplus].Data)
	}
	clear(t.events[:surplus])
	t.events, t.from = t.events[surplus:], t.from+int64(surplus)
	t.wake()
}

// published is told of what brokers have acknowledged, the first of it at that offset.
func (s *Shortcut) published(partition int32, offset int64, events []*event.Recorded) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.trails[partition]
	if t == nil {
		t = &trail{from: offset, readers: map[*shortReader]bool{}}
		s.trails[partition] = t
	}
	if offset != t.end() {
		t.begin(offset)
	}
	if offset < 0 || slices.ContainsFunc(events, broken) {
		t.begin(nowhere) // those who read it from brokers say what is wrong with it
		return
	}
	t.add(events)
}

func broken(e *event.Recorded) bool { return complete(e) != nil }

// A shortReader is one who reads a partition on the shortcut.
type shortReader struct {
	shortcut *Shortcut
	trail    *trail
	life     int
	next     int64
	news     chan struct{}
}

// join gives a reader for whom that offset is next, if it can be had here; leave
// lets go of it.
func (s *Shortcut) join(partition int32, next int64) (*shortReader, bool) {
	if s == nil {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.trails[partition]
	if t == nil || next < t.from || next > t.end() || time.Since(t.lost) < distrust {
		return nil, false
	}
	r := &shortReader{shortcut: s, trail: t, life: t.life, next: next, news: make(chan struct{}, 1)}
	t.readers[r] = true
	return r, true
}

func (r *shortReader) leave() {
	r.shortcut.mu.Lock()
	defer r.shortcut.mu.Unlock()
	delete(r.trail.readers, r)
}

// read gives what has come, the first of it at that offset; news tells when there
// is more. It is false when what comes next can't be had here any more.
func (r *shortReader) read() (events []*event.Recorded, offset int64, ok bool) {
	r.shortcut.mu.Lock()
	defer r.shortcut.mu.Unlock()
	t := r.trail
	if r.life != t.life || r.next < t.from {
		return nil, 0, false
	}
	offset = r.next
	waiting := t.events[offset-t.from:]
	if len(waiting) > 0 {
		events = append(make([]*event.Recorded, 0, min(len(waiting), pieceMax)), waiting[:min(len(waiting), pieceMax)]...)
	}
	r.next += int64(len(events))
	return events, offset, true
}

// watch checks now and then until ctx ends.
func (s *Shortcut) watch(ctx context.Context) {
	every := time.NewTicker(checkEvery)
	defer every.Stop()
	for {
		select {
		case <-every.C:
			s.check()
		case <-ctx.Done():
			return
		}
	}
}

// check finds out where brokers have what has not come this way, although there
// was time for it: somebody else has published it, and may go on.
func (s *Shortcut) check() {
	ends := s.ends()
	s.mu.Lock()
	defer s.mu.Unlock()
	for partition, t := range s.trails {
		switch {
		case int(partition) >= len(ends) || ends[partition] == t.end():
			t.since = time.Time{}
		case t.since.IsZero() || t.behind != t.end():
			t.behind, t.since = t.end(), time.Now()
		case time.Since(t.since) >= 2*checkEvery:
			t.begin(nowhere)
		}
	}
}
