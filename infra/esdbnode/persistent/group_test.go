package persistent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"cartwright/infra/esdbnode/persistent"
)

// fatal is what both kinds of test have to fail with.
type fatal interface {
	Helper()
	Fatalf(format string, args ...any)
}

// A bench is a group with a log and a clock that are in the hands of a test.
type bench struct {
	t        fatal
	log      *memLog
	settings persistent.Settings
	clock    time.Time
	group    *persistent.Group
}

// ordinary are settings as the official client has them, with changes.
func ordinary(change func(*persistent.Settings)) persistent.Settings {
	s := persistent.Settings{
		Stream: "s", Group: "g", MessageTimeout: 30_000, MaxRetries: 10, LiveBuffer: 500, HistoryBuffer: 500, ReadBatch: 20,
		CheckpointAfter: 2000, MinCheckpoint: 10, MaxCheckpoint: 1000, Strategy: persistent.RoundRobin,
	}
	if change != nil {
		change(&s)
	}
	return s
}

func newBench(t fatal, s persistent.Settings) *bench {
	b := &bench{t: t, log: newMemLog(), settings: s, clock: time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)}
	b.open()
	return b
}

// open takes up the group as after a crash: nothing but the log is left.
func (b *bench) open() {
	b.t.Helper()
	g, err := persistent.Open(context.Background(), b.log, b.settings, func() time.Time { return b.clock })
	if err != nil {
		b.t.Fatalf("open: %v", err)
	}
	b.group = g
}

func (b *bench) work() {
	b.t.Helper()
	if _, err := b.group.Work(context.Background()); err != nil && !errors.Is(err, errDisk) {
		b.t.Fatalf("work: %v", err)
	}
}

func (b *bench) write(stream string, n int) {
	b.t.Helper()
	for range n {
		b.add(stream, persistent.Event{ID: uuid.New(), Kind: "x", Data: "{}"})
	}
	b.work()
}

func (b *bench) add(stream string, e persistent.Event) {
	b.t.Helper()
	number, err := b.log.Append(context.Background(), stream, e)
	if err != nil {
		b.t.Fatalf("append: %v", err)
	}
	if b.settings.Stream == persistent.All {
		number = uint64(len(b.log.events))
	}
	b.group.Grown(number)
}

func (b *bench) pass(d time.Duration) {
	b.t.Helper()
	b.clock = b.clock.Add(d)
	b.work()
}

func (b *bench) join(size int) *persistent.Consumer {
	b.t.Helper()
	c, err := b.group.Join(persistent.Caller{User: "u"}, size)
	if err != nil {
		b.t.Fatalf("join: %v", err)
	}
	return c
}

// take gives all that a consumer can have without waiting.
func take(c *persistent.Consumer) (all []persistent.Delivery) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		d, err := c.Next(ctx)
		if err != nil {
			return all
		}
		all = append(all, d)
	}
}

func original(d persistent.Delivery) *persistent.Event {
	if d.Link != nil {
		return d.Link
	}
	return d.Event
}

func ids(all []persistent.Delivery) (ids [][16]byte) {
	for _, d := range all {
		ids = append(ids, original(d).ID)
	}
	return ids
}

