package stripepay

import (
	"context"
	"errors"

	"github.com/stripe/stripe-go/v84"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/infra/outward"
)

// Refund gives back, or finds what was given back under the key.
func (c *Client) Refund(ctx context.Context, r commands.Returning) (commands.Notice, error) {
	units, err := checkRefund(r)
	if err != nil {
		return commands.Notice{}, err
	}
	paid, err := c.Find(ctx, r.Payment)
	switch {
	case err != nil:
		return commands.Notice{}, err
	case paid.Trade == "":
		return commands.Notice{}, unavailable("refund", errors.New("the payment is not found yet"))
	case paid.Kind != commands.NoticePaid:
		return commands.Notice{}, outward.Refuse("Stripe has not been paid this payment.")
	case paid.Money.Currency != r.Amount.Currency:
		return commands.Notice{}, outward.Refuse("Stripe was paid in %s.", paid.Money.Currency)
	}
	if n, ok, err := c.findRefund(ctx, r, paid.Trade); ok || err != nil {
		return n, err
	}
	return c.refund(ctx, r, paid.Trade, units)
}

func checkRefund(r commands.Returning) (units int64, err error) {
	switch {
	case !ourID.MatchString(r.Payment):
		return 0, outward.Refuse("Stripe has no payment of that id.")
	case !ourKey.MatchString(r.Key):
		return 0, outward.Refuse("Stripe is given 64 letters, digits, dots and dashes at most for a refund's key.")
	case r.Amount.Amount <= 0 || r.Amount.Amount > r.Total.Amount || r.Amount.Currency != r.Total.Currency:
		return 0, outward.Refuse("Stripe gives back more than nothing, and no more than was paid.")
	}
	if units, err = stripes(r.Amount); err != nil {
		return 0, outward.Refuse("%s.", err)
	}
	return units, nil
}

// findRefund looks through an intent's refunds, a list that is never behind.
func (c *Client) findRefund(ctx context.Context, r commands.Returning, id string) (n commands.Notice, ok bool, err error) {
	params := &stripe.RefundListParams{PaymentIntent: &id}
	params.Limit = new(int64(100))
	for got, err := range c.api.V1Refunds.List(ctx, params) {
		switch {
		case err != nil:
			return commands.Notice{}, false, known("find the refund", err)
		case got == nil || got.Metadata[metaRefund] != r.Key:
			continue
		}
		n, err := refundNotice(r, id, got)
		return n, true, err
	}
	return commands.Notice{}, false, nil
}

func (c *Client) refund(ctx context.Context, r commands.Returning, id string, units int64) (commands.Notice, error) {
	params := &stripe.RefundCreateParams{
		PaymentIntent: &id, Amount: &units, Metadata: map[string]string{metaPayment: r.Payment, metaRefund: r.Key},
	}
	if r.Reason != "" {
		params.Metadata[metaReason] = outward.Cut(r.Reason, maxText)
	}
	params.SetIdempotencyKey("refund-" + r.Payment + "-" + r.Key)
	got, err := c.api.V1Refunds.Create(ctx, params)
	if err == nil {
		return refundNotice(r, id, got)
	}
	refusal := known("refund", err)
	if domain.CodeOf(refusal) != domain.Rejected {
		return commands.Notice{}, refusal
	}
	// Somebody may have been faster since we looked.
	if n, ok, err := c.findRefund(ctx, r, id); ok || err != nil {
		return n, err
	}
	return commands.Notice{}, refusal
}

func refundNotice(r commands.Returning, id string, got *stripe.Refund) (commands.Notice, error) {
	n, err := back{
		ID: got.ID, Status: string(got.Status), Amount: &got.Amount, Currency: string(got.Currency),
		Metadata: got.Metadata, Why: string(got.FailureReason), Intent: id,
	}.notice()
	if err == nil && (n.Payment != r.Payment || n.Refund != r.Key) {
		err = errors.New("the answer is about another")
	}
	if err != nil {
		return commands.Notice{}, unavailable("refund", err)
	}
	return n, nil
}

// A back is what answers and callbacks tell of a refund, in every version.
type back struct {
	ID       string            `json:"id"`
	Object   string            `json:"object"`
	Status   string            `json:"status"`
	Amount   *int64            `json:"amount"`
	Currency string            `json:"currency"`
	Metadata map[string]string `json:"metadata"`
	Why      string            `json:"failure_reason"`
	Intent   string            `json:"payment_intent"`
}

func (b back) notice() (commands.Notice, error) {
	m, err := amount(b.Amount, b.Currency)
	if err != nil || b.ID == "" || b.Status == "" {
		return commands.Notice{}, errors.New("a refund without an id, a status or an amount")
	}
	n := commands.Notice{
		Payment: b.Metadata[metaPayment], Trade: b.Intent, Refund: b.Metadata[metaRefund], Money: m,
	}
	switch stripe.RefundStatus(b.Status) {
	case stripe.RefundStatusSucceeded:
		n.Kind = commands.NoticeRefunded
	case stripe.RefundStatusFailed, stripe.RefundStatusCanceled:
		n.Kind, n.Note = commands.NoticeRefundFailed, b.Status
		if b.Why != "" {
			n.Note += ": " + outward.Cut(b.Why, outward.MaxWords)
		}
	default:
		n.Kind = commands.NoticePending
	}
	return n, nil
}
