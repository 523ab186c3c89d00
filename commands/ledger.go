package commands

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/order"
	"cartwright/domain/payment"
	"cartwright/domain/trade"
)

// A move is one journal: money leaves one account and comes to another. It has
// exactly two legs, so what has three parties takes two journals; then every
// journal that is whole sums to nothing, and one that is not names what is
// missing.
type move struct {
	journal  string
	from, to string
	amount   int64
	currency string
	reason   string
}

// post enters both legs, the one that takes the money first. Each is known again
// by its journal, so a journal that was cut off in between is finished by whoever
// posts it again (TestEveryCrashAroundAPaymentEndsRight).
func (s *Shop) post(ctx context.Context, r Request, m move) error {
	if m.amount == 0 {
		return nil
	}
	r.Cause = "journal/" + m.journal
	_, err := s.accounts.Handle(ctx, m.from, r, account.Debit{
		Account: m.from, Currency: m.currency, Amount: m.amount, Journal: m.journal, To: m.to, Reason: m.reason,
	})
	if err != nil {
		return fmt.Errorf("debit %s: %w", m.from, err)
	}
	_, err = s.accounts.Handle(ctx, m.to, r, account.Credit{
		Account: m.to, Currency: m.currency, Amount: m.amount, Journal: m.journal, From: m.from, Reason: m.reason,
	})
	if err != nil {
		return fmt.Errorf("credit %s: %w", m.to, err)
	}
	return nil
}

// postOutside enters the other leg of a deposit or a withdrawal: the bank's. The
// account that moved notes that it stands, for the bank's can't remember all.
func (s *Shop) postOutside(ctx context.Context, id string, r event.Recorded) error {
	e, err := decoded[account.Event](s.accounts.spec.Events, r)
	if err != nil {
		return err
	}
	entry, ok := account.EntryOf(e)
	if !ok {
		return nil
	}
	var a account.Account
	waits := false
	err = s.accounts.Look(ctx, id, func(now account.Account, _ event.Revision) {
		a.Currency, waits = now.Currency, slices.Contains(now.Unposted, entry.Number)
	})
	if err != nil || !waits {
		return err
	}
	req := Request{Cause: "outside/" + entry.Journal, Correlation: r.Correlation, Actor: "process", completes: true}
	if err = s.postBank(ctx, req, id, a.Currency, entry); err != nil {
		return fmt.Errorf("post entry %d of %s: %w", entry.Number, id, err)
	}
	_, err = s.accounts.Handle(ctx, id, req, account.RecordPosted{Entry: entry.Number})
	return err
}

// postBank enters the bank's leg of an entry.
func (s *Shop) postBank(ctx context.Context, r Request, id, currency string, entry account.Entry) (err error) {
	cash := account.Cash(currency)
	if entry.Amount > 0 {
		_, err = s.accounts.Handle(ctx, cash, r, account.Debit{
			Account: cash, Currency: currency, Amount: entry.Amount, Journal: entry.Journal, To: id, Reason: "deposit",
		})
		return err
	}
	_, err = s.accounts.Handle(ctx, cash, r, account.Credit{
		Account: cash, Currency: currency, Amount: -entry.Amount, Journal: entry.Journal, From: id, Reason: "withdrawal",
	})
	return err
}

// tradeJournal names the journal by which a trade's money came.
func tradeJournal(channel, number string) string { return "trade-" + trade.ID(channel, number) }

// postTrades enters what a payment's trades brought: into escrow, or where it was
// not asked for, aside.
func (s *Shop) postTrades(ctx context.Context, p payment.Payment) error {
	for _, t := range p.Trades {
		if t.Posted {
			continue
		}
		channel, to := cmp.Or(t.Channel, p.Channel), account.Escrow(t.Currency)
		if t.Mismatch != "" {
			to = account.Suspense(t.Currency)
		}
		err := s.post(ctx, ofPayment(p, ""), move{
			tradeJournal(channel, t.Trade), account.Clearing(channel, t.Currency), to, t.Amount, t.Currency, "payment",
		})
		if err != nil {
			return err
		}
		if err := s.recordPayment(ctx, p, "posted/"+t.Trade, payment.RecordPosted{Trade: t.Trade}); err != nil {
			return err
		}
	}
	return nil
}

// postOrphan enters money that came for nobody, aside, and takes it out again
// once somebody has said what became of it.
func (s *Shop) postOrphan(ctx context.Context, id string) error {
	t, _, err := s.trades.State(ctx, id)
	if err != nil || t.Orphan == "" {
		return err
	}
	r := Request{Cause: "posted/" + id, Correlation: t.Payment, Actor: "process", completes: true}
	if !t.Posted {
		err = s.post(ctx, r, move{
			tradeJournal(t.Channel, t.Trade), account.Clearing(t.Channel, t.Currency), account.Suspense(t.Currency),
			t.Amount, t.Currency, "orphan",
		})
		if err != nil {
			return err
		}
		if _, err = s.trades.Handle(ctx, id, r, trade.RecordPosted{}); err != nil {
			return err
		}
	}
	if t.Resolved == "" || t.Cleared {
		return nil
	}
	if err = s.post(ctx, r, resolution(t.Channel, t.Trade, t.Amount, t.Currency)); err != nil {
		return err
	}
	r.Cause = "cleared/" + id
	_, err = s.trades.Handle(ctx, id, r, trade.RecordCleared{})
	return err
}

