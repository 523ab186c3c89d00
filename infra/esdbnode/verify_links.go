package esdbnode

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/cockroachdb/pebble/v2"
)

// linking is what Verify knows of one kind of links, if there are any.
type linking struct {
	linkKind
	through uint64 // events up to here have their links, 0 for none

	want, have uint64      // the sums of all links that there are to be, and that there are
	made       positionSet // the positions of events that have one
	torn       bool        // some can't be read
}

// A positionSet takes one bit for each that the log has had.
type positionSet []uint64

func (b *positionSet) add(n uint64) {
	for uint64(len(*b)) <= n/64 {
		*b = append(*b, 0)
	}
	(*b)[n/64] |= 1 << (n % 64)
}

func (b *positionSet) has(n uint64) bool {
	return n/64 < uint64(len(*b)) && (*b)[n/64]&(1<<(n%64)) != 0
}

// beginLinks reads which links there are to be.
func (v *verifying) beginLinks() error {
	for i, k := range linkKinds() {
		l := &linking{linkKind: k}
		v.links[i] = l
		b, closer, err := v.db.Get(linkedKey(k))
		if err == nil {
			l.through, err = getLinked(b)
			err = errors.Join(err, closer.Close())
		}
		switch {
		case err == nil || errors.Is(err, pebble.ErrNotFound):
		case damages(err):
			d := damageOf(err)
			d.What = fmt.Sprintf("how far the links of %s go can't be read: %s", k.prefix, d.What)
			err = v.found(d)
			if err != nil {
				return err
			}
		default:
			return err
		}
	}
	return nil
}

// linkTo notes which links there are to be to an event.
func (v *verifying) linkTo(r *record) {
	noted := false
	for _, k := range v.links {
		if r.position > k.through {
			continue
		}
		if !noted {
			v.there.add(r.position)
			noted = true
		}
		if l, ok := k.link(r); ok {
			k.want += v.sumOfLink(k, &l)
		}
	}
}

// sumOfLink is what a link adds to a sum. Which number it has is not told by its event.
func (v *verifying) sumOfLink(k *linking, l *link) uint64 {
	text := make([]byte, l.size())
	l.put(text)
	return v.sum(append(append([]byte(k.prefix), l.name...), text...))
}

// verifyLinks compares the links with the events. Numbers are those of the order of
// the log without a gap, and what has none any more was thrown away.
func (v *verifying) verifyLinks(ctx context.Context) error {
	c := &linkChain{}
	err := v.each(ctx, spaceLinks, func(key, value []byte) error { return v.link(c, key, value) }, func(r keyRange, err error) error {
		c.prefix = nil
		for _, k := range v.links {
			k.torn = true
		}
		d := damageOf(err)
		d.What = fmt.Sprintf("links behind %q and before %q can't be read: %s", r.from, r.to, d.What)
		return v.found(d)
	})
	if err != nil {
		return err
	}
	for _, k := range v.links {
		if k.want == k.have || k.torn || len(v.lost)+len(v.bad) > 0 {
			continue
		}
		if err := v.locateLinks(ctx, k); err != nil {
			return err
		}
	}
	return nil
}

// A linkChain is a stream of links as far as it was read.
type linkChain struct {
	prefix []byte // of the keys: all but the number
	next   uint64
	at     uint64 // the position of the last one's event
}

// link looks at one link.
func (v *verifying) link(c *linkChain, key, value []byte) error {
	k, name, err := v.kindOf(key)
	if k == nil {
		return err
	}
	number := numberIn(key)
	if prefix := key[:len(key)-8]; !bytes.Equal(prefix, c.prefix) {
		*c = linkChain{prefix: append(c.prefix[:0], prefix...)}
	}
	due, before := c.next, c.at
	c.next = number + 1
	v.Links++
	l, err := getLink(name, value)
	c.at = max(before, l.position)
	d := &Damage{Stream: k.prefix + name, Number: &number, Position: l.position}
	switch {
	case err != nil:
		k.torn = true
		d.What = err.Error()
		return v.found(d)
	case number != due:
		d.What = fmt.Sprintf("the link that is due is number %d", due)
		return v.found(d)
	case l.position <= before:
		d.What = fmt.Sprintf("the link before it is of an event behind it, at position %d", before)
		return v.found(d)
	case l.position > k.through:
		d.What = fmt.Sprintf("links go up to position %d", k.through)
		return v.found(d)
	case v.there.has(l.position):
		k.have += v.sumOfLink(k, &l)
		return nil
	case v.bad[l.position] != nil || v.lostAt(l.position) != nil:
		return nil // it was told
	}
	return v.gone(&l, d)
}

