package openapi

import "slices"

// A parameter is described once, wherever it is taken.
type parameter struct {
	text   string
	schema object
}

func text(pattern string, most int) object {
	s := object{"type": "string"}
	if pattern != "" {
		s["pattern"] = pattern
	}
	if most > 0 {
		s["maxLength"] = most
	}
	return s
}

func oneOf(words ...string) object { return object{"type": "string", "enum": words} }

func oneOfDefault(otherwise string, words ...string) object {
	s := oneOf(words...)
	s["default"] = otherwise
	return s
}

var pathParameters = map[string]object{
	"sku":        {"$ref": "#/components/schemas/SKU"},
	"order_id":   {"$ref": "#/components/schemas/OrderID"},
	"buyer_id":   {"$ref": "#/components/schemas/ID"},
	"seller_id":  {"$ref": "#/components/schemas/ID"},
	"account_id": {"$ref": "#/components/schemas/AccountID"},
	"payment_id": {"$ref": "#/components/schemas/ID"},
	"refund":     {"$ref": "#/components/schemas/ID"},
	"channel":    {"$ref": "#/components/schemas/Channel"},
	"trade":      {"type": "string", "minLength": 1, "maxLength": 100},
	"parcel":     {"type": "integer", "minimum": 1},
}

var queryParameters = map[string]parameter{
	"status":     {"Only orders in this status.", oneOf("pending_payment", "paid", "shipped", "completed", "cancelled", "refunded")},
	"fulfilment": {"Only what is paid and not all shipped, oldest first.", oneOf("to_ship")},
	"from":       {"Placed at this time or later: RFC 3339, a date standing for its midnight in UTC.", text("", 0)},
	"to":         {"Placed before this time.", text("", 0)},
	"q":          {"Every word of it in titles, SKUs or the id. Chinese is found without spaces.", text("", 200)},
	"scope":      {"Only what is at hand (`recent`, the quick one), only what was archived long after it was closed (`archive`), or all.", oneOfDefault("all", "recent", "archive", "all")},
	"limit":      {"At most so many items.", object{"type": "integer", "minimum": 1, "maximum": 100, "default": 20}},
	"cursor":     {"`next_cursor` of the page before, of the same query.", text("", 0)},
	"interval":   {"Also sums by interval, in UTC. Intervals without orders are left out.", oneOf("day", "month")},
	"currency":   {"Sums in this currency; otherwise in the one with the most orders.", text("^[A-Z]{3}$", 0)},
	"currency!":  {"Of the seller's account: there is one for each.", text("^[A-Z]{3}$", 0)},
}

var headerParameters = map[string]parameter{
	"Idempotency-Key":  {"Names the command: sent again under the same key it is answered again, not done again.", text("^[!-~]{1,255}$", 0)},
	"If-Match":         {`Do it only at this version: "v17".`, text(`^(\*|"v(0|[1-9][0-9]*)")$`, 0)},
	"If-None-Match":    {"Do it only if there is nothing yet.", oneOf("*")},
	"Cartwright-At":    {"When it happened; only where the server allows backdating.", object{"type": "string", "format": "date-time"}},
	"Cartwright-Token": {"Show at least what the commands that gave these tokens did.", text("", 0)},
	"traceparent":      {"W3C trace context.", text("", 0)},
}

// Slugs that many operations share.
const (
	badKey   = " idempotency_key_missing idempotency_key_invalid"
	badHead  = " if_match_malformed if_none_match_malformed backdating_off at_invalid"
	badBody  = " malformed_body unknown_field duplicate_field wrong_type missing_field invalid_text"
	tooLarge = "413 body_too_large"
	notJSON  = "415 media_type_unsupported"
	reused   = "422 idempotency_key_reused"
	stale    = "412 version_stale"
	behind   = "503 not_caught_up stream_parked views_unavailable"
)

func operations() []operation {
	return slices.Concat(
		catalogOperations(), checkoutOperations(), paymentOperations(), paymentQueries(), parcelOperations(), orderOperations(),
		inventoryOperations(), accountOperations(), statementOperations(), probes())
}

