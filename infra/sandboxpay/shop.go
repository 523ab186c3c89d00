package sandboxpay

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"cartwright/domain/money"
)

// create takes a payment. Asked for again it is found, as it stands.
func (s *Server) create(q query) (answer, error) {
	var a asked
	if err := readJSON(q.body, &a); err != nil {
		return nil, err
	}
	total := money.Money{Amount: a.Amount, Currency: a.Currency}
	if !goodPayment(a.Payment) {
		return nil, no(http.StatusBadRequest, codeBadRequest, "A payment's id has letters, digits and dashes, %d at most.", maxPayment)
	}
	if err := errors.Join(checkMoney(total), checkText("subject", a.Subject)); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	p, err := s.current(a.Payment, now)
	if err != nil {
		return nil, err
	}
	if p == nil {
		if p, err = s.begin(a, now); err != nil {
			return nil, err
		}
	}
	switch {
	case p.status == failed:
		return nil, no(http.StatusConflict, codeNotPayable, "Payment %s has ended: %s.", p.id, p.note)
	case p.asked != total:
		return nil, no(http.StatusConflict, codeOtherPayment, "Payment %s is one of %d %s.", p.id, p.asked.Amount, p.asked.Currency)
	}
	return asJSON{s.book.view(p)}, nil
}

// current gives a payment as it stands now, nil if there is none.
func (s *Server) current(id string, now time.Time) (*payment, error) {
	p := s.book.payments[id]
	return p, s.lapse(p, now)
}

func (s *Server) begin(a asked, now time.Time) (*payment, error) {
	if err := s.room(); err != nil {
		return nil, err
	}
	expires := a.Expires.UTC().Truncate(time.Millisecond)
	if a.Expires.IsZero() {
		expires = time.Time{}
	} else if !now.Before(expires) {
		return nil, no(http.StatusUnprocessableEntity, codeNotPayable, "A payment that expires at %s can't be made any more.", a.Expires.Format(time.RFC3339))
	}
	if least := now.Add(s.cfg.Faults.ExpireAfter); least.After(now) && (expires.IsZero() || least.Before(expires)) {
		expires = least
	}
	err := s.commit(record{
		Do: didCreate, At: now, Payment: a.Payment, Amount: a.Amount, Currency: a.Currency,
		Subject: a.Subject, Expires: expires,
	})
	if err != nil {
		return nil, err
	}
	p := s.book.payments[a.Payment]
	s.expect(p)
	return p, nil
}

// room refuses more payments than there may be.
func (s *Server) room() error {
	if len(s.book.payments) >= s.cfg.MaxPayments {
		return no(http.StatusServiceUnavailable, codeFull, "The sandbox has its %d payments, and takes no more.", s.cfg.MaxPayments)
	}
	return nil
}

// known gives the payment that a path names, as it stands now.
func (s *Server) known(q query, now time.Time) (*payment, error) {
	p, err := s.current(q.PathValue("id"), now)
	if p == nil && err == nil {
		err = no(http.StatusNotFound, codeUnknownPayment, "There is no payment %s.", quoted(q.PathValue("id")))
	}
	return p, err
}

func (s *Server) find(q query) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := s.known(q, s.now())
	if err != nil {
		return nil, err
	}
	return asJSON{s.book.view(p)}, nil
}

