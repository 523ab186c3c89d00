package commands

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync/atomic"

	"cartwright/domain/event"
)

// A SnapshotStore is where snapshots are kept: a Store that can be told to show
// only the newest n events of a stream.
type SnapshotStore interface {
	Store
	KeepNewest(ctx context.Context, stream string, n int) error
}

// Snapshots says how the states of long streams are kept beside them, so that
// whoever comes to a stream of a million events need not read them all. They are
// written behind what is answered, are never needed, and are passed over when
// they can't be trusted.
//
// # Why
//
// A snapshot of stream s is a run of events in snapshot-s, as many as it has
// parts, of which only the newest are shown: the log's own means, which a backup
// and another process have too. A file beside the log was rejected for that.
//
// It is looked for only once a stream has turned out to be long: most are short,
// and a look at each of them would cost all a round trip
// (TestAShortStreamIsReadAlone). It is made when as much has happened as makes
// it worth its size, so that a state of a hundred megabytes is not written every
// few thousand events, and what snapshots cost an event stays the same however
// large the state grows. The lane stands still only while its state is copied.
//
// What a fold makes of the same events may change with its code. Version counts
// that, and TestTheSnapshotsOfKnownHistories fails where it was forgotten.
type Snapshots[S any] struct {
	Store   SnapshotStore
	Version int           // of the fold and of how its state is written
	Check   func(S) error // finds what is wrong with a state that was read back; may be nil
	Every   int           // events after which a small state is kept anew
}

const (
	defaultEvery = 4096
	// A stream is long when this part of Every was read and there is more.
	lookPart = 4
	// An event is about as dear to read as so many bytes of a snapshot are to
	// write, with something to spare.
	bytesPerEvent = 128
	// What one part holds, so that it fits into an append as base64 in JSON.
	maxPartBytes = 360 << 10
)

// snapshotPart is a piece of a snapshot as it is stored.
type snapshotPart struct {
	Version  int            `json:"version"`  // of the fold
	Revision event.Revision `json:"revision"` // how far the stream is told
	Number   int            `json:"number"`   // from 1
	Of       int            `json:"of"`
	Digest   string         `json:"digest"` // of the whole
	Data     []byte         `json:"data"`
}

// snapshotBody is what the parts make together.
type snapshotBody[S any] struct {
	State  S                     `json:"state"`
	Causes map[string]storedSpan `json:"causes,omitempty"`
}

type storedSpan struct {
	From   event.Revision `json:"from"`
	To     event.Revision `json:"to"`
	Digest string         `json:"digest,omitempty"`
}

// A shelf is what a process knows of one stream's snapshots.
type shelf struct {
	at   atomic.Uint64 // the revision up to which the newest tells, or was to tell
	size atomic.Int64  // its bytes

	// The rest belongs to the lane until it is read, then to the one writer of the handler.
	known bool
	head  event.Revision // of the snapshots' own stream
	parts int            // of the newest whole one
	shown int            // what this process has let it show
}

// checked fills in what is left unsaid; none stay none.
func (s *Snapshots[S]) checked(category string) (*Snapshots[S], error) {
	if s == nil {
		return nil, nil
	}
	if s.Store == nil || s.Version < 1 {
		return nil, fmt.Errorf("the snapshots of %s need a store and the version of their fold", category)
	}
	full := *s
	if full.Every <= 0 {
		full.Every = defaultEvery
	}
	return &full, nil
}

func snapshotStream(stream string) string { return "snapshot-" + stream }

var snapshotTypes = []event.Type{event.Of[snapshotPart]("snapshot.part")}

// due tells whether enough has happened since the newest snapshot.
func (s *shelf) due(at event.Revision, every int) bool {
	since := uint64(at) - min(s.at.Load(), uint64(at))
	return since >= max(uint64(every), uint64(s.size.Load())/bytesPerEvent) //nolint:gosec // neither is negative
}

// keepSnapshot has the state kept where that is due, unless the handler is
// busy with another: then after the next batch.
func (l *lane[S, C, E]) keepSnapshot(ctx context.Context) {
	h, f := l.handler, l.fold
	s := h.spec.Snapshots
	if s == nil || !f.known || f.at < event.Revision(s.Every) { //nolint:gosec // not negative
		return
	}
	if f.shelf == nil {
		f.shelf = &shelf{}
	}
	if !f.shelf.due(f.at, s.Every) || !h.keeping.CompareAndSwap(false, true) {
		return
	}
	w := &snapshotWriter[S, C, E]{
		handler: h, stream: l.stream, shelf: f.shelf, at: f.at,
		state: h.spec.Decider.Clone(f.state), causes: maps.Clone(f.causes),
	}
	w.shelf.at.Store(uint64(f.at))
	h.lanes.Go(func() {
		defer h.keeping.Store(false)
		// What fails here is tried again when as much has happened once more;
		// until then the stream is read a little longer.
		_ = w.write(ctx)
	})
}

// A snapshotWriter brings a copy of a lane's state into the store.
type snapshotWriter[S, C, E any] struct {
	handler *Handler[S, C, E]
	stream  string
	shelf   *shelf
	at      event.Revision
	state   S
	causes  map[string]span
}

