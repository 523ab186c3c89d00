package elasticviews

import (
	"context"
	"fmt"

	"cartwright/domain/event"
)

// Stored gives the revisions of the live documents there are of some streams,
// whether lists show them yet or not. It asks for no refresh.
func (v *Views[V]) Stored(ctx context.Context, streams []string) (map[string]event.Revision, error) {
	revisions := make(map[string]event.Revision, len(streams))
	_, err := v.live.find(ctx, streams, false, func(f found) error {
		revisions[f.ID] = event.Revision(f.Version) //nolint:gosec // as it was stored
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("get %d stored revisions of %s: %w", len(streams), v.name, err)
	}
	return revisions, nil
}
