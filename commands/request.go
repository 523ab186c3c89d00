package commands

import (
	"time"

	"cartwright/domain/event"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/orderid"
	"cartwright/domain/personal"
)

// A Request is who asks for a command and under which name. Its cause is what
// makes a repeat recognisable; every command needs one of its own.
type Request struct {
	Cause       string
	Digest      string // of the command's body
	Correlation string // filled in where it is empty and known
	Actor       string
	At          time.Time // when it happened; zero is now. Only an importer may set it.
	Trace       string
	IfMatch     *event.Revision // refuse, unless the stream is at this revision
	Party       string          // whom it is for, where others may want the same: none of them gets all the places that there are to wait in

	completes bool // brings about what was decided before, or undoes it; it is not kept waiting by what is new
}

// Done is what became of a command on one stream.
type Done[E any] struct {
	Stream   string
	Revision event.Revision // the stream's, once the command's events are in it
	Events   []E            // the command's own; none if it changed nothing
	Repeated bool           // it had been done before
}

// An Item is one line of a cart.
type Item struct {
	SKU      string
	Quantity int64
}

// A Checkout is a cart that shall become orders, one for each seller.
type Checkout struct {
	Order    orderid.ID
	Buyer    string
	Items    []Item
	Address  personal.Address
	Expected *money.Money // refuse another total
}

// Placed is a checkout that stands: its orders, the first one's id being the checkout's.
type Placed struct {
	Orders   []order.Placed // with everything they say, addresses sealed
	Total    money.Money
	Streams  map[string]event.Revision // what a reader must have seen to see it
	Repeated bool
}

// Paid is a checkout whose money is on hold and whose orders are paid.
type Paid struct {
	Checkout string
	Orders   []string // the ids of those this payment paid
	Total    money.Money
	Streams  map[string]event.Revision
	Repeated bool
}
