package payment

import (
	"fmt"
	"slices"

	"cartwright/domain"
)

func evolve(p Payment, e Event) (Payment, error) {
	if err := p.allows(e); err != nil {
		// Only the words: a broken history has no code, since no caller can help.
		return p, fmt.Errorf("%T cannot have happened: %s", e, err.Error())
	}
	switch e := e.(type) {
	case Created:
		p = Payment{
			ID: e.Payment, Checkout: e.Checkout, Buyer: e.Buyer, Channel: e.Channel, Currency: e.Currency,
			Amount: e.Amount, Status: StatusCreated, Splits: slices.Clone(e.Splits), Expires: e.Expires.UTC(),
		}
	case Asked:
		p.Status, p.Reference, p.Instruction = StatusPending, e.Reference, e.Instruction
	case Captured:
		p.Status, p.Captured = StatusCaptured, e.Amount
		p.Trades = append(p.Trades, Trade{Trade: e.Trade, Amount: e.Amount, Currency: p.Currency})
	case Mismatched:
		t := Trade{Trade: e.Trade, Amount: e.Amount, Currency: e.Currency, Mismatch: e.Reason}
		if e.Channel != p.Channel {
			t.Channel = e.Channel
		}
		p.Trades = append(p.Trades, t)
	case Failed:
		p.Status, p.Failure = StatusFailed, e.Reason
	case Expired:
		p.Status = StatusExpired
	case Posted:
		p.Trades[p.tradeAt(e.Trade)].Posted = true
	case Applied:
		p.Applied = true
	case TradeResolved:
		t := &p.Trades[p.tradeAt(e.Trade)]
		t.Returned, t.Resolved = true, e.Reason
	case TradeCleared:
		p.Trades[p.tradeAt(e.Trade)].Cleared = true
	default:
		p = p.refunded(e)
	}
	return p, nil
}

// refunded applies what happens to a refund.
func (p Payment) refunded(e Event) Payment {
	switch e := e.(type) {
	case RefundRequested:
		p.Refunds = append(p.Refunds, Refund{
			Key: e.Refund, Order: e.Order, Trade: e.Trade, Amount: e.Amount, Reason: e.Reason, To: ToChannel, Status: RefundIsRequested,
		})
		if i := p.tradeAt(e.Trade); i >= 0 {
			p.Trades[i].Returned = true
		}
	case RefundProcessing:
		p.Refunds[p.refundAt(e.Refund)].Status = RefundIsProcessing
	case RefundSucceeded:
		r := &p.Refunds[p.refundAt(e.Refund)]
		r.Status, r.Failure = RefundIsDone, ""
	case RefundFailed:
		r := &p.Refunds[p.refundAt(e.Refund)]
		r.Status, r.Failure = RefundIsRefused, e.Reason
	case RefundRedirected:
		r := &p.Refunds[p.refundAt(e.Refund)]
		r.Status, r.To, r.Failure, r.Sent = RefundIsRequested, e.To, "", r.Sent+1
	case RefundPosted:
		p.Refunds[p.refundAt(e.Refund)].Posted = true
	default:
	}
	return p
}

// allows is the one home of what can happen to a payment. Decide shows its
// refusals, Evolve reports them as a broken history.
func (p Payment) allows(e Event) error {
	if e, ok := e.(Created); ok {
		return p.allowsCreated(e)
	}
	if err := p.known(); err != nil {
		return err
	}
	switch e := e.(type) {
	case Asked:
		return unless(p.Status == StatusCreated, "already_asked", "The channel was asked before.")
	case Captured:
		return p.allowsCaptured(e)
	case Mismatched:
		return p.allowsTrade(e.Trade, e.Amount)
	case Failed, Expired:
		return unless(p.Open(), "payment_closed", "The payment has ended.")
	case Posted:
		i := p.tradeAt(e.Trade)
		return unless(i >= 0 && !p.Trades[i].Posted, "unknown_trade", "No such trade waits to be posted.")
	case Applied:
		return unless(p.Status == StatusCaptured && !p.Applied, "not_captured", "There is nothing to share out.")
	case TradeResolved:
		return p.allowsResolved(e)
	case TradeCleared:
		i := p.tradeAt(e.Trade)
		return unless(i >= 0 && p.Trades[i].Resolved != "" && !p.Trades[i].Cleared, "unknown_trade", "No such trade waits to leave the ledger.")
	case RefundRequested:
		return p.allowsRefund(e)
	default:
		return p.allowsOfRefund(e)
	}
}

func (p Payment) allowsCreated(e Created) error {
	switch {
	case p.Status != StatusNone:
		return domain.Refuse(domain.Conflict, "payment_exists", "There is a payment %s already.", p.ID)
	case e.Payment == "" || e.Channel == "" || e.Currency == "":
		return domain.Refuse(domain.Invalid, "incomplete_payment", "A payment has an id, a channel and a currency.")
	case e.Amount <= 0 || sum(e.Splits) != e.Amount:
		return domain.Refuse(domain.Invalid, "bad_splits", "The shares of %d orders are not %d together.", len(e.Splits), e.Amount)
	}
	orders := map[string]bool{}
	for _, s := range e.Splits {
		if s.Order == "" || orders[s.Order] {
			return domain.Refuse(domain.Invalid, "bad_splits", "Every order has one share.")
		}
		orders[s.Order] = true
	}
	return nil
}

