package commands_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/catalog"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/personal"
	"cartwright/infra/faults"
	"cartwright/infra/keyring"
	"cartwright/infra/memstore"
)

var home = personal.Address{Name: "Ana Souza", Phone: "+55 11 5555", Line1: "Rua A 1", City: "São Paulo", Country: "BR"}

const buyer = "buyer-1"

// world is a shop on a store, with a clock that stands where it is put.
type world struct {
	*commands.Shop
	tb    testing.TB
	store commands.Store
	clock *atomic.Int64
}

func newWorld(tb testing.TB, store commands.Store, clock *atomic.Int64) *world {
	tb.Helper()
	return newWorldWith(tb, store, clock, nil)
}

func newWorldWith(tb testing.TB, store commands.Store, clock *atomic.Int64, register commands.Register) *world {
	tb.Helper()
	ring, err := keyring.New(store, make([]byte, personal.KeySize))
	if err != nil {
		tb.Fatal(err)
	}
	shop, err := commands.Open(commands.Setup{
		Store: store, Sealer: ring, Now: func() time.Time { return time.UnixMilli(clock.Add(1)) }, Register: register,
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(shop.Close)
	return &world{Shop: shop, tb: tb, store: store, clock: clock}
}

func newClock() *atomic.Int64 {
	clock := new(atomic.Int64)
	clock.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMilli())
	return clock
}

func (w *world) pass(d time.Duration) { w.clock.Add(d.Milliseconds()) }

func (w *world) ctx() context.Context { return context.WithoutCancel(w.tb.Context()) }

func (w *world) must(err error) {
	w.tb.Helper()
	if err != nil {
		w.tb.Fatal(err)
	}
}

func (w *world) offer(sku, seller string, price int64) {
	w.tb.Helper()
	_, err := w.PublishOffer(w.ctx(), named("offer/"+sku+strconv.FormatInt(price, 10)), sku, catalog.Publish{
		Snapshot: catalog.Snapshot{Seller: seller, Title: "Good " + sku, Currency: "BRL", UnitPrice: price, Freight: 10}, OnSale: true,
	})
	w.must(err)
}

func (w *world) receive(sku string, n int64) {
	w.tb.Helper()
	_, err := w.Inventory(w.ctx(), named("receive/"+sku), sku, inventory.Receive{Quantity: n})
	w.must(err)
}

func (w *world) fund(owner string, n int64) {
	w.tb.Helper()
	_, err := w.Account(w.ctx(), named("open/"+owner), owner, account.Open{Account: owner, Currency: "BRL"})
	w.must(err)
	_, err = w.Account(w.ctx(), named("fund/"+owner), owner, account.Deposit{Amount: n, Currency: "BRL", Journal: "fund/" + owner})
	w.must(err)
}

func (w *world) id() orderid.ID {
	w.tb.Helper()
	id, _, err := w.DrawOrderID(w.ctx(), commands.Request{}, buyer)
	w.must(err)
	return id
}

func cart(id orderid.ID, items ...commands.Item) commands.Checkout {
	return commands.Checkout{Order: id, Buyer: buyer, Items: items, Address: home}
}

// stand is a shop with two sellers' goods and a buyer who has money.
func stand(tb testing.TB) *world {
	tb.Helper()
	w := newWorld(tb, new(memstore.Store), newClock())
	w.offer("a", "seller-1", 100)
	w.offer("b", "seller-2", 200)
	w.receive("a", 10)
	w.receive("b", 10)
	w.fund(buyer, 10_000)
	return w
}

// again is another process on the same store.
func (w *world) again() *world {
	w.tb.Helper()
	store := w.store
	if f, ok := store.(faults.Store); ok {
		store = f.Store
	}
	return newWorld(w.tb, store, w.clock)
}

func fold[S, C, E any](w *world, stream string, d domain.Decider[S, C, E]) S {
	w.tb.Helper()
	events, err := commands.Events()
	w.must(err)
	var s S
	for r, err := range w.store.Load(w.ctx(), stream, 0) {
		w.must(err)
		e, err := event.Decode[E](events, r)
		w.must(err)
		s, err = d.Evolve(s, e)
		w.must(err)
	}
	return s
}

func (w *world) order(id string) order.Order {
	w.tb.Helper()
	return fold(w, "order-"+id, order.Decider)
}

func (w *world) stock(sku string) inventory.Stock {
	w.tb.Helper()
	return fold(w, "inventory-"+sku, inventory.Decider)
}

func (w *world) account(id string) account.Account {
	w.tb.Helper()
	return fold(w, "account-"+id, account.Decider)
}

func (w *world) wantStock(sku string, onHand, held, allocated int64) {
	w.tb.Helper()
	s := w.stock(sku)
	if got, want := [3]int64{s.OnHand, s.Held, s.Allocated}, [3]int64{onHand, held, allocated}; got != want {
		w.tb.Fatalf("%s: on hand, held, allocated = %v, want %v", sku, got, want)
	}
}

func (w *world) wantMoney(id string, balance, held int64) {
	w.tb.Helper()
	a := w.account(id)
	if a.Balance != balance || a.Held != held {
		w.tb.Fatalf("%s has %d with %d held, want %d with %d", id, a.Balance, a.Held, balance, held)
	}
}

func TestACheckoutIsSplitBySellerPaidAndSettled(t *testing.T) {
	w := stand(t)
	id := w.id()
	p, err := w.Checkout(w.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 2}, commands.Item{SKU: "b", Quantity: 1}, commands.Item{SKU: "a", Quantity: 1}))
	w.must(err)
	if len(p.Orders) != 2 || p.Orders[0].Order != string(id) || p.Total != (money.Money{Amount: 3*110 + 210, Currency: "BRL"}) {
		t.Fatalf("got %+v", p)
	}
	w.wantStock("a", 10, 3, 0)
	w.wantStock("b", 10, 1, 0)
	first, second := w.order(p.Orders[0].Order), w.order(p.Orders[1].Order)
	if first.Seller != "seller-1" || second.Seller != "seller-2" || second.Checkout != string(id) || first.Deadline.IsZero() {
		t.Fatalf("got %+v and %+v", first, second)
	}
	paid, err := w.Pay(w.ctx(), named("p"), id, nil)
	w.must(err)
	if paid.Total.Amount != 540 || len(paid.Orders) != 2 {
		t.Fatalf("got %+v", paid)
	}
	w.wantMoney(buyer, 10_000, 540)
	for _, o := range p.Orders {
		w.must(w.Settle(w.ctx(), o.Order))
		w.must(w.Settle(w.ctx(), o.Order))
	}
	w.wantMoney(buyer, 10_000-540, 0)
	w.wantMoney(account.Escrow("BRL"), 540, 0)
	w.wantStock("a", 10, 0, 3)
	if o := w.order(string(id)); !o.StockCommitted || !o.PaymentCaptured {
		t.Fatalf("got %+v", o)
	}
}

