package persistent

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	pb "github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Create makes a group. It answers when the group will be there after a restart.
func (s *Service) Create(ctx context.Context, req *pb.CreateReq) (*pb.CreateResp, error) {
	o := req.GetOptions()
	settings := settingsOf(o.GetSettings())
	settings.Group, settings.Strategy = o.GetGroupName(), createStrategy(o.GetSettings())
	err := s.begin(ctx, &settings, func() error { return createSource(o, &settings) }, s.create)
	return &pb.CreateResp{}, answer(ctx, err, settings.Stream, settings.Group)
}

// Update gives a group other settings, and drops its consumers. The filter and
// the checkpoint stay.
func (s *Service) Update(ctx context.Context, req *pb.UpdateReq) (*pb.UpdateResp, error) {
	o := req.GetOptions()
	settings := settingsOf(o.GetSettings())
	settings.Group, settings.Strategy = o.GetGroupName(), o.GetSettings().GetNamedConsumerStrategy().String()
	err := s.begin(ctx, &settings, func() error { return updateSource(o, &settings) }, s.update)
	return &pb.UpdateResp{}, answer(ctx, err, settings.Stream, settings.Group)
}

// begin checks settings and makes a change with them, one at a time.
func (s *Service) begin(ctx context.Context, settings *Settings, source func() error, do func(context.Context, Settings) error) error {
	if err := source(); err != nil {
		return err
	}
	ctx, done, err := s.change(ctx)
	if err != nil {
		return err
	}
	defer done()
	return do(ctx, *settings)
}

func (s *Service) create(ctx context.Context, settings Settings) error {
	if _, err := s.look(settings.Stream, settings.Group); err != nil {
		return err
	}
	entries, at := s.entries(settings.key())
	if at >= 0 { // this one, or another stream and group that make the same names
		return refuseExisting(settings.Stream, settings.Group)
	}
	if err := s.check(ctx, &settings); err != nil {
		return err
	}
	if err := s.watch(ctx); err != nil {
		return err
	}
	g, err := Open(ctx, s.store, settings, time.Now)
	if err != nil {
		return err
	}
	if err = s.save(ctx, s.user(ctx), append(entries, settings)); err != nil {
		return err
	}
	s.run(ctx, g)
	return nil
}

func (s *Service) update(ctx context.Context, settings Settings) error {
	r, err := s.get(settings.Stream, settings.Group)
	if err != nil {
		return err
	}
	settings.Filter = r.settings.Filter
	if err = s.check(ctx, &settings); err != nil {
		return err
	}
	entries, at := s.entries(settings.key())
	s.end(ctx, r, errDropped)
	err = s.save(ctx, s.user(ctx), slices.Insert(entries, max(at, 0), settings))
	if err != nil {
		settings = r.settings
	}
	if failed := s.reopen(ctx, settings); failed != nil {
		return errors.Join(err, failed)
	}
	return err
}

// reopen lets a group run that was ended, or says of it why it does not.
func (s *Service) reopen(ctx context.Context, settings Settings) error {
	err := s.open(ctx, settings)
	if err != nil {
		s.put(&running{settings: settings, err: err})
	}
	return err
}

// Delete ends a group for ever: its consumers are dropped, and its checkpoint
// and parked events are deleted.
func (s *Service) Delete(ctx context.Context, req *pb.DeleteReq) (*pb.DeleteResp, error) {
	o := req.GetOptions()
	stream, err := named(o.GetStreamIdentifier(), o.GetAll())
	if err == nil {
		err = s.remake(ctx, func(ctx context.Context) error { return s.delete(ctx, stream, o.GetGroupName()) })
	}
	return &pb.DeleteResp{}, answer(ctx, err, stream, o.GetGroupName())
}

func (s *Service) remake(ctx context.Context, do func(context.Context) error) error {
	ctx, done, err := s.change(ctx)
	if err != nil {
		return err
	}
	defer done()
	return do(ctx)
}

