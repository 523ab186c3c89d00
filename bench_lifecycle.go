package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"cartwright/domain/money"
	"cartwright/domain/order"
)

func newBenchLifecycleCommand(cfg config) *cobra.Command {
	var opt benchOptions
	cmd := &cobra.Command{
		Use:   "lifecycle",
		Short: "Take orders from the checkout to their completion",
		Long: `Lifecycle takes orders through all of their life: checkout, payment from the
buyer's balance, a parcel with its waybill, its delivery, the completion. An
operation is all five, one after the other; each has latencies of its own too.
What the process makes of it (stock that is committed and shipped, money that is
captured, the seller's settlement) goes on beside it and behind it.

What is answered by "not now" is sent again, so that an order is only given up
where a step was refused for good, or not answered for 25 seconds.

In the end every SKU has to have shipped what was completed and to hold nothing
else, every buyer to have paid for that, each buyer's last order to be completed by
its id and in the buyer's list, and every seller's sums to have them all.

Exit codes: 0 done, 1 failed, 2 usage, 3 what is there is not what was answered.`,
		Example: `  cartwright bench lifecycle --duration 30s --json
  cartwright bench lifecycle --rate 300`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := opt.settle(cmd.Flags().Changed); err != nil {
				return err
			}
			return opt.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), (*checkoutBench).lifecycles)
		},
	}
	opt.flags(cmd.Flags(), cfg)
	opt.goodsFlags(cmd.Flags(), 1000)
	return cmd
}

// A lifecycleBench takes orders through their lives.
type lifecycleBench struct {
	*checkoutBench
	lives    []lifeCount // by SKU
	accounts []buyerCount
}

// A lifeCount counts how the orders of one SKU ended.
type lifeCount struct {
	completed atomic.Int64
	broken    atomic.Int64 // ended somewhere on the way
	shown     shownStock   // in the end
}

// A buyerCount is what a buyer has paid for.
type buyerCount struct {
	mu      sync.Mutex // guards all of it
	paid    int64      // orders
	unknown int64
	last    string // the order that was completed last
	token   string // of its completion
}

func (b *checkoutBench) lifecycles() workload {
	l := &lifecycleBench{checkoutBench: b, lives: make([]lifeCount, len(b.goods)), accounts: make([]buyerCount, len(b.buyers))}
	return workload{
		scenario: "lifecycle", setUp: l.setUp, ahead: b.ahead, during: b.probe, one: l.one, verify: l.verify,
		tell: b.tellCheckouts,
	}
}

// setUp makes goods, and buyers with money.
func (l *lifecycleBench) setUp(ctx context.Context) error {
	if err := l.checkoutBench.setUp(ctx); err != nil {
		return err
	}
	told := newProgress(l.errs, "buyers given money", len(l.buyers))
	defer told.end()
	return l.each(ctx, len(l.buyers), func(ctx context.Context, i int) error {
		defer told.step()
		return l.fund(ctx, l.buyers[i])
	})
}

// fund opens a buyer's account with money enough for all.
func (b *checkoutBench) fund(ctx context.Context, buyer string) error {
	account := map[string]string{"account_id": buyer, "currency": "BRL"}
	if _, err := b.api.do(ctx, request{method: http.MethodPost, path: "/v1/accounts", body: account}, nil); err != nil {
		return fmt.Errorf("open an account of %s: %w", buyer, err)
	}
	amount := map[string]money.Money{"amount": {Amount: maxStock, Currency: "BRL"}}
	_, err := b.api.do(ctx, request{method: http.MethodPost, path: pathOf("/v1/accounts/", buyer, "/deposits"), key: "fund", body: amount}, nil)
	if err != nil {
		return fmt.Errorf("fund %s: %w", buyer, err)
	}
	return nil
}

// A lifeStep is one command of an order's life.
type lifeStep struct {
	name string
	path func(id string) string
	body any
}

// lifeSteps are those behind the checkout.
func lifeSteps() []lifeStep {
	under := func(above, below string) func(string) string {
		return func(id string) string { return pathOf(above, id, below) }
	}
	parcel := map[string]any{
		"lines": []map[string]int{{"line": 1, "quantity": 1}}, "waybill": map[string]string{"carrier": "Bench", "number": "1"},
	}
	return []lifeStep{
		{"pay", under("/v1/checkouts/", "/pay"), nil},
		{"ship", under("/v1/orders/", "/parcels"), parcel},
		{"deliver", under("/v1/orders/", "/parcels/1/delivered"), nil},
		{"complete", under("/v1/orders/", "/complete"), nil},
	}
}

