package esdbstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"pgregory.net/rapid"

	"cartwright/domain/event"
	"cartwright/infra/esdbnode"
	"cartwright/infra/esdbstore"
	"cartwright/infra/storetest"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, // the client forgets to close a connection when it looks for its node again
		goleak.IgnoreTopFunction("google.golang.org/grpc/internal/grpcsync.(*CallbackSerializer).run"),
		goleak.IgnoreAnyFunction("google.golang.org/grpc.(*addrConn).resetTransportAndUnlock"),
	)
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Store {
		t.Helper()
		return open(t, serve(t, place{dir: t.TempDir(), socket: filepath.Join(t.TempDir(), "n.sock")}).uri)
	})
}

// TestConformanceInOneProcess asks a node in this process without a connection.
func TestConformanceInOneProcess(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Store {
		t.Helper()
		r := serve(t, place{dir: t.TempDir(), socket: filepath.Join(t.TempDir(), "n.sock")})
		return connect(t, esdbstore.Config{URI: r.uri, Node: r.node})
	})
}

// counting counts the calls that are made of a node.
type counting struct {
	esdbstore.Caller
	calls atomic.Int64
}

func (c *counting) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	c.calls.Add(1)
	return c.Caller.NewStream(ctx, desc, method, options...)
}

func TestANodeInThisProcessIsAppendedToAndFollowedWithoutAConnection(t *testing.T) {
	r := serve(t, place{dir: t.TempDir(), socket: filepath.Join(t.TempDir(), "n.sock")})
	node := &counting{Caller: r.node}
	store := connect(t, esdbstore.Config{URI: r.uri, Node: node})
	for i := range 3 {
		if err := store.Append(t.Context(), "order-1", event.Revision(i), []event.Recorded{storetest.Event("order.placed", `{}`)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := node.calls.Load(); n != 1 {
		t.Errorf("three appends made %d calls of the node", n)
	}
	for n, err := range store.Follow(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if n.CaughtUp {
			break
		}
	}
	if n := node.calls.Load(); n != 2 {
		t.Errorf("three appends and a follower made %d calls of the node", n)
	}
	r.stop()
	err := store.Append(t.Context(), "order-1", 3, []event.Recorded{storetest.Event("order.placed", `{}`)})
	if err == nil || errors.Is(err, event.ErrConflict) {
		t.Errorf("an append to a node that is closed: %v", err)
	}
}

// A place is where a node keeps its log and where it is reached, so that it can
// come back there.
type place struct{ dir, socket string }

type running struct {
	uri  string
	stop func()
	node *esdbnode.Node
}

// serve runs a node until the test ends or stop is called.
func serve(tb testing.TB, at place) *running {
	tb.Helper()
	node, err := esdbnode.Open(esdbnode.Options{Dir: at.dir})
	if err != nil {
		tb.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "unix", at.socket)
	if err != nil {
		tb.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- node.Serve(listener) }()
	stop := sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(node.Close(ctx), <-served); err != nil {
			tb.Errorf("stop node: %v", err)
		}
	})
	tb.Cleanup(stop)
	return &running{"unix://" + at.socket, stop, node}
}

func open(tb testing.TB, uri string) *esdbstore.Store {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	store, err := esdbstore.Open(ctx, uri, nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := store.Close(); err != nil {
			tb.Errorf("close store: %v", err)
		}
	})
	return store
}

// raw gives the official client, to write and read what our store would not.
func raw(t *testing.T, uri string) *esdb.Client {
	t.Helper()
	config, err := esdb.ParseConnectionString("esdb://localhost:2113?tls=false")
	if err != nil {
		t.Fatal(err)
	}
	config.Address, config.Logger = uri, esdb.NoopLogging()
	client, err := esdb.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Errorf("close client: %v", err)
		}
	})
	return client
}

func newPlace(t *testing.T) place {
	t.Helper()
	return place{dir: t.TempDir(), socket: filepath.Join(t.TempDir(), "n.sock")}
}

