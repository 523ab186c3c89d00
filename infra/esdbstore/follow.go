package esdbstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"cartwright/domain/event"
)

// The field numbers of a ReadResp that are used here.
const (
	gotEvent      = 1
	gotCheckpoint = 3
	gotCaughtUp   = 8

	readEvent = 1
	readLink  = 2

	recID       = 1
	recStream   = 2
	recRevision = 3
	recCommit   = 5
	recMetadata = 6
	recCustom   = 7
	recData     = 8

	checkpointCommit = 1
	idText           = 2
	entryKey         = 1
	entryValue       = 2
)

// What the protocol says of an event in its metadata, beside its type.
const keyCreatedTicks = "created"

// What the client asks for where nothing else is said.
const (
	searchWindow       = 32
	checkpointInterval = 1
	maxHeard           = 17 << 20 // the largest message it takes
)

// An utterance is what a subscription says once. Its zero value is word of
// nothing that a follower yields.
type utterance struct {
	kind     int32 // gotEvent, gotCheckpoint, gotCaughtUp or something else
	position uint64
	event    event.Recorded // without a name if it is one of the server's own
}

// hears says what an event of the client's is.
func hears(e *esdb.SubscriptionEvent) utterance {
	switch {
	case e.EventAppeared != nil:
		r := e.EventAppeared.OriginalEvent()
		u := utterance{kind: gotEvent}
		u.hold(r)
		return u
	case e.CheckPointReached != nil:
		return utterance{kind: gotCheckpoint, position: e.CheckPointReached.Commit}
	case e.CaughtUp != nil:
		return utterance{kind: gotCaughtUp}
	}
	return utterance{}
}

// hold takes an event up.
func (u *utterance) hold(r *esdb.RecordedEvent) {
	u.position = r.Position.Commit
	if !strings.HasPrefix(r.EventType, "$") {
		u.event = recorded(r)
	}
}

// single tells whether the address names the one node there is to follow. Which
// node of a cluster is followed the client decides, by what it is told to prefer.
func (b *batch) single() bool { return len(b.config.GossipSeeds) == 0 && !b.config.DnsDiscover }

// hear follows the log by a call of its own, as the client would make it, and
// hands on what is said. The client's generated types make a map for each event
// by reflection and two dozen objects beside it, and every event of the log comes
// this way (BenchmarkFollow).
func (s *Store) hear(ctx context.Context, f *follower, take func(utterance) bool) error {
	return pull(ctx, s, func(ctx context.Context, push func(utterance) bool) error {
		conn, hangUp, err := s.batch.source()
		if err != nil {
			return err
		}
		defer hangUp()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // lets go of the call
		call, err := s.batch.subscribe(ctx, conn, f.request())
		if err != nil {
			return fmt.Errorf("subscribe: %w", err)
		}
		var said utterance // one for all messages: it is handed on as a copy
		for {
			said = utterance{}
			if err := call.RecvMsg(&said); err != nil {
				return errors.Join(errDropped, err)
			}
			if !push(said) {
				return nil
			}
		}
	}, take)
}

// source connects to the one node there is to follow.
func (b *batch) source() (_ Caller, hangUp func(), err error) {
	if b.node != nil {
		return b.node, func() {}, nil
	}
	conn, err := dial(b.config, b.config.Address)
	if err != nil {
		return nil, nil, err
	}
	return conn, func() { _ = conn.Close() }, nil // it fails only if it was closed before
}

// subscribe opens a call to hear of the log.
func (b *batch) subscribe(ctx context.Context, conn Caller, request *streams.ReadReq) (grpc.ClientStream, error) {
	options := append(b.callOptions(newFollowCodec()), grpc.MaxCallRecvMsgSize(maxHeard))
	call, err := conn.NewStream(ctx, followStream, streams.Streams_Read_FullMethodName, options...)
	if err == nil {
		err = call.SendMsg(request)
	}
	if err == nil || errors.Is(err, io.EOF) { // then what it says tells why
		err = call.CloseSend()
	}
	return call, err
}

// request is what the client would ask for (TestACallOfOurOwnAsksAsTheClientDoes).
func (f *follower) request() *streams.ReadReq {
	named := &streams.ReadReq_Options_FilterOptions_Expression{Prefix: f.prefixes}
	if len(f.prefixes) == 0 {
		named.Regex = notSystem
	}
	all := &streams.ReadReq_Options_AllOptions{AllOption: &streams.ReadReq_Options_AllOptions_Start{Start: &shared.Empty{}}}
	if f.at > 0 {
		all.AllOption = &streams.ReadReq_Options_AllOptions_Position{
			Position: &streams.ReadReq_Options_Position{CommitPosition: f.at, PreparePosition: f.at},
		}
	}
	return &streams.ReadReq{Options: &streams.ReadReq_Options{
		CountOption:  &streams.ReadReq_Options_Subscription{Subscription: &streams.ReadReq_Options_SubscriptionOptions{}},
		StreamOption: &streams.ReadReq_Options_All{All: all},
		UuidOption:   &streams.ReadReq_Options_UUIDOption{Content: &streams.ReadReq_Options_UUIDOption_Structured{}},
		FilterOption: &streams.ReadReq_Options_Filter{Filter: &streams.ReadReq_Options_FilterOptions{
			Filter:                       &streams.ReadReq_Options_FilterOptions_StreamIdentifier{StreamIdentifier: named},
			Window:                       &streams.ReadReq_Options_FilterOptions_Max{Max: searchWindow},
			CheckpointIntervalMultiplier: checkpointInterval,
		}},
	}}
}

