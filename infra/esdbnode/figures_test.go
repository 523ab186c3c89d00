package esdbnode_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/go-cmp/cmp"

	"cartwright/infra/esdbnode"
)

func figures(t *testing.T, n *esdbnode.Node) esdbnode.Figures {
	t.Helper()
	f, err := n.Figures()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// some leaves out what is nought.
func some(counts map[string]uint64) map[string]uint64 {
	left := map[string]uint64{}
	for name, n := range counts {
		if n > 0 {
			left[name] = n
		}
	}
	return left
}

func TestFiguresSayWhatWasWrittenAndRefused(t *testing.T) {
	r := start(t, esdbnode.Options{MaxAppend: 10_000})
	client := dial(t, r.uri)
	events := write(t, client, "s", 3)
	appendTo(t, client, "s", esdb.NoStream{}, events...)
	for range 2 {
		if _, err := client.AppendToStream(t.Context(), "s", esdb.AppendToStreamOptions{ExpectedRevision: esdb.Revision(7)}, fresh("e")...); codeOf(err) != esdb.ErrorCodeWrongExpectedVersion {
			t.Fatal(err)
		}
	}
	bury(t, client, "ended")
	big := esdb.EventData{EventType: "e", ContentType: esdb.ContentTypeBinary, Data: make([]byte, 20_000)}
	if _, err := client.AppendToStream(t.Context(), "s", esdb.AppendToStreamOptions{ExpectedRevision: esdb.Any{}}, big); err == nil {
		t.Fatal("a large append was taken")
	}
	if _, err := client.AppendToStream(t.Context(), "ended", esdb.AppendToStreamOptions{ExpectedRevision: esdb.Any{}}, fresh("e")...); err == nil {
		t.Fatal("an append to an ended stream was taken")
	}
	f := figures(t, r.node)
	if f.Position != 4 || f.Events != 4 || f.Bytes < 200 {
		t.Errorf("position %d, %d events, %d bytes", f.Position, f.Events, f.Bytes)
	}
	want := map[string]uint64{"accepted": 1, "repeated": 1, "wrong_version": 2, "deleted": 1}
	if diff := cmp.Diff(want, some(f.Writes["append"])); diff != "" {
		t.Errorf("appends (-want +got):\n%s", diff)
	}
	if f.Writes["tombstone"]["accepted"] != 1 {
		t.Errorf("tombstones: %v", f.Writes["tombstone"])
	}
	if diff := cmp.Diff(map[string]uint64{"too_large": 1, "stream_deleted": 1}, some(f.Refused)); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	c := f.Commits
	if c.Seconds.Count != 2 || c.Writes.Sum != 2 || c.Events.Sum != 4 || c.Seconds.Sum <= 0 || c.Seconds.Quantile(0.5) <= 0 {
		t.Errorf("commits: %+v", c)
	}
	if f.Queue != (esdbnode.Queue{}) || f.Since.IsZero() || f.Disk.WAL == 0 {
		t.Errorf("queue %+v, since %v, disk %+v", f.Queue, f.Since, f.Disk)
	}
	if got, err := r.node.Count(t.Context()); err != nil || got != (esdbnode.Contents{Format: got.Format, Position: 4, Events: 4, Streams: 2}) {
		t.Errorf("counted %+v, %v", got, err)
	}
}

func TestFiguresSayWhoReadsAndHowFarTheSlowestIsBehind(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client := dial(t, r.uri)
	write(t, client, "s", 5)
	if _, err := readAll(t.Context(), client, "s", esdb.ReadStreamOptions{}, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := log(t.Context(), client, esdb.ReadAllOptions{From: esdb.Start{}}); err != nil {
		t.Fatal(err)
	}
	f := figures(t, r.node)
	if diff := cmp.Diff(map[string]uint64{"stream": 1, "all": 1}, f.Reads); diff != "" || f.EventsRead != 10 {
		t.Errorf("%d events were read (-want +got):\n%s", f.EventsRead, diff)
	}
	slow := subscribeAll(t, client, esdb.SubscribeToAllOptions{From: esdb.Start{}})
	follow := subscribeTo(t, client, "s", esdb.Start{})
	listen(t, follow, "caught up")
	fill(t, client, "much", 4)
	f = figures(t, r.node)
	if diff := cmp.Diff(map[string]uint64{"stream": 1, "all": 1, "persistent": 0}, f.Subscribers); diff != "" {
		t.Errorf("subscribers (-want +got):\n%s", diff)
	}
	if f.Lag == 0 || f.Lag > f.Position {
		t.Errorf("the one that takes nothing is %d behind, of %d", f.Lag, f.Position)
	}
	for e := slow.Recv(); e.EventAppeared == nil || e.EventAppeared.Event.Position.Commit < f.Position; e = slow.Recv() {
		if e.SubscriptionDropped != nil {
			t.Fatal(e.SubscriptionDropped.Error)
		}
	}
	eventually(t, "the figures say so", func() bool { return figures(t, r.node).Lag == 0 })
	if err := errors.Join(slow.Close(), follow.Close()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the figures say so", func() bool { return len(some(figures(t, r.node).Subscribers)) == 0 })
}

// fill appends megabytes: more than what lies between a node and a subscriber.
func fill(t *testing.T, client *esdb.Client, stream string, appends int) {
	t.Helper()
	events := make([]esdb.EventData, 60)
	for range appends {
		for i := range events {
			events[i] = esdb.EventData{EventID: newID(), EventType: "e", ContentType: esdb.ContentTypeBinary, Data: make([]byte, 16<<10)}
		}
		appendTo(t, client, stream, esdb.Any{}, events...)
	}
}

func TestFiguresSayThatManyShareAnFsync(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client := dial(t, r.uri)
	var wg sync.WaitGroup
	const writers, each = 16, 20
	for w := range writers {
		wg.Go(func() {
			for range each {
				if _, err := client.AppendToStream(t.Context(), fmt.Sprint("s-", w), esdb.AppendToStreamOptions{ExpectedRevision: esdb.Any{}}, fresh("e")...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	c := figures(t, r.node).Commits
	if c.Writes.Sum != writers*each || c.Writes.Count >= writers*each {
		t.Errorf("%v writes in %d commits", c.Writes.Sum, c.Writes.Count)
	}
}

func TestFiguresFollowAScavengeAndACompaction(t *testing.T) {
	dir := t.TempDir()
	events := inTables(t, dir)
	r := start(t, esdbnode.Options{Dir: dir, MemTable: 256 << 10})
	client := dial(t, r.uri)
	remove(t, client, "order-001")
	before := figures(t, r.node)
	done := sweep(t, r.node)
	if err := r.node.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := figures(t, r.node)
	if f.Scavenge.Done != 1 || f.Scavenge.Events != done.Events || f.Scavenge.Last.IsZero() || f.Scavenge.Marks != 0 {
		t.Errorf("%+v", f.Scavenge)
	}
	if f.Disk.Tables == 0 || f.Disk.ReadAmplification > 1 || len(f.Disk.Levels) == 0 || f.Compaction.Done <= before.Compaction.Done {
		t.Errorf("%+v, %+v", f.Disk, f.Compaction)
	}
	count, err := r.node.Count(t.Context())
	if want := uint64(events) + 1 - done.Events; err != nil || count.Events != want {
		t.Errorf("%+v, want %d events: %v", count, want, err)
	}
	r.stop()
	wantWhole(t, dir, int(count.Events))
	if _, err := r.node.Figures(); err == nil {
		t.Error("a closed node has figures")
	}
	if err := r.node.Compact(t.Context()); err == nil || !strings.Contains(err.Error(), "closing") {
		t.Errorf("a closed node was compacted: %v", err)
	}
	if _, err := r.node.Count(t.Context()); err == nil {
		t.Error("a closed node was counted")
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, esdbnode.CountAppend()); n > 0 {
		t.Errorf("%v allocations an append", n)
	}
}

func TestAQuantileIsAtABound(t *testing.T) {
	h := esdbnode.Histogram{Bounds: []float64{1, 2, 4}, Counts: []uint64{5, 4, 0, 1}, Count: 10}
	for q, want := range map[float64]float64{0.1: 1, 0.5: 1, 0.9: 2, 1: 4} {
		if got := h.Quantile(q); got != want {
			t.Errorf("%v: %v, want %v", q, got, want)
		}
	}
	if got := (esdbnode.Histogram{}).Quantile(0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}