func TestOneSKUOnSeveralLinesIsHeldOnceSummed(t *testing.T) {
	w := stand(t)
	_, err := w.Checkout(w.ctx(), named("c"), cart(w.id(), commands.Item{SKU: "a", Quantity: 6}, commands.Item{SKU: "a", Quantity: 5}))
	if domain.ReasonOf(err) != "out_of_stock" {
		t.Fatalf("11 of 10: %v", err)
	}
	w.wantStock("a", 10, 0, 0)
}

func TestAHotSKUIsNeverOversold(t *testing.T) {
	w := stand(t)
	w.offer("hot", "seller-1", 5)
	w.receive("hot", 20)
	other := w.again()
	var placed, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 200 {
		shop := []*world{w, other}[i%2]
		id := w.id()
		wg.Go(func() {
			_, err := shop.Checkout(w.ctx(), named(string(id)), cart(id, commands.Item{SKU: "hot", Quantity: 1}))
			switch {
			case err == nil:
				placed.Add(1)
			case domain.ReasonOf(err) == "out_of_stock":
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if placed.Load() != 20 || refused.Load() != 180 {
		t.Fatalf("%d placed, %d refused", placed.Load(), refused.Load())
	}
	w.wantStock("hot", 20, 20, 0)
}

func TestOneRequestSentManyTimesMakesOneOrder(t *testing.T) {
	w := stand(t)
	other := w.again()
	id := w.id()
	r := commands.Request{Cause: "c", Digest: "d"}
	answers := make([]commands.Placed, 50)
	var wg sync.WaitGroup
	for i := range answers {
		shop := []*world{w, other}[i%2]
		wg.Go(func() {
			var err error
			answers[i], err = shop.Checkout(w.ctx(), r, cart(id, commands.Item{SKU: "a", Quantity: 1}, commands.Item{SKU: "b", Quantity: 1}))
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	fresh := 0
	for _, p := range answers {
		if !p.Repeated {
			fresh++
		}
		p.Repeated = answers[0].Repeated
		if diff := cmp.Diff(answers[0], p); diff != "" {
			t.Fatalf("answers differ: %s", diff)
		}
	}
	if fresh != 1 {
		t.Fatalf("%d answers say that they are the first", fresh)
	}
	w.wantStock("a", 10, 1, 0)
	w.wantStock("b", 10, 1, 0)
	_, err := w.Checkout(w.ctx(), commands.Request{Cause: "c", Digest: "another"}, cart(id, commands.Item{SKU: "a", Quantity: 2}))
	if domain.ReasonOf(err) != "idempotency_key_reused" {
		t.Fatalf("another body: %v", err)
	}
	_, err = w.Checkout(w.ctx(), commands.Request{Cause: "c", Digest: "another"}, cart(w.id(), commands.Item{SKU: "a", Quantity: 1}))
	if domain.ReasonOf(err) != "idempotency_key_reused" {
		t.Fatalf("another order's id: %v", err)
	}
	_, err = w.Checkout(w.ctx(), named("c2"), cart(id, commands.Item{SKU: "a", Quantity: 2}))
	if domain.ReasonOf(err) != "order_exists" {
		t.Fatalf("a taken id: %v", err)
	}
	w.wantStock("a", 10, 1, 0)
}

// A notebook is a register in memory, which may be away.
type notebook struct {
	mu    sync.Mutex
	notes map[string]string
	away  error
}

func (n *notebook) Look(_ context.Context, cause string) (string, bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	id, known := n.notes[cause]
	return id, known, n.away
}

func (n *notebook) Remember(_ context.Context, cause, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.away == nil {
		n.notes[cause] = id
	}
	return n.away
}

func TestAnotherProcessKnowsWhichOrderAKeyHasPlaced(t *testing.T) {
	store, clock, notes := new(memstore.Store), newClock(), &notebook{notes: map[string]string{}}
	first := newWorldWith(t, store, clock, notes)
	second := newWorldWith(t, store, clock, notes)
	first.offer("a", "seller-1", 100)
	first.receive("a", 10)
	one := commands.Item{SKU: "a", Quantity: 1}
	id := first.id()
	_, err := first.Checkout(first.ctx(), named("c"), cart(id, one))
	first.must(err)
	if _, err = second.Checkout(second.ctx(), named("c"), cart(first.id(), one)); domain.ReasonOf(err) != "idempotency_key_reused" {
		t.Errorf("the same key with another order's id: %v", err)
	}
	p, err := second.Checkout(second.ctx(), named("c"), cart(id, one))
	if err != nil || !p.Repeated {
		t.Errorf("a repeat: %v, repeated %t", err, p.Repeated)
	}
	// Without the register everything goes on, only less is noticed.
	notes.away = errors.New("connection refused")
	if p, err = second.Checkout(second.ctx(), named("d"), cart(first.id(), one)); err != nil || p.Repeated {
		t.Errorf("while the register is away: %v, repeated %t", err, p.Repeated)
	}
	first.wantStock("a", 10, 2, 0)
}

func TestARepeatIsAnsweredThoughTheStockIsGoneByNow(t *testing.T) {
	w := stand(t)
	id := w.id()
	_, err := w.Checkout(w.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 10}))
	w.must(err)
	_, err = w.Cancel(w.ctx(), named("x"), id, order.Cancel{Cancellation: order.Cancellation{Reason: order.ByBuyer, By: buyer}})
	w.must(err)
	w.must(w.Settle(w.ctx(), string(id)))
	_, err = w.Checkout(w.ctx(), named("c2"), cart(w.id(), commands.Item{SKU: "a", Quantity: 10}))
	w.must(err)
	p, err := w.again().Checkout(w.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 10}))
	if err != nil || !p.Repeated || p.Orders[0].Order != string(id) {
		t.Fatalf("got %+v, %v", p, err)
	}
}

// A process that has dealt with a checkout looks for its order first, whatever has
// become of it, and asks for nothing else where it stands.
func TestWhatWasTriedBeforeIsLookedForFirst(t *testing.T) {
	var asked []string // one request at a time asks
	denied := false
	store := &faults.Store{Store: new(memstore.Store)}
	store.BeforeLoad = func(stream string) error { asked = append(asked, stream); return nil }
	store.BeforeAppend = func(stream string) error {
		if denied && strings.HasPrefix(stream, "order-") {
			return event.ErrDenied
		}
		return nil
	}
	w := newWorld(t, store, newClock())
	w.offer("a", "seller-1", 100)
	w.receive("a", 10)
	try := func(cause string, id orderid.ID, quantity int64) error {
		asked = nil
		_, err := w.Checkout(w.ctx(), named(cause), cart(id, commands.Item{SKU: "a", Quantity: quantity}))
		return err
	}
	stands, unknown, refused := w.id(), w.id(), w.id()
	w.must(try("c1", stands, 1))
	w.must(try("c1", stands, 1))
	if others := slices.DeleteFunc(asked, func(stream string) bool { return stream == "order-"+string(stands) }); len(others) > 0 {
		t.Errorf("to answer a repeat, %v were asked too", others)
	}
	denied = true
	if err := try("c2", unknown, 1); domain.ReasonOf(err) != "log_unavailable" {
		t.Fatalf("without a log: %v", err)
	}
	denied = false
	w.must(try("c2", unknown, 1))
	if asked[0] != "order-"+string(unknown) {
		t.Errorf("one that failed before asks first for %s", asked[0])
	}
	if err := try("c3", refused, 10); domain.ReasonOf(err) != "out_of_stock" {
		t.Fatalf("more than there is: %v", err)
	}
	w.must(try("c3", refused, 1))
	if asked[0] != "order-"+string(refused) {
		t.Errorf("one that was refused before asks first for %s", asked[0])
	}
}

func TestARefusedCheckoutLeavesNothingAndIsDecidedAfresh(t *testing.T) {
	w := stand(t)
	id := w.id()
	_, err := w.Checkout(w.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 2}, commands.Item{SKU: "b", Quantity: 11}))
	if e, ok := errors.AsType[*domain.Error](err); !ok || e.Reason != "out_of_stock" || len(e.Fields) != 1 || e.Fields[0].Pointer != "/items/1" {
		t.Fatalf("got %v", err)
	}
	w.wantStock("a", 10, 0, 0)
	p, err := w.Checkout(w.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 5}))
	w.must(err)
	if p.Total.Amount != 550 || p.Repeated {
		t.Fatalf("got %+v", p)
	}
	w.wantStock("a", 10, 5, 0)
}

