package projections

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"cartwright/domain/event"
)

// A Kind says in what way a document is not what its stream says.
type Kind string

// The kinds there are.
const (
	Missing Kind = "missing" // the stream has no document
	Stale   Kind = "stale"   // the document is behind its stream, and stays so
	Differs Kind = "differs" // at the same revision it says something else
	Extra   Kind = "extra"   // there is no such stream
	Corrupt Kind = "corrupt" // the stream makes no sense, and nobody parked it
	Stopped Kind = "parked"  // the view follows the stream no further
)

// A Difference is one document that is not what its stream says.
type Difference struct {
	View   string         `json:"view"`
	Stream string         `json:"stream"`
	Kind   Kind           `json:"kind"`
	Detail string         `json:"detail,omitempty"`
	Have   event.Revision `json:"have"` // the document's
	Want   event.Revision `json:"want"` // the stream's

	Repaired bool `json:"repaired,omitempty"` // the fold was put in its place
}

// Checked is a view that can be verified.
type Checked[V any] interface {
	Get(ctx context.Context, streams []string) (map[string]Doc[V], error)
	Parked(ctx context.Context, streams []string) (map[string]Parked, error)
	// Streams gives the next names of those that have documents, in order.
	Streams(ctx context.Context, after string, limit int) ([]string, error)
}

// Verification compares a view with the folds of its streams. It may run while
// both grow: what is only on its way is no difference.
type Verification[V any] struct {
	View   View[V]
	Events *event.Registry
	Log    Log
	Source Source
	Docs   Checked[V]

	// Since looks only at streams that something happened to behind a position.
	Since uint64
	// Sample looks only at about so many streams, of all times: those of events
	// anywhere in the log, up to Head, and the documents next to theirs.
	Sample int
	Head   uint64

	Limit    int           // streams in memory at once; 100,000 if not set
	Patience time.Duration // how long a document may be behind; none if not set
	Cache    bool          // the view may lack documents, which is then no difference
	Report   func(Difference) error
	// Spend is asked before more events are taken in, and may wait. Nil takes
	// them as they come.
	Spend func(ctx context.Context, events int) error

	// Repair puts folds in the place of documents that are missing, behind or
	// wrong, at the same revision too, which live writes may not. Nil only
	// reports. What stands beside documents, and what is ahead of its stream or
	// has none, takes a rebuild.
	Repair func(ctx context.Context, docs []Doc[V]) error
}

// Verified is what a verification looked at.
type Verified struct {
	Streams     int64
	Events      int64
	Differences int64
	Repaired    int64  // of the differences
	Dropped     int64  // streams that were given up, which is no difference
	Passes      int    // over the log: one for each Limit of streams
	Position    uint64 // of the last event looked at: where Since may go on the next time
}

// chunk is how many documents are compared at once.
const chunk = 500

// Run reports every difference and counts them. It is an error of the log or of
// the view that stops it, or one of Report.
func (v Verification[V]) Run(ctx context.Context) (Verified, error) {
	c := &check[V]{Verification: v, seed: maphash.MakeSeed()}
	if c.Limit <= 0 {
		c.Limit = 100_000
	}
	if c.Spend == nil {
		c.Spend = func(context.Context, int) error { return nil }
	}
	if err := c.all(ctx); err != nil {
		return c.sum, fmt.Errorf("verify %s: %w", v.View.Name, err)
	}
	return c.sum, nil
}

// A check is a verification under way. Each pass folds the streams whose hash
// lies in [low, high]; when they become too many, high comes down, and the rest
// is left to the next pass.
type check[V any] struct {
	Verification[V]
	sum Verified

	seed      maphash.Seed
	low, high uint64
	done      bool
	folds     map[string]folded[V]
	owed      int // events that leave was not asked for yet
}

// folded is a stream as far as the log was read. Of a corrupt one the document
// is of no use.
type folded[V any] struct {
	doc     Doc[V]
	corrupt *CorruptError
}

func (c *check[V]) all(ctx context.Context) error {
	switch {
	case c.Sample > 0:
		return c.sampled(ctx)
	case c.Since > 0:
		return c.changed(ctx)
	}
	for !c.done {
		if err := c.pass(ctx); err != nil {
			return err
		}
	}
	return nil
}

