package openapi_test

import (
	"testing"

	"cartwright/commands"
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
	sql    *sqliteviews.DB

	write writeapi.Config
	read  readapi.Config
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, store: new(memstore.Store)}
	ring, err := keyring.New(w.store, make([]byte, personal.KeySize))
	w.must(err)
	w.shop, err = commands.Open(commands.Setup{Store: w.store, Sealer: ring})
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
	w.sql, err = sqliteviews.Open(t.Context(), t.TempDir())
	w.must(err)
	t.Cleanup(func() { w.must(w.sql.Close()) })
	w.write = writeapi.Config{Shop: w.shop}
	w.read = readapi.Config{
		Buyers: w.buyers, Index: w.sql.Orders(), Stock: w.stock, Offers: w.offers, Accounts: w.sql.Accounts(),
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

// project brings all views to where the store is.
func (w *world) project() {
	w.t.Helper()
	project(w, w.buyers.Live(), projections.BuyersView())
	project(w, w.sql.Orders().Live(), projections.OrdersView())
	project(w, w.stock.Live(), projections.StockView())
	project(w, w.offers.Live(), projections.OffersView())
	project(w, w.sql.Accounts().Live(), projections.AccountsView())
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
