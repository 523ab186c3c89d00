package esdbstore

import (
	"context"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"

	"cartwright/domain/event"
)

// AppendAlone has each append make its own call, as with a server that has no other.
func (s *Store) AppendAlone() { s.batch.alone.Store(true) }

// LoseSilence has a server left sooner that decides nothing. It is for a store
// that has not appended yet.
func (s *Store) LoseSilence(after time.Duration) { s.batch.silence = after }

// Shared tells the largest append that shares a call.
const Shared = maxBatched

// Heard reads a message of a subscription as a call of our own does.
func Heard(message []byte) (event.Notice, error) {
	var u utterance
	if err := newFollowCodec().parse(message, &u); err != nil {
		return event.Notice{}, err
	}
	n, _ := new(follower).notice(u)
	return n, nil
}

// ByClient follows through the client, as in a cluster, until take says no.
func (s *Store) ByClient(ctx context.Context, after uint64, prefixes []string, take func(event.Notice) bool) error {
	f := &follower{at: after, prefixes: prefixes}
	return s.listen(ctx, f.options(), func(e *esdb.SubscriptionEvent) bool {
		n, ok := f.notice(hears(e))
		return !ok || take(n)
	})
}
