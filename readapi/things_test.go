package readapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"cartwright/domain"
	"cartwright/domain/inventory"
)

// TestADividedSKUIsShownAsOneStock looks at shards with goods on the way between
// them, of which the view has seen one further than the other.
func TestADividedSKUIsShownAsOneStock(t *testing.T) {
	w := newWorld(t)
	do := func(shard int, cs ...inventory.Command) {
		t.Helper()
		for _, c := range cs {
			must2(w.shop.Inventory(t.Context(), w.request(), domain.StockID("tea:1", shard), c))(t)
		}
	}
	do(0, inventory.Receive{Quantity: 100}, inventory.SetPolicy{Safety: 5, Backorder: 7}, inventory.Divide{Shards: 3})
	shown := func() (body map[string]any, tag string) {
		t.Helper()
		rec := w.get("/v1/inventory/tea:1")
		if err := json.Unmarshal(rec.Body.Bytes(), &body); err != nil || rec.Code != http.StatusOK {
			t.Fatalf("got %d %s", rec.Code, rec.Body)
		}
		return body, rec.Header().Get("ETag")
	}
	tags := map[string]bool{}
	for _, step := range []func(){
		func() {},
		func() { do(0, inventory.TransferOut{To: 1, Transfer: 1, Quantity: 30}) },
		func() { do(0, inventory.TransferOut{To: 2, Transfer: 1, Quantity: 20}) },
		func() { do(1, inventory.TransferIn{From: 0, Transfer: 1, Quantity: 30}) },
		func() { do(1, inventory.TransferOut{To: 2, Transfer: 1, Quantity: 10}) },
		func() { do(0, inventory.TransferSettle{To: 1, Transfer: 1}) },
	} {
		step()
		w.project()
		body, tag := shown()
		if body["on_hand"] != 100.0 || body["available"] != 95.0 || body["shards"] != 3.0 || body["safety"] != 5.0 || body["backorder_limit"] != 7.0 {
			t.Fatalf("got %v", body)
		}
		if tags[tag] || !strings.HasPrefix(tag, `"v`) {
			t.Errorf("the tag is %s again", tag)
		}
		tags[tag] = true
	}
	id, _, err := w.shop.DrawOrderID(t.Context(), w.request(), "123456") // never placed
	if err != nil {
		t.Fatal(err)
	}
	do(1, inventory.Hold{Order: string(id), Attempt: "a", Quantity: 3, Now: today, Expires: today})
	w.project()
	if body, _ := shown(); body["held"] != 3.0 || body["available"] != 92.0 {
		t.Errorf("got %v", body)
	}
	w.refused(w.get("/v1/inventory/tea:1~1"), http.StatusBadRequest, "invalid_sku")
}
