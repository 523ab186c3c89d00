package sqliteviews

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/fnv"
	"strings"
	"unicode"

	"cartwright/projections"
)

// Terms of the text index begin with a letter that says what they are, so that
// none is taken for another.
const (
	termWord   = "w" // a word, or a pair of neighbours in a run without spaces
	termChar   = "c" // a single character of such a run
	termBuyer  = "b"
	termSeller = "s"
	termBreak  = "x" // between texts, so that no phrase reaches from one into the next
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
	var out strings.Builder
	chars := map[rune]bool{}
	for _, t := range o.Texts() {
		for _, term := range cut(t) {
			if strings.HasPrefix(term, termChar) {
				term = termBreak // it stands among the single characters
			}
			out.WriteString(term + " ")
		}
		for _, r := range narrow(t) {
			if dense(r) {
				chars[r] = true
			}
		}
		out.WriteString(termBreak + " ")
	}
	for r := range chars {
		out.WriteString(termChar + string(r) + " ")
	}
	out.WriteString(party(termBuyer, o.State.Buyer) + " " + party(termSeller, o.State.Seller))
	return out.String()
}

// match asks the text index for the orders of a buyer or a seller, or of both,
// that have every word of a text. It is false where no word can be found.
func match(q projections.OrderQuery) (string, bool) {
	var terms []string
	for word := range strings.FieldsSeq(q.Text) {
		terms = append(terms, phrases(cut(word))...)
	}
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

// phrases joins the terms that stand side by side in the index.
func phrases(terms []string) []string {
	var joined []string
	last := ""
	for _, term := range terms {
		if strings.HasPrefix(term, termWord) && strings.HasPrefix(last, termWord) {
			joined[len(joined)-1] += " " + term
		} else {
			joined = append(joined, term)
		}
		last = term
	}
	return joined
}

// party names a buyer or a seller in the text index, whatever is in their id.
func party(kind, id string) string {
	digest := sha256.Sum256([]byte(id))
	return kind + hex.EncodeToString(digest[:8])
}

// cut takes a text apart into terms: words, and in runs without spaces the
// pairs of neighbours, or the character if it stands alone.
func cut(text string) []string {
	var terms []string
	for _, run := range runs(text) {
		switch letters := []rune(run); {
		case !dense(letters[0]):
			terms = append(terms, termWord+run)
		case len(letters) == 1:
			terms = append(terms, termChar+run)
		default:
			for i := range len(letters) - 1 {
				terms = append(terms, termWord+string(letters[i:i+2]))
			}
		}
	}
	return terms
}

// runs cuts a text where neither letter nor digit stands, and between scripts
// with and without spaces.
func runs(text string) []string {
	var all []string
	begun, was := -1, false
	letters := []rune(narrow(text))
	for i, r := range letters {
		word := unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.IsMark(r)
		if begun >= 0 && (!word || dense(r) != was) {
			all = append(all, string(letters[begun:i]))
			begun = -1
		}
		if word && begun < 0 {
			begun, was = i, dense(r)
		}
	}
	if begun >= 0 {
		all = append(all, string(letters[begun:]))
	}
	return all
}

// dense tells the scripts that put no spaces between words.
func dense(r rune) bool {
	const longVowel = 'ー' // of Katakana, though of no script by itself
	return unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana) || r == longVowel
}

// narrow writes the wide forms of Latin letters, digits and signs as the usual
// ones. Case and accents are left to SQLite.
func narrow(text string) string {
	return strings.Map(func(r rune) rune {
		if '！' <= r && r <= '～' {
			return r - '！' + '!'
		}
		return r
	}, text)
}
