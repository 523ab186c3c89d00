// Package esdbnode is an EventStoreDB node inside our own process: a gRPC server
// that speaks EventStoreDB's protocol and keeps the log on Pebble. It is what the
// event log runs on when no cluster is configured, and the official client cannot
// tell the difference.
//
// What is acknowledged is on disk: every answer to an append comes after the
// fsync that covers it (TestWhatWasAcknowledgedSurvivesTheLossOfAllThatWasNotSynced,
// TestNothingAcknowledgedIsLostByKill9). Appends that arrive while an fsync is
// under way share the next one. What is not acknowledged yet is not shown either,
// so no reader is ever ahead of the log.
//
// # Why
//
// A server rather than a Go library: so that the client, and with it every path
// of ours that handles its errors, reconnects and retries, is the same with and
// without a cluster (esdbstore's TestConformance runs on this node).
//
// One writer: the expected revision is checked, against what is committed and
// against what is queued before, in the one goroutine that appends. A lock per
// stream would let appends run in parallel, but there is one disk to fsync, and
// group commit is what carries the load (BenchmarkAppend).
//
// Readers are never handed anything: they read from the log, from memory near its
// end and from disk behind that. A queue per subscriber would need a bound and
// a rule for its overflow; the log is that queue already
// (TestASlowSubscriberFallsBehindAndCatchesUp).
//
// Who may call is a matter of the listener (Door): the socket in the data folder
// trusts whoever the file system lets near it, as a database's does; a port may
// want TLS, and users with passwords or certificates. Gossip and server features
// are open to all, since the client asks for both before it says who it is
// (TestOnlyUsersAreLetIn). An append that is refused is read to its end first, or
// the client would report a broken connection instead of the refusal.
//
// A backup is a checkpoint of Pebble's, taken between two commits without
// stopping them, so it is the log as it was at one moment
// (TestABackupUnderLoadIsAWholeLog). Check reads a log that nobody has open and
// finds what has changed on the disk (TestCheckFindsDamage).
//
// Positions count events from 1 and are not byte offsets as in EventStoreDB.
// They are opaque there, and contiguous here until something is scavenged.
//
// # Scavenging
//
// What readers are not shown any more stays in the log until Scavenge throws it
// away: all events of a stream with a tombstone and of its metadata, and of other
// streams those before $tb, beyond $maxCount and older than $maxAge. The last event
// of a stream stays, and so does a tombstone, so nothing is ever numbered anew;
// positions just have gaps (TestScavengeLeavesWhatReadersAreShown).
//
// The writer throws away, in the order of all other commits and by the heads it
// alone changes: so no limit that was lifted meanwhile is acted upon, and an event
// goes together with its place in its stream, or neither does. Each head counts
// what is gone from the beginning of its stream, by which Check tells a scavenged
// log from a damaged one (TestCheckFindsDamage).
//
// Throwing away is not enough where an event must be forgotten. To Pebble a
// deletion is one more entry: the bytes stay in tables until a compaction, in the
// write-ahead log until its file goes, and that file is not removed but used again
// from its beginning, behind which the rest of it stays. So the same commit that
// throws events away marks the region of the log they lay in; then the memory is
// flushed, marked regions are compacted, the write-ahead log goes on in fresh
// files, and Scavenge returns when no file that was there before is left that
// holds any of it (TestScavengedBytesAreInNoFile). The marks stay until that is
// done, so one that was killed is finished by the next
// (TestAScavengeThatWasKilledIsFinishedByTheNext, TestNothingElseIsLostByKillingAScavenge).
// A write-ahead log that never used files again would need none of this, and
// takes half as long again for every fsync; so only a scavenge goes without.
//
// The bytes are then gone from files. Blocks that a file system or a disk has
// freed, and backups, are beyond it.
package esdbnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// Options say where a node keeps its log. All but Dir may be left empty.
type Options struct {
	Dir string       // one node a folder
	Log *slog.Logger // nil for silence

	MaxAppend  int              // the most bytes of events one append may bring, 1 MiB when 0
	TailEvents int              // how many of the newest events are kept in memory, 8192 when 0
	MemTable   int              // how many bytes are gathered in memory for each table on the disk, 32 MiB when 0
	Now        func() time.Time // the clock that dates events, time.Now when nil
	FS         vfs.FS           // where the folder is, the operating system's files when nil
}

