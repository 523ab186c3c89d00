package persistent

import (
	"context"
	"fmt"
	"slices"
	"time"

	pb "github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
)

// stats count what a group has given.
type stats struct {
	items int64
	live  int // how many events were read at the end of the log

	asked      time.Time // when they were asked for last
	askedItems int64
}

func (s *stats) begin(now time.Time) { s.asked = now }

// consumerStats count what a consumer was given.
type consumerStats struct {
	items      int64
	askedItems int64
	took       []time.Duration // from being given to being answered
}

// measured is how many of the last measurements are kept.
const measured = 1000

func (s *consumerStats) measure(took time.Duration) {
	if len(s.took) == measured {
		s.took = slices.Delete(s.took, 0, 1)
	}
	s.took = append(s.took, took)
}

// A State is how a group is doing now, for those who watch it.
type State struct {
	Stream, Group string
	Failed        bool   // it gives nothing to anybody: the stream cannot be read, or the group could not be taken up
	Consumers     int    // that it has
	InFlight      int    // events that are with them
	Waiting       int    // events that were read and are to be given, again or for the first time
	Parked        uint64 // events
	Behind        uint64 // how many places lie between what is done with all before it and the end
}

// States tells about all groups. Other than Info it begins no new measurement.
func (s *Service) States(ctx context.Context) ([]State, error) {
	groups := s.all("")
	all := make([]State, len(groups))
	for i, r := range groups {
		if r.group == nil {
			all[i] = State{Stream: r.settings.Stream, Group: r.settings.Group, Failed: true}
			continue
		}
		end, err := s.store.End(ctx, r.settings.Stream)
		if err != nil {
			return nil, fmt.Errorf("state of group %s: %w", r.settings.key(), err)
		}
		all[i] = r.group.state(end)
	}
	return all, nil
}

func (g *Group) state(end uint64) State {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, done := g.reached()
	return State{
		Stream: g.settings.Stream, Group: g.settings.Group, Failed: g.fault != nil,
		Consumers: len(g.consumers), InFlight: g.flying.Len(), Waiting: g.retries.Len() + g.buffer.Len(),
		Parked: g.parkedCount(), Behind: end - min(end, done),
	}
}

// parkedCount is how many parked events there are that no replay has read.
func (g *Group) parkedCount() uint64 { return g.parked.end - max(g.parked.first, g.parked.next) }

// Info tells what became of the group so far. How much a second counts from the
// last time it was asked.
func (g *Group) Info() *pb.SubscriptionInfo {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.settings
	now := g.now()
	since := now.Sub(g.stats.asked)
	info := &pb.SubscriptionInfo{
		EventSource: s.Stream, GroupName: s.Group, Status: g.status(),
		AveragePerSecond:          perSecond(g.stats.items-g.stats.askedItems, since),
		TotalItems:                g.stats.items,
		CountSinceLastMeasurement: g.stats.items - g.stats.askedItems,

		LastCheckpointedEventPosition: g.checkpoint.place,
		ResolveLinkTos:                s.ResolveLinks, ExtraStatistics: s.ExtraStatistics, StartFrom: s.StartPosition,
		MessageTimeoutMilliseconds: number(s.MessageTimeout), MaxRetryCount: number(s.MaxRetries),
		LiveBufferSize: number(s.LiveBuffer), BufferSize: number(s.HistoryBuffer), ReadBatchSize: number(s.ReadBatch),
		CheckPointAfterMilliseconds: number(s.CheckpointAfter), MinCheckPointCount: number(s.MinCheckpoint), MaxCheckPointCount: number(s.MaxCheckpoint),
		NamedConsumerStrategy: s.Strategy, MaxSubscriberCount: number(s.MaxSubscribers),

		ReadBufferCount: number(g.buffer.Len()), RetryBufferCount: number(g.retries.Len()),
		LiveBufferCount:          int64(min(g.stats.live, s.LiveBuffer)),
		OutstandingMessagesCount: number(g.flying.Len() + g.parking.Len()),
		ParkedMessageCount:       int64(g.parkedCount()), //nolint:gosec // few
	}
	if known := g.known.Load(); known > 0 {
		info.LastKnownEventPosition = s.text(known - 1)
	}
	for _, c := range g.consumers {
		info.Connections = append(info.Connections, c.info(since))
		info.TotalInFlightMessages += number(len(c.flying))
	}
	g.stats.asked, g.stats.askedItems = now, g.stats.items
	return info
}

func (g *Group) status() string {
	text := ""
	if !g.live {
		text = "Behind"
	}
	if g.parked.asked || g.parked.next < g.parked.stop {
		text = join(text, "ReplayingParkedMessages")
	}
	if g.live {
		text = join(text, "Live")
	}
	return text
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + ", " + b
}

func (c *Consumer) info(since time.Duration) *pb.SubscriptionInfo_ConnectionInfo {
	recent := c.stats.items - c.stats.askedItems
	c.stats.askedItems = c.stats.items
	return &pb.SubscriptionInfo_ConnectionInfo{
		Username: c.caller.User, ConnectionName: c.caller.Connection,
		AverageItemsPerSecond: perSecond(recent, since), TotalItems: c.stats.items, CountSinceLastMeasurement: recent,
		AvailableSlots: number(c.free()), InFlightMessages: number(len(c.flying)),
		ObservedMeasurements: c.stats.measurements(),
	}
}

// measurements are in milliseconds, under EventStoreDB's names.
func (s *consumerStats) measurements() []*pb.SubscriptionInfo_Measurement {
	n := len(s.took)
	if n == 0 {
		return nil
	}
	took := slices.Sorted(slices.Values(s.took))
	sum := time.Duration(0)
	for _, t := range took {
		sum += t
	}
	var all []*pb.SubscriptionInfo_Measurement
	add := func(key string, t time.Duration) {
		all = append(all, &pb.SubscriptionInfo_Measurement{Key: key, Value: t.Milliseconds()})
	}
	add("Mean", sum/time.Duration(n))
	add("Median", took[n/2])
	add("Fastest", took[0])
	for i, key := range [...]string{"Quintile 1", "Quintile 2", "Quintile 3", "Quintile 4", "Quintile 5"} {
		add(key, took[i*n/5])
	}
	for _, p := range [...]struct {
		key     string
		permill int
	}{{"90%", 900}, {"95%", 950}, {"99%", 990}, {"99.5%", 995}, {"99.9%", 999}} {
		add(p.key, took[p.permill*n/1000])
	}
	add("Highest", took[n-1])
	return all
}

func perSecond(n int64, since time.Duration) int32 {
	if since <= 0 {
		return 0
	}
	return number(int(float64(n) / since.Seconds()))
}

// number is for what has no more digits than the protocol has for it.
func number(n int) int32 { return int32(min(n, 1<<31-1)) } //nolint:gosec // cut off
