package payment

import (
	"encoding/json"
	"errors"
	"math"

	"cartwright/domain"
	"cartwright/domain/money"
)

// The policy of the house. Only Decide asks it.
const (
	maxSplits      = 51 // as many sellers as a checkout has
	maxName        = 64 // of keys, references and numbers
	maxText        = 500
	maxInstruction = 16 << 10
	maxTrades      = 100
	maxRefunds     = 51_000
)

func decide(p Payment, c Command) ([]Event, error) {
	e, err := p.fact(c)
	if err != nil || e == nil {
		return nil, err
	}
	if err := p.allows(e); err != nil {
		return nil, err
	}
	return []Event{e}, nil
}

// fact is the event that a command asks for, or nil where all is as it wishes.
func (p Payment) fact(c Command) (Event, error) {
	if c, ok := c.(Create); ok {
		return p.create(c)
	}
	if err := p.known(); err != nil {
		return nil, err
	}
	switch c := c.(type) {
	case RecordAsked:
		return p.asked(c)
	case Receive:
		return p.receive(c)
	case Fail:
		return p.giveUp(Failed(c), domain.CheckText("/reason", c.Reason, maxText))
	case Expire:
		return p.giveUp(Expired(c), nil)
	case RecordPosted:
		if i := p.tradeAt(c.Trade); i >= 0 && p.Trades[i].Posted {
			return nil, nil
		}
		return Posted(c), nil
	case RecordApplied:
		if p.Applied {
			return nil, nil
		}
		return Applied(c), nil
	case RequestRefund:
		return p.requestRefund(c)
	case ResolveTrade:
		if c.Reason == "" {
			return nil, domain.Refuse(domain.Invalid, "no_reason", "Say what became of it.")
		}
		return TradeResolved(c), errors.Join(domain.CheckText("/by", c.By, maxText), domain.CheckText("/reason", c.Reason, maxText))
	case RecordCleared:
		if i := p.tradeAt(c.Trade); i >= 0 && p.Trades[i].Cleared {
			return nil, nil
		}
		return TradeCleared(c), nil
	case RecordRefund:
		return p.recordRefund(c)
	case RedirectRefund:
		return p.redirect(c)
	case RecordRefundPosted:
		if r, ok := p.Refund(c.Refund); ok && r.Posted {
			return nil, nil
		}
		return RefundPosted(c), nil
	case Create: // decided above
	}
	return nil, nil
}

func (p Payment) create(c Create) (Event, error) {
	e := Created{
		Payment: c.Payment, Checkout: c.Checkout, Buyer: c.Buyer, Channel: c.Channel,
		Currency: c.Currency, Amount: c.Amount, Splits: c.Splits, Expires: c.Expires.UTC(),
	}
	err := errors.Join(
		domain.CheckID("/payment", c.Payment), domain.CheckID("/checkout", c.Checkout),
		domain.CheckID("/buyer", c.Buyer), CheckChannel("/channel", c.Channel))
	switch {
	case err != nil:
		return nil, err
	case !money.Valid(c.Currency):
		return nil, domain.Refuse(domain.Invalid, "unknown_currency", "%q is no currency.", c.Currency)
	case len(c.Splits) > maxSplits:
		return nil, domain.Refuse(domain.Invalid, "too_many_splits", "A payment is for at most %d orders.", maxSplits)
	case c.Expires.IsZero():
		return nil, domain.Refuse(domain.Invalid, "no_expiry", "A payment says until when it can be made.")
	}
	return e, nil
}

// CheckChannel refuses what can be no channel's name: 1 to 16 small letters and digits.
func CheckChannel(pointer, s string) error {
	ok := s != "" && len(s) <= 16
	for _, r := range s {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9')
	}
	if ok {
		return nil
	}
	e := domain.Refuse(domain.Invalid, "invalid_channel", "A channel is named by 1 to 16 small letters and digits.")
	e.Fields = []domain.Field{{Pointer: pointer, Detail: e.Detail}}
	return e
}

// asked is recorded once: what the channel answers to a repeat is the same
// payment, but its words may have changed.
func (p Payment) asked(c RecordAsked) (Event, error) {
	switch {
	case p.Status != StatusCreated:
		return nil, nil
	case len(c.Instruction) > maxInstruction || !json.Valid(c.Instruction):
		return nil, domain.Refuse(domain.Invalid, "invalid_instruction", "An instruction is JSON of at most %d bytes.", maxInstruction)
	}
	return Asked{Reference: c.Reference, Instruction: c.Instruction, Look: c.Look.UTC()}, domain.CheckText("/reference", c.Reference, maxText)
}