// numbers are those of the source's events, and how often they were retried if
// they were.
func numbers(all []persistent.Delivery) string {
	var texts []string
	for _, d := range all {
		text := strconv.FormatUint(d.Event.Number, 10)
		if d.Retries > 0 {
			text += "r" + strconv.Itoa(d.Retries)
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, " ")
}

func (b *bench) wantTaken(c *persistent.Consumer, want string) []persistent.Delivery {
	b.t.Helper()
	got := take(c)
	if numbers(got) != want {
		b.t.Fatalf("given are %q, want %q", numbers(got), want)
	}
	return got
}

// parked are the links in the parked stream.
func (b *bench) parked() (links []string) {
	for _, e := range b.log.stream("$persistentsubscription-" + b.settings.Stream + "::g-parked") {
		links = append(links, e.Data)
	}
	return links
}

// checkpoints are all that were written.
func (b *bench) checkpoints() (all []string) {
	for _, at := range b.log.by["$persistentsubscription-"+b.settings.Stream+"::g-checkpoint"] {
		var text string
		if err := json.Unmarshal([]byte(b.log.events[at].Data), &text); err != nil || b.log.events[at].Kind != "$SubscriptionCheckpoint" {
			b.t.Fatalf("checkpoint %+v: %v", b.log.events[at], err)
		}
		all = append(all, text)
	}
	return all
}

func TestACheckpointComesWhenItIsDue(t *testing.T) {
	b := newBench(t, ordinary(func(s *persistent.Settings) { s.MinCheckpoint, s.MaxCheckpoint = 3, 6 }))
	b.write("s", 30)
	c := b.join(30)
	got := take(c)
	for _, step := range []struct {
		acked []int
		after time.Duration
		want  []string
	}{
		{acked: []int{0, 1}, want: nil},                                            // too few
		{acked: []int{2}, want: []string{"2"}},                                     // enough, and none was written for long
		{acked: []int{3, 4, 5, 6}, want: []string{"2"}},                            // it is not time yet
		{after: 2 * time.Second, want: []string{"2", "6"}},                         // now it is
		{acked: []int{7, 8, 9, 10, 11, 12}, want: []string{"2", "6", "12"}},        // so many that time does not count
		{acked: []int{14, 15, 16, 17, 18, 19, 20}, want: []string{"2", "6", "12"}}, // but not past the one that is missing
		{acked: []int{13}, after: time.Hour, want: []string{"2", "6", "12", "20"}}, // until that is there
		{acked: []int{21, 22}, after: time.Hour, want: []string{"2", "6", "12", "20"}},
	} {
		for _, n := range step.acked {
			c.Ack(original(got[n]).ID)
		}
		b.pass(step.after)
		if diff := cmp.Diff(step.want, b.checkpoints()); diff != "" {
			t.Fatalf("after %v: -want +got:\n%s", step, diff)
		}
	}
	if err := b.group.Close(t.Context(), errors.New("bye")); err != nil {
		t.Fatal(err)
	}
	if all := b.checkpoints(); all[len(all)-1] != "22" {
		t.Errorf("at the end: %v", all)
	}
	b.open()
	b.work()
	b.wantTaken(b.join(10), "23 24 25 26 27 28 29")
}

func TestNoTimeoutMeansNever(t *testing.T) {
	b := newBench(t, ordinary(func(s *persistent.Settings) { s.MessageTimeout = 0 }))
	b.write("s", 1)
	c := b.join(1)
	b.wantTaken(c, "0")
	b.pass(1000 * time.Hour)
	b.wantTaken(c, "")
}

func TestWhatIsRetriedComesFirstAndInOrder(t *testing.T) {
	b := newBench(t, ordinary(nil))
	b.write("s", 6)
	a := b.join(4)
	got := b.wantTaken(a, "0 1 2 3")
	a.Leave()
	c := b.join(1)
	b.wantTaken(c, "0r1")
	c.Ack(ids(got[:1])...)
	b.wantTaken(c, "1r1")
	c.Nack(persistent.Retry, "", ids(got[1:2])...)
	b.wantTaken(c, "1r2")
	c.Ack(ids(got[1:2])...)
	b.wantTaken(c, "2r1")
	b.wantTaken(b.join(3), "3r1 4 5")
}

func TestALateAckStillCounts(t *testing.T) {
	b := newBench(t, ordinary(nil))
	b.write("s", 1)
	slow := b.join(1)
	got := b.wantTaken(slow, "0")
	other := b.join(1)
	b.pass(30 * time.Second)
	if numbers(take(other))+numbers(take(slow)) != "0r1" {
		t.Fatal("it was not retried")
	}
	slow.Ack(ids(got)...)
	b.pass(time.Hour)
	b.wantTaken(other, "")
	b.wantTaken(slow, "")
}

// What a consumer has not taken yet is taken back from it.
func TestWhatExpiresBeforeItIsTakenIsNotGivenTwice(t *testing.T) {
	b := newBench(t, ordinary(func(s *persistent.Settings) { s.Strategy = persistent.DispatchToSingle }))
	b.write("s", 2)
	stuck := b.join(2)
	b.pass(30 * time.Second) // both go back to it, once
	b.wantTaken(stuck, "0r1 1r1")
}

func TestTwinsAreGivenOneAfterTheOther(t *testing.T) {
	b := newBench(t, ordinary(nil))
	twin := persistent.Event{ID: uuid.New(), Kind: "x"}
	b.add("s", twin)
	b.add("s", twin)
	b.write("s", 1)
	c := b.join(10)
	got := b.wantTaken(c, "0 2")
	c.Ack(got[0].Event.ID)
	b.wantTaken(c, "1")
}

func TestADiskThatFailsLosesNothing(t *testing.T) {
	for _, after := range []bool{false, true} {
		b := newBench(t, ordinary(func(s *persistent.Settings) { s.MinCheckpoint, s.MaxCheckpoint = 1, 1 }))
		b.write("s", 3)
		c := b.join(3)
		got := b.wantTaken(c, "0 1 2")
		b.log.failBefore, b.log.failAfter = !after, after
		c.Nack(persistent.Park, "x", ids(got[:1])...)
		b.work()
		if len(b.checkpoints()) != 0 {
			t.Fatalf("a checkpoint passes what was not parked: %v", b.checkpoints())
		}
		b.work()
		c.Ack(ids(b.wantTaken(c, "0"))...) // it is given again meanwhile
		b.log.failBefore = true
		c.Ack(ids(got[1:])...)
		b.pass(time.Second)
		b.write("s", 1) // reading goes on
		b.wantTaken(c, "3")
		b.pass(time.Minute)
		if all := b.checkpoints(); len(all) == 0 || all[len(all)-1] != "2" {
			t.Errorf("checkpoints are %v", all)
		}
	}
}

func TestASourceThatCannotBeReadDropsConsumers(t *testing.T) {
	b := newBench(t, ordinary(nil))
	b.write("s", 1)
	c := b.join(1)
	b.wantTaken(c, "0")
	b.log.failRead = persistent.ErrUnavailable
	b.group.Grown(1)
	if _, err := b.group.Work(t.Context()); !errors.Is(err, persistent.ErrUnavailable) {
		t.Errorf("work says %v", err)
	}
	b.write("s", 1)
	b.pass(time.Second) // it is tried again
	c.Ack(b.log.events[0].ID)
	b.wantTaken(c, "1")
	b.log.failRead = persistent.ErrDeleted
	b.group.Grown(2)
	if _, err := b.group.Work(t.Context()); !errors.Is(err, persistent.ErrDeleted) {
		t.Errorf("work says %v", err)
	}
	if _, err := c.Next(t.Context()); err == nil {
		t.Error("the consumer was not dropped")
	}
	if _, err := b.group.Join(persistent.Caller{}, 1); err == nil {
		t.Error("another may join")
	}
}

func TestAReplayStopsWhereItIsTold(t *testing.T) {
	b := newBench(t, ordinary(func(s *persistent.Settings) {
		s.ReadBatch, s.HistoryBuffer, s.MinCheckpoint, s.MaxCheckpoint = 2, 3, 1, 1
	}))
	b.write("s", 8)
	c := b.join(8)
	c.Nack(persistent.Park, "", ids(take(c))...)
	b.work()
	c.Nack(persistent.Park, "", ids(take(c))...)
	b.work()
	if n := len(b.parked()); n != 8 {
		t.Fatalf("%d are parked", n)
	}
	b.group.Replay(new(uint64(5)))
	b.work()
	got := b.wantTaken(c, "0 1 2 3 4")
	c.Ack(ids(got[1:])...)
	b.work()
	if n := len(b.parked()); n != 8 {
		t.Errorf("after all but the first were answered %d are parked", n)
	}
	b.open() // a crash: they are parked as before
	if n := b.group.Info().GetParkedMessageCount(); n != 8 {
		t.Errorf("after a crash %d are parked", n)
	}
	b.group.Replay(nil)
	c = b.join(100)
	b.work()
	got = b.wantTaken(c, "0 1 2 3 4 5 6 7")
	c.Ack(ids(got)...)
	b.work()
	if left := b.parked(); len(left) != 0 || b.group.Info().GetParkedMessageCount() != 0 {
		t.Errorf("%v are left", left)
	}
}

func TestAPinnedSourceMovesOnlyWhenItMust(t *testing.T) {
	b := newBench(t, ordinary(func(s *persistent.Settings) { s.Stream, s.Strategy = persistent.All, persistent.Pinned }))
	owner := map[string]*persistent.Consumer{}
	a := b.join(100)
	c := b.join(100)
	look := func(round int) {
		t.Helper()
		for i := range 10 {
			b.write(fmt.Sprintf("s-%d", i), 1)
		}
		for _, who := range []*persistent.Consumer{a, c} {
			got := take(who)
			for _, d := range got {
				if was := owner[d.Event.Stream]; was != nil && was != who {
					t.Errorf("round %d: %s has moved", round, d.Event.Stream)
				}
				owner[d.Event.Stream] = who
			}
			who.Ack(ids(got)...)
		}
	}
	look(1)
	look(2)
	if len(owner) != 10 || !slices.Contains([]int{4, 5, 6}, count(owner, a)) {
		t.Errorf("of %d one has %d", len(owner), count(owner, a))
	}
	third := b.join(100)
	for i := range 10 {
		b.write(fmt.Sprintf("s-%d", i), 1)
	}
	if n := len(take(third)); n < 2 || n > 4 {
		t.Errorf("the third of three has %d of 10", n)
	}
	a.Leave()
	third.Leave()
	if n := len(take(c)); n != 10 {
		t.Errorf("the last has %d of 10", n)
	}
}

func count(owner map[string]*persistent.Consumer, c *persistent.Consumer) (n int) {
	for _, o := range owner {
		if o == c {
			n++
		}
	}
	return n
}

// A life is a group under whatever may happen to it, and what is known of it.
type life struct {
	*bench
	consumers []*persistent.Consumer
	sizes     []int
	taken     map[*persistent.Consumer][]persistent.Delivery // even if answered or taken back
	settled   map[string]bool                                // acknowledged or skipped, by link
	answered  map[[16]byte]bool                              // the same, by the event's id, of replayed ones too
	written   []string                                       // all that the group is to give, by link
	from      uint64                                         // the place behind the checkpoint that it was taken up with
}

func link(e *persistent.Event) string { return strconv.FormatUint(e.Number, 10) + "@" + e.Stream }

func (l *life) settle(d persistent.Delivery) {
	l.settled[link(d.Event)] = true
	l.answered[original(d).ID] = true
}

// checkpointed is the newest checkpoint, if there is one.
func (l *life) checkpointed() (at uint64, ok bool) {
	all := l.checkpoints()
	if len(all) == 0 {
		return 0, false
	}
	text, _, _ := strings.Cut(strings.TrimPrefix(all[len(all)-1], "C:"), "/")
	at, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		l.t.Fatalf("checkpoint: %v", err)
	}
	return at, true
}

