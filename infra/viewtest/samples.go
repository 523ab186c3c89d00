package viewtest

import (
	"time"

	"cartwright/domain/event"
	"cartwright/domain/order"
	"cartwright/projections"
)

// SampleOrder makes documents for Run. They need not be possible orders.
func SampleOrder(number int, at event.Revision, mark string) projections.Doc[projections.Order] {
	return projections.Doc[projections.Order]{
		Stream: streamName("order", number), Revision: at,
		Body: projections.Order{
			PlacedAt: time.Date(2026, 5, 6, 7, 8, 9, 1000, time.UTC),
			State: order.Order{
				ID: event.SubjectID(streamName("order", number)), Buyer: "buyer", Seller: mark, Currency: "CNY", Status: order.StatusPending,
				Lines: []order.Item{{Line: order.Line{Line: 1, SKU: "a", Title: mark, Quantity: 1, UnitPrice: int64(at)}}}, //nolint:gosec // small
			},
		},
	}
}

// SampleAccount makes documents for Run.
func SampleAccount(number int, at event.Revision, mark string) projections.Doc[projections.Account] {
	return projections.Doc[projections.Account]{
		Stream: streamName("account", number), Revision: at,
		Body: projections.Account{ID: mark, Currency: "CNY", Balance: int64(at), SweepAt: time.Date(2026, 5, 6, 7, 8, 9, 1000, time.UTC)}, //nolint:gosec // small
	}
}

// SampleTimer makes documents for Run.
func SampleTimer(number int, at event.Revision, mark string) projections.Doc[projections.Timer] {
	return projections.Doc[projections.Timer]{
		Stream: streamName("order", number), Revision: at,
		Body: projections.Timer{Due: time.Unix(int64(at), 0).UTC(), Held: int64(len(mark))}, //nolint:gosec // small
	}
}
