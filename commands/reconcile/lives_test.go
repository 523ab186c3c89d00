package reconcile_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cartwright/commands"
	"cartwright/commands/reconcile"
	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/catalog"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/payment"
	"cartwright/domain/personal"
	"cartwright/infra/faults"
	"cartwright/infra/keyring"
	"cartwright/infra/memstore"
)

// A till is a channel that takes whatever buyers give it.
type till struct {
	mu      sync.Mutex
	took    map[string]commands.Notice // by payment
	back    map[string]commands.Notice // by payment and key
	trades  int
	slow    bool
	refuses bool
}

func (c *till) Ask(context.Context, commands.Asking) (commands.Instruction, error) {
	return commands.Instruction{Data: []byte("{}")}, nil
}

func (c *till) Find(_ context.Context, id string) (commands.Notice, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n, ok := c.took[id]; ok {
		return n, nil
	}
	return commands.Notice{Kind: commands.NoticePending, Payment: id}, nil
}

func (c *till) Close(ctx context.Context, id string) (commands.Notice, error) { return c.Find(ctx, id) }

func (c *till) Refund(_ context.Context, r commands.Returning) (commands.Notice, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, done := c.back[r.Payment+r.Key]
	if !done {
		if c.refuses {
			return n, domain.Refuse(domain.Rejected, "channel_refused", "Not today.")
		}
		n = commands.Notice{Kind: commands.NoticeRefunded, Payment: r.Payment, Refund: r.Key, Money: r.Amount}
		c.back[r.Payment+r.Key] = n
	}
	if c.slow {
		n.Kind = commands.NoticePending
	}
	return n, nil
}

func (c *till) pay(id string, amount int64) commands.Notice {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trades++
	n := commands.Notice{Kind: commands.NoticePaid, Payment: id, Trade: fmt.Sprintf("t-%d", c.trades), Money: money.Money{Amount: amount, Currency: "BRL"}, At: began}
	c.took[id] = n
	return n
}

// A life is that of a shop in which things fail and are left half done.
type life struct {
	tb     testing.TB
	rt     *rapid.T
	store  *memstore.Store
	shop   *commands.Shop
	till   *till
	events *event.Registry

	clock atomic.Int64
	calm  atomic.Bool
	calls atomic.Int64
	every int64

	orders   []string
	payments []string
	n        int
}

func newLife(t *testing.T, rt *rapid.T) *life {
	t.Helper()
	l := &life{
		tb: t, rt: rt, store: new(memstore.Store), every: rapid.Int64Range(4, 60).Draw(rt, "every"),
		till: &till{took: map[string]commands.Notice{}, back: map[string]commands.Notice{}},
	}
	l.clock.Store(began.UnixMilli())
	l.calm.Store(true)
	var err error
	l.events, err = commands.Events()
	l.must(err)
	store := faults.Store{Store: l.store, BeforeAppend: l.fault, AfterAppend: l.fault}
	ring, err := keyring.New(l.store, make([]byte, personal.KeySize))
	l.must(err)
	l.shop, err = commands.Open(commands.Setup{
		Store: store, Sealer: ring, Now: func() time.Time { return time.UnixMilli(l.clock.Add(1)) },
		Channels: map[string]commands.Channel{"bank": l.till}, CompleteAfter: 24 * time.Hour, Commission: 1234,
	})
	l.must(err)
	for i, sku := range []string{"a", "b"} {
		_, err = l.shop.PublishOffer(l.ctx(), l.named(), sku, catalog.Publish{OnSale: true, Snapshot: catalog.Snapshot{
			Seller: fmt.Sprintf("s-%d", i), Title: sku, Currency: "BRL", UnitPrice: int64(99 + i), Freight: 7,
		}})
		l.must(err)
		_, err = l.shop.Inventory(l.ctx(), l.named(), sku, inventory.Receive{Quantity: 12})
		l.must(err)
	}
	_, err = l.shop.Account(l.ctx(), l.named(), buyer, account.Open{Account: buyer, Currency: "BRL"})
	l.must(err)
	_, err = l.shop.Account(l.ctx(), l.named(), buyer, account.Deposit{Amount: 5000, Currency: "BRL", Journal: "fund"})
	l.must(err)
	return l
}

func (l *life) ctx() context.Context { return context.WithoutCancel(l.tb.Context()) }

func (l *life) must(err error) {
	if err != nil {
		l.rt.Helper()
		l.rt.Fatal(err)
	}
}

func (l *life) fault(string) error {
	if !l.calm.Load() && l.calls.Add(1)%l.every == 0 {
		return faults.ErrInjected
	}
	return nil
}

func (l *life) named() commands.Request {
	l.n++
	return commands.Request{Cause: fmt.Sprintf("c/%d", l.n)}
}

