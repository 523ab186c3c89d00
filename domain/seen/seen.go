// Package seen remembers what was done, by key and with how much, so that a
// repeat is recognised and answered. It is part of an aggregate's state: it
// grows by events, goes into snapshots, and forgets by the events' own data.
//
// # Why
//
// A hot stream sees millions of keys a day. Keys are kept as the first 128 bits
// of their SHA-256: some 50 bytes a key, and a seller who chooses keys can't make
// two of them meet. A list in the order of arrival beside one map was not chosen:
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
	m.Newest.marks.Put(markOf(key), amount)
}

// Find tells with what amount the key was done, if it is remembered.
func (m *Memory) Find(key ...string) (amount int64, found bool) {
	if m.Newest.IsZero() && len(m.Sealed) == 0 {
		return 0, false
	}
	mark := markOf(key)
	if amount, found = m.Newest.marks.Get(mark); found {
		return amount, true
	}
	for _, leaf := range slices.Backward(m.Sealed) {
		if amount, found = leaf.Page.marks.Get(mark); found {
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
	c.Newest = Page{m.Newest.marks.Clone()}
	c.Sealed = slices.Clone(m.Sealed)
	return c
}

// A Page maps marks to amounts. In JSON it is one base64 string.
type Page struct{ marks sharedmap.Map[Mark, int64] }

// Len is the number of keys.
func (p Page) Len() int { return p.marks.Len() }

// IsZero tells an empty page, which is left out of JSON.
func (p Page) IsZero() bool { return p.Len() == 0 }

// Equal tells whether two pages have the same keys with the same amounts.
func (p Page) Equal(other Page) bool { return p.marks.Equal(other.marks) }

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
func (p Page) MarshalJSON() ([]byte, error) {
	records := make([]record, 0, p.Len())
	for mark, amount := range p.marks.All() {
		records = append(records, record{mark, amount})
	}
	slices.SortFunc(records, func(a, b record) int { return bytes.Compare(a.mark[:], b.mark[:]) })
	b := make([]byte, 0, len(records)*recordSize)
	for _, r := range records {
		b = append(b, r.mark[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(r.amount)) //nolint:gosec // bits kept, UnmarshalJSON turns them back
	}
	return json.Marshal(b)
}

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
	*p = Page{}
	for r := range slices.Chunk(b, recordSize) {
		p.marks.Put(Mark(r[:len(Mark{})]), int64(binary.BigEndian.Uint64(r[len(Mark{}):]))) //nolint:gosec // see MarshalJSON
	}
	return nil
}
