package esdbstore_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/emptypb"
	"pgregory.net/rapid"

	"cartwright/domain/event"
	"cartwright/infra/esdbnode"
	"cartwright/infra/esdbstore"
	"cartwright/infra/storetest"
)

// certain are the errors that say that nothing was appended.
var certain = []error{event.ErrConflict, event.ErrDeleted, event.ErrDenied, event.ErrTooLarge}

func unknown(err error) bool {
	return err != nil && !slices.ContainsFunc(certain, func(c error) bool { return errors.Is(err, c) })
}

// everywhere appends one event to each of n streams at once, at revision 0.
func everywhere(ctx context.Context, store *esdbstore.Store, events []event.Recorded) []error {
	errs := make([]error, len(events))
	var wg sync.WaitGroup
	for i := range events {
		wg.Go(func() { errs[i] = store.Append(ctx, fmt.Sprintf("s-%d", i), 0, events[i:i+1]) })
	}
	wg.Wait()
	return errs
}

// TestManyAppendsShareOneCall lets no answer through before all have been asked.
func TestManyAppendsShareOneCall(t *testing.T) {
	f := before(t)
	gate := make(chan struct{})
	f.gate = gate
	store := open(t, f.uri)
	const n = 300
	done := make(chan []error)
	go func() { done <- everywhere(t.Context(), store, storetest.Events(n)) }()
	f.await(t, n)
	close(gate)
	if err := errors.Join(<-done...); err != nil {
		t.Error(err)
	}
	if f.count("BatchAppend") != 1 || f.count("Append") != 0 {
		t.Errorf("%d shared calls and %d others", f.count("BatchAppend"), f.count("Append"))
	}
}

// TestAStoreThatOnlyReadsOpensNoCall also goes for one whose user may do no more.
func TestAStoreThatOnlyReadsOpensNoCall(t *testing.T) {
	f := before(t)
	store := open(t, f.uri)
	if err := last(store.All(t.Context(), 0)); err != nil {
		t.Error(err)
	}
	if f.count("BatchAppend") != 0 {
		t.Error("there is a call for appends")
	}
}

// TestABrokenCallLeavesOutcomesUnknownAndIsOpenedAgain breaks a call on which
// all appends are done and none is answered.
func TestABrokenCallLeavesOutcomesUnknownAndIsOpenedAgain(t *testing.T) {
	f := before(t)
	f.gate = make(chan struct{})
	store := open(t, f.uri)
	const n = 20
	events := storetest.Events(n)
	done := make(chan []error)
	go func() { done <- everywhere(t.Context(), store, events) }()
	f.await(t, n)
	f.set(func() { close(f.cut) })
	for i, err := range <-done {
		if !unknown(err) || !strings.Contains(err.Error(), errCut.Error()) {
			t.Errorf("append %d: %v", i, err)
		}
	}
	f.set(func() { f.gate = nil })
	appendUntilKnown(t, store, "s-0", events[:1])
	if err := errors.Join(everywhere(t.Context(), store, events)...); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if got := f.count("BatchAppend"); got != 2 {
		t.Errorf("%d calls", got)
	}
	for i := range n {
		seen := 0
		for e, err := range store.Load(t.Context(), fmt.Sprintf("s-%d", i), 0) {
			if err != nil || e.ID != events[i].ID {
				t.Errorf("stream %d: %v, %v", i, e.ID, err)
			}
			seen++
		}
		if seen != 1 {
			t.Errorf("stream %d has %d events", i, seen)
		}
	}
}

// appendUntilKnown repeats an append until there is an answer.
func appendUntilKnown(t *testing.T, store *esdbstore.Store, stream string, events []event.Recorded) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := store.Append(ctx, stream, 0, events)
		if err == nil {
			return
		}
		if !unknown(err) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// TestARefusedAppendLeavesItsNeighboursAlone has every kind of refusal among