func TestAnAddressThatMakesNoSenseIsRefused(t *testing.T) {
	for _, uri := range []string{"", "http://localhost", "unix://relative", "unix://", "esdb://", "esdb://host?tls=maybe", "esdb://host/path"} {
		if store, err := esdbstore.Open(t.Context(), uri, nil); err == nil {
			t.Errorf("%q was opened", uri)
			_ = store.Close()
		}
	}
	_, err := esdbstore.Open(t.Context(), "esdb://admin:secret@host/path", nil)
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("the password is told: %v", err)
	}
}

func TestTheStoreIsReachedByTCPAndByDiscovery(t *testing.T) {
	node, err := esdbnode.Open(esdbnode.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- node.Serve(listener) }()
	defer func() {
		if err := errors.Join(node.Close(context.Background()), <-served); err != nil {
			t.Error(err)
		}
	}()
	for i, scheme := range []string{"esdb", "esdb+discover"} {
		store, err := esdbstore.Open(t.Context(), fmt.Sprintf("%s://%s?tls=false", scheme, listener.Addr()), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Append(t.Context(), "s", event.Revision(i), storetest.Events(1)); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestCallsEndWithTheirContextWhileTheNodeIsAway makes every kind of call while
// there is no node: the bare client would hang in all of them.
func TestCallsEndWithTheirContextWhileTheNodeIsAway(t *testing.T) {
	at := newPlace(t)
	node := serve(t, at)
	store := open(t, node.uri)
	node.stop()
	calls := map[string]func(context.Context) error{
		"append": func(ctx context.Context) error { return store.Append(ctx, "s", 0, storetest.Events(1)) },
		"load":   func(ctx context.Context) error { return last(store.Load(ctx, "s", 0)) },
		"all":    func(ctx context.Context) error { return last(store.All(ctx, 0)) },
		"follow": func(ctx context.Context) error { return last(store.Follow(ctx, 0)) },
		"head": func(ctx context.Context) error {
			_, err := store.Head(ctx)
			return err
		},
		"keep":      func(ctx context.Context) error { return store.KeepNewest(ctx, "s", 1) },
		"tombstone": func(ctx context.Context) error { return store.Tombstone(ctx, "s") },
	}
	for range 2 { // the first call of each may still be refused by the old connection
		var wg sync.WaitGroup
		for name, call := range calls {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				defer cancel()
				began := time.Now()
				err := call(ctx)
				if err == nil || errors.Is(err, event.ErrConflict) || errors.Is(err, event.ErrDeleted) || errors.Is(err, event.ErrTooLarge) {
					t.Errorf("%s: %v", name, err)
				}
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("%s took %v", name, took)
				}
			})
		}
		wg.Wait()
	}
	serve(t, at) // so that the client comes back and can be closed
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := store.Head(ctx); err != nil {
		t.Errorf("after the node came back: %v", err)
	}
}

func last[T any](all func(func(T, error) bool)) error {
	var failed error
	all(func(_ T, err error) bool {
		failed = err
		return true
	})
	return failed
}

// TestTheStoreSurvivesARestartOfItsNode follows and appends across three restarts:
// each append is repeated until it has an answer, and the follower gets each
// event once.
func TestTheStoreSurvivesARestartOfItsNode(t *testing.T) {
	at := newPlace(t)
	node := serve(t, at)
	store := open(t, node.uri)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	const count = 400
	events := storetest.Events(count)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i := 0; i < count && ctx.Err() == nil; {
			err := store.Append(ctx, "s", event.Revision(i), events[i:i+1])
			if err == nil {
				i++
			} else if errors.Is(err, event.ErrConflict) {
				t.Errorf("a repeat of append %d: %v", i, err)
				return
			}
		}
	})
	seen := 0
	for n, err := range store.Follow(ctx, 0) {
		if err != nil {
			t.Fatalf("after %d: %v", seen, err)
		}
		if n.Event.Name == "" {
			continue
		}
		if n.Event.ID != events[seen].ID {
			t.Fatalf("event %d is revision %d", seen+1, n.Event.Revision)
		}
		if seen++; seen == count {
			break
		}
		if seen%100 == 0 {
			node.stop()
			node = serve(t, at)
		}
	}
}