// changed compares the streams of the events behind a position.
func (c *check[V]) changed(ctx context.Context) error {
	names := map[string]bool{}
	c.sum.Position = c.Since
	c.sum.Passes = 1
	for r, err := range c.Source.All(ctx, c.Since, c.View.Prefixes()...) {
		if err == nil {
			err = c.spend(ctx, 1)
		}
		if err != nil {
			return fmt.Errorf("read the log after %d: %w", c.sum.Position, err)
		}
		names[r.Stream], c.sum.Position = true, r.Position
		if len(names) < c.Limit {
			continue
		}
		if err := c.these(ctx, names); err != nil {
			return err
		}
		clear(names)
	}
	return c.these(ctx, names)
}

// Of each place in the log that is looked at, so many streams are taken.
const (
	takenAtOnce = 8
	readAtOnce  = 100 // events, at most, to find them
)

// sampled compares the streams of events here and there.
func (c *check[V]) sampled(ctx context.Context) error {
	names := map[string]bool{}
	for tries := 0; len(names) < c.Sample && tries < 2*c.Sample; tries++ {
		if err := c.taste(ctx, names); err != nil {
			return err
		}
	}
	c.sum.Passes = 1
	return c.these(ctx, names)
}

// taste adds the streams of a few events somewhere in the log, and the documents
// that follow theirs in the order of names: one without a stream is found no other way.
func (c *check[V]) taste(ctx context.Context, names map[string]bool) error {
	read, taken, from := 0, 0, rand.Uint64N(max(1, c.Head)) //nolint:gosec // a sample guards nothing
	var last string
	for r, err := range c.Source.All(ctx, from, c.View.Prefixes()...) {
		if err == nil {
			err = c.spend(ctx, 1)
		}
		if err != nil {
			return fmt.Errorf("read the log after %d: %w", from, err)
		}
		last = r.Stream
		if !names[last] {
			names[last] = true
			taken++
		}
		if read++; read >= readAtOnce || taken >= takenAtOnce || len(names) >= c.Sample {
			break
		}
	}
	next, err := c.Docs.Streams(ctx, last, takenAtOnce)
	if err != nil {
		return fmt.Errorf("list documents after %q: %w", last, err)
	}
	for _, stream := range next {
		names[stream] = true
	}
	return nil
}

// these folds some streams, each from its own history, and compares them.
func (c *check[V]) these(ctx context.Context, names map[string]bool) error {
	for streams := range slices.Chunk(slices.Sorted(maps.Keys(names)), chunk) {
		c.folds = make(map[string]folded[V], len(streams))
		for _, stream := range streams {
			doc, err := Fold(ctx, c.Log, c.Events, c.View, stream)
			corrupt, is := errors.AsType[*CorruptError](err)
			if err != nil && !is {
				return err
			}
			if c.View.Settle != nil {
				doc.Body = c.View.Settle(doc.Body)
			}
			c.folds[stream] = folded[V]{doc, corrupt}
			c.sum.Events += int64(doc.Revision)                     //nolint:gosec // a stream has fewer than 2^63 events
			if err := c.spend(ctx, int(doc.Revision)); err != nil { //nolint:gosec // as above
				return err
			}
		}
		c.sum.Streams += int64(len(streams))
		if err := c.compare(ctx, streams); err != nil {
			return err
		}
	}
	return nil
}

// spend asks for leave to take in more events, many at a time.
func (c *check[V]) spend(ctx context.Context, events int) error {
	if c.owed += events; c.owed < 100 {
		return ctx.Err()
	}
	owed := c.owed
	c.owed = 0
	return c.Spend(ctx, owed)
}

func (c *check[V]) pass(ctx context.Context) error {
	c.sum.Passes++
	c.high, c.folds = math.MaxUint64, map[string]folded[V]{}
	if err := c.fold(ctx); err != nil {
		return err
	}
	for streams := range slices.Chunk(slices.Sorted(maps.Keys(c.folds)), chunk) {
		if err := c.compare(ctx, streams); err != nil {
			return err
		}
	}
	if err := c.strays(ctx); err != nil {
		return err
	}
	c.done = c.high == math.MaxUint64
	c.low = c.high + 1
	return nil
}

