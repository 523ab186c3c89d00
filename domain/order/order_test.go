package order_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"cartwright/domain"
	"cartwright/domain/domaintest"
	"cartwright/domain/order"
)

const (
	buyer  = "1000042"
	first  = "0599616000000000042"
	second = "0599616000001000042"
	third  = "0599616000002000042"
)

var (
	deadline = time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)

	// Line 1 costs 330, line 2 costs 100, together 430.
	lines = []order.Line{
		{Line: 1, SKU: "tea", Title: "龙井茶", Offer: "d1", Quantity: 3, UnitPrice: 100, Freight: 10},
		{Line: 2, SKU: "cup", Title: "Cup", Offer: "d2", Quantity: 2, UnitPrice: 50},
	}
	place = order.Place{
		Order: first, Checkout: first, Buyer: buyer, Seller: "s1", Currency: "BRL", Lines: lines,
		Address: []byte("sealed"), Attempt: "a1", Deadline: deadline,
	}
	placed = order.Placed{
		Order: first, Checkout: first, Buyer: buyer, Seller: "s1", Currency: "BRL", Lines: lines,
		Address: []byte("sealed"), Attempt: "a1", Deadline: deadline,
	}
	paid      = order.Paid{Amount: 430, Method: "balance"}
	timedOut  = order.Cancellation{Reason: order.Timeout, By: "deadlines"}
	cancelled = order.Cancelled{Cancellation: timedOut}
	changed   = order.Cancellation{Reason: order.ByBuyer, By: buyer, Note: "changed my mind"}

	// The whole order, line by line, as a refund before anything shipped.
	whole = []order.RefundLine{{Line: 1, Unshipped: 3, Amount: 330, Freight: 30}, {Line: 2, Unshipped: 2, Amount: 100}}
)

// A row is one sentence: after this past, that command does so, or is refused.
type row struct {
	says   string
	past   []order.Event
	when   order.Command
	then   []order.Event
	code   domain.Code
	reason string
}

func run(t *testing.T, rows []row) {
	t.Helper()
	for _, r := range rows {
		t.Run(r.says, func(t *testing.T) {
			s := domaintest.Given(t, order.Decider, r.past...).When(r.when)
			if r.reason != "" {
				s.ThenRefused(r.code, r.reason)
				return
			}
			s.Then(r.then...)
		})
	}
}

func past(es ...order.Event) []order.Event { return es }

// then is the past with something more.
func then(before []order.Event, es ...order.Event) []order.Event { return slices.Concat(before, es) }

func packed(parcel int, parts ...order.Part) order.ParcelPacked {
	return order.ParcelPacked{Parcel: parcel, Lines: parts}
}

func waybill(parcel, version int, number string) order.WaybillSet {
	return order.WaybillSet{Parcel: parcel, Version: version, Carrier: "SF", Number: number}
}

// sent is a parcel packed and shipped.
func sent(parcel int, parts ...order.Part) []order.Event {
	return past(packed(parcel, parts...), waybill(parcel, 1, fmt.Sprint("N", parcel)), order.ParcelShipped{Parcel: parcel})
}

var (
	isPlaced    = past(placed)
	isPaid      = past(placed, paid)
	isPacked    = then(isPaid, packed(1, order.Part{Line: 1, Quantity: 2}))
	isPartly    = then(isPaid, sent(1, order.Part{Line: 1, Quantity: 2})...)
	isShipped   = then(then(isPaid, sent(1, order.Part{Line: 1, Quantity: 3}, order.Part{Line: 2, Quantity: 2})...), order.Shipped{})
	isCompleted = then(isShipped, order.ParcelDelivered{Parcel: 1}, order.Completed{By: buyer})
	isSettled   = then(isCompleted, order.Settled{Gross: 430, Commission: 43})
	isCancelled = past(placed, cancelled)
	isGivenUp   = then(isPaid, order.RefundIssued{Refund: 1, Lines: whole, Amount: 430, Reason: "buyer", By: buyer, Cancellation: &changed}, order.Refunded{})
	isRefunded  = then(isPaid, order.RefundIssued{Refund: 1, Lines: whole, Amount: 430, By: "s1"}, order.Refunded{})
)

func edit(f func(*order.Place)) order.Place {
	c := place
	c.Lines = slices.Clone(place.Lines)
	f(&c)
	return c
}

