package reconcile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cartwright/domain/account"
	"cartwright/domain/event"
	"cartwright/domain/order"
	"cartwright/domain/payment"
)

// A Kind names what is wrong. Kinds are for scripts, and never renamed.
type Kind string

// What can be wrong.
const (
	History Kind = "history" // of a stream; it can't have happened, or can't be read

	JournalMissing    Kind = "journal_missing"    // it was decided and does not stand
	JournalHalf       Kind = "journal_half"       // one leg of two stands
	JournalUnbalanced Kind = "journal_unbalanced" // its legs do not sum to nothing, or are more than two
	JournalCurrencies Kind = "journal_currencies" // its legs are in two
	JournalParties    Kind = "journal_parties"    // its legs do not name each other's account
	JournalUnexpected Kind = "journal_unexpected" // nobody decided it, or it stands twice
	JournalDiffers    Kind = "journal_differs"    // it is not as it was decided

	AccountBalance    Kind = "account_balance" // it is not what entries and decisions come to
	AccountState      Kind = "account_state"   // what is held is not the sum of holds, or more than there is
	AccountUnfinished Kind = "account_unfinished"
	HoldDiffers       Kind = "hold_differs"
	HoldStranded      Kind = "hold_stranded" // for an order that will not take it

	OrderUnfinished     Kind = "order_unfinished" // something was decided and not brought about
	OrderOverdue        Kind = "order_overdue"    // it should be paid or cancelled
	OrderMissing        Kind = "order_missing"    // its checkout says that it is there
	OrderWithoutPayment Kind = "order_without_payment"

	PaymentUnfinished Kind = "payment_unfinished"
	PaymentOverdue    Kind = "payment_overdue"
	ShareMissing      Kind = "share_missing" // captured, and neither pays its order nor goes back
	ShareDiffers      Kind = "share_differs"
	RefundMissing     Kind = "refund_missing" // the order has it and its payment does not
	RefundDiffers     Kind = "refund_differs"
	RefundUnexpected  Kind = "refund_unexpected"
	RefundProcessing  Kind = "refund_processing" // under way: the channel takes its time
	RefundRefused     Kind = "refund_refused"    // waits for a person

	TradeUnseen     Kind = "trade_unseen"
	TradeUnclaimed  Kind = "trade_unclaimed"
	TradeUnfinished Kind = "trade_unfinished"
	TradeDiffers    Kind = "trade_differs"
	TradeTwice      Kind = "trade_twice"
	MismatchWaits   Kind = "mismatch_waits" // waits for a person
	OrphanWaits     Kind = "orphan_waits"   // waits for a person

	StockDiffers        Kind = "stock_differs"  // a reservation is not what its order should have
	StockPhase          Kind = "stock_phase"    // it is not as firm as its order is
	StockState          Kind = "stock_state"    // a SKU's counters are not what its reservations come to
	StockTransfer       Kind = "stock_transfer" // between a SKU's shards; it has not arrived, or does not agree
	ReservationStranded Kind = "reservation_stranded"

	BillMissing Kind = "bill_missing" // the channel has it and we do not
	BillExtra   Kind = "bill_extra"   // we have it and the channel does not
	BillDiffers Kind = "bill_differs"
	BillTwice   Kind = "bill_twice"
)

// A Sum is an amount of money in minor units, or, without a currency, of units of a SKU.
type Sum struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency,omitempty"`
}

// A Finding is one thing that does not add up, or, in Report.UnderWay, not yet.
type Finding struct {
	Kind      Kind   `json:"kind"`
	Attention bool   `json:"attention,omitempty"` // it waits for a person, not for a process
	Text      string `json:"text"`

	Order   string `json:"order,omitempty"`
	Payment string `json:"payment,omitempty"`
	Refund  string `json:"refund,omitempty"`
	Trade   string `json:"trade,omitempty"`
	Journal string `json:"journal,omitempty"`
	Account string `json:"account,omitempty"`
	SKU     string `json:"sku,omitempty"`
	Stream  string `json:"stream,omitempty"`
	Line    int    `json:"line,omitempty"` // of the bill

	Expected *Sum      `json:"expected,omitempty"`
	Actual   *Sum      `json:"actual,omitempty"`
	At       time.Time `json:"at,omitzero"`     // when the newest of it was recorded, or until when it may be so
	Retry    []string  `json:"retry,omitempty"` // the streams whose process may mend it
}