func (p Payment) allowsCaptured(e Captured) error {
	switch {
	case p.Status == StatusCaptured:
		return domain.Refuse(domain.Conflict, "already_captured", "The payment was captured before.")
	case e.Amount != p.Amount:
		return domain.Refuse(domain.Conflict, "wrong_amount", "%d were asked for, not %d.", p.Amount, e.Amount)
	}
	return p.allowsTrade(e.Trade, e.Amount)
}

func (p Payment) allowsTrade(number string, amount int64) error {
	switch {
	case number == "":
		return domain.Refuse(domain.Invalid, "no_trade", "Money comes under the channel's number.")
	case amount <= 0:
		return domain.Refuse(domain.Invalid, "bad_amount", "An amount is more than nothing.")
	case p.tradeAt(number) >= 0:
		return domain.Refuse(domain.Conflict, "trade_twice", "Trade %s was recorded before.", number)
	}
	return nil
}

func (p Payment) allowsRefund(e RefundRequested) error {
	switch {
	case e.Refund == "" || p.refundAt(e.Refund) >= 0:
		return domain.Refuse(domain.Conflict, "refund_exists", "The refund %q has no key, or another's.", e.Refund)
	case e.Amount <= 0:
		return domain.Refuse(domain.Invalid, "bad_amount", "An amount is more than nothing.")
	case e.Trade != "":
		return p.allowsReturn(e)
	case e.Amount > p.Captured-p.Returned():
		return domain.Refuse(domain.Rejected, "over_refund", "Only %d are left to give back.", p.Captured-p.Returned())
	}
	return nil
}

// allowsReturn is about money that was not asked for: it goes back as it came.
// In another currency it can't, for a refund is in the payment's.
func (p Payment) allowsReturn(e RefundRequested) error {
	i := p.tradeAt(e.Trade)
	if i < 0 || p.Trades[i].Mismatch == "" {
		return domain.Refuse(domain.NotFound, "unknown_trade", "Trade %s did not come without being asked for.", e.Trade)
	}
	switch t := p.Trades[i]; {
	case t.Returned:
		return domain.Refuse(domain.Conflict, "already_returned", "Trade %s was given back.", e.Trade)
	case t.Amount != e.Amount:
		return domain.Refuse(domain.Rejected, "wrong_amount", "Trade %s is %d, and goes back whole.", e.Trade, t.Amount)
	case t.Currency != p.Currency || t.Mismatch == "wrong_channel":
		return domain.Refuse(domain.Conflict, "not_returnable", "Trade %s (%s) has to be given back at its channel.", e.Trade, t.Mismatch)
	}
	return nil
}

func (p Payment) allowsResolved(e TradeResolved) error {
	i := p.tradeAt(e.Trade)
	switch {
	case i < 0 || p.Trades[i].Mismatch == "":
		return domain.Refuse(domain.NotFound, "unknown_trade", "Trade %s did not come without being asked for.", e.Trade)
	case e.Reason == "":
		return domain.Refuse(domain.Invalid, "no_reason", "It was resolved for no reason.")
	case p.Trades[i].Returned:
		return domain.Refuse(domain.Conflict, "already_returned", "Trade %s was given back.", e.Trade)
	}
	return nil
}

func (p Payment) allowsOfRefund(e Event) error {
	var key string
	var from []RefundStatus
	switch e := e.(type) {
	case RefundProcessing:
		key, from = e.Refund, []RefundStatus{RefundIsRequested}
	case RefundSucceeded:
		key, from = e.Refund, []RefundStatus{RefundIsRequested, RefundIsProcessing, RefundIsRefused}
	case RefundFailed:
		key, from = e.Refund, []RefundStatus{RefundIsRequested, RefundIsProcessing}
	case RefundRedirected:
		key, from = e.Refund, []RefundStatus{RefundIsRefused}
	case RefundPosted:
		key, from = e.Refund, []RefundStatus{RefundIsDone}
	default:
		return fmt.Errorf("no event %T of a payment", e)
	}
	r, ok := p.Refund(key)
	if !ok {
		return unknownRefund(key)
	}
	if _, posts := e.(RefundPosted); posts && r.Posted {
		return domain.Refuse(domain.Conflict, "refund_posted", "Refund %s is in the ledger.", key)
	}
	return unless(slices.Contains(from, r.Status), "refund_"+string(r.Status), "Refund %s is %s.", key, r.Status)
}

// unless refuses what does not hold.
func unless(holds bool, reason, format string, args ...any) error {
	if holds {
		return nil
	}
	return domain.Refuse(domain.Conflict, reason, format, args...)
}
