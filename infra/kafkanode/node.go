// Package kafkanode is a Kafka broker inside this process, with a data folder:
// the bus when no Kafka is configured, spoken to by the same client over
// loopback.
//
// It keeps the topic, its records and the groups' offsets over restarts. What
// it acknowledges is in the kernel's page cache, not yet on the disk, so a
// machine that loses power may lose the newest records. The log of events is
// the truth and the relay can publish again; what it needs to know is from
// where on. That is what Sync, Safe and Unclean are for.
//
// # Why
//
// The broker is franz-go's kfake, since it speaks the whole protocol that the
// real client uses (groups, idempotent producers), keeps its data on disk, and
// is pure Go. Its option to fsync every batch is left off: it costs an fsync a
// partition and batch, and buys what publishing again gives for nothing.
//
// Instead of reading positions out of the records that happen to be left, the
// relay's own word is kept: Sync(position) says that everything up to position
// was acknowledged; the node then syncs its files, and writes down the position
// with the end of every partition. After an unclean stop, partitions are cut at
// their first damage, and the newest such checkpoint that all partitions still
// reach is a position behind which nothing is missing, whatever was lost
// (TestNothingIsLostHoweverSegmentsAreCut). No checkpoint means position 0, so
// even a deleted folder heals (TestADeletedFolderMeansStartingOver).
//
// A group's offset beyond the end of a cut partition would skip what is
// published again at those offsets. So offsets are put back to the end before
// anybody can join (TestOffsetsBeyondTheEndArePutBack): the repair runs on a
// broker with a port that nobody knows, which is then closed properly, so that
// kfake itself writes its files anew.
//
// Retention is off, since time or size know nothing of who has read what
// (TestOnlyWhatEveryGroupHasReadIsTrimmed). Sync drops whole segments that every
// group with offsets has read. A group that is given up must therefore be
// deleted, or the bus keeps growing for it.
package kafkanode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

const (
	segmentBytes    = 8 << 20
	maxMessageBytes = 8 << 20
	trimEvery       = time.Minute
	// kfake multiplies minutes to nanoseconds; a hundred years do not overflow.
	offsetRetentionMinutes = 100 * 365 * 24 * 60
)

// Options say where a node keeps its data and what it serves.
type Options struct {
	Dir        string       // its data folder, made if it is not there
	Log        *slog.Logger // nil is silent
	Port       int          // on loopback; 0 takes any free one
	Topic      string
	Partitions int

	SegmentBytes int           // of one file of a partition; 0 is 8 MiB
	TrimEvery    time.Duration // how often Sync looks for what all groups have read; 0 is a minute
}

// A Node is a running broker. Its methods may be called concurrently.
type Node struct {
	opts    Options
	addr    string
	unclean bool
	broker  *kfake.Cluster
	failed  *atomic.Bool // the broker could not write its state

	mu       sync.Mutex
	disk     disk
	promises promises
	trimmed  time.Time
	closed   bool
}

// Open starts a broker on a data folder, repairing it first if its last owner
// did not close it. The topic is made if it is not there; one with another
// number of partitions is refused, since that would move streams between
// partitions. One process at a time may use a folder.
func Open(o Options) (*Node, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	n := &Node{opts: o, disk: newDisk(o.Dir), failed: &atomic.Bool{}, trimmed: time.Now()}
	if err := n.prepare(); err != nil {
		return nil, fmt.Errorf("prepare bus folder %s: %w", o.Dir, err)
	}
	broker, err := n.start(o.Port)
	if err != nil {
		return nil, fmt.Errorf("start broker on %s: %w", o.Dir, err)
	}
	n.broker, n.addr = broker, broker.ListenAddrs()[0]
	return n, nil
}

func (o *Options) check() error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.TrimEvery == 0 {
		o.TrimEvery = trimEvery
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = segmentBytes
	}
	switch {
	case o.Dir == "":
		return errors.New("open bus: no folder given")
	case o.Topic == "":
		return errors.New("open bus: no topic given")
	case o.Partitions < 1 || o.Partitions > math.MaxInt16:
		return fmt.Errorf("open bus: a topic of %d partitions", o.Partitions)
	case o.Port < 0 || o.Port > math.MaxUint16:
		return fmt.Errorf("open bus: port %d", o.Port)
	}
	return nil
}

// prepare leaves a folder that is marked as in use, is whole, and whose safe
// position is known.
func (n *Node) prepare() error {
	if err := os.MkdirAll(n.disk.log, 0o750); err != nil {
		return err
	}
	clean, err := n.disk.mark()
	if err != nil {
		return fmt.Errorf("mark as in use: %w", err)
	}
	if n.promises, err = n.disk.readPromises(); err != nil {
		n.opts.Log.Warn("bus checkpoints unreadable", "error", err)
		clean = false
	}
	if !clean {
		if err := n.repair(); err != nil {
			return fmt.Errorf("repair after unclean stop: %w", err)
		}
	}
	n.unclean = !clean
	if err := n.disk.forgetSessions(); err != nil {
		return fmt.Errorf("forget old sessions: %w", err)
	}
	return n.disk.remember()
}

