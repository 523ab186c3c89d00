package alipay

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/smartwalle/alipay/v3"

	"cartwright/domain"
)

// What we wait for, and how much we take in.
const (
	timeout   = 10 * time.Second
	maxAnswer = 1 << 20
	maxWords  = 200 // of what Alipay says in an error
)

// A gate takes in answers of this side of 500 and of a size: the SDK looks at
// neither.
type gate struct{ next http.RoundTripper }

func (g gate) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := g.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch err = errors.Join(err, resp.Body.Close()); {
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the answer has status %d", resp.StatusCode)
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

func outward(given *http.Client) *http.Client {
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
	client.Transport = gate{client.Transport}
	return &client
}

func checkRSA(text []byte) error {
	block, _ := pem.Decode(text)
	if block == nil {
		return errors.New("the certificate of Alipay is no PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("the certificate of Alipay: %w", err)
	}
	if _, ok := certificate.PublicKey.(*rsa.PublicKey); !ok {
		return errors.New("the certificate of Alipay is not of an RSA key")
	}
	return nil
}

// Codes of Alipay's that another call reads otherwise than refused.
const noTrade = "ACQ.TRADE_NOT_EXIST"

// isRefusal reports whether a signed answer is a word about the payment, and the
// last one.
func isRefusal(e alipay.Error) bool {
	switch e.Code {
	case alipay.CodeInvalidParam:
		return e.SubCode == "isv.invalid-parameter"
	case alipay.CodeBusinessFailed:
	default:
		return false
	}
	switch strings.TrimPrefix(e.SubCode, "ACQ.") {
	case "", "SYSTEM_ERROR", "AOP.SYSTEM_ERROR", "SELLER_BALANCE_NOT_ENOUGH", "ACCESS_FORBIDDEN", "INVALID_PARTNER", "PARTNER_ERROR":
		return false
	}
	return true
}

// known puts what Alipay has said, signed, into our words.
func known(doing string, e alipay.Error) error {
	said := fmt.Sprintf("%s %s: %s", e.Code, e.SubCode, cut(e.SubMsg, maxWords))
	if isRefusal(e) {
		return domain.Refuse(domain.Rejected, "channel_refused", "Alipay refuses to %s: %s", doing, said)
	}
	return unavailable(doing, errors.New(said))
}

// failed puts what came instead of a signed answer into our words. The SDK's own
// error for that may be a nil pointer, whose text can't be asked for.
func failed(doing string, err error) error {
	if e, ok := errors.AsType[*alipay.Error](err); ok {
		if e == nil {
			return unavailable(doing, alipay.ErrBadResponse)
		}
		return unavailable(doing, fmt.Errorf("unsigned: %s %s: %s", e.Code, e.SubCode, cut(e.SubMsg, maxWords)))
	}
	return unavailable(doing, err)
}

func unavailable(doing string, err error) error {
	return &domain.Error{
		Code: domain.Unavailable, Reason: "channel_unavailable",
		Detail: "Alipay cannot be asked just now.", Err: fmt.Errorf("%s: %w", doing, err),
	}
}

// refuse says no before Alipay has to.
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