// appends that are fine, all on one call.
func TestARefusedAppendLeavesItsNeighboursAlone(t *testing.T) {
	node, err := esdbnode.Open(esdbnode.Options{Dir: t.TempDir(), MaxAppend: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "n.sock"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- node.Serve(listener) }()
	defer func() {
		if failed := errors.Join(node.Close(context.Background()), <-served); failed != nil {
			t.Error(failed)
		}
	}()
	f := stand(t, "unix://"+listener.Addr().String())
	defer f.stop()
	store, err := esdbstore.Open(t.Context(), f.uri, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if failed := store.Close(); failed != nil {
			t.Error(failed)
		}
	}()
	if err = errors.Join(store.Append(t.Context(), "gone", 0, storetest.Events(1)), store.Tombstone(t.Context(), "gone")); err != nil {
		t.Fatal(err)
	}
	large := []event.Recorded{storetest.Event("big", `"`+strings.Repeat("x", 20_000)+`"`)}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 50 {
				stream := fmt.Sprintf("s-%d", w)
				for _, c := range []struct {
					err error
					of  error
				}{
					{store.Append(t.Context(), stream, event.Revision(i), storetest.Events(1)), nil},
					{store.Append(t.Context(), stream, event.Revision(i), storetest.Events(1)), event.ErrConflict},
					{store.Append(t.Context(), "gone", 0, storetest.Events(1)), event.ErrDeleted},
					{store.Append(t.Context(), "large", 0, large), event.ErrTooLarge},
					{store.Append(t.Context(), "$all", 0, storetest.Events(1)), event.ErrTooLarge},
				} {
					if !errors.Is(c.err, c.of) {
						t.Errorf("got %v, want %v", c.err, c.of)
					}
				}
			}
		})
	}
	wg.Wait()
	if f.count("BatchAppend") != 1 || f.count("Append") != 0 {
		t.Errorf("%d shared calls and %d others", f.count("BatchAppend"), f.count("Append"))
	}
}

// TestAnAppendThatIsGivenUpIsForgotten gives one up whose answer then comes, and
// one that was never sent.
func TestAnAppendThatIsGivenUpIsForgotten(t *testing.T) {
	f := before(t)
	gate := make(chan struct{})
	f.gate = gate
	store := open(t, f.uri)
	events := storetest.Events(3)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- store.Append(ctx, "s", 0, events[:1]) }()
	f.await(t, 1)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := store.Append(ctx, "s", 1, events[1:2]); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	go func() { done <- store.Append(t.Context(), "s", 1, events[2:]) }()
	f.await(t, 1)
	close(gate)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if f.count("BatchAppend") != 1 {
		t.Errorf("%d calls", f.count("BatchAppend"))
	}
}

// TestAppendsWaitNoLongerThanTheAddressSays has a caller with all the time in the world.
func TestAppendsWaitNoLongerThanTheAddressSays(t *testing.T) {
	f := before(t)
	f.gate = make(chan struct{})
	store := open(t, f.uri+"&defaultDeadline=300")
	if err := store.Append(t.Context(), "s", 0, storetest.Events(1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestCloseEndsAppendsInFlight(t *testing.T) {
	f := before(t)
	f.gate = make(chan struct{})
	store, err := esdbstore.Open(t.Context(), f.uri, nil)
	if err != nil {
		t.Fatal(err)
	}
	const n = 50
	done := make(chan []error)
	go func() { done <- everywhere(t.Context(), store, storetest.Events(n)) }()
	f.await(t, n)
	if err := store.Close(); err != nil {
		t.Error(err)
	}
	for i, err := range <-done {
		if !unknown(err) || !strings.Contains(err.Error(), "closed") {
			t.Errorf("append %d: %v", i, err)
		}
	}
}

// TestConformanceWithoutBatchAppend is TestConformance with a server that has no
// such call, or does not know what it has, or says so and is wrong.
func TestConformanceWithoutBatchAppend(t *testing.T) {
	refuse := func() (proto.Message, error) { return nil, status.Error(codes.Unimplemented, "no such service") }
	for name, arrange := range map[string]func(f *front){
		"it says so":        func(f *front) { f.answers["GetSupportedMethods"] = without },
		"it says nothing":   func(f *front) { f.answers["GetSupportedMethods"] = refuse },
		"it says otherwise": func(f *front) { f.answers["BatchAppend"] = refuse },
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Store {
				t.Helper()
				f := before(t)
				arrange(f)
				t.Cleanup(func() {
					if f.answers["BatchAppend"] == nil && f.count("BatchAppend") != 0 {
						t.Error("there is a call for appends")
					}
				})
				return open(t, f.uri)
			})
		})
	}
}

// TestAppendsTooLargeToShareGoAlone appends what is little by EventStoreDB's
// count, and much on the wire.
func TestAppendsTooLargeToShareGoAlone(t *testing.T) {
	f := before(t)
	store := open(t, f.uri)
	events := storetest.Events(13_000)
	if err := store.Append(t.Context(), "s", 0, events); err != nil {
		t.Fatal(err)
	}
	if f.count("BatchAppend") != 0 || f.count("Append") != 1 {
		t.Errorf("%d shared calls and %d others", f.count("BatchAppend"), f.count("Append"))
	}
	if err := store.Append(t.Context(), "s", 13_000, storetest.Events(1)); err != nil || f.count("BatchAppend") != 1 {
		t.Errorf("%v, and %d shared calls", err, f.count("BatchAppend"))
	}
}

