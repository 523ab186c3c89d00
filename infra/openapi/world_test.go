package openapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/domain/personal"
	"cartwright/infra/keyring"
	"cartwright/infra/memstore"
	"cartwright/infra/pebblekv"
	"cartwright/infra/sqliteviews"
	"cartwright/projections"
	"cartwright/readapi"
	"cartwright/writeapi"
)

// world is the shop on a store in memory, with its views in their real engines.
type world struct {
	t      *testing.T
	store  *memstore.Store
	events *event.Registry
	shop   *commands.Shop

	buyers *pebblekv.Buyers
	stock  *pebblekv.Views[projections.Stock]
	offers *pebblekv.Views[projections.Offer]
	paid   *pebblekv.Views[projections.Payment]
	till   till
	sql    *sqliteviews.DB

	write writeapi.Config
	read  readapi.Config
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, store: new(memstore.Store)}
	ring, err := keyring.New(w.store, make([]byte, personal.KeySize))
	w.must(err)
	w.shop, err = commands.Open(commands.Setup{
		Store: w.store, Sealer: ring, Channels: map[string]commands.Channel{"till": &w.till}, Commission: 1000, CompleteAfter: 24 * time.Hour,
	})
	w.must(err)
	t.Cleanup(w.shop.Close)
	w.events, err = commands.Events()
	w.must(err)
	kv, err := pebblekv.Open(t.TempDir(), quiet)
	w.must(err)
	t.Cleanup(func() { w.must(kv.Close()) })
	w.buyers, err = pebblekv.NewBuyers(kv)
	w.must(err)
	w.stock, err = pebblekv.NewViews[projections.Stock](kv, projections.StockView().Name)
	w.must(err)
	w.offers, err = pebblekv.NewViews[projections.Offer](kv, projections.OffersView().Name)
	w.must(err)
	w.paid, err = pebblekv.NewViews[projections.Payment](kv, projections.PaymentsView().Name)
	w.must(err)
	w.sql, err = sqliteviews.Open(t.Context(), t.TempDir())
	w.must(err)
	t.Cleanup(func() { w.must(w.sql.Close()) })
	w.write = writeapi.Config{Shop: w.shop, Channels: map[string]writeapi.Listener{"till": &w.till}}
	w.read = readapi.Config{
		Buyers: w.buyers, Index: w.sql.Orders(), Stock: w.stock, Offers: w.offers, Accounts: w.sql.Accounts(), Payments: w.paid,
		Store: w.store, Events: w.events, Keys: ring, Erased: keyring.ErrErased, Wait: 1,
	}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// settle does what the process behind the bus does.
func (w *world) settle(id string) {
	w.t.Helper()
	w.must(w.shop.Settle(w.t.Context(), id))
}

// settlePayment does it for a payment.
func (w *world) settlePayment(id string) {
	w.t.Helper()
	w.must(w.shop.SettlePayment(w.t.Context(), id))
}

// A till is a payment channel, and what reads its callbacks: they are notices as
// JSON, and nobody signs them.
type till struct{ refuses string }

func (t *till) Ask(_ context.Context, p commands.Asking) (commands.Instruction, error) {
	if t.refuses != "" {
		return commands.Instruction{}, domain.Refuse(domain.Rejected, "channel_refused", "%s", t.refuses)
	}
	return commands.Instruction{Reference: "ref", Data: json.RawMessage(`{"link":"https://till.example/` + p.Payment + `"}`)}, nil
}

func (*till) Find(_ context.Context, id string) (commands.Notice, error) {
	return commands.Notice{Kind: commands.NoticePending, Payment: id}, nil
}

func (t *till) Close(ctx context.Context, id string) (commands.Notice, error) { return t.Find(ctx, id) }

func (t *till) Refund(_ context.Context, r commands.Returning) (commands.Notice, error) {
	if t.refuses != "" {
		return commands.Notice{Kind: commands.NoticeRefundFailed, Payment: r.Payment, Refund: r.Key, Note: t.refuses}, nil
	}
	return commands.Notice{Kind: commands.NoticeRefunded, Payment: r.Payment, Refund: r.Key, Money: r.Amount}, nil
}

func (*till) Read(_ context.Context, _ http.Header, body []byte) (notices []commands.Notice, err error) {
	if err = json.Unmarshal(body, &notices); err != nil {
		return nil, &domain.Error{Code: domain.Invalid, Reason: "bad_callback", Detail: "No.", Err: err}
	}
	return notices, nil
}

func (*till) Answer(err error) (status int, contentType string, body []byte) {
	switch {
	case err == nil:
		return http.StatusOK, "text/plain", []byte("well")
	case domain.CodeOf(err) == domain.Invalid:
		return http.StatusBadRequest, "text/plain", []byte("what?")
	}
	return http.StatusInternalServerError, "text/plain", []byte("again")
}

// project brings all views to where the store is.
func (w *world) project() {
	w.t.Helper()
	project(w, w.buyers.Live(), projections.BuyersView())
	project(w, w.sql.Orders().Live(), projections.OrdersView())
	project(w, w.stock.Live(), projections.StockView())
	project(w, w.offers.Live(), projections.OffersView())
	project(w, w.sql.Accounts().Live(), projections.AccountsView())
	project(w, w.paid.Live(), projections.PaymentsView())
}

func project[V any](w *world, to projections.Views[V], view projections.View[V]) {
	w.t.Helper()
	streams := map[string]bool{}
	for r, err := range w.store.All(w.t.Context(), 0, view.Prefixes()...) {
		w.must(err)
		streams[r.Stream] = true
	}
	var docs []projections.Doc[V]
	for stream := range streams {
		doc, err := projections.Fold(w.t.Context(), w.store, w.events, view, stream)
		w.must(err)
		docs = append(docs, doc)
	}
	w.must(to.Put(w.t.Context(), docs))
}
