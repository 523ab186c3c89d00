package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cartwright/domain/event"
	"cartwright/infra/elasticviews"
	"cartwright/infra/pebblekv"
	"cartwright/infra/redisviews"
	"cartwright/infra/sqliteviews"
	"cartwright/projections"
)

// openViews opens every view in the engine that is configured for it:
//
//   - orders and accounts, which are searched and summed, in Elasticsearch or
//     in SQLite;
//   - stock, offers, payments and deadlines, where the orders are: in Elasticsearch, or
//     else in Pebble. They are no cache, so not in Redis;
//   - single orders and buyers' newest in Redis, as a cache before the orders,
//     or else in Pebble. With Elasticsearch and no Redis, it answers for them.
//
// The folder is needed where one of them is embedded; Redis is nil where it is not used.
func openViews(ctx context.Context, cfg config, f *folder, redis *redisviews.DB, log *slog.Logger,
	events *event.Registry, l projections.Log,
) (v *views, err error) {
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
	if err == nil && redis != nil {
		err = v.openRedis(ctx, redis)
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
	v.index, v.orders, v.archive, v.accounts = orders, orders, orders, accounts
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
		var buyers *pebblekv.Buyers
		if buyers, err = pebblekv.NewBuyers(kv); err != nil {
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
	if v.payments, err = embedded(v, kv, projections.PaymentsView()); err != nil {
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
	addView(v, engine[V]{
		view: view, generations: docs, live: func() liveView[V] { return docs.Live() },
	})
	return docs, nil
}

// indexRefresh is the longest that a list in Elasticsearch is behind what other
// processes wrote. Readers with a token do not wait for it.
const indexRefresh = time.Second

// serverPatience is how long a starting process waits for a server of its views.
const serverPatience = 30 * time.Second

// openElasticsearch opens everything but the cache before it.
func (v *views) openElasticsearch(ctx context.Context, cfg config, log *slog.Logger) error {
	db, err := connectElasticsearch(ctx, cfg, log)
	if err != nil {
		return err
	}
	v.closers = append(v.closers, db.Close)
	orders, err := elasticviews.NewOrders(ctx, db)
	if err != nil {
		return err
	}
	v.index, v.buyers, v.orders, v.archive = orders, orders, orders, orders
	addView(v, engine[projections.Order]{
		view: projections.OrdersView(), generations: orders, audit: orders.Audit,
		live: func() liveView[projections.Order] { return orders.Live() },
	})
	accounts, err := elasticviews.NewAccounts(ctx, db)
	if err != nil {
		return err
	}
	v.accounts = accounts
	addView(v, engine[projections.Account]{
		view: projections.AccountsView(), generations: accounts, audit: accounts.Audit,
		live: func() liveView[projections.Account] { return accounts.Live() },
	})
	deadlines, err := elasticviews.NewDeadlines(ctx, db)
	if err != nil {
		return err
	}
	v.deadlines = deadlines
	addView(v, engine[projections.Timer]{
		view: projections.DeadlinesView(), generations: deadlines,
		live: func() liveView[projections.Timer] { return deadlines.Live() },
	})
	if v.stock, err = indexed(ctx, v, db, projections.StockView()); err != nil {
		return err
	}
	if v.payments, err = indexed(ctx, v, db, projections.PaymentsView()); err != nil {
		return err
	}
	v.offers, err = indexed(ctx, v, db, projections.OffersView())
	return err
}

// indexed opens a view in Elasticsearch that is asked for by stream only.
func indexed[V any](ctx context.Context, v *views, db *elasticviews.DB, view projections.View[V]) (*elasticviews.Views[V], error) {
	docs, err := elasticviews.NewViews[V](ctx, db, view.Name)
	if err != nil {
		return nil, err
	}
	addView(v, engine[V]{
		view: view, generations: docs, live: func() liveView[V] { return docs.Live() },
	})
	return docs, nil
}

func connectElasticsearch(ctx context.Context, cfg config, log *slog.Logger) (db *elasticviews.DB, err error) {
	l, index := cfg.ElasticsearchLogin, cfg.ElasticsearchIndex
	c := elasticviews.Config{
		Addresses: cfg.Elasticsearch, User: l.User, Namespace: cfg.Namespace,
		Shards: index.Shards, Replicas: index.Replicas, RefreshEvery: indexRefresh, Log: log,
	}
	if c.Password, err = l.password(); err != nil {
		return nil, fmt.Errorf("password for Elasticsearch: %w", err)
	}
	if c.APIKey, err = secret(index.APIKey, index.APIKeyFile); err != nil {
		return nil, fmt.Errorf("API key for Elasticsearch: %w", err)
	}
	if c.TLS, err = l.tls(); err != nil {
		return nil, fmt.Errorf("TLS for Elasticsearch: %w", err)
	}
	err = insist(ctx, log, "Elasticsearch", func() error {
		db, err = elasticviews.Open(ctx, c)
		return err
	})
	return db, err
}

// insist tries again while a server is not there yet, for a while.
func insist(ctx context.Context, log *slog.Logger, server string, try func() error) error {
	for deadline := time.Now().Add(serverPatience); ; {
		err := try()
		if !errors.Is(err, projections.ErrUnavailable) || time.Now().After(deadline) {
			return err
		}
		log.WarnContext(ctx, "a server does not answer yet", "server", server, "err", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// openRedis puts the cache before the orders.
func (v *views) openRedis(ctx context.Context, db *redisviews.DB) error {
	c := redisviews.BuyersConfig{Index: v.orders}
	if stored, ok := v.orders.(storedOrders); ok {
		c.Stored, c.Lag = stored.Stored, 3*indexRefresh
	}
	buyers, err := redisviews.NewBuyers(ctx, db, c)
	if err != nil {
		return err
	}
	v.closers = append(v.closers, buyers.Close)
	v.buyers, v.enlist = buyers, buyers.Enlist
	addView(v, engine[projections.Order]{
		view: projections.BuyersView(), generations: buyers, cache: true,
		live: func() liveView[projections.Order] { return buyers.Live() },
	})
	return nil
}

// storedOrders is an index whose lists may be behind its documents.
type storedOrders interface {
	Stored(ctx context.Context, streams []string) (map[string]event.Revision, error)
}

// connectRedis makes the way to Redis; nil where none is configured.
func connectRedis(ctx context.Context, cfg config, log *slog.Logger) (*redisviews.DB, error) {
	if len(cfg.Redis) == 0 {
		return nil, nil //nolint:nilnil // none is an answer
	}
	l := cfg.RedisLogin
	password, err := l.password()
	if err != nil {
		return nil, fmt.Errorf("password for Redis: %w", err)
	}
	secured, err := l.tls()
	if err != nil {
		return nil, fmt.Errorf("TLS for Redis: %w", err)
	}
	redisviews.Silence()
	return redisviews.Open(ctx, redisviews.Config{
		Addrs: cfg.Redis, Username: l.User, Password: password, TLS: secured, Namespace: cfg.Namespace,
		Cluster: cfg.RedisCache.Cluster || len(cfg.Redis) > 1, Keep: cfg.RedisCache.Keep, Log: log,
	})
}

// A register notes in Redis which order a request has placed.
type register struct{ keys *redisviews.Keys }

// registered is how long a request may be sent again and be known.
const registered = 48 * time.Hour

// Look implements commands.Register.
func (r register) Look(ctx context.Context, cause string) (string, bool, error) {
	order, known, err := r.keys.Look(ctx, "placed/"+cause)
	return string(order), known, err
}

// Remember implements commands.Register.
func (r register) Remember(ctx context.Context, cause, order string) error {
	_, _, err := r.keys.Remember(ctx, "placed/"+cause, []byte(order), registered)
	return err
}
