package projections

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
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
	// is kept, with as many older ones as make up keep with it (no less than 1);
	// others that were live are dropped. What is being built goes on.
	Switch(ctx context.Context, number, keep int) error
	// Drop deletes a generation that is not live.
	Drop(ctx context.Context, number int) error
	// Kept are the generations that were live before, newest first, as far as
	// this process knows.
	Kept() []Generation[V]
}

// Resumable generations survive the process that builds them.
type Resumable[V any] interface {
	// Mark writes down that everything up to a checkpoint is in a generation that
	// is being built. It is on the disk no later than the mark is, so that
	// whoever finds the mark may go on from there.
	Mark(ctx context.Context, number int, at Checkpoint) error
	// Unfinished gives the generation that was left with a mark, if there is one
	// that no other process builds. It is this process's to go on with, or to drop.
	Unfinished(ctx context.Context) (g Generation[V], at Checkpoint, found bool, err error)
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
	// Given tells which streams an operator has given up in the live generation:
	// they stop no rebuild. Nil where nobody can say.
	Given Parking

	Workers int    // 1 if not set
	Batch   int    // events a worker takes at once; 2000 if not set
	Hold    int    // documents that are folded in memory before they are put; 50,000 if not set
	Keep    int    // documents that the projector remembers between batches, once it is live
	Kept    int    // earlier generations that are kept; 1 if not set
	Park    bool   // park corrupt streams in the new generation, and go on
	Cache   bool   // the view may lack documents, so they are not counted
	Dry     bool   // build and verify, and throw it away
	Stay    bool   // build and verify, and leave it to the next rebuild to go on and switch
	Anew    bool   // do not go on with what an earlier one left
	Program string // which program folds; what another one has begun is begun anew

	MarkEvery time.Duration  // how often it is written down how far it is; 15 s if not set
	Progress  func(Progress) // called now and then, from one goroutine; may be nil
}

