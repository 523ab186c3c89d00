package esdbnode_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cartwright/infra/esdbnode"
)

// linksOf reads a stream of links: the number of each, where it leads, and of which
// type the event is that is found there, "" for none.
func linksOf(tb testing.TB, client *esdb.Client, stream string) []string {
	tb.Helper()
	got, err := readAll(tb.Context(), client, stream, esdb.ReadStreamOptions{ResolveLinkTos: true}, 1<<40)
	if codeOf(err) == esdb.ErrorCodeResourceNotFound {
		return nil
	}
	if err != nil {
		tb.Fatalf("read %s: %v", stream, err)
	}
	return said(got)
}

func said(events []*esdb.ResolvedEvent) (all []string) {
	for _, e := range events {
		all = append(all, saidOf(e))
	}
	return all
}

func saidOf(e *esdb.ResolvedEvent) string {
	switch {
	case e.Link == nil:
		return fmt.Sprintf("%d: %s, not followed", e.Event.EventNumber, e.Event.Data)
	case e.Event == nil:
		return fmt.Sprintf("%d: %s", e.Link.EventNumber, e.Link.Data)
	}
	return fmt.Sprintf("%d: %s %s", e.Link.EventNumber, e.Link.Data, e.Event.EventType)
}

func wantLinks(t *testing.T, client *esdb.Client, stream string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, linksOf(t, client, stream)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", stream, diff)
	}
}

// someOrders fills a log with events of two streams of one category, among others.
func someOrders(t *testing.T, client *esdb.Client) {
	t.Helper()
	appendTo(t, client, "order-1", esdb.NoStream{}, fresh("placed", "paid")...)
	appendTo(t, client, "cart-1", esdb.NoStream{}, fresh("filled")...)
	appendTo(t, client, "order-2-b", esdb.NoStream{}, fresh("placed")...)
	for _, none := range []string{"order", "-1", "$order-1", "", "orders-1"} {
		if none != "" {
			appendTo(t, client, none, esdb.NoStream{}, fresh("placed")...)
		}
	}
	appendTo(t, client, "order-1", esdb.Revision(1), fresh("shipped")...)
}

func TestACategoryHasLinksToTheEventsOfItsStreams(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	someOrders(t, client)
	wantLinks(t, client, "$ce-order", "0: 0@order-1 placed", "1: 1@order-1 paid", "2: 0@order-2-b placed", "3: 2@order-1 shipped")
	wantLinks(t, client, "$ce-cart", "0: 0@cart-1 filled")
	wantLinks(t, client, "$ce-orders", "0: 0@orders-1 placed")
	for _, none := range []string{"$ce-", "$ce-$order", "$ce-order-2", "$ce-placed", "$ce", "$ce-ORDER"} {
		if _, err := readAll(t.Context(), client, none, esdb.ReadStreamOptions{}, 1); codeOf(err) != esdb.ErrorCodeResourceNotFound {
			t.Errorf("%s: %v", none, err)
		}
	}
}

func TestATypeHasLinksToItsEvents(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	someOrders(t, client)
	wantLinks(t, client, "$et-placed", "0: 0@order-1 placed", "1: 0@order-2-b placed", "2: 0@order placed", "3: 0@-1 placed", "4: 0@orders-1 placed")
	wantLinks(t, client, "$et-paid", "0: 1@order-1 paid")
	wantLinks(t, client, "$et-order")
}

