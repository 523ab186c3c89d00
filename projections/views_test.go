package projections_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/catalog"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/payment"
	"cartwright/projections"
)

// A fold is a document in the making, with its events' times a minute apart.
type folding[V any] struct {
	tb   testing.TB
	view projections.View[V]
	doc  projections.Doc[V]
}

func (f *folding[V]) add(e any) error {
	f.tb.Helper()
	r := event.Recorded{
		Stream: f.doc.Stream, Revision: f.doc.Revision + 1, Name: fmt.Sprintf("%T", e),
		Meta: event.Meta{At: noon.Add(time.Duration(f.doc.Revision)*time.Minute + 999)},
	}
	body, err := f.view.Apply(f.doc.Body, r, e)
	if err == nil {
		f.doc.Body, f.doc.Revision = body, r.Revision
	}
	return err
}

func start[V any](tb testing.TB, view projections.View[V], stream string) *folding[V] {
	tb.Helper()
	return &folding[V]{tb, view, projections.Doc[V]{Stream: stream}}
}

// decide runs a command and adds its events to a view; a refusal adds nothing.
func decide[V, S, C, E any](t *rapid.T, d domain.Decider[S, C, E], s S, c C, f *folding[V]) S {
	events, err := d.Decide(s, c)
	if err != nil {
		return s
	}
	for _, e := range events {
		if s, err = d.Evolve(s, e); err != nil {
			t.Fatalf("evolve: %v", err)
		}
		if err := f.add(e); err != nil {
			t.Fatalf("apply: %v", err)
		}
	}
	return s
}

func orderID(tb testing.TB, n int) string {
	tb.Helper()
	id, err := orderid.Make(noon.Add(time.Duration(n)*time.Millisecond), 0, "b")
	if err != nil {
		tb.Fatal(err)
	}
	return string(id)
}

func TestTheStockViewSaysWhatTheStockIs(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var s inventory.Stock
		f := start(t, projections.StockView(), "inventory-a")
		timers := start(t, projections.DeadlinesView(), "inventory-a")
		s = decide(rt, inventory.Decider, s, inventory.Command(inventory.Receive{Quantity: 50}), f)
		timersAdd(rt, timers, inventory.Received{Quantity: 50})
		for i := range rapid.IntRange(0, 30).Draw(rt, "commands") {
			before := f.doc.Revision
			state := inventory.Decider.Clone(s)
			c := drawStock(t, rt, i)
			s = decide(rt, inventory.Decider, s, c, f)
			if f.doc.Revision > before {
				events, _ := inventory.Decider.Decide(state, c)
				for _, e := range events {
					timersAdd(rt, timers, e)
				}
			}
		}
		d := f.doc.Body
		got := []int64{d.OnHand, d.Held, d.Allocated, d.Unavailable, d.Safety, d.Backorder}
		want := []int64{s.OnHand, s.Held, s.Allocated, s.Unavailable, s.Safety, s.Backorder}
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("on hand, held, allocated, unavailable, safety, backorder (-want +got):\n%s", diff)
		}
		first := time.Time{}
		for _, r := range s.Reservations.All() {
			if r.Phase == inventory.PhaseHeld && (first.IsZero() || r.Expires.Before(first)) {
				first = r.Expires
			}
		}
		if d.SweepAt.IsZero() != first.IsZero() || d.SweepAt.After(first) {
			rt.Fatalf("sweep at %v, the first hold ends at %v", d.SweepAt, first)
		}
		if timers.doc.Body.Due != d.SweepAt || timers.doc.Body.Held != d.Held {
			rt.Fatalf("the timer is %+v, the stock says %v with %d held", timers.doc.Body, d.SweepAt, d.Held)
		}
	})
}

