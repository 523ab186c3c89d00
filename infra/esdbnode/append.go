package esdbnode

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// streamsService answers the calls about streams. This file has those that
// write; read.go has the other.
type streamsService struct {
	streams.UnimplementedStreamsServer
	store     *store
	maxAppend int
	receiving sync.WaitGroup // those that receive for a BatchAppend call
}

// Append takes the options and then the events of one append.
func (s *streamsService) Append(call streams.Streams_AppendServer) error {
	w, err := s.receive(call)
	if err != nil {
		return asStatus(err, call.SetTrailer)
	}
	out, err := s.store.do(call.Context(), w)
	if err != nil {
		return asStatus(err, call.SetTrailer)
	}
	if out.verdict == deleted {
		return asStatus(refuseDeleted(strings.TrimPrefix(w.stream, metaPrefix)), call.SetTrailer)
	}
	if out.verdict == wrongVersion {
		return call.SendMsg(wrongAnswer(w.expect, out.events))
	}
	return call.SendMsg(&successMessage{events: out.events, position: out.position})
}

// receive reads a request to its end, even one that is refused: the client would
// take an early answer for a broken connection and not look at it. One that goes
// on for longer than any that could have been taken has no end.
func (s *streamsService) receive(call grpc.ServerStream) (*write, error) {
	w := &write{op: opAppend}
	var m appendMessage
	var refused error
	heard := 0
	for first := true; ; first = false {
		switch err := call.RecvMsg(&m); {
		case errors.Is(err, io.EOF):
			if first {
				return nil, refuseRequest("the request has no options")
			}
			return w, refused
		case err != nil:
			return nil, err
		case refused != nil:
			if heard += m.length + 1<<10; heard > maxMessage {
				return nil, refused
			}
		case first:
			refused = w.begin(&m)
		default:
			refused = w.take(&m, s.maxAppend)
		}
	}
}

func (w *write) begin(m *appendMessage) error {
	switch {
	case !m.hasOptions:
		return refuseRequest("the request does not begin with its options")
	case !m.hasExpectation:
		return refuseRequest("the request names no expected revision")
	}
	w.stream = m.stream
	if err := checkStream(m.stream); err != nil {
		return err
	}
	var err error
	w.expect, err = m.expect.check()
	return err
}

func checkStream(stream string) error {
	switch {
	case stream == "":
		return refuseRequest("the request names no stream")
	case stream == "$all":
		return refuseRequest("$all is no stream of its own")
	case strings.HasPrefix(stream, metaPrefix+metaPrefix):
		return refuseRequest("a metadata stream has no metadata: " + stream)
	case isLinks(strings.TrimPrefix(stream, metaPrefix)):
		return refuseLinks(stream)
	}
	return checkName(stream)
}

func (w *write) take(m *appendMessage, limit int) error {
	if !m.hasEvent {
		return refuseRequest("the request has something other than events behind its options")
	}
	return w.add(&m.event, limit)
}

// add takes one more event, within the limit.
func (w *write) add(p *proposed, limit int) error {
	switch {
	case p.sent.bad:
		return refuseRequest("an event's id is not a UUID")
	case !p.hasKind:
		return refuseMetadata("type")
	case !p.typed:
		return refuseMetadata("content-type")
	}
	if err := p.check(); err != nil {
		return err
	}
	w.size += p.size()
	if w.size > limit {
		w.events = nil
		return refuseSize(limit)
	}
	w.events = append(w.events, p.proposal)
	return nil
}

