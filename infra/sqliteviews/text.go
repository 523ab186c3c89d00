package sqliteviews

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/fnv"
	"strings"

	"cartwright/projections"
)

// Terms that name a party stand behind an order's words, and begin with a letter
// that none of those begins with.
const (
	termBuyer  = "b"
	termSeller = "s"
)

// fingerprint tells one text of the index from another, 0 for a stream without
// an order in it, which has none.
func fingerprint(o projections.Order) int64 {
	f, placed := o.Facts()
	if !placed {
		return 0
	}
	h := fnv.New64a()
	for _, t := range append(o.Texts(), f.Buyer, f.Seller) {
		_, _ = h.Write([]byte(t)) // it can't fail
		_, _ = h.Write([]byte{0})
	}
	return int64(h.Sum64() | 1) //nolint:gosec // all bits are as good
}

// indexed is what the text index stores of an order.
func indexed(o projections.Order) string {
	return o.Words() + " " + party(termBuyer, o.State.Buyer) + " " + party(termSeller, o.State.Seller)
}

// match asks the text index for the orders of a buyer or a seller, or of both,
// that have every word of a text, if one is searched for. It is false where no
// word can be found.
func match(q projections.OrderQuery) (text string, findable bool) {
	if q.Text == "" {
		return "", true
	}
	terms := projections.Phrases(q.Text)
	if len(terms) == 0 {
		return "", false
	}
	if q.Buyer != "" {
		terms = append(terms, party(termBuyer, q.Buyer))
	}
	if q.Seller != "" {
		terms = append(terms, party(termSeller, q.Seller))
	}
	return `"` + strings.Join(terms, `" AND "`) + `"`, true
}

// party names a buyer or a seller in the text index, whatever is in their id.
func party(kind, id string) string {
	digest := sha256.Sum256([]byte(id))
	return kind + hex.EncodeToString(digest[:8])
}