func TestWhatACartMayNotSay(t *testing.T) {
	w := stand(t)
	w.offer("gone", "seller-1", 5)
	_, err := w.PublishOffer(w.ctx(), named("off"), "gone", catalog.Publish{Snapshot: catalog.Snapshot{Seller: "seller-1", Title: "x", Currency: "BRL"}})
	w.must(err)
	_, err = w.PublishOffer(w.ctx(), named("yen"), "yen", catalog.Publish{Snapshot: catalog.Snapshot{Seller: "seller-1", Title: "x", Currency: "JPY"}, OnSale: true})
	w.must(err)
	one := commands.Item{SKU: "a", Quantity: 1}
	for name, tt := range map[string]struct {
		change func(*commands.Checkout)
		want   string
	}{
		"no items":           {func(c *commands.Checkout) { c.Items = nil }, "wrong_item_count"},
		"nothing of it":      {func(c *commands.Checkout) { c.Items = []commands.Item{{SKU: "a"}} }, "wrong_quantity"},
		"an unknown SKU":     {func(c *commands.Checkout) { c.Items = []commands.Item{one, {SKU: "zz", Quantity: 1}} }, "unknown_sku"},
		"not on sale":        {func(c *commands.Checkout) { c.Items = []commands.Item{{SKU: "gone", Quantity: 1}} }, "not_on_sale"},
		"two currencies":     {func(c *commands.Checkout) { c.Items = []commands.Item{one, {SKU: "yen", Quantity: 1}} }, "mixed_currencies"},
		"another price":      {func(c *commands.Checkout) { c.Expected = &money.Money{Amount: 109, Currency: "BRL"} }, "price_changed"},
		"another currency":   {func(c *commands.Checkout) { c.Expected = &money.Money{Amount: 110, Currency: "USD"} }, "wrong_currency"},
		"another's order id": {func(c *commands.Checkout) { c.Buyer = "buyer-2" }, "wrong_bucket"},
		"no address":         {func(c *commands.Checkout) { c.Address = personal.Address{} }, "invalid_address"},
	} {
		c := cart(w.id(), one)
		tt.change(&c)
		if _, err := w.Checkout(w.ctx(), named(name), c); domain.ReasonOf(err) != tt.want {
			t.Errorf("%s: got %v, want %s", name, err, tt.want)
		}
	}
	w.wantStock("a", 10, 0, 0)
}