// one takes an order through its life.
func (l *lifecycleBench) one(ctx context.Context, a *arrival) error {
	id, err := l.idOf(ctx, a.n)
	if err != nil {
		return err
	}
	sku := rand.IntN(len(l.goods)) //nolint:gosec // which cart comes next guards nothing
	a.ready()
	begun := time.Now()
	body := checkoutRequest{OrderID: id.id, Buyer: id.buyer, Items: []checkoutItem{{l.goods[sku].sku, 1}}, Address: benchAddress}
	body.Expected = money.Money{Amount: benchTotal, Currency: "BRL"}
	out, err := l.api.do(ctx, request{method: http.MethodPost, path: "/v1/checkouts", key: id.id, body: body}, nil)
	a.step("checkout", time.Since(begun))
	l.sold[sku].note(err)
	if err != nil {
		a.ended(err)
		return nil
	}
	l.probes.offer(ackedOrder{buyer: id.buyer, seller: l.goods[sku].seller, token: out.token, at: time.Now()})
	l.goOn(ctx, a, id, sku)
	return nil
}

// goOn takes a placed order to its completion.
func (l *lifecycleBench) goOn(ctx context.Context, a *arrival, id drawnID, sku int) {
	buyer := &l.accounts[a.n%int64(len(l.buyers))]
	var out reply
	for _, step := range lifeSteps() {
		begun := time.Now()
		var err error
		out, err = l.api.do(ctx, request{method: http.MethodPost, path: step.path(id.id), key: step.name + "-" + id.id, body: step.body}, nil)
		a.step(step.name, time.Since(begun))
		if step.name == "pay" {
			buyer.pays(err)
		}
		if err != nil {
			a.ended(err)
			l.lives[sku].broken.Add(1)
			return
		}
	}
	a.ended(nil)
	l.lives[sku].completed.Add(1)
	buyer.mu.Lock()
	defer buyer.mu.Unlock()
	buyer.last, buyer.token = id.id, out.token
}

func (b *buyerCount) pays(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch refusal, refused := errors.AsType[*refusalError](err); {
	case err == nil:
		b.paid++
	case !refused, refusal.status >= http.StatusInternalServerError:
		b.unknown++
	}
}

// verify waits until all is as it has to be, or says what never was. Each part
// has its time: stock that is wrong to the end leaves enough to look at accounts.
func (l *lifecycleBench) verify(ctx context.Context) (benchCheck, error) {
	late := false
	var wrong differences
	for _, part := range []struct {
		n    int
		look func(ctx context.Context, i int) (string, error)
	}{
		{len(l.goods), l.stockDiffers},
		{len(l.buyers), l.buyerDiffers},
		{len(l.sellers()), l.sellerDiffers},
	} {
		limited, cancel := context.WithTimeout(ctx, l.checkWithin)
		err := l.each(limited, part.n, func(ctx context.Context, i int) error {
			wrong.add(insistOn(ctx, func(ctx context.Context) (string, error) { return part.look(ctx, i) }))
			return nil
		})
		late = late || limited.Err() != nil
		cancel()
		if err != nil || ctx.Err() != nil {
			return benchCheck{}, errors.Join(err, ctx.Err())
		}
	}
	if late {
		wrong.add("not all was as it has to be after " + l.checkWithin.String())
	}
	c := benchCheck{Differences: wrong.told()}
	for i := range l.goods {
		t := l.sold[i].tally()
		c.Placed, c.Unknown = c.Placed+t.placed, c.Unknown+t.unknown+l.lives[i].broken.Load()
		c.Taken += l.stock - l.lives[i].shown.OnHand + l.lives[i].shown.taken()
	}
	return c, nil
}

// differences gathers what is wrong. The zero value has nothing; it may be used
// concurrently.
type differences struct {
	mu   sync.Mutex
	list []string
}

// add takes in what is wrong, if anything is.
func (d *differences) add(wrong string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if wrong != "" && len(d.list) < maxDifferences {
		d.list = append(d.list, wrong)
	}
}

func (d *differences) told() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string{}, d.list...)
}

