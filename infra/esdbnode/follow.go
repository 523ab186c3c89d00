package esdbnode

import (
	"context"
	"errors"
	"fmt"
	"math"
)

var (
	errStreamDeleted = errors.New("stream is deleted")
	errNoStream      = errors.New("there is no such stream")
)

// A watcher is told what a subscription finds, in the order of the log.
type watcher interface {
	event(*record) error
	checkpoint(position uint64) error // all up to here was looked at
	caughtUp() error
	fellBehind() error
}

// A follower carries one subscription through the log. It has no queue: it reads
// at the pace at which its watcher takes, from memory while it is near the end
// and from disk when it is not. So a slow one costs nobody else anything.
type follower struct {
	store   *store
	watcher watcher
	match   func(*record) (bool, error)
	// interval is how many events are looked at between two checkpoints, 0 for none.
	interval uint64

	place *follows // tells the figures how far it is

	next    uint64 // the position to look at next
	looked  uint64 // since the last checkpoint
	marked  uint64 // the position of the last checkpoint
	records []record
}

// run follows until ctx ends, the node closes, or the watcher fails. catchUp
// brings the follower to the end of the log as it finds it.
func (f *follower) run(ctx context.Context, catchUp func(context.Context) error) error {
	f.records = make([]record, 0, pageEvents)
	f.marked = f.next - 1
	for {
		if err := catchUp(ctx); err != nil {
			return err
		}
		if err := f.mark(); err != nil {
			return err
		}
		if err := f.watcher.caughtUp(); err != nil {
			return err
		}
		if err := f.live(ctx); err != nil {
			return err
		}
		if err := f.mark(); err != nil {
			return err
		}
		if err := f.watcher.fellBehind(); err != nil {
			return err
		}
	}
}

