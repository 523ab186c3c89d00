// Package process feeds events from the bus to reactions that send commands,
// one at a time for each stream, with watermill's router and middleware.
//
// A reaction is idempotent and looks at its aggregate, not at the message; so a
// message that fails comes again, after a growing pause, for as long as it
// takes, and holds up only its own stream (TestAFailingReactionHoldsUpOnlyItsStream).
//
// # Why
//
// A router and not the batch reader of projections: reactions are few, slow
// and independent, and each must be acknowledged on its own. What can never be
// decoded is logged and passed over, since the reaction of the stream's next
// event finds what was left undone.
package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

	done, failed atomic.Int64
}

// Status counts what a Runner did.
type Status struct{ Done, Failed int64 }

// Status tells how far it is. It may be called at any time.
func (r *Runner) Status() Status { return Status{r.done.Load(), r.failed.Load()} }

const defaultTimeout = 30 * time.Second

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
			r.done.Add(1)
		case ctx.Err() == nil:
			r.failed.Add(1)
			r.Log.WarnContext(ctx, "reaction failed, it will be tried again",
				"process", r.Name, "stream", m.Metadata.Get("ce_subject"), "event", m.Metadata.Get("ce_type"), "err", err)
		}
		return out, err
	}
}

func (r *Runner) handle(m *message.Message) error {
	e, err := kafkabus.Event(m)
	if err != nil {
		r.Log.ErrorContext(m.Context(), "message is no event, passed over", "process", r.Name, "message", m.UUID, "err", err)
		return nil
	}
	return r.React(m.Context(), e)
}
