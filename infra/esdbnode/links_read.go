package esdbnode

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2"

	"cartwright/infra/esdbnode/persistent"
)

// readStream is the store's readStream of links. Every event that was committed
// when it was called has its link, though it be the first that anybody asks for:
// then it waits for all of them to be made.
func (l *linker) readStream(ctx context.Context, sl slice, each func(*record) error) error {
	end, err := l.end(ctx, l.name(sl.stream))
	switch {
	case err != nil:
		return err
	case end == 0:
		return fmt.Errorf("%s: %w", sl.stream, errNoStream)
	}
	sl.to = min(sl.to, end-1)
	return l.each(ctx, sl, each)
}

// end is the number of a name's next link, once all that there are to be are made.
func (l *linker) end(ctx context.Context, name string) (uint64, error) {
	if err := l.ask(ctx); err != nil {
		return 0, err
	}
	if err := l.reach(ctx, l.store.tail.last()); err != nil {
		return 0, err
	}
	return l.count(name)
}

// each gives the links of a slice to each, page by page, as far as they are made.
func (l *linker) each(ctx context.Context, sl slice, each func(*record) error) error {
	return l.store.pages(ctx, sl, each, l.read)
}

// read appends a page of a slice to buf.
func (l *linker) read(sl slice, buf []record) (page []record, next uint64, more bool, err error) {
	name := l.name(sl.stream)
	it, err := l.store.db.NewIter(&pebble.IterOptions{
		LowerBound: linkKey(l.kind, name, sl.from), UpperBound: append(linkKey(l.kind, name, sl.to), 0),
	})
	if err != nil {
		return buf, 0, false, fmt.Errorf("read %s from %d: %w", sl.stream, sl.from, err)
	}
	defer func() { _ = it.Close() }()
	step := it.Next
	if sl.backwards {
		step = it.Prev
	}
	for ok, size := first(it, sl.backwards), 0; ok; ok = step() {
		number := numberIn(it.Key())
		if len(buf) >= sl.limit || size >= pageBytes {
			return buf, number, true, nil
		}
		to, err := getLink(name, it.Value())
		if err != nil {
			return buf, number, false, fmt.Errorf("%s@%d: %w", sl.stream, number, err)
		}
		buf = append(buf, to.record(l.kind, number))
		size += buf[len(buf)-1].footprint()
	}
	if err := it.Error(); err != nil {
		return buf, 0, false, fmt.Errorf("read %s from %d: %w", sl.stream, sl.from, err)
	}
	return buf, 0, false, nil
}

// at gives one link.
func (l *linker) at(stream string, number uint64) (e record, found bool, err error) {
	page, _, _, err := l.read(slice{stream: stream, from: number, to: number, limit: 1}, nil)
	if err != nil || len(page) == 0 {
		return record{}, false, err
	}
	return page[0], true, nil
}

// followLinks is followStream of links.
func (r *reading) followLinks(ctx context.Context, l *linker) error {
	f := &linkFollower{linker: l, watcher: r, stream: r.stream()}
	switch at := r.options.GetStream().GetRevisionOption().(type) {
	case *streams.ReadReq_Options_StreamOptions_Revision:
		f.next = min(at.Revision, math.MaxInt64-1) + 1
	case *streams.ReadReq_Options_StreamOptions_End:
		end, err := l.end(ctx, l.name(f.stream))
		if err != nil {
			return err
		}
		f.next = end
	}
	if err := r.confirm(); err != nil {
		return err
	}
	return f.run(ctx)
}

// A linkFollower carries one subscription through a stream of links. It reads them
// as they lie in the log, and is woken by those of its own stream only.
type linkFollower struct {
	*linker
	watcher watcher
	stream  string
	next    uint64   // the number to look for next
	place   *follows // tells the figures how far it is
}

// idle is the place of those who have all there is.
const idle = uint64(math.MaxUint64)

