package openapi_test

import (
	"encoding/json"
	"testing"
)

// TestAMisfitIsFound is for the eyes of the other tests: what looks at nothing
// finds nothing wrong.
func TestAMisfitIsFound(t *testing.T) {
	doc := load(t)
	for text, name := range map[string]string{
		`{"amount":1}`:                              "Money",
		`{"amount":1.5,"currency":"CNY"}`:           "Money",
		`{"amount":1,"currency":"cny"}`:             "Money",
		`{"amount":1,"currency":"CNY","more":true}`: "Money",
		`{"amount":1,"currency":7}`:                 "Sum",
		`[]`:                                        "Money",
		`{"status":"broken"}`:                       "Health",
		`{"status":"ready","checks":{"bus":1}}`:     "Readiness",
		`{"lines":[]}`:                              "Parcel",
		`{"quantity":0}`:                            "Receipt",
		`{"carrier":"","number":"1"}`:               "Waybill",
		`"12345678901234567890"`:                    "OrderID",
		`-1`:                                        "Revision",
		`{"channel":"The Till"}`:                    "PaymentRequest",
		`{"to":"moon"}`:                             "RefundRedirect",
		`"seller/1"`:                                "AccountID",
		`{}`:                                        "None",
	} {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		if found := doc.misfits(object{"$ref": "#/components/schemas/" + name}, v, ""); len(found) == 0 {
			t.Errorf("%s is taken for a %s", text, name)
		}
	}
	if found := doc.misfits(object{"oneOf": []any{}}, 1.0, ""); len(found) == 0 {
		t.Error("an unknown keyword is taken for checked")
	}
	if found := doc.misfits(object{"$ref": "#/components/schemas/Sum"}, object{"amount": 0.0, "currency": nil}, ""); len(found) != 0 {
		t.Errorf("a sum of nothing is one, but %q", found)
	}
}
