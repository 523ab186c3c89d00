package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
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
	payments  readapi.View[projections.Payment]
	deadlines dueList

	archive projections.Archiver // the order index in two tiers

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
	verify  func(context.Context, verifyJob) (projections.Verified, error)
	parked  func(context.Context) ([]projections.Parked, error)
	redrive func(ctx context.Context, stream string) error
	drop    func(ctx context.Context, stream string, why projections.Dropped) (projections.Parked, error)
	lineage func() generationNews
	count   func(context.Context) (int64, error) // of the live documents
	cache   bool                                 // it keeps no generations but the live one and the last
	stats   func() projections.Stats
}

// generationNews names the generations of a view.
type generationNews struct {
	Live int   `json:"live"`
	Kept []int `json:"kept"` // that were live before, newest first
}

// replayJob says how a view is to be built anew.
type replayJob struct {
	source  projections.Source
	choice  projections.Choice // of streams, in place; a whole one builds a generation
	workers int
	keep    int // earlier generations to keep
	park    bool
	dry     bool
	stay    bool
	anew    bool
	back    bool // to the generation that was live before, or to this one
	to      int

	markEvery time.Duration
	progress  func(projections.Progress)
}

// verifyJob says how a view is to be compared with the log.
type verifyJob struct {
	source projections.Source
	repair bool
	since  uint64
	sample int
	head   uint64
	spend  func(context.Context, int) error
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
	audit       auditor // nil where nothing stands beside the documents
	cache       bool    // it stands before another view, and may forget
}

// addView makes the projector of a view a member of the set, and its tools.
func addView[V any](v *views, e engine[V]) {
	k := &keeper[V]{engine: e, views: v}
	member := k.projector()
	k.member.Store(member)
	if e.cache {
		v.set.JoinLate(member)
	} else {
		v.set.Join(member)
	}
	v.tools = append(v.tools, viewTool{
		name: e.view.Name, replay: k.replay, verify: k.verify,
		parked:  func(ctx context.Context) ([]projections.Parked, error) { return e.live().AllParked(ctx) },
		redrive: func(ctx context.Context, stream string) error { return k.projector().Redrive(ctx, stream) },
		drop: func(ctx context.Context, stream string, why projections.Dropped) (projections.Parked, error) {
			return k.projector().Drop(ctx, stream, why)
		},
		lineage: k.lineage, cache: e.cache, count: func(ctx context.Context) (int64, error) { return e.live().Count(ctx) },
		stats: func() projections.Stats { return k.member.Load().Stats() },
	})
}

// A keeper has the tools of one view.
type keeper[V any] struct {
	engine[V]
	views  *views
	member atomic.Pointer[projections.Projector[V]] // that is in the set
}

// projector makes one that writes to the generation that is live.
func (k *keeper[V]) projector() *projections.Projector[V] {
	g := k.live()
	return &projections.Projector[V]{View: k.view, Events: k.views.events, Log: k.views.log, Views: g, Parking: g, Keep: keptDocs}
}

func (k *keeper[V]) lineage() generationNews {
	n := generationNews{Live: k.live().Number(), Kept: []int{}}
	for _, g := range k.generations.Kept() {
		n.Kept = append(n.Kept, g.Number())
	}
	return n
}

func (k *keeper[V]) replay(ctx context.Context, job replayJob) (projections.Progress, error) {
	live := k.live()
	if !job.choice.Whole() {
		return projections.Refresh[V]{
			Projector: k.projector(), Source: job.source, Repair: live.Repair, Choice: job.choice,
			Workers: job.workers, Park: job.park, Dry: job.dry, Progress: job.progress,
		}.Run(ctx)
	}
	r := projections.Rebuild[V]{
		View: k.view, Events: k.views.events, Log: k.views.log, Source: job.source, Generations: k.generations, Live: k.views.set,
		Given: live, Workers: job.workers, Keep: keptDocs, Kept: job.keep, Park: job.park, Dry: job.dry, Stay: job.stay, Anew: job.anew,
		Program: programID(), Cache: k.cache, MarkEvery: job.markEvery, Progress: job.progress,
	}
	var done projections.Rebuilt[V]
	var err error
	if job.back {
		var to projections.Generation[V]
		if to, err = k.earlier(job.to); err != nil {
			return projections.Progress{}, err
		}
		done, err = r.Return(ctx, to)
	} else {
		done, err = r.Run(ctx)
	}
	if err != nil || job.dry || job.stay {
		return done.Progress, err
	}
	k.member.Store(done.Projector)
	if job.keep > 0 {
		return done.Progress, nil
	}
	for _, g := range k.generations.Kept() {
		if err := k.generations.Drop(ctx, g.Number()); err != nil {
			return done.Progress, err
		}
	}
	return done.Progress, nil
}

// earlier finds a generation that was live before; 0 is the last one.
func (k *keeper[V]) earlier(number int) (projections.Generation[V], error) {
	for _, g := range k.generations.Kept() {
		if number == 0 || g.Number() == number {
			return g, nil
		}
	}
	if number == 0 {
		return nil, errors.New("no earlier generation is kept")
	}
	return nil, fmt.Errorf("generation %d is not kept: there are %v", number, k.lineage().Kept)
}

func (k *keeper[V]) verify(ctx context.Context, job verifyJob) (projections.Verified, error) {
	live := k.live()
	check := projections.Verification[V]{
		View: k.view, Events: k.views.events, Log: k.views.log, Source: job.source, Docs: live,
		Since: job.since, Sample: job.sample, Head: job.head, Spend: job.spend,
		Patience: verifyPatience, Cache: k.cache, Report: job.report,
	}
	if job.repair {
		check.Repair = live.Repair
	}
	sum, err := check.Run(ctx)
	if err != nil || k.audit == nil || job.since > 0 || job.sample > 0 {
		return sum, err
	}
	err = k.audit(ctx, func(d projections.Difference) error {
		sum.Differences++
		return job.report(d)
	})
	return sum, err
}

// programID tells programs apart that may fold differently.
func programID() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	id := []string{info.Main.Version}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" || s.Key == "vcs.modified" || s.Key == "vcs.time" {
			id = append(id, s.Value)
		}
	}
	return strings.Join(id, " ")
}
