package kafkanode

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// patience bounds a conversation with the broker in our own process.
const patience = 30 * time.Second

// connect speaks versions in which topics go by their names, not by ids.
func connect(addr string) (*kgo.Client, error) {
	return kgo.NewClient(kgo.SeedBrokers(addr), kgo.MaxVersions(kversion.V2_8_0()))
}

// putBack sets offsets of groups that point behind the end of a partition to
// that end.
func (n *Node) putBack(c *kfake.Cluster) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, err := connect(c.ListenAddrs()[0])
	if err != nil {
		return err
	}
	defer client.Close()
	groups, err := groupsOf(ctx, client, c, n.opts.Topic)
	if err != nil {
		return err
	}
	for group, offsets := range groups {
		beyond := map[int32]int64{}
		for _, p := range c.PartitionInfos(n.opts.Topic) {
			if at, ok := offsets[p.Partition]; ok && at > p.HighWatermark {
				beyond[p.Partition] = p.HighWatermark
				n.opts.Log.Warn("group offset put back", "group", group, "partition", p.Partition, "from", at, "to", p.HighWatermark)
			}
		}
		if err := commit(ctx, client, group, n.opts.Topic, beyond); err != nil {
			return fmt.Errorf("put back offsets of group %s: %w", group, err)
		}
	}
	return nil
}

// groupsOf gives the offsets by partition of every group that has any on topic.
func groupsOf(ctx context.Context, client *kgo.Client, c *kfake.Cluster, topic string) (map[string]map[int32]int64, error) {
	listed, err := kmsg.NewPtrListGroupsRequest().RequestWith(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	if err := kerr.ErrorForCode(listed.ErrorCode); err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	groups := map[string]map[int32]int64{}
	for _, g := range listed.Groups {
		info := c.GroupInfo(g.Group)
		if info == nil || len(info.Commits[topic]) == 0 {
			continue
		}
		groups[g.Group] = map[int32]int64{}
		for p, at := range info.Commits[topic] {
			groups[g.Group][p] = at.Offset
		}
	}
	return groups, nil
}

// commit writes offsets for a group without members.
func commit(ctx context.Context, client *kgo.Client, group, topic string, offsets map[int32]int64) error {
	if len(offsets) == 0 {
		return nil
	}
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic = topic
	for p, at := range offsets {
		o := kmsg.NewOffsetCommitRequestTopicPartition()
		o.Partition, o.Offset = p, at
		t.Partitions = append(t.Partitions, o)
	}
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation, req.Topics = group, -1, append(req.Topics, t)
	answer, err := req.RequestWith(ctx, client)
	if err != nil {
		return err
	}
	for _, t := range answer.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return fmt.Errorf("partition %d: %w", p.Partition, err)
			}
		}
	}
	return nil
}

// trim drops the segments that every group has read. A group that has offsets,
// but none yet for a partition, has read nothing of it. Must be called with mu
// held.
func (n *Node) trim(ctx context.Context) error {
	if time.Since(n.trimmed) < n.opts.TrimEvery {
		return nil
	}
	n.trimmed = time.Now()
	client, err := connect(n.addr)
	if err != nil {
		return fmt.Errorf("trim bus: %w", err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	groups, err := groupsOf(ctx, client, n.broker, n.opts.Topic)
	if err != nil {
		return fmt.Errorf("trim bus: %w", err)
	}
	if len(groups) == 0 {
		return nil
	}
	begins := make([]int64, n.opts.Partitions)
	for _, p := range n.broker.PartitionInfos(n.opts.Topic) {
		begins[p.Partition], err = n.beginOf(p, readByAll(groups, p.Partition))
		if err != nil {
			return fmt.Errorf("trim bus: partition %d: %w", p.Partition, err)
		}
	}
	return n.trimTo(begins)
}

func readByAll(groups map[string]map[int32]int64, partition int32) int64 {
	read := int64(math.MaxInt64)
	for _, offsets := range groups {
		read = min(read, offsets[partition])
	}
	return read
}

// beginOf is the begin of the segment in which the slowest group reads, so the
// newest segment always stays, and with it the partition's end.
func (n *Node) beginOf(p *kfake.PartitionInfo, read int64) (int64, error) {
	found, err := segments(n.disk.partitionDir(n.opts.Topic, int(p.Partition)))
	if err != nil {
		return 0, err
	}
	begin := p.LogStartOffset
	for _, s := range found {
		if s.base <= min(read, p.HighWatermark) {
			begin = max(begin, s.base)
		}
	}
	return begin, nil
}

// trimTo writes the begins down first, or a crash would look like a loss.
func (n *Node) trimTo(begins []int64) error {
	if slices.Equal(begins, n.promises.Begins) {
		return nil
	}
	if err := n.promise(promises{n.promises.Checkpoints, begins}); err != nil {
		return fmt.Errorf("trim bus: %w", err)
	}
	for p, begin := range begins {
		if err := n.broker.DeleteRecords(n.opts.Topic, int32(p), begin); err != nil {
			return fmt.Errorf("trim bus: partition %d: %w", p, err)
		}
	}
	return nil
}
