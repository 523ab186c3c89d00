package readapi_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"cartwright/commands"
	"cartwright/domain/account"
	"cartwright/domain/catalog"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/personal"
	"cartwright/infra/httpedge"
	"cartwright/infra/keyring"
	"cartwright/infra/memstore"
	"cartwright/infra/problem"
	"cartwright/infra/token"
	"cartwright/projections"
	"cartwright/readapi"
)

// memView is a view in memory.
type memView[V any] struct {
	mu     sync.Mutex
	docs   map[string]projections.Doc[V]
	parked map[string]projections.Parked
	asked  int // how often somebody wanted something of it
	broken error
}

func (v *memView[V]) Get(_ context.Context, streams []string) (map[string]projections.Doc[V], error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked++
	found := map[string]projections.Doc[V]{}
	for _, stream := range streams {
		if doc, ok := v.docs[stream]; ok {
			found[stream] = doc
		}
	}
	return found, v.broken
}

func (v *memView[V]) Revisions(ctx context.Context, streams []string) (map[string]event.Revision, error) {
	docs, err := v.Get(ctx, streams)
	at := map[string]event.Revision{}
	for stream, doc := range docs {
		at[stream] = doc.Revision
	}
	return at, err
}

func (v *memView[V]) Parked(_ context.Context, streams []string) (map[string]projections.Parked, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	found := map[string]projections.Parked{}
	for _, stream := range streams {
		if record, ok := v.parked[stream]; ok {
			found[stream] = record
		}
	}
	return found, v.broken
}

// project brings the view to where the store is, of the streams whose name
// begins like one of these.
func project[V any](tb testing.TB, w *world, to *memView[V], view projections.View[V], prefixes ...string) {
	tb.Helper()
	streams := map[string]bool{}
	for r, err := range w.store.All(tb.Context(), 0, prefixes...) {
		if err != nil {
			tb.Fatal(err)
		}
		streams[r.Stream] = view.Wants(event.Category(r.Stream))
	}
	to.mu.Lock()
	defer to.mu.Unlock()
	for stream, wanted := range streams {
		if !wanted {
			continue
		}
		doc, err := projections.Fold(tb.Context(), w.store, w.events, view, stream)
		if corrupt, ok := errors.AsType[*projections.CorruptError](err); ok {
			to.parked[stream] = projections.Parked{View: view.Name, Stream: stream, Revision: corrupt.Revision, Reason: corrupt.Error()}
		} else if err != nil {
			tb.Fatal(err)
		}
		to.docs[stream] = doc
	}
}

// orders is the view of orders, with its lists.
type orders struct {
	memView[projections.Order]
	boundary time.Time // what was closed before is in the archive
}

func (o *orders) Newest(ctx context.Context, buyer string, limit int, after *projections.Cursor) (projections.OrderPage, error) {
	return o.Orders(ctx, projections.OrderQuery{Buyer: buyer, Limit: limit, After: after})
}

func (o *orders) Orders(_ context.Context, q projections.OrderQuery) (projections.OrderPage, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	var all []projections.Doc[projections.Order]
	for _, doc := range o.docs {
		_, archived := doc.Body.Archived(o.boundary)
		if f, placed := doc.Body.Facts(); placed && inScope(q.Scope, archived) && lists(q, f, doc.Body.Texts()) {
			all = append(all, doc)
		}
	}
	direction := -1
	if q.ToShip {
		direction = 1
	}
	slices.SortFunc(all, func(a, b projections.Doc[projections.Order]) int {
		return direction * cmp.Or(a.Body.PlacedAt.Compare(b.Body.PlacedAt), cmp.Compare(a.Body.State.ID, b.Body.State.ID))
	})
	if q.After != nil {
		i := slices.IndexFunc(all, func(doc projections.Doc[projections.Order]) bool {
			return direction*cmp.Or(doc.Body.PlacedAt.Compare(q.After.At), cmp.Compare(doc.Body.State.ID, q.After.ID)) > 0
		})
		all = all[max(i, 0):]
		if i < 0 {
			all = nil
		}
	}
	page := projections.OrderPage{Items: all}
	if len(all) > q.Limit {
		page.Items = all[:q.Limit]
		last := page.Items[q.Limit-1].Body
		page.Next = &projections.Cursor{At: last.PlacedAt, ID: last.State.ID}
	}
	return page, o.broken
}

func inScope(s projections.Scope, archived bool) bool {
	switch s {
	case projections.Recent:
		return !archived
	case projections.Archive:
		return archived
	default:
		return true
	}
}

