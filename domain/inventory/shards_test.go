package inventory_test

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"cartwright/domain"
	"cartwright/domain/domaintest"
	"cartwright/domain/inventory"
)

func TestDividing(t *testing.T) {
	given(t).When(inventory.Divide{Shards: 2}).Then(inventory.Divided{Shards: 2})
	given(t).When(inventory.Divide{Shards: 16}).Then(inventory.Divided{Shards: 16})
	given(t, inventory.Divided{Shards: 2}).When(inventory.Divide{Shards: 3}).Then(inventory.Divided{Shards: 3})
	given(t, inventory.Divided{Shards: 2}).When(inventory.Divide{Shards: 2}).Then()
	given(t).When(inventory.Divide{Shards: 1}).ThenRefused(domain.Invalid, "bad_shards")
	given(t).When(inventory.Divide{Shards: 17}).ThenRefused(domain.Invalid, "bad_shards")
	given(t, inventory.Divided{Shards: 3}).When(inventory.Divide{Shards: 2}).ThenRefused(domain.Conflict, "shards_only_grow")
}

func TestADividedStockIsNotCountedInOneNumber(t *testing.T) {
	given(t, inventory.Divided{Shards: 2}).When(inventory.Count{OnHand: 3, Reason: "june"}).ThenRefused(domain.Conflict, "stock_is_split")
}

func TestATransferIsSentOnce(t *testing.T) {
	ten := inventory.Received{Quantity: 10}
	out := inventory.TransferOut{To: 1, Transfer: 1, Quantity: 4}
	sent, settled := inventory.TransferredOut(out), inventory.TransferSettled{To: 1, Transfer: 1}
	given(t, ten).When(out).Then(sent)
	given(t, ten, sent).When(out).Then()
	given(t, ten, sent, settled).When(out).Then()
	given(t, ten, sent).When(inventory.TransferOut{To: 1, Transfer: 2, Quantity: 1}).ThenRefused(domain.Conflict, "transfer_open")
	given(t, ten, sent, settled).When(inventory.TransferOut{To: 1, Transfer: 2, Quantity: 6}).Then(inventory.TransferredOut{To: 1, Transfer: 2, Quantity: 6})
	given(t, ten, sent, settled).When(inventory.TransferOut{To: 1, Transfer: 1, Quantity: 1}).ThenRefused(domain.Conflict, "transfer_gap")
	given(t, ten, sent, settled).When(inventory.TransferOut{To: 1, Transfer: 3, Quantity: 1}).ThenRefused(domain.Conflict, "transfer_gap")
	given(t, ten, sent).When(inventory.TransferOut{To: 2, Transfer: 1, Quantity: 6}).Then(inventory.TransferredOut{To: 2, Transfer: 1, Quantity: 6})
	given(t, ten).When(inventory.TransferOut{To: 15, Transfer: 1, Quantity: 1}).Then(inventory.TransferredOut{To: 15, Transfer: 1, Quantity: 1})
	for _, to := range []int{-1, 16} {
		given(t, ten).When(inventory.TransferOut{To: to, Transfer: 1, Quantity: 1}).ThenRefused(domain.Invalid, "bad_shards")
	}
	given(t, ten).When(inventory.TransferOut{To: 1, Transfer: 1}).ThenRefused(domain.Invalid, "bad_quantity")
	given(t, ten).When(inventory.TransferOut{To: 1}).ThenRefused(domain.Conflict, "transfer_gap")
}

func TestOnlyWhatNobodyHasIsSent(t *testing.T) {
	past := []event{
		inventory.Received{Quantity: 10},
		inventory.PolicySet{Safety: 2, Backorder: 100},
		inventory.Held{Order: orderAt(t, 0, "1"), Attempt: "a", Quantity: 3},
	}
	given(t, past...).When(inventory.TransferOut{To: 1, Transfer: 1, Quantity: 5}).Then(inventory.TransferredOut{To: 1, Transfer: 1, Quantity: 5})
	given(t, past...).When(inventory.TransferOut{To: 1, Transfer: 1, Quantity: 6}).ThenRefused(domain.Conflict, "out_of_stock")
}