func TestPlacing(t *testing.T) {
	shanghai := time.FixedZone("", 8*3600)
	siblings := []order.Sibling{
		{Order: second, Seller: "s2", Lines: []order.Line{{Line: 1, SKU: "pot", Quantity: 1, UnitPrice: 7}}},
		{Order: third, Seller: "s3", Lines: []order.Line{{Line: 1, SKU: "pan", Quantity: 1, UnitPrice: 7}}},
	}
	withSiblings := placed
	withSiblings.Siblings = siblings
	imported := placed
	imported.Deadline, imported.Address = time.Time{}, nil
	run(t, []row{
		{says: "an order is placed", when: place, then: past(placed)},
		{says: "a deadline is in UTC", when: edit(func(c *order.Place) { c.Deadline = deadline.In(shanghai) }), then: past(placed)},
		{says: "an imported order has no deadline, and may have no address", when: edit(func(c *order.Place) {
			c.Deadline, c.Address = time.Time{}, nil
		}), then: past(imported)},
		{says: "the same attempt twice is once", past: isPlaced, when: place},
		{says: "also when it is paid meanwhile", past: isPaid, when: place},
		{says: "another attempt comes too late", past: isPlaced, when: edit(func(c *order.Place) { c.Attempt = "a2" }), code: domain.Conflict, reason: "order_exists"},
		{says: "also on a cancelled order", past: isCancelled, when: edit(func(c *order.Place) { c.Attempt = "a2" }), code: domain.Conflict, reason: "order_exists"},
		{says: "an abandoned attempt can't place", past: past(order.Abandoned{Attempt: "a0"}, order.Abandoned{Attempt: "a1"}), when: place, code: domain.Conflict, reason: "attempt_abandoned"},
		{says: "the one after it can", past: past(order.Abandoned{Attempt: "a0"}), when: place, then: past(placed)},
		{says: "the first order records its siblings", when: edit(func(c *order.Place) { c.Siblings = siblings }), then: past(withSiblings)},
	})
}

