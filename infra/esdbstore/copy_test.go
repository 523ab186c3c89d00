package esdbstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"

	"cartwright/domain/event"
	"cartwright/infra/esdbnode"
	"cartwright/infra/esdbstore"
	"cartwright/infra/storetest"
)

// history fills a log as a shop does: checkouts that each touch an order, a hot
// stock, an account and a key, among bookmarks and snapshots. Each append has
// as many events as the shop's, times a number.
func history(t *testing.T, s *esdbstore.Store, checkouts, times int) {
	t.Helper()
	next := map[string]event.Revision{}
	add := func(stream, correlation string, n int) {
		events := storetest.Events(n * times)
		for i := range events {
			events[i].Meta = event.Meta{Correlation: correlation, Cause: events[i].ID, Actor: "test", At: time.Date(2020, 1, 2, 3, 4, 5, i, time.UTC)}
			events[i].Version = 1 + i%3
			events[i].Data = fmt.Appendf(nil, `{"of": %q,  "n":%d}`, stream, i)
		}
		if err := s.Append(t.Context(), stream, next[stream], events); err != nil {
			t.Fatal(err)
		}
		next[stream] += event.Revision(n * times)
	}
	for i := range checkouts {
		correlation := fmt.Sprintf("c-%d", i)
		if i%5 == 0 {
			add(fmt.Sprintf("key-%d", i), "", 1)
		}
		add(fmt.Sprintf("inventory-%d", i%3), correlation, 1)
		add(fmt.Sprintf("order-%d", i), correlation, 2)
		add(fmt.Sprintf("account-%d", i%40), correlation, 2)
		add(fmt.Sprintf("inventory-%d", i%3), correlation, 1)
		if i%20 == 0 {
			add("relay-kafka", "", 1)
			add(fmt.Sprintf("snapshot-inventory-%d", i%3), "", 1)
		}
	}
	for i := range min(checkouts, 4) {
		if i%2 == 0 {
			continue
		}
		if err := s.Tombstone(t.Context(), fmt.Sprintf("order-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.Tombstone(t.Context(), "key-0"), s.KeepNewest(t.Context(), "relay-kafka", 1), s.KeepNewest(t.Context(), "account-1", 1)); err != nil {
		t.Fatal(err)
	}
}

func collect(t *testing.T, s *esdbstore.Store) []event.Recorded {
	t.Helper()
	var all []event.Recorded
	for e, err := range s.All(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func leave(stream string) bool {
	return strings.HasPrefix(stream, "relay-") || strings.HasPrefix(stream, "snapshot-")
}

func newCopy(from, to *esdbstore.Store) *esdbstore.Copy {
	return &esdbstore.Copy{From: from, To: to, Leave: []string{"relay", "snapshot"}}
}

// wantCopy checks, event by event and by the copy's own comparison, that the
// target is one.
func wantCopy(t *testing.T, c *esdbstore.Copy, ended ...string) {
	t.Helper()
	gone := map[string]bool{}
	for _, s := range ended {
		gone[s] = true
	}
	want := map[string]event.Recorded{}
	for _, e := range collect(t, c.From) {
		if !leave(e.Stream) && !gone[e.Stream] {
			want[fmt.Sprint(e.Stream, "@", e.Revision)] = e
		}
	}
	got := slices.DeleteFunc(collect(t, c.To), func(e event.Recorded) bool { return gone[e.Stream] }) // erased after they were copied
	if len(got) != len(want) {
		t.Errorf("%d events, want %d", len(got), len(want))
	}
	for _, g := range got {
		w, ok := want[fmt.Sprint(g.Stream, "@", g.Revision)]
		if !ok {
			t.Fatalf("%s@%d is not in the source", g.Stream, g.Revision)
		}
		if g.ID != w.ID || g.Name != w.Name || g.Version != w.Version || string(g.Data) != string(w.Data) || g.Meta != w.Meta || !g.Created.Equal(w.Created) {
			t.Fatalf("%+v\nwas copied as\n%+v", w, g)
		}
	}
	for s := range gone {
		if err := last(c.To.Load(t.Context(), s, 0)); !errors.Is(err, event.ErrDeleted) {
			t.Errorf("%s in the target: %v", s, err)
		}
	}
	cmp, err := c.Compare(t.Context(), 0)
	if err != nil || !cmp.Same() || len(cmp.Differences) > 0 || cmp.To.Events != uint64(len(want)) || cmp.To.Ended != uint64(len(gone)) {
		t.Errorf("compare: %+v, %v", cmp, err)
	}
}

func twoStores(t *testing.T) (from, to *esdbstore.Store) {
	t.Helper()
	return open(t, serve(t, newPlace(t)).uri), open(t, serve(t, newPlace(t)).uri)
}

func TestACopyIsTheSameHistory(t *testing.T) {
	from, to := twoStores(t)
	history(t, from, 200, 1)
	c := newCopy(from, to)
	var told []esdbstore.Progress
	c.Report = func(p esdbstore.Progress) { told = append(told, p) }
	done, err := c.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if done.Resumed != 0 || done.Ended != 3 || done.Limited != 1 || done.Undated != 0 || len(told) == 0 {
		t.Errorf("got %+v, told %d times", done, len(told))
	}
	wantCopy(t, c, "order-1", "order-3", "key-0")
	if got := collectStream(t, to, "account-1"); len(got) != 1 || got[0].Revision < 2 {
		t.Errorf("a stream that shows only its newest event shows %d", len(got))
	}
	wantOrder(t, from, to)

	head, err := to.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Run(t.Context())
	if err != nil {
		t.Fatalf("a second copy: %+v, %v", again, err)
	}
	if now, err := to.Head(t.Context()); err != nil || now != head {
		t.Errorf("a second copy moved the end of the target from %d to %d, %v", head, now, err)
	}
}

func collectStream(t *testing.T, s *esdbstore.Store, stream string) []event.Recorded {
	t.Helper()
	var all []event.Recorded
	for e, err := range s.Load(t.Context(), stream, 0) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// wantOrder checks what is promised of the order: within a stream and within a
// correlation it is that of the source, and nothing is a window from its place.
func wantOrder(t *testing.T, from, to *esdbstore.Store) {
	t.Helper()
	place := map[string]int{}
	for _, e := range collect(t, from) {
		if !leave(e.Stream) {
			place[e.ID] = len(place)
		}
	}
	last, moved := map[string]int{}, 0
	for i, e := range collect(t, to) {
		at := place[e.ID]
		if at != i {
			moved++
		}
		if i-at > 2048 || at-i > 2048+10 { // those of ended streams are missing in the target
			t.Errorf("event %d of the source is event %d of the target", at, i)
		}
		for _, line := range []string{"stream " + e.Stream, "correlation " + e.Correlation} {
			if line == "correlation " {
				continue
			}
			if before, ok := last[line]; ok && before > at {
				t.Fatalf("%s: event %d comes before event %d", line, before, at)
			}
			last[line] = at
		}
	}
	t.Logf("%d events, %d of them not at their places", len(place), moved)
}

func TestAnExactCopyHasTheOrderOfTheSource(t *testing.T) {
	from, to := twoStores(t)
	history(t, from, 60, 1)
	c := newCopy(from, to)
	c.Exact = true
	if _, err := c.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantCopy(t, c, "order-1", "order-3", "key-0")
	var want []string
	for _, e := range collect(t, from) {
		if !leave(e.Stream) && e.Stream != "order-1" && e.Stream != "order-3" && e.Stream != "key-0" {
			want = append(want, e.ID)
		}
	}
	for i, e := range collect(t, to) {
		if e.ID != want[i] {
			t.Fatalf("event %d is another", i)
		}
	}
}

// TestACopyThatIsBrokenOffGoesOn ends a copy wherever it is, many times over,
// and restarts the target under the last one.
func TestACopyThatIsBrokenOffGoesOn(t *testing.T) {
	from := open(t, serve(t, newPlace(t)).uri)
	history(t, from, 120, 6)
	at := newPlace(t)
	node := serve(t, at)
	to := open(t, node.uri)
	broken := 0
	for i := range 8 {
		ctx, cancel := context.WithCancel(t.Context())
		c := newCopy(from, to)
		c.InFlight = 1 + rand.N(40)
		var events uint64
		c.Report = func(p esdbstore.Progress) { events = p.Events }
		time.AfterFunc(time.Duration(20+rand.N(60*(i+1)))*time.Millisecond, cancel)
		_, err := c.Run(ctx)
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("run %d after %d events: %v", i, events, err)
		}
		if err != nil {
			broken++
		}
	}
	c := newCopy(from, to)
	ran := make(chan error, 1)
	go func() {
		_, err := c.Run(t.Context())
		ran <- err
	}()
	node.stop()
	serve(t, at)
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	if broken == 0 {
		t.Error("no copy was broken off")
	}
	if done, err := c.Run(t.Context()); err != nil || done.Resumed == 0 || done.Events > 4200 { // the window of the target's newest event, which may be its first, one before it, and the tombstones behind
		t.Errorf("of all that was there: %+v, %v", done, err)
	}
	wantCopy(t, c, "order-1", "order-3", "key-0")
}

// TestACopyGoesOnWithWhatCameSince copies, lets the source go on, and copies again.
func TestACopyGoesOnWithWhatCameSince(t *testing.T) {
	from, to := twoStores(t)
	c := newCopy(from, to)
	if done, err := c.Run(t.Context()); err != nil || done.Events != 0 {
		t.Fatalf("of an empty log: %+v, %v", done, err)
	}
	wantCopy(t, c)
	history(t, from, 10, 1)
	if _, err := c.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		if err := from.Append(t.Context(), "offer-1", event.Revision(i), storetest.Events(1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := from.Tombstone(t.Context(), "key-5"); err != nil { // erased after it was copied
		t.Fatal(err)
	}
	cmp, err := c.Compare(t.Context(), 0)
	if err != nil || cmp.Same() || len(cmp.Differences) != 2 {
		t.Errorf("before it goes on: %+v, %v", cmp, err)
	}
	if _, err := c.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantCopy(t, c, "order-1", "order-3", "key-0", "key-5")
}

// TestAScavengedHistoryIsCopied copies a log from which the events of ended
// streams are gone: one erased before the copy began, and one after it was copied.
func TestAScavengedHistoryIsCopied(t *testing.T) {
	source := serve(t, newPlace(t))
	from, to := open(t, source.uri), open(t, serve(t, newPlace(t)).uri)
	for i := range 40 {
		for _, category := range []string{"order", "key"} {
			if err := from.Append(t.Context(), fmt.Sprintf("%s-%d", category, i), 0, storetest.Events(1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	erase := func(stream string) {
		t.Helper()
		if err := from.Tombstone(t.Context(), stream); err != nil {
			t.Fatal(err)
		}
		if done, err := source.node.Scavenge(t.Context()); err != nil || done.Events != 1 {
			t.Fatalf("%+v, %v", done, err)
		}
	}
	c := newCopy(from, to)
	ended := []string{}
	for _, stream := range []string{"key-7", "key-0", "key-39"} {
		erase(stream)
		ended = append(ended, stream)
		if done, err := c.Run(t.Context()); err != nil || done.Ended != uint64(len(ended)) {
			t.Fatalf("%+v, %v", done, err)
		}
		wantCopy(t, c, ended...)
	}
	if err := from.Append(t.Context(), "order-40", 0, storetest.Events(1)); err != nil {
		t.Fatal(err)
	}
	if done, err := c.Run(t.Context()); err != nil || done.Events == 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	wantCopy(t, c, ended...)
}

func TestATargetWithAnotherHistoryIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		write  func(to *esdbstore.Store) error
		stream string
	}{
		"a stream of its own":      {func(to *esdbstore.Store) error { return to.Append(t.Context(), "order-x", 0, storetest.Events(1)) }, "order-x"},
		"another event in a place": {func(to *esdbstore.Store) error { return to.Append(t.Context(), "order-2", 0, storetest.Events(1)) }, "order-2"},
		"a bookmark":               {func(to *esdbstore.Store) error { return to.Append(t.Context(), "relay-kafka", 0, storetest.Events(1)) }, "relay-kafka"},
		"a tombstone":              {func(to *esdbstore.Store) error { return to.Tombstone(t.Context(), "order-2") }, "order-2"},
	} {
		from, to := twoStores(t)
		history(t, from, 8, 1)
		if err := c.write(to); err != nil {
			t.Fatal(err)
		}
		_, err := newCopy(from, to).Run(t.Context())
		other, ok := errors.AsType[*esdbstore.ForeignError](err)
		if !ok || other.Stream != c.stream || other.Revision != 1 {
			t.Errorf("%s: %v", name, err)
		}
		cmp, err := newCopy(from, to).Compare(t.Context(), 0)
		if err != nil || cmp.Same() || len(cmp.Differences) == 0 {
			t.Errorf("%s: compare says %+v, %v", name, cmp, err)
		}
	}
}

// TestDifferencesAreListed changes a copy that was whole.
func TestDifferencesAreListed(t *testing.T) {
	from, to := twoStores(t)
	history(t, from, 30, 1)
	c := newCopy(from, to)
	if _, err := c.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		from.Append(t.Context(), "order-5", 2, storetest.Events(1)),
		from.Append(t.Context(), "order-new", 0, storetest.Events(1)),
		to.Append(t.Context(), "order-other", 0, storetest.Events(3)),
		from.Tombstone(t.Context(), "order-7"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	same := storetest.Event("thing.happened", `{"n":1}`)
	other := same
	other.Data = []byte(`{"n":2}`)
	meta := same
	meta.Actor = "somebody"
	if err := errors.Join(
		from.Append(t.Context(), "order-data", 0, []event.Recorded{same}), to.Append(t.Context(), "order-data", 0, []event.Recorded{other}),
		from.Append(t.Context(), "order-meta", 0, []event.Recorded{same}), to.Append(t.Context(), "order-meta", 0, []event.Recorded{meta}),
	); err != nil {
		t.Fatal(err)
	}
	cmp, err := c.Compare(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, d := range cmp.Differences {
		got[d.Stream] = fmt.Sprint(d.From, " ", d.To, " ", d.Detail)
	}
	for stream, want := range map[string]string{
		"order-5": "3 2 has another end", "order-new": "1 0 is missing in the target", "order-other": "0 3 is not in the source",
		"order-7": "0 2 has a tombstone on one side only", "order-data": "1 1 has other events", "order-meta": "1 1 has other metadata",
	} {
		if got[stream] != want {
			t.Errorf("%s: %q, want %q", stream, got[stream], want)
		}
	}
	if len(got) != 6 || cmp.More {
		t.Errorf("got %v", got)
	}
	empty := &esdbstore.Copy{From: from, To: open(t, serve(t, newPlace(t)).uri), Leave: c.Leave}
	if cmp, err := empty.Compare(t.Context(), 0); err != nil || cmp.Same() || !cmp.More && len(cmp.Differences) < 30 || cmp.To.Events != 0 {
		t.Errorf("of an empty target: %+v, %v", cmp, err)
	}
}

// TestAStreamWithoutItsBeginningIsRefused copies a stream that was scavenged of
// its oldest events: the rest can't have its revisions elsewhere.
func TestAStreamWithoutItsBeginningIsRefused(t *testing.T) {
	source := serve(t, newPlace(t))
	from := open(t, source.uri)
	if err := errors.Join(
		from.Append(t.Context(), "s", 0, storetest.Events(3)), from.Append(t.Context(), "t", 0, storetest.Events(1)),
		from.KeepNewest(t.Context(), "s", 1),
	); err != nil {
		t.Fatal(err)
	}
	if _, err := source.node.Scavenge(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := newCopy(from, open(t, serve(t, newPlace(t)).uri)).Run(t.Context())
	gap, ok := errors.AsType[*esdbstore.GapError](err)
	if !ok || gap.Stream != "s" || gap.First != 3 || gap.Have != 0 {
		t.Errorf("got %v", err)
	}
}

func TestWhatOthersWroteIsCopiedByteForByte(t *testing.T) {
	source, target := serve(t, newPlace(t)), serve(t, newPlace(t))
	client := raw(t, source.uri)
	metas := []string{"", "{}", ` { "a" : [1, {"b":"}"}] } ` + "\n", "not json", `[1]`, `null`, `"text"`, `{"created":"once upon a time"}`, `{"$correlationId":"c","created":"2020-01-02T03:04:05Z"}`, "\x00\xff"}
	for i, meta := range metas {
		e := esdb.EventData{EventID: uuid.New(), EventType: "foreign", Data: []byte{0, 0xff, byte(i)}, Metadata: []byte(meta), ContentType: esdb.ContentTypeBinary}
		if i%2 == 0 {
			e.ContentType, e.Data = esdb.ContentTypeJson, []byte(` {"n" :  1.50 }`)
		}
		if _, err := client.AppendToStream(t.Context(), "foreign-1", esdb.AppendToStreamOptions{}, e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.AppendToStream(t.Context(), "links", esdb.AppendToStreamOptions{}, esdb.EventData{EventID: uuid.New(), EventType: "$>", Data: []byte("0@foreign-1"), ContentType: esdb.ContentTypeBinary}); err != nil {
		t.Fatal(err)
	}
	c := newCopy(open(t, source.uri), open(t, target.uri))
	done, err := c.Run(t.Context())
	if err != nil || done.Events != uint64(len(metas)+1) || done.Undated != 5 {
		t.Fatalf("got %+v, %v", done, err)
	}
	was, is := rawStream(t, client, "foreign-1"), rawStream(t, raw(t, target.uri), "foreign-1")
	for i := range was {
		w, g := was[i].Event, is[i].Event
		if w.EventID != g.EventID || w.EventType != g.EventType || w.ContentType != g.ContentType || string(w.Data) != string(g.Data) {
			t.Errorf("%q: %+v was copied as %+v", metas[i], w, g)
		}
		if i >= 3 {
			if string(g.UserMetadata) != metas[i] {
				t.Errorf("%q was copied as %q", metas[i], g.UserMetadata)
			}
			continue
		}
		var m struct{ Created time.Time }
		if err := json.Unmarshal(g.UserMetadata, &m); err != nil || !m.Created.Equal(w.CreatedDate) {
			t.Errorf("%q was copied as %q, %v", metas[i], g.UserMetadata, err)
		}
	}
	if cmp, err := c.Compare(t.Context(), 0); err != nil || !cmp.Same() || cmp.From.Streams != 2 {
		t.Errorf("compare: %+v, %v", cmp, err)
	}
	// A copy of the copy still has the first time.
	third := open(t, serve(t, newPlace(t)).uri)
	if _, err := newCopy(c.To, third).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := collectStream(t, third, "foreign-1"); !got[0].Created.Equal(was[0].Event.CreatedDate) || got[8].Created.Year() != 2020 {
		t.Errorf("the copy of the copy was created %v and %v", got[0].Created, got[8].Created)
	}
}

func rawStream(t *testing.T, client *esdb.Client, stream string) []*esdb.ResolvedEvent {
	t.Helper()
	read, err := client.ReadStream(t.Context(), stream, esdb.ReadStreamOptions{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	var all []*esdb.ResolvedEvent
	for e, err := read.Recv(); err == nil; e, err = read.Recv() {
		all = append(all, e)
	}
	return all
}

func TestACopyToWhereItMayNotWriteEndsAtOnce(t *testing.T) {
	from := open(t, serve(t, newPlace(t)).uri)
	history(t, from, 5, 1)
	at := newPlace(t)
	node := serve(t, at)
	to := open(t, node.uri)
	node.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := newCopy(from, to).Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while the target is away: %v", err)
	}
	serve(t, at)
	if _, err := newCopy(from, nil).Run(t.Context()); err == nil {
		t.Error("a copy to nowhere")
	}
}

// BenchmarkCopy carries 4,000 events of a shop's size.
func BenchmarkCopy(b *testing.B) {
	for _, exact := range []bool{false, true} {
		b.Run(fmt.Sprintf("exact=%t", exact), func(b *testing.B) {
			dir := b.TempDir()
			from := open(b, serve(b, place{dir: dir, socket: b.TempDir() + "/n.sock"}).uri)
			events := 0
			next := map[string]event.Revision{}
			for i := range 800 {
				for _, stream := range []string{fmt.Sprintf("inventory-%d", i%100), fmt.Sprintf("order-%d", i), fmt.Sprintf("account-%d", i%500), fmt.Sprintf("order-%d", i), fmt.Sprintf("inventory-%d", i%100)} {
					e := storetest.Event("thing.happened", `{"note":"`+strings.Repeat("x", 390)+`"}`)
					e.Meta = event.Meta{Cause: e.ID, Digest: e.ID, Correlation: fmt.Sprint("c", i), Actor: "anonymous", At: time.Now()}
					if err := from.Append(b.Context(), stream, next[stream], []event.Recorded{e}); err != nil {
						b.Fatal(err)
					}
					next[stream]++
					events++
				}
			}
			b.ResetTimer()
			for b.Loop() {
				b.StopTimer()
				node, err := esdbnode.Open(esdbnode.Options{Dir: b.TempDir()})
				if err != nil {
					b.Fatal(err)
				}
				if err = node.Close(b.Context()); err != nil {
					b.Fatal(err)
				}
				to := open(b, serve(b, place{dir: b.TempDir(), socket: b.TempDir() + "/n.sock"}).uri)
				b.StartTimer()
				c := &esdbstore.Copy{From: from, To: to, Exact: exact}
				if done, err := c.Run(b.Context()); err != nil || done.Events != uint64(events) {
					b.Fatal(done, err)
				}
			}
			b.ReportMetric(float64(b.N*events)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
