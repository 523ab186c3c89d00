package order_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"cartwright/domain"
	"cartwright/domain/order"
)

// The machine, whole: for each event the statuses it may follow, and where it
// leads. Each is tried on a state in which nothing but the status could refuse it.
func TestTheMachine(t *testing.T) {
	const (
		none, pending, isPaid, shipped          = order.StatusNone, order.StatusPending, order.StatusPaid, order.StatusShipped
		completed, cancelled, refunded, staying = order.StatusCompleted, order.StatusCancelled, order.StatusRefunded, order.Status("stays")
	)
	statuses := []order.Status{none, pending, isPaid, shipped, completed, cancelled, refunded, "unheard_of"}
	item := func(it order.Item) func(*order.Order) {
		it.Line = order.Line{Line: 1, SKU: "tea", Quantity: 1, UnitPrice: 430}
		return func(o *order.Order) { o.Lines, o.Paid = []order.Item{it}, 430 }
	}
	bought, sold := item(order.Item{}), item(order.Item{Shipped: 1})
	gone := func(o *order.Order) {
		item(order.Item{RefundedUnshipped: 1, Refunded: 430})(o)
		o.Refunds = []order.Repayment{{Refund: 1, Amount: 430}}
	}
	parcel := func(status order.ParcelStatus, version int) func(*order.Order) {
		return func(o *order.Order) {
			item(order.Item{Packed: 1})(o)
			o.Parcels = []order.Parcel{{Parcel: 1, Status: status, Lines: []order.Part{part(1, 1)}, Waybill: order.Waybill{Version: version}}}
		}
	}
	settled := func(o *order.Order) {
		sold(o)
		o.Settlement = &order.Settlement{Gross: 430, Commission: 43}
	}
	empty := func(*order.Order) {}
	for _, c := range []struct {
		event order.Event
		in    func(*order.Order)
		after []order.Status
		leads order.Status
	}{
		{placed, empty, []order.Status{none}, pending},
		{order.Abandoned{Attempt: "a0"}, empty, []order.Status{none}, staying},
		{paid, bought, []order.Status{pending}, isPaid},
		{order.StockCommitted{}, bought, []order.Status{isPaid, shipped, completed, refunded}, staying},
		{order.PaymentCaptured{}, bought, []order.Status{isPaid, shipped, completed, refunded}, staying},
		{order.StockReleased{}, bought, []order.Status{cancelled}, staying},
		{order.StockShipped{Parcel: 1}, parcel(order.ParcelIsShipped, 1), []order.Status{isPaid, shipped, completed, refunded}, staying},
		{order.RefundSettled{Refund: 1}, gone, []order.Status{isPaid, shipped, completed, refunded}, staying},
		{order.Cancelled{Cancellation: timedOut}, bought, []order.Status{pending}, cancelled},
		{order.AddressChanged{Address: []byte("x")}, bought, []order.Status{pending, isPaid}, staying},
		{packed(1, part(1, 1)), bought, []order.Status{isPaid}, staying},
		{order.ParcelUnpacked{Parcel: 1}, parcel(order.ParcelIsPacked, 0), []order.Status{isPaid}, staying},
		{waybill(1, 1, "N1"), parcel(order.ParcelIsPacked, 0), []order.Status{isPaid, shipped}, staying},
		{order.ParcelShipped{Parcel: 1}, parcel(order.ParcelIsPacked, 1), []order.Status{isPaid}, staying},
		{order.ParcelDelivered{Parcel: 1}, parcel(order.ParcelIsShipped, 1), []order.Status{isPaid, shipped, completed, refunded}, staying},
		{order.Shipped{}, sold, []order.Status{isPaid}, shipped},
		{order.Completed{By: buyer}, sold, []order.Status{shipped}, completed},
		{order.Settled{Gross: 430, Commission: 43}, sold, []order.Status{completed}, staying},
		{order.SettlementPosted{}, settled, []order.Status{completed}, staying},
		{issued(1, back(1, 1, 0, 430)), bought, []order.Status{isPaid, shipped, completed}, staying},
		{fromSeller(43, issued(1, back(1, 0, 1, 430))), settled, []order.Status{isPaid, shipped, completed}, staying},
		{order.Refunded{}, gone, []order.Status{isPaid, shipped}, refunded},
		{nil, bought, nil, none},
	} {
		for _, status := range statuses {
			var o order.Order
			c.in(&o)
			o.Status = status
			next, err := order.Decider.Evolve(o, c.event)
			want := c.leads
			if want == staying {
				want = status
			}
			if !slices.Contains(c.after, status) {
				want = status
				if err == nil {
					t.Errorf("%T follows %q", c.event, status)
				}
			} else if err != nil {
				t.Errorf("%T does not follow %q: %v", c.event, status, err)
			}
			if next.Status != want {
				t.Errorf("%T leads from %q to %q, not to %q", c.event, status, next.Status, want)
			}
		}
	}
}

