package commands

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
)

// splits are the SKUs that this process has met divided into shards.
//
// # Why
//
// Nobody is told that a SKU was divided. A hold says into how many shards its
// process takes the SKU to be divided, and its own stream, the first shard,
// refuses who is wrong about it and says what is so: a SKU that is not divided,
// as most are, costs nothing, and a process learns of one that is by its first
// hold (TestAProcessLearnsThatASKUWasDivided). One that believes in fewer shards
// than there are sells from those until it comes to the first one again, which
// is no fault.
//
// Each process prefers other shards, by a hash that only it knows, so that two of
// them seldom append to the same stream; where two do all the same, each tries
// another order of preference, ever less often, as there may be fewer shards than
// processes (TestProcessesThatMeetInAShardPart). Where the preferred shard has too little,
// half of what the richest has more is pulled there, once for all who ask at the
// time; where that is not enough, what a hold lacks is gathered in the first
// shard, which alone may sell what is not there. So goods go where they are sold,
// and a hold is refused only if all shards together have too little
// (TestAHoldIsRefusedOnlyIfAllShardsHaveTooLittle). A process that evens the
// shards out at intervals was rejected: it would move goods of SKUs that nobody
// buys, and come too late to those that everybody does.
//
// Whoever moves goods may stop between any two steps. The process follows what was
// sent and finishes it, and so does whoever finds it under way
// (TestEveryCrashWhileGoodsMoveEndsRight).
type splits struct {
	seed  maphash.Seed // whose preferences differ from every other process's
	pulls *singleflight.Group
	known *knownSplits
}

type knownSplits struct {
	mu sync.RWMutex
	of map[string]knownSplit // guarded by mu
}

// A knownSplit is what this process makes of one SKU.
type knownSplit struct {
	shards int
	moves  int       // how often it has chosen other shards to prefer
	stays  time.Time // until when it does not choose again
}

func newSplits() splits {
	return splits{seed: maphash.MakeSeed(), pulls: new(singleflight.Group), known: &knownSplits{of: map[string]knownSplit{}}}
}

const (
	gatherTries = 4
	pullTakes   = 2 * time.Second // at most

	leastStay = 100 * time.Millisecond
	mostMoves = 10 // each of which has a process stay twice as long as the one before
)

// shardsOf is into how many shards a SKU is divided, as far as this process knows.
func (s splits) shardsOf(sku string) int {
	s.known.mu.RLock()
	defer s.known.mu.RUnlock()
	return max(s.known.of[sku].shards, 1)
}

// learn notes into how many shards a SKU is divided; they never get fewer.
func (s splits) learn(sku string, count int) {
	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	known := s.known.of[sku]
	known.shards = max(known.shards, count)
	s.known.of[sku] = known
}

// move has this process prefer other shards of a SKU, unless it has just done so.
func (s splits) move(sku string) {
	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	known, now := s.known.of[sku], time.Now()
	if known.shards < 2 || now.Before(known.stays) {
		return
	}
	if !known.stays.IsZero() {
		known.moves++
	}
	// Those who meet must not move together again.
	stay := leastStay << min(known.moves, mostMoves)
	known.stays = now.Add(stay + rand.N(stay)) //nolint:gosec // it spreads rivals, it guards nothing
	s.known.of[sku] = known
}

// preferred lists the shards of a SKU, those that this process sells from first.
func (s splits) preferred(sku string, count int) []int {
	all := make([]int, count)
	for k := range all {
		all[k] = k
	}
	if count == 1 {
		return all
	}
	s.known.mu.RLock()
	moves := s.known.of[sku].moves
	s.known.mu.RUnlock()
	score := func(shard int) uint64 {
		return maphash.String(s.seed, domain.StockID(sku, shard)+"/"+strconv.Itoa(moves))
	}
	slices.SortFunc(all, func(a, b int) int { return cmp.Compare(score(a), score(b)) })
	return all
}

// stocks names the stocks that a SKU is divided into.
func stocks(sku string, count int) []string {
	names := make([]string, count)
	for k := range names {
		names[k] = domain.StockID(sku, k)
	}
	return names
}

// allShards names all stocks of these SKUs.
func (s *Shop) allShards(skus []string) (all []string) {
	for _, sku := range skus {
		all = append(all, stocks(sku, s.divided.shardsOf(sku))...)
	}
	return all
}

