package commands_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"cartwright/commands"
	"cartwright/domain/account"
	"cartwright/domain/catalog"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/personal"
	"cartwright/infra/cputime"
	"cartwright/infra/esdbstore"
	"cartwright/infra/keyring"
)

// onLog is a store on a node of its own.
func onLog(b *testing.B) *esdbstore.Store {
	b.Helper()
	store, err := esdbstore.Open(b.Context(), nodeOn(b), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := store.Close(); err != nil {
			b.Errorf("close: %v", err)
		}
	})
	return store
}

// haveOrders puts so many streams of one small event, many at a time.
func haveOrders(b *testing.B, store commands.Store, n int) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 128 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				e := event.Recorded{ID: uuid.NewString(), Name: "thing.happened", Version: 1, Data: []byte(`{"note":"` + strings.Repeat("x", 40) + `"}`)}
				if err := store.Append(b.Context(), fmt.Sprintf("order-%019d", i), 0, []event.Recorded{e}); err != nil {
					b.Errorf("append: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A customer takes orders of its own through their lives, one command at a time.
type customer struct {
	*world
	n int
}

// buyersOnLog is how many buyers share the orders, so that none has very many.
const buyersOnLog = 100

// next is who orders next.
func (c *customer) next() (who string) {
	c.n++
	return "buyer-" + strconv.Itoa(c.n%buyersOnLog)
}

func (c *customer) name(what string) commands.Request { return named(what + strconv.Itoa(c.n)) }

// A step is a command of an order's life, done where all before it are done.
type step struct {
	name string
	do   func(c *customer, who string, id orderid.ID) error
}

// life is that of an order: from the checkout to its completion.
func life() []step {
	return []step{
		{"checkout", func(c *customer, who string, id orderid.ID) error {
			_, err := c.Checkout(c.ctx(), c.name("checkout"), commands.Checkout{
				Order: id, Buyer: who, Items: []commands.Item{{SKU: "a" + strconv.Itoa(c.n%10), Quantity: 1}}, Address: home,
			})
			return err
		}},
		{"pay", func(c *customer, _ string, id orderid.ID) error {
			_, err := c.Pay(c.ctx(), c.name("pay"), id, nil)
			return err
		}},
		{"settle", func(c *customer, _ string, id orderid.ID) error { return c.Settle(c.ctx(), string(id)) }},
		{"pack", orders(order.Pack{Lines: []order.Part{{Line: 1, Quantity: 1}}, Carrier: "C", Number: "1"})},
		{"deliver", orders(order.Deliver{Parcel: 1})},
		{"complete", orders(order.Complete{By: "b"})},
	}
}

// orders makes a step of a command on an order.
func orders(command order.Command) func(c *customer, who string, id orderid.ID) error {
	return func(c *customer, _ string, id orderid.ID) error {
		_, err := c.Order(c.ctx(), c.name(fmt.Sprintf("%T", command)), id, command)
		return err
	}
}

// A kind is a command that is measured, after so many steps of a life.
type kind struct {
	step
	after int
}

// kinds are those of all aggregates: an order's life, what ends it or changes it
// on the way, and what is told of goods and accounts.
func kinds() []kind {
	var all []kind
	for i, s := range life() {
		all = append(all, kind{s, i})
	}
	return append(all,
		kind{step{"address", func(c *customer, _ string, id orderid.ID) error {
			other := home
			other.Line1 = "Rua B " + strconv.Itoa(c.n)
			_, err := c.ChangeAddress(c.ctx(), c.name("address"), id, other)
			return err
		}}, 1},
		kind{step{"cancel", func(c *customer, who string, id orderid.ID) error {
			_, err := c.Cancel(c.ctx(), c.name("cancel"), id, order.Cancel{Cancellation: order.Cancellation{Reason: order.ByBuyer, By: who}})
			return err
		}}, 1},
		kind{step{"refund", orders(order.Refund{By: "b"})}, 3},
		kind{step{"offer", func(c *customer, _ string, _ orderid.ID) error {
			_, err := c.PublishOffer(c.ctx(), c.name("offer"), "b", catalog.Publish{
				Snapshot: catalog.Snapshot{Seller: "seller-2", Title: "b", Currency: "BRL", UnitPrice: int64(c.n), Freight: 1}, OnSale: true,
			})
			return err
		}}, 0},
		kind{step{"receive", func(c *customer, _ string, _ orderid.ID) error {
			_, err := c.Inventory(c.ctx(), c.name("receive"), "b", inventory.Receive{Quantity: 1})
			return err
		}}, 0},
		kind{step{"deposit", func(c *customer, who string, _ orderid.ID) error {
			_, err := c.Account(c.ctx(), c.name("deposit"), who, account.Deposit{Amount: 1, Currency: "BRL", Journal: "deposit/" + strconv.Itoa(c.n)})
			return err
		}}, 0},
	)
}

// BenchmarkCommandOnLog is a command of each kind through the embedded node, on
// whose disk there are so many orders.
func BenchmarkCommandOnLog(b *testing.B) {
	for _, n := range growing([]int{100, 1000}, 10_000, 100_000, 1_000_000) {
		b.Run(fmt.Sprintf("orders=%d", n), func(b *testing.B) {
			c := customerOn(b, n)
			for _, k := range kinds() {
				b.Run("command="+k.name, func(b *testing.B) { k.measure(b, c) })
			}
		})
	}
}

// customerOn is one of a shop that has so many orders already.
func customerOn(b *testing.B, n int) *customer {
	b.Helper()
	store := onLog(b)
	haveOrders(b, store, n)
	ring, err := keyring.New(store, make([]byte, personal.KeySize))
	if err != nil {
		b.Fatal(err)
	}
	shop, err := commands.Open(commands.Setup{Store: store, Snapshots: store, Sealer: ring})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(shop.Close)
	c := &customer{world: &world{Shop: shop, tb: b, store: store}}
	for i := range 10 {
		c.offer("a"+strconv.Itoa(i), "seller-1", 100)
		c.receive("a"+strconv.Itoa(i), inventory.Limit/2)
	}
	for i := range buyersOnLog {
		c.fund("buyer-"+strconv.Itoa(i), 1_000_000_000)
	}
	return c
}

// measure counts what the command costs, and not what leads to it.
func (k kind) measure(b *testing.B, c *customer) {
	b.Helper()
	n, spent := 0, time.Duration(0)
	for b.Loop() {
		b.StopTimer()
		who := c.next()
		id, _, err := c.DrawOrderID(b.Context(), commands.Request{}, who)
		for _, s := range life()[:k.after] {
			err = errors.Join(err, s.do(c, who, id))
		}
		b.StartTimer()
		begun := cputime.Used(b)
		if err = errors.Join(err, k.do(c, who, id)); err != nil {
			b.Fatal(err)
		}
		spent += cputime.Used(b) - begun
		n++
	}
	b.ReportMetric(float64(spent.Nanoseconds())/1e3/float64(n), "cpu-µs/op")
}
