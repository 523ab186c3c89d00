// Package projections turns events into the documents that queries read: one
// kind of document a view, one document a stream.
//
// A document carries its stream's revision. An event that was seen is skipped,
// the next one is applied, and one from further on shows a gap, which is healed
// by reading the stream from the log. So duplicates, reorderings and losses on
// the way all end in the same document, the fold of its stream.
//
// # Why
//
// Views are written only if newer, and a document is nothing but a fold. So a
// document at a revision is the same whoever computed it, and no writer needs to
// know of another: a batch may be applied twice, by two processes, or while a
// rebuild writes the same streams (TestWhateverTheBusDoesEndsInTheFold,
// TestARebuildUnderLiveTrafficLosesNothing).
//
// An event that can't be read or can't have happened parks its stream and
// nothing else: the batch goes on, the record says where and why, and later
// events of that stream only count (TestAPoisonEventParksItsStreamOnly). Not
// chosen: failing the batch, which wedges a whole partition for one bad stream.
// An engine that fails is another matter: the batch fails and comes again.
//
// An operator may give a parked stream up: that is a word in its record, which
// says why, who and when, and stays there. Not chosen: forgetting the record,
// since the next event of the stream, or the next rebuild, would park it again
// (TestAStreamThatWasGivenUpStopsNoRebuild).
//
// A rebuild folds in memory and puts each document as late as it can, so an
// order whose whole life is in the log is written once and not once an event
// (TestARebuildPutsEachDocumentOnce); what it holds is bounded
// (TestARebuildHoldsNoMoreThanItMay). Now and then it puts everything and writes
// down the position, from which the next rebuild goes on if this one is killed
// (TestARebuildThatWasKilledIsGoneOnWith). The mark names the program: another
// one may fold otherwise, and half of each would be neither.
//
// It writes a new generation beside the live one and heals gaps like any
// projector, so that live events may run ahead of it. Not chosen: leaving live
// events to the rebuild while it is behind them, which loses an event that is in
// the rebuild's hands, not yet written, when the next one arrives
// (TestALiveEventAheadOfTheRebuildIsNotLost). A rebuild of some streams only
// puts their folds into the live generation instead, since a generation with
// nothing else in it is of no use (TestAReplayOfAPartTouchesNothingElse).
//
// Orders that are long closed go to an archive beside the index, by a boundary
// in time that belongs to the generation. Which tier an order is in follows from
// its document and the boundary alone, so nobody has to remember what was moved,
// and a late event finds it. It is a matter of where, not of what: a document
// says the same in either tier, and verify does not know them.
package projections

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"cartwright/domain/event"
)

// Views stores the documents of one view. Both methods may be called
// concurrently, and again after any error.
type Views[V any] interface {
	// Get gives the documents there are of some streams.
	Get(ctx context.Context, streams []string) (map[string]Doc[V], error)
	// Put stores documents, each unless one of the same or a later revision is
	// there. After an error some may be stored; a *RefusedError names those that
	// never will be, and says that the others are.
	Put(ctx context.Context, docs []Doc[V]) error
}

// ErrUnavailable is what an engine answers when its server can't be reached or
// asks to come later. Nothing is wrong with what was asked.
var ErrUnavailable = errors.New("the views are not available")

// A RefusedError names documents that the engine will not take, however often
// they come, with the reasons by stream.
type RefusedError struct{ Docs map[string]error }

func (e *RefusedError) Error() string {
	streams := slices.Sorted(maps.Keys(e.Docs))
	return fmt.Sprintf("%d documents are refused, the first %s: %v", len(streams), streams[0], e.Docs[streams[0]])
}

// Parking remembers the streams that a view can't follow any further. Its
// methods may be called concurrently, and again after any error.
type Parking interface {
	// Parked gives those of some streams that are parked.
	Parked(ctx context.Context, streams []string) (map[string]Parked, error)
	// Park parks streams, or says more of those that are. A record that does not
	// supersede the one that is there changes nothing.
	Park(ctx context.Context, records []Parked) error
	// Unpark forgets records. Forgetting what isn't there is no error.
	Unpark(ctx context.Context, streams []string) error
}

// Parked is the record of a stream that a view can't follow any further.
type Parked struct {
	View     string         `json:"view"`
	Stream   string         `json:"stream"`
	Revision event.Revision `json:"revision"` // of the event it stopped at
	Reason   string         `json:"reason"`
	Count    int64          `json:"count"` // events from there on, as far as they are known
	At       time.Time      `json:"at"`    // when it was found

	// Dropped says that an operator has given the stream up: nobody is waiting for
	// it to be mended. It is followed no more than before.
	Dropped *Dropped `json:"dropped,omitempty"`
}