// live delivers from memory. It returns nil when memory no longer reaches back
// to where the follower is.
func (f *follower) live(ctx context.Context) error {
	for {
		n, _, grown, ok := f.store.tail.from(f.next, f.records[:cap(f.records)])
		if !ok {
			return nil
		}
		if n > 0 {
			if err := f.deliver(f.records[:n]); err != nil {
				return err
			}
			continue
		}
		clear(f.records[:cap(f.records)]) // while it waits it holds on to nothing
		select {
		case <-grown:
		case <-f.store.closing:
			return errClosing
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// catchUpAll reads up to the end of the log, from disk or memory.
func (f *follower) catchUpAll(ctx context.Context) error {
	for {
		if err := f.store.goingOn(ctx); err != nil {
			return err
		}
		n, end, _, ok := f.store.tail.from(f.next, f.records[:cap(f.records)])
		if ok && n == 0 {
			return nil
		}
		records := f.records[:n]
		if !ok {
			var err error
			records, _, _, err = f.store.scan(ctx, span{from: f.next, to: end, limit: pageEvents}, f.records[:0])
			if err != nil {
				return err
			}
			if len(records) == 0 { // nothing but a gap lies between here and the end
				f.next = end + 1
			}
		}
		if err := f.deliver(records); err != nil {
			return err
		}
	}
}

func (f *follower) deliver(records []record) error {
	f.store.meters.read(len(records))
	for i := range records {
		r := &records[i]
		f.place.at.Store(r.position - 1)
		f.next = r.position + 1
		f.looked++
		ok, err := f.match(r)
		if err != nil {
			return err
		}
		if ok {
			if err := f.watcher.event(r); err != nil {
				return err
			}
		}
		if f.looked == f.interval {
			if err := f.mark(); err != nil {
				return err
			}
		}
	}
	f.place.at.Store(f.next - 1)
	return nil
}

// mark sends a checkpoint for what was looked at since the last one.
func (f *follower) mark() error {
	f.looked = 0
	at := f.next - 1
	if f.interval == 0 || at <= f.marked {
		return nil
	}
	f.marked = at
	return f.watcher.checkpoint(at)
}

// goingOn fails when a long read must end.
func (s *store) goingOn(ctx context.Context) error {
	select {
	case <-s.closing:
		return errClosing
	default:
		return ctx.Err()
	}
}

// followAll follows the whole log behind a position.
func (s *store) followAll(ctx context.Context, after uint64, match func(*record) bool, interval uint64, w watcher) error {
	f := &follower{store: s, watcher: w, interval: interval, next: after + 1, place: s.meters.follow(ofAll, after)}
	defer s.meters.leave(f.place)
	f.match = func(r *record) (bool, error) { return match == nil || match(r), nil }
	return f.run(ctx, f.catchUpAll)
}

// followStream follows one stream from a number on.
func (s *store) followStream(ctx context.Context, stream string, from uint64, w watcher) error {
	f := &follower{store: s, watcher: w, next: 1, place: s.meters.follow(ofStream, 0)}
	defer s.meters.leave(f.place)
	f.match = func(r *record) (bool, error) {
		switch {
		case r.stream != stream || r.number < from:
			return false, nil
		case r.kind == typeTombstone && r.number == tombstoneNumber:
			return false, fmt.Errorf("%s: %w", stream, errStreamDeleted)
		}
		from = r.number + 1
		return true, nil
	}
	return f.run(ctx, func(ctx context.Context) error {
		end := s.tail.last()
		f.next = end + 1
		err := s.readStream(ctx, slice{stream: stream, from: from, to: math.MaxInt64, limit: math.MaxInt, end: end}, func(r *record) error {
			f.place.at.Store(r.position - 1)
			from = r.number + 1
			return w.event(r)
		})
		f.place.at.Store(end)
		if errors.Is(err, errNoStream) {
			return nil // not yet
		}
		return err
	})
}

// readStream gives what a stream shows of a slice to each, page by page, all of
// it as it was at one moment: that of its head (TestAReadSeesAStreamAtOneMoment).
// It fails with errNoStream where there is none.
func (s *store) readStream(ctx context.Context, sl slice, each func(*record) error) error {
	if l := s.linker(sl.stream); l != nil {
		return l.readStream(ctx, sl, each)
	}
	h, err := s.shown(sl.stream)
	switch {
	case err != nil:
		return err
	case h.tombstone:
		return fmt.Errorf("%s: %w", sl.stream, errStreamDeleted)
	case h.gone():
		return fmt.Errorf("%s: %w", sl.stream, errNoStream)
	}
	sl.end = min(sl.end, h.position)
	if err = s.reach(ctx, sl.end); err != nil {
		return err
	}
	sl.from, sl.to = max(sl.from, h.first()), min(sl.to, h.events-1)
	sl.oldest = s.oldest(h.limits)
	return s.pages(ctx, sl, each, func(sl slice, buf []record) ([]record, uint64, bool, error) { return s.read(ctx, sl, buf) })
}

// pages gives what read makes of a slice to each, page by page.
func (s *store) pages(ctx context.Context, sl slice, each func(*record) error,
	read func(sl slice, buf []record) (page []record, next uint64, more bool, err error),
) (err error) {
	left := sl.limit
	var page []record
	for more := sl.from <= sl.to && left > 0; more; {
		if err = s.goingOn(ctx); err != nil {
			return err
		}
		sl.limit = min(left, pageEvents)
		var next uint64
		if page, next, more, err = read(sl, page[:0]); err != nil {
			return err
		}
		s.meters.read(len(page))
		if err = eachOf(page, each); err != nil {
			return err
		}
		left -= len(page)
		more = more && left > 0
		if sl.backwards {
			sl.to = next
		} else {
			sl.from = next
		}
	}
	return nil
}

// reach waits until readers of the whole log see a position that is committed:
// the writer makes heads known a moment before. Without the wait an event would
// be missing where its stream says it is, and whoever has read it in its stream
// would not find it in the log.
func (s *store) reach(ctx context.Context, position uint64) error {
	for {
		_, end, grown, _ := s.tail.from(position, nil)
		if end >= position {
			return nil
		}
		select {
		case <-grown:
		case <-s.closing:
			return errClosing
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// readAll gives the events of a span to each, page by page.
func (s *store) readAll(ctx context.Context, sp span, each func(*record) error) error {
	left := sp.limit
	var page []record
	for more := sp.from <= sp.to && left > 0; more; {
		err := s.goingOn(ctx)
		if err != nil {
			return err
		}
		sp.limit = min(left, pageEvents)
		var next uint64
		if page, next, more, err = s.scan(ctx, sp, page[:0]); err != nil {
			return err
		}
		s.meters.read(len(page))
		if err = eachOf(page, each); err != nil {
			return err
		}
		left -= len(page)
		more = more && left > 0
		if sp.backwards {
			sp.to = next
		} else {
			sp.from = next
		}
	}
	return nil
}

func eachOf(page []record, each func(*record) error) error {
	for i := range page {
		if err := each(&page[i]); err != nil {
			return err
		}
	}
	return nil
}
