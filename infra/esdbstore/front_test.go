package esdbstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// A front stands before a node and passes on all calls, but for those for which
// it has an answer of its own. It counts them, and can keep the answers to
// appends back.
type front struct {
	uri     string
	address string
	node    *grpc.ClientConn
	stop    func()

	mu      sync.Mutex
	calls   map[string]int                           // by the method's name
	answers map[string]func() (proto.Message, error) // of calls with one message
	batch   func(grpc.ServerStream) error            // instead of a BatchAppend call
	gate    chan struct{}                            // closed to let answers to BatchAppend through, nil for no gate
	cut     chan struct{}                            // closed to end BatchAppend calls
	asked   []*streams.BatchAppendReq                // what has come by BatchAppend
	read    [][]byte                                 // what has come by Read
	more    chan struct{}                            // has a message for each of them
}

// stand puts a front before the node at a uri.
func stand(t *testing.T, uri string) *front {
	t.Helper()
	node, err := grpc.NewClient(uri, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	f := &front{
		node: node, calls: map[string]int{}, answers: map[string]func() (proto.Message, error){},
		cut: make(chan struct{}), more: make(chan struct{}, 10_000),
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(f.handle), grpc.MaxRecvMsgSize(17<<20), grpc.WaitForHandlers(true))
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.address = listener.Addr().String()
	f.uri = "esdb://" + f.address + "?tls=false"
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	f.stop = sync.OnceFunc(func() {
		server.Stop()
		if err := errors.Join(<-served, node.Close()); err != nil {
			t.Errorf("stop the front: %v", err)
		}
	})
	t.Cleanup(f.stop)
	return f
}

// before puts a front before a node of its own.
func before(t *testing.T) *front {
	t.Helper()
	return stand(t, serve(t, place{dir: t.TempDir(), socket: filepath.Join(t.TempDir(), "n.sock")}).uri)
}

// set changes what the front does.
func (f *front) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *front) count(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

// await waits until n more requests have come by BatchAppend.
func (f *front) await(t *testing.T, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range n {
		select {
		case <-f.more:
		case <-ctx.Done():
			t.Fatalf("only %d of %d requests came", i, n)
		}
	}
}

func (f *front) handle(_ any, call grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(call)
	name := path.Base(method)
	if strings.Contains(method, ".gossip.") {
		name = "Gossip" // its method is a Read too
	}
	f.mu.Lock()
	f.calls[name]++
	answer, instead := f.answers[name], f.batch
	f.mu.Unlock()
	if answer != nil {
		m, err := answer()
		if err != nil {
			return err
		}
		b, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		return call.SendMsg(&b)
	}
	if name == "BatchAppend" && instead != nil {
		return instead(call)
	}
	return f.forward(call, method)
}

func (f *front) forward(call grpc.ServerStream, method string) error {
	ctx, cancel := context.WithCancel(call.Context())
	defer cancel()
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	onward, err := f.node.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	batch := path.Base(method) == "BatchAppend"
	go func() { // ends with the call
		for {
			var b []byte
			if err := call.RecvMsg(&b); err != nil {
				_ = onward.CloseSend()
				return
			}
			if path.Base(method) == "Read" {
				f.set(func() { f.read = append(f.read, b) })
			}
			if err := onward.SendMsg(&b); err != nil {
				return
			}
			if batch {
				f.note(b)
			}
		}
	}()
	for {
		var b []byte
		if err := onward.RecvMsg(&b); err != nil {
			call.SetTrailer(onward.Trailer())
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if batch {
			if err := f.pass(ctx); err != nil {
				return err
			}
		}
		if err := call.SendMsg(&b); err != nil {
			return err
		}
	}
}

func (f *front) note(b []byte) {
	req := &streams.BatchAppendReq{}
	if err := proto.Unmarshal(b, req); err != nil {
		req = nil
	}
	f.set(func() { f.asked = append(f.asked, req) })
	f.more <- struct{}{}
}

var errCut = errors.New("the call was cut")

// pass waits at the gate.
func (f *front) pass(ctx context.Context) error {
	f.mu.Lock()
	gate, cut := f.gate, f.cut
	f.mu.Unlock()
	if gate == nil {
		return nil
	}
	select {
	case <-gate:
		return nil
	case <-cut:
		return errCut
	case <-ctx.Done():
		return ctx.Err()
	}
}

// without takes BatchAppend out of what the node says it can do.
func without() (proto.Message, error) {
	return &serverfeatures.SupportedMethods{
		EventStoreServerVersion: "21.6.0",
		Methods: []*serverfeatures.SupportedMethod{
			{ServiceName: "event_store.client.streams.streams", MethodName: "append"},
			{ServiceName: "event_store.client.streams.other", MethodName: "batchappend"},
		},
	}, nil
}

// rawCodec passes messages on as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("%T is not bytes", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is not bytes", v)
	}
	*b = data.Materialize()
	return nil
}
