// Package esdbnode is an EventStoreDB node inside our own process: a gRPC server
// that speaks EventStoreDB's protocol and keeps the log on Pebble. It is what the
// event log runs on when no cluster is configured, and the official client cannot
// tell the difference.
//
// What is acknowledged is on disk: every answer to an append comes after the
// fsync that covers it (TestWhatWasAcknowledgedSurvivesTheLossOfAllThatWasNotSynced,
// TestNothingAcknowledgedIsLostByKill9, TestNothingAcknowledgedIsLostByKillingANode).
// Appends that arrive while an fsync is under way share the next one. What is not acknowledged yet is not shown either,
// so no reader is ever ahead of the log (TestNothingIsShownBeforeItIsOnDisk).
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
// group commit is what carries the load (BenchmarkAppend). While one commit is on
// its way to the disk, the writer decides what has come meanwhile, against that one
// too, and fills the next; an answer waits for all that it rests on
// (TestWritersOfOneBatchSeeEachOther). What waits for the writer is bounded: past
// 64 MiB the disk is too slow for what comes, and the answer is Unavailable
// (TestADiskThatIsTooSlowIsNotWaitedForInMemory).
//
// Most appends begin a stream, and to find that a stream is not there Pebble
// searches each of its memtables in vain: a seventh of what an append took. So a
// roster in memory, a filter of up to 21 MiB, says of most streams that are not
// there that they are not. It is filled from the log while the node is in use
// already, so opening takes no longer; until it is whole, or where damage keeps it
// from that, heads are looked for as ever (TestStreamsAreListedPageByPage,
// TestAStreamWhoseHeadIsDamagedIsNotTakenForANewOne). A stream that is there never
// passes for a new one, after deletions, scavenges, restarts and crashes
// (TestAStreamThatIsThereIsNeverTakenForANewOne). To keep the filter in a file would
// save the reading, and would make it one more thing that a crash could leave wrong.
//
// BatchAppend saves what a call of its own costs an append, which is most of it
// (BenchmarkBatchAppend): many appends go through one call, each refused or done
// for itself (TestWhatIsWrongWithAnAppendOfABatchIsToldAndEndsNothing), and written
// in the order in which they became whole (TestABatchIsWrittenInItsOrder). What a
// client may leave unfinished is bounded (TestAClientCannotBeginWithoutEnd), in time
// as well, by two seconds, as in EventStoreDB
// (TestAnAppendThatIsNotFinishedInTimeIsToldSo).
//
// All of it together looks to its clients as if it did one thing at a time: a
// stream answers appends, deletions and reads in an order that agrees with the
// clock, repeats and lost answers included, and so does $all
// (TestTheNodeIsLinearizable, and TestAHistoryThatCannotBeIsFound for the checker).
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
// Who is in the node's own process makes calls without a connection (NewStream). They
// are the same calls, with the messages as they lie on the wire, the same checks, the
// same answers (TestACallFromWithinIsToldWhatOneByASocketIsTold) and the same bounds
// (TestWhoFollowsSlowlyFromWithinHoldsUpNobodyAndLittleMemory), and they end with their
// context and with the node (TestACallFromWithinEndsWithItsContext,
// TestACallFromWithinEndsWithTheNode). What they go without is HTTP/2: headers, frames,
// windows, and four goroutines and four system calls between an append and its answer.
// That is a third of what an append takes where few are under way, and a tenth where
// many are (esdbstore's BenchmarkAppend). A listener in memory, which would leave all
// this to gRPC, takes as much CPU as the socket does: it saves the system calls and
// keeps the rest.
//
// What a client sends is bounded before it is believed: its messages, an append,
// names and types, patterns, and how many calls it has open
// (TestTenThousandCallsOfOneClient, TestAnAppendWithoutEndIsEnded). The decoder of
// appends reads what the generated types would (FuzzAppendMessage). What could not
// be told to readers is not taken (TestNamesThatCannotBeToldAreRefused). Whoever
// connects and never calls does not keep a node from closing
// (TestConnectionsThatSayNothingStopNobody).
//
// A backup is a checkpoint of Pebble's, taken between two commits without
// stopping them, so it is the log as it was at one moment
// (TestABackupUnderLoadIsAWholeLog). Verify reads a log that nobody has open and
// finds what has changed on the disk (TestCheckFindsDamage,
// TestAFlippedByteInAFileIsToldWithItsPlace, TestNoByteOfALogChangesUnnoticed). A
// node on such a log tells so whoever asks for what is damaged, and serves the rest
// (TestADamagedFileIsToldNotServed); a write-ahead log that can't be read and goes
// on is not opened, since Pebble would take the damage for its end
// (TestALogThatWouldLoseItsEndIsNotOpened). Logs of every format there was are kept
// and read by every later version (TestALogOfEveryFormatIsRead).
//
// A disk that fills up stops appends and nothing else: they are answered
// Unavailable at once, those under way too, whose outcome is then unknown and
// which may be sent again with the same ids. When there is room again they go on
// (TestAFullDiskStopsAppendsAndNothingElse, TestNoRoomForOneFileOfTheLogIsWaitedFor).
// A disk that is too slow for what comes in is not waited for without bound
// (TestADiskThatIsTooSlowIsNotWaitedForInMemory). Before that a reserve is kept, which
// only what makes room may use (TestAReserveIsLeftForWhatMakesRoom). An fsync that
// fails, or any other error of the disk, ends the process: what is on the disk is
// then known only to who reads it anew (TestAnFsyncThatFailsEndsTheProcess).
//
// A byte that has changed on the disk is not served but told, as DataLoss to
// whoever reads it. All that Pebble reads has checksums; but it takes the first
// place that makes no sense in a write-ahead log, or in its list of tables, for
// the end of the file, and goes on without what is behind. So a file of our own,
// WITNESS, says how much of these was synced and what it was, and a folder that
// does not agree is not opened, which would change it
// (TestAFlippedByteIsToldAndNeverServed). What was synced in the tenth of a second
// before a kill or a power failure is not in it yet.
//
// It never says what a crash could make untrue: a file is in it only once it was
// synced, and out of it before it is removed or used again. So a log that crashed,
// at whatever moment, is opened and whole
// (TestACrashAtAnyOperationLosesNothingAndIsOpened). Where the witness is itself what
// is wrong, say because somebody put older files back, there is a way around it: keep
// a copy of the folder, see what verify finds, and remove WITNESS. What is there is
// then the log, and a new witness begins (TestWhoRemovesTheWitnessOpensWhatIsThere). A
// write-ahead log that is refused without it too has to be cut off at the byte that
// the refusal names; what stood behind that is gone (TestALogThatWasCutOffIsOpened).
//
// # Where it differs from EventStoreDB
//
// It was held against the source of 24.10 and of its clients. What it does
// otherwise, it does for a reason.
//
// Positions count events from 1 and are not byte offsets. They are opaque there,
// and contiguous here until something is scavenged.
//
// A request that makes no sense is answered InvalidArgument, with what is wrong
// with it, where the server has an exception and answers Unknown
// (TestARequestThatMakesNoSenseIsRefused, TestAReadThatMakesNoSenseIsRefused).
// Names and types are UTF-8, without NUL and of up to 4 KiB; the server takes all,
// and makes one stream of two whose names are no UTF-8
// (TestNamesThatCannotBeToldAreRefused). In trailers, names that are not ASCII are
// percent-encoded, since a header could not bring them.
//
// A stream's $acl is kept and told, and nobody is held to it: who was let in by a
// door may do everything (TestMetadataIsKeptToTheLetter). Metadata goes with its
// stream and is not deleted by itself.
//
// An append waits for the disk as long as its caller does; the server gives up
// after two seconds, with an outcome that is as unknown. An append of nothing
// changes nothing, where the server brings a deleted stream back by it
// (TestAnAppendOfNothingIsCheckedToo). Where a deleted stream begins again, its new
// metadata stands before its new events in the log, and not behind them, so that
// whoever follows the log never sees events of a stream that is deleted.
//
// A repeat at no revision is known if it is among the newest 16,000 events, and by
// the node that wrote them; the server counts these by bytes
// (TestARepeatThatNamesNoRevisionIsKnownAmongTheNewest).
//
// Patterns of filters are Go's, in time linear to the text: no look-around and no
// back-references, which are refused (TestPatternsWithoutLinearTimeAreRefused).
//
// Streams whose names begin with $ce- or $et- are the node's own: an append, a
// deletion or metadata is refused, and to administrators too. What a folder of
// before has in a stream of such a name is in $all only. See Links for the rest.
//
// # Links
//
// $ce-<category> and $et-<type> have a link to each event of the streams of a
// category, which is what stands before the first dash of their names, and to each
// event of a type, as EventStoreDB's standard projections make them
// (TestACategoryHasLinksToTheEventsOfItsStreams, TestATypeHasLinksToItsEvents). Events
// of system streams have none. Deletions have one in their category and in
// $et-$deleted, metadata has in $et-$metadata, and a link in a category leads where
// it leads (TestALinkOutlivesItsEvent, TestALinkInACategoryLeadsWhereItLeads). They
// are read, followed, and given to persistent subscriptions, as links or as the
// events they lead to (TestLinksAreReadBothWays,
// TestASubscriptionToLinksCatchesUpAndGoesOn, TestAGroupReadsLinks).
//
// They are an index and no events: $all has none of them, and positions are as
// without (TestLinksAreNotInTheLog). A link stands at the position of its event, and
// has its time. It keeps where it leads, so it is there when the event is not shown
// any more, or was thrown away, and then leads nowhere (TestALinkOutlivesItsEvent).
// What a scavenge leaves of an event is that: its number and its stream's name, which
// the stream's head has anyway.
//
// They are made behind the log, by one who follows it, and a kind of them not before
// one of it is asked for. A kind that nobody reads costs an append nothing, and the
// disk neither; one that somebody has read once is kept up from then on
// (BenchmarkAppendWithLinks). So an older folder gets its links when they are asked
// for, and a log is opened as fast as without
// (TestAFolderOfBeforeGetsItsLinksWhenTheyAreAskedFor). Had the writer made them, in
// the commit of the events, every append would pay for them, read or not, and older
// logs would still have to be gone through; had there been no index, each reader would
// go through all events there are to learn a number. Nobody sees that they come later:
// a read waits until all that was committed when it came has its links, so who appends
// and then reads finds it. Only the first one waits for long, for all there is
// (BenchmarkMakeLinks); it may give up, and they are made nevertheless.
//
// Numbers are those of the order of the log, of what was there when links were first
// asked for and of all that came since. They never change: not by a restart or a
// scavenge (TestLinksAreWhatTheLogWas), and not by a crash, though no fsync waits for
// links (TestLinksKeepTheirNumbersThroughCrashes). What is lost of them is the end,
// and is made again from the same events, since a scavenge throws nothing away that
// has no link yet (TestAScavengeThrowsNothingAwayThatHasNoLink), and its commit in the
// write-ahead log stands behind the links it relies on. For the same reason a program
// that knows of no links may use the folder meanwhile, whose format is the same: what
// it writes has its links later (TestLinksThatAreMissingAreMadeAgain), and what it
// throws away without a link never had a number.
//
// Memory is bounded: how many links there are is remembered of the names that were
// used last, and else asked of the log. Backups have links as the log has them
// (TestABackupHasItsLinks), Verify compares them with the events
// (TestVerifyFindsDamageToLinks), and Figures says how far they go.
//
// Otherwise than there, a link to metadata leads to it, and not to the event of its
// stream that has the same number; a link's own metadata leaves out the version of a
// projection and the id of the event; and of the other streams that projections make,
// $streams, $category- and $bc-, there are none. An event whose disk has damaged it
// holds up all links behind it, and what a scavenge would throw away there.
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
	pb "github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"cartwright/infra/esdbnode/persistent"
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
	Reserve    int64            // how many bytes appends leave free on the disk, 64 MiB when 0, none when negative
}