func TestPlacingIsRefused(t *testing.T) {
	long := strings.Repeat
	free := func(n int) []order.Line {
		ls := make([]order.Line, n)
		for i := range ls {
			ls[i] = order.Line{Line: i + 1, SKU: "free", Quantity: 1}
		}
		return ls
	}
	other := func(id, seller string) order.Sibling {
		return order.Sibling{Order: id, Seller: seller, Lines: free(1)}
	}
	many := func(n int) []order.Sibling {
		ss := make([]order.Sibling, n)
		for i := range ss {
			ss[i] = other(fmt.Sprintf("0599616%05d1000042", i), fmt.Sprint("m", i))
		}
		return ss
	}
	for _, c := range []struct {
		says   string
		edit   func(*order.Place)
		reason string // none: it is accepted
	}{
		{"no order id", func(c *order.Place) { c.Order = "17" }, "invalid_order_id"},
		{"another buyer's order id", func(c *order.Place) { c.Order = "0599616000000000043" }, "wrong_bucket"},
		{"no checkout id", func(c *order.Place) { c.Checkout = "17" }, "invalid_order_id"},
		{"another buyer's checkout", func(c *order.Place) { c.Checkout = "0599616000000000043" }, "wrong_bucket"},
		{"no buyer", func(c *order.Place) { c.Buyer = "" }, "invalid_id"},
		{"no seller", func(c *order.Place) { c.Seller = "a b" }, "invalid_id"},
		{"no currency", func(c *order.Place) { c.Currency = "brl" }, "unknown_currency"},
		{"no attempt", func(c *order.Place) { c.Attempt = "" }, "missing_attempt"},
		{"an attempt of 128 characters", func(c *order.Place) { c.Attempt = long("a", 128) }, ""},
		{"an attempt of 129 characters", func(c *order.Place) { c.Attempt = long("a", 129) }, "invalid_text"},
		{"an address of 4096 bytes", func(c *order.Place) { c.Address = make([]byte, 4096) }, ""},
		{"an address of 4097 bytes", func(c *order.Place) { c.Address = make([]byte, 4097) }, "address_too_long"},
		{"no lines", func(c *order.Place) { c.Lines = nil }, "empty_order"},
		{"200 lines", func(c *order.Place) { c.Lines = free(200) }, ""},
		{"201 lines", func(c *order.Place) { c.Lines = free(201) }, "too_many_lines"},
		{"lines from 0", func(c *order.Place) { c.Lines[0].Line = 0 }, "invalid_line"},
		{"a line twice", func(c *order.Place) { c.Lines[1].Line = 1 }, "invalid_line"},
		{"a line of none", func(c *order.Place) { c.Lines[1].Quantity = 0 }, "invalid_quantity"},
		{"a line of less", func(c *order.Place) { c.Lines[1].Quantity = -1 }, "invalid_quantity"},
		{"a line of one", func(c *order.Place) { c.Lines[1].Quantity = 1 }, ""},
		{"a free line", func(c *order.Place) { c.Lines[0].UnitPrice, c.Lines[0].Freight = 0, 0 }, ""},
		{"a negative price", func(c *order.Place) { c.Lines[0].UnitPrice = -1 }, "invalid_price"},
		{"a negative freight", func(c *order.Place) { c.Lines[0].Freight = -1 }, "invalid_price"},
		{"no SKU", func(c *order.Place) { c.Lines[1].SKU = "" }, "invalid_sku"},
		{"a title of 500 characters", func(c *order.Place) { c.Lines[1].Title = long("茶", 500) }, ""},
		{"a title of 501 characters", func(c *order.Place) { c.Lines[1].Title = long("茶", 501) }, "invalid_text"},
		{"a digest of 64 characters", func(c *order.Place) { c.Lines[1].Offer = long("f", 64) }, ""},
		{"a digest of 65 characters", func(c *order.Place) { c.Lines[1].Offer = long("f", 65) }, "invalid_text"},
		{"a unit that can't be counted", func(c *order.Place) { c.Lines[1].UnitPrice, c.Lines[1].Freight = math.MaxInt64, 1 }, "amount_overflow"},
		{"a line that can't be counted", func(c *order.Place) { c.Lines[1].UnitPrice = math.MaxInt64/2 + 1 }, "amount_overflow"},
		{"a sum that can't be counted", func(c *order.Place) { c.Lines[1].UnitPrice = math.MaxInt64 / 2 }, "amount_overflow"},
		{"units that can't be counted", func(c *order.Place) {
			c.Lines = free(2)
			c.Lines[0].Quantity = math.MaxInt64
		}, "amount_overflow"},
		{"the largest order", func(c *order.Place) { c.Lines = free(1); c.Lines[0].UnitPrice = math.MaxInt64 }, ""},
		{"siblings of an order that is not the first", func(c *order.Place) {
			c.Order, c.Siblings = second, []order.Sibling{other(third, "s3")}
		}, "misplaced_siblings"},
		{"a later order without siblings", func(c *order.Place) { c.Order = second }, ""},
		{"50 siblings", func(c *order.Place) { c.Siblings = many(50) }, ""},
		{"51 siblings", func(c *order.Place) { c.Siblings = many(51) }, "too_many_sellers"},
		{"itself as a sibling", func(c *order.Place) { c.Siblings = []order.Sibling{other(first, "s2")} }, "duplicate_sibling"},
		{"its seller's sibling", func(c *order.Place) { c.Siblings = []order.Sibling{other(second, "s1")} }, "duplicate_sibling"},
		{"two siblings of one id", func(c *order.Place) {
			c.Siblings = []order.Sibling{other(second, "s2"), other(second, "s3")}
		}, "duplicate_sibling"},
		{"two siblings of one seller", func(c *order.Place) {
			c.Siblings = []order.Sibling{other(second, "s2"), other(third, "s2")}
		}, "duplicate_sibling"},
		{"another buyer's sibling", func(c *order.Place) {
			c.Siblings = []order.Sibling{other("0599616000001000043", "s2")}
		}, "wrong_bucket"},
		{"a sibling without a seller", func(c *order.Place) { c.Siblings = []order.Sibling{other(second, "")} }, "invalid_id"},
		{"a sibling without lines", func(c *order.Place) {
			c.Siblings = []order.Sibling{{Order: second, Seller: "s2"}}
		}, "empty_order"},
		{"siblings that sum to what can't be paid", func(c *order.Place) {
			c.Siblings = []order.Sibling{other(second, "s2")}
			c.Siblings[0].Lines[0].UnitPrice = math.MaxInt64 - 429
		}, "amount_overflow"},
		{"siblings that sum to what can just be paid", func(c *order.Place) {
			c.Siblings = []order.Sibling{other(second, "s2")}
			c.Siblings[0].Lines[0].UnitPrice = math.MaxInt64 - 430
		}, ""},
	} {
		t.Run(c.says, func(t *testing.T) {
			s := domaintest.Given(t, order.Decider).When(edit(c.edit))
			if c.reason != "" {
				s.ThenRefused(domain.Invalid, c.reason)
				return
			}
			p := edit(c.edit)
			s.Then(order.Placed{
				Order: p.Order, Checkout: p.Checkout, Buyer: p.Buyer, Seller: p.Seller, Currency: p.Currency,
				Lines: p.Lines, Address: p.Address, Attempt: p.Attempt, Deadline: p.Deadline, Siblings: p.Siblings,
			})
		})
	}
}

