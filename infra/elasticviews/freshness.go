package elasticviews

import (
	"context"
	"sync"
	"sync/atomic"

	"cartwright/domain/event"
)

// A freshness refreshes the live indices of a view for those who are about to
// search them, no oftener than it takes.
type freshness struct {
	working *sync.WaitGroup
	run     func(ctx context.Context) error

	puts  atomic.Int64 // what this process has written
	shown atomic.Int64 // how much of that was there before a refresh that is over

	mu     sync.Mutex // guards what follows
	next   *round     // that begins when the one under way is over; nil if nobody waits
	busy   bool
	lately [2]map[string]shown // young and old: what Revisions has made searchable
}

// A round is a refresh that several wait for.
type round struct {
	over chan struct{}
	err  error
}

// shown is what is known to be searchable of a stream.
type shown struct {
	generation int
	revision   event.Revision
}

// remembered is how many streams are known to be searchable.
const remembered = 20_000

// put notes that this process has written.
func (f *freshness) put() { f.puts.Add(1) }

// own waits until what this process has written is searchable.
func (f *freshness) own(ctx context.Context) error {
	if f.shown.Load() >= f.puts.Load() {
		return nil
	}
	return f.wait(ctx)
}

// show waits until these revisions are searchable.
func (f *freshness) show(ctx context.Context, generation int, revisions map[string]event.Revision) error {
	if f.known(generation, revisions) {
		return nil
	}
	if err := f.wait(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for stream, at := range revisions {
		f.remember(stream, shown{generation, at})
	}
	return nil
}

func (f *freshness) known(generation int, revisions map[string]event.Revision) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for stream, at := range revisions {
		young, inYoung := f.lately[0][stream]
		old, inOld := f.lately[1][stream]
		if inYoung && young.has(generation, at) || inOld && old.has(generation, at) {
			continue
		}
		return false
	}
	return true
}

func (s shown) has(generation int, at event.Revision) bool {
	return s.generation == generation && s.revision >= at
}

// remember must be called with mu held. Two maps are enough for "lately": when
// the young one is full it becomes the old one.
func (f *freshness) remember(stream string, s shown) {
	if f.lately[0] == nil || len(f.lately[0]) >= remembered/2 {
		f.lately[0], f.lately[1] = map[string]shown{}, f.lately[0]
	}
	f.lately[0][stream] = s
}

// wait returns after a refresh that began after it was called.
func (f *freshness) wait(ctx context.Context) error {
	mine := f.join(ctx)
	select {
	case <-mine.over:
		return mine.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *freshness) join(ctx context.Context) *round {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next == nil {
		f.next = &round{over: make(chan struct{})}
	}
	if !f.busy {
		f.busy = true
		// It works for all who wait, so it does not end with the first of them.
		f.working.Go(func() { f.work(context.WithoutCancel(ctx)) })
	}
	return f.next
}

// work refreshes as long as somebody waits.
func (f *freshness) work(ctx context.Context) {
	for now := f.take(); now != nil; now = f.take() {
		puts := f.puts.Load()
		now.err = f.run(ctx)
		for old := f.shown.Load(); now.err == nil && puts > old && !f.shown.CompareAndSwap(old, puts); old = f.shown.Load() {
		}
		close(now.over)
	}
}

func (f *freshness) take() *round {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.next
	f.next, f.busy = nil, now != nil
	return now
}
