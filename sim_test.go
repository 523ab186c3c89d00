package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/catalog"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/personal"
	"cartwright/infra/faults"
	"cartwright/infra/keyring"
	"cartwright/infra/memstore"
	"cartwright/infra/relay"
	"cartwright/projections"
)

// A simulation is a shop whose store, bus and processes fail before and after
// each effect, as its seed says. Its clock only moves when it is told to.
type simulation struct {
	tb    testing.TB
	store *memstore.Store
	shop  *commands.Shop
	views *views

	mu    sync.Mutex
	dice  *rand.Rand
	calm  bool // nothing fails any more
	clock time.Time
	late  []event.Recorded // reactions that failed and come again

	skus   []string
	buyers []string
	orders []orderid.ID
	n      int
}

const simulatedStock, simulatedMoney = 30, 20_000

func simulate(tb testing.TB, seed uint64) *simulation {
	tb.Helper()
	s := &simulation{
		tb: tb, store: new(memstore.Store), dice: rand.New(rand.NewPCG(seed, 1)),
		clock: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), calm: true,
		skus: []string{"a", "b", "c"}, buyers: []string{"buyer-1", "buyer-2"},
	}
	ring, err := keyring.New(s.store, make([]byte, personal.KeySize))
	s.must(err)
	s.shop, err = commands.Open(commands.Setup{
		Store:  faults.Store{Store: s.store, BeforeLoad: s.fault, BeforeAppend: s.fault, AfterAppend: s.fault},
		Sealer: ring, Now: s.now, Snapshots: s.store, SnapshotEvery: 5,
	})
	s.must(err)
	tb.Cleanup(s.shop.Close)
	events, err := commands.Events()
	s.must(err)
	f, err := own(tb.TempDir())
	s.must(err)
	cfg := simulated(tb)
	redis, err := connectRedis(tb.Context(), cfg, slog.New(slog.DiscardHandler))
	s.must(err)
	s.views, err = openViews(tb.Context(), cfg, f, redis, slog.New(slog.DiscardHandler), events, s.store)
	s.must(err)
	tb.Cleanup(func() {
		err := errors.Join(s.views.close(), f.Close())
		if redis != nil {
			err = errors.Join(err, redis.Close())
		}
		if err != nil {
			tb.Error(err)
		}
	})
	for i, sku := range s.skus {
		_, err := s.shop.PublishOffer(tb.Context(), s.named("offer"), sku, catalog.Publish{OnSale: true, Snapshot: catalog.Snapshot{
			Seller: "seller-" + strconv.Itoa(i%2), Title: "Good " + sku, Currency: "BRL", UnitPrice: int64(100 + i), Freight: 7,
		}})
		s.must(err)
		_, err = s.shop.Inventory(tb.Context(), s.named("stock"), sku, inventory.Receive{Quantity: simulatedStock})
		s.must(err)
	}
	for _, b := range s.buyers {
		_, err := s.shop.Account(tb.Context(), s.named("open"), b, account.Open{Account: b, Currency: "BRL"})
		s.must(err)
		_, err = s.shop.Account(tb.Context(), s.named("fund"), b, account.Deposit{Amount: simulatedMoney, Currency: "BRL", Journal: "fund-" + b})
		s.must(err)
	}
	return s
}

func (s *simulation) must(err error) {
	s.tb.Helper()
	if err != nil {
		s.tb.Fatal(err)
	}
}

func (s *simulation) named(what string) commands.Request {
	s.n++
	return commands.Request{Cause: fmt.Sprintf("%s/%d", what, s.n)}
}

func (s *simulation) roll(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dice.IntN(n)
}

func (s *simulation) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock = s.clock.Add(time.Millisecond)
	return s.clock
}

func (s *simulation) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock = s.clock.Add(d)
}

func (s *simulation) setCalm(calm bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calm = calm
}

// fault fails now and then, while it is not calm.
func (s *simulation) fault(string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.calm && s.dice.IntN(12) == 0 {
		return faults.ErrInjected
	}
	return nil
}

// Publish is the bus: it delivers to the views and to the process, sometimes
// twice, sometimes leaving events out, and may fail before and after.
func (s *simulation) Publish(ctx context.Context, batch []event.Recorded) error {
	if err := s.fault(""); err != nil {
		return err
	}
	delivered := batch
	s.mu.Lock()
	if !s.calm && len(batch) > 1 && s.dice.IntN(4) == 0 {
		lost := s.dice.IntN(len(batch))
		delivered = append(append([]event.Recorded{}, batch[:lost]...), batch[lost+1:]...)
	}
	s.mu.Unlock()
	for range 1 + s.roll(2) {
		if err := s.views.set.Handle(ctx, delivered); err != nil {
			return err
		}
	}
	for _, e := range delivered {
		s.react(ctx, e)
	}
	return s.fault("")
}