func lists(q projections.OrderQuery, f projections.Facts, texts []string) bool {
	switch {
	case q.Buyer != "" && f.Buyer != q.Buyer, q.Seller != "" && f.Seller != q.Seller,
		q.Status != "" && f.Status != q.Status, q.ToShip && !f.ToShip,
		!q.From.IsZero() && f.PlacedAt.Before(q.From), !q.To.IsZero() && !f.PlacedAt.Before(q.To):
		return false
	}
	return strings.Contains(strings.Join(texts, " "), q.Text)
}

func (o *orders) Summary(_ context.Context, q projections.SummaryQuery) (projections.Summary, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := projections.Summary{Seller: q.Seller, ByCurrency: map[string]projections.Sums{}, Buckets: map[string][]projections.Bucket{}}
	for _, doc := range o.docs {
		f, placed := doc.Body.Facts()
		if !placed || !lists(projections.OrderQuery{Seller: q.Seller, From: q.From, To: q.To}, f, nil) {
			continue
		}
		sums := s.ByCurrency[f.Currency]
		if sums.ByStatus == nil {
			sums.ByStatus = map[string]int64{}
		}
		sums.Orders++
		sums.Units += f.Units
		sums.Gross += f.Gross
		sums.Refunded += f.Refunded
		sums.ByStatus[f.Status]++
		s.ByCurrency[f.Currency] = sums
		start := f.PlacedAt.Truncate(24 * time.Hour)
		switch q.Interval {
		case "":
			continue
		case "month":
			start = start.AddDate(0, 0, 1-start.Day())
		}
		s.Buckets[f.Currency] = append(s.Buckets[f.Currency], projections.Bucket{Start: start, Sums: projections.Sums{
			Orders: 1, Units: f.Units, Gross: f.Gross, Refunded: f.Refunded, ByStatus: map[string]int64{f.Status: 1},
		}})
	}
	return s, o.broken
}

// accounts is the view of accounts. Their entries are read off the streams.
type accounts struct {
	memView[projections.Account]
	w *world
}

func (a *accounts) Entries(ctx context.Context, id string, before int64, limit int) (page projections.EntryPage, err error) {
	docs, err := a.Get(ctx, []string{"account-" + id})
	if err != nil {
		return page, err
	}
	known := docs["account-"+id].Body.Entries
	var balance int64
	for r, err := range a.w.store.Load(ctx, "account-"+id, 0) {
		if err != nil {
			return page, err
		}
		e, err := event.Decode[account.Event](a.w.events, r)
		if err != nil {
			return page, err
		}
		if entry, ok := account.EntryOf(e); ok && entry.Number <= known && (before == 0 || entry.Number < before) {
			balance += entry.Amount
			page.Items = append(page.Items, projections.Entry{Account: id, Entry: entry, Balance: balance, At: r.At})
		}
	}
	slices.Reverse(page.Items)
	if len(page.Items) > limit {
		page.Items = page.Items[:limit]
		page.Next = page.Items[limit-1].Number
	}
	return page, nil
}

// world is a shop, the views of it, and the API over them.
type world struct {
	t      testing.TB
	store  *memstore.Store
	events *event.Registry
	ring   *keyring.Ring
	shop   *commands.Shop
	clock  atomic.Int64 // in seconds, since anybody may look at it
	causes int

	buyers   orders
	index    orders
	stock    memView[projections.Stock]
	offers   memView[projections.Offer]
	accounts accounts
	payments memView[projections.Payment]
	till     till

	cfg readapi.Config
	log bytes.Buffer
	api http.Handler
}

var today = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func must[T any](tb testing.TB, v T, err error) T {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	gin.SetMode(gin.TestMode)
	w := &world{t: tb, store: new(memstore.Store)}
	w.clock.Store(today.Unix())
	w.events = must2(commands.Events())(tb)
	w.ring = must2(keyring.New(w.store, make([]byte, personal.KeySize)))(tb)
	w.shop = must2(commands.Open(commands.Setup{
		Store: w.store, Sealer: w.ring, Now: func() time.Time { return time.Unix(w.clock.Load(), 0) },
		Channels: map[string]commands.Channel{"till": &w.till}, Commission: 1000,
	}))(tb)
	tb.Cleanup(w.shop.Close)
	w.forget()
	w.accounts.w = w
	w.cfg = readapi.Config{
		Log: slog.New(slog.NewTextHandler(&w.log, nil)), CursorSecret: []byte("0123456789abcdef"),
		Buyers: &w.buyers, Index: &w.index, Stock: &w.stock, Offers: &w.offers, Accounts: &w.accounts, Payments: &w.payments,
		Store: w.store, Events: w.events, Keys: w.ring, Erased: keyring.ErrErased, Wait: 20 * time.Millisecond,
	}
	w.mount()
	return w
}

