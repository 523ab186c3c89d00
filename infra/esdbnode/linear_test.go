package esdbnode_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/anishathalye/porcupine"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"cartwright/infra/esdbnode"
)

// A question is a call about one stream, and a verdict with what comes with it
// is its answer. Events are known by numbers, of four bytes each in ids, so that
// both may be compared.
type question struct {
	stream string
	what   what
	expect string // "any", "exists", "none", or the revision in exact
	exact  uint64
	ids    string

	from      uint64
	limit     int
	backwards bool

	// forgetful is set where the node may have been opened anew since these ids
	// were sent first, and so may not know a repeat that names no revision.
	forgetful bool
}

type what string

const (
	doAppend    what = "append"
	doDelete    what = "delete"
	doTombstone what = "tombstone"
	doRead      what = "read"
)

type reply struct {
	verdict  string // "ok", "wrong version", "deleted", "not found"; "" if nobody knows
	revision uint64 // after an append
	first    uint64 // number of the first event read
	ids      string // in the order of their numbers, also where they were read backwards
}

// A model is what a stream may be.
type model struct {
	ids    string
	before uint64 // $tb
	soft   bool
	ended  bool
}

func (m model) events() uint64 { return uint64(len(m.ids) / 4) }

func (m model) id(number uint64) string { return m.ids[4*number : 4*number+4] }

// ask is the node as it should be. remembers says whether it knows the ids of
// old events.
func (m model) ask(q question, remembers bool) (model, reply) {
	if q.what == doRead {
		return m, m.read(q)
	}
	switch {
	case m.ended, q.expect == "exists" && m.soft:
		return m, reply{verdict: "deleted"}
	case m.ids == "" && (q.expect == "exists" || q.what == doDelete):
		return m, reply{verdict: "wrong version"}
	}
	verdict, revision := m.check(q, remembers)
	if verdict != "" {
		return m, reply{verdict: verdict, revision: revision}
	}
	switch q.what {
	case doDelete:
		m.soft = true
	case doTombstone:
		m.ended = true
	default:
		if m.soft {
			m.soft, m.before = false, m.events()
		}
		m.ids += q.ids
		return m, reply{verdict: "ok", revision: m.events() - 1}
	}
	return m, reply{verdict: "ok"}
}

// check gives no verdict on what is to be done.
func (m model) check(q question, remembers bool) (verdict string, revision uint64) {
	loose := q.expect == "any" || q.expect == "exists"
	next := uint64(0)
	if q.expect == "exact" {
		next = q.exact + 1
	}
	switch {
	case loose && (q.what != doAppend || !remembers), !loose && next == m.events():
		return "", 0
	case !loose && next > m.events():
		return "wrong version", 0
	}
	for at := 0; at < len(q.ids); at += 4 {
		number, ok := next, next < m.events() && m.id(min(next, m.events()-1)) == q.ids[at:at+4]
		if loose {
			number, ok = m.last(q.ids[at : at+4])
		}
		switch {
		case ok:
			revision = number
		case at > 0:
			return "wrong version", 0
		case loose, q.expect == "none" && m.soft:
			return "", 0
		default:
			return "wrong version", 0
		}
		next++
	}
	if q.what != doAppend {
		if q.expect == "none" && m.soft {
			return "", 0
		}
		return "wrong version", 0
	}
	return "ok", revision
}

// last finds the last event with this id.
func (m model) last(id string) (number uint64, ok bool) {
	for n := m.events(); n > 0; n-- {
		if m.id(n-1) == id {
			return n - 1, true
		}
	}
	return 0, false
}

func (m model) read(q question) reply {
	switch {
	case m.ended:
		return reply{verdict: "deleted"}
	case m.ids == "" || m.soft:
		return reply{verdict: "not found"}
	}
	from, to := max(q.from, m.before), m.events()
	if q.backwards {
		from, to = m.before, min(q.from, m.events()-1)+1
		if n := uint64(q.limit); to > from && to-from > n {
			from = to - n
		}
	} else {
		to = min(to, from+uint64(q.limit))
	}
	if from >= to {
		return reply{verdict: "ok"}
	}
	return reply{verdict: "ok", first: from, ids: m.ids[4*from : 4*to]}
}

// streamModel is model as porcupine takes it, one history a stream.
func streamModel() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init:  func() []any { return []any{model{}} },
		Equal: func(a, b any) bool { return a == b },
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			by := map[string][]porcupine.Operation{}
			for _, op := range history {
				stream := op.Input.(question).stream
				by[stream] = append(by[stream], op)
			}
			var all [][]porcupine.Operation
			for _, ops := range by {
				all = append(all, ops)
			}
			return all
		},
		Step: func(state, input, output any) (next []any) {
			was, q, got := state.(model), input.(question), output.(reply)
			minds := []bool{true}
			if q.forgetful {
				minds = []bool{true, false}
			}
			for _, remembers := range minds {
				now, want := was.ask(q, remembers)
				if got.verdict == "" {
					next = append(next, was, now)
				} else if got == want {
					next = append(next, now)
				}
			}
			return next
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %+v", input, output) },
	}
	return m.ToModel()
}

