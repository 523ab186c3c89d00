package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// readOptions are what the command line says of queries.
type readOptions struct {
	benchOptions
	orders int
	kinds  []string
}

// readKinds are the queries there are, by scenario.
var readKinds = map[string][]string{
	"history": {"order", "page", "next"},
	"seller":  {"list", "summary"},
	"mixed":   {"order", "page", "list"},
}

func newBenchHistoryCommand(cfg config) *cobra.Command {
	return newBenchQueryCommand(cfg, &cobra.Command{
		Use:   "history",
		Short: "Read buyers' orders",
		Long: `History reads what buyers read: one order by its id, the first page of the buyer's
orders (20), and the pages behind it; in turn, or only those that --kind names.
Each kind has latencies of its own. The orders are placed before.

Every answer has to have the order that was asked for, or as many as there have to
be; and in the end, page by page, every buyer's list has to have that buyer's
orders, all of them and each once.

Exit codes: 0 done, 1 failed, 2 usage, 3 an answer was wrong.`,
		Example: `  cartwright bench history --duration 30s --json
  cartwright bench history --kind order --concurrency 64`,
	})
}

func newBenchSellerCommand(cfg config) *cobra.Command {
	return newBenchQueryCommand(cfg, &cobra.Command{
		Use:   "seller",
		Short: "Read sellers' orders and sums",
		Long: `Seller reads what sellers read: the newest orders (20) and the sums of all of
them; in turn, or only those that --kind names. Each kind has latencies of its own.
The orders are placed before.

Every answer has to have as many orders as there have to be.

Exit codes: 0 done, 1 failed, 2 usage, 3 an answer was wrong.`,
		Example: `  cartwright bench seller --orders 100000 --skus 1 --kind summary`,
	})
}

func newBenchMixedCommand(cfg config) *cobra.Command {
	return newBenchQueryCommand(cfg, &cobra.Command{
		Use:   "mixed",
		Short: "Read ten times for each checkout",
		Long: `Mixed reads ten times and then checks a cart out: orders by id, the first page of
a buyer's orders, a seller's newest, in turn. Each kind of operation has latencies
of its own. The orders that are read first are placed before.

It is checked as in history and in checkout: what the answers have, the buyers'
lists and the stock.

Exit codes: 0 done, 1 failed, 2 usage, 3 an answer or the stock was wrong.`,
		Example: `  cartwright bench mixed --rate 3000 --duration 1m`,
	})
}

// newBenchQueryCommand makes the command of a scenario that reads.
func newBenchQueryCommand(cfg config, cmd *cobra.Command) *cobra.Command {
	var opt readOptions
	scenario := cmd.Use
	cmd.Args = usageArgs(cobra.NoArgs)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := opt.settle(cmd.Flags().Changed); err != nil {
			return err
		}
		if err := opt.checkReads(scenario); err != nil {
			return usage(err)
		}
		return opt.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), func(b *checkoutBench) workload {
			return newQueryBench(b, opt).workload(scenario)
		})
	}
	f := cmd.Flags()
	opt.flags(f, cfg)
	opt.goodsFlags(f, 100)
	f.Lookup("buyers").DefValue, opt.buyers = "100", 100
	f.IntVar(&opt.orders, "orders", 5000, "orders that are placed before")
	opt.kinds = readKinds[scenario]
	if scenario != "mixed" {
		f.StringSliceVar(&opt.kinds, "kind", opt.kinds, "what is read, in turn")
	}
	return cmd
}

func (opt *readOptions) checkReads(scenario string) error {
	if opt.orders < opt.buyers || opt.orders < opt.skus || opt.orders > maxBenchCount {
		return fmt.Errorf("orders are %d at most, and one for each buyer and SKU at least", maxBenchCount)
	}
	if len(opt.kinds) == 0 {
		return errors.New("which kind of query? --kind " + strings.Join(readKinds[scenario], ","))
	}
	for _, kind := range opt.kinds {
		if !slices.Contains(readKinds[scenario], kind) {
			return fmt.Errorf("the kind %q is none of %s", kind, strings.Join(readKinds[scenario], ", "))
		}
	}
	return nil
}

// pageSize is how many orders a query asks for.
const pageSize = 20

// A queryBench reads orders that it has placed.
type queryBench struct {
	*checkoutBench
	orders int
	kinds  []string

	shelves []shelf // by buyer
	sales   []int64 // orders by seller, as they were before it is measured
	wrong   differences
}

// A shelf is what a buyer has bought.
type shelf struct {
	mu     sync.Mutex // guards all of it
	orders []string
	token  string // of the last order
	next   string // where the second page begins; "" if there is none
}

func (s *shelf) put(id, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.orders, s.token = append(s.orders, id), token
}

func (s *shelf) at(i int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.orders[i]
}

func newQueryBench(b *checkoutBench, opt readOptions) *queryBench {
	return &queryBench{checkoutBench: b, orders: opt.orders, kinds: opt.kinds, shelves: make([]shelf, len(b.buyers)), sales: make([]int64, len(b.sellers()))}
}

