package esdbstore_test

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"cartwright/domain/event"
	"cartwright/infra/cputime"
	"cartwright/infra/esdbstore"
	"cartwright/infra/storetest"
)

// TestWhatIsReadByHandIsWhatTheGeneratedTypesWrite makes up what a server may say.
func TestWhatIsReadByHandIsWhatTheGeneratedTypesWrite(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		want := event.Notice{Position: rapid.Uint64Range(1, math.MaxUint64).Draw(rt, "position")}
		if rapid.Bool().Draw(rt, "checkpoint") {
			told := &streams.ReadResp_Checkpoint{CommitPosition: want.Position, PreparePosition: 7}
			hears(rt, &streams.ReadResp{Content: &streams.ReadResp_Checkpoint_{Checkpoint: told}}, want)
			return
		}
		ticks := rapid.Int64Range(-1e15, 1e16).Draw(rt, "ticks")
		id := uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, "id"))
		want.Event = event.Recorded{
			Stream: rapid.StringMatching(`[a-zé$]{1,200}`).Draw(rt, "stream"), Position: want.Position, ID: id.String(),
			Revision: event.Revision(rapid.Uint64Range(1, 1<<40).Draw(rt, "revision")), Name: rapid.StringMatching(`[a-z.é]{1,200}`).Draw(rt, "name"),
			Data: rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(rt, "data"), Created: time.Unix(0, ticks*100).UTC(), Version: 3,
		}
		want.Event.Cause = "c"
		told := &streams.ReadResp_ReadEvent_RecordedEvent{
			Id: structured(id), StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(want.Event.Stream)},
			StreamRevision: uint64(want.Event.Revision) - 1, CommitPosition: want.Position, PreparePosition: 7,
			Metadata:       map[string]string{"type": want.Event.Name, "content-type": "application/json", "created": strconv.FormatInt(ticks, 10)},
			CustomMetadata: []byte(`{"$causationId":"c","version":3}`), Data: want.Event.Data,
		}
		if rapid.Bool().Draw(rt, "id as text") {
			told.Id = &shared.UUID{Value: &shared.UUID_String_{String_: id.String()}}
		}
		seen := &streams.ReadResp_ReadEvent{Event: told, Position: &streams.ReadResp_ReadEvent_CommitPosition{CommitPosition: want.Position}}
		if rapid.Bool().Draw(rt, "linked") {
			other, _ := proto.Clone(told).(*streams.ReadResp_ReadEvent_RecordedEvent)
			other.Metadata["type"], other.CommitPosition = "other", 9
			seen.Event, seen.Link = other, told
		}
		hears(rt, &streams.ReadResp{Content: &streams.ReadResp_Event{Event: seen}}, want)
	})
}

func hears(rt *rapid.T, m *streams.ReadResp, want event.Notice) {
	rt.Helper()
	raw, err := proto.Marshal(m)
	if err != nil {
		rt.Fatal(err)
	}
	got, err := esdbstore.Heard(raw)
	if err != nil {
		rt.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		rt.Fatal(diff)
	}
	for i := range raw { // gRPC uses the memory again
		raw[i] = 0xff
	}
	if diff := cmp.Diff(want, got); diff != "" {
		rt.Fatalf("it changed behind our back: %s", diff)
	}
}

func TestWhatNobodyCanReadIsNoEvent(t *testing.T) {
	for name, metadata := range map[string]map[string]string{
		"no time":       {"type": "a"},
		"a broken time": {"type": "a", "created": "yesterday"},
	} {
		raw, err := proto.Marshal(&streams.ReadResp{Content: &streams.ReadResp_Event{Event: &streams.ReadResp_ReadEvent{
			Event: &streams.ReadResp_ReadEvent_RecordedEvent{CommitPosition: 1, Metadata: metadata},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		if n, err := esdbstore.Heard(raw); err == nil {
			t.Errorf("%s: got %+v", name, n)
		}
		if n, err := esdbstore.Heard(raw[:len(raw)-1]); err == nil {
			t.Errorf("%s, cut short: got %+v", name, n)
		}
	}
}

// TestACallOfOurOwnAsksAsTheClientDoes compares the two requests as they come.
func TestACallOfOurOwnAsksAsTheClientDoes(t *testing.T) {
	f := before(t)
	store := open(t, f.uri)
	if err := store.Append(t.Context(), "order-1", 0, storetest.Events(3)); err != nil {
		t.Fatal(err)
	}
	head, err := store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, after := range []uint64{0, head} {
		for _, prefixes := range [][]string{nil, {"order-", "payment-"}} {
			f.set(func() { f.read = nil })
			for n, err := range store.Follow(t.Context(), after, prefixes...) {
				if err != nil {
					t.Fatal(err)
				}
				if n.CaughtUp {
					break
				}
			}
			if err := store.ByClient(t.Context(), after, prefixes, func(n event.Notice) bool { return !n.CaughtUp }); err != nil {
				t.Fatal(err)
			}
			f.mu.Lock()
			asked := f.read
			f.mu.Unlock()
			if len(asked) != 2 {
				t.Fatalf("asked %d times", len(asked))
			}
			var ours, theirs streams.ReadReq
			if err := proto.Unmarshal(asked[0], &ours); err != nil {
				t.Fatal(err)
			}
			if err := proto.Unmarshal(asked[1], &theirs); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&theirs, &ours, protocmp.Transform()); diff != "" {
				t.Errorf("after %d of %v: %s", after, prefixes, diff)
			}
		}
	}
}

// BenchmarkFollow reads a log to its end, by the client and by a call of our own,
// with the node beside it.
func BenchmarkFollow(b *testing.B) {
	const events = 10_000
	store := open(b, serve(b, place{dir: b.TempDir(), socket: filepath.Join(b.TempDir(), "n.sock")}).uri)
	for i := range events / 100 {
		if err := store.Append(b.Context(), fmt.Sprintf("order-%d", i), 0, storetest.Events(100)); err != nil {
			b.Fatal(err)
		}
	}
	until := func(n event.Notice) bool { return !n.CaughtUp }
	for _, by := range []string{"client", "own"} {
		b.Run("by="+by, func(b *testing.B) {
			b.ReportAllocs()
			began := cputime.Used(b)
			for b.Loop() {
				if by == "client" {
					if err := store.ByClient(b.Context(), 0, nil, until); err != nil {
						b.Fatal(err)
					}
					continue
				}
				for n, err := range store.Follow(b.Context(), 0) {
					if err != nil {
						b.Fatal(err)
					}
					if !until(n) {
						break
					}
				}
			}
			b.ReportMetric(float64((cputime.Used(b)-began).Nanoseconds())/1000/float64(b.N*events), "cpu-µs/event")
		})
	}
}
