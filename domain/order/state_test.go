package order_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"cartwright/domain/domaintest"
	"cartwright/domain/order"
)

func lived(tb testing.TB, past []order.Event) order.Order {
	tb.Helper()
	o, err := order.Decider.Fold(order.Order{}, past...)
	if err != nil {
		tb.Fatal(err)
	}
	return o
}

func TestTheAxes(t *testing.T) {
	free := placed
	free.Lines = []order.Line{{Line: 1, SKU: "gift", Quantity: 1}}
	freeGivenUp := order.RefundIssued{Refund: 1, Lines: []order.RefundLine{back(1, 1, 0, 0)}, Cancellation: &changed}
	rest := sent(2, part(1, 1), part(2, 2))
	for _, c := range []struct {
		says       string
		past       []order.Event
		status     order.Status
		payment    order.Payment
		fulfilment order.Fulfilment
	}{
		{"nothing", nil, order.StatusNone, order.Unpaid, order.Unfulfilled},
		{"placed", isPlaced, order.StatusPending, order.Unpaid, order.Unfulfilled},
		{"cancelled", isCancelled, order.StatusCancelled, order.Voided, order.Unfulfilled},
		{"paid", isPaid, order.StatusPaid, order.FullyPaid, order.Unfulfilled},
		{"paid with nothing", past(free, order.Paid{}), order.StatusPaid, order.FullyPaid, order.Unfulfilled},
		{"given up", isGivenUp, order.StatusRefunded, order.FullyRefunded, order.Unfulfilled},
		{"given up, and it cost nothing", past(free, order.Paid{}, freeGivenUp, order.Refunded{}), order.StatusRefunded, order.FullyRefunded, order.Unfulfilled},
		{"packed", isPacked, order.StatusPaid, order.FullyPaid, order.Unfulfilled},
		{"shipped in part", isPartly, order.StatusPaid, order.FullyPaid, order.PartiallyShipped},
		{"shipped in part and delivered", then(isPartly, order.ParcelDelivered{Parcel: 1}), order.StatusPaid, order.FullyPaid, order.PartiallyShipped},
		{"refunded in part", then(isPaid, issued(1, back(1, 1, 0, 1))), order.StatusPaid, order.PartiallyRefunded, order.Unfulfilled},
		{"refunded in part but for one", then(isCompleted, issued(1, back(1, 0, 0, 330), back(2, 0, 0, 99))), order.StatusCompleted, order.PartiallyRefunded, order.Delivered},
		{"units refunded for nothing", then(isPaid, order.RefundIssued{Refund: 1, Lines: []order.RefundLine{back(1, 1, 0, 0)}}), order.StatusPaid, order.FullyPaid, order.Unfulfilled},
		{"shipped in part, the rest refunded", then(isPartly, issued(1, back(1, 1, 0, 110), back(2, 2, 0, 100)), order.Shipped{}), order.StatusShipped, order.PartiallyRefunded, order.FulfilmentShipped},
		{"shipped", isShipped, order.StatusShipped, order.FullyPaid, order.FulfilmentShipped},
		{"of two parcels one arrived", then(then(isPartly, rest...), order.Shipped{}, order.ParcelDelivered{Parcel: 1}), order.StatusShipped, order.FullyPaid, order.FulfilmentShipped},
		{"of two parcels the other arrived", then(then(isPartly, rest...), order.Shipped{}, order.ParcelDelivered{Parcel: 2}), order.StatusShipped, order.FullyPaid, order.FulfilmentShipped},
		{"both arrived", then(then(isPartly, rest...), order.Shipped{}, order.ParcelDelivered{Parcel: 2}, order.ParcelDelivered{Parcel: 1}), order.StatusShipped, order.FullyPaid, order.Delivered},
		{"one that was taken apart is not waited for", then(then(isPaid, packed(1, part(1, 3)), order.ParcelUnpacked{Parcel: 1}), then(sent(2, part(1, 3), part(2, 2)), order.Shipped{}, order.ParcelDelivered{Parcel: 2})...), order.StatusShipped, order.FullyPaid, order.Delivered},
		{"completed", isCompleted, order.StatusCompleted, order.FullyPaid, order.Delivered},
		{"completed, then all money back", then(isCompleted, issued(1, back(1, 0, 3, 330), back(2, 0, 2, 100))), order.StatusCompleted, order.FullyRefunded, order.Delivered},
		{"all sent back", then(isShipped, issued(1, back(1, 0, 3, 330), back(2, 0, 2, 100)), order.Refunded{}), order.StatusRefunded, order.FullyRefunded, order.FulfilmentShipped},
	} {
		o := lived(t, c.past)
		if o.Status != c.status || o.Payment() != c.payment || o.Fulfilment() != c.fulfilment {
			t.Errorf("%s: %s, %s, %s; want %s, %s, %s", c.says, o.Status, o.Payment(), o.Fulfilment(), c.status, c.payment, c.fulfilment)
		}
	}
}

