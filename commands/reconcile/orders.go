package reconcile

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/order"
	"cartwright/domain/payment"
)

// A promise is an order that its checkout's first order has recorded, and that
// does not stand yet.
type promise struct {
	head   string
	newest int64
}

// A share is what a payment says of an order's part of it, and what the order does.
type share struct {
	split, paid, late *int64 // captured for it; paid with it; on its way back
	newest            int64
}

// A payback is a refund of an order, as the order has it and as its payment does.
type payback struct {
	order           string
	wanted, carried *int64
	newest          int64
}

func (a *Audit) anOrder(id string) (p past, o order.Order) {
	packed, known := a.orders[id]
	if !known {
		return p, o
	}
	a.tape.unpack(packed, func(t *tape) { t.past(&p); t.order(&o) })
	if o.Status != order.StatusNone {
		o.ID = id
	}
	return p, o
}

func (a *Audit) addOrder(id string, r event.Recorded) {
	p, o := a.anOrder(id)
	e, _, taken := follow(a, r, &p, &o, order.Decider)
	if taken {
		a.orderDid(r, o, e)
	}
	a.orders[strings.Clone(id)] = a.tape.pack(func(t *tape) { t.past(&p); t.order(&o) })
}

// orderDid notes what an order's event calls for elsewhere.
func (a *Audit) orderDid(r event.Recorded, o order.Order, e order.Event) {
	milli := r.Created.UnixMilli()
	switch e := e.(type) {
	case order.Placed:
		delete(a.promised, o.ID)
		for _, sib := range e.Siblings {
			if _, there := a.orders[sib.Order]; !there {
				a.promised[sib.Order] = promise{o.ID, milli}
			}
		}
	case order.Paid:
		a.orderPaid(r, o, e)
	case order.RefundIssued:
		a.orderRefunds(r, o, e)
	case order.Settled:
		escrow := account.Escrow(o.Currency)
		a.decide(r, move{"settle-" + o.ID, escrow, account.Seller(o.Seller, o.Currency), e.Gross - e.Commission, o.Currency, r.Stream})
		a.decide(r, move{"commission-" + o.ID, escrow, account.Fee(o.Currency), e.Commission, o.Currency, r.Stream})
	default:
	}
}

// orderPaid expects the capture from the buyer's account, or the payment that an
// order names. What cost nothing is no share of one; it has to be there even so.
func (a *Audit) orderPaid(r event.Recorded, o order.Order, e order.Paid) {
	if e.Payment == "" {
		a.decide(r, move{"capture-" + o.ID, o.Buyer, account.Escrow(o.Currency), e.Amount, o.Currency, r.Stream})
		return
	}
	if e.Amount == 0 {
		if _, p := a.aPayment(e.Payment); p.Status == payment.StatusCaptured {
			return
		}
	}
	a.share(r, e.Payment, o.ID, func(s *share) { s.paid = &e.Amount })
}

// orderRefunds expects what a refund moves. What the seller had comes back first.
func (a *Audit) orderRefunds(r event.Recorded, o order.Order, e order.RefundIssued) {
	if e.Amount == 0 {
		return
	}
	escrow, key := account.Escrow(o.Currency), o.ID+"/"+strconv.Itoa(e.Refund)
	if e.FromSeller {
		a.decide(r, move{"clawback-" + key, account.Seller(o.Seller, o.Currency), escrow, e.Amount - e.Commission, o.Currency, r.Stream})
		a.decide(r, move{"uncommission-" + key, account.Fee(o.Currency), escrow, e.Commission, o.Currency, r.Stream})
	}
	if o.PaymentID == "" {
		a.decide(r, move{"refund-" + key, escrow, o.Buyer, e.Amount, o.Currency, r.Stream})
		return
	}
	a.payback(r, link{o.PaymentID, refundKey(o.ID, e.Refund)}, func(p *payback) { p.order, p.wanted = o.ID, &e.Amount })
}

func refundKey(id string, n int) string { return id + "." + strconv.Itoa(n) }

