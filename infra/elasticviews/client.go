package elasticviews

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/elastic/go-elasticsearch/v8"

	"cartwright/projections"
)

// A client sends requests to any of the hosts, and again where that helps.
type client struct {
	hosts    *elasticsearch.BaseClient
	pool     *http.Transport
	timeout  time.Duration
	attempts int
	pause    time.Duration // before the second attempt; doubled for each that follows
	secrets  []string
}

// longest is the longest pause between two attempts.
const longest = 2 * time.Second

func newClient(cfg Config) (*client, error) {
	addresses := make([]string, len(cfg.Addresses))
	secrets := []string{cfg.Password, cfg.APIKey}
	for i, address := range cfg.Addresses {
		// What url.Parse says quotes the address, which may have a password in it.
		u, err := url.Parse(strings.TrimRight(address, "/"))
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("address %d of %d is not one like https://host:9200", i+1, len(cfg.Addresses))
		}
		if password, ok := u.User.Password(); ok {
			secrets = append(secrets, password)
		}
		addresses[i] = u.String()
	}
	pool := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:     cfg.TLS,
		TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConnsPerHost: 32,
		IdleConnTimeout:     90 * time.Second,
		ForceAttemptHTTP2:   false,
	}
	c := &client{pool: pool, timeout: cfg.Timeout, attempts: cfg.Attempts, pause: cfg.Pause, secrets: secrets}
	var err error
	if c.hosts, err = elasticsearch.NewBaseClient(elasticsearch.Config{
		Addresses: addresses, Username: cfg.User, Password: cfg.Password, APIKey: cfg.APIKey,
		Transport: pool, DisableRetry: true, DisableMetaHeader: true,
	}); err != nil {
		return nil, c.scrubbed(err)
	}
	return c, nil
}

func (c *client) close(ctx context.Context) error {
	err := c.hosts.Close(ctx) // which ends what waits for dead hosts to come back
	c.pool.CloseIdleConnections()
	return err
}

// A request is one call of the server. Names of indices and views need no
// escaping, and documents are named in bodies only.
type request struct {
	method, path string
	query        url.Values
	body         []byte
}

// get, post, put and remove make requests whose bodies, if any, are JSON.
func get(path string) request    { return request{method: http.MethodGet, path: path} }
func remove(path string) request { return request{method: http.MethodDelete, path: path} }

func post(path string, body any) (request, error) { return withBody(http.MethodPost, path, body) }
func put(path string, body any) (request, error)  { return withBody(http.MethodPut, path, body) }

func withBody(method, path string, body any) (request, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return request{}, fmt.Errorf("encode a request to %s: %w", path, err)
	}
	return request{method: method, path: path, body: raw}, nil
}

func (r request) with(name, value string) request {
	query := url.Values{name: {value}}
	maps.Copy(query, r.query)
	r.query = query
	return r
}

// An answerError is what the server says when it does not do what it was asked.
type answerError struct {
	Status int
	Type   string
	Reason string
}

func (e *answerError) Error() string {
	if e.Type == "" {
		return fmt.Sprintf("the server answers %d", e.Status)
	}
	return fmt.Sprintf("the server answers %d: %s: %s", e.Status, e.Type, e.Reason)
}

const (
	noIndex      = "index_not_found_exception"
	indexExists  = "resource_already_exists_exception"
	indexClosed  = "index_closed_exception"
	mostOfReason = 300
)

// later tells the answers that ask to come again.
func later(status int) bool {
	return status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || status >= http.StatusInternalServerError
}

func isType(err error, kind string) bool {
	answer, ok := errors.AsType[*answerError](err)
	return ok && answer.Type == kind
}

func isMissing(err error) bool {
	answer, ok := errors.AsType[*answerError](err)
	return ok && answer.Status == http.StatusNotFound
}

// ask sends a request and decodes the answer, patiently: all requests may be
// sent twice.
func ask[T any](ctx context.Context, c *client, r request) (answer T, err error) {
	err = c.patient(ctx, func() error {
		answer, err = one[T](ctx, c, r)
		return err
	})
	return answer, err
}

