package commands_test

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/payment"
	"cartwright/infra/faults"
	"cartwright/infra/memstore"
)

// A drawn test is one of many that rapid draws: it fails as rapid wants it, so
// that it can be made smaller, and cleans up when it is over.
type drawn struct {
	testing.TB
	rt      *rapid.T
	cleanup []func()
}

func (d *drawn) Helper()                        {}
func (d *drawn) Fatal(args ...any)              { d.rt.Fatal(args...) }
func (d *drawn) Fatalf(format string, a ...any) { d.rt.Fatalf(format, a...) }
func (d *drawn) Error(args ...any)              { d.rt.Error(args...) }
func (d *drawn) Errorf(format string, a ...any) { d.rt.Errorf(format, a...) }
func (d *drawn) Cleanup(f func())               { d.cleanup = append(d.cleanup, f) }
func (d *drawn) clean() {
	for _, f := range d.cleanup {
		f()
	}
}

// lives are those of some orders of one shop, in which everything fails that can.
type lives struct {
	*till
	rt      *rapid.T
	mem     *memstore.Store
	calm    atomic.Bool
	asked   atomic.Int64 // how often the store was asked for anything
	every   int64        // which of these times it fails
	orders  []string
	notices []commands.Notice
	n       int
}

func begin(t *testing.T, rt *rapid.T) (*lives, *drawn) {
	t.Helper()
	tb := &drawn{TB: t, rt: rt}
	w := openTill(tb)
	mem, _ := w.store.(*memstore.Store)
	l := &lives{till: w, rt: rt, mem: mem, every: rapid.Int64Range(3, 60).Draw(rt, "every")}
	l.restart()
	return l, tb
}

// restart is another process in the place of the one before, which may have died
// in the middle of anything.
func (l *lives) restart() {
	l.world = l.process(faults.Store{Store: l.mem, BeforeLoad: l.fault, BeforeAppend: l.fault, AfterAppend: l.fault})
	l.store = l.mem
}

// fault fails every so many times.
func (l *lives) fault(string) error {
	if !l.calm.Load() && l.asked.Add(1)%l.every == 0 {
		return faults.ErrInjected
	}
	return nil
}

func (l *lives) any(label string, n int) int { return rapid.IntRange(0, n-1).Draw(l.rt, label) }

func (l *lives) some() (orderid.ID, bool) {
	if len(l.orders) == 0 {
		return "", false
	}
	return orderid.ID(l.orders[l.any("order", len(l.orders))]), true
}

// tolerated fails the test for what is no refusal and no fault of ours on purpose.
func (l *lives) tolerated(what string, err error) {
	if err != nil && domain.CodeOf(err) == "" && !l.calm.Load() {
		return // an injected fault, or what came of one
	}
	if err != nil && domain.CodeOf(err) == "" {
		l.tb.Fatalf("%s: %v", what, err)
	}
}

func (l *lives) step() {
	what := l.any("what", 16)
	id, there := l.some()
	if what > 1 && !there || len(l.orders) > 4 && what < 2 {
		what = 3 * l.any("instead", 2)
	}
	l.n++
	r := named(fmt.Sprintf("%d/%d", what, l.n))
	var err error
	switch what {
	case 0, 1:
		err = l.buy(r)
	case 2:
		_, err = l.StartPayment(l.ctx(), r, commands.PaymentRequest{Checkout: orderid.ID(l.order(string(id)).Checkout), Channel: "bank"})
	case 3:
		err = l.buyerPays(r, id)
	case 4, 5:
		l.callBack()
	case 6:
		_, err = l.Pay(l.ctx(), r, id, nil)
	case 7:
		_, err = l.Cancel(l.ctx(), r, id, order.Cancel{Cancellation: order.Cancellation{Reason: order.ByBuyer, By: "b"}})
	case 8:
		_, err = l.Order(l.ctx(), r, id, order.Pack{Lines: []order.Part{{Line: 1, Quantity: int64(1 + l.any("units", 2))}}, Carrier: "C", Number: "1"})
	case 9:
		_, err = l.Order(l.ctx(), r, id, order.Deliver{Parcel: 1 + l.any("parcel", 2)})
	case 10:
		_, err = l.Order(l.ctx(), r, id, order.Complete{By: "b"})
	case 11:
		_, err = l.Order(l.ctx(), r, id, l.refund())
	case 12:
		l.pass(time.Duration(l.any("minutes", 40)) * time.Minute)
		timers := commands.Timers{Shop: l.Shop, Deadlines: due{l.mem}, Log: slog.New(slog.DiscardHandler)}
		_ = timers.Fire(l.ctx())
	case 13:
		l.deliver()
	case 14:
		l.weather()
	case 15:
		_, err = l.Inventory(l.ctx(), r, []string{"a", "b"}[l.any("sku", 2)], inventory.Divide{Shards: 2 + l.any("shards", 3)})
	}
	l.tolerated(strconv.Itoa(what), err)
}