// Dropped is why and when a parked stream was given up, and by whom.
type Dropped struct {
	Reason string    `json:"reason"`
	By     string    `json:"by,omitempty"`
	At     time.Time `json:"at"`
}

// A Projector keeps the documents of one view. Its methods may be called
// concurrently.
type Projector[V any] struct {
	View    View[V]
	Events  *event.Registry
	Log     Log
	Views   Views[V]
	Parking Parking

	// Keep is how many documents are remembered between batches, so that they
	// need not be read again. They are folds, so they can't be wrong, only old.
	Keep int

	recent recent[V]
	stats  stats
}

// Stats count what a projector did. Applied, skipped and healed are events that
// came, parked and counted likewise.
type Stats struct {
	Applied int64 // events that changed a document
	Skipped int64 // events that were seen before
	Healed  int64 // gaps closed from the log
	Parked  int64 // streams that were parked
	Counted int64 // events of streams that were parked already
}

type stats struct{ applied, skipped, healed, parked, counted atomic.Int64 }

// Stats gives the counts since the start.
func (p *Projector[V]) Stats() Stats {
	s := &p.stats
	return Stats{s.applied.Load(), s.skipped.Load(), s.healed.Load(), s.parked.Load(), s.counted.Load()}
}

// Name is the view's.
func (p *Projector[V]) Name() string { return p.View.Name }

// Wants tells whether the projector has to do with streams of a category.
func (p *Projector[V]) Wants(category string) bool { return p.View.Wants(category) }

// Apply brings the documents of a batch's streams to the batch's end, exactly
// once in effect. After an error the same batch may be applied again.
func (p *Projector[V]) Apply(ctx context.Context, batch []Decoded) error {
	byStream := p.group(batch)
	if len(byStream) == 0 {
		return nil
	}
	parked, err := p.Parking.Parked(ctx, slices.Collect(maps.Keys(byStream)))
	if err != nil {
		return fmt.Errorf("look for parked streams of %s: %w", p.View.Name, err)
	}
	stuck := p.count(parked, byStream)
	docs, err := p.documents(ctx, byStream)
	if err != nil {
		return err
	}
	changed := make([]Doc[V], 0, len(byStream))
	for stream, events := range byStream {
		was := docs[stream].Revision
		doc, poison, err := p.advance(ctx, docs[stream], events)
		if err != nil {
			return err
		}
		if poison != nil {
			stuck = append(stuck, p.park(poison, events))
		}
		if doc.Revision > was {
			changed = append(changed, doc)
		}
	}
	return p.store(ctx, changed, stuck)
}

// group sorts a batch's events by stream and revision and leaves out what is
// not of this view.
func (p *Projector[V]) group(batch []Decoded) map[string][]Decoded {
	byStream := map[string][]Decoded{}
	for _, e := range batch {
		if p.View.Wants(event.Category(e.Stream)) {
			byStream[e.Stream] = append(byStream[e.Stream], e)
		}
	}
	for _, events := range byStream {
		slices.SortStableFunc(events, func(a, b Decoded) int { return cmp.Compare(a.Revision, b.Revision) })
	}
	return byStream
}

// count takes the parked streams out of a batch and gives their records, where
// they grew.
func (p *Projector[V]) count(parked map[string]Parked, byStream map[string][]Decoded) []Parked {
	var grown []Parked
	for stream, record := range parked {
		events := byStream[stream]
		p.stats.counted.Add(int64(len(events)))
		if n := waiting(record.Revision, events); n > record.Count {
			record.Count = n
			grown = append(grown, record)
		}
		delete(byStream, stream)
	}
	return grown
}

// waiting is how many events there are from a revision to the last of a batch.
// Counting by revision counts a repeat once.
func waiting(from event.Revision, events []Decoded) int64 {
	last := events[len(events)-1].Revision
	if last < from {
		return 0
	}
	return int64(last-from) + 1 //nolint:gosec // a stream has fewer than 2^63 events
}

// documents finds what the batch's streams have so far. A stream that begins in
// this batch is taken to have nothing: should it have, the write that follows
// is of an older revision and changes nothing.
func (p *Projector[V]) documents(ctx context.Context, byStream map[string][]Decoded) (map[string]Doc[V], error) {
	docs := make(map[string]Doc[V], len(byStream))
	var ask []string
	for stream, events := range byStream {
		doc, known := p.recent.take(stream)
		switch {
		case known:
			docs[stream] = doc
		case events[0].Revision == 1:
			docs[stream] = Doc[V]{Stream: stream}
		default:
			docs[stream] = Doc[V]{Stream: stream}
			ask = append(ask, stream)
		}
	}
	if len(ask) == 0 {
		return docs, nil
	}
	stored, err := p.Views.Get(ctx, ask)
	if err != nil {
		return nil, fmt.Errorf("get %d documents of %s: %w", len(ask), p.View.Name, err)
	}
	maps.Copy(docs, stored)
	return docs, nil
}

