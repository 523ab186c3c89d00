package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"cartwright/infra/esdbnode"
)

// Measured streams and events.
const (
	appendsAStream = 10
	minEvent       = 16 // bytes: whose event it is
	appendPatience = 30 * time.Second
)

// A benchedStream is what is known of a stream that was appended to.
type benchedStream struct {
	number uint64 // of the stream
	acked  int64  // events
	lost   int64  // events of whose append nobody knows what became of it
}

func (s *benchedNode) streamName(number uint64) string {
	return s.name + "-" + strconv.FormatUint(number, 10)
}

// idOf is the id of an event: it says which one it is, so that none has to be
// remembered.
func (s *benchedNode) idOf(stream uint64, number int64) (id uuid.UUID) {
	copy(id[:], s.name[len(s.name)-4:])
	binary.BigEndian.PutUint64(id[4:], stream)
	binary.BigEndian.PutUint32(id[12:], uint32(number)) //nolint:gosec // a handful
	return id
}

// pool is how many different events there are, as far as their data goes: so many
// that the disk's blocks are not much smaller for being compressed than a shop's are.
const pool = 1 << 20

// fillPool makes the bytes that events' data are cut from.
func (s *benchedNode) fillPool() {
	raw := make([]byte, (pool+s.size)*3/4+3)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(raw) // it never fails
	s.pool = base64.StdEncoding.AppendEncode(nil, raw)
}

// dataOf is the data of an event, which nobody has to remember.
func (s *benchedNode) dataOf(stream uint64, number int64) []byte {
	at := (stream*2654435761 + uint64(number)*40503) % pool //nolint:gosec // not negative
	return s.pool[at : at+uint64(s.size)]                   //nolint:gosec // not negative
}

// A nodeLoad appends until its time is over.
type nodeLoad struct {
	*benchedNode
	end    time.Time
	acked  atomic.Int64
	mu     sync.Mutex
	took   *hdrhistogram.Histogram
	errors map[string]int64
	done   []benchedStream
}

func (s *benchedNode) newLoad() *nodeLoad {
	return &nodeLoad{benchedNode: s, end: time.Now().Add(s.duration), took: newHistogram(), errors: map[string]int64{}}
}

// take adds what one worker did.
func (l *nodeLoad) take(took *hdrhistogram.Histogram, failed map[string]int64, done []benchedStream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took.Merge(took)
	for name, n := range failed {
		l.errors[name] += n
	}
	l.done = append(l.done, done...)
}

// appends measures appends, each one call.
func (s *benchedNode) appends(ctx context.Context, concurrency int) (r NodeRate, err error) {
	r = NodeRate{Scenario: "append", Concurrency: concurrency}
	from, err := s.begin(ctx)
	if err != nil {
		return r, err
	}
	l := s.newLoad()
	g := watch(until(s.duration))
	var workers sync.WaitGroup
	for range concurrency {
		workers.Go(func() { l.work(ctx) })
	}
	workers.Wait()
	g.end(&r, l.acked.Load(), l.acked.Load()*int64(s.perAppend))
	if err = ctx.Err(); err != nil {
		return r, err
	}
	r.Errors, r.Latency = l.errors, latencyOf(l.took)
	r.Differences, err = s.verify(ctx, from, l.done)
	return r, err
}

// work is one worker.
func (l *nodeLoad) work(ctx context.Context) {
	took, failed := newHistogram(), map[string]int64{}
	var done []benchedStream
	for time.Now().Before(l.end) && ctx.Err() == nil {
		one := benchedStream{number: l.used.Add(1)}
		for i := 0; i < appendsAStream && one.lost == 0 && time.Now().Before(l.end); i++ {
			began := time.Now()
			if err := l.append(ctx, &one, l.perAppend); err != nil {
				one.lost = int64(l.perAppend)
				failed[reasonFor(err)]++
				continue
			}
			recordLatency(took, time.Since(began))
			one.acked += int64(l.perAppend)
			l.acked.Add(1)
		}
		done = append(done, one)
	}
	l.take(took, failed, done)
}