// Node is an open node. Its methods may be called concurrently.
type Node struct {
	store     *store
	log       *slog.Logger
	fs        vfs.FS
	server    *grpc.Server
	streams   *streamsService
	groups    *persistent.Service
	strangers *strangers
	calls     *calls // from within
	closeOnce sync.Once
	closeErr  error

	using  sync.RWMutex // held for reading by what must not find the log closed
	closed bool
}

// maxMessage is the largest message taken: what the official client takes, so
// that an append that is too large is told so, rather than cut off.
const maxMessage = 17 << 20

// maxCalls is how many calls one connection may have open, subscriptions among
// them; the client waits with the next one until one has ended. Each may hold an
// append that is not all there yet, so this bounds what one client can make the
// node hold. An official client in a busy service has some hundred.
const maxCalls = 1000

// maxHeaders is what a call may bring in headers: credentials, and what proxies add.
const maxHeaders = 64 << 10

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
	n := &Node{store: s, log: o.Log, fs: o.FS, server: newServer(&s.meters), strangers: newStrangers(), calls: newCalls()}
	n.streams = &streamsService{store: s, maxAppend: o.MaxAppend}
	streams.RegisterStreamsServer(n.server, n.streams)
	serverfeatures.RegisterServerFeaturesServer(n.server, featuresService{})
	gossip.RegisterGossipServer(n.server, gossipService{now: o.Now})
	n.groups = persistent.Start(context.Background(), groupLog{s}, persistent.Options{Log: o.Log, User: userOf})
	pb.RegisterPersistentSubscriptionsServer(n.server, n.groups)
	return n, nil
}

