package esdbnode

import (
	"errors"
	"fmt"
	"hash/maphash"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// heads gives the heads of streams, from a bounded cache or from disk.
//
// Only the writer fills the cache, and only with what is on disk for certain: a
// reader that filled it could bring back a head that an append has replaced
// meanwhile, and the next expected revision would be checked against the past.
// While a commit is under way its streams' old heads are pinned, since Pebble
// shows a batch to readers before its fsync has returned.
//
// Most appends begin a stream, and looking on the disk for what is not there is
// what costs most: each of Pebble's memtables is searched for it, in vain. So there
// is a roster of all streams that have a head on the disk.
type heads struct {
	db   *pebble.DB
	max  int // of each generation
	seed maphash.Seed

	mu     sync.Mutex
	roster roster
	young  map[string]head
	old    map[string]head // the generation before, thrown away whole
	pinned map[string]head
}

func newHeads(db *pebble.DB, limit int) *heads {
	return &heads{db: db, max: limit, seed: maphash.MakeSeed(), young: map[string]head{}, old: map[string]head{}, pinned: map[string]head{}}
}

// committed gives the head that all acknowledged appends have left behind.
func (hs *heads) committed(stream string) (head, error) {
	sum := maphash.String(hs.seed, stream)
	hs.mu.Lock()
	if hs.roster.lacks(sum) {
		hs.mu.Unlock()
		return head{}, nil
	}
	h, ok := hs.known(stream)
	hs.mu.Unlock()
	if ok {
		return h, nil
	}
	h, err := hs.load(stream)
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if was, pinned := hs.pinned[stream]; pinned {
		return was, nil
	}
	return h, err
}

// known must be called with mu held.
func (hs *heads) known(stream string) (head, bool) {
	if h, ok := hs.pinned[stream]; ok {
		return h, true
	}
	if h, ok := hs.young[stream]; ok {
		return h, true
	}
	h, ok := hs.old[stream]
	return h, ok
}

func (hs *heads) load(stream string) (head, error) {
	b, closer, err := hs.db.Get(headKey(stream))
	if errors.Is(err, pebble.ErrNotFound) {
		return head{}, nil
	}
	if err != nil {
		return head{}, fmt.Errorf("head of %s: %w", stream, err)
	}
	defer func() { _ = closer.Close() }()
	h, err := getHead(b)
	if err != nil {
		return head{}, fmt.Errorf("head of %s: %w", stream, err)
	}
	return h, nil
}

// pin keeps the heads as they were for readers until settle.
func (hs *heads) pin(changes map[string]*change) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for stream, c := range changes {
		if c.now != c.was {
			hs.pinned[stream] = c.was
		}
	}
}

// settle makes the heads that were just committed the known ones.
func (hs *heads) settle(changes map[string]*change) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	clear(hs.pinned)
	for stream, c := range changes {
		if c.now != c.was {
			hs.roster.enter(maphash.String(hs.seed, stream))
		}
		if len(hs.young) >= hs.max {
			hs.old, hs.young = hs.young, make(map[string]head, hs.max)
		}
		hs.young[stream] = c.now
	}
}

// enter says that the names with these sums may have heads on the disk.
func (hs *heads) enter(sums []uint64) {
	for len(sums) > 0 { // a few at a time, so that nobody waits
		n := min(len(sums), 64)
		hs.mu.Lock()
		for _, sum := range sums[:n] {
			hs.roster.enter(sum)
		}
		hs.mu.Unlock()
		sums = sums[n:]
	}
}

// complete says that no other names have heads on the disk.
func (hs *heads) complete() {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.roster.whole = true
}
