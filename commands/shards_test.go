package commands_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/infra/memstore"
)

// divide spreads a over shards.
func (w *world) divide(count int) {
	w.tb.Helper()
	_, err := w.Inventory(w.ctx(), named(fmt.Sprintf("divide/%d", count)), "a", inventory.Divide{Shards: count})
	w.must(err)
}

// shards are the states of a SKU's shards.
func (w *world) shards(sku string) []inventory.Stock {
	w.tb.Helper()
	all := []inventory.Stock{w.stock(sku)}
	for k := 1; k < all[0].Shards; k++ {
		all = append(all, w.stock(domain.StockID(sku, k)))
	}
	return all
}

// wantWhole holds all shards of a SKU together against the counters they should
// have, and checks that nothing is left on the way.
func (w *world) wantWhole(sku string, onHand, held, allocated int64) {
	w.tb.Helper()
	shards := w.shards(sku)
	s := inventory.Whole(shards...)
	if got, want := [3]int64{s.OnHand, s.Held, s.Allocated}, [3]int64{onHand, held, allocated}; got != want {
		w.tb.Fatalf("%s: on hand, held, allocated = %v, want %v", sku, got, want)
	}
	var there int64
	for k, st := range shards {
		there += st.OnHand
		if open := st.OnTheWay(); len(open) > 0 {
			w.tb.Fatalf("shard %d waits for %v", k, open)
		}
	}
	if there != onHand {
		w.tb.Fatalf("%d of %d are in the shards", there, onHand)
	}
}

// spread moves n of a from the first shard to each other one.
func (w *world) spread(n int64) {
	w.tb.Helper()
	const sku = "a"
	for k := 1; k < w.stock(sku).Shards; k++ {
		id := domain.StockID(sku, k)
		_, err := w.Inventory(w.ctx(), named("out/"+id), sku, inventory.TransferOut{To: k, Transfer: 1, Quantity: n})
		w.must(err)
		_, err = w.Inventory(w.ctx(), named("in/"+id), id, inventory.TransferIn{From: 0, Transfer: 1, Quantity: n})
		w.must(err)
		_, err = w.Inventory(w.ctx(), named("settle/"+id), sku, inventory.TransferSettle{To: k, Transfer: 1})
		w.must(err)
	}
}

// follow has the process hear of everything, and of all of it twice.
func (w *world) follow() {
	w.tb.Helper()
	store, ok := w.store.(*memstore.Store)
	if !ok {
		w.tb.Fatalf("a %T", w.store)
	}
	for r, err := range store.All(w.ctx(), 0) {
		w.must(err)
		if slices.Contains(commands.Follows(), r.Name) {
			w.must(w.React(w.ctx(), r))
			w.must(w.React(w.ctx(), r))
		}
	}
}

func TestAProcessLearnsThatASKUWasDivided(t *testing.T) {
	w := stand(t)
	knowing := func() {
		_, err := w.Checkout(w.ctx(), named("c/"+string(w.id())), cart(w.id(), commands.Item{SKU: "a", Quantity: 1}))
		w.must(err)
	}
	knowing()
	w.again().divide(4)
	for range 9 {
		knowing()
	}
	w.wantWhole("a", 10, 10, 0)
	_, err := w.Checkout(w.ctx(), named("more"), cart(w.id(), commands.Item{SKU: "a", Quantity: 1}))
	if domain.ReasonOf(err) != "out_of_stock" {
		t.Fatalf("got %v", err)
	}
	w.again().divide(6)
	_, err = w.Inventory(w.ctx(), named("more of it"), "a", inventory.Receive{Quantity: 60})
	w.must(err)
	for range 60 {
		knowing()
	}
	w.wantWhole("a", 70, 70, 0)
}

