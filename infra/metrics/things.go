package metrics

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cartwright/projections"
)

// descs describe what is watched.
type descs struct {
	parked, dropped, waiting                                 *prometheus.Desc
	events, healed, stuck                                    *prometheus.Desc
	unread, head, seen                                       *prometheus.Desc
	relayAt, relayAge, relayPublished, relayErrors, relayOff *prometheus.Desc
	reactions, halted, tiers                                 *prometheus.Desc
	lanes                                                    *prometheus.Desc
}

func newDescs() descs {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("cartwright_"+name, help, labels, nil)
	}
	return descs{
		parked:  desc("view_parked_streams", "Streams that a view can't follow and that somebody has to see to.", "view"),
		dropped: desc("view_dropped_streams", "Parked streams that an operator has given up.", "view"),
		waiting: desc("view_parked_events", "Events that wait behind the parked streams of a view, as far as they are known.", "view"),

		events: desc("projector_events_total", "Events that came to a projector, by result (applied, skipped as seen before, counted as parked).", "view", "result"),
		healed: desc("projector_gaps_healed_total", "Gaps that a projector closed from the log.", "view"),
		stuck:  desc("projector_streams_parked_total", "Streams that a projector parked.", "view"),

		unread: desc("views_unread_events", "Events on the bus that the views have still to read."),
		head:   desc("log_head_position", "Position of the log's end."),
		seen:   desc("views_seen_position", "Furthest position in the log that the views of this process have handled."),

		relayAt:        desc("relay_position", "Position up to which the log is on the bus."),
		relayAge:       desc("relay_oldest_waiting_age_seconds", "Age of the oldest event that waits for the bus; 0 where none does."),
		relayPublished: desc("relay_published_events_total", "Events that the relay put on the bus, repeated ones too."),
		relayErrors:    desc("relay_errors_total", "Attempts of the relay that failed; each is made again."),
		relayOff:       desc("relay_standby", "1 where another relay of this name is at work, 0 where this one is."),

		reactions: desc("reactions_total", "Reactions of the processes to events, by result (done, failed, parked). One that failed is tried again.", "result"),
		halted:    desc("process_parked_streams", "Streams that call for something which a process could not bring about."),
		lanes:     desc("lane_commands", "Commands that shared an append, by category of stream.", "category"),
		tiers:     desc("archive_documents", "Orders in the index, by tier: recent, or the year of a part of the archive.", "tier"),
	}
}

