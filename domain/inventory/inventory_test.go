package inventory_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"cartwright/domain"
	"cartwright/domain/domaintest"
	"cartwright/domain/inventory"
	"cartwright/domain/orderid"
	"cartwright/domain/sharedmap"
)

type (
	stock   = inventory.Stock
	command = inventory.Command
	event   = inventory.Event
)

var now = time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC)

func given(tb testing.TB, past ...event) *domaintest.Spec[stock, command, event] {
	tb.Helper()
	return domaintest.Given(tb, inventory.Decider, past...)
}

// orderAt is the id of a checkout made this long ago.
func orderAt(tb testing.TB, ago time.Duration, buyer string) string {
	tb.Helper()
	id, err := orderid.Make(now.Add(-ago), 0, buyer)
	if err != nil {
		tb.Fatal(err)
	}
	return string(id)
}

const overLimit = inventory.Limit + 1

func TestTheShelf(t *testing.T) {
	ten := inventory.Received{Quantity: 10, Reference: "truck 1"}
	held := inventory.Held{Order: orderAt(t, 0, "1"), Attempt: "a", Quantity: 4}
	long := strings.Repeat("ü", 501)

	for _, tt := range []struct {
		name string
		past []event
		c    command
		want event // nil means that nothing happens
	}{
		{"goods are received", nil, inventory.Receive{Quantity: 10, Reference: "truck 1"}, ten},
		{"the most there can be is received", nil, inventory.Receive{Quantity: inventory.Limit}, inventory.Received{Quantity: inventory.Limit}},
		{
			"the shelf is corrected",
			[]event{ten},
			inventory.Adjust{OnHand: -2, Unavailable: 3, Reason: "dropped"},
			inventory.Adjusted{OnHand: -2, Unavailable: 3, Reason: "dropped"},
		},
		{
			"the shelf is corrected down to nothing",
			[]event{ten},
			inventory.Adjust{OnHand: -10, Reason: long[:1000]},
			inventory.Adjusted{OnHand: -10, Reason: long[:1000]},
		},
		{
			"unavailable goods become available",
			[]event{ten, inventory.Adjusted{Unavailable: 3, Reason: "wet"}},
			inventory.Adjust{Unavailable: -3, Reason: "dry"},
			inventory.Adjusted{Unavailable: -3, Reason: "dry"},
		},
		{
			"what is held stays sellable to its order",
			[]event{ten, held},
			inventory.Adjust{OnHand: -6, Reason: "lost"},
			inventory.Adjusted{OnHand: -6, Reason: "lost"},
		},
		{"the shelf is corrected up to its end", nil, inventory.Adjust{OnHand: inventory.Limit, Reason: "found"}, inventory.Adjusted{OnHand: inventory.Limit, Reason: "found"}},
		{"and down from it", []event{inventory.Received{Quantity: inventory.Limit}}, inventory.Adjust{OnHand: -inventory.Limit, Reason: "lost"}, inventory.Adjusted{OnHand: -inventory.Limit, Reason: "lost"}},
		{"a stocktake sets the shelf", []event{ten}, inventory.Count{OnHand: 8, Reason: "june"}, inventory.Counted{OnHand: 8, Reason: "june"}},
		{"a stocktake that finds what was known is recorded", []event{ten}, inventory.Count{OnHand: 10, Reason: "june"}, inventory.Counted{OnHand: 10, Reason: "june"}},
		{"a stocktake may find nothing", nil, inventory.Count{Reason: "june"}, inventory.Counted{Reason: "june"}},
		{"a stocktake finds the most there can be", nil, inventory.Count{OnHand: inventory.Limit, Reason: "june"}, inventory.Counted{OnHand: inventory.Limit, Reason: "june"}},
		{"some is kept back", []event{ten}, inventory.SetPolicy{Safety: 10, Backorder: 5}, inventory.PolicySet{Safety: 10, Backorder: 5}},
		{"the same policy again changes nothing", []event{inventory.PolicySet{Backorder: 5}}, inventory.SetPolicy{Backorder: 5}, nil},
		{"the first policy is recorded though it is none", nil, inventory.SetPolicy{}, inventory.PolicySet{}},
		{"another safety is another policy", []event{ten}, inventory.SetPolicy{Safety: 1}, inventory.PolicySet{Safety: 1}},
		{"another backorder is another policy", []event{ten}, inventory.SetPolicy{Backorder: 1}, inventory.PolicySet{Backorder: 1}},
		{"all may be promised that is not there", nil, inventory.SetPolicy{Backorder: inventory.Limit}, inventory.PolicySet{Backorder: inventory.Limit}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.want == nil {
				given(t, tt.past...).When(tt.c).Then()
				return
			}
			given(t, tt.past...).When(tt.c).Then(tt.want)
		})
	}
	for _, tt := range []struct {
		name   string
		past   []event
		c      command
		code   domain.Code
		reason string
	}{
		{"nothing can't be received", nil, inventory.Receive{}, domain.Invalid, "bad_quantity"},
		{"less than nothing can't be received", nil, inventory.Receive{Quantity: -1}, domain.Invalid, "bad_quantity"},
		{"too much can't be received", nil, inventory.Receive{Quantity: overLimit}, domain.Invalid, "quantity_overflow"},
		{"the shelf has an end", []event{ten}, inventory.Receive{Quantity: inventory.Limit - 9}, domain.Invalid, "quantity_overflow"},
		{"a reference has an end", nil, inventory.Receive{Quantity: 1, Reference: long}, domain.Invalid, "invalid_text"},
		{"a correction says why", []event{ten}, inventory.Adjust{OnHand: 1, Reason: " \t"}, domain.Invalid, "no_reason"},
		{"a reason has an end", []event{ten}, inventory.Adjust{OnHand: 1, Reason: long}, domain.Invalid, "invalid_text"},
		{"a correction changes something", []event{ten}, inventory.Adjust{Reason: "why not"}, domain.Invalid, "bad_quantity"},
		{"a shelf is not corrected below nothing", []event{ten, inventory.PolicySet{Backorder: 100}}, inventory.Adjust{OnHand: -11, Reason: "lost"}, domain.Conflict, "not_on_hand"},
		{"nor what is unavailable", []event{ten}, inventory.Adjust{Unavailable: -1, Reason: "dry"}, domain.Conflict, "not_unavailable"},
		{"a correction does not oversell", []event{ten, held}, inventory.Adjust{OnHand: -7, Reason: "lost"}, domain.Conflict, "would_oversell"},
		{"nor does one of what is unavailable", []event{ten, held}, inventory.Adjust{Unavailable: 7, Reason: "wet"}, domain.Conflict, "would_oversell"},
		{"a correction upwards has an end", nil, inventory.Adjust{OnHand: overLimit, Reason: "found"}, domain.Invalid, "quantity_overflow"},
		{"a correction downwards has an end", nil, inventory.Adjust{OnHand: -overLimit, Reason: "lost"}, domain.Invalid, "quantity_overflow"},
		{"a correction of the unavailable has an end", nil, inventory.Adjust{Unavailable: -1 << 63, Reason: "lost"}, domain.Invalid, "quantity_overflow"},
		{"more can't be unavailable than there can be", []event{ten, inventory.PolicySet{Backorder: inventory.Limit}, inventory.Adjusted{Unavailable: 5, Reason: "wet"}}, inventory.Adjust{Unavailable: inventory.Limit - 4, Reason: "wet"}, domain.Invalid, "quantity_overflow"},
		{"a stocktake finds no debts", []event{ten}, inventory.Count{OnHand: -1, Reason: "june"}, domain.Invalid, "bad_quantity"},
		{"a stocktake has an end", []event{ten}, inventory.Count{OnHand: overLimit, Reason: "june"}, domain.Invalid, "quantity_overflow"},
		{"a stocktake says why", []event{ten}, inventory.Count{OnHand: 1}, domain.Invalid, "no_reason"},
		{"a stocktake does not oversell", []event{ten, held}, inventory.Count{OnHand: 3, Reason: "june"}, domain.Conflict, "would_oversell"},
		{"safety is not negative", nil, inventory.SetPolicy{Safety: -1}, domain.Invalid, "bad_quantity"},
		{"backorder is not negative", nil, inventory.SetPolicy{Backorder: -1}, domain.Invalid, "bad_quantity"},
		{"safety has an end", nil, inventory.SetPolicy{Safety: overLimit}, domain.Invalid, "quantity_overflow"},
		{"backorder has an end", nil, inventory.SetPolicy{Backorder: overLimit}, domain.Invalid, "quantity_overflow"},
		{"a policy does not oversell", []event{ten, held}, inventory.SetPolicy{Safety: 7}, domain.Conflict, "would_oversell"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			given(t, tt.past...).When(tt.c).ThenRefused(tt.code, tt.reason)
		})
	}
}

