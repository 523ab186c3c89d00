package alipay

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/smartwalle/alipay/v3"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/money"
	"cartwright/infra/outward"
)

var _ commands.Channel = (*Client)(nil)

// clock is how Alipay writes times, and it writes them in Beijing.
const clock = "2006-01-02 15:04:05"

const maxSubject = 256 // bytes, by Alipay's documents

var ourID = regexp.MustCompile(`^[0-9A-Za-z-]{1,32}$`)

func outTradeNo(payment string) string { return strings.ReplaceAll(payment, "-", "_") }
func paymentOf(tradeNo string) string  { return strings.ReplaceAll(tradeNo, "_", "-") }

// Ask signs what leads the buyer to Alipay, or has a code made. Asked again, it
// leads to the same trade.
func (c *Client) Ask(ctx context.Context, p commands.Asking) (commands.Instruction, error) {
	if err := check(p); err != nil {
		return commands.Instruction{}, err
	}
	trade := alipay.Trade{
		NotifyURL: c.notify, ReturnURL: c.back, SellerId: c.seller,
		Subject: outward.Cut(p.Subject, maxSubject), OutTradeNo: outTradeNo(p.Payment), TotalAmount: inYuan(p.Total.Amount), TimeExpire: expires(p),
	}
	var data map[string]string
	var err error
	switch scene := p.Options["scene"]; scene {
	case "", "page":
		data, err = c.askPage(trade)
	case "wap":
		data, err = c.askWap(trade, p.Options["quit_url"])
	case "app":
		data, err = c.askApp(trade)
	case "precreate":
		data, err = c.askCode(ctx, trade)
	default:
		err = badOption("scene", "is page, wap, app or precreate")
	}
	if err != nil {
		return commands.Instruction{}, err
	}
	raw, err := object(data)
	return commands.Instruction{Data: raw}, err
}

func check(p commands.Asking) error {
	switch {
	case !ourID.MatchString(p.Payment):
		return outward.Refuse("Alipay is given 32 letters, digits and dashes at most for a payment's id.")
	case p.Total.Currency != yuan:
		return outward.Refuse("Alipay takes yuan only.")
	case p.Total.Amount <= 0 || p.Total.Amount > mostFen:
		return outward.Refuse("Alipay takes amounts of a fen to a hundred million yuan.")
	case p.Subject == "":
		return outward.Refuse("Alipay wants to show the buyer what is paid for.")
	}
	for name, value := range p.Options {
		switch {
		case name == "scene":
		case name == "quit_url" && p.Options["scene"] == "wap" && isURL(value):
		case name == "quit_url":
			return badOption(name, "is a URL, and of the scene wap")
		default:
			return badOption(name, "is nothing that Alipay has")
		}
	}
	return nil
}

func badOption(name, why string) error {
	e := domain.Refuse(domain.Invalid, "channel_option", "The option %s %s.", name, why)
	e.Fields = []domain.Field{{Pointer: "/options/" + name, Detail: e.Detail}}
	return e
}

func expires(p commands.Asking) string {
	if p.Expires.IsZero() {
		return ""
	}
	return p.Expires.In(beijing()).Format(clock)
}

func (c *Client) askPage(trade alipay.Trade) (map[string]string, error) {
	trade.ProductCode = "FAST_INSTANT_TRADE_PAY"
	u, err := c.api.TradePagePay(alipay.TradePagePay{Trade: trade})
	return link("page", u, err)
}

func (c *Client) askWap(trade alipay.Trade, quit string) (map[string]string, error) {
	trade.ProductCode = "QUICK_WAP_WAY"
	// The field of the same name outside of Trade hides the one inside.
	u, err := c.api.TradeWapPay(alipay.TradeWapPay{Trade: trade, TimeExpire: trade.TimeExpire, QuitURL: quit})
	return link("wap", u, err)
}

func link(scene string, u *url.URL, err error) (map[string]string, error) {
	if err != nil {
		return nil, fmt.Errorf("sign the way to Alipay: %w", err)
	}
	return map[string]string{"scene": scene, "url": u.String()}, nil
}

func (c *Client) askApp(trade alipay.Trade) (map[string]string, error) {
	trade.ProductCode = "QUICK_MSECURITY_PAY"
	order, err := c.api.TradeAppPay(alipay.TradeAppPay{Trade: trade})
	if err != nil {
		return nil, fmt.Errorf("sign the order for Alipay's client: %w", err)
	}
	return map[string]string{"scene": "app", "order": order}, nil
}

