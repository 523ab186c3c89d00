package order_test

import (
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"cartwright/domain"
	"cartwright/domain/domaintest"
	"cartwright/domain/order"
)

// fromSeller is the refund as it is once the order is settled.
func fromSeller(commission int64, e order.RefundIssued) order.RefundIssued {
	e.FromSeller, e.Commission = true, commission
	return e
}

func TestSettling(t *testing.T) {
	at := func(rate int64) order.Settle { return order.Settle{CommissionBP: rate} }
	settled := func(gross, commission int64) []order.Event {
		return past(order.Settled{Gross: gross, Commission: commission})
	}
	free := placed
	free.Lines = []order.Line{{Line: 1, SKU: "gift", Quantity: 1}}
	gift := past(free, order.Paid{}, packed(1, part(1, 1)), waybill(1, 1, "N1"), order.ParcelShipped{Parcel: 1}, order.Shipped{}, order.Completed{})
	allBack := issued(1, back(1, 0, 3, 330, 30), back(2, 0, 2, 100))
	run(t, []row{
		{says: "a completed order, at ten per cent", past: isCompleted, when: at(1000), then: settled(430, 43)},
		{says: "at nothing", past: isCompleted, when: at(0), then: settled(430, 0)},
		{says: "at everything", past: isCompleted, when: at(10_000), then: settled(430, 430)},
		{says: "not at less than nothing", past: isCompleted, when: at(-1), code: domain.Invalid, reason: "invalid_commission"},
		{says: "not at more than everything", past: isCompleted, when: at(10_001), code: domain.Invalid, reason: "invalid_commission"},
		{says: "each line is rounded, here up to 5 and 2", past: isCompleted, when: at(150), then: settled(430, 7)},
		{says: "here down to 8 and 2, a tie to the even one", past: isCompleted, when: at(250), then: settled(430, 10)},
		{says: "what is left of it", past: then(isCompleted, issued(1, back(1, 0, 1, 110, 10))), when: at(1000), then: settled(320, 32)},
		{says: "where refunds were of money alone", past: then(isCompleted, issued(1, back(1, 0, 0, 329), back(2, 0, 0, 1))), when: at(5000), then: settled(100, 50)},
		{says: "of refunds before it was completed", past: then(isShipped, issued(1, back(2, 0, 2, 100)), order.Completed{}), when: at(1000), then: settled(330, 33)},
		{says: "for nothing, if all of it is back", past: then(isCompleted, allBack), when: at(1000), then: settled(0, 0)},
		{says: "for nothing, if it cost nothing", past: gift, when: at(1000), then: settled(0, 0)},
		{says: "twice is once", past: isSettled, when: at(1000)},
		{says: "also at another rate", past: isSettled, when: at(0)},
		{says: "also when it was refunded since", past: then(isSettled, fromSeller(11, issued(1, back(1, 0, 1, 110, 10)))), when: at(1000)},
		{says: "also for nothing", past: then(isCompleted, allBack, order.Settled{}), when: at(1000)},
		{says: "not at a rate that can't be, even then", past: isSettled, when: at(10_001), code: domain.Invalid, reason: "invalid_commission"},
		{says: "not a shipped order", past: isShipped, when: at(1000), code: domain.Conflict, reason: "already_shipped"},
		{says: "not a paid order", past: isPaid, when: at(1000), code: domain.Conflict, reason: "not_shipped"},
		{says: "not a pending order", past: isPlaced, when: at(1000), code: domain.Conflict, reason: "not_paid"},
		{says: "not a cancelled order", past: isCancelled, when: at(1000), code: domain.Conflict, reason: "order_cancelled"},
		{says: "not a refunded order", past: isRefunded, when: at(1000), code: domain.Conflict, reason: "order_refunded"},
	})
}

