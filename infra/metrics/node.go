package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Node is what there is to say of an event log of our own. What is counted is
// counted since it was opened; times that never were are zero.
type Node struct {
	Writes  map[string]map[string]uint64 // by kind and result
	Refused map[string]uint64            // by reason
	Events  uint64
	Bytes   uint64

	CommitWrites, CommitEvents, CommitSeconds Shape
	Queued                                    int
	Oldest                                    time.Duration

	Reads       map[string]uint64 // by what is read
	EventsRead  uint64
	Subscribers map[string]uint64 // by what they follow
	Lag         uint64            // positions

	Disk               map[string]uint64 // bytes, by kind
	ReadAmplification  int
	Compacting         int64
	CompactionDebt     uint64
	FailedCompactions  int64
	Scavenged          uint64
	ScavengedAt        time.Time
	Marks              int
	BackedUpAt         time.Time
	WriteAmplification float64

	Links  map[string]uint64 // positions that links are behind, by what their streams begin with
	Full   bool              // it takes no appends for want of room on the disk
	Groups []Group           // its persistent subscriptions
}

// Group is what there is to say of a persistent subscription.
type Group struct {
	Stream, Name string
	Failed       bool
	Consumers    int
	InFlight     int
	Waiting      int
	Parked       uint64
	Behind       uint64 // positions, or events of its stream
}

// A Shape is a histogram: how many there are up to and including each bound.
type Shape struct {
	Count  uint64
	Sum    float64
	Bounds map[float64]uint64
}

// nodeDescs describe what is said of a node.
type nodeDescs struct {
	writes, refused, events, bytes                   *prometheus.Desc
	commitWrites, commitEvents, commitSeconds        *prometheus.Desc
	queued, oldest                                   *prometheus.Desc
	reads, eventsRead, subscribers, lag              *prometheus.Desc
	disk, readAmp, writeAmp, compacting, debt, fails *prometheus.Desc
	scavenged, scavengedAt, marks, backedUpAt, full  *prometheus.Desc
	groupFailed, groupConsumers, groupEvents         *prometheus.Desc
	groupParked, groupBehind, linksBehind            *prometheus.Desc
}

func newNodeDescs() nodeDescs {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("cartwright_node_"+name, help, labels, nil)
	}
	return nodeDescs{
		writes:  desc("writes_total", "Writes that were decided, by kind (append, delete, tombstone, sweep) and result (accepted, repeated, wrong_version, deleted, failed).", "kind", "result"),
		refused: desc("refused_total", "Calls that were answered with an error, by reason.", "reason"),
		events:  desc("events_total", "Events that were written."),
		bytes:   desc("written_bytes_total", "Bytes of commits: events with all that is kept of them."),

		commitWrites:  desc("commit_writes", "Writes that shared an fsync."),
		commitEvents:  desc("commit_events", "Events that shared an fsync."),
		commitSeconds: desc("commit_seconds", "Time a commit took, its fsync included."),
		queued:        desc("queued_writes", "Writes that wait for their fsync."),
		oldest:        desc("queued_oldest_age_seconds", "Age of the oldest write that waits for its fsync; 0 where none does."),

		reads:       desc("reads_total", "Reads that began, by what is read (stream, all).", "of"),
		eventsRead:  desc("read_events_total", "Events that were read, for reads and subscriptions."),
		subscribers: desc("subscribers", "Subscriptions there are, by what they follow (stream, all, persistent).", "of"),
		lag:         desc("subscriber_lag_events", "Positions that the slowest subscription is behind."),

		disk:       desc("disk_bytes", "What the log takes on the disk, by kind (tables, wal, other).", "kind"),
		readAmp:    desc("read_amplification", "Tables that a read may have to look at."),
		writeAmp:   desc("write_amplification_ratio", "Bytes written to the disk for each that was appended."),
		compacting: desc("compactions_running", "Compactions under way."),
		debt:       desc("compaction_debt_bytes", "Bytes that compactions have still to go through."),
		fails:      desc("compaction_failures_total", "Compactions that failed."),

		scavenged:   desc("scavenged_events_total", "Events that scavenges threw away."),
		scavengedAt: desc("scavenge_timestamp_seconds", "When the last scavenge ended; absent where none was since the start."),
		marks:       desc("scavenge_marks", "Regions of the log that a scavenge which was broken off has left to be scrubbed."),
		backedUpAt:  desc("backup_timestamp_seconds", "When the last backup was taken; absent where none is known of."),
		linksBehind: desc("links_behind_events", "Positions between what has links and the end, by what the streams of links begin with ($ce-, $et-); absent where nobody has asked for any.", "streams"),
		full:        desc("full", "1 while no append is taken for want of room on the disk."),

		groupFailed:    desc("group_failed", "1 where a persistent subscription gives nothing to anybody.", "stream", "group"),
		groupConsumers: desc("group_consumers", "Consumers that a persistent subscription has.", "stream", "group"),
		groupEvents:    desc("group_events", "Events that a persistent subscription holds in memory, by state (in_flight, waiting).", "stream", "group", "state"),
		groupParked:    desc("group_parked_events", "Events that a persistent subscription has parked.", "stream", "group"),
		groupBehind:    desc("group_behind_events", "Places between what a persistent subscription is done with and the end.", "stream", "group"),
	}
}

