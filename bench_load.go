package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sync/errgroup"

	"cartwright/domain/money"
)

// setUp puts every SKU on offer and on the shelf.
func (b *checkoutBench) setUp(ctx context.Context) error {
	told := newProgress(b.errs, "SKUs set up", len(b.goods))
	defer told.end()
	return b.each(ctx, len(b.goods), func(ctx context.Context, i int) error {
		defer told.step()
		return b.stockUp(ctx, b.goods[i])
	})
}

func (b *checkoutBench) stockUp(ctx context.Context, s benchSKU) error {
	offer := offerRequest{Seller: s.seller, Title: "Bench " + s.sku, Price: money.Money{Amount: 1000, Currency: "BRL"}, Freight: money.Money{Amount: 100, Currency: "BRL"}}
	if _, err := b.api.do(ctx, request{method: http.MethodPut, path: pathOf("/v1/skus/", s.sku, ""), body: offer}, nil); err != nil {
		return fmt.Errorf("offer %s: %w", s.sku, err)
	}
	units := map[string]int64{"quantity": b.stock}
	_, err := b.api.do(ctx, request{method: http.MethodPost, path: pathOf("/v1/inventory/", s.sku, "/receipts"), key: "stock", body: units}, nil)
	if err != nil {
		return fmt.Errorf("stock of %s: %w", s.sku, err)
	}
	return b.divide(ctx, s.sku)
}

// each runs do for 0 to n-1, as many at once as are measured at once.
func (b *checkoutBench) each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(b.concurrency)
	for i := range n {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return do(gctx, i) })
	}
	return g.Wait()
}

// A drawnID is an order id with the buyer it was given out to.
type drawnID struct{ id, buyer string }

// drawAhead draws n ids, and tells how many it drew a second.
func (b *checkoutBench) drawAhead(ctx context.Context, n int) ([]drawnID, float64, error) {
	ids := make([]drawnID, n)
	told := newProgress(b.errs, "order ids drawn", n)
	start := time.Now()
	err := b.each(ctx, n, func(ctx context.Context, i int) (err error) {
		defer told.step()
		ids[i], err = b.draw(ctx, b.buyers[i%len(b.buyers)])
		return err
	})
	told.end()
	return ids, float64(n) / max(time.Since(start).Seconds(), 1e-9), err
}

func (b *checkoutBench) draw(ctx context.Context, buyer string) (drawnID, error) {
	var told struct {
		OrderID string `json:"order_id"`
	}
	body := map[string]string{"buyer_id": buyer}
	if _, err := b.api.do(ctx, request{method: http.MethodPost, path: "/v1/order-ids", body: body}, &told); err != nil {
		return drawnID{}, fmt.Errorf("draw an order id: %w", err)
	}
	return drawnID{told.OrderID, buyer}, nil
}

// A tally is how often a checkout of one SKU ended how.
type tally struct {
	placed  int64
	short   int64 // refused for want of stock
	unknown int64 // carried out, or not
}

// A soldCount counts a tally. It may be used concurrently.
type soldCount struct{ placed, short, unknown atomic.Int64 }

func (c *soldCount) tally() tally { return tally{c.placed.Load(), c.short.Load(), c.unknown.Load()} }

// note counts how a checkout ended.
func (c *soldCount) note(err error) {
	refusal, refused := errors.AsType[*refusalError](err)
	switch {
	case err == nil:
		c.placed.Add(1)
	case !refused, refusal.status >= http.StatusInternalServerError:
		c.unknown.Add(1)
	case refusal.slug == "out_of_stock":
		c.short.Add(1)
	}
}

// checkouts is the scenario that checks carts out and does nothing else.
func (b *checkoutBench) checkouts() workload {
	return workload{
		scenario: "checkout", setUp: b.setUp, ahead: b.ahead, during: b.probe, one: b.one, verify: b.verify,
		tell: b.tellCheckouts,
	}
}

func (b *checkoutBench) tellCheckouts(r *benchReport) {
	r.Lag, r.IDs = b.lag, benchIDs{len(b.ids), rounded(b.idRate), b.inline.Load()}
}

// ahead draws n ids; what was drawn until now does not count.
func (b *checkoutBench) ahead(ctx context.Context, n int) (err error) {
	b.ids, b.idRate, err = b.drawAhead(ctx, n)
	b.inline.Store(0)
	return err
}

// probe measures the lag of views until it is told to stop.
func (b *checkoutBench) probe(ctx context.Context) (stop func()) {
	b.probes = newLagProbes(b.reads)
	done := b.probes.run(ctx)
	return func() { b.lag = done() }
}

// one checks a cart out.
func (b *checkoutBench) one(ctx context.Context, a *arrival) error {
	id, err := b.idOf(ctx, a.n)
	if err != nil {
		return err
	}
	b.sell(ctx, a, id)
	return nil
}