// delete removes what the group has stored first: were it the other way round, a
// group of the same name could begin where this one ended.
func (s *Service) delete(ctx context.Context, stream, group string) error {
	r, err := s.get(stream, group)
	if err != nil {
		return err
	}
	s.end(ctx, r, errDropped)
	entries, _ := s.entries(r.settings.key())
	if err = forget(ctx, s.store, r.settings.checkpointStream()); err == nil {
		err = forget(ctx, s.store, r.settings.parkedStream())
	}
	if err == nil {
		err = s.save(ctx, s.user(ctx), entries)
	}
	if err != nil {
		return errors.Join(err, s.reopen(ctx, r.settings))
	}
	s.remove(r.settings.key())
	return nil
}

// RestartSubsystem drops all consumers and takes up all groups anew.
func (s *Service) RestartSubsystem(ctx context.Context, _ *shared.Empty) (*shared.Empty, error) {
	err := s.remake(ctx, func(ctx context.Context) error {
		if s.stopping() {
			return ErrUnavailable
		}
		s.halt(ctx, errDropped)
		s.load(ctx)
		return s.ready()
	})
	return &shared.Empty{}, answer(ctx, err, "", "")
}

func (s *Service) stopping() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return errors.Is(s.unready, ErrUnavailable)
}

// GetInfo tells about one group.
func (s *Service) GetInfo(ctx context.Context, req *pb.GetInfoReq) (*pb.GetInfoResp, error) {
	o := req.GetOptions()
	stream, err := named(o.GetStreamIdentifier(), o.GetAll())
	if err != nil {
		return nil, answer(ctx, err, stream, o.GetGroupName())
	}
	g, err := s.find(stream, o.GetGroupName())
	if err != nil {
		return nil, answer(ctx, err, stream, o.GetGroupName())
	}
	return &pb.GetInfoResp{SubscriptionInfo: g.Info()}, nil
}

// List tells about all groups, or those of one stream.
func (s *Service) List(ctx context.Context, req *pb.ListReq) (*pb.ListResp, error) {
	stream := ""
	if req.GetOptions().GetListAllSubscriptions() == nil {
		of := req.GetOptions().GetListForStream()
		var err error
		if stream, err = named(of.GetStream(), of.GetAll()); err != nil {
			return nil, answer(ctx, err, stream, "")
		}
	}
	if err := s.ready(); err != nil {
		return nil, answer(ctx, err, stream, "")
	}
	groups := s.all(stream)
	if len(groups) == 0 && stream != "" {
		return nil, answer(ctx, refuseMissing(stream, ""), stream, "")
	}
	list := &pb.ListResp{}
	for _, r := range groups {
		if r.group != nil {
			list.Subscriptions = append(list.Subscriptions, r.group.Info())
		}
	}
	return list, nil
}

// ReplayParked gives parked events to consumers again.
func (s *Service) ReplayParked(ctx context.Context, req *pb.ReplayParkedReq) (*pb.ReplayParkedResp, error) {
	o := req.GetOptions()
	stream, err := named(o.GetStreamIdentifier(), o.GetAll())
	if err == nil {
		err = s.replay(stream, o)
	}
	return &pb.ReplayParkedResp{}, answer(ctx, err, stream, o.GetGroupName())
}

func (s *Service) replay(stream string, o *pb.ReplayParkedReq_Options) error {
	var stop *uint64
	switch at := o.GetStopAtOption().(type) {
	case *pb.ReplayParkedReq_Options_StopAt:
		if at.StopAt < 0 {
			return refuseSettings(stream, o.GetGroupName(), errors.New("cannot stop replaying parked messages at a negative version"))
		}
		stop = new(uint64(at.StopAt))
	case *pb.ReplayParkedReq_Options_NoLimit:
	default:
		return refuseRequest("the request says neither where to stop nor that there is no limit")
	}
	g, err := s.find(stream, o.GetGroupName())
	if err != nil {
		return err
	}
	g.Replay(stop)
	return nil
}

// answer makes the answer to a call that is not a stream.
func answer(ctx context.Context, err error, stream, group string) error {
	return asStatus(err, stream, group, func(md metadata.MD) {
		_ = grpc.SetTrailer(ctx, md) // fails only outside a call
	})
}

