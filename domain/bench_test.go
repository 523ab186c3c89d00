package domain_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bytedance/sonic"

	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/catalog"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/payment"
	"cartwright/domain/stuck"
	"cartwright/domain/trade"
)

// A benched aggregate has a life of commands, each of which causes events.
type benched struct {
	name           string
	decide, evolve func(b *testing.B)
}

// lived makes the benchmarks of one aggregate from the commands of a life.
func lived[S, C, E any](name string, d domain.Decider[S, C, E], commands []C) benched {
	return benched{
		name:   name,
		decide: func(b *testing.B) { b.Helper(); benchDecide(b, d, commands) },
		evolve: func(b *testing.B) { b.Helper(); benchEvolve(b, d, commands) },
	}
}

// benchDecide measures every command of a life where it comes.
func benchDecide[S, C, E any](b *testing.B, d domain.Decider[S, C, E], commands []C) {
	b.Helper()
	var s S
	for i, c := range commands {
		b.Run(fmt.Sprintf("command=%d.%s", i+1, kindOf(c)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.Decide(s, c); err != nil {
					b.Fatal(err)
				}
			}
		})
		s = step(b, d, s, c, nil)
	}
}

// benchEvolve replays a whole life.
func benchEvolve[S, C, E any](b *testing.B, d domain.Decider[S, C, E], commands []C) {
	b.Helper()
	var s S
	var past []E
	for _, c := range commands {
		s = step(b, d, s, c, &past)
	}
	b.Run(fmt.Sprintf("history=%d", len(past)), func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var none S
			if _, err := d.Fold(none, past...); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(past)), "ns/event")
	})
}

func step[S, C, E any](b *testing.B, d domain.Decider[S, C, E], s S, c C, past *[]E) S {
	b.Helper()
	events, err := d.Decide(s, c)
	if err == nil {
		s, err = d.Fold(s, events...)
	}
	if err != nil || len(events) == 0 {
		b.Fatalf("%T: %d events, %v", c, len(events), err)
	}
	if past != nil {
		*past = append(*past, events...)
	}
	return s
}

func kindOf(v any) string {
	name := fmt.Sprintf("%T", v)
	return name[strings.LastIndex(name, ".")+1:]
}

