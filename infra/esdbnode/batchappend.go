package esdbnode

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/emptypb"
)

// What one BatchAppend call may have open. Past the first bound nothing more is
// read from the client until answers are out; past the others what it begins is
// refused, since only itself could end what it has begun.
const (
	batchInFlight   = 16 << 20 // bytes of appends that are whole and not answered
	batchLeast      = 16 << 10 // what the smallest of them counts for
	batchUnfinished = 16 << 20 // bytes of appends that are not whole
	batchBegun      = 1024     // of them
	batchPatience   = 2 * time.Second
	eventOverhead   = 128 // bytes that an event takes beside what it brings
	maxEcho         = 256 // bytes of a correlation id as it came
)

var errLate = errors.New("its time is over")

// A batchAppend is one of the appends of a BatchAppend call.
type batchAppend struct {
	write
	echo     string    // the correlation id as it came
	deadline time.Time // by which it must be whole
}

// batchAppends is one BatchAppend call: many appends, in parts, under the
// correlation ids of the client, each answered when it is on disk. They are put
// into the log in the order in which they became whole
// (TestABatchIsWrittenInItsOrder).
type batchAppends struct {
	service *streamsService
	call    grpc.ServerStream
	room    *semaphore.Weighted
	done    chan *write // has room for all that are in flight
	refused chan *batchAppend
	pending atomic.Int64 // how many are in flight

	mu    sync.Mutex
	begun map[[16]byte]*batchAppend // those that are not whole
	size  int                       // of them
	late  *time.Timer               // goes off when one of them is late
	next  time.Time                 // when it goes off
}

// BatchAppend takes appends and answers each. One that is refused ends nothing
// but itself. The call ends when the client has no more and all are answered, and
// when the node closes, or its disk is full: what became of those under way is
// then known only later.
func (s *streamsService) BatchAppend(call streams.Streams_BatchAppendServer) error {
	b := &batchAppends{
		service: s, call: call, room: semaphore.NewWeighted(batchInFlight), begun: map[[16]byte]*batchAppend{},
		done: make(chan *write, batchInFlight/batchLeast), refused: make(chan *batchAppend), late: time.NewTimer(math.MaxInt64),
	}
	defer b.late.Stop()
	received := make(chan error, 1)
	s.receiving.Go(func() { received <- b.receive() }) // it ends with the call, which is when this has returned
	return asStatus(b.answer(received), call.SetTrailer)
}

// answer tells what becomes of each append until nothing more comes.
func (b *batchAppends) answer(received <-chan error) (end error) {
	full, closing := b.service.store.room.filled(), b.service.store.closing
	for received != nil || b.pending.Load() > 0 {
		var err error
		select {
		case w := <-b.done:
			err = b.tell(w)
		case a := <-b.refused:
			err = b.fail(a, a.out.err)
		case <-b.late.C:
			err = b.sweep()
		case err = <-received:
			received = nil
		case <-full:
			err = errFull
		case <-closing:
			received, closing, end = nil, nil, errClosing
		}
		if err != nil {
			return err
		}
	}
	return end
}

