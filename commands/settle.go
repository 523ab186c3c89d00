package commands

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"cartwright/domain"
	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
)

// Follows tells the events after which something is to be brought about.
func Follows() []string {
	return []string{
		"order.placed", "order.paid", "order.cancelled", "order.parcel_shipped", "order.refund_issued", "order.completed",
		"payment.captured", "payment.mismatched", "payment.refund_requested", "payment.refund_redirected",
		"payment.refund_succeeded", "payment.refund_posted",
		"payment.trade_resolved", "trade.orphaned", "trade.resolved", "account.deposited", "account.withdrawn",
		"inventory.transferred_out",
	}
}

// React is the process that follows events: it brings about what they call for.
// It may be told of an event again, late, or out of turn, since it looks at what
// the stream has come to and not at the event. Where it succeeds for a stream that
// was parked, that is parked no more.
func (s *Shop) React(ctx context.Context, r event.Recorded) error {
	if !slices.Contains(Follows(), r.Name) {
		return nil
	}
	if err := s.follow(ctx, r); err != nil {
		return err
	}
	return s.free(ctx, r.Stream, "process")
}

func (s *Shop) follow(ctx context.Context, r event.Recorded) error {
	id := event.SubjectID(r.Stream)
	switch event.Category(r.Stream) {
	case "order":
		if r.Name == "order.placed" && !s.hasSiblings(r) {
			return nil // most orders: it is not worth a read of the stream
		}
		return s.Settle(ctx, id)
	case "payment":
		return s.followPayment(ctx, id, r)
	case "trade":
		return s.postOrphan(ctx, id)
	case "account":
		return s.postOutside(ctx, id, r)
	case "inventory":
		return s.finishTransfers(ctx, id)
	}
	return nil
}

// hasSiblings tells whether a placed order's checkout has others. What can't be
// read is left to Settle, which says why.
func (s *Shop) hasSiblings(r event.Recorded) bool {
	placed, err := event.Decode[order.Placed](s.orders.spec.Events, r)
	return err != nil || len(placed.Siblings) > 0
}

// Settle brings about everything that is decided in an order's stream and not
// yet recorded there as done: its siblings placed, stock committed, released,
// shipped and given back, money captured, freed and refunded, and its seller
// settled with. Each step is
// known again by a key of its own where it is taken, and recorded in the order
// last; so a crash between any two of them is made up for by the next call, and
// a call when all is done reads one stream and does nothing
// (TestEveryCrashDuringPaymentEndsRight).
func (s *Shop) Settle(ctx context.Context, id string) error {
	o, _, err := s.orders.State(ctx, id)
	if err != nil {
		return err
	}
	if len(o.Siblings) > 0 {
		if _, err := s.standing(ctx, o); err != nil {
			return err
		}
	}
	for _, step := range []func(context.Context, order.Order) error{
		s.settleCancel, s.settleStock, s.settlePayment, s.settleParcels, s.settleSeller, s.settleRefunds,
	} {
		if err := step(ctx, o); err != nil {
			return fmt.Errorf("settle order %s: %w", id, err)
		}
	}
	return nil
}

// as names what a process does for an order: its cause is the order's, so that
// every process that does it does the same thing.
func as(o order.Order, step string) Request {
	return Request{Cause: "settle/" + o.ID + "/" + step, Correlation: o.Checkout, Actor: "process", completes: true}
}

func (s *Shop) record(ctx context.Context, o order.Order, step string, c order.Command) error {
	_, err := s.orders.Handle(ctx, o.ID, as(o, step), c)
	return err
}

// inStock runs c on each stock, in order.
func (s *Shop) inStock(ctx context.Context, o order.Order, step string, units map[string]int64, c func(units int64) inventory.Command) error {
	for _, stock := range slices.Sorted(maps.Keys(units)) {
		if units[stock] == 0 {
			continue
		}
		if _, err := s.change(ctx, stock, as(o, step), c(units[stock])); err != nil {
			return fmt.Errorf("%s of %s: %w", step, stock, err)
		}
	}
	return nil
}

func (s *Shop) settleCancel(ctx context.Context, o order.Order) error {
	if o.Status != order.StatusCancelled || o.StockReleased {
		return nil
	}
	err := s.inStock(ctx, o, "release", soldUnits(o), func(int64) inventory.Command {
		return inventory.Release{Order: o.Checkout, Attempt: o.Attempt, Reason: string(o.Cancellation.Reason)}
	})
	if err != nil {
		return err
	}
	if err := s.freeMoney(ctx, o, "cancelled"); err != nil {
		return err
	}
	return s.record(ctx, o, "released", order.RecordStockReleased{})
}