func TestAnOrderIDIsGivenOutOnceForAKey(t *testing.T) {
	w := stand(t)
	id, repeated, err := w.DrawOrderID(w.ctx(), named("k"), buyer)
	if err != nil || repeated {
		t.Fatalf("got %s %t %v", id, repeated, err)
	}
	w.pass(48 * time.Hour)
	again, repeated, err := w.again().DrawOrderID(w.ctx(), named("k"), buyer)
	if err != nil || !repeated || again != id {
		t.Fatalf("got %s %t %v, want %s", again, repeated, err, id)
	}
	seen := map[orderid.ID]bool{}
	for range 100 {
		if id := w.id(); seen[id] {
			t.Fatalf("%s was given out twice", id)
		} else {
			seen[id] = true
		}
	}
}

// An id may be drawn in one process and used in another within a millisecond,
// in which that one draws the id of a sibling.
func TestNoSiblingHasTheIDOfItsCheckout(t *testing.T) {
	w := stand(t)
	for _, sku := range []string{"a", "b"} {
		_, err := w.Inventory(w.ctx(), named("more/"+sku), sku, inventory.Receive{Quantity: 100})
		w.must(err)
	}
	for ms := range 20 { // in one of which the sibling's id is drawn
		for _, seq := range []int{0, 9} {
			w.pass(time.Minute)
			id, err := orderid.Make(time.UnixMilli(w.clock.Load()+int64(ms)), seq, buyer)
			w.must(err)
			_, err = w.Checkout(w.ctx(), named(string(id)), cart(id, commands.Item{SKU: "a", Quantity: 1}, commands.Item{SKU: "b", Quantity: 1}))
			if err != nil {
				t.Fatalf("%d ms later, sequence %d: %v", ms, seq, err)
			}
			if sib := w.order(string(id)).Siblings[0].Order; sib[12] != '9' && sib[12] != '8' {
				t.Errorf("sibling %s has a number that is given out first", sib)
			}
		}
	}
}