// receive takes appends until the client has no more. What the client has not
// finished is forgotten then.
func (b *batchAppends) receive() error {
	m := batchMessage{now: b.service.store.now}
	for {
		switch err := b.call.RecvMsg(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		a, err := b.take(&m)
		switch {
		case err != nil:
			return err
		case a == nil:
		case a.out.err != nil:
			err = b.refuse(a)
		default:
			err = b.put(a)
		}
		if err != nil {
			return err
		}
	}
}

// take adds a message to its append, and gives the append when it is whole, or
// is refused. What belongs to no append is passed over: to one that was refused,
// most likely.
func (b *batchAppends) take(m *batchMessage) (*batchAppend, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a, open := b.begun[m.correlation.value]
	switch {
	case !m.identified() && !m.options.hasOptions:
		return nil, refuseRequest("the request has no correlation id, and nothing that says which append it is part of")
	case open:
		b.size -= a.footprint()
	case m.options.hasOptions:
		a = b.begin(m)
	default:
		return nil, nil //nolint:nilnil // there is nothing to do
	}
	for i := range m.events {
		if a.out.err == nil {
			a.out.err = a.add(&m.events[i], b.service.maxAppend)
		}
	}
	if a.out.err == nil && !m.final {
		a.out.err = b.keep(m.correlation.value, a)
		if a.out.err == nil {
			return nil, nil //nolint:nilnil // there is more to come
		}
	}
	if open {
		delete(b.begun, m.correlation.value)
	}
	return a, nil
}

// identified tells whether a message says which append it is part of.
func (m *batchMessage) identified() bool {
	return m.correlated && !m.correlation.bad && len(m.echo) <= maxEcho
}

// begin makes an append of a message's options. Its names outlive the message, of
// which they are a small part.
func (b *batchAppends) begin(m *batchMessage) *batchAppend {
	a := &batchAppend{write: write{op: opAppend}, deadline: b.service.store.now().Add(batchPatience)}

	a.out.err = a.begin(&m.options)
	a.stream = m.options.stream
	switch {
	case !m.identified():
		a.out.err = refuseRequest("the request's correlation id is missing, or is not a UUID")
		return a
	case !m.deadline.IsZero() && m.deadline.Before(a.deadline):
		a.deadline = m.deadline
	}
	a.echo = m.echo
	if a.out.err == nil && !b.service.store.now().Before(a.deadline) {
		a.out.err = errLate
	}
	return a
}

// keep waits for the rest of an append.
func (b *batchAppends) keep(id [16]byte, a *batchAppend) error {
	_, open := b.begun[id]
	switch {
	case !open && len(b.begun) >= batchBegun:
		return fmt.Errorf("the call has %d appends that are not whole: %w", len(b.begun), errBusy)
	case b.size+a.footprint() > batchUnfinished:
		return fmt.Errorf("the call has %d bytes of appends that are not whole: %w", b.size, errBusy)
	}
	b.begun[id] = a
	b.size += a.footprint()
	if len(b.begun) == 1 || a.deadline.Before(b.next) {
		b.wake(a.deadline)
	}
	return nil
}

// wake has the late ones swept away at some time, or soon after.
func (b *batchAppends) wake(at time.Time) {
	b.next = at
	b.late.Reset(max(at.Sub(b.service.store.now()), time.Millisecond))
}

// sweep answers those whose rest is late.
func (b *batchAppends) sweep() error {
	late := b.overdue()
	for _, a := range late {
		if err := b.fail(a, errLate); err != nil {
			return err
		}
	}
	return nil
}

func (b *batchAppends) overdue() (late []*batchAppend) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.service.store.now()
	var next time.Time
	for id, a := range b.begun {
		switch {
		case !now.Before(a.deadline):
			late = append(late, a)
			delete(b.begun, id)
			b.size -= a.footprint()
		case next.IsZero() || a.deadline.Before(next):
			next = a.deadline
		}
	}
	if !next.IsZero() {
		b.wake(next)
	}
	return late
}

// put hands an append to the writer, as soon as there is room for one more.
func (b *batchAppends) put(a *batchAppend) error {
	if err := b.room.Acquire(b.call.Context(), a.weight()); err != nil {
		return err
	}
	select {
	case <-b.service.store.closing:
		return errClosing
	default:
	}
	a.done, a.batch = b.done, a
	b.pending.Add(1)
	err := b.service.store.put(&a.write)
	if err == nil {
		return nil
	}
	b.pending.Add(-1)
	b.room.Release(a.weight())
	if errors.Is(err, errBusy) || errors.Is(err, errFull) {
		a.out.err = err
		return b.refuse(a)
	}
	return err
}

// weight is what an append takes of the room for those in flight.
func (a *batchAppend) weight() int64 {
	return min(max(int64(a.footprint()), batchLeast), batchInFlight)
}

// footprint is how many bytes an append takes in memory.
func (a *batchAppend) footprint() int { return a.size + len(a.events)*eventOverhead }