// TestAServerThatDecidesNothingIsLeft keeps all answers back.
func TestAServerThatDecidesNothingIsLeft(t *testing.T) {
	f := before(t)
	f.gate = make(chan struct{})
	store := open(t, f.uri)
	store.LoseSilence(50 * time.Millisecond)
	events := storetest.Events(1)
	if err := store.Append(t.Context(), "s", 0, events); !unknown(err) || !strings.Contains(err.Error(), "decides none") {
		t.Errorf("got %v", err)
	}
	f.set(func() { f.gate = nil })
	appendUntilKnown(t, store, "s", events)
}

// TestOnlyAnswersThatProveItSayThatNothingWasAppended has a server that says one
// thing to everybody, with codes that would mislead who looks at them.
func TestOnlyAnswersThatProveItSayThatNothingWasAppended(t *testing.T) {
	for name, c := range map[string]struct {
		detail protoadapt.MessageV1
		want   error // nil for what proves nothing
	}{
		"a conflict":          {&shared.WrongExpectedVersion{CurrentStreamRevisionOption: &shared.WrongExpectedVersion_CurrentStreamRevision{CurrentStreamRevision: 4}}, event.ErrConflict},
		"a conflict, no such": {&shared.WrongExpectedVersion{}, event.ErrConflict},
		"a tombstone":         {&shared.StreamDeleted{}, event.ErrDeleted},
		"a missing right":     {&shared.AccessDenied{}, event.ErrDenied},
		"too large":           {&shared.MaximumAppendSizeExceeded{MaxAppendSize: 5}, event.ErrTooLarge},
		"nonsense":            {&shared.BadRequest{Message: "no"}, event.ErrTooLarge},
		"too late":            {&shared.Timeout{}, nil},
		"something":           {&shared.Unknown{}, nil},
		"busy":                {&emptypb.Empty{}, nil},
		"nothing":             {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := before(t)
			s := status.New(codes.AlreadyExists, "WrongExpectedVersion")
			if c.detail != nil {
				var err error
				if s, err = s.WithDetails(c.detail); err != nil {
					t.Fatal(err)
				}
			}
			f.batch = func(call grpc.ServerStream) error { return sayToAll(call, s) }
			err := open(t, f.uri).Append(t.Context(), "s", 0, storetest.Events(1))
			if c.want == nil && !unknown(err) || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// sayToAll answers every append, and before it one that nobody has asked about.
func sayToAll(call grpc.ServerStream, s *status.Status) error {
	for {
		var b []byte
		if err := call.RecvMsg(&b); err != nil {
			return nil //nolint:nilerr // there is no more to answer
		}
		req := &streams.BatchAppendReq{}
		if err := proto.Unmarshal(b, req); err != nil {
			return err
		}
		for _, id := range []*shared.UUID{{Value: &shared.UUID_String_{String_: uuid.NewString()}}, req.GetCorrelationId()} {
			answer, err := proto.Marshal(&streams.BatchAppendResp{
				CorrelationId: id, StreamIdentifier: req.GetOptions().GetStreamIdentifier(), Result: &streams.BatchAppendResp_Error{Error: s.Proto()},
			})
			if err != nil {
				return err
			}
			if err := call.SendMsg(&answer); err != nil {
				return err
			}
		}
	}
}

// TestRequestsAreWhatTheGeneratedTypesRead compares what is written by hand.
func TestRequestsAreWhatTheGeneratedTypesRead(t *testing.T) {
	f := before(t)
	store := open(t, f.uri)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		stream := fmt.Sprintf("s-%d-%s", n, rapid.StringMatching(`[a-zé]{0,200}`).Draw(rt, "stream"))
		want := &streams.BatchAppendReq{
			IsFinal: true,
			Options: &streams.BatchAppendReq_Options{
				StreamIdentifier:       &shared.StreamIdentifier{StreamName: []byte(stream)},
				ExpectedStreamPosition: &streams.BatchAppendReq_Options_NoStream{NoStream: &emptypb.Empty{}},
			},
		}
		after := event.Revision(rapid.Uint64Range(0, 1<<40).Draw(rt, "after"))
		if after > 0 {
			want.Options.ExpectedStreamPosition = &streams.BatchAppendReq_Options_StreamPosition{StreamPosition: uint64(after) - 1}
		}
		events := storetest.Events(rapid.IntRange(1, 5).Draw(rt, "events"))
		for i := range events {
			e := &events[i]
			e.Name, e.Version, e.At = rapid.StringMatching(`[a-z.]{1,200}`).Draw(rt, "name"), 2, time.Time{}
			e.Data = []byte(strconv.Quote(rapid.StringMatching(`[a-z]{0,300}`).Draw(rt, "data")))
			want.ProposedMessages = append(want.ProposedMessages, &streams.BatchAppendReq_ProposedMessage{
				Id: structured(uuid.MustParse(e.ID)), Data: e.Data, CustomMetadata: []byte(`{"version":2}`),
				Metadata: map[string]string{"type": e.Name, "content-type": "application/json"},
			})
		}
		if err := store.Append(t.Context(), stream, after, events); err != nil && !errors.Is(err, event.ErrConflict) {
			rt.Fatal(err)
		}
		f.await(t, 1)
		f.mu.Lock()
		got := f.asked[n-1]
		f.mu.Unlock()
		if got.GetCorrelationId().GetStructured().GetLeastSignificantBits() != int64(n) {
			rt.Errorf("correlation %v of append %d", got.GetCorrelationId(), n)
		}
		got.CorrelationId = nil
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			rt.Fatal(diff)
		}
	})
}