// end closes a payment that is pending, or that there is none of, so that
// nobody can make it any more. One that was made answers so.
func (s *Server) end(q query) (answer, error) {
	id := q.PathValue("id")
	if !goodPayment(id) {
		return nil, no(http.StatusBadRequest, codeBadRequest, "%s is no id of a payment.", quoted(id))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	p, err := s.current(id, now)
	if err == nil && p == nil {
		if err = s.room(); err == nil {
			err = s.commit(record{Do: didClose, At: now, Payment: id, Note: "closed before it was asked for"})
		}
	} else if err == nil && p.status == pending {
		err = s.commit(record{Do: didClose, At: now, Payment: id, Note: "closed"})
	}
	if err != nil {
		return nil, err
	}
	return asJSON{s.book.view(s.book.payments[id])}, nil
}

// refund gives money back. Asked for again under its key it is found, as it
// stands.
func (s *Server) refund(q query) (answer, error) {
	var a returning
	if err := readJSON(q.body, &a); err != nil {
		return nil, err
	}
	if !goodRefund(a.Refund) {
		return nil, no(http.StatusBadRequest, codeBadRequest, "A refund's key has letters, digits, dots and dashes, %d at most, and not dots alone.", maxRefund)
	}
	back := money.Money{Amount: a.Amount, Currency: a.Currency}
	if err := errors.Join(checkMoney(back), checkText("reason", a.Reason)); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	p, err := s.known(q, now)
	if err != nil {
		return nil, err
	}
	if p.status != paid {
		return nil, no(http.StatusConflict, codeNotPaid, "Payment %s is %s.", p.id, p.status)
	}
	r := p.refunds[a.Refund]
	if r == nil {
		if r, err = s.beginRefund(p, a, now); err != nil {
			return nil, err
		}
	}
	if r.amount != back.Amount || p.paid.Currency != back.Currency {
		return nil, no(http.StatusConflict, codeOtherRefund, "Refund %s is one of %d %s.", r.key, r.amount, p.paid.Currency)
	}
	return asJSON{s.book.viewRefund(p, r)}, nil
}

func (s *Server) beginRefund(p *payment, a returning, now time.Time) (*refund, error) {
	rest := p.paid.Amount - p.returned
	switch {
	case a.Currency != p.paid.Currency || a.Total != p.paid.Amount && a.Total != p.asked.Amount:
		return nil, no(http.StatusUnprocessableEntity, codeOtherPayment, "Payment %s is one of %d %s, not of %d %s.",
			p.id, p.paid.Amount, p.paid.Currency, a.Total, a.Currency)
	case a.Amount > rest:
		return nil, no(http.StatusUnprocessableEntity, codeTooMuch, "There are %d %s left of payment %s to give back.", rest, p.paid.Currency, p.id)
	case len(p.refunds) >= maxRefundsOfOne:
		return nil, no(http.StatusConflict, codeTooManyRefunds, "Payment %s has its %d refunds, and can't have more.", p.id, maxRefundsOfOne)
	}
	if err := s.commit(record{Do: didReturn, At: now, Payment: p.id, Refund: a.Refund, Amount: a.Amount, Note: a.Reason}); err != nil {
		return nil, err
	}
	r := p.refunds[a.Refund]
	if s.cfg.RefundAfter > 0 {
		s.expectRefund(p, r)
		return r, nil
	}
	return r, s.settleRefund(p, r, now)
}

func (s *Server) findRefund(q query) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := s.known(q, s.now())
	if err != nil {
		return nil, err
	}
	r := p.refunds[q.PathValue("key")]
	if r == nil {
		return nil, no(http.StatusNotFound, codeUnknownRefund, "Payment %s has no refund %s.", p.id, quoted(q.PathValue("key")))
	}
	return asJSON{s.book.viewRefund(p, r)}, nil
}

// A line of the bill.
type billed struct {
	at                           time.Time
	kind, trade, payment, refund string
	money.Money
}

// bill gives all that was paid, and given back, on a day of UTC that is over or
// today.
func (s *Server) bill(q query) (answer, error) {
	name, isCSV := strings.CutSuffix(q.PathValue("file"), ".csv")
	day, err := time.Parse(time.DateOnly, name)
	if err != nil || !isCSV {
		return nil, no(http.StatusBadRequest, codeBadRequest, "A bill is named like 2026-03-14.csv, not %s.", quoted(q.PathValue("file")))
	}
	if day.After(s.now()) {
		return nil, no(http.StatusNotFound, codeNoBill, "There is no bill of %s yet.", name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return asBill(s.billed(day)), nil
}

func (s *Server) billed(day time.Time) []billed {
	var all []billed
	today := func(at time.Time) bool { return at.Truncate(24 * time.Hour).Equal(day) }
	for _, p := range s.book.payments {
		if p.status != paid {
			continue
		}
		if today(p.at) {
			all = append(all, billed{p.at, "payment", p.trade, p.id, "", p.paid})
		}
		for _, r := range p.refunds {
			if r.status == succeeded && today(r.at) {
				all = append(all, billed{r.at, "refund", p.trade, p.id, r.key, money.Money{Amount: r.amount, Currency: p.paid.Currency}})
			}
		}
	}
	slices.SortFunc(all, func(a, b billed) int {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.payment, b.payment), cmp.Compare(a.refund, b.refund))
	})
	return all
}

type asBill []billed

func (b asBill) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	out := csv.NewWriter(w)
	_ = out.Write([]string{"time", "kind", "trade", "payment", "refund", "amount", "currency"})
	for _, l := range b {
		// Who has gone does not read the rest; the writer keeps the error to itself.
		_ = out.Write([]string{l.at.Format(billTime), l.kind, l.trade, l.payment, l.refund, strconv.FormatInt(l.Amount, 10), l.Currency})
	}
	out.Flush()
}

// billTime is RFC 3339 in UTC, to the millisecond.
const billTime = "2006-01-02T15:04:05.000Z"

// shown is an amount as people write it.
func shown(m money.Money) string {
	digits, _ := money.Exponent(m.Currency)
	text := fmt.Sprintf("%0*d", digits+1, m.Amount)
	if digits == 0 {
		return text + " " + m.Currency
	}
	return text[:len(text)-digits] + "." + text[len(text)-digits:] + " " + m.Currency
}
