// Package order is the order aggregate: one seller's part of a checkout, from
// the moment its stock is held until it is completed, cancelled or refunded.
// Its stream is the only arbiter of what became of it: stock, accounts and
// carriers carry out what it decided, and report back.
//
// # Why
//
// The status has seven values and one table (TestTheMachine). What is paid and
// what has gone out are axes of their own, pure functions of amounts and
// quantities (Payment, Fulfilment): combined states such as "partially shipped,
// partially refunded" would multiply, and each would need its own rules.
//
// Every decision of more than one event is made by applying each to a copy
// before the next is decided (see draft). So Shipped and Refunded follow from
// quantities by one function, ending, wherever a parcel or a refund comes from
// (TestDecisionsAlwaysReplay, TestAnOrderNeverEndsTwice).
//
// A refund that gives back the last of the money ends the order. It also takes
// in whatever has not shipped, so that no stock stays allocated to an order
// that will never ship it (TestTheLastRefundTakesInWhatWillNotShip).
//
// Evolve checks sums and sequences, not policy: how many lines an order may
// have, how long a text may be and which currencies are known are asked by
// Decide only, so that a changed limit can't make an old history illegal
// (TestPolicyDoesNotJudgeHistory).
//
// What is refunded of a line remembers how much of it was freight. So freight
// can go back by itself, for a late parcel, and does not go back again with the
// units (TestFreightIsGivenBackOnce).
//
// An order settles with its seller once, when it is completed: whatever is
// refunded until then comes out of what the platform holds, whatever is refunded
// later out of what the seller got. The commission is rounded once per line, and
// stored. Each later refund gives back its share of it, rounded over the sum of
// them and not one by one: a seller of whose order nothing is left has paid no
// commission, to the minor unit (TestTheWholeCommissionGoesBack).
//
// The time by which an order may complete by itself is stored when a parcel
// arrives, as the server has it then; no later change of the rule moves it, and
// a delivery without one, such as an imported one, leaves it to the buyer
// (TestWhenAnOrderCompletesByItself). Evolve does not judge it.
//
// Texts, carriers and addresses are stored as given. The address is sealed
// before it gets here; this package never sees one.
package order

import (
	"slices"
	"time"

	"cartwright/domain"
)

// Order is the state of one order, and the document its views store: its JSON
// gives back exactly what went in (TestStateSurvivesJSON).
type Order struct {
	ID       string `json:"id,omitempty"`
	Checkout string `json:"checkout,omitempty"`
	Buyer    string `json:"buyer,omitempty"`
	Seller   string `json:"seller,omitempty"`
	Currency string `json:"currency,omitempty"`
	Status   Status `json:"status"`
	Lines    []Item `json:"lines,omitempty"`
	Address  []byte `json:"address,omitempty"` // sealed under the buyer's key

	Attempt   string    `json:"attempt,omitempty"`
	Abandoned []string  `json:"abandoned,omitempty"` // attempts that can't place this order any more
	Deadline  time.Time `json:"deadline,omitzero"`   // of payment
	Siblings  []Sibling `json:"siblings,omitempty"`

	Paid      int64       `json:"paid"` // minor units, as received
	Method    string      `json:"method,omitempty"`
	PaymentID string      `json:"payment_id,omitempty"` // of the channel, if one was paid through
	Parcels   []Parcel    `json:"parcels,omitempty"`
	Refunds   []Repayment `json:"refunds,omitempty"`

	Cancellation *Cancellation `json:"cancellation,omitempty"` // also of a paid order that was given up and refunded
	Completes    time.Time     `json:"completes,omitzero"`     // the latest that a delivery named; see CompletesAt
	CompletedBy  string        `json:"completed_by,omitempty"`
	Settlement   *Settlement   `json:"settlement,omitempty"`

	StockCommitted  bool `json:"stock_committed,omitempty"`
	PaymentCaptured bool `json:"payment_captured,omitempty"`
	StockReleased   bool `json:"stock_released,omitempty"`
}

