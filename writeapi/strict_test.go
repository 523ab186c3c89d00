package writeapi_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cartwright/commands"
)

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