// sell checks a cart of some SKU out, and says whether it was placed.
func (b *checkoutBench) sell(ctx context.Context, a *arrival, id drawnID) (placed ackedOrder, ok bool) {
	sku := 0
	if len(b.goods) > 1 {
		sku = rand.IntN(len(b.goods)) //nolint:gosec // which cart comes next guards nothing
	}
	a.ready()
	token, err := b.at(a).checkout(ctx, id, b.goods[sku].sku)
	placed = ackedOrder{buyer: id.buyer, seller: b.goods[sku].seller, token: token, at: time.Now()}
	a.ended(err)
	b.sold[sku].note(err)
	if err == nil {
		b.probes.offer(placed)
		return placed, true
	}
	if _, refused := errors.AsType[*refusalError](err); !refused { // nothing came back
		rest(ctx, 10*time.Millisecond)
	}
	return placed, false
}

// idOf gives the nth id: one drawn ahead, or from the server.
func (b *checkoutBench) idOf(ctx context.Context, n int64) (drawnID, error) {
	if n < int64(len(b.ids)) {
		return b.ids[n], nil
	}
	b.inline.Add(1)
	return b.draw(ctx, b.buyers[n%int64(len(b.buyers))])
}

// checkout sends one cart once, and gives the token of its answer. It is the
// hot loop: the answer is read to its end and not looked at.
func (c *client) checkout(ctx context.Context, id drawnID, sku string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/v1/checkouts", bytes.NewReader(cart(id, sku)))
	if err != nil {
		return "", fmt.Errorf("checkout: %w", err)
	}
	req.Header["Content-Type"] = jsonType
	req.Header["Idempotency-Key"] = []string{id.id}
	resp, err := c.http.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 == 2 {
		if _, err = io.Copy(io.Discard, resp.Body); err != nil {
			return "", fmt.Errorf("read an answer: %w", err)
		}
		return resp.Header.Get("Cartwright-Token"), nil
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", fmt.Errorf("read a refusal: %w", err)
	}
	return "", refusalOf(resp, text)
}

var jsonType = []string{"application/json"}

// cart is the body of a checkout. None of what is put in needs escaping.
func cart(id drawnID, sku string) []byte {
	b := make([]byte, 0, 512)
	b = append(b, `{"order_id":"`...)
	b = append(b, id.id...)
	b = append(b, `","buyer_id":"`...)
	b = append(b, id.buyer...)
	b = append(b, `","items":[{"sku":"`...)
	b = append(b, sku...)
	return append(b, `","quantity":1}],"address":{"name":"Bench","phone":"+55 11 5555 0100","line1":"Rua da Medida 1","city":"São Paulo","region":"SP","postal_code":"01000-000","country":"BR"}}`...)
}

// lagProbes are the views whose lag is measured, each with what is asked of it.
var lagProbes = map[string]func(ackedOrder) string{
	"buyers":  func(o ackedOrder) string { return pathOf("/v1/buyers/", o.buyer, "/orders?limit=1") },
	"sellers": func(o ackedOrder) string { return pathOf("/v1/sellers/", o.seller, "/orders?limit=1") },
}

// An ackedOrder is an order whose checkout was just answered.
type ackedOrder struct {
	buyer, seller, token string
	at                   time.Time
}

// A lagProbe asks one view, now and then, for an order that was just answered.
type lagProbe struct {
	api     *client
	path    func(ackedOrder) string
	wants   atomic.Bool
	next    chan ackedOrder // filled only by whoever took wants away
	latency *hdrhistogram.Histogram
}

// lagEvery is how often a view is asked.
const lagEvery = 50 * time.Millisecond

// A lagSet has a probe for each view. The nil set asks nobody.
type lagSet map[string]*lagProbe

func newLagProbes(api *client) lagSet {
	set := lagSet{}
	for view, path := range lagProbes {
		set[view] = &lagProbe{api: api, path: path, next: make(chan ackedOrder, 1), latency: newHistogram()}
	}
	return set
}

// offer hands an order to the probes that want one. It never waits.
func (s lagSet) offer(o ackedOrder) {
	for _, p := range s {
		if p.wants.Load() && p.wants.CompareAndSwap(true, false) {
			p.next <- o
		}
	}
}

// run asks until done is called, which gives what was measured. A view that did
// not answer in time counts with the time that it took not to.
func (s lagSet) run(ctx context.Context) (done func() map[string]Latency) {
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for _, p := range s {
		wg.Go(func() { p.run(ctx, stop) })
	}
	return func() map[string]Latency {
		close(stop)
		wg.Wait()
		lag := make(map[string]Latency, len(s))
		for view, p := range s {
			lag[view] = latencyOf(p.latency)
		}
		return lag
	}
}

func (p *lagProbe) run(ctx context.Context, stop <-chan struct{}) {
	pause := time.NewTicker(lagEvery)
	defer pause.Stop()
	for {
		p.wants.Store(true)
		select {
		case o := <-p.next:
			_, _ = p.api.do(ctx, request{method: http.MethodGet, path: p.path(o), token: o.token}, nil)
			recordLatency(p.latency, time.Since(o.at))
		case <-stop:
			return
		}
		select {
		case <-pause.C:
		case <-stop:
			return
		}
	}
}