func (s *simulation) react(ctx context.Context, e event.Recorded) {
	if err := s.shop.React(ctx, e); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.late = append(s.late, e)
	}
}

// step does something that somebody might do.
func (s *simulation) step(ctx context.Context) {
	switch s.roll(11) {
	case 0, 1, 2:
		s.checkout(ctx)
	case 3, 4:
		s.try(func(r commands.Request) error { _, err := s.shop.Pay(ctx, r, s.some(), nil); return err })
	case 5:
		cancel := order.Cancel{Cancellation: order.Cancellation{Reason: order.ByBuyer, By: "sim"}}
		s.try(func(r commands.Request) error { _, err := s.shop.Cancel(ctx, r, s.some(), cancel); return err })
	case 6, 7:
		pack := order.Pack{Lines: []order.Part{{Line: 1, Quantity: int64(1 + s.roll(2))}}, Carrier: "C", Number: "1"}
		s.try(func(r commands.Request) error { _, err := s.shop.Order(ctx, r, s.some(), pack); return err })
	case 8:
		refund := order.Refund{By: "sim", Restock: s.roll(2) == 0, Lines: []order.RefundRequest{{Line: 1, Quantity: 1}}}
		s.try(func(r commands.Request) error { _, err := s.shop.Order(ctx, r, s.some(), refund); return err })
	case 9:
		s.pass(time.Duration(s.roll(20)) * time.Minute)
		timers := commands.Timers{Shop: s.shop, Deadlines: dues{s.views.deadlines}, Log: slog.New(slog.DiscardHandler)}
		_ = timers.Fire(ctx) // what fails is still due
	case 10:
		divide := inventory.Divide{Shards: 2 + s.roll(3)}
		sku := s.skus[1+s.roll(len(s.skus)-1)] // the first stays whole
		s.try(func(r commands.Request) error { _, err := s.shop.Inventory(ctx, r, sku, divide); return err })
	}
}

func (s *simulation) some() orderid.ID {
	if len(s.orders) == 0 {
		return "0000000000000000000"
	}
	return s.orders[s.roll(len(s.orders))]
}

func (s *simulation) checkout(ctx context.Context) {
	buyer := s.buyers[s.roll(len(s.buyers))]
	id, _, err := s.shop.DrawOrderID(ctx, commands.Request{}, buyer)
	s.must(err)
	var items []commands.Item
	for range 1 + s.roll(3) {
		items = append(items, commands.Item{SKU: s.skus[s.roll(len(s.skus))], Quantity: int64(1 + s.roll(3))})
	}
	c := commands.Checkout{Order: id, Buyer: buyer, Items: items, Address: personal.Address{Name: "N", Line1: "L", City: "C", Country: "BR"}}
	s.try(func(r commands.Request) error {
		p, err := s.shop.Checkout(ctx, r, c)
		if err == nil {
			for _, o := range p.Orders {
				s.orders = append(s.orders, orderid.ID(o.Order))
			}
		}
		return err
	})
}

// try asks like a client: again until it is answered, or gives up half way.
func (s *simulation) try(do func(commands.Request) error) {
	r := s.named("try")
	for range 1 + s.roll(4) {
		err := do(r)
		code := domain.CodeOf(err)
		if err == nil || (code != "" && code != domain.Unavailable) {
			return
		}
	}
}

// settle lets everything come to rest: nothing fails, everything is delivered
// again from the beginning, to the processes too, and all deadlines pass.
func (s *simulation) settle(ctx context.Context) {
	s.setCalm(true)
	for range 2 { // what a timer does calls for another reaction
		for e, err := range s.store.All(ctx, 0, categories()...) {
			s.must(err)
			s.must(s.shop.React(ctx, e))
		}
		s.pass(2 * commands.PayWithin)
		s.redeliver(ctx)
		timers := commands.Timers{Shop: s.shop, Deadlines: dues{s.views.deadlines}, Log: slog.New(slog.DiscardHandler)}
		s.must(timers.Fire(ctx))
		s.redeliver(ctx)
	}
}

func (s *simulation) redeliver(ctx context.Context) {
	for e, err := range s.store.All(ctx, 0, categories()...) {
		s.must(err)
		s.must(s.views.set.Handle(ctx, []event.Recorded{e}))
	}
}

// check holds everything against everything else.
func (s *simulation) check(ctx context.Context) {
	s.tb.Helper()
	for _, v := range s.views.tools {
		_, err := v.verify(ctx, verifyJob{source: s.store, report: func(d projections.Difference) error {
			s.tb.Errorf("%s: %s is %s: %s", d.View, d.Stream, d.Kind, d.Detail)
			return nil
		}})
		s.must(err)
	}
	states := map[string]order.Order{}
	for e, err := range s.store.All(ctx, 0, "order-") {
		s.must(err)
		id := event.SubjectID(e.Stream)
		if _, seen := states[id]; seen {
			continue
		}
		o, err := s.shop.FindOrder(ctx, orderid.ID(id))
		if err == nil {
			states[id] = o
		}
	}
	s.checkStock(ctx, states)
	s.checkMoney(ctx, states)
	count := map[order.Status]int{}
	for _, o := range states {
		count[o.Status]++
	}
	s.tb.Logf("%d reactions failed; orders: %v", len(s.late), count)
	if len(count) < 2 {
		s.tb.Errorf("nothing much happened: %v", count)
	}
}