func TestALinkSaysWhereItLeadsAndNoMore(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	someOrders(t, client)
	read := func(resolve bool) []*esdb.ResolvedEvent {
		got, err := readAll(t.Context(), client, "$ce-order", esdb.ReadStreamOptions{From: esdb.Revision(2), ResolveLinkTos: resolve}, 1)
		if err != nil || len(got) != 1 {
			t.Fatalf("%v, %v", got, err)
		}
		return got
	}
	plain, followed := read(false)[0], read(true)[0]
	if plain.Link != nil || cmp.Diff(plain.Event, followed.Link) != "" {
		t.Errorf("read as it is: %+v, with its event: %+v", plain.Event, followed.Link)
	}
	original, err := readAll(t.Context(), client, "order-2-b", esdb.ReadStreamOptions{}, 1)
	if err != nil || cmp.Diff(original[0].Event, followed.Event) != "" {
		t.Errorf("its event is %+v and not %+v, %v", followed.Event, original[0].Event, err)
	}
	link := plain.Event
	if link.EventType != "$>" || link.StreamID != "$ce-order" || link.EventNumber != 2 || link.ContentType != "application/octet-stream" ||
		link.EventID == original[0].Event.EventID || link.Position != original[0].Event.Position || !link.CreatedDate.Equal(original[0].Event.CreatedDate) {
		t.Errorf("%+v", link)
	}
	var meta map[string]any
	if err := json.Unmarshal(link.UserMetadata, &meta); err != nil {
		t.Fatal(err)
	}
	at := float64(link.Position.Commit)
	if diff := cmp.Diff(map[string]any{"$o": "order-2-b", "$c": at, "$p": at}, meta); diff != "" {
		t.Error(diff)
	}
	if again := read(false)[0]; cmp.Diff(again.Event, link) != "" {
		t.Errorf("read again: %+v", again.Event)
	}
}

func TestLinksAreReadBothWays(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	for i := range 5 {
		write(t, client, fmt.Sprintf("s-%d", i%2), 1)
	}
	wantSlices(t, client, "$ce-s")
}

// TestLongStreamsOfLinksAreReadPageByPage has more links than fit into one page, in
// memory and not.
func TestLongStreamsOfLinksAreReadPageByPage(t *testing.T) {
	r := start(t, esdbnode.Options{TailEvents: 16})
	client := dial(t, r.uri)
	for i := range 12 {
		write(t, client, fmt.Sprintf("s-%d", i), 100)
	}
	for _, direction := range []esdb.Direction{esdb.Forwards, esdb.Backwards} {
		o := esdb.ReadStreamOptions{Direction: direction, ResolveLinkTos: true}
		if o.From = esdb.StreamPosition(esdb.Start{}); direction == esdb.Backwards {
			o.From = esdb.End{}
		}
		got, err := readAll(t.Context(), client, "$ce-s", o, 1100)
		if err != nil || len(got) != 1100 {
			t.Fatalf("%d links, %v", len(got), err)
		}
		if direction == esdb.Backwards {
			slices.Reverse(got)
		}
		for i, e := range got {
			if e.Event == nil || i > 0 && (e.Link.EventNumber != got[i-1].Link.EventNumber+1 || e.Event.Position.Commit != got[i-1].Event.Position.Commit+1) {
				t.Fatalf("%d: %s", i, saidOf(e))
			}
		}
	}
}

