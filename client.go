package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// exitError is an error that has an exit code of its own; any other ends the
// process with 1.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// patience is how long a call is tried for, all its repeats together. A tool
// must have ended 30 s after the server went away, and needs time to end.
const patience = 25 * time.Second

// How long a client waits before it sends a request again.
const (
	firstPause = 25 * time.Millisecond
	lastPause  = time.Second
)

// maxAnswer is how much of an answer is read: more than the largest page.
const maxAnswer = 16 << 20

// A client calls the HTTP API of a running server, as the tools do. It may be
// used concurrently. What it sends is safe to send twice (a query, or a command
// under an Idempotency-Key or a version), so that it repeats, until its
// patience ends, whatever was not answered, or answered with "not now".
type client struct {
	base     string
	http     *http.Client
	patience time.Duration
}

// newClient makes a client of the server at target that keeps this many
// connections open.
func newClient(target string, connections int) (*client, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("target %q is no address like http://127.0.0.1:8080", target)
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		MaxIdleConns:        connections,
		MaxIdleConnsPerHost: connections,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}
	return &client{base: strings.TrimSuffix(target, "/"), http: &http.Client{Transport: transport}, patience: patience}, nil
}

// close gives the idle connections back.
func (c *client) close() { c.http.CloseIdleConnections() }

// with is the same client with another patience.
func (c *client) with(d time.Duration) *client {
	other := *c
	other.patience = d
	return &other
}

// A request is a command or a query.
type request struct {
	method, path string
	key          string    // Idempotency-Key
	token        string    // Cartwright-Token
	at           time.Time // Cartwright-At
	body         any       // none if nil
}

// A reply is what the head of an answer says.
type reply struct {
	created  bool // 201
	repeated bool // the command had been carried out before
	token    string
}

// A refusalError is an answer that is no success.
type refusalError struct {
	status     int
	slug       string // the last part of the problem's type; "" if it was no problem of ours
	detail     string
	retryAfter time.Duration
}

func (e *refusalError) Error() string {
	if e.slug == "" {
		return fmt.Sprintf("%d %s", e.status, http.StatusText(e.status))
	}
	return e.slug + ": " + e.detail
}

// slugOf is the slug a request was refused with, or "".
func slugOf(err error) string {
	if e, ok := errors.AsType[*refusalError](err); ok {
		return e.slug
	}
	return ""
}

// passing says that the same request may well succeed a little later.
func (e *refusalError) passing() bool {
	switch e.status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	case http.StatusConflict:
		return e.slug == "in_progress" || e.slug == "conflict"
	}
	return false
}

// errFinal marks what would not be better the next time: a request that can't
// be made, an answer that came whole and can't be read.
var errFinal = errors.New("to send it again is of no use")

// do sends r until it is answered for good, and reads the answer into into
// unless that is nil.
func (c *client) do(ctx context.Context, r request, into any) (reply, error) {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return reply{}, fmt.Errorf("encode a %T: %w", r.body, err)
		}
	}
	start := time.Now()
	limited, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		out, err := c.once(limited, r, body, into)
		wait, again := retry(err)
		switch {
		case err == nil || !again:
			return out, err
		case ctx.Err() != nil:
			return reply{}, fmt.Errorf("%s %s: %w", r.method, r.path, ctx.Err())
		}
		if !rest(limited, max(wait, jitter(pause))) {
			if ctx.Err() != nil {
				return reply{}, fmt.Errorf("%s %s: %w", r.method, r.path, ctx.Err())
			}
			return reply{}, fmt.Errorf("%s gave no answer to %s %s within %s: %w", c.base, r.method, r.path, time.Since(start).Round(time.Millisecond), err)
		}
	}
}

// retry says whether a failure may pass, and how long the server wants to be left alone.
func retry(err error) (time.Duration, bool) {
	if err == nil || errors.Is(err, errFinal) {
		return 0, false
	}
	if refusal, ok := errors.AsType[*refusalError](err); ok {
		return refusal.retryAfter, refusal.passing()
	}
	return 0, true // nothing came, or not all of it
}

// jitter is between half of d and all of it.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1) //nolint:gosec // it spreads repeats and guards nothing
}

// rest waits for d, and says false if ctx ends before.
func rest(ctx context.Context, d time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) < d {
		return false // to wait would be all that is left to do
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// once sends r one time.
func (c *client) once(ctx context.Context, r request, body []byte, into any) (reply, error) {
	req, err := c.request(ctx, r, body)
	if err != nil {
		return reply{}, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return reply{}, fmt.Errorf("read the answer to %s %s: %w", r.method, r.path, err)
	}
	if resp.StatusCode/100 != 2 {
		return reply{}, refusalOf(resp, text)
	}
	out := reply{
		created:  resp.StatusCode == http.StatusCreated,
		repeated: resp.Header.Get("Idempotent-Replayed") == "true",
		token:    resp.Header.Get("Cartwright-Token"),
	}
	if into == nil {
		return out, nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return reply{}, fmt.Errorf("%s %s: %w: %w", r.method, r.path, errFinal, err)
	}
	return out, nil
}

func (c *client) request(ctx context.Context, r request, body []byte) (*http.Request, error) {
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, content)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %w", r.method, r.path, errFinal, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, value := range map[string]string{"Idempotency-Key": r.key, "Cartwright-Token": r.token} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	if !r.at.IsZero() {
		req.Header.Set("Cartwright-At", r.at.UTC().Format(time.RFC3339Nano))
	}
	return req, nil
}

// refusalOf reads a problem. Whatever else came is a refusal without a slug.
func refusalOf(resp *http.Response, text []byte) *refusalError {
	e := &refusalError{status: resp.StatusCode}
	var problem struct {
		Type, Title, Detail string
		Errors              []struct{ Pointer string }
	}
	if err := json.Unmarshal(text, &problem); err == nil {
		e.slug = strings.TrimPrefix(problem.Type, "/problems/")
		if e.detail = problem.Detail; e.detail == "" {
			e.detail = problem.Title
		}
		if len(problem.Errors) > 0 {
			e.detail += " (" + problem.Errors[0].Pointer + ")"
		}
	}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.retryAfter = time.Duration(min(seconds, 3600)) * time.Second
	}
	return e
}
