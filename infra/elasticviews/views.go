package elasticviews

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

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
	// tiers tells which documents are put away. Nil where all are at hand.
	tiers *tiering[V]
	// check refuses documents that can't follow what the generation has. It is
	// asked once the view has followed a switch. Nil where there is no such thing.
	check func(ctx context.Context, at indices, docs []projections.Doc[V]) error
	// clear takes away what a repair replaces and would leave behind: before it,
	// of the documents that the repair will change. Nil where there is nothing.
	clear func(ctx context.Context, at indices, docs []projections.Doc[V]) error
}

// indices names the indices of a generation: those at hand, or a year's.
type indices struct {
	db     *DB
	number int
	year   int // 0 is at hand
	tiers  tiers
}

func (n indices) of(kind string) string {
	if n.year != 0 {
		return n.db.year(kind, n.year, n.number)
	}
	return n.db.index(kind, n.number)
}

// where is the tier that an index is of.
func (n indices) where(index string) indices {
	if _, of, ok := strings.Cut(index, yearName); ok {
		digits, _, _ := strings.Cut(of, "-")
		if year, err := strconv.Atoi(digits); err == nil {
			return n.in(year)
		}
	}
	return n.in(0)
}

func (n indices) in(year int) indices {
	n.year = year
	return n
}

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
	last     atomic.Pointer[layout]    // as it was last seen
	lost     atomic.Pointer[lostError] // why the live generation can't be asked, as far as is known

	changing sync.Mutex   // held while generations are made, switched or dropped
	midway   sync.RWMutex // held by refreshes, and for reading by who has written a document to one tier and not yet taken it from the other

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
	v.fresh = &freshness{working: &db.working, run: func(ctx context.Context) error { return v.refresh(ctx, v.targets(v.live.searched)) }}
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
	if err = v.inspect(ctx); err != nil && !isLost(err) {
		return err
	}
	f, err = v.change(ctx, func(f family) (family, error) { return f.without(f.abandoned()...) })
	if err != nil {
		return err
	}
	v.current.Store(int64(f.Live))
	return v.sweep(ctx, f)
}

// first reads the lineage, or writes a new view's. Where it was deleted, the
// live generation is the one that the alias is on.
func (v *Views[V]) first(ctx context.Context) (family, *seen, error) {
	for {
		f, at, err := v.db.readFamily(ctx, v.name)
		if err != nil || at != nil {
			return f, at, err
		}
		if f, err = v.founded(ctx); err != nil {
			return f, nil, err
		}
		if err = v.db.writeFamily(ctx, v.name, f, nil); err != nil && !errors.Is(err, errMoved) {
			return f, nil, err
		}
	}
}

// founded is the first family of a view. A number that there is something of is
// never given out again.
func (v *Views[V]) founded(ctx context.Context) (family, error) {
	l, err := v.look(ctx)
	if err != nil && !isLost(err) {
		return family{}, err
	}
	highest := 0
	if err := v.every(ctx, func(_ string, number int) { highest = max(highest, number) }); err != nil {
		return family{}, err
	}
	switch {
	case l.live != 0:
		return family{Lineage: projections.Lineage{Live: l.live, Last: max(highest, l.live)}, Ready: true}, nil
	case highest != 0:
		// There was a view, so an empty one would not be the truth.
		f := family{Lineage: projections.Lineage{Live: highest, Last: highest}, Ready: true}
		return f.losing("what is known of its generations was deleted"), nil
	}
	return family{Lineage: projections.NewLineage()}, nil
}

// every calls f with all indices of the view, whichever generation they are of.
func (v *Views[V]) every(ctx context.Context, f func(index string, number int)) error {
	for _, k := range v.shape.kinds {
		alias := v.db.index(k.name)
		names, err := v.db.named(ctx, alias+"-*,"+alias+yearName+"*")
		if err != nil {
			return fmt.Errorf("list the indices of %s: %w", alias, err)
		}
		for _, name := range names {
			if n, err := numbered(name, alias); err == nil {
				f(name, n)
			} else if _, n, ok := yearOf(name, alias); ok {
				f(name, n)
			}
		}
	}
	return nil
}

