package persistent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	pb "github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
	"github.com/google/uuid"
)

// configStream is where it is written down which groups there are.
const configStream = "$persistentSubscriptionConfig"

// grace is how long a group may take to write down how far it came.
const grace = 5 * time.Second

// Options are what a Service is told of the node it is part of.
type Options struct {
	Log  *slog.Logger
	User func(context.Context) string // who makes a call, empty for nobody known
}

// A Service answers the calls about persistent subscriptions, and keeps their
// groups going. It may be used concurrently.
type Service struct {
	pb.UnimplementedPersistentSubscriptionsServer

	store     Log
	log       *slog.Logger
	user      func(context.Context) string
	changing  chan struct{} // holds a token while groups are made or ended
	receiving sync.WaitGroup

	mu      sync.RWMutex
	config  config
	groups  map[string]*running
	topics  map[string][]*Group // those to be told of a stream's events
	unready error               // why there are no groups
	unwatch func()              // ends what tells groups of events, nil when nothing does
}

// config is the configuration as it is stored.
type config struct {
	Version   string     `json:"version"`
	Updated   time.Time  `json:"updated"`
	UpdatedBy string     `json:"updatedBy"`
	Entries   []Settings `json:"entries"`
}

const configVersion = "2"

// A running group, or what keeps it from running.
type running struct {
	settings Settings
	group    *Group
	err      error
	stop     chan struct{}
	stopped  chan struct{}
	cancel   context.CancelFunc
}

// Start takes up all groups there are. One that cannot be taken up keeps neither
// the others nor the node from running: calls about it say why.
func Start(ctx context.Context, log Log, o Options) *Service {
	s := &Service{store: log, log: o.Log, user: o.User, changing: make(chan struct{}, 1), groups: map[string]*running{}}
	s.load(ctx)
	return s
}

func (s *Service) load(ctx context.Context) {
	conf, err := readConfig(ctx, s.store)
	s.mu.Lock()
	s.config, s.unready = conf, err
	s.mu.Unlock()
	if err != nil {
		s.log.ErrorContext(ctx, "persistent subscriptions cannot be started", "err", err)
		return
	}
	for _, settings := range conf.Entries {
		if err := s.open(ctx, settings); err != nil {
			s.log.ErrorContext(ctx, "persistent subscription cannot be started", "stream", settings.Stream, "group", settings.Group, "err", err)
			s.put(&running{settings: settings, err: err})
		}
	}
}

func readConfig(ctx context.Context, log Log) (config, error) {
	conf := config{Version: configVersion}
	last, err := newest(ctx, log, configStream)
	if err != nil || last == nil {
		return conf, err
	}
	if err = json.Unmarshal([]byte(last.Data), &conf); err != nil {
		return conf, fmt.Errorf("%s@%d: %w", configStream, last.Number, err)
	}
	if last.Kind != kindConfig || conf.Version != configVersion {
		return conf, fmt.Errorf("%s@%d is a %s of version %q, and not a %s of version %s", configStream, last.Number, last.Kind, conf.Version, kindConfig, configVersion)
	}
	return conf, nil
}

// save makes a configuration the one to be started with next.
func (s *Service) save(ctx context.Context, by string, entries []Settings) error {
	conf := config{configVersion, time.Now(), by, entries}
	data, err := json.Marshal(conf)
	if err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	number, err := s.store.Append(ctx, configStream, Event{ID: uuid.New(), Kind: kindConfig, JSON: true, Data: string(data)})
	if err == nil && number == 0 {
		err = describe(ctx, s.store, configStream, `{"$maxCount":2}`)
	}
	if err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = conf
	return nil
}

// entries are the configuration's, with one group's left out, and where it was.
func (s *Service) entries(without string) (all []Settings, at int) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all = slices.Clone(s.config.Entries)
	if at = slices.IndexFunc(all, func(e Settings) bool { return e.key() == without }); at >= 0 {
		all = slices.Delete(all, at, at+1)
	}
	return all, at
}

// open takes up a group and lets it run.
func (s *Service) open(ctx context.Context, settings Settings) error {
	if err := s.watch(ctx); err != nil {
		return err
	}
	g, err := Open(ctx, s.store, settings, time.Now)
	if err != nil {
		return err
	}
	s.run(ctx, g)
	return nil
}

func (s *Service) run(ctx context.Context, g *Group) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &running{settings: g.settings, group: g, cancel: cancel, stop: make(chan struct{}), stopped: make(chan struct{})}
	s.put(r) // it is told of what it has not read from here on
	go func() {
		defer close(r.stopped)
		s.work(ctx, r)
	}()
}

// work lets a group work whenever there is something to do.
func (s *Service) work(ctx context.Context, r *running) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		until, err := r.group.Work(ctx)
		if err != nil && ctx.Err() == nil && !errors.Is(err, ErrUnavailable) { // the log says that itself
			s.log.ErrorContext(ctx, "persistent subscription", "err", err)
		}
		timer.Stop()
		if !until.IsZero() {
			timer.Reset(time.Until(until))
		}
		select {
		case <-r.group.woken:
		case <-timer.C:
		case <-r.stop:
			return
		case <-ctx.Done():
			return
		}
	}
}

