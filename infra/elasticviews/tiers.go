package elasticviews

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A tiering tells a view with an archive where documents belong.
type tiering[V any] struct {
	placed   func(body V) time.Time
	archived func(body V, before time.Time) (year int, archived bool)
}

// tiers say where a generation's documents are: those closed before a boundary
// in the archive, by years, all others at hand. They are written down as aliases
// of the index at hand, so that they change in one step with the filters that
// readers see by.
type tiers struct {
	at    int64 // the boundary, as a stamp
	next  int64 // where it is moving to: what is closed before is in both tiers, or on its way
	turn  int64 // goes up with every change
	years []int // that there are indices for
	told  bool  // that it is written down at all
}

// never is the boundary of a generation that nothing was archived of.
var never = stamp(time.Time{})

func noTiers() tiers { return tiers{at: never, next: never} }

func (t tiers) has(year int) bool { return slices.Contains(t.years, year) }

// alike tells whether a document that was put by one belongs there by the other.
func (t tiers) alike(other tiers) bool {
	return t.at == other.at && t.next == other.next && t.turn == other.turn
}

// The names of tiers' indices and aliases have a dot in them, which neither
// namespaces nor views have: they are never taken for another view's.
const (
	archiveName = ".archive"
	yearName    = ".y"
	hasName     = ".has"
	tiersName   = ".at_"
)

// tiersAlias is an alias of an index at hand that says what its tiers are.
func (d *DB) tiersAlias(kind string, t tiers) string {
	return fmt.Sprintf("%s%s%d_%d_%d", d.index(kind), tiersName, t.at, t.next, t.turn)
}

// with is tiers with what one alias of an index at hand says.
func (t tiers) with(said string) tiers {
	if year, ok := strings.CutPrefix(said, hasName); ok {
		if n, err := strconv.Atoi(year); err == nil {
			t.years = append(slices.Clone(t.years), n)
		}
		return t
	}
	values, ok := strings.CutPrefix(said, tiersName)
	if !ok {
		return t
	}
	var now tiers
	if n, err := fmt.Sscanf(values, "%d_%d_%d", &now.at, &now.next, &now.turn); err == nil && n == 3 {
		t.at, t.next, t.turn, t.told = now.at, now.next, now.turn, true
	}
	return t
}

// year names the index of one year.
func (d *DB) year(kind string, year, number int) string {
	return d.index(kind) + yearName + strconv.Itoa(year) + "-" + strconv.Itoa(number)
}

// yearOf gives what year and generation an index is of.
func yearOf(index, alias string) (year, number int, ok bool) {
	digits, ok := strings.CutPrefix(index, alias+yearName)
	first, rest, dash := strings.Cut(digits, "-")
	if !ok || !dash {
		return 0, 0, false
	}
	year, err := strconv.Atoi(first)
	if err != nil {
		return 0, 0, false
	}
	number, err = strconv.Atoi(rest)
	return year, number, err == nil && number > 0
}

// A layout is what the aliases say of a view, all at one moment.
type layout struct {
	live  int           // 0 where none is
	tiers map[int]tiers // by generation
	holds [][2]string   // the indices that readers see, and the alias they see each by
	begun time.Time     // no later than the moment
}

// of gives the tiers of a generation. One without an archive has none.
func (l layout) of(number int) tiers {
	if t, known := l.tiers[number]; known {
		return t
	}
	return noTiers()
}

// look reads the aliases. It is a *lostError where readers can't be answered by
// what is there.
func (v *Views[V]) look(ctx context.Context) (layout, error) {
	l := layout{tiers: map[int]tiers{}, begun: time.Now()}
	names := make([]string, len(v.shape.kinds))
	for i, k := range v.shape.kinds {
		names[i] = v.db.index(k.name) + "*"
	}
	answer, err := ask[map[string]struct {
		Aliases map[string]json.RawMessage `json:"aliases"`
	}](ctx, v.db.c, get("/_alias/"+strings.Join(names, ",")))
	if err != nil && !isMissing(err) {
		return l, fmt.Errorf("look where %s is: %w", v.alias(), err)
	}
	seen := map[string][]string{} // indices by alias
	for _, index := range slices.Sorted(maps.Keys(answer)) {
		for alias := range answer[index].Aliases {
			seen[alias] = append(seen[alias], index)
			v.readTiers(&l, index, alias)
		}
	}
	return l, v.readLive(&l, seen)
}

