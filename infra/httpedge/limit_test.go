package httpedge_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"

	"cartwright/infra/httpedge"
)

// A counter is a limiter that lets each key through a number of times.
type counter struct {
	mu   sync.Mutex
	most int
	seen map[string]int
	err  error
}

func (l *counter) Allow(_ context.Context, key string) (bool, time.Duration, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[key]++
	return l.seen[key] <= l.most, 1500 * time.Millisecond, l.err
}

// limited is an engine whose routes are limited.
func limited(t *testing.T, l httpedge.Limits) http.Handler {
	t.Helper()
	r := engine(t, httpedge.Config{})
	r.Use(httpedge.Limit(l))
	r.GET("/things", func(c *gin.Context) { c.Status(http.StatusNoContent) })
	return r
}

func TestWhoAsksTooOftenIsRefused(t *testing.T) {
	l := &counter{most: 2, seen: map[string]int{}}
	r := limited(t, httpedge.Limits{Log: slog.New(slog.DiscardHandler), Limiter: l})
	for range l.most {
		if w := get(t, r, "/things"); w.Code != http.StatusNoContent {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
	}
	w := get(t, r, "/things")
	if w.Code != http.StatusTooManyRequests || slug(t, w) != "rate_limited" || w.Header().Get("Retry-After") != "2" {
		t.Errorf("got %d %v %s", w.Code, w.Header(), w.Body)
	}
	for range 5 {
		if w := get(t, r, "/healthz"); w.Code != http.StatusOK {
			t.Errorf("a probe: %d", w.Code)
		}
	}
}

func TestCallersAreCountedApart(t *testing.T) {
	l := &counter{most: 100, seen: map[string]int{}}
	r := limited(t, httpedge.Limits{
		Log: slog.New(slog.DiscardHandler), Limiter: l,
		Principal: func(c *gin.Context) string { return c.GetHeader("Who") },
	})
	for _, from := range []struct{ address, who string }{
		{"192.0.2.1:1111", ""},
		{"192.0.2.1:2222", ""},
		{"192.0.2.2:1111", ""},
		{"192.0.2.2:1111", "ann"},
		{"192.0.2.1:1111", "ann"},
		{"[2001:db8:1:2::3]:1111", ""},
		{"[2001:db8:1:2:ffff::4]:1111", ""},
		{"[2001:db8:1:3::3]:1111", ""},
	} {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/things", http.NoBody)
		req.RemoteAddr = from.address
		req.Header.Set("Who", from.who)
		req.Header.Set("X-Forwarded-For", "198.51.100.7") // which anybody can write
		r.ServeHTTP(httptest.NewRecorder(), req)
	}
	want := map[string]int{
		"address:192.0.2.1": 2, "address:192.0.2.2": 1, "principal:ann": 2,
		"address:2001:db8:1:2::/64": 2, "address:2001:db8:1:3::/64": 1,
	}
	if fmt.Sprint(l.seen) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", l.seen, want)
	}
}

func TestAFailingLimiterLetsThrough(t *testing.T) {
	var said bytes.Buffer
	l := &counter{seen: map[string]int{}}
	r := limited(t, httpedge.Limits{Log: slog.New(slog.NewTextHandler(&said, nil)), Limiter: l})
	for range 2 {
		l.err = errors.New("no redis")
		for range 3 {
			if w := get(t, r, "/things"); w.Code != http.StatusNoContent {
				t.Errorf("got %d %s", w.Code, w.Body)
			}
		}
		l.err = nil
		for range 3 {
			if w := get(t, r, "/things"); w.Code != http.StatusTooManyRequests {
				t.Errorf("got %d %s", w.Code, w.Body)
			}
		}
	}
	for _, text := range []string{"not limited", "limited again"} {
		if got := strings.Count(said.String(), text); got != 2 {
			t.Errorf("%q was said %d times:\n%s", text, got, &said)
		}
	}
}

func TestBucketsFillUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := httpedge.NewBuckets(2, 3, 100)
		if err != nil {
			t.Fatal(err)
		}
		allow := func(key string, want bool, again time.Duration) {
			t.Helper()
			ok, wait, err := b.Allow(t.Context(), key)
			if err != nil || ok != want || wait != again {
				t.Errorf("%s: %v, %v, %v", key, ok, wait, err)
			}
		}
		for range 3 {
			allow("a", true, 0)
		}
		allow("a", false, 500*time.Millisecond)
		allow("a", false, 500*time.Millisecond) // who is refused takes nothing
		allow("b", true, 0)
		time.Sleep(500 * time.Millisecond)
		allow("a", true, 0)
		allow("a", false, 500*time.Millisecond)
		time.Sleep(time.Hour)
		for range 3 {
			allow("a", true, 0)
		}
		allow("a", false, 500*time.Millisecond)
	})
}

// A key in use is kept, however many others come.
func TestBucketsAreBounded(t *testing.T) {
	b, err := httpedge.NewBuckets(1e-6, 1, 10)
	if err != nil {
		t.Fatal(err)
	}
	first := true
	for i := range 1000 {
		if ok, _, err := b.Allow(t.Context(), "in use"); err != nil || ok != first {
			t.Fatalf("round %d: %v, %v", i, ok, err)
		}
		first = false
		if ok, _, err := b.Allow(t.Context(), fmt.Sprintf("passer-by %d", i)); err != nil || !ok {
			t.Fatalf("passer-by %d: %v, %v", i, ok, err)
		}
	}
	if ok, _, err := b.Allow(t.Context(), "passer-by 0"); err != nil || !ok {
		t.Errorf("a key that was long forgotten: %v, %v", ok, err)
	}
	if ok, _, err := b.Allow(t.Context(), "passer-by 999"); err != nil || ok {
		t.Errorf("one that was here just now: %v, %v", ok, err)
	}
	for _, bad := range [][3]float64{{0, 1, 1}, {1, 0, 1}, {1, 1, 0}, {-1, 1, 1}} {
		if _, err := httpedge.NewBuckets(bad[0], int(bad[1]), int(bad[2])); err == nil {
			t.Errorf("a limiter of %v", bad)
		}
	}
}

func BenchmarkBuckets(b *testing.B) {
	b.Run("keys=1000", func(b *testing.B) {
		buckets, err := httpedge.NewBuckets(1e6, 100, 10_000)
		if err != nil {
			b.Fatal(err)
		}
		keys := make([]string, 1000)
		for i := range keys {
			keys[i] = fmt.Sprintf("address:192.0.2.%d", i)
		}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, _, err := buckets.Allow(b.Context(), keys[i%len(keys)]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
