package kafkanode_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
	"go.uber.org/goleak"

	"cartwright/infra/kafkanode"
)

const (
	topic      = "cartwright.events"
	partitions = 4
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options(dir string) kafkanode.Options {
	return kafkanode.Options{Dir: dir, Topic: topic, Partitions: partitions}
}

func open(tb testing.TB, o kafkanode.Options) *kafkanode.Node {
	tb.Helper()
	n, err := kafkanode.Open(o)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	tb.Cleanup(func() { shut(tb, n) })
	return n
}

func shut(tb testing.TB, n *kafkanode.Node) {
	tb.Helper()
	if err := n.Close(); err != nil {
		tb.Errorf("close: %v", err)
	}
}

func client(tb testing.TB, n *kafkanode.Node, opts ...kgo.Opt) *kgo.Client {
	tb.Helper()
	c, err := kgo.NewClient(append(opts, kgo.SeedBrokers(n.Addr()), kgo.MaxVersions(kversion.V2_8_0()), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()))...)
	if err != nil {
		tb.Fatalf("client: %v", err)
	}
	tb.Cleanup(c.Close)
	return c
}

// publish puts events with these positions on the bus, each on its partition.
func publish(tb testing.TB, c *kgo.Client, from, to uint64) {
	tb.Helper()
	var records []*kgo.Record
	for at := from; at <= to; at++ {
		records = append(records, &kgo.Record{
			Topic: topic, Partition: int32(at % partitions), Value: fmt.Appendf(nil, "%d %s", at, strings.Repeat("x", 100)),
		})
	}
	if err := c.ProduceSync(tb.Context(), records...).FirstErr(); err != nil {
		tb.Fatalf("publish: %v", err)
	}
}

// ends gives where each partition ends.
func ends(tb testing.TB, c *kgo.Client) map[int32]int64 {
	tb.Helper()
	return list(tb, c, -1)
}

func list(tb testing.TB, c *kgo.Client, timestamp int64) map[int32]int64 {
	tb.Helper()
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = topic
	for p := range int32(partitions) {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp = p, timestamp
		t.Partitions = append(t.Partitions, rp)
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(tb.Context(), c)
	if err != nil {
		tb.Fatalf("list offsets: %v", err)
	}
	found := map[int32]int64{}
	for _, p := range resp.Topics[0].Partitions {
		found[p.Partition] = p.Offset
	}
	return found
}

// records reads each partition from an offset to its end, and gives the
// positions found.
func records(tb testing.TB, n *kafkanode.Node, from map[int32]int64) map[uint64]bool {
	tb.Helper()
	offsets := map[int32]kgo.Offset{}
	probe := client(tb, n)
	begins, last := list(tb, probe, -2), ends(tb, probe)
	left := int64(0)
	for p, end := range last {
		at := max(from[p], begins[p])
		offsets[p] = kgo.NewOffset().At(at)
		left += end - at
	}
	c := client(tb, n, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: offsets}))
	found := map[uint64]bool{}
	ctx, cancel := context.WithTimeout(tb.Context(), 20*time.Second)
	defer cancel()
	for left > 0 {
		fetched := c.PollFetches(ctx)
		if err := fetched.Err(); err != nil {
			tb.Fatalf("%d records left: %v", left, err)
		}
		fetched.EachRecord(func(r *kgo.Record) {
			word, _, _ := strings.Cut(string(r.Value), " ")
			at, err := strconv.ParseUint(word, 10, 64)
			if err != nil {
				tb.Fatal(err)
			}
			found[at] = true
			left--
		})
	}
	return found
}

func commit(tb testing.TB, c *kgo.Client, group string, offsets map[int32]int64) {
	tb.Helper()
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic = topic
	for p, at := range offsets {
		o := kmsg.NewOffsetCommitRequestTopicPartition()
		o.Partition, o.Offset = p, at
		t.Partitions = append(t.Partitions, o)
	}
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation, req.Topics = group, -1, append(req.Topics, t)
	resp, err := req.RequestWith(tb.Context(), c)
	if err != nil {
		tb.Fatalf("commit: %v", err)
	}
	for _, p := range resp.Topics[0].Partitions {
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			tb.Fatalf("commit: %v", err)
		}
	}
}

// committed gives the group's offsets, without partitions it has none for.
func committed(tb testing.TB, c *kgo.Client, group string) map[int32]int64 {
	tb.Helper()
	t := kmsg.NewOffsetFetchRequestTopic()
	t.Topic = topic
	for p := range int32(partitions) {
		t.Partitions = append(t.Partitions, p)
	}
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group, req.Topics = group, append(req.Topics, t)
	resp, err := req.RequestWith(tb.Context(), c)
	if err != nil {
		tb.Fatalf("fetch offsets: %v", err)
	}
	found := map[int32]int64{}
	for _, p := range resp.Topics[0].Partitions {
		if p.Offset >= 0 {
			found[p.Partition] = p.Offset
		}
	}
	return found
}

