//go:build integration

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cartwright/infra/services"
)

// A cluster is the program in many processes, on real servers and on one log.
type cluster struct {
	tb       testing.TB
	node     *server // has the event log
	settings []string
	key      string
}

// newCluster starts the log. Changes are settings that differ from the world's.
func newCluster(tb testing.TB, env services.Env, changes ...string) *cluster {
	tb.Helper()
	data := tb.TempDir()
	ns := namespace(data)
	c := &cluster{tb: tb, key: filepath.Join(tb.TempDir(), "master.key")}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	if err := os.WriteFile(c.key, secret, 0o600); err != nil {
		tb.Fatal(err)
	}
	c.node = startPart(tb, "node", data)
	socket, err := ownerSocket(data, "node.sock")
	if err != nil {
		tb.Fatal(err)
	}
	c.settings = append(settings(ns, env), "CARTWRIGHT_EVENTSTORE=unix://"+socket, "CARTWRIGHT_MASTER_KEY_FILE="+c.key)
	c.settings = append(c.settings, changes...)
	return c
}

// start starts a part in a process, and a folder, of its own.
func (c *cluster) start(part string) *server {
	c.tb.Helper()
	data := c.tb.TempDir()
	line := []string{part, "--data", data}
	if part == "write" || part == "read" || part == "serve" {
		line = append(line, "--listen", "127.0.0.1:0")
	}
	cmd := program(context.WithoutCancel(c.tb.Context()), line...)
	cmd.Env = append(cmd.Env, c.settings...)
	return start(c.tb, data, cmd)
}

// tool runs a command on the cluster.
func (c *cluster) tool(args ...string) (string, int) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(c.tb.Context(), 3*time.Minute)
	defer cancel()
	cmd := program(ctx, append(args, "--data", c.tb.TempDir())...)
	cmd.Env = append(cmd.Env, c.settings...)
	return finish(c.tb, cmd)
}

// verified compares the views with the log until they are equal: what a cache
// had of a writer that was killed goes when he is missed, after half a minute.
func (c *cluster) verified() {
	c.tb.Helper()
	took := within(c.tb, "the views are what the log says", func() bool {
		_, code := c.tool("verify")
		return code == 0
	})
	c.tb.Logf("verify: no differences after %s", took.Round(time.Millisecond))
}

// A load is buyers who go on placing and paying orders, whatever happens.
type load struct {
	tb      testing.TB
	writers []*server
	stop    context.CancelFunc
	working sync.WaitGroup
	next    atomic.Int64
	retried atomic.Int64

	mu   sync.Mutex
	ids  []string
	slow time.Duration // the longest a buyer waited for an answer
}

const (
	loadBuyers = 4
	loadPause  = 50 * time.Millisecond // two cores carry servers, tests and all
)

