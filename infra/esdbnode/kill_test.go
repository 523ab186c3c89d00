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
	"strings"
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
// away: it copies the files in the middle of concurrent appends, without what no
// fsync has covered, or with some pieces of it, and opens the copy. There are a
// table and another write-ahead log every few appends.
func TestWhatWasAcknowledgedSurvivesTheLossOfAllThatWasNotSynced(t *testing.T) {
	rounds := 2
	if soak() {
		rounds = 100
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	p := &powerless{disk: vfs.NewCrashableMem(), rng: rand.New(rand.NewPCG(seed, 0)), acknowledged: map[string]event.Revision{}}
	p.store = openStore(t, start(t, esdbnode.Options{Dir: "var/lib/log", FS: p.disk, MemTable: 256 << 10}).uri)
	ctx, stop := context.WithTimeout(t.Context(), time.Duration(rounds)*patience)
	defer stop()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() { p.append(ctx, fmt.Sprintf("s-%d", w)) })
	}
	wg.Go(func() { p.follow(ctx) })
	for range rounds {
		for _, percent := range []int{0, 10, 50, 90, 100} {
			copied, known, seen := p.crash(ctx, t, percent)
			wantChecked(t, copied)
			checkCopy(t, copied, known, seen)
		}
	}
	stop()
	wg.Wait()
	if err := p.store.Close(); err != nil {
		t.Error(err)
	}
}

// powerless is a log whose disk is copied while it is written.
type powerless struct {
	disk  *vfs.MemFS
	rng   *rand.Rand
	store *esdbstore.Store

	mu           sync.Mutex
	acknowledged map[string]event.Revision
	total        event.Revision
	seen         []event.Recorded // by a subscriber
}

func (p *powerless) append(ctx context.Context, stream string) {
	for after := event.Revision(0); ; {
		events := storetest.Events(2)
		events[0].Data = []byte(`"` + strings.Repeat("x", 2000) + `"`)
		if p.store.Append(ctx, stream, after, events) != nil {
			return
		}
		after += 2
		p.mu.Lock()
		p.acknowledged[stream] = after
		p.total += 2
		p.mu.Unlock()
	}
}

func (p *powerless) follow(ctx context.Context) {
	for n, err := range p.store.Follow(ctx, 0) {
		if err != nil {
			return
		}
		if n.Event.Name != "" {
			p.mu.Lock()
			p.seen = append(p.seen, n.Event)
			p.mu.Unlock()
		}
	}
}

// crash waits for some more appends and gives a copy of the disk, with what is
// known of it.
func (p *powerless) crash(ctx context.Context, t *testing.T, percent int) (copied *vfs.MemFS, known map[string]event.Revision, seen []event.Recorded) {
	t.Helper()
	p.mu.Lock()
	enough := p.total + event.Revision(100+p.rng.IntN(200))
	p.mu.Unlock()
	until(t, "some more are acknowledged", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		known, seen = maps.Clone(p.acknowledged), slices.Clone(p.seen)
		return p.total >= enough || ctx.Err() != nil
	})
	return p.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: p.rng}), known, seen
}

func checkCopy(t *testing.T, disk *vfs.MemFS, known map[string]event.Revision, seen []event.Recorded) {
	t.Helper()
	r := start(t, esdbnode.Options{Dir: "var/lib/log", FS: disk})
	defer r.stop()
	store := openStore(t, r.uri)
	at := map[uint64]string{}
	got := map[string]event.Revision{}
	for e, err := range store.All(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		at[e.Position] = e.ID
		if got[e.Stream]++; e.Revision != got[e.Stream] || e.Position != uint64(len(at)) {
			t.Fatalf("%s: revision %d where %d is next, at position %d of %d", e.Stream, e.Revision, got[e.Stream], e.Position, len(at))
		}
	}
	for stream, revisions := range known {
		if n := got[stream]; n < revisions || n%2 != 0 {
			t.Fatalf("%s: %d events were acknowledged, two at a time, %d are there", stream, revisions, n)
		}
	}
	for _, e := range seen {
		if at[e.Position] != e.ID {
			t.Fatalf("a subscriber saw %s at %d, where now is %q", e.ID, e.Position, at[e.Position])
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
	c := &crash{t: t, dir: t.TempDir(), socket: filepath.Join(t.TempDir(), "n.sock")}
	known := &storetest.Killed{Rand: rand.New(rand.NewPCG(seed, 0))}
	var store *esdbstore.Store
	c.inOwnProcess(func() { store = openStore(t, "unix://"+c.socket) })
	for range rounds {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		known.Round(ctx, store, 8, c.startChild(ctx))
		c.inOwnProcess(func() {
			events, unanswered := known.Check(ctx, t, store, true)
			t.Logf("%d events, %d appends without an answer", events, unanswered)
		})
		cancel()
	}
	c.inOwnProcess(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A crash is a folder with a log whose process is killed again and again.
type crash struct {
	t           *testing.T
	dir, socket string
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
