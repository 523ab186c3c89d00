package esdbnode_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/projections"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"cartwright/infra/esdbnode"
)

// The tests of this file hold the node against what EventStoreDB 24.10 is
// documented, or was read, to do.

// describe sets a stream's metadata to the letter.
func describe(t *testing.T, client *esdb.Client, stream, json string) *esdb.WriteResult {
	t.Helper()
	return appendTo(t, client, "$$"+stream, esdb.Any{}, esdb.EventData{
		EventID: newID(), EventType: "$metadata", ContentType: esdb.ContentTypeJson, Data: []byte(json),
	})
}

// shows gives the numbers that a read of a stream shows, and -1 where there is no stream.
func shows(t *testing.T, client *esdb.Client, stream string) (shown []int) {
	t.Helper()
	got, err := readAll(t.Context(), client, stream, esdb.ReadStreamOptions{}, math.MaxInt64)
	back, backErr := readAll(t.Context(), client, stream, esdb.ReadStreamOptions{Direction: esdb.Backwards, From: esdb.End{}}, math.MaxInt64)
	if codeOf(err) != codeOf(backErr) || len(got) != len(back) {
		t.Errorf("%s: forwards %d, %v; backwards %d, %v", stream, len(got), err, len(back), backErr)
	}
	if codeOf(err) == esdb.ErrorCodeResourceNotFound {
		return []int{-1}
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range got {
		if b := back[len(back)-1-i]; b.Event.EventID != e.Event.EventID {
			t.Errorf("%s: backwards is not forwards turned round", stream)
		}
		shown = append(shown, int(e.Event.EventNumber))
	}
	return shown
}

func wantShown(t *testing.T, client *esdb.Client, stream string, want ...int) {
	t.Helper()
	if got := shows(t, client, stream); !slices.Equal(got, want) {
		t.Errorf("%s shows %v, want %v", stream, got, want)
	}
}

func TestMetadataAloneMakesAStreamThatExists(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	describe(t, client, "s", `{}`)
	wantShown(t, client, "s", -1)
	if res := appendTo(t, client, "s", esdb.StreamExists{}, fresh("x")...); res.NextExpectedVersion != 0 {
		t.Errorf("%+v", res)
	}
	describe(t, client, "t", `{}`)
	remove(t, client, "t")
	_, err := client.AppendToStream(t.Context(), "t", esdb.AppendToStreamOptions{ExpectedRevision: esdb.StreamExists{}}, fresh("x")...)
	if codeOf(err) != esdb.ErrorCodeStreamDeleted {
		t.Errorf("one that was deleted: %v", err)
	}
}

// TestRepeatsOfEveryKind sends the same events again with every expectation.
func TestRepeatsOfEveryKind(t *testing.T) {
	for name, c := range map[string]struct {
		first, again esdb.ExpectedRevision
		want         uint64 // the number of the second answer, 99 for a wrong version
	}{
		"none, none":   {esdb.NoStream{}, esdb.NoStream{}, 1},
		"none, any":    {esdb.NoStream{}, esdb.Any{}, 1},
		"none, exists": {esdb.NoStream{}, esdb.StreamExists{}, 1},
		"none, later":  {esdb.NoStream{}, esdb.Revision(0), 99},
		"any, none":    {esdb.Any{}, esdb.NoStream{}, 1},
		"any, any":     {esdb.Any{}, esdb.Any{}, 1},
		"any, at head": {esdb.Any{}, esdb.Revision(2), 4}, // what is expected is there: it is no repeat
		"any, beyond":  {esdb.Any{}, esdb.Revision(3), 99},
	} {
		client := dial(t, start(t, esdbnode.Options{}).uri)
		events := fresh("a", "b")
		appendTo(t, client, "s", c.first, events...)
		write(t, client, "s", 1)
		res, err := client.AppendToStream(t.Context(), "s", esdb.AppendToStreamOptions{ExpectedRevision: c.again}, events...)
		switch {
		case c.want == 99 && codeOf(err) != esdb.ErrorCodeWrongExpectedVersion:
			t.Errorf("%s: %+v, %v", name, res, err)
		case c.want != 99 && (err != nil || res.NextExpectedVersion != c.want):
			t.Errorf("%s: %+v, %v", name, res, err)
		}
	}
}

func TestARepeatOfWhatWasDeletedBeginsNothingAnew(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	events := fresh("a", "b")
	was := appendTo(t, client, "s", esdb.NoStream{}, events...)
	remove(t, client, "s")
	if again := appendTo(t, client, "s", esdb.NoStream{}, events...); *again != *was {
		t.Errorf("first %+v, then %+v", was, again)
	}
	wantShown(t, client, "s", -1)
	_, err := client.AppendToStream(t.Context(), "s", esdb.AppendToStreamOptions{ExpectedRevision: esdb.NoStream{}}, events[0], fresh("c")[0])
	if codeOf(err) != esdb.ErrorCodeWrongExpectedVersion {
		t.Errorf("half of it: %v", err)
	}
	appendTo(t, client, "s", esdb.NoStream{}, fresh("c")...)
	wantShown(t, client, "s", 2)
}

// TestARepeatThatNamesNoRevisionIsKnownAmongTheNewest: what is remembered of
// events has an end, and the node that is opened next has not seen them. A repeat
// that names its revision is known for ever.
func TestARepeatThatNamesNoRevisionIsKnownAmongTheNewest(t *testing.T) {
	dir := t.TempDir()
	r := start(t, esdbnode.Options{Dir: dir})
	client := dial(t, r.uri)
	others := func(n int) {
		for range n / 2000 {
			appendTo(t, client, "other", esdb.Any{}, fresh(slices.Repeat([]string{"x"}, 2000)...)...)
		}
	}
	exact, loose := fresh("a", "b"), fresh("a", "b")
	appendTo(t, client, "exact", esdb.NoStream{}, exact...)
	again := func(want uint64) {
		t.Helper()
		if res := appendTo(t, client, "exact", esdb.NoStream{}, exact...); res.NextExpectedVersion != 1 {
			t.Errorf("at its revision: %+v", res)
		}
		if res := appendTo(t, client, "loose", esdb.Any{}, loose...); res.NextExpectedVersion != want {
			t.Errorf("at any: %+v, want %d", res, want)
		}
	}
	again(1)
	others(14_000)
	again(1)
	others(40_000)
	again(3)
	again(3)
	r.stop()
	client = dial(t, start(t, esdbnode.Options{Dir: dir}).uri)
	again(5)
}

// TestTheLargestRevisionMeansNoStream: the .NET client has a revision that stands
// for none, and sends it as a number.
func TestTheLargestRevisionMeansNoStream(t *testing.T) {
	client, stub := dialBoth(t, start(t, esdbnode.Options{}).uri)
	o := options("s")
	o.GetOptions().ExpectedStreamRevision = &streams.AppendReq_Options_Revision{Revision: math.MaxUint64}
	put := func() *streams.AppendResp {
		t.Helper()
		call, err := stub.Append(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(call.Send(o), call.Send(proposed(map[string]string{"type": "x", "content-type": "x"}, "")))
		res, end := call.CloseAndRecv()
		if err = errors.Join(err, end); err != nil {
			t.Fatal(err)
		}
		return res
	}
	if res := put(); res.GetSuccess() == nil {
		t.Errorf("a new stream: %v", res)
	}
	if w := put().GetWrongExpectedVersion(); w.GetExpectedNoStream() == nil || w.GetCurrentRevision() != 0 {
		t.Errorf("one that is there: %v", w)
	}
	remove(t, client, "s")
	if res := put(); res.GetSuccess().GetCurrentRevision() != 1 {
		t.Errorf("one that was deleted: %v", res)
	}
	var trailer metadata.MD
	_, err := stub.Delete(t.Context(), &streams.DeleteReq{Options: &streams.DeleteReq_Options{
		StreamIdentifier: named("s"), ExpectedStreamRevision: &streams.DeleteReq_Options_Revision{Revision: math.MaxUint64},
	}}, grpc.Trailer(&trailer))
	if status.Code(err) != codes.FailedPrecondition || first(trailer, "expected-version") != "-1" || first(trailer, "actual-version") != "1" {
		t.Errorf("delete: %v, %v", err, trailer)
	}
}

// TestAReadThatWaitsForTheLogEndsWithTheNode: nothing is behind the end of the
// log, so this one waits until the node closes, or its caller has had enough.
func TestAReadThatWaitsForTheLogEndsWithTheNode(t *testing.T) {
	r := start(t, esdbnode.Options{})
	write(t, dial(t, r.uri), "s", 1)
	if err := r.node.Reach(t.Context(), r.node.Head()); err != nil {
		t.Error(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.node.Reach(gone, r.node.Head()+1); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	waited := make(chan error, 1)
	go func() { waited <- r.node.Reach(t.Context(), r.node.Head()+1) }()
	r.stop()
	select {
	case err := <-waited:
		if err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	case <-time.After(patience):
		t.Error("it waits for ever")
	}
}

func TestAnAppendOfNothingIsCheckedToo(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 3)
	head := func() int { all, _ := log(t.Context(), client, esdb.ReadAllOptions{}); return len(all) }
	write(t, client, "deleted", 1)
	remove(t, client, "deleted")
	before := head()
	for _, expect := range []esdb.ExpectedRevision{esdb.Revision(0), esdb.Revision(1), esdb.Revision(3), esdb.NoStream{}} {
		_, err := client.AppendToStream(t.Context(), "s", esdb.AppendToStreamOptions{ExpectedRevision: expect})
		if codeOf(err) != esdb.ErrorCodeWrongExpectedVersion {
			t.Errorf("%T%v: %v", expect, expect, err)
		}
	}
	appendTo(t, client, "deleted", esdb.Any{})
	wantShown(t, client, "deleted", -1)
	_, err := client.AppendToStream(t.Context(), "never", esdb.AppendToStreamOptions{ExpectedRevision: esdb.StreamExists{}})
	if codeOf(err) != esdb.ErrorCodeWrongExpectedVersion || head() != before {
		t.Errorf("exists: %v, %d events where there were %d", err, head(), before)
	}
}

func TestAppendsUpToAMebibyteAreTaken(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	event := func(kind string, data, meta int) esdb.EventData {
		return esdb.EventData{EventID: newID(), EventType: kind, ContentType: esdb.ContentTypeBinary, Data: make([]byte, data), Metadata: make([]byte, meta)}
	}
	const most = 1 << 20
	appendTo(t, client, "s", esdb.Any{}, event("kind", most-8, 0))
	appendTo(t, client, "s", esdb.Any{}, event("kind", most-8-1000, 1000))
	appendTo(t, client, "s", esdb.Any{}, event("k", most/2-2, 0), event("k", most/2-2, 0))
	for name, events := range map[string][]esdb.EventData{
		"one byte of data":     {event("kind", most-7, 0)},
		"one byte of metadata": {event("kind", most-8, 1)},
		"a longer type":        {event("kinds", most-8, 0)},
		"one event more":       {event("k", most/2-2, 0), event("k", most/2-2, 0), event("k", 0, 0)},
	} {
		if _, err := client.AppendToStream(t.Context(), "s", esdb.AppendToStreamOptions{}, events...); err == nil {
			t.Errorf("%s more was taken", name)
		}
	}
	wantShown(t, client, "s", 0, 1, 2, 3)
}

func TestWhatWasExpectedAndWhatIsIsTold(t *testing.T) {
	client, stub := dialBoth(t, start(t, esdbnode.Options{}).uri)
	const name = "订单 1"
	write(t, client, name, 3)
	for version, c := range map[string]struct {
		stream, actual string
		options        *streams.DeleteReq_Options
	}{
		"-1": {name, "2", &streams.DeleteReq_Options{ExpectedStreamRevision: &streams.DeleteReq_Options_NoStream{NoStream: &shared.Empty{}}}},
		"1":  {name, "2", &streams.DeleteReq_Options{ExpectedStreamRevision: &streams.DeleteReq_Options_Revision{Revision: 1}}},
		"7":  {name, "2", &streams.DeleteReq_Options{ExpectedStreamRevision: &streams.DeleteReq_Options_Revision{Revision: 7}}},
		"-4": {"never", "-1", &streams.DeleteReq_Options{ExpectedStreamRevision: &streams.DeleteReq_Options_StreamExists{StreamExists: &shared.Empty{}}}},
		"-2": {"never", "-1", &streams.DeleteReq_Options{ExpectedStreamRevision: &streams.DeleteReq_Options_Any{Any: &shared.Empty{}}}}, // nothing is there to delete
	} {
		var trailer metadata.MD
		_, err := stub.Delete(t.Context(), &streams.DeleteReq{Options: &streams.DeleteReq_Options{
			StreamIdentifier: named(c.stream), ExpectedStreamRevision: c.options.GetExpectedStreamRevision(),
		}}, grpc.Trailer(&trailer))
		if status.Code(err) != codes.FailedPrecondition || first(trailer, "exception") != "wrong-expected-version" || first(trailer, "stream-name") == "" ||
			first(trailer, "expected-version") != version || first(trailer, "actual-version") != c.actual {
			t.Errorf("%s: %v, %v", version, err, trailer)
		}
	}
	var trailer metadata.MD
	_, err := stub.Tombstone(t.Context(), &streams.TombstoneReq{Options: &streams.TombstoneReq_Options{
		StreamIdentifier: named("s"), ExpectedStreamRevision: &streams.TombstoneReq_Options_Revision{Revision: 4},
	}}, grpc.Trailer(&trailer))
	if status.Code(err) != codes.FailedPrecondition || first(trailer, "expected-version") != "4" || first(trailer, "actual-version") != "-1" {
		t.Errorf("tombstone: %v, %v", err, trailer)
	}
	// An append is told so in its answer, and not by a status.
	for _, o := range []*streams.AppendReq_Options{
		{ExpectedStreamRevision: &streams.AppendReq_Options_NoStream{NoStream: &shared.Empty{}}},
		{ExpectedStreamRevision: &streams.AppendReq_Options_Revision{Revision: 1}},
	} {
		o.StreamIdentifier = named(name)
		call, err := stub.Append(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err = call.Send(&streams.AppendReq{Content: &streams.AppendReq_Options_{Options: o}}); err != nil {
			t.Fatal(err)
		}
		res, err := call.CloseAndRecv()
		w := res.GetWrongExpectedVersion()
		if err != nil || w.GetCurrentRevision() != 2 || w.GetExpectedRevision() != o.GetRevision() || (o.GetNoStream() != nil) != (w.GetExpectedNoStream() != nil) {
			t.Errorf("append: %v, %v", res, err)
		}
	}
}

func TestWhatNeverWasMayBeEndedButNotDeleted(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	for _, expect := range []esdb.ExpectedRevision{esdb.Any{}, esdb.NoStream{}} {
		if _, err := client.DeleteStream(t.Context(), "never", esdb.DeleteStreamOptions{ExpectedRevision: expect}); err == nil {
			t.Errorf("%T: it was deleted", expect)
		}
	}
	if _, err := client.TombstoneStream(t.Context(), "never", esdb.TombstoneStreamOptions{ExpectedRevision: esdb.NoStream{}}); err != nil {
		t.Error(err)
	}
	write(t, client, "s", 1)
	remove(t, client, "s")
	for _, expect := range []esdb.ExpectedRevision{esdb.Any{}, esdb.NoStream{}, esdb.Revision(0)} { // again
		if _, err := client.DeleteStream(t.Context(), "s", esdb.DeleteStreamOptions{ExpectedRevision: expect}); err != nil {
			t.Errorf("%T: %v", expect, err)
		}
	}
	if _, err := client.TombstoneStream(t.Context(), "s", esdb.TombstoneStreamOptions{ExpectedRevision: esdb.NoStream{}}); err != nil {
		t.Error(err)
	}
}

func TestAStreamThatHasEndedAnswersNothingElse(t *testing.T) {
	client, stub := dialBoth(t, start(t, esdbnode.Options{}).uri)
	const name = "键 1"
	write(t, client, name, 2)
	describe(t, client, name, `{"$maxCount":1}`)
	bury(t, client, name)
	one := &streams.ReadReq_Options_StreamOptions{StreamIdentifier: named(name)}
	meta := &streams.ReadReq_Options_StreamOptions{StreamIdentifier: named("$$" + name)}
	read := func(o *streams.ReadReq_Options_StreamOptions, backwards streams.ReadReq_Options_ReadDirection) func(...grpc.CallOption) error {
		return func(opts ...grpc.CallOption) error {
			call, err := stub.Read(t.Context(), &streams.ReadReq{Options: &streams.ReadReq_Options{
				StreamOption: &streams.ReadReq_Options_Stream{Stream: o}, CountOption: &streams.ReadReq_Options_Count{Count: 9}, ReadDirection: backwards,
			}}, opts...)
			if err == nil {
				_, err = call.Recv()
			}
			return err
		}
	}
	follow := func(end bool) func(...grpc.CallOption) error {
		return func(opts ...grpc.CallOption) error {
			from := &streams.ReadReq_Options_StreamOptions{StreamIdentifier: named(name)}
			if end {
				from.RevisionOption = &streams.ReadReq_Options_StreamOptions_End{End: &shared.Empty{}}
			}
			call, err := stub.Read(t.Context(), &streams.ReadReq{Options: &streams.ReadReq_Options{
				StreamOption: &streams.ReadReq_Options_Stream{Stream: from}, CountOption: &streams.ReadReq_Options_Subscription{},
			}}, opts...)
			for err == nil {
				_, err = call.Recv()
			}
			return err
		}
	}
	for what, call := range map[string]func(...grpc.CallOption) error{
		"read": read(one, 0), "read backwards": read(one, 1), "read metadata": read(meta, 0),
		"subscribe": follow(false), "subscribe at the end": follow(true),
		"delete": func(opts ...grpc.CallOption) error {
			_, err := stub.Delete(t.Context(), &streams.DeleteReq{Options: &streams.DeleteReq_Options{
				StreamIdentifier: named(name), ExpectedStreamRevision: &streams.DeleteReq_Options_Any{Any: &shared.Empty{}},
			}}, opts...)
			return err
		},
		"tombstone": func(opts ...grpc.CallOption) error {
			_, err := stub.Tombstone(t.Context(), &streams.TombstoneReq{Options: &streams.TombstoneReq_Options{
				StreamIdentifier: named(name), ExpectedStreamRevision: &streams.TombstoneReq_Options_Revision{Revision: 1},
			}}, opts...)
			return err
		},
	} {
		var trailer metadata.MD
		if err := call(grpc.Trailer(&trailer)); status.Code(err) != codes.FailedPrecondition || first(trailer, "exception") != "stream-deleted" || first(trailer, "stream-name") == "" {
			t.Errorf("%s: %v, %v", what, err, trailer)
		}
	}
	for _, expect := range []esdb.ExpectedRevision{esdb.Any{}, esdb.StreamExists{}, esdb.NoStream{}, esdb.Revision(1), esdb.Revision(math.MaxInt64)} {
		for _, stream := range []string{name, "$$" + name} {
			for _, events := range [][]esdb.EventData{nil, fresh("x")} {
				_, err := client.AppendToStream(t.Context(), stream, esdb.AppendToStreamOptions{ExpectedRevision: expect}, events...)
				if codeOf(err) != esdb.ErrorCodeStreamDeleted {
					t.Errorf("append to %s at %T%v: %v", stream, expect, expect, err)
				}
			}
		}
	}
}

func TestLimitsHoldTogetherAndByTheClock(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	client := dial(t, start(t, esdbnode.Options{Now: func() time.Time { return time.Unix(0, now.Load()) }}).uri)
	for range 8 {
		write(t, client, "s", 1)
		now.Add(int64(time.Minute))
	}
	for metadata, want := range map[string][]int{
		`{"$maxCount":5,"$tb":6}`:                 {6, 7},
		`{"$maxCount":2,"$tb":3}`:                 {6, 7},
		`{"$maxAge":180}`:                         {5, 6, 7}, // created 3, 2 and 1 minutes ago: the edge is shown
		`{"$maxAge":179}`:                         {6, 7},
		`{"$maxAge":180,"$maxCount":2}`:           {6, 7},
		`{"$maxAge":180,"$tb":7}`:                 {7},
		`{"$maxAge":1}`:                           nil,
		`{"$tb":8}`:                               nil,
		`{"$tb":100}`:                             nil, // hidden, and not gone
		`{"$tb":9223372036854775806}`:             nil,
		`{"$tb":9223372036854775807}`:             {-1}, // this is how a stream is deleted
		`{"$maxCount":0,"$maxAge":0,"$tb":0}`:     {0, 1, 2, 3, 4, 5, 6, 7},
		`{"$maxCount":3,"$maxAge":"a minute"}`:    {0, 1, 2, 3, 4, 5, 6, 7}, // one that is not understood takes the others with it
		`{"$acl":{"$r":"$admins"},"$maxCount":1}`: {7},
	} {
		describe(t, client, "s", `{}`)
		describe(t, client, "s", metadata)
		if wantShown(t, client, "s", want...); t.Failed() {
			t.Fatal(metadata)
		}
	}
	// What nobody is shown in its stream is in the log until a scavenge.
	all, err := log(t.Context(), client, esdb.ReadAllOptions{})
	shown := 0
	for _, e := range all {
		if e.Event.StreamID == "s" {
			shown++
		}
	}
	if err != nil || shown != 8 {
		t.Errorf("the log shows %d, %v", shown, err)
	}
	appendTo(t, client, "s", esdb.Revision(7), fresh("x")...) // and it counts
}

func TestMetadataIsKeptToTheLetter(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	const metadata = ` { "$acl" : {"$r":"a","$w":"$all"}, "$cacheControl":5,"$tb":1, "n":1.00, "<&>":"\u00e9" }`
	write(t, client, "s", 2)
	for range 3 {
		describe(t, client, "s", metadata)
	}
	for _, o := range []esdb.ReadStreamOptions{{}, {Direction: esdb.Backwards, From: esdb.End{}}, {From: esdb.Revision(2)}} {
		got, err := readAll(t.Context(), client, "$$s", o, 9)
		if err != nil || len(got) != 1 || got[0].Event.EventNumber != 2 || string(got[0].Event.Data) != metadata {
			t.Errorf("%+v: %v, %v", o, got, err)
		}
	}
	if got, err := readAll(t.Context(), client, "$$s", esdb.ReadStreamOptions{Direction: esdb.Backwards, From: esdb.Revision(1)}, 9); err != nil || len(got) != 0 {
		t.Errorf("older metadata: %v, %v", got, err)
	}
	wantShown(t, client, "s", 1)
	got, err := client.GetStreamMetadata(t.Context(), "s", esdb.ReadStreamOptions{})
	if err != nil || got.Acl() == nil || got.CacheControl() == nil {
		t.Errorf("%v, %v", got, err)
	}
	for _, expect := range []esdb.ExpectedRevision{esdb.Revision(1), esdb.Revision(3), esdb.NoStream{}} {
		_, err := client.SetStreamMetadata(t.Context(), "s", esdb.AppendToStreamOptions{ExpectedRevision: expect}, esdb.StreamMetadata{})
		if codeOf(err) != esdb.ErrorCodeWrongExpectedVersion {
			t.Errorf("set at %T%v: %v", expect, expect, err)
		}
	}
	if res, err := client.SetStreamMetadata(t.Context(), "s", esdb.AppendToStreamOptions{ExpectedRevision: esdb.Revision(2)}, esdb.StreamMetadata{}); err != nil || res.NextExpectedVersion != 3 {
		t.Errorf("%+v, %v", res, err)
	}
	if _, err := readAll(t.Context(), client, "$$$$s", esdb.ReadStreamOptions{}, 9); codeOf(err) != esdb.ErrorCodeResourceNotFound {
		t.Errorf("metadata of metadata: %v", err)
	}
}

// TestADeletedStreamThatGetsMetadataShowsNothingOfBefore sets what would show all
// of it, were it not for the deletion.
func TestADeletedStreamThatGetsMetadataShowsNothingOfBefore(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 2)
	describe(t, client, "s", `{"$maxCount":9}`)
	remove(t, client, "s")
	if res := describe(t, client, "s", `{"$maxCount":5,"colour":"green"}`); res.NextExpectedVersion != 2 {
		t.Errorf("%+v", res)
	}
	wantShown(t, client, "s") // it is there again, and empty
	got, err := client.GetStreamMetadata(t.Context(), "s", esdb.ReadStreamOptions{})
	if err != nil || *got.TruncateBefore() != 2 || *got.MaxCount() != 5 || got.CustomProperty("colour") != "green" {
		t.Errorf("%+v, %v", got, err)
	}
	appendTo(t, client, "s", esdb.Revision(1), fresh("x")...)
	wantShown(t, client, "s", 2)

	write(t, client, "t", 2)
	remove(t, client, "t")
	describe(t, client, "t", `no object`) // there is nowhere to put a $tb
	wantShown(t, client, "t", 0, 1)
}

func TestMetadataThatIsNoJSONLimitsNothing(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 2)
	appendTo(t, client, "$$s", esdb.Any{}, esdb.EventData{EventID: newID(), EventType: "$metadata", ContentType: esdb.ContentTypeBinary, Data: []byte(`{"$maxCount":1}`)})
	wantShown(t, client, "s", 0, 1)
}

func TestLinksLeadToWhatAReadWouldShow(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	client := dial(t, start(t, esdbnode.Options{Now: func() time.Time { return time.Unix(0, now.Load()) }}).uri)
	for _, stream := range []string{"plain", "cut", "short", "old", "deleted", "ended"} {
		write(t, client, stream, 3)
	}
	now.Add(int64(time.Hour))
	describe(t, client, "plain", `{}`)
	describe(t, client, "plain", `{"n":2}`)
	describe(t, client, "cut", `{"$tb":2}`)
	describe(t, client, "short", `{"$maxCount":1}`)
	describe(t, client, "old", `{"$maxAge":60}`)
	remove(t, client, "deleted")
	bury(t, client, "ended")
	targets := map[string]bool{
		"0@plain": true, "2@plain": true, "3@plain": false, "1@cut": false, "2@cut": true, "1@short": false, "2@short": true,
		"2@old": false, "2@deleted": false, "2@ended": false, "9223372036854775807@ended": false, "0@never": false,
		"0@$$plain": false, "1@$$plain": true, "0@": false, "@plain": false, "0": false, "": false, "1.0@plain": false,
		"18446744073709551615@plain": false, "00@plain": true, "0@links": false,
	}
	var links []esdb.EventData
	names := make([]string, 0, len(targets))
	for to := range targets {
		names = append(names, to)
		links = append(links, esdb.EventData{EventID: newID(), EventType: "$>", Data: []byte(to), Metadata: []byte(`{"$causedBy":"x"}`)})
	}
	links = append(links, esdb.EventData{EventID: newID(), EventType: "$>", Data: []byte("0@links")}) // to a link: it is followed once
	appendTo(t, client, "links", esdb.NoStream{}, links...)
	names, targets["0@links"] = append(names, "0@links"), true
	resolved, err := readAll(t.Context(), client, "links", esdb.ReadStreamOptions{ResolveLinkTos: true}, 99)
	if err != nil || len(resolved) != len(links) {
		t.Fatalf("%d, %v", len(resolved), err)
	}
	for i, e := range resolved {
		to := names[i]
		if (e.Event != nil) != targets[to] || e.Link == nil || e.Link.EventNumber != uint64(i) || *e.Commit != e.Link.Position.Commit {
			t.Errorf("%q: %+v to %+v", to, e.Link, e.Event)
		}
		if e.Event != nil && to != "00@plain" && fmt.Sprintf("%d@%s", e.Event.EventNumber, e.Event.StreamID) != to {
			t.Errorf("%q leads to %d@%s", to, e.Event.EventNumber, e.Event.StreamID)
		}
	}
	all, err := log(t.Context(), client, esdb.ReadAllOptions{ResolveLinkTos: true, Direction: esdb.Backwards, From: esdb.End{}})
	if err != nil || len(all) < len(links) {
		t.Fatal(len(all), err)
	}
	for i, e := range all[:len(links)] {
		if same := resolved[len(links)-1-i]; e.Link == nil || e.Link.EventID != same.Link.EventID || (e.Event == nil) != (same.Event == nil) {
			t.Errorf("in $all, link %d: %+v", i, e)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	sub, err := client.SubscribeToStream(ctx, "links", esdb.SubscribeToStreamOptions{From: esdb.Start{}, ResolveLinkTos: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Close() }()
	for i, want := range resolved {
		if e := sub.Recv().EventAppeared; e == nil || e.OriginalEvent().EventID != want.Link.EventID || (e.Event == nil) != (want.Event == nil) {
			t.Errorf("by subscription, link %d: %+v", i, e)
		}
	}
}

func TestPositionsAtTheEdges(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	at := func(n uint64) esdb.Position { return esdb.Position{Commit: n, Prepare: n} }
	empty := subscribeAll(t, client, esdb.SubscribeToAllOptions{From: at(0)})
	wantHeard(t, empty, "caught up")
	write(t, client, "s", 3)
	wantHeard(t, empty, "event 1", "event 2", "event 3")
	for _, c := range []struct {
		direction esdb.Direction
		from      esdb.AllPosition
		want      []uint64
	}{
		{esdb.Forwards, at(0), []uint64{1, 2, 3}},
		{esdb.Forwards, at(3), []uint64{3}},
		{esdb.Forwards, at(4), nil},
		{esdb.Backwards, at(0), nil},
		{esdb.Backwards, at(1), nil},
		{esdb.Backwards, at(2), []uint64{1}},
		{esdb.Backwards, at(3), []uint64{2, 1}},
		{esdb.Backwards, at(4), []uint64{3, 2, 1}},
	} {
		got, err := log(t.Context(), client, esdb.ReadAllOptions{Direction: c.direction, From: c.from})
		if err != nil || !cmp.Equal(c.want, positions(got)) {
			t.Errorf("%v from %v: %v, %v", c.direction, c.from, positions(got), err)
		}
	}
	subs := map[string]*esdb.Subscription{
		"last":        subscribeAll(t, client, esdb.SubscribeToAllOptions{From: at(3)}),
		"end":         subscribeAll(t, client, esdb.SubscribeToAllOptions{From: esdb.End{}}),
		"beyond":      subscribeAll(t, client, esdb.SubscribeToAllOptions{From: at(4)}),
		"stream last": subscribeTo(t, client, "s", esdb.Revision(2)),
		"stream end":  subscribeTo(t, client, "s", esdb.End{}),
		"beyond it":   subscribeTo(t, client, "s", esdb.Revision(3)),
	}
	for _, sub := range subs {
		wantHeard(t, sub, "caught up")
	}
	write(t, client, "s", 2)
	for name, sub := range subs {
		want := []string{"event 4", "event 5"}
		if strings.HasPrefix(name, "beyond") {
			want = want[1:]
		}
		t.Log(name)
		wantHeard(t, sub, want...)
	}
}

// TestWhoGoesOnFromACheckpointMissesNothing follows with filters of all sizes,
// while the log grows, and begins again at every checkpoint: all that follows
// comes, and nothing that was there.
func TestWhoGoesOnFromACheckpointMissesNothing(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{TailEvents: 32}).uri)
	rng := rand.New(rand.NewPCG(7, 7))
	grow := func(n int) {
		for range n {
			write(t, client, []string{"order-1", "stock-1", "stock-2", "cart-1"}[rng.IntN(4)], 1+rng.IntN(4))
		}
	}
	grow(60)
	filter := &esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Prefixes: []string{"order-"}}
	for _, size := range [][2]int{{1, 1}, {1, 3}, {7, 1}, {32, 1}, {100, 5}} {
		o := esdb.SubscribeToAllOptions{From: esdb.Start{}, Filter: filter, MaxSearchWindow: size[0], CheckpointInterval: size[1]}
		sub := subscribeAll(t, client, o)
		head := lastPosition(t, client)
		grow(20)
		appendTo(t, client, "order-end", esdb.Any{}, fresh("x")...)
		events, checkpoints := collect(t, sub, lastPosition(t, client), head, uint64(size[0]*size[1]))
		for _, c := range checkpoints {
			o.From = esdb.Position{Commit: c, Prepare: c}
			after, _ := collect(t, subscribeAll(t, client, o), events[len(events)-1], 0, 0)
			at, _ := slices.BinarySearch(events, c+1)
			if !slices.Equal(after, events[at:]) {
				t.Fatalf("from checkpoint %d: %v, want %v", c, after, events[at:])
			}
		}
	}
}

func lastPosition(t *testing.T, client *esdb.Client) uint64 {
	t.Helper()
	read, err := client.ReadAll(t.Context(), esdb.ReadAllOptions{Direction: esdb.Backwards, From: esdb.End{}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	last, err := drain(read)
	if err != nil || len(last) != 1 {
		t.Fatal(last, err)
	}
	return last[0].Event.Position.Commit
}

// collect follows up to an event. It checks the order of what it is told, and
// that checkpoints come as often as they should, and when the log that was
// there at first had been read.
func collect(t *testing.T, sub *esdb.Subscription, last, head, interval uint64) (events, checkpoints []uint64) {
	t.Helper()
	told := uint64(0)
	for caughtUp := false; len(events) == 0 || events[len(events)-1] != last; {
		e := sub.Recv()
		switch {
		case e.EventAppeared != nil:
			at := e.EventAppeared.Event.Position.Commit
			if at <= told {
				t.Fatalf("event %d after %d was told", at, told)
			}
			told, events = at, append(events, at)
		case e.CheckPointReached != nil:
			at := e.CheckPointReached.Commit
			if at < told || len(checkpoints) > 0 && at <= checkpoints[len(checkpoints)-1] {
				t.Fatalf("checkpoint %d after %d was told and %v", at, told, checkpoints)
			}
			if before := slices.Max(append([]uint64{0}, checkpoints...)); interval > 0 && at-before > interval {
				t.Fatalf("checkpoint %d comes %d events after the one before, interval %d", at, at-before, interval)
			}
			told, checkpoints = at, append(checkpoints, at)
		case e.CaughtUp != nil:
			if !caughtUp && told < head {
				t.Fatalf("caught up at %d, and the log was at %d", told, head)
			}
			caughtUp = true
		case e.SubscriptionDropped != nil:
			t.Fatal(e.SubscriptionDropped.Error)
		}
	}
	return events, checkpoints
}

func TestAPatternComesBeforePrefixes(t *testing.T) {
	client, stub := dialBoth(t, start(t, esdbnode.Options{}).uri)
	appendTo(t, client, "s", esdb.Any{}, fresh("a", "b")...)
	got, last, err := answerOf(t, stub, &streams.ReadReq_Options{
		StreamOption: &streams.ReadReq_Options_All{All: &streams.ReadReq_Options_AllOptions{}}, CountOption: &streams.ReadReq_Options_Count{Count: 9},
		FilterOption: &streams.ReadReq_Options_Filter{Filter: &streams.ReadReq_Options_FilterOptions{
			CheckpointIntervalMultiplier: 1, Filter: &streams.ReadReq_Options_FilterOptions_EventType{
				EventType: &streams.ReadReq_Options_FilterOptions_Expression{Regex: "^b$", Prefix: []string{"a"}},
			},
		}},
	})
	if err != nil || got != 1 || last.GetEvent().GetEvent().GetMetadata()["type"] != "b" {
		t.Errorf("%d, %v, %v", got, last, err)
	}
}

func TestPatternsWithoutLinearTimeAreRefused(t *testing.T) {
	_, stub := dialBoth(t, start(t, esdbnode.Options{}).uri)
	for _, pattern := range []string{`(?!order)`, `(?<=a)b`, `(a)\1`, `(?>a)`} {
		_, _, err := answerOf(t, stub, &streams.ReadReq_Options{
			StreamOption: &streams.ReadReq_Options_All{All: &streams.ReadReq_Options_AllOptions{}}, CountOption: &streams.ReadReq_Options_Count{Count: 9},
			FilterOption: &streams.ReadReq_Options_Filter{Filter: &streams.ReadReq_Options_FilterOptions{
				CheckpointIntervalMultiplier: 1, Filter: &streams.ReadReq_Options_FilterOptions_StreamIdentifier{
					StreamIdentifier: &streams.ReadReq_Options_FilterOptions_Expression{Regex: pattern},
				},
			}},
		})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", pattern, err)
		}
	}
}

func TestProjectionsAreNotOffered(t *testing.T) {
	conn := dialed(t, start(t, esdbnode.Options{}).uri)
	if _, err := projections.NewProjectionsClient(conn).Create(t.Context(), &projections.CreateReq{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("%v", err)
	}
}

func TestASubscriptionEndsAsUnavailableWhenTheNodeCloses(t *testing.T) {
	r := start(t, esdbnode.Options{})
	_, stub := dialBoth(t, r.uri)
	var calls []streams.Streams_ReadClient
	for _, o := range []*streams.ReadReq_Options{
		{StreamOption: &streams.ReadReq_Options_All{All: &streams.ReadReq_Options_AllOptions{}}},
		{StreamOption: &streams.ReadReq_Options_Stream{Stream: &streams.ReadReq_Options_StreamOptions{StreamIdentifier: named("s")}}},
	} {
		o.CountOption = &streams.ReadReq_Options_Subscription{}
		call, err := stub.Read(t.Context(), &streams.ReadReq{Options: o})
		if err != nil {
			t.Fatal(err)
		}
		for m, err := call.Recv(); m.GetCaughtUp() == nil; m, err = call.Recv() {
			if err != nil {
				t.Fatal(err)
			}
		}
		calls = append(calls, call)
	}
	r.stop()
	for _, call := range calls {
		if _, err := call.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("%v", err)
		}
	}
}
