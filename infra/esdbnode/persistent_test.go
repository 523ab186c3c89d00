package esdbnode_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	pb "github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"cartwright/infra/esdbnode"
	"cartwright/infra/esdbnode/persistent"
	"cartwright/infra/tlstest"
)

// eager settings write a checkpoint for every event.
func eager() *esdb.PersistentSubscriptionSettings {
	s := esdb.SubscriptionSettingsDefault()
	s.CheckpointLowerBound, s.CheckpointUpperBound = 1, 1
	return &s
}

// group makes a group on a stream, or on the whole log where that is "$all".
func group(t *testing.T, client *esdb.Client, stream, name string, from any, s *esdb.PersistentSubscriptionSettings) {
	t.Helper()
	var err error
	if stream == "$all" {
		at, _ := from.(esdb.AllPosition)
		err = client.CreatePersistentSubscriptionToAll(t.Context(), name, esdb.PersistentAllSubscriptionOptions{Settings: s, StartFrom: at})
	} else {
		at, _ := from.(esdb.StreamPosition)
		err = client.CreatePersistentSubscription(t.Context(), stream, name, esdb.PersistentStreamSubscriptionOptions{Settings: s, StartFrom: at})
	}
	if err != nil {
		t.Fatalf("create %s on %s: %v", name, stream, err)
	}
}

func tryConsume(ctx context.Context, client *esdb.Client, stream, name string, size uint32) (*esdb.PersistentSubscription, error) {
	o := esdb.SubscribeToPersistentSubscriptionOptions{BufferSize: size}
	if stream == "$all" {
		return client.SubscribeToPersistentSubscriptionToAll(ctx, name, o)
	}
	return client.SubscribeToPersistentSubscription(ctx, stream, name, o)
}

func consume(t *testing.T, client *esdb.Client, stream, name string, size uint32) *esdb.PersistentSubscription {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	sub, err := tryConsume(ctx, client, stream, name, size)
	if err != nil {
		t.Fatalf("consume from %s on %s: %v", name, stream, err)
	}
	t.Cleanup(func() { _ = sub.Close() })
	return sub
}

// next takes an event.
func next(t *testing.T, sub *esdb.PersistentSubscription) *esdb.EventAppeared {
	t.Helper()
	e := sub.Recv()
	if e.SubscriptionDropped != nil {
		t.Fatalf("dropped: %v", e.SubscriptionDropped.Error)
	}
	return e.EventAppeared
}

// wantNext takes events and checks which they are: "number@stream", and behind
// that how often they were retried if they were.
func wantNext(t *testing.T, sub *esdb.PersistentSubscription, want ...string) []*esdb.ResolvedEvent {
	t.Helper()
	var got []string
	var events []*esdb.ResolvedEvent
	for range want {
		e := next(t, sub)
		text := "gone"
		if r := e.Event.Event; r != nil {
			text = fmt.Sprintf("%d@%s", r.EventNumber, r.StreamID)
		}
		if e.RetryCount > 0 {
			text += fmt.Sprintf(" retry %d", e.RetryCount)
		}
		got, events = append(got, text), append(events, e.Event)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("-want +got:\n%s", diff)
	}
	return events
}

func ack(t *testing.T, sub *esdb.PersistentSubscription, events ...*esdb.ResolvedEvent) {
	t.Helper()
	if err := sub.Ack(events...); err != nil {
		t.Fatal(err)
	}
}

func nack(t *testing.T, sub *esdb.PersistentSubscription, action esdb.NackAction, events ...*esdb.ResolvedEvent) {
	t.Helper()
	if err := sub.Nack("because", action, events...); err != nil {
		t.Fatal(err)
	}
}

func info(t *testing.T, client *esdb.Client, stream, name string) *esdb.PersistentSubscriptionInfo {
	t.Helper()
	get := func() (*esdb.PersistentSubscriptionInfo, error) {
		if stream == "$all" {
			return client.GetPersistentSubscriptionInfoToAll(t.Context(), name, esdb.GetPersistentSubscriptionOptions{})
		}
		return client.GetPersistentSubscriptionInfo(t.Context(), stream, name, esdb.GetPersistentSubscriptionOptions{})
	}
	i, err := get()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// eventually waits for what the node does behind its answers.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("it never came to this: %s", what)
		}
		time.Sleep(time.Millisecond) // between two looks
	}
}

func wantDropped(t *testing.T, sub *esdb.PersistentSubscription, code codes.Code) {
	t.Helper()
	for {
		e := sub.Recv()
		if e.SubscriptionDropped == nil {
			continue
		}
		if got := status.Code(e.SubscriptionDropped.Error); got != code {
			t.Fatalf("dropped with %v: %v", got, e.SubscriptionDropped.Error)
		}
		return
	}
}

func TestAGroupBeginsWhereItIsTold(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 3) // positions 1 to 3
	for name, c := range map[string]struct {
		stream string
		from   any
		want   []string
		told   any
	}{
		"from the start":        {"s", esdb.Start{}, []string{"0@s", "1@s", "2@s", "3@s"}, esdb.Start{}},
		"from a number":         {"s", esdb.Revision(2), []string{"2@s", "3@s"}, esdb.Revision(2)},
		"from the end":          {"s", esdb.End{}, []string{"3@s", "4@s"}, esdb.End{}},
		"from what will be":     {"s", esdb.Revision(4), []string{"4@s"}, esdb.Revision(4)},
		"before the stream is":  {"later", esdb.Start{}, []string{"0@later", "1@later"}, esdb.Start{}},
		"all from the start":    {"$all", esdb.Start{}, []string{"0@s", "1@s", "2@s"}, esdb.Start{}},
		"all from a position":   {"$all", esdb.Position{Commit: 3, Prepare: 3}, []string{"2@s"}, &esdb.Position{Commit: 3, Prepare: 3}},
		"all from the very end": {"$all", esdb.End{}, nil, esdb.End{}},
	} {
		group(t, client, c.stream, name, c.from, nil)
		if got := info(t, client, c.stream, name).Settings.StartFrom; !cmp.Equal(got, c.told) {
			t.Errorf("%s: it is told as %#v", name, got)
		}
		defer func() { wantNext(t, consume(t, client, c.stream, name, 10), c.want...) }()
	}
	write(t, client, "s", 2)
	write(t, client, "later", 2)
}

func TestAConsumerHasNoMoreInFlightThanItsBuffer(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 5)
	group(t, client, "s", "g", esdb.Start{}, nil)
	sub := consume(t, client, "s", "g", 2)
	first := wantNext(t, sub, "0@s", "1@s")
	i := info(t, client, "s", "g")
	if c := i.Connections; len(c) != 1 || c[0].InFlightMessages != 2 || c[0].AvailableSlots != 0 || i.Stats.ReadBufferCount != 3 || i.Stats.TotalInFlightMessages != 2 {
		t.Errorf("with a full consumer: %+v", i)
	}
	ack(t, sub, first[1])
	second := wantNext(t, sub, "2@s")
	ack(t, sub, first[0], second[0])
	wantNext(t, sub, "3@s", "4@s")
}

// parkedIn reads a parked stream without following its links.
func parkedIn(t *testing.T, client *esdb.Client, stream, name string) []*esdb.ResolvedEvent {
	t.Helper()
	got, err := readAll(t.Context(), client, "$persistentsubscription-"+stream+"::"+name+"-parked", esdb.ReadStreamOptions{}, 100)
	if err != nil && codeOf(err) != esdb.ErrorCodeResourceNotFound {
		t.Fatal(err)
	}
	return got
}