// TestALinkOutlivesItsEvent hides events in every way there is, throws them away, and
// opens the log again: the links keep their numbers, and lead nowhere.
func TestALinkOutlivesItsEvent(t *testing.T) {
	dir := t.TempDir()
	r := start(t, esdbnode.Options{Dir: dir})
	client := dial(t, r.uri)
	for _, stream := range []string{"s-counted", "s-before", "s-deleted", "s-again", "s-ended", "s-kept"} {
		write(t, client, stream, 2)
	}
	wantShown := func(what string, gone bool, more ...string) {
		t.Helper()
		var want []string
		for i, s := range []string{"0@s-counted", "1@s-counted", "0@s-before", "1@s-before", "0@s-deleted", "1@s-deleted", "0@s-again", "1@s-again", "0@s-ended", "1@s-ended", "0@s-kept", "1@s-kept"} {
			if s = fmt.Sprintf("%d: %s", i, s); !gone || slices.Contains([]int{1, 3, 10, 11}, i) {
				s += " written"
			}
			want = append(want, s)
		}
		if diff := cmp.Diff(append(want, more...), linksOf(t, client, "$ce-s")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	wantShown("all are there", false)
	describe(t, client, "s-counted", `{"$maxCount":1}`)
	describe(t, client, "s-before", `{"$tb":1}`)
	remove(t, client, "s-deleted")
	remove(t, client, "s-again")
	appendTo(t, client, "s-again", esdb.NoStream{}, fresh("anew")...)
	bury(t, client, "s-ended")
	deletions := []string{"12: 0@$$s-deleted $metadata", "13: 0@$$s-again", "14: 2@s-again anew", "15: 9223372036854775807@s-ended"}
	wantShown("hidden", true, deletions...)
	wantLinks(t, client, "$et-$deleted", "0: 0@$$s-deleted $metadata", "1: 0@$$s-again", "2: 9223372036854775807@s-ended")
	wantLinks(t, client, "$et-$metadata", "0: 0@$$s-counted $metadata", "1: 0@$$s-before $metadata", "2: 1@$$s-again $metadata")
	last, err := readAll(t.Context(), client, "$ce-s", esdb.ReadStreamOptions{Direction: esdb.Backwards, From: esdb.End{}}, 1)
	if err != nil || !strings.HasSuffix(string(last[0].Event.UserMetadata), `"$o":"s-ended","$deleted":-1}`) {
		t.Errorf("%s, %v", last[0].Event.UserMetadata, err)
	}
	if done := sweep(t, r.node); done.Events == 0 {
		t.Errorf("%+v", done)
	}
	wantShown("scavenged", true, deletions...)
	r.stop()
	wantChecks(t, dir, 16+3+3+12+1)
	r = start(t, esdbnode.Options{Dir: dir})
	client = dial(t, r.uri)
	wantShown("opened again", true, deletions...)
	appendTo(t, client, "s-new", esdb.NoStream{}, fresh("x")...)
	wantShown("gone on", true, append(deletions, "16: 0@s-new x")...)
}

// wantChecks wants a log to be whole, with so many links.
func wantChecks(t *testing.T, dir string, links uint64) {
	t.Helper()
	got, err := esdbnode.Check(t.Context(), dir)
	if err != nil || links > 0 && got.Links != links {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestALinkInACategoryLeadsWhereItLeads(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	appendTo(t, client, "order-1", esdb.NoStream{}, fresh("placed")...)
	for _, leads := range []string{"0@order-1", "7@order-1", "nowhere"} {
		appendTo(t, client, "list-1", esdb.Any{}, esdb.EventData{EventID: newID(), EventType: "$>", ContentType: esdb.ContentTypeBinary, Data: []byte(leads)})
	}
	wantLinks(t, client, "$ce-list", "0: 0@order-1 placed", "1: 7@order-1")
	wantLinks(t, client, "$et-$>")
}

func TestASubscriptionToLinksCatchesUpAndGoesOn(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	listenTo := func(from esdb.StreamPosition, resolve bool) func(n int) []string {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		t.Cleanup(cancel)
		sub, err := client.SubscribeToStream(ctx, "$ce-order", esdb.SubscribeToStreamOptions{From: from, ResolveLinkTos: resolve})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sub.Close() })
		return func(n int) (all []string) {
			for range n {
				e := sub.Recv()
				if e.EventAppeared != nil {
					all = append(all, saidOf(e.EventAppeared))
				} else {
					all = append(all, heard(e))
				}
			}
			return all
		}
	}
	never := listenTo(esdb.Start{}, true)
	if diff := cmp.Diff([]string{"caught up"}, never(1)); diff != "" {
		t.Error(diff)
	}
	someOrders(t, client)
	want := []string{"0: 0@order-1 placed", "1: 1@order-1 paid", "2: 0@order-2-b placed", "3: 2@order-1 shipped"}
	if diff := cmp.Diff(want, never(4)); diff != "" {
		t.Error(diff)
	}
	fromStart, fromOne, fromEnd := listenTo(esdb.Start{}, true), listenTo(esdb.Revision(1), false), listenTo(esdb.End{}, true)
	if diff := cmp.Diff(append(want, "caught up"), fromStart(5)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"2: 0@order-2-b, not followed", "3: 2@order-1, not followed", "caught up"}, fromOne(3)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"caught up"}, fromEnd(1)); diff != "" {
		t.Error(diff)
	}
	write(t, client, "other-1", 3)
	appendTo(t, client, "order-3", esdb.NoStream{}, fresh("placed")...)
	for _, sub := range []func(int) []string{never, fromStart, fromEnd} {
		if diff := cmp.Diff([]string{"4: 0@order-3 placed"}, sub(1)); diff != "" {
			t.Error(diff)
		}
	}
	if diff := cmp.Diff([]string{"4: 0@order-3, not followed"}, fromOne(1)); diff != "" {
		t.Error(diff)
	}
}

