package sandboxpay

import (
	"context"
	"fmt"
	"time"
)

// A task is something that happens by itself.
type task struct {
	do      func(s *Server, t task, now time.Time) error
	payment string
	refund  string
	window  int
}

// expect writes into the diary what becomes of a payment that nobody touches.
func (s *Server) expect(p *payment) {
	if p.status != pending {
		return
	}
	if !p.expires.IsZero() {
		s.plan(p.expires, task{do: (*Server).taskExpire, payment: p.id})
	}
	if s.cfg.AutoPay > 0 {
		s.plan(p.created.Add(s.cfg.AutoPay), task{do: (*Server).taskPay, payment: p.id})
	}
}

func (s *Server) expectRefund(p *payment, r *refund) {
	if r.status == pending {
		s.plan(r.begun.Add(s.cfg.RefundAfter), task{do: (*Server).taskRefund, payment: p.id, refund: r.key})
	}
}

func (s *Server) plan(due time.Time, t task) {
	s.diary.add(due, t)
	wake(s.wakeDiary)
}

// keepDiary does what is due until ctx ends.
func (s *Server) keepDiary(ctx context.Context) error {
	for {
		wait, err := s.nextTask()
		if err != nil {
			return err
		}
		if wait != 0 && sleep(ctx, s.wakeDiary, wait) || ctx.Err() != nil {
			return nil //nolint:nilerr // the end of the context is the end
		}
	}
}

// nextTask does one thing that is due; where nothing is, it says for how long.
func (s *Server) nextTask() (wait time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	t, wait, ok := s.diary.next(now)
	if !ok {
		return wait, nil
	}
	return 0, t.do(s, t, s.now())
}

func (s *Server) taskExpire(t task, now time.Time) error {
	return s.lapse(s.book.payments[t.payment], now)
}

// lapse fails a payment whose time is over. Whoever looks at a payment makes
// sure of it before, so that no task that is behind lets one be paid.
func (s *Server) lapse(p *payment, now time.Time) error {
	if p == nil || p.status != pending || p.expires.IsZero() || now.Before(p.expires) {
		return nil
	}
	return s.commit(record{Do: didFail, At: now, Payment: p.id, Note: "expired"})
}

func (s *Server) taskPay(t task, now time.Time) error {
	p := s.book.payments[t.payment]
	if err := s.lapse(p, now); err != nil || p.status != pending {
		return err
	}
	if s.draw("fail", p.id) < s.cfg.FailShare {
		return s.commit(record{Do: didFail, At: now, Payment: p.id, Note: "the buyer could not pay"})
	}
	return s.commit(record{Do: didPay, At: now, Payment: p.id, Trade: s.book.trade(p, now), Amount: p.asked.Amount, Currency: p.asked.Currency})
}

func (s *Server) taskRefund(t task, now time.Time) error {
	p := s.book.payments[t.payment]
	return s.settleRefund(p, p.refunds[t.refund], now)
}

// settleRefund ends a refund well, or ill for some.
func (s *Server) settleRefund(p *payment, r *refund, now time.Time) error {
	if r.status != pending {
		return nil
	}
	if s.draw("refund", p.id+"/"+r.key) < s.cfg.RefundFailShare {
		return s.commit(record{Do: didRefundFail, At: now, Payment: p.id, Refund: r.key, Note: "the buyer's bank took it not back"})
	}
	if err := s.commit(record{Do: didRefund, At: now, Payment: p.id, Refund: r.key}); err != nil {
		return fmt.Errorf("refund %s of %s: %w", r.key, p.id, err)
	}
	return nil
}