func (w *snapshotWriter[S, C, E]) write(ctx context.Context) error {
	if !w.shelf.known {
		if _, err := w.handler.newest(ctx, w.stream, w.shelf); err != nil {
			return err
		}
	}
	parts, size, err := w.parts()
	if err != nil {
		return err
	}
	w.shelf.size.Store(int64(size))
	if err = w.show(ctx, w.shelf.parts+len(parts)); err != nil {
		return err
	}
	for _, p := range parts {
		if err = w.add(ctx, p); err != nil {
			w.shelf.known = false // another process writes too, or nobody knows
			return err
		}
	}
	w.shelf.parts = len(parts)
	return nil
}

// parts cuts the state into pieces that the store takes.
func (w *snapshotWriter[S, C, E]) parts() (parts []snapshotPart, size int, err error) {
	body := snapshotBody[S]{State: w.state, Causes: make(map[string]storedSpan, len(w.causes))}
	for cause, s := range w.causes {
		body.Causes[cause] = storedSpan{From: s.from, To: s.to, Digest: s.digest}
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, 0, fmt.Errorf("snapshot of %s: %w", w.stream, err)
	}
	p := snapshotPart{
		Version: w.handler.spec.Snapshots.Version, Revision: w.at,
		Of: (len(text) + maxPartBytes - 1) / maxPartBytes, Digest: digestOf(text),
	}
	for from := 0; from < len(text); from += maxPartBytes {
		p.Number++
		p.Data = text[from:min(from+maxPartBytes, len(text))]
		parts = append(parts, p)
	}
	return parts, len(text), nil
}

// show lets the stream show n events: the old snapshot until the new one is whole.
func (w *snapshotWriter[S, C, E]) show(ctx context.Context, n int) error {
	if n <= w.shelf.shown {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, w.handler.spec.Timeout)
	defer cancel()
	if err := w.handler.spec.Snapshots.Store.KeepNewest(ctx, snapshotStream(w.stream), n); err != nil {
		return err
	}
	w.shelf.shown = n
	return nil
}

func (w *snapshotWriter[S, C, E]) add(ctx context.Context, p snapshotPart) error {
	r, err := w.handler.snapshots.Encode(p)
	if err != nil {
		return err
	}
	to := snapshotStream(w.stream)
	r.Cause = w.stream + "@" + strconv.FormatUint(uint64(p.Revision), 10)
	r.ID, r.Actor = eventID(to, r.Cause, p.Number, r.Data), "commands"
	ctx, cancel := context.WithTimeout(ctx, w.handler.spec.Timeout)
	defer cancel()
	if err = w.handler.spec.Snapshots.Store.Append(ctx, to, w.shelf.head, []event.Recorded{r}); err != nil {
		return err
	}
	w.shelf.head++
	return nil
}

func digestOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// A pile is the parts of a snapshot as they come.
type pile struct {
	first snapshotPart
	got   int
	text  []byte
}

// put adds a part to the snapshot it belongs to, and gives up what misses one.
func (p *pile) put(part snapshotPart) (whole bool) {
	switch {
	case part.Number == 1:
		*p = pile{first: part}
	case part.Number != p.got+1 || part.Digest != p.first.Digest || part.Revision != p.first.Revision:
		*p = pile{}
		return false
	}
	p.got++
	p.text = append(p.text, part.Data...)
	return p.got == p.first.Of
}

// newest reads the newest whole snapshot of a stream, and notes on its shelf
// where the next one goes.
func (h *Handler[S, C, E]) newest(ctx context.Context, stream string, at *shelf) (pile, error) {
	var last, next pile
	at.parts = 0
	for r, err := range h.spec.Snapshots.Store.Load(ctx, snapshotStream(stream), 0) {
		if err != nil {
			return pile{}, fmt.Errorf("read the snapshot of %s: %w", stream, err)
		}
		at.head = r.Revision
		part, err := event.Decode[snapshotPart](h.snapshots, r)
		if err != nil {
			next = pile{} // of a newer program
			continue
		}
		if next.put(part) {
			last, next = next, pile{}
			at.parts = last.got
		}
	}
	at.known = true
	return last, nil
}

var errUnusable = errors.New("snapshot is of no use")

// body is what a snapshot says, if it is one of ours and whole.
func (s *Snapshots[S]) body(p pile) (b snapshotBody[S], err error) {
	if p.got == 0 || p.first.Version != s.Version || digestOf(p.text) != p.first.Digest {
		return b, errUnusable
	}
	if err = json.Unmarshal(p.text, &b); err != nil || s.Check == nil {
		return b, err
	}
	return b, s.Check(b.State)
}

// adopt brings the fold to where the newest snapshot is, if there is one that
// can be used and is further. Whatever is in its way, the stream tells all.
func (l *lane[S, C, E]) adopt(ctx context.Context) {
	f, at := l.fold, &shelf{}
	p, err := l.handler.newest(ctx, l.stream, at)
	if err != nil {
		return
	}
	f.shelf = at
	body, err := l.handler.spec.Snapshots.body(p)
	if err != nil || p.first.Revision <= f.at {
		return
	}
	at.at.Store(uint64(p.first.Revision))
	at.size.Store(int64(len(p.text)))
	f.state, f.at = body.State, p.first.Revision
	f.causes = make(map[string]span, len(body.Causes))
	for cause, s := range body.Causes {
		f.causes[cause] = span{from: s.From, to: s.To, digest: s.Digest}
	}
}

// lookAfter is how many events are read before a snapshot is looked for, 0
// where none is.
func (l *lane[S, C, E]) lookAfter() int {
	if s := l.handler.spec.Snapshots; s != nil && !l.fold.known {
		return max(1, s.Every/lookPart)
	}
	return 0
}
