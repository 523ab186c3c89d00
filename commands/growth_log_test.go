package commands_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"cartwright/commands"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
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

// BenchmarkCheckoutOnLog is a checkout through the embedded node, on whose disk
// there are so many orders.
func BenchmarkCheckoutOnLog(b *testing.B) {
	for _, n := range growing([]int{100, 1000}, 10_000, 100_000, 1_000_000) {
		b.Run(fmt.Sprintf("orders=%d", n), func(b *testing.B) {
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
			defer shop.Close()
			c := &checkouts{world: &world{Shop: shop, tb: b, store: store}, skus: 10}
			for i := range c.skus {
				c.offer("a"+strconv.Itoa(i), "seller-1", 100)
				c.receive("a"+strconv.Itoa(i), inventory.Limit/2)
			}
			defer cputime.Counted(b, "op")()
			for b.Loop() {
				c.one()
			}
		})
	}
}