func catalogOperations() []operation {
	return []operation{
		{
			method: "put", path: "/v1/skus/{sku}", id: "publishOffer", tag: "offers", summary: "Publish or change a SKU's offer",
			details: "Without a precondition the offer must be new or say what it says already; to change it takes If-Match. Changed prices do not touch orders that were placed.",
			headers: []string{"If-Match", "If-None-Match", "Cartwright-At", "traceparent"}, body: "Offer",
			status: 201, answer: "OfferChanged", etag: true, token: true,
			slugs: []string{
				"400" + badHead + badBody + " invalid_sku invalid_id invalid_amount unknown_currency wrong_currency wrong_item_count bad_offer",
				"409 seller_fixed", stale, tooLarge, notJSON, "428 if_match_required",
			},
		},
		{
			method: "get", path: "/v1/skus/{sku}", id: "offer", tag: "offers", summary: "A SKU's offer",
			headers: []string{"Cartwright-Token", "traceparent"}, status: 200, answer: "OfferView", etag: true, notModified: true,
			slugs: []string{"400 invalid_sku unknown_parameter token_invalid", "404 unknown_sku", behind},
		},
	}
}

func checkoutOperations() []operation {
	return []operation{
		{
			method: "post", path: "/v1/order-ids", id: "drawOrderID", tag: "checkouts", summary: "Give out an order id",
			details: "A checkout is made under it, within a day. With an Idempotency-Key the same id is answered for ever.",
			headers: []string{"Idempotency-Key", "Cartwright-At", "traceparent"}, body: "Buyer",
			status: 201, answer: "OrderIDDrawn",
			slugs: []string{"400 idempotency_key_invalid" + badHead + badBody + " invalid_id", stale, tooLarge, notJSON, reused},
		},
		{
			method: "post", path: "/v1/checkouts", id: "checkout", tag: "checkouts", summary: "Place orders for a cart",
			details: "One order for each seller; the first has the checkout's id. Prices are the offers'. Stock is held until the payment's deadline.",
			headers: []string{"Idempotency-Key!", "Cartwright-At", "traceparent"}, body: "Checkout",
			status: 201, answer: "CheckoutPlaced", etag: true, token: true,
			slugs: []string{
				"400" + badKey + badHead + badBody + " invalid_id invalid_sku invalid_order_id invalid_quantity invalid_amount unknown_currency wrong_item_count invalid_address wrong_bucket bad_order_id amount_overflow too_many_lines too_many_sellers too_large quantity_overflow",
				"404 unknown_sku",
				"409 out_of_stock price_changed not_on_sale order_exists order_id_expired in_progress conflict attempt_abandoned hold_open hold_closed hold_committed hold_differs buyer_erased",
				stale, tooLarge, notJSON, reused + " wrong_currency mixed_currencies",
			},
		},
		{
			method: "post", path: "/v1/checkouts/{order_id}/pay", id: "pay", tag: "checkouts", summary: "Pay a checkout from the buyer's account",
			headers: []string{"Idempotency-Key!", "If-Match", "Cartwright-At", "traceparent"}, body: "Payment", optional: true,
			status: 200, answer: "CheckoutPaid", etag: true, token: true,
			slugs: []string{
				"400" + badKey + badHead + badBody + " invalid_order_id invalid_amount unknown_currency",
				"404 unknown_order unknown_checkout unknown_account", "409 already_paid not_payable order_cancelled in_progress conflict",
				stale, tooLarge, notJSON, reused + " insufficient_funds wrong_amount wrong_currency",
			},
		},
	}
}

