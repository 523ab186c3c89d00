package wechatpay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/wechatpay-apiv3/wechatpay-go/core/consts"
	"github.com/wechatpay-apiv3/wechatpay-go/services/payments"
	"github.com/wechatpay-apiv3/wechatpay-go/utils"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/money"
)

// What a callback may be.
const (
	tolerance     = consts.FiveMinute * time.Second
	maxCallback   = 256 << 10
	signatureType = "WECHATPAY2-SHA256-RSA2048"
	algorithm     = "AEAD_AES_256_GCM"
	nonceSize     = 12
)

// Read verifies a callback and gives what it says.
func (c *Client) Read(ctx context.Context, header http.Header, body []byte) ([]commands.Notice, error) {
	if len(body) > maxCallback {
		return nil, unreadable("it is too long", nil)
	}
	if err := c.verify(ctx, header, body); err != nil {
		return nil, err
	}
	var told struct {
		Event    string `json:"event_type"`
		Resource struct {
			Algorithm  string `json:"algorithm"`
			Ciphertext string `json:"ciphertext"`
			Associated string `json:"associated_data"`
			Nonce      string `json:"nonce"`
		} `json:"resource"`
	}
	if err := json.Unmarshal(body, &told); err != nil {
		return nil, unreadable("it is no JSON", err)
	}
	isPayment := told.Event == "TRANSACTION.SUCCESS"
	if !isPayment && !strings.HasPrefix(told.Event, "REFUND.") {
		return nil, nil
	}
	sealed := told.Resource
	if sealed.Algorithm != algorithm || len(sealed.Nonce) != nonceSize { // the cipher panics at another nonce
		return nil, unreadable("it is sealed otherwise than we know", nil)
	}
	plain, err := utils.DecryptAES256GCM(c.sealed, sealed.Associated, sealed.Nonce, sealed.Ciphertext)
	if err != nil {
		return nil, unreadable("it does not open", err)
	}
	if isPayment {
		return c.paid([]byte(plain))
	}
	return c.refund([]byte(plain))
}

func (c *Client) verify(ctx context.Context, header http.Header, body []byte) error {
	at, nonce := header.Get(consts.WechatPayTimestamp), header.Get(consts.WechatPayNonce)
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return badSignature("it does not say when it was made", nil)
	}
	if age := c.now().Sub(time.Unix(seconds, 0)); age.Abs() > tolerance {
		return badSignature("it is not of now", nil)
	}
	if kind := header.Get("Wechatpay-Signature-Type"); kind != "" && kind != signatureType {
		return badSignature("it is signed otherwise than we know", nil)
	}
	message := fmt.Sprintf("%d\n%s\n%s\n", seconds, nonce, body)
	if err := c.verifier.Verify(ctx, header.Get(consts.WechatPaySerial), message, header.Get(consts.WechatPaySignature)); err != nil {
		return badSignature("its signature is not WeChat's", err)
	}
	return nil
}

func (c *Client) paid(plain []byte) ([]commands.Notice, error) {
	var t payments.Transaction
	if err := json.Unmarshal(plain, &t); err != nil {
		return nil, unreadable("its payment is none", err)
	}
	if value(t.Mchid) != c.merchant || value(t.Appid) != c.app {
		return nil, wrongMerchant()
	}
	n, err := paymentNotice(&t)
	switch {
	case err != nil:
		return nil, unreadable("its payment is not whole", err)
	case n.Payment == "":
		return nil, unreadable("its payment has no id of ours", nil)
	case n.Kind == commands.NoticePending:
		return nil, nil
	}
	return []commands.Notice{n}, nil
}

func (c *Client) refund(plain []byte) ([]commands.Notice, error) {
	var told struct {
		Merchant string `json:"mchid"`
		Payment  string `json:"out_trade_no"`
		Trade    string `json:"transaction_id"`
		Refund   string `json:"out_refund_no"`
		Status   string `json:"refund_status"`
		At       string `json:"success_time"`
		Amount   struct {
			Refund   *int64  `json:"refund"`
			Currency *string `json:"currency"`
		} `json:"amount"`
	}
	if err := json.Unmarshal(plain, &told); err != nil {
		return nil, unreadable("its refund is none", err)
	}
	if told.Merchant != c.merchant { // a refund names no application
		return nil, wrongMerchant()
	}
	kind, ok := refundKind(told.Status)
	if !ok || told.Payment == "" || told.Refund == "" || told.Amount.Refund == nil {
		return nil, unreadable("its refund is not whole", nil)
	}
	n := commands.Notice{
		Kind: kind, Payment: told.Payment, Trade: told.Trade, Refund: keyOf(told.Refund),
		Money: money.Money{Amount: *told.Amount.Refund, Currency: currency(told.Amount.Currency)}, At: moment(told.At),
	}
	if kind == commands.NoticePending {
		return nil, nil
	}
	if kind == commands.NoticeRefundFailed {
		n.Note = told.Status
	}
	return []commands.Notice{n}, nil
}

// Answer tells WeChat to be content, or to say it again: after 15 seconds first,
// for a day in all.
func (c *Client) Answer(err error) (status int, contentType string, body []byte) {
	const kind = "application/json"
	if err == nil {
		return http.StatusOK, kind, []byte(`{"code":"SUCCESS","message":"OK"}`)
	}
	status, why := http.StatusInternalServerError, "not recorded"
	if e, ok := errors.AsType[*domain.Error](err); ok && e.Code == domain.Invalid {
		status, why = http.StatusBadRequest, e.Reason
	}
	return status, kind, fmt.Appendf(nil, `{"code":"FAIL","message":%q}`, why)
}

func badSignature(why string, err error) error {
	return &domain.Error{Code: domain.Invalid, Reason: "bad_signature", Detail: "This callback is not WeChat Pay's: " + why + ".", Err: err}
}

func wrongMerchant() error {
	return domain.Refuse(domain.Invalid, "wrong_merchant", "This callback is for another merchant or application.")
}

func unreadable(why string, err error) error {
	return &domain.Error{Code: domain.Invalid, Reason: "bad_callback", Detail: "This callback cannot be read: " + why + ".", Err: err}
}
