package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"cartwright/commands"
	"cartwright/domain/event"
	"cartwright/infra/httpedge"
	"cartwright/infra/kafkabus"
	"cartwright/infra/openapi"
	"cartwright/infra/process"
	"cartwright/infra/relay"
	"cartwright/readapi"
	"cartwright/writeapi"
)

// A part is one job a process can have. serve has them all.
type part struct {
	name, short, long string
	write, read       bool // an HTTP API
	relay             bool
	project           bool
	process           bool
}

func (p part) needs() needs {
	n := needs{log: true, stays: true}
	if p.write {
		n = n.with(needs{shop: true})
	}
	if p.read {
		n = n.with(needs{views: true, keys: true})
	}
	if p.project {
		n = n.with(needs{views: true})
	}
	if p.process {
		n = n.with(needs{shop: true, views: true, bus: true})
	}
	if p.relay || p.project {
		n = n.with(needs{bus: true})
	}
	return n
}

func (p part) listens() bool { return p.write || p.read }

var parts = []part{
	{
		name: "serve", short: "Run everything in one process", write: true, read: true, relay: true, project: true, process: true,
		long: `Run both APIs, the relay, the projections and the processes in one process.
With no backend configured all of them are embedded and live in the data folder;
nothing that was acknowledged is lost, however the process ends.

  cartwright serve                                    127.0.0.1:8080 and ./data
  cartwright serve --listen 127.0.0.1:9000 --data /var/lib/cartwright
  cartwright serve --allow-backdating                 for an import of old orders`,
	},
	{
		name: "write", short: "Run the command API alone", write: true,
		long: "Run the command API alone. It needs the event log only: a cluster's, another process's beside it on one data folder, or its own.",
	},
	{
		name: "read", short: "Run the query API alone", read: true,
		long: "Run the query API alone, on the views in the data folder as they are. Orders by id are folded from the log where the views are behind.",
	},
	{
		name: "relay", short: "Carry events from the log to the bus", relay: true,
		long: "Run the relay alone. A second relay beside the first is harmless: it stands by.",
	},
	{
		name: "project", short: "Keep the views", project: true,
		long: "Run the projections alone: read the bus and keep the views.",
	},
	{
		name: "process", short: "Follow orders with commands, and fire timers", process: true,
		long: "Run the processes alone: what follows a payment, a parcel or a refund, and the deadlines.",
	},
}

func newPartCommands(cfg config) []*cobra.Command {
	cmds := make([]*cobra.Command, len(parts))
	for i, p := range parts {
		c := cfg
		cmds[i] = &cobra.Command{
			Use: p.name, Short: p.short, Long: p.long, Args: usageArgs(cobra.NoArgs),
		}
		flags := cmds[i].Flags()
		c.backendFlags(flags)
		c.partFlags(flags)
		if p.listens() {
			c.listenFlag(flags)
		}
		if p.write || p.process {
			c.writeFlags(flags)
		}
		cmds[i].RunE = func(cmd *cobra.Command, _ []string) error { return runPart(cmd.Context(), cmd, c, p) }
	}
	return cmds
}

// runPart runs until ctx ends or something fails that can't go on: it stops
// listening, drains, and closes in the reverse order of opening.
func runPart(ctx context.Context, cmd *cobra.Command, cfg config, p part) (err error) {
	gin.SetMode(gin.ReleaseMode)
	calmCollector()
	s, err := openSystem(ctx, cfg, p.needs())
	if err != nil {
		return err
	}
	defer func() {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.Stop)
		defer cancel()
		err = errors.Join(err, s.close(cctx))
	}()
	if p.project {
		if err = s.catchUp(ctx); err != nil {
			return err
		}
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g, gctx := errgroup.WithContext(ctx)
	if err = (&running{system: s, part: p}).start(gctx, g, cmd.OutOrStdout()); err != nil {
		stop()
	}
	return errors.Join(err, g.Wait())
}

// calmCollector lets the heap grow further between two collections than Go's
// default: a server allocates much and keeps little. GOGC, if set, has its way.
func calmCollector() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
}

// running are the parts that run in this process.
type running struct {
	*system
	part part

	relay  *relay.Relay
	runner *process.Runner
	meter  *kafkabus.Meter
}