func (l *life) any(label string, n int) int { return rapid.IntRange(0, n-1).Draw(l.rt, label) }

// step is something that somebody does. Most of it may be refused, or fail.
func (l *life) step() {
	what := l.any("what", 13)
	if len(l.orders) == 0 {
		what = 0
	}
	var id orderid.ID
	if what > 0 {
		id = orderid.ID(l.orders[l.any("order", len(l.orders))])
	}
	part := []order.Part{{Line: 1, Quantity: int64(1 + l.any("units", 2))}}
	switch ctx := l.ctx(); what {
	case 0:
		l.buy()
	case 1, 2:
		o, err := l.shop.FindOrder(ctx, id)
		if err != nil {
			return
		}
		if a, err := l.shop.StartPayment(ctx, l.named(), commands.PaymentRequest{Checkout: orderid.ID(o.Checkout), Channel: "bank"}); err == nil {
			l.payments = append(l.payments, a.Payment.ID)
			l.bankTakes(a.Payment)
		}
	case 3:
		_, _ = l.shop.Pay(ctx, l.named(), id, nil)
	case 4:
		_, _ = l.shop.Cancel(ctx, l.named(), id, order.Cancel{Cancellation: order.Cancellation{Reason: order.ByBuyer, By: "b"}})
	case 5, 6:
		_, _ = l.shop.Order(ctx, l.named(), id, order.Pack{Lines: part, Carrier: "C", Number: "1"})
	case 7:
		_, _ = l.shop.Order(ctx, l.named(), id, order.Deliver{Parcel: 1 + l.any("parcel", 2)})
	case 8:
		_, _ = l.shop.Order(ctx, l.named(), id, order.Complete{By: "b"})
	case 9:
		amount := int64(1 + l.any("amount", 90))
		_, _ = l.shop.Order(ctx, l.named(), id, order.Refund{By: "b", Restock: amount%2 == 0, Lines: [][]order.RefundRequest{
			nil, {{Line: 1, Quantity: 1}}, {{Line: 1, Amount: &amount}}, {{Line: 1, Freight: true}},
		}[l.any("lines", 4)]})
	case 10:
		l.till.slow, l.till.refuses = l.any("slow", 2) == 0, l.any("refuses", 2) == 0
		l.react(l.any("events", 20))
	case 11:
		l.clock.Add(int64(l.any("minutes", 25)) * time.Minute.Milliseconds())
		_ = l.timers().Fire(ctx)
	case 12:
		_, _ = l.shop.Inventory(ctx, l.named(), "a", inventory.Divide{Shards: 2 + l.any("shards", 3)})
	}
}

func (l *life) buy() {
	id, _, err := l.shop.DrawOrderID(l.ctx(), commands.Request{}, buyer)
	l.must(err)
	items := []commands.Item{{SKU: "a", Quantity: int64(1 + l.any("of a", 3))}}
	if l.any("both", 2) == 0 {
		items = append(items, commands.Item{SKU: "b", Quantity: 1})
	}
	p, err := l.shop.Checkout(l.ctx(), l.named(), commands.Checkout{
		Order: id, Buyer: buyer, Items: items, Address: personal.Address{Name: "N", Line1: "L", City: "C", Country: "BR"},
	})
	if err == nil {
		for _, o := range p.Orders {
			l.orders = append(l.orders, o.Order)
		}
	}
}

// bankTakes is a buyer who pays at the bank, not always what was asked for, and
// the bank which tells of it, or does not.
func (l *life) bankTakes(p payment.Payment) {
	if l.till.took[p.ID].Trade != "" {
		return
	}
	id, amount := p.ID, p.Amount
	switch l.any("how", 8) {
	case 0:
		amount++
	case 1:
		id = "nobody"
	case 2:
		return
	}
	n := l.till.pay(id, amount)
	for range l.any("told", 3) {
		_ = l.shop.Notify(l.ctx(), "bank", n)
	}
}

func (l *life) react(n int) {
	var all []event.Recorded
	for r, err := range l.store.All(l.ctx(), 0) {
		l.must(err)
		all = append(all, r)
	}
	for range n {
		_ = l.shop.React(l.ctx(), all[l.any("event", len(all))])
	}
}

func (l *life) timers() *commands.Timers {
	return &commands.Timers{Shop: l.shop, Deadlines: everything{l.store}, Log: slog.New(slog.DiscardHandler)}
}

// everything is due, always.
type everything struct{ *memstore.Store }