// reopen takes up the group, which gives again only what its checkpoint does not cover.
func (l *life) reopen() {
	l.consumers, l.sizes = nil, nil
	l.open()
	if at, ok := l.checkpointed(); ok {
		l.from = at + 1
	}
}

// take is what a consumer can have. What was before the last restart's checkpoint
// is not among that, unless it was parked.
func (l *life) take(c *persistent.Consumer) []persistent.Delivery {
	l.t.Helper()
	all := take(c)
	for _, d := range all {
		place := original(d).Number
		if l.settings.Stream == persistent.All {
			place = original(d).Position
		}
		if d.Link == nil && place < l.from {
			l.t.Fatalf("%s is given again, and the checkpoint was %d", link(d.Event), l.from-1)
		}
	}
	return all
}

// check holds the group to its law.
func (l *life) check() {
	l.t.Helper()
	ever, places := map[string]bool{}, map[string]uint64{}
	for _, at := range l.log.by["$persistentsubscription-"+l.settings.Stream+"::g-parked"] {
		ever[l.log.events[at].Data] = true
	}
	for i := range l.log.events {
		e := &l.log.events[i]
		if places[link(e)] = e.Number; l.settings.Stream == persistent.All {
			places[link(e)] = e.Position
		}
	}
	if at, ok := l.checkpointed(); ok {
		for _, w := range l.written {
			if places[w] <= at && !l.settled[w] && !ever[w] {
				l.t.Fatalf("the checkpoint is %d, and %s is not done", at, w)
			}
		}
	}
	l.checkParked()
	info := l.group.Info()
	if int(info.GetReadBufferCount()) > l.settings.HistoryBuffer {
		l.t.Fatalf("%d in a buffer of %d", info.GetReadBufferCount(), l.settings.HistoryBuffer)
	}
	for i, c := range info.GetConnections() {
		if int(c.GetInFlightMessages()) > l.sizes[i] {
			l.t.Fatalf("%d are in flight to a consumer of %d", c.GetInFlightMessages(), l.sizes[i])
		}
	}
}