func (v *verifying) kindOf(key []byte) (*linking, string, error) {
	if n, size := binary.Uvarint(key[1:]); size > 0 && uint64(len(key)) == 1+uint64(size)+n+8 {
		for _, k := range v.links {
			if name, ok := strings.CutPrefix(string(key[1+size:len(key)-8]), k.prefix); ok {
				return k, name, nil
			}
		}
	}
	return nil, "", v.found(&Damage{What: fmt.Sprintf("a key of %d bytes is no link's", len(key))})
}

// gone looks whether the event of a link was thrown away, by its stream's head.
func (v *verifying) gone(l *link, d *Damage) error {
	number, stream, _ := parseTarget(l.target)
	if l.source != "" { // of a link to a link only the stream is known
		number, stream = 0, l.source
	}
	b, closer, err := v.db.Get(headKey(stream))
	if err == nil {
		var h head
		h, err = getHead(b)
		if err = errors.Join(err, closer.Close()); err == nil && number < h.scavenged {
			return nil
		}
	}
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		return nil // it was told of when heads were read
	}
	d.What = "it leads to " + l.target + ", which is gone and was not scavenged"
	return v.found(d)
}

// locateLinks finds what is behind sums of links that differ.
func (v *verifying) locateLinks(ctx context.Context, k *linking) error {
	before := len(v.Damage)
	ignore := func(keyRange, error) error { return nil } // it was told of before
	err := v.each(ctx, spaceLinks, func(key, value []byte) error { return v.compareLink(k, key, value) }, ignore)
	if err == nil {
		err = v.each(ctx, spaceEvents, func(key, value []byte) error { return v.findLink(k, key, value) }, ignore)
	}
	if err == nil && before == len(v.Damage) {
		err = v.found(&Damage{What: "events and the links of " + k.prefix + " do not agree"})
	}
	return err
}

// compareLink holds a link against its event.
func (v *verifying) compareLink(k *linking, key, value []byte) error {
	of, name, err := v.kindOf(key)
	if of != k || err != nil {
		return nil //nolint:nilerr // it was told of before
	}
	l, err := getLink(name, value)
	if err != nil || !v.there.has(l.position) {
		return nil //nolint:nilerr // told of before
	}
	k.made.add(l.position)
	frame, closer, err := v.db.Get(eventKey(l.position))
	if err != nil {
		return fmt.Errorf("event %d: %w", l.position, err) // it could be read a moment ago
	}
	r, err := getFrame(l.position, frame)
	if err = errors.Join(err, closer.Close()); err != nil {
		return err
	}
	if want, ok := k.link(&r); ok && want == l {
		return nil
	}
	number := numberIn(key)
	return v.found(&Damage{
		Position: l.position, Stream: k.prefix + name, Number: &number,
		What: fmt.Sprintf("the link leads to %s, and the event there is %s@%d of type %s", l.target, r.stream, r.number, r.kind),
	})
}

// findLink looks whether an event has its link.
func (v *verifying) findLink(k *linking, key, value []byte) error {
	if len(key) != eventKeyLen || positionOf(key) > min(k.through, math.MaxUint64-1) {
		return nil
	}
	r, err := getFrame(positionOf(key), value)
	if err != nil {
		return nil //nolint:nilerr // told of before
	}
	l, ok := k.link(&r)
	if !ok || k.made.has(r.position) {
		return nil
	}
	return v.found(&Damage{Position: r.position, Stream: r.stream, Number: &r.number, What: "the event has no link in " + k.prefix + l.name})
}
