// Package seen remembers what was done, by key and with how much, so that a
// repeat is recognised and answered. It is part of an aggregate's state: it
// grows by events, goes into snapshots, and forgets by the events' own data.
//
// # Why
//
// A hot stream sees millions of keys a day. Keys are kept as the first 128 bits
// of their SHA-256: some 50 bytes a key, and a seller who chooses keys can't make
// two of them meet. Those of a snapshot stay in the 24 bytes a key that it has, and
// are searched there: to make a map of them was a quarter of what it took to read the
// snapshot of a SKU that sells well (BenchmarkFirstLook in commands). A list in the order of arrival beside one map was not chosen:
// it doubles the memory and forgets key by key, where a page is dropped whole
// (TestWhatIsForgotten).
//
// Clones share all pages, the newest one too until it is changed, so a clone
// costs the same however much is remembered (TestACloneIsItsOwn).
package seen

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"sort"

	"cartwright/domain/sharedmap"
)

// Memory holds keys with their amounts. The zero value remembers nothing.
// It may not be used concurrently.
type Memory struct {
	Count  int64  `json:"count"` // keys ever put
	Since  int64  `json:"since"` // the clock when the newest page was begun
	Newest Page   `json:"newest,omitzero"`
	Sealed []Leaf `json:"sealed,omitempty"` // oldest first
}

// A Leaf is a page that is written no more.
type Leaf struct {
	At   int64 `json:"at"` // the clock when it was sealed
	Page Page  `json:"page"`
}

// Put remembers that the key was done with this amount. The key's parts are
// kept apart: ("a", "bc") is not ("ab", "c").
func (m *Memory) Put(amount int64, key ...string) {
	m.Count++
	m.Newest = m.Newest.with(markOf(key), amount)
}

// Find tells with what amount the key was done, if it is remembered.
func (m *Memory) Find(key ...string) (amount int64, found bool) {
	if m.Newest.IsZero() && len(m.Sealed) == 0 {
		return 0, false
	}
	mark := markOf(key)
	if amount, found = m.Newest.get(mark); found {
		return amount, true
	}
	for _, leaf := range slices.Backward(m.Sealed) {
		if amount, found = leaf.Page.get(mark); found {
			return amount, true
		}
	}
	return 0, false
}

// Advance tells the time, by whatever clock the events carry: a page is sealed
// once it is step old, and forgotten when keep has gone by since then. So a key
// lives for keep, counted from the first telling after it was put that seals
// its page, or longer. A clock that runs backwards changes nothing.
func (m *Memory) Advance(now, step, keep int64) {
	if now-m.Since < step {
		return
	}
	m.Since = now
	m.Sealed = slices.DeleteFunc(m.Sealed, func(l Leaf) bool { return now-l.At >= keep })
	if !m.Newest.IsZero() {
		m.Sealed = append(m.Sealed, Leaf{At: now, Page: m.Newest})
		m.Newest = Page{}
	}
}

// Clone gives a memory of its own. It may not run while another goroutine uses m.
func (m *Memory) Clone() Memory {
	c := *m
	c.Newest.marks = m.Newest.marks.Clone()
	c.Sealed = slices.Clone(m.Sealed)
	return c
}

// A Page maps marks to amounts. In JSON it is one base64 string of records in the
// order of their marks, which stay as they were read: what was put since lies in
// the map, and no mark in both.
type Page struct {
	read  []byte // shared by clones, never written
	marks sharedmap.Map[Mark, int64]
}

// Len is the number of keys.
func (p Page) Len() int { return len(p.read)/recordSize + p.marks.Len() }

// IsZero tells an empty page, which is left out of JSON.
func (p Page) IsZero() bool { return p.Len() == 0 }

// Equal tells whether two pages have the same keys with the same amounts.
func (p Page) Equal(other Page) bool {
	return p.Len() == other.Len() && bytes.Equal(p.records(), other.records())
}

// with is the page with one more mark; p is not to be used any more.
func (p Page) with(mark Mark, amount int64) Page {
	if at, found := p.search(mark); found { // it is rare to put what is there, and it counts anew
		p.read = slices.Concat(p.read[:at*recordSize], p.read[(at+1)*recordSize:])
	}
	p.marks.Put(mark, amount)
	return p
}

func (p Page) get(mark Mark) (amount int64, found bool) {
	if amount, found = p.marks.Get(mark); found {
		return amount, true
	}
	at, found := p.search(mark)
	if !found {
		return 0, false
	}
	_, amount = p.at(at)
	return amount, true
}

// search finds a mark among what was read.
func (p Page) search(mark Mark) (at int, found bool) {
	return sort.Find(len(p.read)/recordSize, func(i int) int {
		return bytes.Compare(mark[:], p.read[i*recordSize:i*recordSize+len(mark)])
	})
}

func (p Page) at(i int) (Mark, int64) {
	r := p.read[i*recordSize:]
	return Mark(r[:len(Mark{})]), int64(binary.BigEndian.Uint64(r[len(Mark{}):])) //nolint:gosec // bits kept, as records wrote them
}

// records are all marks in their order.
func (p Page) records() []byte {
	if p.marks.Len() == 0 {
		return p.read
	}
	fresh := make([]record, 0, p.marks.Len())
	for mark, amount := range p.marks.All() {
		fresh = append(fresh, record{mark, amount})
	}
	slices.SortFunc(fresh, func(a, b record) int { return bytes.Compare(a.mark[:], b.mark[:]) })
	all, rest := make([]byte, 0, p.Len()*recordSize), p.read
	for _, r := range fresh {
		before, _ := Page{read: rest}.search(r.mark)
		all, rest = append(all, rest[:before*recordSize]...), rest[before*recordSize:]
		all = append(all, r.mark[:]...)
		all = binary.BigEndian.AppendUint64(all, uint64(r.amount)) //nolint:gosec // bits kept, at turns them back
	}
	return append(all, rest...)
}

// A Mark stands for a key.
type Mark [16]byte

func markOf(key []string) Mark {
	b := make([]byte, 0, 256)
	for _, part := range key {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	sum := sha256.Sum256(b)
	return Mark(sum[:len(Mark{})])
}

type record struct {
	mark   Mark
	amount int64
}

const recordSize = len(Mark{}) + 8

// MarshalJSON writes the marks in their order, so that equal pages have equal JSON.
func (p Page) MarshalJSON() ([]byte, error) { return json.Marshal(p.records()) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (p *Page) UnmarshalJSON(text []byte) error {
	var encoded string
	if err := json.Unmarshal(text, &encoded); err != nil {
		return fmt.Errorf("page of keys: %w", err)
	}
	b, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return fmt.Errorf("page of keys: %w", err)
	}
	if len(b)%recordSize != 0 {
		return fmt.Errorf("page of keys: %d bytes are no whole number of keys", len(b))
	}
	read := Page{read: b}
	for i := 1; i < read.Len(); i++ {
		if before, mark := b[(i-1)*recordSize:], b[i*recordSize:]; bytes.Compare(before[:len(Mark{})], mark[:len(Mark{})]) >= 0 {
			return fmt.Errorf("page of keys: key %d is not behind the one before", i)
		}
	}
	*p = read
	return nil
}