// inShards notes in an order's lines which shards have their goods.
func inShards(p order.Place, held []string) order.Place {
	in := map[string]int{}
	for _, stock := range held {
		if sku, shard := domain.ShardOf(stock); shard > 0 {
			in[sku] = shard
		}
	}
	if len(in) == 0 {
		return p
	}
	for i := range p.Lines {
		p.Lines[i].Shard = in[p.Lines[i].SKU]
	}
	for _, sib := range p.Siblings {
		for i := range sib.Lines {
			sib.Lines[i].Shard = in[sib.Lines[i].SKU]
		}
	}
	return p
}

// hold takes goods of one SKU, all from one stock, which it names.
func (s *Shop) hold(ctx context.Context, r Request, buyer, sku string, h inventory.Hold) (stock string, err error) {
	h.Now, h.Expires = s.holdTimes()
	for try := 0; ; try++ {
		count := s.divided.shardsOf(sku)
		stock, err = s.holdAnywhere(ctx, r, buyer, sku, count, h)
		split, wrong := errors.AsType[*inventory.SplitError](err)
		if !wrong || try == holdTries {
			break
		}
		s.divided.learn(sku, split.Shards)
	}
	if err == nil && s.divided.shardsOf(sku) > 1 && s.stock.Rivals(stock) {
		s.divided.move(sku)
	}
	if domain.ReasonOf(err) == outOfStock {
		for _, id := range stocks(sku, s.divided.shardsOf(sku)) {
			s.stock.Watch(id)
		}
	}
	return stock, err
}

// holdAnywhere tries the shards in the order of preference.
func (s *Shop) holdAnywhere(ctx context.Context, r Request, buyer, sku string, count int, h inventory.Hold) (stock string, err error) {
	for i, shard := range s.divided.preferred(sku, count) {
		stock, err = s.holdInShard(ctx, r, buyer, sku, shard, count, h)
		if count > 1 && i == 0 && domain.ReasonOf(err) == outOfStock {
			if perr := s.pull(ctx, sku, shard, count, h); perr != nil {
				return stock, perr
			}
			stock, err = s.holdInShard(ctx, r, buyer, sku, shard, count, h)
		}
		if domain.ReasonOf(err) != outOfStock {
			return stock, err
		}
	}
	for try := 0; count > 1 && domain.ReasonOf(err) == outOfStock; try++ {
		enough, gerr := s.gather(ctx, sku, 0, count, h)
		if gerr != nil {
			return stock, gerr
		}
		if stock, err = s.holdInShard(ctx, r, buyer, sku, 0, count, h); !enough {
			return stock, err
		}
		if try == gatherTries && domain.ReasonOf(err) == outOfStock {
			return stock, busy(time.Second) // there is enough, and others are faster to move it
		}
	}
	return stock, err
}

func (s *Shop) holdInShard(ctx context.Context, r Request, buyer, sku string, shard, count int, h inventory.Hold) (string, error) {
	if h.Shards = count; shard > 0 {
		h.Shards = 0 // only the first one knows
	}
	stock := domain.StockID(sku, shard)
	return stock, s.holdIn(ctx, r, buyer, stock, h)
}

// change runs a command on a stock. If that is a shard and has too little for it,
// what is lacking is gathered there.
func (s *Shop) change(ctx context.Context, stock string, r Request, c inventory.Command) (Done[inventory.Event], error) {
	done, err := s.stock.Handle(ctx, stock, r, c)
	switch domain.ReasonOf(err) {
	case outOfStock, "would_oversell", "not_on_hand":
	default:
		return done, err
	}
	sku, shard := domain.ShardOf(stock)
	count := 1
	if lerr := s.stock.Look(ctx, sku, func(st inventory.Stock, _ event.Revision) { count = max(st.Shards, 1) }); lerr != nil {
		return done, lerr
	}
	if count == 1 {
		return done, err
	}
	if _, gerr := s.gather(ctx, sku, shard, count, c); gerr != nil {
		return done, gerr
	}
	return s.stock.Handle(ctx, stock, r, c)
}

// pull brings goods into a shard of which a hold has found too little, and as many
// as even it out with the richest one. It is done once for all who ask meanwhile,
// and so does not end with any of them.
func (s *Shop) pull(ctx context.Context, sku string, to, count int, h inventory.Hold) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pullTakes)
	defer cancel()
	_, err, _ := s.divided.pulls.Do(domain.StockID(sku, to), func() (any, error) {
		seen, err := s.shards(ctx, sku, count)
		if err != nil {
			return nil, err
		}
		from := richest(seen, to)
		n := max((seen[from].Available()-seen[to].Available())/2, seen[to].Lacks(h))
		return nil, s.move(ctx, sku, from, to, seen, n)
	})
	return err
}