func empty[V any](v *memView[V]) {
	v.docs, v.parked = map[string]projections.Doc[V]{}, map[string]projections.Parked{}
}

// must2 takes a value with its error, as a call gives them.
func must2[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		return must(tb, v, err)
	}
}

// mount serves the API anew, after a change of cfg.
func (w *world) mount() {
	w.t.Helper()
	r := must2(httpedge.New(httpedge.Config{Log: slog.New(slog.DiscardHandler)}))(w.t)
	if err := readapi.Routes(r, w.cfg); err != nil {
		w.t.Fatal(err)
	}
	w.api = r
}

// project brings all views to where the store is.
func (w *world) project() {
	w.t.Helper()
	project(w.t, w, &w.buyers.memView, projections.BuyersView())
	project(w.t, w, &w.index.memView, projections.OrdersView())
	project(w.t, w, &w.stock, projections.StockView())
	project(w.t, w, &w.offers, projections.OffersView())
	project(w.t, w, &w.accounts.memView, projections.AccountsView())
	project(w.t, w, &w.payments, projections.PaymentsView())
}

// forget empties all views.
func (w *world) forget() {
	empty(&w.buyers.memView)
	empty(&w.index.memView)
	empty(&w.stock)
	empty(&w.offers)
	empty(&w.accounts.memView)
	empty(&w.payments)
}

// request names a command of its own.
func (w *world) request() commands.Request {
	w.causes++
	w.clock.Add(1)
	return commands.Request{Cause: fmt.Sprintf("cause-%d", w.causes), Actor: "test"}
}

func (w *world) sells(seller, sku, title string, price int64, currency string) {
	w.t.Helper()
	must2(w.shop.PublishOffer(w.t.Context(), w.request(), sku, catalog.Publish{OnSale: true, Snapshot: catalog.Snapshot{
		Seller: seller, Title: title, Currency: currency, UnitPrice: price, Freight: 5,
	}}))(w.t)
	must2(w.shop.Inventory(w.t.Context(), w.request(), sku, inventory.Receive{Quantity: 1000}))(w.t)
}

// funds gives buyer 123456 an account with money in it.
func (w *world) funds(amount int64) {
	w.t.Helper()
	const buyer = "123456"
	must2(w.shop.Account(w.t.Context(), w.request(), buyer, account.Open{Account: buyer, Currency: "CNY"}))(w.t)
	must2(w.shop.Account(w.t.Context(), w.request(), buyer,
		account.Deposit{Amount: amount, Currency: "CNY", Journal: uuid.NewString(), Reference: "bank"}))(w.t)
}

var liLei = personal.Address{Name: "李雷", Line1: "1 Road", City: "Beijing", Country: "CN"}

// buys places an order of one SKU and gives its id.
func (w *world) buys(buyer, sku string, quantity int64) orderid.ID {
	w.t.Helper()
	id, _, err := w.shop.DrawOrderID(w.t.Context(), w.request(), buyer)
	must(w.t, id, err)
	must2(w.shop.Checkout(w.t.Context(), w.request(), commands.Checkout{
		Order: id, Buyer: buyer, Items: []commands.Item{{SKU: sku, Quantity: quantity}}, Address: liLei,
	}))(w.t)
	return id
}

func (w *world) pays(id orderid.ID) {
	w.t.Helper()
	must2(w.shop.Pay(w.t.Context(), w.request(), id, (*money.Money)(nil)))(w.t)
	if err := w.shop.Settle(w.t.Context(), string(id)); err != nil {
		w.t.Fatal(err)
	}
}

// A till is a payment channel that gives money back at once, unless it refuses to.
type till struct{ refuses string }

func (*till) Ask(_ context.Context, p commands.Asking) (commands.Instruction, error) {
	return commands.Instruction{Reference: "ref-" + p.Payment, Data: json.RawMessage(`{"link":"https://till.example/` + p.Payment + `"}`)}, nil
}

func (*till) Find(_ context.Context, id string) (commands.Notice, error) {
	return commands.Notice{Kind: commands.NoticePending, Payment: id}, nil
}

func (t *till) Close(ctx context.Context, id string) (commands.Notice, error) { return t.Find(ctx, id) }