// share notes what is said of an order's part of a payment, and forgets it where
// all that is said agrees.
func (a *Audit) share(r event.Recorded, payment, id string, note func(*share)) {
	l := link{payment, id}
	s := a.shares[l]
	if s == nil {
		s = &share{}
		a.shares[l] = s
	}
	note(s)
	s.newest = max(s.newest, r.Created.UnixMilli())
	to := s.paid
	if to == nil {
		to = s.late
	}
	if s.split != nil && (s.paid == nil) != (s.late == nil) && *to == *s.split {
		delete(a.shares, l)
	}
}

func (a *Audit) payback(r event.Recorded, l link, note func(*payback)) {
	p := a.paybacks[l]
	if p == nil {
		p = &payback{}
		a.paybacks[l] = p
	}
	note(p)
	p.newest = max(p.newest, r.Created.UnixMilli())
	if p.wanted != nil && p.carried != nil && *p.wanted == *p.carried {
		delete(a.paybacks, l)
	}
}

// orders judges each order by what is recorded in it.
func (r *reporter) orders() {
	for id := range sorted(r.audit.orders) {
		p, o := r.audit.anOrder(id)
		if o.Status == order.StatusNone && !p.broken {
			continue // an attempt was fenced here, and no more
		}
		r.report.Orders[string(o.Status)]++
		r.orderTotal(o)
		r.expectStock(id, p, o)
		if !p.broken {
			r.order(p, o)
		}
	}
	for id, w := range sorted(r.audit.promised) {
		r.add(Finding{
			Kind: OrderMissing, Order: id, Retry: []string{"order-" + w.head},
			Text: fmt.Sprintf("The checkout %s has this order, and it does not stand.", w.head),
		}, w.newest)
	}
}

func (r *reporter) order(p past, o order.Order) {
	stream := "order-" + o.ID
	if left := r.leftOf(o); len(left) > 0 {
		r.unfinished[stream] = true
		r.add(Finding{
			Kind: OrderUnfinished, Order: o.ID, Payment: o.PaymentID, Retry: []string{stream},
			Text: fmt.Sprintf("Of this %s order is not recorded that %s.", o.Status, strings.Join(left, ", that ")),
		}, p.newest)
	}
	if o.Status == order.StatusPending && !o.Deadline.IsZero() && r.now.After(o.Deadline.Add(r.audit.cfg.Grace)) {
		r.add(Finding{
			Kind: OrderOverdue, Order: o.ID, Retry: []string{stream}, Expected: &Sum{o.Total(), o.Currency},
			Text: fmt.Sprintf("It waits for its payment, for which there was time until %s.", o.Deadline.Format(time.RFC3339)),
		}, p.newest)
	}
}

// leftOf says what a process has still to bring about for an order.
func (r *reporter) leftOf(o order.Order) (left []string) {
	note := func(missing bool, what string) {
		if missing {
			left = append(left, what)
		}
	}
	paid := wasPaid(o)
	note(o.Status == order.StatusCancelled && !o.StockReleased, "its stock is free again")
	note(paid && !o.StockCommitted, "its stock is allocated")
	note(paid && !o.PaymentCaptured, "its money is in escrow")
	for _, p := range o.Parcels {
		note(hasShipped(p) && !p.StockShipped, fmt.Sprintf("parcel %d has left the stock", p.Parcel))
	}
	note(o.Status == order.StatusCompleted && (o.Settlement == nil || !o.Settlement.Posted), "its seller is settled with")
	for _, refund := range o.Refunds {
		note(!refund.Settled && !r.waitsForPayment(o, refund), fmt.Sprintf("refund %d is back", refund.Refund))
	}
	return left
}

// waitsForPayment says that a refund is its payment's affair: it has been asked
// for, and is not back yet.
func (r *reporter) waitsForPayment(o order.Order, refund order.Repayment) bool {
	if o.PaymentID == "" || refund.Amount == 0 {
		return false
	}
	_, p := r.audit.aPayment(o.PaymentID)
	back, asked := p.Refund(refundKey(o.ID, refund.Refund))
	return asked && !back.Posted
}

func wasPaid(o order.Order) bool {
	switch o.Status {
	case order.StatusPaid, order.StatusShipped, order.StatusCompleted, order.StatusRefunded:
		return true
	case order.StatusNone, order.StatusPending, order.StatusCancelled:
	}
	return false
}

func hasShipped(p order.Parcel) bool {
	return p.Status == order.ParcelIsShipped || p.Status == order.ParcelIsDelivered
}