func TestAbandoning(t *testing.T) {
	gone := order.Abandoned{Attempt: "a0"}
	run(t, []row{
		{says: "an attempt that placed nothing is fenced", when: order.Abandon{Attempt: "a0"}, then: past(gone)},
		{says: "another is fenced beside it", past: past(gone), when: order.Abandon{Attempt: "a1"}, then: past(order.Abandoned{Attempt: "a1"})},
		{says: "the same twice is once", past: past(gone), when: order.Abandon{Attempt: "a0"}},
		{says: "the attempt that placed the order keeps its holds", past: isPlaced, when: order.Abandon{Attempt: "a1"}, code: domain.Conflict, reason: "order_stands"},
		{says: "also when the order has ended", past: isCancelled, when: order.Abandon{Attempt: "a1"}, code: domain.Conflict, reason: "order_stands"},
		{says: "an order fences every attempt but its own", past: isPlaced, when: order.Abandon{Attempt: "a0"}},
		{says: "an attempt has a name", when: order.Abandon{}, code: domain.Invalid, reason: "missing_attempt"},
	})
}

func TestPaying(t *testing.T) {
	pay := order.Pay{Amount: 430, Currency: "BRL", Method: "balance"}
	with := func(f func(*order.Pay)) order.Pay { c := pay; f(&c); return c }
	through := order.Pay{Amount: 430, Currency: "BRL", Method: "wechat", Payment: "p1"}
	came := order.Paid{Amount: 430, Method: "wechat", Payment: "p1"}
	long := strings.Repeat("p", 65)
	run(t, []row{
		{says: "an order is paid in full", past: isPlaced, when: pay, then: past(paid)},
		{says: "not with less", past: isPlaced, when: with(func(c *order.Pay) { c.Amount-- }), code: domain.Rejected, reason: "wrong_amount"},
		{says: "not with more", past: isPlaced, when: with(func(c *order.Pay) { c.Amount++ }), code: domain.Rejected, reason: "wrong_amount"},
		{says: "not in another currency", past: isPlaced, when: with(func(c *order.Pay) { c.Currency = "CNY" }), code: domain.Rejected, reason: "wrong_currency"},
		{says: "a method of 64 characters", past: isPlaced, when: with(func(c *order.Pay) { c.Method = strings.Repeat("m", 64) }), then: past(order.Paid{Amount: 430, Method: strings.Repeat("m", 64)})},
		{says: "a method of 65 characters", past: isPlaced, when: with(func(c *order.Pay) { c.Method = strings.Repeat("m", 65) }), code: domain.Invalid, reason: "invalid_text"},
		{says: "twice is once", past: isPaid, when: pay},
		{says: "also when it has shipped", past: isShipped, when: pay},
		{says: "also when it is completed", past: isCompleted, when: pay},
		{says: "also when it is refunded", past: isRefunded, when: pay},
		{says: "another amount is another payment", past: isPaid, when: with(func(c *order.Pay) { c.Amount++ }), code: domain.Conflict, reason: "already_paid"},
		{says: "another currency is another payment", past: isPaid, when: with(func(c *order.Pay) { c.Currency = "CNY" }), code: domain.Conflict, reason: "already_paid"},
		{says: "another method is another payment", past: isPaid, when: with(func(c *order.Pay) { c.Method = "card" }), code: domain.Conflict, reason: "already_paid"},
		{says: "an order is paid through a channel", past: isPlaced, when: through, then: past(came)},
		{says: "twice through a channel is once", past: past(placed, came), when: through},
		{says: "another payment of that channel is another payment", past: past(placed, came), when: order.Pay{Amount: 430, Currency: "BRL", Method: "wechat", Payment: "p2"}, code: domain.Conflict, reason: "already_paid"},
		{says: "so is the channel without one", past: past(placed, came), when: order.Pay{Amount: 430, Currency: "BRL", Method: "wechat"}, code: domain.Conflict, reason: "already_paid"},
		{says: "a payment of 64 characters", past: isPlaced, when: with(func(c *order.Pay) { c.Payment = long[:64] }), then: past(order.Paid{Amount: 430, Method: "balance", Payment: long[:64]})},
		{says: "a payment of 65 characters", past: isPlaced, when: with(func(c *order.Pay) { c.Payment = long }), code: domain.Invalid, reason: "invalid_text"},
		{says: "a cancelled order is not paid", past: isCancelled, when: pay, code: domain.Conflict, reason: "order_cancelled"},
	})
}

