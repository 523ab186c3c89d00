package esdbnode_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cartwright/domain/event"
	"cartwright/infra/esdbnode"
	"cartwright/infra/esdbstore"
	"cartwright/infra/storetest"
)

// TestWhatWasAcknowledgedSurvivesTheLossOfAllThatWasNotSynced takes the power
// away: it copies the files in the middle of concurrent appends, without
// anything that no fsync has covered, and opens the copy.
func TestWhatWasAcknowledgedSurvivesTheLossOfAllThatWasNotSynced(t *testing.T) {
	disk := vfs.NewCrashableMem()
	store := openStore(t, start(t, esdbnode.Options{Dir: "var/lib/log", FS: disk}).uri)
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	var mu sync.Mutex
	acknowledged := map[string]event.Revision{}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			stream := fmt.Sprintf("s-%d", w)
			for after := event.Revision(0); store.Append(ctx, stream, after, storetest.Events(2)) == nil; {
				after += 2
				mu.Lock()
				acknowledged[stream] = after
				mu.Unlock()
			}
		})
	}
	for crash := range 5 {
		for total := event.Revision(0); total < event.Revision(200*(crash+1)) && ctx.Err() == nil; {
			time.Sleep(time.Millisecond) // between two looks
			mu.Lock()
			total = 0
			for _, n := range acknowledged {
				total += n
			}
			mu.Unlock()
		}
		mu.Lock()
		known := maps.Clone(acknowledged)
		mu.Unlock()
		copied := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
		checkCopy(t, copied, known)
	}
	stop()
	wg.Wait()
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}