// receive takes what comes. Only the first of what was asked for is captured.
func (p Payment) receive(c Receive) (Event, error) {
	if c.Trade == "" {
		return nil, domain.Refuse(domain.Invalid, "no_trade", "Money comes under the channel's number.")
	}
	if err := domain.CheckText("/trade", c.Trade, maxName); err != nil {
		return nil, err
	}
	if i := p.tradeAt(c.Trade); i >= 0 {
		if t := p.Trades[i]; t.Amount != c.Amount || t.Currency != c.Currency {
			return nil, domain.Refuse(domain.Conflict, "trade_differs", "Trade %s was about %d %s.", t.Trade, t.Amount, t.Currency)
		}
		return nil, nil
	}
	if len(p.Trades) >= maxTrades {
		return nil, domain.Refuse(domain.Rejected, "too_many_trades", "A payment has at most %d trades.", maxTrades)
	}
	if why := p.mismatch(c); why != "" {
		return Mismatched{
			Trade: c.Trade, Channel: c.Channel, Amount: c.Amount, Currency: c.Currency, Reason: why, At: c.At.UTC(),
		}, nil
	}
	return Captured{Trade: c.Trade, Amount: c.Amount, At: c.At.UTC()}, nil
}

// mismatch says why money is not what was asked for, or "".
func (p Payment) mismatch(c Receive) string {
	switch {
	case c.Channel != p.Channel:
		return "wrong_channel"
	case c.Currency != p.Currency:
		return "wrong_currency"
	case c.Amount != p.Amount:
		return "wrong_amount"
	case p.Status == StatusCaptured:
		return "paid_twice"
	}
	return ""
}

// giveUp changes nothing about a payment that has ended, least of all about money that came.
func (p Payment) giveUp(e Event, err error) (Event, error) {
	if !p.Open() {
		return nil, nil
	}
	return e, err
}

func (p Payment) requestRefund(c RequestRefund) (Event, error) {
	if c.Refund == "" {
		return nil, domain.Refuse(domain.Invalid, "no_key", "A refund has a key.")
	}
	if r, ok := p.Refund(c.Refund); ok {
		if r.Amount != c.Amount || r.Order != c.Order || r.Trade != c.Trade {
			return nil, domain.Refuse(domain.Conflict, "refund_differs", "Refund %s was about %d.", r.Key, r.Amount)
		}
		return nil, nil
	}
	if len(p.Refunds) >= maxRefunds {
		return nil, domain.Refuse(domain.Rejected, "too_many_refunds", "A payment has at most %d refunds.", maxRefunds)
	}
	return RefundRequested{Refund: c.Refund, Order: c.Order, Trade: c.Trade, Amount: c.Amount, Reason: c.Reason, Look: c.Look.UTC()},
		errors.Join(domain.CheckText("/refund", c.Refund, maxName), domain.CheckText("/reason", c.Reason, maxText))
}

// recordRefund takes the channel's word. What it says after it has said that
// the money is back changes nothing.
func (p Payment) recordRefund(c RecordRefund) (Event, error) {
	r, ok := p.Refund(c.Refund)
	if !ok {
		return nil, unknownRefund(c.Refund)
	}
	if c.By != r.To {
		return nil, domain.Refuse(domain.Conflict, "refund_redirected", "Refund %s goes to the %s, and the %s says %s.", r.Key, r.To, c.By, c.Status)
	}
	if r.Status == c.Status || r.Status == RefundIsDone {
		return nil, nil
	}
	switch c.Status {
	case RefundIsProcessing:
		if r.Status == RefundIsRefused {
			return nil, nil
		}
		return RefundProcessing{c.Refund}, nil
	case RefundIsDone:
		return RefundSucceeded{c.Refund}, nil
	case RefundIsRefused:
		return RefundFailed{c.Refund, c.Reason}, domain.CheckText("/reason", c.Reason, maxText)
	case RefundIsRequested:
	}
	return nil, domain.Refuse(domain.Invalid, "invalid_status", "%q is nothing that a channel says of a refund.", c.Status)
}

func (p Payment) redirect(c RedirectRefund) (Event, error) {
	r, ok := p.Refund(c.Refund)
	switch {
	case !ok:
		return nil, unknownRefund(c.Refund)
	case c.To != ToChannel && c.To != ToBalance:
		return nil, domain.Refuse(domain.Invalid, "unknown_way", "Money goes back to the channel or to the balance, not to %q.", c.To)
	case r.Status == RefundIsRequested && r.To == c.To:
		return nil, nil
	}
	return RefundRedirected{Refund: c.Refund, To: c.To, Look: c.Look.UTC()}, nil
}

func (p Payment) known() error {
	if p.Status == StatusNone {
		return domain.Refuse(domain.NotFound, "unknown_payment", "There is no such payment.")
	}
	return nil
}

func unknownRefund(key string) error {
	return domain.Refuse(domain.NotFound, "unknown_refund", "The payment has no refund %s.", key)
}

// sum adds what fits; more than that is -1.
func sum(splits []Split) int64 {
	var total int64
	for _, s := range splits {
		if s.Amount <= 0 || s.Amount > math.MaxInt64-total {
			return -1
		}
		total += s.Amount
	}
	return total
}
