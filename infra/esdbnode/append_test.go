package esdbnode_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"cartwright/infra/esdbnode"
)

func TestExpectedRevisions(t *testing.T) {
	const conflict, gone = esdb.ErrorCodeWrongExpectedVersion, esdb.ErrorCodeStreamDeleted
	const fine = esdb.ErrorCode(-1)
	type row struct {
		expect esdb.ExpectedRevision
		want   esdb.ErrorCode
		next   uint64 // the number of the last event when fine
	}
	for name, c := range map[string]struct {
		prepare func(*testing.T, *esdb.Client)
		rows    []row
	}{
		"a stream that never was": {func(*testing.T, *esdb.Client) {}, []row{
			{esdb.Any{}, fine, 0},
			{esdb.NoStream{}, fine, 0},
			{esdb.StreamExists{}, conflict, 0},
			{esdb.Revision(0), conflict, 0},
			{esdb.Revision(5), conflict, 0},
		}},
		"a stream of three": {func(t *testing.T, c *esdb.Client) { t.Helper(); write(t, c, "s", 3) }, []row{
			{esdb.Any{}, fine, 3},
			{esdb.StreamExists{}, fine, 3},
			{esdb.Revision(2), fine, 3},
			{esdb.NoStream{}, conflict, 0},
			{esdb.Revision(0), conflict, 0},
			{esdb.Revision(1), conflict, 0},
			{esdb.Revision(3), conflict, 0},
		}},
		"a stream that was deleted softly": {func(t *testing.T, c *esdb.Client) {
			t.Helper()
			write(t, c, "s", 3)
			remove(t, c, "s")
		}, []row{
			{esdb.Any{}, fine, 3},
			{esdb.NoStream{}, fine, 3},
			{esdb.Revision(2), fine, 3},
			{esdb.StreamExists{}, gone, 0},
			{esdb.Revision(1), conflict, 0},
			{esdb.Revision(3), conflict, 0},
		}},
		"a stream with a tombstone": {func(t *testing.T, c *esdb.Client) {
			t.Helper()
			write(t, c, "s", 3)
			bury(t, c, "s")
		}, []row{
			{esdb.Any{}, gone, 0}, {esdb.NoStream{}, gone, 0}, {esdb.StreamExists{}, gone, 0}, {esdb.Revision(2), gone, 0}, {esdb.Revision(9), gone, 0},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range c.rows {
				client := dial(t, start(t, esdbnode.Options{}).uri)
				c.prepare(t, client)
				res, err := client.AppendToStream(t.Context(), "s", esdb.AppendToStreamOptions{ExpectedRevision: r.expect}, fresh("x")...)
				if r.want == fine {
					if err != nil || res.NextExpectedVersion != r.next || res.CommitPosition == 0 {
						t.Errorf("%T%v: %+v, %v; want number %d", r.expect, r.expect, res, err, r.next)
					}
				} else if codeOf(err) != r.want {
					t.Errorf("%T%v: %v, want code %d", r.expect, r.expect, err, r.want)
				}
			}
		})
	}
}

func TestARepeatAnswersWithTheOldNumbers(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	for name, expect := range map[string]esdb.ExpectedRevision{"exact": esdb.Revision(1), "any": esdb.Any{}, "exists": esdb.StreamExists{}} {
		t.Run(name, func(t *testing.T) {
			stream := "s-" + name
			write(t, client, stream, 2)
			events := fresh("a", "b")
			first := appendTo(t, client, stream, expect, events...)
			write(t, client, stream, 3)
			again := appendTo(t, client, stream, expect, events...)
			if *again != *first {
				t.Fatalf("first %+v, then %+v", first, again)
			}
			_, err := client.AppendToStream(t.Context(), stream, esdb.AppendToStreamOptions{ExpectedRevision: expect}, append(events[:1:1], fresh("c")...)...)
			if codeOf(err) != esdb.ErrorCodeWrongExpectedVersion {
				t.Fatalf("half a repeat: %v", err)
			}
		})
	}
	other := appendTo(t, client, "other", esdb.Any{}, fresh("a")...)
	if other.NextExpectedVersion != 0 {
		t.Fatalf("another stream begins at %d", other.NextExpectedVersion)
	}
}

func TestAnAppendOfNothingTellsTheCurrentNumber(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 3)
	for _, expect := range []esdb.ExpectedRevision{esdb.Any{}, esdb.StreamExists{}, esdb.Revision(2)} {
		if res := appendTo(t, client, "s", expect); res.NextExpectedVersion != 2 {
			t.Errorf("%T: %+v", expect, res)
		}
	}
	appendTo(t, client, "never", esdb.NoStream{})
	if _, err := readAll(t.Context(), client, "never", esdb.ReadStreamOptions{}, 1); codeOf(err) != esdb.ErrorCodeResourceNotFound {
		t.Errorf("it made a stream: %v", err)
	}
}

