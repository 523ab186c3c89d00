package reconcile

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/payment"
	"cartwright/domain/trade"
)

// A sight is a trade that a channel has told of, and what has claimed it.
type sight struct {
	past
	state  trade.Trade
	claims []claim
}

// A claim is a payment that has recorded a trade.
type claim struct {
	payment, channel, trade, currency string
	amount                            int64
}

func (a *Audit) aPayment(id string) (at past, p payment.Payment) {
	packed, known := a.payments[id]
	if !known {
		return at, p
	}
	a.tape.unpack(packed, func(t *tape) { t.past(&at); t.payment(&p) })
	if p.Status != payment.StatusNone {
		p.ID = id
	}
	return at, p
}

func (a *Audit) addPayment(id string, r event.Recorded) {
	at, p := a.aPayment(id)
	e, _, taken := follow(a, r, &at, &p, payment.Decider)
	if taken {
		a.paymentDid(r, p, e)
	}
	a.payments[strings.Clone(id)] = a.tape.pack(func(t *tape) { t.past(&at); t.payment(&p) })
}

// paymentDid notes what a payment's event calls for elsewhere.
func (a *Audit) paymentDid(r event.Recorded, p payment.Payment, e payment.Event) {
	switch e := e.(type) {
	case payment.Captured:
		a.claim(r, claim{p.ID, p.Channel, e.Trade, p.Currency, e.Amount}, account.Escrow(p.Currency))
		for _, s := range p.Splits {
			a.share(r, p.ID, s.Order, func(sh *share) { sh.split = &s.Amount })
		}
	case payment.Mismatched:
		a.claim(r, claim{p.ID, e.Channel, e.Trade, e.Currency, e.Amount}, account.Suspense(e.Currency))
	case payment.TradeResolved:
		for _, t := range p.Trades {
			if t.Trade == e.Trade {
				a.resolved(r, cmp.Or(t.Channel, p.Channel), t.Trade, t.Amount, t.Currency)
			}
		}
	case payment.RefundRequested:
		a.refundAsked(r, p, e)
	case payment.RefundSucceeded:
		a.refundDone(r, p, e.Refund)
	default:
	}
}

// refundAsked tells apart for what a payment gives money back: a trade that nobody
// asked for, the share of an order that it did not pay, or a refund of one it did.
func (a *Audit) refundAsked(r event.Recorded, p payment.Payment, e payment.RefundRequested) {
	a.billAsked(r, p, e.Refund)
	switch {
	case e.Trade != "":
	case strings.HasPrefix(e.Refund, e.Order+"."): // the order's own name for it
		a.payback(r, link{p.ID, e.Refund}, func(b *payback) { b.order, b.carried = e.Order, &e.Amount })
	default:
		a.share(r, p.ID, e.Order, func(s *share) { s.late = &e.Amount })
	}
}

func (a *Audit) refundDone(r event.Recorded, p payment.Payment, key string) {
	refund, _ := p.Refund(key)
	from, to := account.Escrow(p.Currency), account.Clearing(p.Channel, p.Currency)
	if refund.Trade != "" {
		from = account.Suspense(p.Currency)
	}
	if refund.To == payment.ToBalance {
		to = p.Buyer
	}
	a.decide(r, move{"back-" + p.ID + "." + key, from, to, refund.Amount, p.Currency, r.Stream})
	a.billRefund(r, p, refund)
}

// claim notes that a payment has a trade, and where its money belongs.
func (a *Audit) claim(r event.Recorded, c claim, to string) {
	id := trade.ID(c.channel, c.trade)
	a.decide(r, move{"trade-" + id, account.Clearing(c.channel, c.currency), to, c.amount, c.currency, r.Stream})
	s := a.sight(id)
	s.claims = append(s.claims, c)
	s.newest = max(s.newest, r.Created.UnixMilli())
	a.claimed(id, s)
}

// resolved notes that money which was not asked for was given back at its channel.
func (a *Audit) resolved(r event.Recorded, channel, number string, amount int64, currency string) {
	a.decide(r, move{
		"untrade-" + trade.ID(channel, number), account.Suspense(currency), account.Clearing(channel, currency), amount, currency, r.Stream,
	})
}

func (a *Audit) sight(id string) *sight {
	s := a.trades[id]
	if s == nil {
		s = &sight{}
		a.trades[strings.Clone(id)] = s
	}
	return s
}

// claimed forgets a trade that one payment has as the channel told of it.
func (a *Audit) claimed(id string, s *sight) {
	if s.agrees() && s.state.Orphan == "" && !s.broken {
		delete(a.trades, id)
	}
}

func (s *sight) agrees() bool {
	if len(s.claims) != 1 {
		return false
	}
	c := s.claims[0]
	return s.state.Channel == c.channel && s.state.Payment == c.payment && s.state.Amount == c.amount && s.state.Currency == c.currency
}

// addTrade takes in what a channel told. A trade that was claimed is forgotten;
// all that can come of it is that the channel tells otherwise.
func (a *Audit) addTrade(id string, r event.Recorded) {
	if a.trades[id] == nil && r.Revision > 1 {
		if e, err := event.Decode[trade.Event](a.cfg.Events, r); err == nil {
			if _, differed := e.(trade.Differed); differed {
				a.contradicted++
				return
			}
		}
	}
	s := a.sight(id)
	e, _, taken := follow(a, r, &s.past, &s.state, trade.Decider)
	if !taken {
		return
	}
	switch e := e.(type) {
	case trade.Seen:
		a.tradesSeen++
		a.billTrade(r, e)
	case trade.Differed:
		a.contradicted++
	case trade.Orphaned:
		t := s.state
		a.decide(r, move{
			"trade-" + id, account.Clearing(t.Channel, t.Currency), account.Suspense(t.Currency), t.Amount, t.Currency, r.Stream,
		})
	case trade.Resolved:
		t := s.state
		a.resolved(r, t.Channel, t.Trade, t.Amount, t.Currency)
	case trade.Posted, trade.Cleared:
	}
	if s.state.Cleared && len(s.claims) == 0 && !s.broken {
		delete(a.trades, id) // nothing is left of it
		return
	}
	a.claimed(id, s)
}