func gauge(d *prometheus.Desc, v float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func counter(d *prometheus.Desc, v float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

// Parked watches the parked streams of a view.
func (m *Metrics) Parked(view string, all func(context.Context) ([]projections.Parked, error)) {
	m.watched.add("parked:"+view, 0, func(ctx context.Context) ([]prometheus.Metric, error) {
		records, err := all(ctx)
		if err != nil {
			return nil, err
		}
		var parked, dropped, waiting int64
		for _, record := range records {
			if record.Dropped != nil {
				dropped++
				continue
			}
			parked++
			waiting += record.Count
		}
		d := &m.descs
		return []prometheus.Metric{
			gauge(d.parked, float64(parked), view), gauge(d.dropped, float64(dropped), view), gauge(d.waiting, float64(waiting), view),
		}, nil
	})
}

// Projected watches what the projectors did, by view. They are asked like an
// engine: who is one of them may be locked while a view is switched.
func (m *Metrics) Projected(stats func() map[string]projections.Stats) {
	d := &m.descs
	m.watched.add("projectors", 0, func(context.Context) (all []prometheus.Metric, err error) {
		for view, s := range stats() {
			all = append(all,
				counter(d.events, float64(s.Applied), view, "applied"),
				counter(d.events, float64(s.Skipped), view, "skipped"),
				counter(d.events, float64(s.Counted), view, "counted"),
				counter(d.healed, float64(s.Healed), view),
				counter(d.stuck, float64(s.Parked), view))
		}
		return all, nil
	})
}

// Unread watches how many events the views have still to read from the bus.
func (m *Metrics) Unread(events func(context.Context) (int64, error)) {
	m.watched.add("bus", 0, func(ctx context.Context) ([]prometheus.Metric, error) {
		n, err := events(ctx)
		if err != nil {
			return nil, err
		}
		return []prometheus.Metric{gauge(m.descs.unread, float64(n))}, nil
	})
}

// Head watches the end of the log.
func (m *Metrics) Head(position func(context.Context) (uint64, error)) {
	m.watched.add("log", 0, func(ctx context.Context) ([]prometheus.Metric, error) {
		at, err := position(ctx)
		if err != nil {
			return nil, err
		}
		return []prometheus.Metric{gauge(m.descs.head, float64(at))}, nil
	})
}

// Seen watches the furthest position that the views have handled.
func (m *Metrics) Seen(position func() uint64) {
	m.watched.count("seen", func() []prometheus.Metric {
		return []prometheus.Metric{gauge(m.descs.seen, float64(position()))}
	})
}

// Relay is what there is to say of a relay.
type Relay struct {
	Position  uint64        // everything of the log up to here is on the bus
	Waiting   time.Duration // the age of the oldest event that waits for the bus
	Published uint64        // events, since the start
	Errors    uint64        // attempts that failed, since the start
	Standby   bool          // another relay is at work
}

// Relay watches the relay of this process.
func (m *Metrics) Relay(status func() Relay) {
	d := &m.descs
	m.watched.count("relay", func() []prometheus.Metric {
		s := status()
		off := 0.0
		if s.Standby {
			off = 1
		}
		return []prometheus.Metric{
			gauge(d.relayAt, float64(s.Position)), gauge(d.relayAge, s.Waiting.Seconds()), gauge(d.relayOff, off),
			counter(d.relayPublished, float64(s.Published)), counter(d.relayErrors, float64(s.Errors)),
		}
	})
}

// Reactions watches the processes.
func (m *Metrics) Reactions(status func() (done, failed, parked int64)) {
	m.watched.count("reactions", func() []prometheus.Metric {
		done, failed, parked := status()
		return []prometheus.Metric{
			counter(m.descs.reactions, float64(done), "done"), counter(m.descs.reactions, float64(failed), "failed"),
			counter(m.descs.reactions, float64(parked), "parked"),
		}
	})
}

// Lanes watches how many commands share an append, by category of stream.
func (m *Metrics) Lanes(shapes func() map[string]Shape) {
	m.watched.count("lanes", func() (all []prometheus.Metric) {
		for category, s := range shapes() {
			all = append(all, prometheus.MustNewConstHistogram(m.descs.lanes, s.Count, s.Sum, s.Bounds, category))
		}
		return all
	})
}

// Stuck watches the list of what the processes have parked.
func (m *Metrics) Stuck(count func(context.Context) (int, error)) {
	m.watched.add("processes", 0, func(ctx context.Context) ([]prometheus.Metric, error) {
		n, err := count(ctx)
		if err != nil {
			return nil, err
		}
		return []prometheus.Metric{gauge(m.descs.halted, float64(n))}, nil
	})
}

// Alarm counts something that a person has to look at. Without metrics it is not counted.
func (m *Metrics) Alarm(kind string) {
	if m != nil {
		m.alarms.WithLabelValues(kind).Inc()
	}
}

// tiersKeep is longer than for others: an engine may have to count, and nothing
// here changes fast.
const tiersKeep = time.Minute

// Tiers watches where the orders are.
func (m *Metrics) Tiers(tiers func(context.Context) ([]projections.Tier, error)) {
	m.watched.add("archive", tiersKeep, func(ctx context.Context) ([]prometheus.Metric, error) {
		found, err := tiers(ctx)
		if err != nil {
			return nil, err
		}
		all := make([]prometheus.Metric, len(found))
		for i, tier := range found {
			name := "recent"
			if tier.Year != 0 {
				name = strconv.Itoa(tier.Year)
			}
			all[i] = gauge(m.descs.tiers, float64(tier.Documents), name)
		}
		return all, nil
	})
}

// A Replay tells how far one replay of a view is.
type Replay struct {
	m    *Metrics
	view string
}

// Replay begins to tell of a replay. Call Done once when it has ended.
func (m *Metrics) Replay(view string) *Replay {
	m.running.WithLabelValues(view).Inc()
	m.events.WithLabelValues(view).Set(0)
	m.at.WithLabelValues(view).Set(0)
	return &Replay{m, view}
}

// Progress tells how far it is.
func (r *Replay) Progress(p projections.Progress) {
	r.m.events.WithLabelValues(r.view).Set(float64(p.Events))
	r.m.at.WithLabelValues(r.view).Set(float64(p.Position))
}

// Done says that it has ended, and how.
func (r *Replay) Done(err error) {
	result := "done"
	if err != nil {
		result = "failed"
	}
	r.m.replays.WithLabelValues(r.view, result).Inc()
	r.m.running.WithLabelValues(r.view).Dec()
}
