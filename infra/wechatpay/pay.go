package wechatpay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/wechatpay-apiv3/wechatpay-go/services/payments"
	"github.com/wechatpay-apiv3/wechatpay-go/services/payments/app"
	"github.com/wechatpay-apiv3/wechatpay-go/services/payments/h5"
	"github.com/wechatpay-apiv3/wechatpay-go/services/payments/jsapi"
	"github.com/wechatpay-apiv3/wechatpay-go/services/payments/native"
	"github.com/wechatpay-apiv3/wechatpay-go/utils"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/money"
	"cartwright/infra/outward"
)

var _ commands.Channel = (*Client)(nil)

// yuan is the only currency, of which a fen is the minor unit.
const yuan = "CNY"

// maxSubject is WeChat's limit in letters; as one in bytes it is safe both ways.
const maxSubject = 127

// orderNo is what WeChat takes for an out_trade_no, of what our ids are made of.
var orderNo = regexp.MustCompile(`^[0-9A-Za-z-]{6,32}$`)

// Ask makes an order at WeChat. Asked again, WeChat answers for the same order,
// which is paid once.
func (c *Client) Ask(ctx context.Context, p commands.Asking) (commands.Instruction, error) {
	if err := check(p); err != nil {
		return commands.Instruction{}, err
	}
	switch scene := p.Options["scene"]; scene {
	case "", "native":
		return c.askNative(ctx, p)
	case "jsapi":
		return c.askJSAPI(ctx, p)
	case "h5":
		return c.askH5(ctx, p)
	case "app":
		return c.askApp(ctx, p)
	default:
		return commands.Instruction{}, badOption("scene", "is native, jsapi, h5 or app")
	}
}

func check(p commands.Asking) error {
	switch {
	case !orderNo.MatchString(p.Payment):
		return outward.Refuse("WeChat Pay takes 6 to 32 letters, digits and dashes for a payment's id.")
	case p.Total.Currency != yuan:
		return outward.Refuse("WeChat Pay takes yuan only.")
	case p.Total.Amount <= 0:
		return outward.Refuse("WeChat Pay takes amounts of a fen and more.")
	case p.Subject == "":
		return outward.Refuse("WeChat Pay wants to show the buyer what is paid for.")
	}
	for name := range p.Options {
		switch name {
		case "scene", "openid", "payer_ip", "h5_type":
		default:
			return badOption(name, "is nothing that WeChat Pay has")
		}
	}
	return nil
}

func badOption(name, why string) error {
	e := domain.Refuse(domain.Invalid, "channel_option", "The option %s %s.", name, why)
	e.Fields = []domain.Field{{Pointer: "/options/" + name, Detail: e.Detail}}
	return e
}

// expires is p's end in the zone of WeChat's documents, or nil. The SDK writes no
// parts of a second.
func expires(p commands.Asking) *time.Time {
	if p.Expires.IsZero() {
		return nil
	}
	return new(p.Expires.In(time.FixedZone("CST", 8*60*60)))
}

func (c *Client) askNative(ctx context.Context, p commands.Asking) (commands.Instruction, error) {
	api := native.NativeApiService{Client: c.api}
	got, _, err := api.Prepay(ctx, native.PrepayRequest{
		Appid: &c.app, Mchid: &c.merchant, NotifyUrl: &c.notify, OutTradeNo: &p.Payment,
		Description: new(outward.Cut(p.Subject, maxSubject)), TimeExpire: expires(p),
		Amount: &native.Amount{Total: &p.Total.Amount, Currency: &p.Total.Currency},
	})
	if err != nil {
		return commands.Instruction{}, known("take the payment", err)
	}
	return instruction("native", "", map[string]*string{"code_url": got.CodeUrl})
}