func TestCloseWaitsForPendingCalls(t *testing.T) {
	store, err := esdbstore.Open(t.Context(), serve(t, newPlace(t)).uri, nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	begun := make(chan struct{}, 16)
	for w := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				if err := store.Append(t.Context(), fmt.Sprintf("s-%d", w), event.Revision(i), storetest.Events(1)); err != nil {
					return
				}
				if i == 0 {
					begun <- struct{}{}
				}
			}
		})
		wg.Go(func() {
			if err := last(store.Follow(t.Context(), 0)); err == nil {
				t.Error("a follower ended without a word")
			}
		})
	}
	for range 16 {
		<-begun
	}
	for range 2 {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if err := store.Append(t.Context(), "s", 0, storetest.Events(1)); err == nil {
		t.Error("a closed store took an append")
	}
}

func TestOpenGivesUpWithItsContext(t *testing.T) {
	at := newPlace(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := esdbstore.Open(ctx, "unix://"+at.socket, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	serve(t, at) // the client that was left behind finds it, and ends
	for deadline := time.Now().Add(patience); strings.Contains(stacks(), "getConnectionHandle"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("a call is still in the client:\n%s", stacks())
		}
	}
}

func stacks() string {
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}

func TestEventsOfOthersAreReadable(t *testing.T) {
	node := serve(t, newPlace(t))
	store, client := open(t, node.uri), raw(t, node.uri)
	for i, meta := range []string{"", "not json", `[1]`, `{}`, `{"version":"x"}`, `{"$correlationId":"c","other":[{}]}`, `{"version":3,"version":-4}`} {
		_, err := client.AppendToStream(t.Context(), "s", esdb.AppendToStreamOptions{}, esdb.EventData{
			EventID: uuid.New(), EventType: "foreign", ContentType: esdb.ContentTypeBinary, Data: []byte{0, 1}, Metadata: []byte(meta),
		})
		if err != nil {
			t.Fatal(err)
		}
		var got event.Recorded
		for e, err := range store.Load(t.Context(), "s", event.Revision(i)) {
			if err != nil {
				t.Fatal(err)
			}
			got = e
		}
		if got.Name != "foreign" || got.Version != 1 || string(got.Data) != "\x00\x01" || got.Revision != event.Revision(i)+1 {
			t.Errorf("%s: %+v", meta, got)
		}
	}
}

// TestHandWrittenMetadataIsWhatEncodingJSONMakesOfIt compares both ways: what we
// write, read by encoding/json, and what encoding/json writes, read by us.
func TestHandWrittenMetadataIsWhatEncodingJSONMakesOfIt(t *testing.T) {
	node := serve(t, newPlace(t))
	store, client := open(t, node.uri), raw(t, node.uri)
	type meta struct {
		Correlation string     `json:"$correlationId,omitempty"`
		Cause       string     `json:"$causationId,omitempty"`
		Version     int        `json:"version,omitempty"`
		Digest      string     `json:"digest,omitempty"`
		Actor       string     `json:"actor,omitempty"`
		At          *time.Time `json:"at,omitempty"`
		Trace       string     `json:"traceparent,omitempty"`
	}
	text := rapid.OneOf(rapid.Just(""), rapid.StringMatching(`[a-z0-9/-]{1,40}`), rapid.String())
	revision := event.Revision(0)
	rapid.Check(t, func(rt *rapid.T) {
		e := storetest.Event("thing.happened", "{}")
		e.Version = rapid.IntRange(1, 99).Draw(rt, "version")
		e.Meta = event.Meta{Correlation: text.Draw(rt, "correlation"), Cause: text.Draw(rt, "cause"), Digest: text.Draw(rt, "digest"), Actor: text.Draw(rt, "actor"), Trace: text.Draw(rt, "trace")}
		m := meta{Correlation: e.Correlation, Cause: e.Cause, Version: e.Version, Digest: e.Digest, Actor: e.Actor, Trace: e.Trace}
		if rapid.Bool().Draw(rt, "dated") {
			e.At = time.Unix(rapid.Int64Range(-1e9, 4e9).Draw(rt, "second"), rapid.Int64Range(0, 999_999_999).Draw(rt, "nano")).UTC()
			m.At = &e.At
		}
		want, err := json.Marshal(m)
		if err != nil {
			rt.Fatal(err)
		}
		if err = store.Append(t.Context(), "ours", revision, []event.Recorded{e}); err != nil {
			rt.Fatal(err)
		}
		if _, err = client.AppendToStream(t.Context(), "theirs", esdb.AppendToStreamOptions{}, esdb.EventData{EventID: uuid.MustParse(e.ID), EventType: e.Name, Data: e.Data, Metadata: want}); err != nil {
			rt.Fatal(err)
		}
		ours, theirs := one(rt, store, "ours", revision), one(rt, store, "theirs", revision)
		if ours.Meta != theirs.Meta || ours.Version != theirs.Version || ours.Version != e.Version || !ours.At.Equal(e.At) {
			rt.Fatalf("from ours %+v, from encoding/json's %+v", ours, theirs)
		}
		read, err := client.ReadStream(t.Context(), "ours", esdb.ReadStreamOptions{From: esdb.Revision(uint64(revision))}, 1)
		if err != nil {
			rt.Fatal(err)
		}
		defer read.Close()
		got, err := read.Recv()
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got.Event.UserMetadata)); diff != "" {
			rt.Fatal(diff)
		}
		revision++
	})
}