// A logged is an event as a read of $all shows it.
type logged struct {
	position, number uint64
	stream, id       string
}

// A sighting is one read of all of $all.
type sighting struct {
	call, end int64
	events    []logged
}

// A history is what clients were told, and when.
type history struct {
	mu        sync.Mutex
	asked     []porcupine.Operation
	sightings []sighting
	positions map[int]uint64 // of appends in asked that were answered with one
}

// check says what of a history cannot have been.
func (h *history) check() error {
	result, info := porcupine.CheckOperationsVerbose(streamModel(), h.asked, time.Minute)
	if result != porcupine.Ok {
		return fmt.Errorf("streams are not linearizable: %s%s", result, h.stuck(info))
	}
	return h.checkOrder()
}

// stuck shows of each stream that has operations without a place the first of
// them, and what they were among.
func (h *history) stuck(info porcupine.LinearizationInfo) string {
	var out strings.Builder
	for _, partials := range info.PartialLinearizationsOperations() {
		if len(partials) == 0 {
			continue // it was not looked at: another stream had failed by then
		}
		longest := slices.MaxFunc(partials, func(a, b []porcupine.Operation) int { return cmp.Compare(len(a), len(b)) })
		placed := map[porcupine.Operation]bool{}
		for _, op := range longest {
			placed[op] = true
		}
		if len(longest) == 0 {
			continue
		}
		stream := longest[0].Input.(question).stream
		var around []porcupine.Operation
		for _, op := range h.asked {
			if op.Input.(question).stream == stream {
				around = append(around, op)
			}
		}
		slices.SortFunc(around, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
		at := slices.IndexFunc(around, func(op porcupine.Operation) bool { return !placed[op] })
		if at < 0 || around[at].Return == math.MaxInt64 {
			continue
		}
		for i, op := range around[max(0, at-12):min(len(around), at+8)] {
			fmt.Fprintf(&out, "\n%d %v %d..%d %q: %q", i, placed[op], op.Call, op.Return, op.Input, op.Output)
		}
	}
	return out.String()
}

// checkOrder holds reads of $all against each other and against what was answered.
// Its last sighting is the whole log.
func (h *history) checkOrder() error {
	order := h.sightings[len(h.sightings)-1].events
	numbers, places := map[string]uint64{}, map[string][]uint64{}
	for i, e := range order {
		if i > 0 && e.position <= order[i-1].position {
			return fmt.Errorf("position %d comes behind %d", e.position, order[i-1].position)
		}
		if e.number == math.MaxInt64 {
			continue // a tombstone
		}
		if e.number != numbers[e.stream] {
			return fmt.Errorf("%s has number %d where %d is next", e.stream, e.number, numbers[e.stream])
		}
		numbers[e.stream]++
		if !strings.HasPrefix(e.stream, "$$") {
			places[e.id] = append(places[e.id], e.position)
		}
	}
	return errors.Join(h.checkSightings(order), h.checkPositions(places))
}

// asks gives when each event was first asked for.
func (h *history) asks() map[string]int64 {
	asked := map[string]int64{}
	for _, op := range h.asked {
		for id := range slices.Chunk([]byte(op.Input.(question).ids), 4) {
			if was, ok := asked[string(id)]; !ok || op.Call < was {
				asked[string(id)] = op.Call
			}
		}
	}
	return asked
}

// checkSightings: each read shows a beginning of the log, with all that was
// answered before it began and nothing that was asked after it ended.
func (h *history) checkSightings(order []logged) error {
	asked := h.asks()
	for _, s := range h.sightings {
		n := len(s.events)
		if n > len(order) || !slices.Equal(s.events, order[:n]) {
			return fmt.Errorf("a read of $all with %d events is no beginning of the log", n)
		}
		end := uint64(0)
		if n > 0 {
			end = s.events[n-1].position
		}
		for i, at := range h.positions {
			if at > end && h.asked[i].Return < s.call {
				return fmt.Errorf("position %d was answered before a read of $all that ends at %d", at, end)
			}
		}
		for _, e := range s.events {
			if when, ok := asked[e.id]; ok && when > s.end && !strings.HasPrefix(e.stream, "$$") {
				return fmt.Errorf("position %d was read before it was asked for", e.position)
			}
		}
	}
	return nil
}

// checkPositions: what was answered is where it was said to be, and what was
// asked for after an answer lies behind it.
func (h *history) checkPositions(places map[string][]uint64) error {
	asked := h.asks()
	for i, at := range h.positions {
		ids := h.asked[i].Input.(question).ids
		for left := uint64(len(ids) / 4); left > 0; left-- {
			id := ids[uint64(len(ids))-4*left:][:4]
			if !slices.Contains(places[id], at-left+1) {
				return fmt.Errorf("event %x was answered to be at %d, and is at %v", id, at-left+1, places[id])
			}
		}
		for j, later := range h.positions {
			if h.asked[i].Return < asked[h.asked[j].Input.(question).ids[:4]] && at >= later {
				return fmt.Errorf("position %d was asked for after %d was answered", later, at)
			}
		}
	}
	return nil
}

// A shopper is one client of a history.
type shopper struct {
	t       *testing.T
	h       *history
	rng     *rand.Rand
	stub    streams.StreamsClient
	began   time.Time
	epoch   *atomic.Int64
	ids     *atomic.Uint32
	streams []string
	known   map[string]uint64 // the revision last heard of
	sent    []sent
}

type sent struct {
	q     question
	epoch int64
}

func (s *shopper) now() int64 { return int64(time.Since(s.began)) }

// step does one thing at random.
func (s *shopper) step() {
	q := question{stream: s.streams[s.rng.IntN(len(s.streams))]}
	first := s.epoch.Load()
	switch n := s.rng.IntN(100); {
	case n < 45:
		q.what, q.ids = doAppend, s.fresh(1+s.rng.IntN(3))
		s.expect(&q)
		s.sent = append(s.sent, sent{q, first})
	case n < 60 && len(s.sent) > 0: // the same again, or the same and more
		old := s.sent[len(s.sent)-1-s.rng.IntN(min(len(s.sent), 8))]
		q, first = old.q, old.epoch
		if s.rng.IntN(6) == 0 {
			q.ids += s.fresh(1)
		}
	case n < 64:
		q.what = doDelete
		s.expect(&q)
	case n < 66 && s.rng.IntN(8) == 0:
		q.what = doTombstone
		s.expect(&q)
	case n < 69:
		s.sight(s.rng.IntN(2) == 0)
		return
	default:
		q.what, q.limit, q.backwards = doRead, 1+s.rng.IntN(1000), s.rng.IntN(2) == 0
		if q.backwards {
			q.from = math.MaxInt64
		}
		if s.rng.IntN(3) == 0 {
			q.from = uint64(s.rng.IntN(20))
		}
	}
	s.ask(q, first)
}

func (s *shopper) fresh(n int) string {
	var ids []byte
	for range n {
		ids = binary.BigEndian.AppendUint32(ids, s.ids.Add(1))
	}
	return string(ids)
}

func (s *shopper) expect(q *question) {
	revision, known := s.known[q.stream]
	switch n := s.rng.IntN(20); {
	case n < 5:
		q.expect = "any"
	case n < 7:
		q.expect = "exists"
	case n < 9 || !known:
		q.expect = "none"
	default:
		q.expect, q.exact = "exact", revision
		if n == 19 {
			q.exact += uint64(s.rng.IntN(3))
		}
	}
}

// ask puts a question and writes down the answer. One in fifty has no patience.
func (s *shopper) ask(q question, first int64) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if s.rng.IntN(50) == 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(s.rng.IntN(1500))*time.Microsecond)
		defer cancel()
	}
	call := s.now()
	got, position, err := s.put(ctx, q)
	end := s.now()
	switch status.Code(err) {
	case codes.OK:
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable:
		if q.what == doRead {
			return
		}
		got, end = reply{}, math.MaxInt64
	default:
		s.t.Errorf("%+v: %v", q, err)
		return
	}
	q.forgetful = first != s.epoch.Load()
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if got.verdict == "ok" && q.what == doAppend {
		s.known[q.stream] = got.revision
		s.h.positions[len(s.h.asked)] = position
	} else if got.ids != "" {
		s.known[q.stream] = got.first + uint64(len(got.ids)/4) - 1
	}
	s.h.asked = append(s.h.asked, porcupine.Operation{Input: q, Output: got, Call: call, Return: end})
}

