package wechatpay

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/wechatpay-apiv3/wechatpay-go/core"

	"cartwright/infra/outward"
)

// maxAnswer is how much we take in.
const maxAnswer = 1 << 20

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
	if err = outward.Whole(resp, maxAnswer); err != nil {
		return nil, err
	}
	return resp, nil
}

func client(given *http.Client, to *url.URL) *http.Client {
	c := outward.Client(given, func(next http.RoundTripper) http.RoundTripper { return gate{to, next} })
	// WeChat never sends us elsewhere; who does is not WeChat.
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c
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
	said := fmt.Sprintf("%s: %s", api.Code, outward.Cut(api.Message, outward.MaxWords))
	if isOpen(api.StatusCode, api.Code) {
		return unavailable(doing, fmt.Errorf("status %d: %s (request %s)", api.StatusCode, said, api.Header.Get("Request-Id")))
	}
	return outward.Refuse("WeChat Pay refuses to %s: %s", doing, said)
}

func unavailable(doing string, err error) error { return outward.Unavailable("WeChat Pay", doing, err) }
