package keyring_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

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

func TestAnErasedBuyerOpensNoMore(t *testing.T) {
	store := new(memstore.Store)
	sealed, err := ring(t, store, 1).Seal(t.Context(), "b1", home)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Tombstone(t.Context(), "key-b1"); err != nil {
		t.Fatal(err)
	}
	r := ring(t, store, 1)
	if _, err := r.Address(t.Context(), "b1", sealed); !errors.Is(err, keyring.ErrErased) {
		t.Fatalf("got %v", err)
	}
	if _, err := r.Seal(t.Context(), "b1", home); !errors.Is(err, keyring.ErrErased) {
		t.Fatalf("a new key for an erased buyer: %v", err)
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
