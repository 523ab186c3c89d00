package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"cartwright/domain/event"
	"cartwright/infra/esdbnode"
	"cartwright/infra/redisviews"
	"cartwright/infra/relay"
	"cartwright/projections"
)

// A job is what an operator asks of whoever owns the data folder.
type job struct {
	Do    string   `json:"do"` // replay, generations, verify, parked, show, redrive, drop, archive, tiers, erase, scavenge, node-stats, node-compact, status or backup
	Views []string `json:"views,omitempty"`

	Stream string `json:"stream,omitempty"` // show, redrive, drop
	Reason string `json:"reason,omitempty"` // drop
	By     string `json:"by,omitempty"`

	Workers int           `json:"workers,omitempty"`
	Park    bool          `json:"park,omitempty"`
	Dry     bool          `json:"dry,omitempty"`    // replay: throw the result away
	Stay    bool          `json:"stay,omitempty"`   // replay: build, and do not switch
	Anew    bool          `json:"anew,omitempty"`   // replay: go on with nothing that was left
	Back    bool          `json:"back,omitempty"`   // replay: return to the generation before
	To      int           `json:"to,omitempty"`     // or to this one
	Keep    int           `json:"keep,omitempty"`   // replay: earlier generations
	Choice  *streamChoice `json:"choice,omitempty"` // replay: of streams; nil is all

	MarkEvery time.Duration `json:"mark_every,omitempty"` // replay: how often it is written down how far it is

	Repair bool   `json:"repair,omitempty"` // verify: put folds in the place of what drifted
	Sample int    `json:"sample,omitempty"` // verify: about so many streams
	Since  string `json:"since,omitempty"`  // verify: a position, or last
	Rate   int    `json:"rate,omitempty"`   // verify: events a second, 0 for as many as can be

	Before time.Time `json:"before,omitzero"` // archive: what was closed before

	Streams []string `json:"streams,omitempty"` // scavenge: only these
}

// A streamChoice is a projections.Choice on its way.
type streamChoice struct {
	Streams []string  `json:"streams,omitempty"`
	Buyer   string    `json:"buyer,omitempty"`
	Seller  string    `json:"seller,omitempty"`
	From    time.Time `json:"from,omitzero"`
	To      time.Time `json:"to,omitzero"`
}

func (c *streamChoice) choice() projections.Choice {
	if c == nil {
		return projections.Choice{}
	}
	return projections.Choice{Streams: c.Streams, Buyer: c.Buyer, Seller: c.Seller, From: c.From, To: c.To}
}

// news is a line of the answer. The last one says Done, or why it failed.
type news struct {
	View       string                   `json:"view,omitempty"`
	Progress   *progressNews            `json:"progress,omitempty"`
	Difference *projections.Difference  `json:"difference,omitempty"`
	Parked     *projections.Parked      `json:"parked,omitempty"`
	Stuck      *stuckNews               `json:"stuck,omitempty"`
	Event      *shownEvent              `json:"event,omitempty"` // the one a stream is parked at
	Verified   *projections.Verified    `json:"verified,omitempty"`
	Poison     *projections.PoisonError `json:"poison,omitempty"`
	Lineage    *generationNews          `json:"generations,omitempty"`
	Archive    *archiveNews             `json:"archive,omitempty"`
	Erased     *erasedNews              `json:"erased,omitempty"`
	Scavenged  *esdbnode.Scavenged      `json:"scavenged,omitempty"`
	Node       *nodeNews                `json:"node,omitempty"`
	Compacted  *compactedNews           `json:"compacted,omitempty"`
	Status     *statusNews              `json:"status,omitempty"`
	Done       bool                     `json:"done,omitempty"`
	Failed     string                   `json:"failed,omitempty"`
	Exit       int                      `json:"exit,omitempty"` // of whoever asked, if it failed
}

