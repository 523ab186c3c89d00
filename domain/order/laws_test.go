package order_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cartwright/domain"
	"cartwright/domain/domaintest"
	"cartwright/domain/event"
	"cartwright/domain/order"
)

// The order that these lives are of: room for some parcels, freight that is no
// share of anything, and a line that is free. It costs 599.
var life = edit(func(c *order.Place) {
	c.Lines = []order.Line{
		{Line: 1, SKU: "tea", Quantity: 4, UnitPrice: 100, Freight: 10},
		{Line: 2, SKU: "cup", Quantity: 3, UnitPrice: 50, Freight: 3},
		{Line: 3, SKU: "gift", Quantity: 1},
	}
})

var pays = order.Pay{Amount: 599, Currency: "BRL", Method: "wechat", Payment: "p1"}

// often is what is asked of an order every day; seldom is what begins it, ends
// it, or is heard of it once.
const often, seldom = 6, 1

// A wish is a command that may depend on how the order stands: without a look at
// it nobody would ever ask for just what is left.
type wish func(order.Order) order.Command

func always(c order.Command) wish { return func(order.Order) order.Command { return c } }

// theRest packs whatever is left.
func theRest(o order.Order) order.Command {
	c := order.Pack{Carrier: "SF", Number: "N1"}
	for _, it := range o.Lines {
		if left := it.Quantity - it.RefundedUnshipped - it.Shipped - it.Packed; left > 0 {
			c.Lines = append(c.Lines, order.Part{Line: it.Line.Line, Quantity: left})
		}
	}
	return c
}

// anything draws wishes of which most make sense, and some do not.
func anything() *rapid.Generator[wish] {
	number := rapid.IntRange(0, 4)
	quantity := rapid.OneOf(rapid.Int64Range(1, 2), rapid.Int64Range(1, 2), rapid.Int64Range(-1, 5))
	parts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) order.Part {
		return order.Part{Line: rapid.IntRange(1, 4).Draw(t, "line"), Quantity: quantity.Draw(t, "units")}
	}), 0, 3)
	request := rapid.Custom(func(t *rapid.T) order.RefundRequest {
		if rapid.IntRange(0, 4).Draw(t, "freight") == 0 {
			return freight(rapid.IntRange(1, 2).Draw(t, "line"))
		}
		r := order.RefundRequest{Line: rapid.IntRange(1, 3).Draw(t, "line"), Quantity: quantity.Draw(t, "units")}
		r.Freight = rapid.IntRange(0, 19).Draw(t, "with freight") == 0
		if rapid.Bool().Draw(t, "with an amount") {
			r.Amount = new(rapid.OneOf(rapid.Int64Range(1, 150), rapid.Int64Range(-1, 450)).Draw(t, "amount"))
		}
		return r
	})
	kinds := []struct {
		weight int
		draw   func(t *rapid.T) order.Command
	}{
		{seldom, func(t *rapid.T) order.Command {
			c := life
			c.Attempt = fmt.Sprint("a", number.Draw(t, "attempt"))
			return c
		}},
		{seldom, func(t *rapid.T) order.Command {
			return order.Abandon{Attempt: fmt.Sprint("a", number.Draw(t, "attempt"))}
		}},
		{seldom, func(t *rapid.T) order.Command {
			c := pays
			c.Payment = fmt.Sprint("p", number.Draw(t, "payment"))
			return c
		}},
		{seldom, func(*rapid.T) order.Command { return order.RecordStockCommitted{} }},
		{seldom, func(*rapid.T) order.Command { return order.RecordPaymentCaptured{} }},
		{seldom, func(*rapid.T) order.Command { return order.RecordStockReleased{} }},
		{seldom, func(*rapid.T) order.Command { return order.Complete{By: buyer} }},
		{seldom, func(t *rapid.T) order.Command {
			return order.Settle{CommissionBP: rapid.SampledFrom([]int64{0, 150, 250, 3333, 10_000, -1, 10_001}).Draw(t, "rate")}
		}},
		{seldom, func(*rapid.T) order.Command { return order.RecordSettlementPosted{} }},
		{seldom, func(*rapid.T) order.Command { return order.Refund{By: "s1"} }},
		{seldom, func(t *rapid.T) order.Command {
			return order.Cancel{Cancellation: rapid.SampledFrom([]order.Cancellation{changed, timedOut, {}}).Draw(t, "cancellation")}
		}},
		{seldom, func(t *rapid.T) order.Command {
			return order.ChangeAddress{Address: []byte(strconv.Itoa(number.Draw(t, "address")))}
		}},
		{often, func(t *rapid.T) order.Command { return order.RecordStockShipped{Parcel: number.Draw(t, "parcel")} }},
		{often, func(t *rapid.T) order.Command { return order.RecordRefundSettled{Refund: number.Draw(t, "refund")} }},
		{often, func(t *rapid.T) order.Command { return order.Pack{Lines: parts.Draw(t, "parts")} }},
		{often, func(t *rapid.T) order.Command {
			return order.Pack{Lines: parts.Draw(t, "parts"), Carrier: "SF", Number: "N1"}
		}},
		{often, func(t *rapid.T) order.Command { return order.Unpack{Parcel: number.Draw(t, "parcel")} }},
		{often, func(t *rapid.T) order.Command {
			return order.SetWaybill{
				Parcel: number.Draw(t, "parcel"), Version: rapid.IntRange(0, 2).Draw(t, "version"),
				Carrier: "SF", Number: fmt.Sprint("N", number.Draw(t, "waybill")),
			}
		}},
		{often, func(t *rapid.T) order.Command {
			c := order.Deliver{Parcel: number.Draw(t, "parcel")}
			if days := number.Draw(t, "completes"); days > 0 {
				c.Completes = deadline.AddDate(0, 0, days).In(time.FixedZone("", 8*3600))
			}
			return c
		}},
		{often, func(t *rapid.T) order.Command {
			return order.Refund{Lines: rapid.SliceOfN(request, 1, 3).Draw(t, "requests"), By: "s1", Restock: true}
		}},
	}
	var lot []int
	for i, k := range kinds {
		lot = append(lot, slices.Repeat([]int{i}, k.weight)...)
	}
	return rapid.Custom(func(t *rapid.T) wish {
		if rapid.IntRange(0, 15).Draw(t, "the rest") == 0 {
			return theRest
		}
		return always(kinds[rapid.SampledFrom(lot).Draw(t, "kind")].draw(t))
	})
}