func (s *shopper) put(ctx context.Context, q question) (got reply, position uint64, err error) {
	switch q.what {
	case doAppend:
		return s.append(ctx, q)
	case doRead:
		got, err = s.read(ctx, q)
		return got, 0, err
	case doDelete:
		o := &streams.DeleteReq_Options{StreamIdentifier: named(q.stream)}
		switch q.expect {
		case "any":
			o.ExpectedStreamRevision = &streams.DeleteReq_Options_Any{Any: &shared.Empty{}}
		case "exists":
			o.ExpectedStreamRevision = &streams.DeleteReq_Options_StreamExists{StreamExists: &shared.Empty{}}
		case "none":
			o.ExpectedStreamRevision = &streams.DeleteReq_Options_NoStream{NoStream: &shared.Empty{}}
		default:
			o.ExpectedStreamRevision = &streams.DeleteReq_Options_Revision{Revision: q.exact}
		}
		return removed(func(trailer *metadata.MD) error {
			_, err := s.stub.Delete(ctx, &streams.DeleteReq{Options: o}, grpc.WaitForReady(true), grpc.Trailer(trailer))
			return err
		})
	default:
		o := &streams.TombstoneReq_Options{StreamIdentifier: named(q.stream)}
		switch q.expect {
		case "any":
			o.ExpectedStreamRevision = &streams.TombstoneReq_Options_Any{Any: &shared.Empty{}}
		case "exists":
			o.ExpectedStreamRevision = &streams.TombstoneReq_Options_StreamExists{StreamExists: &shared.Empty{}}
		case "none":
			o.ExpectedStreamRevision = &streams.TombstoneReq_Options_NoStream{NoStream: &shared.Empty{}}
		default:
			o.ExpectedStreamRevision = &streams.TombstoneReq_Options_Revision{Revision: q.exact}
		}
		return removed(func(trailer *metadata.MD) error {
			_, err := s.stub.Tombstone(ctx, &streams.TombstoneReq{Options: o}, grpc.WaitForReady(true), grpc.Trailer(trailer))
			return err
		})
	}
}