func TestEveryActionDoesWhatItSays(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 6)
	group(t, client, "s", "g", esdb.Start{}, eager())
	sub := consume(t, client, "s", "g", 6)
	got := wantNext(t, sub, "0@s", "1@s", "2@s", "3@s", "4@s", "5@s")
	nack(t, sub, esdb.NackActionPark, got[0])
	nack(t, sub, esdb.NackActionRetry, got[1])
	again := wantNext(t, sub, "1@s retry 1")
	nack(t, sub, esdb.NackActionUnknown, again[0])
	again = wantNext(t, sub, "1@s retry 2")
	nack(t, sub, esdb.NackActionSkip, got[2])
	nack(t, sub, esdb.NackActionStop, got[3])
	ack(t, sub, again[0], got[4])
	eventually(t, "all but the last are done", func() bool {
		at := info(t, client, "s", "g").Stats.LastCheckpointedEventRevision
		return at != nil && *at == 4
	})
	parked := parkedIn(t, client, "s", "g")
	if len(parked) != 1 || parked[0].Event.EventType != "$>" || string(parked[0].Event.Data) != "0@s" {
		t.Fatalf("parked: %v", parked)
	}
	var meta struct {
		Added  time.Time
		Reason string
		Number *int64 `json:"subscriptionEventNumber"`
	}
	if err := json.Unmarshal(parked[0].Event.UserMetadata, &meta); err != nil || meta.Number == nil || *meta.Number != 0 ||
		meta.Reason != "Client explicitly NAK'ed message.\nbecause" || time.Since(meta.Added) > time.Minute {
		t.Errorf("metadata %s: %v", parked[0].Event.UserMetadata, err)
	}
	if i := info(t, client, "s", "g"); i.Stats.ParkedMessagesCount != 1 || i.Stats.TotalInFlightMessages != 1 {
		t.Errorf("%+v", i.Stats)
	}
}

func TestWhatIsNotAnsweredInTimeIsRetriedAndThenParked(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 1)
	s := eager()
	s.MessageTimeout, s.MaxRetryCount = 50, 2
	group(t, client, "s", "g", esdb.Start{}, s)
	wantNext(t, consume(t, client, "s", "g", 1), "0@s", "0@s retry 1", "0@s retry 2")
	eventually(t, "the event is parked", func() bool { return len(parkedIn(t, client, "s", "g")) == 1 })
	if meta := string(parkedIn(t, client, "s", "g")[0].Event.UserMetadata); !strings.Contains(meta, `"Reached retry count of 2"`) {
		t.Error(meta)
	}
}

func TestWhatALostConsumerHadGoesToAnother(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 4)
	group(t, client, "s", "g", esdb.Start{}, nil)
	lost := consume(t, client, "s", "g", 2)
	wantNext(t, lost, "0@s", "1@s")
	other := consume(t, client, "s", "g", 4)
	rest := wantNext(t, other, "2@s", "3@s")
	if err := lost.Close(); err != nil {
		t.Fatal(err)
	}
	ack(t, other, rest...)
	wantNext(t, other, "0@s retry 1", "1@s retry 1")
}

