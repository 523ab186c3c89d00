package sandboxpay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"cartwright/domain/money"
)

// What the sandbox answers where it does not do what it is asked to. The codes
// are part of its API.
const (
	codeBadRequest     = "bad_request"
	codeBadSignature   = "bad_signature"
	codeWrongMerchant  = "wrong_merchant"
	codeUnknownPath    = "unknown_path"
	codeUnknownPayment = "unknown_payment"
	codeUnknownRefund  = "unknown_refund"
	codeNoBill         = "no_bill"
	codeOtherPayment   = "other_payment"
	codeOtherRefund    = "other_refund"
	codeNotPayable     = "not_payable"
	codeNotPaid        = "not_paid"
	codeTooMuch        = "too_much"
	codeTooManyRefunds = "too_many_refunds"
	codeTooLarge       = "too_large"
	codeFull           = "full"
	codeBusy           = "busy"
	codeBroken         = "broken"
)

func no(status int, code, format string, args ...any) error {
	return &answerError{refusal{code, fmt.Sprintf(format, args...)}, status}
}

// A query is a request whose body is read and whose signature is verified.
type query struct {
	*http.Request
	body []byte
}

// An answer is sent as JSON, unless it writes itself.
type answer interface{ write(w http.ResponseWriter) }

// routes are the API. What they do is in shop.go and buyer.go.
func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/payments", s.signed(s.create))
	mux.Handle("GET /v1/payments/{id}", s.signed(s.find))
	mux.Handle("POST /v1/payments/{id}/close", s.signed(s.end))
	mux.Handle("POST /v1/payments/{id}/refunds", s.signed(s.refund))
	mux.Handle("GET /v1/payments/{id}/refunds/{key}", s.signed(s.findRefund))
	mux.Handle("GET /v1/bills/{file}", s.signed(s.bill))
	mux.Handle("POST /pay/{id}", s.open(s.pay))
	mux.Handle("GET /pay/{id}", s.open(s.page))
	mux.Handle("GET /v1/status", s.open(func(query) (answer, error) { return asJSON{s.Status()}, nil }))
	mux.Handle("/", s.open(func(q query) (answer, error) {
		return nil, no(http.StatusNotFound, codeUnknownPath, "There is no %s of %s.", shortened(q.Method, 16), quoted(q.URL.Path))
	}))
	return mux
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
		s.mux.ServeHTTP(w, r)
	default:
		s.refuse(w, no(http.StatusServiceUnavailable, codeBusy, "There are too many requests under way."))
	}
}

// open is a route for everybody. Its answer is sent when all that it tells is on
// disk.
func (s *Server) open(do func(query) (answer, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			s.refuse(w, unreadBody(err))
			return
		}
		a, err := do(query{r, body})
		if broken := s.journal.sync(s.journal.newest()); broken != nil {
			s.log.Error("journal can't be written", "error", broken)
			err = no(http.StatusInternalServerError, codeBroken, "The sandbox can't write its journal.")
		}
		if err != nil {
			s.refuse(w, err)
			return
		}
		a.write(w)
	})
}

// signed is a route for the merchant.
func (s *Server) signed(do func(query) (answer, error)) http.Handler {
	return s.open(func(q query) (answer, error) {
		secrets := []string{s.cfg.Secret, s.cfg.OldSecret}
		if err := verify(q.Header, s.cfg.Now(), secrets, []byte(q.Method), []byte(q.URL.RequestURI()), q.body); err != nil {
			return nil, no(http.StatusUnauthorized, codeBadSignature, "This request can't be trusted: %v.", err)
		}
		if m := q.Header.Get(MerchantHeader); m != s.cfg.Merchant {
			return nil, no(http.StatusForbidden, codeWrongMerchant, "This is not the sandbox of merchant %s.", quoted(m))
		}
		return do(q)
	})
}

func unreadBody(err error) error {
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return no(http.StatusRequestEntityTooLarge, codeTooLarge, "A body has %d bytes at most.", maxBody)
	}
	return no(http.StatusBadRequest, codeBadRequest, "The body can't be read.")
}

// refuse answers an error. One without a status is a fault of the sandbox.
func (s *Server) refuse(w http.ResponseWriter, err error) {
	e, ok := errors.AsType[*answerError](err)
	if !ok {
		s.log.Error("request failed", "error", err)
		e = &answerError{refusal{codeBroken, "The sandbox has a fault, which is in its log."}, http.StatusInternalServerError}
	}
	s.mu.Lock()
	s.counts.BadRequests++
	s.mu.Unlock()
	if e.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, e.status, e.refusal)
}

// asJSON is an answer of JSON.
type asJSON struct{ v any }

func (a asJSON) write(w http.ResponseWriter) { writeJSON(w, http.StatusOK, a.v) }

// writeJSON sends v. That the caller has gone is the caller's affair.
func writeJSON(w http.ResponseWriter, status int, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(raw, '\n'))
}

// readJSON reads a body strictly: what is misspelt must not be taken for what
// was left out.
func readJSON(body []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return no(http.StatusBadRequest, codeBadRequest, "The body is not the JSON that is wanted: %v.", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return no(http.StatusBadRequest, codeBadRequest, "There is something behind the body's JSON.")
	}
	return nil
}

// checkMoney refuses what is no amount to pay.
func checkMoney(m money.Money) error {
	if m.Amount <= 0 {
		return no(http.StatusBadRequest, codeBadRequest, "An amount is more than nothing, and this is %d.", m.Amount)
	}
	if !money.Valid(m.Currency) {
		return no(http.StatusBadRequest, codeBadRequest, "%s is no ISO-4217 currency.", quoted(m.Currency))
	}
	return nil
}

func checkText(name, text string) error {
	if len(text) > maxSubject || !utf8.ValidString(text) {
		return no(http.StatusBadRequest, codeBadRequest, "A %s is text of %d bytes at most.", name, maxSubject)
	}
	return nil
}

// wanted reads what a buyer's client says, as JSON or as a form.
func wanted(q query) (outcome, error) {
	var o outcome
	kind, _, _ := mime.ParseMediaType(q.Header.Get("Content-Type"))
	switch {
	case len(bytes.TrimSpace(q.body)) == 0:
	case kind == "application/x-www-form-urlencoded" && !strings.HasPrefix(string(q.body), "{"):
		form, err := url.ParseQuery(string(q.body))
		if err != nil {
			return o, no(http.StatusBadRequest, codeBadRequest, "The form can't be read.")
		}
		o.Outcome, o.form = status(form.Get("outcome")), true
	default:
		if err := readJSON(q.body, &o); err != nil {
			return o, err
		}
	}
	if o.Outcome == "" {
		o.Outcome = paid
	}
	if o.Outcome != paid && o.Outcome != failed {
		return o, no(http.StatusBadRequest, codeBadRequest, "An outcome is paid or failed, not %s.", quoted(string(o.Outcome)))
	}
	return o, nil
}
