package reconcile_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"cartwright/commands"
	"cartwright/commands/reconcile"
	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/payment"
	"cartwright/domain/trade"
)

var began = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A history is a log that is made by the aggregates' own deciders, step by step,
// an event a second.
type history struct {
	tb     testing.TB
	events *event.Registry
	log    []event.Recorded
	skip   []string // steps that are left out
	states map[string]any
}

func newHistory(tb testing.TB, skip ...string) *history {
	tb.Helper()
	events, err := commands.Events()
	if err != nil {
		tb.Fatal(err)
	}
	return &history{tb: tb, events: events, skip: skip, states: map[string]any{}}
}

// do decides a command and appends what it causes. A step has a name, by which a
// test leaves it out.
func do[S, C, E any](h *history, step, stream string, d domain.Decider[S, C, E], c C) {
	h.tb.Helper()
	if i := slices.Index(h.skip, step); i >= 0 {
		return
	}
	state, _ := h.states[stream].(S)
	events, err := d.Decide(state, c)
	if err != nil {
		h.tb.Fatalf("%s: %T on %s: %v", step, c, stream, err)
	}
	for _, e := range events {
		if state, err = d.Evolve(state, e); err != nil {
			h.tb.Fatalf("%s: %v", step, err)
		}
		h.add(stream, e)
	}
	h.states[stream] = state
}

// add appends an event, be it possible or not.
func (h *history) add(stream string, e any) {
	h.tb.Helper()
	r, err := h.events.Encode(e)
	if err != nil {
		h.tb.Fatal(err)
	}
	h.put(stream, r)
}

func (h *history) put(stream string, r event.Recorded) {
	r.Stream, r.Position, r.Revision = stream, uint64(len(h.log))+1, 1
	for _, past := range h.log {
		if past.Stream == stream {
			r.Revision = past.Revision + 1
		}
	}
	r.Created = began.Add(time.Duration(r.Position) * time.Second)
	h.log = append(h.log, r)
}

func (h *history) audit(cfg reconcile.Config) reconcile.Report {
	h.tb.Helper()
	return auditOf(h.tb, cfg, h.events, h.log).Report()
}

func auditOf(tb testing.TB, cfg reconcile.Config, events *event.Registry, log []event.Recorded) *reconcile.Audit {
	tb.Helper()
	cfg.Events = events
	a := reconcile.New(cfg)
	for _, r := range log {
		if err := a.Add(r); err != nil {
			tb.Fatal(err)
		}
	}
	return a
}

func (h *history) order(step, id string, c order.Command) {
	h.tb.Helper()
	do(h, step, "order-"+id, order.Decider, c)
}

func (h *history) account(step, id string, c account.Command) {
	h.tb.Helper()
	do(h, step, "account-"+id, account.Decider, c)
}

func (h *history) payment(step, id string, c payment.Command) {
	h.tb.Helper()
	do(h, step, "payment-"+id, payment.Decider, c)
}

func (h *history) stock(step, sku string, c inventory.Command) {
	h.tb.Helper()
	do(h, step, "inventory-"+sku, inventory.Decider, c)
}

func (h *history) trade(step, channel, number string, c trade.Command) {
	h.tb.Helper()
	do(h, step, "trade-"+trade.ID(channel, number), trade.Decider, c)
}

// move enters both legs of a journal; its steps are "<name> out" and "<name> in".
func (h *history) move(step, journal, from, to string, amount int64) {
	h.tb.Helper()
	h.account(step+" out", from, account.Debit{Account: from, Currency: "BRL", Amount: amount, Journal: journal, To: to, Reason: "r"})
	h.account(step+" in", to, account.Credit{Account: to, Currency: "BRL", Amount: amount, Journal: journal, From: from, Reason: "r"})
}

const (
	buyer    = "buyer-1"
	escrow   = "platform.escrow.BRL"
	suspense = "platform.suspense.BRL"
	fee      = "platform.fee.BRL"
	cash     = "platform.cash.BRL"
	clearing = "platform.clearing.bank.BRL"
	seller   = "seller.s-1.BRL"
)

func orderID(tb testing.TB, n int) string {
	tb.Helper()
	id, err := orderid.Make(began.Add(time.Duration(n)*time.Millisecond), 0, buyer)
	if err != nil {
		tb.Fatal(err)
	}
	return string(id)
}

