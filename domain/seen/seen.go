// Package seen remembers what was done, by key and with how much, so that a
// repeat is recognised and answered. It is part of an aggregate's state: it
// grows by events, goes into snapshots, and forgets by the events' own data.
//
// # Why
//
// A hot stream sees millions of keys a day. Keys are kept as the first 128 bits
// of their SHA-256, so that a seller who chooses keys can't make two of them meet.
// All but the newest lie sorted in 24 bytes a key, in a few runs, as they do in a
// snapshot: a map of them had more than twice as many bytes, most of what a process
// still has of orders that have ended, and took a quarter of the time to read a
// snapshot of a SKU that sells well (BenchmarkPut, and BenchmarkFirstLook in
// commands). A list in the order of arrival beside one map was not chosen: it
// doubles the memory and forgets key by key, where a page is dropped whole
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
// order of their marks. Those that were put last are in a map; the others lie in
// runs of such records, each more than twice as long as the next, so that they are
// few, and no mark is in two places.
type Page struct {
	runs  [][]byte // never written, as clones share them
	marks sharedmap.Map[Mark, int64]
}

// runMin is how many marks the map has when they become a run.
const runMin = 256

// Len is the number of keys.
func (p Page) Len() int {
	n := p.marks.Len()
	for _, run := range p.runs {
		n += len(run) / recordSize
	}
	return n
}

// IsZero tells an empty page, which is left out of JSON.
func (p Page) IsZero() bool { return p.marks.Len() == 0 && len(p.runs) == 0 }

// Equal tells whether two pages have the same keys with the same amounts.
func (p Page) Equal(other Page) bool { return bytes.Equal(p.records(), other.records()) }

// with is the page with one more mark; p is not to be used any more.
func (p Page) with(mark Mark, amount int64) Page {
	for i, run := range p.runs {
		if at, found := search(run, mark); found { // it is rare to put what is there, and it counts anew
			p.runs = slices.Clone(p.runs)
			p.runs[i] = slices.Concat(run[:at], run[at+recordSize:])
		}
	}
	if p.marks.Put(mark, amount); p.marks.Len() < runMin {
		return p
	}
	runs, last := slices.Clone(p.runs), sorted(p.marks)
	for n := len(runs); n > 0 && len(runs[n-1]) <= 2*len(last); n = len(runs) {
		runs, last = runs[:n-1], merge(runs[n-1], last)
	}
	return Page{runs: append(runs, last)}
}

func (p Page) get(mark Mark) (amount int64, found bool) {
	if amount, found = p.marks.Get(mark); found {
		return amount, true
	}
	for _, run := range slices.Backward(p.runs) {
		if at, found := search(run, mark); found {
			return int64(binary.BigEndian.Uint64(run[at+len(mark):])), true //nolint:gosec // bits kept, as sorted wrote them
		}
	}
	return 0, false
}

// records are all marks in their order.
func (p Page) records() []byte {
	all := sorted(p.marks)
	for _, run := range slices.Backward(p.runs) {
		all = merge(run, all)
	}
	return all
}

// sorted makes a run of what a map has.
func sorted(marks sharedmap.Map[Mark, int64]) []byte {
	records := make([]record, 0, marks.Len())
	for mark, amount := range marks.All() {
		records = append(records, record{mark, amount})
	}
	slices.SortFunc(records, func(a, b record) int { return bytes.Compare(a.mark[:], b.mark[:]) })
	run := make([]byte, 0, len(records)*recordSize)
	for _, r := range records {
		run = append(run, r.mark[:]...)
		run = binary.BigEndian.AppendUint64(run, uint64(r.amount)) //nolint:gosec // bits kept, get turns them back
	}
	return run
}

// merge makes one run of two that have no mark in common.
func merge(a, b []byte) []byte {
	if len(a) == 0 {
		return b
	}
	both := make([]byte, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if bytes.Compare(a[:len(Mark{})], b[:len(Mark{})]) < 0 {
			both, a = append(both, a[:recordSize]...), a[recordSize:]
		} else {
			both, b = append(both, b[:recordSize]...), b[recordSize:]
		}
	}
	return append(append(both, a...), b...)
}

// search finds where in a run a mark's record is, or belongs.
func search(run []byte, mark Mark) (at int, found bool) {
	// Half of a mark tells nearly all of them apart.
	half, n := binary.BigEndian.Uint64(mark[:]), len(run)/recordSize
	low, high := 0, n
	for low < high {
		mid := (low + high) / 2
		r := run[mid*recordSize:]
		if other := binary.BigEndian.Uint64(r); other < half || other == half && bytes.Compare(r[:len(mark)], mark[:]) < 0 {
			low = mid + 1
		} else {
			high = mid
		}
	}
	at = low * recordSize
	return at, low < n && Mark(run[at:at+len(mark)]) == mark
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
	for at := recordSize; at < len(b); at += recordSize {
		if before, mark := b[at-recordSize:at], b[at:]; bytes.Compare(before[:len(Mark{})], mark[:len(Mark{})]) >= 0 {
			return fmt.Errorf("page of keys: key %d is not behind the one before", at/recordSize)
		}
	}
	if *p = (Page{}); len(b) > 0 {
		p.runs = [][]byte{b}
	}
	return nil
}
