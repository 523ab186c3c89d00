package order_test

import (
	"math"
	"strconv"
	"strings"
	"testing"

	"cartwright/domain"
	"cartwright/domain/domaintest"
	"cartwright/domain/order"
)

func part(line int, quantity int64) order.Part { return order.Part{Line: line, Quantity: quantity} }

func pack(parts ...order.Part) order.Pack { return order.Pack{Lines: parts} }

func TestPacking(t *testing.T) {
	lessOne := order.RefundIssued{Refund: 1, Lines: []order.RefundLine{{Line: 1, Unshipped: 1, Amount: 110}}, Amount: 110}
	both := func(p order.Pack) order.Pack { p.Carrier, p.Number = "SF", "N1"; return p }
	run(t, []row{
		{says: "some of a line", past: isPaid, when: pack(part(1, 2)), then: past(packed(1, part(1, 2)))},
		{says: "parts of a line are one", past: isPaid, when: pack(part(2, 1), part(1, 1), part(2, 1), part(1, 2)), then: past(packed(1, part(1, 3), part(2, 2)))},
		{says: "the next parcel has the next number", past: isPacked, when: pack(part(1, 1)), then: past(packed(2, part(1, 1)))},
		{says: "no more than was bought", past: isPaid, when: pack(part(1, 4)), code: domain.Conflict, reason: "too_much_to_ship"},
		{says: "not in two parts either", past: isPaid, when: pack(part(1, 2), part(1, 2)), code: domain.Conflict, reason: "too_much_to_ship"},
		{says: "no more than is not packed", past: isPacked, when: pack(part(1, 2)), code: domain.Conflict, reason: "too_much_to_ship"},
		{says: "no more than has not shipped", past: isPartly, when: pack(part(1, 2)), code: domain.Conflict, reason: "too_much_to_ship"},
		{says: "no more than is not refunded", past: then(isPaid, lessOne), when: pack(part(1, 3)), code: domain.Conflict, reason: "too_much_to_ship"},
		{says: "just what is not refunded", past: then(isPaid, lessOne), when: pack(part(1, 2)), then: past(packed(1, part(1, 2)))},
		{says: "nothing of a line that is all packed", past: then(isPaid, packed(1, part(1, 3))), when: pack(part(1, 1)), code: domain.Conflict, reason: "nothing_to_ship"},
		{says: "again what was taken apart", past: then(isPaid, packed(1, part(1, 3)), order.ParcelUnpacked{Parcel: 1}), when: pack(part(1, 3)), then: past(packed(2, part(1, 3)))},
		{says: "not an empty parcel", past: isPaid, when: pack(), code: domain.Invalid, reason: "empty_parcel"},
		{says: "not none of a line", past: isPaid, when: pack(part(1, 0)), code: domain.Invalid, reason: "invalid_quantity"},
		{says: "not less than none", past: isPaid, when: pack(part(1, 2), part(1, -1)), code: domain.Invalid, reason: "invalid_quantity"},
		{says: "not more than can be counted", past: isPaid, when: pack(part(1, math.MaxInt64), part(1, 1)), code: domain.Invalid, reason: "amount_overflow"},
		{says: "not a line there is not", past: isPaid, when: pack(part(3, 1)), code: domain.NotFound, reason: "unknown_line"},
		{says: "not line 0", past: isPaid, when: pack(part(0, 1)), code: domain.NotFound, reason: "unknown_line"},
		{says: "not before payment", past: isPlaced, when: pack(part(1, 1)), code: domain.Conflict, reason: "not_paid"},
		{says: "not when all has shipped", past: isShipped, when: pack(part(1, 1)), code: domain.Conflict, reason: "already_shipped"},
		{says: "not when it is completed", past: isCompleted, when: pack(part(1, 1)), code: domain.Conflict, reason: "already_completed"},
		{says: "not when it is cancelled", past: isCancelled, when: pack(part(1, 1)), code: domain.Conflict, reason: "order_cancelled"},
		{says: "not when it is refunded", past: isRefunded, when: pack(part(1, 1)), code: domain.Conflict, reason: "order_refunded"},
		{says: "with its waybill it ships", past: isPaid, when: both(pack(part(1, 2))), then: sent(1, part(1, 2))},
		{says: "the last one ships the order", past: isPaid, when: both(pack(part(1, 3), part(2, 2))), then: then(sent(1, part(1, 3), part(2, 2)), order.Shipped{})},
		{says: "not the last while another is packed", past: isPacked, when: order.Pack{Lines: []order.Part{part(1, 1), part(2, 2)}, Carrier: "SF", Number: "N2"}, then: sent(2, part(1, 1), part(2, 2))},
		{says: "not with half a waybill", past: isPaid, when: order.Pack{Lines: []order.Part{part(1, 1)}, Carrier: "SF"}, code: domain.Invalid, reason: "invalid_waybill"},
		{says: "nor the other half", past: isPaid, when: order.Pack{Lines: []order.Part{part(1, 1)}, Number: "N1"}, code: domain.Invalid, reason: "invalid_waybill"},
	})
}