// fund opens the buyer's account and puts money in it.
func (h *history) fund() {
	h.tb.Helper()
	h.account("open", buyer, account.Open{Account: buyer, Currency: "BRL"})
	h.account("deposit", buyer, account.Deposit{Amount: 10_000, Currency: "BRL", Journal: "fund"})
	h.account("bank", cash, account.Debit{Account: cash, Currency: "BRL", Amount: 10_000, Journal: "fund", To: buyer, Reason: "deposit"})
	h.account("posted", buyer, account.RecordPosted{Entry: 1})
}

// place holds stock and places an order of 4 units at 100 and 10 of freight.
func (h *history) place(id string) {
	h.tb.Helper()
	h.stock("receive", "a", inventory.Receive{Quantity: 100})
	h.stock("hold", "a", inventory.Hold{Order: id, Attempt: "at", Quantity: 4, Now: began, Expires: began.Add(30 * time.Minute)})
	h.order("place", id, order.Place{
		Order: id, Checkout: id, Buyer: buyer, Seller: "s-1", Currency: "BRL", Attempt: "at", Deadline: began.Add(30 * time.Minute),
		Lines: []order.Line{{Line: 1, SKU: "a", Title: "A", Offer: "o", Quantity: 4, UnitPrice: 100, Freight: 10}},
	})
}

// paid is an order that its buyer paid from his account.
func (h *history) paid(id string) {
	h.tb.Helper()
	h.fund()
	h.place(id)
	h.account("hold money", buyer, account.Hold{
		Checkout: id, Currency: "BRL", Claims: []account.Claim{{Order: id, Amount: 440}}, Expires: began.Add(30 * time.Minute),
	})
	h.order("pay", id, order.Pay{Amount: 440, Currency: "BRL", Method: "balance"})
	h.stock("commit", "a", inventory.Commit{Order: id})
	h.order("committed", id, order.RecordStockCommitted{})
	h.account("capture out", buyer, account.Capture{Order: id, Amount: 440, Journal: "capture-" + id, To: escrow})
	h.account("capture in", escrow, account.Credit{Account: escrow, Currency: "BRL", Amount: 440, Journal: "capture-" + id, From: buyer, Reason: "capture"})
	h.order("captured", id, order.RecordPaymentCaptured{})
}

// completed is an order of which one unit was refunded, that has shipped and is
// settled.
func (h *history) completed(id string) {
	h.tb.Helper()
	h.paid(id)
	h.order("refund", id, order.Refund{Lines: []order.RefundRequest{{Line: 1, Quantity: 1}}, By: "op"})
	h.stock("deallocate", "a", inventory.Deallocate{Order: id, Refund: id + "/1", Quantity: 1})
	h.move("refund", "refund-"+id+"/1", escrow, buyer, 110)
	h.order("refunded", id, order.RecordRefundSettled{Refund: 1})
	h.order("pack", id, order.Pack{Lines: []order.Part{{Line: 1, Quantity: 3}}, Carrier: "c", Number: "1"})
	h.stock("ship", "a", inventory.Ship{Order: id, Parcel: id + "/1", Quantity: 3})
	h.order("shipped", id, order.RecordStockShipped{Parcel: 1})
	h.order("deliver", id, order.Deliver{Parcel: 1})
	h.order("complete", id, order.Complete{By: buyer})
	h.order("settle", id, order.Settle{CommissionBP: 1000})
	h.move("settle", "settle-"+id, escrow, seller, 297)
	h.move("commission", "commission-"+id, escrow, fee, 33)
	h.order("settled", id, order.RecordSettlementPosted{})
}

// claimedBack is a completed order of which a unit came back.
func (h *history) claimedBack(id string) {
	h.tb.Helper()
	h.completed(id)
	h.order("return", id, order.Refund{Lines: []order.RefundRequest{{Line: 1, Quantity: 1}}, By: "op", Restock: true})
	h.stock("restock", "a", inventory.Restock{Order: id, Refund: id + "/2", Quantity: 1})
	h.move("clawback", "clawback-"+id+"/2", seller, escrow, 99)
	h.move("uncommission", "uncommission-"+id+"/2", fee, escrow, 11)
	h.move("return", "refund-"+id+"/2", escrow, buyer, 110)
	h.order("returned", id, order.RecordRefundSettled{Refund: 2})
}

// sees is a trade that the bank told of, for a payment.
func (h *history) sees(step, p, number string, amount int64) {
	h.tb.Helper()
	h.trade(step+" seen", "bank", number, trade.See{Channel: "bank", Trade: number, Payment: p, Amount: amount, Currency: "BRL", At: began})
	h.payment(step, p, payment.Receive{Channel: "bank", Trade: number, Amount: amount, Currency: "BRL", At: began})
}

