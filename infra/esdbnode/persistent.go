package esdbnode

import (
	"context"
	"errors"
	"fmt"
	"math"

	"cartwright/infra/esdbnode/persistent"
)

// groupLog is the store as persistent subscriptions see it.
type groupLog struct{ store *store }

// lookAtOnce is the most positions that are looked at for a page, so that a filter
// which chooses little keeps a group from nothing else.
const lookAtOnce = 1 << 13

// errPageFull ends a read that has found enough.
var errPageFull = errors.New("the page is full")

func (l groupLog) Append(ctx context.Context, stream string, events ...persistent.Event) (uint64, error) {
	w := &write{op: opAppend, stream: stream, expect: expectation{kind: expectAny}}
	for i := range events {
		e := &events[i]
		p := proposal{id: e.ID, json: e.JSON, kind: e.Kind, meta: e.Meta, data: e.Data}
		w.events = append(w.events, p)
		w.size += p.size()
	}
	out, err := l.store.do(ctx, w)
	switch {
	case err != nil:
		return 0, fmt.Errorf("append to %s: %w", stream, groupError(err))
	case out.verdict == deleted:
		return 0, fmt.Errorf("append to %s: %w", stream, persistent.ErrDeleted)
	}
	return out.events - 1, nil
}

// groupError makes what a log that closes says known to those who use it.
func groupError(err error) error {
	switch {
	case errors.Is(err, errClosing), errors.Is(err, errBroken), errors.Is(err, errFull), errors.Is(err, errBusy):
		return fmt.Errorf("%w: %w", persistent.ErrUnavailable, err)
	case errors.Is(err, errStreamDeleted):
		return fmt.Errorf("%w: %w", persistent.ErrDeleted, err)
	}
	return err
}

func (l groupLog) End(ctx context.Context, stream string) (uint64, error) {
	if stream == persistent.All {
		return l.store.tail.last() + 1, nil
	}
	if k := l.store.linker(stream); k != nil {
		end, err := k.end(ctx, k.name(stream))
		return end, groupError(err)
	}
	h, err := l.store.shown(stream)
	return h.events, err
}

func (l groupLog) Read(ctx context.Context, q persistent.Query) (persistent.Page, error) {
	read := l.readStream
	if q.Stream == persistent.All {
		read = l.readAll
	}
	page, err := read(ctx, q)
	if err != nil {
		return persistent.Page{}, fmt.Errorf("%s from %d: %w", q.Stream, q.From, groupError(err))
	}
	return page, nil
}

func (l groupLog) readAll(ctx context.Context, q persistent.Query) (persistent.Page, error) {
	end := l.store.tail.last()
	from := max(q.From, 1)
	page := persistent.Page{Next: min(end, from+lookAtOnce-1) + 1}
	sp := span{from: from, to: page.Next - 1, limit: q.Limit}
	if q.Match != nil {
		sp.match = func(r *record) bool { return q.Match(r.stream, r.kind) }
	}
	err := l.store.readAll(ctx, sp, l.collect(&page, q, func(r *record) uint64 { return r.position }))
	if errors.Is(err, errPageFull) {
		return page, nil
	}
	page.Next = max(page.Next, from)
	page.End = page.Next > end
	return page, err
}

func (l groupLog) readStream(ctx context.Context, q persistent.Query) (persistent.Page, error) {
	if k := l.store.linker(q.Stream); k != nil {
		return l.readLinks(ctx, k, q)
	}
	h, err := l.store.shown(q.Stream)
	if err != nil {
		return persistent.Page{}, err
	}
	end := l.store.tail.last()
	page := persistent.Page{Next: q.From}
	if h.position <= end { // all that it has will be looked at
		page.Next = max(q.From, h.events)
	}
	err = l.store.readStream(ctx, slice{stream: q.Stream, from: q.From, to: math.MaxInt64, limit: q.Limit, end: end}, l.collect(&page, q, func(r *record) uint64 { return r.number }))
	if errors.Is(err, errPageFull) {
		return page, nil
	}
	if errors.Is(err, errNoStream) { // not yet, or not any more
		err = nil
	}
	if n := len(page.Found); n > 0 {
		page.Next = max(page.Next, number(page.Found[n-1])+1)
	}
	page.End = true
	return page, err
}

func number(f persistent.Found) uint64 {
	if f.Link != nil {
		return f.Link.Number
	}
	return f.Event.Number
}

// collect gathers events until there are as many as were asked for, or enough
// for one page.
func (l groupLog) collect(page *persistent.Page, q persistent.Query, place func(*record) uint64) func(*record) error {
	size := 0
	return func(r *record) error {
		f, err := l.found(r, q.Resolve)
		if err != nil {
			return err
		}
		page.Found = append(page.Found, f)
		if size += r.footprint(); len(page.Found) == q.Limit || size >= pageBytes {
			page.Next = place(r) + 1
			return errPageFull
		}
		return nil
	}
}

func (l groupLog) found(r *record, resolve bool) (persistent.Found, error) {
	if !resolve || r.kind != typeLink {
		return persistent.Found{Event: groupEvent(r)}, nil
	}
	target, err := (&streamsService{store: l.store}).target(r)
	if err != nil {
		return persistent.Found{}, err
	}
	f := persistent.Found{Link: groupEvent(r)}
	if target != nil {
		f.Event = groupEvent(target)
	}
	return f, nil
}

func groupEvent(r *record) *persistent.Event {
	return &persistent.Event{
		ID: r.id, Stream: r.stream, Number: r.number, Position: r.position, Created: r.created,
		Kind: r.kind, JSON: r.json, Meta: r.meta, Data: r.data,
	}
}

func (l groupLog) Follow(ctx context.Context, after uint64, each func(stream string, number, position uint64)) error {
	return groupError(l.follow(ctx, after, each))
}

// A listener hears of events as they come. It has no use for anything else.
type listener struct {
	each func(stream string, number, position uint64)
}

func (l listener) event(r *record) error {
	l.each(r.stream, r.number, r.position)
	return nil
}

func (listener) checkpoint(uint64) error { return nil }
func (listener) caughtUp() error         { return nil }
func (listener) fellBehind() error       { return nil }

// Subscriptions tells how persistent subscriptions are doing.
func (n *Node) Subscriptions(ctx context.Context) ([]persistent.State, error) {
	n.using.RLock()
	defer n.using.RUnlock()
	if n.closed {
		return nil, errClosing
	}
	states, err := n.groups.States(ctx)
	if err != nil {
		return nil, fmt.Errorf("persistent subscriptions: %w", err)
	}
	return states, nil
}

// userOf is who makes a call, as far as its door wants to know.
func userOf(ctx context.Context) string {
	e, ok := entryOf(ctx)
	if !ok || e.guard.creds == nil {
		return ""
	}
	user, err := e.user(ctx)
	if err != nil {
		return "" // the door has let nobody in without
	}
	return user
}