func paymentOperations() []operation {
	onPayment := func(path, id, summary, body string, status int, bad, unknown, conflicts, rules string) operation {
		return operation{
			method: "post", path: "/v1/payments/{payment_id}" + path, id: id, tag: "payments", summary: summary,
			headers: []string{"Idempotency-Key!", "If-Match", "Cartwright-At", "traceparent"}, body: body,
			status: status, answer: "PaymentChanged", etag: true, token: true,
			slugs: []string{
				"400" + badKey + badHead + badBody + " invalid_id" + bad,
				"404 unknown_payment" + unknown, "409 conflict" + conflicts, stale, tooLarge, notJSON, reused + rules,
			},
		}
	}
	returns := onPayment("/returns", "returnTrade", "Give money back that came and was not asked for", "TradeReturn", 201,
		" bad_amount", " unknown_trade", " not_returnable already_returned refund_differs", " wrong_amount too_many_refunds")
	returns.details = "A trade that is a mismatch goes back whole, by the channel it came by."
	redirect := onPayment("/refunds/{refund}/redirect", "redirectRefund", "Send a refund again that its channel refused", "RefundRedirect", 200,
		" unknown_way", " unknown_refund", " refund_requested refund_processing refund_succeeded", " no_account")
	redirect.details = "Once more by the channel, or to the buyer's account, which must be in the payment's currency."
	return []operation{
		{
			method: "post", path: "/v1/checkouts/{order_id}/payments", id: "startPayment", tag: "payments", summary: "Have a payment channel take what is unpaid of a checkout",
			details: "The answer's instruction is what the buyer's client needs to pay, in the channel's own form. Whatever comes of it is told by the channel; money that comes twice, or too late, goes back by itself.",
			headers: []string{"Idempotency-Key!", "Cartwright-At", "traceparent"}, body: "PaymentRequest",
			status: 201, answer: "PaymentStarted", token: true,
			slugs: []string{
				"400" + badKey + badHead + badBody + " invalid_order_id invalid_channel invalid_amount unknown_currency too_many_options",
				"404 unknown_order unknown_checkout unknown_channel", "409 already_paid not_payable conflict", stale, tooLarge, notJSON,
				reused + " wrong_amount nothing_to_pay too_many_payments channel_refused", "503 channel_unavailable",
			},
		},
		{
			method: "post", path: "/v1/channels/{channel}/callback", id: "callback", tag: "payments", summary: "What a payment channel tells",
			details: "In the channel's own form, signed as the channel signs, and answered in the channel's own words. It is told that all is well once what it said is on record, and not before; what it says again changes nothing.",
			headers: []string{"traceparent"}, body: "Foreign", status: 200, answer: "Foreign", foreign: true,
			slugs: []string{"404 unknown_channel", tooLarge},
		},
		{
			method: "post", path: "/v1/channels/{channel}/trades/{trade}/resolve", id: "resolveTrade", tag: "payments",
			summary: "Say that money which nobody asked for was given back at its channel",
			details: "It leaves the ledger by this. Money that a refund can give back goes by returnTrade.",
			headers: []string{"Idempotency-Key!", "Cartwright-At", "traceparent"}, body: "TradeResolution", status: 200, answer: "TradeResolved", token: true,
			slugs: []string{
				"400" + badKey + badHead + badBody + " invalid_channel", "404 unknown_trade", "409 already_returned conflict", stale, tooLarge, notJSON, reused,
			},
		},
		returns, redirect,
	}
}

func paymentQueries() []operation {
	return []operation{
		{
			method: "get", path: "/v1/payments/{payment_id}", id: "payment", tag: "payments", summary: "A payment by a channel",
			details: "Its status says what came and what has gone back. How to pay is told while that can be done.",
			headers: []string{"Cartwright-Token", "traceparent"}, status: 200, answer: "PaymentView", etag: true, notModified: true,
			slugs: []string{"400 invalid_id unknown_parameter token_invalid", "404 unknown_payment", behind},
		},
		{
			method: "get", path: "/v1/checkouts/{order_id}/payments", id: "checkoutPayments", tag: "payments", summary: "All payments of a checkout, oldest first",
			details: "Of a checkout that has none, or that there is not, the list is empty.",
			headers: []string{"Cartwright-Token", "traceparent"}, status: 200, answer: "PaymentList",
			slugs: []string{"400 invalid_order_id unknown_parameter token_invalid", behind},
		},
	}
}

// onOrder is a command on an order.
func onOrder(method, path, id, summary, body string, optional bool, status int, conflicts, rules string) operation {
	op := operation{
		method: method, path: "/v1/orders/{order_id}" + path, id: id, tag: "orders", summary: summary,
		headers: []string{"If-Match", "Cartwright-At", "traceparent"}, body: body, optional: optional,
		status: status, answer: "OrderChanged", etag: true, token: true,
	}
	bad := "400" + badHead + badBody + " invalid_order_id invalid_id invalid_quantity"
	if method == "post" {
		op.headers = append([]string{"Idempotency-Key!"}, op.headers...)
		bad += badKey
		rules = reused + rules
	}
	op.slugs = []string{bad, "404 unknown_order", "409 conflict" + conflicts, stale, tooLarge, notJSON}
	if rules != "" {
		op.slugs = append(op.slugs, rules)
	}
	return op
}