func (n *Node) repair() error {
	left, err := n.disk.cut(n.opts, n.promises)
	if err != nil {
		return err
	}
	if err = n.promise(left); err != nil {
		return err
	}
	private, err := n.start(0)
	if err != nil {
		return err
	}
	err = n.putBack(private)
	private.Close()
	if n.failed.Load() {
		err = errors.Join(err, errors.New("broker could not save its state"))
	}
	return errors.Join(err, n.disk.sync())
}

func (n *Node) start(port int) (*kfake.Cluster, error) {
	c, err := kfake.NewCluster(
		kfake.Ports(port), // binds to 127.0.0.1
		kfake.ClusterID("cartwright"),
		kfake.DataDir(n.disk.log),
		kfake.WithLogger(logger{n.opts.Log, n.failed}),
		kfake.BrokerConfigs(map[string]string{
			"log.segment.bytes":         strconv.Itoa(n.opts.SegmentBytes),
			"message.max.bytes":         strconv.Itoa(maxMessageBytes),
			"offsets.retention.minutes": strconv.Itoa(offsetRetentionMinutes),
		}),
	)
	if err != nil {
		return nil, err
	}
	if err := n.ensureTopic(c); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (n *Node) ensureTopic(c *kfake.Cluster) error {
	if have := len(c.PartitionInfos(n.opts.Topic)); have == n.opts.Partitions {
		return nil
	} else if have > 0 {
		return fmt.Errorf("topic %s has %d partitions, not %d", n.opts.Topic, have, n.opts.Partitions)
	}
	err := c.CreateTopic(n.opts.Topic, int32(n.opts.Partitions), map[string]string{ //nolint:gosec // checked by Options.check
		"cleanup.policy":    "delete",
		"retention.ms":      "-1",
		"retention.bytes":   "-1",
		"segment.bytes":     strconv.Itoa(n.opts.SegmentBytes),
		"max.message.bytes": strconv.Itoa(maxMessageBytes),
	})
	if err != nil {
		return fmt.Errorf("create topic %s: %w", n.opts.Topic, err)
	}
	return nil
}

// Addr is where the broker listens, on loopback.
func (n *Node) Addr() string { return n.addr }

// Unclean reports that the folder was not closed properly by its last owner,
// and that events behind Safe may be missing from the bus.
func (n *Node) Unclean() bool { return n.unclean }

// Safe is a position up to which every event is on the disk. Behind it the relay
// has to publish again if the last stop was unclean.
func (n *Node) Safe() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.promises.safe()
}

// Sync makes what the broker has acknowledged so far safe from a loss of power.
// The caller vouches that every event up to position was published. Calling it
// every few seconds is enough; an error leaves the last safe position in force.
func (n *Node) Sync(ctx context.Context, position uint64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return errors.New("sync bus: closed")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	ends := n.ends() // before the files are synced, so that they reach this far
	if err := n.disk.sync(); err != nil {
		return fmt.Errorf("sync bus: %w", err)
	}
	next := n.promises
	next.Checkpoints = thin(append(slices.Clone(next.Checkpoints), checkpoint{Position: position, Ends: ends}))
	if err := n.promise(next); err != nil {
		return fmt.Errorf("sync bus: write checkpoint %d: %w", position, err)
	}
	return n.trim(ctx)
}

func (n *Node) promise(next promises) error {
	if err := n.disk.writePromises(next); err != nil {
		return err
	}
	n.promises = next
	return nil
}

// Ends are where the topic's partitions end now; nil when the node is closed.
func (n *Node) Ends() []int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	return n.ends()
}

func (n *Node) ends() []int64 {
	ends := make([]int64, n.opts.Partitions)
	for _, p := range n.broker.PartitionInfos(n.opts.Topic) {
		ends[p.Partition] = p.HighWatermark
	}
	return ends
}

// Close stops the broker and leaves a folder that is whole on the disk. Clients
// should be closed before. It may be called again.
func (n *Node) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	n.broker.Close()
	if n.failed.Load() {
		return fmt.Errorf("close bus %s: the broker could not save its state", n.opts.Dir)
	}
	if err := n.disk.sync(); err != nil {
		return fmt.Errorf("close bus: %w", err)
	}
	if err := n.disk.unmark(); err != nil {
		return fmt.Errorf("close bus: %w", err)
	}
	return nil
}

// A logger passes on what the broker reports. It reports failed writes of its
// state only here, so errors are remembered: such a folder was not closed well.
type logger struct {
	log    *slog.Logger
	failed *atomic.Bool
}

func (l logger) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		l.failed.Store(true)
		l.log.Error("broker failed", "detail", fmt.Sprintf(format, args...))
	case kfake.LogLevelWarn:
		l.log.Warn("broker warns", "detail", fmt.Sprintf(format, args...))
	case kfake.LogLevelNone, kfake.LogLevelInfo, kfake.LogLevelDebug:
	}
}

// partitionDir is where kfake keeps the segments of a partition.
func (d *disk) partitionDir(topic string, partition int) string {
	return filepath.Join(d.log, "partitions", fmt.Sprintf("%s-%d", escape(topic), partition))
}
