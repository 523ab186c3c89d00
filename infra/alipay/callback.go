package alipay

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/smartwalle/alipay/v3"

	"cartwright/commands"
	"cartwright/domain"
)

const maxCallback = 64 << 10

// Read verifies a callback, a form, and gives what it says.
func (c *Client) Read(_ context.Context, _ http.Header, body []byte) ([]commands.Notice, error) {
	if len(body) > maxCallback {
		return nil, unreadable("it is too long", nil)
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, unreadable("it is no form", nil) // the error would quote it
	}
	if form.Get("sign") == "" {
		return nil, badSignature("it is not signed", nil)
	}
	told, err := c.api.DecodeNotification(form)
	switch {
	case err != nil:
		return nil, badSignature("its signature is not Alipay's", err)
	case told.AppId != c.app || c.seller != "" && told.SellerId != c.seller:
		return nil, domain.Refuse(domain.Invalid, "wrong_merchant", "This callback is for another application or seller.")
	case told.NotifyType != alipay.NotifyTypeTradeStatusSync:
		return nil, nil
	case told.OutTradeNo == "":
		return nil, unreadable("it has no payment of ours", nil)
	case told.OutBizNo != "" && (told.GmtRefund != "" || told.RefundFee != ""):
		return []commands.Notice{{
			Kind: commands.NoticeRefunded, Payment: paymentOf(told.OutTradeNo), Trade: told.TradeNo, Refund: told.OutBizNo, At: moment(told.GmtRefund),
		}}, nil
	}
	n, err := tradeNotice(trade{
		payment: paymentOf(told.OutTradeNo), number: told.TradeNo, status: string(told.TradeStatus), total: told.TotalAmount, paid: told.GmtPayment,
	})
	if err != nil {
		return nil, unreadable("its payment is not whole", err)
	}
	if n.Kind == commands.NoticePending {
		return nil, nil
	}
	return []commands.Notice{n}, nil
}

// Answer tells Alipay to be content, or to say it again: after 4 minutes first,
// for 25 hours in all. It reads the body alone.
func (c *Client) Answer(err error) (status int, contentType string, body []byte) {
	const kind = "text/plain; charset=utf-8"
	switch {
	case err == nil:
		return http.StatusOK, kind, []byte("success")
	case domain.CodeOf(err) == domain.Invalid:
		return http.StatusBadRequest, kind, []byte("fail")
	}
	return http.StatusInternalServerError, kind, []byte("fail")
}

func badSignature(why string, err error) error {
	return &domain.Error{Code: domain.Invalid, Reason: "bad_signature", Detail: "This callback is not Alipay's: " + why + ".", Err: err}
}

func unreadable(why string, err error) error {
	return &domain.Error{Code: domain.Invalid, Reason: "bad_callback", Detail: fmt.Sprintf("This callback cannot be read: %s.", why), Err: err}
}