// insistOn looks again while what is seen is not right yet, and says what was
// wrong the last time, or why nothing was to be seen.
func insistOn(ctx context.Context, look func(context.Context) (string, error)) (wrong string) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		seen, err := look(ctx)
		switch {
		case err == nil && seen == "":
			return ""
		case err == nil:
			wrong = seen
		case wrong == "":
			wrong = err.Error()
		}
		if !rest(ctx, jitter(pause)) {
			return wrong
		}
	}
}

// stockDiffers says what of a SKU's stock is not as its orders ended.
func (l *lifecycleBench) stockDiffers(ctx context.Context, i int) (string, error) {
	s, err := l.stockOf(ctx, l.goods[i].sku)
	if err != nil {
		return "", err
	}
	l.lives[i].shown = s
	t, done, broken := l.sold[i].tally(), l.lives[i].completed.Load(), l.lives[i].broken.Load()
	return s.livedDiffers(t, done, broken, l.stock, l.goods[i].sku), nil
}

// livedDiffers says what of the stock can't be true of orders that were completed,
// or ended somewhere on the way.
func (s shownStock) livedDiffers(t tally, completed, broken, units int64, sku string) string {
	shipped := units - s.OnHand
	switch {
	case shipped < completed || shipped > completed+broken:
		return fmt.Sprintf("%s: %d of %d on hand, but %d orders were completed (and %d broken off)", sku, s.OnHand, units, completed, broken)
	case s.taken() < 0 || s.taken() > broken+t.unknown || s.Available < 0:
		return fmt.Sprintf("%s: %d taken still, %d available, with %d orders not completed", sku, s.taken(), s.Available, broken+t.unknown)
	}
	return ""
}

// buyerDiffers says what a buyer can't see, or has not paid.
func (l *lifecycleBench) buyerDiffers(ctx context.Context, i int) (string, error) {
	count := &l.accounts[i]
	if count.last == "" {
		return "", nil
	}
	var account struct {
		Balance money.Money `json:"balance"`
	}
	if _, err := l.api.do(ctx, request{method: http.MethodGet, path: pathOf("/v1/accounts/", l.buyers[i], "")}, &account); err != nil {
		return "", err
	}
	spent := maxStock - account.Balance.Amount
	if spent < count.paid*benchTotal || spent > (count.paid+count.unknown)*benchTotal {
		return fmt.Sprintf("%s spent %d on %d orders (and %d that may be paid)", l.buyers[i], spent, count.paid, count.unknown), nil
	}
	want := shownOrder{ID: count.last, Status: order.StatusCompleted}
	for _, path := range []string{pathOf("/v1/orders/", count.last, ""), pathOf("/v1/buyers/", l.buyers[i], "/orders?limit=100")} {
		var shown shownAnswer
		if _, err := l.api.do(ctx, request{method: http.MethodGet, path: path, token: count.token}, &shown); err != nil {
			return "", err
		}
		if wrong := want.missing(append(shown.Items, shown.shownOrder)); wrong != "" {
			return path + ": " + wrong, nil
		}
	}
	return "", nil
}

// sellers are those whose goods are sold.
func (b *checkoutBench) sellers() []string {
	var all []string
	for i := range min(benchSellers, len(b.goods)) {
		all = append(all, b.goods[i].seller)
	}
	return all
}

// sellerDiffers says what a seller's sums lack.
func (l *lifecycleBench) sellerDiffers(ctx context.Context, n int) (string, error) {
	seller := l.sellers()[n]
	var placed, completed, unsure int64
	for i := n; i < len(l.goods); i += benchSellers {
		t, broken := l.sold[i].tally(), l.lives[i].broken.Load()
		placed, completed, unsure = placed+t.placed, completed+l.lives[i].completed.Load(), unsure+t.unknown+broken
	}
	var sums shownSums
	if _, err := l.api.do(ctx, request{method: http.MethodGet, path: pathOf("/v1/sellers/", seller, "/summary")}, &sums); err != nil {
		return "", err
	}
	done := sums.ByStatus[order.StatusCompleted]
	if sums.Orders < placed || sums.Orders > placed+unsure || done < completed || done > completed+unsure {
		return fmt.Sprintf("%s has %d orders, %d of them completed, and %d were placed and %d completed (and %d may be)", seller, sums.Orders, done, placed, completed, unsure), nil
	}
	return "", nil
}