// holds judges what is on hold in an account: it waits for an order to be paid,
// or is taken in a moment. One that nobody stands behind ends when it expires.
func (r *reporter) holds(id string, h *holder) {
	for name, held := range sorted(maps.Collect(h.state.Holds.All())) {
		p, o := r.audit.anOrder(name)
		f := Finding{
			Kind: HoldStranded, Account: id, Order: name, Retry: []string{"account-" + id},
			Expected: &Sum{0, h.state.Currency}, Actual: &Sum{held.Amount, h.state.Currency},
		}
		if p.broken {
			continue
		}
		waits := o.Status == order.StatusPending || wasPaid(o) && !o.PaymentCaptured && o.PaymentID == ""
		switch {
		case waits && (o.Buyer != id || o.Total() != held.Amount || o.Currency != h.state.Currency):
			f.Kind, f.Expected = HoldDiffers, &Sum{o.Total(), o.Currency}
			f.Text = fmt.Sprintf("It is held for an order of %s over %d %s.", o.Buyer, o.Total(), o.Currency)
		case waits:
			continue
		default:
			f.Text = fmt.Sprintf("It is held for an order that will not take it: the order is %s.", standing(o))
		}
		r.addFrom(f, max(h.since[name], held.Expires.UnixMilli()))
	}
}

// standing says where an order stands, for people.
func standing(o order.Order) string {
	switch {
	case o.Status == order.StatusNone:
		return "not there"
	case wasPaid(o) && o.PaymentID != "":
		return string(o.Status) + ", by payment " + o.PaymentID
	}
	return string(o.Status)
}

// shares lists the parts of payments about which payments and orders do not agree.
func (r *reporter) shares() {
	for _, l := range sortedLinks(r.audit.shares) {
		s := r.audit.shares[l]
		_, p := r.audit.aPayment(l.payment)
		f := Finding{Payment: l.payment, Order: l.of, Retry: []string{"payment-" + l.payment}}
		f.Expected, f.Actual = sumOf(s.split, p.Currency), sumOf(s.paid, p.Currency)
		if s.paid == nil {
			f.Actual = sumOf(s.late, p.Currency)
		}
		switch {
		case s.split != nil && s.paid == nil && s.late == nil:
			if r.unfinished["payment-"+l.payment] {
				continue
			}
			f.Kind, f.Text = ShareMissing, "The payment is captured and its share neither pays this order nor is on its way back."
		case s.split == nil && s.paid != nil:
			f.Kind, f.Text, f.Retry = OrderWithoutPayment, "The order is paid by a payment that has captured no share of it, or has given it back.", nil
		case s.split == nil:
			f.Kind, f.Text, f.Retry = RefundUnexpected, "A share is given back that was not captured, or that pays its order.", nil
		default:
			f.Kind, f.Text, f.Retry = ShareDiffers, "What was captured for the order is not what it was paid with, or what goes back.", nil
		}
		r.add(f, s.newest)
	}
}

// paybacks lists the refunds about which orders and payments do not agree.
func (r *reporter) paybacks() {
	for _, l := range sortedLinks(r.audit.paybacks) {
		b := r.audit.paybacks[l]
		_, p := r.audit.aPayment(l.payment)
		f := Finding{
			Payment: l.payment, Refund: l.of, Order: b.order,
			Expected: sumOf(b.wanted, p.Currency), Actual: sumOf(b.carried, p.Currency),
		}
		switch {
		case b.wanted == nil:
			f.Kind, f.Text = RefundUnexpected, "The payment gives back what no order of it wants back."
		case b.carried == nil:
			if r.unfinished["order-"+b.order] {
				continue
			}
			f.Kind, f.Text, f.Retry = RefundMissing, "The order gives money back, and its payment knows nothing of it.", []string{"order-" + b.order}
		default:
			f.Kind, f.Text = RefundDiffers, "The order gives back another amount than its payment."
		}
		r.add(f, b.newest)
	}
}

func sumOf(amount *int64, currency string) *Sum {
	if amount == nil {
		return nil
	}
	return &Sum{*amount, currency}
}

func sortedLinks[V any](m map[link]V) []link {
	links := make([]link, 0, len(m))
	for l := range m {
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b link) int {
		return strings.Compare(a.payment+"\x00"+a.of, b.payment+"\x00"+b.of)
	})
	return links
}