type progressNews struct {
	Events   int64   `json:"events"`
	Streams  int64   `json:"streams"`
	Position uint64  `json:"position"`
	Resumed  uint64  `json:"resumed,omitempty"` // where an earlier run had come to
	Head     uint64  `json:"head"`
	Rate     float64 `json:"rate"` // events a second
	Seconds  float64 `json:"seconds"`
	Final    bool    `json:"final,omitempty"` // it is done
}

type statusNews struct {
	Head      uint64 `json:"head"`       // of the log
	Relayed   uint64 `json:"relayed"`    // up to here it is on the bus
	RelayLag  string `json:"relay_lag"`  // the age of what waits for the bus
	ViewsAt   uint64 `json:"views_at"`   // the furthest the views have seen
	BusLag    int64  `json:"bus_lag"`    // events the views have still to read
	Reactions int64  `json:"reactions"`  // done by the processes since the start
	Failures  int64  `json:"failures"`   // of reactions, each of which was tried again
	RelaySaid string `json:"relay_said"` // its last error
}

// startAdmin listens on run/admin.sock, for the tools of this machine's operators,
// profilers among them: curl --unix-socket run/admin.sock http://admin/debug/pprof/profile.
func (r *running) startAdmin(ctx context.Context, g *errgroup.Group) error {
	if r.folder == nil {
		return nil
	}
	socket, err := r.folder.socket("admin.sock")
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("listen for operators: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /", r.admin)
	if r.metrics != nil {
		mux.Handle("GET /metrics", r.metrics.Handler())
	}
	profiles(mux)
	r.serveHTTP(ctx, g, l, mux)
	return nil
}