func TestWritersOfOneBatchSeeEachOther(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	const writers, rounds = 24, 12
	var mu sync.Mutex
	winners := map[uint64]int{}
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for n := range uint64(rounds) {
				var expect esdb.ExpectedRevision = esdb.NoStream{}
				if n > 0 {
					expect = esdb.Revision(n - 1)
				}
				res, err := client.AppendToStream(t.Context(), "hot", esdb.AppendToStreamOptions{ExpectedRevision: expect}, fresh("x")...)
				switch {
				case err == nil:
					mu.Lock()
					winners[res.NextExpectedVersion]++
					mu.Unlock()
				case codeOf(err) != esdb.ErrorCodeWrongExpectedVersion:
					t.Errorf("%v", err)
				}
			}
		})
	}
	wg.Wait()
	for n, count := range winners {
		if count != 1 {
			t.Errorf("number %d was given %d times", n, count)
		}
	}
	got, err := readAll(t.Context(), client, "hot", esdb.ReadStreamOptions{}, 1000)
	if err != nil || len(got) != len(winners) {
		t.Fatalf("%d events, %d winners, %v", len(got), len(winners), err)
	}
}

func TestAnAppendThatIsTooLargeIsToldSo(t *testing.T) {
	client, stub := dialBoth(t, start(t, esdbnode.Options{MaxAppend: 1000}).uri)
	big := fresh("x")[0]
	big.Metadata, big.Data = nil, []byte(strings.Repeat("x", 999))
	if _, err := client.AppendToStream(t.Context(), "s", esdb.AppendToStreamOptions{}, big); err == nil {
		t.Fatal("it was taken")
	}
	big.Data = big.Data[:998]
	appendTo(t, client, "s", esdb.NoStream{}, big) // with twice its one-letter type it is 1000

	trailer, err := rawAppend(t, stub, options("s"), proposed(map[string]string{"type": "x", "content-type": "application/json"}, strings.Repeat("x", 2<<20)))
	if status.Code(err) != codes.InvalidArgument || first(trailer, "exception") != "maximum-append-size-exceeded" || first(trailer, "maximum-append-size") != "1000" {
		t.Fatalf("%v, %v", err, trailer)
	}
}

