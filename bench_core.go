package main

import (
	"context"
	"errors"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sync/errgroup"
)

// A pace says how load comes, and how much of it.
//
// Without a rate it is a closed loop: so many operations are under way, and the
// next begins when one has ended. A server that stalls is then asked less, and
// what was not asked while it stalled is in no figure. With a rate it is an open
// loop: operation n is due n/rate after the start, whatever became of those
// before it, and its latency counts from then on; so one stall is in the figures
// of all who would have come meanwhile (TestAStallIsInTheFiguresOfAllWhoCameMeanwhile).
type pace struct {
	atOnce int     // operations that may be under way
	rate   float64 // operations due a second; 0 is a closed loop
	count  int64   // operations altogether, instead of a time
	lasts  time.Duration

	targets int // servers that it is spread over, if they are several
}

// lateAfter is how far behind its time an operation may begin and be in time: a
// sleeping process is not woken to the microsecond.
const lateAfter = 5 * time.Millisecond

// An arrival is one operation, whose time has come.
type arrival struct {
	n      int64
	due    time.Time // latency counts from here
	open   bool
	on     *stripe
	target int // the server that does it, if they are several
	spread bool
}

// ready says that the operation itself begins, and what was done until now was
// to prepare it. In an open loop nobody waits for preparations either.
func (a *arrival) ready() {
	if !a.open {
		a.due = time.Now()
	}
}

// ended notes how an operation ended: done, refused, or without an answer, of
// which there is no latency.
func (a *arrival) ended(err error) {
	took := time.Since(a.due)
	a.on.mu.Lock()
	defer a.on.mu.Unlock()
	if a.spread {
		a.on.shareOf(a.target).ended(err, took)
	}
	switch name := endOf(err); name {
	case "":
		a.on.done++
		recordLatency(a.on.of(""), took)
	case noAnswer:
		a.on.errors[noAnswer]++
	default:
		a.on.errors[name]++
		recordLatency(a.on.of(""), took)
	}
}

// noAnswer is what an operation is counted by of which nothing came back.
const noAnswer = "no_answer"

// endOf names how an operation ended; "" is that it was done.
func endOf(err error) string {
	refusal, refused := errors.AsType[*refusalError](err)
	switch {
	case err == nil:
		return ""
	case refused:
		return nameOf(refusal)
	}
	return noAnswer
}

// step notes how long a part of an operation took, or an operation of some kind.
func (a *arrival) step(kind string, took time.Duration) {
	a.on.mu.Lock()
	defer a.on.mu.Unlock()
	recordLatency(a.on.of(kind), took)
}

// again notes that a request is sent once more, and why.
func (a *arrival) again(err error) {
	a.on.mu.Lock()
	defer a.on.mu.Unlock()
	a.on.retries[endOf(err)]++
}

// nameOf is what a refusal is counted by: its slug, or its status if it has none.
func nameOf(e *refusalError) string {
	if e.slug == "" {
		return strconv.Itoa(e.status)
	}
	return e.slug
}

// A tape has what was measured. It is striped, so that those who write to it
// don't wait for each other; each stripe may be used concurrently.
type tape struct {
	took    time.Duration
	stripes [16]stripe
}

type stripe struct {
	mu      sync.Mutex // guards all of it
	done    int64
	latency map[string]*hdrhistogram.Histogram // by kind; "" is that of whole operations
	errors  map[string]int64
	retries map[string]int64
	loop    openLoop
	shares  map[int]*share // by target, if they are several
}

// An openLoop says how well a schedule was kept.
type openLoop struct {
	Rate     float64 `json:"rate"`      // that was asked for
	Due      int64   `json:"due"`       // operations
	Late     int64   `json:"late"`      // that began more than 5 ms behind their time
	NotBegun int64   `json:"not_begun"` // by the end, since too many were under way
	Behind   float64 `json:"behind_max_ms"`
}

func newTape() *tape {
	t := &tape{}
	for i := range t.stripes {
		t.stripes[i].latency = map[string]*hdrhistogram.Histogram{}
		t.stripes[i].errors, t.stripes[i].retries = map[string]int64{}, map[string]int64{}
		t.stripes[i].shares = map[int]*share{}
	}
	return t
}