// append appends events to the end of a stream, as far as that is known.
func (l *nodeLoad) append(ctx context.Context, s *benchedStream, n int) error {
	ctx, cancel := context.WithTimeout(ctx, appendPatience)
	defer cancel()
	events := make([]esdb.EventData, n)
	for i := range events {
		events[i] = esdb.EventData{EventID: l.idOf(s.number, s.acked+int64(i)), EventType: "benched", ContentType: esdb.ContentTypeBinary, Data: l.dataOf(s.number, s.acked+int64(i))}
	}
	expect := esdb.ExpectedRevision(esdb.NoStream{})
	if s.acked > 0 {
		expect = esdb.Revision(uint64(s.acked - 1))
	}
	_, err := l.client.AppendToStream(ctx, l.streamName(s.number), esdb.AppendToStreamOptions{ExpectedRevision: expect}, events...)
	return err
}

// reasonFor names an error in a few words, so that there are few.
func reasonFor(err error) string {
	if e, ok := errors.AsType[*esdb.Error](err); ok {
		return "error code " + strconv.Itoa(int(e.Code()))
	}
	return status.Code(err).String()
}

// dialStubs makes a connection for the generated stubs, as the client's settings are.
func (s *benchedNode) dialStubs() (*grpc.ClientConn, error) {
	c := s.config
	address, secured := c.Address, insecure.NewCredentials()
	if address == "" && len(c.GossipSeeds) > 0 {
		address = fmt.Sprintf("%s:%d", c.GossipSeeds[0].Host, c.GossipSeeds[0].Port)
	}
	var options []grpc.DialOption
	if !c.DisableTLS {
		secured = credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.RootCAs, InsecureSkipVerify: c.SkipCertificateVerification}) //nolint:gosec // as the URI says
		options = append(options, grpc.WithPerRPCCredentials(basicLogin{c.Username, c.Password}))
	}
	return grpc.NewClient(address, append(options, grpc.WithTransportCredentials(secured))...)
}

