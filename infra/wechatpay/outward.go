package wechatpay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/wechatpay-apiv3/wechatpay-go/core"

	"cartwright/domain"
)

// What we wait for, and how much we take in.
const (
	timeout   = 10 * time.Second
	maxAnswer = 1 << 20
	maxWords  = 200 // of what WeChat says in an error
)

// A gate sends what the SDK addresses to WeChat's one server to the configured
// one, and takes answers in whole: the SDK leaves some of them open.
type gate struct {
	to   *url.URL
	next http.RoundTripper
}

func (g gate) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host, r.Host = g.to.Scheme, g.to.Host, ""
	resp, err := g.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

func outward(given *http.Client, to *url.URL) *http.Client {
	var client http.Client
	if given != nil {
		client = *given
	}
	if client.Timeout == 0 {
		client.Timeout = timeout
	}
	if client.Transport == nil {
		client.Transport = http.DefaultTransport
	}
	client.Transport = gate{to, client.Transport}
	// WeChat never sends us elsewhere; who does is not WeChat.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client
}

// Codes of WeChat's that another call reads otherwise than refused.
const (
	codeNoOrder  = "ORDER_NOT_EXIST"
	codeNoRecord = "RESOURCE_NOT_EXISTS"
	codePaid     = "ORDERPAID"
	codeClosed   = "ORDER_CLOSED"
)

// isOpen reports whether a code is no word about the payment: the same call may
// do better once something or somebody has recovered.
func isOpen(status int, code string) bool {
	if status < 400 || status >= 500 || status == http.StatusUnauthorized || status == http.StatusTooManyRequests || code == "" {
		return true
	}
	switch code {
	case "SYSTEM_ERROR", "SYSTEMERROR", "BANK_ERROR", "BANKERROR", "BIZ_ERR_NEED_RETRY",
		"FREQUENCY_LIMITED", "FREQUENCY_LIMIT_EXCEED", "RATELIMIT_EXCEEDED",
		"SIGN_ERROR", "NO_AUTH", "NOAUTH", "MCH_NOT_EXISTS", "APPID_MCHID_NOT_MATCH", "NOT_ENOUGH":
		return true
	}
	return false
}

// codeOf is WeChat's code in an error, or "".
func codeOf(err error) string {
	if api, ok := errors.AsType[*core.APIError](err); ok {
		return api.Code
	}
	return ""
}

// known puts an error of the SDK into our words. An APIError itself goes no
// further than here: its text has every header of the answer.
func known(doing string, err error) error {
	api, ok := errors.AsType[*core.APIError](err)
	if !ok {
		return unavailable(doing, err)
	}
	said := fmt.Sprintf("%s: %s", api.Code, cut(api.Message, maxWords))
	if isOpen(api.StatusCode, api.Code) {
		return unavailable(doing, fmt.Errorf("status %d: %s (request %s)", api.StatusCode, said, api.Header.Get("Request-Id")))
	}
	return domain.Refuse(domain.Rejected, "channel_refused", "WeChat Pay refuses to %s: %s", doing, said)
}

func unavailable(doing string, err error) error {
	return &domain.Error{
		Code: domain.Unavailable, Reason: "channel_unavailable",
		Detail: "WeChat Pay cannot be asked just now.", Err: fmt.Errorf("%s: %w", doing, err),
	}
}

// refuse says no before WeChat has to.
func refuse(why string) error {
	return domain.Refuse(domain.Rejected, "channel_refused", "%s", why)
}

// cut keeps as much of s as limit bytes have room for, and no half of a letter.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "")
}
