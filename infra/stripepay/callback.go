package stripepay

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v84"
	"github.com/stripe/stripe-go/v84/webhook"

	"cartwright/commands"
	"cartwright/domain"
)

const maxCallback = 256 << 10

// Read verifies a callback and gives what it says.
func (c *Client) Read(_ context.Context, header http.Header, body []byte) ([]commands.Notice, error) {
	if len(body) > maxCallback {
		return nil, unreadable("it is too long")
	}
	event, err := c.verify(header.Get("Stripe-Signature"), body)
	if err != nil {
		return nil, err
	}
	switch {
	case event.Livemode != c.live:
		return nil, domain.Refuse(domain.Invalid, "wrong_merchant", "This callback is of another mode, live or test.")
	case event.Account != c.account:
		return nil, domain.Refuse(domain.Invalid, "wrong_merchant", "This callback is for another account.")
	}
	switch event.Type {
	case stripe.EventTypePaymentIntentSucceeded, stripe.EventTypePaymentIntentCanceled:
		return c.told(event)
	case stripe.EventTypeRefundCreated, stripe.EventTypeRefundUpdated, stripe.EventTypeRefundFailed, stripe.EventTypeChargeRefundUpdated:
		return toldBack(event)
	default:
		return nil, nil // a failed attempt too, which another may follow
	}
}

// verify tries every secret, and takes the body for Stripe's if one fits.
func (c *Client) verify(signature string, body []byte) (event stripe.Event, err error) {
	at, ok := signedAt(signature)
	if !ok || c.now().Sub(at).Abs() > webhook.DefaultTolerance {
		return event, badSignature("it is not of now")
	}
	for _, secret := range c.secrets {
		event, err = webhook.ConstructEventWithOptions(body, signature, secret, webhook.ConstructEventOptions{
			IgnoreTolerance: true, IgnoreAPIVersionMismatch: true,
		})
		if err == nil && event.Data != nil {
			return event, nil
		}
		if !isForged(err) {
			return event, unreadable("it is no event of Stripe's")
		}
	}
	return event, badSignature("its signature is not Stripe's")
}

func isForged(err error) bool {
	return errors.Is(err, webhook.ErrNotSigned) || errors.Is(err, webhook.ErrInvalidHeader) || errors.Is(err, webhook.ErrNoValidSignature)
}

// signedAt is the time that the SDK verifies: the last one in the header.
func signedAt(header string) (at time.Time, ok bool) {
	for part := range strings.SplitSeq(header, ",") {
		text, is := strings.CutPrefix(part, "t=")
		if !is {
			continue
		}
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return time.Time{}, false
		}
		at, ok = time.Unix(seconds, 0), true
	}
	return at, ok
}

func (c *Client) told(event stripe.Event) ([]commands.Notice, error) {
	var i intent
	if err := json.Unmarshal(event.Data.Raw, &i); err != nil || i.Object != "payment_intent" || i.ID == "" {
		return nil, unreadable("its intent is none")
	}
	if i.Metadata[metaPayment] == "" {
		return nil, nil // somebody else's, of the same account
	}
	n, err := i.notice()
	if err != nil || n.Kind == commands.NoticePending {
		return nil, unreadable("its intent is not whole, or not what it is called")
	}
	c.known.add(n.Payment, n.Trade)
	return at(event, n), nil
}

func toldBack(event stripe.Event) ([]commands.Notice, error) {
	var b back
	if err := json.Unmarshal(event.Data.Raw, &b); err != nil || b.Object != "refund" {
		return nil, unreadable("its refund is none")
	}
	if b.Metadata[metaPayment] == "" || b.Metadata[metaRefund] == "" {
		return nil, nil // made in the dashboard
	}
	n, err := b.notice()
	switch {
	case err != nil:
		return nil, unreadable("its refund is not whole")
	case n.Kind == commands.NoticePending:
		return nil, nil
	}
	return at(event, n), nil
}

func at(event stripe.Event, n commands.Notice) []commands.Notice {
	if event.Created > 0 {
		n.At = time.Unix(event.Created, 0).UTC()
	}
	return []commands.Notice{n}
}

// Answer tells Stripe to be content, or to say it again: for three days, less and
// less often.
func (c *Client) Answer(err error) (status int, contentType string, body []byte) {
	const kind = "application/json"
	switch {
	case err == nil:
		return http.StatusOK, kind, []byte(`{"received":true}`)
	case domain.CodeOf(err) == domain.Invalid:
		return http.StatusBadRequest, kind, []byte(`{"received":false}`)
	}
	return http.StatusInternalServerError, kind, []byte(`{"received":false}`)
}

func badSignature(why string) error {
	return domain.Refuse(domain.Invalid, "bad_signature", "This callback is not Stripe's: %s.", why)
}

func unreadable(why string) error {
	return domain.Refuse(domain.Invalid, "bad_callback", "This callback cannot be read: %s.", why)
}
