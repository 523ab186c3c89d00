package order

import (
	"time"

	"cartwright/domain"
	"cartwright/domain/event"
)

// A Line is one article of an order. What it costs is fixed when it is sold.
type Line struct {
	Line      int    `json:"line"` // from 1, within its order
	SKU       string `json:"sku"`
	Title     string `json:"title"`
	Offer     string `json:"offer"` // digest of the offer's snapshot it was sold under
	Quantity  int64  `json:"quantity"`
	UnitPrice int64  `json:"unit_price"`      // minor units
	Freight   int64  `json:"freight"`         // minor units, per unit
	Shard     int    `json:"shard,omitempty"` // of the SKU's stock, where it is divided: the one that held the goods
}

// Stock names the stock that the line's goods are in.
func (l Line) Stock() string { return domain.StockID(l.SKU, l.Shard) }

// A Sibling is another seller's order of the same checkout. The checkout's
// first order records them all, so that whoever finds it can append the rest.
type Sibling struct {
	Order  string    `json:"order"`
	Seller string    `json:"seller"`
	Lines  []Line    `json:"lines"`
	At     time.Time `json:"at,omitzero"` // when it was placed, where an import says so
}

// A Part is some of a line.
type Part struct {
	Line     int   `json:"line"`
	Quantity int64 `json:"quantity"`
}

// A RefundLine is what a refund gives back of one line.
type RefundLine struct {
	Line      int   `json:"line"`
	Unshipped int64 `json:"unshipped"`         // units that will not ship any more
	Returned  int64 `json:"returned"`          // units that had shipped
	Amount    int64 `json:"amount"`            // minor units, goods and freight
	Freight   int64 `json:"freight,omitempty"` // how much of that is freight
}

// Reason is why an order ended early.
type Reason string

// The reasons there are.
const (
	Timeout    Reason = "timeout"
	ByBuyer    Reason = "buyer"
	BySeller   Reason = "seller"
	ByOperator Reason = "operator"
	Risk       Reason = "risk"
	Stock      Reason = "stock"
)

// A Cancellation is the record of who gave an order up, and why.
type Cancellation struct {
	Reason Reason `json:"reason"`
	By     string `json:"by"`
	Note   string `json:"note,omitempty"`
}

// Command is a wish: it may be refused.
//
//sumtype:decl
type Command interface{ command() }

type (
	// Place asks for a new order whose stock is already held.
	Place struct {
		Order, Checkout, Buyer, Seller, Currency string
		Lines                                    []Line
		Address                                  []byte // sealed
		Attempt                                  string // the run of the checkout that took the holds
		Deadline                                 time.Time
		Siblings                                 []Sibling
	}
	// Abandon fences an attempt that took holds and never placed its order.
	Abandon struct{ Attempt string }
	// Pay records that the order's amount stands held on the buyer's account,
	// or has come in through a channel.
	Pay struct {
		Amount   int64
		Currency string
		Method   string
		Payment  string // of the channel, which may have paid other orders too
	}
	// RecordStockCommitted notes that the order's holds became allocations.
	RecordStockCommitted struct{}
	// RecordPaymentCaptured notes that the money went to escrow.
	RecordPaymentCaptured struct{}
	// RecordStockReleased notes that a cancelled order holds no stock and no money any more.
	RecordStockReleased struct{}
	// RecordStockShipped notes that a parcel's goods left the stock.
	RecordStockShipped struct{ Parcel int }
	// RecordRefundSettled notes that a refund's money and stock are back.
	RecordRefundSettled struct{ Refund int }
	// Cancel gives an order up; one that is paid is refunded in full.
	Cancel struct{ Cancellation }
	// ChangeAddress sends the order elsewhere, until something is packed.
	ChangeAddress struct{ Address []byte }
	// Pack puts lines into a parcel; with a waybill it ships at once.
	Pack struct {
		Lines           []Part
		Carrier, Number string // of the waybill, both or neither
	}
	// Unpack takes a parcel apart that has not shipped.
	Unpack struct{ Parcel int }
	// SetWaybill names the carrier's number for a parcel. The first one ships
	// it. Version is the waybill's own version that the caller knows; 0 is none.
	SetWaybill struct {
		Parcel          int
		Version         int
		Carrier, Number string
	}
	// Deliver records that a parcel arrived.
	Deliver struct {
		Parcel    int
		Completes time.Time // when the order may complete by itself for it; none for an imported one
	}
	// Complete is the buyer's word that all is well.
	Complete struct{ By string }
	// Settle decides what the seller earns by a completed order.
	Settle struct {
		CommissionBP int64 // the platform's part, in basis points
	}
	// RecordSettlementPosted notes that the seller has what was settled.
	RecordSettlementPosted struct{}
	// Refund gives back lines, by quantity, by amount, or both. No lines means all that is left.
	Refund struct {
		Lines   []RefundRequest
		Reason  string
		By      string
		Restock bool // shipped units go back on the shelf
	}
)

