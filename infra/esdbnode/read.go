package esdbnode

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
)

// Read answers reads and subscriptions, of one stream and of the whole log.
func (s *streamsService) Read(req *streams.ReadReq, call streams.Streams_ReadServer) error {
	r := &reading{service: s, options: req.GetOptions(), call: call}
	err := r.run(call.Context())
	if errors.Is(err, errStreamDeleted) {
		err = refuseDeleted(r.stream())
	}
	return asStatus(err, call.SetTrailer)
}

// A reading is one call of Read under way.
type reading struct {
	service *streamsService
	options *streams.ReadReq_Options
	call    streams.Streams_ReadServer
	message eventMessage // sent again and again: gRPC keeps nothing of it
}

func (r *reading) run(ctx context.Context) error {
	_, text := r.options.GetUuidOption().GetContent().(*streams.ReadReq_Options_UUIDOption_String_)
	r.message.textIDs = text
	if r.options.GetCountOption() == nil {
		return refuseRequest("the request says neither how many events nor that it subscribes")
	}
	_, subscribe := r.options.GetCountOption().(*streams.ReadReq_Options_Subscription)
	if subscribe && r.backwards() {
		return refuseRequest("a subscription goes forwards")
	}
	switch r.options.GetStreamOption().(type) {
	case *streams.ReadReq_Options_Stream:
		if err := r.checkStream(); err != nil {
			return err
		}
		if subscribe {
			return r.followStream(ctx)
		}
		return r.readStream(ctx)
	case *streams.ReadReq_Options_All:
		filter, err := newFilter(r.options.GetFilter())
		if err != nil {
			return err
		}
		if subscribe {
			return r.followAll(ctx, filter)
		}
		return r.readAll(ctx, filter)
	}
	return refuseRequest("the request names neither a stream nor $all")
}

func (r *reading) checkStream() error {
	if r.stream() == "" {
		return refuseRequest("the request names no stream")
	}
	if r.options.GetFilter() != nil {
		return refuseRequest("a stream is not filtered, only $all is")
	}
	return nil
}

func (r *reading) stream() string {
	return string(r.options.GetStream().GetStreamIdentifier().GetStreamName())
}

func (r *reading) backwards() bool {
	return r.options.GetReadDirection() == streams.ReadReq_Options_Backwards
}

func (r *reading) limit() int {
	return int(min(r.options.GetCount(), math.MaxInt))
}

func (r *reading) readStream(ctx context.Context) error {
	r.service.store.meters.reads[ofStream].Add(1)
	sl := slice{stream: r.stream(), to: math.MaxInt64, backwards: r.backwards(), limit: r.limit(), end: math.MaxUint64}
	switch at := r.options.GetStream().GetRevisionOption().(type) {
	case *streams.ReadReq_Options_StreamOptions_Revision:
		sl.bound(at.Revision)
	case *streams.ReadReq_Options_StreamOptions_End:
		sl.bound(math.MaxInt64)
	default:
		sl.bound(0)
	}
	err := r.service.store.readStream(ctx, sl, r.event)
	if errors.Is(err, errNoStream) {
		return r.call.Send(&streams.ReadResp{Content: &streams.ReadResp_StreamNotFound_{
			StreamNotFound: &streams.ReadResp_StreamNotFound{StreamIdentifier: r.options.GetStream().GetStreamIdentifier()},
		}})
	}
	return err
}

// bound sets the end of the slice that its direction begins at.
func (sl *slice) bound(number uint64) {
	if sl.backwards {
		sl.to = number
	} else {
		sl.from = number
	}
}

func (r *reading) readAll(ctx context.Context, filter *filter) error {
	r.service.store.meters.reads[ofAll].Add(1)
	end := r.service.store.tail.last()
	sp := span{from: 1, to: end, backwards: r.backwards(), limit: r.limit(), match: filter.match()}
	switch at := r.options.GetAll().GetAllOption().(type) {
	case *streams.ReadReq_Options_AllOptions_Position:
		if sp.backwards { // exclusive
			sp.to = min(end, max(at.Position.GetCommitPosition(), 1)-1)
		} else { // inclusive
			sp.from = max(1, at.Position.GetCommitPosition())
		}
	case *streams.ReadReq_Options_AllOptions_End:
		if !sp.backwards {
			return nil
		}
	default:
		if sp.backwards {
			return nil
		}
	}
	return r.service.store.readAll(ctx, sp, r.event)
}

func (r *reading) followStream(ctx context.Context) error {
	if l := r.service.store.linker(r.stream()); l != nil {
		return r.followLinks(ctx, l)
	}
	h, err := r.service.store.shown(r.stream())
	if err != nil {
		return err
	}
	from := uint64(0)
	switch at := r.options.GetStream().GetRevisionOption().(type) {
	case *streams.ReadReq_Options_StreamOptions_Revision:
		from = min(at.Revision, math.MaxInt64-1) + 1
	case *streams.ReadReq_Options_StreamOptions_End:
		from = h.events
	}
	if err := r.confirm(); err != nil {
		return err
	}
	return r.service.store.followStream(ctx, r.stream(), from, r)
}

