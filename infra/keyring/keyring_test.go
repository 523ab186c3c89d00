package keyring_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/domain/personal"
	"cartwright/infra/keyring"
	"cartwright/infra/memstore"
)

var home = personal.Address{Name: "Ana Souza", Phone: "+55 11 5555", Line1: "Rua A 1", City: "São Paulo", Country: "BR"}

func ring(t *testing.T, s keyring.Store, master byte) *keyring.Ring {
	t.Helper()
	r, err := keyring.New(s, bytes.Repeat([]byte{master}, personal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWhatIsSealedOpensInAnotherProcess(t *testing.T) {
	store := new(memstore.Store)
	sealed, err := ring(t, store, 1).Seal(t.Context(), "b1", home)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("Ana")) {
		t.Fatal("the name is not sealed")
	}
	got, err := ring(t, store, 1).Address(t.Context(), "b1", sealed)
	if err != nil || got != home {
		t.Fatalf("got %+v, %v", got, err)
	}
	if _, err := ring(t, store, 2).Address(t.Context(), "b1", sealed); err == nil {
		t.Fatal("another master key opened it")
	}
	if _, err := ring(t, store, 1).Address(t.Context(), "b2", sealed); !errors.Is(err, personal.ErrUnreadable) {
		t.Fatalf("another buyer: got %v", err)
	}
}

func TestTwoProcessesAgreeOnAKey(t *testing.T) {
	store := new(memstore.Store)
	rings := []*keyring.Ring{ring(t, store, 1), ring(t, store, 1), ring(t, store, 1), ring(t, store, 1)}
	sealed := make([][]byte, len(rings))
	var wg sync.WaitGroup
	for i, r := range rings {
		wg.Go(func() {
			var err error
			if sealed[i], err = r.Seal(t.Context(), "b1", home); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, s := range sealed {
		if got, err := rings[0].Address(t.Context(), "b1", s); err != nil || got != home {
			t.Errorf("what ring %d sealed: %+v, %v", i, got, err)
		}
	}
}

// wantErased checks that nothing opens for a buyer, and nothing is sealed.
func wantErased(t *testing.T, r *keyring.Ring, buyer string, sealed []byte) {
	t.Helper()
	if _, err := r.Address(t.Context(), buyer, sealed); !errors.Is(err, keyring.ErrErased) {
		t.Errorf("open: got %v", err)
	}
	_, err := r.Seal(t.Context(), buyer, home)
	if !errors.Is(err, keyring.ErrErased) || domain.CodeOf(err) != domain.Conflict || domain.ReasonOf(err) != "buyer_erased" {
		t.Errorf("a new key: got %v", err)
	}
}

func TestAnErasedBuyerOpensNoMore(t *testing.T) {
	store := new(memstore.Store)
	mine, others := ring(t, store, 1), ring(t, store, 1)
	sealed, err := mine.Seal(t.Context(), "b1", home)
	if err != nil {
		t.Fatal(err)
	}
	another, err := mine.Seal(t.Context(), "b2", home)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := mine.Erase(t.Context(), store, "b1"); err != nil || e != (keyring.Erasure{Key: true}) {
		t.Fatalf("%+v, %v", e, err)
	}
	wantErased(t, mine, "b1", sealed)
	wantErased(t, others, "b1", sealed)
	for _, r := range []*keyring.Ring{mine, others} {
		if e, err := r.Erase(t.Context(), store, "b1"); err != nil || e != (keyring.Erasure{Before: true}) {
			t.Errorf("again: %+v, %v", e, err)
		}
	}
	if got, err := mine.Address(t.Context(), "b2", another); err != nil || got != home {
		t.Errorf("another buyer: %+v, %v", got, err)
	}
}

func TestABuyerWithoutAKeyIsErasedAllTheSame(t *testing.T) {
	store := new(memstore.Store)
	if e, err := keyring.Erase(t.Context(), store, "b1"); err != nil || e != (keyring.Erasure{}) {
		t.Fatalf("%+v, %v", e, err)
	}
	r := ring(t, store, 1)
	if e, err := r.Erase(t.Context(), store, "b2"); err != nil || e != (keyring.Erasure{}) {
		t.Fatalf("%+v, %v", e, err)
	}
	wantErased(t, r, "b1", []byte("whatever"))
	wantErased(t, r, "b2", []byte("whatever"))
}

// A gated store does something between reading a key and giving it to whoever
// asked.
type gated struct {
	memstore.Store
	between func()
}

func (g *gated) Load(ctx context.Context, stream string, after event.Revision) iter.Seq2[event.Recorded, error] {
	return func(yield func(event.Recorded, error) bool) {
		for e, err := range g.Store.Load(ctx, stream, after) {
			if between := g.between; between != nil {
				g.between = nil
				between()
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

func TestAnErasedKeyIsForgottenThoughItWasJustLookedUp(t *testing.T) {
	store := new(gated)
	sealed, err := ring(t, store, 1).Seal(t.Context(), "b1", home)
	if err != nil {
		t.Fatal(err)
	}
	r := ring(t, store, 1) // has not seen the key yet
	store.between = func() {
		if e, err := r.Erase(t.Context(), store, "b1"); err != nil || !e.Key {
			t.Errorf("%+v, %v", e, err)
		}
	}
	if _, err := r.Address(t.Context(), "b1", sealed); !errors.Is(err, keyring.ErrErased) {
		t.Errorf("who was looking: %v", err)
	}
	wantErased(t, r, "b1", sealed)
}

// TestAnErasureBetweenLookingAndStoringIsRefused erases a buyer who is just being
// given a first key.
func TestAnErasureBetweenLookingAndStoringIsRefused(t *testing.T) {
	store := new(appending)
	store.before = func() {
		if _, err := keyring.Erase(t.Context(), store, "b1"); err != nil {
			t.Error(err)
		}
	}
	r := ring(t, store, 1)
	if sealed, err := r.Seal(t.Context(), "b1", home); !errors.Is(err, keyring.ErrErased) {
		t.Fatalf("sealed %d bytes, %v", len(sealed), err)
	}
	wantErased(t, r, "b1", nil)
}

// appending does something before the first append.
type appending struct {
	memstore.Store
	before func()
}

func (a *appending) Append(ctx context.Context, stream string, after event.Revision, events []event.Recorded) error {
	if before := a.before; before != nil {
		a.before = nil
		before()
	}
	return a.Store.Append(ctx, stream, after, events)
}

func TestErasingFailsAsItsStoreDoes(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	store := new(memstore.Store)
	r := ring(t, store, 1)
	sealed, err := r.Seal(t.Context(), "b1", home)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Erase(ctx, store, "b1"); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if _, err := r.Address(t.Context(), "b1", sealed); err != nil {
		t.Errorf("a failed erasure took the key away: %v", err)
	}
}

func TestTheMasterKeyIsMadeOnceAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.key")
	if _, err := keyring.MasterKey(path, false); err == nil {
		t.Fatal("a missing key was read")
	}
	made, err := keyring.MasterKey(path, true)
	if err != nil {
		t.Fatal(err)
	}
	read, err := keyring.MasterKey(path, true)
	if err != nil || !bytes.Equal(made, read) {
		t.Fatalf("read another key: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.MasterKey(path, true); err == nil {
		t.Fatal("a broken key was read")
	}
}