func TestATransferArrivesOnce(t *testing.T) {
	in := inventory.TransferIn{From: 2, Transfer: 1, Quantity: 4}
	came := inventory.TransferredIn(in)
	given(t).When(in).Then(came)
	given(t, came).When(in).Then()
	given(t, came).When(inventory.TransferIn{From: 2, Transfer: 2, Quantity: 1}).Then(inventory.TransferredIn{From: 2, Transfer: 2, Quantity: 1})
	given(t, came, inventory.TransferredIn{From: 2, Transfer: 2, Quantity: 1}).When(in).Then()
	given(t, came).When(inventory.TransferIn{From: 0, Transfer: 1, Quantity: 1}).Then(inventory.TransferredIn{From: 0, Transfer: 1, Quantity: 1})
	given(t, came).When(inventory.TransferIn{From: 2, Transfer: 3, Quantity: 1}).ThenRefused(domain.Conflict, "transfer_gap")
	given(t).When(inventory.TransferIn{From: 2, Transfer: 1}).ThenRefused(domain.Invalid, "bad_quantity")
	given(t).When(inventory.TransferIn{From: 16, Transfer: 1, Quantity: 1}).ThenRefused(domain.Invalid, "bad_shards")
}

func TestATransferIsSettledOnce(t *testing.T) {
	past := []event{inventory.Received{Quantity: 10}, inventory.TransferredOut{To: 1, Transfer: 1, Quantity: 4}}
	settle := inventory.TransferSettle{To: 1, Transfer: 1}
	settled := inventory.TransferSettled(settle)
	given(t, past...).When(settle).Then(settled)
	given(t, append(past, settled)...).When(settle).Then()
	given(t, append(past, settled, inventory.TransferredOut{To: 1, Transfer: 2, Quantity: 1})...).When(settle).Then()
	given(t, past...).When(inventory.TransferSettle{To: 1, Transfer: 2}).ThenRefused(domain.Conflict, "transfer_not_open")
	given(t, past...).When(inventory.TransferSettle{To: 2, Transfer: 1}).ThenRefused(domain.Conflict, "transfer_not_open")
	given(t, past...).When(inventory.TransferSettle{To: -1, Transfer: 1}).ThenRefused(domain.Invalid, "bad_shards")
}

func TestWhoDoesNotKnowThatAStockIsDividedIsTold(t *testing.T) {
	hold := inventory.Hold{Order: orderAt(t, 0, "1"), Attempt: "a", Quantity: 1, Now: now, Expires: now}
	held := inventory.Held{Order: hold.Order, Attempt: "a", Quantity: 1, Expires: now}
	one := []event{inventory.Received{Quantity: 10}}
	four := []event{inventory.Received{Quantity: 10}, inventory.Divided{Shards: 4}}
	for _, tt := range []struct {
		past   []event
		shards int
		told   int // 0 for nothing
	}{{one, 0, 0}, {one, 1, 0}, {one, 2, 1}, {four, 0, 0}, {four, 4, 0}, {four, 1, 4}, {four, 3, 4}} {
		hold.Shards = tt.shards
		if tt.told == 0 {
			given(t, tt.past...).When(hold).Then(held)
			given(t, append(slices.Clip(tt.past), held)...).When(hold).Then()
			continue
		}
		given(t, tt.past...).When(hold).ThenRefused(domain.Conflict, "stock_is_split")
		s, err := inventory.Decider.Fold(stock{}, tt.past...)
		if err != nil {
			t.Fatal(err)
		}
		_, err = inventory.Decider.Decide(s, hold)
		if split, ok := errors.AsType[*inventory.SplitError](err); !ok || split.Shards != tt.told {
			t.Errorf("who believes in %d shards is told %v", tt.shards, err)
		}
	}
}

// A yard is a SKU in shards, and the same SKU as if it had never been divided.
type yard struct {
	t      *rapid.T
	shards []stock
	whole  stock
	past   [][]stock // what each shard has ever been
}

// do has a shard decide, and the whole live through the same but for transfers.
func (y *yard) do(shard int, c command) {
	events, err := inventory.Decider.Decide(y.shards[shard], c)
	if err != nil {
		return
	}
	for _, e := range events {
		if y.shards[shard], err = inventory.Decider.Evolve(y.shards[shard], e); err != nil {
			y.t.Fatalf("shard %d, %#v: %v", shard, e, err)
		}
		y.past[shard] = append(y.past[shard], inventory.Decider.Clone(y.shards[shard]))
		switch e.(type) {
		case inventory.TransferredOut, inventory.TransferredIn, inventory.TransferSettled:
			continue
		default:
		}
		if y.whole, err = inventory.Decider.Evolve(y.whole, e); err != nil {
			y.t.Fatalf("one stock would not have done what shard %d did: %v", shard, err)
		}
	}
}