// Node watches an event log of this process.
func (m *Metrics) Node(figures func(context.Context) (Node, error)) {
	m.watched.add("node", 0, func(ctx context.Context) ([]prometheus.Metric, error) {
		n, err := figures(ctx)
		if err != nil {
			return nil, err
		}
		return m.nodeDescs.all(&n), nil
	})
}

func (d *nodeDescs) all(n *Node) []prometheus.Metric {
	all := []prometheus.Metric{
		counter(d.events, float64(n.Events)), counter(d.bytes, float64(n.Bytes)),
		shape(d.commitWrites, n.CommitWrites), shape(d.commitEvents, n.CommitEvents), shape(d.commitSeconds, n.CommitSeconds),
		gauge(d.queued, float64(n.Queued)), gauge(d.oldest, n.Oldest.Seconds()),
		counter(d.eventsRead, float64(n.EventsRead)), gauge(d.lag, float64(n.Lag)),
		gauge(d.readAmp, float64(n.ReadAmplification)), gauge(d.writeAmp, n.WriteAmplification),
		gauge(d.compacting, float64(n.Compacting)), gauge(d.debt, float64(n.CompactionDebt)), counter(d.fails, float64(n.FailedCompactions)),
		counter(d.scavenged, float64(n.Scavenged)), gauge(d.marks, float64(n.Marks)),
		gauge(d.full, truth(n.Full)),
	}
	for i := range n.Groups {
		all = append(all, d.group(&n.Groups[i])...)
	}
	for kind, results := range n.Writes {
		for result, count := range results {
			all = append(all, counter(d.writes, float64(count), kind, result))
		}
	}
	for reason, count := range n.Refused {
		all = append(all, counter(d.refused, float64(count), reason))
	}
	for of, count := range n.Reads {
		all = append(all, counter(d.reads, float64(count), of))
	}
	for of, count := range n.Subscribers {
		all = append(all, gauge(d.subscribers, float64(count), of))
	}
	for streams, behind := range n.Links {
		all = append(all, gauge(d.linksBehind, float64(behind), streams))
	}
	for kind, bytes := range n.Disk {
		all = append(all, gauge(d.disk, float64(bytes), kind))
	}
	if !n.ScavengedAt.IsZero() {
		all = append(all, gauge(d.scavengedAt, float64(n.ScavengedAt.Unix())))
	}
	if !n.BackedUpAt.IsZero() {
		all = append(all, gauge(d.backedUpAt, float64(n.BackedUpAt.Unix())))
	}
	return all
}

func (d *nodeDescs) group(g *Group) []prometheus.Metric {
	return []prometheus.Metric{
		gauge(d.groupFailed, truth(g.Failed), g.Stream, g.Name), gauge(d.groupConsumers, float64(g.Consumers), g.Stream, g.Name),
		gauge(d.groupEvents, float64(g.InFlight), g.Stream, g.Name, "in_flight"), gauge(d.groupEvents, float64(g.Waiting), g.Stream, g.Name, "waiting"),
		gauge(d.groupParked, float64(g.Parked), g.Stream, g.Name), gauge(d.groupBehind, float64(g.Behind), g.Stream, g.Name),
	}
}

// truth is 1 for what is so.
func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func shape(d *prometheus.Desc, s Shape) prometheus.Metric {
	return prometheus.MustNewConstHistogram(d, s.Count, s.Sum, s.Bounds)
}
