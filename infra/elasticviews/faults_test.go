package elasticviews_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cartwright/infra/elasticviews"
	"cartwright/infra/viewtest"
	"cartwright/projections"
)

type orderDoc = projections.Doc[projections.Order]

var noon = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

// sample is the n-th order of buyer b from seller s.
func sample(tb testing.TB, n int, title string) orderDoc {
	tb.Helper()
	return viewtest.Life{
		Number: n, Buyer: "b", Seller: "s", Currency: "CNY", Titles: []string{title}, Price: 5, Quantity: 2, Placed: noon,
	}.Doc(tb)
}

// heavy is an order with so many bytes in it.
func heavy(tb testing.TB, n, size int) orderDoc {
	tb.Helper()
	doc := sample(tb, n, "x")
	doc.Body.State.Address = make([]byte, size)
	return doc
}

// faulty opens orders on a fake and puts what interferes with it between.
func faulty(t *testing.T, interfere func(w http.ResponseWriter, r *http.Request, body []byte) bool) (*fake, *elasticviews.Orders) {
	t.Helper()
	f := newFake()
	o, err := elasticviews.NewOrders(t.Context(), connect(t, f.config(t)))
	if err != nil {
		t.Fatalf("open orders: %v", err)
	}
	f.before = interfere
	return f, o
}

// onBulk interferes with bulk requests, by their number.
func onBulk(interfere func(w http.ResponseWriter, n int, body []byte) bool) func(http.ResponseWriter, *http.Request, []byte) bool {
	var n atomic.Int32
	return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		return r.URL.Path == "/_bulk" && interfere(w, int(n.Add(1)), body)
	}
}