// startLoad begins a load on some writers, with goods and money for it.
func startLoad(tb testing.TB, writers ...*server) *load {
	tb.Helper()
	w := writers[0]
	w.offer("load", "seller-load", 10, 1_000_000)
	for b := range loadBuyers {
		id := fmt.Sprintf("loader-%d", b)
		w.ask(http.StatusCreated, "POST", "/v1/accounts", obj{"account_id": id, "currency": "BRL"})
		w.ask(http.StatusCreated, "POST", "/v1/accounts/"+id+"/deposits", obj{"amount": brl(1_000_000)}, key("fund-"+id))
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	l := &load{tb: tb, writers: writers, stop: cancel}
	for b := range loadBuyers {
		l.working.Go(func() {
			for ctx.Err() == nil {
				l.buy(ctx, fmt.Sprintf("loader-%d", b))
				select {
				case <-time.After(loadPause):
				case <-ctx.Done():
				}
			}
		})
	}
	tb.Cleanup(func() { l.end() })
	return l
}

// buy places an order and pays for it.
func (l *load) buy(ctx context.Context, buyer string) {
	n := l.next.Add(1)
	name := fmt.Sprintf("%s-%d", buyer, n)
	begun := time.Now()
	a, ok := l.send(ctx, "/v1/order-ids", obj{"buyer_id": buyer}, "i"+name)
	if !ok {
		return
	}
	id, _ := a.body["order_id"].(string)
	if _, ok = l.send(ctx, "/v1/checkouts", checkoutOf(id, buyer, "load"), "c"+name); !ok {
		return
	}
	l.mu.Lock()
	l.ids = append(l.ids, id)
	l.slow = max(l.slow, time.Since(begun))
	l.mu.Unlock()
	l.send(ctx, "/v1/checkouts/"+id+"/pay", nil, "p"+name)
}

// send asks one writer after the other until one accepts.
func (l *load) send(ctx context.Context, path string, body any, k string) (answer, bool) {
	for at := int(l.next.Load()); ; at++ {
		a, err := l.writers[at%len(l.writers)].try("POST", path, body, key(k)) //nolint:contextcheck // what was begun is finished
		if err == nil && a.status/100 == 2 {
			return a, true
		}
		if err == nil && a.status != http.StatusServiceUnavailable {
			l.tb.Errorf("%s: %d %s", path, a.status, a.raw)
			return a, false
		}
		l.retried.Add(1)
		select {
		case <-ctx.Done():
			return a, false
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (l *load) end() {
	l.stop()
	l.working.Wait()
}

// accepted are the orders so far.
func (l *load) accepted() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.ids)
}

// grows waits until the load has had so many more orders accepted.
func (l *load) grows(by int) {
	l.tb.Helper()
	want := len(l.accepted()) + by
	within(l.tb, fmt.Sprintf("%d orders are accepted", want), func() bool { return len(l.accepted()) >= want })
}

// within is eventually with patience of its own.
func within(tb testing.TB, what string, so func() bool) time.Duration {
	tb.Helper()
	begun := time.Now()
	for time.Since(begun) < viewPatience {
		if so() {
			return time.Since(begun)
		}
		time.Sleep(10 * time.Millisecond)
	}
	tb.Fatalf("within %s it did not come to be: %s", viewPatience, what)
	return 0
}

// listed tells whether a reader's lists show an order.
func (s *server) listed(id string) bool {
	a, err := s.try("GET", "/v1/sellers/seller-load/orders?q="+id, nil)
	return err == nil && a.status == http.StatusOK && strings.Contains(a.raw, id)
}

// quietOrder places an order of a buyer who places no others meanwhile, and
// leaves its token.
func (s *server) quietOrder(buyer string) (id string) {
	s.tb.Helper()
	id = s.orderID(buyer)
	a := s.ask(http.StatusCreated, "POST", "/v1/checkouts", checkoutOf(id, buyer, "load"), key("quiet-"+id))
	s.token = a.head.Get("Cartwright-Token")
	return id
}

// shown waits until an order accepted from now on is in the lists.
func (l *load) shown(r *server) time.Duration {
	l.tb.Helper()
	known := len(l.accepted())
	within(l.tb, "an order is accepted", func() bool { return len(l.accepted()) > known })
	id := l.accepted()[known]
	return within(l.tb, "order "+id+" is listed", func() bool { return r.listed(id) })
}

// complete holds what was accepted against what there is.
func (l *load) complete(c *cluster, r *server) {
	l.tb.Helper()
	l.end()
	ids := l.accepted()
	out, code := c.tool("events", "order", "--json")
	if code != 0 {
		l.tb.Fatalf("events: exit %d", code)
	}
	placed := map[string]int{}
	for line := range strings.Lines(out) {
		var e struct{ Stream, Name string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			l.tb.Fatalf("%v: %s", err, line)
		}
		if e.Name == "order.placed" {
			placed[strings.TrimPrefix(e.Stream, "order-")]++
		}
	}
	for _, id := range ids {
		if placed[id] != 1 {
			l.tb.Errorf("order %s was accepted and is placed %d times", id, placed[id])
		}
	}
	within(l.tb, "everything is in the lists", func() bool {
		a, err := r.try("GET", "/v1/sellers/seller-load/summary", nil)
		return err == nil && a.status == http.StatusOK && number(a.body["orders"]) == int64(len(placed))
	})
	c.verified()
	l.tb.Logf("%d orders accepted, none lost; longest wait of a buyer %s, %d answers asked for again", len(ids), l.slow.Round(time.Millisecond), l.retried.Load())
}

// Two of everything, and any one may die.
func TestAnyProcessOfAClusterMayDie(t *testing.T) {
	c := newCluster(t, world)
	writers := []*server{c.start("write"), c.start("write")}
	readers := []*server{c.start("read"), c.start("read")}
	projectors := []*server{c.start("project"), c.start("project"), c.start("project")}
	relays := []*server{c.start("relay"), c.start("relay")}
	processes := []*server{c.start("process"), c.start("process")}
	l := startLoad(t, writers...)
	l.grows(50)
	t.Logf("an order is listed after %s with everything up", l.shown(readers[0]).Round(time.Millisecond))
	for _, round := range []struct {
		what string
		one  *server
		by   string // the part that comes back in its place
	}{
		{"projector", projectors[0], "project"},
		{"active relay", relays[0], "relay"},
		{"writer", writers[0], ""},
		{"process", processes[0], "process"},
		{"reader", readers[1], ""},
		{"another projector", projectors[1], ""},
	} {
		round.one.kill()
		l.grows(20)
		t.Logf("%s killed: the next order is listed after %s", round.what, l.shown(readers[0]).Round(time.Millisecond))
		if round.by != "" {
			c.start(round.by)
		}
	}
	// All views are built anew under load, by a process that projects nothing.
	if out, code := c.tool("replay", "--view", "all"); code != 0 {
		t.Errorf("replay: exit %d: %s", code, out)
	}
	t.Logf("every view replayed: the next order is listed after %s", l.shown(readers[0]).Round(time.Millisecond))
	l.complete(c, readers[0])
	paid(t, readers[0])
}

// paid waits until the processes have carried every paid order to its stock.
func paid(t *testing.T, r *server) {
	t.Helper()
	within(t, "no stock is on hold", func() bool {
		a, err := r.try("GET", "/v1/inventory/load", nil)
		held := number(a.body["held"])
		return err == nil && a.status == http.StatusOK && held <= loadBuyers // who was stopped before paying
	})
}

// outage is how long a server is away: longer by hand than in CI.
func outage() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("CARTWRIGHT_OUTAGE")); err == nil {
		return d
	}
	return 8 * time.Second
}