func newServer(m *meters) *grpc.Server {
	return grpc.NewServer(
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.NumStreamWorkers(64), grpc.WriteBufferSize(128<<10), grpc.ReadBufferSize(128<<10),
		grpc.MaxConcurrentStreams(maxCalls),
		grpc.MaxHeaderListSize(maxHeaders),
		// The client pings every ten seconds, streams or not; grpc's default would hang up on it.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		// A client that is gone without a word is missed, and what it had open is ended.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		grpc.WaitForHandlers(true), // the log is closed only after nobody uses it
		grpc.Creds(doorkeeper{}),
		grpc.ConnectionTimeout(handshake),
		grpc.ChainUnaryInterceptor(m.countUnary, admitUnary),
		grpc.ChainStreamInterceptor(m.countStream, admitStream),
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
	if err := n.server.Serve(entrance{l, g, n.strangers}); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	}
	return nil
}

// Head is the position of the last event in the log, 0 when there is none.
func (n *Node) Head() uint64 { return n.store.tail.last() }

// Close stops listening, ends subscriptions, lets calls that are under way
// finish until ctx ends, and closes the log. Whatever was acknowledged is on
// disk with or without it. A second call answers as the first did. While the disk
// is full, Close does not wait for room: it fails, and the process had better end.
func (n *Node) Close(ctx context.Context) error {
	n.closeOnce.Do(func() { n.closeErr = n.close(ctx) })
	return n.closeErr
}

func (n *Node) close(ctx context.Context) error {
	close(n.store.closing)
	n.groups.Stop(ctx)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		n.server.GracefulStop()
		n.calls.wait()
	}()
	n.strangers.hangUp()
	select {
	case <-stopped:
	case <-ctx.Done():
		n.calls.abandon()
		n.server.Stop()
		<-stopped
	}
	n.streams.receiving.Wait()
	n.groups.Wait()
	if err := n.store.close(n.unused); err != nil {
		return fmt.Errorf("close event log: %w", err)
	}
	return nil
}

// unused tells whether nobody uses the log any more, and nobody will.
func (n *Node) unused() bool {
	if !n.using.TryLock() {
		return false
	}
	defer n.using.Unlock()
	n.closed = true
	return true
}