// crash gives the folder as a kill would leave it, to be opened by another.
func crash(tb testing.TB, dir string) string {
	tb.Helper()
	left := filepath.Join(tb.TempDir(), "left")
	if err := os.CopyFS(left, os.DirFS(dir)); err != nil {
		tb.Fatalf("copy: %v", err)
	}
	return left
}

func segments(tb testing.TB, dir string) []string {
	tb.Helper()
	var found []string
	for p := range partitions {
		in, err := filepath.Glob(filepath.Join(dir, "log", "partitions", fmt.Sprintf("%s-%d", topic, p), "*.dat"))
		if err != nil {
			tb.Fatal(err)
		}
		found = append(found, in...)
	}
	return found
}

func TestTopicDataAndOffsetsAreThereAfterReopening(t *testing.T) {
	o := options(t.TempDir())
	n := open(t, o)
	c := client(t, n)
	publish(t, c, 1, 1000)
	commit(t, c, "views", map[int32]int64{0: 100, 1: 7})
	before := ends(t, c)
	if err := n.Sync(t.Context(), 900); err != nil {
		t.Fatal(err)
	}
	c.Close()
	shut(t, n)

	n = open(t, o)
	c = client(t, n)
	if n.Unclean() || n.Safe() != 900 {
		t.Errorf("unclean is %v, safe is %d", n.Unclean(), n.Safe())
	}
	if after := ends(t, c); !maps.Equal(before, after) {
		t.Errorf("ends were %v and are %v", before, after)
	}
	if got, want := committed(t, c, "views"), map[int32]int64{0: 100, 1: 7}; !maps.Equal(got, want) {
		t.Errorf("offsets are %v, want %v", got, want)
	}
	if got := len(records(t, n, nil)); got != 1000 {
		t.Errorf("%d records are left of 1000", got)
	}
}

func TestAnotherNumberOfPartitionsIsRefused(t *testing.T) {
	o := options(t.TempDir())
	shut(t, open(t, o))
	o.Partitions++
	if n, err := kafkanode.Open(o); err == nil {
		shut(t, n)
		t.Fatal("it was opened")
	}
	o.Partitions--
	shut(t, open(t, o))
}