// wrongAnswer says what was expected and what is, in the fields of today and in
// those that clients before 20.10 look at.
func wrongAnswer(expect expectation, events uint64) *streams.AppendResp {
	wrong := &streams.AppendResp_WrongExpectedVersion{}
	if events == 0 {
		wrong.CurrentRevisionOption = &streams.AppendResp_WrongExpectedVersion_CurrentNoStream{CurrentNoStream: &shared.Empty{}}
		wrong.CurrentRevisionOption_20_6_0 = &streams.AppendResp_WrongExpectedVersion_NoStream_20_6_0{NoStream_20_6_0: &shared.Empty{}}
	} else {
		wrong.CurrentRevisionOption = &streams.AppendResp_WrongExpectedVersion_CurrentRevision{CurrentRevision: events - 1}
		wrong.CurrentRevisionOption_20_6_0 = &streams.AppendResp_WrongExpectedVersion_CurrentRevision_20_6_0{CurrentRevision_20_6_0: events - 1}
	}
	switch expect.kind {
	case expectAny:
		wrong.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedAny{ExpectedAny: &shared.Empty{}}
		wrong.ExpectedRevisionOption_20_6_0 = &streams.AppendResp_WrongExpectedVersion_Any_20_6_0{Any_20_6_0: &shared.Empty{}}
	case expectExists:
		wrong.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedStreamExists{ExpectedStreamExists: &shared.Empty{}}
		wrong.ExpectedRevisionOption_20_6_0 = &streams.AppendResp_WrongExpectedVersion_StreamExists_20_6_0{StreamExists_20_6_0: &shared.Empty{}}
	case expectNoStream:
		wrong.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedNoStream{ExpectedNoStream: &shared.Empty{}}
	case expectNumber:
		wrong.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedRevision{ExpectedRevision: expect.number}
		wrong.ExpectedRevisionOption_20_6_0 = &streams.AppendResp_WrongExpectedVersion_ExpectedRevision_20_6_0{ExpectedRevision_20_6_0: expect.number}
	}
	return &streams.AppendResp{Result: &streams.AppendResp_WrongExpectedVersion_{WrongExpectedVersion: wrong}}
}

// Delete hides all events of a stream, which may be begun again.
func (s *streamsService) Delete(ctx context.Context, req *streams.DeleteReq) (*streams.DeleteResp, error) {
	expect, err := expectationOf(req.GetOptions(), req.GetOptions().GetExpectedStreamRevision() != nil)
	if err != nil {
		return nil, asStatus(err, trailerOf(ctx))
	}
	position, err := s.remove(ctx, &write{op: opDelete, stream: string(req.GetOptions().GetStreamIdentifier().GetStreamName()), expect: expect})
	if err != nil {
		return nil, asStatus(err, trailerOf(ctx))
	}
	return &streams.DeleteResp{PositionOption: &streams.DeleteResp_Position_{
		Position: &streams.DeleteResp_Position{CommitPosition: position, PreparePosition: position},
	}}, nil
}

// Tombstone ends a stream for ever.
func (s *streamsService) Tombstone(ctx context.Context, req *streams.TombstoneReq) (*streams.TombstoneResp, error) {
	expect, err := expectationOf(req.GetOptions(), req.GetOptions().GetExpectedStreamRevision() != nil)
	if err != nil {
		return nil, asStatus(err, trailerOf(ctx))
	}
	position, err := s.remove(ctx, &write{op: opTombstone, stream: string(req.GetOptions().GetStreamIdentifier().GetStreamName()), expect: expect})
	if err != nil {
		return nil, asStatus(err, trailerOf(ctx))
	}
	return &streams.TombstoneResp{PositionOption: &streams.TombstoneResp_Position_{
		Position: &streams.TombstoneResp_Position{CommitPosition: position, PreparePosition: position},
	}}, nil
}

// remove answers with a position always, since the client counts on one.
func (s *streamsService) remove(ctx context.Context, w *write) (uint64, error) {
	if err := checkStream(w.stream); err != nil {
		return 0, err
	}
	if strings.HasPrefix(w.stream, metaPrefix) {
		return 0, refuseRequest("a metadata stream goes with its stream: " + w.stream)
	}
	out, err := s.store.do(ctx, w)
	switch {
	case err != nil:
		return 0, err
	case out.verdict == deleted:
		return 0, refuseDeleted(w.stream)
	case out.verdict == wrongVersion:
		return 0, refuseVersion(w.stream, w.expect, out.events)
	}
	return out.position, nil
}

// expecting is what the options of Delete and of Tombstone have in common.
type expecting interface {
	GetRevision() uint64
	GetNoStream() *shared.Empty
	GetAny() *shared.Empty
	GetStreamExists() *shared.Empty
}

// expectationOf reads an expectation; said tells whether there is one.
func expectationOf(options expecting, said bool) (expectation, error) {
	switch {
	case options.GetAny() != nil:
		return expectation{kind: expectAny}, nil
	case options.GetNoStream() != nil:
		return expectation{kind: expectNoStream}, nil
	case options.GetStreamExists() != nil:
		return expectation{kind: expectExists}, nil
	case !said:
		return expectation{}, refuseRequest("the request names no expected revision")
	}
	return expectation{expectNumber, options.GetRevision()}.check()
}

func trailerOf(ctx context.Context) func(metadata.MD) {
	return func(md metadata.MD) {
		_ = grpc.SetTrailer(ctx, md) // fails only outside a call
	}
}
