package commands

import (
	"context"
	"time"

	"cartwright/domain/orderid"
)

// A Draw draws an order id.
type Draw = func(ctx context.Context, buyer string) (orderid.ID, error)

// NewDraws are the two ways of one process to draw ids.
func NewDraws(now func() time.Time) (next, sibling Draw) {
	d := newDrawer(now)
	return d.next, d.sibling
}
