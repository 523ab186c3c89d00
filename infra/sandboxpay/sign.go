package sandboxpay

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers of what is sent.
const (
	// SignatureHeader has the time of sending and its signature: t=<unix>,v1=<hex>.
	SignatureHeader = "Sandbox-Signature"
	// MerchantHeader says who asks.
	MerchantHeader = "Sandbox-Merchant"
)

// What a signature may be.
const (
	tolerance     = 300 * time.Second
	maxSignature  = 1024
	maxSignatures = 4 // in one header: a sender may sign by several secrets
)

// SignRequest gives the signature of a request to the channel: over the time,
// the method, the path with its query, and the body.
func SignRequest(secret string, at time.Time, method, path string, body []byte) string {
	return sign(secret, at, []byte(method), []byte(path), body)
}

// SignCallback gives the signature of a callback: over the time and the body. No
// request is signed alike, since a method is no JSON.
func SignCallback(secret string, at time.Time, body []byte) string { return sign(secret, at, body) }

func sign(secret string, at time.Time, parts ...[]byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac(secret, t, parts))
}

func mac(secret, t string, parts [][]byte) []byte {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(t + "."))
	h.Write(bytes.Join(parts, []byte(".")))
	return h.Sum(nil)
}

// verify says what is wrong with the signature in header, if anything is. Any of
// the secrets will do; an empty one is none.
func verify(header http.Header, now time.Time, secrets []string, parts ...[]byte) error {
	given := header.Values(SignatureHeader)
	if len(given) != 1 {
		return fmt.Errorf("there are %d headers %s, not one", len(given), SignatureHeader)
	}
	t, signatures, err := readSignature(given[0])
	if err != nil {
		return err
	}
	if age := now.Sub(time.Unix(t.unix, 0)); age > tolerance || age < -tolerance {
		return fmt.Errorf("it was signed at %s, more than %.0f s from now", t.text, tolerance.Seconds())
	}
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		want := mac(secret, t.text, parts)
		for _, got := range signatures {
			if hmac.Equal(got, want) {
				return nil
			}
		}
	}
	return errors.New("the signature is not ours")
}

// A moment is a time as it was signed: the text, and what it means.
type moment struct {
	text string
	unix int64
}

// readSignature reads t=…,v1=…. Parts of other names are left alone, as another
// version's.
func readSignature(header string) (t moment, signatures [][]byte, err error) {
	if len(header) > maxSignature {
		return t, nil, errors.New("the signature is too long")
	}
	for part := range strings.SplitSeq(header, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "t":
			if t.text != "" {
				return t, nil, errors.New("the signature has two times")
			}
			t.text = value
			if t.unix, err = strconv.ParseInt(value, 10, 64); err != nil || t.unix <= 0 || t.unix > 1<<40 {
				return t, nil, errors.New("the signature's time is no number of seconds")
			}
		case "v1":
			sum, err := hex.DecodeString(value)
			if err != nil || len(sum) != sha256.Size || len(signatures) == maxSignatures {
				return t, nil, errors.New("the signature is unreadable")
			}
			signatures = append(signatures, sum)
		}
	}
	if t.text == "" || len(signatures) == 0 {
		return t, nil, errors.New("the signature lacks its time or itself")
	}
	return t, signatures, nil
}
