package problem

import (
	"maps"
	"strings"
)

// Title is the sentence of a slug. One that is not in the catalogue, which
// happens only to refusals whose slug is put together, is its own words.
func Title(slug string) string {
	if t, ok := catalogue[slug]; ok {
		return t
	}
	words := strings.ReplaceAll(slug, "_", " ")
	if words == "" {
		return "Refused"
	}
	return strings.ToUpper(words[:1]) + words[1:]
}

// Catalogue gives every slug with its sentence.
func Catalogue() map[string]string { return maps.Clone(catalogue) }

// catalogue lists what clients may be told. A slug is API: it is never renamed,
// and never comes to mean something else.
var catalogue = map[string]string{
	// The form of a request.
	"at_invalid":              "The time of what happened cannot be used",
	"backdating_off":          "This server does not backdate",
	"body_too_large":          "The body is too large",
	"cursor_invalid":          "The cursor cannot be used",
	"duplicate_field":         "A field stands twice in the body",
	"idempotency_key_invalid": "The idempotency key cannot be used",
	"idempotency_key_missing": "An idempotency key is required",
	"if_match_malformed":      "The If-Match header cannot be used",
	"if_none_match_malformed": "The If-None-Match header cannot be used",
	"invalid_address":         "The address cannot be used",
	"invalid_amount":          "The amount is out of range",
	"invalid_id":              "The id has the wrong form",
	"invalid_order_id":        "The order id has the wrong form",
	"invalid_parameter":       "A parameter cannot be used",
	"invalid_quantity":        "The number is out of range",
	"invalid_reason":          "The reason is none of the known ones",
	"invalid_sku":             "The SKU has the wrong form",
	"invalid_text":            "The text cannot be used",
	"malformed_body":          "The body is not JSON as it is expected here",
	"media_type_unsupported":  "The body's media type is not supported",
	"missing_field":           "A field is missing",
	"token_invalid":           "The token cannot be used",
	"unknown_currency":        "The currency is unknown",
	"unknown_field":           "A field is unknown",
	"unknown_parameter":       "A parameter is unknown",
	"wrong_item_count":        "The list is empty or too long",
	"wrong_type":              "A value is of the wrong type",
	"bad_account_id":          "The account id has the wrong form",
	"bad_amount":              "The amount is out of range",
	"bad_offer":               "The offer cannot be published",
	"bad_order_id":            "The order id is from the future",
	"bad_quantity":            "The quantity is out of range",
	"amount_overflow":         "The amount is too large",
	"duplicate_claim":         "An order claims money twice",
	"duplicate_sibling":       "An order stands twice in a checkout",
	"empty_order":             "The order has no lines",
	"empty_parcel":            "The parcel has no lines",
	"empty_refund_line":       "A line of the refund gives nothing back",
	"invalid_line":            "A line of the order cannot be used",
	"invalid_price":           "A price is negative",
	"invalid_waybill":         "The waybill cannot be used",
	"address_too_long":        "The address is too long",
	"line_twice":              "A line stands twice",
	"misplaced_siblings":      "Only the first order of a checkout has siblings",
	"missing_address":         "The order has no address",
	"missing_attempt":         "The attempt has no name",
	"negative":                "An amount is negative",
	"no_cause":                "The command has no name",
	"no_claims":               "Nothing is claimed",
	"no_journal":              "The journal has no name",
	"no_key":                  "The key is missing",
	"no_reason":               "The reason is missing",
	"quantity_overflow":       "The quantity is too large",
	"reserved_account":        "The account is the platform's own",
	"too_large":               "The request is too large",
	"too_many_lines":          "There are too many lines",
	"too_many_sellers":        "There are too many sellers",
	"unknown_reason":          "The reason is none of the known ones",
	"wrong_account":           "This is another account",
	"wrong_bucket":            "The order id was given out to another buyer",
	"wrong_quantity":          "The quantity is out of range",

	// What there is none of.
	"route_unknown":      "Nothing is served here",
	"method_not_allowed": "The method is not allowed here",
	"unknown_account":    "There is no such account",
	"unknown_checkout":   "There is no such checkout",
	"unknown_line":       "There is no such line",
	"unknown_order":      "There is no such order",
	"unknown_parcel":     "There is no such parcel",
	"unknown_refund":     "There is no such refund",
	"unknown_sku":        "There is no such SKU",

	// What the state forbids.
	"account_exists":      "The account exists otherwise",
	"already_completed":   "The order is completed",
	"already_packed":      "The order is packed",
	"already_paid":        "This is paid already",
	"already_shipped":     "The order has shipped",
	"attempt_abandoned":   "The attempt was given up",
	"buyer_erased":        "The buyer was erased",
	"entry_gap":           "The entry is not the next one",
	"hold_captured":       "The money was taken",
	"hold_closed":         "The hold has ended",
	"hold_committed":      "The goods are sold",
	"hold_differs":        "The hold is another one",
	"hold_open":           "Another attempt holds the goods",
	"in_progress":         "The same request is still running",
	"journal_differs":     "The journal was entered otherwise",
	"key_used":            "This was done before",
	"line_packed":         "The line is packed",
	"more_than_allocated": "That is more than is allocated",
	"not_allocated":       "The goods are not paid for",
	"not_cancelled":       "The order is not cancelled",
	"not_on_hand":         "That is more than is on the shelf",
	"not_on_sale":         "The SKU is not on sale",
	"not_paid":            "The order is not paid",
	"not_payable":         "This cannot be paid",
	"not_shipped":         "The order has not shipped",
	"not_unavailable":     "That is more than is unavailable",
	"nothing_to_ship":     "Nothing is left to ship",
	"order_cancelled":     "The order is cancelled",
	"order_exists":        "The order id is taken",
	"order_id_expired":    "The order id is too old",
	"order_not_ready":     "The order is not ready for this",
	"order_refunded":      "The order is refunded",
	"order_stands":        "The order stands",
	"out_of_stock":        "There is not enough in stock",
	"parcel_delivered":    "The parcel was delivered",
	"parcel_not_shipped":  "The parcel has not shipped",
	"parcel_shipped":      "The parcel has shipped",
	"parcel_unpacked":     "The parcel was taken apart",
	"price_changed":       "The price has changed",
	"seller_fixed":        "The SKU is sold by another seller",
	"too_late_to_cancel":  "It is too late to cancel",
	"too_much_to_ship":    "That is more than is left to ship",
	"unknown_hold":        "There is no such hold",
	"unknown_reservation": "There is no such reservation",

	"conflict": "Too many change the same thing at once",
	"deleted":  "This was deleted",

	// Versions.
	"if_match_required": "The version must be named",
	"version_stale":     "The version is no longer the newest",
	"waybill_stale":     "The waybill's version is no longer the newest",

	// Rules about amounts, and about keys.
	"idempotency_key_reused": "The idempotency key was used for another request",
	"insufficient_funds":     "There is not enough money",
	"mixed_currencies":       "A checkout is in one currency",
	"more_than_held":         "That is more than is held",
	"nothing_to_refund":      "Nothing is left to refund",
	"over_quantity":          "That is more than was bought",
	"over_refund":            "That is more than was paid",
	"too_many_parcels":       "There are too many parcels",
	"too_many_refunds":       "There are too many refunds",
	"too_many_waybills":      "The waybill was changed too often",
	"wrong_amount":           "The amount is another one",
	"wrong_currency":         "The currency is another one",

	// What passes.
	"busy":              "Too many ask for the same thing",
	"log_unavailable":   "The event log does not answer",
	"not_caught_up":     "The view has not caught up",
	"views_unavailable": "The views do not answer",
	"not_ready":         "The server is not ready",
	"overloaded":        "The server is overloaded",
	"rate_limited":      "Too many requests were sent",
	"shutting_down":     "The server is stopping",
	"stream_parked":     "The view does not follow this any further",
	"timeout":           "There was no answer in time",

	// Our faults.
	"history_corrupt": "The history cannot be read",
	"internal":        "Internal error",
}
