package sandboxpay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/money"
)

// What a callback is answered.
const (
	saidSuccess = "SUCCESS"
	saidFail    = "FAIL"
)

// Read verifies a callback and gives what it says: one notice, or none where it
// is of a kind that is not known here. It needs no network.
func (c *Client) Read(_ context.Context, header http.Header, body []byte) ([]commands.Notice, error) {
	if len(body) > maxBody {
		return nil, domain.Refuse(domain.Invalid, "bad_callback", "The callback is longer than %d bytes.", maxBody)
	}
	if err := verify(header, c.cfg.Now(), []string{c.cfg.Secret, c.cfg.OldSecret}, body); err != nil {
		return nil, &domain.Error{Code: domain.Invalid, Reason: "bad_signature", Detail: "The callback is not signed by the channel.", Err: err}
	}
	cb, err := decodeOne[callback](body)
	if err != nil {
		return nil, &domain.Error{Code: domain.Invalid, Reason: "bad_callback", Detail: "The callback is no JSON of ours.", Err: err}
	}
	if cb.Merchant != c.cfg.Merchant {
		return nil, domain.Refuse(domain.Invalid, "wrong_merchant", "The callback is for merchant %s.", quoted(cb.Merchant))
	}
	n := commands.Notice{
		Kind: commands.NoticeKind(cb.Kind), Payment: cb.Payment, Trade: cb.Trade, Refund: cb.Refund,
		Money: money.Money{Amount: cb.Amount, Currency: cb.Currency}, At: cb.At, Note: cb.Note,
	}
	whole, known := complete(n)
	switch {
	case !known:
		return nil, nil
	case !whole:
		return nil, domain.Refuse(domain.Invalid, "bad_callback", "The callback lacks something that one of kind %s tells.", cb.Kind)
	}
	return []commands.Notice{n}, nil
}

// complete says whether a notice tells all that its kind has to tell, and
// whether its kind is one that callbacks have. Whether an amount is the right one
// is for others to say; one of nothing is none.
func complete(n commands.Notice) (whole, known bool) {
	payment := n.Payment != ""
	moved := n.Trade != "" && n.Money.Amount > 0 && n.Money.Currency != ""
	switch n.Kind {
	case commands.NoticePaid:
		return payment && moved, true
	case commands.NoticeFailed:
		return payment, true
	case commands.NoticeRefunded, commands.NoticeRefundFailed:
		return payment && moved && n.Refund != "", true
	case commands.NoticePending:
	}
	return false, false
}

// Answer is SUCCESS where what a callback said is recorded. To all else the
// sandbox calls again.
func (c *Client) Answer(err error) (code int, contentType string, body []byte) {
	const text = "text/plain; charset=utf-8"
	switch {
	case err == nil:
		return http.StatusOK, text, []byte(saidSuccess)
	case domain.CodeOf(err) == domain.Invalid:
		return http.StatusBadRequest, text, []byte(saidFail + " " + domain.ReasonOf(err))
	}
	return http.StatusInternalServerError, text, []byte(saidFail)
}

// decodeOne reads one value of JSON and nothing behind it. Fields that are not
// known are those of a newer sandbox.
func decodeOne[T any](body []byte) (v T, err error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	if err = dec.Decode(&v); err != nil {
		return v, err
	}
	if _, err = dec.Token(); !errors.Is(err, io.EOF) {
		return v, errors.New("there is something behind it")
	}
	return v, nil
}
