package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/spf13/pflag"

	"cartwright/domain/inventory"
)

// spreadFlags are those of scenarios that several servers, and SKUs that are
// divided, can be measured by.
func (opt *benchOptions) spreadFlags(f *pflag.FlagSet) {
	opt.spreads = true
	f.Lookup("target").Usage = "the server's address; several, of one shop, are sent to in turn"
	f.StringVar(&opt.readTarget, "read-target", "", "the server that is asked for lists and stock (the first target, unless said)")
	f.IntVar(&opt.shards, "shards", 1, fmt.Sprintf("shards that every SKU is divided into, 2 to %d; 1 is none", inventory.MaxShards))
}

// checkSpread checks what spreadFlags say.
func (opt *benchOptions) checkSpread() error {
	if opt.shards < 1 || opt.shards > inventory.MaxShards {
		return fmt.Errorf("a SKU has 1 to %d shards, not %d", inventory.MaxShards, opt.shards)
	}
	for i, target := range opt.targets {
		if slices.Contains(opt.targets[:i], target) {
			return fmt.Errorf("the target %s is said twice", target)
		}
	}
	return nil
}

// benchClients are the servers that are measured.
type benchClients struct {
	targets []*client
	reads   *client
}

// clients makes one of every server.
func (opt *benchOptions) clients() (*benchClients, error) {
	connections := opt.concurrency + len(lagProbes)
	to := &benchClients{}
	var err error
	if to.targets, err = clientsOf(opt.targets, connections); err != nil {
		return nil, err
	}
	if to.reads = to.targets[0]; opt.readTarget != "" {
		to.reads, err = newClient(opt.readTarget, connections)
	}
	return to, err
}

func (c *benchClients) all() []*client {
	if slices.Contains(c.targets, c.reads) {
		return c.targets
	}
	return append(slices.Clone(c.targets), c.reads)
}

func (c *benchClients) close() {
	for _, one := range c.all() {
		one.close()
	}
}

// answerWithin is how long one of several servers may take to answer at all.
const answerWithin = 5 * time.Second

// answer says whether all servers are there, if they are several: what is set up
// is set up by the first, and tells nothing of the others.
func (c *benchClients) answer(ctx context.Context) error {
	all := c.all()
	if len(all) == 1 {
		return nil
	}
	for _, one := range all {
		if _, err := one.with(answerWithin).do(ctx, request{method: http.MethodGet, path: "/readyz"}, nil); err != nil {
			return fmt.Errorf("target %s: %w", one.base, err)
		}
	}
	return nil
}

// at is the server that does an operation.
func (b *checkoutBench) at(a *arrival) *client { return b.targets[a.target] }

// targetOf spreads operations. In a closed loop those who send have one server
// each, as many all servers, so that a slow one does not hold up the others and
// its share tells how it fared; on a schedule the servers have their turns, as
// before a load balancer.
func (p pace) targetOf(worker int, n int64) int {
	switch {
	case p.targets < 2:
		return 0
	case p.rate > 0:
		return int(n % int64(p.targets))
	}
	return worker % p.targets
}

// A share is what one of several servers did of a load.
type share struct {
	done    int64
	errors  map[string]int64
	latency *hdrhistogram.Histogram
}

// shareOf finds a server's share. The stripe is locked.
func (s *stripe) shareOf(target int) *share {
	if s.shares[target] == nil {
		s.shares[target] = &share{errors: map[string]int64{}, latency: newHistogram()}
	}
	return s.shares[target]
}

func (s *share) ended(err error, took time.Duration) {
	name := endOf(err)
	if name == "" {
		s.done++
	} else {
		s.errors[name]++
	}
	if name != noAnswer {
		recordLatency(s.latency, took)
	}
}

func (s *share) addTo(sum *share) {
	sum.done += s.done
	sum.latency.Merge(s.latency)
	for name, n := range s.errors {
		sum.errors[name] += n
	}
}

// A targetReport is what was measured of one of several servers.
type targetReport struct {
	Target string           `json:"target"`
	Count  int64            `json:"count"`
	Rate   float64          `json:"rate"`
	Share  float64          `json:"share"` // of all that was done
	Errors map[string]int64 `json:"errors"`
	Latency
}

// addShares tells what each of several servers did.
func (r *benchReport) addShares(targets []string, took time.Duration, all *stripe) {
	if len(targets) < 2 {
		return
	}
	for i, target := range targets {
		s := all.shareOf(i)
		r.Targets = append(r.Targets, targetReport{
			Target: target, Count: s.done, Rate: rounded(float64(s.done) / max(took.Seconds(), 1e-9)),
			Share: rounded(float64(s.done) / float64(max(all.done, 1))), Errors: s.errors, Latency: latencyOf(s.latency),
		})
	}
}

func (t *targetReport) print(row func(name, format string, values ...any)) {
	row(t.Target, "%d, %.0f/s, %.0f %% of all; %s%s", t.Count, t.Rate, 100*t.Share, t.Latency, refusals(t.Errors))
}

// refusals lists what was not done, by why.
func refusals(errs map[string]int64) string {
	var told strings.Builder
	for _, slug := range slices.Sorted(maps.Keys(errs)) {
		_, _ = fmt.Fprintf(&told, "; %d %s", errs[slug], slug)
	}
	return told.String()
}

// allServed is an error if one of several servers refused whatever it was sent:
// it is no server of this shop, or it is gone.
func (r *benchReport) allServed() error {
	var errs []error
	for _, t := range r.Targets {
		if t.Count == 0 && len(t.Errors) > 0 && t.Errors["out_of_stock"] == 0 {
			errs = append(errs, fmt.Errorf("bench: %s has carried out nothing%s", t.Target, refusals(t.Errors)))
		}
	}
	return errors.Join(errs...)
}