func structured(id uuid.UUID) *shared.UUID {
	var high, low uint64
	for i := range 8 {
		high, low = high<<8|uint64(id[i]), low<<8|uint64(id[8+i])
	}
	return &shared.UUID{Value: &shared.UUID_Structured_{Structured: &shared.UUID_Structured{
		MostSignificantBits: int64(high), LeastSignificantBits: int64(low),
	}}}
}

// members tells of a cluster; the one with the number leads, if any does.
func members(leader int, addresses ...string) func() (proto.Message, error) {
	info := &gossip.ClusterInfo{}
	for i, address := range addresses {
		host, port, _ := net.SplitHostPort(address)
		n, _ := strconv.Atoi(port)
		state := gossip.MemberInfo_Follower
		if i == leader {
			state = gossip.MemberInfo_Leader
		}
		info.Members = append(info.Members, &gossip.MemberInfo{
			State: state, IsAlive: true, HttpEndPoint: &gossip.EndPoint{Address: host, Port: uint32(n)},
		})
	}
	return func() (proto.Message, error) { return info, nil }
}

// TestAppendsGoToTheLeader lets two nodes pass for a cluster, of which the other
// one leads after a while. They share nothing, so what they are asked shows who
// was taken for the leader.
func TestAppendsGoToTheLeader(t *testing.T) {
	one, other, seed := before(t), before(t), before(t)
	seed.answers["Gossip"] = members(0, one.address, other.address)
	store := open(t, "esdb+discover://"+nobody(t)+","+seed.address+"?tls=false&gossipTimeout=2&nodePreference=follower")
	if err := store.Append(t.Context(), "s", 0, storetest.Events(1)); err != nil {
		t.Fatal(err)
	}
	if one.count("BatchAppend") != 1 || other.count("BatchAppend") != 0 {
		t.Fatalf("%d and %d calls", one.count("BatchAppend"), other.count("BatchAppend"))
	}
	seed.set(func() { seed.answers["Gossip"] = members(-1, one.address, other.address) })
	one.stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for err := error(nil); err == nil || !strings.Contains(err.Error(), "no leader"); {
		if err = store.Append(ctx, "s", 1, storetest.Events(1)); err == nil || ctx.Err() != nil {
			t.Fatalf("without a leader: %v", err)
		}
	}
	seed.set(func() { seed.answers["Gossip"] = members(1, one.address, other.address) })
	appendUntilKnown(t, store, "s", storetest.Events(1))
	if other.count("BatchAppend") != 1 {
		t.Errorf("%d calls", other.count("BatchAppend"))
	}
}

// TestANodeThatDoesNotLeadSaysWhoDoes ends the call as such a node does.
func TestANodeThatDoesNotLeadSaysWhoDoes(t *testing.T) {
	follower, leader := before(t), before(t)
	asked := make(chan []string, 1)
	follower.batch = func(call grpc.ServerStream) error {
		asked <- metadata.ValueFromIncomingContext(call.Context(), "requires-leader")
		host, port, _ := net.SplitHostPort(leader.address)
		call.SetTrailer(metadata.Pairs("exception", "not-leader", "leader-endpoint-host", host, "leader-endpoint-port", port))
		return status.Error(codes.NotFound, "leader info available")
	}
	store := open(t, follower.uri)
	events := storetest.Events(1)
	if err := store.Append(t.Context(), "s", 0, events); !unknown(err) {
		t.Errorf("got %v", err)
	}
	if got := <-asked; !slices.Equal(got, []string{"true"}) {
		t.Errorf("requires-leader is %q", got)
	}
	appendUntilKnown(t, store, "s", events)
	if follower.count("BatchAppend") != 1 || leader.count("BatchAppend") != 1 {
		t.Errorf("%d and %d calls", follower.count("BatchAppend"), leader.count("BatchAppend"))
	}
}
