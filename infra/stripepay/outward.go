package stripepay

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/stripe/stripe-go/v84"

	"cartwright/infra/outward"
)

// maxAnswer is how much we take in.
const maxAnswer = 4 << 20

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
	if err = outward.Whole(resp, maxAnswer); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode < http.StatusBadRequest {
		return nil, fmt.Errorf("the answer has status %d", resp.StatusCode)
	}
	return resp, nil
}

func client(given *http.Client, account string) *http.Client {
	return outward.Client(given, func(next http.RoundTripper) http.RoundTripper { return gate{account, next} })
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
	said := fmt.Sprintf("%s %s: %s", e.Type, e.Code, outward.Cut(e.Msg, outward.MaxWords))
	if isOpen(e) {
		return unavailable(doing, fmt.Errorf("status %d: %s (request %s)", e.HTTPStatusCode, said, e.RequestID))
	}
	return outward.Refuse("Stripe refuses to %s: %s", doing, said)
}

func unavailable(doing string, err error) error { return outward.Unavailable("Stripe", doing, err) }