// TestOneWhoFollowsLinksFallsBehindAndCatchesUp is as slow as can be with a tail of
// eight events.
func TestOneWhoFollowsLinksFallsBehindAndCatchesUp(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{TailEvents: 8}).uri)
	sub := subscribeTo(t, client, "$ce-s", esdb.Start{})
	wantHeard(t, sub, "caught up")
	const events = 10_000 // more than gRPC's windows have room for on their way
	for range events / 50 {
		appendTo(t, client, "s-"+newID().String(), esdb.NoStream{}, fresh(slices.Repeat([]string{"x"}, 50)...)...)
	}
	next, behind := 0, 0
	for next < events || behind == 0 {
		switch e := sub.Recv(); {
		case e.EventAppeared != nil:
			if n := e.EventAppeared.OriginalEvent().EventNumber; n != uint64(next) {
				t.Fatalf("link %d where %d is next", n, next)
			}
			next++
		case e.FellBehind != nil:
			behind++
		case e.SubscriptionDropped != nil:
			t.Fatal(e.SubscriptionDropped.Error)
		}
	}
}

func TestNobodyWritesToStreamsOfLinks(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client, stub := dialBoth(t, r.uri)
	write(t, client, "order-1", 1)
	for _, stream := range []string{"$ce-order", "$et-x", "$ce-", "$ce-new"} {
		_, appended := client.AppendToStream(t.Context(), stream, esdb.AppendToStreamOptions{}, fresh("x")...)
		_, described := client.SetStreamMetadata(t.Context(), stream, esdb.AppendToStreamOptions{}, esdb.StreamMetadata{})
		_, deleted := client.DeleteStream(t.Context(), stream, esdb.DeleteStreamOptions{ExpectedRevision: esdb.Any{}})
		_, ended := client.TombstoneStream(t.Context(), stream, esdb.TombstoneStreamOptions{ExpectedRevision: esdb.Any{}})
		for what, err := range map[string]error{"append": appended, "metadata": described, "delete": deleted, "tombstone": ended} {
			if codeOf(err) != esdb.ErrorCodeAccessDenied {
				t.Errorf("%s of %s: %v", what, stream, err)
			}
		}
		b := batch(t, stub)
		b.send(&streams.BatchAppendReq{CorrelationId: correlation(1), Options: batchOptions(stream), ProposedMessages: batchEvents(1, 1), IsFinal: true})
		code, detail := detailOf(t, b.answer())
		if _, denied := detail.(*shared.AccessDenied); code != codes.PermissionDenied || !denied {
			t.Errorf("batch append to %s: %v, %v", stream, code, detail)
		}
	}
	md, err := rawAppend(t, stub, options("$ce-order"), proposed(map[string]string{"type": "x", "content-type": "application/json"}, "{}"))
	if status.Code(err) != codes.PermissionDenied || first(md, "exception") != "access-denied" {
		t.Errorf("%v, %v", md, err)
	}
	wantLinks(t, client, "$ce-order", "0: 0@order-1 written")
	if r.node.Head() != 1 {
		t.Errorf("the log ends at %d", r.node.Head())
	}
}

