package projections_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cartwright/domain/order"
	"cartwright/projections"
)

// titled is an order with one line of this title.
func titled(title string) projections.Order {
	return projections.Order{State: order.Order{ID: "0000000000000000001", Lines: []order.Item{{Line: order.Line{SKU: "A-1", Title: title}}}}}
}

// finds looks for every phrase of a text among an order's words, as an index does.
func finds(o projections.Order, text string) bool {
	phrases := projections.Phrases(text)
	for _, phrase := range phrases {
		if !strings.Contains(" "+o.Words()+" ", " "+phrase+" ") {
			return false
		}
	}
	return len(phrases) > 0
}

func TestASearchFindsWhatStandsInTheTexts(t *testing.T) {
	for _, c := range []struct {
		title, text string
		found       bool
	}{
		{"Café Crème T-shirt", "cafe", true},
		{"Cafe\u0301", "CAFÉ", true}, // the accent stands by itself
		{"Café Crème T-shirt", "shirt-T", false},
		{"Café Crème T-shirt", "creme shirt", true},
		{"红色连衣裙", "连衣裙", true},
		{"红色连衣裙", "裙", true},
		{"红色连衣裙", "红裙", false},
		{"裙", "裙", true},
		{"きれいなピンク", "れい", true},
		{"きれいなピンク", "ンク", true},
		{"佐々木", "々木", true},
		{"ｉＰｈｏｎｅ手机壳", "iphone 手机", true},
		{"ΣΊΣΥΦΟΣ", "σίσυφος", true},
		{"ЁЛКА", "ёлка", true},
		{"red shirt", "!!!", false},
		{"red shirt", "", false},
		{"red", "a-1", true},
	} {
		if got := finds(titled(c.title), c.text); got != c.found {
			t.Errorf("%q in %q: found is %v, want %v", c.text, c.title, got, c.found)
		}
	}
}

func TestEveryWordOfATitleIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.StringMatching(`[a-zA-Zéü]{1,4}|[红色连衣裙ー]{1,4}`), 1, 5).Draw(t, "words")
		o := titled(strings.Join(words, " "))
		for _, word := range words {
			if !finds(o, word) || !finds(o, strings.ToUpper(word)) {
				t.Fatalf("%q is not found in %q", word, words)
			}
		}
	})
}

func TestTheWordsOfAnOrderAreAlwaysTheSame(t *testing.T) {
	o := titled("红色连衣裙 夏季2026新款")
	if first := o.Words(); slices.ContainsFunc(make([]int, 20), func(int) bool { return o.Words() != first }) {
		t.Error("the same order has other words")
	}
}