// basicLogin shows a user and a password, where there are any.
type basicLogin struct{ user, password string }

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (l basicLogin) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if l.user == "" {
		return map[string]string{}, nil
	}
	return map[string]string{"authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(l.user+":"+l.password))}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (basicLogin) RequireTransportSecurity() bool { return true }

// batch measures appends over one call of BatchAppend.
func (s *benchedNode) batch(ctx context.Context) (r NodeRate, err error) {
	r = NodeRate{Scenario: "batch", Concurrency: s.inFlight}
	from, err := s.begin(ctx)
	if err != nil {
		return r, err
	}
	conn, err := s.dialStubs()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	l := s.newLoad()
	g := watch(until(s.duration))
	err = l.batch(ctx, streams.NewStreamsClient(conn))
	g.end(&r, l.acked.Load(), l.acked.Load()*int64(s.perAppend))
	if status.Code(err) == codes.Unimplemented {
		return r, errors.New("the server knows no BatchAppend")
	}
	if err != nil {
		return r, err
	}
	r.Errors, r.Latency = l.errors, latencyOf(l.took)
	r.Differences, err = s.verify(ctx, from, l.done)
	return r, err
}

// A batched append is one in flight.
type batched struct {
	stream uint64
	began  time.Time
}

// batch sends appends, so many in flight, each the beginning of a stream, and waits
// for all answers.
func (l *nodeLoad) batch(ctx context.Context, stub streams.StreamsClient) error {
	ctx, cancel := context.WithTimeout(ctx, l.duration+appendPatience)
	defer cancel()
	call, err := stub.BatchAppend(ctx)
	if err != nil {
		return err
	}
	// A slot is an append in flight; its number is its correlation id.
	free, flying := make(chan int, l.inFlight), make([]batched, l.inFlight)
	for i := range l.inFlight {
		free <- i
	}
	took, failed := newHistogram(), map[string]int64{}
	g, gctx := errgroup.WithContext(ctx)
	var done []benchedStream
	g.Go(func() error {
		for time.Now().Before(l.end) {
			select {
			case slot := <-free:
				flying[slot] = batched{l.used.Add(1), time.Now()}
				if err := call.Send(l.request(slot, flying[slot].stream)); err != nil {
					return nil //nolint:nilerr // the answers say why
				}
			case <-gctx.Done():
				return gctx.Err()
			}
		}
		return call.CloseSend()
	})
	g.Go(func() error {
		for {
			answer, err := call.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			slot, ok := slotOf(answer.GetCorrelationId(), l.inFlight)
			if !ok || flying[slot].stream == 0 {
				return fmt.Errorf("an answer to %v, which was not asked", answer.GetCorrelationId())
			}
			one := benchedStream{number: flying[slot].stream, acked: int64(l.perAppend)}
			if refused := answer.GetError(); refused != nil {
				failed[codes.Code(refused.GetCode()).String()]++ //nolint:gosec // a code
				one.acked, one.lost = 0, int64(l.perAppend)
			} else {
				recordLatency(took, time.Since(flying[slot].began))
				l.acked.Add(1)
			}
			done = append(done, one)
			flying[slot] = batched{}
			free <- slot
		}
	})
	if err := g.Wait(); err != nil {
		return err
	}
	for _, left := range flying {
		if left.stream != 0 {
			return fmt.Errorf("the call ended without an answer to the append to %s", l.streamName(left.stream))
		}
	}
	l.take(took, failed, done)
	return nil
}

func (l *nodeLoad) request(slot int, stream uint64) *streams.BatchAppendReq {
	req := &streams.BatchAppendReq{
		CorrelationId: idMessage(uuid.UUID{15: byte(slot), 14: byte(slot >> 8), 13: byte(slot >> 16)}), //nolint:gosec // its bytes
		Options: &streams.BatchAppendReq_Options{
			StreamIdentifier:       &shared.StreamIdentifier{StreamName: []byte(l.streamName(stream))},
			ExpectedStreamPosition: &streams.BatchAppendReq_Options_NoStream{NoStream: &emptypb.Empty{}},
			DeadlineOption:         &streams.BatchAppendReq_Options_Deadline{Deadline: durationpb.New(appendPatience)},
		},
		IsFinal: true,
	}
	for i := range l.perAppend {
		req.ProposedMessages = append(req.ProposedMessages, &streams.BatchAppendReq_ProposedMessage{
			Id: idMessage(l.idOf(stream, int64(i))), Data: l.dataOf(stream, int64(i)),
			Metadata: map[string]string{"type": "benched", "content-type": "application/octet-stream"},
		})
	}
	return req
}

func idMessage(id uuid.UUID) *shared.UUID {
	return &shared.UUID{Value: &shared.UUID_Structured_{Structured: &shared.UUID_Structured{
		MostSignificantBits: int64(binary.BigEndian.Uint64(id[:8])), LeastSignificantBits: int64(binary.BigEndian.Uint64(id[8:])), //nolint:gosec // its bits
	}}}
}

// slotOf reads a correlation id back, in either form.
func slotOf(id *shared.UUID, slots int) (int, bool) {
	if s := id.GetStructured(); s != nil {
		n := s.GetLeastSignificantBits()
		return int(n), s.GetMostSignificantBits() == 0 && n >= 0 && n < int64(slots)
	}
	text, err := uuid.Parse(id.GetString_())
	if err != nil {
		return 0, false
	}
	n := binary.BigEndian.Uint64(text[8:])
	return int(n), n < uint64(slots) //nolint:gosec // checked
}

// begin appends something to a stream of its own, and gives the position from which
// on the log is read when the measurement is over. It also has the client find its
// server before anything is measured.
func (s *benchedNode) begin(ctx context.Context) (esdb.Position, error) {
	ctx, cancel := context.WithTimeout(ctx, appendPatience)
	defer cancel()
	done, err := s.client.AppendToStream(ctx, s.name+"-begins", esdb.AppendToStreamOptions{ExpectedRevision: esdb.Any{}},
		esdb.EventData{EventID: uuid.New(), EventType: "begins", ContentType: esdb.ContentTypeBinary})
	if err != nil {
		return esdb.Position{}, fmt.Errorf("reach %s: %w", s.where(), err)
	}
	return esdb.Position{Commit: done.CommitPosition, Prepare: done.PreparePosition}, nil
}

// mostDifferences is how many are listed.
const mostDifferences = 10

// verify reads the log from a position on, and compares it with what was acknowledged.
func (s *benchedNode) verify(ctx context.Context, from esdb.Position, known []benchedStream) (differences []string, err error) {
	differ := func(format string, args ...any) {
		if len(differences) < mostDifferences {
			differences = append(differences, fmt.Sprintf(format, args...))
		}
	}
	seen, last := make(map[uint64]int64, len(known)), uint64(0)
	err = s.readFrom(ctx, from, func(e *esdb.RecordedEvent) bool {
		if e.Position.Commit < last {
			differ("position %d comes behind %d", e.Position.Commit, last)
		}
		last = e.Position.Commit
		number, ours := strings.CutPrefix(e.StreamID, s.name+"-")
		stream, wrong := strconv.ParseUint(number, 10, 64)
		if !ours || wrong != nil {
			return true
		}
		at := seen[stream]
		if want := s.idOf(stream, at); e.EventNumber != uint64(at) || e.EventID != want || !bytes.Equal(e.Data, s.dataOf(stream, at)) { //nolint:gosec // not negative
			differ("%s@%d is %s with %d bytes of data at position %d, and should be %d, %s with %d other ones", e.StreamID, e.EventNumber, e.EventID, len(e.Data), last, at, want, s.size)
		}
		seen[stream] = at + 1
		return true
	})
	for _, k := range known {
		if have := seen[k.number]; have < k.acked || have > k.acked+k.lost {
			differ("%s has %d events, and %d were acknowledged", s.streamName(k.number), have, k.acked)
		}
	}
	return differences, err
}

// readFrom reads the whole log from a position on, until each has enough.
func (s *benchedNode) readFrom(ctx context.Context, from esdb.AllPosition, each func(*esdb.RecordedEvent) bool) error {
	read, err := s.client.ReadAll(ctx, esdb.ReadAllOptions{From: from}, math.MaxInt64)
	if err != nil {
		return err
	}
	defer read.Close()
	for {
		e, err := read.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !each(e.OriginalEvent()) {
			return nil
		}
	}
}

// Filling: as many events an append as take little time, and so many appends at once.
const (
	filledAtOnce = 8
	filledBytes  = 200_000
)

// fill makes the log as long as it is to be, of streams with a hundred events or so.
func (s *benchedNode) fill(ctx context.Context) (r NodeRate, err error) {
	r = NodeRate{Scenario: "fill", Concurrency: filledAtOnce}
	if _, err = s.begin(ctx); err != nil {
		return r, err
	}
	there := int64(0)
	if s.node != nil {
		there = int64(s.node.Head()) //nolint:gosec // a log's positions fit
	}
	each := int64(max(1, min(100, filledBytes/s.size)))
	left := max(0, int64(s.events)-there)
	told := newProgress(s.errs, "events", s.events)
	defer told.end()
	l := s.newLoad()
	var begun, written atomic.Int64
	g := watch(func() bool { return written.Load() > left/2 })
	var workers errgroup.Group
	for range filledAtOnce {
		workers.Go(func() error {
			for begun.Add(each) <= left+each-1 {
				if failed := l.append(ctx, &benchedStream{number: l.used.Add(1)}, int(each)); failed != nil {
					return failed
				}
				written.Add(each)
				for range each {
					told.step()
				}
			}
			return nil
		})
	}
	err = workers.Wait()
	g.end(&r, written.Load()/each, written.Load())
	return r, err
}

// read measures one read of the whole log.
func (s *benchedNode) read(ctx context.Context) (r NodeRate, err error) {
	r = NodeRate{Scenario: "read", Concurrency: 1}
	if _, err = s.begin(ctx); err != nil {
		return r, err
	}
	var events atomic.Int64
	last, order := uint64(0), true
	g := watch(s.halfRead(&events))
	err = s.readFrom(ctx, esdb.Start{}, func(e *esdb.RecordedEvent) bool {
		order = order && e.Position.Commit >= last
		last = e.Position.Commit
		events.Add(1)
		return ctx.Err() == nil
	})
	g.end(&r, events.Load(), events.Load())
	r.compare(s, order, last)
	return r, err
}

func (s *benchedNode) halfRead(events *atomic.Int64) func() bool {
	half := int64(s.events) / 2
	if s.node != nil {
		half = int64(s.node.Head()) / 2 //nolint:gosec // a log's positions fit
	}
	return func() bool { return events.Load() > half }
}

// compare holds what was read against what there is, as far as that is known here.
func (r *NodeRate) compare(s *benchedNode, order bool, last uint64) {
	if !order {
		r.Differences = append(r.Differences, "positions go back")
	}
	if s.node == nil {
		return
	}
	if head := s.node.Head(); last != head || uint64(r.Events) != head { //nolint:gosec // not negative
		r.Differences = append(r.Differences, fmt.Sprintf("%d events up to position %d were read, and the log ends at %d", r.Events, last, head))
	}
}

// catchUp measures a subscription that reads to the end of the log.
func (s *benchedNode) catchUp(ctx context.Context) (r NodeRate, err error) {
	r = NodeRate{Scenario: "catchup", Concurrency: 1}
	end, err := s.begin(ctx)
	if err != nil {
		return r, err
	}
	var events atomic.Int64
	g := watch(s.halfRead(&events))
	sub, err := s.client.SubscribeToAll(ctx, esdb.SubscribeToAllOptions{From: esdb.Start{}})
	if err != nil {
		return r, err
	}
	last, order := uint64(0), true
	for last < end.Commit {
		e := sub.Recv()
		if e.SubscriptionDropped != nil {
			return r, errors.Join(e.SubscriptionDropped.Error, sub.Close())
		}
		if e.EventAppeared == nil {
			continue
		}
		at := e.EventAppeared.OriginalEvent().Position.Commit
		order = order && at >= last
		last = at
		events.Add(1)
	}
	g.end(&r, events.Load(), events.Load())
	r.compare(s, order, last)
	return r, sub.Close()
}

// timesOpened is how often a log is opened.
const timesOpened = 3

// reopen measures how long it takes until a log that was closed answers again.
func (s *benchedNode) reopen(ctx context.Context) (r NodeRate, err error) {
	r = NodeRate{Scenario: "open", Concurrency: 1}
	if _, err = s.begin(ctx); err != nil {
		return r, err
	}
	head := s.node.Head()
	took := newHistogram()
	g := watch(func() bool { return true })
	for range timesOpened {
		if err = s.shut(ctx); err != nil {
			return r, err
		}
		began := time.Now()
		node, err := esdbnode.Open(esdbnode.Options{Dir: s.dir, Log: s.cfg.logger()})
		if err != nil {
			return r, err
		}
		recordLatency(took, time.Since(began))
		if node.Head() != head {
			r.Differences = append(r.Differences, fmt.Sprintf("the log ended at position %d, and at %d when it was opened", head, node.Head()))
		}
		if err = node.Close(ctx); err != nil {
			return r, err
		}
	}
	g.end(&r, timesOpened, int64(head)) //nolint:gosec // a log's positions fit
	r.Latency, r.EventRate, r.Rate = latencyOf(took), 0, 0
	return r, s.open(ctx)
}
