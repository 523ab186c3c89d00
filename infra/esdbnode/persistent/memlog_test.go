package persistent_test

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"cartwright/infra/esdbnode/persistent"
)

// A memLog is a log in memory that can be told to fail.
type memLog struct {
	mu     sync.Mutex
	events []persistent.Event // the one at position p is events[p-1]
	by     map[string][]int
	before map[string]uint64 // $tb by stream

	failBefore, failAfter bool // the next append
	failRead              error

	meanwhile func() // happens while the next page is on its way

	followers atomic.Int64
}

var errDisk = errors.New("the disk is full")

func newMemLog() *memLog { return &memLog{by: map[string][]int{}, before: map[string]uint64{}} }

func (l *memLog) Append(_ context.Context, stream string, events ...persistent.Event) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failBefore {
		l.failBefore = false
		return 0, errDisk
	}
	for _, e := range events {
		e.Stream, e.Number, e.Position = stream, uint64(len(l.by[stream])), uint64(len(l.events)+1)
		l.by[stream] = append(l.by[stream], len(l.events))
		l.events = append(l.events, e)
		if of, ok := strings.CutPrefix(stream, "$$"); ok {
			var m struct {
				Before uint64 `json:"$tb"`
			}
			if err := json.Unmarshal([]byte(e.Data), &m); err != nil {
				return 0, err
			}
			l.before[of] = m.Before
		}
	}
	if l.failAfter {
		l.failAfter = false
		return 0, errDisk
	}
	return uint64(len(l.by[stream]) - 1), nil
}

func (l *memLog) End(_ context.Context, stream string) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if stream == persistent.All {
		return uint64(len(l.events) + 1), nil
	}
	return uint64(len(l.by[stream])), nil
}

func (l *memLog) Read(_ context.Context, q persistent.Query) (persistent.Page, error) {
	page, err := l.read(q)
	if do := l.meanwhile; do != nil {
		l.meanwhile = nil
		do()
	}
	return page, err
}

func (l *memLog) read(q persistent.Query) (persistent.Page, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.failRead; err != nil {
		l.failRead = nil
		return persistent.Page{}, err
	}
	if q.Stream == persistent.All {
		return l.readAll(q), nil
	}
	places := l.by[q.Stream]
	page := persistent.Page{Next: max(q.From, min(l.before[q.Stream], uint64(len(places))))}
	for ; page.Next < uint64(len(places)) && len(page.Found) < q.Limit; page.Next++ {
		page.Found = append(page.Found, l.found(l.events[places[page.Next]], q.Resolve))
	}
	page.End = page.Next >= uint64(len(places))
	return page, nil
}

func (l *memLog) readAll(q persistent.Query) persistent.Page {
	page := persistent.Page{Next: max(q.From, 1)}
	for ; page.Next <= uint64(len(l.events)) && len(page.Found) < q.Limit; page.Next++ {
		e := l.events[page.Next-1]
		if q.Match == nil || q.Match(e.Stream, e.Kind) {
			page.Found = append(page.Found, l.found(e, q.Resolve))
		}
	}
	page.End = page.Next > uint64(len(l.events))
	return page
}

func (l *memLog) found(e persistent.Event, resolve bool) persistent.Found {
	if !resolve || e.Kind != "$>" {
		return persistent.Found{Event: &e}
	}
	f := persistent.Found{Link: &e}
	n, stream, _ := strings.Cut(e.Data, "@")
	if number, err := strconv.Atoi(n); err == nil && number < len(l.by[stream]) {
		f.Event = new(l.events[l.by[stream][number]])
	}
	return f
}

// Follow tells nobody anything: groups here are driven by hand.
func (l *memLog) Follow(ctx context.Context, _ uint64, _ func(string, uint64, uint64)) error {
	l.followers.Add(1)
	defer l.followers.Add(-1)
	<-ctx.Done()
	return ctx.Err()
}

// stream gives what a stream shows.
func (l *memLog) stream(name string) []persistent.Event {
	page, _ := l.Read(context.Background(), persistent.Query{Stream: name, Limit: 1 << 30})
	var all []persistent.Event
	for _, f := range page.Found {
		all = append(all, *f.Event)
	}
	return all
}
