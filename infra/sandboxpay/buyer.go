package sandboxpay

import (
	"html/template"
	"net/http"
	"strings"

	"cartwright/domain/money"
)

// An outcome is what a buyer makes of a payment.
type outcome struct {
	Outcome  status `json:"outcome"`
	Amount   int64  `json:"amount"`   // another than was asked for, if not 0
	Currency string `json:"currency"` // likewise
	form     bool   // it was sent from the page
}

// pay makes a payment, or fails it. One that is made is answered as it stands:
// however many pay it, it is paid once.
func (s *Server) pay(q query) (answer, error) {
	o, err := wanted(q)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	p, err := s.known(q, now)
	if err != nil {
		return nil, err
	}
	total := p.asked
	if o.Amount != 0 {
		total.Amount = o.Amount
	}
	if o.Currency != "" {
		total.Currency = o.Currency
	}
	switch {
	case p.status == failed:
		err = no(http.StatusConflict, codeNotPayable, "Payment %s has ended: %s.", p.id, p.note)
	case p.status == paid:
	case o.Outcome == failed:
		err = s.commit(record{Do: didFail, At: now, Payment: p.id, Note: "the buyer did not pay"})
	default:
		if err = checkMoney(total); err == nil {
			err = s.commit(record{Do: didPay, At: now, Payment: p.id, Trade: s.book.trade(p, now), Amount: total.Amount, Currency: total.Currency})
		}
	}
	if err != nil {
		return nil, err
	}
	if o.form {
		return seeOther("/pay/" + p.id), nil
	}
	return asJSON{s.book.view(p)}, nil
}

// seeOther leads a browser back to the page.
type seeOther string

func (to seeOther) write(w http.ResponseWriter) {
	w.Header().Set("Location", string(to))
	w.WriteHeader(http.StatusSeeOther)
}

// page shows a payment to a person, or to a program that asks for JSON.
func (s *Server) page(q query) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := s.known(q, s.now())
	if err != nil {
		return nil, err
	}
	v := s.book.view(p)
	if strings.Contains(q.Header.Get("Accept"), "text/html") {
		return asPage(v), nil
	}
	return asJSON{v}, nil
}

// Money is what a payment's page shows.
func (v asPage) Money() string {
	if v.Paid != nil {
		return shown(*v.Paid)
	}
	if v.Amount == 0 {
		return "nothing"
	}
	return shown(money.Money{Amount: v.Amount, Currency: v.Currency})
}

type asPage paymentView

func (v asPage) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'")
	_ = pageTemplate.Execute(w, v) // the template is right; who has gone does not read the rest
}

var pageTemplate = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Sandbox payment {{.Payment}}</title>
<style>body{font:1.1em sans-serif;max-width:30em;margin:3em auto;padding:0 1em}button{font:inherit;padding:.5em 1em}</style>
<h1>{{.Money}}</h1>
<p>{{.Subject}}</p>
<p>Payment {{.Payment}} to {{.Merchant}} is <strong>{{.Status}}</strong>{{with .Note}}: {{.}}{{end}}.{{with .Trade}} Trade {{.}}.{{end}}</p>
{{if eq .Status "pending"}}<form method="post" action="{{.Pay}}">
<button name="outcome" value="paid">Pay</button>
<button name="outcome" value="failed">Fail</button>
</form>{{end}}
<p><small>This is a sandbox: no money moves.</small></p>
</html>
`))