func removed(call func(*metadata.MD) error) (reply, uint64, error) {
	var trailer metadata.MD
	verdict, err := told(call(&trailer), trailer)
	return reply{verdict: verdict}, 0, err
}

// told takes an error for an answer where it is one.
func told(err error, trailer metadata.MD) (verdict string, rest error) {
	switch {
	case err == nil:
		return "ok", nil
	case first(trailer, "exception") == "stream-deleted":
		return "deleted", nil
	case first(trailer, "exception") == "wrong-expected-version":
		return "wrong version", nil
	}
	return "", err
}

func (s *shopper) append(ctx context.Context, q question) (got reply, position uint64, err error) {
	var trailer metadata.MD
	call, err := s.stub.Append(ctx, grpc.WaitForReady(true), grpc.Trailer(&trailer))
	if err != nil {
		return reply{}, 0, err
	}
	o := &streams.AppendReq_Options{StreamIdentifier: named(q.stream)}
	switch q.expect {
	case "any":
		o.ExpectedStreamRevision = &streams.AppendReq_Options_Any{Any: &shared.Empty{}}
	case "exists":
		o.ExpectedStreamRevision = &streams.AppendReq_Options_StreamExists{StreamExists: &shared.Empty{}}
	case "none":
		o.ExpectedStreamRevision = &streams.AppendReq_Options_NoStream{NoStream: &shared.Empty{}}
	default:
		o.ExpectedStreamRevision = &streams.AppendReq_Options_Revision{Revision: q.exact}
	}
	err = call.Send(&streams.AppendReq{Content: &streams.AppendReq_Options_{Options: o}})
	for at := 0; at < len(q.ids) && err == nil; at += 4 {
		m := proposed(map[string]string{"type": "x", "content-type": "application/json"}, "{}")
		m.GetProposedMessage().Id = &shared.UUID{Value: &shared.UUID_Structured_{Structured: &shared.UUID_Structured{
			MostSignificantBits: 1, LeastSignificantBits: int64(binary.BigEndian.Uint32([]byte(q.ids[at:]))),
		}}}
		err = call.Send(m)
	}
	res, err := call.CloseAndRecv() // it tells what a failed Send does not
	verdict, err := told(err, trailer)
	switch {
	case err != nil || verdict != "ok":
		return reply{verdict: verdict}, 0, err
	case res.GetWrongExpectedVersion() != nil:
		return reply{verdict: "wrong version"}, 0, nil
	}
	return reply{verdict: "ok", revision: res.GetSuccess().GetCurrentRevision()}, res.GetSuccess().GetPosition().GetCommitPosition(), nil
}