// Each history is fine up to its last event, which cannot have happened.
func TestHistoriesThatCannotHaveHappened(t *testing.T) {
	with := func(f func(*order.Placed)) order.Placed {
		e := placed
		e.Lines = slices.Clone(placed.Lines)
		f(&e)
		return e
	}
	refund := func(f func(*order.RefundIssued)) order.RefundIssued {
		e := issued(1, back(1, 2, 0, 220), back(2, 1, 0, 50))
		f(&e)
		return e
	}
	giveUp := func(f func(*order.RefundIssued)) order.RefundIssued {
		e := order.RefundIssued{Refund: 1, Lines: slices.Clone(whole), Amount: 430, Cancellation: &changed}
		f(&e)
		return e
	}
	allMoney := then(isPaid, issued(1, back(1, 0, 0, 330), back(2, 0, 0, 100)))
	for _, c := range []struct {
		says string
		past []order.Event
		err  string
	}{
		{"placed without an id", past(with(func(e *order.Placed) { e.Order = "" })), "no order id"},
		{"placed without lines", past(with(func(e *order.Placed) { e.Lines = nil })), "at least one line"},
		{"placed with a line missing", past(with(func(e *order.Placed) { e.Lines[1].Line = 3 })), "line 2 should"},
		{"placed with none of a line", past(with(func(e *order.Placed) { e.Lines[1].Quantity = 0 })), "for 0 units"},
		{"placed at less than nothing", past(with(func(e *order.Placed) { e.Lines[1].Freight = -1 })), "negative price"},
		{"placed for more than can be counted", past(with(func(e *order.Placed) { e.Lines[1].UnitPrice = math.MaxInt64 })), "can be counted"},
		{"placed by an abandoned attempt", past(order.Abandoned{Attempt: "a1"}, placed), "a1 was abandoned"},
		{"placed with siblings, but not first", past(with(func(e *order.Placed) { e.Order, e.Siblings = second, []order.Sibling{{Order: third}} })), "siblings"},
		{"placed twice", past(placed, placed), "cannot follow"},
		{"an attempt abandoned twice", past(order.Abandoned{Attempt: "a0"}, order.Abandoned{Attempt: "a0"}), "before"},
		{"paid with less", past(placed, order.Paid{Amount: 429}), "429 paid"},
		{"paid with more", past(placed, order.Paid{Amount: 431}), "431 paid"},
		{"paid twice", past(placed, paid, paid), "cannot follow"},
		{"stock committed twice", then(isPaid, order.StockCommitted{}, order.StockCommitted{}), "twice"},
		{"payment captured twice", then(isPaid, order.PaymentCaptured{}, order.PaymentCaptured{}), "twice"},
		{"stock released twice", then(isCancelled, order.StockReleased{}, order.StockReleased{}), "twice"},
		{"the address changed when something was packed", then(isPacked, order.AddressChanged{Address: []byte("x")}), "packed already"},
		{"the address changed when something had shipped", then(isPartly, order.AddressChanged{Address: []byte("x")}), "packed already"},
		{"parcel 2 before parcel 1", then(isPaid, packed(2, part(1, 1))), "parcel 2 after 0"},
		{"parcel 1 twice", then(isPacked, packed(1, part(1, 1))), "parcel 1 after 1"},
		{"a parcel of nothing", then(isPaid, packed(1)), "empty"},
		{"a parcel of a line there is not", then(isPaid, packed(1, part(3, 1))), "line 3"},
		{"a parcel of line 0", then(isPaid, packed(1, part(0, 1))), "line 0"},
		{"a parcel with a line twice", then(isPaid, packed(1, part(1, 1), part(1, 1))), "after line 1"},
		{"a parcel with its lines in disorder", then(isPaid, packed(1, part(2, 1), part(1, 1))), "after line 2"},
		{"a parcel with none of a line", then(isPaid, packed(1, part(1, 0))), "0 units"},
		{"a parcel of more than was bought", then(isPaid, packed(1, part(1, 4))), "4 units"},
		{"a parcel of what is packed", then(isPacked, packed(2, part(1, 2))), "of which 1"},
		{"a parcel of what has shipped", then(isPartly, packed(2, part(1, 2))), "of which 1"},
		{"a parcel of what was refunded", then(isPaid, issued(1, back(1, 2, 0, 220)), packed(1, part(1, 2))), "of which 1"},
		{"a parcel taken apart twice", then(isPacked, order.ParcelUnpacked{Parcel: 1}, order.ParcelUnpacked{Parcel: 1}), "unpacked, not packed"},
		{"a shipped parcel taken apart", then(isPartly, order.ParcelUnpacked{Parcel: 1}), "shipped, not packed"},
		{"a parcel with a waybill taken apart", then(isPacked, waybill(1, 1, "N1"), order.ParcelUnpacked{Parcel: 1}), "has a waybill"},
		{"a parcel there is not taken apart", then(isPacked, order.ParcelUnpacked{Parcel: 2}), "no parcel 2"},
		{"parcel 0 taken apart", then(isPacked, order.ParcelUnpacked{}), "no parcel 0"},
		{"a first waybill of version 0", then(isPacked, waybill(1, 0, "N1")), "packed, not shipped"},
		{"a first waybill of version 2", then(isPacked, waybill(1, 2, "N1")), "packed, not shipped"},
		{"two first waybills", then(isPacked, waybill(1, 1, "N1"), waybill(1, 1, "N1")), "version 1 of parcel 1's waybill after version 1"},
		{"a second waybill before it shipped", then(isPacked, waybill(1, 1, "N1"), waybill(1, 2, "N2")), "packed, not shipped"},
		{"a waybill's version twice", then(isPartly, waybill(1, 1, "N1")), "shipped, not packed"},
		{"a waybill's version left out", then(isPartly, waybill(1, 3, "N3")), "version 3"},
		{"a waybill of a delivered parcel", then(isPartly, order.ParcelDelivered{Parcel: 1}, waybill(1, 2, "N2")), "delivered, not shipped"},
		{"a waybill of a parcel there is not", then(isPartly, waybill(2, 1, "N2")), "no parcel 2"},
		{"shipped without a waybill", then(isPacked, order.ParcelShipped{Parcel: 1}), "no waybill"},
		{"shipped twice", then(isPartly, order.ParcelShipped{Parcel: 1}), "shipped, not packed"},
		{"a parcel there is not shipped", then(isPaid, order.ParcelShipped{Parcel: 1}), "no parcel 1"},
		{"delivered without shipping", then(isPacked, order.ParcelDelivered{Parcel: 1}), "packed, not shipped"},
		{"delivered twice", then(isPartly, order.ParcelDelivered{Parcel: 1}, order.ParcelDelivered{Parcel: 1}), "delivered, not shipped"},
		{"out of stock without shipping", then(isPacked, order.StockShipped{Parcel: 1}), "has not shipped"},
		{"out of stock without a parcel", then(isPartly, order.StockShipped{Parcel: 2}), "has not shipped"},
		{"out of stock twice", then(isPartly, order.StockShipped{Parcel: 1}, order.StockShipped{Parcel: 1}), "twice"},
		{"all shipped when nothing has", then(isPaid, order.Shipped{}), "nothing has shipped"},
		{"all shipped when nothing has, nor will", then(isPaid, issued(1, back(1, 3, 0, 1), back(2, 2, 0, 1)), order.Shipped{}), "nothing has shipped"},
		{"all shipped when something is left", then(isPartly, order.Shipped{}), "left to ship"},
		{"all shipped when one unit is packed", then(isPartly, packed(2, part(1, 1)), issued(1, back(2, 2, 0, 100)), order.Shipped{}), "left to ship"},
		{"refund 2 before refund 1", then(isPaid, refund(func(e *order.RefundIssued) { e.Refund = 2 })), "refund 2 after 0"},
		{"refund 1 twice", then(isPaid, issued(1, back(1, 1, 0, 1)), issued(1, back(1, 1, 0, 1))), "refund 1 after 1"},
		{"a refund of a line there is not", then(isPaid, refund(func(e *order.RefundIssued) { e.Lines[1].Line = 3 })), "line 3"},
		{"a refund of line 0", then(isPaid, refund(func(e *order.RefundIssued) { e.Lines[0].Line = 0 })), "line 0"},
		{"a refund with a line twice", then(isPaid, refund(func(e *order.RefundIssued) { e.Lines[1].Line = 1 })), "after line 1"},
		{"a refund of more than was bought", then(isPaid, issued(1, back(1, 4, 0, 330))), "4 units unshipped"},
		{"a refund of what is packed", then(isPacked, issued(1, back(1, 2, 0, 220))), "2 units unshipped"},
		{"a refund of less than no units", then(isPaid, issued(1, back(1, -1, 0, 1))), "-1 units unshipped"},
		{"a return of what has not shipped", then(isPaid, issued(1, back(1, 0, 1, 110))), "1 returned"},
		{"a return of more than has shipped", then(isPartly, issued(1, back(1, 0, 3, 330))), "3 returned"},
		{"a return of what came back", then(isPartly, issued(1, back(1, 0, 2, 220)), issued(2, back(1, 0, 1, 1))), "1 returned"},
		{"a return of less than none", then(isPartly, issued(1, back(1, 0, -1, 1))), "-1 returned"},
		{"a refund of more than a line cost", then(isPaid, issued(1, back(2, 1, 0, 101))), "101 back"},
		{"refunds of more than a line cost", then(isPaid, issued(1, back(2, 0, 0, 60)), issued(2, back(2, 0, 0, 41))), "41 back of line 2, which has 40"},
		{"a refund of less than no money", then(isPaid, issued(1, back(1, 1, 0, -1))), "-1 back"},
		{"a refund that does not sum up", then(isPaid, refund(func(e *order.RefundIssued) { e.Amount++ })), "sum to 270, not 271"},
		{"a refund of nothing", then(isPaid, order.RefundIssued{Refund: 1}), "gives nothing back"},
		{"a refund of nothing of a line", then(isPaid, issued(1, back(1, 0, 0, 0))), "gives nothing back"},
		{"given up, but for some money", then(isPaid, giveUp(func(e *order.RefundIssued) { e.Lines[0].Amount--; e.Amount-- })), "does not give back all"},
		{"given up, but for a unit", then(isPaid, giveUp(func(e *order.RefundIssued) { e.Lines[0].Unshipped-- })), "does not give back all"},
		{"given up, but for what was shipped", then(isPartly, giveUp(func(e *order.RefundIssued) { e.Lines[0].Unshipped, e.Lines[0].Returned = 1, 2 })), "does not give back all"},
		{"given up, when some had shipped and stays out", then(isPartly, giveUp(func(e *order.RefundIssued) { e.Lines[0].Unshipped = 1 })), "does not give back all"},
		{"given up when it had shipped", then(isShipped, giveUp(func(e *order.RefundIssued) {
			e.Lines = []order.RefundLine{back(1, 0, 3, 330), back(2, 0, 2, 100)}
		})), "does not give back all"},
		{"refunded without a refund", then(isPaid, order.Refunded{}), "not all of the money"},
		{"refunded when it cost nothing, without a refund", past(with(func(e *order.Placed) {
			e.Lines = []order.Line{{Line: 1, Quantity: 1}}
		}), order.Paid{}, packed(1, part(1, 1)), waybill(1, 1, "N1"), order.ParcelShipped{Parcel: 1}, order.Refunded{}), "not all of the money"},
		{"refunded but for one minor unit", then(isPaid, issued(1, back(1, 3, 0, 330), back(2, 2, 0, 99)), order.Refunded{}), "not all of the money"},
		{"refunded with units left to ship", then(allMoney, order.Refunded{}), "left to ship"},
		{"a refund settled that was not issued", then(isPaid, order.RefundSettled{Refund: 1}), "no refund 1"},
		{"refund 0 settled", then(isRefunded, order.RefundSettled{}), "no refund 0"},
		{"a refund settled twice", then(isRefunded, order.RefundSettled{Refund: 1}, order.RefundSettled{Refund: 1}), "twice"},
		{"more freight back than money", then(isPaid, issued(1, back(1, 1, 0, 9, 10))), "10 of 9 back"},
		{"less than no freight back", then(isPaid, issued(1, back(1, 1, 0, 9, -1))), "-1 of 9 back"},
		{"more freight back than there was", then(isPaid, issued(1, back(1, 0, 0, 31, 31))), "of which 30 are left"},
		{"freight back of a line that has none", then(isPaid, issued(1, back(2, 0, 0, 1, 1))), "of which 0 are left"},
		{"more freight back than is left", then(isPaid, issued(1, back(1, 1, 0, 110, 10)), issued(2, back(1, 0, 0, 21, 21))), "of which 20 are left"},
		{"settled before it was completed", then(isShipped, order.Settled{Gross: 430}), "cannot follow"},
		{"settled twice", then(isSettled, order.Settled{Gross: 430, Commission: 43}), "twice"},
		{"settled for less than it holds", then(isCompleted, order.Settled{Gross: 429}), "429 settled of an order that holds 430"},
		{"settled for more than it holds", then(isCompleted, order.Settled{Gross: 431}), "431 settled"},
		{"settled for what was refunded", then(isCompleted, issued(1, back(1, 0, 1, 110)), order.Settled{Gross: 430}), "holds 320"},
		{"a commission of more than there is", then(isCompleted, order.Settled{Gross: 430, Commission: 431}), "commission of 431"},
		{"a commission of less than nothing", then(isCompleted, order.Settled{Gross: 430, Commission: -1}), "commission of -1"},
		{"a settlement posted that was not decided", then(isCompleted, order.SettlementPosted{}), "not settled"},
		{"a settlement posted twice", then(isSettled, order.SettlementPosted{}, order.SettlementPosted{}), "twice"},
		{"a refund from a seller who has nothing yet", then(isCompleted, fromSeller(0, issued(1, back(1, 0, 1, 110)))), "once the order is settled"},
		{"a refund from escrow after the seller has it", then(isSettled, issued(1, back(1, 0, 1, 110))), "once the order is settled"},
		{"commission back that was not taken yet", then(isCompleted, order.RefundIssued{Refund: 1, Lines: []order.RefundLine{back(1, 0, 1, 110)}, Amount: 110, Commission: 1}), "1 of the commission"},
		{"more commission back than money", then(isSettled, fromSeller(6, issued(1, back(1, 0, 0, 5)))), "6 of the commission with 5 back"},
		{"more commission back than was taken", then(isSettled, fromSeller(44, issued(1, back(1, 0, 1, 110)))), "of which 43 are left"},
		{"more commission back than is left", then(isSettled, fromSeller(40, issued(1, back(1, 0, 1, 110))), fromSeller(4, issued(2, back(1, 0, 1, 110)))), "of which 3 are left"},
		{"less than no commission back", then(isSettled, fromSeller(-1, issued(1, back(1, 0, 1, 110)))), "-1 of the commission"},
		{"completed before it shipped", then(isPartly, order.Completed{}), "cannot follow"},
		{"no event", past(placed, nil), "cannot follow"},
	} {
		t.Run(c.says, func(t *testing.T) {
			_, err := order.Decider.Fold(order.Order{}, c.past...)
			e, ok := errors.AsType[*domain.ReplayError](err)
			if !ok || e.At != len(c.past)-1 || !strings.Contains(err.Error(), c.err) {
				t.Fatalf("got %v; want event %d refused: %s", err, len(c.past)-1, c.err)
			}
			if domain.CodeOf(err) != "" {
				t.Fatalf("a broken history has the code %s, as if its reader could help it", domain.CodeOf(err))
			}
		})
	}
}

// What Decide refuses by policy, history may hold from the days of another one.
func TestPolicyDoesNotJudgeHistory(t *testing.T) {
	old := placed
	old.Order, old.Checkout, old.Buyer, old.Seller = "17", "17", "a b", ""
	old.Currency, old.Attempt, old.Address = "DEM", "", make([]byte, 5000)
	old.Lines = make([]order.Line, 300)
	for i := range old.Lines {
		old.Lines[i] = order.Line{Line: i + 1, Title: strings.Repeat("x", 600), Quantity: 1}
	}
	_, err := order.Decider.Fold(order.Order{}, old, order.Paid{Method: strings.Repeat("x", 99), Payment: strings.Repeat("x", 99)},
		packed(1, part(300, 1)), order.WaybillSet{Parcel: 1, Version: 1}, order.ParcelShipped{Parcel: 1},
		order.RefundIssued{Refund: 1, Lines: []order.RefundLine{{Line: 1, Unshipped: 1}}, Reason: strings.Repeat("x", 999)})
	if err != nil {
		t.Fatal(err)
	}
}