// checkParked looks whether what was parked and is hidden was answered, or parked
// once more.
func (l *life) checkParked() {
	l.t.Helper()
	stream := "$persistentsubscription-" + l.settings.Stream + "::g-parked"
	all := l.log.by[stream]
	for n := range min(l.log.before[stream], uint64(len(all))) {
		e := l.log.events[all[n]]
		again := slices.ContainsFunc(all[n+1:], func(at int) bool { return l.log.events[at].Data == e.Data })
		if !l.answered[e.ID] && !again {
			l.t.Fatalf("parked event %d (%s) was not answered and is gone", n, e.Data)
		}
	}
}

func (l *life) actions() map[string]func(*rapid.T) {
	join := func(t *rapid.T) {
		l.sizes = append(l.sizes, rapid.IntRange(1, 5).Draw(t, "size"))
		l.consumers = append(l.consumers, l.join(l.sizes[len(l.sizes)-1]))
	}
	some := func(t *rapid.T) (*persistent.Consumer, []persistent.Delivery) {
		if len(l.consumers) == 0 {
			join(t)
		}
		c := rapid.SampledFrom(l.consumers).Draw(t, "who")
		l.taken[c] = append(l.taken[c], l.take(c)...)
		return c, rapid.SliceOfN(rapid.SampledFrom(append(l.taken[c], persistent.Delivery{Found: persistent.Found{Event: &persistent.Event{Kind: "none"}}})), 0, 4).Draw(t, "what")
	}
	known := func(all []persistent.Delivery) []persistent.Delivery {
		return slices.DeleteFunc(slices.Clone(all), func(d persistent.Delivery) bool { return d.Event.Kind == "none" })
	}
	return map[string]func(*rapid.T){
		"write": func(t *rapid.T) {
			for range rapid.IntRange(1, 6).Draw(t, "events") {
				stream := rapid.SampledFrom([]string{"s", "s-1", "other"}).Draw(t, "stream")
				if stream == "s" || l.settings.Stream == persistent.All && stream == "s-1" {
					l.written = append(l.written, fmt.Sprintf("%d@%s", len(l.log.by[stream]), stream))
				}
				l.log.failBefore, l.log.failAfter = false, false
				l.add(stream, persistent.Event{ID: uuid.New(), Kind: "x", Meta: `{"$correlationId":"c"}`})
			}
		},
		"join": func(t *rapid.T) {
			if len(l.consumers) < 4 {
				join(t)
			}
		},
		"leave": func(t *rapid.T) {
			if len(l.consumers) == 0 {
				return
			}
			at := rapid.IntRange(0, len(l.consumers)-1).Draw(t, "who")
			l.consumers[at].Leave()
			l.consumers, l.sizes = slices.Delete(l.consumers, at, at+1), slices.Delete(l.sizes, at, at+1)
		},
		"ack": func(t *rapid.T) {
			c, what := some(t)
			for _, d := range known(what) {
				l.settle(d)
			}
			c.Ack(ids(what)...)
		},
		"nack": func(t *rapid.T) {
			c, what := some(t)
			action := rapid.SampledFrom([]persistent.Action{persistent.Unknown, persistent.Park, persistent.Retry, persistent.Skip, persistent.Stop}).Draw(t, "action")
			if action == persistent.Skip || action == persistent.Stop {
				for _, d := range known(what) {
					l.settle(d)
				}
			}
			c.Nack(action, "because", ids(what)...)
		},
		"work": func(*rapid.T) { l.work() },
		"wait": func(t *rapid.T) { l.pass(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second) },
		"replay": func(t *rapid.T) {
			l.group.Replay(rapid.SampledFrom([]*uint64{nil, new(uint64(0)), new(uint64(2)), new(uint64(9))}).Draw(t, "stop"))
		},
		"fail": func(t *rapid.T) {
			l.log.failBefore = rapid.Bool().Draw(t, "before")
			l.log.failAfter = !l.log.failBefore
		},
		"crash": func(*rapid.T) { l.reopen() },
		"restart": func(*rapid.T) {
			if err := l.group.Close(context.Background(), errors.New("restart")); err != nil && !errors.Is(err, errDisk) {
				l.t.Fatalf("close: %v", err)
			}
			l.reopen()
		},
		"": func(*rapid.T) { l.check() },
	}
}

