package projections

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"cartwright/domain/event"
)

// A Generation is one whole copy of a view's documents with their parking. Only
// one is live, the others are seen by nobody who doesn't ask for them.
type Generation[V any] interface {
	Views[V]
	Parking
	Number() int
	// Count is how many documents there are.
	Count(ctx context.Context) (int64, error)
}

// Generations are all copies of one view.
type Generations[V any] interface {
	// Build opens a new, empty generation.
	Build(ctx context.Context) (Generation[V], error)
	// Switch makes a generation the live one in one step. The one that was live
	// is kept, all others are dropped.
	Switch(ctx context.Context, number int) error
	// Drop deletes a generation that is not live.
	Drop(ctx context.Context, number int) error
}

// A Rebuild makes a view anew from the log, beside the live one.
type Rebuild[V any] struct {
	View        View[V]
	Events      *event.Registry
	Log         Log
	Source      Source
	Generations Generations[V]

	// Live is the set that keeps the view in this process; nil where nothing does.
	// From the switch on, the set writes the new generation alone.
	Live *Set

	Workers  int            // 1 if not set
	Batch    int            // events a worker takes at once; 2000 if not set
	Keep     int            // documents that are remembered between batches
	Park     bool           // park corrupt streams in the new generation, and go on
	Cache    bool           // the view may lack documents, so they are not counted
	Dry      bool           // build and verify, and throw it away
	Progress func(Progress) // called now and then, from one goroutine; may be nil
}

// Progress says how far a rebuild is.
type Progress struct {
	Events   int64
	Streams  int64
	Position uint64
	Elapsed  time.Duration
}

// Rate is the events a second so far.
func (p Progress) Rate() float64 {
	if p.Elapsed <= 0 {
		return 0
	}
	return float64(p.Events) / p.Elapsed.Seconds()
}

// Rebuilt is what came of a rebuild.
type Rebuilt[V any] struct {
	Progress
	Generation Generation[V]
	Projector  *Projector[V] // keeps the new generation from here on
}

// A PoisonError reports the stream that stopped a rebuild.
type PoisonError struct{ Parked }

func (e *PoisonError) Error() string {
	return fmt.Sprintf("%s is corrupt at revision %d: %s", e.Stream, e.Revision, e.Reason)
}

// Run builds, verifies, switches, and takes what others still wrote to the old
// generation. After an error before the switch the live generation is what it
// was, and the new one is gone.
func (r Rebuild[V]) Run(ctx context.Context) (Rebuilt[V], error) {
	generation, err := r.Generations.Build(ctx)
	if err != nil {
		return Rebuilt[V]{}, fmt.Errorf("rebuild %s: %w", r.View.Name, err)
	}
	done, err := r.run(ctx, generation)
	if err == nil && !r.Dry {
		return done, r.tail(ctx, done)
	}
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if dropErr := r.Generations.Drop(cleanup, generation.Number()); dropErr != nil {
		err = errors.Join(err, fmt.Errorf("drop generation %d: %w", generation.Number(), dropErr))
	}
	if err != nil {
		err = fmt.Errorf("rebuild %s: %w", r.View.Name, err)
	}
	return Rebuilt[V]{Progress: done.Progress}, err
}

// Resume brings a generation that was kept up to date and makes it live again:
// it is a rebuild that finds most of its work done.
func (r Rebuild[V]) Resume(ctx context.Context, generation Generation[V]) (Rebuilt[V], error) {
	r.Park = true // what it parked before it was left stays parked
	done, err := r.run(ctx, generation)
	if err != nil {
		return done, fmt.Errorf("return to generation %d of %s: %w", generation.Number(), r.View.Name, err)
	}
	return done, r.tail(ctx, done)
}

// tail reads on to what is the log's end after the switch. Until then other
// processes may have been writing to the generation that was live, and to that
// alone: whatever they wrote was in the log before they could.
func (r Rebuild[V]) tail(ctx context.Context, done Rebuilt[V]) error {
	r.Progress = nil
	if _, err := r.feed(ctx, done.Projector, done.Position); err != nil {
		return fmt.Errorf("generation %d of %s is live, but may lack what came in meanwhile (rebuild it once more): %w",
			done.Generation.Number(), r.View.Name, err)
	}
	return nil
}

func (r Rebuild[V]) run(ctx context.Context, generation Generation[V]) (Rebuilt[V], error) {
	gate := &gate{Parking: generation, open: r.Park}
	p := &Projector[V]{View: r.View, Events: r.Events, Log: r.Log, Views: generation, Parking: gate, Keep: r.Keep}
	done := Rebuilt[V]{Generation: generation, Projector: p}
	// Live events reach the new generation from before the log is read, so each
	// event is in what is read, or comes live, or both.
	visitor := &guest{Member: p}
	if r.Live != nil {
		r.Live.Join(visitor)
		defer r.Live.Leave(visitor)
	}
	var err error
	if done.Progress, err = r.feed(ctx, p, 0); err != nil {
		return done, err
	}
	if err := r.verify(ctx, generation, done.Streams-gate.bare()); err != nil || r.Dry {
		return done, err
	}
	return done, r.hand(ctx, visitor, gate, generation.Number())
}

// hand makes the new generation live, for readers and for the set in one step.
// From then on its projector parks what it must, like any other.
func (r Rebuild[V]) hand(ctx context.Context, visitor *guest, gate *gate, number int) error {
	swap := func() error {
		if err := visitor.failure(); err != nil {
			return err
		}
		if err := r.Generations.Switch(ctx, number); err != nil {
			return fmt.Errorf("switch to generation %d: %w", number, err)
		}
		gate.unlock()
		return nil
	}
	if r.Live == nil {
		return swap()
	}
	return r.Live.Swap(visitor.Member, swap)
}

