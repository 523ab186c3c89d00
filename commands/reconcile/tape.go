package reconcile

import (
	"encoding/binary"
	"strings"
	"time"

	"cartwright/domain/event"
	"cartwright/domain/order"
	"cartwright/domain/payment"
)

// A tape is a state in few bytes. One walk over its fields writes it, and the
// same walk reads it again, so the two can't disagree (TestWhatIsPackedComesBack).
// What no later event and no check asks for is left out: addresses, titles,
// waybills, instructions, and most of what is over.
type tape struct {
	bytes   []byte
	reading bool

	words []string // that many states share, such as sellers and SKUs
	at    map[string]int
}

// pack writes what walk walks over.
func (t *tape) pack(walk func(*tape)) string {
	t.reading, t.bytes = false, t.bytes[:0]
	walk(t)
	return string(t.bytes)
}

// unpack reads what pack wrote.
func (t *tape) unpack(packed string, walk func(*tape)) {
	t.reading = true
	t.bytes = append(t.bytes[:0], packed...)
	rest := t.bytes
	walk(t)
	t.bytes = rest // all of the buffer, for the next one
}

func num[N ~int | ~int64](t *tape, n *N) {
	if !t.reading {
		t.bytes = binary.AppendVarint(t.bytes, int64(*n))
		return
	}
	v, size := binary.Varint(t.bytes)
	*n, t.bytes = N(v), t.bytes[size:]
}

func (t *tape) revision(r *event.Revision) {
	if !t.reading {
		t.bytes = binary.AppendUvarint(t.bytes, uint64(*r))
		return
	}
	v, size := binary.Uvarint(t.bytes)
	*r, t.bytes = event.Revision(v), t.bytes[size:]
}

func (t *tape) flags(flags ...*bool) {
	var bits int64
	for i, f := range flags {
		if *f {
			bits |= 1 << i
		}
	}
	num(t, &bits)
	for i, f := range flags {
		*f = bits&(1<<i) != 0
	}
}

// moment keeps a time to the millisecond.
func (t *tape) moment(at *time.Time) {
	var milli int64
	if !at.IsZero() {
		milli = at.UnixMilli()
	}
	if num(t, &milli); t.reading && milli != 0 {
		*at = time.UnixMilli(milli).UTC()
	}
}

func (t *tape) text(s *string) {
	n := len(*s)
	num(t, &n)
	if !t.reading {
		t.bytes = append(t.bytes, *s...)
		return
	}
	*s, t.bytes = string(t.bytes[:n]), t.bytes[n:]
}

// word is text that many states have in common.
func word[S ~string](t *tape, s *S) {
	i := 0
	if !t.reading {
		i = t.indexOf(string(*s))
	}
	num(t, &i)
	*s = S(t.words[i])
}

func (t *tape) indexOf(s string) int {
	i, known := t.at[s]
	if !known {
		i, s = len(t.words), strings.Clone(s)
		t.words, t.at[s] = append(t.words, s), i
	}
	return i
}

func many[T any](t *tape, all *[]T, each func(i int, one *T)) {
	n := len(*all)
	num(t, &n)
	if t.reading {
		*all = nil
		if n > 0 {
			*all = make([]T, n)
		}
	}
	for i := range *all {
		each(i, &(*all)[i])
	}
}

func (t *tape) past(p *past) {
	t.revision(&p.at)
	num(t, &p.newest)
	t.flags(&p.broken)
}

// order walks over what is asked of an order. Of one that was cancelled and holds
// nothing that is next to nothing.
func (t *tape) order(o *order.Order) {
	word(t, &o.Status)
	t.flags(&o.StockCommitted, &o.PaymentCaptured, &o.StockReleased)
	switch {
	case o.Status == order.StatusNone:
		many(t, &o.Abandoned, func(_ int, s *string) { t.text(s) })
		return
	case o.Status == order.StatusCancelled && o.StockReleased:
		return
	case o.Status == order.StatusPending:
		t.moment(&o.Deadline)
	}
	word(t, &o.Buyer)
	word(t, &o.Seller)
	word(t, &o.Currency)
	t.text(&o.Checkout)
	t.text(&o.PaymentID)
	num(t, &o.Paid)
	many(t, &o.Lines, t.item)
	many(t, &o.Parcels, t.parcel)
	many(t, &o.Refunds, t.repayment)
	t.settlement(&o.Settlement)
}

func (t *tape) item(i int, it *order.Item) {
	it.Line.Line = i + 1
	word(t, &it.SKU)
	num(t, &it.Shard)
	for _, n := range []*int64{
		&it.Quantity, &it.UnitPrice, &it.Freight, &it.Packed, &it.Shipped, &it.RefundedUnshipped, &it.Returned, &it.Refunded, &it.RefundedFreight,
	} {
		num(t, n)
	}
}

// parcel keeps what is in a parcel for as long as it may move stock.
func (t *tape) parcel(i int, p *order.Parcel) {
	p.Parcel = i + 1
	word(t, &p.Status)
	t.flags(&p.StockShipped)
	num(t, &p.Waybill.Version)
	if !p.StockShipped && p.Status != order.ParcelIsUnpacked {
		many(t, &p.Lines, func(_ int, part *order.Part) { num(t, &part.Line); num(t, &part.Quantity) })
	}
}

// repayment keeps what a refund is about until it is done.
func (t *tape) repayment(i int, r *order.Repayment) {
	r.Refund = i + 1
	if t.flags(&r.Settled); r.Settled {
		return
	}
	num(t, &r.Amount)
	many(t, &r.Lines, func(_ int, l *order.RefundLine) { num(t, &l.Line); num(t, &l.Unshipped) })
}

func (t *tape) settlement(s **order.Settlement) {
	some := *s != nil
	if t.flags(&some); !some {
		return
	}
	if t.reading {
		*s = new(order.Settlement)
	}
	num(t, &(*s).Gross)
	num(t, &(*s).Commission)
	num(t, &(*s).Back)
	t.flags(&(*s).Posted)
}

// payment walks over what is asked of a payment. Once it is captured, its shares
// are the orders' affair.
func (t *tape) payment(p *payment.Payment) {
	word(t, &p.Status)
	word(t, &p.Buyer)
	word(t, &p.Channel)
	word(t, &p.Currency)
	num(t, &p.Amount)
	num(t, &p.Captured)
	t.flags(&p.Applied)
	if p.Open() {
		t.moment(&p.Expires)
	}
	if p.Status != payment.StatusCaptured {
		many(t, &p.Splits, func(_ int, s *payment.Split) { t.text(&s.Order); num(t, &s.Amount) })
	}
	many(t, &p.Trades, func(_ int, tr *payment.Trade) {
		t.text(&tr.Trade)
		num(t, &tr.Amount)
		word(t, &tr.Currency)
		word(t, &tr.Mismatch)
		word(t, &tr.Channel)
		t.text(&tr.Resolved)
		t.flags(&tr.Posted, &tr.Returned, &tr.Cleared)
	})
	many(t, &p.Refunds, func(_ int, r *payment.Refund) {
		t.text(&r.Key)
		t.text(&r.Order)
		t.text(&r.Trade)
		num(t, &r.Amount)
		word(t, &r.To)
		word(t, &r.Status)
		t.text(&r.Failure)
		t.flags(&r.Posted)
	})
}
