package sandboxpay

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"cartwright/commands"
	"cartwright/domain/money"
)

// A deed is a kind of record.
type deed string

// The deeds are in journals, and never renamed.
const (
	didOpen         deed = "opened" // the journal's first line
	didCreate       deed = "created"
	didPay          deed = "paid"
	didFail         deed = "failed"
	didClose        deed = "closed" // the shop's own wish, so it is not called back
	didReturn       deed = "refund"
	didRefund       deed = "refunded"
	didRefundFail   deed = "refund_failed"
	didAcknowledge  deed = "called" // a callback needs no more tries
	journalFormat        = 1
	maxRefundsOfOne      = 100
)

// A record is something that happened: a line of the journal.
type record struct {
	Do       deed      `json:"do"`
	At       time.Time `json:"at,omitzero"`
	Payment  string    `json:"payment,omitempty"`
	Refund   string    `json:"refund,omitempty"`
	Trade    string    `json:"trade,omitempty"`
	Amount   int64     `json:"amount,omitempty"`
	Currency string    `json:"currency,omitempty"`
	Subject  string    `json:"subject,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`
	Note     string    `json:"note,omitempty"`
	Call     int64     `json:"call,omitempty"` // a callback, by its number
	Merchant string    `json:"merchant,omitempty"`
	Format   int       `json:"format,omitempty"`
}

// A payment as it stands.
type payment struct {
	id      string
	asked   money.Money // zero where it was closed before it was asked for
	subject string
	created time.Time
	expires time.Time
	status  status
	trade   string
	paid    money.Money
	at      time.Time
	note    string

	refunds  map[string]*refund
	returned int64 // and what is on its way back
}

type refund struct {
	key    string
	amount int64
	begun  time.Time
	status status
	at     time.Time
	note   string
}

// A call is a callback that has to be made.
type call struct {
	number int64
	seq    uint64 // of the journal: it is made when that is on disk
	says   callback
}

// name tells callbacks apart, in this run and in the next.
func (c *call) name() string { return c.says.Kind + "/" + c.says.Payment + "/" + c.says.Refund }

// A book is all that the channel knows: what its records come to.
type book struct {
	merchant string
	payments map[string]*payment
	calls    map[int64]*call // not acknowledged yet
	numbered int64           // callbacks there ever were
	counts   Status          // of payments and refunds
}

func newBook(merchant string) *book {
	return &book{merchant: merchant, payments: map[string]*payment{}, calls: map[int64]*call{}}
}

// apply notes what happened, and gives the callback that comes of it, if one
// does. What can't have happened is an error and changes nothing.
func (b *book) apply(r record) (*call, error) {
	p := b.payments[r.Payment]
	switch r.Do {
	case didCreate, didClose, didPay, didFail:
		return b.applyPayment(p, r)
	case didReturn, didRefund, didRefundFail:
		if p == nil || p.status != paid {
			return nil, fmt.Errorf("%s of payment %q, which is not paid", r.Do, r.Payment)
		}
		return b.applyRefund(p, r)
	case didAcknowledge:
		if b.calls[r.Call] == nil {
			return nil, fmt.Errorf("callback %d is acknowledged, and there is none", r.Call)
		}
		delete(b.calls, r.Call)
		return nil, nil
	case didOpen:
	}
	return nil, fmt.Errorf("%q is nothing that happens", r.Do)
}

func (b *book) applyPayment(p *payment, r record) (*call, error) {
	switch {
	case r.Do == didCreate && p == nil:
		b.payments[r.Payment] = &payment{
			id: r.Payment, asked: money.Money{Amount: r.Amount, Currency: r.Currency}, subject: r.Subject,
			created: r.At, expires: r.Expires, status: pending,
		}
		b.counts.Created++
		return nil, nil
	case r.Do == didClose && p == nil:
		b.payments[r.Payment] = &payment{id: r.Payment, created: r.At, status: failed, at: r.At, note: r.Note}
		b.counts.Closed++
		return nil, nil
	case r.Do == didCreate || p == nil || p.status != pending:
		return nil, fmt.Errorf("payment %q can't be %s", r.Payment, r.Do)
	}
	p.at, p.note = r.At, r.Note
	switch r.Do {
	case didPay:
		p.status, p.trade, p.paid = paid, r.Trade, money.Money{Amount: r.Amount, Currency: r.Currency}
		b.counts.Paid++
		return b.tell(p, callback{Kind: string(commands.NoticePaid), Amount: r.Amount, Currency: r.Currency, At: r.At}), nil
	case didClose:
		p.status = failed
		b.counts.Closed++
		return nil, nil
	default:
		p.status = failed
		b.counts.Failed++
		return b.tell(p, callback{Kind: string(commands.NoticeFailed), At: r.At, Note: r.Note}), nil
	}
}

func (b *book) applyRefund(p *payment, r record) (*call, error) {
	of := p.refunds[r.Refund]
	switch {
	case r.Do == didReturn && of == nil && r.Amount > 0 && r.Amount <= p.paid.Amount-p.returned:
		if p.refunds == nil {
			p.refunds = map[string]*refund{}
		}
		p.refunds[r.Refund] = &refund{key: r.Refund, amount: r.Amount, begun: r.At, status: pending}
		p.returned += r.Amount
		return nil, nil
	case r.Do == didReturn || of == nil || of.status != pending:
		return nil, fmt.Errorf("refund %q of payment %q can't be %s", r.Refund, r.Payment, r.Do)
	}
	of.at, of.note = r.At, r.Note
	told := callback{Kind: string(commands.NoticeRefunded), Refund: of.key, Amount: of.amount, Currency: p.paid.Currency, At: r.At, Note: r.Note}
	if r.Do == didRefund {
		of.status = succeeded
		b.counts.Refunded++
		return b.tell(p, told), nil
	}
	of.status = failed
	p.returned -= of.amount
	b.counts.RefundsFailed++
	told.Kind = string(commands.NoticeRefundFailed)
	return b.tell(p, told), nil
}

// tell numbers a callback, in the order in which things happened, so that a
// journal that is read again numbers them alike.
func (b *book) tell(p *payment, says callback) *call {
	says.Merchant, says.Payment, says.Trade = b.merchant, p.id, p.trade
	b.numbered++
	c := &call{number: b.numbered, says: says}
	b.calls[c.number] = c
	return c
}

func (b *book) view(p *payment) paymentView {
	v := paymentView{
		Merchant: b.merchant, Payment: p.id, Reference: "pre" + digest(b.merchant, p.id, p.created), Status: p.status,
		Amount: p.asked.Amount, Currency: p.asked.Currency, Subject: p.subject, Created: p.created, Expires: p.expires,
		Pay: "/pay/" + p.id, Trade: p.trade, At: p.at, Note: p.note,
	}
	if p.status == paid {
		v.Paid = &money.Money{Amount: p.paid.Amount, Currency: p.paid.Currency}
	}
	return v
}

func (b *book) viewRefund(p *payment, r *refund) refundView {
	return refundView{
		Merchant: b.merchant, Payment: p.id, Trade: p.trade, Refund: r.key, Status: r.status,
		Amount: r.amount, Currency: p.paid.Currency, At: r.at, Note: r.note,
	}
}

// trade is the number of a payment that is paid at a time. Another life of the
// sandbox, without a journal, gives others.
func (b *book) trade(p *payment, at time.Time) string {
	return at.Format("20060102") + digest(b.merchant, p.id, at)
}

func digest(merchant, payment string, at time.Time) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%d", merchant, payment, at.UnixNano()))
	return hex.EncodeToString(sum[:10])
}
