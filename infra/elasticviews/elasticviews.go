// Package elasticviews keeps views in Elasticsearch: the order index with its
// lists, full-text search and sums, accounts with their entries, deadlines, and
// plain documents. It promises what infra/viewtest asks of every engine. Any
// number of processes may have the same views open.
//
// # Why
//
// Writes are idempotent by the server's own means and by nothing else: a
// document's version is its stream's revision, so an older one answers 409,
// which is what was wanted. There are no scripts, no updates by query and no
// deletes by query: each of them reads what a refresh has not shown yet.
//
// What lies beside a document (a seller's copy of an order, an account's
// entries) is written first, in a request of its own. A process that dies in
// between leaves copies that are ahead, which the repeated batch overtakes; in
// one request the document could be stored and its copy turned away, and the
// repeated batch, which reads the document, would find nothing left to do
// (TestWhatLiesBesideADocumentIsNeverBehindIt).
//
// An order is stored twice, routed by its id's bucket, which is its buyer's,
// and routed by its seller: so an order, a buyer's list, a seller's list and a
// seller's sums each ask one shard, whatever the number of shards.
//
// The alias is the truth about which generation is live: it turns in one step
// for all processes, and for all indices of a generation. Readers ask through
// it. Writers write to the generation that they know of and look at the alias
// afterwards; when it has turned they write again. So a document that was
// acknowledged is in the generation that was live when it was, or in a later
// one, and a rebuild that reads the log once more after its switch misses
// nothing (TestAnotherProcessFollowsASwitch). Not chosen: writing through the
// alias, which may turn between a copy and its document. Which generations there
// are besides is a document, changed by compare-and-swap, that is brought after
// the alias by whoever next opens or changes the view.
//
// Orders that were closed long ago are in an archive: for each year of placing an
// index of either kind, beside what is at hand, in every generation. The boundary
// lies in the aliases: that of what is at hand leaves out what was closed before
// it, that of the archive has nothing else. One request turns all of them, so a
// search of both finds each order once at every moment and knows of no boundary
// (the suite's "a list is whole while orders are closed and moved"). What a
// generation's tiers are is written down as aliases too, whose names no request
// can change twice: they are compared and swapped by being taken away. Not
// chosen: the boundary in the lineage's document, which does not turn with the
// aliases; and moving an order by itself, which no search sees in one step.
//
// A boundary moves in two steps. First it is said where to, and from then on
// writers put what was closed before it into the archive as well, there first.
// So when all else was copied the archive lacks nothing that was acknowledged,
// and the aliases may turn. Writers look at the aliases after they wrote, as they
// do for generations, and write again where they went by what had changed.
// Revisions gives, of an order that is in both tiers, the lower one, which is what
// lists show (TestWhatRevisionsReportsIsListedWhileOrdersAreArchived). An order
// that is not at hand is looked for in the years, by its id; one that says it
// belongs at hand, and was placed before the boundary, is looked for there before
// it is written, so that a late batch brings none back to life (the suite's "a
// late event changes an archived order in place").
//
// A live generation may be gone: somebody deletes an index or an alias, or an
// older program has laid the index out. Then the view is lost, and that is
// written down in the lineage before anybody goes by it. Readers are told so, and
// which command helps. Projectors' writes are let pass: they are in the log, from
// which the view is built anew, and if they were refused the batch would come
// again for ever, and hold up all other views. Only a switch ends it, since an
// index that comes back by itself lacks what was let pass
// (TestALostViewIsHealedByAReplay, TestADeletedIndexIsHealedByAReplay,
// TestALostViewThatComesBackIsStillToBeBuiltAnew).
//
// A generation with a mark outlives its builder. Another process takes it over
// when the builder has left it, was a process of the same machine that is no
// more, or has not been heard of for 20 seconds
// (TestAnUnfinishedGenerationIsNotTakenFromItsBuilder). What is put into a
// generation under construction is on the server's disk when Put returns, as
// everywhere: a log that is written now and then would lose, with the server,
// what a builder that goes on takes for stored, and a batch has one write of it.
//
// A search does not see what was written a moment ago. Revisions therefore
// makes searchable what it reports: it asks for a refresh unless the same was
// shown before, and callers share the refresh that begins after they asked
// (TestManyReadersShareARefresh). A list does the same where this process has
// put something since, so that a process sees its own writes. What other
// processes put is seen after the refresh interval at the latest.
//
// Sums are taken in doubles, which are exact up to 2^53. Amounts are therefore
// stored in three parts of 21 bits and put together here, exactly
// (TestPartsGiveTheSumBack, and the suite's sums that do not fit).
//
// The client is the official one without its typed requests, which would be a
// hundred thousand lines of the binary for a dozen of ours. Its bulk indexer drops
// what the server turns away, so it is not used either.
package elasticviews

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"cartwright/projections"
)