// begin makes the first generation, live from its beginning. Several processes
// may do so at once: each finds what the other made.
func (v *Views[V]) begin(ctx context.Context, f family, at *seen) error {
	for i, k := range v.shape.kinds {
		aliases := append([]string{v.db.index(k.name)}, v.told(i, noTiers())...)
		if err := v.db.create(ctx, v.db.index(k.name, f.Live), k, v.db.liveSettings(), aliases); err != nil {
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

// told is what an index of a kind that is new says of the tiers.
func (v *Views[V]) told(kind int, t tiers) []string {
	if v.shape.tiers == nil || kind > 0 {
		return nil
	}
	return []string{v.db.tiersAlias(v.shape.kinds[0].name, t)}
}

// fit refuses a live generation that a newer program made, and is a *lostError
// for one that an older program did.
func (v *Views[V]) fit(ctx context.Context, number int) error {
	for _, k := range v.shape.kinds {
		name := v.db.index(k.name, number)
		made, err := v.db.mappingVersion(ctx, name)
		switch {
		case isType(err, noIndex):
			return v.lostBy("the index %s is gone", name)
		case err != nil:
			return err
		case made > k.version:
			return fmt.Errorf("the index %s has version %d and was made by a newer program: this one knows version %d", name, made, k.version)
		case made < k.version:
			return v.lostBy("the index %s has version %d and was made by an older program: this one needs version %d", name, made, k.version)
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
	now, at, err := v.first(ctx)
	if err != nil {
		return now, err
	}
	// A process that died after it turned the alias left the lineage behind it.
	l, err := v.look(ctx)
	lost, isLost := errors.AsType[*lostError](err)
	if err != nil && !isLost {
		return now, err
	}
	caughtUp := now
	if l.live != 0 {
		if caughtUp, err = now.turned(l.live); err != nil {
			return now, fmt.Errorf("the alias %s is on generation %d: %w", v.alias(), l.live, err)
		}
	}
	if isLost {
		caughtUp = caughtUp.losing(lost.reason)
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
	err := v.every(ctx, func(index string, number int) {
		// Higher numbers than the lineage had were given out since.
		if number <= f.Last && !slices.Contains(f.known(), number) {
			dead = append(dead, index)
		}
	})
	if err != nil {
		return err
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

// Kept are the generations that were live before, newest first, as this process
// last saw them. One that was switched to in this process follows the live one.
func (v *Views[V]) Kept() []projections.Generation[V] {
	v.mu.Lock()
	defer v.mu.Unlock()
	var kept []projections.Generation[V]
	for _, number := range v.kept.Kept() {
		kept = append(kept, v.handle(number))
	}
	return kept
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
		return f.begun(v.db.here()), err
	})
	if err != nil {
		return nil, err
	}
	v.tidy(ctx, f)
	if err := v.makeIndices(ctx, f); err != nil {
		return nil, errors.Join(err, v.drop(context.WithoutCancel(ctx), f.Last))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.handle(f.Last), nil
}

// makeIndices makes those of a new generation. Its archive begins with the
// boundary of the live one, and without years.
func (v *Views[V]) makeIndices(ctx context.Context, f family) error {
	t := noTiers()
	if v.shape.tiers != nil {
		l, err := v.look(ctx)
		if err != nil && !isLost(err) {
			return err
		}
		t.at = l.of(f.Live).at
		t.next = t.at
	}
	for i, k := range v.shape.kinds {
		if err := v.db.create(ctx, v.db.index(k.name, f.Last), k, buildSettings(), v.told(i, t)); err != nil {
			return err
		}
	}
	return nil
}

// Mark writes down that everything up to a checkpoint is in a generation that
// this process builds. What was put is on the server's disk already: a build
// gives up refreshes and copies, not the log of what it was told.
func (v *Views[V]) Mark(ctx context.Context, number int, at projections.Checkpoint) error {
	v.changing.Lock()
	defer v.changing.Unlock()
	_, err := v.change(ctx, func(f family) (family, error) {
		if b, building := f.Builders[number]; building && b.Token != v.db.token {
			return f, errBuiltElsewhere
		}
		var err error
		if f.Lineage, err = f.Mark(number, at); err != nil {
			return f, err
		}
		return f.builtBy(number, v.db.here()), nil
	})
	if err != nil {
		return fmt.Errorf("mark generation %d of %s at %d: %w", number, v.name, at.Position, err)
	}
	return nil
}

// Unfinished gives the generation that was left with a mark, if no other process
// goes on with it. From then on it is built by this one.
func (v *Views[V]) Unfinished(ctx context.Context) (projections.Generation[V], projections.Checkpoint, bool, error) {
	v.changing.Lock()
	defer v.changing.Unlock()
	var number int
	var at projections.Checkpoint
	_, err := v.change(ctx, func(f family) (family, error) {
		f = f.settled()
		number = f.Unfinished()
		if b := f.Builders[number]; number == 0 || b.Token != v.db.token && !b.gone(silentAfter) {
			number = 0
			return f, nil
		}
		at = f.Marks[number]
		return f.builtBy(number, v.db.here()), nil
	})
	if err != nil {
		return nil, at, false, fmt.Errorf("look for an unfinished generation of %s: %w", v.name, err)
	}
	if number == 0 {
		return nil, projections.Checkpoint{}, false, nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.handle(number), at, true, nil
}

// Switch makes a generation the live one in one step, for all processes. The
// one that was live is kept, and as many older ones as make up keep with it.
func (v *Views[V]) Switch(ctx context.Context, number, keep int) error {
	v.changing.Lock()
	defer v.changing.Unlock()
	if err := v.turn(ctx, number, keep); err != nil {
		return fmt.Errorf("switch %s to generation %d: %w", v.name, number, err)
	}
	return nil
}

func (v *Views[V]) turn(ctx context.Context, number, keep int) error {
	f, err := v.change(ctx, func(f family) (family, error) {
		next := f.announced(number, keep, v.db.token)
		return next, v.turnable(next, number)
	})
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
	f, unwritten := v.change(context.WithoutCancel(ctx), func(f family) (family, error) { return f.withdrawn(v.db.token), nil })
	if unwritten != nil {
		v.db.cfg.Log.Warn("a switch is not written down yet", "view", v.name, "generation", number, "error", unwritten)
	} else if err == nil {
		v.tidy(ctx, f)
	}
	return err
}

var errBuiltElsewhere = errors.New("another process builds it")

// turnable refuses generations that are not there, or that another process
// builds. Where none is live, nothing but this keeps two from becoming so.
func (v *Views[V]) turnable(f family, number int) error {
	if _, err := f.turned(number); err != nil {
		return err
	}
	if b, building := f.Builders[number]; building && b.Token != v.db.token {
		return errBuiltElsewhere
	}
	if f.lost() != nil && len(f.Turning) > 1 {
		return errors.New("another process is about to make another generation live")
	}
	return nil
}

// publish makes what was built fit to be read, and the live one.
func (v *Views[V]) publish(ctx context.Context, from, to int) error {
	if err := v.fit(ctx, to); err != nil {
		return err
	}
	t, err := v.tiersOf(ctx, to, true)
	if err != nil {
		return err
	}
	at := indices{db: v.db, number: to, tiers: t}
	if err = v.settle(ctx, at); err != nil {
		return err
	}
	names := v.targetsOf(at)
	r, err := put("/"+names+"/_settings", v.db.liveSettings())
	if err == nil {
		err = v.db.do(ctx, r)
	}
	if err != nil {
		return fmt.Errorf("set up %s: %w", names, err)
	}
	if err := v.refresh(ctx, names); err != nil {
		return err
	}
	return v.move(ctx, from, to)
}

// move turns the aliases of all indices, from the generation that is live: where
// that is another one by now, nothing changes.
func (v *Views[V]) move(ctx context.Context, from, to int) error {
	for range often {
		l, err := v.look(ctx)
		switch {
		case err != nil && !isLost(err):
			return err
		case err == nil && l.live == to:
			return nil
		case l.live != 0 && l.live != from:
			return fmt.Errorf("turn the aliases: generation %d has become the live one", l.live)
		}
		// Both generations' tiers are noted again, so that no year joins either meanwhile.
		now, next := l.of(to), l.of(to)
		next.turn++
		actions := append(l.hiding(), v.noting(to, now, next)...)
		if old := l.of(from); old.told {
			after := old
			after.turn++
			actions = append(actions, v.noting(from, old, after)...)
		}
		err = v.turnAliases(ctx, append(actions, v.showing(to, next)...))
		if err != nil && !isMissing(err) && !v.isLive(ctx, to) {
			return fmt.Errorf("turn the aliases: %w", err)
		}
	}
	return fmt.Errorf("turn the aliases: %w", errMoved)
}

// isLive tells of a switch that was done all the same, by a request whose answer
// was lost.
func (v *Views[V]) isLive(ctx context.Context, number int) bool {
	l, err := v.look(ctx)
	return err == nil && l.live == number
}

// arrive is what this process does when it has switched.
func (v *Views[V]) arrive(number int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.turns.Add(1)
	v.last.Store(nil)
	v.lost.Store(nil)
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
			return f, errBuiltElsewhere
		}
		return f.withdrawn(v.db.token).without(number)
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
			f = f.builtBy(n, v.db.here())
		}
		return f, nil
	})
	return err
}

// release gives up what this process builds. What it has marked stays for others.
func (v *Views[V]) release(ctx context.Context) error {
	if !v.building() {
		return nil
	}
	v.changing.Lock()
	defer v.changing.Unlock()
	f, err := v.change(ctx, func(f family) (family, error) { return f.left(v.db.token) })
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

// refresh makes what was put searchable.
func (v *Views[V]) refresh(ctx context.Context, names string) error {
	v.midway.Lock()
	defer v.midway.Unlock()
	if err := v.db.do(ctx, request{method: "POST", path: "/" + names + "/_refresh"}); err != nil {
		return fmt.Errorf("refresh %s: %w", names, err)
	}
	return nil
}

// targets names all kinds of a generation's indices for one request.
func (v *Views[V]) targets(target func(kind string) string) string {
	names := make([]string, len(v.shape.kinds))
	for i, k := range v.shape.kinds {
		names[i] = target(k.name)
	}
	return strings.Join(names, ",")
}

// targetsOf names all indices of a generation, of both tiers.
func (v *Views[V]) targetsOf(at indices) string {
	names := []string{v.targets(at.of)}
	for _, year := range at.tiers.years {
		names = append(names, v.targets(at.in(year).of))
	}
	return strings.Join(names, ",")
}

// Turn gives the generation that is live at this moment, whoever made it so.
func (v *Views[V]) Turn(ctx context.Context) (int, error) {
	l, err := v.look(ctx)
	if err != nil {
		return 0, fmt.Errorf("look which generation of %s is live: %w", v.name, err)
	}
	v.saw(l)
	return l.live, nil
}

// Get gives the live documents there are of some streams.
func (v *Views[V]) Get(ctx context.Context, streams []string) (map[string]projections.Doc[V], error) {
	return v.live.get(ctx, streams)
}

// Revisions gives the revisions of the live documents there are of some
// streams. What it reports, this process's lists show from then on.
func (v *Views[V]) Revisions(ctx context.Context, streams []string) (map[string]event.Revision, error) {
	return v.live.Revisions(ctx, streams)
}

// Stored gives the revisions of the live documents there are of some streams,
// whether lists show them yet or not. It asks for no refresh.
func (v *Views[V]) Stored(ctx context.Context, streams []string) (map[string]event.Revision, error) {
	revisions, _, err := v.live.stored(ctx, streams)
	return revisions, err
}

// Parked gives those of some streams that are parked in the live generation.
func (v *Views[V]) Parked(ctx context.Context, streams []string) (map[string]projections.Parked, error) {
	return v.live.parked(ctx, streams)
}