// alive draws a life: wishes, most often after the order is placed and paid, at
// times after it has been completed, or settled too.
func alive(t *rapid.T) []wish {
	// At least 25: a slice without a least length is mostly too short to live.
	wishes := rapid.SliceOfN(anything(), 25, 80).Draw(t, "wishes")
	rate := rapid.Int64Range(0, 10_000).Draw(t, "rate")
	begin := []wish{always(life), always(pays), theRest, always(order.Complete{By: buyer}), always(order.Settle{CommissionBP: rate})}
	return append(begin[:rapid.SampledFrom([]int{2, 2, 2, 2, 1, 0, 4, 5}).Draw(t, "begun with")], wishes...)
}

// Whatever is asked, in whatever order, what is decided can be replayed, leaves
// the state it was decided on alone, and keeps the sums right.
func TestDecisionsAlwaysReplay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var history []order.Event
		var live order.Order
		for _, w := range alive(t) {
			c := w(live)
			before := order.Decider.Clone(live)
			events, err := order.Decider.Decide(live, c)
			if err != nil && domain.CodeOf(err) == "" {
				t.Fatalf("%#v: a fault of ours: %v", c, err)
			}
			if diff := domaintest.Diff(before, live); diff != "" {
				t.Fatalf("deciding %#v changed the state (-before +after):\n%s", c, diff)
			}
			next, err := order.Decider.Fold(order.Decider.Clone(live), events...)
			if err != nil {
				t.Fatalf("%#v: %v", c, err)
			}
			if diff := domaintest.Diff(before, live); diff != "" {
				t.Fatalf("replaying on a clone changed the original (-before +after):\n%s", diff)
			}
			live, history = next, append(history, events...)
			sound(t, live)
		}
		again, err := order.Decider.Fold(order.Order{}, history...)
		if err != nil {
			t.Fatal(err)
		}
		if diff := domaintest.Diff(live, again); diff != "" {
			t.Fatalf("replay is not the life (-lived +replayed):\n%s", diff)
		}
		survives(t, "a life", live)
	})
}

