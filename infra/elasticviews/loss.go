package elasticviews

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cartwright/projections"
)

// A lostError tells that the live generation is not there, or not fit to be
// read. It is a projections.ErrUnavailable.
type lostError struct {
	view, reason string
	since        time.Time // when it was last looked at
}

func (e *lostError) Error() string {
	return fmt.Sprintf("%v: view %s has to be built anew: %s: run cartwright replay --view %s", projections.ErrUnavailable, e.view, e.reason, e.view)
}

func (e *lostError) Unwrap() error { return projections.ErrUnavailable }

func (v *Views[V]) lostBy(format string, args ...any) error {
	return &lostError{v.name, fmt.Sprintf(format, args...), time.Now()}
}

func isLost(err error) bool {
	_, ok := errors.AsType[*lostError](err)
	return ok
}

// inspect looks whether the live generation can be asked. Where it can't, that is
// written down before anybody goes by it, and inspect is a *lostError.
func (v *Views[V]) inspect(ctx context.Context) error {
	l, cause := v.look(ctx)
	if cause == nil {
		cause = v.fit(ctx, l.live)
	}
	if cause != nil && !isLost(cause) {
		return cause
	}
	f, err := v.change(ctx, func(f family) (family, error) {
		if lost, ok := errors.AsType[*lostError](cause); ok && f.Live == l.live {
			f = f.losing(lost.reason)
		}
		return f, nil
	})
	if err != nil {
		return err
	}
	if said := f.lost(); said != nil {
		lost := &lostError{v.name, said.Reason, time.Now()}
		if v.lost.Swap(lost) == nil {
			v.db.cfg.Log.Error("a view has to be built anew", "view", v.name, "reason", said.Reason)
		}
		return lost
	}
	v.lost.Store(nil)
	v.current.Store(int64(f.Live))
	return nil
}

// whole is a *lostError while the live generation can't be asked, and finds out
// when it can again.
func (v *Views[V]) whole(ctx context.Context) error {
	lost := v.lost.Load()
	if lost == nil {
		return nil
	}
	if time.Since(lost.since) < lookEvery {
		return lost
	}
	return v.inspect(ctx)
}

// Unfit tells why readers are not answered and events are let pass, or nil.
func (v *Views[V]) Unfit(ctx context.Context) error {
	if err := v.whole(ctx); err != nil {
		return fmt.Errorf("look at view %s: %w", v.name, err)
	}
	return nil
}
