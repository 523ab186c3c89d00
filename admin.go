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
	"net/http/pprof"
	"time"

	"golang.org/x/sync/errgroup"

	"cartwright/domain/event"
	"cartwright/infra/redisviews"
	"cartwright/projections"
)

// A job is what an operator asks of whoever owns the data folder.
type job struct {
	Do      string   `json:"do"` // replay, verify, parked, show, redrive, status or backup
	Views   []string `json:"views,omitempty"`
	Stream  string   `json:"stream,omitempty"`
	Workers int      `json:"workers,omitempty"`
	Park    bool     `json:"park,omitempty"`
	Dry     bool     `json:"dry,omitempty"`    // replay: throw the result away
	Back    bool     `json:"back,omitempty"`   // replay: return to the generation before
	Repair  bool     `json:"repair,omitempty"` // verify: put folds in the place of what drifted
}

// news is a line of the answer. The last one says Done, or why it failed.
type news struct {
	View       string                   `json:"view,omitempty"`
	Progress   *progressNews            `json:"progress,omitempty"`
	Difference *projections.Difference  `json:"difference,omitempty"`
	Parked     *projections.Parked      `json:"parked,omitempty"`
	Event      *shownEvent              `json:"event,omitempty"` // the one a stream is parked at
	Verified   *projections.Verified    `json:"verified,omitempty"`
	Poison     *projections.PoisonError `json:"poison,omitempty"`
	Status     *statusNews              `json:"status,omitempty"`
	Done       bool                     `json:"done,omitempty"`
	Failed     string                   `json:"failed,omitempty"`
}

type progressNews struct {
	Events   int64   `json:"events"`
	Streams  int64   `json:"streams"`
	Position uint64  `json:"position"`
	Head     uint64  `json:"head"`
	Rate     float64 `json:"rate"` // events a second
	Seconds  float64 `json:"seconds"`
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
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
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
		last = news{Failed: err.Error()}
	}
	_ = tell(last) // whoever asked may have gone
}

func (r *running) do(ctx context.Context, j job, tell func(news) error) error {
	switch j.Do {
	case "status":
		return r.tellStatus(ctx, tell)
	case "backup":
		return r.backup(ctx)
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
	chosen, err := s.views.choose(j.Views)
	if err != nil {
		return err
	}
	for _, v := range chosen {
		switch j.Do {
		case "replay":
			err = s.replay(ctx, v, j, tell)
		case "verify":
			err = s.verify(ctx, v, j.Repair, tell)
		case "parked":
			err = tellParked(ctx, v, tell)
		case "show":
			err = s.showParked(ctx, v, j.Stream, tell)
		case "redrive":
			err = s.redrive(ctx, v, j.Stream, tell)
		default:
			return fmt.Errorf("there is no job %q", j.Do)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", j.Do, v.name, err)
		}
	}
	return nil
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

func (s *system) replay(ctx context.Context, v viewTool, j job, tell func(news) error) error {
	head, err := s.store.Head(ctx)
	if err != nil {
		return err
	}
	report := func(p projections.Progress) {
		_ = tell(news{View: v.name, Progress: &progressNews{ // a reader that left does not stop a rebuild
			Events: p.Events, Streams: p.Streams, Position: p.Position, Head: head, Rate: p.Rate(), Seconds: p.Elapsed.Seconds(),
		}})
	}
	err = s.alone(ctx, "replay/"+v.name, func(ctx context.Context) error {
		run := v.replay
		if j.Back {
			run = v.goBack
		}
		_, failed := run(ctx, replayJob{source: s.store, workers: max(1, j.Workers), park: j.Park, dry: j.Dry, progress: report})
		return failed
	})
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
		return fmt.Errorf("another process is at it: %w", err)
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

func (s *system) verify(ctx context.Context, v viewTool, repair bool, tell func(news) error) error {
	sum, err := v.verify(ctx, verifyJob{source: s.store, repair: repair, report: func(d projections.Difference) error {
		return tell(news{View: v.name, Difference: &d})
	}})
	if err != nil {
		return err
	}
	return tell(news{View: v.name, Verified: &sum})
}

func tellParked(ctx context.Context, v viewTool, tell func(news) error) error {
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
func (s *system) showParked(ctx context.Context, v viewTool, stream string, tell func(news) error) error {
	parked, err := v.parked(ctx)
	if err != nil {
		return err
	}
	for _, p := range parked {
		if p.Stream != stream {
			continue
		}
		n := news{View: v.name, Parked: &p}
		for r, err := range s.store.Load(ctx, stream, p.Revision-1) {
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
func (s *system) redrive(ctx context.Context, v viewTool, stream string, tell func(news) error) error {
	parked, err := v.parked(ctx)
	if err != nil {
		return err
	}
	for _, p := range parked {
		if stream != "" && p.Stream != stream {
			continue
		}
		err := v.redrive(ctx, p.Stream)
		if _, still := errors.AsType[*projections.ParkedError](err); err != nil && !still {
			return err
		}
	}
	return tellParked(ctx, v, tell) // what is still wrong
}

// ask carries out a job where the views are: in the process that owns the data
// folder, or here when nobody does.
func ask(ctx context.Context, cfg config, j job, tell func(news) error) error {
	s, err := openSystem(ctx, cfg, needs{log: true, views: true})
	if errors.Is(err, errOwned) {
		return askOwner(ctx, cfg, j, tell)
	}
	if err != nil {
		return err
	}
	if s.views.embedded || s.store.node != nil {
		// Nobody else follows the log just now, so what the last owner had not read yet is read first.
		err = s.bringUp(ctx)
	}
	if err == nil {
		err = s.do(ctx, j, tell)
	}
	return errors.Join(err, s.close(context.WithoutCancel(ctx)))
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