// A RefundRequest asks for some of a line back. Without an amount it is the
// stored share of the quantity; without a quantity only money moves. The
// freight is asked for by itself, and all that is left of it.
type RefundRequest struct {
	Line     int
	Quantity int64
	Amount   *int64
	Freight  bool
}

func (Place) command()                  {}
func (Abandon) command()                {}
func (Pay) command()                    {}
func (RecordStockCommitted) command()   {}
func (RecordPaymentCaptured) command()  {}
func (RecordStockReleased) command()    {}
func (RecordStockShipped) command()     {}
func (RecordRefundSettled) command()    {}
func (Cancel) command()                 {}
func (ChangeAddress) command()          {}
func (Pack) command()                   {}
func (Unpack) command()                 {}
func (SetWaybill) command()             {}
func (Deliver) command()                {}
func (Complete) command()               {}
func (Settle) command()                 {}
func (RecordSettlementPosted) command() {}
func (Refund) command()                 {}

// Event is a fact: it is never refused, only found impossible.
//
//sumtype:decl
type Event interface{ event() }

type (
	// Placed opens an order.
	Placed struct {
		Order    string    `json:"order"`
		Checkout string    `json:"checkout"` // the id of the checkout's first order
		Buyer    string    `json:"buyer"`
		Seller   string    `json:"seller"`
		Currency string    `json:"currency"`
		Lines    []Line    `json:"lines"`
		Address  []byte    `json:"address"` // sealed under the buyer's key
		Attempt  string    `json:"attempt"`
		Deadline time.Time `json:"deadline,omitzero"` // of payment; none for an imported order
		Siblings []Sibling `json:"siblings,omitempty"`
	}
	// Abandoned fences an attempt: it can place this order no more.
	Abandoned struct {
		Attempt string `json:"attempt"`
	}
	// Paid is the decision that the order's money is the seller's to earn.
	Paid struct {
		Amount  int64  `json:"amount"`
		Method  string `json:"method"`
		Payment string `json:"payment,omitempty"` // of the channel; none for one from a balance
	}
	// StockCommitted says the holds are allocations now.
	StockCommitted struct{}
	// PaymentCaptured says the money is in escrow.
	PaymentCaptured struct{}
	// StockReleased says a cancelled order holds neither stock nor money.
	StockReleased struct{}
	// StockShipped says a parcel's goods left the stock.
	StockShipped struct {
		Parcel int `json:"parcel"`
	}
	// RefundSettled says a refund's money and stock are where they belong.
	RefundSettled struct {
		Refund int `json:"refund"`
	}
	// Cancelled ends an order that was not paid.
	Cancelled struct {
		Cancellation
	}
	// AddressChanged sends the order elsewhere.
	AddressChanged struct {
		Address []byte `json:"address"` // sealed
	}
	// ParcelPacked puts lines into a parcel.
	ParcelPacked struct {
		Parcel int    `json:"parcel"` // from 1, within its order
		Lines  []Part `json:"lines"`
	}
	// ParcelUnpacked takes a parcel apart again.
	ParcelUnpacked struct {
		Parcel int `json:"parcel"`
	}
	// WaybillSet gives a parcel its carrier's number, or another one.
	WaybillSet struct {
		Parcel  int    `json:"parcel"`
		Version int    `json:"version"` // from 1, the waybill's own
		Carrier string `json:"carrier"`
		Number  string `json:"number"`
	}
	// ParcelShipped hands a parcel to its carrier.
	ParcelShipped struct {
		Parcel int `json:"parcel"`
	}
	// ParcelDelivered says a parcel arrived.
	ParcelDelivered struct {
		Parcel    int       `json:"parcel"`
		Completes time.Time `json:"completes,omitzero"` // when the order may complete by itself for it
	}
	// Shipped says that all there is to ship has shipped.
	Shipped struct{}
	// Completed ends an order well.
	Completed struct {
		By string `json:"by"`
	}
	// Settled is the decision what the seller earns: gross less commission.
	Settled struct {
		Gross      int64 `json:"gross"`      // what was paid less what was refunded by then
		Commission int64 `json:"commission"` // the platform's part of it
	}
	// SettlementPosted says the seller has what was settled.
	SettlementPosted struct{}
	// RefundIssued is the decision to give money back.
	RefundIssued struct {
		Refund       int           `json:"refund"` // from 1, within its order
		Lines        []RefundLine  `json:"lines"`
		Amount       int64         `json:"amount"` // the sum of its lines
		Reason       string        `json:"reason,omitempty"`
		By           string        `json:"by"`
		Restock      bool          `json:"restock"`
		Cancellation *Cancellation `json:"cancellation,omitempty"` // a paid order given up before anything shipped
		FromSeller   bool          `json:"from_seller,omitempty"`  // who has been settled with
		Commission   int64         `json:"commission,omitempty"`   // of the amount: what the platform gives back to the seller
	}
	// Refunded ends an order all of whose money went back.
	Refunded struct{}
)

