package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/personal"
)

// An importer brings a plan about through the public API. Each step has a name
// of its own, made of the source's order id, so that what was done before is
// answered and not done again: a second run changes nothing, and a run after a
// kill takes up where the first one ended.
type importer struct {
	api         *client
	currency    string
	concurrency int    // orders at once
	done        func() // told of every order that is through
}

// An importReport says what an import led to. Orders are those of the shop: a
// source's order with lines of several sellers became several.
type importReport struct {
	SourceOrders int                  `json:"source_orders"`
	Orders       int                  `json:"orders"`
	ByStatus     map[order.Status]int `json:"by_status"`
	Gross        money.Money          `json:"gross"`     // of all orders, ended ones too
	Created      int                  `json:"created"`   // orders that this run was told it has placed
	Unchanged    int                  `json:"unchanged"` // orders for which this run found nothing left to do
	Oddities     []oddity             `json:"oddities"`
}

// importAddress is where imported parcels go: the source has none, and the API wants one.
var importAddress = personal.Address{Name: "Imported", Line1: "No address in the source", City: "-", Country: "-"}

// importCarrier is the name on imported waybills.
const importCarrier = "Imported"

// errNoBackdating is the end of an import before it wrote anything.
var errNoBackdating = errors.New("the server lets nobody say when something happened; start it with --allow-backdating")

// probe finds out whether the server takes dated commands, by one that it
// refuses either way: nobody can be given an order id. It refuses the date first.
func (im *importer) probe(ctx context.Context) error {
	_, err := im.api.with(firstContact).do(ctx, request{
		method: http.MethodPost, path: "/v1/order-ids", at: time.Unix(0, 0), body: map[string]string{"buyer_id": ""},
	}, nil)
	switch slug := slugOf(err); {
	case slug == "backdating_off":
		return fmt.Errorf("%w (%w)", errNoBackdating, err)
	case slug == "invalid_id":
		return nil
	case err == nil:
		return fmt.Errorf("%s is not what this tool knows: it has given an order id to nobody", im.api.base)
	}
	return fmt.Errorf("ask %s whether it allows backdating: %w", im.api.base, err)
}

// firstContact is how long a server may take to answer at all.
const firstContact = 10 * time.Second

// run imports all orders, some at a time, and ends with the first error.
func (im *importer) run(ctx context.Context, p importPlan) (importReport, error) {
	report := importReport{
		SourceOrders: len(p.orders), ByStatus: map[order.Status]int{},
		Gross: money.Money{Currency: im.currency}, Oddities: slices.Clone(p.oddities),
	}
	if err := im.probe(ctx); err != nil {
		return report, err
	}
	var mu sync.Mutex // guards report
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(im.concurrency)
	for _, o := range p.orders {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			one := &orderImport{importer: im, plan: o}
			if err := one.run(gctx); err != nil {
				return fmt.Errorf("order %s: %w", o.ID, err)
			}
			im.done()
			mu.Lock()
			defer mu.Unlock()
			return report.add(one)
		})
	}
	if err := g.Wait(); err != nil {
		return report, err
	}
	if err := ctx.Err(); err != nil {
		return report, err
	}
	report.sortOddities(p)
	return report, nil
}

func (r *importReport) add(o *orderImport) error {
	for _, placed := range o.orders {
		r.Orders++
		r.ByStatus[placed.Status]++
		var err error
		if r.Gross, err = r.Gross.Add(placed.Total); err != nil {
			return fmt.Errorf("sum of all orders: %w", err)
		}
	}
	switch {
	case o.created:
		r.Created += len(o.orders)
	case !o.changed:
		r.Unchanged += len(o.orders)
	}
	r.Oddities = append(r.Oddities, o.oddities...)
	return nil
}

// sortOddities brings them into the order of the file: two runs tell the same.
func (r *importReport) sortOddities(p importPlan) {
	at := make(map[string]int, len(p.orders))
	for i, o := range p.orders {
		at[o.ID] = i
	}
	slices.SortStableFunc(r.Oddities, func(a, b oddity) int { return at[a.OrderID] - at[b.OrderID] })
}

// An orderImport is the import of one order of the source.
type orderImport struct {
	*importer
	plan plannedOrder

	orders   []*placedImport
	created  bool // this run has placed the order
	changed  bool // this run has changed something
	oddities []oddity
}

// A placedImport is an order of the shop, as the API tells of it.
type placedImport struct {
	OrderID string       `json:"order_id"`
	Status  order.Status `json:"status"`
	Total   money.Money  `json:"total"`
	Lines   []struct {
		Line     int   `json:"line"`
		Quantity int64 `json:"quantity"`
	} `json:"lines"`
	token  string // of the newest command on it
	parcel int
}