// readTiers takes in what an alias says of the tiers of the index it is on.
func (v *Views[V]) readTiers(l *layout, index, alias string) {
	if v.shape.tiers == nil {
		return
	}
	number, err := numbered(index, v.alias())
	said, ours := strings.CutPrefix(alias, v.alias())
	if err != nil || !ours {
		return
	}
	t := l.of(number).with(said)
	slices.Sort(t.years)
	l.tiers[number] = t
}

// readLive finds the live generation, and what of it is missing.
func (v *Views[V]) readLive(l *layout, seen map[string][]string) error {
	var missing error
	for i, k := range v.shape.kinds {
		alias := v.db.index(k.name)
		on := seen[alias]
		for _, index := range on {
			l.holds = append(l.holds, [2]string{index, alias})
		}
		for _, index := range seen[alias+archiveName] {
			l.holds = append(l.holds, [2]string{index, alias + archiveName})
		}
		if len(on) > 1 {
			return fmt.Errorf("the alias %s is on %s: take it from all but one of them", alias, strings.Join(on, " and "))
		}
		if len(on) == 0 {
			if missing == nil {
				missing = v.lostBy("no index has the alias %s: it was deleted, or never there", alias)
			}
			continue
		}
		number, err := numbered(on[0], alias)
		if err != nil {
			return fmt.Errorf("look where %s is: %w", alias, err)
		}
		switch {
		case i == 0:
			l.live = number
		case l.live != 0 && number != l.live:
			missing = v.lostBy("the alias %s is on generation %d, and %s on %d", alias, number, v.alias(), l.live)
		}
	}
	if missing != nil || v.shape.tiers == nil {
		return missing
	}
	if t := l.of(l.live); t.told {
		return v.readYears(*l, t, seen)
	}
	return nil // an older program made it, which is found out by its mapping
}

func (v *Views[V]) readYears(l layout, t tiers, seen map[string][]string) error {
	for _, k := range v.shape.kinds {
		for _, year := range t.years {
			name := v.db.year(k.name, year, l.live)
			if !slices.Contains(seen[v.db.index(k.name)+archiveName], name) {
				return v.lostBy("the index %s of the archive is gone", name)
			}
		}
	}
	return nil
}

// lookEvery is how long a process goes by what it has seen of the tiers. Whoever
// moves the boundary waits that long before what others may have seen is wrong.
const (
	lookEvery = 50 * time.Millisecond
	allLooked = 4 * lookEvery // all processes, even those that are slow at it
)

// looked gives a layout that is no older than lookEvery.
func (v *Views[V]) looked(ctx context.Context) (layout, error) {
	if l := v.last.Load(); l != nil && time.Since(l.begun) < lookEvery {
		return *l, nil
	}
	l, err := v.look(ctx)
	if err == nil {
		v.saw(l)
	}
	return l, err
}

// saw remembers the latest layout.
func (v *Views[V]) saw(l layout) {
	for old := v.last.Load(); old == nil || old.begun.Before(l.begun); old = v.last.Load() {
		if v.last.CompareAndSwap(old, &l) {
			return
		}
	}
}

// tiersOf gives the tiers of a generation. Those of one that is not live do not
// change but for its own writers; of the live one they are as they were no
// longer ago than lookEvery, or as they were last seen where that is enough.
func (v *Views[V]) tiersOf(ctx context.Context, number int, enough bool) (tiers, error) {
	if v.shape.tiers == nil {
		return noTiers(), nil
	}
	if l := v.last.Load(); l != nil && (enough || l.live != number) {
		if t, known := l.tiers[number]; known {
			return t, nil
		}
	}
	if l, err := v.looked(ctx); err == nil {
		if t, known := l.tiers[number]; known {
			return t, nil
		}
	}
	l, err := v.look(ctx)
	if err != nil && (!isLost(err) || l.live == number) {
		return tiers{}, err
	}
	v.saw(l)
	return l.of(number), nil
}

// An aliasAction is one step of a change of aliases, all of which are one.
type aliasAction map[string]any

func take(index, alias string) aliasAction {
	return aliasAction{"remove": map[string]any{"index": index, "alias": alias, "must_exist": true}}
}

