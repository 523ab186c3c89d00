package commands

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/money"
	"cartwright/domain/order"
	"cartwright/domain/payment"
	"cartwright/domain/trade"
)

// An Alarm is something about money that a person has to see.
type Alarm struct {
	Kind   string // a slug
	Stream string // where it is on record
	Detail string
}

// Notify records what a channel says. It has verified who says so; here it is
// found out what it means. Nil means that it is on record, whatever it means, and
// that the channel may be told so; what follows from it is for the process.
//
// Money is on record under its trade's number before anything else is asked: one
// that is for nobody, for the wrong amount, or told otherwise before, raises an
// alarm and is kept (TestNoCallbackLosesMoney).
func (s *Shop) Notify(ctx context.Context, channel string, n Notice) error {
	switch n.Kind {
	case NoticePaid:
		return s.received(ctx, channel, n)
	case NoticeFailed:
		return s.gaveUp(ctx, channel, n)
	case NoticeRefunded, NoticeRefundFailed:
		return s.refundTold(ctx, channel, n)
	case NoticePending:
	}
	return nil
}

// told names what a channel says, so that the same words again are a repeat.
func told(channel string, n Notice) Request {
	cause := fmt.Sprintf("channel/%s/%s/%q/%q/%q/%d/%s/%d",
		channel, n.Kind, n.Payment, n.Trade, n.Refund, n.Money.Amount, n.Money.Currency, n.At.UnixMilli())
	return Request{Cause: cause, Correlation: n.Payment, Actor: "channel/" + channel, completes: true}
}

func (s *Shop) received(ctx context.Context, channel string, n Notice) error {
	id, r := trade.ID(channel, n.Trade), told(channel, n)
	done, err := s.trades.Create(ctx, id, r, trade.See{
		Channel: channel, Trade: n.Trade, Payment: n.Payment, Amount: n.Money.Amount, Currency: n.Money.Currency, At: n.At,
	})
	if err != nil {
		return err
	}
	if _, fresh := first[trade.Seen](done.Events); !fresh {
		var same bool
		if same, err = s.sameTrade(ctx, id, done.Stream, n); err != nil || !same {
			return err
		}
	}
	got, err := s.receive(ctx, channel, n, r)
	if err == nil {
		if e, bad := first[payment.Mismatched](got.Events); bad && !got.Repeated {
			s.alarm(ctx, Alarm{"payment_" + e.Reason, got.Stream, fmt.Sprintf("trade %s at %s is %d %s", e.Trade, channel, e.Amount, e.Currency)})
		}
		return nil
	}
	if undecided(err) || errors.Is(err, event.ErrConflict) {
		return err
	}
	return s.orphan(ctx, id, done.Stream, domain.ReasonOf(err), n)
}

// sameTrade says whether a trade that is on record is what is told now.
func (s *Shop) sameTrade(ctx context.Context, id, stream string, n Notice) (same bool, err error) {
	var was trade.Trade
	err = s.trades.Look(ctx, id, func(t trade.Trade, _ event.Revision) { was = t })
	if err != nil {
		return false, err
	}
	same = was.Payment == n.Payment && was.Amount == n.Money.Amount && was.Currency == n.Money.Currency
	if !same {
		s.alarm(ctx, Alarm{"trade_differs", stream, fmt.Sprintf(
			"trade %s was %d %s for payment %s and is told as %d %s for %s",
			was.Trade, was.Amount, was.Currency, was.Payment, n.Money.Amount, n.Money.Currency, n.Payment)})
	}
	return same && was.Orphan == "", nil
}

func (s *Shop) receive(ctx context.Context, channel string, n Notice, r Request) (Done[payment.Event], error) {
	if err := domain.CheckID("/payment", n.Payment); err != nil {
		return Done[payment.Event]{}, err
	}
	return s.payments.Handle(ctx, n.Payment, r, payment.Receive{
		Channel: channel, Trade: n.Trade, Currency: n.Money.Currency, Amount: n.Money.Amount, At: n.At,
	})
}