// soldUnits sums what was bought by the stock it is in.
func soldUnits(o order.Order) map[string]int64 {
	units := map[string]int64{}
	for _, l := range o.Lines {
		units[l.Stock()] += l.Quantity
	}
	return units
}

func wasPaid(o order.Order) bool {
	switch o.Status {
	case order.StatusPaid, order.StatusShipped, order.StatusCompleted, order.StatusRefunded:
		return true
	case order.StatusNone, order.StatusPending, order.StatusCancelled:
		return false
	}
	return false
}

func (s *Shop) settleStock(ctx context.Context, o order.Order) error {
	if !wasPaid(o) || o.StockCommitted {
		return nil
	}
	err := s.inStock(ctx, o, "commit", soldUnits(o), func(int64) inventory.Command {
		return inventory.Commit{Order: o.Checkout}
	})
	if err != nil {
		return err
	}
	return s.record(ctx, o, "committed", order.RecordStockCommitted{})
}

// settlePayment posts the journal of a capture: out of the buyer's account,
// into escrow. What a channel took is in escrow before an order hears of it.
func (s *Shop) settlePayment(ctx context.Context, o order.Order) error {
	if !wasPaid(o) || o.PaymentCaptured {
		return nil
	}
	if total := o.Total(); total > 0 && o.PaymentID == "" {
		escrow, journal := account.Escrow(o.Currency), "capture-"+o.ID
		_, err := s.accounts.Handle(ctx, o.Buyer, as(o, "capture"), account.Capture{
			Order: o.ID, Amount: total, Journal: journal, To: escrow,
		})
		if err != nil {
			return fmt.Errorf("capture from %s: %w", o.Buyer, err)
		}
		_, err = s.accounts.Handle(ctx, escrow, as(o, "escrow"), account.Credit{
			Account: escrow, Currency: o.Currency, Amount: total, Journal: journal, From: o.Buyer, Reason: "capture",
		})
		if err != nil {
			return fmt.Errorf("credit %s: %w", escrow, err)
		}
	}
	return s.record(ctx, o, "captured", order.RecordPaymentCaptured{})
}

func (s *Shop) settleParcels(ctx context.Context, o order.Order) error {
	for _, p := range o.Parcels {
		if p.StockShipped || (p.Status != order.ParcelIsShipped && p.Status != order.ParcelIsDelivered) {
			continue
		}
		units := map[string]int64{}
		for _, part := range p.Lines {
			units[o.Lines[part.Line-1].Stock()] += part.Quantity
		}
		step := fmt.Sprintf("ship/%d", p.Parcel)
		err := s.inStock(ctx, o, step, units, func(n int64) inventory.Command {
			return inventory.Ship{Order: o.Checkout, Parcel: keyOf(o.ID, p.Parcel), Quantity: n}
		})
		if err != nil {
			return err
		}
		if err := s.record(ctx, o, step+"/recorded", order.RecordStockShipped{Parcel: p.Parcel}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Shop) settleRefunds(ctx context.Context, o order.Order) error {
	for _, refund := range o.Refunds {
		if refund.Settled {
			continue
		}
		if err := s.refundStock(ctx, o, refund); err != nil {
			return err
		}
		if err := s.refundMoney(ctx, o, refund); err != nil {
			return err
		}
		back, err := s.refundIsBack(ctx, o, refund)
		if err != nil {
			return err
		}
		if !back {
			continue // the payment's next event brings us here again; other refunds do not wait for this one
		}
		step := fmt.Sprintf("refund/%d/recorded", refund.Refund)
		if err := s.record(ctx, o, step, order.RecordRefundSettled{Refund: refund.Refund}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Shop) refundStock(ctx context.Context, o order.Order, refund order.Repayment) error {
	unshipped, returned := map[string]int64{}, map[string]int64{}
	for _, l := range refund.Lines {
		line := o.Lines[l.Line-1]
		unshipped[line.Stock()] += l.Unshipped
		if refund.Restock {
			returned[line.SKU] += l.Returned // where the damaged are counted
		}
	}
	key := keyOf(o.ID, refund.Refund)
	err := s.inStock(ctx, o, "deallocate/"+key, unshipped, func(n int64) inventory.Command {
		return inventory.Deallocate{Order: o.Checkout, Refund: key, Quantity: n}
	})
	if err != nil {
		return err
	}
	return s.inStock(ctx, o, "restock/"+key, returned, func(n int64) inventory.Command {
		return inventory.Restock{Order: o.Checkout, Refund: key, Quantity: n}
	})
}

// gone says that a thing does not exist, which for a timer is an answer.
func gone(err error) bool { return domain.CodeOf(err) == domain.NotFound }
