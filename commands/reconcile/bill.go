package reconcile

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"cartwright/domain/event"
	"cartwright/domain/money"
	"cartwright/domain/payment"
	"cartwright/domain/trade"
)

// A Bill is what a channel says that it has taken and given back, in a span of time.
type Bill struct {
	Channel string
	From    time.Time // of the span; what is before is not looked at
	To      time.Time // its last moment
	rows    []row
	at      map[billKey]int // the first row of each
}

// The kinds of a bill's rows.
const (
	billPayment = "payment"
	billRefund  = "refund"
)

// A billKey is what a row is about: a trade, or a payment's refund by its key.
type billKey struct{ kind, payment, id string }

type row struct {
	line                   int
	time                   time.Time
	kind                   string
	trade, payment, refund string
	sum                    Sum

	met     bool // we have it too
	differs bool // and have it otherwise
	twice   bool // an earlier row is about the same
}

func (w row) key() billKey {
	if w.kind == billRefund {
		return billKey{w.kind, w.payment, w.refund}
	}
	return billKey{kind: w.kind, id: w.trade}
}

// maxRowErrors is how many bad rows are named at once.
const maxRowErrors = 20

var billColumns = []string{"time", "kind", "trade", "payment", "refund", "amount", "currency"}

// ReadBill reads a channel's bill, a CSV whose columns are found by their names:
// time, kind, trade, payment, refund, amount and currency. The bill is of the span
// from its first to its last row, unless from and to say otherwise. Rows that make
// no sense are named, each by its line.
func ReadBill(r io.Reader, channel string, from, to time.Time) (*Bill, error) {
	in := csv.NewReader(r)
	in.FieldsPerRecord = -1
	in.ReuseRecord = true
	head, err := in.Read()
	if err != nil {
		return nil, fmt.Errorf("the bill's head: %w", err)
	}
	column, err := columnsOf(head)
	if err != nil {
		return nil, err
	}
	b := &Bill{Channel: channel, From: from, To: to, at: map[billKey]int{}}
	var errs []error
	for len(errs) < maxRowErrors {
		fields, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, errors.Join(append(errs, fmt.Errorf("the bill: %w", err))...) // it names the line itself
		}
		line, _ := in.FieldPos(0)
		w, err := readRow(fields, column)
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", line, err))
			continue
		}
		w.line = line
		b.add(w)
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("the bill: %w", errors.Join(errs...))
	}
	return b, b.span()
}

// columnsOf finds the columns, whatever their order and whatever is between them.
func columnsOf(head []string) (map[string]int, error) {
	at := map[string]int{}
	for i, name := range head {
		if i == 0 {
			name = strings.TrimPrefix(name, "\ufeff")
		}
		name = strings.ToLower(strings.TrimSpace(name))
		if _, twice := at[name]; twice && slices.Contains(billColumns, name) {
			return nil, fmt.Errorf("the bill has two columns %s", name)
		}
		at[name] = i
	}
	for _, name := range billColumns {
		if _, there := at[name]; !there {
			return nil, fmt.Errorf("the bill has no column %s; it needs %s", name, strings.Join(billColumns, ", "))
		}
	}
	return at, nil
}

func readRow(fields []string, column map[string]int) (w row, err error) {
	value := map[string]string{}
	for _, name := range billColumns {
		if i := column[name]; i < len(fields) {
			value[name] = strings.Clone(strings.TrimSpace(fields[i]))
		}
	}
	w.kind, w.trade, w.payment, w.refund = value["kind"], value["trade"], value["payment"], value["refund"]
	w.sum.Currency = value["currency"]
	if w.time, err = time.Parse(time.RFC3339, value["time"]); err != nil {
		return w, fmt.Errorf("%q is no time like 2026-03-14T12:00:00Z", value["time"])
	}
	if w.sum.Amount, err = strconv.ParseInt(value["amount"], 10, 64); err != nil || w.sum.Amount <= 0 {
		return w, fmt.Errorf("%q is no amount in minor units", value["amount"])
	}
	switch {
	case !money.Valid(w.sum.Currency):
		return w, fmt.Errorf("%q is no currency", w.sum.Currency)
	case w.kind == billPayment && w.trade == "":
		return w, errors.New("a payment without a trade")
	case w.kind == billRefund && (w.refund == "" || w.payment == ""):
		return w, errors.New("a refund without its key, or without its payment")
	case w.kind != billPayment && w.kind != billRefund:
		return w, fmt.Errorf("%q is neither payment nor refund", w.kind)
	}
	return w, nil
}

func (b *Bill) add(w row) {
	if _, twice := b.at[w.key()]; twice {
		w.twice = true
	} else {
		b.at[w.key()] = len(b.rows)
	}
	b.rows = append(b.rows, w)
}

// span makes sure that it is known what the bill is of.
func (b *Bill) span() error {
	if len(b.rows) == 0 && (b.From.IsZero() || b.To.IsZero()) {
		return errors.New("the bill is empty, so somebody has to say of which time it is")
	}
	byTime := func(x, y row) int { return x.time.Compare(y.time) }
	if b.From.IsZero() {
		b.From = slices.MinFunc(b.rows, byTime).time
	}
	if b.To.IsZero() {
		b.To = slices.MaxFunc(b.rows, byTime).time
	}
	if b.To.Before(b.From) {
		return fmt.Errorf("the bill's time ends at %s, before it begins at %s", b.To.Format(time.RFC3339), b.From.Format(time.RFC3339))
	}
	return nil
}