// orphan puts on record that money is for nobody.
func (s *Shop) orphan(ctx context.Context, id, stream, reason string, n Notice) error {
	r := Request{Cause: "orphan/" + id, Correlation: n.Payment, Actor: "process", completes: true}
	done, err := s.trades.Handle(ctx, id, r, trade.Orphan{Reason: reason})
	if err != nil || done.Repeated {
		return err
	}
	s.alarm(ctx, Alarm{"orphaned_payment", stream, fmt.Sprintf("trade %s of %d %s for payment %q: %s", n.Trade, n.Money.Amount, n.Money.Currency, n.Payment, reason)})
	return nil
}

func (s *Shop) gaveUp(ctx context.Context, channel string, n Notice) error {
	p, err := s.told(ctx, channel, n)
	if err != nil || p.ID == "" {
		return err
	}
	_, err = s.payments.Handle(ctx, p.ID, told(channel, n), payment.Fail{Reason: n.Note})
	return err
}

// told finds the payment that a channel speaks of, if it is one of its own. What
// is not is worth an alarm and nothing else: no money came.
func (s *Shop) told(ctx context.Context, channel string, n Notice) (p payment.Payment, err error) {
	if domain.CheckID("", n.Payment) == nil {
		if p, _, err = s.payments.State(ctx, n.Payment); err != nil {
			return p, err
		}
	}
	if p.ID != "" && p.Channel == channel {
		return p, nil
	}
	s.alarm(ctx, Alarm{"unknown_payment", "", fmt.Sprintf("%s says %s of payment %q", channel, n.Kind, n.Payment)})
	return payment.Payment{}, nil
}

func (s *Shop) refundTold(ctx context.Context, channel string, n Notice) error {
	p, err := s.told(ctx, channel, n)
	if err != nil || p.ID == "" {
		return err
	}
	key, sent := ownKey(n.Refund)
	c := payment.RecordRefund{Refund: key, By: payment.ToChannel, Status: payment.RefundIsDone, Reason: n.Note}
	if n.Kind == NoticeRefundFailed {
		c.Status = payment.RefundIsRefused
	}
	stream := s.payments.Stream(p.ID)
	r, ok := p.Refund(key)
	if ok && r.Sent != sent {
		if c.Status == payment.RefundIsDone {
			s.alarm(ctx, Alarm{"unexpected_refund", stream, fmt.Sprintf("refund %s was sent again, and now the first one is told to have gone back", n.Refund)})
		}
		return nil
	}
	if ok && n.Money.Amount != 0 && (n.Money.Amount != r.Amount || n.Money.Currency != p.Currency) {
		s.alarm(ctx, Alarm{"refund_differs", stream, fmt.Sprintf("refund %s of %d is told as %d %s", r.Key, r.Amount, n.Money.Amount, n.Money.Currency)})
		return nil
	}
	done, err := s.payments.Handle(ctx, p.ID, told(channel, n), c)
	if err != nil {
		if code := domain.CodeOf(err); code != domain.NotFound && code != domain.Conflict || errors.Is(err, event.ErrConflict) {
			return err
		}
		s.alarm(ctx, Alarm{"unexpected_refund", stream, reasonIn(err)})
		return nil
	}
	if e, failed := first[payment.RefundFailed](done.Events); failed && !done.Repeated {
		s.alarm(ctx, Alarm{"refund_refused", stream, fmt.Sprintf("refund %s: %s", e.Refund, e.Reason)})
	}
	return nil
}

// followPayment brings about what a payment's event calls for.
func (s *Shop) followPayment(ctx context.Context, id string, r event.Recorded) error {
	if r.Name != "payment.refund_posted" {
		return s.SettlePayment(ctx, id)
	}
	e, err := decoded[payment.RefundPosted](s.payments.spec.Events, r)
	if err != nil {
		return err
	}
	p, _, err := s.payments.State(ctx, id)
	if err != nil {
		return err
	}
	if refund, ok := p.Refund(e.Refund); ok && refund.Order != "" {
		return s.Settle(ctx, refund.Order)
	}
	return nil
}