func (s *shopper) read(ctx context.Context, q question) (got reply, err error) {
	o := &streams.ReadReq_Options{
		StreamOption: &streams.ReadReq_Options_Stream{Stream: &streams.ReadReq_Options_StreamOptions{
			StreamIdentifier: named(q.stream), RevisionOption: &streams.ReadReq_Options_StreamOptions_Revision{Revision: q.from},
		}},
		CountOption: &streams.ReadReq_Options_Count{Count: uint64(q.limit)},
	}
	if q.backwards {
		o.ReadDirection = streams.ReadReq_Options_Backwards
	}
	events, found, err := s.take(ctx, o)
	switch {
	case err != nil:
		return reply{}, err
	case !found:
		return reply{verdict: "not found"}, nil
	case events == nil:
		return reply{verdict: "deleted"}, nil
	case len(events) == 0:
		return reply{verdict: "ok"}, nil
	}
	if q.backwards {
		slices.Reverse(events)
	}
	got = reply{verdict: "ok", first: events[0].number}
	for i, e := range events {
		if e.number != got.first+uint64(i) || e.stream != q.stream {
			s.t.Errorf("%+v: event %d of %s where %d is next", q, e.number, e.stream, got.first+uint64(i))
		}
		got.ids += e.id
	}
	return got, nil
}

// take reads to the end. It gives nil for a stream that has ended.
func (s *shopper) take(ctx context.Context, o *streams.ReadReq_Options) (events []logged, found bool, err error) {
	var trailer metadata.MD
	call, err := s.stub.Read(ctx, &streams.ReadReq{Options: o}, grpc.WaitForReady(true), grpc.Trailer(&trailer))
	if err != nil {
		return nil, false, err
	}
	events = []logged{}
	for {
		m, err := call.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return events, true, nil
		case err != nil:
			verdict, rest := told(err, trailer)
			if verdict == "deleted" {
				return nil, true, nil
			}
			return nil, true, rest
		case m.GetStreamNotFound() != nil:
			return nil, false, nil
		}
		e := m.GetEvent().GetEvent()
		id := binary.BigEndian.AppendUint32(nil, uint32(e.GetId().GetStructured().GetLeastSignificantBits()))
		events = append(events, logged{m.GetEvent().GetCommitPosition(), e.GetStreamRevision(), string(e.GetStreamIdentifier().GetStreamName()), string(id)})
	}
}

// sight reads all of $all and writes down when.
func (s *shopper) sight(backwards bool) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	all := &streams.ReadReq_Options_AllOptions{AllOption: &streams.ReadReq_Options_AllOptions_Start{Start: &shared.Empty{}}}
	o := &streams.ReadReq_Options{StreamOption: &streams.ReadReq_Options_All{All: all}, CountOption: &streams.ReadReq_Options_Count{Count: math.MaxInt64}}
	if backwards {
		o.ReadDirection, all.AllOption = streams.ReadReq_Options_Backwards, &streams.ReadReq_Options_AllOptions_End{End: &shared.Empty{}}
	}
	call := s.now()
	events, _, err := s.take(ctx, o)
	end := s.now()
	if err != nil {
		if c := status.Code(err); c != codes.Canceled && c != codes.Unavailable {
			s.t.Errorf("read $all: %v", err)
		}
		return
	}
	if backwards {
		slices.Reverse(events)
	}
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.h.sightings = append(s.h.sightings, sighting{call, end, events})
}

// A bazaar is a node at one address that is closed and opened again while its
// clients go on.
type bazaar struct {
	t           *testing.T
	dir, socket string
	node        *esdbnode.Node
	served      chan error
}

