//go:build integration

package redisviews_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"cartwright/infra/redisviews"
	"cartwright/infra/services"
	"cartwright/infra/viewtest"
	"cartwright/projections"
)

// ways are the ways into the servers that run for all tests.
func ways(tb testing.TB) map[string]place {
	tb.Helper()
	e := services.Read(tb)
	plain, cluster, secure := quiet(e.Redis), quiet(e.RedisCluster...), quiet(e.RedisSecure)
	cluster.Cluster = true
	secure.Username, secure.Password, secure.TLS = e.User, e.Password, trust(tb, e.CA)
	return map[string]place{"plain": {plain}, "cluster": {cluster}, "secure": {secure}}
}

func trust(tb testing.TB, file string) *tls.Config {
	tb.Helper()
	pem, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		tb.Fatalf("%s has no certificate", file)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// raw speaks to a server past the package.
func raw(tb testing.TB, cfg redisviews.Config) redis.UniversalClient {
	tb.Helper()
	c := redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs: cfg.Addrs, Username: cfg.Username, Password: cfg.Password, TLSConfig: cfg.TLS, IsClusterMode: cfg.Cluster,
	})
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return c
}

// emptied gives the settings for a namespace that is gone after the test.
func (p place) emptied(tb testing.TB, name string) redisviews.Config {
	tb.Helper()
	cfg := p.in(name)
	c := raw(tb, cfg)
	tb.Cleanup(func() {
		keys, err := c.Keys(context.WithoutCancel(tb.Context()), cfg.Namespace+":*").Result()
		for _, key := range keys {
			err = errors.Join(err, c.Unlink(context.WithoutCancel(tb.Context()), key).Err())
		}
		if err != nil {
			tb.Errorf("remove %s: %v", cfg.Namespace, err)
		}
	})
	return cfg
}

func TestConformanceOnRealServers(t *testing.T) {
	for name, p := range ways(t) {
		t.Run(name, func(t *testing.T) {
			viewtest.Run(t, func(t *testing.T, dir string) viewtest.Store[projections.Order] {
				t.Helper()
				return store(t, p.emptied(t, dir))
			}, viewtest.SampleOrder)
			viewtest.RunBuyers(t, func(t *testing.T) viewtest.Buyers {
				t.Helper()
				x := newIndex()
				b := viewed(t, opened(t, p.emptied(t, t.TempDir())), redisviews.BuyersConfig{Index: x, Newest: 7})
				return viewtest.Buyers{Views: both{x, b.Live()}, List: b}
			})
		})
	}
}

func TestToolsOnRealServers(t *testing.T) {
	for name, p := range ways(t) {
		t.Run(name, func(t *testing.T) {
			pass := func(d time.Duration) { <-time.After(d) }
			keysKept(t, p.emptied(t, t.TempDir()), pass)
			locksKept(t, p.emptied(t, t.TempDir()), pass)
			l, err := opened(t, p.emptied(t, t.TempDir())).Limiter("{a}", 10, 3)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 4 {
				ok, wait, err := l.Allow(t.Context(), "x}y{")
				if err != nil || ok != (i < 3) || !ok && (wait <= 0 || wait > 100*time.Millisecond) {
					t.Errorf("%d: %v, %v, %v", i, ok, wait, err)
				}
			}
		})
	}
}

func TestALoginThatIsWrongIsNotTold(t *testing.T) {
	p := ways(t)["secure"]
	p.cfg.Password = "hunter2"
	db := opened(t, p.cfg)
	err := db.Ping(t.Context())
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Errorf("ping: %v", err)
	}
	p.cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if err := opened(t, p.cfg).Ping(t.Context()); !errors.Is(err, projections.ErrUnavailable) {
		t.Errorf("ping one whose certificate nobody vouches for: %v", err)
	}
}

// A redisServer is one that a test has to itself.
type redisServer struct {
	t    *testing.T
	dir  string
	port string
	args []string
	cmd  *exec.Cmd
}