// finish brings a consumer that does all it is given, and has everything parked
// given to it too.
func (l *life) finish() {
	l.t.Helper()
	for _, c := range l.consumers {
		c.Leave()
	}
	l.consumers, l.sizes = nil, nil
	l.log.failBefore, l.log.failAfter = false, false
	c := l.join(3)
	l.consumers, l.sizes = append(l.consumers, c), append(l.sizes, 3)
	for range 10*len(l.log.events) + 100 {
		l.pass(time.Second)
		got := l.take(c)
		for _, d := range got {
			l.settle(d)
		}
		c.Ack(ids(got)...)
		if len(got) == 0 {
			l.group.Replay(nil)
		}
	}
	for _, w := range l.written {
		if !l.settled[w] {
			l.t.Fatalf("%s was never done: %v", w, l.group.Info())
		}
	}
	if left := l.parked(); len(left) > 0 {
		l.t.Fatalf("%v stay parked", left)
	}
	if info := l.group.Info(); info.GetOutstandingMessagesCount()+info.GetReadBufferCount()+info.GetRetryBufferCount() > 0 {
		l.t.Fatalf("it is not idle: %v", info)
	}
}

func TestEveryEventIsDoneInTheEnd(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := ordinary(func(s *persistent.Settings) {
			s.Strategy = rapid.SampledFrom([]string{persistent.RoundRobin, persistent.DispatchToSingle, persistent.Pinned, persistent.PinnedByCorrelation}).Draw(rt, "strategy")
			s.ReadBatch = rapid.IntRange(1, 4).Draw(rt, "batch")
			s.HistoryBuffer = s.ReadBatch + rapid.IntRange(1, 5).Draw(rt, "buffer")
			s.MinCheckpoint = rapid.IntRange(0, 4).Draw(rt, "min")
			s.MaxCheckpoint = s.MinCheckpoint + rapid.IntRange(1, 8).Draw(rt, "max")
			s.MaxRetries = rapid.IntRange(0, 3).Draw(rt, "retries")
			s.CheckpointAfter = rapid.SampledFrom([]int{0, 2000}).Draw(rt, "after")
			if rapid.Bool().Draw(rt, "all") {
				s.Stream, s.Filter = persistent.All, &persistent.Filter{Prefixes: []string{"s"}}
			}
		})
		l := &life{
			bench: newBench(rt, s), taken: map[*persistent.Consumer][]persistent.Delivery{},
			settled: map[string]bool{}, answered: map[[16]byte]bool{},
		}
		rt.Repeat(l.actions())
		l.finish()
	})
}