// sound is what is true of every order at every time.
func sound(t *rapid.T, o order.Order) {
	t.Helper()
	var refunds, allocated int64
	packed, gone := map[int]int64{}, map[int]int64{}
	for _, p := range o.Parcels {
		for _, part := range p.Lines {
			switch p.Status {
			case order.ParcelIsPacked:
				packed[part.Line] += part.Quantity
			case order.ParcelIsShipped, order.ParcelIsDelivered:
				gone[part.Line] += part.Quantity
			case order.ParcelIsUnpacked:
			}
		}
	}
	back := map[int]order.RefundLine{}
	for _, r := range o.Refunds {
		refunds += r.Amount
		for _, l := range r.Lines {
			sum := back[l.Line]
			back[l.Line] = order.RefundLine{Unshipped: sum.Unshipped + l.Unshipped, Returned: sum.Returned + l.Returned, Amount: sum.Amount + l.Amount, Freight: sum.Freight + l.Freight}
			if l.Freight < 0 || l.Freight > l.Amount {
				t.Fatalf("%d of %d back are freight", l.Freight, l.Amount)
			}
		}
	}
	for _, it := range o.Lines {
		n := it.Line.Line
		if it.Packed != packed[n] || it.Shipped != gone[n] {
			t.Fatalf("line %d has %d packed and %d shipped; its parcels %d and %d", n, it.Packed, it.Shipped, packed[n], gone[n])
		}
		if want := (order.RefundLine{Unshipped: it.RefundedUnshipped, Returned: it.Returned, Amount: it.Refunded, Freight: it.RefundedFreight}); back[n] != want {
			t.Fatalf("line %d remembers %+v; its refunds sum to %+v", n, want, back[n])
		}
		if it.Packed+it.Shipped+it.RefundedUnshipped > it.Quantity || it.Returned > it.Shipped {
			t.Fatalf("line %d: %+v", n, it)
		}
		if it.Refunded > it.Quantity*(it.UnitPrice+it.Freight) {
			t.Fatalf("line %d gave back %d", n, it.Refunded)
		}
		if it.RefundedFreight > it.Quantity*it.Freight {
			t.Fatalf("line %d gave back %d of its freight", n, it.RefundedFreight)
		}
		allocated += it.Quantity - it.Shipped - it.RefundedUnshipped
	}
	if refunds != o.RefundedAmount() || refunds > o.Paid || o.Net() != o.Paid-refunds {
		t.Fatalf("refunds of %d, lines say %d, of %d paid", refunds, o.RefundedAmount(), o.Paid)
	}
	if at := o.CompletesAt(); !at.IsZero() && (o.Status != order.StatusShipped || o.Fulfilment() != order.Delivered) {
		t.Fatalf("a %s order that is %s completes at %s", o.Status, o.Fulfilment(), at)
	}
	soundly(t, o)
	ended := o.Status == order.StatusShipped || o.Status == order.StatusCompleted || o.Status == order.StatusRefunded
	if ended && allocated != 0 {
		t.Fatalf("a %s order with %d units left to ship", o.Status, allocated)
	}
	if o.Status == order.StatusPaid && refunds == o.Paid {
		t.Fatal("a paid order with all its money back")
	}
	if o.Status == order.StatusPaid && allocated == 0 && o.Fulfilment() != order.Unfulfilled {
		t.Fatal("a paid order that has shipped")
	}
}

// soundly is what is true of every order's settlement: it is of all that was not
// refunded before it, all that was refunded after it is the seller's, and the
// commission that went back is its share of that, to half a minor unit.
func soundly(t *rapid.T, o order.Order) {
	t.Helper()
	var before, since, commission int64
	for _, r := range o.Refunds {
		switch {
		case r.FromSeller:
			since, commission = since+r.Amount, commission+r.Commission
		case since > 0 || r.Commission != 0:
			t.Fatalf("refund %d is not from the seller", r.Refund)
		default:
			before += r.Amount
		}
		if r.Commission < 0 || r.Commission > r.Amount {
			t.Fatalf("refund %d gives back %d, and %d of the commission", r.Refund, r.Amount, r.Commission)
		}
	}
	s := o.Settlement
	if s == nil {
		if since > 0 {
			t.Fatalf("%d from a seller who was not settled with", since)
		}
		return
	}
	if o.Status != order.StatusCompleted || s.Gross != o.Paid-before || s.Gross-since != o.Net() {
		t.Fatalf("a %s order settled for %+v, %d paid, %d back before, %d since", o.Status, *s, o.Paid, before, since)
	}
	if s.Commission < 0 || s.Commission > s.Gross || s.Back != commission || s.Back > s.Commission {
		t.Fatalf("settled for %+v, %d of the commission is back", *s, commission)
	}
	if off := 2 * (s.Back*s.Gross - s.Commission*since); off > s.Gross || -off > s.Gross {
		t.Fatalf("settled for %+v, %d back since", *s, since)
	}
}