func TestRefusalsSayByHowMuch(t *testing.T) {
	order := orderAt(t, 0, "1")
	s, err := inventory.Decider.Fold(stock{}, inventory.Received{Quantity: 10}, inventory.PolicySet{Backorder: 2})
	if err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]command{
		"That is 3 more than can be sold.":                    inventory.Hold{Order: order, Attempt: "a", Quantity: 15, Now: now},
		"There are 4 fewer on the shelf than that.":           inventory.Adjust{OnHand: -14, Reason: "lost"},
		"There are 5 fewer unavailable than that.":            inventory.Adjust{Unavailable: -5, Reason: "dry"},
		"A quantity is at least 1, not -7.":                   inventory.Receive{Quantity: -7},
		"No goods are reserved for order " + order + " here.": inventory.Ship{Order: order, Parcel: "1", Quantity: 1},
	} {
		_, err := inventory.Decider.Decide(s, c)
		if e, ok := errors.AsType[*domain.Error](err); !ok || e.Detail != want {
			t.Errorf("%#v: got %v; want %q", c, err, want)
		}
	}
}

func TestHolding(t *testing.T) {
	order := orderAt(t, 0, "1")
	hold := inventory.Hold{Order: order, Attempt: "a", Quantity: 4, Now: now, Expires: now.Add(30 * time.Minute)}
	held := inventory.Held{Order: order, Attempt: "a", Quantity: 4, Expires: now.Add(30 * time.Minute)}
	committed := inventory.Committed{Order: order, Quantity: 4}
	released := inventory.Released{Order: order, Attempt: "a", Quantity: 4, Reason: "timeout"}
	shipped := inventory.ShippedOut{Order: order, Parcel: "p", Quantity: 4}
	four := inventory.Received{Quantity: 4}
	with := func(change func(*inventory.Hold)) inventory.Hold {
		h := hold
		change(&h)
		return h
	}
	attemptB := with(func(h *inventory.Hold) { h.Attempt = "b" })

	t.Run("the last goods are held", func(t *testing.T) {
		given(t, four).When(hold).Then(held)
	})
	t.Run("a hold is kept in UTC", func(t *testing.T) {
		local := hold.Expires.In(time.FixedZone("CST", 8*3600))
		given(t, four).When(with(func(h *inventory.Hold) { h.Expires = local })).Then(held)
	})
	t.Run("one more than there is is refused", func(t *testing.T) {
		given(t, four).When(with(func(h *inventory.Hold) { h.Quantity = 5 })).ThenRefused(domain.Conflict, "out_of_stock")
	})
	t.Run("a SKU nobody ever stocked is out of stock", func(t *testing.T) {
		given(t).When(with(func(h *inventory.Hold) { h.Quantity = 1 })).ThenRefused(domain.Conflict, "out_of_stock")
	})
	t.Run("what is unavailable or kept back is not held", func(t *testing.T) {
		given(t, inventory.Received{Quantity: 6}, inventory.PolicySet{Safety: 1}, inventory.Adjusted{Unavailable: 2, Reason: "wet"}).
			When(hold).ThenRefused(domain.Conflict, "out_of_stock")
	})
	t.Run("a backorder covers what is not there", func(t *testing.T) {
		given(t, inventory.PolicySet{Backorder: 4}).When(hold).Then(held)
	})
	t.Run("a backorder has its limit", func(t *testing.T) {
		given(t, inventory.PolicySet{Backorder: 3}).When(hold).ThenRefused(domain.Conflict, "out_of_stock")
	})
	t.Run("the same hold again changes nothing", func(t *testing.T) {
		given(t, four, held).When(hold).Then()
	})
	t.Run("nor does it when the id has grown old", func(t *testing.T) {
		given(t, four, held).When(with(func(h *inventory.Hold) { h.Now = now.Add(48 * time.Hour) })).Then()
	})
	t.Run("the same attempt can't hold another quantity", func(t *testing.T) {
		given(t, four, held).When(with(func(h *inventory.Hold) { h.Quantity = 3 })).ThenRefused(domain.Conflict, "hold_differs")
	})
	t.Run("two attempts of an order don't hold at once", func(t *testing.T) {
		given(t, inventory.Received{Quantity: 9}, held).When(attemptB).ThenRefused(domain.Conflict, "hold_open")
	})
	t.Run("the refusal names the attempt that holds", func(t *testing.T) {
		state, err := inventory.Decider.Fold(stock{}, four, held)
		if err != nil {
			t.Fatal(err)
		}
		_, err = inventory.Decider.Decide(state, attemptB)
		if open, ok := errors.AsType[*inventory.HoldOpenError](err); !ok || open.Attempt != "a" {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("another attempt holds after the first was released", func(t *testing.T) {
		given(t, four, held, released).When(attemptB).Then(inventory.Held{Order: order, Attempt: "b", Quantity: 4, Expires: hold.Expires})
	})
	t.Run("an attempt that was released does not hold again", func(t *testing.T) {
		given(t, four, held, released).When(hold).ThenRefused(domain.Conflict, "hold_closed")
	})
	t.Run("an attempt that sold does not hold again", func(t *testing.T) {
		given(t, four, held, committed, shipped, four).When(hold).ThenRefused(domain.Conflict, "hold_closed")
	})
	t.Run("an order that is paid does not hold", func(t *testing.T) {
		given(t, inventory.Received{Quantity: 9}, held, committed).When(hold).ThenRefused(domain.Conflict, "hold_committed")
	})
	t.Run("an order that is paid does not hold by another attempt", func(t *testing.T) {
		given(t, inventory.Received{Quantity: 9}, held, committed).When(attemptB).ThenRefused(domain.Conflict, "hold_committed")
	})
	t.Run("an order that was shipped does not hold by another attempt", func(t *testing.T) {
		given(t, inventory.Received{Quantity: 9}, held, committed, shipped).When(attemptB).ThenRefused(domain.Conflict, "hold_committed")
	})
	for name, id := range map[string]string{"short": "123", "empty": "", "worded": "abcdefghijklmnopqrs"} {
		t.Run("an order id that is "+name+" is refused", func(t *testing.T) {
			given(t, four).When(with(func(h *inventory.Hold) { h.Order = id })).ThenRefused(domain.Invalid, "invalid_order_id")
		})
	}
	t.Run("an order id of a day ago still holds", func(t *testing.T) {
		given(t, four).When(with(func(h *inventory.Hold) { h.Now = now.Add(24 * time.Hour) })).Then(held)
	})
	t.Run("an older order id is refused", func(t *testing.T) {
		given(t, four).When(with(func(h *inventory.Hold) { h.Now = now.Add(24*time.Hour + 1) })).ThenRefused(domain.Conflict, "order_id_expired")
	})
	t.Run("a clock an hour behind still holds", func(t *testing.T) {
		given(t, four).When(with(func(h *inventory.Hold) { h.Now = now.Add(-time.Hour) })).Then(held)
	})
	t.Run("an order id from the future is refused", func(t *testing.T) {
		given(t, four).When(with(func(h *inventory.Hold) { h.Now = now.Add(-time.Hour - 1) })).ThenRefused(domain.Invalid, "invalid_order_id")
	})
	t.Run("nothing can't be held", func(t *testing.T) {
		given(t, four, held).When(with(func(h *inventory.Hold) { h.Quantity = 0 })).ThenRefused(domain.Invalid, "bad_quantity")
	})
	t.Run("too much can't be held", func(t *testing.T) {
		given(t, four).When(with(func(h *inventory.Hold) { h.Quantity = overLimit })).ThenRefused(domain.Invalid, "quantity_overflow")
	})
	t.Run("a hold names its attempt", func(t *testing.T) {
		given(t, four).When(with(func(h *inventory.Hold) { h.Attempt = "" })).ThenRefused(domain.Invalid, "no_key")
	})
	t.Run("an attempt's name has an end", func(t *testing.T) {
		given(t, four).When(with(func(h *inventory.Hold) { h.Attempt = strings.Repeat("a", 501) })).ThenRefused(domain.Invalid, "invalid_text")
	})
}

func TestCommitAndRelease(t *testing.T) {
	order := orderAt(t, 0, "1")
	four := inventory.Received{Quantity: 4}
	held := inventory.Held{Order: order, Attempt: "a", Quantity: 4}
	committed := inventory.Committed{Order: order, Quantity: 4}
	released := inventory.Released{Order: order, Attempt: "a", Quantity: 4, Reason: "timeout"}
	shipped := inventory.ShippedOut{Order: order, Parcel: "p", Quantity: 4}
	release := inventory.Release{Order: order, Attempt: "a", Reason: "timeout"}

	t.Run("a hold is committed", func(t *testing.T) {
		given(t, four, held).When(inventory.Commit{Order: order}).Then(committed)
	})
	t.Run("a second commit changes nothing", func(t *testing.T) {
		given(t, four, held, committed).When(inventory.Commit{Order: order}).Then()
	})
	t.Run("a commit after all has shipped changes nothing", func(t *testing.T) {
		given(t, four, held, committed, shipped).When(inventory.Commit{Order: order}).Then()
	})
	t.Run("what was never held is not committed", func(t *testing.T) {
		given(t, four).When(inventory.Commit{Order: order}).ThenRefused(domain.Conflict, "unknown_reservation")
	})
	t.Run("what was released is not committed", func(t *testing.T) {
		given(t, four, held, released).When(inventory.Commit{Order: order}).ThenRefused(domain.Conflict, "unknown_reservation")
	})
	t.Run("a hold is released", func(t *testing.T) {
		given(t, four, held).When(release).Then(released)
	})
	t.Run("a second release changes nothing", func(t *testing.T) {
		given(t, four, held, released).When(release).Then()
	})
	t.Run("a release of nothing changes nothing", func(t *testing.T) {
		given(t, four).When(release).Then()
	})
	t.Run("a release leaves another attempt's hold alone", func(t *testing.T) {
		given(t, four, held).When(inventory.Release{Order: order, Attempt: "b"}).Then()
	})
	t.Run("a release leaves what another attempt sold alone", func(t *testing.T) {
		given(t, four, held, committed).When(inventory.Release{Order: order, Attempt: "b"}).Then()
	})
	t.Run("what is paid for is not released", func(t *testing.T) {
		given(t, four, held, committed).When(release).ThenRefused(domain.Conflict, "hold_committed")
	})
	t.Run("a reason has an end", func(t *testing.T) {
		given(t, four, held).When(inventory.Release{Order: order, Attempt: "a", Reason: strings.Repeat("a", 501)}).
			ThenRefused(domain.Invalid, "invalid_text")
	})
}

func TestShippingAndGivingUp(t *testing.T) {
	order := orderAt(t, 0, "1")
	past := []event{
		inventory.Received{Quantity: 9},
		inventory.Held{Order: order, Attempt: "a", Quantity: 4},
		inventory.Committed{Order: order, Quantity: 4},
	}
	after := func(more ...event) []event { return append(past[:3:3], more...) }
	shipped := func(parcel string, q int64) inventory.ShippedOut {
		return inventory.ShippedOut{Order: order, Parcel: parcel, Quantity: q}
	}
	given0 := func(refund string, q int64) inventory.Deallocated {
		return inventory.Deallocated{Order: order, Refund: refund, Quantity: q}
	}
	for _, tt := range []struct {
		name string
		past []event
		c    command
		want []event
	}{
		{"a parcel ships", past, inventory.Ship{Order: order, Parcel: "1", Quantity: 3}, []event{shipped("1", 3)}},
		{"all ships", past, inventory.Ship{Order: order, Parcel: "1", Quantity: 4}, []event{shipped("1", 4)}},
		{"another parcel ships", after(shipped("1", 3)), inventory.Ship{Order: order, Parcel: "2", Quantity: 1}, []event{shipped("2", 1)}},
		{"a parcel ships once", after(shipped("1", 3)), inventory.Ship{Order: order, Parcel: "1", Quantity: 3}, nil},
		{"the last parcel ships once", after(shipped("1", 3), shipped("2", 1)), inventory.Ship{Order: order, Parcel: "2", Quantity: 1}, nil},
		{"so does the first when all has shipped", after(shipped("1", 3), shipped("2", 1)), inventory.Ship{Order: order, Parcel: "1", Quantity: 3}, nil},
		{"paid goods are given up", past, inventory.Deallocate{Order: order, Refund: "1", Quantity: 4}, []event{given0("1", 4)}},
		{"what has not shipped is given up", after(shipped("1", 3)), inventory.Deallocate{Order: order, Refund: "1", Quantity: 1}, []event{given0("1", 1)}},
		{"a refund gives up once", after(given0("1", 3)), inventory.Deallocate{Order: order, Refund: "1", Quantity: 3}, nil},
		{"another refund gives up more", after(given0("1", 2)), inventory.Deallocate{Order: order, Refund: "2", Quantity: 1}, []event{given0("2", 1)}},
		{"also when nothing is left", after(given0("1", 3), shipped("1", 1)), inventory.Deallocate{Order: order, Refund: "1", Quantity: 3}, nil},
		{"parcels and refunds are told apart", after(given0("1", 3)), inventory.Ship{Order: order, Parcel: "1", Quantity: 1}, []event{shipped("1", 1)}},
	} {
		t.Run(tt.name, func(t *testing.T) { given(t, tt.past...).When(tt.c).Then(tt.want...) })
	}

	other := orderAt(t, time.Hour, "2")
	held := inventory.Held{Order: other, Attempt: "a", Quantity: 4}
	for _, tt := range []struct {
		name   string
		past   []event
		c      command
		code   domain.Code
		reason string
	}{
		{"no more ships than was sold", past, inventory.Ship{Order: order, Parcel: "1", Quantity: 5}, domain.Conflict, "more_than_allocated"},
		{"no more ships than is left", after(shipped("1", 3), given0("1", 1)), inventory.Ship{Order: order, Parcel: "2", Quantity: 1}, domain.Conflict, "unknown_reservation"},
		{"no more ships than was not given up", after(given0("1", 2)), inventory.Ship{Order: order, Parcel: "2", Quantity: 3}, domain.Conflict, "more_than_allocated"},
		{"no more is given up than has not shipped", after(shipped("1", 2)), inventory.Deallocate{Order: order, Refund: "1", Quantity: 3}, domain.Conflict, "more_than_allocated"},
		{"a parcel is not another", after(shipped("1", 3)), inventory.Ship{Order: order, Parcel: "1", Quantity: 1}, domain.Conflict, "parcel_differs"},
		{"a refund is not another", after(given0("1", 3)), inventory.Deallocate{Order: order, Refund: "1", Quantity: 1}, domain.Conflict, "refund_differs"},
		{"what is not paid does not ship", after(held), inventory.Ship{Order: other, Parcel: "1", Quantity: 1}, domain.Conflict, "not_allocated"},
		{"what is not paid is not given up", after(held), inventory.Deallocate{Order: other, Refund: "1", Quantity: 1}, domain.Conflict, "not_allocated"},
		{"what was never sold does not ship", past, inventory.Ship{Order: other, Parcel: "1", Quantity: 1}, domain.Conflict, "unknown_reservation"},
		{"what was never sold is not given up", past, inventory.Deallocate{Order: other, Refund: "1", Quantity: 1}, domain.Conflict, "unknown_reservation"},
		{
			"what is not on the shelf does not ship",
			[]event{inventory.Received{Quantity: 2}, inventory.PolicySet{Backorder: 2}, past[1], past[2]},
			inventory.Ship{Order: order, Parcel: "1", Quantity: 3},
			domain.Conflict, "not_on_hand",
		},
		{"nothing can't ship", past, inventory.Ship{Order: order, Parcel: "1"}, domain.Invalid, "bad_quantity"},
		{"less than nothing can't be given up", past, inventory.Deallocate{Order: order, Refund: "1", Quantity: -1}, domain.Invalid, "bad_quantity"},
		{"too much can't ship", past, inventory.Ship{Order: order, Parcel: "1", Quantity: overLimit}, domain.Invalid, "quantity_overflow"},
		{"much more than was sold does not ship", past, inventory.Ship{Order: order, Parcel: "1", Quantity: inventory.Limit}, domain.Conflict, "more_than_allocated"},
		{"a parcel has a key", past, inventory.Ship{Order: order, Quantity: 1}, domain.Invalid, "no_key"},
		{"a refund has a key", past, inventory.Deallocate{Order: order, Quantity: 1}, domain.Invalid, "no_key"},
	} {
		t.Run(tt.name, func(t *testing.T) { given(t, tt.past...).When(tt.c).ThenRefused(tt.code, tt.reason) })
	}
}

func TestReturns(t *testing.T) {
	restock := inventory.Restock{Order: "o", Refund: "1", Quantity: 2}
	restocked := inventory.Restocked{Order: "o", Refund: "1", Quantity: 2}
	damaged := inventory.Restocked{Order: "o", Refund: "2", Quantity: 3, Damaged: true}

	t.Run("goods of an order long forgotten come back", func(t *testing.T) {
		given(t).When(restock).Then(restocked)
	})
	t.Run("they come back once", func(t *testing.T) {
		given(t, restocked).When(restock).Then()
	})
	t.Run("another refund brings more", func(t *testing.T) {
		given(t, restocked).When(inventory.Restock{Order: "o", Refund: "2", Quantity: 3, Damaged: true}).Then(damaged)
	})
	t.Run("a refund is not another", func(t *testing.T) {
		given(t, restocked).When(inventory.Restock{Order: "o", Refund: "1", Quantity: 1}).ThenRefused(domain.Conflict, "refund_differs")
	})
	t.Run("a return has a key", func(t *testing.T) {
		given(t).When(inventory.Restock{Order: "o", Quantity: 1}).ThenRefused(domain.Invalid, "no_key")
	})
	t.Run("a return has an order", func(t *testing.T) {
		given(t).When(inventory.Restock{Refund: "1", Quantity: 1}).ThenRefused(domain.Invalid, "no_key")
	})
	t.Run("nothing does not come back", func(t *testing.T) {
		given(t).When(inventory.Restock{Order: "o", Refund: "1"}).ThenRefused(domain.Invalid, "bad_quantity")
	})
	t.Run("damaged goods are there and not for sale", func(t *testing.T) {
		s, err := inventory.Decider.Fold(stock{}, restocked, damaged)
		if err != nil || s.OnHand != 5 || s.Unavailable != 3 || s.Available() != 2 {
			t.Fatalf("got %+v, %v", s, err)
		}
	})
}

// Where the counters stand after each event of one order's life.
func TestTheCountersFollowTheFormula(t *testing.T) {
	order, next := orderAt(t, 0, "1"), orderAt(t, 0, "2")
	var s stock
	for i, step := range []struct {
		e                                            event
		onHand, held, allocated, unavailable, toSell int64
	}{
		{inventory.Received{Quantity: 20}, 20, 0, 0, 0, 20},
		{inventory.Adjusted{OnHand: -1, Unavailable: 2, Reason: "wet"}, 19, 0, 0, 2, 17},
		{inventory.PolicySet{Safety: 3, Backorder: 1}, 19, 0, 0, 2, 14},
		{inventory.Held{Order: order, Attempt: "a", Quantity: 7}, 19, 7, 0, 2, 7},
		{inventory.Held{Order: next, Attempt: "a", Quantity: 8}, 19, 15, 0, 2, -1},
		{inventory.Committed{Order: order, Quantity: 7}, 19, 8, 7, 2, -1},
		{inventory.Released{Order: next, Attempt: "a", Quantity: 8, Reason: "timeout"}, 19, 0, 7, 2, 7},
		{inventory.ShippedOut{Order: order, Parcel: "1", Quantity: 4}, 15, 0, 3, 2, 7},
		{inventory.Deallocated{Order: order, Refund: "1", Quantity: 3}, 15, 0, 0, 2, 10},
		{inventory.Restocked{Order: order, Refund: "2", Quantity: 2}, 17, 0, 0, 2, 12},
		{inventory.Restocked{Order: order, Refund: "3", Quantity: 1, Damaged: true}, 18, 0, 0, 3, 12},
		{inventory.Counted{OnHand: 30, Reason: "june"}, 30, 0, 0, 3, 24},
	} {
		var err error
		if s, err = inventory.Decider.Evolve(s, step.e); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		got := fmt.Sprint(s.Known, s.OnHand, s.Held, s.Allocated, s.Unavailable, s.Available())
		if want := fmt.Sprint(true, step.onHand, step.held, step.allocated, step.unavailable, step.toSell); got != want {
			t.Fatalf("after step %d, %T: got %s, want %s", i, step.e, got, want)
		}
		if err := s.Check(); err != nil {
			t.Fatalf("after step %d: %v", i, err)
		}
	}
	if s.Reservations.Len() != 0 {
		t.Errorf("reservations that ended are still open: %d", s.Reservations.Len())
	}
}

func TestHistoriesThatCannotHaveHappened(t *testing.T) {
	order := orderAt(t, 0, "1")
	four := inventory.Received{Quantity: 4}
	held := inventory.Held{Order: order, Attempt: "a", Quantity: 4}
	committed := inventory.Committed{Order: order, Quantity: 4}
	shipped := inventory.ShippedOut{Order: order, Parcel: "1", Quantity: 2}
	for name, past := range map[string][]event{
		"more held than there is":                    {four, inventory.Held{Order: order, Attempt: "a", Quantity: 5}},
		"held twice":                                 {inventory.Received{Quantity: 8}, held, held},
		"held for an order without a time":           {four, inventory.Held{Order: "7", Attempt: "a", Quantity: 1}},
		"held nothing":                               {four, inventory.Held{Order: order, Attempt: "a"}},
		"held again after the release":               {four, held, inventory.Released{Order: order, Attempt: "a", Quantity: 4}, held},
		"committed what nobody held":                 {four, committed},
		"committed twice":                            {four, held, committed, committed},
		"committed another quantity":                 {four, held, inventory.Committed{Order: order, Quantity: 3}},
		"released what nobody held":                  {four, inventory.Released{Order: order, Attempt: "a", Quantity: 4}},
		"released another attempt":                   {four, held, inventory.Released{Order: order, Attempt: "b", Quantity: 4}},
		"released another quantity":                  {four, held, inventory.Released{Order: order, Attempt: "a", Quantity: 3}},
		"released what was paid":                     {four, held, committed, inventory.Released{Order: order, Attempt: "a", Quantity: 4}},
		"shipped before it was paid":                 {four, held, shipped},
		"shipped one parcel twice":                   {four, held, committed, shipped, shipped},
		"shipped one parcel twice, and that was all": {inventory.Received{Quantity: 8}, held, committed, inventory.ShippedOut{Order: order, Parcel: "1", Quantity: 4}, shipped},
		"gave up more than was left":                 {four, held, committed, inventory.Deallocated{Order: order, Refund: "1", Quantity: 5}},
		"gave up for one refund twice":               {four, held, committed, inventory.Deallocated{Order: order, Refund: "1", Quantity: 1}, inventory.Deallocated{Order: order, Refund: "1", Quantity: 1}},
		"one refund came back twice":                 {inventory.Restocked{Order: order, Refund: "1", Quantity: 1}, inventory.Restocked{Order: order, Refund: "1", Quantity: 1}},
		"received less than nothing":                 {four, inventory.Received{Quantity: -1}},
		"came back less than nothing":                {four, inventory.Restocked{Order: order, Refund: "1", Quantity: -1}},
		"corrected the shelf to less than nothing":   {four, inventory.Adjusted{OnHand: -5}},
		"counted less than nothing":                  {four, inventory.Counted{OnHand: -1}},
		"counted less than was promised":             {four, held, inventory.Counted{OnHand: 3}},
		"kept back what was promised":                {four, held, inventory.PolicySet{Safety: 1}},
		"came back more than there can be":           {four, inventory.Restocked{Order: order, Refund: "1", Quantity: inventory.Limit}},
		"more damaged than there can be":             {inventory.Adjusted{OnHand: 1, Unavailable: 1}, inventory.Restocked{Order: order, Refund: "1", Quantity: inventory.Limit, Damaged: true}},
		"kept back more than there can be":           {four, inventory.PolicySet{Safety: overLimit}},
		"promised more than there can ever be":       {inventory.PolicySet{Backorder: overLimit}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := inventory.Decider.Fold(stock{}, past...)
			if e, ok := errors.AsType[*domain.ReplayError](err); !ok || e.At != len(past)-1 || domain.CodeOf(err) != "" {
				t.Fatalf("got %v; want the last of %d events refused, without a code", err, len(past))
			}
		})
	}
}

func TestAStockKnowsWhoHasHeldOfIt(t *testing.T) {
	open, paid, gone, shipped := orderAt(t, 0, "1"), orderAt(t, 0, "2"), orderAt(t, 0, "3"), orderAt(t, 0, "4")
	s, err := inventory.Decider.Fold(stock{}, inventory.Received{Quantity: 10},
		inventory.Held{Order: open, Attempt: "a", Quantity: 1},
		inventory.Held{Order: paid, Attempt: "a", Quantity: 1}, inventory.Committed{Order: paid, Quantity: 1},
		inventory.Held{Order: gone, Attempt: "a", Quantity: 1}, inventory.Released{Order: gone, Attempt: "a", Quantity: 1},
		inventory.Held{Order: shipped, Attempt: "a", Quantity: 1}, inventory.Committed{Order: shipped, Quantity: 1},
		inventory.ShippedOut{Order: shipped, Parcel: "p", Quantity: 1})
	if err != nil {
		t.Fatal(err)
	}
	for what, order := range map[string]string{"holds": open, "has paid": paid, "was released": gone, "was shipped": shipped} {
		if !s.Knows(order) {
			t.Errorf("who %s is not known", what)
		}
	}
	if s.Knows(orderAt(t, 0, "5")) {
		t.Error("who never held is known")
	}
}

// However much is forgotten meanwhile, an order whose hold has ended never gets a second one.
func TestALateRepeatNeverHoldsAgain(t *testing.T) {
	const hours = 24 * 8
	first := orderAt(t, 0, "1")
	s, err := inventory.Decider.Fold(stock{}, inventory.Received{Quantity: inventory.Limit},
		inventory.Held{Order: first, Attempt: "a", Quantity: 1}, inventory.Released{Order: first, Attempt: "a", Quantity: 1})
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]bool{}
	for hour := range hours {
		later := now.Add(time.Duration(hour) * time.Hour)
		_, err := inventory.Decider.Decide(s, inventory.Hold{Order: first, Attempt: "a", Quantity: 1, Now: later})
		if reasons[domain.ReasonOf(err)] = true; err == nil {
			t.Fatalf("held again after %d hours", hour)
		}
		id := orderAt(t, -time.Duration(hour)*time.Hour, "2")
		s, err = inventory.Decider.Fold(s, inventory.Held{Order: id, Attempt: "b", Quantity: 1}, inventory.Released{Order: id, Attempt: "b", Quantity: 1})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !reasons["hold_closed"] || !reasons["order_id_expired"] {
		t.Errorf("refused for %v; both guards must have worked", reasons)
	}
	if kept := s.Closed.Newest.Len() + sealed(s); kept > 2*24*4 {
		t.Errorf("%d keys of %d ended attempts are remembered after eight days, two of each; want four days of them at most", kept, hours)
	}
	if kept := sealed(s); kept < 2*24*2 {
		t.Errorf("only %d are remembered; want two days of them", kept)
	}
}

// An order that ends long after it was made is remembered as long as any other,
// so that a process which stopped before it noted the outcome can ask again.
func TestTheEndOfAnOldOrderIsRemembered(t *testing.T) {
	old := orderAt(t, 40*24*time.Hour, "1")
	past := []event{
		inventory.Received{Quantity: 100},
		inventory.Held{Order: old, Attempt: "a", Quantity: 1},
		inventory.Committed{Order: old, Quantity: 1},
	}
	held := func(ago time.Duration) inventory.Held {
		return inventory.Held{Order: orderAt(t, ago, "2"), Attempt: "a", Quantity: 1}
	}
	ship := inventory.Ship{Order: old, Parcel: "p", Quantity: 1}
	past = append(past, inventory.ShippedOut(ship))
	given(t, append(past, held(0))...).When(ship).Then()
	given(t, append(past, held(0), held(-47*time.Hour))...).When(ship).Then()
	given(t, append(past, held(0), held(-48*time.Hour))...).When(ship).ThenRefused(domain.Conflict, "unknown_reservation")
}

func TestReturnsAreRememberedForMonths(t *testing.T) {
	restock := inventory.Restock{Order: "o", Refund: "1", Quantity: 2}
	past := []event{inventory.Received{Quantity: 100}, inventory.Restocked(restock)}
	for day := range 90 {
		past = append(past, inventory.Held{Order: orderAt(t, -time.Duration(day)*24*time.Hour, "2"), Attempt: "a", Quantity: 1})
		given(t, past...).When(restock).Then()
	}
	past = append(past, inventory.Held{Order: orderAt(t, -90*24*time.Hour, "2"), Attempt: "a", Quantity: 1})
	given(t, past...).When(restock).Then(inventory.Restocked(restock))
}

func sealed(s stock) (keys int) {
	for _, leaf := range s.Closed.Sealed {
		keys += leaf.Page.Len()
	}
	return keys
}

func TestCheckFindsADamagedState(t *testing.T) {
	reservation := func(r inventory.Reservation) inventory.Reservations {
		return sharedmap.Of(map[string]inventory.Reservation{"1": r})
	}
	if err := (stock{}).Check(); err != nil {
		t.Errorf("the empty state: %v", err)
	}
	for name, s := range map[string]stock{
		"held by nobody":           {OnHand: 1, Held: 1},
		"allocated to nobody":      {OnHand: 1, Allocated: 1},
		"a hold that is not held":  {OnHand: 1, Reservations: reservation(inventory.Reservation{Quantity: 1, Phase: inventory.PhaseHeld})},
		"a hold of nothing":        {OnHand: 1, Reservations: reservation(inventory.Reservation{Phase: inventory.PhaseHeld})},
		"a hold of too much":       {OnHand: 1, Reservations: reservation(inventory.Reservation{Quantity: overLimit, Phase: inventory.PhaseHeld})},
		"a phase that there isn't": {OnHand: 1, Held: 1, Reservations: reservation(inventory.Reservation{Quantity: 1, Phase: "lost"})},
		"more kept back than is":   {OnHand: 1, Safety: 2},
	} {
		if err := s.Check(); err == nil || domain.CodeOf(err) != "" {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
