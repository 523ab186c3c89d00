package stripepay_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cartwright/commands"
	"cartwright/domain"
	"cartwright/domain/money"
	"cartwright/infra/stripepay"
)

func returning(key string, cents int64) commands.Returning {
	return commands.Returning{Payment: "pay-0598392", Key: key, Amount: euro(cents), Total: euro(64900), Reason: "sold out"}
}

func bought(t *testing.T, s *server) *stripepay.Client {
	t.Helper()
	c := s.client()
	if _, err := c.Ask(t.Context(), asking("pay-0598392")); err != nil {
		t.Fatal(err)
	}
	s.pay()
	return c
}

func TestARefundIsMadeOncePerKey(t *testing.T) {
	s := newServer(t)
	c := bought(t, s)
	want := commands.Notice{Kind: commands.NoticePending, Payment: "pay-0598392", Trade: "pi_1", Refund: "order-1.line-2", Money: euro(105)}
	for i := range 3 {
		got, err := c.Refund(t.Context(), returning("order-1.line-2", 105))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatalf("%v %s", err, diff)
		}
		if key := s.header.Get("Idempotency-Key"); i == 0 && key != "refund-pay-0598392-order-1.line-2" { // two at once are one
			t.Errorf("the key is %q", key)
		}
	}
	meta := map[string]string{"payment": "pay-0598392", "refund": "order-1.line-2", "reason": "sold out"}
	if diff := cmp.Diff(meta, s.refunds[0]["metadata"]); diff != "" || len(s.refunds) != 1 {
		t.Errorf("%d refunds %s", len(s.refunds), diff)
	}
}

func TestARefundIsNotMadeTwiceThoughItsKeyIsForgotten(t *testing.T) {
	s := newServer(t)
	for _, c := range []*stripepay.Client{bought(t, s), s.client()} { // the second knows nothing
		if _, err := c.Refund(t.Context(), returning("r1", 100)); err != nil {
			t.Fatal(err)
		}
		s.forget()
	}
	if len(s.refunds) != 1 {
		t.Errorf("%d refunds", len(s.refunds))
	}
}

func TestARefundEndsAsStripeSays(t *testing.T) {
	for status, want := range map[string]commands.Notice{
		"succeeded":       {Kind: commands.NoticeRefunded},
		"requires_action": {Kind: commands.NoticePending},
		"failed":          {Kind: commands.NoticeRefundFailed, Note: "failed: lost_or_stolen_card"},
		"canceled":        {Kind: commands.NoticeRefundFailed, Note: "canceled: lost_or_stolen_card"},
	} {
		s := newServer(t)
		c := bought(t, s)
		if _, err := c.Refund(t.Context(), returning("r1", 100)); err != nil {
			t.Fatal(err)
		}
		s.set(s.refunds[0], "status", status)
		s.set(s.refunds[0], "failure_reason", "lost_or_stolen_card")
		want.Payment, want.Trade, want.Refund, want.Money = "pay-0598392", "pi_1", "r1", euro(100)
		got, err := c.Refund(t.Context(), returning("r1", 100))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", status, err, diff)
		}
	}
}

func TestWhoeverIsFasterMakesTheRefund(t *testing.T) {
	s := newServer(t)
	c := bought(t, s)
	s.breaks(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		s.refunds = append(s.refunds, map[string]any{ // by another process, a moment ago
			"id": "re_1", "object": "refund", "amount": int64(64900), "currency": "eur", "status": "succeeded", "payment_intent": "pi_1",
			"metadata": map[string]string{"payment": "pay-0598392", "refund": "r1"},
		})
		s.no(w, 400, "invalid_request_error", "charge_already_refunded")
		return true
	})
	if got, err := c.Refund(t.Context(), returning("r1", 64900)); err != nil || got.Kind != commands.NoticeRefunded {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestMoreThanWasPaidIsNotGivenBack(t *testing.T) {
	s := newServer(t)
	c := bought(t, s)
	if _, err := c.Refund(t.Context(), returning("r1", 64900)); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Refund(t.Context(), returning("r2", 1)); domain.CodeOf(err) != domain.Rejected || len(s.refunds) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestARefundWaitsForThePaymentToBeFound(t *testing.T) {
	s := newServer(t)
	bought(t, s)
	s.behind = true
	if got, err := s.client().Refund(t.Context(), returning("r1", 1)); domain.CodeOf(err) != domain.Unavailable {
		t.Errorf("got %v, %v", got, err)
	}
	s.behind = false
	s.set(s.intents[0], "status", "processing")
	if got, err := s.client().Refund(t.Context(), returning("r1", 1)); domain.CodeOf(err) != domain.Rejected {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestARefundThatCannotBeIsNotMade(t *testing.T) {
	s := newServer(t)
	dollar := money.Money{Amount: 1, Currency: "USD"}
	for name, r := range map[string]commands.Returning{
		"more than was paid": returning("r1", 64901),
		"nothing":            returning("r1", 0),
		"no key":             returning("", 1),
		"a strange key":      returning("a_b", 1),
		"a long key":         returning(strings.Repeat("k", 65), 1),
		"a strange payment":  {Payment: "p.1", Key: "r1", Amount: euro(1), Total: euro(1)},
		"two currencies":     {Payment: "p-1", Key: "r1", Amount: dollar, Total: euro(1)},
	} {
		if _, err := s.client().Refund(t.Context(), r); domain.CodeOf(err) != domain.Rejected || len(s.asked) != 0 {
			t.Errorf("%s: got %v", name, err)
		}
	}
	c := bought(t, s)
	if _, err := c.Refund(t.Context(), commands.Returning{Payment: "pay-0598392", Key: "r1", Amount: dollar, Total: dollar}); domain.CodeOf(err) != domain.Rejected || len(s.refunds) != 0 {
		t.Errorf("another currency: got %v", err)
	}
}

func TestARefundThatIsNotWholeIsNoAnswer(t *testing.T) {
	for field, value := range map[string]any{"id": "", "status": "", "amount": 0, "currency": "", "metadata": map[string]string{"payment": "other", "refund": "r1"}} {
		s := newServer(t)
		c := bought(t, s)
		if _, err := c.Refund(t.Context(), returning("r1", 1)); err != nil {
			t.Fatal(err)
		}
		s.set(s.refunds[0], field, value)
		if got, err := c.Refund(t.Context(), returning("r1", 1)); domain.CodeOf(err) != domain.Unavailable {
			t.Errorf("%s: got %v, %v", field, got, err)
		}
	}
}