func TestProcessesSellADividedSKUFromDifferentShards(t *testing.T) {
	w := stand(t)
	w.divide(8)
	_, err := w.Inventory(w.ctx(), named("more"), "a", inventory.Receive{Quantity: 10_000})
	w.must(err)
	used := map[int]bool{}
	for range 12 {
		p := w.again()
		for range 3 {
			placed, err := p.Checkout(w.ctx(), named("c/"+string(w.id())), cart(w.id(), commands.Item{SKU: "a", Quantity: 1}))
			w.must(err)
			used[placed.Orders[0].Lines[0].Shard] = true
		}
	}
	if len(used) < 3 {
		t.Errorf("twelve processes sell from %d of 8 shards", len(used))
	}
}

func TestAHoldIsRefusedOnlyIfAllShardsHaveTooLittle(t *testing.T) {
	for name, backorder := range map[string]int64{"what is there": 0, "and what is not": 5} {
		t.Run(name, func(t *testing.T) {
			w := stand(t)
			_, err := w.Inventory(w.ctx(), named("policy"), "a", inventory.SetPolicy{Backorder: backorder})
			w.must(err)
			w.divide(4)
			w.spread(3)
			_, err = w.Checkout(w.ctx(), named("too much"), cart(w.id(), commands.Item{SKU: "a", Quantity: 11 + backorder}))
			if domain.ReasonOf(err) != "out_of_stock" {
				t.Fatalf("got %v", err)
			}
			id := w.id()
			_, err = w.Checkout(w.ctx(), named("all"), cart(id, commands.Item{SKU: "a", Quantity: 10 + backorder}))
			w.must(err)
			w.wantWhole("a", 10, 10+backorder, 0)
			_, err = w.Cancel(w.ctx(), named("cancel"), id, order.Cancel{Cancellation: order.Cancellation{Reason: order.ByBuyer, By: buyer}})
			w.must(err)
			w.must(w.Settle(w.ctx(), string(id)))
			w.wantWhole("a", 10, 0, 0)
		})
	}
}

// An order goes all the way in whatever shard its goods are.
func TestAnOrderStaysWithItsShard(t *testing.T) {
	shards := map[int]bool{}
	for try := 0; try < 60 && len(shards) < 3; try++ {
		w := stand(t)
		w.divide(3)
		w.spread(3)
		id := w.id()
		placed, err := w.Checkout(w.ctx(), named("c"), cart(id, commands.Item{SKU: "a", Quantity: 3}, commands.Item{SKU: "b", Quantity: 1}))
		w.must(err)
		shards[placed.Orders[0].Lines[0].Shard] = true
		_, err = w.Pay(w.ctx(), named("p"), id, nil)
		w.must(err)
		w.must(w.Settle(w.ctx(), string(id)))
		w.wantWhole("a", 10, 0, 3)
		_, err = w.Order(w.ctx(), named("pack"), id, order.Pack{Lines: []order.Part{{Line: 1, Quantity: 2}}, Carrier: "C", Number: "1"})
		w.must(err)
		w.must(w.Settle(w.ctx(), string(id)))
		w.wantWhole("a", 8, 0, 1)
		_, err = w.Order(w.ctx(), named("refund"), id, order.Refund{By: "seller", Restock: true})
		w.must(err)
		w.must(w.Settle(w.ctx(), string(id)))
		w.wantWhole("a", 10, 0, 0)
	}
	if len(shards) < 3 {
		t.Errorf("60 processes sold from %d of 3 shards", len(shards))
	}
}

func TestWhatIsOnAnotherShardServesTheShelf(t *testing.T) {
	w := stand(t)
	w.divide(4)
	w.spread(3)
	do := func(cause string, c inventory.Command) error {
		_, err := w.Inventory(w.ctx(), named(cause), "a", c)
		return err
	}
	w.must(do("lost", inventory.Adjust{OnHand: -4, Reason: "lost"}))
	w.wantWhole("a", 6, 0, 0)
	w.must(do("safety", inventory.SetPolicy{Safety: 6}))
	if _, err := w.Checkout(w.ctx(), named("c"), cart(w.id(), commands.Item{SKU: "a", Quantity: 1})); domain.ReasonOf(err) != "out_of_stock" {
		t.Errorf("what is kept back was sold: %v", err)
	}
	if err := do("wet", inventory.Adjust{Unavailable: 1, Reason: "wet"}); domain.ReasonOf(err) != "would_oversell" {
		t.Errorf("got %v", err)
	}
	if err := do("count", inventory.Count{OnHand: 1, Reason: "june"}); domain.ReasonOf(err) != "stock_is_split" {
		t.Errorf("got %v", err)
	}
	w.wantWhole("a", 6, 0, 0)
}

