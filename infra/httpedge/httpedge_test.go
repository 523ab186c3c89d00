package httpedge_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cartwright/domain"
	"cartwright/infra/httpedge"
	"cartwright/infra/problem"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func engine(t *testing.T, cfg httpedge.Config) *gin.Engine {
	t.Helper()
	gin.SetMode(gin.TestMode)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r, err := httpedge.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func get(t *testing.T, h http.Handler, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

func slug(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var doc problem.Document
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || w.Header().Get("Content-Type") != problem.ContentType {
		t.Fatalf("%q is no problem: %v", w.Body, err)
	}
	return strings.TrimPrefix(doc.Type, "/problems/")
}

func TestUnknownPathsAreProblems(t *testing.T) {
	r := engine(t, httpedge.Config{})
	r.GET("/v1/things", func(c *gin.Context) { c.Status(http.StatusOK) })
	if w := get(t, r, "/v1/nothing"); w.Code != http.StatusNotFound || slug(t, w) != "route_unknown" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := get(t, r, "/v1/things/"); w.Code != http.StatusNotFound || slug(t, w) != "route_unknown" {
		t.Errorf("a path with a slash too many: got %d %s", w.Code, w.Body)
	}
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodDelete, "/v1/things", http.NoBody))
	if w.Code != http.StatusMethodNotAllowed || slug(t, w) != "method_not_allowed" || w.Header().Get("Allow") != "GET" {
		t.Errorf("got %d %v %s", w.Code, w.Header(), w.Body)
	}
}

func TestAPanicIsAProblemAndTheServerGoesOn(t *testing.T) {
	var log bytes.Buffer
	r := engine(t, httpedge.Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
	r.GET("/panics", func(*gin.Context) { panic("hunter2") })
	w := get(t, r, "/panics")
	if w.Code != http.StatusInternalServerError || slug(t, w) != "internal" || strings.Contains(w.Body.String(), "hunter2") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if !strings.Contains(log.String(), "hunter2") || !strings.Contains(log.String(), "httpedge_test.go") {
		t.Errorf("the log lacks what panicked, or where: %s", &log)
	}
	if got := get(t, r, "/healthz"); got.Code != http.StatusOK {
		t.Errorf("afterwards: %d", got.Code)
	}
}

func TestACutConnectionIsNotAnswered(t *testing.T) {
	r := engine(t, httpedge.Config{})
	r.GET("/cut", func(*gin.Context) { panic(http.ErrAbortHandler) })
	defer func() {
		if what := recover(); what != http.ErrAbortHandler { //nolint:errorlint // the very value
			t.Errorf("recovered %v", what)
		}
	}()
	get(t, r, "/cut")
}

func TestEveryRequestHasATraceAndAnID(t *testing.T) {
	for name, tt := range map[string]struct {
		trace, id string
		kept      bool
	}{
		"none":                       {"", "", false},
		"well formed":                {parent, "web-7", true},
		"upper case":                 {strings.ToUpper(parent), "a b", false},
		"all zeros":                  {"00-00000000000000000000000000000000-b7ad6b7169203331-01", "", false},
		"no span":                    {"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", "", false},
		"another version":            {"01" + parent[2:], "", false},
		"an id of another's letters": {parent[:50] + "zz-01", strings.Repeat("x", 129), false},
	} {
		r := engine(t, httpedge.Config{})
		var trace, id string
		r.GET("/", func(c *gin.Context) {
			trace, id = c.GetHeader("Traceparent"), c.GetHeader("X-Request-Id")
			c.Status(http.StatusNoContent)
		})
		w := get(t, r, "/", "Traceparent", tt.trace, "X-Request-Id", tt.id)
		if len(trace) != len(parent) || strings.ToLower(trace) != trace || (trace == tt.trace) != tt.kept {
			t.Errorf("%s: the trace is %q", name, trace)
		}
		if id == "" || (id == tt.id) != tt.kept || w.Header().Get("X-Request-Id") != id {
			t.Errorf("%s: the id is %q, answered %q", name, id, w.Header().Get("X-Request-Id"))
		}
	}
}

func TestEveryRequestIsObservedAndLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	var seen []httpedge.Served
	r := engine(t, httpedge.Config{
		Log: slog.New(slog.NewTextHandler(&log, nil)), Observe: func(s httpedge.Served) { seen = append(seen, s) },
	})
	quiet := slog.New(slog.DiscardHandler)
	r.GET("/things/:id", problem.Handler(quiet, func(c *gin.Context) error {
		if c.Param("id") == "2" {
			return domain.Refuse(domain.NotFound, "unknown_thing", "No.")
		}
		c.Status(http.StatusNoContent)
		return nil
	}))
	get(t, r, "/things/1")
	get(t, r, "/things/2")
	get(t, r, "/elsewhere")
	want := []httpedge.Served{
		{Method: "GET", Route: "/things/:id", Status: 204},
		{Method: "GET", Route: "/things/:id", Status: 404, Slug: "unknown_thing"},
		{Method: "GET", Status: 404, Slug: "route_unknown"},
	}
	if diff := cmp.Diff(want, seen, cmpopts.IgnoreFields(httpedge.Served{}, "Took")); diff != "" {
		t.Error(diff)
	}
	if got := strings.Count(log.String(), "request served"); got != 3 {
		t.Errorf("%d lines for 3 requests:\n%s", got, &log)
	}
}

