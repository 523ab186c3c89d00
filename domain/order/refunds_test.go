package order_test

import (
	"strings"
	"testing"

	"cartwright/domain"
	"cartwright/domain/domaintest"
	"cartwright/domain/order"
)

func units(line int, quantity int64) order.RefundRequest {
	return order.RefundRequest{Line: line, Quantity: quantity}
}

func sum(line int, quantity, amount int64) order.RefundRequest {
	return order.RefundRequest{Line: line, Quantity: quantity, Amount: &amount}
}

func refund(requests ...order.RefundRequest) order.Refund {
	return order.Refund{Lines: requests, Reason: "broken", By: "s1", Restock: true}
}

func freight(line int) order.RefundRequest { return order.RefundRequest{Line: line, Freight: true} }

// issued is a refund as refund asks for it.
func issued(refund int, lines ...order.RefundLine) order.RefundIssued {
	e := order.RefundIssued{Refund: refund, Lines: lines, Reason: "broken", By: "s1", Restock: true}
	for _, l := range lines {
		e.Amount += l.Amount
	}
	return e
}

// back is a line of a refund, and of its amount the freight, if any.
func back(line int, unshipped, returned, amount int64, freight ...int64) order.RefundLine {
	l := order.RefundLine{Line: line, Unshipped: unshipped, Returned: returned, Amount: amount}
	for _, f := range freight {
		l.Freight += f
	}
	return l
}

func TestRefunding(t *testing.T) {
	sentAndPacked := then(isPartly, packed(2, part(1, 1)))
	run(t, []row{
		{says: "some units, at their share", past: isPaid, when: refund(units(1, 2)), then: past(issued(1, back(1, 2, 0, 220, 20)))},
		{says: "several lines, in their order", past: isPaid, when: refund(units(2, 1), units(1, 1)), then: past(issued(1, back(1, 1, 0, 110, 10), back(2, 1, 0, 50)))},
		{says: "units that have not shipped go first", past: isPartly, when: refund(units(1, 1), units(2, 1)), then: past(issued(1, back(1, 1, 0, 110, 10), back(2, 1, 0, 50)))},
		{says: "then those that have", past: isPartly, when: refund(units(1, 2)), then: past(issued(1, back(1, 1, 1, 220, 20)))},
		{says: "not those that came back before", past: then(isPartly, issued(1, back(1, 1, 1, 220))), when: refund(units(1, 2)), code: domain.Rejected, reason: "over_quantity"},
		{says: "a packed unit stays, while others can go", past: isPacked, when: refund(units(1, 1)), then: past(issued(1, back(1, 1, 0, 110, 10)))},
		{says: "a packed unit is unpacked first", past: isPacked, when: refund(units(1, 2)), code: domain.Conflict, reason: "line_packed"},
		{says: "also beside one that has shipped", past: sentAndPacked, when: refund(units(1, 3)), code: domain.Conflict, reason: "line_packed"},
		{says: "those that have shipped before one that is packed", past: sentAndPacked, when: refund(units(1, 2)), then: past(issued(1, back(1, 0, 2, 220, 20)))},
		{says: "no more than were bought", past: isPaid, when: refund(units(1, 4)), code: domain.Rejected, reason: "over_quantity"},
		{says: "no more than are left", past: then(isPaid, issued(1, back(1, 2, 0, 220))), when: refund(units(1, 2)), code: domain.Rejected, reason: "over_quantity"},
		{says: "units and an amount of their own", past: isPaid, when: refund(sum(1, 1, 7)), then: past(issued(1, back(1, 1, 0, 7)))},
		{says: "an amount alone", past: isShipped, when: refund(sum(1, 0, 330)), then: past(issued(1, back(1, 0, 0, 330)))},
		{says: "of a completed order", past: isCompleted, when: refund(units(1, 1)), then: past(issued(1, back(1, 0, 1, 110, 10)))},
		{says: "no more money than the line has", past: isPaid, when: refund(sum(1, 1, 331)), code: domain.Rejected, reason: "over_refund"},
		{says: "no more money than is left", past: then(isPaid, issued(1, back(1, 0, 0, 300))), when: refund(sum(1, 1, 31)), code: domain.Rejected, reason: "over_refund"},
		{says: "all the money that is left", past: then(isPaid, issued(1, back(1, 0, 0, 300))), when: refund(sum(1, 1, 30)), then: past(issued(2, back(1, 1, 0, 30)))},
		{says: "the last unit takes the remainder, here more than its share", past: then(isPaid, issued(1, back(1, 2, 0, 7))), when: refund(units(1, 1)), then: past(issued(2, back(1, 1, 0, 323, 30)))},
		{says: "here less", past: then(isPaid, issued(1, back(1, 2, 0, 320))), when: refund(units(1, 1)), then: past(issued(2, back(1, 1, 0, 10, 10)))},
		{says: "a unit that is not the last takes what is left, if that is less than its share", past: then(isPaid, issued(1, back(1, 0, 0, 300))), when: refund(units(1, 1)), then: past(issued(2, back(1, 1, 0, 30, 10)))},
		{says: "not no money", past: isPaid, when: refund(sum(1, 1, 0)), code: domain.Invalid, reason: "invalid_amount"},
		{says: "not less than none", past: isPaid, when: refund(sum(1, 1, -1)), code: domain.Invalid, reason: "invalid_amount"},
		{says: "one minor unit", past: isPaid, when: refund(sum(1, 0, 1)), then: past(issued(1, back(1, 0, 0, 1)))},
		{says: "not neither", past: isPaid, when: refund(units(1, 0)), code: domain.Invalid, reason: "empty_refund_line"},
		{says: "not a negative quantity", past: isPaid, when: refund(sum(1, -1, 5)), code: domain.Invalid, reason: "invalid_quantity"},
		{says: "not a line twice", past: isPaid, when: refund(units(1, 1), units(2, 1), units(1, 1)), code: domain.Invalid, reason: "line_twice"},
		{says: "not a line there is not", past: isPaid, when: refund(units(3, 1)), code: domain.NotFound, reason: "unknown_line"},
		{says: "not before payment", past: isPlaced, when: refund(), code: domain.Conflict, reason: "not_paid"},
		{says: "not of a cancelled order", past: isCancelled, when: refund(), code: domain.Conflict, reason: "order_cancelled"},
		{says: "not of a refunded order", past: isRefunded, when: refund(), code: domain.Conflict, reason: "order_refunded"},
		{says: "a reason of 501 characters", past: isPaid, when: order.Refund{Reason: strings.Repeat("x", 501)}, code: domain.Invalid, reason: "invalid_text"},
		{says: "an actor of 129 characters", past: isPaid, when: order.Refund{By: strings.Repeat("x", 129)}, code: domain.Invalid, reason: "invalid_text"},
	})
}

