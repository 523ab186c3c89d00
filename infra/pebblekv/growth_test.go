package pebblekv_test

import (
	"fmt"
	"testing"

	"cartwright/infra/cputime"
	"cartwright/infra/pebblekv"
	"cartwright/infra/viewtest"
)

// BenchmarkOneBuyer gives the newest orders of a buyer who has so many, and puts
// more of them.
func BenchmarkOneBuyer(b *testing.B) {
	for _, orders := range append([]int{20, 100}, viewtest.Sizes()...) {
		b.Run(fmt.Sprintf("orders=%d", orders), func(b *testing.B) {
			v, err := pebblekv.NewBuyers(opened(b))
			if err != nil {
				b.Fatal(err)
			}
			viewtest.Fill(b, v.Live(), orders, 1)
			b.Run("newest=20", func(b *testing.B) {
				b.ReportAllocs()
				defer cputime.Counted(b, "page")()
				for b.Loop() {
					page, err := v.Newest(b.Context(), viewtest.BuyerOf(0), 20, nil)
					if err != nil || len(page.Items) != 20 {
						b.Fatalf("%d items, %v", len(page.Items), err)
					}
				}
			})
			b.Run("put=500", func(b *testing.B) { viewtest.BenchmarkPutAmong(b, v.Live(), orders, 1) })
		})
	}
}