// of finds the histogram of a kind. The stripe is locked.
func (s *stripe) of(kind string) *hdrhistogram.Histogram {
	h := s.latency[kind]
	if h == nil {
		h = newHistogram()
		s.latency[kind] = h
	}
	return h
}

// begins notes how far behind its time an operation begins.
func (s *stripe) begins(behind time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loop.Due++
	s.loop.Behind = max(s.loop.Behind, float64(behind.Microseconds())/1000)
	if behind > lateAfter {
		s.loop.Late++
	}
}

// notBegun notes an operation for which there was no place. It would have taken
// longer than it has waited, so that goes with the latencies: to leave it out
// would make the figures better the worse it is.
func (s *stripe) notBegun(waited time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loop.Due++
	s.loop.NotBegun++
	s.loop.Behind = max(s.loop.Behind, float64(waited.Microseconds())/1000)
	recordLatency(s.of(""), waited)
}

// all puts the stripes together.
func (t *tape) all() *stripe {
	sum := &newTape().stripes[0]
	sum.of("")
	for i := range t.stripes {
		t.stripes[i].addTo(sum)
	}
	return sum
}

func (s *stripe) addTo(sum *stripe) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum.done += s.done
	for kind, h := range s.latency {
		sum.of(kind).Merge(h)
	}
	for slug, n := range s.errors {
		sum.errors[slug] += n
	}
	for slug, n := range s.retries {
		sum.retries[slug] += n
	}
	for target, one := range s.shares {
		one.addTo(sum.shareOf(target))
	}
	sum.loop.Due += s.loop.Due
	sum.loop.Late += s.loop.Late
	sum.loop.NotBegun += s.loop.NotBegun
	sum.loop.Behind = max(sum.loop.Behind, s.loop.Behind)
}

// answered is how many operations came to an end that is known.
func (s *stripe) answered() int64 { return s.latency[""].TotalCount() - s.loop.NotBegun }

// A schedule hands out the operations of a load.
type schedule struct {
	pace
	begun atomic.Int64
	start time.Time
	total int64 // due in an open loop
}

// drive has operations done as the pace says, and returns when all have ended.
// An error of do ends everything.
func (p pace) drive(ctx context.Context, t *tape, do func(context.Context, *arrival) error) error {
	s := &schedule{pace: p, start: time.Now(), total: p.count}
	if p.rate > 0 && p.count == 0 {
		s.total = int64(math.Ceil(p.rate * p.lasts.Seconds()))
	}
	g, gctx := errgroup.WithContext(ctx)
	for i := range p.atOnce {
		g.Go(func() error {
			on := &t.stripes[i%len(t.stripes)]
			for a, ok := s.next(gctx, on); ok; a, ok = s.next(gctx, on) {
				a.target, a.spread = p.targetOf(i, a.n), p.targets > 1
				if err := do(gctx, &a); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	t.took = time.Since(s.start)
	return errors.Join(err, ctx.Err())
}

// next waits for the next operation to be due. There is none once the load is at
// its end.
func (s *schedule) next(ctx context.Context, on *stripe) (a arrival, ok bool) {
	if s.rate > 0 {
		return s.nextDue(ctx, on)
	}
	n, now := s.begun.Add(1)-1, time.Now()
	if s.count > 0 {
		ok = n < s.count
	} else {
		ok = now.Before(s.start.Add(s.lasts))
	}
	return arrival{n: n, due: now, on: on}, ok && ctx.Err() == nil
}

func (s *schedule) nextDue(ctx context.Context, on *stripe) (a arrival, ok bool) {
	for ctx.Err() == nil {
		n := s.begun.Add(1) - 1
		if n >= s.total {
			break
		}
		due := s.start.Add(time.Duration(float64(n) / s.rate * float64(time.Second)))
		end := s.start.Add(s.lasts)
		if s.count == 0 && !time.Now().Before(end) {
			on.notBegun(end.Sub(due))
			continue
		}
		if wait := time.Until(due); wait > 0 && !rest(ctx, wait) {
			break
		}
		on.begins(time.Since(due))
		return arrival{n: n, due: due, open: true, on: on}, true
	}
	return arrival{}, false
}
