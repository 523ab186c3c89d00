package reconcile

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/domain/inventory"
	"cartwright/domain/order"
	"cartwright/domain/seen"
)

// A shelf is the stock of one SKU, or of a shard of one.
type shelf struct {
	past
	state inventory.Stock
}

// A lot is some of a stock for a checkout.
type lot struct{ sku, checkout string }

// A need is what a lot should be, by the orders. Between what is decided and what
// is recorded to be done, both may be so.
type need struct {
	order    string
	least    int64
	most     int64
	phase    inventory.Phase // "" is either
	newest   int64
	anything bool // an order of it has a broken history
}

func (a *Audit) addStock(sku string, r event.Recorded) {
	s := a.stocks[sku]
	if s == nil {
		s = &shelf{}
		a.stocks[strings.Clone(sku)] = s
	}
	follow(a, r, &s.past, &s.state, inventory.Decider)
	s.state.Closed, s.state.Restocks = seen.Memory{}, seen.Memory{}
}

// expectStock says what an order should have of each SKU.
func (r *reporter) expectStock(id string, p past, o order.Order) {
	if p.broken {
		r.needs[lot{"", o.Checkout}] = &need{anything: true}
		r.needs[lot{"", id}] = &need{anything: true}
		return
	}
	if o.Status == order.StatusNone || (o.Status == order.StatusCancelled && o.StockReleased) {
		return
	}
	for sku, n := range unitsOf(o) {
		if n.most == 0 && n.least == 0 {
			continue
		}
		at := lot{sku, o.Checkout}
		have := r.needs[at]
		if have == nil {
			have = &need{order: id, phase: n.phase}
			r.needs[at] = have
		}
		have.least, have.most, have.newest = have.least+n.least, have.most+n.most, max(have.newest, p.newest)
		if have.phase != n.phase {
			have.phase = ""
		}
	}
}

// unitsOf sums what an order should have, by the stock it is in.
func unitsOf(o order.Order) map[string]need {
	units := map[string]need{}
	add := func(line int, least, most int64) {
		stock := o.Lines[line-1].Stock()
		n := units[stock]
		n.least, n.most, n.phase = n.least+least, n.most+most, phaseOf(o)
		units[stock] = n
	}
	for i, it := range o.Lines {
		least := it.Quantity - it.Shipped - it.RefundedUnshipped
		if o.Status == order.StatusCancelled {
			add(i+1, 0, it.Quantity)
			continue
		}
		add(i+1, least, least)
	}
	for _, p := range o.Parcels {
		if hasShipped(p) && !p.StockShipped {
			for _, part := range p.Lines {
				add(part.Line, 0, part.Quantity)
			}
		}
	}
	for _, refund := range o.Refunds {
		if !refund.Settled {
			for _, l := range refund.Lines {
				add(l.Line, 0, l.Unshipped)
			}
		}
	}
	return units
}

// phaseOf says how firm an order's stock is.
func phaseOf(o order.Order) inventory.Phase {
	switch {
	case !wasPaid(o):
		return inventory.PhaseHeld
	case o.StockCommitted:
		return inventory.PhaseAllocated
	}
	return ""
}

// stock holds every reservation against the orders, and the counters of each SKU
// against its reservations.
func (r *reporter) stock() {
	for sku, s := range sorted(r.audit.stocks) {
		if _, shard := domain.ShardOf(sku); shard == 0 {
			r.report.SKUs++
		}
		r.transfers(sku, s)
		if err := s.state.Check(); err != nil && !s.broken {
			r.add(Finding{Kind: StockState, SKU: sku, Text: fmt.Sprintf("It contradicts itself: %v.", err)}, s.newest)
		}
		for checkout, open := range sorted(maps.Collect(s.state.Reservations.All())) {
			at := lot{sku, checkout}
			n := r.needs[at]
			delete(r.needs, at)
			if !s.broken && r.needs[lot{"", checkout}] == nil {
				r.reservation(sku, checkout, open, n)
			}
		}
	}
	for at, n := range r.needs {
		s := r.audit.stocks[at.sku]
		if n.anything || n.least == 0 || s != nil && s.broken || r.needs[lot{"", at.checkout}] != nil {
			continue
		}
		r.add(Finding{
			Kind: StockDiffers, SKU: at.sku, Order: n.order, Expected: &Sum{Amount: n.least}, Actual: &Sum{},
			Text: "The order should have units of it, and has none.", Retry: []string{"order-" + n.order},
		}, n.newest)
	}
}

// transfers holds what a shard has sent against what the others got: all of it,
// but for the last where it is not settled.
func (r *reporter) transfers(stock string, s *shelf) {
	sku, from := domain.ShardOf(stock)
	for to, last := range s.state.Sent {
		other := r.audit.stocks[domain.StockID(sku, to)]
		got := int64(0)
		if other != nil {
			got = other.state.Got[from]
		}
		f := Finding{Kind: StockTransfer, SKU: stock, Retry: []string{"inventory-" + stock}}
		switch {
		case s.broken || other != nil && other.broken:
		case last.Open && (got == last.Transfer || got == last.Transfer-1):
			f.Text = fmt.Sprintf("%d units are on the way to shard %d.", last.Quantity, to)
			r.add(f, s.newest)
		case last.Open || got != last.Transfer:
			f.Text = fmt.Sprintf("Transfer %d to shard %d was the last, and the last that came is %d.", last.Transfer, to, got)
			f.Retry = nil
			r.add(f, s.newest)
		}
	}
}

func (r *reporter) reservation(sku, checkout string, open inventory.Reservation, n *need) {
	left := open.Left()
	f := Finding{SKU: sku, Order: checkout, Actual: &Sum{Amount: left}}
	if n == nil {
		r.noNeed(f, open)
		return
	}
	f.Order, f.Expected, f.Retry = n.order, &Sum{Amount: n.least}, []string{"order-" + n.order}
	switch {
	case left < n.least || left > n.most:
		f.Kind, f.Text = StockDiffers, fmt.Sprintf("Units are %s for the order; by what it says, these should be.", open.Phase)
		if n.least != n.most {
			f.Text = fmt.Sprintf("Units are %s for the order; by what it says, %d to %d should be.", open.Phase, n.least, n.most)
		}
		r.add(f, n.newest)
	case n.phase != "" && open.Phase != n.phase:
		f.Kind, f.Text = StockPhase, fmt.Sprintf("Units are %s for the order, and should be %s.", open.Phase, n.phase)
		r.add(f, n.newest)
	}
}

// noNeed lists a reservation that no order should have. A hold may be one of a
// checkout that is just being placed, until it expires.
func (r *reporter) noNeed(f Finding, open inventory.Reservation) {
	f.Expected = &Sum{}
	p, o := r.audit.anOrder(f.Order)
	if wasPaid(o) && open.Phase == inventory.PhaseAllocated {
		f.Kind, f.Text = StockDiffers, "Units are allocated for the checkout, and by its orders none should be."
		r.add(f, p.newest)
		return
	}
	f.Kind = ReservationStranded
	f.Text = fmt.Sprintf("Units are %s for a checkout none of whose orders should have any.", open.Phase)
	if open.Phase != inventory.PhaseHeld {
		r.report.Findings = append(r.report.Findings, f)
		return
	}
	r.addFrom(f, open.Expires.UnixMilli())
}

// addFrom adds what may be so until a time.
func (r *reporter) addFrom(f Finding, until int64) {
	if r.now.Before(time.UnixMilli(until)) {
		f.At = time.UnixMilli(until).UTC()
		r.report.UnderWay = append(r.report.UnderWay, f)
		return
	}
	r.add(f, until)
}
