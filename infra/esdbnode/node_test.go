package esdbnode_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/goleak"

	"cartwright/infra/esdbnode"
)

// A running node and where it is reached.
type running struct {
	node *esdbnode.Node
	uri  string // of the socket, as the client's Address
	stop func()
}

// start runs a node on a socket until the test ends or stop is called. Without
// a folder it gets one of its own.
func start(tb testing.TB, o esdbnode.Options) *running {
	tb.Helper()
	if o.Dir == "" {
		o.Dir = tb.TempDir()
	}
	node, err := esdbnode.Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	return serve(tb, node)
}

// serve lets a node answer on a socket.
func serve(tb testing.TB, node *esdbnode.Node) *running {
	tb.Helper()
	socket := filepath.Join(tb.TempDir(), "n.sock")
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- node.Serve(listener) }()
	stop := sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := node.Close(ctx); err != nil {
			tb.Errorf("close: %v", err)
		}
		if err := <-served; err != nil {
			tb.Errorf("serve: %v", err)
		}
	})
	tb.Cleanup(stop)
	return &running{node, "unix://" + socket, stop}
}

// dial gives the official client, as it comes.
func dial(tb testing.TB, address string) *esdb.Client {
	tb.Helper()
	config, err := esdb.ParseConnectionString("esdb://localhost:2113?tls=false")
	if err != nil {
		tb.Fatal(err)
	}
	config.Address, config.Logger = address, esdb.NoopLogging()
	client, err := esdb.NewClient(config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := client.Close(); err != nil {
			tb.Errorf("close client: %v", err)
		}
	})
	return client
}

func TestMain(m *testing.M) {
	if how := os.Getenv(childFails); how != "" {
		failChild(how, os.Getenv(childDir))
		return
	}
	if dir := os.Getenv(childDir); dir != "" {
		runChild(dir, os.Getenv(childSocket))
		return
	}
	goleak.VerifyTestMain(m, // the client forgets to close a connection when it looks for its node again
		goleak.IgnoreTopFunction("google.golang.org/grpc/internal/grpcsync.(*CallbackSerializer).run"),
		goleak.IgnoreAnyFunction("google.golang.org/grpc.(*addrConn).resetTransportAndUnlock"),
		// Pebble forgets one of its own when it finds no room to open a log.
		goleak.IgnoreTopFunction("github.com/cockroachdb/pebble/v2.(*ConcurrencyLimitScheduler).periodicGranter"),
	)
}