// named is the stream that a request is about.
func named(id *shared.StreamIdentifier, all *shared.Empty) (string, error) {
	stream := string(id.GetStreamName())
	switch {
	case all != nil:
		return All, nil
	case stream == "":
		return "", refuseRequest("bad stream name: the request names neither a stream nor $all")
	case stream == All:
		return stream, refuseSettings(stream, "", errors.New("$all is not asked for by its name"))
	}
	return stream, nil
}

// wireSettings is what the settings of Create and of Update have in common.
type wireSettings interface {
	sizes
	counts
	GetResolveLinks() bool
	GetExtraStatistics() bool
}

type sizes interface {
	GetLiveBufferSize() int32
	GetReadBatchSize() int32
	GetHistoryBufferSize() int32
}

type counts interface {
	GetMaxRetryCount() int32
	GetMinCheckpointCount() int32
	GetMaxCheckpointCount() int32
	GetMaxSubscriberCount() int32
}

type times interface {
	GetMessageTimeoutTicks() int64
	GetMessageTimeoutMs() int32
	GetCheckpointAfterTicks() int64
	GetCheckpointAfterMs() int32
}

// ticks are how many of the protocol's units of time make a millisecond.
const ticks = 10_000

func settingsOf[S interface {
	wireSettings
	times
}](w S) Settings {
	return Settings{
		ResolveLinks: w.GetResolveLinks(), ExtraStatistics: w.GetExtraStatistics(),
		LiveBuffer: int(w.GetLiveBufferSize()), ReadBatch: int(w.GetReadBatchSize()), HistoryBuffer: int(w.GetHistoryBufferSize()),
		MaxRetries: int(w.GetMaxRetryCount()), MinCheckpoint: int(w.GetMinCheckpointCount()), MaxCheckpoint: int(w.GetMaxCheckpointCount()),
		MaxSubscribers:  int(w.GetMaxSubscriberCount()),
		MessageTimeout:  int(w.GetMessageTimeoutMs()) + int(w.GetMessageTimeoutTicks()/ticks), // one of the two is 0
		CheckpointAfter: int(w.GetCheckpointAfterMs()) + int(w.GetCheckpointAfterTicks()/ticks),
	}
}

// createStrategy is the strategy by its name, or in the older form that the
// official client for Go still sends.
func createStrategy(w *pb.CreateReq_Settings) string {
	if name := w.GetConsumerStrategy(); name != "" {
		return name
	}
	return w.GetNamedConsumerStrategy().String() //nolint:staticcheck // what that client sends
}

// fromEnd marks settings that begin with what comes next.
const fromEnd = math.MaxUint64

func createSource(o *pb.CreateReq_Options, to *Settings) error {
	switch source := o.GetStreamOption().(type) {
	case *pb.CreateReq_Options_All:
		if err := createFilter(source.All, to); err != nil {
			return err
		}
		switch at := source.All.GetAllOption().(type) {
		case *pb.CreateReq_AllOptions_Position:
			return beginAt(to, at.Position.GetCommitPosition(), at.Position.GetPreparePosition())
		case *pb.CreateReq_AllOptions_Start:
			return beginAt(to, 0, 0)
		case *pb.CreateReq_AllOptions_End:
			return beginAt(to, fromEnd, fromEnd)
		}
	case *pb.CreateReq_Options_Stream:
		to.Stream = string(source.Stream.GetStreamIdentifier().GetStreamName())
		switch at := source.Stream.GetRevisionOption().(type) {
		case *pb.CreateReq_StreamOptions_Revision:
			return beginFrom(to, at.Revision)
		case *pb.CreateReq_StreamOptions_Start:
			return beginFrom(to, 0)
		case *pb.CreateReq_StreamOptions_End:
			return beginFrom(to, fromEnd)
		}
	}
	return refuseSettings(to.Stream, to.Group, errors.New("the request does not say where to begin, in a stream or in $all"))
}