func TestAnOrderHasAThousandParcels(t *testing.T) {
	events := isPaid
	for n := 1; n < 1000; n++ {
		events = append(events, packed(n, part(1, 1)), order.ParcelUnpacked{Parcel: n})
	}
	domaintest.Given(t, order.Decider, events...).When(pack(part(1, 1))).Then(packed(1000, part(1, 1)))
	events = append(events, packed(1000, part(1, 1)))
	domaintest.Given(t, order.Decider, events...).When(pack(part(1, 1))).ThenRefused(domain.Rejected, "too_many_parcels")
}

func TestUnpacking(t *testing.T) {
	run(t, []row{
		{says: "a parcel is taken apart", past: isPacked, when: order.Unpack{Parcel: 1}, then: past(order.ParcelUnpacked{Parcel: 1})},
		{says: "twice is once", past: then(isPacked, order.ParcelUnpacked{Parcel: 1}), when: order.Unpack{Parcel: 1}},
		{says: "not when it has shipped", past: isPartly, when: order.Unpack{Parcel: 1}, code: domain.Conflict, reason: "parcel_shipped"},
		{says: "not when it was delivered", past: isCompleted, when: order.Unpack{Parcel: 1}, code: domain.Conflict, reason: "parcel_shipped"},
		{says: "not one there is not", past: isPacked, when: order.Unpack{Parcel: 2}, code: domain.NotFound, reason: "unknown_parcel"},
	})
}

func TestWaybills(t *testing.T) {
	set := func(version int, number string) order.SetWaybill {
		return order.SetWaybill{Parcel: 1, Version: version, Carrier: "SF", Number: number}
	}
	corrected := then(isPartly, waybill(1, 2, "456"))
	full := then(isPaid, packed(1, part(1, 3), part(2, 2)))
	run(t, []row{
		{says: "the first ships the parcel", past: isPacked, when: set(0, "N1"), then: past(waybill(1, 1, "N1"), order.ParcelShipped{Parcel: 1})},
		{says: "the last parcel's ships the order", past: full, when: set(0, "N1"), then: past(waybill(1, 1, "N1"), order.ParcelShipped{Parcel: 1}, order.Shipped{})},
		{says: "not the first under a version", past: isPacked, when: set(1, "N1"), code: domain.Stale, reason: "waybill_stale"},
		{says: "a later one corrects", past: isPartly, when: set(1, "456"), then: past(waybill(1, 2, "456"))},
		{says: "also of a shipped order", past: isShipped, when: set(1, "456"), then: past(waybill(1, 2, "456"))},
		{says: "another carrier is another waybill", past: isPartly, when: order.SetWaybill{Parcel: 1, Version: 1, Carrier: "EMS", Number: "N1"}, then: past(order.WaybillSet{Parcel: 1, Version: 2, Carrier: "EMS", Number: "N1"})},
		{says: "the write that made it may repeat itself", past: isPartly, when: set(0, "N1")},
		{says: "also a later one", past: corrected, when: set(1, "456")},
		{says: "also when the order has ended", past: isCompleted, when: set(0, "N1")},
		{says: "what stands may be written again", past: isPartly, when: set(1, "N1")},
		{says: "a late retry of an older write loses", past: corrected, when: set(0, "N1"), code: domain.Stale, reason: "waybill_stale"},
		{says: "and is no write by the newest version", past: then(corrected, waybill(1, 3, "789")), when: set(1, "789"), code: domain.Stale, reason: "waybill_stale"},
		{says: "the same number by another carrier is no repeat", past: isPartly, when: order.SetWaybill{Parcel: 1, Version: 0, Carrier: "EMS", Number: "N1"}, code: domain.Stale, reason: "waybill_stale"},
		{says: "a version that is not there yet", past: isPartly, when: set(2, "N1"), code: domain.Stale, reason: "waybill_stale"},
		{says: "not of a parcel that was taken apart", past: then(isPacked, order.ParcelUnpacked{Parcel: 1}), when: set(0, "N1"), code: domain.Conflict, reason: "parcel_unpacked"},
		{says: "not of one that was delivered", past: then(isPartly, order.ParcelDelivered{Parcel: 1}), when: set(1, "456"), code: domain.Conflict, reason: "parcel_delivered"},
		{says: "not of a completed order", past: then(isShipped, order.Completed{}), when: set(1, "456"), code: domain.Conflict, reason: "already_completed"},
		{says: "not of a parcel there is not", past: isPartly, when: order.SetWaybill{Parcel: 2, Carrier: "SF", Number: "N1"}, code: domain.NotFound, reason: "unknown_parcel"},
		{says: "not without a number", past: isPacked, when: set(0, ""), code: domain.Invalid, reason: "invalid_waybill"},
		{says: "not without a carrier", past: isPacked, when: order.SetWaybill{Parcel: 1, Number: "N1"}, code: domain.Invalid, reason: "invalid_waybill"},
		{says: "a number of 64 characters", past: isPartly, when: set(1, strings.Repeat("9", 64)), then: past(waybill(1, 2, strings.Repeat("9", 64)))},
		{says: "a number of 65 characters", past: isPartly, when: set(1, strings.Repeat("9", 65)), code: domain.Invalid, reason: "invalid_text"},
		{says: "a carrier of 65 characters", past: isPacked, when: order.SetWaybill{Parcel: 1, Carrier: strings.Repeat("9", 65), Number: "N1"}, code: domain.Invalid, reason: "invalid_text"},
	})
}

