package esdbnode

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// calls are those from within that have not ended.
type calls struct {
	ctx     context.Context //nolint:containedctx // of all of them: it ends when the node waits for them no longer
	abandon context.CancelFunc

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

func newCalls() *calls {
	ctx, abandon := context.WithCancel(context.Background())
	return &calls{ctx: ctx, abandon: abandon}
}

// begin counts a call in, unless the node is closing.
func (c *calls) begin() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return asStatus(errClosing, ignoreTrailers)
	}
	c.running.Add(1)
	return nil
}

// wait refuses what comes, and waits for those that are under way.
func (c *calls) wait() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.running.Wait()
}

// NewStream opens a call of the streams' service from within the node's own
// process, as a connection of gRPC's would. Messages are handed over as they lie on
// the wire, and all else is as for who comes by a socket: a call may be told to end
// with ctx, and Close waits for it. Of the options it knows ForceCodecV2 only.
// Whoever has the node has its log, so nobody is asked who he is.
func (n *Node) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	desc := streamOf(method)
	if desc == nil {
		return nil, status.Errorf(codes.Unimplemented, "%s is no call that can be made from within", method)
	}
	if err := n.calls.begin(); err != nil {
		return nil, err
	}
	codecs := [2]encoding.CodecV2{encoding.GetCodecV2("proto"), newCodec()}
	for _, o := range options {
		if forced, ok := o.(grpc.ForceCodecV2CallOption); ok {
			codecs[0] = forced.CodecV2
		}
	}
	c := &insideCall{asked: newPipe(), told: newPipe()}
	its, end := context.WithCancel(n.admitted(ctx))
	abandoned := context.AfterFunc(n.calls.ctx, end) //nolint:contextcheck // it ends with that one too
	go func() {
		defer n.calls.running.Done()
		defer abandoned()
		err := n.handle(desc, method, &insideServer{c, its, codecs[1]}) //nolint:contextcheck // a stream has its own
		if n.calls.ctx.Err() != nil {
			err = errClosing
		}
		end()
		c.ended(err)
	}()
	return &insideClient{c, ctx, its, codecs[0]}, nil
}

// streamOf finds how a method is handled, nil if it is none of these.
func streamOf(method string) *grpc.StreamDesc {
	service := &streams.Streams_ServiceDesc
	for i := range service.Streams {
		if method == "/"+service.ServiceName+"/"+service.Streams[i].StreamName {
			return &service.Streams[i]
		}
	}
	return nil
}

// admitted gives a call what the door of a socket would.
func (n *Node) admitted(ctx context.Context) context.Context {
	said, _ := metadata.FromOutgoingContext(ctx)
	trusted := entry{guard: &guard{log: n.log}, arrival: &arrival{strangers: n.strangers}}
	return peer.NewContext(metadata.NewIncomingContext(ctx, said), &peer.Peer{Addr: insideAddr{}, AuthInfo: trusted})
}

// handle has a call served like all others.
func (n *Node) handle(desc *grpc.StreamDesc, method string, call grpc.ServerStream) error {
	info := &grpc.StreamServerInfo{FullMethod: method, IsClientStream: desc.ClientStreams, IsServerStream: desc.ServerStreams}
	return n.store.meters.countStream(n.streams, call, info, func(srv any, call grpc.ServerStream) error {
		return admitStream(srv, call, info, desc.Handler)
	})
}

// insideAddr is where a call from within comes from.
type insideAddr struct{}

var _ net.Addr = insideAddr{}

func (insideAddr) Network() string { return "process" }
func (insideAddr) String() string  { return "this process" }

// An insideCall is a call from within.
type insideCall struct {
	asked, told *pipe

	mu      sync.Mutex
	trailer metadata.MD
	end     error // what the client is told behind all else; io.EOF where all is well
}

// ended tells the client how the call has ended.
func (c *insideCall) ended(err error) {
	s, ok := status.FromError(err)
	if errors.Is(err, errClosing) {
		s = status.Convert(asStatus(err, ignoreTrailers))
	} else if !ok {
		s = status.FromContextError(err)
	}
	c.mu.Lock()
	if c.end = s.Err(); c.end == nil {
		c.end = io.EOF
	}
	c.mu.Unlock()
	c.told.close()
}

func (c *insideCall) addTrailer(said metadata.MD) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trailer = metadata.Join(c.trailer, said)
}

// An insideServer is a call from within as who serves it sees it.
type insideServer struct {
	call  *insideCall
	ctx   context.Context //nolint:containedctx // a stream of gRPC's has one
	codec encoding.CodecV2
}

