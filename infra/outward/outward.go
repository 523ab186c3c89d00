// Package outward is what clients of other people's services share: one HTTP
// client with a bound on time, answers that are read whole and up to a size, and
// the two errors that a payment channel's caller tells apart.
//
// # Why
//
// The SDKs of payment channels read answers without a bound, and some leave them
// open. So their transport is wrapped, here once and not in each channel's package
// (TestAnAnswerIsReadWholeOrNotAtAll, TestAClientThatIsGivenIsNotChanged).
package outward

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"cartwright/domain"
)

const timeout = 10 * time.Second

// MaxWords is how many bytes are kept of what a service says in an error.
const MaxWords = 200

// Client is a copy of the given client, or a new one, with a bound on time. Wrap
// puts something around its transport.
func Client(given *http.Client, wrap func(next http.RoundTripper) http.RoundTripper) *http.Client {
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
	client.Transport = wrap(client.Transport)
	return &client
}

// Whole reads the body of an answer, up to limit bytes, closes it, and puts what
// was read in its place.
func Whole(resp *http.Response, limit int64) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if int64(len(body)) > limit {
		return fmt.Errorf("an answer of more than %d bytes", limit)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

// Unavailable says that a channel can't be asked just now: the outcome is open,
// and the same call settles it.
func Unavailable(channel, doing string, err error) error {
	return &domain.Error{
		Code: domain.Unavailable, Reason: "channel_unavailable",
		Detail: channel + " cannot be asked just now.", Err: fmt.Errorf("%s: %w", doing, err),
	}
}

// Refuse says no for good: the channel's no, or ours before it has to.
func Refuse(format string, args ...any) error {
	return domain.Refuse(domain.Rejected, "channel_refused", format, args...)
}

// Cut keeps as much of s as limit bytes have room for, and no half of a letter.
func Cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "")
}
