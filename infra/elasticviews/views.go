package elasticviews

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cartwright/domain/event"
	"cartwright/projections"
)

// A shape is what tells one view's indices and documents from another's.
type shape[V any] struct {
	// kinds are the indices of a generation. The first has the documents.
	kinds []kind
	// searched tells that queries search, so that what they wait for must have
	// been refreshed. Documents by their streams need no refresh.
	searched bool
	// place gives what a stream's document is routed by, which is its id where
	// that is empty. It fails for a stream that has no place in the view.
	place func(stream string) (routing string, err error)
	// source is what is stored of a document, beside its body under "body".
	source func(doc projections.Doc[V]) any
	// beside gives what is stored before the document, by the source it has.
	// Nil where there is nothing.
	beside func(at indices, doc projections.Doc[V], source []byte, repair bool) ([]op, error)
	// check refuses documents that can't follow what the generation has. It is
	// asked once the view has followed a switch. Nil where there is no such thing.
	check func(ctx context.Context, at indices, docs []projections.Doc[V]) error
	// clear takes away what a repair replaces and would leave behind: before it,
	// of the documents that the repair will change. Nil where there is nothing.
	clear func(ctx context.Context, at indices, docs []projections.Doc[V]) error
}

// indices names the indices of a generation.
type indices struct {
	db     *DB
	number int
}

func (n indices) of(kind string) string { return n.db.index(kind, n.number) }

// Views are all generations of one view. Reading from it reads the live one.
// Its methods may be called concurrently.
type Views[V any] struct {
	db    *DB
	name  string
	shape shape[V]
	live  *Generation[V]

	current  atomic.Int64 // the generation that was live when last looked
	turns    atomic.Int64 // how often this process switched
	followed atomic.Bool  // the live generation changed since this was opened
	fresh    *freshness

	changing sync.Mutex // held while generations are made, switched or dropped

	mu      sync.Mutex // guards what follows
	kept    family
	handles map[int]*Generation[V] // of generations that this process may switch to
}

// NewViews opens a view of plain documents, with an empty live generation if it
// is new.
func NewViews[V any](ctx context.Context, db *DB, name string) (*Views[V], error) {
	return newViews(ctx, db, name, plain[V](name))
}

// plain documents are found by their streams only.
func plain[V any](name string) shape[V] {
	return shape[V]{
		kinds: []kind{documents(name, nil)},
		place: anywhere,
		source: func(doc projections.Doc[V]) any {
			return struct {
				Stream string `json:"stream"`
				Body   V      `json:"body"`
			}{doc.Stream, doc.Body}
		},
	}
}

// longestID is the longest id that the server takes, less what parking puts in front.
const longestID = 490

func anywhere(stream string) (string, error) {
	if stream == "" || len(stream) > longestID {
		return "", fmt.Errorf("the view has no place for a stream with a name of %d bytes", len(stream))
	}
	return "", nil
}

