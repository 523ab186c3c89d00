package reconcile_test

import (
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/commands/reconcile"
	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/domain/payment"
)

// kept is an order without what is left out: what no event and no check asks for.
func kept(o order.Order) order.Order {
	o = order.Decider.Clone(o)
	switch {
	case o.Status == order.StatusNone:
		return order.Order{Abandoned: o.Abandoned}
	case o.Status == order.StatusCancelled && o.StockReleased:
		return order.Order{Status: o.Status, StockReleased: true}
	case o.Status != order.StatusPending:
		o.Deadline = time.Time{}
	}
	o.ID, o.Address, o.Attempt, o.Abandoned, o.Siblings, o.Method = "", nil, "", nil, nil, ""
	o.Cancellation, o.Completes, o.CompletedBy = nil, time.Time{}, ""
	for i := range o.Lines {
		o.Lines[i].Title, o.Lines[i].Offer = "", ""
	}
	for i := range o.Parcels {
		p := &o.Parcels[i]
		p.History, p.Waybill = nil, order.Waybill{Version: p.Waybill.Version}
		if p.StockShipped || p.Status == order.ParcelIsUnpacked {
			p.Lines = nil
		}
	}
	for i := range o.Refunds {
		r := &o.Refunds[i]
		lines := slices.Clone(r.Lines)
		for j := range lines {
			lines[j] = order.RefundLine{Line: lines[j].Line, Unshipped: lines[j].Unshipped}
		}
		if *r = (order.Repayment{Refund: r.Refund, Settled: r.Settled, Amount: r.Amount, Lines: lines}); r.Settled {
			*r = order.Repayment{Refund: r.Refund, Settled: true}
		}
	}
	return o
}

func keptPayment(p payment.Payment) payment.Payment {
	p = payment.Decider.Clone(p)
	p.ID, p.Checkout, p.Reference, p.Instruction, p.Failure = "", "", "", nil, ""
	if !p.Open() {
		p.Expires = time.Time{}
	}
	p.Splits = slices.Clone(p.Splits)
	for i := range p.Splits {
		p.Splits[i].Seller = ""
	}
	if p.Status == payment.StatusCaptured {
		p.Splits = nil
	}
	for i := range p.Refunds {
		p.Refunds[i].Reason, p.Refunds[i].Sent = "", 0
	}
	return p
}

func TestWhatIsPackedComesBack(t *testing.T) {
	for _, live := range []func(h *history, id string){
		(*history).claimedBack, func(h *history, id string) { h.channelled(id) }, func(h *history, id string) { h.late(id) },
		func(h *history, id string) {
			h.order("", id, order.Abandon{Attempt: "x"})
			h.paid(id)
			h.order("", id, order.Pack{Lines: []order.Part{{Line: 1, Quantity: 1}}})
			h.order("", id, order.Unpack{Parcel: 1})
			h.order("", id, order.Pack{Lines: []order.Part{{Line: 1, Quantity: 2}}, Carrier: "c", Number: "1"})
			h.order("", id, order.SetWaybill{Parcel: 2, Version: 1, Carrier: "c", Number: "2"})
			h.order("", id, order.Refund{By: "op"})
		},
		func(h *history, id string) {
			p := h.create(id)
			h.payment("", p, payment.Fail{Reason: "no"})
			h.payment("", p, payment.Receive{Channel: "bank2", Trade: "t", Currency: "USD", Amount: 1})
		},
	} {
		h := newHistory(t)
		live(h, orderID(t, 0))
		orders, payments := map[string]order.Order{}, map[string]payment.Payment{}
		for _, r := range h.log {
			var got, want any
			switch event.Category(r.Stream) {
			case "order":
				o := evolved(h, orders[r.Stream], order.Decider.Evolve, r)
				got, want = reconcile.Repacked(o), kept(o)
				orders[r.Stream] = o
			case "payment":
				p := evolved(h, payments[r.Stream], payment.Decider.Evolve, r)
				got, want = reconcile.RepackedPayment(p), keptPayment(p)
				payments[r.Stream] = p
			default:
				continue
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("after %s: -want +got: %s", r.Name, diff)
			}
		}
	}
}

func evolved[S, E any](h *history, s S, evolve func(S, E) (S, error), r event.Recorded) S {
	h.tb.Helper()
	e, err := event.Decode[E](h.events, r)
	if err == nil {
		s, err = evolve(s, e)
	}
	if err != nil {
		h.tb.Fatal(err)
	}
	return s
}

