package commands

import (
	"context"
	"sync/atomic"
	"time"

	"cartwright/domain/event"
)

// What is watched, and for how long.
const (
	watchesKept = 32
	watchEvery  = 15 * time.Millisecond // how often the stream is looked at, as long as somebody wants to know
	watchWithin = 50 * time.Millisecond // how old what a refusal is foreseen from may be
	watchIdle   = 5 * time.Second       // without a refusal, a stream is watched no longer
)

// A watch is on a stream that many come for and few get anything of. It has the
// state that this process's lane was at last, hears what others append, and has the
// lane look again before what it knows is too old: one read for all who are refused
// meanwhile. To go by what was heard alone, as offers do, was tried: a log that few
// append to says only every few dozen events how far it was followed.
type watch[S any] struct {
	stream  string
	hearing *hearing
	shown   atomic.Pointer[shown[S]] // nil for nothing that is known to be so
	heard   atomic.Uint64            // the newest revision that was heard of
	wanted  atomic.Int64             // when somebody wanted to know last
	used    atomic.Int64             // when it was good for something last
}

// shown is a state that nobody changes any more.
type shown[S any] struct {
	state S
	at    event.Revision
	born  int64 // it was the newest at this moment, by the hearing's clock
}

// Watch has a stream watched for a while, so that refusals may be foreseen. It
// does nothing where there are enough, or nobody is heard.
func (h *Handler[S, C, E]) Watch(id string) {
	stream := h.Stream(id)
	sh := h.shard(stream)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if w := sh.watches[stream]; w != nil {
		w.used.Store(w.hearing.moment())
		return
	}
	if h.spec.Watched == nil || sh.closed || h.watches.Load() >= watchesKept {
		return
	}
	h.watches.Add(1)
	w := &watch[S]{stream: stream}
	w.hearing = hear(h.spec.Watched, stream, hearEvery, w.hear)
	w.used.Store(w.hearing.moment())
	sh.watches[stream] = w
	h.lanes.Go(func() { h.keepWatch(id, w) })
}

// keepWatch looks again and again, and ends a watch that has been good for nothing
// for a while.
func (h *Handler[S, C, E]) keepWatch(id string, w *watch[S]) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for on := true; on; {
		select {
		case <-tick.C:
			h.lookAgain(id, w)
			on = w.moment()-w.used.Load() < int64(watchIdle)
		case <-h.stop:
			on = false
		}
	}
	sh := h.shard(w.stream)
	sh.mu.Lock()
	delete(sh.watches, w.stream)
	sh.mu.Unlock()
	w.hearing.close()
	h.watches.Add(-1)
}

// lookAgain has the lane show the newest state, where somebody wanted to know since
// the last time.
func (h *Handler[S, C, E]) lookAgain(id string, w *watch[S]) {
	now := w.moment()
	s := w.shown.Load()
	if now-w.wanted.Load() > int64(watchWithin) || (s != nil && now-s.born < int64(watchEvery)) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// Where it fails nothing is shown, and everybody asks the lane.
	_, _ = h.send(ctx, id, &call[S, C, E]{kind: look, see: func(S, event.Revision) {}})
}

// hear notes what was appended. Streams whose names begin alike are heard too.
func (w *watch[S]) hear(stream string, at event.Revision) {
	if stream != w.stream {
		return
	}
	for {
		before := w.heard.Load()
		if uint64(at) <= before || w.heard.CompareAndSwap(before, uint64(at)) {
			return
		}
	}
}

// moment is a time by the watch's clock. The nil one has none.
func (w *watch[S]) moment() int64 {
	if w == nil {
		return 0
	}
	return w.hearing.moment()
}

// newest is the stream's state, if it is known as of a moment ago.
func (w *watch[S]) newest() (S, bool) {
	var none S
	now := w.moment()
	w.wanted.Store(now)
	s := w.shown.Load()
	if s == nil || now-s.born >= int64(watchWithin) || w.heard.Load() > uint64(s.at) {
		return none, false
	}
	return s.state, true
}

// Foresee has refuse look at the state of a stream that is watched, as it was a
// twentieth of a second ago at most, and behind all that this process has appended,
// and gives its refusal. It waits for nothing; nil says nothing.
// Many may look at one state, so refuse must not change it.
func (h *Handler[S, C, E]) Foresee(id string, refuse func(S) error) error {
	if h.watches.Load() == 0 {
		return nil
	}
	stream := h.Stream(id)
	sh := h.shard(stream)
	sh.mu.Lock()
	w := sh.watches[stream]
	sh.mu.Unlock()
	if w == nil {
		return nil
	}
	state, known := w.newest()
	if !known {
		return nil
	}
	err := refuse(state)
	if err != nil {
		w.used.Store(w.hearing.moment())
	}
	return err
}

// show lets those who watch see the lane's state, which was the newest at a moment
// after began if settled says so. It is called before anybody is answered.
func (l *lane[S, C, E]) show(began int64, settled bool) {
	w := l.watch
	switch {
	case w == nil:
	case !settled:
		w.shown.Store(nil)
	default:
		w.shown.Store(&shown[S]{l.handler.spec.Decider.Clone(l.fold.state), l.fold.at, began})
	}
}