func (o *orderImport) run(ctx context.Context) error {
	steps := []struct {
		taken bool
		step  func(context.Context) error
	}{
		{true, o.offer},
		{true, o.receive},
		{o.plan.pays, o.fund},
		{true, o.place},
		{o.plan.pays, o.pay},
		{o.plan.ships, o.each(o.ship)},
		{o.plan.delivers, o.each(o.deliver)},
		{o.plan.delivers, o.each(o.complete)},
		{o.plan.cancels != "", o.each(o.cancel)},
		{true, o.each(o.read)},
	}
	for _, s := range steps {
		if !s.taken {
			continue
		}
		if err := s.step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// each is a step that is taken for every seller's order.
func (o *orderImport) each(step func(context.Context, *placedImport) error) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, p := range o.orders {
			if err := step(ctx, p); err != nil {
				return err
			}
		}
		return nil
	}
}

// send carries out one command under the name of its step.
func (o *orderImport) send(ctx context.Context, step string, r request, into any) (reply, error) {
	if r.method == http.MethodPost {
		r.key = o.plan.ID + "/" + step
	}
	out, err := o.api.do(ctx, r, into)
	if err != nil {
		return out, fmt.Errorf("step %s: %w", step, err)
	}
	return out, nil
}

// post is send for a command that changes something whenever it is no repeat.
func (o *orderImport) post(ctx context.Context, step, path string, at time.Time, body, into any) (reply, error) {
	out, err := o.send(ctx, step, request{method: http.MethodPost, path: path, at: at, body: body}, into)
	o.changed = o.changed || (err == nil && !out.repeated)
	return out, err
}

// An offerRequest is the body of PUT /v1/skus/{sku}.
type offerRequest struct {
	Seller  string      `json:"seller_id"`
	Title   string      `json:"title"`
	Price   money.Money `json:"unit_price"`
	Freight money.Money `json:"freight"`
}

// offer puts the order's SKUs on offer. One that is there already in other words
// is left alone: the checkout says what it expects to pay.
func (o *orderImport) offer(ctx context.Context) error {
	for _, offer := range o.plan.offers {
		var told struct{ Changed bool }
		_, err := o.send(ctx, "offer "+offer.sku, request{
			method: http.MethodPut, path: "/v1/skus/" + url.PathEscape(offer.sku), at: o.plan.at.placed,
			body: offerRequest{offer.item.Seller, offer.title, o.money(offer.item.Price), o.money(offer.item.Freight)},
		}, &told)
		if slugOf(err) == "if_match_required" {
			o.oddities = append(o.oddities, o.plan.oddity(oddOffer, "SKU %s was on offer already, and not as %q: it stays as it is", offer.sku, offer.title))
			continue
		}
		if err != nil {
			return err
		}
		o.changed = o.changed || told.Changed
	}
	return nil
}

func (o *orderImport) money(amount int64) money.Money {
	return money.Money{Amount: amount, Currency: o.currency}
}

// receive brings one unit in for each line, under the line's own name: another
// file that sells the same SKU brings its own.
func (o *orderImport) receive(ctx context.Context) error {
	for i, item := range o.plan.Items {
		body := struct {
			Quantity  int64  `json:"quantity"`
			Reference string `json:"reference"`
		}{1, "import of " + o.plan.ID}
		path := "/v1/inventory/" + url.PathEscape(o.plan.skus[i]) + "/receipts"
		if _, err := o.post(ctx, "stock/"+strconv.Itoa(item.Line), path, o.plan.at.placed, body, nil); err != nil {
			return err
		}
	}
	return nil
}

// fund gives the buyer what the order costs, and no more.
func (o *orderImport) fund(ctx context.Context) error {
	open := struct {
		Account  string `json:"account_id"`
		Currency string `json:"currency"`
	}{o.plan.Buyer, o.currency}
	out, err := o.send(ctx, "account", request{method: http.MethodPost, path: "/v1/accounts", at: o.plan.at.placed, body: open}, nil)
	if err != nil {
		return err
	}
	o.changed = o.changed || (out.created && !out.repeated) // an account that is open stays so
	if o.plan.total == 0 {
		return nil
	}
	body := struct {
		Amount    money.Money `json:"amount"`
		Reference string      `json:"reference"`
	}{o.money(o.plan.total), "import of " + o.plan.ID}
	path := "/v1/accounts/" + url.PathEscape(o.plan.Buyer) + "/deposits"
	_, err = o.post(ctx, "deposit", path, o.plan.at.paid, body, nil)
	return err
}

// A checkoutRequest is the body of POST /v1/checkouts.
type checkoutRequest struct {
	OrderID  string           `json:"order_id"`
	Buyer    string           `json:"buyer_id"`
	Items    []checkoutItem   `json:"items"`
	Address  personal.Address `json:"address"`
	Expected money.Money      `json:"expected_amount"`
}

type checkoutItem struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

// maxDraws is how many order ids are asked for: each lives a day, and one more
// is needed only where an import was left unfinished for longer.
const maxDraws = 100

