package sqliteviews_test

import (
	"context"
	"fmt"
	"testing"

	"cartwright/infra/cputime"
	"cartwright/infra/viewtest"
	"cartwright/projections"
)

// BenchmarkSeller lists and sums the orders of a seller who has so many, all of
// one buyer, and puts more of them.
func BenchmarkSeller(b *testing.B) {
	for _, orders := range viewtest.Sizes() {
		b.Run(fmt.Sprintf("orders=%d", orders), func(b *testing.B) {
			db := opened(b)
			viewtest.Fill(b, db.Orders().Live(), orders, 1)
			seller := viewtest.SellerOf(0)
			for _, list := range []struct {
				by    string
				query projections.OrderQuery
			}{
				{"buyer", projections.OrderQuery{Buyer: viewtest.BuyerOf(0)}},
				{"seller", projections.OrderQuery{Seller: seller}},
				{"to_ship", projections.OrderQuery{Seller: seller, ToShip: true}},
				{"status", projections.OrderQuery{Seller: seller, Status: "cancelled"}},
				{"text", projections.OrderQuery{Seller: seller, Text: "连衣裙"}},
				{"text rare", projections.OrderQuery{Seller: seller, Text: "连衣裙 7", Limit: orders / 1000}}, // one order of a thousand
			} {
				b.Run("by="+list.by, func(b *testing.B) { benchList(b, db.Orders().Orders, list.query) })
			}
			for _, interval := range []string{"", "day"} {
				b.Run("summary="+interval, func(b *testing.B) {
					b.ReportAllocs()
					defer cputime.Counted(b, "summary")()
					for b.Loop() {
						s, err := db.Orders().Summary(b.Context(), projections.SummaryQuery{Seller: seller, Interval: interval})
						if err != nil || s.ByCurrency["CNY"].Orders < int64(orders) {
							b.Fatalf("%+v, %v", s, err)
						}
					}
				})
			}
			b.Run("put=500", func(b *testing.B) { viewtest.BenchmarkPutAmong(b, db.Orders().Live(), orders, 1) })
		})
	}
}

func benchList(b *testing.B, orders func(context.Context, projections.OrderQuery) (projections.OrderPage, error), q projections.OrderQuery) {
	b.Helper()
	if q.Limit == 0 {
		q.Limit = 20
	}
	q.Limit = min(q.Limit, 20)
	b.ReportAllocs()
	defer cputime.Counted(b, "list")()
	for b.Loop() {
		page, err := orders(b.Context(), q)
		if err != nil || len(page.Items) != q.Limit {
			b.Fatalf("%d items, %v", len(page.Items), err)
		}
	}
}