func TestPostingASettlement(t *testing.T) {
	posted := order.SettlementPosted{}
	run(t, []row{
		{says: "the seller has it", past: isSettled, when: order.RecordSettlementPosted{}, then: past(posted)},
		{says: "twice is once", past: then(isSettled, posted), when: order.RecordSettlementPosted{}},
		{says: "also of nothing", past: then(isCompleted, issued(1, back(1, 0, 0, 330), back(2, 0, 0, 100)), order.Settled{}), when: order.RecordSettlementPosted{}, then: past(posted)},
		{says: "not before it is decided", past: isCompleted, when: order.RecordSettlementPosted{}, code: domain.Conflict, reason: "not_settled"},
		{says: "not of a shipped order", past: isShipped, when: order.RecordSettlementPosted{}, code: domain.Conflict, reason: "already_shipped"},
		{says: "not of a refunded order", past: isRefunded, when: order.RecordSettlementPosted{}, code: domain.Conflict, reason: "order_refunded"},
	})
}

// 43 of 430 were taken. A refund after that is the seller's, and takes its share
// of the 43 along.
func TestRefundingAfterSettlement(t *testing.T) {
	everything := issued(1, back(1, 0, 3, 330, 30), back(2, 0, 2, 100))
	half := func(n int) order.RefundIssued { return issued(n, back(1, 0, 0, 5)) }
	settledAt := func(commission int64) []order.Event {
		return then(isCompleted, order.Settled{Gross: 430, Commission: commission})
	}
	run(t, []row{
		{says: "before it, escrow pays", past: isCompleted, when: refund(units(1, 1)), then: past(issued(1, back(1, 0, 1, 110, 10)))},
		{says: "units", past: isSettled, when: refund(units(1, 1)), then: past(fromSeller(11, issued(1, back(1, 0, 1, 110, 10))))},
		{says: "also when the seller has not been paid out", past: then(isSettled, order.SettlementPosted{}), when: refund(units(1, 1)), then: past(fromSeller(11, issued(1, back(1, 0, 1, 110, 10))))},
		{says: "freight", past: isSettled, when: refund(freight(1)), then: past(fromSeller(3, issued(1, back(1, 0, 0, 30, 30))))},
		{says: "everything", past: isSettled, when: refund(), then: past(fromSeller(43, everything))},
		{says: "not twice", past: then(isSettled, fromSeller(43, everything)), when: refund(), code: domain.Rejected, reason: "nothing_to_refund"},
		{says: "the rest takes the rest along", past: then(isSettled, fromSeller(11, issued(1, back(1, 0, 1, 110, 10)))), when: refund(), then: past(fromSeller(32, issued(2, back(1, 0, 2, 220, 20), back(2, 0, 2, 100))))},
		{says: "half a minor unit is none, a tie to the even one", past: isSettled, when: refund(sum(1, 0, 5)), then: past(fromSeller(0, half(1)))},
		{says: "but two halves are one", past: then(isSettled, fromSeller(0, half(1))), when: refund(sum(1, 0, 5)), then: past(fromSeller(1, half(2)))},
		{says: "and the third makes two of them", past: then(isSettled, fromSeller(0, half(1)), fromSeller(1, half(2))), when: refund(sum(1, 0, 5)), then: past(fromSeller(1, half(3)))},
		{says: "less than half is none", past: isSettled, when: refund(sum(1, 0, 4)), then: past(fromSeller(0, issued(1, back(1, 0, 0, 4))))},
		{says: "more than half is one", past: isSettled, when: refund(sum(1, 0, 6)), then: past(fromSeller(1, issued(1, back(1, 0, 0, 6))))},
		{says: "no commission, none of it back", past: settledAt(0), when: refund(), then: past(fromSeller(0, everything))},
		{says: "all of it commission, all of it back", past: settledAt(430), when: refund(sum(1, 0, 7)), then: past(fromSeller(7, issued(1, back(1, 0, 0, 7))))},
		{says: "what was refunded before it has no share in it", past: then(isCompleted, issued(1, back(1, 0, 3, 330, 30)), order.Settled{Gross: 100, Commission: 10}), when: refund(units(2, 1)), then: past(fromSeller(5, issued(2, back(2, 0, 1, 50))))},
		{says: "what went back too early is not taken again", past: then(isSettled, fromSeller(20, issued(1, back(1, 0, 0, 20)))), when: refund(sum(1, 0, 100)), then: past(fromSeller(0, issued(2, back(1, 0, 0, 100))))},
		{says: "what should have gone back before goes now, as far as this refund goes", past: then(isSettled, fromSeller(0, issued(1, back(1, 0, 0, 100)))), when: refund(sum(1, 0, 5)), then: past(fromSeller(5, issued(2, back(1, 0, 0, 5))))},
	})
}