// However a life goes on, it reaches shipped, completed, cancelled and refunded
// at most once each, and never leaves an end.
func TestAnOrderNeverEndsTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var live order.Order
		seen := map[order.Status]bool{}
		for _, w := range alive(t) {
			c := w(live)
			events, _ := order.Decider.Decide(live, c)
			status := live.Status
			for _, e := range events {
				var err error
				if live, err = order.Decider.Evolve(live, e); err != nil {
					t.Fatal(err)
				}
				if live.Status == status {
					continue
				}
				if seen[live.Status] {
					t.Fatalf("%s again, after %s", live.Status, status)
				}
				status, seen[live.Status] = live.Status, true
			}
		}
		ends := 0
		for _, end := range []order.Status{order.StatusCompleted, order.StatusCancelled, order.StatusRefunded} {
			if seen[end] {
				ends++
			}
		}
		if ends > 1 {
			t.Fatalf("ended %d times: %v", ends, seen)
		}
	})
}

// Laws hold easily of what never happens. So these lives, always the same ones,
// see every event there is, and every way in which money moves.
func TestLivesSeeItAll(t *testing.T) {
	missing := map[string]bool{
		"freight by itself": true, "freight with units": true, "freight and goods from the seller": true, "commission back": true,
		"all money back from the seller": true, "a time to complete": true, "a payment that is not the first": true, "settled for nothing": true,
	}
	for _, e := range order.Types() {
		missing[e.Name] = true
	}
	names, err := event.NewRegistry(order.Types()...)
	if err != nil {
		t.Fatal(err)
	}
	lives := rapid.Custom(alive)
	for seed := 0; len(missing) > 0 && seed < 1000; seed++ {
		var live order.Order
		for _, w := range lives.Example(seed) {
			events, _ := order.Decider.Decide(live, w(live))
			for _, e := range events {
				stored, err := names.Encode(e)
				if err != nil {
					t.Fatal(err)
				}
				delete(missing, stored.Name)
				if live, err = order.Decider.Evolve(live, e); err != nil {
					t.Fatal(err)
				}
				for what, seen := range sights(live, e) {
					if seen {
						delete(missing, what)
					}
				}
			}
		}
	}
	if len(missing) > 0 {
		t.Fatalf("no life sees %v", slices.Sorted(maps.Keys(missing)))
	}
}

// sights is what there was to see in an event, and in the order after it.
func sights(o order.Order, e order.Event) map[string]bool {
	seen := map[string]bool{"a time to complete": !o.CompletesAt().IsZero()}
	switch e := e.(type) {
	case order.Paid:
		seen["a payment that is not the first"] = e.Payment != pays.Payment
	case order.Settled:
		seen["settled for nothing"] = e.Gross == 0
	case order.RefundIssued:
		for _, l := range e.Lines {
			units := l.Unshipped+l.Returned > 0
			seen["freight by itself"] = seen["freight by itself"] || !units && l.Freight > 0 && l.Freight == l.Amount
			seen["freight with units"] = seen["freight with units"] || units && l.Freight > 0
			seen["freight and goods from the seller"] = seen["freight and goods from the seller"] || e.FromSeller && l.Freight > 0 && l.Freight < l.Amount
		}
		seen["commission back"] = e.Commission > 0
		seen["all money back from the seller"] = e.FromSeller && o.Net() == 0
	default: // the rest is seen by its name
	}
	return seen
}

// A repeat of a command that cannot add up is answered with nothing or refused:
// all but refunds and packing may be sent again.
func TestSayingItTwiceChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var live order.Order
		for _, w := range alive(t) {
			c := w(live)
			for try := range 2 {
				events, err := order.Decider.Decide(live, c)
				switch c.(type) {
				case order.Refund, order.Pack:
				default:
					if try == 1 && len(events) > 0 {
						t.Fatalf("%#v twice: %v", c, events)
					}
				}
				if err != nil {
					break
				}
				if live, err = order.Decider.Fold(live, events...); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}
