package projections_test

import (
	"fmt"
	"testing"
	"time"

	"cartwright/domain/account"
	"cartwright/domain/catalog"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/projections"
)

// lifeOf is what happens to one order, by stream.
func lifeOf(b *testing.B, i int) map[string][]any {
	b.Helper()
	id := fmt.Sprintf("%019d", i)
	return map[string][]any{
		"order-" + id: {
			order.Placed{
				Order: id, Checkout: id, Buyer: "ann", Seller: "s", Currency: "BRL", Address: []byte("sealed"), Attempt: "a", Deadline: noon,
				Lines: []order.Line{{Line: 1, SKU: "tea", Title: "龙井茶", Offer: "d", Quantity: 2, UnitPrice: 100, Freight: 10}},
			},
			order.Paid{Amount: 220, Method: "balance"},
			order.StockCommitted{},
			order.PaymentCaptured{},
		},
		"inventory-" + id: {
			inventory.Received{Quantity: 5}, inventory.Held{Order: id, Attempt: "a", Quantity: 2, Expires: noon}, inventory.Committed{Order: id, Quantity: 2},
		},
		"account-" + id: {
			account.Opened{Account: id, Currency: "BRL"},
			account.Deposited{Entry: 1, Amount: 1000, Journal: "d"},
			account.Held{Checkout: id, Claims: []account.Claim{{Order: id, Amount: 220}}, Expires: noon},
			account.Captured{Entry: 2, Order: id, Amount: 220, Journal: "c", To: "platform.escrow.BRL"},
		},
		"offer-" + id: offered(b, id),
	}
}

// offered publishes an offer, whose digest is the catalogue's to take.
func offered(b *testing.B, sku string) (events []any) {
	b.Helper()
	described, err := catalog.Decider.Decide(catalog.Offer{}, catalog.Publish{OnSale: true, Snapshot: catalog.Snapshot{
		SKU: sku, Seller: "s", Title: "龙井茶", Currency: "BRL", UnitPrice: 100,
	}})
	if err != nil {
		b.Fatal(err)
	}
	for _, e := range described {
		events = append(events, e)
	}
	return events
}

// BenchmarkApply is what each view makes of the events of one stream.
func BenchmarkApply(b *testing.B) {
	benchApply(b, projections.OrdersView(), "order")
	benchApply(b, projections.BuyersView(), "order")
	benchApply(b, projections.StockView(), "inventory")
	benchApply(b, projections.AccountsView(), "account")
	benchApply(b, projections.OffersView(), "offer")
	for _, category := range []string{"order", "inventory", "account"} {
		benchApply(b, projections.DeadlinesView(), category)
	}
}

func benchApply[V any](b *testing.B, view projections.View[V], category string) {
	b.Helper()
	b.Run(fmt.Sprintf("view=%s/of=%s", view.Name, category), func(b *testing.B) {
		stream := fmt.Sprintf("%s-%019d", category, 1)
		past := lifeOf(b, 1)[stream]
		b.ReportAllocs()
		for b.Loop() {
			var doc V
			for i, e := range past {
				var err error
				r := event.Recorded{Stream: stream, Revision: event.Revision(i) + 1, Meta: event.Meta{At: noon}}
				if doc, err = view.Apply(doc, r, e); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(past)), "ns/event")
	})
}

// BenchmarkProject runs batches of 500 events, of which each is another stream's,
// through a projector into an engine without a disk.
func BenchmarkProject(b *testing.B) {
	benchProject(b, projections.OrdersView(), "order")
	benchProject(b, projections.StockView(), "inventory")
	benchProject(b, projections.AccountsView(), "account")
	benchProject(b, projections.OffersView(), "offer")
}

func benchProject[V any](b *testing.B, view projections.View[V], category string) {
	b.Helper()
	const streams = 500
	b.Run(fmt.Sprintf("view=%s/batch=%d", view.Name, streams), func(b *testing.B) {
		w := newWorld(b)
		p := projector(w, view, newMemory[V]())
		p.Keep = 20_000
		var batches [][]projections.Decoded
		spent, events := time.Duration(0), 0
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			if len(batches) == 0 {
				b.StopTimer()
				batches = batchesOf(b, w, category, n*streams, streams)
				b.StartTimer()
			}
			begun := time.Now()
			if err := p.Apply(b.Context(), batches[0]); err != nil {
				b.Fatal(err)
			}
			spent, events, batches = spent+time.Since(begun), events+len(batches[0]), batches[1:]
		}
		b.ReportMetric(float64(spent.Nanoseconds())/float64(events), "ns/event")
	})
}

// batchesOf are the first events of so many streams, then the second ones, and so on.
func batchesOf(b *testing.B, w *world, category string, from, streams int) [][]projections.Decoded {
	b.Helper()
	var batches [][]projections.Decoded
	for i := range streams {
		stream := fmt.Sprintf("%s-%019d", category, from+i)
		for at, e := range lifeOf(b, from+i)[stream] {
			r, err := w.events.Encode(e)
			if err != nil {
				b.Fatal(err)
			}
			r.Stream, r.Revision, r.At = stream, event.Revision(at)+1, noon
			if at == len(batches) {
				batches = append(batches, nil)
			}
			batches[at] = append(batches[at], projections.Decode(w.events, r))
		}
	}
	return batches
}
