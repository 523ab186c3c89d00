package projections

import (
	"context"
	"time"
)

// Archived tells whether an order belongs in the archive, where the archive has
// what was closed before a time, and in which year's part of it.
//
// An order is closed once and for all, and is placed once, so a later refund
// finds it where it was put (TestOldOrdersAreArchived).
func (o Order) Archived(before time.Time) (year int, archived bool) {
	return o.PlacedAt.UTC().Year(), !o.ClosedAt.IsZero() && o.ClosedAt.Before(before)
}

// An Archiver is an order index in two tiers: what is at hand, and the archive,
// in parts by the year in which orders were placed. Which tier an order is in
// follows from its document and the archive's boundary, and from nothing else,
// so a document that is put goes where it belongs, whenever it comes; it is in
// one tier at a time for whoever asks. The boundary belongs to a generation; a
// new one begins with that of the live one, so a rebuild fills both tiers.
// Lists may ask for either or for both; everything else knows no tiers.
type Archiver interface {
	// Archive moves the boundary of the live generation on, and what was closed
	// before it into the archive. An earlier one than there is moves nothing.
	// After an error, and after a kill, it may be asked again and goes on. It runs
	// beside readers and writers. Told hears now and then how many were moved; it may be nil.
	Archive(ctx context.Context, before time.Time, told func(moved int64)) (moved int64, err error)
	// Tiers says how many documents are where in the live generation: at hand
	// first, then by year.
	Tiers(ctx context.Context) ([]Tier, error)
	// Boundary is what the archive of the live generation has: what was closed
	// before it. It is zero where nothing was ever archived.
	Boundary(ctx context.Context) (time.Time, error)
}

// A Tier is a part of an order index.
type Tier struct {
	Year      int   `json:"year"` // 0 is what is at hand
	Documents int64 `json:"documents"`
}
