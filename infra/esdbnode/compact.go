package esdbnode

import (
	"context"
	"fmt"
)

// Compact writes all tables anew, as few and as dense as can be, and returns when
// that is done. Pebble does what is needed by itself: this is for a log that was
// just filled or scavenged and is to be read or copied a lot next. It takes up to
// the log's size again on the disk while it is under way. Appends and reads go on,
// and it may be broken off at any time.
func (n *Node) Compact(ctx context.Context) error {
	n.using.RLock()
	defer n.using.RUnlock()
	if n.closed {
		return fmt.Errorf("compact: %w", errClosing)
	}
	ctx, stop := n.store.untilClosing(ctx)
	defer stop()
	select {
	case n.store.scavenging <- struct{}{}: // a scavenge compacts too
		defer func() { <-n.store.scavenging }()
	case <-ctx.Done():
		return fmt.Errorf("compact: %w", context.Cause(ctx))
	}
	err := (&scavenge{store: n.store}).flush(ctx)
	if err == nil {
		err = n.store.db.Compact(ctx, []byte{0}, []byte{0xff}, true)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	return nil
}