func TestHowManyPartitionsThereAreIsKnownBeforeOpening(t *testing.T) {
	o := options(t.TempDir())
	count := func(topic string) int {
		n, err := kafkanode.Partitions(o.Dir, topic)
		if err != nil {
			t.Errorf("partitions of %s: %v", topic, err)
		}
		return n
	}
	if n := count(o.Topic); n != 0 {
		t.Errorf("an empty folder has %d partitions", n)
	}
	n := open(t, o)
	if got, other := count(o.Topic), count("another"); got != partitions || other != 0 {
		t.Errorf("a folder in use has %d partitions and %d of another topic", got, other)
	}
	left := crash(t, o.Dir)
	shut(t, n)
	if got := count(o.Topic); got != partitions {
		t.Errorf("a closed folder has %d partitions", got)
	}
	if o.Dir = left; count(o.Topic) != partitions {
		t.Errorf("a folder that was left has %d partitions", count(o.Topic))
	}
	if err := os.WriteFile(filepath.Join(left, "log", "topics.json"), []byte("?"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kafkanode.Partitions(left, o.Topic); err == nil {
		t.Error("a folder that can't be read has some number of partitions")
	}
}

func TestWrongOptionsAreRefused(t *testing.T) {
	dir := t.TempDir()
	for _, o := range []kafkanode.Options{
		{Topic: topic, Partitions: 1},
		{Dir: dir, Partitions: 1},
		{Dir: dir, Topic: topic},
		{Dir: dir, Topic: topic, Partitions: 1, Port: -1},
		{Dir: dir, Topic: topic, Partitions: 1, Port: 1 << 16},
	} {
		if n, err := kafkanode.Open(o); err == nil {
			shut(t, n)
			t.Errorf("%+v was opened", o)
		}
	}
}

func TestItListensOnLoopbackOnly(t *testing.T) {
	if n := open(t, options(t.TempDir())); !strings.HasPrefix(n.Addr(), "127.0.0.1:") {
		t.Fatalf("it listens on %s", n.Addr())
	}
}

func TestAnUncleanStopIsNoticedOnce(t *testing.T) {
	o := options(t.TempDir())
	n := open(t, o)
	publish(t, client(t, n), 1, 100)
	if n.Unclean() {
		t.Error("a new folder is unclean")
	}
	o.Dir = crash(t, o.Dir)
	n = open(t, o)
	if !n.Unclean() {
		t.Error("a folder that was not closed is clean")
	}
	if got := len(records(t, n, nil)); got != 100 {
		t.Errorf("%d records are left of 100", got)
	}
	shut(t, n)
	if n = open(t, o); n.Unclean() {
		t.Error("a folder that was repaired and closed is unclean")
	}
}

func TestOffsetsBeyondTheEndArePutBack(t *testing.T) {
	o := options(t.TempDir())
	n := open(t, o)
	c := client(t, n)
	for at := uint64(1); at <= 400; at += 40 {
		publish(t, c, at, at+39)
	}
	commit(t, c, "views", ends(t, c))
	commit(t, c, "slow", map[int32]int64{0: 3})
	o.Dir = crash(t, o.Dir)
	for _, path := range segments(t, o.Dir) {
		halve(t, path)
	}
	n = open(t, o)
	c = client(t, n)
	after := ends(t, c)
	for p, end := range after {
		if end == 0 || end >= 100 {
			t.Errorf("partition %d ends at %d", p, end)
		}
	}
	if got := committed(t, c, "views"); !maps.Equal(got, after) {
		t.Errorf("offsets are %v, partitions end at %v", got, after)
	}
	if got, want := committed(t, c, "slow"), map[int32]int64{0: 3}; !maps.Equal(got, want) {
		t.Errorf("offsets of a slow group are %v, want %v", got, want)
	}
}

func halve(tb testing.TB, path string) {
	tb.Helper()
	info, err := os.Stat(path)
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()/2); err != nil {
		tb.Fatal(err)
	}
}

func TestADeletedFolderMeansStartingOver(t *testing.T) {
	o := options(t.TempDir())
	n := open(t, o)
	publish(t, client(t, n), 1, 100)
	if err := n.Sync(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	shut(t, n)
	if err := os.RemoveAll(o.Dir); err != nil {
		t.Fatal(err)
	}
	if n = open(t, o); n.Safe() != 0 {
		t.Fatalf("safe is %d", n.Safe())
	}
}

func TestUnreadableCheckpointsMeanStartingOver(t *testing.T) {
	o := options(t.TempDir())
	n := open(t, o)
	publish(t, client(t, n), 1, 100)
	if err := n.Sync(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	shut(t, n)
	if err := os.WriteFile(filepath.Join(o.Dir, "promises.json"), []byte("{\"checkpoints\":[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n = open(t, o); !n.Unclean() || n.Safe() != 0 {
		t.Fatalf("unclean is %v, safe is %d", n.Unclean(), n.Safe())
	}
}

// TestNothingIsLostHoweverSegmentsAreCut plays a relay and a group against a bus
// that loses power: whatever happens to the files, publishing again behind Safe
// gives the group everything it had not read.
func TestNothingIsLostHoweverSegmentsAreCut(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			powerLoss(t, rand.New(rand.NewPCG(seed, 7)))
		})
	}
}

func powerLoss(t *testing.T, random *rand.Rand) {
	t.Helper()
	o := options(t.TempDir())
	o.SegmentBytes = 2000
	n := open(t, o)
	c := client(t, n)
	last, read := uint64(0), map[uint64]bool{}
	for range 5 + random.IntN(40) {
		to := last + 1 + random.Uint64N(20)
		publish(t, c, last+1, to)
		last = to
		switch random.IntN(4) {
		case 0:
			if err := n.Sync(t.Context(), last-random.Uint64N(min(last, 5))); err != nil {
				t.Fatal(err)
			}
		case 1: // the group reads all and says so
			all := records(t, n, nil)
			commit(t, c, "views", ends(t, c))
			read = all
		}
	}
	for range 3 {
		o.Dir = crash(t, o.Dir)
		damage(t, o.Dir, random)
		n = open(t, o)
		there := records(t, n, nil)
		for at := uint64(1); at <= n.Safe(); at++ {
			if !there[at] {
				t.Fatalf("safe is %d, but %d is missing", n.Safe(), at)
			}
		}
		publish(t, client(t, n), n.Safe()+1, last) // the relay's part
	}
	unread := records(t, n, committed(t, client(t, n), "views"))
	for at := uint64(1); at <= last; at++ {
		if !read[at] && !unread[at] {
			t.Fatalf("the group never gets %d of %d", at, last)
		}
	}
}

// damage does to some segments what a loss of power may, and worse.
func damage(tb testing.TB, dir string, random *rand.Rand) {
	tb.Helper()
	for _, path := range segments(tb, dir) {
		info, err := os.Stat(path)
		if err != nil {
			tb.Fatal(err)
		}
		switch random.IntN(20) {
		case 0:
			err = os.Truncate(path, random.Int64N(info.Size()+1))
		case 1:
			err = os.Remove(path)
		case 2:
			err = scribble(path, random.Int64N(max(1, info.Size())))
		case 3:
			err = os.Truncate(path, info.Size()+100) // zeros at the end
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

func scribble(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte{0xff, 0, 0xff}, at); err != nil {
		return err
	}
	return f.Close()
}

func TestOnlyWhatEveryGroupHasReadIsTrimmed(t *testing.T) {
	o := options(t.TempDir())
	o.SegmentBytes, o.TrimEvery = 2000, time.Nanosecond
	n := open(t, o)
	c := client(t, n)
	for at := uint64(1); at <= 400; at += 20 {
		publish(t, c, at, at+19)
	}
	sync := func() map[int32]int64 {
		t.Helper()
		if err := n.Sync(t.Context(), 400); err != nil {
			t.Fatal(err)
		}
		return list(t, c, -2)
	}
	begins := func(p0, p1, p2, p3 int64) map[int32]int64 { return map[int32]int64{0: p0, 1: p1, 2: p2, 3: p3} }
	if got, want := sync(), begins(0, 0, 0, 0); !maps.Equal(got, want) {
		t.Errorf("without groups partitions begin at %v, want %v", got, want)
	}
	commit(t, c, "fast", begins(100, 100, 100, 100))
	commit(t, c, "slow", map[int32]int64{0: 60, 1: 2})
	got := sync()
	if got[0] == 0 || got[0] > 60 {
		t.Errorf("read up to 60 by the slowest, partition 0 begins at %d", got[0])
	}
	if got[1] != 0 || got[2] != 0 || got[3] != 0 {
		t.Errorf("a slow group has not read what was trimmed: %v", got)
	}
	commit(t, c, "slow", begins(100, 100, 100, 100))
	got = sync()
	for p, end := range ends(t, c) {
		if got[p] == 0 || got[p] >= end || end != 100 {
			t.Errorf("partition %d, read by all, is from %d to %d", p, got[p], end)
		}
	}
	c.Close()
	shut(t, n)
	if after := list(t, client(t, open(t, o)), -2); !maps.Equal(got, after) {
		t.Errorf("partitions began at %v and begin at %v", got, after)
	}
}

func TestEndsAreThoseOfThePartitionsUntilTheNodeIsClosed(t *testing.T) {
	n := open(t, options(t.TempDir()))
	c := client(t, n)
	publish(t, c, 1, 200)
	got := n.Ends()
	for partition, want := range ends(t, c) {
		if got[partition] != want {
			t.Errorf("partition %d ends at %d, not %d", partition, got[partition], want)
		}
	}
	c.Close()
	shut(t, n)
	if got := n.Ends(); got != nil {
		t.Errorf("a closed node has ends: %v", got)
	}
}

func TestSyncAfterCloseFails(t *testing.T) {
	n := open(t, options(t.TempDir()))
	shut(t, n)
	if err := n.Sync(t.Context(), 1); err == nil {
		t.Fatal("it synced")
	}
}

// BenchmarkOpen is a start on a folder with so much in it, after a clean and an
// unclean stop.
func BenchmarkOpen(b *testing.B) {
	o := options(b.TempDir())
	n := open(b, o)
	c := client(b, n)
	for at := uint64(1); at <= 400_000; at += 5000 {
		publish(b, c, at, at+4999)
	}
	unclean := crash(b, o.Dir)
	c.Close()
	shut(b, n)
	b.Run("stop=clean", func(b *testing.B) {
		for b.Loop() {
			n := open(b, o)
			b.StopTimer()
			shut(b, n)
			b.StartTimer()
		}
	})
	b.Run("stop=unclean", func(b *testing.B) {
		o := o
		for b.Loop() {
			b.StopTimer()
			o.Dir = crash(b, unclean)
			b.StartTimer()
			shut(b, open(b, o))
		}
	})
}

func BenchmarkSync(b *testing.B) {
	n := open(b, options(b.TempDir()))
	c := client(b, n)
	at := uint64(0)
	for b.Loop() {
		b.StopTimer()
		publish(b, c, at+1, at+1000)
		at += 1000
		b.StartTimer()
		if err := n.Sync(b.Context(), at); err != nil {
			b.Fatal(err)
		}
	}
}