func TestMoreThanTheBoundIsRefused(t *testing.T) {
	r := engine(t, httpedge.Config{InFlight: 2})
	inside, leave := make(chan struct{}, 2), make(chan struct{})
	r.GET("/slow", func(c *gin.Context) {
		inside <- struct{}{}
		<-leave
		c.Status(http.StatusNoContent)
	})
	var slow sync.WaitGroup
	for range 2 {
		slow.Go(func() { get(t, r, "/slow") })
		<-inside
	}
	w := get(t, r, "/slow")
	if w.Code != http.StatusServiceUnavailable || slug(t, w) != "overloaded" || w.Header().Get("Retry-After") != "1" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if got := get(t, r, "/healthz"); got.Code != http.StatusOK {
		t.Errorf("a busy process is not a dead one: %d", got.Code)
	}
	close(leave)
	slow.Wait()
	if got := get(t, r, "/slow"); got.Code != http.StatusNoContent {
		t.Errorf("once there is room again: %d", got.Code)
	}
}

func TestWhatTakesTooLongIsATimeout(t *testing.T) {
	r := engine(t, httpedge.Config{Timeout: time.Millisecond})
	r.GET("/slow", problem.Handler(slog.New(slog.DiscardHandler), func(c *gin.Context) error {
		<-c.Request.Context().Done()
		return c.Request.Context().Err()
	}))
	if w := get(t, r, "/slow"); w.Code != http.StatusServiceUnavailable || slug(t, w) != "timeout" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestProbesAnswerUnderLoad(t *testing.T) {
	var broken error
	r := engine(t, httpedge.Config{InFlight: 1, OpenAPI: []byte(`{"openapi":"3.1.0"}`), Ready: []httpedge.Check{
		{Name: "store", Run: func(context.Context) error { return nil }},
		{Name: "bus", Run: func(context.Context) error { return broken }},
	}})
	if w := get(t, r, "/readyz"); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"bus":"ok"`) {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	broken = errors.New("hunter2")
	w := get(t, r, "/readyz")
	if w.Code != http.StatusServiceUnavailable || slug(t, w) != "not_ready" || strings.Contains(w.Body.String(), "hunter2") ||
		!strings.Contains(w.Body.String(), "check:bus") || strings.Contains(w.Body.String(), "check:store") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := get(t, r, "/v1/openapi.json"); w.Code != http.StatusOK || w.Body.String() != `{"openapi":"3.1.0"}` {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestIfMatch(t *testing.T) {
	for value, want := range map[string]httpedge.Match{
		`"v17"`:                  {Sent: true, Version: 17},
		`"v0"`:                   {Sent: true},
		`"v17.204"`:              {Sent: true, Version: 17},
		`*`:                      {Sent: true, Any: true},
		`"v9223372036854775807"`: {Sent: true, Version: 1<<63 - 1},
	} {
		got, err := httpedge.IfMatch(http.Header{"If-Match": {value}})
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v", value, got, err)
		}
	}
	if got, err := httpedge.IfMatch(http.Header{}); err != nil || got.Sent {
		t.Errorf("none: got %+v, %v", got, err)
	}
	for _, values := range [][]string{
		{""},
		{`v17`},
		{`"17"`},
		{`W/"v17"`},
		{`"v017"`},
		{`"v17.04"`},
		{`"v17."`},
		{`"v.4"`},
		{`"v1.2.3"`},
		{`"v+1"`},
		{`"v-1"`},
		{`"v"`},
		{`"v1", "v2"`},
		{`"v1"`, `"v2"`},
		{`"v9223372036854775808"`},
		{` "v1"`},
		{`"v1`},
		{`"`},
		{`"v 1"`},
		{`**`},
	} {
		got, err := httpedge.IfMatch(http.Header{"If-Match": values})
		if domain.ReasonOf(err) != "if_match_malformed" || domain.CodeOf(err) != domain.Invalid {
			t.Errorf("%q: got %+v, %v", values, got, err)
		}
	}
}

func TestIfNoneMatch(t *testing.T) {
	tag := httpedge.ETag(uint64(17))
	if tag != `"v17"` {
		t.Fatalf("a tag is %s", tag)
	}
	for value, want := range map[string]bool{
		`"v17"`: true, `W/"v17"`: true, `"v16", "v17"`: true, `*`: true, ``: false, `"v1"`: false, `v17`: false, `nonsense`: false,
	} {
		if got := httpedge.NotModified(http.Header{"If-None-Match": {value}}, tag); got != want {
			t.Errorf("%s: got %v", value, got)
		}
	}
	if absent, err := httpedge.IfNoneMatchAny(http.Header{"If-None-Match": {"*"}}); !absent || err != nil {
		t.Errorf("*: got %v, %v", absent, err)
	}
	if absent, err := httpedge.IfNoneMatchAny(http.Header{}); absent || err != nil {
		t.Errorf("none: got %v, %v", absent, err)
	}
	if _, err := httpedge.IfNoneMatchAny(http.Header{"If-None-Match": {`"v1"`}}); domain.ReasonOf(err) != "if_none_match_malformed" {
		t.Errorf("a tag on a change: got %v", err)
	}
}