// admin carries out a job and streams its news.
func (r *running) admin(w http.ResponseWriter, req *http.Request) {
	var j job
	if err := json.NewDecoder(http.MaxBytesReader(w, req.Body, 1<<20)).Decode(&j); err != nil {
		http.Error(w, "this is no job: "+err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	flush := http.NewResponseController(w)
	tell := func(n news) error {
		if err := json.NewEncoder(w).Encode(n); err != nil {
			return err
		}
		return flush.Flush()
	}
	last := news{Done: true}
	if err := r.do(req.Context(), j, tell); err != nil {
		r.log.WarnContext(req.Context(), "operator's job failed", "job", j.Do, "err", err)
		last = news{Failed: err.Error(), Exit: exitOf(err)}
	}
	_ = tell(last) // whoever asked may have gone
}

func (r *running) do(ctx context.Context, j job, tell func(news) error) error {
	switch j.Do {
	case "status":
		return r.tellStatus(ctx, tell)
	case "backup":
		return r.backup(ctx)
	case "erase":
		return r.erase(ctx, j, tell)
	case "scavenge", "node-stats", "node-compact":
		return r.nodeJob(ctx, j, tell)
	}
	return r.system.do(ctx, j, tell)
}

func (r *running) tellStatus(ctx context.Context, tell func(news) error) error {
	var s statusNews
	var err error
	if s.Head, err = r.store.Head(ctx); err != nil {
		return err
	}
	if r.bookmark != "" {
		if s.Relayed, err = r.relayed(ctx); err != nil {
			return err
		}
	}
	if r.relay != nil {
		at := r.relay.Status()
		s.RelayLag = at.Behind.Round(time.Millisecond).String()
		if at.LastError != nil {
			s.RelaySaid = at.LastError.Error()
		}
	}
	if r.views != nil {
		s.ViewsAt = r.views.set.Position()
	}
	if r.meter != nil {
		if s.BusLag, err = r.meter.Lag(ctx); err != nil {
			return err
		}
	}
	if r.runner != nil {
		done := r.runner.Status()
		s.Reactions, s.Failures = done.Done, done.Failed
	}
	return tell(news{Status: &s})
}

// do carries out a job on the views that are open here.
func (s *system) do(ctx context.Context, j job, tell func(news) error) error {
	if s.views == nil {
		return errors.New("this process has no views")
	}
	switch j.Do {
	case "archive":
		return s.archive(ctx, j.Before, tell)
	case "tiers":
		return s.tellTiers(ctx, tell)
	}
	run, known := map[string]func(context.Context, viewTool, job, func(news) error) error{
		"replay": s.replay, "generations": tellLineage, "verify": s.verify,
		"parked": tellParked, "show": s.showParked, "redrive": s.redrive, "drop": s.drop,
	}[j.Do]
	if !known {
		return fmt.Errorf("there is no job %q", j.Do)
	}
	did := 0
	also, only := j.aboutProcesses()
	if also && s.shop != nil {
		found, err := s.doStuck(ctx, j, tell)
		if err == nil && only && j.Stream != "" && !found {
			err = fmt.Errorf("%s: %s is not parked by a process", j.Do, j.Stream)
		}
		if err != nil || only {
			return err
		}
		if found {
			did++
		}
	}
	if also {
		j.Views = slices.DeleteFunc(slices.Clone(j.Views), func(name string) bool { return name == processView })
	}
	chosen, err := s.views.choose(j.Views)
	if err != nil {
		return err
	}
	for _, v := range chosen {
		if j.Stay && v.cache {
			if len(chosen) == 1 {
				return usage(fmt.Errorf("%s is a cache, which leaves no generation for later", v.name))
			}
			continue
		}
		err := run(ctx, v, j, tell)
		// Of all views, those are meant that have what was named.
		if len(chosen) > 1 && (errors.Is(err, projections.ErrNoSuchChoice) || errors.Is(err, projections.ErrNotParked)) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", j.Do, v.name, err)
		}
		did++
	}
	if did == 0 {
		return fmt.Errorf("%s: no view has that", j.Do)
	}
	return nil
}

func tellLineage(_ context.Context, v viewTool, _ job, tell func(news) error) error {
	n := v.lineage()
	return tell(news{View: v.name, Lineage: &n})
}

// choose finds views by name; none named, or "all", are all.
func (v *views) choose(names []string) ([]viewTool, error) {
	if len(names) == 0 || (len(names) == 1 && names[0] == "all") {
		return v.tools, nil
	}
	var chosen []viewTool
	for _, name := range names {
		found := false
		for _, t := range v.tools {
			if t.name == name {
				chosen, found = append(chosen, t), true
			}
		}
		if !found {
			return nil, usage(fmt.Errorf("there is no view %q; there are %v", name, v.names()))
		}
	}
	return chosen, nil
}

func (v *views) names() []string {
	names := make([]string, len(v.tools))
	for i, t := range v.tools {
		names[i] = t.name
	}
	return names
}

func (s *system) replay(ctx context.Context, v viewTool, j job, tell func(news) error) (err error) {
	head, err := s.store.Head(ctx)
	if err != nil {
		return err
	}
	counted := func(projections.Progress) {}
	if s.metrics != nil {
		m := s.metrics.Replay(v.name)
		counted = m.Progress
		defer func() { m.Done(err) }()
	}
	newsOf := func(p projections.Progress) *progressNews {
		return &progressNews{
			Events: p.Events, Streams: p.Streams, Position: p.Position, Resumed: p.Resumed, Head: head, Rate: p.Rate(), Seconds: p.Elapsed.Seconds(),
		}
	}
	report := func(p projections.Progress) {
		counted(p)
		_ = tell(news{View: v.name, Progress: newsOf(p)}) // a reader that left does not stop a rebuild
	}
	var done projections.Progress
	err = s.alone(ctx, "replay/"+v.name, func(ctx context.Context) (failed error) {
		done, failed = v.replay(ctx, replayJob{
			source: s.store, choice: j.Choice.choice(), workers: max(1, j.Workers), keep: j.Keep, markEvery: j.MarkEvery,
			park: j.Park, dry: j.Dry, stay: j.Stay, anew: j.Anew, back: j.Back, to: j.To, progress: report,
		})
		return failed
	})
	if err == nil {
		final := newsOf(done)
		final.Final = true
		return tell(news{View: v.name, Progress: final})
	}
	if poison, ok := errors.AsType[*projections.PoisonError](err); ok {
		return errors.Join(tell(news{View: v.name, Poison: poison}), err)
	}
	return err
}

// lockFor is how long a lock outlives a process that was killed.
const lockFor = 30 * time.Second

// alone does something that one process at a time should do, where there is a
// Redis to agree in. Two at once do no harm, they only do it twice: so a Redis
// that is away keeps nobody from it.
func (s *system) alone(ctx context.Context, what string, do func(context.Context) error) (err error) {
	if s.redis == nil {
		return do(ctx)
	}
	lock, err := s.redis.Locks().Acquire(ctx, what, lockFor)
	switch {
	case errors.Is(err, redisviews.ErrLocked):
		return fmt.Errorf("another process is at it, or was killed at it less than %s ago: %w", lockFor, err)
	case err != nil:
		s.log.WarnContext(ctx, "goes on without a lock", "what", what, "err", err)
		return do(ctx)
	}
	// A lock that is lost on the way stops nothing.
	lost := lock.Hold(ctx, func(context.Context) error { err = do(ctx); return nil })
	if lost = errors.Join(lost, lock.Release(context.WithoutCancel(ctx))); lost != nil {
		s.log.WarnContext(ctx, "a lock was lost", "what", what, "err", lost)
	}
	return err
}

func (s *system) verify(ctx context.Context, v viewTool, j job, tell func(news) error) error {
	check := verifyJob{source: s.store, repair: j.Repair, sample: j.Sample, report: func(d projections.Difference) error {
		return tell(news{View: v.name, Difference: &d})
	}}
	var err error
	if check.since, err = s.since(ctx, v.name, j.Since); err != nil {
		return err
	}
	if check.head, err = s.store.Head(ctx); err != nil {
		return err
	}
	if j.Rate > 0 {
		check.spend = rate.NewLimiter(rate.Limit(j.Rate), max(j.Rate, 1000)).WaitN
	}
	sum, err := v.verify(ctx, check)
	if err != nil {
		return err
	}
	if j.Sample == 0 && sum.Differences == sum.Repaired {
		if err := s.verified(ctx, v.name, sum.Position); err != nil {
			return err
		}
	}
	return tell(news{View: v.name, Verified: &sum})
}

// verifiedMark names the mark up to which a view was found to be right.
func (s *system) verifiedMark(view string) string { return "verify-" + s.cfg.Namespace + "-" + view }

// since gives the position behind which a view is to be verified; 0 is all of it.
func (s *system) since(ctx context.Context, view, since string) (uint64, error) {
	switch {
	case since == "":
		return 0, nil
	case since != sinceLast:
		return strconv.ParseUint(since, 10, 64)
	case s.views.embedded:
		return readPosition(s.folder.path, "verified-"+view)
	}
	return relay.Bookmark(ctx, s.store, s.verifiedMark(view))
}

// verified writes down how far a view was found to be right, where the next
// look at it finds that: beside views of a folder, and else in the log.
func (s *system) verified(ctx context.Context, view string, position uint64) error {
	if s.views.embedded {
		return writePosition(s.folder.path, "verified-"+view, position)
	}
	return relay.Remember(ctx, s.store, s.verifiedMark(view), position)
}

// sinceLast asks for what came since a view was last verified.
const sinceLast = "last"

func tellParked(ctx context.Context, v viewTool, _ job, tell func(news) error) error {
	parked, err := v.parked(ctx)
	if err != nil {
		return err
	}
	for _, p := range parked {
		if err := tell(news{View: v.name, Parked: &p}); err != nil {
			return err
		}
	}
	return nil
}

// showParked tells of one parked stream with the event that it is parked at, as
// the log has it.
func (s *system) showParked(ctx context.Context, v viewTool, j job, tell func(news) error) error {
	parked, err := v.parked(ctx)
	if err != nil {
		return err
	}
	for _, p := range parked {
		if p.Stream != j.Stream {
			continue
		}
		n := news{View: v.name, Parked: &p}
		for r, err := range s.store.Load(ctx, p.Stream, p.Revision-1) {
			if err != nil && !errors.Is(err, event.ErrDeleted) {
				return err
			}
			if err == nil {
				n.Event = new(showEvent(r))
			}
			break
		}
		if err := tell(n); err != nil {
			return err
		}
	}
	return nil
}

// redrive takes one stream, or all that are parked, up again.
func (s *system) redrive(ctx context.Context, v viewTool, j job, tell func(news) error) error {
	parked, err := v.parked(ctx)
	if err != nil {
		return err
	}
	for _, p := range parked {
		if j.Stream == "" && p.Dropped != nil || j.Stream != "" && p.Stream != j.Stream {
			continue
		}
		err := v.redrive(ctx, p.Stream)
		if _, still := errors.AsType[*projections.ParkedError](err); err != nil && !still {
			return err
		}
	}
	return tellParked(ctx, v, j, tell) // what is still wrong
}

// drop gives a parked stream up. That it was, why and by whom stays in its
// record, which replays carry over, and in the log of this process.
func (s *system) drop(ctx context.Context, v viewTool, j job, tell func(news) error) error {
	why := projections.Dropped{Reason: j.Reason, By: j.By, At: time.Now().UTC().Truncate(time.Microsecond)}
	p, err := v.drop(ctx, j.Stream, why)
	if err != nil {
		return err
	}
	s.log.WarnContext(ctx, "a parked stream was given up", "view", v.name, "stream", p.Stream, "revision", p.Revision,
		"reason", p.Dropped.Reason, "by", p.Dropped.By)
	return tell(news{View: v.name, Parked: &p})
}

// ask carries out a job where the views are: in the process that owns the data
// folder, or here when nobody does.
func ask(ctx context.Context, cfg config, j job, tell func(news) error) error {
	also, _ := j.aboutProcesses()
	s, err := openSystem(ctx, cfg, needs{log: true, views: true, shop: also})
	if errors.Is(err, errOwned) {
		return askOwner(ctx, cfg, j, tell)
	}
	if err != nil {
		return err
	}
	if (s.views.embedded || s.store.node != nil) && !j.rebuilds() {
		// Nobody else follows the log just now, so what the last owner had not read yet is read first.
		err = s.bringUp(ctx)
	}
	if err == nil {
		err = s.do(ctx, j, tell)
	}
	return errors.Join(err, s.close(context.WithoutCancel(ctx)))
}

// rebuilds tells of a job that reads the whole log itself, whatever the views have.
func (j job) rebuilds() bool {
	return j.Do == "generations" || j.Do == "replay" && !j.Back && j.Choice == nil
}

func askOwner(ctx context.Context, cfg config, j job, tell func(news) error) error {
	socket, err := ownerSocket(cfg.Data, "admin.sock")
	if err != nil {
		return err
	}
	payload, err := json.Marshal(j)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://admin/", bytes.NewReader(payload))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the owner of %s: %w", cfg.Data, err)
	}
	defer func() { _ = resp.Body.Close() }()
	return readNews(resp, tell)
}

// readNews passes the answer on, line by line, until its last one.
func readNews(resp *http.Response, tell func(news) error) error {
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var n news
		if err := json.Unmarshal(lines.Bytes(), &n); err != nil {
			return fmt.Errorf("the owner answered %d %q", resp.StatusCode, lines.Text())
		}
		switch {
		case n.Failed != "" && n.Exit == exitUsage:
			return usage(errors.New(n.Failed))
		case n.Failed != "":
			return errors.New(n.Failed)
		case n.Done:
			return nil
		}
		if err := tell(n); err != nil {
			return err
		}
	}
	return errors.Join(errors.New("the owner of the data folder broke off"), lines.Err())
}
