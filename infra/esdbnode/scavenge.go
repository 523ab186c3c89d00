package esdbnode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"
)

// Scavenged is what a scavenge did.
type Scavenged struct {
	Streams uint64 `json:"streams"` // that had something to throw away
	Events  uint64 `json:"events"`  // thrown away
	Files   int    `json:"files"`   // that had held such events, or may have, and are gone; their other events are in new ones
}

// Scavenge throws away what readers are not shown any more, of all streams or of
// those that are named, with their metadata. When it returns without an error, no
// file of the folder holds any of it, nor what an earlier scavenge that was broken
// off had thrown away. Appends and reads go on meanwhile, and it may be broken off
// at any time; scavenges come one after the other.
func (n *Node) Scavenge(ctx context.Context, streams ...string) (done Scavenged, err error) {
	n.using.RLock()
	defer n.using.RUnlock()
	if n.closed {
		return done, fmt.Errorf("scavenge: %w", errClosing)
	}
	ctx, stop := n.store.untilClosing(ctx)
	defer stop()
	select {
	case n.store.scavenging <- struct{}{}:
		defer func() { <-n.store.scavenging }()
	case <-ctx.Done():
		return done, fmt.Errorf("scavenge: %w", context.Cause(ctx))
	}
	s := &scavenge{store: n.store}
	unlinked := n.store.linked(ctx) // what has no link is not thrown away
	if len(streams) == 0 {
		err = s.all(ctx)
	} else {
		err = s.named(ctx, streams)
	}
	if err == nil {
		err = s.scrub(ctx)
	}
	if err == nil && unlinked != nil {
		err = fmt.Errorf("all but events that are to be linked to first: %w", unlinked)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return s.Scavenged, fmt.Errorf("scavenge: %w", err)
	}
	n.store.meters.scavenged(s.Scavenged, n.store.now())
	return s.Scavenged, nil
}

// untilClosing is a context that ends when the node closes, too.
func (s *store) untilClosing(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-s.closing:
			cancel(errClosing)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-ended
	}
}

// scavenge is one Scavenge under way.
type scavenge struct {
	*store
	Scavenged
}

// headsAtOnce is how many heads are looked at before Pebble's iterator, which
// keeps files from being removed, is let go.
const headsAtOnce = 4096

// all looks at the head of every stream, and sweeps those that have something
// hidden.
func (s *scavenge) all(ctx context.Context) error {
	for from := []byte{spaceHeads}; from != nil; {
		found, next, err := s.suspects(from)
		if err != nil {
			return fmt.Errorf("look for streams: %w", err)
		}
		if err = s.named(ctx, found); err != nil {
			return err
		}
		from = next
	}
	return nil
}

// suspects finds the streams of a page of heads that may have something to throw
// away. The writer decides.
func (s *scavenge) suspects(from []byte) (streams []string, next []byte, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: []byte{spaceHeads + 1}})
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	looked := 0
	for ok := it.First(); ok; ok = it.Next() {
		if looked++; looked > headsAtOnce {
			return streams, append([]byte(nil), it.Key()...), nil
		}
		stream := string(it.Key()[1:])
		h, err := getHead(it.Value())
		if err != nil {
			return nil, nil, fmt.Errorf("head of %s: %w", stream, err)
		}
		if strings.HasPrefix(stream, metaPrefix) {
			h.limits = limits{maxCount: 1}
		}
		if h.tombstone || h.limits.maxAge > 0 || h.hidden() > h.scavenged {
			streams = append(streams, stream)
		}
	}
	return streams, nil, it.Error()
}

// named sweeps streams and the metadata of each.
func (s *scavenge) named(ctx context.Context, streams []string) error {
	for _, stream := range streams {
		if err := s.sweep(ctx, stream); err != nil {
			return err
		}
		if strings.HasPrefix(stream, metaPrefix) {
			continue
		}
		if err := s.sweep(ctx, metaPrefix+stream); err != nil {
			return err
		}
	}
	return nil
}

// sweep has the writer throw away what is hidden of a stream, a few events at a
// time so that appends do not wait long.
func (s *scavenge) sweep(ctx context.Context, stream string) error {
	swept := 0
	for more := true; more; {
		out, err := s.do(ctx, &write{op: opSweep, stream: stream})
		if err != nil {
			return fmt.Errorf("sweep %s: %w", stream, err)
		}
		swept, more = swept+out.swept, out.more
	}
	if swept > 0 {
		s.Streams, s.Events = s.Streams+1, s.Events+uint64(swept)
	}
	return nil
}

// sweepAtOnce is how many events one commit throws away of a stream.
const sweepAtOnce = 512

// sweep throws away the oldest events of a stream, as far as they are hidden.
func (tx *batch) sweep(stream string, out *outcome) error {
	h, err := tx.head(stream)
	if err != nil {
		return err
	}
	seen, err := tx.seen(stream, *h)
	if err != nil || seen.hidden() <= h.scavenged && seen.limits.maxAge == 0 {
		return err
	}
	it, err := tx.store.db.NewIter(&pebble.IterOptions{
		LowerBound: indexKey(stream, h.scavenged), UpperBound: indexKey(stream, h.events),
	})
	if err != nil {
		return fmt.Errorf("sweep %s: %w", stream, err)
	}
	defer func() { _ = it.Close() }()
	oldest := tx.store.oldest(seen.limits)
	for ok := it.First(); ok; ok = it.Next() {
		key := it.Key()
		number, position := binary.BigEndian.Uint64(key[len(key)-8:]), binary.BigEndian.Uint64(it.Value())
		if number >= seen.hidden() {
			expired, err := tx.expired(number, position, *h, oldest)
			if err != nil || !expired {
				return err
			}
		}
		if tx.store.unlinked(position) {
			return nil
		}
		if out.swept == sweepAtOnce {
			out.more = true
			return nil
		}
		if err := tx.drop(key, position); err != nil {
			return fmt.Errorf("sweep %s@%d: %w", stream, number, err)
		}
		out.swept++
		h.scavenged = number + 1
	}
	return it.Error()
}

// seen is a stream's head as its readers meet it: metadata shows its newest
// event, and nothing once its stream has a tombstone.
func (tx *batch) seen(stream string, h head) (head, error) {
	if !strings.HasPrefix(stream, metaPrefix) {
		return h, nil
	}
	ended, err := tx.parentEnded(stream)
	h.limits = limits{maxCount: 1}
	h.tombstone = h.tombstone || ended
	return h, err
}

// expired tells whether an event is too old to be shown. The last one of a
// stream always stays.
func (tx *batch) expired(number, position uint64, h head, oldest int64) (bool, error) {
	if oldest == 0 || number+1 >= h.events {
		return false, nil
	}
	r, found, err := tx.store.at(position)
	return found && r.created < oldest, err
}

// drop throws an event away, and marks the region it lay in.
func (tx *batch) drop(place []byte, position uint64) error {
	tx.gone = append(tx.gone, position)
	return errors.Join(
		tx.out.Delete(eventKey(position), nil),
		tx.out.Delete(place, nil),
		tx.out.Set(markKey(position), nil, nil),
	)
}