// Of an order as large as can be, refunded in whatever amounts: after each the
// commission that went back is the nearest there is to its share, a tie to the
// even one, and after the last it is the whole commission.
func TestTheWholeCommissionGoesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		price := rapid.OneOf(rapid.Int64Range(1, 50), rapid.Int64Range(1, math.MaxInt64), rapid.Int64Range(math.MaxInt64-50, math.MaxInt64)).Draw(t, "price")
		o := obey(t, order.Order{}, edit(func(c *order.Place) {
			c.Lines = []order.Line{{Line: 1, SKU: "tea", Quantity: 1, UnitPrice: price}}
		}))
		o = obey(t, o, order.Pay{Amount: price, Currency: "BRL"})
		o = obey(t, o, order.Pack{Lines: []order.Part{part(1, 1)}, Carrier: "SF", Number: "N1"})
		o = obey(t, o, order.Complete{})
		rate := rapid.OneOf(rapid.Int64Range(0, 10_000), rapid.Just(int64(10_000)), rapid.Just(int64(5000))).Draw(t, "rate")
		o = obey(t, o, order.Settle{CommissionBP: rate})
		for refunds := 0; o.Net() > 0; refunds++ {
			amount := o.Net()
			if refunds < 20 {
				amount = rapid.OneOf(rapid.Int64Range(1, amount), rapid.Int64Range(1, min(amount, 5))).Draw(t, "amount")
			}
			o = obey(t, o, refund(sum(1, 0, amount)))
			if want := nearest(o.Settlement.Commission, o.Settlement.Gross-o.Net(), o.Settlement.Gross); o.Settlement.Back != want {
				t.Fatalf("%+v: %d back, want %d, with %d left", *o.Settlement, o.Settlement.Back, want, o.Net())
			}
		}
		if o.Settlement.Back != o.Settlement.Commission {
			t.Fatalf("all is back, and of the commission: %+v", *o.Settlement)
		}
	})
}

// obey is the order after a command that it can't refuse.
func obey(t *rapid.T, o order.Order, c order.Command) order.Order {
	t.Helper()
	events, err := order.Decider.Decide(o, c)
	if err != nil {
		t.Fatalf("%#v: %v", c, err)
	}
	if o, err = order.Decider.Fold(o, events...); err != nil {
		t.Fatalf("%#v: %v", c, err)
	}
	return o
}

// nearest is a × b / c in numbers of any size, a tie to the even one.
func nearest(a, b, c int64) int64 {
	twice := new(big.Int).Mul(big.NewInt(a), big.NewInt(b))
	twice.Lsh(twice, 1).Add(twice, big.NewInt(c)) // 2ab + c over 2c is a × b / c + 1/2
	q, r := new(big.Int).QuoRem(twice, new(big.Int).Lsh(big.NewInt(c), 1), new(big.Int))
	if r.Sign() == 0 && q.Bit(0) == 1 {
		q.Sub(q, big.NewInt(1))
	}
	return q.Int64()
}

// The commission of the largest orders is counted as exactly.
func TestTheLargestOrderSettles(t *testing.T) {
	big := placed
	big.Lines = []order.Line{{Line: 1, SKU: "tea", Quantity: 1, UnitPrice: math.MaxInt64 - 1}, {Line: 2, SKU: "cup", Quantity: 1, UnitPrice: 1}}
	events := past(big, order.Paid{Amount: math.MaxInt64}, packed(1, part(1, 1), part(2, 1)), waybill(1, 1, "N1"),
		order.ParcelShipped{Parcel: 1}, order.Shipped{}, order.Completed{})
	domaintest.Given(t, order.Decider, events...).When(order.Settle{CommissionBP: 10_000}).
		Then(order.Settled{Gross: math.MaxInt64, Commission: math.MaxInt64})
	domaintest.Given(t, order.Decider, events...).When(order.Settle{CommissionBP: 5_000}).
		Then(order.Settled{Gross: math.MaxInt64, Commission: 1<<62 - 1}) // 0.5 of line 2 goes to 0
}
