package esdbnode_test

import (
	"context"
	"errors"
	"io"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cartwright/infra/esdbnode"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

func newID() uuid.UUID { return uuid.New() }

func TestAStreamIsReadBothWays(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "other", 2)
	write(t, client, "s", 5)
	wantSlices(t, client, "s")
	if _, err := readAll(t.Context(), client, "never", esdb.ReadStreamOptions{}, 1); codeOf(err) != esdb.ErrorCodeResourceNotFound {
		t.Errorf("a stream that never was: %v", err)
	}
}

// wantSlices reads a stream of five both ways, from and to everywhere.
func wantSlices(t *testing.T, client *esdb.Client, stream string) {
	t.Helper()
	const forwards, backwards = esdb.Forwards, esdb.Backwards
	for _, c := range []struct {
		direction esdb.Direction
		from      esdb.StreamPosition
		count     uint64
		want      []uint64
	}{
		{forwards, esdb.Start{}, 100, []uint64{0, 1, 2, 3, 4}},
		{forwards, esdb.Start{}, 2, []uint64{0, 1}},
		{forwards, esdb.Revision(3), 100, []uint64{3, 4}},
		{forwards, esdb.Revision(5), 100, nil},
		{forwards, esdb.Revision(math.MaxUint64), 100, nil},
		{forwards, esdb.End{}, 100, nil},
		{forwards, esdb.Start{}, 0, nil},
		{backwards, esdb.End{}, 100, []uint64{4, 3, 2, 1, 0}},
		{backwards, esdb.End{}, 1, []uint64{4}},
		{backwards, esdb.Revision(2), 100, []uint64{2, 1, 0}},
		{backwards, esdb.Revision(99), 2, []uint64{4, 3}},
		{backwards, esdb.Start{}, 100, []uint64{0}},
	} {
		got, err := readAll(t.Context(), client, stream, esdb.ReadStreamOptions{Direction: c.direction, From: c.from}, c.count)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if diff := cmp.Diff(c.want, numbers(got)); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", c, diff)
		}
	}
}

func TestAllIsReadBothWays(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	if got, err := log(t.Context(), client, esdb.ReadAllOptions{}); err != nil || len(got) != 0 {
		t.Fatalf("empty: %v, %v", got, err)
	}
	write(t, client, "a", 3)
	write(t, client, "b", 2) // positions 1 to 5
	at := func(n uint64) esdb.Position { return esdb.Position{Commit: n, Prepare: n} }
	for _, c := range []struct {
		direction esdb.Direction
		from      esdb.AllPosition
		want      []uint64
	}{
		{esdb.Forwards, esdb.Start{}, []uint64{1, 2, 3, 4, 5}},
		{esdb.Forwards, at(0), []uint64{1, 2, 3, 4, 5}},
		{esdb.Forwards, at(4), []uint64{4, 5}}, // inclusive
		{esdb.Forwards, at(6), nil},
		{esdb.Forwards, esdb.End{}, nil},
		{esdb.Backwards, esdb.End{}, []uint64{5, 4, 3, 2, 1}},
		{esdb.Backwards, at(4), []uint64{3, 2, 1}}, // exclusive
		{esdb.Backwards, at(1), nil},
		{esdb.Backwards, at(99), []uint64{5, 4, 3, 2, 1}},
		{esdb.Backwards, esdb.Start{}, nil},
	} {
		got, err := log(t.Context(), client, esdb.ReadAllOptions{Direction: c.direction, From: c.from})
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if diff := cmp.Diff(c.want, positions(got)); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", c, diff)
		}
	}
}