// about fills in what a stream is the stream of.
func (f *Finding) about(stream string) {
	id := event.SubjectID(stream)
	switch event.Category(stream) {
	case "order":
		f.Order = id
	case "payment":
		f.Payment = id
	case "account":
		f.Account = id
	case "trade":
		f.Trade = id
	}
}

// A Report is what an audit came to.
type Report struct {
	Position uint64    `json:"position"` // of the last event
	Events   int64     `json:"events"`
	Newest   time.Time `json:"newest,omitzero"` // when the last one was recorded

	Orders       map[string]int `json:"orders"`   // by status
	Payments     map[string]int `json:"payments"` // by status
	Accounts     int            `json:"accounts"`
	SKUs         int            `json:"skus"`
	Trades       int64          `json:"trades"`
	Contradicted int64          `json:"contradicted"` // times that a channel told otherwise of a trade than before

	Totals   []Total   `json:"totals"` // by currency
	Bill     *BillSum  `json:"bill,omitempty"`
	Findings []Finding `json:"findings"`
	UnderWay []Finding `json:"under_way"`
}

// A Total is what there is in one currency, in minor units.
type Total struct {
	Currency string         `json:"currency"`
	Sum      int64          `json:"sum"` // of all accounts, which is nothing
	Accounts []AccountTotal `json:"accounts"`

	Paid       int64 `json:"paid"`       // by orders
	Refunded   int64 `json:"refunded"`   // to them, or decided to be
	Settled    int64 `json:"settled"`    // with their sellers, commission included
	Commission int64 `json:"commission"` // of that
	Captured   int64 `json:"captured"`   // by payments from outside
	Mismatched int64 `json:"mismatched"` // that came and was not asked for
	Returned   int64 `json:"returned"`   // through payments
}

// An AccountTotal is what accounts of one kind have. A channel's clearing is a
// kind of its own.
type AccountTotal struct {
	Kind     string `json:"kind"`
	Accounts int    `json:"accounts"`
	Balance  int64  `json:"balance"`
	Held     int64  `json:"held,omitempty"`
	Expected int64  `json:"expected"` // by what was decided
}

// Sound says that nothing was found.
func (r *Report) Sound() bool { return len(r.Findings) == 0 }

// Retries are the streams whose processes may mend what was found, each once.
// What others build on comes first.
func (r *Report) Retries() []string {
	var all []string
	for _, f := range r.Findings {
		all = append(all, f.Retry...)
	}
	rank := func(stream string) int {
		return slices.Index([]string{"account", "trade", "payment", "order"}, event.Category(stream))
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a, b)) })
	return slices.Compact(all)
}

// A reporter is a report in the making.
type reporter struct {
	audit  *Audit
	report *Report
	now    time.Time
	totals map[string]*Total

	unfinished map[string]bool // streams that have decided what is not recorded to be done
	listed     map[string]bool // streams whose journals are listed
	needs      map[lot]*need
}

// Report says what the events so far come to. It may be asked again after more.
func (a *Audit) Report() Report {
	out := &Report{
		Position: a.position, Events: a.events, Newest: a.newest, Orders: map[string]int{}, Payments: map[string]int{},
		Totals: []Total{}, Trades: a.tradesSeen, Contradicted: a.contradicted, Findings: []Finding{}, UnderWay: []Finding{},
	}
	r := &reporter{
		audit: a, report: out, now: a.newest, totals: map[string]*Total{},
		unfinished: map[string]bool{}, listed: map[string]bool{}, needs: map[lot]*need{},
	}
	if a.cfg.Now.After(r.now) {
		r.now = a.cfg.Now
	}
	out.Findings = append(out.Findings, slices.Collect(maps.Values(a.faults))...)
	for _, part := range []func(){
		r.orders, r.payments, r.trades, r.journals, r.shares, r.paybacks, r.accounts, r.stock, r.bill, r.sum,
	} {
		part()
	}
	for _, list := range [][]Finding{out.Findings, out.UnderWay} {
		slices.SortFunc(list, compareFindings)
	}
	return *out
}

