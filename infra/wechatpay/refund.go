package wechatpay

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/wechatpay-apiv3/wechatpay-go/services/refunddomestic"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/money"
	"cartwright/infra/outward"
)

// refundKey is what our keys are made of. WeChat takes no dot, but takes the
// underscore, which no key has.
var refundKey = regexp.MustCompile(`^[0-9A-Za-z.-]{1,64}$`)

const maxReason = 80 // bytes, by WeChat's documents

func outRefundNo(key string) string { return strings.ReplaceAll(key, ".", "_") }
func keyOf(refundNo string) string  { return strings.ReplaceAll(refundNo, "_", ".") }

// Refund asks for a refund, or finds the one that was asked for under the key.
func (c *Client) Refund(ctx context.Context, r commands.Returning) (commands.Notice, error) {
	if err := checkRefund(r); err != nil {
		return commands.Notice{}, err
	}
	api := refunddomestic.RefundsApiService{Client: c.api}
	req := refunddomestic.CreateRequest{
		OutTradeNo: &r.Payment, OutRefundNo: new(outRefundNo(r.Key)), NotifyUrl: &c.notify,
		Amount: &refunddomestic.AmountReq{Refund: &r.Amount.Amount, Total: &r.Total.Amount, Currency: &r.Amount.Currency},
	}
	if r.Reason != "" {
		req.Reason = new(outward.Cut(r.Reason, maxReason))
	}
	got, _, err := api.Create(ctx, req)
	if err != nil {
		refusal := known("refund", err)
		if domain.CodeOf(refusal) != domain.Rejected {
			return commands.Notice{}, refusal
		}
		return c.refused(ctx, r, refusal)
	}
	return refundNotice(r, got)
}

// refused looks whether what is refused was done before.
func (c *Client) refused(ctx context.Context, r commands.Returning, refusal error) (commands.Notice, error) {
	api := refunddomestic.RefundsApiService{Client: c.api}
	got, _, err := api.QueryByOutRefundNo(ctx, refunddomestic.QueryByOutRefundNoRequest{OutRefundNo: new(outRefundNo(r.Key))})
	if code := codeOf(err); code == codeNoRecord || code == codeNoOrder {
		return commands.Notice{}, refusal
	}
	if err != nil {
		return commands.Notice{}, unavailable("refund", fmt.Errorf("%w; and to look for it: %w", refusal, known("find the refund", err)))
	}
	return refundNotice(r, got)
}

func checkRefund(r commands.Returning) error {
	switch {
	case !orderNo.MatchString(r.Payment):
		return outward.Refuse("WeChat Pay has no payment of that id.")
	case !refundKey.MatchString(r.Key):
		return outward.Refuse("WeChat Pay takes 64 letters, digits, dots and dashes at most for a refund's key.")
	case r.Amount.Currency != yuan || r.Total.Currency != yuan:
		return outward.Refuse("WeChat Pay gives back yuan only.")
	case r.Amount.Amount <= 0 || r.Amount.Amount > r.Total.Amount:
		return outward.Refuse("WeChat Pay gives back more than nothing, and no more than was paid.")
	}
	return nil
}

func refundNotice(r commands.Returning, got *refunddomestic.Refund) (commands.Notice, error) {
	if value(got.OutTradeNo) != r.Payment || value(got.OutRefundNo) != outRefundNo(r.Key) ||
		got.Status == nil || got.Amount == nil || got.Amount.Refund == nil {
		return commands.Notice{}, unavailable("refund", errors.New("the answer is about another refund, or not whole"))
	}
	n := commands.Notice{
		Payment: r.Payment, Trade: value(got.TransactionId), Refund: r.Key,
		Money: money.Money{Amount: *got.Amount.Refund, Currency: currency(got.Amount.Currency)},
	}
	if got.SuccessTime != nil {
		n.At = got.SuccessTime.UTC()
	}
	kind, ok := refundKind(string(*got.Status))
	if !ok {
		return commands.Notice{}, unavailable("refund", fmt.Errorf("the status %q is none of WeChat's", *got.Status))
	}
	if n.Kind = kind; kind == commands.NoticeRefundFailed {
		n.Note = string(*got.Status)
	}
	return n, nil
}

func refundKind(status string) (kind commands.NoticeKind, ok bool) {
	switch status {
	case "SUCCESS":
		return commands.NoticeRefunded, true
	case "PROCESSING":
		return commands.NoticePending, true
	case "ABNORMAL", "CLOSED":
		return commands.NoticeRefundFailed, true
	}
	return "", false
}