func updateSource(o *pb.UpdateReq_Options, to *Settings) error {
	switch source := o.GetStreamOption().(type) {
	case *pb.UpdateReq_Options_All:
		to.Stream = All
		switch at := source.All.GetAllOption().(type) {
		case *pb.UpdateReq_AllOptions_Position:
			return beginAt(to, at.Position.GetCommitPosition(), at.Position.GetPreparePosition())
		case *pb.UpdateReq_AllOptions_Start:
			return beginAt(to, 0, 0)
		case *pb.UpdateReq_AllOptions_End:
			return beginAt(to, fromEnd, fromEnd)
		}
	case *pb.UpdateReq_Options_Stream:
		to.Stream = string(source.Stream.GetStreamIdentifier().GetStreamName())
		switch at := source.Stream.GetRevisionOption().(type) {
		case *pb.UpdateReq_StreamOptions_Revision:
			return beginFrom(to, at.Revision)
		case *pb.UpdateReq_StreamOptions_Start:
			return beginFrom(to, 0)
		case *pb.UpdateReq_StreamOptions_End:
			return beginFrom(to, fromEnd)
		}
	}
	return refuseSettings(to.Stream, to.Group, errors.New("the request does not say where to begin, in a stream or in $all"))
}

// beginFrom lets settings begin in their stream.
func beginFrom(s *Settings, n uint64) error {
	switch s.First = n; {
	case s.Stream == "":
		return refuseSettings(s.Stream, s.Group, errors.New("bad stream name: it is empty"))
	case s.Stream == All:
		return refuseSettings(s.Stream, s.Group, errors.New("$all is not asked for by its name"))
	case n == fromEnd:
		s.StartPosition = "-1"
	case n > math.MaxInt64:
		return refuseSettings(s.Stream, s.Group, fmt.Errorf("invalid start from position: %d is no event number", n))
	default:
		s.StartPosition = strconv.FormatUint(n, 10)
	}
	return nil
}

// beginAt lets settings begin in the whole log.
func beginAt(s *Settings, commit, prepare uint64) error {
	s.Stream, s.First = All, commit
	switch {
	case commit == fromEnd && prepare == fromEnd:
		s.StartPosition = "C:-1/P:-1"
	case prepare > commit:
		return refuseSettings(s.Stream, s.Group, errors.New("invalid start from position: prepare position must be less than or equal to the commit position"))
	default:
		s.StartPosition = fmt.Sprintf("C:%d/P:%d", commit, prepare)
	}
	return nil
}

func createFilter(o *pb.CreateReq_AllOptions, to *Settings) error {
	to.Stream = All
	asked, ok := o.GetFilterOption().(*pb.CreateReq_AllOptions_Filter)
	if !ok {
		return nil
	}
	to.Filter = &Filter{}
	var expression *pb.CreateReq_AllOptions_FilterOptions_Expression
	switch by := asked.Filter.GetFilter().(type) {
	case *pb.CreateReq_AllOptions_FilterOptions_EventType:
		to.Filter.ByType, expression = true, by.EventType
	case *pb.CreateReq_AllOptions_FilterOptions_StreamIdentifier:
		expression = by.StreamIdentifier
	default:
		return refuseSettings(All, to.Group, errors.New("the filter says neither event type nor stream name"))
	}
	if to.Filter.Pattern = expression.GetRegex(); to.Filter.Pattern == "" {
		to.Filter.Prefixes = expression.GetPrefix()
	}
	return nil
}

// check finds out what is wrong with settings, and where they begin.
func (s *Service) check(ctx context.Context, settings *Settings) error {
	if err := settings.Check(); err != nil {
		return refuseSettings(settings.Stream, settings.Group, err)
	}
	end, err := s.store.End(ctx, settings.Stream)
	switch {
	case err != nil:
		return fmt.Errorf("end of %s: %w", settings.Stream, err)
	case settings.First == fromEnd:
		settings.First = end
	case settings.Stream == All && settings.First >= max(end, 1):
		return refuseSettings(All, settings.Group, errors.New("invalid start from position: commit position must be less than or equal to the last commit position"))
	}
	return nil
}