// checkStock: allocated is what is paid for and neither shipped nor given back.
func (s *simulation) checkStock(ctx context.Context, orders map[string]order.Order) {
	s.tb.Helper()
	allocated, gone := map[string]int64{}, map[string]int64{}
	for id, o := range orders {
		if o.Status == order.StatusPending {
			s.tb.Errorf("order %s waits for payment after its deadline", id)
		}
		if o.Status == order.StatusCancelled {
			continue
		}
		for _, l := range o.Lines {
			allocated[l.SKU] += l.Quantity - l.Shipped - l.RefundedUnshipped
			gone[l.SKU] += l.Shipped
		}
		for _, r := range o.Refunds {
			for _, l := range r.Lines {
				if r.Restock {
					gone[o.Lines[l.Line-1].SKU] -= l.Returned
				}
			}
		}
	}
	for _, sku := range s.skus {
		st := s.stock(ctx, sku)
		if st.Held != 0 || st.Allocated != allocated[sku] || st.OnHand != simulatedStock-gone[sku] {
			s.tb.Errorf("%s: on hand %d, held %d, allocated %d; want %d, 0, %d",
				sku, st.OnHand, st.Held, st.Allocated, simulatedStock-gone[sku], allocated[sku])
		}
	}
}

// stock is what the views say of all shards of a SKU together.
func (s *simulation) stock(ctx context.Context, sku string) projections.Stock {
	s.tb.Helper()
	var streams []string
	for k := range inventory.MaxShards {
		streams = append(streams, "inventory-"+domain.StockID(sku, k))
	}
	docs, err := s.views.stock.Get(ctx, streams)
	s.must(err)
	var sum projections.Stock
	for _, doc := range docs {
		sum.OnHand += doc.Body.OnHand
		sum.Held += doc.Body.Held
		sum.Allocated += doc.Body.Allocated
	}
	if len(docs) > 1 {
		s.tb.Logf("%s is in %d shards", sku, len(docs))
	}
	return sum
}

// checkMoney: escrow has what was paid and not given back, buyers have the rest.
func (s *simulation) checkMoney(ctx context.Context, orders map[string]order.Order) {
	s.tb.Helper()
	spent := map[string]int64{}
	var escrow int64
	for _, o := range orders {
		if o.Status != order.StatusCancelled {
			spent[o.Buyer] += o.Total() - o.RefundedAmount()
			escrow += o.Total() - o.RefundedAmount()
		}
	}
	balance := func(id string) projections.Account {
		docs, err := s.views.accounts.Get(ctx, []string{"account-" + id})
		s.must(err)
		return docs["account-"+id].Body
	}
	if got := balance(account.Escrow("BRL")).Balance; got != escrow {
		s.tb.Errorf("escrow has %d, want %d", got, escrow)
	}
	for _, b := range s.buyers {
		if a := balance(b); a.Balance != simulatedMoney-spent[b] || a.Held != 0 {
			s.tb.Errorf("%s has %d with %d held, want %d with 0", b, a.Balance, a.Held, simulatedMoney-spent[b])
		}
	}
}

// Whatever fails, before or after it worked, and however often, in the end the
// views say what the streams say, and stock and money add up.
func TestTheWholePipelineAddsUpWhateverFails(t *testing.T) {
	seeds := 4
	if n, err := strconv.Atoi(os.Getenv("CARTWRIGHT_SIM_SEEDS")); err == nil {
		seeds = n
	}
	for seed := range seeds {
		t.Run("seed="+strconv.Itoa(seed), func(t *testing.T) {
			t.Parallel()
			s := simulate(t, uint64(seed))
			ctx, stop := context.WithCancel(t.Context())
			r := &relay.Relay{
				Name: "sim", Source: s.store, Bus: s, Marks: s.store, Log: slog.New(slog.DiscardHandler), Prefixes: categories(),
			}
			var relaying sync.WaitGroup
			relaying.Go(func() {
				if err := r.Run(ctx); err != nil {
					t.Error(err)
				}
			})
			s.setCalm(false)
			for range 150 {
				s.step(ctx)
			}
			stop()
			relaying.Wait()
			s.settle(t.Context())
			s.check(t.Context())
			before, err := s.store.Head(t.Context())
			s.must(err)
			s.settle(t.Context()) // a topic that is read again from its beginning changes nothing
			if after, err := s.store.Head(t.Context()); err != nil || after != before {
				t.Errorf("the log grew from %d to %d, %v", before, after, err)
			}
		})
	}
}