func TestParkedEventsAreReplayed(t *testing.T) {
	for _, stream := range []string{"s", "$all"} {
		client := dial(t, start(t, esdbnode.Options{}).uri)
		write(t, client, "s", 4)
		if stream == "s" {
			group(t, client, stream, "g", esdb.Start{}, nil)
		} else if err := client.CreatePersistentSubscriptionToAll(t.Context(), "g", esdb.PersistentAllSubscriptionOptions{
			StartFrom: esdb.Start{}, Filter: &esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Prefixes: []string{"s"}},
		}); err != nil {
			t.Fatal(err)
		}
		sub := consume(t, client, stream, "g", 4)
		nack(t, sub, esdb.NackActionPark, wantNext(t, sub, "0@s", "1@s", "2@s", "3@s")...)
		eventually(t, "four are parked", func() bool { return info(t, client, stream, "g").Stats.ParkedMessagesCount == 4 })
		replay := func(stop int) {
			t.Helper()
			o := esdb.ReplayParkedMessagesOptions{StopAt: stop}
			var err error
			if stream == "$all" {
				err = client.ReplayParkedMessagesToAll(t.Context(), "g", o)
			} else {
				err = client.ReplayParkedMessages(t.Context(), stream, "g", o)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		replay(1)
		got := wantNext(t, sub, "0@s")
		if got[0].Link == nil || got[0].OriginalEvent().StreamID != "$persistentsubscription-"+stream+"::g-parked" {
			t.Errorf("a replayed event: %+v", got[0])
		}
		ack(t, sub, got...)
		replay(0) // all there are
		got = wantNext(t, sub, "1@s", "2@s", "3@s")
		nack(t, sub, esdb.NackActionPark, got[1])
		nack(t, sub, esdb.NackActionRetry, got[2])
		ack(t, sub, got[0])
		ack(t, sub, wantNext(t, sub, "3@s retry 1")...)
		eventually(t, "one is parked again", func() bool {
			left := parkedIn(t, client, stream, "g")
			return len(left) == 1 && left[0].Event.EventNumber == 4 && info(t, client, stream, "g").Stats.ParkedMessagesCount == 1
		})
		if parked := parkedIn(t, client, stream, "g"); string(parked[0].Event.Data) != "2@s" {
			t.Errorf("parked again is %s", parked[0].Event.Data)
		}
		write(t, client, "s", 1)
		ack(t, sub, wantNext(t, sub, "4@s")...)
	}
}

func TestGroupsGoOnAfterARestart(t *testing.T) {
	dir := t.TempDir()
	r := start(t, esdbnode.Options{Dir: dir})
	client := dial(t, r.uri)
	write(t, client, "s", 6)
	group(t, client, "s", "g", esdb.Start{}, eager())
	group(t, client, "s", "idle", esdb.End{}, nil)
	group(t, client, "$all", "g", esdb.Start{}, nil)
	sub := consume(t, client, "s", "g", 4)
	got := wantNext(t, sub, "0@s", "1@s", "2@s", "3@s")
	ack(t, sub, got[0], got[2])
	nack(t, sub, esdb.NackActionPark, got[1])
	all := consume(t, client, "$all", "g", 3)
	ack(t, all, wantNext(t, all, "0@s", "1@s", "2@s")[:2]...)
	eventually(t, "all are answered", func() bool {
		at := info(t, client, "s", "g").Stats.LastCheckpointedEventRevision
		return at != nil && *at == 2 && info(t, client, "$all", "g").Stats.OutstandingMessagesCount == 3
	})
	before := info(t, client, "s", "g").Settings
	write(t, client, "s", 1)
	r.stop()
	wantDropped(t, sub, codes.Unavailable)

	r = start(t, esdbnode.Options{Dir: dir})
	client = dial(t, r.uri)
	if diff := cmp.Diff(before, info(t, client, "s", "g").Settings); diff != "" {
		t.Errorf("settings -before +after:\n%s", diff)
	}
	sub = consume(t, client, "s", "g", 10)
	wantNext(t, sub, "3@s", "4@s", "5@s", "6@s")
	wantNext(t, consume(t, client, "s", "idle", 10), "6@s") // it had begun before that was written
	wantNext(t, consume(t, client, "$all", "g", 10), "2@s", "3@s")
	if err := client.ReplayParkedMessages(t.Context(), "s", "g", esdb.ReplayParkedMessagesOptions{}); err != nil {
		t.Fatal(err)
	}
	wantNext(t, sub, "1@s")
}

// TestNothingIsLostByACrash takes the power away while consumers answer, and
// looks whether all that was not answered comes again.
func TestNothingIsLostByACrash(t *testing.T) {
	const folder = "var/lib/log"
	disk := vfs.NewCrashableMem()
	client := dial(t, start(t, esdbnode.Options{Dir: folder, FS: disk}).uri)
	s := eager()
	s.CheckpointUpperBound = 7
	group(t, client, "s", "g", esdb.Start{}, s)
	const events = 200
	write(t, client, "s", events)
	sub := consume(t, client, "s", "g", 20)
	answered, parked := map[uint64]bool{}, map[uint64]bool{}
	for n := range uint64(events / 2) {
		e := next(t, sub).Event
		switch {
		case n%10 == 3:
			parked[e.Event.EventNumber] = true
			nack(t, sub, esdb.NackActionPark, e)
		case n%10 != 7: // the others are not answered at all
			answered[e.Event.EventNumber] = true
			ack(t, sub, e)
		}
		if n%10 != 9 {
			continue
		}
		copied := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
		wantAll(t, copied, folder, events, answered, parked)
	}
}

// wantAll opens a copy of a log and checks that what was not answered is still
// given by its group, or parked if that is what was said of it.
func wantAll(t *testing.T, disk *vfs.MemFS, folder string, events int, answered, parked map[uint64]bool) {
	t.Helper()
	r := start(t, esdbnode.Options{Dir: folder, FS: disk})
	defer r.stop()
	client := dial(t, r.uri)
	there := map[uint64]bool{}
	for _, e := range parkedIn(t, client, "s", "g") {
		var n uint64
		if _, err := fmt.Sscanf(string(e.Event.Data), "%d@s", &n); err != nil || !parked[n] {
			t.Fatalf("parked is %s: %v", e.Event.Data, err)
		}
		there[n] = true
	}
	sub := consume(t, client, "s", "g", uint32(events))
	for last := false; !last; {
		n := next(t, sub).Event.Event.EventNumber
		there[n], last = true, n == uint64(events)-1
	}
	for n := range uint64(events) {
		if !there[n] && !answered[n] {
			t.Fatalf("%d was not answered, and does not come again", n)
		}
	}
	if len(there) == events && len(answered) > 50 {
		t.Error("there is no checkpoint")
	}
}

func stubsOfGroups(tb testing.TB, address string) pb.PersistentSubscriptionsClient {
	tb.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return pb.NewPersistentSubscriptionsClient(conn)
}

// createRequest is a request as the official client makes it, with changes.
func createRequest(stream, name string, changes ...func(*pb.CreateReq_Settings)) *pb.CreateReq {
	s := &pb.CreateReq_Settings{
		MaxRetryCount: 10, MinCheckpointCount: 10, MaxCheckpointCount: 1000, LiveBufferSize: 500, ReadBatchSize: 20, HistoryBufferSize: 500,
		ConsumerStrategy: "RoundRobin", MessageTimeout: &pb.CreateReq_Settings_MessageTimeoutMs{MessageTimeoutMs: 30_000},
		CheckpointAfter: &pb.CreateReq_Settings_CheckpointAfterMs{CheckpointAfterMs: 2_000},
	}
	for _, change := range changes {
		change(s)
	}
	return &pb.CreateReq{Options: &pb.CreateReq_Options{
		GroupName: name, Settings: s,
		StreamOption: &pb.CreateReq_Options_Stream{Stream: &pb.CreateReq_StreamOptions{
			StreamIdentifier: named(stream), RevisionOption: &pb.CreateReq_StreamOptions_Start{Start: &shared.Empty{}},
		}},
	}}
}

func updateRequest(stream, name string, batch int32) *pb.UpdateReq {
	return &pb.UpdateReq{Options: &pb.UpdateReq_Options{
		GroupName: name, Settings: &pb.UpdateReq_Settings{ReadBatchSize: batch, HistoryBufferSize: 20, LiveBufferSize: 1, NamedConsumerStrategy: pb.UpdateReq_Pinned},
		StreamOption: &pb.UpdateReq_Options_Stream{Stream: &pb.UpdateReq_StreamOptions{
			StreamIdentifier: named(stream), RevisionOption: &pb.UpdateReq_StreamOptions_Start{Start: &shared.Empty{}},
		}},
	}}
}

func TestSettingsThatMakeNoSenseAreRefused(t *testing.T) {
	stub := stubsOfGroups(t, start(t, esdbnode.Options{}).uri)
	set := func(change func(*pb.CreateReq_Settings)) *pb.CreateReq { return createRequest("s", "g", change) }
	all := func(o *pb.CreateReq_AllOptions) *pb.CreateReq {
		req := createRequest("s", "g")
		req.Options.StreamOption = &pb.CreateReq_Options_All{All: o}
		return req
	}
	from := func(commit, prepare uint64) *pb.CreateReq {
		return all(&pb.CreateReq_AllOptions{AllOption: &pb.CreateReq_AllOptions_Position{Position: &pb.CreateReq_Position{CommitPosition: commit, PreparePosition: prepare}}})
	}
	filtered := func(f *pb.CreateReq_AllOptions_FilterOptions) *pb.CreateReq {
		return all(&pb.CreateReq_AllOptions{
			AllOption:    &pb.CreateReq_AllOptions_Start{Start: &shared.Empty{}},
			FilterOption: &pb.CreateReq_AllOptions_Filter{Filter: f},
		})
	}
	type expression = pb.CreateReq_AllOptions_FilterOptions_Expression
	for want, req := range map[string]*pb.CreateReq{
		"bad stream name":                   createRequest("", "g"),
		"$all is not asked for by its name": createRequest("$all", "g"),
		"bad group name":                    createRequest("s", ""),
		"does not say where to begin":       {},
		"read_batch_size (20) may not":      set(func(s *pb.CreateReq_Settings) { s.HistoryBufferSize = 20 }),
		"read_batch_size is 0":              set(func(s *pb.CreateReq_Settings) { s.ReadBatchSize = 0 }),
		"read_batch_size is -1":             set(func(s *pb.CreateReq_Settings) { s.ReadBatchSize = -1 }),
		"history_buffer_size is 2000000000": set(func(s *pb.CreateReq_Settings) { s.HistoryBufferSize = 2_000_000_000 }),
		"live_buffer_size is 0":             set(func(s *pb.CreateReq_Settings) { s.LiveBufferSize = 0 }),
		"max_retry_count is -1":             set(func(s *pb.CreateReq_Settings) { s.MaxRetryCount = -1 }),
		"min_checkpoint_count is -5":        set(func(s *pb.CreateReq_Settings) { s.MinCheckpointCount = -5 }),
		"max_checkpoint_count is -1":        set(func(s *pb.CreateReq_Settings) { s.MaxCheckpointCount = -1 }),
		"min_checkpoint_count (10) may not": set(func(s *pb.CreateReq_Settings) { s.MaxCheckpointCount = 9 }),
		"max_subscriber_count is -1":        set(func(s *pb.CreateReq_Settings) { s.MaxSubscriberCount = -1 }),
		"message_timeout is -1:": set(func(s *pb.CreateReq_Settings) {
			s.MessageTimeout = &pb.CreateReq_Settings_MessageTimeoutMs{MessageTimeoutMs: -1}
		}),
		"message_timeout is -900000000000000:": set(func(s *pb.CreateReq_Settings) {
			s.MessageTimeout = &pb.CreateReq_Settings_MessageTimeoutTicks{MessageTimeoutTicks: -9e18}
		}),
		"checkpoint_after is -1:": set(func(s *pb.CreateReq_Settings) {
			s.CheckpointAfter = &pb.CreateReq_Settings_CheckpointAfterMs{CheckpointAfterMs: -1}
		}),
		"checkpoint_after is 900000000000000:": set(func(s *pb.CreateReq_Settings) {
			s.CheckpointAfter = &pb.CreateReq_Settings_CheckpointAfterTicks{CheckpointAfterTicks: 9e18}
		}),
		`consumer strategy "Random" does not`:    set(func(s *pb.CreateReq_Settings) { s.ConsumerStrategy = "Random" }),
		"prepare position must be less":          from(0, 1),
		"less than or equal to the last commit":  from(1000, 1000),
		"neither event type nor stream name":     filtered(&pb.CreateReq_AllOptions_FilterOptions{}),
		"neither prefixes nor a pattern":         filtered(&pb.CreateReq_AllOptions_FilterOptions{Filter: &pb.CreateReq_AllOptions_FilterOptions_EventType{}}),
		"error parsing regexp: missing closing ": filtered(&pb.CreateReq_AllOptions_FilterOptions{Filter: &pb.CreateReq_AllOptions_FilterOptions_StreamIdentifier{StreamIdentifier: &expression{Regex: "(["}}}),
	} {
		var trailers metadata.MD
		_, err := stub.Create(t.Context(), req, grpc.Trailer(&trailers))
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) || first(trailers, "exception") != "persistent-subscription-failed" {
			t.Errorf("%s: %v, %v", want, err, trailers)
		}
	}
	big := createRequest("s", "g")
	big.GetOptions().GetStream().RevisionOption = &pb.CreateReq_StreamOptions_Revision{Revision: 1 << 63}
	if _, err := stub.Create(t.Context(), big); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a revision that cannot be: %v", err)
	}
	if list, err := stub.List(t.Context(), &pb.ListReq{Options: &pb.ListReq_Options{ListOption: &pb.ListReq_Options_ListAllSubscriptions{ListAllSubscriptions: &shared.Empty{}}}}); err != nil || len(list.GetSubscriptions()) != 0 {
		t.Errorf("there are groups: %v, %v", list, err)
	}
	if _, err := stub.Create(t.Context(), createRequest("s", "g")); err != nil {
		t.Errorf("settings that make sense: %v", err)
	}
	if _, err := stub.Update(t.Context(), updateRequest("s", "g", 20)); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an update that makes no sense: %v", err)
	}
}

