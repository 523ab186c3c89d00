package domain_test

import (
	"strings"
	"testing"

	"cartwright/domain"
)

func TestNamesAreOfOneAlphabet(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-"
	for r := range rune(0x180) {
		want := strings.ContainsRune(alphabet, r)
		if got := domain.CheckID("/buyer_id", string(r)) == nil; got != want {
			t.Errorf("an id of %q: accepted %t, want %t", r, got, want)
		}
		if got := domain.CheckSKU("/sku", "x"+string(r)) == nil; got != want {
			t.Errorf("a SKU with %q in it: accepted %t, want %t", r, got, want)
		}
	}
}

func TestNamesAndTextsHaveALength(t *testing.T) {
	for _, c := range []struct {
		says   string
		err    error
		reason string
	}{
		{"an id is not empty", domain.CheckID("/buyer_id", ""), "invalid_id"},
		{"an id of 64 characters", domain.CheckID("/buyer_id", strings.Repeat("a", 64)), ""},
		{"an id of 65 characters", domain.CheckID("/buyer_id", strings.Repeat("a", 65)), "invalid_id"},
		{"a SKU is not empty", domain.CheckSKU("/sku", ""), "invalid_sku"},
		{"a SKU of 200 characters", domain.CheckSKU("/sku", strings.Repeat("a", 200)), ""},
		{"a SKU of 201 characters", domain.CheckSKU("/sku", strings.Repeat("a", 201)), "invalid_sku"},
		{"a text may be empty", domain.CheckText("/note", "", 3), ""},
		{"a text counts characters, not bytes", domain.CheckText("/note", "谢谢您", 3), ""},
		{"a text that is too long", domain.CheckText("/note", "谢谢您!", 3), "invalid_text"},
		{"a text has lines and tabs", domain.CheckText("/note", "a\n\tb", 9), ""},
		{"a text has no other control characters", domain.CheckText("/note", "a\rb", 9), "invalid_text"},
		{"nor NUL", domain.CheckText("/note", "a\x00b", 9), "invalid_text"},
		{"a text is UTF-8", domain.CheckText("/note", "a\xffb", 9), "invalid_text"},
	} {
		if got := domain.ReasonOf(c.err); got != c.reason || (c.err == nil) != (c.reason == "") {
			t.Errorf("%s: got %v, want %q", c.says, c.err, c.reason)
		}
	}
}

func TestARefusedNameSaysWhereItStands(t *testing.T) {
	for pointer, err := range map[string]error{
		"/buyer_id": domain.CheckID("/buyer_id", "no spaces"),
		"/sku":      domain.CheckSKU("/sku", "no/slashes"),
		"/note":     domain.CheckText("/note", "long", 3),
		"/title":    domain.CheckText("/title", "\xff", 3),
	} {
		e, ok := err.(*domain.Error) //nolint:errorlint // the function's own error, not a wrapped one
		if !ok || e.Code != domain.Invalid || len(e.Fields) != 1 || e.Fields[0].Pointer != pointer || e.Fields[0].Detail == "" {
			t.Errorf("%s: got %#v", pointer, err)
		}
	}
}

func TestTheStockOfAShardHasANameThatNoSKUHas(t *testing.T) {
	for _, sku := range []string{"a", "tea-1", strings.Repeat("x", 200)} {
		for shard := range 16 {
			id := domain.StockID(sku, shard)
			if (shard == 0) != (id == sku) || (domain.CheckSKU("", id) == nil) != (shard == 0) {
				t.Errorf("shard %d of %s is called %s", shard, sku, id)
			}
			if s, k := domain.ShardOf(id); s != sku || k != shard {
				t.Errorf("%s is taken for shard %d of %s", id, k, s)
			}
		}
	}
	for _, odd := range []string{"a~", "a~0", "a~-1", "a~x", "~", ""} {
		if sku, shard := domain.ShardOf(odd); sku != odd || shard != 0 {
			t.Errorf("%q is taken for shard %d of %q", odd, shard, sku)
		}
	}
}
