package persistent

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strconv"

	pb "github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/google/uuid"
	"google.golang.org/grpc/metadata"
)

// Read makes the caller a consumer of a group for as long as the call lasts.
func (s *Service) Read(call pb.PersistentSubscriptions_ReadServer) error {
	first, err := call.Recv()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	o := first.GetOptions()
	stream, err := named(o.GetStreamIdentifier(), o.GetAll())
	if err == nil {
		err = s.consume(call, stream, o)
	}
	return asStatus(err, stream, o.GetGroupName(), call.SetTrailer)
}

func (s *Service) consume(call pb.PersistentSubscriptions_ReadServer, stream string, o *pb.ReadReq_Options) error {
	if o.GetBufferSize() < 1 {
		return refuseSettings(stream, o.GetGroupName(), errors.New("buffer_size is "+strconv.Itoa(int(o.GetBufferSize()))+": it must be 1 at least"))
	}
	g, err := s.find(stream, o.GetGroupName())
	if err != nil {
		return err
	}
	c, err := g.Join(s.caller(call.Context()), int(o.GetBufferSize()))
	if err != nil {
		return err
	}
	defer c.Leave()
	if err = call.Send(&pb.ReadResp{Content: &pb.ReadResp_SubscriptionConfirmation_{
		SubscriptionConfirmation: &pb.ReadResp_SubscriptionConfirmation{SubscriptionId: g.settings.key()},
	}}); err != nil {
		return err
	}
	_, text := o.GetUuidOption().GetContent().(*pb.ReadReq_Options_UUIDOption_String_)
	return s.deliver(call, c, text)
}

func (s *Service) caller(ctx context.Context) Caller {
	c := Caller{User: s.user(ctx), Connection: "<unknown>"}
	if c.User == "" {
		c.User = "anonymous"
	}
	if name := metadata.ValueFromIncomingContext(ctx, "connection-name"); len(name) > 0 {
		c.Connection = name[0]
	}
	return c
}

// deliver sends what the consumer is given until the caller has no more to say,
// or there is nobody to say it to.
func (s *Service) deliver(call pb.PersistentSubscriptions_ReadServer, c *Consumer, text bool) error {
	ctx, cancel := context.WithCancelCause(call.Context())
	defer cancel(nil)
	s.receiving.Go(func() { // it ends when the call has: nothing else ends a wait for the caller
		cancel(receive(call, c))
	})
	for {
		d, err := c.Next(ctx)
		if err != nil {
			if why := context.Cause(ctx); why != nil {
				err = why
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := call.Send(response(d, text)); err != nil {
			return err
		}
	}
}

// receive passes on what the caller answers.
func receive(call pb.PersistentSubscriptions_ReadServer, c *Consumer) error {
	for {
		req, err := call.Recv()
		if err != nil {
			return err
		}
		switch said := req.GetContent().(type) {
		case *pb.ReadReq_Ack_:
			ids, err := idsOf(said.Ack.GetIds())
			if err != nil {
				return err
			}
			c.Ack(ids...)
		case *pb.ReadReq_Nack_:
			ids, err := idsOf(said.Nack.GetIds())
			if err != nil {
				return err
			}
			action, err := actionOf(said.Nack.GetAction())
			if err != nil {
				return err
			}
			c.Nack(action, said.Nack.GetReason(), ids...)
		default:
			return refuseRequest("the request has something other than ack and nack behind its options")
		}
	}
}

func actionOf(a pb.ReadReq_Nack_Action) (Action, error) {
	switch a {
	case pb.ReadReq_Nack_Unknown:
		return Unknown, nil
	case pb.ReadReq_Nack_Park:
		return Park, nil
	case pb.ReadReq_Nack_Retry:
		return Retry, nil
	case pb.ReadReq_Nack_Skip:
		return Skip, nil
	case pb.ReadReq_Nack_Stop:
		return Stop, nil
	}
	return 0, refuseRequest("there is no nack action " + strconv.Itoa(int(a)))
}

func idsOf(wire []*shared.UUID) ([][16]byte, error) {
	ids := make([][16]byte, len(wire))
	for i, w := range wire {
		switch v := w.GetValue().(type) {
		case *shared.UUID_Structured_:
			binary.BigEndian.PutUint64(ids[i][:8], uint64(v.Structured.GetMostSignificantBits()))  //nolint:gosec // bits
			binary.BigEndian.PutUint64(ids[i][8:], uint64(v.Structured.GetLeastSignificantBits())) //nolint:gosec // bits
		case *shared.UUID_String_:
			id, err := uuid.Parse(v.String_)
			if err != nil {
				return nil, refuseRequest("an event's id is not a UUID: " + v.String_)
			}
			ids[i] = id
		default:
			return nil, refuseRequest("an event's id is missing")
		}
	}
	return ids, nil
}

// response is a delivery as the protocol has it. Positions are those of what was
// read, the link where there is one.
func response(d Delivery, text bool) *pb.ReadResp {
	position := d.original().Position
	return &pb.ReadResp{Content: &pb.ReadResp_Event{Event: &pb.ReadResp_ReadEvent{
		Event:    recorded(d.Event, position, text),
		Link:     recorded(d.Link, position, text),
		Position: &pb.ReadResp_ReadEvent_CommitPosition{CommitPosition: position},
		Count:    &pb.ReadResp_ReadEvent_RetryCount{RetryCount: number(d.Retries)},
	}}}
}

func recorded(e *Event, position uint64, text bool) *pb.ReadResp_ReadEvent_RecordedEvent {
	if e == nil {
		return nil
	}
	content := "application/octet-stream"
	if e.JSON {
		content = "application/json"
	}
	return &pb.ReadResp_ReadEvent_RecordedEvent{
		Id:               idOf(e.ID, text),
		StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(e.Stream)},
		StreamRevision:   e.Number,
		PreparePosition:  position,
		CommitPosition:   position,
		Metadata:         map[string]string{"type": e.Kind, "content-type": content, "created": strconv.FormatInt(e.Created, 10)},
		CustomMetadata:   []byte(e.Meta),
		Data:             []byte(e.Data),
	}
}

func idOf(id [16]byte, text bool) *shared.UUID {
	if text {
		return &shared.UUID{Value: &shared.UUID_String_{String_: uuid.UUID(id).String()}}
	}
	return &shared.UUID{Value: &shared.UUID_Structured_{Structured: &shared.UUID_Structured{
		MostSignificantBits:  int64(binary.BigEndian.Uint64(id[:8])), //nolint:gosec // bits
		LeastSignificantBits: int64(binary.BigEndian.Uint64(id[8:])), //nolint:gosec // bits
	}}}
}
