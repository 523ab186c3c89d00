package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cartwright/domain/order"
)

// An oddity is something in the file, or in what came of it, that an operator
// should know. It never stops an import.
type oddity struct {
	OrderID string `json:"order_id"` // the source's
	Kind    string `json:"kind"`
	Detail  string `json:"detail"` // what it is, and what was done with it
}

// The kinds of oddities.
const (
	oddExcludedTime = "excluded_time"   // a time of a step that the status excludes
	oddMissingTime  = "missing_time"    // no time for a step that is taken
	oddBackwards    = "backwards_times" // a step before the one that it follows
	oddCategory     = "null_category"
	oddStatus       = "uncertain_status" // the status leaves open how far the order came
	oddOffer        = "offer_differs"    // the SKU was offered before, in other words
	oddEnd          = "ended_otherwise"  // somebody else has changed the order since
)

// A fate is what becomes of an order. The source's status alone decides it.
type fate struct {
	pays, ships, delivers bool
	cancels               order.Reason // "" if it is not cancelled
	ends                  order.Status
	uncertain             string // what the status was taken for, where the source does not say it plainly
}

var fates = map[string]fate{
	"delivered":  {pays: true, ships: true, delivers: true, ends: order.StatusCompleted},
	"shipped":    {pays: true, ships: true, ends: order.StatusShipped},
	"invoiced":   {pays: true, ends: order.StatusPaid},
	"processing": {pays: true, ends: order.StatusPaid},
	"canceled":   {pays: true, cancels: order.ByOperator, ends: order.StatusRefunded},

	"approved":    {pays: true, ends: order.StatusPaid, uncertain: "taken for paid"},
	"unavailable": {pays: true, cancels: order.Stock, ends: order.StatusRefunded, uncertain: "taken for paid, then cancelled for want of stock"},
	"created":     {ends: order.StatusPending, uncertain: "taken for placed and not paid"},
}

// unknownFate is that of an order whose status nobody here knows: it is kept,
// and nothing is made up about it.
var unknownFate = fate{ends: order.StatusPending, uncertain: "not known: placed, and nothing more"}

// A plannedOrder is an order of the source with all that is to be done for it.
type plannedOrder struct {
	sourceOrder
	fate

	skus   []string // by item
	offers []plannedOffer
	total  int64
	at     stepTimes
}

// A plannedOffer is a SKU that the order needs.
type plannedOffer struct {
	sku, title string
	item       sourceItem
}

// stepTimes date the steps.
type stepTimes struct{ placed, paid, shipped, delivered time.Time }

// An importPlan is what a file leads to. Making it sends nothing.
type importPlan struct {
	orders   []plannedOrder
	oddities []oddity
}

// planImport decides what is to be done for every order of a file. It fails
// where a step would be in the future, which the API refuses.
func planImport(orders []sourceOrder, now time.Time) (importPlan, error) {
	var p importPlan
	titles := titlesOf(orders)
	first := firstTime(orders)
	for _, o := range orders {
		planned := plannedOrder{sourceOrder: o, fate: unknownFate}
		if f, known := fates[o.Status]; known {
			planned.fate = f
		}
		p.oddities = append(p.oddities, planned.dateSteps(first)...)
		p.oddities = append(p.oddities, planned.odd()...)
		if err := planned.at.check(now); err != nil {
			return p, fmt.Errorf("order %s: %w", o.ID, err)
		}
		var err error
		if planned.total, err = o.total(); err != nil {
			return p, fmt.Errorf("order %s: %w", o.ID, err)
		}
		planned.offer(titles)
		p.orders = append(p.orders, planned)
	}
	return p, nil
}

// skuSeparator parts the names of SKUs.
const skuSeparator = ":"

// sku names what a line sold. The same product was sold at several prices and
// freights, which are parts of an offer: each is a SKU of its own.
func (i sourceItem) sku() string {
	return strings.Join([]string{
		i.Product, i.Seller, strconv.FormatInt(i.Price, 10), strconv.FormatInt(i.Freight, 10),
	}, skuSeparator)
}

// titlesOf gives every SKU a title. One file names a SKU once: where its lines
// differ, the first category is taken.
func titlesOf(orders []sourceOrder) map[string]string {
	titles := map[string]string{}
	for _, o := range orders {
		for _, i := range o.Items {
			if sku := i.sku(); titles[sku] == "" && i.Category != "" {
				titles[sku] = i.Category + " " + i.Product
			}
		}
	}
	return titles
}

