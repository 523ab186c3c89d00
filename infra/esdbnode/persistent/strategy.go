package persistent

import (
	"encoding/json"
	"hash/fnv"
	"slices"
	"strings"
)

// The names of the strategies.
const (
	RoundRobin          = "RoundRobin"
	DispatchToSingle    = "DispatchToSingle"
	Pinned              = "Pinned"
	PinnedByCorrelation = "PinnedByCorrelation"
)

func strategyNames() []string {
	return []string{RoundRobin, DispatchToSingle, Pinned, PinnedByCorrelation}
}

// A strategy says which consumer gets a message.
type strategy interface {
	join(c *Consumer)
	leave(c *Consumer)
	// choose gives nil for a message that must wait. full tells that all must.
	choose(m *message) (c *Consumer, full bool)
}

func newStrategy(name string) strategy {
	switch name {
	case RoundRobin:
		return &rotation{}
	case DispatchToSingle:
		return &rotation{stay: true}
	case Pinned:
		return &pinning{by: sourceStream}
	case PinnedByCorrelation:
		return &pinning{by: correlation}
	}
	return nil
}

// rotation gives to one after the other, or stays with one until it is full.
type rotation struct {
	stay  bool
	queue []*Consumer
}

func (r *rotation) join(c *Consumer) { r.queue = append(r.queue, c) }

func (r *rotation) leave(c *Consumer) {
	r.queue = slices.DeleteFunc(r.queue, func(other *Consumer) bool { return other == c })
}

func (r *rotation) choose(*message) (c *Consumer, full bool) {
	for range r.queue {
		c := r.queue[0]
		if !r.stay || c.free() == 0 {
			r.queue = append(r.queue[1:], c)
		}
		if c.free() > 0 {
			return c, false
		}
	}
	return nil, true
}

const buckets = 1024

// pinning gives what has the same source to the same consumer for as long as
// that one is there. Sources share 1024 buckets, and consumers share those.
type pinning struct {
	by        func(*message) string
	consumers []*Consumer
	owners    [buckets]*Consumer
}

func (p *pinning) owned(c *Consumer) (n int) {
	for _, owner := range p.owners {
		if owner == c {
			n++
		}
	}
	return n
}

// join gives the new consumer its share of the buckets that are owned, at first
// such as have nothing in flight.
func (p *pinning) join(c *Consumer) {
	p.consumers = append(p.consumers, c)
	share := (buckets - p.owned(nil) + len(p.consumers) - 1) / len(p.consumers)
	for _, other := range p.consumers[:len(p.consumers)-1] {
		var mine []int
		for b, owner := range p.owners {
			if owner == other {
				mine = append(mine, b)
			}
		}
		var flying [buckets]int
		for m := range other.flying {
			flying[m.bucket-1]++
		}
		slices.SortStableFunc(mine, func(a, b int) int { return flying[a] - flying[b] })
		for _, b := range mine[:max(0, len(mine)-share)] {
			p.owners[b] = c
		}
	}
}

func (p *pinning) leave(c *Consumer) {
	p.consumers = slices.DeleteFunc(p.consumers, func(other *Consumer) bool { return other == c })
	for b := range p.owners {
		if p.owners[b] == c {
			p.owners[b] = nil
		}
	}
}

func (p *pinning) choose(m *message) (c *Consumer, full bool) {
	if !slices.ContainsFunc(p.consumers, func(c *Consumer) bool { return c.free() > 0 }) {
		return nil, true
	}
	if m.bucket == 0 {
		h := fnv.New32a()
		_, _ = h.Write([]byte(p.by(m))) // it never fails
		m.bucket = 1 + int(h.Sum32()%buckets)
	}
	owner := p.owners[m.bucket-1]
	if owner == nil {
		owner = slices.MinFunc(p.consumers, func(a, b *Consumer) int { return p.owned(a) - p.owned(b) })
		p.owners[m.bucket-1] = owner
	}
	if owner.free() == 0 {
		return nil, false
	}
	return owner, false
}

// sourceStream is where an event comes from, though its link leads nowhere.
func sourceStream(m *message) string {
	e := m.Event
	if e == nil {
		e = m.Link
	}
	if e.Kind == kindLink {
		if _, stream, ok := strings.Cut(e.Data, "@"); ok {
			return stream
		}
	}
	return e.Stream
}

// correlation is what an event's metadata says that it belongs to, else where
// it comes from.
func correlation(m *message) string {
	if m.Event != nil {
		var meta struct {
			ID *string `json:"$correlationId"`
		}
		if json.Unmarshal([]byte(m.Event.Meta), &meta) == nil && meta.ID != nil {
			return *meta.ID
		}
	}
	return sourceStream(m)
}