func (q *queryBench) workload(scenario string) workload {
	w := workload{scenario: scenario, setUp: q.setUp, one: q.read, verify: q.verify}
	if scenario == "mixed" {
		w.one, w.ahead, w.during, w.tell = q.readOrSell, q.aheadForOneIn11, q.probe, q.tellCheckouts
	}
	return w
}

// setUp places the orders, and waits until every list has them.
func (q *queryBench) setUp(ctx context.Context) error {
	if err := q.checkoutBench.setUp(ctx); err != nil {
		return err
	}
	told := newProgress(q.errs, "orders placed", q.orders)
	err := q.each(ctx, q.orders, func(ctx context.Context, i int) error {
		defer told.step()
		return q.place(ctx, i)
	})
	told.end()
	if err != nil {
		return err
	}
	for i := range q.orders {
		q.sales[i%len(q.goods)%len(q.sales)]++
	}
	if err = q.each(ctx, len(q.shelves), q.open); err != nil {
		return err
	}
	return q.each(ctx, len(q.sales), q.openSeller)
}

// place places the ith order, and is patient.
func (q *queryBench) place(ctx context.Context, i int) error {
	id, err := q.draw(ctx, q.buyers[i%len(q.buyers)])
	if err != nil {
		return err
	}
	sku := i % len(q.goods)
	body := checkoutRequest{OrderID: id.id, Buyer: id.buyer, Items: []checkoutItem{{q.goods[sku].sku, 1}}, Address: benchAddress}
	body.Expected.Amount, body.Expected.Currency = benchTotal, "BRL"
	out, err := q.api.do(ctx, request{method: http.MethodPost, path: "/v1/checkouts", key: id.id, body: body}, nil)
	if err != nil {
		return fmt.Errorf("place an order of %s: %w", id.buyer, err)
	}
	q.sold[sku].placed.Add(1)
	q.shelves[i%len(q.shelves)].put(id.id, out.token)
	return nil
}

// open waits until a buyer's list has all orders, and notes where its second page
// begins. A token speaks of one order, and the others need not be there when that is.
func (q *queryBench) open(ctx context.Context, i int) error {
	if err := q.await(ctx, func() (string, error) { return q.listDiffers(ctx, i, 0) }); err != nil {
		return err
	}
	list, err := q.page(ctx, i, "", pageSize)
	q.shelves[i].next = list.Next
	return err
}