// Freight can go back by itself, all that is left of it. What went back does not
// go back with the units again.
func TestFreightIsGivenBackOnce(t *testing.T) {
	alone := issued(1, back(1, 0, 0, 30, 30))
	withUnits := func(r order.RefundRequest) order.RefundRequest { r.Freight = true; return r }
	old := issued(1, back(1, 2, 0, 220)) // from before refunds said what freight was in them
	run(t, []row{
		{says: "by itself, without units", past: isPaid, when: refund(freight(1)), then: past(alone)},
		{says: "also when it is completed", past: isCompleted, when: refund(freight(1)), then: past(alone)},
		{says: "beside another line's units", past: isPaid, when: refund(units(2, 1), freight(1)), then: past(issued(1, back(1, 0, 0, 30, 30), back(2, 1, 0, 50)))},
		{says: "not twice", past: then(isPaid, alone), when: refund(freight(1)), code: domain.Rejected, reason: "nothing_to_refund"},
		{says: "not of a line that has none", past: isPaid, when: refund(freight(2)), code: domain.Rejected, reason: "nothing_to_refund"},
		{says: "nor beside one that has", past: isPaid, when: refund(freight(1), freight(2)), code: domain.Rejected, reason: "nothing_to_refund"},
		{says: "not of a line there is not", past: isPaid, when: refund(freight(3)), code: domain.NotFound, reason: "unknown_line"},
		{says: "not before payment", past: isPlaced, when: refund(freight(1)), code: domain.Conflict, reason: "not_paid"},
		{says: "not with units", past: isPaid, when: refund(withUnits(units(1, 1))), code: domain.Invalid, reason: "freight_alone"},
		{says: "not with less than none", past: isPaid, when: refund(withUnits(units(1, -1))), code: domain.Invalid, reason: "freight_alone"},
		{says: "not with an amount", past: isPaid, when: refund(withUnits(sum(1, 0, 5))), code: domain.Invalid, reason: "freight_alone"},
		{says: "not with both", past: isPaid, when: refund(withUnits(sum(1, 1, 5))), code: domain.Invalid, reason: "freight_alone"},
		{says: "the line is asked for once", past: isPaid, when: refund(units(1, 1), freight(1)), code: domain.Invalid, reason: "line_twice"},
		{says: "units after it go at the price of the goods", past: then(isPaid, alone), when: refund(units(1, 2)), then: past(issued(2, back(1, 2, 0, 200)))},
		{says: "so do all of them", past: then(isPaid, alone), when: refund(units(1, 3)), then: past(issued(2, back(1, 3, 0, 300)))},
		{says: "so does all that is left", past: then(isCompleted, alone), when: refund(), then: past(issued(2, back(1, 0, 3, 300), back(2, 0, 2, 100)))},
		{says: "and so does a cancel", past: then(isPaid, alone), when: order.Cancel{Cancellation: changed}, then: past(order.RefundIssued{
			Refund: 2, Lines: []order.RefundLine{back(1, 3, 0, 300), back(2, 2, 0, 100)}, Amount: 400, Reason: "buyer", By: buyer, Cancellation: &changed,
		}, order.Refunded{})},
		{says: "what units left of it", past: then(isPaid, issued(1, back(1, 2, 0, 220, 20))), when: refund(freight(1)), then: past(issued(2, back(1, 0, 0, 10, 10)))},
		{says: "nothing where units took all of it", past: then(isPaid, issued(1, back(1, 3, 0, 330, 30))), when: refund(freight(1)), code: domain.Rejected, reason: "nothing_to_refund"},
		{says: "no more than there is money left", past: then(isPaid, issued(1, back(1, 0, 0, 310))), when: refund(freight(1)), then: past(issued(2, back(1, 0, 0, 20, 20)))},
		{says: "nothing where amounts took all of it", past: then(isPaid, issued(1, back(1, 0, 0, 330))), when: refund(freight(1)), code: domain.Rejected, reason: "nothing_to_refund"},
		{says: "an amount is no freight", past: isPaid, when: refund(sum(1, 3, 300)), then: past(issued(1, back(1, 3, 0, 300)))},
		{says: "nor is it where that much was left", past: then(isPaid, issued(1, back(1, 3, 0, 300))), when: refund(sum(1, 0, 30)), then: past(issued(2, back(1, 0, 0, 30)))},
		{says: "units take as much of it as is left", past: then(isPaid, issued(1, back(1, 0, 0, 15, 15))), when: refund(units(1, 2)), then: past(issued(2, back(1, 2, 0, 215, 15)))},
		{says: "units that are paid for in part take it first", past: then(isPaid, issued(1, back(1, 0, 0, 325))), when: refund(units(1, 2)), then: past(issued(2, back(1, 2, 0, 5, 5)))},
		{says: "an older refund by units counts as goods", past: then(isPaid, old), when: refund(freight(1)), then: past(issued(2, back(1, 0, 0, 30, 30)))},
		{says: "after which the last unit takes less", past: then(isPaid, old, issued(2, back(1, 0, 0, 30, 30))), when: refund(units(1, 1)), then: past(issued(3, back(1, 1, 0, 80)))},
		{says: "the last of the money ends the order", past: then(isPaid, issued(1, back(1, 0, 0, 300), back(2, 0, 0, 100))), when: refund(freight(1)), then: past(issued(2, back(1, 3, 0, 30, 30), back(2, 2, 0, 0)), order.Refunded{})},
	})
}