// Outcomes are recorded after their decision, once.
func TestRecordingOutcomes(t *testing.T) {
	settled := then(isGivenUp, order.RefundSettled{Refund: 1})
	run(t, []row{
		{says: "stock is committed after payment", past: isPaid, when: order.RecordStockCommitted{}, then: past(order.StockCommitted{})},
		{says: "not before", past: isPlaced, when: order.RecordStockCommitted{}, code: domain.Conflict, reason: "not_paid"},
		{says: "once", past: then(isPaid, order.StockCommitted{}), when: order.RecordStockCommitted{}},
		{says: "also when the order was given up meanwhile", past: isGivenUp, when: order.RecordStockCommitted{}, then: past(order.StockCommitted{})},
		{says: "money is captured after payment", past: isCompleted, when: order.RecordPaymentCaptured{}, then: past(order.PaymentCaptured{})},
		{says: "not of a cancelled order", past: isCancelled, when: order.RecordPaymentCaptured{}, code: domain.Conflict, reason: "order_cancelled"},
		{says: "money is captured once", past: then(isPaid, order.PaymentCaptured{}), when: order.RecordPaymentCaptured{}},
		{says: "stock is released after a cancel", past: isCancelled, when: order.RecordStockReleased{}, then: past(order.StockReleased{})},
		{says: "stock is released once", past: then(isCancelled, order.StockReleased{}), when: order.RecordStockReleased{}},
		{says: "not of a pending order", past: isPlaced, when: order.RecordStockReleased{}, code: domain.Conflict, reason: "not_cancelled"},
		{says: "not of a refunded order", past: isGivenUp, when: order.RecordStockReleased{}, code: domain.Conflict, reason: "not_cancelled"},
		{says: "a parcel leaves the stock after it shipped", past: isPartly, when: order.RecordStockShipped{Parcel: 1}, then: past(order.StockShipped{Parcel: 1})},
		{says: "also when it is delivered", past: isCompleted, when: order.RecordStockShipped{Parcel: 1}, then: past(order.StockShipped{Parcel: 1})},
		{says: "a parcel leaves the stock once", past: then(isPartly, order.StockShipped{Parcel: 1}), when: order.RecordStockShipped{Parcel: 1}},
		{says: "not one that is only packed", past: isPacked, when: order.RecordStockShipped{Parcel: 1}, code: domain.Conflict, reason: "parcel_not_shipped"},
		{says: "not one there is not", past: isPartly, when: order.RecordStockShipped{Parcel: 2}, code: domain.NotFound, reason: "unknown_parcel"},
		{says: "not parcel 0", past: isPartly, when: order.RecordStockShipped{}, code: domain.NotFound, reason: "unknown_parcel"},
		{says: "a refund is settled", past: isGivenUp, when: order.RecordRefundSettled{Refund: 1}, then: past(order.RefundSettled{Refund: 1})},
		{says: "a refund is settled once", past: settled, when: order.RecordRefundSettled{Refund: 1}},
		{says: "not one there is not", past: isGivenUp, when: order.RecordRefundSettled{Refund: 2}, code: domain.NotFound, reason: "unknown_refund"},
		{says: "not refund 0", past: isGivenUp, when: order.RecordRefundSettled{}, code: domain.NotFound, reason: "unknown_refund"},
	})
}