// Config says where the server is and how the views are laid out there.
type Config struct {
	Addresses []string // one or more hosts of one cluster, like https://host:9200
	User      string
	Password  string
	APIKey    string // encoded as the server gave it out; instead of User
	TLS       *tls.Config

	Namespace string // what all indices are called after; "cartwright" if empty
	Shards    int    // of each index that is made; 1 if 0
	Replicas  int    // of each index that is made

	RefreshEvery time.Duration // the longest that a search is behind; 1 s if 0
	Timeout      time.Duration // of a request; 15 s if 0
	Attempts     int           // at a request that is turned away; 6 if 0
	Pause        time.Duration // before the second attempt, doubled for the next; 50 ms if 0

	Log *slog.Logger
}

// names is what namespaces and views may be called, so that no index needs
// escaping in a path or is taken for another.
var (
	namespaces = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
	viewNames  = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)
)

func (cfg Config) complete() (Config, error) {
	if len(cfg.Addresses) == 0 {
		return cfg, errors.New("no address of Elasticsearch is given")
	}
	if cfg.Namespace == "" {
		cfg.Namespace = "cartwright"
	}
	if !namespaces.MatchString(cfg.Namespace) {
		return cfg, fmt.Errorf("the namespace %q is not one of small letters, digits, dashes and underscores", cfg.Namespace)
	}
	if cfg.APIKey != "" && cfg.User != "" {
		return cfg, errors.New("an API key and a user are given: one of them is enough")
	}
	if cfg.Shards < 0 || cfg.Replicas < 0 {
		return cfg, fmt.Errorf("%d shards and %d replicas", cfg.Shards, cfg.Replicas)
	}
	if cfg.Log == nil {
		return cfg, errors.New("no log is given")
	}
	cfg.Shards = max(cfg.Shards, 1)
	defaulted(&cfg.RefreshEvery, time.Second)
	defaulted(&cfg.Timeout, 15*time.Second)
	defaulted(&cfg.Attempts, 6)
	defaulted(&cfg.Pause, 50*time.Millisecond)
	return cfg, nil
}

func defaulted[T ~int | ~int64](value *T, otherwise T) {
	if *value <= 0 {
		*value = otherwise
	}
}

// A DB is a cluster with views in it. Its methods may be called concurrently,
// Close last.
type DB struct {
	cfg   Config
	c     *client
	token string // names this opening among those that build generations

	working sync.WaitGroup
	stop    context.CancelFunc

	mu    sync.Mutex // guards what follows
	views []builds
}

// builds is a view that may have generations under construction.
type builds interface {
	renew(ctx context.Context) error
	release(ctx context.Context) error
}

const (
	renewEvery   = 5 * time.Second
	silentAfter  = 20 * time.Second // then what a process has marked may be taken over
	abandonAfter = 5 * time.Minute  // then the rest of what it built is dropped
)

// Open connects to a cluster and makes what all views need there.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, fmt.Errorf("open views in Elasticsearch: %w", err)
	}
	c, err := newClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("open views in Elasticsearch: %w", err)
	}
	d := &DB{cfg: cfg, c: c, token: rand.Text()}
	if err := d.prepare(ctx); err != nil {
		return nil, fmt.Errorf("open views in Elasticsearch: %w", errors.Join(err, c.close(context.WithoutCancel(ctx))))
	}
	tending, stop := context.WithCancel(context.WithoutCancel(ctx))
	d.stop = stop
	d.working.Go(func() { d.tend(tending) })
	return d, nil
}

func (d *DB) prepare(ctx context.Context) error {
	if err := d.Ping(ctx); err != nil {
		return err
	}
	if err := d.template(ctx, lineages); err != nil {
		return err
	}
	return d.create(ctx, d.index(lineages.name), lineages, d.liveSettings(), nil)
}

// Ping tells whether the cluster answers and has all data of the views.
func (d *DB) Ping(ctx context.Context) error {
	health, err := ask[struct {
		Status string `json:"status"`
	}](ctx, d.c, get("/_cluster/health/"+d.cfg.Namespace+"-*").with("level", "cluster"))
	if err != nil {
		return fmt.Errorf("ask for the cluster's health: %w", err)
	}
	if health.Status == "red" {
		return fmt.Errorf("%w: the cluster has lost primary shards of the views, or is just starting", projections.ErrUnavailable)
	}
	return nil
}

// Close gives up the generations that were being built and the connections.
func (d *DB) Close() error {
	d.stop()
	// It is only kind to those who build after this; whoever is killed can't do
	// it either, so it may fail.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, v := range d.all() {
		if err := v.release(ctx); err != nil {
			d.cfg.Log.Warn("generations under construction are left behind", "error", err)
		}
	}
	d.working.Wait()
	if err := d.c.close(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("close views in Elasticsearch: %w", err)
	}
	return nil
}

func (d *DB) all() []builds {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]builds(nil), d.views...)
}

// tend tells other processes, now and then, that what this one builds is not
// abandoned.
func (d *DB) tend(ctx context.Context) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, v := range d.all() {
			if err := v.renew(ctx); err != nil && ctx.Err() == nil {
				d.cfg.Log.Warn("what is being built could not be renewed", "error", err)
			}
		}
	}
}

// do makes a request whose answer says nothing of interest.
func (d *DB) do(ctx context.Context, r request) error {
	_, err := ask[json.RawMessage](ctx, d.c, r)
	return err
}
