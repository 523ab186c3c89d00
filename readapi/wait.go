package readapi

import (
	"context"
	"errors"
	"time"

	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/projections"
)

// The views by their names, as Waited tells them.
const (
	viewBuyers   = "buyers"
	viewOrders   = "orders"
	viewStock    = "stock"
	viewOffers   = "offers"
	viewAccounts = "accounts"
	viewPayments = "payments"
)

// The outcomes that Waited is told. A wait that its reader, or the engine, put an
// end to has none: it says nothing of how far the view was.
const (
	Met    = "met"    // the view has it, maybe had it from the beginning
	Late   = "late"   // the reader was told to come again
	Parked = "parked" // the view will never have it
	Folded = "folded" // one order, from its stream: its document was missing or behind
)

func (a *api) waited(view string, begun time.Time, outcome string) {
	if a.Waited != nil {
		a.Waited(view, time.Since(begun), outcome)
	}
}

// await returns when a view has what the reader's token names of it.
func (a *api) await(ctx context.Context, name string, view projections.Seen, want map[string]event.Revision) error {
	if len(want) == 0 {
		return nil
	}
	begun := time.Now()
	waiting, cancel := context.WithTimeout(ctx, a.Wait)
	defer cancel()
	err := projections.Wait(waiting, view, want, a.Flushed)
	stuck, parked := errors.AsType[*projections.ParkedError](err)
	switch {
	case err == nil:
		a.waited(name, begun, Met)
		return nil
	case parked:
		a.waited(name, begun, Parked)
		return hopeless(stuck)
	case waiting.Err() != nil && ctx.Err() == nil:
		a.waited(name, begun, Late)
		return behind()
	}
	return err
}

// A Turning view may be turned to another copy of itself by another process,
// which does not wait for our readers. The new copy may for a moment lack what
// the old one had.
type Turning interface {
	// Turn tells copies apart: it gives what is live now.
	Turn(ctx context.Context) (int, error)
}

// turns is how often a reader is asked to bear with a view that is turned just
// as it asks.
const turns = 4

// seen asks a view once it has what the reader's token names. What was waited
// for and what was asked must be the same copy, or the answer may lack it
// (TestAViewThatIsTurnedMeanwhileIsAskedAgain).
func seen[T any](
	ctx context.Context, a *api, name string, view projections.Seen, want map[string]event.Revision, ask func() (T, error),
) (answer T, err error) {
	turning, may := view.(Turning)
	if len(want) == 0 || !may {
		if err = a.await(ctx, name, view, want); err != nil {
			return answer, err
		}
		return ask()
	}
	before, err := turning.Turn(ctx)
	for range turns {
		if err != nil {
			return answer, err
		}
		if err = a.await(ctx, name, view, want); err != nil {
			return answer, err
		}
		if answer, err = ask(); err != nil {
			return answer, err
		}
		was := before
		if before, err = turning.Turn(ctx); err == nil && before == was {
			return answer, nil
		}
	}
	if err != nil {
		return answer, err
	}
	return answer, behind()
}

// hopeless tells of a stream that its view does not follow. One that was dropped
// is no other case to a reader, but nobody is at work on it.
func hopeless(stuck *projections.ParkedError) error {
	told := &domain.Error{
		Code: domain.Unavailable, Reason: "stream_parked", RetryAfter: time.Minute, Err: stuck,
		Detail: "Something the token names has a history that this view can't follow. The operator has been told.",
	}
	if stuck.Dropped != nil {
		told.Detail = "Something the token names has a history that this view can't follow, and the operator has given it up."
	}
	return told
}

func behind() error {
	return &domain.Error{
		Code: domain.Unavailable, Reason: "not_caught_up", RetryAfter: time.Second,
		Detail: "What the token names is not to be seen here yet.",
	}
}

// away tells a reader that the engine of the views does not answer.
func away(err error) error {
	return &domain.Error{
		Code: domain.Unavailable, Reason: "views_unavailable", RetryAfter: 5 * time.Second, Err: err,
		Detail: "The views do not answer. Single orders are still served by their ids.",
	}
}

// of keeps what a token says of one kind of stream: a view can't be waited for
// to show what it does not follow.
func of(token map[string]event.Revision, category string) map[string]event.Revision {
	ours := make(map[string]event.Revision, len(token))
	for stream, at := range token {
		if event.Category(stream) == category {
			ours[stream] = at
		}
	}
	return ours
}

// one keeps what a token says of one stream.
func one(token map[string]event.Revision, stream string) map[string]event.Revision {
	if at, ok := token[stream]; ok {
		return map[string]event.Revision{stream: at}
	}
	return nil
}

// find gives the document of one stream, once it is what the token names; ok
// says whether there is one.
func find[V any](ctx context.Context, a *api, name string, view View[V], r *request, stream string) (doc projections.Doc[V], ok bool, err error) {
	docs, err := seen(ctx, a, name, view, one(r.token, stream), func() (map[string]projections.Doc[V], error) {
		return view.Get(ctx, []string{stream})
	})
	doc, ok = docs[stream]
	return doc, ok, err
}