// An Item is a line and what has become of its units.
type Item struct {
	Line
	Packed            int64 `json:"packed,omitempty"`             // in parcels that have not shipped
	Shipped           int64 `json:"shipped,omitempty"`            // ever, returned or not
	RefundedUnshipped int64 `json:"refunded_unshipped,omitempty"` // that will not ship
	Returned          int64 `json:"returned,omitempty"`           // of the shipped ones
	Refunded          int64 `json:"refunded,omitempty"`           // minor units
	RefundedFreight   int64 `json:"refunded_freight,omitempty"`   // of these
}

// ParcelStatus is where a parcel stands.
type ParcelStatus string

// A parcel begins packed.
const (
	ParcelIsPacked    ParcelStatus = "packed"
	ParcelIsShipped   ParcelStatus = "shipped"
	ParcelIsDelivered ParcelStatus = "delivered"
	ParcelIsUnpacked  ParcelStatus = "unpacked"
)

// A Parcel is some of an order on its way.
type Parcel struct {
	Parcel       int          `json:"parcel"` // from 1, within its order
	Status       ParcelStatus `json:"status"`
	Lines        []Part       `json:"lines"`
	Waybill      Waybill      `json:"waybill,omitzero"`
	History      []Waybill    `json:"history,omitempty"` // older waybills, oldest first
	StockShipped bool         `json:"stock_shipped,omitempty"`
}

// A Waybill is a carrier's number for a parcel, under a version of its own.
type Waybill struct {
	Version int    `json:"version"` // from 1; 0 is none
	Carrier string `json:"carrier"`
	Number  string `json:"number"`
}

// A Repayment is a refund as its order remembers it.
type Repayment struct {
	Refund     int          `json:"refund"` // from 1, within its order
	Lines      []RefundLine `json:"lines"`
	Amount     int64        `json:"amount"` // minor units
	Reason     string       `json:"reason,omitempty"`
	By         string       `json:"by,omitempty"`
	Restock    bool         `json:"restock,omitempty"`
	Settled    bool         `json:"settled,omitempty"`
	FromSeller bool         `json:"from_seller,omitempty"`
	Commission int64        `json:"commission,omitempty"` // of the amount: what the platform gives back to the seller
}

// Payment says how much of its price an order holds.
type Payment string

// The payment axis.
const (
	Unpaid            Payment = "unpaid"
	FullyPaid         Payment = "paid"
	PartiallyRefunded Payment = "partially_refunded"
	FullyRefunded     Payment = "refunded"
	Voided            Payment = "voided" // given up before it was paid
)

// Fulfilment says how much of an order has gone out.
type Fulfilment string

// The fulfilment axis.
const (
	Unfulfilled       Fulfilment = "unfulfilled"
	PartiallyShipped  Fulfilment = "partial"
	FulfilmentShipped Fulfilment = "shipped"
	Delivered         Fulfilment = "delivered"
)

// Decider is the order aggregate.
var Decider = domain.Decider[Order, Command, Event]{Decide: decide, Evolve: evolve, Clone: clone}

// clone copies what Evolve writes to in place or appends to. Slices that are
// only ever replaced, or read, are shared.
func clone(o Order) Order {
	o.Lines = slices.Clone(o.Lines)
	o.Abandoned = slices.Clone(o.Abandoned)
	o.Refunds = slices.Clone(o.Refunds)
	o.Parcels = slices.Clone(o.Parcels)
	for i := range o.Parcels {
		o.Parcels[i].History = slices.Clone(o.Parcels[i].History)
	}
	if o.Settlement != nil {
		o.Settlement = new(*o.Settlement)
	}
	return o
}

// Goods is the price of the articles, in minor units.
func (o Order) Goods() int64 {
	var sum int64
	for _, it := range o.Lines {
		sum += it.Quantity * it.UnitPrice
	}
	return sum
}

// FreightTotal is the price of sending them, in minor units.
func (o Order) FreightTotal() int64 {
	var sum int64
	for _, it := range o.Lines {
		sum += it.Quantity * it.Freight
	}
	return sum
}

// Total is what the order costs. It can't overflow: no order that does is
// placed, nor replayed.
func (o Order) Total() int64 { return o.Goods() + o.FreightTotal() }

// Units is how many units were bought.
func (o Order) Units() int64 {
	var sum int64
	for _, it := range o.Lines {
		sum += it.Quantity
	}
	return sum
}

// RefundedAmount is how much was given back, or decided to be.
func (o Order) RefundedAmount() int64 {
	var sum int64
	for _, it := range o.Lines {
		sum += it.Refunded
	}
	return sum
}