// gather brings what c lacks into a shard, from the richest of the others first,
// and says whether all of them have enough.
func (s *Shop) gather(ctx context.Context, sku string, to, count int, c inventory.Command) (enough bool, err error) {
	for range gatherTries {
		seen, err := s.shards(ctx, sku, count)
		if err != nil {
			return false, err
		}
		lacks := seen[to].Lacks(c)
		if lacks == 0 {
			return true, nil
		}
		enough = inventory.Whole(seen...).Lacks(c) == 0
		from := richest(seen, to)
		if seen[from].Available() <= 0 {
			return false, nil
		}
		if err := s.move(ctx, sku, from, to, seen, lacks); err != nil {
			return false, err
		}
	}
	return enough, nil
}

// richest is the shard that has the most to give to another.
func richest(shards []inventory.Stock, other int) int {
	best := (other + 1) % len(shards)
	for k, st := range shards {
		if k != other && st.Available() > shards[best].Available() {
			best = k
		}
	}
	return best
}

// shards are the newest states of a SKU's shards, after everything that is on the
// way has arrived.
func (s *Shop) shards(ctx context.Context, sku string, count int) ([]inventory.Stock, error) {
	seen := make([]inventory.Stock, count)
	var g errgroup.Group
	for k := range seen {
		g.Go(func() (err error) {
			id := domain.StockID(sku, k)
			if seen[k], _, err = s.stock.State(ctx, id); err != nil || len(seen[k].OnTheWay()) == 0 {
				return err
			}
			return s.finishTransfers(ctx, id)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(seen, func(st inventory.Stock) bool { return len(st.OnTheWay()) > 0 }) {
		return seen, nil
	}
	for k := range seen {
		var err error
		if seen[k], _, err = s.stock.State(ctx, domain.StockID(sku, k)); err != nil {
			return nil, err
		}
	}
	return seen, nil
}

// move sends goods from one shard to another, as many as there are of n. If
// another was faster nothing is sent, and whoever needs it looks again.
func (s *Shop) move(ctx context.Context, sku string, from, to int, seen []inventory.Stock, n int64) error {
	n = min(n, seen[from].Available(), inventory.Limit-seen[to].OnHand)
	last := seen[from].Sent[to]
	if n <= 0 || last.Open {
		return nil
	}
	out := inventory.TransferOut{To: to, Transfer: last.Transfer + 1, Quantity: n}
	r := moving(sku, from, to, out.Transfer, "out/"+strconv.FormatInt(n, 10))
	if _, err := s.stock.Handle(ctx, domain.StockID(sku, from), r, out); err != nil {
		if refusedForGood(err) {
			return nil
		}
		return fmt.Errorf("send goods of %s to shard %d: %w", sku, to, err)
	}
	return s.arrive(ctx, sku, from, to, inventory.Transfer{Transfer: out.Transfer, Quantity: n})
}

// arrive takes in what was sent, and then closes the transfer. Both may have been
// done before.
func (s *Shop) arrive(ctx context.Context, sku string, from, to int, sent inventory.Transfer) error {
	in := inventory.TransferIn{From: from, Transfer: sent.Transfer, Quantity: sent.Quantity}
	if _, err := s.stock.Handle(ctx, domain.StockID(sku, to), moving(sku, from, to, sent.Transfer, "in"), in); err != nil {
		return fmt.Errorf("take in goods of %s from shard %d: %w", sku, from, err)
	}
	settle := inventory.TransferSettle{To: to, Transfer: sent.Transfer}
	if _, err := s.stock.Handle(ctx, domain.StockID(sku, from), moving(sku, from, to, sent.Transfer, "settled"), settle); err != nil {
		return fmt.Errorf("settle a transfer of %s to shard %d: %w", sku, to, err)
	}
	return nil
}

// moving names a step of a transfer: whoever takes it does the same.
func moving(sku string, from, to int, transfer int64, step string) Request {
	return Request{
		Cause: fmt.Sprintf("transfer/%d/%d/%d/%s", from, to, transfer, step), Correlation: sku, Actor: "process", completes: true,
	}
}

// finishTransfers has everything arrive that a stock has sent.
func (s *Shop) finishTransfers(ctx context.Context, stock string) error {
	var open map[int]inventory.Transfer
	if err := s.stock.Look(ctx, stock, func(st inventory.Stock, _ event.Revision) { open = st.OnTheWay() }); err != nil {
		return err
	}
	sku, from := domain.ShardOf(stock)
	var errs []error
	for to, sent := range open {
		errs = append(errs, s.arrive(ctx, sku, from, to, sent))
	}
	return errors.Join(errs...)
}