// What was sold without being there ships once other shards have it.
func TestGoodsThatComeBackToAnotherShardServeABackorder(t *testing.T) {
	w := stand(t)
	_, err := w.Inventory(w.ctx(), named("policy"), "a", inventory.SetPolicy{Backorder: 3})
	w.must(err)
	w.divide(2)
	first, second := w.id(), w.id()
	_, err = w.Checkout(w.ctx(), named("first"), cart(first, commands.Item{SKU: "a", Quantity: 10}))
	w.must(err)
	_, err = w.Checkout(w.ctx(), named("second"), cart(second, commands.Item{SKU: "a", Quantity: 3}))
	w.must(err)
	_, err = w.Cancel(w.ctx(), named("cancel"), first, order.Cancel{Cancellation: order.Cancellation{Reason: order.ByBuyer, By: buyer}})
	w.must(err)
	w.must(w.Settle(w.ctx(), string(first)))
	_, err = w.Pay(w.ctx(), named("p"), second, nil)
	w.must(err)
	_, err = w.Order(w.ctx(), named("pack"), second, order.Pack{Lines: []order.Part{{Line: 1, Quantity: 3}}, Carrier: "C", Number: "1"})
	w.must(err)
	w.must(w.Settle(w.ctx(), string(second)))
	w.wantWhole("a", 7, 0, 0)
}

func TestEveryCrashWhileGoodsMoveEndsRight(t *testing.T) {
	everyCrash(t, func(w *world, attempt func(do func(context.Context, *world) error) bool) {
		w.divide(4)
		w.spread(3)
		id := w.id()
		check := func(ctx context.Context, w *world) error {
			_, err := w.Checkout(ctx, named("c"), cart(id, commands.Item{SKU: "a", Quantity: 10}))
			return err
		}
		attempt(check)
		w.must(check(w.ctx(), w.again()))
		w.follow() // what arrived may not be settled
		w.wantWhole("a", 10, 10, 0)
	})
}

func TestTheProcessFinishesWhatWasSent(t *testing.T) {
	w := stand(t)
	w.divide(3)
	for k := 1; k < 3; k++ {
		_, err := w.Inventory(w.ctx(), named("out"+strconv.Itoa(k)), "a", inventory.TransferOut{To: k, Transfer: 1, Quantity: 3})
		w.must(err)
	}
	w.follow()
	w.wantWhole("a", 10, 0, 0)
}

// A hold that nobody stands behind is found in whatever shard it is.
func TestAHoldInAShardIsReleasedInTime(t *testing.T) {
	w := stand(t)
	w.divide(4)
	w.spread(3)
	for k := range 4 {
		_, err := w.Inventory(w.ctx(), named("hold"+strconv.Itoa(k)), domain.StockID("a", k),
			inventory.Hold{Order: string(w.id()), Attempt: "gone", Quantity: 1, Now: time.UnixMilli(w.clock.Load()), Expires: time.UnixMilli(w.clock.Load())})
		w.must(err)
	}
	w.wantWhole("a", 10, 4, 0)
	w.pass(time.Hour)
	w.fire()
	w.wantWhole("a", 10, 0, 0)
}