// SettlePayment brings about everything that is decided in a payment's stream
// and not yet recorded there as done: what came is in the ledger, every order has
// its share or it is on its way back, and refunds are carried out.
func (s *Shop) SettlePayment(ctx context.Context, id string) error {
	p, _, err := s.payments.State(ctx, id)
	var later []error // of refunds, whose channel may be away
	for _, step := range []struct {
		due func(payment.Payment) bool
		do  func(context.Context, payment.Payment) error
	}{
		{unposted, s.postTrades},
		{unapplied, s.apply},
		{underWay, func(ctx context.Context, p payment.Payment) error {
			later = append(later, s.carryOutRefunds(ctx, p))
			return nil
		}},
		{unpostedRefunds, s.postRefunds},
		{uncleared, s.clearTrades},
	} {
		if err == nil && step.due(p) {
			if err = step.do(ctx, p); err == nil {
				p, _, err = s.payments.State(ctx, id)
			}
		}
	}
	if err = errors.Join(append(later, err)...); err != nil {
		return fmt.Errorf("settle payment %s: %w", id, err)
	}
	return nil
}

func unposted(p payment.Payment) bool {
	return slices.ContainsFunc(p.Trades, func(t payment.Trade) bool { return !t.Posted })
}

func unapplied(p payment.Payment) bool { return p.Status == payment.StatusCaptured && !p.Applied }

func uncleared(p payment.Payment) bool {
	return slices.ContainsFunc(p.Trades, func(t payment.Trade) bool { return t.Resolved != "" && !t.Cleared })
}

func underWay(p payment.Payment) bool {
	return slices.ContainsFunc(p.Refunds, func(r payment.Refund) bool {
		return r.Status == payment.RefundIsRequested || r.Status == payment.RefundIsProcessing
	})
}

func unpostedRefunds(p payment.Payment) bool {
	return slices.ContainsFunc(p.Refunds, func(r payment.Refund) bool { return r.Status == payment.RefundIsDone && !r.Posted })
}

// apply gives every order its share of what was captured.
func (s *Shop) apply(ctx context.Context, p payment.Payment) error {
	alone := false
	for _, split := range p.Splits {
		o, _, err := s.orders.State(ctx, split.Order)
		if err == nil {
			err = s.payOrder(ctx, p, o, split)
		}
		if err != nil {
			return err
		}
		alone = o.ID == p.Checkout && len(o.Siblings) == 0
	}
	if !alone {
		if err := s.payWhatIsFree(ctx, p); err != nil {
			return err
		}
	}
	return s.recordPayment(ctx, p, "applied", payment.RecordApplied{})
}

// payOrder pays one order, or sends its share back: the order was given up, paid
// otherwise, or can't be supplied any more.
func (s *Shop) payOrder(ctx context.Context, p payment.Payment, o order.Order, split payment.Split) error {
	switch {
	case o.PaymentID == p.ID:
		return nil
	case o.Status != order.StatusPending:
		return s.sendBack(ctx, p, split, "order_"+string(o.Status))
	}
	attempt, err := s.holdAgain(ctx, p, o)
	if err != nil {
		return err
	}
	if attempt == noStock {
		return s.giveUp(ctx, p, o, split)
	}
	_, err = s.orders.Handle(ctx, o.ID, ofPayment(p, "pay/"+o.ID), order.Pay{
		Amount: split.Amount, Currency: p.Currency, Method: p.Channel, Payment: p.ID,
	})
	if !refusedForGood(err) {
		return err
	}
	if freed := s.releaseAgain(ctx, o, attempt); freed != nil {
		return freed
	}
	return s.sendBack(ctx, p, split, domain.ReasonOf(err))
}

