package alipay

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/smartwalle/alipay/v3"

	"cartwright/infra/outward"
)

// maxAnswer is how much we take in.
const maxAnswer = 1 << 20

// A gate takes in answers of this side of 500 and of a size: the SDK looks at
// neither.
type gate struct{ next http.RoundTripper }

func (g gate) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := g.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if err = outward.Whole(resp, maxAnswer); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer has status %d", resp.StatusCode)
	}
	return resp, nil
}

func client(given *http.Client) *http.Client {
	return outward.Client(given, func(next http.RoundTripper) http.RoundTripper { return gate{next} })
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
	said := fmt.Sprintf("%s %s: %s", e.Code, e.SubCode, outward.Cut(e.SubMsg, outward.MaxWords))
	if isRefusal(e) {
		return outward.Refuse("Alipay refuses to %s: %s", doing, said)
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
		return unavailable(doing, fmt.Errorf("unsigned: %s %s: %s", e.Code, e.SubCode, outward.Cut(e.SubMsg, outward.MaxWords)))
	}
	return unavailable(doing, err)
}

func unavailable(doing string, err error) error { return outward.Unavailable("Alipay", doing, err) }
