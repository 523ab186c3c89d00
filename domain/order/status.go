package order

import "cartwright/domain"

// Status is where an order stands in its machine.
type Status string

// An order begins at StatusNone and ends at one of the last three.
const (
	StatusNone      Status = ""
	StatusPending   Status = "pending_payment"
	StatusPaid      Status = "paid"
	StatusShipped   Status = "shipped"
	StatusCompleted Status = "completed"
	StatusCancelled Status = "cancelled"
	StatusRefunded  Status = "refunded"
)

// after is the whole state machine: where an order in status s stands once e
// has happened, or false if e cannot happen then. Decide asks it to refuse a
// command; Evolve asks it to refuse a history.
func (s Status) after(e Event) (Status, bool) {
	switch e.(type) {
	case Placed:
		return StatusPending, s == StatusNone
	case Abandoned:
		return s, s == StatusNone
	case Paid:
		return StatusPaid, s == StatusPending
	case Cancelled:
		return StatusCancelled, s == StatusPending
	case StockReleased:
		return s, s == StatusCancelled
	case AddressChanged:
		return s, s == StatusPending || s == StatusPaid
	case ParcelPacked, ParcelUnpacked, ParcelShipped:
		return s, s == StatusPaid
	case Shipped:
		return StatusShipped, s == StatusPaid
	case WaybillSet:
		return s, s == StatusPaid || s == StatusShipped
	case Completed:
		return StatusCompleted, s == StatusShipped
	case Settled, SettlementPosted:
		return s, s == StatusCompleted
	case RefundIssued:
		return s, s == StatusPaid || s == StatusShipped || s == StatusCompleted
	case Refunded:
		return StatusRefunded, s == StatusPaid || s == StatusShipped
	case StockCommitted, PaymentCaptured, StockShipped, RefundSettled, ParcelDelivered:
		// Word from stock, accounts and carriers comes when it comes: also to
		// an order that has ended meanwhile.
		return s, s == StatusPaid || s == StatusShipped || s == StatusCompleted || s == StatusRefunded
	}
	return s, false
}

// standing is what refuses a command, by where the order stands: a slug and a
// sentence. An order that stands nowhere is refused before anything is asked.
var standing = map[Status]struct{ slug, sentence string }{
	StatusPending:   {"not_paid", "The order is not paid."},
	StatusPaid:      {"not_shipped", "The order has not shipped."},
	StatusShipped:   {"already_shipped", "The order has shipped."},
	StatusCompleted: {"already_completed", "The order is completed."},
	StatusCancelled: {"order_cancelled", "The order is cancelled."},
	StatusRefunded:  {"order_refunded", "The order is refunded."},
}

// may refuses what the order's status forbids.
func (o Order) may(e Event) error {
	if _, ok := o.Status.after(e); ok {
		return nil
	}
	in := standing[o.Status]
	return domain.Refuse(domain.Conflict, in.slug, "%s", in.sentence)
}

// Closed tells whether nothing more is to be done for an order, but for its
// money: what the seller earns, and what goes back.
func (s Status) Closed() bool {
	return s == StatusCompleted || s == StatusCancelled || s == StatusRefunded
}
