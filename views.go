package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"cartwright/commands"
	"cartwright/domain/event"
	"cartwright/infra/pebblekv"
	"cartwright/infra/sqliteviews"
	"cartwright/projections"
)

// views are all views in their engines, and the projectors that keep them.
type views struct {
	index *sqliteviews.DB // orders and sums, accounts and their entries
	kv    *pebblekv.DB    // documents, buyers' newest orders, deadlines

	buyers    *pebblekv.Buyers
	deadlines *pebblekv.Deadlines
	stock     *pebblekv.Views[projections.Stock]
	offers    *pebblekv.Views[projections.Offer]

	set   *projections.Set
	tools []viewTool
}

// keptDocs is how many documents a projector remembers between batches.
const keptDocs = 20_000

func openViews(ctx context.Context, f *folder, log *slog.Logger, events *event.Registry, l projections.Log) (v *views, err error) {
	v = &views{}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.close())
		}
	}()
	if v.index, err = sqliteviews.Open(ctx, f.path+"/views/index"); err != nil {
		return v, err
	}
	if v.kv, err = pebblekv.Open(f.path+"/views/documents", log); err != nil {
		return v, err
	}
	if v.buyers, err = pebblekv.NewBuyers(v.kv); err != nil {
		return v, err
	}
	if v.deadlines, err = pebblekv.NewDeadlines(v.kv); err != nil {
		return v, err
	}
	if v.stock, err = pebblekv.NewViews[projections.Stock](v.kv, projections.StockView().Name); err != nil {
		return v, err
	}
	if v.offers, err = pebblekv.NewViews[projections.Offer](v.kv, projections.OffersView().Name); err != nil {
		return v, err
	}
	v.set = projections.NewSet(events)
	orders, accounts := v.index.Orders(), v.index.Accounts()
	addView(v, events, l, projections.OrdersView(), orders, func() liveView[projections.Order] { return orders.Live() }, orders.Audit)
	addView(v, events, l, projections.AccountsView(), accounts, func() liveView[projections.Account] { return accounts.Live() }, accounts.Audit)
	addView(v, events, l, projections.BuyersView(), v.buyers, func() liveView[projections.Order] { return v.buyers.Live() }, nil)
	addView(v, events, l, projections.StockView(), v.stock, func() liveView[projections.Stock] { return v.stock.Live() }, nil)
	addView(v, events, l, projections.OffersView(), v.offers, func() liveView[projections.Offer] { return v.offers.Live() }, nil)
	addView(v, events, l, projections.DeadlinesView(), v.deadlines, func() liveView[projections.Timer] { return v.deadlines.Live() }, nil)
	return v, nil
}

func (v *views) close() error {
	var errs []error
	if v.kv != nil {
		errs = append(errs, v.kv.Close())
	}
	if v.index != nil {
		errs = append(errs, v.index.Close())
	}
	return errors.Join(errs...)
}

// sync brings everything the views have taken onto the disk.
func (v *views) sync(ctx context.Context) error {
	return errors.Join(v.kv.Sync(ctx), v.index.Sync(ctx))
}

// dues gives the timers the deadlines they ask for.
type dues struct{ *pebblekv.Deadlines }

// Due implements commands.Deadlines.
func (d dues) Due(ctx context.Context, now time.Time, after *commands.Due, limit int) ([]commands.Due, error) {
	var from projections.Deadline
	if after != nil {
		from = projections.Deadline{Stream: after.Stream, Due: after.At}
	}
	found, err := d.DueAfter(ctx, from, now, limit)
	if err != nil {
		return nil, err
	}
	due := make([]commands.Due, len(found))
	for i, f := range found {
		due[i] = commands.Due{Stream: f.Stream, At: f.Due}
	}
	return due, nil
}

// liveView is the generation of a view that readers see.
type liveView[V any] interface {
	projections.Generation[V]
	projections.Checked[V]
	Repair(ctx context.Context, docs []projections.Doc[V]) error
	AllParked(ctx context.Context) ([]projections.Parked, error)
}

// A viewTool does to one view what operators ask for, whatever its documents are.
type viewTool struct {
	name    string
	replay  func(context.Context, replayJob) (projections.Progress, error)
	verify  func(context.Context, verifyJob) (projections.Verified, error)
	parked  func(context.Context) ([]projections.Parked, error)
	redrive func(ctx context.Context, stream string) error
}

// replayJob says how a view is to be built anew.
type replayJob struct {
	source   projections.Source
	workers  int
	park     bool
	progress func(projections.Progress)
}

// verifyJob says how a view is to be compared with the log.
type verifyJob struct {
	source projections.Source
	report func(projections.Difference) error
}

// verifyPatience is how long a document may be behind its stream while it is verified.
const verifyPatience = 5 * time.Second

// auditor compares what an engine keeps beside documents (sums, indices) with the documents.
type auditor func(context.Context, func(projections.Difference) error) error

// addView makes the projector of a view a member of the set, and its tools.
func addView[V any](v *views, events *event.Registry, l projections.Log, view projections.View[V],
	generations projections.Generations[V], live func() liveView[V], audit auditor,
) {
	projector := func(g liveView[V]) *projections.Projector[V] {
		return &projections.Projector[V]{View: view, Events: events, Log: l, Views: g, Parking: g, Keep: keptDocs}
	}
	v.set.Join(projector(live()))
	v.tools = append(v.tools, viewTool{
		name: view.Name,
		replay: func(ctx context.Context, job replayJob) (projections.Progress, error) {
			done, err := projections.Rebuild[V]{
				View: view, Events: events, Log: l, Source: job.source, Generations: generations, Live: v.set,
				Workers: job.workers, Keep: keptDocs, Park: job.park, Progress: job.progress,
			}.Run(ctx)
			return done.Progress, err
		},
		verify: func(ctx context.Context, job verifyJob) (projections.Verified, error) {
			sum, err := projections.Verification[V]{
				View: view, Events: events, Log: l, Source: job.source, Docs: live(), Patience: verifyPatience, Report: job.report,
			}.Run(ctx)
			if err != nil || audit == nil {
				return sum, err
			}
			err = audit(ctx, func(d projections.Difference) error {
				sum.Differences++
				return job.report(d)
			})
			return sum, err
		},
		parked: func(ctx context.Context) ([]projections.Parked, error) { return live().AllParked(ctx) },
		redrive: func(ctx context.Context, stream string) error {
			return projector(live()).Redrive(ctx, stream)
		},
	})
}
