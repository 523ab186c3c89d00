package main

import (
	"time"

	"cartwright/infra/keyring"
	"cartwright/readapi"
)

// tokenWait is how long a query waits for what its token names, before it tells
// its reader to come again.
const tokenWait = 5 * time.Second

// reads is what the query API reads from: lists, sums and statements from the
// index, single documents from the documents.
func (r *running) reads() readapi.Config {
	return readapi.Config{
		Log: r.log, CursorSecret: r.secret("cursor"),
		Buyers: r.views.buyers, Index: r.views.index, Stock: r.views.stock, Offers: r.views.offers, Accounts: r.views.accounts, Payments: r.views.payments,
		Store: r.store, Events: r.events, Keys: r.ring, Erased: keyring.ErrErased,
		Flushed: r.views.set.Flushed, Wait: tokenWait, Newest: r.newest, Waited: r.metrics.Waited,
	}
}
