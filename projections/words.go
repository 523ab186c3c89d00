package projections

import (
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Terms of a text index begin with a letter that says what they are, so that
// none is taken for another. No term has a space in it.
const (
	termWord  = "w" // a word, or a pair of neighbours in a run without spaces
	termChar  = "c" // a single character of such a run
	termBreak = "x" // between texts, so that no phrase reaches from one into the next
)

// Words are what a text index has of an order: terms, with spaces between them,
// in the order of its texts. Every engine's index takes them as they are, so
// that all find the same (TestASearchFindsWhatStandsInTheTexts).
func (o Order) Words() string {
	var out strings.Builder
	chars := map[rune]bool{}
	for _, t := range o.Texts() {
		for _, term := range cut(t) {
			if strings.HasPrefix(term, termChar) {
				term = termBreak // it stands among the single characters
			}
			out.WriteString(term)
			out.WriteByte(' ')
		}
		for _, r := range plain(t) {
			if dense(r) {
				chars[r] = true
			}
		}
		out.WriteString(termBreak + " ")
	}
	for _, r := range slices.Sorted(maps.Keys(chars)) {
		out.WriteString(termChar + string(r) + " ")
	}
	return strings.TrimSuffix(out.String(), " ")
}

// Phrases are what has to be found, each of them, for a search to find an
// order: terms that stand side by side in its Words. A search for nothing that
// can be found has none.
func Phrases(text string) []string {
	var phrases []string
	for word := range strings.FieldsSeq(text) {
		phrases = append(phrases, joined(cut(word))...)
	}
	return phrases
}

// joined makes phrases of the terms that stand side by side in the index.
func joined(terms []string) []string {
	var phrases []string
	last := ""
	for _, term := range terms {
		if strings.HasPrefix(term, termWord) && strings.HasPrefix(last, termWord) {
			phrases[len(phrases)-1] += " " + term
		} else {
			phrases = append(phrases, term)
		}
		last = term
	}
	return phrases
}

// cut takes a text apart into terms: words, and in runs without spaces the
// pairs of neighbours, or the character if it stands alone.
func cut(text string) []string {
	var terms []string
	for _, run := range runs(text) {
		first, size := utf8.DecodeRuneInString(run)
		switch {
		case !dense(first):
			terms = append(terms, termWord+run)
		case len(run) == size:
			terms = append(terms, termChar+run)
		default:
			letters := []rune(run)
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
	text = plain(text)
	for i, r := range text {
		word := unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.IsMark(r)
		if begun >= 0 && (!word || dense(r) != was) {
			all = append(all, text[begun:i])
			begun = -1
		}
		if word && begun < 0 {
			begun, was = i, dense(r)
		}
	}
	if begun >= 0 {
		all = append(all, text[begun:])
	}
	return all
}

// dense tells the scripts that put no spaces between words.
func dense(r rune) bool {
	const (
		first     = '⺀' // below are none, and nearly all letters of other scripts
		longVowel = 'ー' // of Katakana, though of no script by itself
	)
	return r >= first && (unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana) || r == longVowel)
}

// plain writes the wide forms of Latin letters, digits and signs as the usual
// ones, all letters small and Latin ones without accents: who searches writes
// them any way.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if '！' <= r && r <= '～' {
			r = r - '！' + '!'
		}
		switch r = unicode.ToLower(r); {
		case r < 'à':
			return r
		case '\u0300' <= r && r <= '\u036f':
			return -1 // an accent behind its letter
		}
		if base, ok := bases[r]; ok {
			return base
		}
		return r
	}, text)
}

// bases gives the letter below an accent.
var bases = func() map[rune]rune {
	all := map[rune]rune{'ſ': 's', 'ẛ': 's', 'ς': 'σ'}
	for _, letters := range []string{
		"aàáâãäåāăąǎǟǡǻȁȃȧḁạảấầẩẫậắằẳẵặ", "bḃḅḇ", "cçćĉċčḉ", "dďḋḍḏḑḓ", "eèéêëēĕėęěȅȇȩḕḗḙḛḝẹẻẽếềểễệ", "fḟ",
		"gĝğġģǧǵḡ", "hĥȟḣḥḧḩḫẖ", "iìíîïĩīĭįǐȉȋḭḯỉị", "jĵǰ", "kķǩḱḳḵ", "lĺļľḷḹḻḽ", "mḿṁṃ", "nñńņňǹṅṇṉṋ",
		"oòóôõöōŏőơǒǫǭȍȏȫȭȯȱṍṏṑṓọỏốồổỗộớờởỡợ", "pṕṗ", "rŕŗřȑȓṙṛṝṟ", "sśŝşšșṡṣṥṧṩ", "tţťțṫṭṯṱẗ",
		"uùúûüũūŭůűųưǔǖǘǚǜȕȗṳṵṷṹṻụủứừửữự", "vṽṿ", "wŵẁẃẅẇẉẘ", "xẋẍ", "yýÿŷȳẏẙỳỵỷỹ", "zźżžẑẓẕ", "æǣǽ", "øǿ",
	} {
		base := []rune(letters)[0]
		for _, r := range letters {
			all[r] = base
		}
	}
	return all
}()
