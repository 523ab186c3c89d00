package inventory_test

import (
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cartwright/domain/domaintest"
	stored "cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/orderid"
)

// commands draws from few orders, attempts, keys and small quantities, so that
// they meet, and from days far enough apart that things are forgotten.
func commands(orders []string) *rapid.Generator[command] {
	quantity := rapid.OneOf(rapid.Int64Range(-1, 6), rapid.SampledFrom([]int64{inventory.Limit, -1 << 63, 1<<63 - 1}))
	order := rapid.SampledFrom(append(orders, "", "7"))
	key := rapid.SampledFrom([]string{"1", "2", ""})
	return rapid.Custom(func(t *rapid.T) command {
		q := quantity.Draw(t, "quantity")
		switch rapid.IntRange(0, 12).Draw(t, "command") {
		case 0:
			return inventory.Receive{Quantity: q}
		case 1:
			return inventory.Adjust{OnHand: q, Unavailable: quantity.Draw(t, "unavailable"), Reason: key.Draw(t, "reason")}
		case 2:
			return inventory.Count{OnHand: q, Reason: key.Draw(t, "reason")}
		case 3:
			return inventory.SetPolicy{Safety: q, Backorder: quantity.Draw(t, "backorder")}
		case 4, 5, 6:
			return inventory.Commit{Order: order.Draw(t, "order")}
		case 7:
			return inventory.Release{Order: order.Draw(t, "order"), Attempt: key.Draw(t, "attempt")}
		case 8:
			return inventory.Ship{Order: order.Draw(t, "order"), Parcel: key.Draw(t, "parcel"), Quantity: q}
		case 9:
			return inventory.Deallocate{Order: order.Draw(t, "order"), Refund: key.Draw(t, "refund"), Quantity: q}
		case 10:
			return inventory.Restock{Order: order.Draw(t, "order"), Refund: key.Draw(t, "refund"), Quantity: q, Damaged: q%2 == 0}
		default:
			o := order.Draw(t, "order")
			return inventory.Hold{Order: o, Attempt: key.Draw(t, "attempt"), Quantity: q, Now: orderid.ID(o).Time(), Expires: now}
		}
	})
}

func fewOrders(tb testing.TB) []string {
	tb.Helper()
	var orders []string
	for _, day := range []int{0, 0, 1, 2, 3, 4, 5} {
		orders = append(orders, orderAt(tb, time.Duration(day*-24)*time.Hour, string(rune('1'+len(orders)))))
	}
	return orders
}

// Whatever is asked, in whatever order: what is decided replays, what is
// replayed is what was lived, and nothing is promised that is not there.
func TestDecisionsAlwaysReplay(t *testing.T) {
	wish := commands(fewOrders(t))
	rapid.Check(t, func(t *rapid.T) {
		var past []event
		live := stock{}
		var movements int64
		for range rapid.IntRange(1, 60).Draw(t, "length") {
			c := wish.Draw(t, "c")
			events, err := inventory.Decider.Decide(live, c)
			if err != nil && len(events) > 0 {
				t.Fatalf("%#v: refused and decided", c)
			}
			for _, e := range events {
				movements += movement(live, e)
				if live, err = inventory.Decider.Evolve(live, e); err != nil {
					t.Fatalf("%#v: %v", c, err)
				}
			}
			past = append(past, events...)
			if again, err := inventory.Decider.Decide(live, c); len(events) > 0 && len(again) > 0 && counts(c) {
				t.Fatalf("%#v: counted twice: %v, %v", c, again, err)
			}
			if err := live.Check(); err != nil {
				t.Fatalf("after %#v: %v", c, err)
			}
			if live.Available() < -live.Backorder {
				t.Fatalf("after %#v: oversold: %+v", c, live)
			}
			if movements != live.OnHand {
				t.Fatalf("after %#v: the movements say %d, on hand is %d", c, movements, live.OnHand)
			}
		}
		again, err := inventory.Decider.Fold(stock{}, past...)
		if diff := domaintest.Diff(live, again); err != nil || diff != "" {
			t.Fatalf("%v; replayed otherwise than lived (-lived +replayed):\n%s", err, diff)
		}
	})
}