func (b *Bill) covers(at time.Time) bool { return !at.Before(b.From) && !at.After(b.To) }

// billTrade holds a trade against the bill.
func (a *Audit) billTrade(r event.Recorded, e trade.Seen) {
	if b := a.cfg.Bill; b == nil || b.Channel != e.Channel {
		return
	}
	at := e.At
	if at.IsZero() {
		at = r.Created
	}
	a.billed(row{kind: billPayment, trade: e.Trade, payment: e.Payment, sum: Sum{e.Amount, e.Currency}}, at, at)
}

// billAsked remembers since when a refund may have been carried out: what the
// bill says of it is by the channel's clock, and we only hear of it later.
func (a *Audit) billAsked(r event.Recorded, p payment.Payment, key string) {
	if b := a.cfg.Bill; b != nil && b.Channel == p.Channel {
		a.asked[link{p.ID, key}] = r.Created
	}
}

func (a *Audit) billRefund(r event.Recorded, p payment.Payment, refund payment.Refund) {
	if b := a.cfg.Bill; b == nil || b.Channel != p.Channel || refund.To != payment.ToChannel {
		return
	}
	l := link{p.ID, refund.Key}
	a.billed(row{kind: billRefund, payment: p.ID, refund: refund.Key, sum: Sum{refund.Amount, p.Currency}}, a.asked[l], r.Created)
	delete(a.asked, l)
}

// billed holds something of ours, that happened between two times, against the
// bill. It is missing there only if all of that time is the bill's: what happened
// at its border may be on the next one.
func (a *Audit) billed(w row, earliest, latest time.Time) {
	b := a.cfg.Bill
	i, there := b.at[w.key()]
	f := Finding{Trade: w.trade, Payment: w.payment, Refund: w.refund, Expected: &w.sum, At: latest}
	if !there {
		if b.covers(earliest) && b.covers(latest) {
			f.Kind, f.Expected, f.Actual, f.Text = BillExtra, nil, &w.sum, fmt.Sprintf("The channel %s does not bill this %s.", b.Channel, w.kind)
			f.Retry = []string{"payment-" + w.payment}
			a.extra = append(a.extra, f)
		}
		return
	}
	on := &b.rows[i]
	on.met = true
	if on.sum == w.sum && (on.payment == w.payment || on.payment == "") {
		return
	}
	on.differs = true
	f.Kind, f.Line, f.Expected, f.Actual = BillDiffers, on.line, &on.sum, &w.sum
	f.Text = fmt.Sprintf("The channel %s bills this %s as %d %s of payment %s; here it is %d %s of payment %s.",
		b.Channel, w.kind, on.sum.Amount, on.sum.Currency, on.payment, w.sum.Amount, w.sum.Currency, w.payment)
	a.extra = append(a.extra, f)
}

// A BillSum is what a bill came to.
type BillSum struct {
	Channel string    `json:"channel"`
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Rows    int       `json:"rows"` // of that time
	Agree   int       `json:"agree"`
	Missing int       `json:"missing"` // that we do not have
	Extra   int       `json:"extra"`   // that we have and the bill has not
	Differ  int       `json:"differ"`
	Twice   int       `json:"twice"`
}

// bill lists what the bill and we do not both have. Nothing of it is under way:
// a bill is of a time that is over.
func (r *reporter) bill() {
	b := r.audit.cfg.Bill
	if b == nil {
		return
	}
	sum := &BillSum{Channel: b.Channel, From: b.From.UTC(), To: b.To.UTC()}
	r.report.Bill = sum
	for _, f := range r.audit.extra {
		if f.Kind == BillExtra {
			sum.Extra++
		} else {
			sum.Differ++
		}
		r.report.Findings = append(r.report.Findings, f)
	}
	for _, w := range b.rows {
		if !b.covers(w.time) {
			continue
		}
		sum.Rows++
		switch {
		case w.twice:
			sum.Twice++
			f := w.finding(BillTwice, fmt.Sprintf("The channel %s bills it twice.", b.Channel))
			r.report.Findings = append(r.report.Findings, f)
		case w.differs: // counted where it was found
		case w.met:
			sum.Agree++
		default:
			sum.Missing++
			r.report.Findings = append(r.report.Findings, r.missing(w))
		}
	}
}

func (w row) finding(k Kind, text string) Finding {
	return Finding{
		Kind: k, Text: text, Trade: w.trade, Payment: w.payment, Refund: w.refund, Line: w.line, Expected: new(w.sum), At: w.time.UTC(),
	}
}

// missing says what we know of what the channel bills.
func (r *reporter) missing(w row) Finding {
	f := w.finding(BillMissing, fmt.Sprintf("The channel %s bills a %s that is not on record here.", r.audit.cfg.Bill.Channel, w.kind))
	_, p := r.audit.aPayment(w.payment)
	if p.Status == payment.StatusNone {
		f.Text += " Nor is its payment."
		return f
	}
	f.Retry = []string{"payment-" + w.payment}
	f.Text += fmt.Sprintf(" Its payment is %s.", p.Status)
	if refund, ok := p.Refund(w.refund); ok && w.kind == billRefund {
		f.Text = fmt.Sprintf("The channel %s bills a refund that is %s here.", r.audit.cfg.Bill.Channel, refund.Status)
	}
	return f
}