// The waybill ABA story: 123 at version 1, 456 wins at version 2, and the late
// retry of 123 learns that it lost.
func TestALateRetryDoesNotOverwriteAWaybill(t *testing.T) {
	events := then(isPacked, waybill(1, 1, "123"), order.ParcelShipped{Parcel: 1})
	retry := order.SetWaybill{Parcel: 1, Version: 0, Carrier: "SF", Number: "123"}
	domaintest.Given(t, order.Decider, events...).When(retry).Then()
	domaintest.Given(t, order.Decider, then(events, waybill(1, 2, "456"))...).When(retry).ThenRefused(domain.Stale, "waybill_stale")
}

func TestAWaybillKeepsItsHistory(t *testing.T) {
	live, err := order.Decider.Fold(order.Order{}, then(isPartly, waybill(1, 2, "456"), waybill(1, 3, "789"))...)
	if err != nil {
		t.Fatal(err)
	}
	want := order.Parcel{
		Parcel: 1, Status: order.ParcelIsShipped, Lines: []order.Part{part(1, 2)},
		Waybill: order.Waybill{Version: 3, Carrier: "SF", Number: "789"},
		History: []order.Waybill{{Version: 1, Carrier: "SF", Number: "N1"}, {Version: 2, Carrier: "SF", Number: "456"}},
	}
	if diff := domaintest.Diff(want, live.Parcels[0]); diff != "" {
		t.Fatalf("parcel (-want +got):\n%s", diff)
	}
}

func TestAWaybillHasAHundredVersions(t *testing.T) {
	events := isPartly
	for v := 2; v <= 99; v++ {
		events = append(events, waybill(1, v, strconv.Itoa(v)))
	}
	set := func(v int) order.SetWaybill {
		return order.SetWaybill{Parcel: 1, Version: v, Carrier: "SF", Number: "new"}
	}
	domaintest.Given(t, order.Decider, events...).When(set(99)).Then(waybill(1, 100, "new"))
	events = append(events, waybill(1, 100, "100"))
	domaintest.Given(t, order.Decider, events...).When(set(100)).ThenRefused(domain.Rejected, "too_many_waybills")
}

func TestDelivering(t *testing.T) {
	arrived := order.ParcelDelivered{Parcel: 1}
	soon, late := deadline.AddDate(0, 0, 7), deadline.AddDate(0, 0, 8)
	back := order.RefundIssued{Refund: 1, Lines: []order.RefundLine{{Line: 1, Returned: 3, Amount: 330}, {Line: 2, Returned: 2, Amount: 100}}, Amount: 430}
	run(t, []row{
		{says: "a shipped parcel arrives", past: isPartly, when: order.Deliver{Parcel: 1}, then: past(arrived)},
		{says: "twice is once", past: then(isPartly, arrived), when: order.Deliver{Parcel: 1}},
		{says: "and names the time by which the order may complete", past: isPartly, when: order.Deliver{Parcel: 1, Completes: soon}, then: past(order.ParcelDelivered{Parcel: 1, Completes: soon})},
		{says: "twice is once, also at another time", past: then(isPartly, order.ParcelDelivered{Parcel: 1, Completes: soon}), when: order.Deliver{Parcel: 1, Completes: late}},
		{says: "an import that named none is not made up for", past: then(isPartly, arrived), when: order.Deliver{Parcel: 1, Completes: late}},
		{says: "also after the order was completed", past: then(isShipped, order.Completed{}), when: order.Deliver{Parcel: 1}, then: past(arrived)},
		{says: "also after it was refunded", past: then(isShipped, back, order.Refunded{}), when: order.Deliver{Parcel: 1}, then: past(arrived)},
		{says: "not one that is only packed", past: isPacked, when: order.Deliver{Parcel: 1}, code: domain.Conflict, reason: "parcel_not_shipped"},
		{says: "not one that was taken apart", past: then(isPacked, order.ParcelUnpacked{Parcel: 1}), when: order.Deliver{Parcel: 1}, code: domain.Conflict, reason: "parcel_not_shipped"},
		{says: "not one there is not", past: isPartly, when: order.Deliver{Parcel: 2}, code: domain.NotFound, reason: "unknown_parcel"},
	})
}