// counts tells the commands that carry a key and so count once.
func counts(c command) bool {
	switch c.(type) {
	case inventory.Receive, inventory.Adjust, inventory.Count:
		return false
	default:
		return true
	}
}

// movement is what an event does to the shelf.
func movement(s stock, e event) int64 {
	switch e := e.(type) {
	case inventory.Received:
		return e.Quantity
	case inventory.Adjusted:
		return e.OnHand
	case inventory.Counted:
		return e.OnHand - s.OnHand
	case inventory.ShippedOut:
		return -e.Quantity
	case inventory.Restocked:
		return e.Quantity
	default:
		return 0
	}
}

// A state that went through JSON in the middle of its life, and a clone of it,
// go on as the original does, and leave each other alone.
func TestSnapshotsAndClonesGoOnAlike(t *testing.T) {
	registry, err := stored.NewRegistry(inventory.Types()...)
	if err != nil {
		t.Fatal(err)
	}
	wish := commands(fewOrders(t))
	rapid.Check(t, func(t *rapid.T) {
		s := lived(t, stock{}, wish, nil)
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var snapshot stock
		if err := json.Unmarshal(text, &snapshot); err != nil {
			t.Fatal(err)
		}
		if diff := domaintest.Diff(s, snapshot); diff != "" {
			t.Fatalf("came back otherwise (-want +got):\n%s", diff)
		}
		clone, kept := inventory.Decider.Clone(s), inventory.Decider.Clone(s)
		end := lived(t, s, wish, func(e event) {
			rec, err := registry.Encode(e)
			if err != nil {
				t.Fatal(err)
			}
			again, err := registry.Decode(rec)
			if err != nil {
				t.Fatal(err)
			}
			if snapshot, err = inventory.Decider.Evolve(snapshot, again.(event)); err != nil {
				t.Fatal(err)
			}
		})
		if diff := domaintest.Diff(end, snapshot); diff != "" {
			t.Fatalf("the snapshot went on otherwise (-lived +snapshot):\n%s", diff)
		}
		if diff := domaintest.Diff(kept, clone); diff != "" {
			t.Fatalf("the clone changed with the original (-want +got):\n%s", diff)
		}
	})
}

// lived is s after some commands, each of whose events is told.
func lived(t *rapid.T, s stock, wish *rapid.Generator[command], tell func(event)) stock {
	for range rapid.IntRange(0, 30).Draw(t, "length") {
		events, _ := inventory.Decider.Decide(s, wish.Draw(t, "c"))
		for _, e := range events {
			var err error
			if s, err = inventory.Decider.Evolve(s, e); err != nil {
				t.Fatal(err)
			}
			if tell != nil {
				tell(e)
			}
		}
	}
	return s
}

// BenchmarkOneSale is a hold, its commit and its parcel on a SKU that has so
// many reservations open, decided and evolved.
func BenchmarkOneSale(b *testing.B) {
	for _, tt := range []struct {
		name string
		open int
	}{{"open=0", 0}, {"open=100000", 100_000}} {
		b.Run(tt.name, func(b *testing.B) {
			s := stock{OnHand: inventory.Limit, Known: true}
			n := 0
			do := func(c command) {
				events, err := inventory.Decider.Decide(s, c)
				if err == nil && len(events) == 1 {
					s, err = inventory.Decider.Evolve(s, events[0])
				}
				if err != nil || len(events) != 1 {
					b.Fatalf("%#v: %v", c, err)
				}
			}
			hold := func() string {
				n++
				id, err := orderid.Make(now.Add(time.Duration(n)*time.Millisecond), 0, "1")
				if err != nil {
					b.Fatal(err)
				}
				do(inventory.Hold{Order: string(id), Attempt: "0b6a4a52-0000-4000-8000-000000000000", Quantity: 1, Now: id.Time()})
				return string(id)
			}
			for range tt.open {
				hold()
			}
			b.ReportAllocs()
			for b.Loop() {
				id := hold()
				do(inventory.Commit{Order: id})
				do(inventory.Ship{Order: id, Parcel: "1", Quantity: 1})
			}
		})
	}
}