func parcelOperations() []operation {
	pack := onOrder("post", "/parcels", "pack", "Pack lines into a parcel; with a waybill it ships", "Parcel", false, 201,
		" not_paid already_shipped already_completed order_cancelled order_refunded nothing_to_ship too_much_to_ship already_packed line_packed", " too_many_parcels")
	pack.slugs[0] += " wrong_item_count empty_parcel line_twice invalid_waybill"
	pack.slugs[1] += " unknown_line"
	unpack := onOrder("post", "/parcels/{parcel}/unpack", "unpack", "Take a parcel apart that has not shipped", "Nothing", true, 200,
		" parcel_shipped parcel_delivered parcel_unpacked already_shipped already_completed order_refunded", "")
	unpack.slugs[1] += " unknown_parcel"
	waybill := onOrder("put", "/parcels/{parcel}/waybill", "setWaybill", "Set a parcel's waybill; the first one ships it", "Waybill", false, 200,
		" parcel_delivered parcel_unpacked already_completed order_refunded", "422 too_many_waybills")
	waybill.details = "The version is the waybill's own: If-None-Match: * for the first, If-Match for another. ETag is the new one."
	waybill.headers = []string{"If-Match", "If-None-Match", "Cartwright-At", "traceparent"}
	waybill.slugs[0] += " invalid_waybill"
	waybill.slugs[1] += " unknown_parcel"
	waybill.slugs[3] = "412 waybill_stale"
	waybill.slugs = append(waybill.slugs, "428 if_match_required")
	deliver := onOrder("post", "/parcels/{parcel}/delivered", "deliver", "Record that a parcel arrived", "Nothing", true, 200,
		" parcel_not_shipped parcel_unpacked", "")
	deliver.slugs[1] += " unknown_parcel"
	return []operation{pack, unpack, waybill, deliver}
}

func orderOperations() []operation {
	address := onOrder("put", "/address", "changeAddress", "Send an order elsewhere, until something is packed", "Address", false, 200,
		" already_packed already_shipped already_completed order_cancelled order_refunded buyer_erased", "")
	address.slugs[0] += " invalid_address"
	complete := onOrder("post", "/complete", "complete", "The buyer's word that all is well", "Completion", true, 200,
		" not_paid not_shipped order_cancelled order_refunded", "")
	cancel := onOrder("post", "/cancel", "cancel", "Give an order up; one that is paid is refunded", "Cancellation", false, 200,
		" too_late_to_cancel already_shipped already_completed order_refunded", "")
	cancel.slugs[0] += " invalid_reason"
	refund := onOrder("post", "/refunds", "refund", "Give back lines, by quantity, by amount or both, or their freight", "Refund", true, 201,
		" not_paid order_cancelled order_refunded", " nothing_to_refund over_refund over_quantity too_many_refunds wrong_currency")
	refund.details = "Without lines it gives back all that is left. The money goes back as it came, by the channel or to the balance; once the seller has been settled with, it is the seller's."
	refund.slugs[0] += " invalid_amount unknown_currency wrong_item_count line_twice empty_refund_line freight_alone"
	refund.slugs[1] += " unknown_line"
	filters := []string{"status", "fulfilment", "from", "to", "q", "scope", "limit", "cursor"}
	list := func(path, id, summary string) operation {
		return operation{
			method: "get", path: path, id: id, tag: "orders", summary: summary, query: filters,
			details: "Newest first by when they were placed, or oldest first with fulfilment=to_ship.",
			headers: []string{"Cartwright-Token", "traceparent"}, status: 200, answer: "OrderList",
			slugs: []string{"400 invalid_id invalid_parameter unknown_parameter cursor_invalid token_invalid", behind},
		}
	}
	return []operation{
		address, complete, cancel, refund,
		{
			method: "get", path: "/v1/orders/{order_id}", id: "order", tag: "orders", summary: "One order, with where it goes",
			headers: []string{"Cartwright-Token", "traceparent"}, status: 200, answer: "FullOrder", etag: true, notModified: true,
			slugs: []string{"400 invalid_order_id unknown_parameter token_invalid", "404 unknown_order", "500 history_corrupt internal", "503 not_caught_up"},
		},
		list("/v1/buyers/{buyer_id}/orders", "buyersOrders", "A buyer's orders"),
		list("/v1/sellers/{seller_id}/orders", "sellersOrders", "A seller's orders"),
		{
			method: "get", path: "/v1/sellers/{seller_id}/summary", id: "summary", tag: "orders", summary: "What a seller sold",
			details: "Gross is goods and freight of all placed orders, ended ones too. An unknown seller has zeros.",
			query:   []string{"from", "to", "interval", "currency"}, headers: []string{"Cartwright-Token", "traceparent"},
			status: 200, answer: "Summary",
			slugs: []string{"400 invalid_id invalid_parameter unknown_parameter token_invalid", behind},
		},
	}
}

