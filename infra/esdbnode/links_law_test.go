package esdbnode_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cartwright/infra/esdbnode"
)

// linkModel is what streams of links have, by what was seen of the log before any of
// it was thrown away.
type linkModel struct {
	seen  uint64              // the position up to which the log was looked at
	links map[string][]string // by stream, where each leads
	kinds map[string]bool     // of links that were asked for
}

// see takes notice of an event. The rules are told here in another way than the node
// has them.
func (m *linkModel) see(e *esdb.RecordedEvent) {
	m.seen = e.Position.Commit
	stream, meta := strings.CutPrefix(e.StreamID, "$$")
	if strings.HasPrefix(stream, "$") {
		return
	}
	to := fmt.Sprintf("%d@%s", e.EventNumber, e.StreamID)
	deletes := e.EventType == "$streamDeleted" || meta && strings.Contains(string(e.Data), `"$tb":9223372036854775807`)
	if category, _, ok := strings.Cut(stream, "-"); ok && category != "" && (!meta || deletes) {
		m.add("$ce-"+category, to)
	}
	if deletes {
		m.add("$et-$deleted", to)
	} else {
		m.add("$et-"+e.EventType, to)
	}
}

func (m *linkModel) add(stream, to string) {
	if m.kinds[stream[:4]] {
		m.links[stream] = append(m.links[stream], to)
	}
}

// A linkLaw is a node with its model.
type linkLaw struct {
	t     *rapid.T
	tb    *testing.T
	disk  *vfs.MemFS
	run   *running
	model linkModel

	client *esdb.Client
}

func (l *linkLaw) open() {
	tail := rapid.SampledFrom([]int{2, 8192}).Draw(l.t, "events in memory")
	l.run = start(l.tb, esdbnode.Options{Dir: "log", FS: l.disk, Reserve: -1, TailEvents: tail, MemTable: 128 << 10})
	l.client = dial(l.tb, l.run.uri)
}

// look lets the model see what is new in the log.
func (l *linkLaw) look() {
	all, err := log(l.tb.Context(), l.client, esdb.ReadAllOptions{From: esdb.Position{Commit: l.model.seen + 1, Prepare: l.model.seen + 1}})
	if err != nil {
		l.t.Fatal(err)
	}
	for _, e := range all {
		l.model.see(e.Event)
	}
}

// first asks for links of a kind for the first time: what is in the log by then is
// all that has numbers.
func (l *linkLaw) first(kind string) {
	if l.model.kinds[kind] {
		return
	}
	l.model.kinds[kind] = true
	fresh := linkModel{links: map[string][]string{}, kinds: map[string]bool{kind: true}}
	all, err := log(l.tb.Context(), l.client, esdb.ReadAllOptions{From: esdb.Start{}})
	if err != nil {
		l.t.Fatal(err)
	}
	for _, e := range all {
		fresh.see(e.Event)
	}
	maps.Copy(l.model.links, fresh.links)
}

// shown are the events that their streams show, as links lead to them.
func (l *linkLaw) shown() map[string]bool {
	shown := map[string]bool{}
	for _, stream := range lawStreams() {
		for _, s := range []string{stream, "$$" + stream} {
			got, err := readAll(l.tb.Context(), l.client, s, esdb.ReadStreamOptions{}, 1000)
			if err != nil && codeOf(err) != esdb.ErrorCodeResourceNotFound && codeOf(err) != esdb.ErrorCodeStreamDeleted {
				l.t.Fatal(err)
			}
			for _, e := range got {
				shown[fmt.Sprintf("%d@%s", e.Event.EventNumber, s)] = true
			}
		}
	}
	return shown
}

func lawStreams() []string { return []string{"a-1", "a-2", "b-1-2", "plain", "$sys-1"} }