func TestKafkaIsAwayAndComesBack(t *testing.T) {
	own := services.Start(t, "kafka")
	env := world
	env.Kafka = own.Kafka
	c := newCluster(t, env)
	s := c.start("serve")
	l := startLoad(t, s)
	l.grows(30)
	first := l.accepted()[0]
	within(t, "the first order is listed", func() bool { return s.listed(first) })
	own.Kill(t, "kafka")
	begun := time.Now()
	for time.Since(begun) < outage() {
		l.grows(10) // commands go on
	}
	s.ask(http.StatusOK, "GET", "/v1/orders/"+l.accepted()[len(l.accepted())-1], nil)
	if !s.listed(first) {
		t.Error("what was listed before is not listed any more")
	}
	own.Restart(t, "kafka")
	t.Logf("after %s without Kafka the next order is listed after %s", outage(), l.shown(s).Round(time.Millisecond))

	// A rebalance, and the broker gone in the middle of it.
	second := c.start("project")
	own.Kill(t, "kafka")
	l.grows(10)
	own.Restart(t, "kafka")
	l.shown(s)
	second.kill()
	l.complete(c, s)
}

func TestElasticsearchRefusesIsDeadAndComesBack(t *testing.T) {
	proxy := newHTTPProxy(t, world.Elasticsearch[0])
	c := newCluster(t, world, "CARTWRIGHT_ELASTICSEARCH="+proxy.url)
	s := c.start("serve")
	l := startLoad(t, s)
	l.grows(30)
	l.shown(s)
	mine := s.quietOrder("quiet")
	within(t, "Redis has the quiet buyer's list", func() bool {
		s.ask(http.StatusOK, "GET", "/v1/buyers/quiet/orders", nil)
		proxy.mode.Store(dead)
		defer proxy.mode.Store(0)
		a, err := s.try("GET", "/v1/buyers/quiet/orders", nil)
		return err == nil && a.status == http.StatusOK && strings.Contains(a.raw, mine)
	})
	for _, mode := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable, dead, half} {
		proxy.mode.Store(int64(mode))
		l.grows(30) // commands go on
		newest := l.accepted()[len(l.accepted())-1]
		s.ask(http.StatusOK, "GET", "/v1/orders/"+newest, nil)
		if mode != half {
			a := s.ask(http.StatusServiceUnavailable, "GET", "/v1/sellers/seller-load/orders", nil)
			if a.slug() != "views_unavailable" || a.head.Get("Retry-After") == "" {
				t.Errorf("mode %d: %s, Retry-After %q", mode, a.raw, a.head.Get("Retry-After"))
			}
		}
		if a := s.ask(http.StatusOK, "GET", "/v1/buyers/quiet/orders", nil); !strings.Contains(a.raw, mine) {
			t.Errorf("mode %d: the buyer's newest orders, which Redis has: %s", mode, a.raw)
		}
	}
	proxy.mode.Store(0)
	t.Logf("Elasticsearch is back: the next order is listed after %s", l.shown(s).Round(time.Millisecond))
	l.complete(c, s)
}

func TestRedisIsFlushedSlowAndKilled(t *testing.T) {
	own := services.Start(t, "redis")
	env := world
	slow, address := newTCPProxy(t, own.Redis)
	env.Redis = address
	c := newCluster(t, env)
	s, apart := c.start("serve"), c.start("project")
	l := startLoad(t, s)
	l.grows(30)
	check := func(when string) {
		t.Helper()
		id := s.quietOrder("quiet")
		begun := time.Now()
		list, err := s.patient("/v1/buyers/quiet/orders", "Cartwright-Token: "+s.token)
		if err != nil || !strings.Contains(list.raw, id) {
			t.Errorf("%s: a buyer does not find the order just placed: %v, %d", when, err, list.status)
		}
		t.Logf("%s: a buyer's own order is listed after %s", when, time.Since(begun).Round(time.Millisecond))
	}
	check("Redis is well")
	flush(t, own.Redis)
	check("Redis was flushed")
	slow("500")
	l.grows(20)
	check("Redis is slow")
	slow("")
	own.Kill(t, "redis")
	l.grows(20)
	check("Redis is dead")
	own.Restart(t, "redis")
	l.grows(20)
	check("Redis is back")
	own.Pause(t, "redis")
	l.grows(20)
	check("Redis hangs")
	own.Resume(t, "redis")
	apart.kill()
	l.shown(s)
	l.complete(c, s)
	check("all is over")
}