func timersAdd(t *rapid.T, f *folding[projections.Timer], e any) {
	if err := f.add(e); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

func drawStock(tb testing.TB, t *rapid.T, i int) inventory.Command {
	tb.Helper()
	id := orderID(tb, rapid.IntRange(0, 4).Draw(t, "order"))
	q := rapid.Int64Range(1, 5).Draw(t, "quantity")
	key := fmt.Sprintf("%s/%d", id, i)
	return rapid.SampledFrom([]inventory.Command{
		inventory.Receive{Quantity: q},
		inventory.Adjust{OnHand: -q, Unavailable: q, Reason: "x"},
		inventory.Count{OnHand: 10 * q, Reason: "x"},
		inventory.SetPolicy{Safety: q, Backorder: 2 * q},
		inventory.Hold{Order: id, Attempt: "a", Quantity: q, Now: noon, Expires: noon.Add(time.Duration(i) * time.Minute)},
		inventory.Commit{Order: id},
		inventory.Release{Order: id, Attempt: "a", Reason: "x"},
		inventory.Ship{Order: id, Parcel: key, Quantity: q},
		inventory.Deallocate{Order: id, Refund: key, Quantity: q},
		inventory.Restock{Order: id, Refund: key, Quantity: q, Damaged: i%2 == 0},
	}).Draw(t, "command")
}

func TestTheAccountViewSaysWhatTheAccountIs(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var a account.Account
		f := start(t, projections.AccountsView(), "account-alice")
		a = decide(rt, account.Decider, a, account.Command(account.Open{Account: "alice", Currency: "CNY"}), f)
		for i := range rapid.IntRange(0, 30).Draw(rt, "commands") {
			a = decide(rt, account.Decider, a, drawMoney(rt, i), f)
		}
		d := f.doc.Body
		if d.ID != a.ID || d.Currency != a.Currency || d.Balance != a.Balance || d.Held != a.Held || d.Entries != a.Entries {
			rt.Fatalf("got %+v, want %+v", d, a)
		}
		sum := int64(0)
		for i, e := range d.Fresh {
			if sum += e.Amount; e.Number != int64(i+1) || e.Balance != sum || e.Account != "alice" || e.At.IsZero() {
				rt.Fatalf("entry %+v", e)
			}
		}
		if sum != a.Balance || int64(len(d.Fresh)) != a.Entries {
			rt.Fatalf("%d entries sum to %d, want %d and %d", len(d.Fresh), sum, a.Entries, a.Balance)
		}
		if settled := projections.AccountsView().Settle(d); settled.Fresh != nil {
			rt.Fatal("a stored document keeps its entries")
		}
	})
}

func drawMoney(t *rapid.T, i int) account.Command {
	id := rapid.SampledFrom([]string{"o1", "o2", "o3"}).Draw(t, "order")
	amount := rapid.Int64Range(1, 50).Draw(t, "amount")
	journal := fmt.Sprintf("j%d", i)
	return rapid.SampledFrom([]account.Command{
		account.Deposit{Amount: 3 * amount, Currency: "CNY", Journal: journal},
		account.Withdraw{Amount: amount, Currency: "CNY", Journal: journal},
		account.Hold{Checkout: id, Currency: "CNY", Claims: []account.Claim{{Order: id, Amount: amount}}, Expires: noon.Add(time.Hour)},
		account.Capture{Order: id, Amount: amount, Journal: journal, To: "escrow"},
		account.Release{Order: id, Reason: "x"},
		account.Credit{Account: "alice", Currency: "CNY", Amount: amount, Journal: journal, From: "escrow", Reason: "x"},
		account.Debit{Currency: "CNY", Amount: amount, Journal: journal, To: "escrow", Reason: "x"},
	}).Draw(t, "command")
}

