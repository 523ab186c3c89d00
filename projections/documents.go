package projections

import (
	"time"

	"cartwright/domain/account"
	"cartwright/domain/catalog"
	"cartwright/domain/event"
	"cartwright/domain/order"
	"cartwright/domain/payment"
)

// A Doc is one stream's document in a view, with the revision it is at.
type Doc[V any] struct {
	Stream   string
	Revision event.Revision
	Body     V
}

// Order is the document of one order: the aggregate's own state, so that the
// view refuses what the aggregate refuses, and when things happened.
type Order struct {
	State       order.Order `json:"state"`
	PlacedAt    time.Time   `json:"placed_at,omitzero"`
	PaidAt      time.Time   `json:"paid_at,omitzero"`
	ShippedAt   time.Time   `json:"shipped_at,omitzero"`   // when the last of it shipped
	DeliveredAt time.Time   `json:"delivered_at,omitzero"` // when the last parcel arrived
	CompletedAt time.Time   `json:"completed_at,omitzero"`
	EndedAt     time.Time   `json:"ended_at,omitzero"`  // cancelled or refunded
	ClosedAt    time.Time   `json:"closed_at,omitzero"` // when it was first completed, cancelled or refunded
	ChangedAt   time.Time   `json:"changed_at,omitzero"`
}

// Stock is the document of one SKU's stock: sums, not the holds behind them (a hot SKU has too many).
type Stock struct {
	SKU         string    `json:"sku"`
	OnHand      int64     `json:"on_hand"`
	Held        int64     `json:"held"`
	Allocated   int64     `json:"allocated"`
	Unavailable int64     `json:"unavailable"`
	Safety      int64     `json:"safety"`
	Backorder   int64     `json:"backorder"`
	ChangedAt   time.Time `json:"changed_at,omitzero"`

	// SweepAt is no later than the first expiry of a hold that is still open;
	// zero when nothing is held. It is a lower bound: whoever looks then asks
	// the stream which holds are over.
	SweepAt time.Time `json:"sweep_at,omitzero"`

	Shards int   `json:"shards,omitempty"` // into which the SKU is divided, as its first one knows; the others are documents too
	Moved  int64 `json:"moved,omitempty"`  // of what is on hand: what came from other shards less what went to them
}

// Offer is the document of one SKU's offer.
type Offer struct {
	Snapshot  catalog.Snapshot            `json:"snapshot"`
	Digest    string                      `json:"digest"`
	OnSale    bool                        `json:"on_sale"`
	ChangedAt time.Time                   `json:"changed_at,omitzero"`
	Known     map[string]catalog.Snapshot `json:"known,omitempty"` // every snapshot there was, by digest
}

// Account is the document of one account.
type Account struct {
	ID        string    `json:"id"`
	Currency  string    `json:"currency"`
	Balance   int64     `json:"balance"`
	Held      int64     `json:"held"`
	Entries   int64     `json:"entries"`
	OpenedAt  time.Time `json:"opened_at,omitzero"`
	ChangedAt time.Time `json:"changed_at,omitzero"`
	SweepAt   time.Time `json:"sweep_at,omitzero"` // as Stock's

	// Fresh are the entries of the events since the document was read. They are
	// no part of it: an engine stores them beside it, in the same write.
	Fresh []Entry `json:"-"`
}

// Payment is the document of one payment: the aggregate's own state, and when
// things happened.
type Payment struct {
	State      payment.Payment `json:"state"`
	CreatedAt  time.Time       `json:"created_at,omitzero"`
	CapturedAt time.Time       `json:"captured_at,omitzero"`
	ChangedAt  time.Time       `json:"changed_at,omitzero"`
}

// An Entry is one line of an account's statement.
type Entry struct {
	Account string `json:"account"`
	account.Entry
	Balance int64     `json:"balance"` // after it
	At      time.Time `json:"at"`
}

// A Deadline is when a stream wants to be looked at.
type Deadline struct {
	Stream string
	Due    time.Time
}

// A Cursor is a place in a list ordered by (At, ID): the last one already seen.
type Cursor struct {
	At time.Time
	ID string
}

// A Scope says which orders are asked for: those at hand, those that were put
// away, or all. The empty one is all.
type Scope string

// The scopes there are.
const (
	All     Scope = "all"
	Recent  Scope = "recent"  // what the archive does not have
	Archive Scope = "archive" // what it has
)

// An OrderQuery asks for a buyer's or a seller's orders, newest first, or
// oldest first when only what is to be shipped is wanted.
type OrderQuery struct {
	Buyer, Seller string // one of them
	Status        string // any if empty
	ToShip        bool   // paid, and something left to ship
	From, To      time.Time
	Text          string // every word of it, in titles, SKUs and ids
	Scope         Scope
	Limit         int
	After         *Cursor
}

// An OrderPage is part of a list. Next is nil at its end.
type OrderPage struct {
	Items []Doc[Order]
	Next  *Cursor
}

// A SummaryQuery asks what a seller sold of what was placed in [From, To).
type SummaryQuery struct {
	Seller   string
	From, To time.Time // zero: no bound
	Interval string    // "", "day" or "month" (UTC)
}

// Sums are counts and minor units in one currency's orders.
type Sums struct {
	Orders   int64            `json:"orders"`
	Units    int64            `json:"units"`
	Gross    int64            `json:"gross"`
	Refunded int64            `json:"refunded"`
	ByStatus map[string]int64 `json:"by_status"`
}

// A Bucket is the sums of one interval.
type Bucket struct {
	Start time.Time `json:"start"`
	Sums
}

// A Summary is the answer: one set of sums a currency.
type Summary struct {
	Seller     string
	ByCurrency map[string]Sums
	Buckets    map[string][]Bucket // by currency, oldest first, only when an interval was asked for
}

// An EntryPage is part of a statement, newest entry first. Next is the number
// of the last entry given, 0 at the end.
type EntryPage struct {
	Items []Entry
	Next  int64
}