func (c *Client) askH5(ctx context.Context, p commands.Asking) (commands.Instruction, error) {
	ip, kind := p.Options["payer_ip"], p.Options["h5_type"]
	if ip == "" {
		return commands.Instruction{}, badOption("payer_ip", "is needed for the scene h5")
	}
	if kind == "" {
		kind = "Wap"
	}
	api := h5.H5ApiService{Client: c.api}
	got, _, err := api.Prepay(ctx, h5.PrepayRequest{
		Appid: &c.app, Mchid: &c.merchant, NotifyUrl: &c.notify, OutTradeNo: &p.Payment,
		Description: new(outward.Cut(p.Subject, maxSubject)), TimeExpire: expires(p),
		Amount:    &h5.Amount{Total: &p.Total.Amount, Currency: &p.Total.Currency},
		SceneInfo: &h5.SceneInfo{PayerClientIp: &ip, H5Info: &h5.H5Info{Type: &kind}},
	})
	if err != nil {
		return commands.Instruction{}, known("take the payment", err)
	}
	return instruction("h5", "", map[string]*string{"h5_url": got.H5Url})
}

func (c *Client) askJSAPI(ctx context.Context, p commands.Asking) (commands.Instruction, error) {
	openid := p.Options["openid"]
	if openid == "" {
		return commands.Instruction{}, badOption("openid", "is needed for the scene jsapi")
	}
	api := jsapi.JsapiApiService{Client: c.api}
	got, _, err := api.Prepay(ctx, jsapi.PrepayRequest{
		Appid: &c.app, Mchid: &c.merchant, NotifyUrl: &c.notify, OutTradeNo: &p.Payment,
		Description: new(outward.Cut(p.Subject, maxSubject)), TimeExpire: expires(p),
		Amount: &jsapi.Amount{Total: &p.Total.Amount, Currency: &p.Total.Currency},
		Payer:  &jsapi.Payer{Openid: &openid},
	})
	if err != nil {
		return commands.Instruction{}, known("take the payment", err)
	}
	if value(got.PrepayId) == "" {
		return commands.Instruction{}, incomplete("prepay_id")
	}
	pack := "prepay_id=" + *got.PrepayId
	proof, err := c.sign(ctx, pack)
	if err != nil {
		return commands.Instruction{}, err
	}
	return instruction("jsapi", *got.PrepayId, map[string]*string{
		"appId": &c.app, "timeStamp": &proof.at, "nonceStr": &proof.nonce,
		"package": &pack, "signType": new("RSA"), "paySign": &proof.signature,
	})
}

func (c *Client) askApp(ctx context.Context, p commands.Asking) (commands.Instruction, error) {
	api := app.AppApiService{Client: c.api}
	got, _, err := api.Prepay(ctx, app.PrepayRequest{
		Appid: &c.app, Mchid: &c.merchant, NotifyUrl: &c.notify, OutTradeNo: &p.Payment,
		Description: new(outward.Cut(p.Subject, maxSubject)), TimeExpire: expires(p),
		Amount: &app.Amount{Total: &p.Total.Amount, Currency: &p.Total.Currency},
	})
	if err != nil {
		return commands.Instruction{}, known("take the payment", err)
	}
	proof, err := c.sign(ctx, value(got.PrepayId))
	if err != nil {
		return commands.Instruction{}, err
	}
	return instruction("app", value(got.PrepayId), map[string]*string{
		"appid": &c.app, "partnerid": &c.merchant, "prepayid": got.PrepayId, "package": new("Sign=WXPay"),
		"noncestr": &proof.nonce, "timestamp": &proof.at, "sign": &proof.signature,
	})
}

// A proof shows WeChat's own client that we sent the buyer.
type proof struct{ at, nonce, signature string }

// sign signs as the SDK's PrepayWithRequestPayment does, which panics where an
// answer has no prepay_id.
func (c *Client) sign(ctx context.Context, what string) (proof, error) {
	nonce, err := utils.GenerateNonce()
	if err != nil {
		return proof{}, fmt.Errorf("nonce for the buyer's client: %w", err)
	}
	at := strconv.FormatInt(c.now().Unix(), 10)
	got, err := c.api.Sign(ctx, fmt.Sprintf("%s\n%s\n%s\n%s\n", c.app, at, nonce, what))
	if err != nil {
		return proof{}, fmt.Errorf("sign for the buyer's client: %w", err)
	}
	return proof{at, nonce, got.Signature}, nil
}