func TestAnOrdersDocumentSaysWhenThingsHappened(t *testing.T) {
	id := orderID(t, 0)
	f := start(t, projections.OrdersView(), "order-"+id)
	timers := start(t, projections.DeadlinesView(), "order-"+id)
	var s order.Order
	minute := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }
	do := func(c order.Command) {
		t.Helper()
		events, err := order.Decider.Decide(s, c)
		if err != nil {
			t.Fatalf("%T: %v", c, err)
		}
		for _, e := range events {
			if s, err = order.Decider.Evolve(s, e); err != nil {
				t.Fatal(err)
			}
			if err := f.add(e); err != nil {
				t.Fatal(err)
			}
			if err := timers.add(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	do(order.Place{
		Order: id, Checkout: id, Buyer: "b", Seller: "s", Currency: "CNY", Attempt: "a", Address: []byte("x"), Deadline: minute(30),
		Lines: []order.Line{{Line: 1, SKU: "sku", Title: "Red shirt", Offer: "x", Quantity: 2, UnitPrice: 10, Freight: 1}},
	})
	if timers.doc.Body.Due != minute(30) {
		t.Errorf("due %v", timers.doc.Body.Due)
	}
	if got, ok := f.doc.Body.Facts(); !ok || got.ToShip || got.Gross != 22 || got.Units != 2 || got.Status != "pending_payment" {
		t.Errorf("facts %+v, %v", got, ok)
	}
	do(order.Pay{Amount: 22, Currency: "CNY", Method: "balance"})
	if !timers.doc.Body.Due.IsZero() {
		t.Errorf("a paid order is due %v", timers.doc.Body.Due)
	}
	do(order.Pack{Lines: []order.Part{{Line: 1, Quantity: 1}}, Carrier: "post", Number: "1"})
	if got, _ := f.doc.Body.Facts(); !got.ToShip {
		t.Error("a partly shipped order is not to be shipped")
	}
	do(order.Pack{Lines: []order.Part{{Line: 1, Quantity: 1}}, Carrier: "post", Number: "2"})
	if got, _ := f.doc.Body.Facts(); got.ToShip {
		t.Error("a shipped order is to be shipped")
	}
	do(order.Deliver{Parcel: 1})
	do(order.Complete{By: "b"})
	d := f.doc.Body
	if diff := cmp.Diff(s, d.State); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	if d.PlacedAt != minute(0) || d.PaidAt != minute(1) || d.CompletedAt != d.ChangedAt || d.CompletedAt.IsZero() || !d.EndedAt.IsZero() ||
		!d.PaidAt.Before(d.ShippedAt) || !d.ShippedAt.Before(d.DeliveredAt) || !d.DeliveredAt.Before(d.CompletedAt) {
		t.Errorf("times %+v", d)
	}
	if got := strings.Join(d.Texts(), "|"); got != id+"|sku|Red shirt" {
		t.Errorf("texts %q", got)
	}
}

func TestAnOrdersDocumentRefusesWhatTheOrderRefuses(t *testing.T) {
	f := start(t, projections.OrdersView(), "order-1")
	for _, e := range []any{order.Paid{Amount: 1}, order.Placed{Order: "2"}, inventory.Received{Quantity: 1}} {
		if err := f.add(e); err == nil {
			t.Errorf("%T was applied", e)
		}
	}
	if _, ok := f.doc.Body.Facts(); ok {
		t.Error("a stream without an order has facts")
	}
}

func TestAnOrderInAnothersStreamIsRefused(t *testing.T) {
	id := orderID(t, 0)
	placed := order.Placed{
		Order: id, Checkout: id, Buyer: "b", Seller: "s", Currency: "CNY", Attempt: "a",
		Lines: []order.Line{{Line: 1, SKU: "sku", Title: "x", Offer: "x", Quantity: 1, UnitPrice: 10}},
	}
	if err := start(t, projections.OrdersView(), "order-"+orderID(t, 1)).add(placed); err == nil {
		t.Error("it was applied")
	}
	if err := start(t, projections.BuyersView(), "order-"+id).add(placed); err != nil {
		t.Errorf("in its own stream: %v", err)
	}
}

func TestAnAccountsDocumentRefusesWhatCannotHaveHappened(t *testing.T) {
	for name, e := range map[string]any{
		"an entry too far":     account.Deposited{Entry: 3, Amount: 1},
		"more out than in":     account.Withdrawn{Entry: 2, Amount: 11},
		"more held than there": account.Held{Claims: []account.Claim{{Order: "o", Amount: 11}}},
		"freed without a hold": account.Released{Amount: 1},
		"another aggregate's":  inventory.Received{Quantity: 1},
	} {
		f := start(t, projections.AccountsView(), "account-a")
		for _, e := range []any{account.Opened{Account: "a", Currency: "CNY"}, account.Deposited{Entry: 1, Amount: 10}} {
			if err := f.add(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.add(e); err == nil {
			t.Errorf("%s: applied", name)
		}
	}
}

func TestACancelledOrderIsDueNoMore(t *testing.T) {
	f := start(t, projections.DeadlinesView(), "order-1")
	for _, e := range []any{order.Placed{Order: "1", Deadline: noon}, order.Cancelled{}} {
		if err := f.add(e); err != nil {
			t.Fatal(err)
		}
	}
	if !f.doc.Body.Due.IsZero() {
		t.Errorf("due %v", f.doc.Body.Due)
	}
	if err := f.add(catalog.Published{}); err == nil {
		t.Error("an offer has a deadline")
	}
}

func TestAPaymentsTimerFollowsItsChannel(t *testing.T) {
	f := start(t, projections.DeadlinesView(), "payment-1-1")
	at := func(minutes int) time.Time { return noon.Add(time.Duration(minutes) * time.Minute) }
	for i, step := range []struct {
		e    any
		want time.Time
	}{
		{payment.Created{Payment: "1-1", Expires: at(30)}, at(30)},
		{payment.Asked{Look: at(1)}, at(1)},
		{payment.Captured{Trade: "t", Amount: 5}, time.Time{}},
		{payment.Posted{Trade: "t"}, time.Time{}},
		{payment.RefundRequested{Refund: "a", Amount: 1, Look: at(40)}, at(40)},
		{payment.RefundRequested{Refund: "b", Amount: 1, Look: at(50)}, at(50)},
		{payment.RefundProcessing{Refund: "a"}, at(50)},
		{payment.RefundFailed{Refund: "a"}, at(50)},
		{payment.RefundSucceeded{Refund: "b"}, at(50)},
		{payment.RefundRedirected{Refund: "a", To: payment.ToBalance, Look: at(60)}, at(60)},
		{payment.RefundSucceeded{Refund: "a"}, time.Time{}},
	} {
		if err := f.add(step.e); err != nil {
			t.Fatal(err)
		}
		if got := f.doc.Body.Due; !got.Equal(step.want) {
			t.Errorf("after %d %T: due %v, want %v", i, step.e, got, step.want)
		}
	}
}

func TestADeliveredOrderIsDueToComplete(t *testing.T) {
	f := start(t, projections.DeadlinesView(), "order-1")
	for _, step := range []struct {
		e    any
		want time.Time
	}{
		{order.Placed{Deadline: noon}, noon},
		{order.Paid{}, time.Time{}},
		{order.ParcelDelivered{Parcel: 1, Completes: noon.Add(time.Hour)}, noon.Add(time.Hour)},
		{order.ParcelDelivered{Parcel: 2}, noon.Add(time.Hour)},
		{order.ParcelDelivered{Parcel: 3, Completes: noon.Add(2 * time.Hour)}, noon.Add(2 * time.Hour)},
		{order.Completed{}, time.Time{}},
	} {
		if err := f.add(step.e); err != nil {
			t.Fatal(err)
		}
		if got := f.doc.Body.Due; !got.Equal(step.want) {
			t.Errorf("after %T: due %v, want %v", step.e, got, step.want)
		}
	}
}

func TestAPaymentIsItsAggregate(t *testing.T) {
	f := start(t, projections.PaymentsView(), "payment-1-1")
	splits := []payment.Split{{Order: "1", Seller: "s", Amount: 5}}
	for _, e := range []any{
		payment.Created{Payment: "1-1", Checkout: "1", Buyer: "b", Channel: "alipay", Currency: "CNY", Amount: 5, Splits: splits, Expires: noon},
		payment.Captured{Trade: "t", Amount: 5},
	} {
		if err := f.add(e); err != nil {
			t.Fatal(err)
		}
	}
	if d := f.doc.Body; d.State.Status != payment.StatusCaptured || d.CapturedAt.IsZero() || d.CreatedAt.IsZero() {
		t.Errorf("%+v", d)
	}
	if err := f.add(payment.Captured{Trade: "u", Amount: 5}); err == nil {
		t.Error("a payment was captured twice")
	}
	if err := f.add(catalog.Published{}); err == nil {
		t.Error("an offer is a payment")
	}
}

func TestAnAccountsTimerFollowsItsHolds(t *testing.T) {
	f := start(t, projections.DeadlinesView(), "account-a")
	due := func(e any) time.Time {
		t.Helper()
		if err := f.add(e); err != nil {
			t.Fatal(err)
		}
		return f.doc.Body.Due
	}
	hold := func(amount int64, minutes int) account.Held {
		return account.Held{Claims: []account.Claim{{Order: "o", Amount: amount}}, Expires: noon.Add(time.Duration(minutes) * time.Minute)}
	}
	if got := due(account.Opened{Account: "a", Currency: "CNY"}); !got.IsZero() {
		t.Errorf("a new account is due %v", got)
	}
	if got := due(hold(5, 30)); got != noon.Add(30*time.Minute) {
		t.Errorf("due %v", got)
	}
	if got := due(hold(7, 20)); got != noon.Add(20*time.Minute) {
		t.Errorf("due %v with an earlier hold", got)
	}
	if got := due(account.Captured{Amount: 4, Freed: 1}); got != noon.Add(20*time.Minute) {
		t.Errorf("due %v while something is held", got)
	}
	if got := due(account.Released{Amount: 7}); !got.IsZero() {
		t.Errorf("due %v with nothing held", got)
	}
	if err := f.add(account.Released{Amount: 1}); err == nil {
		t.Error("more was released than was held")
	}
}

func TestAnEventThatDoesNotSayWhenHappenedWhenItWasStored(t *testing.T) {
	r := event.Recorded{Stream: "inventory-a", Revision: 1, Created: noon}
	got, err := projections.StockView().Apply(projections.Stock{}, r, inventory.Received{Quantity: 1})
	if err != nil || got.ChangedAt != noon {
		t.Errorf("changed at %v, %v", got.ChangedAt, err)
	}
}

func TestAnOffersDocumentKeepsEverySnapshot(t *testing.T) {
	f := start(t, projections.OffersView(), "offer-a")
	var o catalog.Offer
	for _, title := range []string{"one", "two"} {
		events, err := catalog.Decider.Decide(o, catalog.Publish{
			Snapshot: catalog.Snapshot{SKU: "a", Seller: "s", Title: title, Currency: "CNY", UnitPrice: 5}, OnSale: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if o, err = catalog.Decider.Evolve(o, e); err != nil {
				t.Fatal(err)
			}
			if err := f.add(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	d := f.doc.Body
	if d.Snapshot.Title != "two" || !d.OnSale || len(d.Known) != 2 || d.Digest != o.Digest || d.ChangedAt.IsZero() {
		t.Errorf("got %+v", d)
	}
	if err := f.add(catalog.Published{Digest: "nobody's"}); err == nil {
		t.Error("an offer that nobody described was published")
	}
}