// offer lists what is to be on offer before the order is placed.
func (o *plannedOrder) offer(titles map[string]string) {
	for _, item := range o.Items {
		sku := item.sku()
		if !slices.Contains(o.skus, sku) {
			title := titles[sku]
			if title == "" {
				title = "Product " + item.Product
			}
			o.offers = append(o.offers, plannedOffer{sku: sku, title: title, item: item})
		}
		o.skus = append(o.skus, sku)
	}
}

// sellers is how many orders the order becomes.
func (o *plannedOrder) sellers() int {
	var ids []string
	for _, item := range o.Items {
		ids = append(ids, item.Seller)
	}
	slices.Sort(ids)
	return len(slices.Compact(ids))
}

// firstTime is the earliest time in the file: it dates an order that has none.
func firstTime(orders []sourceOrder) time.Time {
	var first time.Time
	for _, o := range orders {
		for _, t := range o.times() {
			if !t.at.IsZero() && (first.IsZero() || t.at.Before(first)) {
				first = t.at
			}
		}
	}
	return first
}

// A namedTime is a time of the source, with its name there.
type namedTime struct {
	name string
	at   time.Time
}

// times are the order's, in the order of the steps they date.
func (o sourceOrder) times() []namedTime {
	return []namedTime{
		{"purchased_at", o.PurchasedAt},
		{"approved_at", o.ApprovedAt},
		{"shipped_at", o.ShippedAt},
		{"delivered_at", o.DeliveredAt},
	}
}

// dateSteps gives every step a time: its own; for want of it that of the step
// before; and for the first one the earliest the order has, or the file.
func (o *plannedOrder) dateSteps(first time.Time) []oddity {
	var odd []oddity
	before := namedTime{"the file's earliest time", first}
	if own := firstTime([]sourceOrder{o.sourceOrder}); !own.IsZero() {
		before = namedTime{"the order's earliest time", own}
	}
	taken := []bool{true, o.pays, o.ships, o.delivers}
	dates := []*time.Time{&o.at.placed, &o.at.paid, &o.at.shipped, &o.at.delivered}
	for i, t := range o.times() {
		switch {
		case !taken[i] && !t.at.IsZero():
			odd = append(odd, o.oddity(oddExcludedTime, "%s (%s) is not used: the status is %s", t.name, stamp(t.at), o.Status))
		case taken[i] && t.at.IsZero():
			odd = append(odd, o.oddity(oddMissingTime, "%s is missing: %s (%s) stands in for it", t.name, before.name, stamp(before.at)))
			t.at = before.at
		}
		if taken[i] {
			*dates[i], before = t.at, t
		}
	}
	return odd
}

// odd finds what else is strange about the order.
func (o *plannedOrder) odd() []oddity {
	var odd []oddity
	if o.uncertain != "" {
		odd = append(odd, o.oddity(oddStatus, "the status %s is %s", o.Status, o.uncertain))
	}
	if backwards := o.backwards(); len(backwards) > 0 {
		odd = append(odd, o.oddity(oddBackwards, "%s: every step is dated as the file says", strings.Join(backwards, ", ")))
	}
	var lines []string
	for _, item := range o.Items {
		if item.Category == "" {
			lines = append(lines, strconv.Itoa(item.Line))
		}
	}
	if len(lines) > 0 {
		odd = append(odd, o.oddity(oddCategory, "no category on line %s: the title names the product only, unless another line of the SKU has one", strings.Join(lines, ", ")))
	}
	return odd
}

// backwards tells each time that is before one which should not be after it.
func (o *plannedOrder) backwards() []string {
	var found []string
	times := slices.DeleteFunc(o.times(), func(t namedTime) bool { return t.at.IsZero() })
	for i, later := range times {
		for _, earlier := range times[:i] {
			if later.at.Before(earlier.at) {
				found = append(found, fmt.Sprintf("%s (%s) is before %s (%s)", later.name, stamp(later.at), earlier.name, stamp(earlier.at)))
			}
		}
	}
	return found
}

func (o *plannedOrder) oddity(kind, format string, args ...any) oddity {
	return oddity{OrderID: o.ID, Kind: kind, Detail: fmt.Sprintf(format, args...)}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (t stepTimes) check(now time.Time) error {
	if t.placed.IsZero() {
		return errors.New("neither the order nor the file has a time to date it by")
	}
	for _, at := range []time.Time{t.placed, t.paid, t.shipped, t.delivered} {
		if at.After(now) {
			return fmt.Errorf("%s is in the future", stamp(at))
		}
	}
	return nil
}