func newViews[V any](ctx context.Context, db *DB, name string, s shape[V]) (*Views[V], error) {
	v := &Views[V]{db: db, name: name, shape: s, handles: map[int]*Generation[V]{}}
	v.live = &Generation[V]{views: v}
	v.live.follows.Store(true)
	v.fresh = &freshness{working: &db.working, run: func(ctx context.Context) error { return v.refresh(ctx, v.live.target) }}
	if !viewNames.MatchString(name) || name == lineages.name {
		return nil, fmt.Errorf("open view %s: no view can have that name", name)
	}
	if err := v.prepare(ctx); err != nil {
		return nil, fmt.Errorf("open view %s: %w", name, err)
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	db.views = append(db.views, v)
	return v, nil
}

// prepare makes what the view needs, whichever process comes first, and drops
// what others have left behind.
func (v *Views[V]) prepare(ctx context.Context) error {
	for _, k := range v.shape.kinds {
		if err := v.db.template(ctx, k); err != nil {
			return err
		}
	}
	f, at, err := v.first(ctx)
	if err != nil {
		return err
	}
	if !f.Ready {
		if err = v.begin(ctx, f, at); err != nil {
			return err
		}
	}
	if err = v.check(ctx); err != nil {
		return err
	}
	f, err = v.change(ctx, func(f family) (family, error) { return f.without(f.abandoned()...) })
	if err != nil {
		return err
	}
	v.current.Store(int64(f.Live))
	return v.sweep(ctx, f)
}

// first reads the lineage, or writes a new view's.
func (v *Views[V]) first(ctx context.Context) (family, *seen, error) {
	for {
		f, at, err := v.db.readFamily(ctx, v.name)
		if err != nil || at != nil {
			return f, at, err
		}
		err = v.db.writeFamily(ctx, v.name, family{Lineage: projections.NewLineage()}, nil)
		if err != nil && !errors.Is(err, errMoved) {
			return f, nil, err
		}
	}
}

// begin makes the first generation, live from its beginning. Several processes
// may do so at once: each finds what the other made.
func (v *Views[V]) begin(ctx context.Context, f family, at *seen) error {
	for _, k := range v.shape.kinds {
		if err := v.db.create(ctx, v.db.index(k.name, f.Live), k, v.db.liveSettings(), v.db.index(k.name)); err != nil {
			return err
		}
	}
	f.Ready = true
	err := v.db.writeFamily(ctx, v.name, f, at)
	if !errors.Is(err, errMoved) {
		return err
	}
	// Whoever was long in here may have made a generation that came and went.
	if f, _, err = v.db.readFamily(ctx, v.name); err != nil {
		return err
	}
	return v.sweep(ctx, f)
}

// check refuses a live generation that is gone, or that a newer program made.
func (v *Views[V]) check(ctx context.Context) error {
	_, err := v.db.resolve(ctx, v.alias())
	if errors.Is(err, errNoAlias) {
		return fmt.Errorf("%w, though there was one: bring its indices back, or delete document %s of index %s to begin anew and replay the view",
			err, v.name, v.db.index(lineages.name))
	}
	if err != nil {
		return err
	}
	for _, k := range v.shape.kinds {
		if err := v.db.checkMapping(ctx, v.db.index(k.name), k); err != nil {
			return err
		}
	}
	return nil
}

func (v *Views[V]) alias() string { return v.db.index(v.shape.kinds[0].name) }

// change replaces the lineage, after it was brought after the alias. F is asked
// again when another process was faster.
func (v *Views[V]) change(ctx context.Context, f func(family) (family, error)) (family, error) {
	for pause := v.db.c.pause; ; pause = min(2*pause, longest) {
		next, err := v.attempt(ctx, f)
		if err == nil {
			v.remember(next)
			return next, nil
		}
		if !errors.Is(err, errMoved) {
			return next, err
		}
		if err := sleep(ctx, pause); err != nil {
			return next, err
		}
	}
}

func (v *Views[V]) attempt(ctx context.Context, f func(family) (family, error)) (family, error) {
	now, at, err := v.db.readFamily(ctx, v.name)
	if err != nil {
		return now, err
	}
	if at == nil {
		return now, fmt.Errorf("the generations of %s are not written down any more", v.name)
	}
	// A process that died after it turned the alias left the lineage behind it.
	live, err := v.db.resolve(ctx, v.alias())
	if err != nil {
		return now, err
	}
	caughtUp, err := now.turned(live)
	if err != nil {
		return now, fmt.Errorf("the alias %s is on generation %d: %w", v.alias(), live, err)
	}
	next, err := f(caughtUp)
	if err != nil {
		return next, err
	}
	if unchanged, err := same(next, now); unchanged || err != nil {
		return next, err
	}
	return next, v.db.writeFamily(ctx, v.name, next, at)
}

func (v *Views[V]) remember(f family) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.kept = f
	maps.DeleteFunc(v.handles, func(number int, _ *Generation[V]) bool { return !slices.Contains(f.known(), number) })
}

// handle gives the generation that a number names until this process switches
// to it. From then on it is whichever is live. It must be called with mu held.
func (v *Views[V]) handle(number int) *Generation[V] {
	g, ok := v.handles[number]
	if !ok {
		g = &Generation[V]{views: v, number: number}
		v.handles[number] = g
	}
	return g
}

// sweep deletes the indices of generations that there are not any more.
func (v *Views[V]) sweep(ctx context.Context, f family) error {
	var dead []string
	for _, k := range v.shape.kinds {
		alias := v.db.index(k.name)
		names, err := v.db.holders(ctx, "/"+alias+"-*/_alias")
		if err != nil {
			return fmt.Errorf("list the indices of %s: %w", alias, err)
		}
		for _, name := range names {
			// Higher numbers than the lineage had were given out since.
			if n, err := numbered(name, alias); err == nil && n <= f.Last && !slices.Contains(f.known(), n) {
				dead = append(dead, name)
			}
		}
	}
	if err := v.db.delete(ctx, dead...); err != nil {
		return fmt.Errorf("delete %s: %w", strings.Join(dead, ", "), err)
	}
	return nil
}