// An index that was made a moment ago, by whichever process, has no shard yet.
func TestAnIndexThatHasNoShardYetIsAskedAgain(t *testing.T) {
	var away atomic.Int32
	_, o := faulty(t, func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if !strings.HasSuffix(r.URL.Path, "/_mget") || away.Add(-1) < 0 {
			return false
		}
		_, _ = w.Write([]byte(`{"docs":[{"_id":"x","error":{"type":"no_shard_available_action_exception","reason":"not yet"}}]}`))
		return true
	})
	doc := sample(t, 1, "x")
	if err := o.Live().Put(t.Context(), []orderDoc{doc}); err != nil {
		t.Fatal(err)
	}
	away.Store(2)
	if got, err := o.Get(t.Context(), []string{doc.Stream}); err != nil || len(got) != 1 {
		t.Errorf("got %d documents, %v", len(got), err)
	}
	away.Store(100)
	if _, err := o.Get(t.Context(), []string{doc.Stream}); !errors.Is(err, projections.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsTurnedAwayIsSentAgain(t *testing.T) {
	for name, interfere := range map[string]func(w http.ResponseWriter, n int, body []byte) bool{
		"by a 429": func(w http.ResponseWriter, n int, _ []byte) bool {
			if n%3 != 0 {
				http.Error(w, `{"error":{"type":"es_rejected_execution_exception","reason":"full"}}`, http.StatusTooManyRequests)
			}
			return n%3 != 0
		},
		"by a proxy's 503": func(w http.ResponseWriter, n int, _ []byte) bool {
			if n == 1 {
				http.Error(w, "<html>back soon</html>", http.StatusServiceUnavailable)
			}
			return n == 1
		},
		"by an answer that is cut short": func(w http.ResponseWriter, n int, _ []byte) bool {
			if n == 1 {
				_, _ = w.Write([]byte(`{"items":[{"index":{"sta`))
			}
			return n == 1
		},
		"by a connection that is closed": func(_ http.ResponseWriter, n int, _ []byte) bool {
			if n == 1 {
				panic(http.ErrAbortHandler)
			}
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, o := faulty(t, onBulk(interfere))
			docs := []orderDoc{sample(t, 1, "x"), sample(t, 2, "y")}
			if err := o.Live().Put(t.Context(), docs); err != nil {
				t.Fatalf("put: %v", err)
			}
			want := []string{docs[0].Stream, docs[1].Stream}
			if diff := cmp.Diff(want, f.has("t-orders-1")); diff != "" {
				t.Errorf("orders (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(want, f.has("t-sales-1")); diff != "" {
				t.Errorf("sales (-want +got):\n%s", diff)
			}
		})
	}
}

// rejecting answers a bulk request with a status for some of its documents, and
// 201 for the others, which are stored.
func rejecting(f *fake, w http.ResponseWriter, body []byte, status int, kind string, which func(id string) bool) bool {
	var items []any
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = bulkLines(body, func(action string, op fakeOp, source []byte) {
		if which(op.ID) {
			items = append(items, object{action: object{"status": status, "error": object{"type": kind, "reason": "no"}}})
			return
		}
		items = append(items, object{action: object{"status": f.write(action, op, source)}})
	})
	_ = json.NewEncoder(w).Encode(object{"errors": true, "items": items})
	return true
}

func TestOnlyTheItemsThatWereTurnedAwayAreSentAgain(t *testing.T) {
	var f *fake
	var o *elasticviews.Orders
	docs := []orderDoc{sample(t, 1, "x"), sample(t, 2, "y"), sample(t, 3, "z")}
	f, o = faulty(t, onBulk(func(w http.ResponseWriter, n int, body []byte) bool {
		return n == 1 && rejecting(f, w, body, 429, "es_rejected_execution_exception", func(id string) bool { return id == docs[1].Stream })
	}))
	if err := o.Live().Put(t.Context(), docs); err != nil {
		t.Fatalf("put: %v", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	again := f.bulks[len(f.bulks)-2]
	if diff := cmp.Diff([]string{"t-sales-1/" + docs[1].Stream}, again); diff != "" {
		t.Errorf("what was sent again (-want +got):\n%s", diff)
	}
}

func TestAServerThatStaysAwayIsUnavailable(t *testing.T) {
	status := func(code int) func(http.ResponseWriter, int, []byte) bool {
		return func(w http.ResponseWriter, _ int, _ []byte) bool {
			w.WriteHeader(code)
			return true
		}
	}
	for name, interfere := range map[string]func(http.ResponseWriter, int, []byte) bool{
		"429": status(429), "502": status(502), "503": status(503), "504": status(504), "500": status(500),
		"garbage": func(w http.ResponseWriter, _ int, _ []byte) bool {
			_, _ = w.Write([]byte("garbage"))
			return true
		},
		"too few items": func(w http.ResponseWriter, _ int, _ []byte) bool {
			_, _ = w.Write([]byte(`{"items":[]}`))
			return true
		},
		"items without a status": func(w http.ResponseWriter, _ int, _ []byte) bool {
			_, _ = w.Write([]byte(`{"items":[{"index":{}}]}`))
			return true
		},
		"closed connections": func(http.ResponseWriter, int, []byte) bool { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			f, o := faulty(t, onBulk(interfere))
			before := f.asked("POST /_bulk")
			err := o.Live().Put(t.Context(), []orderDoc{sample(t, 1, "x")})
			if !errors.Is(err, projections.ErrUnavailable) {
				t.Errorf("put: %v", err)
			}
			if n := f.asked("POST /_bulk") - before; n > 3 {
				t.Errorf("it was asked %d times", n)
			}
		})
	}
	t.Run("items", func(t *testing.T) {
		var f *fake
		var o *elasticviews.Orders
		bad := sample(t, 1, "x")
		f, o = faulty(t, onBulk(func(w http.ResponseWriter, _ int, body []byte) bool {
			return rejecting(f, w, body, 503, "unavailable_shards_exception", func(id string) bool { return id == bad.Stream })
		}))
		if err := o.Live().Put(t.Context(), []orderDoc{bad, sample(t, 2, "y")}); !errors.Is(err, projections.ErrUnavailable) {
			t.Errorf("put: %v", err)
		}
	})
	t.Run("refused connections", func(t *testing.T) {
		f := newFake()
		cfg := f.config(t)
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		cfg.Addresses = []string{"http://" + listener.Addr().String()}
		if err := listener.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := elasticviews.Open(t.Context(), cfg); !errors.Is(err, projections.ErrUnavailable) {
			t.Errorf("open: %v", err)
		}
	})
}

func TestWhatIsRefusedIsNamedAndTheOthersAreStored(t *testing.T) {
	var f *fake
	var o *elasticviews.Orders
	good, bad := sample(t, 1, "x"), sample(t, 2, "y")
	f, o = faulty(t, onBulk(func(w http.ResponseWriter, _ int, body []byte) bool {
		return rejecting(f, w, body, 400, "document_parsing_exception", func(id string) bool { return id == bad.Stream })
	}))
	err := o.Live().Put(t.Context(), []orderDoc{bad, good})
	refused, ok := errors.AsType[*projections.RefusedError](err)
	if !ok || len(refused.Docs) != 1 || refused.Docs[bad.Stream] == nil {
		t.Fatalf("put: %v", err)
	}
	// Its copy was refused, so the document itself must not be there either.
	for _, index := range []string{"t-sales-1", "t-orders-1"} {
		if diff := cmp.Diff([]string{good.Stream}, f.has(index)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", index, diff)
		}
	}
}

func TestAClosedIndexIsNotTheDocumentsFault(t *testing.T) {
	var f *fake
	var o *elasticviews.Orders
	f, o = faulty(t, onBulk(func(w http.ResponseWriter, _ int, body []byte) bool {
		return rejecting(f, w, body, 400, "index_closed_exception", func(string) bool { return true })
	}))
	err := o.Live().Put(t.Context(), []orderDoc{sample(t, 1, "x")})
	if _, refused := errors.AsType[*projections.RefusedError](err); err == nil || refused {
		t.Errorf("put: %v", err)
	}
}

func TestWhatLiesBesideADocumentIsNeverBehindIt(t *testing.T) {
	// The process is gone, or the shard is, between the copy and the document.
	doc := sample(t, 1, "x")
	broken := true
	f, o := faulty(t, func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		if r.URL.Path != "/_bulk" || !broken || !strings.Contains(string(body), "t-orders-1") {
			return false
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	if err := o.Live().Put(t.Context(), []orderDoc{doc}); !errors.Is(err, projections.ErrUnavailable) {
		t.Fatalf("put: %v", err)
	}
	if len(f.has("t-orders-1")) != 0 || len(f.has("t-sales-1")) != 1 {
		t.Errorf("orders %v, sales %v", f.has("t-orders-1"), f.has("t-sales-1"))
	}
	// Whoever repeats the batch finds nothing stored, and writes both.
	if docs, err := o.Get(t.Context(), []string{doc.Stream}); err != nil || len(docs) != 0 {
		t.Errorf("get: %v, %v", docs, err)
	}
	broken = false
	if err := o.Live().Put(t.Context(), []orderDoc{doc}); err != nil {
		t.Fatalf("put again: %v", err)
	}
	if len(f.has("t-orders-1")) != 1 || len(f.has("t-sales-1")) != 1 {
		t.Errorf("orders %v, sales %v", f.has("t-orders-1"), f.has("t-sales-1"))
	}
}

func TestABatchIsCutByItsBytes(t *testing.T) {
	const most = 8 << 20
	var largest atomic.Int64
	f, o := faulty(t, onBulk(func(_ http.ResponseWriter, _ int, body []byte) bool {
		largest.Store(max(largest.Load(), int64(len(body))))
		return false
	}))
	var docs []orderDoc
	for i := range 12 {
		docs = append(docs, heavy(t, i, 1<<19))
	}
	if err := o.Live().Put(t.Context(), docs); err != nil {
		t.Fatalf("put: %v", err)
	}
	if got := largest.Load(); got > most || got < most/2 {
		t.Errorf("the largest request had %d bytes", got)
	}
	if got := len(f.has("t-orders-1")); got != len(docs) {
		t.Errorf("%d of %d documents are there", got, len(docs))
	}
}

func TestARequestThatIsTooLargeIsSentInParts(t *testing.T) {
	small, huge := sample(t, 1, "x"), heavy(t, 2, 10_000)
	f, o := faulty(t, onBulk(func(w http.ResponseWriter, _ int, body []byte) bool {
		if len(body) < 9_000 {
			return false
		}
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return true
	}))
	err := o.Live().Put(t.Context(), []orderDoc{huge, small})
	refused, ok := errors.AsType[*projections.RefusedError](err)
	if !ok || len(refused.Docs) != 1 || refused.Docs[huge.Stream] == nil {
		t.Errorf("put: %v", err)
	}
	if diff := cmp.Diff([]string{small.Stream}, f.has("t-orders-1")); diff != "" {
		t.Errorf("orders (-want +got):\n%s", diff)
	}
}

func TestACallerThatGivesUpIsAnsweredAtOnce(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{}, 10)
	_, o := faulty(t, onBulk(func(http.ResponseWriter, int, []byte) bool {
		arrived <- struct{}{}
		<-release
		return true
	}))
	t.Cleanup(func() { close(release) })
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	err := o.Live().Put(ctx, []orderDoc{sample(t, 1, "x")})
	if !errors.Is(err, context.Canceled) || errors.Is(err, projections.ErrUnavailable) {
		t.Errorf("put: %v", err)
	}
}

func TestASilentServerIsUnavailable(t *testing.T) {
	release := make(chan struct{})
	f := newFake()
	cfg := f.config(t)
	t.Cleanup(func() { close(release) })
	cfg.Timeout = 50 * time.Millisecond
	o, err := elasticviews.NewOrders(t.Context(), connect(t, cfg))
	if err != nil {
		t.Fatal(err)
	}
	f.before = onBulk(func(http.ResponseWriter, int, []byte) bool {
		<-release
		return true
	})
	err = o.Live().Put(t.Context(), []orderDoc{sample(t, 1, "x")})
	if !errors.Is(err, projections.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("put: %v", err)
	}
}

func TestSecretsAreInNoError(t *testing.T) {
	const secret = "s3cr3t"
	f := newFake()
	f.before = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		http.Error(w, fmt.Sprintf(`{"error":{"type":"security_exception","reason":"no such user: %s %s"}}`, secret, r.Header.Get("Authorization")), http.StatusUnauthorized)
		return true
	}
	plain := f.config(t)
	with := func(change func(*elasticviews.Config)) elasticviews.Config {
		cfg := plain
		change(&cfg)
		return cfg
	}
	for name, cfg := range map[string]elasticviews.Config{
		"a password": with(func(c *elasticviews.Config) { c.User, c.Password = "u", secret }),
		"an API key": with(func(c *elasticviews.Config) { c.APIKey = secret }),
		"in an address": with(func(c *elasticviews.Config) {
			c.Addresses = []string{strings.Replace(c.Addresses[0], "//", "//u:"+secret+"@", 1)}
		}),
		"in a wrong address": with(func(c *elasticviews.Config) { c.Addresses = []string{"http://u:" + secret + "@host:port"} }),
		"in a dead address":  with(func(c *elasticviews.Config) { c.Addresses = []string{"http://u:" + secret + "@127.0.0.1:1"} }),
	} {
		if _, err := elasticviews.Open(t.Context(), cfg); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestItSpeaksTLSWithAPasswordOrAKey(t *testing.T) {
	f := newFake()
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	plain := f.config(t)
	plain.Addresses, plain.TLS = []string{server.URL}, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	for name, c := range map[string]struct {
		user, password, key, want string
	}{
		"password": {user: "u", password: "p", want: "Basic dTpw"},
		"key":      {key: "abc", want: "APIKey abc"},
	} {
		t.Run(name, func(t *testing.T) {
			f.before = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
				if strings.EqualFold(r.Header.Get("Authorization"), c.want) {
					return false
				}
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			cfg := plain
			cfg.User, cfg.Password, cfg.APIKey = c.user, c.password, c.key
			if err := connect(t, cfg).Ping(t.Context()); err != nil {
				t.Errorf("ping: %v", err)
			}
		})
	}
	strange := plain
	strange.TLS = nil
	// Waiting would not make it any better.
	if _, err := elasticviews.Open(t.Context(), strange); err == nil || errors.Is(err, projections.ErrUnavailable) {
		t.Errorf("a certificate that nobody vouches for: %v", err)
	}
}

func TestADeadHostIsLeftOut(t *testing.T) {
	f := newFake()
	cfg := f.config(t)
	cfg.Addresses = []string{"http://127.0.0.1:1", cfg.Addresses[0]}
	db := connect(t, cfg)
	for range 4 {
		if err := db.Ping(t.Context()); err != nil {
			t.Errorf("ping: %v", err)
		}
	}
}

func TestARedClusterIsUnavailable(t *testing.T) {
	f := newFake()
	db := connect(t, f.config(t))
	f.before = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		_, _ = w.Write([]byte(`{"status":"red"}`))
		return true
	}
	if err := db.Ping(t.Context()); !errors.Is(err, projections.ErrUnavailable) {
		t.Errorf("ping: %v", err)
	}
}

func TestWhatANewerProgramMadeIsRefused(t *testing.T) {
	for name, age := range map[string]func(*fake){
		"a template": func(f *fake) { f.templates["t-orders"] = 7 },
		"an index":   func(f *fake) { f.versions["t-orders-1"] = 7 },
	} {
		f := newFake()
		db := connect(t, f.config(t))
		if _, err := elasticviews.NewOrders(t.Context(), db); err != nil {
			t.Fatal(err)
		}
		age(f)
		if _, err := elasticviews.NewOrders(t.Context(), db); err == nil || !strings.Contains(err.Error(), "newer program") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConfigurationsThatMakeNoSenseAreRefused(t *testing.T) {
	good := newFake().config(t)
	for name, change := range map[string]func(*elasticviews.Config){
		"no address":          func(c *elasticviews.Config) { c.Addresses = nil },
		"a bare host":         func(c *elasticviews.Config) { c.Addresses = []string{"localhost:9200"} },
		"another protocol":    func(c *elasticviews.Config) { c.Addresses = []string{"ftp://localhost"} },
		"a loud namespace":    func(c *elasticviews.Config) { c.Namespace = "Shop" },
		"a namespace of path": func(c *elasticviews.Config) { c.Namespace = "a/b" },
		"two ways in":         func(c *elasticviews.Config) { c.User, c.APIKey = "u", "k" },
		"negative shards":     func(c *elasticviews.Config) { c.Shards = -1 },
		"no log":              func(c *elasticviews.Config) { c.Log = nil },
	} {
		cfg := good
		change(&cfg)
		if _, err := elasticviews.Open(t.Context(), cfg); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	db := connect(t, good)
	for _, name := range []string{"", "views", "with-dash", "Loud"} {
		if _, err := elasticviews.NewViews[projections.Stock](t.Context(), db, name); err == nil {
			t.Errorf("a view called %q was opened", name)
		}
	}
}

func TestManyReadersShareARefresh(t *testing.T) {
	const readers = 50
	var refreshes atomic.Int32
	begun, release := make(chan struct{}, readers), make(chan struct{})
	_, o := faulty(t, func(_ http.ResponseWriter, r *http.Request, _ []byte) bool {
		if strings.HasSuffix(r.URL.Path, "/_refresh") {
			refreshes.Add(1)
			begun <- struct{}{}
			<-release
		}
		return false
	})
	doc := sample(t, 1, "x")
	if err := o.Live().Put(t.Context(), []orderDoc{doc}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ask := func() {
		if got, err := o.Revisions(t.Context(), []string{doc.Stream}); err != nil || got[doc.Stream] != doc.Revision {
			t.Errorf("revisions: %v, %v", got, err)
		}
	}
	wg.Go(ask)
	<-begun // those who ask from here on came too late for this one
	for range readers {
		wg.Go(ask)
	}
	close(release)
	wg.Wait()
	if n := refreshes.Load(); n < 1 || n > 5 {
		t.Errorf("%d readers made %d refreshes", readers+1, n)
	}
	before := refreshes.Load()
	ask()
	if n := refreshes.Load() - before; n != 0 {
		t.Errorf("what was shown before was refreshed %d times", n)
	}
	if _, err := o.Orders(t.Context(), projections.OrderQuery{Buyer: "b", Limit: 1}); err != nil || refreshes.Load() != before {
		t.Errorf("a list of what was shown made %d refreshes, %v", refreshes.Load()-before, err)
	}
}

func TestNothingIsRefreshedWhileADocumentIsInBothTiers(t *testing.T) {
	var o *elasticviews.Orders
	var looking sync.WaitGroup
	var refreshes, early atomic.Int32
	doc := viewtest.Life{
		Number: 1, Buyer: "b", Seller: "s", Currency: "CNY", Titles: []string{"x"}, Price: 5, Quantity: 2, Placed: noon,
	}.Become("completed").Doc(t)
	taking := false
	_, o = faulty(t, func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, "/_refresh"):
			refreshes.Add(1)
		case strings.HasSuffix(r.URL.Path, "/_pit"):
			_, _ = w.Write([]byte(`{"id": "moment"}`))
			return true
		case r.URL.Path == "/_search": // for what is to be archived: there is nothing yet
			_, _ = w.Write([]byte(`{"hits": {"hits": []}}`))
			return true
		}
		if r.URL.Path != "/_bulk" || taking || !strings.HasPrefix(string(body), `{"delete"`) {
			return false
		}
		taking = true // the first of what takes it from what is at hand; its year has it
		before := refreshes.Load()
		looking.Go(func() { _, _ = o.Revisions(t.Context(), []string{doc.Stream}) })
		time.Sleep(100 * time.Millisecond) // in which somebody would refresh
		early.Store(refreshes.Load() - before)
		return false
	})
	if _, err := o.Archive(t.Context(), noon.AddDate(1, 0, 0), nil); err != nil {
		t.Fatal(err)
	}
	if err := o.Live().Put(t.Context(), []orderDoc{doc}); err != nil {
		t.Fatal(err)
	}
	looking.Wait()
	if !taking || early.Load() > 0 {
		t.Errorf("taken away: %t; %d refreshes before that", taking, early.Load())
	}
	if refreshes.Load() == 0 {
		t.Error("nothing was refreshed afterwards")
	}
}

func TestARefreshThatFailsIsNotTakenForOne(t *testing.T) {
	broken := true
	f, o := faulty(t, func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if !broken || !strings.HasSuffix(r.URL.Path, "/_refresh") {
			return false
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	doc := sample(t, 1, "x")
	if err := o.Live().Put(t.Context(), []orderDoc{doc}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Revisions(t.Context(), []string{doc.Stream}); !errors.Is(err, projections.ErrUnavailable) {
		t.Errorf("revisions: %v", err)
	}
	broken = false
	before := f.asked("POST /t-orders,t-orders.archive*,t-sales,t-sales.archive*/_refresh")
	if _, err := o.Revisions(t.Context(), []string{doc.Stream}); err != nil {
		t.Errorf("revisions: %v", err)
	}
	if n := f.asked("POST /t-orders,t-orders.archive*,t-sales,t-sales.archive*/_refresh") - before; n != 1 {
		t.Errorf("%d refreshes", n)
	}
}

func TestPartsGiveTheSumBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amounts := rapid.SliceOfN(rapid.Int64(), 0, 50).Draw(t, "amounts")
		want := new(big.Int)
		for _, amount := range amounts {
			want.Add(want, big.NewInt(amount))
		}
		got := big.NewInt(elasticviews.SplitAndAdd(amounts...))
		if want.IsInt64() && got.Cmp(want) != 0 || !want.IsInt64() && got.Sign() != want.Sign() {
			t.Fatalf("%v add up to %d, not %d", amounts, got, want)
		}
	})
	// As many as a shard can have, of the largest parts there are.
	if most := float64(1<<31) * float64(1<<21-1); most > 1<<53 {
		t.Errorf("%g is not exact in a double", most)
	}
}

func TestOnlyPlainViewsNeedNoRefresh(t *testing.T) {
	f := newFake()
	v, err := elasticviews.NewViews[projections.Stock](t.Context(), connect(t, f.config(t)), "stock")
	if err != nil {
		t.Fatal(err)
	}
	doc := projections.Doc[projections.Stock]{Stream: "inventory-a", Revision: 1, Body: projections.Stock{OnHand: 1<<53 + 1}}
	if err = v.Live().Put(t.Context(), []projections.Doc[projections.Stock]{doc}); err != nil {
		t.Fatal(err)
	}
	revisions, err := v.Revisions(t.Context(), []string{doc.Stream})
	if err != nil || revisions[doc.Stream] != 1 {
		t.Errorf("revisions: %v, %v", revisions, err)
	}
	docs, err := v.Get(t.Context(), []string{doc.Stream})
	if diff := cmp.Diff(doc, docs[doc.Stream]); err != nil || diff != "" {
		t.Errorf("get: %v (-want +got):\n%s", err, diff)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.ContainsFunc(f.requests, func(r string) bool { return strings.HasSuffix(r, "/_refresh") }) {
		t.Errorf("requests: %v", f.requests)
	}
}

func TestNothingIsLogged(t *testing.T) {
	var logged strings.Builder
	f := newFake()
	cfg := f.config(t)
	cfg.Log = slog.New(slog.NewTextHandler(&logged, nil))
	connect(t, cfg)
	if logged.Len() > 0 {
		t.Errorf("an uneventful start logs %s", logged.String())
	}
}
