// Package sharedmap is a map whose copies share what neither has changed since:
// a clone costs the same for ten keys and for ten million, and pays for each
// part of the map when it first changes that part.
//
// # Why
//
// A lane has its aggregate's state twice, and takes a copy anew whenever another
// process wrote to the stream; a snapshot takes one too. With Go's maps a SKU
// with a million open reservations stood still for an eighth of a second each
// time. The state is a tree by the bits of the keys' hashes, and what was
// cloned is never written again by either side: whoever wants to change a part
// copies that part (TestClonesAreEachTheirOwn). A tree that copies with every
// change, cloned or not, was measured too dear for what happens at every command.
package sharedmap

import (
	"encoding/json"
	"hash/maphash"
	"iter"
	"maps"
	"reflect"
	"slices"
)

// Map is like a Go map: its zero value is empty, and copies of it by assignment
// are the same map. It may not be used concurrently, Clone included.
type Map[K comparable, V any] struct{ tree *tree[K, V] }

const (
	fanBits = 4
	fan     = 1 << fanBits
	leafMax = 16 // entries, above which a leaf becomes a branch
	allBits = 64
)

// An owner is who may change a node in place. It must not have size zero, or
// two of them could be one.
type owner struct{ _ byte }

type tree[K comparable, V any] struct {
	root  *node[K, V]
	count int
	seed  maphash.Seed
	owner *owner
}

// A node is a branch where it has below, and a leaf otherwise.
type node[K comparable, V any] struct {
	owner   *owner
	below   *[fan]*node[K, V]
	entries []entry[K, V]
}

// An entry has its key's hash, which tells it from nearly all others without a
// look at the key: that may lie anywhere in memory.
type entry[K comparable, V any] struct {
	hash  uint64
	key   K
	value V
}

// Of makes a map of what a Go map has.
func Of[K comparable, V any](from map[K]V) Map[K, V] {
	var m Map[K, V]
	for k, v := range from {
		m.Put(k, v)
	}
	return m
}

// Len is the number of keys.
func (m Map[K, V]) Len() int {
	if m.tree == nil {
		return 0
	}
	return m.tree.count
}

// IsZero tells an empty map, which is left out of JSON.
func (m Map[K, V]) IsZero() bool { return m.Len() == 0 }

// Get finds the value of a key.
func (m Map[K, V]) Get(key K) (value V, found bool) {
	if m.Len() == 0 {
		return value, false
	}
	hash := maphash.Comparable(m.tree.seed, key)
	n := m.tree.root
	for way := hash; n != nil && n.below != nil; way >>= fanBits {
		n = n.below[way%fan]
	}
	if n == nil {
		return value, false
	}
	if i := n.find(hash, key); i >= 0 {
		return n.entries[i].value, true
	}
	return value, false
}

// Put sets the value of a key.
func (m *Map[K, V]) Put(key K, value V) {
	if m.tree == nil {
		m.tree = &tree[K, V]{seed: maphash.MakeSeed(), owner: &owner{}}
	}
	t := m.tree
	t.put(&t.root, entry[K, V]{maphash.Comparable(t.seed, key), key, value}, 0)
}

// Delete takes a key out, if it is there.
func (m *Map[K, V]) Delete(key K) {
	if _, found := m.Get(key); !found {
		return
	}
	t, at, hash := m.tree, &m.tree.root, maphash.Comparable(m.tree.seed, key)
	for way := hash; ; way >>= fanBits {
		n := t.own(at)
		if n.below == nil {
			last := len(n.entries) - 1
			n.entries[n.find(hash, key)] = n.entries[last]
			n.entries[last] = entry[K, V]{} // nothing holds on to it
			n.entries = n.entries[:last]
			break
		}
		at = &n.below[way%fan]
	}
	if t.count--; t.count == 0 {
		t.root = nil
	}
}

// All gives every key with its value, in no order. The map must not be changed meanwhile.
func (m Map[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		if m.Len() > 0 {
			m.tree.root.all(yield)
		}
	}
}

// Clone gives a map of its own with the same keys.
func (m Map[K, V]) Clone() Map[K, V] {
	if m.Len() == 0 {
		return Map[K, V]{}
	}
	m.tree.owner = &owner{} // what there is belongs to nobody from now on
	c := *m.tree
	c.owner = &owner{}
	return Map[K, V]{&c}
}

// Equal tells whether two maps have the same keys with values that are deeply equal.
func (m Map[K, V]) Equal(other Map[K, V]) bool {
	if m.Len() != other.Len() {
		return false
	}
	for k, v := range m.All() {
		if w, found := other.Get(k); !found || !reflect.DeepEqual(v, w) {
			return false
		}
	}
	return true
}

// MarshalJSON writes the map as an object, by the order of its keys.
func (m Map[K, V]) MarshalJSON() ([]byte, error) { return json.Marshal(maps.Collect(m.All())) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (m *Map[K, V]) UnmarshalJSON(text []byte) error {
	var all map[K]V
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	*m = Of(all)
	return nil
}

func (n *node[K, V]) find(hash uint64, key K) int {
	for i := range n.entries {
		if n.entries[i].hash == hash && n.entries[i].key == key {
			return i
		}
	}
	return -1
}

func (n *node[K, V]) all(yield func(K, V) bool) bool {
	if n == nil {
		return true
	}
	for _, e := range n.entries {
		if !yield(e.key, e.value) {
			return false
		}
	}
	if n.below != nil {
		for _, under := range n.below {
			if !under.all(yield) {
				return false
			}
		}
	}
	return true
}

// own makes the node at a place one that this map may change.
func (t *tree[K, V]) own(at **node[K, V]) *node[K, V] {
	n := *at
	switch {
	case n == nil:
		n = &node[K, V]{owner: t.owner}
	case n.owner == t.owner:
		return n
	default:
		c := &node[K, V]{owner: t.owner, entries: slices.Clone(n.entries)}
		if n.below != nil {
			c.below = new(*n.below)
		}
		n = c
	}
	*at = n
	return n
}

func (t *tree[K, V]) put(at **node[K, V], e entry[K, V], depth int) {
	n := t.own(at)
	if n.below != nil {
		t.put(&n.below[e.hash>>depth%fan], e, depth+fanBits)
		return
	}
	if i := n.find(e.hash, e.key); i >= 0 {
		n.entries[i].value = e.value
		return
	}
	if len(n.entries) < leafMax || depth >= allBits {
		n.entries = append(n.entries, e)
		t.count++
		return
	}
	t.split(n, depth)
	t.put(&n.below[e.hash>>depth%fan], e, depth+fanBits)
}

// split makes a branch of a full leaf.
func (t *tree[K, V]) split(n *node[K, V], depth int) {
	n.below = new([fan]*node[K, V]{})
	for _, e := range n.entries {
		under := t.own(&n.below[e.hash>>depth%fan])
		under.entries = append(under.entries, e)
	}
	n.entries = nil
}