// tidy is a sweep after something else was done, which stands without it: what
// is left is deleted the next time.
func (v *Views[V]) tidy(ctx context.Context, f family) {
	if err := v.sweep(ctx, f); err != nil {
		v.db.cfg.Log.Warn("indices that are not needed any more are left", "view", v.name, "error", err)
	}
}

// Live is the generation that readers see, whichever that is. Its number is
// the one this process last saw.
func (v *Views[V]) Live() *Generation[V] { return v.live }

// Previous is the generation that was live before, or nil, as this process last
// saw it. Once it was switched to in this process, it follows the live one.
func (v *Views[V]) Previous() *Generation[V] {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.kept.Previous == 0 {
		return nil
	}
	return v.handle(v.kept.Previous)
}

// Build opens a new, empty generation that nobody sees. Once it was switched to
// in this process, it follows the live one.
func (v *Views[V]) Build(ctx context.Context) (projections.Generation[V], error) {
	v.changing.Lock()
	defer v.changing.Unlock()
	g, err := v.build(ctx)
	if err != nil {
		return nil, fmt.Errorf("build a generation of %s: %w", v.name, err)
	}
	return g, nil
}

func (v *Views[V]) build(ctx context.Context) (*Generation[V], error) {
	f, err := v.change(ctx, func(f family) (family, error) {
		f, err := f.without(f.abandoned()...)
		return f.begun(v.db.token), err
	})
	if err != nil {
		return nil, err
	}
	v.tidy(ctx, f)
	for _, k := range v.shape.kinds {
		if err := v.db.create(ctx, v.db.index(k.name, f.Last), k, buildSettings(), ""); err != nil {
			return nil, errors.Join(err, v.drop(context.WithoutCancel(ctx), f.Last))
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.handle(f.Last), nil
}

// Switch makes a generation the live one in one step, for all processes. The
// one that was live is kept; the one kept before it is dropped.
func (v *Views[V]) Switch(ctx context.Context, number int) error {
	v.changing.Lock()
	defer v.changing.Unlock()
	if err := v.turn(ctx, number); err != nil {
		return fmt.Errorf("switch %s to generation %d: %w", v.name, number, err)
	}
	return nil
}

func (v *Views[V]) turn(ctx context.Context, number int) error {
	f, err := v.change(ctx, func(f family) (family, error) { return f.marked(number, v.db.token), v.turnable(f, number) })
	if err != nil {
		return err
	}
	if f.Live != number {
		err = v.publish(ctx, f.Live, number)
	}
	if err == nil {
		v.arrive(number)
	}
	// From here on it is done, or is not: the lineage only follows.
	f, unwritten := v.change(context.WithoutCancel(ctx), func(f family) (family, error) { return f.unmarked(v.db.token), nil })
	if unwritten != nil {
		v.db.cfg.Log.Warn("a switch is not written down yet", "view", v.name, "generation", number, "error", unwritten)
	} else if err == nil {
		v.tidy(ctx, f)
	}
	return err
}

// turnable refuses generations that are not there, or that another process builds.
func (v *Views[V]) turnable(f family, number int) error {
	if _, err := f.turned(number); err != nil {
		return err
	}
	if b, building := f.Builders[number]; building && b.Token != v.db.token {
		return errors.New("another process builds it")
	}
	return nil
}

// publish makes what was built fit to be read, and the live one.
func (v *Views[V]) publish(ctx context.Context, from, to int) error {
	at := indices{v.db, to}
	names := v.targets(at.of)
	r, err := put("/"+names+"/_settings", v.db.liveSettings())
	if err == nil {
		err = v.db.do(ctx, r)
	}
	if err != nil {
		return fmt.Errorf("set up %s: %w", names, err)
	}
	if err := v.refresh(ctx, at.of); err != nil {
		return err
	}
	return v.move(ctx, from, to)
}

// move turns the aliases of all kinds, from the generation that is live: where
// that is another one by now, nothing changes.
func (v *Views[V]) move(ctx context.Context, from, to int) error {
	var actions []any
	for _, k := range v.shape.kinds {
		alias := v.db.index(k.name)
		actions = append(actions,
			map[string]any{"remove": map[string]any{"index": v.db.index(k.name, from), "alias": alias, "must_exist": true}},
			map[string]any{"add": map[string]any{"index": v.db.index(k.name, to), "alias": alias}})
	}
	r, err := post("/_aliases", map[string]any{"actions": actions})
	if err == nil {
		err = v.db.do(ctx, r)
	}
	if err != nil && !v.isLive(ctx, to) {
		return fmt.Errorf("turn the aliases: %w", err)
	}
	return nil
}

// isLive tells of a switch that was done all the same, by a request whose answer
// was lost.
func (v *Views[V]) isLive(ctx context.Context, number int) bool {
	live, err := v.db.resolve(ctx, v.alias())
	return err == nil && live == number
}

// arrive is what this process does when it has switched.
func (v *Views[V]) arrive(number int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.turns.Add(1)
	if v.current.Swap(int64(number)) != int64(number) {
		v.followed.Store(true)
	}
	if g, ok := v.handles[number]; ok {
		g.follows.Store(true)
		delete(v.handles, number)
	}
}

// notice takes in which generation an answer was of. One that was asked for
// before this process switched tells nothing.
func (v *Views[V]) notice(ctx context.Context, number int, turns int64) {
	if v.current.Load() == int64(number) || !v.moved(number, turns) {
		return
	}
	// What was live before is asked for seldom: an old answer does no harm.
	if f, at, err := v.db.readFamily(ctx, v.name); err == nil && at != nil && f.Live == number {
		v.remember(f)
	}
}

// moved takes a number in, unless this process has switched since it asked.
func (v *Views[V]) moved(number int, turns int64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.turns.Load() != turns {
		return false
	}
	v.current.Store(int64(number))
	v.followed.Store(true)
	return true
}

// Drop deletes a generation that is not live.
func (v *Views[V]) Drop(ctx context.Context, number int) error {
	v.changing.Lock()
	defer v.changing.Unlock()
	if err := v.drop(ctx, number); err != nil {
		return fmt.Errorf("drop generation %d of %s: %w", number, v.name, err)
	}
	return nil
}

func (v *Views[V]) drop(ctx context.Context, number int) error {
	f, err := v.change(ctx, func(f family) (family, error) {
		if b, building := f.Builders[number]; building && b.Token != v.db.token {
			return f, errors.New("another process builds it")
		}
		return f.unmarked(v.db.token).without(number)
	})
	if err != nil {
		return err
	}
	return v.sweep(ctx, f)
}

// renew says that this process goes on building.
func (v *Views[V]) renew(ctx context.Context) error {
	if !v.building() {
		return nil
	}
	_, err := v.change(ctx, func(f family) (family, error) {
		f = f.settled()
		for _, n := range f.built(v.db.token) {
			f.Builders[n] = builder{v.db.token, time.Now().UTC()}
		}
		return f, nil
	})
	return err
}

// release gives up what this process builds.
func (v *Views[V]) release(ctx context.Context) error {
	if !v.building() {
		return nil
	}
	v.changing.Lock()
	defer v.changing.Unlock()
	f, err := v.change(ctx, func(f family) (family, error) { return f.unmarked(v.db.token).without(f.built(v.db.token)...) })
	if err != nil {
		return err
	}
	return v.sweep(ctx, f)
}

func (v *Views[V]) building() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.kept.built(v.db.token)) > 0
}