func (r *reading) followAll(ctx context.Context, filter *filter) error {
	after := uint64(0)
	switch at := r.options.GetAll().GetAllOption().(type) {
	case *streams.ReadReq_Options_AllOptions_Position:
		after = min(at.Position.GetCommitPosition(), math.MaxInt64)
	case *streams.ReadReq_Options_AllOptions_End:
		after = r.service.store.tail.last()
	}
	if err := r.confirm(); err != nil {
		return err
	}
	return r.service.store.followAll(ctx, after, filter.match(), filter.checkpoints(), r)
}

func (r *reading) confirm() error {
	return r.call.Send(&streams.ReadResp{Content: &streams.ReadResp_Confirmation{
		Confirmation: &streams.ReadResp_SubscriptionConfirmation{SubscriptionId: uuid.NewString()},
	}})
}

// event sends an event; a link is followed if that was asked for.
func (r *reading) event(e *record) error {
	r.message.event, r.message.link = e, nil
	if e.kind == typeLink && r.options.GetResolveLinks() {
		target, err := r.service.target(e)
		if err != nil {
			return err
		}
		r.message.event, r.message.link = target, e
	}
	return r.call.SendMsg(&r.message)
}

// target gives the event that a link leads to, or nil if it is not there.
func (s *streamsService) target(link *record) (*record, error) {
	number, stream, ok := parseTarget(link.data)
	if !ok {
		return nil, nil //nolint:nilnil // a link that cannot be read leads nowhere, and that is an answer
	}
	if l := s.store.linker(stream); l != nil {
		e, found, err := l.at(stream, number)
		if err != nil || !found {
			return nil, err
		}
		return &e, nil
	}
	h, err := s.store.shown(stream)
	if err != nil || h.tombstone || number < h.first() {
		return nil, err
	}
	e, found, err := s.store.linkedEvent(link, stream, number)
	if err != nil || !found || e.created < s.store.oldest(h.limits) {
		return nil, err
	}
	return &e, nil
}

func (r *reading) checkpoint(position uint64) error {
	return r.call.Send(&streams.ReadResp{Content: &streams.ReadResp_Checkpoint_{
		Checkpoint: &streams.ReadResp_Checkpoint{CommitPosition: position, PreparePosition: position},
	}})
}

func (r *reading) caughtUp() error {
	return r.call.Send(&streams.ReadResp{Content: &streams.ReadResp_CaughtUp_{CaughtUp: &streams.ReadResp_CaughtUp{}}})
}

func (r *reading) fellBehind() error {
	return r.call.Send(&streams.ReadResp{Content: &streams.ReadResp_FellBehind_{FellBehind: &streams.ReadResp_FellBehind{}}})
}

// A filter is what a read of the whole log leaves out. nil leaves out nothing.
type filter struct {
	byKind   bool // by event type, else by stream name
	prefixes []string
	pattern  *regexp.Regexp
	interval uint64
}

func newFilter(o *streams.ReadReq_Options_FilterOptions) (*filter, error) {
	if o == nil {
		return nil, nil //nolint:nilnil // no filter is a filter that leaves out nothing
	}
	if o.GetCheckpointIntervalMultiplier() == 0 {
		return nil, refuseRequest("the checkpoint interval multiplier must be greater than zero")
	}
	window := uint64(defaultWindow)
	if m, ok := o.GetWindow().(*streams.ReadReq_Options_FilterOptions_Max); ok && m.Max > 0 {
		window = uint64(m.Max)
	}
	f := &filter{interval: window * uint64(o.GetCheckpointIntervalMultiplier())}
	var expression *streams.ReadReq_Options_FilterOptions_Expression
	switch by := o.GetFilter().(type) {
	case *streams.ReadReq_Options_FilterOptions_EventType:
		f.byKind, expression = true, by.EventType
	case *streams.ReadReq_Options_FilterOptions_StreamIdentifier:
		expression = by.StreamIdentifier
	default:
		return nil, refuseRequest("the filter says neither event type nor stream name")
	}
	return f, f.expect(expression)
}

// defaultWindow is how many events are looked at, times the multiplier, between
// two checkpoints when the client does not say.
const defaultWindow = 32

// expect takes a pattern before prefixes, should there be both.
func (f *filter) expect(e *streams.ReadReq_Options_FilterOptions_Expression) error {
	f.prefixes = e.GetPrefix()
	if e.GetRegex() == "" {
		if len(f.prefixes) == 0 {
			return refuseRequest("the filter has neither prefixes nor a pattern")
		}
		return nil
	}
	if len(e.GetRegex()) > maxName { // compiled, it takes a hundred times that
		return refuseRequest(fmt.Sprintf("the filter's pattern has %d bytes, and may have %d", len(e.GetRegex()), maxName))
	}
	pattern, err := regexp.Compile(e.GetRegex())
	if err != nil {
		return refuseRequest("the filter's pattern: " + err.Error())
	}
	f.pattern = pattern
	return nil
}

func (f *filter) checkpoints() uint64 {
	if f == nil {
		return 0
	}
	return f.interval
}

func (f *filter) match() func(*record) bool {
	if f == nil {
		return nil
	}
	return func(r *record) bool {
		s := r.stream
		if f.byKind {
			s = r.kind
		}
		if f.pattern != nil {
			return f.pattern.MatchString(s)
		}
		for _, p := range f.prefixes {
			if strings.HasPrefix(s, p) {
				return true
			}
		}
		return false
	}
}