func (c *Client) askCode(ctx context.Context, trade alipay.Trade) (map[string]string, error) {
	const doing = "take the payment"
	trade.ProductCode = "FACE_TO_FACE_PAYMENT"
	got, err := c.api.TradePreCreate(ctx, alipay.TradePreCreate{Trade: trade})
	switch {
	case err != nil:
		return nil, failed(doing, err)
	case got == nil:
		return nil, unavailable(doing, alipay.ErrBadResponse)
	case got.Code != alipay.CodeSuccess:
		return nil, known(doing, got.Error)
	case got.QRCode == "" || got.OutTradeNo != trade.OutTradeNo:
		return nil, unavailable(doing, errors.New("the answer has no code, or is about another"))
	}
	return map[string]string{"scene": "precreate", "qr_code": got.QRCode}, nil
}

// A queried is a trade as Alipay answers it. The SDK's own type lacks nothing,
// but would fail at a field of another type that is none of our business.
type queried struct {
	alipay.Error
	TradeNo    string `json:"trade_no"`
	OutTradeNo string `json:"out_trade_no"`
	Status     string `json:"trade_status"`
	Total      string `json:"total_amount"`
	Currency   string `json:"trans_currency"`
	Paid       string `json:"send_pay_date"`
}

// Find tells what has become of a payment.
func (c *Client) Find(ctx context.Context, payment string) (commands.Notice, error) {
	const doing = "find the payment"
	pending := commands.Notice{Kind: commands.NoticePending, Payment: payment}
	if !ourID.MatchString(payment) {
		return pending, nil // Alipay can't have it
	}
	var got *queried
	err := c.api.Request(ctx, alipay.TradeQuery{OutTradeNo: outTradeNo(payment)}, &got)
	switch {
	case err != nil:
		return commands.Notice{}, failed(doing, err)
	case got == nil:
		return commands.Notice{}, unavailable(doing, alipay.ErrBadResponse)
	case got.SubCode == noTrade:
		return pending, nil
	case got.Code != alipay.CodeSuccess:
		return commands.Notice{}, known(doing, got.Error)
	case got.OutTradeNo != outTradeNo(payment):
		return commands.Notice{}, unavailable(doing, errors.New("the answer is about another"))
	}
	n, err := tradeNotice(trade{
		payment: payment, number: got.TradeNo, status: got.Status, total: got.Total, currency: got.Currency, paid: got.Paid,
	})
	if err != nil {
		return commands.Notice{}, unavailable(doing, err)
	}
	return n, nil
}

// Close ends a trade. One that was paid meanwhile can't be closed, and is found.
func (c *Client) Close(ctx context.Context, payment string) (commands.Notice, error) {
	const doing = "close the payment"
	closed := commands.Notice{Kind: commands.NoticeFailed, Payment: payment, Note: "closed"}
	if !ourID.MatchString(payment) {
		return closed, nil
	}
	got, err := c.api.TradeClose(ctx, alipay.TradeClose{OutTradeNo: outTradeNo(payment)})
	switch {
	case err != nil:
		return commands.Notice{}, failed(doing, err)
	case got == nil:
		return commands.Notice{}, unavailable(doing, alipay.ErrBadResponse)
	case got.Code == alipay.CodeSuccess || got.SubCode == noTrade:
		return closed, nil
	}
	refusal := known(doing, got.Error)
	if domain.CodeOf(refusal) != domain.Rejected {
		return commands.Notice{}, refusal
	}
	found, err := c.Find(ctx, payment)
	if err == nil && found.Kind == commands.NoticePending {
		return commands.Notice{}, refusal
	}
	return found, err
}

// A trade is what answers and callbacks tell of one.
type trade struct{ payment, number, status, total, currency, paid string }

func tradeNotice(t trade) (commands.Notice, error) {
	n := commands.Notice{Payment: t.payment, Trade: t.number}
	switch status := alipay.TradeStatus(t.status); {
	case status == alipay.TradeStatusSuccess, status == alipay.TradeStatusFinished, status == alipay.TradeStatusClosed && t.paid != "":
		n.Kind = commands.NoticePaid
	case status == alipay.TradeStatusClosed:
		n.Kind, n.Note = commands.NoticeFailed, t.status
		return n, nil
	case status == alipay.TradeStatusWaitBuyerPay:
		n.Kind = commands.NoticePending
		return n, nil
	default:
		return commands.Notice{}, fmt.Errorf("the status %q is none of Alipay's", outward.Cut(t.status, outward.MaxWords))
	}
	fen, err := inFen(t.total)
	if err != nil || t.number == "" {
		return commands.Notice{}, errors.New("a payment without a number or an amount")
	}
	if t.currency == "" {
		t.currency = yuan
	}
	n.Money, n.At = money.Money{Amount: fen, Currency: t.currency}, moment(t.paid)
	return n, nil
}

// moment is zero where Alipay writes it otherwise than its documents say: money
// is not lost over a date.
func moment(s string) time.Time {
	at, err := time.ParseInLocation(clock, s, beijing())
	if err != nil {
		return time.Time{}
	}
	return at.UTC()
}