// refresh makes what was put searchable in the indices of a generation.
func (v *Views[V]) refresh(ctx context.Context, target func(kind string) string) error {
	names := v.targets(target)
	if err := v.db.do(ctx, request{method: "POST", path: "/" + names + "/_refresh"}); err != nil {
		return fmt.Errorf("refresh %s: %w", names, err)
	}
	return nil
}

// targets names all indices of a generation for one request.
func (v *Views[V]) targets(target func(kind string) string) string {
	names := make([]string, len(v.shape.kinds))
	for i, k := range v.shape.kinds {
		names[i] = target(k.name)
	}
	return strings.Join(names, ",")
}

// Get gives the live documents there are of some streams.
func (v *Views[V]) Get(ctx context.Context, streams []string) (map[string]projections.Doc[V], error) {
	return v.live.Get(ctx, streams)
}

// Revisions gives the revisions of the live documents there are of some
// streams. What it reports, this process's lists show from then on.
func (v *Views[V]) Revisions(ctx context.Context, streams []string) (map[string]event.Revision, error) {
	return v.live.Revisions(ctx, streams)
}

// Parked gives those of some streams that are parked in the live generation.
func (v *Views[V]) Parked(ctx context.Context, streams []string) (map[string]projections.Parked, error) {
	return v.live.Parked(ctx, streams)
}