// counters are what a SKU shows to the world.
func counters(s stock) stock {
	return stock{
		Known: s.Known, OnHand: s.OnHand, Held: s.Held, Allocated: s.Allocated, Unavailable: s.Unavailable,
		Safety: s.Safety, Backorder: s.Backorder, Shards: s.Shards,
	}
}

func (y *yard) check() {
	if diff := domaintest.Diff(counters(y.whole), inventory.Whole(y.shards...)); diff != "" {
		y.t.Fatalf("the shards are not one stock (-one +shards):\n%s", diff)
	}
	var onTheWay, moved int64
	for from, s := range y.shards {
		if err := s.Check(); err != nil {
			y.t.Fatalf("shard %d: %v", from, err)
		}
		moved += s.Moved
		for to, last := range s.Sent {
			if last.Open && y.shards[to].Got[from] < last.Transfer {
				onTheWay += last.Quantity
			}
		}
	}
	if onTheWay != -moved {
		y.t.Fatalf("%d are on the way, the shards lack %d", onTheWay, -moved)
	}
}

// errand is what a process that moves goods has still to do; it may stop
// anywhere, and others may do the same beside it.
type errand struct {
	from, to int
	transfer inventory.Transfer
	in       bool
}

// Whatever is asked of the shards, and wherever those stop who move goods between
// them: they have the stock of one SKU, sell no more than it has, and lose nothing.
func TestShardsAreOneStock(t *testing.T) {
	orders := fewOrders(t)
	wish := commands(orders)
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 4).Draw(t, "shards")
		y := &yard{t: t, shards: make([]stock, n), past: make([][]stock, n)}
		y.do(0, inventory.Receive{Quantity: rapid.Int64Range(1, 30).Draw(t, "stock")})
		y.do(0, inventory.Divide{Shards: n})
		at := rapid.IntRange(0, n-1)
		var errands []errand
		for range rapid.IntRange(1, 60).Draw(t, "length") {
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0: // somebody sends
				from, to := at.Draw(t, "from"), at.Draw(t, "to")
				c := inventory.TransferOut{To: to, Transfer: y.shards[from].Sent[to].Transfer + 1, Quantity: rapid.Int64Range(1, 9).Draw(t, "sent")}
				y.do(from, c)
				y.do(from, c)
			case 1: // somebody finds what is open
				for from, s := range y.shards {
					for to, last := range s.Sent {
						if last.Open {
							errands = append(errands, errand{from: from, to: to, transfer: last})
						}
					}
				}
			case 2, 3: // somebody goes on, perhaps long after others have
				if len(errands) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(errands)-1).Draw(t, "errand")
				e := &errands[i]
				if !e.in {
					y.do(e.to, inventory.TransferIn{From: e.from, Transfer: e.transfer.Transfer, Quantity: e.transfer.Quantity})
					e.in = true
				} else {
					y.do(e.from, inventory.TransferSettle{To: e.to, Transfer: e.transfer.Transfer})
				}
			default:
				c := wish.Draw(t, "c")
				if _, err := inventory.Decider.Decide(y.whole, c); domain.ReasonOf(err) == "quantity_overflow" {
					continue // each shard has room for itself
				}
				y.do(y.shardOf(c, orders), c)
			}
			y.check()
		}
		y.seenApart(at)
	})
}

// shardOf is where a command goes: what is about an order to the order's shard.
func (y *yard) shardOf(c command, orders []string) int {
	var order string
	switch c := c.(type) {
	case inventory.Hold:
		order = c.Order
	case inventory.Commit:
		order = c.Order
	case inventory.Release:
		order = c.Order
	case inventory.Ship:
		order = c.Order
	case inventory.Deallocate:
		order = c.Order
	default:
		return 0
	}
	for i, o := range orders {
		if o == order {
			return i % len(y.shards)
		}
	}
	return 0
}

// seenApart looks at shards as they were at different times: transfers between
// neither make anything appear nor disappear.
func (y *yard) seenApart(at *rapid.Generator[int]) {
	late := at.Draw(y.t, "late")
	if len(y.past[late]) == 0 {
		return
	}
	shards := append([]stock(nil), y.shards...)
	shards[late] = y.past[late][rapid.IntRange(0, len(y.past[late])-1).Draw(y.t, "seen")]
	moves := func(s stock) int64 { return s.OnHand - s.Moved }
	want := y.whole.OnHand - moves(y.shards[late]) + moves(shards[late])
	if got := inventory.Whole(shards...).OnHand; got != want {
		y.t.Fatalf("%d are on hand, want %d", got, want)
	}
}