// advance brings one document to the end of its events, or to the last before
// the one that can't be.
func (p *Projector[V]) advance(ctx context.Context, doc Doc[V], events []Decoded) (Doc[V], *CorruptError, error) {
	for _, e := range events {
		if e.Revision <= doc.Revision {
			p.stats.skipped.Add(1)
			continue
		}
		if e.Revision > doc.Revision+1 {
			return p.heal(ctx, doc, events)
		}
		after, err := next(p.View, doc, e)
		if err != nil {
			return p.refold(ctx, doc.Stream, events)
		}
		doc = after
		p.stats.applied.Add(1)
	}
	return doc, nil, nil
}

// heal closes a gap with what the log has behind the document.
func (p *Projector[V]) heal(ctx context.Context, doc Doc[V], events []Decoded) (Doc[V], *CorruptError, error) {
	p.stats.healed.Add(1)
	was := doc.Revision
	doc, err := resume(ctx, p.Log, p.Events, p.View, doc, ^event.Revision(0))
	if _, corrupt := errors.AsType[*CorruptError](err); corrupt {
		return p.refold(ctx, doc.Stream, events)
	}
	if err == nil {
		err = reaches(doc, events)
	}
	if err != nil {
		return doc, nil, fmt.Errorf("close a gap in %s: %w", p.View.Name, err)
	}
	p.stats.applied.Add(int64(doc.Revision - was)) //nolint:gosec // a stream has fewer than 2^63 events
	return doc, nil, nil
}

// refold settles whether the history is wrong or only what came of it: the log
// has the last word, and the document is made anew up to where it makes sense.
func (p *Projector[V]) refold(ctx context.Context, stream string, events []Decoded) (Doc[V], *CorruptError, error) {
	doc, err := Fold(ctx, p.Log, p.Events, p.View, stream)
	if corrupt, ok := errors.AsType[*CorruptError](err); ok {
		return doc, corrupt, nil
	}
	if err == nil {
		err = reaches(doc, events)
	}
	if err != nil {
		return doc, nil, fmt.Errorf("fold %s for %s: %w", stream, p.View.Name, err)
	}
	return doc, nil, nil
}

// reaches tells of a log that does not have what was already sent on: not yet,
// so it is worth asking again.
func reaches[V any](doc Doc[V], events []Decoded) error {
	if last := events[len(events)-1].Revision; doc.Revision < last {
		return fmt.Errorf("the log has %s up to %d, not %d", doc.Stream, doc.Revision, last)
	}
	return nil
}

func (p *Projector[V]) park(poison *CorruptError, events []Decoded) Parked {
	p.stats.parked.Add(1)
	return Parked{
		View: p.View.Name, Stream: poison.Stream, Revision: poison.Revision, Reason: poison.Err.Error(),
		Count: max(1, waiting(poison.Revision, events)), At: time.Now().UTC().Truncate(time.Microsecond),
	}
}

// store writes what a batch came to, and remembers it.
func (p *Projector[V]) store(ctx context.Context, changed []Doc[V], stuck []Parked) error {
	written, err := p.write(ctx, changed, stuck)
	for _, doc := range written {
		p.recent.keep(p.settled(doc), p.Keep)
	}
	return err
}

// write stores the documents first, since a parked stream is not looked at
// again, and gives those that the engine took.
func (p *Projector[V]) write(ctx context.Context, changed []Doc[V], stuck []Parked) (written []Doc[V], err error) {
	refused, err := p.put(ctx, changed)
	if err != nil {
		return nil, fmt.Errorf("put %d documents of %s: %w", len(changed), p.View.Name, err)
	}
	written = changed
	if len(refused) > 0 {
		written = nil
		for _, doc := range changed {
			if reason, no := refused[doc.Stream]; no {
				poison := &CorruptError{doc.Stream, doc.Revision, reason}
				stuck = append(stuck, p.park(poison, []Decoded{{Recorded: event.Recorded{Revision: doc.Revision}}}))
				continue
			}
			written = append(written, doc)
		}
	}
	if len(stuck) == 0 {
		return written, nil
	}
	if err := p.Parking.Park(ctx, stuck); err != nil {
		return written, fmt.Errorf("park %d streams of %s: %w", len(stuck), p.View.Name, err)
	}
	return written, nil
}

func (p *Projector[V]) put(ctx context.Context, changed []Doc[V]) (map[string]error, error) {
	if len(changed) == 0 {
		return nil, nil
	}
	err := p.Views.Put(ctx, changed)
	if refused, ok := errors.AsType[*RefusedError](err); ok {
		return refused.Docs, nil
	}
	return nil, err
}