// refusedForGood tells a rule's refusal from rivalry, which passes.
func refusedForGood(err error) bool {
	code := domain.CodeOf(err)
	return (code == domain.Conflict || code == domain.Rejected) && !errors.Is(err, event.ErrConflict)
}

// sendBack gives an order's share back. The key names the payment too: a checkout
// may have several whose money comes late, and to a channel a key is one refund,
// whatever payment it is of.
func (s *Shop) sendBack(ctx context.Context, p payment.Payment, split payment.Split, reason string) error {
	return s.recordPayment(ctx, p, "late/"+split.Order, payment.RequestRefund{
		Refund: p.ID + "." + split.Order, Order: split.Order, Amount: split.Amount, Reason: reason, Look: s.look(),
	})
}

// giveUp cancels an order that was paid for and whose goods are gone.
func (s *Shop) giveUp(ctx context.Context, p payment.Payment, o order.Order, split payment.Split) error {
	_, err := s.orders.Handle(ctx, o.ID, ofPayment(p, "stock/"+o.ID), order.Cancel{Cancellation: order.Cancellation{
		Reason: order.Stock, By: "process", Note: "The stock was given away before the money came.",
	}})
	if err != nil && (domain.CodeOf(err) != domain.Conflict || errors.Is(err, event.ErrConflict)) {
		return err
	}
	return s.sendBack(ctx, p, split, "no_stock")
}

// payWhatIsFree pays the checkout's orders that cost nothing, and so are no part
// of the payment.
func (s *Shop) payWhatIsFree(ctx context.Context, p payment.Payment) error {
	head, _, err := s.orders.State(ctx, p.Checkout)
	if err != nil {
		return err
	}
	for _, id := range append([]string{head.ID}, siblingIDs(head)...) {
		o, _, err := s.orders.State(ctx, id)
		if err != nil {
			return err
		}
		if o.Status != order.StatusPending || o.Total() > 0 {
			continue
		}
		_, err = s.orders.Handle(ctx, id, ofPayment(p, "pay/"+id), order.Pay{Currency: p.Currency, Method: p.Channel, Payment: p.ID})
		if err != nil && (domain.CodeOf(err) != domain.Conflict || errors.Is(err, event.ErrConflict)) {
			return err
		}
	}
	return nil
}

func siblingIDs(o order.Order) []string {
	ids := make([]string, len(o.Siblings))
	for i, sib := range o.Siblings {
		ids[i] = sib.Order
	}
	return ids
}

// noStock is the attempt of nobody.
const noStock = "-"

// holdAgain makes sure that an order which waits for payment has its stock. Its
// hold ends with the order, so it is there; where somebody has ended it all the
// same, it is taken once more, or noStock is the answer.
func (s *Shop) holdAgain(ctx context.Context, p payment.Payment, o order.Order) (attempt string, err error) {
	units := soldUnits(o)
	for stock, quantity := range units {
		held := false
		err = s.stock.Look(ctx, stock, func(st inventory.Stock, _ event.Revision) { _, held = st.Reservations.Get(o.Checkout) })
		if err != nil {
			return "", err
		}
		if held {
			continue
		}
		attempt = "late/" + p.ID
		now := s.now()
		r := ofPayment(p, "hold/"+o.ID+"/"+stock)
		_, err = s.change(ctx, stock, r, inventory.Hold{
			Order: o.Checkout, Attempt: attempt, Quantity: quantity, Now: now, Expires: now.Add(s.payWithin).UTC().Truncate(time.Millisecond),
		})
		if refusedForGood(err) {
			return noStock, s.releaseAgain(ctx, o, attempt)
		}
		if err != nil {
			return "", err
		}
	}
	return attempt, nil
}

// releaseAgain ends what holdAgain took.
func (s *Shop) releaseAgain(ctx context.Context, o order.Order, attempt string) error {
	if attempt == "" {
		return nil
	}
	for stock := range soldUnits(o) {
		if err := s.release(ctx, stock, inventory.Release{Order: o.Checkout, Attempt: attempt, Reason: "not_paid"}); err != nil {
			return err
		}
	}
	return nil
}

