// Package seen remembers what was done, by key and with how much, so that a
// repeat is recognised and answered. It is part of an aggregate's state: it
// grows by events, goes into snapshots, and forgets by the events' own data.
//
// # Why
//
// A hot stream sees millions of keys a day. Keys are kept as the first 128 bits
// of their SHA-256 in maps without pointers: some 40 bytes a key, nothing for
// the garbage collector to walk, and a seller who chooses keys can't make two
// of them meet. A list in the order of arrival beside one map was not chosen:
// it doubles the memory and forgets key by key, where a page is dropped whole
// (TestWhatIsForgotten).
//
// A page is never changed once it is sealed, so clones share it and copy the
// newest page only (TestACloneIsItsOwn).
package seen

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Memory holds keys with their amounts. The zero value remembers nothing.
// It may not be used concurrently.
type Memory struct {
	Count  int64  `json:"count"` // keys ever put
	Since  int64  `json:"since"` // the clock when the newest page was begun
	Newest Page   `json:"newest,omitempty"`
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
	if m.Newest == nil {
		m.Newest = Page{}
	}
	m.Count++
	m.Newest[markOf(key)] = amount
}

// Find tells with what amount the key was done, if it is remembered.
func (m *Memory) Find(key ...string) (amount int64, found bool) {
	if m.Newest == nil && len(m.Sealed) == 0 {
		return 0, false
	}
	mark := markOf(key)
	if amount, found = m.Newest[mark]; found {
		return amount, true
	}
	for _, leaf := range slices.Backward(m.Sealed) {
		if amount, found = leaf.Page[mark]; found {
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
	if len(m.Newest) > 0 {
		m.Sealed = append(m.Sealed, Leaf{At: now, Page: m.Newest})
		m.Newest = nil
	}
}

// Clone gives a copy that shares only what is never changed.
func (m *Memory) Clone() Memory {
	c := *m
	c.Newest = maps.Clone(m.Newest)
	c.Sealed = slices.Clone(m.Sealed)
	return c
}

// A Page maps marks to amounts. In JSON it is one base64 string.
type Page map[Mark]int64

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

const recordSize = len(Mark{}) + 8

// MarshalJSON writes the marks in their order, so that equal pages have equal JSON.
func (p Page) MarshalJSON() ([]byte, error) {
	marks := slices.SortedFunc(maps.Keys(p), func(a, b Mark) int { return bytes.Compare(a[:], b[:]) })
	b := make([]byte, 0, len(p)*recordSize)
	for _, mark := range marks {
		b = append(b, mark[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(p[mark])) //nolint:gosec // bits kept, UnmarshalJSON turns them back
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
	*p = make(Page, len(b)/recordSize)
	for record := range slices.Chunk(b, recordSize) {
		(*p)[Mark(record[:len(Mark{})])] = int64(binary.BigEndian.Uint64(record[len(Mark{}):])) //nolint:gosec // see MarshalJSON
	}
	return nil
}