// refuse has an append answered that does not get to the writer.
func (b *batchAppends) refuse(a *batchAppend) error {
	select {
	case b.refused <- a:
		return nil
	case <-b.call.Context().Done():
		return b.call.Context().Err()
	}
}

// tell answers an append that comes from the writer.
func (b *batchAppends) tell(w *write) error {
	a := w.batch
	b.pending.Add(-1)
	b.room.Release(a.weight())
	switch {
	case w.out.err != nil:
		return b.fail(a, w.out.err)
	case w.out.verdict == wrongVersion:
		return b.send(a, status.New(codes.AlreadyExists, "WrongExpectedVersion"), wrongDetail(w.expect, w.out.events))
	case w.out.verdict == deleted:
		b.service.store.meters.refuse(refuseDeleted(w.stream))
		stream := &shared.StreamIdentifier{StreamName: []byte(strings.TrimPrefix(w.stream, metaPrefix))}
		return b.send(a, status.New(codes.NotFound, "StreamDeleted"), &shared.StreamDeleted{StreamIdentifier: stream})
	}
	return b.call.SendMsg(&batchSuccessMessage{
		successMessage: successMessage{events: w.out.events, position: w.out.position}, echo: a.echo, stream: w.stream,
	})
}

// fail answers an append that was not even looked at, or of which nobody knows
// what became. The codes are EventStoreDB's, and so are the details, by which its
// clients know what an answer is about.
func (b *batchAppends) fail(a *batchAppend, err error) error {
	answer := asStatus(err, ignoreTrailers)
	b.service.store.meters.refuse(answer)
	s := status.Convert(answer)
	r, refused := errors.AsType[*refusal](err)
	switch {
	case errors.Is(err, errClosing), errors.Is(err, errBroken):
		return err // so it is with all of them
	case errors.Is(err, errLate):
		return b.send(a, s, &shared.Timeout{})
	case refused && r.about("maximum-append-size-exceeded"):
		limit := uint32(min(b.service.maxAppend, math.MaxUint32)) //nolint:gosec // within
		return b.send(a, s, &shared.MaximumAppendSizeExceeded{MaxAppendSize: limit})
	case refused && r.about("access-denied"):
		return b.send(a, s, &shared.AccessDenied{})
	case refused:
		return b.send(a, s, &shared.BadRequest{Message: r.text})
	}
	return b.send(a, s, &shared.Unknown{})
}

// send answers an append with an error.
func (b *batchAppends) send(a *batchAppend, s *status.Status, detail protoadapt.MessageV1) error {
	detailed, err := s.WithDetails(detail)
	if err != nil {
		return fmt.Errorf("answer with %s: %w", s.Message(), err)
	}
	return b.call.SendMsg(&batchErrorMessage{
		answer: detailed.Proto(), echo: a.echo, stream: a.stream,
	})
}

// wrongDetail says what was expected and what is.
func wrongDetail(expect expectation, events uint64) *shared.WrongExpectedVersion {
	wrong := &shared.WrongExpectedVersion{}
	if events == 0 {
		wrong.CurrentStreamRevisionOption = &shared.WrongExpectedVersion_CurrentNoStream{CurrentNoStream: &emptypb.Empty{}}
	} else {
		wrong.CurrentStreamRevisionOption = &shared.WrongExpectedVersion_CurrentStreamRevision{CurrentStreamRevision: events - 1}
	}
	switch expect.kind {
	case expectAny:
		wrong.ExpectedStreamPositionOption = &shared.WrongExpectedVersion_ExpectedAny{ExpectedAny: &emptypb.Empty{}}
	case expectExists:
		wrong.ExpectedStreamPositionOption = &shared.WrongExpectedVersion_ExpectedStreamExists{ExpectedStreamExists: &emptypb.Empty{}}
	case expectNoStream:
		wrong.ExpectedStreamPositionOption = &shared.WrongExpectedVersion_ExpectedNoStream{ExpectedNoStream: &emptypb.Empty{}}
	case expectNumber:
		wrong.ExpectedStreamPositionOption = &shared.WrongExpectedVersion_ExpectedStreamPosition{ExpectedStreamPosition: expect.number}
	}
	return wrong
}