// serve starts a server in a folder of its own.
func serve(t *testing.T, args ...string) *redisServer {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err = errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	s := &redisServer{t: t, dir: t.TempDir(), port: port, args: args}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *redisServer) addr() string { return "127.0.0.1:" + s.port }

func (s *redisServer) start() {
	s.t.Helper()
	args := append([]string{"--port", s.port, "--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--appendonly", "no"}, s.args...)
	s.cmd = exec.Command("redis-server", args...) //nolint:noctx // it is killed by its id
	s.cmd.Stdout = io.Discard
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("start redis-server: %v", err)
	}
	c := raw(s.t, quiet(s.addr()))
	eventually(s.t, "redis-server answers", func() bool { return c.Ping(s.t.Context()).Err() == nil })
}

func (s *redisServer) signal(what syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(what); err != nil {
		s.t.Errorf("signal redis-server: %v", err)
	}
}

// kill ends the server as a loss of power would.
func (s *redisServer) kill() {
	if s.cmd == nil {
		return
	}
	s.signal(syscall.SIGKILL)
	_ = s.cmd.Wait() // it was killed
	s.cmd = nil
}

// impatient are settings as they are in production.
func impatient(addr string) redisviews.Config {
	cfg := quiet(addr)
	cfg.Timeout = 0
	return cfg
}

func TestAFlushedRedisNeverAnswersWithLess(t *testing.T) {
	for name, cluster := range map[string]bool{"plain": false, "cluster": true} {
		t.Run(name, func(t *testing.T) {
			var args []string
			if cluster {
				args = []string{"--cluster-enabled", "yes"}
			}
			s := serve(t, args...)
			c := raw(t, quiet(s.addr()))
			if cluster {
				if err := c.Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", 0, 16383).Err(); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the cluster is up", func() bool {
					info, err := c.ClusterInfo(t.Context()).Result()
					return err == nil && strings.Contains(info, "cluster_state:ok")
				})
			}
			cfg := quiet(s.addr())
			cfg.Cluster = cluster
			lossy{cfg: cfg, losses: 20, strict: true, lose: func(n int) { lose(t, c, n) }}.run(t)
		})
	}
}

// lose lets a server forget everything, or some of it.
func lose(t *testing.T, c redis.UniversalClient, n int) {
	t.Helper()
	var err error
	if n%2 == 0 {
		err = c.FlushAll(t.Context()).Err()
	}
	for range 50 {
		key, again := c.RandomKey(t.Context()).Result()
		if errors.Is(again, redis.Nil) {
			break
		}
		err = errors.Join(err, again, c.Del(t.Context(), key).Err())
	}
	if err != nil {
		t.Errorf("lose: %v", err)
	}
}

// Now and then it comes back with what it had when it was killed before.
func TestARedisThatIsKilledNeverAnswersWithLess(t *testing.T) {
	s := serve(t)
	c := raw(t, quiet(s.addr()))
	lossy{cfg: quiet(s.addr()), losses: 3, strict: true, settle: 2500 * time.Millisecond, lose: func(n int) {
		if n%2 == 0 {
			if err := c.Save(t.Context()).Err(); err != nil {
				t.Errorf("save: %v", err)
			}
			<-time.After(50 * time.Millisecond)
		}
		s.kill()
		<-time.After(time.Duration(n%3) * 50 * time.Millisecond)
		s.start()
		<-time.After(3 * time.Second)
	}}.run(t)
}

func TestARedisThatIsSlowEndsWithEverything(t *testing.T) {
	s := serve(t)
	lossy{cfg: impatient(s.addr()), losses: 5, lose: func(n int) {
		s.signal(syscall.SIGSTOP)
		<-time.After(time.Duration(100+n%3*400) * time.Millisecond)
		s.signal(syscall.SIGCONT)
		<-time.After(300 * time.Millisecond)
	}}.run(t)
}