func (l *lives) buy(r commands.Request) error {
	id := l.id()
	items := []commands.Item{{SKU: "a", Quantity: int64(1 + l.any("of a", 3))}}
	if l.any("both", 2) == 1 {
		items = append(items, commands.Item{SKU: "b", Quantity: 1})
	}
	p, err := l.Checkout(l.ctx(), r, cart(id, items...))
	for _, o := range p.Orders {
		l.orders = append(l.orders, o.Order)
	}
	return err
}

// buyerPays makes a payment of an order's checkout, mostly as it was asked for.
func (l *lives) buyerPays(r commands.Request, id orderid.ID) error {
	if id == "" {
		return nil
	}
	checkout := l.order(string(id)).Checkout
	key := fmt.Sprintf("%s-%d", checkout, 1+l.any("which", 2))
	p := l.bank.payments[key]
	if p == nil {
		_, err := l.StartPayment(l.ctx(), r, commands.PaymentRequest{Checkout: orderid.ID(checkout), Channel: "bank"})
		p, key = l.bank.payments[checkout+"-1"], checkout+"-1"
		if p == nil {
			return err
		}
	}
	if p.trade != "" {
		return nil
	}
	amount := p.total.Amount
	switch l.any("wrong", 12) {
	case 0:
		amount++
	case 1:
		key = "nobody-" + key
	}
	l.notices = append(l.notices, l.bank.pay(key, amount, "BRL"))
	return nil
}

// callBack tells of a payment or a refund, maybe again, and the process follows it, maybe.
func (l *lives) callBack() {
	all := l.notices
	for _, key := range slices.Sorted(maps.Keys(l.bank.refunds)) {
		all = append(slices.Clip(all), *l.bank.refunds[key])
	}
	if len(all) == 0 {
		return
	}
	n := all[l.any("notice", len(all))]
	if err := l.Notify(l.ctx(), "bank", n); err == nil && l.any("at once", 2) == 0 {
		_ = l.SettlePayment(l.ctx(), n.Payment)
	}
}

func (l *lives) refund() order.Refund {
	amount := int64(1 + l.any("amount", 150))
	return order.Refund{By: "b", Restock: l.any("restock", 2) == 1, Lines: [][]order.RefundRequest{
		nil, {{Line: 1, Quantity: 1}}, {{Line: 1, Amount: &amount}}, {{Line: 1, Freight: true}},
	}[l.any("lines", 4)]}
}

// deliver gives the process some events, in whatever order, some of them twice.
func (l *lives) deliver() {
	var all []event.Recorded
	for r, err := range l.mem.All(l.ctx(), 0) {
		l.must(err)
		all = append(all, r)
	}
	for range 1 + l.any("events", 30) {
		_ = l.React(l.ctx(), all[l.any("event", len(all))])
	}
}

// weather changes how the bank is today, or ends this process.
func (l *lives) weather() {
	switch l.any("weather", 4) {
	case 0:
		l.bank.slow = !l.bank.slow
	case 1:
		l.bank.refuses = !l.bank.refuses
	case 2:
		if l.bank.away == nil {
			l.bank.away = func() error { return errAway }
		} else {
			l.bank.away = nil
		}
	case 3:
		l.restart()
	}
}

// end lets everything come to its end: nothing fails any more, time goes by, and
// the operator does what alarms ask for.
func (l *lives) end() {
	l.calm.Store(true)
	l.bank.slow, l.bank.refuses, l.bank.away = false, false, nil
	l.restart()
	for _, n := range l.notices {
		l.must(l.Notify(l.ctx(), "bank", n))
	}
	for _, hours := range []int{1, 1, 30, 30} {
		l.follow()
		l.mend()
		l.follow()
		l.pass(time.Duration(hours) * time.Hour)
		l.fire()
		l.follow()
	}
}