func TestWhatWasAcknowledgedIsThereAfterARestart(t *testing.T) {
	dir := t.TempDir()
	r := start(t, esdbnode.Options{Dir: dir})
	client := dial(t, r.uri)
	want := write(t, client, "s", 3)
	write(t, client, "deleted", 2)
	remove(t, client, "deleted")
	write(t, client, "ended", 2)
	bury(t, client, "ended")
	repeat := fresh("once")
	appendTo(t, client, "s", esdb.Revision(2), repeat...)
	head := r.node.Head()
	r.stop()

	r = start(t, esdbnode.Options{Dir: dir})
	client = dial(t, r.uri)
	if r.node.Head() != head || head != 10 {
		t.Errorf("the log ended at %d, now at %d", head, r.node.Head())
	}
	if res := appendTo(t, client, "s", esdb.Revision(2), repeat...); res.NextExpectedVersion != 3 {
		t.Errorf("a repeat across the restart: %+v", res)
	}
	got, err := readAll(t.Context(), client, "s", esdb.ReadStreamOptions{}, 10)
	if err != nil || len(got) != 4 || got[0].Event.EventID != want[0].EventID {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := readAll(t.Context(), client, "deleted", esdb.ReadStreamOptions{}, 10); codeOf(err) != esdb.ErrorCodeResourceNotFound {
		t.Errorf("deleted: %v", err)
	}
	if _, err := readAll(t.Context(), client, "ended", esdb.ReadStreamOptions{}, 10); codeOf(err) != esdb.ErrorCodeStreamDeleted {
		t.Errorf("ended: %v", err)
	}
	if res := appendTo(t, client, "s", esdb.Any{}, fresh("new")...); res.CommitPosition != head+1 {
		t.Errorf("positions go on at %d", res.CommitPosition)
	}
}

func TestAFolderHasOneOwner(t *testing.T) {
	dir := t.TempDir()
	first, err := esdbnode.Open(esdbnode.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = esdbnode.Open(esdbnode.Options{Dir: dir}); !errors.Is(err, esdbnode.ErrInUse) {
		t.Errorf("a second owner: %v", err)
	}
	for range 2 {
		if err = first.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	again, err := esdbnode.Open(esdbnode.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestAFolderOfAnotherKindIsRefused(t *testing.T) {
	for name, file := range map[string][2]string{
		"a newer format":      {"FORMAT", "cartwright event log, format 2\n"},
		"another marker":      {"FORMAT", "something else"},
		"files and no FORMAT": {"photo.jpg", "x"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, file[0]), []byte(file[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		node, err := esdbnode.Open(esdbnode.Options{Dir: dir})
		if err == nil {
			t.Errorf("%s was opened", name)
			_ = node.Close(t.Context())
		}
		if _, err := os.Stat(filepath.Join(dir, "MANIFEST-000001")); err == nil {
			t.Errorf("%s: Pebble was let at it", name)
		}
	}
	if _, err := esdbnode.Open(esdbnode.Options{}); err == nil {
		t.Error("no folder at all was opened")
	}
}

// TestADamagedEventIsToldNotServed changes what is stored behind the node's back.
func TestADamagedEventIsToldNotServed(t *testing.T) {
	for name, damage := range map[string]func([]byte){
		"another bit":           func(b []byte) { b[len(b)-1] ^= 1 },
		"a format of tomorrow":  func(b []byte) { b[0] = 2 },
		"another flag":          func(b []byte) { b[1] ^= 1 },
		"lengths of more bytes": func(b []byte) { b[38] = 0xff },
	} {
		dir := t.TempDir()
		r := start(t, esdbnode.Options{Dir: dir})
		write(t, dial(t, r.uri), "s", 3)
		r.stop()
		db, err := pebble.Open(dir, &pebble.Options{FormatMajorVersion: pebble.FormatTableFormatV6, Logger: silent{}})
		if err != nil {
			t.Fatal(err)
		}
		key := []byte("e\x00\x00\x00\x00\x00\x00\x00\x02")
		value, closer, err := db.Get(key)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Clone(value)
		damage(changed)
		if err = errors.Join(closer.Close(), db.Set(key, changed, pebble.Sync), db.Close()); err != nil {
			t.Fatal(err)
		}
		r = start(t, esdbnode.Options{Dir: dir})
		client := dial(t, r.uri)
		got, err := readAll(t.Context(), client, "s", esdb.ReadStreamOptions{}, 10)
		if err == nil || !strings.Contains(err.Error(), "position 2") || len(got) > 1 {
			t.Errorf("%s: %d events, %v", name, len(got), err)
		}
		if got, err = log(t.Context(), client, esdb.ReadAllOptions{}); err == nil || len(got) > 1 {
			t.Errorf("%s: %d events of the log, %v", name, len(got), err)
		}
		write(t, client, "s", 1) // the rest works on
	}
}

type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(string, ...any) {}

func TestCloseEndsSubscriptionsAndKeepsWhatItAcknowledged(t *testing.T) {
	dir := t.TempDir()
	r := start(t, esdbnode.Options{Dir: dir})
	client := dial(t, r.uri)
	sub := subscribeAll(t, client, esdb.SubscribeToAllOptions{From: esdb.Start{}})
	wantHeard(t, sub, "caught up")
	var acknowledged atomic.Uint64
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stub := stubs(t, r.uri)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				call, err := stub.Append(ctx)
				if err != nil {
					return
				}
				event := proposed(map[string]string{"type": "x", "content-type": "application/json"}, "{}")
				if call.Send(options(fmt.Sprintf("s-%d", w))) != nil || call.Send(event) != nil {
					return
				}
				if _, err := call.CloseAndRecv(); err != nil {
					return
				}
				acknowledged.Add(1)
			}
		})
	}
	for acknowledged.Load() < 50 && ctx.Err() == nil {
		sub.Recv()
	}
	r.stop()
	wg.Wait()
	for e := sub.Recv(); ; e = sub.Recv() {
		if e.SubscriptionDropped != nil {
			break
		}
	}
	again := start(t, esdbnode.Options{Dir: dir})
	if head := again.node.Head(); head < acknowledged.Load() {
		t.Fatalf("%d appends were acknowledged, %d are there", acknowledged.Load(), head)
	}
}

func TestCloseDoesNotWaitForEverForACallThatHangs(t *testing.T) {
	node, err := esdbnode.Open(esdbnode.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "n.sock")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- node.Serve(listener) }()
	call, err := stubs(t, "unix://"+socket).Append(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := call.Send(options("s")); err != nil { // and never an end
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := node.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestTheNodeServesSeveralListenersAndGossips(t *testing.T) {
	dir := t.TempDir()
	node, err := esdbnode.Open(esdbnode.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	var addresses []string
	for _, l := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", filepath.Join(t.TempDir(), "n.sock")}} {
		listener, failed := new(net.ListenConfig).Listen(t.Context(), l[0], l[1])
		if failed != nil {
			t.Fatal(failed)
		}
		addresses = append(addresses, listener.Addr().String())
		wg.Go(func() {
			if failed := node.Serve(listener); failed != nil {
				t.Error(failed)
			}
		})
	}
	defer func() { // before wg.Wait
		if failed := node.Close(context.Background()); failed != nil {
			t.Error(failed)
		}
	}()
	write(t, dial(t, "unix://"+addresses[1]), "s", 1)
	config, err := esdb.ParseConnectionString("esdb+discover://" + addresses[0] + "?tls=false")
	if err != nil {
		t.Fatal(err)
	}
	config.Logger = esdb.NoopLogging()
	discovering, err := esdb.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = discovering.Close() }()
	if got, err := readAll(t.Context(), discovering, "s", esdb.ReadStreamOptions{}, 1); err != nil || len(got) != 1 {
		t.Errorf("over TCP by discovery: %v, %v", got, err)
	}
	if v, err := discovering.GetServerVersion(); err != nil || v.Major != 24 {
		t.Errorf("version %v, %v", v, err)
	}
}

func TestBlocksStayInMemoryBesideMemtables(t *testing.T) {
	r := start(t, esdbnode.Options{})
	client := dial(t, r.uri)
	big := fresh("x")[0]
	big.Data = []byte(`"` + strings.Repeat("x", 900_000) + `"`)
	const streams, want = 150, 32 << 20 // several memtables
	for i := range streams {
		big.EventID = newID()
		appendTo(t, client, "s-"+strconv.Itoa(i), esdb.Any{}, big)
	}
	// What is being flushed takes room for as long as that lasts.
	cached := func() bool {
		for i := range streams / 2 {
			if got, err := readAll(t.Context(), client, "s-"+strconv.Itoa(i), esdb.ReadStreamOptions{}, 1); err != nil || len(got) != 1 {
				t.Fatalf("%d events in stream %d, %v", len(got), i, err)
			}
		}
		return r.node.Cached() >= want
	}
	for began := time.Now(); !cached(); {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("%d bytes of blocks are in memory, want at least %d", r.node.Cached(), want)
		}
	}
}