func one(t rapid.TB, store *esdbstore.Store, stream string, after event.Revision) event.Recorded {
	t.Helper()
	for e, err := range store.Load(context.Background(), stream, after) {
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	t.Fatal("no event")
	return event.Recorded{}
}

func BenchmarkLoad(b *testing.B) {
	store := open(b, serve(b, place{dir: b.TempDir(), socket: filepath.Join(b.TempDir(), "n.sock")}).uri)
	for _, n := range []int{1, 10, 1000} {
		stream := fmt.Sprintf("s-%d", n)
		if err := store.Append(b.Context(), stream, 0, storetest.Events(n)); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("events=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				got := 0
				for _, err := range store.Load(b.Context(), stream, 0) {
					if err != nil {
						b.Fatal(err)
					}
					got++
				}
				if got != n {
					b.Fatalf("%d events", got)
				}
			}
		})
	}
}

func BenchmarkAll(b *testing.B) {
	const events = 20_000
	store := open(b, serve(b, place{dir: b.TempDir(), socket: filepath.Join(b.TempDir(), "n.sock")}).uri)
	for i := range events / 500 {
		batch := storetest.Events(500)
		for j := range batch {
			batch[j].Meta = event.Meta{Cause: batch[j].ID, Digest: batch[j].ID, Correlation: "1234567890123456789", Actor: "anonymous", At: time.Now()}
			batch[j].Data = []byte(`{"note":"` + strings.Repeat("x", 390) + `"}`)
		}
		if err := store.Append(b.Context(), fmt.Sprintf("order-%d", i), 0, batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		got := 0
		for _, err := range store.All(b.Context(), 0, "order-", "inventory-") {
			if err != nil {
				b.Fatal(err)
			}
			got++
		}
		if got != events {
			b.Fatalf("%d events", got)
		}
	}
	b.ReportMetric(float64(b.N*events)/b.Elapsed().Seconds(), "events/s")
}
