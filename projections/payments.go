package projections

import (
	"cartwright/domain/event"
	"cartwright/domain/payment"
)

// PaymentsView is the view of payments by channels, one document a payment.
func PaymentsView() View[Payment] {
	return View[Payment]{Name: "payments", Categories: []string{"payment"}, Apply: applyPayment}
}

func applyPayment(p Payment, r event.Recorded, decoded any) (Payment, error) {
	e, err := own[payment.Event](r, decoded)
	if err != nil {
		return p, err
	}
	state, err := payment.Decider.Evolve(payment.Decider.Clone(p.State), e)
	if err != nil {
		return p, err
	}
	p.State, p.ChangedAt = state, when(r)
	switch e.(type) {
	case payment.Created:
		p.CreatedAt = p.ChangedAt
	case payment.Captured:
		p.CapturedAt = p.ChangedAt
	default:
	}
	return p, nil
}