func TestADividedSKUIsNeverOversold(t *testing.T) {
	const stock, buyers = 60, 40
	w := newWorld(t, new(memstore.Store), newClock())
	w.offer("a", "seller-1", 100)
	w.receive("a", stock)
	w.divide(4)
	processes := []*world{w, w.again(), w.again()}
	var sold, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range buyers {
		p, who := processes[i%len(processes)], "shopper-"+strconv.Itoa(i)
		wg.Go(func() {
			for n := int64(1); n <= 3; n++ {
				id, _, err := p.DrawOrderID(w.ctx(), commands.Request{}, who)
				if err == nil {
					_, err = p.Checkout(w.ctx(), named("c/"+string(id)), commands.Checkout{Order: id, Buyer: who, Items: []commands.Item{{SKU: "a", Quantity: n}}, Address: home})
				}
				switch {
				case err == nil:
					sold.Add(n)
				case domain.ReasonOf(err) == "out_of_stock" || domain.ReasonOf(err) == "busy":
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d sold, %d refused", sold.Load(), refused.Load())
	w.wantWhole("a", stock, sold.Load(), 0)
	for sold.Load() < stock { // what was moved about while the last came can still be had
		p := processes[sold.Load()%3]
		_, err := p.Checkout(w.ctx(), named("c/"+string(w.id())), cart(w.id(), commands.Item{SKU: "a", Quantity: 1}))
		w.must(err)
		sold.Add(1)
	}
	if _, err := w.Checkout(w.ctx(), named("last"), cart(w.id(), commands.Item{SKU: "a", Quantity: 1})); domain.ReasonOf(err) != "out_of_stock" {
		t.Errorf("got %v", err)
	}
}

func TestADividedSKUIsSoldOutWhenAllOfItIs(t *testing.T) {
	store := new(memstore.Store)
	asked := countAsking(store)
	ring := ringOn(t, asked)
	synctest.Test(t, func(t *testing.T) {
		clock := newClock()
		here := openWorld(t, clock, commands.Setup{Store: asked, Sealer: ring, Log: store})
		there := openWorld(t, clock, commands.Setup{Store: store, Sealer: ring, Log: store})
		here.offer("a", "seller-1", 100)
		here.receive("a", 40)
		here.divide(4)
		here.spread(9)
		for range 20 {
			here.must(here.buy())
			there.must(there.buy())
		}
		here.learn()
		refusedOffHand(here, asked, 4*50)
		for range 10 {
			there.more()
			time.Sleep(foreseen)
			here.must(here.buy())
			if !short(t, here.buy()) {
				t.Fatal("it was sold twice")
			}
		}
	})
}

func TestProcessesThatMeetInAShardPart(t *testing.T) {
	store := new(memstore.Store)
	ring := ringOn(t, store)
	synctest.Test(t, func(t *testing.T) {
		log := &onDisk{Store: store}
		clock := newClock()
		var processes []*world
		for range 4 {
			processes = append(processes, openWorld(t, clock, commands.Setup{Store: log, Sealer: ring}))
		}
		w := processes[0]
		w.offer("a", "seller-1", 100)
		w.receive("a", 1_000_000)
		w.divide(6)
		used := make([]map[int]int, len(processes))
		sell := func(d time.Duration) {
			var wg sync.WaitGroup
			var mu sync.Mutex
			end := time.Now().Add(d)
			for p, w := range processes {
				used[p] = map[int]int{}
				for b := range 3 {
					who := fmt.Sprintf("shopper-%d-%d", p, b)
					wg.Go(func() {
						for time.Now().Before(end) {
							id, _, err := w.DrawOrderID(w.ctx(), commands.Request{}, who)
							w.must(err)
							placed, err := w.Checkout(w.ctx(), named("c/"+string(id)), commands.Checkout{
								Order: id, Buyer: who, Items: []commands.Item{{SKU: "a", Quantity: 1}}, Address: home,
							})
							if err != nil {
								t.Error(err)
								return
							}
							mu.Lock()
							used[p][placed.Orders[0].Lines[0].Shard]++
							mu.Unlock()
						}
					})
				}
			}
			wg.Wait()
		}
		sell(4 * time.Second) // they meet, and part
		sell(time.Second / 2)
		most := map[int]int{}
		for p := range processes {
			best := 0
			for shard, n := range used[p] {
				if n > used[p][best] {
					best = shard
				}
			}
			most[best]++
		}
		if len(most) < len(processes) {
			t.Errorf("four processes sell from %d of 6 shards: %v", len(most), used)
		}
	})
}