func (f *linkFollower) run(ctx context.Context) error {
	f.place = f.store.meters.follow(ofStream, idle)
	defer f.store.meters.leave(f.place)
	name := f.name(f.stream)
	w := f.watch(name)
	defer f.unwatch(name)
	for {
		if _, err := f.end(ctx, name); err != nil { // all that there are to be are made
			return err
		}
		if _, err := f.deliver(ctx, 0); err != nil {
			return err
		}
		if err := f.watcher.caughtUp(); err != nil {
			return err
		}
		if err := f.live(ctx, w); err != nil {
			return err
		}
		if err := f.watcher.fellBehind(); err != nil {
			return err
		}
	}
}

// live delivers links as they are made. It returns nil when the next one is of an
// event that is not among those in memory any more: it is then as far behind as one
// that has to read the events themselves from the disk.
func (f *linkFollower) live(ctx context.Context, w *watched) error {
	for {
		grown := f.grown(w)
		if kept, err := f.deliver(ctx, f.store.tail.oldest()); err != nil || !kept {
			return err
		}
		select {
		case <-grown:
		case <-f.store.closing:
			return errClosing
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// errBehind ends a page at an event that is no longer in memory.
var errBehind = errors.New("the event is not in memory")

// deliver gives all links that are made to the watcher. kept is false where one was
// of an event before the oldest position, and it was left off there.
func (f *linkFollower) deliver(ctx context.Context, oldest uint64) (kept bool, err error) {
	err = f.each(ctx, slice{stream: f.stream, from: f.next, to: math.MaxInt64, limit: math.MaxInt}, func(r *record) error {
		if r.position < oldest {
			return errBehind
		}
		f.place.at.Store(r.position - 1)
		f.next = r.number + 1
		return f.watcher.event(r)
	})
	if errors.Is(err, errBehind) {
		return false, nil
	}
	f.place.at.Store(idle)
	return true, err
}

// oldest is the oldest position that is kept in memory.
func (t *tail) oldest() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.first
}

// readLinks is readStream of links. What is not made yet is told by Follow when it
// is.
func (l groupLog) readLinks(ctx context.Context, from *linker, q persistent.Query) (persistent.Page, error) {
	page := persistent.Page{Next: q.From}
	err := from.ask(ctx)
	if err == nil {
		sl := slice{stream: q.Stream, from: q.From, to: math.MaxInt64, limit: q.Limit}
		err = from.each(ctx, sl, l.collect(&page, q, func(r *record) uint64 { return r.number }))
	}
	if errors.Is(err, errPageFull) {
		return page, nil
	}
	if n := len(page.Found); n > 0 {
		page.Next = number(page.Found[n-1]) + 1
	}
	page.End = true
	return page, err
}

// follow is Follow, with links among the events, at the position at which the log
// is.
func (l groupLog) follow(ctx context.Context, after uint64, each func(stream string, number, position uint64)) error {
	var mu sync.Mutex
	at := after
	link := func(stream string, number uint64) {
		mu.Lock()
		defer mu.Unlock()
		each(stream, number, at)
	}
	var stops [kindsOfLinks]func()
	for i, k := range l.store.linkers {
		stops[i] = k.hear(link)
	}
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()
	for _, k := range l.store.linkers {
		if err := k.made(ctx, after, link); err != nil {
			return err
		}
	}
	return l.store.followAll(ctx, after, nil, 0, listener{func(stream string, number, position uint64) {
		mu.Lock()
		defer mu.Unlock()
		at = position
		each(stream, number, position)
	}})
}

// made tells of streams that have links of events behind a position, and how far
// they go.
func (l *linker) made(ctx context.Context, after uint64, each func(stream string, number uint64)) error {
	if !l.asked.Load() {
		return nil
	}
	return l.store.readAll(ctx, span{from: after + 1, to: l.place(), limit: math.MaxInt}, func(r *record) error {
		to, ok := l.kind.link(r)
		if !ok {
			return nil
		}
		end, err := l.count(to.name)
		if err == nil && end > 0 {
			each(l.kind.prefix+to.name, end-1)
		}
		return err
	})
}

// linkedEvent is the event that a link leads to. One that the node has made stands at
// its position, so that its place in its stream has not to be looked for.
func (s *store) linkedEvent(link *record, stream string, number uint64) (record, bool, error) {
	if s.linker(link.stream) != nil {
		e, found, err := s.at(link.position)
		if err != nil || found && e.number == number && e.stream == stream {
			return e, found, err
		}
	}
	return s.event(stream, number)
}