func TestRefundingEverything(t *testing.T) {
	all := issued(1, back(1, 3, 0, 330, 30), back(2, 2, 0, 100))
	returned := issued(1, back(1, 0, 3, 330, 30), back(2, 0, 2, 100))
	run(t, []row{
		{says: "before anything shipped", past: isPaid, when: refund(), then: past(all, order.Refunded{})},
		{says: "packed parcels are taken apart", past: isPacked, when: refund(), then: past(order.ParcelUnpacked{Parcel: 1}, all, order.Refunded{})},
		{says: "when some has shipped", past: isPartly, when: refund(), then: past(issued(1, back(1, 1, 2, 330, 30), back(2, 2, 0, 100)), order.Refunded{})},
		{says: "when all has shipped", past: isShipped, when: refund(), then: past(returned, order.Refunded{})},
		{says: "after completion the status stays", past: isCompleted, when: refund(), then: past(returned)},
		{says: "but not twice", past: then(isCompleted, returned), when: refund(), code: domain.Rejected, reason: "nothing_to_refund"},
		{says: "what is left", past: then(isPaid, issued(1, back(2, 2, 0, 99)), issued(2, back(1, 3, 0, 330))), when: refund(), then: past(issued(3, back(2, 0, 0, 1)), order.Refunded{})},
		{says: "what is left, without the lines that have nothing", past: then(isPaid, issued(1, back(2, 2, 0, 100))), when: refund(), then: past(issued(2, back(1, 3, 0, 330, 30)), order.Refunded{})},
		{says: "line by line is the same", past: isPaid, when: refund(units(1, 3), units(2, 2)), then: past(all, order.Refunded{})},
		{says: "one line after the other is the same", past: then(isPaid, issued(1, back(2, 2, 0, 100))), when: refund(units(1, 3)), then: past(issued(2, back(1, 3, 0, 330, 30)), order.Refunded{})},
		{says: "units of money that is back already", past: then(isPaid, issued(1, back(1, 0, 0, 330))), when: refund(units(1, 1)), code: domain.Rejected, reason: "nothing_to_refund"},
		{says: "not of a completed order line by line", past: isCompleted, when: refund(units(1, 3), units(2, 2)), then: past(returned)},
	})
}