// check reads streams of links in every way and compares them with the model.
func (l *linkLaw) check() {
	names := []string{"$ce-a", "$ce-b", "$ce-plain", "$ce-$sys", "$et-x", "$et-y", "$et-$deleted", "$et-$metadata"}
	stream := rapid.SampledFrom(names).Draw(l.t, "links")
	l.first(stream[:4])
	shown := l.shown()
	want := l.model.links[stream]
	from := uint64(rapid.IntRange(0, len(want)+1).Draw(l.t, "from"))
	count := uint64(rapid.IntRange(1, len(want)+2).Draw(l.t, "count"))
	o := esdb.ReadStreamOptions{From: esdb.Revision(from), ResolveLinkTos: rapid.Bool().Draw(l.t, "with events")}
	var expected []string
	say := func(n uint64) {
		to := want[n]
		switch {
		case !o.ResolveLinkTos:
			to += ", not followed"
		case shown[to]:
			to += " there"
		}
		expected = append(expected, fmt.Sprintf("%d: %s", n, to))
	}
	if rapid.Bool().Draw(l.t, "backwards") {
		o.Direction = esdb.Backwards
		for n := int(min(from, uint64(len(want))-1)); len(want) > 0 && n >= 0 && uint64(len(expected)) < count; n-- {
			say(uint64(n))
		}
	} else {
		for n := from; n < uint64(len(want)) && uint64(len(expected)) < count; n++ {
			say(n)
		}
	}
	got, err := readAll(l.tb.Context(), l.client, stream, o, count)
	if len(want) == 0 && codeOf(err) == esdb.ErrorCodeResourceNotFound {
		return
	}
	var told []string
	for _, e := range got {
		s := saidOf(e)
		if e.Link != nil && e.Event != nil {
			s = fmt.Sprintf("%d: %s there", e.Link.EventNumber, e.Link.Data)
			if to := fmt.Sprintf("%d@%s", e.Event.EventNumber, e.Event.StreamID); to != string(e.Link.Data) {
				l.t.Fatalf("%s leads to %s", s, to)
			}
		}
		told = append(told, s)
	}
	if diff := cmp.Diff(expected, told); diff != "" || err != nil {
		l.t.Fatalf("%s %+v: %v (-want +got):\n%s", stream, o, err, diff)
	}
}

// TestLinksAreWhatTheLogWas appends, deletes, hides, throws away and opens again in
// any order, and reads links in between: they are what was in the log, in its order,
// with the numbers they had.
func TestLinksAreWhatTheLogWas(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := &linkLaw{t: rt, tb: t, disk: vfs.NewMem(), model: linkModel{links: map[string][]string{}, kinds: map[string]bool{}}}
		l.open()
		defer func() { l.run.stop() }()
		steps := map[string]func(stream string){
			"append": func(stream string) {
				kinds := rapid.SliceOfN(rapid.SampledFrom([]string{"x", "y"}), 1, 4).Draw(rt, "types")
				_, err := l.client.AppendToStream(t.Context(), stream, esdb.AppendToStreamOptions{ExpectedRevision: esdb.Any{}}, fresh(kinds...)...)
				l.accept(err, esdb.ErrorCodeStreamDeleted)
			},
			"hide": func(stream string) {
				meta := rapid.SampledFrom([]string{`{"$maxCount":1}`, `{"$tb":2}`, `{"$maxCount":3,"$tb":1}`, `{}`}).Draw(rt, "metadata")
				event := fresh("$metadata")[0]
				event.Data = []byte(meta)
				_, err := l.client.AppendToStream(t.Context(), "$$"+stream, esdb.AppendToStreamOptions{ExpectedRevision: esdb.Any{}}, event)
				l.accept(err, esdb.ErrorCodeStreamDeleted)
			},
			"delete": func(stream string) {
				_, err := l.client.DeleteStream(t.Context(), stream, esdb.DeleteStreamOptions{ExpectedRevision: esdb.Any{}})
				l.accept(err, esdb.ErrorCodeStreamDeleted, esdb.ErrorCodeUnknown) // there is none
			},
			"end": func(stream string) {
				if rapid.IntRange(0, 4).Draw(rt, "really") > 0 {
					return
				}
				_, err := l.client.TombstoneStream(t.Context(), stream, esdb.TombstoneStreamOptions{ExpectedRevision: esdb.Any{}})
				l.accept(err, esdb.ErrorCodeStreamDeleted)
			},
			"scavenge": func(string) { sweep(t, l.run.node) },
			"restart": func(string) {
				l.run.stop()
				l.open()
			},
			"check": func(string) { l.check() },
		}
		names := slices.Sorted(maps.Keys(steps))
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			steps[rapid.SampledFrom(names).Draw(rt, "step")](rapid.SampledFrom(lawStreams()).Draw(rt, "stream"))
			l.look()
		}
		l.check()
	})
}