// verify counts: every stream of the log is a document, or is parked.
func (r Rebuild[V]) verify(ctx context.Context, generation Generation[V], streams int64) error {
	if r.Cache {
		return nil
	}
	n, err := generation.Count(ctx)
	if err != nil {
		return fmt.Errorf("count generation %d: %w", generation.Number(), err)
	}
	if n < streams {
		return fmt.Errorf("generation %d has %d documents for the log's %d streams", generation.Number(), n, streams)
	}
	return nil
}

// feed reads the log behind a position to its end, with all workers. Where no
// live set brings what is appended meanwhile, it reads on until little is left
// to come.
func (r Rebuild[V]) feed(ctx context.Context, p *Projector[V], after uint64) (Progress, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := &feeder{begun: time.Now(), seed: maphash.MakeSeed(), full: r.Batch, report: r.Progress, position: after}
	if f.full <= 0 {
		f.full = 2000 // more makes cheaper writes, and live ones wait longer behind each
	}
	f.start(max(1, r.Workers), func(batch []event.Recorded) error {
		decoded := make([]Decoded, len(batch))
		for i, e := range batch {
			decoded[i] = Decode(r.Events, e)
		}
		return p.Apply(ctx, decoded)
	}, cancel)
	err := f.read(ctx, r.Source, r.View.Prefixes())
	f.stop()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	f.tell(true)
	return f.progress(), err
}

// A feeder deals a log out to workers, each stream always to the same one.
type feeder struct {
	begun, told time.Time
	seed        maphash.Seed
	full        int
	report      func(Progress)

	dealt    [][]event.Recorded // what the workers get next
	desks    []chan []event.Recorded
	workers  sync.WaitGroup
	streams  int64
	position uint64
	stored   atomic.Int64
}

// start begins the workers. The first error of one fails them all.
func (f *feeder) start(n int, work func([]event.Recorded) error, fail context.CancelCauseFunc) {
	f.dealt = make([][]event.Recorded, n)
	f.desks = make([]chan []event.Recorded, n)
	var failed atomic.Bool
	for i := range n {
		desk := make(chan []event.Recorded, 2)
		f.desks[i] = desk
		f.workers.Go(func() {
			for batch := range desk {
				if failed.Load() {
					continue // the reader must not be left standing
				}
				if err := work(batch); err != nil {
					failed.Store(true)
					fail(err)
					continue
				}
				f.stored.Add(int64(len(batch)))
			}
		})
	}
}

func (f *feeder) read(ctx context.Context, source Source, prefixes []string) error {
	for more := f.full; more >= f.full; {
		more = 0
		for e, err := range source.All(ctx, f.position, prefixes...) {
			if err != nil {
				return fmt.Errorf("read the log after %d: %w", f.position, err)
			}
			more++
			f.deal(e)
			if ctx.Err() != nil {
				break
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	for i := range f.dealt {
		f.hand(i)
	}
	return nil
}

func (f *feeder) deal(e event.Recorded) {
	i := int(maphash.String(f.seed, e.Stream) % uint64(len(f.desks))) //nolint:gosec // less than the number of workers
	f.dealt[i] = append(f.dealt[i], e)
	f.position = e.Position
	if e.Revision == 1 {
		f.streams++
	}
	if len(f.dealt[i]) >= f.full {
		f.hand(i)
		f.tell(false)
	}
}

// hand gives a worker its batch. It waits for no context: workers take what
// they get, after a failure too.
func (f *feeder) hand(i int) {
	if len(f.dealt[i]) > 0 {
		f.desks[i] <- f.dealt[i]
		f.dealt[i] = make([]event.Recorded, 0, f.full)
	}
}

// stop waits until the workers are done with what they were given.
func (f *feeder) stop() {
	for _, desk := range f.desks {
		close(desk)
	}
	f.workers.Wait()
}

func (f *feeder) progress() Progress {
	return Progress{Events: f.stored.Load(), Streams: f.streams, Position: f.position, Elapsed: time.Since(f.begun)}
}

// tell reports five times a second, and at the end.
func (f *feeder) tell(end bool) {
	if f.report == nil || !end && time.Since(f.told) < 200*time.Millisecond {
		return
	}
	f.told = time.Now()
	f.report(f.progress())
}

// A gate stands before a new generation's parking. Shut, it turns a stream that
// would be parked into an error that stops the rebuild.
type gate struct {
	Parking

	mu    sync.Mutex
	open  bool
	empty map[string]bool // streams parked at their first event, which have no document
}

func (g *gate) Park(ctx context.Context, records []Parked) error {
	if err := g.admit(records); err != nil {
		return err
	}
	return g.Parking.Park(ctx, records)
}

func (g *gate) admit(records []Parked) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open {
		return &PoisonError{records[0]}
	}
	for _, record := range records {
		if record.Revision == 1 {
			if g.empty == nil {
				g.empty = map[string]bool{}
			}
			g.empty[record.Stream] = true
		}
	}
	return nil
}

func (g *gate) bare() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return int64(len(g.empty))
}

func (g *gate) unlock() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = true
}

// patience bounds how long a live batch waits for a generation that is being built.
const patience = 30 * time.Second

// A guest is a building generation's projector in a live set: what it can't do
// fails the rebuild, and never the batch of those that are live. Nor does a
// batch that is given up leave it without events that the others have stored.
type guest struct {
	Member
	err atomic.Pointer[error]
}

func (g *guest) Apply(ctx context.Context, batch []Decoded) error {
	if g.err.Load() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := g.Member.Apply(ctx, batch); err != nil {
		g.err.CompareAndSwap(nil, &err)
	}
	return nil
}

func (g *guest) failure() error {
	if err := g.err.Load(); err != nil {
		return *err
	}
	return nil
}