// An order completes by itself when all of it has arrived, and a delivery has
// named a time for it.
func TestWhenAnOrderCompletesByItself(t *testing.T) {
	day := func(n int) time.Time { return deadline.AddDate(0, 0, n) }
	arrives := func(parcel int, at time.Time) order.ParcelDelivered {
		return order.ParcelDelivered{Parcel: parcel, Completes: at}
	}
	never := time.Time{}
	rest := issued(1, back(1, 1, 0, 110, 10), back(2, 2, 0, 100))
	two := then(then(isPartly, sent(2, part(1, 1), part(2, 2))...), order.Shipped{})
	for _, c := range []struct {
		says string
		past []order.Event
		want time.Time
	}{
		{"nothing has happened", nil, never},
		{"nothing has arrived", two, never},
		{"one of two parcels has arrived", then(two, arrives(1, day(7))), never},
		{"both have arrived", then(two, arrives(1, day(7)), arrives(2, day(9))), day(9)},
		{"both have, and the later one named the earlier time", then(two, arrives(1, day(9)), arrives(2, day(7))), day(9)},
		{"one of them has arrived in an import", then(two, arrives(1, never), arrives(2, day(7))), day(7)},
		{"the last of them has", then(two, arrives(1, day(7)), arrives(2, never)), day(7)},
		{"both have", then(two, arrives(1, never), arrives(2, never)), never},
		{"all that has shipped has arrived, but not all has shipped", then(isPartly, arrives(1, day(7))), never},
		{"the rest was refunded before that", then(isPartly, rest, order.Shipped{}, arrives(1, day(7))), day(7)},
		{"the rest was refunded after that", then(isPartly, arrives(1, day(7)), rest, order.Shipped{}), day(7)},
		{"it is completed", then(isShipped, arrives(1, day(7)), order.Completed{By: buyer}), never},
		{"it is completed, and arrives after that", then(isShipped, order.Completed{By: buyer}, arrives(1, day(7))), never},
		{"it is refunded", then(isShipped, arrives(1, day(7)), issued(1, back(1, 0, 3, 330, 30), back(2, 0, 2, 100)), order.Refunded{}), never},
		{"in another zone", then(isShipped, arrives(1, day(7).In(time.FixedZone("", 8*3600)))), day(7)},
	} {
		if got := lived(t, c.past).CompletesAt(); got != c.want {
			t.Errorf("%s: completes at %v, want %v", c.says, got, c.want)
		}
	}
	abroad := order.Deliver{Parcel: 1, Completes: day(7).In(time.FixedZone("", 8*3600))}
	events, err := order.Decider.Decide(lived(t, isShipped), abroad)
	if err != nil || len(events) != 1 || events[0] != arrives(1, day(7)) {
		t.Errorf("decided %v, %v; want the time in UTC", events, err)
	}
}

func TestTheSums(t *testing.T) {
	o := lived(t, then(isPartly, issued(1, back(1, 1, 1, 150), back(2, 2, 0, 99))))
	for name, c := range map[string][2]int64{
		"goods":                {o.Goods(), 400},
		"freight":              {o.FreightTotal(), 30},
		"total":                {o.Total(), 430},
		"units":                {o.Units(), 5},
		"paid":                 {o.Paid, 430},
		"refunded":             {o.RefundedAmount(), 249},
		"net":                  {o.Net(), 181},
		"net before payment":   {lived(t, isPlaced).Net(), 0},
		"net of what is back":  {lived(t, isRefunded).Net(), 0},
		"refundable of line 1": {o.Refundable(1), 180},
		"refundable of line 2": {o.Refundable(2), 1},
		"refundable of line 0": {o.Refundable(0), 0},
		"refundable of line 3": {o.Refundable(3), 0},
		"before payment":       {lived(t, isPlaced).Refundable(1), 0},
		"of a cancelled order": {lived(t, isCancelled).Refundable(1), 0},
		"after payment":        {lived(t, isPaid).Refundable(1), 330},
		"after completion":     {lived(t, isCompleted).Refundable(2), 100},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %d, want %d", name, c[0], c[1])
		}
	}
}