func TestErrorsSayWhichGroup(t *testing.T) {
	stub := stubsOfGroups(t, start(t, esdbnode.Options{}).uri)
	one := createRequest("s", "one", func(s *pb.CreateReq_Settings) { s.MaxSubscriberCount = 1 })
	if _, err := stub.Create(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	read := func(name string) (pb.PersistentSubscriptions_ReadClient, error) {
		call, err := stub.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err = call.Send(&pb.ReadReq{Content: &pb.ReadReq_Options_{Options: &pb.ReadReq_Options{
			StreamOption: &pb.ReadReq_Options_StreamIdentifier{StreamIdentifier: named("s")}, GroupName: name, BufferSize: 1,
		}}}); err != nil {
			t.Fatal(err)
		}
		_, err = call.Recv()
		return call, err
	}
	reading := func(name string) (metadata.MD, error) {
		call, err := read(name)
		return call.Trailer(), err
	}
	held, failed := read("one")
	if failed != nil {
		t.Fatal(failed)
	}
	for what, c := range map[string]struct {
		call      func(*metadata.MD) error
		code      codes.Code
		exception string
		group     string
	}{
		"create again": {func(md *metadata.MD) error { _, err := stub.Create(ctx, one, grpc.Trailer(md)); return err }, codes.AlreadyExists, "persistent-subscription-exists", "one"},
		"update another": {func(md *metadata.MD) error {
			_, err := stub.Update(ctx, updateRequest("s", "两", 10), grpc.Trailer(md))
			return err
		}, codes.NotFound, "persistent-subscription-does-not-exist", "%E4%B8%A4"},
		"delete another": {func(md *metadata.MD) error {
			_, err := stub.Delete(ctx, &pb.DeleteReq{Options: &pb.DeleteReq_Options{StreamOption: &pb.DeleteReq_Options_StreamIdentifier{StreamIdentifier: named("s")}, GroupName: "x"}}, grpc.Trailer(md))
			return err
		}, codes.NotFound, "persistent-subscription-does-not-exist", "x"},
		"info of another": {func(md *metadata.MD) error {
			_, err := stub.GetInfo(ctx, &pb.GetInfoReq{Options: &pb.GetInfoReq_Options{StreamOption: &pb.GetInfoReq_Options_StreamIdentifier{StreamIdentifier: named("s")}, GroupName: "x"}}, grpc.Trailer(md))
			return err
		}, codes.NotFound, "persistent-subscription-does-not-exist", "x"},
		"replay of another": {func(md *metadata.MD) error {
			_, err := stub.ReplayParked(ctx, &pb.ReplayParkedReq{Options: &pb.ReplayParkedReq_Options{
				StreamOption: &pb.ReplayParkedReq_Options_StreamIdentifier{StreamIdentifier: named("s")}, GroupName: "x", StopAtOption: &pb.ReplayParkedReq_Options_NoLimit{},
			}}, grpc.Trailer(md))
			return err
		}, codes.NotFound, "persistent-subscription-does-not-exist", "x"},
		"replay to before the beginning": {func(md *metadata.MD) error {
			_, err := stub.ReplayParked(ctx, &pb.ReplayParkedReq{Options: &pb.ReplayParkedReq_Options{
				StreamOption: &pb.ReplayParkedReq_Options_StreamIdentifier{StreamIdentifier: named("s")}, GroupName: "one", StopAtOption: &pb.ReplayParkedReq_Options_StopAt{StopAt: -1},
			}}, grpc.Trailer(md))
			return err
		}, codes.InvalidArgument, "persistent-subscription-failed", "one"},
		"list of a stream with none": {func(md *metadata.MD) error {
			_, err := stub.List(ctx, &pb.ListReq{Options: &pb.ListReq_Options{ListOption: &pb.ListReq_Options_ListForStream{ListForStream: &pb.ListReq_StreamOption{
				StreamOption: &pb.ListReq_StreamOption_Stream{Stream: named("s-2")},
			}}}}, grpc.Trailer(md))
			return err
		}, codes.NotFound, "persistent-subscription-does-not-exist", ""},
		"consume from another": {func(md *metadata.MD) (err error) { *md, err = reading("x"); return err }, codes.NotFound, "persistent-subscription-does-not-exist", "x"},
		"one consumer more":    {func(md *metadata.MD) (err error) { *md, err = reading("one"); return err }, codes.FailedPrecondition, "maximum-subscribers-reached", "one"},
	} {
		var trailers metadata.MD
		err := c.call(&trailers)
		if status.Code(err) != c.code || first(trailers, "exception") != c.exception || first(trailers, "group-name") != c.group || !strings.HasPrefix(first(trailers, "stream-name"), "s") {
			t.Errorf("%s: %v, %v", what, err, trailers)
		}
	}
	if _, err := stub.Update(ctx, updateRequest("s", "one", 10)); err != nil {
		t.Fatal(err)
	}
	if _, err := held.Recv(); status.Code(err) != codes.Canceled || first(held.Trailer(), "exception") != "persistent-subscription-dropped" || first(held.Trailer(), "group-name") != "one" {
		t.Errorf("after an update: %v, %v", err, held.Trailer())
	}
}

func TestACallOfAConsumerThatMakesNoSenseIsRefused(t *testing.T) {
	r := start(t, esdbnode.Options{})
	stub := stubsOfGroups(t, r.uri)
	write(t, dial(t, r.uri), "s", 1)
	if _, err := stub.Create(t.Context(), createRequest("s", "g")); err != nil {
		t.Fatal(err)
	}
	begin := func(size int32) *pb.ReadReq {
		return &pb.ReadReq{Content: &pb.ReadReq_Options_{Options: &pb.ReadReq_Options{
			StreamOption: &pb.ReadReq_Options_StreamIdentifier{StreamIdentifier: named("s")}, GroupName: "g", BufferSize: size,
		}}}
	}
	id := []*shared.UUID{{Value: &shared.UUID_String_{String_: uuid.NewString()}}}
	acks := func(ids ...*shared.UUID) *pb.ReadReq {
		return &pb.ReadReq{Content: &pb.ReadReq_Ack_{Ack: &pb.ReadReq_Ack{Ids: ids}}}
	}
	nacks := func(action pb.ReadReq_Nack_Action, ids ...*shared.UUID) *pb.ReadReq {
		return &pb.ReadReq{Content: &pb.ReadReq_Nack_{Nack: &pb.ReadReq_Nack{Action: action, Ids: ids}}}
	}
	for what, c := range map[string]struct {
		sent []*pb.ReadReq
		want codes.Code
	}{
		"nothing":                {nil, codes.OK},
		"as it should be":        {[]*pb.ReadReq{begin(1), acks(id...), acks(), nacks(pb.ReadReq_Nack_Park, id...)}, codes.OK},
		"no options":             {[]*pb.ReadReq{{}}, codes.InvalidArgument},
		"an ack first":           {[]*pb.ReadReq{acks(id...)}, codes.InvalidArgument},
		"no buffer":              {[]*pb.ReadReq{begin(0)}, codes.InvalidArgument},
		"less than no buffer":    {[]*pb.ReadReq{begin(-1)}, codes.InvalidArgument},
		"options twice":          {[]*pb.ReadReq{begin(1), begin(1)}, codes.InvalidArgument},
		"nothing behind options": {[]*pb.ReadReq{begin(1), {}}, codes.InvalidArgument},
		"an id that is none":     {[]*pb.ReadReq{begin(1), acks(&shared.UUID{Value: &shared.UUID_String_{String_: "x"}})}, codes.InvalidArgument},
		"an id without anything": {[]*pb.ReadReq{begin(1), nacks(pb.ReadReq_Nack_Skip, &shared.UUID{})}, codes.InvalidArgument},
		"an action that is none": {[]*pb.ReadReq{begin(1), nacks(9, id...)}, codes.InvalidArgument},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		call, err := stub.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range c.sent {
			if err = call.Send(m); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		if err = call.CloseSend(); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = call.Recv()
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if status.Code(err) != c.want {
			t.Errorf("%s: %v", what, err)
		}
		cancel()
	}
}

func TestAGroupOfAllIsFiltered(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client := dial(t, r.uri)
	for name, filter := range map[string]*esdb.SubscriptionFilter{
		"stream prefix":  {Type: esdb.StreamFilterType, Prefixes: []string{"b-", "c"}},
		"stream pattern": {Type: esdb.StreamFilterType, Regex: "^[bc]"},
		"type prefix":    {Type: esdb.EventFilterType, Prefixes: []string{"b", "c"}},
		"type pattern":   {Type: esdb.EventFilterType, Regex: "[bc]$"},
	} {
		s := eager()
		s.CheckpointUpperBound = 5
		err := client.CreatePersistentSubscriptionToAll(t.Context(), name, esdb.PersistentAllSubscriptionOptions{StartFrom: esdb.Start{}, Filter: filter, Settings: s})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			sub := consume(t, client, "$all", name, 10)
			ack(t, sub, wantNext(t, sub, "0@b-1", "0@c-1")...)
			eventually(t, "the checkpoint passes what is left out", func() bool {
				at := info(t, client, "$all", name).Stats.LastCheckpointedPosition
				return at != nil && at.Commit > 20
			})
		}()
	}
	appendTo(t, client, "a-1", esdb.Any{}, fresh("a")...)
	appendTo(t, client, "b-1", esdb.Any{}, fresh("b")...)
	appendTo(t, client, "c-1", esdb.Any{}, fresh("c")...)
	for range 20 {
		appendTo(t, client, "a-1", esdb.Any{}, fresh("a")...)
	}
}

// Each checkpoint is an event of the log. Were it given to a group of the whole
// log, or counted by it, it would be the cause of the next one.
func TestAGroupOfAllIsNotFedByItsOwnCheckpoints(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client := dial(t, r.uri)
	for _, name := range []string{"a", "b"} {
		group(t, client, "$all", name, esdb.End{}, eager())
	}
	a, b := consume(t, client, "$all", "a", 10), consume(t, client, "$all", "b", 10)
	write(t, client, "s", 3)
	for _, sub := range []*esdb.PersistentSubscription{a, b} {
		for n := 0; n < 3; {
			e := next(t, sub).Event
			if e.Event.StreamID == "s" {
				n++
			}
			if strings.Contains(e.Event.StreamID, "-checkpoint") {
				t.Errorf("a consumer gets %s", e.Event.StreamID)
			}
			ack(t, sub, e)
		}
	}
	quiet := uint64(0)
	eventually(t, "the log grows no more", func() bool {
		was := quiet
		time.Sleep(100 * time.Millisecond) // long enough for hundreds of checkpoints
		quiet = r.node.Head()
		return was == quiet
	})
	if quiet > 40 {
		t.Errorf("the log has grown to %d", quiet)
	}
}

func TestLinksAreFollowedForAGroupThatAsks(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "target", 3)
	link := func(to string) esdb.EventData {
		return esdb.EventData{EventID: uuid.New(), EventType: "$>", ContentType: esdb.ContentTypeBinary, Data: []byte(to)}
	}
	appendTo(t, client, "links", esdb.Any{}, link("1@target"), link("7@target"), link("2@target"))
	s := eager()
	s.ResolveLinkTos = true
	group(t, client, "links", "following", esdb.Start{}, s)
	group(t, client, "links", "not", esdb.Start{}, nil)
	wantNext(t, consume(t, client, "links", "not", 3), "0@links", "1@links", "2@links")
	sub := consume(t, client, "links", "following", 3)
	got := wantNext(t, sub, "1@target", "gone", "2@target")
	nack(t, sub, esdb.NackActionPark, got...)
	eventually(t, "all are parked", func() bool { return len(parkedIn(t, client, "links", "following")) == 3 })
	var data []string
	for _, p := range parkedIn(t, client, "links", "following") {
		data = append(data, string(p.Event.Data))
	}
	if want := []string{"1@target", "7@target", "2@target"}; !slices.Equal(data, want) {
		t.Errorf("parked are %v", data)
	}
}