// mend gives back what nobody asked for, and sends refused refunds again.
func (l *lives) mend() {
	for id := range l.bank.payments {
		p := l.payment(id)
		if p.ID == "" {
			continue // money for nobody
		}
		for _, t := range p.Trades {
			if t.Mismatch != "" && !t.Returned {
				_, err := l.ReturnTrade(l.ctx(), named("return/"+id), id, t.Trade)
				l.must(err)
			}
		}
		for _, r := range p.Refunds {
			if r.Status == payment.RefundIsRefused {
				_, err := l.RedirectRefund(l.ctx(), named(fmt.Sprintf("send/%s/%d", r.Key, r.Sent)), id, payment.RedirectRefund{Refund: r.Key, To: payment.ToChannel})
				l.must(err)
			}
		}
	}
}

// Whatever buyers, sellers, the bank and the operator do, whatever dies, comes
// twice, late or not at all: in the end every order stands where it may end, no
// unit of money is made or lost, and the stock adds up.
func TestMoneyIsConservedInEveryLife(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l, tb := begin(t, rt)
		defer tb.clean()
		for range rapid.IntRange(5, 60).Draw(rt, "steps") {
			l.step()
		}
		l.end()
		l.sound()
		var escrowed, sellers, fees, balance int64
		allocated, gone := map[string]int64{}, map[string]int64{}
		for _, id := range l.orders {
			o := l.order(id)
			l.ended(o)
			if o.PaymentID == "" && o.Paid > 0 {
				balance += o.Net()
			}
			for _, it := range o.Lines {
				gone[it.SKU] += it.Shipped
				if o.Status != order.StatusCancelled {
					allocated[it.SKU] += it.Quantity - it.Shipped - it.RefundedUnshipped
				}
			}
			for _, r := range o.Refunds {
				for _, line := range r.Lines {
					if r.Restock {
						gone[o.Lines[line.Line-1].SKU] -= line.Returned
					}
				}
			}
			if s := o.Settlement; s != nil {
				fees += s.Commission - s.Back
				sellers += o.Net() - (s.Commission - s.Back)
			} else {
				escrowed += o.Net()
			}
		}
		for _, sku := range []string{"a", "b"} {
			l.wantWhole(sku, 10-gone[sku], 0, allocated[sku])
		}
		l.wantBalance(account.Escrow("BRL"), escrowed)
		l.wantBalance(feeAccount, fees)
		l.wantBalance(clearing, -l.bank.out())
		l.wantBalance(buyer, 10_000-balance)
		l.wantBalance(suspense, l.bank.stray())
		if got := l.account(account.Seller("seller-1", "BRL")).Balance + l.account(account.Seller("seller-2", "BRL")).Balance; got != sellers {
			rt.Fatalf("the sellers have %d, and earned %d", got, sellers)
		}
		if waiting, err := l.Stuck(l.ctx()); err != nil || len(waiting) > 0 {
			rt.Fatalf("%v: %v is parked", err, waiting)
		}
	})
}

func (l *lives) wantBalance(id string, want int64) {
	if got := l.account(id); got.Balance != want || got.Held != 0 {
		l.tb.Fatalf("%s has %d with %d held, want %d", id, got.Balance, got.Held, want)
	}
}

// ended checks that an order stands where it may end, and that all it called for is done.
func (l *lives) ended(o order.Order) {
	switch o.Status {
	case order.StatusPending, order.StatusNone:
		l.tb.Fatalf("order %s is %q for ever", o.ID, o.Status)
	case order.StatusCancelled:
		if !o.StockReleased {
			l.tb.Fatalf("order %s keeps its stock", o.ID)
		}
		return
	default:
	}
	if !o.StockCommitted || !o.PaymentCaptured {
		l.tb.Fatalf("order %s: stock %v, money %v", o.ID, o.StockCommitted, o.PaymentCaptured)
	}
	for _, r := range o.Refunds {
		if !r.Settled {
			l.tb.Fatalf("order %s waits for refund %d", o.ID, r.Refund)
		}
	}
	if o.Status == order.StatusCompleted && (o.Settlement == nil || !o.Settlement.Posted) {
		l.tb.Fatalf("order %s is not settled", o.ID)
	}
	if o.PaymentID == "" {
		return
	}
	p := l.payment(o.PaymentID)
	if p.Status != payment.StatusCaptured || !p.Applied {
		l.tb.Fatalf("order %s is paid by payment %s, which is %s", o.ID, p.ID, p.Status)
	}
}
