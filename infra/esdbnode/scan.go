package esdbnode

import (
	"context"
	"iter"
	"math"
	"slices"
	"strings"
	"time"
)

// An Event is a stored event, as whoever has the node in the same process may
// read it without asking through the protocol.
type Event struct {
	Position, Number uint64
	ID               [16]byte
	Stream, Type     string
	Meta, Data       string
	Created          time.Time
}

// Scan yields the events behind a position up to the end of the log as of now,
// of streams whose names begin with one of the prefixes, or of all but system
// streams without one. It says what a reader of $all is told: a rebuild of the
// views reads the whole log, and spends less on reading it than on what it reads
// it for (TestAScanSaysWhatAReaderIsTold). The node may not be closed before it
// has ended.
func (n *Node) Scan(ctx context.Context, after uint64, prefixes ...string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		sp := span{from: after + 1, to: n.store.tail.last(), limit: math.MaxInt, match: func(r *record) bool {
			if len(prefixes) == 0 {
				return !strings.HasPrefix(r.stream, "$")
			}
			return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(r.stream, p) })
		}}
		var page []record
		for more := sp.from <= sp.to; more; {
			var err error
			if page, sp.from, more, err = n.page(ctx, sp, page[:0]); err != nil {
				yield(Event{}, err)
				return
			}
			for i := range page {
				if !yield(page[i].event(), nil) {
					return
				}
			}
		}
	}
}

// page reads part of a span while the log is open.
func (n *Node) page(ctx context.Context, sp span, buf []record) (page []record, next uint64, more bool, err error) {
	n.using.RLock()
	defer n.using.RUnlock()
	if err = n.store.goingOn(ctx); err != nil {
		return nil, 0, false, err
	}
	sp.limit = pageEvents
	return n.store.scan(ctx, sp, buf)
}

func (r *record) event() Event {
	return Event{
		Position: r.position, Number: r.number, ID: r.id, Stream: r.stream, Type: r.kind, Meta: r.meta, Data: r.data,
		Created: time.Unix(0, r.created*100).UTC(),
	}
}