// TestLinksAreNotInTheLog reads all there is after all kinds of links were asked for.
func TestLinksAreNotInTheLog(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client := dial(t, r.uri)
	write(t, client, "order-1", 3)
	wantLinks(t, client, "$ce-order", "0: 0@order-1 written", "1: 1@order-1 written", "2: 2@order-1 written")
	wantLinks(t, client, "$et-written", "0: 0@order-1 written", "1: 1@order-1 written", "2: 2@order-1 written")
	if res := appendTo(t, client, "order-1", esdb.Any{}, fresh("x")...); res.CommitPosition != 4 {
		t.Errorf("appended at %d", res.CommitPosition)
	}
	all, err := log(t.Context(), client, esdb.ReadAllOptions{From: esdb.Start{}})
	if err != nil || len(all) != 4 {
		t.Errorf("%d events, %v", len(all), err)
	}
	wantLinks(t, client, "$ce-none")
	wantLinks(t, client, "$et-none")
	if diff := cmp.Diff(map[string]uint64{"$ce-": 4, "$et-": 4}, figures(t, r.node).Links); diff != "" {
		t.Error(diff)
	}
}

// TestAFolderOfBeforeGetsItsLinksWhenTheyAreAskedFor opens a log that was written
// when there were none.
func TestAFolderOfBeforeGetsItsLinksWhenTheyAreAskedFor(t *testing.T) {
	dir := copyOf(t, "testdata/format1")
	r := start(t, esdbnode.Options{Dir: dir})
	client := dial(t, r.uri)
	if f := figures(t, r.node); f.Links != nil {
		t.Errorf("nobody has asked, and there are %v", f.Links)
	}
	want := []string{"0: 0@order-1 order.placed", "1: 1@order-1 order.paid", "2: 2@order-1 订单", "3: 3@order-1 label.printed", "4: 4@order-1 order.shipped"}
	wantLinks(t, client, "$ce-order", want...)
	wantLinks(t, client, "$et-e", "0: 1@deleted", "1: 0@ended-later", "2: 0@deleted-later", "3: 1@deleted-later", "4: 0@limited-later", "5: 1@limited-later e", "6: 2@limited-later e")
	r.stop()
	listing, err := os.ReadFile("testdata/format1.txt")
	if err != nil {
		t.Fatal(err)
	}
	wantHistory(t, dir, string(listing))
	goOn(t, dir)
	wantWhole(t, dir, strings.Count(string(listing), "\n")+3)
	r = start(t, esdbnode.Options{Dir: dir})
	wantLinks(t, dial(t, r.uri), "$ce-order", append(want, "5: 5@order-1 more")...)
}

// TestLinksThatAreMissingAreMadeAgain takes away the newest links, as a crash does,
// and as it is when a program has written events that knew of no links.
func TestLinksThatAreMissingAreMadeAgain(t *testing.T) {
	dir := t.TempDir()
	r := start(t, esdbnode.Options{Dir: dir})
	client := dial(t, r.uri)
	write(t, client, "s-1", 6)
	want := linksOf(t, client, "$ce-s")
	r.stop()
	alter(t, dir, all(gone(linkAt("$ce-s", 4)), gone(linkAt("$ce-s", 5)), is([]byte("k$ce-"), positionIs(4))))
	wantChecks(t, dir, 4)
	r = start(t, esdbnode.Options{Dir: dir})
	wantLinks(t, dial(t, r.uri), "$ce-s", want...)
	r.stop()
	wantChecks(t, dir, 6)
}

func linkAt(stream string, number uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte{'l', byte(len(stream))}, stream...), number)
}