// start starts everything, and says on out when it is ready.
func (r *running) start(ctx context.Context, g *errgroup.Group, out io.Writer) error {
	for _, begin := range []func(context.Context, *errgroup.Group) error{
		r.startRelay, r.startProjections, r.startProcess, r.startMetrics, r.startProfiles, r.startAdmin,
	} {
		if err := begin(ctx, g); err != nil {
			return err
		}
	}
	where, err := r.listen(ctx, g)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "cartwright %s is ready: %s\n", r.part.name, where)
	return err
}

func (r *running) startRelay(ctx context.Context, g *errgroup.Group) error {
	if !r.part.relay {
		return nil
	}
	bus, err := kafkabus.NewPublisher(r.bus(""))
	if err != nil {
		return err
	}
	r.opened(func(context.Context) error { return bus.Close() })
	r.relay = &relay.Relay{
		Name: r.bookmark, Source: r.store, Bus: bus, Marks: r.store, Log: r.log,
		// Bookmarks, keys, ids and snapshots never reach the bus.
		Prefixes: categories(),
	}
	if r.broker != nil {
		r.relay.Disk = r.broker
	}
	g.Go(func() error { return r.relay.Run(ctx) })
	return nil
}

func (r *running) startProjections(ctx context.Context, g *errgroup.Group) error {
	if !r.part.project {
		return nil
	}
	var err error
	if r.views.enlist != nil {
		if err = r.views.enlist(ctx); err != nil {
			r.log.WarnContext(ctx, "the cache does not answer: the views wait for it", "err", err)
		}
	}
	if r.meter, err = kafkabus.NewMeter(r.bus(r.cfg.groupViews())); err != nil {
		return err
	}
	r.opened(func(context.Context) error { return r.meter.Close() })
	g.Go(func() error { return kafkabus.Batches{Config: r.bus(r.cfg.groupViews())}.Run(ctx, r.views.set.Handle) })
	if r.views.embedded || r.store.node != nil {
		g.Go(func() error { r.rememberViews(ctx); return nil })
	}
	if r.cfg.ArchiveEvery > 0 {
		g.Go(func() error { r.archiveNowAndThen(ctx); return nil })
	}
	return nil
}

func (r *running) startProcess(ctx context.Context, g *errgroup.Group) error {
	if !r.part.process {
		return nil
	}
	sub, err := kafkabus.NewSubscriber(kafkabus.SubscriberOptions{Config: r.bus(r.cfg.groupProcess()), Types: commands.Follows(), Wants: commands.Heeds})
	if err != nil {
		return err
	}
	r.opened(func(context.Context) error { return sub.Close() })
	r.runner = &process.Runner{
		Name: "orders", Subscriber: sub, Topic: r.cfg.topic(), React: r.shop.React, Log: r.log,
		Park: r.shop.Park, Passing: commands.Passes,
	}
	g.Go(func() error { return r.runner.Run(ctx) })
	timers := commands.Timers{Shop: r.shop, Deadlines: dues{r.views.deadlines}, Log: r.log}
	g.Go(func() error { return timers.Run(ctx) })
	return nil
}

// listen opens the HTTP address, if the part has one, and says where everything is.
func (r *running) listen(ctx context.Context, g *errgroup.Group) (where string, err error) {
	if !r.part.listens() {
		return "data " + r.cfg.Data, nil
	}
	engine, err := r.engine() //nolint:contextcheck // its routes take the context of their request
	if err != nil {
		return "", err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", r.cfg.Listen)
	if err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	if !loopback(l.Addr().String()) {
		r.log.Warn("the API has no credentials yet and is open to whoever reaches this address", "address", l.Addr().String())
	}
	r.serveHTTP(ctx, g, l, engine)
	if r.folder != nil {
		if err := r.folder.write("http", "http://"+l.Addr().String()); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("http://%s data %s event log %s bus %s", l.Addr(), r.cfg.Data,
		orEmbedded(r.cfg.EventStore), orEmbedded(strings.Join(r.cfg.Kafka, ","))), nil
}

func orEmbedded(setting string) string {
	if setting == "" {
		return "embedded"
	}
	return setting
}

// serveHTTP serves until ctx ends, then lets the requests under way finish.
func (r *running) serveHTTP(ctx context.Context, g *errgroup.Group, l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve on %s: %w", l.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.Stop/2)
		defer cancel()
		if err := srv.Shutdown(sctx); err != nil {
			return errors.Join(fmt.Errorf("requests under way were cut off: %w", err), srv.Close())
		}
		return nil
	})
}

