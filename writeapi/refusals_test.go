package writeapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"cartwright/domain/order"
)

// TestBadInputIsRefusedBeforeAnythingIsAsked is the list of what a caller can
// get wrong in form: each is a 4xx problem with a stable slug, and the shop
// never hears of it.
func TestBadInputIsRefusedBeforeAnythingIsAsked(t *testing.T) {
	long := strings.Repeat("x", 201)
	for name, tt := range map[string]struct {
		request
		status  int
		slug    string
		pointer string
	}{
		// JSON.
		"cut off":               {body("checkout", `{"order_id":`), 400, "malformed_body", ""},
		"no JSON":               {body("checkout", `order_id=1`), 400, "malformed_body", ""},
		"nothing":               {body("checkout", ``), 400, "malformed_body", ""},
		"two values":            {body("checkout", aCheckout+aCheckout), 400, "malformed_body", ""},
		"a comma behind":        {body("checkout", `{"order_id":"1",}`), 400, "malformed_body", ""},
		"not UTF-8":             {body("draw", "{\"buyer_id\":\"\xff\"}"), 400, "malformed_body", ""},
		"unknown field":         {body("checkout", member(aCheckout, "coupon", `"free"`)), 400, "unknown_field", "/coupon"},
		"unknown inside":        {body("checkout", strings.Replace(aCheckout, `"quantity":2`, `"quantity":2,"price":1`, 1)), 400, "unknown_field", "/items/0/price"},
		"other letters":         {body("draw", `{"Buyer_ID":"123456"}`), 400, "unknown_field", "/Buyer_ID"},
		"a slash in a name":     {body("draw", `{"a/b":1}`), 400, "unknown_field", "/a~1b"},
		"an escaped name twice": {body("draw", `{"buyer_id":"1","buyer_\u0069d":"2"}`), 400, "duplicate_field", "/buyer_id"},
		"twice":                 {body("draw", `{"buyer_id":"1","buyer_id":"2"}`), 400, "duplicate_field", "/buyer_id"},
		"twice inside":          {body("deposit", `{"amount":{"amount":1,"currency":"CNY","amount":2}}`), 400, "duplicate_field", "/amount/amount"},
		"a spec twice":          {body("publish", member(anOffer, "specs", `{"a":"1","a":"2"}`)), 400, "duplicate_field", "/specs/a"},
		"a list":                {body("draw", `[]`), 400, "wrong_type", ""},
		"null":                  {body("draw", `null`), 400, "invalid_id", "/buyer_id"},
		"a number for an id":    {body("draw", `{"buyer_id":123456}`), 400, "wrong_type", "/buyer_id"},
		"text for a number":     {body("receive", `{"quantity":"5"}`), 400, "wrong_type", "/quantity"},
		"a fraction":            {body("receive", `{"quantity":1.5}`), 400, "wrong_type", "/quantity"},
		"an exponent":           {body("receive", `{"quantity":1e3}`), 400, "wrong_type", "/quantity"},
		"more than 64 bits":     {body("deposit", `{"amount":{"amount":9223372036854775808,"currency":"CNY"}}`), 400, "wrong_type", "/amount/amount"},
		"less than 64 bits":     {body("deposit", `{"amount":{"amount":-9223372036854775809,"currency":"CNY"}}`), 400, "wrong_type", "/amount/amount"},
		"an object for a list":  {body("pack", `{"lines":{"line":1}}`), 400, "wrong_type", "/lines"},
		"a list for an object":  {body("pack", `{"lines":[[1,2]]}`), 400, "wrong_type", "/lines/0"},
		"text for a boolean":    {body("publish", member(anOffer, "on_sale", `"yes"`)), 400, "wrong_type", "/on_sale"},
		"a bare amount":         {body("deposit", `{"amount":500}`), 400, "wrong_type", "/amount"},

		// Size and media.
		"too large":         {body("draw", `{"buyer_id":"`+strings.Repeat("x", 1<<20)+`"}`), 413, "body_too_large", ""},
		"no media type":     {good["draw"].with("Content-Type", "-"), 415, "media_type_unsupported", ""},
		"a form":            {good["draw"].with("Content-Type", "application/x-www-form-urlencoded"), 415, "media_type_unsupported", ""},
		"another charset":   {good["draw"].with("Content-Type", "application/json; charset=gbk"), 415, "media_type_unsupported", ""},
		"compressed":        {good["draw"].with("Content-Encoding", "gzip"), 415, "media_type_unsupported", ""},
		"text on an option": {body("pay", `x`).with("Content-Type", "text/plain"), 415, "media_type_unsupported", ""},

		// Paths.
		"an order id too short":  {path("cancel", "/v1/orders/123/cancel"), 400, "invalid_order_id", "path:order_id"},
		"an order id of letters": {path("pay", "/v1/checkouts/059839200000012345x/pay"), 400, "invalid_order_id", "path:order_id"},
		"parcel zero":            {path("deliver", orderPath+"/parcels/0/delivered"), 400, "invalid_id", "path:parcel"},
		"a parcel of letters":    {path("deliver", orderPath+"/parcels/one/delivered"), 400, "invalid_id", "path:parcel"},
		"a parcel with a zero":   {path("waybill", orderPath+"/parcels/01/waybill"), 400, "invalid_id", "path:parcel"},
		"a SKU with a space":     {path("receive", "/v1/inventory/a%20b/receipts"), 400, "invalid_sku", "path:sku"},
		"a SKU too long":         {path("publish", "/v1/skus/"+long), 400, "invalid_sku", "path:sku"},
		"a SKU in Chinese":       {path("publish", "/v1/skus/%E8%8C%B6"), 400, "invalid_sku", "path:sku"},
		"an account id":          {path("deposit", "/v1/accounts/a@b/deposits"), 400, "invalid_id", "path:account_id"},

		// Fields.
		"no buyer":               {body("draw", `{}`), 400, "invalid_id", "/buyer_id"},
		"no items":               {body("checkout", strings.Replace(aCheckout, `{"sku":"tea:1","quantity":2}`, ``, 1)), 400, "wrong_item_count", "/items"},
		"201 items":              {body("checkout", strings.Replace(aCheckout, `{"sku":"tea:1","quantity":2}`, strings.Repeat(`{"sku":"a","quantity":1},`, 200)+`{"sku":"a","quantity":1}`, 1)), 400, "wrong_item_count", "/items"},
		"no units":               {body("checkout", strings.Replace(aCheckout, `"quantity":2`, `"quantity":0`, 1)), 400, "invalid_quantity", "/items/0/quantity"},
		"fewer than no units":    {body("checkout", strings.Replace(aCheckout, `"quantity":2`, `"quantity":-2`, 1)), 400, "invalid_quantity", "/items/0/quantity"},
		"too many units":         {body("checkout", strings.Replace(aCheckout, `"quantity":2`, `"quantity":1000000001`, 1)), 400, "invalid_quantity", "/items/0/quantity"},
		"a SKU of spaces":        {body("checkout", strings.Replace(aCheckout, `tea:1`, ` `, 1)), 400, "invalid_sku", "/items/0/sku"},
		"an order id as a word":  {body("checkout", strings.Replace(aCheckout, anOrder, `abc`, 1)), 400, "invalid_order_id", "/order_id"},
		"no address":             {body("checkout", strings.Replace(aCheckout, anAddress, `null`, 1)), 400, "missing_field", "/address"},
		"no city":                {body("checkout", strings.Replace(aCheckout, `"city":"Beijing",`, ``, 1)), 400, "invalid_address", "/address/city"},
		"negative expectation":   {body("checkout", member(aCheckout, "expected_amount", `{"amount":-1,"currency":"CNY"}`)), 400, "invalid_amount", "/expected_amount/amount"},
		"expectation without":    {body("pay", `{"expected_amount":{"amount":1}}`), 400, "unknown_currency", "/expected_amount/currency"},
		"a currency of nowhere":  {body("pay", `{"expected_amount":{"amount":1,"currency":"XXX"}}`), 400, "unknown_currency", "/expected_amount/currency"},
		"a negative price":       {body("publish", strings.Replace(anOffer, `100`, `-100`, 1)), 400, "invalid_amount", "/unit_price/amount"},
		"no price":               {body("publish", `{"seller_id":"s1","title":"Tea"}`), 400, "missing_field", "/unit_price"},
		"no title":               {body("publish", strings.Replace(anOffer, `Tea`, ``, 1)), 400, "missing_field", "/title"},
		"freight in dollars":     {body("publish", member(anOffer, "freight", `{"amount":1,"currency":"USD"}`)), 400, "wrong_currency", "/freight/currency"},
		"a spec without a name":  {body("publish", member(anOffer, "specs", `{"":"x"}`)), 400, "missing_field", "/specs/"},
		"a bell in a title":      {body("publish", strings.Replace(anOffer, `Tea`, `\u0007`, 1)), 400, "invalid_text", "/title"},
		"no lines":               {body("pack", `{"lines":[]}`), 400, "wrong_item_count", "/lines"},
		"line zero":              {body("pack", `{"lines":[{"line":0,"quantity":1}]}`), 400, "invalid_quantity", "/lines/0/line"},
		"half a waybill":         {body("pack", `{"lines":[{"line":1,"quantity":1}],"waybill":{"carrier":"SF"}}`), 400, "missing_field", "/waybill/number"},
		"no number":              {body("waybill", `{"carrier":"SF","number":""}`), 400, "missing_field", "/number"},
		"a long carrier":         {body("waybill", `{"carrier":"`+long+`","number":"1"}`), 400, "invalid_text", "/carrier"},
		"no name":                {body("address", strings.Replace(anAddress, `李雷`, ``, 1)), 400, "invalid_address", "/name"},
		"no reason":              {body("cancel", `{}`), 400, "invalid_reason", "/reason"},
		"the timer's reason":     {body("cancel", `{"reason":"timeout"}`), 400, "invalid_reason", "/reason"},
		"a refund of nothing":    {body("refund", `{"lines":[{"line":1}]}`), 400, "missing_field", "/lines/0"},
		"a negative refund":      {body("refund", `{"lines":[{"line":1,"amount":{"amount":-1,"currency":"CNY"}}]}`), 400, "invalid_amount", "/lines/0/amount/amount"},
		"no receipt":             {body("receive", `{"quantity":0}`), 400, "invalid_quantity", "/quantity"},
		"nothing adjusted":       {body("adjust", `{"reason":"x"}`), 400, "missing_field", "/on_hand"},
		"adjusted for no reason": {body("adjust", `{"on_hand":1}`), 400, "missing_field", "/reason"},
		"a count of nothing":     {body("count", `{"reason":"x"}`), 400, "missing_field", "/on_hand"},
		"a count below zero":     {body("count", `{"on_hand":-1,"reason":"x"}`), 400, "invalid_quantity", "/on_hand"},
		"half a policy":          {body("policy", `{"safety":1}`), 400, "missing_field", "/backorder_limit"},
		"one shard":              {body("divide", `{"shards":1}`), 400, "invalid_quantity", "/shards"},
		"too many shards":        {body("divide", `{"shards":17}`), 400, "invalid_quantity", "/shards"},
		"an account in pebbles":  {body("open", `{"account_id":"a","currency":"PBL"}`), 400, "unknown_currency", "/currency"},
		"a deposit of nothing":   {body("deposit", `{}`), 400, "missing_field", "/amount"},
		"a deposit of zero":      {body("deposit", `{"amount":{"amount":0,"currency":"CNY"}}`), 400, "invalid_amount", "/amount/amount"},
		"a negative withdrawal":  {body("withdraw", `{"amount":{"amount":-5,"currency":"CNY"}}`), 400, "invalid_amount", "/amount/amount"},

		"a payment by nothing":        {body("payment", `{}`), 400, "invalid_channel", "/channel"},
		"a payment by an ill name":    {body("payment", `{"channel":"Ali"}`), 400, "invalid_channel", "/channel"},
		"a payment of pebbles":        {body("payment", `{"channel":"a","expected_amount":{"amount":1,"currency":"PBL"}}`), 400, "unknown_currency", "/expected_amount/currency"},
		"a payment with many options": {body("payment", `{"channel":"a","options":{`+manyOptions+`}}`), 400, "too_many_options", "/options"},
		"a return of nothing":         {body("return", `{}`), 400, "missing_field", "/trade"},
		"a resolution without reason": {body("resolve", `{}`), 400, "missing_field", "/reason"},
		"a redirection to nowhere":    {body("redirect", `{"to":"cash"}`), 400, "unknown_way", "/to"},
		"freight and units":           {body("refund", `{"lines":[{"line":1,"quantity":1,"freight":true}]}`), 400, "freight_alone", "/lines/0/freight"},

		// Headers.
		"a key too long":              {good["draw"].with("Idempotency-Key", strings.Repeat("k", 256)), 400, "idempotency_key_invalid", "header:Idempotency-Key"},
		"a key with a space":          {good["pay"].with("Idempotency-Key", "a b"), 400, "idempotency_key_invalid", "header:Idempotency-Key"},
		"a key in Chinese":            {good["pay"].with("Idempotency-Key", "钥匙"), 400, "idempotency_key_invalid", "header:Idempotency-Key"},
		"an empty key":                {good["pay"].with("Idempotency-Key", ""), 400, "idempotency_key_invalid", "header:Idempotency-Key"},
		"a weak tag":                  {good["cancel"].with("If-Match", `W/"v1"`), 400, "if_match_malformed", "header:If-Match"},
		"two tags":                    {good["cancel"].with("If-Match", `"v1","v2"`), 400, "if_match_malformed", "header:If-Match"},
		"a bare tag":                  {good["publish"].with("If-Match", `1`), 400, "if_match_malformed", "header:If-Match"},
		"a tag to be unlike":          {good["publish"].with("If-None-Match", `"v1"`), 400, "if_none_match_malformed", "header:If-None-Match"},
		"unlike without sense":        {good["cancel"].with("If-None-Match", `*`), 400, "if_none_match_malformed", "header:If-None-Match"},
		"at a version and new":        {good["publish"].with("If-Match", `"v1"`).with("If-None-Match", `*`), 400, "if_none_match_malformed", "header:If-None-Match"},
		"a waybill both":              {good["waybill"].with("If-None-Match", `*`), 400, "if_none_match_malformed", "header:If-None-Match"},
		"a waybill blindly":           {good["waybill"].with("If-Match", "-"), 428, "if_match_required", "header:If-Match"},
		"a waybill at any version":    {good["waybill"].with("If-Match", "*"), 428, "if_match_required", "header:If-Match"},
		"a waybill at version 0":      {good["waybill"].with("If-Match", `"v0"`), 412, "waybill_stale", ""},
		"a waybill far from now":      {good["waybill"].with("If-Match", `"v9223372036854775807"`), 412, "waybill_stale", ""},
		"a count blindly":             {good["count"].with("If-Match", "-"), 428, "if_match_required", "header:If-Match"},
		"a count at any version":      {good["count"].with("If-Match", "*"), 428, "if_match_required", "header:If-Match"},
		"an offer at any version":     {good["publish"].with("If-Match", "*"), 428, "if_match_required", "header:If-Match"},
		"a receipt at any version":    {good["receive"].with("If-Match", "*"), 400, "if_match_malformed", "header:If-Match"},
		"a version of a new checkout": {good["checkout"].with("If-Match", `"v1"`), 412, "version_stale", ""},
		"a version of a new order id": {good["draw"].with("If-Match", `"v1"`), 412, "version_stale", ""},
		"a time from a caller":        {good["pay"].with("Cartwright-At", "2020-01-01T00:00:00Z"), 400, "backdating_off", "header:Cartwright-At"},
	} {
		t.Run(name, func(t *testing.T) {
			shop := &recorder{state: order.Order{ID: anOrder, Currency: "CNY"}}
			pointers := refused(t, tt.send(t, serve(t, shop, false)), tt.status, tt.slug)
			if tt.pointer != "" && !slices.Contains(pointers, tt.pointer) {
				t.Errorf("%q is not named, but %q", tt.pointer, pointers)
			}
			if len(shop.calls) != 0 {
				t.Errorf("the shop was asked: %+v", shop.calls)
			}
		})
	}
}

