package writeapi_test

import (
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cartwright/commands"
	"cartwright/writeapi"
)

// TestWhatIsTakenIsWhatEncodingJSONReads lays out bodies in every way that JSON
// allows, of every route.
func TestWhatIsTakenIsWhatEncodingJSONReads(t *testing.T) {
	for _, r := range writeapi.Readings() {
		rapid.Check(t, func(rt *rapid.T) {
			want := r.Into()
			text := laidOut(rt, reflect.TypeOf(want).Elem())
			if err := json.Unmarshal([]byte(text), want); err != nil {
				rt.Fatalf("%s: %s: %v", r.Name, text, err)
			}
			got, err := r.Strict([]byte(text))
			if err != nil {
				rt.Fatalf("%s: %s: %v", r.Name, text, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				rt.Fatalf("%s: %s: %s", r.Name, text, diff)
			}
		})
	}
}

// laidOut draws a value of a type, or null, as JSON.
func laidOut(rt *rapid.T, t reflect.Type) string {
	space := rapid.SampledFrom([]string{"", "", " ", "\r\n\t"})
	around := func(text string) string { return space.Draw(rt, "before") + text + space.Draw(rt, "behind") }
	if rapid.IntRange(0, 5).Draw(rt, "null") == 0 {
		return around("null")
	}
	quote := func(s string) string {
		if rapid.Bool().Draw(rt, "escaped") {
			s = strings.NewReplacer("a", `\u0061`, "_", `\u005f`, "é", `\u00e9`, "茶", `\ud83d\ude00`, "/", `\ud83d`).Replace(s)
		}
		return `"` + s + `"`
	}
	var items []string
	open, end := "{", "}"
	switch t.Kind() {
	case reflect.Pointer:
		return laidOut(rt, t.Elem())
	case reflect.String:
		return around(quote(rapid.StringMatching(`[a-z_é茶/]{0,8}`).Draw(rt, "text")))
	case reflect.Bool:
		return around(rapid.SampledFrom([]string{"true", "false"}).Draw(rt, "bool"))
	case reflect.Int, reflect.Int64:
		return around(rapid.SampledFrom([]string{"0", "-0", "7", "-12", "9223372036854775807", "-9223372036854775808"}).Draw(rt, "number"))
	case reflect.Struct:
		for _, i := range rapid.Permutation(fieldsOf(t)).Draw(rt, "order") {
			if rapid.IntRange(0, 4).Draw(rt, "absent") > 0 {
				name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
				items = append(items, around(quote(name))+":"+laidOut(rt, t.Field(i).Type))
			}
		}
	case reflect.Map:
		for _, name := range rapid.SliceOfNDistinct(rapid.StringMatching(`[a-w_]{0,3}`), 0, 3, rapid.ID).Draw(rt, "names") {
			items = append(items, around(quote(name))+":"+laidOut(rt, t.Elem()))
		}
	case reflect.Slice:
		open, end = "[", "]"
		for range rapid.IntRange(0, 3).Draw(rt, "items") {
			items = append(items, laidOut(rt, t.Elem()))
		}
	default:
		rt.Fatalf("a body has a %s", t)
	}
	return around(open + space.Draw(rt, "inside") + strings.Join(items, ",") + end)
}

func fieldsOf(t reflect.Type) []int {
	all := make([]int, t.NumField())
	for i := range all {
		all[i] = i
	}
	return all
}

// TestNoBodyIsTooStrange spoils good bodies, a few bytes at a time: whatever
// comes is carried out or refused, and never a fault of ours.
func TestNoBodyIsTooStrange(t *testing.T) {
	h := serve(t, &recorder{}, false)
	rapid.Check(t, func(rt *rapid.T) {
		text := []byte(rapid.SampledFrom([]string{aCheckout, anOffer, oneLine, anAmount}).Draw(rt, "body"))
		for range rapid.IntRange(0, 4).Draw(rt, "changes") {
			at := rapid.IntRange(0, len(text)-1).Draw(rt, "at")
			scrap := []byte(rapid.SampledFrom([]string{
				"", `"`, `\`, `{`, `}`, `[`, `]`, `,`, `:`, `null`, `-`, `1e9`, `\u0000`, `\ud800`, "\x00", "\xff", " ", "茶", `{"a":`, `[[`,
			}).Draw(rt, "scrap"))
			text = slices.Concat(text[:at], scrap, text[min(len(text), at+rapid.IntRange(0, 3).Draw(rt, "gone")):])
			if len(text) == 0 {
				return
			}
		}
		q := rapid.SampledFrom([]request{good["checkout"], good["publish"], good["pack"], good["deposit"]}).Draw(rt, "route")
		q.body = string(text)
		if w := q.send(t, h); w.Code >= http.StatusInternalServerError {
			rt.Fatalf("%q: got %d %s", text, w.Code, w.Body)
		}
	})
}

func TestHowJSONIsLaidOutDoesNotMatter(t *testing.T) {
	var first commands.Checkout
	for i, text := range []string{
		aCheckout,
		strings.NewReplacer(`{`, "{\n\t", `}`, "\r\n} ", `:`, " : ", `,`, " ,\n", `[`, "[ ").Replace(strings.ReplaceAll(aCheckout, "tea:1", "tea-1")),
		` {"address":` + anAddress + `,"items":[{"quantity":2,"sku":"tea-1"}],"buyer_id":"\u0031\u003234\u00356","order_id":"` + anOrder + `","expected_amount":null} `,
	} {
		shop := &recorder{}
		if w := body("checkout", strings.ReplaceAll(text, "tea:1", "tea-1")).send(t, serve(t, shop, false)); w.Code != http.StatusCreated {
			t.Fatalf("%s: got %d %s", text, w.Code, w.Body)
		}
		got, _ := shop.only(t).with.(commands.Checkout)
		if i == 0 {
			first = got
		}
		if got.Order != first.Order || got.Buyer != first.Buyer || !slices.Equal(got.Items, first.Items) || got.Address != first.Address {
			t.Errorf("%s: got %+v, want %+v", text, got, first)
		}
	}
}
