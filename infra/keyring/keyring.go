// Package keyring keeps each buyer's key for personal data. A key lies in an
// event stream of its own, key-<buyer>, wrapped by a master key that never
// enters the store; the stream is never relayed, and tombstoning it makes
// everything that was sealed under the key unreadable for ever.
//
// # Why
//
// The keys live in the event store and not beside it because they must be
// backed up, restored and replicated together with what they open, and lost
// together too: a key store of its own would be a second thing to keep in step.
// The first key that is stored for a buyer is the key; who loses the race uses
// the winner's (TestTwoProcessesAgreeOnAKey).
//
// Erasing a buyer is a tombstone on the stream of the key, whether there is a key
// or not: nobody can ever be given a key under that id again, in this process or
// another, and asking for one is refused as buyer_erased
// (TestABuyerWithoutAKeyIsErasedAllTheSame). A record of erased buyers beside the
// keys would be a second truth, and the one that a restored log lacks. What the
// ring remembers of a key it forgets in the same call, also when somebody was just
// looking it up (TestAnErasedKeyIsForgottenThoughItWasJustLookedUp); other
// processes forget it within a minute.
package keyring

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/maypok86/otter/v2"

	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/domain/personal"
)

// ErrErased reports a buyer whose key was destroyed: nothing of theirs opens any more.
var ErrErased = errors.New("the buyer's key is destroyed")

// Store is what a ring needs of the event store.
type Store interface {
	Load(ctx context.Context, stream string, after event.Revision) iter.Seq2[event.Recorded, error]
	Append(ctx context.Context, stream string, after event.Revision, events []event.Recorded) error
}

// Eraser is what erasing needs of it. A second Tombstone of one stream is
// refused with event.ErrDeleted.
type Eraser interface {
	Load(ctx context.Context, stream string, after event.Revision) iter.Seq2[event.Recorded, error]
	Tombstone(ctx context.Context, stream string) error
}

// A Ring seals and opens personal data. It may be used concurrently.
type Ring struct {
	store  Store
	master []byte
	events *event.Registry
	keys   *otter.Cache[string, []byte]
	none   *otter.Cache[string, struct{}] // buyers who had no key

	mu     sync.Mutex
	erased map[string]bool // by this ring
}

// Keys unwrapped are kept this many, and this long: a key that another process
// destroyed stays usable here no longer.
const (
	keysKept = 100_000
	keptFor  = time.Minute
)

// New makes a ring whose keys are wrapped by master, personal.KeySize bytes.
func New(store Store, master []byte) (*Ring, error) {
	if len(master) != personal.KeySize {
		return nil, fmt.Errorf("the master key has %d bytes, not %d", len(master), personal.KeySize)
	}
	events, err := event.NewRegistry(personal.Types()...)
	if err != nil {
		return nil, err
	}
	keys, err := otter.New(&otter.Options[string, []byte]{
		MaximumSize:      keysKept,
		ExpiryCalculator: otter.ExpiryWriting[string, []byte](keptFor),
	})
	if err != nil {
		return nil, fmt.Errorf("cache of keys: %w", err)
	}
	none, err := otter.New(&otter.Options[string, struct{}]{
		MaximumSize:      keysKept,
		ExpiryCalculator: otter.ExpiryWriting[string, struct{}](keptFor),
	})
	if err != nil {
		return nil, fmt.Errorf("cache of buyers without a key: %w", err)
	}
	return &Ring{store: store, master: master, events: events, keys: keys, none: none, erased: map[string]bool{}}, nil
}

// Admit refuses a buyer who was erased, as Seal does. It makes no key. A buyer of
// whom it found none is not looked for again within a minute: if it was erased by
// another process meanwhile, Seal says so.
func (r *Ring) Admit(ctx context.Context, buyer string) error {
	_, err := r.known(ctx, buyer)
	return refusal(err)
}

// Seal encrypts an address under its buyer's key, which is made if there is none.
// For a buyer who was erased it is a refusal, and ErrErased.
func (r *Ring) Seal(ctx context.Context, buyer string, a personal.Address) ([]byte, error) {
	key, err := r.known(ctx, buyer)
	if err == nil && key == nil {
		key, err = r.create(ctx, buyer)
	}
	if err != nil {
		return nil, refusal(err)
	}
	return personal.Seal(key, rand.Reader, buyer, a)
}

// refusal says what it means for a caller that a buyer was erased.
func refusal(err error) error {
	if !errors.Is(err, ErrErased) {
		return err
	}
	return &domain.Error{
		Code: domain.Conflict, Reason: "buyer_erased", Err: err,
		Detail: "This buyer was erased, and can't be sent anything under this id again.",
	}
}

// known is key for who makes one if there is none: that none was found a while ago
// is good enough then, since a key is made only where there still is none.
func (r *Ring) known(ctx context.Context, buyer string) ([]byte, error) {
	if key, has := r.keys.GetIfPresent(buyer); has {
		return key, nil
	}
	if _, none := r.none.GetIfPresent(buyer); none {
		return nil, nil
	}
	key, err := r.key(ctx, buyer)
	if err == nil && key == nil {
		r.none.Set(buyer, struct{}{})
	}
	return key, err
}

// Address decrypts what Seal made, or fails with ErrErased.
func (r *Ring) Address(ctx context.Context, buyer string, sealed []byte) (personal.Address, error) {
	key, err := r.key(ctx, buyer)
	if err != nil {
		return personal.Address{}, err
	}
	if key == nil {
		return personal.Address{}, fmt.Errorf("%s has no key: %w", buyer, personal.ErrUnreadable)
	}
	return personal.Open(key, buyer, sealed)
}

