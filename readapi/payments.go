package readapi

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"cartwright/domain"
	"cartwright/domain/event"
	"cartwright/domain/money"
	"cartwright/domain/payment"
	"cartwright/infra/httpedge"
	"cartwright/projections"
)

// maxPayments is how many payments a checkout may have. They are named by it
// and numbered from 1 (TestAllPaymentsOfACheckoutAreFound).
const maxPayments = 20

// What a payment is called that was captured, once some of it has gone back.
const (
	partiallyRefunded = "partially_refunded"
	refunded          = "refunded"
)

// paymentBody is a payment as it is told.
type paymentBody struct {
	PaymentID   string              `json:"payment_id"`
	CheckoutID  string              `json:"checkout_id"`
	BuyerID     string              `json:"buyer_id"`
	Channel     string              `json:"channel"`
	Status      string              `json:"status"`
	Amount      money.Money         `json:"amount"`
	Captured    money.Money         `json:"captured"`
	Refunded    money.Money         `json:"refunded"` // what has gone back of it
	Orders      []shareBody         `json:"orders"`
	ExpiresAt   time.Time           `json:"expires_at"`
	Reference   string              `json:"reference,omitempty"`
	Instruction json.RawMessage     `json:"instruction,omitempty"` // while it can be made
	Failure     string              `json:"failure,omitempty"`
	Applied     bool                `json:"applied"`
	Trades      []tradeBody         `json:"trades"`
	Refunds     []paymentRefundBody `json:"refunds"`
	CreatedAt   time.Time           `json:"created_at"`
	CapturedAt  time.Time           `json:"captured_at,omitzero"`
	ChangedAt   time.Time           `json:"changed_at"`
	Revision    event.Revision      `json:"revision"`
}

type shareBody struct {
	OrderID  string      `json:"order_id"`
	SellerID string      `json:"seller_id"`
	Amount   money.Money `json:"amount"`
}

type tradeBody struct {
	Trade    string      `json:"trade"`
	Amount   money.Money `json:"amount"`
	Mismatch string      `json:"mismatch,omitempty"`
	Channel  string      `json:"channel,omitempty"` // where another than the payment's has it
	Returned bool        `json:"returned"`
}

type paymentRefundBody struct {
	Refund  string               `json:"refund"`
	OrderID string               `json:"order_id,omitempty"`
	Trade   string               `json:"trade,omitempty"`
	Amount  money.Money          `json:"amount"`
	Reason  string               `json:"reason,omitempty"`
	To      payment.Way          `json:"to"`
	Status  payment.RefundStatus `json:"status"`
	Failure string               `json:"failure,omitempty"`
}

func tellPayment(doc projections.Doc[projections.Payment]) paymentBody {
	d, p := doc.Body, doc.Body.State
	in := func(amount int64) money.Money { return money.Money{Amount: amount, Currency: p.Currency} }
	back := goneBack(p)
	told := paymentBody{
		PaymentID: p.ID, CheckoutID: p.Checkout, BuyerID: p.Buyer, Channel: p.Channel, Status: standing(p, back),
		Amount: in(p.Amount), Captured: in(p.Captured), Refunded: in(back),
		Orders: make([]shareBody, 0, len(p.Splits)), ExpiresAt: p.Expires.UTC(), Reference: p.Reference, Failure: p.Failure,
		Applied: p.Applied, Trades: make([]tradeBody, 0, len(p.Trades)), Refunds: make([]paymentRefundBody, 0, len(p.Refunds)),
		CreatedAt: d.CreatedAt.UTC(), CapturedAt: d.CapturedAt.UTC(), ChangedAt: d.ChangedAt.UTC(), Revision: doc.Revision,
	}
	if p.Open() {
		told.Instruction = p.Instruction
	}
	for _, s := range p.Splits {
		told.Orders = append(told.Orders, shareBody{s.Order, s.Seller, in(s.Amount)})
	}
	for _, t := range p.Trades {
		told.Trades = append(told.Trades, tradeBody{t.Trade, money.Money{Amount: t.Amount, Currency: t.Currency}, t.Mismatch, t.Channel, t.Returned})
	}
	for _, r := range p.Refunds {
		told.Refunds = append(told.Refunds, paymentRefundBody{r.Key, r.Order, r.Trade, in(r.Amount), r.Reason, r.To, r.Status, r.Failure})
	}
	return told
}

// goneBack is how much of what was captured is back. What was never asked for,
// and goes back as it came, is no part of it.
func goneBack(p payment.Payment) (sum int64) {
	for _, r := range p.Refunds {
		if r.Trade == "" && r.Status == payment.RefundIsDone {
			sum += r.Amount
		}
	}
	return sum
}

// standing is a payment's status, and of one that was captured also what is left of it.
func standing(p payment.Payment, back int64) string {
	switch {
	case p.Status != payment.StatusCaptured || back == 0:
		return string(p.Status)
	case back < p.Captured:
		return partiallyRefunded
	default:
		return refunded
	}
}

// payment gives one payment by its id.
func (a *api) payment(ctx context.Context, r *request) (answer, error) {
	doc, found, err := find(ctx, a, viewPayments, a.Payments, r, "payment-"+r.id)
	if err != nil {
		return answer{}, err
	}
	if !found {
		return answer{}, domain.Refuse(domain.NotFound, "unknown_payment", "There is no payment %s.", r.id)
	}
	return answer{httpedge.ETag(doc.Revision), tellPayment(doc)}, nil
}

// paymentList is all payments of a checkout.
type paymentList struct {
	Items []paymentBody `json:"items"`
}

// checkoutPayments gives a checkout's payments, oldest first, as they are numbered.
func (a *api) checkoutPayments(ctx context.Context, r *request) (answer, error) {
	streams := make([]string, maxPayments)
	want := map[string]event.Revision{}
	for i := range streams {
		streams[i] = "payment-" + r.id + "-" + strconv.Itoa(i+1)
		if at, ok := r.token[streams[i]]; ok {
			want[streams[i]] = at
		}
	}
	docs, err := seen(ctx, a, viewPayments, a.Payments, want, func() (map[string]projections.Doc[projections.Payment], error) {
		return a.Payments.Get(ctx, streams)
	})
	if err != nil {
		return answer{}, err
	}
	told := paymentList{Items: make([]paymentBody, 0, len(docs))}
	for _, stream := range streams {
		if doc, ok := docs[stream]; ok {
			told.Items = append(told.Items, tellPayment(doc))
		}
	}
	return answer{body: told}, nil
}
