package order_test

import (
	"fmt"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"cartwright/domain"
	"cartwright/domain/domaintest"
	"cartwright/domain/order"
)

// anything draws commands of which most make sense for an order of two lines
// with a few parcels, and some do not.
func anything() *rapid.Generator[order.Command] {
	return rapid.Custom(func(t *rapid.T) order.Command {
		number := func(of string) int { return rapid.IntRange(0, 4).Draw(t, of) }
		line := rapid.Custom(func(t *rapid.T) order.Part {
			return order.Part{Line: rapid.IntRange(1, 3).Draw(t, "line"), Quantity: rapid.Int64Range(-1, 4).Draw(t, "units")}
		})
		switch rapid.IntRange(0, 19).Draw(t, "kind") {
		case 0:
			return edit(func(c *order.Place) { c.Attempt = fmt.Sprint("a", number("attempt")) })
		case 1:
			return order.Abandon{Attempt: fmt.Sprint("a", number("attempt"))}
		case 2:
			return order.Pay{Amount: 430, Currency: "BRL", Method: "balance"}
		case 3:
			return order.RecordStockCommitted{}
		case 4:
			return order.RecordPaymentCaptured{}
		case 5:
			return order.RecordStockReleased{}
		case 6:
			return order.RecordStockShipped{Parcel: number("parcel")}
		case 7:
			return order.RecordRefundSettled{Refund: number("refund")}
		case 8:
			return order.Cancel{Cancellation: rapid.SampledFrom([]order.Cancellation{changed, timedOut, {}}).Draw(t, "cancellation")}
		case 9:
			return order.ChangeAddress{Address: []byte(strconv.Itoa(number("address")))}
		case 10, 11:
			return order.Pack{Lines: rapid.SliceOfN(line, 0, 3).Draw(t, "parts")}
		case 12, 13:
			return order.Pack{Lines: rapid.SliceOfN(line, 0, 3).Draw(t, "parts"), Carrier: "SF", Number: "N1"}
		case 14:
			return order.Unpack{Parcel: number("parcel")}
		case 15:
			return order.SetWaybill{Parcel: number("parcel"), Version: rapid.IntRange(0, 3).Draw(t, "version"), Carrier: "SF", Number: fmt.Sprint("N", number("waybill"))}
		case 16:
			return order.Deliver{Parcel: number("parcel")}
		case 17:
			return order.Complete{By: buyer}
		case 18:
			return order.Refund{By: "s1"}
		default:
			request := rapid.Custom(func(t *rapid.T) order.RefundRequest {
				r := order.RefundRequest{Line: rapid.IntRange(1, 3).Draw(t, "line"), Quantity: rapid.Int64Range(-1, 4).Draw(t, "units")}
				if rapid.Bool().Draw(t, "with an amount") {
					r.Amount = new(rapid.Int64Range(-1, 340).Draw(t, "amount"))
				}
				return r
			})
			return order.Refund{Lines: rapid.SliceOfN(request, 1, 3).Draw(t, "requests"), By: "s1", Restock: true}
		}
	})
}

// alive draws a life: commands, most often after the order is placed and paid.
func alive(t *rapid.T) []order.Command {
	commands := rapid.SliceOfN(anything(), 0, 40).Draw(t, "commands")
	begin := []order.Command{place, order.Pay{Amount: 430, Currency: "BRL", Method: "balance"}}
	return append(begin[:rapid.SampledFrom([]int{2, 2, 2, 1, 0}).Draw(t, "begun with")], commands...)
}

// Whatever is asked, in whatever order, what is decided can be replayed, leaves
// the state it was decided on alone, and keeps the sums right.
func TestDecisionsAlwaysReplay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var history []order.Event
		var live order.Order
		for _, c := range alive(t) {
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
			back[l.Line] = order.RefundLine{Unshipped: sum.Unshipped + l.Unshipped, Returned: sum.Returned + l.Returned, Amount: sum.Amount + l.Amount}
		}
	}
	for _, it := range o.Lines {
		n := it.Line.Line
		if it.Packed != packed[n] || it.Shipped != gone[n] {
			t.Fatalf("line %d has %d packed and %d shipped; its parcels %d and %d", n, it.Packed, it.Shipped, packed[n], gone[n])
		}
		if want := (order.RefundLine{Unshipped: it.RefundedUnshipped, Returned: it.Returned, Amount: it.Refunded}); back[n] != want {
			t.Fatalf("line %d remembers %+v; its refunds sum to %+v", n, want, back[n])
		}
		if it.Packed+it.Shipped+it.RefundedUnshipped > it.Quantity || it.Returned > it.Shipped {
			t.Fatalf("line %d: %+v", n, it)
		}
		if it.Refunded > it.Quantity*(it.UnitPrice+it.Freight) {
			t.Fatalf("line %d gave back %d", n, it.Refunded)
		}
		allocated += it.Quantity - it.Shipped - it.RefundedUnshipped
	}
	if refunds != o.RefundedAmount() || refunds > o.Paid {
		t.Fatalf("refunds of %d, lines say %d, of %d paid", refunds, o.RefundedAmount(), o.Paid)
	}
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

// However a life goes on, it reaches shipped, completed, cancelled and refunded
// at most once each, and never leaves an end.
func TestAnOrderNeverEndsTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var live order.Order
		seen := map[order.Status]bool{}
		for _, c := range alive(t) {
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

// A repeat of a command that cannot add up is answered with nothing or refused:
// all but refunds and packing may be sent again.
func TestSayingItTwiceChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var live order.Order
		for _, c := range alive(t) {
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