func (p *Projector[V]) settled(doc Doc[V]) Doc[V] {
	if p.View.Settle != nil {
		doc.Body = p.View.Settle(doc.Body)
	}
	return doc
}

// Redrive follows a parked stream again, from the log, and says whether it is
// parked no more. A stream that is still wrong stays parked, with what is wrong
// now, and is answered with a *ParkedError.
func (p *Projector[V]) Redrive(ctx context.Context, stream string) error {
	// Once while it is parked, and once when no event is only counted any more:
	// what was counted in between is in the log by then.
	for range 2 {
		doc, err := Fold(ctx, p.Log, p.Events, p.View, stream)
		if corrupt, ok := errors.AsType[*CorruptError](err); ok {
			return p.parkAgain(ctx, doc, corrupt)
		}
		if err != nil {
			return fmt.Errorf("redrive %s in %s: %w", stream, p.View.Name, err)
		}
		if err := p.Views.Put(ctx, []Doc[V]{doc}); err != nil {
			return fmt.Errorf("redrive %s in %s: %w", stream, p.View.Name, err)
		}
		if err := p.Parking.Unpark(ctx, []string{stream}); err != nil {
			return fmt.Errorf("redrive %s in %s: %w", stream, p.View.Name, err)
		}
	}
	return nil
}

func (p *Projector[V]) parkAgain(ctx context.Context, doc Doc[V], corrupt *CorruptError) error {
	record := p.park(corrupt, []Decoded{{Recorded: event.Recorded{Revision: corrupt.Revision}}})
	if old, err := p.Parking.Parked(ctx, []string{doc.Stream}); err != nil {
		return fmt.Errorf("redrive %s in %s: %w", doc.Stream, p.View.Name, err)
	} else if was, ok := old[doc.Stream]; ok {
		last := was.Revision + event.Revision(was.Count) - 1 //nolint:gosec // a count is positive
		record.Count = waiting(record.Revision, []Decoded{{Recorded: event.Recorded{Revision: max(last, record.Revision)}}})
	}
	if err := p.Parking.Unpark(ctx, []string{doc.Stream}); err != nil {
		return fmt.Errorf("redrive %s in %s: %w", doc.Stream, p.View.Name, err)
	}
	if err := p.store(ctx, []Doc[V]{doc}, []Parked{record}); err != nil {
		return fmt.Errorf("redrive %s: %w", doc.Stream, err)
	}
	return &ParkedError{record}
}

// ErrNotParked reports a stream that is followed, so that there is nothing to give up.
var ErrNotParked = errors.New("the stream is not parked")

// Drop gives a parked stream up, for a reason that its record then tells. It is
// followed no more than before, but nobody is reminded of it, and a rebuild that
// comes to it goes on. Redrive takes it up again.
func (p *Projector[V]) Drop(ctx context.Context, stream string, why Dropped) (Parked, error) {
	for range 10 {
		parked, err := p.Parking.Parked(ctx, []string{stream})
		record, is := parked[stream]
		switch {
		case err != nil:
			return record, fmt.Errorf("drop %s in %s: %w", stream, p.View.Name, err)
		case !is:
			return record, fmt.Errorf("drop %s in %s: %w", stream, p.View.Name, ErrNotParked)
		case record.Dropped != nil:
			return record, nil
		}
		record.Dropped = &why
		// An engine may have counted on meanwhile: then it is asked once more.
		if err := p.Parking.Park(ctx, []Parked{record}); err != nil {
			return record, fmt.Errorf("drop %s in %s: %w", stream, p.View.Name, err)
		}
	}
	return Parked{}, fmt.Errorf("drop %s in %s: its record changes all the time", stream, p.View.Name)
}

// Newest keeps of several documents of one stream the newest, for engines that
// compare only with what is stored.
func Newest[V any](docs []Doc[V]) []Doc[V] {
	at := make(map[string]int, len(docs))
	kept := make([]Doc[V], 0, len(docs))
	for _, doc := range docs {
		i, twice := at[doc.Stream]
		switch {
		case !twice:
			at[doc.Stream] = len(kept)
			kept = append(kept, doc)
		case doc.Revision > kept[i].Revision:
			kept[i] = doc
		}
	}
	return kept
}

// Supersedes tells whether a record says anything that the one before did not:
// another place, more events waiting there, or that it is given up.
func (p Parked) Supersedes(before Parked) bool {
	return p.Revision != before.Revision || p.Count > before.Count || p.Dropped != nil && before.Dropped == nil
}

// Onto is the record that takes the place of one that it supersedes. A stream
// that was given up stays so while it stands at the same event.
func (p Parked) Onto(before Parked) Parked {
	if p.Revision != before.Revision {
		return p
	}
	if p.Dropped == nil {
		p.Dropped = before.Dropped
	}
	p.Count = max(p.Count, before.Count)
	return p
}