func inventoryOperations() []operation {
	change := func(path, id, summary, body, match, bad string, rest ...string) operation {
		return operation{
			method: "post", path: "/v1/inventory/{sku}" + path, id: id, tag: "inventory", summary: summary,
			headers: []string{"Idempotency-Key!", match, "Cartwright-At", "traceparent"}, body: body,
			status: 201, answer: "StockChanged", etag: true, token: true,
			slugs: append([]string{
				"400" + badKey + badHead + badBody + " invalid_sku invalid_quantity quantity_overflow" + bad,
				"409 conflict key_used would_oversell not_on_hand not_unavailable", stale, tooLarge, notJSON, reused,
			}, rest...),
		}
	}
	policy := change("/policy", "setStockPolicy", "Keep some back, or sell more than there is", "StockPolicy", "If-Match", "")
	policy.method, policy.status, policy.headers = "put", 200, policy.headers[1:]
	policy.slugs = []string{"400" + badHead + badBody + " invalid_sku invalid_quantity quantity_overflow", "409 conflict would_oversell", stale, tooLarge, notJSON}
	count := change("/counts", "count", "A stocktake: set what is on the shelf", "Count", "If-Match!", " no_reason", "428 if_match_required")
	count.slugs[1] += " stock_is_split"
	shards := change("/shards", "divideStock", "Divide a SKU that several processes sell into shards", "Shards", "If-Match", "")
	shards.status = 200
	shards.details = "Callers see one stock as before, but for a count, which is refused. The number of shards only grows; asked for again it changes nothing."
	shards.slugs = []string{"400" + badKey + badHead + badBody + " invalid_sku invalid_quantity", "409 conflict shards_only_grow", stale, tooLarge, notJSON, reused}
	return []operation{
		change("/receipts", "receive", "Put goods on the shelf", "Receipt", "If-Match", ""),
		change("/adjustments", "adjust", "Correct what is on the shelf, or how much of it can be sold", "Adjustment", "If-Match", " no_reason"),
		count,
		policy,
		shards,
		{
			method: "get", path: "/v1/inventory/{sku}", id: "stock", tag: "inventory", summary: "What there is of a SKU",
			headers: []string{"Cartwright-Token", "traceparent"}, status: 200, answer: "Stock", etag: true, notModified: true,
			slugs: []string{"400 invalid_sku unknown_parameter token_invalid", "404 unknown_sku", behind},
		},
	}
}

