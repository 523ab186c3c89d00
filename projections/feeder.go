package projections

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"cartwright/domain/event"
)

// A desk takes the events of its streams, in order, and stores what comes of
// them no later than when it is asked to.
type desk interface {
	take(ctx context.Context, batch []event.Recorded) error
	flush(ctx context.Context) error
}

// A feeder deals a log out to workers, each stream always to the same one.
type feeder struct {
	begun, told time.Time
	seed        maphash.Seed
	full        int
	report      func(Progress)

	mark      func(context.Context, Progress) error // nil where nobody wants to know
	markEvery time.Duration
	markedAt  time.Time

	dealt    [][]event.Recorded // what the workers get next
	trays    []chan tray
	workers  sync.WaitGroup
	streams  int64
	position uint64
	resumed  uint64
	handled  atomic.Int64
}

// A tray is what a worker gets: events, or none and a flush that somebody waits for.
type tray struct {
	batch   []event.Recorded
	flushed *sync.WaitGroup
}

// start begins a worker for each desk. The first error of one fails them all.
func (f *feeder) start(ctx context.Context, desks []desk, fail context.CancelCauseFunc) {
	f.dealt = make([][]event.Recorded, len(desks))
	f.trays = make([]chan tray, len(desks))
	var failed atomic.Bool
	for i, d := range desks {
		trays := make(chan tray, 2)
		f.trays[i] = trays
		f.workers.Go(func() {
			for t := range trays {
				if !failed.Load() { // else the reader must not be left standing
					if err := t.work(ctx, d); err != nil {
						failed.Store(true)
						fail(err)
					}
					f.handled.Add(int64(len(t.batch)))
				}
				if t.flushed != nil {
					t.flushed.Done()
				}
			}
		})
	}
}

func (t tray) work(ctx context.Context, d desk) error {
	if t.flushed != nil {
		return d.flush(ctx)
	}
	return d.take(ctx, t.batch)
}

// passes is how often the log is read on to what is then its end. Who writes
// faster than it is read would be followed for ever: what comes after the last
// pass comes live, or is read behind the switch.
const passes = 4

func (f *feeder) read(ctx context.Context, source Source, prefixes []string) error {
	for pass, more := 0, f.full; more >= f.full && pass < passes; pass++ {
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
			if err := f.markNowAndThen(ctx); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	f.flush()
	return ctx.Err()
}

func (f *feeder) deal(e event.Recorded) {
	i := int(maphash.String(f.seed, e.Stream) % uint64(len(f.trays))) //nolint:gosec // less than the number of workers
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
		f.trays[i] <- tray{batch: f.dealt[i]}
		f.dealt[i] = make([]event.Recorded, 0, f.full)
	}
}

// flush returns when the workers have stored all they were given.
func (f *feeder) flush() {
	var flushed sync.WaitGroup
	for i := range f.trays {
		f.hand(i)
		flushed.Add(1)
		f.trays[i] <- tray{flushed: &flushed}
	}
	flushed.Wait()
}

// markNowAndThen writes down how far everything is.
func (f *feeder) markNowAndThen(ctx context.Context) error {
	if f.mark == nil || time.Since(f.markedAt) < f.markEvery {
		return nil
	}
	f.flush()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	f.markedAt = time.Now()
	return f.mark(ctx, f.progress())
}

// stop waits until the workers are done with what they were given.
func (f *feeder) stop() {
	for _, trays := range f.trays {
		close(trays)
	}
	f.workers.Wait()
}

func (f *feeder) progress() Progress {
	return Progress{
		Events: f.handled.Load(), Streams: f.streams, Position: f.position, Resumed: f.resumed, Elapsed: time.Since(f.begun),
	}
}

// tell reports five times a second, and at the end.
func (f *feeder) tell(end bool) {
	if f.report == nil || !end && time.Since(f.told) < 200*time.Millisecond {
		return
	}
	f.told = time.Now()
	f.report(f.progress())
}