func TestASourceMayBeDeletedAndTruncated(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 4)
	meta := esdb.StreamMetadata{}
	meta.SetTruncateBefore(2)
	if _, err := client.SetStreamMetadata(t.Context(), "s", esdb.AppendToStreamOptions{}, meta); err != nil {
		t.Fatal(err)
	}
	group(t, client, "s", "g", esdb.Start{}, eager())
	sub := consume(t, client, "s", "g", 10)
	ack(t, sub, wantNext(t, sub, "2@s", "3@s")...)
	remove(t, client, "s")
	write(t, client, "s", 1)
	ack(t, sub, wantNext(t, sub, "4@s")...)
	group(t, client, "s", "late", esdb.Start{}, nil)
	wantNext(t, consume(t, client, "s", "late", 10), "4@s")
	bury(t, client, "s")
	wantDropped(t, sub, codes.Canceled)
	if sub, err := tryConsume(t.Context(), client, "s", "g", 1); err == nil {
		wantDropped(t, sub, codes.Canceled)
	}
	if err := client.DeletePersistentSubscription(t.Context(), "s", "g", esdb.DeletePersistentSubscriptionOptions{}); err != nil {
		t.Errorf("delete a group of a stream that is no more: %v", err)
	}
}

func TestADeletedGroupLeavesNothingToTheNextOfItsName(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 3)
	for range 3 {
		group(t, client, "s", "g", esdb.Start{}, eager())
		sub := consume(t, client, "s", "g", 10)
		got := wantNext(t, sub, "0@s", "1@s", "2@s")
		nack(t, sub, esdb.NackActionPark, got[0])
		ack(t, sub, got[1])
		eventually(t, "there is a checkpoint", func() bool {
			i := info(t, client, "s", "g")
			return i.Stats.LastCheckpointedEventRevision != nil && i.Stats.ParkedMessagesCount == 1
		})
		if err := client.DeletePersistentSubscription(t.Context(), "s", "g", esdb.DeletePersistentSubscriptionOptions{}); err != nil {
			t.Fatal(err)
		}
		wantDropped(t, sub, codes.Canceled)
		if _, err := tryConsume(t.Context(), client, "s", "g", 1); codeOf(err) != esdb.ErrorCodeResourceNotFound {
			t.Errorf("a group that was deleted: %v", err)
		}
	}
}

