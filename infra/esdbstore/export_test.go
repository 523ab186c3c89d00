package esdbstore

import "time"

// AppendAlone has each append make its own call, as with a server that has no other.
func (s *Store) AppendAlone() { s.batch.alone.Store(true) }

// LoseSilence has a server left sooner that decides nothing. It is for a store
// that has not appended yet.
func (s *Store) LoseSilence(after time.Duration) { s.batch.silence = after }

// Shared tells the largest append that shares a call.
const Shared = maxBatched
