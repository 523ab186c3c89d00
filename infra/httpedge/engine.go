// Package httpedge is what every request passes before it reaches a route, and
// what both APIs read from a request's head in the same way: a trace and a
// request id, one log line and one observation a request, recovery from
// panics, a bound on requests at once and on the time of each, the two probes,
// the API's description, and entity tags.
//
// # Why
//
// The routes of the write and the read API are mounted by their own packages,
// on one engine or on two. Whatever there may be only once on an engine (probes,
// the description, the answers to unknown paths) is therefore mounted here, by
// New (TestProbesAnswerUnderLoad, TestUnknownPathsAreProblems).
//
// A request over the bound is refused at once with Retry-After and not queued:
// a queue would only make every answer late (TestMoreThanTheBoundIsRefused).
// Probes are outside the bound, for a busy process is not a dead one.
package httpedge

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"cartwright/domain"
	"cartwright/infra/problem"
)

// Config says what New shall make. Only Log is needed.
type Config struct {
	Log      *slog.Logger
	Timeout  time.Duration // of a request; 15 s if 0
	InFlight int           // requests at once; 4096 if 0
	OpenAPI  []byte        // the document served at /v1/openapi.json; not served if nil
	Ready    []Check       // what /readyz asks, in this order
	Observe  func(Served)  // told of every request; may be nil, must not block
}

// A Check is something without which this process serves nobody.
type Check struct {
	Name string
	Run  func(context.Context) error
}

// Served is what became of a request.
type Served struct {
	Method, Route string // Route is the pattern; "" if there was none
	Status        int
	Slug          string // of the problem, if it was one
	Took          time.Duration
}

const (
	defaultTimeout  = 15 * time.Second
	defaultInFlight = 4096
)

// New makes an engine that has everything but the routes of the APIs.
func New(cfg Config) (*gin.Engine, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.InFlight <= 0 {
		cfg.InFlight = defaultInFlight
	}
	r := gin.New()
	r.RedirectTrailingSlash, r.HandleMethodNotAllowed = false, true
	if err := r.SetTrustedProxies(nil); err != nil {
		return nil, err
	}
	r.Use(identify, observe(cfg), problem.Recovery(cfg.Log))
	r.NoRoute(problem.NoRoute(cfg.Log))
	r.NoMethod(problem.NoMethod(cfg.Log))
	r.GET("/healthz", func(c *gin.Context) { c.JSON(http.StatusOK, gin.H{"status": "ok"}) })
	r.GET("/readyz", problem.Handler(cfg.Log, ready(cfg)))
	if cfg.OpenAPI != nil {
		r.GET("/v1/openapi.json", func(c *gin.Context) { c.Data(http.StatusOK, "application/json", cfg.OpenAPI) })
	}
	r.Use(bound(cfg), deadline(cfg.Timeout))
	return r, nil
}

// bound refuses what is more than this process takes on at once.
func bound(cfg Config) gin.HandlerFunc {
	places := make(chan struct{}, cfg.InFlight)
	return func(c *gin.Context) {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
			c.Next()
		default:
			problem.Answer(c, cfg.Log, &domain.Error{
				Code: domain.Unavailable, Reason: "overloaded", RetryAfter: time.Second,
				Detail: "There are more requests under way than this process takes on at once.",
			})
		}
	}
}

// deadline bounds the time of a request; whatever waits for it sees the end in its context.
func deadline(limit time.Duration) gin.HandlerFunc {
	return func(c *gin.Context) {
		ctx, cancel := context.WithTimeout(c.Request.Context(), limit)
		defer cancel()
		c.Request = c.Request.WithContext(ctx)
		c.Next()
	}
}

// ready runs all checks. What a check says is for the log, its name for the caller.
func ready(cfg Config) func(*gin.Context) error {
	return func(c *gin.Context) error {
		ctx, cancel := context.WithTimeout(c.Request.Context(), cfg.Timeout)
		defer cancel()
		refusal := &domain.Error{
			Code: domain.Unavailable, Reason: "not_ready", RetryAfter: time.Second, Detail: "Something this process needs does not answer.",
		}
		checks := gin.H{}
		for _, check := range cfg.Ready {
			checks[check.Name] = "ok"
			if err := check.Run(ctx); err != nil {
				cfg.Log.WarnContext(ctx, "not ready", "check", check.Name, "err", err)
				refusal.Fields = append(refusal.Fields, domain.Field{Pointer: "check:" + check.Name, Detail: "It does not answer."})
			}
		}
		if refusal.Fields != nil {
			return refusal
		}
		c.JSON(http.StatusOK, gin.H{"status": "ready", "checks": checks})
		return nil
	}
}
