package sandboxpay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/money"
)

// A Config says where the sandbox is and how to speak to it.
type Config struct {
	URL       string // http://127.0.0.1:8090
	Merchant  string
	Secret    string // signs requests, and verifies callbacks
	OldSecret string // verifies callbacks too, while secrets change; none if empty
	HTTP      *http.Client
	Now       func() time.Time
}

// A Client is a channel whose payments the sandbox takes. It may be used
// concurrently.
type Client struct {
	base string
	cfg  Config
	http http.Client
}

// What a client waits for and reads at most.
const (
	answerWithin  = 10 * time.Second
	maxAnswer     = 1 << 20
	maxBill       = 256 << 20
	connectionsUp = 64 // kept open
)

// New makes a client.
func New(cfg Config) (*Client, error) {
	if err := lacking("the sandbox channel", given{"URL", cfg.URL}, given{"Merchant", cfg.Merchant}, given{"Secret", cfg.Secret}); err != nil {
		return nil, err
	}
	base, err := httpAddress(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("the sandbox channel's URL: %w", err)
	}
	if !goodMerchant(cfg.Merchant) {
		return nil, fmt.Errorf("the sandbox channel's merchant %q is not made of letters, digits, dashes, dots and underlines, 64 at most", cfg.Merchant)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Client{base: base, cfg: cfg}
	if cfg.HTTP != nil {
		c.http = *cfg.HTTP
	} else {
		c.http.Transport = &http.Transport{MaxIdleConnsPerHost: connectionsUp, IdleConnTimeout: time.Minute}
	}
	if c.http.Timeout == 0 {
		c.http.Timeout = answerWithin
	}
	// What is signed is for one address; another that it leads to is no answer.
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c, nil
}

// Ask has the sandbox take a payment. The instruction's data has pay_url, the
// buyer's page, and expires where it does. The sandbox knows no options.
func (c *Client) Ask(ctx context.Context, p commands.Asking) (commands.Instruction, error) {
	if !goodPayment(p.Payment) {
		return commands.Instruction{}, refused("bad_payment", fmt.Sprintf("%q is no id of a payment", p.Payment))
	}
	v, err := c.payment(ctx, p.Payment, http.MethodPost, "/v1/payments", asked{
		Payment: p.Payment, Amount: p.Total.Amount, Currency: p.Total.Currency,
		Subject: shortened(p.Subject, maxSubject), Expires: p.Expires,
	})
	if err != nil {
		return commands.Instruction{}, err
	}
	data, err := json.Marshal(struct {
		PayURL  string    `json:"pay_url"`
		Expires time.Time `json:"expires,omitzero"`
	}{c.base + "/pay/" + p.Payment, v.Expires})
	if err != nil {
		return commands.Instruction{}, fmt.Errorf("instruction of %s: %w", p.Payment, err)
	}
	return commands.Instruction{Reference: v.Reference, Data: data}, nil
}

// Find tells what has become of a payment.
func (c *Client) Find(ctx context.Context, payment string) (commands.Notice, error) {
	if !goodPayment(payment) {
		return commands.Notice{Kind: commands.NoticePending, Payment: payment}, nil
	}
	v, err := c.payment(ctx, payment, http.MethodGet, "/v1/payments/"+payment, nil)
	if r, ok := errors.AsType[*answerError](err); ok && r.status == http.StatusNotFound && r.Code == codeUnknownPayment {
		return commands.Notice{Kind: commands.NoticePending, Payment: payment}, nil
	}
	if err != nil {
		return commands.Notice{}, err
	}
	return v.notice(), nil
}

// Close ends a payment that nobody made, also one that the sandbox never heard of.
func (c *Client) Close(ctx context.Context, payment string) (commands.Notice, error) {
	if !goodPayment(payment) {
		return commands.Notice{}, refused("bad_payment", fmt.Sprintf("%q is no id of a payment", payment))
	}
	v, err := c.payment(ctx, payment, http.MethodPost, "/v1/payments/"+payment+"/close", nil)
	if err != nil {
		return commands.Notice{}, err
	}
	return v.notice(), nil
}

// Refund gives some of a payment back.
func (c *Client) Refund(ctx context.Context, r commands.Returning) (commands.Notice, error) {
	if !goodPayment(r.Payment) || !goodRefund(r.Key) {
		return commands.Notice{}, refused("bad_refund", fmt.Sprintf("%q of %q is no refund of a payment", r.Key, r.Payment))
	}
	if r.Amount.Currency != r.Total.Currency {
		return commands.Notice{}, refused("wrong_currency", fmt.Sprintf("%s is not given back of %s", r.Amount.Currency, r.Total.Currency))
	}
	var v refundView
	err := c.call(ctx, http.MethodPost, "/v1/payments/"+r.Payment+"/refunds", returning{
		Refund: r.Key, Amount: r.Amount.Amount, Total: r.Total.Amount, Currency: r.Amount.Currency, Reason: shortened(r.Reason, maxSubject),
	}, &v)
	if err == nil && (v.Payment != r.Payment || v.Refund != r.Key || v.Merchant != c.cfg.Merchant || v.Amount != r.Amount.Amount || v.Currency != r.Amount.Currency) {
		err = unavailable(errors.New("the answer is about another refund"))
	}
	if err != nil {
		return commands.Notice{}, err
	}
	return v.notice()
}

// Bill gives the bill of a day of UTC, as CSV.
func (c *Client) Bill(ctx context.Context, day time.Time) ([]byte, error) {
	return c.send(ctx, http.MethodGet, "/v1/bills/"+day.UTC().Format(time.DateOnly)+".csv", nil, maxBill)
}

// payment makes a call that is answered by a payment.
func (c *Client) payment(ctx context.Context, id, method, path string, body any) (v paymentView, err error) {
	if err = c.call(ctx, method, path, body, &v); err != nil {
		return v, err
	}
	whole := v.Status == pending || v.Status == failed || v.Status == paid && v.Trade != "" && v.Paid != nil
	if v.Payment != id || v.Merchant != c.cfg.Merchant || !whole {
		return v, unavailable(errors.New("the answer is about another payment, or not whole"))
	}
	return v, nil
}

// call sends a request of JSON, or of nothing, and reads the answer into v.
func (c *Client) call(ctx context.Context, method, path string, body, v any) error {
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return fmt.Errorf("request to the sandbox: %w", err)
		}
	}
	answer, err := c.send(ctx, method, path, raw, maxAnswer)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, v); err != nil {
		return unavailable(fmt.Errorf("its answer is unreadable: %w", err))
	}
	return nil
}