// resolution is the journal by which money leaves that was not asked for, and was
// given back at its channel.
func resolution(channel, number string, amount int64, currency string) move {
	return move{
		"un" + tradeJournal(channel, number), account.Suspense(currency), account.Clearing(channel, currency), amount, currency, "resolved",
	}
}

// clearTrades takes out of the ledger what was resolved.
func (s *Shop) clearTrades(ctx context.Context, p payment.Payment) error {
	for _, t := range p.Trades {
		if t.Resolved == "" || t.Cleared {
			continue
		}
		if err := s.post(ctx, ofPayment(p, ""), resolution(cmp.Or(t.Channel, p.Channel), t.Trade, t.Amount, t.Currency)); err != nil {
			return err
		}
		if err := s.recordPayment(ctx, p, "cleared/"+t.Trade, payment.RecordCleared{Trade: t.Trade}); err != nil {
			return err
		}
	}
	return nil
}

// postRefund enters a refund of a payment that is back: by the channel, or on the
// buyer's account.
func (s *Shop) postRefund(ctx context.Context, p payment.Payment, r payment.Refund) error {
	from, to := account.Escrow(p.Currency), account.Clearing(p.Channel, p.Currency)
	if r.Trade != "" {
		from = account.Suspense(p.Currency)
	}
	if r.To == payment.ToBalance {
		to = p.Buyer
	}
	return s.post(ctx, ofPayment(p, ""), move{"back-" + p.ID + "." + r.Key, from, to, r.Amount, p.Currency, "refund"})
}

// settleSeller gives a seller what a completed order has earned, less the
// platform's commission. The order decides how much that is.
func (s *Shop) settleSeller(ctx context.Context, was order.Order) error {
	if was.Status != order.StatusCompleted || (was.Settlement != nil && was.Settlement.Posted) {
		return nil
	}
	if err := s.record(ctx, was, "settle", order.Settle{CommissionBP: s.commission}); err != nil {
		return err
	}
	o, _, err := s.orders.State(ctx, was.ID)
	if err != nil {
		return err
	}
	escrow, gross, fee := account.Escrow(o.Currency), o.Settlement.Gross, o.Settlement.Commission
	for _, m := range []move{
		{"settle-" + o.ID, escrow, account.Seller(o.Seller, o.Currency), gross - fee, o.Currency, "settlement"},
		{"commission-" + o.ID, escrow, account.Fee(o.Currency), fee, o.Currency, "commission"},
	} {
		if err := s.post(ctx, as(o, ""), m); err != nil {
			return fmt.Errorf("settle with %s: %w", o.Seller, err)
		}
	}
	return s.record(ctx, o, "settlement_posted", order.RecordSettlementPosted{})
}

// refundMoney gives a refund's money back: out of escrow, to the buyer or to the
// payment it came by. What its seller has been paid comes back to escrow first.
func (s *Shop) refundMoney(ctx context.Context, o order.Order, refund order.Repayment) error {
	if refund.Amount == 0 {
		return nil
	}
	escrow, key := account.Escrow(o.Currency), keyOf(o.ID, refund.Refund)
	if refund.FromSeller {
		for _, m := range []move{
			{"clawback-" + key, account.Seller(o.Seller, o.Currency), escrow, refund.Amount - refund.Commission, o.Currency, "refund"},
			{"uncommission-" + key, account.Fee(o.Currency), escrow, refund.Commission, o.Currency, "refund"},
		} {
			if err := s.post(ctx, as(o, ""), m); err != nil {
				return fmt.Errorf("take refund %s back from %s: %w", key, o.Seller, err)
			}
		}
	}
	if o.PaymentID == "" {
		return s.post(ctx, as(o, ""), move{"refund-" + key, escrow, o.Buyer, refund.Amount, o.Currency, "refund"})
	}
	_, err := s.payments.Handle(ctx, o.PaymentID, as(o, "payback/"+key), payment.RequestRefund{
		Refund: refundKey(o.ID, refund.Refund), Order: o.ID, Amount: refund.Amount, Reason: refund.Reason, Look: s.look(),
	})
	return err
}

// refundIsBack says whether a refund's money is where it belongs. A channel takes its time.
func (s *Shop) refundIsBack(ctx context.Context, o order.Order, refund order.Repayment) (back bool, err error) {
	if o.PaymentID == "" || refund.Amount == 0 {
		return true, nil
	}
	p, _, err := s.payments.State(ctx, o.PaymentID)
	r, ok := p.Refund(refundKey(o.ID, refund.Refund))
	return ok && r.Posted, err
}

// refundKey names an order's refund to its payment's channel.
func refundKey(id string, n int) string { return fmt.Sprintf("%s.%d", id, n) }