// openSeller waits until a seller's list and sums have all orders.
func (q *queryBench) openSeller(ctx context.Context, i int) error {
	for _, kind := range []string{"list", "summary"} {
		ask := q.ofSeller(kind, i)
		err := q.await(ctx, func() (string, error) {
			text, err := q.get(ctx, ask.path)
			return ask.differs(text), err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// await looks again until nothing is wrong, for as long as what was answered may
// take to be seen. What is wrong then is a wrong answer like one in the load, and
// nothing else is waited for that long.
func (q *queryBench) await(ctx context.Context, look func() (wrong string, err error)) error {
	for until := time.Now().Add(cmp.Or(q.checkWithin, verifyWithin)); ; {
		wrong, err := look()
		switch {
		case err != nil || wrong == "":
			return err
		case time.Now().After(until) || len(q.wrong.told()) > 0:
			q.wrong.add("before it is measured: " + wrong)
			return nil
		case !rest(ctx, lagEvery):
			return ctx.Err()
		}
	}
}

// A shownPage is part of a list of orders.
type shownPage struct {
	Items []shownOrder `json:"items"`
	Next  string       `json:"next_cursor"`
}

// page reads part of a buyer's list, once that has all.
func (q *queryBench) page(ctx context.Context, buyer int, cursor string, size int) (list shownPage, err error) {
	s := &q.shelves[buyer]
	s.mu.Lock()
	token := s.token
	s.mu.Unlock()
	path := pathOf("/v1/buyers/", q.buyers[buyer], "/orders?limit="+strconv.Itoa(size))
	if cursor != "" {
		path += "&cursor=" + url.QueryEscape(cursor)
	}
	_, err = q.api.with(q.checkWithin).do(ctx, request{method: http.MethodGet, path: path, token: token}, &list)
	return list, err
}

// aheadForOneIn11 draws ids for those of n operations that are checkouts.
func (q *queryBench) aheadForOneIn11(ctx context.Context, n int) error { return q.ahead(ctx, n/11+1) }

// readOrSell reads ten times, and then checks a cart out.
func (q *queryBench) readOrSell(ctx context.Context, a *arrival) error {
	if a.n%11 != 10 {
		return q.read(ctx, a)
	}
	n := a.n / 11
	id, err := q.idOf(ctx, n)
	if err != nil {
		return err
	}
	if placed, ok := q.sell(ctx, a, id); ok {
		a.step("checkout", placed.at.Sub(a.due))
		q.shelves[n%int64(len(q.shelves))].put(id.id, placed.token)
	}
	return nil
}

// A lookup is a query, and what its answer has to have.
type lookup struct {
	path string
	text string // that is in it
	n    int    // so many times, or if several are said, more
	more bool
}

// read sends one query.
func (q *queryBench) read(ctx context.Context, a *arrival) error {
	kind := q.kinds[int(a.n)%len(q.kinds)]
	ask := q.lookup(kind)
	a.ready()
	text, err := q.get(ctx, ask.path)
	took := time.Since(a.due)
	a.ended(err)
	if err != nil {
		if _, refused := errors.AsType[*refusalError](err); !refused {
			rest(ctx, 10*time.Millisecond)
		}
		return nil
	}
	a.step(kind, took)
	q.wrong.add(ask.differs(text))
	return nil
}

// differs says what is wrong with an answer.
func (l lookup) differs(text []byte) string {
	if found := bytes.Count(text, []byte(l.text)); found < l.n || found > l.n && !l.more {
		return fmt.Sprintf("%s has %s %d times, not %d", l.path, l.text, found, l.n)
	}
	return ""
}

// lookup draws a query of a kind.
func (q *queryBench) lookup(kind string) lookup {
	buyer := rand.IntN(len(q.shelves)) //nolint:gosec // what is read next guards nothing
	seller := rand.IntN(len(q.sales))  //nolint:gosec // see above
	s := &q.shelves[buyer]
	first := q.firstOrders(buyer)
	page := pathOf("/v1/buyers/", q.buyers[buyer], "/orders?limit="+strconv.Itoa(pageSize))
	switch kind {
	case "order":
		id := s.at(rand.IntN(first)) //nolint:gosec // see above
		return lookup{path: "/v1/orders/" + id, text: `"order_id":"` + id + `"`, n: 1}
	case "next":
		if s.next != "" {
			return lookup{path: page + "&cursor=" + url.QueryEscape(s.next), text: `"order_id":`, n: min(pageSize, first-pageSize)}
		}
		fallthrough
	case "page":
		return lookup{path: page, text: `"order_id":`, n: min(pageSize, first), more: first < pageSize}
	}
	return q.ofSeller(kind, seller)
}

// ofSeller asks for the list of a seller, or for the sums.
func (q *queryBench) ofSeller(kind string, seller int) lookup {
	if sold := int(q.sales[seller]); kind == "list" {
		return lookup{path: q.listOf(seller), text: `"order_id":`, n: min(pageSize, sold), more: sold < pageSize}
	}
	return lookup{path: pathOf("/v1/sellers/", q.goods[seller].seller, "/summary"), text: `"orders":` + strconv.FormatInt(q.sales[seller], 10) + `,`, n: 1}
}

// firstOrders is how many orders a buyer had before it was measured. They are the
// first on the shelf, and stay where they are.
func (q *queryBench) firstOrders(buyer int) int {
	n := q.orders / len(q.shelves)
	if buyer < q.orders%len(q.shelves) {
		n++
	}
	return n
}

func (q *queryBench) listOf(seller int) string {
	return pathOf("/v1/sellers/", q.goods[seller].seller, "/orders?limit="+strconv.Itoa(pageSize))
}

// get reads an answer once. It is the hot loop of queries.
func (b *checkoutBench) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.api.base+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	resp, err := b.api.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", path, err)
	}
	if resp.StatusCode/100 != 2 {
		return nil, refusalOf(resp, text)
	}
	return text, nil
}

// verify reads all lists and all stock.
func (q *queryBench) verify(ctx context.Context) (benchCheck, error) {
	c, err := q.checkoutBench.verify(ctx)
	if err != nil {
		return c, err
	}
	err = q.each(ctx, len(q.shelves), func(ctx context.Context, i int) error {
		wrong, unseen := q.listDiffers(ctx, i, c.Unknown)
		q.wrong.add(wrong)
		return unseen
	})
	c.Differences = append(c.Differences, q.wrong.told()...)
	return c, err
}

// listDiffers walks a buyer's list and says what it lacks, or has too much of.
func (q *queryBench) listDiffers(ctx context.Context, buyer int, unknown int64) (string, error) {
	bought := map[string]int{}
	for _, id := range q.shelves[buyer].orders {
		bought[id] = 1
	}
	for cursor, more := "", true; more; more = cursor != "" {
		list, err := q.page(ctx, buyer, cursor, 100)
		if err != nil {
			return "", err
		}
		for _, o := range list.Items {
			bought[o.ID]--
		}
		cursor = list.Next
	}
	for id, n := range bought {
		switch {
		case n > 0:
			return fmt.Sprintf("order %s is not in the list of %s", id, q.buyers[buyer]), nil
		case n < 0 && unknown == 0:
			return fmt.Sprintf("the list of %s has order %s too often", q.buyers[buyer], id), nil
		}
	}
	return "", nil
}
