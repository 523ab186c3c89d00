package main

import (
	"context"
	"errors"
	"log/slog"

	"cartwright/domain/event"
	"cartwright/infra/pebblekv"
	"cartwright/infra/sqliteviews"
	"cartwright/projections"
)

// openViews opens every view in the engine that is configured for it:
//
//   - orders and accounts, which are searched and summed, in Elasticsearch or
//     in SQLite;
//   - stock, offers and deadlines, where the orders are: in Elasticsearch, or
//     else in Pebble. They are no cache, so not in Redis;
//   - single orders and buyers' newest in Redis, as a cache before the orders,
//     or else in Pebble. With Elasticsearch and no Redis, it answers for them.
//
// The folder is needed where one of them is embedded.
func openViews(ctx context.Context, cfg config, f *folder, log *slog.Logger, events *event.Registry, l projections.Log) (v *views, err error) {
	v = &views{set: projections.NewSet(events), events: events, log: l}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.close())
		}
	}()
	if len(cfg.Elasticsearch) > 0 {
		err = v.openElasticsearch(ctx, cfg, log)
	} else {
		err = v.openEmbedded(ctx, cfg, f, log)
	}
	if err == nil && len(cfg.Redis) > 0 {
		err = v.openRedis(ctx, cfg, log)
	}
	return v, err
}

// openEmbedded opens what lives in the data folder.
func (v *views) openEmbedded(ctx context.Context, cfg config, f *folder, log *slog.Logger) error {
	v.embedded = true
	index, err := sqliteviews.Open(ctx, f.path+"/views/index")
	if err != nil {
		return err
	}
	v.closers, v.syncs = append(v.closers, index.Close), append(v.syncs, index.Sync)
	orders, accounts := index.Orders(), index.Accounts()
	v.index, v.accounts = orders, accounts
	addView(v, engine[projections.Order]{
		view: projections.OrdersView(), generations: orders, audit: orders.Audit,
		live: func() liveView[projections.Order] { return orders.Live() },
	})
	addView(v, engine[projections.Account]{
		view: projections.AccountsView(), generations: accounts, audit: accounts.Audit,
		live: func() liveView[projections.Account] { return accounts.Live() },
	})

	kv, err := pebblekv.Open(f.path+"/views/documents", log)
	if err != nil {
		return err
	}
	v.closers, v.syncs = append(v.closers, kv.Close), append(v.syncs, kv.Sync)
	if len(cfg.Redis) == 0 {
		buyers, err := pebblekv.NewBuyers(kv)
		if err != nil {
			return err
		}
		v.buyers = buyers
		addView(v, engine[projections.Order]{
			view: projections.BuyersView(), generations: buyers,
			live: func() liveView[projections.Order] { return buyers.Live() },
		})
	}
	deadlines, err := pebblekv.NewDeadlines(kv)
	if err != nil {
		return err
	}
	v.deadlines = deadlines
	addView(v, engine[projections.Timer]{
		view: projections.DeadlinesView(), generations: deadlines,
		live: func() liveView[projections.Timer] { return deadlines.Live() },
	})
	if v.stock, err = embedded(v, kv, projections.StockView()); err != nil {
		return err
	}
	v.offers, err = embedded(v, kv, projections.OffersView())
	return err
}

// embedded opens a view that is asked for by stream only.
func embedded[V any](v *views, kv *pebblekv.DB, view projections.View[V]) (*pebblekv.Views[V], error) {
	docs, err := pebblekv.NewViews[V](kv, view.Name)
	if err != nil {
		return nil, err
	}
	addView(v, engine[V]{view: view, generations: docs, live: func() liveView[V] { return docs.Live() }})
	return docs, nil
}

func (v *views) openElasticsearch(context.Context, config, *slog.Logger) error {
	return errors.New("not yet")
}

func (v *views) openRedis(context.Context, config, *slog.Logger) error {
	return errors.New("not yet")
}