func give(index, alias string, filter any) aliasAction {
	on := map[string]any{"index": index, "alias": alias}
	if filter != nil {
		on["filter"] = filter
	}
	return aliasAction{"add": on}
}

// closedBefore are the documents that the archive has.
func closedBefore(at int64) any { return within("closed", "lt", at) }

// showing lets readers see a generation by its boundary.
func (v *Views[V]) showing(number int, t tiers) []aliasAction {
	var actions []aliasAction
	for _, k := range v.shape.kinds {
		alias := v.db.index(k.name)
		var filter any
		if t.at != never {
			filter = none(closedBefore(t.at))
		}
		actions = append(actions, give(v.db.index(k.name, number), alias, filter))
		for _, year := range t.years {
			actions = append(actions, give(v.db.year(k.name, year, number), alias+archiveName, closedBefore(t.at)))
		}
	}
	return actions
}

// noting replaces what a generation's tiers are said to be. It fails where that
// was changed meanwhile.
func (v *Views[V]) noting(number int, before, after tiers) []aliasAction {
	if v.shape.tiers == nil {
		return nil
	}
	hot, kind := v.db.index(v.shape.kinds[0].name, number), v.shape.kinds[0].name
	actions := []aliasAction{}
	if before.told {
		actions = append(actions, take(hot, v.db.tiersAlias(kind, before)))
	}
	actions = append(actions, give(hot, v.db.tiersAlias(kind, after), nil))
	for _, year := range after.years {
		actions = append(actions, give(hot, v.alias()+hasName+strconv.Itoa(year), nil))
	}
	return actions
}

// hiding takes from readers all that they see.
func (l layout) hiding() []aliasAction {
	actions := make([]aliasAction, len(l.holds))
	for i, hold := range l.holds {
		actions[i] = take(hold[0], hold[1])
	}
	return actions
}

func (v *Views[V]) turnAliases(ctx context.Context, actions []aliasAction) error {
	r, err := post("/_aliases", map[string]any{"actions": actions})
	if err == nil {
		err = v.db.do(ctx, r)
	}
	return err
}

// retier changes the tiers of a generation in one step, again and again until
// nobody else was faster. Change gives what it should be, and false where it is
// that already. Live asks that the generation be live, and that is errNotLive
// where it is not.
func (v *Views[V]) retier(ctx context.Context, number int, live bool, change func(tiers) (tiers, bool)) (tiers, error) {
	for pause := v.db.c.pause; ; pause = min(2*pause, longest) {
		l, err := v.look(ctx)
		if err != nil && (live || !isLost(err)) {
			return tiers{}, err
		}
		v.saw(l)
		now, known := l.tiers[number]
		if live && l.live != number {
			return now, errNotLive
		}
		if !known {
			return now, fmt.Errorf("%w: there is no generation %d", errDropped, number)
		}
		after, changed := change(now)
		if !changed {
			return now, nil
		}
		after.turn = now.turn + 1
		actions := v.noting(number, now, after)
		if l.live == number {
			actions = append(append(actions, l.hiding()...), v.showing(number, after)...)
		}
		if err := v.turnAliases(ctx, actions); err != nil && !isMissing(err) {
			return now, fmt.Errorf("change the tiers: %w", err)
		}
		// Whether it was this change or another that came first is seen by looking.
		if err := sleep(ctx, pause/8); err != nil {
			return now, err
		}
	}
}

var errNotLive = errors.New("another generation is live")

// join makes the indices of a year and lets readers see them.
func (v *Views[V]) join(ctx context.Context, number int, years []int) (tiers, error) {
	l, err := v.looked(ctx)
	if err != nil && !isLost(err) {
		return tiers{}, err
	}
	settings := buildSettings
	if l.live == number {
		settings = v.db.liveSettings
	}
	for _, year := range years {
		for _, k := range v.shape.kinds {
			if err := v.db.create(ctx, v.db.year(k.name, year, number), k, settings(), nil); err != nil {
				return tiers{}, err
			}
		}
	}
	return v.retier(ctx, number, false, func(t tiers) (tiers, bool) {
		changed := false
		t.years = slices.Clone(t.years)
		for _, year := range years {
			if !t.has(year) {
				t.years, changed = append(t.years, year), true
			}
		}
		slices.Sort(t.years)
		return t, changed
	})
}