func checkCopy(t *testing.T, disk *vfs.MemFS, known map[string]event.Revision) {
	t.Helper()
	r := start(t, esdbnode.Options{Dir: "var/lib/log", FS: disk})
	defer r.stop()
	store := openStore(t, r.uri)
	for stream, revisions := range known {
		got := event.Revision(0)
		for e, err := range store.Load(t.Context(), stream, 0) {
			if err != nil {
				t.Fatal(err)
			}
			if got++; e.Revision != got {
				t.Fatalf("%s: revision %d where %d is next", stream, e.Revision, got)
			}
		}
		if got < revisions || got%2 != 0 {
			t.Fatalf("%s: %d events were acknowledged, two at a time, %d are there", stream, revisions, got)
		}
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}

// The environment of the child process that is killed, and how often it is.
const (
	childDir    = "CARTWRIGHT_NODE_CHILD_DIR"
	childSocket = "CARTWRIGHT_NODE_CHILD_SOCKET"
	killRounds  = "CARTWRIGHT_KILL_ROUNDS"

	childScavenges = "CARTWRIGHT_NODE_CHILD_SCAVENGES" // all the time
)

// runChild is the process that is killed: a node, and nothing that would clean
// up after it.
func runChild(dir, socket string) {
	node, err := esdbnode.Open(esdbnode.Options{Dir: dir})
	if err != nil {
		fmt.Println("open:", err)
		os.Exit(1)
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "unix", socket)
	if err != nil {
		fmt.Println("listen:", err)
		os.Exit(1)
	}
	if os.Getenv(childScavenges) != "" {
		go func() {
			for {
				if _, err := node.Scavenge(context.Background()); err != nil {
					fmt.Fprintln(os.Stderr, "scavenge:", err)
					os.Exit(1)
				}
			}
		}()
	}
	fmt.Println("ready")
	fmt.Println("serve:", node.Serve(listener))
}

// TestNothingAcknowledgedIsLostByKill9 kills a node in the middle of concurrent
// appends, again and again, and looks after each kill whether everything that
// was acknowledged, or that a subscriber has seen, is still there, where it was.
func TestNothingAcknowledgedIsLostByKill9(t *testing.T) {
	rounds := 3
	if text := os.Getenv(killRounds); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("%s: %v", killRounds, err)
		}
		rounds = n
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := &crash{t: t, rng: rand.New(rand.NewPCG(seed, 0)), dir: t.TempDir(), socket: filepath.Join(t.TempDir(), "n.sock")}
	c.inOwnProcess(func() { c.store = openStore(t, "unix://"+c.socket) })
	for round := range rounds {
		c.round(round)
	}
	c.inOwnProcess(func() {
		if err := c.store.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A crash is a log that is killed again and again, and what is known of it.
type crash struct {
	t           *testing.T
	rng         *rand.Rand
	dir, socket string
	store       *esdbstore.Store
	writers     []*writer
	seen        []event.Recorded // by the subscriber
	before      []event.Recorded // the whole log after the round before
}

// A writer appends to a stream of its own.
type writer struct {
	stream       string
	acknowledged []event.Recorded
	pending      []event.Recorded // sent, with no answer yet
}

func (c *crash) round(round int) {
	for w := range 8 {
		c.writers = append(c.writers, &writer{stream: fmt.Sprintf("round%d-%d", round, w)})
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	kill := c.startChild(ctx)
	var wg sync.WaitGroup
	writing, stop := context.WithCancel(ctx)
	defer stop()
	running := make(chan struct{})
	for i, w := range c.writers[len(c.writers)-8:] {
		rng := rand.New(rand.NewPCG(c.rng.Uint64(), uint64(i)))
		wg.Go(func() { w.run(writing, c.store, rng, running) })
	}
	wg.Go(func() { c.watch(writing) })
	<-running
	time.Sleep(time.Duration(20+c.rng.IntN(250)) * time.Millisecond) // the moment of the crash is the point
	kill()
	stop()
	wg.Wait()
	c.inOwnProcess(c.check)
}

// run appends until it gets no answer, and tells of each that it does get.
func (w *writer) run(ctx context.Context, store *esdbstore.Store, rng *rand.Rand, running chan struct{}) {
	for {
		w.pending = storetest.Events(1 + rng.IntN(5))
		if err := store.Append(ctx, w.stream, event.Revision(len(w.acknowledged)), w.pending); err != nil {
			return
		}
		w.acknowledged = append(w.acknowledged, w.pending...)
		w.pending = nil
		select {
		case running <- struct{}{}:
		default:
		}
	}
}

// watch remembers what the log shows before the crash.
func (c *crash) watch(ctx context.Context) {
	after := uint64(0)
	if n := len(c.before); n > 0 {
		after = c.before[n-1].Position
	}
	c.seen = nil
	for n, err := range c.store.Follow(ctx, after) {
		if err != nil {
			return
		}
		if n.Event.Name != "" {
			c.seen = append(c.seen, n.Event)
		}
	}
}

// startChild runs a node in a process of its own and gives what kills it.
func (c *crash) startChild(ctx context.Context) func() {
	c.t.Helper()
	child := exec.CommandContext(ctx, os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+c.dir, childSocket+"="+c.socket)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err = child.Start(); err != nil {
		c.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		c.t.Fatalf("child says %q, %v", line, err)
	}
	return func() {
		if err := child.Process.Kill(); err != nil {
			c.t.Errorf("kill: %v", err)
		}
		_ = child.Wait() // it says that it was killed
		if err := os.Remove(c.socket); err != nil {
			c.t.Errorf("the socket it left: %v", err)
		}
	}
}

// inOwnProcess opens the log here while do looks at it.
func (c *crash) inOwnProcess(do func()) {
	c.t.Helper()
	node, err := esdbnode.Open(esdbnode.Options{Dir: c.dir})
	if err != nil {
		c.t.Fatalf("open after the crash: %v", err)
	}
	listener, err := new(net.ListenConfig).Listen(c.t.Context(), "unix", c.socket)
	if err != nil {
		c.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- node.Serve(listener) }()
	do()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := errors.Join(node.Close(ctx), <-served); err != nil {
		c.t.Fatal(err)
	}
}

func (c *crash) check() {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for _, w := range c.writers {
		w.check(ctx, c.t, c.store)
	}
	all := c.readLog(ctx)
	for i, e := range c.before {
		if all[i].ID != e.ID || all[i].Position != e.Position {
			c.t.Fatalf("position %d was %s, is %s at %d", e.Position, e.ID, all[i].ID, all[i].Position)
		}
	}
	byPosition := map[uint64]string{}
	for i, e := range all {
		byPosition[e.Position] = e.ID
		if e.Position != uint64(i)+1 {
			c.t.Fatalf("event %d of the log has position %d", i+1, e.Position)
		}
	}
	for _, e := range c.seen {
		if byPosition[e.Position] != e.ID {
			c.t.Fatalf("a subscriber saw %s at %d, where now is %q", e.ID, e.Position, byPosition[e.Position])
		}
	}
	c.before = all
	c.t.Logf("%d events in the log, %d seen before the crash", len(all), len(c.seen))
}

func (c *crash) readLog(ctx context.Context) []event.Recorded {
	var all []event.Recorded
	for {
		all = all[:0]
		var failed error
		for e, err := range c.store.All(ctx, 0) {
			if failed = err; err == nil {
				all = append(all, e)
			}
		}
		if failed == nil {
			return all
		}
		if ctx.Err() != nil {
			c.t.Fatal(failed)
		}
	}
}

// check wants all that was acknowledged, in order and without a gap, and behind
// it the append that had no answer: whole or not at all.
func (w *writer) check(ctx context.Context, t *testing.T, store *esdbstore.Store) {
	t.Helper()
	var got []event.Recorded
	for failed := error(nil); ; {
		got, failed = got[:0], nil
		for e, err := range store.Load(ctx, w.stream, 0) {
			if failed = err; err == nil {
				got = append(got, e)
			}
		}
		if failed == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal(failed)
		}
	}
	want := w.acknowledged
	if len(got) > len(want) {
		want = append(slices.Clip(want), w.pending...)
	}
	if len(got) != len(want) {
		t.Fatalf("%s has %d events, %d were acknowledged and %d had no answer", w.stream, len(got), len(w.acknowledged), len(w.pending))
	}
	for i, e := range got {
		if e.ID != want[i].ID || e.Revision != event.Revision(i)+1 {
			t.Fatalf("%s: event %d is %s revision %d, want %s", w.stream, i+1, e.ID, e.Revision, want[i].ID)
		}
	}
	w.acknowledged, w.pending = want, nil
}

func openStore(t *testing.T, uri string) *esdbstore.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	store, err := esdbstore.Open(ctx, uri, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}
