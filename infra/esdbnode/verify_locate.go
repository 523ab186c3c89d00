package esdbnode

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// locate finds what is behind sums that differ: it looks for each event's place,
// for each place's event, and for each stream's head. That takes a read from
// somewhere for every event, which is why it is not done of a log that is whole.
func (v *verifying) locate(ctx context.Context) error {
	l := &locating{verifying: v, homeless: map[string]bool{}}
	before := len(v.Damage)
	ignore := func(keyRange, error) error { return nil } // it was told of before
	if err := v.each(ctx, spaceEvents, l.event, ignore); err != nil {
		return err
	}
	c := chain{}
	err := v.each(ctx, spaceIndex, func(key, value []byte) error { return l.place(&c, key, value) }, func(keyRange, error) error {
		c.begin(nil)
		return nil
	})
	if err == nil {
		err = l.compare(&c)
	}
	if err == nil {
		err = v.each(ctx, spaceHeads, l.head, ignore)
	}
	if err == nil && before == 0 && len(v.Damage) == 0 {
		err = v.found(&Damage{What: "events, their places and the heads of streams do not agree"})
	}
	return err
}

// locating is the search.
type locating struct {
	*verifying
	homeless map[string]bool // the places that events have not
}

// get reads a key. What can't be read because of a damage was told of before, and
// counts as hidden.
func (l *locating) get(key []byte) (value []byte, there, hidden bool, err error) {
	found, closer, err := l.db.Get(key)
	switch {
	case err == nil:
		return bytes.Clone(found), true, false, closer.Close()
	case errors.Is(err, pebble.ErrNotFound):
		return nil, false, l.isHidden(key), nil
	case damages(err):
		return nil, false, true, nil
	}
	return nil, false, false, err
}

func (l *locating) isHidden(key []byte) bool {
	for _, r := range l.hidden {
		if bytes.Compare(r.from, key) < 0 && bytes.Compare(key, r.to) < 0 {
			return true
		}
	}
	return false
}

// event looks for an event's place.
func (l *locating) event(key, value []byte) error {
	if len(key) != eventKeyLen || l.bad[positionOf(key)] != nil {
		return nil
	}
	if l.Tell != nil && positionOf(key)%told == 0 {
		l.Tell(positionOf(key))
	}
	r, err := getFrame(positionOf(key), value)
	if err != nil {
		return nil //nolint:nilerr // it was told of before
	}
	place := indexKey(r.stream, r.number)
	at, there, hidden, err := l.get(place)
	d := &Damage{Position: r.position, Stream: r.stream, Number: &r.number}
	switch {
	case err != nil || hidden:
		return err
	case !there:
		d.What = "the event has no place in its stream"
	case len(at) != 8:
		return nil // told of before
	case binary.BigEndian.Uint64(at) != r.position:
		d.What = fmt.Sprintf("its stream has the event of position %d in its place", binary.BigEndian.Uint64(at))
	default:
		return nil
	}
	l.homeless[string(place)] = true
	return l.found(d)
}

// place looks for a place's event.
func (l *locating) place(c *chain, key, value []byte) error {
	if len(key) < 9 || len(value) != 8 {
		return nil
	}
	prefix, number, position := key[:len(key)-8], binary.BigEndian.Uint64(key[len(key)-8:]), binary.BigEndian.Uint64(value)
	if !bytes.Equal(prefix, c.prefix) {
		if err := l.compare(c); err != nil {
			return err
		}
		c.begin(prefix)
	}
	if due, gap := c.add(number, position); gap {
		if err := l.gap(prefix, due, number); err != nil {
			return err
		}
	}
	if l.bad[position] != nil || l.lostAt(position) != nil {
		return nil
	}
	frame, there, hidden, err := l.get(eventKey(position))
	d := &Damage{Position: position, Stream: nameIn(prefix), Number: &number}
	switch {
	case err != nil || hidden:
		return err
	case !there:
		d.What = "the event is gone"
		return l.found(d)
	}
	r, err := getFrame(position, frame)
	if err != nil || r.stream == d.Stream && r.number == number {
		return nil //nolint:nilerr // it was told of before
	}
	d.What = fmt.Sprintf("the event there is %s@%d", r.stream, r.number)
	return l.found(d)
}

// gap tells of numbers that are missing in a stream, unless their events are there.
func (l *locating) gap(prefix []byte, due, number uint64) error {
	for n := due; n < number && n-due < uint64(l.Limit); n++ { //nolint:gosec // a limit
		if l.homeless[string(binary.BigEndian.AppendUint64(bytes.Clone(prefix), n))] {
			return nil
		}
	}
	return l.found(&Damage{Stream: nameIn(prefix), Number: &due, What: fmt.Sprintf("the stream goes on with %d", number)})
}

// compare holds a stream against its head.
func (l *locating) compare(c *chain) error {
	if len(c.prefix) == 0 || l.isTorn(c.prefix) {
		return nil
	}
	stream := nameIn(c.prefix)
	value, there, hidden, err := l.get(headKey(stream))
	if err != nil || hidden {
		return err
	}
	if !there {
		return l.found(&Damage{Stream: stream, What: "the stream has no head"})
	}
	h, err := getHead(value)
	if err != nil || h.scavenged > h.events {
		return nil //nolint:nilerr // told of before
	}
	want, _ := chainOf(stream, h)
	return l.differ(stream, c, &want)
}

// differ tells how a stream differs from what its head says of it.
func (l *locating) differ(stream string, have, want *chain) error {
	d := &Damage{Stream: stream}
	switch {
	case have.ended != want.ended:
		d.What = fmt.Sprintf("a tombstone: the stream says %t, and its head %t", have.ended, want.ended)
	case have.events != want.events:
		d.What = fmt.Sprintf("events: the stream says %t, and its head %t", have.events, want.events)
	case have.first != want.first:
		d.What = fmt.Sprintf("the stream begins with %d, and by its head with %d", have.first, want.first)
	case have.end != want.end:
		d.What = fmt.Sprintf("the stream ends with %d, and by its head with %d", have.end-1, want.end-1)
	case have.at != want.at:
		d.What = fmt.Sprintf("the stream ends at position %d, and by its head at %d", have.at, want.at)
	default:
		return nil
	}
	return l.found(d)
}

// isTorn tells whether some of a stream's places can't be read.
func (l *locating) isTorn(prefix []byte) bool {
	first, last := append(bytes.Clone(prefix), make([]byte, 8)...), append(bytes.Clone(prefix), bytes.Repeat([]byte{0xff}, 8)...)
	for _, r := range l.hidden {
		if bytes.Compare(r.from, last) < 0 && bytes.Compare(first, r.to) < 0 {
			return true
		}
	}
	return false
}

// head looks for a stream whose places are all gone.
func (l *locating) head(key, value []byte) error {
	stream := string(key[1:])
	h, err := getHead(value)
	if err != nil {
		return nil //nolint:nilerr // told of before
	}
	want, there := chainOf(stream, h)
	if !there || h.scavenged > h.events || l.isTorn(want.prefix) {
		return nil
	}
	number := want.first
	if !want.events {
		number = tombstoneNumber
	}
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: want.prefix, UpperBound: append(bytes.Clone(want.prefix), bytes.Repeat([]byte{0xff}, 8)...)})
	if err != nil {
		return err
	}
	found := it.First()
	if err := it.Close(); err != nil || found {
		return nil //nolint:nilerr // told of before
	}
	return l.found(&Damage{Stream: stream, Number: &number, What: fmt.Sprintf("the stream has no events, and by its head %d", h.events-h.scavenged)})
}