func (r *running) engine() (*gin.Engine, error) {
	doc, err := openapi.Document()
	if err != nil {
		return nil, err
	}
	engine, err := httpedge.New(httpedge.Config{Log: r.log, OpenAPI: doc, Ready: r.checks(), Observe: func(s httpedge.Served) {
		r.metrics.Served(s.Method, s.Route, s.Status, s.Slug, s.Took)
	}})
	if err != nil {
		return nil, err
	}
	if r.cfg.RateLimit > 0 {
		if err = r.limit(engine); err != nil {
			return nil, err
		}
	}
	if r.part.write {
		err = writeapi.Routes(engine, writeapi.Config{
			Log: r.log, Shop: r.shop, Channels: r.listeners, DigestSecret: r.secret("digest"), AllowBackdating: r.cfg.Backdating,
		})
	}
	if err == nil && r.part.read {
		err = readapi.Routes(engine, r.reads())
	}
	return engine, err
}

// callersKnown is how many callers a process without Redis counts.
const callersKnown = 100_000

// limit has callers counted: for all processes in Redis, or for this one.
func (r *running) limit(engine *gin.Engine) (err error) {
	var limiter httpedge.Limiter
	if r.redis != nil {
		limiter, err = r.redis.Limiter("http", r.cfg.RateLimit, r.cfg.RateBurst)
	} else {
		limiter, err = httpedge.NewBuckets(r.cfg.RateLimit, r.cfg.RateBurst, callersKnown)
	}
	if err != nil {
		return err
	}
	engine.Use(httpedge.Limit(httpedge.Limits{Log: r.log, Limiter: limiter}))
	return nil
}

func (r *running) checks() []httpedge.Check {
	checks := []httpedge.Check{{Name: "event_log", Run: func(ctx context.Context) error {
		_, err := r.store.Head(ctx)
		return err
	}}}
	if r.meter != nil {
		checks = append(checks, httpedge.Check{Name: "bus", Run: func(ctx context.Context) error {
			_, err := r.meter.Lag(ctx)
			return err
		}})
	}
	return checks
}

// categories are those of the streams that others hear of: views and processes.
// Keys, bookmarks and lists of our own never reach the bus.
func categories() []string {
	return []string{"order-", "inventory-", "account-", "offer-", "payment-", "trade-"}
}

// catchUp brings the views of this process's own folder up to the log after a
// stop that may have taken from them what they had told the bus they had:
// everything behind the last position at which they were known to be on the disk
// is applied again. Views on servers keep what they have taken.
func (s *system) catchUp(ctx context.Context) error {
	if !s.views.embedded {
		return nil
	}
	s.views.kept = true
	clean, err := takeLeave(s.folder.path)
	if err != nil {
		return err
	}
	if clean && (s.broker == nil || !s.broker.Unclean()) {
		return nil
	}
	s.log.Info("views catch up, since they were not closed as they should be")
	return s.bringUp(ctx)
}

// bringUp applies to the views what the log has behind the last position that
// was written down for them. What they have seen is skipped. Views that were
// deleted, of which nothing is written down, are built like in a replay.
func (s *system) bringUp(ctx context.Context) error {
	safe, err := readPosition(s.folder.path, appliedPosition)
	if err != nil {
		return err
	}
	if safe == 0 {
		if err := s.buildEmpty(ctx); err != nil {
			return err
		}
	}
	var batch []event.Recorded
	for r, err := range s.store.All(ctx, safe, categories()...) {
		if err != nil {
			return fmt.Errorf("catch up behind %d: %w", safe, err)
		}
		if batch = append(batch, r); len(batch) == 1000 {
			if err := s.views.set.Handle(ctx, batch); err != nil {
				return fmt.Errorf("catch up: %w", err)
			}
			batch = batch[:0]
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return s.views.set.Handle(ctx, batch)
}

// smallLog is how many positions are sooner applied than a generation is built.
const smallLog = 10_000

// buildEmpty builds the views of this process's own folder that have nothing,
// where the log has much.
func (s *system) buildEmpty(ctx context.Context) error {
	head, err := s.store.Head(ctx)
	if err != nil || head <= smallLog {
		return err
	}
	for _, v := range s.views.tools {
		documents, err := v.count(ctx)
		if err == nil && documents == 0 {
			_, err = v.replay(ctx, replayJob{source: s.store, workers: runtime.GOMAXPROCS(0), park: true, keep: 1})
		}
		if err != nil {
			return fmt.Errorf("build %s: %w", v.name, err)
		}
	}
	return nil
}