// fold reads the log once, for the streams of this pass.
func (c *check[V]) fold(ctx context.Context) error {
	for r, err := range c.Source.All(ctx, 0, c.View.Prefixes()...) {
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		c.sum.Position = r.Position
		if !c.ours(r.Stream) {
			continue
		}
		if err := c.spend(ctx, 1); err != nil {
			return err
		}
		c.take(r)
		if len(c.folds) > c.Limit {
			c.narrow()
		}
	}
	c.sum.Streams += int64(len(c.folds))
	for _, f := range c.folds {
		c.sum.Events += int64(f.doc.Revision) //nolint:gosec // a stream has fewer than 2^63 events
	}
	return nil
}

func (c *check[V]) ours(stream string) bool {
	h := maphash.String(c.seed, stream)
	return c.low <= h && h <= c.high
}

// narrow leaves half of the pass's streams to the next.
func (c *check[V]) narrow() {
	c.high = c.low + (c.high-c.low)/2
	maps.DeleteFunc(c.folds, func(stream string, _ folded[V]) bool { return !c.ours(stream) })
}

func (c *check[V]) take(r event.Recorded) {
	f, ok := c.folds[r.Stream]
	if !ok {
		f.doc.Stream = r.Stream
	}
	if f.corrupt != nil {
		return
	}
	doc, err := next(c.View, f.doc, Decode(c.Events, r))
	if corrupt, bad := errors.AsType[*CorruptError](err); bad {
		f.corrupt = corrupt
	} else {
		f.doc = doc
		if c.View.Settle != nil {
			f.doc.Body = c.View.Settle(doc.Body)
		}
	}
	c.folds[r.Stream] = f
}