func TestAnUpdateDropsConsumersAndKeepsTheCheckpoint(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 3)
	group(t, client, "s", "g", esdb.Start{}, nil)
	sub := consume(t, client, "s", "g", 10)
	ack(t, sub, wantNext(t, sub, "0@s", "1@s", "2@s")[:2]...)
	eventually(t, "two are done", func() bool { return info(t, client, "s", "g").Stats.OutstandingMessagesCount == 1 })
	s := eager()
	s.ConsumerStrategyName, s.MaxSubscriberCount = esdb.ConsumerStrategyPinned, 7
	if err := client.UpdatePersistentSubscription(t.Context(), "s", "g", esdb.PersistentStreamSubscriptionOptions{Settings: s, StartFrom: esdb.Start{}}); err != nil {
		t.Fatal(err)
	}
	wantDropped(t, sub, codes.Canceled)
	if got := info(t, client, "s", "g").Settings; got.ConsumerStrategyName != esdb.ConsumerStrategyPinned || got.MaxSubscriberCount != 7 {
		t.Errorf("%+v", got)
	}
	wantNext(t, consume(t, client, "s", "g", 10), "2@s")

	filter := &esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Prefixes: []string{"s"}}
	if err := client.CreatePersistentSubscriptionToAll(t.Context(), "g", esdb.PersistentAllSubscriptionOptions{StartFrom: esdb.End{}, Filter: filter}); err != nil {
		t.Fatal(err)
	}
	if err := client.UpdatePersistentSubscriptionToAll(t.Context(), "g", esdb.PersistentAllSubscriptionOptions{Settings: s, StartFrom: esdb.Start{}}); err != nil {
		t.Fatal(err)
	}
	write(t, client, "other", 1)
	write(t, client, "s", 1)
	wantNext(t, consume(t, client, "$all", "g", 10), "0@s", "1@s", "2@s", "3@s")
}

func TestTheSubsystemIsRestarted(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 2)
	group(t, client, "s", "g", esdb.Start{}, nil)
	sub := consume(t, client, "s", "g", 1)
	ack(t, sub, wantNext(t, sub, "0@s")...)
	wantNext(t, sub, "1@s")
	if err := client.RestartPersistentSubscriptionSubsystem(t.Context(), esdb.RestartPersistentSubscriptionSubsystemOptions{}); err != nil {
		t.Fatal(err)
	}
	wantDropped(t, sub, codes.Canceled)
	sub = consume(t, client, "s", "g", 2)
	wantNext(t, sub, "1@s")
	write(t, client, "s", 1)
	wantNext(t, sub, "2@s")
}

func TestStrategiesShareOut(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client, stub := dial(t, r.uri), stubsOfGroups(t, r.uri)
	subs := map[string][2]*esdb.PersistentSubscription{}
	for strategy, stream := range map[string]string{"RoundRobin": "links", "DispatchToSingle": "links", "Pinned": "links", "PinnedByCorrelation": "related"} {
		req := createRequest(stream, strategy, func(s *pb.CreateReq_Settings) { s.ConsumerStrategy, s.ResolveLinks = strategy, true })
		if _, err := stub.Create(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		subs[strategy] = [2]*esdb.PersistentSubscription{consume(t, client, stream, strategy, 20), consume(t, client, stream, strategy, 20)}
		if i := info(t, client, stream, strategy); i.Settings.ConsumerStrategyName != esdb.ConsumerStrategy(strategy) || len(i.Connections) != 2 {
			t.Errorf("%+v", i)
		}
	}
	for i := range 8 {
		write(t, client, fmt.Sprintf("s-%d", i), 1)
	}
	links, related := fresh(make([]string, 40)...), fresh(make([]string, 40)...)
	for i := range 40 {
		links[i].EventType, links[i].Data = "$>", fmt.Appendf(nil, "0@s-%d", i%8)
		related[i].EventType, related[i].Metadata = "x", fmt.Appendf(nil, `{"a":{},"$correlationId":"c-%d"}`, i%8)
	}
	appendTo(t, client, "links", esdb.Any{}, links...)
	appendTo(t, client, "related", esdb.Any{}, related...)
	for strategy, pair := range subs {
		var numbers [2][]uint64
		for i, sub := range pair {
			for range 20 {
				numbers[i] = append(numbers[i], next(t, sub).Event.OriginalEvent().EventNumber)
			}
		}
		for i, n := range numbers[0] {
			switch {
			case strategy == "RoundRobin" && n != uint64(2*i), strategy == "DispatchToSingle" && n != uint64(i):
				t.Fatalf("%s: the first has %v", strategy, numbers[0])
			case strings.HasPrefix(strategy, "Pinned") && slices.ContainsFunc(numbers[1], func(other uint64) bool { return other%8 == n%8 }):
				t.Fatalf("%s: of one source are %v and %v", strategy, numbers[0], numbers[1])
			}
		}
	}
}

func TestGroupsAreListedAndMeasured(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 5)
	s := esdb.SubscriptionSettingsDefault()
	s.ExtraStatistics = true
	group(t, client, "s", "b", esdb.Start{}, &s)
	group(t, client, "s", "a", esdb.Start{}, nil)
	group(t, client, "r", "/a/b ü", esdb.Start{}, nil)
	group(t, client, "$all", "g", esdb.Start{}, nil)
	names := func(infos []esdb.PersistentSubscriptionInfo, err error) (all []string) {
		if err != nil {
			t.Error(err)
		}
		for _, i := range infos {
			all = append(all, i.EventSource+" "+i.GroupName)
		}
		return all
	}
	o := esdb.ListPersistentSubscriptionsOptions{}
	if got, want := names(client.ListAllPersistentSubscriptions(t.Context(), o)), []string{"$all g", "r /a/b ü", "s b", "s a"}; !slices.Equal(got, want) {
		t.Errorf("all: %q", got)
	}
	if got, want := names(client.ListPersistentSubscriptionsForStream(t.Context(), "s", o)), []string{"s b", "s a"}; !slices.Equal(got, want) {
		t.Errorf("of a stream: %q", got)
	}
	if got, want := names(client.ListPersistentSubscriptionsToAll(t.Context(), o)), []string{"$all g"}; !slices.Equal(got, want) {
		t.Errorf("of all: %q", got)
	}
	sub := consume(t, client, "s", "b", 3)
	ack(t, sub, wantNext(t, sub, "0@s", "1@s", "2@s")...)
	wantNext(t, sub, "3@s", "4@s")
	i := info(t, client, "s", "b")
	c := i.Connections[0]
	if i.Status != "Live" || i.Stats.TotalItems != 5 || i.Stats.CountSinceLastMeasurement != 5 || *i.Stats.LastKnownEventRevision != 4 || i.Stats.LastCheckpointedEventRevision != nil ||
		c.TotalItemsProcessed != 5 || c.Username != "anonymous" || c.ConnectionName != "<unknown>" || len(c.ExtraStatistics) != 14 || c.ExtraStatistics[0].Key != "Mean" {
		t.Errorf("%+v", i)
	}
	want := esdb.SubscriptionSettingsDefault()
	want.ExtraStatistics, want.StartFrom = true, esdb.Start{}
	if diff := cmp.Diff(*i.Settings, want); diff != "" {
		t.Error(diff)
	}
}

func TestOneWhoWatchesSeesHowGroupsAreDoing(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client := dial(t, r.uri)
	write(t, client, "s", 5)
	write(t, client, "t", 2)
	group(t, client, "s", "g", esdb.Start{}, nil)
	group(t, client, "$all", "end", esdb.End{}, nil)
	group(t, client, "t", "g", esdb.Start{}, nil)
	sub := consume(t, client, "s", "g", 3)
	got := wantNext(t, sub, "0@s", "1@s", "2@s")
	nack(t, sub, esdb.NackActionPark, got[0])
	ack(t, sub, got[2])
	bury(t, client, "t")
	// The newest of the log are the parked event and the tombstone.
	want := []persistent.State{
		{Stream: "$all", Group: "end"},
		{Stream: "s", Group: "g", Consumers: 1, InFlight: 3, Parked: 1, Behind: 4},
		{Stream: "t", Group: "g", Failed: true, Waiting: 2, Behind: 2},
	}
	var diff string
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // between two looks
		states, err := r.node.Subscriptions(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(states) > 0 {
			states[0].Waiting, states[0].Behind = 0, 0 // of the log's newest it has those of other groups
		}
		if diff = cmp.Diff(want, states); diff == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(diff)
		}
	}
	r.stop()
	if _, err := r.node.Subscriptions(t.Context()); err == nil {
		t.Error("a node that is closed tells of its groups")
	}
}

