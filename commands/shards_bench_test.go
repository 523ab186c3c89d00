package commands_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/inventory"
	"cartwright/domain/personal"
	"cartwright/infra/cputime"
	"cartwright/infra/keyring"
)

// BenchmarkHotShards is a hold on the one SKU that everybody wants, whose stock is
// divided, of 256 buyers in all; each process sells from a shard of its own as long
// as there are enough.
func BenchmarkHotShards(b *testing.B) {
	for _, processes := range []int{1, 2, 4} {
		for _, shards := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("shards=%d/processes=%d", shards, processes), func(b *testing.B) {
				next := 0
				f := newFair(b, processes, func(tb testing.TB, store *tally, _ commands.SnapshotStore) func(i int) error {
					tb.Helper()
					stock := domain.StockID("a", next%shards)
					next++
					h := lanes(tb, store, stockSpecWith(nil))
					ctx := context.WithoutCancel(tb.Context())
					if _, err := h.Handle(ctx, stock, named("stock"), receive(inventory.Limit/8)); err != nil {
						tb.Fatal(err)
					}
					return func(i int) error {
						_, err := h.Handle(ctx, stock, named("h"+strconv.Itoa(i)), holdFor(tb, i))
						return err
					}
				})
				f.run(b, 256/processes)
			})
		}
	}
}

// BenchmarkHotShardedCheckout is a whole checkout of that SKU, from the shards that
// each process prefers.
func BenchmarkHotShardedCheckout(b *testing.B) {
	for _, processes := range []int{1, 2, 4} {
		for _, shards := range []int{1, 2, 4, 8} {
			b.Run(fmt.Sprintf("shards=%d/processes=%d", shards, processes), func(b *testing.B) {
				newFair(b, processes, dividedInto(shards)).run(b, 256/processes)
			})
		}
	}
}

// dividedInto are whole checkouts of a SKU with so many shards; with one it is whole.
func dividedInto(shards int) func(tb testing.TB, store *tally, snapshots commands.SnapshotStore) func(i int) error {
	return func(tb testing.TB, store *tally, snapshots commands.SnapshotStore) func(i int) error {
		tb.Helper()
		ring, err := keyring.New(store, make([]byte, personal.KeySize))
		if err != nil {
			tb.Fatal(err)
		}
		shop, err := commands.Open(commands.Setup{Store: store, Snapshots: snapshots, Sealer: ring})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(shop.Close)
		w := &world{Shop: shop, tb: tb, store: store}
		w.offer("a", "seller-1", 100)
		w.receive("a", inventory.Limit/8)
		if shards > 1 {
			w.divide(shards)
		}
		return buying(w)
	}
}

// run lets so many buyers come to every process, and reports.
func (f *fair) run(b *testing.B, buyers int) {
	b.Helper()
	report := cputime.Counted(b, "op")
	f.open(buyers)
	for b.Loop() {
		<-f.done
	}
	report()
	f.close()
	f.report(b)
}