// patient tries something again, for a while, that may succeed then. When it
// gives up the error is a projections.ErrUnavailable, or the caller's if its
// context has ended.
func (c *client) patient(ctx context.Context, try func() error) error {
	begun, pause := time.Now(), c.pause
	for attempt := 1; ; attempt++ {
		err := try()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if hopeless(err) {
			return err
		}
		if attempt >= c.attempts || time.Since(begun) > c.timeout {
			return fmt.Errorf("%w: %w", projections.ErrUnavailable, err)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, longest)
	}
}

// hopeless tells the errors that come again whenever the same is asked.
func hopeless(err error) bool {
	if refusal, ok := errors.AsType[*answerError](err); ok {
		return !later(refusal.Status)
	}
	_, final := errors.AsType[*finalError](err)
	_, stranger := errors.AsType[*tls.CertificateVerificationError](err)
	return final || stranger
}

// sleep waits for about this long, so that those who were turned away together
// do not come back together.
func sleep(ctx context.Context, pause time.Duration) error {
	t := time.NewTimer(pause/2 + rand.N(pause/2+1)) //nolint:gosec // chance, not secrecy
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errSilent = errors.New("the server does not answer in time")

// one sends a request once.
func one[T any](ctx context.Context, c *client, r request) (answer T, err error) {
	// The cause keeps this end from being taken for the caller's.
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, errSilent)
	defer cancel()
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), errSilent) {
			err = errSilent
		}
	}()
	req, err := http.NewRequestWithContext(ctx, r.method, r.path, bytes.NewReader(r.body))
	if err != nil {
		return answer, err
	}
	req.URL.RawQuery = r.query.Encode()
	req.Header.Set("Accept", "application/json")
	if len(r.body) > 0 {
		req.Header.Set("Content-Type", "application/json") // which _bulk takes for its lines too
	} else {
		req.Body, req.GetBody, req.ContentLength = http.NoBody, nil, 0
	}
	res, err := c.hosts.Perform(req)
	if err != nil {
		return answer, c.scrubbed(err)
	}
	defer func() { _ = res.Body.Close() }() // what was read of it is all there is
	if res.StatusCode >= http.StatusMultipleChoices {
		return answer, c.refusal(res)
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return answer, fmt.Errorf("read the answer: %w", c.scrubbed(err))
	}
	// A connection is used again only when its answer was read to the end.
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return answer, fmt.Errorf("read the answer: %w", c.scrubbed(err))
	}
	return answer, nil
}

// refusal reads what the server says of a request that it does not carry out.
func (c *client) refusal(res *http.Response) error {
	const most = 64 << 10
	raw, err := io.ReadAll(io.LimitReader(res.Body, most))
	if err != nil {
		return fmt.Errorf("read answer %d: %w", res.StatusCode, c.scrubbed(err))
	}
	var said struct {
		Error json.RawMessage `json:"error"`
	}
	var reason failure
	// A proxy's page is no JSON, and some answers are a text only.
	if json.Unmarshal(raw, &said) == nil && json.Unmarshal(said.Error, &reason) != nil {
		reason.Reason = strings.Trim(string(said.Error), `"`)
	}
	return &answerError{res.StatusCode, reason.Type, c.shown(reason.Reason)}
}

// A failure is what the server says of one item or one shard.
type failure struct {
	Type   string `json:"type"`
	Reason string `json:"reason"`
}

// shown shortens what the server says and takes out what must not be seen.
func (c *client) shown(reason string) string {
	for _, secret := range c.secrets {
		if secret != "" {
			reason = strings.ReplaceAll(reason, secret, "***")
		}
	}
	if len(reason) > mostOfReason {
		reason = strings.ToValidUTF8(reason[:mostOfReason], "") + "…"
	}
	return reason
}

// scrubbed keeps secrets out of errors that others have written.
func (c *client) scrubbed(err error) error {
	if text := err.Error(); c.shown(text) != text {
		return errors.New(c.shown(text))
	}
	return err
}