// carryOutRefunds asks the channel, or the buyer's account, to take money back.
// One that can't be carried out just now keeps no other one waiting.
func (s *Shop) carryOutRefunds(ctx context.Context, p payment.Payment) error {
	var errs []error
	for _, r := range p.Refunds {
		if r.Status != payment.RefundIsRequested && r.Status != payment.RefundIsProcessing {
			continue
		}
		if err := s.carryOutRefund(ctx, p, r); err != nil {
			errs = append(errs, fmt.Errorf("refund %s: %w", r.Key, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Shop) carryOutRefund(ctx context.Context, p payment.Payment, r payment.Refund) error {
	say := payment.RecordRefund{Refund: r.Key, By: r.To, Status: payment.RefundIsDone}
	if r.To == payment.ToBalance {
		return s.recordPayment(ctx, p, "back/"+r.Key+"/balance/"+strconv.Itoa(r.Sent), say) // postRefunds credits the account
	}
	ch, ok := s.channels[p.Channel]
	if !ok {
		return domain.Refuse(domain.Unavailable, "unknown_channel", "The channel %s is not set up here.", p.Channel)
	}
	n, err := ch.Refund(ctx, returning(p, r))
	switch {
	case err != nil && undecided(err):
		return err
	case err != nil:
		say.Status, say.Reason = payment.RefundIsRefused, reasonIn(err)
	case n.Kind == NoticeRefundFailed:
		say.Status, say.Reason = payment.RefundIsRefused, n.Note
	case n.Kind == NoticePending:
		say.Status = payment.RefundIsProcessing
	}
	// A refund may be refused, sent again and be refused again.
	if err := s.recordPayment(ctx, p, "back/"+r.Key+"/"+string(say.Status)+"/"+strconv.Itoa(r.Sent), say); err != nil {
		return err
	}
	if say.Status == payment.RefundIsRefused {
		s.alarm(ctx, Alarm{"refund_refused", s.payments.Stream(p.ID), fmt.Sprintf("refund %s of %d %s: %s", r.Key, r.Amount, p.Currency, say.Reason)})
	}
	return nil
}

func returning(p payment.Payment, r payment.Refund) Returning {
	back := Returning{
		Payment: p.ID, Key: channelKey(r), Reason: r.Reason,
		Amount: money.Money{Amount: r.Amount, Currency: p.Currency}, Total: money.Money{Amount: p.Amount, Currency: p.Currency},
	}
	if r.Trade != "" {
		back.Total = back.Amount // the trade's, which goes back whole
	}
	return back
}

// channelKey is a refund's key at its channel. One that failed there stays failed
// under its key, so what is sent again needs another.
func channelKey(r payment.Refund) string {
	if r.Sent == 0 {
		return r.Key
	}
	return r.Key + sentAgain + strconv.Itoa(r.Sent)
}

const sentAgain = ".s"

// ownKey gives back what channelKey made a channel's key of.
func ownKey(key string) (own string, sent int) {
	if i := strings.LastIndex(key, sentAgain); i >= 0 {
		if n, err := strconv.Atoi(key[i+len(sentAgain):]); err == nil {
			return key[:i], n
		}
	}
	return key, 0
}

// postRefunds enters what is back into the ledger.
func (s *Shop) postRefunds(ctx context.Context, p payment.Payment) error {
	for _, r := range p.Refunds {
		if r.Status != payment.RefundIsDone || r.Posted {
			continue
		}
		if err := s.postRefund(ctx, p, r); err != nil {
			return err
		}
		if err := s.recordPayment(ctx, p, "back/"+r.Key+"/posted", payment.RecordRefundPosted{Refund: r.Key}); err != nil {
			return err
		}
	}
	return nil
}

// look is when a refund is asked about again at the latest.
func (s *Shop) look() time.Time { return s.now().Add(s.pollAfter).UTC().Truncate(time.Millisecond) }

func shortDigest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}
