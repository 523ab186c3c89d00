package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"cartwright/commands"
	"cartwright/domain/event"
	"cartwright/projections"
	"cartwright/readapi"
)

// views are all views in their engines, and the projectors that keep them.
type views struct {
	buyers    readapi.Buyers
	index     readapi.Index
	orders    orderIndex // the same, for a cache before it
	accounts  readapi.Accounts
	stock     readapi.View[projections.Stock]
	offers    readapi.View[projections.Offer]
	deadlines dueList

	set    *projections.Set
	tools  []viewTool
	enlist func(context.Context) error // what a cache asks of whoever writes to it; nil without

	events   *event.Registry
	log      projections.Log
	embedded bool                          // engines of this process's own folder are among them
	kept     bool                          // this process projects into them
	syncs    []func(context.Context) error // of engines that may lose what was put last
	closers  []func() error
}

// keptDocs is how many documents a projector remembers between batches.
const keptDocs = 20_000

func (v *views) close() error {
	var errs []error
	for _, undo := range slices.Backward(v.closers) {
		errs = append(errs, undo())
	}
	v.closers = nil
	return errors.Join(errs...)
}

// sync brings everything the views have taken onto the disk.
func (v *views) sync(ctx context.Context) error {
	errs := make([]error, len(v.syncs))
	for i, sync := range v.syncs {
		errs[i] = sync(ctx)
	}
	return errors.Join(errs...)
}

// An orderIndex answers for a cache that does not know.
type orderIndex interface {
	readapi.View[projections.Order]
	Orders(ctx context.Context, q projections.OrderQuery) (projections.OrderPage, error)
}

// A dueList gives deadlines in the order they are due.
type dueList interface {
	DueAfter(ctx context.Context, after projections.Deadline, now time.Time, limit int) ([]projections.Deadline, error)
}

// dues gives the timers the deadlines they ask for.
type dues struct{ dueList }

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
	goBack  func(context.Context, replayJob) (projections.Progress, error) // to the generation that was live before
	verify  func(context.Context, verifyJob) (projections.Verified, error)
	parked  func(context.Context) ([]projections.Parked, error)
	redrive func(ctx context.Context, stream string) error
}

// replayJob says how a view is to be built anew.
type replayJob struct {
	source   projections.Source
	workers  int
	park     bool
	dry      bool
	progress func(projections.Progress)
}

// verifyJob says how a view is to be compared with the log.
type verifyJob struct {
	source projections.Source
	repair bool
	report func(projections.Difference) error
}

// verifyPatience is how long a document may be behind its stream while it is verified.
const verifyPatience = 5 * time.Second

// auditor compares what an engine keeps beside documents (sums, indices) with the documents.
type auditor func(context.Context, func(projections.Difference) error) error

// An engine is where one view is kept.
type engine[V any] struct {
	view        projections.View[V]
	generations projections.Generations[V]
	live        func() liveView[V]
	previous    func() (g projections.Generation[V], kept bool)
	audit       auditor // nil where nothing stands beside the documents
	cache       bool    // it stands before another view, and may forget
}

// addView makes the projector of a view a member of the set, and its tools.
func addView[V any](v *views, e engine[V]) {
	projector := func(g liveView[V]) *projections.Projector[V] {
		return &projections.Projector[V]{View: e.view, Events: v.events, Log: v.log, Views: g, Parking: g, Keep: keptDocs}
	}
	if e.cache {
		v.set.JoinLate(projector(e.live()))
	} else {
		v.set.Join(projector(e.live()))
	}
	rebuild := func(job replayJob) projections.Rebuild[V] {
		return projections.Rebuild[V]{
			View: e.view, Events: v.events, Log: v.log, Source: job.source, Generations: e.generations, Live: v.set,
			Workers: job.workers, Keep: keptDocs, Park: job.park, Dry: job.dry, Cache: e.cache, Progress: job.progress,
		}
	}
	v.tools = append(v.tools, viewTool{
		name: e.view.Name,
		replay: func(ctx context.Context, job replayJob) (projections.Progress, error) {
			done, err := rebuild(job).Run(ctx)
			return done.Progress, err
		},
		goBack: func(ctx context.Context, job replayJob) (projections.Progress, error) {
			kept, ok := e.previous()
			if !ok {
				return projections.Progress{}, errors.New("no earlier generation is kept")
			}
			done, err := rebuild(job).Resume(ctx, kept)
			return done.Progress, err
		},
		verify: func(ctx context.Context, job verifyJob) (projections.Verified, error) {
			live := e.live()
			check := projections.Verification[V]{
				View: e.view, Events: v.events, Log: v.log, Source: job.source, Docs: live,
				Patience: verifyPatience, Cache: e.cache, Report: job.report,
			}
			if job.repair {
				check.Repair = live.Repair
			}
			sum, err := check.Run(ctx)
			if err != nil || e.audit == nil {
				return sum, err
			}
			err = e.audit(ctx, func(d projections.Difference) error {
				sum.Differences++
				return job.report(d)
			})
			return sum, err
		},
		parked: func(ctx context.Context) ([]projections.Parked, error) { return e.live().AllParked(ctx) },
		redrive: func(ctx context.Context, stream string) error {
			return projector(e.live()).Redrive(ctx, stream)
		},
	})
}