// mostNames is how many names of events a call keeps. An application has dozens.
const mostNames = 1000

// followCodec is protobuf, but for what a subscription says. It belongs to one
// call, whose messages come one after the other.
type followCodec struct {
	encoding.CodecV2
	names map[string]string // of events, which are few and come again and again
}

func newFollowCodec() followCodec {
	return followCodec{encoding.GetCodecV2("proto"), map[string]string{}}
}

// Unmarshal implements encoding.CodecV2.
func (c followCodec) Unmarshal(data mem.BufferSlice, v any) error {
	u, ok := v.(*utterance)
	switch {
	case !ok:
		return c.CodecV2.Unmarshal(data, v)
	case len(data) == 1:
		return c.parse(data[0].ReadOnlyData(), u)
	}
	return c.parse(data.Materialize(), u)
}

// parse reads a ReadResp. Of b, which is used again, nothing is kept.
func (c followCodec) parse(b []byte, u *utterance) error {
	err := eachField(b, func(field int32, value []byte, _ uint64) error {
		u.kind = field
		switch field {
		case gotEvent:
			return c.parseEvent(value, u)
		case gotCheckpoint:
			return eachField(value, func(field int32, _ []byte, n uint64) error {
				if field == checkpointCommit {
					u.position = n
				}
				return nil
			})
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("what a subscription says: %w", err)
	}
	return nil
}

// parseEvent reads a ReadEvent: an event, or the link by which it was found,
// which then is what was appended here.
func (c followCodec) parseEvent(b []byte, u *utterance) error {
	var original []byte
	linked := false
	err := eachField(b, func(field int32, value []byte, _ uint64) error {
		if field == readLink || field == readEvent && !linked {
			original, linked = value, field == readLink
		}
		return nil
	})
	if err != nil {
		return err
	}
	var r esdb.RecordedEvent
	if err := c.parseRecorded(original, &r); err != nil {
		return err
	}
	u.hold(&r)
	return nil
}

// parseRecorded reads a RecordedEvent. Its metadata still lies in b.
func (c followCodec) parseRecorded(b []byte, r *esdb.RecordedEvent) error {
	var created []byte
	err := eachField(b, func(field int32, value []byte, n uint64) (err error) {
		switch field {
		case recID:
			r.EventID, err = parseUUID(value)
		case recStream:
			err = eachField(value, func(field int32, value []byte, _ uint64) error {
				if field == streamName {
					r.StreamID = string(value)
				}
				return nil
			})
		case recRevision:
			r.EventNumber = n
		case recCommit:
			r.Position.Commit = n
		case recMetadata:
			err = c.parseEntry(value, r, &created)
		case recCustom:
			r.UserMetadata = value
		case recData:
			r.Data = append(make([]byte, 0, len(value)), value...)
		}
		return err
	})
	if err != nil {
		return err
	}
	// Ticks of 100 ns since 1970.
	ticks, err := strconv.ParseInt(string(created), 10, 64)
	if err != nil {
		return fmt.Errorf("event %d of %s: when it was stored: %w", r.EventNumber, r.StreamID, err)
	}
	r.CreatedDate = time.Unix(0, ticks*100).UTC()
	return nil
}

// parseEntry reads what the server says of an event.
func (c followCodec) parseEntry(b []byte, r *esdb.RecordedEvent, created *[]byte) error {
	var key, text []byte
	err := eachField(b, func(field int32, value []byte, _ uint64) error {
		switch field {
		case entryKey:
			key = value
		case entryValue:
			text = value
		}
		return nil
	})
	if err != nil {
		return err
	}
	switch string(key) {
	case keyType:
		r.EventType, err = c.name(text)
	case keyCreatedTicks:
		*created = text
	}
	return err
}

func (c followCodec) name(text []byte) (string, error) {
	if known, ok := c.names[string(text)]; ok {
		return known, nil
	}
	if !utf8.Valid(text) {
		return "", fmt.Errorf("the type of an event is not UTF-8: %q", text)
	}
	name := string(text)
	if len(c.names) < mostNames {
		c.names[name] = name
	}
	return name, nil
}

// parseUUID reads a UUID in either of its forms. What is none is the zero one, as with the client.
func parseUUID(b []byte) (id uuid.UUID, err error) {
	err = eachField(b, func(field int32, value []byte, _ uint64) error {
		switch field {
		case idStructured:
			return eachField(value, func(field int32, _ []byte, n uint64) error {
				switch field {
				case idHigh:
					binary.BigEndian.PutUint64(id[:8], n)
				case idLow:
					binary.BigEndian.PutUint64(id[8:], n)
				}
				return nil
			})
		case idText:
			if parsed, bad := uuid.ParseBytes(value); bad == nil {
				id = parsed
			}
		}
		return nil
	})
	return id, err
}
