// Package problem turns an error into an HTTP answer, the RFC 9457 way. It is
// the only place where an error gets a status, and the only place where a
// failed request's cause is logged.
//
// # Why
//
// A client branches on type, "/problems/<slug>", which is never renamed
// (TestEverySlugIsInTheCatalogue); code is the coarser kind the domain gave the
// error, one HTTP status each (TestEveryCodeHasItsStatus). Title is the slug's
// sentence in the catalogue and the same for every occurrence; detail is about
// this one. An error that no rule named is a fault of ours: the client learns
// that and the trace id under which the cause is in the log, nothing else
// (TestACauseIsNeverShown). A history that cannot be replayed is told apart
// from other faults, because the operator's answer to it is another one.
//
// Errors[].pointer is a JSON pointer into the body ("/items/0/sku") or, for
// what stands elsewhere in the request, its place and name: "path:id",
// "query:limit", "header:If-Match".
package problem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"cartwright/domain"
	"cartwright/domain/event"
)

// ContentType is what every failure is answered as.
const ContentType = "application/problem+json"

// status is the one table of codes and what HTTP calls them.
var status = map[domain.Code]int{
	domain.Invalid:     http.StatusBadRequest,
	domain.NotFound:    http.StatusNotFound,
	domain.Conflict:    http.StatusConflict,
	domain.Stale:       http.StatusPreconditionFailed,
	domain.Rejected:    http.StatusUnprocessableEntity,
	domain.Required:    http.StatusPreconditionRequired,
	domain.TooMany:     http.StatusTooManyRequests,
	domain.Unavailable: http.StatusServiceUnavailable,
}

// Status gives a code's HTTP status; 500 for one that has none.
func Status(code domain.Code) int {
	if s, ok := status[code]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// A Document is the body of a failure.
type Document struct {
	Type     string         `json:"type"`
	Title    string         `json:"title"`
	Status   int            `json:"status"`
	Detail   string         `json:"detail,omitempty"`
	Instance string         `json:"instance"`
	Code     string         `json:"code"`
	Errors   []domain.Field `json:"errors,omitempty"`
	TraceID  string         `json:"trace_id,omitempty"`
}

// A RefusalError is a failure that only HTTP knows of, so that its status is its own.
type RefusalError struct {
	Status int
	Reason string
	Detail string
}

func (r *RefusalError) Error() string {
	return fmt.Sprintf("%d: %s: %s", r.Status, r.Reason, r.Detail)
}

// TooLarge refuses a body of more than limit bytes.
func TooLarge(limit int64) error {
	return &RefusalError{http.StatusRequestEntityTooLarge, "body_too_large", fmt.Sprintf("A body has at most %d bytes.", limit)}
}

// Unsupported refuses a body that is not JSON.
func Unsupported(what string) error {
	return &RefusalError{http.StatusUnsupportedMediaType, "media_type_unsupported", "A body is application/json, not " + what + "."}
}

// Handler lets a gin handler return its error.
func Handler(log *slog.Logger, h func(*gin.Context) error) gin.HandlerFunc {
	return func(c *gin.Context) {
		if err := h(c); err != nil {
			Answer(c, log, err)
		}
	}
}

// NoRoute answers a path nobody serves.
func NoRoute(log *slog.Logger) gin.HandlerFunc {
	return Handler(log, func(*gin.Context) error {
		return domain.Refuse(domain.NotFound, "route_unknown", "Nothing is served at this path.")
	})
}

// NoMethod answers a path that is served, but not for this method. gin has
// filled in Allow.
func NoMethod(log *slog.Logger) gin.HandlerFunc {
	return Handler(log, func(c *gin.Context) error {
		return &RefusalError{http.StatusMethodNotAllowed, "method_not_allowed", "This path does not take " + c.Request.Method + "."}
	})
}

// Recovery answers a panic as the fault of ours that it is, and goes on. The
// stack is logged as the error's cause.
func Recovery(log *slog.Logger) gin.HandlerFunc {
	return func(c *gin.Context) {
		defer func() {
			what := recover()
			if what == nil {
				return
			}
			if what == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so too: it is a value to panic with
				panic(what)
			}
			Answer(c, log, fmt.Errorf("panic: %v\n%s", what, debug.Stack()))
		}()
		c.Next()
	}
}