func compareFindings(a, b Finding) int {
	return cmp.Or(
		strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Stream, b.Stream), strings.Compare(a.Order, b.Order),
		strings.Compare(a.Payment, b.Payment), strings.Compare(a.Journal, b.Journal), strings.Compare(a.Account, b.Account),
		strings.Compare(a.SKU, b.SKU), strings.Compare(a.Trade, b.Trade), strings.Compare(a.Refund, b.Refund), cmp.Compare(a.Line, b.Line),
	)
}

// add lists what was found, or that it is under way.
func (r *reporter) add(f Finding, newest int64) {
	at := time.UnixMilli(newest)
	f.At = at.UTC()
	if r.now.Sub(at) < r.audit.cfg.Grace {
		r.report.UnderWay = append(r.report.UnderWay, f)
		return
	}
	r.report.Findings = append(r.report.Findings, f)
}

func (r *reporter) in(currency string) *Total {
	t := r.totals[currency]
	if t == nil {
		t = &Total{Currency: currency}
		r.totals[currency] = t
	}
	return t
}

func (r *reporter) orderTotal(o order.Order) {
	if !wasPaid(o) {
		return
	}
	t := r.in(o.Currency)
	t.Paid += o.Paid
	t.Refunded += o.RefundedAmount()
	if s := o.Settlement; s != nil {
		t.Settled += s.Gross
		t.Commission += s.Commission
	}
}

func (r *reporter) paymentTotal(p payment.Payment) {
	for _, trade := range p.Trades {
		if trade.Mismatch == "" {
			r.in(trade.Currency).Captured += trade.Amount
		} else {
			r.in(trade.Currency).Mismatched += trade.Amount
		}
	}
	for _, back := range p.Refunds {
		if back.Status == payment.RefundIsDone {
			r.in(p.Currency).Returned += back.Amount
		}
	}
}

// total adds an account to those of its kind.
func (r *reporter) total(id string, h *holder) {
	currency := h.state.Currency
	if currency == "" {
		currency = id[strings.LastIndexByte(id, '.')+1:] // it was never opened
	}
	t, kind := r.in(currency), kindOf(id)
	t.Sum += h.sum
	i := slices.IndexFunc(t.Accounts, func(a AccountTotal) bool { return a.Kind == kind })
	if i < 0 {
		i = len(t.Accounts)
		t.Accounts = append(t.Accounts, AccountTotal{Kind: kind})
	}
	of := &t.Accounts[i]
	if h.at > 0 {
		of.Accounts++
		r.report.Accounts++
	}
	of.Balance += h.sum
	of.Held += h.state.Held
	of.Expected += h.should
}

// kindOf is the kind of an account: the platform's by what they are for.
func kindOf(id string) string {
	switch {
	case account.IsSeller(id):
		return "sellers"
	case !account.IsPlatform(id):
		return "buyers"
	}
	parts := strings.Split(id, ".")
	return strings.Join(parts[1:max(2, len(parts)-1)], " ")
}

// sum ends the totals: all accounts together have nothing, but for the journals
// that are not whole.
func (r *reporter) sum() {
	open := map[string]int64{}
	for _, j := range r.audit.journals {
		for _, l := range j.legs {
			open[l.currency] += l.amount
		}
	}
	for currency, t := range sorted(r.totals) {
		slices.SortFunc(t.Accounts, func(a, b AccountTotal) int { return strings.Compare(a.Kind, b.Kind) })
		r.report.Totals = append(r.report.Totals, *t)
		if t.Sum != open[currency] {
			r.report.Findings = append(r.report.Findings, Finding{
				Kind: AccountBalance, Expected: &Sum{open[currency], currency}, Actual: &Sum{t.Sum, currency},
				Text: fmt.Sprintf("All accounts in %s together have %d, and the journals listed here account for %d.", currency, t.Sum, open[currency]),
			})
		}
	}
}
