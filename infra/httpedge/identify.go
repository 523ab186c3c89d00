package httpedge

import (
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"time"

	"github.com/gin-gonic/gin"

	"cartwright/infra/problem"
)

const (
	// TraceHeader is W3C's. Behind New every request has a well-formed one.
	TraceHeader = "Traceparent"
	// RequestHeader names one request; the answer repeats it.
	RequestHeader = "X-Request-Id"

	maxRequestID = 128
)

// identify sees to it that a request has a trace and an id. What the caller
// sent is kept where it is well formed and replaced where it is not: nothing
// unchecked gets into events and logs.
func identify(c *gin.Context) {
	trace := c.GetHeader(TraceHeader)
	if !traceparent(trace) {
		trace = newTrace()
		c.Request.Header.Set(TraceHeader, trace)
	}
	id := c.GetHeader(RequestHeader)
	if id == "" || len(id) > maxRequestID || !visible(id) {
		id = trace[3:35]
		c.Request.Header.Set(RequestHeader, id)
	}
	c.Header(RequestHeader, id)
}

// newTrace starts a trace nobody has asked to be sampled.
func newTrace() string {
	var random [24]byte
	_, _ = rand.Read(random[:]) // it never fails: crypto/rand ends the process first
	text := [55]byte{0: '0', 1: '0', 2: '-', 35: '-', 52: '-', 53: '0', 54: '0'}
	hex.Encode(text[3:35], random[:16])
	hex.Encode(text[36:52], random[16:])
	return string(text[:])
}

// traceparent says whether s is version 00 of W3C's header:
// 00-<32 hex>-<16 hex>-<2 hex>, neither id all zeros.
func traceparent(s string) bool {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return false
	}
	return lowerHex(s[3:35], true) && lowerHex(s[36:52], true) && lowerHex(s[53:], false)
}

func lowerHex(s string, someSet bool) bool {
	set := false
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
		set = set || c != '0'
	}
	return set || !someSet
}

// visible says whether s is visible ASCII and nothing else.
func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// observe writes one line a request and tells whoever counts.
func observe(cfg Config) gin.HandlerFunc {
	return func(c *gin.Context) {
		start := time.Now()
		c.Next()
		s := Served{c.Request.Method, c.FullPath(), c.Writer.Status(), problem.Slug(c), time.Since(start)}
		if cfg.Observe != nil {
			cfg.Observe(s)
		}
		ctx := c.Request.Context()
		if !cfg.Log.Enabled(ctx, slog.LevelInfo) {
			return
		}
		cfg.Log.LogAttrs(ctx, slog.LevelInfo, "request served",
			slog.String("method", s.Method), slog.String("route", s.Route), slog.String("path", c.Request.URL.Path),
			slog.Int("status", s.Status), slog.String("slug", s.Slug), slog.Duration("took", s.Took),
			slog.Int("bytes", c.Writer.Size()), slog.String("trace", c.GetHeader(TraceHeader)), slog.String("request_id", c.GetHeader(RequestHeader)))
	}
}