// accept takes a refusal that the model takes, too.
func (l *linkLaw) accept(err error, codes ...esdb.ErrorCode) {
	if err != nil && !slices.Contains(codes, codeOf(err)) {
		l.t.Fatal(err)
	}
}

// TestLinksKeepTheirNumbersThroughCrashes takes the power away while links are made,
// read, and their events scavenged: what a reader was told leads there ever after.
func TestLinksKeepTheirNumbersThroughCrashes(t *testing.T) {
	rounds := 2
	if soak() {
		rounds = 100
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	disk := vfs.NewCrashableMem()
	told := map[string]string{}
	for range rounds {
		for _, percent := range []int{0, 50, 100} {
			disk = crashWithLinks(t, disk, told, percent, rng)
		}
	}
}

// TestThatLinksWereAskedForIsNotForgotten loses all that was not synced right after
// links were read for the first time, and throws their events away.
func TestThatLinksWereAskedForIsNotForgotten(t *testing.T) {
	disk := vfs.NewCrashableMem()
	r := start(t, esdbnode.Options{Dir: "log", FS: disk, Reserve: -1})
	client := dial(t, r.uri)
	write(t, client, "s-1", 3)
	wantLinks(t, client, "$ce-s", "0: 0@s-1 written", "1: 1@s-1 written", "2: 2@s-1 written")
	crashed := disk.CrashClone(vfs.CrashCloneCfg{})
	r = start(t, esdbnode.Options{Dir: "log", FS: crashed, Reserve: -1})
	client = dial(t, r.uri)
	describe(t, client, "s-1", `{"$maxCount":1}`)
	sweep(t, r.node)
	wantLinks(t, client, "$ce-s", "0: 0@s-1", "1: 1@s-1", "2: 2@s-1 written")
}

// crashWithLinks opens a log, wants it to have what was told, goes on with it, and
// gives what a crash leaves of its disk.
func crashWithLinks(t *testing.T, disk *vfs.MemFS, told map[string]string, percent int, rng *rand.Rand) *vfs.MemFS {
	t.Helper()
	r := start(t, esdbnode.Options{Dir: "log", FS: disk, Reserve: -1, MemTable: 128 << 10, TailEvents: 64})
	defer r.stop()
	client := dial(t, r.uri)
	for _, stream := range []string{"$ce-s", "$et-x"} {
		wantTold(t, client, stream, told)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for w := range 4 {
		wg.Go(func() { appendBounded(ctx, client, fmt.Sprintf("s-%d", w)) })
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			if _, err := r.node.Scavenge(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("scavenge: %v", err)
				return
			}
		}
	})
	for enough := len(told) + 200 + rng.IntN(200); len(told) < enough; {
		for _, stream := range []string{"$ce-s", "$et-x"} {
			wantTold(t, client, stream, told)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	return disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
}

func wantTold(t *testing.T, client *esdb.Client, stream string, told map[string]string) {
	t.Helper()
	got, err := readAll(t.Context(), client, stream, esdb.ReadStreamOptions{}, 1<<40)
	if err != nil && codeOf(err) != esdb.ErrorCodeResourceNotFound {
		t.Fatal(err)
	}
	for i, e := range got {
		key, says := fmt.Sprintf("%s %d", stream, i), fmt.Sprintf("%d %d %s", e.Event.EventNumber, e.Event.Position.Commit, e.Event.Data)
		if was, ok := told[key]; ok && was != says {
			t.Fatalf("%s was %s, and is %s", key, was, says)
		}
		told[key] = says
	}
	if was, ok := told[fmt.Sprintf("%s %d", stream, len(got))]; ok {
		t.Fatalf("%s has %d links, and behind them was %s", stream, len(got), was)
	}
}

// appendBounded appends to a stream that shows two events.
func appendBounded(ctx context.Context, client *esdb.Client, stream string) {
	meta := fresh("$metadata")[0]
	meta.Data = []byte(`{"$maxCount":2}`)
	o := esdb.AppendToStreamOptions{ExpectedRevision: esdb.Any{}}
	if _, err := client.AppendToStream(ctx, "$$"+stream, o, meta); err != nil {
		return
	}
	for ctx.Err() == nil {
		if _, err := client.AppendToStream(ctx, stream, o, fresh("x", "y")...); err != nil {
			return
		}
	}
}