// The whole state, once, as the histories below leave it behind.
func TestWhatAnOrderRemembers(t *testing.T) {
	e := placed
	e.Siblings = []order.Sibling{{Order: second, Seller: "s2", Lines: lines[:1]}}
	got := lived(t, past(
		order.Abandoned{Attempt: "a0"}, e, order.AddressChanged{Address: []byte("elsewhere")},
		order.Paid{Amount: 430, Method: "wechat", Payment: "p1"},
		order.StockCommitted{}, order.PaymentCaptured{},
		packed(1, part(1, 1)), order.ParcelUnpacked{Parcel: 1},
		packed(2, part(1, 2), part(2, 1)), waybill(2, 1, "N1"), order.ParcelShipped{Parcel: 2}, waybill(2, 2, "N2"),
		order.StockShipped{Parcel: 2}, order.ParcelDelivered{Parcel: 2, Completes: deadline},
		issued(1, back(1, 1, 1, 200, 20)), order.RefundSettled{Refund: 1},
		packed(3, part(2, 1)), waybill(3, 1, "N3"), order.ParcelShipped{Parcel: 3}, order.Shipped{}, order.Completed{By: buyer},
		order.Settled{Gross: 230, Commission: 23}, fromSeller(5, issued(2, back(1, 0, 0, 50))), order.SettlementPosted{},
	))
	want := order.Order{
		ID: first, Checkout: first, Buyer: buyer, Seller: "s1", Currency: "BRL", Status: order.StatusCompleted,
		Lines: []order.Item{
			{Line: lines[0], Shipped: 2, RefundedUnshipped: 1, Returned: 1, Refunded: 250, RefundedFreight: 20},
			{Line: lines[1], Shipped: 2},
		},
		Address: []byte("elsewhere"), Attempt: "a1", Abandoned: []string{"a0"}, Deadline: deadline, Siblings: e.Siblings,
		Paid: 430, Method: "wechat", PaymentID: "p1", Completes: deadline,
		Parcels: []order.Parcel{
			{Parcel: 1, Status: order.ParcelIsUnpacked, Lines: []order.Part{part(1, 1)}},
			{
				Parcel: 2, Status: order.ParcelIsDelivered, Lines: []order.Part{part(1, 2), part(2, 1)},
				Waybill: order.Waybill{Version: 2, Carrier: "SF", Number: "N2"},
				History: []order.Waybill{{Version: 1, Carrier: "SF", Number: "N1"}}, StockShipped: true,
			},
			{Parcel: 3, Status: order.ParcelIsShipped, Lines: []order.Part{part(2, 1)}, Waybill: order.Waybill{Version: 1, Carrier: "SF", Number: "N3"}},
		},
		Refunds: []order.Repayment{{
			Refund: 1, Lines: []order.RefundLine{back(1, 1, 1, 200, 20)}, Amount: 200, Reason: "broken", By: "s1", Restock: true, Settled: true,
		}, {
			Refund: 2, Lines: []order.RefundLine{back(1, 0, 0, 50)}, Amount: 50, Reason: "broken", By: "s1", Restock: true, FromSeller: true, Commission: 5,
		}},
		Settlement:  &order.Settlement{Gross: 230, Commission: 23, Back: 5, Posted: true},
		CompletedBy: buyer, StockCommitted: true, PaymentCaptured: true,
	}
	if diff := domaintest.Diff(want, got); diff != "" {
		t.Errorf("completed (-want +got):\n%s", diff)
	}
	if got := lived(t, isGivenUp).Cancellation; got == nil || *got != changed {
		t.Errorf("given up: cancellation is %v, want %v", got, changed)
	}
	over := lived(t, then(isCancelled, order.StockReleased{}))
	if over.Cancellation == nil || *over.Cancellation != timedOut || !over.StockReleased {
		t.Errorf("cancelled: %+v", over)
	}
}

func TestStateSurvivesJSON(t *testing.T) {
	empty := placed
	empty.Address, empty.Siblings = []byte{}, []order.Sibling{}
	abroad := placed
	at := deadline.In(time.FixedZone("", 8*3600))
	abroad.Deadline, abroad.Siblings = at, []order.Sibling{{Order: second, Seller: "s2", Lines: lines, At: at}}
	for name, past := range map[string][]order.Event{
		"placed in another zone": past(abroad),
		"nothing":                nil, "placed": isPlaced, "placed with what is empty": past(empty), "paid": isPaid, "packed": isPacked,
		"partly": isPartly, "corrected": then(isPartly, waybill(1, 2, "456")), "completed": isCompleted, "cancelled": isCancelled,
		"given up": isGivenUp, "refunded": isRefunded, "settled": isSettled,
		"refunded by the seller":    then(isSettled, order.SettlementPosted{}, fromSeller(11, issued(1, back(1, 0, 1, 110, 10)))),
		"settled for nothing":       then(isCompleted, issued(1, back(1, 0, 0, 330), back(2, 0, 0, 100)), order.Settled{}),
		"delivered in another zone": then(isPartly, order.ParcelDelivered{Parcel: 1, Completes: at}),
		"moved to nowhere":          past(placed, order.AddressChanged{Address: []byte{}}),
	} {
		survives(t, name, lived(t, past))
	}
	if zone := abroad.Siblings[0].At.Location(); zone == time.UTC {
		t.Error("the event was changed")
	}
}