func TestWhatFailsOftenEnoughIsParked(t *testing.T) {
	b := newBench(t, ordinary(func(s *persistent.Settings) { s.MaxRetries = 2 }))
	b.write("s", 1)
	c := b.join(1)
	for _, want := range []string{"0", "0r1", "0r2", ""} {
		c.Nack(persistent.Retry, "", ids(b.wantTaken(c, want))...)
	}
	b.work()
	if parked := b.parked(); !slices.Equal(parked, []string{"0@s"}) {
		t.Errorf("parked are %v", parked)
	}
}

// A checkpoint of a group that was deleted is not one of the next of its name.
func TestAGroupOfADeletedOnesNameBeginsAnew(t *testing.T) {
	b := newBench(t, ordinary(func(s *persistent.Settings) { s.MinCheckpoint, s.MaxCheckpoint = 1, 1 }))
	b.write("s", 3)
	c := b.join(3)
	c.Ack(ids(take(c))...)
	b.work()
	checkpoints := "$persistentsubscription-s::g-checkpoint"
	if _, err := b.log.Append(t.Context(), "$$"+checkpoints, persistent.Event{ID: uuid.New(), Kind: "$metadata", Data: `{"$tb":9223372036854775807}`}); err != nil {
		t.Fatal(err)
	}
	b.open()
	b.work()
	c = b.join(1)
	c.Ack(ids(b.wantTaken(c, "0"))...)
	b.log.failAfter = true // after its metadata, before its first checkpoint
	b.work()
	if shown := b.log.stream(checkpoints); len(shown) != 0 {
		t.Errorf("%d old checkpoints are shown again", len(shown))
	}
}

func TestAnEventThatComesDuringAReadIsNotMissed(t *testing.T) {
	b := newBench(t, ordinary(nil))
	b.log.meanwhile = func() { b.add("s", persistent.Event{ID: uuid.New(), Kind: "x"}) }
	b.work()
	b.wantTaken(b.join(1), "0")
}