func TestCancelling(t *testing.T) {
	byBuyer := order.Cancel{Cancellation: changed}
	all := order.RefundIssued{Refund: 1, Lines: whole, Amount: 430, Reason: "buyer", By: buyer, Cancellation: &changed}
	partly := order.RefundIssued{Refund: 1, Lines: []order.RefundLine{{Line: 1, Unshipped: 1, Amount: 50}, {Line: 2, Unshipped: 2, Amount: 100}}, Amount: 150, By: "s1"}
	rest := order.RefundIssued{Refund: 2, Lines: []order.RefundLine{{Line: 1, Unshipped: 2, Amount: 280, Freight: 30}}, Amount: 280, Reason: "buyer", By: buyer, Cancellation: &changed}
	free := placed
	free.Lines = []order.Line{{Line: 1, SKU: "gift", Quantity: 1}}
	nothing := order.RefundIssued{Refund: 1, Lines: []order.RefundLine{{Line: 1, Unshipped: 1}}, Reason: "buyer", By: buyer, Cancellation: &changed}
	two := then(isPacked, packed(2, order.Part{Line: 2, Quantity: 1}), order.ParcelUnpacked{Parcel: 1}, packed(3, order.Part{Line: 1, Quantity: 3}))
	run(t, []row{
		{says: "an unpaid order is cancelled", past: isPlaced, when: byBuyer, then: past(order.Cancelled{Cancellation: changed})},
		{says: "also by time", past: isPlaced, when: order.Cancel{Cancellation: timedOut}, then: past(cancelled)},
		{says: "a second cancel changes nothing", past: isCancelled, when: byBuyer},
		{says: "a paid order is refunded in full", past: isPaid, when: byBuyer, then: past(all, order.Refunded{})},
		{says: "what is left of it", past: then(isPaid, partly), when: byBuyer, then: past(rest, order.Refunded{})},
		{says: "its packed parcels are taken apart", past: two, when: byBuyer, then: past(order.ParcelUnpacked{Parcel: 2}, order.ParcelUnpacked{Parcel: 3}, all, order.Refunded{})},
		{says: "an order that cost nothing gives back its units", past: past(free, order.Paid{}), when: byBuyer, then: past(nothing, order.Refunded{})},
		{says: "a second cancel of it changes nothing", past: isGivenUp, when: byBuyer},
		{says: "not even by time", past: isGivenUp, when: order.Cancel{Cancellation: timedOut}},
		{says: "a paid order is not timed out", past: isPaid, when: order.Cancel{Cancellation: timedOut}, code: domain.Conflict, reason: "already_paid"},
		{says: "too late when something has shipped", past: isPartly, when: byBuyer, code: domain.Conflict, reason: "too_late_to_cancel"},
		{says: "too late when all has shipped", past: isShipped, when: byBuyer, code: domain.Conflict, reason: "too_late_to_cancel"},
		{says: "too late when it is completed", past: isCompleted, when: byBuyer, code: domain.Conflict, reason: "too_late_to_cancel"},
		{says: "too late when it was refunded otherwise", past: isRefunded, when: byBuyer, code: domain.Conflict, reason: "too_late_to_cancel"},
		{says: "a cancel has a reason", past: isPlaced, when: order.Cancel{}, code: domain.Invalid, reason: "unknown_reason"},
		{says: "one that there is", past: isPlaced, when: order.Cancel{Cancellation: order.Cancellation{Reason: "mood"}}, code: domain.Invalid, reason: "unknown_reason"},
		{says: "a note of 501 characters", past: isPlaced, when: order.Cancel{Cancellation: order.Cancellation{Reason: order.Risk, Note: strings.Repeat("x", 501)}}, code: domain.Invalid, reason: "invalid_text"},
		{says: "an actor of 129 characters", past: isPlaced, when: order.Cancel{Cancellation: order.Cancellation{Reason: order.Risk, By: strings.Repeat("x", 129)}}, code: domain.Invalid, reason: "invalid_text"},
	})
	for _, reason := range []order.Reason{order.Timeout, order.ByBuyer, order.BySeller, order.ByOperator, order.Risk, order.Stock} {
		t.Run("the reason "+string(reason), func(t *testing.T) {
			c := order.Cancellation{Reason: reason, By: strings.Repeat("x", 128), Note: strings.Repeat("x", 500)}
			domaintest.Given(t, order.Decider, isPlaced...).When(order.Cancel{Cancellation: c}).Then(order.Cancelled{Cancellation: c})
		})
	}
}

