// Package personal keeps what is known of a person unreadable to whoever does
// not hold that person's key. An address is sealed under its buyer's own key;
// the key is wrapped by a master key and stands, wrapped, in a stream of its
// own. Destroying that stream makes every event, view and backup that holds
// the address unreadable, without editing any of them.
//
// Why: events are never edited, so what must be forgettable has to be
// ciphertext from the first stored version on. AES-256-GCM, because it also
// refuses a changed byte and another buyer's ciphertext
// (TestNoChangedByteOpens, TestAnAddressOpensForItsBuyerOnly): the buyer's id
// is bound in as additional data. A format byte stands first, so that another
// cipher can follow without guessing. A nonce is 96 random bits; a buyer has
// far fewer addresses than the 2^32 up to which that is safe, and a master key
// fewer buyers.
package personal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"cartwright/domain"
)

// KeySize is the length of a buyer's key and of a master key, in bytes.
const KeySize = 32

// format is the first byte of everything sealed here: AES-256-GCM, a nonce of
// 12 bytes, ciphertext, tag.
const format = 1

// What a ciphertext is for is bound into it, so that a wrapped key can't be
// passed off as an address, nor the other way round.
const (
	forAddress = "address"
	forKey     = "key"
)

// ErrUnreadable reports a ciphertext that does not open: another key, another
// buyer, or changed bytes. Which of them can't be told.
var ErrUnreadable = errors.New("sealed data does not open")

// Address is where a parcel goes.
type Address struct {
	Name       string `json:"name"`
	Phone      string `json:"phone,omitempty"`
	Line1      string `json:"line1"`
	Line2      string `json:"line2,omitempty"`
	City       string `json:"city"`
	Region     string `json:"region,omitempty"`
	PostalCode string `json:"postal_code,omitempty"`
	Country    string `json:"country"`
}

// Check refuses an address that lacks something or is too long, and names each
// field at fault. Pointer says where in the request the address stands.
func (a Address) Check(pointer string) error {
	var faults []domain.Field
	for _, f := range []struct {
		name, value string
		limit       int
		required    bool
	}{
		{"name", a.Name, 100, true},
		{"phone", a.Phone, 32, false},
		{"line1", a.Line1, 200, true},
		{"line2", a.Line2, 200, false},
		{"city", a.City, 100, true},
		{"region", a.Region, 100, false},
		{"postal_code", a.PostalCode, 20, false},
		{"country", a.Country, 64, true},
	} {
		if f.required && f.value == "" {
			faults = append(faults, domain.Field{Pointer: pointer + "/" + f.name, Detail: "This is required."})
		}
		if domain.CheckText("", f.value, f.limit) == nil {
			continue // most are well, and need no place made up for them
		}
		if e, ok := errors.AsType[*domain.Error](domain.CheckText(pointer+"/"+f.name, f.value, f.limit)); ok {
			faults = append(faults, e.Fields...)
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return &domain.Error{Code: domain.Invalid, Reason: "invalid_address", Detail: "The address can't be used.", Fields: faults}
}

// NewKey draws a buyer's key.
func NewKey(random io.Reader) ([]byte, error) {
	key := make([]byte, KeySize)
	if _, err := io.ReadFull(random, key); err != nil {
		return nil, fmt.Errorf("draw a key: %w", err)
	}
	return key, nil
}

// Seal encrypts an address for a buyer. Random yields the nonce and must never
// repeat itself under one key.
func Seal(key []byte, random io.Reader, buyer string, a Address) ([]byte, error) {
	plain, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("encode address: %w", err)
	}
	return seal(key, random, forAddress, buyer, plain)
}

// Open decrypts what Seal made, or fails with ErrUnreadable.
func Open(key []byte, buyer string, sealed []byte) (Address, error) {
	plain, err := open(key, forAddress, buyer, sealed)
	if err != nil {
		return Address{}, err
	}
	var a Address
	if err = json.Unmarshal(plain, &a); err != nil {
		return Address{}, fmt.Errorf("decode address: %w", err)
	}
	return a, nil
}

// Wrap encrypts a buyer's key under the master key.
func Wrap(master []byte, random io.Reader, buyer string, key []byte) ([]byte, error) {
	return seal(master, random, forKey, buyer, key)
}

// Unwrap decrypts what Wrap made, or fails with ErrUnreadable.
func Unwrap(master []byte, buyer string, wrapped []byte) ([]byte, error) {
	return open(master, forKey, buyer, wrapped)
}

// MasterID names a master key without giving any of it away, so that a key's
// event can say which one it is wrapped by.
func MasterID(master []byte) string {
	sum := sha256.Sum256(append([]byte("cartwright master key id\x00"), master...))
	return hex.EncodeToString(sum[:8])
}

func seal(key []byte, random io.Reader, purpose, buyer string, plain []byte) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	if _, err = io.ReadFull(random, nonce); err != nil {
		return nil, fmt.Errorf("draw a nonce: %w", err)
	}
	return aead.Seal(append([]byte{format}, nonce...), nonce, plain, bound(purpose, buyer)), nil
}

func open(key []byte, purpose, buyer string, sealed []byte) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	head := 1 + aead.NonceSize()
	if len(sealed) < head || sealed[0] != format {
		return nil, fmt.Errorf("not in a format known here: %w", ErrUnreadable)
	}
	plain, err := aead.Open(nil, sealed[1:head], sealed[head:], bound(purpose, buyer))
	if err != nil {
		return nil, ErrUnreadable
	}
	return plain, nil
}

// bound is the additional data: it has to be the same to open as to seal.
func bound(purpose, buyer string) []byte { return []byte(purpose + "\x00" + buyer) }

func newAEAD(key []byte) (cipher.AEAD, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("a key has %d bytes, this has %d", KeySize, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("set up the cipher: %w", err)
	}
	return cipher.NewGCM(block)
}