// TestVerifyFindsDamageToLinks changes links behind the node's back: every change is
// found and told with its place.
func TestVerifyFindsDamageToLinks(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*pebble.DB) error
		want   []string
	}{
		"nothing":             {all(), nil},
		"the last link gone":  {gone(linkAt("$ce-s", 2)), []string{"position 5, s-1@2: the event has no link in $ce-s"}},
		"the first link gone": {gone(linkAt("$ce-s", 0)), []string{"position 3, $ce-s@1: the link that is due is number 0", "position 1, s-1@0: the event has no link in $ce-s"}},
		"another position": {flipped(linkAt("$ce-s", 1), 8), []string{
			"position 2, $ce-s@1: the link leads to 1@s-1, and the event there is o-1@0 of type written", "position 3, s-1@1: the event has no link in $ce-s",
		}},
		"another target": {flipped(linkAt("$et-written", 1), -1), []string{"position 2, $et-written@1: the link leads to 0@o-0, and the event there is o-1@0 of type written"}},
		"a flag":         {flipped(linkAt("$et-written", 0), 0), []string{"position 1, $et-written@0: the link leads to 0@s-1, and the event there is s-1@0 of type written"}},
		"an event gone": {gone(eventAt(3)), []string{
			"position 3, $ce-s@1: it leads to 1@s-1, which is gone and was not scavenged", "position 3, $et-written@2: it leads to 1@s-1, which is gone and was not scavenged",
			"position 3, s-1@1: the event is gone",
		}},
		"a link that is cut": {is(linkAt("$ce-s", 1), []byte{0}), []string{"$ce-s@1: 1 bytes are no link: stored event is damaged"}},
		"a link more": {func(db *pebble.DB) error {
			value, closer, err := db.Get(linkAt("$ce-s", 2))
			if err != nil {
				return err
			}
			return errors.Join(db.Set(linkAt("$ce-s", 3), value, pebble.Sync), closer.Close())
		}, []string{"position 5, $ce-s@3: the link before it is of an event behind it, at position 5"}},
		"a key that is none": {is([]byte("l!"), nil), []string{"a key of 2 bytes is no link's"}},
		"how far they go":    {is([]byte("k$ce-"), nil), []string{"how far the links of $ce- go can't be read: how far links go: 0 bytes: stored event is damaged"}},
	} {
		dir := t.TempDir()
		r := start(t, esdbnode.Options{Dir: dir})
		client := dial(t, r.uri)
		for range 3 {
			write(t, client, "s-1", 1)
			write(t, client, "o-1", 1)
		}
		linksOf(t, client, "$ce-s")
		linksOf(t, client, "$et-written")
		r.stop()
		alter(t, dir, c.change)
		got := foundIn(t, dir, 0)
		if name == "how far they go" && len(got) > 0 {
			got = got[:1]
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestABackupHasItsLinks takes one of a log that has links, and appends behind it.
func TestABackupHasItsLinks(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client := dial(t, r.uri)
	write(t, client, "s-1", 2)
	describe(t, client, "s-1", `{"$maxCount":1}`)
	want := linksOf(t, client, "$ce-s")
	sweep(t, r.node)
	dir := filepath.Join(t.TempDir(), "backup")
	if _, err := r.node.Backup(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	write(t, client, "s-1", 1)
	wantChecks(t, dir, 2)
	wantLinks(t, dial(t, start(t, esdbnode.Options{Dir: dir}).uri), "$ce-s", want...)
}

// TestAScavengeThrowsNothingAwayThatHasNoLink has links that can be made no further
// than a damaged event.
func TestAScavengeThrowsNothingAwayThatHasNoLink(t *testing.T) {
	dir := t.TempDir()
	r := start(t, esdbnode.Options{Dir: dir, TailEvents: 2})
	client := dial(t, r.uri)
	write(t, client, "s-1", 2)
	linksOf(t, client, "$ce-s")
	write(t, client, "broken-1", 1)
	write(t, client, "s-2", 2)
	r.stop()
	alter(t, dir, all(flipped(eventAt(3), -1), gone(linkAt("$ce-broken", 0)), gone(linkAt("$ce-s", 2)), gone(linkAt("$ce-s", 3)), is([]byte("k$ce-"), positionIs(2))))
	r = start(t, esdbnode.Options{Dir: dir, TailEvents: 2})
	client = dial(t, r.uri)
	if _, err := readAll(t.Context(), client, "$ce-s", esdb.ReadStreamOptions{}, 1); err == nil || !strings.Contains(err.Error(), "position 3") {
		t.Errorf("links behind a damaged event: %v", err)
	}
	for _, stream := range []string{"s-1", "s-2"} {
		describe(t, client, stream, `{"$maxCount":1}`)
	}
	done, err := r.node.Scavenge(t.Context())
	if err == nil || !strings.Contains(err.Error(), "position 3") || done.Events != 1 {
		t.Errorf("%+v, %v", done, err)
	}
	if shown := len(stored(t, client, "s-1")) + len(stored(t, client, "s-2")); shown != 2 {
		t.Errorf("%d events are shown", shown)
	}
}

// TestAGroupReadsLinks has groups with and without the events, through a restart of
// the node.
func TestAGroupReadsLinks(t *testing.T) {
	dir := t.TempDir()
	r := start(t, esdbnode.Options{Dir: dir})
	client := dial(t, r.uri)
	write(t, client, "order-1", 1)
	resolved := eager()
	resolved.ResolveLinkTos = true
	group(t, client, "$ce-order", "plain", esdb.Start{}, eager())
	group(t, client, "$ce-order", "resolved", esdb.Start{}, resolved)
	group(t, client, "$et-late", "end", esdb.End{}, resolved)
	until := func(name, stream, last string) {
		t.Helper()
		eventually(t, "a checkpoint", func() bool {
			at := info(t, client, stream, name).Stats.LastCheckpointedEventRevision
			return at != nil && strings.HasPrefix(last, fmt.Sprintf("%d: ", *at))
		})
	}
	take := func(name, stream string, want ...string) {
		t.Helper()
		sub := consume(t, client, stream, name, 10)
		defer func() { _ = sub.Close() }()
		for i, w := range want {
			e := next(t, sub)
			if got := saidOf(e.Event); got != w {
				t.Errorf("%s is given %s, want %s", name, got, w)
			}
			if i == 0 && name == "resolved" {
				nack(t, sub, esdb.NackActionPark, e.Event)
			} else {
				ack(t, sub, e.Event)
			}
		}
		until(name, stream, want[len(want)-1])
	}
	take("plain", "$ce-order", "0: 0@order-1, not followed")
	take("resolved", "$ce-order", "0: 0@order-1 written")
	sub := consume(t, client, "$ce-order", "resolved", 10)
	write(t, client, "order-2", 1)
	e := next(t, sub)
	if got := saidOf(e.Event); got != "1: 0@order-2 written" {
		t.Errorf("live: %s", got)
	}
	ack(t, sub, e.Event)
	appendTo(t, client, "order-2", esdb.Any{}, fresh("late")...)
	take("end", "$et-late", "0: 1@order-2 late")
	if e = next(t, sub); saidOf(e.Event) != "2: 1@order-2 late" {
		t.Errorf("live: %s", saidOf(e.Event))
	}
	ack(t, sub, e.Event)
	until("resolved", "$ce-order", "2: ")
	if err := sub.Close(); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r = start(t, esdbnode.Options{Dir: dir})
	client = dial(t, r.uri)
	write(t, client, "order-3", 1)
	take("resolved", "$ce-order", "3: 0@order-3 written")
	take("plain", "$ce-order", "1: 0@order-2, not followed", "2: 1@order-2, not followed", "3: 0@order-3, not followed")
	if got := parkedIn(t, client, "$ce-order", "resolved"); len(got) != 2 {
		t.Errorf("parked: %v", said(got))
	}
}

// FuzzStoredLink reads any bytes as a link: what is one is stored as it was read.
func FuzzStoredLink(f *testing.F) {
	f.Add(append(make([]byte, 17), "\x031@a"...))
	f.Add(append(make([]byte, 17), "\x031@asource"...))
	f.Add(append(append([]byte{1}, make([]byte, 16)...), 0xff, 0xff, 0xff, 0xff, 0xff))
	f.Fuzz(func(t *testing.T, b []byte) {
		once, err := esdbnode.Relink(b)
		if err != nil {
			return
		}
		twice, err := esdbnode.Relink(once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%x became %x, and that %x: %v", b, once, twice, err)
		}
	})
}

// TestGroupsHearOfLinksThatWereMadeBeforeTheyListened begins to listen where events
// are to be heard of whose links are there already.
func TestGroupsHearOfLinksThatWereMadeBeforeTheyListened(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client := dial(t, r.uri)
	write(t, client, "s-1", 3)
	linksOf(t, client, "$ce-s")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	found := false
	err := r.node.Hear(ctx, 1, func(stream string, number, _ uint64) {
		if stream == "$ce-s" && number == 2 {
			found = true
			cancel()
		}
	})
	if !found {
		t.Errorf("nothing was heard of the last link: %v", err)
	}
}
