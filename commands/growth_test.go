package commands_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"cartwright/commands"
	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/orderid"
	"cartwright/infra/cputime"
	"cartwright/infra/memstore"
)

// What a command costs must not depend on how much has happened before. These
// benchmarks grow one thing each; those sizes that take minutes to reach are
// left for a night (CARTWRIGHT_SOAK).

func growing(sizes []int, night ...int) []int {
	if os.Getenv("CARTWRIGHT_SOAK") != "" {
		return append(sizes, night...)
	}
	return sizes
}

// A counter sells one SKU: every sale is a hold that is committed and shipped.
type counter struct {
	tb    testing.TB
	lanes *stockLanes
	n     int
}

func (s *counter) do(c inventory.Command) {
	s.tb.Helper()
	s.n++
	if _, err := s.lanes.Handle(context.WithoutCancel(s.tb.Context()), "a", named("c"+strconv.Itoa(s.n)), c); err != nil {
		s.tb.Fatal(err)
	}
}

// look has the state read.
func (s *counter) look() {
	s.tb.Helper()
	if err := s.lanes.Look(context.WithoutCancel(s.tb.Context()), "a", func(inventory.Stock, event.Revision) {}); err != nil {
		s.tb.Fatal(err)
	}
}

func stockSpecWith(store commands.SnapshotStore) func(*stockSpec) {
	return func(s *stockSpec) {
		s.Timeout, s.Wait = time.Minute, time.Minute // a thousand come at once to begin with
		s.Natural = func(e inventory.Event) bool { _, once := e.(inventory.Received); return !once }
		if store != nil {
			s.Snapshots = &commands.Snapshots[inventory.Stock]{Store: store, Version: 1, Check: inventory.Stock.Check}
		}
	}
}