func (t *till) Refund(_ context.Context, r commands.Returning) (commands.Notice, error) {
	if t.refuses != "" {
		return commands.Notice{Kind: commands.NoticeRefundFailed, Payment: r.Payment, Refund: r.Key, Money: r.Amount, Note: t.refuses}, nil
	}
	return commands.Notice{Kind: commands.NoticeRefunded, Payment: r.Payment, Refund: r.Key, Money: r.Amount}, nil
}

// asks begins a payment of a checkout by the till, and gives its id.
func (w *world) asks(checkout orderid.ID) string {
	w.t.Helper()
	return must2(w.shop.StartPayment(w.t.Context(), w.request(), commands.PaymentRequest{Checkout: checkout, Channel: "till"}))(w.t).Payment.ID
}

// receives has the till say that money came, and does what the process does then.
func (w *world) receives(payment, trade string, m money.Money) {
	w.t.Helper()
	at := time.Unix(w.clock.Load(), 0)
	if err := w.shop.Notify(w.t.Context(), "till", commands.Notice{Kind: commands.NoticePaid, Payment: payment, Trade: trade, Money: m, At: at}); err != nil {
		w.t.Fatal(err)
	}
	w.settles("payment-" + payment)
}

// settles brings about what streams call for, as the process does.
func (w *world) settles(streams ...string) {
	w.t.Helper()
	for _, stream := range streams {
		settle := w.shop.Settle
		if event.Category(stream) == "payment" {
			settle = w.shop.SettlePayment
		}
		if err := settle(w.t.Context(), event.SubjectID(stream)); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) does(id orderid.ID, c order.Command) event.Revision {
	w.t.Helper()
	return must2(w.shop.Order(w.t.Context(), w.request(), id, c))(w.t).Revision
}

// spoil writes an event that cannot have happened straight to the store.
func (w *world) spoil(id orderid.ID, at event.Revision) {
	w.t.Helper()
	rec := must2(w.events.Encode(order.Completed{By: "nobody"}))(w.t)
	rec.ID = uuid.NewString()
	if err := w.store.Append(w.t.Context(), "order-"+string(id), at, []event.Recorded{rec}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) get(path string, header ...string) *httptest.ResponseRecorder {
	w.t.Helper()
	req := httptest.NewRequestWithContext(w.t.Context(), http.MethodGet, path, http.NoBody)
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.api.ServeHTTP(rec, req)
	return rec
}

// seen is the header of a reader who has seen a stream at a revision.
func seen(stream string, at event.Revision) []string {
	return []string{token.Header, token.Encode(map[string]event.Revision{stream: at})}
}

// object is an answer that is no failure.
func (w *world) object(path string, header ...string) map[string]any {
	w.t.Helper()
	rec := w.get(path, header...)
	var told map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &told); err != nil || rec.Code != http.StatusOK {
		w.t.Fatalf("%s: got %d %s (%v)\n%s", path, rec.Code, rec.Body, err, &w.log)
	}
	return told
}

// list gives the values of one field of a list's items, and its next cursor.
func (w *world) list(path, field string, header ...string) (values []string, next string) {
	w.t.Helper()
	told := w.object(path, header...)
	items, ok := told["items"].([]any)
	if !ok {
		w.t.Fatalf("%s: no items in %v", path, told)
	}
	for _, item := range items {
		fields, _ := item.(map[string]any)
		values = append(values, fmt.Sprint(fields[field]))
	}
	next, _ = told["next_cursor"].(string)
	return values, next
}

// refused checks that an answer is a problem of this status and slug.
func (w *world) refused(rec *httptest.ResponseRecorder, status int, slug string) problem.Document {
	w.t.Helper()
	var doc problem.Document
	if err := json.Unmarshal(rec.Body.Bytes(), &doc); err != nil || rec.Header().Get("Content-Type") != problem.ContentType {
		w.t.Fatalf("got %d %s, which is no problem: %v", rec.Code, rec.Body, err)
	}
	if rec.Code != status || doc.Type != "/problems/"+slug {
		w.t.Errorf("got %d %s, want %d %s", rec.Code, rec.Body, status, slug)
	}
	return doc
}

func parse(id string) (orderid.ID, error) { return orderid.Parse(id) }

func newRecorder() *httptest.ResponseRecorder { return httptest.NewRecorder() }

func newEngine(t *testing.T) *gin.Engine {
	t.Helper()
	return must2(httpedge.New(httpedge.Config{Log: slog.New(slog.DiscardHandler)}))(t)
}

// newest is the revision a stream is at.
func (w *world) newest(stream string) (at event.Revision) {
	w.t.Helper()
	for r, err := range w.store.Load(w.t.Context(), stream, 0) {
		if err != nil {
			w.t.Fatal(err)
		}
		at = r.Revision
	}
	return at
}