// send makes a signed request, and gives the body of an answer that says yes.
func (c *Client) send(ctx context.Context, method, path string, body []byte, most int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("request to the sandbox: %w", err)
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set(MerchantHeader, c.cfg.Merchant)
	req.Header.Set(SignatureHeader, SignRequest(c.cfg.Secret, c.cfg.Now(), method, req.URL.RequestURI(), body))
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unavailable(err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err == nil && int64(len(answer)) > most {
		err = fmt.Errorf("its answer is longer than %d bytes", most)
	}
	if err != nil {
		return nil, unavailable(err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, answered(resp.StatusCode, answer)
	}
	return answer, nil
}

// An answerError is the channel's no, in its own words.
type answerError struct {
	refusal
	status int
}

func (e *answerError) Error() string {
	return fmt.Sprintf("the sandbox answers %d %s: %s", e.status, e.Code, e.Detail)
}

// answered turns an answer that says no into an error: a refusal where the
// channel speaks of this very request, and else something that may pass.
func answered(status int, body []byte) error {
	e := &answerError{status: status}
	if err := json.Unmarshal(body, &e.refusal); err != nil || e.Code == "" {
		return unavailable(fmt.Errorf("the sandbox answers %d, and not in its language", status))
	}
	switch status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		no := refused(e.Code, e.Detail)
		no.Err = e
		return no
	}
	return unavailable(e)
}

func refused(code, detail string) *domain.Error {
	return domain.Refuse(domain.Rejected, "channel_refused", "The channel refuses: %s: %s.",
		shortened(code, 64), shortened(strings.TrimSuffix(detail, "."), 512))
}

func unavailable(err error) error {
	return &domain.Error{
		Code: domain.Unavailable, Reason: "channel_unavailable", Err: err,
		Detail: "The payment channel gives no answer that could be used.",
	}
}

func (v paymentView) notice() commands.Notice {
	n := commands.Notice{Kind: commands.NoticePending, Payment: v.Payment}
	switch v.Status {
	case paid:
		n.Kind, n.Trade, n.Money, n.At = commands.NoticePaid, v.Trade, *v.Paid, v.At
	case failed:
		n.Kind, n.At, n.Note = commands.NoticeFailed, v.At, v.Note
	case pending, succeeded:
	}
	return n
}

func (v refundView) notice() (commands.Notice, error) {
	n := commands.Notice{
		Payment: v.Payment, Trade: v.Trade, Refund: v.Refund, At: v.At, Note: v.Note,
		Money: money.Money{Amount: v.Amount, Currency: v.Currency},
	}
	switch v.Status {
	case pending:
		n.Kind = commands.NoticePending
	case succeeded:
		n.Kind = commands.NoticeRefunded
	case failed:
		n.Kind = commands.NoticeRefundFailed
	default:
		return commands.Notice{}, unavailable(fmt.Errorf("a refund that is %q", v.Status))
	}
	return n, nil
}

// httpAddress checks the address of a server, and gives it without a slash at the end.
func httpAddress(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", fmt.Errorf("%q is no address like http://127.0.0.1:8090", text)
	}
	return strings.TrimSuffix(text, "/"), nil
}

// A given is a setting and its value.
type given struct{ name, value string }

// lacking says in one sentence which settings are missing.
func lacking(what string, all ...given) error {
	var lacks []string
	for _, g := range all {
		if g.value == "" {
			lacks = append(lacks, g.name)
		}
	}
	if len(lacks) == 0 {
		return nil
	}
	return fmt.Errorf("%s lacks %s", what, strings.Join(lacks, " and "))
}

func goodMerchant(m string) bool { return named(m, 64, "-._") }

// shortened cuts s to so many bytes, between two characters.
func shortened(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}

// quoted is s as a Go string, not longer than makes sense in a sentence.
func quoted(s string) string { return strconv.Quote(shortened(s, 80)) }