// sell makes the first n sales of a SKU, many an append.
func sell(tb testing.TB, h *stockLanes, n int, ended bool) {
	tb.Helper()
	ctx := context.WithoutCancel(tb.Context())
	if _, err := h.Handle(ctx, "a", named("stock"), receive(inventory.Limit/2)); err != nil {
		tb.Fatal(err)
	}
	const workers = 1000
	var wg sync.WaitGroup
	for w := range min(workers, n) {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				c := holdFor(tb, i)
				steps := []inventory.Command{c}
				if ended {
					steps = append(steps, inventory.Commit{Order: c.Order}, inventory.Ship{Order: c.Order, Parcel: c.Order + "/1", Quantity: 1})
				}
				for j, step := range steps {
					if _, err := h.Handle(ctx, "a", named(fmt.Sprintf("s%d/%d", i, j)), step); err != nil {
						tb.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkHold is a hold on a SKU on which so many were made: open ones, or
// such as are shipped.
func BenchmarkHold(b *testing.B) {
	for _, ended := range []bool{false, true} {
		for _, n := range growing([]int{1, 1000}, 20_000, 100_000, 1_000_000) {
			b.Run(fmt.Sprintf("ended=%v/held=%d", ended, n), func(b *testing.B) {
				store := new(memstore.Store)
				h := lanes(b, store, stockSpecWith(store))
				sell(b, h, n, ended)
				h.Close() // once its snapshots are written
				t := &counter{tb: b, lanes: lanes(b, store, stockSpecWith(store))}
				t.look()
				defer cputime.Counted(b, "op")()
				b.ReportAllocs()
				for i := n; b.Loop(); i++ {
					t.do(holdFor(b, i))
				}
			})
		}
	}
}

// BenchmarkFirstLook is the first time that a process comes to such a SKU, which
// it knows nothing of. Without snapshots it reads all there is, whose price is seen soon.
func BenchmarkFirstLook(b *testing.B) {
	for _, kept := range []bool{false, true} {
		sizes := growing([]int{1, 1000}, 20_000)
		if kept {
			sizes = growing([]int{1, 1000}, 20_000, 100_000, 1_000_000)
		}
		for _, n := range sizes {
			b.Run(fmt.Sprintf("snapshots=%v/sold=%d", kept, n), func(b *testing.B) {
				store := new(memstore.Store)
				var snapshots commands.SnapshotStore
				if kept {
					snapshots = store
				}
				h := lanes(b, store, stockSpecWith(snapshots))
				sell(b, h, n, true)
				h.Close()
				defer cputime.Counted(b, "op")()
				b.ReportAllocs()
				for b.Loop() {
					fresh := lanes(b, store, stockSpecWith(snapshots))
					err := fresh.Look(b.Context(), "a", func(inventory.Stock, event.Revision) {})
					if fresh.Close(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkRivalHold is a hold by each of two processes in turn, so that every
// one is decided twice: on a state that is too old, and then on the right one.
func BenchmarkRivalHold(b *testing.B) {
	for _, n := range growing([]int{1, 1000}, 20_000, 100_000, 1_000_000) {
		b.Run(fmt.Sprintf("open=%d", n), func(b *testing.B) {
			store := new(memstore.Store)
			h := lanes(b, store, stockSpecWith(nil))
			sell(b, h, n, false)
			rivals := []*counter{{tb: b, lanes: h}, {tb: b, lanes: lanes(b, store, stockSpecWith(nil)), n: 1 << 40}}
			rivals[1].look()
			defer cputime.Counted(b, "op")()
			b.ReportAllocs()
			for i := n; b.Loop(); i++ {
				rivals[i%2].do(holdFor(b, i))
			}
		})
	}
}

type ledger = commands.Handler[account.Account, account.Command, account.Event]

func accounts(tb testing.TB, store commands.SnapshotStore) *ledger {
	tb.Helper()
	events, err := event.NewRegistry(account.Types()...)
	if err != nil {
		tb.Fatal(err)
	}
	h, err := commands.NewHandler(commands.Spec[account.Account, account.Command, account.Event]{
		Store: store, Events: events, Decider: account.Decider, Category: "account", Wait: time.Minute,
		Natural:   func(e account.Event) bool { _, once := e.(account.Opened); return !once },
		Snapshots: &commands.Snapshots[account.Account]{Store: store, Version: 1, Check: account.Account.Check},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(h.Close)
	return h
}

// enter makes the i-th entry of escrow, which has one for every order.
func enter(tb testing.TB, h *ledger, i int) {
	tb.Helper()
	order := fmt.Sprintf("%019d", i)
	_, err := h.Handle(context.WithoutCancel(tb.Context()), "platform.escrow.BRL", named("e"+order), account.Credit{
		Account: "platform.escrow.BRL", Currency: "BRL", Amount: 7, Journal: "capture-" + order, From: "ann",
	})
	if err != nil {
		tb.Error(err)
	}
}

func enterMany(tb testing.TB, h *ledger, n int) {
	tb.Helper()
	const workers = 1000
	var wg sync.WaitGroup
	for w := range min(workers, n) {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				enter(tb, h, i)
			}
		})
	}
	wg.Wait()
}

// BenchmarkEntry is one more entry in an account that has so many.
func BenchmarkEntry(b *testing.B) {
	for _, n := range growing([]int{10, 1000}, 20_000, 100_000, 1_000_000) {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			store := new(memstore.Store)
			first := accounts(b, store)
			enterMany(b, first, n)
			first.Close() // once its snapshots are written
			h := accounts(b, store)
			enter(b, h, n)
			defer cputime.Counted(b, "op")()
			b.ReportAllocs()
			for i := n + 1; b.Loop(); i++ {
				enter(b, h, i)
			}
		})
	}
}

// BenchmarkFirstLookAtAccount is the first time that a process comes to an account that has so many.
func BenchmarkFirstLookAtAccount(b *testing.B) {
	for _, n := range growing([]int{10, 1000}, 20_000, 100_000, 1_000_000) {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			store := new(memstore.Store)
			h := accounts(b, store)
			enterMany(b, h, n)
			h.Close()
			defer cputime.Counted(b, "op")()
			b.ReportAllocs()
			for b.Loop() {
				fresh := accounts(b, store)
				err := fresh.Look(b.Context(), "platform.escrow.BRL", func(account.Account, event.Revision) {})
				if fresh.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// checkouts makes orders of one item, each of another buyer or all of one.
type checkouts struct {
	*world
	oneBuyer bool
	skus     int
	n        int
}

func (c *checkouts) one() {
	c.tb.Helper()
	who := buyer
	if !c.oneBuyer {
		who = "buyer-" + strconv.Itoa(c.n%100)
	}
	c.n++
	id, _, err := c.DrawOrderID(c.ctx(), commands.Request{}, who)
	c.must(err)
	c.place(id, who)
}

func (c *checkouts) place(id orderid.ID, who string) {
	c.tb.Helper()
	_, err := c.Checkout(c.ctx(), named("checkout/"+string(id)), commands.Checkout{
		Order: id, Buyer: who, Items: []commands.Item{{SKU: "a" + strconv.Itoa(c.n%c.skus), Quantity: 1}}, Address: home,
	})
	c.must(err)
}

func opened(b *testing.B, oneBuyer bool, n int) *checkouts {
	b.Helper()
	c := &checkouts{world: newWorld(b, new(memstore.Store), newClock()), oneBuyer: oneBuyer, skus: 1000}
	for i := range c.skus {
		c.offer("a"+strconv.Itoa(i), "seller-1", 100)
		c.receive("a"+strconv.Itoa(i), inventory.Limit)
	}
	for range n {
		c.one()
	}
	return c
}

// BenchmarkCheckout is a checkout where there are so many orders.
func BenchmarkCheckout(b *testing.B) {
	for _, n := range growing([]int{100, 1000}, 10_000, 100_000, 1_000_000) {
		b.Run(fmt.Sprintf("orders=%d", n), func(b *testing.B) {
			c := opened(b, false, n)
			defer cputime.Counted(b, "op")()
			b.ReportAllocs()
			for b.Loop() {
				c.one()
			}
		})
	}
}

// BenchmarkCheckoutOfOneBuyer is one by a buyer who has so many orders.
func BenchmarkCheckoutOfOneBuyer(b *testing.B) {
	for _, n := range growing([]int{10, 1000}, 10_000) {
		b.Run(fmt.Sprintf("orders=%d", n), func(b *testing.B) {
			c := opened(b, true, n)
			defer cputime.Counted(b, "op")()
			b.ReportAllocs()
			for b.Loop() {
				c.one()
			}
		})
	}
}