// Two processes that draw ids for one buyer in the same milliseconds draw the same.
func TestNoTwoCheckoutsHaveOneSibling(t *testing.T) {
	store := new(memstore.Store)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMilli()
	var clocks [2]*atomic.Int64
	var shops [2]*world
	for i := range shops {
		clocks[i] = new(atomic.Int64)
		clocks[i].Store(now)
		shops[i] = newWorld(t, store, clocks[i])
	}
	w := shops[0]
	var items []commands.Item
	for i, sku := range []string{"a", "b", "c", "d"} {
		w.offer(sku, "seller-"+strconv.Itoa(i), 100)
		w.receive(sku, 1000)
		items = append(items, commands.Item{SKU: sku, Quantity: 1})
	}
	for round := range 20 {
		var placed sync.WaitGroup
		var ids [2]orderid.ID
		for i, shop := range shops {
			clocks[i].Store(now + int64(round+1)*60_000) // both have the same times from here
			id, err := orderid.Make(time.UnixMilli(now+int64(round)*1000), i, buyer)
			w.must(err)
			ids[i] = id
			placed.Go(func() {
				_, err := shop.Checkout(w.ctx(), named(string(id)), cart(id, items...))
				if err != nil {
					t.Errorf("round %d, process %d: %v", round, i, err)
				}
			})
		}
		placed.Wait()
		for _, id := range ids {
			for _, s := range w.order(string(id)).Siblings {
				if sib := w.order(s.Order); sib.Checkout != string(id) || sib.Seller != s.Seller {
					t.Errorf("%s, of %s, is of %s: %s", s.Order, id, sib.Checkout, sib.Seller)
				}
			}
		}
	}
}

// crashing is a store that works for n appends and then is gone: the last one
// either was stored without anybody hearing of it, or was not.
type crashing struct {
	commands.Store
	left  atomic.Int64
	after bool
	died  context.CancelFunc
}

var errDied = errors.New("the process died")

func (c *crashing) Append(ctx context.Context, stream string, after event.Revision, es []event.Recorded) error {
	left := c.left.Add(-1)
	switch {
	case left > 0:
		return c.Store.Append(ctx, stream, after, es)
	case left == 0 && c.after:
		if err := c.Store.Append(ctx, stream, after, es); err != nil {
			return err
		}
	}
	c.died()
	return errDied
}

// crash runs do in a process that dies at its n-th append. It says whether do
// came to its end before.
func (w *world) crash(n int, after bool, do func(ctx context.Context, w *world) error) bool {
	w.tb.Helper()
	ctx, died := context.WithCancel(w.ctx())
	defer died()
	c := &crashing{Store: w.store, after: after, died: died}
	c.left.Store(int64(n))
	doomed := newWorld(w.tb, c, w.clock)
	var closing sync.WaitGroup
	closing.Go(func() { <-ctx.Done(); doomed.Close() }) // nothing of it goes on, as after a kill
	err := do(ctx, doomed)
	died()
	closing.Wait()
	return err == nil
}

func TestEveryCrashDuringPaymentEndsRight(t *testing.T) {
	everyCrash(t, func(w *world, attempt func(do func(context.Context, *world) error) bool) {
		id := w.id()
		p, err := w.Checkout(w.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 2}, commands.Item{SKU: "b", Quantity: 1}))
		w.must(err)
		pay := func(ctx context.Context, w *world) error {
			_, err := w.Pay(ctx, named("p"), id, nil)
			for _, o := range p.Orders {
				if err == nil {
					err = w.Settle(ctx, o.Order)
				}
			}
			return err
		}
		attempt(pay)
		w.must(pay(w.ctx(), w.again()))
		w.wantMoney(buyer, 10_000-430, 0)
		w.wantMoney(account.Escrow("BRL"), 430, 0)
		w.wantStock("a", 10, 0, 2)
		w.wantStock("b", 10, 0, 1)
	})
}

func TestEveryCrashDuringACheckoutEndsRight(t *testing.T) {
	everyCrash(t, func(w *world, attempt func(do func(context.Context, *world) error) bool) {
		id := w.id()
		both := cart(id, commands.Item{SKU: "a", Quantity: 10}, commands.Item{SKU: "b", Quantity: 10})
		check := func(ctx context.Context, w *world) error {
			_, err := w.Checkout(ctx, named("c"), both)
			return err
		}
		attempt(check)
		w.must(check(w.ctx(), w.again())) // though the dead process holds all there is
		o := w.order(string(id))
		if o.Status != order.StatusPending || w.order(o.Siblings[0].Order).Status != order.StatusPending {
			w.tb.Fatalf("got %+v", o)
		}
		w.wantStock("a", 10, 10, 0)
		w.wantStock("b", 10, 10, 0)
	})
}