func (b *bazaar) open() {
	b.t.Helper()
	var err error
	if b.node, err = esdbnode.Open(esdbnode.Options{Dir: b.dir, TailEvents: 64}); err != nil {
		b.t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(b.t.Context(), "unix", b.socket)
	if err != nil {
		b.t.Fatal(err)
	}
	b.served = make(chan error, 1)
	go func() { b.served <- b.node.Serve(listener) }()
}

// close gives those who are being served no time to finish.
func (b *bazaar) close() {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := errors.Join(b.node.Close(ctx), <-b.served); err != nil {
		b.t.Error(err)
	}
}

// record lets clients loose on a node, which is opened anew meanwhile, and gives
// what they were told. In the end all is read once more, when nobody writes.
func record(t *testing.T, seed uint64, clients, steps, restarts int) *history {
	t.Helper()
	b := &bazaar{t: t, dir: t.TempDir(), socket: filepath.Join(t.TempDir(), "n.sock")}
	b.open()
	h := &history{positions: map[int]uint64{}}
	var epoch atomic.Int64
	var ids atomic.Uint32
	began := time.Now()
	shopper := func(n int) *shopper {
		conn, err := grpc.NewClient("unix://"+b.socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return &shopper{
			t: t, h: h, rng: rand.New(rand.NewPCG(seed, uint64(n))), stub: streams.NewStreamsClient(conn), began: began,
			epoch: &epoch, ids: &ids, streams: []string{"a-1", "a-2", "b", "订单"}, known: map[string]uint64{},
		}
	}
	done := make(chan struct{}, clients*steps)
	var wg sync.WaitGroup
	for n := range clients {
		s := shopper(n)
		wg.Go(func() {
			for range steps {
				s.step()
				done <- struct{}{}
			}
		})
	}
	for range restarts {
		for range clients * steps / (restarts + 1) {
			<-done
		}
		epoch.Add(1) // from here on an answer may come from the next node,
		b.close()
		epoch.Add(1) // and to here a question may have gone to this one
		b.open()
	}
	wg.Wait()
	last := shopper(clients)
	for _, stream := range last.streams {
		last.ask(question{stream: stream, what: doRead, limit: math.MaxInt32}, epoch.Load())
	}
	last.sight(false)
	b.close()
	return h
}

// TestTheNodeIsLinearizable has clients append, delete, repeat themselves and
// read all at once, through restarts and lost patience, and asks whether what
// they were told can be told of a node that does one thing at a time.
func TestTheNodeIsLinearizable(t *testing.T) {
	rounds, clients, steps := 3, 6, 130
	if os.Getenv("CARTWRIGHT_SOAK") != "" {
		rounds, clients, steps = 300, 8, 250
	}
	for round := range rounds {
		seed := rand.Uint64()
		h := record(t, seed, clients, steps, round%3)
		if err := h.check(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		verdicts := map[string]int{}
		for _, op := range h.asked {
			verdicts[string(op.Input.(question).what)+" "+op.Output.(reply).verdict]++
		}
		t.Logf("seed %d: %v, %d reads of $all", seed, verdicts, len(h.sightings))
	}
}

// TestAHistoryThatCannotBeIsFound changes a history in every way it should not
// be, and expects the checks to see it: else they would prove nothing.
func TestAHistoryThatCannotBeIsFound(t *testing.T) {
	id := func(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
	good := func() *history {
		h := &history{positions: map[int]uint64{}}
		now := int64(0)
		tell := func(q question, r reply, position uint64) {
			q.stream = "s"
			if position > 0 {
				h.positions[len(h.asked)] = position
			}
			h.asked = append(h.asked, porcupine.Operation{Input: q, Output: r, Call: now, Return: now + 5})
			now += 10
		}
		all := question{what: doRead, limit: 100}
		tell(question{what: doAppend, expect: "none", ids: id(1)}, reply{verdict: "ok"}, 1)
		tell(question{what: doAppend, expect: "exact", ids: id(2) + id(3)}, reply{verdict: "ok", revision: 2}, 3)
		tell(all, reply{verdict: "ok", ids: id(1) + id(2) + id(3)}, 0)
		tell(question{what: doAppend, expect: "exact", ids: id(4)}, reply{verdict: "wrong version"}, 0)
		tell(question{what: doAppend, expect: "any", ids: id(5)}, reply{verdict: "ok", revision: 3}, 4)
		tell(question{what: doAppend, expect: "any", ids: id(5)}, reply{verdict: "ok", revision: 3}, 4)
		tell(question{what: doAppend, expect: "exact", exact: 3, ids: id(6)}, reply{verdict: "ok", revision: 4}, 5)
		tell(all, reply{verdict: "ok", ids: id(1) + id(2) + id(3) + id(5) + id(6)}, 0)
		log := []logged{{1, 0, "s", id(1)}, {2, 1, "s", id(2)}, {3, 2, "s", id(3)}, {4, 3, "s", id(5)}, {5, 4, "s", id(6)}}
		h.sightings = []sighting{{call: 20, end: 25, events: log[:3:3]}, {call: now, end: now + 5, events: slices.Clone(log)}}
		return h
	}
	if err := good().check(); err != nil {
		t.Fatalf("as it should be: %v", err)
	}
	answer := func(h *history, n int, change func(*reply)) {
		r := h.asked[n].Output.(reply)
		change(&r)
		h.asked[n].Output = r
	}
	for name, spoil := range map[string]func(h *history){
		"an append was lost":              func(h *history) { answer(h, 7, func(r *reply) { r.ids = r.ids[:16] }) },
		"an append was lost before it":    func(h *history) { answer(h, 7, func(r *reply) { r.ids = r.ids[:8] + r.ids[12:] }) },
		"half an append was seen":         func(h *history) { answer(h, 2, func(r *reply) { r.ids = r.ids[:8] }) },
		"an append was doubled":           func(h *history) { answer(h, 7, func(r *reply) { r.ids += id(6) }) },
		"a repeat was done again":         func(h *history) { answer(h, 5, func(r *reply) { r.revision = 4 }) },
		"a read was stale":                func(h *history) { h.asked[7].Output = h.asked[2].Output },
		"a read was ahead of its time":    func(h *history) { h.asked[2].Output = h.asked[7].Output },
		"a wrong version was accepted":    func(h *history) { answer(h, 3, func(r *reply) { r.verdict, r.revision = "ok", 1 }) },
		"a right version was refused":     func(h *history) { answer(h, 6, func(r *reply) { *r = reply{verdict: "wrong version"} }) },
		"what was refused was done":       func(h *history) { answer(h, 7, func(r *reply) { r.ids = r.ids[:12] + id(4) + r.ids[12:] }) },
		"a number was given twice":        func(h *history) { answer(h, 6, func(r *reply) { r.revision = 3 }) },
		"a stream was gone":               func(h *history) { h.asked[7].Output = reply{verdict: "not found"} },
		"what nobody answered came later": func(h *history) { h.asked[0].Output, h.asked[0].Return, h.asked[0].Call = reply{}, math.MaxInt64, 45 },

		"$all lacks an event":           func(h *history) { s := &h.sightings[0]; s.events = s.events[:2] },
		"$all has another order":        func(h *history) { s := h.sightings[0].events; s[0].id, s[1].id = s[1].id, s[0].id },
		"$all goes back":                func(h *history) { h.sightings[1].events[4].position = 3 },
		"$all has a gap in a stream":    func(h *history) { h.sightings[1].events[4].number = 5 },
		"$all shows what was not asked": func(h *history) { h.sightings[0].events = h.sightings[1].events },
		"a position was not so":         func(h *history) { h.positions[6] = 6 },
		"positions defy time": func(h *history) {
			h.positions[4], h.positions[5], h.positions[6] = 5, 5, 4
			s := h.sightings[1].events
			s[3].id, s[4].id = s[4].id, s[3].id
		},
	} {
		h := good()
		spoil(h)
		if err := h.check(); err == nil {
			t.Errorf("%s, and nobody saw it", name)
		}
	}
	for name, unknown := range map[string]int{"what was done": 6, "what was refused": 3, "a repeat": 5} {
		h := good()
		h.asked[unknown].Output, h.asked[unknown].Return = reply{}, math.MaxInt64
		delete(h.positions, unknown)
		if err := h.check(); err != nil {
			t.Errorf("nobody knows of %s: %v", name, err)
		}
	}
	h := good() // with a node that was opened anew, a repeat at no revision may be done again
	q := h.asked[5].Input.(question)
	q.forgetful = true
	h.asked[5].Input, h.asked[5].Output, h.positions[5] = q, reply{verdict: "ok", revision: 4}, 5
	h.asked[6].Output = reply{verdict: "wrong version"}
	h.asked[7].Output = reply{verdict: "ok", ids: id(1) + id(2) + id(3) + id(5) + id(5)}
	delete(h.positions, 6)
	h.sightings[1].events[4].id = id(5)
	if err := h.check(); err != nil {
		t.Errorf("a repeat that was forgotten: %v", err)
	}
}

// TestAReadSeesAStreamAtOneMoment deletes a stream and begins it again, while
// others read it: they find both of its events or no stream.
func TestAReadSeesAStreamAtOneMoment(t *testing.T) {
	uri := start(t, esdbnode.Options{}).uri
	writer, stub := dialBoth(t, uri)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s := &shopper{t: t, stub: stub}
			for ctx.Err() == nil {
				for _, q := range []question{{stream: "s", limit: 9}, {stream: "s", limit: 9, from: math.MaxInt64, backwards: true}} {
					got, err := s.read(ctx, q)
					if err == nil && got.verdict != "not found" && len(got.ids) != 2*4 {
						t.Errorf("%+v", got)
					}
				}
			}
		})
	}
	for ctx.Err() == nil {
		appendTo(t, writer, "s", esdb.NoStream{}, fresh("x", "y")...)
		remove(t, writer, "s")
	}
	wg.Wait()
}

// TestAStreamAndTheLogAreAtOnePlace appends to the only stream of a log, so that
// numbers and positions agree, and asks without pause how far each of them is.
func TestAStreamAndTheLogAreAtOnePlace(t *testing.T) {
	r := start(t, esdbnode.Options{Dir: "var/lib/log", FS: vfs.NewMem()})
	client := dial(t, r.uri)
	write(t, client, "s", 1)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			before := r.node.Head()
			got, err := r.node.Shows(ctx, "s")
			if after := r.node.Head(); ctx.Err() == nil && err != nil || err == nil && (got < before || got > after) {
				t.Errorf("the log was at %d, then the stream at %d, then the log at %d: %v", before, got, after, err)
				return
			}
		}
	})
	for range 300 {
		write(t, client, "s", 1)
	}
	cancel()
	wg.Wait()
}