func TestChangingTheAddress(t *testing.T) {
	move := order.ChangeAddress{Address: []byte("elsewhere")}
	moved := order.AddressChanged{Address: []byte("elsewhere")}
	run(t, []row{
		{says: "before payment", past: isPlaced, when: move, then: past(moved)},
		{says: "after payment", past: isPaid, when: move, then: past(moved)},
		{says: "to the same changes nothing", past: then(isPaid, moved), when: move},
		{says: "nor to where it was placed for", past: isPaid, when: order.ChangeAddress{Address: []byte("sealed")}},
		{says: "not once something is packed", past: isPacked, when: move, code: domain.Conflict, reason: "already_packed"},
		{says: "not once something has shipped", past: isPartly, when: move, code: domain.Conflict, reason: "already_packed"},
		{says: "again when it was taken apart", past: then(isPacked, order.ParcelUnpacked{Parcel: 1}), when: move, then: past(moved)},
		{says: "not of a shipped order", past: isShipped, when: move, code: domain.Conflict, reason: "already_shipped"},
		{says: "not of a completed order", past: isCompleted, when: move, code: domain.Conflict, reason: "already_completed"},
		{says: "not of a cancelled order", past: isCancelled, when: move, code: domain.Conflict, reason: "order_cancelled"},
		{says: "not of a refunded order", past: isGivenUp, when: move, code: domain.Conflict, reason: "order_refunded"},
		{says: "not to nowhere", past: isPaid, when: order.ChangeAddress{}, code: domain.Invalid, reason: "missing_address"},
		{says: "to 4096 bytes", past: isPaid, when: order.ChangeAddress{Address: make([]byte, 4096)}, then: past(order.AddressChanged{Address: make([]byte, 4096)})},
		{says: "not to 4097 bytes", past: isPaid, when: order.ChangeAddress{Address: make([]byte, 4097)}, code: domain.Invalid, reason: "address_too_long"},
	})
}

func TestCompleting(t *testing.T) {
	done := order.Complete{By: buyer}
	run(t, []row{
		{says: "a shipped order is completed", past: isShipped, when: done, then: past(order.Completed{By: buyer})},
		{says: "twice is once", past: isCompleted, when: order.Complete{By: "timer"}},
		{says: "not before all has shipped", past: isPartly, when: done, code: domain.Conflict, reason: "not_shipped"},
		{says: "not before it is paid", past: isPlaced, when: done, code: domain.Conflict, reason: "not_paid"},
		{says: "not when it is refunded", past: isRefunded, when: done, code: domain.Conflict, reason: "order_refunded"},
		{says: "an actor of 129 characters", past: isShipped, when: order.Complete{By: strings.Repeat("x", 129)}, code: domain.Invalid, reason: "invalid_text"},
	})
}

// Nothing but placing and abandoning makes sense where there is no order.
func TestThereIsNoSuchOrder(t *testing.T) {
	for _, c := range []order.Command{
		order.Pay{},
		order.RecordStockCommitted{},
		order.RecordPaymentCaptured{},
		order.RecordStockReleased{},
		order.RecordStockShipped{},
		order.RecordRefundSettled{},
		order.Cancel{},
		order.ChangeAddress{},
		order.Pack{},
		order.Unpack{},
		order.SetWaybill{},
		order.Deliver{},
		order.Complete{},
		order.Settle{},
		order.RecordSettlementPosted{},
		order.Refund{},
	} {
		domaintest.Given(t, order.Decider).When(c).ThenRefused(domain.NotFound, "unknown_order")
		domaintest.Given[order.Order, order.Command, order.Event](t, order.Decider, order.Abandoned{Attempt: "a0"}).
			When(c).ThenRefused(domain.NotFound, "unknown_order")
	}
	live, err := order.Decider.Fold(order.Order{}, isPaid...)
	if err != nil {
		t.Fatal(err)
	}
	if events, err := order.Decider.Decide(live, nil); err == nil || domain.CodeOf(err) != "" || events != nil {
		t.Errorf("no command: got %v, %v; want a fault of ours", events, err)
	}
}
