package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
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
	return nil
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

// A quota says how much load there is to be: a count, or all until a time.
type quota struct {
	count int64
	end   time.Time
}

// A benchLoad is what workers did, and what became of it.
type benchLoad struct {
	took    time.Duration
	latency *hdrhistogram.Histogram
	errors  map[string]int64
	sold    []tally // by SKU
	inline  int64   // ids drawn on the way
}

// A tally is how often a checkout of one SKU ended how.
type tally struct {
	placed  int64
	short   int64 // refused for want of stock
	unknown int64 // carried out, or not
}

func newBenchLoad(skus int) benchLoad {
	return benchLoad{latency: newHistogram(), errors: map[string]int64{}, sold: make([]tally, skus)}
}

func (l *benchLoad) add(o benchLoad) {
	l.latency.Merge(o.latency)
	for slug, n := range o.errors {
		l.errors[slug] += n
	}
	for i, t := range o.sold {
		l.sold[i].placed += t.placed
		l.sold[i].short += t.short
		l.sold[i].unknown += t.unknown
	}
	l.inline += o.inline
}

func (l *benchLoad) placed() (n int64) {
	for _, t := range l.sold {
		n += t.placed
	}
	return n
}

func (l *benchLoad) answered() int64 { return l.latency.TotalCount() }

// load checks carts out until the quota is used up: each worker sends the next
// one when the last is answered. Ids come from those drawn ahead, then from the server.
func (b *checkoutBench) load(ctx context.Context, q quota, ids []drawnID, probes lagSet) (benchLoad, error) {
	total := newBenchLoad(len(b.goods))
	var mu sync.Mutex // guards total
	var begun atomic.Int64
	next := func() (n int64, ok bool) {
		n = begun.Add(1) - 1
		return n, ctx.Err() == nil && (n < q.count || time.Now().Before(q.end))
	}
	start := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	for range b.concurrency {
		g.Go(func() error {
			w := &benchWorker{bench: b, load: newBenchLoad(len(b.goods)), probes: probes}
			for n, ok := next(); ok && gctx.Err() == nil; n, ok = next() {
				if err := w.one(gctx, n, ids); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			total.add(w.load)
			return nil
		})
	}
	err := g.Wait()
	total.took = time.Since(start)
	return total, errors.Join(err, ctx.Err())
}

// A benchWorker sends one checkout after another.
type benchWorker struct {
	bench  *checkoutBench
	load   benchLoad
	probes lagSet
}

// one checks the nth cart out.
func (w *benchWorker) one(ctx context.Context, n int64, ids []drawnID) error {
	b := w.bench
	var id drawnID
	if n < int64(len(ids)) {
		id = ids[n]
	} else {
		var err error
		if id, err = b.draw(ctx, b.buyers[n%int64(len(b.buyers))]); err != nil {
			return err
		}
		w.load.inline++
	}
	sku := 0
	if len(b.goods) > 1 {
		sku = rand.IntN(len(b.goods)) //nolint:gosec // which cart comes next guards nothing
	}
	start := time.Now()
	token, err := w.checkout(ctx, id, b.goods[sku].sku)
	took := time.Since(start)
	refusal, refused := errors.AsType[*refusalError](err)
	switch {
	case err == nil:
		recordLatency(w.load.latency, took)
		w.load.sold[sku].placed++
		w.probes.offer(ackedOrder{buyer: id.buyer, seller: b.goods[sku].seller, token: token, at: start.Add(took)})
	case refused:
		recordLatency(w.load.latency, took)
		w.refused(refusal, &w.load.sold[sku])
	default: // nothing came back
		w.load.errors["no_answer"]++
		w.load.sold[sku].unknown++
		rest(ctx, 10*time.Millisecond)
	}
	return nil
}

func (w *benchWorker) refused(e *refusalError, t *tally) {
	slug := e.slug
	if slug == "" {
		slug = strconv.Itoa(e.status)
	}
	w.load.errors[slug]++
	switch {
	case e.status >= http.StatusInternalServerError:
		t.unknown++
	case slug == "out_of_stock":
		t.short++
	}
}

// checkout sends one cart once, and gives the token of its answer. It is the
// hot loop: the answer is read to its end and not looked at.
func (w *benchWorker) checkout(ctx context.Context, id drawnID, sku string) (string, error) {
	c := w.bench.api
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