func (c *check[V]) compare(ctx context.Context, streams []string) error {
	docs, err := c.Docs.Get(ctx, streams)
	if err != nil {
		return fmt.Errorf("get %d documents: %w", len(streams), err)
	}
	parked, err := c.Docs.Parked(ctx, streams)
	if err != nil {
		return fmt.Errorf("look for parked streams: %w", err)
	}
	for _, stream := range streams {
		record, stuck := parked[stream]
		if stuck && record.Dropped != nil {
			c.sum.Dropped++
			continue
		}
		if stuck {
			err = c.report(stream, Stopped, fmt.Sprintf("at revision %d: %s", record.Revision, record.Reason), docs[stream].Revision, c.folds[stream].doc.Revision)
		} else {
			err = c.one(ctx, c.folds[stream], docs[stream])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *check[V]) one(ctx context.Context, f folded[V], doc Doc[V]) error {
	if c.Cache && doc.Revision == 0 {
		return nil // forgotten; whoever asks for it is answered from behind the cache
	}
	if f.corrupt != nil {
		return c.report(f.corrupt.Stream, Corrupt, f.corrupt.Error(), doc.Revision, f.corrupt.Revision-1)
	}
	stream, want := f.doc.Stream, f.doc
	doc, err := c.settle(ctx, stream, want.Revision, doc)
	if err != nil {
		return err
	}
	switch {
	case want.Revision == 0 && doc.Revision == 0:
		return nil
	case want.Revision == 0:
		return c.report(stream, Extra, "", doc.Revision, 0)
	case doc.Revision == 0:
		return c.drifted(ctx, Difference{Stream: stream, Kind: Missing, Want: want.Revision})
	case doc.Revision < want.Revision:
		return c.drifted(ctx, Difference{Stream: stream, Kind: Stale, Have: doc.Revision, Want: want.Revision})
	case doc.Revision > want.Revision:
		// The view went on since the log was read.
		if want, err = fold(ctx, c.Log, c.Events, c.View, stream, doc.Revision); err != nil {
			return err
		}
		if want.Revision < doc.Revision {
			return c.report(stream, Differs, "the document is ahead of its stream", doc.Revision, want.Revision)
		}
	}
	detail, err := differ(want.Body, doc.Body)
	if err != nil || detail == "" {
		return err
	}
	return c.drifted(ctx, Difference{Stream: stream, Kind: Differs, Detail: detail, Have: doc.Revision, Want: want.Revision})
}

// drifted reports a document whose fold can take its place, and puts it there if
// that is wanted.
func (c *check[V]) drifted(ctx context.Context, d Difference) error {
	if c.Repair != nil {
		doc, err := Fold(ctx, c.Log, c.Events, c.View, d.Stream)
		if err == nil {
			err = c.Repair(ctx, []Doc[V]{doc})
		}
		if _, corrupt := errors.AsType[*CorruptError](err); err != nil && !corrupt {
			return fmt.Errorf("repair %s: %w", d.Stream, err)
		}
		d.Repaired = err == nil
	}
	return c.tell(d)
}

// settle gives a document time to reach a revision.
func (c *check[V]) settle(ctx context.Context, stream string, want event.Revision, doc Doc[V]) (Doc[V], error) {
	deadline := time.Now().Add(c.Patience)
	for doc.Revision < want && time.Now().Before(deadline) {
		select {
		case <-time.After(min(10*time.Millisecond, c.Patience)):
		case <-ctx.Done():
			return doc, ctx.Err()
		}
		docs, err := c.Docs.Get(ctx, []string{stream})
		if err != nil {
			return doc, fmt.Errorf("get %s: %w", stream, err)
		}
		doc = docs[stream]
	}
	return doc, nil
}

// strays finds documents of streams that the log does not have.
func (c *check[V]) strays(ctx context.Context) error {
	for after := ""; ; {
		streams, err := c.Docs.Streams(ctx, after, chunk)
		if err != nil {
			return fmt.Errorf("list documents after %q: %w", after, err)
		}
		if len(streams) == 0 {
			return nil
		}
		after = streams[len(streams)-1]
		for _, stream := range streams {
			if _, known := c.folds[stream]; known || !c.ours(stream) {
				continue
			}
			if err := c.stray(ctx, stream); err != nil {
				return err
			}
		}
	}
}

// stray looks at a document whose stream was not in the log when it was read.
func (c *check[V]) stray(ctx context.Context, stream string) error {
	want, err := fold(ctx, c.Log, c.Events, c.View, stream, 1)
	if _, corrupt := errors.AsType[*CorruptError](err); err == nil && want.Revision > 0 || corrupt {
		return nil // it began since
	}
	if err != nil {
		return err
	}
	docs, err := c.Docs.Get(ctx, []string{stream})
	if err != nil {
		return fmt.Errorf("get %s: %w", stream, err)
	}
	return c.report(stream, Extra, "", docs[stream].Revision, 0)
}

func (c *check[V]) report(stream string, kind Kind, detail string, have, want event.Revision) error {
	return c.tell(Difference{Stream: stream, Kind: kind, Detail: detail, Have: have, Want: want})
}

func (c *check[V]) tell(d Difference) error {
	c.sum.Differences++
	if d.Repaired {
		c.sum.Repaired++
	}
	if c.Report == nil {
		return nil
	}
	d.View = c.View.Name
	return c.Report(d)
}

// differ compares two documents as they are stored, and names the first field
// that is not the same.
func differ[V any](want, have V) (string, error) {
	w, err := json.Marshal(want)
	if err != nil {
		return "", fmt.Errorf("encode a fold: %w", err)
	}
	h, err := json.Marshal(have)
	if err != nil {
		return "", fmt.Errorf("encode a document: %w", err)
	}
	if bytes.Equal(w, h) {
		return "", nil
	}
	return difference("", w, h), nil
}

// difference walks into the first member that is not the same.
func difference(path string, want, have json.RawMessage) string {
	var w, h map[string]json.RawMessage
	if json.Unmarshal(want, &w) == nil && json.Unmarshal(have, &h) == nil && w != nil && h != nil {
		for _, key := range slices.Sorted(maps.Keys(merged(w, h))) {
			if !bytes.Equal(w[key], h[key]) {
				return difference(path+"/"+key, w[key], h[key])
			}
		}
	}
	return fmt.Sprintf("%s is %s, not %s", path, shortened(have), shortened(want))
}

func merged(a, b map[string]json.RawMessage) map[string]json.RawMessage {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func shortened(raw json.RawMessage) string {
	const most = 120
	switch {
	case len(raw) == 0:
		return "nothing"
	case len(raw) > most:
		return string(raw[:most]) + "…"
	}
	return string(raw)
}