// place checks the order out, under the id that the source's own id was
// answered with. An id that is older than a day and has no order can't be used
// any more; then the next one is asked for. Every run goes the same way, so it
// comes to the id that the order has.
func (o *orderImport) place(ctx context.Context) error {
	for draw := 1; ; draw++ {
		id, err := o.drawID(ctx, draw)
		if err != nil {
			return err
		}
		err = o.checkout(ctx, id, draw)
		if slugOf(err) != "order_id_expired" || draw == maxDraws {
			return err
		}
	}
}

// drawID asks for the order's id, which is no change: it moves nothing.
func (o *orderImport) drawID(ctx context.Context, draw int) (string, error) {
	key := o.plan.ID
	if draw > 1 {
		key += "/" + strconv.Itoa(draw)
	}
	var told struct {
		OrderID string `json:"order_id"`
	}
	body := map[string]string{"buyer_id": o.plan.Buyer}
	if _, err := o.api.do(ctx, request{method: http.MethodPost, path: "/v1/order-ids", key: key, body: body}, &told); err != nil {
		return "", fmt.Errorf("step order id: %w", err)
	}
	return told.OrderID, nil
}

func (o *orderImport) checkout(ctx context.Context, id string, draw int) error {
	body := checkoutRequest{OrderID: id, Buyer: o.plan.Buyer, Address: importAddress, Expected: o.money(o.plan.total)}
	for _, sku := range o.plan.skus {
		body.Items = append(body.Items, checkoutItem{sku, 1})
	}
	var told struct{ Orders []*placedImport }
	out, err := o.post(ctx, "checkout/"+strconv.Itoa(draw), "/v1/checkouts", o.plan.at.placed, body, &told)
	if err != nil {
		return err
	}
	if want := o.plan.sellers(); len(told.Orders) != want {
		return fmt.Errorf("step checkout: it became %d orders, not %d", len(told.Orders), want)
	}
	o.orders, o.created = told.Orders, !out.repeated
	o.seen(out)
	return nil
}

// seen notes the token of a command on all orders of the checkout.
func (o *orderImport) seen(out reply) {
	for _, p := range o.orders {
		p.token = out.token
	}
}

func (o *orderImport) pay(ctx context.Context) error {
	body := struct {
		Expected money.Money `json:"expected_amount"`
	}{o.money(o.plan.total)}
	out, err := o.post(ctx, "pay", "/v1/checkouts/"+o.orders[0].OrderID+"/pay", o.plan.at.paid, body, nil)
	if err == nil {
		o.seen(out)
	}
	return err
}

// on posts a command on one of the orders.
func (o *orderImport) on(ctx context.Context, p *placedImport, step, rest string, at time.Time, body, into any) error {
	out, err := o.post(ctx, step, "/v1/orders/"+p.OrderID+rest, at, body, into)
	if err == nil {
		p.token = out.token
	}
	return err
}

// A parcelRequest is the body of POST /v1/orders/{id}/parcels.
type parcelRequest struct {
	Lines   any `json:"lines"`
	Waybill struct {
		Carrier string `json:"carrier"`
		Number  string `json:"number"`
	} `json:"waybill"`
}

func (o *orderImport) ship(ctx context.Context, p *placedImport) error {
	body := parcelRequest{Lines: p.Lines}
	body.Waybill.Carrier, body.Waybill.Number = importCarrier, p.OrderID
	var told struct{ Parcel int }
	err := o.on(ctx, p, "ship", "/parcels", o.plan.at.shipped, body, &told)
	p.parcel = told.Parcel
	return err
}

func (o *orderImport) deliver(ctx context.Context, p *placedImport) error {
	return o.on(ctx, p, "deliver", "/parcels/"+strconv.Itoa(p.parcel)+"/delivered", o.plan.at.delivered, nil, nil)
}

func (o *orderImport) complete(ctx context.Context, p *placedImport) error {
	return o.on(ctx, p, "complete", "/complete", o.plan.at.delivered, map[string]string{"by": "import"}, nil)
}

// cancel has no time of its own in the source; it comes right after the payment.
func (o *orderImport) cancel(ctx context.Context, p *placedImport) error {
	return o.on(ctx, p, "cancel", "/cancel", o.plan.at.paid, map[string]string{
		"reason": string(o.plan.cancels), "by": "import", "note": "The source says " + o.plan.Status + ".",
	}, nil)
}

// read takes the order's status and total from what readers are shown.
func (o *orderImport) read(ctx context.Context, p *placedImport) error {
	var now struct {
		Status order.Status `json:"status"`
		Total  money.Money  `json:"total"`
	}
	path := "/v1/orders/" + p.OrderID
	if _, err := o.api.do(ctx, request{method: http.MethodGet, path: path, token: p.token}, &now); err != nil {
		return fmt.Errorf("step read: %w", err)
	}
	p.Status, p.Total = now.Status, now.Total
	if p.Status != o.plan.ends {
		o.oddities = append(o.oddities, o.plan.oddity(oddEnd, "order %s is %s, where the import left it %s", p.OrderID, p.Status, o.plan.ends))
	}
	return nil
}