// payments judges each payment by what is recorded in it.
func (r *reporter) payments() {
	for id := range sorted(r.audit.payments) {
		at, p := r.audit.aPayment(id)
		r.report.Payments[string(p.Status)]++
		r.paymentTotal(p)
		if !at.broken {
			r.payment(at, p)
		}
	}
}

func (r *reporter) payment(at past, p payment.Payment) {
	stream := "payment-" + p.ID
	f := Finding{Payment: p.ID, Retry: []string{stream}}
	if left := leftOfPayment(p); len(left) > 0 {
		r.unfinished[stream] = true
		f.Kind, f.Text = PaymentUnfinished, fmt.Sprintf("Of this %s payment is not recorded that %s.", p.Status, strings.Join(left, ", that "))
		r.add(f, at.newest)
	}
	if p.Open() && r.now.After(p.Expires.Add(r.audit.cfg.Grace)) {
		f.Kind, f.Expected = PaymentOverdue, &Sum{p.Amount, p.Currency}
		f.Text = fmt.Sprintf("The channel %s has not said what became of it; there was time until %s.", p.Channel, p.Expires.Format(time.RFC3339))
		r.add(f, at.newest)
	}
	for _, t := range p.Trades {
		if t.Mismatch != "" && !t.Returned {
			r.add(Finding{
				Kind: MismatchWaits, Attention: true, Payment: p.ID, Trade: t.Trade, Actual: &Sum{t.Amount, t.Currency},
				Text: fmt.Sprintf("It came and was not asked for (%s), and is not given back.", t.Mismatch),
			}, at.newest)
		}
	}
	for _, back := range p.Refunds {
		r.refund(at, p, back)
	}
}

// refund lists a refund that waits for its channel, or for a person.
func (r *reporter) refund(at past, p payment.Payment, back payment.Refund) {
	f := Finding{Payment: p.ID, Order: back.Order, Refund: back.Key, Trade: back.Trade, Expected: &Sum{back.Amount, p.Currency}}
	switch back.Status {
	case payment.RefundIsProcessing:
		f.Kind, f.Text, f.At = RefundProcessing, fmt.Sprintf("The channel %s takes its time.", p.Channel), time.UnixMilli(at.newest).UTC()
		r.report.UnderWay = append(r.report.UnderWay, f)
	case payment.RefundIsRefused:
		f.Kind, f.Attention = RefundRefused, true
		f.Text = fmt.Sprintf("It was refused (%s), and is to be sent again.", back.Failure)
		r.add(f, at.newest)
	case payment.RefundIsRequested, payment.RefundIsDone:
	}
}

// leftOfPayment says what a process has still to bring about for a payment.
func leftOfPayment(p payment.Payment) (left []string) {
	for _, t := range p.Trades {
		if !t.Posted {
			left = append(left, fmt.Sprintf("trade %s is in the ledger", t.Trade))
		}
		if t.Resolved != "" && !t.Cleared {
			left = append(left, fmt.Sprintf("trade %s has left the ledger", t.Trade))
		}
	}
	if p.Status == payment.StatusCaptured && !p.Applied {
		left = append(left, "its orders have their shares")
	}
	for _, r := range p.Refunds {
		switch {
		case r.Status == payment.RefundIsRequested:
			left = append(left, fmt.Sprintf("refund %s is on its way to the %s", r.Key, r.To))
		case r.Status == payment.RefundIsDone && !r.Posted:
			left = append(left, fmt.Sprintf("refund %s is in the ledger", r.Key))
		}
	}
	return left
}

// trades lists what no payment has claimed, or has otherwise.
func (r *reporter) trades() {
	for id, s := range sorted(r.audit.trades) {
		if s.broken {
			continue
		}
		t := s.state
		f := Finding{Trade: t.Trade, Payment: t.Payment, Stream: "trade-" + id, Expected: &Sum{t.Amount, t.Currency}}
		if len(s.claims) > 0 {
			c := s.claims[0]
			f.Actual, f.Payment, f.Trade = &Sum{c.amount, c.currency}, c.payment, c.trade
		}
		switch {
		case t.Channel == "":
			f.Kind, f.Text, f.Expected = TradeUnseen, "A payment has this trade, which no channel told of, or another payment has as well.", nil
		case t.Orphan != "" && len(s.claims) > 0, len(s.claims) > 1:
			f.Kind, f.Text = TradeTwice, "The trade is for more than one, or for nobody and a payment has it."
		case len(s.claims) > 0:
			f.Kind, f.Text = TradeDiffers, fmt.Sprintf("The channel told of it for payment %s, and payment %s has it, or has another amount.", t.Payment, f.Payment)
		case t.Orphan == "":
			f.Kind, f.Text = TradeUnclaimed, "The channel told of money that no payment has, and that is not set aside."
		case !t.Posted, t.Resolved != "":
			f.Kind, f.Text, f.Retry = TradeUnfinished, "Money for nobody is not recorded to be in the ledger, or to have left it.", []string{f.Stream}
			r.unfinished[f.Stream] = true
		default:
			f.Kind, f.Attention = OrphanWaits, true
			f.Text = fmt.Sprintf("Money came at %s for nobody (%s), and stands in suspense.", t.Channel, t.Orphan)
		}
		r.add(f, s.newest)
	}
}