func TestARedisThatComesBackWithAnOlderSnapshotIsTakenForFlushed(t *testing.T) {
	s, x := serve(t), newIndex()
	c := raw(t, quiet(s.addr()))
	cfg := redisviews.BuyersConfig{Index: x}
	writer, reader := viewed(t, opened(t, impatient(s.addr())), cfg), viewed(t, opened(t, impatient(s.addr())), cfg)
	first, paid, more := order(t, "ann", 1, ""), order(t, "ann", 1, "paid"), order(t, "ann", 2, "")
	put(t, both{x, writer.Live()}, first)
	listed(t, reader, "ann", 5, first)
	if err := c.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	put(t, both{x, writer.Live()}, paid, more)
	listed(t, reader, "ann", 5, more, paid)
	s.kill()
	s.start()
	if n, err := c.Exists(t.Context(), "cartwright:{buyers}:lineage").Result(); n != 1 || err != nil {
		t.Fatalf("it came back without its data: %v", err)
	}
	listed(t, reader, "ann", 5, more, paid)
	at(t, reader, first.Stream, paid.Revision)
	eventually(t, "the cache is used again", func() bool {
		gets, lists := x.times("get"), x.times("orders")
		put(t, both{x, writer.Live()}, order(t, "ann", 1, "shipped"))
		listed(t, reader, "ann", 5, more, order(t, "ann", 1, "shipped"))
		return x.times("get") == gets && x.times("orders") == lists
	})
}

// What a process holds for new must not be older than what another was told.
func TestAfterAKillEveryProcessIsServedByTheCacheAgain(t *testing.T) {
	s, x := serve(t), newIndex()
	var all []*redisviews.Buyers
	for range 3 {
		all = append(all, viewed(t, opened(t, impatient(s.addr())), redisviews.BuyersConfig{Index: x, Beat: 100 * time.Millisecond}))
	}
	d := order(t, "ann", 1, "")
	for _, b := range all {
		put(t, both{x, b.Live()}, d)
	}
	s.kill()
	for i, b := range all {
		put(t, both{x, b.Live()}, order(t, fmt.Sprintf("away-%d", i), i, ""))
		at(t, b, d.Stream, d.Revision)
	}
	s.start()
	for _, b := range all {
		eventually(t, "the cache answers", func() bool {
			gets := x.times("get")
			at(t, b, d.Stream, d.Revision)
			return x.times("get") == gets
		})
	}
	number := all[0].Live().Number()
	for _, b := range all {
		eventually(t, "all agree", func() bool {
			at(t, b, d.Stream, d.Revision)
			number = max(number, b.Live().Number())
			return b.Live().Number() == number
		})
	}
}

func TestAFullRedisIsReadAround(t *testing.T) {
	s, x := serve(t), newIndex()
	c := raw(t, quiet(s.addr()))
	b := viewed(t, opened(t, impatient(s.addr())), redisviews.BuyersConfig{Index: x, Beat: 50 * time.Millisecond})
	d, paid := order(t, "ann", 1, ""), order(t, "ann", 1, "paid")
	put(t, both{x, b.Live()}, d)
	listed(t, b, "ann", 5, d)
	if err := errors.Join(c.ConfigSet(t.Context(), "maxmemory-policy", "noeviction").Err(), c.ConfigSet(t.Context(), "maxmemory", "1").Err()); err != nil {
		t.Fatal(err)
	}
	put(t, both{x, b.Live()}, paid)
	at(t, b, d.Stream, paid.Revision)
	listed(t, b, "ann", 5, paid)
	if err := c.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cache answers", func() bool {
		gets, lists := x.times("get"), x.times("orders")
		at(t, b, d.Stream, paid.Revision)
		listed(t, b, "ann", 5, paid)
		return x.times("get") == gets && x.times("orders") == lists
	})
}