// A crowd gives the events of many orders, one after the other, without keeping
// any: each life is that of one order, made anew under another order's id.
func crowd(tb testing.TB, orders int, take func(event.Recorded)) {
	tb.Helper()
	h := newHistory(tb)
	position := uint64(0)
	revision := map[string]event.Revision{}
	put := func(stream string, e any) {
		r, err := h.events.Encode(e)
		if err != nil {
			tb.Fatal(err)
		}
		position++
		r.Stream, r.Position, r.Created = stream, position, began.Add(time.Duration(position)*time.Millisecond)
		if event.Category(stream) == "order" {
			r.Revision = revision["order"] + 1
			revision["order"]++
		} else {
			revision[stream]++
			r.Revision = revision[stream]
		}
		take(r)
	}
	entries := map[string]int64{}
	entry := func(id string) int64 { entries[id]++; return entries[id] }
	put("account-"+buyer, account.Opened{Account: buyer, Currency: "BRL"})
	put("account-"+cash, account.Opened{Account: cash, Currency: "BRL"})
	all := int64(orders) * 100
	put("account-"+buyer, account.Deposited{Entry: entry(buyer), Amount: all, Journal: "fund"})
	put("account-"+cash, account.Debited{Entry: entry(cash), Amount: all, Journal: "fund", To: buyer})
	put("account-"+buyer, account.Posted{Entry: 1})
	for _, id := range []string{escrow, seller, fee} {
		put("account-"+id, account.Opened{Account: id, Currency: "BRL"})
	}
	put("inventory-a", inventory.Received{Quantity: int64(orders)})
	for i := range orders {
		id := orderID(tb, i)
		revision["order"] = 0
		order1, move := "order-"+id, func(journal, from, to string, amount int64) {
			put("account-"+from, account.Debited{Entry: entry(from), Amount: amount, Journal: journal, To: to})
			put("account-"+to, account.Credited{Entry: entry(to), Amount: amount, Journal: journal, From: from})
		}
		put("inventory-a", inventory.Held{Order: id, Attempt: "x", Quantity: 1, Expires: began})
		put(order1, order.Placed{
			Order: id, Checkout: id, Buyer: buyer, Seller: "s-1", Currency: "BRL", Attempt: "x", Address: make([]byte, 200),
			Lines: []order.Line{{Line: 1, SKU: "a", Title: "a title of some length", Offer: "digest", Quantity: 1, UnitPrice: 100}},
		})
		put("account-"+buyer, account.Held{Checkout: id, Claims: []account.Claim{{Order: id, Amount: 100}}, Expires: began})
		put(order1, order.Paid{Amount: 100, Method: "balance"})
		put("inventory-a", inventory.Committed{Order: id, Quantity: 1})
		put(order1, order.StockCommitted{})
		put("account-"+buyer, account.Captured{Entry: entry(buyer), Order: id, Amount: 100, Journal: "capture-" + id, To: escrow})
		put("account-"+escrow, account.Credited{Entry: entry(escrow), Amount: 100, Journal: "capture-" + id, From: buyer})
		put(order1, order.PaymentCaptured{})
		put(order1, order.ParcelPacked{Parcel: 1, Lines: []order.Part{{Line: 1, Quantity: 1}}})
		put(order1, order.WaybillSet{Parcel: 1, Version: 1, Carrier: "c", Number: "n"})
		put(order1, order.ParcelShipped{Parcel: 1})
		put(order1, order.Shipped{})
		put("inventory-a", inventory.ShippedOut{Order: id, Parcel: id + "/1", Quantity: 1})
		put(order1, order.StockShipped{Parcel: 1})
		put(order1, order.Completed{By: buyer})
		put(order1, order.Settled{Gross: 100, Commission: 10})
		move("settle-"+id, escrow, seller, 90)
		move("commission-"+id, escrow, fee, 10)
		put(order1, order.SettlementPosted{})
	}
}

// Of 100,000 orders with two million events there is nothing left but a small
// record each.
func TestWhatIsKeptIsWhatIsOpen(t *testing.T) {
	orders := 10_000
	if os.Getenv("CARTWRIGHT_SOAK") != "" {
		orders = 100_000
	}
	h := newHistory(t)
	a := reconcile.New(reconcile.Config{Events: h.events})
	most := 0
	events := 0
	before := inUse()
	crowd(t, orders, func(r event.Recorded) {
		if err := a.Add(r); err != nil {
			t.Fatal(err)
		}
		if events++; events%10_007 == 0 {
			most = max(most, a.Kept().Open)
		}
	})
	k := a.Kept()
	perOrder := int(inUse()-before) / orders
	t.Logf("%d events, %d bytes packed and %d in use for each order, %d open at most", events, k.Packed/orders, perOrder, most)
	if k.Orders != orders || k.Accounts != 5 || k.SKUs != 1 || k.Open != 0 || most > 10 {
		t.Errorf("kept %+v, at most %d open", k, most)
	}
	if k.Packed/orders > 80 || perOrder > 400 {
		t.Errorf("%d bytes packed and %d in use for each order", k.Packed/orders, perOrder)
	}
	if got := a.Report(); !got.Sound() || got.Orders["completed"] != orders {
		t.Errorf("got %+v", got)
	}
}

func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
