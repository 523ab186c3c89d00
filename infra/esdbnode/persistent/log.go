// Package persistent keeps persistent subscriptions: groups whose place in a
// stream, or in the whole log, is the server's to remember. Each event is given to
// one of a group's consumers until it is acknowledged, skipped or parked; what is
// not answered in time, or was with a consumer that is lost, is given again. It
// answers the protocol's calls about them, over a log it knows only as a Log.
//
// Every event is given at least once, through restarts, crashes and failed writes
// (TestEveryEventIsDoneInTheEnd, TestNothingIsLostByACrash,
// TestADiskThatFailsLosesNothing), and while the group is changed under its
// consumers (TestChangesWhileConsumersReadLoseNothing). After a restart nothing is
// given that lies before the last checkpoint. What a group stores is events: which
// groups there are in $persistentSubscriptionConfig, how far one has come and what
// it could not do in the streams $persistentsubscription-<stream>::<group>-checkpoint
// and -parked. A scavenge may take what a checkpoint stands on and what was parked
// (TestAGroupOutlivesAScavenge).
//
// # Why
//
// A group is a machine without goroutines: what consumers say changes memory, and
// Work does with the log what follows from that. So its law is tested under any
// order of events, with a clock and a log that are in the test's hands. One
// goroutine a group calls Work; one for all of them listens to the log, and tells
// those that read the stream (TestTheLogIsFollowedOnceForAllGroups). The mutex of a
// group is never held over the log or a call: a caller that takes nothing off its
// connection stops nobody, and what it was given goes to others when its time is up
// (TestOneWhoTakesNothingOffTheConnectionStopsNobody).
//
// A group reads from the log what its buffers have room for, and no more than
// 8 MiB of it, with its consumers or not. One that nobody answers costs that, and
// the appends nothing (TestAGroupThatNobodyAnswersStaysWithinItsBuffers,
// TestOneWhoTakesEverythingGetsWhatTheGroupMayHold). An event that is parked costs
// nothing once that is durable.
//
// A checkpoint is the place before the lowest event that was read and is not done,
// and parked is what is durably so. The parked stream is truncated by the same
// rule (TestAReplayStopsWhereItIsTold). What is replayed is counted there, and
// never in the checkpoint.
//
// An update or a deletion ends the group and its consumers' calls, and the first
// makes another: no group ever has two settings. The stream's tombstone ends it too,
// but for deletion (TestASourceMayBeDeletedAndTruncated).
//
// # Where it is not as EventStoreDB
//
// It follows the server's release 24.10, which was read for it, but for these:
//
//   - Settings that make no sense are refused with InvalidArgument, not Internal,
//     and more of them are; the trailers are the same. To the official client both
//     are an unknown error (TestSettingsThatMakeNoSenseAreRefused).
//   - A group from the end begins after what there was when it was made, also if
//     the node ends before its first checkpoint; there, after what there is when
//     the node is back (TestGroupsGoOnAfterARestart).
//   - Checkpoints pass nothing that waits to be parked, or was held back for a
//     pinned consumer, and replayed events stay parked until they are answered.
//     There all of these can be lost in a crash.
//   - A group that is updated or ends with its node writes a last checkpoint,
//     so less is given twice (TestACheckpointComesWhenItIsDue).
//   - A group on $all is not given checkpoints of groups, nor what it has parked
//     itself: either would feed on its own events
//     (TestAGroupOfAllIsNotFedByItsOwnCheckpoints,
//     TestAGroupOfAllIsNotGivenWhatItHasParked).
//   - Events of the same id are given one after the other; there the second is
//     not tracked (TestTwinsAreGivenOneAfterTheOther).
//   - What expires before its consumer has taken it is taken back
//     (TestWhatExpiresBeforeItIsTakenIsNotGivenTwice).
//   - A message timeout of 0 is none, as clients document it (TestNoTimeoutMeansNever).
//   - There is no live buffer, since the log's own memory is one; its size bounds
//     only what is told about it.
//   - Patterns are Go's, not .NET's, and no stream of its own has an ACL.
//
// As there, nack with Stop stops nothing and lets go of the event, as Skip does
// (TestEveryActionDoesWhatItSays); an answer counts though the event is with another
// consumer by now (TestALateAckStillCounts); what is lost with a consumer is given
// again however often that was, and replayed events wait behind all that is retried
// (TestWhatIsReplayedWaitsBehindWhatIsRetried).
package persistent

import (
	"context"
	"errors"
)

// All stands for the whole log where a stream is named.
const All = "$all"

// What a Log's errors may be asked for.
var (
	// ErrDeleted is of a stream with a tombstone.
	ErrDeleted = errors.New("stream is deleted")
	// ErrUnavailable is of a log that closes, or cannot be used for now.
	ErrUnavailable = errors.New("log is not available")
)

// A Log is where events are read, and where groups keep what must outlive them.
// It may be used concurrently. A place in it is the number of an event in its
// stream, and in the whole log a position.
type Log interface {
	// Append appends to a stream, whatever it has, and returns with the number of
	// the last event when all are durable. Of an event it takes the id, the type
	// and what it says.
	Append(ctx context.Context, stream string, events ...Event) (uint64, error)
	// Read gives some of the events that a reader is shown. It does not wait.
	Read(ctx context.Context, q Query) (Page, error)
	// End is the place of the event that will come next.
	End(ctx context.Context, stream string) (uint64, error)
	// Follow calls each for every event behind a position, in order, until ctx
	// ends. It keeps up however long that takes; each must be quick.
	Follow(ctx context.Context, after uint64, each func(stream string, number, position uint64)) error
}

// An Event is one as it lies in the log.
type Event struct {
	ID       [16]byte
	Stream   string
	Number   uint64
	Position uint64
	Created  int64 // 100 ns since the Unix epoch
	Kind     string
	JSON     bool
	Meta     string
	Data     string
}

// kindLink is the type of an event that stands for one of another stream.
const kindLink = "$>"

// A Found is what a read finds: an event, or a link with the event it leads to,
// which is nil where that is gone.
type Found struct{ Event, Link *Event }

// original is what was read: the link where there is one.
func (f Found) original() *Event {
	if f.Link != nil {
		return f.Link
	}
	return f.Event
}

// size is what it takes to keep it.
func (f Found) size() int {
	n := 512
	for _, e := range [...]*Event{f.Event, f.Link} {
		if e != nil {
			n += len(e.Stream) + len(e.Kind) + len(e.Meta) + len(e.Data)
		}
	}
	return n
}

// A Query asks for events of a stream, or of the whole log, from a place on.
type Query struct {
	Stream  string
	From    uint64
	Limit   int
	Resolve bool                           // links are followed
	Match   func(stream, kind string) bool // of the whole log, and called in its order; nil for every event
}

// A Page is what a Query finds.
type Page struct {
	Found []Found
	Next  uint64 // where to go on: all before that was looked at
	End   bool   // there was nothing from Next on
}
