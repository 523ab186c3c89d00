package domain_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/bytedance/sonic"

	"cartwright/domain/event"
)

// The program reads events with sonic, and what is read must be what encoding/json
// reads, whatever is in somebody's log. The two differ in what cannot be there: a
// name with a long s in it, which encoding/json takes for an s, and broken text
// within a payment's instruction, which the channels have encoding/json write.
func TestEventsReadTheSameWithSonic(t *testing.T) {
	std, quick, reads := readers(t)
	for _, typ := range stored() {
		for version := 1; version <= typ.Version; version++ {
			t.Run(fileOf(typ.Name, version), func(t *testing.T) {
				for _, raw := range read(t, fileOf(typ.Name, version)) {
					for _, odd := range oddities(raw) {
						if typ.Name == "payment.asked" && broken(odd) {
							continue
						}
						rec := event.Recorded{Stream: golden, Name: typ.Name, Version: version, Data: odd}
						want, wantErr := std.Decode(rec)
						got, err := quick.Decode(rec)
						if (err == nil) != (wantErr == nil) {
							t.Errorf("%s\nreads as %v and with sonic as %v", odd, wantErr, err)
						} else if err == nil && !reflect.DeepEqual(got, want) {
							t.Errorf("%s\nreads as\n%#v and with sonic as\n%#v", odd, want, got)
						}
					}
				}
			})
		}
	}
	if *reads == 0 {
		t.Error("nothing was read with sonic")
	}
}

// broken tells of text that encoding/json never writes.
func broken(text []byte) bool {
	return !utf8.Valid(text) || bytes.Contains(text, []byte(`\x`)) || bytes.Contains(text, []byte(`\u12"`))
}

// readers give a registry as it is made, and one that reads with sonic and counts.
func readers(tb testing.TB) (std, quick *event.Registry, reads *int) {
	tb.Helper()
	std, err := event.NewRegistry(stored()...)
	if err != nil {
		tb.Fatal(err)
	}
	if quick, err = event.NewRegistry(stored()...); err != nil {
		tb.Fatal(err)
	}
	reads = new(int)
	quick.Unmarshal = func(data []byte, into any) error {
		*reads++
		return sonic.ConfigStd.Unmarshal(data, into)
	}
	return std, quick, reads
}

// What stands in place of a value, of a name, or around it all.
var (
	oddValues = []string{
		`null`, `true`, `false`, `0`, `-0`, `-1`, `1.0`, `1.5`, `1e2`, `9223372036854775807`, `9223372036854775808`, `-9223372036854775809`,
		`1e400`, `00`, `01`, `-`, `+1`, `.5`, `1.`, `0x1`, `NaN`, `Infinity`, `nul`, `""`, `"1"`, `"null"`, `"a\u0000b"`, `"\ud83d\ude00"`, `"\ud83d"`, `"\ude00\ud83d"`,
		`"\uD800\u0041"`, `"\x"`, `"\u12"`, "\"\xff\xfe\"", "\"a\xc3\"", "\"\xed\xa0\x80\"", "\"\xef\xbf\xbd\"", "\"\u2028\"", "\"a\nb\"", "\"a\x01b\"", "\"\x7f\"", `"\/\b\f\n\r\t\"\\"`,
		`"<&>"`, `'a'`, `{}`, `[]`, `[null]`, `[{}]`, `[[]]`, `[1,]`, `{"a":1,}`, `{"":null}`, `{"a"}`, `["a","b"]`, `{"a":{"b":[1,2,{"c":null}]}}`,
		`"2024-02-30T00:00:00Z"`, `"2024-02-29T23:59:60Z"`, `"2024-02-29T23:59:59.123456789+08:00"`, `"2024-02-29"`, `"eyJ9"`, `"ey\nJ9"`, `"e"`, ` 7 `, "\t7\r\n", ``, `7 8`, `//`,
	}
	oddNames = []func(string) string{
		func(name string) string { return `"` + strings.ToUpper(name) + `"` },
		func(name string) string { return `"` + strings.ToUpper(name[:1]) + name[1:] + `"` },
		func(name string) string { return fmt.Sprintf(`"\u%04x%s"`, name[0], name[1:]) },
		func(name string) string { return `"` + name + "\u00e9" + `"` },
		func(name string) string { return `"` + name + "\xff" + `"` },
		func(name string) string { return `"` + name + ` "` },
		func(name string) string { return `"` + name + `_"` },
		func(name string) string { return `""` },
		func(name string) string { return name },
		func(name string) string { return `"` + strings.ReplaceAll(name, "_", "") + `"` },
		func(name string) string { return `"` + strings.ReplaceAll(name, "k", "\u212a") + `"` },
	}
	oddTexts = []string{
		"%s", " \t\r\n%s\n", "%s{}", "%s,", "[%s]", "\xef\xbb\xbf%s", "%s\x00", "null%.0s", " null %.0s", "%.0s", "{}%.0s", "[]%.0s", `"x"%.0s`, "7%.0s", "true%.0s", "{%.0s", "%.0s}",
	}
)

// oddities are a text, and that text with one thing wrong, or merely unusual.
func oddities(text []byte) [][]byte {
	var odd [][]byte
	for _, form := range oddTexts {
		odd = append(odd, fmt.Appendf(nil, form, text))
	}
	for end := range text {
		odd = append(odd, text[:end])
	}
	with := func(from, to int, by string) {
		odd = append(odd, slices.Concat(text[:from], []byte(by), text[to:]))
	}
	for _, at := range names.FindAllSubmatchIndex(text, -1) {
		name, from, to := string(text[at[2]:at[3]]), at[2]-1, at[3]+1
		for _, other := range oddNames {
			with(from, to, other(name))
		}
		for _, value := range oddValues { // under the same name, before the right one
			with(from, from, `"`+name+`":`+value+`,`)
			with(from, from, `"`+strings.ToUpper(name)+`":`+value+`,`)
		}
	}
	for from, to := range values(text) {
		for _, value := range oddValues {
			with(from, to, value)
		}
		with(to, to, `,"x":`+string(text[from:to])) // which nobody knows
	}
	return odd
}

var names = regexp.MustCompile(`"([A-Za-z_0-9]+)"\s*:`)

// values are where the values of a text are, those in others too.
func values(text []byte) iter.Seq2[int, int] {
	return func(yield func(from, to int) bool) {
		dec := json.NewDecoder(bytes.NewReader(text))
		for {
			if _, err := dec.Token(); err != nil {
				return
			}
			from := int(dec.InputOffset())
			for from < len(text) && bytes.IndexByte([]byte(" \t\r\n:,"), text[from]) >= 0 {
				from++
			}
			var value json.RawMessage
			rest := json.NewDecoder(bytes.NewReader(text[from:]))
			if rest.Decode(&value) == nil && !yield(from, from+int(rest.InputOffset())) {
				return
			}
		}
	}
}
