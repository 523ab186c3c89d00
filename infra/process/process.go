// Package process feeds events from the bus to reactions that send commands,
// one at a time for each stream, with watermill's router and middleware.
//
// A reaction is idempotent and looks at its aggregate, not at the message; so a
// message that fails comes again, after a growing pause, and holds up only its own
// stream (TestAFailingReactionHoldsUpOnlyItsStream). What fails because something
// is away is tried for as long as it takes. What is refused again and again is
// parked: put on record, and passed over, so that whatever comes next of the
// stream, of its partition and of the group goes on
// (TestAReactionThatIsRefusedForGoodIsParked).
//
// # Why
//
// A router and not the batch reader of projections: reactions are few, slow
// and independent, and each must be acknowledged on its own. What can never be
// decoded is logged and passed over, since the reaction of the stream's next
// event finds what was left undone.
package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"cartwright/domain/event"
	"cartwright/infra/kafkabus"
)

// Runner runs one reaction.
type Runner struct {
	Name       string
	Subscriber message.Subscriber // delivers one message of a stream at a time
	Topic      string
	React      func(context.Context, event.Recorded) error
	Log        *slog.Logger
	Timeout    time.Duration // of one reaction; 30 s if 0

	// Park puts on record what can't be followed up. Nil: everything is tried for ever.
	Park func(ctx context.Context, e event.Recorded, reason string, tries int) error
	// Passing tells an error that passes by waiting. One that does not, or a panic, is tried
	// Tries times, and for Patience at least, before it is parked.
	Passing  func(error) bool
	Tries    int           // 10 if 0
	Patience time.Duration // 30 s if 0

	done, failed, parked atomic.Int64
	tries                sync.Map // by message: *trial
}

// A trial is how often a message has failed, and since when.
type trial struct {
	count int
	since time.Time
}

// Status counts what a Runner did.
type Status struct{ Done, Failed, Parked int64 }

// Status tells how far it is. It may be called at any time.
func (r *Runner) Status() Status { return Status{r.done.Load(), r.failed.Load(), r.parked.Load()} }

const (
	defaultTimeout  = 30 * time.Second
	defaultTries    = 10
	defaultPatience = 30 * time.Second
)

// Run reacts until ctx ends.
func (r *Runner) Run(ctx context.Context) error {
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 10 * time.Second}, watermill.NewSlogLogger(quiet(r.Log)))
	if err != nil {
		return fmt.Errorf("process %s: %w", r.Name, err)
	}
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	router.AddMiddleware(r.note, middleware.Timeout(timeout), middleware.Recoverer)
	router.AddConsumerHandler(r.Name, r.Topic, r.Subscriber, r.handle)
	if err := router.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("process %s: %w", r.Name, err)
	}
	return nil
}

// quiet lets through what watermill has to say to an operator. Failed messages
// are logged here, with the event they are about.
func quiet(log *slog.Logger) *slog.Logger { return slog.New(errorsAsDebug{log.Handler()}) }

// errorsAsDebug makes debug of everything watermill logs below a warning, and
// of its one line a failed message, which note has logged already.
type errorsAsDebug struct{ slog.Handler }

func (h errorsAsDebug) Enabled(ctx context.Context, level slog.Level) bool {
	return level < slog.LevelError && h.Handler.Enabled(ctx, min(level, slog.LevelDebug))
}

func (h errorsAsDebug) WithAttrs(as []slog.Attr) slog.Handler {
	return errorsAsDebug{h.Handler.WithAttrs(as)}
}

func (h errorsAsDebug) WithGroup(name string) slog.Handler {
	return errorsAsDebug{h.Handler.WithGroup(name)}
}

// note counts and logs what became of each message.
func (r *Runner) note(next message.HandlerFunc) message.HandlerFunc {
	return func(m *message.Message) ([]*message.Message, error) {
		ctx := m.Context() // what is behind next replaces it by one that ends with the reaction
		out, err := next(m)
		switch {
		case err == nil:
			r.tries.Delete(m.UUID)
			r.done.Add(1)
		case ctx.Err() == nil && r.givesUp(ctx, m, err):
			r.tries.Delete(m.UUID)
			r.parked.Add(1)
			return nil, nil
		case ctx.Err() == nil:
			r.failed.Add(1)
			r.Log.WarnContext(ctx, "reaction failed, it will be tried again",
				"process", r.Name, "stream", m.Metadata.Get("ce_subject"), "event", m.Metadata.Get("ce_type"), "err", err)
		}
		return out, err
	}
}

// givesUp parks a message whose reaction was refused often and long enough. What
// can't even be parked is tried again.
func (r *Runner) givesUp(ctx context.Context, m *message.Message, err error) bool {
	_, panicked := errors.AsType[middleware.RecoveredPanicError](err)
	if r.Park == nil || !panicked && r.Passing(err) {
		return false
	}
	first, _ := r.tries.LoadOrStore(m.UUID, &trial{since: time.Now()})
	t, _ := first.(*trial) // a message is with one handler at a time
	t.count++
	if t.count < cmp.Or(r.Tries, defaultTries) || time.Since(t.since) < cmp.Or(r.Patience, defaultPatience) {
		return false
	}
	e, decodeErr := kafkabus.Event(m)
	if decodeErr == nil {
		decodeErr = r.Park(ctx, e, err.Error(), t.count)
	}
	if decodeErr != nil {
		r.Log.ErrorContext(ctx, "a reaction that keeps failing could not be parked", "process", r.Name, "stream", m.Metadata.Get("ce_subject"), "err", decodeErr)
		return false
	}
	r.Log.ErrorContext(ctx, "a reaction keeps failing, its stream is parked", "process", r.Name, "stream", e.Stream, "event", e.Name, "tries", t.count, "err", err)
	return true
}

func (r *Runner) handle(m *message.Message) error {
	e, err := kafkabus.Event(m)
	if err != nil {
		r.Log.ErrorContext(m.Context(), "message is no event, passed over", "process", r.Name, "message", m.UUID, "err", err)
		return nil
	}
	return r.React(m.Context(), e)
}