// Node is an open node. Its methods may be called concurrently.
type Node struct {
	store     *store
	log       *slog.Logger
	fs        vfs.FS
	server    *grpc.Server
	closeOnce sync.Once
	closeErr  error

	using  sync.RWMutex // held for reading by what must not find the log closed
	closed bool
}

// maxMessage is the largest message taken: what the official client takes, so
// that an append that is too large is told so, rather than cut off.
const maxMessage = 17 << 20

// Open opens the log in a folder, or makes one. It fails with ErrInUse when
// another node has the folder open.
func Open(o Options) (*Node, error) {
	if o.Dir == "" {
		return nil, errors.New("a node needs a folder")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.MaxAppend == 0 {
		o.MaxAppend = defaultAppend
	}
	if o.TailEvents == 0 {
		o.TailEvents = defaultTail
	}
	if o.MemTable == 0 {
		o.MemTable = defaultMemTable
	}
	s, err := openStore(o)
	if err != nil {
		return nil, fmt.Errorf("open event log: %w", err)
	}
	n := &Node{store: s, log: o.Log, fs: o.FS, server: newServer()}
	streams.RegisterStreamsServer(n.server, &streamsService{store: s, maxAppend: o.MaxAppend})
	serverfeatures.RegisterServerFeaturesServer(n.server, featuresService{})
	gossip.RegisterGossipServer(n.server, gossipService{now: o.Now})
	return n, nil
}

func newServer() *grpc.Server {
	return grpc.NewServer(
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(maxMessage),
		// The client pings every ten seconds, streams or not; grpc's default would hang up on it.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true), // the log is closed only after nobody uses it
		grpc.Creds(doorkeeper{}),
		grpc.ConnectionTimeout(handshake),
		grpc.UnaryInterceptor(admitUnary),
		grpc.StreamInterceptor(admitStream),
	)
}

// handshake is how long a connection may take to say hello.
const handshake = 20 * time.Second

// Serve answers on a listener until Close, which closes the listener and lets
// Serve return nil. It trusts whoever can connect. It may be called for several
// listeners at once.
func (n *Node) Serve(l net.Listener) error { return n.ServeThrough(l, Door{}) }

// ServeThrough is Serve for those whom a door lets in. A door that makes no
// sense is an error, and leaves the listener open.
func (n *Node) ServeThrough(l net.Listener, d Door) error {
	g, err := d.guard(n.log)
	if err != nil {
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	}
	if err := n.server.Serve(entrance{l, g}); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	}
	return nil
}

// Head is the position of the last event in the log, 0 when there is none.
func (n *Node) Head() uint64 { return n.store.tail.last() }

// Close stops listening, ends subscriptions, lets calls that are under way
// finish until ctx ends, and closes the log. Whatever was acknowledged is on
// disk with or without it. A second call answers as the first did.
func (n *Node) Close(ctx context.Context) error {
	n.closeOnce.Do(func() { n.closeErr = n.close(ctx) })
	return n.closeErr
}

func (n *Node) close(ctx context.Context) error {
	close(n.store.closing)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		n.server.GracefulStop()
	}()
	select {
	case <-stopped:
	case <-ctx.Done():
		n.server.Stop()
		<-stopped
	}
	n.using.Lock()
	defer n.using.Unlock()
	n.closed = true
	if err := n.store.close(); err != nil {
		return fmt.Errorf("close event log: %w", err)
	}
	return nil
}