// end stops a group. Consumers are told why, and what was settled is kept.
func (s *Service) end(ctx context.Context, r *running, why error) {
	if r.group == nil {
		return
	}
	r.group.dismiss(why)
	close(r.stop)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	defer context.AfterFunc(ctx, r.cancel)()
	defer r.cancel()
	<-r.stopped
	if err := r.group.Close(ctx, why); err != nil {
		s.log.ErrorContext(ctx, "persistent subscription ends without a last checkpoint", "err", err)
	}
}

func (s *Service) put(r *running) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups[r.settings.key()] = r
	s.index()
}

func (s *Service) remove(key string) {
	s.mu.Lock()
	delete(s.groups, key)
	s.index()
	last := len(s.groups) == 0
	s.mu.Unlock()
	if last {
		s.endWatch()
	}
}

func (s *Service) index() {
	s.topics = map[string][]*Group{}
	for _, r := range s.groups {
		if r.group != nil {
			s.topics[r.settings.Stream] = append(s.topics[r.settings.Stream], r.group)
		}
	}
}

// all gives the groups of a stream, or of all when it is empty, in order.
func (s *Service) all(stream string) []*running {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var found []*running
	for _, e := range s.config.Entries {
		if r, ok := s.groups[e.key()]; ok && (stream == "" || stream == e.Stream) {
			found = append(found, r)
		}
	}
	slices.SortStableFunc(found, func(a, b *running) int { return strings.Compare(a.settings.Stream, b.settings.Stream) })
	return found
}

// get gives a group, which may be one that does not run.
func (s *Service) get(stream, group string) (*running, error) {
	r, err := s.look(stream, group)
	if r == nil && err == nil {
		err = refuseMissing(stream, group)
	}
	return r, err
}

// look is get that gives nil for a group that is not there.
func (s *Service) look(stream, group string) (*running, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r, ok := s.groups[Settings{Stream: stream, Group: group}.key()]; ok && r.settings.Stream == stream {
		return r, nil
	}
	return nil, nil //nolint:nilnil // there is none, and that is an answer
}

// ready says why there are no groups, if that is so.
func (s *Service) ready() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.unready != nil {
		return fmt.Errorf("persistent subscriptions are not running: %w", s.unready)
	}
	return nil
}

// find gives a group that runs.
func (s *Service) find(stream, group string) (*Group, error) {
	r, err := s.get(stream, group)
	if err != nil {
		return nil, err
	}
	return r.group, r.err
}

// watch sees to it that groups are told of events. There is one that follows the
// log for all of them, and none where there are no groups.
func (s *Service) watch(ctx context.Context) error {
	if s.unwatch != nil {
		return nil
	}
	end, err := s.store.End(ctx, All)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ; ctx.Err() == nil; sleep(ctx, pause) {
			err := s.store.Follow(ctx, end-1, func(stream string, number, position uint64) {
				end = position + 1
				s.tell(stream, number, position)
			})
			if ctx.Err() == nil && !errors.Is(err, ErrUnavailable) {
				s.log.ErrorContext(ctx, "persistent subscriptions hear of no events", "err", err)
			}
		}
	}()
	s.unwatch = func() { cancel(); <-done }
	return nil
}

func (s *Service) endWatch() {
	if s.unwatch != nil {
		s.unwatch()
		s.unwatch = nil
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (s *Service) tell(stream string, number, position uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, g := range s.topics[stream] {
		g.Grown(number)
	}
	for _, g := range s.topics[All] {
		g.Grown(position)
	}
}

// change begins a change of what groups there are. It is undone by calling done.
// What is begun is finished, though the caller goes away.
func (s *Service) change(ctx context.Context) (goOn context.Context, done func(), err error) {
	select {
	case s.changing <- struct{}{}:
		return context.WithoutCancel(ctx), func() { <-s.changing }, nil
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

// halt ends all groups.
func (s *Service) halt(ctx context.Context, why error) {
	var wg sync.WaitGroup
	for _, r := range s.all("") {
		wg.Go(func() { s.end(ctx, r, why) })
	}
	wg.Wait()
	s.mu.Lock()
	s.groups, s.topics = map[string]*running{}, nil
	s.mu.Unlock()
	s.endWatch()
}

// Stop ends all groups and the calls of their consumers. Groups that settled
// what they gave will not give it again.
func (s *Service) Stop(ctx context.Context) {
	ctx, done, err := s.change(context.WithoutCancel(ctx))
	if err != nil {
		return
	}
	defer done()
	s.mu.Lock()
	s.unready = ErrUnavailable
	s.mu.Unlock()
	s.halt(ctx, ErrUnavailable)
}

// Wait returns when nothing of a call is left. The server must have ended all.
func (s *Service) Wait() { s.receiving.Wait() }