func TestAnEventComesBackWhole(t *testing.T) {
	clock := time.Date(2024, 2, 29, 12, 0, 0, 123_456_700, time.UTC)
	address := start(t, esdbnode.Options{Now: func() time.Time { return clock }}).uri
	client, stub := dialBoth(t, address)
	sent := []esdb.EventData{
		{EventID: newID(), EventType: "order.placed", ContentType: esdb.ContentTypeJson, Data: []byte(`{"a": "张三"}`), Metadata: []byte(`{"b":2}`)},
		{EventID: newID(), EventType: "文档", ContentType: esdb.ContentTypeBinary, Data: []byte{0, 255, 10}, Metadata: []byte{1}},
		{EventID: newID(), EventType: "empty", ContentType: esdb.ContentTypeBinary},
	}
	const stream = "订单-1 with spaces"
	appendTo(t, client, stream, esdb.NoStream{}, sent...)
	got, err := readAll(t.Context(), client, stream, esdb.ReadStreamOptions{}, 10)
	if err != nil || len(got) != 3 {
		t.Fatalf("%v, %v", got, err)
	}
	for i, e := range got {
		kind := map[esdb.ContentType]string{esdb.ContentTypeJson: "application/json", esdb.ContentTypeBinary: "application/octet-stream"}[sent[i].ContentType]
		r := e.Event
		if r.EventID != sent[i].EventID || r.EventType != sent[i].EventType || r.ContentType != kind || r.StreamID != stream ||
			r.EventNumber != uint64(i) || !r.CreatedDate.Equal(clock) || r.Position != (esdb.Position{Commit: uint64(i) + 1, Prepare: uint64(i) + 1}) ||
			string(r.Data) != string(sent[i].Data) || string(r.UserMetadata) != string(sent[i].Metadata) || *e.Commit != uint64(i)+1 || e.Link != nil {
			t.Errorf("event %d: %+v", i, r)
		}
	}
	call, err := stub.Read(t.Context(), &streams.ReadReq{Options: &streams.ReadReq_Options{
		StreamOption: &streams.ReadReq_Options_Stream{Stream: &streams.ReadReq_Options_StreamOptions{StreamIdentifier: named(stream)}},
		CountOption:  &streams.ReadReq_Options_Count{Count: 1},
		UuidOption:   &streams.ReadReq_Options_UUIDOption{Content: &streams.ReadReq_Options_UUIDOption_String_{String_: &shared.Empty{}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := call.Recv(); err != nil || e.GetEvent().GetEvent().GetId().GetString_() != sent[0].EventID.String() {
		t.Errorf("id as text: %v, %v", e, err)
	}
}

func TestAReadThatMakesNoSenseIsRefused(t *testing.T) {
	_, stub := dialBoth(t, start(t, esdbnode.Options{}).uri)
	all := &streams.ReadReq_Options_All{All: &streams.ReadReq_Options_AllOptions{}}
	one := &streams.ReadReq_Options_Stream{Stream: &streams.ReadReq_Options_StreamOptions{StreamIdentifier: named("s")}}
	subscription := &streams.ReadReq_Options_Subscription{}
	filter := func(multiplier uint32, e *streams.ReadReq_Options_FilterOptions_Expression) *streams.ReadReq_Options_Filter {
		return &streams.ReadReq_Options_Filter{Filter: &streams.ReadReq_Options_FilterOptions{
			CheckpointIntervalMultiplier: multiplier, Filter: &streams.ReadReq_Options_FilterOptions_EventType{EventType: e},
		}}
	}
	prefix := &streams.ReadReq_Options_FilterOptions_Expression{Prefix: []string{"a"}}
	for name, o := range map[string]*streams.ReadReq_Options{
		"nothing":                     nil,
		"no stream's name":            {StreamOption: &streams.ReadReq_Options_Stream{}},
		"a subscription backwards":    {StreamOption: all, CountOption: subscription, ReadDirection: streams.ReadReq_Options_Backwards},
		"a multiplier of 0":           {StreamOption: all, CountOption: subscription, FilterOption: filter(0, prefix)},
		"a filter of nothing":         {StreamOption: all, CountOption: subscription, FilterOption: filter(1, nil)},
		"a filter that says not what": {StreamOption: all, FilterOption: &streams.ReadReq_Options_Filter{Filter: &streams.ReadReq_Options_FilterOptions{CheckpointIntervalMultiplier: 1}}},
		"a pattern that is none":      {StreamOption: all, CountOption: subscription, FilterOption: filter(1, &streams.ReadReq_Options_FilterOptions_Expression{Regex: "("})},
		"a filter on a stream":        {StreamOption: one, CountOption: subscription, FilterOption: filter(1, prefix)},
	} {
		call, err := stub.Read(t.Context(), &streams.ReadReq{Options: o})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := call.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestAllMayBeReadWithAFilter(t *testing.T) {
	client, stub := dialBoth(t, start(t, esdbnode.Options{}).uri)
	for range 3 {
		appendTo(t, client, "a", esdb.Any{}, fresh("keep", "drop", "keep")...)
	}
	call, err := stub.Read(t.Context(), &streams.ReadReq{Options: &streams.ReadReq_Options{
		StreamOption:  &streams.ReadReq_Options_All{All: &streams.ReadReq_Options_AllOptions{AllOption: &streams.ReadReq_Options_AllOptions_End{}}},
		ReadDirection: streams.ReadReq_Options_Backwards,
		CountOption:   &streams.ReadReq_Options_Count{Count: 4},
		FilterOption: &streams.ReadReq_Options_Filter{Filter: &streams.ReadReq_Options_FilterOptions{
			CheckpointIntervalMultiplier: 1,
			Filter: &streams.ReadReq_Options_FilterOptions_EventType{
				EventType: &streams.ReadReq_Options_FilterOptions_Expression{Prefix: []string{"x", "ke"}},
			},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var got []uint64
	for e, err := call.Recv(); !errors.Is(err, io.EOF); e, err = call.Recv() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.GetEvent().GetCommitPosition())
	}
	if diff := cmp.Diff([]uint64{9, 7, 6, 4}, got); diff != "" {
		t.Error(diff)
	}
}

func TestMetadataSaysWhatIsShown(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	client := dial(t, start(t, esdbnode.Options{Now: func() time.Time { return time.Unix(0, now.Load()) }}).uri)
	write(t, client, "s", 4)
	now.Add(int64(time.Hour))
	write(t, client, "s", 4)

	for _, c := range []struct {
		name string
		set  func(*esdb.StreamMetadata)
		want []uint64
	}{
		{"max count", func(m *esdb.StreamMetadata) { m.SetMaxCount(3) }, []uint64{5, 6, 7}},
		{"max age", func(m *esdb.StreamMetadata) { m.SetMaxAge(30 * time.Minute) }, []uint64{4, 5, 6, 7}},
		{"truncate before", func(m *esdb.StreamMetadata) { m.SetTruncateBefore(6) }, []uint64{6, 7}},
		{"both counts", func(m *esdb.StreamMetadata) { m.SetTruncateBefore(6); m.SetMaxCount(1) }, []uint64{7}},
		{"nothing left", func(m *esdb.StreamMetadata) { m.SetTruncateBefore(8) }, nil},
		{"no limit again", func(*esdb.StreamMetadata) {}, []uint64{0, 1, 2, 3, 4, 5, 6, 7}},
	} {
		var meta esdb.StreamMetadata
		c.set(&meta)
		if _, err := client.SetStreamMetadata(t.Context(), "s", esdb.AppendToStreamOptions{}, meta); err != nil {
			t.Fatal(err)
		}
		got, err := readAll(t.Context(), client, "s", esdb.ReadStreamOptions{}, 100)
		if err != nil || !cmp.Equal(c.want, numbers(got)) {
			t.Errorf("%s: %v, %v", c.name, numbers(got), err)
		}
		back, err := readAll(t.Context(), client, "s", esdb.ReadStreamOptions{Direction: esdb.Backwards, From: esdb.End{}}, 100)
		if err != nil || len(back) != len(c.want) {
			t.Errorf("%s backwards: %v, %v", c.name, numbers(back), err)
		}
	}
	got, err := readAll(t.Context(), client, "$$s", esdb.ReadStreamOptions{}, 100)
	if err != nil || !cmp.Equal([]uint64{5}, numbers(got)) {
		t.Errorf("of metadata only the newest is shown: %v, %v", numbers(got), err)
	}
	all, err := log(t.Context(), client, esdb.ReadAllOptions{})
	if err != nil || len(all) != 8+6 {
		t.Errorf("the log has %d, %v", len(all), err)
	}
}

func TestMetadataIsReadBack(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 1)
	if _, err := client.GetStreamMetadata(t.Context(), "s", esdb.ReadStreamOptions{}); codeOf(err) != esdb.ErrorCodeResourceNotFound {
		t.Errorf("a stream without: %v", err)
	}
	var meta esdb.StreamMetadata
	meta.SetMaxCount(3)
	meta.AddCustomProperty("colour", "green")
	if _, err := client.SetStreamMetadata(t.Context(), "s", esdb.AppendToStreamOptions{ExpectedRevision: esdb.NoStream{}}, meta); err != nil {
		t.Fatal(err)
	}
	got, err := client.GetStreamMetadata(t.Context(), "s", esdb.ReadStreamOptions{})
	if err != nil || *got.MaxCount() != 3 || got.CustomProperty("colour") != "green" {
		t.Fatalf("%+v, %v", got, err)
	}
	// What is no metadata limits nothing and is kept all the same.
	appendTo(t, client, "$$s", esdb.Any{}, esdb.EventData{EventID: newID(), EventType: "$metadata", Data: []byte("not json")})
	if got, err := readAll(t.Context(), client, "s", esdb.ReadStreamOptions{}, 10); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestASoftlyDeletedStreamMayBeginAgain(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client := dial(t, r.uri)
	write(t, client, "s", 3)
	var meta esdb.StreamMetadata
	meta.AddCustomProperty("colour", "green")
	if _, err := client.SetStreamMetadata(t.Context(), "s", esdb.AppendToStreamOptions{}, meta); err != nil {
		t.Fatal(err)
	}
	remove(t, client, "s")
	for _, o := range []esdb.ReadStreamOptions{{}, {Direction: esdb.Backwards, From: esdb.End{}}} {
		if _, err := readAll(t.Context(), client, "s", o, 10); codeOf(err) != esdb.ErrorCodeResourceNotFound {
			t.Errorf("deleted: %v", err)
		}
	}
	events := fresh("again", "again")
	res := appendTo(t, client, "s", esdb.NoStream{}, events...)
	if res.NextExpectedVersion != 4 {
		t.Errorf("numbers go on: %+v", res)
	}
	got, err := readAll(t.Context(), client, "s", esdb.ReadStreamOptions{}, 10)
	if err != nil || !cmp.Equal([]uint64{3, 4}, numbers(got)) {
		t.Errorf("%v, %v", numbers(got), err)
	}
	m, err := client.GetStreamMetadata(t.Context(), "s", esdb.ReadStreamOptions{})
	if err != nil || *m.TruncateBefore() != 3 || m.CustomProperty("colour") != nil { // a deletion takes it, as in EventStoreDB
		t.Errorf("metadata: %+v, %v", m, err)
	}
	if got[1].Event.Position.Commit != got[0].Event.Position.Commit+1 {
		t.Error("the positions of one append are not contiguous")
	}
}

func TestATombstoneIsForEver(t *testing.T) {
	client, stub := dialBoth(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "键-1", 2)
	bury(t, client, "键-1")
	if _, err := readAll(t.Context(), client, "键-1", esdb.ReadStreamOptions{}, 10); codeOf(err) != esdb.ErrorCodeStreamDeleted {
		t.Errorf("read: %v", err)
	}
	if _, err := client.SetStreamMetadata(t.Context(), "键-1", esdb.AppendToStreamOptions{}, esdb.StreamMetadata{}); codeOf(err) != esdb.ErrorCodeStreamDeleted {
		t.Errorf("metadata: %v", err)
	}
	trailer, err := rawAppend(t, stub, options("键-1"))
	if status.Code(err) != codes.FailedPrecondition || first(trailer, "exception") != "stream-deleted" || first(trailer, "stream-name") == "" {
		t.Errorf("append: %v, %v", err, trailer)
	}
	sub, err := client.SubscribeToStream(t.Context(), "键-1", esdb.SubscribeToStreamOptions{From: esdb.Start{}})
	if err == nil {
		if e := sub.Recv(); e.SubscriptionDropped == nil {
			t.Errorf("subscribe: %+v", e)
		}
	}
	all, err := log(t.Context(), client, esdb.ReadAllOptions{})
	if err != nil || len(all) != 3 || all[2].Event.EventType != "$streamDeleted" || all[2].Event.EventNumber != math.MaxInt64 {
		t.Errorf("log: %v, %v", all, err)
	}
}

func TestLinksAreFollowedWhenAsked(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "a@b", 2)
	write(t, client, "gone", 1)
	bury(t, client, "gone")
	link := func(to string) esdb.EventData {
		return esdb.EventData{EventID: newID(), EventType: "$>", Data: []byte(to)}
	}
	appendTo(t, client, "links", esdb.NoStream{}, link("1@a@b"), link("0@gone"), link("7@a@b"), link("nonsense"), fresh("no link")[0])
	got, err := readAll(t.Context(), client, "links", esdb.ReadStreamOptions{ResolveLinkTos: true}, 10)
	if err != nil || len(got) != 5 {
		t.Fatalf("%v, %v", got, err)
	}
	if e := got[0]; e.Event == nil || e.Event.StreamID != "a@b" || e.Event.EventNumber != 1 || e.OriginalEvent().StreamID != "links" || *e.Commit != 5 {
		t.Errorf("a link: %+v", e)
	}
	for i, e := range got[1:4] {
		if e.Event != nil || e.Link == nil {
			t.Errorf("broken link %d: %+v", i, e)
		}
	}
	if e := got[4]; e.Link != nil || e.Event.EventType != "no link" {
		t.Errorf("no link: %+v", e)
	}
	plain, err := readAll(t.Context(), client, "links", esdb.ReadStreamOptions{}, 1)
	if err != nil || plain[0].Link != nil || plain[0].Event.EventType != "$>" {
		t.Errorf("not asked for: %+v, %v", plain, err)
	}
}

func TestALongReadComesWhole(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{TailEvents: 16}).uri)
	const appends, each = 30, 70
	for range appends {
		write(t, client, "s", each)
		write(t, client, "t", 1)
	}
	for _, direction := range []esdb.Direction{esdb.Forwards, esdb.Backwards} {
		var from esdb.StreamPosition = esdb.Start{}
		var allFrom esdb.AllPosition = esdb.Start{}
		if direction == esdb.Backwards {
			from, allFrom = esdb.End{}, esdb.End{}
		}
		got, err := readAll(t.Context(), client, "s", esdb.ReadStreamOptions{Direction: direction, From: from}, math.MaxInt64)
		if err != nil || len(got) != appends*each {
			t.Fatalf("%d events, %v", len(got), err)
		}
		all, err := log(t.Context(), client, esdb.ReadAllOptions{Direction: direction, From: allFrom})
		if err != nil || len(all) != appends*(each+1) {
			t.Fatalf("%d events in the log, %v", len(all), err)
		}
		for i := range got {
			want := uint64(i)
			if direction == esdb.Backwards {
				want = uint64(len(got) - 1 - i)
			}
			if got[i].Event.EventNumber != want {
				t.Fatalf("event %d has number %d", i, got[i].Event.EventNumber)
			}
		}
	}
}

// readAll reads a stream to the end of what was asked for.
func readAll(ctx context.Context, client *esdb.Client, stream string, o esdb.ReadStreamOptions, count uint64) ([]*esdb.ResolvedEvent, error) {
	read, err := client.ReadStream(ctx, stream, o, count)
	if err != nil {
		return nil, err
	}
	return drain(read)
}

// log reads the whole log.
func log(ctx context.Context, client *esdb.Client, o esdb.ReadAllOptions) ([]*esdb.ResolvedEvent, error) {
	read, err := client.ReadAll(ctx, o, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	return drain(read)
}

func drain(read *esdb.ReadStream) ([]*esdb.ResolvedEvent, error) {
	defer read.Close()
	var got []*esdb.ResolvedEvent
	for {
		e, err := read.Recv()
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		got = append(got, e)
	}
}

func numbers(events []*esdb.ResolvedEvent) []uint64 {
	var out []uint64
	for _, e := range events {
		out = append(out, e.Event.EventNumber)
	}
	return out
}

func positions(events []*esdb.ResolvedEvent) []uint64 {
	var out []uint64
	for _, e := range events {
		out = append(out, e.Event.Position.Commit)
	}
	return out
}