func TestOneBusyConsumerHoldsUpOnlyWhatIsPinnedToIt(t *testing.T) {
	b := newBench(t, ordinary(func(s *persistent.Settings) { s.Stream, s.Strategy = persistent.All, persistent.Pinned }))
	busy, idle := b.join(1), b.join(10)
	b.write("s-0", 3)
	if numbers(take(idle)) != "" {
		busy, idle = idle, busy
	}
	b.write("s-1", 3)
	if got := numbers(take(idle)); got == "" {
		t.Error("what is pinned to another waits too")
	}
	_ = busy
}

func TestACheckpointAfterNoTimeComesByCountAlone(t *testing.T) {
	b := newBench(t, ordinary(func(s *persistent.Settings) { s.CheckpointAfter, s.MinCheckpoint, s.MaxCheckpoint = 0, 1, 5 }))
	b.write("s", 6)
	c := b.join(6)
	got := take(c)
	c.Ack(ids(got[:4])...)
	b.pass(time.Hour)
	if all := b.checkpoints(); len(all) != 0 {
		t.Errorf("checkpoints are %v", all)
	}
	c.Ack(ids(got[4:5])...)
	b.work()
	if all := b.checkpoints(); !slices.Equal(all, []string{"4"}) {
		t.Errorf("checkpoints are %v", all)
	}
}

func TestACheckpointPassesWhatIsLeftOut(t *testing.T) {
	b := newBench(t, ordinary(func(s *persistent.Settings) {
		s.Stream, s.Filter, s.CheckpointAfter, s.MaxCheckpoint = persistent.All, &persistent.Filter{Prefixes: []string{"none"}}, 0, 20
	}))
	b.write("s", 25)
	if all := b.checkpoints(); len(all) != 1 || all[0] < "C:20/P:20" {
		t.Errorf("checkpoints are %v", all)
	}
}

func TestAGroupOfAllIsNotGivenWhatItHasParked(t *testing.T) {
	b := newBench(t, ordinary(func(s *persistent.Settings) { s.Stream = persistent.All }))
	b.write("s", 2)
	c := b.join(2)
	c.Nack(persistent.Park, "", ids(b.wantTaken(c, "0 1"))...)
	b.work()
	b.group.Grown(uint64(len(b.log.events)))
	b.work()
	b.wantTaken(c, "")
	b.write("$persistentsubscription-$all::other-parked", 1)
	b.wantTaken(c, "0") // what others have parked is as good as any event
}

// A consumer may ask for more than the group is willing to hold.
func TestOneWhoTakesEverythingGetsWhatTheGroupMayHold(t *testing.T) {
	b := newBench(t, ordinary(nil))
	c := b.join(1 << 30)
	for range 200 {
		b.add("s", persistent.Event{ID: uuid.New(), Kind: "x", Data: strings.Repeat("x", 100<<10)})
		b.work()
	}
	got := take(c)
	if n := len(got); n < 80 || n > 100 { // 8 MiB are 82, and a page more
		t.Fatalf("%d are in flight", n)
	}
	for n := len(got); n < 200; n += len(got) {
		c.Ack(ids(got)...)
		b.work()
		if got = take(c); len(got) == 0 {
			t.Fatalf("it ends after %d", n)
		}
	}
}

func TestAReplayOfNothingIsOver(t *testing.T) {
	b := newBench(t, ordinary(nil))
	b.group.Replay(nil)
	b.work()
	b.write("s", 1)
	c := b.join(1)
	c.Nack(persistent.Park, "", ids(b.wantTaken(c, "0"))...)
	b.work()
	b.wantTaken(c, "")
	b.group.Replay(nil)
	b.work()
	b.wantTaken(c, "0")
}

// What fails together, or is lost with a consumer, comes before what failed later
// in the log, and what is replayed stays behind all of it.
func TestWhatIsReplayedWaitsBehindWhatIsRetried(t *testing.T) {
	b := newBench(t, ordinary(nil))
	b.write("s", 8)
	c := b.join(8)
	got := b.wantTaken(c, "0 1 2 3 4 5 6 7")
	c.Nack(persistent.Park, "", ids(got[:2])...)
	b.work()
	other := b.join(8)
	c.Leave()
	c = other
	b.wantTaken(c, "2r1 3r1 4r1 5r1 6r1 7r1")
	c.Leave()
	b.group.Replay(nil)
	b.work()
	c = b.join(1)
	for _, want := range []string{"2r2", "3r2", "4r2", "5r2", "6r2", "7r2", "0", "1"} {
		c.Ack(ids(b.wantTaken(c, want))...)
	}
}