// lives are all aggregates there are.
func lives() []benched {
	const id, buyer = "0599616000000000042", "1000042"
	at := time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	drawn, err := orderid.Parse(id)
	if err == nil {
		at = drawn.Time()
	}
	until := at.Add(time.Hour)
	snapshot := catalog.Snapshot{SKU: "tea", Seller: "s1", Title: "龙井茶", Specs: map[string]string{"grade": "A"}, Currency: "BRL", UnitPrice: 100}
	dearer := snapshot
	dearer.UnitPrice = 120
	return []benched{
		lived("order", order.Decider, []order.Command{
			order.Place{
				Order: id, Checkout: id, Buyer: buyer, Seller: "s1", Currency: "BRL", Address: []byte("sealed"), Attempt: "a1", Deadline: until,
				Lines: []order.Line{{Line: 1, SKU: "tea", Title: "龙井茶", Offer: "d1", Quantity: 3, UnitPrice: 100, Freight: 10}},
			},
			order.Pay{Amount: 330, Currency: "BRL", Method: "balance"},
			order.RecordStockCommitted{},
			order.RecordPaymentCaptured{},
			order.Pack{Lines: []order.Part{{Line: 1, Quantity: 3}}, Carrier: "SF", Number: "N1"},
			order.RecordStockShipped{Parcel: 1},
			order.Deliver{Parcel: 1},
			order.Complete{By: buyer},
			order.Settle{CommissionBP: 100},
			order.RecordSettlementPosted{},
		}),
		lived("inventory", inventory.Decider, []inventory.Command{
			inventory.Receive{Quantity: 100},
			inventory.Hold{Order: id, Attempt: "a1", Quantity: 3, Now: at, Expires: until},
			inventory.Commit{Order: id},
			inventory.Ship{Order: id, Parcel: id + "/1", Quantity: 3},
			inventory.Restock{Order: id, Refund: id + "/1", Quantity: 1},
		}),
		lived("account", account.Decider, []account.Command{
			account.Open{Account: buyer, Currency: "BRL"},
			account.Deposit{Amount: 1000, Currency: "BRL", Journal: "d1"},
			account.RecordPosted{Entry: 1},
			account.Hold{Checkout: id, Currency: "BRL", Claims: []account.Claim{{Order: id, Amount: 330}}, Expires: until},
			account.Capture{Order: id, Amount: 330, Journal: "capture-" + id, To: "platform.escrow.BRL"},
			account.Credit{Account: buyer, Currency: "BRL", Amount: 7, Journal: "refund-1", From: "platform.escrow.BRL", Reason: "refund"},
		}),
		lived("offer", catalog.Decider, []catalog.Command{
			catalog.Publish{Snapshot: snapshot, OnSale: true}, catalog.Publish{Snapshot: dearer, OnSale: true},
		}),
		lived("payment", payment.Decider, []payment.Command{
			payment.Create{
				Payment: "1-1", Checkout: "1", Buyer: buyer, Channel: "alipay", Currency: "CNY", Amount: 700, Expires: until,
				Splits: []payment.Split{{Order: "1", Seller: "s", Amount: 300}, {Order: "2", Seller: "t", Amount: 400}},
			},
			payment.RecordAsked{Reference: "r", Instruction: json.RawMessage(`{"url":"u"}`), Look: until},
			payment.Receive{Channel: "alipay", Trade: "t", Currency: "CNY", Amount: 700, At: at},
			payment.RecordPosted{Trade: "t"},
			payment.RecordApplied{},
			payment.RequestRefund{Refund: "1.1", Order: "1", Amount: 300, Reason: "late", Look: until},
		}),
		lived("trade", trade.Decider, []trade.Command{
			trade.See{Channel: "alipay", Trade: "t", Payment: "1-1", Currency: "CNY", Amount: 700, At: at},
			trade.Orphan{Reason: "nobody knows the payment"},
			trade.RecordPosted{},
		}),
		lived("stuck", stuck.Decider, []stuck.Command{
			stuck.Park{Stream: "order-" + id, Event: "order.paid", Reason: "why", Tries: 3, At: at},
			stuck.Free{Stream: "order-" + id, By: "retry"},
		}),
		lived("orderids", orderid.Decider, []orderid.Command{orderid.Issue{Order: id, Buyer: buyer}}),
	}
}

// BenchmarkDecide is one decision, for each command of an aggregate's life.
func BenchmarkDecide(b *testing.B) {
	for _, a := range lives() {
		b.Run("aggregate="+a.name, a.decide)
	}
}

// BenchmarkEvolve is the replay of an aggregate's whole life.
func BenchmarkEvolve(b *testing.B) {
	for _, a := range lives() {
		b.Run("aggregate="+a.name, a.evolve)
	}
}

// BenchmarkEncode gives the newest version of every event its stored form.
func BenchmarkEncode(b *testing.B) {
	eachStored(b, func(b *testing.B, registry *event.Registry, _ event.Recorded, e any) {
		b.Helper()
		for b.Loop() {
			if _, err := registry.Encode(e); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkDecode reads every version of every event that was ever stored, as
// the program does.
func BenchmarkDecode(b *testing.B) {
	eachStored(b, func(b *testing.B, registry *event.Registry, rec event.Recorded, _ any) {
		b.Helper()
		registry.Unmarshal = sonic.ConfigStd.Unmarshal
		b.SetBytes(int64(len(rec.Data)))
		for b.Loop() {
			if _, err := registry.Decode(rec); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// eachStored runs a benchmark on what is in the golden files.
func eachStored(b *testing.B, run func(*testing.B, *event.Registry, event.Recorded, any)) {
	b.Helper()
	registry, err := event.NewRegistry(stored()...)
	if err != nil {
		b.Fatal(err)
	}
	for _, typ := range stored() {
		for version := 1; version <= typ.Version; version++ {
			b.Run(fmt.Sprintf("event=%s/version=%d", typ.Name, version), func(b *testing.B) {
				rec := event.Recorded{Stream: golden, Name: typ.Name, Version: version, Data: read(b, fileOf(typ.Name, version))[0]}
				e, err := registry.Decode(rec)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				run(b, registry, rec, e)
			})
		}
	}
}