func TestARequestThatMakesNoSenseIsRefused(t *testing.T) {
	_, stub := dialBoth(t, start(t, esdbnode.Options{}).uri)
	good := map[string]string{"type": "x", "content-type": "application/json"}
	for name, messages := range map[string][]*streams.AppendReq{
		"nothing at all":            {},
		"an event first":            {proposed(good, "{}")},
		"no stream":                 {options(""), proposed(good, "{}")},
		"no expected revision":      {{Content: &streams.AppendReq_Options_{Options: &streams.AppendReq_Options{StreamIdentifier: named("s")}}}},
		"options twice":             {options("s"), options("s")},
		"no type":                   {options("s"), proposed(map[string]string{"content-type": "application/json"}, "{}")},
		"no content type":           {options("s"), proposed(map[string]string{"type": "x"}, "{}")},
		"$all":                      {options("$all"), proposed(good, "{}")},
		"metadata of metadata":      {options("$$$$s"), proposed(good, "{}")},
		"a bad event behind a good": {options("s"), proposed(good, "{}"), proposed(nil, "{}"), proposed(good, "{}")},
		"an id that is no UUID":     {options("s"), {Content: &streams.AppendReq_ProposedMessage_{ProposedMessage: &streams.AppendReq_ProposedMessage{Id: &shared.UUID{Value: &shared.UUID_String_{String_: "7"}}, Metadata: good}}}},
	} {
		_, err := rawAppend(t, stub, messages...)
		if c := status.Code(err); c != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDeleteChecksTheRevision(t *testing.T) {
	client := dial(t, start(t, esdbnode.Options{}).uri)
	write(t, client, "s", 3)
	for _, expect := range []esdb.ExpectedRevision{esdb.NoStream{}, esdb.Revision(1), esdb.Revision(7)} {
		if _, err := client.DeleteStream(t.Context(), "s", esdb.DeleteStreamOptions{ExpectedRevision: expect}); err == nil {
			t.Errorf("delete at %T%v was done", expect, expect)
		}
		if _, err := client.TombstoneStream(t.Context(), "s", esdb.TombstoneStreamOptions{ExpectedRevision: expect}); err == nil {
			t.Errorf("tombstone at %T%v was done", expect, expect)
		}
	}
	res, err := client.DeleteStream(t.Context(), "s", esdb.DeleteStreamOptions{ExpectedRevision: esdb.Revision(2)})
	if err != nil || res.Position.Commit != 4 {
		t.Fatalf("%+v, %v", res, err)
	}
	res, err = client.TombstoneStream(t.Context(), "s", esdb.TombstoneStreamOptions{ExpectedRevision: esdb.Revision(2)})
	if err != nil || res.Position.Commit != 5 {
		t.Fatalf("%+v, %v", res, err)
	}
}

// fresh gives events of these types with ids of their own.
func fresh(types ...string) []esdb.EventData {
	events := make([]esdb.EventData, len(types))
	for i, kind := range types {
		events[i] = esdb.EventData{EventID: newID(), EventType: kind, ContentType: esdb.ContentTypeJson, Data: []byte(fmt.Sprintf(`{"n":%d}`, i)), Metadata: []byte(`{"version":1}`)}
	}
	return events
}

// write appends n events to a stream, whatever it holds.
func write(tb testing.TB, client *esdb.Client, stream string, n int) []esdb.EventData {
	tb.Helper()
	events := fresh(strings.Split(strings.Repeat("written ", n), " ")[:n]...)
	appendTo(tb, client, stream, esdb.Any{}, events...)
	return events
}

func appendTo(tb testing.TB, client *esdb.Client, stream string, expect esdb.ExpectedRevision, events ...esdb.EventData) *esdb.WriteResult {
	tb.Helper()
	res, err := client.AppendToStream(tb.Context(), stream, esdb.AppendToStreamOptions{ExpectedRevision: expect}, events...)
	if err != nil {
		tb.Fatalf("append to %s: %v", stream, err)
	}
	return res
}

func remove(tb testing.TB, client *esdb.Client, stream string) {
	tb.Helper()
	if _, err := client.DeleteStream(tb.Context(), stream, esdb.DeleteStreamOptions{ExpectedRevision: esdb.Any{}}); err != nil {
		tb.Fatalf("delete %s: %v", stream, err)
	}
}

func bury(tb testing.TB, client *esdb.Client, stream string) {
	tb.Helper()
	if _, err := client.TombstoneStream(tb.Context(), stream, esdb.TombstoneStreamOptions{ExpectedRevision: esdb.Any{}}); err != nil {
		tb.Fatalf("tombstone %s: %v", stream, err)
	}
}

func codeOf(err error) esdb.ErrorCode {
	if e, ok := errors.AsType[*esdb.Error](err); ok {
		return e.Code()
	}
	return -1
}

// dialBoth gives the official client and the bare stubs, for what the client
// would never send.
func dialBoth(tb testing.TB, address string) (*esdb.Client, streams.StreamsClient) {
	tb.Helper()
	return dial(tb, address), stubs(tb, address)
}

func stubs(tb testing.TB, address string) streams.StreamsClient {
	tb.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := conn.Close(); err != nil {
			tb.Errorf("close connection: %v", err)
		}
	})
	return streams.NewStreamsClient(conn)
}

func rawAppend(t *testing.T, stub streams.StreamsClient, messages ...*streams.AppendReq) (metadata.MD, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var trailer metadata.MD
	call, err := stub.Append(ctx, grpc.Trailer(&trailer))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if err = call.Send(m); err != nil {
			t.Fatalf("the node hung up before it was told all: %v", err)
		}
	}
	_, err = call.CloseAndRecv()
	return trailer, err
}

func named(stream string) *shared.StreamIdentifier {
	return &shared.StreamIdentifier{StreamName: []byte(stream)}
}

func options(stream string) *streams.AppendReq {
	return &streams.AppendReq{Content: &streams.AppendReq_Options_{Options: &streams.AppendReq_Options{
		StreamIdentifier: named(stream), ExpectedStreamRevision: &streams.AppendReq_Options_Any{Any: &shared.Empty{}},
	}}}
}

func proposed(metadata map[string]string, data string) *streams.AppendReq {
	id := newID()
	return &streams.AppendReq{Content: &streams.AppendReq_ProposedMessage_{ProposedMessage: &streams.AppendReq_ProposedMessage{
		Id: &shared.UUID{Value: &shared.UUID_String_{String_: id.String()}}, Metadata: metadata, Data: []byte(data),
	}}}
}

func first(md metadata.MD, key string) string { return strings.Join(md.Get(key), ",") }