// Net is what was paid less what was given back of it, or decided to be.
func (o Order) Net() int64 { return o.Paid - o.RefundedAmount() }

// Refundable is how much of a line's paid share can still be given back: 0 for
// an order that is not paid, or a line it does not have.
func (o Order) Refundable(line int) int64 {
	it, ok := o.item(line)
	if !ok || !o.hasBeenPaid() {
		return 0
	}
	return it.refundable()
}

// Payment is the order's place on the payment axis.
func (o Order) Payment() Payment {
	if o.Status == StatusCancelled {
		return Voided
	}
	if !o.hasBeenPaid() {
		return Unpaid
	}
	switch back := o.RefundedAmount(); {
	case o.Status == StatusRefunded: // also where all of it was nothing
		return FullyRefunded
	case back == 0:
		return FullyPaid
	case back < o.Paid:
		return PartiallyRefunded
	default:
		return FullyRefunded
	}
}

// Fulfilment is the order's place on the fulfilment axis. Units that were
// refunded before they shipped are not waited for.
func (o Order) Fulfilment() Fulfilment {
	switch {
	case !o.anyShipped():
		return Unfulfilled
	case o.anyToShip():
		return PartiallyShipped
	case slices.ContainsFunc(o.Parcels, func(p Parcel) bool { return p.Status == ParcelIsShipped }):
		return FulfilmentShipped
	default:
		return Delivered
	}
}

// CompletesAt is when the order may complete by itself: once all of it has
// arrived, the latest time that a delivery named. It is zero if it may not.
func (o Order) CompletesAt() time.Time {
	if o.Status != StatusShipped || o.Fulfilment() != Delivered {
		return time.Time{}
	}
	return o.Completes
}

// ending is the event that quantities and money have made due, or nil. It is
// one event: an order that has shipped and been refunded in full is refunded.
func (o Order) ending() Event {
	if _, ok := o.Status.after(Refunded{}); ok && o.allBack() {
		return Refunded{}
	}
	if _, ok := o.Status.after(Shipped{}); ok && o.allShipped() {
		return Shipped{}
	}
	return nil
}

// allShipped says that something has shipped and nothing else is going to.
func (o Order) allShipped() bool { return o.anyShipped() && !o.anyToShip() }

// allBack says that refunds have given back all the money and that nothing is
// left to ship. An order that cost nothing needs a refund to be given back.
func (o Order) allBack() bool {
	return len(o.Refunds) > 0 && o.RefundedAmount() == o.Paid && !o.anyToShip()
}

func (o Order) anyShipped() bool {
	return slices.ContainsFunc(o.Lines, func(it Item) bool { return it.Shipped > 0 })
}

func (o Order) anyToShip() bool {
	return slices.ContainsFunc(o.Lines, func(it Item) bool { return it.toShip() > 0 })
}

func (o Order) hasBeenPaid() bool {
	_, ok := o.Status.after(PaymentCaptured{})
	return ok
}

func (o Order) item(line int) (Item, bool) {
	if line < 1 || line > len(o.Lines) {
		return Item{}, false
	}
	return o.Lines[line-1], true
}

func (o Order) parcel(parcel int) (Parcel, bool) {
	if parcel < 1 || parcel > len(o.Parcels) {
		return Parcel{}, false
	}
	return o.Parcels[parcel-1], true
}

// toShip is how many units have not shipped and still should.
func (it Item) toShip() int64 { return it.Quantity - it.RefundedUnshipped - it.Shipped }

// toPack is how many of them are in no parcel yet.
func (it Item) toPack() int64 { return it.toShip() - it.Packed }

// out is how many units are with the buyer or on their way.
func (it Item) out() int64 { return it.Shipped - it.Returned }

// kept is how many units have not been refunded.
func (it Item) kept() int64 { return it.Quantity - it.RefundedUnshipped - it.Returned }

// refundable is what is left of what the line cost, goods and freight.
func (it Item) refundable() int64 { return it.Quantity*(it.UnitPrice+it.Freight) - it.Refunded }

// freightLeft is what is left of the freight; there may be less money left.
func (it Item) freightLeft() int64 { return it.Quantity*it.Freight - it.RefundedFreight }