var manyOptions = func() string {
	var all []string
	for i := range 21 {
		all = append(all, fmt.Sprintf(`"o%d":"v"`, i))
	}
	return strings.Join(all, ",")
}()

func TestAKeyIsRequiredWhereStockOrMoneyMoves(t *testing.T) {
	optional := []string{"draw", "open"}
	for name, q := range good {
		shop := &recorder{state: order.Order{ID: anOrder, Currency: "CNY"}, order: []order.Event{order.RefundIssued{Refund: 1}, order.WaybillSet{Version: 1}}}
		w := q.with("Idempotency-Key", "-").send(t, serve(t, shop, false))
		if q.method == http.MethodPut || slices.Contains(optional, name) {
			if w.Code >= 300 {
				t.Errorf("%s: got %d %s", name, w.Code, w.Body)
			}
			continue
		}
		refused(t, w, http.StatusBadRequest, "idempotency_key_missing")
		if len(shop.calls) != 0 {
			t.Errorf("%s: the shop was asked", name)
		}
	}
}

func TestEverythingThatIsWrongIsNamedAtOnce(t *testing.T) {
	w := body("checkout", `{"order_id":"1","buyer_id":"a b","items":[{"sku":"","quantity":-1}],"address":{}}`).send(t, serve(t, &recorder{}, false))
	got := refused(t, w, http.StatusBadRequest, "invalid_order_id")
	want := []string{
		"/order_id", "/buyer_id", "/items/0/sku", "/items/0/quantity",
		"/address/name", "/address/line1", "/address/city", "/address/country",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTheTimeOfAnImportIsCheckedWhereItIsTaken(t *testing.T) {
	for name, at := range map[string]string{
		"a word": "yesterday", "a day": "2020-01-01", "tomorrow": "2026-07-02T12:00:00Z", "empty": "",
	} {
		shop := &recorder{}
		t.Run(name, func(t *testing.T) {
			refused(t, good["pay"].with("Cartwright-At", at).send(t, serve(t, shop, true)), http.StatusBadRequest, "at_invalid")
		})
		if len(shop.calls) != 0 {
			t.Errorf("%s: the shop was asked", name)
		}
	}
	shop := &recorder{}
	if w := good["pay"].with("Cartwright-At", "2017-01-01T10:00:00-03:00").send(t, serve(t, shop, true)); w.Code != http.StatusOK {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if got := shop.only(t).req.At.Format("2006-01-02T15:04:05Z07:00"); got != "2017-01-01T13:00:00Z" {
		t.Errorf("it happened at %s", got)
	}
}