func TestEveryCrashDuringACancelAndARefundEndsRight(t *testing.T) {
	everyCrash(t, func(w *world, attempt func(do func(context.Context, *world) error) bool) {
		id := w.id()
		_, err := w.Checkout(w.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 4}))
		w.must(err)
		_, err = w.Pay(w.ctx(), named("p"), id, nil)
		w.must(err)
		back := func(ctx context.Context, w *world) error {
			_, err := w.Order(ctx, named("pack"), id, order.Pack{Lines: []order.Part{{Line: 1, Quantity: 1}}, Carrier: "C", Number: "1"})
			if err == nil {
				_, err = w.Order(ctx, named("refund"), id, order.Refund{By: "seller", Restock: true})
			}
			if err == nil {
				err = w.Settle(ctx, string(id))
			}
			return err
		}
		attempt(back)
		w.must(back(w.ctx(), w.again()))
		w.wantMoney(buyer, 10_000, 0)
		w.wantMoney(account.Escrow("BRL"), 0, 0)
		w.wantStock("a", 10, 0, 0)
		if o := w.order(string(id)); o.Status != order.StatusRefunded {
			w.tb.Fatalf("got %s", o.Status)
		}
	})
}

// everyCrash plays a story with a crash before and after each append there is.
func everyCrash(t *testing.T, story func(w *world, attempt func(do func(context.Context, *world) error) bool)) {
	t.Helper()
	for _, after := range []bool{false, true} {
		for n, finished := 1, false; !finished; n++ {
			if n > 60 {
				t.Fatal("the story does not end")
			}
			t.Run(fmt.Sprintf("append=%d,stored=%t", n, after), func(t *testing.T) {
				w := stand(t)
				story(w, func(do func(context.Context, *world) error) bool {
					finished = w.crash(n, after, do)
					return finished
				})
			})
		}
	}
}

// due names every stream there is, so that timers look at all of them.
type due struct{ *memstore.Store }

func (d due) Due(ctx context.Context, now time.Time, after *commands.Due, _ int) ([]commands.Due, error) {
	if after != nil {
		return nil, nil
	}
	seen := map[string]bool{}
	for r, err := range d.All(ctx, 0) {
		if err != nil {
			return nil, err
		}
		seen[r.Stream] = true
	}
	var all []commands.Due
	for stream := range seen {
		if !strings.HasPrefix(stream, "key-") {
			all = append(all, commands.Due{Stream: stream, At: now})
		}
	}
	slices.SortFunc(all, func(a, b commands.Due) int { return strings.Compare(a.Stream, b.Stream) })
	return all, nil
}

func (w *world) fire() {
	w.tb.Helper()
	store, ok := w.store.(*memstore.Store)
	if !ok {
		w.tb.Fatalf("timers on a %T", w.store)
	}
	timers := commands.Timers{Shop: w.Shop, Deadlines: due{store}, Log: slog.New(slog.DiscardHandler)}
	w.must(timers.Fire(w.ctx()))
}

func TestAnUnpaidOrderIsCancelledInTime(t *testing.T) {
	w := stand(t)
	id := w.id()
	_, err := w.Checkout(w.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 3}))
	w.must(err)
	w.pass(commands.PayWithin - time.Minute)
	w.fire()
	w.wantStock("a", 10, 3, 0)
	w.pass(2 * time.Minute)
	w.fire()
	w.wantStock("a", 10, 0, 0)
	o := w.order(string(id))
	if o.Status != order.StatusCancelled || o.Cancellation.Reason != order.Timeout || !o.StockReleased {
		t.Fatalf("got %+v", o)
	}
	if _, err := w.Pay(w.ctx(), named("p"), id, nil); domain.ReasonOf(err) != "not_payable" {
		t.Fatalf("paid too late: %v", err)
	}
	w.wantMoney(buyer, 10_000, 0)
}

func TestAnOrderPlacedInThePastHasNoDeadline(t *testing.T) {
	w := stand(t)
	id := w.id()
	r := commands.Request{Cause: "c", At: time.Date(2017, 1, 1, 0, 0, 0, 0, time.UTC)}
	_, err := w.Checkout(w.ctx(), r, cart(id, commands.Item{SKU: "a", Quantity: 3}))
	w.must(err)
	w.pass(100 * time.Hour)
	w.fire()
	w.wantStock("a", 10, 3, 0)
	_, err = w.Pay(w.ctx(), named("p"), id, nil)
	w.must(err)
	w.must(w.Settle(w.ctx(), string(id)))
	w.wantStock("a", 10, 0, 3)
}

func TestAHoldThatNobodyStandsBehindIsReleased(t *testing.T) {
	w := stand(t)
	id := w.id()
	w.crash(1, true, func(ctx context.Context, w *world) error { // one of the two holds
		_, err := w.Checkout(ctx, named("c"), cart(id, commands.Item{SKU: "a", Quantity: 3}, commands.Item{SKU: "b", Quantity: 3}))
		return err
	})
	if held := w.stock("a").Held + w.stock("b").Held; held != 3 {
		t.Fatalf("%d held", held)
	}
	w.pass(commands.PayWithin + time.Minute)
	w.fire()
	w.wantStock("a", 10, 0, 0)
	w.wantStock("b", 10, 0, 0)
}