func (Placed) event()           {}
func (Abandoned) event()        {}
func (Paid) event()             {}
func (StockCommitted) event()   {}
func (PaymentCaptured) event()  {}
func (StockReleased) event()    {}
func (StockShipped) event()     {}
func (RefundSettled) event()    {}
func (Cancelled) event()        {}
func (AddressChanged) event()   {}
func (ParcelPacked) event()     {}
func (ParcelUnpacked) event()   {}
func (WaybillSet) event()       {}
func (ParcelShipped) event()    {}
func (ParcelDelivered) event()  {}
func (Shipped) event()          {}
func (Completed) event()        {}
func (Settled) event()          {}
func (SettlementPosted) event() {}
func (RefundIssued) event()     {}
func (Refunded) event()         {}

// Types lists the events as they are stored. A name is for ever; a changed
// shape adds an upcast and, with it, a version.
func Types() []event.Type {
	return []event.Type{
		event.Of[Placed]("order.placed"),
		event.Of[Abandoned]("order.abandoned"),
		event.Of[Paid]("order.paid"),
		event.Of[StockCommitted]("order.stock_committed"),
		event.Of[PaymentCaptured]("order.payment_captured"),
		event.Of[StockReleased]("order.stock_released"),
		event.Of[StockShipped]("order.stock_shipped"),
		event.Of[RefundSettled]("order.refund_settled"),
		event.Of[Cancelled]("order.cancelled"),
		event.Of[AddressChanged]("order.address_changed"),
		event.Of[ParcelPacked]("order.parcel_packed"),
		event.Of[ParcelUnpacked]("order.parcel_unpacked"),
		event.Of[WaybillSet]("order.waybill_set"),
		event.Of[ParcelShipped]("order.parcel_shipped"),
		event.Of[ParcelDelivered]("order.parcel_delivered"),
		event.Of[Shipped]("order.shipped"),
		event.Of[Completed]("order.completed"),
		event.Of[Settled]("order.settled"),
		event.Of[SettlementPosted]("order.settlement_posted"),
		event.Of[RefundIssued]("order.refund_issued"),
		event.Of[Refunded]("order.refunded"),
	}
}