func TestAGroupThatNobodyAnswersStaysWithinItsBuffers(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client := dial(t, r.uri)
	for n := range 100 {
		stream := "s"
		if n%10 == 0 {
			stream = "$all"
		}
		group(t, client, stream, fmt.Sprintf("g-%d", n), esdb.Start{}, nil)
	}
	subs := []*esdb.PersistentSubscription{consume(t, client, "s", "g-1", 10), consume(t, client, "$all", "g-0", 10)}
	large := esdb.EventData{EventType: "large", ContentType: esdb.ContentTypeBinary, Data: make([]byte, 100<<10)}
	for range 200 { // 20 MiB
		large.EventID = uuid.New()
		appendTo(t, client, "s", esdb.Any{}, large)
	}
	for range 20 {
		write(t, client, "s", 100)
	}
	eventually(t, "all have read what they may", func() bool {
		infos, err := client.ListAllPersistentSubscriptions(t.Context(), esdb.ListPersistentSubscriptionsOptions{})
		if err != nil || len(infos) != 100 {
			t.Fatalf("%d groups, %v", len(infos), err)
		}
		for _, i := range infos {
			if held := i.Stats.ReadBufferCount + i.Stats.OutstandingMessagesCount; held < 80 || held > 200 {
				return false // 8 MiB are 82 of these
			}
		}
		return true
	})
	for _, sub := range subs {
		ack(t, sub, next(t, sub).Event)
	}
}

func TestOneWhoMayOnlyReadMayOnlyAskAboutGroups(t *testing.T) {
	ca := tlstest.New(t)
	node, address := through(t, esdbnode.Door{
		TLS: ca.ServerConfig(), Users: map[string]string{"admin": "changeit", "report": "look"}, ReadOnly: []string{"report"},
	})
	write(t, dial(t, node.uri), "s", 1)
	admin := official(t, "esdb://admin:changeit@"+address+"?tlsCAFile="+ca.CAFile)
	report := official(t, "esdb://report:look@"+address+"?tlsCAFile="+ca.CAFile)
	nobody := official(t, "esdb://"+address+"?tlsCAFile="+ca.CAFile)
	group(t, admin, "s", "g", esdb.Start{}, nil)
	sub := consume(t, admin, "s", "g", 1)
	wantNext(t, sub, "0@s")
	ctx := t.Context()
	calls := map[string]func(*esdb.Client) error{
		"create": func(c *esdb.Client) error {
			return c.CreatePersistentSubscription(ctx, "s", "h", esdb.PersistentStreamSubscriptionOptions{})
		},
		"update": func(c *esdb.Client) error {
			return c.UpdatePersistentSubscription(ctx, "s", "g", esdb.PersistentStreamSubscriptionOptions{})
		},
		"delete": func(c *esdb.Client) error {
			return c.DeletePersistentSubscription(ctx, "s", "g", esdb.DeletePersistentSubscriptionOptions{})
		},
		"replay": func(c *esdb.Client) error {
			return c.ReplayParkedMessages(ctx, "s", "g", esdb.ReplayParkedMessagesOptions{})
		},
		"restart": func(c *esdb.Client) error {
			return c.RestartPersistentSubscriptionSubsystem(ctx, esdb.RestartPersistentSubscriptionSubsystemOptions{})
		},
		"consume": func(c *esdb.Client) error { _, err := tryConsume(ctx, c, "s", "g", 1); return err },
		"info": func(c *esdb.Client) error {
			_, err := c.GetPersistentSubscriptionInfo(ctx, "s", "g", esdb.GetPersistentSubscriptionOptions{})
			return err
		},
		"list": func(c *esdb.Client) error {
			_, err := c.ListAllPersistentSubscriptions(ctx, esdb.ListPersistentSubscriptionsOptions{})
			return err
		},
	}
	for name, call := range calls {
		err := call(report)
		if asks := name == "info" || name == "list"; asks && err != nil || !asks && codeOf(err) != esdb.ErrorCodeAccessDenied {
			t.Errorf("%s by one who may only read: %v", name, err)
		}
		if err := call(nobody); codeOf(err) != esdb.ErrorCodeUnauthenticated {
			t.Errorf("%s by nobody: %v", name, err)
		}
	}
	if user := info(t, admin, "s", "g").Connections[0].Username; user != "admin" {
		t.Errorf("the consumer is %s", user)
	}
}

func TestAConfigurationThatCannotBeReadIsSaidSo(t *testing.T) {
	dir := t.TempDir()
	r := start(t, esdbnode.Options{Dir: dir})
	client := dial(t, r.uri)
	group(t, client, "s", "g", esdb.Start{}, nil)
	appendTo(t, client, "$persistentSubscriptionConfig", esdb.Any{}, fresh("x")...)
	r.stop()
	r = start(t, esdbnode.Options{Dir: dir})
	client = dial(t, r.uri)
	write(t, client, "s", 1) // the rest works
	err := client.CreatePersistentSubscription(t.Context(), "s", "h", esdb.PersistentStreamSubscriptionOptions{})
	if err == nil || !strings.Contains(err.Error(), "$persistentSubscriptionConfig@1") {
		t.Errorf("create: %v", err)
	}
	if _, err = tryConsume(t.Context(), client, "s", "g", 1); err == nil || codeOf(err) == esdb.ErrorCodeResourceNotFound {
		t.Errorf("consume: %v", err)
	}
	if all, err := client.ListAllPersistentSubscriptions(t.Context(), esdb.ListPersistentSubscriptionsOptions{}); err == nil {
		t.Errorf("list: %v", all)
	}
}

// TestAGroupOutlivesAScavenge throws away what the group's last checkpoint stands
// on and what comes behind it, all but the last of its checkpoints, and what a
// parked event leads to.
func TestAGroupOutlivesAScavenge(t *testing.T) {
	dir := t.TempDir()
	r := start(t, esdbnode.Options{Dir: dir})
	client := dial(t, r.uri)
	write(t, client, "s", 30)
	group(t, client, "s", "g", esdb.Start{}, eager())
	if err := client.CreatePersistentSubscriptionToAll(t.Context(), "g", esdb.PersistentAllSubscriptionOptions{
		StartFrom: esdb.Start{}, Settings: eager(), Filter: &esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Prefixes: []string{"s"}},
	}); err != nil {
		t.Fatal(err)
	}
	for _, stream := range []string{"s", "$all"} {
		sub := consume(t, client, stream, "g", 1)
		for n := range 20 {
			e := next(t, sub).Event
			if n == 3 {
				nack(t, sub, esdb.NackActionPark, e)
			} else {
				ack(t, sub, e)
			}
		}
		next(t, sub)
		if err := sub.Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "all are done", func() bool {
			s := info(t, client, stream, "g").Stats
			return s.LastCheckpointedEventRevision != nil && *s.LastCheckpointedEventRevision == 19 ||
				s.LastCheckpointedPosition != nil && s.LastCheckpointedPosition.Commit == 20
		})
	}
	meta := esdb.StreamMetadata{}
	meta.SetTruncateBefore(25)
	if _, err := client.SetStreamMetadata(t.Context(), "s", esdb.AppendToStreamOptions{}, meta); err != nil {
		t.Fatal(err)
	}
	const checkpoints = "$persistentsubscription-s::g-checkpoint"
	if kept, err := readAll(t.Context(), client, checkpoints, esdb.ReadStreamOptions{}, 100); err != nil || len(kept) != 2 {
		t.Errorf("of the checkpoints %d are shown: %v", len(kept), err)
	}
	if done := sweep(t, r.node); done.Events <= 25 {
		t.Errorf("scavenged: %+v", done)
	}
	r.stop()
	r = start(t, esdbnode.Options{Dir: dir})
	client = dial(t, r.uri)
	for _, stream := range []string{"s", "$all"} {
		sub := consume(t, client, stream, "g", 10)
		for n, e := range wantNext(t, sub, "25@s", "26@s", "27@s", "28@s", "29@s") {
			ack(t, sub, e)
			if e.Event.Position.Commit != uint64(26+n) {
				t.Errorf("%d@s is at %v", 25+n, e.Event.Position)
			}
		}
		eventually(t, "these are done too", func() bool { return info(t, client, stream, "g").Stats.TotalInFlightMessages == 0 })
		if err := sub.Close(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "nobody is there", func() bool { return len(info(t, client, "s", "g").Connections) == 0 })
	sub := consume(t, client, "s", "g", 10)
	if err := client.ReplayParkedMessages(t.Context(), "s", "g", esdb.ReplayParkedMessagesOptions{}); err != nil {
		t.Fatal(err)
	}
	ack(t, sub, wantNext(t, sub, "gone")...)
	eventually(t, "nothing is parked", func() bool { return len(parkedIn(t, client, "s", "g")) == 0 })
}