func (s *insideServer) SetHeader(metadata.MD) error  { return nil }
func (s *insideServer) SendHeader(metadata.MD) error { return nil }
func (s *insideServer) SetTrailer(said metadata.MD)  { s.call.addTrailer(said) }
func (s *insideServer) Context() context.Context     { return s.ctx }

func (s *insideServer) SendMsg(m any) error {
	data, err := s.codec.Marshal(m)
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return asContextStatus(s.call.told.put(s.ctx, data))
}

func (s *insideServer) RecvMsg(m any) error {
	data, err := s.call.asked.take(s.ctx)
	if err != nil {
		return asContextStatus(err)
	}
	if data.Len() > maxMessage {
		defer data.Free()
		return status.Errorf(codes.ResourceExhausted, "grpc: received message larger than max (%d vs. %d)", data.Len(), maxMessage)
	}
	return read(s.codec, data, m)
}

// An insideClient is a call from within as who makes it sees it.
type insideClient struct {
	call     *insideCall
	ctx, its context.Context //nolint:containedctx // a stream of gRPC's has one; its own ends with who serves it too
	codec    encoding.CodecV2
}

func (c *insideClient) Header() (metadata.MD, error) { return nil, nil }
func (c *insideClient) Context() context.Context     { return c.ctx }

func (c *insideClient) Trailer() metadata.MD {
	c.call.mu.Lock()
	defer c.call.mu.Unlock()
	return c.call.trailer.Copy()
}

func (c *insideClient) CloseSend() error {
	c.call.asked.close()
	return nil
}

// SendMsg says io.EOF where the call has ended, and RecvMsg why.
func (c *insideClient) SendMsg(m any) error {
	data, err := c.codec.Marshal(m)
	switch {
	case err != nil:
		return status.Error(codes.Internal, err.Error())
	case c.call.asked.put(c.its, data) == nil:
		return nil
	case c.ctx.Err() != nil:
		return asContextStatus(c.ctx.Err())
	}
	return io.EOF
}

func (c *insideClient) RecvMsg(m any) error {
	data, err := c.call.told.take(c.ctx)
	switch {
	case err == nil:
		return read(c.codec, data, m)
	case !errors.Is(err, io.EOF):
		return asContextStatus(err)
	}
	c.call.mu.Lock()
	defer c.call.mu.Unlock()
	return c.call.end
}

func read(codec encoding.CodecV2, data mem.BufferSlice, m any) error {
	defer data.Free()
	if err := codec.Unmarshal(data, m); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}

func asContextStatus(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return status.FromContextError(err).Err()
}

// pipeRoom is how many bytes may wait in a pipe before who sends more has to wait;
// as many may be with who receives.
const pipeRoom = 1 << 20

// A pipe hands messages over one way, from one who sends to one who receives. The
// one who receives takes all there are at a time, so that under load few of them
// wake anybody.
type pipe struct {
	more, room chan struct{} // hold a token while there may be something to take, or room

	mu     sync.Mutex
	queue  []mem.BufferSlice
	size   int
	full   bool // somebody waits for room
	closed bool

	taken []mem.BufferSlice // of who receives
	next  int               // of those
}

func newPipe() *pipe {
	return &pipe{more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// put sends a message as soon as there is room. The pipe then owns it.
func (p *pipe) put(ctx context.Context, data mem.BufferSlice) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if p.try(data) {
			return nil
		}
		select {
		case <-p.room:
		case <-ctx.Done():
		}
	}
}

func (p *pipe) try(data mem.BufferSlice) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.full = p.size >= pipeRoom; p.full {
		return false
	}
	p.queue = append(p.queue, data)
	p.size += data.Len()
	if len(p.queue) == 1 {
		signal(p.more)
	}
	return true
}

// close says that nothing comes any more.
func (p *pipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	signal(p.more)
}

// take gives the next message, and io.EOF behind the last.
func (p *pipe) take(ctx context.Context) (mem.BufferSlice, error) {
	for p.next == len(p.taken) {
		if p.takeAll() {
			return nil, io.EOF
		}
		if len(p.taken) > 0 {
			break
		}
		select {
		case <-p.more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	data := p.taken[p.next]
	p.taken[p.next] = nil
	p.next++
	return data, nil
}

// takeAll takes what there is, and says whether that is the end of it.
func (p *pipe) takeAll() (over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken, p.queue = p.queue, p.taken[:0]
	p.next, p.size = 0, 0
	if p.full {
		p.full = false
		signal(p.room)
	}
	return len(p.taken) == 0 && p.closed
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