// Answer writes err and ends the request.
func Answer(c *gin.Context, log *slog.Logger, err error) {
	doc, wait := describe(err)
	doc.Title = Title(strings.TrimPrefix(doc.Type, "/problems/"))
	doc.Instance = c.Request.URL.Path
	doc.TraceID = traceID(c.GetHeader("Traceparent"))
	c.Set(slugKey, strings.TrimPrefix(doc.Type, "/problems/"))
	if level, ok := worth(doc, err); ok {
		log.Log(c.Request.Context(), level, "request failed", "slug", c.GetString(slugKey),
			"method", c.Request.Method, "route", c.FullPath(), "path", doc.Instance, "trace_id", doc.TraceID, "err", err)
	}
	c.Abort()
	if c.Writer.Written() {
		return // half an answer is out; there is no taking it back
	}
	write(c, doc, wait)
}

// worth says how loudly err is logged: a fault of ours is an error; what passes
// is a warning where there is a cause behind it, and nothing where we are just
// busy; a refusal is the caller's affair.
func worth(doc Document, err error) (slog.Level, bool) {
	if doc.Status == http.StatusInternalServerError {
		return slog.LevelError, true
	}
	e, ok := errors.AsType[*domain.Error](err)
	return slog.LevelWarn, ok && e.Code == domain.Unavailable && e.Err != nil
}

func write(c *gin.Context, doc Document, wait time.Duration) {
	if doc.Status == http.StatusServiceUnavailable || doc.Status == http.StatusTooManyRequests {
		c.Header("Retry-After", strconv.Itoa(max(1, int(math.Ceil(wait.Seconds())))))
	}
	for _, h := range []string{"ETag", "Cartwright-Token", "Location", "Idempotent-Replayed"} {
		c.Writer.Header().Del(h) // a handler may have set them before it failed
	}
	c.Header("Cache-Control", "no-store")
	body, err := json.Marshal(doc)
	if err != nil {
		c.Status(http.StatusInternalServerError)
		return
	}
	c.Data(doc.Status, ContentType, append(body, '\n'))
}

// slugKey is where Answer notes the slug for whoever logs or counts the request.
const slugKey = "problem.slug"

// Slug is the slug a request was answered with, "" if it did not fail.
func Slug(c *gin.Context) string { return c.GetString(slugKey) }

// describe finds what err is. The order matters: the reason for which a history
// is corrupt may well be a rule's refusal, but it refuses nobody here; and what
// the domain named is named so, whatever its cause was.
func describe(err error) (Document, time.Duration) {
	if r, ok := errors.AsType[*RefusalError](err); ok {
		return document(r.Reason, r.Status, domain.Invalid, r.Detail, nil), 0
	}
	if corrupt(err) {
		return document("history_corrupt", http.StatusInternalServerError, internal,
			"What is recorded of this cannot be read back. The operator has been told; nothing else is affected.", nil), 0
	}
	if e, ok := errors.AsType[*domain.Error](err); ok && status[e.Code] != 0 {
		return document(e.Reason, status[e.Code], e.Code, e.Detail, e.Fields), e.RetryAfter
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return document("timeout", http.StatusServiceUnavailable, domain.Unavailable,
			"There was no answer in time. Send the same request again; a command with the same key.", nil), time.Second
	}
	return document("internal", http.StatusInternalServerError, internal, "This is our fault. The operator finds it under the trace id.", nil), 0
}

// corrupt tells a history that cannot be replayed.
func corrupt(err error) bool {
	_, replay := errors.AsType[*domain.ReplayError](err)
	_, stream := errors.AsType[*event.CorruptError](err)
	return replay || stream
}

// internal is the code of what has none.
const internal domain.Code = "internal"

func document(slug string, status int, code domain.Code, detail string, fields []domain.Field) Document {
	return Document{Type: "/problems/" + slug, Status: status, Code: string(code), Detail: detail, Errors: fields}
}

// traceID is the trace's own part of a W3C traceparent.
func traceID(parent string) string {
	if parts := strings.Split(parent, "-"); len(parts) >= 4 && len(parts[1]) == 32 {
		return parts[1]
	}
	return ""
}