func TestWhoGetsNothingLeavesNothingInTheLog(t *testing.T) {
	var appended []string
	stocked := stand(t)
	w := newWorld(t, faults.Store{Store: stocked.store, BeforeAppend: func(stream string) error {
		appended = append(appended, stream)
		return nil
	}}, stocked.clock)
	if _, err := w.Checkout(w.ctx(), named("c"), cart(w.id(), commands.Item{SKU: "a", Quantity: 11})); domain.ReasonOf(err) != "out_of_stock" {
		t.Fatal(err)
	}
	if len(appended) > 0 {
		t.Errorf("there is something in %v", appended)
	}
}

func TestWithoutAKeyNothingStaysHeld(t *testing.T) {
	stocked := stand(t)
	w := newWorld(t, faults.Store{Store: stocked.store, BeforeAppend: func(stream string) error {
		if strings.HasPrefix(stream, "key-") {
			return errors.New("no room")
		}
		return nil
	}}, stocked.clock)
	if _, err := w.Checkout(w.ctx(), named("c"), cart(w.id(), commands.Item{SKU: "a", Quantity: 3}, commands.Item{SKU: "b", Quantity: 3})); err == nil {
		t.Fatal("an order was placed whose address nobody can seal")
	}
	w.wantStock("a", 10, 0, 0)
	w.wantStock("b", 10, 0, 0)
}

func TestAnErasedBuyerHoldsNothing(t *testing.T) {
	w := stand(t)
	if _, err := keyring.Erase(w.ctx(), w.store.(keyring.Eraser), buyer); err != nil {
		t.Fatal(err)
	}
	_, err := w.Checkout(w.ctx(), named("c"), cart(w.id(), commands.Item{SKU: "a", Quantity: 3}))
	if domain.ReasonOf(err) != "buyer_erased" {
		t.Fatal(err)
	}
	for r, err := range w.store.Load(w.ctx(), "inventory-a", 1) {
		t.Errorf("there is %s in the stock's stream, %v", r.Name, err)
	}
}

func TestARunThatIsSlowCannotPlaceOnStockThatWasGivenAway(t *testing.T) {
	w := stand(t)
	id := w.id()
	reached, resume := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow := newWorld(t, faults.Store{Store: w.store, BeforeAppend: func(stream string) error {
		if stream == "order-"+string(id) {
			once.Do(func() { close(reached); <-resume })
		}
		return nil
	}}, w.clock)
	result := make(chan error, 1)
	go func() {
		_, err := slow.Checkout(w.ctx(), named("slow"), cart(id, commands.Item{SKU: "a", Quantity: 10}))
		result <- err
	}()
	<-reached
	w.pass(commands.PayWithin + time.Minute)
	w.fire()
	w.wantStock("a", 10, 0, 0)
	_, err := w.Checkout(w.ctx(), named("other"), cart(w.id(), commands.Item{SKU: "a", Quantity: 10}))
	w.must(err)
	close(resume)
	if err := <-result; domain.ReasonOf(err) != "out_of_stock" { // its attempt was fenced, so it asked again
		t.Fatalf("got %v", err)
	}
	w.wantStock("a", 10, 10, 0)
	if o := w.order(string(id)); o.Status != order.StatusNone {
		t.Fatalf("got %s", o.Status)
	}
}

func TestAPaymentThatRacesTheDeadline(t *testing.T) {
	for name, hook := range map[string]string{
		"cancelled before the money is held": "account-" + buyer,
		"cancelled before the order is paid": "order-",
	} {
		t.Run(name, func(t *testing.T) {
			w := stand(t)
			id := w.id()
			_, err := w.Checkout(w.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 3}))
			w.must(err)
			var once sync.Once
			paying := newWorld(t, faults.Store{Store: w.store, BeforeAppend: func(stream string) error {
				if strings.HasPrefix(stream, hook) {
					once.Do(func() { w.pass(commands.PayWithin + time.Minute); w.fire() })
				}
				return nil
			}}, w.clock)
			if _, err := paying.Pay(w.ctx(), named("p"), id, nil); domain.CodeOf(err) != domain.Conflict {
				t.Fatalf("got %v", err)
			}
			w.wantMoney(buyer, 10_000, 0)
			w.wantStock("a", 10, 0, 0)
		})
	}
	t.Run("paid before it is cancelled", func(t *testing.T) {
		w := stand(t)
		id := w.id()
		_, err := w.Checkout(w.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 3}))
		w.must(err)
		var once sync.Once
		late := newWorld(t, faults.Store{Store: w.store, BeforeAppend: func(stream string) error {
			var err error
			if strings.HasPrefix(stream, "order-") {
				once.Do(func() { _, err = w.Pay(w.ctx(), named("p"), id, nil) })
			}
			return err
		}}, w.clock)
		w.pass(commands.PayWithin + time.Minute)
		timers := commands.Timers{Shop: late.Shop, Deadlines: due{w.store.(*memstore.Store)}, Log: slog.New(slog.DiscardHandler)}
		w.must(timers.Fire(w.ctx()))
		w.must(w.Settle(w.ctx(), string(id)))
		w.wantMoney(buyer, 10_000-330, 0)
		w.wantStock("a", 10, 0, 3)
		if o := w.order(string(id)); o.Status != order.StatusPaid {
			t.Fatalf("got %s", o.Status)
		}
	})
}