// The refund that returns the last of the money ends the order, so nothing of
// it may stay packed or allocated, asked for or not.
func TestTheLastRefundTakesInWhatWillNotShip(t *testing.T) {
	gift := placed
	gift.Lines = append(gift.Lines[:2:2], order.Line{Line: 3, SKU: "gift", Quantity: 1})
	run(t, []row{
		{says: "all the money and no units", past: isPaid, when: refund(sum(1, 0, 330), sum(2, 0, 100)), then: past(issued(1, back(1, 3, 0, 330), back(2, 2, 0, 100)), order.Refunded{})},
		{says: "packed ones too", past: isPacked, when: refund(sum(1, 1, 330), sum(2, 0, 100)), then: past(order.ParcelUnpacked{Parcel: 1}, issued(1, back(1, 3, 0, 330), back(2, 2, 0, 100)), order.Refunded{})},
		{says: "what is with the buyer stays there", past: isPartly, when: refund(sum(1, 0, 330), sum(2, 0, 100)), then: past(issued(1, back(1, 1, 0, 330), back(2, 2, 0, 100)), order.Refunded{})},
		{says: "also of a line that was not asked for", past: then(isPaid, issued(1, back(1, 0, 0, 330))), when: refund(units(2, 2)), then: past(issued(2, back(1, 3, 0, 0), back(2, 2, 0, 100)), order.Refunded{})},
		{says: "also of one that was free", past: past(gift, paid), when: refund(units(1, 3), units(2, 2)), then: past(issued(1, back(1, 3, 0, 330, 30), back(2, 2, 0, 100), back(3, 1, 0, 0)), order.Refunded{})},
		{says: "nothing where all has shipped", past: isShipped, when: refund(sum(1, 0, 330), sum(2, 0, 100)), then: past(issued(1, back(1, 0, 0, 330), back(2, 0, 0, 100)), order.Refunded{})},
		{says: "one minor unit less does not end it", past: isPaid, when: refund(sum(1, 0, 330), sum(2, 0, 99)), then: past(issued(1, back(1, 0, 0, 330), back(2, 0, 0, 99)))},
	})
}

// A refund of what was left to ship ships the order, unless it ends it.
func TestARefundCanShipAnOrder(t *testing.T) {
	run(t, []row{
		{says: "the rest is refunded", past: isPartly, when: refund(units(1, 1), units(2, 2)), then: past(issued(1, back(1, 1, 0, 110, 10), back(2, 2, 0, 100)), order.Shipped{})},
		{says: "not all of the rest", past: isPartly, when: refund(units(1, 1), units(2, 1)), then: past(issued(1, back(1, 1, 0, 110, 10), back(2, 1, 0, 50)))},
		{says: "not while something is packed", past: then(isPartly, packed(2, part(2, 2))), when: refund(units(1, 1)), then: past(issued(1, back(1, 1, 0, 110, 10)))},
		{says: "not when nothing has shipped", past: isPaid, when: refund(sum(1, 3, 1), sum(2, 2, 1)), then: past(issued(1, back(1, 3, 0, 1), back(2, 2, 0, 1)))},
		{says: "not when it ends the order", past: isPartly, when: refund(sum(1, 1, 330), units(2, 2)), then: past(issued(1, back(1, 1, 0, 330), back(2, 2, 0, 100)), order.Refunded{})},
		{says: "not a second time", past: isShipped, when: refund(units(1, 1)), then: past(issued(1, back(1, 0, 1, 110, 10)))},
	})
}

func TestAThousandRefundsByLine(t *testing.T) {
	big := placed
	big.Lines = []order.Line{{Line: 1, SKU: "tea", Quantity: 2, UnitPrice: 5000}}
	events := past(big, order.Paid{Amount: 10_000})
	for n := 1; n < 1000; n++ {
		events = append(events, issued(n, back(1, 0, 0, 1)))
	}
	domaintest.Given(t, order.Decider, events...).When(refund(sum(1, 0, 1))).Then(issued(1000, back(1, 0, 0, 1)))
	events = append(events, issued(1000, back(1, 0, 0, 1)))
	domaintest.Given(t, order.Decider, events...).When(refund(sum(1, 0, 1))).ThenRefused(domain.Rejected, "too_many_refunds")
	domaintest.Given(t, order.Decider, events...).When(refund()).Then(issued(1001, back(1, 2, 0, 9000)), order.Refunded{})
}