// instruction is complete or it is none.
func instruction(scene, reference string, parts map[string]*string) (commands.Instruction, error) {
	data := map[string]string{"scene": scene}
	for name, part := range parts {
		if data[name] = value(part); data[name] == "" {
			return commands.Instruction{}, incomplete(name)
		}
	}
	raw, err := json.Marshal(data)
	if err != nil {
		return commands.Instruction{}, fmt.Errorf("write the instruction: %w", err)
	}
	return commands.Instruction{Reference: reference, Data: raw}, nil
}

func incomplete(name string) error {
	return unavailable("take the payment", fmt.Errorf("the answer has no %s", name))
}

// Find tells what has become of a payment.
func (c *Client) Find(ctx context.Context, payment string) (commands.Notice, error) {
	if !orderNo.MatchString(payment) {
		return commands.Notice{Kind: commands.NoticePending, Payment: payment}, nil // WeChat can't have it
	}
	api := native.NativeApiService{Client: c.api} // which asks for orders of every scene
	got, _, err := api.QueryOrderByOutTradeNo(ctx, native.QueryOrderByOutTradeNoRequest{OutTradeNo: &payment, Mchid: &c.merchant})
	switch code := codeOf(err); {
	case code == codeNoOrder || code == codeNoRecord:
		return commands.Notice{Kind: commands.NoticePending, Payment: payment}, nil
	case err != nil:
		return commands.Notice{}, known("find the payment", err)
	case value(got.Mchid) != c.merchant || value(got.Appid) != c.app || value(got.OutTradeNo) != payment:
		return commands.Notice{}, unavailable("find the payment", errors.New("the answer is about another"))
	}
	n, err := paymentNotice(got)
	if err != nil {
		return commands.Notice{}, unavailable("find the payment", err)
	}
	return n, nil
}

// Close ends an order. One that was paid meanwhile can't be closed, and is found.
func (c *Client) Close(ctx context.Context, payment string) (commands.Notice, error) {
	failed := commands.Notice{Kind: commands.NoticeFailed, Payment: payment, Note: "closed"}
	if !orderNo.MatchString(payment) {
		return failed, nil
	}
	api := native.NativeApiService{Client: c.api}
	_, err := api.CloseOrder(ctx, native.CloseOrderRequest{OutTradeNo: &payment, Mchid: &c.merchant})
	switch code := codeOf(err); {
	case err == nil, code == codeNoOrder, code == codeNoRecord, code == codeClosed:
		return failed, nil
	}
	refusal := known("close the payment", err)
	if domain.CodeOf(refusal) != domain.Rejected {
		return commands.Notice{}, refusal
	}
	found, lost := c.Find(ctx, payment)
	if lost != nil || found.Kind != commands.NoticePending {
		return found, lost
	}
	if codeOf(err) == codePaid { // and is not found as such yet
		return commands.Notice{}, unavailable("close the payment", refusal)
	}
	return commands.Notice{}, refusal
}

// paymentNotice reads an order, which WeChat tells in the same words in answers
// and in callbacks.
func paymentNotice(t *payments.Transaction) (commands.Notice, error) {
	n := commands.Notice{Payment: value(t.OutTradeNo), Trade: value(t.TransactionId)}
	switch state := value(t.TradeState); state {
	case "SUCCESS", "REFUND":
		n.Kind = commands.NoticePaid
	case "NOTPAY", "USERPAYING", "ACCEPT":
		n.Kind = commands.NoticePending
		return n, nil
	case "CLOSED", "REVOKED", "PAYERROR":
		n.Kind, n.Note = commands.NoticeFailed, outward.Cut(state+": "+value(t.TradeStateDesc), outward.MaxWords)
		return n, nil
	default:
		return commands.Notice{}, fmt.Errorf("the state %q is none of WeChat's", state)
	}
	if n.Trade == "" || t.Amount == nil || t.Amount.Total == nil {
		return commands.Notice{}, errors.New("a payment without a number or an amount")
	}
	n.Money = money.Money{Amount: *t.Amount.Total, Currency: currency(t.Amount.Currency)}
	n.At = moment(value(t.SuccessTime))
	return n, nil
}

// currency is yuan where WeChat leaves it out.
func currency(given *string) string {
	if value(given) == "" {
		return yuan
	}
	return *given
}

// moment is zero where WeChat writes it otherwise than its documents say: money
// is not lost over a date.
func moment(s string) time.Time {
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}
	}
	return at.UTC()
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
