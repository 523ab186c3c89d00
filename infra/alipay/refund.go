package alipay

import (
	"context"
	"errors"
	"regexp"

	"github.com/smartwalle/alipay/v3"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/money"
	"cartwright/infra/outward"
)

var refundKey = regexp.MustCompile(`^[0-9A-Za-z.-]{1,64}$`)

const maxReason = 256 // bytes, by Alipay's documents

// Refund gives back, at once as a rule. Asked again under the key, Alipay moves
// nothing more, and says so; what it moved before is asked for then.
func (c *Client) Refund(ctx context.Context, r commands.Returning) (commands.Notice, error) {
	const doing = "refund"
	if err := checkRefund(r); err != nil {
		return commands.Notice{}, err
	}
	got, err := c.api.TradeRefund(ctx, alipay.TradeRefund{
		OutTradeNo: outTradeNo(r.Payment), RefundAmount: inYuan(r.Amount.Amount), RefundReason: outward.Cut(r.Reason, maxReason), OutRequestNo: r.Key,
	})
	switch {
	case err != nil:
		return commands.Notice{}, failed(doing, err)
	case got == nil:
		return commands.Notice{}, unavailable(doing, alipay.ErrBadResponse)
	case got.Code != alipay.CodeSuccess:
		return c.refused(ctx, r, known(doing, got.Error))
	case got.OutTradeNo != outTradeNo(r.Payment):
		return commands.Notice{}, unavailable(doing, errors.New("the answer is about another"))
	case got.FundChange == "Y":
		return commands.Notice{
			Kind: commands.NoticeRefunded, Payment: r.Payment, Trade: got.TradeNo, Refund: r.Key, Money: r.Amount,
		}, nil
	}
	return c.findRefund(ctx, r)
}

func checkRefund(r commands.Returning) error {
	switch {
	case !ourID.MatchString(r.Payment):
		return outward.Refuse("Alipay has no payment of that id.")
	case !refundKey.MatchString(r.Key):
		return outward.Refuse("Alipay is given 64 letters, digits, dots and dashes at most for a refund's key.")
	case r.Amount.Currency != yuan || r.Total.Currency != yuan:
		return outward.Refuse("Alipay gives back yuan only.")
	case r.Amount.Amount <= 0 || r.Amount.Amount > r.Total.Amount:
		return outward.Refuse("Alipay gives back more than nothing, and no more than was paid.")
	}
	return nil
}

// refused looks whether what is refused was done before.
func (c *Client) refused(ctx context.Context, r commands.Returning, refusal error) (commands.Notice, error) {
	if domain.CodeOf(refusal) != domain.Rejected {
		return commands.Notice{}, refusal
	}
	found, err := c.findRefund(ctx, r)
	if err != nil && domain.CodeOf(err) != domain.Rejected {
		return commands.Notice{}, err
	}
	if found.Kind != commands.NoticeRefunded {
		return commands.Notice{}, refusal
	}
	return found, nil
}

// findRefund asks for a refund by its key. Alipay says of one that it does not
// have, or that failed, nothing at all.
func (c *Client) findRefund(ctx context.Context, r commands.Returning) (commands.Notice, error) {
	const doing = "find the refund"
	got, err := c.api.TradeFastPayRefundQuery(ctx, alipay.TradeFastPayRefundQuery{
		OutTradeNo: outTradeNo(r.Payment), OutRequestNo: r.Key, QueryOptions: []string{"gmt_refund_pay"},
	})
	switch {
	case err != nil:
		return commands.Notice{}, failed(doing, err)
	case got == nil:
		return commands.Notice{}, unavailable(doing, alipay.ErrBadResponse)
	case got.Code != alipay.CodeSuccess:
		return commands.Notice{}, known(doing, got.Error)
	}
	n := commands.Notice{Kind: commands.NoticePending, Payment: r.Payment, Trade: got.TradeNo, Refund: r.Key}
	if got.RefundStatus != "REFUND_SUCCESS" {
		return n, nil
	}
	fen, err := inFen(got.RefundAmount)
	if err != nil || got.OutTradeNo != outTradeNo(r.Payment) || got.OutRequestNo != r.Key {
		return commands.Notice{}, unavailable(doing, errors.New("the answer is about another, or has no amount"))
	}
	n.Kind, n.Money, n.At = commands.NoticeRefunded, money.Money{Amount: fen, Currency: yuan}, moment(got.GMTRefundPay)
	return n, nil
}
