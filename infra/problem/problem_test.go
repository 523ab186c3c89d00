package problem_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"

	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/infra/problem"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// answer is what a handler that fails with err answers, and what it logs.
func answer(t *testing.T, err error) (w *httptest.ResponseRecorder, logged string) {
	t.Helper()
	gin.SetMode(gin.TestMode)
	var log bytes.Buffer
	r := gin.New()
	r.GET("/things/:id", problem.Handler(slog.New(slog.NewTextHandler(&log, nil)), func(c *gin.Context) error {
		c.Header("ETag", `"v1"`)
		return err
	}))
	w = httptest.NewRecorder()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/things/1", http.NoBody)
	req.Header.Set("Traceparent", parent)
	r.ServeHTTP(w, req)
	return w, log.String()
}

func read(t *testing.T, w *httptest.ResponseRecorder) problem.Document {
	t.Helper()
	var doc problem.Document
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatalf("%s: %v", w.Body, err)
	}
	if got := w.Header().Get("Content-Type"); got != problem.ContentType {
		t.Errorf("Content-Type is %q", got)
	}
	if doc.Status != w.Code {
		t.Errorf("the body says %d, the status is %d", doc.Status, w.Code)
	}
	return doc
}

func TestEveryCodeHasItsStatus(t *testing.T) {
	for code, want := range map[domain.Code]int{
		domain.Invalid: 400, domain.NotFound: 404, domain.Conflict: 409, domain.Stale: 412,
		domain.Rejected: 422, domain.Required: 428, domain.TooMany: 429, domain.Unavailable: 503,
	} {
		w, logged := answer(t, fmt.Errorf("place: %w", domain.Refuse(code, "a_slug", "Because of %d.", 7)))
		got := read(t, w)
		if diff := cmp.Diff(problem.Document{
			Type: "/problems/a_slug", Title: "A slug", Status: want, Detail: "Because of 7.", Instance: "/things/1",
			Code: string(code), TraceID: "0af7651916cd43dd8448eb211c80319c",
		}, got); diff != "" {
			t.Errorf("%s: %s", code, diff)
		}
		if logged != "" {
			t.Errorf("%s: a refusal is no fault, but was logged: %s", code, logged)
		}
		if problem.Status(code) != want {
			t.Errorf("%s: Status says %d", code, problem.Status(code))
		}
	}
	if problem.Status("of_another_world") != http.StatusInternalServerError {
		t.Error("a code nobody knows is a fault of ours")
	}
}

func TestFieldsAndWaitsArePassedOn(t *testing.T) {
	w, _ := answer(t, &domain.Error{
		Code: domain.Unavailable, Reason: "busy", Detail: "Later.", RetryAfter: 1500 * time.Millisecond,
		Fields: []domain.Field{{Pointer: "/items/0/sku", Detail: "This one."}},
	})
	got := read(t, w)
	if diff := cmp.Diff([]domain.Field{{Pointer: "/items/0/sku", Detail: "This one."}}, got.Errors); diff != "" {
		t.Error(diff)
	}
	if after := w.Header().Get("Retry-After"); after != "2" {
		t.Errorf("Retry-After is %q, want whole seconds, rounded up", after)
	}
	if w.Header().Get("ETag") != "" {
		t.Error("a failure has no version")
	}
}

func TestUnavailableAlwaysSaysWhenToComeAgain(t *testing.T) {
	w, _ := answer(t, domain.Refuse(domain.Unavailable, "busy", "Later."))
	if after := w.Header().Get("Retry-After"); after != "1" {
		t.Errorf("Retry-After is %q", after)
	}
}

func TestWhatEndsInTimeIsATimeout(t *testing.T) {
	for _, cause := range []error{context.DeadlineExceeded, context.Canceled} {
		w, logged := answer(t, fmt.Errorf("wait for order-1: %w", cause))
		if got := read(t, w); got.Status != 503 || got.Type != "/problems/timeout" || w.Header().Get("Retry-After") == "" || logged != "" {
			t.Errorf("%v: got %d %s, log %q", cause, got.Status, got.Type, logged)
		}
	}
}

func TestACauseIsNeverShown(t *testing.T) {
	secret := errors.New("password hunter2 was refused by 10.0.0.1")
	for name, err := range map[string]error{
		"a fault":            secret,
		"a code nobody maps": &domain.Error{Code: "odd", Reason: "odd", Detail: "hunter2"},
		"a corrupt history":  &event.CorruptError{Stream: "order-1", Revision: 3, Err: secret},
		"a replay":           fmt.Errorf("load: %w", &domain.ReplayError{At: 2, Err: secret}),
		"a refused replay": &event.CorruptError{
			Stream: "order-1", Revision: 3, Err: domain.Refuse(domain.Conflict, "not_paid", "hunter2"),
		},
	} {
		w, logged := answer(t, err)
		if got := read(t, w); got.Status != 500 || strings.Contains(w.Body.String(), "hunter2") {
			t.Errorf("%s: got %s", name, w.Body)
		}
		if !strings.Contains(logged, "hunter2") || !strings.Contains(logged, "0af7651916cd43dd8448eb211c80319c") {
			t.Errorf("%s: the log lacks the cause or the trace: %s", name, logged)
		}
	}
}

func TestWhatIsBehindAnUnavailabilityIsLogged(t *testing.T) {
	w, logged := answer(t, &domain.Error{Code: domain.Unavailable, Reason: "log_unavailable", Detail: "Later.", Err: errors.New("hunter2")})
	if got := read(t, w); got.Status != 503 || strings.Contains(w.Body.String(), "hunter2") {
		t.Errorf("got %s", w.Body)
	}
	if !strings.Contains(logged, "WARN") || !strings.Contains(logged, "hunter2") {
		t.Errorf("logged %q", logged)
	}
}

func TestACorruptHistoryHasANameOfItsOwn(t *testing.T) {
	w, logged := answer(t, &event.CorruptError{Stream: "order-1", Revision: 3, Err: errors.New("paid twice")})
	if got := read(t, w); got.Type != "/problems/history_corrupt" || got.Code != "internal" {
		t.Errorf("got %s", w.Body)
	}
	for _, part := range []string{"order-1", "revision 3", "paid twice"} {
		if !strings.Contains(logged, part) {
			t.Errorf("the log does not say %q: %s", part, logged)
		}
	}
}

func TestWhatTheDomainNamedIsNamedSo(t *testing.T) {
	w, _ := answer(t, &domain.Error{Code: domain.Unavailable, Reason: "busy", Detail: "Later.", Err: context.DeadlineExceeded})
	if got := read(t, w); got.Type != "/problems/busy" {
		t.Errorf("got %s", w.Body)
	}
}

func TestHTTPsOwnRefusals(t *testing.T) {
	for want, err := range map[int]error{
		http.StatusRequestEntityTooLarge: problem.TooLarge(10),
		http.StatusUnsupportedMediaType:  problem.Unsupported(`"text/plain"`),
	} {
		if got, _ := answer(t, err); got.Code != want {
			t.Errorf("got %d, want %d", got.Code, want)
		}
	}
}

func TestHalfAnAnswerIsNotFollowedByAProblem(t *testing.T) {
	gin.SetMode(gin.TestMode)
	r := gin.New()
	r.GET("/", problem.Handler(slog.New(slog.DiscardHandler), func(c *gin.Context) error {
		c.String(http.StatusOK, "half")
		return errors.New("broken off")
	}))
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
	if w.Body.String() != "half" {
		t.Errorf("got %q", w.Body)
	}
}