func (d everything) Due(ctx context.Context, now time.Time, after *commands.Due, _ int) ([]commands.Due, error) {
	if after != nil {
		return nil, nil
	}
	streams := map[string]bool{}
	for r, err := range d.All(ctx, 0) {
		if err != nil {
			return nil, err
		}
		streams[r.Stream] = slices.Contains(reconcile.Categories(), event.Category(r.Stream))
	}
	var all []commands.Due
	for _, stream := range slices.Sorted(maps.Keys(streams)) {
		if streams[stream] {
			all = append(all, commands.Due{Stream: stream, At: now})
		}
	}
	return all, nil
}

// settle lets everything come to rest.
func (l *life) settle() {
	l.calm.Store(true)
	l.till.slow, l.till.refuses = false, false
	for _, n := range l.till.took {
		l.must(l.shop.Notify(l.ctx(), "bank", n))
	}
	for range 4 {
		l.follow()
		l.sendAgain()
		l.clock.Add((31 * time.Hour).Milliseconds())
		l.must(l.timers().Fire(l.ctx()))
	}
	l.follow()
}

// follow lets the process follow all there is, until nothing more comes of it.
func (l *life) follow() {
	for done, head := uint64(0), uint64(1); done != head; {
		done = head
		for r, err := range l.store.All(l.ctx(), 0) {
			l.must(err)
			l.must(l.shop.React(l.ctx(), r))
		}
		var err error
		head, err = l.store.Head(l.ctx())
		l.must(err)
	}
}

func (l *life) sendAgain() {
	for _, id := range l.payments {
		p, err := l.shop.FindPayment(l.ctx(), id)
		l.must(err)
		for _, r := range p.Refunds {
			if r.Status == payment.RefundIsRefused {
				_, err := l.shop.RedirectRefund(l.ctx(), l.named(), id, payment.RedirectRefund{Refund: r.Key, To: payment.ToBalance})
				l.must(err)
			}
		}
	}
}

func (l *life) log() (all []event.Recorded) {
	for r, err := range l.store.All(l.ctx(), 0) {
		l.must(err)
		all = append(all, r)
	}
	return all
}

// What comes of orders, whatever fails and whatever is told twice or not at all,
// adds up once everything has come to rest. What then is taken out of the ledger,
// or put in twice, is found.
func TestALifeAddsUpAndALostOrDoubledLegIsFound(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := newLife(t, rt)
		defer l.shop.Close()
		l.calm.Store(false)
		for range rapid.IntRange(3, 40).Draw(rt, "steps") {
			l.step()
		}
		_ = auditOf(t, reconcile.Config{}, l.events, l.log()).Report() // half way nothing is expected, but that it comes to an end
		l.settle()
		log := l.log()
		a := auditOf(t, reconcile.Config{}, l.events, log)
		got := a.Report()
		for _, f := range got.Findings {
			if !f.Attention {
				rt.Fatalf("got %+v", f)
			}
		}
		if len(got.UnderWay) > 0 || got.Totals[0].Sum != 0 {
			rt.Fatalf("under way %+v, totals %+v", got.UnderWay, got.Totals)
		}
		for _, acc := range got.Totals[0].Accounts {
			if acc.Balance != acc.Expected || acc.Held != 0 {
				rt.Fatalf("got %+v", acc)
			}
		}
		if k := a.Kept(); k.Open > len(got.Findings)+stillToShip(got) {
			rt.Fatalf("kept %+v, with %+v", k, got.Findings)
		}

		legs := slices.DeleteFunc(slices.Clone(log), func(r event.Recorded) bool { return !isLeg(l.events, r) })
		leg := legs[l.any("leg", len(legs))]
		at := slices.IndexFunc(log, func(r event.Recorded) bool { return r.ID == leg.ID })
		spoilt := slices.Clone(log)
		if l.any("doubled", 2) == 0 {
			spoilt = slices.Delete(spoilt, at, at+1)
			for i := range spoilt[at:] { // as if it had never been there
				if r := &spoilt[at+i]; r.Stream == leg.Stream {
					r.Revision--
				}
			}
		} else {
			leg.Position = spoilt[len(spoilt)-1].Position + 1
			spoilt = append(spoilt, leg)
		}
		bad := auditOf(t, reconcile.Config{}, l.events, spoilt).Report()
		if bad.Totals[0].Sum == 0 || !slices.ContainsFunc(bad.Findings, func(f reconcile.Finding) bool {
			return strings.HasPrefix(string(f.Kind), "journal_") && f.Journal != ""
		}) {
			rt.Fatalf("%+v was lost or doubled, and the findings are %+v", leg, bad.Findings)
		}
	})
}

// stillToShip bounds the reservations that may stand: those of paid orders.
func stillToShip(r reconcile.Report) int { return 2 * r.Orders["paid"] }

func isLeg(events *event.Registry, r event.Recorded) bool {
	e, err := event.Decode[account.Event](events, r)
	if err != nil {
		return false
	}
	_, ok := account.EntryOf(e)
	return ok
}