func journalOf(number string) string { return "trade-" + trade.ID("bank", number) }

// create is a payment of an order that the bank waits for.
func (h *history) create(id string) (p string) {
	h.tb.Helper()
	p = id + "-1"
	h.place(id)
	h.payment("create", p, payment.Create{
		Payment: p, Checkout: id, Buyer: buyer, Channel: "bank", Currency: "BRL", Amount: 440,
		Splits: []payment.Split{{Order: id, Seller: "s-1", Amount: 440}}, Expires: began.Add(30 * time.Minute),
	})
	h.payment("ask", p, payment.RecordAsked{Reference: "r", Instruction: []byte("{}"), Look: began})
	return p
}

// channelled is an order that was paid through the bank, and of which a unit went
// back there.
func (h *history) channelled(id string) (p string) {
	h.tb.Helper()
	p = h.create(id)
	h.sees("capture", p, "t-1", 440)
	h.move("trade", journalOf("t-1"), clearing, escrow, 440)
	h.payment("trade posted", p, payment.RecordPosted{Trade: "t-1"})
	h.order("pay", id, order.Pay{Amount: 440, Currency: "BRL", Method: "bank", Payment: p})
	h.payment("applied", p, payment.RecordApplied{})
	h.stock("commit", "a", inventory.Commit{Order: id})
	h.order("committed", id, order.RecordStockCommitted{})
	h.order("captured", id, order.RecordPaymentCaptured{})
	h.order("refund", id, order.Refund{Lines: []order.RefundRequest{{Line: 1, Quantity: 1}}, By: "op"})
	h.stock("deallocate", "a", inventory.Deallocate{Order: id, Refund: id + "/1", Quantity: 1})
	h.payment("payback", p, payment.RequestRefund{Refund: id + ".1", Order: id, Amount: 110, Look: began})
	h.payment("paid back", p, payment.RecordRefund{Refund: id + ".1", By: payment.ToChannel, Status: payment.RefundIsDone})
	h.move("back", "back-"+p+"."+id+".1", escrow, clearing, 110)
	h.payment("back posted", p, payment.RecordRefundPosted{Refund: id + ".1"})
	h.order("refunded", id, order.RecordRefundSettled{Refund: 1})
	return p
}

// late is a payment whose order was cancelled before it came, by somebody who
// paid twice.
func (h *history) late(id string) (p string) {
	h.tb.Helper()
	p = h.create(id)
	h.order("cancel", id, order.Cancel{Cancellation: order.Cancellation{Reason: order.Timeout, By: "timer"}})
	h.stock("release", "a", inventory.Release{Order: id, Attempt: "at", Reason: "timeout"})
	h.order("released", id, order.RecordStockReleased{})
	h.sees("capture", p, "t-1", 440)
	h.move("trade", journalOf("t-1"), clearing, escrow, 440)
	h.payment("trade posted", p, payment.RecordPosted{Trade: "t-1"})
	h.payment("late", p, payment.RequestRefund{Refund: p + "." + id, Order: id, Amount: 440, Look: began})
	h.payment("applied", p, payment.RecordApplied{})
	h.payment("paid back", p, payment.RecordRefund{Refund: p + "." + id, By: payment.ToChannel, Status: payment.RefundIsDone})
	h.move("back", "back-"+p+"."+p+"."+id, escrow, clearing, 440)
	h.payment("back posted", p, payment.RecordRefundPosted{Refund: p + "." + id})
	h.sees("again", p, "t-2", 440)
	h.move("again", journalOf("t-2"), clearing, suspense, 440)
	h.payment("again posted", p, payment.RecordPosted{Trade: "t-2"})
	h.payment("give back", p, payment.RequestRefund{Refund: "trade.2", Trade: "t-2", Amount: 440, Look: began})
	h.payment("given back", p, payment.RecordRefund{Refund: "trade.2", By: payment.ToChannel, Status: payment.RefundIsDone})
	h.move("given", "back-"+p+".trade.2", suspense, clearing, 440)
	h.payment("given posted", p, payment.RecordRefundPosted{Refund: "trade.2"})
	return p
}

// kinds are those of findings, in their order, each with how often it is there.
func kinds(findings []reconcile.Finding) string {
	var all []string
	count := map[string]int{}
	for _, f := range findings {
		if count[string(f.Kind)]++; count[string(f.Kind)] == 1 {
			all = append(all, string(f.Kind))
		}
	}
	for i, k := range all {
		if count[k] > 1 {
			all[i] = fmt.Sprintf("%s×%d", k, count[k])
		}
	}
	return fmt.Sprint(all)
}