func TestAReadWaitsUntilTheLogHasWhatItsStreamHas(t *testing.T) {
	r := start(t, esdbnode.Options{})
	write(t, dial(t, r.uri), "s", 1)
	if err := r.node.Between("s", func() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if got, err := r.node.Shows(ctx, "s"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it did not wait: %d events, %v", got, err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if got, err := r.node.Shows(t.Context(), "s"); err != nil || got != 2 || r.node.Head() != 2 {
		t.Errorf("%d events in the stream, %d in the log: %v", got, r.node.Head(), err)
	}
}

// A heldDisk lets no fsync of a write-ahead log come to its end while it is held.
type heldDisk struct {
	vfs.FS
	mu      sync.Mutex
	free    chan struct{} // closed when it is held no more; nil when it is not held
	waiting atomic.Int64
}

func (d *heldDisk) hold() (release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	free := make(chan struct{})
	d.free = free
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.free = nil
		close(free)
	})
}

func (d *heldDisk) wait() {
	d.mu.Lock()
	free := d.free
	d.mu.Unlock()
	if free != nil {
		d.waiting.Add(1)
		<-free
	}
}

func (d *heldDisk) held(f vfs.File, name string, err error) (vfs.File, error) {
	if err != nil || !strings.HasSuffix(name, ".log") {
		return f, err
	}
	return heldFile{f, d}, nil
}