func TestMoneyHeldForACancelledOrderIsFreed(t *testing.T) {
	w := stand(t)
	id := w.id()
	_, err := w.Checkout(w.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 3}))
	w.must(err)
	w.crash(1, true, func(ctx context.Context, w *world) error { // held, then dead
		_, err := w.Pay(ctx, named("p"), id, nil)
		return err
	})
	w.wantMoney(buyer, 10_000, 330)
	w.pass(commands.PayWithin + time.Minute)
	w.fire()
	w.wantMoney(buyer, 10_000, 0)
}

func TestTwoSellersCheckoutWithoutEnoughMoneyHoldsNothing(t *testing.T) {
	w := stand(t)
	id := w.id()
	_, err := w.Checkout(w.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 10}, commands.Item{SKU: "b", Quantity: 10}))
	w.must(err)
	_, err = w.Account(w.ctx(), named("out"), buyer, account.Withdraw{Amount: 8000, Currency: "BRL", Journal: "out"})
	w.must(err)
	if _, err := w.Pay(w.ctx(), named("p"), id, nil); domain.ReasonOf(err) != "insufficient_funds" {
		t.Fatalf("got %v", err)
	}
	w.wantMoney(buyer, 2000, 0)
	if _, err := w.Pay(w.ctx(), named("p"), id, &money.Money{Amount: 1, Currency: "BRL"}); domain.ReasonOf(err) != "wrong_amount" {
		t.Fatalf("got %v", err)
	}
}

func TestARepeatedPaymentIsAnsweredAgain(t *testing.T) {
	w := stand(t)
	id := w.id()
	_, err := w.Checkout(w.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 1}, commands.Item{SKU: "b", Quantity: 1}))
	w.must(err)
	paid, err := w.Pay(w.ctx(), named("p"), id, nil)
	w.must(err)
	again, err := w.again().Pay(w.ctx(), named("p"), id, nil)
	w.must(err)
	if !again.Repeated {
		t.Fatal("the repeat does not say so")
	}
	again.Repeated = false
	if diff := cmp.Diff(paid, again); diff != "" {
		t.Fatal(diff)
	}
	if _, err := w.Pay(w.ctx(), named("p2"), id, nil); domain.ReasonOf(err) != "already_paid" {
		t.Fatalf("another payment: %v", err)
	}
	w.wantMoney(buyer, 10_000, 320)
}

func TestAParcelTakesItsGoodsOffTheShelf(t *testing.T) {
	w := stand(t)
	id := w.id()
	_, err := w.Checkout(w.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 3}))
	w.must(err)
	_, err = w.Pay(w.ctx(), named("p"), id, nil)
	w.must(err)
	_, err = w.Order(w.ctx(), named("s"), id, order.Pack{Lines: []order.Part{{Line: 1, Quantity: 2}}, Carrier: "C", Number: "1"})
	w.must(err)
	for range 2 {
		w.must(w.React(w.ctx(), event.Recorded{Stream: "order-" + string(id), Name: "order.parcel_shipped"}))
	}
	w.wantStock("a", 8, 0, 1)
}

func TestTheProcessFinishesACheckoutThatWasCutOff(t *testing.T) {
	w := stand(t)
	id := w.id()
	w.crash(5, true, func(ctx context.Context, w *world) error { // the key, two holds, the second order's id, the first order
		_, err := w.Checkout(ctx, named("c"), cart(id, commands.Item{SKU: "a", Quantity: 1}, commands.Item{SKU: "b", Quantity: 1}))
		return err
	})
	sibling := w.order(string(id)).Siblings[0].Order
	if o := w.order(sibling); o.Status != order.StatusNone {
		t.Fatalf("the second order is %s already", o.Status)
	}
	for r, err := range w.store.Load(w.ctx(), "order-"+string(id), 0) {
		w.must(err)
		w.must(w.again().React(w.ctx(), r))
	}
	if o := w.order(sibling); o.Status != order.StatusPending || o.Checkout != string(id) {
		t.Fatalf("got %+v", o)
	}
}

func TestTheAddressIsSealed(t *testing.T) {
	w := stand(t)
	id := w.id()
	_, err := w.Checkout(w.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 3}))
	w.must(err)
	moved := home
	moved.Line1 = "Rua Nova 77"
	_, err = w.ChangeAddress(w.ctx(), named("m"), id, moved)
	w.must(err)
	store, _ := w.store.(*memstore.Store)
	for r, err := range store.All(w.ctx(), 0) {
		w.must(err)
		for _, secret := range []string{home.Name, home.Phone, home.Line1, moved.Line1} {
			if strings.Contains(string(r.Data), secret) {
				t.Errorf("%s tells %q", r.Name, secret)
			}
		}
	}
	if _, err := w.ChangeAddress(w.ctx(), named("n"), w.id(), moved); domain.ReasonOf(err) != "unknown_order" {
		t.Errorf("an unknown order: %v", err)
	}
}