// An Erasure says what there was to erase.
type Erasure struct {
	Key    bool `json:"key"`    // there was a key
	Before bool `json:"before"` // the buyer was erased already
}

// Erase destroys a buyer's key for ever, and forgets it: nothing that was sealed
// under it opens any more, and there will not be another. The store is the one
// that the ring is on. It may be called again.
func (r *Ring) Erase(ctx context.Context, s Eraser, buyer string) (Erasure, error) {
	e, err := Erase(ctx, s, buyer)
	if err == nil {
		r.forget(buyer)
	}
	return e, err
}

// Erase is Ring.Erase for who has no master key. The key stays in the memory of
// rings that have used it lately, for a minute.
func Erase(ctx context.Context, s Eraser, buyer string) (Erasure, error) {
	var e Erasure
	for _, err := range s.Load(ctx, Stream(buyer), 0) {
		switch {
		case errors.Is(err, event.ErrDeleted):
			e.Before = true
		case err != nil:
			return e, fmt.Errorf("look for the key of %s: %w", buyer, err)
		default:
			e.Key = true
		}
		break
	}
	if e.Before {
		return e, nil
	}
	err := s.Tombstone(ctx, Stream(buyer))
	if errors.Is(err, event.ErrDeleted) {
		return Erasure{Before: true}, nil // by somebody else, just now
	}
	if err != nil {
		return e, fmt.Errorf("destroy the key of %s: %w", buyer, err)
	}
	return e, nil
}

// forget lets go of a buyer's key, and does not take it up again from somebody
// who had read it before the tombstone.
func (r *Ring) forget(buyer string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.erased[buyer] = true
	r.keys.Invalidate(buyer)
	r.none.Invalidate(buyer)
}

// remember keeps a key, unless its buyer was erased meanwhile.
func (r *Ring) remember(buyer string, key []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.erased[buyer] {
		return ErrErased
	}
	r.keys.Set(buyer, key)
	return nil
}

// Stream is the stream of a buyer's key.
func Stream(buyer string) string { return "key-" + buyer }

// key finds a buyer's key, nil if there is none.
func (r *Ring) key(ctx context.Context, buyer string) ([]byte, error) {
	if key, ok := r.keys.GetIfPresent(buyer); ok {
		return key, nil
	}
	for rec, err := range r.store.Load(ctx, Stream(buyer), 0) {
		if errors.Is(err, event.ErrDeleted) {
			return nil, ErrErased
		}
		if err != nil {
			return nil, fmt.Errorf("load the key of %s: %w", buyer, err)
		}
		created, err := event.Decode[personal.KeyCreated](r.events, rec)
		if err != nil {
			return nil, &event.CorruptError{Stream: rec.Stream, Revision: rec.Revision, Err: err}
		}
		return r.unwrap(buyer, created)
	}
	return nil, nil
}

func (r *Ring) unwrap(buyer string, k personal.KeyCreated) ([]byte, error) {
	if id := personal.MasterID(r.master); k.Master != id {
		return nil, fmt.Errorf("the key of %s is wrapped by master key %s, not by %s", buyer, k.Master, id)
	}
	key, err := personal.Unwrap(r.master, buyer, k.Wrapped)
	if err != nil {
		return nil, fmt.Errorf("unwrap the key of %s: %w", buyer, err)
	}
	if err := r.remember(buyer, key); err != nil {
		return nil, err
	}
	return key, nil
}

// create stores a new key, or finds the one that was stored meanwhile.
func (r *Ring) create(ctx context.Context, buyer string) ([]byte, error) {
	key, err := personal.NewKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	wrapped, err := personal.Wrap(r.master, rand.Reader, buyer, key)
	if err != nil {
		return nil, fmt.Errorf("wrap the key of %s: %w", buyer, err)
	}
	rec, err := r.events.Encode(personal.KeyCreated{Wrapped: wrapped, Master: personal.MasterID(r.master)})
	if err != nil {
		return nil, err
	}
	rec.ID = uuid.NewString()
	rec.Meta = event.Meta{Cause: rec.ID, Actor: "keyring", At: time.Now().UTC()}
	err = r.store.Append(ctx, Stream(buyer), 0, []event.Recorded{rec})
	if errors.Is(err, event.ErrDeleted) {
		return nil, ErrErased
	}
	if err != nil && !errors.Is(err, event.ErrConflict) {
		return nil, fmt.Errorf("store the key of %s: %w", buyer, err)
	}
	// Read back in any case: what the stream holds is the key.
	r.none.Invalidate(buyer)
	key, err = r.key(ctx, buyer)
	if err == nil && key == nil {
		err = fmt.Errorf("the key of %s is not where it was stored", buyer)
	}
	return key, err
}

// MasterKey reads the master key from a file of personal.KeySize bytes, and
// makes the file where it is missing and create is set.
func MasterKey(path string, create bool) ([]byte, error) {
	key, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if errors.Is(err, fs.ErrNotExist) && create {
		return newMasterKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read master key: %w", err)
	}
	if len(key) != personal.KeySize {
		return nil, fmt.Errorf("master key %s has %d bytes, not %d", path, len(key), personal.KeySize)
	}
	return key, nil
}

// newMasterKey writes a key so that it is either whole on the disk or not there.
func newMasterKey(path string) ([]byte, error) {
	key, err := personal.NewKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".master-*") // 0600
	if err != nil {
		return nil, fmt.Errorf("make master key: %w", err)
	}
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return nil, fmt.Errorf("write master key %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return key, syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path) //nolint:gosec // the folder of a file the operator named
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