func survives(tb interface {
	Helper()
	Fatalf(format string, args ...any)
}, name string, o order.Order,
) {
	tb.Helper()
	raw, err := json.Marshal(o)
	if err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	var again order.Order
	if err = json.Unmarshal(raw, &again); err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	if !reflect.DeepEqual(o, again) {
		tb.Fatalf("%s (-lived +stored):\n%s\n%#v\n%#v", name, domaintest.Diff(o, again), o, again)
	}
}

func TestStateInJSON(t *testing.T) {
	small := order.Placed{Order: first, Checkout: first, Buyer: buyer, Seller: "s1", Currency: "BRL", Lines: lines[:1], Attempt: "a1"}
	raw, err := json.Marshal(lived(t, past(small)))
	want := `{"id":"` + first + `","checkout":"` + first + `","buyer":"1000042","seller":"s1","currency":"BRL",` +
		`"status":"pending_payment","lines":[{"line":1,"sku":"tea","title":"龙井茶","offer":"d1","quantity":3,"unit_price":100,"freight":10}],` +
		`"attempt":"a1","paid":0}`
	if err != nil || string(raw) != want {
		t.Fatalf("got %s, %v\nwant %s", raw, err, want)
	}
}

// The names under which views and exports find what became of the money.
func TestWhatBecameOfTheMoneyInJSON(t *testing.T) {
	o := lived(t, then(isSettled, order.SettlementPosted{}, fromSeller(3, issued(1, back(1, 0, 0, 30, 30)))))
	o.PaymentID, o.Completes = "p1", deadline
	o.Lines, o.Parcels = o.Lines[:1], nil
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"paid":430,"method":"balance","payment_id":"p1","refunds":[`,
		`"shipped":3,"refunded":30,"refunded_freight":30}`,
		`{"refund":1,"lines":[{"line":1,"unshipped":0,"returned":0,"amount":30,"freight":30}],"amount":30,"reason":"broken","by":"s1","restock":true,"from_seller":true,"commission":3}`,
		`"completes":"2026-11-21T09:00:00Z"`,
		`"settlement":{"gross":430,"commission":43,"back":3,"posted":true}`,
	} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("got %s\nwithout %s", raw, want)
		}
	}
}

// Two lives that part after three of something, where append has room for a
// fourth: neither writes into the other.
func TestACloneIsItsOwn(t *testing.T) {
	attempt := func(name string) order.Event { return order.Abandoned{Attempt: name} }
	parcel := func(n int, line int) []order.Event { return sent(n, part(line, 1)) }
	cent := func(n, line int) order.Event { return issued(n, back(line, 0, 0, 1)) }
	for name, c := range map[string]struct{ past, mine, its []order.Event }{
		"abandoned attempts": {past(attempt("a"), attempt("b"), attempt("c")), past(attempt("d")), past(attempt("e"))},
		"parcels": {
			then(then(then(isPaid, parcel(1, 1)...), parcel(2, 1)...), parcel(3, 1)...),
			past(packed(4, part(2, 1))), past(packed(4, part(2, 2))),
		},
		"one parcel": {isPacked, sent(1)[1:], past(order.ParcelUnpacked{Parcel: 1})},
		"waybills": {
			then(isPartly, waybill(1, 2, "2"), waybill(1, 3, "3"), waybill(1, 4, "4")),
			past(waybill(1, 5, "5"), waybill(1, 6, "6")), past(waybill(1, 5, "five"), waybill(1, 6, "six")),
		},
		"refunds":    {then(isPaid, cent(1, 1), cent(2, 1), cent(3, 1)), past(cent(4, 1)), past(cent(4, 2))},
		"settlement": {isSettled, past(order.SettlementPosted{}), past(fromSeller(11, issued(1, back(1, 0, 1, 110, 10))))},
		"flags":      {isGivenUp, past(order.StockCommitted{}), past(order.RefundSettled{Refund: 1})},
	} {
		mine := lived(t, c.past)
		its := order.Decider.Clone(mine)
		mine, errMine := order.Decider.Fold(mine, c.mine...)
		its, errIts := order.Decider.Fold(its, c.its...)
		if errMine != nil || errIts != nil {
			t.Fatal(name, errMine, errIts)
		}
		if diff := domaintest.Diff(lived(t, then(c.past, c.mine...)), mine); diff != "" {
			t.Errorf("%s: the clone wrote into the original (-want +got):\n%s", name, diff)
		}
		if diff := domaintest.Diff(lived(t, then(c.past, c.its...)), its); diff != "" {
			t.Errorf("%s: the original wrote into the clone (-want +got):\n%s", name, diff)
		}
	}
}