func accountOperations() []operation {
	move := func(path, id, summary, rules string) operation {
		return operation{
			method: "post", path: "/v1/accounts/{account_id}" + path, id: id, tag: "accounts", summary: summary,
			headers: []string{"Idempotency-Key!", "If-Match", "Cartwright-At", "traceparent"}, body: "Transfer",
			status: 201, answer: "AccountChanged", etag: true, token: true,
			slugs: []string{
				"400" + badKey + badHead + badBody + " invalid_id invalid_amount unknown_currency reserved_account amount_overflow",
				"404 unknown_account", "409 conflict journal_differs", stale, tooLarge, notJSON, reused + " wrong_currency" + rules,
			},
		}
	}
	return []operation{
		{
			method: "post", path: "/v1/accounts", id: "openAccount", tag: "accounts", summary: "Open an owner's account",
			details: "In one currency. One that is open in it already stays as it is.",
			headers: []string{"Idempotency-Key", "If-Match", "Cartwright-At", "traceparent"}, body: "NewAccount",
			status: 201, answer: "AccountChanged", etag: true, token: true,
			slugs: []string{
				"400 idempotency_key_invalid" + badHead + badBody + " invalid_id unknown_currency reserved_account",
				"409 account_exists conflict", stale, tooLarge, notJSON, reused,
			},
		},
		move("/deposits", "deposit", "Bring money in from outside", ""),
		move("/withdrawals", "withdraw", "Take money out", " insufficient_funds"),
		{
			method: "get", path: "/v1/accounts/{account_id}", id: "account", tag: "accounts", summary: "An account",
			headers: []string{"Cartwright-Token", "traceparent"}, status: 200, answer: "Account", etag: true, notModified: true,
			slugs: []string{"400 invalid_id unknown_currency unknown_parameter token_invalid", "404 unknown_account", behind},
		},
		{
			method: "get", path: "/v1/accounts/{account_id}/entries", id: "entries", tag: "accounts", summary: "An account's statement, newest entry first",
			query: []string{"limit", "cursor"}, headers: []string{"Cartwright-Token", "traceparent"}, status: 200, answer: "EntryList",
			slugs: []string{"400 invalid_id unknown_currency invalid_parameter unknown_parameter cursor_invalid token_invalid", "404 unknown_account", behind},
		},
	}
}

const wholeFile = " A file that is cut off, its connection broken, is not all of it. Texts that a spreadsheet would take for formulas begin with an apostrophe. Amounts are there as minor units and with the currency's digits."

func statementOperations() []operation {
	statement := operation{
		method: "get", path: "/v1/accounts/{account_id}/statement.csv", id: "statementFile", tag: "accounts", summary: "An account's whole statement as a file, newest entry first",
		details: "Columns: entry, at, kind, amount_minor, amount, balance_minor, balance, currency, journal, counterparty, reference." + wholeFile,
		headers: []string{"Cartwright-Token", "traceparent"}, status: 200, answer: "CSV", media: "text/csv",
		slugs: []string{"400 invalid_id unknown_currency unknown_parameter token_invalid", "404 unknown_account", behind},
	}
	list := operation{
		method: "get", path: "/v1/sellers/{seller_id}/settlements", id: "settlements", tag: "accounts", summary: "What a seller has earned, newest first",
		details: "The seller's account in one currency, by orders: what each came to less the commission, and what went back of it afterwards. A seller who has earned nothing has an empty one.",
		query:   []string{"currency!", "limit", "cursor"}, headers: []string{"Cartwright-Token", "traceparent"}, status: 200, answer: "SettlementList",
		slugs: []string{"400 invalid_id invalid_parameter unknown_parameter cursor_invalid token_invalid", behind},
	}
	file := operation{
		method: "get", path: "/v1/sellers/{seller_id}/settlements.csv", id: "settlementsFile", tag: "accounts", summary: "All that a seller has earned as a file, newest first",
		details: "Columns: entry, at, kind, order_id, amount_minor, amount, balance_minor, balance, currency, journal." + wholeFile,
		query:   []string{"currency!"}, headers: []string{"Cartwright-Token", "traceparent"}, status: 200, answer: "CSV", media: "text/csv",
		slugs: []string{"400 invalid_id invalid_parameter unknown_parameter token_invalid", behind},
	}
	return []operation{statement, list, file}
}

func probes() []operation {
	return []operation{
		{method: "get", path: "/healthz", id: "healthz", tag: "probes", summary: "This process runs", status: 200, answer: "Health"},
		{
			method: "get", path: "/readyz", id: "readyz", tag: "probes", summary: "This process has all it needs", status: 200, answer: "Readiness",
			slugs: []string{"503 not_ready"},
		},
		{method: "get", path: "/v1/openapi.json", id: "openapi", tag: "probes", summary: "This document", status: 200, answer: "AnyObject"},
	}
}