// Progress says how far a rebuild is.
type Progress struct {
	Events   int64 // since this run began
	Streams  int64
	Position uint64
	Resumed  uint64 // the position from which this run went on, 0 for the beginning
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
// was. The new one then waits for the next Run to go on with it, where it can be
// resumed and has come to a mark, and is dropped otherwise.
func (r Rebuild[V]) Run(ctx context.Context) (Rebuilt[V], error) {
	b, err := r.begin(ctx)
	if err != nil {
		return Rebuilt[V]{}, fmt.Errorf("rebuild %s: %w", r.View.Name, err)
	}
	done, err := r.run(ctx, b)
	switch {
	case err == nil && r.Stay && !r.Dry:
		if err = b.mark(ctx, done.Progress); err == nil {
			return done, nil
		}
	case err == nil && !r.Dry:
		return done, r.tail(ctx, done)
	}
	if errors.Is(err, errCount) || !b.marked {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if dropErr := r.Generations.Drop(cleanup, b.generation.Number()); dropErr != nil {
			err = errors.Join(err, fmt.Errorf("drop generation %d: %w", b.generation.Number(), dropErr))
		}
	}
	if err != nil {
		err = fmt.Errorf("rebuild %s: %w", r.View.Name, err)
	}
	return Rebuilt[V]{Progress: done.Progress}, err
}

// Return brings a generation that was kept up to date and makes it live again:
// it is a rebuild that finds most of its work done.
func (r Rebuild[V]) Return(ctx context.Context, generation Generation[V]) (Rebuilt[V], error) {
	r.Park = true // what it parked before it was left stays parked
	done, err := r.run(ctx, &building[V]{generation: generation})
	if err != nil {
		return done, fmt.Errorf("return to generation %d of %s: %w", generation.Number(), r.View.Name, err)
	}
	return done, r.tail(ctx, done)
}

// A building is a generation under construction.
type building[V any] struct {
	generation Generation[V]
	from       Checkpoint
	program    string
	resumable  Resumable[V] // nil where nobody could go on with it
	marked     bool
	gate       *gate
}

// begin opens a generation: the one that was left, if it is of use.
func (r Rebuild[V]) begin(ctx context.Context) (*building[V], error) {
	b := &building[V]{program: r.Program}
	if r.Dry {
		var err error
		b.generation, err = r.Generations.Build(ctx)
		return b, err
	}
	b.resumable, _ = r.Generations.(Resumable[V])
	if b.resumable != nil {
		left, at, found, err := b.resumable.Unfinished(ctx)
		switch {
		case err != nil:
			return nil, fmt.Errorf("look for what was left unfinished: %w", err)
		case found && at.Program == r.Program && !r.Anew:
			b.generation, b.from, b.marked = left, at, true
			return b, nil
		case found:
			if err := r.Generations.Drop(ctx, left.Number()); err != nil {
				return nil, fmt.Errorf("drop generation %d, which was left: %w", left.Number(), err)
			}
		}
	}
	var err error
	b.generation, err = r.Generations.Build(ctx)
	return b, err
}

// mark writes down how far it is, once all of that is in the generation.
func (b *building[V]) mark(ctx context.Context, p Progress) error {
	if b.resumable == nil {
		return fmt.Errorf("generation %d can't be left as it is: this engine keeps none that is not live", b.generation.Number())
	}
	at := Checkpoint{Position: p.Position, Streams: p.Streams - b.gate.bare(), Program: b.program, At: time.Now().UTC()}
	if err := b.resumable.Mark(ctx, b.generation.Number(), at); err != nil {
		return fmt.Errorf("write down that generation %d is at %d: %w", b.generation.Number(), p.Position, err)
	}
	b.marked = true
	return nil
}

// tail reads on to what is the log's end after the switch. Until then other
// processes may have been writing to the generation that was live, and to that
// alone: whatever they wrote was in the log before they could.
func (r Rebuild[V]) tail(ctx context.Context, done Rebuilt[V]) error {
	r.Progress = nil
	if _, err := r.feed(ctx, done.Projector, Checkpoint{Position: done.Position}, nil); err != nil {
		return fmt.Errorf("generation %d of %s is live, but may lack what came in meanwhile (rebuild it once more): %w",
			done.Generation.Number(), r.View.Name, err)
	}
	return nil
}

func (r Rebuild[V]) run(ctx context.Context, b *building[V]) (Rebuilt[V], error) {
	generation := b.generation
	b.gate = &gate{Parking: generation, open: r.Park, given: r.Given}
	p := &Projector[V]{View: r.View, Events: r.Events, Log: r.Log, Views: generation, Parking: b.gate, Keep: r.Keep}
	done := Rebuilt[V]{Generation: generation, Projector: p}
	// Live events reach the new generation from before the log is read, so each
	// event is in what is read, or comes live, or both.
	visitor := &guest{Member: p}
	if r.Live != nil {
		r.Live.Join(visitor)
		defer r.Live.Leave(visitor)
	}
	mark := b.mark
	if b.resumable == nil {
		mark = nil
	}
	var err error
	if done.Progress, err = r.feed(ctx, p, b.from, mark); err != nil {
		return done, err
	}
	if err := r.verify(ctx, generation, done.Streams-b.gate.bare()); err != nil || r.Dry || r.Stay {
		return done, err
	}
	return done, r.hand(ctx, visitor, b.gate, generation.Number())
}

// hand makes the new generation live, for readers and for the set in one step.
// From then on its projector parks what it must, like any other.
func (r Rebuild[V]) hand(ctx context.Context, visitor *guest, gate *gate, number int) error {
	swap := func() error {
		if err := visitor.failure(); err != nil {
			return err
		}
		if err := r.Generations.Switch(ctx, number, max(1, r.Kept)); err != nil {
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

// errCount tells of a generation that lacks documents: nobody should go on with it.
var errCount = errors.New("documents are missing")

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
		return fmt.Errorf("generation %d has %d documents for the log's %d streams: %w", generation.Number(), n, streams, errCount)
	}
	return nil
}

// feed reads the log behind a checkpoint to its end, with all workers, and what
// is appended meanwhile, a few times over. Mark is called now and then when all that was read is stored.
func (r Rebuild[V]) feed(ctx context.Context, p *Projector[V], from Checkpoint, mark func(context.Context, Progress) error) (Progress, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := &feeder{
		begun: time.Now(), seed: maphash.MakeSeed(), full: orElse(r.Batch, 2000), report: r.Progress,
		position: from.Position, resumed: from.Position, streams: from.Streams,
		mark: mark, markEvery: orElse(r.MarkEvery, 15*time.Second), markedAt: time.Now(),
	}
	workers := max(1, r.Workers)
	desks := make([]desk, workers)
	for i := range desks {
		desks[i] = newLoader(p, orElse(r.Hold, 50_000)/workers)
	}
	f.start(ctx, desks, cancel)
	err := f.read(ctx, r.Source, r.View.Prefixes())
	f.stop()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	f.tell(true)
	return f.progress(), err
}

func orElse[T int | time.Duration](value, otherwise T) T {
	if value <= 0 {
		return otherwise
	}
	return value
}
