package stripepay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v84"

	"cartwright/domain"
)

// What we wait for, and how much we take in.
const (
	timeout   = 10 * time.Second
	maxAnswer = 4 << 20
	maxWords  = 200 // of what Stripe says in an error
)

// A gate asks on behalf of an account, if there is one. It takes in answers of a
// size, and none that sends us elsewhere: the SDK would take that for success.
type gate struct {
	account string
	next    http.RoundTripper
}

func (g gate) RoundTrip(r *http.Request) (*http.Response, error) {
	if g.account != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Stripe-Account", g.account)
	}
	resp, err := g.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch err = errors.Join(err, resp.Body.Close()); {
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	case resp.StatusCode != http.StatusOK && resp.StatusCode < http.StatusBadRequest:
		return nil, fmt.Errorf("the answer has status %d", resp.StatusCode)
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

func outward(given *http.Client, account string) *http.Client {
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
	client.Transport = gate{account, client.Transport}
	return &client
}

// codeOf is Stripe's code in an error, or "".
func codeOf(err error) stripe.ErrorCode {
	if e, ok := errors.AsType[*stripe.Error](err); ok {
		return e.Code
	}
	return ""
}

// isOpen reports whether an error is no word about the payment: the same call may
// do better once something or somebody has recovered.
func isOpen(e *stripe.Error) bool {
	switch s := e.HTTPStatusCode; {
	case s < 400 || s >= 500, s == http.StatusUnauthorized, s == http.StatusForbidden, s == http.StatusConflict, s == http.StatusTooManyRequests:
		return true
	}
	switch e.Code {
	case stripe.ErrorCodeLockTimeout, stripe.ErrorCodeRateLimit, stripe.ErrorCodeBalanceInsufficient, stripe.ErrorCodeInsufficientFunds,
		stripe.ErrorCodeAPIKeyExpired, stripe.ErrorCodePlatformAPIKeyExpired, stripe.ErrorCodeSecretKeyRequired,
		stripe.ErrorCodeLivemodeMismatch, stripe.ErrorCodeTestmodeChargesOnly:
		return true
	default:
		return e.Type == stripe.ErrorTypeAPI || e.Type == ""
	}
}

// known puts an error of the SDK into our words, and none of its own with them.
func known(doing string, err error) error {
	e, ok := errors.AsType[*stripe.Error](err)
	if !ok {
		if lost, ok := errors.AsType[*url.Error](err); ok {
			return unavailable(doing, lost)
		}
		return unavailable(doing, errors.New("the answer cannot be read"))
	}
	said := fmt.Sprintf("%s %s: %s", e.Type, e.Code, cut(e.Msg, maxWords))
	if isOpen(e) {
		return unavailable(doing, fmt.Errorf("status %d: %s (request %s)", e.HTTPStatusCode, said, e.RequestID))
	}
	return domain.Refuse(domain.Rejected, "channel_refused", "Stripe refuses to %s: %s", doing, said)
}

func unavailable(doing string, err error) error {
	return &domain.Error{
		Code: domain.Unavailable, Reason: "channel_unavailable",
		Detail: "Stripe cannot be asked just now.", Err: fmt.Errorf("%s: %w", doing, err),
	}
}

// refuse says no before Stripe has to.
func refuse(format string, args ...any) error {
	return domain.Refuse(domain.Rejected, "channel_refused", format, args...)
}

// cut keeps as much of s as limit bytes have room for, and no half of a letter.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "")
}