// TestChangesWhileConsumersReadLoseNothing updates and restarts a group while its
// consumers answer, and others are made and deleted beside it.
func TestChangesWhileConsumersReadLoseNothing(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	s := eager()
	s.MaxRetryCount = 1_000_000
	group(t, client, "s", "g", esdb.Start{}, s)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	var consumers sync.WaitGroup
	var answered sync.Map // by number
	for range 4 {
		consumers.Go(func() { answerAll(ctx, t, client, &answered) })
	}
	const events = 300
	for n := range 30 {
		write(t, client, "s", events/30)
		s.MessageTimeout, s.MaxSubscriberCount = int32(1000+n), int32(n%2*10)
		if err := client.UpdatePersistentSubscription(ctx, "s", "g", esdb.PersistentStreamSubscriptionOptions{Settings: s, StartFrom: esdb.Start{}}); err != nil {
			t.Error(err)
		}
		group(t, client, "s", "other", esdb.End{}, nil)
		if n%10 == 5 {
			if err := client.RestartPersistentSubscriptionSubsystem(ctx, esdb.RestartPersistentSubscriptionSubsystemOptions{}); err != nil {
				t.Error(err)
			}
		}
		if err := client.DeletePersistentSubscription(ctx, "s", "other", esdb.DeletePersistentSubscriptionOptions{}); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "all are done", func() bool {
		at := info(t, client, "s", "g").Stats.LastCheckpointedEventRevision
		return at != nil && *at == events-1
	})
	cancel()
	consumers.Wait()
	for n := range uint64(events) {
		if _, ok := answered.Load(n); !ok {
			t.Errorf("%d is done, and nobody answered it", n)
		}
	}
}

// answerAll consumes until ctx ends. It leaves now and then with an event in its
// hands, and comes back whenever it has left or was dropped.
func answerAll(ctx context.Context, t *testing.T, client *esdb.Client, answered *sync.Map) {
	t.Helper()
	for ctx.Err() == nil {
		sub, err := tryConsume(ctx, client, "s", "g", 7)
		if err != nil {
			if code := status.Code(errors.Unwrap(err)); ctx.Err() == nil && code != codes.Canceled && codeOf(err) != esdb.ErrorCodeResourceNotFound {
				t.Errorf("consume: %v", err)
			}
			continue
		}
		for n := 0; err == nil; n++ {
			e := sub.Recv()
			switch {
			case n == 20:
				err = io.EOF
			case e.SubscriptionDropped != nil:
				err = e.SubscriptionDropped.Error
				if code := status.Code(err); code != codes.Canceled {
					t.Errorf("dropped with %v: %v", code, err)
				}
			case e.EventAppeared.Event.Event.EventNumber%5 == 0 && e.EventAppeared.RetryCount == 0:
				err = sub.Nack("later", esdb.NackActionRetry, e.EventAppeared.Event)
			default:
				answered.Store(e.EventAppeared.Event.Event.EventNumber, true)
				err = sub.Ack(e.EventAppeared.Event)
			}
		}
		_ = sub.Close()
	}
}

// The stalled consumer's share is more than its connection takes, so the node is
// in the middle of sending to it all the time.
func TestOneWhoTakesNothingOffTheConnectionStopsNobody(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client, stub := dial(t, r.uri), stubsOfGroups(t, r.uri)
	s := eager()
	s.MessageTimeout, s.MaxRetryCount = 100, 1_000_000
	group(t, client, "s", "g", esdb.Start{}, s)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stalled, err := stub.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err = stalled.Send(&pb.ReadReq{Content: &pb.ReadReq_Options_{Options: &pb.ReadReq_Options{
		StreamOption: &pb.ReadReq_Options_StreamIdentifier{StreamIdentifier: named("s")}, GroupName: "g", BufferSize: 40,
	}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is there", func() bool { return len(info(t, client, "s", "g").Connections) == 1 })
	const events = 40
	large := esdb.EventData{EventType: "large", ContentType: esdb.ContentTypeBinary, Data: make([]byte, 100<<10)}
	for range events {
		large.EventID = uuid.New()
		appendTo(t, client, "s", esdb.Any{}, large)
	}
	sub := consume(t, client, "s", "g", 10)
	for seen := map[uint64]bool{}; len(seen) < events; {
		e := next(t, sub).Event
		seen[e.Event.EventNumber] = true
		ack(t, sub, e)
	}
	eventually(t, "all are done", func() bool {
		at := info(t, client, "s", "g").Stats.LastCheckpointedEventRevision
		return at != nil && *at == events-1
	})
	if err = client.DeletePersistentSubscription(t.Context(), "s", "g", esdb.DeletePersistentSubscriptionOptions{}); err != nil {
		t.Fatal(err)
	}
	wantDropped(t, sub, codes.Canceled)
	for err == nil {
		_, err = stalled.Recv()
	}
	if status.Code(err) != codes.Canceled || first(stalled.Trailer(), "exception") != "persistent-subscription-dropped" {
		t.Errorf("what the stalled one finds in the end: %v, %v", err, stalled.Trailer())
	}
}

func TestANodeThatClosesHasNothingBadToSayOfItsGroups(t *testing.T) {
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn}))
	r := start(t, esdbnode.Options{Log: log})
	client := dial(t, r.uri)
	group(t, client, "s", "g", esdb.Start{}, eager())
	group(t, client, "$all", "g", esdb.Start{}, eager())
	sub := consume(t, client, "s", "g", 10)
	write(t, client, "s", 10)
	ack(t, sub, wantNext(t, sub, "0@s")...)
	r.stop()
	if said.Len() > 0 {
		t.Error(said.String())
	}
}

// BenchmarkConsume acknowledges event by event, with checkpoints as they come.
func BenchmarkConsume(b *testing.B) {
	client := dial(b, start(b, esdbnode.Options{}).uri)
	for n := 0; n < b.N; n += 500 {
		appendFresh(b, client, 500)
	}
	if err := client.CreatePersistentSubscriptionToAll(b.Context(), "g", esdb.PersistentAllSubscriptionOptions{StartFrom: esdb.Start{}}); err != nil {
		b.Fatal(err)
	}
	sub, err := tryConsume(b.Context(), client, "$all", "g", 200)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = sub.Close() }()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		e := sub.Recv()
		if e.EventAppeared == nil {
			b.Fatal(e.SubscriptionDropped.Error)
		}
		if err := sub.Ack(e.EventAppeared.Event); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