func (d *heldDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, c)
	return d.held(f, name, err)
}

func (d *heldDisk) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.ReuseForWrite(oldname, newname, c)
	return d.held(f, newname, err)
}

func (d *heldDisk) Unwrap() vfs.FS { return d.FS }

type heldFile struct {
	vfs.File
	disk *heldDisk
}

func (f heldFile) Sync() error { f.disk.wait(); return f.File.Sync() }

func (f heldFile) SyncData() error { f.disk.wait(); return f.File.SyncData() }

func (f heldFile) SyncTo(n int64) (bool, error) { f.disk.wait(); return f.File.SyncTo(n) }

// TestNothingIsShownBeforeItIsOnDisk holds an fsync. Until it is over nobody is
// told what became of its append, nor of any that was decided by it, and nobody
// reads it.
func TestNothingIsShownBeforeItIsOnDisk(t *testing.T) {
	disk := &heldDisk{FS: vfs.NewMem()}
	r := start(t, esdbnode.Options{Dir: "var/lib/log", FS: disk})
	client := dial(t, r.uri)
	write(t, client, "s", 2)
	sub := subscribeAll(t, client, esdb.SubscribeToAllOptions{From: esdb.Start{}})
	wantHeard(t, sub, "event 1", "event 2", "caught up")
	release := disk.hold()
	defer release()
	var answered atomic.Int64
	var wg sync.WaitGroup
	put := func(want string, stream string, expect esdb.ExpectedRevision, events ...esdb.EventData) {
		wg.Go(func() {
			res, err := client.AppendToStream(t.Context(), stream, esdb.AppendToStreamOptions{ExpectedRevision: expect}, events...)
			answered.Add(1)
			got := "wrong version"
			if err == nil {
				got = strconv.FormatUint(res.NextExpectedVersion, 10)
			} else if codeOf(err) != esdb.ErrorCodeWrongExpectedVersion {
				got = err.Error()
			}
			if got != want {
				t.Errorf("%s: %s, want %s", stream, got, want)
			}
		})
	}
	same, other := fresh("x"), fresh("y")
	put("0", "new", esdb.NoStream{}, same...)
	until(t, "its fsync is under way", func() bool { return disk.waiting.Load() > 0 })
	put("0", "new", esdb.NoStream{}, same...) // its repeat
	put("0", "new", esdb.Any{}, same...)
	put("wrong version", "new", esdb.NoStream{}, fresh("z")...) // refused for what is under way
	put("2", "s", esdb.Revision(1), other...)                   // in the commit behind it
	put("2", "s", esdb.Revision(1), other...)
	put("wrong version", "s", esdb.Revision(5), fresh("z")...)
	until(t, "all are asked", func() bool {
		f, err := r.node.Figures()
		return err != nil || f.Queue.Writes == 7 || answered.Load() > 0
	})
	for range 20 {
		wantShown(t, client, "s", 0, 1)
		wantShown(t, client, "new", -1)
		if all, err := log(t.Context(), client, esdb.ReadAllOptions{}); err != nil || len(all) != 2 || r.node.Head() != 2 {
			t.Errorf("the log shows %d events, up to %d: %v", len(all), r.node.Head(), err)
		}
	}
	if n := answered.Load(); n > 0 {
		t.Errorf("%d were answered", n)
	}
	release()
	wg.Wait()
	wantShown(t, client, "s", 0, 1, 2)
	wantShown(t, client, "new", 0)
	wantHeard(t, sub, "event 3", "event 4")
}
